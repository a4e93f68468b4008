//! The browser's side: a Web Lock, which the browser releases when the document or worker ends.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use js_sys::{Array, Promise};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{AbortController, AbortSignal};

use super::{Beacon, Liveness};
use crate::evidence::{Evidence, Manager, Word};
use crate::platform::{self, BoxFuture, Spawner};
use crate::sync::Waiters;

/// What the names of all beacons begin with.
const PREFIX: &str = "tab-lease#";

#[wasm_bindgen(module = "/src/liveness/web_locks.js")]
extern "C" {
    fn manager() -> JsValue;
    fn light(manager: &JsValue, name: &str, lit: &JsValue);
    #[wasm_bindgen(js_name = lookAround)]
    fn look_around(manager: &JsValue, own: &str, prefix: &str) -> Promise;
    fn watch(manager: &JsValue, name: &str, signal: &AbortSignal) -> Promise;
}

#[derive(Clone)]
struct WebLocks {
    /// The browser's own lock manager, if it can be reached.
    manager: Option<JsValue>,
    evidence: Rc<RefCell<Evidence>>,
    /// Whether this tab's own beacon is held. `None` until the browser has said.
    lit: Rc<Cell<Option<bool>>>,
    /// Those who wait until the browser has said so.
    settled: Rc<Waiters>,
}

impl Liveness {
    /// Beacons by Web Locks. The first call lights the beacon of this document or worker, which burns until
    /// the document or worker ends. Where the browser's own Web Locks cannot be reached no beacon is ever
    /// lit, and none is believed.
    #[must_use]
    pub fn web_locks() -> Self {
        thread_local!(static HERE: WebLocks = WebLocks::light());
        HERE.with(|here| Self::by(here.clone()))
    }
}

impl WebLocks {
    fn light() -> Self {
        let manager = Some(manager()).filter(JsValue::is_truthy);
        let (whose, lit) = match manager {
            Some(_) => (Manager::Browser, None),
            None => (Manager::Foreign, Some(false)),
        };
        let this = Self {
            manager,
            evidence: Rc::new(RefCell::new(Evidence::new(whose))),
            lit: Rc::new(Cell::new(lit)),
            settled: Rc::default(),
        };
        if let Some(manager) = &this.manager {
            let told = this.clone();
            let lit = Closure::<dyn Fn(bool)>::new(move |lit| told.on_told(lit)).into_js_value();
            light(manager, &name(platform::process()), &lit);
        }
        this
    }

    fn set_lit(&self, lit: bool) {
        self.lit.set(Some(lit));
        self.settled.wake();
    }

    /// The browser has said whether this tab's own beacon is held. If it is not, it is not going to be.
    fn on_told(&self, lit: bool) {
        self.set_lit(lit);
        if lit {
            let this = self.clone();
            // The end of a tab can be told only if its beacon was seen: tabs that live already are seen now.
            Spawner::current().spawn(async move { this.look_around().await });
        }
    }

    /// Notes which beacons are held by others.
    async fn look_around(&self) {
        let Some(manager) = &self.manager else {
            return;
        };
        let held = look_around(manager, &name(platform::process()), PREFIX);
        let held = JsFuture::from(held).await.unwrap_or_default();
        let held = held.dyn_into::<Array>().unwrap_or_default();
        for place in (0..held.length()).step_by(2) {
            let process = held.get(place).as_string().unwrap_or_default();
            let by_us = held.get(place + 1).is_truthy();
            let word = Word::Held { by_us };
            self.evidence.borrow_mut().proves_end(&process, word);
        }
    }
}

/// Stops waiting for a lock when it is dropped.
struct BeaconWatch {
    abort: AbortController,
    /// Made with the request. If a promise was not looked at by the time it is rejected, the rejection is
    /// reported to the page.
    over: JsFuture,
}

impl Drop for BeaconWatch {
    fn drop(&mut self) {
        // Chromium takes most of a ms for an abort: the caller that got the lock goes on first.
        let abort = self.abort.clone();
        Spawner::current().spawn(async move {
            platform::step_back().await;
            abort.abort_with_reason(&JsValue::NULL);
        });
    }
}

impl Beacon for WebLocks {
    fn is_lit(&self) -> bool {
        self.lit.get() == Some(true)
    }

    fn settled(&self) -> BoxFuture<()> {
        let this = self.clone();
        Box::pin(async move {
            this.settled.until(|| this.lit.get()).await;
        })
    }

    fn is_watched(&self, tab: &str) -> bool {
        self.evidence.borrow().has_seen(process_of(tab))
    }

    fn ended(&self, tab: &str) -> BoxFuture<()> {
        let (this, process) = (self.clone(), process_of(tab).to_owned());
        Box::pin(async move {
            if !this.evidence.borrow().has_seen(&process) {
                this.look_around().await;
            }
            // If the beacon was not seen, a grant would prove nothing.
            if this.evidence.borrow().has_seen(&process)
                && let Some(mut watch) = this.watch(&process)
                && let Ok(lock) = (&mut watch.over).await
            {
                let lock = lock.is_truthy();
                let word = Word::Granted { lock };
                if this.evidence.borrow_mut().proves_end(&process, word) {
                    return;
                }
            }
            std::future::pending().await
        })
    }
}

impl WebLocks {
    /// Asks for the beacon of `process`, to get it when the process has ended.
    fn watch(&self, process: &str) -> Option<BeaconWatch> {
        let manager = self.manager.as_ref()?;
        let abort = AbortController::new().ok()?;
        let over = watch(manager, &name(process), &abort.signal()).into();
        Some(BeaconWatch { abort, over })
    }
}

fn name(process: &str) -> String {
    [PREFIX, process].concat()
}

/// The part of a tab's name that all its holders share.
fn process_of(tab: &str) -> &str {
    tab.rsplit_once('#').map_or(tab, |(_, process)| process)
}
