//! Archives that a step wrote: artifacts that are brought to the user's machine, and what the clients of actions upload.
#![no_main]

#[path = "../../src/unpack.rs"]
#[allow(dead_code)]
mod unpack;

use std::fs::File;
use std::io::{Cursor, Read, Write};
use std::path::Path;

use caisson_toolkit::forms::{Packing, Places, cache_of_tar, tar_of_cache, tar_of_zip, zip_of_tar};

/// What an archive may come to, unpacked.
const MOST: u64 = 1 << 20;

/// The next piece of the input: its length comes before it.
fn piece<'a>(bytes: &mut &'a [u8]) -> &'a [u8] {
    let Some((&length, rest)) = bytes.split_first() else { return &[] };
    let (piece, rest) = rest.split_at(usize::from(length).min(rest.len()));
    *bytes = rest;
    piece
}

/// A tar archive whose headers say what the input wants and whose sums are right, so that more than the sum is tried.
fn tar_of(mut bytes: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    for _ in 0..16 {
        let Some((&kind, rest)) = bytes.split_first() else { break };
        bytes = rest;
        let (name, link, content) = (piece(&mut bytes), piece(&mut bytes), piece(&mut bytes));
        let mut header = tar::Header::new_gnu();
        let raw = header.as_gnu_mut().unwrap();
        raw.name[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        raw.linkname[..link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
        header.set_mode(0o6777);
        header.set_size(if kind & 0x80 == 0 { content.len() as u64 } else { u64::from(kind) << 33 });
        header.set_entry_type(tar::EntryType::new(b"0125xgLKS7"[usize::from(kind & 0x7f) % 10]));
        header.set_cksum();
        archive.extend_from_slice(header.as_bytes());
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// A zip archive of such names, with bytes of it changed as the input says.
fn zip_of(mut bytes: &[u8]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let changes = piece(&mut bytes).to_vec();
    for _ in 0..8 {
        if bytes.is_empty() {
            break;
        }
        let (name, content) = (String::from_utf8_lossy(piece(&mut bytes)).into_owned(), piece(&mut bytes));
        let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
        if writer.start_file(name, options).is_ok() {
            let _ = writer.write_all(content);
        }
    }
    let mut archive = writer.finish().map(Cursor::into_inner).unwrap_or_default();
    for change in changes.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]]));
        if let Some(byte) = archive.get_mut(at) {
            *byte = change[2];
        }
    }
    archive
}

/// Nothing but regular files and directories may lie below.
fn only_files(directory: &Path) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        assert!(kind.is_file() || kind.is_dir(), "{:?}", entry.path());
        if kind.is_dir() {
            only_files(&entry.path());
        }
    }
}

/// The archive that a keeper has: each entry must be a regular file by a relative path that stays below, or what a cache may hold.
fn stays(archive: File, below: &dyn Fn(&str) -> bool) {
    let mut total = 0;
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        assert!(!path.split('/').any(|part| part == "..") && below(&path), "{path:?}");
        total += std::io::copy(&mut entry, &mut std::io::sink()).unwrap();
    }
    assert!(total <= MOST, "{total} bytes");
}

fn file() -> File {
    tempfile::tempfile().unwrap()
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&which, rest)) = bytes.split_first() else { return };
    let archive = match which & 3 {
        0 => rest.to_vec(),
        1 => zip_of(rest),
        _ => tar_of(rest),
    };
    let places = Places { workspace: "/w/r".to_owned(), kept: vec!["/w".to_owned(), "/home".to_owned()] };
    match which >> 2 & 3 {
        0 => {
            let outer = tempfile::tempdir().unwrap();
            let base = outer.path().join("base");
            std::fs::create_dir(&base).unwrap();
            let _ = unpack::unpack(&archive[..], &base);
            assert_eq!(std::fs::read_dir(outer.path()).unwrap().count(), 1);
            only_files(&base);
        }
        1 => {
            if let Ok((packed, files)) = tar_of_zip(Cursor::new(&archive), file(), MOST) {
                stays(packed.file.try_clone().unwrap(), &|path| !path.starts_with('/'));
                let mut again = packed.file;
                std::io::Seek::rewind(&mut again).unwrap();
                let back = zip_of_tar(again, file()).unwrap();
                assert!(zip::ZipArchive::new(back).unwrap().len() <= files as usize);
            }
        }
        2 => {
            let packed = if which & 0x40 == 0 { archive } else { zstd::encode_all(&archive[..], 1).unwrap() };
            if let Ok((packed, packing)) = tar_of_cache(Cursor::new(&packed), file(), MOST, &places) {
                let below = |path: &str| ["w", "home", "/w", "/home"].iter().any(|kept| Path::new(path).starts_with(kept));
                stays(packed.file.try_clone().unwrap(), &below);
                let mut again = packed.file;
                std::io::Seek::rewind(&mut again).unwrap();
                let _ = cache_of_tar(again, file(), packing, &places);
            }
        }
        _ => {
            let packing = [Packing::Zip, Packing::Zstd, Packing::Gzip][usize::from(which >> 6) % 3];
            let _ = zip_of_tar(&archive[..], file());
            if let Ok(mut back) = cache_of_tar(&archive[..], file(), packing, &places) {
                let _ = back.read(&mut [0; 16]);
            }
        }
    }
});
