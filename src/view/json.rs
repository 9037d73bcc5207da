//! One JSON object per line, for programs.

use std::collections::HashMap;
use std::io::{self, Write};

use caisson_model::id::{AttemptId, RunId, StepIndex};
use caisson_model::log::{LogKey, LogRead};
use caisson_model::outcome::{Annotation, Cause, EgressEntry, EgressPhase};
use caisson_model::run::{JobView, RunEvent, RunState, RunView, StepState, StepView};
use caisson_model::time::Timestamp;
use serde_json::{Value, json};

use crate::artifacts::Fetched;
use crate::view::board::Board;
use crate::view::news::News;
use crate::view::screen::View;
use crate::view::text::Splitter;

/// The view.
pub(crate) struct Json<W> {
    out: W,
    splitter: Splitter,
    /// When the line that is not whole yet began, by log.
    begun: HashMap<LogKey, Timestamp>,
    /// How many annotations of a step were told while it ran.
    told: HashMap<(AttemptId, StepIndex), usize>,
    /// How many attempts to reach something were, likewise.
    reached: HashMap<(AttemptId, StepIndex), usize>,
}

impl<W: Write> Json<W> {
    /// Shows on `out`.
    pub(crate) fn new(out: W) -> Json<W> {
        Json { out, splitter: Splitter::default(), begun: HashMap::new(), told: HashMap::new(), reached: HashMap::new() }
    }

    fn line(&mut self, value: &Value) -> io::Result<()> {
        writeln!(self.out, "{value}")?;
        self.out.flush()
    }

    fn log(&mut self, board: &Board, key: LogKey, read: &LogRead) -> io::Result<()> {
        let at = match read {
            LogRead::Chunk(chunk) => *self.begun.entry(key).or_insert(chunk.at),
            LogRead::Seal(_) => self.begun.remove(&key).unwrap_or_default(),
        };
        let lines = self.splitter.take(key, read);
        match read {
            LogRead::Chunk(chunk) if !lines.is_empty() && self.splitter.has_begun(key) => drop(self.begun.insert(key, chunk.at)),
            LogRead::Chunk(_) if lines.is_empty() => {}
            _ => drop(self.begun.remove(&key)),
        }
        for text in lines {
            let mut value = place(board, "log", key.attempt, key.step);
            value["at"] = time(Some(at));
            value["text"] = String::from_utf8_lossy(&text).into();
            self.line(&value)?;
        }
        if let LogRead::Seal(seal) = read {
            for gap in &seal.gaps {
                let mut value = place(board, "log", key.attempt, key.step);
                value["gap"] = json!({ "offset": gap.offset, "bytes": gap.bytes, "reason": gap.reason });
                self.line(&value)?;
            }
        }
        Ok(())
    }

    fn annotation(&mut self, board: &Board, attempt: AttemptId, step: StepIndex, annotation: &Annotation) -> io::Result<()> {
        let mut value = place(board, "annotation", attempt, step);
        value["level"] = json!(annotation.level);
        value["message"] = annotation.message.clone().into();
        value["title"] = json!(annotation.title);
        value["file"] = json!(annotation.file);
        value["line"] = json!(annotation.line);
        value["column"] = json!(annotation.column);
        *self.told.entry((attempt, step)).or_default() += 1;
        self.line(&value)
    }

    /// An attempt: once when it is over, and before that when it stands.
    fn egress(&mut self, board: &Board, attempt: AttemptId, step: StepIndex, entry: &EgressEntry) -> io::Result<()> {
        let value = egress_object(board, attempt, step, entry);
        if entry.phase == EgressPhase::Ended {
            *self.reached.entry((attempt, step)).or_default() += 1;
        }
        self.line(&value)
    }

    fn step(&mut self, board: &Board, view: &StepView) -> io::Result<()> {
        if let Some(result) = &view.result {
            let told = self.told.remove(&(view.attempt, view.index)).unwrap_or_default();
            for annotation in result.annotations.iter().skip(told) {
                self.annotation(board, view.attempt, view.index, annotation)?;
            }
            self.told.remove(&(view.attempt, view.index));
            let told = self.reached.remove(&(view.attempt, view.index)).unwrap_or_default();
            for entry in result.egress.iter().skip(told) {
                self.egress(board, view.attempt, view.index, entry)?;
            }
            self.reached.remove(&(view.attempt, view.index));
        }
        self.line(&step_object(board, view))
    }
}

impl<W: Write> View for Json<W> {
    fn news(&mut self, board: &Board, news: &News) -> io::Result<()> {
        match news {
            News::Log(key, read) => self.log(board, *key, read),
            News::Event(_, event) => match &event.event {
                // The last line of everything is a finished run, so that these wait for the end.
                RunEvent::Run(view) if view.state == RunState::Finished => Ok(()),
                RunEvent::Run(view) => self.line(&run_object(view, None)),
                RunEvent::Job(view) => self.line(&job_object(board, view)),
                RunEvent::Step(view) => self.step(board, view),
                RunEvent::Annotation { attempt, step, annotation } => self.annotation(board, *attempt, *step, annotation),
                RunEvent::Egress { attempt, step, entry } => self.egress(board, *attempt, *step, entry),
            },
        }
    }

    fn remark(&mut self, text: &str) -> io::Result<()> {
        // Standard output holds objects alone.
        crate::report::note(text);
        Ok(())
    }

    fn finish(&mut self, board: &Board) -> io::Result<()> {
        for Fetched { run, artifact, path } in &board.artifacts {
            self.line(&json!({
                "type": "artifact",
                "run": run,
                "job": artifact.job.to_string(),
                "name": artifact.name,
                "path": path,
                "files": artifact.files,
                "bytes": artifact.bytes,
                "digest": artifact.digest.to_string(),
            }))?;
        }
        let mut runs: Vec<_> = board.runs.values().map(|run| (run.exit(), run)).collect();
        // The worst stands last, and is what a reader of one line needs.
        runs.sort_by(|(a, _), (b, _)| match (a == b, a.worst(*b) == *a) {
            (true, _) => std::cmp::Ordering::Equal,
            (false, true) => std::cmp::Ordering::Greater,
            (false, false) => std::cmp::Ordering::Less,
        });
        for (exit, run) in runs {
            self.line(&run_object(&run.view, Some(exit.0)))?;
        }
        Ok(())
    }
}

/// A point in time as RFC 3339, or null.
pub(crate) fn time(at: Option<Timestamp>) -> Value {
    let text = at.and_then(|at| jiff::Timestamp::from_millisecond(i64::try_from(at.0).ok()?).ok());
    text.map_or(Value::Null, |text| format!("{text:.3}").into())
}

fn cause(cause: Option<&Cause>) -> Value {
    match cause {
        None => Value::Null,
        Some(cause) => {
            let mut value = json!(cause);
            value["text"] = cause.to_string().into();
            value["fault"] = json!(cause.fault());
            value
        }
    }
}

fn place(board: &Board, kind: &str, attempt: AttemptId, step: StepIndex) -> Value {
    let job = board.job(attempt);
    json!({
        "type": kind,
        "run": attempt.job.run,
        "job": attempt.job.to_string(),
        "job_name": job.map(|job| job.view.name.clone()),
        "attempt": attempt.number,
        "step": step,
        "step_name": job.and_then(|job| Some(job.steps.get(&step)?.view.name.clone())),
    })
}

/// A run; `exit` is the code of a command that waited for it.
pub(crate) fn run_object(view: &RunView, exit: Option<u8>) -> Value {
    let RunId(id) = view.id;
    let mut value = json!({
        "type": "run",
        "id": id,
        "name": view.workflow,
        "file": view.file,
        "event": view.event,
        "state": view.state,
        "outcome": view.outcome,
        "submitted": time(Some(view.submitted)),
        "started": time(view.started),
        "finished": time(view.finished),
        "ledger": view.ledger,
    });
    if let Some(exit) = exit {
        value["exit_code"] = exit.into();
    }
    value
}

/// An attempt of a step to reach something.
pub(crate) fn egress_object(board: &Board, attempt: AttemptId, step: StepIndex, entry: &EgressEntry) -> Value {
    let mut value = place(board, "egress", attempt, step);
    value["at"] = time(Some(entry.at));
    value["kind"] = json!(entry.kind);
    value["phase"] = json!(entry.phase);
    value["host"] = entry.host.clone().into();
    value["port"] = entry.port.into();
    value["verdict"] = json!(entry.verdict);
    value["rule"] = entry.rule.clone().into();
    value["address"] = json!(entry.address);
    value["sent"] = entry.sent.into();
    value["received"] = entry.received.into();
    value["process"] = json!(entry.lineage);
    value["package"] = json!(entry.package);
    value
}

/// A job.
pub(crate) fn job_object(board: &Board, view: &JobView) -> Value {
    let entry = board.runs.get(&view.id.run).and_then(|run| run.jobs.get(&view.id));
    json!({
        "type": "job",
        "id": view.id.to_string(),
        "run": view.id.run,
        "key": view.key,
        "name": view.name,
        "state": view.state,
        "outcome": view.outcome,
        "cause": cause(view.cause.as_ref()),
        "failed_step": entry.and_then(|entry| entry.culprit()).map(|step| step.view.index),
        "attempt": view.attempt.map(|attempt| attempt.number),
        "agent": view.agent,
        "started": time(view.started),
        "finished": time(view.finished),
        "outputs": view.outputs,
    })
}

/// A step.
pub(crate) fn step_object(board: &Board, view: &StepView) -> Value {
    let milliseconds = |span: std::time::Duration| (span.as_secs_f64() * 1e6).round() / 1e3;
    let mut value = place(board, "step", view.attempt, view.index);
    value["id"] = json!(view.id);
    value["name"] = view.name.clone().into();
    value["state"] = json!(view.state);
    value["started"] = time(Some(view.started));
    value["finished"] = time(view.finished);
    if let (StepState::Finished, Some(result)) = (view.state, &view.result) {
        value["outcome"] = json!(result.outcome);
        value["conclusion"] = json!(result.conclusion);
        value["exit_code"] = json!(result.exit_code);
        value["cause"] = cause(result.cause.as_ref());
        value["usage"] = json!({
            "wall_ms": milliseconds(result.usage.wall),
            "user_ms": milliseconds(result.usage.user),
            "system_ms": milliseconds(result.usage.system),
            "build_ms": milliseconds(result.usage.build),
            "teardown_ms": milliseconds(result.usage.teardown),
            "peak_memory_bytes": result.usage.peak_memory_bytes,
            "peak_pids": result.usage.peak_pids,
            "read_bytes": result.usage.read_bytes,
            "written_bytes": result.usage.written_bytes,
            "peak_disk_bytes": result.usage.peak_disk_bytes,
            "peak_inodes": result.usage.peak_inodes,
        });
        value["enforced"] = json!(result.enforcement.enforced);
        value["missing"] = json!(result.enforcement.missing);
        value["summary"] = result.summary.clone().into();
    }
    value
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::view::sample;

    #[test]
    fn every_line_is_an_object_and_the_last_is_the_finished_run() {
        let mut view = Json::new(Vec::new());
        sample::shown(&mut view, &sample::failed()).unwrap();
        let text = String::from_utf8(view.out).unwrap();
        let objects: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let kinds: Vec<&str> = objects.iter().map(|object| object["type"].as_str().unwrap()).collect();
        for kind in ["run", "job", "step", "log", "egress", "annotation"] {
            assert!(kinds.contains(&kind), "{kind}");
        }
        let last = objects.last().unwrap();
        assert_eq!(
            (&last["type"], &last["state"], &last["outcome"], &last["exit_code"]),
            (&json!("run"), &json!("finished"), &json!("failure"), &json!(1))
        );
        assert_eq!(objects.iter().filter(|object| object["state"] == "finished" && object["type"] == "run").count(), 1);
        let logs: Vec<&str> =
            objects.iter().filter(|object| object["type"] == "log").map(|object| object["text"].as_str().unwrap()).collect();
        assert_eq!(logs[3], "Done");
        assert_eq!(logs[5], "\u{1b}[31mFAILED\u{1b}[0m (failures=1)");
        let told = text.lines().filter(|line| line.contains("\"egress\"") || line.contains("Run tests")).collect::<Vec<_>>().join("\n");
        insta::assert_snapshot!(told, @r###"
        {"type":"step","run":1,"job":"1.2","job_name":"test (3.12)","attempt":1,"step":0,"step_name":"Run tests","id":null,"name":"Run tests","state":"running","started":"1970-01-01T00:00:01.000Z","finished":null}
        {"type":"egress","run":1,"job":"1.1","job_name":"lint","attempt":1,"step":0,"step_name":"Install","at":"1970-01-01T00:00:02.000Z","kind":"connection","phase":"ended","host":"pypi.org","port":443,"verdict":"allowed","rule":"default: installs packages","address":null,"sent":2048,"received":2048,"process":[],"package":null}
        {"type":"egress","run":1,"job":"1.1","job_name":"lint","attempt":1,"step":0,"step_name":"Install","at":"1970-01-01T00:00:02.000Z","kind":"connection","phase":"ended","host":"pypi.org","port":443,"verdict":"allowed","rule":"default: installs packages","address":null,"sent":2048,"received":2048,"process":[],"package":null}
        {"type":"egress","run":1,"job":"1.1","job_name":"lint","attempt":1,"step":0,"step_name":"Install","at":"1970-01-01T00:00:02.000Z","kind":"connection","phase":"ended","host":"pypi.org","port":443,"verdict":"allowed","rule":"default: installs packages","address":null,"sent":2048,"received":2048,"process":[],"package":null}
        {"type":"log","run":1,"job":"1.2","job_name":"test (3.12)","attempt":1,"step":0,"step_name":"Run tests","at":"1970-01-01T00:00:01.500Z","text":"##[error]expected 2, got 3"}
        {"type":"log","run":1,"job":"1.2","job_name":"test (3.12)","attempt":1,"step":0,"step_name":"Run tests","at":"1970-01-01T00:00:01.500Z","text":"\u001b[31mFAILED\u001b[0m (failures=1)"}
        {"type":"annotation","run":1,"job":"1.2","job_name":"test (3.12)","attempt":1,"step":0,"step_name":"Run tests","level":"error","message":"expected 2, got \u001b[31m3","title":null,"file":"polls/tests.py","line":12,"column":null}
        {"type":"egress","run":1,"job":"1.2","job_name":"test (3.12)","attempt":1,"step":0,"step_name":"Run tests","at":"1970-01-01T00:00:02.000Z","kind":"connection","phase":"ended","host":"evil.example.com","port":443,"verdict":"refused","rule":"no rule allows it","address":null,"sent":0,"received":0,"process":[],"package":null}
        {"type":"step","run":1,"job":"1.2","job_name":"test (3.12)","attempt":1,"step":0,"step_name":"Run tests","id":null,"name":"Run tests","state":"finished","started":"1970-01-01T00:00:01.000Z","finished":"1970-01-01T00:00:03.500Z","outcome":"failure","conclusion":"failure","exit_code":1,"cause":{"kind":"exit-code","code":1,"text":"exit code 1","fault":"user"},"usage":{"wall_ms":2400.0,"user_ms":0.0,"system_ms":0.0,"build_ms":0.0,"teardown_ms":0.0,"peak_memory_bytes":100663296,"peak_pids":null,"read_bytes":0,"written_bytes":0,"peak_disk_bytes":null,"peak_inodes":null},"enforced":["seccomp"],"missing":[{"protection":"landlock","reason":"this kernel has none"}],"summary":"## 41 of 42 tests passed\n"}
        "###);
    }
}
