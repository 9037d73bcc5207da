//! Masking: no cut of a stream lets a secret through. The first bytes say how it is cut; secrets stand in between.
#![no_main]

#[path = "../../agent/src"]
#[allow(dead_code)]
mod agent {
    pub mod mask;
}

use std::sync::{LazyLock, Mutex};

use agent::mask::Masker;

const SECRETS: [&[u8]; 3] = [b"s3cret-Value\nsecond line of it", b"aaaaaaab", b"\xff\xfe\x00binary\xff\xfe"];

/// One for all streams: it is ready for the next when one is finished.
static MASKER: LazyLock<Mutex<Masker>> = LazyLock::new(|| Mutex::new(Masker::new(SECRETS).unwrap()));

fn masked(bytes: &[u8], cut: usize) -> Vec<u8> {
    let mut masker = MASKER.lock().unwrap();
    let mut out = Vec::new();
    for part in bytes.chunks(cut.max(1)) {
        masker.push(part, &mut out);
    }
    masker.finish(&mut out);
    out
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((cut, rest)) = input.split_first() else { return };
    // A byte of 1, 2 or 3 stands for a secret: a fuzzer does not write one by itself.
    let mut bytes = Vec::new();
    for byte in rest {
        match byte {
            1..=3 => bytes.extend_from_slice(SECRETS[usize::from(byte - 1)]),
            byte => bytes.push(*byte),
        }
    }
    let whole = masked(&bytes, bytes.len());
    for secret in [&b"s3cret-Value"[..], b"second line of it", SECRETS[1], SECRETS[2]] {
        assert!(!whole.windows(secret.len()).any(|window| window == secret), "{:?}", String::from_utf8_lossy(secret));
    }
    assert_eq!(whole, masked(&bytes, usize::from(*cut)));
    assert_eq!(whole, masked(&bytes, 1));
});
