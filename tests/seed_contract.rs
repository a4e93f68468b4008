//! The seed contract, row by row: what the store-backed lease lock did before this crate, and must
//! go on doing.
#![cfg(not(target_arch = "wasm32"))]

mod support;

use std::convert::Infallible;
use std::error::Error as _;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use support::{Conduct, DiskFull, World, ms, told, until};
use tab_lease::rules::{Command, Fresh, Held, Mode, Outcome, Proof, Requester, Sighting, Take};
use tab_lease::{
    BackingStore, Config, CrossProcessStoreLock, EXTEND_LEASE_EVERY_MS, INITIAL_BACKOFF_MS,
    LEASE_DURATION_MS, LockError, LossReason, MAX_BACKOFF_MS, MemoryStore,
};
use tokio::time::{Instant, sleep};
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

fn requester(tab: &str) -> Requester {
    Requester {
        tab: tab.to_owned(),
        request: 1,
    }
}

fn take(tab: &str, len: u32) -> Take {
    Take {
        who: requester(tab),
        mode: Mode::Exclusive,
        len,
        at: 0,
        beacon: false,
        join: false,
        proof: Proof::None,
        ended: Vec::new(),
        fresh: Fresh { epoch: 9, token: 5 },
        wall: 0,
    }
}

// ---- S1: the backing store ------------------------------------------------------------------

fn sendable<T: Send>(it: T) -> T {
    it
}

#[tokio::test]
async fn s1_a_store_is_an_object_with_one_operation_and_a_sendable_future() {
    let store: Box<dyn BackingStore<Error = Infallible>> = Box::new(MemoryStore::new());
    let answer = sendable(store.apply("key", Command::Take(take("a", 500))));
    assert!(matches!(answer.await, Ok(Outcome::Held(_))));
}

/// A store that has an error of its own and implements nothing but the one operation.
struct Broken;

#[async_trait::async_trait]
impl BackingStore for Broken {
    type Error = std::io::Error;

    async fn apply(&self, _: &str, _: Command) -> Result<Outcome, std::io::Error> {
        Err(std::io::Error::other("no such device"))
    }
}

#[tokio::test]
async fn s1_every_future_of_the_lock_is_sendable() {
    let lock = sendable(CrossProcessStoreLock::new(
        MemoryStore::new(),
        "s1",
        "first",
    ));
    drop(sendable(lock.spin_lock(None)));
    drop(sendable(lock.acquire(None)));
    let guard = sendable(lock.try_lock_once()).await.unwrap().unwrap();
    drop(sendable(guard.lost()));
    sendable(guard.release()).await;
}

#[tokio::test]
async fn s1_one_store_operation_is_atomic() {
    let store = MemoryStore::new();
    let contenders: Vec<_> = (0..50)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                let answer = store.apply("key", Command::Take(take(&n.to_string(), 500)));
                matches!(answer.await, Ok(Outcome::Held(_)))
            })
        })
        .collect();
    let mut holders = 0;
    for contender in contenders {
        holders += usize::from(contender.await.unwrap());
    }
    assert_eq!(holders, 1);
}

// ---- S2: the rules --------------------------------------------------------------------------

async fn ask(store: &MemoryStore, command: Command) -> Outcome {
    let Ok(outcome) = store.apply("key", command).await;
    outcome
}

#[tokio::test]
async fn s2_no_record_is_taken() {
    let store = MemoryStore::new();
    let Outcome::Held(Held { token, .. }) = ask(&store, Command::Take(take("a", 500))).await else {
        panic!("not taken");
    };
    assert_eq!(token, 5);
    assert_eq!(store.record("key").unwrap().holder, Some(requester("a")));
}

#[tokio::test]
async fn s2_the_same_holder_extends() {
    let store = MemoryStore::new();
    ask(&store, Command::Take(take("a", 500))).await;
    let again = ask(&store, Command::Take(take("a", 700))).await;
    assert!(matches!(again, Outcome::Held(Held { token: 5, .. })));
    let record = store.record("key").unwrap();
    assert_eq!((record.count, record.len), (1, 700));
}

#[tokio::test]
async fn s2_another_holder_is_refused_until_the_lease_has_expired() {
    let store = MemoryStore::new();
    ask(&store, Command::Take(take("a", 500))).await;
    let Outcome::Waiting(waiting) = ask(&store, Command::Take(take("b", 500))).await else {
        panic!("not refused");
    };
    assert_eq!(waiting.holder, requester("a"));

    let expired = Take {
        proof: Proof::Unchanged(waiting.sighting),
        ..take("b", 500)
    };
    let Outcome::Held(held) = ask(&store, Command::Take(expired)).await else {
        panic!("not stolen");
    };
    assert_eq!(held.token, 7);
    assert_eq!(held.last.unwrap().tab, "a");
}

#[tokio::test]
async fn s2_a_lease_of_zero_by_the_holder_frees_the_lock() {
    let store = MemoryStore::new();
    ask(&store, Command::Take(take("a", 500))).await;
    ask(&store, Command::Take(take("b", 0))).await;
    assert_eq!(store.record("key").unwrap().holder, Some(requester("a")));
    ask(&store, Command::Take(take("a", 0))).await;
    assert_eq!(store.record("key").unwrap().holder, None);
    let next = ask(&store, Command::Take(take("b", 500))).await;
    assert!(matches!(next, Outcome::Held(_)));
}

#[tokio::test]
async fn s2_same_holder_means_same_request() {
    let store = MemoryStore::new();
    ask(&store, Command::Take(take("a", 500))).await;
    let mut second = take("a", 500);
    second.who.request = 2;
    let answer = ask(&store, Command::Take(second)).await;
    assert!(matches!(answer, Outcome::Waiting(_)));
}

#[tokio::test(start_paused = true)]
async fn s2_a_recreated_lock_takes_its_own_earlier_lease_over_at_once_with_a_new_token() {
    let world = World::new();
    let (first, link) = world.process("first");
    let guard = first.try_lock_once().await.unwrap().unwrap();
    let earlier = guard.token();
    // The release never reaches the store: only the process itself knows that it is over.
    link.everything_is(Conduct::Fail);
    guard.release().await;
    drop(first);
    assert!(world.is_held());

    let anew = world.lock("first");
    let guard = anew.try_lock_once().await.unwrap().expect("taken over");
    assert_eq!(guard.token(), earlier + 2);
    assert!(!guard.dirty());
}

#[tokio::test(start_paused = true)]
async fn s2_a_recreated_lock_does_not_wait_for_a_renewal_under_way() {
    let world = World::new();
    let (first, link) = world.process("first");
    let guard = first.try_lock_once().await.unwrap().unwrap();
    let earlier = guard.token();
    link.renewals_are(Conduct::InTransit(ms(30)));
    until("a renewal is under way", || link.renewals().len() == 1).await;
    drop(guard);
    drop(first);

    let anew = world.lock("first");
    let guard = anew.try_lock_once().await.unwrap().expect("taken over");
    assert_eq!(guard.token(), earlier + 2);
    until("the old one's end is told", || !link.quits().is_empty()).await;
    sleep(ms(1000)).await;
    assert!(guard.is_held(), "the old one's end is not the new one's");
    assert_eq!(link.renewals().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn s2_a_lock_object_may_go_before_its_guard() {
    let world = World::new();
    let (first, link) = world.process("first");
    let guard = first.try_lock_once().await.unwrap().unwrap();
    drop(first);
    until("it is renewed all the same", || link.renewals().len() == 20).await;
    assert!(guard.is_held());
    drop(guard);
    let guard = world.lock("first").acquire(Some(ms(20))).await;
    assert!(guard.is_ok());
}

#[tokio::test(start_paused = true)]
async fn s2_two_living_lock_objects_of_one_name_do_not_share() {
    let world = World::new();
    let one = world.lock("twin");
    let two = world.lock("twin");
    let guard = one.try_lock_once().await.unwrap().unwrap();
    assert!(two.try_lock_once().await.unwrap().is_none());
    guard.release().await;
    let guard = two.try_lock_once().await.unwrap().expect("now it is free");
    assert!(guard.is_held());
    assert!(one.try_lock_once().await.unwrap().is_none());
}

// ---- S3: the lock object --------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn s3_clones_are_one_lock() {
    let world = World::new();
    let (lock, link) = world.process("first");
    assert_eq!(lock.lock_holder(), "first");
    assert_eq!(lock.clone().lock_holder(), "first");

    let one = lock.try_lock_once().await.unwrap().unwrap();
    let two = lock.clone().try_lock_once().await.unwrap().unwrap();
    assert_eq!(one.token(), two.token());
    assert_eq!(link.calls().len(), 1);
}

// ---- S4: trying once ------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn s4_trying_once_never_waits_for_another_holder() {
    let world = World::new();
    let first = world.lock("first");
    let (second, link) = world.process("second");
    let guard = first.try_lock_once().await.unwrap().expect("it is free");

    let start = Instant::now();
    assert!(second.try_lock_once().await.unwrap().is_none());
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(link.takes().len(), 1);
    assert!(guard.is_held());
    // It did not ask to wait, so it leaves nothing behind.
    assert!(world.record().queue.is_empty());
}

#[tokio::test(start_paused = true)]
async fn s4_tries_a_lease_apart_find_out_that_the_holder_died() {
    let world = World::new();
    world.held_by_the_dead(500);
    let lock = world.lock("second");
    assert!(lock.try_lock_once().await.unwrap().is_none());
    sleep(ms(499)).await;
    assert!(lock.try_lock_once().await.unwrap().is_none());
    sleep(ms(1)).await;
    assert!(lock.try_lock_once().await.unwrap().is_some());
}

// ---- S5: spinning and waiting ---------------------------------------------------------------

/// Longer than any wait in these tests.
const LONG_LEASE: u32 = 600_000;

#[tokio::test(start_paused = true)]
async fn s5_pauses_double_from_ten_ms_up_to_the_default_maximum_then_it_times_out() {
    let world = World::new();
    world.held_by_the_dead(LONG_LEASE);
    let (lock, link) = world.process("second");
    assert_eq!(lock.spin_lock(None).await.unwrap_err(), LockError::Timeout);
    // Pauses of 10, 20, 40, 80, 160, 320, 640; 1280 would be more than 1000.
    let asked = [0, 10, 30, 70, 150, 310, 630, 1270].map(ms);
    assert_eq!(link.takes(), asked);
    assert_eq!(link.now(), ms(1270));
}

#[tokio::test(start_paused = true)]
async fn s5_the_caller_may_set_the_longest_pause() {
    let world = World::new();
    world.held_by_the_dead(LONG_LEASE);
    let (lock, link) = world.process("second");
    assert!(lock.spin_lock(Some(40)).await.is_err());
    assert_eq!(link.takes(), [0, 10, 30, 70].map(ms));

    let (lock, link) = world.process("third");
    assert!(lock.spin_lock(Some(9)).await.is_err());
    assert_eq!(link.takes(), [ms(0)]);
}

#[tokio::test(start_paused = true)]
async fn s5_a_spinner_that_timed_out_has_left_the_queue() {
    let world = World::new();
    world.held_by_the_dead(LONG_LEASE);
    let lock = world.lock("second");
    assert!(lock.spin_lock(Some(40)).await.is_err());
    until("it leaves the queue", || world.record().queue.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn s5_an_endless_wait_keeps_asking_at_the_longest_pause() {
    let world = World::new();
    world.held_by_the_dead(LONG_LEASE);
    let (lock, link) = world.process("second");
    let waiting = tokio::spawn(async move { lock.acquire(None).await });
    until("it has asked ten times", || link.takes().len() == 10).await;
    let asked = [0, 10, 30, 70, 150, 310, 630, 1270, 2270, 3270].map(ms);
    assert_eq!(link.takes(), asked);
    waiting.abort();
}

#[tokio::test(start_paused = true)]
async fn s5_a_wait_ends_at_its_deadline() {
    let world = World::new();
    world.held_by_the_dead(LONG_LEASE);
    let (lock, link) = world.process("second");
    let waited = lock.acquire(Some(ms(100))).await;
    assert_eq!(waited.unwrap_err(), LockError::Timeout);
    assert_eq!(link.now(), ms(100));
    assert_eq!(link.takes(), [0, 10, 30, 70].map(ms));
}

#[tokio::test(start_paused = true)]
async fn s5_a_timeout_of_zero_asks_once() {
    let world = World::new();
    let (lock, link) = world.process("second");
    let guard = lock.acquire(Some(Duration::ZERO)).await.expect("free");
    guard.release().await;

    world.held_by_the_dead(LONG_LEASE);
    let busy = lock.acquire(Some(Duration::ZERO)).await;
    assert_eq!(busy.unwrap_err(), LockError::Timeout);
    assert_eq!(link.takes(), [Duration::ZERO, Duration::ZERO]);
    assert!(world.record().queue.is_empty());
}

#[tokio::test(start_paused = true)]
async fn s5_a_deadline_bounds_a_store_that_does_not_answer() {
    let world = World::new();
    let (lock, link) = world.process("first");
    link.everything_is(Conduct::Stall);
    let waited = lock.acquire(Some(ms(200))).await;
    assert_eq!(waited.unwrap_err(), LockError::Timeout);
    assert_eq!(link.now(), ms(200));

    link.everything_is(Conduct::Prompt);
    assert!(lock.try_lock_once().await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn s5_a_waiter_is_woken_early_by_a_local_change() {
    let world = World::new();
    world.held_by_the_dead(LONG_LEASE);
    let (lock, link) = world.process("first");
    let waiting = {
        let lock = lock.clone();
        tokio::spawn(async move { lock.acquire(None).await })
    };
    // The next look of its own would be at 1270.
    until("it pauses for 640 ms", || link.takes().len() == 7).await;
    world.free();
    let guard = lock.try_lock_once().await.unwrap().expect("it is free");
    let before = link.now();
    let woken = waiting.await.unwrap().unwrap();
    assert_eq!(woken.token(), guard.token());
    assert_eq!(link.now(), before);
}

// ---- S6: sharing within a process -----------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn s6_while_held_further_acquisitions_do_not_touch_the_store() {
    let world = World::new();
    let (lock, link) = world.process("first");
    let first = lock.spin_lock(None).await.unwrap();
    assert_eq!(link.calls().len(), 1);

    link.everything_is(Conduct::Stall);
    let tried = lock.try_lock_once().await.unwrap().unwrap();
    let spun = lock.spin_lock(None).await.unwrap();
    let waited = lock.acquire(Some(ms(1))).await.unwrap();
    assert_eq!(link.calls().len(), 1);
    for guard in [tried, spun, waited] {
        assert_eq!(guard.token(), first.token());
    }
}

#[tokio::test(start_paused = true)]
async fn s6_the_lock_lives_as_long_as_one_guard() {
    let world = World::new();
    let (lock, other) = (world.lock("first"), world.lock("second"));
    let mut guards = Vec::new();
    for _ in 0..5 {
        guards.push(lock.try_lock_once().await.unwrap().unwrap());
    }
    while let Some(guard) = guards.pop() {
        assert!(other.try_lock_once().await.unwrap().is_none());
        guard.release().await;
    }
    assert!(other.try_lock_once().await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn s6_many_local_callers_cause_few_takes() {
    let world = World::new();
    let (lock, link) = world.process("first");
    link.everything_is(Conduct::Slow {
        before: ms(2),
        after: ms(2),
    });
    let callers = |lock: &support::Lock| {
        let callers = (0..50).map(|_| {
            let lock = lock.clone();
            tokio::spawn(async move { lock.try_lock_once().await })
        });
        callers.collect::<Vec<_>>()
    };

    let mut guards = Vec::new();
    for caller in callers(&lock) {
        guards.push(caller.await.unwrap().unwrap().expect("all share it"));
    }
    assert_eq!(link.takes().len(), 1);

    let (busy, link) = world.process("second");
    link.everything_is(Conduct::Slow {
        before: ms(2),
        after: ms(2),
    });
    for caller in callers(&busy) {
        assert!(caller.await.unwrap().unwrap().is_none());
    }
    // The first, and one for those who came when that was already under way.
    assert_eq!(link.takes().len(), 2);
}

// ---- S7: the heartbeat ----------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn s7_a_held_lease_is_renewed_every_fifty_ms() {
    let world = World::new();
    let (lock, link) = world.process("first");
    let guard = lock.try_lock_once().await.unwrap().unwrap();
    until("twenty beats", || link.renewals().len() == 20).await;
    let beats: Vec<_> = (1..=20).map(|beat| ms(50 * beat)).collect();
    assert_eq!(link.renewals(), beats);
    assert!(guard.is_held());
    for call in &link.calls()[1..] {
        assert!(matches!(call.command, Command::Renew { len: 500, .. }));
    }
}

#[tokio::test(start_paused = true)]
async fn s7_a_missed_beat_costs_nothing() {
    let world = World::new();
    let (lock, link) = world.process("first");
    let other = world.lock("second");
    let guard = lock.try_lock_once().await.unwrap().unwrap();
    let mut beat = 0;
    link.script(move |_| {
        beat += 1;
        if beat % 8 == 0 {
            Conduct::Prompt
        } else {
            Conduct::Fail
        }
    });
    let refused = other.acquire(Some(ms(5000))).await;
    assert_eq!(refused.unwrap_err(), LockError::Timeout);
    assert!(guard.is_held());
}

#[tokio::test(start_paused = true)]
async fn s7_nobody_renews_once_it_is_released() {
    let world = World::new();
    let (lock, link) = world.process("first");
    let guard = lock.try_lock_once().await.unwrap().unwrap();
    guard.release().await;
    let calls = link.calls().len();
    sleep(ms(1000)).await;
    assert_eq!(link.calls().len(), calls);
}

// ---- S8: release ----------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn s8_dropping_the_last_guard_releases_at_once() {
    let world = World::new();
    let (lock, link) = world.process("first");
    let one = lock.try_lock_once().await.unwrap().unwrap();
    let two = lock.try_lock_once().await.unwrap().unwrap();
    until("a beat has passed", || link.renewals().len() == 1).await;
    sleep(ms(7)).await;

    drop(one);
    sleep(ms(10)).await;
    assert!(world.is_held());
    let dropped = link.now();
    drop(two);
    until("it is free", || !world.is_held()).await;
    assert_eq!(link.quits(), [dropped]);
}

#[tokio::test(start_paused = true)]
async fn s8_a_renewal_in_flight_delays_the_release_only_until_it_is_answered() {
    let world = World::new();
    let (lock, link) = world.process("first");
    let guard = lock.try_lock_once().await.unwrap().unwrap();
    link.renewals_are(Conduct::Slow {
        before: ms(10),
        after: ms(10),
    });
    until("a renewal is under way", || link.renewals().len() == 1).await;
    drop(guard);
    until("it is free", || !world.is_held()).await;
    let under_way = link.quits()[0] - link.renewals()[0];
    assert!(under_way <= ms(50), "a beat at most, not {under_way:?}");
    assert_eq!(link.renewals().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn s8_release_resolves_when_the_next_one_can_have_it() {
    let world = World::new();
    let (first, second) = (world.lock("first"), world.lock("second"));
    let guard = first.try_lock_once().await.unwrap().unwrap();
    guard.release().await;
    assert!(second.try_lock_once().await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn s8_the_lease_of_a_dead_process_lapses_after_one_lease_of_observation() {
    let world = World::new();
    world.held_by_the_dead(500);
    let (lock, link) = world.process("second");
    let guard = lock.acquire(None).await.unwrap();
    assert_eq!(link.now(), ms(500));
    assert_eq!(guard.token(), 1002);
    assert!(guard.dirty());
}

#[tokio::test(start_paused = true)]
async fn s8_the_recorded_lease_counts_not_the_observers_own() {
    let world = World::new();
    world.held_by_the_dead(2000);
    let (lock, link) = world.process("second");
    lock.acquire(None).await.unwrap().release().await;
    assert_eq!(link.now(), ms(2000));
}

#[tokio::test(start_paused = true)]
async fn s8_a_release_is_finished_after_the_lock_object_has_gone() {
    let world = World::new();
    let (lock, link) = world.process("first");
    let guard = lock.try_lock_once().await.unwrap().unwrap();
    link.renewals_are(Conduct::Slow {
        before: ms(10),
        after: ms(10),
    });
    until("a renewal is under way", || link.renewals().len() == 1).await;
    let mut releasing = std::pin::pin!(guard.release());
    assert!(!support::is_ready(releasing.as_mut()).await);
    drop(lock);
    let released = tokio::time::timeout(ms(100), releasing).await;
    assert!(released.is_ok());
    assert_eq!(link.quits().len(), 1);
    assert!(!world.is_held());
}

// ---- S9: errors -----------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn s9_a_store_error_is_told_with_its_source() {
    let world = World::new();
    let (lock, link) = world.process("first");
    link.everything_is(Conduct::Fail);
    for error in [
        lock.try_lock_once().await.unwrap_err(),
        lock.spin_lock(None).await.unwrap_err(),
        lock.acquire(None).await.unwrap_err(),
    ] {
        assert_eq!(error, LockError::Store(DiskFull));
        let source = error.source().expect("the source is preserved");
        assert_eq!(source.downcast_ref::<DiskFull>(), Some(&DiskFull));
    }
}

#[tokio::test]
async fn s9_any_error_type_of_a_store_will_do() {
    let lock = CrossProcessStoreLock::new(Broken, "key", "first");
    let error = lock.try_lock_once().await.unwrap_err();
    assert!(matches!(error, LockError::Store(_)));
    assert_eq!(error.source().unwrap().to_string(), "no such device");
}

#[test]
fn s9_a_timeout_has_no_source() {
    let timeout = LockError::<DiskFull>::Timeout;
    assert!(timeout.source().is_none());
    assert!(timeout.to_string().starts_with("timed out"));
}

// ---- S10: constants -------------------------------------------------------------------------

#[test]
fn s10_the_constants_are_public_and_the_defaults() {
    let defaults = Config::default();
    assert_eq!((LEASE_DURATION_MS, defaults.lease_ms), (500, 500));
    assert_eq!((EXTEND_LEASE_EVERY_MS, defaults.heartbeat_ms), (50, 50));
    assert_eq!((INITIAL_BACKOFF_MS, defaults.initial_backoff_ms), (10, 10));
    assert_eq!((MAX_BACKOFF_MS, defaults.max_backoff_ms), (1000, 1000));
}

#[tokio::test(start_paused = true)]
async fn s10_the_settings_are_heeded() {
    let world = World::new();
    let config = Config {
        lease_ms: 2000,
        heartbeat_ms: 300,
        initial_backoff_ms: 7,
        max_backoff_ms: 30,
        ..Config::default()
    };
    let (lock, link) = world.configured("first", config);
    let guard = lock.try_lock_once().await.unwrap().unwrap();
    assert_eq!(world.record().len, 2000);
    until("three beats", || link.renewals().len() == 3).await;
    assert_eq!(link.renewals(), [300, 600, 900].map(ms));

    let (other, link) = world.configured("second", config);
    assert!(other.spin_lock(None).await.is_err());
    assert_eq!(link.takes(), [0, 7, 21, 49].map(ms));
    drop(guard);
}

#[tokio::test]
async fn s10_settings_that_cannot_work_are_refused() {
    let good = Config::default();
    for bad in [
        Config {
            lease_ms: 0,
            ..good
        },
        Config {
            lease_ms: 600_001,
            ..good
        },
        Config {
            heartbeat_ms: 0,
            ..good
        },
        Config {
            heartbeat_ms: 500,
            ..good
        },
        Config {
            initial_backoff_ms: 0,
            ..good
        },
    ] {
        let lock = CrossProcessStoreLock::with_config(MemoryStore::new(), "key", "first", bad);
        assert!(lock.is_err(), "{bad:?}");
    }
}

// ---- S11: tracing ---------------------------------------------------------------------------

/// Keeps what was said, as "LEVEL message".
#[derive(Clone, Default)]
struct Journal(Arc<Mutex<Vec<String>>>);

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl<S: tracing::Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if metadata.target().starts_with("tab_lease") {
            let mut message = Message(String::new());
            event.record(&mut message);
            let line = format!("{} {}", metadata.level(), message.0);
            self.0.lock().unwrap().push(line);
        }
    }
}

impl Journal {
    /// Hears this thread until the answer is dropped.
    ///
    /// The idle second subscriber matters: while only one exists, tracing asks just the thread that
    /// first meets an event whether anybody wants it, and other tests' threads would say no.
    fn listen(&self) -> impl Drop + use<> {
        static IDLE: OnceLock<tracing::Dispatch> = OnceLock::new();
        let listening = tracing_subscriber::registry()
            .with(self.clone())
            .set_default();
        IDLE.get_or_init(|| tracing::Dispatch::new(tracing_subscriber::registry()));
        listening
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

#[tokio::test(start_paused = true)]
async fn s11_every_transition_is_told() {
    let journal = Journal::default();
    let _listening = journal.listen();
    let world = World::new();
    let (lock, link) = world.process("first");

    let guard = lock.try_lock_once().await.unwrap().unwrap();
    assert_eq!(journal.take(), ["DEBUG lock acquired"]);
    until("a renewal", || link.renewals().len() == 1).await;
    assert_eq!(journal.take(), ["TRACE lease renewed"]);
    let other = world.lock("second");
    assert!(other.try_lock_once().await.unwrap().is_none());
    assert_eq!(journal.take(), ["TRACE lock busy"]);
    guard.release().await;
    assert_eq!(journal.take(), ["DEBUG lock released"]);

    let guard = lock.try_lock_once().await.unwrap().unwrap();
    journal.take();
    link.everything_is(Conduct::Fail);
    assert_eq!(told(&guard).await.reason, LossReason::StoreFailed);
    until("the quit has failed too", || !link.quits().is_empty()).await;
    let mut told = journal.take();
    told.dedup();
    let expected = [
        "WARN renewal failed",
        "WARN lease lost",
        "WARN release not written; the lease will lapse",
    ];
    assert_eq!(told, expected);
}

// ---- S12: native runtimes -------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn s12_it_works_across_threads_in_real_time() {
    let world = World::new();
    let inside = Arc::new(AtomicUsize::new(0));
    let contenders: Vec<_> = ["one", "two", "three"]
        .into_iter()
        .map(|holder| {
            let (lock, inside) = (world.lock(holder), Arc::clone(&inside));
            tokio::spawn(async move {
                let mut tokens = Vec::new();
                for _ in 0..5 {
                    let guard = lock.acquire(None).await.unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    sleep(ms(2)).await;
                    assert_eq!(inside.fetch_sub(1, Ordering::SeqCst), 1);
                    tokens.push(guard.token());
                    guard.release().await;
                }
                tokens
            })
        })
        .collect();
    let mut tokens = Vec::new();
    for contender in contenders {
        let seen = contender.await.unwrap();
        assert!(seen.is_sorted(), "they only grow: {seen:?}");
        tokens.extend(seen);
    }
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 15, "no token is given out twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s12_a_guard_may_be_dropped_on_a_thread_without_a_runtime() {
    let world = World::new();
    let (first, second) = (world.lock("first"), world.lock("second"));
    let guard = first.acquire(None).await.unwrap();
    std::thread::spawn(move || drop(guard)).join().unwrap();
    let next = second.acquire(Some(ms(400))).await;
    assert!(next.is_ok(), "released, not lapsed");
}

// ---- What its own tests pinned down ---------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn pinned_lock_and_unlock_by_one_holder_then_again_by_spinning() {
    let world = World::new();
    let lock = world.lock("first");
    let guard = lock.try_lock_once().await.unwrap().expect("first time");
    guard.release().await;
    assert!(!world.is_held());
    let guard = lock.spin_lock(None).await.expect("second time");
    drop(guard);
    until("it is free again", || !world.is_held()).await;
}

#[tokio::test(start_paused = true)]
async fn pinned_a_dropped_lock_object_made_anew_still_has_the_lease() {
    let world = World::new();
    let lock = world.lock("first");
    // The guard goes at once and nothing is awaited: the store has not been told.
    assert!(lock.try_lock_once().await.unwrap().is_some());
    drop(lock);

    let lock = world.lock("first");
    assert!(lock.try_lock_once().await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn pinned_two_acquisitions_need_two_releases() {
    let world = World::new();
    let lock = world.lock("first");
    let one = lock.try_lock_once().await.unwrap().unwrap();
    let two = lock.try_lock_once().await.unwrap().unwrap();
    one.release().await;
    sleep(ms(200)).await;
    assert!(world.is_held());
    assert!(two.is_held());
    two.release().await;
    assert!(!world.is_held());
}

#[tokio::test(start_paused = true)]
async fn pinned_a_second_process_is_refused() {
    let world = World::new();
    let (first, second) = (world.lock("first"), world.lock("second"));
    let guard = first.spin_lock(None).await.unwrap();
    assert!(second.try_lock_once().await.unwrap().is_none());
    let spun = second.spin_lock(Some(100)).await;
    assert_eq!(spun.unwrap_err(), LockError::Timeout);
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn pinned_the_second_spins_until_the_first_lets_go_which_then_times_out() {
    let world = World::new();
    let (first, second) = (world.lock("first"), world.lock("second"));
    let guard = first.spin_lock(None).await.unwrap();
    let spinning = tokio::spawn(async move { second.spin_lock(None).await });
    sleep(ms(100)).await;
    guard.release().await;
    let held = spinning.await.unwrap().expect("it got the lock");

    let start = Instant::now();
    let spun = first.spin_lock(None).await;
    assert_eq!(spun.unwrap_err(), LockError::Timeout);
    assert!(start.elapsed() > ms(1000));
    assert!(held.is_held());
    let sighting: Sighting = world.record().sighting();
    assert_eq!(sighting.token, held.token());
}
