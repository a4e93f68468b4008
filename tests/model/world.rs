//! The world that is explored: one record, a few tabs, a clock, and what may go wrong.
//!
//! Everything that decides is the crate's own: [`rules::apply`] is the store's step, and a tab is a
//! [`Contender`] as it is shipped. What is written here is the driver around it (`tab.rs`), what gets lost,
//! and how time goes on. A timer that is set may fire at any time, early or late; all but
//! [`Timer::Expiry`], which is due when the lease is over, and before all else.
//!
//! # Messages
//!
//! What tabs tell each other is in [`State::mail`]. A GRANT may be heard at any later time, in any order,
//! twice, or never. The others are gone at the next tick, if they were not heard (lost), unless the world
//! [keeps](World::wants_stay) them; how many there are is in the budget.
//!
//! # Where something new goes
//!
//! - an event or an action of the contender: an arm of [`World::perform`], or a [`Deed`].
//! - a new thing that can go wrong: a field of [`Budget`] and an [`Action`].
//! - a new property: `properties.rs`. A new way to break a rule: `mutation.rs`, and one line in its table.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use stateright::{Model, Property};
use tab_lease::contender::{Action as Act, CallId, Contender, Event, LeaseId, SendId, Timer};
use tab_lease::evidence::{Evidence, Word};
use tab_lease::message::Message;
use tab_lease::participant::{Grant, Now, Past};
use tab_lease::rules::{self, Command, Fence, Fenced, Outcome, Record, Requester, Take, Waiting};

use crate::faults::{commit, fault_of_answer, fault_of_hands};
use crate::mutation::Mutation;
use crate::properties;

/// One lock object, and how it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// The calls that are made, one after the other.
    pub calls: Vec<Waits>,
}

/// How long a call wants the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Waits {
    ForEver,
    /// So many ticks.
    For(u64),
    /// It does not wait for another holder.
    Not,
    /// It asks so often, and never stands in the queue for that.
    Spins(u32),
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
    /// or a pass or a claim waits to be sent.
    pub late: u8,
    /// In a brisk world: a GRANT is never heard. (Elsewhere it need not be heard anyway.)
    pub losses: u8,
    /// A GRANT is heard twice.
    pub repeats: u8,
    /// Not a fault: WANTs. Further ones are lost.
    pub wants: u8,
    /// Not a fault: GONEs and REPLYs. Further ones are lost.
    pub tells: u8,
    /// Not a fault: BEATs and HEEDs. Further ones are lost.
    pub beats: u8,
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
    /// How long a tick is, in ms.
    pub tick_ms: u32,
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
    /// How many calls of a lock object may wait or hold at once.
    pub at_once: usize,
    /// A lease that nobody uses lingers for any time. (Elsewhere, for none.)
    pub lingers: bool,
    /// A caller gets its guard at any time after its call was settled, or is gone before. (Elsewhere, at
    /// once.)
    pub slow_callers: bool,
    /// A page that was told that it is about to be stopped goes on for a while.
    pub half_asleep: bool,
    /// Messages reach all who contend.
    pub complete: bool,
    /// How many requests of a tab stand in the queue at most.
    pub places: usize,
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
    /// Whether this would change anything. Its answer is [`Outcome::Waiting`] or [`CHANGE`].
    Look(Take),
    /// A write in a fenced transaction of the application's, and until when its lease was good. Its
    /// answer is [`PASSED`] or [`Outcome::Refused`].
    Write(Fence, Now),
    /// Only to a tab: that transaction is over, and its check had passed.
    Over(Fence),
}

/// The check of a fenced transaction has passed.
pub const PASSED: Outcome = Outcome::Gone { granted: None };

/// A look has shown that the take has to be applied.
pub const CHANGE: Outcome = Outcome::Refused;

/// On its way to the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub what: What,
    /// Names a command to the contender that sent it, which knows the time as well.
    pub id: SendId,
    /// The tab's clock, read before it was sent.
    pub at: Now,
    /// Whether anybody waits for the answer.
    pub awaited: bool,
    /// Not to be applied before the next tick. See [`Pace`].
    pub held: bool,
}

impl Hash for Sent {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // The contender knows a command by when it was sent.
        let at = self.awaited.then_some(self.at);
        (&self.what, at, self.held).hash(state);
    }
}

/// On its way back. `None`: the store failed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Answer {
    pub to: Sent,
    pub outcome: Option<Outcome>,
    /// Not to be delivered before the next tick. See [`Pace`].
    pub held: bool,
}

/// A call that has not been settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    pub id: CallId,
    pub waits: Waits,
    /// When it came, on the tab's clock.
    pub since: Now,
    /// It came while the lease was held here and somebody else was next.
    pub late: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tab {
    pub contender: Contender,
    pub evidence: Evidence,
    pub life: Life,
    pub hidden: bool,
    pub suspended: bool,
    /// Calls made so far.
    pub called: usize,
    /// Request ids used so far.
    pub requests: u64,
    pub callers: Vec<Caller>,
    /// The lease that the tab holds: the application was not told of a loss, and has not let go …
    pub lease: Option<Lease>,
    /// … or still has so many guards.
    pub guards: u8,
    /// Until when guards believe in it.
    pub good_until: Option<Now>,
    /// The request of a lease that the store does not know of yet.
    pub unclaimed: Option<u64>,
    /// A caller has yet to get its guard, which says whether others held: this.
    pub untold: Option<bool>,
    /// It has started by a GRANT, and whoever waited for it goes on first.
    pub aside: Option<LeaseId>,
    /// Whose beacon it watches.
    pub watched: Option<String>,
    /// The latest delegation that it has perhaps yet to write down.
    pub passing: Option<Grant>,
    /// The latest request that was handed on by a GRANT.
    pub handed_on: Option<u64>,
    pub outbox: Vec<Sent>,
    pub inbox: Vec<Answer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    pub id: LeaseId,
    pub epoch: u64,
    pub token: u64,
}

/// The tenure with the highest token so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Started {
    pub lease: Lease,
    pub tab: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub now: u64,
    pub record: Option<Record>,
    pub tabs: Vec<Tab>,
    pub pasts: Vec<Past>,
    /// In an order of its own, so that what was sent first makes no difference.
    pub mail: Vec<Message>,
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
    /// A try was told that the lock was freed for it.
    pub served: bool,
    /// A beat was heeded.
    pub beat: bool,
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
    /// The failure of that take arrives, but another caller has come.
    CallAndDeliver(usize, usize),
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
    /// Runs again.
    Resume(usize),
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
    /// A new caller comes.
    Call,
    /// That caller gives up.
    Leave(usize),
    Fire(Timer),
    /// Whoever was told that the lease begins has run.
    StepAside,
    /// A caller gets its guard.
    Tell,
    /// A guard is dropped.
    Drop,
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

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State {
            now: 0,
            record: None,
            tabs: self.kinds.iter().map(|kind| self.tab(kind)).collect(),
            pasts: vec![Past::default(); self.kinds.len()],
            mail: Vec::new(),
            left: self.budget,
            wall_jumped: false,
            started: None,
            user: None,
            register: None,
            open: None,
            order: Vec::new(),
            served: false,
            beat: false,
            fault: None,
        };
        self.hide_first(&mut state);
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.fault.is_some() {
            return;
        }
        for i in 0..state.tabs.len() {
            self.actions_of_store(state, i, actions);
            self.actions_of_life(state, i, actions);
        }
        self.actions_of_mail(state, actions);
        let left = &state.left;
        if state.now < self.horizon && self.late(state) <= left.late.into() {
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
    fn actions_of_store(&self, state: &State, i: usize, actions: &mut Vec<Action>) {
        let (tab, left) = (&state.tabs[i], &state.left);
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
        let ready = any(tab.inbox.len()).filter(|k| !tab.inbox[*k].held);
        for k in ready.filter(|_| tab.life == Life::Awake) {
            actions.push(Action::Deliver(i, k));
            if tab.inbox[k].outcome.is_none() && is_take(&tab.inbox[k].to) {
                actions.push(Action::CallAndDeliver(i, k));
            }
        }
    }

    fn actions_of_life(&self, state: &State, i: usize, actions: &mut Vec<Action>) {
        let (tab, left) = (&state.tabs[i], &state.left);
        // A tab that never asked has nothing that could go wrong.
        let has_asked = tab.called > 0;
        if left.crashes > 0 && tab.life != Life::Crashed && has_asked {
            actions.extend((0..=tab.outbox.len()).map(|kept| Action::Crash(i, kept)));
        }
        if tab.life == Life::Asleep || tab.suspended {
            actions.push(Action::Resume(i));
        }
        if tab.life != Life::Awake {
            return;
        }
        let words = self.words(state, i).into_iter();
        actions.extend(words.map(|word| Action::Hark(i, word)));
        if left.pauses > 0 && has_asked {
            actions.push(Action::Pause(i));
        }
        if left.stops > 0 && has_asked {
            actions.push(Action::Stop(i));
        }
        if left.hides > 0 {
            actions.push(Action::Hide(i));
        }
        self.own_actions(state, i, actions);
    }

    fn actions_of_mail(&self, state: &State, actions: &mut Vec<Action>) {
        for (k, mail) in state.mail.iter().enumerate() {
            if k > 0 && state.mail[k - 1] == *mail {
                continue;
            }
            if let Message::Grant(grant) = mail {
                if self.brisk && state.left.losses > 0 {
                    actions.push(Action::LoseGrant(k));
                }
                if !self.can_hear(state, grant) {
                    continue;
                }
                if state.left.repeats > 0 {
                    actions.push(Action::Hear(k, Copies::OneMore));
                }
            }
            actions.push(Action::Hear(k, Copies::Last));
        }
    }

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
        for timer in Timer::ALL {
            if self.may_fire(state, i, timer) {
                may(Deed::Fire(timer));
            }
        }
        if tab.aside.is_some() {
            may(Deed::StepAside);
        }
        if tab.untold.is_some() {
            may(Deed::Tell);
        }
        if tab.guards > 0 {
            may(Deed::Drop);
            if state.left.writes > 0 {
                may(Deed::Write);
            }
        }
        if self.may_call(state, i) {
            may(Deed::Call);
        }
        if state.left.give_ups > 0 {
            (0..tab.callers.len()).for_each(|k| may(Deed::Leave(k)));
        }
    }

    fn may_fire(&self, state: &State, i: usize, timer: Timer) -> bool {
        let contender = &state.tabs[i].contender;
        let is_set = contender.due_at(timer).is_some();
        let passes = !self.mutated(Mutation::QuitsAfterDelegating);
        let passes = passes && !self.mutated(Mutation::PassForgotten);
        is_set
            && match timer {
                Timer::Expiry => self.mutated(Mutation::ExpiryNotFirst),
                Timer::Beat | Timer::BeatBehind => self.beat_matters(state, i, timer),
                Timer::Linger => self.lingers && !self.mutated(Mutation::LingerNeverEnds),
                Timer::Pass => passes,
                // Or takes without end are on their way.
                Timer::Look if self.mutated(Mutation::OwnTakeForgotten) => !state.tabs[i].asks(),
                Timer::Look | Timer::Reply | Timer::Beacon | Timer::Deadline => true,
            }
    }

    /// A second renewal in the same instant would change nothing that matters, but the count.
    fn beat_matters(&self, state: &State, i: usize, timer: Timer) -> bool {
        let before = &state.tabs[i].contender;
        let (after, out) = self.imagine(state, i, Event::Fired(timer));
        let until = |contender: &Contender| contender.good_until().unwrap_or_default();
        let asks_for = |act: &Act| match act {
            Act::Send {
                command: Command::Renew { len, .. },
                ..
            } => Some(millis(*len)),
            _ => None,
        };
        let now = self.clock(state, i);
        // What a beat has cut since is not lost by that.
        let kept = before.participant().kept_until().unwrap_or_default();
        let gains = |len| kept < now + len;
        let renews = out.iter().filter_map(asks_for).any(gains);
        let beats = |act: &Act| match act {
            Act::Post(mail @ Message::Beat(_)) => {
                state.left.beats > 0 && !state.mail.contains(mail)
            }
            _ => false,
        };
        renews || out.iter().any(beats) || until(&after) != until(before)
    }

    /// How much that is under way a tick would make late.
    fn late(&self, state: &State) -> usize {
        // What waits behind a long transaction is not late by itself.
        if !self.brisk || state.open.is_some() {
            return 0;
        }
        let running = state.tabs.iter().filter(|tab| tab.life == Life::Awake);
        let under_way = running.map(|tab| {
            let passes = tab.contender.due_at(Timer::Pass).is_some();
            let owes = usize::from(passes) + usize::from(tab.aside.is_some());
            tab.outbox.len() + tab.inbox.len() + owes
        });
        let granted = |mail: &&Message| match mail {
            Message::Grant(grant) => self.can_hear(state, grant),
            _ => false,
        };
        under_way.sum::<usize>() + state.mail.iter().filter(granted).count()
    }

    fn may_call(&self, state: &State, i: usize) -> bool {
        // Tabs that are alike begin in their order: which of them is called the first is all one.
        let alike = |a: &Kind, b: &Kind| {
            let use_of = |kind: &Kind| Kind {
                tab: 0,
                offset: 0,
                ..kind.clone()
            };
            self.granule == 1 && use_of(a) == use_of(b)
        };
        let (mine, tab) = (&self.kinds[i], &state.tabs[i]);
        let first = i == 0
            || state.tabs[i - 1].called > 0
            || tab.called > 0
            || !alike(&self.kinds[i - 1], mine);
        // With one at a time, none shares a lease that lingers with whoever let it go.
        let here = tab.callers.len() + usize::from(tab.guards);
        tab.called < mine.calls.len() && here < self.at_once && first
    }

    /// Takes one step.
    pub fn step(&self, state: &mut State, action: Action) {
        match action {
            Action::Tick => self.tick(state),
            Action::Do(i, deed, pace) => self.act_at(state, i, deed, pace),
            Action::Apply(i, k, pace) => self.apply(state, i, k, pace),
            Action::Deliver(i, k) => self.deliver(state, i, k),
            Action::CallAndDeliver(i, k) => {
                self.call(state, i, Waits::ForEver);
                self.deliver(state, i, k);
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
            Action::Pause(_)
            | Action::Stop(_)
            | Action::Hide(_)
            | Action::Resume(_)
            | Action::Crash(..) => self.live(state, action),
        }
    }

    fn act_at(&self, state: &mut State, i: usize, deed: Deed, pace: Pace) {
        self.act(state, i, deed);
        match pace {
            Pace::Sent if self.brisk && !self.long_writes && state.tabs[i].outbox.len() == 1 => {
                state.tabs[i].outbox[0].held = true;
            }
            Pace::Sent => {}
            Pace::Applied | Pace::Answered => self.apply(state, i, 0, pace),
        }
    }

    fn tick(&self, state: &mut State) {
        let late = u8::try_from(self.late(state)).unwrap_or(u8::MAX);
        state.left.late = state.left.late.saturating_sub(late);
        state.now += 1;
        let stays = |mail: &Message| self.wants_stay || matches!(mail, Message::Grant(_));
        state.mail.retain(stays);
        for i in 0..state.tabs.len() {
            let tab = &mut state.tabs[i];
            tab.outbox.iter_mut().for_each(|sent| sent.held = false);
            tab.inbox.iter_mut().for_each(|answer| answer.held = false);
            if tab.life == Life::Awake {
                self.expire(state, i);
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
            What::Command(command) => self.apply_command(state, command),
            What::Look(take) => self.look(state, take),
            What::Write(lease, until) => self.begin_write(state, i, lease, *until),
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

    fn apply_command(&self, state: &mut State, command: &Command) -> Outcome {
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
        state.fault = fault_of_answer(state.record.as_ref(), command, &outcome).or(state.fault);
        outcome
    }

    /// What a look shows. It changes nothing.
    fn look(&self, state: &State, take: &Take) -> Outcome {
        let Some(record) = &state.record else {
            return CHANGE;
        };
        if self.mutated(Mutation::LooksAway) && record.holder.as_ref() == Some(&take.who) {
            return Outcome::Waiting(Waiting {
                sighting: record.sighting(),
                len: record.len,
                holder: take.who.clone(),
                before: vec![(take.who.tab.clone(), record.beacon)],
                queued: true,
            });
        }
        let command = Command::Take(take.clone());
        let applied = match self.mutation {
            None => rules::apply(Some(record), &command),
            Some(mutation) => mutation.apply(Some(record), &command, self.wall(state)),
        };
        rules::unchanged(record, &command, applied).unwrap_or(CHANGE)
    }

    fn begin_write(&self, state: &mut State, i: usize, lease: &Fence, until: Now) -> Outcome {
        let fenced = match self.mutation {
            Some(Mutation::FenceApart | Mutation::FenceSkipped) => Fenced::Current,
            _ => self.fence(state.record.as_ref(), lease),
        };
        if fenced == Fenced::Refused {
            // Where the store fails, a claim may be missing.
            let store_is_good = state.left.failures == self.budget.failures
                && state.left.deletions == self.budget.deletions;
            let tab = &state.tabs[i];
            let in_time = tab.life == Life::Awake && self.clock(state, i) < until;
            if self.fifo && store_is_good && in_time {
                state.fault = Some("a write that was made in time was refused");
            }
            return Outcome::Refused;
        }
        if let Fenced::Claimed(record) = fenced {
            state.record = Some(record);
        }
        state.open = Some((i, lease.clone()));
        PASSED
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
    pub fn fence(&self, record: Option<&Record>, lease: &Fence) -> Fenced {
        match (record, self.mutation) {
            (Some(record), Some(mutation)) => mutation.fence(record, lease),
            _ => rules::fence(record, lease),
        }
    }

    /// A tab hears that its fenced transaction is over.
    fn over(&self, state: &mut State, i: usize, lease: Fence, pace: Pace) {
        let sent = Sent {
            what: What::Over(lease),
            id: SendId(u64::MAX),
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

    // ---- Messages -------------------------------------------------------------------------------

    pub fn post(&self, state: &mut State, mail: Message) {
        let mut mail = mail;
        let left = match &mail {
            Message::Grant(_) => None,
            Message::Want(_) => Some(&mut state.left.wants),
            Message::Gone(_) | Message::Reply { .. } => Some(&mut state.left.tells),
            Message::Beat(_) | Message::Heed(_) => Some(&mut state.left.beats),
        };
        match left {
            Some(0) => return,
            Some(left) => *left -= 1,
            None => {}
        }
        if let (Some(mutation), Message::Grant(grant)) = (self.mutation, &mut mail) {
            let now = self.clock_of(state, &grant.to);
            mutation.granting(grant, now);
        }
        if let (true, Message::Beat(beat)) = (self.mutated(Mutation::BeatsWaitLess), &mut mail) {
            beat.len -= self.tick_ms;
        }
        state.beat |= matches!(mail, Message::Heed(_));
        state.mail.push(mail);
        state.mail.sort_by(|a, b| place(a).cmp(&place(b)));
    }

    /// Forgets messages that nobody can be moved by any more, and does what changes nothing.
    pub fn tidy(&self, state: &mut State) {
        let by_tab = self.mutated(Mutation::GrantByTab);
        let State { mail, tabs, .. } = state;
        mail.retain(|mail| match mail {
            Message::Grant(grant) => tabs.iter().zip(&self.kinds).any(|(tab, kind)| {
                let alive = tab.life != Life::Crashed && tab_name(kind.tab) == grant.to.tab;
                alive && (by_tab || tab.contender.participant().is_asking(&grant.to))
            }),
            _ => true,
        });
        for i in 0..state.tabs.len() {
            if state.tabs[i].life == Life::Awake {
                self.hear_what_is_stale(state, i);
                self.forget_pass(state, i);
            }
        }
    }

    /// Whether the tab that a message is for runs.
    fn can_hear(&self, state: &State, grant: &Grant) -> bool {
        let mut tabs = state.tabs.iter().zip(&self.kinds);
        tabs.any(|(tab, kind)| {
            let asks = tab.contender.participant().is_asking(&grant.to)
                || self.mutated(Mutation::GrantByTab);
            tab.life == Life::Awake && tab_name(kind.tab) == grant.to.tab && asks
        })
    }

    fn clock_of(&self, state: &State, who: &Requester) -> Now {
        let place = self.kinds.iter().position(|k| tab_name(k.tab) == who.tab);
        self.clock(state, place.unwrap_or_default())
    }

    // ---- What the world is like ----------------------------------------------------------------

    /// A database is deleted when all have closed it; that takes a tab that runs, and its transactions
    /// to be over.
    fn can_close(&self, state: &State) -> bool {
        let ready = |tab: &Tab| tab.life != Life::Asleep && tab.outbox.is_empty();
        state.open.is_none() && state.tabs.iter().all(ready)
    }

    /// Two granules; nothing where a clock tells every tick.
    pub fn margin(&self) -> Duration {
        self.ticks(if self.granule > 1 {
            2 * self.granule
        } else {
            0
        })
    }

    pub fn len(&self, i: usize) -> Duration {
        self.ticks(self.kinds[i].len.into())
    }

    /// What the clock of a tab shows.
    pub fn clock(&self, state: &State, i: usize) -> Now {
        let exact = state.now + self.kinds[i].offset;
        self.ticks(exact - exact % self.granule)
    }

    pub fn ticks(&self, ticks: u64) -> Duration {
        Duration::from_millis(ticks * u64::from(self.tick_ms))
    }

    /// What wall clocks show. It stands still where it cannot matter, to save states.
    pub fn wall(&self, state: &State) -> u64 {
        match (state.wall_jumped, self.budget.wall_jumps > 0) {
            (_, false) => 0,
            (false, true) => 100 + state.now,
            (true, true) => 1000 + state.now,
        }
    }

    pub fn mutated(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// Whether the application may go on as a holder: what a guard's `is_held` says. A lease that lingers
    /// is believed in as well.
    pub fn believes(&self, state: &State, i: usize) -> Option<Lease> {
        let tab = &state.tabs[i];
        let now = self.clock(state, i);
        let good = tab.good_until.is_some_and(|until| now < until)
            || self.mutated(Mutation::ExpiryIgnored)
            || self.mutated(Mutation::OpenFenceIsBelief) && tab.contender.participant().is_fenced();
        tab.lease.filter(|_| good)
    }
}

/// Where a message stands among others.
fn place(message: &Message) -> (u8, &str, u64, u64, u64, bool) {
    match message {
        Message::Grant(grant) => {
            let (to, token) = (&grant.to, grant.token);
            (0, &to.tab, to.request, token, grant.until, grant.granted)
        }
        Message::Want(want) => {
            let who = &want.who;
            (1, &who.tab, who.request, want.token, want.at, want.queued)
        }
        Message::Gone(who) => (2, &who.tab, who.request, 0, 0, false),
        Message::Reply { to, free } => (3, &to.tab, to.request, 0, 0, *free),
        Message::Beat(beat) => (4, &beat.to.tab, beat.to.request, beat.count, beat.at, false),
        Message::Heed(heed) => (5, &heed.to.tab, heed.to.request, heed.token, heed.at, false),
    }
}

pub fn is_take(sent: &Sent) -> bool {
    matches!(sent.what, What::Command(Command::Take(_)))
}

fn is_command(sent: &Sent) -> bool {
    matches!(sent.what, What::Command(_) | What::Look(_))
}

impl State {
    /// A command of that tab's is in flight no more: the one that it sent first.
    pub fn forget_order(&mut self, i: usize) {
        if let Some(place) = self.order.iter().position(|whose| *whose == i) {
            self.order.remove(place);
        }
    }

    /// The same, with the one that it sent last.
    pub fn forget_last_of(&mut self, i: usize) {
        if let Some(place) = self.order.iter().rposition(|whose| *whose == i) {
            self.order.remove(place);
        }
    }
}

impl Tab {
    /// Whether an answer to such a command will be heard.
    pub fn awaits(&self, what: impl Fn(&Command) -> bool) -> bool {
        let in_flight = self.outbox.iter().filter(|sent| sent.awaited);
        in_flight
            .chain(self.inbox.iter().map(|a| &a.to))
            .any(|sent| match &sent.what {
                What::Command(command) => what(command),
                _ => false,
            })
    }

    /// Whether it will hear what came of a take, or of a look.
    pub fn asks(&self) -> bool {
        let looks = |sent: &Sent| matches!(sent.what, What::Look(_)) && sent.awaited;
        self.awaits(|command| matches!(command, Command::Take(_)))
            || self.outbox.iter().any(looks)
            || self.inbox.iter().any(|answer| looks(&answer.to))
    }

    pub fn answer(&mut self, to: Sent, outcome: Option<Outcome>) {
        if to.awaited {
            self.inbox.push(Answer {
                to,
                outcome,
                held: false,
            });
        }
    }
}

pub fn millis(ms: u32) -> Duration {
    Duration::from_millis(ms.into())
}

pub fn tab_name(tab: usize) -> String {
    ["a", "b", "c", "d"][tab].to_owned()
}
