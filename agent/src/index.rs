//! The Python package index that the operator's host is configured for: what pip itself would read there, reduced to what
//! a sandbox may know. No credential gets past this file. It reads no file by itself; [`crate::host`] hands the texts in.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use caisson_model::policy::Destination;

/// pip's own default.
pub(crate) const DEFAULT_INDEX: &str = "https://pypi.org/simple";

/// Where packages come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackageIndex {
    /// `index-url`; `None` for pip's own default.
    pub index_url: Option<String>,
    /// `extra-index-url`, in order.
    pub extra_index_urls: Vec<String>,
    /// `find-links`: URLs, and directories of the host that become visible read-only.
    pub find_links: Vec<String>,
    /// `trusted-host`, in order.
    pub trusted_hosts: Vec<String>,
    /// `timeout` in seconds.
    pub timeout: Option<u32>,
    /// `no-index`: only `find-links` is asked.
    pub no_index: bool,
    /// The file of certificate authorities that the operator names.
    pub certificates: Option<PathBuf>,
    /// What was left out on purpose, for people.
    pub remarks: Vec<String>,
}

impl PackageIndex {
    /// Reads pip's configuration: `files` from the least to the most important, then the `PIP_*` variables of `environment`
    /// and the usual variables that name certificate authorities.
    pub fn of(environment: &BTreeMap<String, String>, files: &[String]) -> PackageIndex {
        let settings = pip_settings(environment, files);
        let mut index = PackageIndex::default();
        let words = |key: &str| -> Vec<String> {
            settings.get(key).map(|value| value.split_whitespace().map(str::to_owned).collect()).unwrap_or_default()
        };
        index.index_url = words("index-url").into_iter().next().map(|url| index.without_credentials(&url));
        index.extra_index_urls = words("extra-index-url").iter().map(|url| index.without_credentials(url)).collect();
        index.find_links = words("find-links").iter().map(|url| index.without_credentials(url)).collect();
        index.trusted_hosts = words("trusted-host");
        index.timeout = settings.get("timeout").or_else(|| settings.get("default-timeout")).and_then(|text| text.trim().parse().ok());
        index.no_index = settings.get("no-index").is_some_and(|text| matches!(text.trim(), "1" | "true" | "yes" | "on"));
        index.certificates = settings
            .get("cert")
            .map(String::as_str)
            .into_iter()
            .chain(
                ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"]
                    .iter()
                    .filter_map(|name| environment.get(*name).map(String::as_str)),
            )
            .map(str::trim)
            .find(|path| path.starts_with('/'))
            .map(PathBuf::from);
        index
    }

    /// The index that is asked first; `None` when none is.
    pub fn first_url(&self) -> Option<&str> {
        (!self.no_index).then(|| self.index_url.as_deref().unwrap_or(DEFAULT_INDEX))
    }

    /// What a step that installs packages must reach: each index and what is known to hold its files.
    pub fn destinations(&self) -> Vec<Destination> {
        let mut found = Vec::new();
        let mut add = |destination: Destination| {
            if !found.contains(&destination) {
                found.push(destination);
            }
        };
        let urls = self.first_url().into_iter().chain(self.extra_index_urls.iter().filter(|_| !self.no_index).map(String::as_str));
        for url in urls.chain(self.find_links.iter().map(String::as_str)) {
            let Some(destination) = destination(url) else { continue };
            if destination.host == "pypi.org" {
                add(Destination { host: "files.pythonhosted.org".to_owned(), port: Some(443) });
            }
            add(destination);
        }
        found
    }

    /// Directories of the host that `find-links` names.
    pub fn directories(&self) -> impl Iterator<Item = PathBuf> {
        self.find_links
            .iter()
            .filter_map(|link| link.strip_prefix("file://").or(link.starts_with('/').then_some(link.as_str())).map(PathBuf::from))
    }

    /// The `pip.conf` of a sandbox whose way to packages is the gateway, which has `indexes` and `links` at this address.
    pub fn gateway_configuration(&self, certificates: Option<&str>, gateway: SocketAddr, indexes: usize, links: usize) -> String {
        let directories = self.directories().map(|path| path.display().to_string());
        let inside = PackageIndex {
            index_url: (indexes > 0).then(|| gateway_index(gateway, 0)),
            extra_index_urls: (1..indexes).map(|index| gateway_index(gateway, index)).collect(),
            find_links: directories.chain((0..links).map(|index| format!("http://{gateway}/links/{index}/"))).collect(),
            no_index: indexes == 0,
            timeout: self.timeout,
            ..PackageIndex::default()
        };
        inside.pip_configuration(certificates, true)
    }

    /// The `pip.conf` of a sandbox. `certificates` is the path of the authorities inside; `reachable` tells whether the
    /// step reaches the index: without it, pip is told not to wait for a network that is not there.
    pub fn pip_configuration(&self, certificates: Option<&str>, reachable: bool) -> String {
        let mut text = String::from("[global]\ndisable-pip-version-check = true\n");
        let mut line = |key: &str, values: &[String]| match values {
            [] => {}
            [one] => text.push_str(&format!("{key} = {one}\n")),
            many => {
                text.push_str(&format!("{key} =\n"));
                many.iter().for_each(|value| text.push_str(&format!("    {value}\n")));
            }
        };
        line("index-url", &self.index_url.iter().cloned().collect::<Vec<_>>());
        line("extra-index-url", &self.extra_index_urls);
        line("find-links", &self.find_links);
        line("trusted-host", &self.trusted_hosts);
        if self.no_index {
            line("no-index", &["true".to_owned()]);
        }
        if let Some(path) = certificates {
            line("cert", &[path.to_owned()]);
        }
        if reachable {
            line("timeout", &self.timeout.map(|seconds| seconds.to_string()).into_iter().collect::<Vec<_>>());
        } else {
            line("timeout", &["2".to_owned()]);
            line("retries", &["0".to_owned()]);
        }
        text
    }

    fn without_credentials(&mut self, url: &str) -> String {
        let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        match authority.rsplit_once('@') {
            None => url.to_owned(),
            Some((_, host)) => {
                self.remarks.push(format!("the credentials of the package index {scheme}://{host} are not given to sandboxes"));
                format!("{scheme}://{host}{path}")
            }
        }
    }
}

/// The address of an index at the gateway.
pub(crate) fn gateway_index(gateway: SocketAddr, index: usize) -> String {
    format!("http://{gateway}/{index}/simple/")
}

/// pip's settings by their long names: `files` from the least to the most important, then the `PIP_*` variables. Credentials
/// are still in them.
pub(crate) fn pip_settings(environment: &BTreeMap<String, String>, files: &[String]) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    for text in files {
        read_configuration(text, &mut settings);
    }
    for (name, value) in environment {
        if let Some(key) = name.strip_prefix("PIP_") {
            settings.insert(key.to_ascii_lowercase().replace('_', "-"), value.clone());
        }
    }
    uv_settings(environment, &mut settings);
    settings
}

/// What uv's variables say of indexes, for a host that is set up for uv: its default index where pip has none, and else, as its further
/// ones are, beside pip's.
fn uv_settings(environment: &BTreeMap<String, String>, settings: &mut BTreeMap<String, String>) {
    let variable = |name: &str| environment.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
    let mut further: Vec<String> = Vec::new();
    if let Some(default) = variable("UV_DEFAULT_INDEX").or_else(|| variable("UV_INDEX_URL")) {
        match settings.get("index-url") {
            None => drop(settings.insert("index-url".to_owned(), unnamed(default).to_owned())),
            Some(url) if url == unnamed(default) => {}
            Some(_) => further.push(unnamed(default).to_owned()),
        }
    }
    let lists = ["UV_INDEX", "UV_EXTRA_INDEX_URL"].into_iter().filter_map(variable);
    further.extend(lists.flat_map(str::split_whitespace).map(|index| unnamed(index).to_owned()));
    let extra = settings.entry("extra-index-url".to_owned()).or_default();
    for url in further {
        if !extra.split_whitespace().any(|known| known == url) {
            extra.push('\n');
            extra.push_str(&url);
        }
    }
}

/// The URL of an index that may have a name before it: `internal=https://...`.
fn unnamed(index: &str) -> &str {
    let named =
        index.split_once('=').filter(|(name, _)| name.chars().all(|letter| letter.is_ascii_alphanumeric() || "._-".contains(letter)));
    named.map_or(index, |(_, url)| url)
}

/// Host and port of an `http` or `https` URL; `None` for anything else.
pub fn destination(url: &str) -> Option<Destination> {
    let (scheme, rest) = url.split_once("://")?;
    let default = match scheme.to_ascii_lowercase().as_str() {
        "https" => 443,
        "http" => 80,
        _ => return None,
    };
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let mut destination: Destination = authority.parse().ok()?;
    destination.port.get_or_insert(default);
    Some(destination)
}

/// The `[global]` and `[install]` sections of a pip configuration file, later lines over earlier ones. `[install]` is more
/// specific, so it is applied last.
fn read_configuration(text: &str, settings: &mut BTreeMap<String, String>) {
    let mut install = BTreeMap::new();
    let mut section = String::new();
    let mut last: Option<(bool, String)> = None;
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if line.starts_with([' ', '\t']) {
            if let Some((is_install, key)) = &last {
                let map = if *is_install { &mut install } else { &mut *settings };
                let value: &mut String = map.entry(key.clone()).or_default();
                value.push('\n');
                value.push_str(trimmed);
            }
            continue;
        }
        if let Some(name) = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.trim().to_ascii_lowercase();
            last = None;
            continue;
        }
        last = None;
        let is_install = section == "install";
        if !is_install && section != "global" {
            continue;
        }
        if let Some((key, value)) = trimmed.split_once(['=', ':']) {
            let key = key.trim().to_ascii_lowercase().replace('_', "-");
            let map = if is_install { &mut install } else { &mut *settings };
            map.insert(key.clone(), value.trim().to_owned());
            last = Some((is_install, key));
        }
    }
    settings.append(&mut install);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn destinations(index: &PackageIndex) -> Vec<String> {
        index.destinations().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn without_configuration_it_is_the_public_index_with_its_file_host() {
        let index = PackageIndex::of(&BTreeMap::new(), &[]);
        assert_eq!(destinations(&index), ["files.pythonhosted.org:443", "pypi.org:443"]);
    }

    #[test]
    fn the_environment_is_stronger_than_files_and_install_than_global() {
        let files =
            ["[install]\nindex-url = https://b.example/simple\n[global]\nindex-url: https://a.example/simple\ntimeout=9\n".to_owned()];
        let index = PackageIndex::of(&BTreeMap::new(), &files);
        assert_eq!((index.index_url.as_deref(), index.timeout), (Some("https://b.example/simple"), Some(9)));
        let index = PackageIndex::of(&environment(&[("PIP_INDEX_URL", "http://c.example:8080/x")]), &files);
        assert_eq!(destinations(&index), ["c.example:8080"]);
    }

    #[test]
    fn a_host_that_is_set_up_for_uv_is_understood() {
        let uv =
            [("UV_DEFAULT_INDEX", "main=https://a.example/simple"), ("UV_INDEX", "in-house=https://b.example/s?k=v https://c.example/s")];
        let index = PackageIndex::of(&environment(&uv), &[]);
        assert_eq!(index.index_url.as_deref(), Some("https://a.example/simple"));
        assert_eq!(index.extra_index_urls, ["https://b.example/s?k=v", "https://c.example/s"]);
        // Beside pip's own, which pip in a step asks first.
        let both = [
            ("PIP_INDEX_URL", "https://p.example/s"),
            ("PIP_EXTRA_INDEX_URL", "https://q.example/s"),
            ("UV_INDEX_URL", "https://a.example/s"),
        ];
        let index = PackageIndex::of(&environment(&both), &[]);
        assert_eq!(index.index_url.as_deref(), Some("https://p.example/s"));
        assert_eq!(index.extra_index_urls, ["https://q.example/s", "https://a.example/s"]);
    }

    #[test]
    fn lists_run_over_lines_and_directories_are_kept_apart() {
        let text = "[global]\nextra-index-url =\n    https://x.example/simple\n    https://y.example/simple\nfind-links = /opt/wheels https://z.example/w\n";
        let index = PackageIndex::of(&BTreeMap::new(), &[text.to_owned()]);
        assert_eq!(index.extra_index_urls, ["https://x.example/simple", "https://y.example/simple"]);
        assert_eq!(index.directories().collect::<Vec<_>>(), [PathBuf::from("/opt/wheels")]);
        assert!(destinations(&index).contains(&"z.example:443".to_owned()));
        let written = index.pip_configuration(Some("/c.pem"), true);
        assert_eq!(PackageIndex::of(&BTreeMap::new(), &[written]).extra_index_urls, index.extra_index_urls);
    }

    #[test]
    fn credentials_stay_outside_and_it_is_said() {
        let index = PackageIndex::of(&environment(&[("PIP_INDEX_URL", "https://user:p%40ss@pkg.example/simple?a=b@c")]), &[]);
        assert_eq!(index.index_url.as_deref(), Some("https://pkg.example/simple?a=b@c"));
        assert!(index.remarks[0].contains("pkg.example") && !index.remarks[0].contains("p%40ss"));
        assert!(!index.pip_configuration(None, true).contains("p%40ss"));
    }
}
