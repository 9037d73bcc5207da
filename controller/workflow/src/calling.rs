//! A calling job that becomes the jobs of the workflow that it calls, and its end when they have ended.

use caisson_expr::{Contexts, Object, Value};
use caisson_model::diagnostic::Diagnostic;
use caisson_model::id::JobKey;
use caisson_model::job::{Need, Strategy};
use caisson_model::outcome::Outcome;
use indexmap::IndexMap;
use serde_json::Value as Json;

use crate::matrix::Cell;
use crate::needs::{Expansion, Needs};
use crate::planned::{CallScope, Collector, Gate, PlannedCall, PlannedJob};

/// How many jobs one calling job may bring into a run.
const MAX_CALLED: usize = 1024;

/// The jobs that take the place of a calling one, and the one that waits for them under its key.
pub(crate) fn call(
    needs: &Needs<'_>,
    call: &PlannedCall,
    cells: Vec<Option<Cell>>,
    strategy: impl Fn(u32) -> Strategy,
) -> Result<Expansion, Diagnostic> {
    let caller = needs.job;
    let (matrix, fail_fast) = (cells.iter().any(Option::is_some), strategy(0).fail_fast);
    if cells.len().saturating_mul(call.jobs.len()) > MAX_CALLED {
        return Err(needs.finding("strategy.matrix", format!("more than {MAX_CALLED} jobs would be called")));
    }
    let mut jobs = Vec::new();
    let mut scopes = Vec::new();
    for (index, cell) in (0..).zip(cells) {
        let (contexts, cell) = needs.cell_contexts(cell, &strategy(index));
        let prefix = if matrix { format!("{}[{index}]/", caller.key) } else { format!("{}/", caller.key) };
        let scope = CallScope {
            title: format!("{} / ", needs.name(&cell, &contexts)?),
            inputs: inputs(needs, call, &contexts)?,
            gate: strategy(0).max_parallel.filter(|_| matrix).map(|most| Gate { caller: caller.key.clone(), most }),
            fail_fast: (matrix && fail_fast).then(|| format!("{}[", caller.key)),
            prefix,
        };
        for job in &call.jobs {
            let outside = |key: &JobKey| JobKey(format!("{}{key}", scope.prefix));
            jobs.push(PlannedJob {
                key: outside(&job.key),
                needs: job.needs.iter().map(outside).collect(),
                scope: Some(scope.clone()),
                ..job.clone()
            });
        }
        scopes.push(scope);
    }
    let keys: Vec<JobKey> = jobs.iter().map(|job| job.key.clone()).collect();
    let collector = PlannedJob {
        needs: keys.iter().chain(&caller.needs).cloned().collect(),
        condition: None,
        strategy: None,
        call: None,
        collector: Some(Box::new(Collector { cells: scopes, jobs: keys, outputs: call.outputs.clone() })),
        ..caller.clone()
    };
    Ok(Expansion::Called { jobs, collector: Box::new(collector) })
}

/// The `inputs` context of the called workflow: a value of the declared type for each.
fn inputs(needs: &Needs<'_>, call: &PlannedCall, contexts: &Contexts) -> Result<Json, Diagnostic> {
    let mut values = serde_json::Map::new();
    for input in &call.inputs {
        let key = format!("with.{}", input.name);
        let value = match (&input.given, &input.default) {
            (Json::Null, Json::Null) => absent(&input.kind),
            (Json::Null, default) => needs.evaluated(default, contexts, &key)?,
            (given, _) => needs.evaluated(given, contexts, &key)?,
        };
        let value = Value::from_json(&value);
        let typed = match input.kind.as_str() {
            "boolean" => match value.to_text().as_str() {
                "true" => true.into(),
                "false" | "" => false.into(),
                other => return Err(needs.finding(&key, format!("true or false is wanted, this is '{other}'"))),
            },
            "number" => {
                let number = value.to_number();
                if number.is_nan() {
                    return Err(needs.finding(&key, format!("a number is wanted, this is '{}'", value.to_text())));
                }
                Value::Number(number).to_json()
            }
            _ => value.to_text().into(),
        };
        values.insert(input.name.clone(), typed);
    }
    Ok(Json::Object(values))
}

fn absent(kind: &str) -> Json {
    match kind {
        "boolean" => false.into(),
        "number" => 0.into(),
        _ => "".into(),
    }
}

/// How a calling job ends, from how the called jobs ended; cells whose outputs are empty leave those of others.
pub(crate) fn collect(needs: &Needs<'_>, collector: &Collector) -> Result<Expansion, Diagnostic> {
    let ended = |key: &JobKey| needs.ready.needs.get(&key.0);
    let outcome = collector.jobs.iter().filter_map(ended).map(|need| need.outcome).max_by_key(weight).unwrap_or(Outcome::Skipped);
    let mut outputs = IndexMap::new();
    for cell in &collector.cells {
        let inside = |(key, need): (&String, &Need)| {
            let key = key.strip_prefix(&cell.prefix).filter(|key| !key.contains('/'))?;
            let mut job = Object::new();
            job.insert("result", need.outcome.result());
            let outputs: Object = need.outputs.iter().map(|(name, value)| (name, value.as_str())).collect();
            job.insert("outputs", outputs);
            Some((key.to_owned(), Value::Object(job)))
        };
        let jobs: Object = needs.ready.needs.iter().filter_map(inside).collect();
        let contexts = needs.contexts.clone().with("jobs", jobs).with("inputs", Value::from_json(&cell.inputs));
        for (name, template) in &collector.outputs {
            let value = needs.text(&template.0, &contexts, "uses")?;
            if !value.is_empty() || !outputs.contains_key(name) {
                outputs.insert(name.clone(), value);
            }
        }
    }
    Ok(Expansion::Ended { outcome, outputs })
}

fn weight(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Skipped => 0,
        Outcome::Success => 1,
        Outcome::Cancelled => 2,
        Outcome::Failure => 3,
        Outcome::TimedOut => 4,
        Outcome::Faulted => 5,
    }
}
