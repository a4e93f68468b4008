//! A held lock: dropping the last guard releases it, [`lost`](CrossProcessStoreLockGuard::lost)
//! resolves when it is gone.

use std::any::Any;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use crate::contender::{Event, LeaseId};
use crate::error::{LeaseLost, LossReason};
use crate::mutex::{Mutex, MutexGuard};
use crate::platform::{Clock, MaybeSend, MaybeSync};
use crate::rules::Fence;
use crate::time::Duration;

/// Which lock object of its driver's.
pub(crate) type ObjectId = u64;

/// What a guard needs of its lock, whatever the store. It is declared here and implemented above.
pub(crate) trait Port: MaybeSend + MaybeSync {
    /// Something has happened.
    fn feed(&self, object: ObjectId, event: Event);
    /// A fenced transaction begins. Nothing, if the lease has ended; then the guards have been told.
    fn fence(&self, object: ObjectId, lease: LeaseId) -> Option<Fence>;
    fn store(&self) -> &dyn Any;
}

/// How a lease stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Held,
    /// Without a guard, but still ours, so that taking it again costs nothing.
    Lingers,
    /// Given up; the store has been told, as far as it could be.
    Released,
    Lost(LossReason),
}

/// How often a lease of this process came to an end, or its end came nearer.
static CUTS: AtomicUsize = AtomicUsize::new(0);

/// A number that changes whenever a lease of this process is lost, or is good for a shorter time than
/// was known before. A caller that remembers when the first lease expires must look again then.
#[cfg_attr(
    not(feature = "npm"),
    allow(dead_code, reason = "only the npm surface remembers")
)]
pub(crate) fn cuts() -> usize {
    CUTS.load(Ordering::Relaxed)
}

/// One stretch of holding, as its guards see it.
pub(crate) struct Lease {
    pub(crate) id: LeaseId,
    pub(crate) token: u64,
    epoch: u64,
    pub(crate) object: ObjectId,
    pub(crate) key: Arc<str>,
    pub(crate) clock: Clock,
    pub(crate) port: Weak<dyn Port>,
    /// Microseconds on `clock` until which the lease is good, margin taken off. Written in one place,
    /// where the driver publishes what its contender says.
    good_until: AtomicU64,
    guards: AtomicUsize,
    stand: Mutex<Stand>,
}

struct Stand {
    standing: Standing,
    /// Who is told when that changes, each by its number.
    waiters: Vec<(u64, Waiter)>,
    next_waiter: u64,
}

/// Answers whether it has heard what it waits for.
#[cfg(all(target_arch = "wasm32", feature = "npm"))]
type Hears = dyn FnMut(&Lease, Standing) -> bool;

enum Waiter {
    Wakes(Waker),
    #[cfg(all(target_arch = "wasm32", feature = "npm"))]
    Hears(Box<Hears>),
}

impl Waiter {
    /// Answers whether it need not be told again.
    #[cfg_attr(
        not(feature = "npm"),
        allow(unused_variables, reason = "only the npm surface listens")
    )]
    fn tell(&mut self, lease: &Lease, standing: Standing) -> bool {
        match self {
            Self::Wakes(waker) => {
                waker.wake_by_ref();
                true
            }
            #[cfg(all(target_arch = "wasm32", feature = "npm"))]
            Self::Hears(hear) => hear(lease, standing),
        }
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease")
            .field("token", &self.token)
            .field("standing", &self.standing())
            .finish_non_exhaustive()
    }
}

impl Lease {
    pub(crate) fn new(
        (object, id): (ObjectId, LeaseId),
        (epoch, token): (u64, u64),
        key: Arc<str>,
        clock: Clock,
        port: Weak<dyn Port>,
    ) -> Self {
        Self {
            id,
            token,
            epoch,
            object,
            key,
            clock,
            port,
            good_until: AtomicU64::new(0),
            guards: AtomicUsize::new(0),
            stand: Mutex::new(Stand {
                standing: Standing::Held,
                waiters: Vec::new(),
                next_waiter: 0,
            }),
        }
    }

    /// Until when guards may believe; nothing, if they may not any more.
    pub(crate) fn publish(&self, good_until: Option<Duration>) {
        let us = good_until.unwrap_or_default().as_micros();
        let us = u64::try_from(us).unwrap_or(u64::MAX);
        if us < self.good_until.swap(us, Ordering::AcqRel) && self.is_used() {
            CUTS.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn good_until(&self) -> Duration {
        Duration::from_micros(self.good_until.load(Ordering::Acquire))
    }

    pub(crate) fn is_used(&self) -> bool {
        self.guards.load(Ordering::Acquire) > 0
    }

    fn stand(&self) -> MutexGuard<'_, Stand> {
        self.stand.lock()
    }

    pub(crate) fn standing(&self) -> Standing {
        self.stand().standing
    }

    /// Stands like that from now on. All waiters are told.
    pub(crate) fn enter(&self, standing: Standing) {
        let waiters = {
            let mut stand = self.stand();
            stand.standing = standing;
            std::mem::take(&mut stand.waiters)
        };
        // Out of the mutex: a waker may run anything.
        for (number, mut waiter) in waiters {
            if !waiter.tell(self, standing) {
                self.stand().waiters.push((number, waiter));
            }
        }
    }

    fn unregister(&self, number: u64) {
        let waiter = {
            let waiters = &mut self.stand().waiters;
            let place = waiters.iter().position(|(of, _)| *of == number);
            place.map(|place| waiters.swap_remove(place))
        };
        drop(waiter);
    }

    /// A new guard. Only for a call that the contender has counted.
    pub(crate) fn guard(self: &Arc<Self>, dirty: bool) -> CrossProcessStoreLockGuard {
        if self.guards.fetch_add(1, Ordering::AcqRel) == 0 {
            // The release of an earlier guard resolves: the lock is used again.
            self.enter(Standing::Held);
        }
        let lease = Arc::clone(self);
        CrossProcessStoreLockGuard { lease, dirty }
    }

    fn feed(&self, event: Event) {
        if let Some(port) = self.port.upgrade() {
            port.feed(self.object, event);
        }
    }
}

#[cfg(all(target_arch = "wasm32", feature = "npm"))]
impl Lease {
    /// Calls `hear` now, and at every change until it answers that it has heard what it waits for. The
    /// number is for [`Lease::forget`].
    pub(crate) fn listen(&self, mut hear: impl FnMut(&Lease, Standing) -> bool + 'static) -> u64 {
        let heard = hear(self, self.standing());
        let mut stand = self.stand();
        stand.next_waiter += 1;
        let number = stand.next_waiter;
        if !heard {
            stand.waiters.push((number, Waiter::Hears(Box::new(hear))));
        }
        number
    }

    pub(crate) fn forget(&self, number: u64) {
        self.unregister(number);
    }
}

/// Waits for a change of how a lease stands.
struct Changes<T> {
    lease: Arc<Lease>,
    look: fn(&Lease, Standing) -> Poll<T>,
    number: Option<u64>,
}

impl<T> Changes<T> {
    fn new(lease: &Arc<Lease>, look: fn(&Lease, Standing) -> Poll<T>) -> Self {
        let lease = Arc::clone(lease);
        Self {
            lease,
            look,
            number: None,
        }
    }
}

impl<T> Future for Changes<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let this = &mut *self;
        if let Some(number) = this.number.take() {
            this.lease.unregister(number);
        }
        // Registered before the look, so that no change is missed.
        let mut stand = this.lease.stand();
        stand.next_waiter += 1;
        let number = stand.next_waiter;
        let waker = Waiter::Wakes(context.waker().clone());
        stand.waiters.push((number, waker));
        let standing = stand.standing;
        drop(stand);
        this.number = Some(number);
        (this.look)(&this.lease, standing)
    }
}

impl<T> Drop for Changes<T> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.lease.unregister(number);
        }
    }
}

/// Whether a release is over: the lock has left this process, or lingers, or is used again.
pub(crate) fn is_free(lease: &Lease, standing: Standing) -> bool {
    standing != Standing::Held || lease.is_used()
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
    lease: Arc<Lease>,
    dirty: bool,
}

impl CrossProcessStoreLockGuard {
    pub(crate) fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    /// The fencing token: a number below 2⁵³ that grows at every change of hands. Store it beside
    /// what you write, and refuse writes with a lower one.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.lease.token
    }

    /// Which series of tokens [`token`](Self::token) is of: a random number below 2⁵³ that the lock's record
    /// is given when it is created. A new record, after a store was deleted, has another epoch. Tokens are
    /// ordered only within one epoch. Compare tokens of one epoch only.
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
        self.lease.epoch
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
        self.lease.clock.now() < self.lease.good_until()
    }

    /// For how much longer the lease is good, by this process's clock; zero, if it is lost or has expired.
    #[cfg_attr(
        not(feature = "npm"),
        allow(dead_code, reason = "only the npm surface asks")
    )]
    pub(crate) fn left(&self) -> Duration {
        self.lease
            .good_until()
            .saturating_sub(self.lease.clock.now())
    }

    /// Why the lease is lost, if it is. A lease that has expired unseen is reported to all its guards now.
    pub(crate) fn loss(&self) -> Option<LossReason> {
        if self.is_held() {
            return None;
        }
        self.lease.feed(Event::Look);
        Some(match self.lease.standing() {
            Standing::Lost(reason) => reason,
            // In the middle of being told.
            _ => LossReason::Expired,
        })
    }

    /// Another guard of the same lease, at once, even if others wait for the lock. For code that runs under
    /// the lock and calls code that takes the lock again. The lock is released when both guards are dropped.
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
        // This guard lives: there is one already, so the lease cannot be about to be released.
        self.lease.feed(Event::Shared(self.lease.id));
        Ok(self.lease.guard(self.dirty))
    }

    /// Resolves when the lease is lost; never, if it is released before. What the lock protects must
    /// not be written from then on. The future may outlive the guard, and does not keep the lock.
    pub fn lost(&self) -> impl Future<Output = LeaseLost> + use<> {
        Changes::new(&self.lease, |lease, standing| match standing {
            Standing::Lost(reason) => {
                let token = lease.token;
                Poll::Ready(LeaseLost { token, reason })
            }
            _ => Poll::Pending,
        })
    }

    /// Drops the guard. If it was the last, resolves when the next holder can have the lock. That is when
    /// the lock was handed to a waiter, or the store was told, or the lock lingers here until the first
    /// message. Never fails: a lease that the store could not be told about expires, and the wait ends then.
    pub fn release(self) -> impl Future<Output = ()> + use<> {
        let released = Changes::new(&self.lease, |lease, standing| {
            match is_free(lease, standing) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        // Now, not when the future is first polled.
        drop(self);
        released
    }
}

impl Drop for CrossProcessStoreLockGuard {
    fn drop(&mut self) {
        self.lease.guards.fetch_sub(1, Ordering::AcqRel);
        self.lease.feed(Event::GuardDropped(self.lease.id));
    }
}
