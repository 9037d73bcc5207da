//! Jobs that call another workflow of the checkout: what is planned of them, and which of the caller's secrets the called
//! workflow's names mean.

use caisson_expr::{Expression, Segment, Span, Template as Text};
use indexmap::IndexMap;
use serde_json::Value;

use crate::planned::{PlannedInput, PlannedJob};
use crate::yaml::Node;

/// What the names of secrets inside a called workflow mean outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Handed {
    /// The same as in the caller.
    Inherited,
    /// By the called workflow's name in upper case: the caller's. Any other is empty.
    Named(IndexMap<String, String>),
}

impl Handed {
    /// What a calling job hands over. Values that are no plain name of a secret have been refused.
    pub(crate) fn of(job: &Node) -> Handed {
        let Some(secrets) = job.get("secrets") else { return Handed::Named(IndexMap::new()) };
        if secrets.text().is_some_and(|text| text == "inherit") {
            return Handed::Inherited;
        }
        let named = secrets.entries().iter().filter_map(|entry| Some((entry.key.to_uppercase(), secret_named(&entry.value.text()?)?)));
        Handed::Named(named.collect())
    }

    fn outside(&self, name: &str) -> Option<String> {
        match self {
            _ if name.eq_ignore_ascii_case("GITHUB_TOKEN") => Some(name.to_owned()),
            Handed::Inherited => Some(name.to_owned()),
            Handed::Named(named) => named.get(&name.to_uppercase()).cloned(),
        }
    }

    /// The jobs of a called workflow with the caller's names in the place of its own.
    ///
    /// # Errors
    /// Never for what this crate planned: every part of a job has a JSON form that reads back.
    pub(crate) fn rename(&self, jobs: Vec<PlannedJob>) -> Result<Vec<PlannedJob>, serde_json::Error> {
        if *self == Handed::Inherited {
            return Ok(jobs);
        }
        // By way of JSON, so that no text of a job is forgotten, whatever parts it has.
        let mut json = serde_json::to_value(jobs)?;
        self.rename_in(&mut json);
        serde_json::from_value(json)
    }

    fn rename_in(&self, json: &mut Value) {
        match json {
            Value::String(text) if text.contains("${{") => *text = self.renamed(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.rename_in(item)),
            Value::Object(map) => {
                for (key, value) in map.iter_mut() {
                    match (key.as_str(), value) {
                        ("grant", Value::Object(grant)) => self.rename_grant(grant),
                        (_, value) => self.rename_in(value),
                    }
                }
            }
            _ => {}
        }
    }

    fn rename_grant(&self, grant: &mut serde_json::Map<String, Value>) {
        if let Some(Value::Array(names)) = grant.get_mut("secrets") {
            let outside = names.iter().filter_map(|name| self.outside(name.as_str()?)).map(Value::from);
            *names = outside.collect();
        }
    }

    fn renamed(&self, text: &str) -> String {
        let Ok(template) = Text::parse(text) else { return text.to_owned() };
        let mut out = text.to_owned();
        let mut uses: Vec<(Span, String)> = Vec::new();
        for (expression, offset) in template.expressions() {
            for path in expression.paths() {
                if let (true, Some(Segment::Name(name))) = (path.root.eq_ignore_ascii_case("secrets"), path.segments.first()) {
                    let span = Span::new(path.span.start + offset, path.span.end + offset);
                    uses.push((span, self.outside(name).map_or_else(|| "''".to_owned(), |name| format!("secrets.{name}"))));
                }
            }
        }
        uses.sort_by_key(|(span, _)| std::cmp::Reverse(span.start));
        for (span, name) in uses {
            out.replace_range(span.start..span.end, &name);
        }
        out
    }
}

/// The secret, in upper case, when a text is nothing but `${{ secrets.NAME }}`.
pub(crate) fn secret_named(text: &str) -> Option<String> {
    let inside = text.trim().strip_prefix("${{")?.strip_suffix("}}")?;
    let expression = Expression::parse(inside).ok()?;
    match (expression.paths().as_slice(), expression.text().trim()) {
        ([path], whole) if path.root.eq_ignore_ascii_case("secrets") => match path.segments.as_slice() {
            [Segment::Name(name)] if path.span.end - path.span.start == whole.len() => Some(name.to_uppercase()),
            _ => None,
        },
        _ => None,
    }
}

/// The inputs that a called workflow declares, with what the calling job gives.
pub(crate) fn inputs(declared: Option<&Node>, given: Option<&Node>) -> Vec<PlannedInput> {
    let given = given.map(Node::entries).unwrap_or_default();
    let part = |node: &Node, key: &str| node.get(key).map(Node::to_json).unwrap_or_default();
    let declared = declared.map(Node::entries).unwrap_or_default().iter();
    let input = declared.map(|entry| PlannedInput {
        name: entry.key.clone(),
        kind: entry.value.get("type").and_then(Node::text).unwrap_or_else(|| "string".to_owned()),
        given: given.iter().find(|given| given.key.eq_ignore_ascii_case(&entry.key)).map(|given| given.value.to_json()).unwrap_or_default(),
        default: part(&entry.value, "default"),
    });
    input.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_handed_over_by_its_name_alone() {
        for (text, name) in [
            ("${{ secrets.Deploy_Key }}", Some("DEPLOY_KEY")),
            ("${{secrets['a']}}", Some("A")),
            (" ${{ secrets.A }} ", Some("A")),
            ("${{ secrets.A || secrets.B }}", None),
            ("x${{ secrets.A }}", None),
            ("${{ secrets.A }}${{ secrets.B }}", None),
            ("${{ inputs.a }}", None),
            ("text", None),
        ] {
            assert_eq!(secret_named(text).as_deref(), name, "{text}");
        }
    }

    #[test]
    fn names_inside_become_those_outside() {
        let handed = Handed::Named([("KEY".to_owned(), "DEPLOY_KEY".to_owned())].into_iter().collect());
        for (inside, outside) in [
            ("${{ secrets.key }}-${{ secrets.KEY }}", "${{ secrets.DEPLOY_KEY }}-${{ secrets.DEPLOY_KEY }}"),
            ("${{ secrets.OTHER || 'none' }}", "${{ '' || 'none' }}"),
            ("${{ secrets.GITHUB_TOKEN }}", "${{ secrets.GITHUB_TOKEN }}"),
            ("secrets.key", "secrets.key"),
        ] {
            assert_eq!(handed.renamed(inside), outside);
        }
    }
}
