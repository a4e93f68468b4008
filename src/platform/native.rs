//! Natively: tokio.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::mutex::Mutex;

/// A future of any kind.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// `Send` where threads exist, nothing on wasm.
pub trait MaybeSend: Send {}
impl<T: Send + ?Sized> MaybeSend for T {}

/// `Sync` where threads exist, nothing on wasm.
pub trait MaybeSync: Sync {}
impl<T: Sync + ?Sized> MaybeSync for T {}

/// Starts tasks. A destructor that runs outside of the runtime can use it, too.
#[derive(Clone, Debug)]
pub struct Spawner(tokio::runtime::Handle);

impl Spawner {
    /// The runtime that the caller runs in.
    #[must_use]
    pub fn current() -> Self {
        Self(tokio::runtime::Handle::current())
    }

    /// Starts a task of its own.
    pub fn spawn(&self, task: impl Future<Output = ()> + MaybeSend + 'static) {
        drop(self.0.spawn(task));
    }
}

/// Tasks that take their first steps in the order in which they were started, however many threads there
/// are. (The runtime only starts them in that order.)
#[derive(Default)]
pub struct Sequence(Arc<Mutex<Steps>>);

#[derive(Default)]
struct Steps {
    due: VecDeque<BoxFuture<()>>,
    /// One is being taken, on another thread or further up the stack.
    at_it: bool,
}

impl Sequence {
    /// Starts a task of its own.
    pub fn start(&self, spawner: &Spawner, task: impl Future<Output = ()> + MaybeSend + 'static) {
        self.0.lock().due.push_back(Box::pin(task));
        let (steps, spawner) = (Arc::clone(&self.0), spawner.clone());
        spawner.clone().spawn(async move {
            while let Some(mut task) = Step::next(&steps) {
                let mut nobody = Context::from_waker(Waker::noop());
                if task.1.as_mut().poll(&mut nobody).is_pending() {
                    // Its second step is taken there, by a waker that wakes it.
                    spawner.spawn(std::mem::replace(&mut task.1, Box::pin(async {})));
                }
            }
        });
    }
}

/// The first step of a task. Dropping it lets the next one be taken, also if the task panics.
struct Step<'a>(&'a Mutex<Steps>, BoxFuture<()>);

impl<'a> Step<'a> {
    fn next(steps: &'a Mutex<Steps>) -> Option<Self> {
        let mut state = steps.lock();
        if state.at_it {
            // It is taken there.
            return None;
        }
        let task = state.due.pop_front()?;
        state.at_it = true;
        Some(Self(steps, task))
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        self.0.lock().at_it = false;
    }
}

/// Resolves after `duration`.
pub async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

pub(super) use sleep as rest;

/// A task that ends when this is dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the task"]
pub struct Job(tokio::task::AbortHandle);

impl Job {
    /// Starts a task.
    pub fn start(spawner: &Spawner, task: BoxFuture<()>) -> Self {
        Self(spawner.0.spawn(task).abort_handle())
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A timer that calls back once. Dropping it clears it.
#[derive(Debug)]
#[must_use = "dropping it clears it"]
pub struct Timer(#[expect(dead_code, reason = "it is dropped")] Job);

impl Timer {
    /// Calls `then` when `clock` shows `at`.
    pub fn at(
        spawner: &Spawner,
        clock: Clock,
        at: Duration,
        then: impl FnOnce() + MaybeSend + 'static,
    ) -> Self {
        let task = Box::pin(async move {
            super::sleep_until(clock, at).await;
            then();
        });
        Self(Job::start(spawner, task))
    }
}

/// Never calls back, because none is needed: a thread that hangs does not keep timers waiting.
pub fn alarm(_: Duration, _: impl FnOnce() + MaybeSend + 'static) {}

/// Calls `then` after everything that is ready now has run: tasks run in the order in which they became
/// ready.
pub fn behind(spawner: &Spawner, then: impl FnOnce() + MaybeSend + 'static) {
    spawner.spawn(async move { then() });
}

/// A monotonic clock that starts at zero. Follows tokio's virtual time when that is paused.
#[derive(Clone, Copy, Debug)]
pub struct Clock(tokio::time::Instant);

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        Self(tokio::time::Instant::now())
    }

    /// Time since the start.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.0.elapsed()
    }

    /// The smallest step of this clock, rounded up.
    #[must_use]
    pub fn granule() -> Duration {
        Duration::from_millis(1)
    }
}

/// Wall clock, ms since 1970. No decision depends on it.
#[must_use]
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis().try_into().unwrap_or(0))
}
