//! The download caches of package managers, which the set-up actions restore and save by themselves.

use caisson_model::outcome::AnnotationLevel;

use crate::actions::bench::{Bench, Later, Saving};
use crate::actions::cache::{self, Restored};
use crate::program::Halt;

/// What is cached, and by what it is known.
#[derive(Clone, Debug)]
pub struct PackageCache {
    /// The key's beginning.
    pub name: String,
    /// Directories, as `path` of a cache has them.
    pub paths: Vec<String>,
    /// Patterns of the files whose digest ends the key; those of the first list that match anything count.
    pub patterns: Vec<Vec<String>>,
    /// What ends the key behind that.
    pub suffix: String,
    /// What is said when no file matches.
    pub absent: Absent,
}

/// What a missing lock file means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// Nothing is cached, and that is said.
    Skipped,
    /// The cache is known without it.
    Ignored,
}

impl PackageCache {
    /// Restores it, and puts saving it off unless it was there exactly. Whether it was.
    ///
    /// # Errors
    /// The [`Halt`] with which the step ends.
    pub async fn restore(&self, bench: &mut impl Bench) -> Result<bool, Halt> {
        let mut digest = String::new();
        for patterns in &self.patterns {
            digest = bench.hash(patterns).await?.map_err(Halt::invalid)?;
            if !digest.is_empty() {
                break;
            }
        }
        if digest.is_empty() && self.absent == Absent::Skipped {
            let known: Vec<&str> = self.patterns.iter().flatten().map(String::as_str).collect();
            let message = format!("no file matches {}, so nothing is cached", known.join(", "));
            bench.remark(AnnotationLevel::Warning, &message).await;
            return Ok(false);
        }
        let saving = Saving { paths: self.paths.clone(), key: format!("{}-{digest}{}", self.name, self.suffix) };
        let restored = cache::restore(&saving, &[], false, bench).await?;
        if restored != Restored::Exactly {
            bench.later("success()", Later::SaveCache(saving));
        }
        Ok(restored == Restored::Exactly)
    }
}
