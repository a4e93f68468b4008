//! What is due, and when: derived from the state, so nothing can be left set.

use super::calls::{Beacon, Call};
use super::keeping::LONG_BEATS;
use super::{Contender, Patience};
use crate::participant::Now;
use crate::time::Duration;

/// What a lock object waits for the clock for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// The lease is not good any more. Before all else, also before what has been heard by then.
    Expiry,
    /// A lease without guards has stayed for long enough. Before it would be renewed.
    Linger,
    /// The next renewal, or the retry of one that failed.
    Beat,
    /// A fenced transaction holds the store up: the next renewal behind it.
    BeatBehind,
    /// A call that rests asks the store again, or one that is held back has been patient for long enough.
    Look,
    /// A lease that was handed on by a message, and not claimed yet as far as is known, is written down.
    Pass,
    /// A try has waited for long enough for a reply.
    Reply,
    /// The first take waits for the beacon no longer.
    Beacon,
    /// The earliest deadline of a call.
    Deadline,
}

impl Timer {
    /// All there are.
    pub const ALL: [Self; 9] = [
        Self::Expiry,
        Self::Linger,
        Self::Beat,
        Self::BeatBehind,
        Self::Look,
        Self::Pass,
        Self::Reply,
        Self::Beacon,
        Self::Deadline,
    ];
}

impl Contender {
    /// What is due first, and when.
    #[must_use]
    pub fn due(&self) -> Option<(Now, Timer)> {
        let set = |timer| Some((self.due_at(timer)?, timer));
        Timer::ALL.into_iter().filter_map(set).min()
    }

    /// When that timer is due, if it is set.
    #[must_use]
    pub fn due_at(&self, timer: Timer) -> Option<Now> {
        let keeping = self.keeping.as_ref();
        let calls = self.calls.iter();
        match timer {
            Timer::Expiry => {
                let partings = self.partings.iter().map(|parting| parting.until);
                partings.chain(self.good_until()).min()
            }
            Timer::Beat => keeping.filter(|k| k.renewal.is_none())?.next_beat,
            Timer::BeatBehind => {
                let behind = self.participant.is_fenced();
                let keeping = keeping.filter(|k| behind && k.renewal.is_some())?;
                Some(keeping.last_sent + self.pace_behind())
            }
            Timer::Linger => keeping?.lingers_until(),
            Timer::Look => calls.filter_map(Call::looks_at).min(),
            Timer::Pass => {
                let passing = self.passing.as_ref()?;
                (passing.sent.is_none() && !self.suspended).then_some(passing.next)
            }
            Timer::Reply => calls.filter_map(Call::waits_for_reply_until).min(),
            Timer::Beacon => match self.beacon {
                Beacon::AwaitedUntil(until) => Some(until),
                Beacon::Unknown | Beacon::Settled => None,
            },
            Timer::Deadline => calls.filter_map(Call::deadline).min(),
        }
    }

    /// Whether the lease is over by now.
    #[must_use]
    pub fn has_expired(&self, now: Now) -> bool {
        self.due_at(Timer::Expiry).is_some_and(|until| until <= now)
    }

    /// Whether a renewal may as well be sent now, with those of other locks. More than half of a beat early,
    /// so that of two groups one always joins the other; but a lease that is renewed seldom is not much less
    /// so because others are busy.
    #[must_use]
    pub fn may_beat(&self, now: Now) -> bool {
        let early = match self.participant.long() {
            None => self.heartbeat() * 5 / 8,
            Some(long) => long / LONG_BEATS / 4,
        };
        let due = self.due_at(Timer::Beat);
        due.is_some_and(|beat| beat.saturating_sub(early) <= now)
    }

    /// Whether it may as well look into the store now, with other locks: for calls that wait, a beat early.
    #[must_use]
    pub fn may_look(&self, now: Now) -> bool {
        let waits = |call: &Call| matches!(call.patience, Patience::Until(_));
        let due = self
            .due_at(Timer::Look)
            .filter(|_| self.calls.iter().all(waits));
        self.keeping.is_none() && due.is_some_and(|look| look <= now + self.heartbeat())
    }

    /// How soon the next renewal follows one that waits behind a fenced transaction.
    fn pace_behind(&self) -> Duration {
        self.heartbeat()
            .max(Duration::from_millis(self.lease_ms.into()) / 4)
    }
}
