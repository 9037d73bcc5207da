//! What a release and its indexes state.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;

use crate::digest::Sha256Digest;
use crate::settings::Millis;

/// The most bytes of an index once it is unpacked.
const MOST: u64 = 2 << 30;

/// The part of a `Release` file that states digests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Release {
    files: HashMap<String, (Sha256Digest, u64)>,
    digests: HashMap<Sha256Digest, u64>,
    /// When it was made, and the same as it says it.
    pub date: Option<Millis>,
    pub written: Option<String>,
}

impl Release {
    /// Reads one, signed in line or not.
    pub(crate) fn read(text: &str) -> Release {
        let mut release = Release::default();
        let mut stating = false;
        for line in text.lines() {
            if !line.starts_with(' ') {
                stating = line.trim_end() == "SHA256:";
                if let (None, Some(written)) = (&release.written, line.strip_prefix("Date:")) {
                    release.date = date(written.trim());
                    release.written = Some(written.trim().to_owned());
                }
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
        let form = |folder: String| FORMS.iter().map(|file| format!("{folder}{file}")).find(|path| self.files.contains_key(path));
        let found: Vec<String> = folders.into_iter().filter_map(form).collect();
        let mut seen = HashSet::new();
        found.into_iter().filter(|path| seen.insert(path.clone())).collect()
    }
}

/// A date as archives write it: that of mail (RFC 2822), with the name of the zone (`Sat, 11 May 2024 09:54:04 UTC`).
fn date(text: &str) -> Option<Millis> {
    let text = ["UTC", "GMT"].iter().find_map(|zone| text.strip_suffix(zone)).map_or(text.to_owned(), |text| format!("{text}+0000"));
    // Some pad the hour with nothing.
    let words: Vec<&str> = text.split_whitespace().collect();
    let padded: Vec<String> =
        words.iter().map(|word| if word.find(':') == Some(1) { format!("0{word}") } else { (*word).to_owned() }).collect();
    let at = jiff::fmt::rfc2822::parse(&padded.join(" ")).ok()?.timestamp();
    u64::try_from(at.as_millisecond()).ok()
}

/// How an index may lie on the server, best first. All are listed in a Release; the plain one is often not there, and some archives
/// have only the smallest.
const FORMS: [&str; 3] = ["Packages.xz", "Packages.gz", "Packages"];

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    Xz,
    Gzip,
    None,
}

impl Compression {
    /// By a file's name.
    pub(crate) fn of(path: &str) -> Compression {
        match path.rsplit('.').next() {
            Some("xz") => Compression::Xz,
            Some("gz") => Compression::Gzip,
            _ => Compression::None,
        }
    }
}

/// Packages by their paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents(HashMap<Box<str>, (Sha256Digest, u64)>);

impl Contents {
    /// Reads a `Packages` file. Blocks.
    pub(crate) fn read(file: File, compression: Compression) -> io::Result<Contents> {
        match compression {
            Compression::Xz => Contents::from(XzReader::new(BufReader::new(file), true)),
            Compression::Gzip => Contents::from(MultiGzDecoder::new(BufReader::new(file))),
            Compression::None => Contents::from(file),
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
        assert_eq!((release.written.as_deref(), release.date), (Some("x"), None));
        assert_eq!(date("Sat, 11 May 2024 09:54:04 UTC"), Some(1_715_421_244_000));
        assert_eq!(date("Thu, 26 Nov 2026  8:16:23 UTC"), date("Thu, 26 Nov 2026 08:16:23 +0000"));
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

    /// `Package: a`, in pool/a_1_all.deb of three bytes, with the digest of `y`, as xz writes it.
    const SMALLEST: [u8; 180] = [
        0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x04, 0xe6, 0xd6, 0xb4, 0x46, 0x02, 0x00, 0x21, 0x01, 0x16, 0x00, 0x00, 0x00, 0x74, 0x2f,
        0xe5, 0xa3, 0xe0, 0x00, 0x76, 0x00, 0x71, 0x5d, 0x00, 0x28, 0x18, 0x48, 0x66, 0xdb, 0xda, 0x30, 0x85, 0xfe, 0x16, 0xde, 0xae, 0xe1,
        0x46, 0x8b, 0xf6, 0x70, 0x57, 0x9a, 0x7a, 0xda, 0xaa, 0x78, 0xe6, 0x04, 0x5a, 0x9e, 0x91, 0xf5, 0x92, 0x69, 0x9b, 0xc6, 0xc7, 0x48,
        0x16, 0x96, 0x80, 0xfc, 0x73, 0xc2, 0x38, 0x64, 0xd7, 0xf3, 0xb0, 0x7a, 0xf1, 0x26, 0x0d, 0xdd, 0xd4, 0xa8, 0x0f, 0x5f, 0xe0, 0x20,
        0x2c, 0x2c, 0x26, 0xbf, 0xdd, 0x76, 0x30, 0x1e, 0x13, 0x35, 0xd2, 0x58, 0x3a, 0xbf, 0x49, 0x87, 0xa6, 0xf0, 0x18, 0x13, 0xb2, 0x22,
        0x51, 0x5d, 0xeb, 0xd5, 0x21, 0x2c, 0x3e, 0xf2, 0x7b, 0xc5, 0x5b, 0x3a, 0x7a, 0x67, 0x21, 0xd0, 0xed, 0xd3, 0xd0, 0xa7, 0x09, 0xf9,
        0x8f, 0x59, 0x71, 0xe4, 0xdb, 0xab, 0x7a, 0x56, 0x8f, 0x90, 0x8e, 0x69, 0x00, 0x00, 0x00, 0x00, 0xe3, 0xad, 0xc6, 0xbc, 0xda, 0x54,
        0xe5, 0xae, 0x00, 0x01, 0x8d, 0x01, 0x77, 0x00, 0x00, 0x00, 0x4e, 0x62, 0xf3, 0xaa, 0xb1, 0xc4, 0x67, 0xfb, 0x02, 0x00, 0x00, 0x00,
        0x00, 0x04, 0x59, 0x5a,
    ];

    #[test]
    fn an_index_is_read_in_each_form() {
        use std::io::{Seek as _, Write as _};
        let digest = Sha256Digest::of(b"y");
        let text = format!("Package: a\nFilename: pool/a_1_all.deb\nSize: 3\nSHA256: {digest}\n");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text.as_bytes()).unwrap();
        for (name, bytes) in [("Packages", text.into_bytes()), ("Packages.gz", gzip.finish().unwrap()), ("Packages.xz", SMALLEST.to_vec())]
        {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            file.rewind().unwrap();
            let contents = Contents::read(file, Compression::of(name)).unwrap();
            assert_eq!(contents.find("pool/a_1_all.deb"), Some((digest, 3)), "{name}");
        }
        let mut broken = tempfile::tempfile().unwrap();
        broken.write_all(&SMALLEST[..40]).unwrap();
        broken.rewind().unwrap();
        assert!(Contents::read(broken, Compression::Xz).is_err());
    }
}
