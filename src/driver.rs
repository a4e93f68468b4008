//! The driver: performs what contenders decide, and tells them what happens. The only room that awaits.
//!
//! One for a tab and a store. It owns a [`Contender`] for each lock object, one timer for all of them, one
//! ear for messages, and sends what is due together together.
//!
//! # The contract
//!
//! **Every action is performed, in order, before the next event is handled, and never under the mutex.**
//! Whatever is done may so come back as an event: whoever comes in while somebody is [at it](Core::at_it),
//! further up the stack or on another thread, leaves the event to that one. What is fed is handled by the
//! time that the outermost [`Driver::run`] returns.
//!
//! A lease that has run out is told before anything else is heard; what has been heard comes before other
//! timers.
//!
//! # Places
//!
//! Of one key, a tab has a bounded number of requests in the queue: [`places`] says what that means, and who
//! moves up. Here it is counted: over all lock objects of a key, from what their contenders say of themselves.

mod calls;
mod sending;

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

pub(crate) use calls::Acquiring;
#[cfg(all(target_arch = "wasm32", feature = "npm"))]
pub(crate) use calls::Settled;

use crate::config::{Config, PLACES};
use crate::contender::places::{self, Standing};
use crate::contender::{Action, Around, CallId, Contender, Event, LeaseId, Moment, Timer};
use crate::guard::{self, Lease, ObjectId, Port};
use crate::lifecycle::{Lifecycle, Live};
use crate::liveness::Liveness;
use crate::message::Message;
use crate::participant::{Now, Past};
use crate::platform::{self, Clock, Job, Mutex, MutexGuard, Spawner};
use crate::rules::{Command, Fence};
use crate::store::BackingStore;
use crate::wake::{Listen, Wake};
use calls::Slot;
use sending::Parcel;

/// What there is around the locks of a tab: given at birth.
#[derive(Clone, Default)]
pub(crate) struct Surroundings {
    pub(crate) wake: Option<Wake>,
    pub(crate) liveness: Option<Liveness>,
    pub(crate) life: Option<Lifecycle>,
}

/// See the [module](self).
pub(crate) struct Driver<S: BackingStore> {
    pub(crate) store: Arc<S>,
    pub(crate) around: Surroundings,
    /// Who this tab is in a record.
    tab: String,
    pub(crate) clock: Clock,
    core: Mutex<Core<S::Error>>,
    this: Weak<Self>,
}

struct Core<E> {
    /// By their numbers, which grow.
    objects: Vec<Object>,
    next_object: ObjectId,
    /// Calls that have not got their answer, by their numbers, which grow.
    calls: Vec<(CallId, Slot<E>)>,
    events: Vec<(ObjectId, Event)>,
    /// How many of the events have been handled.
    handled: usize,
    actions: Vec<(ObjectId, Action)>,
    /// How many of the actions have been performed.
    performed: usize,
    /// Commands that leave together, when nothing else is left to do.
    outbox: Vec<Parcel>,
    /// How commands failed, until those who sent them are told.
    failed: Vec<sending::Failure<E>>,
    /// Somebody performs actions.
    at_it: bool,
    /// Renewals have been sent just now: others that are due soon go with them.
    beats: bool,
    /// How many transactions of renewals are on their way.
    renewing: usize,
    /// The runtime of the latest caller: a guard may be dropped outside of it.
    spawner: Option<Spawner>,
    timer: Option<(Now, platform::Timer)>,
    /// When the alarm for the end of a lease goes off.
    alarm: Option<Now>,
    closing: Option<Job>,
    beacon: Option<Job>,
    beacon_settled: bool,
    fresh_epoch: u64,
}

/// A lock object.
struct Object {
    id: ObjectId,
    key: Arc<str>,
    contender: Contender,
    past: Arc<Mutex<Past>>,
    /// The present lease, and those given up of which the store has not been told.
    leases: Vec<Arc<Lease>>,
    watch: Option<Job>,
    /// What its contender says of its timers.
    due: Option<(Now, Timer)>,
    expiry: Option<Now>,
    /// What it says of the places of its key.
    standing: Standing,
}

/// For how many leases the same one must have been next to hold, for nothing to happen.
const STEADY_LEASES: u32 = 4;

/// For how long a renewal that is due waits for those that are on their way: a tenth of the usual lease.
const PATIENCE: Duration = Duration::from_millis(50);

/// Something that a contender decides.
type Decision<'a> = dyn FnMut(&mut Contender, &mut Past, Moment<'_>, &mut Vec<Action>) + 'a;

/// What is to be done next.
enum Step {
    Perform(ObjectId, Action),
    Send(Vec<Parcel>),
    Rest,
}

impl<S: BackingStore> Driver<S> {
    pub(crate) fn new(store: Arc<S>, tab: String, around: Surroundings) -> Arc<Self> {
        let driver = Arc::new_cyclic(|this: &Weak<Self>| Self {
            store,
            around,
            tab,
            clock: Clock::start(),
            core: Mutex::new(Core {
                objects: Vec::new(),
                next_object: 0,
                calls: Vec::new(),
                events: Vec::new(),
                handled: 0,
                actions: Vec::new(),
                performed: 0,
                outbox: Vec::new(),
                failed: Vec::new(),
                at_it: false,
                beats: false,
                renewing: 0,
                spawner: None,
                timer: None,
                alarm: None,
                closing: None,
                beacon: None,
                beacon_settled: false,
                fresh_epoch: platform::random(),
            }),
            this: Weak::clone(this),
        });
        let this = Arc::downgrade(&driver);
        if let Some(wake) = &driver.around.wake {
            wake.listen(&driver.tab, this.clone());
        }
        if let Some(life) = &driver.around.life {
            life.watch(this);
        }
        driver
    }

    /// A new lock object. It lives until it is [abandoned](Event::Abandoned) and has nothing left to do.
    pub(crate) fn add(&self, key: &str, config: &Config, past: Arc<Mutex<Past>>) -> ObjectId {
        let wake = self.around.wake.as_ref();
        let around = Around {
            speaks: wake.is_some(),
            complete: wake.is_some_and(Wake::is_complete),
            beacons: self.around.liveness.is_some(),
            steady_leases: STEADY_LEASES,
        };
        let contender = Contender::new(self.tab.clone(), config, around, 2 * Clock::granule());
        let mut core = self.core();
        let id = core.next_object;
        core.next_object += 1;
        // Those of one key share it, by which they are found.
        let known = core.objects.iter().find(|object| *object.key == *key);
        let key = known.map_or_else(|| key.into(), |object| Arc::clone(&object.key));
        core.objects.push(Object {
            id,
            key,
            contender,
            past,
            leases: Vec::new(),
            watch: None,
            due: None,
            expiry: None,
            standing: Standing::default(),
        });
        let life = self.around.life.as_ref();
        let known = [
            Event::Hidden(life.is_some_and(Lifecycle::is_hidden)),
            Event::Suspended(life.is_some_and(Lifecycle::is_suspended)),
        ];
        core.events.extend(known.map(|event| (id, event)));
        if core.beacon_settled {
            core.events.push((id, Event::BeaconSettled));
        }
        drop(core);
        self.run();
        id
    }

    /// Handles what has happened, and whatever is due. The only way in.
    fn run(&self) {
        // Somebody up the stack, or on another thread, is at it, and does this too.
        if std::mem::replace(&mut self.core().at_it, true) {
            return;
        }
        loop {
            match self.next() {
                Step::Perform(object, action) => self.perform(object, action),
                Step::Send(batch) => self.send(batch),
                Step::Rest => return,
            }
        }
    }

    /// Something has happened to a lock object.
    pub(crate) fn tell(&self, object: ObjectId, event: Event) {
        self.core().events.push((object, event));
        self.run();
    }

    /// The same has happened to all lock objects.
    fn tell_all(&self, event: &dyn Fn() -> Event) {
        {
            let core = &mut *self.core();
            let told = core.objects.iter().map(|object| (object.id, event()));
            core.events.extend(told);
        }
        self.run();
    }

    /// The next action; where there is none, the next event is handled. In the end what was collected is
    /// sent, and the timer set.
    fn next(&self) -> Step {
        let core = &mut *self.core();
        loop {
            if let Some((object, action)) = core.next_action() {
                return Step::Perform(object, action);
            }
            let now = self.clock.now();
            match core.next_event(now) {
                Some((object, event)) => {
                    let mut event = Some(event);
                    self.decide(core, now, object, &mut |contender, past, at, actions| {
                        if let Some(event) = event.take() {
                            contender.handle(past, at, event, actions);
                        }
                    });
                }
                None => break,
            }
        }
        core.failed.clear();
        if !core.outbox.is_empty() {
            return Step::Send(std::mem::take(&mut core.outbox));
        }
        core.objects.retain(|object| !object.contender.is_over());
        self.arm(core);
        core.at_it = false;
        Step::Rest
    }

    /// Lets a contender decide something.
    fn decide(&self, core: &mut Core<S::Error>, now: Now, id: ObjectId, decide: &mut Decision<'_>) {
        static REQUESTS: AtomicU64 = AtomicU64::new(1);
        let Some(place) = core.place_of(id) else {
            return;
        };
        let liveness = self.around.liveness.as_ref();
        let at = Moment {
            now,
            wall_ms: platform::wall_ms(),
            fresh_epoch: core.fresh_epoch,
            // Unique in the process, since lock objects for one key come and go.
            fresh_request: REQUESTS.fetch_add(1, Ordering::Relaxed),
            lit: liveness.is_some_and(Liveness::is_lit),
            would_tell: &|tab| liveness.is_some_and(|liveness| liveness.is_watched(tab)),
            may_queue: core.may_queue(place),
        };
        let object = &mut core.objects[place];
        let before = object.standing;
        let mut actions = Vec::new();
        decide(
            &mut object.contender,
            &mut object.past.lock(),
            at,
            &mut actions,
        );
        object.publish();
        if object.standing != before {
            core.move_up(place);
        }
        if actions.iter().any(sending::is_take) {
            core.fresh_epoch = platform::random();
        }
        for action in actions {
            core.actions.push((id, action));
        }
    }

    fn perform(&self, object: ObjectId, action: Action) {
        match action {
            Action::Send { id, command } => self.collect(object, id, command, false),
            Action::Look { id, take } => self.collect(object, id, Command::Take(take), true),
            Action::StepAside(lease) => self.step_aside(object, lease),
            Action::LeaveBlindly(who) => {
                if let Some(key) = self.key_of(object) {
                    self.store.leave(&key, &who);
                }
            }
            Action::Post(message) => {
                if let (Some(wake), Some(key)) = (&self.around.wake, self.key_of(object)) {
                    wake.send(&key, &message);
                }
            }
            Action::Watch(tab) => self.watch(object, tab),
            Action::Settle { call, end } => self.settle(object, call, end),
            Action::Lose(lease, reason) => self.stand(object, lease, guard::Standing::Lost(reason)),
            Action::Linger(lease) => self.stand(object, lease, guard::Standing::Lingers),
            Action::Released(lease) => self.stand(object, lease, guard::Standing::Released),
        }
    }

    fn step_aside(&self, object: ObjectId, lease: LeaseId) {
        let (this, spawner) = (self.this.clone(), self.core().spawner.clone());
        if let Some(spawner) = spawner {
            platform::behind(&spawner, move || {
                if let Some(this) = this.upgrade() {
                    this.tell(object, Event::SteppedAside(lease));
                }
            });
        }
    }

    /// Watches the beacon of that tab for a lock object, and no other.
    fn watch(&self, object: ObjectId, tab: Option<String>) {
        let spawner = self.core().spawner.clone();
        let job = tab.and_then(|tab| {
            let ended = self.around.liveness.as_ref()?.ended(&tab);
            let this = self.this.clone();
            let watch = Box::pin(async move {
                ended.await;
                if let Some(this) = this.upgrade() {
                    this.tell(object, Event::Died(tab));
                }
            });
            Some(Job::start(&spawner?, watch))
        });
        let before = {
            let mut core = self.core();
            let place = core.place_of(object);
            place.map(|place| std::mem::replace(&mut core.objects[place].watch, job))
        };
        drop(before);
    }

    /// Tells the guards of a lease, and whoever waits for its release, how it stands.
    fn stand(&self, object: ObjectId, lease: LeaseId, standing: guard::Standing) {
        let lease = {
            let mut core = self.core();
            core.place_of(object).and_then(|place| {
                let Object { leases, key, .. } = &mut core.objects[place];
                let place = leases.iter().position(|known| known.id == lease)?;
                let token = leases[place].token;
                match standing {
                    guard::Standing::Lost(reason) => {
                        tracing::warn!(%key, token, %reason, "lease lost")
                    }
                    guard::Standing::Released => tracing::debug!(%key, token, "lock released"),
                    guard::Standing::Held | guard::Standing::Lingers => {
                        return Some(Arc::clone(&leases[place]));
                    }
                }
                Some(leases.remove(place))
            })
        };
        if let Some(lease) = lease {
            lease.enter(standing);
        }
    }

    /// The lease of a call that was settled. It is made when the first guard is.
    fn lease(
        &self,
        object: ObjectId,
        id: LeaseId,
        (epoch, token): (u64, u64),
    ) -> Option<Arc<Lease>> {
        let mut core = self.core();
        let place = core.place_of(object)?;
        let object = &mut core.objects[place];
        if let Some(lease) = object.leases.iter().find(|lease| lease.id == id) {
            return Some(Arc::clone(lease));
        }
        tracing::debug!(key = %object.key, token, "lock acquired");
        let key = Arc::clone(&object.key);
        let port: Weak<dyn Port> = self.this.clone();
        #[allow(
            clippy::arc_with_non_send_sync,
            reason = "it is both, where there are threads"
        )]
        let lease = Arc::new(Lease::new(
            (object.id, id),
            (epoch, token),
            key,
            self.clock,
            port,
        ));
        object.leases.push(Arc::clone(&lease));
        object.publish();
        Some(lease)
    }

    /// Until the store is closed by somebody else: then all leases are lost, all requests are forgotten, and what
    /// is sent next is watched over anew. From the first take on: what that is answered may be about a
    /// database that is gone by then.
    fn watch_closing(&self) {
        if self.core().closing.is_some() {
            return;
        }
        let (this, closing) = (self.this.clone(), self.store.closing());
        let watch = Box::pin(async move {
            closing.await;
            if let Some(this) = this.upgrade() {
                let over = this.core().closing.take();
                this.tell_all(&|| Event::Closing);
                drop(over);
            }
        });
        let mut core = self.core();
        core.closing = core
            .spawner
            .as_ref()
            .map(|spawner| Job::start(spawner, watch));
    }

    /// Waits, once, until it is known whether this tab's beacon is going to be held.
    fn await_beacon(&self) {
        let Some(liveness) = self
            .around
            .liveness
            .as_ref()
            .filter(|_| !self.core().beacon_settled)
        else {
            return;
        };
        if liveness.is_lit() || self.core().beacon.is_some() {
            return;
        }
        let (this, settled) = (self.this.clone(), liveness.settled());
        let wait = Box::pin(async move {
            settled.await;
            if let Some(this) = this.upgrade() {
                this.core().beacon_settled = true;
                this.tell_all(&|| Event::BeaconSettled);
            }
        });
        let mut core = self.core();
        core.beacon = core
            .spawner
            .as_ref()
            .map(|spawner| Job::start(spawner, wait));
    }

    /// One timer for all, which is only ever moved to be earlier: one that fires too early only looks. It
    /// keeps the driver while anything is due.
    fn arm(&self, core: &mut Core<S::Error>) {
        let objects = core.objects.iter();
        if !objects.clone().any(|object| object.contender.is_engaged()) {
            // Nothing is held or asked for, so nobody need be told.
            core.closing = None;
        }
        let due = objects.clone().filter_map(|object| object.due);
        let Some(at) = due.map(|due| core.patiently(due)).min() else {
            core.timer = None;
            return;
        };
        let expiry = objects.filter_map(|object| object.expiry).min();
        let (Some(this), Some(spawner)) = (self.this.upgrade(), &core.spawner) else {
            return;
        };
        if core.timer.as_ref().is_none_or(|(set, _)| *set > at) {
            let fire = move || {
                let timer = this.core().timer.take();
                this.run();
                drop(timer);
            };
            core.timer = Some((at, platform::Timer::at(spawner, self.clock, at, fire)));
        }
        if let Some(end) = expiry.filter(|end| core.alarm.is_none_or(|set| set > *end)) {
            core.alarm = Some(end);
            self.set_alarm(spawner, end);
        }
    }

    /// Tells of a lease that ran out while nothing of this page ran, before anything else of it runs again:
    /// the timer would wait its turn behind the page's own. Set behind whoever was told just now; if that one
    /// hangs at once, the alarm still comes before the next task.
    fn set_alarm(&self, spawner: &Spawner, end: Now) {
        let (this, clock) = (self.this.clone(), self.clock);
        platform::behind(spawner, move || {
            platform::alarm(end.saturating_sub(clock.now()), move || {
                if let Some(this) = this.upgrade() {
                    this.core().alarm = None;
                    this.run();
                }
            });
        });
    }

    fn key_of(&self, object: ObjectId) -> Option<Arc<str>> {
        let core = self.core();
        let place = core.place_of(object)?;
        Some(Arc::clone(&core.objects[place].key))
    }

    fn core(&self) -> MutexGuard<'_, Core<S::Error>> {
        self.core.lock()
    }
}

impl<E> Core<E> {
    fn place_of(&self, object: ObjectId) -> Option<usize> {
        self.objects
            .binary_search_by_key(&object, |object| object.id)
            .ok()
    }

    /// Whether that lock object may take a place in the queue of its key.
    fn may_queue(&self, place: usize) -> bool {
        let me = &self.objects[place];
        let others = self.objects.iter();
        let others = others.filter(|other| other.id != me.id && Arc::ptr_eq(&other.key, &me.key));
        places::may_queue(PLACES, me.standing, others.map(|other| other.standing))
    }

    /// A place of the same key may have become free: whoever moves up is told.
    fn move_up(&mut self, place: usize) {
        let key = &self.objects[place].key;
        let of_key = self.objects.iter();
        let of_key = of_key.filter(|object| Arc::ptr_eq(&object.key, key));
        let standings = of_key.clone().map(|object| object.standing);
        let next = places::moves_up(PLACES, standings).and_then(|n| of_key.clone().nth(n));
        if let Some(next) = next {
            self.events.push((next.id, Event::Look));
        }
    }

    /// When what is due then is done: a renewal not while others are on their way, for as long as that does not
    /// matter. Those that become due meanwhile go together, in one transaction and not in one each.
    fn patiently(&self, (at, timer): (Now, Timer)) -> Now {
        if timer == Timer::Beat && self.renewing > 0 {
            at + PATIENCE
        } else {
            at
        }
    }

    fn next_action(&mut self) -> Option<(ObjectId, Action)> {
        if let Some((object, action)) = self.actions.get_mut(self.performed) {
            self.performed += 1;
            return Some((*object, std::mem::replace(action, Action::Watch(None))));
        }
        self.actions.clear();
        self.performed = 0;
        None
    }

    fn next_event(&mut self, now: Now) -> Option<(ObjectId, Event)> {
        let fired = |object: &Object, timer| (object.id, Event::Fired(timer));
        let is_over = |object: &&Object| object.expiry.is_some_and(|end| end <= now);
        if let Some(object) = self.objects.iter().find(is_over) {
            return Some(fired(object, Timer::Expiry));
        }
        if let Some((object, event)) = self.events.get_mut(self.handled) {
            self.handled += 1;
            return Some((*object, std::mem::replace(event, Event::Look)));
        }
        self.events.clear();
        self.handled = 0;
        let due = |object: &&Object| {
            let due = object.due?;
            (self.patiently(due) <= now).then_some(due)
        };
        let first = self
            .objects
            .iter()
            .filter(|object| due(object).is_some())
            .min_by_key(due);
        if let Some((object, (_, timer))) = first.and_then(|first| Some((first, first.due?))) {
            self.beats |= timer == Timer::Beat;
            return Some(fired(object, timer));
        }
        if self.beats {
            let may_beat = |object: &&Object| object.contender.may_beat(now);
            if let Some(object) = self.objects.iter().find(may_beat) {
                return Some(fired(object, Timer::Beat));
            }
            self.beats = false;
        }
        None
    }
}

impl Object {
    /// What others go by of what its contender says: here, and nowhere else.
    fn publish(&mut self) {
        let (present, good_until) = (self.contender.lease(), self.contender.good_until());
        for lease in &self.leases {
            lease.publish(good_until.filter(|_| present == Some(lease.id)));
        }
        self.due = self.contender.due();
        self.expiry = self.contender.due_at(Timer::Expiry);
        self.standing = self.contender.standing();
    }
}

impl<S: BackingStore> Port for Driver<S> {
    fn feed(&self, object: ObjectId, event: Event) {
        self.tell(object, event);
    }

    fn fence(&self, object: ObjectId, lease: LeaseId) -> Option<Fence> {
        let mut fence = None;
        let now = self.clock.now();
        self.decide(
            &mut self.core(),
            now,
            object,
            &mut |contender, past, at, actions| {
                fence = contender.fence(past, at, lease, actions);
            },
        );
        self.run();
        fence
    }

    fn store(&self) -> &dyn Any {
        &*self.store
    }
}

impl<S: BackingStore> Listen for Driver<S> {
    fn listens_to(&self, key: &str) -> bool {
        self.core().objects.iter().any(|object| *object.key == *key)
    }

    /// Those that wait in the tab, without a request, are told nothing: there may be many. One is told in any
    /// case: what is heard is remembered for all of a key.
    fn hear(&self, key: &str, message: &Message) {
        {
            let core = &mut *self.core();
            let mut of_key = core.objects.iter().filter(|object| *object.key == *key);
            let hears = |object: &&Object| object.contender.hears();
            let mut told: Vec<_> = of_key
                .clone()
                .filter(hears)
                .map(|object| object.id)
                .collect();
            if told.is_empty() {
                told.extend(of_key.next().map(|object| object.id));
            }
            let heard = told
                .into_iter()
                .map(|id| (id, Event::Heard(message.clone())));
            core.events.extend(heard);
        }
        self.run();
    }
}

impl<S: BackingStore> Live for Driver<S> {
    fn hidden(&self, hidden: bool) {
        self.tell_all(&|| Event::Hidden(hidden));
    }

    fn suspended(&self, suspended: bool) {
        self.tell_all(&|| Event::Suspended(suspended));
    }
}
