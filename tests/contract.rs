//! The contract, tested twice: against the controller's service in the same process, and against the gRPC client that
//! reaches the same service over TCP. Neither may be told from the other.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "contract/agent.rs"]
mod agent;
#[path = "../controller/tests/database/mod.rs"]
mod database;
#[path = "contract/order.rs"]
mod order;
#[path = "contract/promises.rs"]
mod promises;

use caisson_controller::listen::Listener;
use caisson_controller::secrets::Secrets;
use caisson_controller::secrets::given::Given;
use caisson_controller::service::{Options, Service};
use caisson_controller::store::Place;
use caisson_model::secret::SecretValue;
use caisson_proto::api::{ApiError, ClientApi};
use caisson_proto::client::Client;
use futures_util::StreamExt;

use crate::agent::*;

async fn open(dir: &std::path::Path) -> Service {
    open_at(dir, Options::new(dir.to_owned()).store).await
}

async fn open_at(dir: &std::path::Path, store: Place) -> Service {
    let given = Given::new([("TOKEN".to_owned(), SecretValue::new(b"hunter2".to_vec()))]);
    Service::open(Options { store, secrets: Secrets::new(vec![Box::new(given)]), ..Options::new(dir.to_owned()) }).await.unwrap()
}

macro_rules! contract {
    ($($of:ident::$promise:ident),* $(,)?) => {
        mod in_process {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let dir = tempfile::tempdir().unwrap();
                let service = super::open(dir.path()).await;
                crate::$of::$promise(service.clone()).await;
                crate::agent::in_time("closing", service.close()).await;
            })*
        }

        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let dir = tempfile::tempdir().unwrap();
                let Some(url) = tokio::task::spawn_blocking(crate::database::new).await.unwrap() else { return };
                let service = super::open_at(dir.path(), crate::Place::Postgres(url)).await;
                crate::$of::$promise(service.clone()).await;
                crate::agent::in_time("closing", service.close()).await;
            })*
        }

        mod over_tcp {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let dir = tempfile::tempdir().unwrap();
                let service = super::open(dir.path()).await;
                let listener = super::Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
                let url = format!("http://{}", listener.address());
                let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
                let serving = tokio::spawn(listener.serve(service.clone(), async move { drop(stopped.await) }));
                crate::$of::$promise(super::Client::connect(&url).await.unwrap()).await;
                stop.send(()).unwrap();
                crate::agent::in_time("the end of serving", serving).await.unwrap().unwrap();
                crate::agent::in_time("closing", service.close()).await;
            })*
        }
    };
}

contract!(
    promises::a_run_from_submission_to_its_end,
    promises::what_cannot_run_is_rejected_with_all_findings,
    promises::a_fenced_attempt_can_do_nothing,
    promises::what_is_repeated_changes_nothing,
    promises::secrets_are_opened_once_by_the_steps_that_name_them,
    promises::blobs_are_what_their_digest_says,
    promises::a_log_has_no_gap_and_no_repetition,
    promises::cancelling_is_pushed,
    promises::jobs_wait_for_what_they_need,
    promises::a_broken_session_changes_nothing_by_itself,
    promises::strangers_are_told_what_is_wrong,
    promises::labels_choose_the_agent_and_explain_says_so,
    order::people_say_which_agents_work,
    order::an_ended_run_is_run_again_whole_or_where_it_failed,
    order::a_concurrency_group_has_one_member_at_a_time,
    order::urgent_runs_come_first_and_repositories_share,
    order::an_agent_of_the_version_before_or_after_works,
);

#[tokio::test]
async fn nobody_there_is_unavailable_and_nonsense_is_invalid() {
    let refused = Client::connect("http://127.0.0.1:1").await.map(drop);
    assert!(matches!(&refused, Err(error) if error.is_transient()), "{refused:?}");
    // Neither a token nor a CA file says whom to believe; and without TLS nobody is spoken to but this machine.
    for url in ["", "127.0.0.1:1", "https://127.0.0.1:1", "ftp://x", "http://192.0.2.1:7717"] {
        let refused = Client::connect(url).await.map(drop);
        assert!(matches!(&refused, Err(ApiError::Invalid(text)) if text.contains("write https://")), "{url}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_that_leaves_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let service = open(dir.path()).await;
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let client = Client::connect(&format!("http://{}", listener.address())).await.unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(listener.serve(service.clone(), async move { drop(stopped.await) }));
    let mut agent = Agent::join(&client, hello("a", Vec::new())).await;
    let mut local = Agent::join(&service, hello("b", Vec::new())).await;
    let run = submit(&client, ONE_STEP).await;
    let mut events = client.watch_run(run, 0).await.unwrap();
    let mut seen = service.watch_run(run, 0).await.unwrap();
    stop.send(()).unwrap();
    in_time("the end of serving", serving).await.unwrap().unwrap();
    let last = in_time("the end of the session", async { agent.answers.by_ref().collect::<Vec<_>>().await.pop() }).await;
    assert!(matches!(&last, Some(Err(error)) if error.is_transient()), "{last:?}");
    let last = in_time("the end of the watch", async { events.by_ref().collect::<Vec<_>>().await.pop() }).await;
    assert!(matches!(&last, Some(Err(error)) if error.is_transient()), "{last:?}");
    service.close().await;
    service.close().await;
    let last = in_time("the end of the session", async { local.answers.by_ref().collect::<Vec<_>>().await.pop() }).await;
    assert!(matches!(&last, Some(Err(error)) if error.is_transient()), "{last:?}");
    let last = in_time("the end of the watch", async { seen.by_ref().collect::<Vec<_>>().await.pop() }).await;
    assert!(matches!(&last, Some(Err(error)) if error.is_transient()), "{last:?}");
    assert!(matches!(service.submit(submission(ONE_STEP)).await, Err(ApiError::Unavailable(_))));
}
