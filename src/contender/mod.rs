//! One lock object, whole: what is done, and when. Pure.
//!
//! The [`Participant`] says what may be believed; the [`Contender`] above it says what is done about it. It
//! knows no clock, no task, no waker and no store: [`Event`]s go in, ordered [`Action`]s come out, and
//! [`Contender::due`] says which timer is due next. Whoever drives it performs every action, in order,
//! before it hands in the next event.
//!
//! # Who lives in it
//!
//! - **Calls** of this tab (`calls.rs`): each tries, spins or waits, and is settled exactly once. They share
//!   one request, and one take at a time is on its way to the store.
//! - **The lease**, from its first word to its last (`keeping.rs`): guards, renewals, lingering, release, and
//!   the one place where a loss gets its reason.
//! - **Places** ([`places`]): how many requests of one tab stand in the queue of one name.
//! - **Timers** (`timers.rs`): derived from the two above, so nothing can be left set.
//!
//! # What holds after every event
//!
//! No flag says "look again". Each event changes what it is about; then [`Contender::follow_up`] restores
//! what must hold, whatever has happened: a lease that nobody uses and somebody wants is given up, a call
//! that may share the lease shares it, a request without callers ends, whoever asks has a take on its way.

mod alike;
mod calls;
mod keeping;
pub mod places;
mod timers;

pub use timers::Timer;

use crate::config::Config;
use crate::error::LossReason;
use crate::message::Message;
use crate::participant::{Heard, Lens, Now, Participant, Past, Wanted};
use crate::rules::{Command, Fence, Outcome, Requester, Take, Waiting};
use crate::turns::Turns;
use calls::{Beacon, Call};
use keeping::{Keeping, Parting, Passing};

/// A call of this tab's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// A command on its way to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SendId(pub u64);

/// A lease of this tab's: the request that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseId(pub u64);

/// How long a call wants the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Patience {
    /// It does not wait for another holder.
    Try,
    /// It asks after pauses that double, up to that length.
    Spin {
        /// The longest pause, in ms.
        longest_ms: u32,
    },
    /// It waits until then, or for as long as it takes.
    Until(Option<Now>),
}

/// What a decision may use that is not in the state. Read once for each event.
#[derive(Clone, Copy)]
pub struct Moment<'a> {
    /// The tab's own monotonic clock.
    pub now: Now,
    /// Wall clock, ms since 1970. For people.
    pub wall_ms: u64,
    /// A random epoch, for a record that does not exist yet.
    pub fresh_epoch: u64,
    /// A request id that was never used.
    pub fresh_request: u64,
    /// Whether this tab holds its beacon.
    pub lit: bool,
    /// Whether the end of that tab would be told by a beacon.
    pub would_tell: &'a dyn Fn(&str) -> bool,
    /// Whether a call may wait in the queue of the record, not only in the tab: see [`places`].
    pub may_queue: bool,
}

/// What there is around a lock object, for as long as it lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Around {
    /// Messages reach somebody …
    pub speaks: bool,
    /// … and, as far as is known, everybody who contends.
    pub complete: bool,
    /// Beacons tell who has ended.
    pub beacons: bool,
    /// For how many leases the same one must have been next, for nothing to happen.
    pub steady_leases: u32,
}

/// All that can happen to a lock object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Somebody here wants the lock.
    Call {
        /// Who.
        id: CallId,
        /// For how long.
        patience: Patience,
    },
    /// A call that has not been settled is over.
    Leave(CallId),
    /// A caller has got its guard, and so knows whether another holder had the lock.
    Told(LeaseId),
    /// A guard has made another one.
    Shared(LeaseId),
    /// A guard is gone.
    GuardDropped(LeaseId),
    /// Nobody can call any more.
    Abandoned,
    /// What came of a command. Nothing: it failed, and may or may not have been applied.
    Answer {
        /// Which one …
        id: SendId,
        /// … and what it was.
        command: Command,
        /// What the store said.
        answer: Option<Outcome>,
    },
    /// What came of a look.
    Looked {
        /// Which one …
        id: SendId,
        /// … and for what it looked.
        take: Take,
        /// What there was to see.
        seen: Seen,
    },
    /// The store is being closed by somebody else.
    Closing,
    /// A message about this key.
    Heard(Message),
    /// The beacon that is [watched](Action::Watch) went out.
    Died(String),
    /// Whoever was told before [`Action::StepAside`] has run.
    SteppedAside(LeaseId),
    /// It is known whether this tab's own beacon is going to be held.
    BeaconSettled,
    /// The page is hidden, or shown.
    Hidden(bool),
    /// The page is about to be stopped, or goes on.
    Suspended(bool),
    /// The check of a fenced transaction has passed.
    FencePassed(Fence),
    /// It has not.
    FenceRefused(Fence),
    /// A fenced transaction was committed or aborted.
    FenceOver {
        /// What it was fenced with.
        lease: Fence,
        /// Whether its check had passed.
        passed: bool,
    },
    /// What [`Contender::due`] has named. Each may come early: then nothing is lost but a turn.
    Fired(Timer),
    /// Somebody wants to know how things stand: what is due by now happens first.
    Look,
}

/// What a look into the store has shown.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Seen {
    /// The lease is somebody else's, and nothing else was to be done.
    Waiting(Waiting),
    /// Something is to be done: the take has to be applied.
    Change,
    /// The store failed.
    Nothing,
}

/// All that a lock object can do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send this to the store, behind what was sent before. It is answered by an [`Event::Answer`].
    Send {
        /// Names it in the answer.
        id: SendId,
        /// What to send.
        command: Command,
    },
    /// Look whether this would change anything, and change nothing. It is answered by an [`Event::Looked`].
    Look {
        /// Names it in the answer.
        id: SendId,
        /// What may have to be sent.
        take: Take,
    },
    /// Let whoever was told just now run first, then come back with [`Event::SteppedAside`].
    StepAside(LeaseId),
    /// Leave by what needs no answer: the page is about to be stopped.
    LeaveBlindly(Requester),
    /// Tell all who contend.
    Post(Message),
    /// Watch the beacon of this tab, and no other.
    Watch(Option<String>),
    /// A call is over.
    Settle {
        /// Which one.
        call: CallId,
        /// How.
        end: End,
    },
    /// The lease is lost. Once at most for each, and the only place where a loss gets its reason.
    Lose(LeaseId, LossReason),
    /// Nobody uses the lease, and whoever asks next gets it.
    Linger(LeaseId),
    /// The lease was given up, and the store told, as far as it could be.
    Released(LeaseId),
}

/// How a call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// It shares that lease.
    Held {
        /// Which one.
        lease: LeaseId,
        /// Its fencing token …
        token: u64,
        /// … and the series that the token is of.
        epoch: u64,
        /// Whether another holder had the lock since this tab last did.
        dirty: bool,
    },
    /// Another holder has it, and the call only tried.
    Busy,
    /// Its time was up.
    TimedOut,
    /// That command of it has failed.
    StoreFailed(SendId),
}

/// A command on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sent {
    id: SendId,
    /// Read before it was sent.
    at: Now,
    /// It gives something up that was held or asked for.
    leaves: bool,
}

/// One lock object. See the [module](self).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contender {
    lease_ms: u32,
    heartbeat_ms: u32,
    first_pause_ms: u32,
    longest_pause_ms: u32,
    around: Around,
    participant: Participant,
    turns: Turns,
    /// In order of arrival.
    calls: Vec<Call>,
    /// The latest take that is on its way, and its request. One of a request that has ended does not
    /// keep the next one waiting.
    take: Option<(SendId, u64)>,
    /// A look has shown that the next take has to be applied.
    changed: bool,
    beacon: Beacon,
    /// Whose beacon is watched.
    watched: Option<String>,
    keeping: Option<Keeping>,
    /// Leases that were given up, of which the store is being told.
    partings: Vec<Parting>,
    /// A lease that was handed on by a message, and may have to be written down.
    passing: Option<Passing>,
    /// Others who only try, to be told whether the lock is free.
    tries: Vec<Requester>,
    sent: Vec<Sent>,
    next_send: u64,
    suspended: bool,
    abandoned: bool,
}

/// What the handlers of one event share.
struct Context<'a> {
    past: &'a mut Past,
    at: Moment<'a>,
    out: &'a mut Vec<Action>,
}

impl Context<'_> {
    fn now(&self) -> Now {
        self.at.now
    }

    #[inline(never)]
    fn act(&mut self, action: Action) {
        self.out.push(action);
    }
}

impl Contender {
    /// A lock object of `tab` that is idle, of a page that is neither hidden nor suspended. `margin`: two
    /// granules of the clock.
    #[must_use]
    pub fn new(tab: String, config: &Config, around: Around, margin: Now) -> Self {
        let lens = Lens {
            usual: config.lease_ms,
            idle: config.idle_lease_ms,
            hidden: config.hidden_lease_ms,
        };
        Self {
            lease_ms: config.lease_ms,
            heartbeat_ms: config.heartbeat_ms,
            first_pause_ms: config.initial_backoff_ms,
            longest_pause_ms: config.max_backoff_ms,
            around,
            participant: Participant::new(tab, lens, margin),
            turns: Turns::default(),
            calls: Vec::new(),
            take: None,
            changed: false,
            beacon: Beacon::Unknown,
            watched: None,
            keeping: None,
            partings: Vec::new(),
            passing: None,
            tries: Vec::new(),
            sent: Vec::new(),
            next_send: 0,
            suspended: false,
            abandoned: false,
        }
    }

    /// Everything that happens, but for [`Contender::fence`].
    pub fn handle(&mut self, past: &mut Past, at: Moment<'_>, event: Event, out: &mut Vec<Action>) {
        let cx = &mut Context { past, at, out };
        match event {
            Event::Call { id, patience } => self.calls.push(Call::new(id, patience)),
            Event::Leave(id) => self.calls.retain(|call| call.id != id),
            Event::Told(lease) => self.told(cx, lease),
            Event::Shared(lease) => self.shared(lease),
            Event::GuardDropped(lease) => self.guard_dropped(lease),
            Event::Abandoned => self.abandoned = true,
            Event::Answer {
                id,
                command,
                answer,
            } => self.answered(cx, id, &command, answer),
            Event::Looked { id, take, seen } => self.looked(cx, id, &take, seen),
            Event::Closing => self.close(cx),
            Event::Heard(message) => self.heard(cx, message),
            Event::Died(tab) => self.died(cx, &tab),
            Event::SteppedAside(lease) => self.claim(cx, lease),
            Event::BeaconSettled => self.beacon = Beacon::Settled,
            Event::Hidden(hidden) => self.hide(cx, hidden),
            Event::Suspended(true) => self.suspend(cx),
            Event::Suspended(false) => self.resume(),
            Event::FencePassed(lease) => self.participant.fence_passed(&lease),
            Event::FenceRefused(lease) => self.fence_refused(cx, &lease),
            Event::FenceOver { lease, passed } => self.participant.fence_over(&lease, passed),
            Event::Fired(timer) => self.fired(cx, timer),
            Event::Look => {}
        }
        self.follow_up(cx);
    }

    /// A fenced transaction of that lease begins. Nothing, if that has ended; then its guards are told.
    pub fn fence(
        &mut self,
        past: &mut Past,
        at: Moment<'_>,
        lease: LeaseId,
        out: &mut Vec<Action>,
    ) -> Option<Fence> {
        let cx = &mut Context { past, at, out };
        self.expire(cx);
        let keeping = self.keeping.as_ref();
        let fence = keeping
            .filter(|keeping| keeping.lease == lease)
            .and_then(|_| self.participant.fence(at.now, at.lit, at.wall_ms));
        self.follow_up(cx);
        fence
    }

    /// Until when the guards of the present lease may believe. Nothing, if there is none.
    #[must_use]
    pub fn good_until(&self) -> Option<Now> {
        self.keeping.as_ref()?;
        self.participant.good_until()
    }

    /// What it believes, for whoever looks on.
    #[must_use]
    pub fn participant(&self) -> &Participant {
        &self.participant
    }

    /// The present lease.
    #[must_use]
    pub fn lease(&self) -> Option<LeaseId> {
        self.keeping.as_ref().map(|keeping| keeping.lease)
    }

    /// Whether nothing is left to be done, and nobody can ask for more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let owes = self.keeping.is_some() || self.passing.is_some() || !self.sent.is_empty();
        self.abandoned && self.calls.is_empty() && !owes
    }

    /// Restores what must hold after every event.
    fn follow_up(&mut self, cx: &mut Context<'_>) {
        self.keep(cx);
        self.admit(cx);
        if self.calls.is_empty() && self.keeping.is_none() {
            self.give_up(cx);
        }
        self.ask(cx);
        if self.keeping.is_none() && !self.is_leaving() {
            self.answer_tries(cx, false);
        }
        self.watch(cx);
    }

    /// Sends a command. While the page is suspended no answer would come: then a request is ended by what
    /// needs none.
    fn send(&mut self, cx: &mut Context<'_>, command: Command) -> SendId {
        let id = SendId(self.next_send);
        self.next_send += 1;
        if self.suspended {
            if let Command::Quit { who } = command {
                cx.act(Action::LeaveBlindly(who));
            }
            return id;
        }
        let (at, leaves) = (
            cx.now(),
            matches!(command, Command::Quit { .. } | Command::Pass { .. }),
        );
        self.sent.push(Sent { id, at, leaves });
        cx.act(Action::Send { id, command });
        id
    }

    /// Looks whether that take would change anything. Not while the page is suspended.
    fn send_look(&mut self, cx: &mut Context<'_>, take: Take) -> SendId {
        let id = SendId(self.next_send);
        self.next_send += 1;
        let (at, leaves) = (cx.now(), false);
        self.sent.push(Sent { id, at, leaves });
        cx.act(Action::Look { id, take });
        id
    }

    /// What was sent under that name, if it has not been answered.
    fn take_sent(&mut self, id: SendId) -> Option<Sent> {
        let place = self.sent.iter().position(|sent| sent.id == id)?;
        Some(self.sent.swap_remove(place))
    }

    fn answered(
        &mut self,
        cx: &mut Context<'_>,
        id: SendId,
        command: &Command,
        answer: Option<Outcome>,
    ) {
        let Some(sent) = self.take_sent(id) else {
            return;
        };
        match command {
            Command::Take(take) => self.taken(cx, sent, take, answer),
            Command::Claim { .. } | Command::Renew { .. } => {
                self.renewed(cx, sent, command, answer);
            }
            Command::Quit { .. } | Command::Pass { .. } => self.gone(cx, sent, command, answer),
        }
    }

    /// A message. A suspended page still gets them, but no answers of the store.
    fn heard(&mut self, cx: &mut Context<'_>, message: Message) {
        if self.suspended {
            return;
        }
        match message {
            Message::Grant(grant) => match self.participant.granted(cx.past, cx.now(), &grant) {
                Heard::Started(holding) => self.begin(cx, holding),
                Heard::Ask => self.rouse(),
                Heard::Ignored => self.hasten(cx.now()),
            },
            Message::Want(want) => match self.participant.wanted(cx.now(), &want) {
                // What it saw is perhaps just being given up.
                Wanted::NotOurs if !want.queued && self.is_leaving() => self.tries.push(want.who),
                Wanted::ByTry if self.is_in_use() || self.participant.is_wanted() => {
                    let (to, free) = (want.who, false);
                    cx.act(Action::Post(Message::Reply { to, free }));
                }
                Wanted::ByTry => self.tries.push(want.who),
                // See `keep`.
                Wanted::ByHead | Wanted::NotOurs => {}
            },
            Message::Beat(beat) => self.beaten(cx, &beat),
            Message::Heed(heed) => self.participant.heeded(cx.now(), &heed),
            Message::Gone(who) => self.other_gone(cx, &who),
            Message::Reply { to, free } => {
                if self.participant.is_asking(&to) {
                    self.replied(cx, free);
                }
            }
        }
    }

    /// Somebody else waits no longer, or has let go.
    fn other_gone(&mut self, cx: &Context<'_>, who: &Requester) {
        let was_next = self.participant.unwanted(who);
        if let Some(keeping) = self.keeping.as_mut().filter(|_| was_next) {
            // The next renewal tells who is next now.
            keeping.hurry(cx.now());
        } else if self.participant.awaits(who) {
            // Its holder, perhaps.
            self.rouse();
        }
    }

    fn hide(&mut self, cx: &Context<'_>, hidden: bool) {
        self.participant.hide(hidden);
        if let Some(keeping) = &mut self.keeping {
            keeping.hurry(cx.now());
        }
        // Whoever waits here asks for another length now.
        self.rouse();
    }

    /// The store is closed, and may be deleted: what it answered before that does not count any more. Whoever
    /// waits here asks anew, by another request.
    fn close(&mut self, cx: &mut Context<'_>) {
        self.end_lease(cx, LossReason::StoreClosed);
        // The next take names the request as ended.
        if self.participant.end(cx.past).is_some() {
            self.ask_anew();
        }
    }

    /// The page is about to be stopped: whatever is held or asked for is over.
    fn suspend(&mut self, cx: &mut Context<'_>) {
        self.suspended = true;
        let quit = self.participant.end(cx.past);
        if let Some(keeping) = self.keeping.take() {
            cx.act(Action::Lose(keeping.lease, LossReason::Suspended));
        }
        if let Some(Command::Quit { who }) = quit {
            cx.act(Action::LeaveBlindly(who.clone()));
            cx.act(Action::Post(Message::Gone(who)));
        }
        self.rouse();
    }

    fn resume(&mut self) {
        self.suspended = false;
        self.rouse();
    }
}
