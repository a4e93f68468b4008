//! Fenced transactions: writes of the application's that a stale holder cannot make.
//!
//! Where leases and data are kept in one store that has transactions, one transaction reads the record,
//! lets [`rules::fence`](crate::rules::fence) decide, and writes the data, or is aborted. A store offers
//! that by means of a [`Fencing`]; that of IndexedDB is in `store/indexed_db/fence.rs`.

use std::sync::{Arc, Weak};

use crate::contender::Event;
use crate::error::{LeaseLost, LossReason};
use crate::guard::{CrossProcessStoreLockGuard, Lease, Port};
use crate::rules::{self, Fence, Fenced, Record};

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
    port: Arc<dyn Port>,
    lease: Arc<Lease>,
    fence: Fence,
    passed: bool,
}

impl std::fmt::Debug for Fencing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fencing")
            .field("lease", &self.fence)
            .field("passed", &self.passed)
            .finish_non_exhaustive()
    }
}

impl Fencing {
    /// The key of the record to check.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.lease.key
    }

    /// The lease that it is fenced with.
    #[must_use]
    pub fn lease(&self) -> &Fence {
        &self.fence
    }

    /// The store that the lease is in, if it is of that kind.
    #[must_use]
    pub fn store<S: 'static>(&self) -> Option<&S> {
        self.port.store().downcast_ref()
    }

    /// Checks the record, as this transaction reads it. Answers with a record to write in the same
    /// transaction, if there is one and the transaction can write: that the lease has begun.
    ///
    /// # Errors
    ///
    /// [`LeaseLost`]: the transaction must be aborted. All guards of the lease have been told.
    pub fn check(&mut self, record: Option<&Record>) -> Result<Option<Record>, LeaseLost> {
        let write = match rules::fence(record, &self.fence) {
            Fenced::Current => None,
            Fenced::Claimed(record) => Some(record),
            Fenced::Refused => {
                self.feed(Event::FenceRefused(self.fence.clone()));
                return Err(LeaseLost {
                    token: self.fence.token,
                    reason: LossReason::Superseded,
                });
            }
        };
        if !std::mem::replace(&mut self.passed, true) {
            self.feed(Event::FencePassed(self.fence.clone()));
        }
        Ok(write)
    }

    fn feed(&self, event: Event) {
        self.port.feed(self.lease.object, event);
    }
}

impl Drop for Fencing {
    fn drop(&mut self) {
        let (lease, passed) = (self.fence.clone(), self.passed);
        self.feed(Event::FenceOver { lease, passed });
    }
}

impl CrossProcessStoreLockGuard {
    /// Begins a fenced transaction, on a store that offers nothing more convenient.
    ///
    /// # Errors
    ///
    /// [`LeaseLost`], if it is known here that the lease is lost. Nothing must be written then.
    pub fn begin_fence(&self) -> Result<Fencing, LeaseLost> {
        let lease = self.lease();
        let begun = Weak::upgrade(&lease.port).and_then(|port| {
            let fence = port.fence(lease.object, lease.id)?;
            Some((port, fence))
        });
        match begun {
            Some((port, fence)) => Ok(Fencing {
                port,
                lease: Arc::clone(lease),
                fence,
                passed: false,
            }),
            None => Err(LeaseLost {
                token: self.token(),
                reason: self.loss().unwrap_or(LossReason::Expired),
            }),
        }
    }
}
