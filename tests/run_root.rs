//! A command that is root of its namespace installs packages with the real tools, for itself alone; the host is never written.
#![allow(clippy::unwrap_used, clippy::panic)]

mod place;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use place::{Place, needs};

/// A package with a program, a configuration file, files of another group, and a script that runs when it is installed.
fn package(directory: &Path) {
    build(directory, "tree", "chown www-data:adm /var/lib/caisson-probe\n");
}

/// The same with another line in the script that runs when it is installed.
fn build(directory: &Path, name: &str, script: &str) {
    let root = directory.join(name);
    let installed = format!("#!/bin/sh\nset -e\nmkdir -p /var/lib/caisson-probe\n{script}id -u > /var/lib/caisson-probe/who\n");
    for (path, text, mode) in [
        (
            "DEBIAN/control",
            "Package: caisson-probe\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody <nobody@example.com>\nDescription: a probe\n",
            0o644,
        ),
        ("DEBIAN/conffiles", "/etc/caisson-probe.conf\n", 0o644),
        ("DEBIAN/postinst", installed.as_str(), 0o755),
        ("usr/bin/caisson-probe", "#!/bin/sh\necho probe as $(id -u), installed by $(cat /var/lib/caisson-probe/who)\n", 0o755),
        ("etc/caisson-probe.conf", "setting\n", 0o644),
    ] {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let built = Command::new("dpkg-deb")
        .args(["--root-owner-group", "-b"])
        .arg(&root)
        .arg(directory.join(if name == "tree" { "probe.deb".to_owned() } else { format!("{name}.deb") }))
        .output()
        .unwrap();
    assert!(built.status.success(), "{built:?}");
}

fn has_dpkg() -> bool {
    needs(Path::new("/usr/bin/dpkg-deb").exists() && Path::new("/var/lib/dpkg/status").exists(), "this host has no dpkg")
}

#[test]
fn exec_as_namespace_root_installs_a_package_and_leaves_the_host_alone() {
    if !has_dpkg() {
        return;
    }
    let place = Place::new();
    package(&place.checkout());
    let script =
        "dpkg -i probe.deb >/dev/null && caisson-probe && dpkg -s caisson-probe | grep Status && stat -c %U:%G /var/lib/caisson-probe";
    let output = place.caisson(&["exec", "--root", "--", "sh", "-ec", script]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(said, "probe as 0, installed by 0\nStatus: install ok installed\nwww-data:adm\n");
    for path in ["/usr/bin/caisson-probe", "/etc/caisson-probe.conf", "/var/lib/caisson-probe", "/var/lib/dpkg/info/caisson-probe.list"] {
        assert!(!Path::new(path).exists(), "{path} on the host");
    }
    // The control: without being root nothing of the system can be changed.
    let output = place.caisson(&["exec", "--", "sh", "-c", "dpkg -i probe.deb"]).output().unwrap();
    assert_ne!(output.status.code(), Some(0));
}

/// As an id of nobody's, with subordinate ones in a view of the files of its own, or without.
fn as_user(place: &Place, subordinate: bool, words: &[&str]) -> Output {
    let given = place.path().join("subordinate");
    fs::write(&given, if subordinate { "58732:2000000:65536\n" } else { "" }).unwrap();
    // The tools that map ids want a name.
    let passwd = fs::read_to_string("/etc/passwd").unwrap() + "mapped:x:58732:58732::/:/bin/sh\n";
    fs::write(given.with_extension("passwd"), passwd).unwrap();
    let script = "for name in subuid subgid; do mount --bind $0 /etc/$name; done; mount --bind $0.passwd /etc/passwd; \
                  exec setpriv --reuid 58732 --regid 58732 --clear-groups -- \"$@\"";
    let mut all = vec!["-m", "sh", "-ec", script, given.to_str().unwrap()];
    all.extend(words);
    place.program("unshare", &all).output().unwrap()
}

#[test]
fn ordinary_users_install_new_packages_too_and_are_told_what_cannot_be() {
    if !has_dpkg() || !needs(nix::unistd::geteuid().is_root(), "only root can become somebody without and with subordinate ids") {
        return;
    }
    let place = Place::new();
    package(&place.checkout());
    fs::rename(place.checkout().join("probe.deb"), place.checkout().join("owners.deb")).unwrap();
    build(&place.checkout(), "plain", "");
    let program = place.path().join("caisson");
    fs::copy(env!("CARGO_BIN_EXE_caisson"), &program).unwrap();
    for entry in walkdir::WalkDir::new(place.path()) {
        let path = entry.unwrap().into_path();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(&path, Some(58732), Some(58732)).unwrap();
    }
    let install = |subordinate, package: &str| {
        let script = format!("dpkg -i {package} && caisson-probe && dpkg -s caisson-probe | grep Status && touch /usr/new /usr/bin/new");
        let words = [program.to_str().unwrap(), "exec", "--root", "--allow-missing", "memory-limit,pids-limit", "--", "sh", "-ec", &script];
        as_user(&place, subordinate, &words)
    };
    for (subordinate, package) in [(false, "plain.deb"), (true, "plain.deb"), (true, "owners.deb")] {
        let output = install(subordinate, package);
        assert_eq!(output.status.code(), Some(0), "{package}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("Status: install ok installed"), "{output:?}");
    }
    // With one id alone there is no www-data to give anything to.
    let output = install(false, "owners.deb");
    assert_ne!(output.status.code(), Some(0), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("other owners do not exist here") && told.contains("--add-subuids"), "{told}");
    for path in ["/usr/bin/caisson-probe", "/usr/new"] {
        assert!(!Path::new(path).exists(), "{path} on the host");
    }
}
