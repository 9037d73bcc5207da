//! Whether the cells that `--matrix` asks for are anywhere: a value that no matrix has would run nothing, and a run of nothing is green.

use std::collections::BTreeSet;

use caisson_controller::mirror::Mirror;
use caisson_controller::planning;
use caisson_controller::policy::Rules;
use caisson_expr::Value;
use caisson_model::outcome::Fault;
use caisson_model::run::Submission;
use caisson_workflow::Preview;
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
        })
    }
}

/// Looks for each value that the submissions ask for. Says nothing where a matrix is known only at run time, or where a workflow is
/// refused, which is said elsewhere.
///
/// # Errors
/// [`CellsError`] for the first value that no cell has.
pub(crate) fn check(submissions: &[Submission], rules: &Rules, mirror: &Mirror) -> Result<(), CellsError> {
    let Some(wanted) = submissions.first().map(|submission| &submission.matrix).filter(|wanted| !wanted.is_empty()) else { return Ok(()) };
    let mut there: IndexMap<String, BTreeSet<String>> = IndexMap::new();
    for submission in submissions {
        let whole = Submission { matrix: IndexMap::new(), ..submission.clone() };
        let Ok(plan) = planning::planned(&whole, rules, mirror) else { return Ok(()) };
        for job in &plan.jobs {
            let Ok(Preview::Cells(cells)) = caisson_workflow::preview(job, &plan.contexts) else { return Ok(()) };
            for (key, value) in cells.iter().filter_map(|cell| cell.matrix.as_object()).flatten() {
                there.entry(key.to_lowercase()).or_default().insert(Value::from_json(value).to_text());
            }
        }
    }
    for (key, values) in wanted {
        let known = there.get(&key.to_lowercase());
        if let Some(value) = values.iter().find(|value| !known.is_some_and(|known| known.contains(*value))) {
            let (key, value) = (key.clone(), value.clone());
            return Err(match known {
                Some(known) => CellsError::Value { key, value, known: known.iter().cloned().collect() },
                None => CellsError::Key { key, value, known: there.into_keys().collect() },
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn asked(pairs: &[(&str, &str)], matrix: &str) -> Result<(), CellsError> {
        let text = format!("on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n{matrix}    steps:\n      - run: 'true'\n");
        let mut wanted: IndexMap<String, Vec<String>> = IndexMap::new();
        pairs.iter().for_each(|(key, value)| wanted.entry((*key).into()).or_default().push((*value).into()));
        let submission = Submission { file: "w.yml".into(), text, event: "push".into(), matrix: wanted, ..Submission::default() };
        check(&[submission], &Rules::default(), &Mirror::default())
    }

    #[test]
    fn a_value_that_no_cell_has_is_refused_with_those_that_there_are() {
        let matrix = "    strategy:\n      matrix:\n        python: ['3.9', '3.10']\n        db: [sqlite]\n";
        assert_eq!(asked(&[("python", "3.10"), ("python", "3.9"), ("DB", "sqlite")], matrix), Ok(()));
        let wrong = asked(&[("python", "3.1")], matrix).unwrap_err();
        assert_eq!(wrong.help().unwrap(), "its values are: 3.10, 3.9");
        assert_eq!(asked(&[("os", "x")], matrix).unwrap_err().help().unwrap(), "its keys are: python, db");
        assert!(asked(&[("os", "x")], "").unwrap_err().help().unwrap().contains("no job has a matrix"));
        assert_eq!(asked(&[("os", "x")], "    strategy:\n      matrix: ${{ fromJSON(github.nothing || '{\"os\":[\"x\"]}') }}\n"), Ok(()));
    }
}
