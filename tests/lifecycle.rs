//! What happens to the page of a lock: hidden, shown, suspended, resumed, its store closed.
#![cfg(not(target_arch = "wasm32"))]

mod support;

use std::time::Duration;

use support::{Conduct, Link, Lock, World, ms, told, until};
use tab_lease::rules::Command;
use tab_lease::{
    CrossProcessStoreLockGuard, HIDDEN_LEASE_MS, LEASE_DURATION_MS, Lifecycle, LockError,
    LossReason, Wake,
};
use tokio::task::JoinHandle;
use tokio::time::sleep;

type Waiting = JoinHandle<Result<CrossProcessStoreLockGuard, LockError<support::DiskFull>>>;

/// A world, and the channel of those who live in it.
struct Stage {
    world: World,
    wake: Wake,
}

impl Stage {
    fn new() -> Self {
        Self {
            world: World::new(),
            wake: Wake::local(),
        }
    }

    fn process(&self, holder: &str) -> (Lock, Link, Lifecycle) {
        let (lock, link) = self.world.process(holder);
        let life = Lifecycle::new();
        (lock.woken_by(&self.wake).living(&life), link, life)
    }

    async fn queued(&self, count: usize) {
        until("they wait", || self.world.record().queue.len() == count).await;
    }
}

fn acquiring(lock: &Lock) -> Waiting {
    let lock = lock.clone();
    tokio::spawn(async move { lock.acquire(None).await })
}

// ---- Hidden -----------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_holder_that_is_hidden_renews_at_once_for_longer_and_comes_back_when_it_is_shown() {
    let stage = Stage::new();
    let (one, link, life) = stage.process("one");
    let (two, _, _) = stage.process("two");
    let guard = one.acquire(None).await.unwrap();
    let waiting = acquiring(&two);
    stage.queued(1).await;
    let before = link.renewals().len();
    life.hide();
    sleep(ms(1)).await;
    assert_eq!(link.renewals().len(), before + 1);
    assert_eq!(stage.world.record().len, HIDDEN_LEASE_MS);
    sleep(ms(60_000)).await;
    assert!(guard.is_held() && !waiting.is_finished());
    assert!(link.renewals().len() <= before + 20, "three in each lease");
    life.show();
    sleep(ms(1)).await;
    assert_eq!(stage.world.record().len, LEASE_DURATION_MS);
    guard.release().await;
    assert!(waiting.await.unwrap().unwrap().is_held());
}

/// Timers of a hidden page are up to a second late, whoever waits.
#[tokio::test(start_paused = true)]
async fn g5_a_hidden_holder_whose_renewals_are_late_keeps_the_lock() {
    let stage = Stage::new();
    let (one, link, life) = stage.process("one");
    let (two, _, _) = stage.process("two");
    life.hide();
    let guard = one.acquire(None).await.unwrap();
    link.renewals_are(Conduct::Slow {
        before: ms(2000),
        after: ms(1000),
    });
    let waiting = acquiring(&two);
    sleep(ms(180_000)).await;
    assert!(guard.is_held() && !waiting.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_hidden_waiter_asks_for_a_longer_lease_at_once() {
    let stage = Stage::new();
    let (one, _, _) = stage.process("one");
    let (two, _, life) = stage.process("two");
    let _guard = one.acquire(None).await.unwrap();
    let _waiting = acquiring(&two);
    stage.queued(1).await;
    assert_eq!(stage.world.record().queue[0].len, LEASE_DURATION_MS);
    life.hide();
    sleep(ms(1)).await;
    assert_eq!(stage.world.record().queue[0].len, HIDDEN_LEASE_MS);
}

// ---- Suspended --------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_holder_that_is_suspended_is_told_first_and_the_waiter_has_the_lock_at_once() {
    let stage = Stage::new();
    let (one, link, life) = stage.process("one");
    let (two, _, _) = stage.process("two");
    let guard = one.acquire(None).await.unwrap();
    let token = guard.token();
    let waiting = acquiring(&two);
    stage.queued(1).await;
    let at = link.now();
    life.suspend();
    assert!(!guard.is_held());
    let next = waiting.await.unwrap().unwrap();
    assert_eq!(link.now(), at);
    assert_eq!(next.token(), token + 2);
    assert_eq!(told(&guard).await.reason, LossReason::Suspended);
    // What was lost stays lost.
    life.resume();
    assert!(!guard.is_held());
    sleep(ms(1000)).await;
    assert!(next.is_held());
}

#[tokio::test(start_paused = true)]
async fn while_it_is_suspended_it_sends_nothing_and_hears_nothing() {
    let stage = Stage::new();
    let (one, _, _) = stage.process("one");
    let (two, link, life) = stage.process("two");
    let guard = one.acquire(None).await.unwrap();
    let waiting = acquiring(&two);
    stage.queued(1).await;
    life.suspend();
    sleep(ms(1)).await;
    assert!(
        stage.world.record().queue.is_empty(),
        "its request has ended"
    );
    let before = link.calls().len();
    guard.release().await;
    let _called_meanwhile = acquiring(&two);
    sleep(ms(5000)).await;
    assert_eq!(link.calls().len(), before);
    assert!(!waiting.is_finished());
    // Whoever waits asks anew, by another request.
    life.resume();
    let next = waiting.await.unwrap().unwrap();
    assert!(next.is_held() && next.dirty());
}

#[tokio::test(start_paused = true)]
async fn a_take_under_way_when_it_is_suspended_leaves_no_ghost() {
    let stage = Stage::new();
    let (one, link, life) = stage.process("one");
    let (two, _, _) = stage.process("two");
    link.everything_is(Conduct::Slow {
        before: ms(20),
        after: ms(20),
    });
    let waiting = acquiring(&one);
    sleep(ms(10)).await;
    life.suspend();
    sleep(ms(100)).await;
    link.everything_is(Conduct::Prompt);
    life.resume();
    let guard = waiting.await.unwrap().unwrap();
    let next = acquiring(&two);
    stage.queued(1).await;
    let at = link.now();
    guard.release().await;
    assert!(next.await.unwrap().unwrap().is_held());
    assert_eq!(link.now(), at);
}

/// After a delegation nothing but the pass may be said of the lease: it is another's.
#[tokio::test(start_paused = true)]
async fn one_that_has_handed_on_leaves_nothing() {
    let stage = Stage::new();
    let (one, link, life) = stage.process("one");
    let (two, slow, _) = stage.process("two");
    let guard = one.acquire(None).await.unwrap();
    let waiting = acquiring(&two);
    stage.queued(1).await;
    slow.everything_is(Conduct::Slow {
        before: ms(100),
        after: ms(0),
    });
    guard.release().await;
    life.suspend();
    let next = waiting.await.unwrap().unwrap();
    assert_eq!(link.quits(), []);
    sleep(ms(2000)).await;
    assert!(next.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_lingers_is_let_go_when_it_is_suspended() {
    let stage = Stage::new();
    let (one, _, life) = stage.process("one");
    one.acquire(None).await.unwrap().release().await;
    assert!(stage.world.is_held());
    life.suspend();
    assert!(!stage.world.is_held());
}

// ---- The store is closed ----------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_store_that_is_closed_by_somebody_else_ends_the_lease_before() {
    for renewing in [false, true] {
        let stage = Stage::new();
        let (one, link, _) = stage.process("one");
        let guard = one.acquire(None).await.unwrap();
        if renewing {
            link.renewals_are(Conduct::Slow {
                before: ms(200),
                after: Duration::ZERO,
            });
            sleep(ms(60)).await;
        }
        link.close();
        assert_eq!(told(&guard).await.reason, LossReason::StoreClosed);
        sleep(ms(1)).await;
        let quits = link.calls();
        let quits = quits.iter();
        assert_eq!(
            quits
                .filter(|call| matches!(call.command, Command::Quit { .. }))
                .count(),
            1
        );
        assert!(one.acquire(None).await.unwrap().is_held());
    }
}
