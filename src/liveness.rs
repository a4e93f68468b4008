//! Beacons: who has ended.
//!
//! A tab holds a *beacon* for as long as it lives, and others can wait for it to go out: in a browser a Web
//! Lock of the document ([`Liveness::web_locks`]), natively whatever the operating system offers (a locked
//! file, a pipe). If a tab has ended, its lease need not have: the tab may have handed the lease on. So the
//! end of a tab is a proof for the [rules](crate::rules) to weigh, never more. A tab that hangs keeps its
//! beacon.

#[cfg(target_arch = "wasm32")]
mod web_locks;

use std::sync::Arc;

use crate::platform::{BoxFuture, MaybeSend, MaybeSync};

/// Tells other tabs that this one lives, and this one when others have ended. A tab is named as in
/// [`Requester::tab`](crate::rules::Requester): the holder's name, `#`, and a part that all the
/// holders of one process share and no others.
pub trait Beacon: MaybeSend + MaybeSync + 'static {
    /// Whether this tab's own beacon is held already, so that others may go by it. A tab that says so too
    /// early is taken for dead.
    fn is_lit(&self) -> bool;

    /// Resolves when it is known whether this tab's own beacon is going to be held; at once, if that is
    /// known.
    fn settled(&self) -> BoxFuture<()> {
        Box::pin(std::future::ready(()))
    }

    /// Whether [`Beacon::ended`] would tell the end of `tab`, whose beacon was lit. If it would not, a waiter
    /// for that tab's lease watches the lease more closely.
    fn is_watched(&self, tab: &str) -> bool {
        let _ = tab;
        true
    }

    /// Resolves when `tab`, which had its beacon lit, has ended; at once, if it has. If the end cannot be
    /// told, the future never resolves. Dropping the future stops the watch.
    ///
    /// The word is believed. If it is wrong, a tab that lives loses its lease at once, while it still holds.
    /// See [`evidence`](crate::evidence) for what a word from outside must show.
    fn ended(&self, tab: &str) -> BoxFuture<()>;
}

/// A [`Beacon`] that locks share. Clones stand for the same beacon. See the head of this file.
#[derive(Clone)]
pub struct Liveness(Arc<dyn Beacon>);

impl std::fmt::Debug for Liveness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Liveness").finish_non_exhaustive()
    }
}

impl Liveness {
    /// Uses `beacon` to learn which tabs have ended.
    #[must_use]
    pub fn by(beacon: impl Beacon) -> Self {
        Self(Arc::new(beacon))
    }

    pub(crate) fn is_lit(&self) -> bool {
        self.0.is_lit()
    }

    pub(crate) fn settled(&self) -> BoxFuture<()> {
        self.0.settled()
    }

    pub(crate) fn is_watched(&self, tab: &str) -> bool {
        self.0.is_watched(tab)
    }

    pub(crate) fn ended(&self, tab: &str) -> BoxFuture<()> {
        self.0.ended(tab)
    }
}
