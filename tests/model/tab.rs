//! A tab: the shipped [`Contender`], and the driver around it, which hands in events and performs actions.
//!
//! The driver's contract is kept: what has expired is told first, and every action is performed, in order,
//! before the next event is handled.

use tab_lease::Config;
use tab_lease::LossReason;
use tab_lease::contender::places::{self, Standing};
use tab_lease::contender::{
    Action as Act, Around, CallId, Contender, End, Event, LeaseId, Moment, Patience, Seen, SendId,
    Timer,
};
use tab_lease::evidence::{Evidence, Manager, Word};
use tab_lease::message::Message;
use tab_lease::participant::{Now, Past, Want};
use tab_lease::rules::{Command, Outcome, Proof, Requester, Take};
use tab_lease::turns::PATIENCE_MS;

use crate::mutation::Mutation;
use crate::world::{
    Action, Answer, Caller, Deed, Kind, Lease, Life, Locks, Pace, Sent, Started, State, Tab, Waits,
    What, World, millis, tab_name,
};

impl World {
    pub fn tab(&self, kind: &Kind) -> Tab {
        let ms = |ticks: u32| ticks * self.tick_ms;
        let config = Config {
            lease_ms: ms(kind.len),
            heartbeat_ms: ms(1),
            idle_lease_ms: ms(kind.idle),
            hidden_lease_ms: ms(kind.hidden),
            initial_backoff_ms: 1,
            max_backoff_ms: 1,
        };
        let around = Around {
            speaks: true,
            complete: self.complete,
            beacons: kind.beacon,
            steady_leases: 0,
        };
        let margin = if self.mutated(Mutation::NoMargin) {
            Now::ZERO
        } else {
            self.margin()
        };
        Tab {
            contender: Contender::new(tab_name(kind.tab), &config, around, margin),
            evidence: self.evidence(),
            life: Life::Awake,
            hidden: kind.hides_first,
            suspended: false,
            called: 0,
            requests: 0,
            callers: Vec::new(),
            lease: None,
            guards: 0,
            good_until: None,
            unclaimed: None,
            untold: None,
            aside: None,
            watched: None,
            passing: None,
            handed_on: None,
            outbox: Vec::new(),
            inbox: Vec::new(),
        }
    }

    pub fn hide_first(&self, state: &mut State) {
        for (i, kind) in self.kinds.iter().enumerate() {
            if kind.hides_first {
                self.handle(state, i, Event::Hidden(true));
            }
        }
    }

    // ---- Events in ------------------------------------------------------------------------------

    /// Something happens to a lock object. What has run out by then is told before.
    pub fn feed(&self, state: &mut State, i: usize, event: Event) {
        self.expire(state, i);
        self.handle(state, i, event);
    }

    /// Tells of leases of that tab that have run out.
    pub fn expire(&self, state: &mut State, i: usize) {
        let silent = [
            Mutation::ExpiryNotTold,
            Mutation::ExpiryIgnored,
            Mutation::ExpiryNotFirst,
        ];
        if silent.iter().any(|mutation| self.mutated(*mutation)) {
            return;
        }
        for j in self.mates(i) {
            let now = self.clock(state, j);
            if state.tabs[j].contender.has_expired(now) {
                self.handle(state, j, Event::Fired(Timer::Expiry));
            }
            if state.tabs[j].contender.has_expired(now) {
                state.fault = Some("what has expired stays so");
            }
        }
    }

    /// The lock objects of the same tab.
    pub fn mates(&self, i: usize) -> Vec<usize> {
        let all = 0..self.kinds.len();
        all.filter(|j| self.kinds[*j].tab == self.kinds[i].tab)
            .collect()
    }

    pub fn handle(&self, state: &mut State, i: usize, event: Event) {
        let now = self.clock(state, i);
        self.handle_at(state, i, now, event);
    }

    fn handle_at(&self, state: &mut State, i: usize, now: Now, event: Event) {
        let before = state.tabs[i].contender.standing();
        if self.mutation.is_none() {
            let out = self.decide(state, i, now, |contender, past, at, out| {
                contender.handle(past, at, event.clone(), out);
            });
            self.follow(state, i, &event, out.1);
        } else {
            self.handle_wrongly(state, i, now, event);
        }
        let after = state.tabs[i].contender.standing();
        if after != before {
            self.check_turn(state, i, before, after);
            self.move_up(state, i);
        }
    }

    // ---- Places ---------------------------------------------------------------------------------

    /// What the lock objects of that one's tab have to do with its places.
    pub fn standings(&self, state: &State, i: usize) -> Vec<(usize, Standing)> {
        let standing = |j: usize| {
            let mut standing = state.tabs[j].contender.standing();
            if self.mutated(Mutation::PlaceKept) {
                standing.queues |= state.tabs[j].lease.is_some();
            }
            (j, standing)
        };
        self.mates(i).into_iter().map(standing).collect()
    }

    fn may_queue(&self, state: &State, i: usize) -> bool {
        let all = self.standings(state, i);
        let mine = state.tabs[i].contender.standing();
        let others = all.into_iter().filter(|(j, _)| *j != i);
        let others = others.map(|(_, standing)| Standing {
            waits: standing
                .waits
                .filter(|_| !self.mutated(Mutation::OvertakesInTheTab)),
            ..standing
        });
        places::may_queue(self.places, mine, others) || self.mutated(Mutation::PlacesUnbounded)
    }

    /// Who of that tab takes a place now.
    pub fn moves_up(&self, state: &State, i: usize) -> Option<usize> {
        let all = self.standings(state, i);
        let next = places::moves_up(self.places, all.iter().map(|(_, standing)| *standing));
        next.map(|n| all[n].0)
    }

    fn move_up(&self, state: &mut State, i: usize) {
        let next = self.moves_up(state, i);
        if let Some(next) = next.filter(|_| !self.mutated(Mutation::PlaceNotTold)) {
            self.handle(state, next, Event::Look);
        }
    }

    /// Of one tab, whoever came first goes into the queue first.
    fn check_turn(&self, state: &mut State, i: usize, before: Standing, after: Standing) {
        let first = |j: &usize| state.tabs[*j].contender.standing().waits;
        let mut others = self.mates(i).into_iter().filter(|j| *j != i);
        let mine = state.tabs[i].callers.iter().map(|caller| caller.id).min();
        let moved_up = after.queues && !before.queues;
        if moved_up && others.any(|j| first(&j).is_some_and(|other| Some(other) < mine)) {
            state.fault = Some("a call went into the queue before one that came first");
        }
    }

    /// Lets a contender decide something.
    pub fn decide<T>(
        &self,
        state: &mut State,
        i: usize,
        now: Now,
        decide: impl FnOnce(&mut Contender, &mut Past, Moment<'_>, &mut Vec<Act>) -> T,
    ) -> (T, Vec<Act>) {
        let wall_ms = self.wall(state);
        // Request ids are unique within a tab, whichever of its lock objects makes them.
        let fresh_request = 1 + i as u64 + 10 * state.tabs[i].requests;
        let fresh_epoch = self.fresh_epoch(state, fresh_request);
        let may_queue = self.may_queue(state, i);
        let kind = &self.kinds[i];
        let Tab {
            contender,
            evidence,
            requests,
            ..
        } = &mut state.tabs[i];
        let at = Moment {
            now,
            wall_ms,
            fresh_epoch,
            fresh_request,
            lit: kind.beacon,
            would_tell: &|tab| evidence.has_seen(tab),
            may_queue,
        };
        let mut out = Vec::new();
        let decided = decide(contender, &mut state.pasts[kind.tab], at, &mut out);
        let uses = |act: &Act| match act {
            Act::Send {
                command: Command::Take(take),
                ..
            } => take.who.request == fresh_request,
            _ => false,
        };
        *requests += u64::from(out.iter().any(uses));
        (decided, out)
    }

    /// What would be decided.
    pub fn imagine(&self, state: &State, i: usize, event: Event) -> (Contender, Vec<Act>) {
        let mut contender = state.tabs[i].contender.clone();
        let mut past = state.pasts[self.kinds[i].tab].clone();
        let at = Moment {
            now: self.clock(state, i),
            wall_ms: self.wall(state),
            fresh_epoch: 1,
            fresh_request: u64::MAX,
            lit: self.kinds[i].beacon,
            would_tell: &|_| false,
            may_queue: self.may_queue(state, i),
        };
        let mut out = Vec::new();
        contender.handle(&mut past, at, event, &mut out);
        (contender, out)
    }

    fn fresh_epoch(&self, state: &State, request: u64) -> u64 {
        let done = self.budget.deletions + self.budget.closings;
        if done == 0 {
            return 1;
        }
        let done = done - state.left.deletions - state.left.closings;
        1 + request + 1000 * u64::from(done)
    }

    /// Performs what was decided, in order, and sees to it that it fits.
    pub fn follow(&self, state: &mut State, i: usize, event: &Event, out: Vec<Act>) {
        self.check_quit(state, i, event, &out);
        for act in out {
            self.perform(state, i, event, act);
        }
        self.publish(state, i, event);
        let tab = &mut state.tabs[i];
        if tab
            .lease
            .is_some_and(|l| tab.contender.lease() != Some(l.id))
        {
            if tab.guards > 0 {
                state.fault = state
                    .fault
                    .or(Some("a lease ended, and its guards were not told"));
            }
            tab.lease = None;
            tab.untold = None;
        }
        tab.aside
            .take_if(|lease| tab.contender.lease() != Some(*lease));
        if !self.slow_callers {
            self.tell(state, i);
        }
    }

    /// A quit in place of the claim would leave the record with the tab that handed the lease on.
    fn check_quit(&self, state: &mut State, i: usize, event: &Event, out: &[Act]) {
        let unclaimed = state.tabs[i].unclaimed;
        let quits = |act: &Act| match act {
            Act::Send {
                command: Command::Quit { who },
                ..
            } => unclaimed == Some(who.request),
            _ => false,
        };
        let loses = |act: &Act| matches!(act, Act::Lose(..));
        let confirmed = matches!(event, Event::Answer { .. });
        if out.iter().any(quits) && !out.iter().any(loses) && !confirmed {
            state.fault = Some("a lease was given up that the store does not know of");
        }
    }

    fn publish(&self, state: &mut State, i: usize, event: &Event) {
        let tab = &mut state.tabs[i];
        let good_until = tab.contender.good_until();
        let stale =
            self.mutated(Mutation::CutNotPublished) && !matches!(event, Event::Answer { .. });
        if !stale || tab.good_until.is_none() || good_until.is_none() {
            tab.good_until = good_until;
        }
        let participant = tab.contender.participant();
        tab.unclaimed = participant.request().filter(|_| participant.is_unclaimed());
    }

    /// Until when a call waits, on its tab's clock.
    pub fn deadline(&self, caller: &Caller) -> Option<Now> {
        match caller.waits {
            Waits::For(ticks) => Some(caller.since + self.ticks(ticks)),
            Waits::ForEver | Waits::Not | Waits::Spins(_) => None,
        }
    }

    // ---- Actions out ----------------------------------------------------------------------------

    fn perform(&self, state: &mut State, i: usize, event: &Event, act: Act) {
        // What the store has granted it may still tell, and that somebody who tries need not wait.
        let answers = match &act {
            Act::Post(Message::Grant(grant)) => grant.granted,
            Act::Post(Message::Reply { .. }) => true,
            act => !matches!(act, Act::Send { .. } | Act::Look { .. } | Act::Post(_)),
        };
        let stopping = matches!(event, Event::Suspended(true));
        if state.tabs[i].suspended && !stopping && !answers {
            state.fault = Some("a suspended tab has sent something");
        }
        match act {
            Act::Send { id, command } => self.send(state, i, id, What::Command(command)),
            Act::Look { id, take } => self.send(state, i, id, What::Look(take)),
            Act::StepAside(lease) => state.tabs[i].aside = Some(lease),
            Act::LeaveBlindly(who) => self.quit_blindly(state, i, who),
            Act::Post(message) => {
                if let Message::Grant(grant) = &message
                    && !grant.granted
                {
                    state.tabs[i].passing = Some(grant.clone());
                    state.tabs[i].handed_on = Some(grant.from.request);
                }
                self.post(state, message);
            }
            Act::Watch(tab) => state.tabs[i].watched = tab,
            Act::Settle { call, end } => self.settle(state, i, event, call, end),
            Act::Lose(lease, reason) => self.lose(state, i, event, lease, reason),
            Act::Linger(_) | Act::Released(_) => {}
        }
    }

    pub fn send(&self, state: &mut State, i: usize, id: SendId, what: What) {
        let at = self.clock(state, i);
        if self.long_writes {
            state.order.push(i);
        }
        state.tabs[i].outbox.push(Sent {
            what,
            id,
            at,
            awaited: true,
            held: false,
        });
    }

    /// What needs no answer.
    pub fn quit_blindly(&self, state: &mut State, i: usize, who: Requester) {
        let quit = What::Command(Command::Quit { who });
        self.send(state, i, SendId(u64::MAX), quit);
        if let Some(quit) = state.tabs[i].outbox.last_mut() {
            quit.awaited = false;
        }
    }

    /// A call is over. Once, and as it wanted.
    fn settle(&self, state: &mut State, i: usize, event: &Event, call: CallId, end: End) {
        let now = self.clock(state, i);
        let tab = &mut state.tabs[i];
        let Some(place) = tab.callers.iter().position(|caller| caller.id == call) else {
            state.fault = Some("a call was settled that does not wait");
            return;
        };
        let caller = tab.callers.remove(place);
        let fits = match (end, caller.waits) {
            (End::Busy, waits) => waits == Waits::Not,
            (End::TimedOut, Waits::For(_)) => matches!(event, Event::Fired(Timer::Deadline)),
            (End::TimedOut, waits) => matches!(waits, Waits::Spins(_)),
            (End::Held { .. } | End::StoreFailed(_), _) => true,
        };
        if !fits {
            state.fault = Some("a call ends as none of its kind does");
        }
        let End::Held {
            lease,
            token,
            epoch,
            dirty,
        } = end
        else {
            return;
        };
        if tab.contender.lease() == Some(lease) && tab.contender.has_expired(now) {
            state.fault = Some("a call was given a lease that is over");
        }
        let wanted = tab.contender.participant().is_wanted();
        let in_turn = !wanted || now >= caller.since + millis(PATIENCE_MS);
        if caller.late && tab.lease.is_some() && (!in_turn || matches!(event, Event::Call { .. })) {
            state.fault = Some("a late call went before who waits elsewhere");
        }
        let lease = Lease {
            id: lease,
            epoch,
            token,
        };
        let tab = &mut state.tabs[i];
        tab.guards += 1;
        if tab.lease.is_none_or(|known| known.id != lease.id) {
            tab.lease = Some(lease);
            tab.untold = Some(dirty);
            self.begun(state, i, lease);
        }
    }

    /// A lease has begun.
    fn begun(&self, state: &mut State, i: usize, lease: Lease) {
        let tab = self.kinds[i].tab;
        let started = Started { lease, tab };
        if let Some(before) = state.started.filter(|b| b.lease.epoch == lease.epoch) {
            if lease.token < before.lease.token {
                state.fault = Some("a lease started after one with a higher token");
            } else if lease.token == before.lease.token && started != before {
                state.fault = Some("two requests started with one token");
            } else if lease.token == before.lease.token {
                state.fault = Some("a request started twice");
            }
        }
        state.started = Some(started);
    }

    /// A caller gets its guard.
    fn tell(&self, state: &mut State, i: usize) {
        let tab = self.kinds[i].tab;
        let (Some(lease), Some(dirty)) = (state.tabs[i].lease, state.tabs[i].untold.take()) else {
            return;
        };
        self.feed(state, i, Event::Told(lease.id));
        let before = state.user.replace((lease.epoch, tab));
        let by_another = before.is_some_and(|(epoch, user)| epoch == lease.epoch && user != tab);
        if by_another && !dirty {
            state.fault = Some("not dirty, though another tab held");
        }
    }

    /// Guards are told of a loss. Once, and why.
    fn lose(&self, state: &mut State, i: usize, event: &Event, id: LeaseId, reason: LossReason) {
        let tab = &mut state.tabs[i];
        if tab.lease.is_none_or(|lease| lease.id != id) {
            state.fault = Some("a lease was lost that is not held");
        }
        tab.lease = None;
        tab.guards = 0;
        tab.untold = None;
        let by_time = matches!(reason, LossReason::Expired | LossReason::StoreFailed);
        let fits = match event {
            Event::Suspended(true) => reason == LossReason::Suspended,
            Event::Closing => reason == LossReason::StoreClosed,
            Event::FenceRefused(_) => reason == LossReason::Superseded,
            Event::Answer {
                answer: Some(Outcome::Refused),
                ..
            } => reason == LossReason::Superseded,
            Event::Answer { .. } => by_time || reason == LossReason::Superseded,
            Event::Fired(_) | Event::SteppedAside(_) => by_time,
            _ => false,
        };
        if !fits {
            state.fault = state.fault.or(Some("a lease was lost for another reason"));
        }
    }

    // ---- What a tab does ------------------------------------------------------------------------

    pub fn act(&self, state: &mut State, i: usize, deed: Deed) {
        match deed {
            Deed::Call => {
                let waits = self.kinds[i].calls[state.tabs[i].called];
                state.tabs[i].called += 1;
                self.call(state, i, waits);
            }
            Deed::Leave(k) => {
                state.left.give_ups -= 1;
                let caller = state.tabs[i].callers.remove(k);
                self.feed(state, i, Event::Leave(caller.id));
            }
            Deed::Fire(timer) => {
                let due = state.tabs[i].contender.due_at(timer);
                self.feed(state, i, Event::Fired(timer));
                let mut callers = state.tabs[i].callers.iter();
                let late = callers.any(|caller| due == self.deadline(caller));
                if timer == Timer::Deadline && late {
                    state.fault = Some("a call outlives its deadline");
                }
            }
            Deed::StepAside => {
                if let Some(lease) = state.tabs[i].aside.take() {
                    self.feed(state, i, Event::SteppedAside(lease));
                }
            }
            Deed::Tell => self.tell(state, i),
            Deed::Drop => self.drop_guard(state, i),
            Deed::Write => self.write(state, i),
        }
    }

    pub fn call(&self, state: &mut State, i: usize, waits: Waits) {
        let now = self.clock(state, i);
        let patience = match waits {
            Waits::ForEver => Patience::Until(None),
            Waits::For(ticks) => Patience::Until(Some(now + self.ticks(ticks))),
            Waits::Not => Patience::Try,
            // Each pause is twice the one before, and the first is of 1 ms.
            Waits::Spins(times) => Patience::Spin {
                longest_ms: (1 << times) / 2,
            },
        };
        let tab = &mut state.tabs[i];
        let late = tab.lease.is_some() && tab.contender.participant().is_wanted();
        // Calls that came before this one, also to other lock objects of the tab, have lower numbers.
        let mates = self.mates(i);
        let called: usize = mates.iter().map(|j| state.tabs[*j].called).sum();
        let callers: usize = mates.iter().map(|j| state.tabs[*j].callers.len()).sum();
        let number = 100 * called + callers;
        let tab = &mut state.tabs[i];
        let id = CallId(number as u64);
        let since = if late || matches!(waits, Waits::For(_)) {
            now
        } else {
            Now::ZERO
        };
        tab.callers.push(Caller {
            id,
            waits,
            since,
            late,
        });
        self.feed(state, i, Event::Call { id, patience });
    }

    pub fn drop_guard(&self, state: &mut State, i: usize) {
        let tab = &mut state.tabs[i];
        let Some(lease) = tab.lease.filter(|_| tab.guards > 0) else {
            return;
        };
        tab.guards -= 1;
        if tab.guards == 0 {
            tab.untold = None;
        }
        if self.mutated(Mutation::DelegatesWhileWriting) {
            for sent in state.tabs[i].outbox.clone() {
                if let What::Write(lease, _) = sent.what {
                    let passed = false;
                    self.feed(state, i, Event::FenceOver { lease, passed });
                }
            }
        }
        self.feed(state, i, Event::GuardDropped(lease.id));
        let lingers = state.tabs[i].contender.due_at(Timer::Linger).is_some();
        if !self.lingers && lingers {
            self.feed(state, i, Event::Fired(Timer::Linger));
        }
    }

    fn write(&self, state: &mut State, i: usize) {
        state.left.writes -= 1;
        self.expire(state, i);
        let tab = &state.tabs[i];
        let (Some(lease), now) = (tab.lease, self.clock(state, i)) else {
            return;
        };
        let until = tab.contender.good_until().unwrap_or_default();
        let (fence, out) = self.decide(state, i, now, |contender, past, at, out| {
            contender.fence(past, at, lease.id, out)
        });
        self.follow(state, i, &Event::Look, out);
        let Some(fence) = fence else {
            state.fault = Some("a holder could not begin a fenced transaction");
            return;
        };
        // "Fence, then write" in two transactions.
        let apart = self.mutated(Mutation::FenceApart);
        let refused =
            self.fence(state.record.as_ref(), &fence) == tab_lease::rules::Fenced::Refused;
        if !(apart && refused) {
            self.send(state, i, SendId(u64::MAX), What::Write(fence, until));
        }
    }

    // ---- What a tab hears -----------------------------------------------------------------------

    /// A tab handles an answer.
    pub fn deliver(&self, state: &mut State, i: usize, k: usize) {
        let Answer { to, outcome, .. } = state.tabs[i].inbox.remove(k);
        match to.what.clone() {
            What::Command(command) => self.answered(state, i, &to, &command, outcome),
            What::Look(take) => self.looked(state, i, &to, take, outcome),
            What::Write(lease, _) => match outcome {
                Some(Outcome::Refused) => {
                    self.feed(state, i, Event::FenceRefused(lease.clone()));
                    self.must_be_told(state, i, lease.token);
                }
                Some(_) => self.feed(state, i, Event::FencePassed(lease)),
                None => {
                    let passed = false;
                    self.feed(state, i, Event::FenceOver { lease, passed });
                }
            },
            What::Over(lease) => {
                let passed = true;
                self.feed(state, i, Event::FenceOver { lease, passed });
            }
        }
    }

    fn answered(
        &self,
        state: &mut State,
        i: usize,
        to: &Sent,
        command: &Command,
        outcome: Option<Outcome>,
    ) {
        let mut answer = outcome.clone();
        let mut now = self.clock(state, i);
        if let Some(mutation) = self.mutation {
            mutation.answering(command, to.at, &mut now, &mut answer, self.len(i));
            if mutation.swallows(command, &answer) {
                if let (Command::Renew { token, .. }, Some(Outcome::Refused)) = (command, &answer) {
                    self.must_be_told(state, i, *token);
                }
                return;
            }
        }
        self.expire(state, i);
        if let (Command::Take(take), Some(Outcome::Held(_)), Some(Mutation::OwnTakeForgotten)) =
            (command, &answer, self.mutation)
            && !state.tabs[i].contender.participant().is_asking(&take.who)
        {
            // It is one that was forgotten: its request has ended.
            self.quit_blindly(state, i, take.who.clone());
        }
        let wants = state.left.wants;
        self.handle_at(
            state,
            i,
            now,
            Event::Answer {
                id: to.id,
                command: command.clone(),
                answer,
            },
        );
        match (command, outcome) {
            (Command::Take(take), Some(Outcome::Waiting(waiting))) => {
                // The same as the participant would say, of somebody who is not the head.
                let waits = state.tabs[i].contender.participant().is_asking(&take.who);
                if self.pushy && waits && wants > 0 && wants == state.left.wants {
                    self.post(
                        state,
                        Message::Want(Want {
                            epoch: waiting.sighting.epoch,
                            token: waiting.sighting.token,
                            who: take.who.clone(),
                            len: take.len,
                            at: take.at,
                            queued: waiting.queued,
                        }),
                    );
                }
            }
            (
                Command::Renew { token, .. } | Command::Claim { token, .. },
                Some(Outcome::Refused),
            ) => {
                self.must_be_told(state, i, *token);
            }
            _ => {}
        }
    }

    fn looked(&self, state: &mut State, i: usize, to: &Sent, take: Take, outcome: Option<Outcome>) {
        let (mut answer, mut now) = (outcome, self.clock(state, i));
        if let Some(mutation) = self.mutation {
            let command = Command::Take(take.clone());
            mutation.answering(&command, to.at, &mut now, &mut answer, self.len(i));
            if mutation.swallows(&command, &answer) {
                return;
            }
        }
        self.expire(state, i);
        let seen = match answer {
            Some(Outcome::Waiting(waiting)) => Seen::Waiting(waiting),
            Some(_) => Seen::Change,
            None => Seen::Nothing,
        };
        let id = to.id;
        self.handle_at(state, i, now, Event::Looked { id, take, seen });
    }

    /// The store has said that this lease is over.
    fn must_be_told(&self, state: &mut State, i: usize, token: u64) {
        if state.tabs[i].lease.is_some_and(|l| l.token == token) {
            state.fault = Some("a refused lease is still believed in");
        }
    }

    /// Answers about what has ended here change nothing, whenever they come.
    pub fn hear_what_is_stale(&self, state: &mut State, i: usize) {
        let ended = |tab: &Tab, what: &What| {
            let of = match what {
                What::Command(Command::Renew { who, .. } | Command::Claim { who, .. }) => who,
                What::Write(lease, _) | What::Over(lease) => &lease.who,
                What::Command(_) | What::Look(_) => return false,
            };
            tab.contender.lease() != Some(LeaseId(of.request))
        };
        while let Some(k) = {
            let tab = &state.tabs[i];
            tab.inbox
                .iter()
                .position(|answer| ended(tab, &answer.to.what))
        } {
            self.deliver(state, i, k);
        }
    }

    /// A pass that need not be sent any more is forgotten when its time comes.
    pub fn forget_pass(&self, state: &mut State, i: usize) {
        // It goes on with it when the page does.
        let suspended = state.tabs[i].suspended;
        let Some(grant) = state.tabs[i].passing.as_ref().filter(|_| !suspended) else {
            return;
        };
        let past = &state.pasts[self.kinds[i].tab];
        let is_set = state.tabs[i].contender.due_at(Timer::Pass).is_some();
        if is_set && !past.must_pass(grant) {
            self.feed(state, i, Event::Fired(Timer::Pass));
        }
        let passes = |command: &Command| matches!(command, Command::Pass { .. });
        let tab = &mut state.tabs[i];
        if tab.contender.due_at(Timer::Pass).is_none() && !tab.awaits(passes) {
            tab.passing = None;
        }
    }

    /// A message arrives, wherever a tab runs that listens.
    pub fn hear(&self, state: &mut State, mail: &Message) {
        for i in 0..state.tabs.len() {
            if state.tabs[i].life != Life::Awake {
                continue;
            }
            let mut mail = mail.clone();
            if let (Some(mutation), Message::Grant(grant)) = (self.mutation, &mut mail) {
                let request = state.tabs[i].contender.participant().request();
                mutation.hearing(grant, self.clock(state, i), request);
            }
            self.mishear(state, i, &mut mail);
            let awaits = state.tabs[i].contender.due_at(Timer::Reply).is_some();
            state.served |= awaits && matches!(mail, Message::Reply { free: true, .. });
            self.feed(state, i, Event::Heard(mail));
        }
    }

    /// A tab goes by another beat, or by another answer to one, than was sent.
    fn mishear(&self, state: &State, i: usize, mail: &mut Message) {
        let now = u64::try_from(self.clock(state, i).as_micros()).unwrap_or(u64::MAX);
        let tab = &state.tabs[i];
        let participant = tab.contender.participant();
        match (self.mutation, mail) {
            (Some(Mutation::HeededFromHearing), Message::Heed(heed)) => heed.at = now,
            (Some(Mutation::BeatOfAnyCount), Message::Beat(beat)) => {
                let count = state.record.as_ref().map(|record| record.count);
                beat.count = count.unwrap_or_default();
            }
            (Some(Mutation::BeatHeardByAll), Message::Beat(beat)) => {
                let mine = participant.request().filter(|_| tab.lease.is_none());
                beat.to.request = mine.unwrap_or(beat.to.request);
                beat.to.tab = tab_name(self.kinds[i].tab);
            }
            _ => {}
        }
    }

    // ---- What becomes of a tab ------------------------------------------------------------------

    pub fn live(&self, state: &mut State, action: Action) {
        match action {
            Action::Pause(i) => {
                state.left.pauses -= 1;
                for j in self.mates(i) {
                    state.tabs[j].life = Life::Asleep;
                }
            }
            Action::Stop(i) => {
                state.left.stops -= 1;
                self.stop(state, i);
            }
            Action::Hide(i) => {
                state.left.hides -= 1;
                let hidden = !state.tabs[i].hidden;
                state.tabs[i].hidden = hidden;
                self.feed(state, i, Event::Hidden(hidden));
            }
            Action::Resume(i) => self.resume(state, i),
            Action::Crash(i, kept) => {
                state.left.crashes -= 1;
                self.crash(state, i, kept);
            }
            _ => {}
        }
    }

    fn resume(&self, state: &mut State, i: usize) {
        for j in self.mates(i) {
            state.tabs[j].life = Life::Awake;
        }
        self.expire(state, i);
        for j in self.mates(i) {
            if std::mem::take(&mut state.tabs[j].suspended) {
                self.feed(state, j, Event::Suspended(false));
            }
        }
    }

    /// The tab is paused, with all its lock objects, and lets go before. What it tells the store then needs
    /// no answer.
    fn stop(&self, state: &mut State, i: usize) {
        for j in self.mates(i) {
            state.tabs[j].suspended = true;
            self.feed(state, j, Event::Suspended(true));
            let passing = state.tabs[j].passing.clone();
            if let Some(grant) = passing.filter(|_| self.mutated(Mutation::LeavesAfterDelegating)) {
                self.quit_blindly(state, j, grant.from);
            }
            if !self.half_asleep {
                state.tabs[j].life = Life::Asleep;
            }
        }
    }

    /// The tab is gone, with all its lock objects.
    fn crash(&self, state: &mut State, i: usize, kept: usize) {
        while state.tabs[i].outbox.len() > kept {
            state.tabs[i].outbox.pop();
            state.forget_last_of(i);
        }
        // Its transaction is rolled back.
        state.open.take_if(|(whose, _)| *whose == i);
        for j in self.mates(i) {
            let tab = &mut state.tabs[j];
            for sent in &mut tab.outbox {
                sent.awaited = false;
            }
            // What it knew does not matter any more.
            *tab = Tab {
                life: Life::Crashed,
                called: self.kinds[j].calls.len(),
                handed_on: tab.handed_on,
                outbox: std::mem::take(&mut tab.outbox),
                ..self.tab(&self.kinds[j])
            };
        }
        state.pasts[self.kinds[i].tab] = Past::default();
    }

    /// Leases are lost; then the database is closed and deleted.
    pub fn close(&self, state: &mut State) {
        for i in 0..state.tabs.len() {
            let believes = state.tabs[i].lease.is_some();
            let heard = !(believes && self.mutated(Mutation::BeliefOutlivesClosing));
            if heard && state.tabs[i].life == Life::Awake {
                self.feed(state, i, Event::Closing);
            }
        }
        state.record = None;
    }

    // ---- Beacons --------------------------------------------------------------------------------

    fn evidence(&self) -> Evidence {
        let believed = self.mutated(Mutation::ForeignManagerBelieved);
        Evidence::new(match self.locks {
            Locks::Foreign if !believed => Manager::Foreign,
            _ => Manager::Browser,
        })
    }

    /// What a tab may be told of the beacon that it watches, by its lock manager. What was true once may
    /// be told late.
    pub fn words(&self, state: &State, i: usize) -> Vec<Word> {
        let tab = &state.tabs[i];
        let Some(suspect) = &tab.watched else {
            return Vec::new();
        };
        let mut tabs = state.tabs.iter().zip(&self.kinds);
        let gone = tabs.any(|(tab, kind)| {
            let out = tab.life == Life::Crashed || self.mutated(Mutation::BeaconTooEarly);
            tab_name(kind.tab) == *suspect && out
        });
        let held = (!tab.evidence.has_seen(suspect)).then_some(Word::Held { by_us: false });
        let granted = |lock| Some(Word::Granted { lock });
        let words = match self.locks {
            Locks::Shared => [held, granted(true).filter(|_| gone)],
            // The name is free there, so whoever watches has it for a moment.
            Locks::Apart => [Some(Word::Held { by_us: true }), granted(true)],
            Locks::Null => [held, granted(false)],
            Locks::Foreign => [held, granted(true)],
        };
        words.into_iter().flatten().collect()
    }

    pub fn hark(&self, state: &mut State, i: usize, word: Word) {
        let Tab {
            evidence, watched, ..
        } = &mut state.tabs[i];
        let Some(suspect) = watched.clone() else {
            return;
        };
        let word = match (self.mutation, word) {
            (Some(Mutation::NullLockBelieved), Word::Granted { .. }) => {
                Word::Granted { lock: true }
            }
            (Some(Mutation::OwnHoldBelieved), Word::Held { .. }) => Word::Held { by_us: false },
            _ => word,
        };
        if self.mutated(Mutation::UnseenBeaconBelieved) {
            evidence.proves_end(&suspect, Word::Held { by_us: false });
        }
        if !evidence.proves_end(&suspect, word) || self.mutated(Mutation::DeathNotHeard) {
            return;
        }
        // It is told once.
        state.tabs[i].watched = None;
        self.feed(state, i, Event::Died(suspect));
        if self.mutated(Mutation::DeadHolderIsEnough) {
            while let Some(next) = state.tabs[i].watched.take() {
                self.feed(state, i, Event::Died(next));
            }
        }
    }

    /// A tab hears all that its manager has to say. Whether it has come closer to the lease by that.
    pub fn hears_of_an_end(&self, state: &mut State, i: usize) -> bool {
        let before = state.tabs[i].contender.clone();
        for word in self.words(state, i) {
            self.hark(state, i, word);
        }
        state.tabs[i].contender != before
    }

    /// All that a tab has under way arrives.
    pub fn get_through(&self, state: &mut State, i: usize) {
        while !(state.tabs[i].outbox.is_empty() && state.tabs[i].inbox.is_empty()) {
            if !state.tabs[i].outbox.is_empty() {
                self.apply(state, i, 0, Pace::Applied);
            }
            if !state.tabs[i].inbox.is_empty() {
                self.deliver(state, i, 0);
            }
        }
    }

    // ---- Rules broken ---------------------------------------------------------------------------

    /// An event is altered, or what is done on it.
    fn handle_wrongly(&self, state: &mut State, i: usize, now: Now, event: Event) {
        let Some(mutation) = self.mutation else {
            return;
        };
        let before = (
            state.tabs[i].clone(),
            state.pasts[self.kinds[i].tab].clone(),
        );
        if mutation.drops_event(&event) {
            return;
        }
        let now = self.misread_clock(state, i, now, &event);
        let mut events = vec![event.clone()];
        match mutation {
            Mutation::SuspendedTabHears
                if before.0.suspended && matches!(event, Event::Heard(_)) =>
            {
                events.insert(0, Event::Suspended(false));
                events.push(Event::Suspended(true));
            }
            // As if nobody waited.
            Mutation::LateCallShares if matches!(event, Event::Call { .. }) => {
                let next = before.0.contender.participant().next();
                let gone = next.map(|next| Event::Heard(Message::Gone(next.clone())));
                events = gone.into_iter().chain([event.clone()]).collect();
            }
            _ => {}
        }
        let mut out = Vec::new();
        for event in events {
            let (_, acts) = self.decide(state, i, now, |contender, past, at, out| {
                contender.handle(past, at, event, out);
            });
            out.extend(acts);
        }
        if self.mutated(Mutation::TakeValidFromAnswer) {
            self.restore_takes(state, i, &before, &event, &mut out);
        }
        mutation.acted(&mut out, state.tabs[i].guards);
        self.undo(state, i, &event, &before, &mut out);
        self.follow(state, i, &event, out.clone());
        for act in out {
            self.and_more(state, i, &act);
        }
    }

    /// What the contender takes for the time.
    fn misread_clock(&self, state: &State, i: usize, now: Now, event: &Event) -> Now {
        let by_clock = [
            Mutation::RenewalValidFromAnswer,
            Mutation::TakeValidFromAnswer,
            Mutation::ShortenedNotCut,
        ];
        let Some(mutation) = self.mutation.filter(|m| by_clock.contains(m)) else {
            return now;
        };
        let (trial, out) = self.imagine(state, i, event.clone());
        let sends = |what: fn(&Command) -> bool| {
            out.iter().any(|act| match act {
                Act::Send { command, .. } => what(command),
                _ => false,
            })
        };
        let renews =
            sends(|command| matches!(command, Command::Renew { .. } | Command::Claim { .. }));
        let takes = sends(|command| matches!(command, Command::Take(_)));
        let long = |contender: &Contender| contender.participant().long();
        let contender = &state.tabs[i].contender;
        match mutation {
            Mutation::RenewalValidFromAnswer if renews => now + self.ticks(1),
            Mutation::TakeValidFromAnswer if takes => now + self.ticks(1),
            Mutation::ShortenedNotCut if renews && long(&trial) < long(contender) => {
                let until = contender.good_until().unwrap_or_default();
                (until + self.margin()).saturating_sub(self.len(i)).max(now)
            }
            _ => now,
        }
    }

    /// A take that was decided on by a wrong clock says what it would have by the right one.
    fn restore_takes(
        &self,
        state: &State,
        i: usize,
        (tab, past): &(Tab, Past),
        event: &Event,
        out: &mut Vec<Act>,
    ) {
        let mut trial = state.clone();
        trial.tabs[i] = tab.clone();
        trial.pasts[self.kinds[i].tab] = past.clone();
        let now = self.clock(state, i);
        let (_, right) = self.decide(&mut trial, i, now, |contender, past, at, out| {
            contender.handle(past, at, event.clone(), out);
        });
        for act in out {
            if let Act::Send {
                id,
                command: Command::Take(take),
            } = act
                && let Some(Act::Send {
                    command: Command::Take(right),
                    ..
                }) = right
                    .iter()
                    .find(|act| matches!(act, Act::Send { id: of, .. } if *of == *id))
            {
                *take = right.clone();
            }
        }
    }

    /// Some of what was decided is not remembered.
    fn undo(
        &self,
        state: &mut State,
        i: usize,
        event: &Event,
        (before, past): &(Tab, Past),
        out: &mut Vec<Act>,
    ) {
        let delegates = out
            .iter()
            .any(|act| matches!(act, Act::Post(Message::Grant(grant)) if !grant.granted));
        match self.mutation {
            Some(Mutation::OwnDelegationNotDirty) if delegates => {
                state.pasts[self.kinds[i].tab] = past.clone();
            }
            Some(Mutation::DelegatorGoesOn) if delegates => {
                let tab = &mut state.tabs[i];
                tab.contender = before.contender.clone();
                tab.guards += u8::from(matches!(event, Event::GuardDropped(_)));
                out.retain(|act| matches!(act, Act::Post(_)));
            }
            Some(Mutation::BeliefOutlivesStopping) if *event == Event::Suspended(true) => {
                state.tabs[i].contender = before.contender.clone();
                out.retain(|act| !matches!(act, Act::Lose(..)));
            }
            _ => {}
        }
    }

    /// What is done besides.
    fn and_more(&self, state: &mut State, i: usize, act: &Act) {
        match (self.mutation, act) {
            (Some(Mutation::QuitsAfterDelegating), Act::Post(Message::Grant(grant)))
                if !grant.granted =>
            {
                self.quit_blindly(state, i, grant.from.clone());
            }
            (
                Some(mutation),
                Act::Send {
                    id,
                    command: Command::Take(take),
                },
            ) => {
                let forgotten = match take.proof {
                    Proof::Unchanged(_) | Proof::Dead(_) => Mutation::OwnTakeoverForgotten,
                    Proof::None | Proof::Delegated { .. } => Mutation::OwnTakeForgotten,
                };
                // A first look is answered: else nobody ever holds.
                let looks_again = state.tabs[i].contender.participant().ripe_in(take_at(take));
                if mutation == forgotten && looks_again.is_some() {
                    // An answer that says nothing.
                    let answer = Some(Outcome::Refused);
                    self.handle(
                        state,
                        i,
                        Event::Answer {
                            id: *id,
                            command: Command::Take(take.clone()),
                            answer,
                        },
                    );
                }
                if mutation == Mutation::TakesTwice {
                    let command = What::Command(Command::Take(take.clone()));
                    self.send(state, i, SendId(u64::MAX), command);
                    if let Some(sent) = state.tabs[i].outbox.last_mut() {
                        sent.awaited = false;
                    }
                }
                if mutation == Mutation::EndedStillHeld {
                    self.name_others_as_ended(state, i);
                }
            }
            _ => {}
        }
    }

    /// What another lock object of this tab holds.
    fn name_others_as_ended(&self, state: &mut State, i: usize) {
        let others = self.mates(i).into_iter().filter(|j| *j != i);
        let held: Vec<_> = others
            .filter_map(|j| state.tabs[j].contender.participant().request())
            .collect();
        if let Some(Sent {
            what: What::Command(Command::Take(take)),
            ..
        }) = state.tabs[i].outbox.last_mut()
        {
            take.ended.extend(held);
        }
    }
}

fn take_at(take: &tab_lease::rules::Take) -> Now {
    Now::from_micros(take.at)
}
