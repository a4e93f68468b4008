//! What the browser does to a page: for now, freezing it.

use std::cell::Cell;
use std::rc::Rc;

use wasm_bindgen::prelude::*;
use web_sys::EventTarget;

/// Watches the document of this page. A worker has none, and is stopped as a whole.
pub(crate) struct Lifecycle {
    frozen: Rc<Cell<bool>>,
    document: Option<EventTarget>,
    listeners: [Listener; 2],
}

type Listener = (&'static str, Closure<dyn FnMut()>);

impl Lifecycle {
    pub(crate) fn watch() -> Self {
        let frozen = Rc::new(Cell::new(false));
        let set = |value: bool| {
            let frozen = Rc::clone(&frozen);
            Closure::new(move || frozen.set(value))
        };
        let document = js_sys::Reflect::get(&js_sys::global(), &"document".into());
        let this = Self {
            document: document.ok().and_then(|document| document.dyn_into().ok()),
            listeners: [("freeze", set(true)), ("resume", set(false))],
            frozen,
        };
        if let Some(document) = &this.document {
            for (event, listener) in &this.listeners {
                let listener = listener.as_ref().unchecked_ref();
                let _ = document.add_event_listener_with_callback(event, listener);
            }
        }
        this
    }

    /// Whether timers and answers from the store have stopped, while messages still arrive.
    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen.get()
    }
}

impl Drop for Lifecycle {
    fn drop(&mut self) {
        if let Some(document) = &self.document {
            for (event, listener) in &self.listeners {
                let listener = listener.as_ref().unchecked_ref();
                let _ = document.remove_event_listener_with_callback(event, listener);
            }
        }
    }
}
