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
//! [`Link`] says how it stands; all clones of a store share one. It is opened by the first command
//! and again by the next one after it was lost: the browser closed it (`close`), another tab wants
//! to upgrade or delete the database (`versionchange`: we close at once, so as not to block it, but not
//! before the holders here have been told, see [`BackingStore::closing`]), or a transaction failed. A command that failed is sent once more over a new connection, which is
//! safe: see [`BackingStore::apply`].
//!
//! The application's own connection is used as it is: what closes or replaces it is the application's
//! business, and a command on a closed one fails.
//!
//! Opening runs in a task of its own. A caller that gives up leaves no half-open connection behind,
//! which would block everybody's upgrades for as long as nobody collects it.

mod fence;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::{self, Arc};
use std::time::Duration;

use async_trait::async_trait;
use indexed_db_futures::database::Database;
use indexed_db_futures::error::{Error, JSError, OpenDbError};
use indexed_db_futures::factory::DBFactory;
use indexed_db_futures::future::OpenDbRequest;
use indexed_db_futures::internals::SystemRepr;
use indexed_db_futures::prelude::*;
use indexed_db_futures::transaction::{
    Transaction, TransactionDurability, TransactionMode, TransactionOptions,
};
use js_sys::{Array, Uint8Array};
use tokio::sync::watch;
use wasm_bindgen::prelude::*;
use web_sys::{EventTarget, IdbDatabase, IdbTransaction};

#[cfg(doc)]
use crate::CrossProcessStoreLockGuard;
use crate::lifecycle::{Lifecycle, Live};
use crate::platform::{BoxFuture, Spawner, sleep, step_back};
use crate::rules::{self, Command, Corrupt, Note, Outcome, Record, Requester};
use crate::store::BackingStore;

pub use fence::FenceError;
#[cfg(feature = "npm")]
pub(crate) use fence::{Access, fence};

/// The database that is used unless another is named.
pub const DATABASE: &str = "tab-lease";

/// The object store that holds the leases: key = lock name, value = an encoded [`Record`]; and beside
/// them key = [lock name, tab, request], value = an encoded [`Note`].
pub const OBJECT_STORE: &str = "leases";

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
    #[error(
        "the database has no lease store, but other object stores; choose another database name"
    )]
    Foreign,
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
        let name = js_sys::Reflect::get(&self.0, &"name".into());
        name.is_ok_and(|name| name == "InvalidStateError")
    }
}

impl From<Error> for Cause {
    fn from(error: Error) -> Self {
        match error {
            Error::DomException(error) => Self(error.into()),
            Error::Unknown(JSError::Error(error)) => Self(error.into()),
            Error::Unknown(JSError::Unknown(value)) => Self(value),
            // Their texts would bring float formatting into every download.
            Error::Serialisation(_) => Self::new("a value could not be converted"),
            Error::MissingData(_) => Self::new("the transaction was aborted"),
        }
    }
}

impl From<Error> for IndexedDbError {
    fn from(error: Error) -> Self {
        Self::Failed(error.into())
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

struct Connection {
    db: Database,
    /// What watches a connection of ours; nothing, if it is the application's.
    own: Option<[Closure<dyn FnMut()>; 2]>,
}

impl Connection {
    fn new(db: Database, shared: &Arc<Shared>) -> Rc<Self> {
        Rc::new_cyclic(|this: &Weak<Self>| {
            let forget = || {
                let shared = Arc::downgrade(shared);
                let this = this.clone();
                Closure::new(move || {
                    let (Some(shared), Some(this)) = (shared.upgrade(), this.upgrade()) else {
                        return;
                    };
                    this.forget(&shared.link);
                    shared.closings.send_modify(|closings| *closings += 1);
                    Spawner::current().spawn(async move {
                        // Whoever holds here is told first, and the page with it.
                        step_back().await;
                        this.db.as_sys().close();
                    });
                })
            };
            let on_versionchange = forget();
            let on_close = forget();
            let sys = db.as_sys();
            sys.set_onversionchange(Some(on_versionchange.as_ref().unchecked_ref()));
            sys.set_onclose(Some(on_close.as_ref().unchecked_ref()));
            Self {
                db,
                own: Some([on_versionchange, on_close]),
            }
        })
    }

    /// The next command opens a new connection.
    fn forget(&self, link: &watch::Sender<Link>) {
        if self.own.is_none() {
            return;
        }
        link.send_if_modified(|link| match link {
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
        let sys = self.db.as_sys();
        sys.set_onversionchange(None);
        sys.set_onclose(None);
        sys.close();
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
    link: watch::Sender<Link>,
    /// How often somebody else had the database closed.
    closings: watch::Sender<u32>,
    life: Lifecycle,
    /// Transactions that would stay open if the page stopped now.
    open: RefCell<Vec<IdbTransaction>>,
    /// Who has a note in the store, as far as it was written here.
    noted: RefCell<Vec<(String, Requester)>>,
    /// Renewals so far.
    renewals: Cell<u64>,
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
        let life = Lifecycle::page();
        #[allow(clippy::arc_with_non_send_sync, reason = "there are no threads")]
        let shared = Arc::new(Shared {
            database: database.to_owned(),
            link: watch::Sender::new(Link::Closed),
            closings: watch::Sender::new(0),
            life: life.clone(),
            open: RefCell::default(),
            noted: RefCell::default(),
            renewals: Cell::new(0),
        });
        let watcher = Arc::downgrade(&shared);
        life.watch(watcher);
        Self {
            timeout: Duration::from_millis(STORE_TIMEOUT_MS.into()),
            shared,
        }
    }

    /// A store in a database of the application's, over its own open connection. It must have the object
    /// store [`OBJECT_STORE`]: see [`add_lease_store`]. The connection stays the application's: whoever
    /// closes it ends the leases.
    ///
    /// Transactions of this database can be [fenced](CrossProcessStoreLockGuard::fence).
    ///
    /// # Errors
    ///
    /// [`IndexedDbError::Foreign`], if there is no lease store.
    pub fn over(db: Database) -> Result<Self, IndexedDbError> {
        if !db.as_sys().object_store_names().contains(OBJECT_STORE) {
            return Err(IndexedDbError::Foreign);
        }
        let store = Self::new(&db.name());
        let shared = Arc::downgrade(&store.shared);
        // Whether the application closes it or not: it may have been told first.
        let closing = Closure::<dyn Fn()>::new(move || {
            if let Some(shared) = shared.upgrade() {
                shared.closings.send_modify(|closings| *closings += 1);
            }
        });
        let closing = closing.into_js_value();
        for event in ["versionchange", "close"] {
            let sys: &EventTarget = db.as_sys();
            let _ = sys.add_event_listener_with_callback(event, closing.unchecked_ref());
        }
        let connection = Connection { db, own: None };
        store
            .shared
            .link
            .send_replace(Link::Open(Rc::new(connection)));
        Ok(store)
    }

    /// The same store, with another limit than [`STORE_TIMEOUT_MS`] for how long a command may take.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// See [`IndexedDbStore::with_timeout`].
    #[cfg(feature = "npm")]
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// All records, by key: for people and tools that want to see who holds. Records that cannot be
    /// read are left out.
    ///
    /// # Errors
    ///
    /// [`IndexedDbError`], except [`IndexedDbError::Corrupt`].
    pub async fn records(&self) -> Result<Vec<(String, Record)>, IndexedDbError> {
        self.bounded(async |db| {
            let tx = db.transaction(OBJECT_STORE).build()?;
            let store = tx.object_store(OBJECT_STORE)?;
            let keys = store.get_all_keys::<JsValue>().primitive()?;
            let values = store.get_all::<JsValue>().primitive()?;
            let (keys, values) = (keys.await?, values.await?);
            let (mut records, mut notes) = (Vec::new(), Vec::new());
            for (key, value) in keys.zip(values) {
                let (Ok(key), Ok(value)) = (key, value) else {
                    continue;
                };
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

    /// Runs `work` on an open connection, once more on a new one if it fails, and gives up when the
    /// store's time is over.
    async fn bounded<T>(
        &self,
        work: impl AsyncFn(&Database) -> Result<T, IndexedDbError>,
    ) -> Result<T, IndexedDbError> {
        let tried = async {
            let mut again = true;
            loop {
                self.shared.life.running().await;
                // Boxed, so that its code is not repeated in every kind of work.
                let connection = Box::pin(self.connection()).await?;
                match work(&connection.db).await {
                    Err(IndexedDbError::Failed(_)) if again => {
                        again = false;
                        connection.forget(&self.shared.link);
                    }
                    Err(IndexedDbError::Failed(cause))
                        if connection.own.is_none() && cause.is_closed() =>
                    {
                        return Err(IndexedDbError::Closed);
                    }
                    done => return done,
                }
            }
        };
        tokio::select! {
            biased;
            done = tried => done,
            () = sleep(self.timeout) => Err(IndexedDbError::Stalled),
        }
    }

    async fn connection(&self) -> Result<Rc<Connection>, IndexedDbError> {
        let mut link = self.shared.link.subscribe();
        let idle = matches!(*link.borrow_and_update(), Link::Closed | Link::Failed(_));
        if idle {
            self.shared.link.send_replace(Link::Opening);
            let (database, shared) = (self.shared.database.clone(), Arc::downgrade(&self.shared));
            Spawner::current().spawn(async move {
                let opened = open(&database, &shared).await;
                // If all stores are gone by now, the connection closes as it is dropped.
                if let Some(shared) = shared.upgrade() {
                    shared.link.send_replace(match opened {
                        Ok(db) => Link::Open(Connection::new(db, &shared)),
                        Err(error) => Link::Failed(error),
                    });
                } else if let Ok(db) = opened {
                    db.close();
                }
            });
        }
        loop {
            match &*link.borrow_and_update() {
                Link::Open(connection) => return Ok(Rc::clone(connection)),
                Link::Blocked => return Err(IndexedDbError::Blocked),
                Link::Failed(error) => return Err(error.clone()),
                Link::Opening | Link::Closed => {}
            }
            if link.changed().await.is_err() {
                return Err(IndexedDbError::Stalled);
            }
        }
    }
}

#[async_trait(?Send)]
impl BackingStore for IndexedDbStore {
    type Error = IndexedDbError;

    async fn apply(&self, key: &str, command: Command) -> Result<Outcome, IndexedDbError> {
        self.bounded(async |db| match &command {
            Command::Renew { who, len, .. } if *len > 0 => {
                self.shared.renew(db, key, who, &command).await
            }
            _ => self.shared.transact(db, key, &command).await,
        })
        .await
    }

    fn leave(&self, key: &str, who: &Requester) {
        if let Link::Open(connection) = &*self.shared.link.borrow() {
            // There is nobody to tell of an error.
            let _ = self.shared.leave(connection.db.as_sys(), key, who);
        }
    }

    fn closing(&self) -> BoxFuture<()> {
        let mut closings = self.shared.closings.subscribe();
        Box::pin(async move {
            if closings.changed().await.is_err() {
                std::future::pending().await
            }
        })
    }
}

/// Adds the lease store to a database of the application's, while that is being upgraded. Does nothing if
/// it is there.
///
/// # Errors
///
/// [`IndexedDbError::Failed`], if the database is not being upgraded.
pub fn add_lease_store(db: &Database) -> Result<(), IndexedDbError> {
    let db = db.as_sys();
    if db.object_store_names().contains(OBJECT_STORE) {
        return Ok(());
    }
    let created = db.create_object_store(OBJECT_STORE);
    created
        .map(drop)
        .map_err(|error| IndexedDbError::Failed(Cause(error)))
}

/// The library's view of a connection that was not opened by it, for which it has no constructor.
#[cfg(feature = "npm")]
pub(crate) fn database(db: IdbDatabase) -> Database {
    use indexed_db_futures::internals::DbSys;

    const { assert!(size_of::<Database>() == size_of::<DbSys>()) };
    let sys = db.unchecked_into::<DbSys>();
    // SAFETY: a `Database` is a struct of one field, a `DbSys`, and of the same size. That it is still
    // that field shows below.
    let database = unsafe { std::mem::transmute::<DbSys, Database>(sys.clone()) };
    assert!(*database.as_sys() == sys, "another struct than expected");
    database
}

/// Opens the database, creating what is missing.
async fn open(name: &str, shared: &sync::Weak<Shared>) -> Result<Database, IndexedDbError> {
    let factory = DBFactory::new().map_err(unavailable)?;
    // No version is asked for: an older copy of this package must still open what a newer one made.
    let mut version = None;
    loop {
        let request = match version {
            None => factory.open_db(name).build(),
            Some(version) => factory.open_db(name).with_version::<u32>(version).build(),
        };
        let Ok(request) = request else {
            // The library tells nothing of what `open` throws; ask for it.
            let thrown = factory.as_sys().open(name).err();
            return Err(IndexedDbError::Unavailable(
                thrown.map_or_else(|| Cause::new("it could not be opened"), Cause),
            ));
        };
        let db = opened(request, shared).await?;
        let stores = db.as_sys().object_store_names();
        if stores.contains(OBJECT_STORE) {
            return Ok(db);
        }
        let version_now = db.version() as u32;
        db.close();
        if stores.length() > 0 || version.is_some() {
            return Err(IndexedDbError::Foreign);
        }
        // An empty database of our name, made by a tool or by an interrupted first start.
        version = Some(version_now + 1);
    }
}

/// Sees an open request through. The handlers are set here, not by the library's builder, whose own
/// would bring float formatting into every download.
async fn opened(
    request: OpenDbRequest,
    shared: &sync::Weak<Shared>,
) -> Result<Database, IndexedDbError> {
    let sys = request.as_sys().clone();
    let on_upgrade = Closure::once({
        let sys = sys.clone();
        move || -> Result<(), JsValue> {
            let db: IdbDatabase = sys.result()?.unchecked_into();
            db.create_object_store(OBJECT_STORE).map(drop)
        }
    });
    let on_blocked = Closure::once({
        let shared = shared.clone();
        move || {
            if let Some(shared) = shared.upgrade() {
                shared.link.send_replace(Link::Blocked);
            }
        }
    });
    sys.set_onupgradeneeded(Some(on_upgrade.as_ref().unchecked_ref()));
    sys.set_onblocked(Some(on_blocked.as_ref().unchecked_ref()));
    let opened = request.await;
    sys.set_onupgradeneeded(None);
    sys.set_onblocked(None);
    opened.map_err(|error| IndexedDbError::Failed(cause(error)))
}

fn unavailable(error: OpenDbError) -> IndexedDbError {
    IndexedDbError::Unavailable(cause(error))
}

fn cause(error: OpenDbError) -> Cause {
    match error {
        OpenDbError::Base(error) => error.into(),
        OpenDbError::NullFactory => Cause::new("indexedDB is null or undefined"),
        OpenDbError::UnsupportedEnvironment => Cause::new("this is neither a window nor a worker"),
        OpenDbError::VersionZero => Cause::new("the database could not be opened"),
    }
}

impl Shared {
    /// One command: one transaction.
    async fn transact(
        &self,
        db: &Database,
        key: &str,
        command: &Command,
    ) -> Result<Outcome, IndexedDbError> {
        let tx = readwrite(db)?;
        let _open = Open::new(self, &tx);
        let store = tx.object_store(OBJECT_STORE)?;
        let found: Option<JsValue> = store.get(key).primitive()?.await?;
        let record = match found {
            Some(found) => Some(decode(found)?),
            // Nothing there, or a null that somebody put there.
            None => match store
                .get_key::<String, _>(key.to_owned())
                .primitive()?
                .await?
            {
                Some(_) => return Err(IndexedDbError::Corrupt("it is null")),
                None => None,
            },
        };
        let mut obsolete = self.take_noted(key, command);
        let noted = record.as_ref().and_then(|record| {
            let who = rules::note_of(record, command)?;
            Some((record, who))
        });
        let (write, outcome) = match noted {
            None => rules::apply(record.as_ref(), command),
            Some((record, who)) => {
                let found: Option<JsValue> = store.get(note_key(key, who)).primitive()?.await?;
                match found.map(decode_note).transpose()? {
                    None => rules::apply(Some(record), command),
                    Some(note) => {
                        let (write, outcome) = rules::apply_noted(record, &note, command);
                        let holder = write.as_ref().map(|record| &record.holder);
                        if holder.is_some_and(|holder| holder.as_ref() != Some(who)) {
                            obsolete.push(who.clone());
                        }
                        (write, outcome)
                    }
                }
            }
        };
        if write.is_none() && obsolete.is_empty() {
            return Ok(outcome);
        }
        if let Some(record) = write {
            let request = store
                .put(JsValue::from(Uint8Array::from(&*record.encode())))
                .with_key(key)
                .primitive()?;
            drop(request);
        }
        for who in obsolete {
            drop(store.delete(note_key(key, &who)).primitive()?);
        }
        commit(tx).await?;
        Ok(outcome)
    }

    /// A renewal: all of it is sent at once, and nothing is left open if the page stops now.
    async fn renew(
        &self,
        db: &Database,
        key: &str,
        who: &Requester,
        command: &Command,
    ) -> Result<Outcome, IndexedDbError> {
        let Command::Renew {
            token, len, beacon, ..
        } = *command
        else {
            return Ok(Outcome::Refused);
        };
        let count = self.renewals.get() + 1;
        self.renewals.set(count);
        let note = Note::Renewed {
            token,
            count,
            len,
            beacon,
        };
        let tx = readwrite(db)?;
        let store = tx.object_store(OBJECT_STORE)?;
        let found = store.get::<JsValue, _, _>(key).primitive()?;
        self.put_note(tx.as_sys(), key, who, &note)
            .map_err(|error| IndexedDbError::Failed(Cause(error)))?;
        drop(store);
        // It counts if the record, as it was read, says that we hold; what is done to that here is in
        // the note.
        let (done, found) = tokio::join!(commit(tx), found);
        done?;
        let record = found?.map(decode).transpose()?;
        Ok(rules::apply(record.as_ref(), command).1)
    }

    /// Needs no answer, and is committed even if the page ends now.
    #[allow(
        deprecated,
        reason = "`commit` is so for web-sys only, not for any browser"
    )]
    fn leave(&self, db: &IdbDatabase, key: &str, who: &Requester) -> Result<(), JsValue> {
        let mode = web_sys::IdbTransactionMode::Readwrite;
        let tx = db.transaction_with_str_and_mode(OBJECT_STORE, mode)?;
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
        let store = tx.object_store(OBJECT_STORE)?;
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

/// A transaction that would stay open if the page stopped now.
struct Open<'a> {
    shared: &'a Shared,
    tx: IdbTransaction,
}

impl<'a> Open<'a> {
    fn new(shared: &'a Shared, tx: &Transaction<'_>) -> Self {
        let tx: IdbTransaction = (**tx.as_sys()).clone();
        shared.open.borrow_mut().push(tx.clone());
        Self { shared, tx }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.shared.open.borrow_mut().retain(|tx| *tx != self.tx);
    }
}

fn readwrite(db: &Database) -> Result<Transaction<'_>, IndexedDbError> {
    // Relaxed: the write is seen by all tabs once it is committed. If the machine loses power, so do
    // all holders.
    let mut options = TransactionOptions::new();
    options.set_durability(TransactionDurability::Relaxed);
    Ok(db
        .transaction(OBJECT_STORE)
        .with_mode(TransactionMode::Readwrite)
        .with_options(options)
        .build()?)
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

/// Commits, and waits until it is done: success is reported only for what is written.
async fn commit(tx: Transaction<'_>) -> Result<(), IndexedDbError> {
    let sys = tx.as_sys().clone();
    tx.commit().await.map_err(|error| {
        // An abort by the browser (a full disk) has its reason in the transaction.
        let reason = sys.error().map(|reason| Cause(reason.into()));
        IndexedDbError::Failed(reason.unwrap_or_else(|| error.into()))
    })
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
