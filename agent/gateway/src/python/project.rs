//! A project of a Python index: what its page says, in either form, and what is said of it to a step.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use html5gum::{Token, Tokenizer};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use crate::digest::Stated;
use crate::name;
use crate::settings::Millis;

/// A project as its index describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Project {
    pub versions: Vec<String>,
    pub files: Vec<ProjectFile>,
    /// `project-status` (PEP 792), passed on as it is.
    pub status: Option<Value>,
}

/// A file of a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProjectFile {
    pub name: String,
    pub url: Url,
    pub hashes: BTreeMap<String, String>,
    pub requires_python: Option<String>,
    pub size: Option<u64>,
    pub uploaded: Option<String>,
    /// `None`: not yanked; otherwise the reason, which may be empty.
    pub yanked: Option<String>,
    pub metadata: Metadata,
}

/// Whether a wheel's metadata can be had by itself (PEP 658, 714).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Metadata {
    /// No.
    #[default]
    None,
    /// Yes, with these hashes; perhaps none.
    Hashed(BTreeMap<String, String>),
}

/// Where links of a page lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Links {
    /// To the gateway's own files, relative to a page at `N/simple/NAME/`.
    Gateway,
    /// To the gateway's own files, relative to a page of links.
    Beside,
    /// Where the index has them: for a client that asked the index by its own name.
    Index,
}

/// The forms of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// PEP 691.
    Json,
    /// PEP 503, under the type of PEP 691.
    Html,
    /// PEP 503, under the type of old.
    Text,
}

impl Form {
    /// Its content type.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Form::Json => "application/vnd.pypi.simple.v1+json",
            Form::Html => "application/vnd.pypi.simple.v1+html",
            Form::Text => "text/html; charset=utf-8",
        }
    }

    /// The form that a client likes best; `None` when it likes none. Without a header it is HTML.
    pub(crate) fn accepted(accept: Option<&str>) -> Option<Form> {
        let Some(accept) = accept.filter(|text| !text.trim().is_empty()) else { return Some(Form::Text) };
        let mut best: Option<(u32, Form)> = None;
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let form = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
                "application/vnd.pypi.simple.v1+json" | "application/vnd.pypi.simple.latest+json" => Form::Json,
                "application/vnd.pypi.simple.v1+html" | "application/vnd.pypi.simple.latest+html" => Form::Html,
                "text/html" | "text/*" | "*/*" => Form::Text,
                "application/*" => Form::Json,
                _ => continue,
            };
            let quality = parts.find_map(|part| part.strip_prefix("q=")).map_or(Some(1.0), |text| text.parse::<f32>().ok());
            // In thousandths, as the header has at most three decimals.
            let quality = (quality.unwrap_or(0.0).clamp(0.0, 1.0) * 1000.0) as u32;
            if quality > best.map_or(0, |(quality, _)| quality) {
                best = Some((quality, form));
            }
        }
        best.map(|(_, form)| form)
    }
}

#[derive(Deserialize)]
struct JsonPage {
    #[serde(default)]
    versions: Vec<String>,
    files: Vec<JsonFile>,
    #[serde(rename = "project-status")]
    status: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct JsonFile {
    filename: String,
    url: String,
    #[serde(default)]
    hashes: BTreeMap<String, String>,
    #[serde(default)]
    requires_python: Option<String>,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    upload_time: Option<String>,
    #[serde(default)]
    yanked: Value,
    #[serde(default)]
    core_metadata: Value,
    #[serde(default)]
    dist_info_metadata: Value,
}

impl Project {
    /// Reads a page by its type. `at` is where it came from. Files that could not be asked for are left out.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(crate) fn read(content_type: &str, at: &Url, bytes: &[u8]) -> Result<Project, String> {
        let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if kind.ends_with("json") {
            return Project::read_json(at, bytes).map_err(|error| format!("its page is no JSON of a project: {error}"));
        }
        if kind.contains("html") || kind.is_empty() {
            return Ok(Project { files: read_links(at, bytes), ..Project::default() });
        }
        Err(format!("its page is of the type {kind}, which is neither HTML nor JSON"))
    }

    fn read_json(at: &Url, bytes: &[u8]) -> Result<Project, serde_json::Error> {
        let page: JsonPage = serde_json::from_slice(bytes)?;
        let files = page.files.into_iter().filter_map(|file| {
            let url = link(at, &file.url).filter(|_| name::is_file(&file.filename))?;
            let metadata = match (&file.core_metadata, &file.dist_info_metadata) {
                (Value::Null, other) | (other, _) => metadata(other),
            };
            Some(ProjectFile {
                name: file.filename,
                url,
                hashes: file.hashes,
                requires_python: file.requires_python.filter(|text| !text.is_empty()),
                size: file.size,
                uploaded: file.upload_time,
                yanked: match file.yanked {
                    Value::String(reason) => Some(reason),
                    Value::Bool(true) => Some(String::new()),
                    _ => None,
                },
                metadata,
            })
        });
        Ok(Project { versions: page.versions, files: files.collect(), status: page.status })
    }

    /// A file by its name.
    pub(crate) fn file(&self, name: &str) -> Option<&ProjectFile> {
        self.files.iter().find(|file| file.name == name)
    }

    /// Only what was there before a moment.
    ///
    /// # Errors
    /// The name of a file of which the index does not say since when it is there.
    pub(crate) fn before(mut self, moment: Millis) -> Result<Project, String> {
        let mut kept = Vec::with_capacity(self.files.len());
        for file in std::mem::take(&mut self.files) {
            let at = file.uploaded.as_deref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
            let Some(at) = at else { return Err(file.name) };
            if u64::try_from(at.as_millisecond()).unwrap_or(0) < moment {
                kept.push(file);
            }
        }
        self.files = kept;
        self.narrow_versions();
        Ok(self)
    }

    /// Only the files that a test picks.
    pub(crate) fn only(mut self, pick: impl Fn(&ProjectFile) -> bool) -> Project {
        self.files.retain(|file| pick(file));
        self.narrow_versions();
        self
    }

    fn narrow_versions(&mut self) {
        let files = &self.files;
        self.versions.retain(|version| {
            files.iter().any(|file| {
                name::of_python_file(&file.name).is_none_or(|(_, of_file)| of_file == version || of_file.replace('_', "-") == *version)
            })
        });
    }

    /// The page in one form.
    pub(crate) fn render(&self, project: &str, form: Form, links: Links) -> Vec<u8> {
        match form {
            Form::Json => self.json(project, links),
            Form::Html | Form::Text => self.html(project, links).into_bytes(),
        }
    }

    /// With links of [`Links::Index`], files that lie at none of these origins are led to beside the pages instead: nothing answers in
    /// the names of other hosts.
    pub(crate) fn gathered(mut self, at: &Url, origins: &[url::Origin]) -> Project {
        for file in &mut self.files {
            if !origins.contains(&file.url.origin())
                && let Ok(beside) = at.join(&format!("../../files/{}", file.name.replace('%', "%25").replace('+', "%2B")))
            {
                file.url = beside;
            }
        }
        self
    }

    fn json(&self, project: &str, links: Links) -> Vec<u8> {
        let files: Vec<Value> = self
            .files
            .iter()
            .map(|file| {
                let mut value = json!({"filename": file.name, "url": href(file, project, links), "hashes": file.hashes});
                let mut set = |key: &str, found: Option<Value>| {
                    if let Some(found) = found {
                        value[key] = found;
                    }
                };
                set("requires-python", file.requires_python.clone().map(Value::String));
                set("size", file.size.map(Value::from));
                set("upload-time", file.uploaded.clone().map(Value::String));
                set("yanked", file.yanked.clone().map(|reason| if reason.is_empty() { Value::Bool(true) } else { Value::String(reason) }));
                if let Metadata::Hashed(hashes) = &file.metadata {
                    let told = if hashes.is_empty() { Value::Bool(true) } else { json!(hashes) };
                    set("core-metadata", Some(told.clone()));
                    set("dist-info-metadata", Some(told));
                }
                value
            })
            .collect();
        // Version 1.1 promises sizes and versions, which an HTML page does not have.
        let complete = !self.versions.is_empty() && self.files.iter().all(|file| file.size.is_some());
        let mut page = json!({"meta": {"api-version": if complete { "1.1" } else { "1.0" }}, "name": project, "files": files});
        if !self.versions.is_empty() {
            page["versions"] = json!(self.versions);
        }
        if let Some(status) = &self.status {
            page["project-status"] = status.clone();
        }
        page.to_string().into_bytes()
    }

    fn html(&self, project: &str, links: Links) -> String {
        let mut text = format!(
            "<!DOCTYPE html>\n<html>\n<head>\n<meta name=\"pypi:repository-version\" content=\"1.0\">\n<title>Links for {0}</title>\n</head>\n<body>\n<h1>Links for {0}</h1>\n",
            escape(project)
        );
        for file in &self.files {
            let hash = ["sha256", "sha512", "sha384", "sha1", "md5"].iter().find_map(|name| Some((name, file.hashes.get(*name)?)));
            let fragment = hash.map(|(name, value)| format!("#{name}={value}")).unwrap_or_default();
            let _ = write!(text, "<a href=\"{}\"", escape(&format!("{}{fragment}", href(file, project, links))));
            let mut attribute = |name: &str, value: &str| {
                let _ = write!(text, " {name}=\"{}\"", escape(value));
            };
            if let Some(requires) = &file.requires_python {
                attribute("data-requires-python", requires);
            }
            if let Some(reason) = &file.yanked {
                attribute("data-yanked", reason);
            }
            if let Metadata::Hashed(hashes) = &file.metadata {
                let told = hashes.get("sha256").map_or("true".to_owned(), |value| format!("sha256={value}"));
                attribute("data-core-metadata", &told);
                attribute("data-dist-info-metadata", &told);
            }
            let _ = writeln!(text, ">{}</a><br>", escape(&file.name));
        }
        text.push_str("</body>\n</html>\n");
        text
    }
}

impl ProjectFile {
    /// What the index states about it.
    pub(crate) fn stated(&self) -> Stated {
        let mut stated = Stated::default();
        stated.size = self.size;
        self.hashes.iter().for_each(|(algorithm, text)| stated.add_hex(algorithm, text));
        stated
    }
}

fn href(file: &ProjectFile, project: &str, links: Links) -> String {
    let path = |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
    // What a file's name consists of may stand in a path, but for what begins something else there.
    let file_path = file.name.replace('%', "%25").replace('+', "%2B").replace(':', "%3A");
    match links {
        Links::Gateway => format!("../../files/{}/{file_path}", path(project).replace("%2D", "-").replace("%2E", ".").replace("%5F", "_")),
        Links::Beside => format!("files/{file_path}"),
        Links::Index => file.url.to_string(),
    }
}

fn link(at: &Url, text: &str) -> Option<Url> {
    let mut url = at.join(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())?;
    url.set_fragment(None);
    // An index may write credentials into its links; they are presented by origin, if at all.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    Some(url)
}

fn metadata(value: &Value) -> Metadata {
    match value {
        Value::Bool(true) => Metadata::Hashed(BTreeMap::new()),
        Value::Object(hashes) => {
            Metadata::Hashed(hashes.iter().filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect())
        }
        _ => Metadata::None,
    }
}

/// The links of a page to files: as PEP 503 has them, and as pip reads them anywhere.
fn read_links(at: &Url, bytes: &[u8]) -> Vec<ProjectFile> {
    let mut at = at.clone();
    let mut files = Vec::new();
    for Ok(token) in Tokenizer::new(bytes) {
        let Token::StartTag(tag) = token else { continue };
        let attribute = |name: &str| {
            let found = tag.attributes.iter().find(|(key, _)| key.as_slice() == name.as_bytes());
            found.map(|(_, value)| String::from_utf8_lossy(value.as_slice()).into_owned())
        };
        match (tag.name.as_slice(), attribute("href")) {
            (b"base", Some(href)) => at = at.join(&href).unwrap_or(at),
            (b"a", Some(href)) => {
                let Ok(whole) = at.join(href.trim()) else { continue };
                let Some(url) = link(&at, href.trim()) else { continue };
                let last = url.path_segments().and_then(Iterator::last).unwrap_or_default();
                let name = percent_encoding::percent_decode_str(last).decode_utf8_lossy().into_owned();
                if !name::is_file(&name) || name::of_python_file(&name).is_none() {
                    continue;
                }
                let hashes = whole.fragment().into_iter().flat_map(|fragment| fragment.split('&')).filter_map(|pair| pair.split_once('='));
                let hashes = hashes.filter(|(key, _)| matches!(*key, "md5" | "sha1" | "sha224" | "sha256" | "sha384" | "sha512"));
                let hashes = hashes.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
                let metadata = attribute("data-core-metadata").or_else(|| attribute("data-dist-info-metadata"));
                files.push(ProjectFile {
                    name,
                    url,
                    hashes,
                    requires_python: attribute("data-requires-python").filter(|text| !text.is_empty()),
                    size: None,
                    uploaded: None,
                    yanked: attribute("data-yanked"),
                    metadata: metadata.filter(|text| text != "false").map_or(Metadata::None, |text| {
                        Metadata::Hashed(text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().collect())
                    }),
                });
            }
            _ => {}
        }
    }
    files
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests;
