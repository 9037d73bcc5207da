//! What a webhook tells, in the words of the `github` context. The three forges differ in names only. Pure.

use caisson_model::time::Timestamp;
use serde_json::{Value, json};

use crate::triggers::settings::{Forge, Repository};

/// How long ago a webhook's own time may lie, where the forge signs no time of its own.
const WINDOW_MILLIS: u64 = 72 * 3600 * 1000;

/// Something that happened in a repository and may start workflows.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// The event: `push`, `pull_request`, `schedule`.
    pub event: String,
    /// The commit.
    pub sha: String,
    /// The `github` context.
    pub github: Value,
}

/// Why nothing starts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nothing {
    /// It is no event that starts workflows.
    #[error("nothing starts: {0}")]
    Idle(&'static str),
    /// It is not what its forge sends.
    #[error("the payload is not understood: {0}")]
    Malformed(&'static str),
    /// It is about another repository.
    #[error("the payload is about another repository")]
    Foreign,
    /// It tells of something long past.
    #[error("the payload tells of something long past")]
    Stale,
}

fn text<'v>(value: &'v Value, path: &str) -> &'v str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// A commit's name, which ends up in an address and in a command.
fn commit(text: &str) -> Option<String> {
    let hex = matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    (hex && text.bytes().any(|byte| byte != b'0')).then(|| text.to_ascii_lowercase())
}

/// Reads a webhook whose signature was checked. `header` gives headers by name in lower case.
///
/// # Errors
/// [`Nothing`].
pub fn read<'h>(
    repository: &Repository,
    header: impl Fn(&str) -> Option<&'h str>,
    body: &[u8],
    now: Timestamp,
) -> Result<Delivery, Nothing> {
    let payload: Value = serde_json::from_slice(body).map_err(|_| Nothing::Malformed("it is no JSON"))?;
    let name = match repository.forge {
        Forge::Gitlab => text(&payload, "/project/path_with_namespace"),
        _ => text(&payload, "/repository/full_name"),
    };
    let kind = match repository.forge {
        Forge::Github => header("x-github-event"),
        Forge::Gitea => header("x-gitea-event"),
        Forge::Forgejo => header("x-forgejo-event").or_else(|| header("x-gitea-event")),
        Forge::Gitlab => header("x-gitlab-event"),
    };
    if kind == Some("ping") {
        return Err(Nothing::Idle("a greeting"));
    }
    if !name.eq_ignore_ascii_case(&repository.name) {
        return Err(Nothing::Foreign);
    }
    if told(&payload).is_some_and(|at| at.saturating_add(WINDOW_MILLIS) < now.0) {
        return Err(Nothing::Stale);
    }
    match (repository.forge, kind.unwrap_or_default()) {
        (Forge::Gitlab, "Push Hook" | "Tag Push Hook") => push(repository, text(&payload, "/user_username"), payload.clone()),
        (Forge::Gitlab, "Merge Request Hook") => merge_request(repository, &payload),
        (Forge::Gitlab, _) => Err(Nothing::Idle("this event starts no workflow here")),
        (_, "push") => {
            let actor = text(&payload, "/sender/login").to_owned();
            push(repository, &actor, payload)
        }
        (_, "pull_request" | "pull_request_sync") => pull_request(repository, payload),
        _ => Err(Nothing::Idle("this event starts no workflow here")),
    }
}

/// When the forge says that it happened, in milliseconds.
fn told(payload: &Value) -> Option<u64> {
    let pushed = payload.pointer("/repository/pushed_at").and_then(Value::as_u64).map(|seconds| seconds * 1000);
    let moment = |path: &str| {
        let moment: jiff::Timestamp = payload.pointer(path)?.as_str()?.parse().ok()?;
        u64::try_from(moment.as_millisecond()).ok()
    };
    pushed.or_else(|| moment("/pull_request/updated_at")).or_else(|| moment("/object_attributes/updated_at"))
}

/// The fields that every event has.
pub(crate) fn context(repository: &Repository, sha: &str, reference: &str, actor: &str, event: Value) -> Value {
    let owner = repository.name.split('/').next().unwrap_or_default();
    let (kind, short) = match reference.strip_prefix("refs/tags/") {
        Some(tag) => ("tag", tag),
        None => ("branch", reference.strip_prefix("refs/heads/").unwrap_or(reference.strip_prefix("refs/").unwrap_or(reference))),
    };
    let protected = reference.strip_prefix("refs/heads/").is_some_and(|branch| repository.protects(branch));
    json!({
        "repository": repository.name,
        "repository_owner": owner,
        "sha": sha,
        "ref": reference,
        "ref_name": short,
        "ref_type": kind,
        "ref_protected": protected,
        "head_ref": "",
        "base_ref": "",
        "actor": actor,
        "triggering_actor": actor,
        "clone_url": repository.clone,
        "event": event,
    })
}

fn push(repository: &Repository, actor: &str, payload: Value) -> Result<Delivery, Nothing> {
    let actor = actor.to_owned();
    let reference = text(&payload, "/ref").to_owned();
    if !reference.starts_with("refs/heads/") && !reference.starts_with("refs/tags/") {
        return Err(Nothing::Malformed("its ref is neither a branch nor a tag"));
    }
    let Some(sha) = commit(text(&payload, "/after")) else { return Err(Nothing::Idle("the branch or tag was deleted")) };
    let github = context(repository, &sha, &reference, &actor, payload);
    Ok(Delivery { event: "push".to_owned(), sha, github })
}

fn pull_request(repository: &Repository, mut payload: Value) -> Result<Delivery, Nothing> {
    // Gitea and Forgejo have a word of their own for new commits.
    if payload["action"] == "synchronized" {
        payload["action"] = "synchronize".into();
    }
    let number = payload["number"].as_u64().or_else(|| payload.pointer("/pull_request/number")?.as_u64());
    let number = number.ok_or(Nothing::Malformed("the pull request has no number"))?;
    let sha = commit(text(&payload, "/pull_request/head/sha")).ok_or(Nothing::Malformed("the head is no commit"))?;
    let head = text(&payload, "/pull_request/head/repo/full_name").to_owned();
    if head.is_empty() {
        // The fork is gone: nobody can say whose code this is.
        payload["pull_request"]["head"]["repo"] = json!({ "full_name": "unknown/unknown", "fork": true });
    }
    let (head_ref, base_ref) = (text(&payload, "/pull_request/head/ref").to_owned(), text(&payload, "/pull_request/base/ref").to_owned());
    let actor = text(&payload, "/sender/login").to_owned();
    let mut github = context(repository, &sha, &format!("refs/pull/{number}/head"), &actor, payload);
    github["head_ref"] = head_ref.into();
    github["base_ref"] = base_ref.into();
    Ok(Delivery { event: "pull_request".to_owned(), sha, github })
}

fn merge_request(repository: &Repository, payload: &Value) -> Result<Delivery, Nothing> {
    let action = match text(payload, "/object_attributes/action") {
        "open" => "opened",
        "reopen" => "reopened",
        // An update without new commits changes a title or a label.
        "update" if payload.pointer("/object_attributes/oldrev").is_some() => "synchronize",
        "close" | "merge" => "closed",
        _ => return Err(Nothing::Idle("the merge request has no new commits")),
    };
    let number =
        payload.pointer("/object_attributes/iid").and_then(Value::as_u64).ok_or(Nothing::Malformed("the merge request has no number"))?;
    let sha = commit(text(payload, "/object_attributes/last_commit/id")).ok_or(Nothing::Malformed("the last commit is none"))?;
    let source = text(payload, "/object_attributes/source/path_with_namespace");
    let source = if source.is_empty() { "unknown/unknown" } else { source };
    let (head_ref, base_ref) = (text(payload, "/object_attributes/source_branch"), text(payload, "/object_attributes/target_branch"));
    let fork = !source.eq_ignore_ascii_case(&repository.name);
    let event = json!({
        "action": action,
        "number": number,
        "pull_request": {
            "number": number,
            "title": text(payload, "/object_attributes/title"),
            "draft": payload.pointer("/object_attributes/draft").cloned().unwrap_or(false.into()),
            "head": { "ref": head_ref, "sha": sha, "repo": { "full_name": source, "fork": fork } },
            "base": { "ref": base_ref, "repo": { "full_name": repository.name } },
        },
        "repository": { "full_name": repository.name, "default_branch": repository.default_branch },
        "sender": { "login": text(payload, "/user/username") },
    });
    let reference = format!("refs/merge-requests/{number}/head");
    let mut github = context(repository, &sha, &reference, text(payload, "/user/username"), event);
    github["head_ref"] = head_ref.into();
    github["base_ref"] = base_ref.into();
    Ok(Delivery { event: "pull_request".to_owned(), sha, github })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn repository(forge: Forge) -> Repository {
        Repository {
            name: "acme/shop".into(),
            forge,
            api: String::new(),
            clone: "https://git.example.com/acme/shop.git".into(),
            secret: Vec::new(),
            token: None,
            clone_token: None,
            protected: vec![glob::Pattern::new("main").unwrap()],
            default_branch: "main".into(),
            statuses: true,
        }
    }

    fn take(forge: Forge, name: &str, kind: &str, payload: &Value) -> Result<Delivery, Nothing> {
        let header = |wanted: &str| (wanted == name).then_some(kind);
        read(&repository(forge), header, payload.to_string().as_bytes(), Timestamp(1_700_000_000_000))
    }

    const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn pushes_and_pull_requests_of_three_forges_become_one_thing() {
        let push =
            json!({ "ref": "refs/heads/main", "after": SHA, "repository": { "full_name": "Acme/Shop" }, "sender": { "login": "ada" } });
        for (forge, name) in [(Forge::Github, "x-github-event"), (Forge::Gitea, "x-gitea-event"), (Forge::Forgejo, "x-forgejo-event")] {
            let delivery = take(forge, name, "push", &push).unwrap();
            assert_eq!((delivery.event.as_str(), delivery.sha.as_str()), ("push", SHA));
            assert_eq!(
                (&delivery.github["ref_name"], &delivery.github["ref_protected"], &delivery.github["actor"]),
                (&"main".into(), &true.into(), &"ada".into())
            );
        }
        let gitlab =
            json!({ "ref": "refs/heads/topic", "after": SHA, "project": { "path_with_namespace": "acme/shop" }, "user_username": "ada" });
        let delivery = take(Forge::Gitlab, "x-gitlab-event", "Push Hook", &gitlab).unwrap();
        assert_eq!((&delivery.github["ref_protected"], &delivery.github["actor"]), (&false.into(), &"ada".into()));
        let pull = json!({
            "action": "synchronized", "number": 7, "repository": { "full_name": "acme/shop" }, "sender": { "login": "eve" },
            "pull_request": { "head": { "sha": SHA, "ref": "x", "repo": { "full_name": "eve/shop" } }, "base": { "ref": "main" } },
        });
        let delivery = take(Forge::Gitea, "x-gitea-event", "pull_request", &pull).unwrap();
        assert_eq!((&delivery.github["ref"], &delivery.github["base_ref"]), (&"refs/pull/7/head".into(), &"main".into()));
        assert_eq!(delivery.github["event"]["action"], "synchronize");
        let merge = json!({
            "project": { "path_with_namespace": "acme/shop" }, "user": { "username": "eve" },
            "object_attributes": { "action": "open", "iid": 3, "last_commit": { "id": SHA }, "source_branch": "x", "target_branch": "main", "source": { "path_with_namespace": "eve/shop" } },
        });
        let delivery = take(Forge::Gitlab, "x-gitlab-event", "Merge Request Hook", &merge).unwrap();
        assert_eq!(delivery.github["event"]["pull_request"]["head"]["repo"]["full_name"], "eve/shop");
    }

    #[test]
    fn what_starts_nothing_says_why() {
        let deleted = json!({ "ref": "refs/heads/x", "after": "0".repeat(40), "repository": { "full_name": "acme/shop" } });
        assert!(matches!(take(Forge::Github, "x-github-event", "push", &deleted), Err(Nothing::Idle(_))));
        let other = json!({ "ref": "refs/heads/x", "after": SHA, "repository": { "full_name": "eve/shop" } });
        assert_eq!(take(Forge::Github, "x-github-event", "push", &other), Err(Nothing::Foreign));
        let old = json!({ "ref": "refs/heads/x", "after": SHA, "repository": { "full_name": "acme/shop", "pushed_at": 1_600_000_000 } });
        assert_eq!(take(Forge::Github, "x-github-event", "push", &old), Err(Nothing::Stale));
        let odd = json!({ "ref": "refs/heads/x", "after": "$(reboot)", "repository": { "full_name": "acme/shop" } });
        assert!(take(Forge::Github, "x-github-event", "push", &odd).is_err());
        assert!(matches!(take(Forge::Github, "x-github-event", "star", &old), Err(Nothing::Stale | Nothing::Idle(_))));
    }
}
