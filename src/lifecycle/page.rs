//! The browser's side: the events of this page's document and window.

use js_sys::Reflect;
use wasm_bindgen::prelude::*;
use web_sys::EventTarget;

use super::Lifecycle;

impl Lifecycle {
    /// The life of the page that this code runs in, or of no page in a worker, to which nothing happens.
    #[must_use]
    pub fn page() -> Self {
        thread_local!(static PAGE: Lifecycle = begin());
        PAGE.with(Clone::clone)
    }
}

/// Listens for as long as the page lives.
fn begin() -> Lifecycle {
    let life = Lifecycle::new();
    let window = js_sys::global();
    let document = Reflect::get(&window, &"document".into()).unwrap_or_default();
    if !document.is_object() {
        return life;
    }
    let hidden = {
        let document = document.clone();
        move || Reflect::get(&document, &"hidden".into()).is_ok_and(|hidden| hidden.is_truthy())
    };
    life.set_hidden(hidden());
    let on = |target: &JsValue, event: &str, then: Box<dyn Fn(&Lifecycle)>| {
        let life = life.clone();
        let listener = Closure::<dyn Fn()>::new(move || then(&life)).into_js_value();
        // Captured: ahead of the page's own listeners, which may act on what they believe to hold.
        let _ = target
            .unchecked_ref::<EventTarget>()
            .add_event_listener_with_callback_and_bool(event, listener.unchecked_ref(), true);
    };
    on(
        &document,
        "visibilitychange",
        Box::new(move |life| life.set_hidden(hidden())),
    );
    on(&document, "freeze", Box::new(Lifecycle::suspend));
    on(&document, "resume", Box::new(Lifecycle::resume));
    on(&window, "pagehide", Box::new(Lifecycle::suspend));
    on(&window, "pageshow", Box::new(Lifecycle::resume));
    life
}
