//! What the host is configured for, as its package gateway needs it: indexes with their credentials. It reads no file by
//! itself; [`crate::host`] hands the texts in. What a step sees of it is [`crate::index`]'s.

mod apt;
mod netrc;
mod npm;

use std::collections::BTreeMap;
use std::path::PathBuf;

use caisson_gateway::settings::{DEFAULT_QUOTA, Settings, Source};

use crate::index::{self, DEFAULT_INDEX, PackageIndex};

/// The texts of a host's configuration files.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// pip's, from the least to the most important.
    pub pip: Vec<String>,
    /// apt's sources as lines, and as stanzas.
    pub apt_lines: Vec<String>,
    /// Likewise.
    pub apt_stanzas: Vec<String>,
    /// apt's logins.
    pub apt_auth: Vec<String>,
    /// npm's, likewise.
    pub npm: Vec<String>,
    /// The user's `.netrc`.
    pub netrc: Option<String>,
}

/// The gateway's settings, but for where it keeps what it fetched.
pub fn settings(environment: &BTreeMap<String, String>, files: &Files) -> Settings {
    let pip = index::pip_settings(environment, &files.pip);
    let words = |key: &str| -> Vec<&str> { pip.get(key).map(|value| value.split_whitespace().collect()).unwrap_or_default() };
    let known = PackageIndex::of(environment, &files.pip);
    let mut python: Vec<Source> = Vec::new();
    if !known.no_index {
        let first = words("index-url").first().copied().unwrap_or(DEFAULT_INDEX);
        python.extend([first].into_iter().chain(words("extra-index-url")).filter_map(Source::parse));
    }
    let mut settings = Settings {
        quota: DEFAULT_QUOTA,
        python,
        npm: npm::read(environment, &files.npm),
        python_links: words("find-links").into_iter().filter_map(Source::parse).collect(),
        certificates: known.certificates,
        trusted_hosts: known.trusted_hosts,
        proxy: pip.get("proxy").map(|proxy| proxy.trim().to_owned()).filter(|proxy| !proxy.is_empty()),
        ..Settings::default()
    };
    settings.debian = files.apt_lines.iter().flat_map(|text| apt::lines(text)).collect();
    settings.debian.extend(files.apt_stanzas.iter().flat_map(|text| apt::stanzas(text)));
    files.apt_auth.iter().for_each(|text| apt::let_in(&mut settings.debian, text));
    if let Some(text) = &files.netrc {
        let logins = netrc::read(text);
        let sources = settings.python.iter_mut().chain(&mut settings.python_links).chain(&mut settings.npm.registry);
        for source in sources.filter(|source| source.login.is_none()) {
            source.login = source.url.host_str().and_then(|host| netrc::login(&logins, host));
        }
    }
    settings
}

/// npm's configuration files, from the least to the most important.
pub fn npm_files(environment: &BTreeMap<String, String>) -> Vec<PathBuf> {
    let variable = |name: &str| {
        let named = environment.get(name).or_else(|| environment.get(&name.to_ascii_lowercase()));
        named.filter(|path| !path.is_empty()).map(PathBuf::from)
    };
    let global = variable("NPM_CONFIG_GLOBALCONFIG")
        .map_or_else(|| ["/usr/etc/npmrc", "/usr/local/etc/npmrc", "/etc/npmrc"].map(PathBuf::from).to_vec(), |path| vec![path]);
    let user = variable("NPM_CONFIG_USERCONFIG").or_else(|| Some(PathBuf::from(environment.get("HOME")?).join(".npmrc")));
    global.into_iter().chain(user).collect()
}

/// Where the user's `.netrc` is.
pub fn netrc_file(environment: &BTreeMap<String, String>) -> Option<PathBuf> {
    let named = environment.get("NETRC").filter(|path| !path.is_empty()).map(PathBuf::from);
    named.or_else(|| Some(PathBuf::from(environment.get("HOME")?).join(".netrc")))
}

#[cfg(test)]
mod tests {
    use caisson_gateway::settings::Login;

    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn urls(sources: &[Source]) -> Vec<&str> {
        sources.iter().map(|source| source.url.as_str()).collect()
    }

    #[test]
    fn without_configuration_it_is_the_public_index() {
        let settings = settings(&BTreeMap::new(), &Files::default());
        assert_eq!(urls(&settings.python), ["https://pypi.org/simple/"]);
        assert!(settings.python_links.is_empty() && settings.python[0].login.is_none());
    }

    #[test]
    fn indexes_come_with_the_credentials_that_the_host_has_for_them() {
        let files = Files {
            pip: vec!["[global]\nindex-url = https://me:secret@one.example/simple\nextra-index-url = https://two.example/x\nfind-links = /opt/wheels http://three.example/w\nproxy = http://p:1\n".into()],
            netrc: Some("machine two.example login you password hidden\n".into()),
            ..Files::default()
        };
        let settings = settings(&BTreeMap::new(), &files);
        assert_eq!(urls(&settings.python), ["https://one.example/simple/", "https://two.example/x/"]);
        assert_eq!(urls(&settings.python_links), ["http://three.example/w/"]);
        assert_eq!(settings.python[0].login, Some(Login::Basic { user: "me".into(), password: "secret".into() }));
        assert_eq!(settings.python[1].login, Some(Login::Basic { user: "you".into(), password: "hidden".into() }));
        assert_eq!((settings.python_links[0].login.as_ref(), settings.proxy.as_deref()), (None, Some("http://p:1")));
        assert!(!format!("{settings:?}").contains("secret"));
    }

    #[test]
    fn no_index_means_none() {
        assert!(settings(&environment(&[("PIP_NO_INDEX", "1")]), &Files::default()).python.is_empty());
    }
}
