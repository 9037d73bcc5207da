//! The cache and artifact services of the language's toolkit, for one program: JavaScript actions keep through them what the built-in
//! actions keep. They are reached at a loopback address of the sandbox, with a token that counts while the program runs.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Seek, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use caisson_model::artifact::{Artifact, Clash, Kept};
use caisson_model::cache::{CacheEntry, CacheQuery, Saved};
use caisson_model::id::{Digest, Hold};
use caisson_model::outcome::Fault;
use caisson_proto::api::{AgentApi, ApiError};
use caisson_sandbox::spec::{Network, Spec};
use caisson_toolkit::desk::{Desk, Settings};
use caisson_toolkit::forms::Places;
use caisson_toolkit::keeper::{Keeper, KeeperError, Packed};
use caisson_toolkit::token::Token;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio_stream::StreamExt;

use crate::attempt::Attempt;
use crate::contexts::TOOL_CACHE;
use crate::kept::Blob;
use crate::program::Halt;
use crate::retry;
use crate::step::handover;
use crate::stop::Stop;
use crate::view;

/// Where the services are, inside: beside the doors of the package gateway, whose address no program takes for its own.
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(127, 0, 83, 1)), 61090);
/// The most bytes that a step may upload, and that an archive may unpack to, where no limit on the disk says less.
const LARGEST: u64 = 10 << 30;

/// A desk that is to be opened once the sandbox has its listener.
pub(super) struct Prepared {
    token: Token,
    settings: Settings,
}

impl Prepared {
    /// Adds the listener to a spec, and what clients look for to its environment. A network without an exit stays as it is, and has
    /// no services.
    pub(super) fn new<A: AgentApi>(attempt: &Attempt<A>, spec: &mut Spec) -> Result<Option<Prepared>, Halt> {
        let Network::Exit { listeners, .. } = &mut spec.network else { return Ok(None) };
        listeners.push(ADDRESS);
        let job = attempt.hold.attempt.job;
        let token = Token::new(&format!("run-{}", job.run), &format!("job-{}", job.index));
        let token = token.map_err(|error| Halt::faulted(format!("the step's token could not be made: {error}"), Fault::Environment))?;
        let url = format!("http://{ADDRESS}/");
        for (name, value) in [
            ("ACTIONS_RUNTIME_TOKEN", token.text()),
            ("ACTIONS_RESULTS_URL", url.as_str()),
            ("ACTIONS_CACHE_URL", url.as_str()),
            ("ACTIONS_CACHE_SERVICE_V2", "true"),
        ] {
            let name = OsString::from(name);
            spec.env.retain(|(present, _)| *present != name);
            spec.env.push((name, value.into()));
        }
        // No proxy could reach what lies inside.
        for (name, value) in &mut spec.env {
            if name == "NO_PROXY" || name == "no_proxy" {
                value.push(format!(",{}", ADDRESS.ip()));
            }
        }
        let most = spec.limits.disk.map_or(LARGEST, |disk| disk.min(LARGEST));
        let places = Places { workspace: attempt.contexts.workspace.clone(), kept: vec![view::HOME.to_owned(), TOOL_CACHE.to_owned()] };
        let settings = Settings { token: token.clone(), address: ADDRESS, spool: attempt.workspace.spool(), most, places };
        Ok(Some(Prepared { token, settings }))
    }

    /// What is to be masked in the step's output.
    pub(super) fn secret(&self) -> &[u8] {
        self.token.secret().as_bytes()
    }

    /// Serves the listener.
    pub(super) fn open<A: AgentApi>(self, listener: OwnedFd, attempt: &Attempt<A>) -> Result<Desk, Halt> {
        let shelf = Shelf { api: Arc::clone(&attempt.api), hold: attempt.hold, orders: attempt.orders.clone() };
        let desk = Desk::open(TcpListener::from(listener), self.settings, shelf);
        desk.map_err(|error| Halt::faulted(format!("the toolkit's services could not be opened: {error}"), Fault::Environment))
    }
}

/// What the controller keeps for the run of an attempt.
struct Shelf<A> {
    api: Arc<A>,
    hold: Hold,
    orders: watch::Receiver<Stop>,
}

fn refused(error: ApiError) -> KeeperError {
    KeeperError(error.to_string())
}

impl<A: AgentApi> Keeper for Shelf<A> {
    async fn find_cache(&self, query: CacheQuery) -> Result<Option<CacheEntry>, KeeperError> {
        retry::until_answered(&self.orders, || self.api.find_cache(self.hold, query.clone())).await.map_err(refused)
    }

    async fn save_cache(&self, key: String, version: String, digest: Digest, bytes: u64) -> Result<Saved, KeeperError> {
        let entry = CacheEntry { key, version, digest, bytes, at: crate::clock::now() };
        retry::until_answered(&self.orders, || self.api.save_cache(self.hold, entry.clone())).await.map_err(refused)
    }

    async fn artifacts(&self) -> Result<Vec<Artifact>, KeeperError> {
        retry::until_answered(&self.orders, || self.api.list_artifacts(self.hold)).await.map_err(refused)
    }

    async fn keep_artifact(&self, name: String, digest: Digest, bytes: u64, files: u32, clash: Clash) -> Result<Kept, KeeperError> {
        let artifact = Artifact { name, job: self.hold.attempt.job, digest, bytes, files, at: crate::clock::now() };
        retry::until_answered(&self.orders, || self.api.keep_artifact(self.hold, artifact.clone(), clash)).await.map_err(refused)
    }

    async fn drop_artifact(&self, name: String) -> Result<(), KeeperError> {
        retry::until_answered(&self.orders, || self.api.drop_artifact(self.hold, name.clone())).await.map_err(refused)
    }

    async fn put(&self, content: Packed) -> Result<(), KeeperError> {
        let blob = Blob { digest: content.digest, bytes: content.bytes };
        handover::hand_over(&self.api, &self.orders, blob, content.file).await.map_err(refused)
    }

    async fn fetch(&self, digest: Digest, mut into: File) -> Result<(), KeeperError> {
        let disk = |error: std::io::Error| KeeperError(format!("the agent's disk: {error}"));
        let mut whole = Sha256::new();
        let mut offset = 0;
        let mut backoff = retry::Backoff::new();
        'connection: loop {
            let mut pieces = match self.api.get_blob(digest, offset).await {
                Ok(pieces) => pieces,
                Err(error) if error.is_transient() => {
                    tokio::time::sleep(backoff.pause()).await;
                    continue;
                }
                Err(error) => return Err(refused(error)),
            };
            while let Some(piece) = pieces.next().await {
                match piece {
                    Ok(piece) => {
                        whole.update(&piece);
                        offset += piece.len() as u64;
                        into.write_all(&piece).map_err(disk)?;
                    }
                    Err(error) if error.is_transient() => {
                        tokio::time::sleep(backoff.pause()).await;
                        continue 'connection;
                    }
                    Err(error) => return Err(refused(error)),
                }
            }
            break;
        }
        if Digest(whole.finalize().into()) != digest {
            return Err(KeeperError("what was kept is not what its digest says".to_owned()));
        }
        into.rewind().map_err(disk)
    }
}
