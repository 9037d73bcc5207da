//! The inputs of `workflow_dispatch`: what is declared, against what is given.

use caisson_model::diagnostic::DiagnosticKind;
use indexmap::IndexMap;
use serde_json::{Map, Value};

use crate::diagnostic::Report;
use crate::events::Trigger;
use crate::yaml::Node;

/// The `inputs` context of a run that `trigger` starts: an object with a value of the declared type for each input.
/// What does not fit is added to the report.
pub(crate) fn inputs(trigger: &Trigger<'_>, given: &IndexMap<String, String>, report: &mut Report<'_>) -> Value {
    let at = trigger.at.clone();
    let path = format!("on.{}.inputs", trigger.event);
    let declared = match trigger.event.as_str() {
        "workflow_dispatch" => trigger.details.and_then(|node| node.get("inputs")).map(Node::entries).unwrap_or_default(),
        _ => &[],
    };
    for name in given.keys() {
        if !declared.iter().any(|entry| entry.key.eq_ignore_ascii_case(name)) {
            let names: Vec<&str> = declared.iter().map(|entry| entry.key.as_str()).collect();
            let help = if names.is_empty() {
                format!("the event '{}' declares no inputs; run without them", trigger.event)
            } else {
                format!("its inputs are: {}", names.join(", "))
            };
            let message = format!("the workflow has no input '{name}'");
            report.error(DiagnosticKind::Submission, at.clone(), &path, message, help);
        }
    }
    let mut values = Map::new();
    for entry in declared {
        let value = given.iter().find(|(name, _)| name.eq_ignore_ascii_case(&entry.key)).map(|(_, value)| value.clone());
        let property = |key: &str| entry.value.get(key).filter(|node| !node.is_null()).and_then(Node::text);
        let required = property("required").is_some_and(|text| text == "true");
        let kind = property("type").unwrap_or_else(|| "string".to_owned());
        let refused = |report: &mut Report<'_>, message: String, help: String| {
            report.error(DiagnosticKind::Submission, entry.key_at.clone(), &format!("{path}.{}", entry.key), message, help);
        };
        let Some(text) = value.or_else(|| property("default")) else {
            if required {
                let message = format!("the input '{}' is required and was not given", entry.key);
                refused(report, message, format!("give it with --input {}=VALUE", entry.key));
            }
            values.insert(entry.key.clone(), absent(&kind, &entry.value));
            continue;
        };
        match typed(&kind, &text, &entry.value) {
            Ok(value) => {
                values.insert(entry.key.clone(), value);
            }
            Err(wanted) => {
                let message = format!("the input '{}' is '{text}', but {wanted} is wanted", entry.key);
                refused(report, message, "give a value of its type".to_owned());
            }
        }
    }
    Value::Object(values)
}

fn options(declaration: &Node) -> Vec<String> {
    let options = declaration.get("options").map(Node::items).unwrap_or_default();
    options.iter().filter_map(Node::text).collect()
}

/// The value of an input that was neither given nor has a default.
fn absent(kind: &str, declaration: &Node) -> Value {
    match kind {
        "boolean" => false.into(),
        "number" => 0.into(),
        "choice" => options(declaration).into_iter().next().unwrap_or_default().into(),
        _ => "".into(),
    }
}

fn typed(kind: &str, text: &str, declaration: &Node) -> Result<Value, String> {
    match kind {
        "boolean" => match text {
            "true" => Ok(true.into()),
            "false" => Ok(false.into()),
            _ => Err("true or false".to_owned()),
        },
        "number" => {
            let number = caisson_expr::Value::string(text);
            let value = number.to_number();
            if text.trim().is_empty() || !value.is_finite() {
                return Err("a number".to_owned());
            }
            Ok(caisson_expr::Value::Number(value).to_json())
        }
        "choice" => {
            let options = options(declaration);
            if options.iter().any(|option| option == text) { Ok(text.into()) } else { Err(format!("one of {}", options.join(", "))) }
        }
        _ => Ok(text.into()),
    }
}
