//! The functions of the language: their names, how many arguments they take, and the pure ones themselves.

use std::fmt;

use crate::json;
use crate::number;
use crate::value::{Value, upper};

/// A function that an expression may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Function {
    /// `case(predicate, value, ..., default)`
    Case,
    /// `contains(search, item)`
    Contains,
    /// `endsWith(text, end)`
    EndsWith,
    /// `format(text, value...)`
    Format,
    /// `fromJSON(text)`
    FromJson,
    /// `join(array, separator)`
    Join,
    /// `startsWith(text, start)`
    StartsWith,
    /// `toJSON(value)`
    ToJson,
    /// `hashFiles(pattern...)`, answered by the caller
    HashFiles,
    /// `success()`, answered by the caller
    Success,
    /// `failure()`, answered by the caller
    Failure,
    /// `always()`, answered by the caller
    Always,
    /// `cancelled()`, answered by the caller
    Cancelled,
}

impl Function {
    /// All functions, in the order of the documentation.
    pub const ALL: [Function; 13] = [
        Function::Case,
        Function::Contains,
        Function::EndsWith,
        Function::Format,
        Function::FromJson,
        Function::Join,
        Function::StartsWith,
        Function::ToJson,
        Function::HashFiles,
        Function::Success,
        Function::Failure,
        Function::Always,
        Function::Cancelled,
    ];

    /// The function of this name, in any case.
    pub fn named(name: &str) -> Option<Function> {
        Function::ALL.into_iter().find(|function| function.as_str().eq_ignore_ascii_case(name))
    }

    /// The name as the documentation spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Function::Case => "case",
            Function::Contains => "contains",
            Function::EndsWith => "endsWith",
            Function::Format => "format",
            Function::FromJson => "fromJSON",
            Function::Join => "join",
            Function::StartsWith => "startsWith",
            Function::ToJson => "toJSON",
            Function::HashFiles => "hashFiles",
            Function::Success => "success",
            Function::Failure => "failure",
            Function::Always => "always",
            Function::Cancelled => "cancelled",
        }
    }

    /// Fewest and most arguments.
    pub const fn arity(self) -> (usize, usize) {
        match self {
            Function::Case => (3, usize::MAX),
            Function::Contains | Function::EndsWith | Function::StartsWith => (2, 2),
            Function::Format | Function::HashFiles => (1, 255),
            Function::FromJson | Function::ToJson => (1, 1),
            Function::Join => (1, 2),
            // At job level these two may name jobs.
            Function::Success | Function::Failure => (0, 255),
            Function::Always | Function::Cancelled => (0, 0),
        }
    }

    /// Whether naming this function in an `if:` turns off the implied `success()`.
    pub const fn is_status(self) -> bool {
        matches!(self, Function::Success | Function::Failure | Function::Always | Function::Cancelled)
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

pub(crate) fn case(arguments: &[Value]) -> Result<Value, String> {
    // The parser admits odd counts only, so the last chunk is the default alone.
    for pair in arguments.chunks(2) {
        match pair {
            [Value::Bool(true), value] => return Ok(value.clone()),
            [Value::Bool(false), _] => {}
            [_, _] => return Err("case predicate must evaluate to a boolean value".to_owned()),
            [default] => return Ok(default.clone()),
            _ => {}
        }
    }
    Ok(Value::Null)
}

pub(crate) fn contains(search: &Value, item: &Value) -> bool {
    match search {
        Value::Array(array) => array.items().iter().any(|candidate| item.loosely_equals(candidate)),
        Value::Object(_) => false,
        _ if item.is_primitive() => search.to_text().to_lowercase().contains(&item.to_text().to_lowercase()),
        _ => false,
    }
}

pub(crate) fn starts_with(text: &Value, start: &Value) -> bool {
    text.is_primitive() && start.is_primitive() && upper(&text.to_text()).starts_with(&upper(&start.to_text()))
}

pub(crate) fn ends_with(text: &Value, end: &Value) -> bool {
    text.is_primitive() && end.is_primitive() && upper(&text.to_text()).ends_with(&upper(&end.to_text()))
}

/// The longest text that a function may build, given by the evaluator.
type Limit = usize;

pub(crate) fn format(arguments: &[Value], limit: Limit) -> Result<String, String> {
    let text = arguments.first().map(Value::to_text).unwrap_or_default();
    let invalid = || format!("the following format string is invalid: {text}");
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(brace) = rest.find(['{', '}']) {
        out.push_str(&rest[..brace]);
        let tail = &rest[brace..];
        if let Some(after) = tail.strip_prefix("{{") {
            out.push('{');
            rest = after;
        } else if let Some(after) = tail.strip_prefix("}}") {
            out.push('}');
            rest = after;
        } else if let Some(body) = tail.strip_prefix('{') {
            let close = body.find('}').ok_or_else(invalid)?;
            let digits = body.bytes().take_while(u8::is_ascii_digit).count();
            if digits == 0 {
                return Err(invalid());
            }
            // An index too long for the type is surely beyond the arguments.
            let value = body[..digits].parse::<usize>().ok().and_then(|index| arguments.get(index.checked_add(1)?));
            let value = value.ok_or_else(|| format!("the following format string references more arguments than were supplied: {text}"))?;
            out.push_str(&value.to_text());
            rest = &body[close + 1..];
        } else {
            return Err(invalid());
        }
        within(out.len(), limit)?;
    }
    out.push_str(rest);
    Ok(out)
}

pub(crate) fn join(arguments: &[Value], limit: Limit) -> Result<String, String> {
    match arguments {
        [Value::Array(array), rest @ ..] => {
            let separator = rest.first().filter(|value| value.is_primitive()).map_or(",".to_owned(), Value::to_text);
            let mut out = String::new();
            for (index, item) in array.items().iter().enumerate() {
                if index > 0 {
                    out.push_str(&separator);
                }
                out.push_str(&item.to_text());
                within(out.len(), limit)?;
            }
            Ok(out)
        }
        [value, ..] if value.is_primitive() => Ok(value.to_text()),
        _ => Ok(String::new()),
    }
}

pub(crate) fn from_json(argument: &Value) -> Result<Value, String> {
    let text = argument.to_text();
    if text.trim().is_empty() {
        return Err("fromJSON was given an empty text".to_owned());
    }
    json::read(&text).map_err(|error| format!("fromJSON was given text that is not JSON: {error}"))
}

pub(crate) fn to_json(value: &Value, limit: Limit) -> Result<String, String> {
    let mut out = String::new();
    write_json(value, 0, limit, &mut out)?;
    Ok(out)
}

fn write_json(value: &Value, depth: usize, limit: Limit, out: &mut String) -> Result<(), String> {
    within(out.len(), limit)?;
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(value) if value.is_finite() => out.push_str(&number::shortest(*value)),
        Value::Number(_) => out.push_str("null"),
        Value::String(text) => write_json_text(text, out),
        Value::Array(array) if array.items().is_empty() => out.push_str("[]"),
        Value::Array(array) => {
            for (index, item) in array.items().iter().enumerate() {
                out.push_str(if index == 0 { "[" } else { "," });
                indent(depth + 1, out);
                write_json(item, depth + 1, limit, out)?;
            }
            indent(depth, out);
            out.push(']');
        }
        Value::Object(object) if object.is_empty() => out.push_str("{}"),
        Value::Object(object) => {
            for (index, (key, item)) in object.iter().enumerate() {
                out.push_str(if index == 0 { "{" } else { "," });
                indent(depth + 1, out);
                write_json_text(key, out);
                out.push_str(": ");
                write_json(item, depth + 1, limit, out)?;
            }
            indent(depth, out);
            out.push('}');
        }
    }
    Ok(())
}

fn write_json_text(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

fn indent(depth: usize, out: &mut String) {
    out.push('\n');
    for _ in 0..depth {
        out.push_str("  ");
    }
}

fn within(length: usize, limit: Limit) -> Result<(), String> {
    if length > limit { Err(format!("the result is longer than {limit} bytes")) } else { Ok(()) }
}
