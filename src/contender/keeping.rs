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

use super::{Action, CallId, Contender, Context, End, LeaseId, SendId, Sent, Timer};
use crate::error::LossReason;
use crate::message::Message;
use crate::participant::{Due, Grant, Holding, Now, Release, Renewed};
use crate::rules::{Command, Fence, Outcome};
use crate::time::Duration;

/// After a lease was handed on by a message, wait this long, in ms, before writing the [`Command::Pass`]:
/// by then the receiver's [`Command::Claim`] has usually landed, and no pass is needed.
const PASS_AFTER_MS: u64 = 10;

/// How often a lease that is longer than usual is renewed within its length: two renewals in a row may be
/// late or fail.
pub(super) const LONG_BEATS: u32 = 3;

/// A lease that is held here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Keeping {
    pub(super) lease: LeaseId,
    pub(super) epoch: u64,
    pub(super) token: u64,
    pub(super) guards: u32,
    /// Whether a guard that is made now says that another holder had the lock. The first guards say what the
    /// lease began with. A guard that takes a lingering lease says no: no other tab can have had it.
    pub(super) dirty: bool,
    /// A caller has got its guard.
    pub(super) told: bool,
    /// When to renew next. `None` before the first claim of a lease that began by a message.
    pub(super) next_beat: Option<Now>,
    /// The renewal that the next beat waits for.
    pub(super) renewal: Option<SendId>,
    /// When the latest renewal was sent.
    pub(super) last_sent: Now,
    /// A renewal has failed, and none has succeeded since.
    pub(super) store_failed: bool,
    pub(super) linger: Linger,
}

/// A lease that nobody uses stays for a beat, if nobody wants it: taking it again costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Linger {
    /// The lease is in use.
    No,
    Until(Now),
    /// The lease has stayed for long enough.
    Over,
}

/// A lease that was given up by a quit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parting {
    pub(super) lease: LeaseId,
    pub(super) quit: SendId,
    /// By then the lease has expired, whether the store was told or not.
    pub(super) until: Now,
}

/// A lease that was handed on by a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Passing {
    pub(super) grant: Grant,
    pub(super) pass: Command,
    /// The pass that is on its way.
    pub(super) sent: Option<SendId>,
    /// When to send a pass, if none is on its way.
    pub(super) next: Now,
    /// After that a pass cannot matter any more.
    pub(super) until: Now,
}

impl Keeping {
    /// Makes the next renewal due now. Not for a lease that is yet to be claimed: the claim comes first.
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
    /// A lease begins. All calls that wait here share it.
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
        });
        self.share_with_all(cx);
        if claims {
            // The lease is good already, so its callers go on first.
            cx.act(Action::StepAside(lease));
        }
    }

    /// Settles a call with a guard of the present lease.
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

    /// A caller has got its guard.
    pub(super) fn on_told(&mut self, cx: &mut Context<'_>, lease: LeaseId) {
        if let Some(keeping) = self.present(lease) {
            keeping.told = true;
            cx.past.told();
        }
    }

    /// A guard has made another one.
    pub(super) fn on_shared(&mut self, lease: LeaseId) {
        if let Some(keeping) = self.present(lease) {
            keeping.guards += 1;
        }
    }

    pub(super) fn on_guard_dropped(&mut self, lease: LeaseId) {
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
            // A call of this tab was faster than those who try elsewhere.
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
        if self.participant.is_too_long(cx.now()) && !renews {
            // Due, not sent: hundreds of names may be wanted at once, and their renewals leave together.
            if let Some(next) = self.keeping.as_mut().and_then(|k| k.next_beat.as_mut()) {
                *next = cx.now().min(*next);
            }
        }
    }

    /// How soon the next renewal follows one that is sent now.
    fn pace(&self) -> Duration {
        let long = self.participant.long().map(|long| long / LONG_BEATS);
        self.heartbeat().max(long.unwrap_or_default())
    }

    fn linger(&mut self, cx: &mut Context<'_>, lease: LeaseId) {
        let until = cx.now() + self.heartbeat();
        if let Some(keeping) = self.present(lease) {
            keeping.linger = Linger::Until(until);
            cx.act(Action::Linger(lease));
        }
    }

    /// Gives the lease up: by a message, if that is sound.
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

    /// Whether a lease or a request of this lock object is just being given up.
    pub(super) fn is_leaving(&self) -> bool {
        self.passing.is_some() || self.sent.iter().any(|sent| sent.leaves)
    }

    /// Tells those who only try whether the lock was freed for them.
    pub(super) fn answer_tries(&mut self, cx: &mut Context<'_>, free: bool) {
        for to in std::mem::take(&mut self.tries) {
            cx.act(Action::Post(Message::Reply { to, free }));
        }
    }

    /// The answer to a quit, or to a pass. Nothing: the command has failed.
    pub(super) fn on_gone(
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
        // After a failure the next take of this tab says it again, and for all other tabs the lease expires.
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

    /// Forgets the partings that are over, and tells those who wait for these releases.
    fn part(&mut self, cx: &mut Context<'_>, is_gone: impl Fn(&Parting) -> bool) {
        self.partings.retain(|parting| {
            let is_gone = is_gone(parting);
            if is_gone {
                cx.act(Action::Released(parting.lease));
            }
            !is_gone
        });
    }

    /// Sends the pass of a lease that was handed on, if the receiver is not known to have claimed it.
    fn pass(&mut self, cx: &mut Context<'_>) {
        let Some(mut passing) = self.passing.take() else {
            return;
        };
        if cx.past.must_pass(&passing.grant) {
            passing.sent = Some(self.send(cx, passing.pass.clone()));
            self.passing = Some(passing);
        }
    }

    /// The callers have run. Now the store is told.
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
        let pace = self.pace();
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

    /// The answer to a renewal, or to the claim. Nothing: the command has failed.
    pub(super) fn on_renewed(
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
                if let Some(keeping) = &mut self.keeping {
                    keeping.store_failed = false;
                }
            }
            Renewed::Late(quit) => {
                let reason = self.reason_by_time(now);
                self.lose(cx, reason, quit);
            }
            Renewed::Lost(quit) => self.lose(cx, LossReason::Superseded, quit),
            Renewed::Stale => {}
        }
    }

    pub(super) fn on_fence_refused(&mut self, cx: &mut Context<'_>, lease: &Fence) {
        if let Some(quit) = self.participant.fence_refused(cx.past, lease) {
            self.lose(cx, LossReason::Superseded, quit);
        }
    }

    /// Ends a lease that has expired, and the partings whose leases have.
    pub(super) fn expire(&mut self, cx: &mut Context<'_>) {
        let now = cx.now();
        if self.participant.holding(now).is_none() && self.keeping.is_some() {
            let reason = self.reason_by_time(now);
            self.end_lease(cx, reason);
        }
        self.part(cx, |parting| parting.until <= now);
    }

    /// Why a lease has expired: the store has failed, or does not answer in time. If neither is so, this tab
    /// was stopped for too long.
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

    /// Ends the lease now, for `reason`, without asking the store.
    pub(super) fn end_lease(&mut self, cx: &mut Context<'_>, reason: LossReason) {
        if self.keeping.is_some()
            && let Some(quit) = self.participant.end(cx.past)
        {
            self.lose(cx, reason, quit);
        }
    }

    /// Ends a lease that is lost. Its guards are told at once, the store in its time.
    pub(super) fn lose(&mut self, cx: &mut Context<'_>, reason: LossReason, quit: Command) {
        if let Some(keeping) = self.keeping.take() {
            cx.act(Action::Lose(keeping.lease, reason));
        }
        self.send(cx, quit);
    }

    pub(super) fn on_fired(&mut self, cx: &mut Context<'_>, timer: Timer) {
        if self.due_at(timer).is_none() {
            return;
        }
        match timer {
            Timer::Expiry => self.expire(cx),
            Timer::Beat => self.renew(cx),
            Timer::BeatBehind => _ = self.send_renewal(cx),
            Timer::Linger => {
                if let Some(keeping) = &mut self.keeping {
                    keeping.linger = Linger::Over;
                }
            }
            Timer::Look => self.look(cx.now()),
            Timer::Pass => self.pass(cx),
            Timer::Reply => self.on_reply(cx, false),
            Timer::Beacon => self.beacon = super::Beacon::Settled,
            Timer::Deadline => self.time_out(cx),
        }
    }

    pub(super) fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat_ms.into())
    }
}
