//! The npm registry: packuments, whole or abbreviated, and tarballs.
//!
//! Paths are the registry's own, since clients build them themselves from what lock files say: `NAME`, `@SCOPE/NAME` (the slash
//! also encoded), and `NAME/-/FILE.tgz`.

mod folder;
pub(crate) mod packument;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use url::Url;

use crate::answer::{Answer, Subject, Terms};
use crate::digest::{Sha256Digest, Stated};
use crate::fetch::{Fetcher, FileWant, Found, Freshness, PageWant};
use crate::name;
use crate::npm::folder::Folder;
use crate::npm::packument::{Packument, Tarball};
use crate::served::Origin;
use crate::settings::{NpmSources, Reach, Settings, Source};
use crate::unserved::Unserved;

/// The other name of the public registry, which is in lock files of one of its clients.
pub(crate) const PUBLIC_ALIAS: &str = "registry.yarnpkg.com";
/// The abbreviated form of a packument.
const ABBREVIATED: &str = "application/vnd.npm.install-v1+json";
/// Packuments whose tarballs are kept in memory.
const REMEMBERED: usize = 2048;

/// A request that has the shape of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// A packument.
    Packument { package: String },
    /// One version of it, by its number or a tag.
    Version { package: String, version: String },
    /// A tarball.
    Tarball { package: String, file: String },
    /// The registry is asked whether it is there.
    Ping,
}

/// Where tarballs of a packument lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tarballs {
    /// To the gateway, which is there.
    Gateway(SocketAddr),
    /// Where the registry has them.
    Registry,
}

/// The registries.
#[derive(Debug)]
pub(crate) struct Npm {
    fetcher: Arc<Fetcher>,
    sources: NpmSources,
    folder: Option<Arc<Folder>>,
    tarballs: Mutex<HashMap<Sha256Digest, Arc<BTreeMap<String, Tarball>>>>,
}

impl Npm {
    pub(crate) fn new(fetcher: Arc<Fetcher>, settings: &Settings) -> Npm {
        let folder = settings.npm_folder.as_deref().map(|root| Arc::new(Folder::new(root)));
        Npm { fetcher, sources: settings.npm.clone(), folder, tarballs: Mutex::default() }
    }

    /// Reads the path of a request; its segments are decoded, so that `@scope%2fname` is one.
    pub(crate) fn read(&self, segments: &[&str]) -> Result<Ask, Unserved> {
        let none = || Unserved::refused("the gateway has no such path");
        let named = |package: String| if name::is_npm(&package) { Ok(package) } else { Err(none()) };
        let scoped = |scope: &str, name: &str| named(format!("{scope}/{name}"));
        let tarball = |package: String, file: &str| match name::is_file(file) && file.ends_with(".tgz") {
            true => Ok(Ask::Tarball { package, file: file.to_owned() }),
            false => Err(none()),
        };
        match segments {
            ["-", "ping"] => Ok(Ask::Ping),
            ["-", ..] => Err(Unserved::refused("of the registry only packages pass the gateway")),
            [scope, name, "-", file] if scope.starts_with('@') => tarball(scoped(scope, name)?, file),
            // Some clients keep the scope before the file's name.
            [scope, name, "-", again, file] if scope.starts_with('@') && again == scope => tarball(scoped(scope, name)?, file),
            [package, "-", file] => tarball(named((*package).to_owned())?, file),
            [scope, name] if scope.starts_with('@') => Ok(Ask::Packument { package: scoped(scope, name)? }),
            [scope, name, version] if scope.starts_with('@') && name::is_npm_version(version) => {
                Ok(Ask::Version { package: scoped(scope, name)?, version: (*version).to_owned() })
            }
            [package, version] if name::is_npm_version(version) => {
                Ok(Ask::Version { package: named((*package).to_owned())?, version: (*version).to_owned() })
            }
            [package] => Ok(Ask::Packument { package: named((*package).to_owned())? }),
            _ => Err(none()),
        }
    }

    /// Reads the address of a request that was made in a registry's own name; `None` when no registry is there.
    pub(crate) fn read_address(&self, url: &Url, segments: &[&str]) -> Option<Result<Ask, Unserved>> {
        let mut sources = self.sources.registry.iter().chain(self.sources.scopes.values());
        if url.host_str() == Some(PUBLIC_ALIAS) {
            return sources.any(|source| source.url.host_str() == Some("registry.npmjs.org")).then(|| self.read(segments));
        }
        let source = sources.find(|source| source.url.origin() == url.origin() && url.path().starts_with(source.url.path()))?;
        let own: Vec<&str> = source.url.path_segments()?.filter(|segment| !segment.is_empty()).collect();
        Some(self.read(segments.strip_prefix(own.as_slice())?))
    }

    /// What a request is about.
    pub(crate) fn subject(&self, ask: &Ask) -> Subject {
        let (package, file) = match ask {
            Ask::Packument { package } | Ask::Version { package, .. } => (package.clone(), String::new()),
            Ask::Tarball { package, file } => (package.clone(), file.clone()),
            Ask::Ping => (String::new(), String::new()),
        };
        let url = self.source(&package).map(|source| &source.url);
        Subject {
            host: url.and_then(Url::host_str).unwrap_or_default().to_owned(),
            port: url.and_then(Url::port_or_known_default).unwrap_or(0),
            package: matches!(ask, Ask::Tarball { .. }),
            name: package,
            file,
        }
    }

    /// Answers.
    pub(crate) async fn answer(&self, ask: Ask, terms: Terms, accept: Option<&str>, tarballs: Tarballs) -> Result<Answer, Unserved> {
        match ask {
            Ask::Ping => Ok(Answer::Document { content_type: "application/json", tag: "ping".to_owned(), bytes: b"{}".to_vec() }),
            Ask::Packument { package } => {
                let short = accept.is_some_and(|accept| accept.contains(ABBREVIATED));
                let (found, digest) = self.packument(&package, terms, short, Freshness::Current).await?;
                let mut found = found;
                if terms.reach == Reach::Offline && self.folder.is_none() {
                    found.only(|tarball| self.fetcher.has_file(&tarball.url, &tarball.stated()));
                    if found.is_empty() {
                        return Err(Unserved::absent(format!("no version of '{package}' is stored, and the gateway is offline")));
                    }
                }
                if let Tarballs::Gateway(at) = tarballs {
                    found.lead_to(&format!("http://{at}"), &package);
                }
                let bytes = found.render();
                let tag = match terms.reach {
                    Reach::Offline => Sha256Digest::of(&bytes).to_string(),
                    Reach::Online => Sha256Digest::of(format!("{digest} {short} {tarballs:?} {:?}", terms.before).as_bytes()).to_string(),
                };
                let content_type = if short { ABBREVIATED } else { "application/json" };
                Ok(Answer::Document { content_type, tag, bytes })
            }
            Ask::Version { package, version } => {
                let (mut found, digest) = self.packument(&package, terms, false, Freshness::Current).await?;
                if let Tarballs::Gateway(at) = tarballs {
                    found.lead_to(&format!("http://{at}"), &package);
                }
                let absent = || Unserved::absent(format!("package '{package}' has no version '{version}'"));
                let bytes = found.version(&version).ok_or_else(absent)?;
                let tag = Sha256Digest::of(format!("{digest} {version} {tarballs:?} {:?}", terms.before).as_bytes()).to_string();
                Ok(Answer::Document { content_type: "application/json", tag, bytes })
            }
            Ask::Tarball { package, file } => {
                if let Some(folder) = self.folder.clone() {
                    let opened = tokio::task::spawn_blocking(move || folder.open(&package, &file)).await;
                    let (stored, digest) = opened.unwrap_or_else(|_| Err(Unserved::failed("reading the folder ended early")))?;
                    return Ok(Answer::File { found: Found::Stored(stored, digest), origin: Origin::Folder });
                }
                let mut found = None;
                for freshness in [Freshness::Any, Freshness::Current] {
                    found = self.tarball(&package, &file, terms, freshness).await?;
                    if found.is_some() {
                        break;
                    }
                }
                let Tarball { url, .. } =
                    found.as_ref().ok_or_else(|| Unserved::refused(format!("the registry names no file '{file}'")))?;
                let stated = found.as_ref().map(Tarball::stated).unwrap_or_default();
                let found = self.fetcher.file(FileWant { url: url.clone(), stated, reach: terms.reach, what: file })?;
                Ok(Answer::File { found, origin: Origin::Disk })
            }
        }
    }

    async fn tarball(&self, package: &str, file: &str, terms: Terms, freshness: Freshness) -> Result<Option<Tarball>, Unserved> {
        if terms.before.is_some() {
            let (found, _) = self.packument(package, terms, true, freshness).await?;
            return Ok(found.tarballs().remove(file));
        }
        // Either form will do; the one that a client has just read is stored.
        let mut page = Err(Unserved::absent(String::new()));
        for short in [true, false] {
            let stored = Terms { reach: Reach::Offline, ..terms };
            if freshness == Freshness::Any && page.is_err() {
                page = self.page(package, stored, short, freshness).await;
            }
        }
        let page = match page {
            Ok(page) => page,
            Err(_) => self.page(package, terms, true, freshness).await?,
        };
        let known = self.tarballs.lock().unwrap_or_else(PoisonError::into_inner).get(&page.digest).cloned();
        let tarballs = match known {
            Some(tarballs) => tarballs,
            None => {
                let tarballs = Arc::new(self.read_page(package, &page).await?.tarballs());
                let mut memory = self.tarballs.lock().unwrap_or_else(PoisonError::into_inner);
                if memory.len() >= REMEMBERED {
                    memory.clear();
                }
                memory.insert(page.digest, Arc::clone(&tarballs));
                tarballs
            }
        };
        Ok(tarballs.get(file).cloned())
    }

    /// A package as its registry describes it under these terms.
    async fn packument(
        &self,
        package: &str,
        terms: Terms,
        short: bool,
        freshness: Freshness,
    ) -> Result<(Packument, Sha256Digest), Unserved> {
        if let Some(folder) = self.folder.clone() {
            let source = self.source(package).ok_or_else(|| Unserved::refused("this host has no npm registry"))?;
            let (name, registry) = (package.to_owned(), source.url.clone());
            let read = tokio::task::spawn_blocking(move || folder.packument(&name, &registry)).await;
            let (mut found, digest) = read.unwrap_or_else(|_| Err(Unserved::failed("reading the folder ended early")))?;
            if terms.before.is_some() {
                return Err(Unserved::failed_for_good(
                    "a folder does not say since when it has a package, so that it cannot answer as of an earlier day",
                ));
            }
            if short {
                found.abbreviate();
            }
            return Ok((found, digest));
        }
        // Only the whole form says since when a version is there.
        let page = self.page(package, terms, short && terms.before.is_none(), freshness).await?;
        let mut found = self.read_page(package, &page).await?;
        if let Some(moment) = terms.before {
            found.before(moment).map_err(|version| {
                Unserved::failed_for_good(format!(
                    "'{package}': the registry does not say since when it has {version}, so that it cannot answer as of an earlier day"
                ))
            })?;
            if found.is_empty() {
                return Err(Unserved::absent(format!("the registry had no version of '{package}' before that day")));
            }
            if short {
                found.abbreviate();
            }
        }
        Ok((found, page.digest))
    }

    async fn page(&self, package: &str, terms: Terms, short: bool, freshness: Freshness) -> Result<crate::fetch::Page, Unserved> {
        let source = self.source(package).ok_or_else(|| Unserved::refused("this host has no npm registry"))?;
        let path = package.replace('/', "%2f");
        let url = source.url.join(&format!("./{path}")).map_err(|_| Unserved::refused("that is no name of a package"))?;
        let accept = if short { "application/vnd.npm.install-v1+json; q=1.0, application/json; q=0.8" } else { "application/json" };
        let what = format!("package '{package}'");
        let want = PageWant { url, accept: Some(accept), stated: Stated::default(), freshness, reach: terms.reach, what };
        let page = self.fetcher.page(&want).await;
        // A whole packument answers for an abbreviated one where nothing else is to be had.
        if page.is_err() && terms.reach == Reach::Offline && short {
            return self.fetcher.page(&PageWant { accept: Some("application/json"), ..want }).await;
        }
        page
    }

    async fn read_page(&self, package: &str, page: &crate::fetch::Page) -> Result<Packument, Unserved> {
        let bytes = self.fetcher.read(page.digest).await?;
        let at = page.url.clone();
        let read = tokio::task::spawn_blocking(move || Packument::read(&bytes, &at)).await;
        let wrong = |why: String| Unserved::failed_for_good(format!("package '{package}': {why}"));
        read.unwrap_or_else(|_| Err("its packument could not be read".to_owned())).map_err(wrong)
    }

    fn source(&self, package: &str) -> Option<&Source> {
        let scope = package.split_once('/').map(|(scope, _)| scope);
        scope.and_then(|scope| self.sources.scopes.get(scope)).or(self.sources.registry.as_ref())
    }
}
