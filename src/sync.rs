//! How tasks of one process wait for each other: [`Notify`] and [`select!`].
//!
//! The same as `tokio::sync::Notify` and `tokio::select!`, as far as this crate uses them. Those weigh
//! 4 kB more in a visitor's download (brotli).

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use crate::mutex::{Mutex, MutexGuard};

/// Tells tasks that something has changed.
#[derive(Default)]
pub(crate) struct Notify(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    /// How often all were notified.
    round: u64,
    last_id: u64,
    wakers: Vec<(u64, Waker)>,
}

impl Notify {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock()
    }

    /// Resolves at the next [`Notify::notify_waiters`] from now on, polled or not.
    pub(crate) fn notified(&self) -> Notified<'_> {
        let round = self.waiting().round;
        let (notify, id) = (self, None);
        Notified { notify, round, id }
    }

    /// Wakes all who wait now, and leaves nothing for those who come later.
    pub(crate) fn notify_waiters(&self) {
        let mut waiting = self.waiting();
        waiting.round += 1;
        let wakers = std::mem::take(&mut waiting.wakers);
        // Out of the mutex: a task that is woken may run at once.
        drop(waiting);
        for (_, waker) in wakers {
            waker.wake();
        }
    }
}

/// See [`Notify::notified`]. Dropping it stops waiting.
pub(crate) struct Notified<'a> {
    notify: &'a Notify,
    round: u64,
    id: Option<u64>,
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.notify.waiting();
        if waiting.round != self.round {
            return Poll::Ready(());
        }
        let id = self.id.unwrap_or_else(|| {
            waiting.last_id += 1;
            waiting.last_id
        });
        waiting.wakers.retain(|(of, _)| *of != id);
        waiting.wakers.push((id, context.waker().clone()));
        drop(waiting);
        self.id = Some(id);
        Poll::Pending
    }
}

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        if self.id.is_some() {
            let mut waiting = self.notify.waiting();
            waiting.wakers.retain(|(of, _)| Some(*of) != self.id);
        }
    }
}

/// What came first of two.
pub(crate) enum First<A, B> {
    One(A),
    Other(B),
}

/// Waits for whichever is first; for `one`, if both are there. The other is dropped.
pub(crate) async fn first<A, B>(
    one: impl Future<Output = A>,
    other: impl Future<Output = B>,
) -> First<A, B> {
    let (mut one, mut other) = (pin!(one), pin!(other));
    poll_fn(|context| match one.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(First::One(done)),
        Poll::Pending => other.as_mut().poll(context).map(First::Other),
    })
    .await
}

/// `tokio::select!`, always biased: of what is ready the first counts.
macro_rules! select {
    ($one:pat = $first:expr => $then:expr, $($rest:tt)+) => {
        match $crate::sync::first($first, $crate::sync::select!(@race $($rest)+)).await {
            $crate::sync::First::One($one) => $then,
            $crate::sync::First::Other(rest) => $crate::sync::select!(@match rest, $($rest)+),
        }
    };
    (@race $one:pat = $first:expr => $then:expr $(,)?) => { $first };
    (@race $one:pat = $first:expr => $then:expr, $($rest:tt)+) => {
        $crate::sync::first($first, $crate::sync::select!(@race $($rest)+))
    };
    (@match $value:ident, $one:pat = $first:expr => $then:expr $(,)?) => {{
        let $one = $value;
        $then
    }};
    (@match $value:ident, $one:pat = $first:expr => $then:expr, $($rest:tt)+) => {
        match $value {
            $crate::sync::First::One($one) => $then,
            $crate::sync::First::Other(rest) => $crate::sync::select!(@match rest, $($rest)+),
        }
    };
}
pub(crate) use select;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn is_ready(future: Pin<&mut impl Future>) -> bool {
        future
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_ready()
    }

    #[test]
    fn all_who_wait_are_notified_polled_or_not_and_nobody_later() {
        let notify = Notify::new();
        let (mut one, mut other) = (pin!(notify.notified()), pin!(notify.notified()));
        assert!(!is_ready(one.as_mut()));
        notify.notify_waiters();
        assert!(is_ready(one.as_mut()) && is_ready(other.as_mut()));
        assert!(!is_ready(pin!(notify.notified())));
    }

    #[test]
    fn who_waits_is_woken_and_who_has_gone_is_forgotten() {
        let (notify, count) = (Notify::new(), std::sync::Arc::new(Count::default()));
        let waker = Waker::from(std::sync::Arc::clone(&count));
        let mut stays = Box::pin(notify.notified());
        for _ in 0..3 {
            let mut goes = pin!(notify.notified());
            for waiting in [stays.as_mut(), goes.as_mut()] {
                let _ = waiting.poll(&mut Context::from_waker(&waker));
            }
        }
        assert_eq!(notify.waiting().wakers.len(), 1);
        notify.notify_waiters();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(is_ready(stays.as_mut()));
    }

    #[test]
    fn of_what_is_ready_the_first_counts() {
        let chosen = async {
            select! {
                () = std::future::pending() => 0,
                two = std::future::ready(2) => two,
                three = std::future::ready(3) => three,
            }
        };
        let done = pin!(chosen).poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(done, Poll::Ready(2));
    }
}
