//! Sockets. In the clear only this machine is listened to; everybody else has to speak TLS and prove who they are.

mod guard;
mod handshake;

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use caisson_proto::server::{self, Accepted, Limits, ServeError};
use futures_util::StreamExt;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;

use crate::identity::authority::AuthorityError;
use crate::identity::door::Door;
use crate::identity::peer::{Link, Peer};
use crate::identity::registry::{Registry, now};
use crate::service::Service;

/// After this a connection's other end is asked to open a new one, whose certificate is looked at again.
const AGE: Duration = Duration::from_secs(3600);

/// The controller cannot be reached at this address.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Others than this machine could connect.
    #[error(
        "listen on {0}: the connection would be neither encrypted nor authenticated; run `caisson controller init` first, or use a loopback address such as 127.0.0.1:7717"
    )]
    Exposed(SocketAddr),
    /// The address is taken or is not there.
    #[error("listen on {0}")]
    Bind(SocketAddr, #[source] std::io::Error),
    /// The controller's certificate cannot be made.
    #[error(transparent)]
    Certificate(#[from] AuthorityError),
    /// TLS does not work with that certificate.
    #[error("set up TLS")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The connections broke.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// A bound listener.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
    guard: Option<(Registry, handshake::Config)>,
}

impl Listener {
    /// Binds `address` for callers of this machine, in the clear; port 0 takes a free one.
    ///
    /// # Errors
    /// [`ListenError::Exposed`] for anything but a loopback address; [`ListenError::Bind`].
    pub async fn bind(address: SocketAddr) -> Result<Listener, ListenError> {
        if !address.ip().to_canonical().is_loopback() {
            return Err(ListenError::Exposed(address));
        }
        Listener::take(address, None).await
    }

    /// Binds any address for callers who speak TLS 1.3; port 0 takes a free one. `names` are the names and addresses under which
    /// the controller is reached.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn bind_tls(address: SocketAddr, registry: Registry, names: &[String]) -> Result<Listener, ListenError> {
        let certificate = registry.authority().server(names, now())?;
        let config = handshake::config(&registry, certificate).map_err(ListenError::Tls)?;
        Listener::take(address, Some((registry, config))).await
    }

    async fn take(address: SocketAddr, guard: Option<(Registry, handshake::Config)>) -> Result<Listener, ListenError> {
        let failed = |error| ListenError::Bind(address, error);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Listener { listener, address, guard })
    }

    /// Where it can be reached.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// As a client writes it.
    pub fn url(&self) -> String {
        let scheme = if self.guard.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Serves until `shutdown`.
    ///
    /// # Errors
    /// [`ListenError::Serve`].
    pub async fn serve(self, service: Service, shutdown: impl Future<Output = ()> + Send) -> Result<(), ListenError> {
        tracing::info!(address = %self.address, tls = self.guard.is_some(), "listening");
        match self.guard {
            None => {
                let accepted = TcpListenerStream::new(self.listener).map(|stream| {
                    let stream = stream?;
                    stream.set_nodelay(true)?;
                    let peer = Peer { address: stream.peer_addr()?, link: Link::Plain };
                    Ok(Accepted { io: stream, peer })
                });
                Ok(server::serve(Door::open(service), accepted, Limits::default(), shutdown).await?)
            }
            Some((registry, config)) => {
                let accepted = handshake::accept(self.listener, registry.clone(), config);
                let limits = Limits { age: Some(AGE), ..Limits::default() };
                Ok(server::serve(Door::guarded(service, registry), accepted, limits, shutdown).await?)
            }
        }
    }
}

/// Offers the service at a loopback `address` until `shutdown`.
///
/// # Errors
/// [`ListenError`].
pub async fn serve(service: Service, address: SocketAddr, shutdown: impl Future<Output = ()> + Send) -> Result<(), ListenError> {
    Listener::bind(address).await?.serve(service, shutdown).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn only_loopback_is_listened_on_in_the_clear() {
        for exposed in ["0.0.0.0:0", "[::]:0", "192.0.2.1:7717", "[::ffff:192.0.2.1]:0"] {
            let refused = Listener::bind(exposed.parse().unwrap()).await;
            assert!(matches!(refused, Err(ListenError::Exposed(_))), "{exposed}");
        }
        assert!(Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap().address().port() > 0);
    }
}
