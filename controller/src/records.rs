//! Small records under keys such as `artifacts/7/x.json`, JSON each: there whole or not at all. They lie in a folder, a file
//! each, or in the database that several controllers share.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

/// Where records lie. Blocks.
pub trait Records: Debug + Send + Sync + 'static {
    /// Writes a record; whether it did. When it returns, the record survives a crash.
    ///
    /// # Errors
    /// What the system says; nothing was written then.
    fn write(&self, key: &str, text: &str, there: There) -> io::Result<bool>;

    /// Reads a record; `None` when it is not there.
    ///
    /// # Errors
    /// What the system says.
    fn read(&self, key: &str) -> io::Result<Option<String>>;

    /// All records whose keys begin with `folder` and a slash, with their keys.
    ///
    /// # Errors
    /// What the system says.
    fn below(&self, folder: &str) -> io::Result<Vec<(String, String)>>;

    /// Removes a record; one that is not there is no error.
    ///
    /// # Errors
    /// What the system says.
    fn remove(&self, key: &str) -> io::Result<()>;
}

/// Records in a folder, a file each.
#[derive(Clone, Debug)]
pub struct Files(PathBuf);

impl Files {
    /// Records below `root`, which is made when the first is written.
    pub fn new(root: PathBuf) -> Files {
        Files(root)
    }
}

impl Records for Files {
    fn write(&self, key: &str, text: &str, there: There) -> io::Result<bool> {
        write_bytes(&self.0.join(key), text.as_bytes(), there)
    }

    fn read(&self, key: &str) -> io::Result<Option<String>> {
        match fs::read_to_string(self.0.join(key)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn below(&self, folder: &str) -> io::Result<Vec<(String, String)>> {
        let mut found = Vec::new();
        let mut open = vec![self.0.join(folder)];
        while let Some(folder) = open.pop() {
            for path in entries(&folder)? {
                if path.is_dir() {
                    open.push(path);
                } else if path.extension().is_some_and(|extension| extension == "json")
                    && let Ok(key) = path.strip_prefix(&self.0)
                    // One that somebody removed meanwhile is not there.
                    && let Some(text) = self.read(&key.to_string_lossy())?
                {
                    found.push((key.to_string_lossy().into_owned(), text));
                }
            }
        }
        found.sort();
        Ok(found)
    }

    fn remove(&self, key: &str) -> io::Result<()> {
        match fs::remove_file(self.0.join(key)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Writes a value as a record.
pub(crate) fn put(records: &dyn Records, key: &str, value: &impl Serialize, there: There) -> io::Result<bool> {
    records.write(key, &serde_json::to_string(value)?, there)
}

/// Reads a record as a value; `None` when it is not there.
pub(crate) fn take<R: DeserializeOwned>(records: &dyn Records, key: &str) -> io::Result<Option<R>> {
    Ok(records.read(key)?.map(|text| serde_json::from_str(&text)).transpose()?)
}

/// All records below a folder as values, with their keys.
pub(crate) fn values<R: DeserializeOwned>(records: &dyn Records, folder: &str) -> io::Result<Vec<(String, R)>> {
    let read = |(key, text): (String, String)| Ok((key, serde_json::from_str(&text)?));
    records.below(folder)?.into_iter().map(read).collect()
}

/// What becomes of a record that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum There {
    /// It stays.
    Stays,
    /// It gives way.
    GivesWay,
}

/// A file name for texts that strangers chose: a digest over all of them.
pub(crate) fn file_name(texts: &[&str]) -> String {
    let mut whole = Sha256::new();
    for text in texts {
        whole.update((text.len() as u64).to_le_bytes());
        whole.update(text);
    }
    let mut name: String = whole.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    name.push_str(".json");
    name
}

/// Writes a record; whether it did. Two that are written at once do not mix. Blocks until the disk has it.
pub(crate) fn write(path: &Path, record: &impl Serialize, there: There) -> io::Result<bool> {
    write_bytes(path, &serde_json::to_vec(record)?, there)
}

fn write_bytes(path: &Path, bytes: &[u8], there: There) -> io::Result<bool> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let part = folder.join(format!("part.{}.{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)));
    let written = (|| {
        let mut file = File::create_new(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        match there {
            There::GivesWay => fs::rename(&part, path)?,
            There::Stays => match fs::hard_link(&part, path) {
                Ok(()) => fs::remove_file(&part)?,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
                Err(error) => return Err(error),
            },
        }
        File::open(folder)?.sync_all()?;
        Ok(true)
    })();
    if !matches!(written, Ok(true)) {
        // The first error is the one to tell; a part that stays behind is never read.
        let _removed = fs::remove_file(&part);
    }
    written
}

/// Reads a record; `None` when it is not there.
pub(crate) fn read<R: DeserializeOwned>(path: &Path) -> io::Result<Option<R>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// All records of a folder with their paths; none when it is not there.
pub(crate) fn all<R: DeserializeOwned>(folder: &Path) -> io::Result<Vec<(PathBuf, R)>> {
    let mut found = Vec::new();
    for path in entries(folder)? {
        if path.extension().is_some_and(|extension| extension == "json")
            // One that somebody removed meanwhile is not there.
            && let Some(record) = read(&path)?
        {
            found.push((path, record));
        }
    }
    Ok(found)
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
