//! The browser's side: a Web Lock, which the browser releases when the document or worker ends.

use std::rc::Rc;

use js_sys::{Function, Object, Promise, Reflect};
use tokio::sync::watch;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::AbortController;

use super::{Beacon, Liveness};
use crate::platform::{self, BoxFuture, Spawner};

#[wasm_bindgen]
extern "C" {
    // web-sys counts it among the unstable ones.
    #[derive(Clone)]
    type LockManager;
    #[wasm_bindgen(method, catch)]
    fn request(
        this: &LockManager,
        name: &str,
        options: &Object,
        granted: &Function,
    ) -> Result<Promise, JsValue>;
}

#[derive(Clone)]
struct WebLocks {
    /// None where there are none: outside of secure contexts, and in old browsers.
    locks: Option<LockManager>,
    /// `None` until the browser has said.
    lit: Rc<watch::Sender<Option<bool>>>,
}

impl Liveness {
    /// Beacons by Web Locks. This document's, or worker's, is lit with the first call and burns until
    /// it ends. Where there are no Web Locks no beacon is ever lit.
    #[must_use]
    pub fn web_locks() -> Self {
        thread_local!(static HERE: WebLocks = WebLocks::light());
        HERE.with(|here| Self::by(here.clone()))
    }
}

impl WebLocks {
    fn light() -> Self {
        let locks = Reflect::get(&js_sys::global(), &"navigator".into())
            .and_then(|navigator| Reflect::get(&navigator, &"locks".into()))
            .ok()
            .filter(|locks| locks.is_object())
            .map(JsCast::unchecked_into::<LockManager>);
        let lit = locks.is_none().then_some(false);
        let this = Self {
            locks,
            lit: Rc::new(watch::Sender::new(lit)),
        };
        if let Some(locks) = &this.locks {
            let lit = Rc::clone(&this.lit);
            let burn = Closure::once_into_js(move || {
                lit.send_replace(Some(true));
                // Never settles.
                Promise::new(&mut |_, _| {})
            });
            let name = name(platform::process());
            let over = locks.request(&name, &Object::new(), burn.unchecked_ref());
            let lit = Rc::clone(&this.lit);
            Spawner::current().spawn(async move {
                if let Ok(over) = over {
                    // Refused (a sandboxed frame), or stolen.
                    drop(JsFuture::from(over).await);
                }
                lit.send_replace(Some(false));
            });
        }
        this
    }
}

/// Stops waiting for a lock when it is dropped.
struct Watch {
    abort: AbortController,
    /// Made with the request: a promise that nobody has looked at by the time it is rejected would be
    /// reported to the page.
    over: JsFuture,
    _granted: Closure<dyn FnMut()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Chromium takes most of a ms for it: whoever got the lock goes on first.
        let abort = self.abort.clone();
        Spawner::current().spawn(async move {
            platform::step_back().await;
            abort.abort_with_reason(&JsValue::NULL);
        });
    }
}

impl Beacon for WebLocks {
    fn is_lit(&self) -> bool {
        *self.lit.borrow() == Some(true)
    }

    fn settled(&self) -> BoxFuture<()> {
        let mut lit = self.lit.subscribe();
        Box::pin(async move {
            // Its sender lives for as long as the page.
            let _ = lit.wait_for(Option::is_some).await;
        })
    }

    fn ended(&self, tab: &str) -> BoxFuture<()> {
        let watch = self.watch(tab);
        Box::pin(async move {
            if let Some(mut watch) = watch
                && (&mut watch.over).await.is_ok()
            {
                return;
            }
            std::future::pending().await
        })
    }
}

impl WebLocks {
    fn watch(&self, tab: &str) -> Option<Watch> {
        let (_, process) = tab.rsplit_once('#')?;
        let abort = AbortController::new().ok()?;
        let options = Object::new();
        // Shared: all who watch are told at once.
        Reflect::set(&options, &"mode".into(), &"shared".into()).ok()?;
        Reflect::set(&options, &"signal".into(), &abort.signal()).ok()?;
        // Granted, it is given back at once.
        let granted = Closure::new(|| {});
        let callback = granted.as_ref().unchecked_ref();
        let over = self
            .locks
            .as_ref()?
            .request(&name(process), &options, callback);
        Some(Watch {
            abort,
            over: over.ok()?.into(),
            _granted: granted,
        })
    }
}

fn name(process: &str) -> String {
    ["tab-lease#", process].concat()
}
