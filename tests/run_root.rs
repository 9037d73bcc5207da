//! A command that is root of its namespace installs packages with the real tools, for itself alone; the host is never written.
#![allow(clippy::unwrap_used, clippy::panic)]

mod place;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use place::{Place, needs};

/// A package with a program, a configuration file, files of another group, and a script that runs when it is installed.
fn package(directory: &Path) {
    let root = directory.join("tree");
    for (path, text, mode) in [
        (
            "DEBIAN/control",
            "Package: caisson-probe\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody <nobody@example.com>\nDescription: a probe\n",
            0o644,
        ),
        ("DEBIAN/conffiles", "/etc/caisson-probe.conf\n", 0o644),
        (
            "DEBIAN/postinst",
            "#!/bin/sh\nset -e\nmkdir -p /var/lib/caisson-probe\nchown www-data:adm /var/lib/caisson-probe\nid -u > /var/lib/caisson-probe/who\n",
            0o755,
        ),
        ("usr/bin/caisson-probe", "#!/bin/sh\necho probe as $(id -u), installed by $(cat /var/lib/caisson-probe/who)\n", 0o755),
        ("etc/caisson-probe.conf", "setting\n", 0o644),
    ] {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let built = Command::new("dpkg-deb").args(["--root-owner-group", "-b"]).arg(&root).arg(directory.join("probe.deb")).output().unwrap();
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
