//! The wasm-bindgen surface that `js/index.js` is written on: conversions only.
//!
//! Errors are rejected as plain objects `{ code, detail, cause }`; the JavaScript side makes the
//! documented error classes of them. It has also checked all arguments. No text is formatted here:
//! that machinery would weigh more than the rest of this file (see `scripts/shrink.mjs`).

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use js_sys::{Array, Function};
use wasm_bindgen::prelude::*;
use web_sys::{IdbDatabase, IdbTransaction};

use crate::contender::CallId;
use crate::driver::{Driver, Surroundings};
use crate::guard::{self, Standing};
use crate::lock;
use crate::platform::Spawner;
use crate::rules::{Mode, Record, Requester};
use crate::store::indexed_db::{Access, Cause, FenceError, IndexedDbError, OBJECT_STORE, fence};
use crate::time::Duration;
use crate::{
    Config, CrossProcessStoreLock, CrossProcessStoreLockGuard, HIDDEN_LEASE_MS, IDLE_LEASE_MS,
    IndexedDbStore, LeaseLost, Lifecycle, Liveness, LockError, LossReason, Wake,
};

/// An allocator that is smaller by 2 kB (brotli) than the one that comes with the target.
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
    /// The driver of all locks. It is made with the first lock.
    driver: RefCell<Option<Arc<Driver<IndexedDbStore>>>>,
}

#[wasm_bindgen]
impl RawLocks {
    /// Locks with these settings. No store is touched yet. Durations are in ms.
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
        let store = IndexedDbStore::within(database, object_store).giving_up_after(timeout);
        // Each lease store has a channel of its own. An object store of the usual name is not named in it.
        let channel = match object_store {
            OBJECT_STORE => ["tab-lease:", database].concat(),
            _ => ["tab-lease/", object_store, "\0", database].concat(),
        };
        Self {
            store,
            wake: Wake::channel(&channel),
            holder,
            config,
            driver: RefCell::default(),
        }
    }

    /// These locks over an open connection of the application's. The connection has the lease store: that was
    /// checked. Unless the store is `vetted`, its content is read before the first command.
    pub fn over(self, db: IdbDatabase, vetted: bool) -> RawLocks {
        let store = self.store.connected(db, vetted);
        Self { store, ..self }
    }

    /// The lock of that key. The caller keeps one object for the life of the page, since the object remembers
    /// when it last held, for `dirty`.
    pub fn lock(&self, key: String) -> RawLock {
        let around = || Surroundings {
            wake: Some(self.wake.clone()),
            liveness: Some(Liveness::web_locks()),
            life: Some(Lifecycle::page()),
        };
        let driver = Arc::clone(self.driver.borrow_mut().get_or_insert_with(|| {
            #[allow(clippy::arc_with_non_send_sync, reason = "there are no threads")]
            let store = Arc::new(self.store.clone());
            lock::driver(store, &self.holder, around())
        }));
        let (holder, config) = (self.holder.clone(), self.config);
        let past = Arc::default();
        RawLock(CrossProcessStoreLock::over(
            driver, key, holder, config, past,
        ))
    }

    /// Calls `resolve` with what all readable records say, or `reject`. All is in one list. For each record
    /// it has
    ///
    /// - the key, and whether there is a holder;
    /// - if there is, its token, the length of its lease, and the holder itself: mode, tab, since when;
    /// - how many wait, and for each of them the same three.
    pub fn query(&self, resolve: Function, reject: Function) {
        let store = self.store.clone();
        Spawner::current().spawn(async move {
            let (tell, value) = match store.records().await {
                Ok(records) => (resolve, described(&records).into()),
                Err(error) => (reject, self::reject(LockError::Store(error))),
            };
            // Both are a promise's own functions, and do not throw.
            let _ = tell.call1(&JsValue::UNDEFINED, &value);
        });
    }
}

fn described(records: &[(String, Record)]) -> Array {
    let list = Array::new();
    let add = |value: JsValue| _ = list.push(&value);
    let asked = |who: &Requester, mode: Mode, since: u64| {
        add(match mode {
            Mode::Exclusive => "exclusive".into(),
        });
        add((&*who.tab).into());
        add((since as f64).into());
    };
    for (key, record) in records {
        add(key.into());
        add(record.holder.is_some().into());
        if let Some(holder) = &record.holder {
            add((record.token as f64).into());
            add(record.len.into());
            asked(holder, record.mode, record.since);
        }
        add((record.queue.len() as u32).into());
        for waiter in &record.queue {
            asked(&waiter.who, waiter.mode, waiter.since);
        }
    }
    list
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

    /// Waits for the lock, for at most `timeout` ms; asks only once if that is 0. Calls `resolve` with a
    /// [`RawLease`], or `reject`, at once or later. Answers with the call, for [`RawLock::leave`].
    pub fn acquire(&self, timeout: Option<f64>, resolve: Function, reject: Function) -> f64 {
        let timeout = timeout.map(|ms| Duration::from_micros((ms * 1000.0) as u64));
        let call = self.0.call_back(timeout, move |settled| {
            let (tell, value) = match settled {
                Ok(Some(guard)) => (resolve, RawLease::new(guard).into()),
                Ok(None) => (reject, self::reject(LockError::Timeout)),
                Err(error) => (reject, self::reject(error)),
            };
            // Both are a promise's own functions, and do not throw.
            let _ = tell.call1(&JsValue::UNDEFINED, &value);
        });
        call.0 as f64
    }

    /// Ends a call. If it has not been told yet, it is told nothing any more.
    pub fn leave(&self, call: f64) {
        self.0.hang_up(CallId(call as u64));
    }
}

/// A held lock.
#[wasm_bindgen]
pub struct RawLease {
    guard: RefCell<Option<CrossProcessStoreLockGuard>>,
    /// The listener that is told of a loss. It is forgotten at the release, since the lease may stay with
    /// this tab for hours after that, and be taken often.
    listener: Cell<Option<u64>>,
    /// The fencing token, below 2⁵³.
    #[wasm_bindgen(readonly)]
    pub token: f64,
    /// The series that the token is of, below 2⁵³.
    #[wasm_bindgen(readonly)]
    pub epoch: f64,
    /// Whether another holder had the lock since this tab last did.
    #[wasm_bindgen(readonly)]
    pub dirty: bool,
}

impl RawLease {
    fn new(guard: CrossProcessStoreLockGuard) -> Self {
        Self {
            listener: Cell::new(None),
            token: guard.token() as f64,
            epoch: guard.epoch() as f64,
            dirty: guard.dirty(),
            guard: RefCell::new(Some(guard)),
        }
    }
}

#[wasm_bindgen]
impl RawLease {
    /// Another lease that shares the lock with this one. Throws `{ code }` if the lease is lost. Is not
    /// called for a released one.
    pub fn share(&self) -> Result<RawLease, JsValue> {
        let guard = self.guard.borrow();
        let shared = guard.as_ref().ok_or(JsValue::UNDEFINED)?.share();
        shared.map(Self::new).map_err(lost)
    }

    /// For how many ms more the lease is good, by the clock; 0 if it is lost. For a released lease, infinity.
    pub fn left(&self) -> f64 {
        let guard = self.guard.borrow();
        let left = guard.as_ref().map(|guard| guard.left().as_micros() as f64);
        left.unwrap_or(f64::INFINITY) / 1000.0
    }

    /// Why the lease is lost, if it is. The clock counts, too: a page that hung may ask before any timer
    /// could fire. A released lease is not lost.
    pub fn loss(&self) -> Option<String> {
        let guard = self.guard.borrow();
        guard
            .as_ref()?
            .loss()
            .map(|reason| code_of(reason).to_owned())
    }

    /// Calls `resolve`, a promise's own, with a code when the lease is lost. Does not call it if the lease is
    /// released before.
    pub fn lost(&self, resolve: Function) {
        if let Some(guard) = &*self.guard.borrow() {
            let listener = guard.lease().listen(move |_, standing| {
                if let Standing::Lost(reason) = standing {
                    let _ = resolve.call1(&JsValue::UNDEFINED, &code_of(reason).into());
                }
                !matches!(standing, Standing::Held | Standing::Lingers)
            });
            self.listener.set(Some(listener));
        }
    }

    /// Fences a transaction. It must be a readwrite one, unless `reads` is set. Throws `{ code, … }` if it
    /// cannot be fenced. Calls `settle` when the check is made: with nothing, or with `{ code, … }`.
    pub fn fence(&self, tx: &IdbTransaction, reads: bool, settle: Function) -> Result<(), JsValue> {
        let guard = self.guard.borrow();
        // This is not called for a released lease.
        let guard = guard.as_ref().ok_or(JsValue::UNDEFINED)?;
        let access = if reads { Access::Read } else { Access::Write };
        let settle = Box::new(move |checked: Result<(), FenceError>| {
            let failure = checked.err().map(refused);
            // It does not throw.
            let _ = settle.call1(&JsValue::UNDEFINED, &failure.into());
        });
        fence(guard, tx, access, settle).map_err(refused)
    }

    /// Releases. Calls `resolve`, a promise's own, when the next holder can have the lock; at once, if the
    /// lease was released before.
    pub fn release(&self, resolve: Function) {
        let told = move || drop(resolve.call0(&JsValue::UNDEFINED));
        let Some(lease) = self.guard.take().map(|guard| Arc::clone(guard.lease())) else {
            return told();
        };
        if let Some(listener) = self.listener.take() {
            lease.forget(listener);
        }
        lease.listen(move |lease, standing| {
            let is_free = guard::is_free(lease, standing);
            if is_free {
                told();
            }
            is_free
        });
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

#[wasm_bindgen(module = "/src/js_objects.js")]
extern "C" {
    fn failure(code: &str, detail: Option<&str>, cause: Option<JsValue>) -> JsValue;
}
