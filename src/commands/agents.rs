//! `caisson agents`, `cordon` and `drain`: who runs jobs, and whether it gets more.

use caisson_model::agent::{AgentView, Cordon};
use caisson_model::id::AgentName;
use caisson_proto::api::ClientApi;
use caisson_proto::fleet::{FleetApi, MemberView};
use serde_json::json;

use crate::cli::fleet::{self, AgentsAction};
use crate::commands::token::Desk;
use crate::commands::{runs, runtime};
use crate::embedded::CallError;
use crate::reach::Way;
use crate::report::{self, Exit, Failure};
use crate::table;
use crate::view::json::time;

/// Lists them, or revokes one.
pub(crate) fn run(arguments: fleet::Agents) -> Result<Exit, Failure> {
    if let Some(AgentsAction::Revoke(revoke)) = arguments.action {
        return self::revoke(revoke);
    }
    let way = Way::settle(&arguments.reach)?;
    let (agents, members) = runtime()?.block_on(async {
        let client = way.connect().await?;
        let failed = |source| CallError { act: "list the agents".to_owned(), source };
        Ok::<_, Failure>((client.agents().await.map_err(failed)?, client.list_members().await.map_err(failed)?))
    })?;
    let mut rows: Vec<(AgentName, Option<&AgentView>, Option<&MemberView>)> =
        agents.iter().map(|agent| (agent.name.clone(), Some(agent), members.iter().find(|member| member.agent == agent.name))).collect();
    // Those that joined and were not heard of since the controller started.
    let absent = members.iter().filter(|member| !agents.iter().any(|agent| agent.name == member.agent));
    rows.extend(absent.map(|member| (member.agent.clone(), None, Some(member))));
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    if arguments.json {
        let text: String = rows.iter().map(|(name, agent, member)| format!("{}\n", object(name, *agent, *member))).collect();
        return Ok(report::print(&text));
    }
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|(name, agent, member)| {
            let (slots, jobs, labels) = agent.map_or_else(Default::default, |agent| {
                let jobs: Vec<String> = agent.jobs.iter().map(ToString::to_string).collect();
                (format!("{}/{}", agent.jobs.len(), agent.slots), jobs.join(","), agent.labels.join(","))
            });
            let (pool, until) = member.map_or_else(Default::default, |member| (member.pool.clone(), runs::moment(member.expires)));
            vec![name.to_string(), state(*agent, *member).to_owned(), slots, jobs, pool, until, labels]
        })
        .collect();
    Ok(report::print(&table::render(&["agent", "state", "slots", "jobs", "pool", "certificate until", "labels"], &rows)))
}

fn state(agent: Option<&AgentView>, member: Option<&MemberView>) -> &'static str {
    let revoked = agent.is_some_and(|agent| agent.revoked) || member.is_some_and(|member| member.revoked.is_some());
    match agent {
        _ if revoked => "revoked",
        Some(agent) if agent.draining => "draining",
        Some(agent) if agent.cordoned => "cordoned",
        Some(agent) if agent.connected && agent.jobs.is_empty() => "idle",
        Some(agent) if agent.connected => "busy",
        _ => "absent",
    }
}

fn object(name: &AgentName, agent: Option<&AgentView>, member: Option<&MemberView>) -> serde_json::Value {
    let mut value = json!({
        "type": "agent",
        "name": name,
        "state": state(agent, member),
        "connected": agent.is_some_and(|agent| agent.connected),
        "cordoned": agent.is_some_and(|agent| agent.cordoned),
        "draining": agent.is_some_and(|agent| agent.draining),
        "slots": agent.map_or(0, |agent| agent.slots),
        "memory_bytes": agent.map_or(0, |agent| agent.memory_bytes),
        "cpu_milli": agent.map_or(0, |agent| agent.cpu_milli),
        "jobs": agent.map(|agent| agent.jobs.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap_or_default(),
        "labels": agent.map(|agent| agent.labels.clone()).unwrap_or_default(),
        "enforces": agent.map(|agent| agent.enforces.clone()).unwrap_or_default(),
    });
    if let Some(member) = member {
        value["pool"] = member.pool.clone().into();
        value["generation"] = member.generation.into();
        value["joined"] = time(Some(member.joined));
        value["certificate_expires"] = time(Some(member.expires));
        value["revoked"] = time(member.revoked);
        value["revoked_reason"] = json!(member.reason);
    }
    value
}

fn revoke(arguments: fleet::AgentsRevoke) -> Result<Exit, Failure> {
    let name = AgentName(arguments.agent.clone());
    let runtime = runtime()?;
    let revoked = runtime.block_on(async {
        let desk = Desk::of(&arguments.office).await?;
        let failed = |source| CallError { act: format!("revoke agent {name}"), source };
        let result = match &desk {
            Desk::Local(registry) => registry.revoke_agent("local".to_owned(), name.clone(), arguments.reason.clone()).await,
            Desk::Remote(client) => client.expel(name.clone(), arguments.reason.clone()).await,
        };
        result.map_err(failed).map_err(Failure::from)
    });
    runtime.shutdown_background();
    revoked?;
    Ok(said(&arguments.agent, "revoked", arguments.json, &format!("agent {} revoked", arguments.agent)))
}

/// Gives an agent no new jobs, or gives it jobs again.
pub(crate) fn cordon(arguments: fleet::Cordon) -> Result<Exit, Failure> {
    let way = Way::settle(&arguments.reach)?;
    let name = AgentName(arguments.agent.clone());
    let (cordon, done) = if arguments.off { (Cordon::Off, "takes jobs again") } else { (Cordon::On, "cordoned") };
    runtime()?.block_on(async {
        let client = way.connect().await?;
        client.cordon(name.clone(), cordon).await.map_err(|source| CallError { act: format!("cordon agent {name}"), source })?;
        Ok::<_, Failure>(())
    })?;
    let state = if arguments.off { "uncordoned" } else { "cordoned" };
    Ok(said(&arguments.agent, state, arguments.json, &format!("agent {} {done}", arguments.agent)))
}

/// Lets an agent leave when its jobs have ended.
pub(crate) fn drain(arguments: fleet::Drain) -> Result<Exit, Failure> {
    let way = Way::settle(&arguments.reach)?;
    let name = AgentName(arguments.agent.clone());
    runtime()?.block_on(async {
        let client = way.connect().await?;
        client.drain(name.clone()).await.map_err(|source| CallError { act: format!("drain agent {name}"), source })?;
        Ok::<_, Failure>(())
    })?;
    Ok(said(&arguments.agent, "draining", arguments.json, &format!("agent {} leaves when its jobs have ended", arguments.agent)))
}

/// What was done to an agent, for a person or a program.
fn said(agent: &str, done: &str, as_json: bool, text: &str) -> Exit {
    if as_json {
        return report::print(&format!("{}\n", json!({ "type": "agent", "name": agent, "done": done })));
    }
    report::print(&format!("{text}\n"))
}
