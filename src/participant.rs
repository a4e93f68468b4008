//! One tab's side of the protocol: what it may believe, and when it may ask for more.
//!
//! A second pure state machine beside [`rules`](crate::rules): answers go in, commands come out,
//! and `now` (the tab's own monotonic clock) is an argument. It owns no timer and sends nothing.
//!
//! # State
//!
//! A [`Participant`] stands for one lock object. It is in one of three states:
//!
//! - **idle**: nothing asked, nothing held;
//! - **asking**: a request exists that the store may know of (`request`);
//! - **holding**: that request was answered [`Outcome::Held`] (`holding`).
//!
//! [`Past`] is what outlives a lock object: a lock made anew in the same process, for the same key
//! and holder, goes on from there.
//!
//! # What a holder may believe
//!
//! A lease of `len` ms that was asked for at `sent` is good until `sent + len`: the store cannot
//! have written it before it was asked, and an observer counts its whole `len` from after it was
//! written. That is why every answer comes back with the time read *before* its command was sent.
//! The holder stops believing a margin of two clock granules early, because a coarse clock may run
//! up to one granule behind here and up to one ahead at the observer.
//!
//! # When an observer may take over
//!
//! Its clock starts when the *answer* with a new sighting arrives, and runs for the whole lease
//! length that the record names. The rule checks in the same transaction that the sighting still
//! stands.

use std::time::Duration;

use crate::rules::{Command, Fresh, Last, Mode, Outcome, Requester, Sighting, Take};

/// A point on the tab's own monotonic clock, from an origin of its own.
pub type Now = Duration;

/// The highest first token that a wall clock may lead to (that of the year 2109). A clock set
/// further ahead would leave tokens no room to grow in, and so make the record corrupt.
const MAX_FRESH_TOKEN: u64 = 1 << 52;

/// What a tab remembers about a key for as long as it lives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Past {
    /// Requests that ended here, whose quitting the store has not confirmed. They are named in the
    /// next take, so that a lost or late quit never locks a tab out of its own lease.
    ended: Vec<u64>,
    /// The latest lease held: its epoch and token.
    latest: Option<(u64, u64)>,
}

/// A lease as its holder knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Holding {
    /// The incarnation of the record.
    pub epoch: u64,
    /// The fencing token.
    pub token: u64,
    /// Whether another holder had the lock since this tab last did.
    pub dirty: bool,
    /// Good while now < until.
    pub until: Now,
}

/// The request that asks or holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Request {
    id: u64,
    /// It has asked to wait in the queue.
    joined: bool,
    /// It may stand in the record: it joined, or a take of it has not been answered.
    known: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Observation {
    sighting: Sighting,
    since: Now,
    len: Duration,
    /// How many wait who came before this tab, when it last looked.
    ahead: usize,
}

/// What came of a take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Ours.
    Held(Holding),
    /// Somebody else's. See [`Participant::ripe_in`].
    Busy,
    /// Ours in the record, but the answer took so long that the lease is over. Ask again.
    Late,
}

/// What is due for a holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// Renew.
    Renew(Command),
    /// The lease ran out before it was renewed; the loss must be told. The command tells the store.
    Expired(Command),
}

/// What came of a renewal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// Good until then.
    Until(Now),
    /// Somebody else has it; the loss must be told. The command tells the store.
    Lost(Command),
    /// Confirmed, but only after the lease had run out; the loss must be told, since somebody may
    /// have been told it already. The command tells the store.
    Late(Command),
    /// An answer about a lease that has already ended here.
    Stale,
}

/// One tab's side of one lock. See the [module](self).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Participant {
    tab: String,
    len: u32,
    margin: Duration,
    request: Option<Request>,
    holding: Option<Holding>,
    observation: Option<Observation>,
}

impl Participant {
    /// A participant that is idle. `len` is the lease length in ms, `margin` two granules of the
    /// clock that `now` will be read from.
    #[must_use]
    pub fn new(tab: String, len: u32, margin: Duration) -> Self {
        Self {
            tab,
            len,
            margin,
            request: None,
            holding: None,
            observation: None,
        }
    }

    /// The lease held, if it is still good. What has run out is not reported here:
    /// see [`Participant::due`].
    #[must_use]
    pub fn holding(&self, now: Now) -> Option<Holding> {
        self.holding.filter(|h| now + self.margin < h.until)
    }

    /// When the lease held ceases to be good.
    #[must_use]
    pub fn good_until(&self) -> Option<Now> {
        self.holding.map(|h| h.until.saturating_sub(self.margin))
    }

    /// How long the observed lease must still stand still before it may be taken over, if one is
    /// being observed.
    #[must_use]
    pub fn ripe_in(&self, now: Now) -> Option<Duration> {
        let seen = self.observation?;
        Some((seen.since + seen.len).saturating_sub(now))
    }

    /// How soon a waiter should look again, if it watches a lease.
    ///
    /// An observation starts when a waiter sees the last renewal of a holder that died, so it must
    /// look more often than a holder beats to take over within a lease and a beat: a twentieth of the
    /// lease, for the first in the queue. Those behind look less often, and leave it the store.
    #[must_use]
    pub fn look_in(&self, now: Now) -> Option<Duration> {
        let seen = self.observation?;
        let behind = u32::try_from(seen.ahead)
            .unwrap_or(u32::MAX)
            .saturating_add(1);
        let pace = (seen.len / 20).saturating_mul(behind);
        Some(pace.min((seen.since + seen.len).saturating_sub(now)))
    }

    /// Asks for the lease. `request` is used if none is pending: a call that asks again, or for a
    /// second caller, goes on with the request that the store may know.
    pub fn take(
        &mut self,
        past: &Past,
        now: Now,
        request: u64,
        join: bool,
        fresh_epoch: u64,
        wall: u64,
    ) -> Take {
        let asking = self.request.get_or_insert(Request {
            id: request,
            joined: false,
            known: false,
        });
        asking.joined |= join;
        asking.known = true;
        let request = asking.id;
        let seen = past.latest.map_or(0, |(_, token)| token + 2);
        Take {
            who: self.requester(request),
            mode: Mode::Exclusive,
            len: self.len,
            join,
            unchanged: self
                .observation
                .filter(|seen| now >= seen.since + seen.len)
                .map(|seen| seen.sighting),
            ended: past.ended.clone(),
            fresh: Fresh {
                epoch: fresh_epoch,
                token: seen.max(wall.saturating_mul(1024).min(MAX_FRESH_TOKEN)),
            },
            wall,
        }
    }

    /// The answer to a take that was sent at `sent` and named `ended`.
    pub fn taken(
        &mut self,
        past: &mut Past,
        ended: &[u64],
        sent: Now,
        now: Now,
        outcome: &Outcome,
    ) -> Taken {
        past.ended.retain(|request| !ended.contains(request));
        match outcome {
            Outcome::Held(held) => {
                self.observation = None;
                let holding = Holding {
                    epoch: held.epoch,
                    token: held.token,
                    dirty: self.dirty(past, held.epoch, held.last.as_ref()),
                    until: sent + Duration::from_millis(self.len.into()),
                };
                self.holding = Some(holding);
                if self.holding(now).is_none() {
                    self.holding = None;
                    return Taken::Late;
                }
                past.latest = Some((held.epoch, held.token));
                Taken::Held(holding)
            }
            Outcome::Waiting(waiting) => {
                if let Some(asking) = &mut self.request {
                    asking.known = asking.joined;
                }
                let len = Duration::from_millis(waiting.len.into());
                let sighting = waiting.sighting;
                let still = self.observation.filter(|seen| seen.sighting == sighting);
                self.observation = Some(Observation {
                    sighting,
                    since: still.map_or(now, |seen| seen.since),
                    len,
                    ahead: waiting.ahead,
                });
                Taken::Busy
            }
            // A lease of 0 ms, which `Config` does not let through.
            Outcome::Refused | Outcome::Gone { .. } => Taken::Busy,
        }
    }

    /// What the heartbeat has to do now; `None` when nothing is held.
    pub fn due(&mut self, past: &mut Past, now: Now) -> Option<Due> {
        let holding = self.holding?;
        let request = self.request?;
        if self.holding(now).is_none() {
            return self.end(past).map(Due::Expired);
        }
        Some(Due::Renew(Command::Renew {
            who: self.requester(request.id),
            token: holding.token,
            len: self.len,
        }))
    }

    /// The answer to a renewal of `token` that was sent at `sent`.
    pub fn renewed(
        &mut self,
        past: &mut Past,
        token: u64,
        sent: Now,
        now: Now,
        outcome: &Outcome,
    ) -> Renewed {
        let good = self.holding(now).is_some();
        match (&mut self.holding, outcome) {
            (Some(holding), Outcome::Held(_)) if holding.token == token && good => {
                let until = sent + Duration::from_millis(self.len.into());
                holding.until = holding.until.max(until);
                Renewed::Until(holding.until.saturating_sub(self.margin))
            }
            (Some(holding), answer) if holding.token == token => {
                let lost = match answer {
                    Outcome::Held(_) => Renewed::Late,
                    _ => Renewed::Lost,
                };
                self.end(past).map_or(Renewed::Stale, lost)
            }
            _ => Renewed::Stale,
        }
    }

    /// Ends the request, whatever became of it: a release, a loss, or a caller that gave up. From
    /// here on nothing is held. The command, if any, tells the store.
    pub fn end(&mut self, past: &mut Past) -> Option<Command> {
        let request = self.request.take()?;
        self.holding = None;
        request.known.then(|| {
            past.ended.push(request.id);
            Command::Quit {
                who: self.requester(request.id),
            }
        })
    }

    fn requester(&self, request: u64) -> Requester {
        let tab = self.tab.clone();
        Requester { tab, request }
    }

    fn dirty(&self, past: &Past, epoch: u64, last: Option<&Last>) -> bool {
        match (last, past.latest) {
            (None, None) => false,
            (Some(last), Some(latest)) => latest != (epoch, last.token) || last.tab != self.tab,
            _ => true,
        }
    }
}

impl Past {
    /// The store has confirmed a [`Command::Quit`].
    pub fn confirmed(&mut self, quit: &Command) {
        if let Command::Quit { who } = quit {
            self.ended.retain(|request| *request != who.request);
        }
    }
}
