//! A held lock: dropping the last guard releases it, [`lost`](CrossProcessStoreLockGuard::lost)
//! resolves when it is gone.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::error::{LeaseLost, LossReason};
use crate::fence::Fences;
use crate::participant::Holding;
use crate::platform::{Clock, sleep_until};
use crate::sync::{Notify, select};

/// How a tenure stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Held,
    /// Without a guard, but still ours, so that taking it again costs nothing. Whoever waits gets it at
    /// once.
    Lingering,
    /// Given up; the store has been told, as far as it could be.
    Released,
    Lost(LossReason),
}

/// How often a lease of this process came to an end, or its end came nearer.
static CUTS: AtomicUsize = AtomicUsize::new(0);

/// A number that changes whenever a lease of this process is lost, or is good for a shorter time than
/// was known before. Whoever remembers when the first lease runs out looks again then.
#[cfg_attr(
    not(feature = "npm"),
    allow(dead_code, reason = "only the npm surface remembers")
)]
pub(crate) fn cuts() -> usize {
    CUTS.load(Ordering::Relaxed)
}

/// One stretch of holding, shared by the guards of this process and the heartbeat.
///
/// The number of guards grows only under the lock's state mutex, where the heartbeat also decides
/// to release; so a lease that is being released is never shared again.
pub(crate) struct Tenure {
    pub(crate) token: u64,
    epoch: u64,
    /// For fenced transactions.
    pub(crate) lock: Weak<dyn Fences>,
    /// What the guards say: the first ones what the lease began with. Once the lock was let go and is
    /// taken again, while it lingers, nobody else can have had it.
    dirty: AtomicBool,
    /// A caller was given a guard.
    told: AtomicBool,
    clock: Clock,
    guards: AtomicUsize,
    /// Microseconds on `clock` until which the lease is good, margin taken off.
    good_until: AtomicU64,
    phase: Mutex<Phase>,
    /// Tells of a new phase …
    changed: Notify,
    /// … and of one that is the last.
    ended: Notify,
    /// The last guard was dropped, or somebody wants the lock: the heartbeat looks now, not at its next
    /// beat.
    pub(crate) stirred: Notify,
    /// Who waits is not known any more: the next beat is due now.
    outdated: AtomicBool,
    /// The heartbeat waits for the answer to a renewal.
    pub(crate) renewing: AtomicBool,
}

impl std::fmt::Debug for Tenure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tenure")
            .field("token", &self.token)
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}

impl Tenure {
    pub(crate) fn new(
        holding: Holding,
        good_until: Duration,
        clock: Clock,
        lock: Weak<dyn Fences>,
    ) -> Arc<Self> {
        let tenure = Self {
            token: holding.token,
            epoch: holding.epoch,
            lock,
            dirty: AtomicBool::new(holding.dirty),
            told: AtomicBool::new(false),
            clock,
            guards: AtomicUsize::new(0),
            good_until: AtomicU64::new(0),
            phase: Mutex::new(Phase::Held),
            changed: Notify::new(),
            ended: Notify::new(),
            stirred: Notify::new(),
            outdated: AtomicBool::new(false),
            renewing: AtomicBool::new(false),
        };
        tenure.extend(good_until);
        #[allow(
            clippy::arc_with_non_send_sync,
            reason = "it is both, where there are threads"
        )]
        Arc::new(tenure)
    }

    pub(crate) fn extend(&self, good_until: Duration) {
        let us = u64::try_from(good_until.as_micros()).unwrap_or(u64::MAX);
        if us < self.good_until.swap(us, Ordering::AcqRel) {
            CUTS.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn good_until(&self) -> Duration {
        Duration::from_micros(self.good_until.load(Ordering::Acquire))
    }

    pub(crate) fn enter(&self, phase: Phase) {
        *self.lock() = phase;
        if matches!(phase, Phase::Lost(_)) {
            CUTS.fetch_add(1, Ordering::Relaxed);
        }
        self.changed.notify_waiters();
        if matches!(phase, Phase::Released | Phase::Lost(_)) {
            self.ended.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.lock()
    }

    pub(crate) fn is_used(&self) -> bool {
        self.guards.load(Ordering::Acquire) > 0
    }

    /// One guard more. Only under the lock's state mutex.
    pub(crate) fn guard(self: &Arc<Self>) -> CrossProcessStoreLockGuard {
        if self.guards.fetch_add(1, Ordering::AcqRel) == 0 {
            // Whoever waits for the release of an earlier guard need not wait any longer.
            self.enter(Phase::Held);
            if self.told.load(Ordering::Acquire) {
                self.dirty.store(false, Ordering::Release);
            }
        }
        CrossProcessStoreLockGuard {
            dirty: self.dirty.load(Ordering::Acquire),
            tenure: Arc::clone(self),
        }
    }

    /// The heartbeat is to find out who waits.
    pub(crate) fn look_again(&self) {
        self.outdated.store(true, Ordering::Release);
        self.stirred.notify_one();
    }

    /// Whether it is to, since it last asked.
    pub(crate) fn is_outdated(&self) -> bool {
        self.outdated.swap(false, Ordering::AcqRel)
    }

    /// A guard goes to a caller.
    pub(crate) fn tell(&self) {
        self.told.store(true, Ordering::Release);
    }
}

/// A held lock. It stays held, renewed by a heartbeat, for as long as one guard of this process
/// lives, or until it is [lost](Self::lost).
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// # use tab_lease::{CrossProcessStoreLock, MemoryStore};
/// # let lock = CrossProcessStoreLock::new(MemoryStore::new(), "inbox", "me");
/// let guard = lock.spin_lock(None).await.unwrap();
/// tokio::select! {
///     lost = guard.lost() => panic!("stop writing: {lost}"),
///     () = async { /* work on what the lock protects */ } => guard.release().await,
/// }
/// # }
/// ```
#[derive(Debug)]
#[must_use = "the lock is released when the guard is dropped"]
pub struct CrossProcessStoreLockGuard {
    tenure: Arc<Tenure>,
    dirty: bool,
}

impl CrossProcessStoreLockGuard {
    pub(crate) fn tenure(&self) -> &Arc<Tenure> {
        &self.tenure
    }

    /// The fencing token: a number below 2⁵³ that grows at every change of hands. Store it beside
    /// what you write, and refuse writes with a lower one.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.tenure.token
    }

    /// Which series of tokens [`token`](Self::token) is of: a random number below 2⁵³ that the lock's record
    /// is given when it is created. A new record, after a store was deleted, has another epoch. Tokens are
    /// ordered only within one epoch: whoever compares tokens compares those of one epoch.
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use tab_lease::{CrossProcessStoreLock, MemoryStore};
    ///
    /// let lock = CrossProcessStoreLock::new(MemoryStore::new(), "inbox", "me");
    /// let elsewhere = CrossProcessStoreLock::new(MemoryStore::new(), "inbox", "me");
    /// let (one, two) = (lock.spin_lock(None).await.unwrap(), lock.spin_lock(None).await.unwrap());
    /// assert_eq!(one.epoch(), two.epoch());
    /// assert_ne!(one.epoch(), elsewhere.spin_lock(None).await.unwrap().epoch());
    /// # }
    /// ```
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.tenure.epoch
    }

    /// Whether another holder had the lock since this process last did: then whatever is cached of
    /// the protected data is out of date. Guards that share the lock say the same.
    #[must_use]
    pub fn dirty(&self) -> bool {
        self.dirty
    }

    /// Whether the lease is still good, by this process's monotonic clock. Once `false`, it stays so.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.tenure.phase() == Phase::Held && self.tenure.clock.now() < self.tenure.good_until()
    }

    /// For how much longer the lease is good, by this process's clock; zero, if it is over.
    #[cfg_attr(
        not(feature = "npm"),
        allow(dead_code, reason = "only the npm surface asks")
    )]
    pub(crate) fn left(&self) -> Duration {
        match self.tenure.phase() {
            Phase::Held => self.tenure.good_until(),
            _ => Duration::ZERO,
        }
        .saturating_sub(self.tenure.clock.now())
    }

    /// Why the lease is not good any more, if so. One that has run out unseen is reported to everybody now.
    pub(crate) fn loss(&self) -> Option<LossReason> {
        if self.is_held() {
            return None;
        }
        if let Some(lock) = self.tenure.lock.upgrade() {
            lock.look();
        }
        Some(match self.tenure.phase() {
            Phase::Lost(reason) => reason,
            _ => LossReason::Expired,
        })
    }

    /// Another guard of the same lease, at once: whoever waits for the lock is not asked. For code that runs
    /// under the lock and calls code that takes it. The lock is released when both guards are dropped.
    ///
    /// # Errors
    ///
    /// [`LeaseLost`], if the lease is known to be lost, or has run out by the clock.
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use tab_lease::{CrossProcessStoreLock, MemoryStore};
    ///
    /// let lock = CrossProcessStoreLock::new(MemoryStore::new(), "inbox", "me");
    /// let outer = lock.spin_lock(None).await.unwrap();
    /// let inner = outer.share().unwrap();
    /// assert_eq!(outer.token(), inner.token());
    /// outer.release().await;
    /// assert!(inner.is_held());
    /// # }
    /// ```
    pub fn share(&self) -> Result<Self, LeaseLost> {
        if let Some(reason) = self.loss() {
            let token = self.token();
            return Err(LeaseLost { token, reason });
        }
        // This guard lives: there is one already, so the heartbeat cannot be about to release.
        self.tenure.guards.fetch_add(1, Ordering::AcqRel);
        Ok(Self {
            tenure: Arc::clone(&self.tenure),
            dirty: self.dirty,
        })
    }

    /// Resolves when the lease is lost; never, if it is released before. What the lock protects must
    /// not be written from then on. The future may outlive the guard, and does not keep the lock.
    pub fn lost(&self) -> impl Future<Output = LeaseLost> + use<> {
        let tenure = Arc::clone(&self.tenure);
        async move {
            loop {
                let ended = tenure.ended.notified();
                let token = tenure.token;
                match tenure.phase() {
                    Phase::Lost(reason) => return LeaseLost { token, reason },
                    Phase::Released => break,
                    Phase::Held | Phase::Lingering => ended.await,
                }
            }
            drop(tenure);
            std::future::pending().await
        }
    }

    /// Drops the guard. If it was the last, resolves when whoever asks next gets the lock: it was handed
    /// to whoever waited, or the store was told, or it lingers here until the next beat and the first
    /// message ends that. Never fails: a lease that the store could not be told about lapses by itself,
    /// and nobody waits for longer than that.
    pub fn release(self) -> impl Future<Output = ()> + use<> {
        let tenure = Arc::clone(&self.tenure);
        // Now, not when the future is first polled.
        drop(self);
        async move { released(&tenure).await }
    }
}

/// Resolves when the lock has left this process, or could, or is used again.
async fn released(tenure: &Tenure) {
    let told = async {
        loop {
            let changed = tenure.changed.notified();
            if tenure.phase() != Phase::Held || tenure.is_used() {
                return;
            }
            changed.await;
        }
    };
    select! {
        () = told => {},
        () = sleep_until(tenure.clock, tenure.good_until()) => {},
    }
}

impl Drop for CrossProcessStoreLockGuard {
    fn drop(&mut self) {
        if self.tenure.guards.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.tenure.stirred.notify_one();
        }
    }
}
