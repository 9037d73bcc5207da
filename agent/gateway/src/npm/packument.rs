//! What a registry says of a package, read as far as the gateway must understand it and passed on as it is otherwise.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use url::Url;

use crate::digest::Stated;
use crate::name;
use crate::settings::Millis;

/// Keys of a version in the abbreviated form.
const SHORT: [&str; 18] = [
    "name",
    "version",
    "deprecated",
    "dependencies",
    "optionalDependencies",
    "devDependencies",
    "acceptDependencies",
    "bundleDependencies",
    "bundledDependencies",
    "peerDependencies",
    "peerDependenciesMeta",
    "bin",
    "directories",
    "dist",
    "engines",
    "cpu",
    "os",
    "libc",
];

/// A package as its registry describes it.
#[derive(Clone, Debug)]
pub(crate) struct Packument {
    document: Map<String, Value>,
}

/// A tarball that a packument names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tarball {
    pub url: Url,
    integrity: Option<String>,
    shasum: Option<String>,
}

impl Tarball {
    fn of(version: &Value) -> Option<Tarball> {
        let dist = version.get("dist")?;
        let url = Url::parse(dist.get("tarball")?.as_str()?).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
        let text = |key: &str| dist.get(key).and_then(Value::as_str).map(str::to_owned);
        Some(Tarball { url, integrity: text("integrity"), shasum: text("shasum") })
    }

    /// The name of its file.
    fn file(&self) -> Option<String> {
        let last = self.url.path_segments()?.next_back()?;
        let file = percent_encoding::percent_decode_str(last).decode_utf8().ok()?.into_owned();
        (name::is_file(&file) && file.ends_with(".tgz")).then_some(file)
    }

    /// What the registry states about it.
    pub(crate) fn stated(&self) -> Stated {
        let mut stated = Stated::default();
        if let Some(integrity) = &self.integrity {
            stated.add_integrity(integrity);
        }
        if let (Some(shasum), false) = (&self.shasum, stated.is_checkable()) {
            stated.add_hex("sha1", shasum);
        }
        stated
    }
}

impl Packument {
    /// Reads one. `at` is where it came from.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(crate) fn read(bytes: &[u8], at: &Url) -> Result<Packument, String> {
        let mut document: Map<String, Value> =
            serde_json::from_slice(bytes).map_err(|error| format!("its packument is no JSON: {error}"))?;
        if let Some(versions) = document.get_mut("versions").and_then(Value::as_object_mut) {
            versions.retain(|_, version| match version.pointer_mut("/dist/tarball") {
                Some(Value::String(text)) => match at.join(text) {
                    // An address may be relative; a login in it is none of a client's business.
                    Ok(mut url) => {
                        let _ = url.set_username("");
                        let _ = url.set_password(None);
                        *text = url.to_string();
                        Tarball::of(version).and_then(|tarball| tarball.file()).is_some()
                    }
                    Err(_) => false,
                },
                _ => false,
            });
        }
        Ok(Packument { document })
    }

    fn versions(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.document.get("versions").and_then(Value::as_object).into_iter().flatten()
    }

    /// Whether no version is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.versions().next().is_none()
    }

    /// Its tarballs by the names of their files.
    pub(crate) fn tarballs(&self) -> BTreeMap<String, Tarball> {
        self.versions()
            .filter_map(|(_, version)| {
                let tarball = Tarball::of(version)?;
                Some((tarball.file()?, tarball))
            })
            .collect()
    }

    /// Only the versions whose tarballs a test picks.
    pub(crate) fn only(&mut self, pick: impl Fn(&Tarball) -> bool) {
        if let Some(versions) = self.document.get_mut("versions").and_then(Value::as_object_mut) {
            versions.retain(|_, version| Tarball::of(version).is_some_and(|tarball| pick(&tarball)));
        }
        self.mend_tags();
    }

    /// Only what was there before a moment.
    ///
    /// # Errors
    /// The version of which the registry does not say since when it is there.
    pub(crate) fn before(&mut self, moment: Millis) -> Result<(), String> {
        let times = self.document.get("time").and_then(Value::as_object).cloned().unwrap_or_default();
        let at = |version: &str| {
            let at: jiff::Timestamp = times.get(version)?.as_str()?.parse().ok()?;
            u64::try_from(at.as_millisecond()).ok()
        };
        if let Some((version, _)) = self.versions().find(|(version, _)| at(version).is_none()) {
            return Err(version.clone());
        }
        if let Some(versions) = self.document.get_mut("versions").and_then(Value::as_object_mut) {
            versions.retain(|version, _| at(version).is_some_and(|at| at < moment));
        }
        if let Some(times) = self.document.get_mut("time").and_then(Value::as_object_mut) {
            let early = |time: &Value| time.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
            times.retain(|key, time| {
                key == "created" || early(time).is_some_and(|at| u64::try_from(at.as_millisecond()).unwrap_or(0) < moment)
            });
        }
        self.mend_tags();
        Ok(())
    }

    /// Takes tags away that lead nowhere any more; `latest` then is the highest release that is left, or the highest version.
    pub(crate) fn mend_tags(&mut self) {
        let left: Vec<String> = self.versions().map(|(version, _)| version.clone()).collect();
        let mut read: Vec<semver::Version> = left.iter().filter_map(|version| version.parse().ok()).collect();
        read.sort();
        let highest = read.iter().rev().find(|version| version.pre.is_empty()).or(read.last()).map(ToString::to_string);
        let Some(tags) = self.document.get_mut("dist-tags").and_then(Value::as_object_mut) else { return };
        tags.retain(|_, version| version.as_str().is_some_and(|version| left.iter().any(|other| other == version)));
        if let (false, Some(highest)) = (tags.contains_key("latest"), highest) {
            tags.insert("latest".to_owned(), highest.into());
        }
    }

    /// Leaves what the abbreviated form has.
    pub(crate) fn abbreviate(&mut self) {
        let modified = self.document.get("time").and_then(|time| time.get("modified")).cloned();
        self.document.retain(|key, _| matches!(key.as_str(), "name" | "dist-tags" | "versions" | "modified"));
        if let Some(modified) = modified {
            self.document.insert("modified".to_owned(), modified);
        }
        for version in self.document.get_mut("versions").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut) {
            let Some(version) = version.as_object_mut() else { continue };
            let scripts = version.get("scripts").and_then(Value::as_object);
            let runs =
                scripts.is_some_and(|scripts| ["preinstall", "install", "postinstall"].iter().any(|name| scripts.contains_key(*name)));
            version.retain(|key, _| SHORT.contains(&key.as_str()) || key == "hasInstallScript" || key == "_hasShrinkwrap");
            if runs {
                version.insert("hasInstallScript".to_owned(), Value::Bool(true));
            }
        }
    }

    /// Lets its tarballs lead to the gateway at `base`.
    pub(crate) fn lead_to(&mut self, base: &str, package: &str) {
        for version in self.document.get_mut("versions").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut) {
            let file = Tarball::of(version).and_then(|tarball| tarball.file());
            if let (Some(Value::String(text)), Some(file)) = (version.pointer_mut("/dist/tarball"), file) {
                *text = format!("{base}/{package}/-/{}", file.replace('%', "%25").replace('+', "%2B"));
            }
        }
    }

    /// The text of one version, by its number or a tag.
    pub(crate) fn version(&self, wanted: &str) -> Option<Vec<u8>> {
        let tag = self.document.get("dist-tags").and_then(|tags| tags.get(wanted)).and_then(Value::as_str);
        let wanted = tag.unwrap_or(wanted);
        self.versions().find(|(version, _)| *version == wanted).map(|(_, version)| version.to_string().into_bytes())
    }

    /// Its text.
    pub(crate) fn render(self) -> Vec<u8> {
        Value::Object(self.document).to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn demo() -> Packument {
        let version = |v: &str| {
            json!({"name": "@a/demo", "version": v, "scripts": {"install": "x"}, "readme": "long",
            "dist": {"tarball": format!("https://u:p@cdn.example/x/demo-{v}.tgz"), "shasum": "a9993e364706816aba3e25717850c26c9cd0d89d"}})
        };
        let document = json!({"name": "@a/demo", "dist-tags": {"latest": "2.0.0", "next": "3.0.0-rc.1"}, "readme": "long",
            "time": {"created": "2020-01-01T00:00:00Z", "1.9.0": "2021-01-01T00:00:00.000Z", "1.10.0": "2021-02-01T00:00:00Z",
                     "2.0.0": "2022-01-01T00:00:00Z", "3.0.0-rc.1": "2023-01-01T00:00:00Z"},
            "versions": {"1.9.0": version("1.9.0"), "1.10.0": version("1.10.0"), "2.0.0": version("2.0.0"), "3.0.0-rc.1": version("3.0.0-rc.1"),
                         "9.0.0": {"dist": {"tarball": "file:///etc/passwd"}}}});
        Packument::read(document.to_string().as_bytes(), &Url::parse("https://registry.example/@a%2fdemo").unwrap()).unwrap()
    }

    #[test]
    fn tarballs_lead_to_the_gateway_and_no_login_is_left() {
        let mut demo = demo();
        assert_eq!(demo.tarballs()["demo-2.0.0.tgz"].url.as_str(), "https://cdn.example/x/demo-2.0.0.tgz");
        assert!(demo.tarballs()["demo-2.0.0.tgz"].stated().is_checkable());
        demo.lead_to("http://127.0.0.1:1", "@a/demo");
        let text = String::from_utf8(demo.render()).unwrap();
        assert!(text.contains("http://127.0.0.1:1/@a/demo/-/demo-1.10.0.tgz"), "{text}");
        assert!(!text.contains("cdn.example") && !text.contains("u:p@") && !text.contains("passwd"), "{text}");
    }

    #[test]
    fn an_earlier_day_has_its_own_latest_version() {
        let moment = |text: &str| u64::try_from(text.parse::<jiff::Timestamp>().unwrap().as_millisecond()).unwrap();
        let mut early = demo();
        early.before(moment("2021-06-01T00:00:00Z")).unwrap();
        early.abbreviate();
        let value: Value = serde_json::from_slice(&early.render()).unwrap();
        assert_eq!(value["dist-tags"], json!({"latest": "1.10.0"}));
        assert_eq!(value["versions"].as_object().unwrap().len(), 2);
        assert_eq!((&value["versions"]["1.9.0"]["hasInstallScript"], value["versions"]["1.9.0"].get("readme")), (&json!(true), None));
        let mut silent = demo();
        silent.document.remove("time");
        assert_eq!(silent.before(1).unwrap_err(), "1.9.0");
        for (wanted, version) in [("1.9.0", Some("1.9.0")), ("latest", Some("2.0.0")), ("9.0.0", None), ("no", None)] {
            let found = demo().version(wanted).map(|bytes| serde_json::from_slice::<Value>(&bytes).unwrap()["version"].clone());
            assert_eq!(found, version.map(Value::from), "{wanted}");
        }
    }
}
