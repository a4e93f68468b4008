//! What IndexedDB answers by events: the JavaScript beside this carries requests, and calls [`Shared::hear`]
//! once for each answer that something is decided on.

use js_sys::{Array, Function, Promise};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{IdbDatabase, IdbObjectStore, IdbTransaction};

#[cfg(doc)]
use super::Shared;
use super::{Cause, IndexedDbError};

type Failing<T> = Result<T, JsValue>;

#[wasm_bindgen(module = "/src/store/indexed_db/requests.js")]
extern "C" {
    #[wasm_bindgen(catch)]
    pub(super) fn begin(db: &IdbDatabase, name: &str, mode: &str) -> Failing<IdbTransaction>;
    #[wasm_bindgen(catch)]
    pub(super) fn transact(
        tx: &IdbTransaction,
        name: &str,
        keys: &Array,
        first: u32,
        hears: &Function,
    ) -> Failing<Promise>;
    #[wasm_bindgen(catch)]
    pub(super) fn renew(
        tx: &IdbTransaction,
        name: &str,
        keys: &Array,
        notes: &Array,
        first: u32,
        hears: &Function,
    ) -> Failing<Promise>;
    #[wasm_bindgen(catch)]
    pub(super) fn peek(
        tx: &IdbTransaction,
        name: &str,
        keys: &Array,
        first: u32,
        hears: &Function,
    ) -> Failing<Promise>;
    #[wasm_bindgen(catch)]
    pub(super) fn leave(db: &IdbDatabase, name: &str, key: &JsValue, note: &JsValue)
    -> Failing<()>;
    #[wasm_bindgen(catch)]
    pub(super) fn get(db: &IdbDatabase, name: &str, key: &str) -> Failing<Promise>;
    #[wasm_bindgen(catch)]
    pub(super) fn all(db: &IdbDatabase, name: &str) -> Failing<Promise>;
    pub(super) fn look(store: &IdbObjectStore, mark: &str) -> u32;
    #[wasm_bindgen(js_name = isOurs)]
    pub(super) fn is_ours(db: &IdbDatabase, name: &str, mark: &str, hears: &Function) -> Promise;
    #[wasm_bindgen(catch)]
    pub(super) fn create(db: &IdbDatabase, name: &str, mark: &str) -> Failing<()>;
    pub(super) fn open(name: &str, store: &str, mark: &str, hears: &Function) -> Promise;
    pub(super) fn watch(db: &IdbDatabase, hears: &Function);
    pub(super) fn attend(db: &IdbDatabase, hears: &Function);
    pub(super) fn close(db: &IdbDatabase);
    #[wasm_bindgen(catch)]
    pub(super) fn fence(
        tx: &IdbTransaction,
        name: &str,
        key: &str,
        number: u32,
        hears: &Function,
    ) -> Failing<()>;
}

pub(super) fn failed(thrown: JsValue) -> IndexedDbError {
    IndexedDbError::Failed(Cause(thrown))
}

/// The answer to what was sent now.
pub(super) async fn answer(sent: Failing<Promise>) -> Result<JsValue, IndexedDbError> {
    JsFuture::from(sent.map_err(failed)?).await.map_err(failed)
}
