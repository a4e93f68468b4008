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
//! - **asking**: a request exists that the store may know of (`request`);
//! - **holding**: that request was answered [`Outcome::Held`], or started by a [`Grant`] (`holding`).
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
//! # Beats
//!
//! While somebody waits for it a lease must be short, so that a holder that hangs is soon noticed; and a short
//! lease must be renewed often. Those renewals need not be writes, as long as nobody takes over meanwhile.
//! So a holder may come to an agreement with the head of the queue: it writes down a longer lease, which keeps
//! all others away, and tells the head by a [`Beat`] that it goes by a short one. From when the head hears that, it
//! may take over once it has heard no beat for the short length, if the record is still the one that the beat names;
//! it answers with a [`Heed`]. What the holder may believe:
//!
//! - from the first beat on, no more than the short length from when that was sent: the head may have heard it;
//! - for each beat that was heeded, the short length from when that one was sent, since the head has counted
//!   anew from later; but no longer than what is written keeps the others away.
//!
//! Every renewal that is written ends the agreement: the record is another by that, whatever the head heard. So
//! the beats that follow it name its count, and a beat that is late is good for nothing. For the same reason
//! nobody else is sent beats before the next renewal.
//!
//! Whoever does not answer has not promised anything; then the lease is written as before, short and often.
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

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::rules::{
    Command, Fence, Fresh, Held, Last, Mode, Outcome, Proof, Requester, Sighting, Take, Waiter,
    Waiting,
};

/// A point on the tab's own monotonic clock, from an origin of its own.
pub type Now = Duration;

/// The highest first token that a wall clock may lead to (that of the year 2109). A clock set
/// further ahead would leave tokens no room to grow in, and so make the record corrupt.
const MAX_FRESH_TOKEN: u64 = 1 << 52;

/// How many usual leases long a lease is that the head of the queue goes by beats of. It is renewed three times
/// in that time: 1.5 writes a second.
const AGREED_LENS: u32 = 4;

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

/// The request that asks or holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Request {
    id: u64,
    /// It has asked to wait in the queue.
    joined: bool,
    /// It may stand in the record: it joined, or a take of it has not been answered.
    known: bool,
    /// Takes that have not been answered; a late one may still queue the request.
    unanswered: u8,
    /// Of these, the ones that take over a lease that nobody gave.
    takeovers: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Observation {
    sighting: Sighting,
    since: Now,
    len: Duration,
    /// Who may have the lease before this tab, when it last looked: see
    /// [`Waiting`](crate::rules::Waiting).
    before: Vec<(String, bool)>,
    queued: bool,
    /// When that look was sent: a stamp of this request.
    at: Now,
    /// How long a lease it asked for. The queue has no shorter one for it.
    asked: u32,
    /// When a message to somebody else said that the lock goes on, after that look …
    moved: Option<Now>,
    /// … and how often one did, at least.
    moves: u8,
}

/// The head of the queue, as a holder last heard of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Head {
    who: Requester,
    len: u32,
    /// A stamp on the waiter's clock …
    at: Now,
    /// … and when it was read here.
    read: Now,
    /// It was read in the record, under the token that is held.
    vouched: bool,
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

/// "I hold, and go by you": from a holder to the head of the queue, which is to wait for so long from when it
/// hears this. See [the module](self#beats).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Beat {
    /// The lease that is held: [`Record::epoch`](crate::rules::Record::epoch), …
    pub epoch: u64,
    /// … token …
    pub token: u64,
    /// … and the count of its latest renewal.
    pub count: u64,
    /// Who holds.
    pub from: Requester,
    /// Who is the head.
    pub to: Requester,
    /// When this was sent, in µs on the holder's clock.
    pub at: u64,
    /// How long the head is to wait, in ms.
    pub len: u32,
}

/// "I have heard, and wait": the answer to a [`Beat`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Heed {
    /// Whose beat.
    pub to: Requester,
    /// Which one: [`Beat::epoch`], …
    pub epoch: u64,
    /// … [`Beat::token`] …
    pub token: u64,
    /// … and [`Beat::at`].
    pub at: u64,
    /// Who has heard it.
    pub from: Requester,
}

/// What a holder knows of whoever waits with it. See [the module](self#beats).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Reliance {
    /// The count of the latest renewal that was answered, unless one was sent after it.
    count: Option<u64>,
    /// Until when that renewal keeps everybody else away.
    written: Now,
    /// Who was sent a beat, by the renewal of that count.
    vow: Option<(u64, Requester)>,
    /// Who has last heeded one, and when that was sent.
    heeded: Option<(Requester, Now)>,
}

/// What the head of the queue has promised to a holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Promise {
    sighting: Sighting,
    /// To wait for so long …
    len: Duration,
    /// … from the beat that it heard last.
    heard: Now,
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
    request: Option<Request>,
    holding: Option<Holding>,
    /// Of a lease that started by a message: who gave it.
    giver: Option<Requester>,
    /// While holding: fenced transactions that have begun and not ended …
    fences: u32,
    /// … those of them whose check has passed, so that they hold up the store …
    open_fences: u32,
    /// … and, since there was one, until when the renewal sent last makes the lease good.
    sent_until: Option<Now>,
    /// While holding: the head of the queue.
    head: Option<Head>,
    /// While holding: the agreement with the head.
    reliance: Reliance,
    /// While asking: the same, as the head has it.
    promise: Option<Promise>,
    /// While asking: what the record was last seen to say.
    observation: Option<Observation>,
    /// While asking: a message that could not be started on.
    grant: Option<Grant>,
    /// While asking: which request told the holder of which token that it wants the lease, by which
    /// stamp.
    told: Option<(u64, u64, Now)>,
    /// Tabs whose beacons went out.
    dead: Vec<String>,
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
            request: None,
            holding: None,
            giver: None,
            fences: 0,
            open_fences: 0,
            sent_until: None,
            head: None,
            reliance: Reliance::default(),
            promise: None,
            observation: None,
            grant: None,
            told: None,
            dead: Vec::new(),
        }
    }

    /// The lease held, if it is still good. What has run out is not reported here:
    /// see [`Participant::due`].
    #[must_use]
    pub fn holding(&self, now: Now) -> Option<Holding> {
        self.holding
            .filter(|h| now + self.margin < self.sent_until.map_or(h.until, |u| u.max(h.until)))
    }

    /// When the lease held ceases to be good.
    #[must_use]
    pub fn good_until(&self) -> Option<Now> {
        let until = self.holding?.until;
        let until = self.sent_until.map_or(until, |sent| sent.max(until));
        Some(until.saturating_sub(self.margin))
    }

    /// Until when what is written keeps others away, as far as is known, for whoever looks on.
    #[must_use]
    pub fn kept_until(&self) -> Option<Now> {
        let until = self.holding?.until;
        Some(
            until
                .max(self.reliance.written)
                .max(self.sent_until.unwrap_or_default()),
        )
    }

    /// The length last asked for of the lease held, if it is longer than usual, and so needs fewer
    /// renewals.
    #[must_use]
    pub fn long(&self) -> Option<Duration> {
        let len = self.holding?.len;
        (len > self.lens.usual).then(|| millis(len))
    }

    /// Whether the lease held is longer than whoever waits for it should have to wait.
    #[must_use]
    pub fn is_too_long(&self) -> bool {
        let agreed = match (&self.reliance.heeded, &self.head) {
            (Some((who, _)), Some(head)) if *who == head.who => self.agreed_len(),
            _ => 0,
        };
        let longest = self.len().max(agreed);
        self.is_wanted() && self.holding.is_some_and(|h| h.len > longest)
    }

    /// How long a lease is written down, in ms, while the head of the queue goes by beats.
    fn agreed_len(&self) -> u32 {
        self.lens
            .idle
            .min(self.lens.usual.saturating_mul(AGREED_LENS))
    }

    /// Whether it may come to an agreement with the head of the queue.
    fn may_agree(&self) -> bool {
        !self.hidden && self.agreed_len() > self.lens.usual
    }

    /// Whether the head has heeded a beat that was sent less than half of a usual lease ago.
    #[must_use]
    pub fn is_heeded(&self, now: Now) -> bool {
        match (&self.reliance.heeded, &self.head) {
            (Some((who, at)), Some(head)) => {
                *who == head.who && self.may_agree() && now < *at + millis(self.lens.usual) / 2
            }
            _ => false,
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

    /// Whether a lease is held that the store does not know of yet, as far as is known here.
    #[must_use]
    pub fn is_unclaimed(&self) -> bool {
        self.holding.is_some_and(|h| !h.confirmed)
    }

    /// Whether somebody waits for the lease held, as far as is known.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.head.is_some()
    }

    /// Who is the next to hold, as far as is known.
    #[must_use]
    pub fn next(&self) -> Option<&Requester> {
        self.head.as_ref().map(|head| &head.who)
    }

    // ---- Asking ---------------------------------------------------------------------------------

    /// How long the observed lease must still stand still before it may be taken over, if one is
    /// being observed; nothing, if a message says that it is ours.
    #[must_use]
    pub fn ripe_in(&self, now: Now) -> Option<Duration> {
        if self.grant.is_some() || self.all_dead() {
            return Some(Duration::ZERO);
        }
        let seen = self.observation.as_ref()?;
        let ripe = seen.since + seen.len;
        let ripe = self.promise.map_or(ripe, |p| ripe.min(p.heard + p.len));
        Some(ripe.saturating_sub(now))
    }

    /// How soon a waiter should look again, if it watches a lease.
    ///
    /// An observation starts when a waiter sees the last renewal of a holder that died, so it must
    /// look more often than a holder beats to take over within a lease and a beat: a twentieth of the
    /// lease, for the first in the queue. Where a beacon tells of the holder's death only its hanging is left
    /// to be seen, and a quarter will do.
    /// `told`: whether the end of the [suspect](Self::suspect) would be told.
    ///
    /// Those behind look once a lease, where messages tell them what becomes of those ahead (`heard`);
    /// else less often than the first, in the order in which they stand, and leave it the store.
    #[must_use]
    pub fn look_in(&self, now: Now, told: bool, heard: bool) -> Option<Duration> {
        let seen = self.observation.as_ref()?;
        let close = seen.len / if told { 4 } else { 20 };
        let pace = if self.is_next() {
            close
        } else if heard {
            // Of a long lease they may not hear that it has become a usual one.
            seen.len.min(millis(self.lens.usual))
        } else {
            close.saturating_mul(u32::try_from(seen.before.len()).unwrap_or(u32::MAX))
        };
        Some(pace.min(self.ripe_in(now)?))
    }

    /// Whether nobody but the holder is ahead, as far as is known.
    #[must_use]
    pub fn is_next(&self) -> bool {
        let seen = self.observation.as_ref();
        seen.is_some_and(|seen| seen.before.len().saturating_sub(seen.moves.into()) <= 1)
    }

    /// Whether a waiter that has paused since `since` need not look yet: meanwhile it has heard that the
    /// lock goes on without it, and its last look is no older than a lease. A pause of nothing heard
    /// nothing.
    #[must_use]
    pub fn is_moving(&self, since: Now, now: Now) -> bool {
        self.observation.as_ref().is_some_and(|seen| {
            let moved = seen.moved.is_some_and(|moved| moved >= since);
            moved && since < now && seen.queued && now < seen.at + seen.len
        })
    }

    /// The tab whose end would bring this one closer to the lease: the first that may have it before
    /// this one and is not known to have ended. `None` if there is no telling by beacons.
    #[must_use]
    pub fn suspect(&self) -> Option<&str> {
        let before = &self.observation.as_ref()?.before;
        let (tab, beacon) = before.iter().find(|(tab, _)| !self.dead.contains(tab))?;
        (*beacon && *tab != self.tab).then_some(tab)
    }

    /// The beacon of that tab went out: it has ended.
    pub fn died(&mut self, tab: &str) {
        if !self.dead.iter().any(|dead| dead == tab) {
            self.dead.push(tab.to_owned());
        }
    }

    fn all_dead(&self) -> bool {
        let seen = self.observation.as_ref();
        seen.is_some_and(|seen| seen.before.iter().all(|(tab, _)| self.dead.contains(tab)))
    }

    /// Asks for the lease. A call that asks again, or for a second caller, goes on with the request
    /// that the store may know.
    pub fn take(&mut self, past: &Past, now: Now, ask: Ask) -> Take {
        let proof = self.proof(now);
        let asking = self.request.get_or_insert(Request {
            id: ask.request,
            joined: false,
            known: false,
            unanswered: 0,
            takeovers: 0,
        });
        asking.joined |= ask.join;
        asking.known = true;
        asking.unanswered += 1;
        let takeovers = u8::from(takes_over(&proof));
        asking.takeovers = asking.takeovers.saturating_add(takeovers);
        let request = asking.id;
        self.take_of(request, past, now, ask, proof)
    }

    /// What would be asked for, if it is most likely enough to read: the request stands in the queue, and
    /// wants nothing else than when it last asked. Nothing, if it has to be said: there is a message or a
    /// death to act on, or the lock has gone on, and a stamp that is old by now would be of no use to the
    /// next holder.
    #[must_use]
    pub fn look(&self, past: &Past, now: Now, ask: Ask) -> Option<Take> {
        let request = self.request.filter(|request| request.joined)?;
        let seen = self.observation.as_ref()?;
        let still = seen.queued && seen.moved.is_none() && seen.asked == self.len();
        if !still || self.grant.is_some() || self.all_dead() {
            return None;
        }
        Some(self.take_of(request.id, past, now, ask, self.proof(now)))
    }

    fn take_of(&self, request: u64, past: &Past, now: Now, ask: Ask, proof: Proof) -> Take {
        Take {
            who: self.requester(request),
            mode: Mode::Exclusive,
            len: self.len(),
            at: micros(now),
            beacon: ask.beacon,
            join: ask.join,
            proof,
            ended: past.ended.clone(),
            fresh: Fresh {
                epoch: ask.fresh_epoch,
                token: (past.seen.1 + 2).max(ask.wall.saturating_mul(1024).min(MAX_FRESH_TOKEN)),
            },
            wall: ask.wall,
        }
    }

    fn proof(&self, now: Now) -> Proof {
        if let Some(grant) = &self.grant {
            return Proof::Delegated {
                token: grant.token.wrapping_sub(1),
                from: grant.from.clone(),
            };
        }
        match &self.observation {
            Some(_) if self.all_dead() => Proof::Dead(self.dead.clone()),
            Some(seen) if now >= seen.since + seen.len => Proof::Unchanged(seen.sighting),
            _ => match self.promise {
                Some(promise) if now >= promise.heard + promise.len => {
                    Proof::Unchanged(promise.sighting)
                }
                _ => Proof::None,
            },
        }
    }

    /// The answer to a take that was sent at `sent`.
    pub fn taken(
        &mut self,
        past: &mut Past,
        take: &Take,
        sent: Now,
        now: Now,
        outcome: &Outcome,
    ) -> Taken {
        past.ended.retain(|request| !take.ended.contains(request));
        if !self.answered(take) {
            let stands = match outcome {
                Outcome::Held(_) => true,
                Outcome::Waiting(waiting) => waiting.queued,
                _ => false,
            };
            if stands && !past.ended.contains(&take.who.request) {
                past.ended.push(take.who.request);
                let who = take.who.clone();
                return Taken::Ghost(Command::Quit { who });
            }
            return Taken::Stale;
        }
        match outcome {
            Outcome::Held(held) if self.holding.is_some() => {
                past.see(held.epoch, held.token);
                // Started by a message meanwhile.
                let ours = self.holding.map(|h| (h.epoch, h.token));
                if ours == Some((held.epoch, held.token)) {
                    self.extend(sent, now, take.len, held);
                    return Taken::Confirmed;
                }
                if ours.is_some_and(|(_, token)| held.token < token) {
                    return Taken::Stale;
                }
                self.end(past).map_or(Taken::Stale, Taken::Lost)
            }
            Outcome::Held(held) => {
                past.see(held.epoch, held.token);
                self.holding = Some(Holding {
                    epoch: held.epoch,
                    token: held.token,
                    dirty: self.dirty(past, held.epoch, held.last.as_ref()),
                    until: sent + millis(take.len),
                    len: take.len,
                    confirmed: true,
                });
                if self.holding(now).is_none() {
                    self.holding = None;
                    self.observation = None;
                    return Taken::Late;
                }
                let Some(holding) = self.start(past) else {
                    return Taken::Stale;
                };
                self.note_written(held.count, holding.until);
                self.hear_of_head(sent, now, held.head.as_ref());
                Taken::Held(holding)
            }
            Outcome::Waiting(_) if self.holding.is_some() => Taken::Stale,
            Outcome::Waiting(waiting) => self.waits(past, take, sent, now, waiting),
            // A lease of 0 ms, which `Config` does not let through.
            Outcome::Refused | Outcome::Gone { .. } => Taken::Busy,
        }
    }

    /// The answer to a [look](Self::look) that was sent at `sent`.
    pub fn looked(
        &mut self,
        past: &mut Past,
        take: &Take,
        sent: Now,
        now: Now,
        waiting: &Waiting,
    ) -> Taken {
        if self.holding.is_some() || !self.is_asking(&take.who) {
            return Taken::Stale;
        }
        self.waits(past, take, sent, now, waiting)
    }

    /// The lease is somebody else's.
    fn waits(
        &mut self,
        past: &mut Past,
        take: &Take,
        sent: Now,
        now: Now,
        waiting: &Waiting,
    ) -> Taken {
        if let Some(asking) = &mut self.request {
            asking.known = asking.joined;
        }
        let sighting = waiting.sighting;
        past.see(sighting.epoch, sighting.token);
        // What was promised was about that record.
        self.promise = self.promise.filter(|promise| promise.is_of(&sighting));
        let seen = self.observation.as_ref();
        let still = seen.filter(|seen| seen.sighting == sighting);
        self.observation = Some(Observation {
            sighting,
            since: still.map_or(now, |seen| seen.since),
            len: millis(waiting.len),
            before: waiting.before.clone(),
            queued: waiting.queued,
            at: sent,
            asked: take.len,
            moved: None,
            moves: 0,
        });
        if let Some(grant) = self.grant.take() {
            // An answer to a take that did not know of it.
            let undecided = !matches!(take.proof, Proof::Delegated { .. });
            if undecided && let Heard::Started(holding) = self.granted(past, now, &grant) {
                return Taken::Held(holding);
            }
        }
        Taken::Busy
    }

    /// A take has failed. It may have been applied all the same: a takeover stays unanswered.
    pub fn failed(&mut self, take: &Take) {
        if self.answered(take)
            && takes_over(&take.proof)
            && let Some(request) = &mut self.request
        {
            request.takeovers = request.takeovers.saturating_add(1);
        }
    }

    /// Whether the answer is for the present request.
    fn answered(&mut self, take: &Take) -> bool {
        let request = self.request.as_mut();
        let Some(request) = request.filter(|request| request.id == take.who.request) else {
            return false;
        };
        request.unanswered = request.unanswered.saturating_sub(1);
        let takeovers = u8::from(takes_over(&take.proof));
        request.takeovers = request.takeovers.saturating_sub(takeovers);
        true
    }

    /// A message that the lease is ours.
    pub fn granted(&mut self, past: &mut Past, now: Now, grant: &Grant) -> Heard {
        let before = grant
            .token
            .saturating_sub(if grant.granted { 2 } else { 1 });
        if past.seen.0 == grant.epoch {
            // To whomever it went, the lease before it was in use.
            past.see(grant.epoch, before);
        }
        let Some(request) = self.request else {
            return Heard::Ignored;
        };
        let to_us = self.is_asking(&grant.to);
        let seen = self.observation.as_mut();
        if let Some(seen) = seen.filter(|seen| seen.sighting.epoch == grant.epoch && !to_us) {
            seen.moved = Some(now);
            seen.moves = seen.moves.saturating_add(1);
        }
        let seen = self.observation.as_ref();
        // A request that has started ignores every further message.
        if self.holding.is_some()
            || !to_us
            || seen.is_some_and(|seen| seen.sighting.epoch != grant.epoch)
        {
            return Heard::Ignored;
        }
        // Else a takeover out of order, or a later grant to the same request, may be on its way, and
        // another tab may have had the lease and gone.
        let own_look = |seen: &Observation| {
            seen.sighting.token + 1 == grant.token && seen.queued && seen.before.len() == 1
        };
        let until = Duration::from_micros(grant.until);
        if seen.is_some_and(|seen| grant.granted || grant.vouched || own_look(seen))
            && request.takeovers == 0
            && now + self.margin < until
        {
            let own = grant.from.tab == self.tab
                && !past.delegated
                && past.latest == Some((grant.epoch, before));
            self.holding = Some(Holding {
                epoch: grant.epoch,
                token: grant.token,
                dirty: !own || past.owed,
                until,
                len: self.len(),
                confirmed: false,
            });
            self.giver = Some(grant.from.clone());
            return self.start(past).map_or(Heard::Ignored, Heard::Started);
        }
        self.grant = Some(grant.clone());
        Heard::Ask
    }

    /// What to tell the holder, if this tab is the next one and the holder was not told lately.
    pub fn want(&mut self) -> Option<Want> {
        let request = self.request?;
        let seen = self.observation.as_ref();
        let seen = seen.filter(|seen| seen.before.len() == 1)?;
        let (token, at, len) = (seen.sighting.token, seen.at, seen.asked);
        let fresh = |told: &(u64, u64, Now)| {
            (told.0, told.1) == (request.id, token) && at < told.2 + millis(len) / 4
        };
        if self.told.as_ref().is_some_and(fresh) {
            return None;
        }
        self.told = Some((request.id, token, at));
        Some(Want {
            epoch: seen.sighting.epoch,
            token,
            who: self.requester(request.id),
            len,
            at: micros(at),
            queued: seen.queued,
        })
    }

    /// Whether the request that asks stands in the queue, or has asked to.
    #[must_use]
    pub fn queues(&self) -> bool {
        self.holding.is_none() && self.request.is_some_and(|request| request.joined)
    }

    /// The request that asks or holds.
    #[must_use]
    pub fn request(&self) -> Option<u64> {
        self.request.map(|request| request.id)
    }

    /// Whether the lease that is waited for may be that requester's, or may be before it is this one's.
    #[must_use]
    pub fn awaits(&self, who: &Requester) -> bool {
        let before = self.observation.as_ref().map(|seen| &seen.before);
        before.is_none_or(|before| before.iter().any(|(tab, _)| *tab == who.tab))
    }

    /// Whether that is the request that asks.
    #[must_use]
    pub fn is_asking(&self, who: &Requester) -> bool {
        who.tab == self.tab
            && self
                .request
                .is_some_and(|request| request.id == who.request)
    }

    /// The request begins to hold.
    fn start(&mut self, past: &mut Past) -> Option<Holding> {
        self.observation = None;
        self.promise = None;
        self.grant = None;
        self.dead.clear();
        self.request.as_mut()?.known = true;
        let holding = self.holding?;
        past.latest = Some((holding.epoch, holding.token));
        past.delegated = false;
        past.owed = holding.dirty;
        Some(holding)
    }

    // ---- Holding --------------------------------------------------------------------------------

    /// What the heartbeat has to do now; `None` when nothing is held. `beacon`: whether this tab holds
    /// its beacon.
    ///
    /// With a beacon and nobody waiting, each renewal asks for two sevenths more than the one before, up
    /// to the idle length. There are three renewals in a lease, so it stays a little shorter than the
    /// time for which nobody has wanted it: the longer that is, the less the lease costs. And a tab that
    /// crashes soon costs little to one that is opened after that, and has not seen its beacon.
    pub fn due(&mut self, past: &mut Past, now: Now, beacon: bool, wall: u64) -> Option<Due> {
        let request = self.request?;
        self.holding?;
        if self.holding(now).is_none() {
            return self.end(past).map(Due::Expired);
        }
        let who = self.requester(request.id);
        let idle = beacon && self.head.is_none();
        let len = self.len();
        let held_up = self.is_held_up(now);
        let (heeded, agreed) = (beacon && self.is_heeded(now), self.agreed_len());
        let holding = self.holding.as_mut()?;
        if let Some(from) = self.giver.as_ref().filter(|_| !holding.confirmed) {
            // It may be shorter than what the giver went by.
            holding.until = holding.until.min(now + millis(len));
            holding.len = len;
            if held_up {
                self.sent_until = Some(now + millis(len));
            }
            return Some(Due::Renew(Command::Claim {
                who,
                token: holding.token,
                from: from.clone(),
                len,
                beacon,
                wall,
            }));
        }
        let longer = holding.len + (holding.len * 2 / 7).max(1);
        let len = if idle {
            len.max(longer.min(self.lens.idle))
        } else if heeded {
            len.max(agreed)
        } else {
            len
        };
        self.reliance.count = None;
        self.reliance.written = self.reliance.written.min(now + millis(len));
        // A lease that was longer, also one that was granted as it was asked for long ago, is not any more.
        holding.until = holding.until.min(now + millis(len));
        self.sent_until = self.sent_until.map(|until| until.min(now + millis(len)));
        holding.len = len;
        if held_up {
            self.sent_until = Some(now + millis(len));
        }
        Some(Due::Renew(Command::Renew {
            who,
            token: holding.token,
            len,
            beacon,
        }))
    }

    /// The answer to a renewal or claim that was sent at `sent`.
    pub fn renewed(
        &mut self,
        past: &mut Past,
        renewal: &Command,
        sent: Now,
        now: Now,
        outcome: &Outcome,
    ) -> Renewed {
        let (Command::Renew {
            who, token, len, ..
        }
        | Command::Claim {
            who, token, len, ..
        }) = renewal
        else {
            return Renewed::Stale;
        };
        let ours = self
            .request
            .is_some_and(|request| request.id == who.request)
            && self.holding.is_some_and(|holding| holding.token == *token);
        if !ours {
            return Renewed::Stale;
        }
        match outcome {
            Outcome::Held(held) if self.holding(now).is_some() => {
                past.see(held.epoch, held.token);
                self.extend(sent, now, *len, held);
                Renewed::Until(self.good_until().unwrap_or_default())
            }
            Outcome::Held(_) => self.end(past).map_or(Renewed::Stale, Renewed::Late),
            _ => self.end(past).map_or(Renewed::Stale, Renewed::Lost),
        }
    }

    /// A renewal or claim has failed, and may not have been applied: only what was answered counts.
    pub fn renewal_failed(&mut self) {
        self.sent_until = None;
    }

    /// A fenced transaction begins: what it has to check, if a lease is held. Each ends by a
    /// [`Participant::fence_over`]. Until then, what follows is left to the store: see
    /// [`Participant::release`].
    ///
    /// It may run before the claim of a lease that began by a message; then it writes that down itself.
    pub fn fence(&mut self, now: Now, beacon: bool, wall: u64) -> Option<Fence> {
        let Holding {
            epoch,
            token,
            confirmed,
            ..
        } = self.holding(now)?;
        let who = self.requester(self.request?.id);
        let len = self.len();
        self.fences += 1;
        let giver = self.giver.as_ref().filter(|_| !confirmed);
        let claim = giver.map(|from| Command::Claim {
            who: who.clone(),
            token,
            from: from.clone(),
            len,
            beacon,
            wall,
        });
        if let Some(holding) = self.holding.as_mut().filter(|_| claim.is_some()) {
            // It may be shorter than what the giver went by.
            holding.until = holding.until.min(now + millis(len));
        }
        Some(Fence {
            who,
            token,
            epoch,
            claim,
        })
    }

    /// The check of a fenced transaction has passed. From now until it is over the store is held up.
    pub fn fence_passed(&mut self, lease: &Fence) {
        if self.is_of(lease) {
            self.open_fences += 1;
        }
    }

    /// It has not passed; the loss must be told. The command tells the store. Nothing, if that lease has
    /// already ended here.
    pub fn fence_refused(&mut self, past: &mut Past, lease: &Fence) -> Option<Command> {
        if self.is_of(lease) {
            self.end(past)
        } else {
            None
        }
    }

    /// A fenced transaction was committed or aborted, after its check had passed, or not.
    pub fn fence_over(&mut self, lease: &Fence, passed: bool) {
        if self.is_of(lease) {
            self.fences = self.fences.saturating_sub(1);
            self.open_fences = self.open_fences.saturating_sub(passed.into());
        }
    }

    /// Whether a fenced transaction of the lease held holds the store up.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.open_fences > 0
    }

    fn is_of(&self, lease: &Fence) -> bool {
        self.is_asking(&lease.who)
            && self.holding.map(|h| (h.epoch, h.token)) == Some((lease.epoch, lease.token))
    }

    /// Whether a renewal that is sent now counts from now. An eighth of the lease must be left: from
    /// another process a takeover may reach the store sooner than what was sent just before it.
    fn is_held_up(&self, now: Now) -> bool {
        let len = self.holding.map_or(0, |holding| holding.len);
        let in_time = self.holding(now + millis(len) / 8).is_some();
        self.is_fenced() && in_time
    }

    /// The store has confirmed a lease of `len` ms that was asked for at `sent`.
    fn extend(&mut self, sent: Now, now: Now, len: u32, held: &Held) {
        let agreed = self.reliance.vow.as_ref();
        let agreed = agreed.is_some_and(|(count, _)| held.count <= *count);
        if let Some(holding) = &mut self.holding {
            holding.confirmed = true;
            // One that was asked for before a shorter one was must not undo that.
            let len = len.min(holding.len);
            let until = sent + millis(len);
            // Nor must one from before an agreement.
            if !agreed {
                holding.until = holding.until.max(until);
                self.note_written(held.count, until);
            }
        }
        self.hear_of_head(sent, now, held.head.as_ref());
    }

    /// A renewal was answered.
    fn note_written(&mut self, count: u64, until: Now) {
        if self.may_agree() {
            self.reliance.count = Some(count);
            self.reliance.written = until;
            self.reliance.vow = None;
        }
    }

    /// Tells the head of the queue that this tab holds, and goes by it. Nothing, if the record has to be written
    /// first, or if there is nobody to go by.
    pub fn beat(&mut self, now: Now) -> Option<Beat> {
        let (epoch, token, from) = {
            let holding = self.holding(now).filter(|holding| holding.confirmed)?;
            let request = self.request?.id;
            (holding.epoch, holding.token, self.requester(request))
        };
        let count = self.reliance.count.filter(|_| self.may_agree())?;
        let head = self.head.as_ref()?;
        let to = head.who.clone();
        // Of its own tab it hears as much as it says.
        if !head.vouched || to.tab == self.tab {
            return None;
        }
        let len = self.lens.usual;
        match &self.reliance.vow {
            Some((of, other)) if *of == count && *other != to => return None,
            Some((of, _)) if *of == count => {}
            _ => {
                let until = now + millis(len);
                let holding = self.holding.as_mut()?;
                holding.until = holding.until.min(until);
                self.sent_until = self.sent_until.map(|sent| sent.min(until));
                self.reliance.vow = Some((count, to.clone()));
            }
        }
        Some(Beat {
            epoch,
            token,
            count,
            from,
            to,
            at: micros(now),
            len,
        })
    }

    /// The head has heard a beat.
    pub fn heeded(&mut self, now: Now, heed: &Heed) {
        let ours = self.holding(now).map(|h| (h.epoch, h.token));
        let vow = self.reliance.vow.as_ref();
        let agreed = vow.is_some_and(|(_, to)| *to == heed.from) && self.is_asking(&heed.to);
        let at = Duration::from_micros(heed.at);
        if ours != Some((heed.epoch, heed.token)) || !agreed || at > now {
            return;
        }
        let until = (at + millis(self.lens.usual)).min(self.reliance.written);
        if let Some(holding) = &mut self.holding {
            holding.until = holding.until.max(until);
        }
        let known = self.reliance.heeded.as_ref();
        if known.is_none_or(|(who, before)| *who != heed.from || *before < at) {
            self.reliance.heeded = Some((heed.from.clone(), at));
        }
    }

    /// A beat of the holder: what to answer. Nothing, if it is none to go by, or not any more.
    pub fn beaten(&mut self, now: Now, beat: &Beat) -> Option<Heed> {
        let seen = self.observation.as_ref()?.sighting;
        let sighting = Sighting {
            epoch: beat.epoch,
            token: beat.token,
            count: beat.count,
        };
        let newest = self.promise.map_or(seen, |promise| promise.sighting);
        let asks = self.holding.is_none() && self.is_asking(&beat.to);
        let stale = (newest.token, newest.count) > (beat.token, beat.count);
        if !asks || seen.epoch != beat.epoch || stale {
            return None;
        }
        self.promise = Some(Promise {
            sighting,
            len: millis(beat.len),
            heard: now,
        });
        Some(Heed {
            to: beat.from.clone(),
            epoch: beat.epoch,
            token: beat.token,
            at: beat.at,
            from: beat.to.clone(),
        })
    }

    /// What the record says of its queue. `None` is older than what was heard after it was asked for.
    fn hear_of_head(&mut self, sent: Now, now: Now, head: Option<&Waiter>) {
        match head {
            Some(head) => {
                let at = Duration::from_micros(head.at);
                let known = self.head.take().filter(|known| known.who == head.who);
                // The same stamp counts from when it was first read; a later one, from now.
                let (at, read) = match known {
                    Some(known) if known.at >= at => (known.at, known.read),
                    _ => (at, now),
                };
                self.head = Some(Head {
                    who: head.who.clone(),
                    len: head.len,
                    at,
                    read,
                    vouched: true,
                });
            }
            None => self.head = self.head.take().filter(|head| head.read >= sent),
        }
    }

    /// A message that somebody wants the lease.
    pub fn wanted(&mut self, now: Now, want: &Want) -> Wanted {
        let ours = self.holding.map(|h| (h.epoch, h.token));
        if ours != Some((want.epoch, want.token)) {
            return Wanted::NotOurs;
        }
        if !want.queued {
            return Wanted::ByTry;
        }
        let vouched = self
            .head
            .as_ref()
            .is_some_and(|head| head.who == want.who && head.vouched);
        self.head = Some(Head {
            who: want.who.clone(),
            len: want.len,
            at: Duration::from_micros(want.at),
            read: now,
            vouched,
        });
        Wanted::ByHead
    }

    /// A message that somebody waits no longer. Whether that was the head of the queue: the next renewal
    /// tells who is now.
    pub fn unwanted(&mut self, who: &Requester) -> bool {
        let head = self.head.take_if(|head| head.who == *who);
        head.is_some()
    }

    /// Gives the lease up, if one is held. `by_store`: not by a message, because there are none. Nor is
    /// it by a message while fenced transactions of it are not finished; the store orders a quit behind
    /// those, while a delegation would overtake them.
    pub fn release(&mut self, past: &mut Past, now: Now, by_store: bool) -> Option<Release> {
        let release = self.delegate(past, now, by_store);
        release.or_else(|| self.end(past).map(Release::Quit))
    }

    fn delegate(&mut self, past: &mut Past, now: Now, by_store: bool) -> Option<Release> {
        let request = self.request?;
        let holding = self.holding(now)?;
        let head = self.head.as_ref()?;
        // No longer than the receiver's own lease: the pass, or its claim, may write that down at once.
        let valid = holding.until.min(now + millis(head.len));
        let short = valid.saturating_sub(now) < millis(head.len) / 2;
        let by_store = by_store || self.fences > 0;
        if !holding.confirmed || request.unanswered > 0 || by_store || short {
            return None;
        }
        let who = self.requester(request.id);
        let token = holding.token;
        let grant = Grant {
            epoch: holding.epoch,
            from: who.clone(),
            to: head.who.clone(),
            token: token + 1,
            until: self.remainder(head.at, valid, head.read),
            vouched: head.vouched,
            granted: false,
        };
        let to = head.who.clone();
        // Within the tab nobody else can have held in between.
        past.delegated = to.tab != self.tab;
        self.clear();
        Some(Release::Delegate(grant, Command::Pass { who, token, to }))
    }

    /// `valid` on the clock of somebody whose stamp `at` was read here at `read`. A granule less: a
    /// coarse clock may have shown too early a time then.
    fn remainder(&self, at: Now, valid: Now, read: Now) -> u64 {
        micros((at + valid).saturating_sub(read + self.margin / 2))
    }

    /// The answer to a [`Command::Quit`] or [`Command::Pass`] that was sent at `sent`: the message to
    /// whoever was granted the lock by that.
    pub fn gone(
        &self,
        past: &mut Past,
        command: &Command,
        sent: Now,
        now: Now,
        outcome: &Outcome,
    ) -> Option<Grant> {
        let who = match command {
            Command::Quit { who } => {
                past.ended.retain(|request| *request != who.request);
                who
            }
            Command::Pass { who, .. } => who,
            _ => return None,
        };
        let Outcome::Gone { granted } = outcome else {
            return None;
        };
        let granted = granted.as_ref()?;
        past.see(granted.epoch, granted.token);
        let at = Duration::from_micros(granted.to.at);
        Some(Grant {
            epoch: granted.epoch,
            from: who.clone(),
            to: granted.to.who.clone(),
            token: granted.token,
            until: self.remainder(at, sent + millis(granted.to.len), now),
            vouched: true,
            granted: true,
        })
    }

    /// Ends the request, whatever became of it: a release, a loss, or a caller that gave up. From
    /// here on nothing is held. The command, if any, tells the store.
    pub fn end(&mut self, past: &mut Past) -> Option<Command> {
        let request = self.request?;
        self.clear();
        request.known.then(|| {
            past.ended.push(request.id);
            Command::Quit {
                who: self.requester(request.id),
            }
        })
    }

    fn clear(&mut self) {
        self.request = None;
        self.holding = None;
        self.giver = None;
        self.fences = 0;
        self.open_fences = 0;
        self.sent_until = None;
        self.head = None;
        self.reliance = Reliance::default();
        self.promise = None;
        self.grant = None;
        // What was observed still stands, for the next request to go on from; not the place in the
        // queue, which that has yet to get.
        if let Some(seen) = &mut self.observation {
            seen.queued = false;
        }
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

impl Promise {
    /// Whether it is about what was seen, or about something newer.
    fn is_of(&self, seen: &Sighting) -> bool {
        let mine = &self.sighting;
        mine.epoch == seen.epoch && (mine.token, mine.count) >= (seen.token, seen.count)
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

fn takes_over(proof: &Proof) -> bool {
    matches!(proof, Proof::Unchanged(_) | Proof::Dead(_))
}

fn millis(ms: u32) -> Duration {
    Duration::from_millis(ms.into())
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
