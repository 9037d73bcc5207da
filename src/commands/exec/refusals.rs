//! The system calls that the command was refused, for people and for the report.

use caisson_sandbox::outcome::RefusedCall;
use serde_json::{Value, json};

/// One line per call, and last what a policy would have to say.
pub(super) fn lines(refused: &[RefusedCall]) -> Vec<String> {
    if refused.is_empty() {
        return vec!["no system call was refused".to_owned()];
    }
    let mut lines: Vec<String> = refused.iter().map(line).collect();
    let mut names: Vec<&str> = refused.iter().filter(|call| call.not_addable.is_none()).map(|call| call.name.as_str()).collect();
    names.dedup();
    if !names.is_empty() {
        let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
        let flags: Vec<String> = names.iter().map(|name| format!("--allow-syscall {name}")).collect();
        lines.push(format!(
            "to allow what can be: {} here, or in a policy: [seccomp] allow = [{}]; programs often go on without",
            flags.join(" "),
            quoted.join(", ")
        ));
    }
    lines
}

fn line(call: &RefusedCall) -> String {
    let argument = call.argument.map(|argument| format!(" (argument {argument:#x})")).unwrap_or_default();
    let why = call.not_addable.as_ref().map(|why| format!("; {why}")).unwrap_or_default();
    format!("refused {} x{}{argument}: {}{why}", call.name, call.count, error(call.errno))
}

fn error(errno: i32) -> String {
    format!("{:?}", nix::errno::Errno::from_raw(errno))
}

/// The same for the report.
pub(super) fn described(refused: &[RefusedCall]) -> Value {
    let calls = refused.iter().map(|call| {
        json!({
            "name": call.name,
            "number": call.number,
            "argument": call.argument,
            "error": error(call.errno),
            "count": call.count,
            "addable": call.not_addable.is_none(),
            "reason": call.not_addable,
        })
    });
    calls.collect()
}
