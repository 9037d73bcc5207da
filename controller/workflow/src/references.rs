//! Names inside contexts that the file itself shows to be missing: the language gives an empty value for them in
//! silence, and a condition or a path that is made of it goes wrong without a word.

use std::ops::Range;

use caisson_expr::{Condition, Expression, Path, Segment, Span, Template};
use indexmap::IndexMap;

use crate::diagnostic::Report;
use crate::events;
use crate::parse;
use crate::yaml::{Content, Node};

/// Names as they are written, found by their lower case.
type Known = IndexMap<String, String>;

/// How many known names are looked at for a likeness.
const MAX_LIKENESSES: usize = 200;

/// What the expressions of a place can find; `None` where the file does not tell.
#[derive(Clone, Default)]
struct Names {
    needs: Option<Known>,
    steps: Option<Known>,
    matrix: Option<Known>,
    inputs: Option<Known>,
}

fn known(name: String) -> (String, String) {
    (name.to_lowercase(), name)
}

/// Warns of every name that is not there.
pub(crate) fn check(root: &Node, report: &mut Report<'_>) {
    let inputs = root.get("on").and_then(declared_inputs);
    for entry in root.get("jobs").map(Node::entries).unwrap_or_default() {
        check_job(&entry.value, &parse::join("jobs", &entry.key), inputs.clone(), report);
    }
}

fn check_job(job: &Node, path: &str, inputs: Option<Known>, report: &mut Report<'_>) {
    let needs = job.get("needs").map(Node::one_or_many).unwrap_or_default().into_iter().filter_map(Node::text).map(known).collect();
    let mut names = Names { needs: Some(needs), steps: None, matrix: matrix_keys(job), inputs };
    for entry in job.entries().iter().filter(|entry| entry.key != "steps" && entry.key != "outputs") {
        check_node(&entry.value, entry.key == "if", &parse::join(path, &entry.key), &names, report);
    }
    names.steps = Some(Known::new());
    for (index, step) in job.get("steps").map(Node::items).unwrap_or_default().iter().enumerate() {
        for entry in step.entries() {
            let path = format!("{path}.steps[{index}].{}", entry.key);
            check_node(&entry.value, entry.key == "if", &path, &names, report);
        }
        if let (Some(steps), Some(id)) = (&mut names.steps, step.get("id").and_then(Node::text)) {
            steps.extend([known(id)]);
        }
    }
    if let Some(outputs) = job.get("outputs") {
        check_node(outputs, false, &format!("{path}.outputs"), &names, report);
    }
}

/// The inputs that the events declare; `None` when nothing declares any, as then the context is empty on purpose.
fn declared_inputs(on: &Node) -> Option<Known> {
    let triggers = events::triggers(on);
    let declared = triggers.iter().filter_map(|trigger| trigger.details?.get("inputs"));
    let names: Known = declared.flat_map(Node::entries).map(|entry| known(entry.key.clone())).collect();
    (!names.is_empty()).then_some(names)
}

fn matrix_keys(job: &Node) -> Option<Known> {
    let Some(matrix) = job.get("strategy").map(|strategy| strategy.get("matrix")) else { return Some(Known::new()) };
    let matrix = matrix?;
    let Content::Mapping(entries) = &matrix.content else { return None };
    let mut keys = Known::new();
    for entry in entries {
        match entry.key.as_str() {
            "exclude" => {}
            // An include that is computed may bring any key.
            "include" if !matches!(entry.value.content, Content::Sequence(_)) => return None,
            "include" => {
                for cell in entry.value.items() {
                    if cell.entries().is_empty() {
                        return None;
                    }
                    keys.extend(cell.entries().iter().map(|entry| known(entry.key.clone())));
                }
            }
            key => keys.extend([known(key.to_owned())]),
        }
    }
    Some(keys)
}

fn check_node(node: &Node, is_condition: bool, path: &str, names: &Names, report: &mut Report<'_>) {
    match &node.content {
        Content::Sequence(items) => items.iter().for_each(|item| check_node(item, false, path, names, report)),
        Content::Mapping(entries) => {
            entries.iter().for_each(|entry| check_node(&entry.value, false, &parse::join(path, &entry.key), names, report));
        }
        Content::Scalar(_) => {
            let text = node.text().unwrap_or_default();
            if !is_condition && !text.contains("${{") {
                return;
            }
            // What does not parse has been refused already.
            let found: Vec<(Expression, usize)> = if is_condition {
                let condition = Condition::parse(&text).ok();
                condition.iter().flat_map(Condition::expressions).map(|(e, at)| (e.clone(), at)).collect()
            } else {
                let template = Template::parse(&text).ok();
                template.iter().flat_map(Template::expressions).map(|(e, at)| (e.clone(), at)).collect()
            };
            for (expression, offset) in found {
                for used in expression.paths() {
                    let span = Span::new(used.span.start + offset, used.span.end + offset);
                    let at = parse::place(node, &text, span, report);
                    check_path(&used, at, path, names, report);
                }
            }
        }
    }
}

fn check_path(used: &Path, at: Range<usize>, path: &str, names: &Names, report: &mut Report<'_>) {
    let Some(Segment::Name(name)) = used.segments.first() else { return };
    let root = used.root.to_lowercase();
    let (known, what) = match root.as_str() {
        "needs" => (&names.needs, "a job that this one lists in `needs:`"),
        "steps" => (&names.steps, "the `id:` of a step before this one"),
        "matrix" => (&names.matrix, "a key of the matrix"),
        "inputs" => (&names.inputs, "an input of the workflow"),
        "secrets" if name.eq_ignore_ascii_case("github_token") && !path.contains(".with.") => {
            let message = "`secrets.GITHUB_TOKEN` is empty: no token is given to steps";
            report.warning(at, path, message, "skip steps that write to the forge with `if:`");
            return;
        }
        _ => return,
    };
    let Some(known) = known else { return };
    if known.contains_key(&name.to_lowercase()) || report.is_full() {
        return;
    }
    let likely = known.values().take(MAX_LIKENESSES);
    let message = format!("`{root}.{name}` is always empty: '{name}' is not {what}");
    let near = likely.clone().map(|known| (parse::distance(name, known), known)).min().filter(|(distance, _)| *distance <= 2);
    let help = match near {
        Some((_, near)) => format!("did you mean `{root}.{near}`?"),
        None if known.is_empty() => "there is none at this place".to_owned(),
        None => format!("known here: {}", likely.take(20).map(String::as_str).collect::<Vec<_>>().join(", ")),
    };
    report.warning(at, path, message, help);
}
