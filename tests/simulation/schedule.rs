//! One schedule: everything that happens, and when, follows from its seed.
//!
//! The event loop knows one time, in whole ms, and gives turns: to whatever is due next, a parcel on
//! the wire or a tab's next timer; among tabs that are due at once the dice decide. See
//! [`tab`](crate::tab) for what a turn is.
//!
//! Disturbances end in two steps. Until `calm_from` stores misbehave, and tabs freeze and crash;
//! until `quiet_from` tabs still freeze and crash, so that it is seen how soon others take over; then
//! everybody finishes, and a last tab asks whether the lock is free. In every fourth schedule a lease
//! is taken away by force in the calm: what its holder may not believe for longer than a beat.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::panic;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};

use tab_lease::Config;

use crate::link::{Parcel, Weather, wall};
use crate::page::{self, Page, Turn};
use crate::tab::Tab;
use crate::user::User;
use crate::voice::{Lamp, Voice, listen, tab_of};
use crate::world::{Counts, TabState, WAY_MS, World};

/// How far a tab without timers is wound forward.
pub const HORIZON_MS: u64 = 1_000;

/// Of one section: the wait and the use of the lock, when nothing is disturbed any more.
const SECTION_MS: u64 = 8_000;

pub struct Story {
    pub failure: Option<String>,
    pub counts: Counts,
    pub log: Vec<String>,
}

/// Plays the schedule of a seed.
pub fn play(seed: u64, log: bool) -> Story {
    watch_panics();
    SIMULATING.set(true);
    let mut stage = Stage::set(seed, log);
    stage.perform();
    let mut state = stage.world.state();
    state.counts.commands += state.next_op;
    state.counts.virtual_seconds += state.now / 1000;
    let story = Story {
        failure: state.failure.take(),
        counts: state.counts.clone(),
        log: state.take_log(),
    };
    drop(state);
    stage.tabs.clear();
    SIMULATING.set(false);
    story
}

/// What happens to a tab.
pub struct Plan {
    pub tab: Option<Tab>,
    pub voice: Option<Voice>,
    pub page: page::Plan,
    callers: usize,
    sections: usize,
    freezes_at: u64,
    /// It waits with freezing until it holds.
    freezes_holding: bool,
    crashes_at: u64,
    crashes_when: When,
}

/// What a tab waits for with crashing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Anything,
    Holds,
    /// It has just handed the lease on, which the record does not say yet.
    HandedOn,
}

pub struct Stage {
    seed: u64,
    pub world: Arc<World>,
    pub tabs: Vec<Plan>,
    pub dice: fastrand::Rng,
    /// Turns to come: when, in which order, whose.
    agenda: BinaryHeap<Reverse<(u64, u32, usize)>>,
    unopened: usize,
    sections: u64,
    /// Mean time between two freezes of a tab, if there are any; the longest of them.
    freezing: Option<(u64, u64)>,
    crashing: bool,
    /// In how many of 100 tabs there are messages, and beacons.
    speaking: u32,
    shining: u32,
    pub paging: page::Weather,
    pub quiet_from: u64,
    /// From when on a lease is taken away by force, once.
    usurped_from: u64,
}

impl Stage {
    fn set(seed: u64, log: bool) -> Self {
        // The crate remembers the past of a key for as long as the process lives.
        static KEYS: AtomicU64 = AtomicU64::new(0);
        let key = format!("simulation {}", KEYS.fetch_add(1, Ordering::Relaxed));
        let mut dice = fastrand::Rng::with_seed(seed);
        let calm_from = dice.u64(300..3000);
        let weather = Weather::draw(&mut dice, calm_from);
        let weather = if seed.is_multiple_of(16) {
            weather.with_long_fences()
        } else {
            weather
        };
        let quiet_from = calm_from + dice.u64(0..1500);
        let longest = if dice.bool() { 600 } else { 2500 };
        let freezing = dice.bool().then(|| (dice.u64(100..2000), longest));
        let crashing = dice.bool();
        let usurped = dice.u8(0..4) == 0;
        let usurped_from = if usurped {
            calm_from + dice.u64(0..1500)
        } else {
            u64::MAX
        };
        let speaking = [0, 60, 100, 100, 100][dice.usize(0..5)];
        let shining = [0, 0, 60, 100, 100][dice.usize(0..5)];
        let paging = page::Weather::draw(&mut dice);
        let world = World::new(key, weather.clone(), dice.fork(), log);
        world.state().log(|| {
            format!(
                "seed {seed}: {weather:?}, freezing {freezing:?}, crashing {crashing}, \
                 speaking {speaking}, shining {shining}, quiet from {quiet_from}"
            )
        });
        let mut stage = Self {
            seed,
            world: Arc::new(world),
            tabs: Vec::new(),
            agenda: BinaryHeap::new(),
            unopened: 0,
            sections: 0,
            freezing,
            crashing,
            speaking,
            shining,
            paging,
            quiet_from,
            usurped_from,
            dice,
        };
        for _ in 0..stage.dice.usize(2..=8) {
            let opens_at = stage.dice.u64(0..400);
            stage.plan(opens_at);
        }
        stage
    }

    fn plan(&mut self, opens_at: u64) {
        let dice = &mut self.dice;
        let callers = [1, 1, 1, 2, 3][dice.usize(0..5)];
        let sections = dice.usize(1..=4);
        let crashes = self.crashing && dice.bool();
        let (lease_ms, heartbeat_ms) = match dice.u8(0..12) {
            0 => (300, 30),
            1 => (1000, 100),
            2 => (200, 50),
            3 => (500, 200),
            _ => (500, 50),
        };
        let config = Config {
            lease_ms,
            heartbeat_ms,
            idle_lease_ms: lease_ms * [1, 1, 3, 5][dice.usize(0..4)],
            hidden_lease_ms: (lease_ms * [1, 3, 10][dice.usize(0..3)]).min(5000),
            ..Default::default()
        };
        let (speaks, beacon) = (
            dice.u32(0..100) < self.speaking,
            dice.u32(0..100) < self.shining,
        );
        let plan = Plan {
            tab: None,
            voice: None,
            page: page::Plan::draw(&self.paging, dice, opens_at),
            callers,
            sections,
            freezes_at: opens_at,
            freezes_holding: false,
            crashes_at: if crashes {
                opens_at + dice.u64(0..3000)
            } else {
                u64::MAX
            },
            crashes_when: [When::Anything, When::Holds, When::Holds, When::HandedOn]
                [dice.usize(0..4)],
        };
        let mut own = dice.fork();
        let state = TabState {
            config,
            wall: wall(&mut own),
            dice: own,
            clock: None,
            crashed: false,
            frozen: false,
            freezes: Vec::new(),
            awake: 0,
            page: Page::default(),
            last_landing: 0,
            sent_at: 0,
            sent_now: 0,
            fenced_at: u64::MAX,
            quit_lost: self.world.state().weather.unordered,
            speaks,
            beacon,
            lamp: Lamp::draw(dice, opens_at),
            tries_until: 0,
            handed_on: 0,
            inbox: Vec::new(),
        };
        let tab = self.world.state().enter(state);
        self.tabs.push(plan);
        self.unopened += 1;
        self.sections += (callers * sections) as u64;
        self.due(opens_at, tab);
        self.next_freeze(tab, opens_at);
    }

    pub fn due(&mut self, at: u64, tab: usize) {
        self.agenda.push(Reverse((at, self.dice.u32(..), tab)));
    }

    fn next_freeze(&mut self, tab: usize, now: u64) {
        let plan = &mut self.tabs[tab];
        plan.freezes_at = match self.freezing {
            Some((mean, _)) => now + self.dice.u64(0..2 * mean),
            None => u64::MAX,
        };
        plan.freezes_holding = self.dice.bool();
    }

    fn perform(&mut self) {
        self.run_until_done();
        self.settle();
        self.is_it_free();
    }

    /// Nothing is disturbed any more, and what was left to be done gets done: answers come, the
    /// frozen wake, and heartbeats that wait for an answer give up at the end of the lease.
    fn settle(&mut self) {
        let resumed = self.all_resumed_by();
        let mut state = self.world.state();
        let now = state.now;
        state.weather.calm_from = state.weather.calm_from.min(now);
        self.quiet_from = self.quiet_from.min(now);
        self.usurped_from = u64::MAX;
        let wakes = state.tabs.iter().filter_map(|tab| tab.freezes.last());
        let awake = wakes
            .map(|(_, to)| *to)
            .max()
            .unwrap_or_default()
            .max(resumed);
        let end = now.max(state.wire.trouble_until).max(awake) + state.longest_lease + 100;
        drop(state);
        self.run_on(end - now);
    }

    /// Until every caller is done.
    fn run_until_done(&mut self) {
        let limit = self.quiet_from + self.sections * SECTION_MS;
        while self.unopened > 0 || self.world.state().users > 0 {
            if !self.step() {
                return;
            }
            let mut state = self.world.state();
            if state.now > limit.max(state.wire.trouble_until + limit) {
                let waiters = state.waiters();
                let left = state.users;
                state.fail(|| format!("G6: {left} callers never get done; waiting: {waiters}"));
            }
        }
    }

    /// For a while, and until everything that was sent has arrived.
    fn run_on(&mut self, time: u64) {
        let end = self.world.state().now + time;
        loop {
            let next_parcel = self.next_parcel();
            let next_turn = self.agenda.peek().map(|Reverse((at, ..))| *at);
            if next_parcel.is_none() && next_turn.is_none_or(|at| at > end) || !self.step() {
                return;
            }
        }
    }

    fn next_parcel(&self) -> Option<u64> {
        let state = self.world.state();
        state.parcels.first_key_value().map(|((at, _), _)| *at)
    }

    /// The next thing that happens. Nothing does after a failure.
    fn step(&mut self) -> bool {
        let world = Arc::clone(&self.world);
        let next_turn = self.agenda.peek().map(|Reverse((at, ..))| *at);
        let mut state = world.state();
        if state.failure.is_some() {
            return false;
        }
        if let Some(entry) = state.parcels.first_entry()
            && next_turn.is_none_or(|turn| entry.key().0 <= turn)
        {
            let ((at, _), parcel) = entry.remove_entry();
            state.now = at;
            state.deliver(parcel);
            return true;
        }
        let Some(Reverse((now, _, tab))) = self.agenda.pop() else {
            state.fail(|| "nothing is left to happen".to_owned());
            return false;
        };
        state.now = now;
        drop(state);
        self.turn(now, tab);
        true
    }

    fn turn(&mut self, now: u64, tab: usize) {
        if self.tabs[tab].tab.is_none() {
            self.open(now, tab);
        }
        let mut state = self.world.state();
        if now >= self.usurped_from && now > state.wire.trouble_until && state.usurp() {
            self.usurped_from = u64::MAX;
        }
        drop(state);
        if self.freezes(now, tab) || self.crashes(now, tab) {
            return;
        }
        let Turn::Runs(event) = self.pages(now, tab) else {
            return;
        };
        let until = self.horizon(now, tab);
        let plan = &mut self.tabs[tab];
        let open = plan.tab.as_mut().expect("it is open");
        let voice = plan.voice.as_ref().expect("it is open");
        let heard = std::mem::take(&mut self.world.state().tabs[tab].inbox);
        let next = open.turn(now, until, || {
            if let Some(event) = event {
                event(&voice.life);
            }
            for event in heard {
                listen(&self.world, tab, voice, event, self.dice.bool());
            }
        });
        let mut state = self.world.state();
        state.counts.turns += 1;
        if let Some(panic) = PANIC.take() {
            state.fail(|| panic);
        }
        state.judge(tab);
        drop(state);
        self.due(next, tab);
    }

    /// How far a tab may be wound forward. What others say will be heard at the end of that at the
    /// latest; nobody says anything before their own next turn, or before they hear something.
    fn horizon(&mut self, now: u64, tab: usize) -> u64 {
        let state = self.world.state();
        let calm = now >= state.weather.calm_from;
        let this = &state.tabs[tab];
        let listens =
            state.wire.involved.iter().any(|(other, _)| *other == tab) || now < this.tries_until;
        if !listens || !(this.speaks || this.beacon) {
            return now + HORIZON_MS;
        }
        let others = self
            .agenda
            .iter()
            .filter(|Reverse((.., other))| *other != tab);
        let next = others
            .map(|Reverse((at, ..))| *at)
            .min()
            .unwrap_or(u64::MAX);
        let words = state.parcels.iter().find(|(_, parcel)| parcel.is_word());
        let next = next.min(words.map_or(u64::MAX, |((at, _), _)| *at));
        let ahead = if calm {
            state.weather.ahead.clamp(3, 10)
        } else {
            state.weather.ahead
        };
        next.max(now + self.dice.u64(1..=ahead))
            .min(now + HORIZON_MS)
    }

    fn open(&mut self, now: u64, tab: usize) {
        let (open, clock) = Tab::open(now);
        let mut state = self.world.state();
        state.counts.tabs += 1;
        state.tabs[tab].clock = Some(clock);
        let config = state.tabs[tab].config;
        let (speaks, beacon) = (state.tabs[tab].speaks, state.tabs[tab].beacon);
        state.log(|| format!("tab {tab} opens: {config:?}, speaks: {speaks}, beacon: {beacon}"));
        drop(state);
        let voice = Voice::of(&self.world, tab, speaks, beacon);
        let lock = open.enter(|| voice.lock(&self.world, tab, config));
        let object = self.world.object();
        let plan = &mut self.tabs[tab];
        let local = Arc::new(tokio::sync::Mutex::new(()));
        for index in 0..plan.callers {
            let mut user = User {
                world: Arc::clone(&self.world),
                tab,
                lock: lock.clone(),
                object,
                voice: voice.clone(),
                config,
                dice: self.dice.fork(),
                fence_dice: fastrand::Rng::with_seed(self.seed ^ ((tab * 10 + index) as u64) << 32),
                index: index as u64 + 1,
                alone: plan.callers == 1,
                fences: self.seed.is_multiple_of(2),
                local: Arc::clone(&local),
                _busy: self.world.user(),
            };
            if index > 0 && self.dice.bool() {
                // A lock object of its own, which contends with the other one of the tab.
                user.lock = open.enter(|| lock.apart());
                user.object = self.world.object();
                user.alone = true;
                user.local = Arc::default();
                self.world.state().counts.apart += 1;
            }
            open.spawn(user.run(plan.sections));
        }
        plan.tab = Some(open);
        plan.voice = Some(voice);
        self.unopened -= 1;
    }

    /// Whether it stands still from now on, for a while.
    fn freezes(&mut self, now: u64, tab: usize) -> bool {
        let mut state = self.world.state();
        if state.tabs[tab].frozen {
            state.tabs[tab].frozen = false;
            state.log(|| format!("tab {tab} runs again"));
            return false;
        }
        let plan = &self.tabs[tab];
        if now < plan.freezes_at || now >= self.quiet_from {
            return false;
        }
        let holds = state.believes(tab);
        if plan.freezes_holding && !holds {
            return false;
        }
        let longest = self.freezing.map_or(0, |(_, longest)| longest);
        let wakes_at = now + self.dice.u64(1..=longest);
        state.counts.freezes += 1;
        let lease = state.tabs[tab].longest_lease();
        state.counts.overslept += u64::from(holds && wakes_at > now + lease);
        state.tabs[tab].stands_still(now, wakes_at);
        state.log(|| format!("tab {tab} FREEZES until {wakes_at} ms"));
        drop(state);
        self.next_freeze(tab, wakes_at);
        self.due(wakes_at, tab);
        true
    }

    /// Whether it is gone from now on.
    fn crashes(&mut self, now: u64, tab: usize) -> bool {
        let plan = &self.tabs[tab];
        if now < plan.crashes_at || now >= self.quiet_from {
            return false;
        }
        let mut state = self.world.state();
        let holds = state.believes(tab);
        let handed_on = now < state.tabs[tab].handed_on + 20;
        let due = match plan.crashes_when {
            When::Anything => true,
            When::Holds => holds,
            When::HandedOn => handed_on,
        };
        if !due {
            return false;
        }
        state.counts.crashes_handed_on += u64::from(handed_on);
        state.counts.crashes += 1;
        state.counts.crashes_holding += u64::from(holds);
        state.log(|| format!("tab {tab} CRASHES"));
        state.tabs[tab].crashed = true;
        let heard = std::mem::take(&mut state.tabs[tab].inbox);
        let lamp = &mut state.tabs[tab].lamp;
        if now < lamp.lit_at {
            lamp.lit_at = u64::MAX;
        } else if state.tabs[tab].beacon {
            let at = now + state.tabs[tab].lamp.glows;
            state.counts.beacons_out += 1;
            state.post(at, Parcel::Out(tab));
        }
        drop(state);
        drop(heard);
        self.tabs[tab].tab = None;
        self.tabs[tab].voice = None;
        self.world.state().tabs[tab].clock = None;
        if self.tabs.len() < 16 && self.dice.bool() {
            let opens_at = now + self.dice.u64(0..500);
            self.plan(opens_at);
        }
        true
    }

    /// No ghost: a lock that everybody has let go of is free at once. If the last holder crashed, or
    /// its release was lost, it is free after the lease.
    fn is_it_free(&mut self) {
        let mut state = self.world.state();
        if state.failure.is_some() {
            return;
        }
        let start = state.now;
        let holder = state
            .record()
            .and_then(|record| Some((record.holder?.tab, u64::from(record.len))));
        let mut allowed = WAY_MS;
        if let Some((holder, len)) = holder {
            match tab_of(&holder).map(|tab| (tab, &state.tabs[tab])) {
                Some((name, left)) if !left.crashed && !left.quit_lost => {
                    state.fail(|| {
                        format!("G3: tab {name} let go, but the record says that it holds")
                    });
                }
                _ => allowed += len,
            }
        }
        if state.counter != state.increments {
            let (counter, increments) = (state.counter, state.increments);
            state.fail(|| format!("G1: {increments} increments made {counter}"));
        }
        drop(state);

        self.plan(start);
        let last = self.tabs.len() - 1;
        let (open, clock) = Tab::open(start);
        let mut state = self.world.state();
        state.tabs[last].clock = Some(clock);
        let config = state.tabs[last].config;
        let (speaks, beacon) = (state.tabs[last].speaks, state.tabs[last].beacon);
        state.log(|| format!("tab {last} comes last"));
        drop(state);
        let voice = Voice::of(&self.world, last, speaks, beacon);
        let lock = open.enter(|| voice.lock(&self.world, last, config));
        let world = Arc::clone(&self.world);
        let busy = world.user();
        open.spawn(async move {
            let waiting = world.wait(last);
            let guard = lock.acquire(None).await;
            drop(waiting);
            match guard {
                Ok(guard) => drop(world.acquired(last, world.object(), guard)),
                Err(error) => world
                    .state()
                    .fail(|| format!("the last tab is told: {error}")),
            }
            let mut state = world.state();
            if state.now > start + allowed {
                state.fail(|| format!("G3: a ghost held the lock from {start} ms on"));
            }
            drop(state);
            drop(busy);
        });
        self.tabs[last].tab = Some(open);
        self.tabs[last].voice = Some(voice);
        self.unopened -= 1;
        self.run_until_done();
    }
}

thread_local! {
    static SIMULATING: Cell<bool> = const { Cell::new(false) };
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The runtime catches a task's panic and tells nobody; in a schedule it is a failure.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if SIMULATING.get() {
                PANIC.set(Some(panic.to_string()));
            } else {
                before(panic);
            }
        }));
    });
}
