//! What only IndexedDB can do wrong: connections that go away, records that are not ours, databases
//! that are somebody else's, stores that do not answer.

use std::time::Duration;

use indexed_db_futures::database::Database;
use indexed_db_futures::prelude::*;
use indexed_db_futures::transaction::{Transaction, TransactionMode};
use js_sys::{Promise, Uint8Array};
use tab_lease::platform::{random, sleep};
use tab_lease::rules::Command;
use tab_lease::store::indexed_db::{FenceError, IndexedDbError, OBJECT_STORE, add_lease_store};
use tab_lease::{BackingStore, CrossProcessStoreLock, IndexedDbStore, LockError};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

use crate::store_contract::{Place, held, take};

/// A database of its own.
pub struct Indexed(pub String);

impl Place for Indexed {
    type Store = IndexedDbStore;

    fn new() -> Self {
        Self(["test", &random().to_string()].join("-"))
    }

    fn open(&self) -> IndexedDbStore {
        IndexedDbStore::new(&self.0)
    }
}

macro_rules! indexed_db {
    () => {
        indexed_db! {
            fault_10_success_means_committed,
            reopens_after_a_deletion,
            reopens_after_a_lost_connection,
            lets_a_newer_version_in,
            a_damaged_record_is_an_error_and_stays,
            a_foreign_database_is_left_alone,
            an_empty_database_is_made_ours,
            a_blocked_upgrade_says_so,
            a_stalled_store_is_given_up,
            a_fenced_transaction_is_committed_by_a_holder_only,
            an_unfit_transaction_is_told,
            leases_end_with_the_applications_connection,
            another_store_of_that_name_is_refused,
            a_store_without_the_mark_is_judged_by_its_content,
            a_store_of_another_name,
            another_database_in_its_place_ends_the_leases,
        }
    };
    ($($scenario:ident,)*) => {$(
        #[wasm_bindgen_test::wasm_bindgen_test]
        async fn $scenario() {
            indexed_db::$scenario(<Indexed as store_contract::Place>::new()).await;
        }
    )*};
}
pub(crate) use indexed_db;

// IndexedDB as another program would use it, sharing no code with the store under test.
#[wasm_bindgen(inline_js = r#"
const result = (request) => new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
});
export const open = (name, version, stores) => {
    const request = indexedDB.open(name, version);
    request.onupgradeneeded = () => stores.forEach((store) => request.result.createObjectStore(store));
    return result(request);
};
export const openKeyed = (name, store, options) => {
    const request = indexedDB.open(name, 1);
    request.onupgradeneeded = () => {
        request.result.createObjectStore(store, JSON.parse(options)).put({ id: 7 });
    };
    return result(request);
};
// Touches the store, and clears it if told so.
export const visit = (name, store, clear) => result(indexedDB.open(name)).then((db) => {
    const tx = db.transaction(store, "readwrite");
    if (clear) tx.objectStore(store).clear();
    return new Promise((resolve) => { tx.oncomplete = () => { db.close(); resolve(); }; });
});
// All connections, to be closed by force, as the browser does.
const connections = {};
const { open: opens } = IDBFactory.prototype;
IDBFactory.prototype.open = function (name, ...version) {
    const request = opens.call(this, name, ...version);
    request.addEventListener("success", () => (connections[name] ??= []).push(request.result));
    return request;
};
export const closeByForce = (name) => connections[name].forEach((db) => {
    db.close();
    db.dispatchEvent(new Event("close"));
});
export const destroy = (name) => result(indexedDB.deleteDatabase(name));
export const closeConnection = (db) => db.close();
export const read = (db, store, key) => result(db.transaction(store).objectStore(store).get(key));
export const write = (db, store, key, value) => {
    const tx = db.transaction(store, "readwrite");
    tx.objectStore(store).put(value, key);
    return new Promise((resolve, reject) => {
        tx.oncomplete = () => resolve();
        tx.onabort = () => reject(tx.error);
    });
};
// Keeps a readwrite transaction open until `stop` is called.
export const occupy = (db, store) => {
    const objects = db.transaction(store, "readwrite").objectStore(store);
    let stopped = false;
    const spin = () => { if (!stopped) objects.count().onsuccess = spin; };
    spin();
    return () => { stopped = true; };
};
"#)]
extern "C" {
    fn open(name: &str, version: Option<u32>, stores: Vec<String>) -> Promise;
    #[wasm_bindgen(js_name = openKeyed)]
    fn open_keyed(name: &str, store: &str, options: &str) -> Promise;
    fn visit(name: &str, store: &str, clear: bool) -> Promise;
    #[wasm_bindgen(js_name = closeByForce)]
    fn close_by_force(name: &str);
    fn destroy(name: &str) -> Promise;
    #[wasm_bindgen(js_name = closeConnection)]
    fn close_connection(db: &JsValue);
    fn read(db: &JsValue, store: &str, key: &str) -> Promise;
    fn write(db: &JsValue, store: &str, key: &str, value: JsValue) -> Promise;
    fn occupy(db: &JsValue, store: &str) -> js_sys::Function;
}

async fn done(promise: Promise) -> JsValue {
    JsFuture::from(promise).await.unwrap()
}

/// A connection of another program, which does not let go when asked.
async fn foreign(place: &Indexed, version: Option<u32>, stores: &[&str]) -> JsValue {
    let stores = stores.iter().map(|store| (*store).to_owned()).collect();
    done(open(&place.0, version, stores)).await
}

fn ask() -> Command {
    take(&tab_lease::rules::Requester {
        tab: "a".to_owned(),
        request: 1,
    })
}

/// What another connection reads the moment the command is answered.
pub async fn fault_10_success_means_committed(place: Indexed) {
    let store = place.open();
    held(store.apply("inbox", ask()).await.unwrap());
    let db = foreign(&place, None, &[]).await;
    for round in 2..12 {
        held(store.apply("inbox", ask()).await.unwrap());
        let bytes = done(read(&db, OBJECT_STORE, "inbox")).await;
        let bytes = bytes.dyn_into::<Uint8Array>().unwrap().to_vec();
        let record = tab_lease::rules::Record::decode(&bytes).unwrap();
        assert_eq!(record.count, round - 1, "the write is there");
    }
    close_connection(&db);
}

pub async fn reopens_after_a_deletion(place: Indexed) {
    let store = place.open();
    held(store.apply("inbox", ask()).await.unwrap());
    // Waits for our connection to be closed: we must not block it.
    done(destroy(&place.0)).await;
    held(store.apply("inbox", ask()).await.unwrap());
}

/// The holder is told before the connection closes.
pub async fn reopens_after_a_lost_connection(place: Indexed) {
    let lock = CrossProcessStoreLock::new(place.open(), "inbox", "one");
    let guard = lock.spin_lock(None).await.unwrap();
    done(destroy(&place.0)).await;
    let lost = guard.lost().await;
    assert_eq!(lost.reason, tab_lease::LossReason::StoreClosed);
    assert!(!guard.is_held());
    let again = lock.spin_lock(None).await.unwrap();
    assert!(again.token() > guard.token(), "tokens outlive a deletion");
}

pub async fn lets_a_newer_version_in(place: Indexed) {
    let store = place.open();
    held(store.apply("inbox", ask()).await.unwrap());
    let newer = foreign(&place, Some(9), &["more"]).await;
    close_connection(&newer);
    // And whoever upgraded it has left the leases in it, so they go on.
    let again = held(store.apply("inbox", ask()).await.unwrap());
    assert_eq!(again.token, 100);
}

pub async fn a_damaged_record_is_an_error_and_stays(place: Indexed) {
    let store = place.open();
    let lock = CrossProcessStoreLock::new(place.open(), "inbox", "one");
    lock.spin_lock(None).await.unwrap().release().await;
    let db = foreign(&place, None, &[]).await;
    let good = done(read(&db, OBJECT_STORE, "inbox")).await;
    let good = good.dyn_into::<Uint8Array>().unwrap().to_vec();
    let bytes = |bytes: &[u8]| JsValue::from(Uint8Array::from(bytes));
    let longer = [&good[..], &[0]].concat();
    for damage in [
        JsValue::NULL,
        JsValue::from(42),
        JsValue::from("free"),
        js_sys::Object::new().into(),
        bytes(&[]),
        bytes(&[0; 40]),
        bytes(&[255; 40]),
        bytes(&good[..good.len() - 1]),
        bytes(&longer),
    ] {
        done(write(&db, OBJECT_STORE, "inbox", damage.clone())).await;
        let answer = store.apply("inbox", ask()).await;
        assert!(
            matches!(answer, Err(IndexedDbError::Corrupt(_))),
            "{answer:?}"
        );
        let refused = lock.try_lock_once().await;
        assert!(matches!(
            refused,
            Err(LockError::Store(IndexedDbError::Corrupt(_)))
        ));
        let left = done(read(&db, OBJECT_STORE, "inbox")).await;
        assert_eq!(
            js_sys::JSON::stringify(&left),
            js_sys::JSON::stringify(&damage)
        );
        assert!(store.records().await.unwrap().is_empty());
    }
    held(store.apply("other", ask()).await.unwrap());
    close_connection(&db);
}

pub async fn a_foreign_database_is_left_alone(place: Indexed) {
    let db = foreign(&place, Some(3), &["mails"]).await;
    let answer = place.open().apply("inbox", ask()).await;
    assert!(matches!(answer, Err(IndexedDbError::Foreign)), "{answer:?}");
    close_connection(&db);
    let db = foreign(&place, Some(3), &[]).await;
    close_connection(&db);
}

pub async fn an_empty_database_is_made_ours(place: Indexed) {
    close_connection(&foreign(&place, Some(1), &[]).await);
    held(place.open().apply("inbox", ask()).await.unwrap());
}

pub async fn a_blocked_upgrade_says_so(place: Indexed) {
    let blocker = foreign(&place, Some(1), &[]).await;
    let store = place.open();
    let answer = store.apply("inbox", ask()).await;
    assert!(matches!(answer, Err(IndexedDbError::Blocked)), "{answer:?}");
    close_connection(&blocker);
    // The upgrade was only waiting: it goes through now, and the store is usable again.
    for _ in 0..500 {
        if store.apply("inbox", ask()).await.is_ok() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("still blocked");
}

pub async fn a_stalled_store_is_given_up(place: Indexed) {
    held(place.open().apply("inbox", ask()).await.unwrap());
    let db = foreign(&place, None, &[]).await;
    let store = place.open().with_timeout(Duration::from_millis(150));
    let stop = occupy(&db, OBJECT_STORE);
    let answer = store.apply("inbox", ask()).await;
    assert!(matches!(answer, Err(IndexedDbError::Stalled)), "{answer:?}");
    // A caller's own deadline comes first.
    let lock = CrossProcessStoreLock::new(place.open(), "inbox", "one");
    let late = lock.acquire(Some(Duration::from_millis(100))).await;
    assert!(matches!(late, Err(LockError::Timeout)), "{late:?}");
    stop.call0(&JsValue::NULL).unwrap();
    held(store.apply("inbox", ask()).await.unwrap());
    close_connection(&db);
}

/// A database as a wasm app written in Rust opens it: its notes, and the leases beside them.
async fn app(name: &str) -> Database {
    let opening = Database::open(name)
        .with_version(1u32)
        .with_on_upgrade_needed(|_, db| {
            add_lease_store(&db, OBJECT_STORE).unwrap();
            add_lease_store(&db, OBJECT_STORE).unwrap();
            db.create_object_store("notes").build()?;
            Ok(())
        });
    opening.await.unwrap()
}

fn notes(db: &Database, mode: TransactionMode) -> Transaction<'_> {
    let tx = db.transaction(["notes", OBJECT_STORE]).with_mode(mode);
    tx.build().unwrap()
}

async fn note(db: &Database) -> Option<String> {
    let tx = notes(db, TransactionMode::Readonly);
    let notes = tx.object_store("notes").unwrap();
    notes.get("text").primitive().unwrap().await.unwrap()
}

pub async fn a_fenced_transaction_is_committed_by_a_holder_only(place: Indexed) {
    let db = app(&place.0).await;
    let store = IndexedDbStore::over(db.clone(), OBJECT_STORE).unwrap();
    // It renews seldom, so that the fence is the first to notice.
    let config = tab_lease::Config {
        lease_ms: 60_000,
        heartbeat_ms: 50_000,
        idle_lease_ms: 60_000,
        hidden_lease_ms: 60_000,
        ..tab_lease::Config::default()
    };
    let lock = CrossProcessStoreLock::with_config(store, "inbox", "one", config).unwrap();
    let guard = lock.spin_lock(None).await.unwrap();
    let write = async |text: &str| {
        let tx = notes(&db, TransactionMode::Readwrite);
        let checked = guard.fence(&tx)?;
        let notes = tx.object_store("notes").unwrap();
        drop(notes.put(text).with_key("text").primitive().unwrap());
        drop(notes);
        // Its commit is called before the check has been made.
        let (checked, committed) = tokio::join!(checked, tx.commit());
        assert_eq!(checked.is_ok(), committed.is_ok());
        checked
    };
    write("first").await.unwrap();
    let tx = notes(&db, TransactionMode::Readonly);
    guard.fence_read(&tx).unwrap().await.unwrap();
    drop(tx);

    // Somebody else's, from one moment to the next.
    let other = foreign(&place, None, &[]).await;
    let record = done(read(&other, OBJECT_STORE, "inbox")).await;
    let bytes = record.dyn_into::<Uint8Array>().unwrap().to_vec();
    let mut record = tab_lease::rules::Record::decode(&bytes).unwrap();
    record.token += 2;
    record.holder = Some(tab_lease::rules::Requester {
        tab: "another".to_owned(),
        request: 1,
    });
    let bytes = Uint8Array::from(&*record.encode()).into();
    done(self::write(&other, OBJECT_STORE, "inbox", bytes)).await;
    close_connection(&other);
    assert!(guard.is_held(), "it does not know yet");

    let refused = write("stale").await.unwrap_err();
    let FenceError::Lost(lost) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(lost.token, guard.token());
    assert!(!guard.is_held());
    assert_eq!(guard.lost().await, lost);
    assert_eq!(note(&db).await.as_deref(), Some("first"));
    assert!(matches!(write("stale").await, Err(FenceError::Lost(_))));
    db.close();
}

pub async fn an_unfit_transaction_is_told(place: Indexed) {
    let db = app(&place.0).await;
    let store = IndexedDbStore::over(db.clone(), OBJECT_STORE).unwrap();
    let lock = CrossProcessStoreLock::new(store, "inbox", "one");
    let guard = lock.spin_lock(None).await.unwrap();
    let unfit = |tx: &Transaction<'_>| {
        let refused = guard.fence(tx).err().unwrap();
        assert!(matches!(refused, FenceError::Unfit(_)), "{refused:?}");
    };
    unfit(&notes(&db, TransactionMode::Readonly));
    let scope = db
        .transaction("notes")
        .with_mode(TransactionMode::Readwrite);
    unfit(&scope.build().unwrap());
    let another = app(&[&place.0, "another"].concat()).await;
    unfit(&notes(&another, TransactionMode::Readwrite));
    assert!(guard.is_held());
    // The application has no need to go on.
    let tx = notes(&db, TransactionMode::Readwrite);
    let checked = guard.fence(&tx).unwrap();
    tx.abort().await.unwrap();
    assert!(matches!(checked.await, Err(FenceError::Aborted(_))));
    assert!(guard.is_held());
    guard.release().await;
    another.close();
    db.close();
}

pub async fn leases_end_with_the_applications_connection(place: Indexed) {
    let db = app(&place.0).await;
    let store = IndexedDbStore::over(db.clone(), OBJECT_STORE).unwrap();
    held(store.apply("inbox", ask()).await.unwrap());
    db.clone().close();
    let answer = store.apply("inbox", ask()).await;
    assert!(matches!(answer, Err(IndexedDbError::Closed)), "{answer:?}");
    let bare = foreign(&Indexed([&place.0, "bare"].concat()), Some(1), &["notes"]).await;
    close_connection(&bare);
    let bare = Database::open([&place.0, "bare"].concat()).await.unwrap();
    let refused = IndexedDbStore::over(bare.clone(), OBJECT_STORE)
        .err()
        .unwrap();
    assert!(matches!(refused, IndexedDbError::Foreign), "{refused:?}");
    bare.close();
}

/// Three kinds of stores that an application may have under that name: none is touched.
pub async fn another_store_of_that_name_is_refused(place: Indexed) {
    for (n, options) in [r#"{"keyPath":"id"}"#, r#"{"autoIncrement":true}"#]
        .iter()
        .enumerate()
    {
        let name = [&place.0, &n.to_string()[..]].concat();
        close_connection(&done(open_keyed(&name, OBJECT_STORE, options)).await);
        let answer = IndexedDbStore::new(&name).apply("inbox", ask()).await;
        assert!(matches!(answer, Err(IndexedDbError::Foreign)), "{answer:?}");
        let db = Database::open(&*name).await.unwrap();
        let refused = IndexedDbStore::over(db.clone(), OBJECT_STORE)
            .err()
            .unwrap();
        assert!(
            matches!(refused, IndexedDbError::NotLeases(_)),
            "{refused:?}"
        );
        db.close();
    }
    let name = [&place.0, "keys outside"].concat();
    let opening = Database::open(&*name)
        .with_version(1u32)
        .with_on_upgrade_needed(|_, db| {
            db.create_object_store(OBJECT_STORE).build()?;
            let refused = add_lease_store(&db, OBJECT_STORE).unwrap_err();
            assert!(matches!(refused, IndexedDbError::NotLeases(of) if of == OBJECT_STORE));
            add_lease_store(&db, "my leases").unwrap();
            Ok(())
        });
    let db = opening.await.unwrap();
    let names: Vec<_> = db.object_store_names().collect();
    assert_eq!(names, [OBJECT_STORE, "my leases"]);
    let refused = IndexedDbStore::over(db.clone(), OBJECT_STORE)
        .err()
        .unwrap();
    assert!(
        matches!(refused, IndexedDbError::NotLeases(_)),
        "{refused:?}"
    );
    let store = IndexedDbStore::over(db.clone(), "my leases").unwrap();
    held(store.apply("inbox", ask()).await.unwrap());
    db.clone().close();
    let closed = IndexedDbStore::over(db, "my leases").err().unwrap();
    assert!(matches!(closed, IndexedDbError::Closed), "{closed:?}");
}

/// As an older version of this package made it.
pub async fn a_store_without_the_mark_is_judged_by_its_content(place: Indexed) {
    let db = foreign(&place, Some(1), &[OBJECT_STORE]).await;
    held(place.open().apply("inbox", ask()).await.unwrap());
    held(place.open().apply("inbox", ask()).await.unwrap());
    let strange = JsValue::from("an application's");
    done(write(&db, OBJECT_STORE, "row", strange.clone())).await;
    let answer = place.open().apply("inbox", ask()).await;
    assert!(matches!(answer, Err(IndexedDbError::Foreign)), "{answer:?}");
    assert_eq!(done(read(&db, OBJECT_STORE, "row")).await, strange);
    close_connection(&db);
}

pub async fn a_store_of_another_name(place: Indexed) {
    let store = IndexedDbStore::within(&place.0, "my leases");
    held(store.apply("inbox", ask()).await.unwrap());
    let db = foreign(&place, None, &[]).await;
    assert!(done(read(&db, "my leases", "inbox")).await.is_object());
    close_connection(&db);
    let answer = place.open().apply("inbox", ask()).await;
    assert!(matches!(answer, Err(IndexedDbError::Foreign)), "{answer:?}");
}

/// The browser closes the connection; the database is the same, and then another.
pub async fn another_database_in_its_place_ends_the_leases(place: Indexed) {
    // It renews seldom, so that nothing but the closing tells.
    let config = tab_lease::Config {
        lease_ms: 60_000,
        heartbeat_ms: 50_000,
        idle_lease_ms: 60_000,
        hidden_lease_ms: 60_000,
        ..tab_lease::Config::default()
    };
    let lock = CrossProcessStoreLock::with_config(place.open(), "inbox", "one", config).unwrap();
    let guard = lock.spin_lock(None).await.unwrap();
    done(visit(&place.0, OBJECT_STORE, false)).await;
    close_by_force(&place.0);
    let other = CrossProcessStoreLock::new(place.open(), "inbox", "two");
    assert!(other.try_lock_once().await.unwrap().is_none());
    assert!(guard.is_held());
    done(visit(&place.0, OBJECT_STORE, true)).await;
    close_by_force(&place.0);
    let lost = guard.lost().await;
    assert_eq!(lost.reason, tab_lease::LossReason::StoreClosed);
}
