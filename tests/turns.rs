//! Turns between a tab's own calls and tabs that wait elsewhere: the pure rule, and the lock that follows
//! it, on virtual time. `tests/model/turns.rs` explores every order of calls.
#![cfg(not(target_arch = "wasm32"))]

mod support;

use std::time::Duration;

use support::{Lock, World, ms};
use tab_lease::Wake;
use tab_lease::participant::Now;
use tab_lease::rules::Requester;
use tab_lease::turns::{HeldBack, MAX_PATIENCE_MS, PATIENCE_MS, Turn, Turns};
use tokio::time::{Instant, sleep, timeout};

fn other(request: u64) -> Requester {
    let tab = "other".to_owned();
    Requester { tab, request }
}

/// Holds a new call back at `at` for as long as it takes, while that one waits. Answers for how long.
fn run_out(turns: &mut Turns, at: Now, waits: &Requester) -> Duration {
    let mut call: Option<HeldBack> = None;
    let Turn::Wait(until) = turns.turn(&mut call, Some(waits), at) else {
        return Duration::ZERO;
    };
    assert_eq!(turns.turn(&mut call, Some(waits), until), Turn::Share);
    until - at
}

// ---- The rule -----------------------------------------------------------------------------------

#[test]
fn where_nobody_waits_a_call_shares_at_once() {
    assert_eq!(Turns::default().turn(&mut None, None, ms(0)), Turn::Share);
}

#[test]
fn patience_doubles_while_the_same_request_waits_and_has_an_end() {
    let mut turns = Turns::default();
    let patience: Vec<_> = (0..10)
        .map(|n| run_out(&mut turns, ms(n * 100_000), &other(1)))
        .collect();
    let expected = [
        250, 500, 1000, 2000, 4000, 8000, 16_000, 32_000, 32_000, 32_000,
    ];
    assert_eq!(patience, expected.map(ms));
    assert_eq!(u64::from(PATIENCE_MS), expected[0]);
    assert_eq!(u64::from(MAX_PATIENCE_MS), expected[9]);
}

#[test]
fn for_another_request_patience_begins_anew() {
    let mut turns = Turns::default();
    run_out(&mut turns, ms(0), &other(1));
    run_out(&mut turns, ms(1000), &other(1));
    assert_eq!(run_out(&mut turns, ms(2000), &other(2)), ms(250));
}

#[test]
fn calls_that_are_held_back_side_by_side_double_the_patience_once() {
    let mut turns = Turns::default();
    let mut calls: [Option<HeldBack>; 5] = Default::default();
    for (n, call) in calls.iter_mut().enumerate() {
        turns.turn(call, Some(&other(1)), ms(10 * n as u64));
    }
    for call in &mut calls {
        assert_eq!(turns.turn(call, Some(&other(1)), ms(300)), Turn::Share);
    }
    assert_eq!(run_out(&mut turns, ms(400), &other(1)), ms(500));
}

#[test]
fn a_call_that_is_held_back_is_not_held_back_anew_for_others_who_come() {
    let mut turns = Turns::default();
    let mut call = None;
    for at in (0..250).step_by(50) {
        let until = Turn::Wait(ms(250));
        assert_eq!(turns.turn(&mut call, Some(&other(at)), ms(at)), until);
    }
    assert_eq!(
        turns.turn(&mut call, Some(&other(300)), ms(250)),
        Turn::Share
    );
    assert_eq!(
        run_out(&mut turns, ms(300), &other(300)),
        ms(250),
        "that one has not been waited for"
    );
}

#[test]
fn a_call_shares_as_soon_as_nobody_waits_any_more() {
    let mut turns = Turns::default();
    let mut call = None;
    assert_eq!(
        turns.turn(&mut call, Some(&other(1)), ms(0)),
        Turn::Wait(ms(250))
    );
    assert_eq!(turns.turn(&mut call, None, ms(10)), Turn::Share);
}

// ---- The lock -----------------------------------------------------------------------------------

/// Two tabs that reach each other by messages.
fn two() -> (Lock, Lock) {
    let (world, wake) = (World::new(), Wake::local());
    let tab = |name| world.process(name).0.woken_by(&wake);
    (tab("busy"), tab("other"))
}

/// A section of that length each `every` ms, for ever, however they overlap.
fn keep_busy(lock: &Lock, every: u64, length: u64) -> tokio::task::JoinHandle<()> {
    let lock = lock.clone();
    tokio::spawn(async move {
        loop {
            let lock = lock.clone();
            tokio::spawn(async move {
                let guard = lock.acquire(None).await.unwrap();
                sleep(ms(length)).await;
                guard.release().await;
            });
            sleep(ms(every)).await;
        }
    })
}

#[tokio::test(start_paused = true)]
async fn overlapping_calls_of_a_busy_tab_do_not_keep_another_out() {
    // Within the patiences that are shorter than a section, each with the sections that it let in, and
    // the one that is longer.
    for (every, length, within) in [(40, 100, 600), (40, 400, 2_000), (300, 3_000, 20_000)] {
        let (busy, other) = two();
        let sections = keep_busy(&busy, every, length);
        sleep(ms(2 * length)).await;
        let turn = timeout(ms(within), other.acquire(None)).await;
        let guard =
            turn.unwrap_or_else(|_| panic!("no turn in {within} ms, of sections of {length} ms"));
        sleep(ms(1)).await;
        guard.unwrap().release().await;
        // And the busy one goes on.
        timeout(ms(5_000), busy.acquire(None))
            .await
            .unwrap()
            .unwrap()
            .release()
            .await;
        sections.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn code_under_the_lock_that_takes_it_again_goes_on_after_the_patience() {
    let (busy, other) = two();
    let outer = busy.acquire(None).await.unwrap();
    let waits = tokio::spawn(async move { other.acquire(None).await.unwrap().token() });
    sleep(ms(100)).await;
    let mut took = Vec::new();
    for _ in 0..3 {
        let since = Instant::now();
        busy.acquire(None).await.unwrap().release().await;
        took.push(since.elapsed());
    }
    let patience = [250, 500, 1000].map(ms);
    let exact = took
        .iter()
        .zip(patience)
        .all(|(took, patience)| *took >= patience && *took < patience + ms(20));
    assert!(exact, "{took:?}");
    assert!(!waits.is_finished());
    outer.release().await;
    waits.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_try_does_not_go_before_a_tab_that_waits() {
    let (busy, other) = two();
    let guard = busy.acquire(None).await.unwrap();
    assert!(
        busy.try_lock_once().await.unwrap().is_some(),
        "nobody waits"
    );
    let waits = tokio::spawn(async move { other.acquire(None).await.unwrap().token() });
    sleep(ms(100)).await;
    let since = Instant::now();
    assert!(busy.try_lock_once().await.unwrap().is_none());
    assert_eq!(since.elapsed(), Duration::ZERO, "it never waits");
    guard.release().await;
    waits.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn callers_that_waited_when_the_lease_began_share_it_at_once() {
    // Without messages: the answer that begins the lease says who waits next.
    let world = World::new();
    let [holder, busy, next] = ["holder", "busy", "next"].map(|name| world.process(name).0);
    let held = holder.acquire(None).await.unwrap();
    let callers: Vec<_> = (0..5)
        .map(|_| {
            let busy = busy.clone();
            tokio::spawn(async move { (busy.acquire(None).await.unwrap(), Instant::now()) })
        })
        .collect();
    sleep(ms(20)).await;
    let next = tokio::spawn(async move { next.acquire(None).await.unwrap().token() });
    sleep(ms(200)).await;
    held.release().await;
    let released = Instant::now();
    let mut guards = Vec::new();
    for caller in callers {
        guards.push(timeout(ms(1_000), caller).await.unwrap().unwrap());
    }
    let since = guards[0].1;
    assert!(guards.iter().all(|(_, at)| *at == since), "all at once");
    assert!(since - released < ms(100), "{:?}", since - released);
    let tokens: Vec<_> = guards.iter().map(|(guard, _)| guard.token()).collect();
    assert!(tokens.iter().all(|token| *token == tokens[0]), "{tokens:?}");
    drop(guards);
    assert!(next.await.unwrap() > tokens[0]);
}

#[tokio::test(start_paused = true)]
async fn a_call_is_held_back_no_longer_once_the_other_has_given_up() {
    let (busy, other) = two();
    let _outer = busy.acquire(None).await.unwrap();
    let waits = tokio::spawn(async move {
        other
            .acquire(Some(ms(150)))
            .await
            .map(|guard| guard.token())
    });
    sleep(ms(100)).await;
    let since = Instant::now();
    let _inner = busy.acquire(None).await.unwrap();
    assert!(waits.await.unwrap().is_err());
    assert!(since.elapsed() < ms(100), "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_held_back_ends_at_its_deadline() {
    let (busy, other) = two();
    let _outer = busy.acquire(None).await.unwrap();
    let _waits = tokio::spawn(async move { other.acquire(None).await.map(|guard| guard.token()) });
    sleep(ms(100)).await;
    let since = Instant::now();
    assert!(busy.acquire(Some(ms(80))).await.is_err());
    assert_eq!(since.elapsed(), ms(80));
}
