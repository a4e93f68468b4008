//! Fenced transactions of the application's. The check is the first request of the transaction, and all that
//! follows is committed only if the check passes.
//!
//! # A commit in haste
//!
//! A transaction that was told to `commit()` cannot be aborted any more, not even by the answer to its first
//! request. So the `commit` of a fenced transaction waits for the check: until the check has passed, the
//! transaction has a `commit` of ours, which remembers that it was called.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Weak};

use indexed_db_futures::internals::SystemRepr;
use indexed_db_futures::transaction::Transaction;
use js_sys::Uint8Array;
use tokio::sync::oneshot;
use wasm_bindgen::prelude::*;
use web_sys::{IdbTransaction, IdbTransactionMode};

#[cfg(doc)]
use super::OBJECT_STORE;
use super::{Cause, Hear, IndexedDbError, IndexedDbStore, Shared, decode, requests};
use crate::CrossProcessStoreLockGuard;
use crate::error::LeaseLost;
use crate::fence::Fencing;
use crate::rules::Record;

/// Why a transaction is not fenced. Nothing of it is committed, unless it is
/// [`Unfit`](FenceError::Unfit): then it was left as it was.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FenceError {
    /// The lease is not current; the transaction was aborted.
    #[error(transparent)]
    Lost(#[from] LeaseLost),
    /// The transaction cannot be fenced, for the reason given. Nothing was done to it.
    #[error("the transaction cannot be fenced: {0}")]
    Unfit(&'static str),
    /// The transaction was aborted before it was checked, by the application or by the browser.
    #[error("the transaction was aborted before it was checked")]
    Aborted(Cause),
    /// The record of the lease could not be read; the transaction was aborted.
    #[error(transparent)]
    Store(#[from] IndexedDbError),
}

/// What came of the check.
type Checked = Result<(), FenceError>;
/// Is called with what came of the check.
type Settle = Box<dyn FnOnce(Checked)>;

impl CrossProcessStoreLockGuard {
    /// Fences a readwrite transaction: unless this lease is current at the time when the transaction runs,
    /// the transaction is aborted, with all its requests. Its scope must include the lease store
    /// ([`OBJECT_STORE`], or the name that was given) of the database that the lease is in: see
    /// [`IndexedDbStore::over`].
    ///
    /// The check is made by a request of its own. Requests behind the check need not wait for it. The future
    /// says what came of the check, and may be dropped.
    ///
    /// # Errors
    ///
    /// [`FenceError`]: at once, if the lease is known to be lost, or the transaction is unfit. In all other
    /// cases the future says so.
    ///
    /// # Example
    ///
    /// ```no_run
    /// # use indexed_db_futures::prelude::*;
    /// # use indexed_db_futures::{database::Database, transaction::TransactionMode};
    /// # use tab_lease::store::indexed_db::OBJECT_STORE;
    /// # async fn example(db: Database, guard: tab_lease::CrossProcessStoreLockGuard)
    /// # -> Result<(), Box<dyn std::error::Error>> {
    /// let tx = db
    ///     .transaction(["notes", OBJECT_STORE])
    ///     .with_mode(TransactionMode::Readwrite)
    ///     .build()?;
    /// let checked = guard.fence(&tx)?;
    /// tx.object_store("notes")?.put("text").with_key("key").primitive()?;
    /// checked.await?; // to hear why, if it was aborted
    /// tx.commit().await?;
    /// # Ok(()) }
    /// ```
    pub fn fence(
        &self,
        tx: &Transaction<'_>,
    ) -> Result<impl Future<Output = Checked> + use<>, FenceError> {
        fenced(self, tx, Access::Write)
    }

    /// Fences a transaction that may be readonly: what it reads was consistent while this lease was current.
    ///
    /// # Errors
    ///
    /// [`FenceError`], where [`CrossProcessStoreLockGuard::fence`] would answer with it; a readonly
    /// transaction is not [`Unfit`](FenceError::Unfit).
    pub fn fence_read(
        &self,
        tx: &Transaction<'_>,
    ) -> Result<impl Future<Output = Checked> + use<>, FenceError> {
        fenced(self, tx, Access::Read)
    }
}

fn fenced(
    guard: &CrossProcessStoreLockGuard,
    tx: &Transaction<'_>,
    access: Access,
) -> Result<impl Future<Output = Checked> + use<>, FenceError> {
    let (settle, settled) = oneshot::channel();
    let settle = Box::new(move |checked| _ = settle.send(checked));
    fence(guard, tx.as_sys(), access, settle)?;
    Ok(async move {
        // The channel is told, or dropped, when the transaction is over at the latest.
        let over = || FenceError::Aborted(Cause::new("the transaction is over"));
        settled.await.unwrap_or_else(|_| Err(over()))
    })
}

/// Which kind of transaction may be fenced.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Write,
    /// A readonly transaction will do.
    Read,
}

/// Fences `tx`; `settle` is called once, with what came of the check, as soon as that is known.
pub(crate) fn fence(
    guard: &CrossProcessStoreLockGuard,
    tx: &IdbTransaction,
    access: Access,
    settle: Settle,
) -> Checked {
    let fencing = guard.begin_fence()?;
    let other = FenceError::Unfit("it is of another database than the leases");
    let Some(store) = fencing.store::<IndexedDbStore>() else {
        return Err(other);
    };
    if store.shared.database != tx.db().name() {
        return Err(other);
    }
    let object_store = store.shared.object_store.clone();
    if !tx.object_store_names().contains(&object_store) {
        return Err(FenceError::Unfit("the lease store is not in its scope"));
    }
    let writes = tx
        .mode()
        .is_ok_and(|mode| mode == IdbTransactionMode::Readwrite);
    if !writes && access == Access::Write {
        return Err(FenceError::Unfit("it is not a readwrite transaction"));
    }
    let (shared, key) = (Arc::clone(&store.shared), fencing.key().to_owned());
    let number = shared.number(1);
    let watch = TransactionWatch {
        writes,
        fencing: RefCell::new(Some(fencing)),
        settle: Cell::new(Some(settle)),
        shared: Arc::downgrade(&shared),
        number,
    };
    shared.wait(number, 1, Rc::new(watch));
    if requests::fence(tx, &object_store, &key, number, &shared.hears).is_err() {
        shared.waits_no_more(number);
        let reason = "it is finished, or not active now";
        return Err(FenceError::Unfit(reason));
    }
    Ok(())
}

/// A fenced transaction, until it is over.
struct TransactionWatch {
    writes: bool,
    fencing: RefCell<Option<Fencing>>,
    settle: Cell<Option<Settle>>,
    shared: Weak<Shared>,
    number: u32,
}

impl Hear for TransactionWatch {
    fn hear(&self, _: u32, value: JsValue, is_over: JsValue) -> JsValue {
        if is_over.is_truthy() {
            self.settle(|| Err(FenceError::Aborted(Cause(value))));
            if let Some(shared) = self.shared.upgrade() {
                shared.waits_no_more(self.number);
            }
            self.fencing.take();
            return JsValue::UNDEFINED;
        }
        let checked = self.checked(value);
        let write = match &checked {
            Ok(Some(record)) => Uint8Array::from(&*record.encode()).into(),
            checked => checked.is_ok().into(),
        };
        self.settle(|| checked.map(drop));
        write
    }
}

impl TransactionWatch {
    fn settle(&self, checked: impl FnOnce() -> Checked) {
        if let Some(settle) = self.settle.take() {
            settle(checked());
        }
    }

    /// Checks the record that was found. Answers with what to write in the same transaction.
    fn checked(&self, found: JsValue) -> Result<Option<Record>, FenceError> {
        let record = match found.is_undefined() {
            true => None,
            false => Some(decode(found)?),
        };
        let mut fencing = self.fencing.borrow_mut();
        let Some(fencing) = fencing.as_mut() else {
            return Ok(None);
        };
        let write = fencing.check(record.as_ref())?;
        Ok(write.filter(|_| self.writes))
    }
}
