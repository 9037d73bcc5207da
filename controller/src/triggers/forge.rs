//! What is asked of a forge: the workflows of a commit, the head of a branch; and what it is told: how the runs of a commit ended.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::triggers::settings::{Forge, Repository};

/// Where workflows lie.
pub const FOLDER: &str = ".github/workflows";
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest answer that is read.
const LONGEST: usize = 8 << 20;
/// The most workflows of a commit.
const MOST: usize = 100;
/// How often a status is told to a forge that does not answer.
const TRIES: u32 = 6;

/// A forge did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ForgeError {
    /// It cannot be reached.
    #[error("{0} of {1}")]
    Request(&'static str, String, #[source] reqwest::Error),
    /// It refused.
    #[error("{0} of {1}: the forge answered {2}")]
    Refused(&'static str, String, StatusCode),
    /// Its answer is not understood.
    #[error("{0} of {1}: the answer is not understood")]
    Answer(&'static str, String),
}

impl ForgeError {
    fn is_transient(&self) -> bool {
        match self {
            ForgeError::Request(..) => true,
            ForgeError::Refused(_, _, status) => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            ForgeError::Answer(..) => false,
        }
    }
}

/// What becomes of a commit, as forges know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is being looked at.
    Pending,
    /// It passed.
    Success,
    /// It did not.
    Failure,
    /// Nobody can say.
    Error,
}

/// A connection to forges. Clones share it.
#[derive(Clone, Debug)]
pub struct Forges(Client);

impl Forges {
    /// One that believes the public authorities of this system.
    ///
    /// # Errors
    /// The TLS library does not work.
    pub fn new() -> Result<Forges, reqwest::Error> {
        Client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none()).build().map(Forges)
    }

    fn request(&self, method: Method, repository: &Repository, path: &str) -> RequestBuilder {
        let request =
            self.0.request(method, format!("{}{path}", repository.api)).header(USER_AGENT, "caisson").header(ACCEPT, "application/json");
        let Some(token) = &repository.token else { return request };
        let (name, text) = match repository.forge {
            Forge::Github => (AUTHORIZATION.as_str(), format!("Bearer {token}")),
            Forge::Gitea | Forge::Forgejo => (AUTHORIZATION.as_str(), format!("token {token}")),
            Forge::Gitlab => ("private-token", token.clone()),
        };
        match HeaderValue::from_str(&text) {
            Ok(mut value) => {
                value.set_sensitive(true);
                request.header(name, value)
            }
            // A token with a line break is none; the forge will say that it wants one.
            Err(_) => request,
        }
    }

    async fn send(&self, act: &'static str, repository: &Repository, request: RequestBuilder) -> Result<(StatusCode, Vec<u8>), ForgeError> {
        let failed = |error| ForgeError::Request(act, repository.name.clone(), error);
        let mut response = request.send().await.map_err(failed)?;
        let status = response.status();
        let mut bytes = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(failed)? {
            bytes.extend_from_slice(&piece);
            if bytes.len() > LONGEST {
                return Err(ForgeError::Answer(act, repository.name.clone()));
            }
        }
        Ok((status, bytes))
    }

    async fn get(&self, act: &'static str, repository: &Repository, path: &str) -> Result<Option<Vec<u8>>, ForgeError> {
        match self.send(act, repository, self.request(Method::GET, repository, path)).await? {
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (status, bytes) if status.is_success() => Ok(Some(bytes)),
            (status, _) => Err(ForgeError::Refused(act, repository.name.clone(), status)),
        }
    }

    pub(super) async fn json(&self, act: &'static str, repository: &Repository, path: &str) -> Result<Option<Value>, ForgeError> {
        let Some(bytes) = self.get(act, repository, path).await? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|_| ForgeError::Answer(act, repository.name.clone()))
    }

    /// The workflows of a commit: file and text. None when it has none.
    ///
    /// # Errors
    /// [`ForgeError`].
    pub async fn workflows(&self, repository: &Repository, sha: &str) -> Result<Vec<(String, String)>, ForgeError> {
        const ACT: &str = "read the workflows";
        let base = base(repository);
        let listing = match repository.forge {
            Forge::Gitlab => format!("{base}/repository/tree?path={}&ref={sha}&per_page=100", escaped(FOLDER)),
            _ => format!("{base}/contents/{FOLDER}?ref={sha}"),
        };
        let Some(listing) = self.json(ACT, repository, &listing).await? else { return Ok(Vec::new()) };
        let wrong = || ForgeError::Answer(ACT, repository.name.clone());
        let names = listing.as_array().ok_or_else(wrong)?.iter().filter_map(|entry| entry["name"].as_str());
        let names = names.filter(|name| (name.ends_with(".yml") || name.ends_with(".yaml")) && !name.contains('/')).take(MOST);
        let mut found = Vec::new();
        for name in names {
            let file = format!("{FOLDER}/{name}");
            let bytes = match repository.forge {
                Forge::Gitlab => {
                    let path = format!("{base}/repository/files/{}/raw?ref={sha}", escaped(&file));
                    self.get(ACT, repository, &path).await?.ok_or_else(wrong)?
                }
                _ => {
                    let path = format!("{base}/contents/{FOLDER}/{}?ref={sha}", escaped(name));
                    let object = self.json(ACT, repository, &path).await?.ok_or_else(wrong)?;
                    // The forges break the lines of their base64.
                    let text: String = object["content"].as_str().unwrap_or_default().chars().filter(|c| !c.is_whitespace()).collect();
                    BASE64.decode(text).map_err(|_| wrong())?
                }
            };
            found.push((file, String::from_utf8(bytes).map_err(|_| wrong())?));
        }
        Ok(found)
    }

    /// The newest commit of a branch.
    ///
    /// # Errors
    /// [`ForgeError`].
    pub async fn head(&self, repository: &Repository, branch: &str) -> Result<String, ForgeError> {
        const ACT: &str = "read the branch";
        let base = base(repository);
        let path = match repository.forge {
            Forge::Gitlab => format!("{base}/repository/branches/{}", escaped(branch)),
            _ => format!("{base}/branches/{}", escaped(branch)),
        };
        let answer = self.json(ACT, repository, &path).await?;
        let commit = answer.as_ref().map(|answer| &answer["commit"]);
        let sha = commit.and_then(|commit| commit["sha"].as_str().or_else(|| commit["id"].as_str()));
        let sha = sha.filter(|sha| matches!(sha.len(), 40 | 64) && sha.bytes().all(|byte| byte.is_ascii_hexdigit()));
        sha.map(str::to_owned).ok_or_else(|| ForgeError::Answer(ACT, repository.name.clone()))
    }

    /// Tells what became of a commit; tried anew for a while when the forge does not answer.
    ///
    /// # Errors
    /// [`ForgeError`].
    pub async fn report(&self, repository: &Repository, sha: &str, context: &str, state: State, text: &str) -> Result<(), ForgeError> {
        let mut pause = Duration::from_millis(500);
        for _ in 1..TRIES {
            match self.tell(repository, sha, context, state, text).await {
                Err(error) if error.is_transient() => {
                    tokio::time::sleep(pause).await;
                    pause *= 4;
                }
                told => return told,
            }
        }
        self.tell(repository, sha, context, state, text).await
    }

    async fn tell(&self, repository: &Repository, sha: &str, context: &str, state: State, text: &str) -> Result<(), ForgeError> {
        const ACT: &str = "report the status";
        let word = match (repository.forge, state) {
            (_, State::Pending) => "pending",
            (_, State::Success) => "success",
            (Forge::Gitlab, State::Failure | State::Error) => "failed",
            (_, State::Failure) => "failure",
            (_, State::Error) => "error",
        };
        let base = base(repository);
        let body = match repository.forge {
            Forge::Gitlab => json!({ "state": word, "name": context, "description": text }),
            _ => json!({ "state": word, "context": context, "description": text }),
        };
        let request = self.request(Method::POST, repository, &format!("{base}/statuses/{sha}"));
        let (status, _) = self.send(ACT, repository, request.header(CONTENT_TYPE, "application/json").body(body.to_string())).await?;
        if status.is_success() { Ok(()) } else { Err(ForgeError::Refused(ACT, repository.name.clone(), status)) }
    }
}

pub(super) fn base(repository: &Repository) -> String {
    match repository.forge {
        Forge::Gitlab => format!("/projects/{}", escaped(&repository.name)),
        _ => format!("/repos/{}", repository.name),
    }
}

/// A text as one part of a path.
fn escaped(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}
