//! The wasm-bindgen surface that `js/index.js` is written on: conversions only.
//!
//! Errors are rejected as plain objects `{ code, detail, cause }`; the JavaScript side makes the
//! documented error classes of them. It has also checked all arguments. No text is formatted here:
//! that machinery would weigh more than the rest of this file (see `scripts/shrink.mjs`).

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use js_sys::{Array, Function, Object, Promise, Reflect};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::{JsFuture, future_to_promise};
use web_sys::{IdbDatabase, IdbTransaction};

use crate::guard;
use crate::rules::{Mode, Requester};
use crate::store::indexed_db::{Access, Cause, FenceError, IndexedDbError, OBJECT_STORE, fence};
use crate::sync::{Notify, select};
use crate::{
    Config, CrossProcessStoreLock, CrossProcessStoreLockGuard, HIDDEN_LEASE_MS, IDLE_LEASE_MS,
    IndexedDbStore, LeaseLost, Lifecycle, Liveness, LockError, LossReason, Wake,
};

/// Smaller by 2 kB (brotli) than the one that comes with the target.
#[global_allocator]
static ALLOCATOR: talc::wasm::WasmDynamicTalc = talc::wasm::new_wasm_dynamic_allocator();

type Failure = LockError<IndexedDbError>;

/// Changes whenever a lease of this page may end sooner than [`RawLease::left`] has said.
#[wasm_bindgen]
pub fn cuts() -> usize {
    guard::cuts()
}

/// One database, with one set of settings.
#[wasm_bindgen]
pub struct RawLocks {
    store: IndexedDbStore,
    wake: Wake,
    holder: String,
    config: Config,
}

#[wasm_bindgen]
impl RawLocks {
    /// Touches no store. Durations are in ms.
    #[wasm_bindgen(constructor)]
    pub fn new(
        database: &str,
        object_store: &str,
        holder: String,
        lease_ms: u32,
        heartbeat_ms: u32,
        store_timeout_ms: u32,
    ) -> RawLocks {
        let config = Config {
            lease_ms,
            heartbeat_ms,
            idle_lease_ms: IDLE_LEASE_MS.max(lease_ms),
            hidden_lease_ms: HIDDEN_LEASE_MS.max(lease_ms),
            ..Config::default()
        };
        let timeout = Duration::from_millis(store_timeout_ms.into());
        let store = IndexedDbStore::within(database, object_store).with_timeout(timeout);
        // Each lease store has a channel of its own; that of most databases has no name.
        let channel = match object_store {
            OBJECT_STORE => ["tab-lease:", database].concat(),
            _ => ["tab-lease/", object_store, "\0", database].concat(),
        };
        Self {
            store,
            wake: Wake::channel(&channel),
            holder,
            config,
        }
    }

    /// The same, over an open connection of the application's. It has the lease store: that was checked.
    /// Unless it is `vetted`, it is looked into before the first command.
    pub fn over(self, db: IdbDatabase, vetted: bool) -> RawLocks {
        let store = self.store.connected(db, vetted);
        Self { store, ..self }
    }

    /// The lock of that key: one object for the life of the page, since it remembers when it last
    /// held, for `dirty`.
    pub fn lock(&self, key: String) -> RawLock {
        let (store, holder) = (self.store.clone(), self.holder.clone());
        let lock = CrossProcessStoreLock::build(store, key, holder, self.config, Arc::default());
        let lock = lock.woken_by(&self.wake).watching(&Liveness::web_locks());
        RawLock(lock.living(&Lifecycle::page()))
    }

    /// Resolves with an array of what every readable record says.
    pub fn query(&self) -> Promise {
        let store = self.store.clone();
        promise(async move {
            let records = store.records().await;
            let records = records.map_err(|error| reject(LockError::Store(error)))?;
            let described = Array::new();
            for (key, record) in &records {
                let object = Object::new();
                if let Some(holder) = &record.holder {
                    let held = request(holder, record.mode, record.since);
                    set(&held, "token", (record.token as f64).into());
                    set(&held, "leaseMs", record.len.into());
                    set(&object, "held", held.into());
                }
                let queue = Array::new();
                for waiter in &record.queue {
                    queue.push(&request(&waiter.who, waiter.mode, waiter.since));
                }
                set(&object, "key", key.as_str().into());
                set(&object, "queue", queue.into());
                described.push(&object);
            }
            Ok(described.into())
        })
    }
}

/// One lock.
#[wasm_bindgen]
pub struct RawLock(CrossProcessStoreLock<IndexedDbStore>);

#[wasm_bindgen]
impl RawLock {
    /// A lock of the same key that shares no lease with this one.
    pub fn apart(&self) -> RawLock {
        RawLock(self.0.apart())
    }

    /// Waits for the lock, for at most `timeout` ms; asks once if that is 0. Resolves with
    /// `undefined` if `cancelled` resolved first.
    pub fn acquire(&self, timeout: Option<f64>, cancelled: Option<Promise>) -> Promise {
        let lock = self.0.clone();
        let timeout = timeout.map(|ms| Duration::from_micros((ms * 1000.0) as u64));
        promise(async move {
            let cancelled = async move {
                match cancelled {
                    Some(cancelled) => drop(JsFuture::from(cancelled).await),
                    None => std::future::pending().await,
                }
            };
            select! {
                guard = lock.acquire(timeout) => Ok(RawLease::new(guard.map_err(reject)?).into()),
                () = cancelled => Ok(JsValue::UNDEFINED),
            }
        })
    }
}

/// A held lock.
#[wasm_bindgen]
pub struct RawLease {
    guard: RefCell<Option<CrossProcessStoreLockGuard>>,
    /// Ends the waiting for a loss: the lock may stay with this tab for hours, and be taken often.
    released: Rc<Notify>,
    /// The fencing token, below 2⁵³.
    #[wasm_bindgen(readonly)]
    pub token: f64,
    /// Which series of tokens that is of, below 2⁵³.
    #[wasm_bindgen(readonly)]
    pub epoch: f64,
    /// Whether another holder had the lock since this tab last did.
    #[wasm_bindgen(readonly)]
    pub dirty: bool,
}

impl RawLease {
    fn new(guard: CrossProcessStoreLockGuard) -> Self {
        Self {
            released: Rc::default(),
            token: guard.token() as f64,
            epoch: guard.epoch() as f64,
            dirty: guard.dirty(),
            guard: RefCell::new(Some(guard)),
        }
    }
}

#[wasm_bindgen]
impl RawLease {
    /// Another lease that shares the lock with this one. Throws `{ code }` if it is lost; released ones do
    /// not get here.
    pub fn share(&self) -> Result<RawLease, JsValue> {
        let guard = self.guard.borrow();
        let shared = guard.as_ref().ok_or(JsValue::UNDEFINED)?.share();
        shared.map(Self::new).map_err(lost)
    }

    /// For how many ms more the lease is good, by the clock; 0 if it is over. Released ones do not end.
    pub fn left(&self) -> f64 {
        let guard = self.guard.borrow();
        let left = guard.as_ref().map(|guard| guard.left().as_micros() as f64);
        left.unwrap_or(f64::INFINITY) / 1000.0
    }

    /// Why the lease is not good any more, if so, also by the clock: a page that hung may ask before
    /// anybody could tell it. Never of one that was released.
    pub fn loss(&self) -> Option<String> {
        let guard = self.guard.borrow();
        guard
            .as_ref()?
            .loss()
            .map(|reason| code_of(reason).to_owned())
    }

    /// Resolves with `{ code }` when the lease is lost; never, if it is released before.
    pub fn lost(&self) -> Promise {
        let lost = self.guard.borrow().as_ref().map(|guard| guard.lost());
        let released = Rc::clone(&self.released);
        promise(async move {
            let Some(lost) = lost else {
                return std::future::pending().await;
            };
            let lost = select! {
                lost = lost => lost,
                () = released.notified() => return std::future::pending().await,
            };
            Ok(self::lost(lost))
        })
    }

    /// Fences a transaction: a readwrite one, unless `reads` says that it need not be. Throws
    /// `{ code, … }`, or calls `settle` with it, or with nothing once the check has passed.
    pub fn fence(&self, tx: &IdbTransaction, reads: bool, settle: Function) -> Result<(), JsValue> {
        let guard = self.guard.borrow();
        // Released ones do not get here.
        let guard = guard.as_ref().ok_or(JsValue::UNDEFINED)?;
        let access = if reads { Access::Read } else { Access::Write };
        let settle = Box::new(move |checked: Result<(), FenceError>| {
            let failure = checked.err().map(refused);
            // It does not throw.
            let _ = settle.call1(&JsValue::UNDEFINED, &failure.into());
        });
        fence(guard, tx, access, settle).map_err(refused)
    }

    /// Releases; resolves when the next one can have the lock. A second call does nothing.
    pub fn release(&self) -> Promise {
        let released = self.guard.take().map(CrossProcessStoreLockGuard::release);
        self.released.notify_one();
        promise(async move {
            if let Some(released) = released {
                released.await;
            }
            Ok(JsValue::UNDEFINED)
        })
    }
}

fn code_of(loss: LossReason) -> &'static str {
    match loss {
        LossReason::Superseded => "LEASE_SUPERSEDED",
        LossReason::Expired => "LEASE_EXPIRED",
        LossReason::StoreFailed => "LEASE_STORE_FAILED",
        LossReason::Suspended => "LEASE_SUSPENDED",
        LossReason::StoreClosed => "LEASE_STORE_CLOSED",
    }
}

fn lost(lost: LeaseLost) -> JsValue {
    failure(code_of(lost.reason), None, None)
}

fn refused(error: FenceError) -> JsValue {
    match error {
        FenceError::Lost(error) => lost(error),
        FenceError::Unfit(why) => failure("UNFIT", Some(why), None),
        FenceError::Aborted(Cause(cause)) => failure("ABORTED", None, Some(cause)),
        FenceError::Store(error) => reject(LockError::Store(error)),
    }
}

fn reject(error: Failure) -> JsValue {
    match error {
        LockError::Timeout => failure("TIMEOUT", None, None),
        LockError::Store(error) => match error {
            IndexedDbError::Unavailable(Cause(cause)) => {
                failure("STORE_UNAVAILABLE", None, Some(cause))
            }
            IndexedDbError::Blocked => failure("STORE_BLOCKED", None, None),
            IndexedDbError::Foreign => failure("STORE_FOREIGN", None, None),
            IndexedDbError::NotLeases(store) => failure("NOT_LEASES", Some(&store), None),
            IndexedDbError::Closed => failure("STORE_CLOSED", None, None),
            IndexedDbError::Stalled => failure("STORE_STALLED", None, None),
            IndexedDbError::Corrupt(why) => failure("STORE_CORRUPT", Some(why), None),
            IndexedDbError::Failed(Cause(cause)) => failure("STORE_FAILED", None, Some(cause)),
        },
    }
}

fn failure(code: &str, detail: Option<&str>, cause: Option<JsValue>) -> JsValue {
    let object = Object::new();
    set(&object, "code", code.into());
    set(&object, "detail", detail.into());
    set(&object, "cause", cause.into());
    object.into()
}

fn request(who: &Requester, mode: Mode, since: u64) -> Object {
    let object = Object::new();
    let mode = match mode {
        Mode::Exclusive => "exclusive",
    };
    set(&object, "mode", mode.into());
    set(&object, "clientId", who.tab.as_str().into());
    set(&object, "since", (since as f64).into());
    object
}

#[inline(never)]
fn set(object: &Object, key: &str, value: JsValue) {
    // Cannot fail on a plain object.
    let _ = Reflect::set(object, &key.into(), &value);
}

/// One instance of the machinery for all promises: it is not small.
fn promise(future: impl Future<Output = Result<JsValue, JsValue>> + 'static) -> Promise {
    let future: Pin<Box<dyn Future<Output = _>>> = Box::pin(future);
    future_to_promise(future)
}
