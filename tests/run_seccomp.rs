//! Refused system calls: listed by name with what would allow them, allowed by name in a policy, never where that would open
//! the sandbox.
#![allow(clippy::unwrap_used, clippy::panic)]

mod place;

use place::Place;
use serde_json::Value;

/// Asks to be traced, sets an io_uring up, and opens a packet socket.
const ACTS: &str = "\
import ctypes, errno, socket
libc = ctypes.CDLL(None, use_errno=True)
traced = libc.ptrace(0, 0, 0, 0)
print('traced' if traced == 0 else errno.errorcode[ctypes.get_errno()])
for _ in range(3):
    libc.syscall(425, 1, 0)
    print(errno.errorcode[ctypes.get_errno()])
try:
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
except OSError as error:
    print(errno.errorcode[error.errno])
";

#[test]
fn the_log_names_what_was_refused_and_changes_no_answer() {
    let place = Place::new();
    let report = place.path().join("report.json");
    let exec = |words: &[&str]| {
        let mut all = vec!["exec", "--report", report.to_str().unwrap()];
        all.extend(words);
        all.extend(["--", "python3", "-c", ACTS]);
        let output = place.caisson(&all).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let report: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap(), report)
    };
    let (plain, _, report) = exec(&[]);
    assert_eq!(plain, "EPERM\nEPERM\nEPERM\nEPERM\nEAFNOSUPPORT\n");
    assert_eq!(report["refused_calls"], serde_json::json!([]), "nothing is listed that was not asked for");
    let (logged, said, report) = exec(&["--seccomp-log"]);
    assert_eq!(plain, logged, "the log changes no answer");
    assert!(said.contains("refused ptrace x1: EPERM") && said.contains("refused io_uring_setup x3: EPERM"), "{said}");
    assert!(said.contains("--allow-syscall ptrace") && !said.contains("--allow-syscall io_uring"), "{said}");
    let calls = report["refused_calls"].as_array().unwrap();
    let call = |name: &str| calls.iter().find(|call| call["name"] == name).unwrap_or_else(|| panic!("{name}: {report}"));
    assert_eq!((&call("ptrace")["addable"], &call("io_uring_setup")["addable"]), (&true.into(), &false.into()));
    assert_eq!((&call("socket")["argument"], &call("socket")["error"]), (&17.into(), &"EAFNOSUPPORT".into()));
    let (allowed, said, _) = exec(&["--seccomp-log", "--allow-syscall", "ptrace"]);
    assert!(allowed.starts_with("traced\n") && !said.contains("refused ptrace"), "{allowed}{said}");
}

#[test]
fn a_policy_adds_calls_by_name_and_refuses_what_opens_the_sandbox() {
    let place = Place::with(&format!(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - name: Act\n        shell: python\n        run: |\n{}",
        ACTS.lines().map(|line| format!("          {line}\n")).collect::<String>()
    ));
    let policy = place.path().join("policy.toml");
    let policy_path = policy.to_str().unwrap();
    let first = |run: &place::Run| run.log("a").lines().find(|line| matches!(*line, "traced" | "EPERM")).map(str::to_owned);
    let closed = place.run(&[]);
    assert_eq!(first(closed.expect(0)).as_deref(), Some("EPERM"), "{}", closed.log("a"));
    std::fs::write(&policy, "[seccomp]\nallow = [\"ptrace\"]\n").unwrap();
    let open = place.run(&["--policy", policy_path]);
    assert_eq!(first(open.expect(0)).as_deref(), Some("traced"), "{}", open.log("a"));
    std::fs::write(&policy, "[[step]]\njob = 'a'\nsystem_calls = ['ptrace']\n").unwrap();
    assert_eq!(first(place.run(&["--policy", policy_path]).expect(0)).as_deref(), Some("traced"));
    for (name, why) in [("unshare", "namespaces"), ("ptarce", "no system call"), ("io_uring_setup", "never allowed")] {
        std::fs::write(&policy, format!("[seccomp]\nallow = [\n  '{name}',\n]\n")).unwrap();
        let output = place.caisson(&["run", "--policy", policy_path]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(why) && said.contains("policy.toml:3") && said.contains(name), "{said}");
    }
}
