//! What all tabs share in one schedule, and the judge of it.
//!
//! Each `fail` below names the guarantee that it checks (G1 … G6). Beliefs begin only while some tab
//! runs, so looking at every guard after every turn, and at every acquisition within one, leaves no
//! instant unwatched.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use tab_lease::rules::{Last, Record, Requester};
use tab_lease::{
    Config, CrossProcessStoreLock, CrossProcessStoreLockGuard, LeaseLost, MemoryStore,
};

use crate::link::{Link, Op, Parcel, Weather, Wire, short};
use crate::tab::{Clock, once};

pub type Lock = CrossProcessStoreLock<Link>;
pub type Guard = CrossProcessStoreLockGuard;

/// What happened how often.
macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        #[derive(Clone, Debug, Default)]
        pub struct Counts { $($(#[$doc])* pub $name: u64),* }
        impl Counts {
            pub fn add(&mut self, other: &Self) { $(self.$name += other.$name;)* }
            pub fn all(&self) -> Vec<(&'static str, u64)> { vec![$((stringify!($name), self.$name)),*] }
        }
    };
}
counts! {
    tabs,
    acquisitions,
    changes_of_hands,
    losses,
    timeouts,
    store_errors,
    abandoned,
    freezes,
    /// Freezes of a holder that outlasted its lease.
    overslept,
    crashes,
    /// Of a holder.
    crashes_holding,
    increments,
    fenced_writes,
    /// Writes of a stale holder that the fencing token kept out.
    fenced_off,
    /// Leases taken away by force.
    usurped,
    commands,
    turns,
    virtual_seconds,
}

/// To the store and back in the calm, with room to spare.
pub const WAY_MS: u64 = 20;

/// The outside of a tab.
pub struct TabState {
    pub config: Config,
    pub dice: fastrand::Rng,
    pub clock: Option<Clock>,
    pub crashed: bool,
    pub frozen: bool,
    /// The times that it did not run: from, to.
    pub freezes: Vec<(u64, u64)>,
    pub wall: u64,
    pub last_landing: u64,
    pub sent_at: u64,
    pub sent_now: u32,
    /// A quit of it never arrived.
    pub quit_lost: bool,
}

impl TabState {
    /// When something that is due at `due` can be seen at the latest.
    pub fn at_work(&self, due: u64) -> u64 {
        let freezes = self.freezes.iter();
        let asleep = freezes.filter(|(from, to)| *from <= due && due <= *to);
        asleep.map(|(_, to)| *to).max().unwrap_or(due)
    }

    /// When its first beat after `time` has been answered at the latest, in the calm. What it finds
    /// when it wakes may be an earlier answer; the beat comes after that.
    fn beat_after(&self, time: u64) -> u64 {
        let awake = self.freezes.last().map_or(0, |(_, to)| *to);
        time.max(awake) + u64::from(self.config.heartbeat_ms) + WAY_MS
    }
}

/// A guard that somebody has or had.
struct Held {
    tab: usize,
    token: u64,
    guard: Weak<Guard>,
    lost: Pin<Box<dyn Future<Output = LeaseLost> + Send>>,
    told: bool,
}

pub struct State {
    pub now: u64,
    pub weather: Weather,
    pub dice: fastrand::Rng,
    pub wire: Wire,
    pub tabs: Vec<TabState>,
    pub ops: HashMap<u64, Op>,
    pub next_op: u64,
    pub parcels: BTreeMap<(u64, u64), Parcel>,
    next_parcel: u64,
    held: Vec<Held>,
    /// Callers that wait in `acquire`: their tab, and since when.
    waiting: BTreeMap<u64, (usize, u64)>,
    next_waiter: u64,
    /// Callers that have something left to do.
    pub users: usize,
    /// The latest tenure: tab and token.
    latest: Option<(usize, u64)>,
    /// What the lock protects: a counter, and how often it was incremented.
    pub counter: u64,
    pub increments: u64,
    /// … and a register that refuses writes with a lower token than it has seen.
    register: u64,
    /// A lease was taken away by force: the new token, and when. What is older may still be believed
    /// until the next beat, and is fenced off.
    usurped: (u64, u64),
    pub longest_lease: u64,
    pub counts: Counts,
    pub failure: Option<String>,
    log: Option<Vec<String>>,
}

pub struct World(Mutex<State>);

impl World {
    pub fn new(key: String, weather: Weather, dice: fastrand::Rng, log: bool) -> Self {
        Self(Mutex::new(State {
            now: 0,
            weather,
            dice,
            wire: Wire {
                memory: MemoryStore::new(),
                key,
                trouble_until: 0,
                granted_at: 0,
                free_since: Some(0),
                longest_queue: 0,
            },
            tabs: Vec::new(),
            ops: HashMap::new(),
            next_op: 0,
            parcels: BTreeMap::new(),
            next_parcel: 0,
            held: Vec::new(),
            waiting: BTreeMap::new(),
            next_waiter: 0,
            users: 0,
            latest: None,
            counter: 0,
            increments: 0,
            register: 0,
            usurped: (0, 0),
            longest_lease: 0,
            counts: Counts::default(),
            failure: None,
            log: log.then(Vec::new),
        }))
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A caller waits, until this is dropped.
    pub fn wait(self: &Arc<Self>, tab: usize) -> Waiting {
        let mut state = self.state();
        let id = state.next_waiter;
        state.next_waiter += 1;
        let now = state.now;
        state.waiting.insert(id, (tab, now));
        Waiting(Arc::clone(self), id)
    }

    /// A caller has something to do, until this is dropped.
    pub fn user(self: &Arc<Self>) -> Busy {
        self.state().users += 1;
        Busy(Arc::clone(self))
    }

    /// A caller was given a guard.
    pub fn acquired(&self, tab: usize, guard: Guard) -> Arc<Guard> {
        let guard = Arc::new(guard);
        self.state().acquired(tab, &guard);
        guard
    }

    /// Adds one to what the lock protects: `read`, and later `write`.
    pub fn read(&self) -> u64 {
        self.state().counter
    }

    pub fn write(&self, tab: usize, guard: &Guard, read: u64) {
        let mut state = self.state();
        if guard.token() < state.usurped.0 {
            return;
        }
        state.counter = read + 1;
        state.increments += 1;
        state.counts.increments += 1;
        let (counter, increments) = (state.counter, state.increments);
        state.log(|| format!("tab {tab} counts to {counter}"));
        if counter != increments {
            state.fail(|| {
                format!("G1: an update was lost: tab {tab} wrote {counter}, not {increments}")
            });
        }
    }

    /// Writes with a fencing token; the write arrives `delay` later.
    pub fn fenced_write(&self, tab: usize, guard: &Guard, delay: u64) {
        let mut state = self.state();
        let token = guard.token();
        state.counts.fenced_writes += 1;
        if delay > 0 {
            let at = state.now + delay;
            state.post(at, Parcel::Write { tab, token });
        } else {
            let accepted = state.register_write(tab, token);
            if !accepted && token >= state.usurped.0 && guard.is_held() {
                state
                    .fail(|| format!("G1: tab {tab} holds, but a higher token was in use already"));
            }
        }
    }
}

pub struct Waiting(Arc<World>, u64);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.state().waiting.remove(&self.1);
    }
}

pub struct Busy(Arc<World>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.state().users -= 1;
    }
}

impl State {
    pub fn log(&mut self, what: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(log) = &mut self.log {
            log.push(format!("{now:>6} ms  {}", what()));
        }
    }

    pub fn take_log(&mut self) -> Vec<String> {
        self.log.take().unwrap_or_default()
    }

    pub fn fail(&mut self, what: impl FnOnce() -> String) {
        if self.failure.is_none() {
            let what = format!("at {} ms: {}", self.now, what());
            self.log(|| format!("FAILED {what}"));
            self.failure = Some(what);
        }
    }

    pub fn post(&mut self, at: u64, parcel: Parcel) {
        self.parcels.insert((at, self.next_parcel), parcel);
        self.next_parcel += 1;
    }

    pub fn deliver(&mut self, parcel: &Parcel) {
        match *parcel {
            Parcel::Command(op) => self.land(op),
            Parcel::Write { tab, token } => {
                self.register_write(tab, token);
            }
        }
    }

    pub fn enter(&mut self, tab: TabState) -> usize {
        self.longest_lease = self.longest_lease.max(tab.config.lease_ms.into());
        self.tabs.push(tab);
        self.tabs.len() - 1
    }

    pub fn record(&self) -> Option<Record> {
        self.wire.memory.record(&self.wire.key)
    }

    /// Somebody takes the lease away from its holder, by other means than the rules', and dies.
    /// Answers whether there was a lease.
    pub fn usurp(&mut self) -> bool {
        let Some(mut record) = self.record() else {
            return false;
        };
        let Some(holder) = record.holder.take() else {
            return false;
        };
        record.last = Some(Last {
            tab: holder.tab,
            token: record.token,
        });
        record.token += 2;
        record.count = 0;
        record.holder = Some(Requester {
            tab: "usurper".to_owned(),
            request: 1,
        });
        self.counts.usurped += 1;
        self.usurped = (record.token, self.now);
        self.latest = Some((usize::MAX, record.token));
        self.wire.granted_at = self.now;
        let token = short(record.token);
        self.log(|| format!("USURPED with token {token}"));
        self.wire.memory.set_record(&self.wire.key, Some(record));
        true
    }

    fn register_write(&mut self, tab: usize, token: u64) -> bool {
        let accepted = token >= self.register;
        self.register = self.register.max(token);
        self.counts.fenced_off += u64::from(!accepted);
        let verdict = if accepted { "accepted" } else { "fenced off" };
        self.log(|| {
            format!(
                "  data: tab {tab}'s write with token {} {verdict}",
                short(token)
            )
        });
        accepted
    }

    /// Whether a tab holds, by its own clock, even if it is frozen.
    pub fn believes(&mut self, tab: usize) -> bool {
        self.believers().iter().any(|(held, _)| *held == tab)
    }

    fn believers(&mut self) -> Vec<(usize, u64)> {
        let now = self.now;
        self.held.retain(|held| held.guard.strong_count() > 0);
        let mut believers = Vec::new();
        for held in &self.held {
            let Some(guard) = held.guard.upgrade() else {
                continue;
            };
            let clock = self.tabs[held.tab].clock.as_mut();
            if clock.expect("its tab is open").at(now, || guard.is_held()) {
                believers.push((held.tab, held.token));
            }
        }
        believers
    }

    fn acquired(&mut self, tab: usize, guard: &Arc<Guard>) {
        let token = guard.token();
        self.counts.acquisitions += 1;
        self.log(|| format!("tab {tab} HOLDS with token {}", short(token)));
        if !guard.is_held() {
            self.fail(|| format!("G4: tab {tab} was given a guard that holds nothing"));
        }
        if token >= self.usurped.0 {
            self.check_token(tab, guard);
        }
        let lost = Box::pin(guard.lost());
        self.held.push(Held {
            tab,
            token,
            guard: Arc::downgrade(guard),
            lost,
            told: false,
        });
        self.check_exclusion();
        // Whoever had it before and could run since has been told.
        let other_tabs = (0..self.tabs.len()).filter(|other| *other != tab);
        let awake: Vec<_> = other_tabs
            .filter(|other| !self.tabs[*other].frozen)
            .collect();
        for other in awake {
            self.check_notice(other);
        }
    }

    /// G2: tokens grow at every change of hands, and it is told that there was one.
    fn check_token(&mut self, tab: usize, guard: &Guard) {
        let token = guard.token();
        if let Some((other, other_token)) = self.latest
            && (token < other_token || token == other_token && tab != other)
        {
            self.fail(|| {
                format!("G2: tab {tab} has token {token}, after tab {other} had {other_token}")
            });
        }
        if !guard.dirty() && self.latest.is_some_and(|(other, _)| other != tab) {
            self.fail(|| format!("tab {tab} was told that nobody held since it did"));
        }
        if self.latest != Some((tab, token)) {
            self.counts.changes_of_hands += 1;
            self.latest = Some((tab, token));
        }
    }

    /// G1: all who believe share one tenure.
    fn check_exclusion(&mut self) {
        let mut believers = self.believers();
        believers.retain(|(_, token)| *token >= self.usurped.0);
        if let Some(first) = believers.first()
            && let Some(other) = believers.iter().find(|other| *other != first)
        {
            self.fail(|| {
                let (a, b) = (first.0, other.0);
                let tokens = (short(first.1), short(other.1));
                format!("G1: tabs {a} and {b} hold at the same time, with tokens {tokens:?}")
            });
        }
    }

    /// G4: a tab that has run knows how its guards stand.
    fn check_notice(&mut self, tab: usize) {
        let now = self.now;
        let mut verdicts = Vec::new();
        let mut deceived = false;
        for held in &mut self.held {
            if held.tab != tab || held.told {
                continue;
            }
            let Some(guard) = held.guard.upgrade() else {
                continue;
            };
            let clock = self.tabs[tab].clock.as_mut().expect("its tab is open");
            let is_held = clock.at(now, || guard.is_held());
            held.told = once(held.lost.as_mut()).is_ready();
            if is_held
                && held.token < self.usurped.0
                && now > self.tabs[tab].beat_after(self.usurped.1)
            {
                deceived = true;
            }
            verdicts.push((held.token, is_held, held.told));
        }
        if deceived {
            self.fail(|| format!("G4: tab {tab} has lost its lease to another, and does not know"));
        }
        for (token, is_held, told) in verdicts {
            if told {
                self.counts.losses += 1;
                self.log(|| format!("tab {tab} has LOST token {}", short(token)));
            }
            if told == is_held {
                self.fail(|| {
                    format!("G4: tab {tab} holds: {is_held}, but was told of the loss: {told}")
                });
            }
        }
    }

    /// After a turn of `tab`.
    pub fn judge(&mut self, tab: usize) {
        self.held.retain(|held| held.guard.strong_count() > 0);
        self.check_notice(tab);
        self.check_exclusion();
        self.check_progress();
    }

    /// G3, from the calm on: while an awake tab waits in `acquire`, a lease that nobody renews is
    /// taken over within its length and one look of the waiter, and a free one within one look.
    ///
    /// A waiter looks after 10, 20, 40 … 1000 ms, and at least once per twentieth of the lease for
    /// each who waits before it. A few ms are for the way to the store and back. One that was twice
    /// answered too late, because of the store or because it was frozen, first makes a pause of the
    /// former kind.
    fn check_progress(&mut self) {
        const MAX_BACKOFF: u64 = tab_lease::MAX_BACKOFF_MS as u64;
        let queue = self.wire.longest_queue as u64;
        let look = (self.longest_lease / 20 * (queue + 1)).min(MAX_BACKOFF) + WAY_MS;
        let calm = self.wire.trouble_until.max(self.weather.calm_from) + MAX_BACKOFF;
        let held_len = self.record().map_or(0, |record| u64::from(record.len));
        let (since, bound) = match self.wire.free_since {
            Some(free) => (free, look),
            None => (self.wire.granted_at, held_len + look),
        };
        let start = since.max(calm);
        let stuck = self.waiting.values().find(|(tab, from)| {
            let tab = &self.tabs[*tab];
            let awake = tab.freezes.last().map_or(0, |(_, to)| *to + MAX_BACKOFF);
            !tab.frozen && start.max(*from).max(awake) + bound < self.now
        });
        if let Some(&(tab, from)) = stuck {
            self.fail(|| {
                format!("G3: tab {tab} waits since {from} ms, nobody has renewed since {since} ms")
            });
        }
    }

    /// Who is still busy, for a schedule that does not end.
    pub fn waiters(&self) -> String {
        format!("{:?}", self.waiting.values().collect::<Vec<_>>())
    }
}
