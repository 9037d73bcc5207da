//! The controller's settings: `controller.toml`, flags before it, defaults after it. Read whole before the first effect.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use caisson_controller::blobs::bucket::{BlobsPlace, BucketPlace};
use caisson_controller::core::event::Timing;
use caisson_controller::identity::registry::LIFETIME;
use caisson_controller::retention::Retention;
use caisson_controller::triggers::settings::{Forge, Repository};
use caisson_model::outcome::Fault;
use caisson_proto::client::DEFAULT_PORT;
use serde::Deserialize;

use crate::cli::fleet;
use crate::config::Places;
use crate::quantity;
use crate::report::Explained;

/// Everything settled.
#[derive(Clone, Debug)]
pub(crate) struct Settled {
    /// Where agents and clients connect.
    pub(crate) listen: SocketAddr,
    /// Names for the certificate beside those that it has.
    pub(crate) names: Vec<String>,
    /// Where the journal is; a SQLite database of the state directory without one.
    pub(crate) store: Option<String>,
    /// Where health, readiness and metrics are served.
    pub(crate) ops_listen: Option<SocketAddr>,
    /// Where webhooks are taken.
    pub(crate) hooks_listen: Option<SocketAddr>,
    /// Where blobs are, if not in the state directory.
    pub(crate) blobs: Option<BlobsPlace>,
    /// The bytes of blobs that are kept at most.
    pub(crate) blobs_quota: Option<u64>,
    /// How long what runs leave behind is kept.
    pub(crate) retention: Retention,
    /// How long agents' certificates live.
    pub(crate) agent_certificates: Duration,
    /// How long a lease counts without a beat of its agent, and how long the agent may come back after that.
    pub(crate) lease: (Duration, Duration),
    /// Repositories whose forges start runs.
    pub(crate) repositories: Vec<Repository>,
}

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    listen: Option<SocketAddr>,
    names: Option<Vec<String>>,
    ops_listen: Option<SocketAddr>,
    hooks_listen: Option<SocketAddr>,
    store: Option<String>,
    blobs: Option<String>,
    blobs_endpoint: Option<String>,
    blobs_region: Option<String>,
    blobs_quota: Option<String>,
    keep_logs: Option<String>,
    keep_artifacts: Option<String>,
    keep_caches: Option<String>,
    keep_sources: Option<String>,
    agent_certificates: Option<String>,
    lease_term: Option<String>,
    lease_grace: Option<String>,
    #[serde(default)]
    repository: Vec<RepositoryFile>,
}

/// `[[repository]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RepositoryFile {
    name: String,
    forge: Forge,
    api: Option<String>,
    clone: String,
    secret_file: PathBuf,
    token_file: Option<PathBuf>,
    clone_token_file: Option<PathBuf>,
    protected: Option<Vec<String>>,
    default_branch: Option<String>,
    statuses: Option<bool>,
}

/// The settings are not usable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not understood.
    #[error("{} is not a valid controller configuration\n{message}", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Line, column and reason.
        message: String,
    },
}

impl Explained for SettingsError {
    fn fault(&self) -> Fault {
        match self {
            SettingsError::Read { .. } => Fault::Environment,
            SettingsError::Parse { .. } => Fault::User,
        }
    }

    fn help(&self) -> Option<String> {
        Some("`caisson controller --print-config` prints every key with its value".to_owned())
    }
}

/// The shortest life of a certificate: renewing takes a moment.
const SHORTEST: Duration = Duration::from_secs(10);
/// The longest: what is stolen must not count for long.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// The shortest and the longest lease: beats take a moment, and what is lost must be noticed.
const SHORTEST_LEASE: Duration = Duration::from_secs(1);
const LONGEST_LEASE: Duration = Duration::from_secs(3600);

fn read(path: &Path, must_be: bool) -> Result<File, SettingsError> {
    match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).map_err(|error| SettingsError::Parse { path: path.to_owned(), message: error.to_string() }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_be => Ok(File::default()),
        Err(source) => Err(SettingsError::Read { path: path.to_owned(), source }),
    }
}

/// A secret's file, without the line break that editors add.
fn secret(path: &Path) -> Result<String, SettingsError> {
    let text = std::fs::read_to_string(path).map_err(|source| SettingsError::Read { path: path.to_owned(), source })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn repository(entry: RepositoryFile, path: &Path) -> Result<Repository, SettingsError> {
    let wrong = |reason: String| SettingsError::Parse { path: path.to_owned(), message: format!("repository {}: {reason}", entry.name) };
    let part = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    let parts = entry.name.split('/').count();
    // Groups of GitLab have groups of their own.
    if parts < 2 || (parts > 2 && entry.forge != Forge::Gitlab) || !entry.name.split('/').all(part) {
        return Err(wrong("name: write OWNER/NAME".to_owned()));
    }
    let api = match (entry.api, entry.forge) {
        (Some(api), _) => api.trim_end_matches('/').to_owned(),
        (None, Forge::Github) => "https://api.github.com".to_owned(),
        (None, Forge::Gitlab) => "https://gitlab.com/api/v4".to_owned(),
        (None, Forge::Gitea | Forge::Forgejo) => return Err(wrong("api: is needed, such as https://git.example.com/api/v1".to_owned())),
    };
    let plain = |url: &str| url.strip_prefix("http://").map(|rest| rest.split(['/', ':']).next().unwrap_or_default().to_owned());
    for (key, url) in [("api", &api), ("clone", &entry.clone)] {
        let protected = url.starts_with("https://") || plain(url).is_some_and(|host| caisson_proto::client::is_loopback(&host));
        if !protected || url.contains('@') {
            return Err(wrong(format!("{key}: is an https:// address without a user (http:// to a loopback address only)")));
        }
    }
    let secret = secret(&entry.secret_file)?;
    if secret.len() < 16 {
        return Err(wrong("secret_file: the secret has less than 16 characters".to_owned()));
    }
    let default_branch = entry.default_branch.unwrap_or_else(|| "main".to_owned());
    let protected = entry.protected.unwrap_or_else(|| vec![default_branch.clone()]);
    let pattern = |text: &String| glob::Pattern::new(text).map_err(|error| wrong(format!("protected: {text:?}: {error}")));
    let protected = protected.iter().map(pattern).collect::<Result<_, _>>()?;
    let token = entry.token_file.as_deref().map(self::secret).transpose()?;
    let clone_token = entry.clone_token_file.as_deref().map(self::secret).transpose()?;
    if clone_token.as_ref().is_some_and(|token| token.is_empty() || token.bytes().any(|byte| !byte.is_ascii_graphic())) {
        return Err(wrong("clone_token_file: it holds no token".to_owned()));
    }
    Ok(Repository {
        name: entry.name.clone(),
        forge: entry.forge,
        api,
        clone: entry.clone,
        secret: secret.into_bytes(),
        token,
        clone_token,
        protected,
        default_branch,
        statuses: entry.statuses.unwrap_or(true),
    })
}

/// A folder, or a bucket with its server and region. An error says at which key.
fn blobs_place(text: &str, endpoint: Option<String>, region: Option<String>) -> Result<BlobsPlace, (&'static str, String)> {
    if !text.contains("://") {
        return match (endpoint, region) {
            (None, None) => Ok(BlobsPlace::Folder(PathBuf::from(text))),
            _ => Err(("blobs_endpoint", "blobs_endpoint and blobs_region belong to blobs = \"s3://...\"".to_owned())),
        };
    }
    let place = BucketPlace::parse(text).ok_or(("blobs", "write a folder, or s3://BUCKET or s3://BUCKET/PREFIX".to_owned()))?;
    let environment = || ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"].into_iter().find_map(|name| std::env::var(name).ok());
    let endpoint = endpoint.or_else(environment).filter(|endpoint| !endpoint.is_empty());
    let plain = |url: &str| url.strip_prefix("http://").map(|rest| rest.split(['/', ':']).next().unwrap_or_default().to_owned());
    if let Some(url) = &endpoint
        && !url.starts_with("https://")
        && !plain(url).is_some_and(|host| caisson_proto::client::is_loopback(&host))
    {
        return Err(("blobs_endpoint", "is an https:// address (http:// to a loopback address only)".to_owned()));
    }
    Ok(BlobsPlace::Bucket(BucketPlace { endpoint, region, ..place }))
}

/// A length of time as settings write it.
fn written(span: Duration) -> String {
    match span.as_secs() {
        seconds if seconds % 86_400 == 0 => format!("{}d", seconds / 86_400),
        seconds => format!("{seconds}s"),
    }
}

impl Settled {
    /// From flags, file and defaults.
    pub(crate) fn of(arguments: &fleet::Controller, places: &Places) -> Result<Settled, SettingsError> {
        let path = arguments.config.clone().unwrap_or_else(|| places.config.join("controller.toml"));
        let file = read(&path, arguments.config.is_some())?;
        let wrong = |key: &str, reason: String| SettingsError::Parse { path: path.clone(), message: format!("{key}: {reason}") };
        let life = file.agent_certificates.as_deref().map_or(Ok(LIFETIME), quantity::lifetime);
        let agent_certificates = life.map_err(|reason| wrong("agent_certificates", reason))?;
        if !(SHORTEST..=LONGEST).contains(&agent_certificates) {
            return Err(wrong("agent_certificates", "is between 10s and 30d".to_owned()));
        }
        // The environment too: a password does not belong on a command line.
        let environment = std::env::var("CAISSON_STORE").ok().filter(|store| !store.is_empty());
        let store = arguments.store.clone().or(environment).or(file.store);
        if let Some(store) = &store
            && !["postgres://", "postgresql://"].iter().any(|scheme| store.starts_with(scheme))
        {
            return Err(wrong("store", "is written postgres://USER:PASSWORD@HOST:PORT/DATABASE".to_owned()));
        }
        let wanted = arguments.blobs.clone().or(file.blobs);
        let blobs = wanted.map(|place| blobs_place(&place, file.blobs_endpoint, file.blobs_region)).transpose();
        let blobs = blobs.map_err(|(key, reason)| wrong(key, reason))?;
        let quota = file.blobs_quota.as_deref().map(quantity::size).transpose().map_err(|reason| wrong("blobs_quota", reason))?;
        let keep = |key: &str, text: Option<&String>, otherwise| {
            text.map_or(Ok(otherwise), |text| quantity::lifetime(text)).map_err(|reason| wrong(key, reason))
        };
        let timing = Timing::default();
        let lease =
            (keep("lease_term", file.lease_term.as_ref(), timing.term)?, keep("lease_grace", file.lease_grace.as_ref(), timing.grace)?);
        for (key, span) in [("lease_term", lease.0), ("lease_grace", lease.1)] {
            if !(SHORTEST_LEASE..=LONGEST_LEASE).contains(&span) {
                return Err(wrong(key, "is between 1s and 1h".to_owned()));
            }
        }
        let default = Retention::default();
        let retention = Retention {
            logs: keep("keep_logs", file.keep_logs.as_ref(), default.logs)?,
            artifacts: keep("keep_artifacts", file.keep_artifacts.as_ref(), default.artifacts)?,
            caches: keep("keep_caches", file.keep_caches.as_ref(), default.caches)?,
            sources: keep("keep_sources", file.keep_sources.as_ref(), default.sources)?,
        };
        let mut names = arguments.names.clone();
        names.extend(file.names.unwrap_or_default());
        Ok(Settled {
            listen: arguments.listen.or(file.listen).unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DEFAULT_PORT)),
            names,
            ops_listen: arguments.ops_listen.or(file.ops_listen),
            hooks_listen: arguments.hooks_listen.or(file.hooks_listen),
            store,
            blobs,
            blobs_quota: quota.map(|quota| quota.0),
            retention,
            agent_certificates,
            lease,
            repositories: file.repository.into_iter().map(|entry| repository(entry, &path)).collect::<Result<_, _>>()?,
        })
    }

    /// As a file that says the same.
    pub(crate) fn render(&self) -> String {
        let optional = |key: &str, value: Option<SocketAddr>, example: &str| match value {
            Some(address) => format!("{key} = \"{address}\""),
            None => format!("# {key} = \"{example}\""),
        };
        let none = ("# blobs = \"/srv/caisson/blobs\"", "# blobs_endpoint = \"https://s3.example.com\"", "# blobs_region = \"us-east-1\"");
        let mut blobs = (none.0.to_owned(), none.1.to_owned(), none.2.to_owned());
        match &self.blobs {
            None => {}
            Some(BlobsPlace::Folder(folder)) => blobs.0 = format!("blobs = {folder:?}"),
            Some(BlobsPlace::Bucket(place)) => {
                blobs.0 = format!("blobs = \"s3://{}\"", [place.bucket.as_str(), &place.prefix].join("/").trim_end_matches('/'));
                if let Some(endpoint) = &place.endpoint {
                    blobs.1 = format!("blobs_endpoint = {endpoint:?}");
                }
                if let Some(region) = &place.region {
                    blobs.2 = format!("blobs_region = {region:?}");
                }
            }
        }
        let (blobs, endpoint, region) = blobs;
        let names: Vec<String> = self.names.iter().map(|name| format!("{name:?}")).collect();
        format!(
            "# Where agents and clients connect. Anything but a loopback address takes TLS (`caisson controller init`).\nlisten = \"{}\"\n\
             # Names and addresses under which the controller is reached, for its certificate.\nnames = [{}]\n\
             # Where the journal is: postgres://..., which several controllers may share; SQLite in the state directory without it.\n{}\n\
             # Health, readiness and metrics over HTTP.\n{}\n\
             # Webhooks of forges, for the repositories below.\n{}\n\
             # Folder or s3://BUCKET/PREFIX for source trees, artifacts, caches and sealed logs; several controllers need one that all of\n\
             # them see. Who may use a bucket is said by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.\n{}\n{}\n{}\n\
             # The most that blobs may take together.\n{}\n\
             # How long things are kept: logs, artifacts and source trees after the end of their run, caches after they were saved.\n\
             keep_logs = \"{}\"\nkeep_artifacts = \"{}\"\nkeep_caches = \"{}\"\nkeep_sources = \"{}\"\n\
             # How long an agent's certificate lives; it is renewed at half of that.\nagent_certificates = \"{}s\"\n\
             # How long a job stays its agent's without a sign of life, and how long the agent may come back after that.\n\
             lease_term = \"{}\"\nlease_grace = \"{}\"\n",
            self.listen,
            names.join(", "),
            self.store
                .as_ref()
                .map_or("# store = \"postgres://caisson@db.example.com/caisson\"".to_owned(), |url| format!("store = {url:?}")),
            optional("ops_listen", self.ops_listen, "127.0.0.1:7718"),
            optional("hooks_listen", self.hooks_listen, "127.0.0.1:7719"),
            blobs,
            endpoint,
            region,
            self.blobs_quota.map_or("# blobs_quota = \"200GiB\"".to_owned(), |quota| format!("blobs_quota = \"{quota}B\"")),
            written(self.retention.logs),
            written(self.retention.artifacts),
            written(self.retention.caches),
            written(self.retention.sources),
            self.agent_certificates.as_secs(),
            written(self.lease.0),
            written(self.lease.1),
        ) + "\n# [[repository]]\n# name = \"acme/shop\"\n# forge = \"github\"               # github, gitlab, gitea or forgejo\n# api = \"https://api.github.com\"\n# clone = \"https://github.com/acme/shop.git\"\n# secret_file = \"/etc/caisson/shop.secret\"   # what webhooks are signed with\n# token_file = \"/etc/caisson/shop.token\"     # for reading workflows and reporting statuses\n# clone_token_file = \"/etc/caisson/shop.clone\"   # for cloning, where the repository is private\n# protected = [\"main\"]\n# default_branch = \"main\"\n# statuses = true\n"
    }
}
