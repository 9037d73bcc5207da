#![allow(clippy::unwrap_used)]

use std::io::Cursor;

use proptest::prelude::{ProptestConfig, any, proptest};

use super::*;

const HOME: &str = "/home/runner";
const MOST: u64 = 1 << 20;

fn places() -> Places {
    Places { workspace: "/home/runner/work/app/app".to_owned(), kept: vec![HOME.to_owned(), "/opt/hostedtoolcache".to_owned()] }
}

fn file() -> File {
    tempfile::tempfile().unwrap()
}

fn zip(entries: &[(&str, &str)]) -> Cursor<Vec<u8>> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        writer.start_file(*name, SimpleFileOptions::default()).unwrap();
        writer.write_all(content.as_bytes()).unwrap();
    }
    writer.finish().unwrap()
}

/// Names and contents of a tar archive, in its order.
fn listed(archive: impl Read) -> Vec<(String, EntryType, String)> {
    let mut archive = Archive::new(archive);
    let entries = archive.entries().unwrap();
    entries
        .map(|entry| {
            let mut entry = entry.unwrap();
            let (name, kind) = (String::from_utf8(entry.path_bytes().to_vec()).unwrap(), entry.header().entry_type());
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            if let Some(target) = entry.link_name_bytes() {
                content = String::from_utf8(target.to_vec()).unwrap();
            }
            (name, kind, content)
        })
        .collect()
}

/// A tar archive whose names are written as they stand, as GNU tar writes them with `-P`.
fn raw_tar(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, kind, content) in entries {
        let mut header = Header::new_gnu();
        let link = matches!(kind, EntryType::Symlink | EntryType::Link);
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        if link {
            header.as_gnu_mut().unwrap().linkname[..content.len()].copy_from_slice(content.as_bytes());
        }
        header.set_entry_type(*kind);
        header.set_mode(0o640);
        header.set_size(if link { 0 } else { content.len() as u64 });
        header.set_cksum();
        builder.append(&header, if link { &[][..] } else { content.as_bytes() }).unwrap();
    }
    builder.into_inner().unwrap()
}

fn packed(tar: &[u8], packing: Packing) -> Cursor<Vec<u8>> {
    Cursor::new(match packing {
        Packing::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(tar).unwrap();
            encoder.finish().unwrap()
        }
        _ => zstd::stream::encode_all(tar, 1).unwrap(),
    })
}

fn cache(entries: &[(&str, EntryType, &str)]) -> Result<Vec<(String, EntryType, String)>, FormError> {
    let archive = packed(&raw_tar(entries), Packing::Zstd);
    tar_of_cache(archive, file(), MOST, &places()).map(|(packed, _)| listed(packed.file))
}

#[test]
fn an_artifact_goes_there_and_back() {
    let (packed, files) = tar_of_zip(zip(&[("a.txt", "one"), ("b/c.txt", "two"), ("empty", "")]), file(), MOST).unwrap();
    assert_eq!((files, packed.bytes), (3, packed.file.metadata().unwrap().len()));
    assert_eq!(
        Digest(Sha256::digest(std::fs::read(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&packed.file))).unwrap()).into()),
        packed.digest
    );
    let mut back = ZipArchive::new(zip_of_tar(packed.file, file()).unwrap()).unwrap();
    let mut content = String::new();
    back.by_name("b/c.txt").unwrap().read_to_string(&mut content).unwrap();
    assert_eq!((content.as_str(), back.len()), ("two", 3));
}

#[test]
fn an_artifact_leads_nowhere_and_is_bounded() {
    for name in ["/etc/passwd", "../x", "a/../../x", "a\\b", "a\nb", "./a", "a//b"] {
        assert!(matches!(tar_of_zip(zip(&[(name, "x")]), file(), MOST), Err(FormError::Entry { .. })), "{name:?}");
        assert!(tar_of_file(name, &b"x"[..], 1, file()).is_err(), "{name:?}");
    }
    let zeros = "\0".repeat(600_000);
    assert!(tar_of_zip(zip(&[("a", &zeros)]), file(), MOST).is_ok());
    assert!(matches!(tar_of_zip(zip(&[("a", &zeros), ("b", &zeros)]), file(), MOST), Err(FormError::Large(_))));
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    writer.add_symlink("link", "/etc/passwd", SimpleFileOptions::default()).unwrap();
    assert!(matches!(tar_of_zip(writer.finish().unwrap(), file(), MOST), Err(FormError::Entry { .. })));
    assert!(tar_of_zip(Cursor::new(b"no archive".to_vec()), file(), MOST).is_err());
}

#[test]
fn a_digest_is_held_against_what_came() {
    let mut content = Cursor::new(b"abc".to_vec());
    let stated = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    check(&mut content, stated).unwrap();
    assert_eq!(content.position(), 0);
    assert!(matches!(check(&mut content, &stated.replace('b', "c")), Err(FormError::Digest)));
}

#[test]
fn a_cache_goes_there_and_back() {
    let entries = [
        ("../../../.cache/pip/", EntryType::Directory, ""),
        ("../../../.cache/pip/wheel", EntryType::Regular, "bytes"),
        ("node_modules/a.js", EntryType::Regular, "js"),
        ("node_modules/link", EntryType::Symlink, "../anywhere/at/all"),
        ("/home/runner/hard", EntryType::Link, "../../../.cache/pip/wheel"),
    ];
    let there = [
        ("home/runner/.cache/pip/", EntryType::Directory, ""),
        ("home/runner/.cache/pip/wheel", EntryType::Regular, "bytes"),
        ("home/runner/work/app/app/node_modules/a.js", EntryType::Regular, "js"),
        ("home/runner/work/app/app/node_modules/link", EntryType::Symlink, "../anywhere/at/all"),
        ("home/runner/hard", EntryType::Link, "home/runner/.cache/pip/wheel"),
    ]
    .map(|(name, kind, content)| (name.to_owned(), kind, content.to_owned()));
    for packing in [Packing::Zstd, Packing::Gzip] {
        let (kept, found) = tar_of_cache(packed(&raw_tar(&entries), packing), file(), MOST, &places()).unwrap();
        assert_eq!(found, packing);
        assert_eq!(listed(kept.file.try_clone().unwrap()), there);
        let mut kept = kept.file;
        kept.rewind().unwrap();
        let out = cache_of_tar(kept, file(), packing, &places()).unwrap();
        let unpacked: Box<dyn Read> = match packing {
            Packing::Gzip => Box::new(flate2::read::GzDecoder::new(out)),
            _ => Box::new(zstd::stream::read::Decoder::new(out).unwrap()),
        };
        let back = listed(unpacked);
        let expected: Vec<_> = there
            .iter()
            .map(|(name, kind, content)| {
                let content = if *kind == EntryType::Link { format!("/{content}") } else { content.clone() };
                (format!("/{name}"), *kind, content)
            })
            .collect();
        assert_eq!(back, expected);
    }
}

/// What the built-in action packs begins at `/`: directories above those that the job keeps must not be unpacked by a client.
#[test]
fn directories_above_the_jobs_own_are_left_out() {
    let tar = raw_tar(&[
        ("./", EntryType::Directory, ""),
        ("./home/", EntryType::Directory, ""),
        ("./home/runner/", EntryType::Directory, ""),
        ("./home/runner/.cache/", EntryType::Directory, ""),
        ("./home/runner/.cache/x", EntryType::Regular, "x"),
    ]);
    let out = cache_of_tar(&tar[..], file(), Packing::Zstd, &places()).unwrap();
    let names: Vec<String> = listed(zstd::stream::read::Decoder::new(out).unwrap()).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, ["/home/runner/.cache/", "/home/runner/.cache/x"]);
}

#[test]
fn a_cache_holds_what_the_job_keeps_and_nothing_else() {
    for wrong in [
        ("/etc/passwd", EntryType::Regular, "x"),
        ("../../../../../etc/passwd", EntryType::Regular, "x"),
        ("/home/runner/../other/x", EntryType::Regular, "x"),
        ("/home/runnerx/x", EntryType::Regular, "x"),
        ("device", EntryType::Block, ""),
        ("fifo", EntryType::Fifo, ""),
        ("hard", EntryType::Link, "/etc/passwd"),
    ] {
        assert!(matches!(cache(&[wrong]), Err(FormError::Entry { .. })), "{wrong:?}");
    }
    assert!(cache(&[("/opt/hostedtoolcache/Python/x", EntryType::Regular, "x")]).is_ok());
    let bomb = packed(&raw_tar(&[("a", EntryType::Regular, &"\0".repeat(2 << 20))]), Packing::Gzip);
    assert!(bomb.get_ref().len() < 50_000);
    assert!(matches!(tar_of_cache(bomb, file(), MOST, &places()), Err(FormError::Large(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_bytes_break_anything(flips in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..8)) {
        let spoil = |mut bytes: Vec<u8>| {
            let length = bytes.len();
            flips.iter().for_each(|(at, byte)| bytes[usize::from(*at) % length] = *byte);
            Cursor::new(bytes)
        };
        // Whether they are taken does not matter; that they end does.
        let _ = tar_of_zip(spoil(zip(&[("a", "one"), ("b/c", "two")]).into_inner()), file(), MOST);
        let tar = raw_tar(&[("a", EntryType::Regular, "one"), ("b", EntryType::Symlink, "a"), ("c", EntryType::Link, "a")]);
        let _ = tar_of_cache(packed(&spoil(tar.clone()).into_inner(), Packing::Gzip), file(), MOST, &places());
        let _ = tar_of_cache(spoil(packed(&tar, Packing::Zstd).into_inner()), file(), MOST, &places());
    }
}
