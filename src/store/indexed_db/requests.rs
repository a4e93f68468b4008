//! What IndexedDB answers by events, as futures: requests, and transactions that end.

use std::cell::Cell;
use std::rc::Rc;

use js_sys::{Function, Object, Reflect};
use wasm_bindgen::prelude::*;
use web_sys::{Event, IdbDatabase, IdbRequest, IdbRequestReadyState, IdbTransaction};

use super::{Cause, IndexedDbError};
use crate::sync::Notify;

#[wasm_bindgen]
extern "C" {
    /// A connection. web-sys has the options of `transaction` behind a flag only.
    #[wasm_bindgen(extends = IdbDatabase)]
    type Connected;

    #[wasm_bindgen(method, catch)]
    fn transaction(
        this: &Connected,
        store: &str,
        mode: &str,
        options: &Object,
    ) -> Result<IdbTransaction, JsValue>;
}

pub(super) fn failed(thrown: JsValue) -> IndexedDbError {
    IndexedDbError::Failed(Cause(thrown))
}

/// Begins a transaction.
pub(super) fn begin(
    db: &IdbDatabase,
    store: &str,
    mode: &str,
) -> Result<IdbTransaction, IndexedDbError> {
    let options = Object::new();
    // The write is seen by all tabs once it is committed. If the machine loses power, so do all holders.
    let _ = Reflect::set(&options, &"durability".into(), &"relaxed".into());
    let db: &Connected = db.unchecked_ref();
    db.transaction(store, mode, &options).map_err(failed)
}

/// Sets a handler by `set`, and resolves with the event that it gets.
async fn event(set: &dyn Fn(Option<&Function>)) -> Option<Event> {
    struct Unset<'a>(&'a dyn Fn(Option<&Function>));
    impl Drop for Unset<'_> {
        fn drop(&mut self) {
            self.0(None);
        }
    }
    let heard = Rc::new((Cell::new(None), Notify::new()));
    let handler = Closure::<dyn FnMut(Event)>::new({
        let heard = Rc::clone(&heard);
        move |event| {
            heard.0.set(Some(event));
            heard.1.notify_one();
        }
    });
    set(Some(handler.as_ref().unchecked_ref()));
    // Before the handler goes, however this ends.
    let _unset = Unset(set);
    heard.1.notified().await;
    heard.0.take()
}

/// The result of a request; its error as it is.
pub(super) async fn result(request: &IdbRequest) -> Result<JsValue, JsValue> {
    // It may have been answered while another one was waited for.
    if request.ready_state() == IdbRequestReadyState::Pending {
        event(&|handler| {
            request.set_onsuccess(handler);
            request.set_onerror(handler);
        })
        .await;
    }
    match request.error()? {
        None => request.result(),
        Some(error) => Err(error.into()),
    }
}

/// The answer to a request that was sent now.
pub(super) async fn answer(sent: Result<IdbRequest, JsValue>) -> Result<JsValue, IndexedDbError> {
    result(&sent.map_err(failed)?).await.map_err(failed)
}

/// Commits, and waits until it is done: success is reported only for what is written.
#[allow(
    deprecated,
    reason = "`commit` is so for web-sys only, not for any browser"
)]
pub(super) async fn commit(tx: &IdbTransaction) -> Result<(), IndexedDbError> {
    tx.commit().map_err(failed)?;
    let end = event(&|handler| {
        tx.set_oncomplete(handler);
        tx.set_onabort(handler);
    })
    .await;
    match end {
        Some(end) if end.type_() == "complete" => Ok(()),
        // An abort by the browser (a full disk) has its reason in the transaction.
        _ => Err(IndexedDbError::Failed(match tx.error() {
            Some(reason) => Cause(reason.into()),
            None => Cause::new("the transaction was aborted"),
        })),
    }
}
