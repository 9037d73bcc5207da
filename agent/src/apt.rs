//! What a job needs in which a step installs Debian packages: `/etc` and `/var` of its own, apt's settings without anybody's
//! credentials, and the package database of the host below what the job adds. All of it is gone with the job.

use std::path::{Path, PathBuf};

use caisson_sandbox::spec::{Access, HostOwner, Mount, SeenAs, Upper};

use crate::program::{Powers, Program};

/// Directories of the job's area, owned by its root.
pub const AREAS: [&str; 3] = ["system-etc", "system-var", "system-dpkg"];
/// Where these appear while they are filled.
const STAGE: &str = "/caisson/system";
/// The host's package database.
const DATABASE: &str = "/var/lib/dpkg";
/// A file of apt's sources longer than this is none.
const LONGEST: u64 = 1 << 20;

/// apt's own settings inside: nobody to drop to, nothing to ask, no service to start.
const SETTINGS: &str = "APT::Sandbox::User \"root\";\nAPT::Get::Assume-Yes \"true\";\nAPT::Install-Recommends \"false\";\nAcquire::Languages \"none\";\nAcquire::Retries \"2\";\nDPkg::Use-Pty \"0\";\n";

/// Fills the directories: a copy of the view's `/etc`, and what apt wants to find in `/var`.
const FILL: &str = r#"
tar -C /etc -c -f - . | tar -C "$1/etc" -x -f - --no-same-owner || exit
for file in passwd group; do cat "$1/accounts/$file" >> "$1/etc/$file" || exit; done
mkdir -p "$1/etc/apt/apt.conf.d" "$1/etc/apt/preferences.d" "$1/etc/apt/sources.list.d" "$1/etc/apt/trusted.gpg.d" "$1/etc/apt/keyrings" || exit
[ ! -d "$1/apt" ] || tar -C "$1/apt" -c -f - . | tar -C "$1/etc/apt" -x -f - --no-same-owner || exit
mkdir -p "$1/var/lib/apt/lists/partial" "$1/var/cache/apt/archives/partial" "$1/var/cache/debconf" "$1/var/log/apt" \
  "$1/var/lib/dpkg" "$1/var/lib/systemd" "$1/var/spool" "$1/var/mail" "$1/var/backups" "$1/var/opt" || exit
mkdir -p -m 1777 "$1/var/tmp" || exit
[ -e "$1/var/run" ] || ln -s /run "$1/var/run"
"#;

/// The program that fills the directories of a job's area before its first step. It is root of its own user namespace. `gateway` are the
/// files below `/etc/apt` by which apt finds the package gateway; without them it has the host's sources.
pub fn fill(area: &Path, gateway: Vec<(String, Vec<u8>)>) -> Program {
    let mut program = Program::new("/bin/sh", &["-c", FILL, "fill", STAGE], "/");
    program.powers = Powers::Root;
    let bind = |name: &str, target: &str| Mount::Bind {
        source: area.join(name),
        target: format!("{STAGE}/{target}").into(),
        access: Access::ReadWrite,
        owner: None,
    };
    program.mounts = vec![bind(AREAS[0], "etc"), bind(AREAS[1], "var")];
    program.files = settings();
    if !gateway.is_empty() {
        let own = |name: &String| name.starts_with(&format!("{STAGE}/apt/sources.list"));
        program.files.retain(|(name, _)| !own(name));
        program.files.extend(gateway.into_iter().map(|(name, content)| (format!("{STAGE}/apt/{name}"), content)));
    }
    program
}

/// The mounts of a sandbox of such a job, in place of the view's own `/etc`.
pub fn mounts(area: &Path) -> Vec<Mount> {
    let bind =
        |name: &str, target: &str| Mount::Bind { source: area.join(name), target: target.into(), access: Access::ReadWrite, owner: None };
    let mut mounts = vec![bind(AREAS[0], "/etc"), bind(AREAS[1], "/var")];
    if Path::new(DATABASE).is_dir() {
        mounts.push(Mount::Overlay {
            lower: vec![PathBuf::from(DATABASE)],
            upper: Upper::Directory(area.join(AREAS[2])),
            target: DATABASE.into(),
            owner: Some(HostOwner { uid: 0, gid: 0, seen_as: SeenAs::Root }),
        });
    }
    mounts
}

/// apt's sources and keys as the host has them, and its settings as they are here.
fn settings() -> Vec<(String, Vec<u8>)> {
    let mut files = vec![(format!("{STAGE}/apt/apt.conf.d/90caisson"), SETTINGS.as_bytes().to_vec())];
    let mut accounts = Vec::new();
    let mut add = |path: PathBuf, name: String, is_text: bool| {
        let small = path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() <= LONGEST);
        if let Some(content) = small.then(|| std::fs::read(&path).ok()).flatten() {
            let content = if is_text { without_credentials(&String::from_utf8_lossy(&content)).into_bytes() } else { content };
            files.push((format!("{STAGE}/apt/{name}"), content));
        }
    };
    for name in ["passwd", "group"] {
        let text = std::fs::read_to_string(Path::new("/etc").join(name)).unwrap_or_default();
        accounts.push((format!("{STAGE}/accounts/{name}"), system_accounts(&text).into_bytes()));
    }
    add("/etc/apt/sources.list".into(), "sources.list".to_owned(), true);
    for (directory, is_text) in [("sources.list.d", true), ("keyrings", false), ("trusted.gpg.d", false), ("preferences.d", true)] {
        for entry in std::fs::read_dir(Path::new("/etc/apt").join(directory)).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            add(entry.path(), format!("{directory}/{name}"), is_text);
        }
    }
    files.extend(accounts);
    files
}

/// The accounts of packages, which the package database speaks of: no person's, no password, no shell, nobody's name.
fn system_accounts(text: &str) -> String {
    let own = ["root", "tty", "runner", "nobody", "nogroup"];
    let mut out = String::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let id = fields.get(2).and_then(|id| id.parse::<u32>().ok());
        if !id.is_some_and(|id| (1..1000).contains(&id)) || own.contains(&fields[0]) {
            continue;
        }
        match fields[..] {
            [name, _, uid, gid, _, home, _] => out.push_str(&format!("{name}:x:{uid}:{gid}::{home}:/usr/sbin/nologin\n")),
            [name, _, gid, _] => out.push_str(&format!("{name}:x:{gid}:\n")),
            _ => {}
        }
    }
    out
}

/// A text without the user and password of its addresses: they are the operator's.
fn without_credentials(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || c == '/').unwrap_or(after.len());
        rest = after[..end].rfind('@').map_or(after, |at| &after[at + 1..]);
    }
    out.push_str(rest);
    out
}

/// The hosts of the archives that this machine is configured for, with their ports.
pub fn archives() -> Vec<(String, u16)> {
    let mut found = Vec::new();
    for (name, content) in settings().iter().filter(|(name, _)| name.contains("/sources.list")) {
        let text = String::from_utf8_lossy(content);
        for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
            // One line per archive in a list, `URIs:` in a deb822 file.
            let words = line.split_whitespace().skip_while(|word| name.ends_with(".sources") && !word.eq_ignore_ascii_case("uris:"));
            for word in words {
                let (scheme, rest) = match word.split_once("://") {
                    Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
                    _ => continue,
                };
                let authority = rest.split('/').next().unwrap_or_default();
                let default = if scheme == "https" { 443 } else { 80 };
                let (host, port) = match authority.rsplit_once(':') {
                    Some((host, port)) => (host, port.parse().unwrap_or(default)),
                    None => (authority, default),
                };
                let archive = (host.to_lowercase(), port);
                if !host.is_empty() && !found.contains(&archive) {
                    found.push(archive);
                }
            }
        }
    }
    found
}

/// The stand-in for `sudo`: it gives nothing, since a step that is root of its sandbox is so from the start.
pub const SUDO: &str = r#"#!/bin/sh
# Stands in for sudo: a step is root of its sandbox from the start, or never.
user=root
while [ $# -gt 0 ]; do
  case "$1" in
    --) shift; break ;;
    -u | --user) user=$2; shift; shift ;;
    --user=*) user=${1#--user=}; shift ;;
    -u*) user=${1#-u}; shift ;;
    -g | --group | -p | --prompt | -C | -T | -D | --chdir | -h | --host | -R | -r | -t | -U) shift; shift ;;
    -V | --version) echo "sudo of the caisson sandbox"; exit 0 ;;
    -k | -K | -v | --validate | -l | --list) [ $# -gt 1 ] || exit 0; shift ;;
    -*) shift ;;
    [A-Za-z_]*=*) export "$1"; shift ;;
    *) break ;;
  esac
done
[ $# -gt 0 ] || set -- "${SHELL:-/bin/sh}"
here=$(id -u)
case "$user" in
  root | '#0' | 0) wanted=0 ;;
  '#'*) wanted=${user#?} ;;
  *) wanted=$(id -u "$user" 2>/dev/null) || { echo "sudo: there is no user $user in the sandbox" >&2; exit 1; } ;;
esac
[ "$here" != "$wanted" ] || exec "$@"
if [ "$here" = 0 ]; then
  exec setpriv --reuid "$wanted" --regid "$(id -g "$user" 2>/dev/null || echo "$wanted")" --clear-groups -- "$@"
fi
echo "sudo: this step is an ordinary user of its sandbox. A step that does nothing but install Debian packages is root of it;" >&2
echo "sudo: any other is with \`root = true\` for it under [[step]] in the policy." >&2
exit 1
"#;

/// Where the stand-in lies inside.
pub const SUDO_DIRECTORY: &str = "/caisson/bin";

/// The mounts of the stand-in: in a directory of the search path, and over the host's own.
pub fn sudo() -> Vec<Mount> {
    let file = |target: String| Mount::File { target: target.into(), content: SUDO.as_bytes().to_vec(), mode: 0o755 };
    let mut mounts = vec![file(format!("{SUDO_DIRECTORY}/sudo"))];
    if Path::new("/usr/bin/sudo").is_file() {
        mounts.push(file("/usr/bin/sudo".to_owned()));
    }
    mounts
}

/// The program that gives what a root step made in the job's home to the job's user, so that later steps can change it.
pub fn hand_over(directories: &[&str]) -> Program {
    let mut args: Vec<&str> = directories.to_vec();
    args.extend(["-xdev", "(", "-uid", "0", "-o", "-gid", "0", ")", "-exec", "chown", "-h", "1000:1000", "{}", "+"]);
    let mut program = Program::new("find", &args, "/");
    program.powers = Powers::Root;
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_archives_stay_outside() {
        for (text, expected) in [
            ("deb https://user:p%40ss@deb.example/debian stable main", "deb https://deb.example/debian stable main"),
            ("URIs: http://a@b:8080/x\nSigned-By: /k", "URIs: http://b:8080/x\nSigned-By: /k"),
            ("deb http://plain.example/a@b x", "deb http://plain.example/a@b x"),
            ("# nothing", "# nothing"),
        ] {
            assert_eq!(without_credentials(text), expected);
        }
    }

    #[test]
    fn accounts_of_packages_come_without_people() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:33:www:/var/www:/bin/sh\nada:x:1000:1000:Ada,,,:/home/ada:/bin/zsh\n";
        assert_eq!(system_accounts(passwd), "www-data:x:33:33::/var/www:/usr/sbin/nologin\n");
        assert_eq!(system_accounts("tty:x:5:\nssl-cert:x:110:postgres,ada\nsudo:x:27:ada\n"), "ssl-cert:x:110:\nsudo:x:27:\n");
    }
}
