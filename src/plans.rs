//! All workflows of a command planned and admitted before any of them is submitted: one that is refused stops them all.

use std::collections::BTreeSet;

use caisson_controller::mirror::Mirror;
use caisson_controller::planning;
use caisson_controller::policy::{self, Rules};
use caisson_model::diagnostic::Diagnostic;
use caisson_model::outcome::Fault;
use caisson_model::run::Submission;
use caisson_workflow::Plan;

use crate::report::Explained;

/// Workflows were refused.
#[derive(Debug, thiserror::Error)]
#[error("{count} of {total} {} refused; nothing was run", if *total == 1 { "workflow was" } else { "workflows were" })]
pub(crate) struct Refused {
    count: usize,
    total: usize,
    findings: Vec<Diagnostic>,
}

impl Explained for Refused {
    fn fault(&self) -> Fault {
        Fault::User
    }

    fn findings(&self) -> Vec<Diagnostic> {
        self.findings.clone()
    }
}

/// Plans and admits. `known` are the names of the secrets that can be opened; `None` takes every name that is asked for as known.
pub(crate) fn admit(
    submissions: &[Submission],
    rules: &Rules,
    mirror: &Mirror,
    known: Option<&BTreeSet<String>>,
) -> Result<Vec<Plan>, Refused> {
    let (mut plans, mut count, mut findings) = (Vec::new(), 0, Vec::new());
    for submission in submissions {
        let planned = planning::planned(submission, rules, mirror);
        let admitted = planned.and_then(|plan| {
            let asked = plan.all_jobs().into_iter().flat_map(|(_, job)| &job.steps).flat_map(|step| step.grant.secrets.clone()).collect();
            policy::admit(plan, rules, known.unwrap_or(&asked))
        });
        match admitted {
            Ok(plan) => plans.push(plan),
            Err(found) => {
                count += 1;
                findings.extend(found);
            }
        }
    }
    if count == 0 { Ok(plans) } else { Err(Refused { count, total: submissions.len(), findings }) }
}
