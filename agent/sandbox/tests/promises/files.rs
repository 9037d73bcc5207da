//! Files, mounts, secrets, areas.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use caisson_sandbox::spec::{Access, AreaDirectory, HostOwner, IdRange, Identity, Ids, Mount, SecretFile, SecretValue, SeenAs, Upper};

use crate::Test;
use crate::setting::Setting;

pub(crate) const TESTS: &[Test] = &[
    ("host files do not exist inside", host_files_do_not_exist),
    ("read-only binds can't be written, read-write ones can", binds),
    ("an overlay keeps its writes to itself and over steps", overlays),
    ("files of one host owner appear as the step's own", owners),
    ("secrets are files of this sandbox alone", secrets),
    ("given files hide what a layer has", given_files),
    ("mount targets follow no link", links_are_not_followed),
    ("our own program can't be changed from inside", our_own_program),
    ("areas are made for the job's ids and removed whatever is in them", areas),
    ("sizes of memory file systems are kept", sizes),
];

fn host_files_do_not_exist(setting: &Setting) {
    assert!(Path::new("/etc/passwd").exists() && Path::new("/proc/kallsyms").metadata().is_ok());
    let script = "ls /etc /root /home /sys /var /boot 2>/dev/null; ls /tmp; ls /proc/1 2>/dev/null; wc -c < /proc/kallsyms; \
                  echo x > /proc/sys/kernel/hostname; echo x > /x; echo x > /dev/x; mknod /tmp/n c 1 3";
    let ran = setting.run(&setting.sh(script));
    assert_eq!(ran.out.trim(), "0", "{}", ran.err);
    assert!(!ran.outcome.success());
}

fn binds(setting: &Setting) {
    let owner = Some(HostOwner { uid: 4242, gid: 4242, seen_as: SeenAs::Step });
    for (name, access) in [("bind-ro", Access::ReadOnly), ("bind-rw", Access::ReadWrite)] {
        let source = setting.scratch.path().join(name);
        std::fs::create_dir(&source).unwrap();
        if setting.root() {
            chown(&source, Some(4242), Some(4242)).unwrap();
        }
        let mut spec = setting.sh("echo written > /place/file");
        spec.mounts.push(Mount::Bind { source: source.clone(), target: "/place".into(), access, owner });
        let ran = setting.run(&spec);
        assert_eq!(ran.outcome.success(), access == Access::ReadWrite, "{}", ran.err);
        assert_eq!(source.join("file").exists(), access == Access::ReadWrite);
        if access == Access::ReadWrite && setting.root() {
            assert_eq!(source.join("file").metadata().unwrap().uid(), 4242);
        }
    }
}

fn overlays(setting: &Setting) {
    let lower = setting.scratch.path().join("overlay-lower");
    std::fs::create_dir(&lower).unwrap();
    std::fs::write(lower.join("file"), "host").unwrap();
    let area = setting.scratch.path().join("overlay-area");
    setting.launcher.create_area(&area, &[], None).unwrap();
    let owner = Some(HostOwner { uid: 0, gid: 0, seen_as: SeenAs::Step });
    for upper in [Upper::Directory(area.clone()), Upper::Memory { size: 1 << 20, inodes: 1000 }] {
        let persists = matches!(upper, Upper::Directory(_));
        let with = |script: &str| {
            let mut spec = setting.sh(script);
            spec.cwd = "/place".into();
            let (lower, upper, target) = (vec![lower.clone()], upper.clone(), "/place".into());
            spec.mounts.push(Mount::Overlay { lower, upper, target, owner });
            spec
        };
        assert_eq!(setting.says(&with("stat -c %u file; echo step > file; echo new > new; cat file; id -u")), "1000\nstep\n1000");
        assert_eq!(setting.says(&with("cat file")), if persists { "step" } else { "host" });
    }
    assert_eq!(std::fs::read_to_string(lower.join("file")).unwrap(), "host");
    assert!(!lower.join("new").exists());
    setting.launcher.remove_area(&area).unwrap();
    assert!(!area.exists());
}

fn owners(setting: &Setting) {
    if !setting.root() {
        return;
    }
    let source = setting.scratch.path().join("owners");
    std::fs::create_dir(&source).unwrap();
    for (name, uid) in [("a", 4242), ("b", 4343)] {
        std::fs::write(source.join(name), "x").unwrap();
        std::fs::set_permissions(source.join(name), std::fs::Permissions::from_mode(0o600)).unwrap();
        chown(source.join(name), Some(uid), Some(uid)).unwrap();
    }
    let mut spec = setting.sh("stat -c %u /place/a /place/b; cat /place/b 2>/dev/null || echo refused");
    let owner = Some(HostOwner { uid: 4242, gid: 4242, seen_as: SeenAs::Step });
    let target = "/place".into();
    spec.mounts.push(Mount::Bind { source, target, access: Access::ReadOnly, owner });
    spec.ids = Ids::Range(IdRange { base: 300_000, count: 2000 });
    assert_eq!(setting.says(&spec), "1000\n65534\nrefused");
}

fn secrets(setting: &Setting) {
    let mut spec = setting.sh("cat /run/secrets/token; stat -c '%a %u' /run/secrets/token; echo x > /run/secrets/token");
    let value = SecretValue::new("s3cret\n");
    assert!(!format!("{value:?}").contains("s3cret"));
    spec.secrets.push(SecretFile { name: "token".into(), value: value.clone() });
    let ran = setting.run(&spec);
    assert_eq!(ran.out, "s3cret\n400 1000\n");
    assert!(!ran.outcome.success());
    assert_eq!(setting.says(&setting.sh("ls /run/secrets 2>/dev/null || echo none")), "none");
    spec.secrets[0].name = "../token".into();
    assert!(setting.start(&spec).is_err());
}

fn given_files(setting: &Setting) {
    let layer = setting.scratch.path().join("given");
    std::fs::create_dir(&layer).unwrap();
    std::fs::write(layer.join("passwd"), "layer").unwrap();
    let mut spec = setting.sh("cat /etc/passwd /given; echo x > /etc/passwd");
    let target = "/etc".into();
    spec.mounts.push(Mount::Bind { source: layer, target, access: Access::ReadOnly, owner: None });
    for target in ["/etc/passwd", "/given"] {
        spec.mounts.push(Mount::File { target: target.into(), content: b"given\n".to_vec(), mode: 0o644 });
    }
    let ran = setting.run(&spec);
    assert_eq!(ran.out, "given\ngiven\n", "{}", ran.err);
    assert!(!ran.outcome.success());
}

fn links_are_not_followed(setting: &Setting) {
    let layer = setting.scratch.path().join("links");
    std::fs::create_dir(&layer).unwrap();
    std::os::unix::fs::symlink("/proc/self/root", layer.join("out")).unwrap();
    let mut spec = setting.sh("true");
    let bind = |target: &str| Mount::Bind { source: layer.clone(), target: target.into(), access: Access::ReadOnly, owner: None };
    spec.mounts.push(bind("/layer"));
    setting.run(&spec);
    spec.mounts.push(bind("/layer/out/usr"));
    assert!(setting.start(&spec).is_err());
    spec.mounts.pop();
    for target in ["/proc/sys", "/dev/x", "/run/secrets", "/a/../proc", "relative"] {
        spec.mounts.push(bind(target));
        assert!(setting.start(&spec).is_err(), "{target}");
        spec.mounts.pop();
    }
}

fn our_own_program(setting: &Setting) {
    // The interpreter is opened by the kernel while the process still is a copy of the launcher.
    let mut spec = setting.spec("/script", &[]);
    let target = "/script".into();
    spec.mounts.push(Mount::File { target, content: b"#!/proc/self/exe\n".to_vec(), mode: 0o755 });
    let ran = setting.run(&spec);
    assert_eq!(ran.out.trim(), format!("chmod {}", nix::errno::Errno::EROFS), "{}", ran.err);
    // Control: by its own path the same act is nothing special.
    let own = std::env::current_exe().unwrap();
    std::fs::set_permissions(&own, own.metadata().unwrap().permissions()).unwrap();
}

/// What the test program does when the sandbox runs it as `/proc/self/exe`.
pub(crate) fn inside_our_own_program() -> ! {
    let result = nix::sys::stat::fchmodat(
        nix::fcntl::AT_FDCWD,
        "/proc/self/exe",
        nix::sys::stat::Mode::from_bits_truncate(0o755),
        nix::sys::stat::FchmodatFlags::FollowSymlink,
    );
    println!("chmod {}", result.err().map_or_else(|| "done".to_owned(), |errno| errno.to_string()));
    std::process::exit(0)
}

fn areas(setting: &Setting) {
    let area = setting.scratch.path().join("area");
    let ids = setting.root().then_some(IdRange { base: 400_000, count: 2000 });
    let directory = |name: &str, uid| AreaDirectory { name: name.into(), uid, gid: uid, mode: 0o750 };
    let wanted = if setting.root() { vec![directory("a", 1000), directory("b", 0)] } else { vec![directory("a", 1000)] };
    setting.launcher.create_area(&area, &wanted, ids).unwrap();
    if setting.root() {
        assert_eq!(area.join("a").metadata().unwrap().uid(), 401_000);
        assert_eq!(area.join("b").metadata().unwrap().uid(), 400_000);
    }
    assert!(setting.launcher.create_area(&area, &[], ids).is_err(), "exists");
    assert!(setting.launcher.create_area(&setting.scratch.path().join("x"), &[directory("../y", 1000)], ids).is_err());
    assert!(!setting.scratch.path().join("x").exists());
    // A step leaves unreadable directories, a link to something precious and a tree deeper than any path.
    let precious = setting.scratch.path().join("precious");
    std::fs::write(&precious, "x").unwrap();
    let mut spec = setting.python(
        "import os\nos.chdir('/place')\nos.symlink('/place', 'loop')\nfor i in range(1500): os.mkdir('d' * 20); os.chdir('d' * 20)\n",
    );
    spec.ids = ids.map_or(Ids::Default, Ids::Range);
    let (source, target) = (area.join("a"), "/place".into());
    spec.mounts.push(Mount::Bind { source, target, access: Access::ReadWrite, owner: None });
    setting.says(&spec);
    spec.args[2] = "import os; os.mkdir('/place/shut'); open('/place/shut/f', 'w').close(); os.chmod('/place/shut', 0)".into();
    setting.says(&spec);
    std::os::unix::fs::symlink(&precious, area.join("link")).unwrap();
    setting.launcher.remove_area(&area).unwrap();
    assert!(!area.exists() && precious.exists());
    setting.launcher.remove_area(&area).unwrap();
}

fn sizes(setting: &Setting) {
    let mut spec = setting.sh("head -c 3M /dev/zero > /tmp/x; stat -c %s /tmp/x");
    spec.limits.tmp_size = Some(1 << 20);
    assert_eq!(setting.says(&spec), "1048576");
    spec.limits.tmp_size = Some(8 << 20);
    assert_eq!(setting.says(&spec), (3 << 20).to_string());
    let mut root = setting.sh("id -u");
    root.identity = Identity::NamespaceRoot;
    assert_eq!(setting.says(&root), "0");
}
