//! Locks on leases kept in a backing store: exclusive, fenced, and released by themselves when the
//! holder crashes or hangs.
//!
//! In browsers the store is IndexedDB and the contenders are tabs and workers of one origin (that
//! is the npm package `tab-lease`); natively it is whatever implements [`BackingStore`]. One source
//! runs on both.
//!
//! # Where things are
//!
//! - [`rules`]: the pure lease rules; every decision about a shared record.
//! - [`participant`]: the pure tab side; what a holder may believe, when a waiter may take over.
//! - [`turns`]: when a busy tab lets others have the lock. Pure.
//! - [`evidence`]: when another tab is believed to be dead. Pure.
//! - [`contender`]: one lock object, whole, and pure; what is done about it, and when.
//! - `driver`: performs what contenders decide. The only room that awaits.
//! - [`message`]: what those who contend tell each other, and the bytes of it.
//! - `codec`: the bytes of all that is stored or told.
//! - [`store`]: the [`BackingStore`] trait, and stores that read, let the rules decide, and write.
//! - [`CrossProcessStoreLock`]: take, spin, wait, and share within a process.
//! - [`CrossProcessStoreLockGuard`]: a held lock. It is renewed while a guard lives.
//! - [`Fencing`]: transactions that a stale holder cannot commit.
//! - [`Wake`]: messages between those who contend; a lock is handed over by one.
//! - [`Liveness`]: beacons, which tell that a holder has ended.
//! - [`Lifecycle`]: what happens to the page; hidden it asks for longer leases, stopped it lets go.
//! - [`platform`]: where the platforms differ, natively and in a browser.
//!
//! # When not to use it
//!
//! For tasks of one process use an async mutex. In a browser, if a hung tab may block the others for
//! as long as it hangs, and a tab that was suspended may go on writing when it wakes, then
//! `navigator.locks` is simpler and costs no download.
#![deny(missing_docs)]

mod codec;
mod config;
pub mod contender;
mod driver;
mod error;
pub mod evidence;
mod fence;
mod guard;
#[cfg(all(target_arch = "wasm32", feature = "npm"))]
mod js;
mod lifecycle;
mod liveness;
mod lock;
pub mod message;
mod mutex;
pub mod participant;
pub mod platform;
pub mod rules;
pub mod store;
#[cfg_attr(
    not(target_arch = "wasm32"),
    allow(
        dead_code,
        unused_macros,
        unused_imports,
        reason = "only what is the browser's waits by it"
    )
)]
mod sync;
mod time;
pub mod turns;
mod wake;

pub use config::{
    Config, EXTEND_LEASE_EVERY_MS, HIDDEN_LEASE_MS, IDLE_LEASE_MS, INITIAL_BACKOFF_MS,
    LEASE_DURATION_MS, MAX_BACKOFF_MS, PLACES, STEADY_LEASES,
};
pub use error::{ConfigError, LeaseLost, LockError, LossReason};
pub use fence::Fencing;
pub use guard::CrossProcessStoreLockGuard;
pub use lifecycle::Lifecycle;
pub use liveness::{Beacon, Liveness};
pub use lock::CrossProcessStoreLock;
pub use store::BackingStore;
#[cfg(target_arch = "wasm32")]
pub use store::indexed_db::IndexedDbStore;
pub use store::memory::MemoryStore;
pub use wake::Wake;

/// Runs the README's Rust example.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
