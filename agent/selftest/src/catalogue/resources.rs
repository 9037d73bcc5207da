//! Using up what others need. The limits of these sandboxes lie far below what is tried, and what is tried far below what
//! would harm the host that makes the control.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use caisson_sandbox::raw::Argument::{Answer, Bytes, Word};
use caisson_sandbox::spec::Spec;

use super::kernel::{attack, call};
use caisson_sandbox::raw::{Call, Entry};

use crate::attack::{Act, After, Attack, Control, as_it_said};
use crate::needs::Need;
use crate::reach::command;
use crate::scene::Scene;
use crate::verdict::Verdict;

const MIB: u64 = 1 << 20;

macro_rules! limited {
    ($id:literal, $tries:literal, $code:expr, $prepare:expr, [$($need:expr),*]) => {
        Attack::new($id, $tries, Act::Code($code), Control::Outside).needing(&[$($need),*]).alone($prepare, as_it_said)
    };
}

pub(super) const ATTACKS: &[Attack] = &[
    limited!("resources.processes", "make more processes than it may", processes, few_processes, [Need::Pids]),
    limited!("resources.threads", "make more threads than it may", threads, few_processes, [Need::Pids]),
    limited!("resources.memory", "use more memory than it may", memory, little_memory, [Need::Memory]),
    limited!("resources.memory-of-many", "use more memory in many processes than one may", memory_of_many, little_memory, [Need::Memory]),
    limited!("resources.files-in-memory", "use more memory by files in /dev/shm and /tmp", memory_files, little_memory, [Need::Memory]),
    limited!("resources.memory-file", "use more memory by a file without a name", nameless, little_memory, [Need::Memory]),
    limited!("resources.pipes", "use more memory by full pipes", pipes, little_memory, [Need::Memory]),
    limited!(
        "resources.inodes",
        "make more files than a memory file system holds",
        inodes,
        |spec, _| {
            spec.limits.memory = Some(32 * MIB);
        },
        [Need::Memory]
    ),
    limited!(
        "resources.descriptors",
        "open more files than it may",
        descriptors,
        |spec, _| {
            spec.limits.open_files = Some(64);
        },
        []
    ),
    limited!(
        "resources.file-size",
        "write a larger file than it may",
        large_file,
        |spec, _| {
            spec.limits.file_size = Some(MIB);
        },
        []
    ),
    Attack::new("resources.processor", "use more of the processors than it may", Act::Code(spin), Control::Outside)
        .needing(&[Need::Cpu])
        .alone(|spec, _| spec.limits.cpu_milli = Some(100), little_processor),
    Attack::new("resources.time", "run longer than it may", Act::Code(stay), Control::Outside).alone(
        |spec, _| spec.limits.wall_clock = Some(Duration::from_millis(500)),
        |_, after| match (&after.said, &after.cause) {
            (Some(said), _) => said.clone(),
            (None, Some(caisson_sandbox::outcome::Cause::WallClock { .. })) => Verdict::refused("killed when its time was over"),
            (None, other) => Verdict::unknown(format!("{other:?}, code {}", after.code)),
        },
    ),
    attack!(
        "resources.entropy",
        "empty the host's source of randomness",
        Root,
        [
            call!(libc::SYS_openat, Word(0), Bytes(b"/dev/urandom\0"), Word(0)),
            // RNDRESEEDCRNG of random(4): the answer 0 of the call before.
            call!(libc::SYS_ioctl, Answer(0), Word(0x5207)),
        ]
    ),
    attack!(
        "resources.keyrings",
        "fill the host's table of keys",
        Outside,
        [
            call!(libc::SYS_keyctl, Word(1), Word(0)),
            call!(libc::SYS_add_key, Bytes(b"keyring\0"), Bytes(b"caisson\0"), Word(0), Word(0), Word((-2_i64) as u64)),
        ]
    ),
    attack!(
        "resources.namespaces",
        "use up the host's namespaces",
        Weakened,
        [call!(libc::SYS_unshare, Word(0x0800_0000)), call!(libc::SYS_unshare, Word(0x0400_0000)),]
    ),
];

fn few_processes(spec: &mut Spec, _: &Scene) {
    spec.limits.pids = Some(32);
}

fn little_memory(spec: &mut Spec, _: &Scene) {
    spec.limits.memory = Some(48 * MIB);
    // Larger than the limit: it is the group that must hold, not the size of one file system.
    spec.limits.tmp_size = Some(1 << 30);
    spec.limits.shm_size = Some(1 << 30);
}

fn processes(scene: &Scene) -> Verdict {
    let mut children = Vec::new();
    for made in 0..scene.bounds.processes {
        // Each ends with its input, and so with this process.
        match command(&["idle"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn() {
            Ok(child) => children.push(child),
            Err(error) => return Verdict::refused(format!("after {made}: {error}")),
        }
    }
    for mut child in children.drain(..) {
        drop(child.stdin.take());
        let _ = child.wait();
    }
    Verdict::succeeded(format!("{} processes", scene.bounds.processes))
}

fn threads(scene: &Scene) -> Verdict {
    let (keep, ended) = std::sync::mpsc::channel::<()>();
    let ended = std::sync::Arc::new(std::sync::Mutex::new(ended));
    let mut made = 0;
    let mut refused = None;
    while made < scene.bounds.processes {
        let ended = std::sync::Arc::clone(&ended);
        let thread = std::thread::Builder::new().stack_size(64 << 10).spawn(move || {
            // All wait for the sender to go.
            let _ = ended.lock().map(|ended| ended.recv());
        });
        match thread {
            Ok(_) => made += 1,
            Err(error) => {
                refused = Some(format!("after {made}: {error}"));
                break;
            }
        }
    }
    drop(keep);
    refused.map_or_else(|| Verdict::succeeded(format!("{made} threads")), Verdict::refused)
}

fn touch(bytes: u64) -> Vec<u8> {
    let mut memory = Vec::new();
    let wanted = usize::try_from(bytes).unwrap_or(usize::MAX);
    if memory.try_reserve_exact(wanted).is_ok() {
        // One after the other, so that the limit is met in the middle.
        memory.resize(wanted, 1);
    }
    memory
}

fn memory(scene: &Scene) -> Verdict {
    let memory = touch(scene.bounds.bytes);
    if memory.len() as u64 == scene.bounds.bytes && memory.iter().step_by(4096).all(|byte| *byte == 1) {
        Verdict::succeeded(format!("{} bytes", memory.len()))
    } else {
        Verdict::refused(format!("{} bytes", memory.len()))
    }
}

/// What one process of [`memory_of_many`] does: holds memory, says so, and waits for the end of its input.
pub(crate) fn hold(bytes: &str) -> i32 {
    let memory = touch(bytes.parse().unwrap_or(0));
    let said = writeln!(std::io::stdout(), "{}", memory.len());
    let _ = std::io::stdin().read(&mut [0]);
    i32::from(said.is_err() || memory.is_empty())
}

fn memory_of_many(scene: &Scene) -> Verdict {
    const PROCESSES: u64 = 4;
    let share = (scene.bounds.bytes / PROCESSES).to_string();
    let mut children = Vec::new();
    let mut held = 0;
    for _ in 0..PROCESSES {
        let child = command(&["hold", &share]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut child) = child else { return Verdict::refused("no more processes") };
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            let _ = BufReader::new(out).read_line(&mut line);
        }
        held += line.trim().parse::<u64>().unwrap_or(0);
        children.push(child);
    }
    for mut child in children {
        drop(child.stdin.take());
        let _ = child.wait();
    }
    if held >= scene.bounds.bytes { Verdict::succeeded(format!("{held} bytes")) } else { Verdict::refused(format!("{held} bytes")) }
}

fn fill(path: &Path, bytes: u64) -> std::io::Result<u64> {
    let mut file = File::create(path)?;
    let block = vec![1; MIB as usize];
    let mut written = 0;
    while written < bytes {
        file.write_all(&block)?;
        written += MIB;
    }
    Ok(written)
}

fn memory_files(scene: &Scene) -> Verdict {
    let places = [PathBuf::from("/dev/shm"), scene.own.clone()];
    let mut sum = 0;
    let mut refused = None;
    let mut made = Vec::new();
    for (at, place) in places.iter().cycle().take(4).enumerate() {
        let path = place.join(format!("caisson-selftest-{}-{at}", scene.word));
        let result = fill(&path, scene.bounds.bytes / 4);
        made.push(path);
        match result {
            Ok(written) => sum += written,
            Err(error) => {
                refused = Some(error.to_string());
                break;
            }
        }
    }
    for path in made {
        let _ = std::fs::remove_file(path);
    }
    refused.map_or_else(|| Verdict::succeeded(format!("{sum} bytes")), Verdict::refused)
}

fn nameless(scene: &Scene) -> Verdict {
    let made = nix::sys::memfd::memfd_create("selftest", nix::sys::memfd::MFdFlags::MFD_CLOEXEC);
    let Ok(file) = made else { return Verdict::refused("no such file can be made") };
    let mut file = File::from(file);
    let block = vec![1; MIB as usize];
    for written in 0..scene.bounds.bytes / MIB {
        if let Err(error) = file.write_all(&block) {
            return Verdict::refused(format!("after {written} MiB: {error}"));
        }
    }
    Verdict::succeeded(format!("{} bytes", scene.bounds.bytes))
}

/// Each pipe holds up to a mebibyte of the kernel's memory, or 64 KiB where the user's share is used up.
fn pipes(scene: &Scene) -> Verdict {
    let mut held = Vec::new();
    let mut sum = 0;
    while sum < scene.bounds.bytes {
        let Ok((read, write)) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC | nix::fcntl::OFlag::O_NONBLOCK) else {
            return Verdict::refused(format!("after {sum} bytes no more pipes"));
        };
        let _ = nix::fcntl::fcntl(&write, nix::fcntl::FcntlArg::F_SETPIPE_SZ(1 << 20));
        let before = sum;
        while let Ok(count) = nix::unistd::write(&write, &[1; 65536]) {
            sum += count as u64;
        }
        if sum == before {
            return Verdict::refused(format!("after {sum} bytes a pipe takes nothing"));
        }
        held.push((read, write));
        // The share of all pipes of a user is small: what does not grow is refused.
        if sum - before <= 4096 && held.len() > 2000 {
            return Verdict::refused(format!("{sum} bytes in {} pipes", held.len()));
        }
    }
    Verdict::succeeded(format!("{sum} bytes in {} pipes", held.len()))
}

fn inodes(scene: &Scene) -> Verdict {
    let place = scene.own.join("selftest-inodes");
    let _ = std::fs::create_dir(&place);
    // Each costs a good kilobyte of the kernel's memory.
    let wanted = scene.bounds.bytes / 3072;
    let mut refused = None;
    for made in 0..wanted {
        if let Err(error) = File::create(place.join(made.to_string())) {
            refused = Some(format!("after {made}: {error}"));
            break;
        }
    }
    let _ = std::fs::remove_dir_all(&place);
    refused.map_or_else(|| Verdict::succeeded(format!("{wanted} files")), Verdict::refused)
}

fn descriptors(scene: &Scene) -> Verdict {
    let mut held = Vec::new();
    for made in 0..scene.bounds.processes {
        match File::open("/dev/null") {
            Ok(file) => held.push(file),
            Err(error) => return Verdict::refused(format!("after {made}: {error}")),
        }
    }
    Verdict::succeeded(format!("{} files", held.len()))
}

fn large_file(scene: &Scene) -> Verdict {
    let path = scene.own.join("selftest-large");
    // The signal that the kernel sends at the limit must not end us before we can say so.
    let mut set = nix::sys::signal::SigSet::empty();
    set.add(nix::sys::signal::Signal::SIGXFSZ);
    let _ = set.thread_block();
    let result = fill(&path, 4 * MIB);
    let _ = std::fs::remove_file(path);
    Verdict::of(result, "4 MiB")
}

fn spin(_: &Scene) -> Verdict {
    let until = Instant::now() + Duration::from_millis(1500);
    let mut turns = 0_u64;
    while Instant::now() < until {
        turns = std::hint::black_box(turns.wrapping_add(1));
    }
    Verdict::succeeded(format!("{turns} turns"))
}

fn little_processor(_: &Scene, after: &After) -> Verdict {
    let share = after.processor / after.wall.max(0.001);
    let text = format!("{:.2} s in {:.2} s", after.processor, after.wall);
    // Asked for a tenth; periods at both ends and the start of the program blur it.
    if share < 0.2 { Verdict::refused(text) } else { Verdict::succeeded(text) }
}

fn stay(_: &Scene) -> Verdict {
    std::thread::sleep(Duration::from_secs(2));
    Verdict::succeeded("two seconds")
}
