//! What an action is given, and where its files are.

use caisson_model::step::{ActionInput, ActionPlace, Template};
use caisson_proto::api::AgentApi;
use indexmap::IndexMap;

use crate::contexts::StepContexts;
use crate::program::Halt;
use crate::step::course::Course;
use crate::step::settle::text;

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

/// The values of an action's inputs: what the step hands over, else the defaults.
pub(super) async fn inputs<A: AgentApi>(
    course: &mut Course<'_, A>,
    contexts: &StepContexts,
    with: &[(String, Template)],
    declared: &[ActionInput],
) -> Result<Vec<(String, String)>, Halt> {
    let mut values: IndexMap<String, String> = IndexMap::new();
    for input in declared.iter().filter(|input| with.iter().all(|(key, _)| *key != input.name)) {
        values.insert(input.name.clone(), text(course, contexts, &format!("inputs.{}.default", input.name), &input.default.0).await?);
    }
    for (key, template) in with {
        values.insert(key.clone(), text(course, contexts, &format!("with.{key}"), &template.0).await?);
    }
    Ok(values.into_iter().collect())
}

/// Where an action's files are inside; those of the mirror are shown from now on.
pub(super) async fn place<A: AgentApi>(course: &mut Course<'_, A>, place: &ActionPlace) -> Result<String, Halt> {
    let join = |base: String, path: &str| if path.is_empty() { base } else { format!("{base}/{path}") };
    match place {
        ActionPlace::Workspace(path) => Ok(join(course.attempt.contexts.workspace.clone(), path)),
        ActionPlace::Mirror { tree, name, path } => {
            let target = format!("/caisson/actions/{}", name.replace("..", "__"));
            if course.attempt.shown_trees.iter().all(|(shown, _)| *shown != target) {
                let tree = course.tree_of(*tree, &format!("the action {name}")).await?;
                course.attempt.shown_trees.push((target.clone(), tree));
            }
            Ok(join(target, path))
        }
    }
}
