//! Progress: what must come of a world in which nothing goes wrong any more.

use tab_lease::contender::Timer;
use tab_lease::rules::Record;

use crate::mutation::Mutation;
use crate::world::{Action, Budget, Deed, Life, Locks, State, Tab, Waits, World, tab_name};

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
            tells: self.budget.tells,
            beats: self.budget.beats,
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
        let runs = |tab: &Tab| tab.life == Life::Awake && !tab.suspended;
        let mut wait: Vec<bool> = state.tabs.iter().map(runs).collect();
        for _ in 0..=patience {
            // Rounds enough for one to release to the other, in whatever order they look.
            for _ in 0..=2 * wait.len() {
                for (i, waits) in wait.iter_mut().enumerate() {
                    if runs(&state.tabs[i]) {
                        self.go_on(&mut state, i, waits);
                    }
                }
                if !wait.contains(&true) {
                    return state.fault.is_none();
                }
            }
            self.step(&mut state, Action::Tick);
        }
        false
    }

    /// A tab does what it can: it lets go of the lease, or asks for it.
    fn go_on(&self, state: &mut State, i: usize, waits: &mut bool) {
        if state.tabs[i].lease.is_some() {
            // Whoever waited here shares it.
            *waits = !state.tabs[i].callers.is_empty();
            self.let_go(state, i);
        } else if *waits {
            while self.hears_of_an_end(state, i) {}
            self.ask(state, i);
        }
        self.get_through(state, i);
        self.tidy(state);
        if self.mutated(Mutation::PassForgotten) {
            return;
        }
        while state.tabs[i].contender.due_at(Timer::Pass).is_some() {
            self.act(state, i, Deed::Fire(Timer::Pass));
            self.get_through(state, i);
        }
        state.mail.clear();
    }

    fn let_go(&self, state: &mut State, i: usize) {
        self.act(state, i, Deed::StepAside);
        self.get_through(state, i);
        for _ in 0..state.tabs[i].guards {
            self.drop_guard(state, i);
        }
        let lingers = state.tabs[i].contender.due_at(Timer::Linger).is_some();
        if lingers && !self.mutated(Mutation::LingerNeverEnds) {
            self.act(state, i, Deed::Fire(Timer::Linger));
        }
    }

    /// Sends a take, if none is on its way. A pause may be over twice: whoever has heard that the lock moves
    /// on rests again.
    fn ask(&self, state: &mut State, i: usize) {
        if state.tabs[i].callers.is_empty() {
            let waits = self.kinds[i].calls.first().copied();
            let waits = waits.filter(|waits| *waits == Waits::Not);
            self.call(state, i, waits.unwrap_or(Waits::ForEver));
        }
        for timer in [Timer::Look, Timer::Look, Timer::Reply, Timer::Beacon] {
            let is_set = state.tabs[i].contender.due_at(timer).is_some();
            if is_set && !state.tabs[i].asks() {
                self.act(state, i, Deed::Fire(timer));
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
            let asks = tab.contender.participant().request().is_some();
            let idle = tab.life == Life::Awake && !tab.suspended && !asks && tab.callers.is_empty();
            let twins = self.kinds.iter().filter(|k| k.tab == self.kinds[i].tab);
            // A take that overtakes its own quit does lock its tab out, for a lease.
            if !idle
                || !self.fifo
                || twins.count() > 1
                || holder.tab != tab_name(self.kinds[i].tab)
                || !tab.outbox.is_empty()
                || !tab.inbox.is_empty()
                // It has handed the lock on, as far as the record does not say.
                || tab.passing.is_some()
            {
                return true;
            }
            let mut state = state.clone();
            self.call(&mut state, i, Waits::ForEver);
            self.get_through(&mut state, i);
            state.tabs[i].lease.is_some()
        })
    }
}
