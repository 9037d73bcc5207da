//! The caches of repositories: keys and digests, a record each; the content is a blob. An entry is never changed. What a run
//! may read and write follows from its trust: a tier reads its own entries and those of more trusted ones, and writes its own.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use caisson_model::cache::{CacheEntry, CacheQuery, Saved};
use caisson_model::id::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::records::{self, Records, There};

/// Where their records lie.
const FOLDER: &str = "caches";

/// The most bytes that the entries of one repository take together; the oldest give way.
pub const MOST_BYTES: u64 = 10 << 30;

/// How far a run is trusted, by the event that started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// A fork's code.
    Untrusted,
    /// A branch of the repository that is not protected.
    Internal,
    /// A protected branch.
    Protected,
}

impl Tier {
    /// The tier of a run with this `github` context.
    pub fn of(github: &Value) -> Tier {
        let head = &github["event"]["pull_request"]["head"]["repo"];
        let own = github["repository"].as_str().unwrap_or_default();
        let foreign = head["full_name"].as_str().is_some_and(|name| !name.eq_ignore_ascii_case(own)) || head["fork"] == Value::Bool(true);
        if foreign {
            Tier::Untrusted
        } else if github["ref_protected"] == Value::Bool(true) && github["event_name"] != "pull_request" {
            Tier::Protected
        } else {
            Tier::Internal
        }
    }

    fn folder(self) -> &'static str {
        match self {
            Tier::Untrusted => "untrusted",
            Tier::Internal => "internal",
            Tier::Protected => "protected",
        }
    }

    /// Its own and the more trusted ones.
    fn readable(self) -> impl Iterator<Item = Tier> {
        [Tier::Untrusted, Tier::Internal, Tier::Protected].into_iter().filter(move |tier| *tier >= self)
    }
}

/// An entry could not be saved or read.
#[derive(Debug, thiserror::Error)]
#[error("{act} the caches of {repository}")]
pub struct CacheError {
    act: &'static str,
    repository: String,
    #[source]
    source: io::Error,
}

/// All caches of a controller. Clones share them.
#[derive(Clone, Debug)]
pub struct Caches {
    records: Arc<dyn Records>,
    most: u64,
}

impl Caches {
    /// Caches by these records. A repository keeps `most` bytes.
    pub fn new(records: Arc<dyn Records>, most: u64) -> Caches {
        Caches { records, most }
    }

    /// The entry that fits best. Blocks.
    ///
    /// # Errors
    /// [`CacheError`].
    pub fn find(&self, repository: &str, tier: Tier, query: &CacheQuery) -> Result<Option<CacheEntry>, CacheError> {
        let failed = |source| CacheError { act: "read", repository: repository.to_owned(), source };
        let mut entries: Vec<CacheEntry> = Vec::new();
        for tier in tier.readable() {
            let found = records::values::<CacheEntry>(self.records.as_ref(), &format!("{}/{}", folder(repository), tier.folder()))
                .map_err(failed)?;
            entries.extend(found.into_iter().map(|(_, entry)| entry).filter(|entry| entry.version == query.version));
        }
        Ok(best(&entries, &query.keys).cloned())
    }

    /// Saves an entry, unless one of its key and version is there that the run may read. Blocks.
    ///
    /// # Errors
    /// [`CacheError`].
    pub fn save(&self, repository: &str, tier: Tier, entry: &CacheEntry) -> Result<Saved, CacheError> {
        let failed = |source| CacheError { act: "save", repository: repository.to_owned(), source };
        let base = folder(repository);
        let name = records::file_name(&[&entry.version, &entry.key]);
        let records = self.records.as_ref();
        for tier in tier.readable() {
            if records.read(&format!("{base}/{}/{name}", tier.folder())).map_err(failed)?.is_some() {
                return Ok(Saved::AlreadyThere);
            }
        }
        if !records::put(records, &format!("{base}/{}/{name}", tier.folder()), entry, There::Stays).map_err(failed)? {
            return Ok(Saved::AlreadyThere);
        }
        self.make_room(&base).map_err(failed)?;
        Ok(Saved::Saved)
    }

    /// The oldest entries of a repository go while all together are too many bytes.
    fn make_room(&self, base: &str) -> io::Result<()> {
        let mut entries: Vec<(String, CacheEntry)> = records::values(self.records.as_ref(), base)?;
        entries.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.at));
        // Content that several entries have counts once.
        let (mut total, mut counted) = (0_u64, BTreeSet::new());
        for (key, entry) in entries {
            if counted.insert(entry.digest) {
                total = total.saturating_add(entry.bytes);
            }
            if total <= self.most {
                continue;
            }
            self.records.remove(&key)?;
        }
        Ok(())
    }
}

fn folder(repository: &str) -> String {
    format!("{FOLDER}/{}", records::file_name(&[&repository.to_ascii_lowercase()]).trim_end_matches(".json"))
}

/// Keys in their order: each whole first, then as a beginning, where the newest counts.
fn best<'e>(entries: &'e [CacheEntry], keys: &[String]) -> Option<&'e CacheEntry> {
    keys.iter().find_map(|key| {
        let exact = entries.iter().filter(|entry| entry.key == *key).max_by_key(|entry| entry.at);
        exact.or_else(|| entries.iter().filter(|entry| entry.key.starts_with(key.as_str())).max_by_key(|entry| entry.at))
    })
}

/// The blobs that caches are made of, each with the time of its newest entry; entries that `stays` says no to are forgotten
/// first. Blocks.
///
/// # Errors
/// The records cannot be read or removed.
pub fn blobs(records: &dyn Records, stays: impl Fn(&CacheEntry) -> bool) -> io::Result<BTreeMap<Digest, u64>> {
    let mut found = BTreeMap::new();
    for (key, entry) in records::values::<CacheEntry>(records, FOLDER)? {
        if !stays(&entry) {
            records.remove(&key)?;
            continue;
        }
        let newest = found.entry(entry.digest).or_insert(0);
        *newest = entry.at.0.max(*newest);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use caisson_model::time::Timestamp;
    use serde_json::json;

    fn entry(key: &str, at: u64) -> CacheEntry {
        CacheEntry { key: key.to_owned(), version: "v".to_owned(), digest: Digest([at as u8; 32]), bytes: 10, at: Timestamp(at) }
    }

    fn query(keys: &[&str]) -> CacheQuery {
        CacheQuery { keys: keys.iter().map(|key| (*key).to_owned()).collect(), version: "v".to_owned() }
    }

    fn found(caches: &Caches, tier: Tier, keys: &[&str]) -> Option<String> {
        caches.find("Me/App", tier, &query(keys)).unwrap().map(|entry| entry.key)
    }

    #[test]
    fn keys_are_tried_whole_then_as_beginnings_the_newest_first() {
        let dir = tempfile::tempdir().unwrap();
        let caches = Caches::new(Arc::new(records::Files::new(dir.path().to_owned())), MOST_BYTES);
        for (key, at) in [("pip-linux-1", 1), ("pip-linux-2", 3), ("pip-linux-3", 2), ("npm-1", 9)] {
            assert_eq!(caches.save("me/app", Tier::Internal, &entry(key, at)).unwrap(), Saved::Saved);
        }
        let table = [
            (&["pip-linux-1"][..], Some("pip-linux-1")),
            (&["pip-linux-"], Some("pip-linux-2")),
            (&["pip-linux-9", "pip-linux-3", "pip-"], Some("pip-linux-3")),
            (&["pip-linux-9", "pip-", "npm-"], Some("pip-linux-2")),
            (&["pip-linux-9", "gem-"], None),
            // A beginning of an earlier key is better than a later key as a whole.
            (&["pip-linux", "npm-1"], Some("pip-linux-2")),
        ];
        for (keys, expected) in table {
            assert_eq!(found(&caches, Tier::Internal, keys).as_deref(), expected, "{keys:?}");
        }
        let other = CacheQuery { version: "w".to_owned(), ..query(&["npm-1"]) };
        assert_eq!(caches.find("me/app", Tier::Internal, &other).unwrap(), None);
        assert_eq!(caches.find("me/other", Tier::Internal, &query(&["npm-1"])).unwrap(), None);
    }

    #[test]
    fn an_entry_is_never_changed() {
        let dir = tempfile::tempdir().unwrap();
        let caches = Caches::new(Arc::new(records::Files::new(dir.path().to_owned())), MOST_BYTES);
        assert_eq!(caches.save("me/app", Tier::Internal, &entry("k", 1)).unwrap(), Saved::Saved);
        assert_eq!(caches.save("me/app", Tier::Internal, &entry("k", 2)).unwrap(), Saved::AlreadyThere);
        assert_eq!(caches.find("me/app", Tier::Internal, &query(&["k"])).unwrap().unwrap().at, Timestamp(1));
    }

    #[test]
    fn trust_flows_down_and_never_up() {
        let dir = tempfile::tempdir().unwrap();
        let caches = Caches::new(Arc::new(records::Files::new(dir.path().to_owned())), MOST_BYTES);
        caches.save("me/app", Tier::Untrusted, &entry("deps-fork", 5)).unwrap();
        caches.save("me/app", Tier::Internal, &entry("deps-branch", 4)).unwrap();
        caches.save("me/app", Tier::Protected, &entry("deps-main", 3)).unwrap();
        assert_eq!(found(&caches, Tier::Protected, &["deps-"]).as_deref(), Some("deps-main"));
        assert_eq!(found(&caches, Tier::Internal, &["deps-"]).as_deref(), Some("deps-branch"));
        assert_eq!(found(&caches, Tier::Untrusted, &["deps-"]).as_deref(), Some("deps-fork"));
        // A fork cannot take the place of what a more trusted run saved, nor be seen by one.
        assert_eq!(caches.save("me/app", Tier::Untrusted, &entry("deps-main", 9)).unwrap(), Saved::AlreadyThere);
        assert_eq!(found(&caches, Tier::Protected, &["deps-fork"]), None);
    }

    #[test]
    fn the_event_tells_the_tier() {
        let table = [
            (json!({"event_name": "push", "repository": "me/app"}), Tier::Internal),
            (json!({"event_name": "push", "repository": "me/app", "ref_protected": true}), Tier::Protected),
            (json!({"event_name": "pull_request", "repository": "me/app", "ref_protected": true}), Tier::Internal),
            (json!({"repository": "me/app", "event": {"pull_request": {"head": {"repo": {"full_name": "you/app"}}}}}), Tier::Untrusted),
            (json!({"repository": "me/app", "event": {"pull_request": {"head": {"repo": {"full_name": "Me/App"}}}}}), Tier::Internal),
            (json!({}), Tier::Internal),
        ];
        for (github, tier) in table {
            assert_eq!(Tier::of(&github), tier, "{github}");
        }
    }

    #[test]
    fn the_oldest_give_way() {
        let dir = tempfile::tempdir().unwrap();
        let caches = Caches::new(Arc::new(records::Files::new(dir.path().to_owned())), 25);
        for at in 1..=4 {
            caches.save("me/app", Tier::Internal, &entry(&format!("k{at}"), at)).unwrap();
        }
        assert_eq!(found(&caches, Tier::Internal, &["k1"]), None);
        assert_eq!(found(&caches, Tier::Internal, &["k2"]), None);
        assert_eq!(found(&caches, Tier::Internal, &["k3"]).as_deref(), Some("k3"));
        let files = records::Files::new(dir.path().to_owned());
        assert_eq!(blobs(&files, |_| true).unwrap().len(), 2);
        assert_eq!(blobs(&files, |entry| entry.at.0 > 3).unwrap().len(), 1);
        assert_eq!(found(&caches, Tier::Internal, &["k3"]), None);
    }
}
