//! Progress: what must come of a world in which nothing goes wrong any more.

use tab_lease::rules::Record;

use crate::world::{Action, Budget, Deed, Life, Locks, Pace, State, Tab, World, tab_name};

impl World {
    /// G3: nothing is under way and nothing goes wrong any more. Then every tab that runs gets the lock
    /// if it wants it: at once if nothing ever went wrong, else within the recorded lease.
    pub fn recovers(&self, state: &State) -> bool {
        let quiet = |tab: &Tab| tab.outbox.is_empty() && tab.inbox.is_empty();
        if !state.tabs.iter().all(quiet) || state.open.is_some() {
            // It gets quiet by steps that the checker takes as well.
            return true;
        }
        let unharmed = Budget {
            writes: self.budget.writes,
            give_ups: self.budget.give_ups,
            wall_jumps: self.budget.wall_jumps,
            late: self.budget.late,
            losses: self.budget.losses,
            repeats: self.budget.repeats,
            wants: self.budget.wants,
            closings: self.budget.closings,
            hides: self.budget.hides,
            // Beacons tell of a crash at once.
            crashes: if self.locks == Locks::Shared && self.kinds.iter().all(|kind| kind.beacon) {
                self.budget.crashes
            } else {
                state.left.crashes
            },
            ..state.left
        } == self.budget;
        // Of whoever holds, or will before the one that waits.
        let lens = state.record.iter().flat_map(|record| {
            let queue = record.queue.iter().map(|waiter| waiter.len);
            queue.chain([record.len])
        });
        let record_len = lens.max().unwrap_or_default();
        // A take that overtakes its own quit is a fault as well: it lapses when it is its turn.
        let ghosts = if self.fifo {
            1
        } else {
            state.tabs.len() as u64
        };
        let patience = if unharmed && self.fifo {
            0
        } else {
            ghosts * (u64::from(record_len) + self.granule - 1)
        };
        let mut state = state.clone();
        // Messages may be lost, always.
        state.mail.clear();
        let mut wait: Vec<bool> = state.tabs.iter().map(|t| t.life == Life::Awake).collect();
        for _ in 0..=patience {
            // Rounds enough for one to release to the other, in whatever order they look.
            for _ in 0..=2 * wait.len() {
                for (i, waits) in wait.iter_mut().enumerate() {
                    if state.tabs[i].life != Life::Awake {
                        continue;
                    }
                    if state.tabs[i].lease.is_some() {
                        *waits = false;
                        self.act(&mut state, i, Deed::Release);
                    } else if *waits {
                        while self.hears_of_an_end(&mut state, i) {}
                        self.act(&mut state, i, Deed::Ask);
                    }
                    self.settle(&mut state, i);
                    self.tidy(&mut state);
                    while !state.tabs[i].passes.is_empty() {
                        self.act(&mut state, i, Deed::Pass);
                        self.settle(&mut state, i);
                    }
                    state.mail.clear();
                }
                if !wait.contains(&true) {
                    return state.fault.is_none();
                }
            }
            self.step(&mut state, Action::Tick);
        }
        false
    }

    /// All that a tab has under way arrives.
    fn settle(&self, state: &mut State, i: usize) {
        while !(state.tabs[i].outbox.is_empty() && state.tabs[i].inbox.is_empty()) {
            if !state.tabs[i].outbox.is_empty() {
                self.apply(state, i, 0, Pace::Applied);
            }
            if !state.tabs[i].inbox.is_empty() {
                self.deliver(state, i, 0);
            }
        }
    }

    /// Nothing is under way, and a tab that asks for nothing is named as the holder, while nobody
    /// waits: it must not be locked out by itself.
    pub fn own_lease_is_no_obstacle(&self, state: &State) -> bool {
        if state.open.is_some() {
            return true;
        }
        let alone = |r: &&Record| r.queue.is_empty();
        let record = state.record.as_ref().filter(alone);
        let Some(holder) = record.and_then(|r| r.holder.as_ref()) else {
            return true;
        };
        (0..state.tabs.len()).all(|i| {
            let tab = &state.tabs[i];
            let idle = tab.life == Life::Awake && tab.asking.is_none();
            let twins = self.kinds.iter().filter(|k| k.tab == self.kinds[i].tab);
            // A take that overtakes its own quit does lock its tab out, for a lease.
            if !idle
                || !self.fifo
                || twins.count() > 1
                || holder.tab != tab_name(self.kinds[i].tab)
                || !tab.outbox.is_empty()
                || !tab.inbox.is_empty()
                // It has handed the lock on, as far as the record does not say.
                || !tab.passes.is_empty()
            {
                return true;
            }
            let mut state = state.clone();
            self.act(&mut state, i, Deed::Ask);
            self.apply(&mut state, i, 0, Pace::Applied);
            self.deliver(&mut state, i, 0);
            state.tabs[i].lease.is_some()
        })
    }
}
