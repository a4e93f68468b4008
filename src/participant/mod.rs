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
//! - **asking** (`asking.rs`): a request exists that the store may know of; what the record was last seen to
//!   say is watched;
//! - **holding** (`holding.rs`): that request was answered [`Outcome::Held`], or started by a [`Grant`].
//!
//! ```text
//!             take               Held, or a grant
//!     idle ----------> asking --------------------> holding
//!       ^                | end                         | end, release, due after its time, a refusal
//!       +----------------+-----------------------------+
//! ```
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
//! A holder that sends a renewal *shorter* than its lease believes in no more than that from then on,
//! because observers may go by it at once. See [`Participant::due`].
//!
//! # When an observer may take over
//!
//! Its clock starts when the *answer* with a new sighting arrives, and runs for the whole lease
//! length that the record names. Or at once, when all who may have the lease before it have ended
//! ([`Participant::suspect`]). The rule checks in the same transaction that the proof still stands.
//!
//! # Handing over
//!
//! A release with somebody waiting is a [`Release::Delegate`] if that is sound: one message, by which
//! the receiver starts before any store knows. From then on the delegator holds nothing, and the
//! record still says that it does, so nobody else can take the lock for as long as its lease runs. The
//! receiver runs under that remainder, and claims it in the record at once. The remainder is told on
//! the receiver's own clock: it wrote a stamp when it queued, the delegator read that stamp at some
//! later time, and counts from there. So no delay of the message can make it longer.
//!
//! Else the release is a [`Release::Quit`], by which the store grants the lock to the head of the
//! queue; the message that follows lets the head start before it has asked.
//!
//! # Fenced transactions
//!
//! A fenced transaction ([`Participant::fence`]) holds the store up for as long as it runs: for this tab's
//! renewals, and for everybody else's takeovers. A renewal that was sent while the lease was good was
//! sent before anybody could send a takeover, since an observer first watches a whole lease go by; and a
//! store that has transactions runs them in the order in which they were sent. So while a fenced
//! transaction is open, whose check has passed, the lease is good for its length from when the latest
//! renewal was *sent*, answered or not. See [`Participant::due`]. If one of these renewals fails, that was
//! a mistake, and what was answered counts again.

mod asking;
mod holding;

use crate::time::Duration;

use serde::{Deserialize, Serialize};

use crate::rules::{Command, Last, Requester};
use asking::{Asking, Request, Watch};
use holding::Tenure;

/// A point on the tab's own monotonic clock, from an origin of its own.
pub type Now = Duration;

/// What a tab remembers about a key for as long as it lives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Past {
    /// Requests that ended here, whose quitting the store has not confirmed. They are named in the
    /// next take, so that a lost or late quit never locks a tab out of its own lease. A request that
    /// was handed on is never among them.
    ended: Vec<u64>,
    /// The latest lease held: its epoch and token.
    latest: Option<(u64, u64)>,
    /// That lease was delegated to another tab, which may have held it unseen.
    delegated: bool,
    /// Another holder had the lock, and no caller has been told so yet: a lease may end before anybody
    /// was given it.
    owed: bool,
    /// The newest token that is known to have been in use, and its epoch.
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
    /// Good while now < until.
    pub until: Now,
    /// The length last asked for, in ms.
    len: u32,
    /// The store has said that the lease is ours.
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
    /// Under this token.
    pub token: u64,
    /// Until when, in µs on the receiver's clock.
    pub until: u64,
    /// The sender has read, in the record and under its own token, that the receiver was the head.
    pub vouched: bool,
    /// It is in the record already.
    pub granted: bool,
}

/// "I wait for the lease": from whoever is next to the holder.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Want {
    /// The lease that it waits for: [`Record::epoch`](crate::rules::Record::epoch)
    pub epoch: u64,
    /// … and token.
    pub token: u64,
    /// Who wants it.
    pub who: Requester,
    /// For how long it will hold it without a renewal, in ms.
    pub len: u32,
    /// Its own clock before it last asked the store, in µs.
    pub at: u64,
    /// It stands at the head of the queue. If not, it only tries.
    pub queued: bool,
}

/// What the caller of [`Participant::take`] contributes: the participant draws no random numbers and
/// reads no clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Used if no request is pending.
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
    /// Ours.
    Held(Holding),
    /// Somebody else's. See [`Participant::look_in`].
    Busy,
    /// Ours in the record, but the answer took so long that the lease is over. Ask again.
    Late,
    /// The answer came when the lease had started by a message, and agrees.
    Confirmed,
    /// It came then, and says that the lease is another: a loss, which must be told. The command tells
    /// the store.
    Lost(Command),
    /// An answer to a request that has ended here.
    Stale,
    /// The same, but its quit seems to have overtaken it. The command tells the store again.
    Ghost(Command),
}

/// What came of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The lease has started. [`Participant::due`] claims it.
    Started(Holding),
    /// The lease is ours if the store says so too: take now.
    Ask,
    /// Not for us, or no more.
    Ignored,
}

/// Who has spoken to a holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The head of the queue: it is the one to hand over to.
    ByHead,
    /// Somebody who will not wait.
    ByTry,
    /// It is not our lease that is wanted.
    NotOurs,
}

/// What is due for a holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// Claim or renew.
    Renew(Command),
    /// The lease ran out before it was renewed; the loss must be told. The command tells the store.
    Expired(Command),
}

/// What came of a renewal, or a claim.
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

/// How a lease is given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Release {
    /// Send this message, now; later, and only if it is still [due](Past::must_pass), this
    /// [`Command::Pass`]. Nothing else about this lease may be sent.
    Delegate(Grant, Command),
    /// Send this [`Command::Quit`], then the message that [`Participant::gone`] makes of its answer.
    Quit(Command),
}

/// How long leases are, in ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lens {
    /// While somebody may wait.
    pub usual: u32,
    /// At most, once the same request has waited for so long, and a beacon tells of our death.
    pub steady: u32,
    /// At most, while nobody waits and a beacon tells of our death.
    pub idle: u32,
    /// While the page is hidden.
    pub hidden: u32,
}

/// One tab's side of one lock. See the [module](self).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Participant {
    tab: String,
    lens: Lens,
    /// The page is hidden: its timers are late.
    hidden: bool,
    /// Two granules of the clock.
    margin: Duration,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    /// Nothing asked, nothing held. What was watched still stands, for the next request to go on from.
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

    /// The page is hidden, or shown again. What was asked for before stays; the next renewal or take
    /// asks for the other length.
    pub fn hide(&mut self, hidden: bool) {
        self.hidden = hidden;
    }

    /// How long a lease to ask for.
    fn len(&self) -> u32 {
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

    /// Whether that is the request that asks, or holds.
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

    /// Ends the request, whatever became of it: a release, a loss, or a caller that gave up. From
    /// here on nothing is held. The command, if any, tells the store.
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
    /// Whether a delegation still has to be written down by its sender: nothing has been heard that
    /// shows that the receiver has claimed it.
    #[must_use]
    pub fn must_pass(&self, grant: &Grant) -> bool {
        self.seen.0 == grant.epoch && self.seen.1 < grant.token
    }

    /// A caller was given the lease, and has been told whether another holder had the lock.
    pub fn told(&mut self) {
        self.owed = false;
    }

    fn see(&mut self, epoch: u64, token: u64) {
        if self.seen.0 == epoch {
            self.seen.1 = self.seen.1.max(token);
        } else {
            // A new incarnation: its tokens are meant to be higher, as far as wall clocks go.
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
