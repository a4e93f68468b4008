//! Test doubles: a shared world of one key, and a link to its store that does what a test says.

#![allow(
    dead_code,
    reason = "every test file compiles its own copy and uses a part of it"
)]

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use tab_lease::platform::BoxFuture;
use tab_lease::rules::{Command, FORMAT, Mode, Outcome, Record, Requester};
use tab_lease::{
    BackingStore, Config, CrossProcessStoreLock, CrossProcessStoreLockGuard, LeaseLost, MemoryStore,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// A lock over a scripted link.
pub type Lock = CrossProcessStoreLock<Link>;

/// Milliseconds.
pub const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// One key in one store, and the processes that contend for it. A process is a lock with a
/// holder's name and a link of its own: the crate tells processes in one test binary apart by that
/// name alone.
pub struct World {
    pub memory: MemoryStore,
    pub key: String,
}

impl World {
    /// A world with an empty store. The key is new, because the crate remembers the past of a key
    /// for as long as the test binary runs.
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            memory: MemoryStore::new(),
            key: format!("key-{}", NEXT.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// A process, and its link to the store.
    pub fn process(&self, holder: &str) -> (Lock, Link) {
        let link = Link::to(&self.memory);
        (self.lock_over(&link, holder), link)
    }

    /// A process whose link nobody looks at.
    pub fn lock(&self, holder: &str) -> Lock {
        self.process(holder).0
    }

    /// A lock object over a link that may have others.
    pub fn lock_over(&self, link: &Link, holder: &str) -> Lock {
        Lock::new(link.clone(), self.key.as_str(), holder)
    }

    /// A process with settings of its own.
    pub fn configured(&self, holder: &str, config: Config) -> (Lock, Link) {
        let link = Link::to(&self.memory);
        let lock = Lock::with_config(link.clone(), self.key.as_str(), holder, config);
        (lock.expect("the settings are valid"), link)
    }

    /// The record, which must exist.
    pub fn record(&self) -> Record {
        self.memory.record(&self.key).expect("there is a record")
    }

    /// Whether the record says that somebody holds.
    pub fn is_held(&self) -> bool {
        let record = self.memory.record(&self.key);
        record.is_some_and(|record| record.holder.is_some())
    }

    /// Changes the record behind everybody's back.
    pub fn tamper(&self, change: impl FnOnce(&mut Record)) {
        let mut record = self.record();
        change(&mut record);
        self.memory.set_record(&self.key, Some(record));
    }

    /// Leaves the record that a process of another program run left when it died while holding:
    /// nobody here will ever renew it.
    pub fn held_by_the_dead(&self, len: u32) {
        self.memory.set_record(&self.key, Some(dead_record(len)));
    }

    /// Frees the record behind everybody's back.
    pub fn free(&self) {
        self.tamper(|record| {
            record.holder = None;
            record.queue.clear();
        });
    }
}

/// A record held by a process that is gone.
pub fn dead_record(len: u32) -> Record {
    Record {
        format: FORMAT,
        epoch: 77,
        token: 1000,
        count: 3,
        holder: Some(Requester {
            tab: "dead#0".to_owned(),
            request: 1,
        }),
        mode: Mode::Exclusive,
        beacon: false,
        len,
        since: 0,
        queue: Vec::new(),
        last: None,
    }
}

/// What a [`Link`] does with one command.
#[derive(Clone, Copy, Debug)]
pub enum Conduct {
    /// Applies and answers at once.
    Prompt,
    /// Applies after `before`, answers `after` later.
    Slow { before: Duration, after: Duration },
    /// Fails without having applied it.
    Fail,
    /// Applies it, then fails: the answer got lost.
    FailAfter,
    /// Neither applies nor answers, ever.
    Stall,
    /// Applies it, and never answers.
    StallAfter,
    /// Applies it after a while even if the caller has gone by then.
    InTransit(Duration),
}

/// How a [`Link`] fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the disk is full")]
pub struct DiskFull;

/// A command as the link saw it.
#[derive(Clone, Debug)]
pub struct Call {
    /// When it was sent, on the link's virtual clock.
    pub at: Duration,
    pub command: Command,
    /// What the rules said, if it was applied.
    pub outcome: Option<Outcome>,
}

type Script = Box<dyn FnMut(&Command) -> Conduct + Send>;
type Rewrite = Box<dyn FnMut(&mut Command, &mut Option<Record>) + Send>;

struct Inner {
    memory: MemoryStore,
    started: Instant,
    script: Mutex<Script>,
    rewrite: Mutex<Rewrite>,
    calls: Mutex<Vec<Call>>,
    closings: watch::Sender<u32>,
}

/// One process's connection to the common store: records what passes, and misbehaves on demand.
#[derive(Clone)]
pub struct Link(Arc<Inner>);

impl Link {
    pub fn to(memory: &MemoryStore) -> Self {
        Self(Arc::new(Inner {
            memory: memory.clone(),
            started: Instant::now(),
            script: Mutex::new(Box::new(|_| Conduct::Prompt)),
            rewrite: Mutex::new(Box::new(|_, _| {})),
            calls: Mutex::default(),
            closings: watch::Sender::new(0),
        }))
    }

    /// From now on, does with each command what `script` says.
    pub fn script(&self, script: impl FnMut(&Command) -> Conduct + Send + 'static) {
        *self.0.script.lock().unwrap() = Box::new(script);
    }

    /// From now on, treats every renewal so.
    pub fn renewals_are(&self, conduct: Conduct) {
        self.script(move |command| match command {
            Command::Renew { .. } => conduct,
            _ => Conduct::Prompt,
        });
    }

    /// From now on, treats everything so.
    pub fn everything_is(&self, conduct: Conduct) {
        self.script(move |_| conduct);
    }

    /// From now on, `rewrite` may change each command and the record that it meets.
    pub fn rewrite(&self, rewrite: impl FnMut(&mut Command, &mut Option<Record>) + Send + 'static) {
        *self.0.rewrite.lock().unwrap() = Box::new(rewrite);
    }

    /// Somebody else has the store closed.
    pub fn close(&self) {
        self.0.closings.send_modify(|closings| *closings += 1);
    }

    pub fn calls(&self) -> Vec<Call> {
        self.0.calls.lock().unwrap().clone()
    }

    /// Time since the link was made.
    pub fn now(&self) -> Duration {
        self.0.started.elapsed()
    }

    /// When takes were sent.
    pub fn takes(&self) -> Vec<Duration> {
        self.sent(|command| matches!(command, Command::Take(_)))
    }

    /// When renewals were sent.
    pub fn renewals(&self) -> Vec<Duration> {
        self.sent(|command| matches!(command, Command::Renew { .. }))
    }

    /// When quits were sent.
    pub fn quits(&self) -> Vec<Duration> {
        self.sent(|command| matches!(command, Command::Quit { .. }))
    }

    fn sent(&self, which: impl Fn(&Command) -> bool) -> Vec<Duration> {
        let calls = self.calls();
        let which = calls.iter().filter(|call| which(&call.command));
        which.map(|call| call.at).collect()
    }

    fn begin(&self, command: &Command) -> (usize, Conduct) {
        let conduct = (self.0.script.lock().unwrap())(command);
        let mut calls = self.0.calls.lock().unwrap();
        // A lock that asks without pausing stops virtual time, and the test with it.
        assert!(calls.len() < 10_000, "it asks and asks");
        calls.push(Call {
            at: self.now(),
            command: command.clone(),
            outcome: None,
        });
        (calls.len() - 1, conduct)
    }

    async fn run(&self, key: &str, mut command: Command, call: usize) -> Outcome {
        let mut record = self.0.memory.record(key);
        let untouched = record.clone();
        (self.0.rewrite.lock().unwrap())(&mut command, &mut record);
        if record != untouched {
            self.0.memory.set_record(key, record);
        }
        let Ok(outcome) = self.0.memory.apply(key, command).await;
        self.0.calls.lock().unwrap()[call].outcome = Some(outcome.clone());
        outcome
    }
}

#[async_trait]
impl BackingStore for Link {
    type Error = DiskFull;

    async fn apply(&self, key: &str, command: Command) -> Result<Outcome, DiskFull> {
        let (call, conduct) = self.begin(&command);
        match conduct {
            Conduct::Prompt => Ok(self.run(key, command, call).await),
            Conduct::Slow { before, after } => {
                sleep(before).await;
                let outcome = self.run(key, command, call).await;
                sleep(after).await;
                Ok(outcome)
            }
            Conduct::Fail => Err(DiskFull),
            Conduct::FailAfter => {
                self.run(key, command, call).await;
                Err(DiskFull)
            }
            Conduct::Stall => std::future::pending().await,
            Conduct::StallAfter => {
                self.run(key, command, call).await;
                std::future::pending().await
            }
            Conduct::InTransit(delay) => {
                let (link, key) = (self.clone(), key.to_owned());
                let arrival = tokio::spawn(async move {
                    sleep(delay).await;
                    link.run(&key, command, call).await
                });
                Ok(arrival.await.expect("the rules do not panic"))
            }
        }
    }

    fn leave(&self, key: &str, who: &Requester) {
        let quit = Command::Quit { who: who.clone() };
        // It needs no answer, so whatever befalls commands does not concern it.
        self.0.calls.lock().unwrap().push(Call {
            at: self.now(),
            command: quit,
            outcome: None,
        });
        self.0.memory.leave(key, who);
    }

    fn closing(&self) -> BoxFuture<()> {
        let mut closings = self.0.closings.subscribe();
        Box::pin(async move {
            let _ = closings.changed().await;
        })
    }
}

/// Waits, in virtual time, until `condition` holds; a minute of it is taken for never.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..60_000 {
        if condition() {
            return;
        }
        sleep(ms(1)).await;
    }
    panic!("never happened: {what}");
}

/// Waits until the holder is told that it lost the lease, but not for ever: the test of a lock that
/// never tells is to fail, not to hang.
pub async fn told(guard: &CrossProcessStoreLockGuard) -> LeaseLost {
    let told = tokio::time::timeout(ms(60_000), guard.lost()).await;
    told.expect("the holder is told of the loss")
}

/// Whether a future is ready now.
pub async fn is_ready(future: impl Future) -> bool {
    let mut future = pin!(future);
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_ready())).await
}
