//! apt's sources, in both of their forms: lines (`sources.list`) and stanzas (`*.sources`).

use std::path::Path;

use caisson_gateway::settings::{Archive, Source};

/// Reads a file of lines: `deb [OPTIONS] URI SUITE COMPONENT...`. Sources of source packages, and what is not understood, are left out.
pub(super) fn lines(text: &str) -> Vec<Archive> {
    text.lines().filter_map(line).collect()
}

fn line(line: &str) -> Option<Archive> {
    let line = line.split('#').next()?.trim();
    let mut rest = line.strip_prefix("deb")?.trim_start();
    if rest.len() == line.len() - 3 {
        return None;
    }
    let mut options = Vec::new();
    if let Some(bracketed) = rest.strip_prefix('[') {
        let (inner, after) = bracketed.split_once(']')?;
        for (key, value) in inner.split_whitespace().filter_map(|option| option.split_once('=')) {
            options.extend(known(key).map(|key| (key.to_owned(), value.replace(',', " "))));
        }
        rest = after.trim_start();
    }
    let mut words = rest.split_whitespace();
    let source = source(words.next()?)?;
    let suites = vec![words.next()?.to_owned()];
    Some(Archive { source, suites, components: words.map(str::to_owned).collect(), options })
}

/// Reads a file of stanzas.
pub(super) fn stanzas(text: &str) -> Vec<Archive> {
    let mut archives = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            archives.extend(stanza(&std::mem::take(&mut fields)));
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((key, value)) = line.split_once(':') {
            fields.push((key.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    archives
}

fn stanza(fields: &[(String, String)]) -> Vec<Archive> {
    let field = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let words = |name: &str| -> Vec<String> { field(name).unwrap_or_default().split_whitespace().map(str::to_owned).collect() };
    if !words("types").iter().any(|kind| kind == "deb") || field("enabled").is_some_and(|text| matches!(text, "no" | "false" | "0")) {
        return Vec::new();
    }
    let options: Vec<(String, String)> = fields.iter().filter_map(|(key, value)| Some((known(key)?.to_owned(), value.clone()))).collect();
    let archive = |uri: String| {
        let source = source(&uri)?;
        Some(Archive { source, suites: words("suites"), components: words("components"), options: options.clone() })
    };
    words("uris").into_iter().filter_map(archive).collect()
}

/// An archive's address; a folder of this host is one as well (`file:/srv/debian`).
fn source(text: &str) -> Option<Source> {
    let folder = |text: &str| Source::folder(Path::new(&format!("/{}", text.trim_start_matches('/'))));
    Source::parse(text).or_else(|| ["file:", "copy:"].iter().find_map(|scheme| text.strip_prefix(scheme)).and_then(folder))
}

/// An option that a sandbox is told too, as stanzas spell it.
fn known(key: &str) -> Option<&'static str> {
    Some(match key.to_ascii_lowercase().as_str() {
        "signed-by" => "Signed-By",
        "arch" | "architectures" => "Architectures",
        "trusted" => "Trusted",
        "by-hash" => "By-Hash",
        _ => return None,
    })
}

/// Gives archives the logins of apt's `auth.conf`, which is written like `.netrc` but may name a path and a scheme.
pub(super) fn let_in(archives: &mut [Archive], auth: &str) {
    let logins = super::netrc::read(auth);
    for source in archives.iter_mut().map(|archive| &mut archive.source).filter(|source| source.login.is_none()) {
        let address = source.url.as_str().split_once("://").map(|(_, rest)| rest.to_owned()).unwrap_or_default();
        let meant = |machine: &str| {
            let machine = machine.split_once("://").map_or(machine, |(_, rest)| rest).trim_end_matches('/');
            !machine.is_empty() && address.strip_prefix(machine).is_some_and(|rest| rest.starts_with(['/', ':']))
        };
        source.login = logins.iter().find(|(machine, _)| meant(machine)).map(|(_, login)| login.clone());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_forms_say_the_same() {
        let text = "# x\ndeb [signed-by=/k.gpg arch=amd64,arm64] https://a.example/debian bookworm main contrib # y\ndeb-src http://a.example/debian bookworm main\ndebris\ndeb http://flat.example/repo ./\ndeb cdrom:[x]/ y z\n";
        let stanza = "Types: deb deb-src\nURIs: https://a.example/debian\nSuites: bookworm\nComponents: main contrib\nSigned-By: /k.gpg\nArchitectures: amd64 arm64\n\n# off\nTypes: deb\nURIs: http://off.example/\nSuites: x\nEnabled: no\n\nTypes: deb\nURIs: http://flat.example/repo\nSuites: ./\n";
        let (mut read, other) = (lines(text), stanzas(stanza));
        assert_eq!(read.len(), 2);
        assert_eq!(read, other);
        assert_eq!(
            read[0].options,
            [("Signed-By".to_owned(), "/k.gpg".to_owned()), ("Architectures".to_owned(), "amd64 arm64".to_owned())]
        );
        let_in(&mut read, "machine https://a.example/debian login me password secret\n");
        assert!(read[0].source.login.is_some() && read[1].source.login.is_none());
    }

    #[test]
    fn a_key_in_a_stanza_keeps_its_lines() {
        let read = stanzas("Types: deb\nURIs: http://a.example/\nSuites: s\nComponents: c\nSigned-By:\n -----BEGIN\n .\n abc\n");
        assert_eq!(read[0].options[0].1, "\n -----BEGIN\n .\n abc");
    }
}
