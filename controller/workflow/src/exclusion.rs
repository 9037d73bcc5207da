//! `concurrency:` with its values: which group a run or a job enters, and what becomes of the member before it.

use caisson_expr::{Contexts, Object, Template, Value};
use caisson_model::job::{JobSpec, RunContexts};
use serde_json::Value as Json;

use crate::planned::Concurrency;

/// The group's name and whether entering it ends the member that runs. A cell sees its needs and matrix too. Pure.
///
/// # Errors
/// What is wrong with a value: lower case, no full stop.
pub fn exclusion(concurrency: &Concurrency, contexts: &RunContexts, cell: Option<&JobSpec>) -> Result<(String, bool), String> {
    let object = |json: &Json| match json {
        Json::Null => Value::Object(Object::new()),
        json => Value::from_json(json),
    };
    let mut known = Contexts::new()
        .with("github", object(&contexts.github))
        .with("inputs", object(&contexts.inputs))
        .with("vars", object(&contexts.vars));
    if let Some(cell) = cell {
        let needs: Object = cell
            .needs
            .iter()
            .map(|(key, need)| {
                let outputs: Object = need.outputs.iter().map(|(name, value)| (name, value.as_str())).collect();
                let mut object = Object::new();
                object.insert("result", need.outcome.result());
                object.insert("outputs", outputs);
                (key, object)
            })
            .collect();
        known = known.with("needs", needs).with("matrix", Value::from_json(&cell.matrix));
    }
    let text = |text: &str| -> Result<String, String> {
        let template = Template::parse(text).map_err(|error| error.message)?;
        Ok(template.evaluate(&known).map_err(|error| error.message)?.to_text())
    };
    let group = text(&concurrency.group.0)?;
    if group.trim().is_empty() {
        return Err("the group's name is empty".to_owned());
    }
    let cancel = match &concurrency.cancel_in_progress {
        None => false,
        Some(template) => match text(&template.0)?.as_str() {
            "true" => true,
            "false" | "" => false,
            other => return Err(format!("cancel-in-progress: true or false is wanted, this is {other}")),
        },
    };
    Ok((group, cancel))
}
