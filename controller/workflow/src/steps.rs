//! Checked steps as the plan has them; the steps of an action become steps of the plan as well.

use caisson_expr::{Expression, Template as Text};
use caisson_model::id::StepIndex;
use caisson_model::policy::Grant;
use caisson_model::step::{Action, ActionInput, Composite, Condition, Hook, NodeAction, StepSpec, Template};

use crate::action_file::{Actions, Found, MAX_DEPTH};
use crate::diagnostic::{Report, Source};
use crate::uses::Uses;
use crate::yaml::{self, Content, Node};

/// A checked step of a job or of an action; `depth` is how many actions are around it.
pub(crate) fn step(
    index: usize,
    step: &Node,
    defaults: &[Option<&Node>; 2],
    shared: &[String],
    report: &Report<'_>,
    actions: &Actions<'_>,
    depth: usize,
) -> StepSpec {
    let default = |key: &str| defaults.iter().find_map(|defaults| defaults.and_then(|node| node.get("run")?.get(key)));
    let action = match step.get("uses").and_then(Node::text) {
        Some(uses) => actions.action(step, &uses, depth).unwrap_or(Action::Uses { action: uses, version: String::new(), with: Vec::new() }),
        None => Action::Run {
            script: template(step.get("run")).unwrap_or_default(),
            shell: template(step.get("shell").or_else(|| default("shell"))),
            working_directory: template(step.get("working-directory").or_else(|| default("working-directory"))),
        },
    };
    let mut secrets = shared.to_vec();
    step.entries().iter().for_each(|entry| secrets_below(&entry.value, &mut secrets));
    StepSpec {
        index: StepIndex(index as u32),
        id: step.get("id").and_then(Node::text),
        name: template(step.get("name")),
        condition: condition(step.get("if")),
        action,
        env: pairs(step.get("env")),
        continue_on_error: template(step.get("continue-on-error")),
        timeout_minutes: template(step.get("timeout-minutes")),
        location: report.source.location(step.at.start),
        grant: Grant { secrets, ..Grant::default() },
    }
}

pub(crate) fn template(node: Option<&Node>) -> Option<Template> {
    node.filter(|node| !node.is_null()).and_then(Node::text).map(Template)
}

pub(crate) fn condition(node: Option<&Node>) -> Option<Condition> {
    node.filter(|node| !node.is_null()).and_then(Node::text).map(Condition)
}

/// The entries of a mapping of texts.
pub(crate) fn pairs(node: Option<&Node>) -> Vec<(String, Template)> {
    let entries = node.map(Node::entries).unwrap_or_default();
    entries.iter().filter_map(|entry| Some((entry.key.clone(), Template(entry.value.text()?)))).collect()
}

impl Actions<'_> {
    /// What a checked step executes when it uses an action. `None` for what the check has refused.
    fn action(&self, step: &Node, uses: &str, depth: usize) -> Option<Action> {
        let with: Vec<(String, Template)> = pairs(step.get("with")).into_iter().map(|(key, value)| (key.to_lowercase(), value)).collect();
        let repository = |uses: &str| match Uses::parse(uses) {
            Ok(Uses::Repository { name, version }) => (name, version),
            _ => (uses.to_owned(), String::new()),
        };
        let (place, text) = match self.find(uses).ok()? {
            Found::BuiltIn(built_in) => {
                return Some(Action::Uses { action: built_in.name.to_owned(), version: repository(uses).1, with });
            }
            Found::NoOp { reason } => {
                let (action, version) = repository(uses);
                return Some(Action::NoOp { action, version, reason });
            }
            Found::Described { place, text } => (place, text),
        };
        if depth >= MAX_DEPTH {
            return None;
        }
        let mut report = Report::under(Source::new(text.file, text.text), self.limits);
        let root = yaml::read(&mut report, self.limits)?;
        let inputs = root.get("inputs").map(Node::entries).unwrap_or_default().iter();
        let inputs = inputs.map(|input| ActionInput {
            name: input.key.to_lowercase(),
            default: Template(input.value.get("default").and_then(Node::text).unwrap_or_default()),
        });
        let (inputs, uses) = (inputs.collect(), uses.to_owned());
        let runs = root.get("runs")?;
        let part = |key: &str| runs.get(key).and_then(Node::text).filter(|text| !text.is_empty());
        if part("using")?.to_lowercase().starts_with("node") {
            let hook = |key: &str| {
                let condition = part(&format!("{key}-if")).unwrap_or_else(|| "always()".to_owned());
                Some(Hook { program: part(key)?, condition: Condition(condition) })
            };
            return Some(Action::Node(NodeAction { uses, place, with, inputs, main: part("main")?, pre: hook("pre"), post: hook("post") }));
        }
        let outputs = root.get("outputs").map(Node::entries).unwrap_or_default().iter();
        let outputs = outputs.filter_map(|output| Some((output.key.clone(), Template(output.value.get("value")?.text()?)))).collect();
        let steps = runs.get("steps").map(Node::items).unwrap_or_default().iter().enumerate();
        let steps = steps.map(|(index, step)| self::step(index, step, &[None, None], &[], &report, self, depth + 1)).collect();
        Some(Action::Composite(Composite { uses, place, with, inputs, outputs, steps }))
    }
}

fn secrets_below(node: &Node, names: &mut Vec<String>) {
    match &node.content {
        Content::Scalar(_) => secrets_in(&node.text().unwrap_or_default(), names),
        Content::Sequence(items) => items.iter().for_each(|item| secrets_below(item, names)),
        Content::Mapping(entries) => entries.iter().for_each(|entry| secrets_below(&entry.value, names)),
    }
}

/// The names of the secrets that a template names, each once, in upper case: secrets have no case.
pub(crate) fn secrets_in(text: &str, names: &mut Vec<String>) {
    let Ok(template) = Text::parse(text) else { return };
    for path in template.expressions().flat_map(|(expression, _)| Expression::paths(expression)) {
        if path.root.eq_ignore_ascii_case("secrets")
            && let Some(caisson_expr::Segment::Name(name)) = path.segments.first()
        {
            let name = name.to_uppercase();
            if name != "GITHUB_TOKEN" && !names.contains(&name) {
                names.push(name);
            }
        }
    }
}
