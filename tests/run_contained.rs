//! Inside other people's walls: a container as engines make it by default, one that is opened for caisson, and a part of the cgroups
//! that was handed to an ordinary user, as a service manager does it.

#![allow(clippy::unwrap_used, clippy::panic)]

mod place;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Output;

use place::{Place, needs};
use serde_json::Value;

/// Namespaces, a read-only /sys and the capabilities that container engines give by default. `hide` does to /proc what they do.
const CONTAINER: &str = r#"
mount -t proc proc /proc
if [ "$0" = hide ]; then
    for name in kcore keys timer_list; do [ ! -e /proc/$name ] || mount --bind /dev/null /proc/$name; done
    for name in acpi scsi; do [ ! -d /proc/$name ] || mount -t tmpfs -o ro,size=4k tmpfs /proc/$name; done
    for name in bus fs irq sys; do mount --bind /proc/$name /proc/$name && mount -o remount,bind,ro /proc/$name; done
fi
for path in $(grep ' /sys' /proc/self/mounts | cut -d' ' -f2); do mount -o remount,bind,ro "$path" 2>/dev/null || true; done
exec setpriv --inh-caps=-all --bounding-set=-all,+chown,+dac_override,+fsetid,+fowner,+mknod,+net_raw,+setgid,+setuid,+setfcap,+setpcap,+net_bind_service,+sys_chroot,+kill,+audit_write -- "$@"
"#;

fn contained(place: &Place, how: &str, words: &[&str]) -> Output {
    let mut all = vec!["-m", "-p", "-f", "-u", "-i", "--propagation", "private", "sh", "-c", CONTAINER, how, env!("CARGO_BIN_EXE_caisson")];
    all.extend(words);
    place.program("unshare", &all).output().unwrap()
}

fn is_root() -> bool {
    needs(nix::unistd::geteuid().is_root(), "only root can put walls around a test")
}

fn doctor(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn state<'d>(doctor: &'d Value, protection: &str) -> &'d Value {
    doctor["protections"].as_array().unwrap().iter().find(|standing| standing["protection"] == protection).unwrap()
}

#[test]
fn a_container_is_told_from_a_host_and_what_it_hides_is_named() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let output = contained(&place, "hide", &["doctor", "--json"]);
    let found = doctor(&output);
    assert_eq!(output.status.code(), Some(3), "{found}");
    assert!(found["around"]["container"].is_string(), "{found}");
    assert_eq!(found["sandbox"]["built"], false, "{found}");
    assert!(found["sandbox"]["reason"].as_str().unwrap().contains("systempaths=unconfined"), "{found}");
    let memory = state(&found, "memory-limit");
    assert_eq!(memory["state"], "refuses-steps", "{memory}");
    assert!(memory["action"].as_str().unwrap().contains("container"), "{memory}");
    // Nothing is run with less than was promised: neither by default nor where only the limit is given up.
    for words in [&["exec", "--", "true"][..], &["exec", "--allow-missing", "memory-limit", "--", "true"]] {
        let output = contained(&place, "hide", words);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
    }
    let text = contained(&place, "hide", &["doctor"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("in a container") && text.contains("No sandbox can be built here"), "{text}");
    for line in ["no   memory-limit", "yes  seccomp"] {
        assert!(text.lines().any(|found| found.trim_start().starts_with(line)), "{line}: {text}");
    }
}

#[test]
fn a_container_that_hides_nothing_has_everything_but_limits() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let output = contained(&place, "show", &["doctor", "--json", "--allow-missing", "memory-limit"]);
    let found = doctor(&output);
    assert_eq!((output.status.code(), &found["sandbox"]["built"]), (Some(0), &Value::Bool(true)), "{found}");
    assert_eq!(state(&found, "memory-limit")["state"], "allowed", "{found}");
    let report = place.path().join("report.json");
    let words = [
        "exec",
        "--allow-missing",
        "memory-limit",
        "--report",
        report.to_str().unwrap(),
        "--",
        "sh",
        "-c",
        "id -u; grep CapEff /proc/self/status",
    ];
    let output = contained(&place, "show", &words);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1000\nCapEff:\t0000000000000000\n", "{output:?}");
    let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    let named = |list: &str, name: &str| report[list].to_string().contains(name);
    assert!(named("enforced", "\"seccomp\"") && named("missing", "memory-limit"), "{report}");
}

/// Groups of version 1 that are gone with the test.
struct Groups(Vec<PathBuf>);

impl Drop for Groups {
    fn drop(&mut self) {
        for path in &self.0 {
            place::until("the group is empty", || fs::remove_dir(path).is_ok() || !path.exists());
        }
    }
}

#[test]
fn groups_of_version_1_that_were_handed_over_give_an_ordinary_user_limits() {
    let mounted = |name: &str| Path::new("/sys/fs/cgroup").join(name).join("cgroup.procs").exists();
    let all = ["memory", "pids", "cpu"];
    if !is_root() {
        return;
    }
    if !all.iter().all(|name| mounted(name)) {
        // Version 2 is tried in tests/cgroup_v2.rs.
        return;
    }
    const USER: u32 = 58_733;
    let place = Place::new();
    let program = place.path().join("caisson");
    fs::copy(env!("CARGO_BIN_EXE_caisson"), &program).unwrap();
    for path in [&program, place.path(), &place.checkout(), &place.path().join("home")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        chown(path, Some(USER), Some(USER)).unwrap();
    }
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let mut groups = Groups(Vec::new());
    for name in all {
        let is_of = |line: &&str| line.split(':').nth(1).is_some_and(|controllers| controllers.split(',').any(|one| one == name));
        let below = own.lines().find(is_of).and_then(|line| line.splitn(3, ':').nth(2)).unwrap().trim_start_matches('/');
        let path = Path::new("/sys/fs/cgroup").join(name).join(below).join(format!("handed-over-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        for file in [".", "cgroup.procs", "tasks"] {
            chown(path.join(file), Some(USER), Some(USER)).unwrap();
        }
        groups.0.push(path);
    }
    let join: String = groups.0.iter().map(|path| format!("echo $$ > {}/cgroup.procs\n", path.display())).collect();
    let within = |words: &[&str]| -> Output {
        let user = USER.to_string();
        let script = format!("{join}exec setpriv --reuid {user} --regid {user} --clear-groups -- \"$@\"");
        let mut all = vec!["-ec", script.as_str(), "sh", program.to_str().unwrap()];
        all.extend(words);
        place.program("sh", &all).output().unwrap()
    };
    let found = doctor(&within(&["doctor", "--json"]));
    for protection in ["memory-limit", "cpu-limit", "pids-limit"] {
        assert_eq!(state(&found, protection)["state"], "enforced", "{found}");
    }
    let grow = "import os\nos.fork()\nkept = b'x' * (300 << 20)\nprint(len(kept))";
    let output = within(&["exec", "--memory", "64MiB", "--", "/usr/bin/python3", "-c", grow]);
    assert_eq!(output.status.code(), Some(137), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("out of memory: limit 64 MiB"), "{output:?}");
    // The control: the same within the limit.
    let output = within(&["exec", "--memory", "1GiB", "--", "/usr/bin/python3", "-c", grow]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}
