//! A folder of wheels and sdists that stands in for the indexes: flat, or a mirror's tree.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use url::Url;

use crate::digest::{Check, Sha256Digest, Stated};
use crate::name;
use crate::python::project::{Metadata, Project, ProjectFile};
use crate::store::Stored;
use crate::unserved::Unserved;

/// How deep a mirror's tree is followed, and how many files are looked at.
const DEEPEST: usize = 10;
const MOST: usize = 1_000_000;

/// A file as it was when its digest was taken.
type Seen = (u64, Option<SystemTime>, Sha256Digest);

/// The folder. It is listed once.
#[derive(Debug)]
pub(crate) struct Wheelhouse {
    folder: PathBuf,
    files: OnceLock<BTreeMap<String, Vec<(String, PathBuf)>>>,
    digests: Mutex<HashMap<PathBuf, Seen>>,
}

impl Wheelhouse {
    pub(crate) fn new(folder: &Path) -> Wheelhouse {
        Wheelhouse { folder: folder.to_owned(), files: OnceLock::new(), digests: Mutex::default() }
    }

    fn files(&self) -> &BTreeMap<String, Vec<(String, PathBuf)>> {
        self.files.get_or_init(|| {
            let mut found: BTreeMap<String, Vec<(String, PathBuf)>> = BTreeMap::new();
            let entries = walkdir::WalkDir::new(&self.folder).max_depth(DEEPEST).follow_links(true).sort_by_file_name();
            for entry in entries.into_iter().filter_map(Result::ok).filter(|entry| entry.file_type().is_file()).take(MOST) {
                let Some(file) = entry.file_name().to_str().filter(|file| name::is_file(file)) else { continue };
                if let Some((project, _)) = name::of_python_file(file) {
                    let files = found.entry(project).or_default();
                    if files.iter().all(|(other, _)| other != file) {
                        files.push((file.to_owned(), entry.path().to_owned()));
                    }
                }
            }
            found
        })
    }

    /// A project's files with their digests. Blocks: reads each file once.
    pub(crate) fn project(&self, project: &str) -> Result<Project, Unserved> {
        let absent = || Unserved::absent(format!("the folder {} has no '{project}'", self.folder.display()));
        let listed = self.files().get(project).ok_or_else(absent)?;
        let mut files = Vec::new();
        for (file, path) in listed {
            let Some(((_, size), digest)) = self.digest(path) else { continue };
            let Ok(url) = Url::from_file_path(path) else { continue };
            files.push(ProjectFile {
                name: file.clone(),
                url,
                hashes: [("sha256".to_owned(), digest.to_string())].into(),
                requires_python: None,
                size: Some(size),
                uploaded: None,
                yanked: None,
                metadata: Metadata::None,
            });
        }
        let mut versions: Vec<String> =
            files.iter().filter_map(|file| Some(name::of_python_file(&file.name)?.1.replace('_', "-"))).collect();
        versions.sort();
        versions.dedup();
        Ok(Project { versions, files, status: None })
    }

    /// Opens a file by its name. Blocks.
    pub(crate) fn open(&self, file: &str) -> Result<(Stored, Sha256Digest), Unserved> {
        let absent = || Unserved::absent(format!("the folder {} has no '{file}'", self.folder.display()));
        let (project, _) = name::of_python_file(file).ok_or_else(absent)?;
        let listed = self.files().get(&project).ok_or_else(absent)?;
        let (_, path) = listed.iter().find(|(name, _)| name == file).ok_or_else(absent)?;
        let ((open, size), digest) = self.digest(path).ok_or_else(absent)?;
        Ok((Stored { file: open, size }, digest))
    }

    fn digest(&self, path: &Path) -> Option<((File, u64), Sha256Digest)> {
        let mut file = File::open(path).ok()?;
        let metadata = file.metadata().ok()?;
        let (size, modified) = (metadata.len(), metadata.modified().ok());
        let known = self.digests.lock().unwrap_or_else(PoisonError::into_inner).get(path).copied();
        if let Some((_, _, digest)) = known.filter(|(then, at, _)| *then == size && *at == modified) {
            return Some(((file, size), digest));
        }
        let mut check = Check::new(Stated::default());
        let mut buffer = vec![0; 1 << 18];
        loop {
            match file.read(&mut buffer).ok()? {
                0 => break,
                read => check.update(&buffer[..read]),
            }
        }
        let (digest, size) = check.finish().ok()?;
        self.digests.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), (size, modified, digest));
        Some(((file, size), digest))
    }
}
