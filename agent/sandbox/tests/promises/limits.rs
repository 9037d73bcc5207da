//! Limits, and the causes that outcomes name.

use std::time::Duration;

use caisson_sandbox::error::LaunchError;
use caisson_sandbox::outcome::{Cause, Status};
use caisson_sandbox::protection::Protection;

use crate::Test;
use crate::setting::Setting;

pub(crate) const TESTS: &[Test] = &[
    ("memory is limited, the whole step is killed, the cause is named", memory),
    ("processes are limited and the cause is named", pids),
    ("time is limited", wall_clock),
    ("processor time is limited", cpu),
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
    assert!(matches!(outcome.cause, Some(Cause::OutOfMemory { limit, .. }) if limit == 64 << 20), "{outcome:?}");
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
