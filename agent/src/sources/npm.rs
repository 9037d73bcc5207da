//! npm's configuration: registries and their logins.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use caisson_gateway::settings::{Login, NpmSources, Source};

const DEFAULT_REGISTRY: &str = "https://registry.npmjs.org/";

/// Reads `.npmrc` texts from the least to the most important, then the `npm_config_*` variables.
pub(super) fn read(environment: &BTreeMap<String, String>, files: &[String]) -> NpmSources {
    let mut settings: BTreeMap<String, String> = BTreeMap::new();
    for line in files.iter().flat_map(|text| text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some((key, value)) = line.split_once('=') {
            settings.insert(key.trim().to_owned(), expanded(value.trim().trim_matches('"'), environment));
        }
    }
    for (name, value) in environment {
        let lower = name.to_ascii_lowercase();
        if let Some(key) = lower.strip_prefix("npm_config_").filter(|key| *key == "registry" || key.starts_with('@')) {
            settings.insert(key.to_owned(), value.clone());
        }
    }
    let source = |text: &str| {
        let mut source = Source::parse(text)?;
        if source.login.is_none() {
            source.login = login(&settings, &source);
        }
        Some(source)
    };
    let registry = settings.get("registry").map_or(DEFAULT_REGISTRY, String::as_str);
    let scopes = settings.iter().filter_map(|(key, value)| {
        let scope = key.strip_suffix(":registry").filter(|scope| scope.starts_with('@'))?;
        Some((scope.to_owned(), source(value)?))
    });
    NpmSources { registry: source(registry), scopes: scopes.collect() }
}

/// The login whose `//HOST/PATH/` the registry's address begins with, the longest first.
fn login(settings: &BTreeMap<String, String>, source: &Source) -> Option<Login> {
    let address = source.url.as_str().split_once(':')?.1;
    let of = |key: &str| {
        let mut path = address.trim_end_matches('/').to_owned();
        loop {
            for prefix in [format!("{path}/:{key}"), format!("{path}:{key}")] {
                if let Some(value) = settings.get(&prefix) {
                    return Some(value.clone());
                }
            }
            let cut = path.rfind('/').filter(|cut| *cut > 1)?;
            path.truncate(cut);
        }
    };
    let decoded = |text: String| STANDARD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    if let Some(token) = of("_authToken") {
        return Some(Login::Bearer(token));
    }
    if let Some(pair) = of("_auth").or_else(|| settings.get("_auth").cloned()).and_then(decoded) {
        let (user, password) = pair.split_once(':')?;
        return Some(Login::Basic { user: user.to_owned(), password: password.to_owned() });
    }
    Some(Login::Basic { user: of("username")?, password: of("_password").and_then(decoded)? })
}

/// A value with `${NAME}` replaced by the variable, as npm does.
fn expanded(value: &str, environment: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    let mut rest = value;
    while let Some((before, after)) = rest.split_once("${") {
        let Some((name, tail)) = after.split_once('}') else { break };
        text.push_str(before);
        text.push_str(environment.get(name.trim_end_matches('?')).map_or("", String::as_str));
        rest = tail;
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_come_with_their_logins() {
        let text = "registry=https://npm.example/all\n//npm.example/all/:_authToken=${TOKEN}\n@mine:registry = https://other.example/\n//other.example/:username=me\n//other.example/:_password=c2VjcmV0\n; x\n";
        let environment = BTreeMap::from([("TOKEN".to_owned(), "hidden".to_owned())]);
        let read = read(&environment, &[text.to_owned()]);
        let registry = read.registry.as_ref();
        assert_eq!(registry.map(|source| source.url.as_str()), Some("https://npm.example/all/"));
        assert_eq!(registry.and_then(|source| source.login.clone()), Some(Login::Bearer("hidden".to_owned())));
        assert_eq!(read.scopes["@mine"].login, Some(Login::Basic { user: "me".into(), password: "secret".into() }));
        assert!(!format!("{read:?}").contains("hidden"));
    }

    #[test]
    fn without_configuration_it_is_the_public_registry_and_the_environment_wins() {
        let read_with = |pairs: &[(&str, &str)]| {
            let environment = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            read(&environment, &["registry=https://file.example/".to_owned()]).registry.map(|source| source.url.to_string())
        };
        assert_eq!(read_with(&[]).as_deref(), Some("https://file.example/"));
        assert_eq!(read_with(&[("NPM_CONFIG_REGISTRY", "http://env.example:1/x")]).as_deref(), Some("http://env.example:1/x/"));
        assert_eq!(read(&BTreeMap::new(), &[]).registry.map(|source| source.url.to_string()).as_deref(), Some(DEFAULT_REGISTRY));
    }
}
