//! The contract that every store passes, and the lock over it: one suite, mounted for the memory
//! store natively and for IndexedDB in a window, a dedicated worker and a shared worker.
#![allow(dead_code, reason = "each mounting file uses its part")]

use std::time::Duration;

use tab_lease::platform::{MaybeSend, MaybeSync, sleep};
use tab_lease::rules::{Command, Fresh, Held, Mode, Outcome, Proof, Requester, Take, Waiting};
use tab_lease::{BackingStore, CrossProcessStoreLock, EXTEND_LEASE_EVERY_MS, LEASE_DURATION_MS};

/// Somewhere to keep leases, new for each scenario. Every [`Place::open`] is one more process (or
/// tab) that uses it.
pub trait Place {
    type Store: BackingStore + Clone + MaybeSend + MaybeSync;
    fn new() -> Self;
    fn open(&self) -> Self::Store;
}

/// Mounts the whole suite for a [`Place`].
macro_rules! store_contract {
    ($place:ty) => {
        store_contract! { $place:
            takes_what_is_free,
            refuses_what_is_held,
            renews_only_the_present_token,
            frees_by_a_lease_of_zero,
            tokens_grow_across_releases,
            one_of_many_takers_wins,
            keys_are_apart,
            any_string_is_a_key,
            another_process_sees_it,
            locks_and_locks_again,
            two_acquisitions_need_two_releases,
            second_process_waits_its_turn,
            first_process_times_out_then,
            fault_5_one_heartbeat_however_often_it_is_taken,
            a_dropped_caller_leaves_nothing_behind,
            a_dead_holder_lapses,
        }
    };
    ($place:ty: $($scenario:ident,)*) => {$(
        #[cfg_attr(target_arch = "wasm32", wasm_bindgen_test::wasm_bindgen_test)]
        #[cfg_attr(not(target_arch = "wasm32"), tokio::test(start_paused = true))]
        async fn $scenario() {
            store_contract::$scenario(<$place as store_contract::Place>::new()).await;
        }
    )*};
}
pub(crate) use store_contract;

const KEY: &str = "inbox";

fn who(tab: &str, request: u64) -> Requester {
    let tab = tab.to_owned();
    Requester { tab, request }
}

pub fn take(who: &Requester) -> Command {
    Command::Take(Take {
        who: who.clone(),
        mode: Mode::Exclusive,
        len: LEASE_DURATION_MS,
        at: 0,
        beacon: false,
        join: false,
        proof: Proof::None,
        ended: Vec::new(),
        fresh: Fresh {
            epoch: 7,
            token: 100,
        },
        wall: 0,
    })
}

fn renew(who: &Requester, token: u64, len: u32) -> Command {
    Command::Renew {
        who: who.clone(),
        token,
        len,
        beacon: false,
    }
}

fn quit(who: &Requester) -> Command {
    Command::Quit { who: who.clone() }
}

pub fn held(outcome: Outcome) -> Held {
    match outcome {
        Outcome::Held(held) => held,
        other => panic!("expected a lease, not {other:?}"),
    }
}

fn waiting(outcome: Outcome) -> Waiting {
    match outcome {
        Outcome::Waiting(waiting) => waiting,
        other => panic!("expected to wait, not {other:?}"),
    }
}

/// Asks until `done`, or fails after five seconds.
async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    for _ in 0..500 {
        if done().await {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

pub async fn takes_what_is_free<P: Place>(place: P) {
    let store = place.open();
    let a = who("a", 1);
    let first = held(store.apply(KEY, take(&a)).await.unwrap());
    assert_eq!((first.epoch, first.token), (7, 100));
    let again = held(store.apply(KEY, take(&a)).await.unwrap());
    assert_eq!(again.token, first.token, "asking again extends the lease");
}

pub async fn refuses_what_is_held<P: Place>(place: P) {
    let store = place.open();
    let a = held(store.apply(KEY, take(&who("a", 1))).await.unwrap());
    let answer = waiting(store.apply(KEY, take(&who("b", 1))).await.unwrap());
    assert_eq!(answer.holder, who("a", 1));
    assert_eq!(answer.sighting.token, a.token);
    assert_eq!(answer.len, LEASE_DURATION_MS);
    waiting(store.apply(KEY, take(&who("a", 2))).await.unwrap());
}

pub async fn renews_only_the_present_token<P: Place>(place: P) {
    let store = place.open();
    let (a, b) = (who("a", 1), who("b", 1));
    let token = held(store.apply(KEY, take(&a)).await.unwrap()).token;
    let renewal = store.apply(KEY, renew(&a, token, 500)).await.unwrap();
    assert_eq!(held(renewal).token, token);
    let refused = store.apply(KEY, renew(&b, token, 500)).await.unwrap();
    assert_eq!(refused, Outcome::Refused);
    store.apply(KEY, quit(&a)).await.unwrap();
    held(store.apply(KEY, take(&b)).await.unwrap());
    let late = store.apply(KEY, renew(&a, token, 500)).await.unwrap();
    assert_eq!(late, Outcome::Refused, "a renewal never re-acquires");
}

pub async fn frees_by_a_lease_of_zero<P: Place>(place: P) {
    let store = place.open();
    let (a, b) = (who("a", 1), who("b", 1));
    let token = held(store.apply(KEY, take(&a)).await.unwrap()).token;
    let freed = store.apply(KEY, renew(&a, token, 0)).await.unwrap();
    assert_eq!(freed, Outcome::Gone { granted: None });
    held(store.apply(KEY, take(&b)).await.unwrap());
}

pub async fn tokens_grow_across_releases<P: Place>(place: P) {
    let store = place.open();
    let mut highest = 0;
    for request in 1..6 {
        let me = who(["a", "b"][request as usize % 2], request);
        let token = held(store.apply(KEY, take(&me)).await.unwrap()).token;
        assert!(token > highest);
        highest = token;
        store.apply(KEY, quit(&me)).await.unwrap();
    }
}

/// Eight processes ask at once: the read-modify-write is atomic.
pub async fn one_of_many_takers_wins<P: Place>(place: P) {
    let stores: Vec<_> = (0..8).map(|_| place.open()).collect();
    let mut takers = Vec::new();
    for (n, store) in stores.iter().enumerate() {
        takers.push(store.apply(KEY, take(&who("t", n as u64))));
    }
    // Polled together, by hand: wasm has no threads to spawn them on.
    let mut answers = Vec::new();
    std::future::poll_fn(|cx| {
        takers.retain_mut(|taker| match taker.as_mut().poll(cx) {
            std::task::Poll::Ready(answer) => {
                answers.push(answer.unwrap());
                false
            }
            std::task::Poll::Pending => true,
        });
        match takers.is_empty() {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    let winners = answers.iter().filter(|a| matches!(a, Outcome::Held(_)));
    assert_eq!((winners.count(), answers.len()), (1, 8));
}

pub async fn keys_are_apart<P: Place>(place: P) {
    let store = place.open();
    held(store.apply("one", take(&who("a", 1))).await.unwrap());
    held(store.apply("two", take(&who("b", 1))).await.unwrap());
    waiting(store.apply("one", take(&who("b", 2))).await.unwrap());
}

pub async fn any_string_is_a_key<P: Place>(place: P) {
    let store = place.open();
    let long = "x".repeat(10_000);
    for key in ["__proto__", "😀 \"'<b>", "", "\u{FFFF}d800", "a\0b", &long] {
        let token = held(store.apply(key, take(&who("a", 1))).await.unwrap()).token;
        let seen = waiting(store.apply(key, take(&who("b", 1))).await.unwrap());
        assert_eq!(seen.sighting.token, token);
    }
}

pub async fn another_process_sees_it<P: Place>(place: P) {
    let (one, two) = (place.open(), place.open());
    held(one.apply(KEY, take(&who("a", 1))).await.unwrap());
    waiting(two.apply(KEY, take(&who("b", 1))).await.unwrap());
    one.apply(KEY, quit(&who("a", 1))).await.unwrap();
    held(two.apply(KEY, take(&who("b", 1))).await.unwrap());
}

pub async fn locks_and_locks_again<P: Place>(place: P) {
    let lock = CrossProcessStoreLock::new(place.open(), KEY, "one");
    assert_eq!(lock.lock_holder(), "one");
    let guard = lock.try_lock_once().await.unwrap().expect("it is free");
    assert!(guard.is_held());
    guard.release().await;
    let guard = lock.spin_lock(None).await.unwrap();
    assert!(guard.is_held());
}

pub async fn two_acquisitions_need_two_releases<P: Place>(place: P) {
    let (here, there) = (place.open(), place.open());
    let here = CrossProcessStoreLock::new(here, KEY, "here");
    let there = CrossProcessStoreLock::new(there, KEY, "there");
    let first = here.try_lock_once().await.unwrap().expect("it is free");
    let second = here.clone().try_lock_once().await.unwrap().expect("shared");
    assert_eq!(first.token(), second.token());
    first.release().await;
    assert!(there.try_lock_once().await.unwrap().is_none());
    second.release().await;
    assert!(there.try_lock_once().await.unwrap().is_some());
}

pub async fn second_process_waits_its_turn<P: Place>(place: P) {
    let here = CrossProcessStoreLock::new(place.open(), KEY, "here");
    let there = CrossProcessStoreLock::new(place.open(), KEY, "there");
    let guard = here.try_lock_once().await.unwrap().expect("it is free");
    assert!(there.try_lock_once().await.unwrap().is_none());
    let token = guard.token();
    let (theirs, ()) = tokio::join!(there.spin_lock(None), guard.release());
    let theirs = theirs.expect("it was released");
    assert!(theirs.token() > token);
    assert!(
        theirs.dirty() || theirs.token() == token,
        "another had it before"
    );
}

pub async fn first_process_times_out_then<P: Place>(place: P) {
    let here = CrossProcessStoreLock::new(place.open(), KEY, "here");
    let there = CrossProcessStoreLock::new(place.open(), KEY, "there");
    let _theirs = there.spin_lock(None).await.unwrap();
    let refused = here.spin_lock(Some(40)).await;
    assert!(matches!(refused, Err(tab_lease::LockError::Timeout)));
    let refused = here.acquire(Some(Duration::from_millis(60))).await;
    assert!(matches!(refused, Err(tab_lease::LockError::Timeout)));
}

/// On wasm a task cannot be cancelled: one heartbeat per re-acquisition would pile up.
pub async fn fault_5_one_heartbeat_however_often_it_is_taken<P: Place>(place: P) {
    let store = place.open();
    let lock = CrossProcessStoreLock::new(store.clone(), KEY, "busy");
    for _ in 0..20 {
        lock.spin_lock(None).await.unwrap().release().await;
    }
    let guard = lock.spin_lock(None).await.unwrap();
    let count = async || {
        let seen = store.apply(KEY, take(&who("observer", 1))).await.unwrap();
        waiting(seen).sighting.count
    };
    let (beats, before) = (6, count().await);
    sleep(Duration::from_millis(u64::from(
        beats * EXTEND_LEASE_EVERY_MS,
    )))
    .await;
    let renewals = count().await - before;
    // Timers may be late, never early.
    assert!((1..=u64::from(beats) + 1).contains(&renewals), "{renewals}");
    drop(guard);
}

pub async fn a_dropped_caller_leaves_nothing_behind<P: Place>(place: P) {
    let here = CrossProcessStoreLock::new(place.open(), KEY, "here");
    let there = CrossProcessStoreLock::new(place.open(), KEY, "there");
    // One poll sends the command; then the caller is gone.
    let mut asking = Box::pin(here.spin_lock(None));
    std::future::poll_fn(|cx| {
        let _ = asking.as_mut().poll(cx);
        std::task::Poll::Ready(())
    })
    .await;
    drop(asking);
    // Well before a forgotten lease would lapse.
    let theirs = there.acquire(Some(Duration::from_millis(400))).await;
    drop(theirs.expect("nobody holds"));
}

pub async fn a_dead_holder_lapses<P: Place>(place: P) {
    let store = place.open();
    let dead = who("dead", 1);
    let token = held(store.apply(KEY, take(&dead)).await.unwrap()).token;
    let lock = CrossProcessStoreLock::new(place.open(), KEY, "heir");
    let guard = lock.acquire(None).await.unwrap();
    assert_eq!(guard.token(), token + 2);
    assert!(guard.dirty());
    until("the dead one is refused", async || {
        let renewal = store.apply(KEY, renew(&dead, token, 500)).await.unwrap();
        renewal == Outcome::Refused
    })
    .await;
}
