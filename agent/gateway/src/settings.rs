//! What the host is configured for, with the credentials that no step may see. Plain data; whoever reads the host's
//! configuration makes it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use url::Url;

/// A point in time, in milliseconds since the Unix epoch.
pub type Millis = u64;

/// Bytes that stored packages may take when nobody says otherwise.
pub const DEFAULT_QUOTA: u64 = 10 << 30;

/// Whether indexes may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Yes.
    Online,
    /// No: only what is stored.
    Offline,
}

/// Everything that a gateway is set up with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The directory of the store; made if need be, for this user alone.
    pub store: PathBuf,
    /// The most bytes in it.
    pub quota: u64,
    /// Indexes of the Python simple API: the first one, then the extra ones.
    pub python: Vec<Source>,
    /// Pages of links to Python files (`find-links`).
    pub python_links: Vec<Source>,
    /// Where npm packages come from.
    pub npm: NpmSources,
    /// Debian and Ubuntu archives.
    pub debian: Vec<Archive>,
    /// A file of certificate authorities in place of the system's.
    pub certificates: Option<PathBuf>,
    /// Hosts whose certificates are not checked, as `HOST` or `HOST:PORT`.
    pub trusted_hosts: Vec<String>,
    /// A proxy to reach indexes by, beside what the environment names.
    pub proxy: Option<String>,
    /// A folder that stands in for the Python indexes.
    pub wheelhouse: Option<PathBuf>,
    /// A folder of npm tarballs that stands in for the npm registries.
    pub npm_folder: Option<PathBuf>,
    /// Answer as of this moment.
    pub before: Option<Millis>,
    /// Serve what is stored, and reach for nothing.
    pub offline: bool,
}

/// An index and how to be let in; of a Debian archive also a folder of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its address, without credentials, with a final slash.
    pub url: Url,
    /// What to present there, and nowhere else.
    pub login: Option<Login>,
}

impl Source {
    /// A folder of this host with the tree of an archive. `None` for a relative path.
    pub fn folder(path: &Path) -> Option<Source> {
        Url::from_directory_path(path).ok().map(|url| Source { url, login: None })
    }

    /// Reads an address; credentials in it become the login. `None` for what is no `http` or `https` address.
    pub fn parse(text: &str) -> Option<Source> {
        let mut url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())?;
        let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
        let login = (!url.username().is_empty() || url.password().is_some())
            .then(|| Login::Basic { user: decode(url.username()), password: decode(url.password().unwrap_or_default()) });
        // Neither can fail for an address with a host.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.set_fragment(None);
        if !url.path().ends_with('/') {
            let path = format!("{}/", url.path());
            url.set_path(&path);
        }
        Some(Source { url, login })
    }
}

/// What is presented to an index.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// User and password.
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// A token.
    Bearer(String),
}

// Shown nowhere, whatever prints the settings.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Login::Basic { .. } => "Basic(***)",
            Login::Bearer(_) => "Bearer(***)",
        })
    }
}

/// Where npm packages come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NpmSources {
    /// The registry.
    pub registry: Option<Source>,
    /// Registries of scopes, by scope with its `@`.
    pub scopes: BTreeMap<String, Source>,
}

/// A Debian archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// Its address.
    pub source: Source,
    /// Its suites: `bookworm`, or a path that ends in a slash for a flat archive.
    pub suites: Vec<String>,
    /// Its components; none for a flat archive.
    pub components: Vec<String>,
    /// Options that a package manager inside needs too, such as `Signed-By`, as deb822 fields.
    pub options: Vec<(String, String)>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn credentials_leave_the_address_and_are_never_shown() {
        let source = Source::parse("https://us%40er:p%40ss@pkg.example/simple?x=1#y").unwrap();
        assert_eq!(source.url.as_str(), "https://pkg.example/simple/?x=1");
        assert_eq!(source.login, Some(Login::Basic { user: "us@er".into(), password: "p@ss".into() }));
        assert!(!format!("{source:?}").contains("p@ss"));
        assert!(Source::parse("file:///x").is_none() && Source::parse("nonsense").is_none());
    }
}
