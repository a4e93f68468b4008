//! What all tabs share in one schedule, and the judge of it.
//!
//! Each `fail` below names the guarantee that it checks (G1 … G6). Beliefs begin only while some tab
//! runs, so looking at every guard after every turn, and at every acquisition within one, leaves no
//! instant unwatched.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::Poll;

use tab_lease::rules::{self, Fence, Last, Record, Requester};
use tab_lease::{
    Config, CrossProcessStoreLock, CrossProcessStoreLockGuard, LeaseLost, LossReason, MemoryStore,
};

use tokio::time::sleep;

use crate::link::{Link, Op, Parcel, Weather, Wire, short};
use crate::page::Page;
use crate::tab::{Clock, ms, once};
use crate::voice::{Event, Lamp, Watch, tab_of};

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
    /// Pages hidden and shown again; turns of hidden ones that were late.
    hides,
    shows,
    naps,
    /// Pages suspended: while they held, while somebody there waited; and those that were not stopped.
    suspends,
    suspends_holding,
    suspends_asking,
    suspends_running,
    resumes,
    blind_leaves,
    blind_leaves_lost,
    freezes,
    /// Freezes of a holder that outlasted its lease.
    overslept,
    crashes,
    /// Of a holder; of one that has just handed the lease on.
    crashes_holding,
    crashes_handed_on,
    increments,
    fenced_writes,
    /// Writes of a stale holder that the fencing token kept out.
    fenced_off,
    /// Fenced transactions in the store itself: committed, refused, and those that took their time; those
    /// that wrote down that their lease had begun.
    fences_committed,
    fences_refused,
    fences_long,
    fences_claimed,
    /// Leases taken away by force.
    usurped,
    /// Lock objects beside another one of their tab.
    apart,
    messages,
    messages_lost,
    messages_late,
    messages_repeated,
    /// Grants by one message, before any store knew; and by the store, with a message after it.
    delegations,
    grants_of_the_store,
    /// Leases that started at once by a message of the former kind, and of the latter.
    started_by_delegation,
    started_by_word_of_the_store,
    grants_asked_first,
    /// Passes that found the lease not claimed yet.
    passes_needed,
    /// Leases without a guard that were taken again, or given away.
    lingers_taken_again,
    lingers_ended_by_message,
    /// Messages of waiters that have given up.
    leaves,
    tries_answered_free,
    tries_answered_busy,
    watches,
    beacons_out,
    takeovers_by_beacon,
    idle_renewals,
    /// Looks into the store, and those that were enough.
    looks,
    looks_enough,
    commands,
    turns,
    virtual_seconds,
}

/// To the store and back in the calm, with room to spare.
pub const WAY_MS: u64 = 25;

/// The longest fenced transaction.
pub const LONG_FENCE_MS: u64 = 1500;

/// The outside of a tab.
pub struct TabState {
    pub config: Config,
    pub dice: fastrand::Rng,
    pub clock: Option<Clock>,
    pub crashed: bool,
    pub frozen: bool,
    /// The times that it did not run: from, to.
    pub freezes: Vec<(u64, u64)>,
    /// The end of the last of them, but for those that it was only late.
    pub awake: u64,
    pub page: Page,
    pub wall: u64,
    pub last_landing: u64,
    pub sent_at: u64,
    pub sent_now: u32,
    /// When a fenced transaction of it was checked the last time.
    pub fenced_at: u64,
    /// A quit or pass of it never arrived.
    pub quit_lost: bool,
    /// Whether it has a channel to the others, and a beacon.
    pub speaks: bool,
    pub beacon: bool,
    pub lamp: Lamp,
    /// Until when it may wait for a reply to a try.
    pub tries_until: u64,
    /// When it last handed a lease on by a message.
    pub handed_on: u64,
    /// What it hears at its next turn.
    pub inbox: Vec<Event>,
}

impl TabState {
    /// When something that is due at `due` can be seen at the latest. It may be stopped again before it has
    /// seen anything.
    pub fn at_work(&self, due: u64) -> u64 {
        let freezes = self.freezes.iter();
        freezes.fold(due, |due, (from, to)| {
            if (*from..=*to).contains(&due) {
                *to
            } else {
                due
            }
        })
    }

    /// It does not run for a while.
    pub fn stands_still(&mut self, from: u64, to: u64) {
        self.frozen = true;
        self.freezes.push((from, to));
        self.awake = to;
    }

    /// Since when it has been at work, but for turns that were late.
    fn at_work_since(&self) -> u64 {
        self.awake.max(self.page.resumed_at)
    }

    /// When its first beat after `time` has been answered at the latest, in the calm. What it finds
    /// when it wakes may be an earlier answer; the beat comes after that.
    fn beat_after(&self, time: u64) -> u64 {
        let start = time.max(self.awake);
        // Of a lease that has been steady the beat comes later.
        let mut beat = self.config.heartbeat_ms.max(self.config.lease_ms / 3);
        if self.beacon && self.config.idle_lease_ms > self.config.lease_ms {
            beat = beat.max(self.config.idle_lease_ms / 3);
        }
        beat = beat.max(self.hidden_beat(start));
        // The beat may be late, and then the answer.
        start + u64::from(beat) + 2 * self.lateness(start) + WAY_MS
    }

    /// How long any lease of it can be.
    pub fn longest_lease(&self) -> u64 {
        let mut longest = self.config.lease_ms;
        if self.beacon {
            longest = longest.max(self.config.idle_lease_ms);
        }
        if self.ever_hidden() {
            longest = longest.max(self.config.hidden_lease_ms);
        }
        longest.into()
    }
}

/// A fenced transaction.
#[derive(Clone)]
struct Fenced {
    tab: usize,
    lease: Fence,
    /// For how long it holds up the store.
    lasts: u64,
    /// What it found, and when it is over.
    landed: Option<(Option<Record>, u64)>,
}

/// A guard that somebody has or had.
pub struct Held {
    pub tab: usize,
    /// The lock object, since a tab may have several.
    pub object: u64,
    pub token: u64,
    since: u64,
    pub guard: Weak<Guard>,
    pub lost: Pin<Box<dyn Future<Output = LeaseLost> + Send>>,
    pub told: bool,
}

pub struct State {
    /// Fenced transactions, and the token of the latest that was committed.
    fences: Vec<Fenced>,
    fenced: u64,
    pub now: u64,
    pub weather: Weather,
    pub dice: fastrand::Rng,
    pub wire: Wire,
    pub tabs: Vec<TabState>,
    pub ops: HashMap<u64, Op>,
    pub next_op: u64,
    pub parcels: BTreeMap<(u64, u64), Parcel>,
    next_parcel: u64,
    pub held: Vec<Held>,
    /// Why leases were lost: by lock object and token.
    reasons: BTreeMap<(u64, u64), LossReason>,
    /// Callers that wait in `acquire`: their tab, and since when.
    waiting: BTreeMap<u64, (usize, u64)>,
    next_waiter: u64,
    /// Callers that have something left to do.
    pub users: usize,
    /// The latest tenure: tab, token, lock object.
    latest: Option<(usize, u64, u64)>,
    pub next_object: u64,
    pub watches: Vec<Watch>,
    pub words_at: u64,
    pub words_now: u32,
    /// Since when nobody has had a guard.
    unused_since: Option<u64>,
    /// What the lock protects: a counter, and how often it was incremented.
    pub counter: u64,
    pub increments: u64,
    /// … and a register that refuses writes with a lower token than it has seen.
    register: u64,
    /// A lease was taken away by force: the new token, and when. What is older may still be believed
    /// until the next beat, and is fenced off.
    usurped: (u64, u64),
    pub longest_lease: u64,
    longest_beat: u64,
    /// How late a turn of any tab may be that is hidden or was.
    pub lateness: u64,
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
                open_until: 0,
                len: 0,
                token: 0,
                count: 0,
                involved: Vec::new(),
            },
            tabs: Vec::new(),
            ops: HashMap::new(),
            next_op: 0,
            parcels: BTreeMap::new(),
            next_parcel: 0,
            held: Vec::new(),
            reasons: BTreeMap::new(),
            waiting: BTreeMap::new(),
            next_waiter: 0,
            users: 0,
            latest: None,
            next_object: 0,
            watches: Vec::new(),
            words_at: 0,
            words_now: 0,
            unused_since: Some(0),
            counter: 0,
            increments: 0,
            register: 0,
            usurped: (0, 0),
            fences: Vec::new(),
            fenced: 0,
            longest_lease: 0,
            longest_beat: 0,
            lateness: 0,
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

    /// The number of a lock object that is made now.
    pub fn object(&self) -> u64 {
        let mut state = self.state();
        state.next_object += 1;
        state.next_object
    }

    /// A caller was given a guard of that lock object.
    pub fn acquired(&self, tab: usize, object: u64, guard: Guard) -> Arc<Guard> {
        let guard = Arc::new(guard);
        self.state().acquired(tab, object, &guard);
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

    /// Writes in a fenced transaction, which takes `lasts` ms. Resolves when its tab has heard that it is
    /// over.
    pub fn fence(
        self: &Arc<Self>,
        tab: usize,
        guard: &Guard,
        lasts: u64,
    ) -> impl Future<Output = ()> + Send + use<> {
        let world = Arc::clone(self);
        let sent = guard.begin_fence().ok().map(|fencing| {
            let sent = self.state().send_fence(tab, fencing.lease().clone(), lasts);
            (fencing, sent)
        });
        async move {
            let Some((mut fencing, (fence, lands))) = sent else {
                return;
            };
            sleep(ms(lands)).await;
            let (record, over) = loop {
                let landed = world.state().fences[fence].landed.clone();
                match landed {
                    Some(landed) => break landed,
                    None => sleep(ms(1)).await,
                }
            };
            world.state().fence_opens(tab);
            let passed = fencing.check(record.as_ref()).is_ok();
            let now = world.state().now;
            if passed && over > now {
                sleep(ms(over - now)).await;
            }
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

    pub fn deliver(&mut self, parcel: Parcel) {
        match parcel {
            Parcel::Command(op) => self.land(op),
            Parcel::Write { tab, token } => {
                self.register_write(tab, token);
            }
            Parcel::Fence(fence) => self.land_fence(fence),
            Parcel::Event { to, event } => self.hear(to, event),
            Parcel::Out(tab) => self.go_out(tab),
        }
    }

    pub fn enter(&mut self, tab: TabState) -> usize {
        self.longest_lease = self.longest_lease.max(tab.longest_lease());
        self.longest_beat = self.longest_beat.max(tab.config.heartbeat_ms.into());
        self.tabs.push(tab);
        self.tabs.len() - 1
    }

    pub fn record(&self) -> Option<Record> {
        self.wire.memory.record(&self.wire.key)
    }

    /// The record may have changed.
    pub fn look_at_record(&mut self) {
        let Some(record) = self.record() else {
            return;
        };
        let wire = &mut self.wire;
        let free_since = wire.free_since.unwrap_or(self.now);
        wire.free_since = record.holder.is_none().then_some(free_since);
        wire.longest_queue = wire.longest_queue.max(record.queue.len());
        wire.len = record.len.into();
        wire.token = record.token;
        wire.count = record.count;
        let holder = record.holder.iter().map(|who| (who, record.beacon));
        let queue = record
            .queue
            .iter()
            .map(|waiter| (&waiter.who, waiter.beacon));
        let involved = holder.chain(queue);
        wire.involved.clear();
        wire.involved
            .extend(involved.map(|(who, beacon)| (tab_of(&who.tab).unwrap_or(usize::MAX), beacon)));
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
        record.beacon = false;
        record.holder = Some(Requester {
            tab: "usurper".to_owned(),
            request: 1,
        });
        self.counts.usurped += 1;
        self.usurped = (record.token, self.now);
        self.latest = Some((usize::MAX, record.token, 0));
        self.wire.granted_at = self.now;
        let token = short(record.token);
        self.log(|| format!("USURPED with token {token}"));
        self.wire.memory.set_record(&self.wire.key, Some(record));
        self.look_at_record();
        true
    }

    /// Whether a fenced transaction may still take its time.
    pub fn may_fence_for_long(&self) -> bool {
        self.weather.long_fences && self.now + LONG_FENCE_MS < self.weather.calm_from
    }

    /// A fenced transaction is sent, behind what its tab has sent before. Answers with its number, and how
    /// long it takes to arrive.
    fn send_fence(&mut self, tab: usize, lease: Fence, lasts: u64) -> (usize, u64) {
        let at = self.now.max(self.tabs[tab].last_landing);
        self.tabs[tab].last_landing = at;
        self.log(|| format!("tab {tab} sends a fenced transaction of {lasts} ms"));
        self.fences.push(Fenced {
            tab,
            lease,
            lasts,
            landed: None,
        });
        let fence = self.fences.len() - 1;
        if at <= self.now {
            self.land_fence(fence);
        } else {
            self.post(at, Parcel::Fence(fence));
        }
        (fence, at - self.now)
    }

    /// From here on its tab counts renewals from when they are sent.
    fn fence_opens(&mut self, tab: usize) {
        self.tabs[tab].fenced_at = self.now;
    }

    /// Whether what a tab sends now is next behind a fenced transaction of its own.
    pub fn is_behind_a_fence(&self, tab: usize) -> bool {
        let under_way = |fence: &Fenced| {
            let over = fence.landed.as_ref().map(|(_, over)| *over);
            fence.tab == tab && over.is_none_or(|over| over >= self.now)
        };
        self.tabs[tab].fenced_at == self.now || self.fences.iter().any(under_way)
    }

    /// It arrives at the store. G2: if it is committed, nobody has held since.
    fn land_fence(&mut self, fence: usize) {
        if self.now < self.wire.open_until {
            return self.post(self.wire.open_until, Parcel::Fence(fence));
        }
        let Fenced {
            tab, lease, lasts, ..
        } = self.fences[fence].clone();
        let record = self.record();
        let over = self.now + lasts;
        self.fences[fence].landed = Some((record.clone(), over));
        match rules::fence(record.as_ref(), &lease) {
            rules::Fenced::Refused => {
                self.counts.fences_refused += 1;
                self.log(|| format!("  store: tab {tab}'s transaction refused"));
                let token = lease.token;
                if token >= self.usurped.0
                    && self.believers().iter().any(|b| (b.0, b.1) == (tab, token))
                {
                    self.fail(|| format!("tab {tab} holds, but its transaction was refused"));
                }
                return;
            }
            rules::Fenced::Claimed(record) => {
                self.counts.fences_claimed += 1;
                self.wire.memory.set_record(&self.wire.key, Some(record));
                self.wire.granted_at = self.now;
                self.look_at_record();
            }
            rules::Fenced::Current => {}
        }
        self.counts.fences_committed += 1;
        self.counts.fences_long += u64::from(lasts > 0);
        self.log(|| format!("  store: tab {tab}'s transaction commits, until {over} ms"));
        self.wire.open_until = over;
        self.wire.trouble_until = self.wire.trouble_until.max(over);
        let newest = self.latest.map_or(0, |(_, token, _)| token);
        if lease.token < newest || lease.token < self.fenced {
            self.fail(|| format!("G2: tab {tab} has committed a stale write"));
        }
        self.fenced = lease.token;
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
        self.believers().iter().any(|(held, ..)| *held == tab)
    }

    /// The tokens that a tab holds.
    pub fn believed(&mut self, tab: usize) -> Vec<u64> {
        let believers = self.believers().into_iter();
        let tokens = believers.filter_map(|(held, token, _)| (held == tab).then_some(token));
        tokens.collect()
    }

    /// Whether a caller of that tab waits.
    pub fn is_waited_for_in(&self, tab: usize) -> bool {
        self.waiting.values().any(|(waits, _)| *waits == tab)
    }

    /// Whether a guard of that tab and token has lived, at the latest since the turn before.
    pub fn had_guard(&self, tab: usize, token: u64) -> bool {
        self.held
            .iter()
            .any(|held| (held.tab, held.token) == (tab, token))
    }

    fn believers(&mut self) -> Vec<(usize, u64, u64)> {
        let now = self.now;
        let mut believers = Vec::new();
        for held in &self.held {
            let Some(guard) = held.guard.upgrade() else {
                continue;
            };
            let clock = self.tabs[held.tab].clock.as_mut();
            if clock.expect("its tab is open").at(now, || guard.is_held()) {
                believers.push((held.tab, held.token, held.object));
            }
        }
        believers
    }

    fn acquired(&mut self, tab: usize, object: u64, guard: &Arc<Guard>) {
        let token = guard.token();
        self.counts.acquisitions += 1;
        self.log(|| format!("tab {tab} HOLDS with token {}", short(token)));
        if !guard.is_held() {
            self.fail(|| format!("G4: tab {tab} was given a guard that holds nothing"));
        }
        if token >= self.usurped.0 {
            self.check_token(tab, object, guard);
        }
        let lost = Box::pin(guard.lost());
        self.held.push(Held {
            tab,
            object,
            token,
            since: self.now,
            guard: Arc::downgrade(guard),
            lost,
            told: false,
        });
        self.unused_since = None;
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
    fn check_token(&mut self, tab: usize, object: u64, guard: &Guard) {
        let token = guard.token();
        let latest = self.latest;
        if let Some((other, other_token, other_object)) = latest
            && (token < other_token || token == other_token && object != other_object)
        {
            self.fail(|| {
                format!("G2: tab {tab} has token {token}, after tab {other} had {other_token}")
            });
        }
        if !guard.dirty() && latest.is_some_and(|(other, ..)| other != tab) {
            self.fail(|| format!("tab {tab} was told that nobody held since it did"));
        }
        let written = self.wire.token;
        if latest == Some((tab, token, object)) {
            let lingered = !self.had_guard(tab, token);
            self.counts.lingers_taken_again += u64::from(lingered);
            return;
        }
        self.counts.changes_of_hands += 1;
        self.latest = Some((tab, token, object));
        // A delegated lease runs under the next number than the record has, until it is claimed or
        // passed. Nobody else can have written another while it may start.
        if token == written + 1 {
            self.counts.started_by_delegation += 1;
        } else if token != written {
            let (token, written) = (short(token), short(written));
            self.fail(|| {
                format!("G2: tab {tab} begins with token {token}, the record has {written}")
            });
        }
    }

    /// G1: all who believe share one tenure.
    pub fn check_exclusion(&mut self) {
        let mut believers = self.believers();
        believers.retain(|(_, token, _)| *token >= self.usurped.0);
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
        let (mut verdicts, mut losses) = (Vec::new(), Vec::new());
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
            if let Poll::Ready(lost) = once(held.lost.as_mut()) {
                held.told = true;
                losses.push((held.object, held.since, lost));
            }
            if is_held
                && held.token < self.usurped.0
                && now > self.tabs[tab].beat_after(self.usurped.1.max(held.since))
            {
                deceived = true;
            }
            verdicts.push((held.token, is_held, held.told));
        }
        if deceived {
            self.fail(|| format!("G4: tab {tab} has lost its lease to another, and does not know"));
        }
        for (object, since, lost) in losses {
            self.counts.losses += 1;
            self.check_staying_power(tab, since, lost);
            if lost.reason == LossReason::Suspended {
                self.fail(|| format!("G4: tab {tab} was not suspended: {lost}"));
            }
            self.note_reason(tab, object, lost);
        }
        for (token, is_held, told) in verdicts {
            if told == is_held {
                self.fail(|| {
                    let token = short(token);
                    format!(
                        "G4: tab {tab} holds {token}: {is_held}, but was told of the loss: {told}"
                    )
                });
            }
        }
    }

    /// G5: a tab that runs, with a store that works, keeps what it holds, also if it is hidden. What had been
    /// disturbed is made up for within a lease; a lease may have been asked for a lease ago. A hidden tab may
    /// have got one of the usual length, before it was heard that it is hidden.
    fn check_staying_power(&mut self, tab: usize, since: u64, lost: LeaseLost) {
        let this = &self.tabs[tab];
        let calm = self.wire.trouble_until.max(self.weather.calm_from);
        let calm = calm.max(this.at_work_since());
        let lease = this.longest_lease();
        let settled = if since < calm + lease {
            calm.max(since) + lease
        } else if this.lateness(calm) > 0 {
            since.max(this.page.turned_at) + u64::from(this.config.lease_ms)
        } else {
            since
        };
        if lost.token >= self.usurped.0 && settled < self.now {
            self.fail(|| format!("G5: tab {tab} has lost what it had since {since} ms: {lost}"));
        }
    }

    /// A lease is lost once, for one reason, whomever it tells.
    pub fn note_reason(&mut self, tab: usize, object: u64, lost: LeaseLost) {
        let reason = lost.reason;
        self.log(|| format!("tab {tab} has LOST token {}: {reason}", short(lost.token)));
        let first = *self.reasons.entry((object, lost.token)).or_insert(reason);
        if first != reason {
            self.fail(|| format!("G4: tab {tab} has lost a lease as {first}, and as {reason}"));
        }
    }

    /// After a turn of `tab`.
    pub fn judge(&mut self, tab: usize) {
        self.held.retain(|held| held.guard.strong_count() > 0);
        if self.held.is_empty() {
            self.unused_since = self.unused_since.or(Some(self.now));
        }
        self.check_notice(tab);
        self.check_turned(tab);
        self.check_exclusion();
        self.check_progress();
    }

    /// G3, from the calm on: while an awake tab waits in `acquire`, a lease that nobody renews is
    /// taken over within its length and one look of the waiter, and a free one within one look. A lease
    /// that nobody uses lingers for a beat; each who was handed it and is gone costs a lease more.
    ///
    /// A waiter looks after 10, 20, 40 … 1000 ms, and at least once per twentieth of the lease for each who
    /// waits before it; per quarter, where it goes by a beacon. It leaves out a look if it has heard
    /// meanwhile that the lock goes on. A few ms are for the way to the store and back. One that was twice
    /// answered too late, because of the store or because it was frozen, first makes a pause of the former
    /// kind.
    ///
    /// Each turn of a hidden tab may be late: before a look, before its answer is heard, and before that of
    /// the take that follows it. Of a suspended tab nothing is due, until it goes on.
    fn check_progress(&mut self) {
        const MAX_BACKOFF: u64 = tab_lease::MAX_BACKOFF_MS as u64;
        if self.waiting.is_empty() || self.now < self.weather.calm_from {
            return;
        }
        let queue = self.wire.longest_queue as u64;
        let pace = if self.tabs.iter().any(|tab| tab.beacon) {
            4
        } else {
            20
        };
        let look = 2 * (self.longest_lease / pace * (queue + 1)).min(MAX_BACKOFF) + WAY_MS;
        let calm = self.wire.trouble_until.max(self.weather.calm_from) + MAX_BACKOFF;
        let late = |tab: &TabState, since: u64| 6 * tab.lateness(since);
        let (since, bound) = match self.wire.free_since {
            Some(free) => (free, look),
            None => (self.wire.granted_at, self.wire.len + look),
        };
        let lapse = self.longest_lease + look + 6 * self.lateness;
        let unused = self.longest_beat + self.lateness + lapse * (queue + 1);
        let unused_since = self.unused_since.unwrap_or(self.now);
        let stuck = self.waiting.values().find(|(tab, from)| {
            let tab = &self.tabs[*tab];
            let start = calm.max(*from).max(tab.at_work_since() + MAX_BACKOFF);
            let renewed = since.max(start);
            let overdue = renewed + bound + late(tab, renewed) < self.now
                || unused_since.max(start) + unused < self.now;
            !tab.frozen && !tab.page.suspended && overdue
        });
        if let Some(&(tab, from)) = stuck {
            self.fail(|| {
                format!(
                    "G3: tab {tab} waits since {from} ms, nobody has renewed since {since} ms \
                     or used it since {unused_since} ms"
                )
            });
        }
        self.check_beacons(calm, look);
    }

    /// G3, from the calm on: a waiter with a beacon of its own that has only the dead before it, all of
    /// whose beacons have gone out, has the lock within 100 ms, if it had time to see who they are.
    fn check_beacons(&mut self, calm: u64, look: u64) {
        const SOON_MS: u64 = 100;
        let known_from = calm.max(self.wire.granted_at);
        let stuck = self.waiting.values().find(|(tab, from)| {
            let this = &self.tabs[*tab];
            let mut places = self.wire.involved.iter().enumerate();
            let mut mine = places.by_ref().filter(|(_, (other, _))| other == tab);
            let (Some((place, _)), None) = (mine.next(), mine.next()) else {
                return false;
            };
            let stopped = this.frozen || this.page.suspended;
            if place == 0 || stopped || this.quit_lost || !this.beacon {
                return false;
            }
            let before = self.wire.involved[..place].iter();
            let outs = before.map(|(other, beacon)| {
                let other = self.tabs.get(*other).filter(|_| *beacon)?;
                other.lamp.out_at
            });
            let Some(out_at) = outs.collect::<Option<Vec<_>>>() else {
                return false;
            };
            let out_at = out_at.into_iter().max().unwrap_or_default();
            let seen_from = known_from.max(*from).max(this.at_work_since());
            let late = 6 * this.lateness(seen_from.min(out_at));
            out_at.max(seen_from + look) + SOON_MS + late < self.now
        });
        if let Some(&(tab, from)) = stuck {
            self.fail(|| format!("G3: tab {tab} waits since {from} ms, for the dead"));
        }
    }

    /// Who is still busy, for a schedule that does not end.
    pub fn waiters(&self) -> String {
        format!("{:?}", self.waiting.values().collect::<Vec<_>>())
    }
}
