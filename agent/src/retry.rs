//! Calls that are repeated while the controller cannot be reached. Waits grow from 50 ms to 5 s, each shortened by chance so
//! that many agents do not return in step.

use std::future::Future;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use caisson_proto::api::ApiError;
use tokio::sync::watch;

use crate::stop::Stop;

const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);

/// The waits between attempts at one thing.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
}

impl Backoff {
    /// Begins with the shortest wait.
    pub fn new() -> Backoff {
        Backoff { next: SHORTEST }
    }

    /// The next wait: between half of the present span and all of it; the span then doubles.
    pub fn pause(&mut self) -> Duration {
        let span = self.next;
        self.next = (span * 2).min(LONGEST);
        // A hasher of the standard library is seeded by chance: enough to spread agents, and no secret depends on it.
        let chance = std::hash::RandomState::new().build_hasher().finish();
        span / 2 + Duration::from_nanos(chance % (span.as_nanos() as u64 / 2 + 1))
    }
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff::new()
    }
}

/// Repeats `call` until it is answered with anything but *unavailable*. Ends with [`ApiError::Fenced`] when `stop` says that
/// the attempt is to be forgotten.
///
/// # Errors
/// Whatever the call answers.
pub async fn until_answered<T, F>(stop: &watch::Receiver<Stop>, mut call: impl FnMut() -> F) -> Result<T, ApiError>
where
    F: Future<Output = Result<T, ApiError>>,
{
    let mut stop = stop.clone();
    let mut backoff = Backoff::new();
    loop {
        let answer = tokio::select! {
            biased;
            () = forgotten(&mut stop) => return Err(ApiError::Fenced),
            answer = call() => answer,
        };
        match answer {
            Err(error) if error.is_transient() => {
                tracing::debug!(%error, "call was not answered");
                tokio::select! {
                    () = forgotten(&mut stop) => return Err(ApiError::Fenced),
                    () = tokio::time::sleep(backoff.pause()) => {}
                }
            }
            answer => return answer,
        }
    }
}

/// Ready when the order is to forget the attempt.
pub async fn forgotten(stop: &mut watch::Receiver<Stop>) {
    if stop.wait_for(|stop| *stop == Stop::Forget).await.is_err() {
        // Whoever could say so is gone; then nobody will.
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_within_bounds() {
        let mut backoff = Backoff::new();
        let waits: Vec<_> = (0..12).map(|_| backoff.pause()).collect();
        assert!(waits[0] >= SHORTEST / 2 && waits[0] <= SHORTEST);
        assert!(waits[11] >= LONGEST / 2 && waits[11] <= LONGEST);
    }

    #[tokio::test]
    async fn only_unavailable_is_repeated() {
        let (_keep, stop) = watch::channel(Stop::Run);
        let mut calls = 0;
        let answer = until_answered(&stop, || {
            calls += 1;
            let calls = calls;
            async move { if calls < 3 { Err(ApiError::Unavailable("x".into())) } else { Err::<(), _>(ApiError::Denied("y".into())) } }
        })
        .await;
        assert_eq!((answer, calls), (Err(ApiError::Denied("y".into())), 3));
    }
}
