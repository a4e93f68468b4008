//! A mutex that is never poisoned. On wasm without threads it is a [`RefCell`](std::cell::RefCell).

#[cfg(target_arch = "wasm32")]
use std::cell::{RefCell as Inner, RefMut};
#[cfg(not(target_arch = "wasm32"))]
use std::sync::{Mutex as Inner, PoisonError};

/// A mutex that is never poisoned: what a panic leaves in one of this crate's is not half-done.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T: ?Sized>(Inner<T>);

// SAFETY: without atomics there is one thread.
#[cfg(all(target_arch = "wasm32", not(target_feature = "atomics")))]
unsafe impl<T: ?Sized> Sync for Mutex<T> {}

/// What [`Mutex::lock`] gives.
#[cfg(target_arch = "wasm32")]
pub(crate) type MutexGuard<'a, T> = RefMut<'a, T>;
/// What [`Mutex::lock`] gives.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) type MutexGuard<'a, T> = std::sync::MutexGuard<'a, T>;

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Inner::new(value))
    }

    /// Waits until no other thread has locked it.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Borrows the value, which is free: there is one thread, and no caller locks twice.
    #[cfg(target_arch = "wasm32")]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.borrow_mut()
    }
}
