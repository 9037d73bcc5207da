//! Real processes that are killed, stopped and cut off while jobs run: every job has one result, and every log is whole.
//!
//! The bounded form runs with all tests. The whole one:
//! `CAISSON_FAULT_JOBS=500 CAISSON_FAULTS=100 cargo test --release --test faults -- --nocapture`.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../controller/tests/database/mod.rs"]
mod database;
mod middleman;
mod place;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use caisson_model::log::{LogKey, LogRead};
use caisson_model::outcome::Outcome;
use caisson_model::run::{JobState, RunEvent, RunState};
use caisson_proto::api::{ApiError, ClientApi};
use caisson_proto::client::Client;
use futures_util::StreamExt;
use middleman::{Manner, Middleman};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use place::Place;
use sha2::{Digest as _, Sha256};

/// Lines that every job writes.
const LINES: usize = 40;

fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().unwrap())
}

/// A network that can be cut: connections to it end at `to`, or nowhere.
struct Link {
    address: SocketAddr,
    cut: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Link {
    fn to(upstream: SocketAddr) -> Link {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = Link { address: listener.local_addr().unwrap(), cut: Arc::default(), open: Arc::default() };
        let (cut, open) = (link.cut.clone(), link.open.clone());
        // Ends with the test's process.
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Some(far) = (!cut.load(Ordering::SeqCst)).then(|| TcpStream::connect(upstream).ok()).flatten() else { continue };
                open.lock().unwrap().extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
                for (mut from, mut to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
                    std::thread::spawn(move || {
                        let mut bytes = [0; 16 * 1024];
                        while let Ok(count @ 1..) = from.read(&mut bytes) {
                            if to.write_all(&bytes[..count]).is_err() {
                                break;
                            }
                        }
                        // Whichever side is left learns of it.
                        let _gone = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                    });
                }
            }
        });
        link
    }

    fn cut_for(&self, span: Duration) {
        self.cut.store(true, Ordering::SeqCst);
        self.open.lock().unwrap().drain(..).for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        std::thread::sleep(span);
        self.cut.store(false, Ordering::SeqCst);
    }
}

/// A process that is started again when it is gone.
struct Kept<'p> {
    place: &'p Place,
    words: Vec<String>,
    child: Child,
}

impl Kept<'_> {
    fn start(place: &Place, words: Vec<String>) -> Kept<'_> {
        let child = Kept::spawn(place, &words);
        Kept { place, words, child }
    }

    fn spawn(place: &Place, words: &[String]) -> Child {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        place.caisson(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    fn kill_and_start(&mut self) {
        self.signal(Signal::SIGKILL);
        self.child.wait().unwrap();
        self.child = Kept::spawn(self.place, &self.words);
    }

    fn stop_for(&self, span: Duration) {
        self.signal(Signal::SIGSTOP);
        std::thread::sleep(span);
        self.signal(Signal::SIGCONT);
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        // It may have ended by itself; the test says what of it matters.
        let _ended = (self.child.kill(), self.child.wait());
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn workflow(jobs: usize) -> String {
    let mut text = "on: push\njobs:\n".to_owned();
    for (index, first) in (0..jobs).step_by(100).enumerate() {
        let cells: Vec<String> = (first..jobs.min(first + 100)).map(|cell| cell.to_string()).collect();
        text += &format!(
            "  m{index}:\n    runs-on: ubuntu-latest\n    strategy: {{ fail-fast: false, matrix: {{ c: [{}] }} }}\n    steps:\n      \
             - run: i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo \"L ${{{{ matrix.c }}}} $i\"; sleep 0.02; done\n",
            cells.join(", ")
        );
    }
    text
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Runs jobs with faults; gives how many faults there were.
fn run_with_faults(store: Option<String>, controllers: usize) {
    let (jobs, faults) = (number("CAISSON_FAULT_JOBS", 16), number("CAISSON_FAULTS", 8));
    let place = Place::with(&workflow(jobs));
    let path = |name: &str| place.path().join(name).display().to_string();
    let mut serving = Vec::new();
    let mut links = Vec::new();
    for index in 0..controllers {
        let port = free_port();
        let (listen, state) = (format!("127.0.0.1:{port}"), path(&format!("controller-{index}")));
        let mut all = words(&["controller", "--listen", &listen, "--state-dir", &state, "--blobs", &path("blobs")]);
        if let Some(store) = &store {
            all.extend(words(&["--store", store]));
        }
        serving.push(Kept::start(&place, all));
        links.push(Link::to(listen.parse().unwrap()));
    }
    let url = links.iter().map(|link| format!("http://{}", link.address)).collect::<Vec<_>>().join(",");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = runtime.block_on(connect(&url));
    // The second agent's way delays whatever is said and says half of it twice.
    let (stirred, address) = runtime.block_on(Middleman::start(client.clone(), Manner::Unreliable(Duration::from_millis(120))));
    let stirring = format!("http://{address}");
    let mut agents: Vec<_> = [("one", &url), ("two", &stirring)]
        .iter()
        .map(|(name, url)| {
            Kept::start(&place, words(&["agent", "--controller", url, "--name", name, "--slots", "2", "--state-dir", &path(name)]))
        })
        .collect();
    let submitted = place.caisson(&["submit", "--controller", &url]).output().unwrap();
    assert!(submitted.status.success(), "{}", String::from_utf8_lossy(&submitted.stderr));
    let run = runtime.block_on(again(|| client.list_runs(1)))[0].id;
    let begun = Instant::now();
    let patience = Duration::from_secs(120 + 2 * jobs as u64);
    let mut done = 0;
    loop {
        let detail = runtime.block_on(again(|| client.run(run)));
        if detail.run.state == RunState::Finished {
            break;
        }
        assert!(begun.elapsed() < patience, "after {done} faults: {:?}", detail.jobs);
        if done < faults {
            let second = Duration::from_secs(1);
            match done % 5 {
                0 => agents[done / 5 % 2].kill_and_start(),
                1 => serving[done / 5 % controllers].kill_and_start(),
                2 => agents[done / 5 % 2].stop_for(second),
                3 => serving[done / 5 % controllers].stop_for(second),
                _ => links[done / 5 % controllers].cut_for(second),
            }
            done += 1;
        }
        std::thread::sleep(Duration::from_millis(400));
    }
    assert!(done >= faults.min(4), "only {done} faults: the jobs were too short");
    runtime.block_on(check(&client, run, jobs));
    let (repeated, delayed) = (stirred.passed.repeated.load(Ordering::Relaxed), stirred.passed.delayed.load(Ordering::Relaxed));
    assert!(repeated > jobs as u64 && delayed > repeated, "only {repeated} were repeated and {delayed} delayed");
    let _told = writeln!(
        std::io::stderr(),
        "{jobs} jobs, {done} faults, {repeated} calls and messages repeated, {delayed} delayed, {controllers} controllers, {:?}",
        begun.elapsed()
    );
    drop((agents, serving));
}

async fn connect(url: &str) -> Client {
    let deadline = Instant::now() + place::PATIENCE;
    loop {
        match Client::connect(url).await {
            Ok(client) => return client,
            Err(error) => assert!(error.is_transient() && Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn again<T, F: Future<Output = Result<T, ApiError>>>(mut call: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + place::PATIENCE;
    loop {
        match call().await {
            Ok(answer) => return answer,
            Err(error) => assert!(error.is_transient() && Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// One result per job, and logs that are what the steps wrote.
async fn check(client: &Client, run: caisson_model::id::RunId, jobs: usize) {
    let detail = again(|| client.run(run)).await;
    assert_eq!((detail.jobs.len(), detail.run.outcome), (jobs, Some(Outcome::Success)), "{:?}", detail.jobs);
    let events: Vec<_> = again(|| client.watch_run(run, 0)).await.collect().await;
    let mut results: BTreeMap<u32, usize> = BTreeMap::new();
    for event in events {
        if let RunEvent::Job(job) = event.unwrap().event
            && job.state == JobState::Finished
        {
            *results.entry(job.id.index).or_default() += 1;
        }
    }
    assert!(results.len() == jobs && results.values().all(|count| *count == 1), "{results:?}");
    for job in &detail.jobs {
        let attempt = job.attempt.unwrap();
        let step = detail.steps.iter().find(|step| step.attempt == attempt && step.index.0 == 0).unwrap();
        let key = LogKey { attempt, step: step.index };
        let (mut bytes, mut seal) = (Vec::new(), None);
        for read in again(|| client.tail_log(key, 0)).await.collect::<Vec<_>>().await {
            match read.unwrap() {
                LogRead::Chunk(chunk) => {
                    assert_eq!(chunk.offset, bytes.len() as u64, "a gap in the log of {}", job.name);
                    bytes.extend(chunk.bytes);
                }
                LogRead::Seal(end) => seal = Some(end),
            }
        }
        let seal = seal.unwrap();
        assert!(seal.gaps.is_empty() && seal.digest.0 == <[u8; 32]>::from(Sha256::digest(&bytes)), "{}: {seal:?}", job.name);
        let cell = job.name.rsplit_once('(').unwrap().1.trim_end_matches(')');
        let wrote: Vec<String> = (1..=LINES).map(|line| format!("L {cell} {line}")).collect();
        let text = String::from_utf8(bytes).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("L ")).collect();
        assert_eq!(lines, wrote, "the log of {}", job.name);
    }
}

#[test]
fn faults_cost_nothing_with_one_controller() {
    run_with_faults(None, 1);
}

#[test]
fn faults_cost_nothing_with_one_controller_on_postgres() {
    let Some(url) = database::new() else { return };
    run_with_faults(Some(url), 1);
}

#[test]
fn faults_cost_nothing_with_two_controllers_of_which_the_leader_is_killed() {
    let Some(url) = database::new() else { return };
    run_with_faults(Some(url), 2);
}
