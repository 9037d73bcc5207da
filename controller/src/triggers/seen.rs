//! Webhooks that were taken, so that none counts twice: by the forge's own number, which is not signed, and by the body, which is.
//! Kept in a file, since a replay does not wait for a controller that was not restarted. Blocks.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;

use caisson_model::time::Timestamp;

use crate::identity::token::{hex, sha256};

/// How long they are remembered: much longer than a webhook's own time may lie back.
const KEPT_MILLIS: u64 = 30 * 24 * 3600 * 1000;

/// The webhooks that were taken.
#[derive(Debug)]
pub struct Seen {
    path: PathBuf,
    keys: HashMap<String, u64>,
}

impl Seen {
    /// Reads the file at `path`; without one nothing was taken yet. Forgets what is old.
    ///
    /// # Errors
    /// The disk does not work.
    pub fn open(path: PathBuf, now: Timestamp) -> io::Result<Seen> {
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text?,
        };
        let line = |line: &str| {
            let (at, key) = line.split_once(' ')?;
            Some((key.to_owned(), at.parse().ok()?))
        };
        let keys: HashMap<String, u64> = text.lines().filter_map(line).filter(|(_, at)| at + KEPT_MILLIS > now.0).collect();
        let whole: String = keys.iter().map(|(key, at)| format!("{at} {key}\n")).collect();
        let part = path.with_extension("part");
        fs::write(&part, whole)?;
        fs::rename(&part, &path)?;
        Ok(Seen { path, keys })
    }

    /// Notes a webhook of a repository; `false` when it was taken before. When it returns `true`, that survives a crash.
    ///
    /// # Errors
    /// The disk does not work; nothing was noted then.
    pub fn take(&mut self, repository: &str, number: Option<&str>, body: &[u8], now: Timestamp) -> io::Result<bool> {
        let keys = keys(repository, number, body);
        if keys.iter().any(|key| self.keys.contains_key(key)) {
            return Ok(false);
        }
        let lines: String = keys.iter().map(|key| format!("{} {key}\n", now.0)).collect();
        let mut file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        file.write_all(lines.as_bytes())?;
        file.sync_data()?;
        self.keys.extend(keys.into_iter().map(|key| (key, now.0)));
        Ok(true)
    }

    /// Gives a webhook back that was taken and started nothing: the forge may deliver it again. After a restart it counts as taken.
    pub fn give_back(&mut self, repository: &str, number: Option<&str>, body: &[u8]) {
        for key in keys(repository, number, body) {
            self.keys.remove(&key);
        }
    }
}

/// What a webhook is known by again.
fn keys(repository: &str, number: Option<&str>, body: &[u8]) -> Vec<String> {
    let key = |kind: &str, bytes: &[u8]| format!("{kind}{}", hex(&sha256(&[repository.as_bytes(), b"\0", bytes].concat())));
    let mut keys = vec![key("b", body)];
    keys.extend(number.map(|number| key("n", number.as_bytes())));
    keys
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_webhook_counts_once_also_after_a_restart_and_under_another_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seen");
        let mut seen = Seen::open(path.clone(), Timestamp(1)).unwrap();
        assert!(seen.take("a/b", Some("1"), b"x", Timestamp(1)).unwrap());
        assert!(!seen.take("a/b", Some("1"), b"y", Timestamp(2)).unwrap());
        assert!(!seen.take("a/b", Some("2"), b"x", Timestamp(2)).unwrap());
        assert!(seen.take("a/c", Some("1"), b"x", Timestamp(2)).unwrap(), "another repository");
        seen.give_back("a/c", Some("1"), b"x");
        assert!(seen.take("a/c", Some("1"), b"x", Timestamp(2)).unwrap(), "it started nothing, and came again");
        let mut seen = Seen::open(path.clone(), Timestamp(3)).unwrap();
        assert!(!seen.take("a/b", None, b"x", Timestamp(3)).unwrap());
        let mut later = Seen::open(path, Timestamp(10 + KEPT_MILLIS)).unwrap();
        assert!(later.take("a/b", Some("1"), b"x", Timestamp(10 + KEPT_MILLIS)).unwrap());
    }
}
