//! Flags and subcommands: what may be typed, and nothing of what it does.

pub(crate) mod fleet;
mod options;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use caisson_model::outcome::Bytes;
use caisson_model::policy::AddressRange;
use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use crate::cli::options::{Given, Indexes, Kind, Machine, Output, mirror};
use crate::opening::Opening;
use crate::quantity;

/// Runs the workflows of a Django project, every step in a sandbox of its own.
#[derive(Debug, Parser)]
#[command(name = "caisson", version, max_term_width = 110, propagate_version = true)]
#[command(after_help = "\
Start here:
  caisson run                     run the workflows of this checkout
  caisson exec -- pytest -q       one command in the same sandbox
  caisson doctor                  what this machine can enforce, and what to do about the rest
  caisson selftest                attack the sandbox here, and see it hold

Exit codes: 0 passed, 1 a job failed, 2 workflow or usage wrong, 3 this machine, 4 caisson itself, 130 cancelled.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Where to use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", help_heading = "Global options")]
    pub(crate) color: Color,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(Box<Run>),
    Exec(Box<Exec>),
    Check(Check),
    Init(Init),
    Plan(Plan),
    Eval(Eval),
    Doctor(Doctor),
    Selftest(Selftest),
    Trust(Trust),
    Actions(Actions),
    Config(Config),
    Controller(Box<fleet::Controller>),
    Agent(Box<fleet::Agent>),
    Submit(Box<Submit>),
    Runs(fleet::Runs),
    Show(fleet::Show),
    Ledger(fleet::Ledger),
    Logs(fleet::Logs),
    Cancel(fleet::Cancel),
    Rerun(fleet::Rerun),
    Explain(fleet::Explain),
    Agents(fleet::Agents),
    Cordon(fleet::Cordon),
    Drain(fleet::Drain),
    Token(Box<fleet::Token>),
    Completions(fleet::Completions),
}

/// Run the workflows of a checkout on this machine.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caisson run                                   every workflow that a push would start
  caisson run examples/polls                    those of another folder
  caisson run -W test.yml -j lint -j test       two jobs of one workflow, and what they need
  caisson run -j test --matrix python-version=3.12   one row of its matrix
  caisson run -e workflow_dispatch --input verbose=true
  caisson run -e pull_request --base main       those that a pull request of what differs from main would start
  DEPLOY_TOKEN=... caisson run --secret DEPLOY_TOKEN
  caisson run --json | jq 'select(.type == \"egress\")'

Without -W, every .github/workflows/*.yml and *.yaml runs that the event starts. Filters of branches, tags and paths apply with --base only. The network is closed to every step but those that only install packages; a policy opens more (see `caisson trust --help`). Ctrl-C cancels cleanly, pressed twice it kills.")]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) selection: Selection,
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) given: Given,
    /// Policy file to use in place of any other
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    /// Directory for the artifacts that jobs keep, each in a directory of its name [default: the checkout's state directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) artifacts: Option<PathBuf>,
    /// Let every step reach whatever is public, and write what it wanted beyond the policy as a patch of it
    #[arg(long, help_heading = "Network", conflicts_with = "fail_on_new_egress")]
    pub(crate) learn: bool,
    /// A step fails that reaches for something which no policy names
    #[arg(long, help_heading = "Network")]
    pub(crate) fail_on_new_egress: bool,
    /// How many jobs run at once [default: one per two cores, at least 2]
    #[arg(long, value_name = "N", value_parser = quantity::count, help_heading = "Machine")]
    pub(crate) slots: Option<u32>,
    #[command(flatten)]
    pub(crate) indexes: Indexes,
    #[command(flatten)]
    pub(crate) machine: Machine,
}

/// Which workflows, jobs and event.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Selection {
    /// The checkout
    #[arg(value_name = "DIR", default_value = ".")]
    pub(crate) directory: PathBuf,
    /// Workflow file to run: a path, or a name in .github/workflows (repeatable)
    #[arg(short = 'W', long = "workflow", value_name = "FILE")]
    pub(crate) workflows: Vec<PathBuf>,
    /// Job to run, with the jobs that it needs (repeatable)
    #[arg(short = 'j', long = "job", value_name = "JOB")]
    pub(crate) jobs: Vec<String>,
    /// Only the cells of a matrix with this value; several values of a key are alternatives (repeatable)
    #[arg(long = "matrix", value_name = "KEY=VALUE", value_parser = quantity::pair)]
    pub(crate) matrix: Vec<(String, String)>,
    /// Event to act as [default: push where the workflow has it, else pull_request, workflow_dispatch, schedule]
    #[arg(short = 'e', long = "event", value_name = "EVENT")]
    pub(crate) event: Option<String>,
    /// Act as the event would for what changed since this commit or branch: filters of branches, tags and paths apply
    #[arg(long, value_name = "REF")]
    pub(crate) base: Option<String>,
    /// Input of a workflow_dispatch event (repeatable)
    #[arg(long = "input", value_name = "KEY=VALUE", value_parser = quantity::pair)]
    pub(crate) inputs: Vec<(String, String)>,
    /// Environment variable for every step, below the workflow's own (repeatable)
    #[arg(long = "env", value_name = "KEY=VALUE", value_parser = quantity::pair)]
    pub(crate) env: Vec<(String, String)>,
}

/// Run one command in the sandbox that steps run in, on the current directory.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caisson exec -- python3 -m unittest           on this directory, without any network
  caisson exec --allow pypi.org -- pip download django
  caisson exec --rw . -- make                   what it writes here stays
  caisson exec --memory 512MiB --timeout 30s --report report.json -- ./suspicious.sh

The current directory is seen read-write through an overlay that is thrown away, unless --rw names it. The rest is the host's system directories, read-only; no home directories, no sockets, no network. Standard input, output and error are passed through as they are: unlike in `caisson run`, a secret that the command prints is not masked.

The exit code is the command's own; 128+N when signal N ended it, 124 on --timeout, 137 when out of memory, 153 when out of disk (bytes or files), 141 when it printed more than --output, 126 or 127 when it cannot be executed or is not found; 2, 3 or 4 when caisson itself fails.")]
pub(crate) struct Exec {
    /// Host that the command may reach, at ports 443 and 80 or the one given; or a preset: python-packages, node-packages,
    /// debian-packages, git:HOST (repeatable)
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(crate) allow: Vec<Opening>,
    /// Private range that allowed names may resolve to, such as 10.0.0.0/8 (repeatable)
    #[arg(long = "range", value_name = "CIDR")]
    pub(crate) ranges: Vec<AddressRange>,
    /// Let the command install packages: pip, uv, npm and apt reach the indexes that this machine is configured for, through the
    /// package gateway
    #[arg(long)]
    pub(crate) packages: bool,
    #[command(flatten)]
    pub(crate) indexes: Indexes,
    /// Longest that the command may take, such as 90s or 5m
    #[arg(long, value_name = "DURATION", value_parser = quantity::duration)]
    pub(crate) timeout: Option<Duration>,
    /// Path to show read-only, at its own place (repeatable)
    #[arg(long, value_name = "PATH")]
    pub(crate) ro: Vec<PathBuf>,
    /// Path to show read-write: what the command changes there is real (repeatable)
    #[arg(long, value_name = "PATH")]
    pub(crate) rw: Vec<PathBuf>,
    /// Environment variable (repeatable); KEY alone takes the caller's value
    #[arg(long = "env", value_name = "KEY[=VALUE]", value_parser = quantity::variable)]
    pub(crate) env: Vec<(String, Option<String>)>,
    #[command(flatten)]
    pub(crate) given: Given,
    /// Directory to start in, as seen inside
    #[arg(long, value_name = "DIR")]
    pub(crate) chdir: Option<PathBuf>,
    /// Most bytes that the command may print, on standard output and error together; beyond that it is killed
    #[arg(long, value_name = "SIZE", value_parser = quantity::size)]
    pub(crate) output: Option<Bytes>,
    /// Say at the end which system calls the command was refused, and what would allow them. Slower; works without root too
    #[arg(long)]
    pub(crate) seccomp_log: bool,
    /// System call to allow beyond those of a build, by name, such as ptrace (repeatable)
    #[arg(long = "allow-syscall", value_name = "NAME", value_parser = quantity::system_call)]
    pub(crate) allow_syscalls: Vec<String>,
    /// Share of the processors when others want them too: 100 is everybody's
    #[arg(long, value_name = "WEIGHT", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) cpu_weight: Option<u32>,
    /// Be root of the sandbox's own user namespace, as a package manager needs
    #[arg(long)]
    pub(crate) root: bool,
    /// Write what happened as JSON: exit code or signal, cause, times, memory, protections, network attempts
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// The command and its arguments
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true)]
    pub(crate) command: Vec<OsString>,
    #[command(flatten)]
    pub(crate) machine: Machine,
}

/// Check all workflows of a checkout, without running anything.
#[derive(Debug, Args)]
#[command(after_help = "\
Says of every mistake where it is, what it is and what to do, several at once. Exit code 2 when a workflow is wrong. What the language has and caisson refuses to run is a warning here; `caisson plan` ends with 2 for it.")]
pub(crate) struct Check {
    /// The checkout
    #[arg(value_name = "DIR", default_value = ".")]
    pub(crate) directory: PathBuf,
    /// Workflow file to check: a path, or a name in .github/workflows (repeatable) [default: all of them]
    #[arg(short = 'W', long = "workflow", value_name = "FILE")]
    pub(crate) workflows: Vec<PathBuf>,
    /// As one JSON object
    #[arg(long, conflicts_with = "sarif")]
    pub(crate) json: bool,
    /// In the Static Analysis Results Interchange Format 2.1.0
    #[arg(long)]
    pub(crate) sarif: bool,
    /// Policy file to use in place of any other
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
}

/// Write a workflow for a Django checkout that has none.
#[derive(Debug, Args)]
#[command(after_help = "\
Looks for manage.py, the settings module and its database, requirements files, pyproject.toml, uv.lock, poetry.lock, Pipfile and tox.ini, the version of Python, and what runs the tests; imports and executes nothing. `caisson run` uses the same workflow without writing it. A file that is there is never overwritten.")]
pub(crate) struct Init {
    /// The checkout
    #[arg(value_name = "DIR", default_value = ".")]
    pub(crate) directory: PathBuf,
}

/// Show what would run, in which order, and what each step may do, without running anything.
#[derive(Debug, Args)]
#[command(after_help = "\
Shows every workflow with its jobs, the cells of their matrices, the round in which each can start, and for each step that reaches the network or a secret what policy grants it and why; then everything that caisson does not support or refuses. Exit code 2 when a run of one of the workflows would be refused.")]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// As one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Policy file to use in place of any other
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
}

/// Evaluate an expression of the workflow language and show what it gives.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caisson eval \"contains('Hello world', 'WORLD')\"
  caisson eval --context contexts.json \"github.ref == 'refs/heads/main' && !inputs.dry-run\"
  printf '%s\\n' '{\"expr\":\"1 < github.n\",\"contexts\":{\"github\":{\"n\":2}}}' | caisson eval --stdin

Prints {\"kind\":...,\"value\":...}, or {\"err\":{\"kind\":...,\"value\":...}} and ends with 2; the kinds of errors are lexing, parsing and evaluation. Status functions answer as job.status of the contexts says, success without it; hashFiles reads the current directory. NaN and infinities, which JSON lacks, are shown as null.")]
pub(crate) struct Eval {
    /// The expression, with or without ${{ }}
    #[arg(value_name = "EXPR", required_unless_present = "stdin", conflicts_with = "stdin", allow_hyphen_values = true)]
    pub(crate) expression: Option<String>,
    /// JSON file with an object: a key for each context
    #[arg(long, value_name = "FILE.json")]
    pub(crate) context: Option<PathBuf>,
    /// Answer one line of JSON per line read: {\"expr\":..., \"contexts\":{...}}
    #[arg(long)]
    pub(crate) stdin: bool,
}

/// Show what this machine can enforce, and what to do about each lack.
#[derive(Debug, Args)]
#[command(after_help = "Exit code 3 when a protection is missing that the default policy needs and that is not allowed to be.")]
pub(crate) struct Doctor {
    /// As one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) machine: Machine,
}

/// Attack the sandbox on this machine, in every mode that it can have, and show what was refused.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caisson selftest                              every attack, in every mode that can be reached
  caisson selftest --verify-attacks             and each attack's control, where it must succeed
  caisson selftest --mode root --attack kernel --json

Each attack is made for real, by this program inside a sandbox that is built as a step's is: as an ordinary user and as root of its own namespace. As root, also the modes of ordinary users are tried, by becoming one. A control makes the same act outside, or in a sandbox that is deliberately weak: what fails there too proves nothing.

Exit code 0 when everything was refused, 1 when an attack succeeded or gave no answer, or a control failed; 3 when no mode could be tried.")]
pub(crate) struct Selftest {
    /// As one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Also show that each attack succeeds where nothing stops it
    #[arg(long)]
    pub(crate) verify_attacks: bool,
    /// Mode to try (repeatable) [default: all that can be reached]
    #[arg(long = "mode", value_name = "MODE", value_delimiter = ',')]
    pub(crate) modes: Vec<SelftestMode>,
    /// Only attacks whose name begins so: a family such as `files`, or one such as `kernel.bpf` (repeatable)
    #[arg(long = "attack", value_name = "NAME", value_delimiter = ',')]
    pub(crate) attacks: Vec<String>,
    /// Only in the mode of this very process; used by the command for itself
    #[arg(long, hide = true)]
    pub(crate) here: bool,
    #[command(flatten)]
    pub(crate) machine: Machine,
}

/// With which ids the launcher works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SelftestMode {
    /// Root: an id range of its own per job
    Root,
    /// An ordinary user with subordinate ids
    Subordinate,
    /// An ordinary user with its own id alone
    Single,
}

/// Show a checkout's own policy and let it count from now on.
#[derive(Debug, Args)]
#[command(after_help = "\
A policy in the checkout (.caisson/policy.toml) could have been written by whoever opened a pull request. It counts only while its content is exactly what you last saw here: any change needs `caisson trust` again.

Which policy counts, first found: --policy FILE; .caisson/policy.toml, once trusted; your own $XDG_CONFIG_HOME/caisson/policy.toml; the built-in default: package-install steps reach the package index, nothing else reaches anything.")]
pub(crate) struct Trust {
    /// The checkout
    #[arg(value_name = "DIR", default_value = ".")]
    pub(crate) directory: PathBuf,
    /// Take the trust back
    #[arg(long, conflicts_with = "list")]
    pub(crate) revoke: bool,
    /// List what is trusted
    #[arg(long)]
    pub(crate) list: bool,
}

/// Keep actions of others on this machine, so that workflows may use them without any network.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caisson actions add acme/setup-tool@v2 --from ~/src/setup-tool
  caisson actions list
  caisson actions remove acme/setup-tool@v2

An action is pinned to the digest of its files when it is added: a tag or branch that moves later changes nothing. From a git repository the files are those of the commit that REF is there; nothing is fetched. A workflow then finds it by `uses: OWNER/REPO@REF` (or OWNER/REPO/PATH@REF), and it runs in the sandbox with the rights of the step that uses it, no more.")]
pub(crate) struct Actions {
    #[command(subcommand)]
    pub(crate) what: ActionsCommand,
    /// Where the mirror is kept, in a folder `actions`
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) state_dir: Option<PathBuf>,
}

/// What to do with the mirror.
#[derive(Debug, Subcommand)]
pub(crate) enum ActionsCommand {
    /// Add an action, or pin it anew
    Add {
        /// Its name and version, as workflows write it
        #[arg(value_name = "OWNER/REPO@REF")]
        name: String,
        /// A directory with its files, or a git repository that has REF
        #[arg(long, value_name = "DIR_OR_GIT")]
        from: PathBuf,
    },
    /// List what was added
    List {
        /// One JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Remove an action
    Remove {
        /// Its name and version
        #[arg(value_name = "OWNER/REPO@REF")]
        name: String,
    },
}

/// Show the settings in force and where each comes from.
#[derive(Debug, Args)]
pub(crate) struct Config {
    #[command(flatten)]
    pub(crate) machine: Machine,
}

/// Hand the workflows of a checkout to a controller.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caisson submit --controller http://127.0.0.1:7717 --follow
  caisson submit examples/polls --controller https://ci.example.com:7717 --token-file token

The controller, its authority and the token may stand in the configuration; see `caisson config`.")]
pub(crate) struct Submit {
    #[command(flatten)]
    pub(crate) selection: Selection,
    #[command(flatten)]
    pub(crate) reach: fleet::Reach,
    /// Jobs of a higher priority are given to agents first
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) priority: i32,
    /// Watch the runs to their end, as `caisson run` does; Ctrl-C cancels them
    #[arg(long)]
    pub(crate) follow: bool,
    /// With --follow: directory for the artifacts that jobs keep, each in a directory of its name
    #[arg(long, value_name = "DIR", requires = "follow")]
    pub(crate) artifacts: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_secret_given_in_the_argument_is_not_shown() {
        let cli = Cli::try_parse_from(["caisson", "run", "--secret", "TOKEN=hunter2"]).unwrap();
        let shown = format!("{cli:?}");
        assert!(shown.contains("TOKEN") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn a_command_keeps_its_own_flags() {
        for line in [vec!["caisson", "exec", "--", "ls", "--root", "-l"], vec!["caisson", "exec", "ls", "--root", "-l"]] {
            let Command::Exec(exec) = Cli::try_parse_from(line).unwrap().command else { unreachable!() };
            assert_eq!(exec.command, ["ls", "--root", "-l"]);
            assert!(!exec.root);
        }
    }
}
