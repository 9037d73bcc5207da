//! `[[environment]]`: who may use an environment that a job names, and what only its jobs get. Pure.

use caisson_expr::{Contexts, Object, Template, Value};
use caisson_model::job::RunContexts;
use caisson_workflow::PlannedJob;
use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::Value as Json;

use crate::policy::pattern::Glob;

/// One entry. Of several that cover a name, all count: each may refuse, and each adds what it gives.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentRule {
    /// Environments by name.
    pub name: Glob,
    /// Refs whose runs may use it (`refs/heads/main`, `refs/tags/v*`); all when it is absent. Code of a fork never may.
    #[serde(default)]
    pub refs: Option<Vec<Glob>>,
    /// Secrets that jobs of no other environment may have.
    #[serde(default)]
    pub secrets: Vec<Glob>,
    /// What its jobs see as `vars`, beside what all see.
    #[serde(default)]
    pub vars: IndexMap<String, String>,
}

/// The environment of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// It names none.
    None,
    /// It names this one.
    Known(String),
    /// That depends on what is known only when the job starts.
    Later,
}

/// Which environment a job names. `called` says that `inputs` are those of a call, which are not known yet.
pub(super) fn named(job: &PlannedJob, contexts: &RunContexts, called: bool) -> Named {
    let text = match &job.environment {
        None | Some(Json::Null) => return Named::None,
        Some(Json::Object(map)) => map.get("name").cloned().unwrap_or_default(),
        Some(other) => other.clone(),
    };
    let text = match text {
        Json::String(text) => text,
        other => other.to_string(),
    };
    if !text.contains("${{") {
        return if text.is_empty() { Named::None } else { Named::Known(text) };
    }
    let Ok(template) = Template::parse(&text) else { return Named::Later };
    let decided = |root: &str| root == "github" || root == "vars" || (root == "inputs" && !called);
    if template.expressions().any(|(expression, _)| expression.contexts().iter().any(|root| !decided(root))) {
        return Named::Later;
    }
    let object = |json: &Json| match json {
        Json::Null => Value::Object(Object::new()),
        json => Value::from_json(json),
    };
    let known = Contexts::new()
        .with("github", object(&contexts.github))
        .with("inputs", object(&contexts.inputs))
        .with("vars", object(&contexts.vars));
    match template.evaluate(&known) {
        Ok(value) if value.to_text().is_empty() => Named::None,
        Ok(value) => Named::Known(value.to_text()),
        Err(_) => Named::Later,
    }
}

/// The entries that cover an environment.
pub(super) fn of<'r>(rules: &'r [EnvironmentRule], name: &'r str) -> impl Iterator<Item = &'r EnvironmentRule> + Clone {
    rules.iter().filter(move |rule| rule.name.covers(name))
}

/// Why a run may not use an environment; `None` when it may.
pub(super) fn refused(rules: &[EnvironmentRule], name: &str, reference: &str, foreign: bool) -> Option<String> {
    let mut covering = of(rules, name).peekable();
    if foreign && covering.peek().is_some() {
        return Some("a run of a fork's code may not use it".to_owned());
    }
    let forbids = |rule: &EnvironmentRule| rule.refs.as_ref().is_some_and(|refs| !refs.iter().any(|glob| glob.covers(reference)));
    covering.find(|rule| forbids(rule)).map(|rule| {
        let refs: Vec<String> = rule.refs.iter().flatten().map(ToString::to_string).collect();
        let shown = if reference.is_empty() { "no ref" } else { reference };
        format!("the run is of {shown}, and only {} may use it", if refs.is_empty() { "none".to_owned() } else { refs.join(", ") })
    })
}

/// Whether a secret belongs to environments, and to none that this job has.
pub(super) fn withholds(rules: &[EnvironmentRule], environment: Option<&str>, secret: &str) -> bool {
    let mut owners = rules.iter().filter(|rule| rule.secrets.iter().any(|glob| glob.covers(secret))).peekable();
    owners.peek().is_some() && !owners.any(|rule| environment.is_some_and(|name| rule.name.covers(name)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use caisson_model::diagnostic::{Diagnostic, Severity};
    use caisson_model::run::Submission;
    use caisson_workflow::Plan;
    use serde_json::json;

    use crate::policy::{Rules, admit};

    const RULES: &str = r#"
[vars]
REGION = "eu"
[[environment]]
name = "prod*"
refs = ["refs/heads/main", "refs/tags/v*"]
secrets = ["DEPLOY_*"]
vars = { HOST = "www.example.com" }
"#;

    fn planned(job: &str, github: serde_json::Value, rules: &str) -> Result<Plan, Vec<Diagnostic>> {
        let text = format!(
            "on: push\njobs:\n  a:\n    runs-on: x\n{job}    steps:\n      - run: deploy\n        env: {{ KEY: \"${{{{ secrets.DEPLOY_KEY }}}}\" }}\n"
        );
        let submission = Submission { event: "push".into(), github, ..Submission::default() };
        let plan = caisson_workflow::plan(&text, "w.yml", &submission).unwrap();
        admit(plan, &toml::from_str::<Rules>(rules).unwrap(), &BTreeSet::from(["DEPLOY_KEY".to_owned()]))
    }

    fn refusal(job: &str, github: serde_json::Value) -> String {
        let findings = planned(job, github, RULES).unwrap_err();
        let errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
        errors.map(|finding| format!("{}: {}", finding.location.line, finding.message)).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn an_environment_is_for_its_refs_and_its_secrets_for_its_jobs() {
        let main = || json!({ "ref": "refs/heads/main", "repository": "acme/shop" });
        let topic = || json!({ "ref": "refs/heads/topic", "repository": "acme/shop" });
        let plan = planned("    environment: production\n", main(), RULES).unwrap();
        assert_eq!(plan.jobs[0].steps[0].grant.secrets, ["DEPLOY_KEY"]);
        assert_eq!(plan.jobs[0].vars, json!({ "HOST": "www.example.com" }));
        assert_eq!(plan.contexts.vars, json!({ "REGION": "eu" }));
        assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
        let mapped = "    environment: { name: \"${{ github.ref == 'refs/heads/main' && 'prod' || 'production' }}\" }\n";
        assert!(planned(mapped, main(), RULES).is_ok());
        for (job, github, message) in [
            ("    environment: production\n", topic(), "5: the environment 'production' may not be used: the run is of refs/heads/topic"),
            (mapped, topic(), "the environment 'production' may not be used"),
            ("    environment: staging\n", main(), "the secret DEPLOY_KEY belongs to environments that the policy names"),
            ("", main(), "the secret DEPLOY_KEY belongs to environments"),
            ("    strategy: { matrix: { e: [prod] } }\n    environment: \"${{ matrix.e }}\"\n", main(), "known only when the job starts"),
        ] {
            assert!(refusal(job, github.clone()).contains(message), "{job}: {}", refusal(job, github));
        }
        let fork = json!({
            "ref": "refs/heads/main", "repository": "acme/shop",
            "event": { "pull_request": { "head": { "repo": { "full_name": "eve/shop" } } } },
        });
        assert!(refusal("    environment: production\n", fork).contains("a fork's code may not use it"));
        // Without rules of it, an environment is a name.
        assert!(planned("    environment: production\n", topic(), "").is_ok());
    }
}
