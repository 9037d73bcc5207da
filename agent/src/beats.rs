//! Beats, and what is known to have been heard of them. A lease counts from the moment at which something was *sent* that the
//! controller answered: then this side never believes in it for longer than the other.

use std::collections::VecDeque;

use caisson_model::agent::VersionRange;
use tokio::time::Instant;

/// How many unanswered beats are remembered. A controller before version 3 of the contract answers none.
const UNHEARD: usize = 64;

/// The beats of one agent, over all its sessions.
#[derive(Debug, Default)]
pub(crate) struct Beats {
    number: u64,
    unheard: VecDeque<(u64, Instant)>,
    heard: Option<Instant>,
}

impl Beats {
    /// The number of a beat that is sent now.
    pub(crate) fn next(&mut self, now: Instant) -> u64 {
        self.number += 1;
        self.unheard.truncate(UNHEARD - 1);
        self.unheard.push_front((self.number, now));
        self.number
    }

    /// The controller answered the beat of this number.
    pub(crate) fn answered(&mut self, number: u64) {
        let sent = self.unheard.iter().find(|(of, _)| *of == number).map(|(_, sent)| *sent);
        self.heard = self.heard.max(sent);
        self.unheard.retain(|(of, _)| *of > number);
    }

    /// A session was opened by a hello of that moment.
    pub(crate) fn welcomed(&mut self, greeted: Instant, version: u32) {
        self.heard = (version >= VersionRange::HEARD).then_some(greeted);
        self.unheard.clear();
    }

    /// When the newest of what was answered had been sent; `None` where that is not known.
    pub(crate) fn heard(&self) -> Option<Instant> {
        self.heard
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn leases_count_from_the_sending_of_what_was_answered() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut beats = Beats::default();
        assert_eq!(beats.heard(), None);
        beats.welcomed(at(1), VersionRange::HEARD);
        assert_eq!(beats.heard(), Some(at(1)), "the hello, and not its answer");
        let (first, second) = (beats.next(at(5)), beats.next(at(10)));
        beats.answered(second);
        beats.answered(first);
        beats.answered(77);
        assert_eq!(beats.heard(), Some(at(10)), "an answer that was overtaken takes nothing back");
        beats.welcomed(at(20), VersionRange::HEARD - 1);
        for second in 0..1000 {
            beats.next(at(20 + second));
        }
        assert_eq!((beats.heard(), beats.unheard.len()), (None, UNHEARD), "an older controller answers nothing");
    }
}
