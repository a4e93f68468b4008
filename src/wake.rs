//! How [messages](crate::message) reach those who contend.
//!
//! A [`Wake`] connects the locks of one process with each other and with those of other processes:
//! in a browser through a `BroadcastChannel` ([`Wake::channel`]), natively through whatever carries
//! bytes ([`Wake::over`]), or within the process only ([`Wake::local`]).

#[cfg(target_arch = "wasm32")]
mod broadcast_channel;

use std::sync::{Arc, Weak};

use crate::message::Message;
use crate::mutex::Mutex;
use crate::platform::{MaybeSend, MaybeSync};

/// Hears what is said about some keys.
pub(crate) trait Listen: MaybeSend + MaybeSync {
    /// Whether it wants to hear about that key.
    fn listens_to(&self, key: &str) -> bool;
    fn hear(&self, key: &str, message: &Message);
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

/// Connects those who contend. Clones are the same. See the head of this file.
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

    /// Lets `ear`, of `tab`, hear what is said, for as long as it lives.
    pub(crate) fn listen(&self, tab: &str, ear: Weak<dyn Listen>) {
        let mut listeners = self.0.listeners.lock();
        listeners.retain(|listener| listener.ear.strong_count() > 0);
        let tab = tab.to_owned();
        listeners.push(Listener { tab, ear });
    }

    /// Tells all who contend for `key`. The caller must hold no lock that its own ear may want.
    pub(crate) fn send(&self, key: &str, message: &Message) {
        let ears = self.0.ears(key);
        let at_home = message
            .to()
            .is_some_and(|to| ears.iter().any(|(tab, _)| tab == to));
        if let Some(carrier) = self.0.carrier.as_ref().filter(|_| !at_home) {
            carrier.send(&message.encode(key));
        }
        for (_, ear) in ears {
            ear.hear(key, message);
        }
    }
}

impl Hub {
    fn receive(&self, bytes: &[u8]) {
        let Some((key, rest)) = Message::key(bytes) else {
            return;
        };
        let ears = self.ears(key);
        if ears.is_empty() {
            return;
        }
        if let Some(message) = Message::decode(rest) {
            for (_, ear) in ears {
                ear.hear(key, &message);
            }
        }
    }

    /// Who listens to that key, and of which tab it is. Each is asked and told out of the mutex: it may
    /// answer.
    fn ears(&self, key: &str) -> Vec<(String, Arc<dyn Listen>)> {
        let living = |l: &Listener| Some((l.tab.clone(), l.ear.upgrade()?));
        let mut ears: Vec<_> = self.listeners.lock().iter().filter_map(living).collect();
        ears.retain(|(_, ear)| ear.listens_to(key));
        ears
    }
}
