//! Where the platforms differ: spawning, sleeping, clocks, randomness, and `Send`.
//!
//! Natively this is tokio, on wasm the browser's event loop. Everything else in the crate is one
//! source for both.

use std::sync::OnceLock;
use std::task::Poll;
use std::time::Duration;

#[cfg(target_arch = "wasm32")]
pub(crate) use sys::promised;
pub use sys::{BoxFuture, Clock, MaybeSend, MaybeSync, Spawner, sleep, urgent_sleep, wall_ms};

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
/// As [`random`].
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

/// Lets what is ready run first, through as many turns of the executor (in a browser: microtasks) as a
/// caller needs to go on after its promise was resolved. Not a pause: no timer is involved.
pub async fn step_back() {
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

/// Resolves when `clock` reaches `when`, however far that is.
pub async fn sleep_until(clock: Clock, when: Duration) {
    const LONG: Duration = Duration::from_secs(24 * 60 * 60);
    loop {
        let rest = when.saturating_sub(clock.now());
        sleep(rest.min(LONG)).await;
        if rest <= LONG {
            return;
        }
    }
}

/// The same, but ahead of everything else that is due by then, where the platform can do that; never
/// where it cannot, or need not.
pub async fn urgent_sleep_until(clock: Clock, when: Duration) {
    let rest = when.saturating_sub(clock.now());
    urgent_sleep(rest).await;
    if clock.now() < when {
        // By a granule of some clock.
        sleep_until(clock, when).await;
    }
}

#[cfg(not(target_arch = "wasm32"))]
mod sys {
    use std::future::Future;
    use std::pin::Pin;
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    /// A future of any kind.
    pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

    /// `Send` where threads exist, nothing on wasm.
    pub trait MaybeSend: Send {}
    impl<T: Send + ?Sized> MaybeSend for T {}

    /// `Sync` where threads exist, nothing on wasm.
    pub trait MaybeSync: Sync {}
    impl<T: Sync + ?Sized> MaybeSync for T {}

    /// Starts tasks, also from a destructor that runs outside of the runtime.
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

    /// Resolves after `duration`.
    pub async fn sleep(duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    /// Never resolves: threads do not wait for each other.
    pub async fn urgent_sleep(_: Duration) {
        std::future::pending().await
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

    /// Wall clock, ms since 1970. Never decides anything.
    #[must_use]
    pub fn wall_ms() -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |since| since.as_millis().try_into().unwrap_or(0))
    }
}

#[cfg(target_arch = "wasm32")]
mod sys {
    use std::cell::Cell;
    use std::future::Future;
    use std::pin::Pin;
    use std::time::Duration;

    use js_sys::{Function, Object, Promise, Reflect};
    use wasm_bindgen::prelude::*;
    use wasm_bindgen_futures::JsFuture;

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

    /// Resolves after `duration`, rounded up to whole ms and at most 24 days. Dropping it clears the
    /// timer.
    pub async fn sleep(duration: Duration) {
        let seconds = duration.as_secs().min(2_000_000) as u32;
        let ms = seconds * 1000 + duration.subsec_micros().div_ceil(1000);
        gloo_timers::future::TimeoutFuture::new(ms).await;
    }

    #[wasm_bindgen]
    extern "C" {
        type Scheduler;
        // Browsers older than it have none.
        #[wasm_bindgen(thread_local_v2, js_name = scheduler)]
        static SCHEDULER: Option<Scheduler>;
        #[wasm_bindgen(method, catch, js_name = postTask)]
        fn post_task(
            this: &Scheduler,
            task: &Function,
            options: &Object,
        ) -> Result<JsValue, JsValue>;
    }

    /// Resolves after `duration`, in a task of the highest priority: a page that hung meanwhile runs it
    /// before its own timers. Never, where there are no priorities.
    ///
    /// `scheduler.postTask` may be a short polyfill that knows no delay. The first time that it comes back
    /// in less than half of a delay, or fails, it is asked no more: else a loop around it would never rest.
    pub async fn urgent_sleep(duration: Duration) {
        thread_local!(static DISTRUSTED: Cell<bool> = const { Cell::new(false) });
        let since = performance_now();
        let ms = duration.as_micros().div_ceil(1000) as f64;
        if !DISTRUSTED.get()
            && let Some(task) = post_task(ms)
        {
            let done = JsFuture::from(task).await.is_ok();
            if done && performance_now() - since >= ms / 2.0 {
                return;
            }
            DISTRUSTED.set(true);
        }
        std::future::pending().await
    }

    /// What is to be waited for, of a browser function that may be a stand-in: a promise as it is (another
    /// one around it would be a task more for whoever counts them, as zone.js does), or anything else.
    pub fn promised(value: JsValue) -> Promise {
        let then = Reflect::get(&value, &"then".into());
        if then.is_ok_and(|then| then.is_function()) {
            value.unchecked_into()
        } else {
            Promise::resolve(&value)
        }
    }

    fn post_task(ms: f64) -> Option<Promise> {
        SCHEDULER.with(|scheduler| {
            let options = Object::new();
            // Setting a property of a plain object cannot fail.
            let _ = Reflect::set(&options, &"priority".into(), &"user-blocking".into());
            let _ = Reflect::set(&options, &"delay".into(), &ms.into());
            let task = Closure::once_into_js(|| {});
            let posted = scheduler
                .as_ref()?
                .post_task(task.unchecked_ref(), &options);
            Some(promised(posted.ok()?))
        })
    }

    #[wasm_bindgen]
    extern "C" {
        // Asked of the page anew each time: tests that fake the clock put another object there, and take it
        // away again. Windows and workers both have it; web-sys knows it only through one of the two.
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

        /// The smallest step of this clock, measured once. A clock that does not move while we
        /// look (a couple of ms at most) is taken for the coarsest that browsers have: 100 ms,
        /// where fingerprinting is resisted.
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

    /// Wall clock, ms since 1970. Never decides anything.
    #[must_use]
    pub fn wall_ms() -> u64 {
        js_sys::Date::now() as u64
    }
}
