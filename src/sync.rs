//! How tasks of one process wait for each other: [`Waiters`] and [`select!`].
//!
//! `tokio::sync::watch` and `tokio::select!` do the same, and weigh 4 kB more in a visitor's download
//! (brotli).

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use crate::mutex::Mutex;

/// Tasks that wait until something is so.
#[derive(Default)]
pub(crate) struct Waiters(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    last_id: u64,
    wakers: Vec<(u64, Waker)>,
}

impl Waiters {
    /// Something has changed: all who wait look again.
    pub(crate) fn wake(&self) {
        let wakers = std::mem::take(&mut self.0.lock().wakers);
        // Out of the mutex: a task that is woken may run at once.
        for (_, waker) in wakers {
            waker.wake();
        }
    }

    /// Resolves with what `look` finds, once it finds something: it looks when polled, and after each change.
    pub(crate) fn until<T, L: FnMut() -> Option<T>>(&self, look: L) -> Until<'_, L> {
        let (waiters, id) = (self, None);
        Until { waiters, id, look }
    }
}

/// See [`Waiters::until`]. Dropping it stops waiting.
pub(crate) struct Until<'a, L> {
    waiters: &'a Waiters,
    id: Option<u64>,
    look: L,
}

impl<L> Until<'_, L> {
    fn leave(&self) {
        if self.id.is_some() {
            let mut waiting = self.waiters.0.lock();
            waiting.wakers.retain(|(of, _)| Some(*of) != self.id);
        }
    }
}

impl<T, L: FnMut() -> Option<T> + Unpin> Future for Until<'_, L> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        // First of all, so that no change between the look and the waiting is missed.
        self.leave();
        let mut waiting = self.waiters.0.lock();
        let id = self.id.unwrap_or_else(|| {
            waiting.last_id += 1;
            waiting.last_id
        });
        waiting.wakers.push((id, context.waker().clone()));
        drop(waiting);
        self.id = Some(id);
        (self.look)().map_or(Poll::Pending, Poll::Ready)
    }
}

impl<L> Drop for Until<'_, L> {
    fn drop(&mut self) {
        self.leave();
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
    use std::cell::Cell;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn all_who_wait_look_again_after_a_change() {
        let (waiters, value) = (Waiters::default(), Cell::new(0));
        let above = |least| move |value: i32| (value > least).then_some(value);
        let mut one = pin!(waiters.until(|| above(0)(value.get())));
        let mut other = pin!(waiters.until(|| above(1)(value.get())));
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut context = Context::from_waker(&waker);
        assert!(one.as_mut().poll(&mut context).is_pending());
        assert!(other.as_mut().poll(&mut context).is_pending());
        value.set(1);
        waiters.wake();
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
        assert_eq!(one.as_mut().poll(&mut context), Poll::Ready(1));
        assert!(other.as_mut().poll(&mut context).is_pending());
    }

    #[test]
    fn who_waits_is_woken_once_and_who_has_gone_is_forgotten() {
        let (waiters, count) = (Waiters::default(), Arc::new(Count::default()));
        let waker = Waker::from(Arc::clone(&count));
        let mut stays = Box::pin(waiters.until(|| None::<()>));
        for _ in 0..3 {
            let mut goes = pin!(waiters.until(|| None::<()>));
            let mut context = Context::from_waker(&waker);
            assert!(stays.as_mut().poll(&mut context).is_pending());
            assert!(goes.as_mut().poll(&mut context).is_pending());
        }
        waiters.wake();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        let what_is_so = pin!(waiters.until(|| Some(7)));
        assert_eq!(
            what_is_so.poll(&mut Context::from_waker(&waker)),
            Poll::Ready(7)
        );
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
