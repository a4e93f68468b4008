//! What the code in a tab does with the lock.

use std::sync::Arc;
use std::time::Duration;

use tab_lease::{Config, LockError};
use tokio::time::sleep;

use crate::link::Unreliable;
use crate::tab::ms;
use crate::voice::Voice;
use crate::world::{Busy, Guard, LONG_FENCE_MS, Lock, World};

pub struct User {
    pub world: Arc<World>,
    pub tab: usize,
    pub lock: Lock,
    /// The lock object's number.
    pub object: u64,
    pub voice: Voice,
    pub config: Config,
    pub dice: fastrand::Rng,
    /// For fenced transactions, so that they change nothing where there are none.
    pub fence_dice: fastrand::Rng,
    /// Which caller of its tab, and whether it is the only one of its lock object.
    pub index: u64,
    pub alone: bool,
    pub fences: bool,
    /// Callers of one lock object share the lock; among themselves they use this.
    pub local: Arc<tokio::sync::Mutex<()>>,
    pub _busy: Busy,
}

type Answer = Result<Guard, LockError<Unreliable>>;

impl User {
    /// So many sections.
    pub async fn run(mut self, sections: usize) {
        for _ in 0..sections {
            let think = self.dice.u64(0..300);
            if self.dice.bool() {
                sleep(ms(think)).await;
            }
            if let Some(guard) = self.ask().await {
                self.section(guard).await;
            }
        }
    }

    /// Callers that are told of the same thing go on one after the other: tokio's `watch` wakes them
    /// in random order, and a seed is to tell the same story every time.
    async fn in_turn(&self) {
        sleep(ms(self.index)).await;
    }

    fn now(&self) -> u64 {
        self.world.state().now
    }

    fn note(&self, what: impl FnOnce() -> String) {
        let tab = self.tab;
        self.world.state().log(|| format!("tab {tab} {}", what()));
    }

    fn fail(&self, what: &str) {
        let tab = self.tab;
        self.world.state().fail(|| format!("tab {tab}: {what}"));
    }

    /// Tries to get the lock, one way or another.
    async fn ask(&mut self) -> Option<Arc<Guard>> {
        match self.dice.u32(0..100) {
            0..40 => self.acquire(None).await,
            40..55 => {
                let timeout = match self.dice.u8(0..4) {
                    0 => 0,
                    1 => self.dice.u64(1..50),
                    _ => self.dice.u64(50..2000),
                };
                self.acquire(Some(timeout)).await
            }
            55..65 => {
                self.note(|| "tries once".to_owned());
                match self.lock.try_lock_once().await {
                    Ok(guard) => {
                        guard.map(|guard| self.world.acquired(self.tab, self.object, guard))
                    }
                    Err(error) => self.refused(Err(error)),
                }
            }
            65..78 => {
                let longest = [None, Some(40), Some(160)][self.dice.usize(0..3)];
                self.note(|| format!("spins, up to {longest:?}"));
                match self.lock.spin_lock(longest).await {
                    Ok(guard) => Some(self.world.acquired(self.tab, self.object, guard)),
                    Err(error) => self.refused(Err(error)),
                }
            }
            78..92 => {
                let patience = self.dice.u64(0..600);
                let acquired = tokio::time::timeout(ms(patience), self.acquire(None)).await;
                acquired.unwrap_or_else(|_| {
                    self.note(|| "has gone away".to_owned());
                    self.world.state().counts.abandoned += 1;
                    None
                })
            }
            _ => {
                let timeout = self.dice.u64(50..1000);
                let (first, second) = tokio::join!(self.acquire(None), self.acquire(Some(timeout)));
                // Two guards of one tenure, unless one of them was lost meanwhile.
                first.or(second)
            }
        }
    }

    async fn acquire(&self, timeout: Option<u64>) -> Option<Arc<Guard>> {
        let start = self.now();
        self.note(|| format!("waits, timeout {timeout:?}"));
        let waiting = self.world.wait(self.tab);
        let answer = self.lock.acquire(timeout.map(ms)).await;
        drop(waiting);
        let end = self.now();
        if let Some(timeout) = timeout.filter(|timeout| *timeout > 0) {
            let at_work = self.world.state().tabs[self.tab].at_work(start + timeout);
            if end > at_work {
                self.fail(&format!("G6: it waited until {end} ms, not {at_work}"));
            }
            if end < start + timeout && matches!(answer, Err(LockError::Timeout)) {
                self.fail("it did not wait until its deadline");
            }
        }
        if timeout.is_none() && matches!(answer, Err(LockError::Timeout)) {
            self.fail("a wait without a deadline timed out");
        }
        match answer {
            Ok(guard) => Some(self.world.acquired(self.tab, self.object, guard)),
            error => self.refused(error),
        }
    }

    fn refused(&self, answer: Answer) -> Option<Arc<Guard>> {
        let mut state = self.world.state();
        let tab = self.tab;
        match answer {
            Err(LockError::Store(_)) => {
                state.counts.store_errors += 1;
                state.log(|| format!("tab {tab} is told that the store failed"));
                let calm = state.wire.trouble_until.max(state.weather.calm_from);
                if state.now > state.tabs[tab].at_work(calm) {
                    state.fail(|| format!("tab {tab} is told of a failure that there was not"));
                }
            }
            _ => {
                state.counts.timeouts += 1;
                state.log(|| format!("tab {tab} times out"));
            }
        }
        None
    }

    /// Uses the lock, and lets go of it in one way or another.
    async fn section(&mut self, mut guard: Arc<Guard>) {
        self.transact(&guard).await;
        match self.dice.u32(0..10) {
            0..5 => {
                for _ in 0..self.dice.u32(1..=3) {
                    self.increment(&guard).await;
                }
            }
            5..7 => {
                for _ in 0..self.dice.u32(1..=2) {
                    let late = if self.dice.bool() {
                        0
                    } else {
                        self.dice.u64(0..1000)
                    };
                    // A careless caller: it does not ask whether it still holds.
                    self.world.fenced_write(self.tab, &guard, late);
                    sleep(ms(self.dice.u64(0..60))).await;
                }
            }
            7 => {
                // It stays, unless it is told to stop.
                let stay = ms(self.dice.u64(300..1500));
                match tokio::time::timeout(stay, guard.lost()).await {
                    Ok(lost) => {
                        self.in_turn().await;
                        if guard.is_held() || lost.token != guard.token() {
                            self.fail("G4: it is told of a loss that is not one");
                        }
                        if self.dice.bool() {
                            self.world.fenced_write(self.tab, &guard, 0);
                        }
                    }
                    Err(_) => self.increment(&guard).await,
                }
            }
            8 => {
                // Another caller of this tab takes its part and keeps it longer.
                if let Some(second) = self.acquire(Some(200)).await {
                    self.note(|| "drops the first of two guards".to_owned());
                    drop(guard);
                    guard = second;
                }
                self.increment(&guard).await;
            }
            _ => {}
        }
        self.let_go(guard).await;
    }

    /// Fenced transactions, in every other schedule. A release may come while one is under way.
    async fn transact(&mut self, guard: &Arc<Guard>) {
        if !self.fences {
            return;
        }
        for _ in 0..self.fence_dice.u32(0..3) {
            let long = self.world.state().may_fence_for_long() && self.fence_dice.bool();
            let lasts = if long {
                self.fence_dice.u64(1..LONG_FENCE_MS)
            } else {
                0
            };
            let over = self.world.fence(self.tab, guard, lasts);
            if self.fence_dice.bool() {
                over.await;
            } else {
                drop(tokio::spawn(over));
            }
        }
    }

    /// Reads, takes its time, and writes if it still holds.
    async fn increment(&mut self, guard: &Guard) {
        let alone = self.local.lock().await;
        let read = self.world.read();
        let longest = if self.dice.u8(0..8) == 0 { 600 } else { 60 };
        let pause = self.dice.u64(0..longest);
        sleep(Duration::from_millis(pause)).await;
        if guard.is_held() {
            self.world.write(self.tab, guard, read);
        }
        drop(alone);
    }

    async fn let_go(&mut self, guard: Arc<Guard>) {
        self.note(|| "lets go".to_owned());
        let way = self.dice.u8(0..3);
        if way == 0 {
            return;
        }
        if way == 1 && self.alone {
            // The lock object goes too, and a new one takes its place.
            drop(guard);
            self.lock = self.voice.lock(&self.world, self.tab, self.config);
            self.object = self.world.object();
            return;
        }
        let Ok(guard) = Arc::try_unwrap(guard) else {
            return;
        };
        let start = self.now();
        guard.release().await;
        let end = self.now();
        self.in_turn().await;
        let latest = start + self.world.state().tabs[self.tab].longest_lease();
        let at_work = self.world.state().tabs[self.tab].at_work(latest);
        if end > at_work {
            self.fail("G6: a release was waited for past the end of the lease");
        }
    }
}
