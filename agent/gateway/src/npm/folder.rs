//! A folder of npm tarballs that stands in for the registries: flat, as an offline mirror is, or a mirror's tree.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use flate2::read::GzDecoder;
use serde_json::{Map, Value, json};
use url::Url;

use crate::digest::{Check, Sha256Digest, Stated};
use crate::name;
use crate::npm::packument::Packument;
use crate::store::Stored;
use crate::unserved::Unserved;

/// How deep a tree is followed, how many files are looked at, and how large a `package.json` may be.
const DEEPEST: usize = 10;
const MOST: usize = 1_000_000;
const LONGEST: u64 = 4 << 20;

/// One version: where it is, and what its `package.json` says.
#[derive(Debug)]
struct Version {
    path: PathBuf,
    manifest: Map<String, Value>,
}

/// The folder. It is listed once.
#[derive(Debug)]
pub(crate) struct Folder {
    root: PathBuf,
    packages: OnceLock<BTreeMap<String, BTreeMap<String, Version>>>,
    digests: Mutex<HashMap<PathBuf, Sha256Digest>>,
}

impl Folder {
    pub(crate) fn new(root: &Path) -> Folder {
        Folder { root: root.to_owned(), packages: OnceLock::new(), digests: Mutex::default() }
    }

    fn packages(&self) -> &BTreeMap<String, BTreeMap<String, Version>> {
        self.packages.get_or_init(|| {
            let mut found: BTreeMap<String, BTreeMap<String, Version>> = BTreeMap::new();
            let entries = walkdir::WalkDir::new(&self.root).max_depth(DEEPEST).follow_links(true).sort_by_file_name();
            for entry in entries.into_iter().filter_map(Result::ok).filter(|entry| entry.file_type().is_file()).take(MOST) {
                if entry.path().extension().is_none_or(|extension| extension != "tgz") {
                    continue;
                }
                let Some(manifest) = manifest(entry.path()) else { continue };
                let text = |key: &str| manifest.get(key).and_then(Value::as_str).map(str::to_owned);
                let (Some(package), Some(version)) = (text("name"), text("version")) else { continue };
                if name::is_npm(&package) && name::is_npm_version(&version) {
                    let version_of = Version { path: entry.path().to_owned(), manifest };
                    found.entry(package).or_default().entry(version).or_insert(version_of);
                }
            }
            found
        })
    }

    fn versions(&self, package: &str) -> Result<&BTreeMap<String, Version>, Unserved> {
        let absent = || Unserved::absent(format!("the folder {} has no '{package}'", self.root.display()));
        self.packages().get(package).ok_or_else(absent)
    }

    /// A package as a registry at `registry` would describe it. Blocks: reads each of its tarballs once.
    pub(crate) fn packument(&self, package: &str, registry: &Url) -> Result<(Packument, Sha256Digest), Unserved> {
        let mut versions = Map::new();
        for (version, found) in self.versions(package)? {
            let Ok((_, digest)) = self.opened(&found.path) else { continue };
            let file = file(package, version);
            let mut manifest = found.manifest.clone();
            let tarball = registry.join(&format!("{package}/-/{file}")).map(|url| url.to_string()).unwrap_or_default();
            manifest.insert("dist".to_owned(), json!({"tarball": tarball, "integrity": digest.integrity()}));
            versions.insert(version.clone(), manifest.into());
        }
        let document = json!({"name": package, "dist-tags": {}, "versions": versions}).to_string();
        let digest = Sha256Digest::of(document.as_bytes());
        let mut packument = Packument::read(document.as_bytes(), registry).map_err(Unserved::failed_for_good)?;
        packument.mend_tags();
        Ok((packument, digest))
    }

    /// Opens a tarball by the name that a registry gives it. Blocks.
    pub(crate) fn open(&self, package: &str, wanted: &str) -> Result<(Stored, Sha256Digest), Unserved> {
        let absent = || Unserved::absent(format!("the folder {} has no '{wanted}'", self.root.display()));
        let (_, version) = self.versions(package)?.iter().find(|(version, _)| file(package, version) == wanted).ok_or_else(absent)?;
        self.opened(&version.path).map_err(|_| absent())
    }

    fn opened(&self, path: &Path) -> std::io::Result<(Stored, Sha256Digest)> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        let known = self.digests.lock().unwrap_or_else(PoisonError::into_inner).get(path).copied();
        if let Some(digest) = known {
            return Ok((Stored { file, size }, digest));
        }
        let mut check = Check::new(Stated::default());
        let mut buffer = vec![0; 1 << 18];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                read => check.update(&buffer[..read]),
            }
        }
        file.rewind()?;
        let (digest, size) = check.finish().map_err(std::io::Error::other)?;
        self.digests.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), digest);
        Ok((Stored { file, size }, digest))
    }
}

/// The name that a registry gives a version's tarball.
fn file(package: &str, version: &str) -> String {
    let short = package.rsplit('/').next().unwrap_or(package);
    format!("{short}-{version}.tgz")
}

/// The `package.json` of a tarball: in its only folder, whatever that is called.
fn manifest(path: &Path) -> Option<Map<String, Value>> {
    let mut archive = tar::Archive::new(GzDecoder::new(File::open(path).ok()?));
    for entry in archive.entries().ok()? {
        let entry = entry.ok()?;
        let inside = entry.path().ok()?.into_owned();
        if inside.components().count() == 2 && inside.file_name().is_some_and(|name| name == "package.json") {
            return serde_json::from_reader(entry.take(LONGEST)).ok();
        }
    }
    None
}
