//! Debian and Ubuntu archives: releases, their indexes, and the packages that those name.
//!
//! Paths: `N/` and what an archive has, for the host's N-th archive. A release is passed on as it is, since its signature is for the
//! package manager inside to check; everything else must be named by a release, or by an index that a release names, and must have
//! the digest that is stated there.

pub(crate) mod release;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use url::Url;

use crate::answer::{Answer, Subject, Terms};
use crate::debian::release::{Compression, Contents, Release};
use crate::digest::{Sha256Digest, Stated};
use crate::fetch::{Fetcher, FileWant, Freshness, Page, PageWant};
use crate::name;
use crate::served::Origin;
use crate::settings::{Archive, Settings};
use crate::unserved::Unserved;

/// Files that begin a release.
const RELEASES: [&str; 3] = ["InRelease", "Release", "Release.gpg"];

/// A request that has the shape of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// The beginning of a release.
    Release { archive: usize, suite: usize, file: &'static str },
    /// What a release names.
    Index { archive: usize, suite: usize, path: String },
    /// What an index names, by its path from the archive's root.
    Package { archive: usize, path: String },
}

/// The archives.
#[derive(Debug)]
pub(crate) struct Debian {
    fetcher: Arc<Fetcher>,
    archives: Vec<Archive>,
    releases: Mutex<HashMap<Sha256Digest, Arc<Release>>>,
    contents: Mutex<HashMap<Sha256Digest, Arc<Contents>>>,
}

/// The folder of a suite below its archive's root; empty for the root itself.
fn folder(suite: &str) -> String {
    match suite.strip_suffix('/') {
        Some(flat) => {
            let flat = flat.trim_matches(['.', '/']);
            if flat.is_empty() { String::new() } else { format!("{flat}/") }
        }
        None => format!("dists/{suite}/"),
    }
}

impl Debian {
    pub(crate) fn new(fetcher: Arc<Fetcher>, settings: &Settings) -> Debian {
        Debian { fetcher, archives: settings.debian.clone(), releases: Mutex::default(), contents: Mutex::default() }
    }

    /// Reads the path of a request.
    pub(crate) fn read(&self, segments: &[&str]) -> Result<Ask, Unserved> {
        let none = || Unserved::refused("the gateway has no such path");
        let (first, rest) = segments.split_first().ok_or_else(none)?;
        let archive = first.parse::<usize>().ok().filter(|archive| *archive < self.archives.len()).ok_or_else(none)?;
        self.within(archive, rest)
    }

    /// Reads the address of a request that was made in an archive's own name; `None` when no archive is there.
    pub(crate) fn read_address(&self, url: &Url, segments: &[&str]) -> Option<Result<Ask, Unserved>> {
        let mut found = None;
        for (index, archive) in self.archives.iter().enumerate().filter(|(_, archive)| archive.source.url.origin() == url.origin()) {
            let own: Vec<&str> = archive.source.url.path_segments()?.filter(|segment| !segment.is_empty()).collect();
            if let Some(rest) = segments.strip_prefix(own.as_slice()) {
                let ask = self.within(index, rest);
                // Several archives may share an address, each with suites of its own.
                if matches!(ask, Ok(Ask::Release { .. } | Ask::Index { .. })) {
                    return Some(ask);
                }
                found = found.or(Some(ask));
            }
        }
        found
    }

    fn within(&self, archive: usize, segments: &[&str]) -> Result<Ask, Unserved> {
        let segments: Vec<&str> = segments.iter().copied().filter(|segment| !matches!(*segment, "" | ".")).collect();
        if segments.is_empty() || !segments.iter().all(|segment| name::is_file(segment)) {
            return Err(Unserved::refused("the gateway has no such path"));
        }
        let path = segments.join("/");
        for (suite, name) in self.archives[archive].suites.iter().enumerate() {
            let Some(tail) = path.strip_prefix(&folder(name)) else { continue };
            if let Some(file) = RELEASES.iter().find(|file| **file == tail) {
                return Ok(Ask::Release { archive, suite, file });
            }
            // A flat archive has its packages beside its indexes.
            if !name.ends_with('/') || !tail.ends_with(".deb") {
                return Ok(Ask::Index { archive, suite, path: tail.to_owned() });
            }
        }
        Ok(Ask::Package { archive, path })
    }

    /// What a request is about.
    pub(crate) fn subject(&self, ask: &Ask) -> Subject {
        let (archive, file) = match ask {
            Ask::Release { archive, file, .. } => (archive, (*file).to_owned()),
            Ask::Index { archive, path, .. } | Ask::Package { archive, path } => {
                (archive, path.rsplit('/').next().unwrap_or_default().to_owned())
            }
        };
        let url = self.archives.get(*archive).map(|archive| &archive.source.url);
        let package = matches!(ask, Ask::Package { .. });
        Subject {
            name: if package { file.split('_').next().unwrap_or_default().to_owned() } else { String::new() },
            file,
            host: url.and_then(Url::host_str).unwrap_or_default().to_owned(),
            port: url.and_then(Url::port_or_known_default).unwrap_or(0),
            package,
        }
    }

    /// Answers.
    pub(crate) async fn answer(&self, ask: Ask, terms: Terms) -> Result<Answer, Unserved> {
        self.stood(&ask, terms).await?;
        match ask {
            Ask::Release { archive, suite, file } => {
                let page = self.begin(archive, suite, file, terms, Freshness::Current).await?;
                let bytes = self.fetcher.read(page.digest).await?;
                Ok(Answer::Document { content_type: "text/plain; charset=utf-8", tag: page.digest.to_string(), bytes })
            }
            Ask::Index { archive, suite, path } => {
                let mut found = None;
                for freshness in [Freshness::Any, Freshness::Current] {
                    found = self.release(archive, suite, terms, freshness).await?.stated(&path);
                    if found.is_some() {
                        break;
                    }
                }
                let (digest, size) = found.ok_or_else(|| Unserved::absent(format!("the release names no '{path}'")))?;
                let url = self.url(archive, &format!("{}{path}", folder(&self.archives[archive].suites[suite])))?;
                let stated = Stated::sha256(digest, Some(size));
                let found = self.fetcher.file(FileWant { url, stated, reach: terms.reach, what: path })?;
                Ok(Answer::File { found, origin: Origin::Disk })
            }
            Ask::Package { archive, path } => {
                let mut found = None;
                for freshness in [Freshness::Any, Freshness::Current] {
                    found = self.package(archive, &path, terms, freshness).await?;
                    if found.is_some() {
                        break;
                    }
                }
                let (digest, size) = found.ok_or_else(|| Unserved::refused(format!("no index of the archive names '{path}'")))?;
                let stated = Stated::sha256(digest, Some(size));
                let found = self.fetcher.file(FileWant { url: self.url(archive, &path)?, stated, reach: terms.reach, what: path })?;
                Ok(Answer::File { found, origin: Origin::Disk })
            }
        }
    }

    /// Whether an archive can answer as of the day that is asked for: it can when its releases are no younger, as those of a snapshot
    /// and of what is no longer maintained.
    async fn stood(&self, ask: &Ask, terms: Terms) -> Result<(), Unserved> {
        let Some(moment) = terms.before else { return Ok(()) };
        let (archive, suites) = match ask {
            Ask::Release { archive, suite, .. } | Ask::Index { archive, suite, .. } => (*archive, *suite..*suite + 1),
            Ask::Package { archive, .. } => (*archive, 0..self.archives[*archive].suites.len()),
        };
        for suite in suites {
            let name = &self.archives[archive].suites[suite];
            let release = self.release(archive, suite, terms, Freshness::Current).await?;
            let why = match (release.date, &release.written) {
                (Some(date), _) if date < moment => continue,
                (Some(_), Some(written)) => format!("is of {written}"),
                _ => "does not say of which day it is".to_owned(),
            };
            return Err(Unserved::failed_for_good(format!(
                "the release '{name}' {why}, and an archive keeps no earlier one; for an earlier day, apt's sources of this host must name a \
                 snapshot of the archive of that day"
            )));
        }
        Ok(())
    }

    fn url(&self, archive: usize, path: &str) -> Result<Url, Unserved> {
        let path = path.replace('%', "%25").replace('+', "%2B");
        self.archives[archive].source.url.join(&format!("./{path}")).map_err(|_| Unserved::refused("the path is malformed"))
    }

    async fn begin(&self, archive: usize, suite: usize, file: &str, terms: Terms, freshness: Freshness) -> Result<Page, Unserved> {
        let suite = &self.archives[archive].suites[suite];
        let url = self.url(archive, &format!("{}{file}", folder(suite)))?;
        let what = format!("{file} of {suite}");
        self.fetcher.page(&PageWant { url, accept: None, stated: Stated::default(), freshness, reach: terms.reach, what }).await
    }

    async fn release(&self, archive: usize, suite: usize, terms: Terms, freshness: Freshness) -> Result<Arc<Release>, Unserved> {
        let page = match self.begin(archive, suite, "InRelease", terms, freshness).await {
            Ok(page) => page,
            Err(_) => self.begin(archive, suite, "Release", terms, freshness).await?,
        };
        if let Some(known) = self.releases.lock().unwrap_or_else(PoisonError::into_inner).get(&page.digest) {
            return Ok(Arc::clone(known));
        }
        let bytes = self.fetcher.read(page.digest).await?;
        let release = Arc::new(Release::read(&String::from_utf8_lossy(&bytes)));
        self.releases.lock().unwrap_or_else(PoisonError::into_inner).insert(page.digest, Arc::clone(&release));
        Ok(release)
    }

    /// What some index of the archive states about a package.
    async fn package(
        &self,
        archive: usize,
        path: &str,
        terms: Terms,
        freshness: Freshness,
    ) -> Result<Option<(Sha256Digest, u64)>, Unserved> {
        let described = &self.archives[archive];
        for (number, suite) in described.suites.iter().enumerate() {
            let release = self.release(archive, number, terms, freshness).await?;
            for index in release.package_indexes(&described.components) {
                let Some((digest, size)) = release.stated(&index) else { continue };
                let contents = self.contents(archive, &format!("{}{index}", folder(suite)), digest, size, terms).await?;
                // A flat archive's paths begin at the archive's root, or at the suite's folder.
                let short = path.strip_prefix(&folder(suite)).unwrap_or(path);
                if let Some(found) = contents.find(path).or_else(|| contents.find(short)) {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    async fn contents(&self, archive: usize, path: &str, digest: Sha256Digest, size: u64, terms: Terms) -> Result<Arc<Contents>, Unserved> {
        if let Some(known) = self.contents.lock().unwrap_or_else(PoisonError::into_inner).get(&digest) {
            return Ok(Arc::clone(known));
        }
        let want = FileWant {
            url: self.url(archive, path)?,
            stated: Stated::sha256(digest, Some(size)),
            reach: terms.reach,
            what: path.to_owned(),
        };
        let stored = self.fetcher.whole(want).await?;
        let compression = Compression::of(path);
        let read = tokio::task::spawn_blocking(move || Contents::read(stored.file, compression)).await;
        let read = read.unwrap_or_else(|_| Err(std::io::Error::other("reading ended early")));
        let contents = Arc::new(read.map_err(|error| Unserved::failed_for_good(format!("{path} cannot be read: {error}")))?);
        self.contents.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, Arc::clone(&contents));
        Ok(contents)
    }
}
