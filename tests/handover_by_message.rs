//! One hop: a release that is a message, what becomes of it when it is late, lost or answered by nobody,
//! and the lock that lingers.
#![cfg(not(target_arch = "wasm32"))]

mod support;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use support::{Conduct, Link, Lock, World, ms, told, until};
use tab_lease::platform::BoxFuture;
use tab_lease::rules::Command;
use tab_lease::{Beacon, CrossProcessStoreLockGuard, IDLE_LEASE_MS, Liveness, Wake};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

/// The wire between processes: everything that one of them says reaches all others, unless it is to get
/// lost.
#[derive(Clone, Default)]
struct Air(Arc<Mutex<AirState>>);

#[derive(Default)]
struct AirState {
    wakes: Vec<Wake>,
    /// How many more messages get lost.
    lose: usize,
    said: usize,
}

impl Air {
    /// A process's end of it.
    fn wake(&self) -> Wake {
        let (air, mine) = (self.clone(), self.0.lock().unwrap().wakes.len());
        let wake = Wake::over(move |message| {
            let others: Vec<Wake> = {
                let mut state = air.0.lock().unwrap();
                state.said += 1;
                if state.lose > 0 {
                    state.lose -= 1;
                    return;
                }
                let others = state.wakes.iter().enumerate().filter(|(n, _)| *n != mine);
                others.map(|(_, wake)| wake.clone()).collect()
            };
            for wake in others {
                let message = message.to_vec();
                tokio::spawn(async move { wake.receive(&message) });
            }
        });
        self.0.lock().unwrap().wakes.push(wake.clone());
        wake
    }

    fn lose(&self, messages: usize) {
        self.0.lock().unwrap().lose = messages;
    }
}

/// Whose beacons are out.
#[derive(Clone, Default)]
struct Lamps(Arc<(Mutex<HashSet<String>>, Notify)>);

impl Lamps {
    fn out(&self, holder: &str) {
        self.0.0.lock().unwrap().insert(holder.to_owned());
        self.0.1.notify_waiters();
    }
}

impl Beacon for Lamps {
    fn is_lit(&self) -> bool {
        true
    }

    fn ended(&self, tab: &str) -> BoxFuture<()> {
        let (lamps, holder) = (self.clone(), tab.split('#').next().unwrap().to_owned());
        Box::pin(async move {
            loop {
                let changed = lamps.0.1.notified();
                if lamps.0.0.lock().unwrap().contains(&holder) {
                    return;
                }
                changed.await;
            }
        })
    }
}

struct Stage {
    world: World,
    air: Air,
    lamps: Lamps,
}

impl Stage {
    fn new() -> Self {
        Self {
            world: World::new(),
            air: Air::default(),
            lamps: Lamps::default(),
        }
    }

    fn process(&self, holder: &str) -> (Lock, Link) {
        let (lock, link) = self.world.process(holder);
        (lock.woken_by(&self.air.wake()), link)
    }

    fn with_beacon(&self, holder: &str) -> (Lock, Link) {
        let (lock, link) = self.process(holder);
        (lock.watching(&Liveness::by(self.lamps.clone())), link)
    }

    /// Waits until so many are in the queue.
    async fn queued(&self, count: usize) {
        until("they are in the queue", || {
            self.world.record().queue.len() == count
        })
        .await;
        // … and have said so.
        sleep(ms(1)).await;
    }
}

fn acquiring(lock: &Lock) -> tokio::task::JoinHandle<CrossProcessStoreLockGuard> {
    let lock = lock.clone();
    tokio::spawn(async move { lock.acquire(None).await.unwrap() })
}

// ---- One hop --------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn the_receiver_starts_before_any_store_was_told() {
    let stage = Stage::new();
    let (one, link) = stage.process("one");
    let (two, theirs) = stage.process("two");
    let guard = one.acquire(None).await.unwrap();
    let token = guard.token();
    let waiting = acquiring(&two);
    stage.queued(1).await;
    // From here on the stores take their time.
    for link in [&link, &theirs] {
        link.everything_is(Conduct::Slow {
            before: ms(30),
            after: ms(30),
        });
    }
    let before = link.now();
    guard.release().await;
    let guard = waiting.await.unwrap();
    assert_eq!(link.now(), before, "one message, no store");
    assert_eq!(guard.token(), token + 1);
    assert!(guard.dirty() && guard.is_held());
    assert_eq!(stage.world.record().token, token, "which knows nothing yet");
    until("it is claimed", || stage.world.record().token == token + 1).await;
    sleep(ms(1000)).await;
    assert!(guard.is_held(), "and renewed");
    assert!(link.quits().is_empty(), "nobody else writes about it");
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_does_not_land_in_time_is_a_lost_lease() {
    let stage = Stage::new();
    let (one, _) = stage.process("one");
    let (two, link) = stage.process("two");
    let guard = one.acquire(None).await.unwrap();
    let waiting = acquiring(&two);
    stage.queued(1).await;
    link.everything_is(Conduct::Stall);
    guard.release().await;
    let guard = waiting.await.unwrap();
    let before = link.now();
    told(&guard).await;
    assert!(!guard.is_held());
    assert!(
        link.now() - before <= ms(500),
        "within what was left of the lease"
    );
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_tried_again() {
    let stage = Stage::new();
    let (one, _) = stage.process("one");
    let (two, link) = stage.process("two");
    let guard = one.acquire(None).await.unwrap();
    let waiting = acquiring(&two);
    stage.queued(1).await;
    let mut failures = 2;
    link.script(move |_| {
        failures -= i32::from(failures > 0);
        if failures > 0 {
            Conduct::Fail
        } else {
            Conduct::Prompt
        }
    });
    guard.release().await;
    let guard = waiting.await.unwrap();
    until("it is claimed", || {
        stage.world.record().token == guard.token()
    })
    .await;
    assert!(guard.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_lost_message_is_mended_by_the_store() {
    let stage = Stage::new();
    let (one, link) = stage.process("one");
    let (two, _) = stage.process("two");
    let guard = one.acquire(None).await.unwrap();
    let token = guard.token();
    let waiting = acquiring(&two);
    stage.queued(1).await;
    sleep(ms(100)).await;
    stage.air.lose(1);
    let before = link.now();
    guard.release().await;
    let guard = waiting.await.unwrap();
    assert!(guard.is_held());
    assert!(link.now() - before <= ms(25), "{:?}", link.now() - before);
    assert_eq!(guard.token(), token + 1);
}

#[tokio::test(start_paused = true)]
async fn without_any_message_polling_gets_there() {
    let stage = Stage::new();
    let (one, link) = stage.process("one");
    let (two, _) = stage.process("two");
    let guard = one.acquire(None).await.unwrap();
    stage.air.lose(usize::MAX);
    let waiting = acquiring(&two);
    stage.queued(1).await;
    sleep(ms(100)).await;
    let before = link.now();
    guard.release().await;
    assert!(waiting.await.unwrap().is_held());
    // The renewals tell the holder that somebody waits; it hands over, then tells the store.
    assert!(link.now() - before <= ms(60), "{:?}", link.now() - before);
}

#[tokio::test(start_paused = true)]
async fn a_message_in_the_middle_of_a_look_is_not_missed() {
    // Whatever the waiter's take is doing when the message comes.
    for way in [(5, 0), (0, 5), (5, 5)] {
        for wait in 0..=12 {
            let stage = Stage::new();
            let (one, _) = stage.process("one");
            let (two, link) = stage.process("two");
            let guard = one.acquire(None).await.unwrap();
            let waiting = acquiring(&two);
            stage.queued(1).await;
            link.everything_is(Conduct::Slow {
                before: ms(way.0),
                after: ms(way.1),
            });
            // Its second look begins 10 ms after the first.
            sleep(ms(8 + wait)).await;
            let before = link.now();
            guard.release().await;
            let guard = waiting.await.unwrap();
            assert!(link.now() - before <= ms(12), "{way:?}, {wait}");
            sleep(ms(600)).await;
            assert!(guard.is_held(), "{way:?}, {wait}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_has_gone_costs_no_lease() {
    let stage = Stage::new();
    let (one, link) = stage.process("one");
    let (two, theirs) = stage.process("two");
    let (three, _) = stage.process("three");
    let guard = one.acquire(None).await.unwrap();
    let given_up = acquiring(&two);
    stage.queued(1).await;
    let waiting = acquiring(&three);
    stage.queued(2).await;
    // Its quit is on its way while the lock is handed to it.
    theirs.everything_is(Conduct::InTransit(ms(40)));
    given_up.abort();
    let before = link.now();
    guard.release().await;
    let guard = waiting.await.unwrap();
    assert!(guard.is_held());
    assert!(link.now() - before <= ms(60), "{:?}", link.now() - before);
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_not_lost_on_a_waiter_that_gave_up_before() {
    let stage = Stage::new();
    let (one, link) = stage.process("one");
    let (two, _) = stage.process("two");
    let (three, _) = stage.process("three");
    let guard = one.acquire(None).await.unwrap();
    let given_up = acquiring(&two);
    stage.queued(1).await;
    given_up.abort();
    stage.queued(0).await;
    let before = link.now();
    guard.release().await;
    assert!(three.try_lock_once().await.unwrap().is_some());
    assert_eq!(link.now(), before);
}

#[tokio::test(start_paused = true)]
async fn a_delegator_crash_after_the_message_changes_nothing() {
    let stage = Stage::new();
    let (one, link) = stage.process("one");
    let (two, _) = stage.process("two");
    let guard = one.acquire(None).await.unwrap();
    let waiting = acquiring(&two);
    stage.queued(1).await;
    link.everything_is(Conduct::Stall);
    guard.release().await;
    let guard = waiting.await.unwrap();
    sleep(ms(2000)).await;
    assert!(guard.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_holder_with_its_own_take_under_way_asks_the_store() {
    let stage = Stage::new();
    let (one, _) = stage.process("one");
    let (two, theirs) = stage.process("two");
    let (three, _) = stage.process("three");
    let guard = one.acquire(None).await.unwrap();
    let token = guard.token();
    let waiting = acquiring(&two);
    stage.queued(1).await;
    let last = acquiring(&three);
    stage.queued(2).await;
    theirs.everything_is(Conduct::Slow {
        before: ms(20),
        after: ms(20),
    });
    sleep(ms(25)).await;
    guard.release().await;
    let second = waiting.await.unwrap();
    second.release().await;
    let third = last.await.unwrap();
    assert!(third.token() > token + 1);
    sleep(ms(1000)).await;
    assert!(third.is_held(), "no ghost of an earlier take in the queue");
    assert!(stage.world.record().queue.is_empty());
}

// ---- Linger ---------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_lock_that_nobody_waits_for_lingers_until_the_next_beat() {
    let stage = Stage::new();
    let (one, link) = stage.process("one");
    let guard = one.acquire(None).await.unwrap();
    let token = guard.token();
    let before = link.now();
    guard.release().await;
    assert_eq!(link.now(), before, "nothing was waited for");
    for _ in 0..20 {
        let guard = one.acquire(None).await.unwrap();
        assert_eq!(guard.token(), token);
        guard.release().await;
    }
    assert_eq!(link.calls().len(), 1, "one take, and nothing since");
    until("it is free", || !stage.world.is_held()).await;
    assert!(link.now() - before <= ms(51));
}

#[tokio::test(start_paused = true)]
async fn a_lingering_lock_that_is_taken_again_is_not_dirty() {
    let stage = Stage::new();
    let (one, _) = stage.process("one");
    let (two, _) = stage.process("two");
    one.acquire(None).await.unwrap().release().await;
    let first = two.acquire(None).await.unwrap();
    let shared = two.acquire(None).await.unwrap();
    assert!(first.dirty() && shared.dirty());
    first.release().await;
    shared.release().await;
    assert!(!two.acquire(None).await.unwrap().dirty());
}

#[tokio::test(start_paused = true)]
async fn what_a_caller_that_went_away_was_not_told_the_next_one_is() {
    // Whatever its acquisition is doing when it goes away.
    for patience in 0..=8 {
        let stage = Stage::new();
        let (one, _) = stage.world.process("one");
        let (two, link) = stage.process("two");
        one.acquire(None).await.unwrap().release().await;
        link.everything_is(Conduct::Slow {
            before: ms(3),
            after: ms(3),
        });
        let gone = timeout(ms(patience), two.acquire(None)).await;
        link.everything_is(Conduct::Prompt);
        let was_told = gone.is_ok();
        drop(gone);
        let guard = two.acquire(None).await.unwrap();
        assert_eq!(guard.dirty(), !was_told, "{patience}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_waiter_ends_the_linger_at_once() {
    let stage = Stage::new();
    let (one, link) = stage.process("one");
    let (two, _) = stage.process("two");
    let guard = one.acquire(None).await.unwrap();
    guard.release().await;
    let before = link.now();
    assert!(two.acquire(None).await.unwrap().is_held());
    assert_eq!(link.now(), before);
}

#[tokio::test(start_paused = true)]
async fn whoever_only_tries_gets_a_lingering_lock_too() {
    let stage = Stage::new();
    let (one, link) = stage.process("one");
    let (two, _) = stage.process("two");
    one.acquire(None).await.unwrap().release().await;
    let before = link.now();
    assert!(two.try_lock_once().await.unwrap().is_some());
    assert_eq!(link.now(), before);
}

#[tokio::test(start_paused = true)]
async fn whoever_only_tries_is_told_at_once_that_it_is_held() {
    let stage = Stage::new();
    let (one, link) = stage.process("one");
    let (two, _) = stage.process("two");
    let _held = one.acquire(None).await.unwrap();
    let before = link.now();
    assert!(two.try_lock_once().await.unwrap().is_none());
    assert_eq!(link.now(), before);
    // If nobody answers, it does not wait for longer than a lock may linger.
    stage.air.lose(usize::MAX);
    assert!(two.try_lock_once().await.unwrap().is_none());
    assert!(link.now() - before <= ms(50));
}

#[tokio::test(start_paused = true)]
async fn a_lingering_lease_that_was_lost_is_shared_with_nobody() {
    let stage = Stage::new();
    let (one, _) = stage.process("one");
    let guard = one.acquire(None).await.unwrap();
    let token = guard.token();
    guard.release().await;
    // A pause of the process, longer than the lease.
    tokio::time::advance(ms(600)).await;
    let guard = one.acquire(None).await.unwrap();
    assert!(guard.token() > token);
}

#[tokio::test(start_paused = true)]
async fn a_lock_object_that_is_gone_does_not_linger() {
    let stage = Stage::new();
    let (one, link) = stage.process("one");
    let guard = one.acquire(None).await.unwrap();
    drop(one);
    let before = link.now();
    guard.release().await;
    assert!(!stage.world.is_held());
    assert_eq!(link.now(), before);
}

#[tokio::test(start_paused = true)]
async fn without_messages_no_lock_lingers() {
    let world = World::new();
    let (one, _) = world.process("one");
    one.acquire(None).await.unwrap().release().await;
    assert!(!world.is_held());
}

// ---- Beacons --------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn the_lock_of_a_holder_that_died_is_taken_over_when_its_beacon_goes_out() {
    let stage = Stage::new();
    let (dead, link) = stage.with_beacon("dead");
    let (heir, _) = stage.with_beacon("heir");
    let guard = dead.acquire(None).await.unwrap();
    let waiting = acquiring(&heir);
    stage.queued(1).await;
    sleep(ms(700)).await;
    link.everything_is(Conduct::Stall);
    stage.lamps.out("dead");
    let before = link.now();
    let theirs = waiting.await.unwrap();
    assert_eq!(link.now(), before);
    assert!(theirs.token() > guard.token() && theirs.dirty());
}

#[tokio::test(start_paused = true)]
async fn a_dead_waiter_at_the_head_does_not_keep_the_lock_from_the_next() {
    let stage = Stage::new();
    let (one, _) = stage.with_beacon("one");
    let (dead, link) = stage.with_beacon("dead");
    let (heir, _) = stage.with_beacon("heir");
    let guard = one.acquire(None).await.unwrap();
    let gone = acquiring(&dead);
    stage.queued(1).await;
    let waiting = acquiring(&heir);
    stage.queued(2).await;
    link.everything_is(Conduct::Stall);
    gone.abort();
    stage.lamps.out("dead");
    guard.release().await;
    let before = link.now();
    let theirs = timeout(ms(300), waiting).await.expect("its beacon is out");
    assert!(theirs.unwrap().is_held());
    assert!(link.now() - before <= ms(150), "{:?}", link.now() - before);
}

#[tokio::test(start_paused = true)]
async fn a_dead_holder_that_had_handed_on_is_not_taken_over() {
    let stage = Stage::new();
    let (dead, link) = stage.with_beacon("dead");
    let (next, theirs) = stage.with_beacon("next");
    let (third, _) = stage.with_beacon("third");
    let guard = dead.acquire(None).await.unwrap();
    let waiting = acquiring(&next);
    stage.queued(1).await;
    let last = acquiring(&third);
    stage.queued(2).await;
    sleep(ms(100)).await;
    // Its claim takes a while, and the delegator dies before it lands.
    theirs.everything_is(Conduct::Slow {
        before: ms(200),
        after: ms(0),
    });
    link.everything_is(Conduct::Stall);
    guard.release().await;
    let guard = waiting.await.unwrap();
    stage.lamps.out("dead");
    sleep(ms(150)).await;
    assert!(guard.is_held() && !last.is_finished());
    sleep(ms(1000)).await;
    assert!(guard.is_held() && !last.is_finished());
    last.abort();
}

#[tokio::test(start_paused = true)]
async fn a_try_finds_out_at_once_that_the_holder_died() {
    let stage = Stage::new();
    let (dead, link) = stage.with_beacon("dead");
    let (heir, _) = stage.with_beacon("heir");
    let _guard = dead.acquire(None).await.unwrap();
    link.everything_is(Conduct::Stall);
    stage.lamps.out("dead");
    stage.air.lose(usize::MAX);
    let before = link.now();
    assert!(heir.try_lock_once().await.unwrap().is_some());
    assert_eq!(link.now(), before);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_nobody_waits_for_is_renewed_less_often() {
    let stage = Stage::new();
    let (one, link) = stage.with_beacon("one");
    let (two, _) = stage.with_beacon("two");
    let guard = one.acquire(None).await.unwrap();
    sleep(ms(60_000)).await;
    assert!(guard.is_held());
    let renewals = link.renewals().len();
    assert!((12..=20).contains(&renewals), "{renewals} in a minute");
    // The first waiter brings the usual lease back at once.
    let waiting = acquiring(&two);
    stage.queued(1).await;
    assert_eq!(stage.world.record().len, 500);
    sleep(ms(1000)).await;
    assert!(link.renewals().len() >= renewals + 19);
    // So a holder that hangs now costs no more than that.
    let before = link.now();
    link.everything_is(Conduct::Stall);
    assert!(waiting.await.unwrap().is_held());
    assert!(link.now() - before <= ms(750), "{:?}", link.now() - before);
}

#[tokio::test(start_paused = true)]
async fn without_a_beacon_the_beat_stays_as_it_is() {
    let stage = Stage::new();
    let (one, link) = stage.process("one");
    let _guard = one.acquire(None).await.unwrap();
    sleep(ms(1000)).await;
    assert!(link.renewals().len() >= 19);
    assert_eq!(stage.world.record().len, 500);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_nobody_heard_of_is_found_by_the_next_idle_beat() {
    let stage = Stage::new();
    let (one, _) = stage.with_beacon("one");
    let (two, _) = stage.with_beacon("two");
    let guard = one.acquire(None).await.unwrap();
    sleep(ms(5000)).await;
    stage.air.lose(usize::MAX);
    let _waiting = acquiring(&two);
    until("it waits", || stage.world.record().queue.len() == 1).await;
    // A third of an idle lease.
    sleep(ms(u64::from(IDLE_LEASE_MS) / 3 + 1)).await;
    assert_eq!(stage.world.record().len, 500);
    assert!(guard.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_try_while_the_release_is_being_written_gets_the_lock() {
    let stage = Stage::new();
    let (one, link) = stage.process("one");
    let (two, _) = stage.process("two");
    one.acquire(None).await.unwrap().release().await;
    link.script(|command| match command {
        Command::Quit { .. } => Conduct::Slow {
            before: ms(20),
            after: ms(0),
        },
        _ => Conduct::Prompt,
    });
    until("the linger is over", || link.quits().len() == 1).await;
    sleep(ms(5)).await;
    assert!(two.try_lock_once().await.unwrap().is_some());
}
