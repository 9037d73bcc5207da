//! One mode of the launcher: both kinds of step, every attack, and the controls.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use caisson_agent::host::HostRules;
use caisson_agent::id_claim::IdClaim;
use caisson_agent::lower::{self, Request, Watch};
use caisson_agent::view::{self, System};
use caisson_model::policy::{self, Grant};
use caisson_sandbox::error::{LaunchError, Stage, StartError, WaitError};
use caisson_sandbox::host::Mode;
use caisson_sandbox::launcher::{Launcher, Options, Running, Stdio};
use caisson_sandbox::outcome::Outcome;
use caisson_sandbox::protection::Protection;
use caisson_sandbox::spec::{Access, HostOwner, Ids, Mount, Profile, SeenAs, Spec, Upper};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use crate::attack::{After, Alone, Attack, Family};
use crate::catalogue;
use crate::control::{self, Shown};
use crate::hostile;
use crate::needs::Need;
use crate::pipe::Pipe;
use crate::planted::Planted;
use crate::scene::{OVERLAID, PROGRAM, SCENE, SHOWN, Scene};
use crate::verdict::Verdict;

/// Longest that one sandbox of the suite may live.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long after the end something may still come out.
const AFTERWARDS: Duration = Duration::from_secs(3);

/// What a course found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The mode: `root`, `subordinate` or `single`.
    pub mode: String,
    /// The mode in words.
    pub described: String,
    /// What each kind of step had.
    pub settings: Vec<Setting>,
    /// One per attack and kind of step.
    pub attacks: Vec<Tried>,
    /// One per attack, when controls were asked for.
    pub controls: Vec<Shown>,
}

/// One kind of step in one mode.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setting {
    /// The mode.
    pub mode: String,
    /// `user`, `root`, `tool` or `exit`.
    pub step: String,
    /// What was in force.
    pub enforced: Vec<String>,
    /// What was not, and why.
    pub missing: Vec<String>,
}

/// One attack in one setting.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tried {
    /// Its name.
    pub id: String,
    /// Its family.
    pub family: Family,
    /// What it tries.
    pub tries: String,
    /// The mode.
    pub mode: String,
    /// `user`, `root`, `tool` or `exit`.
    pub step: String,
    /// What came of it.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// The suite could not be run in this mode.
#[derive(Debug, thiserror::Error)]
pub enum CourseError {
    /// What the attacks aim at could not be made.
    #[error("plant what the attacks aim at")]
    Plant(#[source] io::Error),
    /// No launcher.
    #[error("start the launcher of sandboxes")]
    Start(#[from] StartError),
    /// No sandbox.
    #[error("build the sandbox that is attacked")]
    Launch(#[source] LaunchError),
    /// Its end is not known.
    #[error("wait for the sandbox that is attacked")]
    Wait(#[from] WaitError),
    /// A pipe or file of the suite.
    #[error("watch the sandbox that is attacked")]
    Watch(#[source] io::Error),
}

/// Whether controls are made as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controls {
    /// Only attacks.
    No,
    /// Each attack is also made where it must succeed.
    Yes,
}

/// Makes every attack as an ordinary step and as a namespace root, in the mode that this process can have. Only while it has
/// one thread. Blocks for some seconds. `wanted` picks attacks by name.
///
/// # Errors
/// [`CourseError`]: the suite itself could not be run; what attacks do is in the report.
pub fn run(host: &HostRules, controls: Controls, wanted: impl Fn(&Attack) -> bool) -> Result<Report, CourseError> {
    let mut planted = Planted::new().map_err(CourseError::Plant)?;
    let launcher = Launcher::start(&Options { warm: 0, ..Options::default() })?;
    let mode = launcher.mode();
    let attacks: Vec<&Attack> = catalogue::all().filter(|attack| wanted(attack)).collect();
    let mut course = Course { launcher, host: host.clone(), word: word(mode).to_owned(), claims: Vec::new() };
    // Both jobs live at the same time, as two jobs of a host do.
    let mut other = course.other_job(&mut planted)?;
    let mut report =
        Report { mode: course.word.clone(), described: mode.to_string(), settings: Vec::new(), attacks: Vec::new(), controls: Vec::new() };
    let ids = course.ids()?;
    for step in Step::ALL {
        course.setting(step, ids, &planted, &attacks, &mut report)?;
    }
    if controls == Controls::Yes {
        report.controls = attacks.iter().map(|attack| control::make(attack, &planted.scene)).collect();
    }
    if let Some((running, _)) = other.take() {
        running.kill();
        running.wait()?;
    }
    Ok(report)
}

/// A mode as one word.
pub fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::Root => "root",
        Mode::Subordinate { .. } => "subordinate",
        Mode::Single => "single",
    }
}

/// What kind of sandbox the attacker is in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// An ordinary step.
    User,
    /// A step that is root of its namespace.
    Root,
    /// What caisson itself runs over what others wrote, with the stricter list of calls.
    Tool,
    /// A step that may reach a host by name, and so has the agent's listeners in its network.
    Exit,
}

impl Step {
    const ALL: [Step; 4] = [Step::User, Step::Root, Step::Tool, Step::Exit];

    const fn word(self) -> &'static str {
        match self {
            Step::User => "user",
            Step::Root => "root",
            Step::Tool => "tool",
            Step::Exit => "exit",
        }
    }

    /// Whether this kind is a variety of another, in which limits and ends are no different: attacks on those, each of which needs a
    /// sandbox of its own, are not made again.
    const fn is_variety(self) -> bool {
        matches!(self, Step::Tool | Step::Exit)
    }
}

struct Course {
    launcher: Launcher,
    host: HostRules,
    word: String,
    claims: Vec<IdClaim>,
}

/// A sandbox that has run.
struct Ran {
    outcome: Outcome,
    output: String,
    late: String,
}

impl Course {
    fn ids(&mut self) -> Result<Ids, CourseError> {
        if self.launcher.mode() != Mode::Root {
            return Ok(Ids::Default);
        }
        let claim = IdClaim::take(&self.host.id_claims).map_err(CourseError::Watch)?;
        let range = claim.range();
        self.claims.push(claim);
        Ok(Ids::Range(range))
    }

    /// A process of another job, which the attacker should not see.
    fn other_job(&mut self, planted: &mut Planted) -> Result<Option<(Running, OwnedFd)>, CourseError> {
        let marker = format!("caisson-other-{}", planted.scene.word);
        let ids = self.ids()?;
        let mut spec = self.spec(Step::User, ids, &planted.scene, vec!["idle".into(), marker.clone()]);
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(watch)?;
        let running = self.launch(&mut spec, || {
            let null = File::options().read(true).write(true).open("/dev/null")?;
            Ok(Stdio { stdin: read.try_clone()?, stdout: null.try_clone()?.into(), stderr: null.into() })
        })?;
        planted.scene.other = Some(marker);
        Ok(Some((running, write)))
    }

    fn setting(&self, step: Step, ids: Ids, planted: &Planted, attacks: &[&Attack], report: &mut Report) -> Result<(), CourseError> {
        let scene = planted.scene.inside();
        let name = step.word();
        let shared: Vec<&&Attack> = attacks.iter().filter(|attack| attack.alone.is_none()).collect();
        let mut words = vec!["batch".to_owned(), SCENE.to_owned()];
        words.extend(shared.iter().map(|attack| attack.id.to_owned()));
        let ran = self.run(&mut self.spec(step, ids, &scene, words))?;
        let (heard, rest) = hostile::heard(&ran.output);
        let list = |items: &[caisson_sandbox::protection::Missing]| items.iter().map(ToString::to_string).collect();
        report.settings.push(Setting {
            mode: self.word.clone(),
            step: name.to_owned(),
            enforced: ran.outcome.enforced.iter().map(ToString::to_string).collect(),
            missing: list(&ran.outcome.missing),
        });
        let unchanged = planted.unchanged();
        for attack in attacks.iter().filter(|attack| !step.is_variety() || attack.alone.is_none()) {
            let verdict = match &attack.alone {
                Some(alone) => self.alone(attack, alone, step, ids, &scene)?,
                None => {
                    let said = heard.iter().find(|(id, _)| id == attack.id).map(|(_, verdict)| verdict.clone());
                    let silent = || {
                        let last = rest.lines().last().unwrap_or_default();
                        Verdict::unknown(format!("nothing was heard of it; the sandbox ended with {} {last}", ran.outcome.code()))
                    };
                    said.unwrap_or_else(silent)
                }
            };
            let verdict = match (&unchanged, attack.id) {
                // Whatever it said: the host is the judge.
                (Err(change), "files.shown-write") => Verdict::succeeded(change),
                _ => verdict,
            };
            report.attacks.push(Tried {
                id: attack.id.to_owned(),
                family: attack.family(),
                tries: attack.tries.to_owned(),
                mode: self.word.clone(),
                step: name.to_owned(),
                verdict,
            });
        }
        Ok(())
    }

    fn alone(&self, attack: &Attack, alone: &Alone, step: Step, ids: Ids, scene: &Scene) -> Result<Verdict, CourseError> {
        let mut spec = self.spec(step, ids, scene, vec!["one".into(), SCENE.into(), attack.id.into()]);
        (alone.prepare)(&mut spec, scene);
        let ran = self.run(&mut spec)?;
        for need in attack.needs {
            let protection = match need {
                Need::Memory => Protection::MemoryLimit,
                Need::Pids => Protection::PidsLimit,
                Need::Cpu => Protection::CpuLimit,
                _ => continue,
            };
            if let Some(missing) = ran.outcome.missing.iter().find(|missing| missing.protection == protection) {
                return Ok(Verdict::skipped(format!("not enforced here: {missing}")));
            }
        }
        let (heard, output) = hostile::heard(&ran.output);
        let usage = &ran.outcome.usage;
        let after = After {
            code: ran.outcome.code(),
            cause: ran.outcome.cause.clone(),
            said: heard.into_iter().find(|(id, _)| id == attack.id).map(|(_, verdict)| verdict),
            output,
            late: ran.late,
            processor: (usage.user + usage.system).as_secs_f64(),
            wall: usage.wall.as_secs_f64(),
        };
        Ok((alone.judge)(scene, &after))
    }

    /// The spec that a step gets, with the attacker as its program.
    fn spec(&self, step: Step, ids: Ids, scene: &Scene, words: Vec<String>) -> Spec {
        let identity = if step == Step::Root { policy::Identity::Root } else { policy::Identity::User };
        let mut grant = Grant { identity, ..Grant::default() };
        if step == Step::Exit {
            grant.egress.allow.extend("caisson.invalid:443".parse::<policy::Destination>());
        }
        let system = match (step, self.launcher.mode()) {
            (Step::Root, Mode::Root) => System::Overlay(Upper::Memory { size: 1 << 30, inodes: 100_000 }),
            _ => System::ReadOnly,
        };
        let outside = scene.directory.join("shown");
        let metadata = std::fs::metadata(&outside).ok();
        let owner = metadata.map(|metadata| {
            use std::os::unix::fs::MetadataExt;
            HostOwner { uid: metadata.uid(), gid: metadata.gid(), seen_as: SeenAs::Step }
        });
        let told = serde_json::to_vec(&scene.inside()).unwrap_or_default();
        let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe"));
        let request = Request {
            program: PROGRAM.into(),
            args: words.into_iter().map(Into::into).collect(),
            env: vec![("PATH".into(), view::PATH.into()), ("HOME".into(), view::HOME.into())],
            cwd: view::HOME.into(),
            ids,
            system,
            mounts: vec![
                Mount::Tmpfs { target: view::HOME.into(), size: 1 << 30, inodes: 100_000, mode: 0o1777 },
                Mount::Directory { target: "/caisson".into(), mode: 0o755 },
                Mount::File { target: SCENE.into(), content: told, mode: 0o444 },
                Mount::Bind { source: program, target: PROGRAM.into(), access: Access::ReadOnly, owner: None },
                Mount::Bind { source: outside.clone(), target: SHOWN.into(), access: Access::ReadOnly, owner },
                Mount::Overlay {
                    lower: vec![outside],
                    upper: Upper::Memory { size: 64 << 20, inodes: 1000 },
                    target: OVERLAID.into(),
                    owner,
                },
            ],
            secrets: Vec::new(),
            timeout: None,
            counted: Vec::new(),
            profile: if step == Step::Tool { Profile::Strict } else { Profile::Default },
            files: Vec::new(),
            watch: if step == Step::Exit { Watch::Told } else { Watch::Silent },
        };
        lower::spec(&grant, &self.host, request).0
    }

    /// Launches, accepting by name whatever this host cannot enforce: the report tells it.
    fn launch(&self, spec: &mut Spec, stdio: impl Fn() -> io::Result<Stdio>) -> Result<Running, CourseError> {
        match self.launcher.launch(spec, stdio().map_err(CourseError::Watch)?) {
            Err(LaunchError::Refused { missing }) => {
                let names: BTreeSet<Protection> = missing.iter().map(|missing| missing.protection).collect();
                spec.allow_missing.extend(names);
                self.launch(spec, stdio)
            }
            // An old kernel maps no owners on this file system: what is shown is open to everybody anyway.
            Err(LaunchError::Failed(failure)) if failure.stage == Stage::Owner => {
                for mount in &mut spec.mounts {
                    if let Mount::Bind { owner, .. } | Mount::Overlay { owner, .. } = mount {
                        *owner = None;
                    }
                }
                self.launch(spec, stdio)
            }
            other => other.map_err(CourseError::Launch),
        }
    }

    fn run(&self, spec: &mut Spec) -> Result<Ran, CourseError> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(watch)?;
        let (input, mut to_input) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map(|(read, write)| (read, File::from(write))).map_err(watch)?;
        let running =
            self.launch(spec, || Ok(Stdio { stdin: input.try_clone()?, stdout: write.try_clone()?, stderr: write.try_clone()? }))?;
        drop((write, input));
        let mut pipe = Pipe::new(read).map_err(CourseError::Watch)?;
        let deadline = Instant::now() + PATIENCE;
        let outcome = loop {
            pipe.wait(Some(running.as_fd()), Duration::from_secs(1)).map_err(CourseError::Watch)?;
            if let Some(outcome) = running.try_wait()? {
                break outcome;
            }
            if Instant::now() > deadline {
                running.kill();
                break running.wait()?;
            }
        };
        pipe.drain().map_err(CourseError::Watch)?;
        let output = pipe.take();
        // Nobody may be left to read it.
        let _ = to_input.write_all(b"go\n");
        drop(to_input);
        let late = pipe.rest(AFTERWARDS).map_err(CourseError::Watch)?;
        Ok(Ran { outcome, output, late })
    }
}

fn watch(errno: Errno) -> CourseError {
    CourseError::Watch(errno.into())
}
