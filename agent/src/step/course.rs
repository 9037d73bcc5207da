//! A step in its course: what its programs share while they run, and what they leave. Lends itself to actions as their bench.

use std::collections::HashSet;
use std::path::PathBuf;

use caisson_model::artifact::{Artifact, Clash, Kept};
use caisson_model::cache::{CacheEntry, CacheQuery, Saved};
use caisson_model::id::Digest;
use caisson_model::lease::StepChange;
use caisson_model::outcome::{AnnotationLevel, EgressEntry, Enforcement, Fault, MissingProtection, Usage};
use caisson_model::policy::{Grant, Identity};
use caisson_model::step::StepSpec;
use caisson_proto::api::AgentApi;
use caisson_sandbox::spec::{GivenFile, Mount, Profile};
use indexmap::IndexMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;

use crate::actions::bench::{Bench, Later};
use crate::attempt::Attempt;
use crate::contexts::SCRIPTS;
use crate::environment;
use crate::hash_files::{self, Patterns};
use crate::host::HostRules;
use crate::kept::Blob;
use crate::lower::{self, Request, Watch};
use crate::output::Output;
use crate::post::{Post, PostWork};
use crate::program::{Exit, Halt, Input, Powers, Program, Sink};
use crate::retry;
use crate::secrets::StepSecrets;
use crate::step::ahead;
use crate::step::exit;
use crate::step::growing::{self, Growing};
use crate::step::handover;
use crate::step::launch::{self, Stdin, TimeLimit};
use crate::step::toolkit::Prepared;
use crate::stop::Stop;
use crate::trees::{Seedling, Tree};
use crate::view::{self, System};
use crate::workspace::StepFiles;

/// How much of a pipe is read at once.
const READ: usize = 64 << 10;

/// What a program finds beside the exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Services {
    None,
    /// The cache and artifact services of the language's toolkit.
    Toolkit,
}

/// One step between its start and its result.
pub(super) struct Course<'a, A: AgentApi> {
    /// The attempt.
    pub attempt: &'a mut Attempt<A>,
    /// The step.
    pub step: &'a StepSpec,
    /// Its output.
    pub output: Output<A>,
    /// Its secrets.
    pub secrets: StepSecrets,
    /// Its environment, settled.
    pub env: IndexMap<String, String>,
    /// Variables that the steps around it give, when it belongs to an action.
    pub around: IndexMap<String, String>,
    /// These with its own.
    pub own: IndexMap<String, String>,
    /// Its place in the job: its number, and below it those of the steps of actions.
    pub place: Vec<u32>,
    /// The files through which it speaks.
    pub files: StepFiles,
    /// When its time is over.
    pub limit: Option<TimeLimit>,
    /// When the time of the step around it is over.
    pub ceiling: Option<TimeLimit>,
    /// The file that takes a program's output as a blob.
    pub growing: Option<Growing>,
    /// What was written to `GITHUB_STEP_SUMMARY` so far.
    pub summary: String,
    /// The order under which it began.
    pub standing: Stop,
    /// What it cost so far.
    pub usage: Usage,
    /// What its sandboxes enforced.
    pub enforcement: Enforcement,
    /// What it tried to reach.
    pub egress: Vec<EgressEntry>,
    /// Outputs that an action set.
    pub outputs: Vec<(String, String)>,
}

impl<A: AgentApi> Course<'_, A> {
    /// Runs one program to its end.
    ///
    /// # Errors
    /// The [`Halt`] that ends the step.
    pub(super) async fn execute(&mut self, program: Program) -> Result<Exit, Halt> {
        self.carry_out(program, Services::None).await
    }

    /// The same for a program that speaks the protocols of the language's toolkit.
    ///
    /// # Errors
    /// The [`Halt`] that ends the step.
    pub(super) async fn execute_with_toolkit(&mut self, program: Program) -> Result<Exit, Halt> {
        self.carry_out(program, Services::Toolkit).await
    }

    async fn carry_out(&mut self, program: Program, services: Services) -> Result<Exit, Halt> {
        let grant = self.powers(program.powers);
        let mut env = match program.powers {
            Powers::Granted => self.env.clone(),
            Powers::None | Powers::Network | Powers::Root => self.plain_environment(),
        };
        env.extend(program.env);
        let granted = program.powers == Powers::Granted;
        let mut mounts = ahead::mounts(self.attempt, granted.then_some(&self.files));
        mounts.extend(program.mounts);
        let given = |(path, content): (String, _)| GivenFile { target: path.into(), content, mode: 0o555 };
        let request = Request {
            program: program.program.into(),
            args: program.args.into_iter().map(Into::into).collect(),
            env: env.into_iter().collect(),
            cwd: program.cwd.into(),
            ids: self.attempt.workspace.ids(),
            system: self.attempt.workspace.system(),
            mounts,
            counted: self.attempt.workspace.counted(),
            // What caisson itself runs over what others wrote: archives, lists, digests.
            profile: if program.powers == Powers::None { Profile::Strict } else { Profile::Default },
            files: program.files.into_iter().map(given).collect(),
            secrets: if granted { self.secrets.files() } else { Vec::new() },
            timeout: self.limit.map(|limit| limit.limit),
            watch: if granted { Watch::Told } else { Watch::Silent },
        };
        let (mut spec, passage) = lower::spec(&grant, &self.attempt.host, request);
        let desk = match services {
            Services::Toolkit => Prepared::new(self.attempt, &mut spec)?,
            Services::None => None,
        };
        if let Some(desk) = &desk {
            self.output.mask(desk.secret(), "the token of the toolkit's services").await;
        }
        let stdin = if matches!(program.stdin, Input::Nothing) { Stdin::Closed } else { Stdin::Pipe };
        // Only the step's own program: what else runs for a step has other powers.
        let prepared = if granted { self.attempt.ahead.prepared.take() } else { None };
        let mut launched = launch::launch(&self.attempt.launcher, prepared, spec, stdin).await?;
        if granted {
            ahead::prepare(self.attempt, self.step.index);
        }
        let mut sockets = std::mem::take(&mut launched.sockets);
        // Its listener comes behind the exit's and those of the doors.
        let behind = 1 + passage.doors.len();
        let desk = match desk {
            Some(desk) if behind < sockets.listeners.len() => Some(desk.open(sockets.listeners.remove(behind), self.attempt)),
            _ => None,
        };
        let desk = match desk.transpose() {
            Ok(desk) => desk,
            Err(halt) => {
                launched.running.kill();
                return Err(halt);
            }
        };
        let masker = exit::masker(if sockets.listeners.is_empty() { [].iter() } else { self.attempt.masks.iter() });
        let (remarks, step) = (self.attempt.reports.remarks(), self.step.index);
        let exit = exit::open(
            sockets,
            launched.running.onlooker(),
            passage,
            &grant.egress,
            &self.attempt.host.gateway,
            move |entry| remarks.tell(StepChange::Reached { step, entry }),
            masker,
        );
        let exit = match exit {
            Ok(exit) => exit,
            Err(halt) => {
                launched.running.kill();
                return Err(halt);
            }
        };
        let mut captured = Vec::new();
        let mut overflow = false;
        let mut lost: Option<std::io::Error> = None;
        let hold = self.attempt.hold;
        let source = self.attempt.spec.source;
        let api = std::sync::Arc::clone(&self.attempt.api);
        let killer = std::sync::Arc::clone(&launched.running);
        let over = tokio::sync::Notify::new();
        let feed = async {
            let Some(input) = launched.input.take() else { return Ok(()) };
            let feeding = async {
                match program.stdin {
                    Input::Nothing => Ok(()),
                    Input::Bytes(bytes) => write(input, &bytes).await,
                    Input::Source => match source {
                        Some(source) => handover::feed_blob(&*api, source, "the source tree", input).await,
                        None => Ok(()),
                    },
                    Input::Blob(digest, what) => handover::feed_blob(&*api, digest, &what, input).await,
                }
            };
            let fed = tokio::select! {
                fed = feeding => fed,
                // Nobody reads any more.
                () = over.notified() => return Ok(()),
            };
            if fed.is_err() {
                tracing::warn!(attempt = %hold.attempt, "a program's input broke off");
                killer.kill();
            }
            fed
        };
        let running = std::sync::Arc::clone(&launched.running);
        let orders = self.attempt.orders.clone();
        let supervise = async {
            let ended = launch::supervise(running, orders, self.standing, self.limit).await;
            over.notify_one();
            ended
        };
        let (output, growing) = (&mut self.output, &mut self.growing);
        let pipe = &mut launched.output;
        let pump = async {
            let mut buffer = vec![0; READ];
            loop {
                match pipe.read(&mut buffer).await {
                    Ok(0) => break,
                    Ok(read) => match program.sink {
                        Sink::Log => output.feed(&buffer[..read]).await,
                        // What is beyond is read and dropped, so that the program is not held up by a full pipe.
                        Sink::Capture(most) => {
                            overflow |= captured.len() + read > most;
                            captured.extend_from_slice(&buffer[..read.min(most.saturating_sub(captured.len()))]);
                        }
                        Sink::Collect(most) => {
                            let Some(growing) = growing.as_mut() else { continue };
                            overflow |= growing.bytes() + read as u64 > most;
                            // Into the page cache; a disk that is full shows in the next line.
                            if !overflow && let Err(error) = growing.take(&buffer[..read]) {
                                lost.get_or_insert(error);
                            }
                        }
                    },
                    Err(error) => {
                        tracing::error!(%error, "a step's output could not be read");
                        break;
                    }
                }
            }
        };
        let (fed, ended, ()) = tokio::join!(feed, supervise, pump);
        if let Some(desk) = desk {
            desk.close().await;
        }
        if let Some(exit) = exit {
            // Once more, with what the program itself asked to be masked meanwhile.
            let mut masker = exit::masker(self.attempt.masks.iter().chain(&self.output.said().masks));
            self.egress.extend(exit.close().await.into_iter().map(|entry| exit::mask(&mut masker, entry)));
        }
        self.output.end_stream().await;
        let ended = ended?;
        self.account(&ended.outcome);
        let code = match (launch::verdict(&ended), fed) {
            // A source that broke off is the reason for the kill.
            (_, Err(halt)) if ended.interruption.is_none() => return Err(halt),
            (verdict, _) => verdict?,
        };
        if let Some(error) = lost {
            return Err(Halt::faulted(format!("what a program printed could not be kept: {error}"), Fault::Environment));
        }
        if overflow {
            return Err(Halt::invalid("there is more than can be right: the files are too many or too large"));
        }
        Ok(Exit { code, output: captured })
    }

    /// The digest that `hashFiles` answers for these patterns.
    ///
    /// # Errors
    /// The halt, when a program was cut short; the inner error is the answer of the function.
    pub(super) async fn hash_files(&mut self, arguments: &[String]) -> Result<Result<String, String>, Halt> {
        let workspace = self.attempt.contexts.workspace.clone();
        let patterns = match Patterns::of(arguments, &workspace) {
            Ok(patterns) => patterns,
            Err(reason) => return Ok(Err(reason)),
        };
        let listed = self.execute(hash_files::list(&workspace)).await?;
        if listed.code != 0 {
            return Ok(Err("the workspace could not be listed".to_owned()));
        }
        let paths = hash_files::select(&listed.output, &patterns);
        if paths.is_empty() {
            return Ok(Ok(String::new()));
        }
        let digested = self.execute(hash_files::digest(&paths, &workspace)).await?;
        if digested.code != 0 {
            return Ok(Err("a file could not be read".to_owned()));
        }
        Ok(hash_files::combine(&digested.output, paths.len()))
    }

    /// Files for another step to speak through.
    pub(super) fn fresh_files(&mut self) -> Result<StepFiles, Halt> {
        ahead::files(self.attempt)
            .map_err(|error| Halt::faulted(format!("the files of the step could not be made: {error}"), Fault::Environment))
    }

    /// Shows a path of the host read-only, at its own place, to the rest of the job.
    pub(super) fn show_path(&mut self, path: PathBuf) {
        if !view::already_visible(&path) && !self.attempt.shown.contains(&path) {
            self.attempt.shown.push(path);
        }
    }

    fn powers(&self, powers: Powers) -> Grant {
        let granted = &self.step.grant;
        match powers {
            Powers::Granted => granted.clone(),
            Powers::Network => Grant { egress: granted.egress.clone(), limits: granted.limits.clone(), ..Grant::default() },
            Powers::Root => Grant { limits: granted.limits.clone(), identity: Identity::Root, ..Grant::default() },
            Powers::None => Grant { limits: granted.limits.clone(), identity: Identity::User, ..Grant::default() },
        }
    }

    /// What caisson's own programs get: nothing that a step could have set.
    fn plain_environment(&self) -> IndexMap<String, String> {
        [("PATH", view::PATH), ("HOME", view::HOME), ("LANG", "C.UTF-8"), ("USER", view::USER)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into_iter()
            .collect()
    }

    fn account(&mut self, outcome: &caisson_sandbox::outcome::Outcome) {
        let usage = &mut self.usage;
        usage.wall += outcome.usage.wall;
        usage.user += outcome.usage.user;
        usage.system += outcome.usage.system;
        usage.build += outcome.timing.build;
        usage.teardown += outcome.timing.teardown;
        let most = |old: Option<u64>, new: u64| old.max((new > 0).then_some(new));
        usage.peak_memory_bytes = most(usage.peak_memory_bytes, outcome.usage.peak_memory);
        let pids = most(usage.peak_pids.map(u64::from), outcome.usage.peak_pids);
        usage.read_bytes += outcome.usage.read_bytes;
        usage.written_bytes += outcome.usage.written_bytes;
        usage.peak_disk_bytes = most(usage.peak_disk_bytes, outcome.usage.peak_disk);
        usage.peak_inodes = most(usage.peak_inodes, outcome.usage.peak_inodes);
        usage.peak_pids = pids.map(|pids| u32::try_from(pids).unwrap_or(u32::MAX));
        // What one of several sandboxes lacked, the step lacked.
        for missing in &outcome.missing {
            let name = missing.protection.name();
            if self.enforcement.missing.iter().all(|known| known.protection != name) {
                let reason = missing.reason.clone();
                self.enforcement.missing.push(MissingProtection { protection: name.to_owned(), reason });
            }
        }
        let lacking: HashSet<&str> = self.enforcement.missing.iter().map(|missing| missing.protection.as_str()).collect();
        let mut enforced = std::mem::take(&mut self.enforcement.enforced);
        for protection in &outcome.enforced {
            let name = protection.name();
            if enforced.iter().all(|known| known != name) {
                enforced.push(name.to_owned());
            }
        }
        enforced.retain(|name| !lacking.contains(name.as_str()));
        self.enforcement.enforced = enforced;
    }
}

/// Fills the system directories of a job that has its own.
///
/// # Errors
/// The [`Halt`] with which the job ends.
pub(super) async fn prepare<A: AgentApi>(attempt: &mut Attempt<A>) -> Result<(), Halt> {
    if let Some(fill) = attempt.workspace.fill(&attempt.host) {
        // The view's own `/etc` is what is copied.
        alone(attempt, fill, System::ReadOnly).await?;
    }
    Ok(())
}

/// Runs a program before there is any step.
async fn alone<A: AgentApi>(attempt: &Attempt<A>, program: Program, system: System) -> Result<(), Halt> {
    let identity = if program.powers == Powers::Root { Identity::Root } else { Identity::User };
    let mut mounts: Vec<Mount> =
        program.files.into_iter().map(|(path, content)| Mount::File { target: path.into(), content, mode: 0o644 }).collect();
    mounts.extend(attempt.workspace.mounts());
    mounts.extend(program.mounts);
    let request = Request {
        program: program.program.into(),
        args: program.args.into_iter().map(Into::into).collect(),
        env: vec![("PATH".to_owned(), view::PATH.to_owned())],
        cwd: program.cwd.into(),
        ids: attempt.workspace.ids(),
        system,
        mounts,
        counted: attempt.workspace.counted(),
        profile: Profile::Strict,
        files: Vec::new(),
        secrets: Vec::new(),
        timeout: None,
        watch: Watch::Silent,
    };
    let (spec, _) = lower::spec(&Grant { identity, ..Grant::default() }, &attempt.host, request);
    let mut launched = launch::launch(&attempt.launcher, None, spec, Stdin::Closed).await?;
    let supervise = launch::supervise(std::sync::Arc::clone(&launched.running), attempt.orders.clone(), Stop::Run, None);
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    let pump = async {
        // The pipe ends with the program; what a bounded message does not hold is read all the same.
        while let Ok(read @ 1..) = launched.output.read(&mut buffer).await {
            said.extend_from_slice(&buffer[..read.min(4096_usize.saturating_sub(said.len()))]);
        }
    };
    let (ended, ()) = tokio::join!(supervise, pump);
    match launch::verdict(&ended?)? {
        0 => Ok(()),
        code => {
            let said = String::from_utf8_lossy(&said);
            Err(Halt::faulted(format!("the workspace could not be made (exit code {code}): {}", said.trim()), Fault::Environment))
        }
    }
}

async fn write(mut input: pipe::Sender, bytes: &[u8]) -> Result<(), Halt> {
    match input.write_all(bytes).await {
        // A program need not read its input to the end; its exit code says whether that was right.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Halt::faulted(format!("a program's input could not be written: {error}"), Fault::Environment))
        }
        _ => Ok(()),
    }
}

impl<A: AgentApi> Bench for Course<'_, A> {
    async fn run(&mut self, program: Program) -> Result<Exit, Halt> {
        self.execute(program).await
    }

    async fn say(&mut self, line: &str) {
        self.output.say(line).await;
    }

    fn show(&mut self, path: PathBuf) {
        self.show_path(path);
    }

    fn output(&mut self, name: &str, value: &str) {
        self.outputs.push((name.to_owned(), value.to_owned()));
    }

    fn export(&mut self, name: &str, value: &str) {
        if environment::valid_name(name) {
            self.attempt.inherited.env.insert(name.to_owned(), value.to_owned());
        }
    }

    fn add_path(&mut self, directory: &str) {
        self.attempt.inherited.path.push(directory.to_owned());
    }

    fn host(&self) -> &HostRules {
        &self.attempt.host
    }

    fn github(&self, key: &str) -> String {
        self.attempt.contexts.github(key)
    }

    fn workspace(&self) -> &str {
        &self.attempt.contexts.workspace
    }

    fn has_source(&self) -> bool {
        self.attempt.spec.source.is_some()
    }

    fn has_network(&self) -> bool {
        !lower::passage(&self.step.grant.egress, &self.attempt.host, Watch::Silent).env.is_empty()
    }

    fn clone_credential(&self) -> Option<Vec<u8>> {
        self.secrets.clone_credential().map(<[u8]>::to_vec)
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str)
    }

    async fn remark(&mut self, level: AnnotationLevel, message: &str) {
        self.output.remark(level, message).await;
    }

    async fn hash(&mut self, patterns: &[String]) -> Result<Result<String, String>, Halt> {
        self.hash_files(patterns).await
    }

    fn later(&mut self, condition: &str, work: Later) {
        let post = Post {
            step: self.step.clone(),
            name: format!("Post {}", self.step.label()),
            condition: condition.to_owned(),
            env: self.env.clone(),
            scope: self.attempt.contexts.inside(),
            work: PostWork::BuiltIn(work),
        };
        self.attempt.posts.push(post);
    }

    async fn collect(&mut self, program: Program, most: u64) -> Result<Option<Blob>, Halt> {
        self.collect_blob(program, most).await
    }

    async fn begin_tree(&mut self) -> Result<Seedling, Halt> {
        self.seedling().await
    }

    async fn finish_tree(&mut self, seedling: Seedling, blob: Blob) -> Result<Tree, Halt> {
        self.name_tree(seedling, blob).await
    }

    async fn tree(&mut self, digest: Digest, what: &str) -> Result<Tree, Halt> {
        self.tree_of(digest, what).await
    }

    fn may_layer(&self, target: &str) -> bool {
        self.has_room_for_layer(target)
    }

    async fn layer(&mut self, tree: &Tree, below: &str, target: &str) -> Result<(), Halt> {
        self.add_layer(tree, below, target).await
    }

    async fn keep_artifact(&mut self, name: &str, blob: Blob, files: u32, clash: Clash) -> Result<Kept, Halt> {
        let hold = self.attempt.hold;
        let (digest, bytes) = (blob.digest, blob.bytes);
        let artifact = Artifact { name: name.to_owned(), job: hold.attempt.job, digest, bytes, files, at: crate::clock::now() };
        let kept = retry::until_answered(&self.attempt.orders, || self.attempt.api.keep_artifact(hold, artifact.clone(), clash)).await;
        kept.map_err(|error| growing::refused("the artifact could not be kept", &error))
    }

    async fn artifacts(&mut self) -> Result<Vec<Artifact>, Halt> {
        let listed = retry::until_answered(&self.attempt.orders, || self.attempt.api.list_artifacts(self.attempt.hold)).await;
        listed.map_err(|error| growing::refused("the artifacts could not be listed", &error))
    }

    async fn find_cache(&mut self, query: CacheQuery) -> Result<Option<CacheEntry>, Halt> {
        let found = retry::until_answered(&self.attempt.orders, || self.attempt.api.find_cache(self.attempt.hold, query.clone())).await;
        found.map_err(|error| growing::refused("the cache could not be asked", &error))
    }

    async fn save_cache(&mut self, key: &str, version: &str, blob: Blob) -> Result<Saved, Halt> {
        let (key, version) = (key.to_owned(), version.to_owned());
        let entry = CacheEntry { key, version, digest: blob.digest, bytes: blob.bytes, at: crate::clock::now() };
        let saved = retry::until_answered(&self.attempt.orders, || self.attempt.api.save_cache(self.attempt.hold, entry.clone())).await;
        saved.map_err(|error| growing::refused("the cache could not be saved", &error))
    }
}

/// Where a step's script lies inside.
pub(super) fn script_path(name: &str) -> String {
    format!("{SCRIPTS}/{name}")
}
