//! The store contract, over the memory store.
#![cfg(not(target_arch = "wasm32"))]

mod store_contract;

use store_contract::store_contract;
use tab_lease::MemoryStore;

struct Memory(MemoryStore);

impl store_contract::Place for Memory {
    type Store = MemoryStore;

    fn new() -> Self {
        Self(MemoryStore::new())
    }

    fn open(&self) -> MemoryStore {
        self.0.clone()
    }
}

store_contract!(Memory);
