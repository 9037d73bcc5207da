//! What the contract promises about who works when: cordons, drains, revocations, priorities, concurrency groups, reruns.

use caisson_model::agent::{AgentView, Cordon, Hello, VersionRange};
use caisson_model::id::{AgentName, Fence, Hold, StepIndex};
use caisson_model::lease::{AgentMessage, ControllerMessage, Recorded};
use caisson_model::outcome::Outcome;
use caisson_model::run::{RerunScope, RunState, Submission};
use caisson_proto::api::ApiError;
use futures_util::StreamExt;

use crate::agent::*;

async fn view(api: &impl Api, name: &str) -> Option<AgentView> {
    api.agents().await.unwrap().into_iter().find(|agent| agent.name.0 == name)
}

fn name(name: &str) -> AgentName {
    AgentName(name.into())
}

pub(crate) async fn people_say_which_agents_work(api: impl Api) {
    assert_eq!(api.agents().await.unwrap(), []);
    let agent = Agent::join(&api, hello("a", Vec::new())).await;
    api.cordon(name("a"), Cordon::On).await.unwrap();
    let run = submit(&api, ONE_STEP).await;
    assert_eq!(api.explain(run).await.unwrap()[0].reasons, ["agent a is cordoned"]);
    let seen = view(&api, "a").await.unwrap();
    assert_eq!((seen.connected, seen.cordoned, seen.revoked, seen.slots, seen.jobs.len()), (true, true, false, 2, 0));
    // A cordon is about the agent and not about its session.
    drop(agent);
    let mut agent = Agent::join(&api, hello("a", Vec::new())).await;
    assert!(api.explain(run).await.unwrap()[0].reasons[0].contains("cordoned"));
    api.cordon(name("a"), Cordon::Off).await.unwrap();
    let hold = agent.start().await;
    assert_eq!(view(&api, "a").await.unwrap().jobs, [hold.attempt.job]);
    api.drain(name("a")).await.unwrap();
    assert_eq!(agent.told().await, ControllerMessage::Drain);
    assert!(view(&api, "a").await.unwrap().cordoned);
    assert!(matches!(api.drain(name("nobody")).await, Err(ApiError::NotFound(_))));

    api.revoke_agent(name("a")).await.unwrap();
    let last = in_time("the end of the session", agent.answers.by_ref().collect::<Vec<_>>()).await.pop();
    assert!(matches!(&last, Some(Err(ApiError::Denied(why))) if why.contains("revoked")), "{last:?}");
    let (_keep, said) = tokio::sync::mpsc::channel(1);
    let refused = api.session(hello("a", Vec::new()), Box::pin(tokio_stream::wrappers::ReceiverStream::new(said))).await.map(drop);
    assert!(matches!(refused, Err(ApiError::Denied(_))), "{refused:?}");
    assert_eq!(agent.complete(hold, Outcome::Success).await, Err(ApiError::Fenced), "what it held is not its own any more");
    assert!(view(&api, "a").await.unwrap().revoked);
    let mut other = Agent::join(&api, hello("b", Vec::new())).await;
    assert_eq!(other.start().await.attempt.job, hold.attempt.job, "another agent has the job");
}

pub(crate) async fn an_ended_run_is_run_again_whole_or_where_it_failed(api: impl Api) {
    let text = "
on: push
jobs:
  a: { runs-on: x, outputs: { o: '1' }, steps: [{ run: echo }] }
  m: { runs-on: x, strategy: { fail-fast: false, matrix: { v: [1, 2] } }, steps: [{ run: echo }] }
  after: { runs-on: x, needs: [a, m], steps: [{ run: echo }] }
";
    let mut agent = Agent::join(&api, Hello { slots: 1, ..hello("a", Vec::new()) }).await;
    let run = submit(&api, text).await;
    assert!(matches!(api.rerun(run, RerunScope::All).await, Err(ApiError::Invalid(_))), "it has not ended");
    let mut failed = None;
    for _ in 0..3 {
        let hold = agent.start().await;
        let spec = api.fetch_spec(hold).await.unwrap();
        let outcome = if spec.name == "m (2)" { Outcome::Failure } else { Outcome::Success };
        if outcome == Outcome::Failure {
            failed = Some(spec.name);
        }
        agent.complete(hold, outcome).await.unwrap();
    }
    until(&api, run, "the end", |detail| detail.run.state == RunState::Finished).await;
    let again = api.rerun(run, RerunScope::Failed).await.unwrap();
    let hold = agent.start().await;
    assert_eq!(Some(api.fetch_spec(hold).await.unwrap().name), failed, "only what failed runs");
    agent.complete(hold, Outcome::Success).await.unwrap();
    let hold = agent.start().await;
    assert_eq!(api.fetch_spec(hold).await.unwrap().key.0, "after", "and what depends on it");
    agent.complete(hold, Outcome::Success).await.unwrap();
    let detail = until(&api, again, "the end", |detail| detail.run.state == RunState::Finished).await;
    assert_eq!((detail.run.outcome, detail.run.rerun_of, detail.jobs.len()), (Some(Outcome::Success), Some(run), 4));
    assert!(matches!(api.rerun(again, RerunScope::Failed).await, Err(ApiError::Invalid(_))), "nothing of it failed");
    let whole = api.rerun(again, RerunScope::All).await.unwrap();
    assert_eq!(agent.start().await.attempt.job.run, whole);
}

pub(crate) async fn a_concurrency_group_has_one_member_at_a_time(api: impl Api) {
    let text = |cancel: bool| {
        format!(
            "on: push\nconcurrency: {{ group: deploy, cancel-in-progress: {cancel} }}\njobs:\n  a: {{ runs-on: x, steps: [{{ run: echo }}] }}\n"
        )
    };
    let mut agent = Agent::join(&api, Hello { slots: 9, ..hello("a", Vec::new()) }).await;
    let first = submit(&api, &text(false)).await;
    let hold = agent.start().await;
    let second = submit(&api, &text(false)).await;
    let reasons = api.explain(second).await.unwrap().remove(0).reasons;
    assert_eq!(reasons, [format!("the concurrency group deploy lets one run at a time, and run {first} has its turn")]);
    // The newest waits, and nobody else.
    let third = submit(&api, &text(false)).await;
    let put_aside = until(&api, second, "the end", |detail| detail.run.state == RunState::Finished).await;
    assert_eq!(put_aside.run.outcome, Some(Outcome::Cancelled));
    agent.complete(hold, Outcome::Success).await.unwrap();
    let hold = agent.start().await;
    assert_eq!(hold.attempt.job.run, third);
    let fourth = submit(&api, &text(true)).await;
    let told = agent.told().await;
    assert!(matches!(told, ControllerMessage::Cancel { hold: cancelled, .. } if cancelled == hold), "{told:?}");
    agent.messages.send(AgentMessage::CancelAck(hold)).await.unwrap();
    assert_eq!(agent.complete(hold, Outcome::Cancelled).await, Ok(Recorded::Recorded));
    assert_eq!(agent.start().await.attempt.job.run, fourth);
}

pub(crate) async fn urgent_runs_come_first_and_repositories_share(api: impl Api) {
    let from = |repository: &str, priority: i32| Submission {
        github: serde_json::json!({ "repository": repository }),
        priority,
        ..submission(ONE_STEP)
    };
    let mut runs = Vec::new();
    for (repository, priority) in [("big/a", 0), ("big/a", 0), ("big/a", 0), ("small/b", 0), ("big/a", 7)] {
        runs.push(api.submit(from(repository, priority)).await.unwrap().run);
    }
    let mut agent = Agent::join(&api, Hello { slots: 1, ..hello("a", Vec::new()) }).await;
    let mut order = Vec::new();
    let mut other = Agent::join(&api, Hello { slots: 1, ..hello("b", Vec::new()) }).await;
    // The urgent one is held all along: its repository has a job, the other has none.
    let urgent = agent.start().await;
    order.push(urgent.attempt.job.run);
    for _ in 0..4 {
        let hold = other.start().await;
        order.push(hold.attempt.job.run);
        other.complete(hold, Outcome::Success).await.unwrap();
    }
    assert_eq!(order, [runs[4], runs[3], runs[0], runs[1], runs[2]]);
}

pub(crate) async fn an_agent_of_the_version_before_or_after_works(api: impl Api) {
    for (index, versions) in
        [VersionRange { min: 1, max: 1 }, VersionRange { min: 2, max: 3 }, VersionRange { min: 1, max: 9 }].into_iter().enumerate()
    {
        let mut agent = Agent::meet(&api, Hello { versions, ..hello(&format!("agent-{index}"), Vec::new()) }).await;
        submit(&api, ONE_STEP).await;
        let hold = agent.start().await;
        agent.started(hold, 0).await;
        api.seal_log(hold, StepIndex(0), seal(b"")).await.unwrap();
        agent.finished(hold, 0, Outcome::Success).await;
        // What came with a later version is not said to an agent that does not speak it.
        if VersionRange::SPOKEN.agreed(versions) >= Some(VersionRange::HEARD) {
            assert_eq!(agent.beat(vec![hold]).await, []);
        } else {
            let other = Hold { fence: Fence(1), ..hold };
            agent.messages.send(AgentMessage::Beat { number: 0, holds: vec![hold] }).await.unwrap();
            agent.messages.send(AgentMessage::Beat { number: 0, holds: vec![other] }).await.unwrap();
            assert_eq!(agent.told().await, ControllerMessage::Forget(other));
        }
        assert_eq!(agent.complete(hold, Outcome::Success).await, Ok(Recorded::Recorded));
        agent.messages.send(AgentMessage::Draining).await.unwrap();
    }
}
