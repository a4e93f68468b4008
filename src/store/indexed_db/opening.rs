//! Opening a database, and finding out whether its object store is one of leases.

use indexed_db_futures::database::Database;
use indexed_db_futures::internals::SystemRepr;
use js_sys::Array;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{IdbDatabase, IdbObjectStore};

#[cfg(doc)]
use super::OBJECT_STORE;
use super::requests::{self, answer, failed};
use super::{Cause, IndexedDbError, STORE_MARK, Shared, decode, decode_note, read_note_key};

/// Adds a lease store of that name ([`OBJECT_STORE`], unless the application has a store of that name) to a
/// database of the application's, while the database is being upgraded. Does nothing if the lease store
/// exists.
///
/// # Errors
///
/// [`IndexedDbError::NotLeases`], if the application has another store of that name; nothing was touched.
/// [`IndexedDbError::Failed`], if the database is not being upgraded.
pub fn add_lease_store(db: &Database, name: &str) -> Result<(), IndexedDbError> {
    let db = db.as_sys();
    if !db.object_store_names().contains(name) {
        return requests::create(db, name, STORE_MARK).map_err(failed);
    }
    // The transaction of an upgrade can only be reached by an object store that is made in it.
    const PROBE: &str = "tab-lease looks at a store";
    let probe = db.create_object_store(PROBE).map_err(failed)?;
    let store = probe.transaction().object_store(name);
    db.delete_object_store(PROBE).map_err(failed)?;
    match look(&store.map_err(failed)?) {
        Look::Marked => Ok(()),
        _ => Err(IndexedDbError::NotLeases(name.to_owned())),
    }
}

/// What an object store looks like.
#[derive(PartialEq)]
pub(super) enum Look {
    Marked,
    Other,
}

pub(super) fn look(store: &IdbObjectStore) -> Look {
    match requests::look(store, STORE_MARK) {
        2 => Look::Marked,
        // It may have the shape of a lease store, but other stores may have that, too.
        _ => Look::Other,
    }
}

impl Shared {
    /// Whether our object store is one of leases: by its mark, or by everything that is in it.
    pub(super) async fn is_ours(&self, db: &IdbDatabase) -> Result<bool, IndexedDbError> {
        let ours = requests::is_ours(db, &self.object_store, STORE_MARK, &self.hears);
        Ok(answer(Ok(ours)).await?.is_truthy())
    }

    /// Opens the database, creating what is missing. Does not check whether the object store is one of
    /// leases.
    pub(super) fn open(&self) -> impl Future<Output = Result<IdbDatabase, IndexedDbError>> + use<> {
        let opened = requests::open(&self.database, &self.object_store, STORE_MARK, &self.hears);
        async move {
            match JsFuture::from(opened).await {
                Ok(db) if db.is_undefined() => Err(IndexedDbError::Foreign),
                Ok(db) => Ok(db.unchecked_into()),
                Err(told) => {
                    let told: Array = told.unchecked_into();
                    let (cause, thrown) = (Cause(told.get(0)), told.get(1).is_truthy());
                    match thrown {
                        true => Err(IndexedDbError::Unavailable(cause)),
                        false => Err(refused(cause)),
                    }
                }
            }
        }
    }
}

/// Whether a row may stand in a lease store.
pub(super) fn is_row(key: &JsValue, value: JsValue) -> bool {
    match key.as_string() {
        Some(_) => decode(value).is_ok(),
        None => read_note_key(key).is_some() && decode_note(value).is_ok(),
    }
}

/// What an error event at opening means. The engines use every name for "not here, not now": UnknownError
/// (site data blocked, a damaged profile, a lost server), InvalidStateError (Firefox's private mode),
/// SecurityError, NotAllowedError and others. So the errors that mean something else are listed.
fn refused(cause: Cause) -> IndexedDbError {
    let others = [
        // A full disk.
        "QuotaExceededError",
        // Another tab has made a newer version since we looked.
        "VersionError",
        // The upgrade that makes the lease store was broken off.
        "AbortError",
        "ConstraintError",
    ];
    match others.iter().any(|name| cause.is(name)) {
        true => IndexedDbError::Failed(cause),
        false => IndexedDbError::Unavailable(cause),
    }
}
