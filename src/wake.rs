//! Messages between those who contend: "the lease is yours", "I wait for it".
//!
//! A message may be lost, late or repeated; what is done on it, and whether, is for the
//! [participant](crate::participant) to say. Whoever misses one asks the store when its pause is over.
//! (Forged it must not be: whoever can write to the channel could as well delete the store.)
//!
//! A [`Wake`] connects the locks of one process with each other and with those of other processes:
//! in a browser through a `BroadcastChannel` ([`Wake::channel`]), natively through whatever carries
//! bytes ([`Wake::over`]), or within the process only ([`Wake::local`]).

#[cfg(target_arch = "wasm32")]
mod broadcast_channel;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use serde::{Deserialize, Serialize};

use crate::participant::{Grant, Want};
use crate::platform::{MaybeSend, MaybeSync};
use crate::rules::Requester;

/// What those who contend for a key tell each other.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    Grant(Grant),
    Want(Want),
    /// This one waits no longer, or has let go because its page is stopped.
    Gone(Requester),
    /// To somebody who only tries: whether the lock has just been freed for it.
    Reply {
        to: Requester,
        free: bool,
    },
}

/// Hears what is said about a key.
pub(crate) trait Listen: MaybeSend + MaybeSync {
    fn hear(&self, message: &Message);
}

/// Carries a message to other processes.
pub(crate) trait Carrier: MaybeSend + MaybeSync {
    fn send(&self, message: &[u8]);
}

impl<F: Fn(&[u8]) + MaybeSend + MaybeSync> Carrier for F {
    fn send(&self, message: &[u8]) {
        self(message);
    }
}

/// Connects those who contend. Clones are the same. See the [module](self).
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

struct Hub {
    listeners: Mutex<Vec<Listener>>,
    /// To other processes, if there is a way.
    carrier: Option<Box<dyn Carrier>>,
    /// Whether everybody who contends can be reached.
    complete: bool,
}

struct Listener {
    key: String,
    tab: String,
    ear: Weak<dyn Listen>,
}

impl std::fmt::Debug for Wake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wake").finish_non_exhaustive()
    }
}

impl Wake {
    /// Connects the locks of this process that use it, and no others: for locks that nobody else uses.
    #[must_use]
    pub fn local() -> Self {
        Self::with(None, true)
    }

    /// Connects this process with others: `send` is to carry a message to all of them, which hand it
    /// to [`Wake::receive`]. Messages may get lost, and need not keep their order. They are trusted.
    ///
    /// # Example
    ///
    /// ```
    /// use tab_lease::Wake;
    ///
    /// let (to_others, outbox) = std::sync::mpsc::channel::<Vec<u8>>();
    /// let wake = Wake::over(move |message| drop(to_others.send(message.to_vec())));
    /// // … and for each message that comes in:
    /// wake.receive(b"not one of ours: ignored");
    /// # drop(outbox);
    /// ```
    #[must_use]
    pub fn over(send: impl Fn(&[u8]) + MaybeSend + MaybeSync + 'static) -> Self {
        Self::with(Some(Box::new(send)), true)
    }

    #[allow(
        clippy::arc_with_non_send_sync,
        reason = "natively it is both; on wasm there are no threads"
    )]
    fn with(carrier: Option<Box<dyn Carrier>>, complete: bool) -> Self {
        Self(Arc::new(Hub {
            listeners: Mutex::default(),
            carrier,
            complete,
        }))
    }

    /// A message of another process has arrived. Natively this must be called inside the runtime that
    /// the locks run in. What is no message of this crate's version is ignored.
    pub fn receive(&self, message: &[u8]) {
        self.0.receive(message);
    }

    /// Whether a holder may count on being told of everybody who waits. Where it cannot, no lock
    /// lingers.
    pub(crate) fn is_complete(&self) -> bool {
        self.0.complete
    }

    /// Lets `ear`, a lock object of `tab`, hear what is said about `key`, for as long as it lives.
    pub(crate) fn listen(&self, key: &str, tab: &str, ear: Weak<dyn Listen>) {
        let mut listeners = self.0.listeners();
        listeners.retain(|listener| listener.ear.strong_count() > 0);
        listeners.push(Listener {
            key: key.to_owned(),
            tab: tab.to_owned(),
            ear,
        });
    }

    /// Tells all who contend for `key`. The caller must hold no lock that its own ear may want.
    pub(crate) fn send(&self, key: &str, message: &Message) {
        let to = match message {
            Message::Grant(grant) => Some(&grant.to.tab),
            Message::Reply { to, .. } => Some(&to.tab),
            Message::Want(_) | Message::Gone(_) => None,
        };
        let at_home = to.is_some_and(|tab| {
            let listeners = self.0.listeners();
            listeners.iter().any(|l| l.key == key && l.tab == *tab)
        });
        if let Some(carrier) = self.0.carrier.as_ref().filter(|_| !at_home) {
            // Serialising numbers and strings into memory cannot fail.
            carrier.send(&postcard::to_allocvec(&(key, message)).unwrap_or_default());
        }
        self.0.tell(key, message);
    }
}

impl Hub {
    fn listeners(&self) -> MutexGuard<'_, Vec<Listener>> {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn receive(&self, message: &[u8]) {
        let Ok((key, rest)) = postcard::take_from_bytes::<&str>(message) else {
            return;
        };
        if self.listeners().iter().all(|listener| listener.key != key) {
            return;
        }
        if let Ok((message, [])) = postcard::take_from_bytes(rest) {
            self.tell(key, &message);
        }
    }

    fn tell(&self, key: &str, message: &Message) {
        let ears: Vec<_> = {
            let listeners = self.listeners();
            let here = listeners.iter().filter(|listener| listener.key == key);
            here.filter_map(|listener| listener.ear.upgrade()).collect()
        };
        // Out of the lock: whoever hears may answer.
        for ear in ears {
            ear.hear(message);
        }
    }
}
