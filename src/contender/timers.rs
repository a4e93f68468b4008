//! What is due, and when: derived from the state, so nothing can be left set.

use super::calls::{Beacon, Call};
use super::keeping::LONG_BEATS;
use super::{Contender, Patience};
use crate::participant::Now;
use crate::time::Duration;

/// What a lock object does when the clock says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// The lease expires. This comes before all else that is due, and before what was heard by then.
    Expiry,
    /// A lease without guards has stayed for long enough. This comes before a renewal that is due by then.
    Linger,
    /// The next renewal, or the retry of one that failed.
    Beat,
    /// The next renewal, while one already waits behind a fenced transaction that holds the store up.
    BeatBehind,
    /// A call that rests asks the store again, or a call was held back for long enough.
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
    /// All timers.
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
    /// The timer that is due first, and when.
    #[must_use]
    pub fn due(&self) -> Option<(Now, Timer)> {
        let set = |timer| Some((self.due_at(timer)?, timer));
        Timer::ALL.into_iter().filter_map(set).min()
    }

    /// When `timer` is due, if it is set.
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

    /// Whether the lease, or one that was given up, has expired by `now`.
    #[must_use]
    pub fn has_expired(&self, now: Now) -> bool {
        self.due_at(Timer::Expiry).is_some_and(|until| until <= now)
    }

    /// Whether a renewal may as well be sent now, with those of other locks. It may be more than half of a
    /// beat early, so that of two groups one always joins the other. A long lease is renewed only a little
    /// early, so that busy locks do not make it renew much more often.
    #[must_use]
    pub fn may_beat(&self, now: Now) -> bool {
        let early = match self.participant.long() {
            None => self.heartbeat() * 5 / 8,
            Some(long) => long / LONG_BEATS / 4,
        };
        let due = self.due_at(Timer::Beat);
        due.is_some_and(|beat| beat.saturating_sub(early) <= now)
    }

    /// Whether this lock object may as well look into the store now, with others. Only if all its calls wait
    /// (spinning ones count their pauses), and at most a beat early.
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
