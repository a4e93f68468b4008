//! Holding: until when the lease is good, who is next, what is open under it, and how it is given up.

use crate::time::Duration;

use super::asking::Request;
use super::{
    Due, Grant, Holding, Lens, Now, Participant, Past, Release, Renewed, State, Want, Wanted,
    micros, millis,
};
use crate::rules::{Command, Fence, Outcome, Requester, Waiter};

/// What goes with the lease that is held.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tenure {
    pub(super) request: Request,
    pub(super) holding: Holding,
    /// Of a lease that started by a message: who gave it.
    giver: Option<Requester>,
    /// Fenced transactions that have begun and not ended …
    fences: u32,
    /// … those of them whose check has passed, so that they hold up the store …
    open_fences: u32,
    /// … and, since there was one, until when the renewal sent last makes the lease good.
    sent_until: Option<Now>,
    /// The head of the queue.
    head: Option<Head>,
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
    /// Since when it has been known by a message of its own: then its leaving will be heard, too.
    heard: Option<Now>,
    /// It was read in the record, under the token that is held.
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

    /// Good while now and a margin < that.
    fn until(&self) -> Now {
        let until = self.holding.until;
        self.sent_until.map_or(until, |sent| sent.max(until))
    }

    /// Whose lease it still is, in the record.
    fn unclaimed_of(&self) -> Option<&Requester> {
        self.giver.as_ref().filter(|_| !self.holding.confirmed)
    }

    fn is(&self, epoch: u64, token: u64) -> bool {
        (self.holding.epoch, self.holding.token) == (epoch, token)
    }

    /// It may be shorter than it was thought to be.
    fn cut(&mut self, until: Now) {
        self.holding.until = self.holding.until.min(until);
    }

    /// The store has confirmed a lease of `len` ms that was asked for at `sent`.
    pub(super) fn extend(&mut self, sent: Now, now: Now, len: u32, head: Option<&Waiter>) {
        self.holding.confirmed = true;
        // One that was asked for before a shorter one was must not undo that.
        let len = len.min(self.holding.len);
        self.holding.until = self.holding.until.max(sent + millis(len));
        self.hear_of_head(sent, now, head);
    }

    /// What the record says of its queue. `None` is older than what was heard after it was asked for.
    pub(super) fn hear_of_head(&mut self, sent: Now, now: Now, head: Option<&Waiter>) {
        let known = self.head.take();
        let Some(head) = head else {
            self.head = known.filter(|head| head.read >= sent);
            return;
        };
        let at = Duration::from_micros(head.at);
        let known = known.filter(|known| known.who == head.who);
        let heard = known.as_ref().and_then(|known| known.heard);
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

    /// The lease held, if it is still good. What has run out is not reported here:
    /// see [`Participant::due`].
    #[must_use]
    pub fn holding(&self, now: Now) -> Option<Holding> {
        let tenure = self.tenure()?;
        (now + self.margin < tenure.until()).then_some(tenure.holding)
    }

    /// When the lease held ceases to be good.
    #[must_use]
    pub fn good_until(&self) -> Option<Now> {
        let tenure = self.tenure()?;
        Some(tenure.until().saturating_sub(self.margin))
    }

    /// The length last asked for of the lease held, if it is longer than usual, and so needs fewer
    /// renewals.
    #[must_use]
    pub fn long(&self) -> Option<Duration> {
        let len = self.tenure()?.holding.len;
        (len > self.lens.usual).then(|| millis(len))
    }

    /// Whether the lease held is longer than whoever waits for it should have to wait.
    #[must_use]
    pub fn is_too_long(&self, now: Now) -> bool {
        let longest = self.len().max(self.longest(now));
        self.tenure()
            .is_some_and(|tenure| tenure.holding.len > longest)
    }

    /// How long the lease held may become, in ms, while nothing happens: nobody waits, or for as long as that
    /// the same request does, whose leaving will be heard.
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

    /// Whether a lease is held that the store does not know of yet, as far as is known here.
    #[must_use]
    pub fn is_unclaimed(&self) -> bool {
        self.tenure()
            .is_some_and(|tenure| !tenure.holding.confirmed)
    }

    /// Whether somebody waits for the lease held, as far as is known.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.next().is_some()
    }

    /// Who is the next to hold, as far as is known.
    #[must_use]
    pub fn next(&self) -> Option<&Requester> {
        Some(&self.tenure()?.head.as_ref()?.who)
    }

    /// What the heartbeat has to do now; `None` when nothing is held. `beacon`: whether this tab holds
    /// its beacon.
    ///
    /// With a beacon, and while nothing happens, each renewal asks for two sevenths more than the one before,
    /// up to the [longest](Self::longest) that may be. There are three renewals in a lease, so it stays a
    /// little shorter than the time for which nothing has happened: the longer that is, the less the lease
    /// costs. And a tab that crashes soon costs little to one that is opened after that, and has not seen its
    /// beacon.
    pub fn due(&mut self, past: &mut Past, now: Now, beacon: bool, wall: u64) -> Option<Due> {
        let request = self.tenure()?.request;
        if self.holding(now).is_none() {
            return self.end(past).map(Due::Expired);
        }
        let who = self.requester(request.id);
        let (mut len, longest, held_up) = (self.len(), self.longest(now), self.is_held_up(now));
        let tenure = self.tenure_mut()?;
        let giver = tenure.unclaimed_of().cloned();
        if giver.is_none() && beacon {
            let longer = tenure.holding.len + (tenure.holding.len * 2 / 7).max(1);
            len = len.max(longer.min(longest));
        }
        let until = now + millis(len);
        // A lease that was longer, also one that was granted as it was asked for long ago, or went by what
        // the giver said, is not any more.
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

    /// A renewal or claim has failed, and may not have been applied: only what was answered counts.
    pub fn renewal_failed(&mut self) {
        if let Some(tenure) = self.tenure_mut() {
            tenure.sent_until = None;
        }
    }

    /// A fenced transaction begins: what it has to check, if a lease is held. Each ends by a
    /// [`Participant::fence_over`]. Until then, what follows is left to the store: see
    /// [`Participant::release`].
    ///
    /// It may run before the claim of a lease that began by a message; then it writes that down itself.
    pub fn fence(&mut self, now: Now, beacon: bool, wall: u64) -> Option<Fence> {
        let Holding { epoch, token, .. } = self.holding(now)?;
        let who = self.requester(self.request()?);
        let len = self.len();
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

    /// The check of a fenced transaction has passed. From now until it is over the store is held up.
    pub fn fence_passed(&mut self, lease: &Fence) {
        if let Some(tenure) = self.fenced_mut(lease) {
            tenure.open_fences += 1;
        }
    }

    /// It has not passed; the loss must be told. The command tells the store. Nothing, if that lease has
    /// already ended here.
    pub fn fence_refused(&mut self, past: &mut Past, lease: &Fence) -> Option<Command> {
        self.fenced_mut(lease)?;
        self.end(past)
    }

    /// A fenced transaction was committed or aborted, after its check had passed, or not.
    pub fn fence_over(&mut self, lease: &Fence, passed: bool) {
        if let Some(tenure) = self.fenced_mut(lease) {
            tenure.fences = tenure.fences.saturating_sub(1);
            tenure.open_fences = tenure.open_fences.saturating_sub(passed.into());
        }
    }

    /// Whether a fenced transaction of the lease held holds the store up.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.tenure().is_some_and(|tenure| tenure.open_fences > 0)
    }

    /// The lease that is held, if it is that one.
    fn fenced_mut(&mut self, lease: &Fence) -> Option<&mut Tenure> {
        if !self.is_asking(&lease.who) {
            return None;
        }
        let tenure = self.tenure_mut();
        tenure.filter(|tenure| tenure.is(lease.epoch, lease.token))
    }

    /// Whether a renewal that is sent now counts from now. An eighth of the lease must be left: from
    /// another process a takeover may reach the store sooner than what was sent just before it.
    fn is_held_up(&self, now: Now) -> bool {
        let len = self.tenure().map_or(0, |tenure| tenure.holding.len);
        let in_time = self.holding(now + millis(len) / 8).is_some();
        self.is_fenced() && in_time
    }

    /// A message that somebody wants the lease.
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

    /// A message that somebody waits no longer. Whether that was the head of the queue: the next renewal
    /// tells who is now.
    pub fn unwanted(&mut self, who: &Requester) -> bool {
        let tenure = self.tenure_mut();
        let head = tenure.and_then(|tenure| tenure.head.take_if(|head| head.who == *who));
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
        let holding = self.holding(now)?;
        let tenure = self.tenure()?;
        let (request, head) = (tenure.request, tenure.head.as_ref()?);
        // No longer than the receiver's own lease: the pass, or its claim, may write that down at once.
        let valid = holding.until.min(now + millis(head.len));
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
}
