//! A virtual machine of a test's own: a kernel, an archive of files as its first file system, and what it says on a serial line.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The files of a guest: path, mode with type, content.
#[derive(Default)]
pub struct Guest {
    files: BTreeMap<PathBuf, (u32, Vec<u8>)>,
}

const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const DIRECTORY: u32 = 0o040_000;

impl Guest {
    /// With the links that a merged /usr has, and empty directories to mount on.
    pub fn new() -> Guest {
        let mut guest = Guest::default();
        for name in ["bin", "sbin", "lib", "lib64"] {
            guest.files.insert(Path::new("/").join(name), (LINK | 0o777, format!("usr/{name}").into_bytes()));
        }
        for name in ["/proc", "/sys", "/dev", "/new"] {
            guest.files.insert(name.into(), (DIRECTORY | 0o755, Vec::new()));
        }
        guest
    }

    pub fn file(&mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) {
        self.files.insert(path.into(), (REGULAR | mode, content.into()));
    }

    /// A program of the host at a path of the guest, with the libraries that it needs.
    pub fn program(&mut self, path: &str, source: &Path) {
        let mode = source.metadata().unwrap().permissions().mode() & 0o7777;
        self.file(path, mode, fs::read(source).unwrap());
        let output = Command::new("ldd").arg(source).output().unwrap();
        for word in String::from_utf8_lossy(&output.stdout).split_whitespace().filter(|word| word.starts_with('/')) {
            let target = if word.starts_with("/usr") { word.to_owned() } else { format!("/usr{word}") };
            self.file(&target, 0o755, fs::read(word).unwrap());
        }
    }

    /// The archive, in the form that a kernel unpacks (kernel `initramfs-buffer-format.rst`, `070701`).
    fn archive(&self) -> Vec<u8> {
        let mut directories = BTreeSet::new();
        for path in self.files.keys() {
            directories.extend(path.ancestors().skip(1).filter(|path| *path != Path::new("/")).map(Path::to_owned));
        }
        let mut archive = Vec::new();
        let mut number = 0;
        let mut entry = |path: &Path, mode: u32, content: &[u8]| {
            number += 1;
            let name = path.to_str().unwrap().trim_start_matches('/');
            archive.extend_from_slice(b"070701");
            let length = u32::try_from(content.len()).unwrap();
            for field in [number, mode, 0, 0, 1, 0, length, 0, 0, 0, 0, u32::try_from(name.len()).unwrap() + 1, 0] {
                archive.extend_from_slice(format!("{field:08x}").as_bytes());
            }
            archive.extend_from_slice(name.as_bytes());
            archive.push(0);
            archive.resize(archive.len().next_multiple_of(4), 0);
            archive.extend_from_slice(content);
            archive.resize(archive.len().next_multiple_of(4), 0);
        };
        for path in directories.iter().filter(|path| !self.files.contains_key(*path)) {
            entry(path, DIRECTORY | 0o755, &[]);
        }
        for (path, (mode, content)) in &self.files {
            entry(path, *mode, content);
        }
        entry(Path::new("TRAILER!!!"), 0, &[]);
        archive
    }

    /// Boots it, waits until it has powered itself off, and gives what it said on its second serial line.
    pub fn run(&self, kernel: &Path, longest: Duration) -> String {
        let place = tempfile::tempdir().unwrap();
        let (archive, said, console) = (place.path().join("files"), place.path().join("said"), place.path().join("console"));
        fs::write(&archive, self.archive()).unwrap();
        let mut machine = Command::new("qemu-system-x86_64")
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-m", "1536", "-smp", "2"])
            .args(["-display", "none", "-no-reboot", "-monitor", "none", "-nic", "none"])
            .args(["-serial", &format!("file:{}", console.display()), "-serial", &format!("file:{}", said.display())])
            .args(["-append", "console=ttyS0 quiet panic=-1 rdinit=/init"])
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(&archive)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + longest;
        let ended = loop {
            if let Some(status) = machine.try_wait().unwrap() {
                break status.success();
            }
            if Instant::now() > deadline {
                machine.kill().unwrap();
                machine.wait().unwrap();
                break false;
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let text = |path: &Path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).replace('\r', "")).unwrap_or_default();
        assert!(ended, "the guest did not end well:\n{}\n{}", text(&console), text(&said));
        text(&said)
    }
}
