//! Texts in which expressions are embedded, and the texts of `if:`.

use crate::context::Context;
use crate::error::{ErrorKind, ExprError, Span};
use crate::evaluate::{MAX_RESULT, evaluate};
use crate::functions::Function;
use crate::parser::Expression;
use crate::value::Value;

/// A text with embedded expressions.
#[derive(Clone, Debug)]
pub struct Template {
    parts: Vec<Part>,
}

/// A piece of a template.
#[derive(Clone, Debug)]
pub enum Part {
    /// Text that stands for itself.
    Literal(String),
    /// An expression; `span` is the place of `${{ ... }}` with its marks, `offset` that of the expression's own text.
    Expression {
        /// The parsed expression.
        expression: Expression,
        /// The marks and what stands between them, in bytes of the template.
        span: Span,
        /// Where the text between the marks begins; add it to spans that the expression reports.
        offset: usize,
    },
}

impl Template {
    /// Splits `text` into literal pieces and expressions.
    ///
    /// # Errors
    /// A syntax error of one of the expressions, or a `${{` that is not closed; spans are those of `text`.
    pub fn parse(text: &str) -> Result<Template, ExprError> {
        let mut parts = Vec::new();
        let mut at = 0;
        while let Some(found) = text[at..].find("${{") {
            let open = at + found;
            if open > at {
                parts.push(Part::Literal(text[at..open].to_owned()));
            }
            let offset = open + 3;
            let Some(close) = closing(text, offset) else {
                return Err(ExprError::new(
                    ErrorKind::Parsing,
                    "the expression is not closed: a '${{' was found, but no '}}' after it",
                    Span::new(open, text.len()),
                ));
            };
            at = close + 2;
            let expression = Expression::parse(&text[offset..close]).map_err(|error| error.shifted(offset))?;
            parts.push(Part::Expression { expression, span: Span::new(open, at), offset });
        }
        if at < text.len() {
            parts.push(Part::Literal(text[at..].to_owned()));
        }
        Ok(Template { parts })
    }

    /// The pieces in order; none for an empty text.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The expressions in order, each with the offset of its text.
    pub fn expressions(&self) -> impl Iterator<Item = (&Expression, usize)> {
        self.parts.iter().filter_map(|part| match part {
            Part::Literal(_) => None,
            Part::Expression { expression, offset, .. } => Some((expression, *offset)),
        })
    }

    /// The text, when no expression is embedded.
    pub fn literal(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// The value: that of the expression when the template is one single expression, else the rendered text.
    ///
    /// # Errors
    /// [`ErrorKind::Evaluation`]; the span is that of the template.
    pub fn evaluate(&self, context: &dyn Context) -> Result<Value, ExprError> {
        match self.parts.as_slice() {
            [Part::Expression { expression, offset, .. }] => evaluate(expression, context).map_err(|error| error.shifted(*offset)),
            _ => self.render(context).map(Value::from),
        }
    }

    /// The text with each expression replaced by its value's text.
    ///
    /// # Errors
    /// [`ErrorKind::Evaluation`]; the span is that of the template.
    pub fn render(&self, context: &dyn Context) -> Result<String, ExprError> {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Expression { expression, offset, span } => {
                    let value = evaluate(expression, context).map_err(|error| error.shifted(*offset))?;
                    out.push_str(&value.to_text());
                    if out.len() > MAX_RESULT {
                        let message = format!("the text becomes longer than {MAX_RESULT} bytes");
                        return Err(ExprError::new(ErrorKind::Evaluation, message, *span));
                    }
                }
            }
        }
        Ok(out)
    }
}

/// Where the `}}` stands that closes an expression begun before `from`; one inside a string literal does not count.
fn closing(text: &str, from: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut quoted = false;
    let mut at = from;
    while at < bytes.len() {
        match bytes[at] {
            b'\'' => quoted = !quoted,
            b'}' if !quoted && bytes.get(at + 1) == Some(&b'}') => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

/// The text of an `if:`.
#[derive(Clone, Debug)]
pub struct Condition {
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    /// An empty text: only the implied `success()`.
    Absent,
    /// One expression, with the offset of its text.
    Expression(Expression, usize),
    /// Marks inside a longer text: the result is text, and text that is not empty counts as true.
    Text(Template),
}

impl Condition {
    /// Parses the text of an `if:`, with or without `${{ }}`.
    ///
    /// # Errors
    /// As [`Expression::parse`] and [`Template::parse`]; spans are those of `text`.
    pub fn parse(text: &str) -> Result<Condition, ExprError> {
        let trimmed = text.trim();
        let offset = text.len() - text.trim_start().len();
        if trimmed.is_empty() {
            return Ok(Condition { test: Test::Absent });
        }
        if !trimmed.contains("${{") {
            let expression = Expression::parse(trimmed).map_err(|error| error.shifted(offset))?;
            return Ok(Condition { test: Test::Expression(expression, offset) });
        }
        let mut template = Template::parse(trimmed).map_err(|error| error.shifted(offset))?;
        let test = match (template.parts.pop(), template.parts.is_empty()) {
            (Some(Part::Expression { expression, offset: inner, .. }), true) => Test::Expression(expression, offset + inner),
            (last, _) => {
                template.parts.extend(last);
                Test::Text(template)
            }
        };
        Ok(Condition { test })
    }

    /// The expressions in it, each with the offset of its text.
    pub fn expressions(&self) -> Vec<(&Expression, usize)> {
        match &self.test {
            Test::Absent => Vec::new(),
            Test::Expression(expression, offset) => vec![(expression, *offset)],
            Test::Text(template) => template.expressions().collect(),
        }
    }

    /// Whether marks stand inside a longer text, so that the condition is a text and nearly always true.
    pub fn is_text(&self) -> bool {
        matches!(self.test, Test::Text(_))
    }

    /// Whether it calls a status function, so that `success()` is not implied.
    pub fn names_status(&self) -> bool {
        self.expressions().iter().any(|(expression, _)| expression.calls().iter().any(|call| call.function.is_status()))
    }

    /// Whether it holds, with `success() &&` implied unless a status function is named.
    ///
    /// # Errors
    /// [`ErrorKind::Evaluation`].
    pub fn evaluate(&self, context: &dyn Context) -> Result<bool, ExprError> {
        if !self.names_status() {
            let success = context
                .status(Function::Success, &[])
                .map_err(|message| ExprError::new(ErrorKind::Evaluation, message, Span::default()))?;
            if !success {
                return Ok(false);
            }
        }
        match &self.test {
            Test::Absent => Ok(true),
            Test::Expression(expression, offset) => {
                evaluate(expression, context).map(|value| value.is_truthy()).map_err(|error| error.shifted(*offset))
            }
            Test::Text(template) => template.render(context).map(|text| !text.is_empty()),
        }
    }
}

/// Parses and evaluates the text of an `if:` in one go.
///
/// # Errors
/// As [`Condition::parse`] and [`Condition::evaluate`].
pub fn condition(text: &str, context: &dyn Context) -> Result<bool, ExprError> {
    Condition::parse(text)?.evaluate(context)
}
