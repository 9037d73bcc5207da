//! Small records in a folder, a JSON file each: there whole or not at all.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

/// What becomes of a record that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum There {
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
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let part = folder.join(format!("part.{}.{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)));
    let written = (|| {
        let mut file = File::create_new(&part)?;
        file.write_all(&serde_json::to_vec(record)?)?;
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

/// The folders in a folder.
pub(crate) fn folders(folder: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(entries(folder)?.into_iter().filter(|path| path.is_dir()).collect())
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
