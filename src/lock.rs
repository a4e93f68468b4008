//! The lock: what a caller may ask. What is done about it is decided by the
//! [contender](crate::contender) and performed by the [driver](crate::driver).

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time;

use crate::config::Config;
#[cfg(all(target_arch = "wasm32", feature = "npm"))]
use crate::contender::CallId;
use crate::contender::{Event, Patience};
#[cfg(all(target_arch = "wasm32", feature = "npm"))]
use crate::driver::Settled;
use crate::driver::{Acquiring, Driver, Surroundings};
use crate::error::{ConfigError, LockError};
use crate::guard::{CrossProcessStoreLockGuard, ObjectId};
use crate::lifecycle::Lifecycle;
use crate::liveness::Liveness;
use crate::mutex::Mutex;
use crate::participant::Past;
use crate::platform;
use crate::store::BackingStore;
use crate::time::Duration;
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
pub struct CrossProcessStoreLock<S: BackingStore>(Arc<Handle<S>>);

impl<S: BackingStore> Clone for CrossProcessStoreLock<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// What the clones of a lock own together: when the last of them goes, so does the lock object.
struct Handle<S: BackingStore> {
    driver: Arc<Driver<S>>,
    object: ObjectId,
    key: String,
    holder: String,
    config: Config,
    past: Arc<Mutex<Past>>,
}

impl<S: BackingStore> Drop for Handle<S> {
    fn drop(&mut self) {
        self.driver.tell(self.object, Event::Abandoned);
    }
}

impl<S: BackingStore> std::fmt::Debug for CrossProcessStoreLock<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CrossProcessStoreLock")
            .field("key", &self.0.key)
            .field("holder", &self.0.holder)
            .finish_non_exhaustive()
    }
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
        let driver = driver(Arc::new(store), &holder, Surroundings::default());
        Self::over(driver, key, holder, config, past)
    }

    /// A lock with checked settings and a past, of a driver that may have others.
    pub(crate) fn over(
        driver: Arc<Driver<S>>,
        key: String,
        holder: String,
        config: Config,
        past: Arc<Mutex<Past>>,
    ) -> Self {
        let object = driver.add(&key, &config, Arc::clone(&past));
        Self(Arc::new(Handle {
            driver,
            object,
            key,
            holder,
            config,
            past,
        }))
    }

    /// This lock, over a driver with other surroundings.
    fn surrounded(self, change: impl FnOnce(&mut Surroundings)) -> Self {
        let Handle {
            driver,
            key,
            holder,
            config,
            past,
            ..
        } = &*self.0;
        let mut around = driver.around.clone();
        change(&mut around);
        let driver = self::driver(Arc::clone(&driver.store), holder, around);
        Self::over(
            driver,
            key.clone(),
            holder.clone(),
            *config,
            Arc::clone(past),
        )
    }

    /// Lets those who contend for this lock tell each other: a release is handed over by one message,
    /// and a lock that nobody waits for lingers until the next beat, so that taking it again costs
    /// nothing. Without, they ask the store from time to time. Only the first call counts.
    #[must_use]
    pub fn woken_by(self, wake: &Wake) -> Self {
        self.surrounded(|around| _ = around.wake.get_or_insert_with(|| wake.clone()))
    }

    /// Lets this lock go by beacons: it takes over at once from holders that have ended, and renews a
    /// lease that nobody waits for less often. Only the first call counts.
    #[must_use]
    pub fn watching(self, liveness: &Liveness) -> Self {
        self.surrounded(|around| _ = around.liveness.get_or_insert_with(|| liveness.clone()))
    }

    /// Lets this lock go by what happens to its page or process: see [`Lifecycle`]. Only the first call
    /// counts.
    #[must_use]
    pub fn living(self, life: &Lifecycle) -> Self {
        self.surrounded(|around| _ = around.life.get_or_insert_with(|| life.clone()))
    }

    /// A lock object of its own for the same key, holder and settings: it shares no lease with this
    /// one, but contends with it as with any other tab's, first in, first out.
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
    pub fn apart(&self) -> Self {
        let past = Arc::clone(&self.0.past);
        self.beside(self.0.key.clone(), past)
    }

    /// A lock of another key, with the same store, holder and settings, and whatever tells of others. Locks
    /// that were made beside each other share their timer, and in a store that can do so their transactions.
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use tab_lease::{CrossProcessStoreLock, MemoryStore};
    ///
    /// let inbox = CrossProcessStoreLock::new(MemoryStore::new(), "inbox", "worker");
    /// let outbox = inbox.sibling("outbox");
    /// let both = (inbox.acquire(None).await.unwrap(), outbox.acquire(None).await.unwrap());
    /// # drop(both);
    /// # }
    /// ```
    #[must_use]
    pub fn sibling(&self, key: impl Into<String>) -> Self {
        let key = key.into();
        let past = past_of(&key, &self.0.holder);
        self.beside(key, past)
    }

    fn beside(&self, key: String, past: Arc<Mutex<Past>>) -> Self {
        let Handle {
            driver,
            holder,
            config,
            ..
        } = &*self.0;
        Self::over(Arc::clone(driver), key, holder.clone(), *config, past)
    }

    /// The name given to [`CrossProcessStoreLock::new`].
    #[must_use]
    pub fn lock_holder(&self) -> &str {
        &self.0.holder
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
        self.call(Patience::Try).await
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
        let longest_ms = max_backoff.unwrap_or(self.0.config.max_backoff_ms);
        let spun = self.call(Patience::Spin { longest_ms }).await?;
        spun.ok_or(LockError::Timeout)
    }

    /// Waits for the lock for at most `timeout`, or for as long as it takes, and watches the present
    /// lease closely enough to take over from a dead holder within that lease and a beat. Dropping
    /// the future stops waiting. With a timeout of zero it asks once.
    ///
    /// # Errors
    ///
    /// [`LockError::Timeout`] when the time was up, [`LockError::Store`] if the store failed.
    #[cfg_attr(
        not(target_arch = "wasm32"),
        expect(clippy::useless_conversion, reason = "it is one in a browser")
    )]
    pub async fn acquire(
        &self,
        timeout: Option<time::Duration>,
    ) -> Result<CrossProcessStoreLockGuard, LockError<S::Error>> {
        let acquired = self.call(self.patience(timeout.map(Into::into))).await?;
        acquired.ok_or(LockError::Timeout)
    }

    fn patience(&self, timeout: Option<Duration>) -> Patience {
        match timeout {
            Some(Duration::ZERO) => Patience::Try,
            None => Patience::Until(None),
            Some(timeout) => {
                Patience::Until(Some(self.0.driver.clock.now().saturating_add(timeout)))
            }
        }
    }

    fn call(&self, patience: Patience) -> Acquiring<S> {
        Acquiring::new(&self.0.driver, self.0.object, patience)
    }
}

#[cfg(all(target_arch = "wasm32", feature = "npm"))]
impl<S: BackingStore> CrossProcessStoreLock<S> {
    /// Does what [`CrossProcessStoreLock::acquire`] does, and calls `tell` with the outcome. Answers with the
    /// call, for [`Self::hang_up`].
    pub(crate) fn call_back(
        &self,
        timeout: Option<Duration>,
        tell: impl FnOnce(Settled<S::Error>) + 'static,
    ) -> CallId {
        let patience = self.patience(timeout);
        self.0.driver.call(self.0.object, patience, tell)
    }

    /// Ends a call. Its callback is not called any more.
    pub(crate) fn hang_up(&self, call: CallId) {
        self.0.driver.hang_up(self.0.object, call);
    }
}

/// The driver of all locks of a tab that have one store.
pub(crate) fn driver<S: BackingStore>(
    store: Arc<S>,
    holder: &str,
    around: Surroundings,
) -> Arc<Driver<S>> {
    Driver::new(store, tab_id(holder), around)
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
    let mut pasts = PASTS.get_or_init(Pasts::default).lock();
    let name = (key.to_owned(), holder.to_owned());
    Arc::clone(pasts.entry(name).or_default())
}
