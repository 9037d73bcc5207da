//! What a step executes, once its environment is settled: a script, a built-in action, or an action with steps or programs of its
//! own.

use std::future::Future;
use std::pin::Pin;

use caisson_model::outcome::AnnotationLevel;
use caisson_model::policy::Identity;
use caisson_model::step::Action;
use caisson_proto::api::AgentApi;

use crate::actions;
use crate::actions::bench::{Inputs, inside};
use crate::apt;
use crate::contexts::{StepContexts, TOOL_CACHE};
use crate::program::{Halt, Input, Powers, Program, Sink};
use crate::shell::{Offered, Shell};
use crate::step::course::{self, Course};
use crate::step::{Body, composite, invalid, node, text};
use crate::view::{self, System};

/// Executes the step's action. Actions use actions, so the future is boxed.
pub(super) fn perform<'c, 'a: 'c, A: AgentApi>(
    course: &'c mut Course<'a, A>,
    contexts: &'c StepContexts,
) -> Pin<Box<dyn Future<Output = Result<Body, Halt>> + Send + 'c>> {
    Box::pin(async move {
        let step = course.step;
        match &step.action {
            Action::Run { script, shell, working_directory } => {
                let shell = match shell {
                    Some(template) => Some(text(course, contexts, "shell", &template.0).await?),
                    None => None,
                };
                let script = text(course, contexts, "run", &script.0).await?;
                let directory = match working_directory {
                    Some(template) => text(course, contexts, "working-directory", &template.0).await?,
                    None => String::new(),
                };
                run_script(course, shell.as_deref(), &script, &directory).await
            }
            Action::Uses { action, version, with } => {
                let mut inputs = Vec::new();
                for (key, template) in with {
                    inputs.push((key.clone(), text(course, contexts, &format!("with.{key}"), &template.0).await?));
                }
                head(course, &format!("{action}@{version}"), &inputs).await;
                actions::run(action, &Inputs(inputs), course).await?;
                Ok(Body::Exited(0))
            }
            Action::NoOp { action, version, reason } => {
                head(course, &format!("{action}@{version}"), &[]).await;
                course.output.say(&format!("{action} does nothing here: {reason}")).await;
                Ok(Body::Exited(0))
            }
            Action::Composite(composite) => composite::run(course, contexts, composite).await,
            Action::Node(node) => node::run(course, contexts, node).await,
        }
    })
}

/// The head of an action in the log.
pub(super) async fn head<A: AgentApi>(course: &mut Course<'_, A>, uses: &str, inputs: &[(String, String)]) {
    course.output.say(&format!("##[group]Run {uses}")).await;
    if !inputs.is_empty() {
        course.output.say("with:").await;
    }
    for (key, value) in inputs {
        course.output.say(&format!("  {key}: {value}")).await;
    }
    course.output.say("##[endgroup]").await;
}

async fn run_script<A: AgentApi>(course: &mut Course<'_, A>, shell: Option<&str>, script: &str, directory: &str) -> Result<Body, Halt> {
    let workspace = course.attempt.contexts.workspace.clone();
    let cwd = if directory.starts_with('/') {
        directory.to_owned()
    } else {
        inside(&workspace, directory).unwrap_or_else(|| format!("{workspace}/{directory}"))
    };
    let offered =
        Offered { bash: on_path("bash"), python: on_path("python") || course.attempt.inherited.env.contains_key("pythonLocation") };
    let shell = Shell::of(shell, offered).map_err(|error| invalid(course.step, &error))?;
    let path = course::script_path(shell.script_name);
    let first = script.trim().lines().next().unwrap_or_default().to_owned();
    course.output.say(&format!("##[group]Run {first}")).await;
    for line in script.trim_end().lines() {
        course.output.say(line).await;
    }
    course.output.say(&format!("shell: {} {}", shell.program, shell.arguments(&path).join(" "))).await;
    course.output.say("##[endgroup]").await;
    let program = Program {
        program: shell.program.clone(),
        args: shell.arguments(&path),
        env: Vec::new(),
        cwd,
        stdin: Input::Nothing,
        files: vec![(path, shell.script(script)), (course::script_path("event.json"), course.attempt.contexts.event())],
        mounts: Vec::new(),
        powers: Powers::Granted,
        sink: Sink::Log,
    };
    let root = course.step.grant.identity == Identity::Root;
    if root && matches!(course.attempt.workspace.system(), System::ReadOnly) {
        let message = "this agent runs without root, so the step is root of nothing but its own files and cannot install Debian packages";
        course.output.remark(AnnotationLevel::Warning, message).await;
    }
    let ran = course.execute(program).await;
    if root {
        // What it made in the job's home is the job's, as after any other step.
        course.execute(apt::hand_over(&[view::HOME, TOOL_CACHE])).await?;
    }
    Ok(Body::Exited(ran?.code))
}

/// Whether the system view has this program.
fn on_path(program: &str) -> bool {
    ["/usr/local/bin", "/usr/bin", "/bin"].iter().any(|directory| std::path::Path::new(directory).join(program).exists())
}
