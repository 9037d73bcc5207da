//! Digests: what an index states about a file, and the check of bytes against it.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::digest::DynDigest;
use sha2::{Digest, Sha256, Sha384, Sha512};

/// A SHA-256, under which everything is stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256Digest(pub [u8; 32]);

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{self}")
    }
}

/// A text is no SHA-256 in hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 is 64 hexadecimal digits")]
pub struct NotADigest;

impl FromStr for Sha256Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Sha256Digest, NotADigest> {
        let bytes = unhex(text).ok_or(NotADigest)?;
        bytes.try_into().map(Sha256Digest).map_err(|_| NotADigest)
    }
}

impl Sha256Digest {
    /// Of some bytes.
    pub fn of(bytes: &[u8]) -> Sha256Digest {
        Sha256Digest(Sha256::digest(bytes).into())
    }

    /// As package managers of JavaScript write it (Subresource Integrity).
    pub(crate) fn integrity(self) -> String {
        format!("sha256-{}", STANDARD.encode(self.0))
    }
}

/// Algorithms that indexes use, from the weakest to the strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Algorithm {
    /// MD5, of old Python indexes. Better than nothing against a broken transfer, and against nobody else.
    Md5,
    /// SHA-1, of old npm packages; likewise.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    fn of(name: &str) -> Option<Algorithm> {
        Some(match name {
            "md5" => Algorithm::Md5,
            "sha1" => Algorithm::Sha1,
            "sha256" => Algorithm::Sha256,
            "sha384" => Algorithm::Sha384,
            "sha512" => Algorithm::Sha512,
            _ => return None,
        })
    }

    fn length(self) -> usize {
        match self {
            Algorithm::Md5 => 16,
            Algorithm::Sha1 => 20,
            Algorithm::Sha256 => 32,
            Algorithm::Sha384 => 48,
            Algorithm::Sha512 => 64,
        }
    }

    fn hasher(self) -> Box<dyn DynDigest + Send> {
        match self {
            Algorithm::Md5 => Box::new(md5::Md5::default()),
            Algorithm::Sha1 => Box::new(sha1::Sha1::default()),
            Algorithm::Sha256 => Box::new(Sha256::default()),
            Algorithm::Sha384 => Box::new(Sha384::default()),
            Algorithm::Sha512 => Box::new(Sha512::default()),
        }
    }
}

/// What an index states about the bytes of one file. Empty: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stated {
    digests: Vec<(Algorithm, Vec<u8>)>,
    /// How many bytes it has.
    pub size: Option<u64>,
}

impl Stated {
    /// A SHA-256 and a size.
    pub fn sha256(digest: Sha256Digest, size: Option<u64>) -> Stated {
        Stated { digests: vec![(Algorithm::Sha256, digest.0.to_vec())], size }
    }

    /// Adds a digest in hexadecimal digits. One that is unknown or malformed is left out: it can neither confirm nor refute.
    pub fn add_hex(&mut self, algorithm: &str, text: &str) {
        if let (Some(algorithm), Some(bytes)) = (Algorithm::of(&algorithm.to_ascii_lowercase()), unhex(text)) {
            self.add(algorithm, bytes);
        }
    }

    /// Adds the digests of a subresource-integrity text: `sha512-BASE64 sha1-BASE64`.
    pub fn add_integrity(&mut self, text: &str) {
        for word in text.split_whitespace() {
            let word = word.split('?').next().unwrap_or_default();
            let Some((algorithm, encoded)) = word.split_once('-') else { continue };
            if let (Some(algorithm), Ok(bytes)) = (Algorithm::of(algorithm), STANDARD.decode(encoded)) {
                self.add(algorithm, bytes);
            }
        }
    }

    fn add(&mut self, algorithm: Algorithm, bytes: Vec<u8>) {
        if bytes.len() == algorithm.length() {
            self.digests.push((algorithm, bytes));
        }
    }

    /// Whether any digest is stated.
    pub fn is_checkable(&self) -> bool {
        !self.digests.is_empty()
    }

    /// The SHA-256, when exactly one is stated.
    pub fn single_sha256(&self) -> Option<Sha256Digest> {
        let mut found = self.digests.iter().filter(|(algorithm, _)| *algorithm == Algorithm::Sha256);
        let (_, bytes) = found.next()?;
        found.next().is_none().then(|| bytes.clone().try_into().ok().map(Sha256Digest)).flatten()
    }

    /// A short text that names what is stated, for the key under which it is remembered.
    pub fn key(&self) -> String {
        let strongest = self.digests.iter().max_by_key(|(algorithm, _)| *algorithm);
        strongest.map_or_else(String::new, |(algorithm, bytes)| format!("{algorithm:?}:{}", hex(bytes)))
    }
}

/// Checks bytes while they pass.
pub struct Check {
    sha256: Sha256,
    strongest: Option<(Algorithm, Box<dyn DynDigest + Send>)>,
    stated: Stated,
    size: u64,
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check").field("stated", &self.stated).field("size", &self.size).finish_non_exhaustive()
    }
}

/// Bytes are not what the index states.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} is {found}, but the index states {stated}")]
pub struct Mismatch {
    what: &'static str,
    found: String,
    stated: String,
}

impl Check {
    /// A check against what is stated: always the SHA-256 if there is one, and the strongest of the others.
    pub fn new(stated: Stated) -> Check {
        let strongest = stated.digests.iter().map(|(algorithm, _)| *algorithm).max();
        let strongest = strongest.filter(|algorithm| *algorithm != Algorithm::Sha256).map(|algorithm| (algorithm, algorithm.hasher()));
        Check { sha256: Sha256::default(), strongest, stated, size: 0 }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        Digest::update(&mut self.sha256, bytes);
        if let Some((_, hasher)) = &mut self.strongest {
            hasher.update(bytes);
        }
        self.size += bytes.len() as u64;
    }

    /// How many bytes were taken.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The SHA-256 and the size of everything, if they are what is stated.
    ///
    /// # Errors
    /// [`Mismatch`].
    pub fn finish(self) -> Result<(Sha256Digest, u64), Mismatch> {
        let Check { sha256, strongest, stated, size } = self;
        if let Some(expected) = stated.size.filter(|expected| *expected != size) {
            return Err(Mismatch { what: "the size", found: size.to_string(), stated: expected.to_string() });
        }
        let sha256 = Sha256Digest(Digest::finalize(sha256).into());
        let others = strongest.map(|(algorithm, hasher)| (algorithm, hasher.finalize().into_vec()));
        for (algorithm, found) in [(Algorithm::Sha256, sha256.0.to_vec())].into_iter().chain(others) {
            let mut expected = stated.digests.iter().filter(|(other, _)| *other == algorithm).map(|(_, bytes)| bytes).peekable();
            if let Some(first) = expected.peek() {
                let first = hex(first);
                if !expected.any(|bytes| *bytes == found) {
                    return Err(Mismatch { what: "the digest", found: hex(&found), stated: first });
                }
            }
        }
        Ok((sha256, size))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn check(stated: Stated, bytes: &[u8]) -> Result<(Sha256Digest, u64), Mismatch> {
        let mut check = Check::new(stated);
        bytes.iter().for_each(|byte| check.update(&[*byte]));
        check.finish()
    }

    #[test]
    fn every_algorithm_confirms_and_refutes() {
        let table = [
            ("md5", "900150983cd24fb0d6963f7d28e17f72"),
            ("sha1", "a9993e364706816aba3e25717850c26c9cd0d89d"),
            ("SHA256", ABC),
            (
                "sha512",
                "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
            ),
        ];
        for (algorithm, text) in table {
            let mut stated = Stated::default();
            stated.add_hex(algorithm, text);
            assert!(stated.is_checkable(), "{algorithm}");
            assert_eq!(check(stated.clone(), b"abc").unwrap().0.to_string(), ABC, "{algorithm}");
            assert!(check(stated, b"abd").is_err(), "{algorithm}");
        }
    }

    #[test]
    fn an_integrity_text_may_name_several_of_which_the_strongest_counts() {
        let mut stated = Stated::default();
        stated.add_integrity("sha1-qZk+NkcGgWq6PiVxeFDCbJzQ2J0= sha512-3a81oZNherrMQXNJriBBMRLm+k6JqX6iCp7u5ktV05ohkpkqJ0/BqDa6PCOj/uu9RU1EI2Q86A4qmslPpUyknw==");
        assert!(check(stated.clone(), b"abc").is_ok() && check(stated, b"x").is_err());
        let mut weak = Stated::default();
        weak.add_integrity("md9-xx sha512-short nonsense");
        assert!(!weak.is_checkable());
    }

    #[test]
    fn a_size_counts_too() {
        let stated = Stated { size: Some(4), ..Stated::default() };
        assert!(check(stated, b"abc").unwrap_err().to_string().contains("the size is 3"));
    }
}
