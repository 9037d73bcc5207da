//! What a controller counts while it works, in the text format of Prometheus. Counting costs a few atomic additions and never waits.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use caisson_model::id::JobId;
use caisson_model::lease::AgentMessage;
use caisson_model::run::{JobState, RunEvent, RunState, StepState};
use caisson_model::time::Timestamp;

use crate::core::effect::Effect;
use crate::core::engine::Engine;
use crate::core::event::Event;
use crate::core::job::Life;
use crate::core::record::Record;

/// Upper bounds of the classes, in milliseconds.
const BOUNDS: [u64; 16] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000, 60_000, 300_000];

/// How often a span fell into each class.
#[derive(Debug, Default)]
struct Histogram {
    classes: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    fn observe(&self, span: Duration) {
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let class = BOUNDS.iter().position(|bound| micros <= bound * 1000).unwrap_or(BOUNDS.len());
        self.classes[class].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    fn write(&self, out: &mut String, name: &str, help: &str) {
        heading(out, name, help, "histogram");
        let mut total = 0;
        for (bound, count) in BOUNDS.iter().zip(&self.classes) {
            total += count.load(Ordering::Relaxed);
            let _ = writeln!(out, "{name}_bucket{{le=\"{}\"}} {total}", *bound as f64 / 1000.0);
        }
        total += self.classes[BOUNDS.len()].load(Ordering::Relaxed);
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {total}");
        let _ = writeln!(out, "{name}_sum {}", self.micros.load(Ordering::Relaxed) as f64 / 1e6);
        let _ = writeln!(out, "{name}_count {total}");
    }
}

fn heading(out: &mut String, name: &str, help: &str, kind: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

#[derive(Debug, Default)]
struct Counts {
    dispatch: Histogram,
    sandbox: Histogram,
    lag: Histogram,
    lost: AtomicU64,
    returned: AtomicU64,
    submitted: AtomicU64,
    workflows_refused: AtomicU64,
    hooks: [AtomicU64; Fate::ALL.len()],
    jobs: Mutex<BTreeMap<String, u64>>,
    /// The job whose offer is being accepted, and since when it was queued. Only the owner of the engine writes it.
    accepting: Mutex<Option<(JobId, Timestamp)>>,
}

/// What became of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It started runs.
    Started,
    /// It was believed and starts nothing.
    Idle,
    /// It was not believed or not understood.
    Refused,
    /// It was taken before.
    Repeated,
    /// It was believed, and something did not work: the forge should deliver it again.
    Failed,
}

impl Fate {
    const ALL: [(Fate, &str); 5] = [
        (Fate::Started, "started"),
        (Fate::Idle, "idle"),
        (Fate::Refused, "refused"),
        (Fate::Repeated, "repeated"),
        (Fate::Failed, "failed"),
    ];
}

/// The counts. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Counts>);

/// What is measured at the moment it is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Jobs by where they are in their life.
    pub jobs: BTreeMap<String, u64>,
    /// Runs that have not ended.
    pub runs: u64,
    /// Agents with a session.
    pub connected: u64,
    /// Slots of those.
    pub slots: u64,
    /// Slots that hold a job.
    pub taken: u64,
}

impl Gauges {
    /// What the engine shows.
    pub fn of(engine: &Engine) -> Gauges {
        let states = [JobState::Waiting, JobState::Queued, JobState::Offered, JobState::Leased, JobState::Running, JobState::Suspect];
        let mut gauges = Gauges { jobs: states.iter().map(|state| (word(state), 0)).collect(), ..Gauges::default() };
        for run in engine.state().runs.values().filter(|run| run.view.finished.is_none()) {
            gauges.runs += 1;
            for job in &run.jobs {
                if let Some(count) = gauges.jobs.get_mut(&word(&job.view().state)) {
                    *count += 1;
                }
            }
        }
        for (_, agent) in engine.agents().iter().filter(|(_, agent)| agent.session.is_some()) {
            gauges.connected += 1;
            gauges.slots += u64::from(agent.hello.slots);
            gauges.taken += agent.jobs.len() as u64;
        }
        gauges
    }
}

fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

impl Metrics {
    /// Looks at an event before the engine takes it: how long its job has waited is not known afterwards.
    pub(crate) fn before(&self, event: &Event, engine: &Engine) {
        let Event::Message(_, AgentMessage::Accept(hold)) = event else { return };
        let job = hold.attempt.job;
        let since = match engine.state().job(job).map(|job| &job.life) {
            Some(Life::Offered { since, .. }) => Some((job, *since)),
            _ => None,
        };
        *self.0.accepting.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// Counts a webhook.
    pub(crate) fn hook(&self, fate: Fate) {
        if let Some(at) = Fate::ALL.iter().position(|(known, _)| *known == fate) {
            self.0.hooks[at].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a workflow of a forge that the language or the policy refuses.
    pub(crate) fn refuse_workflow(&self) {
        self.0.workflows_refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts what the engine decided.
    pub(crate) fn follow(&self, effect: &Effect) {
        match effect {
            Effect::Record(record) => match record.as_ref() {
                Record::Leased { hold, at, .. } => {
                    let accepting = self.0.accepting.lock().unwrap_or_else(PoisonError::into_inner).take();
                    if let Some((job, since)) = accepting
                        && job == hold.attempt.job
                    {
                        self.0.dispatch.observe(at.since(since));
                    }
                }
                Record::Released { lost: true, .. } => drop(self.0.lost.fetch_add(1, Ordering::Relaxed)),
                Record::Released { .. } => drop(self.0.returned.fetch_add(1, Ordering::Relaxed)),
                Record::Submitted { .. } => drop(self.0.submitted.fetch_add(1, Ordering::Relaxed)),
                _ => {}
            },
            Effect::Tell { event, .. } => match event.as_ref() {
                RunEvent::Step(step) if step.state == StepState::Finished => {
                    if let Some(result) = step.result.as_ref().filter(|result| !result.usage.build.is_zero()) {
                        self.0.sandbox.observe(result.usage.build);
                    }
                }
                RunEvent::Job(job) if job.state == JobState::Finished => {
                    if let Some(outcome) = &job.outcome {
                        *self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner).entry(word(outcome)).or_default() += 1;
                    }
                }
                RunEvent::Run(run) => debug_assert!(run.state != RunState::Finished || run.outcome.is_some()),
                _ => {}
            },
            _ => {}
        }
    }

    /// How long bytes of a log were on their way, by the clocks of both ends.
    pub(crate) fn lag(&self, span: Duration) {
        self.0.lag.observe(span);
    }

    /// Everything, as Prometheus reads it.
    pub fn render(&self, gauges: &Gauges) -> String {
        let mut out = String::with_capacity(8192);
        let counts = &self.0;
        heading(
            &mut out,
            "caisson_jobs",
            "Jobs of runs that have not ended, by state; state=\"queued\" is the length of the queue.",
            "gauge",
        );
        for (state, count) in &gauges.jobs {
            let _ = writeln!(out, "caisson_jobs{{state=\"{state}\"}} {count}");
        }
        let plain = [
            ("caisson_runs_active", "Runs that have not ended.", gauges.runs),
            ("caisson_agents_connected", "Agents with an open session.", gauges.connected),
            ("caisson_slots", "Slots of connected agents.", gauges.slots),
            ("caisson_slots_taken", "Slots of connected agents that were offered or hold a job.", gauges.taken),
        ];
        for (name, help, value) in plain {
            heading(&mut out, name, help, "gauge");
            let _ = writeln!(out, "{name} {value}");
        }
        let counters = [
            ("caisson_runs_submitted_total", "Runs that were admitted.", &counts.submitted),
            (
                "caisson_workflows_refused_total",
                "Workflows of forges that language or policy refused; the commit has a status that says why.",
                &counts.workflows_refused,
            ),
            ("caisson_leases_lost_total", "Attempts that ended because their agent was not heard of.", &counts.lost),
            ("caisson_attempts_returned_total", "Attempts that an agent gave back.", &counts.returned),
        ];
        for (name, help, value) in counters {
            heading(&mut out, name, help, "counter");
            let _ = writeln!(out, "{name} {}", value.load(Ordering::Relaxed));
        }
        heading(&mut out, "caisson_webhooks_total", "Webhooks, by what became of them.", "counter");
        for (at, (_, word)) in Fate::ALL.iter().enumerate() {
            let _ = writeln!(out, "caisson_webhooks_total{{fate=\"{word}\"}} {}", counts.hooks[at].load(Ordering::Relaxed));
        }
        heading(&mut out, "caisson_jobs_finished_total", "Jobs that ended, by outcome.", "counter");
        let jobs = counts.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        for outcome in ["success", "failure", "cancelled", "skipped", "timed-out", "faulted"] {
            let count = jobs.get(outcome).copied().unwrap_or_default();
            let _ = writeln!(out, "caisson_jobs_finished_total{{outcome=\"{outcome}\"}} {count}");
        }
        drop(jobs);
        counts.dispatch.write(&mut out, "caisson_dispatch_seconds", "From a job's queueing to its durable lease.");
        counts.lag.write(&mut out, "caisson_log_lag_seconds", "From a log chunk's time at the agent to its arrival here.");
        counts.sandbox.write(&mut out, "caisson_sandbox_start_seconds", "Time to build the sandbox of a step.");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_add_up() {
        let metrics = Metrics::default();
        [0, 1, 40, 400_000].into_iter().for_each(|millis| metrics.lag(Duration::from_millis(millis)));
        let text = metrics.render(&Gauges::default());
        for line in [
            "caisson_log_lag_seconds_bucket{le=\"0.001\"} 2",
            "caisson_log_lag_seconds_bucket{le=\"0.05\"} 3",
            "caisson_log_lag_seconds_bucket{le=\"+Inf\"} 4",
            "caisson_log_lag_seconds_count 4",
            "caisson_log_lag_seconds_sum 400.041",
            "caisson_jobs_finished_total{outcome=\"success\"} 0",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
        }
    }
}
