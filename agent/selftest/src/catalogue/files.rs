//! Files of the host, by every way that leads there; writing to what is read-only; device nodes, set-user-id programs,
//! links.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use caisson_sandbox::raw::Argument::{Bytes, Word};
use caisson_sandbox::raw::{Call, Entry};
use caisson_sandbox::spec::{Mount, Spec};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::kernel::{HERE, attack, call};
use crate::attack::{Act, After, Attack, Control, as_it_is, as_it_said};
use crate::needs::Need;
use crate::reach::{named, proc, processes};
use crate::scene::Scene;
use crate::verdict::Verdict;

macro_rules! code {
    ($id:literal, $tries:literal, $control:ident, $code:expr) => {
        Attack::new($id, $tries, Act::Code($code), Control::$control)
    };
}
macro_rules! write {
    ($id:literal, $tries:literal, [$($path:literal),* $(,)?]) => {
        Attack::new($id, $tries, Act::Write(&[$($path),*]), Control::Root).needing(&[Need::OneOf(&[$($path),*])])
    };
}
macro_rules! read {
    ($id:literal, $tries:literal, [$($path:literal),* $(,)?]) => {
        Attack::new($id, $tries, Act::Read(&[$($path),*]), Control::Root).needing(&[Need::OneOf(&[$($path),*])])
    };
}
pub(super) use {code, read};

/// `struct vfs_cap_data` of version 2 with CAP_SYS_ADMIN.
const FILE_CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

pub(super) const ATTACKS: &[Attack] = &[
    code!("files.host-file", "read a file of the host by its path", Outside, |scene| read_secret(scene, [scene.secret()])),
    code!("files.dot-dot", "climb out by `..`", Outside, |scene| {
        let up = PathBuf::from("../".repeat(40));
        let below = scene.secret();
        read_secret(scene, [up.join(below.strip_prefix("/").unwrap_or(&below))])
    }),
    code!("files.symlink", "follow a link of its own to a file of the host", Outside, by_symlink),
    code!("files.proc-root", "go through the root of another process", Outside, |scene| {
        let secret = scene.secret();
        let below = secret.strip_prefix("/").unwrap_or(&secret).display().to_string();
        read_secret(scene, processes().into_iter().map(|pid| proc(pid, &format!("root/{below}"))))
    }),
    code!("files.proc-cwd", "go through the working directory of another process", Outside, |scene| {
        read_secret(scene, processes().into_iter().flat_map(|pid| [proc(pid, "cwd/secret"), proc(pid, "cwd/../../secret")]))
    }),
    code!("files.own-cwd", "read from a working directory that was left open", Outside, |scene| {
        read_secret(scene, [PathBuf::from("secret"), proc_self("cwd/secret")])
    }),
    code!("files.leaked-descriptor", "find a descriptor that was left open", Outside, leaked),
    code!("files.thread-links", "go through links of threads and map files", Outside, |scene| {
        let below = scene.secret();
        let below = below.strip_prefix("/").unwrap_or(&below).display().to_string();
        read_secret(scene, [format!("/proc/self/task/{}/root/{below}", nix::unistd::getpid()), format!("/proc/thread-self/root/{below}")])
    }),
    code!("files.own-program", "write to the program that it runs from", Root, |_| opened("/proc/self/exe")),
    Attack::new(
        "files.launcher-program",
        "replace the program that builds sandboxes (as CVE-2019-5736 did runc)",
        Act::Code(change_program),
        Control::Root,
    )
    .alone(start_from_our_program, as_it_said),
    code!("files.shown-write", "write to a directory that is shown read-only", Outside, write_shown),
    Attack::new("files.overlay-lower", "change what lies below an overlay", Act::Code(write_overlaid), Control::Outside)
        .alone(as_it_is, lower_unchanged),
    code!("files.hard-link", "link a file of another tree into its own", Outside, hard_link),
    write!("files.sysrq", "reboot or kill by the magic key", ["/proc/sysrq-trigger"]),
    write!("files.core-pattern", "have the host's root run a program at the next crash", ["/proc/sys/kernel/core_pattern"]),
    write!(
        "files.modprobe-path",
        "have the host's root run a program as module loader",
        ["/proc/sys/kernel/modprobe", "/proc/sys/kernel/hotplug"]
    ),
    write!("files.uevent-helper", "have the host's root run a program at a device event", ["/sys/kernel/uevent_helper"]),
    write!(
        "files.release-agent",
        "have the host's root run a program when a cgroup empties",
        [
            "/sys/fs/cgroup/memory/release_agent",
            "/sys/fs/cgroup/pids/release_agent",
            "/sys/fs/cgroup/systemd/release_agent",
            "/sys/fs/cgroup/rdma/release_agent",
        ]
    ),
    write!(
        "files.cgroup",
        "leave its limits",
        [
            "/sys/fs/cgroup/cgroup.procs",
            "/sys/fs/cgroup/memory/cgroup.procs",
            "/sys/fs/cgroup/pids/cgroup.procs",
            "/sys/fs/cgroup/unified/cgroup.procs",
        ]
    ),
    write!("files.binfmt", "register an interpreter for every program", ["/proc/sys/fs/binfmt_misc/register"]),
    write!(
        "files.sysctl",
        "change settings of the kernel",
        [
            "/proc/sys/kernel/hostname",
            "/proc/sys/kernel/ns_last_pid",
            "/proc/sys/kernel/randomize_va_space",
            "/proc/sys/vm/overcommit_memory",
            "/proc/sys/net/ipv4/ip_forward",
            "/proc/sys/net/ipv4/ping_group_range",
            "/proc/sys/user/max_user_namespaces",
            "/proc/sys/fs/mqueue/queues_max",
        ]
    ),
    write!(
        "files.sys",
        "change devices and power",
        [
            "/sys/power/state",
            "/sys/power/wake_lock",
            "/sys/kernel/profiling",
            "/sys/module/kernel/parameters/panic",
            "/sys/kernel/mm/transparent_hugepage/enabled",
            "/sys/devices/system/cpu/cpu1/online",
        ]
    ),
    write!(
        "files.debug",
        "reach the kernel's debugging files",
        ["/sys/kernel/debug/tracing/trace_on", "/sys/kernel/tracing/tracing_on", "/sys/kernel/debug/sched/verbose",]
    ),
    write!(
        "files.security",
        "change security modules",
        ["/sys/kernel/security/apparmor/.load", "/sys/fs/selinux/enforce", "/proc/sys/kernel/yama/ptrace_scope",]
    ),
    write!("files.interrupts", "move interrupts", ["/proc/irq/default_smp_affinity", "/proc/mtrr"]),
    write!(
        "files.device-control",
        "open control devices",
        [
            "/dev/kvm",
            "/dev/fuse",
            "/dev/loop-control",
            "/dev/net/tun",
            "/dev/vhost-net",
            "/dev/vsock",
            "/dev/btrfs-control",
            "/dev/mapper/control",
            "/dev/userfaultfd",
            "/dev/uinput",
            "/dev/snapshot",
            "/dev/cpu_dma_latency",
            "/dev/autofs",
        ]
    ),
    write!("files.device-console", "write to consoles", ["/dev/console", "/dev/tty0", "/dev/tty1", "/dev/ttyS0", "/dev/vcs"]),
    read!("files.device-disk", "read disks", ["/dev/vda", "/dev/sda", "/dev/nvme0n1", "/dev/xvda", "/dev/dm-0", "/dev/ram0", "/dev/sr0"]),
    write!("files.device-memory", "open the machine's memory", ["/dev/mem", "/dev/kmem", "/dev/port", "/dev/nvram"]),
    read!("files.kernel-memory", "read the kernel's memory", ["/proc/kcore"]),
    attack!(
        "files.device-node",
        "make a device node of the machine's memory",
        Root,
        [
            call!(libc::SYS_mknodat, Word(HERE), Bytes(b"/tmp/caisson-selftest-node\0"), Word(0o020_600), Word(0x101)),
            call!(libc::SYS_unlinkat, Word(HERE), Bytes(b"/tmp/caisson-selftest-node\0"), Word(0)),
        ]
    ),
    attack!(
        "files.block-node",
        "make a device node of a disk",
        Root,
        [
            call!(libc::SYS_mknodat, Word(HERE), Bytes(b"/tmp/caisson-selftest-disk\0"), Word(0o060_600), Word(0x800)),
            call!(libc::SYS_unlinkat, Word(HERE), Bytes(b"/tmp/caisson-selftest-disk\0"), Word(0)),
        ]
    ),
    attack!(
        "files.file-capability",
        "give a program of its own capabilities",
        Root,
        [
            call!(
                libc::SYS_openat,
                Word(HERE),
                Bytes(b"/tmp/caisson-selftest-cap\0"),
                Word((libc::O_CREAT | libc::O_RDWR) as u64),
                Word(0o700)
            ),
            call!(
                libc::SYS_setxattr,
                Bytes(b"/tmp/caisson-selftest-cap\0"),
                Bytes(b"security.capability\0"),
                Bytes(FILE_CAPABILITY),
                Word(20),
                Word(0)
            ),
            call!(libc::SYS_unlinkat, Word(HERE), Bytes(b"/tmp/caisson-selftest-cap\0"), Word(0)),
        ]
    ),
    attack!(
        "files.trusted-attribute",
        "set the attributes that overlays trust",
        Root,
        [
            call!(
                libc::SYS_openat,
                Word(HERE),
                Bytes(b"/tmp/caisson-selftest-attr\0"),
                Word((libc::O_CREAT | libc::O_RDWR) as u64),
                Word(0o700)
            ),
            call!(
                libc::SYS_setxattr,
                Bytes(b"/tmp/caisson-selftest-attr\0"),
                Bytes(b"trusted.overlay.opaque\0"),
                Bytes(b"y"),
                Word(1),
                Word(0)
            ),
            call!(libc::SYS_unlinkat, Word(HERE), Bytes(b"/tmp/caisson-selftest-attr\0"), Word(0)),
        ]
    ),
    code!("files.setuid", "become root by a set-user-id program of the host", Nobody, set_user_id),
];

fn proc_self(below: &str) -> PathBuf {
    Path::new("/proc/self").join(below)
}

/// Reads each path; succeeds when one holds the planted word.
fn read_secret<P: AsRef<Path>>(scene: &Scene, paths: impl IntoIterator<Item = P>) -> Verdict {
    let mut last = "nothing to try".to_owned();
    for path in paths {
        let path = path.as_ref();
        let mut bytes = Vec::new();
        match open_quietly(path).and_then(|file| file.take(1 << 16).read_to_end(&mut bytes)) {
            Ok(_) if scene.is_secret(&bytes) => return Verdict::succeeded(format!("read {}", path.display())),
            Ok(_) => last = format!("{} holds something else", path.display()),
            Err(error) => last = error.to_string(),
        }
    }
    Verdict::refused(last)
}

/// Without waiting for a writer of a FIFO.
fn open_quietly(path: &Path) -> std::io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    Ok(File::from(nix::fcntl::open(path, flags, Mode::empty())?))
}

fn opened(path: &str) -> Verdict {
    match nix::fcntl::open(path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty()) {
        Ok(_) => Verdict::succeeded("opened for writing"),
        // What runs cannot be opened for writing by anyone, only replaced or changed in mode.
        Err(nix::errno::Errno::ETXTBSY) => change_mode(path),
        Err(errno) => Verdict::refused(named(errno)),
    }
}

fn change_mode(path: &str) -> Verdict {
    let mode = match fs::metadata(path) {
        Ok(metadata) => metadata.permissions(),
        Err(error) => return Verdict::refused(error),
    };
    // To what it is: nobody's program is changed by a control.
    Verdict::of(fs::set_permissions(path, mode), "its mode could be changed")
}

fn by_symlink(scene: &Scene) -> Verdict {
    let link = scene.own.join("selftest-link");
    let _ = fs::remove_file(&link);
    if let Err(error) = symlink(scene.secret(), &link) {
        return Verdict::unknown(format!("the link could not be made: {error}"));
    }
    read_secret(scene, [link])
}

fn leaked(scene: &Scene) -> Verdict {
    let mut open = Vec::new();
    for entry in fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        // What reads this very directory is open as well.
        if number < 3 || target.to_string_lossy().contains("/fd") {
            continue;
        }
        let through = entry.path().join("secret");
        if let Ok(bytes) = fs::read(&through)
            && scene.is_secret(&bytes)
        {
            return Verdict::succeeded(format!("descriptor {number} leads to {}", target.display()));
        }
        open.push(format!("{number}: {}", target.display()));
    }
    if open.is_empty() { Verdict::refused("none but 0, 1 and 2") } else { Verdict::succeeded(format!("open: {}", open.join(", "))) }
}

/// The kernel opens the interpreter while the process still is a copy of the launcher.
fn start_from_our_program(spec: &mut Spec, _: &Scene) {
    let arguments = std::mem::take(&mut spec.args);
    let scene = arguments.get(1).map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    spec.program = "/caisson/script".into();
    let script = format!("#!/proc/self/exe {scene}\n");
    spec.mounts.push(Mount::File { target: "/caisson/script".into(), content: script.into_bytes(), mode: 0o755 });
}

/// Run by [`start_from_our_program`], and outside as a control.
fn change_program(_: &Scene) -> Verdict {
    match nix::fcntl::open("/proc/self/exe", OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty()) {
        Ok(_) => return Verdict::succeeded("opened for writing"),
        Err(nix::errno::Errno::ETXTBSY) => {}
        Err(errno) => return Verdict::refused(named(errno)),
    }
    change_mode("/proc/self/exe")
}

/// One way to write.
type Try<'a> = Box<dyn Fn() -> std::io::Result<()> + 'a>;

fn write_shown(scene: &Scene) -> Verdict {
    let file = scene.shown.join("file");
    let other = scene.shown.join("other");
    let mut refused = Vec::new();
    let tries: [(&str, Try<'_>); 8] = [
        ("append", Box::new(|| OpenOptions::new().append(true).open(&file).map(drop))),
        (
            "write by descriptor",
            Box::new(|| {
                let open = File::open(&file)?;
                use std::os::fd::AsRawFd;
                OpenOptions::new().append(true).open(format!("/proc/self/fd/{}", open.as_raw_fd())).map(drop)
            }),
        ),
        ("change mode", Box::new(|| fs::set_permissions(&file, fs::metadata(&file)?.permissions()))),
        ("create", Box::new(|| File::create(&other).and_then(|_| fs::remove_file(&other)))),
        ("make directory", Box::new(|| fs::create_dir(&other).and_then(|()| fs::remove_dir(&other)))),
        ("link", Box::new(|| fs::hard_link(&file, &other).and_then(|()| fs::remove_file(&other)))),
        ("rename", Box::new(|| fs::rename(&file, &other).and_then(|()| fs::rename(&other, &file)))),
        ("symlink", Box::new(|| symlink(&file, &other).and_then(|()| fs::remove_file(&other)))),
    ];
    for (name, attempt) in tries {
        match attempt() {
            Ok(()) => return Verdict::succeeded(name),
            Err(error) => refused.push(format!("{name}: {}", error.kind())),
        }
    }
    Verdict::refused(refused.join(", "))
}

fn write_overlaid(scene: &Scene) -> Verdict {
    let file = scene.overlaid.join("file");
    let acts = || -> std::io::Result<()> {
        fs::write(&file, "changed\n")?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        fs::rename(&file, scene.overlaid.join("moved"))?;
        fs::write(scene.overlaid.join("new"), "new\n")
    };
    Verdict::of(acts(), "all changed, as far as can be seen inside")
}

fn lower_unchanged(scene: &Scene, after: &After) -> Verdict {
    if after.said.is_none() {
        return Verdict::unknown(format!("it ended with {} and said nothing", after.code));
    }
    // As the host sees it.
    let shown = scene.directory.join("shown");
    let content = fs::read_to_string(shown.join("file")).unwrap_or_default();
    let names = fs::read_dir(&shown).map_or(0, Iterator::count);
    let verdict = if content == "shown\n" && names == 1 {
        Verdict::refused("the host's directory is as it was")
    } else {
        Verdict::succeeded(format!("the host's directory holds {names} entries, its file {content:?}"))
    };
    // A control has changed it.
    for name in ["moved", "new"] {
        let _ = fs::remove_file(shown.join(name));
    }
    if fs::write(shown.join("file"), "shown\n").is_ok() {
        let _ = fs::set_permissions(shown.join("file"), fs::Permissions::from_mode(0o666));
    }
    verdict
}

fn hard_link(scene: &Scene) -> Verdict {
    let link = scene.own.join("selftest-hard");
    let _ = fs::remove_file(&link);
    let sources = [scene.secret(), scene.shown.join("file"), PathBuf::from("/usr/bin/env")];
    let mut refused = Vec::new();
    for source in sources {
        match fs::hard_link(&source, &link) {
            Ok(()) => {
                let _ = fs::remove_file(&link);
                return Verdict::succeeded(source.display());
            }
            Err(error) => refused.push(error.kind().to_string()),
        }
    }
    Verdict::refused(refused.join(", "))
}

/// Runs set-user-id programs with a full pipe as output, so that they wait in their first write, and looks who they are.
fn set_user_id(_: &Scene) -> Verdict {
    let me = nix::unistd::geteuid().as_raw();
    let mut tried = 0;
    for directory in ["/usr/bin", "/bin", "/usr/sbin", "/usr/local/bin"] {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.path().metadata() else { continue };
            let owner = std::os::unix::fs::MetadataExt::uid(&metadata);
            if metadata.permissions().mode() & 0o4001 != 0o4001 || !metadata.is_file() || owner == me {
                continue;
            }
            tried += 1;
            if let Some(id) = id_while_it_writes(&entry.path())
                && id != me
            {
                return Verdict::succeeded(format!("{} runs as {id}", entry.path().display()));
            }
        }
    }
    if tried == 0 {
        Verdict::skipped("this host has no set-user-id program of somebody else")
    } else {
        Verdict::refused(format!("{tried} programs stay as they are"))
    }
}

fn id_while_it_writes(program: &Path) -> Option<u32> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).ok()?;
    while nix::unistd::write(&write, &[b'x'; 4096]).is_ok() {}
    let flags = OFlag::from_bits_truncate(nix::fcntl::fcntl(&write, nix::fcntl::FcntlArg::F_GETFL).ok()?) - OFlag::O_NONBLOCK;
    nix::fcntl::fcntl(&write, nix::fcntl::FcntlArg::F_SETFL(flags)).ok()?;
    let other = write.try_clone().ok()?;
    let mut child = Command::new(program).arg("--help").stdin(Stdio::null()).stdout(write).stderr(other).spawn().ok()?;
    let status = proc(i32::try_from(child.id()).ok()?, "status");
    let wanted = program.file_name()?.to_string_lossy().into_owned();
    let deadline = std::time::Instant::now() + std::time::Duration::from_millis(500);
    let mut found = None;
    while found.is_none() && std::time::Instant::now() < deadline {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
        // The kernel's names have fifteen letters.
        if field("Name:") == wanted.chars().take(15).collect::<String>() {
            found = field("Uid:").split_whitespace().nth(1).and_then(|id| id.parse().ok());
        } else if field("State:").starts_with('Z') {
            break;
        } else {
            std::thread::yield_now();
        }
    }
    // A control's, that runs as root, may not be killed by us: the end of the pipe ends it.
    drop(read);
    let _ = child.kill();
    let _ = child.wait();
    found
}

/// The attack that a script begins.
pub(crate) const SCRIPT: &str = "files.launcher-program";
