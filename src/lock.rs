//! The lock: take, spin, wait, and share within one process.
//!
//! # State, and who changes it
//!
//! [`Shared`] is what the clones of one lock share. Its `state` mutex is never held across an
//! await; it holds the [`Participant`], which decides, and the present [`Tenure`], if any.
//!
//! - Callers take. One take is in flight at a time (`turn`); callers that come meanwhile share its
//!   answer. While a tenure is good they share that, without touching the store.
//! - The [heartbeat](crate::heartbeat) of a tenure renews, and alone ends it: by release, once no
//!   guard is left, or by loss. A caller that finds the lease run out, before the heartbeat had a
//!   chance to run, reports the loss in its place.
//! - A caller that is dropped in the middle of a take may leave a request in the store. The last
//!   one to go ([`Asking`]) sends the quit; what that quit cannot mend, because it is late or lost,
//!   the next take does (see [`Past`]).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::config::Config;
use crate::error::{ConfigError, LockError, LossReason};
use crate::guard::{CrossProcessStoreLockGuard, Phase, Tenure};
use crate::heartbeat;
use crate::participant::{Due, Participant, Past, Taken};
use crate::platform::{self, Clock, Spawner, sleep, sleep_until};
use crate::rules::{Command, Outcome, Take};
use crate::store::BackingStore;
use crate::wake::Wake;

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

pub(crate) struct Shared<S> {
    pub(crate) store: S,
    pub(crate) key: String,
    holder: String,
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    state: Mutex<State>,
    /// Held by whoever has a take in flight.
    turn: tokio::sync::Mutex<()>,
    /// Tells waiting callers to look again: a tenure has begun or ended here, or a message said that
    /// this tab was granted the lock.
    changed: Arc<Notify>,
    wake: OnceLock<Wake>,
}

pub(crate) struct State {
    pub(crate) participant: Participant,
    past: Arc<Mutex<Past>>,
    tenure: Option<Arc<Tenure>>,
    /// The end of a request that the heartbeat has yet to send. See [`State::abandon`].
    unsent: Option<Command>,
    /// Callers that want the lock now.
    asking: usize,
    /// Takes so far, and the latest of them that was answered "busy".
    takes: u64,
    refused: u64,
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
        let state = State {
            participant: Participant::new(tab_id(&holder), config.lease_ms, margin),
            past,
            tenure: None,
            unsent: None,
            asking: 0,
            takes: 0,
            refused: 0,
        };
        let shared = Shared {
            store,
            key,
            holder,
            config,
            clock: Clock::start(),
            state: Mutex::new(state),
            turn: tokio::sync::Mutex::new(()),
            changed: Arc::default(),
            wake: OnceLock::new(),
        };
        let shared = Arc::new(shared);
        let handle = Arc::new(Handle(Arc::clone(&shared)));
        Self { shared, handle }
    }

    /// Lets messages wake the callers that wait for this lock, and sends them to others. Without,
    /// they ask the store from time to time. Only the first call counts.
    #[must_use]
    pub fn woken_by(self, wake: &Wake) -> Self {
        let Shared { key, holder, .. } = &*self.shared;
        if self.shared.wake.set(wake.clone()).is_ok() {
            wake.listen(key, &tab_id(holder), &self.shared.changed);
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
            ..
        } = &*self.shared;
        let past = Arc::clone(&self.shared.state().past);
        let apart = Self::build(store.clone(), key.clone(), holder.clone(), *config, past);
        match wake.get() {
            Some(wake) => apart.woken_by(wake),
            None => apart,
        }
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
    /// A holder that died is only found out by watching its lease stand still, so the first tries
    /// after a crash answer `None`; tries that come later than a lease length after the first one
    /// succeed.
    ///
    /// # Errors
    ///
    /// [`LockError::Store`] if the store failed.
    pub async fn try_lock_once(
        &self,
    ) -> Result<Option<CrossProcessStoreLockGuard>, LockError<S::Error>> {
        let _asking = Asking::begin(&self.shared);
        self.attempt(false).await
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
        self.seek(pauses, None, Participant::ripe_in).await
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
        self.seek(pauses, deadline, Participant::look_in).await
    }

    /// Asks, pauses, asks again, until the lock is held, `pauses` end, or `deadline` comes. `cut`
    /// may end a pause early.
    async fn seek(
        &self,
        pauses: impl Iterator<Item = u32>,
        deadline: Option<Duration>,
        cut: fn(&Participant, Duration) -> Option<Duration>,
    ) -> Result<CrossProcessStoreLockGuard, LockError<S::Error>> {
        let _asking = Asking::begin(&self.shared);
        let search = async {
            for pause in pauses.map(Some).chain([None]) {
                // Made before the look, so that a change after it is not missed.
                let changed = self.shared.changed.notified();
                if let Some(guard) = self.attempt(true).await? {
                    return Ok(guard);
                }
                let Some(pause) = pause else { break };
                let pause = Duration::from_millis(pause.into());
                let now = self.shared.clock.now();
                let cut = cut(&self.shared.state().participant, now);
                tokio::select! {
                    biased;
                    () = sleep(cut.map_or(pause, |cut| cut.min(pause))) => {}
                    () = changed => {}
                }
            }
            Err(LockError::Timeout)
        };
        tokio::select! {
            biased;
            found = search => found,
            () = sleep_until(self.shared.clock, deadline.unwrap_or(Duration::MAX)) => {
                Err(LockError::Timeout)
            }
        }
    }

    /// Shares the lease if it is held here, or asks the store for it once.
    async fn attempt(
        &self,
        join: bool,
    ) -> Result<Option<CrossProcessStoreLockGuard>, LockError<S::Error>> {
        let shared = &self.shared;
        let called_at = shared.state().takes;
        let _turn = shared.turn.lock().await;
        let mut late = false;
        loop {
            let (sent, take) = {
                let mut state = shared.state();
                let sent = shared.clock.now();
                if let Some(tenure) = state.good_tenure(shared, sent) {
                    return Ok(Some(tenure.guard()));
                }
                if state.refused > called_at {
                    // A take that was sent after this call began has been refused just now.
                    return Ok(None);
                }
                state.takes += 1;
                (sent, state.take(sent, join))
            };
            let ended = take.ended.clone();
            let answer = shared.store.apply(&shared.key, Command::Take(take)).await;
            let outcome = answer.map_err(LockError::Store)?;
            let now = shared.clock.now();
            let mut state = shared.state();
            let (participant, mut past) = state.participant();
            let taken = participant.taken(&mut past, &ended, sent, now, &outcome);
            drop(past);
            match taken {
                Taken::Held(holding) => {
                    let good_until = state.participant.good_until().unwrap_or_default();
                    let tenure = Tenure::new(holding, good_until, shared.clock);
                    let guard = tenure.guard();
                    state.tenure = Some(Arc::clone(&tenure));
                    drop(state);
                    tracing::debug!(key = shared.key, token = holding.token, "lock acquired");
                    Spawner::current().spawn(heartbeat::keep(Arc::clone(shared), tenure));
                    shared.changed.notify_waiters();
                    return Ok(Some(guard));
                }
                Taken::Busy => {
                    state.refused = state.takes;
                    tracing::trace!(key = shared.key, "lock busy");
                    return Ok(None);
                }
                Taken::Late => {
                    tracing::debug!(key = shared.key, "lease over before it began");
                    // Once is a pause of this process. Twice, the store is slower than the lease,
                    // or the lease is shorter than the margin; whoever goes on asking pauses first.
                    if late {
                        return Ok(None);
                    }
                    late = true;
                }
            }
        }
    }
}

impl<S: BackingStore> Shared<S> {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Tells the store that a request has ended, and whoever is granted the lock by that. If it
    /// fails, the next take of this process says it again, and for everybody else the lease lapses.
    pub(crate) async fn quit(&self, quit: Command) {
        match self.store.apply(&self.key, quit.clone()).await {
            Ok(outcome) => {
                lock(&self.state().past).confirmed(&quit);
                if let (Outcome::Gone { granted: Some(to) }, Some(wake)) =
                    (outcome, self.wake.get())
                {
                    wake.granted(&self.key, &to);
                }
            }
            Err(error) => {
                tracing::warn!(key = self.key, %error, "release not written; the lease will lapse");
            }
        }
    }

    /// Callers that wait for the lock look again.
    pub(crate) fn wake(&self) {
        self.changed.notify_waiters();
    }
}

impl State {
    fn take(&mut self, now: Duration, join: bool) -> Take {
        let fresh_epoch = platform::random();
        let wall = platform::wall_ms();
        let past = lock(&self.past);
        self.participant
            .take(&past, now, next_request(), join, fresh_epoch, wall)
    }

    /// The tenure, if its lease is still good. One that has run out is reported lost here, before
    /// anybody can share it.
    fn good_tenure<S: BackingStore>(
        &mut self,
        shared: &Arc<Shared<S>>,
        now: Duration,
    ) -> Option<&Arc<Tenure>> {
        if self.participant.holding(now).is_none()
            && let Some(Due::Expired(quit)) = self.due(now)
        {
            self.lose(LossReason::Expired);
            let shared = Arc::clone(shared);
            Spawner::current().spawn(async move { shared.quit(quit).await });
        }
        self.tenure.as_ref()
    }

    /// What the heartbeat has to do now.
    pub(crate) fn due(&mut self, now: Duration) -> Option<Due> {
        self.participant.due(&mut lock(&self.past), now)
    }

    /// Whether `tenure` is the present one.
    pub(crate) fn is_present(&self, tenure: &Arc<Tenure>) -> bool {
        self.tenure
            .as_ref()
            .is_some_and(|present| Arc::ptr_eq(present, tenure))
    }

    /// The participant and what it remembers.
    pub(crate) fn participant(&mut self) -> (&mut Participant, MutexGuard<'_, Past>) {
        (&mut self.participant, lock(&self.past))
    }

    /// Ends the present tenure by release; the caller sends the command.
    pub(crate) fn release(&mut self) -> Option<Command> {
        self.tenure = None;
        let quit = self.participant.end(&mut lock(&self.past));
        quit.or_else(|| self.unsent.take())
    }

    /// Ends a request that nobody can share any more: its guards are gone, and so is the lock
    /// object. The heartbeat would find that out when it next runs, but a lock object made anew
    /// before that would be refused its own earlier lease. Sending the quit is left to it.
    fn abandon(&mut self) {
        if self.tenure.as_ref().is_some_and(|tenure| !tenure.is_used()) {
            self.unsent = self.participant.end(&mut lock(&self.past));
        }
    }

    /// Ends the present tenure by loss, and tells its guards.
    pub(crate) fn lose(&mut self, reason: LossReason) {
        if let Some(tenure) = self.tenure.take() {
            tracing::warn!(token = tenure.token, %reason, "lease lost");
            tenure.finish(Phase::Lost(reason));
        }
    }
}

/// A caller that wants the lock, for as long as it does. When the last one goes without the lock,
/// the request that they shared is over.
struct Asking<S: BackingStore> {
    shared: Arc<Shared<S>>,
    spawner: Spawner,
}

impl<S: BackingStore> Asking<S> {
    fn begin(shared: &Arc<Shared<S>>) -> Self {
        shared.state().asking += 1;
        Self {
            shared: Arc::clone(shared),
            spawner: Spawner::current(),
        }
    }
}

impl<S: BackingStore> Drop for Asking<S> {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.asking -= 1;
        if state.asking > 0 || state.tenure.is_some() {
            return;
        }
        let (participant, mut past) = state.participant();
        if let Some(quit) = participant.end(&mut past) {
            let shared = Arc::clone(&self.shared);
            self.spawner.spawn(async move { shared.quit(quit).await });
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
    static PROCESS: OnceLock<String> = OnceLock::new();
    let process = PROCESS.get_or_init(|| {
        const DIGITS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
        let random = platform::random();
        (0..10)
            .map(|digit| DIGITS[(random >> (5 * digit)) as usize & 31] as char)
            .collect()
    });
    [holder, process].join("#")
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
