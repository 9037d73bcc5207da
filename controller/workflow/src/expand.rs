//! A job whose needs have ended to the jobs that agents run: its condition, its matrix, its names and limits.

use caisson_model::diagnostic::Diagnostic;
use caisson_model::job::Strategy;

use crate::calling;
use crate::matrix::Cell;
use crate::needs::{Evaluated, Expansion, Needs, Ready};
use crate::planned::PlannedJob;

/// Decides whether a job runs, and as which cells. Pure.
///
/// # Errors
/// One finding about the key whose value cannot be used.
pub fn expand(job: &PlannedJob, ready: &Ready) -> Result<Expansion, Diagnostic> {
    let needs = Needs::new(job, ready);
    if let Some(collector) = &job.collector {
        return calling::collect(&needs, collector);
    }
    if let Some(reason) = needs.skip_reason()? {
        return Ok(Expansion::Skipped { reason });
    }
    let Evaluated { cells, fail_fast, max_parallel } = needs.strategy()?;
    if cells.as_ref().is_some_and(Vec::is_empty) {
        return Ok(Expansion::Skipped { reason: "none of its matrix's cells was asked for".to_owned() });
    }
    let total = cells.as_ref().map_or(1, Vec::len) as u32;
    let cells: Vec<Option<Cell>> = match cells {
        Some(cells) => cells.into_iter().map(Some).collect(),
        None => vec![None],
    };
    let strategy = |index| Strategy { fail_fast, job_index: index, job_total: total, max_parallel };
    if let Some(call) = &job.call {
        return calling::call(&needs, call, cells, strategy);
    }
    let specs = (0..).zip(cells).map(|(index, cell)| needs.cell(cell, strategy(index)));
    specs.collect::<Result<Vec<_>, _>>().map(Expansion::Cells)
}
