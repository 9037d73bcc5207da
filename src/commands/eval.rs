//! `caisson eval`: what an expression gives, for whoever debugs one, and for tests that drive the language from outside.

use std::io::{BufRead as _, Read as _};
use std::path::{Path, PathBuf};

use caisson_agent::hash_files::{self, Patterns};
use caisson_expr::{Context, ExprError, Expression, Function, Object, Status, Value, evaluate};
use caisson_model::outcome::Fault;
use serde_json::{Value as Json, json};
use sha2::{Digest as _, Sha256};

use crate::cli::Eval;
use crate::report::{self, Exit, Explained, Failure};

/// A file of contexts, or a line of standard input, longer than this is none.
const LONGEST: u64 = 64 << 20;

/// Contexts cannot be taken.
#[derive(Debug, thiserror::Error)]
enum EvalError {
    /// The file cannot be read.
    #[error("cannot read the contexts in {}", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    /// Standard input cannot be read.
    #[error("cannot read standard input")]
    Input(#[source] std::io::Error),
    /// The file holds no contexts.
    #[error("{} holds no contexts: {reason}", path.display())]
    Contexts {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl Explained for EvalError {
    fn fault(&self) -> Fault {
        match self {
            EvalError::Input(_) => Fault::Environment,
            _ => Fault::User,
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            EvalError::Contexts { .. } => {
                Some("write a JSON object with a key for each context: {\"github\": {\"ref\": \"...\"}}".to_owned())
            }
            _ => None,
        }
    }
}

/// Evaluates one expression, or one per line of standard input.
pub(crate) fn run(arguments: &Eval) -> Result<Exit, Failure> {
    let contexts = match &arguments.context {
        Some(path) => read(path)?,
        None => Object::new(),
    };
    match &arguments.expression {
        Some(text) => {
            let answer = answer(text, &contexts);
            let wrong = answer.get("err").is_some();
            let printed = report::print(&format!("{answer}\n"));
            Ok(if wrong { Exit::USAGE.worst(printed) } else { printed })
        }
        None => lines(&contexts),
    }
}

fn read(path: &Path) -> Result<Object, EvalError> {
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| EvalError::Read(path.to_owned(), error))?;
    file.take(LONGEST).read_to_string(&mut text).map_err(|error| EvalError::Read(path.to_owned(), error))?;
    let wrong = |reason: String| EvalError::Contexts { path: path.to_owned(), reason };
    let json: Json = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    match Value::from_json(&json) {
        Value::Object(contexts) => Ok(contexts),
        other => Err(wrong(format!("it is {}, not an object", other.kind().as_str().to_lowercase()))),
    }
}

/// One answer per line, at once: whoever drives this may wait for it before the next line.
fn lines(contexts: &Object) -> Result<Exit, Failure> {
    let mut input = std::io::stdin().lock();
    let mut worst = Exit::PASSED;
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut input).take(LONGEST).read_until(b'\n', &mut line).map_err(EvalError::Input)?;
        if read == 0 {
            return Ok(worst);
        }
        let answer = match request(&line, contexts) {
            Ok(answer) => answer,
            Err(reason) => {
                worst = worst.worst(Exit::USAGE);
                json!({"err": {"kind": "request", "value": reason}})
            }
        };
        worst = worst.worst(report::print(&format!("{answer}\n")));
    }
}

fn request(line: &[u8], contexts: &Object) -> Result<Json, String> {
    let json: Json = serde_json::from_slice(line).map_err(|error| format!("the line is not JSON: {error}"))?;
    let text = json.get("expr").and_then(Json::as_str).ok_or("the line has no text under \"expr\"")?;
    let given = match json.get("contexts").unwrap_or(&Json::Null) {
        Json::Null => contexts.clone(),
        Json::Object(given) => {
            let mut all = contexts.clone();
            given.iter().for_each(|(name, value)| all.insert(name, Value::from_json(value)));
            all
        }
        _ => return Err("\"contexts\" is not an object".to_owned()),
    };
    Ok(answer(text, &given))
}

/// `{"kind": ..., "value": ...}`, or `{"err": {"kind": ..., "value": ...}}`.
fn answer(text: &str, contexts: &Object) -> Json {
    match value(text, contexts) {
        Ok(value) => json!({"kind": value.kind().as_str(), "value": value.to_json()}),
        Err(error) => json!({"err": {"kind": error.kind.as_str(), "value": error.official(text)}}),
    }
}

fn value(text: &str, contexts: &Object) -> Result<Value, ExprError> {
    // As people copy it from a workflow, marks and all.
    let inside = text.trim().strip_prefix("${{").and_then(|rest| rest.strip_suffix("}}"));
    let names: Vec<&str> = contexts.iter().map(|(name, _)| name).collect();
    let expression = Expression::parse_among(inside.unwrap_or(text), &names)?;
    evaluate(&expression, &Here(contexts))
}

/// The contexts given, the status that `job.status` among them says, and the files of the current directory.
struct Here<'c>(&'c Object);

impl Context for Here<'_> {
    fn named(&self, name: &str) -> Option<Value> {
        self.0.get(name).cloned()
    }

    fn status(&self, function: Function, _arguments: &[Value]) -> Result<bool, String> {
        let said = match self.0.get("job") {
            Some(Value::Object(job)) => job.get("status").map(Value::to_text).unwrap_or_default(),
            _ => String::new(),
        };
        let status = match said.as_str() {
            "failure" => Status::Failure,
            "cancelled" => Status::Cancelled,
            _ => Status::Success,
        };
        status.answer(function).ok_or_else(|| format!("{function}() is not available here"))
    }

    fn hash_files(&self, patterns: &[String]) -> Result<String, String> {
        let here = std::env::current_dir().map_err(|error| format!("there is no current directory: {error}"))?;
        let patterns = Patterns::of(patterns, &here.display().to_string())?;
        let (mut digests, mut files) = (Vec::new(), 0);
        let mut paths: Vec<String> = walkdir::WalkDir::new(&here)
            .into_iter()
            .filter_map(Result::ok)
            .filter(|entry| entry.file_type().is_file())
            .filter_map(|entry| Some(entry.path().strip_prefix(&here).ok()?.to_str()?.to_owned()))
            .filter(|path| patterns.matches(path))
            .collect();
        paths.sort_unstable();
        for path in paths {
            let mut hasher = Sha256::new();
            let mut file = std::fs::File::open(here.join(&path)).map_err(|error| format!("cannot read {path}: {error}"))?;
            let mut piece = vec![0; 1 << 16];
            loop {
                match file.read(&mut piece).map_err(|error| format!("cannot read {path}: {error}"))? {
                    0 => break,
                    count => hasher.update(&piece[..count]),
                }
            }
            digests.extend(hasher.finalize().iter().flat_map(|byte| format!("{byte:02x}").into_bytes()));
            digests.push(0);
            files += 1;
        }
        if files == 0 { Ok(String::new()) } else { hash_files::combine(&digests, files) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_the_kind_and_the_value_or_the_reason() {
        let contexts: Object = [("github", Value::from_json(&json!({"ref": "refs/heads/main"})))].into_iter().collect();
        for (text, expected) in [
            ("github.ref", json!({"kind": "String", "value": "refs/heads/main"})),
            ("${{ GitHub.REF == 'x' }}", json!({"kind": "Boolean", "value": false})),
            ("fromJSON('[1, 2.5]')", json!({"kind": "Array", "value": [1, 2.5]})),
            ("always() && !failure()", json!({"kind": "Boolean", "value": true})),
            (
                "1 = 2",
                json!({"err": {"kind": "lexing", "value": "Unexpected symbol: '='. Located at position 3 within expression: 1 = 2"}}),
            ),
            (
                "fromJSON(nope,",
                json!({"err": {"kind": "parsing", "value": "Unrecognized named-value: 'nope'. Located at position 10 within expression: fromJSON(nope,"}}),
            ),
            (
                "format('{0}')",
                json!({"err": {"kind": "evaluation", "value": "The following format string references more arguments than were supplied: {0}"}}),
            ),
        ] {
            assert_eq!(answer(text, &contexts), expected, "{text}");
        }
        assert!(request(b"nonsense", &contexts).is_err() && request(b"{}", &contexts).is_err());
    }
}
