//! The world that is explored: one record, a few tabs, a clock, and what may go wrong.
//!
//! Everything that decides is the crate's own: [`rules::apply`] is the store's step, [`Participant`]
//! and [`Past`] are the tab's. What is written here is what `lock.rs`, `heartbeat.rs` and the browser
//! do around them: who sends what when, what gets lost, and how time goes on.
//!
//! # Messages
//!
//! What tabs tell each other is in [`State::mail`]. A GRANT may be heard at any later time, in any order,
//! twice, or never. A WANT is gone at the next tick, if it was not heard (lost), unless the world
//! [keeps](World::wants_stay) them; how many there are is in the budget.
//!
//! # Where something new goes
//!
//! - a command of the store: nothing in [`World::apply`] has to change; give the tab an [`Action`] that
//!   sends it, and handle its answer in [`World::deliver`].
//! - a message between tabs: an arm of [`Mail`], [`World::post`] and [`World::hear`].
//! - a new thing that can go wrong: a field of [`Budget`] and an [`Action`].
//! - a new property: `properties.rs`. A new way to break a rule: `mutation.rs`, and one line in its table.

use std::time::Duration;

use stateright::{Model, Property};
use tab_lease::evidence::{Evidence, Manager, Word};
use tab_lease::participant::{
    Ask, Due, Grant, Heard, Holding, Lens, Now, Participant, Past, Release, Renewed, Taken, Want,
};
use tab_lease::rules::{
    self, Command, Fence, Fenced, Outcome, Proof, Record, Requester, Take, Waiting,
};

use crate::faults::{commit, fault_of_hands};
use crate::mutation::Mutation;
use crate::properties;

/// One lock object, and how it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Which tab it lives in. Lock objects of one tab share their [`Past`].
    pub tab: usize,
    /// Its lease length, in ticks …
    pub len: u32,
    /// … and while nobody waits, if it has a beacon …
    pub idle: u32,
    /// … and while its page is hidden …
    pub hidden: u32,
    /// … as it is from the beginning.
    pub hides_first: bool,
    /// Whether its tab has a beacon.
    pub beacon: bool,
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
    /// The same, but it is told before: it lets go of everything.
    pub stops: u8,
    /// Not a fault: a page is hidden or shown.
    pub hides: u8,
    /// The store fails: a command is lost before it is applied, or its answer is.
    pub failures: u8,
    /// In a brisk world: that a command, an answer or a GRANT for a running tab is under way at a tick,
    /// or a pass waits to be sent.
    pub late: u8,
    /// In a brisk world: a GRANT is never heard. (Elsewhere it need not be heard anyway.)
    pub losses: u8,
    /// A GRANT is heard twice.
    pub repeats: u8,
    /// Not a fault: WANTs.
    pub wants: u8,
    /// A caller gives up while it asks.
    pub give_ups: u8,
    /// Not a fault: fenced writes.
    pub writes: u8,
    /// The database is deleted under its holders.
    pub deletions: u8,
    /// The database is deleted in order: all tabs let go first.
    pub closings: u8,
    /// The wall clock jumps to another age, or back.
    pub wall_jumps: u8,
}

/// What the tabs' lock managers are like, which hold their beacons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locks {
    /// One manager of the browser's for all.
    Shared,
    /// The browser's, but one for each tab: a frame whose locks are partitioned.
    Apart,
    /// The browser's, and a wrapper in front of it that calls back with nothing, at any time.
    Null,
    /// Somebody's own, which says anything at any time.
    Foreign,
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
    /// WANTs may be as late as time allows.
    pub wants_stay: bool,
    /// Whoever waits tells the holder that it is the next one, even if it is not.
    pub pushy: bool,
    /// Fenced transactions take their time, during which the store does nothing else; and it applies what
    /// all tabs send in the order in which they sent it, as IndexedDB does.
    pub long_writes: bool,
    pub locks: Locks,
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
    /// A write in a fenced transaction of the application's, and until when its lease was good. Its
    /// answer is [`PASSED`] or [`Outcome::Refused`].
    Write(Fence, Now),
    /// Only to a tab: that transaction is over, and its check had passed.
    Over(Fence),
}

/// The check of a fenced transaction has passed.
const PASSED: Outcome = Outcome::Gone { granted: None };

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

/// On its way from tab to tab.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Mail {
    Grant(Grant),
    Want(Want),
}

/// A delegation that its sender has yet to write down.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Passing {
    pub grant: Grant,
    pub pass: Command,
    pub sent: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tab {
    pub participant: Participant,
    pub evidence: Evidence,
    pub life: Life,
    pub hidden: bool,
    /// Requests made so far.
    pub requests: u64,
    /// The request that asks or holds.
    pub asking: Option<u64>,
    /// The lease that the application believes in: it has a guard, and was not told of a loss.
    pub lease: Option<Lease>,
    /// It has started by a GRANT and sends the claim in no time. Only then the application is told, and
    /// whether others held: this. (The caller may be gone already.)
    pub untold: Option<bool>,
    pub passes: Vec<Passing>,
    /// The latest request that was handed on by a GRANT.
    pub handed_on: Option<u64>,
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
    /// In an order of its own, so that what was sent first makes no difference.
    pub mail: Vec<Mail>,
    pub left: Budget,
    /// Whether the wall clock is in the other age.
    pub wall_jumped: bool,
    pub started: Option<Started>,
    /// The tab that held last, and the epoch.
    pub user: Option<(u64, usize)>,
    /// The latest write that was committed, by the lease under which it was made.
    pub register: Option<Fence>,
    /// The fenced transaction that holds up the store, and whose it is.
    pub open: Option<(usize, Fence)>,
    /// With [`World::long_writes`]: whose the commands in flight are, in the order of sending.
    pub order: Vec<usize>,
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
    /// The failure of that take arrives, but another caller goes on with the request.
    DeliverAndGoOn(usize, usize),
    /// That message arrives, and perhaps will again.
    Hear(usize, Copies),
    LoseGrant(usize),
    /// A tab hears its lock manager say that of the beacon that it watches.
    Hark(usize, Word),
    Pause(usize),
    /// Is told that it is about to be paused.
    Stop(usize),
    /// Is hidden, or shown.
    Hide(usize),
    /// Runs again. What it does first: an answer that is there, or the look at the clock.
    Resume(usize, First),
    /// Dies; so many of its commands still reach the store.
    Crash(usize, usize),
    LoseCommand(usize, usize),
    LoseAnswer(usize, usize),
    Delete,
    Close,
    JumpWall,
    /// The fenced transaction that holds up the store is committed.
    Commit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copies {
    Last,
    OneMore,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Takes, for the first time or again.
    Ask,
    /// Renews, or claims.
    Beat,
    /// Writes down what it has delegated.
    Pass,
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
            evidence: self.evidence(),
            life: Life::Awake,
            hidden: kind.hides_first,
            requests: 0,
            asking: None,
            lease: None,
            untold: None,
            passes: Vec::new(),
            handed_on: None,
            outbox: Vec::new(),
            inbox: Vec::new(),
        };
        vec![State {
            now: 0,
            record: None,
            tabs: self.kinds.iter().map(tab).collect(),
            pasts: vec![Past::default(); self.kinds.len()],
            mail: Vec::new(),
            left: self.budget,
            wall_jumped: false,
            started: None,
            user: None,
            register: None,
            open: None,
            order: Vec::new(),
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
            let in_turn = self.is_in_turn(state, i);
            for k in any(tab.outbox.len()).filter(|k| in_turn && !tab.outbox[*k].held) {
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
                let told = any(tab.inbox.len()).filter(|k| is_command(&tab.inbox[*k].to));
                actions.extend(told.map(|k| Action::LoseAnswer(i, k)));
            }
            // A tab that never asked has nothing that could go wrong.
            if left.crashes > 0 && tab.life != Life::Crashed && tab.requests > 0 {
                actions.extend((0..=tab.outbox.len()).map(|kept| Action::Crash(i, kept)));
            }
            match tab.life {
                Life::Awake => {
                    let ready = any(tab.inbox.len()).filter(|k| !tab.inbox[*k].held);
                    for k in ready {
                        actions.push(Action::Deliver(i, k));
                        if tab.inbox[k].outcome.is_none() && is_take(&tab.inbox[k].to) {
                            actions.push(Action::DeliverAndGoOn(i, k));
                        }
                    }
                    let words = self.words(state, i).into_iter();
                    actions.extend(words.map(|word| Action::Hark(i, word)));
                    if left.pauses > 0 && tab.requests > 0 {
                        actions.push(Action::Pause(i));
                    }
                    if left.stops > 0 && tab.requests > 0 {
                        actions.push(Action::Stop(i));
                    }
                    if left.hides > 0 {
                        actions.push(Action::Hide(i));
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
        for (k, mail) in state.mail.iter().enumerate() {
            if k > 0 && state.mail[k - 1] == *mail {
                continue;
            }
            if let Mail::Grant(grant) = mail {
                if self.brisk && left.losses > 0 {
                    actions.push(Action::LoseGrant(k));
                }
                if !self.can_hear(state, grant) {
                    continue;
                }
                if left.repeats > 0 {
                    actions.push(Action::Hear(k, Copies::OneMore));
                }
            }
            actions.push(Action::Hear(k, Copies::Last));
        }
        let owes = |tab: &Tab| tab.untold.is_some() && tab.life == Life::Awake;
        if state.now < self.horizon
            && self.late(state) <= left.late.into()
            && !state.tabs.iter().any(owes)
        {
            actions.push(Action::Tick);
        }
        if state.open.is_some() {
            actions.push(Action::Commit);
        }
        if left.deletions > 0 && state.record.is_some() && state.open.is_none() {
            actions.push(Action::Delete);
        }
        if left.closings > 0 && state.record.is_some() && self.can_close(state) {
            actions.push(Action::Close);
        }
        if left.wall_jumps > 0 {
            actions.push(Action::JumpWall);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        self.step(&mut next, action);
        self.tidy(&mut next);
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
        let at_once = state.open.is_none() && state.order.is_empty();
        let paces = match (
            self.brisk && tab.outbox.is_empty() && at_once,
            state.left.late,
        ) {
            (true, 0) => &[Pace::Answered][..],
            (true, _) => &[Pace::Sent, Pace::Applied, Pace::Answered],
            (false, _) => &[Pace::Sent],
        };
        let mut may = |deed| actions.extend(paces.iter().map(|pace| Action::Do(i, deed, *pace)));
        let renews = |sent: &Sent| {
            let What::Command(command) = &sent.what else {
                return false;
            };
            matches!(command, Command::Renew { .. } | Command::Claim { .. })
        };
        if tab.passes.iter().any(|passing| !passing.sent) {
            may(Deed::Pass);
        }
        if tab.lease.is_some() {
            may(Deed::Release);
            let behind = tab.participant.is_fenced() && !tab.participant.is_unclaimed();
            if (!tab.awaits(renews) || behind) && self.beat_matters(state, i) {
                may(Deed::Beat);
            }
            if state.left.writes > 0 {
                may(Deed::Write);
            }
        } else {
            let again = tab.asking.is_some();
            if !tab.awaits(is_take) && (again || self.may_begin(state, i)) {
                may(Deed::Ask);
            }
            if again && state.left.give_ups > 0 {
                may(Deed::GiveUp);
            }
        }
    }

    /// A second renewal in the same instant would change nothing that matters, but the count.
    fn beat_matters(&self, state: &State, i: usize) -> bool {
        let kind = &self.kinds[i];
        let holder = &state.tabs[i].participant;
        let mut after = holder.clone();
        let past = &mut state.pasts[kind.tab].clone();
        let due = after.due(past, self.clock(state, i), kind.beacon, self.wall(state));
        let Some(Due::Renew(Command::Renew { len, .. })) = due else {
            return holder.is_unclaimed();
        };
        let until = holder.good_until().unwrap_or_default() + self.margin();
        let gains = until < self.clock(state, i) + ticks(len.into());
        gains || after.long() < holder.long()
    }

    /// How much that is under way a tick would make late.
    fn late(&self, state: &State) -> usize {
        // What waits behind a long transaction is not late by itself.
        if !self.brisk || state.open.is_some() {
            return 0;
        }
        let running = state.tabs.iter().filter(|tab| tab.life == Life::Awake);
        let under_way = running.map(|tab| {
            let to_pass = tab.passes.iter().filter(|passing| !passing.sent);
            tab.outbox.len() + tab.inbox.len() + to_pass.count()
        });
        let granted = |mail: &&Mail| match mail {
            Mail::Grant(grant) => self.can_hear(state, grant),
            Mail::Want(_) => false,
        };
        under_way.sum::<usize>() + state.mail.iter().filter(granted).count()
    }

    fn may_begin(&self, state: &State, i: usize) -> bool {
        // Tabs that are alike begin in their order: which of them is called the first is all one.
        let alike = |a: &Kind, b: &Kind| {
            let use_of = |kind: &Kind| Kind {
                tab: 0,
                offset: 0,
                ..*kind
            };
            use_of(a) == use_of(b) && self.granule == 1
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
                let stays = |mail: &Mail| self.wants_stay || matches!(mail, Mail::Grant(_));
                state.mail.retain(stays);
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
                    Pace::Sent
                        if self.brisk && !self.long_writes && state.tabs[i].outbox.len() == 1 =>
                    {
                        state.tabs[i].outbox[0].held = true;
                    }
                    Pace::Sent => {}
                    Pace::Applied | Pace::Answered => self.apply(state, i, 0, pace),
                }
            }
            Action::Apply(i, k, pace) => self.apply(state, i, k, pace),
            Action::Deliver(i, k) => self.deliver(state, i, k),
            Action::DeliverAndGoOn(i, k) => {
                let answer = state.tabs[i].inbox.remove(k);
                if let What::Command(Command::Take(take)) = &answer.to.what {
                    state.tabs[i].participant.failed(take);
                }
            }
            Action::Hear(k, copies) => {
                let mail = match copies {
                    Copies::Last => state.mail.remove(k),
                    Copies::OneMore => {
                        state.left.repeats -= 1;
                        state.mail[k].clone()
                    }
                };
                self.hear(state, &mail);
            }
            Action::LoseGrant(k) => {
                state.left.losses -= 1;
                state.mail.remove(k);
            }
            Action::Hark(i, word) => self.hark(state, i, word),
            Action::Pause(i) => {
                state.left.pauses -= 1;
                state.tabs[i].life = Life::Asleep;
            }
            Action::Stop(i) => {
                state.left.stops -= 1;
                self.stop(state, i);
            }
            Action::Hide(i) => {
                state.left.hides -= 1;
                let hidden = !state.tabs[i].hidden;
                state.tabs[i].hidden = hidden;
                state.tabs[i].participant.hide(hidden);
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
                state.forget_order(i);
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
            Action::Close => {
                state.left.closings -= 1;
                self.close(state);
            }
            Action::JumpWall => {
                state.left.wall_jumps -= 1;
                state.wall_jumped ^= true;
            }
            Action::Commit => {
                if let Some((i, lease)) = state.open.take() {
                    commit(state, &lease);
                    self.over(state, i, lease, Pace::Answered);
                }
            }
        }
    }

    pub fn act(&self, state: &mut State, i: usize, deed: Deed) {
        match deed {
            Deed::Ask => self.ask(state, i),
            Deed::Beat => {
                let before = state.tabs[i].participant.clone();
                match self.due(state, i) {
                    Some(Due::Renew(renewal)) => {
                        self.tell(state, i);
                        self.send(state, i, What::Command(renewal));
                        let shorter = state.tabs[i].participant.long() < before.long();
                        if shorter && self.mutated(Mutation::ShortenedNotCut) {
                            let until = before.good_until().unwrap_or_default() + self.margin();
                            let sent = state.tabs[i].outbox.iter_mut().last();
                            sent.into_iter()
                                .for_each(|sent| sent.at = until - self.len(i));
                        }
                    }
                    due => state.fault = Some(unexpected(due.is_some())),
                }
            }
            Deed::Pass => {
                let mut passes = state.tabs[i].passes.iter_mut();
                if let Some(passing) = passes.find(|passing| !passing.sent) {
                    passing.sent = true;
                    let pass = passing.pass.clone();
                    self.send(state, i, What::Command(pass));
                }
            }
            Deed::Release => self.release(state, i),
            Deed::GiveUp => {
                state.left.give_ups -= 1;
                self.end(state, i);
            }
            Deed::Write => {
                state.left.writes -= 1;
                // The application is told before the claim is sent, or it would not write.
                self.tell(state, i);
                let (now, wall) = (self.clock(state, i), self.wall(state));
                let beacon = self.kinds[i].beacon;
                let participant = &mut state.tabs[i].participant;
                let until = participant.good_until().unwrap_or_default();
                let Some(lease) = participant.fence(now, beacon, wall) else {
                    state.fault = Some("a holder could not begin a fenced transaction");
                    return;
                };
                // "Fence, then write" in two transactions.
                let apart = self.mutated(Mutation::FenceApart);
                if !apart || self.fence(state.record.as_ref(), &lease) != Fenced::Refused {
                    self.send(state, i, What::Write(lease, until));
                }
            }
        }
    }

    // ---- The store ----------------------------------------------------------------------------

    /// One atomic step of the store.
    pub fn apply(&self, state: &mut State, i: usize, k: usize, pace: Pace) {
        if state.tabs[i].outbox.is_empty() {
            // There was nothing to tell the store.
            return;
        }
        let sent = state.tabs[i].outbox.remove(k);
        state.forget_order(i);
        let outcome = match &sent.what {
            What::Command(command) => {
                let found = state.record.as_ref();
                let (write, outcome) = match self.mutation {
                    None => rules::apply(found, command),
                    Some(mutation) => mutation.apply(found, command, self.wall(state)),
                };
                if let Some(write) = &write {
                    state.fault = state.fault.or(fault_of_hands(found, write));
                    state.fault = state.fault.or(self.fault_of_queue(found, command, write));
                    state.fault = state.fault.or(self.fault_of_ghosts(&state.tabs, write));
                }
                state.record = write.or(state.record.take());
                if let (Outcome::Held(held), Some(record)) = (&outcome, &state.record) {
                    let (asker, token) = match command {
                        Command::Take(take) => (&take.who, record.token),
                        Command::Renew { who, token, .. } | Command::Claim { who, token, .. } => {
                            (who, *token)
                        }
                        Command::Quit { who } | Command::Pass { who, .. } => (who, record.token),
                    };
                    if record.holder.as_ref() != Some(asker) || record.token != token {
                        state.fault = Some("another's lease was answered to be the asker's");
                    } else if (held.epoch, held.token) != (record.epoch, record.token) {
                        state.fault = Some("the answer names another lease than the record");
                    }
                }
                outcome
            }
            What::Write(lease, until) => {
                let fenced = match self.mutation {
                    Some(Mutation::FenceApart | Mutation::FenceSkipped) => Fenced::Current,
                    _ => self.fence(state.record.as_ref(), lease),
                };
                if fenced == Fenced::Refused {
                    // Where the store fails, a claim may be missing.
                    let store_is_good = state.left.failures == self.budget.failures
                        && state.left.deletions == self.budget.deletions;
                    if self.fifo
                        && store_is_good
                        && state.tabs[i].life == Life::Awake
                        && self.clock(state, i) < *until
                    {
                        state.fault = Some("a write that was made in time was refused");
                    }
                    Outcome::Refused
                } else {
                    if let Fenced::Claimed(record) = fenced {
                        state.record = Some(record);
                    }
                    state.open = Some((i, lease.clone()));
                    PASSED
                }
            }
            What::Over(_) => return,
        };
        if let (false, Some((i, lease))) = (self.long_writes, state.open.clone()) {
            state.open = None;
            commit(state, &lease);
            self.answer(state, i, sent, outcome, pace);
            return self.over(state, i, lease, pace);
        }
        self.answer(state, i, sent, outcome, pace);
    }

    fn answer(&self, state: &mut State, i: usize, sent: Sent, outcome: Outcome, pace: Pace) {
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

    /// The check at the head of a fenced transaction.
    fn fence(&self, record: Option<&Record>, lease: &Fence) -> Fenced {
        match (record, self.mutation) {
            (Some(record), Some(mutation)) => mutation.fence(record, lease),
            _ => rules::fence(record, lease),
        }
    }

    /// A tab hears that its fenced transaction is over.
    fn over(&self, state: &mut State, i: usize, lease: Fence, pace: Pace) {
        let sent = Sent {
            what: What::Over(lease),
            at: self.clock(state, i),
            awaited: state.tabs[i].life != Life::Crashed,
            held: false,
        };
        if state.tabs[i].life == Life::Awake {
            self.answer(state, i, sent, PASSED, pace);
        } else {
            state.tabs[i].answer(sent, Some(PASSED));
        }
    }

    /// Whether the store may take the next command of that tab.
    fn is_in_turn(&self, state: &State, i: usize) -> bool {
        let next = state.order.first().is_none_or(|next| *next == i);
        state.open.is_none() && (next || self.mutated(Mutation::StoreOutOfOrder))
    }

    // ---- The tab ------------------------------------------------------------------------------

    fn ask(&self, state: &mut State, i: usize) {
        let kind = &self.kinds[i];
        let now = self.clock(state, i);
        // Request ids are unique within a tab, whichever of its lock objects makes them.
        let request = 1 + i as u64 + 10 * state.tabs[i].requests;
        let Budget {
            deletions,
            closings,
            ..
        } = self.budget;
        let epoch = if deletions + closings == 0 {
            1
        } else {
            let done = deletions + closings - state.left.deletions - state.left.closings;
            1 + request + 1000 * u64::from(done)
        };
        let ask = Ask {
            request,
            join: kind.join,
            beacon: kind.beacon,
            fresh_epoch: epoch,
            wall: self.wall(state),
        };
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
        let mut take = tab.participant.take(past, ripe_at, ask);
        take.at = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        let forgets = match take.proof {
            Proof::Unchanged(_) | Proof::Dead(_) => Mutation::OwnTakeoverForgotten,
            Proof::None | Proof::Delegated { .. } => Mutation::OwnTakeForgotten,
        };
        if self.mutation == Some(forgets) {
            // An answer that says nothing.
            let _ = tab
                .participant
                .taken(&mut past.clone(), &take, now, now, &Outcome::Refused);
        }
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
    pub fn deliver(&self, state: &mut State, i: usize, k: usize) {
        let Answer { to, outcome, .. } = state.tabs[i].inbox.remove(k);
        let now = self.clock(state, i);
        match (&to.what, outcome) {
            (What::Command(Command::Take(take)), Some(outcome)) => {
                self.taken(state, i, take, (to.at, now), outcome);
            }
            // The call fails, and its request is over, unless a message has been faster.
            (What::Command(Command::Take(take)), None) => {
                state.tabs[i].participant.failed(take);
                let tab = &state.tabs[i];
                if tab.lease.is_none() && tab.asking == Some(take.who.request) {
                    self.end(state, i);
                }
            }
            (
                What::Command(renewal @ (Command::Renew { .. } | Command::Claim { .. })),
                Some(outcome),
            ) => self.renewed(state, i, renewal, (to.at, now), &outcome),
            (
                What::Command(quit @ (Command::Quit { .. } | Command::Pass { .. })),
                Some(outcome),
            ) => {
                let past = &mut state.pasts[self.kinds[i].tab];
                let tab = &mut state.tabs[i];
                tab.passes.retain(|passing| passing.pass != *quit);
                let grant = tab.participant.gone(past, quit, to.at, now, &outcome);
                if let Some(grant) = grant {
                    self.post(state, Mail::Grant(grant));
                }
            }
            (What::Command(pass @ Command::Pass { .. }), None) => {
                let passes = state.tabs[i].passes.iter_mut();
                passes
                    .filter(|passing| passing.pass == *pass)
                    .for_each(|passing| passing.sent = false);
            }
            (What::Write(lease, _), Some(Outcome::Refused)) => {
                let past = &mut state.pasts[self.kinds[i].tab];
                let quit = state.tabs[i].participant.fence_refused(past, lease);
                if let Some(quit) = quit {
                    self.lost(state, i, quit);
                }
                self.must_be_told(state, i, lease.token);
            }
            (What::Write(lease, _), Some(_)) => state.tabs[i].participant.fence_passed(lease),
            (What::Write(lease, _), None) => state.tabs[i].participant.fence_over(lease, false),
            (What::Over(lease), _) => state.tabs[i].participant.fence_over(lease, true),
            (What::Command(Command::Renew { .. } | Command::Claim { .. }), None) => {
                state.tabs[i].participant.renewal_failed();
            }
            // There is time for another renewal; a quit is named in the next take.
            (What::Command(_), None) => {}
        }
    }

    fn taken(&self, state: &mut State, i: usize, take: &Take, at: (Now, Now), answer: Outcome) {
        let (mut sent, mut now) = at;
        let mut answer = answer;
        if let Some(mutation) = self.mutation {
            mutation.taken(&mut sent, &mut now, &mut answer, self.len(i));
        }
        let past = &mut state.pasts[self.kinds[i].tab];
        let participant = &mut state.tabs[i].participant;
        let mut misled = participant.clone();
        match participant.taken(past, take, sent, now, &answer) {
            Taken::Held(holding) => self.begin(state, i, holding),
            Taken::Lost(quit) => self.lost(state, i, quit),
            Taken::Ghost(quit) => self.send(state, i, What::Command(quit)),
            // It asks again, or gives up, when it likes.
            Taken::Busy if state.left.wants > 0 => {
                let mut want = participant.want();
                if let (None, true, Outcome::Waiting(waiting)) = (&want, self.pushy, &answer) {
                    let before = waiting.before[..1].to_vec();
                    let head = Outcome::Waiting(Waiting {
                        before,
                        ..waiting.clone()
                    });
                    misled.taken(&mut past.clone(), take, sent, now, &head);
                    want = misled.want();
                }
                if let Some(want) = want {
                    state.left.wants -= 1;
                    self.post(state, Mail::Want(want));
                }
            }
            Taken::Busy | Taken::Late | Taken::Confirmed | Taken::Stale => {}
        }
    }

    /// The application has the lease.
    fn begin(&self, state: &mut State, i: usize, holding: Holding) {
        let kind = &self.kinds[i];
        let tab = &mut state.tabs[i];
        let lease = Lease {
            epoch: holding.epoch,
            token: holding.token,
        };
        tab.lease = Some(lease);
        tab.untold = Some(holding.dirty);
        let confirmed = !tab.participant.is_unclaimed();
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
            } else if lease.token == before.lease.token {
                state.fault = Some("a request started twice");
            }
        }
        state.started = Some(started);
        if confirmed {
            self.tell(state, i);
        }
    }

    /// The application learns that it holds.
    fn tell(&self, state: &mut State, i: usize) {
        let tab = self.kinds[i].tab;
        let (Some(lease), Some(dirty)) = (state.tabs[i].lease, state.tabs[i].untold.take()) else {
            return;
        };
        state.pasts[tab].told();
        let before = state.user.replace((lease.epoch, tab));
        let by_another = before.is_some_and(|(epoch, user)| epoch == lease.epoch && user != tab);
        if by_another && !dirty {
            state.fault = Some("not dirty, though another tab held");
        }
    }

    fn renewed(
        &self,
        state: &mut State,
        i: usize,
        renewal: &Command,
        at: (Now, Now),
        answer: &Outcome,
    ) {
        let (mut sent, now) = at;
        let (Command::Renew { token, .. } | Command::Claim { token, .. }) = renewal else {
            return;
        };
        let mut answer = answer.clone();
        if let Some(mutation) = self.mutation {
            mutation.renewed(&mut sent, now, &mut answer, self.len(i));
            if mutation == Mutation::RefusalIgnored && answer == Outcome::Refused {
                return self.must_be_told(state, i, *token);
            }
        }
        let past = &mut state.pasts[self.kinds[i].tab];
        let tab = &mut state.tabs[i];
        match tab.participant.renewed(past, renewal, sent, now, &answer) {
            Renewed::Until(_) | Renewed::Stale => {}
            Renewed::Lost(quit) | Renewed::Late(quit) => self.lost(state, i, quit),
        }
        if answer == Outcome::Refused {
            self.must_be_told(state, i, *token);
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
        let tab = &state.tabs[i];
        let ran_out = tab.lease.is_some() && tab.participant.holding(now).is_none();
        let silent = self.mutated(Mutation::ExpiryNotTold) || self.mutated(Mutation::ExpiryIgnored);
        if tab.life != Life::Awake || !ran_out || silent {
            return;
        }
        match self.due(state, i) {
            Some(Due::Expired(quit)) => self.lost(state, i, quit),
            due => state.fault = Some(unexpected(due.is_some())),
        }
    }

    fn due(&self, state: &mut State, i: usize) -> Option<Due> {
        let kind = &self.kinds[i];
        let (now, wall) = (self.clock(state, i), self.wall(state));
        let past = &mut state.pasts[kind.tab];
        let participant = &mut state.tabs[i].participant;
        participant.due(past, now, kind.beacon, wall)
    }

    /// The lease is lost, and the application is told.
    fn lost(&self, state: &mut State, i: usize, quit: Command) {
        state.tabs[i].forget();
        self.send(state, i, What::Command(quit));
    }

    /// The holder gives the lease up.
    fn release(&self, state: &mut State, i: usize) {
        let now = self.clock(state, i);
        if self.mutated(Mutation::DelegatesWhileWriting) {
            let tab = &mut state.tabs[i];
            for sent in &tab.outbox {
                if let What::Write(lease, _) = &sent.what {
                    tab.participant.fence_over(lease, false);
                }
            }
        }
        let past = &mut state.pasts[self.kinds[i].tab];
        let tab = &mut state.tabs[i];
        let before = (tab.participant.clone(), past.clone());
        let release = tab.participant.release(past, now, false);
        let lease = tab.lease;
        let request = tab.asking;
        tab.forget();
        match release {
            Some(Release::Quit(quit)) => self.send(state, i, What::Command(quit)),
            Some(Release::Delegate(grant, pass)) => {
                tab.handed_on = request;
                tab.passes.push(Passing {
                    grant: grant.clone(),
                    pass,
                    sent: false,
                });
                match self.mutation {
                    Some(Mutation::OwnDelegationNotDirty) => *past = before.1,
                    Some(Mutation::DelegatorGoesOn) => {
                        tab.participant = before.0;
                        tab.lease = lease;
                        tab.asking = request;
                    }
                    Some(Mutation::QuitsAfterDelegating) => {
                        tab.passes.clear();
                        let who = grant.from.clone();
                        self.send(state, i, What::Command(Command::Quit { who }));
                    }
                    _ => {}
                }
                self.post(state, Mail::Grant(grant));
            }
            None => {}
        }
    }

    /// Ends the request of this tab by failure or giving up.
    fn end(&self, state: &mut State, i: usize) {
        let quit = state.tabs[i]
            .participant
            .end(&mut state.pasts[self.kinds[i].tab]);
        state.tabs[i].forget();
        if let Some(quit) = quit {
            self.send(state, i, What::Command(quit));
        }
    }

    /// The tab is paused, with all its lock objects, and lets go before. What it tells the store then needs
    /// no answer.
    fn stop(&self, state: &mut State, i: usize) {
        for j in 0..self.kinds.len() {
            if self.kinds[j].tab != self.kinds[i].tab {
                continue;
            }
            let before = state.tabs[j].clone();
            self.end(state, j);
            let tab = &mut state.tabs[j];
            tab.life = Life::Asleep;
            if before.asking.is_some()
                && let Some(quit) = tab.outbox.last_mut()
            {
                quit.awaited = false;
            }
            match self.mutation {
                Some(Mutation::BeliefOutlivesStopping) => {
                    tab.participant = before.participant;
                    tab.asking = before.asking;
                    tab.lease = before.lease;
                }
                Some(Mutation::LeavesAfterDelegating) => {
                    if let Some(passing) = tab.passes.pop() {
                        let who = passing.grant.from;
                        self.send(state, j, What::Command(Command::Quit { who }));
                    }
                }
                _ => {}
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
                evidence: self.evidence(),
                life: Life::Crashed,
                hidden: false,
                requests: kind.requests,
                asking: None,
                lease: None,
                untold: None,
                passes: Vec::new(),
                handed_on: tab.handed_on,
                outbox: std::mem::take(&mut tab.outbox),
                inbox: Vec::new(),
            };
        }
        state.pasts[self.kinds[i].tab] = Past::default();
    }

    fn send(&self, state: &mut State, i: usize, what: What) {
        let at = self.clock(state, i);
        if self.long_writes {
            state.order.push(i);
        }
        state.tabs[i].outbox.push(Sent {
            what,
            at,
            awaited: true,
            held: false,
        });
    }

    // ---- Messages -------------------------------------------------------------------------------

    fn post(&self, state: &mut State, mail: Mail) {
        let mut mail = mail;
        if let (Some(mutation), Mail::Grant(grant)) = (self.mutation, &mut mail) {
            let now = self.clock_of(state, &grant.to);
            mutation.granting(grant, now);
        }
        state.mail.push(mail);
        state.mail.sort_by(|a, b| a.place().cmp(&b.place()));
    }

    /// A message arrives, wherever a tab runs that listens.
    fn hear(&self, state: &mut State, mail: &Mail) {
        for i in 0..state.tabs.len() {
            if state.tabs[i].life != Life::Awake {
                continue;
            }
            let now = self.clock(state, i);
            let past = &mut state.pasts[self.kinds[i].tab];
            let tab = &mut state.tabs[i];
            match mail {
                Mail::Want(want) => _ = tab.participant.wanted(now, want),
                Mail::Grant(grant) => {
                    let mut grant = grant.clone();
                    if let Some(mutation) = self.mutation {
                        mutation.hearing(&mut grant, now, tab.asking);
                    }
                    // Whoever is told to ask does so when it likes.
                    if let Heard::Started(holding) = tab.participant.granted(past, now, &grant) {
                        self.begin(state, i, holding);
                    }
                }
            }
        }
    }

    /// Forgets messages that nobody can be moved by any more, and what need not be passed.
    pub fn tidy(&self, state: &mut State) {
        let State {
            mail, tabs, pasts, ..
        } = state;
        let by_tab = self.mutated(Mutation::GrantByTab);
        mail.retain(|mail| match mail {
            Mail::Grant(grant) => tabs.iter().zip(&self.kinds).any(|(tab, kind)| {
                let alive = tab.life != Life::Crashed && tab_name(kind.tab) == grant.to.tab;
                alive && (by_tab || tab.participant.is_asking(&grant.to))
            }),
            Mail::Want(_) => true,
        });
        for (tab, kind) in tabs.iter_mut().zip(&self.kinds) {
            let past = &pasts[kind.tab];
            tab.passes
                .retain(|passing| passing.sent || past.must_pass(&passing.grant));
        }
    }

    /// Whether the tab that a message is for runs.
    fn can_hear(&self, state: &State, grant: &Grant) -> bool {
        let mut tabs = state.tabs.iter().zip(&self.kinds);
        tabs.any(|(tab, kind)| {
            let asks = tab.participant.is_asking(&grant.to) || self.mutated(Mutation::GrantByTab);
            tab.life == Life::Awake && tab_name(kind.tab) == grant.to.tab && asks
        })
    }

    fn clock_of(&self, state: &State, who: &Requester) -> Now {
        let place = self.kinds.iter().position(|k| tab_name(k.tab) == who.tab);
        self.clock(state, place.unwrap_or_default())
    }

    // ---- Beacons --------------------------------------------------------------------------------

    /// What a tab may be told of the beacon that it watches, by its lock manager. What was true once may
    /// be told late.
    fn words(&self, state: &State, i: usize) -> Vec<Word> {
        let tab = &state.tabs[i];
        let Some(suspect) = tab.participant.suspect() else {
            return Vec::new();
        };
        let mut tabs = state.tabs.iter().zip(&self.kinds);
        let gone = tabs.any(|(tab, kind)| {
            let out = tab.life == Life::Crashed || self.mutated(Mutation::BeaconTooEarly);
            tab_name(kind.tab) == suspect && out
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

    fn hark(&self, state: &mut State, i: usize, word: Word) {
        let Tab {
            participant,
            evidence,
            ..
        } = &mut state.tabs[i];
        let Some(suspect) = participant.suspect().map(str::to_owned) else {
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
        if evidence.proves_end(&suspect, word) {
            participant.died(&suspect);
            if self.mutated(Mutation::DeadHolderIsEnough) {
                for kind in self.kinds.iter().filter(|k| k.tab != self.kinds[i].tab) {
                    participant.died(&tab_name(kind.tab));
                }
            }
        }
    }

    /// A tab hears all that its manager has to say. Whether it has come closer to the lease by that.
    pub fn hears_of_an_end(&self, state: &mut State, i: usize) -> bool {
        let before = state.tabs[i].participant.clone();
        for word in self.words(state, i) {
            self.hark(state, i, word);
        }
        state.tabs[i].participant != before
    }

    // ---- Deletion in order ----------------------------------------------------------------------

    /// A database is deleted when all have closed it; that takes a tab that runs, and its transactions
    /// to be over.
    fn can_close(&self, state: &State) -> bool {
        let ready = |tab: &Tab| tab.life != Life::Asleep && tab.outbox.is_empty();
        state.open.is_none() && state.tabs.iter().all(ready)
    }

    /// Leases are lost and waits forgotten; then the database is closed and deleted.
    fn close(&self, state: &mut State) {
        for i in 0..state.tabs.len() {
            let believes = state.tabs[i].lease.is_some();
            if !(believes && self.mutated(Mutation::BeliefOutlivesClosing)) {
                let past = &mut state.pasts[self.kinds[i].tab];
                // There is no store to tell.
                let _ = state.tabs[i].participant.end(past);
                state.tabs[i].forget();
            }
        }
        state.record = None;
    }

    // ---- What the world is like ----------------------------------------------------------------

    fn evidence(&self) -> Evidence {
        let believed = self.mutated(Mutation::ForeignManagerBelieved);
        Evidence::new(match self.locks {
            Locks::Foreign if !believed => Manager::Foreign,
            _ => Manager::Browser,
        })
    }

    fn participant(&self, kind: &Kind) -> Participant {
        let margin = if self.mutated(Mutation::NoMargin) {
            Duration::ZERO
        } else {
            self.margin()
        };
        let lens = Lens {
            usual: kind.len,
            idle: kind.idle,
            hidden: kind.hidden,
        };
        let mut participant = Participant::new(tab_name(kind.tab), lens, margin);
        participant.hide(kind.hides_first);
        participant
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
            || self.mutated(Mutation::ExpiryIgnored)
            || self.mutated(Mutation::OpenFenceIsBelief) && tab.participant.is_fenced();
        tab.lease.filter(|_| good)
    }
}

impl Mail {
    /// Where it stands among others.
    fn place(&self) -> (u8, &str, u64, u64, u64, bool) {
        match self {
            Self::Grant(Grant {
                to,
                token,
                until,
                granted,
                ..
            }) => (0, &to.tab, to.request, *token, *until, *granted),
            Self::Want(Want {
                who,
                token,
                at,
                queued,
                ..
            }) => (1, &who.tab, who.request, *token, *at, *queued),
        }
    }
}

fn is_take(sent: &Sent) -> bool {
    matches!(sent.what, What::Command(Command::Take(_)))
}

fn is_command(sent: &Sent) -> bool {
    matches!(sent.what, What::Command(_))
}

impl State {
    /// A command of that tab's is in flight no more: the one that it sent first.
    fn forget_order(&mut self, i: usize) {
        if let Some(place) = self.order.iter().position(|whose| *whose == i) {
            self.order.remove(place);
        }
    }

    /// The same, with the one that it sent last.
    fn forget_last_of(&mut self, i: usize) {
        if let Some(place) = self.order.iter().rposition(|whose| *whose == i) {
            self.order.remove(place);
        }
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

    /// The request is over. Nobody waits for answers to its renewals any more; those to its takes are
    /// heard, in case that its quit was overtaken.
    fn forget(&mut self) {
        let dropped = |sent: &Sent| match &sent.what {
            What::Command(Command::Renew { .. } | Command::Claim { .. })
            | What::Write(..)
            | What::Over(_) => true,
            What::Command(_) => false,
        };
        self.asking = None;
        self.lease = None;
        self.untold = None;
        self.inbox.retain(|answer| !dropped(&answer.to));
        for sent in &mut self.outbox {
            sent.awaited &= !dropped(sent);
        }
    }
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

pub fn tab_name(tab: usize) -> String {
    ["a", "b", "c", "d"][tab].to_owned()
}
