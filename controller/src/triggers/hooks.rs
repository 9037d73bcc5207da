//! Webhooks: believed, taken once, and answered before anything runs.

use std::sync::Mutex;

use hyper::{Method, StatusCode};

use crate::identity::registry::now;
use crate::metrics::Fate;
use crate::triggers::course::Course;
use crate::triggers::delivery::{self, Nothing};
use crate::triggers::seen::Seen;
use crate::triggers::settings::{Forge, Repository};
use crate::triggers::signature;
use crate::web::{Reply, Request, Site};

/// `POST /hooks/FORGE/OWNER/NAME`.
#[derive(Debug)]
pub struct Hooks {
    course: Course,
    seen: Mutex<Seen>,
}

impl Hooks {
    /// Webhooks for the repositories of this course.
    pub fn new(course: Course, seen: Seen) -> Hooks {
        Hooks { course, seen: Mutex::new(seen) }
    }

    fn repository(&self, path: &str) -> Option<&Repository> {
        let (forge, name) = path.strip_prefix("/hooks/")?.split_once('/')?;
        self.course.repositories().iter().find(|repository| repository.forge.name() == forge && repository.name.eq_ignore_ascii_case(name))
    }

    fn take(&self, repository: &Repository, number: Option<&str>, body: &[u8]) -> std::io::Result<bool> {
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        seen.take(&repository.name, number, body, now())
    }
}

fn number<'r>(repository: &Repository, request: &'r Request) -> Option<&'r str> {
    match repository.forge {
        Forge::Github => request.header("x-github-delivery"),
        Forge::Gitea => request.header("x-gitea-delivery"),
        Forge::Forgejo => request.header("x-forgejo-delivery").or_else(|| request.header("x-gitea-delivery")),
        Forge::Gitlab => request.header("webhook-id").or_else(|| request.header("x-gitlab-event-uuid")),
    }
}

impl Site for Hooks {
    const LONGEST: usize = 25 << 20;

    async fn answer(&self, request: Request) -> Reply {
        let (fate, reply) = self.judge(request).await;
        self.course.metrics().hook(fate);
        reply
    }
}

impl Hooks {
    /// What becomes of a webhook: what it is counted as, and the answer.
    async fn judge(&self, request: Request) -> (Fate, Reply) {
        if request.method != Method::POST {
            return (Fate::Refused, Reply::text(StatusCode::METHOD_NOT_ALLOWED, "only POST"));
        }
        // An unknown repository and a wrong signature are answered alike: nobody learns which there are.
        let stranger = || (Fate::Refused, Reply::text(StatusCode::UNAUTHORIZED, "not signed by a forge that is known here"));
        let Some(repository) = self.repository(&request.path) else {
            tracing::warn!(path = request.path, "webhook of an unknown repository refused");
            return stranger();
        };
        let header = |name: &str| request.header(name);
        if let Err(reason) = signature::verify(repository.forge, &repository.secret, header, &request.body, now()) {
            tracing::warn!(repository = repository.name, %reason, "webhook refused");
            return stranger();
        }
        let delivery = match delivery::read(repository, header, &request.body, now()) {
            Ok(delivery) => delivery,
            Err(nothing @ Nothing::Idle(_)) => return (Fate::Idle, Reply::text(StatusCode::OK, nothing.to_string())),
            Err(nothing) => {
                tracing::warn!(repository = repository.name, reason = %nothing, "webhook refused");
                return (Fate::Refused, Reply::text(StatusCode::BAD_REQUEST, nothing.to_string()));
            }
        };
        if !self.course.is_leading() {
            // Not noted as taken: the forge delivers it again, to whichever leads then.
            return (Fate::Failed, Reply::text(StatusCode::SERVICE_UNAVAILABLE, "this controller stands by for another"));
        }
        match self.take(repository, number(repository, &request), &request.body) {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!(repository = repository.name, "webhook that was taken before refused");
                return (Fate::Repeated, Reply::text(StatusCode::CONFLICT, "this webhook was taken before"));
            }
            Err(error) => {
                tracing::error!(%error, "webhooks cannot be noted");
                return (Fate::Failed, Reply::text(StatusCode::SERVICE_UNAVAILABLE, "it cannot be noted"));
            }
        }
        match self.course.start(repository, &delivery, None).await {
            Ok(runs) => {
                let runs: Vec<String> = runs.iter().map(ToString::to_string).collect();
                let text = format!("runs: {}", if runs.is_empty() { "none".to_owned() } else { runs.join(", ") });
                (if runs.is_empty() { Fate::Idle } else { Fate::Started }, Reply::text(StatusCode::ACCEPTED, text))
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "webhook started nothing");
                // A delivery that the forge repeats must not count as a replay of one that did nothing.
                let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                seen.give_back(&repository.name, number(repository, &request), &request.body);
                (Fate::Failed, Reply::text(StatusCode::BAD_GATEWAY, "the workflows could not be started"))
            }
        }
    }
}
