//! Fenced transactions of the application's: the check is the first request of the transaction, so that
//! all that follows is committed only if it passes.
//!
//! # A commit in haste
//!
//! A transaction that was told to `commit()` cannot be aborted any more, not even by the answer to its
//! first request. So `commit` of a fenced transaction waits for the check: until that has passed, the
//! object has a `commit` of its own, which remembers that it was called.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use indexed_db_futures::internals::SystemRepr;
use indexed_db_futures::transaction::Transaction;
use js_sys::{Function, Reflect, Uint8Array};
use tokio::sync::oneshot;
use wasm_bindgen::prelude::*;
use web_sys::{
    DomException, Event, IdbObjectStore, IdbRequest, IdbTransaction, IdbTransactionMode,
};

#[cfg(doc)]
use super::OBJECT_STORE;
use super::{Cause, IndexedDbError, IndexedDbStore, decode};
use crate::CrossProcessStoreLockGuard;
use crate::error::LeaseLost;
use crate::fence::Fencing;

/// Why a transaction is not fenced. Nothing of it is committed, unless it is
/// [`Unfit`](FenceError::Unfit): then it was left as it was.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FenceError {
    /// The lease is not current; the transaction was aborted.
    #[error(transparent)]
    Lost(#[from] LeaseLost),
    /// The transaction cannot be fenced, for that reason. Nothing was done to it.
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
/// What hears of it, and what stands in for its `commit`.
type Closures = (Closure<dyn FnMut(Event)>, Closure<dyn FnMut()>);
/// Who is told.
type Settle = Box<dyn FnOnce(Checked)>;

impl CrossProcessStoreLockGuard {
    /// Fences a readwrite transaction: unless this lease is current at the time when the transaction runs,
    /// it is aborted, with all that was and will be asked of it. Its scope must include the lease store
    /// ([`OBJECT_STORE`], or the name that was given) of the database that the lease is in: see
    /// [`IndexedDbStore::over`].
    ///
    /// The check is made by a request of its own. Whoever asks for more behind it need not wait for it;
    /// the future says what came of it, and may be dropped.
    ///
    /// # Errors
    ///
    /// [`FenceError`]: at once, if the lease is known to be lost, or the transaction is unfit; else by the
    /// future.
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

    /// The same for a transaction that may be readonly: what it reads was consistent while this lease was
    /// current.
    ///
    /// # Errors
    ///
    /// As [`CrossProcessStoreLockGuard::fence`].
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
        // It is told when the transaction is over, at the latest.
        let over = || FenceError::Aborted(Cause::new("the transaction is over"));
        settled.await.unwrap_or_else(|_| Err(over()))
    })
}

/// What a transaction must be good for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Write,
    /// A consistent read will do.
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
    let request = tx.object_store(&object_store).and_then(|store| {
        let request = store.get(&fencing.key().into())?;
        Ok((store, request))
    });
    let Ok((store, request)) = request else {
        return Err(FenceError::Unfit("it is finished, or not active now"));
    };
    let watch = Rc::new(Watch {
        tx: tx.clone(),
        writes,
        fencing: RefCell::new(Some(fencing)),
        settle: Cell::new(Some(settle)),
        commit: Reflect::get(tx, &COMMIT.into())
            .ok()
            .and_then(|commit| commit.dyn_into().ok()),
        passed: Cell::new(false),
        commits: Cell::new(false),
        closures: RefCell::default(),
    });
    watch.begin(&store, &request);
    Ok(())
}

const COMMIT: &str = "commit";

/// A fenced transaction. Its closures keep it, until the transaction is over.
struct Watch {
    tx: IdbTransaction,
    writes: bool,
    fencing: RefCell<Option<Fencing>>,
    settle: Cell<Option<Settle>>,
    /// What `commit` was before: the platform's, or that of another fence of the same transaction.
    commit: Option<Function>,
    passed: Cell<bool>,
    /// The application has called `commit`.
    commits: Cell<bool>,
    closures: RefCell<Option<Closures>>,
}

impl Watch {
    fn begin(self: &Rc<Self>, store: &IdbObjectStore, request: &IdbRequest) {
        // One for all events: making one is the dearest part of this.
        let hears = Closure::<dyn FnMut(Event)>::new({
            let (this, store, request) = (Rc::clone(self), store.clone(), request.clone());
            move |event: Event| match event.type_().as_str() {
                "success" => this.check(&store, &request),
                _ => this.end(),
            }
        });
        let listener = hears.as_ref().unchecked_ref();
        request.set_onsuccess(Some(listener));
        // Listeners, since the handlers are the application's; capturing, so that they are called first. The
        // application may release the lease when it hears that the transaction is over.
        for event in ["complete", "abort"] {
            // Cannot fail.
            let _ = self
                .tx
                .add_event_listener_with_callback_and_bool(event, listener, true);
        }
        let commits = Closure::<dyn FnMut()>::new({
            let this = Rc::clone(self);
            move || {
                this.commits.set(true);
                this.commit_if_asked();
            }
        });
        if self.commit.is_some() {
            let _ = Reflect::set(&self.tx, &COMMIT.into(), commits.as_ref());
        }
        self.closures.replace(Some((hears, commits)));
    }

    fn check(&self, store: &IdbObjectStore, request: &IdbRequest) {
        let checked = self.checked(store, request);
        if checked.is_ok() {
            self.passed.set(true);
            self.commit_if_asked();
        } else {
            // Fails only if the application has got round the commit above.
            let _ = self.tx.abort();
        }
        if let Some(settle) = self.settle.take() {
            settle(checked);
        }
    }

    fn checked(&self, store: &IdbObjectStore, request: &IdbRequest) -> Checked {
        let found = request.result().unwrap_or_default();
        let record = match found.is_undefined() {
            true => None,
            false => Some(decode(found)?),
        };
        let mut fencing = self.fencing.borrow_mut();
        let Some(fencing) = fencing.as_mut() else {
            return Ok(());
        };
        let write = fencing.check(record.as_ref())?;
        if let Some(record) = write.filter(|_| self.writes) {
            let bytes = Uint8Array::from(&*record.encode());
            // If it fails, so does the transaction.
            let _ = store.put_with_key(&bytes, &fencing.key().into());
        }
        Ok(())
    }

    fn commit_if_asked(&self) {
        if let Some(commit) = self
            .commit
            .as_ref()
            .filter(|_| self.passed.get() && self.commits.take())
        {
            // Fails where it is too late to commit, as it may be.
            let _ = commit.call0(&self.tx);
        }
    }

    fn end(&self) {
        if let Some(settle) = self.settle.take() {
            let aborted = "the transaction was aborted";
            let reason = self
                .tx
                .error()
                .or_else(|| DomException::new_with_message_and_name(aborted, "AbortError").ok());
            let reason = reason.map_or_else(|| Cause::new(aborted), |error| Cause(error.into()));
            settle(Err(FenceError::Aborted(reason)));
        }
        let _ = Reflect::delete_property(&self.tx, &COMMIT.into());
        self.fencing.take();
        self.closures.take();
    }
}
