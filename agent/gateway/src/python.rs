//! The Python simple API (PEP 503, 691, 700, 658, 714), towards the host's indexes or a folder in their place.
//!
//! Paths: `N/simple/PROJECT/` is the page of a project at the host's N-th index, `N/files/PROJECT/FILE` a file that this page
//! names, with `.metadata` after it if the page offers that; `links/N/` and `links/N/files/FILE` the same for pages of links.

pub(crate) mod project;
mod told;
mod wheelhouse;

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::StatusCode;
use url::Url;

use crate::answer::{Answer, Subject, Terms};
use crate::digest::{Sha256Digest, Stated};
use crate::fetch::{Fetcher, FileWant, Found, Freshness, PageWant};
use crate::name;
use crate::python::project::{Form, Links, Metadata, Project, ProjectFile};
use crate::python::wheelhouse::Wheelhouse;
use crate::served::Origin;
use crate::settings::{Reach, Settings, Source};
use crate::unserved::{Kind, Unserved};

/// What indexes are asked for: JSON if they have it, else HTML.
const ACCEPT: &str = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01";
/// The host of the public index's files.
pub(crate) const PUBLIC_FILES: &str = "files.pythonhosted.org";
/// Bytes of pages whose meaning is kept in memory.
const REMEMBERED: usize = 32 << 20;

/// A request that has the shape of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// A project's page.
    Page { index: usize, project: String },
    /// A page of links.
    Links { index: usize },
    /// A file, or its metadata.
    File { place: Place, file: String, part: Part },
    /// A page under another spelling of its path.
    Moved(String),
    /// What the public index tells of a project or a release beside the simple API, as some clients want it.
    Told { index: usize, project: String, release: Option<String> },
}

/// Whose page names a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A project's.
    Project { index: usize, project: String },
    /// A page of links.
    Links { index: usize },
    /// Whichever project's page has this address.
    Address { project: String, url: Url },
}

/// Which part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it.
    Whole,
    /// The metadata of a wheel.
    Metadata,
}

/// The indexes.
#[derive(Debug)]
pub(crate) struct Python {
    fetcher: Arc<Fetcher>,
    indexes: Vec<Source>,
    links: Vec<Source>,
    wheelhouse: Option<Arc<Wheelhouse>>,
    read: Mutex<Remembered>,
}

#[derive(Debug, Default)]
struct Remembered {
    projects: HashMap<(Sha256Digest, Url), Arc<Project>>,
    order: VecDeque<((Sha256Digest, Url), usize)>,
    bytes: usize,
}

impl Python {
    pub(crate) fn new(fetcher: Arc<Fetcher>, settings: &Settings) -> Python {
        let wheelhouse = settings.wheelhouse.as_deref().map(|folder: &Path| Arc::new(Wheelhouse::new(folder)));
        Python { fetcher, indexes: settings.python.clone(), links: settings.python_links.clone(), wheelhouse, read: Mutex::default() }
    }

    /// Reads the path of a request.
    pub(crate) fn read(&self, segments: &[&str]) -> Result<Ask, Unserved> {
        let none = || Unserved::refused("the gateway has no such path");
        let number = |text: &str, count: usize| text.parse::<usize>().ok().filter(|n| *n < count).ok_or_else(none);
        let file = |text: &str| {
            let (file, part) = match text.strip_suffix(".metadata") {
                Some(file) => (file, Part::Metadata),
                None => (text, Part::Whole),
            };
            name::is_file(file).then(|| (file.to_owned(), part)).ok_or_else(none)
        };
        let indexes = if self.wheelhouse.is_some() { 1 } else { self.indexes.len() };
        match segments {
            [_, "simple"] | [_, "simple", ""] => Err(Unserved::absent("the gateway has no list of all projects")),
            [index, "simple", project, rest @ ..] if rest.is_empty() || rest == [""] => {
                let index = number(index, indexes)?;
                let normal = name::python(project).ok_or_else(|| Unserved::refused("that is no name of a project"))?;
                if normal == *project && !rest.is_empty() {
                    return Ok(Ask::Page { index, project: normal });
                }
                Ok(Ask::Moved(format!("/{index}/simple/{normal}/")))
            }
            [index, "files", project, text] => {
                let index = number(index, indexes)?;
                let project = name::python(project).filter(|normal| normal == project).ok_or_else(none)?;
                let (file, part) = file(text)?;
                Ok(Ask::File { place: Place::Project { index, project }, file, part })
            }
            ["links", index] | ["links", index, ""] => Ok(Ask::Links { index: number(index, self.links.len())? }),
            ["links", index, "files", text] => {
                let (file, part) = file(text)?;
                Ok(Ask::File { place: Place::Links { index: number(index, self.links.len())? }, file, part })
            }
            _ => Err(none()),
        }
    }

    /// Reads the address of a request that was made in an index's own name; `None` when no index is there.
    pub(crate) fn read_address(&self, url: &Url, segments: &[&str]) -> Option<Result<Ask, Unserved>> {
        for (index, source) in self.indexes.iter().enumerate().filter(|(_, source)| source.url.origin() == url.origin()) {
            let own: Vec<&str> = source.url.path_segments().into_iter().flatten().filter(|segment| !segment.is_empty()).collect();
            if let Some(rest) = segments.strip_prefix(own.as_slice()) {
                let rest: Vec<&str> = rest.to_vec();
                match rest.as_slice() {
                    [] | [""] => return Some(Err(Unserved::absent("the gateway has no list of all projects"))),
                    [project] | [project, ""] if !project.is_empty() && name::of_python_file(project).is_none() => {
                        let Some(normal) = name::python(project) else {
                            return Some(Err(Unserved::refused("that is no name of a project")));
                        };
                        return Some(Ok(match normal == *project && rest.len() == 2 {
                            true => Ask::Page { index, project: normal },
                            false => Ask::Moved(format!("{}{normal}/", source.url.path())),
                        }));
                    }
                    _ => {}
                }
            }
            let release =
                |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+' | '!')).then(|| text.to_owned());
            let told = match segments {
                ["pypi", project, "json"] => name::python(project).map(|project| (project, None)),
                ["pypi", project, version, "json"] => name::python(project).zip(release(version).map(Some)),
                _ => None,
            };
            if let (Some((project, release)), "pypi.org") = (told, url.host_str().unwrap_or_default()) {
                return Some(Ok(Ask::Told { index, project, release }));
            }
        }
        if let Some(index) =
            self.links.iter().position(|source| source.url.as_str().trim_end_matches('/') == url.as_str().trim_end_matches('/'))
        {
            return Some(Ok(Ask::Links { index }));
        }
        let text = segments.last()?;
        let (file, part) = match text.strip_suffix(".metadata") {
            Some(file) => (file, Part::Metadata),
            None => (*text, Part::Whole),
        };
        let (project, _) = name::of_python_file(file).filter(|_| name::is_file(file))?;
        let mut url = url.clone();
        url.set_path(url.path().strip_suffix(".metadata").unwrap_or(url.path()).to_owned().as_str());
        Some(Ok(Ask::File { place: Place::Address { project, url }, file: file.to_owned(), part }))
    }

    /// What a request is about.
    pub(crate) fn subject(&self, ask: &Ask) -> Subject {
        let (source, name, file) = match ask {
            Ask::Page { index, project } => (self.indexes.get(*index), project.clone(), String::new()),
            Ask::Links { index } => (self.links.get(*index), String::new(), String::new()),
            Ask::File { place: Place::Project { index, project }, file, .. } => (self.indexes.get(*index), project.clone(), file.clone()),
            Ask::File { place: Place::Links { index }, file, .. } => {
                let name = name::of_python_file(file).map(|(name, _)| name).unwrap_or_default();
                (self.links.get(*index), name, file.clone())
            }
            Ask::File { place: Place::Address { project, .. }, file, .. } => (None, project.clone(), file.clone()),
            Ask::Told { index, project, .. } => (self.indexes.get(*index), project.clone(), String::new()),
            Ask::Moved(_) => (None, String::new(), String::new()),
        };
        let url = match ask {
            Ask::File { place: Place::Address { url, .. }, .. } => Some(url),
            _ => source.filter(|_| self.wheelhouse.is_none()).map(|source| &source.url),
        };
        Subject {
            name,
            file,
            host: url.and_then(Url::host_str).unwrap_or("wheelhouse").to_owned(),
            port: url.and_then(Url::port_or_known_default).unwrap_or(0),
            package: matches!(ask, Ask::File { part: Part::Whole, .. }),
        }
    }

    /// Answers.
    pub(crate) async fn answer(&self, ask: Ask, terms: Terms, accept: Option<&str>, links: Links) -> Result<Answer, Unserved> {
        match ask {
            Ask::Moved(path) => Ok(Answer::Moved(path)),
            Ask::Page { index, project } => {
                let (mut page, digest) = self.project(index, &project, terms, Freshness::Current).await?;
                if let (Links::Index, Some(source)) = (links, self.indexes.get(index)) {
                    let origins: Vec<url::Origin> =
                        self.indexes.iter().map(|source| source.url.origin()).chain(self.public_files()).collect();
                    if let Ok(at) = source.url.join(&format!("{project}/")) {
                        page = Arc::new(Project::clone(&page).gathered(&at, &origins));
                    }
                }
                self.document(&project, &page, digest, terms, accept, links)
            }
            Ask::Links { index } => {
                let (page, digest) = self.linked(index, terms, Freshness::Current).await?;
                self.document("packages", &page, digest, terms, accept, if links == Links::Gateway { Links::Beside } else { links })
            }
            Ask::File { place, file, part } => self.file(&place, &file, part, terms).await,
            Ask::Told { index, project, release } => self.told(index, &project, release, terms).await,
        }
    }

    /// Where the public index has its files, when it is one of the host's.
    fn public_files(&self) -> Option<url::Origin> {
        let public = self.indexes.iter().any(|source| source.url.host_str() == Some("pypi.org"));
        public.then(|| Url::parse(&format!("https://{PUBLIC_FILES}/")).ok().map(|url| url.origin())).flatten()
    }

    /// What the public index tells beside the simple API, as it is.
    async fn told(&self, index: usize, project: &str, release: Option<String>, terms: Terms) -> Result<Answer, Unserved> {
        if terms.before.is_some() || self.wheelhouse.is_some() {
            return self.retold(index, project, release.as_deref(), terms).await;
        }
        let source = self.indexes.get(index).ok_or_else(|| Unserved::refused("there is no such index"))?;
        let path = release.as_ref().map_or_else(|| format!("/pypi/{project}/json"), |release| format!("/pypi/{project}/{release}/json"));
        let url = source.url.join(&path).map_err(|_| Unserved::refused("that is no name of a project"))?;
        let what = format!("description of project '{project}'");
        let want = PageWant { url, accept: None, stated: Stated::default(), freshness: Freshness::Current, reach: terms.reach, what };
        let page = match self.fetcher.page(&want).await {
            Ok(page) => page,
            // An index may have the simple API and nothing else; offline, that may be all that is stored.
            Err(unserved) if unserved.kind == Kind::Absent || terms.reach == Reach::Offline => {
                return self.retold(index, project, release.as_deref(), terms).await.map_err(|_| unserved);
            }
            Err(unserved) => return Err(unserved),
        };
        let bytes = self.fetcher.read(page.digest).await?;
        Ok(Answer::Document { content_type: "application/json", tag: page.digest.to_string(), bytes })
    }

    /// The same from what the simple API says.
    async fn retold(&self, index: usize, project: &str, release: Option<&str>, terms: Terms) -> Result<Answer, Unserved> {
        let (mut page, _) = self.project(index, project, terms, Freshness::Current).await?;
        if let (true, Some(source)) = (self.wheelhouse.is_some(), self.indexes.get(index))
            && let Ok(at) = source.url.join(&format!("{project}/"))
        {
            // Where a file of the folder lies is nobody's business inside.
            page = Arc::new(Project::clone(&page).gathered(&at, &[source.url.origin()]));
        }
        let absent = || Unserved::absent(format!("project '{project}' has no such release"));
        let bytes = told::of(project, &page, release).ok_or_else(absent)?;
        Ok(Answer::Document { content_type: "application/json", tag: Sha256Digest::of(&bytes).to_string(), bytes })
    }

    fn document(
        &self,
        name: &str,
        page: &Project,
        digest: Sha256Digest,
        terms: Terms,
        accept: Option<&str>,
        links: Links,
    ) -> Result<Answer, Unserved> {
        let Some(form) = Form::accepted(accept) else {
            let reason = "projects are described in HTML and in JSON, of which the client accepts neither".to_owned();
            return Err(Unserved { status: StatusCode::NOT_ACCEPTABLE, reason, kind: Kind::Failed });
        };
        let mut narrowed = None;
        if terms.reach == Reach::Offline && self.wheelhouse.is_none() {
            // What could not be served is not offered, so that a resolver takes what is there.
            let mut stored = page.clone().only(|file| self.fetcher.has_file(&file.url, &file.stated()));
            for file in &mut stored.files {
                if let Metadata::Hashed(_) = &file.metadata
                    && metadata_of(file).is_none_or(|(url, stated)| !self.fetcher.has_file(&url, &stated))
                {
                    file.metadata = Metadata::None;
                }
            }
            narrowed = Some(stored);
        }
        let page = narrowed.as_ref().unwrap_or(page);
        if page.files.is_empty() && narrowed.is_some() {
            return Err(Unserved::absent(format!("no file of '{name}' is stored, and the gateway is offline")));
        }
        let bytes = page.render(name, form, links);
        let tag = match narrowed {
            Some(_) => Sha256Digest::of(&bytes).to_string(),
            None => Sha256Digest::of(format!("{digest} {form:?} {links:?} {:?}", terms.before).as_bytes()).to_string(),
        };
        Ok(Answer::Document { content_type: form.content_type(), tag, bytes })
    }

    async fn file(&self, place: &Place, file: &str, part: Part, terms: Terms) -> Result<Answer, Unserved> {
        if let Place::Address { project, url } = place {
            return self.file_at(project, url, file, part, terms).await;
        }
        let mut found = None;
        // Whoever asks for a file has mostly just read the page; an old page is asked again before it is believed that it does not name it.
        for freshness in [Freshness::Any, Freshness::Current] {
            let (page, _) = match place {
                Place::Project { index, project } => self.project(*index, project, terms, freshness).await?,
                Place::Links { index } => self.linked(*index, terms, freshness).await?,
                Place::Address { .. } => break,
            };
            found = page.file(file).cloned();
            if found.is_some() {
                break;
            }
        }
        let found = found.ok_or_else(|| Unserved::refused(format!("the index names no file '{file}'")))?;
        if self.wheelhouse.is_some()
            && let Place::Project { .. } = place
        {
            return self.in_folder(&found, part).await;
        }
        self.serve(&found, file, part, terms)
    }

    /// A file by the address at which an index has it, if that index names it there.
    async fn file_at(&self, project: &str, url: &Url, file: &str, part: Part, terms: Terms) -> Result<Answer, Unserved> {
        if self.wheelhouse.is_some() {
            // Whatever the address: the folder stands in for all indexes.
            let (page, _) = self.project(0, project, terms, Freshness::Current).await?;
            let found = page.file(file).ok_or_else(|| Unserved::absent(format!("the folder has no '{file}'")))?;
            return self.in_folder(found, part).await;
        }
        let mut failed = None;
        for freshness in [Freshness::Any, Freshness::Current] {
            for index in 0..self.indexes.len() {
                match self.project(index, project, terms, freshness).await {
                    Ok((page, _)) => {
                        let same = |found: &&ProjectFile| found.url.path() == url.path() && found.url.origin() == url.origin();
                        // Where a page of ours led to it.
                        let beside = self.indexes[index].url.join(&format!("../files/{}", file.replace('%', "%25").replace('+', "%2B")));
                        let led = beside.is_ok_and(|beside| beside == *url);
                        if let Some(found) = page.files.iter().find(same).or_else(|| page.file(file).filter(|_| led)) {
                            return self.serve(found, file, part, terms);
                        }
                    }
                    Err(unserved) if unserved.kind == Kind::Absent && terms.reach == Reach::Online => {}
                    Err(unserved) => failed = Some(unserved),
                }
            }
        }
        Err(failed.unwrap_or_else(|| Unserved::refused(format!("no index of this host names a file '{file}' there"))))
    }

    fn serve(&self, found: &ProjectFile, file: &str, part: Part, terms: Terms) -> Result<Answer, Unserved> {
        let (url, stated, what) = match part {
            Part::Whole => (found.url.clone(), found.stated(), file.to_owned()),
            Part::Metadata => {
                let (url, stated) =
                    metadata_of(found).ok_or_else(|| Unserved::absent(format!("the index offers no metadata of '{file}'")))?;
                (url, stated, format!("{file}.metadata"))
            }
        };
        let found = self.fetcher.file(FileWant { url, stated, reach: terms.reach, what })?;
        Ok(Answer::File { found, origin: Origin::Disk })
    }

    async fn in_folder(&self, found: &ProjectFile, part: Part) -> Result<Answer, Unserved> {
        let Some(wheelhouse) = self.wheelhouse.clone().filter(|_| part == Part::Whole) else {
            return Err(Unserved::absent("the folder has no metadata by itself"));
        };
        let name = found.name.clone();
        let opened = tokio::task::spawn_blocking(move || wheelhouse.open(&name)).await;
        let (stored, digest) = opened.unwrap_or_else(|_| Err(Unserved::failed("reading the folder ended early")))?;
        Ok(Answer::File { found: Found::Stored(stored, digest), origin: Origin::Folder })
    }

    /// A project as an index describes it under these terms, and what its page is known by.
    pub(crate) async fn project(
        &self,
        index: usize,
        project: &str,
        terms: Terms,
        freshness: Freshness,
    ) -> Result<(Arc<Project>, Sha256Digest), Unserved> {
        if let Some(wheelhouse) = &self.wheelhouse {
            let (wheelhouse, name) = (Arc::clone(wheelhouse), project.to_owned());
            let listed = tokio::task::spawn_blocking(move || wheelhouse.project(&name)).await;
            let page = listed.unwrap_or_else(|_| Err(Unserved::failed("reading the folder ended early")))?;
            let digest = Sha256Digest::of(&page.render(project, Form::Json, Links::Gateway));
            return Ok((under(Arc::new(page), terms, project)?, digest));
        }
        let source = self.indexes.get(index).ok_or_else(|| Unserved::refused("there is no such index"))?;
        let url = source.url.join(&format!("{project}/")).map_err(|_| Unserved::refused("that is no name of a project"))?;
        self.page(url, format!("project '{project}'"), terms, freshness).await
    }

    async fn linked(&self, index: usize, terms: Terms, freshness: Freshness) -> Result<(Arc<Project>, Sha256Digest), Unserved> {
        let source = self.links.get(index).ok_or_else(|| Unserved::refused("there is no such page of links"))?;
        self.page(source.url.clone(), "page of links".to_owned(), terms, freshness).await
    }

    async fn page(&self, url: Url, what: String, terms: Terms, freshness: Freshness) -> Result<(Arc<Project>, Sha256Digest), Unserved> {
        let want = PageWant { url, accept: Some(ACCEPT), stated: Stated::default(), freshness, reach: terms.reach, what: what.clone() };
        let page = self.fetcher.page(&want).await?;
        let key = (page.digest, page.url.clone());
        let known = self.read.lock().unwrap_or_else(PoisonError::into_inner).projects.get(&key).cloned();
        let project = match known {
            Some(project) => project,
            None => {
                let bytes = self.fetcher.read(page.digest).await?;
                let size = bytes.len();
                let (content_type, at) = (page.content_type.clone(), page.url.clone());
                let read = tokio::task::spawn_blocking(move || Project::read(&content_type, &at, &bytes)).await;
                let read = read.unwrap_or_else(|_| Err("its page could not be read".to_owned()));
                let project = Arc::new(read.map_err(|why| Unserved::failed_for_good(format!("{what}: {why}")))?);
                self.read.lock().unwrap_or_else(PoisonError::into_inner).keep(key, &project, size);
                project
            }
        };
        Ok((under(project, terms, &what)?, page.digest))
    }
}

impl Remembered {
    fn keep(&mut self, key: (Sha256Digest, Url), project: &Arc<Project>, bytes: usize) {
        if self.projects.insert(key.clone(), Arc::clone(project)).is_some() {
            return;
        }
        self.order.push_back((key, bytes));
        self.bytes += bytes;
        while self.bytes > REMEMBERED && self.order.len() > 1 {
            let Some((oldest, bytes)) = self.order.pop_front() else { break };
            self.projects.remove(&oldest);
            self.bytes -= bytes;
        }
    }
}

fn under(project: Arc<Project>, terms: Terms, what: &str) -> Result<Arc<Project>, Unserved> {
    let Some(moment) = terms.before else { return Ok(project) };
    let narrowed = Project::clone(&project).before(moment);
    narrowed.map(Arc::new).map_err(|file| {
        Unserved::failed_for_good(format!(
            "{what}: the index does not say since when it has {file}, so that it cannot answer as of an earlier day"
        ))
    })
}

/// Where the metadata of a wheel is and what is stated about it.
fn metadata_of(file: &ProjectFile) -> Option<(Url, Stated)> {
    let Metadata::Hashed(hashes) = &file.metadata else { return None };
    let mut url = file.url.clone();
    url.set_path(&format!("{}.metadata", file.url.path()));
    let mut stated = Stated::default();
    hashes.iter().for_each(|(algorithm, text)| stated.add_hex(algorithm, text));
    Some((url, stated))
}
