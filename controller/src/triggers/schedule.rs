//! Schedules: the `cron` of the workflows on each repository's default branch, fired by the minute.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt};
use jiff::tz::TimeZone;
use serde_json::json;

use crate::identity::registry::now;
use crate::triggers::course::Course;
use crate::triggers::cron::Cron;
use crate::triggers::delivery::{self, Delivery};
use crate::triggers::forge::ForgeError;
use crate::triggers::settings::Repository;

/// How old what is known of a repository's schedules may be.
const FRESH_MINUTES: i64 = 5;

struct Known {
    read: i64,
    times: Vec<(String, String, Cron)>,
}

/// Fires schedules until it is dropped. A minute that passes while the controller is down is not made up for.
pub async fn run(course: Course) {
    run_by(course, minutes()).await;
}

/// The minutes since 1970, each when it begins.
fn minutes() -> impl Stream<Item = i64> + Send {
    stream::unfold((), |()| async {
        let into_minute = now().0 % 60_000;
        tokio::time::sleep(Duration::from_millis(60_000 - into_minute)).await;
        Some((i64::try_from(now().0 / 60_000).unwrap_or(i64::MAX), ()))
    })
}

/// Fires what is due at each of these minutes since 1970, until there are no more. Only while this controller leads.
pub async fn run_by(course: Course, minutes: impl Stream<Item = i64> + Send) {
    let mut known: HashMap<String, Known> = HashMap::new();
    let mut minutes = std::pin::pin!(minutes);
    while let Some(minute) = minutes.next().await {
        if !course.is_leading() {
            continue;
        }
        for repository in course.repositories() {
            if known.get(&repository.name).is_none_or(|known| known.read + FRESH_MINUTES <= minute) {
                match read(&course, repository).await {
                    Ok(times) => drop(known.insert(repository.name.clone(), Known { read: minute, times })),
                    Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "schedules were not read"),
                }
            }
            let Ok(at) = jiff::Timestamp::from_second(minute * 60) else { continue };
            let at = at.to_zoned(TimeZone::UTC).datetime();
            let due = known.get(&repository.name).into_iter().flat_map(|known| &known.times).filter(|(_, _, cron)| cron.matches(at));
            for (file, text, _) in due {
                if let Err(error) = fire(&course, repository, file, text).await {
                    tracing::error!(error = &error as &dyn std::error::Error, file, "schedule started nothing");
                }
            }
        }
    }
}

async fn read(course: &Course, repository: &Repository) -> Result<Vec<(String, String, Cron)>, ForgeError> {
    let sha = course.forges().head(repository, &repository.default_branch).await?;
    let workflows = course.forges().workflows(repository, &sha).await?;
    let mut times = Vec::new();
    for (file, text) in workflows {
        for time in caisson_workflow::schedules(&text, &file) {
            match Cron::parse(&time) {
                Some(cron) => times.push((file.clone(), time, cron)),
                None => tracing::warn!(file, time, "schedule is not understood"),
            }
        }
    }
    Ok(times)
}

/// Starts one workflow at the newest commit of the default branch.
///
/// # Errors
/// [`crate::triggers::course::StartError`].
pub async fn fire(course: &Course, repository: &Repository, file: &str, time: &str) -> Result<(), crate::triggers::course::StartError> {
    let sha = course.forges().head(repository, &repository.default_branch).await?;
    let event = json!({ "schedule": time, "repository": { "full_name": repository.name, "default_branch": repository.default_branch } });
    let reference = format!("refs/heads/{}", repository.default_branch);
    let github = delivery::context(repository, &sha, &reference, "schedule", event);
    let delivery = Delivery { event: "schedule".to_owned(), sha, github };
    course.start(repository, &delivery, Some(file)).await.map(drop)
}
