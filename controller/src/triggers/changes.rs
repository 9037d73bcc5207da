//! Which files an event changed: what filters of paths ask. Of a push, its own payload says so for each commit; of a pull request,
//! the forge does. Where nobody can say, nothing is filtered, as the language has it.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::triggers::delivery::Delivery;
use crate::triggers::forge::{ForgeError, Forges, base};
use crate::triggers::settings::{Forge, Repository};

/// The most files that are looked at; of an event with more, nobody can say.
const MOST: usize = 3000;
/// How many the forges tell at once.
const PAGE: usize = 50;

/// The files of a push, by its payload; `None` when that does not tell all: its list of commits is cut short, or the push replaced
/// commits.
fn pushed(payload: &Value) -> Option<Vec<String>> {
    if payload["forced"] == Value::Bool(true) {
        return None;
    }
    let commits = payload["commits"].as_array().filter(|commits| !commits.is_empty())?;
    let total = payload["total_commits_count"].as_u64().or_else(|| payload["total_commits"].as_u64());
    if total.is_some_and(|total| total > commits.len() as u64) || commits.len() >= 2048 {
        return None;
    }
    let mut paths = BTreeSet::new();
    for commit in commits {
        // A commit without the lists is told about in brief: its files are not known.
        for list in ["added", "modified", "removed"] {
            match &commit[list] {
                Value::Array(names) => paths.extend(names.iter().filter_map(Value::as_str).map(str::to_owned)),
                Value::Null if list != "modified" => {}
                _ => return None,
            }
        }
    }
    (paths.len() <= MOST).then(|| paths.into_iter().collect())
}

/// The names in an answer: of each file the one that it has, and the one that it had.
fn names(answer: &Value) -> impl Iterator<Item = String> + '_ {
    let files = answer.as_array().into_iter().flatten();
    files
        .flat_map(|file| ["filename", "previous_filename", "new_path", "old_path"].map(|key| file[key].as_str()))
        .flatten()
        .map(str::to_owned)
}

impl Forges {
    /// The files that a push or a pull request changed; `None` when nobody can say.
    ///
    /// # Errors
    /// [`ForgeError`].
    pub async fn changes(&self, repository: &Repository, delivery: &Delivery) -> Result<Option<Vec<String>>, ForgeError> {
        let payload = &delivery.github["event"];
        match delivery.event.as_str() {
            "push" => match pushed(payload) {
                Some(paths) => Ok(Some(paths)),
                None => self.compared(repository, payload, &delivery.sha).await,
            },
            "pull_request" => self.proposed(repository, payload).await,
            _ => Ok(None),
        }
    }

    async fn compared(&self, repository: &Repository, payload: &Value, sha: &str) -> Result<Option<Vec<String>>, ForgeError> {
        let before = payload["before"].as_str().unwrap_or_default();
        let known = matches!(before.len(), 40 | 64) && before.bytes().all(|b| b.is_ascii_hexdigit()) && before.bytes().any(|b| b != b'0');
        if !known {
            return Ok(None);
        }
        let base = base(repository);
        let path = match repository.forge {
            Forge::Gitlab => format!("{base}/repository/compare?from={before}&to={sha}&straight=true"),
            _ => format!("{base}/compare/{before}...{sha}"),
        };
        let Some(answer) = self.json("read what changed", repository, &path).await? else { return Ok(None) };
        let mut paths: BTreeSet<String> = names(&answer["files"]).chain(names(&answer["diffs"])).collect();
        if matches!(repository.forge, Forge::Gitea | Forge::Forgejo) {
            paths.extend(answer["commits"].as_array().into_iter().flatten().flat_map(|commit| names(&commit["files"])));
        }
        // GitHub tells the first 300 of a comparison; the others cut theirs short likewise, and say so.
        let cut = paths.len() >= 300 || answer["compare_timeout"] == Value::Bool(true);
        Ok((!cut && !paths.is_empty()).then(|| paths.into_iter().collect()))
    }

    async fn proposed(&self, repository: &Repository, payload: &Value) -> Result<Option<Vec<String>>, ForgeError> {
        let number = payload["number"].as_u64().or_else(|| payload["pull_request"]["number"].as_u64());
        let Some(number) = number else { return Ok(None) };
        let base = base(repository);
        let mut paths = BTreeSet::new();
        for page in 1..=MOST / PAGE {
            let path = match repository.forge {
                Forge::Github => format!("{base}/pulls/{number}/files?per_page={PAGE}&page={page}"),
                Forge::Gitea | Forge::Forgejo => format!("{base}/pulls/{number}/files?limit={PAGE}&page={page}"),
                Forge::Gitlab => format!("{base}/merge_requests/{number}/diffs?per_page={PAGE}&page={page}"),
            };
            let Some(answer) = self.json("read what changed", repository, &path).await? else { return Ok(None) };
            paths.extend(names(&answer));
            if answer.as_array().is_none_or(|files| files.len() < PAGE) {
                return Ok(Some(paths.into_iter().collect()));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_push_tells_its_files_unless_its_list_is_cut_short() {
        let commit = |files: &[&str]| json!({ "added": files, "modified": [], "removed": ["gone.py"] });
        let push = json!({ "commits": [commit(&["b.py"]), commit(&["a.py", "b.py"])] });
        assert_eq!(pushed(&push), Some(vec!["a.py".to_owned(), "b.py".to_owned(), "gone.py".to_owned()]));
        for unknown in [
            json!({}),
            json!({ "commits": [] }),
            json!({ "commits": [{ "id": "x" }] }),
            json!({ "forced": true, "commits": [commit(&["a"])] }),
            json!({ "total_commits_count": 30, "commits": [commit(&["a"])] }),
        ] {
            assert_eq!(pushed(&unknown), None, "{unknown}");
        }
    }
}
