//! What a sandbox is told of the package gateway: variables and configuration files, so that steps need no change.

use std::net::SocketAddr;
use std::path::PathBuf;

use caisson_gateway::served::Ecosystem;
use caisson_gateway::settings::{Archive, Settings};
use caisson_sandbox::spec::Mount;

use crate::host::HostRules;
use crate::index::gateway_index;
use crate::packages;

/// apt's sources, inside.
const APT_SOURCES: &str = "/etc/apt/caisson.sources";
/// npm's configuration for everybody, inside.
const NPMRC: &str = "/etc/npmrc";

/// The variables that point pip's kin, npm's kin and the rest at the doors of `ecosystems`.
pub fn variables(ecosystems: &[Ecosystem], host: &HostRules) -> Vec<(String, String)> {
    let settings = host.gateway.settings();
    let mut variables = Vec::new();
    for ecosystem in ecosystems {
        let at = packages::address(*ecosystem);
        match ecosystem {
            Ecosystem::Python => python(settings, host, at, &mut variables),
            Ecosystem::Npm => npm(settings, &mut variables),
            Ecosystem::Debian => {}
        }
    }
    variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The configuration files for the doors of `ecosystems`, but for pip's, which every sandbox has.
pub fn files(ecosystems: &[Ecosystem], host: &HostRules) -> Vec<Mount> {
    let mut mounts = Vec::new();
    if ecosystems.contains(&Ecosystem::Npm) {
        let npm = &host.gateway.settings().npm;
        let mut text: String = npm.registry.iter().map(|source| format!("registry={}\n", source.url)).collect();
        for (scope, source) in &npm.scopes {
            text.push_str(&format!("{scope}:registry={}\n", source.url));
        }
        mounts.push(Mount::File { target: NPMRC.into(), content: text.into(), mode: 0o644 });
    }
    mounts
}

/// apt's configuration for a package manager that is root of its namespace: the host's archives, at the gateway and nowhere else.
pub fn debian(host: &HostRules) -> Vec<Mount> {
    let settings = host.gateway.settings();
    let file = |target: &str, content: String| Mount::File { target: target.into(), content: content.into(), mode: 0o644 };
    vec![
        file(APT_SOURCES, apt_sources(&settings.debian, packages::address(Ecosystem::Debian))),
        file("/etc/apt/apt.conf.d/50caisson", apt_configuration(settings.offline || settings.before.is_some())),
    ]
}

/// The same for a job, whose `/etc/apt` is its own: by names below that. Empty where the gateway fronts no archive, so that the host's
/// own files count.
pub fn debian_files(host: &HostRules) -> Vec<(String, Vec<u8>)> {
    let settings = host.gateway.settings();
    if settings.debian.is_empty() {
        return Vec::new();
    }
    let sources = apt_sources(&settings.debian, packages::address(Ecosystem::Debian));
    vec![
        ("sources.list.d/caisson.sources".to_owned(), sources.into_bytes()),
        ("apt.conf.d/50caisson".to_owned(), apt_reach(settings.offline || settings.before.is_some()).into_bytes()),
    ]
}

/// The host's archives at the gateway, as stanzas.
fn apt_sources(archives: &[Archive], at: SocketAddr) -> String {
    let mut text = String::new();
    for (number, archive) in archives.iter().enumerate() {
        text.push_str(&format!("Types: deb\nURIs: http://{at}/{number}/\nSuites: {}\n", archive.suites.join(" ")));
        if !archive.components.is_empty() {
            text.push_str(&format!("Components: {}\n", archive.components.join(" ")));
        }
        for (key, value) in &archive.options {
            text.push_str(&format!("{key}: {value}\n"));
        }
        text.push('\n');
    }
    text
}

/// apt reaches the gateway directly, takes what the gateway can check, and needs no user of its own to be told apart from root.
fn apt_configuration(old: bool) -> String {
    let places = format!("Dir::Etc::sourcelist \"{APT_SOURCES}\";\nDir::Etc::sourceparts \"/dev/null\";\n");
    places + &apt_reach(old)
}

fn apt_reach(old: bool) -> String {
    let mut text =
        "Acquire::http::Proxy \"DIRECT\";\nAcquire::https::Proxy \"DIRECT\";\nAcquire::PDiffs \"false\";\nAcquire::Languages \"none\";\n\
         Acquire::CompressionTypes::Order { \"gz\"; };\nAPT::Sandbox::User \"root\";\n"
            .to_owned();
    if old {
        text.push_str("Acquire::Check-Valid-Until \"false\";\n");
    }
    text
}

/// Where systems keep their certificate authorities in one file.
const BUNDLES: [&str; 3] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// The host's certificate authorities and the gateway's own, in PEM. Reads the host's file.
pub fn authorities(host: &HostRules) -> Option<Vec<u8>> {
    let own = match host.gateway.certificate() {
        Ok(own) => own,
        Err(error) => {
            tracing::error!(%error, "the package gateway has no certificate authority");
            return None;
        }
    };
    let configured = host.index.certificates.iter().cloned();
    let mut files = configured.chain(BUNDLES.iter().map(PathBuf::from));
    let mut bundle = files.find_map(|path| std::fs::read(path).ok()).unwrap_or_default();
    bundle.extend_from_slice(b"\n");
    bundle.extend_from_slice(own.as_bytes());
    Some(bundle)
}

/// How many Python indexes the gateway has.
pub(crate) fn indexes(settings: &Settings) -> usize {
    if settings.wheelhouse.is_some() { 1 } else { settings.python.len() }
}

fn python(settings: &Settings, host: &HostRules, at: SocketAddr, variables: &mut Vec<(&str, String)>) {
    // uv writes the addresses of indexes into lock files and holds against them what is configured, so that it hears the real ones.
    // The gateway answers in their names.
    let index = &host.index;
    match (&index.index_url, settings.wheelhouse.is_some()) {
        (Some(url), _) => variables.push(("UV_DEFAULT_INDEX", url.clone())),
        (None, true) if index.no_index => variables.push(("UV_DEFAULT_INDEX", gateway_index(at, 0))),
        (None, _) if index.no_index => variables.push(("UV_NO_INDEX", "1".to_owned())),
        (None, _) => {}
    }
    if !index.extra_index_urls.is_empty() {
        variables.push(("UV_INDEX", index.extra_index_urls.join(" ")));
    }
    if !index.find_links.is_empty() {
        variables.push(("UV_FIND_LINKS", index.find_links.join(",")));
    }
}

fn npm(settings: &Settings, variables: &mut Vec<(&str, String)>) {
    // Likewise: npm writes them into lock files.
    if let Some(registry) = &settings.npm.registry {
        variables.push(("npm_config_registry", registry.url.to_string()));
        // Every package manager comes from there, also those that have a place of their own.
        variables.push(("COREPACK_NPM_REGISTRY", registry.url.as_str().trim_end_matches('/').to_owned()));
        if registry.url.host_str() != Some("registry.npmjs.org") {
            variables.push(("YARN_NPM_REGISTRY_SERVER", registry.url.to_string()));
        }
    }
    variables.extend([
        ("npm_config_globalconfig", NPMRC.to_owned()),
        ("COREPACK_ENABLE_DOWNLOAD_PROMPT", "0".to_owned()),
        // What these tell and ask does not pass.
        ("npm_config_audit", "false".to_owned()),
        ("npm_config_fund", "false".to_owned()),
        ("npm_config_update_notifier", "false".to_owned()),
        ("YARN_ENABLE_TELEMETRY", "0".to_owned()),
    ]);
}
