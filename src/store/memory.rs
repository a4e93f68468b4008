//! The reference store: a map in memory, shared by its clones.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use crate::BackingStore;
use crate::rules::{self, Command, Outcome, Record, Requester};

/// Leases in memory, for one process: tests, simulations, and locks between tasks. Clones share
/// their records.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use tab_lease::{CrossProcessStoreLock, MemoryStore};
///
/// let store = MemoryStore::new();
/// let one = CrossProcessStoreLock::new(store.clone(), "inbox", "one");
/// let two = CrossProcessStoreLock::new(store, "inbox", "two");
///
/// let guard = one.try_lock_once().await.unwrap();
/// assert!(guard.is_some());
/// assert!(two.try_lock_once().await.unwrap().is_none());
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    records: Arc<Mutex<HashMap<String, Record>>>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The record of a key, if there is one.
    #[must_use]
    pub fn record(&self, key: &str) -> Option<Record> {
        self.lock().get(key).cloned()
    }

    /// Replaces the record of a key, or deletes it.
    pub fn set_record(&self, key: &str, record: Option<Record>) {
        match record {
            Some(record) => self.lock().insert(key.to_owned(), record),
            None => self.lock().remove(key),
        };
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Record>> {
        // No code that may panic runs under the lock.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg_attr(target_arch = "wasm32", async_trait(?Send))]
#[cfg_attr(not(target_arch = "wasm32"), async_trait)]
impl BackingStore for MemoryStore {
    type Error = Infallible;

    async fn apply(&self, key: &str, command: Command) -> Result<Outcome, Infallible> {
        let mut records = self.lock();
        let (write, outcome) = rules::apply(records.get(key), &command);
        if let Some(record) = write {
            records.insert(key.to_owned(), record);
        }
        Ok(outcome)
    }

    async fn look_all(
        &self,
        batch: Vec<(String, Command)>,
    ) -> Vec<Result<Option<Outcome>, Infallible>> {
        let records = self.lock();
        let look = |(key, command): &(String, Command)| rules::look(records.get(key)?, command);
        batch.iter().map(|looks| Ok(look(looks))).collect()
    }

    fn leave(&self, key: &str, who: &Requester) {
        let mut records = self.lock();
        let quit = Command::Quit { who: who.clone() };
        if let (Some(record), _) = rules::apply(records.get(key), &quit) {
            records.insert(key.to_owned(), record);
        }
    }
}
