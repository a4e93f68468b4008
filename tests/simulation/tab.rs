//! One tab: a runtime of its own, with a clock of its own, that runs when it is told to.
//!
//! A tab's tasks are whatever ran `tokio::spawn` inside it, the crate's heartbeats and quits
//! included, so standing still is standing still: nothing of a frozen tab is polled, and nothing of
//! a crashed one is ever polled again.
//!
//! Virtual time is the event loop's ([`schedule`](crate::schedule)). A tab's clock follows it: a
//! [turn](Tab::turn) runs all that can run now, then winds the clock forward to the tab's next timer
//! and stops there, before anything has seen it. The event loop gives the next turn when everybody
//! else is done up to that time. A clock never goes back, so whatever comes from outside in between
//! is heard when the clock has got there: at the tab's next timer, or at `until`. Answers of the store
//! need not wait for that, since the link sets a timer for each. Messages and beacons do, which is one
//! more delay of theirs; `until` bounds it, so it is near for a tab that may be spoken to.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, advance, sleep_until};

/// Milliseconds.
pub const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub struct Tab {
    runtime: Runtime,
    /// What its clock said when the tab opened, at `born` by the event loop's.
    origin: Instant,
    born: u64,
    turn: Arc<Mutex<Option<Turn>>>,
}

/// A turn as the runtime's hook sees it.
struct Turn {
    start: Instant,
    root: Waker,
}

impl Tab {
    /// A new tab, and a second clock that shows the same.
    pub fn open(born: u64) -> (Self, Clock) {
        let mut clock = Clock::new(born);
        let turn = Arc::new(Mutex::new(None::<Turn>));
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .on_thread_unpark({
                let turn = Arc::clone(&turn);
                // If its clock has moved, the turn ends before any task runs. (It must not be woken
                // otherwise: then the clock would not move.)
                move || {
                    let turn = turn.lock().unwrap();
                    if let Some(turn) = turn.as_ref().filter(|turn| Instant::now() > turn.start) {
                        turn.root.wake_by_ref();
                    }
                }
            })
            .build()
            .expect("a runtime without I/O needs nothing of the system");
        let origin = {
            let _tab = runtime.enter();
            Instant::now()
        };
        clock.set(origin);
        let tab = Self {
            runtime,
            origin,
            born,
            turn,
        };
        (tab, clock)
    }

    /// Runs something of the tab's, now.
    pub fn enter<T>(&self, run: impl FnOnce() -> T) -> T {
        let _tab = self.runtime.enter();
        run()
    }

    /// The same, after its clock was wound forward to `now`, if it is behind.
    pub fn enter_at<T>(&self, now: u64, run: impl FnOnce() -> T) -> T {
        self.enter(|| {
            let behind = self.origin + ms(now - self.born) - Instant::now();
            if !behind.is_zero() {
                let _ = once(advance(behind));
            }
            run()
        })
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.runtime.spawn(task));
    }

    /// Runs everything that can run at `now`, first of all `heard`: what came from outside. Answers when
    /// its next timer is due, `until` at the latest.
    pub fn turn(&mut self, now: u64, until: u64, heard: impl FnOnce()) -> u64 {
        let start = self.origin + ms(now - self.born);
        let end = self.origin + ms(until - self.born);
        let turn = Arc::clone(&self.turn);
        let stopped = self.runtime.block_on(async move {
            // A tab that was frozen finds the time that has passed.
            let behind = start - Instant::now();
            if !behind.is_zero() {
                let _ = once(advance(behind));
            }
            heard();
            let mut limit = pin!(sleep_until(end));
            poll_fn(|context| {
                let now = Instant::now();
                if now > start || limit.as_mut().poll(context).is_ready() {
                    *turn.lock().unwrap() = None;
                    return Poll::Ready(now);
                }
                *turn.lock().unwrap() = Some(Turn {
                    start,
                    root: context.waker().clone(),
                });
                Poll::Pending
            })
            .await
        });
        self.born + u64::try_from((stopped - self.origin).as_millis()).unwrap()
    }
}

/// A clock that shows a tab's time at any moment of the event loop, whether or not the tab runs: to
/// ask what its guards say.
pub struct Clock {
    runtime: Runtime,
    at: u64,
}

impl Clock {
    fn new(born: u64) -> Self {
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O needs nothing of the system");
        Self { runtime, at: born }
    }

    /// Shows what a clock made later shows at its beginning.
    fn set(&mut self, origin: Instant) {
        let _clock = self.runtime.enter();
        let _ = once(advance(origin - Instant::now()));
    }

    /// Runs `ask` with this clock showing `now`.
    pub fn at<T>(&mut self, now: u64, ask: impl FnOnce() -> T) -> T {
        let _clock = self.runtime.enter();
        if now > self.at {
            let _ = once(advance(ms(now - self.at)));
            self.at = now;
        }
        ask()
    }
}

/// Polls once, with nobody to wake.
pub fn once<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}
