//! Where the platforms differ: spawning, sleeping, clocks, randomness, and `Send`.
//!
//! Natively the platform is tokio, on wasm the browser's event loop. Most of the rest of the crate is one
//! source for both.

use std::sync::OnceLock;

use crate::time::Duration;

#[cfg(target_arch = "wasm32")]
mod browser;
#[cfg(not(target_arch = "wasm32"))]
mod native;

#[cfg(target_arch = "wasm32")]
use browser as sys;
#[cfg(not(target_arch = "wasm32"))]
use native as sys;

pub(crate) use sys::Sequence;
#[cfg(target_arch = "wasm32")]
pub(crate) use sys::rest;
#[cfg(target_arch = "wasm32")]
pub use sys::step_back;
pub use sys::{
    BoxFuture, Clock, Job, MaybeSend, MaybeSync, Spawner, Timer, alarm, behind, sleep, wall_ms,
};

/// A random number below 2⁵³ − 2³², drawn from the system's or the browser's generator.
///
/// # Panics
///
/// If there is no source of randomness: without one, two tabs could not be told apart.
#[must_use]
pub fn random() -> u64 {
    let bits = getrandom::u64().expect("the platform has a source of randomness");
    bits % ((1 << 53) - (1 << 32))
}

/// A name for this process (or tab, or worker) that no other has: ten letters and digits.
///
/// # Panics
///
/// Where [`random`] does.
#[must_use]
pub fn process() -> &'static str {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
    static PROCESS: OnceLock<String> = OnceLock::new();
    PROCESS.get_or_init(|| {
        let random = random();
        (0..10)
            .map(|digit| DIGITS[(random >> (5 * digit)) as usize & 31] as char)
            .collect()
    })
}

/// Resolves when `clock` reaches `when`, however far away that is.
pub async fn sleep_until(clock: Clock, when: Duration) {
    const LONG: Duration = Duration::from_millis(24 * 60 * 60 * 1000);
    loop {
        let rest = when.saturating_sub(clock.now());
        sys::rest(rest.min(LONG)).await;
        if rest <= LONG {
            return;
        }
    }
}
