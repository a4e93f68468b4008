//! The browser's side: a Web Lock, which the browser releases when the document or worker ends.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use js_sys::{Array, Function, Object, Promise, Reflect};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::AbortController;

use super::{Beacon, Liveness};
use crate::evidence::{Evidence, Manager, Word};
use crate::platform::{self, BoxFuture, Spawner, promised};
use crate::sync::Notify;

/// In front of the name of every beacon.
const PREFIX: &str = "tab-lease#";

#[wasm_bindgen]
extern "C" {
    /// The getter of `target`, asked about `receiver`.
    #[wasm_bindgen(js_namespace = Reflect, js_name = get, catch)]
    fn get_of(target: &JsValue, key: &str, receiver: &JsValue) -> Result<JsValue, JsValue>;
}

/// The browser's own lock manager, by functions that nobody has replaced.
#[derive(Clone)]
struct LockManager {
    locks: JsValue,
    request: Function,
    query: Function,
}

impl LockManager {
    /// `None` outside of secure contexts, in old browsers, and behind a polyfill or a wrapper.
    fn native() -> Option<Self> {
        let prototype = prototype("LockManager");
        let locks = get(&get(&js_sys::global(), "navigator"), "locks");
        Some(Self {
            locks: Some(locks).filter(JsValue::is_object)?,
            request: native(&prototype, "request")?,
            query: native(&prototype, "query")?,
        })
    }

    /// Whatever comes back is awaited as a promise.
    fn request(&self, name: &str, options: &Object, granted: &JsValue) -> Option<JsFuture> {
        let over = self
            .request
            .call3(&self.locks, &name.into(), options, granted);
        Some(promised(over.ok()?).into())
    }

    /// What is held, by whomever.
    async fn held(&self) -> Option<Array> {
        let snapshot = promised(self.query.call0(&self.locks).ok()?);
        let snapshot = JsFuture::from(snapshot).await.ok()?;
        Reflect::get(&snapshot, &"held".into())
            .ok()?
            .dyn_into()
            .ok()
    }
}

#[derive(Clone)]
struct WebLocks {
    manager: Option<LockManager>,
    evidence: Rc<RefCell<Evidence>>,
    /// Whether this tab's own beacon is held …
    lit: Rc<Cell<Option<bool>>>,
    /// … and tells when the browser has said so. `None` until then.
    settled: Rc<Notify>,
}

impl Liveness {
    /// Beacons by Web Locks. This document's, or worker's, is lit with the first call and burns until
    /// it ends. Where the browser's own Web Locks are not to be had no beacon is ever lit, and none is
    /// believed.
    #[must_use]
    pub fn web_locks() -> Self {
        thread_local!(static HERE: WebLocks = WebLocks::light());
        HERE.with(|here| Self::by(here.clone()))
    }
}

impl WebLocks {
    fn light() -> Self {
        let manager = LockManager::native();
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
            let name = name(platform::process());
            let burn = Closure::once_into_js({
                let (this, name) = (this.clone(), name.clone());
                move |lock: JsValue| this.burn(&lock, &name)
            });
            let over = manager.request(&name, &Object::new(), &burn);
            let dark = this.clone();
            Spawner::current().spawn(async move {
                if let Some(over) = over {
                    // Refused (a sandboxed frame), or stolen.
                    drop(over.await);
                }
                dark.set_lit(false);
            });
        }
        this
    }

    fn set_lit(&self, lit: bool) {
        self.lit.set(Some(lit));
        self.settled.notify_waiters();
    }

    /// Called back with this tab's own beacon, or with what is none. Answers what it is held for.
    fn burn(&self, lock: &JsValue, name: &str) -> JsValue {
        let is_ours = is_lock(lock, name);
        self.set_lit(is_ours);
        if !is_ours {
            return JsValue::UNDEFINED;
        }
        let this = self.clone();
        // Those that live already can be told of when they end.
        Spawner::current().spawn(async move { this.look_around().await });
        // Never settles.
        Promise::new(&mut |_, _| {}).into()
    }

    /// Notes which beacons are held by others.
    async fn look_around(&self) {
        let held = match &self.manager {
            Some(manager) => manager.held().await,
            None => None,
        };
        let held = held.unwrap_or_default();
        let own = JsValue::from(name(platform::process()));
        let us = held.iter().find(|lock| get(lock, "name") == own);
        let us = us.map(|lock| get(&lock, "clientId"));
        for lock in held.iter() {
            let name = get(&lock, "name").as_string().unwrap_or_default();
            // A watch is shared, and may be this tab's own.
            if let Some(process) = name.strip_prefix(PREFIX)
                && get(&lock, "mode") == "exclusive"
            {
                let by_us = us.as_ref() == Some(&get(&lock, "clientId"));
                let word = Word::Held { by_us };
                self.evidence.borrow_mut().proves_end(process, word);
            }
        }
    }
}

/// Stops waiting for a lock when it is dropped.
struct Watch {
    abort: AbortController,
    /// Made with the request: a promise that nobody has looked at by the time it is rejected would be
    /// reported to the page.
    over: JsFuture,
    /// Whether the callback was given the lock.
    lock: Rc<Cell<bool>>,
    _granted: Closure<dyn FnMut(JsValue)>,
}

impl Drop for Watch {
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
            let settled = this.settled.notified();
            if this.lit.get().is_none() {
                settled.await;
            }
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
            // Unseen, a grant would prove nothing.
            if this.evidence.borrow().has_seen(&process)
                && let Some(mut watch) = this.watch(&process)
                && (&mut watch.over).await.is_ok()
            {
                let lock = watch.lock.get();
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
    /// Asks for the beacon of that process.
    fn watch(&self, process: &str) -> Option<Watch> {
        let abort = AbortController::new().ok()?;
        let options = Object::new();
        // Shared: all who watch are told at once.
        Reflect::set(&options, &"mode".into(), &"shared".into()).ok()?;
        Reflect::set(&options, &"signal".into(), &abort.signal()).ok()?;
        let name = name(process);
        let lock = Rc::new(Cell::new(false));
        // Granted, it is given back at once.
        let granted = Closure::new({
            let (lock, name) = (Rc::clone(&lock), name.clone());
            move |given: JsValue| lock.set(is_lock(&given, &name))
        });
        let over = self
            .manager
            .as_ref()?
            .request(&name, &options, granted.as_ref())?;
        Some(Watch {
            abort,
            over,
            lock,
            _granted: granted,
        })
    }
}

fn name(process: &str) -> String {
    [PREFIX, process].concat()
}

/// The part of a tab's name that all its holders share.
fn process_of(tab: &str) -> &str {
    tab.rsplit_once('#').map_or(tab, |(_, process)| process)
}

/// A property; `undefined` of what has none, or refuses.
fn get(of: &JsValue, key: &str) -> JsValue {
    Reflect::get(of, &key.into()).unwrap_or_default()
}

fn prototype(class: &str) -> JsValue {
    get(&get(&js_sys::global(), class), "prototype")
}

/// The method, if it is the browser's: only a function of its own reads like that (one that is bound, or
/// behind a `Proxy`, has no name in its text).
fn native(prototype: &JsValue, method: &str) -> Option<Function> {
    let function: Function = Reflect::get(prototype, &method.into())
        .ok()?
        .dyn_into()
        .ok()?;
    let text = String::from(function.to_string());
    let body = text.strip_prefix("function ")?.strip_prefix(method)?;
    let is_native = body == "() { [native code] }" || body == "() {\n    [native code]\n}";
    is_native.then_some(function)
}

/// Whether it is a lock of the browser's, of that name. The getter refuses everything else.
fn is_lock(given: &JsValue, name: &str) -> bool {
    get_of(&prototype("Lock"), "name", given).is_ok_and(|is_named| is_named == name)
}
