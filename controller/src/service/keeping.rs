//! Artifacts and caches: what an attempt may keep and find, by the run that it belongs to.

use caisson_model::artifact::{Artifact, Clash, Kept};
use caisson_model::cache::{self, CacheEntry, CacheQuery, MOST_KEYS, Saved};
use caisson_model::id::{Digest, Hold, RunId};
use caisson_model::time::Timestamp;
use caisson_proto::api::{AgentApi, ApiError, BlobApi};

use crate::caches::Tier;
use crate::service::{Service, broken};

/// Artifacts of one run.
const MOST_ARTIFACTS: usize = 500;

pub(super) async fn keep_artifact(service: &Service, hold: Hold, artifact: Artifact, clash: Clash) -> Result<Kept, ApiError> {
    service.holds(hold)?;
    if let Some(reason) = caisson_model::artifact::refusal(&artifact.name) {
        return Err(ApiError::Invalid(format!("name: {reason}")));
    }
    present(service, artifact.digest).await?;
    let run = hold.attempt.job.run;
    // Whose it is and when it came is the controller's to say.
    let artifact = Artifact { job: hold.attempt.job, at: now(), ..artifact };
    let kept = service.inner.artifacts.clone();
    blocking(move || {
        if kept.of(run)?.len() >= MOST_ARTIFACTS {
            return Ok(Err(ApiError::Invalid(format!("name: a run keeps {MOST_ARTIFACTS} artifacts at most"))));
        }
        kept.keep(run, &artifact, clash).map(Ok)
    })
    .await?
}

pub(super) async fn artifacts(service: &Service, run: RunId) -> Result<Vec<Artifact>, ApiError> {
    let kept = service.inner.artifacts.clone();
    blocking(move || kept.of(run)).await
}

pub(super) async fn drop_artifact(service: &Service, hold: Hold, name: String) -> Result<(), ApiError> {
    service.holds(hold)?;
    let kept = service.inner.artifacts.clone();
    blocking(move || kept.drop(hold.attempt.job.run, &name)).await
}

pub(super) async fn find_cache(service: &Service, hold: Hold, query: CacheQuery) -> Result<Option<CacheEntry>, ApiError> {
    if query.keys.is_empty() || query.keys.len() > MOST_KEYS {
        return Err(ApiError::Invalid(format!("keys: 1 to {MOST_KEYS} are looked for at once")));
    }
    let (repository, tier) = owner(service, hold).await?;
    let caches = service.inner.caches.clone();
    let found = blocking(move || caches.find(&repository, tier, &query)).await?;
    let Some(entry) = found else { return Ok(None) };
    // One whose content somebody removed is not there.
    Ok(service.find_missing_blobs(vec![entry.digest]).await?.is_empty().then_some(entry))
}

pub(super) async fn save_cache(service: &Service, hold: Hold, entry: CacheEntry) -> Result<Saved, ApiError> {
    if let Some(reason) = cache::refusal(&entry.key) {
        return Err(ApiError::Invalid(format!("key: {reason}")));
    }
    let (repository, tier) = owner(service, hold).await?;
    present(service, entry.digest).await?;
    let entry = CacheEntry { at: now(), ..entry };
    let caches = service.inner.caches.clone();
    blocking(move || caches.save(&repository, tier, &entry)).await
}

/// Whose caches an attempt uses, and how far it is trusted.
async fn owner(service: &Service, hold: Hold) -> Result<(String, Tier), ApiError> {
    service.holds(hold)?;
    let spec = service.fetch_spec(hold).await?;
    let github = &spec.contexts.github;
    let repository = github["repository"].as_str().unwrap_or_default().to_owned();
    Ok((repository, Tier::of(github)))
}

async fn present(service: &Service, digest: Digest) -> Result<(), ApiError> {
    match service.find_missing_blobs(vec![digest]).await?.is_empty() {
        true => Ok(()),
        false => Err(ApiError::Invalid(format!("digest: blob {digest} was not put before"))),
    }
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Work that blocks.
pub(super) async fn blocking<T: Send + 'static, E: std::error::Error + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, ApiError> {
    let worked =
        tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::Broken("the thread that keeps things was ended".to_owned()))?;
    worked.map_err(|error| broken(&error))
}
