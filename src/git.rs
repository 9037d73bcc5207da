//! What git knows of a checkout, asked safely: nothing of the repository's own configuration is executed, nothing is fetched,
//! nothing is written, and no question is asked of the person.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use caisson_model::outcome::Fault;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

use crate::report::Explained;

/// The longest that one question may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many files one question is about: their names are its arguments.
const MOST_AT_ONCE: usize = 500;

/// From where changes count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    /// From the named commit itself, as for a push.
    There,
    /// From where the histories parted, as for a pull request.
    Fork,
}

/// A repository, seen from one folder in its work tree.
#[derive(Clone, Debug)]
pub(crate) struct Repository {
    /// The folder.
    pub(crate) directory: PathBuf,
    /// Whether that folder is the top of the work tree.
    pub(crate) top: bool,
    /// Where HEAD and the index are.
    pub(crate) git_dir: PathBuf,
    /// Where objects and branches are; the same, but in a linked work tree.
    pub(crate) common_dir: PathBuf,
}

/// git did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GitError {
    /// There is a repository and no git.
    #[error("{} is in a git repository, but git cannot be started", .0.display())]
    Absent(PathBuf, #[source] std::io::Error),
    /// It failed.
    #[error("git {question} failed in {}: {message}", directory.display())]
    Failed {
        /// Its arguments.
        question: String,
        /// Where.
        directory: PathBuf,
        /// What it said.
        message: String,
    },
    /// It took too long.
    #[error("git {question} gave no answer within a minute in {}", directory.display())]
    Slow {
        /// Its arguments.
        question: String,
        /// Where.
        directory: PathBuf,
    },
}

impl Explained for GitError {
    fn fault(&self) -> Fault {
        Fault::Environment
    }

    fn help(&self) -> Option<String> {
        match self {
            GitError::Absent(..) => Some("install git".to_owned()),
            GitError::Failed { question, directory, .. } | GitError::Slow { question, directory } => {
                Some(format!("try it by hand: git -C {} {question}", directory.display()))
            }
        }
    }
}

impl Repository {
    /// The repository that `directory` lies in, if it lies in one.
    pub(crate) fn of(directory: &Path) -> Result<Option<Repository>, GitError> {
        // Only where some folder above has a `.git` does a missing git matter.
        if !directory.ancestors().any(|folder| folder.join(".git").exists()) {
            return Ok(None);
        }
        let question = ["rev-parse", "--show-toplevel", "--absolute-git-dir", "--git-common-dir"];
        let output = match ask(directory, &question)? {
            Answer::Yes(output) => output,
            Answer::No(message) if message.contains("not a git repository") || message.contains("must be run in a work tree") => {
                return Ok(None);
            }
            Answer::No(message) => return Err(failed(directory, &question, message)),
        };
        let lines: Vec<PathBuf> = output.split(|b| *b == b'\n').map(|line| PathBuf::from(OsStr::from_bytes(line))).collect();
        let [top, git_dir, common_dir, ..] = &lines[..] else {
            return Err(failed(directory, &question, "the answer has too few lines".to_owned()));
        };
        Ok(Some(Repository {
            directory: directory.to_owned(),
            top: top == directory,
            git_dir: git_dir.clone(),
            common_dir: directory.join(common_dir),
        }))
    }

    /// Every file below the folder that git knows or does not ignore, relative to it. A path that ends in `/` is another
    /// repository that lies inside.
    pub(crate) fn files(&self) -> Result<Vec<PathBuf>, GitError> {
        let output = self.must(&["ls-files", "-z", "--cached", "--others", "--exclude-standard"])?;
        let mut paths: Vec<PathBuf> =
            output.split(|b| *b == 0).filter(|path| !path.is_empty()).map(|path| PathBuf::from(OsStr::from_bytes(path))).collect();
        paths.sort();
        // A path in conflict is listed once per side.
        paths.dedup();
        Ok(paths)
    }

    /// A value of the repository's own or the user's configuration.
    pub(crate) fn setting(&self, name: &str) -> Result<Option<String>, GitError> {
        Ok(self.maybe(&["config", "--get", name])?.filter(|text| !text.is_empty()))
    }

    /// The paths below the folder that differ from `base`, relative to it: what was committed since, what is staged, what is changed in
    /// the work tree and what is new there. With `Since::Fork` only from where the two histories parted. `None` when `base` names no
    /// commit. Files are compared by their digests: comparing them as git does would execute filters of the repository.
    pub(crate) fn changes(&self, base: &str, since: Since) -> Result<Option<Vec<String>>, GitError> {
        let name = format!("{base}^{{commit}}");
        let Some(mut from) = self.maybe(&["rev-parse", "--verify", "--quiet", "--end-of-options", &name])? else { return Ok(None) };
        if since == Since::Fork
            && let Some(fork) = self.maybe(&["merge-base", &from, "HEAD"])?
        {
            from = fork;
        }
        let mut changed = BTreeSet::new();
        let mut add = |output: Vec<u8>| changed.extend(output.split(|b| *b == 0).filter(|path| !path.is_empty()).map(<[u8]>::to_vec));
        add(self.must(&["diff-tree", "-r", "-z", "--name-only", "--no-renames", "--relative", &from, "HEAD"])?);
        add(self.must(&["diff-index", "--cached", "-z", "--name-only", "--no-renames", "--relative", "HEAD"])?);
        add(self.must(&["ls-files", "-z", "--others", "--exclude-standard"])?);
        let staged = self.must(&["ls-files", "-z", "--stage"])?;
        // MODE DIGEST STAGE, a tab, the path.
        let staged = staged.split(|b| *b == 0).filter_map(|line| {
            let tab = line.iter().position(|b| *b == b'\t')?;
            let digest = line[..tab].split(|b| *b == b' ').nth(1)?;
            line.starts_with(b"100").then(|| (digest.to_vec(), line[tab + 1..].to_vec()))
        });
        let (there, gone): (Vec<_>, Vec<_>) = staged.partition(|(_, path)| {
            let path = self.directory.join(OsStr::from_bytes(path));
            path.symlink_metadata().is_ok_and(|metadata| metadata.is_file())
        });
        changed.extend(gone.into_iter().map(|(_, path)| path));
        for piece in there.chunks(MOST_AT_ONCE) {
            let paths: Vec<&OsStr> = piece.iter().map(|(_, path)| OsStr::from_bytes(path)).collect();
            let question: Vec<&OsStr> = ["hash-object", "--no-filters", "--"].iter().map(OsStr::new).chain(paths).collect();
            let Answer::Yes(digests) = ask(&self.directory, &question)? else { continue };
            let same = digests.split(|b| *b == b'\n').zip(piece);
            changed.extend(same.filter(|(digest, (staged, _))| *digest != staged.as_slice()).map(|(_, (_, path))| path.clone()));
        }
        Ok(Some(changed.into_iter().map(|path| String::from_utf8_lossy(&path).into_owned()).collect()))
    }

    fn must(&self, question: &[&str]) -> Result<Vec<u8>, GitError> {
        match ask(&self.directory, question)? {
            Answer::Yes(output) => Ok(output),
            Answer::No(message) => Err(failed(&self.directory, question, message)),
        }
    }

    fn maybe(&self, question: &[&str]) -> Result<Option<String>, GitError> {
        match ask(&self.directory, question)? {
            Answer::Yes(output) => Ok(Some(String::from_utf8_lossy(&output).trim_end_matches('\n').to_owned())),
            Answer::No(_) => Ok(None),
        }
    }
}

fn failed(directory: &Path, question: &[impl AsRef<str>], message: String) -> GitError {
    GitError::Failed {
        question: question.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" "),
        directory: directory.to_owned(),
        message,
    }
}

enum Answer {
    Yes(Vec<u8>),
    No(String),
}

fn ask(directory: &Path, question: &[impl AsRef<OsStr>]) -> Result<Answer, GitError> {
    let mut command = Command::new("git");
    command.arg("-C").arg(directory).arg("--no-optional-locks").arg("--no-pager");
    for setting in [
        // What a repository's configuration could make git execute or reach.
        "core.fsmonitor=false",
        "core.hooksPath=/dev/null",
        "core.pager=cat",
        "log.showSignature=false",
        "protocol.allow=never",
        // A checkout of another user is read all the same: nothing in it is executed.
        "safe.directory=*",
    ] {
        command.args(["-c", setting]);
    }
    command.args(question);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_bytes().starts_with(b"GIT_")) {
        // GIT_DIR and its kin would make it look elsewhere.
        command.env_remove(name);
    }
    command.envs([("LC_ALL", "C"), ("GIT_TERMINAL_PROMPT", "0"), ("GIT_OPTIONAL_LOCKS", "0"), ("GIT_NO_LAZY_FETCH", "1")]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| GitError::Absent(directory.to_owned(), error))?;
    let words = || question.iter().map(|word| word.as_ref().to_string_lossy().into_owned()).take(8).collect::<Vec<_>>();
    let broken = |error: std::io::Error| failed(directory, &words(), error.to_string());
    let read = gather(&mut child);
    if !matches!(read, Ok(Some(_))) {
        // An error means that it has ended just now.
        let _ = child.kill();
    }
    let status = child.wait().map_err(broken)?;
    match read.map_err(broken)? {
        None => Err(GitError::Slow { question: words().join(" "), directory: directory.to_owned() }),
        Some([out, _]) if status.success() => Ok(Answer::Yes(out)),
        Some([_, err]) => Ok(Answer::No(String::from_utf8_lossy(&err).trim().to_owned())),
    }
}

/// Both outputs of a child until it closes them; `None` when that takes too long. Without threads: the caller may still have
/// to do what only a process with one thread can.
fn gather(child: &mut Child) -> std::io::Result<Option<[Vec<u8>; 2]>> {
    let mut streams: [Option<File>; 2] =
        [child.stdout.take().map(|out| File::from(OwnedFd::from(out))), child.stderr.take().map(|err| File::from(OwnedFd::from(err)))];
    let mut gathered = [Vec::new(), Vec::new()];
    let deadline = Instant::now() + PATIENCE;
    let mut buffer = vec![0; 64 * 1024];
    while streams.iter().any(Option::is_some) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let mut polled: Vec<PollFd<'_>> = streams.iter().flatten().map(|stream| PollFd::new(stream.as_fd(), PollFlags::POLLIN)).collect();
        match poll(&mut polled, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut ready = polled.iter().map(|fd| fd.any().unwrap_or(false)).collect::<Vec<_>>().into_iter();
        for (stream, bytes) in streams.iter_mut().zip(&mut gathered) {
            let Some(file) = stream else { continue };
            if ready.next() == Some(true) {
                match file.read(&mut buffer)? {
                    0 => *stream = None,
                    count => bytes.extend_from_slice(&buffer[..count]),
                }
            }
        }
    }
    Ok(Some(gathered))
}

/// What the `github` context says of a checkout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// `OWNER/NAME`.
    pub(crate) repository: String,
    /// The commit, 40 zeros without one.
    pub(crate) sha: String,
    /// `refs/heads/NAME` or `refs/tags/NAME`.
    pub(crate) reference: String,
    /// The branch that pull requests are for.
    pub(crate) default_branch: String,
    /// Who runs this.
    pub(crate) actor: String,
    /// The commit's message, author, address and date.
    pub(crate) head: BTreeMap<&'static str, String>,
}

impl Facts {
    /// Asks git, and makes up what a folder without git does not say. `actor` is the name of the user.
    pub(crate) fn of(directory: &Path, repository: Option<&Repository>, actor: &str) -> Result<Facts, GitError> {
        let folder = directory.file_name().map_or_else(|| "checkout".into(), |name| name.to_string_lossy().into_owned());
        let mut facts = Facts {
            repository: format!("local/{}", plain(&folder)),
            sha: "0".repeat(40),
            reference: "refs/heads/main".to_owned(),
            default_branch: "main".to_owned(),
            actor: plain(actor),
            head: BTreeMap::new(),
        };
        let Some(git) = repository else { return Ok(facts) };
        if let Some(name) = git.setting("remote.origin.url")?.as_deref().and_then(repository_of) {
            facts.repository = name;
        }
        if let Some(sha) = git.maybe(&["rev-parse", "--verify", "--quiet", "HEAD^{commit}"])? {
            facts.sha = sha;
            let format = ["log", "-1", "--no-color", "--no-show-signature", "--format=%an%x00%ae%x00%cI%x00%B", "HEAD"];
            if let Some(text) = git.maybe(&format)? {
                let fields = ["name", "email", "timestamp", "message"];
                facts.head = fields.into_iter().zip(text.splitn(4, '\0').map(|field| field.trim_end().to_owned())).collect();
            }
        }
        facts.reference = match git.maybe(&["symbolic-ref", "--quiet", "HEAD"])? {
            Some(branch) => branch,
            // A detached HEAD is most often a tag that was checked out.
            None => match git.maybe(&["for-each-ref", "--points-at=HEAD", "--count=1", "--format=%(refname)", "refs/tags"])? {
                Some(tag) if !tag.is_empty() => tag,
                _ => "refs/heads/HEAD".to_owned(),
            },
        };
        if let Some(head) = git.maybe(&["symbolic-ref", "--quiet", "--short", "refs/remotes/origin/HEAD"])?
            && let Some((_, branch)) = head.split_once('/')
        {
            facts.default_branch = branch.to_owned();
        }
        Ok(facts)
    }

    /// The fields of the `github` context for an event, as near to the real ones as a local checkout can say.
    pub(crate) fn context(&self, event: &str) -> Value {
        let (owner, name) = self.repository.split_once('/').unwrap_or(("local", &self.repository));
        let (kind, short) = match self.reference.strip_prefix("refs/tags/") {
            Some(tag) => ("tag", tag),
            None => ("branch", self.reference.strip_prefix("refs/heads/").unwrap_or(&self.reference)),
        };
        let head = |key: &str| self.head.get(key).cloned().unwrap_or_default();
        let repository = json!({
            "name": name,
            "full_name": self.repository,
            "owner": { "login": owner },
            "default_branch": self.default_branch,
            "fork": false,
        });
        let mut payload = json!({ "repository": repository, "sender": { "login": self.actor } });
        let (mut head_ref, mut base_ref) = ("", "");
        match event {
            "pull_request" => {
                (head_ref, base_ref) = (short, &self.default_branch);
                payload["action"] = "synchronize".into();
                payload["pull_request"] = json!({
                    "draft": false,
                    "head": { "ref": short, "sha": self.sha, "repo": repository },
                    "base": { "ref": self.default_branch, "repo": repository },
                });
            }
            _ => {
                payload["ref"] = self.reference.clone().into();
                payload["after"] = self.sha.clone().into();
                payload["head_commit"] = json!({
                    "id": self.sha,
                    "message": head("message"),
                    "timestamp": head("timestamp"),
                    "author": { "name": head("name"), "email": head("email") },
                });
            }
        }
        json!({
            "repository": self.repository,
            "repository_owner": owner,
            "sha": self.sha,
            "ref": self.reference,
            "ref_name": short,
            "ref_type": kind,
            "head_ref": head_ref,
            "base_ref": base_ref,
            "actor": self.actor,
            "triggering_actor": self.actor,
            "event": payload,
        })
    }
}

/// A name that is safe wherever a workflow may paste it.
fn plain(name: &str) -> String {
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' }).take(100).collect();
    if name.trim_matches(['.', '-']).is_empty() { "unknown".to_owned() } else { name }
}

/// `OWNER/NAME` of a remote's URL in any of git's forms; `None` for a path on this machine that has no two parts.
fn repository_of(url: &str) -> Option<String> {
    let path = match url.split_once("://") {
        Some((_, rest)) => rest.split_once('/').map_or("", |(_, path)| path),
        // The scp form: user@host:path.
        None => url.split_once(':').map_or(url, |(_, path)| path),
    };
    let mut parts =
        path.split(['?', '#']).next()?.trim_end_matches('/').trim_end_matches(".git").rsplit('/').filter(|part| !part.is_empty());
    let (name, owner) = (parts.next()?, parts.next()?);
    Some(format!("{}/{}", plain(owner), plain(name)))
}

/// A remote's URL without what could be a credential; `None` when it cannot be told apart.
pub(crate) fn without_credentials(url: &str) -> Option<String> {
    if url.chars().any(|c| c.is_control() || c.is_whitespace() || matches!(c, '"' | '\\')) {
        return None;
    }
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            let path = path.split(['?', '#']).next().unwrap_or_default();
            Some(format!("{scheme}://{host}/{path}"))
        }
        // In the scp form the user is a login name and no secret; a password cannot be written there.
        None => Some(url.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn repositories_are_named_without_host_or_credentials() {
        let table = [
            ("https://example.com/team/shop.git", Some("team/shop")),
            ("https://user:token@example.com/team/shop", Some("team/shop")),
            ("git@example.com:team/shop.git", Some("team/shop")),
            ("ssh://git@example.com:22/group/sub/shop/", Some("sub/shop")),
            ("/srv/git/shop.git", Some("git/shop")),
            ("https://example.com/shop", None),
            ("https://example.com/a b/$(x)?token=1", Some("a-b/--x-")),
        ];
        for (url, name) in table {
            assert_eq!(repository_of(url).as_deref(), name, "{url}");
        }
    }

    #[test]
    fn a_url_loses_its_credentials() {
        let table = [
            ("https://user:token@example.com/a/b.git", Some("https://example.com/a/b.git")),
            ("https://example.com/a/b?access_token=x", Some("https://example.com/a/b")),
            ("https://user@evil@example.com/a", Some("https://example.com/a")),
            ("git@example.com:a/b", Some("git@example.com:a/b")),
            ("https://example.com/a\n[core]", None),
        ];
        for (url, clean) in table {
            assert_eq!(without_credentials(url).as_deref(), clean, "{url}");
        }
    }

    #[test]
    fn a_folder_without_git_has_facts_all_the_same() {
        let facts = Facts::of(Path::new("/home/ann/my shop"), None, "ann smith").unwrap();
        let context = facts.context("push");
        assert_eq!(context["repository"], "local/my-shop");
        assert_eq!(
            (&context["ref_name"], &context["ref_type"], &context["actor"]),
            (&json!("main"), &json!("branch"), &json!("ann-smith"))
        );
        let pull = Facts { reference: "refs/heads/feature/x".into(), ..facts }.context("pull_request");
        assert_eq!((&pull["head_ref"], &pull["base_ref"]), (&json!("feature/x"), &json!("main")));
    }
}
