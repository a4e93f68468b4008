//! What happens to the page that a lock lives in: it is hidden or shown, stopped or let go on.
//!
//! - **hidden**: timers are late (in browsers by up to a second). A holder asks for a longer lease at
//!   once, and for the usual one when it is shown again.
//! - **suspended**: about to be frozen, cached or ended. Whatever is held or asked for is over: the holder
//!   is told first, then the store and the others, by what needs no answer ([`BackingStore::leave`]). No
//!   message is heard and no command sent until it is resumed; callers that still wait ask anew then.
//!
//! In a browser the page's own events say so ([`Lifecycle::page`]). A worker has no such events: it is
//! not throttled when its page is hidden, and one that is stopped finds its lease run out. Natively
//! the program says so by [`Lifecycle`]'s methods ([`Lifecycle::new`]).
//!
//! [`BackingStore::leave`]: crate::BackingStore::leave

#[cfg(target_arch = "wasm32")]
mod page;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use crate::mutex::{Mutex, MutexGuard};
use crate::platform::{MaybeSend, MaybeSync};
use crate::sync::Waiters;

/// Is told what happens to the page.
pub(crate) trait Live: MaybeSend + MaybeSync {
    /// Its timers are late from now on, or not any more.
    fn hidden(&self, hidden: bool);
    /// It is about to be stopped, or goes on.
    fn suspended(&self, suspended: bool);
}

/// What happens to this page or process. Clones are the same. See the head of this file.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use tab_lease::{CrossProcessStoreLock, Lifecycle, MemoryStore};
///
/// let life = Lifecycle::new();
/// let lock = CrossProcessStoreLock::new(MemoryStore::new(), "inbox", "me").living(&life);
/// let guard = lock.acquire(None).await.unwrap();
///
/// life.suspend();
/// assert!(!guard.is_held());
/// life.resume();
/// assert!(lock.acquire(None).await.unwrap().is_held());
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Lifecycle(Arc<Life>);

#[derive(Default)]
struct Life {
    hidden: AtomicBool,
    suspended: AtomicBool,
    resumed: Waiters,
    /// In the order in which they came: a store and a channel before the locks that use them.
    watchers: Mutex<Vec<Weak<dyn Live>>>,
}

impl std::fmt::Debug for Life {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Life").finish_non_exhaustive()
    }
}

impl Lifecycle {
    /// A life that is told of by the methods below.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Timers are late from now on.
    pub fn hide(&self) {
        self.set_hidden(true);
    }

    /// Timers are in time again.
    pub fn show(&self) {
        self.set_hidden(false);
    }

    fn set_hidden(&self, hidden: bool) {
        if self.0.hidden.swap(hidden, Ordering::AcqRel) != hidden {
            for watcher in self.alive() {
                watcher.hidden(hidden);
            }
        }
    }

    /// Everything is about to stop, perhaps for good. Returns when all locks have let go.
    pub fn suspend(&self) {
        self.set_suspended(true);
    }

    /// Everything goes on.
    pub fn resume(&self) {
        self.set_suspended(false);
    }

    fn set_suspended(&self, suspended: bool) {
        if self.0.suspended.swap(suspended, Ordering::AcqRel) != suspended {
            let mut watchers = self.alive();
            if suspended {
                // The last word of a lock goes through its store and its channel.
                watchers.reverse();
            }
            for watcher in watchers {
                watcher.suspended(suspended);
            }
            self.0.resumed.wake();
        }
    }

    pub(crate) fn is_hidden(&self) -> bool {
        self.0.hidden.load(Ordering::Acquire)
    }

    pub(crate) fn is_suspended(&self) -> bool {
        self.0.suspended.load(Ordering::Acquire)
    }

    /// Resolves when everything may go on; at once, if it does.
    #[cfg(target_arch = "wasm32")]
    pub(crate) async fn running(&self) {
        let runs = || (!self.is_suspended()).then_some(());
        self.0.resumed.until(runs).await;
    }

    pub(crate) fn watch(&self, watcher: Weak<dyn Live>) {
        let mut watchers = self.watchers();
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.push(watcher);
    }

    fn watchers(&self) -> MutexGuard<'_, Vec<Weak<dyn Live>>> {
        self.0.watchers.lock()
    }

    fn alive(&self) -> Vec<Arc<dyn Live>> {
        self.watchers().iter().filter_map(Weak::upgrade).collect()
    }
}
