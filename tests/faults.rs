//! The faults of the older design that this crate does not inherit, and what else can go wrong
//! between a lock and its store.
//!
//! A test named after a fault fails on that fault's behaviour: each was run against a source with
//! the fault put back in.
#![cfg(not(target_arch = "wasm32"))]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::{Conduct, DiskFull, Link, Lock, World, dead_record, is_ready, ms};
use support::{told, until};
use tab_lease::rules::{self, Command, Outcome};
use tab_lease::{CrossProcessStoreLockGuard, LockError, LossReason};
use tokio::time::{Instant, advance, sleep, timeout};

async fn take_now(lock: &Lock) -> CrossProcessStoreLockGuard {
    let guard = lock.try_lock_once().await.expect("the store works");
    guard.expect("nobody else holds it")
}

// ---- Fault 1: the backoff stays at "stop" -----------------------------------------------------

#[tokio::test(start_paused = true)]
async fn fault_1_a_spin_after_a_timeout_starts_anew() {
    let world = World::new();
    let first = world.lock("first");
    let (second, link) = world.process("second");
    let guard = take_now(&first).await;

    for _ in 0..3 {
        let before = link.takes().len();
        assert!(second.spin_lock(Some(40)).await.is_err());
        assert_eq!(link.takes().len() - before, 4, "each spin asks as often");
    }
    let spinning = {
        let second = second.clone();
        tokio::spawn(async move { second.spin_lock(Some(320)).await })
    };
    sleep(ms(100)).await;
    guard.release().await;
    assert!(spinning.await.unwrap().is_ok(), "it was still asking");
}

// ---- Fault 2: a refused renewal is ignored ----------------------------------------------------

#[tokio::test(start_paused = true)]
async fn fault_2_a_refused_renewal_is_told_and_no_longer_shared() {
    let world = World::new();
    let (lock, link) = world.process("first");
    let guard = take_now(&lock).await;
    let intruder = dead_record(60_000);
    world.memory.set_record(&world.key, Some(intruder.clone()));

    until("a renewal was refused", || link.renewals().len() == 1).await;
    let lost = tokio::time::timeout(ms(1), guard.lost()).await;
    let lost = lost.expect("the holder is told");
    assert_eq!(lost.token, guard.token());
    assert_eq!(lost.reason, LossReason::Superseded);
    assert!(!guard.is_held());

    let takes = link.takes().len();
    let shared = lock.try_lock_once().await.unwrap();
    assert!(shared.is_none(), "a lost lease is not shared");
    assert_eq!(link.takes().len(), takes + 1, "it asked the store");
    drop(guard);
    sleep(ms(200)).await;
    assert_eq!(world.record(), intruder, "the new holder was left alone");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_record_is_a_lost_lease() {
    let world = World::new();
    let (lock, link) = world.process("first");
    let guard = take_now(&lock).await;
    world.memory.set_record(&world.key, None);
    assert_eq!(told(&guard).await.reason, LossReason::Superseded);
    assert_eq!(link.renewals(), [ms(50)]);
    let again = take_now(&lock).await;
    assert!(again.token() > guard.token());
    assert!(again.dirty(), "nobody knows who was in between");
}

// ---- Fault 3: a late renewal re-acquires ------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn fault_3_a_renewal_that_comes_late_takes_nothing_back() {
    let world = World::new();
    let (first, link) = world.process("first");
    let second = world.lock("second");
    let guard = take_now(&first).await;
    let stale = guard.token();
    link.renewals_are(Conduct::InTransit(ms(2000)));

    // The holder stalls; another has the lock in between, and has let go of it again.
    let between = second.acquire(None).await.expect("the lease lapsed");
    assert!(!guard.is_held());
    let newer = between.token();
    assert!(newer > stale);
    between.release().await;

    // Now the renewal arrives, at a free record.
    let arrived = || {
        let calls = link.calls();
        let mut renewals = calls
            .iter()
            .filter(|call| matches!(call.command, Command::Renew { .. }));
        renewals.find_map(|call| call.outcome.clone())
    };
    until("the late renewal arrives", || arrived().is_some()).await;
    assert_eq!(arrived(), Some(Outcome::Refused));
    assert!(!world.is_held());
    assert_eq!(world.record().token, newer);
    assert!(second.try_lock_once().await.unwrap().is_some());
}

#[test]
fn fault_3_a_renewal_of_an_earlier_token_of_the_same_holder_is_refused() {
    let record = dead_record(500);
    let renewal = |token| Command::Renew {
        who: record.holder.clone().unwrap(),
        token,
        len: 500,
        beacon: false,
    };
    let (write, outcome) = rules::apply(Some(&record), &renewal(record.token - 2));
    assert_eq!((write, outcome), (None, Outcome::Refused));
    let (_, outcome) = rules::apply(Some(&record), &renewal(record.token));
    assert!(matches!(outcome, Outcome::Held(_)));
}

// ---- Fault 4: one store error ends the heartbeat ----------------------------------------------

#[tokio::test(start_paused = true)]
async fn fault_4_a_failed_renewal_is_tried_again() {
    for conduct in [Conduct::Fail, Conduct::FailAfter] {
        let world = World::new();
        let (first, link) = world.process("first");
        let second = world.lock("second");
        let guard = take_now(&first).await;
        let mut failures = 3;
        link.script(move |_| {
            let failing = failures > 0;
            failures -= i32::from(failing);
            if failing { conduct } else { Conduct::Prompt }
        });

        let waited = second.acquire(Some(ms(3000))).await;
        assert_eq!(waited.unwrap_err(), LockError::Timeout);
        assert!(guard.is_held());
        assert!(!is_ready(guard.lost()).await);
        assert_eq!(link.renewals().len(), 59, "a beat is a beat, failed or not");
    }
}

#[tokio::test(start_paused = true)]
async fn fault_4_a_store_that_fails_for_a_whole_lease_is_told_within_it() {
    let world = World::new();
    let (lock, link) = world.process("first");
    let guard = take_now(&lock).await;
    until("it has beaten", || link.renewals().len() == 2).await;
    let renewed = *link.renewals().last().unwrap();
    link.everything_is(Conduct::Fail);

    let lost = told(&guard).await;
    assert_eq!(lost.reason, LossReason::StoreFailed);
    let after = link.now() - renewed;
    assert!(after < ms(500), "told {after:?} after the last renewal");
    assert!(!guard.is_held());
    assert!(link.renewals().len() > 5, "it did try");
}

/// How long after its last good renewal the loss is told, when renewals go like this from then on.
async fn told_after(conduct: Conduct) -> (Duration, LossReason) {
    let world = World::new();
    let (lock, link) = world.process("first");
    let guard = take_now(&lock).await;
    until("it has beaten", || link.renewals().len() == 2).await;
    let renewed = *link.renewals().last().unwrap();
    link.renewals_are(conduct);
    let lost = told(&guard).await;
    assert!(!guard.is_held());
    (link.now() - renewed, lost.reason)
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_is_told_within_the_lease() {
    for conduct in [
        Conduct::Stall,
        Conduct::StallAfter,
        Conduct::Slow {
            before: ms(900),
            after: ms(0),
        },
        Conduct::Slow {
            before: ms(0),
            after: ms(470),
        },
    ] {
        let (after, reason) = told_after(conduct).await;
        assert_eq!(reason, LossReason::StoreFailed);
        assert!(after < ms(500), "{conduct:?}: told after {after:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_two_processes_believe_at_once_while_a_store_stalls() {
    let world = World::new();
    let (first, link) = world.process("first");
    let second = world.lock("second");
    let guard = take_now(&first).await;
    link.everything_is(Conduct::StallAfter);
    let waiting = tokio::spawn(async move { second.acquire(None).await });
    told(&guard).await;
    assert!(!waiting.is_finished());
    assert!(waiting.await.unwrap().unwrap().is_held());
}

// ---- Fault 5: heartbeats pile up --------------------------------------------------------------

/// Ten beats from now, how many renewals each has had. The world must be quiet but for them.
async fn renewals_per_beat(link: &Link) -> Vec<usize> {
    // The heartbeat started on some whole ms; count from between two beats.
    sleep(ms(20)).await;
    let before = link.renewals().len();
    let start = link.now();
    sleep(ms(500)).await;
    let renewals = link.renewals().split_off(before);
    let beat = |n: u32| start + n * ms(50)..start + (n + 1) * ms(50);
    let count = |n| renewals.iter().filter(|at| beat(n).contains(at)).count();
    (0..10).map(count).collect()
}

#[tokio::test(start_paused = true)]
async fn fault_5_reacquiring_within_a_beat_leaves_one_heartbeat() {
    let world = World::new();
    let (lock, link) = world.process("first");
    let mut guard = take_now(&lock).await;
    for _ in 0..30 {
        sleep(ms(1)).await;
        // Released and taken anew, with a tenure and a heartbeat of its own.
        guard.release().await;
        guard = take_now(&lock).await;
    }
    assert_eq!(renewals_per_beat(&link).await, [1; 10]);

    for _ in 0..30 {
        sleep(ms(1)).await;
        // Dropped and taken in one breath: the heartbeat never knew.
        drop(guard);
        guard = take_now(&lock).await;
    }
    assert_eq!(renewals_per_beat(&link).await, [1; 10]);

    let more: Vec<_> = [take_now(&lock).await, take_now(&lock).await].into();
    drop(guard);
    assert_eq!(renewals_per_beat(&link).await, [1; 10]);
    drop(more);
    until("it is free", || !world.is_held()).await;
    assert_eq!(renewals_per_beat(&link).await, [0; 10]);
}

// ---- Fault 7: expiry by wall clocks -----------------------------------------------------------

const YEAR_MS: u64 = 365 * 24 * 3600 * 1000;

/// What a wall clock, or a record from another machine's, may say.
const WALLS: [fn(u64) -> u64; 4] = [
    |now| now + YEAR_MS,
    |now| now - YEAR_MS,
    |_| 0,
    |_| 8_640_000_000_000_000,
];

/// Gives `link` a wall clock of its own.
fn set_wall_clock(link: &Link, wall: fn(u64) -> u64) {
    link.rewrite(move |command, _| {
        if let Command::Take(take) = command {
            take.wall = wall(take.wall);
        }
    });
}

#[tokio::test(start_paused = true)]
async fn fault_7_no_wall_clock_takes_a_lease_from_a_living_holder() {
    for wall in WALLS {
        let world = World::new();
        let (first, second_link) = (world.lock("first"), Link::to(&world.memory));
        let second = world.lock_over(&second_link, "second");
        let guard = take_now(&first).await;

        set_wall_clock(&second_link, wall);
        let waited = second.acquire(Some(ms(3000))).await;
        assert_eq!(waited.unwrap_err(), LockError::Timeout);
        world.tamper(|record| record.since = wall(record.since));
        second_link.rewrite(|_, _| {});
        let waited = second.acquire(Some(ms(3000))).await;
        assert_eq!(waited.unwrap_err(), LockError::Timeout);
        assert!(guard.is_held());
    }
}

#[tokio::test(start_paused = true)]
async fn fault_7_no_wall_clock_wedges_the_lock_of_a_dead_holder() {
    for wall in WALLS {
        // It is the record whose time is off …
        let world = World::new();
        world.held_by_the_dead(500);
        let now = tab_lease::platform::wall_ms();
        world.tamper(|record| record.since = wall(now));
        let (lock, link) = world.process("second");
        let guard = lock.acquire(Some(ms(5000))).await.expect("it lapses");
        assert_eq!(link.now(), ms(500));
        guard.release().await;

        // … or the observer's clock, from its first look on, or jumping at every look.
        world.held_by_the_dead(500);
        let (lock, link) = world.process("third");
        let mut looks = 0;
        link.rewrite(move |command, _| {
            if let Command::Take(take) = command {
                looks += 1;
                take.wall = if looks % 2 == 1 {
                    wall(take.wall)
                } else {
                    take.wall
                };
            }
        });
        let guard = lock.acquire(Some(ms(5000))).await.expect("it lapses");
        assert_eq!(link.now(), ms(500));
        drop(guard);
    }
}

#[tokio::test(start_paused = true)]
async fn fault_7_a_holder_goes_on_whatever_the_wall_clock_does_to_its_record() {
    let world = World::new();
    let (lock, link) = world.process("first");
    let guard = take_now(&lock).await;
    let mut beats = 0;
    link.rewrite(move |_, record| {
        beats += 1;
        if let Some(record) = record {
            record.since = WALLS[beats % WALLS.len()](YEAR_MS);
        }
    });
    until("it has beaten often", || link.renewals().len() == 40).await;
    assert!(guard.is_held());
}

// ---- Fault 10: success before the commit ------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn fault_10_no_success_before_the_store_has_answered() {
    let world = World::new();
    let (lock, link) = world.process("first");
    link.everything_is(Conduct::Slow {
        before: ms(0),
        after: ms(100),
    });
    let start = Instant::now();
    let acquiring = tokio::spawn(async move { lock.acquire(None).await });
    until("the record names it", || world.is_held()).await;
    sleep(ms(90)).await;
    assert!(!acquiring.is_finished(), "written is not committed");
    let guard = acquiring.await.unwrap().unwrap();
    assert_eq!(start.elapsed(), ms(100));
    assert!(guard.is_held());
}

#[tokio::test(start_paused = true)]
async fn fault_10_a_commit_that_fails_is_no_success() {
    let world = World::new();
    let (lock, link) = world.process("first");
    let second = world.lock("second");
    link.script({
        let mut broken = true;
        move |_| {
            let conduct = if broken {
                Conduct::FailAfter
            } else {
                Conduct::Prompt
            };
            broken = false;
            conduct
        }
    });
    let error = lock.try_lock_once().await.unwrap_err();
    assert_eq!(error, LockError::Store(DiskFull));
    // It may have been written after all; it is taken back.
    until("it is free", || !world.is_held()).await;
    assert!(second.try_lock_once().await.unwrap().is_some());
}

/// An acquisition that is dropped after so many ms, in a world where a commit takes three of them and
/// its answer three more.
async fn abandoned_acquisition(patience: u64) -> (World, Lock, Link, bool) {
    let world = World::new();
    let (lock, link) = world.process("first");
    link.everything_is(Conduct::Slow {
        before: ms(3),
        after: ms(3),
    });
    let acquired = timeout(ms(patience), lock.acquire(None)).await;
    link.everything_is(Conduct::Prompt);
    (world, lock, link, acquired.is_ok())
}

#[tokio::test(start_paused = true)]
async fn fault_10_an_abandoned_acquisition_leaves_no_ghost() {
    let mut abandoned = 0;
    for patience in 0.. {
        // Whoever asks next gets it at once, once the store has heard that it is over: another …
        let (world, _lock, link, acquired) = abandoned_acquisition(patience).await;
        if acquired {
            break;
        }
        abandoned += 1;
        until("the store has heard", || !link.quits().is_empty()).await;
        // The quit was prompt, and may have overtaken what it ends.
        sleep(ms(6)).await;
        assert!(!world.is_held(), "dropped after {patience} ms");
        let other = world.lock("second");
        assert!(other.try_lock_once().await.unwrap().is_some());

        // … or the same lock, which need not wait for that.
        let (_world, lock, _link, _) = abandoned_acquisition(patience).await;
        assert!(lock.try_lock_once().await.unwrap().is_some());

        // Even if the store never hears it.
        let (_world, lock, link, _) = abandoned_acquisition(patience).await;
        link.script(|command| match command {
            Command::Quit { .. } => Conduct::Fail,
            _ => Conduct::Prompt,
        });
        until("the quit has failed", || !link.quits().is_empty()).await;
        sleep(ms(6)).await;
        assert!(lock.try_lock_once().await.unwrap().is_some());
    }
    assert!(abandoned >= 6, "before and after the write");
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_wait_leaves_the_queue() {
    for patience in 0..30 {
        let world = World::new();
        let holder = world.lock("holder");
        let guard = take_now(&holder).await;
        let (lock, link) = world.process("first");
        link.everything_is(Conduct::Slow {
            before: ms(3),
            after: ms(3),
        });
        let acquired = timeout(ms(patience), lock.acquire(None)).await;
        assert!(acquired.is_err());
        until("it leaves the queue", || {
            !link.quits().is_empty() && world.record().queue.is_empty()
        })
        .await;
        let asked = link.takes().len();
        sleep(ms(100)).await;
        assert!(world.record().queue.is_empty(), "and does not come back");
        assert_eq!(link.takes().len(), asked, "nobody asks any more");
        assert!(guard.is_held());
    }
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_caller_does_not_disturb_the_others() {
    // Before the write of its take, and after it.
    for patience in [ms(1), ms(4)] {
        let world = World::new();
        let (lock, link) = world.process("first");
        link.everything_is(Conduct::Slow {
            before: ms(3),
            after: ms(3),
        });
        let leaving = tokio::time::timeout(patience, lock.acquire(None));
        let (left, stayed) = tokio::join!(leaving, lock.acquire(Some(ms(100))));
        assert!(left.is_err());
        let guard = stayed.expect("it is free");
        sleep(ms(1000)).await;
        assert!(guard.is_held());
        assert!(link.quits().is_empty());
    }
}

// ---- Long pauses ------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_lease_that_a_pause_outlasted_is_reported_before_the_next_one_begins() {
    let world = World::new();
    let (lock, link) = world.process("first");
    let guard = Arc::new(take_now(&lock).await);
    let (token, renewals) = (guard.token(), link.renewals().len());

    // What had been reported when the next take reached the store.
    let reported = Arc::new(Mutex::new(None));
    link.script({
        let (guard, reported) = (Arc::clone(&guard), Arc::clone(&reported));
        move |command| {
            if let Command::Take(_) = command {
                let mut lost = std::pin::pin!(guard.lost());
                let mut context = std::task::Context::from_waker(std::task::Waker::noop());
                let told = lost.as_mut().poll(&mut context).is_ready();
                *reported.lock().unwrap() = Some((told, guard.is_held()));
            }
            Conduct::Prompt
        }
    });
    advance(ms(10_000)).await;
    assert!(!guard.is_held());
    let next = take_now(&lock).await;
    assert_eq!(*reported.lock().unwrap(), Some((true, false)));
    assert_eq!(told(&guard).await.reason, LossReason::Expired);
    assert!(next.token() > token);
    assert!(next.is_held());
    assert_eq!(link.renewals().len(), renewals, "it was too late to renew");

    // The old guard's end is not the new one's.
    drop(guard);
    sleep(ms(200)).await;
    assert!(next.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_pause_shorter_than_the_lease_loses_nothing() {
    let world = World::new();
    let (lock, link) = world.process("first");
    let guard = take_now(&lock).await;
    until("it has beaten", || link.renewals().len() == 1).await;
    advance(ms(490)).await;
    until("it renews", || link.renewals().len() == 2).await;
    assert!(guard.is_held());
    sleep(ms(2000)).await;
    assert!(guard.is_held());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_outlasts_the_lease_is_asked_for_again() {
    let world = World::new();
    let (lock, link) = world.process("first");
    let mut first = true;
    link.script(move |_| {
        let after = if first { ms(800) } else { ms(0) };
        first = false;
        Conduct::Slow {
            before: ms(0),
            after,
        }
    });
    let guard = lock.acquire(None).await.unwrap();
    assert!(guard.is_held());
    assert_eq!(link.takes()[..2], [ms(0), ms(800)]);
}

// ---- Releases that fail -----------------------------------------------------------------------

fn quits_fail(link: &Link) {
    link.script(|command| match command {
        Command::Quit { .. } => Conduct::Fail,
        _ => Conduct::Prompt,
    });
}

#[tokio::test(start_paused = true)]
async fn a_release_that_fails_locks_the_same_process_out_of_nothing() {
    let world = World::new();
    let (lock, link) = world.process("first");
    let guard = take_now(&lock).await;
    let token = guard.token();
    quits_fail(&link);
    guard.release().await;
    assert!(world.is_held(), "the store has not heard it");
    let again = take_now(&lock).await;
    assert_eq!(again.token(), token + 2);
    assert!(!again.dirty(), "nobody was in between");
}

#[tokio::test(start_paused = true)]
async fn a_release_that_is_never_answered_is_not_waited_for_past_the_lease() {
    let world = World::new();
    let (lock, link) = world.process("first");
    let guard = take_now(&lock).await;
    link.everything_is(Conduct::Stall);
    let before = link.now();
    guard.release().await;
    assert!(link.now() - before <= ms(500));
}

#[tokio::test(start_paused = true)]
async fn a_release_that_fails_costs_the_others_one_lease() {
    let world = World::new();
    let (lock, link) = world.process("first");
    let guard = take_now(&lock).await;
    quits_fail(&link);
    guard.release().await;
    let (other, link) = world.process("second");
    let next = other.acquire(None).await.unwrap();
    assert_eq!(link.now(), ms(500));
    assert!(next.dirty());
}

// ---- Dirty ------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn dirty_tells_whether_another_had_it_in_between() {
    let world = World::new();
    let (first, second) = (world.lock("first"), world.lock("second"));
    let dirty_turn = async |lock: &Lock| {
        let guard = take_now(lock).await;
        let dirty = guard.dirty();
        guard.release().await;
        dirty
    };
    assert!(!dirty_turn(&first).await, "the record is new");
    assert!(!dirty_turn(&first).await, "nobody else came");
    assert!(dirty_turn(&second).await, "the first one had it");
    assert!(!dirty_turn(&second).await);
    assert!(dirty_turn(&first).await, "the second one had it");

    // One that held and crashed was there too.
    world.held_by_the_dead(500);
    let guard = first.acquire(None).await.unwrap();
    assert!(guard.dirty());
    guard.release().await;

    // A deletion hides who was there.
    world.memory.set_record(&world.key, None);
    assert!(dirty_turn(&first).await);
}

// ---- Stores and settings that leave no time ---------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_store_slower_than_the_lease_does_not_keep_a_try_for_ever() {
    let world = World::new();
    let (lock, link) = world.process("first");
    link.everything_is(Conduct::Slow {
        before: ms(0),
        after: ms(600),
    });
    let tried = tokio::time::timeout(ms(60_000), lock.try_lock_once()).await;
    assert!(tried.expect("it ends").unwrap().is_none());
    until("what it wrote is taken back", || !world.is_held()).await;
}

/// Without a pause between the tries this would keep the thread, not only the caller.
#[tokio::test(start_paused = true)]
async fn a_lease_shorter_than_the_clocks_margin_times_out() {
    let world = World::new();
    let config = tab_lease::Config {
        lease_ms: 2,
        heartbeat_ms: 1,
        ..Default::default()
    };
    let (lock, link) = world.configured("first", config);
    let waited = lock.acquire(Some(ms(100))).await;
    assert_eq!(waited.unwrap_err(), LockError::Timeout);
    assert!(link.takes().len() < 20);
}
