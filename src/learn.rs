//! What a run wanted and no policy named: as entries of a policy, and as a patch of the file that they belong to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use caisson_controller::policy::Rules;
use caisson_controller::policy::rules::StepSubject;
use caisson_model::outcome::{EgressEntry, EgressKind, Fault, Verdict};
use caisson_model::policy::AddressRange;
use caisson_model::run::StepView;
use caisson_proto::api::RunDetail;

use crate::policy_file::{IN_CHECKOUT, PolicyError, PolicyFile};
use crate::report::Explained;

/// Where a patch is written, in the checkout.
pub(crate) const PATCH: &str = ".caisson/learned.patch";

/// A patch cannot be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LearnError {
    /// The policy that it changes cannot be read.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The disk refuses.
    #[error("cannot write {}", .0.display())]
    Write(PathBuf, #[source] std::io::Error),
    /// The policy forbids it.
    #[error("the policy does not let runs learn")]
    Forbidden,
}

impl Explained for LearnError {
    fn fault(&self) -> Fault {
        match self {
            LearnError::Policy(error) => error.fault(),
            LearnError::Write(..) => Fault::Environment,
            LearnError::Forbidden => Fault::User,
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            LearnError::Policy(error) => error.help(),
            LearnError::Write(..) => None,
            LearnError::Forbidden => Some("set `learn = true` under [network] in the policy, or run without --learn".to_owned()),
        }
    }
}

/// The entry of a policy for one step.
fn step_rule(job: &str, step: &StepView, lines: &[String]) -> String {
    let name = step.id.as_deref().unwrap_or(&step.name);
    format!("[[step]]\njob = {}\nstep = {}\n{}\n", quoted(&literally(job)), quoted(&literally(name)), lines.join("\n"))
}

/// A list as TOML writes it.
fn listed<'t>(key: &str, texts: impl IntoIterator<Item = &'t String>) -> String {
    format!("{key} = [{}]", texts.into_iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", "))
}

/// The entry that would allow what a step was refused; `None` where none would. What an entry cannot open is not in it: datagrams, names
/// that a greeting hid, what was beyond a limit.
pub(crate) fn remedy(job: &str, step: &StepView) -> Option<String> {
    let refused: Vec<&EgressEntry> = step
        .result
        .iter()
        .flat_map(|result| &result.egress)
        .filter(|entry| entry.verdict == Verdict::Refused && entry.kind != EgressKind::Package)
        .collect();
    let connected: BTreeSet<&str> = refused.iter().filter(|entry| entry.port != 0).map(|entry| entry.host.as_str()).collect();
    let (mut allow, mut ranges, mut portless) = (BTreeSet::new(), BTreeSet::new(), false);
    for entry in refused {
        if let Some(range) = private_range(entry) {
            ranges.insert(range);
        } else if entry.rule.starts_with("no rule allows") || entry.rule.starts_with("port ") {
            // Whoever connected said the port as well.
            if entry.port != 0 || !connected.contains(entry.host.as_str()) {
                portless |= entry.port == 0;
                allow.insert(entry.target());
            }
        }
    }
    let mut lines = Vec::new();
    if !allow.is_empty() {
        // An entry's list stands in place of an earlier one's, never of what every step may reach.
        lines.push(listed("allow", &allow));
        if portless {
            lines.push("# a name without a port means 443 and 80; write NAME:PORT for another".to_owned());
        }
    }
    if !ranges.is_empty() {
        lines.push(listed("ranges", &ranges));
    }
    (!lines.is_empty()).then(|| step_rule(job, step, &lines))
}

fn address_of(entry: &EgressEntry) -> Option<IpAddr> {
    entry.address.as_deref()?.parse().ok()
}

/// The range that a name would have had to be let into.
fn private_range(entry: &EgressEntry) -> Option<String> {
    let address = address_of(entry).filter(|_| entry.rule.starts_with("the name leads to "))?;
    Some(AddressRange::single(address).to_string())
}

/// A pattern that covers this text alone.
fn literally(text: &str) -> String {
    text.chars().map(|c| if matches!(c, '*' | '?' | '[' | ']') { format!("[{c}]") } else { c.to_string() }).collect()
}

/// A text as TOML writes it.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// The smallest entries that let these runs do what they did: one a step, with what it reached that no rule named. Empty when there is
/// nothing.
pub(crate) fn entries(runs: &[RunDetail], rules: &Rules) -> String {
    type Wanted<'r> = (&'r StepView, BTreeSet<String>, BTreeMap<String, String>);
    let mut wanted: BTreeMap<(String, String), Wanted<'_>> = BTreeMap::new();
    for detail in runs {
        for step in &detail.steps {
            let Some(job) = detail.jobs.iter().find(|job| job.id == step.attempt.job) else { continue };
            let new: BTreeSet<String> = step
                .result
                .iter()
                .flat_map(|result| &result.egress)
                .filter(|entry| entry.is_new() && entry.port != 0 && entry.rule.starts_with(caisson_model::outcome::LEARNING))
                .map(|entry| entry.target())
                .collect();
            // Learning opens nothing that lies inside. It is named, for a person to decide.
            let inside: BTreeMap<String, String> = step
                .result
                .iter()
                .flat_map(|result| &result.egress)
                .filter_map(|entry| Some((private_range(entry)?, entry.target())))
                .collect();
            let new: BTreeSet<String> = new.into_iter().chain(inside.values().cloned()).collect();
            if new.is_empty() {
                continue;
            }
            // A later entry stands in place of an earlier one's list, so what that allows is repeated.
            let names = [step.id.as_deref().unwrap_or_default(), step.name.as_str()];
            let subject = StepSubject { workflow: [&detail.run.workflow, &detail.run.file], job: &job.key.0, step: &names };
            let before = rules.for_step(&subject).allow.unwrap_or_default();
            let key = (job.key.0.clone(), step.id.clone().unwrap_or_else(|| step.name.clone()));
            let (_, list, ranges) = wanted.entry(key).or_insert_with(|| (step, BTreeSet::new(), BTreeMap::new()));
            ranges.extend(inside);
            list.extend(new);
            list.extend(before.iter().map(ToString::to_string));
        }
    }
    let texts = wanted.iter().map(|((job, _), (step, list, ranges))| {
        let mut lines = vec![listed("allow", list)];
        if !ranges.is_empty() {
            let names: Vec<&str> = ranges.values().map(String::as_str).collect();
            lines.push(format!("# {} lead to private addresses, which learning does not open; to allow them:", names.join(", ")));
            lines.push(format!("# {}", listed("ranges", ranges.keys())));
        }
        step_rule(job, step, &lines)
    });
    texts.collect::<Vec<_>>().join("\n")
}

/// A unified diff that adds `entries` to the end of a file named `name`, which holds `text` (`None`: it does not exist).
pub(crate) fn patch(name: &str, text: Option<&str>, entries: &str) -> String {
    let old: Vec<&str> = text.unwrap_or_default().lines().collect();
    let open = text.is_some_and(|text| !text.is_empty() && !text.ends_with('\n'));
    let context = &old[old.len().saturating_sub(3)..];
    let mut added: Vec<&str> = entries.lines().collect();
    if !old.is_empty() {
        added.insert(0, "");
    }
    let from = if text.is_some() { format!("a/{name}") } else { "/dev/null".to_owned() };
    let first = old.len() - context.len() + usize::from(!context.is_empty());
    let (kept, made) = (context.len(), context.len() + added.len());
    let after = first.max(1);
    let mut diff = format!("--- {from}\n+++ b/{name}\n@@ -{first},{kept} +{after},{made} @@\n");
    for (index, line) in context.iter().enumerate() {
        if open && index + 1 == context.len() {
            diff.push_str(&format!("-{line}\n\\ No newline at end of file\n+{line}\n"));
        } else {
            diff.push_str(&format!(" {line}\n"));
        }
    }
    added.iter().for_each(|line| diff.push_str(&format!("+{line}\n")));
    diff
}

/// Writes what runs wanted as a patch of the policy in force: the one given, else the checkout's own. Answers where it is, with its
/// text; `None` when nothing new was wanted.
pub(crate) fn write(
    runs: &[RunDetail],
    rules: &Rules,
    given: Option<&Path>,
    checkout: &Path,
) -> Result<Option<(PathBuf, String)>, LearnError> {
    let entries = entries(runs, rules);
    if entries.is_empty() {
        return Ok(None);
    }
    let file = given.map_or_else(|| checkout.join(IN_CHECKOUT), Path::to_owned);
    let name = match given {
        Some(path) => path.strip_prefix(checkout).unwrap_or(path).display().to_string().trim_start_matches('/').to_owned(),
        None => IN_CHECKOUT.to_owned(),
    };
    let text = PolicyFile::read(&file)?.map(|file| file.text);
    let path = checkout.join(PATCH);
    let failed = |error| LearnError::Write(path.clone(), error);
    std::fs::create_dir_all(path.parent().unwrap_or(checkout)).map_err(failed)?;
    let patch = patch(&name, text.as_deref(), &entries);
    std::fs::write(&path, &patch).map_err(failed)?;
    Ok(Some((path, patch)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use caisson_model::id::{AttemptId, JobId, RunId, StepIndex};
    use caisson_model::outcome::{Enforcement, Outcome, StepResult, Usage};
    use caisson_model::run::StepState;
    use caisson_model::time::Timestamp;

    use super::*;

    /// What `git apply` makes of a file.
    fn applied(before: Option<&str>, entries: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policy.toml");
        if let Some(text) = before {
            std::fs::write(&file, text).unwrap();
        }
        std::fs::write(folder.path().join("p.patch"), patch("policy.toml", before, entries)).unwrap();
        let git = std::process::Command::new("git").args(["apply", "p.patch"]).current_dir(folder.path()).output().unwrap();
        assert!(git.status.success(), "{}", String::from_utf8_lossy(&git.stderr));
        std::fs::read_to_string(file).unwrap()
    }

    #[test]
    fn a_patch_applies_to_every_kind_of_file() {
        let entries = "[[step]]\njob = \"a\"\nstep = \"b\"\nallow = [\"c:443\"]\n";
        assert_eq!(applied(None, entries), entries);
        for before in ["[network]\n", "[network]\nallow = []\nranges = []\n# a\n# b\n", "[network]\nallow = []"] {
            let after = applied(Some(before), entries);
            assert_eq!(after, format!("{}\n\n{entries}", before.trim_end()), "{before:?}");
            toml::from_str::<Rules>(&after).unwrap();
        }
    }

    fn refused(host: &str, port: u16, rule: &str, address: Option<&str>) -> EgressEntry {
        let entry = EgressEntry::connection(Timestamp(0), host, port, Verdict::Refused, rule.to_owned());
        EgressEntry { address: address.map(str::to_owned), ..entry }
    }

    #[test]
    fn a_remedy_names_what_an_entry_opens_and_nothing_else() {
        let lookup = EgressEntry { kind: EgressKind::Lookup, ..refused("db.example", 0, "no rule allows it", None) };
        let table: [(Vec<EgressEntry>, Option<&str>); 6] = [
            (vec![refused("a.example", 443, "no rule allows it", None)], Some("allow = [\"a.example:443\"]")),
            (vec![refused("2001:db8::1", 81, "no rule allows it", None)], Some("allow = [\"[2001:db8::1]:81\"]")),
            (
                vec![lookup.clone(), refused("db.example", 5432, "port 5432 is not allowed, only db.example", None)],
                Some("allow = [\"db.example:5432\"]"),
            ),
            (
                vec![refused("in.example", 80, "the name leads to 10.0.0.1, a private network", Some("10.0.0.1"))],
                Some("ranges = [\"10.0.0.1/32\"]"),
            ),
            (vec![refused("9.9.9.9", 53, "no rule can allow UDP", None)], None),
            (vec![refused("a.example", 443, "its TLS greeting is encrypted, so that its server name cannot be compared", None)], None),
        ];
        for (egress, expected) in table {
            let text = remedy("test", &step(egress));
            let expected = expected.map(|lines| format!("[[step]]\njob = \"test\"\nstep = \"Ask\"\n{lines}\n"));
            assert_eq!(text, expected);
            if let Some(text) = text {
                toml::from_str::<Rules>(&text).unwrap();
            }
        }
        assert!(remedy("test", &step(vec![lookup])).unwrap().contains("allow = [\"db.example\"]\n# a name without a port"));
    }

    fn step(egress: Vec<EgressEntry>) -> StepView {
        let attempt = AttemptId { job: JobId { run: RunId(1), index: 1 }, number: 1 };
        let result = StepResult {
            outcome: Outcome::Failure,
            conclusion: Outcome::Failure,
            exit_code: Some(1),
            cause: None,
            usage: Usage::default(),
            enforcement: Enforcement::default(),
            egress,
            annotations: Vec::new(),
            summary: String::new(),
        };
        StepView {
            attempt,
            index: StepIndex(0),
            id: None,
            name: "Ask".to_owned(),
            state: StepState::Finished,
            result: Some(result),
            started: Timestamp(0),
            finished: None,
        }
    }

    #[test]
    fn names_are_patterns_that_cover_themselves_alone() {
        assert_eq!(literally("Run [fast] *"), "Run [[]fast[]] [*]");
        assert_eq!(quoted("a\"b"), "'a\"b'");
    }
}
