//! What can be said of a planned job before anything runs: its cells, as far as they do not hang on other jobs.

use std::sync::Arc;

use caisson_model::diagnostic::Diagnostic;
use caisson_model::id::RunId;
use caisson_model::job::{Need, RunContexts, Strategy};
use caisson_model::outcome::Outcome;
use indexmap::IndexMap;
use serde_json::Value as Json;

use crate::matrix::Cell;
use crate::needs::{Evaluated, Needs, Ready};
use crate::planned::PlannedJob;

/// The cells of a job, as far as they are known.
#[derive(Clone, Debug, PartialEq)]
pub enum Preview {
    /// These; one without a matrix.
    Cells(Vec<PreviewCell>),
    /// They come from the outputs of other jobs, when those have ended.
    AtRunTime,
}

/// One cell.
#[derive(Clone, Debug, PartialEq)]
pub struct PreviewCell {
    /// Its name for people.
    pub name: String,
    /// Its `matrix`: an object, or null without a matrix.
    pub matrix: Json,
    /// The labels of its `runs-on:`; none for a job that calls a workflow, or when they come from other jobs.
    pub labels: Vec<String>,
}

/// The cells that a job will have when all that it needs succeeds.
///
/// # Errors
/// One finding about the key whose value cannot be used.
pub fn preview(job: &PlannedJob, contexts: &RunContexts) -> Result<Preview, Diagnostic> {
    let needs = job.needs.iter().map(|key| (key.0.clone(), Need { outcome: Outcome::Success, outputs: IndexMap::new() })).collect();
    let ready = Ready {
        run: RunId(0),
        first_index: 1,
        needs,
        ancestor_failed: false,
        cancelled: false,
        contexts: Arc::new(contexts.clone()),
        source: None,
    };
    let asks_needs = |json: &Json| json.to_string().to_lowercase().contains("needs.");
    if job.strategy.as_ref().is_some_and(|strategy| asks_needs(&strategy.matrix)) {
        return Ok(Preview::AtRunTime);
    }
    let needs = Needs::new(job, &ready);
    needs.preview(!asks_needs(&job.runs_on) && job.call.is_none()).map(Preview::Cells)
}

impl Needs<'_> {
    /// What is known of the cells without running anything.
    fn preview(&self, with_labels: bool) -> Result<Vec<PreviewCell>, Diagnostic> {
        let Evaluated { cells, fail_fast, max_parallel } = self.strategy()?;
        let total = cells.as_ref().map_or(1, Vec::len) as u32;
        let cells: Vec<Option<Cell>> = cells.map_or_else(|| vec![None], |cells| cells.into_iter().map(Some).collect());
        let preview = |(index, cell)| {
            let (contexts, matrix) = self.cell_contexts(cell, &Strategy { fail_fast, job_index: index, job_total: total, max_parallel });
            let labels = if with_labels { self.labels(&contexts)? } else { Vec::new() };
            Ok(PreviewCell { name: self.name(&matrix, &contexts)?, matrix, labels })
        };
        (0..).zip(cells).map(preview).collect()
    }
}
