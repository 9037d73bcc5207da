//! Engine, agents and network in one thread with one clock and one seed: messages are dropped, delayed, repeated and overtake
//! each other, both sides crash, clocks are wrong. The promises of the contract are checked at every step.
//!
//! `CAISSON_SEED=N` plays one schedule again; `CAISSON_SEEDS=N` says how many are played. A failure prints its seed.

#![allow(clippy::panic)]

mod agent;
mod chance;
mod moves;
mod promises;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::core::engine::Weakness;
use crate::simulation::world::{Ended, World};

/// Plays one schedule; the error is what a promise that was broken says.
fn play(seed: u64, weakness: Option<Weakness>) -> Result<Ended, String> {
    catch_unwind(AssertUnwindSafe(|| World::new(seed, weakness).play())).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_else(|| "it panicked".to_owned())
    })
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// As many as a thorough run wants; fewer where the code is not optimised.
fn seeds() -> u64 {
    number("CAISSON_SEEDS").unwrap_or(if cfg!(debug_assertions) { 400 } else { 10_000 })
}

#[test]
fn every_schedule_keeps_every_promise() {
    if let Some(seed) = number("CAISSON_SEED") {
        let ended = World::new(seed, None).play();
        return tell(&format!("seed {seed}: {ended:?}"));
    }
    let (next, begun) = (AtomicU64::new(1), std::time::Instant::now());
    let last = seeds();
    let work = || {
        let mut total = Ended::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed > last {
                return total;
            }
            match play(seed, None) {
                Ok(ended) => total.add(&ended),
                Err(broken) => panic!("seed {seed}: {broken}; CAISSON_SEED={seed} plays it again"),
            }
        }
    };
    let total = std::thread::scope(|scope| {
        let other = scope.spawn(work);
        let mut total = work();
        total.add(&other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        total
    });
    tell(&format!("{last} schedules in {:?}: {total:?}", begun.elapsed()));
    // A simulation in which nothing goes wrong proves nothing.
    assert!(total.crashes > last && total.dropped > 10 * last && total.repeated > last && total.fenced > last / 10, "{total:?}");
}

/// Each protection is there for a reason that the simulation can see.
#[test]
fn without_a_protection_a_seed_shows_what_breaks() {
    let table = [
        (Weakness::Fence, "P"),
        (Weakness::Durability, "P"),
        (Weakness::SecretsOnce, "P5"),
        (Weakness::OfferDeadline, "P4"),
        (Weakness::EndLogs, "P2"),
    ];
    for (weakness, promise) in table {
        let caught = (1..=3000).find_map(|seed| play(seed, Some(weakness)).err().map(|broken| (seed, broken)));
        let (seed, broken) = caught.unwrap_or_else(|| panic!("nothing shows that {weakness:?} is missing"));
        assert!(broken.contains(promise), "{weakness:?}, seed {seed}: {broken}");
        assert!(play(seed, None).is_ok(), "seed {seed} fails with the protection too");
        tell(&format!("without {weakness:?}: seed {seed}: {}", broken.lines().next().unwrap_or_default()));
    }
}

#[test]
fn a_seed_plays_the_same_schedule_again() {
    for seed in 1..20 {
        assert_eq!(play(seed, None), play(seed, None), "seed {seed}");
    }
}

/// Shown with `--nocapture`.
fn tell(text: &str) {
    use std::io::Write;
    let _shown = writeln!(std::io::stderr(), "{text}");
}
