//! Asking: a request is on its way, or stands in the queue, and the lease of the present holder is watched.

use crate::time::Duration;

use super::{
    Ask, Grant, Heard, Holding, Now, Participant, Past, State, Taken, Want, micros, millis,
};
use crate::rules::{
    Command, Fresh, Held, Mode, Outcome, Proof, Requester, Sighting, Take, Waiting,
};

/// The highest first token that a wall clock may lead to (that of the year 2109). A clock that is set
/// further ahead would leave tokens no room to grow in, and so make the record corrupt.
const MAX_FRESH_TOKEN: u64 = 1 << 52;

/// How often the first in the queue looks within a lease. An observation starts when a waiter sees the last
/// renewal of a holder that died. So a waiter that is to take over within a lease and a beat must look more
/// often than a holder beats.
const CLOSE_LOOKS: u32 = 20;

/// How often the first in the queue looks within a lease if the holder's end would be told: only a holder
/// that hangs is left to be seen.
const LOOKS_IF_TOLD: u32 = 4;

/// How often a waiter tells the holder that it waits, within the lease that it asked for: as often as a take
/// renews its stamp in the record.
const WANTS_PER_LEASE: u32 = 4;

/// The request that asks or holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Request {
    pub(super) id: u64,
    /// It has asked to wait in the queue.
    pub(super) joined: bool,
    /// It may stand in the record: it joined, or a take of it has not been answered.
    pub(super) known: bool,
    /// How many of its takes have not been answered. A late one may still queue the request.
    pub(super) unanswered: u8,
    /// How many of its takes may still be applied, and take over a lease that its holder did not give.
    pub(super) takeovers: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Asking {
    pub(super) request: Request,
    pub(super) watch: Watch,
    /// A message by which the lease could not start without the store.
    grant: Option<Grant>,
    /// The token and the stamp of the latest [`Want`] that was sent.
    last_want: Option<(u64, Now)>,
}

/// What is known of the lease that another requester holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Watch {
    /// What the record was last seen to say.
    seen: Option<Observation>,
    /// Tabs whose beacons went out.
    dead: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Observation {
    sighting: Sighting,
    /// Since when the record has been seen like that.
    since: Now,
    len: Duration,
    /// The tabs that could have the lease before this tab, when it last asked: see
    /// [`Waiting`](crate::rules::Waiting).
    before: Vec<(String, bool)>,
    queued: bool,
    /// When this tab last asked: a stamp of this request.
    at: Now,
    /// How long a lease it asked for then. In the queue it stands with that length, or a greater one.
    asked: u32,
    /// When a message to another tab last said that the lock goes on, after this tab last asked.
    moved: Option<Now>,
    /// How many such messages there were.
    moves: u8,
}

impl Observation {
    /// For how long the record must still stay unchanged before the lease may be taken over.
    fn ripe_in(&self, now: Now) -> Duration {
        (self.since + self.len).saturating_sub(now)
    }

    fn is_next(&self) -> bool {
        self.before.len().saturating_sub(self.moves.into()) <= 1
    }
}

impl Watch {
    /// What the next request goes on from: all but the place in the queue, which it has yet to get.
    pub(super) fn without_place(mut self) -> Self {
        if let Some(seen) = &mut self.seen {
            seen.queued = false;
        }
        self
    }

    /// Whether all tabs that may have the lease before this one have ended.
    fn all_dead(&self) -> bool {
        let is_dead = |(tab, _): &(String, bool)| self.dead.contains(tab);
        let seen = self.seen.as_ref();
        seen.is_some_and(|seen| seen.before.iter().all(is_dead))
    }

    fn proof(&self, now: Now) -> Proof {
        match &self.seen {
            Some(_) if self.all_dead() => Proof::Dead(self.dead.clone()),
            Some(seen) if seen.ripe_in(now).is_zero() => Proof::Unchanged(seen.sighting),
            _ => Proof::None,
        }
    }
}

impl Asking {
    fn proof(&self, now: Now) -> Proof {
        match &self.grant {
            Some(grant) => Proof::Delegated {
                token: grant.token.wrapping_sub(1),
                from: grant.from.clone(),
            },
            None => self.watch.proof(now),
        }
    }
}

impl Participant {
    fn watch(&self) -> Option<&Watch> {
        match &self.state {
            State::Idle(watch) => Some(watch),
            State::Asking(asking) => Some(&asking.watch),
            State::Holding(_) => None,
        }
    }

    fn asking(&self) -> Option<&Asking> {
        match &self.state {
            State::Asking(asking) => Some(asking),
            State::Idle(_) | State::Holding(_) => None,
        }
    }

    fn asking_mut(&mut self) -> Option<&mut Asking> {
        match &mut self.state {
            State::Asking(asking) => Some(asking),
            State::Idle(_) | State::Holding(_) => None,
        }
    }

    fn seen(&self) -> Option<&Observation> {
        self.watch()?.seen.as_ref()
    }

    /// For how long the record must still stay unchanged before the observed lease may be taken over. Zero,
    /// if a message or beacons say that it may be already; `None` if no lease is observed.
    #[must_use]
    pub fn ripe_in(&self, now: Now) -> Option<Duration> {
        let granted = self.asking().is_some_and(|asking| asking.grant.is_some());
        if granted || self.watch()?.all_dead() {
            return Some(Duration::ZERO);
        }
        self.seen().map(|seen| seen.ripe_in(now))
    }

    /// How soon a waiter should look again, if it watches a lease.
    ///
    /// `told`: whether the end of the [suspect](Self::suspect) would be told. `heard`: whether messages tell
    /// what becomes of the requests ahead.
    ///
    /// - The first in the queue looks `CLOSE_LOOKS` times within a lease; `LOOKS_IF_TOLD` times, if the end
    ///   would be told.
    /// - The others look once a lease, if messages tell them more. If not, each looks less often the further
    ///   behind it stands, so that the store is left to the first.
    #[must_use]
    pub fn look_in(&self, now: Now, told: bool, heard: bool) -> Option<Duration> {
        let seen = self.seen()?;
        let close = seen.len / if told { LOOKS_IF_TOLD } else { CLOSE_LOOKS };
        let pace = if seen.is_next() {
            close
        } else if heard {
            // They may not hear that a long lease has become a usual one.
            seen.len.min(millis(self.lens.usual))
        } else {
            close.saturating_mul(u32::try_from(seen.before.len()).unwrap_or(u32::MAX))
        };
        Some(pace.min(self.ripe_in(now)?))
    }

    /// Whether only the holder is ahead, as far as is known.
    #[must_use]
    pub fn is_next(&self) -> bool {
        self.seen().is_some_and(Observation::is_next)
    }

    /// Whether a waiter that has paused since `since` need not look yet: during the pause it has heard that
    /// the lock goes on without it, and its last look is no older than a lease. During a pause of no length
    /// it cannot have heard anything.
    #[must_use]
    pub fn is_moving(&self, since: Now, now: Now) -> bool {
        self.seen().is_some_and(|seen| {
            let moved = seen.moved.is_some_and(|moved| moved >= since);
            moved && since < now && seen.queued && now < seen.at + seen.len
        })
    }

    /// The tab whose end would bring this one closer to the lease: the first that may have it before
    /// this one and is not known to have ended. `None` if no beacon can tell that.
    #[must_use]
    pub fn suspect(&self) -> Option<&str> {
        let watch = self.watch()?;
        let mut before = watch.seen.as_ref()?.before.iter();
        let (tab, beacon) = before.find(|(tab, _)| !watch.dead.contains(tab))?;
        (*beacon && *tab != self.tab).then_some(tab)
    }

    /// The beacon of `tab` went out: it has ended. Changes nothing while this tab holds.
    pub fn died(&mut self, tab: &str) {
        let watch = match &mut self.state {
            State::Idle(watch) => watch,
            State::Asking(asking) => &mut asking.watch,
            State::Holding(_) => return,
        };
        if !watch.dead.iter().any(|dead| dead == tab) {
            watch.dead.push(tab.to_owned());
        }
    }

    /// The take by which to ask for the lease. To ask again, or for a second caller, goes on with the request
    /// that the store may know.
    pub fn take(&mut self, past: &Past, now: Now, ask: Ask) -> Take {
        self.begin(ask.request);
        let proof = self.proof(now);
        let takes_over = takes_over(&proof);
        if let Some(request) = self.request_mut() {
            request.joined |= ask.join;
            request.known = true;
            request.unanswered += 1;
            request.takeovers = request.takeovers.saturating_add(takes_over.into());
        }
        let request = self.request().unwrap_or(ask.request);
        self.take_of(request, past, now, ask, proof)
    }

    /// Begins a request, if there is none.
    fn begin(&mut self, id: u64) {
        let State::Idle(watch) = &mut self.state else {
            return;
        };
        self.state = State::Asking(Asking {
            request: Request {
                id,
                joined: false,
                known: false,
                unanswered: 0,
                takeovers: 0,
            },
            watch: std::mem::take(watch),
            grant: None,
            last_want: None,
        });
    }

    fn proof(&self, now: Now) -> Proof {
        self.asking()
            .map_or(Proof::None, |asking| asking.proof(now))
    }

    /// The take to look by, if it is most likely enough to read: the request stands in the queue, and wants
    /// nothing else than when it last asked. `None` if the take has to be applied: there is a message or a
    /// death to act on; or the lock has gone on, and the next holder has no use for a stamp that is old.
    #[must_use]
    pub fn look(&self, past: &Past, now: Now, ask: Ask) -> Option<Take> {
        let asking = self.asking().filter(|asking| asking.request.joined)?;
        let seen = asking.watch.seen.as_ref()?;
        let still = seen.queued && seen.moved.is_none() && seen.asked == self.lease_ms();
        if !still || asking.grant.is_some() || asking.watch.all_dead() {
            return None;
        }
        Some(self.take_of(asking.request.id, past, now, ask, asking.proof(now)))
    }

    fn take_of(&self, request: u64, past: &Past, now: Now, ask: Ask, proof: Proof) -> Take {
        Take {
            who: self.requester(request),
            mode: Mode::Exclusive,
            len: self.lease_ms(),
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
        if !self.count_answer(take) {
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
            Outcome::Held(held) => self.on_held(past, take, sent, now, held),
            Outcome::Waiting(waiting) => self.on_waiting(past, take, sent, now, waiting),
            // A lease of 0 ms, which `Config` does not let through.
            Outcome::Refused | Outcome::Gone { .. } => Taken::Busy,
        }
    }

    /// The lease is this request's.
    fn on_held(&mut self, past: &mut Past, take: &Take, sent: Now, now: Now, held: &Held) -> Taken {
        past.see(held.epoch, held.token);
        let head = held.head.as_ref();
        if let State::Holding(tenure) = &mut self.state {
            // The lease has started by a message meanwhile.
            let ours = tenure.holding;
            if (ours.epoch, ours.token) == (held.epoch, held.token) {
                tenure.extend(sent, now, take.len, head);
                return Taken::Confirmed;
            }
            if held.token < ours.token {
                return Taken::Stale;
            }
            return self.end(past).map_or(Taken::Stale, Taken::Lost);
        }
        let holding = Holding {
            epoch: held.epoch,
            token: held.token,
            dirty: self.dirty(past, held.epoch, held.last.as_ref()),
            until: sent + millis(take.len),
            len: take.len,
            confirmed: true,
        };
        if now + self.margin >= holding.until {
            if let Some(asking) = self.asking_mut() {
                asking.watch.seen = None;
            }
            return Taken::Late;
        }
        self.start(past, holding, None);
        if let State::Holding(tenure) = &mut self.state {
            tenure.hear_of_head(sent, now, head);
        }
        Taken::Held(holding)
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
        if self.is_asking(&take.who) {
            self.on_waiting(past, take, sent, now, waiting)
        } else {
            Taken::Stale
        }
    }

    /// The lease is another requester's.
    fn on_waiting(
        &mut self,
        past: &mut Past,
        take: &Take,
        sent: Now,
        now: Now,
        waiting: &Waiting,
    ) -> Taken {
        let State::Asking(asking) = &mut self.state else {
            return Taken::Stale;
        };
        asking.request.known = asking.request.joined;
        let sighting = waiting.sighting;
        past.see(sighting.epoch, sighting.token);
        let seen = asking.watch.seen.as_ref();
        let still = seen.filter(|seen| seen.sighting == sighting);
        asking.watch.seen = Some(Observation {
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
        if let Some(grant) = asking.grant.take() {
            // The take was sent before the grant came: with what it has seen, the grant may do.
            let undecided = !matches!(take.proof, Proof::Delegated { .. });
            if undecided && let Heard::Started(holding) = self.granted(past, now, &grant) {
                return Taken::Held(holding);
            }
        }
        Taken::Busy
    }

    /// A take has failed. It may have been applied all the same, so a takeover stays unanswered.
    pub fn failed(&mut self, take: &Take) {
        if self.count_answer(take)
            && takes_over(&take.proof)
            && let Some(request) = self.request_mut()
        {
            request.takeovers = request.takeovers.saturating_add(1);
        }
    }

    /// Counts a take as answered. Whether it is of the present request.
    fn count_answer(&mut self, take: &Take) -> bool {
        let request = self.request_mut();
        let Some(request) = request.filter(|request| request.id == take.who.request) else {
            return false;
        };
        request.unanswered = request.unanswered.saturating_sub(1);
        let takeovers = u8::from(takes_over(&take.proof));
        request.takeovers = request.takeovers.saturating_sub(takeovers);
        true
    }

    /// A message by which a lease is handed over, to this tab or to another one.
    pub fn granted(&mut self, past: &mut Past, now: Now, grant: &Grant) -> Heard {
        let before = grant
            .token
            .saturating_sub(if grant.granted { 2 } else { 1 });
        if past.seen.0 == grant.epoch {
            // The token before was in use, also if the grant is not for this tab.
            past.see(grant.epoch, before);
        }
        let to_us = self.is_asking(&grant.to);
        // A request that has started ignores every further message.
        let State::Asking(asking) = &mut self.state else {
            return Heard::Ignored;
        };
        let seen = asking.watch.seen.as_mut();
        if let Some(seen) = seen.filter(|seen| seen.sighting.epoch == grant.epoch && !to_us) {
            seen.moved = Some(now);
            seen.moves = seen.moves.saturating_add(1);
        }
        let seen = asking.watch.seen.as_ref();
        if !to_us || seen.is_some_and(|seen| seen.sighting.epoch != grant.epoch) {
            return Heard::Ignored;
        }
        // Start only if this tab last saw itself at the head, under the token before, or if the giver or the
        // record says so. Otherwise one of its own takeovers may still be in flight, or a later grant to the
        // same request, and this grant may be stale: another tab may have had the lease and gone.
        let own_look = |seen: &Observation| {
            seen.sighting.token + 1 == grant.token && seen.queued && seen.before.len() == 1
        };
        let until = Duration::from_micros(grant.until);
        let sure = seen.is_some_and(|seen| grant.granted || grant.vouched || own_look(seen));
        // The giver leaves half of a lease; but it counts from a stamp that may have been old when it was
        // first read. The claim must have time to land.
        let lasts = now + self.margin + millis(self.lens.usual) / 4 < until;
        if !sure || asking.request.takeovers > 0 || !lasts {
            asking.grant = Some(grant.clone());
            return Heard::Ask;
        }
        let own = grant.from.tab == self.tab
            && !past.delegated
            && past.latest == Some((grant.epoch, before));
        let holding = Holding {
            epoch: grant.epoch,
            token: grant.token,
            dirty: !own || past.owed,
            until,
            len: self.lease_ms(),
            confirmed: false,
        };
        self.start(past, holding, Some(grant.from.clone()));
        Heard::Started(holding)
    }

    /// The message to the holder, if this tab is next and the holder was not told lately. Counts as sent.
    pub fn want(&mut self) -> Option<Want> {
        let asking = self.asking_mut()?;
        let request = asking.request.id;
        let seen = asking.watch.seen.as_ref();
        let seen = seen.filter(|seen| seen.before.len() == 1)?;
        let (token, at, len) = (seen.sighting.token, seen.at, seen.asked);
        let fresh =
            |want: (u64, Now)| want.0 == token && at < want.1 + millis(len) / WANTS_PER_LEASE;
        if asking.last_want.is_some_and(fresh) {
            return None;
        }
        asking.last_want = Some((token, at));
        let (epoch, queued) = (seen.sighting.epoch, seen.queued);
        Some(Want {
            epoch,
            token,
            who: self.requester(request),
            len,
            at: micros(at),
            queued,
        })
    }

    /// Whether the request that asks stands in the queue, or has asked to join it.
    #[must_use]
    pub fn queues(&self) -> bool {
        self.asking().is_some_and(|asking| asking.request.joined)
    }

    /// Whether `who` may have the lease that is waited for, now or before this tab does.
    #[must_use]
    pub fn awaits(&self, who: &Requester) -> bool {
        let seen = self.seen();
        seen.is_none_or(|seen| seen.before.iter().any(|(tab, _)| *tab == who.tab))
    }
}

/// Whether a take with this proof takes over a lease that its holder did not give.
fn takes_over(proof: &Proof) -> bool {
    matches!(proof, Proof::Unchanged(_) | Proof::Dead(_))
}
