//! Fenced transactions: writes of the application's that a stale holder cannot make.
//!
//! Where leases and data are kept in one store that has transactions, one transaction reads the record,
//! lets [`rules::fence`](crate::rules::fence) decide, and writes the data, or is aborted. A store offers
//! that by means of a [`Fencing`]; that of IndexedDB is in `store/indexed_db/fence.rs`.

use std::any::Any;
use std::sync::{Arc, Weak};

use crate::error::{LeaseLost, LossReason};
use crate::guard::{CrossProcessStoreLockGuard, Phase, Tenure};
use crate::platform::{MaybeSend, MaybeSync};
use crate::rules::{self, Fence, Fenced, Record};

/// What a fenced transaction needs of the lock, whatever its store.
pub(crate) trait Fences: MaybeSend + MaybeSync {
    /// A fenced transaction begins. Nothing, if the lease has ended; then the guards have been told.
    fn begin_fence(&self, tenure: &Arc<Tenure>) -> Option<Fence>;
    /// Its check has passed.
    fn fence_passed(&self, lease: &Fence);
    /// It has not: the guards are told.
    fn fence_refused(&self, lease: &Fence);
    /// It was committed or aborted.
    fn fence_over(&self, lease: &Fence, passed: bool);
    /// Tells of a lease that has run out, if there is one.
    fn look(&self);
    fn key(&self) -> &str;
    fn store(&self) -> &dyn Any;
}

/// A fenced transaction under way, for those who implement a store. The transaction must hold up every
/// other one that may write the record of the lease's [key](Self::key). Drop this when it was committed
/// or aborted, and not before: until then the lease is not handed over past it.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use tab_lease::{CrossProcessStoreLock, MemoryStore};
///
/// let store = MemoryStore::new();
/// let lock = CrossProcessStoreLock::new(store.clone(), "inbox", "me");
/// let guard = lock.spin_lock(None).await.unwrap();
///
/// // In one transaction of the store's …
/// let mut fencing = guard.begin_fence().unwrap();
/// let checked = fencing.check(store.record(fencing.key()).as_ref());
/// // … write the data here, and the record if there is one, or abort.
/// assert_eq!(checked, Ok(None));
/// # guard.release().await;
/// # }
/// ```
#[must_use = "it stands for a transaction: drop it when that is over"]
pub struct Fencing {
    lock: Option<Arc<dyn Fences>>,
    lease: Fence,
    passed: bool,
}

impl std::fmt::Debug for Fencing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fencing")
            .field("lease", &self.lease)
            .field("passed", &self.passed)
            .finish_non_exhaustive()
    }
}

impl Fencing {
    /// The key of the record to check.
    #[must_use]
    pub fn key(&self) -> &str {
        self.lock.as_ref().map_or("", |lock| lock.key())
    }

    /// The lease that it is fenced with.
    #[must_use]
    pub fn lease(&self) -> &Fence {
        &self.lease
    }

    /// The store that the lease is in, if it is of that kind.
    #[must_use]
    pub fn store<S: 'static>(&self) -> Option<&S> {
        self.lock.as_ref()?.store().downcast_ref()
    }

    /// Checks the record, as this transaction reads it. Answers with a record to write in the same
    /// transaction, if there is one and the transaction can write: that the lease has begun.
    ///
    /// # Errors
    ///
    /// [`LeaseLost`]: the transaction must be aborted. All guards of the lease have been told.
    pub fn check(&mut self, record: Option<&Record>) -> Result<Option<Record>, LeaseLost> {
        let write = match rules::fence(record, &self.lease) {
            Fenced::Current => None,
            Fenced::Claimed(record) => Some(record),
            Fenced::Refused => {
                if let Some(lock) = &self.lock {
                    lock.fence_refused(&self.lease);
                }
                return Err(LeaseLost {
                    token: self.lease.token,
                    reason: LossReason::Superseded,
                });
            }
        };
        if let (Some(lock), false) = (&self.lock, self.passed) {
            self.passed = true;
            lock.fence_passed(&self.lease);
        }
        Ok(write)
    }
}

impl Drop for Fencing {
    fn drop(&mut self) {
        if let Some(lock) = &self.lock {
            lock.fence_over(&self.lease, self.passed);
        }
    }
}

impl CrossProcessStoreLockGuard {
    /// Begins a fenced transaction, on a store that offers nothing more convenient.
    ///
    /// # Errors
    ///
    /// [`LeaseLost`], if it is known here that the lease is lost. Nothing must be written then.
    pub fn begin_fence(&self) -> Result<Fencing, LeaseLost> {
        let lock = Weak::upgrade(&self.tenure().lock);
        match lock
            .as_ref()
            .and_then(|lock| lock.begin_fence(self.tenure()))
        {
            Some(lease) => Ok(Fencing {
                lock,
                lease,
                passed: false,
            }),
            None => Err(LeaseLost {
                token: self.token(),
                reason: match self.tenure().phase() {
                    Phase::Lost(reason) => reason,
                    _ => LossReason::Expired,
                },
            }),
        }
    }
}
