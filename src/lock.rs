//! The lock: take, spin, wait, and share within one process.
//!
//! # State, and who changes it
//!
//! [`Shared`] is what the clones of one lock share. Its `state` mutex is never held across an
//! await, nor while a message is sent; it holds the [`Participant`], which decides, and the present
//! [`Tenure`], if any.
//!
//! - Callers ask. One take is in flight at a time, in a task of its own: so its answer is always
//!   heard, whoever goes away meanwhile, and callers that come in between share it. While a tenure is
//!   good they share that, without touching the store.
//! - Messages come at any time ([`Shared::hear`]): one may begin a tenure in the middle of a take.
//! - The [heartbeat](crate::heartbeat) of a tenure renews, and alone ends it: by release, once no
//!   guard is left, or by loss. A caller that finds the lease run out, before the heartbeat had a
//!   chance to run, reports the loss in its place.
//! - A caller that goes away in the middle of a take may leave a request in the store. The last
//!   one to go ([`Asking`]) sends the quit; what that quit cannot mend, because it is late or lost,
//!   the next take does (see [`Past`]).

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use crate::config::Config;
use crate::error::{ConfigError, LockError, LossReason};
use crate::fence::Fences;
use crate::guard::{CrossProcessStoreLockGuard, Phase, Tenure};
use crate::heartbeat;
use crate::lifecycle::{Lifecycle, Live};
use crate::liveness::Liveness;
use crate::participant::{
    Ask, Due, Grant, Heard, Holding, Lens, Participant, Past, Release, Taken, Wanted,
};
use crate::platform::{self, BoxFuture, Clock, Spawner, sleep, sleep_until};
use crate::rules::{Command, Fence, Outcome, Requester, Take};
use crate::store::BackingStore;
use crate::sync::{Notify, select};
use crate::turns::{HeldBack, Turn, Turns};
use crate::wake::{Listen, Message, Wake};

/// How long a holder that has handed the lock over by a message waits, in ms, before it tells the store
/// what the receiver has most likely told it by then.
const PASS_AFTER_MS: u32 = 10;

/// How long the first take waits at most for the beacon, in ms: nobody may go by a beacon that was not
/// held yet when the record was written. In a browser it takes one.
const BEACON_PATIENCE_MS: u32 = 100;

/// A lock that is shared through a [`BackingStore`] by everybody who uses the same store and key.
/// Clones are the same lock; within a process they share it.
///
/// Natively it must be used inside a tokio runtime, which runs the heartbeat.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use tab_lease::{CrossProcessStoreLock, MemoryStore};
///
/// let lock = CrossProcessStoreLock::new(MemoryStore::new(), "inbox", "worker");
/// let guard = lock.spin_lock(None).await.unwrap();
/// assert!(guard.is_held());
/// // … use what the lock protects …
/// guard.release().await; // dropping it does the same, without waiting
/// # }
/// ```
pub struct CrossProcessStoreLock<S: BackingStore> {
    shared: Arc<Shared<S>>,
    handle: Arc<Handle<S>>,
}

impl<S: BackingStore> Clone for CrossProcessStoreLock<S> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            handle: Arc::clone(&self.handle),
        }
    }
}

/// What only the clones of a lock own together, and no heartbeat does: when the last of them goes,
/// so does the lock object.
struct Handle<S: BackingStore>(Arc<Shared<S>>);

impl<S: BackingStore> Drop for Handle<S> {
    fn drop(&mut self) {
        self.0.state().abandon();
    }
}

impl<S: BackingStore> std::fmt::Debug for CrossProcessStoreLock<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CrossProcessStoreLock")
            .field("key", &self.shared.key)
            .field("holder", &self.shared.holder)
            .finish_non_exhaustive()
    }
}

pub(crate) struct Shared<S: BackingStore> {
    pub(crate) store: S,
    pub(crate) key: String,
    holder: String,
    tab: String,
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    state: Mutex<State>,
    /// What came of a take, for the caller that sent it, if it is still there: the take's number, and how
    /// it failed if it did.
    answer: Mutex<Option<Answered<S::Error>>>,
    /// Tells callers to look again: a tenure has begun or ended here, or a message has come.
    changed: Notify,
    /// Tells callers that share a take that it was answered. Not by `changed`: a waiter in its pause
    /// would ask again at once, and its own take would end its own next pause.
    answered: Notify,
    wake: OnceLock<Wake>,
    liveness: OnceLock<Liveness>,
    life: OnceLock<Lifecycle>,
    this: Weak<Self>,
}

pub(crate) struct State {
    pub(crate) participant: Participant,
    past: Arc<Mutex<Past>>,
    tenure: Option<Arc<Tenure>>,
    /// Keeps a tenure that has just begun for the callers that asked for it.
    reserved: Option<CrossProcessStoreLockGuard>,
    /// The end of a request that the heartbeat has yet to send. See [`State::abandon`].
    unsent: Option<Command>,
    /// Nobody can ask any more.
    abandoned: bool,
    /// Callers that want the lock now.
    asking: usize,
    /// Calls so far, and how many of them there were when the present tenure began. Those share it at
    /// once; later ones may have to leave it to others.
    calls: u64,
    admitted: u64,
    turns: Turns,
    /// A take of this request is in flight.
    taking: Option<u64>,
    /// Takes so far, and the latest of them that was answered "busy".
    takes: u64,
    refused: u64,
    /// What a holder has replied to a caller that only tries.
    reply: Option<bool>,
    /// Others that only try, and are to be told when a lingering lease has been given up.
    tries: Vec<Requester>,
    /// Requests of ours whose end the store is being told, or may have to be.
    leaving: usize,
    /// The store has not taken a renewal of the present lease since the last that it took.
    pub(crate) store_failed: bool,
    /// There is a [`heartbeat::watch`].
    watched: bool,
}

impl<S: BackingStore> CrossProcessStoreLock<S> {
    /// A lock for `key` in `store`, with the default [`Config`]. `holder` is a name for people; two
    /// processes (or tabs) that use one name are told apart all the same.
    #[must_use]
    pub fn new(store: S, key: impl Into<String>, holder: impl Into<String>) -> Self {
        Self::remembering(store, key.into(), holder.into(), Config::default())
    }

    /// A lock with settings of its own.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if the settings cannot work; nothing is touched then.
    pub fn with_config(
        store: S,
        key: impl Into<String>,
        holder: impl Into<String>,
        config: Config,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self::remembering(store, key.into(), holder.into(), config))
    }

    fn remembering(store: S, key: String, holder: String, config: Config) -> Self {
        let past = past_of(&key, &holder);
        Self::build(store, key, holder, config, past)
    }

    /// A lock with checked settings and a past.
    pub(crate) fn build(
        store: S,
        key: String,
        holder: String,
        config: Config,
        past: Arc<Mutex<Past>>,
    ) -> Self {
        let margin = 2 * Clock::granule();
        let tab = tab_id(&holder);
        let state = State {
            participant: Participant::new(
                tab.clone(),
                Lens {
                    usual: config.lease_ms,
                    idle: config.idle_lease_ms,
                    hidden: config.hidden_lease_ms,
                },
                margin,
            ),
            past,
            tenure: None,
            reserved: None,
            unsent: None,
            abandoned: false,
            asking: 0,
            calls: 0,
            admitted: 0,
            turns: Turns::default(),
            taking: None,
            takes: 0,
            refused: 0,
            reply: None,
            tries: Vec::new(),
            leaving: 0,
            store_failed: false,
            watched: false,
        };
        let shared = Arc::new_cyclic(|this| Shared {
            store,
            key,
            holder,
            tab,
            config,
            clock: Clock::start(),
            state: Mutex::new(state),
            answer: Mutex::new(None),
            changed: Notify::new(),
            answered: Notify::new(),
            wake: OnceLock::new(),
            liveness: OnceLock::new(),
            life: OnceLock::new(),
            this: Weak::clone(this),
        });
        let handle = Arc::new(Handle(Arc::clone(&shared)));
        Self { shared, handle }
    }

    /// Lets those who contend for this lock tell each other: a release is handed over by one message,
    /// and a lock that nobody waits for lingers until the next beat, so that taking it again costs
    /// nothing. Without, they ask the store from time to time. Only the first call counts.
    #[must_use]
    pub fn woken_by(self, wake: &Wake) -> Self {
        let shared = &self.shared;
        if shared.wake.set(wake.clone()).is_ok() {
            let ear: Weak<dyn Listen> = shared.this.clone();
            wake.listen(&shared.key, &shared.tab, ear);
        }
        self
    }

    /// Lets this lock go by beacons: it takes over at once from holders that have ended, and renews a
    /// lease that nobody waits for less often. Only the first call counts.
    #[must_use]
    pub fn watching(self, liveness: &Liveness) -> Self {
        // A second one is not an error, but ignored.
        let _ = self.shared.liveness.set(liveness.clone());
        self
    }

    /// Lets this lock go by what happens to its page or process: see [`Lifecycle`]. Only the first call
    /// counts.
    #[must_use]
    pub fn living(self, life: &Lifecycle) -> Self {
        let shared = &self.shared;
        if shared.life.set(life.clone()).is_ok() {
            shared.state().participant.hide(life.is_hidden());
            let watcher: Weak<dyn Live> = shared.this.clone();
            life.watch(watcher);
        }
        self
    }

    /// A lock object of its own for the same key, holder and settings: it shares no lease with this
    /// one, but contends with it as with anybody else, first in, first out.
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use tab_lease::{CrossProcessStoreLock, MemoryStore};
    ///
    /// let lock = CrossProcessStoreLock::new(MemoryStore::new(), "inbox", "worker");
    /// let guard = lock.try_lock_once().await.unwrap();
    /// assert!(lock.try_lock_once().await.unwrap().is_some(), "shared");
    /// assert!(lock.apart().try_lock_once().await.unwrap().is_none(), "exclusive");
    /// # }
    /// ```
    #[must_use]
    pub fn apart(&self) -> Self
    where
        S: Clone,
    {
        let Shared {
            store,
            key,
            holder,
            config,
            wake,
            liveness,
            life,
            ..
        } = &*self.shared;
        let past = Arc::clone(&self.shared.state().past);
        let mut apart = Self::build(store.clone(), key.clone(), holder.clone(), *config, past);
        if let Some(wake) = wake.get() {
            apart = apart.woken_by(wake);
        }
        if let Some(liveness) = liveness.get() {
            apart = apart.watching(liveness);
        }
        if let Some(life) = life.get() {
            apart = apart.living(life);
        }
        apart
    }

    /// The name given to [`CrossProcessStoreLock::new`].
    #[must_use]
    pub fn lock_holder(&self) -> &str {
        &self.shared.holder
    }

    /// Tries once, and never waits for another holder: `None` if there is one.
    ///
    /// `None` as well if the store is slower than the lease is long.
    ///
    /// A holder that has released the lock, but keeps it for a moment (see
    /// [`CrossProcessStoreLock::woken_by`]), is asked for it; that takes a beat at most. One that died is
    /// found out at once where there are beacons. Else its lease must be seen to stand still: then the
    /// first tries after a crash answer `None`, and those that come later than a lease length after the
    /// first one succeed.
    ///
    /// # Errors
    ///
    /// [`LockError::Store`] if the store failed.
    pub async fn try_lock_once(
        &self,
    ) -> Result<Option<CrossProcessStoreLockGuard>, LockError<S::Error>> {
        let shared = &self.shared;
        let (_asking, mut call) = Asking::begin(shared);
        let guard = self.attempt(&mut call, false).await?;
        if guard.is_some() {
            return Ok(guard);
        }
        let (want, suspect) = {
            let mut state = shared.state();
            state.reply = None;
            let want = state.participant.want().filter(|want| !want.queued);
            (want, state.participant.suspect().map(str::to_owned))
        };
        let asked = match (shared.wake.get(), want) {
            (Some(wake), Some(want)) => {
                wake.send(&shared.key, &Message::Want(want));
                true
            }
            _ => false,
        };
        let liveness = shared.liveness.get().filter(|_| suspect.is_some());
        if !asked && liveness.is_none() {
            return Ok(None);
        }
        let replied = async {
            loop {
                let changed = shared.changed.notified();
                if let Some(free) = shared.state().reply.take() {
                    return free;
                }
                changed.await;
            }
        };
        let suspect = suspect.unwrap_or_default();
        let ended = async {
            match liveness {
                Some(liveness) => liveness.ended(&suspect).await,
                None => std::future::pending().await,
            }
        };
        let again = select! {
            free = replied => free,
            () = ended => {
                let mut state = shared.state();
                state.participant.died(&suspect);
                state.participant.suspect().is_none()
            },
            () = sleep(Duration::from_millis(shared.config.heartbeat_ms.into())) => false,
        };
        if again {
            self.attempt(&mut call, false).await
        } else {
            Ok(None)
        }
    }

    /// Waits for the lock, asking again after 10, 20, 40 … ms, up to `max_backoff` ms (default:
    /// [`Config::max_backoff_ms`]). When the next pause would be longer than that, it gives up.
    /// Every call starts anew.
    ///
    /// # Errors
    ///
    /// [`LockError::Timeout`] when it gave up, [`LockError::Store`] if the store failed.
    pub async fn spin_lock(
        &self,
        max_backoff: Option<u32>,
    ) -> Result<CrossProcessStoreLockGuard, LockError<S::Error>> {
        let last = max_backoff.unwrap_or(self.shared.config.max_backoff_ms);
        let pauses = pauses(self.shared.config.initial_backoff_ms);
        let pauses = pauses.take_while(|pause| *pause <= last);
        self.seek(pauses, None, Watch::Spin).await
    }

    /// Waits for the lock for at most `timeout`, or for as long as it takes, and watches the present
    /// lease closely enough to take over from a dead holder within that lease and a beat. Dropping
    /// the future stops waiting. With a timeout of zero it asks once.
    ///
    /// # Errors
    ///
    /// [`LockError::Timeout`] when the time was up, [`LockError::Store`] if the store failed.
    pub async fn acquire(
        &self,
        timeout: Option<Duration>,
    ) -> Result<CrossProcessStoreLockGuard, LockError<S::Error>> {
        let Config {
            initial_backoff_ms,
            max_backoff_ms,
            ..
        } = self.shared.config;
        if timeout == Some(Duration::ZERO) {
            return self.try_lock_once().await?.ok_or(LockError::Timeout);
        }
        let deadline = timeout.map(|timeout| self.shared.clock.now().saturating_add(timeout));
        let pauses = pauses(initial_backoff_ms).map(|pause| pause.min(max_backoff_ms));
        self.seek(pauses, deadline, Watch::Closely).await
    }

    /// Asks, pauses, asks again, until the lock is held, `pauses` end, or `deadline` comes.
    async fn seek(
        &self,
        pauses: impl Iterator<Item = u32>,
        deadline: Option<Duration>,
        watch: Watch,
    ) -> Result<CrossProcessStoreLockGuard, LockError<S::Error>> {
        let (_asking, mut call) = Asking::begin(&self.shared);
        let shared = &self.shared;
        let search = async {
            let mut watched: Option<(String, BoxFuture<()>)> = None;
            for (look, pause) in pauses.map(Some).chain([None]).enumerate() {
                // Made before the look, so that a change after it is not missed.
                let changed = shared.changed.notified();
                if let Some(guard) = self.attempt(&mut call, true).await? {
                    return Ok(guard);
                }
                let Some(pause) = pause else { break };
                let pause = Duration::from_millis(pause.into());
                let (cut, want) = {
                    let mut state = shared.state();
                    // A lock that moves on at once is not worth watching.
                    let suspect = state.participant.suspect().filter(|_| look > 0);
                    if watched.as_ref().map(|(tab, _)| &**tab) != suspect {
                        let liveness = shared.liveness.get();
                        watched = suspect
                            .zip(liveness)
                            .map(|(tab, liveness)| (tab.to_owned(), liveness.ended(tab)));
                    }
                    let want = state.participant.want();
                    let now = shared.clock.now();
                    let cut = match watch {
                        Watch::Spin => state.participant.ripe_in(now),
                        Watch::Closely => {
                            let suspect = state.participant.suspect();
                            let told = suspect.is_some_and(|tab| shared.would_be_told(tab));
                            state.participant.look_in(now, told)
                        }
                    };
                    (cut, want)
                };
                if let (Some(wake), Some(want)) = (shared.wake.get(), want) {
                    wake.send(&shared.key, &Message::Want(want));
                }
                let ended = async {
                    match &mut watched {
                        Some((tab, ended)) => {
                            ended.await;
                            &**tab
                        }
                        None => std::future::pending().await,
                    }
                };
                let pause = cut.map_or(pause, |cut| cut.min(pause));
                let rested = async {
                    loop {
                        let since = shared.clock.now();
                        sleep(pause).await;
                        let now = shared.clock.now();
                        let moving = shared.state().participant.is_moving(since, now);
                        // No pause at all: there is a reason to ask now, and resting would spin.
                        if !moving || watch == Watch::Spin || pause.is_zero() {
                            return;
                        }
                    }
                };
                select! {
                    () = changed => {},
                    tab = ended => {
                        shared.state().participant.died(tab);
                        watched = None;
                    },
                    () = rested => {},
                }
            }
            Err(LockError::Timeout)
        };
        let late = async {
            match deadline {
                Some(deadline) => sleep_until(shared.clock, deadline).await,
                None => std::future::pending().await,
            }
        };
        select! {
            found = search => found,
            () = late => Err(LockError::Timeout),
        }
    }

    /// Shares the lease if it is held here and nobody else's turn, or asks the store for it once.
    async fn attempt(
        &self,
        call: &mut Call,
        join: bool,
    ) -> Result<Option<CrossProcessStoreLockGuard>, LockError<S::Error>> {
        let shared = &self.shared;
        shared.beacon_settled().await;
        let called_at = shared.state().takes;
        let mut sent = None;
        let mut late = false;
        loop {
            let changed = shared.changed.notified();
            let answered = shared.answered.notified();
            let held_back = {
                let mut state = shared.state();
                let now = shared.clock.now();
                if shared.life.get().is_some_and(Lifecycle::is_suspended) {
                    // What is asked now would be asked by a page that gets no answers.
                    drop(state);
                    changed.await;
                    continue;
                }
                // Also in the middle of a take: a message may begin the lease before the store has
                // answered, which may take long.
                let held_back = match state.admit(shared, call, now) {
                    Admission::Shared(guard) => return Ok(Some(guard)),
                    Admission::HeldBack(_) if !join => return Ok(None),
                    Admission::HeldBack(until) => Some(until),
                    Admission::NotHeld => None,
                };
                if let Some((_, answer)) = shared.answer_to(sent) {
                    sent = None;
                    if answer.map_err(LockError::Store)? == Answer::Late {
                        tracing::debug!(key = shared.key, "lease over before it began");
                        // Once is a pause of this process. Twice, the store is slower than the lease,
                        // or the lease is shorter than the margin; whoever goes on asking pauses first.
                        if late {
                            return Ok(None);
                        }
                        late = true;
                    }
                }
                if state.refused > called_at {
                    // A take that was sent after this call began has been refused just now.
                    return Ok(None);
                }
                // Of a request that has ended nobody waits for an answer.
                let idle = state.taking.is_none() || state.taking != state.participant.request();
                if held_back.is_none() && idle {
                    sent = Some(shared.take(&mut state, now, join));
                }
                held_back
            };
            let patience = async {
                match held_back {
                    Some(until) => sleep_until(shared.clock, until).await,
                    None => std::future::pending().await,
                }
            };
            select! {
                () = answered => {},
                () = changed => {},
                () = patience => {},
            }
        }
    }
}

/// A call that wants the lock.
struct Call {
    /// Which one, of all calls of its lock object.
    number: u64,
    held_back: Option<HeldBack>,
}

/// What a call finds.
enum Admission {
    /// The lock is held here, and the call shares it.
    Shared(CrossProcessStoreLockGuard),
    /// It is held here, but others come first, until then.
    HeldBack(Duration),
    NotHeld,
}

/// What came of the take of that number.
type Answered<E> = (u64, Result<Answer, E>);

/// How a caller that waits watches the lease.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Watch {
    /// At its own pauses, and when the lease is ripe.
    Spin,
    /// As often as it takes to take over in time, and no more.
    Closely,
}

#[derive(PartialEq, Eq)]
pub(crate) enum Answer {
    /// The state says what came of it.
    Heard,
    Late,
}

impl<S: BackingStore> Shared<S> {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Whether some who contend may not be reached by a message.
    pub(crate) fn is_mute(&self) -> bool {
        !self.wake.get().is_some_and(Wake::is_complete)
    }

    pub(crate) fn is_lit(&self) -> bool {
        self.liveness.get().is_some_and(Liveness::is_lit)
    }

    /// Whether a beacon would tell of that tab's end.
    fn would_be_told(&self, tab: &str) -> bool {
        self.liveness
            .get()
            .is_some_and(|liveness| liveness.is_watched(tab))
    }

    /// Waits until it is known whether there is a beacon to speak of.
    async fn beacon_settled(&self) {
        if let Some(liveness) = self.liveness.get().filter(|liveness| !liveness.is_lit()) {
            select! {
                () = liveness.settled() => {},
                () = sleep(Duration::from_millis(BEACON_PATIENCE_MS.into())) => {},
            }
        }
    }

    /// Sends a take, in a task of its own. Answers with its number: see `answer`.
    fn take(self: &Arc<Self>, state: &mut State, sent: Duration, join: bool) -> u64 {
        let ask = Ask {
            request: next_request(),
            join,
            beacon: self.is_lit(),
            fresh_epoch: platform::random(),
            wall: platform::wall_ms(),
        };
        state.takes += 1;
        let take = {
            let (participant, past) = state.participant();
            participant.take(&past, sent, ask)
        };
        state.taking = Some(take.who.request);
        let number = state.takes;
        let shared = Arc::clone(self);
        Spawner::current().spawn(async move {
            let command = Command::Take(take.clone());
            let answer = shared.store.apply(&shared.key, command).await;
            let answer = {
                let mut state = shared.state();
                if state.taking == Some(take.who.request) {
                    state.taking = None;
                }
                match answer {
                    Ok(outcome) => Ok(shared.taken(&mut state, &take, sent, &outcome)),
                    Err(error) => {
                        state.participant.failed(&take);
                        Err(error)
                    }
                }
            };
            *lock(&shared.answer) = Some((number, answer));
            shared.answered.notify_waiters();
        });
        number
    }

    /// What came of the take of that number, once.
    fn answer_to(&self, take: Option<u64>) -> Option<Answered<S::Error>> {
        lock(&self.answer).take_if(|(number, _)| Some(*number) == take)
    }

    fn taken(
        self: &Arc<Self>,
        state: &mut State,
        take: &Take,
        sent: Duration,
        outcome: &Outcome,
    ) -> Answer {
        let now = self.clock.now();
        let (participant, mut past) = state.participant();
        let taken = participant.taken(&mut past, take, sent, now, outcome);
        drop(past);
        match taken {
            Taken::Held(holding) => self.begin(state, holding),
            Taken::Busy => {
                state.refused = state.takes;
                tracing::trace!(key = self.key, "lock busy");
            }
            Taken::Late => return Answer::Late,
            Taken::Confirmed => state.extend(),
            Taken::Lost(quit) => self.lose(state, LossReason::Superseded, quit),
            Taken::Stale => {}
            Taken::Ghost(quit) => self.send_quit(quit),
        }
        Answer::Heard
    }

    /// A tenure begins: its heartbeat starts, and the callers that wait are given guards.
    fn begin(self: &Arc<Self>, state: &mut State, holding: Holding) {
        let good_until = state.participant.good_until().unwrap_or_default();
        let tenure = Tenure::new(holding, good_until, self.clock, self.this.clone());
        tracing::debug!(key = self.key, token = holding.token, "lock acquired");
        state.reserved = Some(tenure.guard());
        state.tenure = Some(Arc::clone(&tenure));
        state.admitted = state.calls;
        state.store_failed = false;
        // Whoever waited goes on first.
        self.wake();
        Spawner::current().spawn(heartbeat::keep(Arc::clone(self), tenure));
        if !std::mem::replace(&mut state.watched, true) {
            Spawner::current().spawn(heartbeat::watch(Arc::downgrade(self)));
        }
    }

    /// The lease is lost: the guards are told at once, the store in its time.
    pub(crate) fn lose(self: &Arc<Self>, state: &mut State, reason: LossReason, quit: Command) {
        state.lose(reason);
        self.send_quit(quit);
    }

    fn send_quit(self: &Arc<Self>, quit: Command) {
        let shared = Arc::clone(self);
        Spawner::current().spawn(async move { _ = shared.quit(quit).await });
    }

    /// Tells the store that a request has ended, or was handed on, and whoever is granted the lock by
    /// that. If it fails, the next take of this process says it again, and for everybody else the lease
    /// lapses. Answers whether it was told.
    pub(crate) async fn quit(&self, quit: Command) -> bool {
        let sent = self.clock.now();
        self.state().leaving += 1;
        let answer = self.store.apply(&self.key, quit.clone()).await;
        self.state().leaving -= 1;
        match answer {
            Ok(outcome) => {
                let now = self.clock.now();
                let grant = {
                    let mut state = self.state();
                    let (participant, mut past) = state.participant();
                    participant.gone(&mut past, &quit, sent, now, &outcome)
                };
                let free = grant.is_none();
                if let Some(grant) = grant {
                    self.tell(&Message::Grant(grant));
                }
                self.answer_tries(free);
                true
            }
            Err(error) => {
                tracing::warn!(key = self.key, %error, "release not written; the lease will lapse");
                false
            }
        }
    }

    /// After a lease was handed over by a message: tells the store, unless it is heard that the receiver
    /// has, and for as long as it can matter.
    pub(crate) async fn pass(&self, grant: &Grant, pass: &Command) {
        let until = self.clock.now() + Duration::from_millis(self.config.lease_ms.into());
        let mut pause = PASS_AFTER_MS;
        self.state().leaving += 1;
        while self.clock.now() < until {
            sleep(Duration::from_millis(pause.into())).await;
            let must = lock(&self.state().past).must_pass(grant);
            if !must || self.quit(pass.clone()).await {
                break;
            }
            pause = self.config.heartbeat_ms;
        }
        self.state().leaving -= 1;
        // Those who came when the store had been told.
        self.answer_tries(false);
    }

    /// Tells those who only try whether the lock was freed for them.
    pub(crate) fn answer_tries(&self, free: bool) {
        let tries = std::mem::take(&mut self.state().tries);
        for to in tries {
            self.tell(&Message::Reply { to, free });
        }
    }

    pub(crate) fn tell(&self, message: &Message) {
        if let Some(wake) = self.wake.get() {
            wake.send(&self.key, message);
        }
    }

    /// Whether a lock that nobody waits for may stay for a moment: somebody may ask for it here, and
    /// whoever asks elsewhere is heard.
    pub(crate) fn lingers(&self, state: &State) -> bool {
        !state.abandoned && !self.is_mute()
    }

    /// Callers that wait for the lock look again.
    pub(crate) fn wake(&self) {
        self.changed.notify_waiters();
    }
}

impl<S: BackingStore> Fences for Shared<S> {
    fn begin_fence(&self, tenure: &Arc<Tenure>) -> Option<Fence> {
        let shared = self.this.upgrade()?;
        let now = self.clock.now();
        let mut state = self.state();
        if !state.is_present(tenure) {
            return None;
        }
        let (beacon, wall) = (self.is_lit(), platform::wall_ms());
        let lease = state.participant.fence(now, beacon, wall);
        if lease.is_none() {
            // It has run out, and its heartbeat had no chance to say so.
            let (participant, mut past) = state.participant();
            let quit = participant.end(&mut past);
            drop(past);
            if let Some(quit) = quit {
                let reason = state.loss_by_time();
                shared.lose(&mut state, reason, quit);
            }
        }
        lease
    }

    fn fence_passed(&self, lease: &Fence) {
        let mut state = self.state();
        state.participant.fence_passed(lease);
        if let Some(tenure) = &state.tenure
            && tenure.renewing.load(Ordering::Acquire)
        {
            // That renewal waits behind it, and so do the ones that are to come.
            tenure.stirred.notify_one();
        }
    }

    fn fence_refused(&self, lease: &Fence) {
        let mut state = self.state();
        let (participant, mut past) = state.participant();
        let quit = participant.fence_refused(&mut past, lease);
        drop(past);
        if let (Some(quit), Some(shared)) = (quit, self.this.upgrade()) {
            shared.lose(&mut state, LossReason::Superseded, quit);
        }
    }

    fn fence_over(&self, lease: &Fence, passed: bool) {
        self.state().participant.fence_over(lease, passed);
    }

    fn look(&self) {
        if let Some(shared) = self.this.upgrade() {
            let now = self.clock.now();
            self.state().expire(&shared, now);
        }
    }

    fn key(&self) -> &str {
        &self.key
    }

    fn store(&self) -> &dyn Any {
        &self.store
    }
}

impl<S: BackingStore> Listen for Shared<S> {
    fn hear(&self, message: &Message) {
        let Some(shared) = self.this.upgrade() else {
            return;
        };
        if self.life.get().is_some_and(Lifecycle::is_suspended) {
            // A frozen page still gets messages, but no answers from the store: a transaction opened now
            // would stay open and block everybody.
            return;
        }
        let now = self.clock.now();
        let mut state = self.state();
        match message {
            Message::Grant(grant) => {
                let (participant, mut past) = state.participant();
                let heard = participant.granted(&mut past, now, grant);
                drop(past);
                match heard {
                    Heard::Started(holding) => shared.begin(&mut state, holding),
                    Heard::Ask => self.wake(),
                    Heard::Ignored => {}
                }
            }
            Message::Want(want) => {
                let wanted = state.participant.wanted(now, want);
                if wanted == Wanted::NotOurs && !want.queued && state.leaving > 0 {
                    // Perhaps it saw what is just being given up.
                    state.tries.push(want.who.clone());
                    return;
                }
                let Some(tenure) = state.tenure.clone().filter(|_| wanted != Wanted::NotOurs)
                else {
                    return;
                };
                if wanted == Wanted::ByTry {
                    if tenure.is_used() || state.participant.is_wanted() {
                        drop(state);
                        let to = want.who.clone();
                        self.tell(&Message::Reply { to, free: false });
                        return;
                    }
                    state.tries.push(want.who.clone());
                }
                tenure.stirred.notify_one();
            }
            Message::Gone(who) => {
                if state.participant.unwanted(who)
                    && let Some(tenure) = &state.tenure
                {
                    tenure.look_again();
                    // Calls that were held back for it.
                    self.wake();
                } else if state.participant.awaits(who) {
                    // Its holder, perhaps.
                    self.wake();
                }
            }
            Message::Reply { to, free } => {
                if state.participant.is_asking(to) {
                    state.reply = Some(*free);
                    self.wake();
                }
            }
        }
    }
}

impl<S: BackingStore> Live for Shared<S> {
    fn hidden(&self, hidden: bool) {
        let mut state = self.state();
        state.participant.hide(hidden);
        if let Some(tenure) = &state.tenure {
            tenure.look_again();
        }
        // Whoever waits here asks for another length now.
        self.wake();
    }

    fn suspended(&self, suspended: bool) {
        if !suspended {
            return self.wake();
        }
        let mut state = self.state();
        let (participant, mut past) = state.participant();
        let quit = participant.end(&mut past);
        drop(past);
        state.lose(LossReason::Suspended);
        drop(state);
        if let Some(Command::Quit { who }) = quit {
            self.store.leave(&self.key, &who);
            self.tell(&Message::Gone(who));
        }
    }
}

impl State {
    /// A guard of the tenure, if its lease is still good, and unless it is somebody else's turn. One that
    /// has run out is reported lost here, before anybody can share it.
    fn admit<S: BackingStore>(
        &mut self,
        shared: &Arc<Shared<S>>,
        call: &mut Call,
        now: Duration,
    ) -> Admission {
        self.expire(shared, now);
        let Some(tenure) = &self.tenure else {
            return Admission::NotHeld;
        };
        if call.number > self.admitted {
            let waits = self.participant.next();
            if let Turn::Wait(until) = self.turns.turn(&mut call.held_back, waits, now) {
                return Admission::HeldBack(until);
            }
        }
        let guard = self.reserved.take().unwrap_or_else(|| tenure.guard());
        tenure.tell();
        lock(&self.past).told();
        Admission::Shared(guard)
    }

    /// Tells of a lease that has run out, if there is one.
    pub(crate) fn expire<S: BackingStore>(&mut self, shared: &Arc<Shared<S>>, now: Duration) {
        if self.participant.holding(now).is_none()
            && let Some(Due::Expired(quit)) = self.due(now, false)
        {
            let reason = self.loss_by_time();
            shared.lose(self, reason, quit);
        }
    }

    /// Why a lease that ran out did.
    pub(crate) fn loss_by_time(&self) -> LossReason {
        if self.store_failed {
            LossReason::StoreFailed
        } else {
            LossReason::Expired
        }
    }

    /// When the present lease is to be looked at, by the one who watches it; nobody does, once this
    /// answers that there is none.
    pub(crate) fn watched_until(&mut self) -> Option<Duration> {
        let end = self.tenure.as_ref().map(|tenure| tenure.good_until());
        self.watched = end.is_some();
        end
    }

    /// What the heartbeat has to do now.
    pub(crate) fn due(&mut self, now: Duration, beacon: bool) -> Option<Due> {
        let (participant, mut past) = self.participant();
        participant.due(&mut past, now, beacon, platform::wall_ms())
    }

    /// Whether `tenure` is the present one.
    pub(crate) fn is_present(&self, tenure: &Arc<Tenure>) -> bool {
        self.tenure
            .as_ref()
            .is_some_and(|present| Arc::ptr_eq(present, tenure))
    }

    /// Whether somebody who only tries waits for an answer.
    pub(crate) fn is_tried(&self) -> bool {
        !self.tries.is_empty()
    }

    /// Whether somebody is to get the lock as soon as no guard is left.
    pub(crate) fn is_wanted(&self) -> bool {
        self.participant.is_wanted() || self.is_tried()
    }

    /// The participant and what it remembers.
    pub(crate) fn participant(&mut self) -> (&mut Participant, MutexGuard<'_, Past>) {
        (&mut self.participant, lock(&self.past))
    }

    /// Ends the present tenure by release; the caller sends what that says. `mute`: there are no
    /// messages, so only the store can tell whoever waits.
    pub(crate) fn release(&mut self, now: Duration, mute: bool) -> Option<Release> {
        self.tenure = None;
        let (participant, mut past) = self.participant();
        let release = participant.release(&mut past, now, mute);
        drop(past);
        release.or_else(|| self.unsent.take().map(Release::Quit))
    }

    /// Ends a request that nobody can share any more: its guards are gone, and so is the lock
    /// object. The heartbeat would find that out when it next runs, but a lock object made anew
    /// before that would be refused its own earlier lease. Sending the quit is left to it.
    fn abandon(&mut self) {
        self.abandoned = true;
        if let Some(tenure) = self.tenure.clone().filter(|tenure| !tenure.is_used()) {
            let (participant, mut past) = self.participant();
            let quit = participant.end(&mut past);
            drop(past);
            self.unsent = quit;
            tenure.stirred.notify_one();
        }
    }

    /// The store has said that the lease is good for longer.
    pub(crate) fn extend(&self) {
        if let (Some(tenure), Some(good_until)) = (&self.tenure, self.participant.good_until()) {
            tenure.extend(good_until);
        }
    }

    /// Ends the present tenure by loss, and tells its guards.
    pub(crate) fn lose(&mut self, reason: LossReason) {
        if let Some(tenure) = self.tenure.take() {
            tracing::warn!(token = tenure.token, %reason, "lease lost");
            tenure.enter(Phase::Lost(reason));
            tenure.stirred.notify_one();
        }
        self.reserved = None;
    }
}

/// A caller that wants the lock, for as long as it does. When the last one goes without the lock,
/// the request that they shared is over.
struct Asking<S: BackingStore> {
    shared: Arc<Shared<S>>,
    spawner: Spawner,
}

impl<S: BackingStore> Asking<S> {
    fn begin(shared: &Arc<Shared<S>>) -> (Self, Call) {
        let number = {
            let mut state = shared.state();
            state.asking += 1;
            state.calls += 1;
            state.calls
        };
        let asking = Self {
            shared: Arc::clone(shared),
            spawner: Spawner::current(),
        };
        let held_back = None;
        (asking, Call { number, held_back })
    }
}

impl<S: BackingStore> Drop for Asking<S> {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.asking -= 1;
        if state.asking > 0 {
            return;
        }
        // Begun for nobody: dropping the guard releases it.
        let _reserved = state.reserved.take();
        if state.tenure.is_some() {
            return;
        }
        let (participant, mut past) = state.participant();
        if let Some(quit) = participant.end(&mut past) {
            let shared = Arc::clone(&self.shared);
            self.spawner.spawn(async move {
                if let Command::Quit { who } = &quit {
                    // Or the holder would hand the lock to nobody.
                    shared.tell(&Message::Gone(who.clone()));
                }
                shared.quit(quit).await;
            });
        }
    }
}

/// The pauses of a waiter, in ms: each twice the one before.
fn pauses(first: u32) -> impl Iterator<Item = u32> {
    std::iter::successors(Some(first), |pause| Some(pause.saturating_mul(2)))
}

/// A poisoned mutex of this crate protects nothing that a panic can have left half-done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Request ids are unique in the process, since lock objects for one key come and go.
fn next_request() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Who this process is in a record: the holder's name, told apart from every other process (or
/// tab) that uses the same one.
fn tab_id(holder: &str) -> String {
    [holder, platform::process()].join("#")
}

/// What this process remembers about a key, for all lock objects with that key and holder, present
/// and future. It is small and kept for as long as the process lives.
fn past_of(key: &str, holder: &str) -> Arc<Mutex<Past>> {
    type Pasts = Mutex<HashMap<(String, String), Arc<Mutex<Past>>>>;
    static PASTS: OnceLock<Pasts> = OnceLock::new();
    let mut pasts = lock(PASTS.get_or_init(Pasts::default));
    let name = (key.to_owned(), holder.to_owned());
    Arc::clone(pasts.entry(name).or_default())
}
