//! What can be learnt about the host, its people, the agent and other jobs.

use std::fs;
use std::path::Path;

use super::files::{code, read};
use crate::attack::{Act, Attack, Control};
use crate::needs::Need;
use crate::reach::{proc, processes};
use crate::scene::Scene;
use crate::verdict::Verdict;

pub(super) const ATTACKS: &[Attack] = &[
    code!("information.host-name", "learn the host's name", Outside, host_name),
    code!("information.machine-id", "learn the machine's id", Outside, |scene| match &scene.machine {
        None => Verdict::skipped("this host has no machine id"),
        Some(id) => finds(&["/etc/machine-id", "/var/lib/dbus/machine-id", "/run/machine-id"], id),
    }),
    code!("information.users", "learn who uses the host", Outside, |scene| match &scene.user {
        None => Verdict::skipped("this host has no users of its own"),
        Some(line) => finds(&["/etc/passwd", "/etc/passwd-", "/etc/subuid"], line),
    }),
    code!("information.passwords", "read password hashes", Root, passwords).needing(&[Need::File("/etc/shadow")]),
    code!("information.agent-environment", "read the environment of the process that asks for sandboxes", Outside, |scene| {
        searched(processes().into_iter().map(|pid| proc(pid, "environ")), &scene.canary)
    }),
    code!("information.own-environment", "find something of the agent's environment in its own", Outside, own_environment),
    code!("information.command-lines", "read command lines of the host", Outside, |scene| {
        searched(processes().into_iter().map(|pid| proc(pid, "cmdline")), &scene.victim.marker)
    }),
    code!("information.mount-table", "read the host's mount table", Outside, mount_table),
    code!("information.names", "find names of other jobs and of the host in the files of /proc", Outside, names),
    read!("information.kernel-log", "read the kernel's log", ["/dev/kmsg", "/proc/kmsg"]),
    code!("information.kernel-addresses", "learn where the kernel lies in memory", Root, kernel_addresses),
    read!("information.kernel-objects", "learn what the kernel allocates", ["/proc/slabinfo", "/proc/vmallocinfo", "/proc/pagetypeinfo"]),
    read!("information.kernel-pages", "learn how memory pages are used", ["/proc/kpagecount", "/proc/kpageflags", "/proc/kpagecgroup"]),
    read!("information.keys", "list the keys of the host", ["/proc/keys", "/proc/key-users"]),
    read!("information.timers", "list the timers of the host", ["/proc/timer_list", "/proc/sched_debug", "/proc/latency_stats"]),
    read!(
        "information.firmware",
        "read the firmware's tables",
        ["/sys/firmware/dmi/tables/DMI", "/sys/firmware/acpi/tables/DSDT", "/sys/class/dmi/id/product_uuid", "/proc/acpi/wakeup",]
    ),
    read!(
        "information.hardware",
        "learn the serial numbers of hardware",
        [
            "/sys/class/net/eth0/address",
            "/sys/class/net/ens3/address",
            "/sys/block/vda/serial",
            "/proc/scsi/scsi",
            "/proc/bus/input/devices"
        ]
    ),
    read!("information.kernel-options", "learn how the kernel was started", ["/proc/cmdline"]),
    read!("information.interrupts", "time the keys and packets of others by interrupts", ["/proc/interrupts"]),
    read!("information.kernel-configuration", "learn how the kernel was built", ["/proc/config.gz"]),
    code!("information.cgroup-path", "learn where it stands among other jobs", Outside, cgroup_path),
    code!("information.shared-memory", "read System V memory of the host", Outside, |scene| match scene.victim.memory {
        None => Verdict::skipped("this kernel has none"),
        Some((key, _)) => {
            use caisson_sandbox::raw::Argument::Word;
            let ask = [Word(key as u64), Word(0), Word(0)];
            let verdict = crate::reach::by_calls(&[crate::reach::call(libc::SYS_shmget, &ask)]);
            if verdict.detail.ends_with("ENOENT") { Verdict::refused("ENOENT") } else { verdict }
        }
    }),
    code!("information.queues", "see message queues of the host", Outside, |_| {
        Verdict::of(fs::read_dir("/dev/mqueue"), "they can be listed")
    })
    .needing(&[Need::File("/dev/mqueue")]),
    code!("information.uptime", "learn how long the host runs, and so what else it does", Outside, uptime),
];

fn host_name(scene: &Scene) -> Verdict {
    let mut found: Vec<String> = ["/proc/sys/kernel/hostname", "/etc/hostname", "/etc/hosts"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    found.extend(nix::sys::utsname::uname().ok().map(|name| name.nodename().to_string_lossy().into_owned()));
    if scene.hostname == "caisson" || scene.hostname == "localhost" {
        return Verdict::skipped("the host's name is that of every sandbox");
    }
    if found.contains(&scene.hostname) { Verdict::succeeded(&scene.hostname) } else { Verdict::refused("it sees another name") }
}

fn finds(paths: &[&str], word: &str) -> Verdict {
    searched(paths, word)
}

/// Looks for a word in the beginning of each file.
fn searched<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>, word: &str) -> Verdict {
    let mut read = 0;
    for path in paths {
        let Ok(bytes) = fs::read(path.as_ref()) else { continue };
        read += 1;
        if bytes.windows(word.len()).any(|window| window == word.as_bytes()) {
            return Verdict::succeeded(format!("found in {}", path.as_ref().display()));
        }
    }
    Verdict::refused(format!("not in {read} files that can be read"))
}

fn own_environment(scene: &Scene) -> Verdict {
    let found = std::env::vars_os().find(|(_, value)| value.to_string_lossy().contains(&scene.canary));
    match found {
        Some((name, _)) => Verdict::succeeded(name.to_string_lossy()),
        None => Verdict::refused(format!("{} variables, all of the step", std::env::vars_os().count())),
    }
}

/// A step that installs packages has a file of this name with the accounts of every sandbox.
fn passwords(_: &Scene) -> Verdict {
    let mut refused = "no such file".to_owned();
    for path in ["/etc/shadow", "/etc/shadow-", "/etc/gshadow"] {
        match fs::read_to_string(path) {
            Ok(text) => match text.lines().find(|line| !line.starts_with("root:*:") && !line.starts_with("runner:*:")) {
                Some(line) => return Verdict::succeeded(format!("{path} tells of {}", line.split(':').next().unwrap_or_default())),
                None => refused = format!("{path} is that of every sandbox"),
            },
            Err(error) => refused = error.to_string(),
        }
    }
    Verdict::refused(refused)
}

/// What of the host's tree of mounts shows: file systems of kinds that no sandbox has.
fn mount_table(_: &Scene) -> Verdict {
    const THEIRS: [&str; 11] =
        ["sysfs", "cgroup", "cgroup2", "securityfs", "debugfs", "tracefs", "bpf", "configfs", "efivarfs", "pstore", "autofs"];
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let kinds: Vec<&str> = text.lines().filter_map(|line| line.split_once(" - ")?.1.split(' ').next()).collect();
    match kinds.iter().find(|kind| THEIRS.contains(kind)) {
        Some(kind) => Verdict::succeeded(format!("{kind} is mounted here")),
        None if kinds.is_empty() => Verdict::refused("no mount is listed"),
        None => Verdict::refused(format!("{} mounts, all of this sandbox", kinds.len())),
    }
}

fn names(scene: &Scene) -> Verdict {
    let files = [
        "mountinfo",
        "mounts",
        "mountstats",
        "cgroup",
        "environ",
        "cmdline",
        "maps",
        "smaps",
        "comm",
        "status",
        "stat",
        "auxv",
        "limits",
        "net/unix",
        "net/tcp",
        "net/route",
        "net/arp",
        "uid_map",
        "attr/current",
        "loginuid",
        "sched",
        "autogroup",
        "cpuset",
        "stack",
        "wchan",
        "timers",
        "patch_state",
    ];
    let top = ["locks", "swaps", "partitions", "diskstats", "filesystems", "devices", "mdstat", "version", "modules", "misc"];
    let paths = files.iter().map(|name| format!("/proc/self/{name}")).chain(top.iter().map(|name| format!("/proc/{name}")));
    let paths: Vec<String> = paths.collect();
    let mut words: Vec<&str> = vec![&scene.canary, &scene.victim.marker, &scene.victim.abstract_name];
    words.extend(scene.other.as_deref());
    for word in words {
        let verdict = searched(&paths, word);
        if verdict.result != crate::verdict::Result::Refused {
            return verdict;
        }
    }
    Verdict::refused(format!("not in {} files", paths.len()))
}

fn kernel_addresses(_: &Scene) -> Verdict {
    // Addresses of the kernel begin with ffff; where it hides them they are all zero.
    for path in ["/proc/kallsyms", "/proc/modules", "/sys/kernel/notes", "/proc/self/stack"] {
        let Ok(bytes) = fs::read(path) else { continue };
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(1 << 16)]).into_owned();
        if let Some(line) = text.lines().find(|line| line.contains("ffff") && !line.contains("0000000000000000")) {
            return Verdict::succeeded(format!("{path}: {}", line.chars().take(40).collect::<String>()));
        }
    }
    Verdict::refused("no address in what can be read")
}

fn cgroup_path(_: &Scene) -> Verdict {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    match text.lines().find(|line| line.splitn(3, ':').nth(2).is_some_and(|path| path != "/")) {
        Some(line) => Verdict::succeeded(line),
        None if text.is_empty() => Verdict::skipped("this kernel has no cgroups"),
        None => Verdict::refused("every path is /"),
    }
}

fn uptime(_: &Scene) -> Verdict {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds: f64 = text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0.0);
    if seconds > 30.0 * 24.0 * 3600.0 * 365.0 {
        return Verdict::refused("the clock of boot is its own");
    }
    Verdict::skipped("what the load and the clocks tell cannot be hidden by the kernel's means")
}
