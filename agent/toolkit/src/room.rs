//! What the requests of a step share.

use std::io;
use std::net::SocketAddr;

use http_body_util::{BodyExt, Limited};
use hyper::Request;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::answer::Refusal;
use crate::forms::{FormError, Places};
use crate::parcels::Parcels;
use crate::token::Token;

/// Where parcels lie: account and container, as clients split the path of a store that has an address for a name.
pub(crate) const PARCELS: &str = "/caisson/parcels/";
/// Archives that are read or packed at once.
pub(crate) const MOST_PACKING: usize = 2;
/// The longest JSON document.
const LONGEST_JSON: usize = 1 << 20;

/// What the requests of a step share.
pub(crate) struct Room<K> {
    pub(crate) keeper: K,
    pub(crate) token: Token,
    pub(crate) parcels: Parcels,
    pub(crate) places: Places,
    pub(crate) address: SocketAddr,
    pub(crate) packing: Semaphore,
}

impl<K> Room<K> {
    /// Where a parcel lies, for whoever holds its signature.
    pub(crate) fn address_of(&self, number: u64, signature: &str) -> String {
        format!("http://{}{}{number}?sig={signature}", self.address, PARCELS)
    }

    /// Does what blocks, a few at a time.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, FormError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let _slot = self.packing.acquire().await;
        let done = tokio::task::spawn_blocking(work).await.map_err(|_| Refusal::from(io::Error::other("packing broke")))?;
        done.map_err(|error| {
            let reason = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
            Refusal::malformed(reason.map(ToString::to_string).collect::<Vec<_>>().join(": "))
        })
    }
}

/// A request's body as JSON.
pub(crate) async fn json_body(request: Request<Incoming>) -> Result<Value, Refusal> {
    let body = Limited::new(request.into_body(), LONGEST_JSON).collect().await;
    let body = body.map_err(|_| Refusal::malformed("the request is broken off or too long"))?.to_bytes();
    serde_json::from_slice(&body).map_err(|_| Refusal::malformed("the request is no JSON"))
}

/// A number, which the JSON form of the protocol writes as text when it may be large.
pub(crate) fn number_of(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}
