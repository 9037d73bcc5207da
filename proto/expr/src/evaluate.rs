//! A tree and its contexts to a value.

use std::cmp::Ordering;

use crate::context::Context;
use crate::error::{ErrorKind, ExprError, Span};
use crate::functions::{self, Function};
use crate::parser::{Comparison, Expression, Key, Logic, Node};
use crate::value::{Array, Value};

/// How many bytes of text (and, counted as sixteen bytes each, array items) one evaluation may build in all.
pub const MAX_RESULT: usize = 10 * 1024 * 1024;

/// The value of `expression` in `context`.
///
/// # Errors
/// [`ErrorKind::Evaluation`], with the span of the function or context that failed.
pub fn evaluate(expression: &Expression, context: &dyn Context) -> Result<Value, ExprError> {
    let whole = Span::new(0, expression.text().len());
    Evaluation { context, whole, left: MAX_RESULT }.value(&expression.root)
}

struct Evaluation<'c> {
    context: &'c dyn Context,
    whole: Span,
    left: usize,
}

impl Evaluation<'_> {
    fn value(&mut self, node: &Node) -> Result<Value, ExprError> {
        match node {
            Node::Literal(value) => Ok(value.clone()),
            Node::Context { name, span } => self.context.named(name).ok_or_else(|| {
                let message = format!("the context '{name}' is not available here");
                ExprError::new(ErrorKind::Evaluation, message, *span)
            }),
            Node::Call { function, arguments, span } => {
                let arguments = arguments.iter().map(|node| self.value(node)).collect::<Result<Vec<_>, _>>()?;
                // Each argument may be read once or folded; counting it bounds the time of many calls on huge values.
                self.spend(arguments.iter().map(cost).sum(), *span)?;
                let value = self.call(*function, &arguments).map_err(|message| ExprError::new(ErrorKind::Evaluation, message, *span))?;
                self.spend(cost(&value), *span)?;
                Ok(value)
            }
            Node::Index { of, key, span } => {
                let key = match key {
                    Key::Star => None,
                    Key::Of(key) => Some(self.value(key)?),
                };
                let of = self.value(of)?;
                let value = dereference(&of, key.as_ref());
                if let Value::Array(array) = &value {
                    self.spend(array.items().len() * 16, *span)?;
                }
                Ok(value)
            }
            Node::Not(operand) => Ok(Value::Bool(!self.value(operand)?.is_truthy())),
            Node::Compare { first, rest } => {
                let mut left = self.value(first)?;
                for (comparison, right) in rest {
                    let right = self.value(right)?;
                    // Text is folded before it is compared; count that, so that many comparisons of huge texts end.
                    self.spend(cost(&left).min(cost(&right)), self.whole)?;
                    left = Value::Bool(compare(&left, *comparison, &right));
                }
                Ok(left)
            }
            Node::Logic { operator, operands } => {
                let mut value = Value::Null;
                for operand in operands {
                    value = self.value(operand)?;
                    if value.is_truthy() == (*operator == Logic::Or) {
                        break;
                    }
                }
                Ok(value)
            }
        }
    }

    fn call(&mut self, function: Function, arguments: &[Value]) -> Result<Value, String> {
        let limit = self.left;
        match (function, arguments) {
            (Function::Case, _) => functions::case(arguments),
            (Function::Contains, [search, item]) => Ok(Value::Bool(functions::contains(search, item))),
            (Function::StartsWith, [text, start]) => Ok(Value::Bool(functions::starts_with(text, start))),
            (Function::EndsWith, [text, end]) => Ok(Value::Bool(functions::ends_with(text, end))),
            (Function::Format, _) => functions::format(arguments, limit).map(Value::from),
            (Function::Join, _) => functions::join(arguments, limit).map(Value::from),
            (Function::ToJson, [value]) => functions::to_json(value, limit).map(Value::from),
            (Function::FromJson, [text]) => functions::from_json(text),
            (Function::HashFiles, _) => {
                let patterns: Vec<String> = arguments.iter().map(Value::to_text).collect();
                self.context.hash_files(&patterns).map(Value::from)
            }
            (Function::Success | Function::Failure | Function::Always | Function::Cancelled, _) => {
                self.context.status(function, arguments).map(Value::Bool)
            }
            // The parser has checked the number of arguments.
            _ => Err(format!("{function}() was given {} arguments", arguments.len())),
        }
    }

    fn spend(&mut self, bytes: usize, span: Span) -> Result<(), ExprError> {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                let message = format!("the expression builds more than {MAX_RESULT} bytes");
                Err(ExprError::new(ErrorKind::Evaluation, message, span))
            }
        }
    }
}

fn cost(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(array) => array.items().len() * 16,
        _ => 0,
    }
}

fn compare(left: &Value, comparison: Comparison, right: &Value) -> bool {
    let order = || left.compare(right);
    match comparison {
        Comparison::Equal => left.loosely_equals(right),
        Comparison::NotEqual => !left.loosely_equals(right),
        Comparison::Less => order() == Some(Ordering::Less),
        Comparison::Greater => order() == Some(Ordering::Greater),
        Comparison::LessEqual => left.loosely_equals(right) || order() == Some(Ordering::Less),
        Comparison::GreaterEqual => left.loosely_equals(right) || order() == Some(Ordering::Greater),
    }
}

/// `of[key]`, or `of.*` without a key. What is missing is null; in a filtered array it is left out.
fn dereference(of: &Value, key: Option<&Value>) -> Value {
    match (of, key) {
        (Value::Array(array), _) if array.is_filtered() => {
            let mut found = Vec::new();
            for item in array.items() {
                match key {
                    None => found.extend(children(item)),
                    Some(key) => found.extend(member(item, key).cloned()),
                }
            }
            Value::Array(Array::filtered(found))
        }
        (_, None) => Value::Array(Array::filtered(children(of))),
        (_, Some(key)) => member(of, key).cloned().unwrap_or_default(),
    }
}

fn children(of: &Value) -> Vec<Value> {
    match of {
        Value::Array(array) => array.items().to_vec(),
        Value::Object(object) => object.iter().map(|(_, value)| value.clone()).collect(),
        _ => Vec::new(),
    }
}

fn member<'v>(of: &'v Value, key: &Value) -> Option<&'v Value> {
    match of {
        Value::Array(array) => {
            let index = key.to_number();
            if !index.is_finite() || index < 0.0 {
                return None;
            }
            // A number beyond any length saturates, and finds nothing.
            array.items().get(index as usize)
        }
        Value::Object(object) if key.is_primitive() => object.get(&key.to_text()),
        _ => None,
    }
}
