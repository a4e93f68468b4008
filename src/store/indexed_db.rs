//! Leases in IndexedDB: one database, one object store, one short transaction per command.
//!
//! The database is one of the package's own, or the application's ([`IndexedDbStore::over`]), whose
//! transactions can then be [fenced](CrossProcessStoreLockGuard::fence).
//!
//! Nothing else names IndexedDB. A command is one readwrite transaction of a get, a
//! put and a commit that is awaited; between the get and the put nothing else is awaited, or the
//! browser would commit early.
//!
//! # Pages that stop
//!
//! A page that hangs or is frozen between the get and the put blocks everybody's transactions until it
//! goes on (a frozen one: for a minute). So what is sent most often, the renewal, needs no answer to
//! be complete: a get, a put of a [`Note`] and `commit()`, all at once. And when the page is
//! [suspended](Lifecycle) the transactions that are open are aborted, and no command begins one
//! until it goes on.
//!
//! # The connection
//!
//! `Link` says how it stands; all clones of a store share one. It is opened by the first command
//! and again by the next one after it was lost:
//!
//! - Another tab wants to upgrade or delete the database (`versionchange`). We close at once, so as not to
//!   block it, but not before the holders here have been told: see [`BackingStore::closing`].
//! - The browser closed it (`close`): its storage process crashed, iOS stopped it in the background, or the
//!   user cleared the site's data. The new connection shows which: a record that was there before
//!   (`Shared::witness`) is there still, and the leases go on, or it is not, and they have ended.
//! - A transaction or the opening failed, or nothing answered in time.
//!
//! A command that failed is sent once more over a new connection, which is safe: see
//! [`BackingStore::apply`]. An opening that failed is tried once more, too. Then the caller hears of it.
//!
//! So is one whose answer came after the leases of its database had ended: a deletion waits for transactions,
//! not for whoever hears of them.
//!
//! The application's own connection is used as it is: what closes or replaces it is the application's
//! business, and a command on a closed one fails.
//!
//! # Whose store it is
//!
//! An application may have an object store of the name that we want. Ours is recognised by its shape (no
//! key path, no key generator) and its [mark](STORE_MARK). One that has the shape alone was made by somebody
//! who does not know the mark: a Dexie schema, or an older version of this package. Then its content is read
//! before the first command: all of it must be ours.
//!
//! Opening runs in a task of its own. A caller that gives up leaves no half-open connection behind,
//! which would block everybody's upgrades for as long as nobody collects it.

mod fence;
mod opening;
mod requests;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use indexed_db_futures::database::Database;
use indexed_db_futures::internals::SystemRepr;
use js_sys::{Array, Reflect, Uint8Array};
use wasm_bindgen::prelude::*;
use web_sys::{EventTarget, IdbDatabase, IdbObjectStore, IdbTransaction};

#[cfg(doc)]
use crate::CrossProcessStoreLockGuard;
use crate::lifecycle::{Lifecycle, Live};
use crate::platform::{BoxFuture, Spawner, sleep, step_back};
use crate::rules::{self, Command, Corrupt, Note, Outcome, Record, Requester};
use crate::store::BackingStore;
use crate::sync::{Notify, select};

use opening::{Look, is_ours, look, open};
use requests::{answer, begin, commit, failed, result};

pub use fence::FenceError;
#[cfg(feature = "npm")]
pub(crate) use fence::{Access, fence};
pub use opening::add_lease_store;

/// The database that is used unless another is named.
pub const DATABASE: &str = "tab-lease";

/// The object store that holds the leases, unless another is named: key = lock name, value = an encoded
/// [`Record`]; and beside them key = [lock name, tab, request], value = an encoded [`Note`].
pub const OBJECT_STORE: &str = "leases";

/// The mark of a lease store: an index of this name, over the property of this name. No lease has that
/// property, so the index is always empty. It can be seen without a request.
pub const STORE_MARK: &str = "tab_lease";

/// How long to wait, in ms, between two tries to open a database whose connection was lost.
const REOPEN_PAUSE_MS: u64 = 250;

/// How long a command may take, in ms, before it is given up with [`IndexedDbError::Stalled`].
pub const STORE_TIMEOUT_MS: u32 = 10_000;

/// How IndexedDB failed. Nothing is held after such an error.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexedDbError {
    /// There is no IndexedDB here, or it is refused: private mode, blocked site data, a sandboxed
    /// frame.
    #[error("IndexedDB is missing or refused here")]
    Unavailable(Cause),
    /// The database must be upgraded first, and a tab that has it open does not let go.
    #[error(
        "an upgrade of the database is blocked by another tab that keeps it open; close that tab"
    )]
    Blocked,
    /// The database exists and is somebody else's: leases are not put there uninvited.
    #[error("the database holds something else than leases; choose another database name")]
    Foreign,
    /// The application has an object store of that name, which is not a lease store. It was not touched.
    #[error("the object store {0:?} is not a lease store; choose another name for that")]
    NotLeases(String),
    /// The application has closed the connection that it gave to [`IndexedDbStore::over`], or the browser
    /// has.
    #[error("the database connection that the leases use was closed")]
    Closed,
    /// No answer in time: another transaction, a pending deletion, or the browser itself holds the
    /// database up.
    #[error("IndexedDB did not answer in time; another tab may be blocking the database")]
    Stalled,
    /// The record of this lock is damaged or foreign. It is left as it is.
    #[error("the stored lease record cannot be read: {0}")]
    Corrupt(&'static str),
    /// Opening, reading or writing failed.
    #[error("IndexedDB failed")]
    Failed(Cause),
}

/// The JavaScript error behind an [`IndexedDbError`].
#[derive(Clone, Debug, PartialEq)]
pub struct Cause(pub JsValue);

impl Cause {
    fn new(message: &str) -> Self {
        Self(js_sys::Error::new(message).into())
    }

    /// Whether this is what a closed connection says to a new transaction.
    fn is_closed(&self) -> bool {
        self.is("InvalidStateError")
    }

    /// Whether this is an error of that name.
    fn is(&self, name: &str) -> bool {
        Reflect::get(&self.0, &"name".into()).is_ok_and(|found| found == name)
    }
}

/// How the connection stands.
#[derive(Clone)]
enum Link {
    Closed,
    Opening,
    /// Still being opened, with another tab in the way.
    Blocked,
    Open(Rc<Connection>),
    Failed(IndexedDbError),
}

/// A value whose changes can be waited for.
struct Watched<T> {
    value: RefCell<T>,
    changed: Notify,
}

impl<T> Watched<T> {
    fn new(value: T) -> Self {
        let (value, changed) = (RefCell::new(value), Notify::new());
        Self { value, changed }
    }

    fn borrow(&self) -> std::cell::Ref<'_, T> {
        self.value.borrow()
    }

    fn set(&self, value: T) {
        drop(self.value.replace(value));
        self.changed.notify_waiters();
    }

    /// `change` answers whether it has changed it.
    fn change(&self, change: impl FnOnce(&mut T) -> bool) {
        let changed = change(&mut self.value.borrow_mut());
        if changed {
            self.changed.notify_waiters();
        }
    }

    /// Resolves at the next change from now on.
    fn changed(&self) -> impl Future<Output = ()> {
        self.changed.notified()
    }
}

struct Connection {
    db: IdbDatabase,
    /// What watches a connection of ours; nothing, if it is the application's.
    own: Option<[Closure<dyn FnMut()>; 2]>,
    /// The object store is known to be one of leases.
    vetted: Cell<bool>,
}

impl Connection {
    fn new(db: IdbDatabase, shared: &Arc<Shared>) -> Rc<Self> {
        Rc::new_cyclic(|this: &Weak<Self>| {
            let forget = |lost: fn(&Arc<Shared>)| {
                let shared = Arc::downgrade(shared);
                let this = this.clone();
                Closure::new(move || {
                    let (Some(shared), Some(this)) = (shared.upgrade(), this.upgrade()) else {
                        return;
                    };
                    this.forget(&shared.link);
                    lost(&shared);
                    Spawner::current().spawn(async move {
                        // Whoever holds here is told first, and the page with it.
                        step_back().await;
                        this.db.close();
                    });
                })
            };
            let on_versionchange = forget(|shared| shared.end_leases());
            let on_close = forget(|shared| Spawner::current().spawn(Arc::clone(shared).severed()));
            db.set_onversionchange(Some(on_versionchange.as_ref().unchecked_ref()));
            db.set_onclose(Some(on_close.as_ref().unchecked_ref()));
            Self {
                db,
                own: Some([on_versionchange, on_close]),
                vetted: Cell::new(true),
            }
        })
    }

    /// The next command opens a new connection.
    fn forget(&self, link: &Watched<Link>) {
        if self.own.is_none() {
            return;
        }
        link.change(|link| match link {
            Link::Open(open) if std::ptr::eq(&**open, self) => {
                *link = Link::Closed;
                true
            }
            _ => false,
        });
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.own.is_none() {
            return;
        }
        self.db.set_onversionchange(None);
        self.db.set_onclose(None);
        self.db.close();
    }
}

/// Leases in IndexedDB, shared by all tabs and workers of an origin. Clones share a connection.
///
/// # Example
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use tab_lease::{CrossProcessStoreLock, IndexedDbStore};
///
/// let store = IndexedDbStore::new("tab-lease");
/// let lock = CrossProcessStoreLock::new(store, "inbox", "my app");
/// let guard = lock.spin_lock(None).await?;
/// guard.release().await;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct IndexedDbStore {
    timeout: Duration,
    shared: Arc<Shared>,
}

/// What the clones of a store share.
struct Shared {
    database: String,
    object_store: String,
    link: Watched<Link>,
    /// How often somebody else had the database closed.
    closings: Watched<u32>,
    /// One is held by everybody who wants to be told of that, and one more here.
    holders: Rc<()>,
    life: Lifecycle,
    /// Transactions that would stay open if the page stopped now.
    open: RefCell<Vec<IdbTransaction>>,
    /// Who has a note in the store, as far as it was written here.
    noted: RefCell<Vec<(String, Requester)>>,
    /// Renewals so far.
    renewals: Cell<u64>,
    /// The key and the epoch of a record that was seen. Records outlive their leases: if it is gone, or of
    /// another epoch, so is the database that it was in.
    witness: RefCell<Option<(String, u64)>>,
}

impl Live for Shared {
    fn hidden(&self, _: bool) {}

    fn suspended(&self, suspended: bool) {
        if suspended {
            for transaction in self.open.take() {
                // One that has just ended.
                let _ = transaction.abort();
            }
        }
    }
}

impl std::fmt::Debug for IndexedDbStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IndexedDbStore")
            .field("database", &self.shared.database)
            .finish_non_exhaustive()
    }
}

impl IndexedDbStore {
    /// A store in the database of that name ([`DATABASE`], unless there is a reason), which is
    /// created if it does not exist. Touches nothing until the first command.
    #[must_use]
    pub fn new(database: &str) -> Self {
        Self::within(database, OBJECT_STORE)
    }

    /// The same, in an object store of another name than [`OBJECT_STORE`].
    #[must_use]
    pub fn within(database: &str, object_store: &str) -> Self {
        let life = Lifecycle::page();
        #[allow(clippy::arc_with_non_send_sync, reason = "there are no threads")]
        let shared = Arc::new(Shared {
            database: database.to_owned(),
            object_store: object_store.to_owned(),
            link: Watched::new(Link::Closed),
            closings: Watched::new(0),
            holders: Rc::default(),
            life: life.clone(),
            open: RefCell::default(),
            noted: RefCell::default(),
            renewals: Cell::new(0),
            witness: RefCell::default(),
        });
        let watcher = Arc::downgrade(&shared);
        life.watch(watcher);
        Self {
            timeout: Duration::from_millis(STORE_TIMEOUT_MS.into()),
            shared,
        }
    }

    /// A store in a database of the application's, over its own open connection. `object_store` is the name
    /// that was given to [`add_lease_store`]: [`OBJECT_STORE`], unless the application has a store of that
    /// name. The connection stays the application's: whoever closes it ends the leases.
    ///
    /// Transactions of this database can be [fenced](CrossProcessStoreLockGuard::fence).
    ///
    /// # Errors
    ///
    /// [`IndexedDbError::Foreign`], if there is no such store; [`IndexedDbError::NotLeases`], if there is
    /// one that [`add_lease_store`] did not make; [`IndexedDbError::Closed`], if the connection is closed.
    pub fn over(db: Database, object_store: &str) -> Result<Self, IndexedDbError> {
        let db: IdbDatabase = (**db.as_sys()).clone();
        if !db.object_store_names().contains(object_store) {
            return Err(IndexedDbError::Foreign);
        }
        let tx = db.transaction_with_str(object_store);
        let Ok(store) = tx.and_then(|tx| tx.object_store(object_store)) else {
            return Err(IndexedDbError::Closed);
        };
        if look(&store) != Look::Marked {
            return Err(IndexedDbError::NotLeases(object_store.to_owned()));
        }
        Ok(Self::within(&db.name(), object_store).connected(db, true))
    }

    /// The same store over a connection of the application's. Unless it is `vetted`, the object store is
    /// looked at before the first command.
    pub(crate) fn connected(self, db: IdbDatabase, vetted: bool) -> Self {
        let shared = Arc::downgrade(&self.shared);
        // Whether the application closes it or not: it may have been told first.
        let closing = Closure::<dyn Fn()>::new(move || {
            if let Some(shared) = shared.upgrade() {
                shared.end_leases();
            }
        });
        let closing = closing.into_js_value();
        for event in ["versionchange", "close"] {
            let target: &EventTarget = &db;
            let _ = target.add_event_listener_with_callback(event, closing.unchecked_ref());
        }
        let connection = Connection {
            db,
            own: None,
            vetted: Cell::new(vetted),
        };
        let link = Link::Open(Rc::new(connection));
        self.shared.link.set(link);
        self
    }

    /// The same store, with another limit than [`STORE_TIMEOUT_MS`] for how long a command may take.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// All records, by key: for people and tools that want to see who holds. Records that cannot be
    /// read are left out.
    ///
    /// # Errors
    ///
    /// [`IndexedDbError`], except [`IndexedDbError::Corrupt`].
    pub async fn records(&self) -> Result<Vec<(String, Record)>, IndexedDbError> {
        self.bounded(async |db| {
            let name = &self.shared.object_store;
            let tx = begin(db, name, "readonly")?;
            let store = tx.object_store(name).map_err(failed)?;
            let keys = store.get_all_keys().map_err(failed)?;
            let values = store.get_all().map_err(failed)?;
            let keys: Array = result(&keys).await.map_err(failed)?.unchecked_into();
            let values: Array = result(&values).await.map_err(failed)?.unchecked_into();
            let (mut records, mut notes) = (Vec::new(), Vec::new());
            for (key, value) in keys.iter().zip(values.iter()) {
                if let Some(name) = key.as_string() {
                    records.extend(decode(value).ok().map(|record| (name, record)));
                } else if let Some((name, who)) = read_note_key(&key) {
                    notes.extend(decode_note(value).ok().map(|note| (name, who, note)));
                }
            }
            for (name, record) in &mut records {
                let mut notes = notes.iter();
                let holders = |(of, who, _): &&(String, Requester, Note)| {
                    of == name && Some(who) == record.holder.as_ref()
                };
                if let Some((_, _, note)) = notes.find(holders) {
                    *record = rules::with_note(record, note);
                }
            }
            Ok(records)
        })
        .await
    }

    /// Runs `work` on an open connection, once more on a new one if it fails, and gives up when the store's
    /// time is over. An opening that fails is tried once more as well.
    async fn bounded<T>(
        &self,
        work: impl AsyncFn(&IdbDatabase) -> Result<T, IndexedDbError>,
    ) -> Result<T, IndexedDbError> {
        use IndexedDbError::{Closed, Failed, Stalled, Unavailable};

        let used = Cell::new(None::<Rc<Connection>>);
        let tried = async {
            let (mut reopened, mut resent) = (false, false);
            loop {
                self.shared.life.running().await;
                used.take();
                // Boxed, so that its code is not repeated in every kind of work.
                let connection = match Box::pin(self.connection()).await {
                    Ok(connection) => connection,
                    Err(Failed(_) | Unavailable(_)) if !reopened => {
                        reopened = true;
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                used.set(Some(Rc::clone(&connection)));
                let closings = *self.shared.closings.borrow();
                match work(&connection.db).await {
                    // It says what was true of a database that has been deleted since.
                    Ok(_) if *self.shared.closings.borrow() != closings => {}
                    Err(Failed(_)) if !resent => {
                        resent = true;
                        connection.forget(&self.shared.link);
                    }
                    Err(Failed(cause)) if connection.own.is_none() && cause.is_closed() => {
                        return Err(Closed);
                    }
                    done => return done,
                }
            }
        };
        select! {
            done = tried => done,
            () = sleep(self.timeout) => {
                // In case that it is dead: the next command opens a new one.
                let link = &self.shared.link;
                match used.take() {
                    Some(connection) => connection.forget(link),
                    None => link.change(|link| {
                        let opening = matches!(link, Link::Opening);
                        if opening {
                            *link = Link::Closed;
                        }
                        opening
                    }),
                }
                Err(Stalled)
            },
        }
    }

    /// An open connection to a store that is known to be ours.
    async fn connection(&self) -> Result<Rc<Connection>, IndexedDbError> {
        // What failed before is tried again; what fails from now on is told.
        let mut failed_before = true;
        let connection = loop {
            let changed = self.shared.link.changed();
            let idle = match &*self.shared.link.borrow() {
                Link::Open(connection) => break Rc::clone(connection),
                Link::Blocked => return Err(IndexedDbError::Blocked),
                Link::Failed(error) if !failed_before => return Err(error.clone()),
                Link::Failed(_) | Link::Closed => true,
                Link::Opening => false,
            };
            failed_before = false;
            if idle {
                self.begin_opening();
            } else {
                changed.await;
            }
        };
        if !connection.vetted.get() {
            let store = &self.shared.object_store;
            match is_ours(&connection.db, store).await {
                Ok(true) => connection.vetted.set(true),
                Ok(false) => return Err(IndexedDbError::NotLeases(store.clone())),
                // The application's connection: there is no other.
                Err(IndexedDbError::Failed(cause)) if cause.is_closed() => {
                    return Err(IndexedDbError::Closed);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(connection)
    }

    /// Opens in a task of its own.
    fn begin_opening(&self) {
        self.shared.link.set(Link::Opening);
        let (database, store) = (
            self.shared.database.clone(),
            self.shared.object_store.clone(),
        );
        let shared = Arc::downgrade(&self.shared);
        Spawner::current().spawn(async move {
            let opened = open(&database, &store, &shared).await;
            let Some(shared) = shared.upgrade() else {
                // All stores are gone by now.
                return opened.into_iter().for_each(|db| db.close());
            };
            let opened = match opened {
                Ok(db) => {
                    // It hears from now on of others who want it closed.
                    let connection = Connection::new(db, &shared);
                    let recognised = shared.recognise(&connection.db).await;
                    recognised.map(|()| connection)
                }
                Err(error) => Err(error),
            };
            shared.link.change(|link| {
                // Given up since, and opened by another try.
                let late = opened.is_err() && matches!(link, Link::Open(_));
                if !late {
                    *link = opened.map_or_else(Link::Failed, Link::Open);
                }
                !late
            });
        });
    }
}

#[async_trait(?Send)]
impl BackingStore for IndexedDbStore {
    type Error = IndexedDbError;

    async fn apply(&self, key: &str, command: Command) -> Result<Outcome, IndexedDbError> {
        let batch = vec![(key.to_owned(), command)];
        let answer = self.apply_all(batch).await.pop();
        answer.unwrap_or(Err(IndexedDbError::Stalled))
    }

    /// One transaction for all. One that holds nothing but renewals needs no answer to be complete.
    async fn apply_all(
        &self,
        batch: Vec<(String, Command)>,
    ) -> Vec<Result<Outcome, IndexedDbError>> {
        let renews = |(_, command): &(String, Command)| matches!(command, Command::Renew { len, .. } if *len > 0);
        let work = match batch.iter().all(renews) {
            true => Work::Renew,
            false => Work::Apply,
        };
        let answers = self.work(work, batch).await.into_iter();
        let answers = answers.map(|answer| answer?.ok_or(IndexedDbError::Stalled));
        answers.collect()
    }

    /// One readonly transaction for all.
    async fn look_all(
        &self,
        batch: Vec<(String, Command)>,
    ) -> Vec<Result<Option<Outcome>, IndexedDbError>> {
        self.work(Work::Look, batch).await
    }

    fn batches(&self) -> bool {
        true
    }

    fn leave(&self, key: &str, who: &Requester) {
        if let Link::Open(connection) = &*self.shared.link.borrow()
            && connection.vetted.get()
        {
            // There is nobody to tell of an error.
            let _ = self.shared.leave(&connection.db, key, who);
        }
    }

    fn closing(&self) -> BoxFuture<()> {
        let shared = Arc::clone(&self.shared);
        let (holder, before) = (Rc::clone(&shared.holders), *shared.closings.borrow());
        Box::pin(async move {
            let _holder = holder;
            loop {
                let changed = shared.closings.changed();
                if *shared.closings.borrow() != before {
                    return;
                }
                changed.await;
            }
        })
    }
}

/// What became of each command of a transaction that did not fail. Nothing, of one that has only been looked at
/// and has to be applied.
type Answers = Result<Vec<Result<Option<Outcome>, IndexedDbError>>, IndexedDbError>;

/// What to do with commands in a transaction.
#[derive(Clone, Copy)]
enum Work {
    Renew,
    Apply,
    Look,
}

impl IndexedDbStore {
    /// One way for all kinds, so that the code around it is not repeated.
    async fn work(
        &self,
        work: Work,
        batch: Vec<(String, Command)>,
    ) -> Vec<Result<Option<Outcome>, IndexedDbError>> {
        let answers = self.bounded(async |db| match work {
            Work::Renew => self.shared.renew(db, &batch).await,
            Work::Apply => self.shared.transact(db, &batch).await,
            Work::Look => self.shared.look(db, &batch).await,
        });
        let answers = answers.await;
        answers.unwrap_or_else(|error| vec![Err(error); batch.len()])
    }
}

impl Shared {
    /// Somebody else closes the database: all leases in it end.
    fn end_leases(&self) {
        self.witness.take();
        self.closings.change(|closings| {
            *closings += 1;
            true
        });
    }

    /// The browser has closed the connection. While anybody holds, it is opened again now, not with the next
    /// renewal: what is found then may end the leases.
    async fn severed(self: Arc<Self>) {
        let timeout = Duration::from_millis(STORE_TIMEOUT_MS.into());
        let store = IndexedDbStore {
            timeout,
            shared: self,
        };
        while Rc::strong_count(&store.shared.holders) > 1 {
            store.shared.life.running().await;
            if store.connection().await.is_ok() {
                return;
            }
            // The heartbeats fail as well, and tell if a lease runs out by that.
            sleep(Duration::from_millis(REOPEN_PAUSE_MS)).await;
        }
    }

    /// Looks at a database that was opened, before any command does. Ends the leases if it is another one
    /// than before: whoever renews would only hear that the lease is not there.
    async fn recognise(&self, db: &IdbDatabase) -> Result<(), IndexedDbError> {
        if !is_ours(db, &self.object_store).await? {
            return Err(IndexedDbError::Foreign);
        }
        let Some((key, epoch)) = self.witness.borrow().clone() else {
            return Ok(());
        };
        let tx = begin(db, &self.object_store, "readonly")?;
        let store = tx.object_store(&self.object_store).map_err(failed)?;
        let found = answer(store.get(&key.into())).await?;
        if !decode(found).is_ok_and(|record| record.epoch == epoch) {
            self.end_leases();
        }
        Ok(())
    }

    fn see(&self, key: &str, record: &Record) {
        let mut witness = self.witness.borrow_mut();
        if witness
            .as_ref()
            .is_none_or(|(of, epoch)| of == key && *epoch != record.epoch)
        {
            *witness = Some((key.to_owned(), record.epoch));
        }
    }

    /// Commands in one transaction, each answered by what it finds.
    async fn transact(&self, db: &IdbDatabase, batch: &[(String, Command)]) -> Answers {
        let name = &self.object_store;
        let open = Open::new(self, begin(db, name, "readwrite")?);
        let store = open.tx.object_store(name).map_err(failed)?;
        let mut found = Vec::with_capacity(batch.len());
        for (place, (key, _)) in batch.iter().enumerate() {
            // Asked for ahead, unless a command before it may change it.
            let is_first = batch[..place].iter().all(|(before, _)| before != key);
            let get = || store.get(&key.as_str().into()).map_err(failed);
            found.push(is_first.then(get).transpose()?);
        }
        let (mut answers, mut written) = (Vec::with_capacity(batch.len()), false);
        for ((key, command), found) in batch.iter().zip(found) {
            let found = match found {
                Some(found) => found,
                None => store.get(&key.as_str().into()).map_err(failed)?,
            };
            let found = result(&found).await.map_err(failed)?;
            answers.push(
                match self.step(&store, key, command, found, &mut written).await {
                    // The transaction has failed, not one record.
                    Err(error @ IndexedDbError::Failed(_)) => return Err(error),
                    answer => answer.map(Some),
                },
            );
        }
        if written {
            open.commit().await?;
        }
        Ok(answers)
    }

    /// Takes that perhaps need not be applied. A record that cannot be read is for [`Shared::step`] to report.
    async fn look(&self, db: &IdbDatabase, batch: &[(String, Command)]) -> Answers {
        let mut open = Open::new(self, begin(db, &self.object_store, "readonly")?);
        let store = open.tx.object_store(&self.object_store).map_err(failed)?;
        // All are asked for before the first is answered, and so are the notes: two turns, not two each.
        let mut found = Vec::with_capacity(batch.len());
        for (key, _) in batch {
            found.push(store.get(&key.as_str().into()).map_err(failed)?);
        }
        let mut seen = Vec::with_capacity(batch.len());
        for ((key, _), found) in batch.iter().zip(found) {
            let record = decode(result(&found).await.map_err(failed)?).ok();
            let holder = record.as_ref().and_then(|record| record.holder.as_ref());
            let note = holder.map(|holder| store.get(&note_key(key, holder)));
            seen.push((record, note.transpose().map_err(failed)?));
        }
        let mut looks = Vec::with_capacity(batch.len());
        for ((_, command), (record, note)) in batch.iter().zip(seen) {
            let note = match note {
                Some(note) => result(&note).await.map_err(failed)?,
                None => JsValue::UNDEFINED,
            };
            let record = match (record, note.is_undefined()) {
                (Some(record), false) => decode_note(note)
                    .ok()
                    .map(|n| rules::with_note(&record, &n)),
                (record, _) => record,
            };
            looks.push(Ok(record.and_then(|record| rules::look(&record, command))));
        }
        // There is nothing to be committed.
        open.done = true;
        Ok(looks)
    }

    /// One command, on the record as it was found.
    async fn step(
        &self,
        store: &IdbObjectStore,
        key: &str,
        command: &Command,
        found: JsValue,
        written: &mut bool,
    ) -> Result<Outcome, IndexedDbError> {
        let record = match found.is_undefined() {
            false => Some(decode(found)?),
            // Nothing there, or nothing that somebody put there.
            true if answer(store.get_key(&key.into())).await?.is_undefined() => None,
            true => return Err(IndexedDbError::Corrupt("it is empty")),
        };
        let mut obsolete = self.take_noted(key, command);
        let noted = record.as_ref().and_then(|record| {
            let who = rules::note_of(record, command)?;
            Some((record, who))
        });
        let (write, outcome) = match noted {
            None => rules::apply(record.as_ref(), command),
            Some((record, who)) => {
                let found = answer(store.get(&note_key(key, who))).await?;
                // Nothing, or a null that somebody put there.
                if found.is_undefined() || found.is_null() {
                    rules::apply(Some(record), command)
                } else {
                    let note = decode_note(found)?;
                    let (write, outcome) = rules::apply_noted(record, &note, command);
                    let holder = write.as_ref().map(|record| &record.holder);
                    if holder.is_some_and(|holder| holder.as_ref() != Some(who)) {
                        obsolete.push(who.clone());
                    }
                    (write, outcome)
                }
            }
        };
        *written |= write.is_some() || !obsolete.is_empty();
        if let Some(record) = write {
            self.see(key, &record);
            let bytes = Uint8Array::from(&*record.encode());
            store.put_with_key(&bytes, &key.into()).map_err(failed)?;
        }
        for who in obsolete {
            store.delete(&note_key(key, &who)).map_err(failed)?;
        }
        Ok(outcome)
    }

    /// Renewals: all of it is sent at once, and nothing is left open if the page stops now.
    async fn renew(&self, db: &IdbDatabase, batch: &[(String, Command)]) -> Answers {
        let tx = begin(db, &self.object_store, "readwrite")?;
        let store = tx.object_store(&self.object_store).map_err(failed)?;
        let mut found = Vec::with_capacity(batch.len());
        for (key, command) in batch {
            if let Command::Renew {
                who,
                token,
                len,
                beacon,
            } = command
            {
                let count = self.renewals.get() + 1;
                self.renewals.set(count);
                found.push((store.get(&key.as_str().into()).map_err(failed)?, count));
                let note = Note::Renewed {
                    token: *token,
                    count,
                    len: *len,
                    beacon: *beacon,
                };
                self.put_note(&tx, key, who, &note).map_err(failed)?;
            }
        }
        // A renewal counts if the record, as it was read, says that we hold; what is done to that here is in
        // the note.
        commit(&tx).await?;
        let mut answers = Vec::with_capacity(batch.len());
        for ((_, command), (found, count)) in batch.iter().zip(found) {
            let found = result(&found).await.map_err(failed)?;
            let record = match found.is_undefined() || found.is_null() {
                true => Ok(None),
                false => decode(found).map(Some),
            };
            answers.push(record.map(|record| {
                let (_, mut outcome) = rules::apply(record.as_ref(), command);
                if let Outcome::Held(held) = &mut outcome {
                    // As whoever reads the note sees it.
                    held.count += count - 1;
                }
                Some(outcome)
            }));
        }
        Ok(answers)
    }

    /// Needs no answer, and is committed even if the page ends now.
    #[allow(
        deprecated,
        reason = "`commit` is so for web-sys only, not for any browser"
    )]
    fn leave(&self, db: &IdbDatabase, key: &str, who: &Requester) -> Result<(), JsValue> {
        let mode = web_sys::IdbTransactionMode::Readwrite;
        let tx = db.transaction_with_str_and_mode(&self.object_store, mode)?;
        self.put_note(&tx, key, who, &Note::Ended)?;
        tx.commit()
    }

    fn put_note(
        &self,
        tx: &IdbTransaction,
        key: &str,
        who: &Requester,
        note: &Note,
    ) -> Result<(), JsValue> {
        let value = Uint8Array::from(&*note.encode());
        let store = tx.object_store(&self.object_store)?;
        store.put_with_key(&value, &note_key(key, who))?;
        let mut noted = self.noted.borrow_mut();
        if !noted.iter().any(|(of, by)| of == key && by == who) {
            noted.push((key.to_owned(), who.clone()));
        }
        Ok(())
    }

    /// Those of this process whose notes the command makes superfluous: their request has ended.
    fn take_noted(&self, key: &str, command: &Command) -> Vec<Requester> {
        let ended = |who: &Requester| match command {
            Command::Quit { who: by } | Command::Pass { who: by, .. } => who == by,
            Command::Take(take) => who.tab == take.who.tab && take.ended.contains(&who.request),
            _ => false,
        };
        let mut noted = self.noted.borrow_mut();
        let out = noted.extract_if(.., |(of, who)| of == key && ended(who));
        out.map(|(_, who)| who).collect()
    }
}

/// A transaction that would stay open if the page stopped now. It is aborted, unless it is committed.
struct Open<'a> {
    shared: &'a Shared,
    tx: IdbTransaction,
    done: bool,
}

impl<'a> Open<'a> {
    fn new(shared: &'a Shared, tx: IdbTransaction) -> Self {
        shared.open.borrow_mut().push(tx.clone());
        Self {
            shared,
            tx,
            done: false,
        }
    }

    async fn commit(mut self) -> Result<(), IndexedDbError> {
        self.done = true;
        commit(&self.tx).await
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.shared.open.borrow_mut().retain(|tx| *tx != self.tx);
        if !self.done {
            // One that has failed is over.
            let _ = self.tx.abort();
        }
    }
}

/// Where the note of a request is kept.
fn note_key(key: &str, who: &Requester) -> JsValue {
    let request = who.request as f64;
    Array::of3(&key.into(), &(&*who.tab).into(), &request.into()).into()
}

fn read_note_key(key: &JsValue) -> Option<(String, Requester)> {
    let parts = key.dyn_ref::<Array>()?;
    let (name, tab) = (parts.get(0).as_string()?, parts.get(1).as_string()?);
    let request = parts.get(2).as_f64()? as u64;
    Some((name, Requester { tab, request }))
}

fn decode(value: JsValue) -> Result<Record, IndexedDbError> {
    Record::decode(&bytes(value)?).map_err(corrupt)
}

fn decode_note(value: JsValue) -> Result<Note, IndexedDbError> {
    Note::decode(&bytes(value)?).map_err(corrupt)
}

fn bytes(value: JsValue) -> Result<Vec<u8>, IndexedDbError> {
    let bytes: Uint8Array = value
        .dyn_into()
        .map_err(|_| IndexedDbError::Corrupt("it is not a byte array"))?;
    Ok(bytes.to_vec())
}

fn corrupt(Corrupt(why): Corrupt) -> IndexedDbError {
    IndexedDbError::Corrupt(why)
}
