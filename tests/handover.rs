//! Handing the lock over: the queue, and the messages that wake whoever was granted it.
#![cfg(not(target_arch = "wasm32"))]

mod support;

use std::sync::{Arc, Mutex};

use support::{Conduct, Link, Lock, World, ms};
use tab_lease::{Config, Wake};
use tokio::time::{sleep, timeout};

/// Leases so long that nobody polls soon: what happens at once, happens by message.
const LONG: Config = Config {
    lease_ms: 60_000,
    heartbeat_ms: 6_000,
    idle_lease_ms: 60_000,
    hidden_lease_ms: 60_000,
    initial_backoff_ms: 5_000,
    max_backoff_ms: 5_000,
};

/// A process, woken by `wake` if there is one.
fn process(world: &World, holder: &str, wake: Option<&Wake>) -> (Lock, Link) {
    let (lock, link) = world.configured(holder, LONG);
    match wake {
        Some(wake) => (lock.woken_by(wake), link),
        None => (lock, link),
    }
}

/// Waits until so many are in the queue.
async fn queued(world: &World, count: usize) {
    while world.record().queue.len() != count {
        sleep(ms(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_is_granted_the_lock_is_woken_at_once() {
    let (world, wake) = (World::new(), Wake::local());
    let (one, link) = process(&world, "one", Some(&wake));
    let (two, _) = process(&world, "two", Some(&wake));
    let guard = one.acquire(None).await.unwrap();
    let token = guard.token();
    let waiting = tokio::spawn(async move { two.acquire(None).await.unwrap() });
    queued(&world, 1).await;
    let before = link.now();
    guard.release().await;
    let theirs = waiting.await.unwrap();
    assert_eq!(theirs.token(), token + 1);
    assert_eq!(link.now(), before, "no pause was waited for");
}

#[tokio::test(start_paused = true)]
async fn the_lock_goes_round_in_order_of_arrival() {
    let (world, wake) = (World::new(), Wake::local());
    let (first, _) = process(&world, "first", Some(&wake));
    let guard = first.acquire(None).await.unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut waiting = Vec::new();
    for n in 0..5 {
        let (lock, _) = process(&world, &format!("waiter {n}"), Some(&wake));
        let order = Arc::clone(&order);
        waiting.push(tokio::spawn(async move {
            let guard = lock.acquire(None).await.unwrap();
            order.lock().unwrap().push(n);
            guard.release().await;
        }));
        queued(&world, n + 1).await;
    }
    guard.release().await;
    for waiting in waiting {
        waiting.await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_message_costs_a_pause_and_no_more() {
    let world = World::new();
    let (one, link) = process(&world, "one", None);
    let (two, _) = process(&world, "two", None);
    let guard = one.acquire(None).await.unwrap();
    let waiting = tokio::spawn(async move { two.acquire(None).await.unwrap() });
    queued(&world, 1).await;
    let before = link.now();
    guard.release().await;
    assert!(waiting.await.unwrap().is_held());
    assert!(link.now() - before <= ms(5_000));
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_races_with_a_give_up_is_passed_on() {
    let (world, wake) = (World::new(), Wake::local());
    let (one, _) = process(&world, "one", Some(&wake));
    let (two, link) = process(&world, "two", Some(&wake));
    let (three, _) = process(&world, "three", Some(&wake));
    let guard = one.acquire(None).await.unwrap();
    let given_up = tokio::spawn(async move { two.acquire(None).await });
    queued(&world, 1).await;
    let waiting = tokio::spawn(async move { three.acquire(None).await.unwrap() });
    queued(&world, 2).await;
    // Its quit is on its way while the lock is granted to it.
    link.everything_is(Conduct::InTransit(ms(40)));
    given_up.abort();
    guard.release().await;
    let theirs = timeout(ms(100), waiting).await.expect("not after a lease");
    assert!(theirs.unwrap().is_held());
}

#[tokio::test(start_paused = true)]
async fn a_dead_head_of_the_queue_costs_its_lease() {
    let world = World::new();
    let one = world.lock("one");
    let guard = one.acquire(None).await.unwrap();
    let (dead, link) = world.process("dead");
    let waiting = tokio::spawn(async move { dead.acquire(None).await });
    queued(&world, 1).await;
    link.everything_is(Conduct::Stall);
    waiting.abort();
    let heir = world.lock("heir");
    let waiting = tokio::spawn(async move { heir.acquire(None).await.unwrap() });
    queued(&world, 2).await;
    guard.release().await;
    let theirs = timeout(ms(600), waiting).await.expect("its lease is over");
    assert!(theirs.unwrap().is_held());
}

#[tokio::test(start_paused = true)]
async fn messages_about_other_keys_and_tabs_wake_nobody() {
    let wake = Wake::local();
    let (here, there) = (World::new(), World::new());
    let (one, _) = process(&here, "one", Some(&wake));
    let (two, link) = process(&here, "two", Some(&wake));
    let _held = one.acquire(None).await.unwrap();
    let waiting = tokio::spawn(async move { two.acquire(None).await });
    queued(&here, 1).await;
    let takes = link.takes().len();
    // The same tabs, at another key.
    let (one, _) = process(&there, "one", Some(&wake));
    let (two, _) = process(&there, "two", Some(&wake));
    let guard = one.acquire(None).await.unwrap();
    let theirs = tokio::spawn(async move { two.acquire(None).await.unwrap() });
    queued(&there, 1).await;
    guard.release().await;
    drop(theirs.await.unwrap());
    assert_eq!(link.takes().len(), takes, "it slept on");
    waiting.abort();
}

#[tokio::test(start_paused = true)]
async fn requests_apart_take_turns_within_a_process_and_with_others() {
    let (world, wake) = (World::new(), Wake::local());
    let (here, _) = process(&world, "here", Some(&wake));
    let (there, _) = process(&world, "there", Some(&wake));
    let first = here.acquire(None).await.unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut waiting = Vec::new();
    let locks = [here.apart(), there, here.apart(), here.apart()];
    for (n, lock) in locks.into_iter().enumerate() {
        let order = Arc::clone(&order);
        waiting.push(tokio::spawn(async move {
            let guard = lock.acquire(None).await.unwrap();
            order.lock().unwrap().push((n, guard.dirty()));
            guard.release().await;
        }));
        queued(&world, n + 1).await;
    }
    assert!(here.apart().try_lock_once().await.unwrap().is_none());
    first.release().await;
    for waiting in waiting {
        waiting.await.unwrap();
    }
    // Dirty is of the process: only what another process did in between counts.
    let turns = [(0, false), (1, true), (2, true), (3, false)];
    assert_eq!(*order.lock().unwrap(), turns);
}
