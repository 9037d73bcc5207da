//! Why a job is not running, in one sentence for each reason.

use caisson_model::id::{AgentName, RunId};
use caisson_model::outcome::Bytes;
use caisson_model::run::Explanation;

use crate::core::engine::Engine;
use crate::core::event::Refusal;
use crate::core::job::{Job, Life};
use crate::core::matching::{Agent, Ask};
use crate::core::state::Run;
use crate::core::turns::Member;

/// The jobs of the run that have not ended and do not run, and why.
///
/// # Errors
/// [`Refusal::NotFound`] when there is no such run in memory.
pub fn explain(engine: &Engine, run: RunId) -> Result<Vec<Explanation>, Refusal> {
    let run = engine.state().runs.get(&run).ok_or_else(|| Refusal::NotFound(format!("run {run}")))?;
    let about = |job: &Job| Explanation { job: job.id, reasons: reasons(engine, run, job) };
    Ok(run.in_order().map(about).filter(|explanation| !explanation.reasons.is_empty()).collect())
}

fn reasons(engine: &Engine, run: &Run, job: &Job) -> Vec<String> {
    match &job.life {
        Life::Finished(_) | Life::Running(_) => Vec::new(),
        Life::Waiting => waiting(run, job),
        Life::Queued { .. } => queued(engine, run, job),
        Life::Offered { agent, .. } => vec![format!("it is offered to agent {agent}, which has not answered yet")],
        Life::Leased(lease) => vec![format!("agent {} has it and has not started a step yet", lease.agent)],
        Life::Suspect { lease, .. } => vec![format!(
            "agent {} has it and was not heard of for {:?}; it may come back within {:?}",
            lease.agent,
            engine.timing().term,
            engine.timing().grace
        )],
    }
}

/// The job's limits do not fit beside those of the jobs that the agent has.
fn narrow(name: &AgentName, agent: &Agent, ask: Ask) -> String {
    let (share, (memory, cpu)) = (agent.share(ask), agent.room());
    match memory.filter(|left| share.memory_bytes > *left) {
        Some(left) => format!(
            "it waits for memory: its limits take {}, and of the {} of agent {name} {} are left",
            Bytes(share.memory_bytes),
            Bytes(agent.hello.memory_bytes),
            Bytes(left)
        ),
        None => {
            let cores = |milli: u32| f64::from(milli) / 1000.0;
            let left = cores(cpu.unwrap_or(0));
            let (wants, has) = (cores(share.cpu_milli), cores(agent.hello.cpu_milli));
            format!("it waits for processors: its limits take {wants}, and of the {has} of agent {name} {left} are left")
        }
    }
}

fn waiting(run: &Run, job: &Job) -> Vec<String> {
    let needs = run.group(&job.key).map(|group| group.planned.needs.as_slice()).unwrap_or_default();
    let open = needs.iter().filter(|key| run.need(key).is_none());
    let mut reasons: Vec<String> = open.map(|key| format!("it needs job {key}, which has not ended")).collect();
    let scope = run.group(&job.key).and_then(|group| group.planned.scope.as_ref());
    if let Some((scope, gate)) = scope.and_then(|scope| Some((scope, scope.gate.as_ref()?)))
        && run.held_back().contains(scope.prefix.as_str())
    {
        reasons.push(format!("max-parallel lets {} cells of {} be at work at once", gate.most, gate.caller));
    }
    reasons
}

fn queued(engine: &Engine, run: &Run, job: &Job) -> Vec<String> {
    let Some(spec) = &job.spec else { return Vec::new() };
    let labels = spec.labels.join(", ");
    if let Some((group, holder)) = engine.waits_for(run, job) {
        let group = group.rsplit('\n').next().unwrap_or_default();
        let who = match holder {
            Member::Run(run) => format!("run {run}"),
            Member::Job(job) => format!("job {job}"),
        };
        return vec![format!("the concurrency group {group} lets one run at a time, and {who} has its turn")];
    }
    let present: Vec<_> = engine.agents().iter().filter(|(_, agent)| agent.session.is_some()).collect();
    if present.is_empty() {
        return vec!["no agent is connected".to_owned()];
    }
    if let Some(most) = spec.strategy.max_parallel {
        let active = run.group(&job.key).map_or(0, |group| run.cells(group).filter(|cell| cell.life.is_active()).count());
        if active >= usize::try_from(most).unwrap_or(usize::MAX) {
            return vec![format!("max-parallel lets {most} of its matrix run at once, and {active} do")];
        }
    }
    let capable: Vec<_> = present.iter().filter(|(_, agent)| agent.serves(&spec.labels)).collect();
    if capable.is_empty() {
        let offered: Vec<_> = present.iter().map(|(name, agent)| format!("{name} serves {}", agent.hello.labels.join(", "))).collect();
        return vec![format!("no connected agent serves runs-on {labels}: {}", offered.join("; "))];
    }
    let ask = Ask::of(spec);
    let reason = |name: &AgentName, agent: &Agent| {
        if agent.cordoned {
            format!("agent {name} is cordoned")
        } else if agent.draining {
            format!("agent {name} is draining")
        } else if agent.free() == 0 {
            format!("all {} slots of agent {name} are taken", agent.hello.slots)
        } else if !agent.has_room(ask) {
            narrow(name, agent, ask)
        } else if engine.refusals(job.id).any(|(refused, _)| refused == name) {
            format!("agent {name} refused it a moment ago")
        } else {
            format!("agent {name} is free and will be offered it")
        }
    };
    capable.into_iter().map(|(name, agent)| reason(name, agent)).collect()
}
