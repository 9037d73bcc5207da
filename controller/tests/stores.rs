//! What every store holds to: memory, SQLite and PostgreSQL.

#![allow(clippy::unwrap_used, clippy::panic)]

mod database;

use std::path::Path;
use std::time::{Duration, Instant};

use caisson_controller::core::record::Record;
use caisson_controller::core::terms::Terms;
use caisson_controller::service::{Options, Service};
use caisson_controller::store::journal::{Opened, StoreError, Transaction};
use caisson_controller::store::{self, Place, postgres};
use caisson_model::agent::Cordon;
use caisson_model::id::{AgentName, RunId};
use caisson_model::run::{NumberedEvent, RunEvent, RunState, RunView, Submission};
use caisson_model::time::Timestamp;
use caisson_proto::api::{ApiError, ClientApi};
use futures_util::StreamExt;

fn places(dir: &Path) -> Vec<Place> {
    let mut places = vec![Place::Sqlite(dir.join("journal.sqlite"))];
    places.extend(database::new().map(Place::Postgres));
    places
}

fn submission() -> Submission {
    let text = "on: push\njobs:\n  a: { runs-on: x, steps: [{ run: echo }] }\n".to_owned();
    Submission { file: "w.yml".into(), text, event: "push".into(), ..Submission::default() }
}

fn opened(epoch: u64) -> Transaction {
    Transaction { records: vec![Record::Opened { epoch }], history: Vec::new() }
}

fn view(run: u64) -> RunView {
    RunView {
        id: RunId(run),
        workflow: "w \u{0} \u{1F512}".into(),
        file: "w.yml".into(),
        event: "push".into(),
        state: RunState::Queued,
        outcome: None,
        submitted: Timestamp(run),
        started: None,
        finished: None,
        rerun_of: None,
        ledger: None,
    }
}

fn submitted(run: u64) -> Transaction {
    let plan = caisson_workflow::plan(&submission().text, "w.yml", &submission()).unwrap();
    let terms = Terms { submission: Some(Box::new(submission())), ..Terms::default() };
    let event = NumberedEvent { number: 1, at: Timestamp(run), event: RunEvent::Run(view(run)) };
    Transaction {
        records: vec![Record::Submitted { run: RunId(run), at: Timestamp(run), plan: Box::new(plan), terms: Box::new(terms) }],
        history: vec![(RunId(run), event)],
    }
}

#[test]
fn what_was_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    for place in places(dir.path()).into_iter().chain([Place::Memory]) {
        let Opened { mut journal, archive, held } = store::open(&place).unwrap();
        assert_eq!((held.replayed, held.state.epoch), (0, 0), "{place:?}");
        journal.commit(&[opened(1), submitted(1), submitted(2)]).unwrap();
        assert_eq!(archive.run(RunId(2)).unwrap(), Some(view(2)), "{place:?}");
        assert_eq!(archive.runs(1).unwrap(), [view(2)]);
        assert_eq!(archive.history(RunId(1), 0, 9).unwrap().len(), 1);
        assert_eq!(archive.history(RunId(1), 1, 9).unwrap(), []);
        assert_eq!(archive.submission(RunId(1)).unwrap(), Some(submission()));
        assert_eq!((archive.run(RunId(3)).unwrap(), archive.submission(RunId(3)).unwrap()), (None, None));
    }
}

#[test]
fn records_and_snapshots_add_up() {
    let dir = tempfile::tempdir().unwrap();
    for place in places(dir.path()) {
        let Opened { mut journal, .. } = store::open(&place).unwrap();
        journal.commit(&[opened(1), submitted(1), submitted(2)]).unwrap();
        drop(journal);
        let Opened { held, mut journal, .. } = store::open(&place).unwrap();
        assert_eq!((held.replayed, held.changed.len(), held.numbers.len()), (3, 2, 2), "{place:?}");
        journal.snapshot(&held.snapshot()).unwrap();
        journal.commit(&[opened(2), submitted(3)]).unwrap();
        drop(journal);
        let before = held.state;
        let Opened { held, mut journal, .. } = store::open(&place).unwrap();
        assert_eq!((held.replayed, held.state.epoch, held.state.runs.len()), (2, 2, 3), "{place:?}");
        assert_eq!(held.changed, [RunId(3)].into(), "only what changed is written again");
        assert_eq!(held.state.runs[&RunId(1)], before.runs[&RunId(1)]);
        // A run that is forgotten leaves the snapshot, and the numbers go on after one that left no record behind.
        journal.commit(&[Transaction { records: vec![Record::Forgotten { run: RunId(1) }], history: Vec::new() }]).unwrap();
        drop(journal);
        let Opened { held, mut journal, .. } = store::open(&place).unwrap();
        journal.snapshot(&held.snapshot()).unwrap();
        drop(journal);
        let Opened { held, mut journal, .. } = store::open(&place).unwrap();
        assert_eq!((held.replayed, held.state.runs.len(), held.state.last_run), (0, 2, 3), "{place:?}");
        journal.commit(&[opened(3)]).unwrap();
        drop(journal);
        assert_eq!(store::open(&place).unwrap().held.state.epoch, 3);
    }
}

#[test]
fn a_commit_is_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    for place in places(dir.path()) {
        let Opened { mut journal, archive, .. } = store::open(&place).unwrap();
        journal.commit(&[submitted(1)]).unwrap();
        // The second event has the number of one that is there: nothing of the batch may stay.
        assert!(journal.commit(&[submitted(2), submitted(1)]).is_err(), "{place:?}");
        assert_eq!(archive.run(RunId(2)).unwrap(), None, "{place:?}");
        drop((journal, archive));
        assert_eq!(reopened(&place).held.state.runs.len(), 1, "{place:?}");
    }
}

/// What a process that another test starts holds between fork and exec, the lock as well, is let go in a moment.
fn reopened(place: &Place) -> Opened {
    let begun = Instant::now();
    loop {
        match store::open(place) {
            Err(StoreError::InUse(_)) if begun.elapsed() < Duration::from_secs(20) => std::thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}

#[test]
fn a_database_of_a_newer_build_is_refused() {
    let Some(url) = database::new() else { return };
    postgres::look(&url).unwrap();
    let newer = url.clone();
    let (program, arguments) = ("psql", ["-q", "-c", "UPDATE caisson.form SET done = 99"]);
    assert!(std::process::Command::new(program).arg(newer).args(arguments).status().unwrap().success());
    let refused = postgres::look(&url).map(drop);
    assert!(matches!(refused, Err(StoreError::Newer { found: 99, known: 2, .. })), "{refused:?}");
}

#[test]
fn only_one_leads_and_a_dead_leader_writes_nothing() {
    let Some(url) = database::new() else { return };
    let Opened { journal: mut first, .. } = postgres::claim(&url, "first").unwrap().unwrap().0;
    first.commit(&[opened(1), submitted(1)]).unwrap();
    assert!(postgres::claim(&url, "second").unwrap().is_none(), "two controllers lead");
    assert_eq!(postgres::leader(&url).unwrap().as_deref(), Some("first"));
    // Its connection is cut, as by a network that lost it; it is alive, and knows nothing of it.
    let cut = "SELECT pg_terminate_backend(pid) FROM caisson.leader";
    assert!(std::process::Command::new("psql").arg(&url).args(["-q", "-c", cut]).output().unwrap().status.success());
    let begun = Instant::now();
    let Opened { journal: mut second, held, .. } = loop {
        match postgres::claim(&url, "second").unwrap() {
            Some((opened, _)) => break opened,
            None => assert!(begun.elapsed() < Duration::from_secs(20), "the lock was never let go"),
        }
    };
    assert_eq!(held.state.runs.len(), 1);
    assert!(first.commit(&[submitted(2)]).is_err());
    assert!(first.beat().is_err());
    second.commit(&[opened(2)]).unwrap();
    drop((first, second));
    assert_eq!(postgres::claim(&url, "third").unwrap().unwrap().0.held.state.runs.len(), 1, "the dead leader wrote");
}

/// The fence by itself: even with a connection that works, an older epoch writes nothing.
#[test]
fn an_older_epoch_is_fenced() {
    let Some(url) = database::new() else { return };
    let Opened { journal: mut first, .. } = postgres::claim(&url, "first").unwrap().unwrap().0;
    first.commit(&[opened(1)]).unwrap();
    let later = "UPDATE caisson.leader SET epoch = epoch + 1";
    assert!(std::process::Command::new("psql").arg(&url).args(["-q", "-c", later]).status().unwrap().success());
    let refused = first.commit(&[opened(2)]);
    assert!(matches!(refused, Err(StoreError::Fenced(_))), "{refused:?}");
    assert!(matches!(first.snapshot(&Default::default()), Err(StoreError::Fenced(_))));
    drop(first);
    assert_eq!(postgres::claim(&url, "").unwrap().unwrap().0.held.state.epoch, 1);
}

async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.unwrap_or_else(|_| panic!("{what} did not happen"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_controller_takes_over_from_another_that_answers_reads() {
    let Some(url) = database::new() else { return };
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let options = |dir: &Path, address: &str| Options {
        store: Place::Postgres(url.clone()),
        address: address.to_owned(),
        ..Options::new(dir.to_owned())
    };
    let first = Service::open(options(here.path(), "here")).await.unwrap();
    let second = Service::open(options(there.path(), "there")).await.unwrap();
    assert!(first.is_leading() && !second.is_leading());
    let run = first.submit(submission()).await.unwrap().run;
    first.cordon(AgentName("a".into()), Cordon::On).await.unwrap();
    assert_eq!(second.list_runs(9).await.unwrap().len(), 1, "one that stands by reads");
    assert_eq!(second.run(run).await.unwrap().jobs.len(), 1);
    let mut events = second.watch_run(run, 0).await.unwrap();
    assert_eq!(in_time("an event", events.next()).await.unwrap().unwrap().number, 1);
    in_time("who leads", async {
        loop {
            match second.submit(submission()).await {
                Err(ApiError::Unavailable(why)) if why.contains("the one at here leads") => break,
                Err(ApiError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
    first.close().await;
    assert!(matches!(first.submit(submission()).await, Err(ApiError::Unavailable(_))));
    in_time("the take-over", second.leads()).await;
    assert_eq!(second.submit(submission()).await.unwrap().run, RunId(run.0 + 1));
    assert!(second.agents().await.unwrap()[0].cordoned, "what was decided counts on");
    second.cancel(run).await.unwrap();
    let rest: Vec<_> = in_time("the end of the run", events.collect::<Vec<_>>()).await;
    assert!(matches!(&rest.last().unwrap().as_ref().unwrap().event, RunEvent::Run(view) if view.state == RunState::Finished));
    second.close().await;
}
