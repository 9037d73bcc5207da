//! A submission on its way in: source, plan, policy, terms.

use caisson_model::diagnostic::{Diagnostic, DiagnosticKind, Severity};
use caisson_model::id::JobKey;
use caisson_model::run::Submission;
use caisson_model::step::Location;
use caisson_proto::api::{ApiError, BlobApi, Submitted};
use caisson_workflow::{Plan, exclusion};

use crate::core::event::{Answer, Event};
use crate::core::terms::{Terms, Turn, keys};
use crate::mirror::Mirror;
use crate::planning;
use crate::policy::Rules;
use crate::service::keeping::blocking;
use crate::service::{Service, confused};

impl Service {
    /// Plans and admits what was submitted, settles the rest of its terms, and queues it.
    pub(super) async fn take_in(&self, submission: Submission, terms: Terms) -> Result<Submitted, ApiError> {
        if let Some(source) = submission.source
            && !self.find_missing_blobs(vec![source]).await?.is_empty()
        {
            return Err(ApiError::Invalid(format!("source: blob {source} was not put before")));
        }
        let terms = Terms { alone: self.inner.alone.clone(), ..terms };
        let (rules, known) = (self.inner.rules.clone(), self.inner.secrets.names());
        let mirror = self.inner.mirror.clone();
        let mirror = blocking(move || mirror.map_or_else(|| Ok(Mirror::default()), |folder| Mirror::read(&folder))).await?;
        let planning = move || -> Result<_, Vec<Diagnostic>> {
            let plan = planning::plan(&submission, &rules, &mirror, &known)?;
            let terms = settle(terms, submission, &plan, &rules).map_err(|finding| vec![finding])?;
            Ok((plan, terms))
        };
        let planned = tokio::task::spawn_blocking(planning).await.map_err(|_| ApiError::Broken("the planning failed".to_owned()))?;
        let (plan, terms) = planned.map_err(ApiError::Rejected)?;
        let warnings = plan.warnings.clone();
        match self.call(Event::Submit(Box::new(plan), Box::new(terms))).await? {
            Answer::Submitted(run) => Ok(Submitted { run, warnings }),
            answer => Err(confused(&answer)),
        }
    }
}

fn settle(terms: Terms, submission: Submission, plan: &Plan, rules: &Rules) -> Result<Terms, Diagnostic> {
    let repository = plan.contexts.github.get("repository").and_then(|name| name.as_str()).unwrap_or_default().to_lowercase();
    let turn = match &plan.concurrency {
        None => None,
        Some(concurrency) => {
            let (group, cancel_in_progress) = exclusion(concurrency, &plan.contexts, None).map_err(|message| Diagnostic {
                severity: Severity::Error,
                kind: DiagnosticKind::Language,
                location: Location { file: plan.file.clone(), line: 1, column: 1 },
                width: 0,
                construct: "concurrency".to_owned(),
                message,
                help: "correct the group or what it is made of".to_owned(),
                excerpt: String::new(),
            })?;
            Some(Turn { group: format!("{repository}\n{}", group.to_lowercase()), cancel_in_progress })
        }
    };
    let retry =
        keys(&plan.jobs).into_iter().filter_map(|key| rules.retry_of(&plan.workflow, &plan.file, &key).map(|rule| (JobKey(key), rule)));
    Ok(Terms { priority: submission.priority, repository, retry: retry.collect(), turn, submission: Some(Box::new(submission)), ..terms })
}
