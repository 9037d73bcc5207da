//! On which terms a run was taken in, beside its plan: whose it is, how urgent, what it may repeat, what it waits for.

use caisson_model::id::{JobKey, RunId};
use caisson_model::outcome::Outcome;
use caisson_model::run::Submission;
use caisson_workflow::PlannedJob;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// What comes with a plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Terms {
    /// Jobs of a higher one are offered first.
    pub priority: i32,
    /// Whose share of the agents it takes; empty for runs without a repository, which share one.
    pub repository: String,
    /// The run that it runs again.
    pub rerun_of: Option<RunId>,
    /// Results that jobs keep from that run, instead of running.
    pub carried: Vec<Carried>,
    /// Jobs that are tried again by themselves.
    pub retry: Vec<(JobKey, Retry)>,
    /// The labels of the one agent that there will ever be, where a command runs by itself: what it does not serve would wait for
    /// ever, and is skipped. `None` where agents come and go.
    pub alone: Option<Vec<String>>,
    /// The group in which the run takes its turn.
    pub turn: Option<Turn>,
    /// What the plan was made of, so that it can be run again. Kept in the store, not in the engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub submission: Option<Box<Submission>>,
}

impl Terms {
    /// Why no agent will ever take a job with these labels; `None` when one may.
    pub fn unserved(&self, labels: &[String]) -> Option<String> {
        let alone = self.alone.as_ref()?;
        let missing: Vec<&str> = labels.iter().filter(|label| !alone.contains(label)).map(String::as_str).collect();
        (!missing.is_empty()).then(|| format!("it runs on {}, which this machine is not", missing.join(", ")))
    }

    /// What a job's key says of trying it again; the numbers of its callers' cells do not matter: `build[1]/unit` is `build/unit`.
    pub fn retry_of(&self, key: &JobKey) -> Option<&Retry> {
        let parts = key.0.split('/').map(|part| part.split_once('[').map_or(part, |(name, _)| name));
        let plain = parts.collect::<Vec<_>>().join("/");
        self.retry.iter().find(|(key, _)| key.0 == plain).map(|(_, retry)| retry)
    }
}

/// The keys of all jobs of a plan, those of called workflows with the keys of their callers before them: `build/unit`.
pub fn keys(jobs: &[PlannedJob]) -> Vec<String> {
    let mut keys = Vec::new();
    let mut open: Vec<(String, &[PlannedJob])> = vec![(String::new(), jobs)];
    while let Some((prefix, jobs)) = open.pop() {
        for job in jobs {
            let key = format!("{prefix}{}", job.key);
            if let Some(call) = &job.call {
                open.push((format!("{key}/"), &call.jobs));
            }
            keys.push(key);
        }
    }
    keys
}

/// The result of a job that is not run again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Carried {
    /// The job's key.
    pub key: JobKey,
    /// The cell's name.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Its outputs.
    pub outputs: IndexMap<String, String>,
}

/// How often a job is tried again after it ended in one of these ways. Losses of an agent are not counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// Tries beyond the first.
    pub times: u32,
    /// After these outcomes.
    pub on: Vec<Outcome>,
}

/// A concurrency group as a run or job enters it: one member at a time, and only the newest waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// The group, with the repository that it belongs to.
    pub group: String,
    /// Whether entering ends the member that has its turn.
    pub cancel_in_progress: bool,
}

/// A turn that was entered, numbered in the order of entering.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entered {
    /// The group.
    pub group: String,
    /// Higher is later.
    pub number: u64,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// `[[retry]]` counts for jobs of called workflows too: by their own key, and by that with their callers' before it.
    #[test]
    fn jobs_of_called_workflows_are_tried_again() {
        let file = |file: &str, text: &str| (file.to_owned(), text.to_owned());
        let called: IndexMap<String, String> = [
            file("a.yml", "on: workflow_call\njobs: { one: { runs-on: x, steps: [{ run: a }] }, two: { uses: ./b.yml } }\n"),
            file("b.yml", "on: workflow_call\njobs: { in: { runs-on: x, steps: [{ run: a }] } }\n"),
        ]
        .into_iter()
        .collect();
        let text = "on: push\njobs: { c: { uses: ./a.yml }, after: { runs-on: x, needs: c, steps: [{ run: a }] } }\n";
        let submission = Submission { event: "push".into(), ..Submission::default() };
        let plan = caisson_workflow::plan_with(text, "w.yml", &submission, &caisson_workflow::Limits::default(), &called).unwrap();
        let mut known = keys(&plan.jobs);
        known.sort();
        assert_eq!(known, ["after", "c", "c/one", "c/two", "c/two/in"]);
        let retry = Retry { times: 2, on: vec![Outcome::Failure] };
        let terms = Terms { retry: vec![(JobKey("c/two/in".into()), retry.clone())], ..Terms::default() };
        assert_eq!(terms.retry_of(&JobKey("c[3]/two/in".into())), Some(&retry));
        assert_eq!(terms.retry_of(&JobKey("c[3]/one".into())), None);
    }
}
