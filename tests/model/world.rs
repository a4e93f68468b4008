//! The world that is explored: one record, a few tabs, a clock, and what may go wrong.
//!
//! Everything that decides is the crate's own: [`rules::apply`] is the store's step, [`Participant`]
//! and [`Past`] are the tab's. What is written here is what `lock.rs`, `heartbeat.rs` and the browser
//! do around them: who sends what when, what gets lost, and how time goes on.
//!
//! # Where a new command, message or duty goes
//!
//! - a command of the store (steal, pass, claim, fence): nothing in [`World::apply`] has to change; give
//!   the tab an [`Action`] that sends it, and handle its answer in [`World::deliver`].
//! - a message between tabs (GRANT): a `Vec` of them in [`State`], filled by [`World::send`]'s callers,
//!   with actions to deliver, lose and repeat any of them, and a second arm of [`World::deliver`].
//! - a new thing that can go wrong: a field of [`Budget`] and an [`Action`].
//! - a new property: `properties.rs`. A new way to break a rule: `mutation.rs`, and one line in its table.

use std::time::Duration;

use stateright::{Model, Property};
use tab_lease::participant::{Due, Now, Participant, Past, Renewed, Taken};
use tab_lease::rules::{self, Command, Outcome, Record, Requester};

use crate::mutation::Mutation;
use crate::properties;

/// One lock object, and how it is used.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Which tab it lives in. Lock objects of one tab share their [`Past`].
    pub tab: usize,
    /// Its lease length, in ticks.
    pub len: u32,
    /// Its clock is this far ahead of the world's.
    pub offset: u64,
    /// Whether it waits in the queue, or only tries.
    pub join: bool,
    /// How many requests it makes at most.
    pub requests: u64,
}

/// How often each thing may go wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// A tab dies. Some of its commands in flight may still arrive.
    pub crashes: u8,
    /// A tab stops running for as long as the checker likes (hung, frozen, throttled).
    pub pauses: u8,
    /// The store fails: a command is lost before it is applied, or its answer is.
    pub failures: u8,
    /// In a brisk world: that a command or an answer of a running tab is under way at a tick.
    pub late: u8,
    /// A caller gives up while it asks.
    pub give_ups: u8,
    /// Not a fault: fenced writes.
    pub writes: u8,
    /// The database is deleted under its holders.
    pub deletions: u8,
    /// The wall clock jumps to another age, or back.
    pub wall_jumps: u8,
}

/// What is explored.
#[derive(Clone, Debug)]
pub struct World {
    pub kinds: Vec<Kind>,
    /// How coarse the tabs' clocks are, in ticks.
    pub granule: u64,
    /// Time ends here, in ticks.
    pub horizon: u64,
    pub budget: Budget,
    /// Whether the commands and answers of one tab keep their order.
    pub fifo: bool,
    /// See [`Pace`].
    pub brisk: bool,
    pub mutation: Option<Mutation>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Life {
    Awake,
    Asleep,
    Crashed,
}

/// What goes to the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum What {
    Command(Command),
    /// A write in a fenced transaction of the application's.
    Write(Written),
}

/// A write, by the lease under which it was made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Written {
    pub who: Requester,
    pub epoch: u64,
    pub token: u64,
}

/// On its way to the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sent {
    pub what: What,
    /// The tab's clock, read before it was sent.
    pub at: Now,
    /// Whether anybody waits for the answer.
    pub awaited: bool,
    /// Not to be applied before the next tick. See [`Pace`].
    pub held: bool,
}

/// On its way back. `None`: the store failed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Answer {
    pub to: Sent,
    pub outcome: Option<Outcome>,
    /// Not to be delivered before the next tick. See [`Pace`].
    pub held: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tab {
    pub participant: Participant,
    pub life: Life,
    /// Requests made so far.
    pub requests: u64,
    /// The request that asks or holds.
    pub asking: Option<u64>,
    /// The lease that the application believes in: it has a guard, and was not told of a loss.
    pub lease: Option<Lease>,
    pub outbox: Vec<Sent>,
    pub inbox: Vec<Answer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    pub epoch: u64,
    pub token: u64,
}

/// The tenure with the highest token so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Started {
    pub lease: Lease,
    pub tab: usize,
    pub request: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub now: u64,
    pub record: Option<Record>,
    pub tabs: Vec<Tab>,
    pub pasts: Vec<Past>,
    pub left: Budget,
    /// Whether the wall clock is in the other age.
    pub wall_jumped: bool,
    pub started: Option<Started>,
    /// The latest write that was committed.
    pub register: Option<Written>,
    /// A step that no rule may take was taken.
    pub fault: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Tick,
    /// A tab does something of its own accord.
    Do(usize, Deed, Pace),
    /// The store applies that command in flight.
    Apply(usize, usize, Pace),
    /// That answer arrives.
    Deliver(usize, usize),
    Pause(usize),
    /// Runs again. What it does first: an answer that is there, or the look at the clock.
    Resume(usize, First),
    /// Dies; so many of its commands still reach the store.
    Crash(usize, usize),
    LoseCommand(usize, usize),
    LoseAnswer(usize, usize),
    Delete,
    JumpWall,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Takes, for the first time or again.
    Ask,
    /// Renews.
    Beat,
    Release,
    GiveUp,
    Write,
}

/// How far a command gets in the step that sends or applies it.
///
/// In a world that is not *brisk*, only that far; what follows are steps of their own, in any order with
/// those of others. That costs millions of states with three tabs, mostly for nothing: when a command
/// was sent and when its answer was heard is known to its own tab only, so within one tick only the
/// order counts in which the store applies. A brisk world has it either follow at once, or not before
/// the next tick, and bounds how much may be late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    Sent,
    Applied,
    Answered,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    Clock,
    Answer,
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let tab = |kind: &Kind| Tab {
            participant: self.participant(kind),
            life: Life::Awake,
            requests: 0,
            asking: None,
            lease: None,
            outbox: Vec::new(),
            inbox: Vec::new(),
        };
        vec![State {
            now: 0,
            record: None,
            tabs: self.kinds.iter().map(tab).collect(),
            pasts: vec![Past::default(); self.kinds.len()],
            left: self.budget,
            wall_jumped: false,
            started: None,
            register: None,
            fault: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.fault.is_some() {
            return;
        }
        let left = &state.left;
        for (i, tab) in state.tabs.iter().enumerate() {
            let any = |len: usize| 0..if self.fifo { len.min(1) } else { len };
            for k in any(tab.outbox.len()).filter(|k| !tab.outbox[*k].held) {
                let answers = tab.life == Life::Awake && tab.outbox[k].awaited;
                if self.brisk && answers {
                    actions.push(Action::Apply(i, k, Pace::Answered));
                }
                if !self.brisk || !answers || left.late > 0 {
                    actions.push(Action::Apply(i, k, Pace::Applied));
                }
            }
            if left.failures > 0 && tab.life != Life::Crashed {
                actions.extend(any(tab.outbox.len()).map(|k| Action::LoseCommand(i, k)));
                actions.extend(any(tab.inbox.len()).map(|k| Action::LoseAnswer(i, k)));
            }
            // A tab that never asked has nothing that could go wrong.
            if left.crashes > 0 && tab.life != Life::Crashed && tab.requests > 0 {
                actions.extend((0..=tab.outbox.len()).map(|kept| Action::Crash(i, kept)));
            }
            match tab.life {
                Life::Awake => {
                    let ready = any(tab.inbox.len()).filter(|k| !tab.inbox[*k].held);
                    actions.extend(ready.map(|k| Action::Deliver(i, k)));
                    if left.pauses > 0 && tab.requests > 0 {
                        actions.push(Action::Pause(i));
                    }
                    self.own_actions(state, i, actions);
                }
                Life::Asleep => {
                    actions.push(Action::Resume(i, First::Clock));
                    if !tab.inbox.is_empty() {
                        actions.push(Action::Resume(i, First::Answer));
                    }
                }
                Life::Crashed => {}
            }
        }
        if state.now < self.horizon && self.late(state) <= left.late.into() {
            actions.push(Action::Tick);
        }
        if left.deletions > 0 && state.record.is_some() {
            actions.push(Action::Delete);
        }
        if left.wall_jumps > 0 {
            actions.push(Action::JumpWall);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        self.step(&mut next, action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}

impl World {
    /// What an awake tab may do by itself.
    fn own_actions(&self, state: &State, i: usize, actions: &mut Vec<Action>) {
        let tab = &state.tabs[i];
        let paces = match (self.brisk && tab.outbox.is_empty(), state.left.late) {
            (true, 0) => &[Pace::Answered][..],
            (true, _) => &[Pace::Sent, Pace::Applied, Pace::Answered],
            (false, _) => &[Pace::Sent],
        };
        let mut may = |deed| actions.extend(paces.iter().map(|pace| Action::Do(i, deed, *pace)));
        let takes = |sent: &Sent| matches!(sent.what, What::Command(Command::Take(_)));
        let renews = |sent: &Sent| matches!(sent.what, What::Command(Command::Renew { .. }));
        if tab.lease.is_some() {
            may(Deed::Release);
            // A second renewal in the same instant would change nothing that matters, but the count.
            let good_until = tab.participant.good_until().unwrap_or_default();
            let gains = good_until + self.margin() < self.clock(state, i) + self.len(i);
            if gains && !tab.awaits(renews) {
                may(Deed::Beat);
            }
            if state.left.writes > 0 {
                may(Deed::Write);
            }
        } else {
            let again = tab.asking.is_some();
            if !tab.awaits(takes) && (again || self.may_begin(state, i)) {
                may(Deed::Ask);
            }
            if again && state.left.give_ups > 0 {
                may(Deed::GiveUp);
            }
        }
    }

    /// How much that is under way a tick would make late.
    fn late(&self, state: &State) -> usize {
        let running = state.tabs.iter().filter(|tab| tab.life == Life::Awake);
        let under_way = running.map(|tab| tab.outbox.len() + tab.inbox.len());
        if self.brisk { under_way.sum() } else { 0 }
    }

    fn may_begin(&self, state: &State, i: usize) -> bool {
        // Tabs that are alike begin in their order: which of them is called the first is all one.
        let alike = |a: &Kind, b: &Kind| {
            (a.len, a.join, a.requests) == (b.len, b.join, b.requests) && self.granule == 1
        };
        let mine = &self.kinds[i];
        state.tabs[i].requests < mine.requests
            && (i == 0 || state.tabs[i - 1].requests > 0 || !alike(&self.kinds[i - 1], mine))
    }

    /// Takes one step.
    pub fn step(&self, state: &mut State, action: Action) {
        match action {
            Action::Tick => {
                state.left.late -= u8::try_from(self.late(state)).unwrap_or(u8::MAX);
                state.now += 1;
                for i in 0..state.tabs.len() {
                    let tab = &mut state.tabs[i];
                    tab.outbox.iter_mut().for_each(|sent| sent.held = false);
                    tab.inbox.iter_mut().for_each(|answer| answer.held = false);
                    self.look_at_clock(state, i);
                }
            }
            Action::Do(i, deed, pace) => {
                self.act(state, i, deed);
                match pace {
                    Pace::Sent if self.brisk && state.tabs[i].outbox.len() == 1 => {
                        state.tabs[i].outbox[0].held = true;
                    }
                    Pace::Sent => {}
                    Pace::Applied | Pace::Answered => self.apply(state, i, 0, pace),
                }
            }
            Action::Apply(i, k, pace) => self.apply(state, i, k, pace),
            Action::Deliver(i, k) => self.deliver(state, i, k),
            Action::Pause(i) => {
                state.left.pauses -= 1;
                state.tabs[i].life = Life::Asleep;
            }
            Action::Resume(i, first) => {
                state.tabs[i].life = Life::Awake;
                if first == First::Answer {
                    self.deliver(state, i, 0);
                }
                self.look_at_clock(state, i);
            }
            Action::Crash(i, kept) => {
                state.left.crashes -= 1;
                self.crash(state, i, kept);
            }
            Action::LoseCommand(i, k) => {
                state.left.failures -= 1;
                let to = state.tabs[i].outbox.remove(k);
                state.tabs[i].answer(to, None);
            }
            Action::LoseAnswer(i, k) => {
                state.left.failures -= 1;
                state.tabs[i].inbox[k].outcome = None;
            }
            Action::Delete => {
                state.left.deletions -= 1;
                state.record = None;
            }
            Action::JumpWall => {
                state.left.wall_jumps -= 1;
                state.wall_jumped ^= true;
            }
        }
    }

    fn act(&self, state: &mut State, i: usize, deed: Deed) {
        match deed {
            Deed::Ask => self.ask(state, i),
            Deed::Beat => {
                let now = self.clock(state, i);
                let past = &mut state.pasts[self.kinds[i].tab];
                match state.tabs[i].participant.due(past, now) {
                    Some(Due::Renew(renewal)) => self.send(state, i, What::Command(renewal)),
                    due => state.fault = Some(unexpected(due.is_some())),
                }
            }
            Deed::Release => self.end(state, i),
            Deed::GiveUp => {
                state.left.give_ups -= 1;
                self.end(state, i);
            }
            Deed::Write => {
                state.left.writes -= 1;
                let (Some(lease), Some(request)) = (state.tabs[i].lease, state.tabs[i].asking)
                else {
                    return;
                };
                let write = Written {
                    who: self.requester(i, request),
                    epoch: lease.epoch,
                    token: lease.token,
                };
                // "Fence, then write" in two transactions.
                let apart = self.mutated(Mutation::FenceApart);
                if !apart || self.fence(state.record.as_ref(), &write) {
                    self.send(state, i, What::Write(write));
                }
            }
        }
    }

    // ---- The store ----------------------------------------------------------------------------

    /// One atomic step of the store.
    fn apply(&self, state: &mut State, i: usize, k: usize, pace: Pace) {
        if state.tabs[i].outbox.is_empty() {
            // There was nothing to tell the store.
            return;
        }
        let sent = state.tabs[i].outbox.remove(k);
        let outcome = match &sent.what {
            What::Command(command) => {
                let found = state.record.as_ref();
                let (write, outcome) = match self.mutation {
                    None => rules::apply(found, command),
                    Some(mutation) => mutation.apply(found, command, self.wall(state)),
                };
                if let Some(write) = &write {
                    state.fault = state.fault.or(fault_of_hands(found, write));
                    state.fault = state.fault.or(fault_of_queue(found, command, write));
                }
                state.record = write.or(state.record.take());
                if let (Outcome::Held(held), Some(record)) = (&outcome, &state.record) {
                    let (asker, token) = match command {
                        Command::Take(take) => (&take.who, record.token),
                        Command::Renew { who, token, .. } => (who, *token),
                        Command::Quit { who } => (who, record.token),
                    };
                    if record.holder.as_ref() != Some(asker) || record.token != token {
                        state.fault = Some("another's lease was answered to be the asker's");
                    } else if (held.epoch, held.token) != (record.epoch, record.token) {
                        state.fault = Some("the answer names another lease than the record");
                    }
                }
                outcome
            }
            What::Write(write) => {
                if self.fence(state.record.as_ref(), write)
                    || self.mutated(Mutation::FenceApart)
                    || self.mutated(Mutation::FenceSkipped)
                {
                    commit(state, write);
                    // The application is not told anything it needs to know.
                    return;
                }
                Outcome::Refused
            }
        };
        if !sent.awaited {
            return;
        }
        state.tabs[i].answer(sent, Some(outcome));
        if self.brisk {
            let last = state.tabs[i].inbox.len() - 1;
            match pace {
                Pace::Answered => self.deliver(state, i, last),
                _ => state.tabs[i].inbox[last].held = true,
            }
        }
    }

    /// The check at the head of a fenced transaction. To be `rules::apply` itself, once it has a
    /// command for it.
    fn fence(&self, record: Option<&Record>, write: &Written) -> bool {
        record.is_some_and(|record| {
            record.token == write.token
                && (self.mutated(Mutation::FenceByTokenAlone)
                    || record.epoch == write.epoch && record.holder.as_ref() == Some(&write.who))
        })
    }

    // ---- The tab ------------------------------------------------------------------------------

    fn ask(&self, state: &mut State, i: usize) {
        let kind = &self.kinds[i];
        let now = self.clock(state, i);
        // Request ids are unique within a tab, whichever of its lock objects makes them.
        let request = 1 + i as u64 + 10 * state.tabs[i].requests;
        let epoch = if self.budget.deletions == 0 {
            1
        } else {
            let deletions = u64::from(self.budget.deletions - state.left.deletions);
            1 + request + 1000 * deletions
        };
        let wall = self.wall(state);
        let past = &state.pasts[kind.tab];
        let tab = &mut state.tabs[i];
        if tab.asking.is_none() {
            tab.requests += 1;
            tab.asking = Some(request);
        }
        let ripe_at = match self.mutation {
            Some(Mutation::ProofOneTickEarly) => now + ticks(1),
            _ => now,
        };
        let mut take = tab
            .participant
            .take(past, ripe_at, request, kind.join, epoch, wall);
        if self.mutated(Mutation::EndedStillHeld) {
            // What another lock object of this tab holds.
            let others = state.tabs.iter().enumerate();
            take.ended.extend(
                others
                    .filter(|(j, _)| *j != i && self.kinds[*j].tab == kind.tab)
                    .filter_map(|(_, other)| other.asking),
            );
        }
        self.send(state, i, What::Command(Command::Take(take)));
    }

    /// A tab handles an answer.
    fn deliver(&self, state: &mut State, i: usize, k: usize) {
        let Answer { to, outcome, .. } = state.tabs[i].inbox.remove(k);
        let now = self.clock(state, i);
        match (&to.what, outcome) {
            (What::Command(Command::Take(take)), Some(outcome)) => {
                self.taken(state, i, &take.ended, (to.at, now), outcome);
            }
            // The call fails, and its request is over.
            (What::Command(Command::Take(_)), None) => self.end(state, i),
            (What::Command(Command::Renew { token, .. }), Some(outcome)) => {
                self.renewed(state, i, *token, (to.at, now), &outcome);
            }
            (What::Command(quit @ Command::Quit { .. }), Some(_)) => {
                state.pasts[self.kinds[i].tab].confirmed(quit);
            }
            // The fence refused: that lease is lost.
            (What::Write(write), Some(outcome)) => {
                self.renewed(state, i, write.token, (to.at, now), &outcome);
            }
            // There is time for another renewal; a quit is named in the next take.
            (
                What::Command(Command::Renew { .. } | Command::Quit { .. }) | What::Write(_),
                None,
            ) => {}
        }
    }

    fn taken(&self, state: &mut State, i: usize, ended: &[u64], at: (Now, Now), answer: Outcome) {
        let (mut sent, mut now) = at;
        let mut answer = answer;
        if let Some(mutation) = self.mutation {
            mutation.taken(&mut sent, &mut now, &mut answer, self.len(i));
        }
        let kind = &self.kinds[i];
        let past = &mut state.pasts[kind.tab];
        let tab = &mut state.tabs[i];
        match tab.participant.taken(past, ended, sent, now, &answer) {
            Taken::Held(holding) => {
                let lease = Lease {
                    epoch: holding.epoch,
                    token: holding.token,
                };
                tab.lease = Some(lease);
                let started = Started {
                    lease,
                    tab: kind.tab,
                    request: tab.asking.unwrap_or_default(),
                };
                if let Some(before) = state.started.filter(|b| b.lease.epoch == lease.epoch) {
                    if lease.token < before.lease.token {
                        state.fault = Some("a lease started after one with a higher token");
                    } else if lease.token == before.lease.token && started != before {
                        state.fault = Some("two requests started with one token");
                    } else if !holding.dirty && before.tab != kind.tab {
                        state.fault = Some("not dirty, though another tab held");
                    }
                }
                state.started = Some(started);
            }
            // It asks again, or gives up, when it likes.
            Taken::Busy | Taken::Late => {}
        }
    }

    fn renewed(&self, state: &mut State, i: usize, token: u64, at: (Now, Now), answer: &Outcome) {
        let (mut sent, now) = at;
        if let Some(mutation) = self.mutation {
            mutation.renewed(&mut sent, now);
            if mutation == Mutation::RefusalIgnored && *answer == Outcome::Refused {
                return self.must_be_told(state, i, token);
            }
        }
        let past = &mut state.pasts[self.kinds[i].tab];
        let tab = &mut state.tabs[i];
        match tab.participant.renewed(past, token, sent, now, answer) {
            Renewed::Until(_) | Renewed::Stale => {}
            Renewed::Lost(quit) | Renewed::Late(quit) => self.lost(state, i, quit),
        }
        if *answer == Outcome::Refused {
            self.must_be_told(state, i, token);
        }
    }

    /// The store has said that this lease is over.
    fn must_be_told(&self, state: &mut State, i: usize, token: u64) {
        if state.tabs[i].lease.is_some_and(|l| l.token == token) {
            state.fault = Some("a refused lease is still believed in");
        }
    }

    /// What the heartbeat of an awake tab does when the end of the lease comes.
    fn look_at_clock(&self, state: &mut State, i: usize) {
        let now = self.clock(state, i);
        let tab = &mut state.tabs[i];
        let ran_out = tab.lease.is_some() && tab.participant.holding(now).is_none();
        let silent = self.mutated(Mutation::ExpiryNotTold) || self.mutated(Mutation::ExpiryIgnored);
        if tab.life != Life::Awake || !ran_out || silent {
            return;
        }
        match tab
            .participant
            .due(&mut state.pasts[self.kinds[i].tab], now)
        {
            Some(Due::Expired(quit)) => self.lost(state, i, quit),
            due => state.fault = Some(unexpected(due.is_some())),
        }
    }

    /// The lease is lost, and the application is told.
    fn lost(&self, state: &mut State, i: usize, quit: Command) {
        state.tabs[i].forget();
        self.send(state, i, What::Command(quit));
    }

    /// Ends the request of this tab by release, failure or giving up.
    fn end(&self, state: &mut State, i: usize) {
        let quit = state.tabs[i]
            .participant
            .end(&mut state.pasts[self.kinds[i].tab]);
        state.tabs[i].forget();
        if let Some(quit) = quit {
            self.send(state, i, What::Command(quit));
        }
    }

    /// The tab is gone, with all its lock objects.
    fn crash(&self, state: &mut State, i: usize, kept: usize) {
        state.tabs[i].outbox.truncate(kept);
        for (j, kind) in self.kinds.iter().enumerate() {
            if kind.tab != self.kinds[i].tab {
                continue;
            }
            let tab = &mut state.tabs[j];
            for sent in &mut tab.outbox {
                sent.awaited = false;
            }
            // What it knew does not matter any more.
            *tab = Tab {
                participant: self.participant(kind),
                life: Life::Crashed,
                requests: kind.requests,
                asking: None,
                lease: None,
                outbox: std::mem::take(&mut tab.outbox),
                inbox: Vec::new(),
            };
        }
        state.pasts[self.kinds[i].tab] = Past::default();
    }

    fn send(&self, state: &mut State, i: usize, what: What) {
        let at = self.clock(state, i);
        state.tabs[i].outbox.push(Sent {
            what,
            at,
            awaited: true,
            held: false,
        });
    }

    // ---- What the world is like ----------------------------------------------------------------

    fn participant(&self, kind: &Kind) -> Participant {
        let margin = if self.mutated(Mutation::NoMargin) {
            Duration::ZERO
        } else {
            self.margin()
        };
        Participant::new(tab_name(kind.tab), kind.len, margin)
    }

    fn requester(&self, i: usize, request: u64) -> Requester {
        let tab = tab_name(self.kinds[i].tab);
        Requester { tab, request }
    }

    /// Two granules; nothing where a clock tells every tick.
    fn margin(&self) -> Duration {
        ticks(if self.granule > 1 {
            2 * self.granule
        } else {
            0
        })
    }

    fn len(&self, i: usize) -> Duration {
        ticks(self.kinds[i].len.into())
    }

    /// What the clock of a tab shows.
    pub fn clock(&self, state: &State, i: usize) -> Now {
        let exact = state.now + self.kinds[i].offset;
        ticks(exact - exact % self.granule)
    }

    /// What wall clocks show. It stands still where it cannot matter, to save states.
    fn wall(&self, state: &State) -> u64 {
        match (state.wall_jumped, self.budget.wall_jumps > 0) {
            (_, false) => 0,
            (false, true) => 100 + state.now,
            (true, true) => 1000 + state.now,
        }
    }

    pub fn mutated(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// Whether the application may go on as a holder: what a guard's `is_held` says.
    pub fn believes(&self, state: &State, i: usize) -> Option<Lease> {
        let tab = &state.tabs[i];
        let good = tab.participant.holding(self.clock(state, i)).is_some()
            || self.mutated(Mutation::ExpiryIgnored);
        tab.lease.filter(|_| good)
    }

    /// G3: nothing is under way and nothing goes wrong any more. Then every tab that runs gets the lock
    /// if it wants it: at once if nothing ever went wrong, else within the recorded lease.
    pub fn recovers(&self, state: &State) -> bool {
        let quiet = |tab: &Tab| tab.outbox.is_empty() && tab.inbox.is_empty();
        if !state.tabs.iter().all(quiet) {
            // It gets quiet by steps that the checker takes as well.
            return true;
        }
        let unharmed = Budget {
            writes: self.budget.writes,
            give_ups: self.budget.give_ups,
            wall_jumps: self.budget.wall_jumps,
            late: self.budget.late,
            ..state.left
        } == self.budget;
        let record_len = state.record.as_ref().map_or(0, |record| record.len.into());
        // A take that overtakes its own quit is a fault as well: its lease lapses.
        let patience = if unharmed && self.fifo {
            0
        } else {
            record_len + self.granule - 1
        };
        let mut state = state.clone();
        let mut wait: Vec<bool> = state.tabs.iter().map(|t| t.life == Life::Awake).collect();
        for _ in 0..=patience {
            // Rounds enough for one to release to the other, in whatever order they look.
            for _ in 0..=2 * wait.len() {
                for (i, waits) in wait.iter_mut().enumerate() {
                    if state.tabs[i].life != Life::Awake {
                        continue;
                    }
                    if state.tabs[i].lease.is_some() {
                        *waits = false;
                        self.act(&mut state, i, Deed::Release);
                    } else if *waits {
                        self.act(&mut state, i, Deed::Ask);
                    }
                    while !quiet(&state.tabs[i]) {
                        if !state.tabs[i].outbox.is_empty() {
                            self.apply(&mut state, i, 0, Pace::Applied);
                        }
                        if !state.tabs[i].inbox.is_empty() {
                            self.deliver(&mut state, i, 0);
                        }
                    }
                }
                if !wait.contains(&true) {
                    return state.fault.is_none();
                }
            }
            self.step(&mut state, Action::Tick);
        }
        false
    }

    /// Nothing is under way, and a tab that asks for nothing is named as the holder, while nobody
    /// waits: it must not be locked out by itself.
    pub fn own_lease_is_no_obstacle(&self, state: &State) -> bool {
        let alone = |r: &&Record| r.queue.is_empty();
        let record = state.record.as_ref().filter(alone);
        let Some(holder) = record.and_then(|r| r.holder.as_ref()) else {
            return true;
        };
        (0..state.tabs.len()).all(|i| {
            let tab = &state.tabs[i];
            let idle = tab.life == Life::Awake && tab.asking.is_none();
            let twins = self.kinds.iter().filter(|k| k.tab == self.kinds[i].tab);
            // A take that overtakes its own quit does lock its tab out, for a lease.
            if !idle
                || !self.fifo
                || twins.count() > 1
                || holder.tab != tab_name(self.kinds[i].tab)
                || !tab.outbox.is_empty()
                || !tab.inbox.is_empty()
            {
                return true;
            }
            let mut state = state.clone();
            self.act(&mut state, i, Deed::Ask);
            self.apply(&mut state, i, 0, Pace::Applied);
            self.deliver(&mut state, i, 0);
            state.tabs[i].lease.is_some()
        })
    }
}

impl Tab {
    fn awaits(&self, what: impl Fn(&Sent) -> bool) -> bool {
        let in_flight = self.outbox.iter().filter(|sent| sent.awaited);
        in_flight.chain(self.inbox.iter().map(|a| &a.to)).any(what)
    }

    fn answer(&mut self, to: Sent, outcome: Option<Outcome>) {
        if to.awaited {
            self.inbox.push(Answer {
                to,
                outcome,
                held: false,
            });
        }
    }

    /// The request is over: nobody waits for answers to its takes and renewals any more.
    fn forget(&mut self) {
        let dropped = |sent: &Sent| !matches!(sent.what, What::Command(Command::Quit { .. }));
        self.asking = None;
        self.lease = None;
        self.inbox.retain(|answer| !dropped(&answer.to));
        for sent in &mut self.outbox {
            sent.awaited &= !dropped(sent);
        }
    }
}

/// What is wrong with a change of hands, if anything.
fn fault_of_hands(found: Option<&Record>, write: &Record) -> Option<&'static str> {
    let found = found.filter(|found| found.epoch == write.epoch)?;
    if write.token < found.token {
        Some("a token went backwards")
    } else if write.holder.is_some() && write.holder != found.holder && write.token == found.token {
        Some("a token changed hands")
    } else {
        None
    }
}

/// What is wrong with who waits, if anything: first in, first out.
fn fault_of_queue(
    found: Option<&Record>,
    command: &Command,
    write: &Record,
) -> Option<&'static str> {
    let found = found.filter(|found| found.epoch == write.epoch)?;
    let stay: Vec<_> = found
        .queue
        .iter()
        .filter(|w| write.queue.contains(w))
        .collect();
    if write.queue.iter().take(stay.len()).ne(stay) {
        return Some("the order of those who wait has changed");
    }
    let quits = |who| found.holder.as_ref() == Some(who);
    match (command, found.queue.first()) {
        (Command::Quit { who }, Some(head))
            if quits(who) && write.holder.as_ref() != Some(&head.who) =>
        {
            Some("a released lock did not go to who waited longest")
        }
        _ => None,
    }
}

/// A write is committed. G1 as token order, and G2.
fn commit(state: &mut State, write: &Written) {
    let overtaken = state.register.as_ref().is_some_and(|last| {
        last.epoch == write.epoch
            && (write.token < last.token || write.token == last.token && write.who != last.who)
    });
    let outlived = state.record.as_ref().map(|record| record.epoch) != Some(write.epoch);
    if overtaken || outlived {
        state.fault = Some("a stale write was committed");
    }
    state.register = Some(write.clone());
}

fn unexpected(something: bool) -> &'static str {
    if something {
        "a holder was told to do something else"
    } else {
        "a holder had nothing to do"
    }
}

pub const fn ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks)
}

fn tab_name(tab: usize) -> String {
    ["a", "b", "c", "d"][tab].to_owned()
}
