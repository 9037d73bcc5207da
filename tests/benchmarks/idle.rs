//! Very many idle agents at one controller, each with a certificate, a TLS connection and a session of its own, that all beat:
//! `cargo bench --bench idle`, `CAISSON_AGENTS=N` for another number than 5,000. They live in this one process; the controller is
//! the program as users have it, on SQLite. Told are its memory per agent, what the beats cost, and how fast agents join.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use caisson_agent::identity::{Identity, Request};
use caisson_controller::identity::token::{Token, sha256};
use caisson_model::agent::{Hello, VersionRange};
use caisson_model::id::AgentName;
use caisson_model::lease::{AgentMessage, ControllerMessage};
use caisson_proto::api::{AgentApi, ClientApi};
use caisson_proto::client::{Bearer, Client, Credentials};
use caisson_proto::fleet::{Enrolment, FleetApi, TokenKind, TokenWish};
use caisson_proto::tls::Tls;
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// How long idleness is watched.
const WATCHED: Duration = Duration::from_secs(30);
/// How many join at once.
const AT_ONCE: usize = 32;

struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _gone = (self.0.kill(), self.0.wait());
    }
}

/// A number of `/proc/PID/status`, in KiB.
fn memory(process: u32, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
}

/// Processor time of a process so far.
fn processor(process: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

fn caisson(words: &[&str], home: &std::path::Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_caisson"));
    command.args(words).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", home).stdin(Stdio::null());
    command
}

async fn join(admin: Client, url: String, index: usize) -> (Identity, [u8; 32]) {
    let (name, pool, lifetime) = (format!("agent-{index}"), "default".to_owned(), Duration::from_secs(900));
    let wish = TokenWish { kind: TokenKind::Join, name: name.clone(), pool, scopes: Vec::new(), lifetime };
    let token = Token::parse(&admin.create_token(wish).await.unwrap().token).unwrap();
    let request = Request::new().unwrap();
    let tls = Tls::of_pin(token.pin, sha256, None).unwrap();
    let client = Client::connect_with(&url, Credentials { tls: Some(tls), bearer: None }).await.unwrap();
    let enrolment = Enrolment { token: token.text(), agent: AgentName(name), request: request.request.clone(), facts: Vec::new() };
    (Identity::new(&url, client.enroll(enrolment).await.unwrap(), request.key), token.pin)
}

/// Opens a session and beats for ever; counts the answers.
async fn idle(url: String, (identity, pin): (Identity, [u8; 32]), heard: Arc<AtomicU64>) {
    let tls = Tls::of_pin(pin, sha256, Some(identity.certified().unwrap())).unwrap();
    let client = Client::connect_with(&url, Credentials { tls: Some(tls), bearer: None }).await.unwrap();
    let (messages, said) = mpsc::channel(4);
    let hello = Hello {
        agent: AgentName(identity.agent.clone()),
        versions: VersionRange::SPOKEN,
        slots: 2,
        labels: vec!["ubuntu-latest".to_owned(), "linux".to_owned()],
        enforces: Vec::new(),
        memory_bytes: 0,
        cpu_milli: 0,
        running: Vec::new(),
    };
    let mut answers = client.session(hello, Box::pin(ReceiverStream::new(said))).await.unwrap();
    let Some(Ok(ControllerMessage::Welcome { term, .. })) = answers.next().await else { panic!("no welcome") };
    drop(tokio::spawn(async move {
        let _client = client;
        let mut beats = tokio::time::interval(term / 3);
        for number in 1.. {
            beats.tick().await;
            if messages.send(AgentMessage::Beat { number, holds: Vec::new() }).await.is_err() {
                return;
            }
            match answers.next().await {
                Some(Ok(ControllerMessage::Heard(_))) => drop(heard.fetch_add(1, Ordering::Relaxed)),
                other => panic!("an idle agent was told {other:?}"),
            }
        }
    }));
}

async fn measure(agents: usize, url: String, token: Token, controller: u32) {
    let tls = Tls::of_pin(token.pin, sha256, None).unwrap();
    let admin = Client::connect_with(&url, Credentials { tls: Some(tls), bearer: Some(Bearer(token.text())) }).await.unwrap();
    let before = memory(controller, "VmRSS");
    let heard = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let joining = stream::iter(0..agents).map(|index| {
        let (admin, url, heard) = (admin.clone(), url.clone(), heard.clone());
        async move { idle(url.clone(), join(admin, url, index).await, heard).await }
    });
    joining.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await;
    let joined = begun.elapsed();
    // What joining took is given back before idleness is looked at.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (cpu, answered) = (processor(controller), heard.load(Ordering::Relaxed));
    tokio::time::sleep(WATCHED).await;
    let cpu = (processor(controller) - cpu).as_secs_f64() / WATCHED.as_secs_f64();
    let answered = (heard.load(Ordering::Relaxed) - answered) as f64 / WATCHED.as_secs_f64();
    let connected = admin.agents().await.unwrap().iter().filter(|agent| agent.connected).count();
    assert_eq!(connected, agents, "all of them have a session");
    let after = memory(controller, "VmRSS");
    println!("{agents} agents joined and connected in {joined:.1?} ({:.0} a second)", agents as f64 / joined.as_secs_f64());
    println!(
        "the controller's memory: {} MiB before, {} MiB with all of them idle: {:.1} KiB each; highest {} MiB",
        before / 1024,
        after / 1024,
        (after - before) as f64 / agents as f64,
        memory(controller, "VmHWM") / 1024
    );
    println!("{answered:.0} beats a second are answered with {:.0} % of one processor", cpu * 100.0);
}

fn main() {
    let agents = std::env::var("CAISSON_AGENTS").map_or(5000, |text| text.parse().unwrap());
    // A connection has two ends here at most, each in a process of its own.
    let files = (2 * agents + 2000).to_string();
    let raised = Command::new("prlimit").args([&format!("--pid={}", std::process::id()), &format!("--nofile={files}:{files}")]).status();
    assert!(raised.is_ok_and(|status| status.success()), "{files} open files are not allowed here");
    let home = tempfile::Builder::new().prefix("caisson-bench-").tempdir().unwrap();
    let state = home.path().join("controller").display().to_string();
    let config = home.path().join("controller.toml");
    std::fs::write(&config, "listen = \"127.0.0.5:0\"\nnames = [\"127.0.0.5\"]\n").unwrap();
    assert!(caisson(&["controller", "init", "--name", "127.0.0.5", "--state-dir", &state], home.path()).output().unwrap().status.success());
    let words = ["controller", "--config", config.to_str().unwrap(), "--state-dir", &state];
    let mut controller = caisson(&words, home.path()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut url = String::new();
    BufReader::new(controller.stdout.take().unwrap()).read_line(&mut url).unwrap();
    let controller = Ends(controller);
    let token = caisson(&["token", "create", "--scope", "admin", "--state-dir", &state], home.path()).output().unwrap();
    let token = Token::parse(String::from_utf8(token.stdout).unwrap().trim()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(measure(agents, url.trim().to_owned(), token, controller.0.id()));
    runtime.shutdown_background();
}
