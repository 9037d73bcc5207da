//! Limits, and the causes that outcomes name.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use caisson_sandbox::error::LaunchError;
use caisson_sandbox::outcome::{Cause, DiskResource, Outcome, Status};
use caisson_sandbox::protection::Protection;
use caisson_sandbox::spec::{Access, AreaDirectory, Mount};

use crate::Test;
use crate::setting::{Setting, until};

pub(crate) const TESTS: &[Test] = &[
    ("memory is limited, the whole step is killed, the cause is named", memory),
    ("processes are limited and the cause is named", pids),
    ("time is limited", wall_clock),
    ("processor time is limited", cpu),
    ("the time of what was killed is in the account", killed_time),
    ("bytes and files written are limited and the cause is named", disk),
    ("open files, file size and core dumps are limited", resources),
    ("what is missing refuses, unless allowed by name", missing),
];

fn memory(setting: &Setting) {
    if !setting.enforces(Protection::MemoryLimit) {
        return;
    }
    let script = "import os, time\nif os.fork() == 0: time.sleep(60)\nx = bytearray(300 << 20); print(len(x))";
    let mut spec = setting.python(script);
    spec.limits.memory = Some(64 << 20);
    let outcome = setting.run(&spec).outcome;
    let Some(Cause::OutOfMemory { limit, victim, .. }) = &outcome.cause else { panic!("{outcome:?}") };
    assert_eq!((*limit, victim.as_ref().map(|victim| (victim.pid, victim.name.as_str()))), (64 << 20, Some((2, "python3"))));
    assert_eq!(outcome.status, Status::Signaled(9));
    assert!(outcome.usage.peak_memory > 32 << 20 && outcome.usage.peak_memory <= 64 << 20, "{outcome:?}");
    assert!(outcome.usage.wall < Duration::from_secs(30), "the sleeping child was killed too");
    spec.limits.memory = Some(512 << 20);
    let outcome = setting.run(&spec).outcome;
    assert!(outcome.success() && outcome.usage.peak_memory > 300 << 20, "{outcome:?}");
    // What a step writes to memory file systems counts.
    let mut spec = setting.sh("head -c 200M /dev/zero > /tmp/x");
    (spec.limits.memory, spec.limits.tmp_size) = (Some(64 << 20), Some(1 << 30));
    assert!(matches!(setting.run(&spec).outcome.cause, Some(Cause::OutOfMemory { .. })));
}

fn pids(setting: &Setting) {
    let script = "import os, time\nfor i in range(100):\n  if os.fork() == 0: time.sleep(60)\nprint('all')";
    let mut spec = setting.python(script);
    spec.limits.pids = Some(20);
    let ran = setting.run(&spec);
    assert!(!ran.outcome.success() && ran.err.contains("BlockingIOError"), "{:?} {}", ran.outcome, ran.err);
    assert!(ran.outcome.enforced.contains(&Protection::PidsLimit));
    // Where a cgroup counts, it also says who ran into the limit.
    if ran.outcome.usage.peak_pids > 0 {
        assert!(matches!(ran.outcome.cause, Some(Cause::Pids { limit: 20, .. })), "{:?}", ran.outcome);
    }
    spec.limits.pids = Some(200);
    assert!(setting.run(&spec).outcome.success());
}

fn wall_clock(setting: &Setting) {
    let mut spec = setting.sh("trap '' TERM; sleep 60 & sleep 60");
    spec.limits.wall_clock = Some(Duration::from_millis(200));
    let outcome = setting.run(&spec).outcome;
    assert_eq!(outcome.cause, Some(Cause::WallClock { limit: Duration::from_millis(200) }));
    assert!(outcome.usage.wall >= Duration::from_millis(200) && outcome.usage.wall < Duration::from_secs(5));
    spec.args[1] = "true".into();
    assert!(setting.run(&spec).outcome.success());
}

fn cpu(setting: &Setting) {
    if !setting.enforces(Protection::CpuLimit) {
        return;
    }
    let burn = "import time\nt = time.monotonic()\nwhile time.process_time() < 0.3: pass\nprint(time.monotonic() - t)";
    let mut spec = setting.python(burn);
    spec.limits.cpu_milli = Some(200);
    let slow: f64 = setting.says(&spec).parse().unwrap();
    assert!(slow > 0.9, "{slow}");
}

fn killed_time(setting: &Setting) {
    let burn = "while time.process_time() < 0.3: pass\nprint('burnt', flush=True)\nwhile True: pass";
    let spent = |outcome: &Outcome| outcome.usage.user + outcome.usage.system;
    // What the step leaves to be killed at its end.
    let told = burn.replace("print('burnt', flush=True)", "os.write(w, b'x')");
    let script = format!("import os, sys, time\nr, w = os.pipe()\nif os.fork():\n  os.read(r, 1)\n  sys.exit()\n{told}");
    let outcome = setting.run(&setting.python(&script)).outcome;
    assert!(outcome.success() && spent(&outcome) >= Duration::from_millis(290), "{outcome:?}");
    // What is killed with all of it: the launcher has to know whose time to take.
    if !setting.enforces(Protection::MemoryLimit) {
        return;
    }
    let (running, stdout, _) = setting.start(&setting.python(&format!("import time\n{burn}"))).unwrap();
    until("it has burnt", || stdout.read_at(&mut [0; 5], 0).unwrap() == 5);
    running.kill();
    let outcome = running.wait().unwrap();
    assert!(outcome.cause == Some(Cause::Killed) && spent(&outcome) >= Duration::from_millis(250), "{outcome:?}");
}

fn disk(setting: &Setting) {
    let area = setting.scratch.path().join("disk");
    let mine = AreaDirectory { name: "mine".to_owned(), uid: 1000, gid: 1000, mode: 0o755 };
    setting.launcher.create_area(&area, &[mine], None).unwrap();
    let spec = |script: &str| {
        let mut spec = setting.sh(script);
        let (source, target) = (area.join("mine"), "/mine".into());
        spec.mounts.push(Mount::Bind { source, target, access: Access::ReadWrite, owner: None });
        (spec.cwd, spec.limits.disk, spec.limits.inodes) = ("/mine".into(), Some(8 << 20), Some(300));
        spec.limits.counted = vec![area.clone()];
        spec
    };
    let cause = |script: &str| setting.run(&spec(script)).outcome.cause;
    assert_eq!(cause("head -c 5M /dev/zero > a"), None);
    // What an earlier sandbox of the job wrote counts.
    let is_disk = |cause: &Option<Cause>, which| matches!(cause, Some(Cause::Disk { resource, .. }) if *resource == which);
    let second = cause("head -c 5M /dev/zero > b; sleep 60");
    assert!(is_disk(&second, DiskResource::Bytes), "{second:?}");
    let many = cause("rm -f a b; for i in $(seq 400); do mkdir d$i; done; sleep 60");
    assert!(is_disk(&many, DiskResource::Inodes), "{many:?}");
    // Gone from the directory, but held open.
    let held = cause("rm -rf d*; for n in 1 2 3; do eval \"exec $((n + 3))>x\"; rm x; head -c 4M /dev/zero >&$((n + 3)); done; sleep 60");
    assert!(is_disk(&held, DiskResource::Bytes), "{held:?}");
    // One file alone is stopped by the kernel, unless the watcher looks in the moment before.
    let alone = setting.run(&spec("exec head -c 30M /dev/zero > y")).outcome;
    let (sigkill, sigxfsz) = (9, 25);
    assert!([sigxfsz, sigkill].map(Status::Signaled).contains(&alone.status), "{alone:?}");
    assert!(is_disk(&alone.cause, DiskResource::Bytes) && alone.enforced.contains(&Protection::DiskLimit), "{alone:?}");
    assert_eq!(cause("rm -f y; head -c 7M /dev/zero > z"), None, "what was removed does not count any more");
    setting.launcher.remove_area(&area).unwrap();
}

fn resources(setting: &Setting) {
    let mut spec = setting.sh("ulimit -n; ulimit -Hc; head -c 2M /dev/zero > /tmp/x || echo cut; ulimit -c unlimited || echo held");
    (spec.limits.open_files, spec.limits.file_size) = (Some(256), Some(1 << 20));
    let ran = setting.run(&spec);
    assert_eq!(ran.out, "256\n0\ncut\nheld\n", "{}", ran.err);
}

fn missing(setting: &Setting) {
    let standing = setting.launcher.standing();
    for protection in Protection::ALL {
        let lacks = standing.missing.iter().any(|missing| missing.protection == protection);
        assert_ne!(standing.enforceable.contains(&protection), lacks, "{protection}");
    }
    let mut spec = setting.sh("true");
    spec.limits.memory = Some(1 << 30);
    spec.allow_missing.clear();
    spec.limits.cpu_milli = Some(1000);
    if setting.enforces(Protection::MemoryLimit) {
        let outcome = setting.run(&spec).outcome;
        assert!(
            outcome.enforced.contains(&Protection::MemoryLimit) && outcome.missing.iter().all(|missing| missing.protection.best_effort())
        );
        return;
    }
    let error = setting.start(&spec).map(drop).unwrap_err();
    let LaunchError::Refused { missing } = &error else { panic!("{error}") };
    let names: Vec<Protection> = missing.iter().map(|missing| missing.protection).collect();
    assert_eq!(names, [Protection::MemoryLimit, Protection::CpuLimit]);
    spec.allow_missing = names.into_iter().collect();
    let outcome = setting.run(&spec).outcome;
    assert!(outcome.missing.iter().any(|missing| missing.protection == Protection::MemoryLimit));
    assert!(outcome.missing.iter().any(|missing| missing.protection == Protection::IdRange));
}
