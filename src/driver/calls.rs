//! Callers of this tab, and how each gets its answer.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use super::{Core, Driver};
use crate::contender::{CallId, End, Event, Patience};
use crate::error::LockError;
use crate::guard::{CrossProcessStoreLockGuard, ObjectId};
use crate::platform::{BoxFuture, Spawner, sleep_until};
use crate::store::BackingStore;

/// How a call ends. `Ok(None)`: it only tried, and another holder has the lock.
pub(crate) type Settled<E> = Result<Option<CrossProcessStoreLockGuard>, LockError<E>>;

/// Where a call's answer goes.
pub(super) enum Slot<E> {
    Waits(Option<Waker>),
    Settled(Settled<E>),
    #[cfg(all(target_arch = "wasm32", feature = "npm"))]
    Tells(Box<dyn FnOnce(Settled<E>)>),
}

impl<E> Core<E> {
    fn slot(&self, call: CallId) -> Option<usize> {
        self.calls.binary_search_by_key(&call, |(id, _)| *id).ok()
    }

    fn take_slot(&mut self, call: CallId) -> Option<Slot<E>> {
        let place = self.slot(call)?;
        Some(self.calls.remove(place).1)
    }
}

impl<S: BackingStore> Driver<S> {
    /// Opens a slot for a new call.
    fn open(&self, slot: Slot<S::Error>) -> CallId {
        static CALLS: AtomicU64 = AtomicU64::new(1);
        let call = {
            let mut core = self.core();
            core.spawner = Some(Spawner::current());
            // Drawn under the mutex, so that the slots are in order.
            let call = CallId(CALLS.fetch_add(1, Ordering::Relaxed));
            core.calls.push((call, slot));
            call
        };
        self.await_beacon();
        call
    }

    /// Gives a call its answer.
    pub(super) fn settle(&self, object: ObjectId, call: CallId, end: End) {
        let settled = match end {
            End::Held {
                lease,
                token,
                epoch,
                dirty,
            } => {
                let lease = self.lease(object, lease, (epoch, token));
                Ok(lease.map(|lease| lease.guard(dirty)))
            }
            End::Busy => Ok(None),
            End::TimedOut => Err(LockError::Timeout),
            End::StoreFailed(send) => {
                let failed = &mut self.core().failed;
                let place = failed
                    .iter()
                    .position(|f| (f.object, f.id) == (object, send));
                let error = place.map(|place| failed.swap_remove(place).error);
                error.map_or(Err(LockError::Timeout), |error| {
                    Err(LockError::Store(error))
                })
            }
        };
        // Callbacks run, and guards that no caller takes are dropped, outside of the mutex.
        let mut core = self.core();
        match core.slot(call).map(|place| &mut core.calls[place].1) {
            Some(slot @ Slot::Waits(_)) => {
                let waits = std::mem::replace(slot, Slot::Settled(settled));
                drop(core);
                if let Slot::Waits(Some(waker)) = waits {
                    waker.wake();
                }
            }
            #[cfg(all(target_arch = "wasm32", feature = "npm"))]
            Some(Slot::Tells(_)) => {
                let slot = core.take_slot(call);
                drop(core);
                if let Some(Slot::Tells(tell)) = slot {
                    self.note_told(&settled);
                    tell(settled);
                }
            }
            _ => drop(core),
        }
    }

    /// Notes that the caller gets its guard, if there is one.
    fn note_told(&self, settled: &Settled<S::Error>) {
        if let Ok(Some(guard)) = settled {
            let lease = guard.lease();
            self.tell(lease.object, Event::Told(lease.id));
        }
    }

    /// Ends a call. An answer that was not fetched is dropped.
    fn leave(&self, object: ObjectId, call: CallId) {
        let slot = self.core().take_slot(call);
        match slot {
            None => {}
            // The answer may hold a guard, which releases.
            Some(Slot::Settled(settled)) => drop(settled),
            Some(_) => self.tell(object, Event::Leave(call)),
        }
    }
}

#[cfg(all(target_arch = "wasm32", feature = "npm"))]
impl<S: BackingStore> Driver<S> {
    /// Begins a call whose answer `tell` gets.
    pub(crate) fn call(
        &self,
        object: ObjectId,
        patience: Patience,
        tell: impl FnOnce(Settled<S::Error>) + 'static,
    ) -> CallId {
        let id = self.open(Slot::Tells(Box::new(tell)));
        self.tell(object, Event::Call { id, patience });
        id
    }

    /// Ends a call. Its `tell` is not called any more.
    pub(crate) fn hang_up(&self, object: ObjectId, call: CallId) {
        self.leave(object, call);
    }
}

/// A call, as a future. Dropping it ends the call; a guard that the call was settled with, and that was never
/// fetched, is dropped with it.
pub(crate) struct Acquiring<S: BackingStore> {
    driver: Arc<Driver<S>>,
    object: ObjectId,
    patience: Patience,
    /// The call that began when this was first polled.
    call: Option<CallId>,
    /// The call's own timer for its deadline: it comes before whatever else is due then.
    deadline: Option<BoxFuture<()>>,
}

impl<S: BackingStore> Acquiring<S> {
    pub(crate) fn new(driver: &Arc<Driver<S>>, object: ObjectId, patience: Patience) -> Self {
        let deadline: Option<BoxFuture<()>> = match patience {
            Patience::Until(Some(at)) => Some(Box::pin(sleep_until(driver.clock, at))),
            _ => None,
        };
        Self {
            driver: Arc::clone(driver),
            object,
            patience,
            call: None,
            deadline,
        }
    }
}

impl<S: BackingStore> Future for Acquiring<S> {
    type Output = Settled<S::Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match this.look(context) {
                // The lease was lost before its caller could get it: a new call asks anew.
                Some(Ok(Some(guard))) if !guard.is_held() => this.call = None,
                Some(settled) => {
                    this.driver.note_told(&settled);
                    return Poll::Ready(settled);
                }
                None => return Poll::Pending,
            }
        }
    }
}

impl<S: BackingStore> Acquiring<S> {
    /// What the call was settled with, if it was. Begins the call when it is first polled.
    fn look(&mut self, context: &mut Context<'_>) -> Option<Settled<S::Error>> {
        let id = *self.call.get_or_insert_with(|| {
            let id = self.driver.open(Slot::Waits(None));
            let patience = self.patience;
            // This may settle the call at once.
            self.driver.tell(self.object, Event::Call { id, patience });
            id
        });
        let over = |deadline: &mut BoxFuture<()>| deadline.as_mut().poll(context).is_ready();
        if self.deadline.as_mut().is_some_and(over) {
            self.deadline = None;
            self.driver.tell(self.object, Event::Look);
        }
        let mut core = self.driver.core();
        let place = core.slot(id)?;
        if let Slot::Waits(waker) = &mut core.calls[place].1 {
            *waker = Some(context.waker().clone());
            return None;
        }
        match core.take_slot(id) {
            Some(Slot::Settled(settled)) => Some(settled),
            _ => None,
        }
    }
}

impl<S: BackingStore> Drop for Acquiring<S> {
    fn drop(&mut self) {
        if let Some(call) = self.call {
            self.driver.leave(self.object, call);
        }
    }
}
