//! What of the host is shown, by name, and where what is written over it is kept.

use std::path::{Path, PathBuf};

/// Entries of `/etc` that are shown as the host has them: how programs find each other, libraries, certificates, times,
/// fonts. Nothing that holds a key, a password or the name of a host. One ending in `*` is a prefix.
pub(super) const ETC: [&str; 33] = [
    "alternatives",
    "bash.bashrc",
    "ca-certificates",
    "ca-certificates.conf",
    "chromium.d",
    "debian_version",
    "fonts",
    "gai.conf",
    "host.conf",
    "java*",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "localtime",
    "lsb-release",
    "magic",
    "magic.mime",
    "mime.types",
    "nsswitch.conf",
    "os-release",
    "perl",
    "pki/tls/certs",
    "profile",
    "profile.d",
    "protocols",
    "python*",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
    "timezone",
    "xml",
];

/// The entries of `/etc` that patterns like those of [`ETC`] mean, in their order.
pub(super) fn matching<'p>(patterns: impl IntoIterator<Item = &'p &'p str>) -> Vec<PathBuf> {
    let mut names: Option<Vec<String>> = None;
    let mut paths = Vec::new();
    for pattern in patterns {
        let Some(prefix) = pattern.strip_suffix('*') else {
            paths.push(Path::new("/etc").join(pattern));
            continue;
        };
        let names = names.get_or_insert_with(|| {
            let found = std::fs::read_dir("/etc").into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            let mut names: Vec<String> = found.collect();
            names.sort();
            names
        });
        paths.extend(names.iter().filter(|name| name.starts_with(prefix)).map(|name| Path::new("/etc").join(name)));
    }
    paths
}

/// The directory that holds what a job writes to one of the system directories, below the one of the overlay.
pub fn upper_name(directory: &str) -> String {
    format!("system-{directory}")
}

pub(super) fn own_files() -> [(&'static str, &'static str); 8] {
    [
        (
            "/etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nrunner:x:1000:1000:runner:/home/runner:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
        ),
        ("/etc/group", "root:x:0:\ntty:x:5:\nrunner:x:1000:\nnogroup:x:65534:\n"),
        ("/etc/hosts", "127.0.0.1 localhost caisson\n::1 localhost ip6-localhost ip6-loopback\n"),
        ("/etc/resolv.conf", "# no name server: names are resolved by the exit, outside\n"),
        ("/etc/hostname", "caisson\n"),
        ("/etc/machine-id", "00000000000000000000000000000000\n"),
        ("/etc/shells", "/bin/sh\n/bin/bash\n"),
        ("/etc/fstab", ""),
    ]
}
