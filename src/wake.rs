//! "The lock is yours now": messages that wake a waiter before it asks by itself.
//!
//! A message is a hint. Whoever receives one asks the store, which alone decides; whoever misses
//! one asks when its pause is over. So a message may be lost, late, repeated or forged.
//!
//! A [`Wake`] connects the locks of one process with each other and with those of other processes:
//! in a browser through a `BroadcastChannel` ([`Wake::channel`]), natively only within the process.

#[cfg(target_arch = "wasm32")]
mod broadcast_channel;

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use tokio::sync::Notify;

use crate::platform::{MaybeSend, MaybeSync};
use crate::rules::Requester;

/// Carries a message to other processes.
pub(crate) trait Carrier: MaybeSend + MaybeSync {
    fn send(&self, key: &str, tab: &str);
}

/// Wakes waiters. Clones are the same. See the [module](self).
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use tab_lease::{CrossProcessStoreLock, MemoryStore, Wake};
///
/// let (store, wake) = (MemoryStore::new(), Wake::local());
/// let one = CrossProcessStoreLock::new(store.clone(), "inbox", "one").woken_by(&wake);
/// let two = CrossProcessStoreLock::new(store, "inbox", "two").woken_by(&wake);
///
/// let guard = one.acquire(None).await.unwrap();
/// let (next, ()) = tokio::join!(two.acquire(None), guard.release());
/// assert!(next.unwrap().is_held());
/// # }
/// ```
#[derive(Clone)]
pub struct Wake(Arc<Hub>);

#[derive(Default)]
struct Hub {
    listeners: Mutex<Vec<Listener>>,
    /// To other processes, if there is a way.
    carrier: OnceLock<Box<dyn Carrier>>,
}

struct Listener {
    key: String,
    tab: String,
    bell: Weak<Notify>,
}

impl std::fmt::Debug for Wake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wake").finish_non_exhaustive()
    }
}

impl Wake {
    /// Wakes within this process only.
    #[must_use]
    pub fn local() -> Self {
        Self(Arc::default())
    }

    /// Rings `bell` when `tab` is told about `key`, for as long as the bell is in use.
    pub(crate) fn listen(&self, key: &str, tab: &str, bell: &Arc<Notify>) {
        let mut listeners = self.0.listeners();
        listeners.retain(|listener| listener.bell.strong_count() > 0);
        listeners.push(Listener {
            key: key.to_owned(),
            tab: tab.to_owned(),
            bell: Arc::downgrade(bell),
        });
    }

    /// Tells `to` that it was granted the lock of `key`.
    pub(crate) fn granted(&self, key: &str, to: &Requester) {
        self.0.ring(key, &to.tab);
        if let Some(carrier) = self.0.carrier.get() {
            carrier.send(key, &to.tab);
        }
    }
}

impl Hub {
    fn listeners(&self) -> std::sync::MutexGuard<'_, Vec<Listener>> {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self, key: &str, tab: &str) {
        for listener in &*self.listeners() {
            if listener.key == key
                && listener.tab == tab
                && let Some(bell) = listener.bell.upgrade()
            {
                bell.notify_waiters();
            }
        }
    }
}
