//! Flags that several commands have.

use std::fmt;
use std::path::PathBuf;

use caisson_model::outcome::Bytes;
use caisson_model::time::Timestamp;
use caisson_sandbox::protection::Protection;
use clap::Args;
use serde::Deserialize;

use crate::quantity;

/// How a run is shown.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct Output {
    /// One JSON object per line: run, job, step, log, egress, annotation; the last line is the finished run
    #[arg(long)]
    pub(crate) json: bool,
    /// Only failures and the summary, no logs of steps that pass
    #[arg(short, long, conflicts_with = "json")]
    pub(crate) quiet: bool,
}

/// Secrets given on the command line.
#[derive(Clone, Default, Args)]
pub(crate) struct Given {
    /// Secret by name; its value comes from the environment variable NAME, else from a prompt (repeatable).
    /// NAME=VALUE is possible too, but is seen by other users of this machine
    #[arg(long = "secret", value_name = "NAME[=VALUE]")]
    pub(crate) secrets: Vec<String>,
}

// A value may stand in the argument, so the text is never shown.
impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.secrets.iter().map(|text| text.split('=').next().unwrap_or_default());
        f.debug_list().entries(names).finish()
    }
}

/// What this machine enforces, by default and at least.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Machine")]
pub(crate) struct Machine {
    /// Go on without a protection that this machine cannot enforce; `caisson doctor` names them (repeatable)
    #[arg(long, value_name = "NAME[,NAME]", value_delimiter = ',')]
    pub(crate) allow_missing: Vec<Protection>,
    /// Memory of a step, such as 4GiB [default: three quarters of this machine's]
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<Bytes>,
    /// Cores of a step, such as 1.5 [default: no limit]
    #[arg(long, value_name = "N", value_parser = quantity::cores)]
    pub(crate) cpus: Option<quantity::Cores>,
    /// Processes and threads of a step [default: 4096]
    #[arg(long, value_name = "N", value_parser = quantity::count)]
    pub(crate) pids: Option<u32>,
    /// Bytes on everything that a job can write, such as 10GiB; `exec` has no limit by default [default: an equal share of what is free for each slot]
    #[arg(long, value_name = "SIZE", value_parser = quantity::size)]
    pub(crate) disk: Option<Bytes>,
    /// Files and directories likewise
    #[arg(long, value_name = "N", value_parser = quantity::count)]
    pub(crate) inodes: Option<u32>,
    /// Open files of each process [default: 65536, never more than this process may have]
    #[arg(long, value_name = "N", value_parser = quantity::count)]
    pub(crate) open_files: Option<u32>,
}

/// How the package gateway answers.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Packages")]
pub(crate) struct Indexes {
    /// Answer as the indexes stood before this day (2024-05-01, from its first moment in UTC) or moment (2024-05-01T12:00:00Z)
    #[arg(long, value_name = "DATE", value_parser = quantity::moment)]
    pub(crate) before: Option<Timestamp>,
    /// Serve only what is stored from earlier runs, and reach for no index
    #[arg(long)]
    pub(crate) offline: bool,
    /// Folder of wheels and sdists, or a mirror's tree, that stands in for the Python indexes
    #[arg(long, value_name = "DIR")]
    pub(crate) wheelhouse: Option<PathBuf>,
    /// Folder that stands in for the indexes of KIND: `python` (as --wheelhouse), `npm` (tarballs, in any tree), `debian` (dists/ and pool/)
    #[arg(long, value_name = "KIND=DIR", value_parser = mirror)]
    pub(crate) mirror: Vec<(Kind, PathBuf)>,
}

/// Whose indexes a folder stands in for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Those of Python.
    Python,
    /// Those of npm.
    Npm,
    /// Debian's and Ubuntu's archives.
    Debian,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Python => "python",
            Kind::Npm => "npm",
            Kind::Debian => "debian",
        })
    }
}

/// Reads `KIND=DIR`.
///
/// # Errors
/// What is wrong, in words for a person.
pub(crate) fn mirror(text: &str) -> Result<(Kind, PathBuf), String> {
    let (kind, folder) =
        text.split_once('=').filter(|(_, folder)| !folder.is_empty()).ok_or("write it as KIND=DIR, such as npm=./tarballs")?;
    let kind = match kind {
        "python" => Kind::Python,
        "npm" => Kind::Npm,
        "debian" => Kind::Debian,
        _ => return Err(format!("'{kind}' is none of python, npm, debian")),
    };
    Ok((kind, folder.into()))
}
