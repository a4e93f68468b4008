//! On wasm: the browser's event loop.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time;

use gloo_timers::callback::Timeout;
use wasm_bindgen::prelude::*;

use crate::sync::Waiters;
use crate::time::Duration;

/// A future of any kind.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// `Send` where threads exist, nothing on wasm.
pub trait MaybeSend {}
impl<T: ?Sized> MaybeSend for T {}

/// `Sync` where threads exist, nothing on wasm.
pub trait MaybeSync {}
impl<T: ?Sized> MaybeSync for T {}

/// Starts tasks on the event loop of this page or worker.
#[derive(Clone, Debug)]
pub struct Spawner(());

impl Spawner {
    /// The event loop that the caller runs in.
    #[must_use]
    pub fn current() -> Self {
        Self(())
    }

    /// Starts a task of its own.
    pub fn spawn(&self, task: impl Future<Output = ()> + MaybeSend + 'static) {
        wasm_bindgen_futures::spawn_local(task);
    }
}

/// Tasks that take their first steps in the order in which they were started: here all do.
#[derive(Default)]
pub struct Sequence(());

impl Sequence {
    /// Starts a task of its own.
    pub fn start(&self, spawner: &Spawner, task: impl Future<Output = ()> + MaybeSend + 'static) {
        spawner.spawn(task);
    }
}

/// Resolves after `duration`, rounded up to whole ms, or after 24 days if that is less. Dropping the future
/// clears the timer.
pub async fn sleep(duration: time::Duration) {
    rest(duration.into()).await;
}

/// [`sleep`], for a duration of this crate's own.
pub(crate) async fn rest(duration: Duration) {
    let over = Rc::new((Cell::new(None), Waiters::default()));
    let tell = Rc::clone(&over);
    let _timeout = Timeout::new(timeout_ms(duration), move || {
        tell.0.set(Some(()));
        tell.1.wake();
    });
    over.1.until(|| over.0.get()).await;
}

fn timeout_ms(duration: Duration) -> u32 {
    duration.as_micros().div_ceil(1000).min(2_000_000_000) as u32
}

#[wasm_bindgen(module = "/src/platform/browser.js")]
extern "C" {
    fn urgent(ms: f64, then: &JsValue) -> bool;
}

/// Calls `then` after `duration`, in a task of the highest priority: a page that hung meanwhile runs it
/// before its own timers. A browser without priorities never calls it.
///
/// `scheduler.postTask` may be a short polyfill that knows no delay. Once it has called back in less than
/// half of a delay, or has failed, it is not used any more.
pub fn alarm(duration: Duration, then: impl FnOnce() + 'static) {
    thread_local!(static DISTRUSTED: Cell<bool> = const { Cell::new(false) });
    let ms = duration.as_micros().div_ceil(1000) as f64;
    let since = performance_now();
    let fired = Closure::once_into_js(move || {
        if performance_now() - since >= ms / 2.0 {
            then();
        } else {
            DISTRUSTED.set(true);
        }
    });
    if !DISTRUSTED.get() && !urgent(ms, &fired) {
        DISTRUSTED.set(true);
    }
}

/// A task that ends when this is dropped.
#[must_use = "dropping it ends the task"]
pub struct Job(Rc<RefCell<Task>>);

enum Task {
    Waits(BoxFuture<()>),
    Runs,
    Dropped,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").finish_non_exhaustive()
    }
}

impl Job {
    /// Starts a task.
    pub fn start(spawner: &Spawner, task: BoxFuture<()>) -> Self {
        let job = Self(Rc::new(RefCell::new(Task::Waits(task))));
        let this = Rc::clone(&job.0);
        spawner.spawn(std::future::poll_fn(move |context| {
            // While it runs, the task may drop its own job.
            let Task::Waits(mut task) = this.replace(Task::Runs) else {
                return Poll::Ready(());
            };
            let poll = task.as_mut().poll(context);
            if poll.is_pending() && !matches!(*this.borrow(), Task::Dropped) {
                this.replace(Task::Waits(task));
            }
            poll
        }));
        job
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // Nothing wakes a task whose future is gone: it is freed with its last waker.
        drop(self.0.replace(Task::Dropped));
    }
}

/// A timer that calls back once. Dropping it clears it.
#[derive(Debug)]
#[must_use = "dropping it clears it"]
pub struct Timer(#[expect(dead_code, reason = "it is dropped")] Timeout);

impl Timer {
    /// Calls `then` when `clock` shows `at`. Earlier, if `at` is more than 24 days away, or if the browser's
    /// timers are early.
    pub fn at(_: &Spawner, clock: Clock, at: Duration, then: impl FnOnce() + 'static) -> Self {
        Self(Timeout::new(
            timeout_ms(at.saturating_sub(clock.now())),
            then,
        ))
    }
}

/// Calls `then` after everything that is ready now has run, and what follows from it by a few promises.
pub fn behind(spawner: &Spawner, then: impl FnOnce() + 'static) {
    spawner.spawn(async move {
        step_back().await;
        then();
    });
}

/// Lets what is ready run first, through some turns of the executor (in a browser: microtasks). This is no
/// pause: no timer is involved.
pub async fn step_back() {
    /// More than a caller needs to go on after its promise was resolved, through a few promises of its own.
    const TURNS: u32 = 12;
    let mut left = TURNS;
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(());
        }
        left -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[wasm_bindgen]
extern "C" {
    // Looked up anew each time: tests that fake the clock put another object there, and take it away again.
    // Windows and workers both have this function, but web-sys offers it only through one of the two.
    #[wasm_bindgen(js_namespace = performance, js_name = now)]
    fn performance_now() -> f64;
}

/// A monotonic clock that starts at zero.
#[derive(Clone, Copy, Debug)]
pub struct Clock(f64);

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        Self(performance_now())
    }

    /// Time since the start.
    #[must_use]
    pub fn now(&self) -> Duration {
        let us = (performance_now() - self.0).max(0.0) * 1000.0;
        Duration::from_micros(us as u64)
    }

    /// The smallest step of this clock, measured once. A clock that does not move during the measurement (a
    /// couple of ms at most) is taken for the coarsest that browsers have: 100 ms, where fingerprinting is
    /// resisted.
    #[must_use]
    pub fn granule() -> Duration {
        thread_local!(static GRANULE: Cell<Option<Duration>> = const { Cell::new(None) });
        GRANULE.get().unwrap_or_else(|| {
            let start = performance_now();
            let step = (0..20_000)
                .map(|_| performance_now() - start)
                .find(|step| *step > 0.0)
                .unwrap_or(100.0);
            let granule = Duration::from_micros((step * 1000.0).ceil() as u64);
            GRANULE.set(Some(granule));
            granule
        })
    }
}

/// Wall clock, ms since 1970. No decision depends on it.
#[must_use]
pub fn wall_ms() -> u64 {
    js_sys::Date::now() as u64
}
