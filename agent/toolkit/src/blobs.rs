//! The blob store: bytes by signed addresses, in whole or in blocks, as clients of blob stores send and fetch them.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use hyper::{Method, Request, Response, StatusCode};

use crate::answer::{self, Body, Refusal};
use crate::forms::{self, Packing};
use crate::keeper::Keeper;
use crate::parcels::Wanted;
use crate::room::Room;

/// The longest list of blocks.
const LONGEST_LIST: usize = 8 << 20;
/// The name of the one block of what was sent whole.
const WHOLE: &str = "";

/// Answers one request. `path` is what follows the prefix.
pub(crate) async fn answer<K: Keeper>(room: &Arc<Room<K>>, path: &str, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let query: Vec<(String, String)> =
        url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()).into_owned().collect();
    let text = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).unwrap_or_default();
    let number = path.parse().ok().filter(|number| room.parcels.opens(*number, text("sig")));
    let number: u64 = number.ok_or_else(|| Refusal::forbidden("the signature opens nothing here"))?;
    match (request.method().clone(), text("comp")) {
        (Method::PUT, "") => {
            let length = length(request.headers())?;
            receive(room, number, WHOLE, None, length, request.into_body()).await?;
            room.parcels.order(number, &[WHOLE.to_owned()])?;
            Ok(stored())
        }
        (Method::PUT, "block") => {
            let (name, length) = (text("blockid").to_owned(), length(request.headers())?);
            if name.is_empty() {
                return Err(Refusal::malformed("the block has no id"));
            }
            receive(room, number, &name, None, length, request.into_body()).await?;
            Ok(stored())
        }
        (Method::PUT, "blocklist") => {
            let body = Limited::new(request.into_body(), LONGEST_LIST).collect().await;
            let body = body.map_err(|_| Refusal::malformed("the list of blocks is broken off or too long"))?.to_bytes();
            let text = std::str::from_utf8(&body).map_err(|_| Refusal::malformed("the list of blocks is no text"))?;
            room.parcels.order(number, &blocks(text)?)?;
            Ok(stored())
        }
        (Method::GET | Method::HEAD, _) => send(room, number, &request).await,
        _ => Err(Refusal::malformed("the blob store does not do this")),
    }
}

fn length(headers: &HeaderMap) -> Result<u64, Refusal> {
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    length.ok_or_else(|| Refusal::malformed("the length is missing"))
}

/// As blob stores answer.
fn stored() -> Response<Body> {
    let mut response = answer::empty(StatusCode::CREATED);
    for (name, value) in
        [("etag", "\"1\""), ("x-ms-request-server-encrypted", "true"), ("x-ms-version", "2024-11-04"), ("x-ms-request-id", "caisson")]
    {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The names in a list of blocks.
fn blocks(text: &str) -> Result<Vec<String>, Refusal> {
    let mut names = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        let tag = ["Latest>", "Uncommitted>", "Committed>"].iter().find(|tag| rest.starts_with(**tag));
        if let Some(tag) = tag {
            let inside = &rest[tag.len()..];
            let end = inside.find("</").ok_or_else(|| Refusal::malformed("the list of blocks is broken off"))?;
            names.push(inside[..end].trim().to_owned());
            rest = &inside[end..];
        }
    }
    Ok(names)
}

/// Takes a piece of `length` bytes.
pub(crate) async fn receive<K: Keeper>(
    room: &Arc<Room<K>>,
    number: u64,
    name: &str,
    at: Option<u64>,
    length: u64,
    mut body: Incoming,
) -> Result<(), Refusal> {
    let place = room.parcels.room(number, at, length)?;
    let mut written = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::malformed("the piece is broken off"))?;
        let Ok(bytes) = frame.into_data() else { continue };
        if written + bytes.len() as u64 > length {
            return Err(Refusal::malformed("the piece is longer than announced"));
        }
        // Into the page cache.
        place.file.write_all_at(&bytes, place.at + written)?;
        written += bytes.len() as u64;
    }
    if written != length {
        return Err(Refusal::malformed("the piece is broken off"));
    }
    room.parcels.arrived(number, name, place.at, length)
}

async fn send<K: Keeper>(room: &Arc<Room<K>>, number: u64, request: &Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let (wanted, ready) = room.parcels.going(number).ok_or_else(|| Refusal::missing("there is no such download"))?;
    let packing = wanted.packing;
    let (file, size) = ready.get_or_try_init(|| prepare(room, wanted)).await?.clone();
    let kind = if packing == Packing::Zip { "application/zip" } else { "application/octet-stream" };
    let asked = request.headers().get(RANGE).or_else(|| request.headers().get("x-ms-range")).and_then(|value| value.to_str().ok());
    let (status, start, length) = match asked.and_then(|text| part(text, size)) {
        Some((from, to)) => (StatusCode::PARTIAL_CONTENT, from, to + 1 - from),
        None => (StatusCode::OK, 0, size),
    };
    let sent = if request.method() == Method::HEAD { 0 } else { length };
    let mut response = answer::file(status, file, kind, start, sent);
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    if status == StatusCode::PARTIAL_CONTENT
        && let Ok(value) = HeaderValue::from_str(&format!("bytes {start}-{}/{size}", start + length - 1))
    {
        response.headers_mut().insert(CONTENT_RANGE, value);
    }
    for (name, value) in [("etag", "\"1\""), ("accept-ranges", "bytes"), ("x-ms-blob-type", "BlockBlob"), ("x-ms-version", "2024-11-04")] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

/// First and last byte of a range.
fn part(text: &str, size: u64) -> Option<(u64, u64)> {
    let (from, to) = text.strip_prefix("bytes=")?.split_once('-')?;
    let from: u64 = from.parse().ok()?;
    let last = size.checked_sub(1)?;
    let to = if to.is_empty() { last } else { to.parse::<u64>().ok()?.min(last) };
    (from <= to).then_some((from, to))
}

/// Fetches what a client wants and packs it as the client does.
async fn prepare<K: Keeper>(room: &Arc<Room<K>>, wanted: Wanted) -> Result<(Arc<std::fs::File>, u64), Refusal> {
    let (content, into) = (room.parcels.file()?, room.parcels.file()?);
    room.keeper.fetch(wanted.digest, content.try_clone()?).await?;
    let places = room.places.clone();
    let pack = move || -> Result<_, forms::FormError> {
        let mut content = content;
        std::io::Seek::rewind(&mut content)?;
        match wanted.packing {
            Packing::Zip => forms::zip_of_tar(content, into),
            packing => forms::cache_of_tar(content, into, packing, &places),
        }
    };
    let file = room.blocking(pack).await?;
    let size = file.metadata()?.len();
    Ok((Arc::new(file), size))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lists_of_blocks_are_read() {
        let text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><BlockList><Latest>YQ==</Latest><Uncommitted>Yg==</Uncommitted></BlockList>";
        assert_eq!(blocks(text).unwrap(), ["YQ==", "Yg=="]);
        assert_eq!(blocks("<BlockList/>").unwrap(), Vec::<String>::new());
        assert!(blocks("<BlockList><Latest>YQ==").is_err());
    }

    #[test]
    fn ranges_lie_inside() {
        assert_eq!(part("bytes=0-9", 5), Some((0, 4)));
        assert_eq!(part("bytes=3-", 5), Some((3, 4)));
        for wrong in ["bytes=5-9", "bytes=-3", "bytes=4-2", "x", "bytes=0-0,2-3"] {
            assert_eq!(part(wrong, 5), None, "{wrong}");
        }
        assert_eq!(part("bytes=0-", 0), None);
    }
}
