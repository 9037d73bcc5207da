//! Folders that stand in for archives and registries: what they have is served and checked, and what they cannot say is refused.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use caisson_gateway::answer::Terms;
use caisson_gateway::digest::Sha256Digest;
use caisson_gateway::door::Door;
use caisson_gateway::gateway::Gateway;
use caisson_gateway::served::{Ecosystem, Origin, Served, ServedResult, Sink, Sinks};
use caisson_gateway::settings::{Archive, DEFAULT_QUOTA, NpmSources, Reach, Settings, Source};

/// A door, and what it told.
struct House {
    runtime: tokio::runtime::Runtime,
    door: Option<Door>,
    address: SocketAddr,
    told: Arc<Mutex<Vec<Served>>>,
}

impl House {
    fn open(settings: Settings, ecosystem: Ecosystem, before: Option<&str>) -> House {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let before =
            before.map(|day| u64::try_from(format!("{day}T00:00:00Z").parse::<jiff::Timestamp>().unwrap().as_millisecond()).unwrap());
        let told: Arc<Mutex<Vec<Served>>> = Arc::default();
        let heard = Arc::clone(&told);
        let sinks: Sinks = Arc::new(move |_, _| {
            let heard = Arc::clone(&heard);
            let sink: Sink = Arc::new(move |served| heard.lock().unwrap().push(served));
            Box::pin(std::future::ready(sink))
        });
        let terms = Terms { before, reach: Reach::Online };
        let door = runtime.block_on(async { Door::open(&Gateway::new(settings), ecosystem, listener, terms, sinks).unwrap() });
        House { runtime, door: Some(door), address, told }
    }

    /// Status and body.
    fn ask(&self, path: &str) -> (u16, Vec<u8>) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
        let mut answer = Vec::new();
        // What is cut off on purpose ends with a reset.
        let _cut = stream.read_to_end(&mut answer);
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        let status = String::from_utf8_lossy(&answer[9..12]).parse().unwrap();
        (status, answer.split_off(end))
    }

    fn close(mut self) -> Vec<Served> {
        self.runtime.block_on(self.door.take().unwrap().close());
        let told = self.told.lock().unwrap();
        told.clone()
    }
}

fn settings(place: &Path) -> Settings {
    Settings { store: place.join("store"), quota: DEFAULT_QUOTA, ..Settings::default() }
}

const PACKAGE: &[u8] = b"not really a package, but exactly these bytes";

/// A mirror's tree with one package; the settings that name it.
fn archive(place: &Path) -> Settings {
    let root = place.join("mirror");
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let index = format!("main/binary-{arch}/Packages");
    fs::create_dir_all(root.join(format!("dists/stable/main/binary-{arch}"))).unwrap();
    fs::create_dir_all(root.join("pool")).unwrap();
    fs::write(root.join("pool/a_1_all.deb"), PACKAGE).unwrap();
    let packages = format!("Package: a\nFilename: pool/a_1_all.deb\nSize: {}\nSHA256: {}\n", PACKAGE.len(), Sha256Digest::of(PACKAGE));
    fs::write(root.join("dists/stable").join(&index), &packages).unwrap();
    let stated = format!(" {} {} {index}\n", Sha256Digest::of(packages.as_bytes()), packages.len());
    fs::write(root.join("dists/stable/Release"), format!("Suite: stable\nDate: Sat, 11 May 2024 09:54:04 UTC\nSHA256:\n{stated}")).unwrap();
    let (suites, components) = (vec!["stable".to_owned()], vec!["main".to_owned()]);
    let source = Source::folder(&root).unwrap();
    Settings { debian: vec![Archive { source, suites, components, options: Vec::new() }], ..settings(place) }
}

#[test]
fn a_mirrors_tree_is_an_archive() {
    let place = tempfile::tempdir().unwrap();
    let settings = archive(place.path());
    let house = House::open(settings.clone(), Ecosystem::Debian, None);
    assert_eq!(house.ask("/0/dists/stable/Release").0, 200);
    assert_eq!(house.ask("/0/pool/a_1_all.deb"), (200, PACKAGE.to_vec()));
    assert_eq!(house.ask("/0/pool/b_1_all.deb").0, 403);
    assert_eq!(house.ask("/0/dists/stable/InRelease").0, 404);
    assert!(house.close().iter().any(|served| served.name == "a" && matches!(served.result, ServedResult::Served(_))));
    // What is not what the index states does not pass.
    let place = tempfile::tempdir().unwrap();
    let settings = archive(place.path());
    fs::write(place.path().join("mirror/pool/a_1_all.deb"), PACKAGE.to_ascii_uppercase()).unwrap();
    let house = House::open(settings, Ecosystem::Debian, None);
    assert_ne!(house.ask("/0/pool/a_1_all.deb").1, PACKAGE.to_ascii_uppercase());
    let told = house.close();
    assert!(told.iter().any(|served| matches!(&served.result, ServedResult::Missed(why) if why.contains("is refused"))), "{told:?}");
}

#[test]
fn an_archive_answers_as_of_a_day_that_its_release_is_before() {
    let place = tempfile::tempdir().unwrap();
    let settings = archive(place.path());
    let house = House::open(settings.clone(), Ecosystem::Debian, Some("2024-06-01"));
    assert_eq!(house.ask("/0/pool/a_1_all.deb"), (200, PACKAGE.to_vec()));
    drop(house);
    let house = House::open(settings, Ecosystem::Debian, Some("2024-05-11"));
    for path in ["/0/dists/stable/Release", "/0/pool/a_1_all.deb"] {
        let (status, body) = house.ask(path);
        let body = String::from_utf8(body).unwrap();
        assert!(status == 403 && body.contains("'stable' is of Sat, 11 May 2024 09:54:04 UTC") && body.contains("snapshot"), "{body}");
    }
}

/// A tarball of a package with this `package.json`.
fn tarball(manifest: &str) -> Vec<u8> {
    let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    let mut header = tar::Header::new_gnu();
    header.set_size(manifest.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, "package/package.json", manifest.as_bytes()).unwrap();
    archive.into_inner().unwrap().finish().unwrap()
}

#[test]
fn a_folder_of_tarballs_is_a_registry() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("tarballs/deep");
    fs::create_dir_all(&folder).unwrap();
    for (file, version) in [("x.tgz", "1.0.0"), ("anything.tgz", "1.10.0"), ("pre.tgz", "2.0.0-beta.1")] {
        let manifest = format!("{{\"name\": \"@team/demo\", \"version\": \"{version}\", \"dependencies\": {{\"other\": \"1\"}}}}");
        fs::write(folder.join(file), tarball(&manifest)).unwrap();
    }
    fs::write(folder.join("broken.tgz"), "no archive").unwrap();
    let npm = NpmSources { registry: Source::parse("https://registry.example/"), ..NpmSources::default() };
    let settings = Settings { npm, npm_folder: Some(place.path().join("tarballs")), ..settings(place.path()) };
    let house = House::open(settings.clone(), Ecosystem::Npm, None);
    let (status, body) = house.ask("/@team%2fdemo");
    let told: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &told["dist-tags"]["latest"]), (200, &serde_json::json!("1.10.0")), "{told}");
    assert_eq!(told["versions"]["1.0.0"]["dependencies"]["other"], serde_json::json!("1"));
    let integrity = told["versions"]["1.0.0"]["dist"]["integrity"].as_str().unwrap();
    assert!(integrity.starts_with("sha256-") && !String::from_utf8(body).unwrap().contains("deep"), "where it lies is nobody's business");
    assert_eq!(house.ask("/@team/demo/-/demo-1.0.0.tgz"), (200, fs::read(folder.join("x.tgz")).unwrap()));
    let (status, body) = house.ask("/absent");
    assert!(status == 404 && String::from_utf8(body).unwrap().contains("has no 'absent'"));
    let served = house.close();
    assert!(served.iter().any(|one| one.file == "demo-1.0.0.tgz" && one.result == ServedResult::Served(Origin::Folder)), "{served:?}");
    let house = House::open(settings, Ecosystem::Npm, Some("2024-06-01"));
    assert_eq!(house.ask("/@team%2fdemo").0, 403, "a folder knows no days");
}
