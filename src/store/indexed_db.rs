//! Leases in IndexedDB: one database, one object store, one short transaction per command.
//!
//! The database is one of the package's own, or the application's ([`IndexedDbStore::over`]), whose
//! transactions can then be [fenced](CrossProcessStoreLockGuard::fence).
//!
//! Nothing else names IndexedDB. A command is one readwrite transaction of a get, a
//! put and a commit that is awaited; between the get and the put nothing else is awaited, or the
//! browser would commit early.
//!
//! # The connection
//!
//! [`Link`] says how it stands; all clones of a store share one. It is opened by the first command
//! and again by the next one after it was lost: the browser closed it (`close`), another tab wants
//! to upgrade or delete the database (`versionchange`: we close at once, so as not to block it), or
//! a transaction failed. A command that failed is sent once more over a new connection, which is
//! safe: see [`BackingStore::apply`].
//!
//! The application's own connection is used as it is: what closes or replaces it is the application's
//! business, and a command on a closed one fails.
//!
//! Opening runs in a task of its own. A caller that gives up leaves no half-open connection behind,
//! which would block everybody's upgrades for as long as nobody collects it.

mod fence;

use std::rc::{Rc, Weak};
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
use js_sys::Uint8Array;
use tokio::sync::watch;
use wasm_bindgen::prelude::*;
use web_sys::IdbDatabase;

#[cfg(doc)]
use crate::CrossProcessStoreLockGuard;
use crate::platform::{Spawner, sleep};
use crate::rules::{self, Command, Corrupt, Outcome, Record};
use crate::store::BackingStore;

pub use fence::FenceError;
#[cfg(feature = "npm")]
pub(crate) use fence::{Access, fence};

/// The database that is used unless another is named.
pub const DATABASE: &str = "tab-lease";

/// The object store that holds the leases: key = lock name, value = an encoded
/// [`Record`].
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
    fn new(db: Database, link: &Rc<watch::Sender<Link>>) -> Rc<Self> {
        Rc::new_cyclic(|this: &Weak<Self>| {
            let forget = |close: bool| {
                let link = Rc::downgrade(link);
                let this = this.clone();
                Closure::new(move || {
                    let (Some(link), Some(this)) = (link.upgrade(), this.upgrade()) else {
                        return;
                    };
                    if close {
                        this.db.as_sys().close();
                    }
                    this.forget(&link);
                })
            };
            let on_versionchange = forget(true);
            let on_close = forget(false);
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
    database: Rc<str>,
    timeout: Duration,
    link: Rc<watch::Sender<Link>>,
}

impl std::fmt::Debug for IndexedDbStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IndexedDbStore")
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

impl IndexedDbStore {
    /// A store in the database of that name ([`DATABASE`], unless there is a reason), which is
    /// created if it does not exist. Touches nothing until the first command.
    #[must_use]
    pub fn new(database: &str) -> Self {
        Self {
            database: database.into(),
            timeout: Duration::from_millis(STORE_TIMEOUT_MS.into()),
            link: Rc::new(watch::Sender::new(Link::Closed)),
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
        let database = db.name();
        let connection = Connection { db, own: None };
        Ok(Self {
            link: Rc::new(watch::Sender::new(Link::Open(Rc::new(connection)))),
            ..Self::new(&database)
        })
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
            Ok(keys
                .zip(values)
                .filter_map(|(key, value)| {
                    Some((key.ok()?.as_string()?, decode(value.ok()?).ok()?))
                })
                .collect())
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
                // Boxed, so that its code is not repeated in every kind of work.
                let connection = Box::pin(self.connection()).await?;
                match work(&connection.db).await {
                    Err(IndexedDbError::Failed(_)) if again => {
                        again = false;
                        connection.forget(&self.link);
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
        let mut link = self.link.subscribe();
        let idle = matches!(*link.borrow_and_update(), Link::Closed | Link::Failed(_));
        if idle {
            self.link.send_replace(Link::Opening);
            let (database, link) = (Rc::clone(&self.database), Rc::downgrade(&self.link));
            Spawner::current().spawn(async move {
                let opened = open(&database, &link).await;
                // If all stores are gone by now, the connection closes as it is dropped.
                if let Some(link) = link.upgrade() {
                    link.send_replace(match opened {
                        Ok(db) => Link::Open(Connection::new(db, &link)),
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
        self.bounded(async |db| transact(db, key, &command).await)
            .await
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
async fn open(name: &str, link: &Weak<watch::Sender<Link>>) -> Result<Database, IndexedDbError> {
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
        let db = opened(request, link).await?;
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
    link: &Weak<watch::Sender<Link>>,
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
        let link = link.clone();
        move || {
            if let Some(link) = link.upgrade() {
                link.send_replace(Link::Blocked);
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

/// One command: one transaction.
async fn transact(db: &Database, key: &str, command: &Command) -> Result<Outcome, IndexedDbError> {
    // Relaxed: the write is seen by all tabs once it is committed. If the machine loses power, so do
    // all holders.
    let mut options = TransactionOptions::new();
    options.set_durability(TransactionDurability::Relaxed);
    let tx = db
        .transaction(OBJECT_STORE)
        .with_mode(TransactionMode::Readwrite)
        .with_options(options)
        .build()?;
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
    let (write, outcome) = rules::apply(record.as_ref(), command);
    if let Some(record) = write {
        let request = store
            .put(JsValue::from(Uint8Array::from(&*record.encode())))
            .with_key(key)
            .primitive()?;
        drop(request);
        commit(tx).await?;
    }
    Ok(outcome)
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
    let bytes: Uint8Array = value
        .dyn_into()
        .map_err(|_| IndexedDbError::Corrupt("it is not a byte array"))?;
    Record::decode(&bytes.to_vec()).map_err(|Corrupt(why)| IndexedDbError::Corrupt(why))
}
