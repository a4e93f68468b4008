//! A guard that shares the lease of another: for code under a lock that takes the same lock again.
#![cfg(not(target_arch = "wasm32"))]

mod support;

use support::{Conduct, World, is_ready, ms, told, until};
use tab_lease::LossReason;
use tokio::time::{advance, sleep};

#[tokio::test(start_paused = true)]
async fn a_shared_guard_is_had_at_once_though_others_wait_and_keeps_the_lock_by_itself() {
    let world = World::new();
    let (one, link) = world.process("one");
    let outer = one.apart().acquire(None).await.unwrap();
    let two = world.lock("two");
    let waiting = tokio::spawn(async move { two.acquire(None).await });
    until("it waits", || world.record().queue.len() == 1).await;
    let calls = link.calls().len();
    let inner = outer.share().unwrap();
    assert_eq!(link.calls().len(), calls, "the store is not asked");
    let same = (inner.token(), inner.epoch(), inner.dirty());
    assert_eq!(same, (outer.token(), outer.epoch(), outer.dirty()));
    drop(outer);
    sleep(ms(5_000)).await;
    assert!(inner.is_held() && !waiting.is_finished());
    inner.release().await;
    assert!(waiting.await.unwrap().unwrap().is_held());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_lost_is_not_shared() {
    let world = World::new();
    let (one, link) = world.process("one");
    let guard = one.acquire(None).await.unwrap();
    link.everything_is(Conduct::Fail);
    assert_eq!(told(&guard).await.reason, LossReason::StoreFailed);
    let refused = guard.share().unwrap_err();
    assert_eq!(
        (refused.token, refused.reason),
        (guard.token(), LossReason::StoreFailed)
    );
}

/// As after a hang: the clock says it, and nothing of this process has run since.
#[tokio::test(start_paused = true)]
async fn a_lease_that_ran_out_unseen_is_not_shared_and_all_guards_are_told() {
    let world = World::new();
    let guard = world.lock("one").acquire(None).await.unwrap();
    let other = guard.share().unwrap();
    // The time has come, and no other task has run yet.
    is_ready(advance(ms(60_000))).await;
    assert!(!guard.is_held());
    assert_eq!(guard.share().unwrap_err().reason, LossReason::Expired);
    assert!(is_ready(other.lost()).await, "the other guard knows");
}
