//! What a release and its indexes state.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use flate2::read::MultiGzDecoder;

use crate::digest::Sha256Digest;

/// The most bytes of an index once it is unpacked.
const MOST: u64 = 2 << 30;

/// The part of a `Release` file that states digests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Release {
    files: HashMap<String, (Sha256Digest, u64)>,
    digests: HashMap<Sha256Digest, u64>,
}

impl Release {
    /// Reads one, signed in line or not.
    pub(crate) fn read(text: &str) -> Release {
        let mut release = Release::default();
        let mut stating = false;
        for line in text.lines() {
            if !line.starts_with(' ') {
                stating = line.trim_end() == "SHA256:";
                continue;
            }
            let mut words = line.split_whitespace();
            if let (true, Some(digest), Some(size), Some(path)) = (stating, words.next(), words.next(), words.next())
                && let (Ok(digest), Ok(size)) = (digest.parse(), size.parse())
            {
                release.files.insert(path.to_owned(), (digest, size));
                release.digests.insert(digest, size);
            }
        }
        release
    }

    /// What it states about a path, also one that names the digest itself (`by-hash`).
    pub(crate) fn stated(&self, path: &str) -> Option<(Sha256Digest, u64)> {
        if let Some((_, digest)) = path.split_once("by-hash/SHA256/") {
            let digest = digest.parse().ok()?;
            return self.digests.get(&digest).map(|size| (digest, *size));
        }
        self.files.get(path).copied()
    }

    /// Its indexes of packages for this machine: of these components, or all for a flat archive. The compressed form where there is one.
    pub(crate) fn package_indexes(&self, components: &[String]) -> Vec<String> {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let folders: Vec<String> = match components {
            [] => vec![String::new()],
            _ => components.iter().flat_map(|component| [architecture, "all"].map(|arch| format!("{component}/binary-{arch}/"))).collect(),
        };
        let form = |folder: String| {
            ["Packages.gz", "Packages"].iter().map(|file| format!("{folder}{file}")).find(|path| self.files.contains_key(path))
        };
        let found: Vec<String> = folders.into_iter().filter_map(form).collect();
        let mut seen = HashSet::new();
        found.into_iter().filter(|path| seen.insert(path.clone())).collect()
    }
}

/// Packages by their paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents(HashMap<Box<str>, (Sha256Digest, u64)>);

impl Contents {
    /// Reads a `Packages` file. Blocks.
    pub(crate) fn read(file: File, compressed: bool) -> io::Result<Contents> {
        match compressed {
            true => Contents::from(MultiGzDecoder::new(BufReader::new(file))),
            false => Contents::from(file),
        }
    }

    fn from(source: impl Read) -> io::Result<Contents> {
        let mut contents = Contents::default();
        let (mut path, mut size, mut digest) = (None, None, None);
        let mut reader = BufReader::with_capacity(1 << 18, source.take(MOST));
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line)?;
            let text = std::str::from_utf8(&line).unwrap_or_default().trim_end();
            if read == 0 || text.is_empty() {
                if let (Some(path), Some(size), Some(digest)) = (path.take(), size.take(), digest.take()) {
                    contents.0.insert(path, (digest, size));
                }
                if read == 0 {
                    return Ok(contents);
                }
            } else if let Some(value) = text.strip_prefix("Filename: ") {
                path = Some(value.trim_start_matches("./").into());
            } else if let Some(value) = text.strip_prefix("Size: ") {
                size = value.parse().ok();
            } else if let Some(value) = text.strip_prefix("SHA256: ") {
                digest = value.parse().ok();
            }
        }
    }

    /// What is stated about a package.
    pub(crate) fn find(&self, path: &str) -> Option<(Sha256Digest, u64)> {
        self.0.get(path).copied()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_release_states_digests_by_path_and_by_themselves() {
        let digest = Sha256Digest::of(b"x");
        let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let text = format!(
            "-----BEGIN PGP SIGNED MESSAGE-----\n\nSuite: s\nMD5Sum:\n 00 1 main/x\nSHA256:\n {digest}  7 main/binary-{arch}/Packages.gz\n {digest} 7 main/binary-{arch}/Packages\nDate: x\n {digest} 7 not/this\n"
        );
        let release = Release::read(&text);
        let path = format!("main/binary-{arch}/Packages.gz");
        assert_eq!(release.stated(&path), Some((digest, 7)));
        assert_eq!(release.stated(&format!("main/binary-{arch}/by-hash/SHA256/{digest}")), Some((digest, 7)));
        assert_eq!(release.stated("main/x").or(release.stated("not/this")), None);
        assert_eq!(release.package_indexes(&["main".to_owned(), "contrib".to_owned()]), [path]);
    }

    #[test]
    fn an_index_names_packages() {
        let digest = Sha256Digest::of(b"y");
        let text = format!(
            "Package: a\nFilename: pool/a_1_all.deb\nSize: 3\nSHA256: {digest}\n\nPackage: b\nFilename: ./b_1%3a2_all.deb\nSize: 4\nSHA256: {digest}"
        );
        let contents = Contents::from(text.as_bytes()).unwrap();
        assert_eq!((contents.find("pool/a_1_all.deb"), contents.find("b_1%3a2_all.deb")), (Some((digest, 3)), Some((digest, 4))));
        assert_eq!(contents.find("pool/c.deb"), None);
    }
}
