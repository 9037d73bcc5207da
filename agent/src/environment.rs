//! A step's environment in its layers. Nothing of the agent's own environment is in it.

use caisson_model::step::{Action, Composite, NodeAction, StepSpec};
use indexmap::IndexMap;

use crate::contexts::{self, JobContexts, STEP_FILES};
use crate::view;

/// What the files and commands of earlier steps left for later ones.
#[derive(Clone, Debug, Default)]
pub struct Inherited {
    /// `GITHUB_ENV`.
    pub env: IndexMap<String, String>,
    /// `GITHUB_PATH`, in the order added.
    pub path: Vec<String>,
}

/// Why a variable cannot be set by a step for later ones; `None` when it can.
pub fn refusal(name: &str) -> Option<&'static str> {
    let upper = name.to_ascii_uppercase();
    if upper == "NODE_OPTIONS" {
        return Some("it would let this step run code in every later one; set it in the workflow's env");
    }
    if upper.starts_with("GITHUB_") || upper.starts_with("RUNNER_") {
        return Some("the variables GITHUB_* and RUNNER_* are caisson's own");
    }
    if !valid_name(name) {
        return Some("it is no name of a variable");
    }
    None
}

/// Whether the kernel and shells can carry a variable of this name.
pub fn valid_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 4096 && !name.contains(['=', '\0']) && !name.chars().any(char::is_control)
}

/// The lowest layer: where things are, as on every runner of this language.
pub fn base(job: &JobContexts, agent: &str, step: &StepSpec, inherited: &Inherited, debug: bool) -> IndexMap<String, String> {
    let mut env = IndexMap::new();
    let mut set = |name: &str, value: &str| {
        env.insert(name.to_owned(), value.to_owned());
    };
    set("PATH", &contexts::search_path(&inherited.path));
    set("HOME", view::HOME);
    set("USER", view::USER);
    set("LOGNAME", view::USER);
    set("SHELL", "/bin/bash");
    set("LANG", "C.UTF-8");
    set("CI", "true");
    // Nobody is there to answer.
    set("DEBIAN_FRONTEND", "noninteractive");
    env.extend(reserved(job, agent, step, debug));
    env
}

/// The variables that no layer may change.
pub fn reserved(job: &JobContexts, agent: &str, step: &StepSpec, debug: bool) -> IndexMap<String, String> {
    let mut env: IndexMap<String, String> = job.github_variables().collect();
    let mut set = |name: &str, value: &str| {
        env.insert(name.to_owned(), value.to_owned());
    };
    set("GITHUB_ACTIONS", "true");
    set("GITHUB_ACTION", &action(step));
    set("GITHUB_WORKSPACE", &job.workspace);
    if let Some(path) = job.action_path() {
        set("GITHUB_ACTION_PATH", path);
    }
    for file in ["ENV", "OUTPUT", "PATH", "STATE", "STEP_SUMMARY"] {
        set(&format!("GITHUB_{file}"), &format!("{STEP_FILES}/{}", file.to_ascii_lowercase()));
    }
    set("RUNNER_NAME", agent);
    set("RUNNER_OS", "Linux");
    set(
        "RUNNER_ARCH",
        match std::env::consts::ARCH {
            "x86_64" => "X64",
            "aarch64" => "ARM64",
            other => other,
        },
    );
    set("RUNNER_TEMP", contexts::TEMP);
    set("RUNNER_TOOL_CACHE", contexts::TOOL_CACHE);
    set("RUNNER_WORKSPACE", job.workspace.rsplit_once('/').map_or("", |(parent, _)| parent));
    set("RUNNER_ENVIRONMENT", "self-hosted");
    if debug {
        set("RUNNER_DEBUG", "1");
    }
    env
}

/// `github.action`: the step's id, or what it runs.
pub fn action(step: &StepSpec) -> String {
    match (&step.id, &step.action) {
        (Some(id), _) => id.clone(),
        (None, Action::Run { .. }) => format!("__run_{}", step.index.0),
        (None, Action::Uses { action, .. } | Action::NoOp { action, .. }) => format!("__{}", action.replace('/', "_")),
        (None, Action::Composite(Composite { uses, .. }) | Action::Node(NodeAction { uses, .. })) => {
            format!("__{}", uses.split('@').next().unwrap_or_default().trim_start_matches("./").replace('/', "_"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_steps_may_not_leave_behind() {
        for name in ["NODE_OPTIONS", "node_options", "GITHUB_SHA", "runner_temp", "", "A\0B", "A\nB"] {
            assert!(refusal(name).is_some(), "{name:?}");
        }
        for name in ["PATH", "CI", "DJANGO_SETTINGS_MODULE", "a.b"] {
            assert!(refusal(name).is_none(), "{name:?}");
        }
    }
}
