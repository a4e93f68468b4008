//! Opening a database, and finding out whether its object store is one of leases.

use std::cell::Cell;
use std::rc::Rc;
use std::sync;

use indexed_db_futures::database::Database;
use indexed_db_futures::internals::SystemRepr;
use js_sys::{Array, Reflect};
use wasm_bindgen::prelude::*;
use web_sys::{IdbDatabase, IdbFactory, IdbObjectStore, IdbOpenDbRequest};

#[cfg(doc)]
use super::OBJECT_STORE;
use super::requests::{answer, begin, failed, result};
use super::{Cause, IndexedDbError, Link, STORE_MARK, Shared, decode, decode_note, read_note_key};

/// Adds a lease store of that name ([`OBJECT_STORE`], unless the application has a store of that name) to a
/// database of the application's, while that is being upgraded. Does nothing if it is there.
///
/// # Errors
///
/// [`IndexedDbError::NotLeases`], if the application has another store of that name; nothing was touched.
/// [`IndexedDbError::Failed`], if the database is not being upgraded.
pub fn add_lease_store(db: &Database, name: &str) -> Result<(), IndexedDbError> {
    let db = db.as_sys();
    if !db.object_store_names().contains(name) {
        return create(db, name).map_err(failed);
    }
    // An upgrade's transaction is reached by nothing but what it makes.
    const PROBE: &str = "tab-lease looks at a store";
    let probe = db.create_object_store(PROBE).map_err(failed)?;
    let store = probe.transaction().object_store(name);
    db.delete_object_store(PROBE).map_err(failed)?;
    match look(&store.map_err(failed)?) {
        Look::Marked => Ok(()),
        _ => Err(IndexedDbError::NotLeases(name.to_owned())),
    }
}

/// Makes a lease store, in an upgrade.
fn create(db: &IdbDatabase, name: &str) -> Result<(), JsValue> {
    let store = db.create_object_store(name)?;
    store
        .create_index_with_str(STORE_MARK, STORE_MARK)
        .map(drop)
}

/// What a store says of itself.
#[derive(PartialEq)]
pub(super) enum Look {
    Marked,
    /// It has the shape of a lease store, but so may others.
    Unmarked,
    Other,
}

pub(super) fn look(store: &IdbObjectStore) -> Look {
    let keyed = store.key_path().is_ok_and(|path| !path.is_null());
    if keyed || store.auto_increment() {
        Look::Other
    } else if store.index_names().contains(STORE_MARK) {
        Look::Marked
    } else {
        Look::Unmarked
    }
}

/// Whether that store is one of leases: by its mark, else by everything that is in it.
pub(super) async fn is_ours(db: &IdbDatabase, name: &str) -> Result<bool, IndexedDbError> {
    let tx = begin(db, name, "readonly")?;
    let store = tx.object_store(name).map_err(failed)?;
    match look(&store) {
        Look::Marked => return Ok(true),
        Look::Unmarked => {}
        Look::Other => return Ok(false),
    }
    let keys: Array = answer(store.get_all_keys()).await?.unchecked_into();
    // One by one: the first row that is not ours ends it, and an application's may be large.
    for key in keys.iter() {
        let value = answer(store.get(&key)).await?;
        let ours = match key.as_string() {
            Some(_) => decode(value).is_ok(),
            None => read_note_key(&key).is_some() && decode_note(value).is_ok(),
        };
        if !ours {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Opens the database, creating what is missing. Whose the object store is remains to be seen.
pub(super) async fn open(
    name: &str,
    store: &str,
    shared: &sync::Weak<Shared>,
) -> Result<IdbDatabase, IndexedDbError> {
    let unavailable = |thrown| IndexedDbError::Unavailable(Cause(thrown));
    // The getter throws in some sandboxed frames; where site data is blocked it may be null.
    let factory = Reflect::get(&js_sys::global(), &"indexedDB".into()).map_err(unavailable)?;
    if factory.is_null() || factory.is_undefined() {
        let cause = Cause::new("there is no indexedDB");
        return Err(IndexedDbError::Unavailable(cause));
    }
    let factory: IdbFactory = factory.unchecked_into();
    // No version is asked for: an older copy of this package must still open what a newer one made.
    let mut version = None;
    loop {
        let request = match version {
            None => factory.open(name),
            Some(version) => factory.open_with_u32(name, version),
        };
        let db = opened(&request.map_err(unavailable)?, store, shared).await?;
        let stores = db.object_store_names();
        if stores.contains(store) {
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

/// Sees an open request through.
async fn opened(
    request: &IdbOpenDbRequest,
    store: &str,
    shared: &sync::Weak<Shared>,
) -> Result<IdbDatabase, IndexedDbError> {
    let broken = Rc::new(Cell::new(None));
    let on_upgrade = Closure::once({
        let (request, store, broken) = (request.clone(), store.to_owned(), Rc::clone(&broken));
        move || {
            let db = request.result().map(IdbDatabase::unchecked_from_js);
            if let Err(error) = db.and_then(|db| create(&db, &store)) {
                // Not thrown: that would be an error of the page's.
                broken.set(Some(error));
                let _ = request.transaction().map(|upgrade| upgrade.abort());
            }
        }
    });
    let on_blocked = Closure::once({
        let shared = shared.clone();
        move || {
            if let Some(shared) = shared.upgrade() {
                shared.link.set(Link::Blocked);
            }
        }
    });
    request.set_onupgradeneeded(Some(on_upgrade.as_ref().unchecked_ref()));
    request.set_onblocked(Some(on_blocked.as_ref().unchecked_ref()));
    let opened = result(request).await;
    request.set_onupgradeneeded(None);
    request.set_onblocked(None);
    match opened {
        Ok(db) => Ok(db.unchecked_into()),
        Err(error) => Err(refused(Cause(broken.take().unwrap_or(error)))),
    }
}

/// What an error event at opening means. The engines use every name for "not here, not now": UnknownError
/// (site data blocked, a damaged profile, a lost server), InvalidStateError (Firefox's private mode),
/// SecurityError, NotAllowedError and others. So the exceptions are listed.
fn refused(cause: Cause) -> IndexedDbError {
    let others = [
        // A full disk.
        "QuotaExceededError",
        // Somebody else has made a newer version since we looked.
        "VersionError",
        // The making of our store was broken off.
        "AbortError",
        "ConstraintError",
    ];
    match others.iter().any(|name| cause.is(name)) {
        true => IndexedDbError::Failed(cause),
        false => IndexedDbError::Unavailable(cause),
    }
}
