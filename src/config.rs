//! The settings of a lock, and their defaults.

use crate::error::ConfigError;
use crate::rules::MAX_LEASE_MS;

/// How long a lease is good without a renewal, in ms. Short, so that the lock of a crashed holder
/// is free again soon.
pub const LEASE_DURATION_MS: u32 = 500;

/// How often a holder renews, in ms. A tenth of the lease, so that a missed beat costs nothing. A lease that
/// has become longer is renewed three times within its length.
pub const EXTEND_LEASE_EVERY_MS: u32 = 50;

/// How long a lease may become while nobody waits for it, in ms, if its holder has a beacon that tells
/// of its death (see [`Liveness`](crate::Liveness)): about as long as nobody has waited. The first waiter
/// that comes brings [`LEASE_DURATION_MS`] back. Only a holder that hangs when nobody waits keeps the lock
/// for as long as this, or one that ends when nobody lives who has seen its beacon.
pub const IDLE_LEASE_MS: u32 = 20_000;

/// How many times [`LEASE_DURATION_MS`] a lease may become while somebody waits for it, if its holder has a
/// beacon: once the same request has been next for so long. Only a holder that hangs then keeps the lock for
/// as long as this. At most [`IDLE_LEASE_MS`].
pub const STEADY_LEASES: u32 = 4;

/// How long a lease is while the holder's page is hidden, in ms (see
/// [`Lifecycle`](crate::Lifecycle)), since timers of hidden pages are up to a second late, and more on a
/// busy machine. Renewed three times within that time.
pub const HIDDEN_LEASE_MS: u32 = 10_000;

/// How many requests of one tab stand in the queue of one name at most: calls that share no lease, and are
/// not answered at once. Further ones wait in the tab, and move up in the order in which they came. Enough
/// for the tab to have its next request in the queue while one holds; few, since every command carries the
/// whole queue.
pub const PLACES: usize = 8;

/// How long a waiter pauses before it asks for the second time, in ms. Doubles from there.
pub const INITIAL_BACKOFF_MS: u32 = 10;

/// The longest pause of a waiter, in ms.
pub const MAX_BACKOFF_MS: u32 = 1000;

/// The settings of a [`CrossProcessStoreLock`](crate::CrossProcessStoreLock). All who contend for
/// a key may have settings of their own: a record carries its lease length.
///
/// # Example
///
/// ```
/// let patient = tab_lease::Config { lease_ms: 5000, heartbeat_ms: 500, ..Default::default() };
/// assert!(patient.check().is_ok());
/// assert!(tab_lease::Config { heartbeat_ms: 500, ..Default::default() }.check().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// See [`LEASE_DURATION_MS`].
    pub lease_ms: u32,
    /// See [`EXTEND_LEASE_EVERY_MS`]. Must be shorter than the lease.
    pub heartbeat_ms: u32,
    /// See [`IDLE_LEASE_MS`]. The same as `lease_ms` for none of it.
    pub idle_lease_ms: u32,
    /// See [`HIDDEN_LEASE_MS`]. At least `lease_ms`.
    pub hidden_lease_ms: u32,
    /// See [`INITIAL_BACKOFF_MS`].
    pub initial_backoff_ms: u32,
    /// See [`MAX_BACKOFF_MS`].
    pub max_backoff_ms: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lease_ms: LEASE_DURATION_MS,
            heartbeat_ms: EXTEND_LEASE_EVERY_MS,
            idle_lease_ms: IDLE_LEASE_MS,
            hidden_lease_ms: HIDDEN_LEASE_MS,
            initial_backoff_ms: INITIAL_BACKOFF_MS,
            max_backoff_ms: MAX_BACKOFF_MS,
        }
    }
}

impl Config {
    /// Checks that these settings can work.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the setting at fault.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.lease_ms == 0 || self.lease_ms > MAX_LEASE_MS {
            Err(ConfigError("lease_ms must be from 1 to 600000"))
        } else if self.heartbeat_ms == 0 || self.heartbeat_ms >= self.lease_ms {
            Err(ConfigError(
                "heartbeat_ms must be at least 1 and shorter than lease_ms",
            ))
        } else if self.idle_lease_ms < self.lease_ms || self.idle_lease_ms > MAX_LEASE_MS {
            Err(ConfigError(
                "idle_lease_ms must be at least lease_ms and at most 600000",
            ))
        } else if self.hidden_lease_ms < self.lease_ms || self.hidden_lease_ms > MAX_LEASE_MS {
            Err(ConfigError(
                "hidden_lease_ms must be at least lease_ms and at most 600000",
            ))
        } else if self.initial_backoff_ms == 0 {
            Err(ConfigError("initial_backoff_ms must be at least 1"))
        } else {
            Ok(())
        }
    }
}
