//! Tokens to a tree, and what can be said about the tree without evaluating it.

use crate::error::{ErrorKind, ExprError, Span};
use crate::functions::Function;
use crate::lexer::{self, Token};
use crate::value::Value;

/// How deep expressions may nest, as the language documents it.
pub const MAX_DEPTH: usize = 50;

/// How many characters an expression may have, as the language documents it.
pub const MAX_LENGTH: usize = 21_000;

/// A parsed expression.
#[derive(Clone, Debug)]
pub struct Expression {
    pub(crate) root: Node,
    text: String,
}

/// One use of a context: its root name and what was dereferenced after it, as far as the text says.
#[derive(Clone, Debug, PartialEq)]
pub struct Path {
    /// The context's name as written.
    pub root: String,
    /// The dereferences in order.
    pub segments: Vec<Segment>,
    /// From the first to the last byte of the path.
    pub span: Span,
}

impl Path {
    /// The path in lower case with `.` between its parts: `github.event.issue.title`, `a.*.b`, `a.[]` where computed.
    pub fn normal(&self) -> String {
        let mut out = self.root.to_lowercase();
        for segment in &self.segments {
            out.push('.');
            match segment {
                Segment::Name(name) => out.push_str(&name.to_lowercase()),
                Segment::Star => out.push('*'),
                Segment::Computed => out.push_str("[]"),
            }
        }
        out
    }
}

/// One dereference of a path.
#[derive(Clone, Debug, PartialEq)]
pub enum Segment {
    /// `.name`, or `['name']` and `[3]` with a literal.
    Name(String),
    /// `.*` or `[*]`.
    Star,
    /// `[...]` with an expression whose value the text does not say.
    Computed,
}

/// One call of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Which function.
    pub function: Function,
    /// How many arguments it is given.
    pub arguments: usize,
    /// The function's name.
    pub span: Span,
}

#[derive(Clone, Debug)]
pub(crate) enum Node {
    Literal(Value),
    Context {
        name: String,
        span: Span,
    },
    Call {
        function: Function,
        arguments: Vec<Node>,
        span: Span,
    },
    Index {
        of: Box<Node>,
        key: Key,
        span: Span,
    },
    Not(Box<Node>),
    /// A chain of comparisons of one precedence, left to right; flat, so that a long chain costs no stack.
    Compare {
        first: Box<Node>,
        rest: Vec<(Comparison, Node)>,
    },
    /// A chain of `&&` or of `||`.
    Logic {
        operator: Logic,
        operands: Vec<Node>,
    },
}

#[derive(Clone, Debug)]
pub(crate) enum Key {
    Star,
    Of(Box<Node>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logic {
    And,
    Or,
}

impl Expression {
    /// Parses an expression without its `${{ }}` marks. Functions must exist and get a fitting number of arguments;
    /// contexts may have any name, see [`Expression::check`].
    ///
    /// # Errors
    /// [`ErrorKind::Lexing`] or [`ErrorKind::Parsing`].
    pub fn parse(text: &str) -> Result<Expression, ExprError> {
        Expression::parsed(text, None)
    }

    /// The same, where only these contexts exist, in any case: any other name is refused where it stands, before what
    /// comes after it is looked at.
    ///
    /// # Errors
    /// As [`Expression::parse`].
    pub fn parse_among(text: &str, contexts: &[&str]) -> Result<Expression, ExprError> {
        Expression::parsed(text, Some(contexts))
    }

    fn parsed<'t>(text: &'t str, contexts: Option<&'t [&'t str]>) -> Result<Expression, ExprError> {
        // Counted as the language counts: in UTF-16 units.
        if text.len() > MAX_LENGTH && text.encode_utf16().count() > MAX_LENGTH {
            let message = format!("exceeded max expression length {MAX_LENGTH}");
            return Err(ExprError::new(ErrorKind::Lexing, message, Span::new(0, text.len())));
        }
        let tokens = lexer::tokens(text)?;
        let mut parser = Parser { tokens, at: 0, depth: 0, text, contexts };
        if parser.token() == &Token::End {
            let span = Span::new(0, text.len());
            return Err(ExprError::new(ErrorKind::Parsing, "an expression was expected", span));
        }
        let root = parser.expression()?;
        match parser.token() {
            Token::End => Ok(Expression { root, text: text.to_owned() }),
            _ => Err(parser.unexpected()),
        }
    }

    /// The text that was parsed.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The value, when the expression is a single literal.
    pub fn literal(&self) -> Option<&Value> {
        match &self.root {
            Node::Literal(value) => Some(value),
            _ => None,
        }
    }

    /// Refuses contexts and functions that may not be used where this expression stands.
    ///
    /// # Errors
    /// [`ErrorKind::Parsing`] for the first name that is not allowed.
    pub fn check(&self, contexts: &[&str], functions: &[Function]) -> Result<(), ExprError> {
        let mut refused: Vec<(Span, String)> = Vec::new();
        for path in self.paths() {
            if !contexts.iter().any(|name| name.eq_ignore_ascii_case(&path.root)) {
                let span = Span::new(path.span.start, path.span.start + path.root.len());
                refused.push((span, format!("unrecognized named-value: '{}'", path.root)));
            }
        }
        for call in self.calls() {
            if !functions.contains(&call.function) {
                refused.push((call.span, format!("unrecognized function: '{}'", call.function)));
            }
        }
        match refused.into_iter().min_by_key(|(span, _)| span.start) {
            None => Ok(()),
            Some((span, message)) => Err(ExprError::new(ErrorKind::Parsing, message, span)),
        }
    }

    /// Every use of a context, in the order of the text, with what is dereferenced.
    pub fn paths(&self) -> Vec<Path> {
        let mut paths = Vec::new();
        visit(&self.root, &mut |node| {
            if let Some(path) = path_of(node) {
                paths.push(path);
                return Walk::IntoKeys;
            }
            Walk::Into
        });
        paths.sort_by_key(|path| path.span.start);
        paths
    }

    /// The paths whose values can become part of the result, in the order of the text. A value that is only compared,
    /// searched or tested does not: its text cannot come out.
    pub fn flows(&self) -> Vec<Path> {
        let mut paths = Vec::new();
        flows(&self.root, &mut paths);
        paths.sort_by_key(|path| path.span.start);
        paths
    }

    /// The names of the contexts used, in lower case, each once, in the order of the text.
    pub fn contexts(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for path in self.paths() {
            let name = path.root.to_lowercase();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// Every call, in the order of the text.
    pub fn calls(&self) -> Vec<Call> {
        let mut calls = Vec::new();
        visit(&self.root, &mut |node| {
            if let Node::Call { function, arguments, span } = node {
                calls.push(Call { function: *function, arguments: arguments.len(), span: *span });
            }
            Walk::Into
        });
        calls.sort_by_key(|call| call.span.start);
        calls
    }
}

enum Walk {
    /// Visit all children.
    Into,
    /// This node is a path: visit only the expressions inside its brackets.
    IntoKeys,
}

fn visit(node: &Node, see: &mut dyn FnMut(&Node) -> Walk) {
    match see(node) {
        Walk::IntoKeys => visit_keys(node, see),
        Walk::Into => match node {
            Node::Literal(_) | Node::Context { .. } => {}
            Node::Call { arguments, .. } => arguments.iter().for_each(|argument| visit(argument, see)),
            Node::Index { of, key, .. } => {
                visit(of, see);
                if let Key::Of(key) = key {
                    visit(key, see);
                }
            }
            Node::Not(operand) => visit(operand, see),
            Node::Compare { first, rest } => {
                visit(first, see);
                rest.iter().for_each(|(_, operand)| visit(operand, see));
            }
            Node::Logic { operands, .. } => operands.iter().for_each(|operand| visit(operand, see)),
        },
    }
}

fn visit_keys(node: &Node, see: &mut dyn FnMut(&Node) -> Walk) {
    if let Node::Index { of, key, .. } = node {
        visit_keys(of, see);
        if let Key::Of(key) = key {
            visit(key, see);
        }
    }
}

fn flows(node: &Node, paths: &mut Vec<Path>) {
    match node {
        Node::Literal(_) | Node::Not(_) | Node::Compare { .. } => {}
        Node::Context { .. } => paths.extend(path_of(node)),
        Node::Index { of, .. } => match path_of(node) {
            Some(path) => paths.push(path),
            None => flows(of, paths),
        },
        Node::Call { function, arguments, .. } => match function {
            Function::Format | Function::Join | Function::ToJson | Function::FromJson => {
                arguments.iter().for_each(|argument| flows(argument, paths));
            }
            Function::Case => {
                let last = arguments.len().saturating_sub(1);
                let results = arguments.iter().enumerate().filter(|(i, _)| i % 2 == 1 || *i == last);
                results.for_each(|(_, argument)| flows(argument, paths));
            }
            _ => {}
        },
        // `&&` gives an earlier operand only when that one is false, and what is false has no text to speak of.
        Node::Logic { operator: Logic::And, operands } => operands.last().into_iter().for_each(|last| flows(last, paths)),
        Node::Logic { operator: Logic::Or, operands } => operands.iter().for_each(|operand| flows(operand, paths)),
    }
}

fn path_of(node: &Node) -> Option<Path> {
    match node {
        Node::Context { name, span } => Some(Path { root: name.clone(), segments: Vec::new(), span: *span }),
        Node::Index { of, key, span } => {
            let mut path = path_of(of)?;
            path.segments.push(match key {
                Key::Star => Segment::Star,
                Key::Of(key) => match &**key {
                    Node::Literal(value) => Segment::Name(value.to_text()),
                    _ => Segment::Computed,
                },
            });
            path.span.end = span.end;
            Some(path)
        }
        _ => None,
    }
}

struct Parser<'t> {
    tokens: Vec<(Token, Span)>,
    at: usize,
    depth: usize,
    text: &'t str,
    /// The contexts that exist; `None` when any may.
    contexts: Option<&'t [&'t str]>,
}

impl Parser<'_> {
    fn token(&self) -> &Token {
        // The list ends with `End`, which is never consumed.
        &self.tokens[self.at].0
    }

    fn span(&self) -> Span {
        self.tokens[self.at].1
    }

    fn take(&mut self, token: &Token) -> bool {
        let found = self.token() == token;
        if found {
            self.at += 1;
        }
        found
    }

    fn deeper(&mut self) -> Result<(), ExprError> {
        self.depth += 1;
        if self.depth <= MAX_DEPTH {
            return Ok(());
        }
        let message = format!("exceeded max expression depth {MAX_DEPTH}");
        Err(ExprError::new(ErrorKind::Parsing, message, self.span()))
    }

    /// The error for the token at hand: either it does not fit, or the text ended too early.
    fn unexpected(&self) -> ExprError {
        let span = self.span();
        if self.token() == &Token::End {
            let last = self.at.checked_sub(1).map_or(span, |before| self.tokens[before].1);
            let message = format!("unexpected end of expression: '{}'", &self.text[last.start..last.end]);
            return ExprError::new(ErrorKind::Parsing, message, last);
        }
        let message = format!("unexpected symbol: '{}'", &self.text[span.start..span.end]);
        ExprError::new(ErrorKind::Parsing, message, span)
    }

    fn expect(&mut self, token: &Token) -> Result<(), ExprError> {
        if self.take(token) { Ok(()) } else { Err(self.unexpected()) }
    }

    fn expression(&mut self) -> Result<Node, ExprError> {
        self.deeper()?;
        let node = self.logic(Logic::Or)?;
        self.depth -= 1;
        Ok(node)
    }

    fn logic(&mut self, operator: Logic) -> Result<Node, ExprError> {
        let token = if operator == Logic::Or { Token::Or } else { Token::And };
        let operand = |parser: &mut Self| match operator {
            Logic::Or => parser.logic(Logic::And),
            Logic::And => parser.equality(),
        };
        let first = operand(self)?;
        if self.token() != &token {
            return Ok(first);
        }
        self.deeper()?;
        let mut operands = vec![first];
        while self.take(&token) {
            operands.push(operand(self)?);
        }
        self.depth -= 1;
        Ok(Node::Logic { operator, operands })
    }

    fn equality(&mut self) -> Result<Node, ExprError> {
        let first = self.ordering()?;
        self.comparisons(first, Parser::ordering, |token| match token {
            Token::Equal => Some(Comparison::Equal),
            Token::NotEqual => Some(Comparison::NotEqual),
            _ => None,
        })
    }

    fn ordering(&mut self) -> Result<Node, ExprError> {
        let first = self.unary()?;
        self.comparisons(first, Parser::unary, |token| match token {
            Token::Less => Some(Comparison::Less),
            Token::LessEqual => Some(Comparison::LessEqual),
            Token::Greater => Some(Comparison::Greater),
            Token::GreaterEqual => Some(Comparison::GreaterEqual),
            _ => None,
        })
    }

    fn comparisons(
        &mut self,
        first: Node,
        operand: fn(&mut Self) -> Result<Node, ExprError>,
        operator: fn(&Token) -> Option<Comparison>,
    ) -> Result<Node, ExprError> {
        let mut rest = Vec::new();
        while let Some(comparison) = operator(self.token()) {
            self.at += 1;
            rest.push((comparison, operand(self)?));
        }
        Ok(if rest.is_empty() { first } else { Node::Compare { first: Box::new(first), rest } })
    }

    fn unary(&mut self) -> Result<Node, ExprError> {
        if !self.take(&Token::Not) {
            return self.dereference();
        }
        self.deeper()?;
        let operand = self.unary()?;
        self.depth -= 1;
        Ok(Node::Not(Box::new(operand)))
    }

    fn dereference(&mut self) -> Result<Node, ExprError> {
        let start = self.span().start;
        let (mut node, open) = self.operand()?;
        let outer = self.depth;
        if open == Open::Yes {
            while let Some(key) = self.key()? {
                self.deeper()?;
                let end = self.tokens[self.at - 1].1.end;
                node = Node::Index { of: Box::new(node), key, span: Span::new(start, end) };
            }
        }
        self.depth = outer;
        Ok(node)
    }

    /// The next `.name`, `.*` or `[...]`, if one follows.
    fn key(&mut self) -> Result<Option<Key>, ExprError> {
        if self.take(&Token::LeftBracket) {
            let key = if self.take(&Token::Star) { Key::Star } else { Key::Of(Box::new(self.expression()?)) };
            self.expect(&Token::RightBracket)?;
            return Ok(Some(key));
        }
        if !self.take(&Token::Dot) {
            return Ok(None);
        }
        let key = match self.token() {
            Token::Star => Key::Star,
            Token::Name(name) => Key::Of(Box::new(Node::Literal(Value::string(name)))),
            _ => return Err(self.unexpected()),
        };
        self.at += 1;
        Ok(Some(key))
    }

    fn operand(&mut self) -> Result<(Node, Open), ExprError> {
        let span = self.span();
        let literal = match self.token().clone() {
            Token::True => Value::Bool(true),
            Token::False => Value::Bool(false),
            Token::Null => Value::Null,
            Token::Number(value) => Value::Number(value),
            Token::String(text) => Value::from(text),
            Token::Name(name) => {
                self.at += 1;
                if self.take(&Token::LeftParen) {
                    return Ok((self.call(&name, span)?, Open::Yes));
                }
                if self.contexts.is_some_and(|known| !known.iter().any(|known| known.eq_ignore_ascii_case(&name))) {
                    return Err(ExprError::new(ErrorKind::Parsing, format!("unrecognized named-value: '{name}'"), span));
                }
                return Ok((Node::Context { name, span }, Open::Yes));
            }
            Token::LeftParen => {
                self.at += 1;
                let node = self.expression()?;
                self.expect(&Token::RightParen)?;
                return Ok((node, Open::Yes));
            }
            _ => return Err(self.unexpected()),
        };
        self.at += 1;
        Ok((Node::Literal(literal), Open::No))
    }

    fn call(&mut self, name: &str, span: Span) -> Result<Node, ExprError> {
        let mut arguments = Vec::new();
        while !self.take(&Token::RightParen) {
            arguments.push(self.expression()?);
            if self.token() != &Token::RightParen {
                self.expect(&Token::Comma)?;
            }
        }
        let refuse = |message: String| Err(ExprError::new(ErrorKind::Parsing, message, span));
        let Some(function) = Function::named(name) else {
            return refuse(format!("unrecognized function: '{name}'"));
        };
        let (fewest, most) = function.arity();
        if arguments.len() < fewest {
            return refuse(format!("too few parameters supplied: '{name}'"));
        }
        if arguments.len() > most {
            return refuse(format!("too many parameters supplied: '{name}'"));
        }
        if function == Function::Case && arguments.len().is_multiple_of(2) {
            return refuse(format!("even number of parameters supplied, requires an odd number of parameters: '{name}'"));
        }
        Ok(Node::Call { function, arguments, span })
    }
}

/// Whether `.` and `[` may follow an operand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    Yes,
    No,
}
