//! Text to a tree of YAML nodes that know where they stand. Scalars are resolved by the core schema of YAML 1.2.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use caisson_expr::Value;
use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};

use crate::diagnostic::Report;
use crate::limits::Limits;

/// How many nodes a file may have once its aliases are resolved: far beyond any workflow, far below an alias bomb.
const MAX_NODES: usize = 200_000;
const TOO_DEEP: &str = "maximum object depth exceeded";
/// How many comments without a blank before them are looked over; each costs reading the text again.
const MOST_TIGHT_COMMENTS: usize = 16;

/// A node and the bytes of the source that it came from. A node that came through an alias has the place of its anchor.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) content: Content,
    pub(crate) at: Range<usize>,
}

#[derive(Clone, Debug)]
pub(crate) enum Content {
    Scalar(Scalar),
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

/// A key with its value. Keys that are no scalar are refused while reading.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_at: Range<usize>,
    pub(crate) value: Node,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scalar {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
}

impl Scalar {
    /// The text that the language makes of this scalar where it wants a string.
    pub(crate) fn to_text(&self) -> String {
        match self {
            Scalar::Null => String::new(),
            Scalar::Bool(value) => value.to_string(),
            Scalar::Number(value) => Value::Number(*value).to_text(),
            Scalar::Text(text) => text.clone(),
        }
    }
}

impl Node {
    /// The value under `key`, spelled exactly so.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// The entry of `key`, spelled exactly so.
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// The entries of a mapping; none for other nodes.
    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.content {
            Content::Mapping(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a sequence; none for other nodes.
    pub(crate) fn items(&self) -> &[Node] {
        match &self.content {
            Content::Sequence(items) => items,
            _ => &[],
        }
    }

    /// The text of a scalar, as the language converts it; `None` for sequences and mappings.
    pub(crate) fn text(&self) -> Option<String> {
        match &self.content {
            Content::Scalar(scalar) => Some(scalar.to_text()),
            _ => None,
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self.content, Content::Scalar(Scalar::Null))
    }

    /// The items of a sequence, or the node itself when it is a scalar that is not null.
    pub(crate) fn one_or_many(&self) -> Vec<&Node> {
        match &self.content {
            Content::Sequence(items) => items.iter().collect(),
            Content::Scalar(Scalar::Null) | Content::Mapping(_) => Vec::new(),
            Content::Scalar(_) => vec![self],
        }
    }

    /// The same as JSON, keys and texts as they stand; expressions are not evaluated.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match &self.content {
            Content::Scalar(Scalar::Null) => serde_json::Value::Null,
            Content::Scalar(Scalar::Bool(value)) => (*value).into(),
            Content::Scalar(Scalar::Number(value)) => Value::Number(*value).to_json(),
            Content::Scalar(Scalar::Text(text)) => text.as_str().into(),
            Content::Sequence(items) => items.iter().map(Node::to_json).collect(),
            Content::Mapping(entries) => {
                serde_json::Value::Object(entries.iter().map(|entry| (entry.key.clone(), entry.value.to_json())).collect())
            }
        }
    }

    /// What the tree takes as an object, nearly: each node as much as a small allocation, texts as two bytes a character.
    pub(crate) fn bytes(&self) -> usize {
        const NODE: usize = 40;
        NODE + match &self.content {
            Content::Scalar(Scalar::Text(text)) => 2 * text.len(),
            Content::Scalar(_) => 0,
            Content::Sequence(items) => items.iter().map(Node::bytes).sum(),
            Content::Mapping(entries) => entries.iter().map(|entry| NODE + 2 * entry.key.len() + entry.value.bytes()).sum(),
        }
    }

    fn depth(&self) -> usize {
        let below = match &self.content {
            Content::Scalar(_) => return 0,
            Content::Sequence(items) => items.iter().map(Node::depth).max(),
            Content::Mapping(entries) => entries.iter().map(|entry| entry.value.depth()).max(),
        };
        1 + below.unwrap_or(0)
    }

    fn size(&self) -> usize {
        1 + match &self.content {
            Content::Scalar(_) => 0,
            Content::Sequence(items) => items.iter().map(Node::size).sum(),
            Content::Mapping(entries) => entries.iter().map(|entry| 1 + entry.value.size()).sum(),
        }
    }
}

/// Reads the one document of the report's source. `None` after a finding that leaves nothing to look at.
pub(crate) fn read(report: &mut Report<'_>, limits: &Limits) -> Option<Node> {
    let text = report.source.text;
    let size = text.chars().count();
    if size > limits.file_characters {
        let message = format!("the maximum file size of {} characters has been exceeded: it has {size}", limits.file_characters);
        report.language(0..0, "", message, "split the workflow into several files");
        return None;
    }
    let mut text = Cow::Borrowed(text);
    let mut read = Reader::new(limits).run(&text);
    for _ in 0..MOST_TIGHT_COMMENTS {
        let Err(refusal) = &read else { break };
        let Some(blanked) = without_tight_comment(&text, refusal.at.start) else { break };
        text = Cow::Owned(blanked);
        read = Reader::new(limits).run(&text);
    }
    match read {
        Ok(root) => root.or_else(|| {
            report.language(0..0, "", "the file is empty", "write a workflow with `on:` and `jobs:`");
            None
        }),
        Err(Refusal { at, message, help }) => {
            report.language(at, "", message, help);
            None
        }
    }
}

/// The text with the comment at `at` turned into blanks, byte for byte, when it stands right behind a bracket that closes: the
/// language's own parser takes `[a]# why`, where YAML wants a blank between the two.
fn without_tight_comment(text: &str, at: usize) -> Option<String> {
    let (before, rest) = text.split_at_checked(at)?;
    if !rest.starts_with('#') || !before.ends_with([']', '}']) {
        return None;
    }
    let end = rest.find('\n').unwrap_or(rest.len());
    Some([before, &" ".repeat(end), &rest[end..]].concat())
}

struct Refusal {
    at: Range<usize>,
    message: String,
    help: &'static str,
}

fn refusal(at: Range<usize>, message: impl Into<String>, help: &'static str) -> Refusal {
    Refusal { at, message: message.into(), help }
}

struct Open {
    node: Node,
    anchor: usize,
    /// In a mapping: the key that waits for its value.
    key: Option<(String, Range<usize>)>,
}

struct Reader<'l> {
    limits: &'l Limits,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    root: Option<Node>,
}

impl<'l> Reader<'l> {
    fn new(limits: &'l Limits) -> Reader<'l> {
        Reader { limits, open: Vec::new(), anchors: HashMap::new(), nodes: 0, root: None }
    }
}

impl Reader<'_> {
    fn run(mut self, text: &str) -> Result<Option<Node>, Refusal> {
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| {
                let at = error.marker().byte_offset().unwrap_or(0);
                if error.info().contains("recursion limit") {
                    return refusal(at..at, TOO_DEEP, "nest less deeply");
                }
                let message = format!("this is not YAML: {}", error.info().trim_end_matches('.'));
                refusal(at..at, message, "check indentation, quotes and brackets here and on the line before")
            })?;
            let mut at = span.byte_range().unwrap_or(0..0);
            if let Event::Scalar(_, style, ..) = &event {
                at = with_header(at, *style, text);
            }
            self.event(event, &span, at)?;
        }
        Ok(self.root)
    }

    fn event(&mut self, event: Event<'_>, span: &Span, at: Range<usize>) -> Result<(), Refusal> {
        match event {
            Event::DocumentStart(..) if self.root.is_some() => {
                Err(refusal(at, "a second document begins here", "keep one workflow per file; remove the `---`"))
            }
            Event::Scalar(text, style, anchor, tag) => {
                let scalar = resolve(&text, style, tag.as_deref())
                    .map_err(|message| refusal(at.clone(), message, "remove the tag, or write a value of its type"))?;
                self.place(Node { content: Content::Scalar(scalar), at }, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                check_collection_tag(tag.as_deref(), "seq", span)?;
                self.begin(Node { content: Content::Sequence(Vec::new()), at }, anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                check_collection_tag(tag.as_deref(), "map", span)?;
                self.begin(Node { content: Content::Mapping(Vec::new()), at }, anchor)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(mut done) => {
                    done.node.at.end = at.start.max(done.node.at.start);
                    self.place(done.node, done.anchor)
                }
                None => Ok(()),
            },
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id).cloned() else {
                    return Err(refusal(at, "the alias stands inside its own anchor", "write the value out"));
                };
                if self.open.len() + node.depth() > self.limits.depth {
                    return Err(self.too_deep(at));
                }
                self.nodes += node.size();
                self.place(node, 0)
            }
            _ => Ok(()),
        }
    }

    fn begin(&mut self, node: Node, anchor: usize) -> Result<(), Refusal> {
        if self.open.len() >= self.limits.depth {
            return Err(self.too_deep(node.at));
        }
        self.open.push(Open { node, anchor, key: None });
        Ok(())
    }

    fn too_deep(&self, at: Range<usize>) -> Refusal {
        refusal(at, TOO_DEEP, "nest less deeply")
    }

    /// Puts a finished node where it belongs: into its parent, or at the root.
    fn place(&mut self, node: Node, anchor: usize) -> Result<(), Refusal> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            let message = format!("the file has more than {MAX_NODES} nodes once its aliases are resolved");
            return Err(refusal(node.at, message, "use fewer aliases"));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(parent) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match (&mut parent.node.content, parent.key.take()) {
            (Content::Sequence(items), _) => items.push(node),
            (Content::Mapping(entries), Some((key, key_at))) => entries.push(Entry { key, key_at, value: node }),
            (Content::Mapping(_), None) => {
                let Some(key) = node.text() else {
                    return Err(refusal(node.at, "a mapping key must be a scalar", "write the key as plain text"));
                };
                parent.key = Some((key, node.at));
            }
            // A scalar is never open.
            (Content::Scalar(_), _) => {}
        }
        Ok(())
    }
}

/// A block scalar's own place begins at its content; messages about it as a whole want its header, the `|` or `>`.
fn with_header(at: Range<usize>, style: ScalarStyle, text: &str) -> Range<usize> {
    let mark = match style {
        ScalarStyle::Literal => '|',
        ScalarStyle::Folded => '>',
        _ => return at,
    };
    let header = text.get(..at.start).and_then(|before| before.rfind(mark));
    header.map_or(at.clone(), |start| start..at.end)
}

fn check_collection_tag(tag: Option<&Tag>, expected: &str, span: &Span) -> Result<(), Refusal> {
    match tag {
        Some(tag) if tag.core_suffix() != Some(expected) => {
            let at = span.tag_span().and_then(|span| span.byte_range()).or(span.byte_range()).unwrap_or(0..0);
            Err(refusal(at, format!("the tag '{}' is not supported", tag.original()), "remove the tag"))
        }
        _ => Ok(()),
    }
}

fn resolve(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Scalar, String> {
    let Some(tag) = tag else {
        return Ok(if style == ScalarStyle::Plain { plain(text) } else { Scalar::Text(text.to_owned()) });
    };
    let wrong = || format!("the value '{text}' is invalid for the type '{}'", tag.original());
    let resolved = plain(text);
    match (tag.core_suffix(), resolved) {
        (Some("str"), _) => Ok(Scalar::Text(text.to_owned())),
        (Some("null"), Scalar::Null) => Ok(Scalar::Null),
        (Some("bool"), Scalar::Bool(value)) => Ok(Scalar::Bool(value)),
        (Some("int"), Scalar::Number(value)) if value.fract() == 0.0 => Ok(Scalar::Number(value)),
        (Some("float"), Scalar::Number(value)) => Ok(Scalar::Number(value)),
        (Some("null" | "bool" | "int" | "float"), _) => Err(wrong()),
        // `! text`: the non-specific tag makes it a string.
        (None, _) if tag.original() == "!" => Ok(Scalar::Text(text.to_owned())),
        _ => Err(format!("the tag '{}' is not supported", tag.original())),
    }
}

/// A plain scalar by the core schema: only the spellings listed there are null, boolean or number.
fn plain(text: &str) -> Scalar {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Scalar::Null,
        "true" | "True" | "TRUE" => Scalar::Bool(true),
        "false" | "False" | "FALSE" => Scalar::Bool(false),
        _ => number(text).map_or_else(|| Scalar::Text(text.to_owned()), Scalar::Number),
    }
}

fn number(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let negative = text.starts_with('-');
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        return Some(if negative { f64::NEG_INFINITY } else { f64::INFINITY });
    }
    if matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Some(f64::NAN);
    }
    let based = text.starts_with("0x") || text.starts_with("0o");
    let decimal = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    if !based && !decimal {
        return None;
    }
    // The remaining grammar is that of the expression language.
    let value = Value::string(text).to_number();
    (!value.is_nan()).then_some(value)
}
