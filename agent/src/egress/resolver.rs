//! The name server of one namespace. It answers by rules alone and asks nobody: no question of a step ever leaves the host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use caisson_model::outcome::{EgressEntry, EgressKind, Verdict};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::clock;
use crate::egress::border::Border;
use crate::egress::connection::ended;
use crate::egress::lineage::Table;
use crate::egress::names::RESOLVER;
use crate::egress::question::{self, Answer, Misread, Question};

/// How long a client of the stream form may take for one question.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many questions one stream may ask, and how many streams there may be.
const MOST_QUESTIONS: usize = 256;
const MOST_STREAMS: usize = 32;
/// How long the answer to the first question of a name waits for the process to be found that asked.
const FINDING: Duration = Duration::from_millis(20);

/// Answers datagrams until the exit closes.
pub(super) async fn datagrams(socket: UdpSocket, border: Border, mut closed: watch::Receiver<bool>) {
    let mut bytes = [0; 1500];
    loop {
        let received = tokio::select! {
            () = ended(&mut closed) => return,
            received = socket.recv_from(&mut bytes) => received,
        };
        let Ok((read, whom)) = received else { continue };
        let (answer, entry) = match question::read(&bytes[..read]) {
            Ok(question) => {
                let (answer, entry) = decide(&border, &question);
                (question.answer(answer), entry)
            }
            Err(Misread::Answered(answer)) => (answer, None),
            Err(Misread::Silent) => continue,
        };
        // Before the answer, for which it waits.
        record(&border, entry, Table::Udp, whom).await;
        // A full queue of the asker's is its own doing; it asks again.
        let _sent = socket.try_send_to(&answer, whom).is_ok();
    }
}

/// Answers streams until the exit closes.
pub(super) async fn streams(listener: TcpListener, border: Border, mut closed: watch::Receiver<bool>) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            () = ended(&mut closed) => return,
            Some(_) = open.join_next() => {}
            accepted = listener.accept(), if open.len() < MOST_STREAMS => match accepted {
                Ok((stream, whom)) => drop(open.spawn(stream_of(stream, whom, border.clone()))),
                Err(error) => {
                    tracing::debug!(%error, "a question could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

async fn stream_of(mut stream: TcpStream, whom: SocketAddr, border: Border) {
    for _ in 0..MOST_QUESTIONS {
        let reading = async {
            let length = stream.read_u16().await?;
            let mut bytes = vec![0; usize::from(length.min(1500))];
            stream.read_exact(&mut bytes).await.map(|_| bytes)
        };
        let Ok(Ok(bytes)) = timeout(PATIENCE, reading).await else { return };
        let (answer, entry) = match question::read(&bytes) {
            Ok(question) => {
                let (answer, entry) = decide(&border, &question);
                (question.answer(answer), entry)
            }
            Err(Misread::Answered(answer)) => (answer, None),
            Err(Misread::Silent) => return,
        };
        let framed = [&u16::try_from(answer.len()).unwrap_or_default().to_be_bytes()[..], &answer].concat();
        record(&border, entry, Table::Tcp, whom).await;
        if !matches!(timeout(PATIENCE, stream.write_all(&framed)).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// The answer to a question, and what is to be written down of it.
fn decide(border: &Border, question: &Question) -> (Answer, Option<EgressEntry>) {
    let name = question.name.as_str();
    if name == "localhost" || name.ends_with(".localhost") {
        return (Answer::Addresses(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST), None);
    }
    let decided = border.allowed.lookup(name);
    let (answer, verdict, rule) = match decided {
        Ok(rule) => match border.names.addresses(name) {
            Some((four, six)) => (Answer::Addresses(four, six), Verdict::Allowed, rule),
            None => (Answer::Failed, Verdict::Refused, "too many names were asked for".to_owned()),
        },
        Err(reason) => (Answer::Unknown, Verdict::Refused, reason),
    };
    // What a program asks for beside a name, such as `_http._tcp.NAME`, is no attempt to reach somebody.
    if name.starts_with('_') || !border.asked.first(name) {
        return (answer, None);
    }
    let address = match answer {
        Answer::Addresses(four, _) => Some(IpAddr::V4(four).to_string()),
        Answer::Unknown | Answer::Failed => None,
    };
    let entry = EgressEntry::connection(clock::now(), name, 0, verdict, rule);
    (answer, Some(EgressEntry { kind: EgressKind::Lookup, address, ..entry }))
}

/// Writes down a question with the process that asked: once a name, so that the others wait for nothing.
async fn record(border: &Border, entry: Option<EgressEntry>, table: Table, whom: SocketAddr) {
    let Some(entry) = entry else { return };
    let lineage = timeout(FINDING, border.finder.find(table, whom, RESOLVER)).await.unwrap_or_default();
    border.ledger.record(EgressEntry { lineage, ..entry });
}
