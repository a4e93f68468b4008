//! Leases in IndexedDB: one database, one object store, one short transaction per command.
//!
//! The database is one of the package's own, or the application's ([`IndexedDbStore::over`]), whose
//! transactions can then be [fenced](CrossProcessStoreLockGuard::fence).
//!
//! No other module names IndexedDB. A command is one readwrite transaction: a get, a put, and a commit that
//! is awaited. What is put is decided within the event that brings the answer to the get: if anything else
//! was waited for, the browser would commit early. The JavaScript in `requests.js` carries the requests, and
//! calls back into `Shared::hear` for each decision.
//!
//! # Pages that stop
//!
//! A page that hangs or is frozen between the get and the put blocks the transactions of all tabs until it
//! goes on (a frozen page: for a minute). So the command that is sent most often, the renewal, needs no
//! answer to be complete: a get, a put of a [`Note`] and `commit()`, all at once. And when the page is
//! [suspended](Lifecycle) the open transactions are aborted, and no command begins one until the page goes
//! on.
//!
//! # The connection
//!
//! `Link` says how the connection stands; all clones of a store share one. The first command opens it, and
//! the next command after it was lost opens it again. It is lost when one of these happens:
//!
//! - Another tab wants to upgrade or delete the database (`versionchange`). We close at once, so as not to
//!   block it, but not before the holders here have been told: see [`BackingStore::closing`].
//! - The browser closed it (`close`): its storage process crashed, iOS stopped it in the background, or the
//!   user cleared the site's data. The new connection shows which. If a record that was there before
//!   (`Shared::witness`) is still there, the leases go on. If it is not, they have ended.
//! - A transaction or the opening failed, or nothing answered in time.
//!
//! A command that failed is sent once more over a new connection, which is safe: see
//! [`BackingStore::apply`]. An opening that failed is tried once more, too. Then the caller gets the error.
//!
//! A command whose answer came after the leases of its database had ended is sent again, too: a deletion
//! waits for transactions, not for those who await their answers.
//!
//! The application's own connection is used as it is. To close and to replace it is the application's
//! business; a command on a closed one fails.
//!
//! # Whose store it is
//!
//! An application may have an object store of the name that we want. A lease store is recognised by its shape
//! (no key path, no key generator) and its [mark](STORE_MARK). A store of that shape without the mark may be
//! a lease store that was made by a Dexie schema, or by an older version of this package. So its content is
//! read before the first command: all of it must be leases and notes.
//!
//! Opening runs in a task of its own, so that a caller that gives up leaves no half-open connection behind.
//! Such a connection would block all upgrades until it is collected as garbage.

mod fence;
mod opening;
mod requests;

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::sync::{self, Arc};
use std::time;

use async_trait::async_trait;
use indexed_db_futures::database::Database;
use indexed_db_futures::internals::SystemRepr;
use js_sys::{Array, Function, Promise, Reflect, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{IdbDatabase, IdbTransaction};

#[cfg(doc)]
use crate::CrossProcessStoreLockGuard;
use crate::lifecycle::{Lifecycle, Live};
use crate::platform::{BoxFuture, Spawner, rest, step_back};
use crate::rules::{self, Command, Corrupt, Note, Outcome, Record, Requester};
use crate::store::BackingStore;
use crate::sync::{Waiters, select};
use crate::time::Duration;

use opening::{Look, is_row, look};
use requests::answer;

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
/// property, so the index is always empty. The mark can be seen without a request.
pub const STORE_MARK: &str = "tab_lease";

/// How long to wait, in ms, between two tries to open a database whose connection was lost.
const REOPEN_PAUSE_MS: u64 = 250;

/// How long a command may take, in ms, before it is given up with [`IndexedDbError::Stalled`].
pub const STORE_TIMEOUT_MS: u32 = 10_000;

/// How IndexedDB failed. Nothing is held after such an error.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexedDbError {
    /// There is no IndexedDB here, or the browser refuses it: private mode, blocked site data, a sandboxed
    /// frame.
    #[error("IndexedDB is missing or refused here")]
    Unavailable(Cause),
    /// The database must be upgraded first, and a tab that has it open does not let go.
    #[error(
        "an upgrade of the database is blocked by another tab that keeps it open; close that tab"
    )]
    Blocked,
    /// The database exists and is not this package's: leases are not put there uninvited.
    #[error("the database holds something else than leases; choose another database name")]
    Foreign,
    /// The application has an object store of that name, which is not a lease store. It was not touched.
    #[error("the object store {0:?} is not a lease store; choose another name for that")]
    NotLeases(String),
    /// The application has closed the connection that it gave to [`IndexedDbStore::over`], or the browser
    /// has.
    #[error("the database connection that the leases use was closed")]
    Closed,
    /// IndexedDB did not answer in time: another transaction, a pending deletion, or the browser itself holds
    /// the database up.
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

    /// Whether this is the error by which a closed connection refuses a new transaction.
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
    /// The connection is still being opened, and another tab is in the way.
    Blocked,
    Open(Rc<Connection>),
    Failed(IndexedDbError),
}

/// A value whose changes can be waited for.
struct Watched<T> {
    value: RefCell<T>,
    waiters: Waiters,
}

impl<T> Watched<T> {
    fn new(value: T) -> Self {
        let (value, waiters) = (RefCell::new(value), Waiters::default());
        Self { value, waiters }
    }

    fn borrow(&self) -> std::cell::Ref<'_, T> {
        self.value.borrow()
    }

    fn set(&self, value: T) {
        drop(self.value.replace(value));
        self.waiters.wake();
    }

    /// Lets `change` change the value. It answers whether it has.
    fn change(&self, change: impl FnOnce(&mut T) -> bool) {
        let changed = change(&mut self.value.borrow_mut());
        if changed {
            self.waiters.wake();
        }
    }

    /// Resolves once that finds something in the value.
    async fn until<U>(&self, look: impl Fn(&T) -> Option<U>) -> U {
        self.waiters.until(|| look(&self.borrow())).await
    }
}

struct Connection {
    db: IdbDatabase,
    /// The connection is this store's own, not the application's.
    own: bool,
    /// The object store is known to be one of leases.
    vetted: Cell<bool>,
}

impl Connection {
    /// Makes the next command open a new connection, if this one is the store's own.
    fn forget(&self, link: &Watched<Link>) {
        if !self.own {
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
        if self.own {
            requests::close(&self.db);
        }
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
    /// How often the database was closed from outside.
    closings: Watched<u32>,
    /// A clone is held by each future of [`BackingStore::closing`]: then leases may be held here.
    holders: Rc<()>,
    life: Lifecycle,
    /// Transactions that would stay open if the page stopped now.
    open: RefCell<Vec<IdbTransaction>>,
    /// Keys and requesters of the notes that were written by this process, and not deleted by it.
    noted: RefCell<Vec<(String, Requester)>>,
    /// How many renewals there were.
    renewals: Cell<u64>,
    /// The one function that transactions call back. It lives as long as the page, since a transaction may
    /// still call it when no command waits for that any more.
    hears: Function,
    /// What waits to be called back, and by which numbers.
    waiting: RefCell<Vec<Waiting>>,
    next_number: Cell<u32>,
    /// The key and the epoch of a record that was written here. Records outlive their leases: if it is gone,
    /// or has another epoch, then the database that it was in is gone, too.
    witness: RefCell<Option<(String, u64)>>,
}

type Waiting = (Range<u32>, Rc<dyn Hear>);

/// What a transaction calls back.
trait Hear {
    /// Answers what a transaction has found. `place`: by which of its numbers this is called.
    fn hear(&self, place: u32, one: JsValue, other: JsValue) -> JsValue;
}

impl Live for Shared {
    fn hidden(&self, _: bool) {}

    fn suspended(&self, suspended: bool) {
        if suspended {
            for transaction in self.open.take() {
                // It fails for a transaction that has just ended.
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
    /// A store in the database of that name ([`DATABASE`], unless there is a reason for another). The
    /// database is created if it does not exist. Nothing is touched before the first command.
    #[must_use]
    pub fn new(database: &str) -> Self {
        Self::within(database, OBJECT_STORE)
    }

    /// A store in a database of that name, in an object store of another name than [`OBJECT_STORE`].
    #[must_use]
    pub fn within(database: &str, object_store: &str) -> Self {
        let life = Lifecycle::page();
        let shared = Arc::new_cyclic(|this: &sync::Weak<Shared>| Shared {
            hears: Shared::called_back(this),
            waiting: RefCell::default(),
            next_number: Cell::new(CLOSING + 1),
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
    /// name. The connection stays the application's: closing it ends the leases.
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

    /// This store over a connection of the application's. Unless it is `vetted`, the object store is
    /// checked before the first command.
    pub(crate) fn connected(self, db: IdbDatabase, vetted: bool) -> Self {
        requests::attend(&db, &self.shared.hears);
        let connection = Connection {
            db,
            own: false,
            vetted: Cell::new(vetted),
        };
        let link = Link::Open(Rc::new(connection));
        self.shared.link.set(link);
        self
    }

    /// This store, with another limit than [`STORE_TIMEOUT_MS`] for how long a command may take.
    #[must_use]
    pub fn with_timeout(self, timeout: time::Duration) -> Self {
        self.giving_up_after(timeout.into())
    }

    pub(crate) fn giving_up_after(mut self, timeout: Duration) -> Self {
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
        let all = |db: &IdbDatabase| {
            let (done, open) = (requests::all(db, &self.shared.object_store)?, None);
            Ok(Sent { done, open })
        };
        let rows: Array = self.bounded(&all).await?.unchecked_into();
        let [keys, values] = [0, 1].map(|place| rows.get(place).unchecked_into::<Array>());
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
    }

    /// Sends on an open connection, and once more on a new one if that fails. An opening that fails is tried
    /// once more, too. Gives up when the store's time is over. Resolves with what comes back.
    async fn bounded(
        &self,
        send: &dyn Fn(&IdbDatabase) -> Result<Sent, JsValue>,
    ) -> Result<JsValue, IndexedDbError> {
        use IndexedDbError::{Closed, Failed, Stalled, Unavailable};

        let used = Cell::new(None::<Rc<Connection>>);
        let tried = async {
            let (mut reopened, mut resent) = (false, false);
            loop {
                self.shared.life.running().await;
                used.take();
                let connection = match self.connection().await {
                    Ok(connection) => connection,
                    Err(Failed(_) | Unavailable(_)) if !reopened => {
                        reopened = true;
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                used.set(Some(Rc::clone(&connection)));
                let closings = *self.shared.closings.borrow();
                let done = match send(&connection.db) {
                    Ok(sent) => {
                        let _open = sent.open;
                        JsFuture::from(sent.done).await
                    }
                    Err(thrown) => Err(thrown),
                };
                match done.map_err(Cause) {
                    // The answer says what was true of a database that has been closed since, or deleted.
                    Ok(_) if *self.shared.closings.borrow() != closings => {}
                    Ok(done) => return Ok(done),
                    Err(_) if !resent => {
                        resent = true;
                        connection.forget(&self.shared.link);
                    }
                    Err(cause) if !connection.own && cause.is_closed() => return Err(Closed),
                    Err(cause) => return Err(Failed(cause)),
                }
            }
        };
        select! {
            done = tried => done,
            () = rest(self.timeout) => {
                // The connection may be dead: the next command opens a new one.
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
        // An opening that failed before is tried again. One that fails from now on is told.
        let mut failed_before = true;
        let connection = loop {
            let link = &self.shared.link;
            let idle = match &*link.borrow() {
                Link::Closed => true,
                Link::Failed(_) => failed_before,
                Link::Opening | Link::Blocked | Link::Open(_) => false,
            };
            failed_before = false;
            if idle {
                self.begin_opening();
            }
            let settled = |link: &Link| match link {
                Link::Opening => None,
                link => Some(link.clone()),
            };
            match link.until(settled).await {
                Link::Open(connection) => break connection,
                Link::Blocked => return Err(IndexedDbError::Blocked),
                Link::Failed(error) => return Err(error),
                Link::Closed | Link::Opening => {}
            }
        };
        if !connection.vetted.get() {
            match self.shared.is_ours(&connection.db).await {
                Ok(true) => connection.vetted.set(true),
                Ok(false) => {
                    let store = self.shared.object_store.clone();
                    return Err(IndexedDbError::NotLeases(store));
                }
                // It is the application's connection: there is no other.
                Err(IndexedDbError::Failed(cause)) if cause.is_closed() => {
                    return Err(IndexedDbError::Closed);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(connection)
    }

    /// Opens a connection, in a task of its own.
    fn begin_opening(&self) {
        self.shared.link.set(Link::Opening);
        let opened = self.shared.open();
        let shared = Arc::downgrade(&self.shared);
        Spawner::current().spawn(async move {
            let opened = opened.await;
            let Some(shared) = shared.upgrade() else {
                // All stores are gone by now.
                return opened.into_iter().for_each(|db| db.close());
            };
            let opened = match opened {
                Ok(db) => {
                    // From now on the store hears of tabs that want the connection closed.
                    requests::watch(&db, &shared.hears);
                    let connection = Rc::new(Connection {
                        db,
                        own: true,
                        vetted: Cell::new(true),
                    });
                    let recognised = shared.recognise(&connection.db).await;
                    recognised.map(|()| connection)
                }
                Err(error) => Err(error),
            };
            shared.link.change(|link| {
                // The opening was given up since, and another one has succeeded.
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

    /// Applies all commands in one transaction. If they are nothing but renewals, the transaction needs no
    /// answer to be complete.
    async fn apply_all(
        &self,
        batch: Vec<(String, Command)>,
    ) -> Vec<Result<Outcome, IndexedDbError>> {
        let renews = |command: &Command| matches!(command, Command::Renew { len, .. } if *len > 0);
        let work = match batch.iter().all(|(_, command)| renews(command)) {
            true => Work::Renew,
            false => Work::Apply,
        };
        let answers = self.work(work, batch).await.into_iter();
        let answers = answers.map(|answer| answer?.ok_or(IndexedDbError::Stalled));
        answers.collect()
    }

    /// Looks at all records in one readonly transaction.
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
            // An error could not be told to any caller.
            let (key, note) = self.shared.note(key, who, &Note::Ended);
            let _ = requests::leave(&connection.db, &self.shared.object_store, &key, &note);
        }
    }

    fn closing(&self) -> BoxFuture<()> {
        let shared = Arc::clone(&self.shared);
        let (holder, before) = (Rc::clone(&shared.holders), *shared.closings.borrow());
        Box::pin(async move {
            let _holder = holder;
            let closed = |closings: &u32| (*closings != before).then_some(());
            shared.closings.until(closed).await;
        })
    }
}

/// What to do with commands in a transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Apply them. They are nothing but renewals, so the transaction needs no answer to be complete.
    Renew,
    Apply,
    /// Only see what they would be answered: they may not need to be applied.
    Look,
}

/// What became of a command. `Ok(None)`: it was only looked at, and has to be applied.
type Answer = Result<Option<Outcome>, IndexedDbError>;

impl IndexedDbStore {
    /// Does any kind of work, so that the code around it is not compiled three times.
    async fn work(&self, work: Work, batch: Vec<(String, Command)>) -> Vec<Answer> {
        let number = self.shared.number(batch.len() as u32);
        let batch = Rc::new(Batch {
            number,
            work,
            answers: RefCell::new(vec![Err(IndexedDbError::Stalled); batch.len()]),
            commands: batch,
            shared: Arc::clone(&self.shared),
        });
        let waits = Waits(&self.shared, number);
        self.shared
            .wait(number, batch.commands.len(), batch.clone());
        let done = self.bounded(&|db| batch.send(db)).await;
        drop(waits);
        let mut answers = batch.answers.take();
        if let Err(error) = done {
            answers.fill(Err(error));
        }
        answers
    }
}

/// A transaction that has been sent.
struct Sent {
    done: Promise,
    open: Option<Open>,
}

// What is heard besides answers. requests.js has the same numbers.
const ROW: u32 = 0;
const BLOCKED: u32 = 1;
const WANTED: u32 = 2;
const SEVERED: u32 = 3;
const CLOSING: u32 = 4;

impl Shared {
    /// The function that calls [`Shared::hear`], for as long as there is a store.
    fn called_back(this: &sync::Weak<Self>) -> Function {
        let this = this.clone();
        let hears = move |number, one, other| match this.upgrade() {
            Some(this) => this.hear(number, one, other),
            None => JsValue::UNDEFINED,
        };
        let hears: Box<dyn Fn(u32, JsValue, JsValue) -> JsValue> = Box::new(hears);
        Closure::wrap(hears).into_js_value().unchecked_into()
    }

    /// Is called back with what has happened, or with what a transaction has found.
    fn hear(self: &Arc<Self>, number: u32, one: JsValue, other: JsValue) -> JsValue {
        match number {
            ROW => return is_row(&one, other).into(),
            BLOCKED => self.link.set(Link::Blocked),
            WANTED | SEVERED => self.lost(one.unchecked_into(), number == SEVERED),
            CLOSING => self.end_leases(),
            _ => {
                let waiting = self.waiting.borrow();
                let mut found = waiting.iter();
                if let Some((numbers, waits)) = found.find(|(of, _)| of.contains(&number)) {
                    let (place, waits) = (number - numbers.start, Rc::clone(waits));
                    drop(waiting);
                    return waits.hear(place, one, other);
                }
            }
        }
        JsValue::UNDEFINED
    }

    /// The first of `count` successive numbers that are not in use.
    fn number(&self, count: u32) -> u32 {
        self.next_number.replace(self.next_number.get() + count)
    }

    /// Has `hears` called back by `count` numbers from `number` on, until it [waits no
    /// more](Self::waits_no_more).
    fn wait(&self, number: u32, count: usize, hears: Rc<dyn Hear>) {
        let numbers = number..number + count as u32;
        self.waiting.borrow_mut().push((numbers, hears));
    }

    fn waits_no_more(&self, number: u32) {
        let mut waiting = self.waiting.borrow_mut();
        let place = waiting.iter().position(|(of, _)| of.start == number);
        let gone = place.map(|place| waiting.swap_remove(place));
        drop(waiting);
        drop(gone);
    }

    /// Another tab wants a connection of this store closed, or (`severed`) the browser has closed it.
    fn lost(self: &Arc<Self>, db: IdbDatabase, severed: bool) {
        let known = match &*self.link.borrow() {
            Link::Open(open) if open.db == db => Some(Rc::clone(open)),
            _ => None,
        };
        if let Some(connection) = &known {
            connection.forget(&self.link);
        }
        match severed {
            true => Spawner::current().spawn(Arc::clone(self).severed()),
            false => self.end_leases(),
        }
        Spawner::current().spawn(async move {
            // Holders here are told first, and through them the page.
            step_back().await;
            requests::close(&db);
            drop(known);
        });
    }

    /// The database is closed from outside: all leases in it end.
    fn end_leases(&self) {
        self.witness.take();
        self.closings.change(|closings| {
            *closings += 1;
            true
        });
    }

    /// The browser has closed the connection. While a lease may be held here, the connection is opened again
    /// now, not with the next renewal: what is found then may end the leases.
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
            // If it stays like that, the heartbeats fail, too, and leases expire.
            rest(Duration::from_millis(REOPEN_PAUSE_MS)).await;
        }
    }

    /// Looks at a database that was opened, before any command does. Ends the leases if it is not the
    /// database that was open before: a renewal would only be told that the lease is not there.
    async fn recognise(&self, db: &IdbDatabase) -> Result<(), IndexedDbError> {
        if !self.is_ours(db).await? {
            return Err(IndexedDbError::Foreign);
        }
        let Some((key, epoch)) = self.witness.borrow().clone() else {
            return Ok(());
        };
        let found = answer(requests::get(db, &self.object_store, &key)).await?;
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

    /// A note as it is put, behind its key. Remembers that it is there.
    fn note(&self, key: &str, who: &Requester, note: &Note) -> (JsValue, JsValue) {
        let mut noted = self.noted.borrow_mut();
        if !noted.iter().any(|(of, by)| of == key && by == who) {
            noted.push((key.to_owned(), who.clone()));
        }
        let bytes = Uint8Array::from(&*note.encode());
        (note_key(key, who), bytes.into())
    }

    /// The requesters of this process whose notes `command` makes superfluous, since their requests have
    /// ended. They are not remembered any more.
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

/// Stops waiting when it is dropped.
struct Waits<'a>(&'a Shared, u32);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waits_no_more(self.1);
    }
}

/// Commands on their way, and what became of each.
struct Batch {
    shared: Arc<Shared>,
    number: u32,
    commands: Vec<(String, Command)>,
    work: Work,
    answers: RefCell<Vec<Answer>>,
}

impl Batch {
    fn send(&self, db: &IdbDatabase) -> Result<Sent, JsValue> {
        let Shared {
            object_store: name,
            hears,
            ..
        } = &*self.shared;
        let mode = match self.work {
            Work::Renew | Work::Apply => "readwrite",
            Work::Look => "readonly",
        };
        let tx = requests::begin(db, name, mode)?;
        let keys = self.commands.iter().map(|(key, _)| JsValue::from(key));
        let keys: Array = keys.collect();
        let (done, open) = match self.work {
            Work::Renew => {
                let notes = self.notes();
                let done = requests::renew(&tx, name, &keys, &notes, self.number, hears)?;
                (done, None)
            }
            Work::Apply => {
                let open = Open::new(&self.shared, tx);
                let done = requests::transact(&open.tx, name, &keys, self.number, hears)?;
                (done, Some(open))
            }
            Work::Look => (requests::peek(&tx, name, &keys, self.number, hears)?, None),
        };
        Ok(Sent { done, open })
    }

    /// The notes by which the renewals are said, each behind its key. A note counts if the record says that
    /// its writer holds.
    fn notes(&self) -> Array {
        let notes = Array::new();
        for (key, command) in &self.commands {
            if let Command::Renew {
                who,
                token,
                len,
                beacon,
            } = command
            {
                let count = self.shared.renewals.get() + 1;
                self.shared.renewals.set(count);
                let note = Note::Renewed {
                    token: *token,
                    count,
                    len: *len,
                    beacon: *beacon,
                };
                let (key, note) = self.shared.note(key, who, &note);
                notes.push(&key);
                notes.push(&note);
            }
        }
        notes
    }

    /// Applies one command to the record as it was found. `None`, if a note has to be seen first. `asked`
    /// takes what to write, or the key of that note.
    fn step(
        &self,
        (key, command): &(String, Command),
        found: JsValue,
        note: JsValue,
        asked: &Array,
    ) -> Result<Option<Outcome>, IndexedDbError> {
        let record = match found.is_undefined() || found.is_null() && self.work == Work::Renew {
            true => None,
            false if found.is_null() => return Err(IndexedDbError::Corrupt("it is empty")),
            false => Some(decode(found)?),
        };
        if self.work == Work::Renew {
            return Ok(Some(rules::apply(record.as_ref(), command).1));
        }
        let noted = record.as_ref().and_then(|record| {
            let who = rules::note_of(record, command)?;
            Some((record, who))
        });
        if let (Some((_, who)), true) = (noted, note.is_undefined()) {
            asked.push(&note_key(key, who));
            return Ok(None);
        }
        let mut obsolete = self.shared.take_noted(key, command);
        let (write, outcome) = match noted {
            // A `null`: there is no note.
            Some((record, who)) if !note.is_null() => {
                let note = decode_note(note)?;
                let (write, outcome) = rules::apply_noted(record, &note, command);
                let holder = write.as_ref().map(|record| &record.holder);
                if holder.is_some_and(|holder| holder.as_ref() != Some(who)) {
                    obsolete.push(who.clone());
                }
                (write, outcome)
            }
            _ => rules::apply(record.as_ref(), command),
        };
        if let Some(record) = write {
            self.shared.see(key, &record);
            asked.push(&key.into());
            asked.push(&Uint8Array::from(&*record.encode()));
        }
        for who in obsolete {
            asked.push(&note_key(key, &who));
            asked.push(&JsValue::UNDEFINED);
        }
        Ok(Some(outcome))
    }
}

impl Batch {
    /// What a command would be answered: `Some(None)`, if it has to be applied. `None`, if a note has to be
    /// seen first; `asked` takes its key. A record that cannot be read is left to [`Batch::step`] to report.
    fn look(
        &self,
        (key, command): &(String, Command),
        found: JsValue,
        note: JsValue,
        asked: &Array,
    ) -> Option<Option<Outcome>> {
        let Ok(record) = decode(found) else {
            return Some(None);
        };
        let record = match &record.holder {
            Some(holder) if note.is_undefined() => {
                asked.push(&note_key(key, holder));
                return None;
            }
            Some(_) if !note.is_null() => match decode_note(note) {
                Ok(note) => rules::with_note(&record, &note),
                Err(_) => return Some(None),
            },
            _ => record,
        };
        Some(rules::look(&record, command))
    }
}

impl Hear for Batch {
    fn hear(&self, place: u32, found: JsValue, note: JsValue) -> JsValue {
        let asked = Array::new();
        let place = place as usize;
        let command = &self.commands[place];
        let answer = match self.work {
            Work::Look => self.look(command, found, note, &asked).map(Ok),
            Work::Renew | Work::Apply => {
                let answer = self.step(command, found, note, &asked).transpose();
                answer.map(|answer| answer.map(Some))
            }
        };
        if let Some(answer) = answer {
            self.answers.borrow_mut()[place] = answer;
        }
        asked.into()
    }
}

/// A transaction that would stay open if the page stopped now. Dropping it aborts it, unless it has been told
/// to commit.
struct Open {
    shared: Arc<Shared>,
    tx: IdbTransaction,
}

impl Open {
    fn new(shared: &Arc<Shared>, tx: IdbTransaction) -> Self {
        shared.open.borrow_mut().push(tx.clone());
        let shared = Arc::clone(shared);
        Self { shared, tx }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.open.borrow_mut().retain(|tx| *tx != self.tx);
        // A transaction that commits, or is over, refuses that.
        let _ = self.tx.abort();
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
