//! A lease, from its first word to its last: guards, renewals, lingering, release, loss.
//!
//! ```text
//!            a take or a grant              nobody uses it, and
//!   (asking) ----------------> Keeping ---- somebody wants it -------> Parting: the store is told, or
//!                                |  ^       or it has lingered         Passing: the next holder was
//!              nobody uses it,   v  |  a call comes
//!              nobody wants it  lingers                        expiry, a refusal, the page stops, the
//!                                                              store is closed: lost, with one reason
//! ```

use std::time::Duration;

use super::{Action, CallId, Contender, Context, End, LeaseId, SendId, Sent, Timer};
use crate::error::LossReason;
use crate::message::Message;
use crate::participant::{Due, Grant, Holding, Now, Release, Renewed};
use crate::rules::{Command, Fence, Outcome};

/// After a lease was handed on by a message, wait this long, in ms, before writing the [`Command::Pass`]:
/// by then the receiver's [`Command::Claim`] has usually landed, and no pass is needed.
const PASS_AFTER_MS: u64 = 10;

/// How often a lease that is longer than usual is renewed within its length. So is one of the usual length while
/// nothing happens: two renewals in a row may be late or fail.
pub(super) const LONG_BEATS: u32 = 3;

/// How often the head of the queue is sent beats within a usual lease, while it goes by them.
const BEATS: u32 = 5;

/// A lease that is held here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Keeping {
    pub(super) lease: LeaseId,
    pub(super) epoch: u64,
    pub(super) token: u64,
    pub(super) guards: u32,
    /// What the guards say: the first ones what the lease began with. Once the lock was let go and is
    /// taken again, while it lingers, nobody else can have had it.
    pub(super) dirty: bool,
    /// A caller has got its guard.
    pub(super) told: bool,
    /// Nothing before the first claim of a lease that began by a message.
    pub(super) next_beat: Option<Now>,
    /// The renewal that the next beat waits for.
    pub(super) renewal: Option<SendId>,
    /// When the latest renewal was sent.
    pub(super) last_sent: Now,
    /// The store has taken no renewal since the last that it took.
    pub(super) store_failed: bool,
    pub(super) linger: Linger,
    /// Who is next, as far as is known …
    pub(super) next: Option<u64>,
    /// … and since when.
    pub(super) same_since: Now,
}

/// A lease that nobody uses stays for a beat, if nobody wants it: taking it again costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Linger {
    /// It is in use.
    No,
    Until(Now),
    /// It has stayed for long enough.
    Over,
}

/// A lease that was given up by a quit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parting {
    pub(super) lease: LeaseId,
    pub(super) quit: SendId,
    /// By then it has lapsed, whether the store was told or not.
    pub(super) until: Now,
}

/// A lease that was handed on by a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Passing {
    pub(super) grant: Grant,
    pub(super) pass: Command,
    /// A pass is on its way.
    pub(super) sent: Option<SendId>,
    /// When else to send one.
    pub(super) next: Now,
    /// It cannot matter any more after that.
    pub(super) until: Now,
}

impl Keeping {
    /// The next renewal is due now. A lease that began by a message is claimed before that.
    pub(super) fn hurry(&mut self, now: Now) {
        self.next_beat = self.next_beat.map(|_| now);
    }

    pub(super) fn lingers_until(&self) -> Option<Now> {
        match self.linger {
            Linger::Until(until) => Some(until),
            Linger::No | Linger::Over => None,
        }
    }
}

impl Contender {
    /// A lease begins: whoever waits here gets it.
    pub(super) fn begin(&mut self, cx: &mut Context<'_>, holding: Holding) {
        let lease = LeaseId(self.participant.request().unwrap_or_default());
        let claims = self.participant.is_unclaimed();
        self.keeping = Some(Keeping {
            lease,
            epoch: holding.epoch,
            token: holding.token,
            guards: 0,
            dirty: holding.dirty,
            told: false,
            next_beat: (!claims).then(|| cx.now() + self.heartbeat()),
            renewal: None,
            last_sent: cx.now(),
            store_failed: false,
            linger: Linger::No,
            next: None,
            same_since: cx.now(),
        });
        self.share_with_all(cx);
        if claims {
            // It is good already: whoever waited for it goes on first.
            cx.act(Action::StepAside(lease));
        }
    }

    /// One guard more.
    pub(super) fn share(&mut self, cx: &mut Context<'_>, call: CallId) {
        let Some(keeping) = &mut self.keeping else {
            return;
        };
        keeping.dirty &= keeping.guards > 0 || !keeping.told;
        keeping.guards += 1;
        keeping.linger = Linger::No;
        let end = End::Held {
            lease: keeping.lease,
            token: keeping.token,
            epoch: keeping.epoch,
            dirty: keeping.dirty,
        };
        cx.act(Action::Settle { call, end });
    }

    fn present(&mut self, lease: LeaseId) -> Option<&mut Keeping> {
        self.keeping
            .as_mut()
            .filter(|keeping| keeping.lease == lease)
    }

    pub(super) fn told(&mut self, cx: &mut Context<'_>, lease: LeaseId) {
        if let Some(keeping) = self.present(lease) {
            keeping.told = true;
            cx.past.told();
        }
    }

    pub(super) fn shared(&mut self, lease: LeaseId) {
        if let Some(keeping) = self.present(lease) {
            keeping.guards += 1;
        }
    }

    pub(super) fn guard_dropped(&mut self, lease: LeaseId) {
        if let Some(keeping) = self.present(lease) {
            keeping.guards = keeping.guards.saturating_sub(1);
        }
    }

    pub(super) fn is_in_use(&self) -> bool {
        self.keeping
            .as_ref()
            .is_some_and(|keeping| keeping.guards > 0)
    }

    /// The release rule, and what else must hold for a lease after every event.
    pub(super) fn keep(&mut self, cx: &mut Context<'_>) {
        let Some(keeping) = &self.keeping else {
            return;
        };
        let (lease, linger, renews) = (keeping.lease, keeping.linger, keeping.renewal.is_some());
        if self.is_in_use() {
            // Somebody here was faster than those who try elsewhere.
            self.answer_tries(cx, false);
        } else {
            let wanted = self.participant.is_wanted() || !self.tries.is_empty();
            let goes = wanted || self.abandoned || !self.around.complete;
            // A quit in place of the claim would leave the record with the tab that handed the lease on.
            if (goes || linger == Linger::Over) && !self.participant.is_unclaimed() {
                return self.release(cx);
            }
            if linger == Linger::No {
                self.linger(cx, lease);
            }
        }
        if self.participant.is_too_long() && !renews {
            // Now, or with those of other names that are wanted as well: a page may be told so of hundreds.
            if let Some(next) = self.keeping.as_mut().and_then(|k| k.next_beat.as_mut()) {
                *next = cx.now().min(*next);
            }
        }
        self.note_next(cx.now());
    }

    /// Notices since when the same one has been next.
    fn note_next(&mut self, now: Now) {
        let next = self.participant.next().map(|next| next.request);
        if let Some(keeping) = &mut self.keeping
            && keeping.next != next
        {
            (keeping.next, keeping.same_since) = (next, now);
        }
    }

    /// Whether nothing has happened for a while, where beacons tell of a death and messages of a waiter: what is
    /// left to be seen then is a holder that hangs.
    fn is_steady(&self, now: Now) -> bool {
        let told = self.around.beacons && self.around.complete;
        let after = self.usual_lease() * self.around.steady_leases;
        let is_same = |k: &Keeping| k.next.is_some() && now >= k.same_since + after;
        told && self.keeping.as_ref().is_some_and(is_same)
    }

    fn usual_lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms.into())
    }

    /// How soon the next renewal follows one that is sent now. A lease of the usual length is renewed less often
    /// while nothing happens: how soon a hang is noticed depends on its length.
    fn pace(&self, now: Now) -> Duration {
        let beat = self.heartbeat();
        let long = self.participant.long().map(|long| long / LONG_BEATS);
        let steady = self.is_steady(now).then(|| self.usual_lease() / LONG_BEATS);
        long.or(steady).unwrap_or(beat).max(beat)
    }

    /// The next renewal is due: a message will do, while the head of the queue goes by those.
    fn beat(&mut self, cx: &mut Context<'_>) {
        let now = cx.now();
        let good_until = self.good_until().unwrap_or_default();
        let low = good_until < now + self.usual_lease() / 2;
        let written = self.keeping.as_ref().map(|keeping| keeping.last_sent);
        let stale = written.is_none_or(|at| now >= at + self.pace(now));
        let stale = stale || self.participant.is_too_long();
        if !low && !stale && self.is_steady(now) && self.participant.is_heeded(now) {
            self.tell_head(cx);
        } else {
            self.renew(cx);
        }
    }

    /// Tells the head of the queue that the lease is held, if nothing else happens.
    fn tell_head(&mut self, cx: &mut Context<'_>) {
        let now = cx.now();
        if !self.is_steady(now) {
            return;
        }
        let Some(beat) = self.participant.beat(now) else {
            return;
        };
        cx.act(Action::Post(Message::Beat(beat)));
        // By the first beat the lease is as short as it was, whether the head has heard it or not.
        let beats = match self.participant.is_heeded(now) {
            true => BEATS,
            false => LONG_BEATS,
        };
        let soon = now + self.usual_lease() / beats;
        if let Some(keeping) = &mut self.keeping {
            let is_over = |next: &Now| *next <= now;
            let later = keeping.next_beat.filter(|next| !is_over(next));
            keeping.next_beat = keeping
                .next_beat
                .map(|_| later.map_or(soon, |next| next.min(soon)));
        }
    }

    fn linger(&mut self, cx: &mut Context<'_>, lease: LeaseId) {
        let until = cx.now() + self.heartbeat();
        if let Some(keeping) = self.present(lease) {
            keeping.linger = Linger::Until(until);
            cx.act(Action::Linger(lease));
        }
    }

    /// Gives the lease up, by a message if that is sound.
    fn release(&mut self, cx: &mut Context<'_>) {
        let until = self.participant.good_until().unwrap_or_default();
        let by_store = !self.around.complete;
        let release = self.participant.release(cx.past, cx.now(), by_store);
        let Some(Keeping { lease, .. }) = self.keeping.take() else {
            return;
        };
        match release {
            Some(Release::Delegate(grant, pass)) => {
                cx.act(Action::Post(Message::Grant(grant.clone())));
                self.answer_tries(cx, false);
                cx.act(Action::Released(lease));
                self.passing = Some(Passing {
                    grant,
                    pass,
                    sent: None,
                    next: cx.now() + Duration::from_millis(PASS_AFTER_MS),
                    until: cx.now() + Duration::from_millis(self.lease_ms.into()),
                });
            }
            Some(Release::Quit(quit)) => {
                let quit = self.send(cx, quit);
                self.partings.push(Parting { lease, quit, until });
            }
            None => cx.act(Action::Released(lease)),
        }
    }

    /// Whether something that was held or asked for here is just being given up.
    pub(super) fn is_leaving(&self) -> bool {
        self.passing.is_some() || self.sent.iter().any(|sent| sent.leaves)
    }

    /// Tells those who only try whether the lock was freed for them.
    pub(super) fn answer_tries(&mut self, cx: &mut Context<'_>, free: bool) {
        for to in std::mem::take(&mut self.tries) {
            cx.act(Action::Post(Message::Reply { to, free }));
        }
    }

    /// What came of a quit, or a pass.
    pub(super) fn gone(
        &mut self,
        cx: &mut Context<'_>,
        sent: Sent,
        command: &Command,
        answer: Option<Outcome>,
    ) {
        let now = cx.now();
        if let Some(outcome) = &answer {
            let grant = self
                .participant
                .gone(cx.past, command, sent.at, now, outcome);
            let free = grant.is_none();
            if let Some(grant) = grant {
                cx.act(Action::Post(Message::Grant(grant)));
            }
            self.answer_tries(cx, free);
        }
        // If it failed, the next take of this tab says it again, and for everybody else the lease lapses.
        self.part(cx, |parting| parting.quit == sent.id);
        let again = now + self.heartbeat();
        if let Some(passing) = &mut self.passing
            && passing.sent == Some(sent.id)
        {
            passing.sent = None;
            passing.next = again;
            if answer.is_some() || now >= passing.until {
                self.passing = None;
            }
        }
    }

    /// Those leases are gone.
    fn part(&mut self, cx: &mut Context<'_>, is_gone: impl Fn(&Parting) -> bool) {
        self.partings.retain(|parting| {
            let is_gone = is_gone(parting);
            if is_gone {
                cx.act(Action::Released(parting.lease));
            }
            !is_gone
        });
    }

    fn pass(&mut self, cx: &mut Context<'_>) {
        let Some(mut passing) = self.passing.take() else {
            return;
        };
        if cx.past.must_pass(&passing.grant) {
            passing.sent = Some(self.send(cx, passing.pass.clone()));
            self.passing = Some(passing);
        }
    }

    /// Whoever was told that the lease began has run: now the store is told.
    pub(super) fn claim(&mut self, cx: &mut Context<'_>, lease: LeaseId) {
        if self
            .present(lease)
            .is_some_and(|keeping| keeping.next_beat.is_none())
        {
            self.renew(cx);
        }
    }

    /// Sends a renewal, or the claim.
    fn renew(&mut self, cx: &mut Context<'_>) {
        let id = self.send_renewal(cx);
        let pace = self.pace(cx.now());
        if let Some(id) = id
            && let Some(keeping) = &mut self.keeping
        {
            keeping.next_beat = Some(cx.now() + pace);
            keeping.renewal = Some(id);
        }
    }

    fn send_renewal(&mut self, cx: &mut Context<'_>) -> Option<SendId> {
        let (now, lit, wall) = (cx.now(), cx.at.lit, cx.at.wall_ms);
        match self.participant.due(cx.past, now, lit, wall)? {
            Due::Renew(renewal) => {
                let id = self.send(cx, renewal);
                self.keeping.as_mut()?.last_sent = now;
                Some(id)
            }
            Due::Expired(quit) => {
                let reason = self.reason_by_time(now);
                self.lose(cx, reason, quit);
                None
            }
        }
    }

    /// What came of a renewal, or of the claim.
    pub(super) fn renewed(
        &mut self,
        cx: &mut Context<'_>,
        sent: Sent,
        command: &Command,
        answer: Option<Outcome>,
    ) {
        let (Command::Renew { who, .. } | Command::Claim { who, .. }) = command else {
            return;
        };
        let (beat, now) = (self.heartbeat(), cx.now());
        let Some(keeping) = self.present(LeaseId(who.request)) else {
            return;
        };
        let was_it = keeping.renewal.take_if(|id| *id == sent.id).is_some();
        let Some(outcome) = answer else {
            keeping.store_failed = true;
            if was_it {
                // There is time for another try while the lease is good.
                keeping.next_beat = keeping
                    .next_beat
                    .map(|next| next.min(sent.at + beat).max(now));
            }
            return self.participant.renewal_failed();
        };
        match self
            .participant
            .renewed(cx.past, command, sent.at, now, &outcome)
        {
            Renewed::Until(_) => {
                let half = sent.at + Duration::from_millis(self.lease_ms.into()) / 2;
                if let Some(keeping) = &mut self.keeping {
                    keeping.store_failed = false;
                    // A store that is slow, perhaps by what is renewed, is left alone for as long as it took.
                    let rested = (now + now.saturating_sub(sent.at)).min(half);
                    keeping.next_beat = keeping.next_beat.map(|next| next.max(rested));
                }
                self.tell_head(cx);
            }
            Renewed::Late(quit) => {
                let reason = self.reason_by_time(now);
                self.lose(cx, reason, quit);
            }
            Renewed::Lost(quit) => self.lose(cx, LossReason::Superseded, quit),
            Renewed::Stale => {}
        }
    }

    pub(super) fn fence_refused(&mut self, cx: &mut Context<'_>, lease: &Fence) {
        if let Some(quit) = self.participant.fence_refused(cx.past, lease) {
            self.lose(cx, LossReason::Superseded, quit);
        }
    }

    /// Tells of a lease that has run out, and of those given up long ago.
    pub(super) fn expire(&mut self, cx: &mut Context<'_>) {
        let now = cx.now();
        if self.participant.holding(now).is_none() && self.keeping.is_some() {
            let reason = self.reason_by_time(now);
            self.end_lease(cx, reason);
        }
        self.part(cx, |parting| parting.until <= now);
    }

    /// Why a lease that ran out did: the store has failed, or does not answer in time; else this tab was
    /// stopped for too long.
    fn reason_by_time(&self, now: Now) -> LossReason {
        let in_time = self
            .good_until()
            .is_some_and(|end| now < end + self.heartbeat());
        let failed =
            |keeping: &Keeping| keeping.store_failed || keeping.renewal.is_some() && in_time;
        if self.keeping.as_ref().is_some_and(failed) {
            LossReason::StoreFailed
        } else {
            LossReason::Expired
        }
    }

    /// The lease is over now, for that reason, whatever the store says.
    pub(super) fn end_lease(&mut self, cx: &mut Context<'_>, reason: LossReason) {
        if self.keeping.is_some()
            && let Some(quit) = self.participant.end(cx.past)
        {
            self.lose(cx, reason, quit);
        }
    }

    /// The lease is lost: its guards are told at once, the store in its time.
    pub(super) fn lose(&mut self, cx: &mut Context<'_>, reason: LossReason, quit: Command) {
        if let Some(keeping) = self.keeping.take() {
            cx.act(Action::Lose(keeping.lease, reason));
        }
        self.send(cx, quit);
    }

    pub(super) fn fired(&mut self, cx: &mut Context<'_>, timer: Timer) {
        if self.due_at(timer).is_none() {
            return;
        }
        match timer {
            Timer::Expiry => self.expire(cx),
            Timer::Beat => self.beat(cx),
            Timer::BeatBehind => _ = self.send_renewal(cx),
            Timer::Linger => {
                if let Some(keeping) = &mut self.keeping {
                    keeping.linger = Linger::Over;
                }
            }
            Timer::Look => self.look(cx.now()),
            Timer::Pass => self.pass(cx),
            Timer::Reply => self.replied(cx, false),
            Timer::Beacon => self.beacon = super::Beacon::Settled,
            Timer::Deadline => self.time_out(cx),
        }
    }

    pub(super) fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat_ms.into())
    }
}
