//! Where leases are kept: the [`BackingStore`] trait and its implementations.
//!
//! A store reads a record, lets [`rules::apply`](crate::rules::apply) decide, and writes what that
//! answers, in one atomic step. It decides nothing. The contract that every store passes is
//! `tests/store_contract`.

#[cfg(target_arch = "wasm32")]
pub mod indexed_db;
pub mod memory;

use async_trait::async_trait;

use crate::platform::{BoxFuture, MaybeSend, MaybeSync};
use crate::rules::{Command, Outcome, Requester};

/// A place where leases are kept, shared by everybody who contends.
///
/// # Example
///
/// A store that forwards to another, as a test double would:
///
/// ```
/// use async_trait::async_trait;
/// use tab_lease::{BackingStore, MemoryStore, rules::{Command, Outcome}};
///
/// struct Logged(MemoryStore);
///
/// #[async_trait] // on wasm32: #[async_trait(?Send)]
/// impl BackingStore for Logged {
///     type Error = <MemoryStore as BackingStore>::Error;
///
///     async fn apply(&self, key: &str, command: Command) -> Result<Outcome, Self::Error> {
///         println!("{key}: {command:?}");
///         self.0.apply(key, command).await
///     }
/// }
/// ```
#[cfg_attr(target_arch = "wasm32", async_trait(?Send))]
#[cfg_attr(not(target_arch = "wasm32"), async_trait)]
pub trait BackingStore: MaybeSend + MaybeSync + 'static {
    /// How this store fails. A lease that another requester holds is an [`Outcome`], not an error.
    type Error: std::error::Error + MaybeSend + MaybeSync + 'static;

    /// Tries to take, extend or give up the lease of `key`: reads its record, applies `command` by
    /// [`rules::apply`](crate::rules::apply), and writes the result, all in one atomic step.
    ///
    /// Answers only once the write is durable enough that every other user of the store sees it. If
    /// the future is dropped, the command may or may not have been applied; commands that one user
    /// sends one after the other should be applied in that order, or a request that was given up may
    /// hold the lock for the length of a lease.
    ///
    /// # Errors
    ///
    /// When the store failed. The command may or may not have been applied; sending it again is
    /// safe.
    async fn apply(&self, key: &str, command: Command) -> Result<Outcome, Self::Error>;

    /// Applies commands of different keys, and answers in their order. The default applies one after the
    /// other; a store that has transactions does better with one for all.
    async fn apply_all(&self, batch: Vec<(String, Command)>) -> Vec<Result<Outcome, Self::Error>> {
        let mut answers = Vec::with_capacity(batch.len());
        for (key, command) in batch {
            answers.push(self.apply(&key, command).await);
        }
        answers
    }

    /// What takes of different keys would be answered, in their order, as [`rules::look`](crate::rules::look)
    /// says. Reads, and writes nothing: this is how waiters look. `None` for a take that has to be applied.
    /// The default says that of all.
    async fn look_all(
        &self,
        batch: Vec<(String, Command)>,
    ) -> Vec<Result<Option<Outcome>, Self::Error>> {
        batch.iter().map(|_| Ok(None)).collect()
    }

    /// Whether [`BackingStore::apply_all`] is less work than as many [`BackingStore::apply`]. If not,
    /// commands that are due together are sent side by side.
    fn batches(&self) -> bool {
        false
    }

    /// Writes down that `who` quits, as a [`Command::Quit`] would. `who` is about to be stopped, perhaps for
    /// good, so this must need no answer, and leave nothing half-done. A waiter that is granted the lock by
    /// that finds out by asking.
    ///
    /// This is best effort: a store may do nothing, and then the lease expires.
    fn leave(&self, key: &str, who: &Requester) {
        let _ = (key, who);
    }

    /// Resolves when someone else is about to close this store (a deletion, an upgrade). All leases in it end
    /// then. A store that cannot be closed from outside returns a future that never resolves.
    fn closing(&self) -> BoxFuture<()> {
        Box::pin(std::future::pending())
    }
}
