//! `permissions:` as a value that can be compared. They grant nothing in caisson; the language still has rules for them.

use crate::limits::DefaultPermissions;
use crate::yaml::Node;

/// What a token may do with one subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    None,
    Read,
    Write,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Level::None => "none",
            Level::Read => "read",
            Level::Write => "write",
        }
    }
}

/// The subjects that the two words cover, in the order of messages.
const SUBJECTS: &[&str] = &[
    "actions",
    "checks",
    "contents",
    "deployments",
    "discussions",
    "issues",
    "packages",
    "pages",
    "pull-requests",
    "repository-projects",
    "statuses",
    "security-events",
    "id-token",
];

/// A level for each subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Permissions {
    listed: Vec<(String, Level)>,
    /// Of subjects that are not listed: newer ones, which messages about the words leave out.
    rest: Level,
}

impl Permissions {
    /// What `permissions:` says: a word, or a mapping in which what is missing is none.
    pub(crate) fn of(node: &Node) -> Permissions {
        let all = |level| {
            let listed = SUBJECTS.iter().map(|subject| ((*subject).to_owned(), level)).collect();
            Permissions { listed, rest: level }
        };
        match node.text().as_deref() {
            Some("read-all") => return all(Level::Read),
            Some("write-all") => return all(Level::Write),
            _ => {}
        }
        let level = |word: &str| match word {
            "write" => Level::Write,
            "read" => Level::Read,
            _ => Level::None,
        };
        let entries = node.entries().iter();
        let listed = entries.filter_map(|entry| Some((entry.key.clone(), level(&entry.value.text()?)))).collect();
        Permissions { listed, rest: Level::None }
    }

    /// What holds where a workflow says nothing.
    pub(crate) fn default(policy: DefaultPermissions) -> Permissions {
        let level = |subject: &str| match policy {
            DefaultPermissions::Write => Level::Write,
            DefaultPermissions::Read if matches!(subject, "contents" | "packages") => Level::Read,
            DefaultPermissions::Read => Level::None,
        };
        let listed = SUBJECTS.iter().map(|subject| ((*subject).to_owned(), level(subject))).collect();
        Permissions { listed, rest: level("") }
    }

    fn level(&self, subject: &str) -> Level {
        self.listed.iter().find(|(name, _)| name == subject).map_or(self.rest, |(_, level)| *level)
    }

    /// What of this goes beyond `allowed`: the excess and what was allowed instead, as texts. `None` when nothing does.
    pub(crate) fn beyond(&self, allowed: &Permissions) -> Option<(String, String)> {
        let excess: Vec<_> = self.listed.iter().filter(|(subject, level)| *level > allowed.level(subject)).collect();
        let list = |level: &dyn Fn(&(String, Level)) -> Level| {
            excess.iter().map(|pair| format!("{}: {}", pair.0, level(pair).as_str())).collect::<Vec<_>>().join(", ")
        };
        (!excess.is_empty()).then(|| (list(&|pair| pair.1), list(&|pair| allowed.level(&pair.0))))
    }
}
