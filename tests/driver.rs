//! The driver: its contract (every action is performed, in order, before the next event is handled, and never
//! under the mutex), and what it does for many names at once.
#![cfg(not(target_arch = "wasm32"))]

mod support;

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake as Awake, Waker};

use async_trait::async_trait;
use support::{World, is_ready, ms, until};
use tab_lease::platform::BoxFuture;
use tab_lease::rules::{Command, Outcome, Requester};
use tab_lease::{
    BackingStore, Beacon, CrossProcessStoreLock, CrossProcessStoreLockGuard, Lifecycle, Liveness,
    MemoryStore, Wake,
};
use tokio::time::{Instant, sleep, timeout};

/// A store that takes several commands in one step, and remembers how many.
#[derive(Clone, Default)]
struct Steps(Arc<Inner>);

#[derive(Default)]
struct Inner {
    memory: MemoryStore,
    steps: Mutex<Vec<Vec<Command>>>,
}

impl Steps {
    fn since(&self, before: usize) -> Vec<Vec<Command>> {
        self.0.steps.lock().unwrap()[before..].to_vec()
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
