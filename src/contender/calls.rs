//! The calls of this tab: who asks, who rests, who is held back, and how each is settled.
//!
//! All calls share one request. One take is on its way at a time, and its answer is good for every call
//! that asked before it was sent; whoever asks later needs another one. So a thousand calls cause as many
//! takes as one does.

use std::time::Duration;

use super::{Action, CallId, Contender, Context, End, Patience, Seen, SendId, Sent, Timer};
use crate::error::LossReason;
use crate::message::Message;
use crate::participant::{Ask, Beat, Now, Taken};
use crate::rules::{Command, Outcome, Take};
use crate::turns::{HeldBack, Turn};

/// How long the first take waits at most for the beacon, in ms: nobody may go by a beacon that was not
/// held yet when the record was written. In a browser it takes one.
const BEACON_PATIENCE_MS: u64 = 100;

/// Whether it is known if this tab's beacon is going to be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beacon {
    Unknown,
    /// A take waits for it.
    AwaitedUntil(Now),
    Settled,
}

/// A call that has not been settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) id: CallId,
    pub(super) patience: Patience,
    pub(super) step: Step,
    /// How often the store has refused it.
    pub(super) refusals: u32,
    /// Its last answer came when the lease was over already.
    pub(super) late: bool,
    /// The take that was sent for it.
    pub(super) sent: Option<SendId>,
    pub(super) held_back: Option<HeldBack>,
}

/// What a call does now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It shares the lease that is held here, if it may; else it asks.
    Comes,
    /// The lease is held here, but another tab is next: until then at most.
    HeldBackUntil(Now),
    /// It wants an answer to a take that is sent from this one on.
    Asks(SendId),
    /// It asks again after a pause.
    Rests { since: Now, pause: Duration },
    /// A try: the holder may let go of the lease for it.
    AwaitsReply { until: Now },
}

impl Call {
    pub(super) fn new(id: CallId, patience: Patience) -> Self {
        Self {
            id,
            patience,
            step: Step::Comes,
            refusals: 0,
            late: false,
            sent: None,
            held_back: None,
        }
    }

    fn asks(&self) -> bool {
        matches!(self.step, Step::Asks(_))
    }

    /// Whether an answer to that take is one to this call.
    fn asked_before(&self, take: SendId) -> bool {
        matches!(self.step, Step::Asks(from) if from <= take)
    }

    /// It asks, and waits in the queue for the lock.
    pub(super) fn wants_to_queue(&self) -> bool {
        self.asks() && !self.tries()
    }

    fn tries(&self) -> bool {
        self.patience == Patience::Try
    }

    pub(super) fn looks_at(&self) -> Option<Now> {
        match self.step {
            Step::Rests { since, pause } => Some(since + pause),
            Step::HeldBackUntil(until) => Some(until),
            _ => None,
        }
    }

    pub(super) fn waits_for_reply_until(&self) -> Option<Now> {
        match self.step {
            Step::AwaitsReply { until } => Some(until),
            _ => None,
        }
    }

    pub(super) fn deadline(&self) -> Option<Now> {
        match self.patience {
            Patience::Until(deadline) => deadline,
            _ => None,
        }
    }

    fn rest(&mut self, since: Now, pause: Duration, cut: Option<Duration>) {
        let pause = cut.map_or(pause, |cut| cut.min(pause));
        self.step = Step::Rests { since, pause };
    }

    /// Whether it is worth while to watch the beacon of whoever is before it: a lock that moves on at once
    /// is not.
    fn watches(&self) -> bool {
        match self.step {
            Step::AwaitsReply { .. } => true,
            _ => !self.tries() && self.refusals > 1,
        }
    }
}

impl Contender {
    /// Calls that share the lease, if there is one and it is not somebody else's turn.
    pub(super) fn admit(&mut self, cx: &mut Context<'_>) {
        let from = SendId(self.next_send);
        let mut calls = std::mem::take(&mut self.calls);
        calls.retain_mut(|call| {
            if !matches!(call.step, Step::Comes | Step::HeldBackUntil(_)) {
                return true;
            }
            if self.keeping.is_none() {
                call.step = Step::Asks(from);
                return true;
            }
            let next = self.participant.next();
            match self.turns.turn(&mut call.held_back, next, cx.now()) {
                Turn::Share => self.share(cx, call.id),
                Turn::Wait(_) if call.tries() => settle(cx, call.id, End::Busy),
                Turn::Wait(until) => {
                    call.step = Step::HeldBackUntil(until);
                    return true;
                }
            }
            false
        });
        self.calls = calls;
    }

    /// The lease begins: all who wait share it, they are no more than there were.
    pub(super) fn share_with_all(&mut self, cx: &mut Context<'_>) {
        for call in std::mem::take(&mut self.calls) {
            self.share(cx, call.id);
        }
    }

    /// Calls that rest ask now.
    pub(super) fn rouse(&mut self) {
        let from = SendId(self.next_send);
        for call in &mut self.calls {
            if matches!(call.step, Step::Rests { .. }) {
                call.step = Step::Asks(from);
            }
        }
    }

    /// All calls that do not share a lease ask from now on.
    pub(super) fn ask_anew(&mut self) {
        let from = SendId(self.next_send);
        for call in &mut self.calls {
            call.step = Step::Asks(from);
            call.sent = None;
        }
    }

    /// A request without callers, and without a lease, is over.
    pub(super) fn give_up(&mut self, cx: &mut Context<'_>) {
        let quit = self.participant.end(cx.past);
        if let Some(Command::Quit { who }) = &quit {
            // Or the holder would hand the lock to nobody.
            cx.act(Action::Post(Message::Gone(who.clone())));
        }
        if let Some(quit) = quit {
            self.send(cx, quit);
        }
    }

    /// Sends a take, if a call wants an answer and none is on its way.
    pub(super) fn ask(&mut self, cx: &mut Context<'_>) {
        let present = self.participant.request();
        let under_way = self.take.is_some_and(|(_, of)| Some(of) == present);
        if self.keeping.is_some() || self.suspended || under_way {
            return;
        }
        let join = cx.at.may_queue && self.calls.iter().any(Call::wants_to_queue);
        // Else it waits for a place.
        let asks = |call: &Call| call.asks() && (join || call.tries());
        if !self.calls.iter().any(asks) || !self.knows_its_beacon(cx) {
            return;
        }
        let ask = Ask {
            request: cx.at.fresh_request,
            join,
            beacon: cx.at.lit,
            fresh_epoch: cx.at.fresh_epoch,
            wall: cx.at.wall_ms,
        };
        let changed = std::mem::take(&mut self.changed);
        let look = self.participant.look(cx.past, cx.now(), ask);
        let (id, request) = if let Some(take) = look.filter(|_| !changed) {
            let request = take.who.request;
            (self.send_look(cx, take), request)
        } else {
            let take = self.participant.take(cx.past, cx.now(), ask);
            let request = take.who.request;
            (self.send(cx, Command::Take(take)), request)
        };
        self.take = Some((id, request));
        if let Some(call) = self.calls.iter_mut().find(|call| asks(call)) {
            call.sent = Some(id);
        }
    }

    fn knows_its_beacon(&mut self, cx: &Context<'_>) -> bool {
        if cx.at.lit || !self.around.beacons {
            return true;
        }
        if self.beacon == Beacon::Unknown {
            let patience = Duration::from_millis(BEACON_PATIENCE_MS);
            self.beacon = Beacon::AwaitedUntil(cx.now() + patience);
        }
        self.beacon == Beacon::Settled
    }

    /// What came of a take.
    pub(super) fn taken(
        &mut self,
        cx: &mut Context<'_>,
        sent: Sent,
        take: &Take,
        answer: Option<Outcome>,
    ) {
        self.take = self.take.filter(|(id, _)| *id != sent.id);
        let Some(outcome) = answer else {
            self.participant.failed(take);
            return self.ask_failed(cx, sent.id);
        };
        let (at, now) = (sent.at, cx.now());
        let taken = self.participant.taken(cx.past, take, at, now, &outcome);
        self.has_asked(cx, sent, take, taken);
    }

    /// What came of a look.
    pub(super) fn looked(&mut self, cx: &mut Context<'_>, id: SendId, take: &Take, seen: Seen) {
        let Some(sent) = self.take_sent(id) else {
            return;
        };
        self.take = self.take.filter(|(id, _)| *id != sent.id);
        match seen {
            Seen::Waiting(waiting) => {
                let (at, now) = (sent.at, cx.now());
                let looked = self.participant.looked(cx.past, take, at, now, &waiting);
                self.has_asked(cx, sent, take, looked);
            }
            // Those who asked still do.
            Seen::Change => self.changed = self.participant.is_asking(&take.who),
            Seen::Nothing => self.ask_failed(cx, id),
        }
    }

    /// The call that sent this is over; the others ask for themselves.
    fn ask_failed(&mut self, cx: &mut Context<'_>, id: SendId) {
        if let Some(place) = self.calls.iter().position(|call| call.sent == Some(id)) {
            let call = self.calls.remove(place);
            settle(cx, call.id, End::StoreFailed(id));
        }
    }

    fn has_asked(&mut self, cx: &mut Context<'_>, sent: Sent, take: &Take, taken: Taken) {
        match taken {
            Taken::Held(holding) => self.begin(cx, holding),
            Taken::Busy => self.refused(cx, sent.id, take, false),
            Taken::Late => self.refused(cx, sent.id, take, true),
            Taken::Lost(quit) => self.lose(cx, LossReason::Superseded, quit),
            Taken::Ghost(quit) => _ = self.send(cx, quit),
            Taken::Confirmed | Taken::Stale => {}
        }
    }

    /// The calls that asked before that take was sent have an answer: somebody else has the lease, or
    /// (`late`) it was over before it began.
    fn refused(&mut self, cx: &mut Context<'_>, id: SendId, take: &Take, late: bool) {
        let want = self.participant.want().filter(|_| self.around.speaks);
        let suspect = self.participant.suspect().filter(|_| self.around.beacons);
        let told = suspect.is_some_and(|tab| (cx.at.would_tell)(tab));
        let refusal = Refusal {
            now: cx.now(),
            from: SendId(self.next_send),
            late,
            may_change: suspect.is_some() || want.as_ref().is_some_and(|want| !want.queued),
            ripe_in: self.participant.ripe_in(cx.now()),
            look_in: self.participant.look_in(cx.now(), told, self.around.speaks),
        };
        if let Some(want) = want.filter(|want| !want.queued || !self.calls.iter().all(Call::tries))
        {
            cx.act(Action::Post(Message::Want(want)));
        }
        let mut calls = std::mem::take(&mut self.calls);
        calls.retain_mut(|call| {
            let end = if !take.join && call.wants_to_queue() {
                // It was sent for those who only try.
                None
            } else if call.asked_before(id) {
                self.refuse(call, &refusal)
            } else {
                self.rest_on(call, &refusal);
                None
            };
            end.is_none_or(|end| {
                settle(cx, call.id, end);
                false
            })
        });
        self.calls = calls;
    }

    /// What a call does that has been refused, or how it ends by that.
    fn refuse(&self, call: &mut Call, refusal: &Refusal) -> Option<End> {
        call.sent = None;
        // Once late is a pause of this process. Twice, the store is slower than the lease, or the lease is
        // shorter than the margin; whoever goes on asking pauses first.
        if refusal.late && !call.late {
            call.late = true;
            call.step = Step::Asks(refusal.from);
            return None;
        }
        call.late = false;
        call.refusals += 1;
        let pause = self.pause(call);
        match call.patience {
            Patience::Try if call.refusals == 1 && refusal.may_change => {
                let until = refusal.now + self.heartbeat();
                call.step = Step::AwaitsReply { until };
            }
            Patience::Try => return Some(End::Busy),
            Patience::Spin { longest_ms } if pause > millis(longest_ms) => {
                return Some(End::TimedOut);
            }
            Patience::Spin { .. } => call.rest(refusal.now, pause, refusal.ripe_in),
            Patience::Until(_) => call.rest(refusal.now, pause, refusal.look_in),
        }
        None
    }

    /// A look of others is one also of a call that rests: else each would look for itself. One that spins
    /// counts its own.
    fn rest_on(&self, call: &mut Call, refusal: &Refusal) {
        let rests = matches!(call.step, Step::Rests { .. });
        if rests && matches!(call.patience, Patience::Until(_)) {
            call.rest(refusal.now, self.pause(call), refusal.look_in);
        }
    }

    /// The pause after the latest refusal: each is twice the one before.
    fn pause(&self, call: &Call) -> Duration {
        let doubled = 1_u32.checked_shl(call.refusals.saturating_sub(1));
        let pause = doubled.and_then(|doubled| self.first_pause_ms.checked_mul(doubled));
        let pause = pause.unwrap_or(u32::MAX);
        match call.patience {
            Patience::Until(_) => millis(pause.min(self.longest_pause_ms)),
            _ => millis(pause),
        }
    }

    /// Calls whose pause is over by `now` look again, unless they have heard that the lock goes on.
    pub(super) fn look(&mut self, now: Now) {
        let from = SendId(self.next_send);
        let first = self.due_at(Timer::Look).unwrap_or_default();
        let look_in = self.participant.look_in(now, false, self.around.speaks);
        for call in &mut self.calls {
            let Step::Rests { since, pause } = call.step else {
                continue;
            };
            if since + pause > now.max(first) {
                continue;
            }
            // No pause at all: there is a reason to ask now, and resting would spin.
            let moves = !pause.is_zero() && self.participant.is_moving(since, now);
            if moves && matches!(call.patience, Patience::Until(_)) {
                call.rest(now, pause, look_in);
            } else {
                call.step = Step::Asks(from);
            }
        }
    }

    /// The lock has gone on: whoever is next by that looks as soon as the first in the queue does.
    pub(super) fn hasten(&mut self, now: Now) {
        if !self.participant.is_next() {
            return;
        }
        let look_in = self.participant.look_in(now, false, self.around.speaks);
        for call in &mut self.calls {
            if let Step::Rests { since, pause } = call.step
                && matches!(call.patience, Patience::Until(_))
                && look_in.is_some_and(|soon| now + soon < since + pause)
            {
                call.rest(now, pause, look_in);
            }
        }
    }

    /// The holder goes by what this tab answers. Until it has said nothing for a while there is nothing to see.
    pub(super) fn beaten(&mut self, cx: &mut Context<'_>, beat: &Beat) {
        let Some(heed) = self.participant.beaten(cx.now(), beat) else {
            return;
        };
        cx.act(Action::Post(Message::Heed(heed)));
        let look_in = self.participant.look_in(cx.now(), true, self.around.speaks);
        for call in &mut self.calls {
            if matches!(call.step, Step::Rests { .. })
                && matches!(call.patience, Patience::Until(_))
            {
                call.rest(cx.now(), millis(self.longest_pause_ms), look_in);
            }
        }
    }

    /// The holder has answered those who only try.
    pub(super) fn replied(&mut self, cx: &mut Context<'_>, free: bool) {
        let from = SendId(self.next_send);
        self.calls.retain_mut(|call| {
            if !matches!(call.step, Step::AwaitsReply { .. }) {
                return true;
            }
            if !free {
                settle(cx, call.id, End::Busy);
            }
            call.step = Step::Asks(from);
            free
        });
    }

    /// The beacon of whoever is before this tab went out.
    pub(super) fn died(&mut self, cx: &mut Context<'_>, tab: &str) {
        if self.watched.as_deref() != Some(tab) {
            return;
        }
        self.watched = None;
        self.participant.died(tab);
        let is_next = self.participant.suspect().is_none();
        self.replied(cx, is_next);
        self.rouse();
    }

    /// Those whose deadline is over by now.
    pub(super) fn time_out(&mut self, cx: &mut Context<'_>) {
        let first = self.due_at(Timer::Deadline).unwrap_or_default();
        let now = cx.now().max(first);
        self.calls.retain(|call| {
            let waits = call.deadline().is_none_or(|deadline| deadline > now);
            if !waits {
                settle(cx, call.id, End::TimedOut);
            }
            waits
        });
    }

    /// Watches the beacon of whoever is before this tab, if a call is worth it, and no other.
    pub(super) fn watch(&mut self, cx: &mut Context<'_>) {
        let watches = self.around.beacons && self.calls.iter().any(Call::watches);
        let suspect = self.participant.suspect().filter(|_| watches);
        if suspect != self.watched.as_deref() {
            self.watched = suspect.map(str::to_owned);
            cx.act(Action::Watch(self.watched.clone()));
        }
    }
}

/// What a refusal means to a call.
struct Refusal {
    now: Now,
    /// Takes from this one on are new.
    from: SendId,
    late: bool,
    /// A message or a beacon may tell soon that it is free.
    may_change: bool,
    /// How long the lease must still stand still, and how soon to look at it closely.
    ripe_in: Option<Duration>,
    look_in: Option<Duration>,
}

fn settle(cx: &mut Context<'_>, call: CallId, end: End) {
    cx.act(Action::Settle { call, end });
}

fn millis(ms: u32) -> Duration {
    Duration::from_millis(ms.into())
}
