//! The store contract, and what only IndexedDB can do wrong, in a dedicated worker.
#![cfg(target_arch = "wasm32")]

mod indexed_db;
mod store_contract;

use indexed_db::{Indexed, indexed_db};
use store_contract::store_contract;

wasm_bindgen_test::wasm_bindgen_test_configure!(run_in_dedicated_worker);

store_contract!(Indexed);
indexed_db!();
