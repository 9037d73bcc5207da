//! The cache service, second version: what is kept for later runs of the repository.

use std::sync::Arc;

use caisson_model::cache::{self, CacheEntry, CacheQuery, MOST_KEYS, Saved};
use serde_json::{Value, json};

use crate::answer::Refusal;
use crate::artifacts::field;
use crate::forms::{self, Packing};
use crate::keeper::Keeper;
use crate::parcels::{Assembled, Purpose, Wanted};
use crate::room::{Room, number_of};

/// The longest version.
const LONGEST_VERSION: usize = 256;

/// Answers one call.
pub(crate) async fn answer<K: Keeper>(room: &Arc<Room<K>>, method: &str, request: &Value) -> Result<Value, Refusal> {
    match method {
        "CreateCacheEntry" => {
            let (key, version) = named(request)?;
            Ok(match reserve(room, key, version).await? {
                Some((number, signature)) => json!({ "ok": true, "signed_upload_url": room.address_of(number, &signature) }),
                None => json!({ "ok": false, "message": "there is an entry of this key already; it is never changed" }),
            })
        }
        "FinalizeCacheEntryUpload" => {
            let (key, version) = named(request)?;
            let (_, content) =
                room.parcels.take(|_, purpose| matches!(purpose, Purpose::Cache { key: k, version: v } if *k == key && *v == version))?;
            let announced = number_of(field(request, "size_bytes", "sizeBytes"));
            if announced.is_some_and(|size| size != content.length()) {
                return Err(Refusal::malformed(format!("{} bytes were uploaded, and others were announced", content.length())));
            }
            // A client shows the reason as a warning.
            match save(room, key, version, content).await {
                Ok(number) => Ok(json!({ "ok": true, "entry_id": number.to_string() })),
                Err(refusal) => Ok(json!({ "ok": false, "message": format!("the cache was not saved: {}", refusal.reason) })),
            }
        }
        "GetCacheEntryDownloadURL" => {
            let (key, version) = named(request)?;
            let others = field(request, "restore_keys", "restoreKeys").as_array();
            let others = others.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
            let keys: Vec<String> = [key].into_iter().chain(others).collect();
            Ok(match find(room, &keys, &version).await? {
                Some((entry, packing)) => {
                    let (number, signature) = room.parcels.promise(Wanted { digest: entry.digest, packing })?;
                    json!({ "ok": true, "signed_download_url": room.address_of(number, &signature), "matched_key": entry.key })
                }
                None => json!({ "ok": false, "signed_download_url": "", "matched_key": "" }),
            })
        }
        _ => Err(Refusal::missing(format!("the cache service has no {method}"))),
    }
}

fn named(request: &Value) -> Result<(String, String), Refusal> {
    let text = |name: &str| request[name].as_str().unwrap_or_default().to_owned();
    checked(text("key"), text("version"))
}

/// A key and version that can be ones.
pub(crate) fn checked(key: String, version: String) -> Result<(String, String), Refusal> {
    if let Some(reason) = cache::refusal(&key) {
        return Err(Refusal::malformed(format!("the key is not valid: {reason}")));
    }
    if version.is_empty() || version.len() > LONGEST_VERSION || !version.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        return Err(Refusal::malformed("the version is not valid"));
    }
    Ok((key, version))
}

/// Begins an upload; `None` when there is an entry already.
pub(crate) async fn reserve<K: Keeper>(room: &Arc<Room<K>>, key: String, version: String) -> Result<Option<(u64, String)>, Refusal> {
    let there = find(room, std::slice::from_ref(&key), &version).await?.is_some_and(|(entry, _)| entry.key == key);
    if there {
        return Ok(None);
    }
    room.parcels.begin(Purpose::Cache { key, version }).map(Some)
}

/// The entry that fits best, and how this client packs: its version tells, since it is made of that too.
pub(crate) async fn find<K: Keeper>(room: &Arc<Room<K>>, keys: &[String], version: &str) -> Result<Option<(CacheEntry, Packing)>, Refusal> {
    if keys.len() > MOST_KEYS {
        return Err(Refusal::malformed(format!("at most {MOST_KEYS} keys are looked for")));
    }
    for key in keys {
        checked(key.clone(), version.to_owned())?;
    }
    let mut found = Vec::new();
    for packing in [Packing::Zstd, Packing::Gzip] {
        let query = CacheQuery { keys: keys.to_vec(), version: cache::version_of_clients(version, packing == Packing::Gzip) };
        found.extend(room.keeper.find_cache(query).await?);
    }
    let best = found.into_iter().reduce(|a, b| cache::better(a, b, keys));
    Ok(best.map(|entry| {
        let packing = if entry.version == cache::version_of_clients(version, true) { Packing::Gzip } else { Packing::Zstd };
        (entry, packing)
    }))
}

/// Saves what was uploaded; answers a number for it.
pub(crate) async fn save<K: Keeper>(room: &Arc<Room<K>>, key: String, version: String, content: Assembled) -> Result<u64, Refusal> {
    let (into, most, places) = (room.parcels.file()?, room.parcels.most(), room.places.clone());
    let (packed, packing) = room.blocking(move || forms::tar_of_cache(content, into, most, &places)).await?;
    let (digest, bytes) = (packed.digest, packed.bytes);
    room.keeper.put(packed).await?;
    let version = cache::version_of_clients(&version, packing == Packing::Gzip);
    match room.keeper.save_cache(key.clone(), version, digest, bytes).await? {
        Saved::Saved => Ok(caisson_model::artifact::number(&digest)),
        Saved::AlreadyThere => Err(Refusal::there(format!("another job saved the key {key} meanwhile; its entry stays"))),
    }
}
