//! What can go wrong with a lock: failures, told apart from outcomes.
//!
//! "Somebody else holds it" is an outcome (`None`, or waiting). A failure is a wait that ended
//! ([`LockError::Timeout`]), a store that broke ([`LockError::Store`]), or a lease that was lost
//! while it was held ([`LeaseLost`]).

/// Why a lock was not acquired.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LockError<E> {
    /// Another holder kept the lock for as long as the caller was ready to wait. Nothing is held;
    /// try again, or wait longer.
    #[error("timed out: another holder kept the lock")]
    Timeout,
    /// The backing store failed. Nothing is held; if the store had already granted the lease, that
    /// expires by itself.
    #[error("the backing store failed")]
    Store(#[source] E),
}

/// A lease that ended under its holder. What it protected must not be written any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease with token {token} was lost: {reason}")]
#[non_exhaustive]
pub struct LeaseLost {
    /// The fencing token of the lost lease.
    pub token: u64,
    /// What happened.
    pub reason: LossReason,
}

/// How a lease came to be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum LossReason {
    /// It ran out before a renewal was confirmed: the holder was suspended or too busy.
    #[error("it ran out before it was renewed")]
    Expired,
    /// It ran out before a renewal was confirmed, and the store had failed meanwhile.
    #[error("it ran out while the backing store failed or did not answer")]
    StoreFailed,
    /// The store refused the renewal: another holder has taken over, or the record was deleted.
    #[error("another holder has taken over, or the record was deleted")]
    Superseded,
    /// It was given up because this page was about to be frozen, cached or ended. See
    /// [`Lifecycle`](crate::Lifecycle).
    #[error("the page was suspended")]
    Suspended,
    /// The store was closed under it: deleted, or upgraded by another version of the application.
    #[error("the backing store was closed: deleted or upgraded by somebody else")]
    StoreClosed,
}

/// A setting that cannot work. See [`Config::check`](crate::Config::check).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad configuration: {0}")]
pub struct ConfigError(pub(crate) &'static str);
