//! One tab's side of the protocol: what it may believe, and when it may ask for more.
//!
//! A second pure state machine beside [`rules`](crate::rules): answers and messages go in, commands
//! and messages come out, and `now` (the tab's own monotonic clock) is an argument. It owns no timer
//! and sends nothing.
//!
//! # State
//!
//! A [`Participant`] stands for one lock object. It is in one of three states:
//!
//! - **idle**: nothing asked, nothing held;
//! - **asking** (`asking.rs`): a request exists that the store may know of, and the lease of the present
//!   holder is watched;
//! - **holding** (`holding.rs`): that request was answered [`Outcome::Held`](crate::rules::Outcome), or
//!   started by a [`Grant`].
//!
//! ```text
//!             take               Held, or a grant
//!     idle ----------> asking --------------------> holding
//!       ^                | end                         | end, release, due after its time, a refusal
//!       +----------------+-----------------------------+
//! ```
//!
//! [`Past`] is what outlives a lock object: a lock object that is made later in the same process, for the
//! same key and holder, goes on from it.
//!
//! # What a holder may believe
//!
//! A lease of `len` ms that was asked for at `sent` is good until `sent + len`: the store cannot
//! have written it before it was asked, and an observer counts its whole `len` from after it was
//! written. That is why every answer comes back with the time read *before* its command was sent.
//! The holder stops believing a margin of two clock granules early: a coarse clock may run up to one
//! granule behind here, and up to one ahead at the observer.
//!
//! A holder that sends a renewal *shorter* than its lease believes only in the shorter lease from then on,
//! because observers may go by that at once. See [`Participant::due`].
//!
//! # When an observer may take over
//!
//! - When it has seen the record unchanged for the whole lease length that the record names. This time starts
//!   when the *answer* with a new sighting arrives.
//! - At once, when all tabs that may have the lease before it have ended ([`Participant::suspect`]).
//!
//! The rule checks in the same transaction that the proof still stands.
//!
//! # Handing over
//!
//! A release while a tab waits is a [`Release::Delegate`] if that is sound: one message, by which the
//! receiver starts before any store knows. From then on the delegator holds nothing. The record still says
//! that it does, so no other tab can take the lock for as long as the delegator's lease runs. The receiver
//! holds for the remainder of that lease, and claims the lease in the record at once.
//!
//! The remainder is told on the receiver's own clock. The receiver wrote a stamp when it queued; the
//! delegator read that stamp at some later time, and counts from there. So no delay of the message can make
//! the remainder longer.
//!
//! If a delegation is not sound, the release is a [`Release::Quit`], by which the store grants the lock to
//! the head of the queue. The message that follows lets the head start before it has asked.
//!
//! # Fenced transactions
//!
//! A fenced transaction ([`Participant::fence`]) holds the store up for as long as it runs: for the renewals
//! of this tab, and for the takeovers of all others.
//!
//! - An observer first watches a whole lease go by. So a renewal that is sent while the lease is good is sent
//!   before any takeover.
//! - A store that has transactions runs them in the order in which they were sent. So the renewal is applied
//!   before the takeover.
//!
//! So from the time when its check has passed to its end, the lease is good for its length from when the
//! latest renewal was *sent*, answered or not. See [`Participant::due`]. If one of these renewals fails, only
//! what was answered counts again.

mod asking;
mod holding;

use crate::time::Duration;

use serde::{Deserialize, Serialize};

use crate::rules::{Command, Last, Requester};
use asking::{Asking, Request, Watch};
use holding::Tenure;

/// A point on the tab's own monotonic clock, from an origin of its own.
pub type Now = Duration;

/// What a tab remembers about a key for as long as the tab lives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Past {
    /// Requests that ended here, and whose quit the store has not confirmed. They are named in the
    /// next take, so that a lost or late quit never locks a tab out of its own lease. A request that
    /// was handed on is never among them.
    ended: Vec<u64>,
    /// The epoch and the token of the latest lease that was held here.
    latest: Option<(u64, u64)>,
    /// The latest lease was delegated to another tab, which may have held it unseen.
    delegated: bool,
    /// Another holder had the lock, and no caller has been told so yet: a lease may end before any caller
    /// gets it.
    owed: bool,
    /// The epoch and the newest token that is known to have been in use in it.
    seen: (u64, u64),
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
    /// Until when the lease is good. The margin is not taken off.
    pub until: Now,
    /// The length last asked for, in ms.
    len: u32,
    /// The store has said that the lease is this tab's.
    confirmed: bool,
}

/// "The lease is yours": from a holder to the head of the queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Grant {
    /// [`Record::epoch`](crate::rules::Record::epoch)
    pub epoch: u64,
    /// The request that held.
    pub from: Requester,
    /// The request that holds now.
    pub to: Requester,
    /// The token that it holds under.
    pub token: u64,
    /// Until when the lease is good, in µs on the receiver's clock.
    pub until: u64,
    /// The sender has read, in the record and under its own token, that the receiver was the head.
    pub vouched: bool,
    /// The record says already that the receiver holds.
    pub granted: bool,
}

/// "I wait for the lease": to the holder, from the head of the queue or from a tab that only tries.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Want {
    /// [`Record::epoch`](crate::rules::Record::epoch) of the lease that is waited for.
    pub epoch: u64,
    /// The token of the lease that is waited for.
    pub token: u64,
    /// Who wants the lease.
    pub who: Requester,
    /// The lease length that the sender will hold with, in ms.
    pub len: u32,
    /// The sender's own clock before it last asked the store, in µs.
    pub at: u64,
    /// The sender stands at the head of the queue. If not, it only tries.
    pub queued: bool,
}

/// What the caller of [`Participant::take`] contributes: the participant draws no random numbers and
/// reads no clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The id of a new request. Used if none is pending.
    pub request: u64,
    /// Whether to wait in the queue.
    pub join: bool,
    /// Whether this tab holds its beacon.
    pub beacon: bool,
    /// A random epoch, for a record that does not exist yet.
    pub fresh_epoch: u64,
    /// Wall clock, ms since 1970.
    pub wall: u64,
}

/// What came of a take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The lease is this tab's.
    Held(Holding),
    /// The lease is another requester's. See [`Participant::look_in`].
    Busy,
    /// The record says that the lease is this tab's, but the answer came after it had expired. Ask again.
    Late,
    /// The answer came after the lease had started by a message, and names the same token.
    Confirmed,
    /// The answer came after the lease had started by a message, and names a different token: the lease is
    /// lost. Tell the guards; send this [`Command::Quit`].
    Lost(Command),
    /// The answer is to a request that has ended here, and leaves nothing to do.
    Stale,
    /// The answer is to a request that has ended here, and says that the request stands in the record: its
    /// quit seems to have overtaken the take. Send this [`Command::Quit`] again.
    Ghost(Command),
}

/// What came of a [`Grant`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The lease has started. [`Participant::due`] claims it.
    Started(Holding),
    /// The lease is this tab's if the store says so, too: take now.
    Ask,
    /// The grant is for another request, or comes too late.
    Ignored,
}

/// What came of a [`Want`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// It is from the head of the queue, to which the lease is to be handed over.
    ByHead,
    /// It is from a tab that will not wait.
    ByTry,
    /// It is about a lease that this tab does not hold.
    NotOurs,
}

/// What is due for a holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// Send this [`Command::Claim`] or [`Command::Renew`].
    Renew(Command),
    /// The lease expired before it was renewed. Tell the guards; send this [`Command::Quit`].
    Expired(Command),
}

/// What came of a renewal, or a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// The lease is good until this time.
    Until(Now),
    /// Another requester has the lease. Tell the guards; send this [`Command::Quit`].
    Lost(Command),
    /// The lease was confirmed, but only after it had expired here: a guard may have been told that already.
    /// Tell the guards; send this [`Command::Quit`].
    Late(Command),
    /// The answer is about a lease that has already ended here.
    Stale,
}

/// How a lease is given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Release {
    /// Send this message now. Send this [`Command::Pass`] later, if it is still [due](Past::must_pass) then.
    /// Nothing else about this lease may be sent.
    Delegate(Grant, Command),
    /// Send this [`Command::Quit`], then the message that [`Participant::gone`] makes of its answer.
    Quit(Command),
}

/// How long leases are, in ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lens {
    /// The length that is asked for at first, and while requests come and go.
    pub usual: u32,
    /// The greatest length once the same request has waited for as long as this, if a beacon tells of this
    /// tab's end.
    pub steady: u32,
    /// The greatest length while no tab waits, if a beacon tells of this tab's end.
    pub idle: u32,
    /// The length that is asked for while the page is hidden.
    pub hidden: u32,
}

/// One tab's side of one lock. See the [module](self).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Participant {
    tab: String,
    lens: Lens,
    /// The page is hidden, so its timers are late.
    hidden: bool,
    /// Two granules of the clock.
    margin: Duration,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    /// Nothing is asked for, nothing held. The next request goes on from what was watched.
    Idle(Watch),
    Asking(Asking),
    Holding(Tenure),
}

impl Participant {
    /// A participant that is idle, of a page that is not hidden. `margin`: two granules of the clock that
    /// `now` will be read from.
    #[must_use]
    pub fn new(tab: String, lens: Lens, margin: Duration) -> Self {
        Self {
            tab,
            lens,
            hidden: false,
            margin,
            state: State::Idle(Watch::default()),
        }
    }

    /// The page is hidden, or shown again. A lease keeps its length until the next renewal or take, which
    /// asks for the new one.
    pub fn hide(&mut self, hidden: bool) {
        self.hidden = hidden;
    }

    /// How long a lease to ask for, in ms.
    fn lease_ms(&self) -> u32 {
        if self.hidden {
            self.lens.hidden
        } else {
            self.lens.usual
        }
    }

    /// The request that asks or holds.
    #[must_use]
    pub fn request(&self) -> Option<u64> {
        match &self.state {
            State::Idle(_) => None,
            State::Asking(asking) => Some(asking.request.id),
            State::Holding(tenure) => Some(tenure.request.id),
        }
    }

    fn request_mut(&mut self) -> Option<&mut Request> {
        match &mut self.state {
            State::Idle(_) => None,
            State::Asking(asking) => Some(&mut asking.request),
            State::Holding(tenure) => Some(&mut tenure.request),
        }
    }

    /// Whether `who` is the request that asks or holds here.
    #[must_use]
    pub fn is_asking(&self, who: &Requester) -> bool {
        who.tab == self.tab && self.request() == Some(who.request)
    }

    /// The request begins to hold.
    fn start(&mut self, past: &mut Past, holding: Holding, giver: Option<Requester>) {
        let Some(request) = self.request_mut().copied() else {
            return;
        };
        self.state = State::Holding(Tenure::new(request, holding, giver));
        past.latest = Some((holding.epoch, holding.token));
        past.delegated = false;
        past.owed = holding.dirty;
    }

    /// Ends the request, for whatever reason: a release, a loss, or a caller that gave up. From here on
    /// nothing is held. If the store may know the request, send this [`Command::Quit`].
    pub fn end(&mut self, past: &mut Past) -> Option<Command> {
        let request = *self.request_mut()?;
        self.clear();
        request.known.then(|| {
            past.ended.push(request.id);
            Command::Quit {
                who: self.requester(request.id),
            }
        })
    }

    fn clear(&mut self) {
        let idle = State::Idle(Watch::default());
        let watch = match std::mem::replace(&mut self.state, idle) {
            State::Idle(watch) => watch,
            State::Asking(asking) => asking.watch,
            State::Holding(_) => return,
        };
        self.state = State::Idle(watch.without_place());
    }

    fn requester(&self, request: u64) -> Requester {
        let tab = self.tab.clone();
        Requester { tab, request }
    }

    fn dirty(&self, past: &Past, epoch: u64, last: Option<&Last>) -> bool {
        match (last, past.latest) {
            _ if past.owed => true,
            (None, None) => false,
            (Some(last), Some(latest)) => {
                past.delegated || latest != (epoch, last.token) || last.tab != self.tab
            }
            _ => true,
        }
    }
}

impl Past {
    /// Whether the sender of a delegation still has to write it down: nothing that was heard shows that the
    /// receiver has claimed the lease.
    #[must_use]
    pub fn must_pass(&self, grant: &Grant) -> bool {
        self.seen.0 == grant.epoch && self.seen.1 < grant.token
    }

    /// A caller has got the lease, and with it the word whether another holder had the lock.
    pub fn told(&mut self) {
        self.owed = false;
    }

    fn see(&mut self, epoch: u64, token: u64) {
        if self.seen.0 == epoch {
            self.seen.1 = self.seen.1.max(token);
        } else {
            // A new incarnation of the record. Its tokens are higher, as far as wall clocks are right.
            self.seen = (epoch, token);
        }
    }
}

fn millis(ms: u32) -> Duration {
    Duration::from_millis(ms.into())
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
