//! What a step's `uses:` leads to: a built-in action, one that does nothing, or the description of an action (`action.yml`) that
//! lies in the checkout or in the mirror. Descriptions are checked like the workflow itself, and their steps become steps of the
//! plan, so that each gets a grant of its own before anything runs.

use std::collections::HashSet;

use caisson_model::step::ActionPlace;

use crate::actions::{self, BuiltIn};
use crate::instead;
use crate::library::{ActionText, Library};
use crate::limits::Limits;
use crate::uses::Uses;

/// How deep actions may use each other, as the language documents it.
pub(crate) const MAX_DEPTH: usize = 10;

/// Actions that send reports to a service: there is nothing to send from a sandbox, and nothing is lost without.
const REPORTERS: [&str; 10] = [
    "codecov/codecov-action",
    "codecov/test-results-action",
    "coverallsapp/github-action",
    "codacy/codacy-coverage-reporter-action",
    "codacy/codacy-analysis-cli-action",
    "paambaati/codeclimate-action",
    "deepsourcelabs/test-coverage-action",
    "qltysh/qlty-action/coverage",
    "github/codeql-action/upload-sarif",
    "dorny/test-reporter",
];

/// Where actions come from.
#[derive(Clone, Copy)]
pub(crate) struct Actions<'l> {
    pub(crate) library: &'l dyn Library,
    pub(crate) limits: &'l Limits,
}

pub(crate) enum Found<'l> {
    BuiltIn(&'static BuiltIn),
    NoOp { reason: String },
    Described { place: ActionPlace, text: ActionText<'l> },
}

/// Why a `uses:` leads nowhere.
pub(crate) struct Nowhere {
    pub(crate) message: String,
    pub(crate) help: String,
}

/// One `uses:` on the way down.
pub(crate) struct Visit<'v> {
    /// How many actions are around it.
    pub(crate) depth: usize,
    /// Inputs of the action around it that hold text of a stranger's choosing, in lower case.
    pub(crate) tainted: &'v HashSet<String>,
    /// Steps of actions seen so far.
    pub(crate) steps: &'v mut usize,
}

impl<'l> Actions<'l> {
    /// What a `uses:` leads to.
    pub(crate) fn find(&self, uses: &str) -> Result<Found<'l>, Nowhere> {
        let nowhere = |message: String, help: &str| Err(Nowhere { message, help: help.to_owned() });
        match Uses::parse(uses) {
            Ok(Uses::Repository { name, version }) => {
                if let Some(built_in) = actions::find(&name) {
                    return Ok(Found::BuiltIn(built_in));
                }
                if let Some(reason) = self.library.declared_no_op(&name) {
                    return Ok(Found::NoOp { reason });
                }
                if let Some(found) = self.library.mirrored(&name, &version) {
                    let (tree, path) = (found.tree, found.text.directory.to_owned());
                    let place = ActionPlace::Mirror { tree, name: format!("{}/{version}", found.name), path };
                    return Ok(Found::Described { place, text: found.text });
                }
                if REPORTERS.iter().any(|reporter| reporter.eq_ignore_ascii_case(&name)) {
                    return Ok(Found::NoOp { reason: "it reports to a service, and nothing is sent from a sandbox".to_owned() });
                }
                let known = self.library.mirrored_versions(&name);
                let repository: Vec<&str> = name.splitn(3, '/').take(2).collect();
                let repository = repository.join("/");
                if known.is_empty() {
                    let instead = instead::of(&name).map(|help| format!("{help}; or ")).unwrap_or_default();
                    let help = format!(
                        "{instead}add it to the mirror with `caisson actions add {repository}@{version} --from DIR_OR_GIT`, declare it under `no_op` of [actions] in the policy, or use one that is built in: {}",
                        actions::names().join(", ")
                    );
                    nowhere(format!("the action `{name}` is not available: nothing is fetched at run time"), &help)
                } else {
                    let help = format!(
                        "it has {}; add this one with `caisson actions add {repository}@{version} --from DIR_OR_GIT`",
                        known.join(", ")
                    );
                    nowhere(format!("the mirror has no `{name}@{version}`"), &help)
                }
            }
            Ok(Uses::Local) => match self.library.action(uses) {
                Some(text) => Ok(Found::Described { place: ActionPlace::Workspace(text.directory.to_owned()), text }),
                None => nowhere(
                    format!("there is no action.yml or action.yaml in `{uses}` of the checkout"),
                    "what an action may do is decided before anything runs, so it must be there from the start: correct the path, or add the file",
                ),
            },
            Ok(Uses::Docker) => nowhere(
                "docker actions are refused: a container of its own would stand outside the step's sandbox".to_owned(),
                "do the same in a `run:` step, or use a JavaScript or composite action from the mirror",
            ),
            Err(message) => nowhere(message, "write it like actions/checkout@v4"),
        }
    }
}
