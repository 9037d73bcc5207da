//! Whether an attempt is to end, and how. It only ever becomes more urgent.

use std::time::Duration;

use tokio::sync::watch;

/// The order that an attempt is under.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stop {
    /// Go on.
    #[default]
    Run,
    /// Cancelled: end the present step in stages; steps with `always()` still run.
    Cancel(Stages),
    /// The agent is leaving: end the present step in stages, run no other, give the attempt back.
    Leave(Stages),
    /// The attempt belongs to somebody else: kill it, say nothing more about it.
    Forget,
}

/// The times of the stages in which a step is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stages {
    /// From SIGINT to SIGTERM.
    pub terminate_after: Duration,
    /// From SIGTERM to SIGKILL.
    pub kill_after: Duration,
}

impl Default for Stages {
    /// 7.5 and 2.5 seconds, as users of the language expect.
    fn default() -> Stages {
        Stages { terminate_after: Duration::from_millis(7500), kill_after: Duration::from_millis(2500) }
    }
}

impl Stages {
    fn total(self) -> Duration {
        self.terminate_after.saturating_add(self.kill_after)
    }
}

impl Stop {
    fn is_more_urgent_than(self, other: Stop) -> bool {
        match (other, self) {
            (Stop::Cancel(old), Stop::Cancel(new)) | (Stop::Leave(old), Stop::Leave(new)) => new.total() < old.total(),
            _ => self.rank() > other.rank(),
        }
    }

    fn rank(self) -> u8 {
        match self {
            Stop::Run => 0,
            Stop::Cancel(_) => 1,
            Stop::Leave(_) => 2,
            Stop::Forget => 3,
        }
    }
}

/// Gives the order, unless a more urgent one stands.
pub fn order(sender: &watch::Sender<Stop>, stop: Stop) {
    sender.send_if_modified(|present| {
        let more = stop.is_more_urgent_than(*present);
        if more {
            *present = stop;
        }
        more
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_only_become_more_urgent() {
        let slow = Stages::default();
        let fast = Stages { terminate_after: Duration::ZERO, kill_after: Duration::ZERO };
        let (sender, receiver) = watch::channel(Stop::Run);
        for (given, standing) in [
            (Stop::Cancel(slow), Stop::Cancel(slow)),
            (Stop::Run, Stop::Cancel(slow)),
            (Stop::Cancel(fast), Stop::Cancel(fast)),
            (Stop::Cancel(slow), Stop::Cancel(fast)),
            (Stop::Forget, Stop::Forget),
            (Stop::Leave(fast), Stop::Forget),
        ] {
            order(&sender, given);
            assert_eq!(*receiver.borrow(), standing, "{given:?}");
        }
    }
}
