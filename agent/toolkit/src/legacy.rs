//! The cache service, first version: what older clients speak.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use crate::answer::{self, Body, Refusal};
use crate::blobs;
use crate::caches;
use crate::keeper::Keeper;
use crate::parcels::{Purpose, Wanted};
use crate::room::{Room, json_body, number_of};

/// Where it begins.
pub(crate) const PREFIX: &str = "/_apis/artifactcache/";

/// Answers one request, whose token was checked. `path` is what follows the prefix.
pub(crate) async fn answer<K: Keeper>(room: &Arc<Room<K>>, path: &str, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let query: Vec<(String, String)> =
        url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()).into_owned().collect();
    let text = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()).unwrap_or_default();
    match (request.method().clone(), path) {
        (Method::GET, "cache") => {
            let keys: Vec<String> = text("keys").split(',').map(str::to_owned).collect();
            let Some((entry, packing)) = caches::find(room, &keys, &text("version")).await? else {
                return Ok(answer::empty(StatusCode::NO_CONTENT));
            };
            let (number, signature) = room.parcels.promise(Wanted { digest: entry.digest, packing })?;
            Ok(answer::json_of(
                StatusCode::OK,
                &json!({ "cacheKey": entry.key, "scope": "", "archiveLocation": room.address_of(number, &signature) }),
            ))
        }
        // What is like a key is not told.
        (Method::GET, "caches") => Ok(answer::json_of(StatusCode::OK, &json!({ "totalCount": 0, "artifactCaches": [] }))),
        (Method::POST, "caches") => {
            let asked = json_body(request).await?;
            let word = |name: &str| asked[name].as_str().unwrap_or_default().to_owned();
            let (key, version) = caches::checked(word("key"), word("version"))?;
            if number_of(&asked["cacheSize"]).is_some_and(|size| size > room.parcels.most()) {
                return Err(Refusal::malformed(format!("a cache entry has at most {} bytes", room.parcels.most())));
            }
            match caches::reserve(room, key, version).await? {
                Some((number, _)) => Ok(answer::json_of(StatusCode::CREATED, &json!({ "cacheId": number }))),
                None => Err(Refusal::there("there is an entry of this key already; it is never changed")),
            }
        }
        (Method::PATCH, path) => {
            let number = number(path)?;
            let (from, length) = range(request.headers())?;
            blobs::receive(room, number, &from.to_string(), Some(from), length, request.into_body()).await?;
            Ok(answer::empty(StatusCode::NO_CONTENT))
        }
        (Method::POST, path) => {
            let number = number(path)?;
            let asked: Value = json_body(request).await?;
            let size = number_of(&asked["size"]).ok_or_else(|| Refusal::malformed("the size is missing"))?;
            room.parcels.settle(number, size)?;
            let (purpose, content) = room.parcels.take(|found, _| found == number)?;
            let Purpose::Cache { key, version } = purpose else { return Err(Refusal::missing("there is no such upload")) };
            caches::save(room, key, version, content).await?;
            Ok(answer::empty(StatusCode::NO_CONTENT))
        }
        _ => Err(Refusal::missing("the cache service has nothing here")),
    }
}

fn number(path: &str) -> Result<u64, Refusal> {
    path.strip_prefix("caches/").and_then(|number| number.parse().ok()).ok_or_else(|| Refusal::missing("there is no such upload"))
}

/// Where a piece begins, and how long it is: `bytes 0-199/*`.
fn range(headers: &HeaderMap) -> Result<(u64, u64), Refusal> {
    let malformed = || Refusal::malformed("the range of the piece is not understood");
    let text = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).ok_or_else(malformed)?;
    let (from, to) = text.strip_prefix("bytes ").and_then(|text| text.split('/').next()?.split_once('-')).ok_or_else(malformed)?;
    let (from, to): (u64, u64) = (from.parse().map_err(|_| malformed())?, to.parse().map_err(|_| malformed())?);
    let length = to.checked_sub(from).and_then(|length| length.checked_add(1)).ok_or_else(malformed)?;
    let announced: Option<u64> = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|announced| announced != length) {
        return Err(malformed());
    }
    Ok((from, length))
}
