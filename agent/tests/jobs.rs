//! Real jobs through the real launcher, under a controller that records. Its own `main`, since the launcher has to be started
//! before any thread.
#![allow(clippy::unwrap_used, clippy::panic)]

mod floor;

use std::time::Duration;

use caisson_model::lease::{AgentMessage, ControllerMessage, StepChange};
use caisson_model::outcome::{AnnotationLevel, Cause, Outcome};
use caisson_model::policy::Limits;
use caisson_model::step::{Action, StepSpec, Template};
use caisson_sandbox::launcher::Launcher;
use floor::{Floor, called, env, job, run, when};

cases![
    steps_pass_on_what_the_language_lets_them,
    the_environment_is_the_languages_own,
    a_failure_skips_all_but_those_that_ask,
    secrets_are_one_steps_own,
    commands_take_effect_at_once,
    limits_are_causes,
    cancelling_ends_in_stages_and_lets_last_words_be_said,
    a_cut_session_changes_nothing,
    what_is_fenced_says_nothing_more,
    leaving_gives_attempts_back,
    an_unreachable_controller_is_waited_for,
    files_are_hashed_inside,
    what_is_wrong_is_named,
    a_lack_that_nobody_allowed_refuses,
];

fn main() {
    floor::main(CASES);
}

async fn steps_pass_on_what_the_language_lets_them(launcher: Launcher) {
    let floor = Floor::open(&launcher);
    let mut spec = job(vec![
        called(
            "one",
            run(
                "echo \"word=hello\" >> $GITHUB_OUTPUT\nprintf 'LEFT<<E\\na\\nb\\nE\\n' >> $GITHUB_ENV\nmkdir -p $HOME/tools\nprintf '#!/bin/sh\\necho from-path' > $HOME/tools/mytool\nchmod +x $HOME/tools/mytool\necho $HOME/tools >> $GITHUB_PATH\necho kept > file.txt\necho '# Sum' >> $GITHUB_STEP_SUMMARY",
            ),
        ),
        run(
            "[ \"$LEFT\" = \"$(printf 'a\\nb')\" ]; [ \"$(mytool)\" = from-path ]; [ \"$(cat file.txt)\" = kept ]; echo out=${{ steps.one.outputs.word }} ${{ steps.one.outcome }} ${{ matrix.python }}",
        ),
        run("echo 'NODE_OPTIONS=--require x' >> $GITHUB_ENV; echo GITHUB_SHA=forged >> $GITHUB_ENV"),
        run("[ -z \"$NODE_OPTIONS\" ] && [ \"$GITHUB_SHA\" = abc ]"),
        StepSpec {
            action: Action::Run {
                script: Template("import os; print('py', os.getcwd())".into()),
                shell: Some(Template("python".into())),
                working_directory: None,
            },
            ..run("")
        },
    ]);
    spec.outputs = env(&[("word", "${{ steps.one.outputs.word }}"), ("none", "${{ steps.one.outputs.none }}")]);
    let (hold, completion) = floor.run(spec).await;
    let logs: Vec<String> = (0..5).map(|step| floor.controller.log(hold, step)).collect();
    assert_eq!(completion.outcome, Outcome::Success, "{logs:#?} {:#?}", floor.controller.results(hold));
    assert_eq!(completion.outputs.get("word").map(String::as_str), Some("hello"));
    assert_eq!(completion.outputs.len(), 1);
    assert!(logs[1].contains("out=hello success 3.11\n"), "{}", logs[1]);
    assert!(logs[4].contains("py /home/runner/work/polls/polls\n"), "{}", logs[4]);
    let results = floor.controller.results(hold);
    assert_eq!(results[&0].summary, "# Sum\n");
    assert_eq!(results[&2].annotations.iter().filter(|remark| remark.level == AnnotationLevel::Error).count(), 2);
    assert!(results[&0].enforcement.enforced.iter().any(|name| name == "seccomp"));
    assert!(results[&0].usage.wall > Duration::ZERO);
    {
        let record = floor.controller.record();
        assert_eq!(record.seals.len(), 5);
        assert!(record.seals.iter().all(|(key, seal)| seal.total == record.logs[key].len() as u64));
    }
    floor.close().await;
}

async fn the_environment_is_the_languages_own(launcher: Launcher) {
    // The control: this very process has the variables that must not appear.
    assert!(std::env::var("PATH").is_ok() && std::env::var("CARGO_MANIFEST_DIR").is_ok());
    let floor = Floor::open(&launcher);
    let mut spec = job(vec![
        StepSpec { env: env(&[("C", "step ${{ env.B }}"), ("A", "step")]), ..run("env | sort") },
        run("env | sort; cat $GITHUB_EVENT_PATH; id -un; stat -c %u ."),
    ]);
    spec.workflow_env = env(&[("A", "workflow"), ("B", "workflow")]);
    spec.env = env(&[("B", "job ${{ github.repository }}"), ("HIDDEN", "x${{ secrets.NOPE }}")]);
    let (hold, completion) = floor.run(spec).await;
    let (first, second) = (floor.controller.log(hold, 0), floor.controller.log(hold, 1));
    assert_eq!(completion.outcome, Outcome::Success, "{first}{second}");
    for line in [
        "A=step",
        "B=job me/polls",
        "C=step job me/polls",
        "CI=true",
        "GITHUB_ACTIONS=true",
        "GITHUB_SHA=abc",
        "RUNNER_OS=Linux",
        "HOME=/home/runner",
    ] {
        assert!(first.lines().any(|found| found == line), "{line} in {first}");
    }
    assert!(second.lines().any(|line| line == "A=workflow") && second.contains("{\"a\":1}runner\n1000\n"), "{second}");
    for stray in ["CARGO", "RUST", "HIDDEN", "PROXY", "proxy"] {
        assert!(!second.lines().any(|line| line.starts_with(stray)), "{stray} in {second}");
    }
    floor.close().await;
}

async fn a_failure_skips_all_but_those_that_ask(launcher: Launcher) {
    let floor = Floor::open(&launcher);
    let spec = job(vec![
        called("soft", StepSpec { continue_on_error: Some(Template("${{ true }}".into())), ..run("exit 3") }),
        run("echo ${{ steps.soft.outcome }}/${{ steps.soft.conclusion }}"),
        run("false\necho unreachable"),
        run("echo skipped"),
        when("failure()", run("echo failure ${{ job.status }}")),
        when("always() && github.repository == 'ME/polls'", run("echo always")),
        when("success()", run("echo success")),
    ]);
    let (hold, completion) = floor.run(spec).await;
    let results = floor.controller.results(hold);
    use Outcome::{Failure, Skipped, Success};
    assert_eq!(completion.outcome, Failure);
    let outcomes: Vec<_> = results.values().map(|result| result.outcome).collect();
    assert_eq!(outcomes, [Failure, Success, Failure, Skipped, Success, Success, Skipped]);
    assert_eq!((results[&0].conclusion, results[&0].exit_code), (Success, Some(3)));
    assert!(floor.controller.log(hold, 1).contains("failure/success\n"));
    assert!(floor.controller.log(hold, 4).contains("failure failure\n"));
    assert!(!floor.controller.log(hold, 2).contains("unreachable"), "{}", floor.controller.log(hold, 2));
    floor.close().await;
}

async fn secrets_are_one_steps_own(launcher: Launcher) {
    let floor = Floor::open(&launcher);
    floor.controller.record().secrets.insert(caisson_model::id::StepIndex(1), vec![("TOKEN".into(), "hush-5ecret-value".into())]);
    let secret = |script: &str| {
        let mut step = StepSpec { env: env(&[("T", "${{ secrets.TOKEN }}")]), ..run(script) };
        step.grant.secrets = vec!["TOKEN".into()];
        step
    };
    let mut spec = job(vec![
        run("ls -A /run/secrets 2>/dev/null | wc -l; echo \"J=[$J]\""),
        secret(
            "cat /run/secrets/TOKEN; echo; echo $T; printf hush-5ec; sleep 0.2; echo ret-value; echo $J; echo $T > kept; tr '\\0' '\\n' < /proc/$$/cmdline; stat -f -c %T /run/secrets; stat -c %a:%u /run/secrets/TOKEN",
        ),
        run("cat kept; ls -A /run/secrets 2>/dev/null | wc -l"),
    ]);
    spec.env = env(&[("J", "${{ secrets.TOKEN }}")]);
    let (hold, completion) = floor.run(spec).await;
    let logs: Vec<String> = (0..3).map(|step| floor.controller.log(hold, step)).collect();
    assert_eq!(completion.outcome, Outcome::Success, "{logs:#?}");
    assert!(logs.iter().all(|log| !log.contains("5ecret")), "{logs:#?}");
    assert!(logs[0].contains("0\nJ=[]\n"), "{}", logs[0]);
    assert!(logs[1].contains("***\n***\n***\n***\n") && logs[1].contains("tmpfs\n400:1000\n"), "{}", logs[1]);
    assert!(logs[2].contains("***\n0\n"), "{}", logs[2]);
    assert_eq!(floor.controller.record().opened.len(), 1);
    floor.close().await;
}

async fn commands_take_effect_at_once(launcher: Launcher) {
    let floor = Floor::open(&launcher);
    let spec = job(vec![
        called(
            "c",
            run(
                "echo '::add-mask::walrus99'\necho the walrus99 sings\necho '::set-output name=o::v1'\necho '::warning file=a.py,line=3::careful walrus99'\necho '::group::G'; echo in; echo '::endgroup::'\necho '::set-env name=X::1'\necho '::stop-commands::pause1'\necho '::error::not one'\necho '::pause1::'\necho '::debug::hidden'",
            ),
        ),
        run("echo ${{ steps.c.outputs.o }} walrus99"),
    ]);
    let (hold, completion) = floor.run(spec).await;
    let (first, second) = (floor.controller.log(hold, 0), floor.controller.log(hold, 1));
    assert_eq!(completion.outcome, Outcome::Success, "{first}");
    assert!(first.contains("the *** sings") && !first.contains("walrus") && first.contains("##[group]G\nin\n"), "{first}");
    assert!(first.contains("::error::not one") && !first.contains("hidden"), "{first}");
    assert!(second.ends_with("v1 ***\n"), "{second}");
    let annotations = &floor.controller.results(hold)[&0].annotations;
    assert_eq!(annotations.iter().map(|remark| remark.level).collect::<Vec<_>>(), [AnnotationLevel::Warning, AnnotationLevel::Error]);
    assert_eq!((annotations[0].message.as_str(), annotations[0].line), ("careful ***", Some(3)));
    let live = floor.controller.record().reports.iter().filter(|report| matches!(report.change, StepChange::Annotated { .. })).count();
    assert_eq!(live, 2);
    floor.close().await;
}

async fn limits_are_causes(launcher: Launcher) {
    let floor = Floor::open(&launcher);
    let limited = |limits: Limits, script: &str| {
        let mut step = when("always()", run(script));
        step.grant.limits = limits;
        step
    };
    let spec = job(vec![
        limited(Limits { memory_bytes: Some(64 << 20), ..Limits::default() }, "python3 -c 'x = bytearray(300 << 20); print(len(x))'"),
        limited(Limits { wall: Some(Duration::from_millis(300)), ..Limits::default() }, "exec sleep 60"),
        StepSpec { timeout_minutes: Some(Template("0.005".into())), ..limited(Limits::default(), "exec sleep 60") },
        limited(Limits::default(), "kill -SEGV $$"),
    ]);
    let (hold, completion) = floor.run(spec).await;
    let results = floor.controller.results(hold);
    assert_eq!(completion.outcome, Outcome::Failure);
    if launcher.standing().missing.iter().all(|missing| missing.protection.name() != "memory-limit") {
        assert!(matches!(results[&0].cause, Some(Cause::OutOfMemory { .. })), "{:?}", results[&0]);
    }
    for step in [1, 2] {
        assert_eq!(results[&step].outcome, Outcome::TimedOut, "{:?}", results[&step]);
        assert!(
            matches!(results[&step].cause, Some(Cause::TimedOut { limit }) if limit <= Duration::from_millis(300)),
            "{:?}",
            results[&step]
        );
    }
    assert_eq!(results[&3].cause, Some(Cause::Signal { signal: 11 }));
    floor.close().await;
}

fn cancel(hold: caisson_model::id::Hold, terminate: u64, kill: u64) -> ControllerMessage {
    ControllerMessage::Cancel { hold, terminate_after: Duration::from_millis(terminate), kill_after: Duration::from_millis(kill) }
}

async fn shown(floor: &Floor, hold: caisson_model::id::Hold, step: u32, text: &str) {
    let key = (hold, caisson_model::id::StepIndex(step));
    let found = |record: &floor::Record| record.logs.get(&key).filter(|log| String::from_utf8_lossy(log).contains(text)).map(|_| ());
    floor.controller.wait(text, found).await;
}

async fn cancelling_ends_in_stages_and_lets_last_words_be_said(launcher: Launcher) {
    let floor = Floor::open(&launcher);
    let hold = floor.controller.offer(job(vec![
        run("trap 'echo got INT' INT; trap 'echo got TERM' TERM; echo rea''dy; while :; do sleep 0.05 || true; done"),
        run("echo not run"),
        when("always()", run("echo last words ${{ job.status }}")),
    ]));
    shown(&floor, hold, 0, "ready\n").await;
    let begun = std::time::Instant::now();
    floor.controller.tell(cancel(hold, 400, 400));
    let completion = floor.controller.completion(hold).await;
    assert!(begun.elapsed() >= Duration::from_millis(800));
    assert_eq!((completion.outcome, completion.cause), (Outcome::Cancelled, Some(Cause::Cancelled)));
    let log = floor.controller.log(hold, 0);
    assert!(log.contains("got INT") && log.contains("got TERM"), "{log}");
    let results = floor.controller.results(hold);
    assert_eq!((results[&0].outcome, results[&1].outcome, results[&2].outcome), (Outcome::Cancelled, Outcome::Skipped, Outcome::Success));
    assert!(floor.controller.log(hold, 2).contains("last words cancelled\n"));
    floor.controller.wait("killed", |record| record.messages.contains(&AgentMessage::Killed(hold)).then_some(())).await;
    assert!(floor.controller.record().messages.contains(&AgentMessage::CancelAck(hold)));
    floor.close().await;
}

async fn a_cut_session_changes_nothing(launcher: Launcher) {
    let floor = Floor::open(&launcher);
    let hold = floor
        .controller
        .offer(job(vec![run("echo beg''un; while [ ! -e go ]; do sleep 0.02; [ $((i=i+1)) -lt 100 ] || touch go; done; echo done")]));
    shown(&floor, hold, 0, "begun\n").await;
    floor.controller.cut();
    floor.controller.wait("a second hello", |record| record.hellos.get(1).filter(|hello| hello.running == [hold]).map(|_| ())).await;
    assert_eq!(floor.controller.completion(hold).await.outcome, Outcome::Success);
    assert!(floor.controller.log(hold, 0).ends_with("done\n"));
    floor.close().await;
}

async fn what_is_fenced_says_nothing_more(launcher: Launcher) {
    let floor = Floor::open(&launcher);
    let hold = floor.controller.offer(job(vec![run("echo rea''dy; sleep 60"), when("always()", run("echo never"))]));
    shown(&floor, hold, 0, "ready\n").await;
    let begun = std::time::Instant::now();
    floor.controller.tell(ControllerMessage::Forget(hold));
    floor.controller.wait("killed", |record| record.messages.contains(&AgentMessage::Killed(hold)).then_some(())).await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    let controller = floor.controller.clone();
    floor.close().await;
    assert!(controller.record().completions.is_empty() && controller.record().returned.is_empty());
}

async fn leaving_gives_attempts_back(launcher: Launcher) {
    let mut floor = Floor::open(&launcher);
    let hold = floor.controller.offer(job(vec![run("echo rea''dy; exec sleep 60"), when("always()", run("echo never"))]));
    shown(&floor, hold, 0, "ready\n").await;
    floor.ask_to_leave();
    floor.controller.wait("the return", |record| record.returned.iter().find(|(returned, _)| *returned == hold).map(|_| ())).await;
    assert!(floor.controller.record().completions.is_empty());
    assert!(floor.controller.record().messages.contains(&AgentMessage::Draining));
    floor.close().await;
}

async fn an_unreachable_controller_is_waited_for(launcher: Launcher) {
    let floor = Floor::open(&launcher);
    let hold = floor.controller.offer(job(vec![run("echo rea''dy; sleep 0.3; echo end")]));
    shown(&floor, hold, 0, "ready\n").await;
    floor.controller.record().refuse = 5;
    assert_eq!(floor.controller.completion(hold).await.outcome, Outcome::Success);
    assert_eq!(floor.controller.record().refuse, 0);
    floor.close().await;
}

async fn files_are_hashed_inside(launcher: Launcher) {
    let floor = Floor::open(&launcher);
    let spec = job(vec![
        run("mkdir -p a; echo one > a/x.txt; echo two > y.txt; ln -s /etc/passwd link.txt; echo no > z.md"),
        run(
            "echo all=${{ hashFiles('**/*.txt') }}; echo none=${{ hashFiles('*.nope') }}; echo \"want=$(sha256sum < a/x.txt | cut -c1-64)$(sha256sum < y.txt | cut -c1-64)\"",
        ),
        StepSpec { env: env(&[("H", "${{ hashFiles('/etc/passwd') }}")]), ..run("true") },
    ]);
    let (hold, _) = floor.run(spec).await;
    let log = floor.controller.log(hold, 1);
    let value =
        |name: &str| log.lines().rev().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {log}")).to_owned();
    let hex = value("want=");
    let bytes: Vec<u8> = (0..64).map(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).unwrap()).collect();
    let whole: String = <sha2::Sha256 as sha2::Digest>::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(value("all="), whole);
    assert_eq!(value("none="), "");
    assert!(
        matches!(&floor.controller.results(hold)[&2].cause, Some(Cause::Invalid { message }) if message.contains("leaves the workspace"))
    );
    floor.close().await;
}

async fn what_is_wrong_is_named(launcher: Launcher) {
    let floor = Floor::open(&launcher);
    let directory = |directory: &str, script: &str| {
        let action = Action::Run { script: Template(script.into()), shell: None, working_directory: Some(Template(directory.into())) };
        when("always()", StepSpec { action, ..run("") })
    };
    let shell = |shell: &str| {
        let action = Action::Run { script: Template("true".into()), shell: Some(Template(shell.into())), working_directory: None };
        when("always()", StepSpec { action, ..run("") })
    };
    let spec = job(vec![
        run("echo ${{ fromJSON('{') }}"),
        directory("not/there", "pwd"),
        shell("fish"),
        shell("zorkshell {0}"),
        when("always()", run("echo nonsense >> $GITHUB_ENV")),
        when("always()", run("head -c 2000000 /dev/zero | tr '\\0' x >> $GITHUB_OUTPUT")),
        when("always()", StepSpec { timeout_minutes: Some(Template("${{ 'soon' }}".into())), ..run("true") }),
        when("always()", floor::uses("actions/unknown", &[])),
    ]);
    let (hold, completion) = floor.run(spec).await;
    assert_eq!(completion.outcome, Outcome::Failure);
    let results = floor.controller.results(hold);
    for (step, expected) in [
        (0, "ci.yml:9: `run` of step"),
        (1, "the working directory /home/runner/work/polls/polls/not/there cannot be entered"),
        (2, "the shell 'fish' cannot be used"),
        (3, "'zorkshell' cannot be executed"),
        (4, "the file $GITHUB_ENV is malformed: line 1"),
        (5, "the file $GITHUB_OUTPUT is longer than 1048576 bytes"),
        (6, "timeout-minutes is 'soon'"),
        (7, "this agent has no action 'actions/unknown'"),
    ] {
        let cause = results[&step].cause.as_ref().unwrap().to_string();
        assert!(cause.contains(expected), "step {step}: {cause}");
        assert_eq!(results[&step].outcome, Outcome::Failure);
        assert!(floor.controller.log(hold, step).contains(expected), "step {step}: {}", floor.controller.log(hold, step));
    }
    floor.close().await;
}

async fn a_lack_that_nobody_allowed_refuses(launcher: Launcher) {
    // As root on a whole machine nothing is missing: then this is the control, and the same job runs.
    let lacks: Vec<_> =
        launcher.standing().missing.iter().map(|missing| missing.protection).filter(|one| caisson_agent::probe::is_needed(*one)).collect();
    let floor = Floor::with(&launcher, |host| host.allow_missing.clear());
    let (hold, completion) = floor.run(job(vec![run("echo ran")])).await;
    if lacks.is_empty() {
        assert_eq!(completion.outcome, Outcome::Success);
    } else {
        let cause = completion.cause.unwrap().to_string();
        assert_eq!(completion.outcome, Outcome::Faulted);
        assert!(lacks.iter().all(|lack| cause.contains(lack.name())) && cause.contains("--allow-missing "), "{cause}");
        assert_eq!(floor.controller.log(hold, 0), "");
    }
    floor.close().await;
}
