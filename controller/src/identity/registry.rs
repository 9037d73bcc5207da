//! The roll as a running controller has it: decisions are written down before they count, and what others wrote is read
//! several times a second. Clones share it.

use std::collections::VecDeque;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use caisson_model::time::Timestamp;
use caisson_proto::api::ApiError;
use caisson_proto::fleet::{Certified, Enrolment, NewToken, TokenKind, TokenWish};
use tokio::sync::{mpsc, watch};

use crate::identity::authority::{Authority, AuthorityError, SignError};
use crate::identity::chain::{Chain, ChainError, Shelf, Sqlite};
use crate::identity::entry::{Act, Entry};
use crate::identity::roll::{Refusal, Roll};
use crate::identity::token::Token;
use crate::store::journal::StoreError;
use crate::store::postgres::shelf::Roster;

/// How often it is looked for entries of other processes: four times within the second that a revocation may take.
const LOOK: Duration = Duration::from_millis(250);
/// How many refusals are written down per second at most, so that nobody fills the disk by being refused.
const DENIALS: usize = 20;
/// How many things may wait to be written down.
const BACKLOG: usize = 256;
/// Entries that a decision is tried again for, when another process is faster.
const TRIES: u32 = 100;

/// How long agents' certificates live when nobody says otherwise.
pub const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The registry cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Its authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Its entries.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The shared database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Where the entries are cannot be read or noted.
    #[error("note where the identity records are in {0}")]
    Note(PathBuf, #[source] std::io::Error),
    /// Its thread ended.
    #[error("the identity records' thread has ended")]
    Thread,
}

/// Where the entries are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Book {
    /// Beside the authority, for one controller.
    Beside,
    /// In the PostgreSQL database at this address, for all controllers that use it. Entries beside the authority are taken
    /// over when it has none.
    Database(String),
    /// Where the controller that was started here last has them.
    AsNoted,
}

/// The file that says in which database the entries are.
const NOTE: &str = "store";

impl Book {
    fn open(self, directory: &Path) -> Result<Chain, RegistryError> {
        let note = directory.join(NOTE);
        let failed = |error| RegistryError::Note(note.clone(), error);
        let own = || Sqlite::open(&directory.join("identity.sqlite"));
        let url = match self {
            Book::Beside => {
                match std::fs::remove_file(&note) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
                    _ => return Ok(Chain::new(own()?)),
                };
            }
            Book::Database(url) => {
                // It may hold a password: as closed as the key beside it.
                let mut file =
                    std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&note).map_err(failed)?;
                file.write_all(url.as_bytes()).map_err(failed)?;
                url
            }
            Book::AsNoted => match std::fs::read_to_string(&note) {
                Ok(url) => url,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Chain::new(own()?)),
                Err(error) => return Err(failed(error)),
            },
        };
        let mut shared = Roster::open(&url)?;
        if directory.join("identity.sqlite").exists() && shared.after(0)?.is_empty() {
            for link in own()?.after(0)? {
                // Another controller with the same authority may do the same at this moment, with the same entries.
                shared.add(&link)?;
            }
        }
        Ok(Chain::new(shared))
    }
}

/// The registry.
#[derive(Clone, Debug)]
pub struct Registry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    chain: Mutex<Chain>,
    roll: RwLock<Roll>,
    authority: Authority,
    lifetime: Duration,
    version: watch::Sender<u64>,
    later: mpsc::Sender<Later>,
    refused: Mutex<Refused>,
}

/// What is written down by and by.
#[derive(Debug)]
enum Later {
    Write(String, Act),
}

#[derive(Debug, Default)]
struct Refused {
    lately: VecDeque<Instant>,
    unwritten: u64,
}

/// Wall time.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in there is whole after each statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refused(refusal: Refusal) -> ApiError {
    match refusal {
        Refusal::Denied(text) => ApiError::Denied(text),
        Refusal::Spent(text) => ApiError::Spent(text),
        Refusal::Invalid(text) => ApiError::Invalid(text),
        Refusal::Unknown(text) => ApiError::NotFound(text),
        copied @ Refusal::Copied { .. } => ApiError::Denied(copied.to_string()),
    }
}

fn broken(error: &dyn std::error::Error) -> ApiError {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    ApiError::Broken(text)
}

fn signing(error: SignError) -> ApiError {
    match &error {
        SignError::Request(source) => ApiError::Invalid(format!("request: {error}: {source}")),
        SignError::Authority(error) => broken(error),
    }
}

/// The folder of a controller's identity, within its data.
pub fn directory(data: &Path) -> PathBuf {
    data.join("identity")
}

impl Registry {
    /// Opens the registry in `directory`, where an authority must be. Needs a tokio runtime, which it uses until the last clone is dropped.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn open(directory: PathBuf, lifetime: Duration, book: Book) -> Result<Registry, RegistryError> {
        let opening = move || -> Result<_, RegistryError> {
            let authority = Authority::open(&directory)?;
            let mut chain = book.open(&directory)?;
            let mut roll = Roll::default();
            chain.news()?.iter().for_each(|entry| roll.apply(entry));
            Ok((authority, chain, roll))
        };
        let (authority, chain, roll) = tokio::task::spawn_blocking(opening).await.map_err(|_| RegistryError::Thread)??;
        let (later, waiting) = mpsc::channel(BACKLOG);
        let inner = Arc::new(Inner {
            chain: Mutex::new(chain),
            roll: RwLock::new(roll),
            authority,
            lifetime,
            version: watch::Sender::new(0),
            later,
            refused: Mutex::default(),
        });
        // Ends when the registry is dropped.
        drop(tokio::spawn(keep_up(Arc::downgrade(&inner), waiting)));
        Ok(Registry(inner))
    }

    /// The authority.
    pub fn authority(&self) -> &Authority {
        &self.0.authority
    }

    /// What counts now, up to a quarter of a second old.
    pub fn roll(&self) -> RwLockReadGuard<'_, Roll> {
        self.0.roll.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes whenever the roll does.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.version.subscribe()
    }

    /// Reads what others wrote.
    ///
    /// # Errors
    /// [`ApiError::Broken`].
    pub async fn catch_up(&self) -> Result<(), ApiError> {
        let inner = self.0.clone();
        let caught = tokio::task::spawn_blocking(move || inner.catch_up()).await;
        caught.map_err(|error| broken(&error))?.map_err(|error| broken(&error))
    }

    /// Decides and writes the decision down.
    async fn decide<T: Send + 'static>(
        &self,
        actor: String,
        decide: impl Fn(&Roll, Timestamp) -> Result<(Act, T), ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let inner = self.0.clone();
        let deciding = tokio::task::spawn_blocking(move || inner.decide(&actor, decide));
        deciding.await.map_err(|error| broken(&error))?
    }

    /// Writes down that something was refused. Does not wait.
    pub fn deny(&self, actor: String, what: &str, reason: &str) {
        tracing::warn!(actor, what, reason, "refused");
        let unwritten = {
            let mut refused = lock(&self.0.refused);
            let now = Instant::now();
            while refused.lately.front().is_some_and(|at| now.duration_since(*at) > Duration::from_secs(1)) {
                refused.lately.pop_front();
            }
            if refused.lately.len() >= DENIALS {
                refused.unwritten += 1;
                return;
            }
            refused.lately.push_back(now);
            std::mem::take(&mut refused.unwritten)
        };
        let act = Act::Denied { what: what.to_owned(), reason: reason.to_owned(), unwritten };
        self.later(actor, act, unwritten + 1);
    }

    fn later(&self, actor: String, act: Act, counts: u64) {
        if self.0.later.try_send(Later::Write(actor, act)).is_err() {
            lock(&self.0.refused).unwritten += counts;
        }
    }

    /// An agent was seen with its newest certificate. Does not wait.
    pub fn confirm(&self, agent: caisson_model::id::AgentName, generation: u64) {
        self.later(format!("agent {agent}"), Act::Confirmed { agent, generation }, 0);
    }

    /// Somebody has a copy of an agent's certificate or key: neither it nor the agent may speak any more. Does not wait.
    pub fn copied(&self, actor: String, refusal: &Refusal) {
        if let Refusal::Copied { agent, reason } = refusal
            && self.roll().is_member(agent)
        {
            tracing::error!(%agent, reason, "agent revoked: its identity was copied");
            self.later(actor, Act::AgentRevoked { agent: agent.clone(), reason: reason.clone() }, 0);
        }
    }

    /// Makes an agent a member.
    ///
    /// # Errors
    /// [`ApiError`]; the refusal is written down.
    pub async fn enroll(&self, actor: String, enrolment: Enrolment) -> Result<Certified, ApiError> {
        let token = Token::parse(&enrolment.token).map_err(|error| ApiError::Invalid(format!("token: {error}")));
        let joined = match token {
            Ok(token) => self.join(actor.clone(), token, enrolment).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &joined {
            self.deny(actor, "join", &error.to_string());
        }
        joined
    }

    async fn join(&self, actor: String, token: Token, enrolment: Enrolment) -> Result<Certified, ApiError> {
        let registry = Arc::downgrade(&self.0);
        self.decide(actor, move |roll, now| {
            let inner = registry.upgrade().ok_or_else(|| ApiError::Unavailable("the controller is closing".to_owned()))?;
            let admission = roll.admit(&token, &enrolment.agent, now).map_err(refused)?;
            let (agent, pool) = (admission.agent, admission.pool);
            let signed = inner.authority.sign(&enrolment.request, &agent, &pool, inner.lifetime, now);
            let (certificate, issued) = signed.map_err(signing)?;
            let certified = inner.certified(&agent, &pool, certificate, issued.begins, issued.ends);
            let facts = enrolment.facts.iter().take(16).map(|(key, value)| (cut(key), cut(value))).collect();
            Ok((Act::Joined { token: admission.token, agent, pool, certificate: issued, facts }, certified))
        })
        .await
    }

    /// A new certificate for the agent that has this one.
    ///
    /// # Errors
    /// [`ApiError`]; the refusal is written down.
    pub async fn renew(&self, actor: String, serial: String, request: Vec<u8>) -> Result<Certified, ApiError> {
        let registry = self.clone();
        let by = actor.clone();
        let renewed = self
            .decide(actor.clone(), move |roll, now| {
                let key = Authority::key_of(&request).map_err(signing)?;
                let (agent, pool, generation) = roll.renew(&serial, &key, now).map_err(|refusal| {
                    registry.copied(by.clone(), &refusal);
                    refused(refusal)
                })?;
                let inner = &registry.0;
                let (certificate, issued) = inner.authority.sign(&request, &agent, &pool, inner.lifetime, now).map_err(signing)?;
                let certified = inner.certified(&agent, &pool, certificate, issued.begins, issued.ends);
                Ok((Act::Renewed { agent, generation, certificate: issued }, certified))
            })
            .await;
        if let Err(error) = &renewed {
            self.deny(actor, "renew", &error.to_string());
        }
        renewed
    }

    /// Makes a token.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn create_token(&self, actor: String, wish: TokenWish) -> Result<NewToken, ApiError> {
        let token = Token::new(wish.kind, self.0.authority.pin()).map_err(|error| broken(&error))?;
        let (id, text) = (token.id.clone(), token.text());
        self.decide(actor, move |roll, now| {
            let purpose = roll.grant(&wish).map_err(refused)?;
            let expires = now.after(wish.lifetime);
            Ok((Act::TokenCreated { id: token.id.clone(), hash: token.hash(), name: wish.name.clone(), purpose, expires }, ()))
        })
        .await?;
        let view = self.roll().tokens().into_iter().find(|view| view.id == id);
        let view = view.ok_or_else(|| ApiError::Broken("the token that was made is not on the roll".to_owned()))?;
        Ok(NewToken { token: text, view })
    }

    /// Revokes a token.
    ///
    /// # Errors
    /// [`ApiError::NotFound`].
    pub async fn revoke_token(&self, actor: String, id: String) -> Result<(), ApiError> {
        self.decide(actor, move |roll, _| match roll.has_token(&id) {
            true => Ok((Act::TokenRevoked { id: id.clone() }, ())),
            false => Err(ApiError::NotFound(format!("token {id}"))),
        })
        .await
    }

    /// Revokes an agent.
    ///
    /// # Errors
    /// [`ApiError::NotFound`].
    pub async fn revoke_agent(&self, actor: String, agent: caisson_model::id::AgentName, reason: String) -> Result<(), ApiError> {
        self.decide(actor, move |roll, _| match roll.knows(&agent) {
            true => Ok((Act::AgentRevoked { agent: agent.clone(), reason: cut(&reason) }, ())),
            false => Err(ApiError::NotFound(format!("agent {agent}"))),
        })
        .await
    }

    /// Whose API token this is.
    ///
    /// # Errors
    /// [`ApiError::Denied`].
    pub async fn holder(&self, text: &str) -> Result<crate::identity::roll::Holder, ApiError> {
        let token = Token::parse(text).map_err(|error| ApiError::Denied(error.to_string()))?;
        if token.kind == TokenKind::Api && !self.roll().has_token(&token.id) {
            // It may have been made a moment ago by another process.
            self.catch_up().await?;
        }
        self.roll().holder(&token, now()).map_err(refused)
    }
}

/// What somebody else wrote is kept short.
fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

impl Inner {
    fn certified(
        &self,
        agent: &caisson_model::id::AgentName,
        pool: &str,
        certificate: Vec<u8>,
        begins: Timestamp,
        ends: Timestamp,
    ) -> Certified {
        Certified {
            agent: agent.clone(),
            pool: pool.to_owned(),
            certificate,
            authority: self.authority.certificate().to_vec(),
            begins,
            ends,
        }
    }

    fn catch_up(&self) -> Result<(), ChainError> {
        let mut chain = lock(&self.chain);
        self.take(&mut chain)
    }

    fn take(&self, chain: &mut Chain) -> Result<(), ChainError> {
        let entries = chain.news()?;
        self.apply(&entries);
        Ok(())
    }

    fn apply(&self, entries: &[Entry]) {
        if !entries.is_empty() {
            let mut roll = self.roll.write().unwrap_or_else(PoisonError::into_inner);
            entries.iter().for_each(|entry| roll.apply(entry));
            drop(roll);
            self.version.send_modify(|version| *version += 1);
        }
    }

    fn decide<T>(&self, actor: &str, decide: impl Fn(&Roll, Timestamp) -> Result<(Act, T), ApiError>) -> Result<T, ApiError> {
        let mut chain = lock(&self.chain);
        for _ in 0..TRIES {
            self.take(&mut chain).map_err(|error| broken(&error))?;
            let at = now();
            let decided = decide(&self.roll.read().unwrap_or_else(PoisonError::into_inner), at);
            let (act, answer) = decided?;
            let entry = Entry { at, actor: actor.to_owned(), act };
            // If it cannot be written down it does not happen.
            if chain.add(&entry).map_err(|error| broken(&error))? {
                self.apply(std::slice::from_ref(&entry));
                return Ok(answer);
            }
        }
        Err(ApiError::Unavailable("the identity records are written to by too many".to_owned()))
    }

    fn write(&self, actor: &str, act: &Act) {
        let needed = |roll: &Roll| match act {
            Act::AgentRevoked { agent, .. } => roll.is_member(agent),
            Act::Confirmed { agent, generation } => roll.unconfirmed(agent, *generation),
            _ => true,
        };
        let written = self.decide(actor, |roll, _| match needed(roll) {
            true => Ok((act.clone(), ())),
            false => Err(ApiError::Spent("it is written down already".to_owned())),
        });
        if let Err(error) = written
            && !matches!(error, ApiError::Spent(_))
        {
            tracing::error!(%error, "a decision was not written down");
        }
    }
}

/// Reads what others wrote and writes what waits, until the registry is dropped.
async fn keep_up(registry: Weak<Inner>, mut waiting: mpsc::Receiver<Later>) {
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let later = tokio::select! {
            _ = tick.tick() => None,
            later = waiting.recv() => match later {
                None => return,
                later => later,
            },
        };
        let Some(inner) = registry.upgrade() else { return };
        let done = tokio::task::spawn_blocking(move || match later {
            Some(Later::Write(actor, act)) => inner.write(&actor, &act),
            None => {
                if let Err(error) = inner.catch_up() {
                    tracing::error!(error = &error as &dyn std::error::Error, "identity records cannot be read");
                }
            }
        });
        if done.await.is_err() {
            tracing::error!("the identity records' thread ended early");
        }
    }
}
