//! Whether the cells that `--matrix` asks for are anywhere: a value that no matrix has would run nothing, and a run of nothing is green.

use std::collections::{BTreeMap, BTreeSet};

use caisson_controller::mirror::Mirror;
use caisson_controller::planning;
use caisson_controller::policy::Rules;
use caisson_expr::Value;
use caisson_model::job::RunContexts;
use caisson_model::outcome::Fault;
use caisson_model::run::Submission;
use caisson_workflow::{PlannedJob, Preview};
use indexmap::IndexMap;

use crate::report::Explained;

/// Nothing is like what was asked for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CellsError {
    /// No matrix has the key.
    #[error("--matrix {key}={value}: no job that would run has {key} in its matrix")]
    Key {
        /// The key.
        key: String,
        /// A value that was wanted of it.
        value: String,
        /// The keys that there are.
        known: Vec<String>,
    },
    /// No cell has the value.
    #[error("--matrix {key}={value}: no cell of a job that would run has this value")]
    Value {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// The values that there are.
        known: Vec<String>,
    },
    /// Each value is somewhere, but no cell has those that are asked of it.
    #[error("no cell of a job that would run has what --matrix asks for together")]
    Together,
}

impl Explained for CellsError {
    fn fault(&self) -> Fault {
        Fault::User
    }

    fn help(&self) -> Option<String> {
        Some(match self {
            CellsError::Key { known, .. } if known.is_empty() => "leave --matrix out: no job has a matrix".to_owned(),
            CellsError::Key { known, .. } => format!("its keys are: {}", known.join(", ")),
            CellsError::Value { known, .. } => format!("its values are: {}", known.join(", ")),
            CellsError::Together => "leave one of the values out; `caisson plan` shows the cells that there are".to_owned(),
        })
    }
}

/// Looks for each value that the submissions ask for, and for a cell that has what is asked of it together. Says nothing where a matrix
/// is known only at run time, or where a workflow is refused, which is said elsewhere.
///
/// # Errors
/// [`CellsError`] for the first value that no cell has, or when no cell is left.
pub(crate) fn check(submissions: &[Submission], rules: &Rules, mirror: &Mirror) -> Result<(), CellsError> {
    let Some(wanted) = submissions.first().map(|submission| &submission.matrix).filter(|wanted| !wanted.is_empty()) else { return Ok(()) };
    let mut cells = Vec::new();
    for submission in submissions {
        let whole = Submission { matrix: IndexMap::new(), ..submission.clone() };
        let Ok(plan) = planning::planned(&whole, rules, mirror) else { return Ok(()) };
        if !gather(&plan.jobs, &plan.contexts, &mut cells) {
            return Ok(());
        }
    }
    let mut there: IndexMap<&str, BTreeSet<&str>> = IndexMap::new();
    for (key, value) in cells.iter().flatten() {
        there.entry(key).or_default().insert(value);
    }
    for (key, values) in wanted {
        let known = there.get(key.to_lowercase().as_str());
        if let Some(value) = values.iter().find(|value| !known.is_some_and(|known| known.contains(value.as_str()))) {
            let (key, value, owned) = (key.clone(), value.clone(), |text: &&str| (*text).to_owned());
            return Err(match known {
                Some(known) => CellsError::Value { key, value, known: known.iter().map(owned).collect() },
                None => CellsError::Key { key, value, known: there.keys().map(owned).collect() },
            });
        }
    }
    let is_chosen = |cell: &Cell| {
        let asked = wanted.iter().filter_map(|(key, values)| Some((cell.get(&key.to_lowercase())?, values)));
        let answers: Vec<bool> = asked.map(|(value, values)| values.contains(value)).collect();
        !answers.is_empty() && answers.iter().all(|answer| *answer)
    };
    if cells.iter().any(is_chosen) { Ok(()) } else { Err(CellsError::Together) }
}

/// The values of one cell as text, by key in small letters.
type Cell = BTreeMap<String, String>;

/// The cells of these jobs and of the workflows that they call; `false` where some are known only at run time.
fn gather(jobs: &[PlannedJob], contexts: &RunContexts, cells: &mut Vec<Cell>) -> bool {
    jobs.iter().all(|job| {
        let Ok(Preview::Cells(found)) = caisson_workflow::preview(job, contexts) else { return false };
        let text = |(key, value): (&String, &serde_json::Value)| (key.to_lowercase(), Value::from_json(value).to_text());
        cells.extend(found.iter().filter_map(|cell| cell.matrix.as_object()).map(|matrix| matrix.iter().map(text).collect()));
        job.call.as_ref().is_none_or(|call| gather(&call.jobs, contexts, cells))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const CALLED: &str = "on: workflow_call\njobs:\n  c:\n    runs-on: ubuntu-latest\n    strategy: { matrix: { shard: [1, 2] } }\n    steps: [{ run: 'true' }]\n";

    fn asked(pairs: &[(&str, &str)], matrix: &str) -> Result<(), CellsError> {
        let text = format!(
            "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n{matrix}    steps:\n      - run: 'true'\n  b:\n    uses: ./.github/workflows/c.yml\n"
        );
        let mut wanted: IndexMap<String, Vec<String>> = IndexMap::new();
        pairs.iter().for_each(|(key, value)| wanted.entry((*key).into()).or_default().push((*value).into()));
        let submission = Submission { file: "w.yml".into(), text, event: "push".into(), matrix: wanted, ..Submission::default() };
        let submission =
            Submission { files: [(".github/workflows/c.yml".to_owned(), CALLED.to_owned())].into_iter().collect(), ..submission };
        check(&[submission], &Rules::default(), &Mirror::default())
    }

    #[test]
    fn a_value_that_no_cell_has_is_refused_with_those_that_there_are() {
        let matrix = "    strategy:\n      matrix:\n        python: ['3.9', '3.10']\n        db: [sqlite]\n";
        assert_eq!(asked(&[("python", "3.10"), ("python", "3.9"), ("DB", "sqlite")], matrix), Ok(()));
        let wrong = asked(&[("python", "3.1")], matrix).unwrap_err();
        assert_eq!(wrong.help().unwrap(), "its values are: 3.10, 3.9");
        assert_eq!(asked(&[("os", "x")], matrix).unwrap_err().help().unwrap(), "its keys are: db, python, shard");
        assert_eq!(asked(&[("os", "x")], "").unwrap_err().help().unwrap(), "its keys are: shard");
        // Of a workflow that is called, and of two jobs that each have one of the keys.
        assert_eq!(asked(&[("shard", "2"), ("db", "sqlite")], matrix), Ok(()));
        let uneven = "    strategy:\n      matrix:\n        python: ['3.9', '3.10']\n        include: [{ python: '3.9', db: x }]\n";
        assert_eq!(asked(&[("python", "3.9"), ("db", "x")], uneven), Ok(()));
        let apart = "    strategy:\n      matrix:\n        include: [{ python: '3.9', db: x }, { python: '3.10', db: y }]\n";
        assert_eq!(asked(&[("python", "3.9"), ("db", "y")], apart), Err(CellsError::Together));
        assert_eq!(asked(&[("os", "x")], "    strategy:\n      matrix: ${{ fromJSON(github.nothing || '{\"os\":[\"x\"]}') }}\n"), Ok(()));
    }
}
