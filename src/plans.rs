//! All workflows of a command planned and admitted before any of them is submitted. One that is refused stops them all where they were
//! named; where they are whatever the checkout has, the others run, and the command fails all the same.

use std::collections::BTreeSet;

use caisson_controller::mirror::Mirror;
use caisson_controller::planning;
use caisson_controller::policy::Rules;
use caisson_model::diagnostic::{Diagnostic, Severity};
use caisson_model::outcome::Fault;
use caisson_model::run::Submission;

use crate::report::Explained;

/// Workflows were refused.
#[derive(Debug, Default, thiserror::Error)]
#[error("{count} of {total} {} refused; {}", if *total == 1 { "workflow was" } else { "workflows were" },
    if *rest { "the rest runs" } else { "nothing was run" })]
pub(crate) struct Refused {
    count: usize,
    total: usize,
    /// Whether the others run.
    rest: bool,
    help: Option<String>,
    findings: Vec<Diagnostic>,
}

impl Refused {
    /// `count` texts that are no workflows.
    pub(crate) fn unread(count: usize, findings: Vec<Diagnostic>) -> Refused {
        Refused { count, findings, ..Refused::default() }
    }
}

impl Explained for Refused {
    fn fault(&self) -> Fault {
        Fault::User
    }

    fn help(&self) -> Option<String> {
        self.help.clone()
    }

    fn findings(&self) -> Vec<Diagnostic> {
        self.findings.clone()
    }
}

/// Plans and admits; gives what may run, and what may not. `known` are the names of the secrets that can be opened.
///
/// # Errors
/// `before` with what is refused here as well, when nothing may run, or when all of them were asked for by name (`named`).
pub(crate) fn admit(
    submissions: Vec<Submission>,
    before: Option<Refused>,
    named: bool,
    rules: &Rules,
    mirror: &Mirror,
    known: &BTreeSet<String>,
) -> Result<(Vec<Submission>, Option<Refused>), Refused> {
    let mut refused = before.unwrap_or_default();
    refused.total = refused.count + submissions.len();
    let mut admitted = Vec::new();
    for submission in submissions {
        match planning::plan(&submission, rules, mirror, known) {
            Ok(_) => admitted.push(submission),
            Err(found) => {
                refused.count += 1;
                refused.help = refused.help.or_else(|| others(&submission, &found));
                refused.findings.extend(found);
            }
        }
    }
    refused.rest = !named && !admitted.is_empty();
    match (refused.count, refused.rest) {
        (0, _) => Ok((admitted, None)),
        (_, true) => Ok((admitted, Some(refused))),
        (_, false) => Err(refused),
    }
}

/// How to run the jobs of a workflow that nothing was found against.
fn others(submission: &Submission, findings: &[Diagnostic]) -> Option<String> {
    let errors = || findings.iter().filter(|finding| finding.severity == Severity::Error);
    let jobs = caisson_workflow::events(&submission.text, &submission.file).ok()?.jobs;
    let of = |finding: &Diagnostic, job: &str| {
        finding.construct.strip_prefix("jobs.").is_some_and(|rest| rest.split(['.', '[']).next() == Some(job))
    };
    if !submission.jobs.is_empty() || !errors().all(|finding| jobs.iter().any(|job| of(finding, job))) {
        return None;
    }
    let sound: Vec<String> = jobs.iter().filter(|job| !errors().any(|finding| of(finding, job))).map(|job| format!("-j {job}")).collect();
    let file = submission.file.rsplit('/').next().unwrap_or(&submission.file);
    (!sound.is_empty()).then(|| format!("nothing is wrong with its other jobs: caisson run -W {file} {}", sound.join(" ")))
}
