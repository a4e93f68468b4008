//! The driver: its contract (every action is performed, in order, before the next event is handled, and never
//! under the mutex), and what it does for many names at once.
#![cfg(not(target_arch = "wasm32"))]

mod support;

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake as Awake, Waker};

use async_trait::async_trait;
use support::{Conduct, World, is_ready, ms, told, until};
use tab_lease::message::Message;
use tab_lease::platform::BoxFuture;
use tab_lease::rules::{Command, Outcome, Requester};
use tab_lease::{
    BackingStore, Beacon, CrossProcessStoreLock, CrossProcessStoreLockGuard, Lifecycle, Liveness,
    LockError, LossReason, MemoryStore, PLACES, Wake,
};
use tokio::time::{Instant, sleep, timeout};

/// A store that takes several commands in one step, and remembers how many.
#[derive(Clone, Default)]
struct Steps(Arc<Inner>);

#[derive(Default)]
struct Inner {
    memory: MemoryStore,
    steps: Mutex<Vec<Vec<Command>>>,
    looks: AtomicUsize,
    turns: AtomicUsize,
}

impl Steps {
    fn since(&self, before: usize) -> Vec<Vec<Command>> {
        self.0.steps.lock().unwrap()[before..].to_vec()
    }

    fn looks(&self) -> usize {
        self.0.looks.load(Ordering::SeqCst)
    }

    fn count(&self) -> usize {
        self.0.steps.lock().unwrap().len()
    }
}

#[async_trait]
impl BackingStore for Steps {
    type Error = Infallible;

    async fn apply(&self, key: &str, command: Command) -> Result<Outcome, Infallible> {
        let batch = vec![(key.to_owned(), command)];
        self.apply_all(batch).await.remove(0)
    }

    async fn apply_all(&self, batch: Vec<(String, Command)>) -> Vec<Result<Outcome, Infallible>> {
        let commands = batch.iter().map(|(_, command)| command.clone());
        self.0.steps.lock().unwrap().push(commands.collect());
        let mut answers = Vec::new();
        for (key, command) in batch {
            answers.push(self.0.memory.apply(&key, command).await);
        }
        answers
    }

    async fn look_all(
        &self,
        batch: Vec<(String, Command)>,
    ) -> Vec<Result<Option<Outcome>, Infallible>> {
        self.0.turns.fetch_add(1, Ordering::SeqCst);
        self.0.looks.fetch_add(batch.len(), Ordering::SeqCst);
        self.0.memory.look_all(batch).await
    }

    fn leave(&self, key: &str, who: &Requester) {
        self.0.memory.leave(key, who);
    }

    fn batches(&self) -> bool {
        true
    }
}

/// Locks of so many names, over one driver.
fn names(store: &Steps, holder: &str, count: usize) -> Vec<CrossProcessStoreLock<Steps>> {
    let first = CrossProcessStoreLock::new(store.clone(), "name 0", holder);
    let others = (1..count).map(|n| first.sibling(format!("name {n}")));
    let others: Vec<_> = others.collect();
    std::iter::once(first).chain(others).collect()
}

async fn hold_all(locks: &[CrossProcessStoreLock<Steps>]) -> Vec<CrossProcessStoreLockGuard> {
    let mut guards = Vec::new();
    for lock in locks {
        guards.push(lock.acquire(None).await.unwrap());
    }
    guards
}

// ---- Many names -------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn two_hundred_leases_are_renewed_in_one_step_a_beat() {
    let store = Steps::default();
    let locks = names(&store, "many", 200);
    let mut guards = Vec::new();
    for lock in &locks {
        guards.push(lock.acquire(None).await.unwrap());
        // They begin at all times.
        sleep(ms(1)).await;
    }
    sleep(ms(500)).await;
    let before = store.count();
    sleep(ms(1000)).await;
    let steps = store.since(before);
    assert!(steps.len() <= 21, "{} steps in 20 beats", steps.len());
    assert!(steps.iter().all(|step| step.len() == 200), "all together");
    assert!(guards.iter().all(CrossProcessStoreLockGuard::is_held));
}

#[tokio::test(start_paused = true)]
async fn calls_of_one_turn_reach_the_store_in_one_step() {
    let store = Steps::default();
    let life = Lifecycle::new();
    let first = CrossProcessStoreLock::new(store.clone(), "name 0", "many").living(&life);
    let locks: Vec<_> = (1..50)
        .map(|n| first.sibling(format!("name {n}")))
        .collect();
    life.suspend();
    let calls: Vec<_> = locks
        .iter()
        .map(|lock| {
            let lock = lock.clone();
            tokio::spawn(async move { lock.acquire(None).await.unwrap() })
        })
        .collect();
    sleep(ms(10)).await;
    assert_eq!(store.count(), 0);
    life.resume();
    let mut guards = Vec::new();
    for call in calls {
        guards.push(call.await.unwrap());
    }
    let takes = store.since(0);
    assert!(takes.len() <= 2, "{} steps", takes.len());
    assert_eq!(takes.iter().map(Vec::len).sum::<usize>(), 49);
}

#[tokio::test(start_paused = true)]
async fn names_of_one_driver_are_locks_of_their_own() {
    let store = Steps::default();
    let (here, there) = (names(&store, "here", 3), names(&store, "there", 3));
    let guards = hold_all(&here).await;
    for lock in &there {
        assert!(lock.try_lock_once().await.unwrap().is_none());
    }
    let mut guards = guards.into_iter();
    guards.next().unwrap().release().await;
    assert!(there[0].try_lock_once().await.unwrap().is_some());
    assert!(there[1].try_lock_once().await.unwrap().is_none());
    assert!(guards.all(|guard| guard.is_held()));
}

#[tokio::test(start_paused = true)]
async fn locks_that_are_idle_cost_nothing() {
    let store = Steps::default();
    let locks = names(&store, "many", 20);
    for guard in hold_all(&locks).await {
        guard.release().await;
    }
    let before = store.count();
    sleep(ms(60_000)).await;
    assert_eq!(store.count(), before);
}

// ---- Many calls -------------------------------------------------------------------------------

fn queue_of(store: &Steps, tab: &str) -> usize {
    let record = store.0.memory.record("name 0");
    let queue = record.map(|record| record.queue).unwrap_or_default();
    queue.iter().filter(|w| w.who.tab.starts_with(tab)).count()
}

/// A call of its own of each, which holds for a moment, and says in which order they held.
fn sections(
    lock: &CrossProcessStoreLock<Steps>,
    calls: usize,
    order: &Arc<Mutex<Vec<usize>>>,
) -> Vec<tokio::task::JoinHandle<()>> {
    let section = |n: usize| {
        let (lock, order) = (lock.apart(), Arc::clone(order));
        async move {
            let guard = lock.acquire(None).await.unwrap();
            order.lock().unwrap().push(n);
            assert!(guard.is_held());
            sleep(ms(1)).await;
            assert!(guard.is_held());
            assert_eq!(order.lock().unwrap().last(), Some(&n), "one at a time");
            drop(guard);
        }
    };
    (0..calls).map(|n| tokio::spawn(section(n))).collect()
}

#[tokio::test(start_paused = true)]
async fn a_thousand_calls_of_one_tab_take_eight_places_and_go_in_their_order() {
    let store = Steps::default();
    let wake = Wake::local();
    let here = names(&store, "here", 1).remove(0).woken_by(&wake);
    let there = names(&store, "there", 1).remove(0).woken_by(&wake);
    let (order, other) = <(Arc<Mutex<Vec<usize>>>, Arc<Mutex<Vec<usize>>>)>::default();
    let started = Instant::now();
    let calls = sections(&here, 1000, &order);
    sleep(ms(20)).await;
    let waits = tokio::spawn({
        let order = Arc::clone(&order);
        async move {
            let guard = there.acquire(None).await.unwrap();
            other.lock().unwrap().push(order.lock().unwrap().len());
            drop(guard);
            other
        }
    });
    let mut most = 0;
    while order.lock().unwrap().len() < 1000 {
        most = most.max(queue_of(&store, "here"));
        sleep(ms(1)).await;
    }
    for call in calls {
        call.await.unwrap();
    }
    assert!(started.elapsed() < ms(10_000), "{:?}", started.elapsed());
    assert_eq!(most, PLACES, "and no more");
    assert!(order.lock().unwrap().is_sorted());
    let had = waits.await.unwrap().lock().unwrap()[0];
    assert!(had < 100, "the other tab had it after {had} of 1000");
    let commands = store.since(0).iter().map(Vec::len).sum::<usize>();
    assert!(commands < 6000, "{commands} commands");
}

#[tokio::test(start_paused = true)]
async fn of_a_long_queue_of_short_calls_none_begins_a_lease_that_is_about_to_end() {
    for section in (15..60).step_by(3) {
        let (world, wake) = (World::new(), Wake::local());
        let mut calls = Vec::new();
        for holder in ["here", "there"] {
            let (lock, link) = world.process(holder);
            let lock = lock.woken_by(&wake);
            let (before, after) = (ms(10), ms(10));
            link.everything_is(Conduct::Slow { before, after });
            for _ in 0..15 {
                let lock = lock.apart();
                calls.push(tokio::spawn(async move {
                    let guard = lock.acquire(None).await.unwrap();
                    sleep(ms(section)).await;
                    guard.is_held()
                }));
            }
        }
        for call in calls {
            assert!(call.await.unwrap(), "{section} ms: a lease was lost");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_in_the_tab_ends_at_its_deadline_and_leaves_no_trace() {
    let store = Steps::default();
    let wake = Wake::local();
    let lock = names(&store, "here", 1).remove(0).woken_by(&wake);
    let guard = lock.acquire(None).await.unwrap();
    let order = Arc::default();
    let calls = sections(&lock, PLACES, &order);
    sleep(ms(10)).await;
    assert_eq!(queue_of(&store, "here"), PLACES);
    let before = store.since(0).concat().len();
    let waits = lock.apart().acquire(Some(ms(100))).await;
    assert!(matches!(waits, Err(LockError::Timeout)));
    // One that goes before its deadline does so, too.
    let waits = timeout(ms(50), lock.apart().acquire(Some(ms(100)))).await;
    assert!(waits.is_err());
    let sent = store.since(0).concat().split_off(before);
    let takes = sent.iter().filter_map(|command| match command {
        Command::Take(take) => Some(take.who.request),
        _ => None,
    });
    let requests: std::collections::HashSet<_> = takes.collect();
    assert!(requests.len() <= PLACES, "none of its own");
    drop(guard);
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!(order.lock().unwrap().len(), PLACES);
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_in_a_tab_that_is_frozen_go_on_in_their_order() {
    let store = Steps::default();
    let (wake, life) = (Wake::local(), Lifecycle::new());
    let other = names(&store, "other", 1).remove(0).woken_by(&wake);
    let lock = names(&store, "here", 1).remove(0).woken_by(&wake);
    let lock = lock.living(&life);
    let guard = other.acquire(None).await.unwrap();
    let order = Arc::default();
    let calls = sections(&lock, 3 * PLACES, &order);
    sleep(ms(20)).await;
    assert_eq!(queue_of(&store, "here"), PLACES);
    life.suspend();
    let before = store.count();
    assert_eq!(queue_of(&store, "here"), 0, "it has left");
    drop(guard);
    sleep(ms(1000)).await;
    let since = store.since(before).concat();
    let asks = |command: &Command| matches!(command, Command::Take(_) | Command::Claim { .. });
    assert!(!since.iter().any(asks), "it sends nothing: {since:?}");
    life.resume();
    for call in calls {
        call.await.unwrap();
    }
    assert!(order.lock().unwrap().is_sorted());
}

#[tokio::test(start_paused = true)]
async fn a_try_waits_for_no_place() {
    let store = Steps::default();
    let wake = Wake::local();
    let lock = names(&store, "here", 1).remove(0).woken_by(&wake);
    let guard = lock.acquire(None).await.unwrap();
    let calls = sections(&lock, 2 * PLACES, &Arc::default());
    sleep(ms(20)).await;
    let tried = timeout(ms(200), lock.apart().try_lock_once()).await;
    assert!(tried.expect("it is answered").unwrap().is_none());
    drop(guard);
    for call in calls {
        call.await.unwrap();
    }
}

/// A store that is closed when a test says so, and gives a way to hold its answers back.
#[derive(Clone)]
struct Closable(
    Arc<(
        MemoryStore,
        tokio::sync::watch::Sender<u32>,
        Mutex<Vec<Requester>>,
    )>,
);

#[async_trait]
impl BackingStore for Closable {
    type Error = Infallible;

    async fn apply(&self, key: &str, command: Command) -> Result<Outcome, Infallible> {
        if let Command::Take(take) = &command {
            self.0.2.lock().unwrap().push(take.who.clone());
            sleep(ms(100)).await;
        }
        self.0.0.apply(key, command).await
    }

    fn closing(&self) -> BoxFuture<()> {
        let mut closings = self.0.1.subscribe();
        Box::pin(async move { drop(closings.changed().await) })
    }
}

#[tokio::test(start_paused = true)]
async fn a_tab_that_only_asks_is_told_that_the_store_was_closed() {
    let closings = tokio::sync::watch::channel(0).0;
    let store = Closable(Arc::new((MemoryStore::new(), closings, Mutex::default())));
    let lock = CrossProcessStoreLock::new(store.clone(), "closed", "one");
    let call = tokio::spawn(async move { lock.acquire(None).await.unwrap() });
    sleep(ms(50)).await;
    store.0.1.send(1).unwrap();
    let guard = call.await.unwrap();
    let asked = store.0.2.lock().unwrap().clone();
    assert_eq!(asked.len(), 2, "by another request: {asked:?}");
    assert_ne!(asked[0], asked[1]);
    assert_eq!(
        store.0.0.record("closed").unwrap().holder.as_ref(),
        Some(&asked[1])
    );
    drop(guard);
    sleep(ms(1000)).await;
    assert_eq!(
        store.0.1.receiver_count(),
        0,
        "who holds and asks nothing does not watch"
    );
}

// ---- Looks ------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn looks_of_many_names_go_together() {
    let store = Steps::default();
    let wake = Wake::local();
    let (here, there) = (names(&store, "here", 1), names(&store, "there", 1));
    let [here, there] = [here, there].map(|mut first| first.remove(0).woken_by(&wake));
    let lock = |first: &CrossProcessStoreLock<Steps>, n: usize| first.sibling(format!("name {n}"));
    let mut guards = Vec::new();
    for n in 1..=100 {
        guards.push(lock(&here, n).acquire(None).await.unwrap());
    }
    for n in 1..=100 {
        let lock = lock(&there, n);
        tokio::spawn(async move { drop(lock.acquire(None).await) });
        // They begin at all times.
        sleep(ms(1)).await;
    }
    sleep(ms(1000)).await;
    let before = store.0.turns.load(Ordering::SeqCst);
    sleep(ms(1000)).await;
    let turns = store.0.turns.load(Ordering::SeqCst) - before;
    assert!(
        (30..=50).contains(&turns),
        "{turns} turns for 40 looks of each"
    );
    assert!(guards.iter().all(CrossProcessStoreLockGuard::is_held));
}

#[tokio::test(start_paused = true)]
async fn waiters_write_nothing_while_nothing_happens() {
    let store = Steps::default();
    let wake = Wake::local();
    let holder = names(&store, "holder", 1).remove(0).woken_by(&wake);
    let guard = holder.acquire(None).await.unwrap();
    let waiters: Vec<_> = (0..7)
        .map(|n| {
            let lock = names(&store, &format!("waiter {n}"), 1).remove(0);
            let lock = lock.woken_by(&wake);
            tokio::spawn(async move { drop(lock.acquire(None).await.unwrap()) })
        })
        .collect();
    sleep(ms(2000)).await;
    let (before, looks) = (store.count(), store.looks());
    sleep(ms(10_000)).await;
    let steps = store.since(before).concat();
    assert!(
        steps.iter().all(|c| matches!(c, Command::Renew { .. })),
        "{steps:?}"
    );
    // The first 20 times in a lease, the others once.
    let looks = store.looks() - looks;
    assert!((400..=550).contains(&looks), "{looks} looks in 10 s");
    drop(guard);
    for waiter in waiters {
        waiter.await.unwrap();
    }
}

// ---- The contract -----------------------------------------------------------------------------

type Guards = Arc<Mutex<Vec<CrossProcessStoreLockGuard>>>;

/// Runs `test` in a thread of its own, since what it looks for would keep the thread for ever.
fn in_time(test: impl FnOnce() + Send + 'static) {
    let (done, over) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        test();
        let _ = done.send(());
    });
    let over = over.recv_timeout(std::time::Duration::from_secs(20));
    over.expect("nobody waits for a mutex");
}

fn block_on(future: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(future);
}

#[test]
fn whoever_carries_messages_may_drop_guards_and_call_meanwhile() {
    in_time(|| {
        block_on(async {
            let (world, held) = (World::new(), Guards::default());
            let said = Arc::new(AtomicUsize::new(0));
            let wake = Wake::over({
                let (held, said) = (Arc::clone(&held), Arc::clone(&said));
                move |_| {
                    said.fetch_add(1, Ordering::SeqCst);
                    let guards = std::mem::take(&mut *held.lock().unwrap());
                    // Each is an event of the same driver.
                    drop(guards);
                }
            });
            let lock = world.lock("one").woken_by(&wake);
            let apart = lock.apart();
            let guard = lock.acquire(None).await.unwrap();
            held.lock().unwrap().push(guard);
            // It says that it waits: by that the guard is dropped.
            let next = timeout(ms(1000), apart.acquire(None)).await;
            assert!(next.expect("it was released").unwrap().is_held());
            assert!(said.load(Ordering::SeqCst) > 0);
        });
    });
}

#[tokio::test(start_paused = true)]
async fn what_is_for_a_tab_of_this_process_is_carried_to_no_other() {
    let (world, carried) = (World::new(), Arc::<Mutex<Vec<Message>>>::default());
    let wake = Wake::over({
        let carried = Arc::clone(&carried);
        move |bytes| {
            let (_, rest) = Message::key(bytes).expect("it is about a key");
            let message = Message::decode(rest).expect("it is a message");
            carried.lock().unwrap().push(message);
        }
    });
    let one = world.lock("one").woken_by(&wake);
    let two = world.lock("two").woken_by(&wake);
    let guard = one.acquire(None).await.unwrap();
    let release = async {
        sleep(ms(100)).await;
        drop(guard);
    };
    let (next, ()) = tokio::join!(two.acquire(None), release);
    assert!(next.unwrap().is_held());
    let carried = carried.lock().unwrap();
    let to_all = |message: &Message| matches!(message, Message::Want(_) | Message::Gone(_));
    assert!(!carried.is_empty(), "its holder may be anywhere");
    assert!(carried.iter().all(to_all), "{carried:?}");
}

/// A beacon that drops guards whenever it is asked anything that is an action.
struct Meddler(Guards);

impl Beacon for Meddler {
    fn is_lit(&self) -> bool {
        true
    }

    fn ended(&self, _: &str) -> BoxFuture<()> {
        drop(std::mem::take(&mut *self.0.lock().unwrap()));
        Box::pin(std::future::pending())
    }
}

#[test]
fn whoever_watches_beacons_may_drop_guards_meanwhile() {
    in_time(|| {
        block_on(async {
            let (world, held) = (World::new(), Guards::default());
            let beacon = Liveness::by(Meddler(Arc::clone(&held)));
            let lock = world.lock("one").watching(&beacon);
            let other = world.lock("two").watching(&beacon);
            let guard = lock.acquire(None).await.unwrap();
            held.lock().unwrap().push(guard);
            let next = timeout(ms(2000), other.acquire(None)).await;
            assert!(next.expect("it was released").unwrap().is_held());
        });
    });
}

/// A waker that drops guards.
struct Rouser(Guards);

impl Awake for Rouser {
    fn wake(self: Arc<Self>) {
        drop(std::mem::take(&mut *self.0.lock().unwrap()));
    }
}

#[test]
fn whoever_is_woken_may_drop_guards_meanwhile() {
    in_time(|| {
        block_on(async {
            let (world, held) = (World::new(), Guards::default());
            let lock = world.lock("one");
            let mut call = Box::pin(lock.acquire(None));
            let waker = Waker::from(Arc::new(Rouser(Arc::clone(&held))));
            assert!(
                call.as_mut()
                    .poll(&mut Context::from_waker(&waker))
                    .is_pending()
            );
            let guard = loop {
                // The lease begins, and this is called for it.
                tokio::task::yield_now().await;
                if let Some(guard) = lock.try_lock_once().await.unwrap() {
                    break guard;
                }
            };
            held.lock().unwrap().push(guard);
            drop(call);
            // Its loss wakes as well.
            let lost = held.lock().unwrap()[0].lost();
            let mut lost = Box::pin(lost);
            assert!(
                lost.as_mut()
                    .poll(&mut Context::from_waker(&waker))
                    .is_pending()
            );
            world.tamper(|record| record.token += 2);
            until("the guard was dropped when it was lost", || {
                held.lock().unwrap().is_empty()
            })
            .await;
        });
    });
}

/// A store whose blind leave drops guards.
#[derive(Clone)]
struct Leaver(MemoryStore, Guards);

#[async_trait]
impl BackingStore for Leaver {
    type Error = Infallible;

    async fn apply(&self, key: &str, command: Command) -> Result<Outcome, Infallible> {
        self.0.apply(key, command).await
    }

    fn leave(&self, key: &str, who: &Requester) {
        drop(std::mem::take(&mut *self.1.lock().unwrap()));
        self.0.leave(key, who);
    }
}

#[test]
fn a_store_that_is_left_may_drop_guards_meanwhile() {
    in_time(|| {
        block_on(async {
            let (held, life) = (Guards::default(), Lifecycle::new());
            let store = Leaver(MemoryStore::new(), Arc::clone(&held));
            let one = CrossProcessStoreLock::new(store.clone(), "left", "one").living(&life);
            let guard = one.acquire(None).await.unwrap();
            let other = one.sibling("another").acquire(None).await.unwrap();
            held.lock().unwrap().push(other);
            life.suspend();
            assert!(!guard.is_held() && held.lock().unwrap().is_empty());
            assert!(store.0.record("left").unwrap().holder.is_none());
        });
    });
}

// ---- The page ---------------------------------------------------------------------------------

/// As of a page that hung: the timer for the end of its lease has not fired.
#[tokio::test(start_paused = true)]
async fn a_lease_that_ran_out_before_the_page_is_suspended_is_left_without_a_command() {
    let world = World::new();
    let life = Lifecycle::new();
    let (lock, link) = world.process("one");
    let lock = lock.woken_by(&Wake::local()).living(&life);
    let guard = lock.acquire(None).await.unwrap();
    let mut hangs = Box::pin(tokio::time::advance(ms(600)));
    assert!(!is_ready(hangs.as_mut()).await);
    life.suspend();
    assert!(!world.is_held());
    assert_eq!(told(&guard).await.reason, LossReason::Expired);
    sleep(ms(1000)).await;
    // Blind leaves get no answer.
    let calls = link.calls();
    let answered = calls.iter().filter(|call| call.outcome.is_some());
    assert_eq!(answered.count(), 1, "the take: {calls:?}");
}

/// The last word of one lock must not make another one ask, which is about to be suspended as well.
#[tokio::test(start_paused = true)]
async fn locks_of_a_page_that_is_suspended_hear_nothing_of_each_other() {
    for holder in [0, 1] {
        let store = Steps::default();
        let (wake, life) = (Wake::local(), Lifecycle::new());
        let lock = || names(&store, "suspended", 1).remove(0);
        let locks = [(); 2].map(|()| lock().woken_by(&wake).living(&life));
        let guard = locks[holder].acquire(None).await.unwrap();
        let waiter = locks[1 - holder].clone();
        let waiting = tokio::spawn(async move { waiter.acquire(None).await });
        sleep(ms(20)).await;
        assert_eq!(queue_of(&store, "suspended"), 1);
        let before = (store.count(), store.looks());
        life.suspend();
        sleep(ms(1000)).await;
        assert_eq!((store.count(), store.looks()), before, "nothing is sent");
        assert!(!guard.is_held());
        life.resume();
        assert!(waiting.await.unwrap().unwrap().is_held());
    }
}

// ---- Calls ------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_guard_that_its_caller_never_fetched_is_given_back() {
    let world = World::new();
    let (lock, link) = world.process("one");
    let mut call = Box::pin(lock.acquire(None));
    assert!(!is_ready(call.as_mut()).await);
    until("it is held", || world.is_held()).await;
    sleep(ms(200)).await;
    assert!(link.renewals().len() >= 3, "it is kept for its caller");
    drop(call);
    until("it is given back", || !world.is_held()).await;
}

/// As when the caller before it has found out in a fenced transaction.
#[tokio::test(start_paused = true)]
async fn a_guard_that_was_lost_before_its_caller_got_it_is_not_given_to_it() {
    let world = World::new();
    let lock = world.lock("one");
    let (mut first, mut second) = (Box::pin(lock.acquire(None)), Box::pin(lock.acquire(None)));
    assert!(!is_ready(first.as_mut()).await && !is_ready(second.as_mut()).await);
    until("it is held", || world.is_held()).await;
    let token = first.await.unwrap().token();
    world.memory.set_record(&world.key, None);
    let started = Instant::now();
    until("it is lost", || started.elapsed() > ms(100)).await;
    let next = second.await.unwrap();
    assert!(next.is_held() && next.token() > token);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_threads_share_one_driver() {
    let store = MemoryStore::new();
    let first = CrossProcessStoreLock::new(store.clone(), "threads 0", "here");
    let counters: Vec<_> = (0..4).map(|_| Arc::new(AtomicUsize::new(0))).collect();
    let tasks: Vec<_> = (0..32)
        .map(|n| {
            let name = format!("threads {}", n % 4);
            let (lock, inside) = (first.sibling(name).apart(), Arc::clone(&counters[n % 4]));
            tokio::spawn(async move {
                for _ in 0..3 {
                    let guard = lock.acquire(None).await.unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    tokio::task::yield_now().await;
                    assert_eq!(inside.fetch_sub(1, Ordering::SeqCst), 1);
                    guard.release().await;
                }
            })
        })
        .collect();
    for task in tasks {
        timeout(ms(60_000), task)
            .await
            .expect("all get their turn")
            .unwrap();
    }
}

/// A store that remembers what reached it, in that order.
#[derive(Clone, Default)]
struct Order(Arc<Mutex<Vec<Command>>>, MemoryStore);

#[async_trait]
impl BackingStore for Order {
    type Error = Infallible;

    async fn apply(&self, key: &str, command: Command) -> Result<Outcome, Infallible> {
        self.0.lock().unwrap().push(command.clone());
        self.1.apply(key, command).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_decided_first_reaches_the_store_first_however_many_threads_there_are() {
    let store = Order::default();
    let lock = CrossProcessStoreLock::new(store.clone(), "order", "here");
    let _held = lock.apart().acquire(None).await.unwrap();
    let quits = || {
        let sent = store.0.lock().unwrap();
        let quits = sent
            .iter()
            .filter(|sent| matches!(sent, Command::Quit { .. }));
        quits.count()
    };
    for n in 1..=500 {
        // A take, and at once the quit of a caller that waits no longer.
        assert!(!is_ready(lock.apart().acquire(None)).await);
        until("both were sent", || quits() >= n).await;
    }
    let mut taken = HashSet::new();
    for command in &*store.0.lock().unwrap() {
        match command {
            Command::Take(take) => _ = taken.insert(take.who.request),
            Command::Quit { who } => assert!(taken.contains(&who.request), "a quit came first"),
            _ => {}
        }
    }
}
