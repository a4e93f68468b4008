//! Holding: until when the lease is good, which waiter is next, which fenced transactions are open, and how
//! the lease is given up.

use crate::time::Duration;

use super::asking::Request;
use super::{
    Due, Grant, Holding, Lens, Now, Participant, Past, Release, Renewed, State, Want, Wanted,
    micros, millis,
};
use crate::rules::{Command, Fence, Outcome, Requester, Waiter};

/// The lease that is held, and what goes with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tenure {
    pub(super) request: Request,
    pub(super) holding: Holding,
    /// Who gave the lease, if it started by a message.
    giver: Option<Requester>,
    /// How many fenced transactions have begun and not ended.
    fences: u32,
    /// How many fenced transactions hold up the store: their check has passed, and they have not ended.
    open_fences: u32,
    /// Until when the renewal that was sent last makes the lease good, answered or not. Only if a fenced
    /// transaction held up the store when a renewal was sent.
    sent_until: Option<Now>,
    /// The head of the queue.
    head: Option<Head>,
}

/// The head of the queue, as a holder last heard of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Head {
    who: Requester,
    len: u32,
    /// A stamp on the waiter's clock.
    at: Now,
    /// When this stamp was first read here.
    read: Now,
    /// Since when the waiter has been known by a message of its own, so that its leaving will be heard, too.
    heard: Option<Now>,
    /// The waiter was read in the record, as the head under the token that is held.
    vouched: bool,
}

impl Tenure {
    pub(super) fn new(request: Request, holding: Holding, giver: Option<Requester>) -> Self {
        Self {
            request: Request {
                known: true,
                ..request
            },
            holding,
            giver,
            fences: 0,
            open_fences: 0,
            sent_until: None,
            head: None,
        }
    }

    /// Until when the lease is good. The margin is not taken off.
    fn until(&self) -> Now {
        let until = self.holding.until;
        self.sent_until.map_or(until, |sent| sent.max(until))
    }

    /// Who still holds the lease in the record, as far as is known: its giver, until the claim is confirmed.
    fn unclaimed_of(&self) -> Option<&Requester> {
        self.giver.as_ref().filter(|_| !self.holding.confirmed)
    }

    fn is(&self, epoch: u64, token: u64) -> bool {
        (self.holding.epoch, self.holding.token) == (epoch, token)
    }

    /// The lease is good until `until` at most, as far as answers and the giver say.
    fn cut(&mut self, until: Now) {
        self.holding.until = self.holding.until.min(until);
    }

    /// The store has confirmed a lease of `len` ms that was asked for at `sent`.
    pub(super) fn extend(&mut self, sent: Now, now: Now, len: u32, head: Option<&Waiter>) {
        self.holding.confirmed = true;
        // A long lease that was asked for before a shorter one must not undo that.
        let len = len.min(self.holding.len);
        self.holding.until = self.holding.until.max(sent + millis(len));
        self.hear_of_head(sent, now, head);
    }

    /// What the record, as it was asked for at `sent`, says of the head of its queue. A head that was heard
    /// of after that stays, if the record names none.
    pub(super) fn hear_of_head(&mut self, sent: Now, now: Now, head: Option<&Waiter>) {
        let known = self.head.take();
        let Some(head) = head else {
            self.head = known.filter(|head| head.read >= sent);
            return;
        };
        let at = Duration::from_micros(head.at);
        let known = known.filter(|known| known.who == head.who);
        let heard = known.as_ref().and_then(|known| known.heard);
        // A known stamp counts from when it was first read. A later stamp counts from now.
        let (at, read) = match known {
            Some(known) if known.at >= at => (known.at, known.read),
            _ => (at, now),
        };
        self.head = Some(Head {
            who: head.who.clone(),
            len: head.len,
            at,
            read,
            heard,
            vouched: true,
        });
    }
}

impl Participant {
    fn tenure(&self) -> Option<&Tenure> {
        match &self.state {
            State::Holding(tenure) => Some(tenure),
            State::Idle(_) | State::Asking(_) => None,
        }
    }

    fn tenure_mut(&mut self) -> Option<&mut Tenure> {
        match &mut self.state {
            State::Holding(tenure) => Some(tenure),
            State::Idle(_) | State::Asking(_) => None,
        }
    }

    /// The lease held, if it is still good. A lease that has expired is reported by [`Participant::due`].
    #[must_use]
    pub fn holding(&self, now: Now) -> Option<Holding> {
        let tenure = self.tenure()?;
        (now + self.margin < tenure.until()).then_some(tenure.holding)
    }

    /// When the lease held expires for its holder: the margin is taken off.
    #[must_use]
    pub fn good_until(&self) -> Option<Now> {
        let tenure = self.tenure()?;
        Some(tenure.until().saturating_sub(self.margin))
    }

    /// The length that the latest renewal asked for, if it is longer than usual. Such a lease needs fewer
    /// renewals.
    #[must_use]
    pub fn long(&self) -> Option<Duration> {
        let len = self.tenure()?.holding.len;
        (len > self.lens.usual).then(|| millis(len))
    }

    /// Whether the lease held is longer than a waiter should have to wait.
    #[must_use]
    pub fn is_too_long(&self, now: Now) -> bool {
        let longest = self.lease_ms().max(self.longest(now));
        self.tenure()
            .is_some_and(|tenure| tenure.holding.len > longest)
    }

    /// How long the lease held may become, in ms. It may be longer than usual while no tab waits, or while
    /// the same request has waited for long. That request must be known by a message of its own, so that its
    /// leaving will be heard.
    fn longest(&self, now: Now) -> u32 {
        let Lens {
            usual,
            steady,
            idle,
            ..
        } = self.lens;
        let head = self.tenure().and_then(|tenure| tenure.head.as_ref());
        match head {
            None => idle,
            Some(Head {
                heard: Some(since), ..
            }) if now >= *since + millis(steady) => steady,
            Some(_) => usual,
        }
    }

    /// Whether a lease is held whose claim the store has not confirmed yet.
    #[must_use]
    pub fn is_unclaimed(&self) -> bool {
        self.tenure()
            .is_some_and(|tenure| !tenure.holding.confirmed)
    }

    /// Whether a tab waits for the lease held, as far as is known.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.next().is_some()
    }

    /// The head of the queue, as far as is known.
    #[must_use]
    pub fn next(&self) -> Option<&Requester> {
        Some(&self.tenure()?.head.as_ref()?.who)
    }

    /// What the heartbeat has to do now. `None` if no lease is held. `beacon`: whether this tab holds its
    /// beacon.
    ///
    /// With a beacon, and while no request comes or goes, each renewal asks for two sevenths more than the
    /// one before, up to the longest that may be (`longest`). There are three renewals in a lease, so
    /// the lease stays a little shorter than the time for which nothing has happened. The longer that time
    /// is, the fewer renewals are needed. A tab that crashes soon after it began leaves a short lease: that
    /// costs little to a tab that was opened later, and has not seen the beacon.
    pub fn due(&mut self, past: &mut Past, now: Now, beacon: bool, wall: u64) -> Option<Due> {
        let request = self.tenure()?.request;
        if self.holding(now).is_none() {
            return self.end(past).map(Due::Expired);
        }
        let who = self.requester(request.id);
        let (mut len, longest, held_up) =
            (self.lease_ms(), self.longest(now), self.is_held_up(now));
        let tenure = self.tenure_mut()?;
        let giver = tenure.unclaimed_of().cloned();
        if giver.is_none() && beacon {
            let longer = tenure.holding.len + (tenure.holding.len * 2 / 7).max(1);
            len = len.max(longer.min(longest));
        }
        let until = now + millis(len);
        // From now on the lease is no longer than this renewal asks for. It may have been longer: by what was
        // asked for long ago when it was granted, or by what the giver said.
        tenure.cut(until);
        tenure.holding.len = len;
        tenure.sent_until = if held_up {
            Some(until)
        } else {
            tenure.sent_until.map(|sent| sent.min(until))
        };
        let token = tenure.holding.token;
        Some(Due::Renew(match giver {
            Some(from) => Command::Claim {
                who,
                token,
                from,
                len,
                beacon,
                wall,
            },
            None => Command::Renew {
                who,
                token,
                len,
                beacon,
            },
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
        let (margin, good) = (self.margin, self.holding(now).is_some());
        let ours = |tenure: &&mut Tenure| {
            (tenure.request.id, tenure.holding.token) == (who.request, *token)
        };
        let Some(tenure) = self.tenure_mut().filter(ours) else {
            return Renewed::Stale;
        };
        match outcome {
            Outcome::Held(held) if good => {
                past.see(held.epoch, held.token);
                tenure.extend(sent, now, *len, held.head.as_ref());
                Renewed::Until(tenure.until().saturating_sub(margin))
            }
            Outcome::Held(_) => self.end(past).map_or(Renewed::Stale, Renewed::Late),
            _ => self.end(past).map_or(Renewed::Stale, Renewed::Lost),
        }
    }

    /// A renewal or claim has failed, and may not have been applied. Only what was answered counts now.
    pub fn renewal_failed(&mut self) {
        if let Some(tenure) = self.tenure_mut() {
            tenure.sent_until = None;
        }
    }

    /// A fenced transaction begins. Answers with what it has to check, if a lease is held. Each fenced
    /// transaction ends by a [`Participant::fence_over`]; until then the lease is not handed over by a
    /// message: see [`Participant::release`].
    ///
    /// The transaction may run before the claim of a lease that began by a message. Then it writes the claim
    /// down itself.
    pub fn fence(&mut self, now: Now, beacon: bool, wall: u64) -> Option<Fence> {
        let Holding { epoch, token, .. } = self.holding(now)?;
        let who = self.requester(self.request()?);
        let len = self.lease_ms();
        let tenure = self.tenure_mut()?;
        tenure.fences += 1;
        let claim = tenure.unclaimed_of().map(|from| Command::Claim {
            who: who.clone(),
            token,
            from: from.clone(),
            len,
            beacon,
            wall,
        });
        if claim.is_some() {
            tenure.cut(now + millis(len));
        }
        Some(Fence {
            who,
            token,
            epoch,
            claim,
        })
    }

    /// The check of a fenced transaction has passed. From now until the transaction is over it holds the
    /// store up.
    pub fn fence_passed(&mut self, lease: &Fence) {
        if let Some(tenure) = self.fenced_mut(lease) {
            tenure.open_fences += 1;
        }
    }

    /// The check of a fenced transaction has not passed. Tell the guards; send this [`Command::Quit`]. `None`
    /// if that lease has already ended here.
    pub fn fence_refused(&mut self, past: &mut Past, lease: &Fence) -> Option<Command> {
        self.fenced_mut(lease)?;
        self.end(past)
    }

    /// A fenced transaction was committed or aborted. `passed`: whether its check had passed.
    pub fn fence_over(&mut self, lease: &Fence, passed: bool) {
        if let Some(tenure) = self.fenced_mut(lease) {
            tenure.fences = tenure.fences.saturating_sub(1);
            tenure.open_fences = tenure.open_fences.saturating_sub(passed.into());
        }
    }

    /// Whether a fenced transaction of the present lease holds the store up.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.tenure().is_some_and(|tenure| tenure.open_fences > 0)
    }

    /// The lease that is held, if it is the one that `lease` names.
    fn fenced_mut(&mut self, lease: &Fence) -> Option<&mut Tenure> {
        if !self.is_asking(&lease.who) {
            return None;
        }
        let tenure = self.tenure_mut();
        tenure.filter(|tenure| tenure.is(lease.epoch, lease.token))
    }

    /// Whether a renewal that is sent now counts at once, before it is answered. An eighth of the lease must
    /// be left: from another process a takeover may reach the store sooner than a renewal that was sent just
    /// before it.
    fn is_held_up(&self, now: Now) -> bool {
        let len = self.tenure().map_or(0, |tenure| tenure.holding.len);
        let in_time = self.holding(now + millis(len) / 8).is_some();
        self.is_fenced() && in_time
    }

    /// A message that another tab wants the lease.
    pub fn wanted(&mut self, now: Now, want: &Want) -> Wanted {
        let ours = |tenure: &&mut Tenure| tenure.is(want.epoch, want.token);
        let Some(tenure) = self.tenure_mut().filter(ours) else {
            return Wanted::NotOurs;
        };
        if !want.queued {
            return Wanted::ByTry;
        }
        let known = tenure.head.take().filter(|head| head.who == want.who);
        let (heard, vouched) = known.map_or((None, false), |head| (head.heard, head.vouched));
        tenure.head = Some(Head {
            who: want.who.clone(),
            len: want.len,
            at: Duration::from_micros(want.at),
            read: now,
            heard: heard.or(Some(now)),
            vouched,
        });
        Wanted::ByHead
    }

    /// A message that another tab waits no longer. Whether that was the head of the queue: then the next
    /// renewal tells which waiter is the head now.
    pub fn unwanted(&mut self, who: &Requester) -> bool {
        let tenure = self.tenure_mut();
        let head = tenure.and_then(|tenure| tenure.head.take_if(|head| head.who == *who));
        head.is_some()
    }

    /// Gives the lease up, if one is held. `by_store`: not by a message, because messages do not reach every
    /// tab. While fenced transactions of the lease are not finished it is not given by a message either: the
    /// store orders a quit behind them, but a delegation would overtake them.
    pub fn release(&mut self, past: &mut Past, now: Now, by_store: bool) -> Option<Release> {
        let release = self.delegate(past, now, by_store);
        release.or_else(|| self.end(past).map(Release::Quit))
    }

    fn delegate(&mut self, past: &mut Past, now: Now, by_store: bool) -> Option<Release> {
        let holding = self.holding(now)?;
        let tenure = self.tenure()?;
        let (request, head) = (tenure.request, tenure.head.as_ref()?);
        // No longer than the receiver's own lease: the pass, or the claim, may write that length down at
        // once.
        let valid = holding.until.min(now + millis(head.len));
        // The receiver's claim must have time to land. Half of its lease is left, where it insists on a
        // quarter: see `granted`.
        let short = valid.saturating_sub(now) < millis(head.len) / 2;
        let by_store = by_store || tenure.fences > 0;
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
        // If the lease stays within the tab, no other holder can come in between.
        past.delegated = to.tab != self.tab;
        self.clear();
        Some(Release::Delegate(grant, Command::Pass { who, token, to }))
    }

    /// `valid` in µs on the clock of another tab, whose stamp `at` was read here at `read`. A granule less,
    /// since a coarse clock may have shown too early a time when the stamp was read.
    fn remainder(&self, at: Now, valid: Now, read: Now) -> u64 {
        micros((at + valid).saturating_sub(read + self.margin / 2))
    }

    /// The answer to a [`Command::Quit`] or [`Command::Pass`] that was sent at `sent`. Answers with the
    /// message to the waiter that was granted the lock, if one was.
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
}
