//! Limits on cgroup version 2 with all its controllers, in a real boot of another kernel: Debian's, in a virtual machine
//! without any help of the processor. What the machine that runs the tests has for cgroups plays no part.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

mod guest;
mod place;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use guest::Guest;
use place::needs;
use serde_json::Value;

/// The first process: moves everything to a file system that can be pivoted away from, which the kernel's first one is not.
const FIRST: &str = "#!/bin/sh
mount -t tmpfs -o size=700m,mode=755 new /new
for name in usr etc bin sbin lib lib64 caisson second overlay.ko; do cp -a /$name /new/; done
mkdir -p /new/proc /new/sys /new/dev /new/tmp /new/run /new/root
mount -t devtmpfs dev /new/dev
exec switch_root /new /second
";

/// What happens there. Each command is alone in a group of its own, as in a scope of systemd.
const SECOND: &str = r#"#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t tmpfs run /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
insmod /overlay.ko
exec >/dev/ttyS1 2>&1
echo '+cpu +memory +pids' > /sys/fs/cgroup/cgroup.subtree_control
group() { mkdir /sys/fs/cgroup/$1; }
alone() { where=$1; shift; sh -c 'echo $$ > /sys/fs/cgroup/'$where'/cgroup.procs; exec "$@"' sh "$@"; }
report() { echo; echo "CODE $1 $2"; echo "BEGIN $1"; cat /tmp/$1.json; echo "END $1"; }
cd /usr
GROW='x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done'

group memory
alone memory /caisson exec --memory 64MiB --report /tmp/memory.json -- sh -c "sleep 1000 & $GROW"
report memory $?
group pids
alone pids /caisson exec --pids 16 --report /tmp/pids.json -- sh -c 'for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 5 & done'
report pids $?
group cpu
alone cpu /caisson exec --cpus 0.1 --timeout 4s --report /tmp/cpu.json -- sh -c 'while :; do :; done'
report cpu $?
group delegated
for file in . cgroup.procs cgroup.subtree_control cgroup.threads; do chown 1000 /sys/fs/cgroup/delegated/$file; done
alone delegated setpriv --reuid 1000 --regid 1000 --clear-groups env HOME=/nonexistent /caisson exec --memory 64MiB --report /tmp/delegated.json -- sh -c "$GROW"
report delegated $?
group selftest
alone selftest /caisson selftest --json --mode root ATTACKS > /tmp/selftest.json
report selftest $?
echo 'BEGIN left'
find /sys/fs/cgroup -name 'caisson-[0-9]*'
echo 'END left'
echo o > /proc/sysrq-trigger
sleep 60
"#;

/// What of the suite is tried with every test run: all of it takes minutes in emulation. `CAISSON_GUEST=all` tries all of it, and
/// prints what was not refused.
const ATTACKS: &str = "--attack survival.double-fork,survival.stopped,resources.memory-file,resources.threads,files.cgroup,files.release-agent,information.cgroup-path";

const PROGRAMS: [&str; 14] = [
    "/usr/bin/mount",
    "/usr/bin/mkdir",
    "/usr/bin/cat",
    "/usr/bin/cp",
    "/usr/bin/sleep",
    "/usr/bin/chown",
    "/usr/bin/find",
    "/usr/bin/env",
    "/usr/bin/setpriv",
    "/usr/bin/newuidmap",
    "/usr/bin/newgidmap",
    "/usr/sbin/switch_root",
    "/usr/sbin/insmod",
    "/usr/bin/true",
];

/// Debian's kernel, as `.ci/run` fetches it: the package in `target/kernel`, unpacked to `place`. Its image and the module
/// for overlays.
fn kernel(place: &Path) -> Option<(PathBuf, PathBuf)> {
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/kernel");
    let package = std::fs::read_dir(packages).ok()?.flatten().map(|entry| entry.path()).find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with("linux-image-") && name.ends_with(".deb")
    })?;
    let status = Command::new("dpkg").arg("-x").arg(package).arg(place).status().ok()?;
    assert!(status.success(), "the kernel's package cannot be unpacked");
    let found = |wanted: &dyn Fn(&str) -> bool| {
        walkdir::WalkDir::new(place)
            .into_iter()
            .flatten()
            .find(|entry| entry.file_type().is_file() && wanted(&entry.file_name().to_string_lossy()))
            .map(walkdir::DirEntry::into_path)
    };
    Some((found(&|name| name.starts_with("vmlinuz"))?, found(&|name| name == "overlay.ko")?))
}

/// The exit codes and the text between BEGIN and END, by name.
fn parts(said: &str) -> (BTreeMap<String, i32>, BTreeMap<String, String>) {
    let (mut codes, mut texts) = (BTreeMap::new(), BTreeMap::new());
    let mut open: Option<(String, String)> = None;
    for line in said.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match (&mut open, words.as_slice()) {
            (Some(_), ["END", _]) => texts.extend(open.take()),
            (Some((_, text)), _) => text.extend([line, "\n"]),
            (None, ["CODE", name, code]) => drop(codes.insert((*name).to_owned(), code.parse().unwrap())),
            (None, ["BEGIN", name]) => open = Some(((*name).to_owned(), String::new())),
            _ => {}
        }
    }
    (codes, texts)
}

#[test]
fn limits_hold_on_cgroup_version_2_as_root_and_delegated() {
    let place = tempfile::tempdir().unwrap();
    let tools = ["/usr/bin/qemu-system-x86_64", "/usr/bin/strip"];
    let absent = tools.iter().chain(&PROGRAMS).find(|path| !Path::new(path).exists());
    if !needs(cfg!(target_arch = "x86_64"), "the guest is an x86_64 one")
        || !needs(absent.is_none(), &format!("{} is not here", absent.unwrap_or(&"")))
    {
        return;
    }
    let Some((image, overlay)) = kernel(place.path()) else {
        needs(false, "there is no kernel's package in target/kernel; .ci/run fetches it");
        return;
    };
    let stripped = place.path().join("caisson");
    assert!(Command::new("strip").arg("-o").arg(&stripped).arg(env!("CARGO_BIN_EXE_caisson")).status().unwrap().success());
    let mut guest = Guest::new();
    guest.program("/caisson", &stripped);
    guest.program("/usr/bin/sh", &Path::new("/bin/sh").canonicalize().unwrap());
    for path in PROGRAMS {
        guest.program(path, Path::new(path));
    }
    guest.file("/overlay.ko", 0o644, std::fs::read(overlay).unwrap());
    guest.file("/init", 0o755, FIRST);
    let whole = std::env::var("CAISSON_GUEST").is_ok_and(|which| which == "all");
    guest.file("/second", 0o755, SECOND.replace("ATTACKS", if whole { "" } else { ATTACKS }));
    guest.file("/etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nbuilder:x:1000:1000::/:/bin/sh\n");
    guest.file("/etc/group", 0o644, "root:x:0:\nbuilder:x:1000:\n");
    for name in ["/etc/subuid", "/etc/subgid"] {
        guest.file(name, 0o644, "builder:100000:65536\n");
    }
    // Seconds on an idle machine; all of it is emulated, and others may use the same processors.
    let said = guest.run(&image, Duration::from_secs(if whole { 3600 } else { 600 }));
    let (codes, texts) = parts(&said);
    let report = |name: &str| -> Value { serde_json::from_str(&texts[name]).unwrap_or_else(|error| panic!("{name}: {error}\n{said}")) };
    let enforces = |report: &Value, name: &str| report["enforced"].as_array().unwrap().iter().any(|held| held == name);
    for (name, code) in [("memory", 137), ("pids", 2), ("cpu", 124), ("delegated", 137), ("selftest", 0)] {
        assert_eq!(codes.get(name), Some(&code), "{name}\n{said}");
    }
    // The kernel took the whole group, the process that had done nothing as well: it would have kept the sandbox for long.
    for name in ["memory", "delegated"] {
        let report = report(name);
        assert_eq!(report["cause"]["kind"], "out-of-memory", "{report}");
        assert!(enforces(&report, "memory-limit") && enforces(&report, "pids-limit"), "{report}");
        assert_eq!(report["peak_memory_bytes"], 64 << 20, "{report}");
        assert!(report["times"]["wall_seconds"].as_f64().unwrap() < 500.0, "{report}");
    }
    let pids = report("pids");
    assert_eq!((&pids["cause"]["kind"], &pids["peak_pids"]), (&"too-many-processes".into(), &16.into()), "{pids}");
    let cpu = report("cpu");
    assert_eq!(cpu["cause"]["kind"], "timed-out", "{cpu}");
    let used = cpu["times"]["user_seconds"].as_f64().unwrap() + cpu["times"]["system_seconds"].as_f64().unwrap();
    // A tenth of four seconds, and what building it in emulation takes.
    assert!(enforces(&cpu, "cpu-limit") && used < 2.5, "{cpu}");
    let selftest = report("selftest");
    assert_eq!((&selftest["ok"], &selftest["cgroup"]), (&true.into(), &"v2".into()), "{selftest}");
    if whole {
        let all = selftest["attacks"].as_array().unwrap();
        let other = all.iter().filter(|attack| attack["result"] != "refused");
        eprintln!("{}\n{}", selftest["counts"], other.map(ToString::to_string).collect::<Vec<_>>().join("\n"));
    }
    assert!(selftest["counts"]["refused"].as_u64().unwrap() >= 12, "{selftest}");
    assert_eq!(texts["left"], "", "groups are left behind");
}
