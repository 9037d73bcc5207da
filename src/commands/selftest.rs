//! `caisson selftest`: the hostile suite on this machine, in every mode that can be reached from here.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use caisson_model::outcome::Fault;
use caisson_sandbox::host::{Host, Mode};
use caisson_sandbox::launcher::Options;
use caisson_selftest::catalogue;
use caisson_selftest::control::{Finding, Shown};
use caisson_selftest::course::{self, Controls, CourseError, Report, Tried};
use caisson_selftest::planted::CANARY;
use caisson_selftest::verdict::Result as Came;
use console::style;
use nix::unistd::{Uid, User};
use serde_json::json;

use crate::cli::{self, SelftestMode};
use crate::commands::surroundings;
use crate::config::{Config, Flags};
use crate::machine;
use crate::report::{self, Exit, Explained, Failure};

/// The suite could not be run.
#[derive(Debug, thiserror::Error)]
enum SelftestError {
    /// No attack has such a name.
    #[error("no attack is named '{0}', or begins so")]
    NoSuchAttack(String),
    /// The machine could not be looked at.
    #[error("this host cannot be probed")]
    Probe(#[source] caisson_sandbox::error::StartError),
    /// The suite itself failed.
    #[error("the suite could not be run")]
    Course(#[from] CourseError),
    /// No mode could be tried.
    #[error("the suite could be run in no mode: {0}")]
    Nowhere(String),
}

impl Explained for SelftestError {
    fn fault(&self) -> Fault {
        match self {
            SelftestError::NoSuchAttack(_) => Fault::User,
            _ => Fault::Environment,
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            SelftestError::NoSuchAttack(_) => {
                let families: Vec<&str> = caisson_selftest::attack::Family::ALL.iter().map(|family| family.word()).collect();
                Some(format!("families are {}; `caisson selftest` lists the names", families.join(", ")))
            }
            _ => Some("`caisson doctor` shows what this machine lacks".to_owned()),
        }
    }
}

/// Runs it and says what came of it.
pub(crate) fn run(arguments: cli::Selftest) -> Result<Exit, Failure> {
    for name in &arguments.attacks {
        if !catalogue::all().any(|attack| attack.id.starts_with(name.as_str())) {
            return Err(SelftestError::NoSuchAttack(name.clone()).into());
        }
    }
    if arguments.here { here(&arguments) } else { everywhere(&arguments) }
}

/// In the mode of this process: the report as JSON, for the process that asked.
fn here(arguments: &cli::Selftest) -> Result<Exit, Failure> {
    let (environment, root) = surroundings();
    let config = Config::settle(&environment, root, Flags { machine: arguments.machine.clone(), ..Flags::default() })?;
    let host = machine::rules(&config, &environment);
    let controls = if arguments.verify_attacks { Controls::Yes } else { Controls::No };
    let wanted = |id: &str| arguments.attacks.is_empty() || arguments.attacks.iter().any(|name| id.starts_with(name.as_str()));
    let report = course::run(&host, controls, |attack| wanted(attack.id)).map_err(SelftestError::Course)?;
    Ok(report::print(&format!("{}\n", json!(report))))
}

/// A mode, and how it is reached from here.
struct Way {
    mode: &'static str,
    /// As whom; `Err` when it cannot be reached.
    user: Result<Option<Ordinary>, String>,
}

/// An ordinary user to become.
#[derive(Clone, Copy)]
struct Ordinary {
    uid: u32,
    gid: u32,
}

fn everywhere(arguments: &cli::Selftest) -> Result<Exit, Failure> {
    let host = Host::probe(Options::default().ids).map_err(SelftestError::Probe)?;
    let asked = |mode: SelftestMode| arguments.modes.is_empty() || arguments.modes.contains(&mode);
    let ways = ways(host.mode).into_iter().filter(|(mode, _)| asked(*mode)).map(|(_, way)| way);
    let mut reports = Vec::new();
    let mut skipped = Vec::new();
    for way in ways {
        match way.user {
            Err(reason) => skipped.push((way.mode, reason)),
            Ok(user) => match one(arguments, user) {
                Ok(report) if report.mode == way.mode => reports.push(report),
                Ok(report) => skipped.push((way.mode, format!("a launcher started so works as {}", report.described))),
                Err(reason) => skipped.push((way.mode, reason)),
            },
        }
    }
    if reports.is_empty() {
        let reasons: Vec<String> = skipped.iter().map(|(mode, reason)| format!("{mode}: {reason}")).collect();
        return Err(SelftestError::Nowhere(reasons.join("; ")).into());
    }
    let found = Found::of(&host, reports, skipped);
    let printed = report::print(&if arguments.json { format!("{:#}\n", found.json()) } else { found.text() });
    let exit = if found.ok() { Exit::PASSED } else { Exit::FAILED };
    Ok(if printed == Exit::PASSED { exit } else { printed })
}

/// Each mode and how to get there.
fn ways(own: Mode) -> Vec<(SelftestMode, Way)> {
    let is_root = Uid::effective().is_root() && own == Mode::Root;
    let with = |mode, user| Way { mode, user };
    let ordinary = |reason: &str| Err(reason.to_owned());
    let root = if is_root { Ok(None) } else { ordinary("run as the host's root") };
    let (subordinate, single) = match own {
        Mode::Root => (
            somebody_with_ids().ok_or_else(|| {
                "no ordinary user of this host has subordinate ids, or newuidmap is not installed: see /etc/subuid".to_owned()
            }),
            somebody_without_ids().ok_or_else(|| "no unused user id was found".to_owned()),
        ),
        Mode::Subordinate { .. } => (Ok(None), ordinary("this user has subordinate ids; run as one who has none, or as root")),
        Mode::Single => (ordinary("this user has no subordinate ids: see /etc/subuid"), Ok(None)),
    };
    vec![
        (SelftestMode::Root, with("root", root)),
        (SelftestMode::Subordinate, with("subordinate", subordinate)),
        (SelftestMode::Single, with("single", single)),
    ]
}

/// The first user of /etc/subuid who is not root.
fn somebody_with_ids() -> Option<Option<Ordinary>> {
    let tool = |name: &str| ["/usr/bin", "/bin"].iter().any(|directory| Path::new(directory).join(name).exists());
    if !tool("newuidmap") || !tool("newgidmap") {
        return None;
    }
    let groups = std::fs::read_to_string("/etc/subgid").unwrap_or_default();
    let text = std::fs::read_to_string("/etc/subuid").ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let count: u32 = fields.nth(1)?.trim().parse().ok()?;
        let user = User::from_name(name).ok().flatten().or_else(|| User::from_uid(Uid::from_raw(name.parse().ok()?)).ok().flatten())?;
        let grouped = groups.lines().any(|line| line.split(':').next().is_some_and(|owner| owner == name));
        (count >= 1001 && grouped && !user.uid.is_root()).then_some(Some(Ordinary { uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
    })
}

/// An id that no user has, and to which nobody gave others.
fn somebody_without_ids() -> Option<Option<Ordinary>> {
    let given = std::fs::read_to_string("/etc/subuid").unwrap_or_default();
    let free = |id: &u32| {
        let text = id.to_string();
        User::from_uid(Uid::from_raw(*id)).is_ok_and(|user| user.is_none())
            && !given.lines().any(|line| line.split(':').next() == Some(&text))
    };
    (59_000..60_000).find(free).map(|id| Some(Ordinary { uid: id, gid: id }))
}

/// One mode, in a process of its own: becoming somebody else is for good, and so is what an attack may do to its caller.
fn one(arguments: &cli::Selftest, user: Option<Ordinary>) -> Result<Report, String> {
    let program = Program::for_user(user).map_err(|error| format!("the program cannot be shown to that user: {error}"))?;
    let mut command = Command::new(&program.path);
    command.arg("selftest").arg("--here").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).env(CANARY, canary());
    if arguments.verify_attacks {
        command.arg("--verify-attacks");
    }
    for name in &arguments.attacks {
        command.args(["--attack", name]);
    }
    let machine = &arguments.machine;
    if let Some(memory) = machine.memory {
        command.arg("--memory").arg(memory.0.to_string());
    }
    if let Some(pids) = machine.pids {
        command.arg("--pids").arg(pids.to_string());
    }
    if let Some(user) = user {
        // Nothing of root's own configuration and places.
        for name in ["HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "CAISSON_CONFIG", "TMPDIR"] {
            command.env_remove(name);
        }
        command.env("HOME", &program.directory).uid(user.uid).gid(user.gid).current_dir("/");
    }
    let output = command.output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().last().and_then(|line| serde_json::from_str(line).ok()).ok_or_else(|| {
        let end = output.status.code().map_or_else(|| "it was killed".to_owned(), |code| format!("exit code {code}"));
        format!("the suite gave no report ({end})")
    })
}

/// Differs from run to run, so that it is found nowhere but where it leaked from.
fn canary() -> String {
    let mut bytes = [0; 16];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| io::Read::read_exact(&mut file, &mut bytes));
    let word: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    if read.is_ok() { word } else { std::process::id().to_string() }
}

/// This program where the user who is to run it can reach it.
struct Program {
    path: PathBuf,
    directory: PathBuf,
    _copy: Option<tempfile::TempDir>,
}

impl Program {
    fn for_user(user: Option<Ordinary>) -> io::Result<Program> {
        let path = std::env::current_exe()?;
        let Some(user) = user else {
            return Ok(Program { path, directory: PathBuf::from("/"), _copy: None });
        };
        // Its own copy, as a user's build is: so that writing to it is stopped by nothing but the sandbox.
        let directory = tempfile::Builder::new().prefix("caisson-selftest-").tempdir()?;
        let copy = directory.path().join("caisson");
        std::fs::copy(&path, &copy)?;
        for path in [directory.path(), &copy] {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
            std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid))?;
        }
        Ok(Program { path: copy, directory: directory.path().to_owned(), _copy: Some(directory) })
    }
}

/// Everything that was found, in all modes.
struct Found {
    kernel: String,
    cgroup: serde_json::Value,
    reports: Vec<Report>,
    skipped: Vec<(&'static str, String)>,
    /// The best that each attack's control showed in any mode.
    controls: BTreeMap<String, Shown>,
}

impl Found {
    fn of(host: &Host, reports: Vec<Report>, skipped: Vec<(&'static str, String)>) -> Found {
        let mut controls: BTreeMap<String, Shown> = BTreeMap::new();
        let weight = |finding: Finding| match finding {
            Finding::Skipped => 0,
            Finding::Failed => 1,
            Finding::Shown => 2,
        };
        for shown in reports.iter().flat_map(|report| &report.controls) {
            match controls.get(&shown.id) {
                Some(present) if weight(present.control) >= weight(shown.control) => {}
                _ => {
                    controls.insert(shown.id.clone(), shown.clone());
                }
            }
        }
        Found { kernel: host.kernel.clone(), cgroup: json!(host.cgroup), reports, skipped, controls }
    }

    fn tried(&self) -> impl Iterator<Item = &Tried> {
        self.reports.iter().flat_map(|report| &report.attacks)
    }

    fn count(&self, result: Came) -> usize {
        self.tried().filter(|tried| tried.verdict.result == result).count()
    }

    fn shown(&self, finding: Finding) -> usize {
        self.controls.values().filter(|shown| shown.control == finding).count()
    }

    fn ok(&self) -> bool {
        self.count(Came::Succeeded) == 0 && self.count(Came::Unknown) == 0 && self.shown(Finding::Failed) == 0
    }

    fn json(&self) -> serde_json::Value {
        let attacks: Vec<serde_json::Value> = self
            .tried()
            .map(|tried| {
                let mut object = json!(tried);
                if let (Some(shown), Some(map)) = (self.controls.get(&tried.id), object.as_object_mut()) {
                    map.insert("control".to_owned(), json!({"place": shown.place, "result": shown.control, "detail": shown.detail}));
                }
                object
            })
            .collect();
        let settings: Vec<_> = self.reports.iter().flat_map(|report| &report.settings).collect();
        let skipped: Vec<_> = self.skipped.iter().map(|(mode, reason)| json!({"mode": mode, "reason": reason})).collect();
        json!({
            "ok": self.ok(),
            "version": env!("CARGO_PKG_VERSION"),
            "kernel": self.kernel,
            "cgroup": self.cgroup,
            "modes": self.reports.iter().map(|report| &report.mode).collect::<Vec<_>>(),
            "skipped_modes": skipped,
            "settings": settings,
            "counts": {
                "attacks": self.tried().count(),
                "refused": self.count(Came::Refused),
                "succeeded": self.count(Came::Succeeded),
                "skipped": self.count(Came::Skipped),
                "unknown": self.count(Came::Unknown),
            },
            "controls": {
                "made": !self.controls.is_empty(),
                "shown": self.shown(Finding::Shown),
                "failed": self.shown(Finding::Failed),
                "skipped": self.shown(Finding::Skipped),
            },
            "attacks": attacks,
        })
    }

    fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "Linux {}, cgroups: {}", self.kernel, self.cgroup.as_str().unwrap_or_default());
        for setting in self.reports.iter().flat_map(|report| &report.settings) {
            let _ = writeln!(text, "\n{}, step as {}: enforced {}", setting.mode, setting.step, setting.enforced.join(", "));
            for missing in &setting.missing {
                let _ = writeln!(text, "  not enforced: {missing}");
            }
        }
        let columns: Vec<(&str, &str)> =
            self.reports.iter().flat_map(|report| &report.settings).map(|setting| (setting.mode.as_str(), setting.step.as_str())).collect();
        let heads: Vec<String> = columns.iter().map(|(mode, step)| format!("{mode}/{step}")).collect();
        let width = |column: usize| heads[column].len().max("SUCCEEDED".len());
        let _ = write!(text, "\n{:<36}", "attack");
        for (column, head) in heads.iter().enumerate() {
            let _ = write!(text, " {head:<w$}", w = width(column));
        }
        text.push_str(if self.controls.is_empty() { "\n" } else { " control\n" });
        let ids: Vec<&str> = catalogue::all().map(|attack| attack.id).collect();
        let mut remarks = String::new();
        for id in ids {
            let row: Vec<Option<&Tried>> = columns
                .iter()
                .map(|(mode, step)| self.tried().find(|tried| tried.id == id && tried.mode == *mode && tried.step == *step))
                .collect();
            if row.iter().all(Option::is_none) {
                continue;
            }
            let _ = write!(text, "{id:<36}");
            for (column, tried) in row.iter().enumerate() {
                let word = tried.map_or("", |tried| tried.verdict.result.word());
                let padded = format!("{word:<w$}", w = width(column));
                let shown = match tried.map(|tried| tried.verdict.result) {
                    Some(Came::Refused) => style(padded).green(),
                    Some(Came::Succeeded | Came::Unknown) => style(padded).red().bold(),
                    _ => style(padded).yellow(),
                };
                let _ = write!(text, " {shown}");
            }
            if let Some(shown) = self.controls.get(id) {
                let word = match shown.control {
                    Finding::Shown => style("succeeds".to_owned()).green(),
                    Finding::Failed => style("FAILS".to_owned()).red().bold(),
                    Finding::Skipped => style("skipped".to_owned()).yellow(),
                };
                let _ = write!(text, " {word} ({})", shown.place);
                if shown.control != Finding::Shown {
                    let _ = writeln!(
                        remarks,
                        "  control of {id}: {}: {}",
                        if shown.control == Finding::Failed { "FAILS" } else { "skipped" },
                        shown.detail
                    );
                }
            }
            text.push('\n');
            for tried in row.into_iter().flatten().filter(|tried| tried.verdict.result != Came::Refused) {
                let _ = writeln!(
                    remarks,
                    "  {id} ({}/{}): {}: {} ({})",
                    tried.mode, tried.step, tried.verdict.result, tried.verdict.detail, tried.tries
                );
            }
        }
        for (mode, reason) in &self.skipped {
            let _ = writeln!(remarks, "  mode {mode}: skipped: {reason}");
        }
        if !remarks.is_empty() {
            let _ = write!(text, "\n{remarks}");
        }
        let _ = write!(
            text,
            "\n{} attacks refused, {} SUCCEEDED, {} without an answer, {} skipped",
            self.count(Came::Refused),
            self.count(Came::Succeeded),
            self.count(Came::Unknown),
            self.count(Came::Skipped)
        );
        if self.controls.is_empty() {
            text.push_str("; controls not made (--verify-attacks)\n");
        } else {
            let (shown, failed, skipped) = (self.shown(Finding::Shown), self.shown(Finding::Failed), self.shown(Finding::Skipped));
            let _ = writeln!(text, "; of their controls {shown} succeed, {failed} FAIL, {skipped} skipped");
        }
        text
    }
}
