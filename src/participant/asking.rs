//! Asking: a request is on its way, or stands in the queue, and the lease that somebody else holds is
//! watched.

use crate::time::Duration;

use super::{
    Ask, Grant, Heard, Holding, Now, Participant, Past, State, Taken, Want, micros, millis,
};
use crate::rules::{
    Command, Fresh, Held, Mode, Outcome, Proof, Requester, Sighting, Take, Waiting,
};

/// The highest first token that a wall clock may lead to (that of the year 2109). A clock set
/// further ahead would leave tokens no room to grow in, and so make the record corrupt.
const MAX_FRESH_TOKEN: u64 = 1 << 52;

/// The request that asks or holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Request {
    pub(super) id: u64,
    /// It has asked to wait in the queue.
    pub(super) joined: bool,
    /// It may stand in the record: it joined, or a take of it has not been answered.
    pub(super) known: bool,
    /// Takes that have not been answered; a late one may still queue the request.
    pub(super) unanswered: u8,
    /// Of these, the ones that take over a lease that nobody gave.
    pub(super) takeovers: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Asking {
    pub(super) request: Request,
    pub(super) watch: Watch,
    /// A message that could not be started on.
    grant: Option<Grant>,
    /// The holder of which token was told that its lease is wanted, by which stamp.
    told: Option<(u64, Now)>,
}

/// What is known of the lease that somebody else holds.
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

impl Observation {
    /// For how long the lease must still stand still before it may be taken over.
    fn ripe_in(&self, now: Now) -> Duration {
        (self.since + self.len).saturating_sub(now)
    }

    fn is_next(&self) -> bool {
        self.before.len().saturating_sub(self.moves.into()) <= 1
    }
}

impl Watch {
    /// For the next request to go on from: but for the place in the queue, which that has yet to get.
    pub(super) fn without_place(mut self) -> Self {
        if let Some(seen) = &mut self.seen {
            seen.queued = false;
        }
        self
    }

    /// All who may have the lease before this tab have ended.
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

    /// How long the observed lease must still stand still before it may be taken over, if one is
    /// being observed; nothing, if a message says that it is ours.
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
        let seen = self.seen()?;
        let close = seen.len / if told { 4 } else { 20 };
        let pace = if seen.is_next() {
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
        self.seen().is_some_and(Observation::is_next)
    }

    /// Whether a waiter that has paused since `since` need not look yet: meanwhile it has heard that the
    /// lock goes on without it, and its last look is no older than a lease. A pause of nothing heard
    /// nothing.
    #[must_use]
    pub fn is_moving(&self, since: Now, now: Now) -> bool {
        self.seen().is_some_and(|seen| {
            let moved = seen.moved.is_some_and(|moved| moved >= since);
            moved && since < now && seen.queued && now < seen.at + seen.len
        })
    }

    /// The tab whose end would bring this one closer to the lease: the first that may have it before
    /// this one and is not known to have ended. `None` if there is no telling by beacons.
    #[must_use]
    pub fn suspect(&self) -> Option<&str> {
        let watch = self.watch()?;
        let mut before = watch.seen.as_ref()?.before.iter();
        let (tab, beacon) = before.find(|(tab, _)| !watch.dead.contains(tab))?;
        (*beacon && *tab != self.tab).then_some(tab)
    }

    /// The beacon of that tab went out: it has ended. Whoever holds has nobody before it.
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

    /// Asks for the lease. A call that asks again, or for a second caller, goes on with the request
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

    /// A request, if there is none.
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
            told: None,
        });
    }

    fn proof(&self, now: Now) -> Proof {
        self.asking()
            .map_or(Proof::None, |asking| asking.proof(now))
    }

    /// What would be asked for, if it is most likely enough to read: the request stands in the queue, and
    /// wants nothing else than when it last asked. Nothing, if it has to be said: there is a message or a
    /// death to act on, or the lock has gone on, and a stamp that is old by now would be of no use to the
    /// next holder.
    #[must_use]
    pub fn look(&self, past: &Past, now: Now, ask: Ask) -> Option<Take> {
        let asking = self.asking().filter(|asking| asking.request.joined)?;
        let seen = asking.watch.seen.as_ref()?;
        let still = seen.queued && seen.moved.is_none() && seen.asked == self.len();
        if !still || asking.grant.is_some() || asking.watch.all_dead() {
            return None;
        }
        Some(self.take_of(asking.request.id, past, now, ask, asking.proof(now)))
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
            Outcome::Held(held) => self.held(past, take, sent, now, held),
            Outcome::Waiting(waiting) => self.waits(past, take, sent, now, waiting),
            // A lease of 0 ms, which `Config` does not let through.
            Outcome::Refused | Outcome::Gone { .. } => Taken::Busy,
        }
    }

    /// The lease is this request's.
    fn held(&mut self, past: &mut Past, take: &Take, sent: Now, now: Now, held: &Held) -> Taken {
        past.see(held.epoch, held.token);
        let head = held.head.as_ref();
        if let State::Holding(tenure) = &mut self.state {
            // Started by a message meanwhile.
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
            self.waits(past, take, sent, now, waiting)
        } else {
            Taken::Stale
        }
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
            && let Some(request) = self.request_mut()
        {
            request.takeovers = request.takeovers.saturating_add(1);
        }
    }

    /// Whether the answer is for the present request.
    fn answered(&mut self, take: &Take) -> bool {
        let request = self.request_mut();
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
        // Else a takeover out of order, or a later grant to the same request, may be on its way, and
        // another tab may have had the lease and gone.
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
            len: self.len(),
            confirmed: false,
        };
        self.start(past, holding, Some(grant.from.clone()));
        Heard::Started(holding)
    }

    /// What to tell the holder, if this tab is the next one and the holder was not told lately.
    pub fn want(&mut self) -> Option<Want> {
        let asking = self.asking_mut()?;
        let request = asking.request.id;
        let seen = asking.watch.seen.as_ref();
        let seen = seen.filter(|seen| seen.before.len() == 1)?;
        let (token, at, len) = (seen.sighting.token, seen.at, seen.asked);
        let fresh = |told: (u64, Now)| told.0 == token && at < told.1 + millis(len) / 4;
        if asking.told.is_some_and(fresh) {
            return None;
        }
        asking.told = Some((token, at));
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

    /// Whether the request that asks stands in the queue, or has asked to.
    #[must_use]
    pub fn queues(&self) -> bool {
        self.asking().is_some_and(|asking| asking.request.joined)
    }

    /// Whether the lease that is waited for may be that requester's, or may be before it is this one's.
    #[must_use]
    pub fn awaits(&self, who: &Requester) -> bool {
        let seen = self.seen();
        seen.is_none_or(|seen| seen.before.iter().any(|(tab, _)| *tab == who.tab))
    }
}

fn takes_over(proof: &Proof) -> bool {
    matches!(proof, Proof::Unchanged(_) | Proof::Dead(_))
}
