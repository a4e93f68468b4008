//! Contenders against each other, in thousands of random orders: timers that fire early, late or not at all,
//! commands and answers that are lost or late, messages that are lost, late or repeated, calls that come and
//! go, pages that are hidden and suspended, stores that are closed. No runtime and no driver: what is played is
//! the machine that is shipped, and the rules.
//!
//! `TAB_LEASE_PLAYS=100000 cargo test --test play` plays more; `TAB_LEASE_PLAY=17` plays one and tells it.
#![cfg(not(target_arch = "wasm32"))]

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tab_lease::Config;
use tab_lease::contender::{
    Action, Around, CallId, Contender, End, Event, LeaseId, Moment, Patience, Seen, SendId, Timer,
};
use tab_lease::message::Message;
use tab_lease::participant::{Now, Past};
use tab_lease::rules::{self, Command, Outcome, Record, Take};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

struct Tab {
    name: String,
    contender: Contender,
    past: Past,
    around: Around,
    suspended: bool,
    /// Sent and not yet applied, in order; applied, and not yet answered.
    outbox: Vec<(SendId, Command)>,
    looks: Vec<(SendId, Take)>,
    looked: Vec<(SendId, Take, Seen)>,
    answers: Vec<(SendId, Command, Option<Outcome>)>,
    steps_aside: Vec<LeaseId>,
    waiting: HashSet<CallId>,
    guards: Vec<LeaseId>,
    tokens: HashMap<LeaseId, u64>,
    /// Leases of which nothing may be heard any more.
    over: HashSet<LeaseId>,
}

impl Tab {
    /// Something is on its way to the store, or back.
    fn is_busy(&self) -> bool {
        let commands = self.outbox.len() + self.answers.len();
        commands + self.looks.len() + self.looked.len() > 0
    }
}

struct Play {
    dice: fastrand::Rng,
    now: Now,
    record: Option<Record>,
    tabs: Vec<Tab>,
    messages: Vec<(usize, Message)>,
    next: u64,
    newest: u64,
    held: usize,
    story: Option<Vec<String>>,
}

impl Play {
    fn new(seed: u64, tells: bool) -> Self {
        let mut dice = fastrand::Rng::with_seed(seed);
        let speaks = dice.u8(0..4) > 0;
        let around = Around {
            speaks,
            complete: speaks,
            beacons: false,
            steady_leases: 0,
        };
        let tabs = (0..dice.usize(2..=3)).map(|n| {
            let name = format!("tab {n}");
            Tab {
                contender: Contender::new(name.clone(), &Config::default(), around, ms(2)),
                name,
                past: Past::default(),
                around,
                suspended: false,
                outbox: Vec::new(),
                looks: Vec::new(),
                looked: Vec::new(),
                answers: Vec::new(),
                steps_aside: Vec::new(),
                waiting: HashSet::new(),
                guards: Vec::new(),
                tokens: HashMap::new(),
                over: HashSet::new(),
            }
        });
        Self {
            tabs: tabs.collect(),
            dice,
            now: ms(1000),
            record: None,
            messages: Vec::new(),
            next: 1,
            newest: 0,
            held: 0,
            story: tells.then(Vec::new),
        }
    }

    fn tell(&mut self, what: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            story.push(format!("{:?} {}", self.now, what()));
        }
    }

    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn fail(&self, what: &str) -> ! {
        for line in self.story.iter().flatten() {
            eprintln!("{line}");
        }
        panic!("{what} at {:?}", self.now);
    }

    /// As the driver does: a lease that has run out is told first.
    fn feed(&mut self, tab: usize, event: Event) {
        if self.tabs[tab].contender.has_expired(self.now) {
            self.handle(tab, Event::Fired(Timer::Expiry));
        }
        self.handle(tab, event);
    }

    fn handle(&mut self, tab: usize, event: Event) {
        let (fresh_epoch, fresh_request) = (self.fresh(), self.fresh());
        self.tell(|| format!("tab {tab}: {event:?}"));
        let at = Moment {
            now: self.now,
            wall_ms: 0,
            fresh_epoch,
            fresh_request,
            lit: false,
            would_tell: &|_| false,
            may_queue: true,
        };
        let mut actions = Vec::new();
        let Tab {
            contender, past, ..
        } = &mut self.tabs[tab];
        contender.handle(past, at, event, &mut actions);
        self.perform(tab, actions);
    }

    fn perform(&mut self, tab: usize, actions: Vec<Action>) {
        for action in actions {
            self.tell(|| format!("    {action:?}"));
            match action {
                Action::Send { id, command } => {
                    if self.tabs[tab].suspended {
                        self.fail("a suspended tab sends");
                    }
                    self.tabs[tab].outbox.push((id, command));
                }
                Action::Look { id, take } => {
                    if self.tabs[tab].suspended {
                        self.fail("a suspended tab looks");
                    }
                    self.tabs[tab].looks.push((id, take));
                }
                Action::StepAside(lease) => self.tabs[tab].steps_aside.push(lease),
                Action::LeaveBlindly(who) => {
                    // As the store: it overtakes nothing of its own tab that has been applied.
                    if self.dice.bool() {
                        self.apply(&Command::Quit { who });
                    }
                }
                Action::Post(message) => {
                    let others = (0..self.tabs.len()).filter(|other| *other != tab);
                    for other in others {
                        for _ in 0..[0, 1, 1, 1, 1, 2][self.dice.usize(0..6)] {
                            self.messages.push((other, message.clone()));
                        }
                    }
                }
                Action::Watch(_) => {}
                Action::Settle { call, end } => self.settle(tab, call, end),
                Action::Lose(lease, _) | Action::Released(lease) => {
                    if !self.tabs[tab].over.insert(lease) {
                        self.fail("a lease has ended twice");
                    }
                }
                Action::Linger(lease) => {
                    if self.tabs[tab].over.contains(&lease) {
                        self.fail("a lease lingers that has ended");
                    }
                }
            }
        }
    }

    fn settle(&mut self, tab: usize, call: CallId, end: End) {
        if !self.tabs[tab].waiting.remove(&call) {
            self.fail("a call is settled that does not wait");
        }
        let End::Held { lease, token, .. } = end else {
            return;
        };
        if self.tabs[tab].over.contains(&lease) {
            self.fail("a call is given a lease that has ended");
        }
        let known = self.tabs[tab].tokens.insert(lease, token);
        if known.is_none() {
            self.held += 1;
            if token < self.newest {
                self.fail("a token is older than one before");
            }
            self.newest = token;
        }
        self.tabs[tab].guards.push(lease);
        self.feed_told(tab, lease);
        self.check();
    }

    /// A caller may be told only later.
    fn feed_told(&mut self, tab: usize, lease: LeaseId) {
        if self.dice.u8(0..4) > 0 {
            let at = self.now;
            self.tell(|| format!("    told {lease:?} {at:?}"));
            self.tabs[tab].steps_aside.push(LeaseId(u64::MAX - lease.0));
        }
    }

    /// At most one tab believes.
    fn check(&mut self) {
        let now = self.now;
        let believes = |tab: &&Tab| tab.contender.good_until().is_some_and(|until| now < until);
        let believers = self.tabs.iter().filter(believes);
        let names: Vec<_> = believers.map(|tab| tab.name.clone()).collect();
        if names.len() > 1 {
            self.fail(&format!("{names:?} hold at once"));
        }
    }

    fn apply(&mut self, command: &Command) -> Outcome {
        let (write, outcome) = rules::apply(self.record.as_ref(), command);
        if let Some(record) = write {
            self.record = Some(record);
        }
        outcome
    }

    /// The oldest command of a tab reaches the store; its answer may get lost.
    fn land(&mut self, tab: usize, calm: bool) {
        // Looks overtake commands, and are overtaken.
        if !self.tabs[tab].looks.is_empty() && (calm || self.dice.bool()) {
            let (id, take) = self.tabs[tab].looks.remove(0);
            let command = Command::Take(take.clone());
            let record = self.record.as_ref();
            let seen = record.and_then(|record| rules::look(record, &command));
            let seen = match (self.dice.u8(0..20), seen) {
                (0, _) if !calm => Seen::Nothing,
                (_, Some(Outcome::Waiting(waiting))) => Seen::Waiting(waiting),
                _ => Seen::Change,
            };
            self.tell(|| format!("store: tab {tab} looks: {seen:?}"));
            self.tabs[tab].looked.push((id, take, seen));
        }
        if self.tabs[tab].outbox.is_empty() {
            return;
        }
        let (id, command) = self.tabs[tab].outbox.remove(0);
        self.tell(|| format!("store: tab {tab}'s {command:?}"));
        let fate = if calm { 9 } else { self.dice.u8(0..20) };
        let answer = match fate {
            0 => None,
            1 => {
                self.apply(&command);
                None
            }
            _ => Some(self.apply(&command)),
        };
        self.tabs[tab].answers.push((id, command, answer));
    }

    fn step(&mut self) {
        let tab = self.dice.usize(0..self.tabs.len());
        match self.dice.u8(0..100) {
            0..14 => self.now += ms(self.dice.u64(0..30)),
            14..16 => self.now += ms(self.dice.u64(0..700)),
            16..36 => self.land(tab, false),
            36..54 => self.hear_answer(tab),
            54..64 => self.hear_message(),
            64..76 => {
                let timers = Timer::ALL.into_iter().filter(|timer| {
                    // Any time is right, but for the end of a lease.
                    let due = self.tabs[tab].contender.due_at(*timer);
                    due.is_some_and(|due| *timer != Timer::Expiry || due <= self.now)
                });
                let timers: Vec<_> = timers.collect();
                if !timers.is_empty() {
                    let timer = timers[self.dice.usize(0..timers.len())];
                    self.feed(tab, Event::Fired(timer));
                }
            }
            76..83 => self.call(tab),
            83..85 => {
                let call = self.tabs[tab].waiting.iter().min().copied();
                if let Some(call) = call {
                    self.tabs[tab].waiting.remove(&call);
                    self.feed(tab, Event::Leave(call));
                }
            }
            85..92 => self.drop_guard(tab),
            92..95 => self.step_aside(tab),
            95 => self.fence(tab),
            96 => {
                let hidden = self.dice.bool();
                self.feed(tab, Event::Hidden(hidden));
            }
            97 | 98 => self.suspend(tab),
            _ => self.feed(tab, Event::Closing),
        }
        self.check();
    }

    fn call(&mut self, tab: usize) {
        let id = CallId(self.fresh());
        let patience = match self.dice.u8(0..6) {
            0 => Patience::Try,
            1 => Patience::Spin { longest_ms: 80 },
            2 => Patience::Until(Some(self.now + ms(self.dice.u64(1..400)))),
            _ => Patience::Until(None),
        };
        self.tabs[tab].waiting.insert(id);
        self.feed(tab, Event::Call { id, patience });
    }

    fn drop_guard(&mut self, tab: usize) {
        if let Some(lease) = self.tabs[tab].guards.pop() {
            self.feed(tab, Event::GuardDropped(lease));
        }
    }

    fn step_aside(&mut self, tab: usize) {
        let Some(lease) = self.tabs[tab].steps_aside.pop() else {
            return;
        };
        let event = if lease.0 > u64::MAX / 2 {
            Event::Told(LeaseId(u64::MAX - lease.0))
        } else {
            Event::SteppedAside(lease)
        };
        self.feed(tab, event);
    }

    fn hear_answer(&mut self, tab: usize) {
        if !self.tabs[tab].looked.is_empty() {
            let (id, take, seen) = self.tabs[tab].looked.remove(0);
            self.feed(tab, Event::Looked { id, take, seen });
        }
        if self.tabs[tab].answers.is_empty() {
            return;
        }
        // Of renewals behind a fenced transaction, and of takes of ended requests, in any order.
        let place = self.dice.usize(0..self.tabs[tab].answers.len());
        let (id, command, answer) = self.tabs[tab].answers.remove(place);
        self.feed(
            tab,
            Event::Answer {
                id,
                command,
                answer,
            },
        );
    }

    fn hear_message(&mut self) {
        if !self.messages.is_empty() {
            let place = self.dice.usize(0..self.messages.len());
            let (to, message) = self.messages.remove(place);
            if self.tabs[to].around.speaks {
                self.feed(to, Event::Heard(message));
            }
        }
    }

    fn suspend(&mut self, tab: usize) {
        let suspended = !self.tabs[tab].suspended;
        self.feed(tab, Event::Look);
        self.tabs[tab].suspended = suspended;
        self.feed(tab, Event::Suspended(suspended));
        if suspended && self.tabs[tab].contender.good_until().is_some() {
            self.fail("a suspended tab believes");
        }
    }

    /// A fenced transaction that is checked at once; stale ones must be refused.
    fn fence(&mut self, tab: usize) {
        let Some(lease) = self.tabs[tab].contender.lease() else {
            return;
        };
        let (fresh_epoch, fresh_request) = (self.fresh(), self.fresh());
        let at = Moment {
            now: self.now,
            wall_ms: 0,
            fresh_epoch,
            fresh_request,
            lit: false,
            would_tell: &|_| false,
            may_queue: true,
        };
        let mut actions = Vec::new();
        let Tab {
            contender, past, ..
        } = &mut self.tabs[tab];
        let fence = contender.fence(past, at, lease, &mut actions);
        self.perform(tab, actions);
        let Some(fence) = fence else {
            return;
        };
        // Behind what was sent before.
        while !self.tabs[tab].outbox.is_empty() {
            self.land(tab, true);
        }
        match rules::fence(self.record.as_ref(), &fence) {
            rules::Fenced::Refused => {
                let believes = self.tabs[tab].contender.good_until();
                if believes.is_some_and(|until| self.now < until) {
                    self.fail("a holder's transaction is refused");
                }
                self.feed(tab, Event::FenceRefused(fence));
            }
            checked => {
                if let rules::Fenced::Claimed(record) = checked {
                    self.record = Some(record);
                }
                if fence.token < self.newest {
                    self.fail("a stale transaction is committed");
                }
                self.feed(tab, Event::FencePassed(fence.clone()));
                let passed = true;
                self.feed(
                    tab,
                    Event::FenceOver {
                        lease: fence,
                        passed,
                    },
                );
            }
        }
    }

    /// From now on everything works, and in time: whoever waits gets the lock.
    fn calm(&mut self) {
        for tab in 0..self.tabs.len() {
            if self.tabs[tab].suspended {
                self.suspend(tab);
            }
        }
        let end = self.now + ms(120_000);
        while self.tabs.iter().any(|tab| !tab.waiting.is_empty()) {
            if self.now > end {
                self.fail("somebody waits for ever");
            }
            for tab in 0..self.tabs.len() {
                while self.tabs[tab].is_busy() {
                    self.land(tab, true);
                    self.hear_answer(tab);
                }
                while !self.tabs[tab].steps_aside.is_empty() {
                    self.step_aside(tab);
                }
                while !self.tabs[tab].guards.is_empty() {
                    self.drop_guard(tab);
                }
            }
            while !self.messages.is_empty() {
                self.hear_message();
            }
            let dues = self.tabs.iter().enumerate();
            let dues = dues.filter_map(|(tab, of)| Some((of.contender.due()?, tab)));
            if let Some(((at, timer), tab)) = dues.min() {
                if !self.tabs.iter().any(Tab::is_busy) {
                    self.now = self.now.max(at);
                    self.feed(tab, Event::Fired(timer));
                }
            } else if !self.tabs.iter().any(Tab::is_busy) {
                self.now += ms(1);
            }
            self.check();
        }
    }
}

fn play(seed: u64, tells: bool) -> usize {
    let mut play = Play::new(seed, tells);
    for _ in 0..400 {
        play.step();
    }
    play.calm();
    play.held
}

#[test]
fn no_order_of_events_breaks_what_must_hold() {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    if let Some(seed) = number("TAB_LEASE_PLAY") {
        play(seed, true);
        return;
    }
    let mut held = 0;
    for seed in 0..number("TAB_LEASE_PLAYS").unwrap_or(5_000) {
        let played = std::panic::catch_unwind(|| play(seed, false));
        held += played.unwrap_or_else(|_| panic!("TAB_LEASE_PLAY={seed} plays it again"));
    }
    assert!(held > 5_000, "{held} leases");
}
