//! Exhaustive exploration of small worlds: two and three tabs, one lock, and everything that may go
//! wrong, in every order, by the model checker `stateright`. The transitions are the crate's own
//! [`rules::apply`](tab_lease::rules::apply), and the tabs are the shipped
//! [`Contender`](tab_lease::contender::Contender): the model hands in events and performs its actions.
//!
//! - `model/world.rs`: states, actions, bounds, and where a new command or message goes;
//! - `model/tab.rs`: the driver around a contender, and what becomes of a tab;
//! - `model/properties.rs`: G1 to G4, and that nothing is forgotten, as properties of a state;
//! - `model/faults.rs`: steps that no rule may take;
//! - `model/progress.rs`: what must come of a world that has become quiet;
//! - `model/mutation.rs`: how rules are broken, to see that the checker notices;
//! - `model/turns.rs`: a small model of its own, of a tab whose calls overlap or nest.
//!
//! `TAB_LEASE_MODEL=large` explores the larger worlds as well (an hour, and some GB of memory).
//!
//! # Timers
//!
//! A timer that is set may fire at any time, early or late, and counts as set or not where states are told
//! apart (`src/contender/alike.rs`). Only the end of a lease is told on time, before all else. What a lock
//! object believes, and when it sent what, is part of the state. Of two calls that rest, it is not which
//! one's pause is over first.
//!
//! # What is bounded
//!
//! Time is discrete and ends at a horizon (of 2 to 12 ticks, leases being 2 to 8), so calls are few as well.
//! Faults have a [`Budget`], and so has what tabs tell each other. Most worlds are *brisk* (see
//! [`Pace`](world::Pace)): the order of steps within one tick is reduced to that of the store's, and how
//! much is late is bounded. A lease that nobody uses lingers in the worlds that say so; elsewhere its time
//! is over at once. States are told apart by 64-bit fingerprints, so that a state may be missed with a
//! probability of about n²/2⁶⁵: for ten million, 0.0003 %.
//!
//! # The traps of the protocol
//!
//! Each has a mutation. Two of them matter only where something else is wrong already, so their worlds are
//! *pushy*: whoever waits tells the holder that it is the next one. That a lease starts only if its
//! receiver was seen at the head, and that a take by delegation is for the head only, then keeps a
//! misled delegator from overtaking who waits longer. Where nobody is misled the stamp covers both: it
//! was made when the receiver had not yet been granted anything, and is good for no more than one lease
//! of its own, while overtaking it takes a whole one.
//!
//! Long fenced writes are explored without a failing store: what a holder believes behind one rests on the
//! order of a store that applies what it has accepted (see `participant.rs`).
//!
//! Not here, for want of a rule that could be broken: `steal`.
#![cfg(not(target_arch = "wasm32"))]

#[path = "model/faults.rs"]
mod faults;
#[path = "model/mutation.rs"]
mod mutation;
#[path = "model/progress.rs"]
mod progress;
#[path = "model/properties.rs"]
mod properties;
#[path = "model/tab.rs"]
mod tab;
#[path = "model/turns.rs"]
mod turns;
#[path = "model/world.rs"]
mod world;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};
use tab_lease::PLACES;
use tab_lease::turns::PATIENCE_MS;

use mutation::Mutation;
use properties::{
    BOUNDED, BY_MESSAGE, DEADLINE, G1, G2, G3, G3_OWN, G4_SUPERSEDED, G4_TOLD, HEEDED, LIVELY,
    NO_FORBIDDEN_STEP, SERVED, SOMEBODY_ELSE, SOUND,
};
use world::{Action, Budget, Kind, Locks, Waits, World};

/// Nothing goes wrong, and one waiter makes itself heard.
const CALM: Budget = Budget {
    crashes: 0,
    pauses: 0,
    stops: 0,
    hides: 0,
    failures: 0,
    late: 0,
    losses: 0,
    repeats: 0,
    wants: 1,
    tells: 0,
    beats: 0,
    give_ups: 0,
    writes: 0,
    deletions: 0,
    closings: 0,
    wall_jumps: 0,
};

/// The same, and all that tabs tell each other may be heard.
const TELLING: Budget = Budget {
    wants: 2,
    tells: 2,
    ..CALM
};

const FOR_EVER: Waits = Waits::ForEver;
const TRIES: Waits = Waits::Not;

// ---- Worlds -----------------------------------------------------------------------------------

/// Two tabs with leases of two ticks. Lateness is in the budget.
fn two(horizon: u64, budget: Budget) -> World {
    World {
        kinds: vec![kind(0, 2), kind(1, 2)],
        granule: 1,
        horizon,
        tick_ms: 1,
        budget,
        fifo: true,
        brisk: true,
        wants_stay: false,
        pushy: false,
        long_writes: false,
        at_once: 1,
        lingers: false,
        slow_callers: false,
        half_asleep: false,
        complete: true,
        places: PLACES,
        locks: Locks::Shared,
        mutation: None,
    }
}

/// The same. Everything may be as late as time allows.
fn loose(horizon: u64, budget: Budget) -> World {
    World {
        brisk: false,
        ..two(horizon, budget)
    }
}

/// Three tabs with leases of two ticks.
fn three(horizon: u64, budget: Budget) -> World {
    World {
        kinds: vec![kind(0, 2), kind(1, 2), kind(2, 2)],
        ..two(horizon, budget)
    }
}

/// Two tabs whose clocks tell every second tick, not the same ones.
fn coarse(horizon: u64, budget: Budget) -> World {
    World {
        kinds: vec![kind(0, 8), kind(1, 8)],
        granule: 2,
        ..two(horizon, budget)
    }
}

/// Two tabs with leases of two ticks, of four while the head of the queue goes by beats.
fn beating(horizon: u64, budget: Budget) -> World {
    two(horizon, budget).beacons(4)
}

/// Two lock objects of one tab, which share their past, and another tab.
fn twins(horizon: u64, budget: Budget) -> World {
    let twin = Kind {
        tab: 0,
        ..kind(1, 2)
    };
    World {
        kinds: vec![kind(0, 2), twin, kind(2, 2)],
        ..three(horizon, budget)
    }
}

/// Three lock objects of one tab, and another tab.
fn triplets(horizon: u64, budget: Budget) -> World {
    let triplet = |offset| Kind {
        tab: 0,
        ..kind(offset, 2)
    };
    World {
        kinds: vec![kind(0, 2), triplet(1), triplet(2), kind(3, 2)],
        ..two(horizon, budget)
    }
}

fn kind(tab: usize, len: u32) -> Kind {
    Kind {
        tab,
        len,
        idle: len,
        hidden: len,
        hides_first: false,
        beacon: false,
        offset: 5 * tab as u64,
        calls: vec![Waits::ForEver],
    }
}

impl Kind {
    fn queues(&self) -> bool {
        let queues = |waits: &Waits| matches!(waits, Waits::ForEver | Waits::For(_));
        self.tab > 0 && self.calls.iter().any(queues)
    }
}

impl World {
    fn lens(mut self, lens: &[u32]) -> Self {
        for (kind, len) in self.kinds.iter_mut().zip(lens) {
            kind.len = *len;
            kind.idle = *len;
            kind.hidden = *len;
        }
        self
    }

    /// All pages are hidden, to begin with.
    fn hidden_first(mut self) -> Self {
        self.kinds.iter_mut().for_each(|k| k.hides_first = true);
        self
    }

    /// Leases are of that length while the page is hidden.
    fn hiding(mut self, hidden: u32) -> Self {
        self.kinds.iter_mut().for_each(|k| k.hidden = hidden);
        self
    }

    fn requests(mut self, requests: usize) -> Self {
        self.kinds
            .iter_mut()
            .for_each(|k| k.calls = vec![Waits::ForEver; requests]);
        self
    }

    /// The first tab asks a second time.
    fn first_comes_again(mut self) -> Self {
        self.kinds[0].calls = vec![Waits::ForEver; 2];
        self
    }

    /// The last tab tries only, and never waits in the queue.
    fn last_only_tries(mut self) -> Self {
        if let Some(last) = self.kinds.last_mut() {
            last.calls = vec![Waits::Not];
        }
        self
    }

    /// All tabs have beacons, and leases of that length while nobody waits.
    fn beacons(mut self, idle: u32) -> Self {
        for kind in &mut self.kinds {
            kind.beacon = true;
            kind.idle = idle;
        }
        self
    }

    /// The calls of the first lock object, and those of the others.
    fn calls(mut self, first: &[Waits], others: &[Waits]) -> Self {
        for (i, kind) in self.kinds.iter_mut().enumerate() {
            kind.calls = if i == 0 { first } else { others }.to_vec();
        }
        self
    }

    /// So many calls of a lock object may wait or hold at once.
    fn at_once(self, at_once: usize) -> Self {
        Self { at_once, ..self }
    }

    fn lingering(self) -> Self {
        Self {
            lingers: true,
            ..self
        }
    }

    fn slow_callers(self) -> Self {
        Self {
            slow_callers: true,
            ..self
        }
    }

    fn half_asleep(self) -> Self {
        Self {
            half_asleep: true,
            ..self
        }
    }

    /// A tick is half of the time for which a call is held back at first.
    fn slow_ticks(self) -> Self {
        let tick_ms = PATIENCE_MS / 2;
        Self { tick_ms, ..self }
    }

    /// So many requests of a tab stand in the queue at most.
    fn places(self, places: usize) -> Self {
        Self { places, ..self }
    }

    fn incomplete(self) -> Self {
        Self {
            complete: false,
            ..self
        }
    }

    /// Whether a try may be told that the lock was freed for it.
    fn serves(&self) -> bool {
        let tries = self
            .kinds
            .iter()
            .any(|kind| kind.calls.contains(&Waits::Not));
        tries && self.lingers && self.budget.tells > 0
    }

    fn locks(self, locks: Locks) -> Self {
        Self { locks, ..self }
    }

    fn wants_stay(self) -> Self {
        Self {
            wants_stay: true,
            ..self
        }
    }

    fn pushy(self) -> Self {
        Self {
            pushy: true,
            ..self
        }
    }

    fn long_writes(self) -> Self {
        Self {
            long_writes: true,
            ..self
        }
    }

    fn unordered(self) -> Self {
        Self {
            fifo: false,
            ..self
        }
    }
}

// ---- Exploration ------------------------------------------------------------------------------

/// Of all the worlds explored so far.
static STATES: AtomicUsize = AtomicUsize::new(0);

/// Explores a world to its end; nothing must be found.
fn explore(name: &str, world: World) {
    let begun = Instant::now();
    let checker = world.clone().checker().spawn_dfs().join();
    let states = checker.unique_state_count();
    let so_far = STATES.fetch_add(states, Ordering::Relaxed) + states;
    println!(
        "{name}: {states} states, {:.1} s ({so_far} states so far)",
        begun.elapsed().as_secs_f64()
    );
    let found = checker.discoveries();
    for property in [
        NO_FORBIDDEN_STEP,
        G1,
        G2,
        G3,
        G3_OWN,
        G4_SUPERSEDED,
        G4_TOLD,
        SOUND,
        LIVELY,
        DEADLINE,
        BOUNDED,
    ] {
        if found.contains_key(property) {
            panic!(
                "{name}: not \"{property}\": {:#?}",
                shortest(property, world)
            );
        }
    }
    for shown in [SOMEBODY_ELSE, BY_MESSAGE, SERVED, HEEDED] {
        let by_message = world.complete && world.kinds.iter().any(Kind::queues);
        if shown == HEEDED && world.budget.beats < 2 {
            continue;
        }
        if shown == BY_MESSAGE && !by_message || shown == SERVED && !world.serves() {
            continue;
        }
        assert!(found.contains_key(shown), "{name} does not show: {shown}");
    }
}

/// The shortest way to break a property, if there is one, and the forbidden step at its end.
fn shortest(property: &'static str, world: World) -> Option<(Vec<Action>, Option<&'static str>)> {
    let checker = world
        .checker()
        .finish_when(HasDiscoveries::AnyOf([property].into()))
        .spawn_bfs()
        .join();
    let path = checker.discovery(property)?;
    let fault = path.last_state().fault;
    Some((path.into_actions(), fault))
}

/// Explores a world in which a rule is broken: that property must be found broken. ([`explore`] finds
/// nothing in worlds of the same kind where no rule is.)
fn catches(mutation: Mutation, property: &'static str, world: World) {
    let mutated = World {
        mutation: Some(mutation),
        ..world
    };
    let begun = Instant::now();
    let Some((actions, fault)) = shortest(property, mutated) else {
        panic!("{mutation:?} is not noticed");
    };
    println!(
        "{mutation:?}: not \"{property}\" ({}) after {} steps, {:.1} s\n  {actions:?}",
        fault.unwrap_or("in this state"),
        actions.len(),
        begun.elapsed().as_secs_f64()
    );
}

/// Explores a world in which a rule is broken: that must never happen there. ([`explore`] finds it in worlds
/// of the same kind where no rule is.)
fn hides(mutation: Mutation, shown: &'static str, world: World) {
    let mutation = Some(mutation);
    let checker = World { mutation, ..world }.checker().spawn_dfs().join();
    let states = checker.unique_state_count();
    println!("{mutation:?}: never \"{shown}\" in {states} states");
    assert!(
        checker.discovery(shown).is_none(),
        "{mutation:?} is not noticed"
    );
}

macro_rules! worlds {
    ($($name:ident: $world:expr;)*) => {$(
        #[test]
        fn $name() {
            explore(stringify!($name), $world);
        }
    )*};
}

/// They are one test, so that none that was not explored looks as if it had been.
macro_rules! large_worlds {
    ($($name:ident: $world:expr;)*) => {
        #[test]
        fn large_worlds_if_asked_for() {
            if std::env::var("TAB_LEASE_MODEL").is_ok_and(|size| size == "large") {
                $(explore(stringify!($name), $world);)*
            } else {
                println!("not asked for: {}", [$(stringify!($name)),*].join(", "));
            }
        }
    };
}

macro_rules! mutations {
    ($($name:ident: $mutation:ident breaks $property:ident in $world:expr;)*) => {$(
        #[test]
        fn $name() {
            catches(Mutation::$mutation, $property, $world);
        }
    )*};
}

worlds! {
    two_tabs: two(5, Budget { late: 2, ..CALM });
    two_tabs_in_every_order: loose(3, CALM);
    two_tabs_in_every_order_and_a_crash: loose(2, Budget { crashes: 1, ..CALM });
    two_tabs_in_every_order_and_a_pause: loose(2, Budget { pauses: 1, ..CALM });
    two_tabs_and_a_crash: two(4, Budget { crashes: 1, late: 1, give_ups: 1, ..CALM });
    two_tabs_and_a_pause: two(3, Budget { pauses: 1, late: 1, ..CALM });
    two_tabs_and_a_failing_store: two(3, Budget { failures: 1, late: 1, give_ups: 1, ..CALM });
    two_tabs_that_come_again: two(2, Budget { late: 1, ..CALM }).first_comes_again();
    two_tabs_that_hear_twice: two(2, Budget { repeats: 1, ..CALM }).requests(2);
    two_tabs_that_hear_nothing: two(3, Budget { losses: 1, give_ups: 1, ..CALM }).first_comes_again();
    two_tabs_that_hear_of_old_wants: two(3, Budget { wants: 2, ..CALM }).first_comes_again().wants_stay();
    two_tabs_out_of_order: two(2, Budget { give_ups: 1, late: 1, ..CALM }).unordered();
    two_tabs_with_leases_of_their_own: two(5, Budget { late: 1, ..CALM }).lens(&[4, 2]);
    two_tabs_that_write: two(3, Budget { writes: 2, late: 1, ..CALM });
    two_tabs_that_write_and_a_pause: two(3, Budget { writes: 2, pauses: 1, ..CALM });
    two_tabs_that_write_for_long: two(5, Budget { writes: 1, ..CALM }).long_writes();
    two_tabs_that_write_for_long_twice: two(3, Budget { writes: 2, ..CALM }).long_writes();
    two_tabs_that_write_for_long_and_a_pause: two(3, Budget { writes: 1, pauses: 1, ..CALM }).long_writes();
    two_tabs_that_write_for_long_and_a_crash: two(3, Budget { writes: 1, crashes: 1, ..CALM }).long_writes();
    two_tabs_that_write_for_long_and_idle: two(3, Budget { writes: 1, ..CALM }).long_writes().beacons(4);
    two_tabs_and_a_deletion: two(3, Budget { deletions: 1, writes: 1, ..CALM });
    two_tabs_and_a_deletion_in_order: two(3, Budget { closings: 1, writes: 1, late: 1, ..CALM });
    two_tabs_and_a_jumping_wall_clock: two(3, Budget { wall_jumps: 2, deletions: 1, ..CALM });
    two_tabs_with_coarse_clocks: coarse(10, Budget { late: 1, ..CALM });
    two_tabs_with_coarse_clocks_and_a_pause: coarse(10, Budget { pauses: 1, ..CALM });
    two_tabs_with_idle_leases: two(5, Budget { late: 1, ..CALM }).beacons(4);
    two_tabs_with_idle_leases_and_a_pause: two(5, Budget { pauses: 1, ..CALM }).beacons(4);
    two_tabs_with_beacons_and_a_crash: two(3, Budget { crashes: 1, late: 1, ..CALM }).beacons(4);
    two_tabs_with_beacons_and_a_failing_store:
        two(2, Budget { crashes: 1, failures: 1, late: 1, ..CALM }).beacons(2);
    two_tabs_with_locks_apart: two(4, Budget { late: 1, ..CALM }).beacons(4).locks(Locks::Apart);
    two_tabs_with_locks_apart_and_a_crash:
        two(3, Budget { crashes: 1, ..CALM }).beacons(4).locks(Locks::Apart);
    two_tabs_with_null_for_a_lock: two(4, Budget { late: 1, ..CALM }).beacons(4).locks(Locks::Null);
    two_tabs_with_null_for_a_lock_and_a_crash:
        two(3, Budget { crashes: 1, ..CALM }).beacons(4).locks(Locks::Null);
    two_tabs_with_a_foreign_manager: two(4, Budget { late: 1, ..CALM }).beacons(4).locks(Locks::Foreign);
    three_tabs_with_locks_apart: three(3, CALM).beacons(3).locks(Locks::Apart);
    two_tabs_that_hide: two(3, Budget { hides: 2, late: 1, ..CALM }).hiding(4);
    two_tabs_that_hide_out_of_order: two(3, Budget { hides: 2, late: 1, ..CALM }).hiding(4).unordered();
    two_tabs_that_hide_and_a_pause: two(4, Budget { hides: 2, pauses: 1, ..CALM }).hiding(4);
    two_tabs_and_a_stop: two(3, Budget { stops: 1, late: 1, ..CALM });
    two_tabs_that_write_and_a_stop: two(3, Budget { stops: 1, writes: 2, ..CALM });
    three_tabs: three(5, CALM);
    three_tabs_late: three(2, Budget { late: 1, ..CALM });
    three_tabs_and_a_crash: three(4, Budget { crashes: 1, ..CALM });
    three_tabs_and_a_pause: three(3, Budget { pauses: 1, ..CALM });
    three_tabs_and_a_stop: three(2, Budget { stops: 1, ..CALM });
    three_tabs_that_hide: three(2, Budget { hides: 2, ..CALM }).hiding(3);
    three_tabs_and_a_failing_store: three(4, Budget { failures: 1, give_ups: 1, ..CALM });
    three_tabs_that_hear_twice_or_not: three(3, Budget { losses: 1, repeats: 1, ..CALM });
    three_tabs_with_leases_of_their_own: three(3, CALM).lens(&[2, 3, 2]);
    three_tabs_with_beacons_and_a_crash: three(2, Budget { crashes: 1, ..CALM }).beacons(4);
    three_tabs_and_a_deletion_in_order: three(4, Budget { closings: 1, ..CALM });
    three_tabs_one_only_tries: three(3, Budget { crashes: 1, ..CALM }).last_only_tries();
    three_tabs_one_pushes: three(4, Budget { wants: 2, ..CALM }).pushy();
    twin_locks_and_a_tab: twins(4, Budget { give_ups: 1, ..CALM });
    twin_locks_and_a_tab_late: twins(2, Budget { late: 1, ..CALM });

    // Of the contender.
    two_tabs_that_linger: two(3, CALM).lingering().first_comes_again();
    two_tabs_that_linger_late: two(3, Budget { late: 1, ..CALM }).lingering();
    two_tabs_that_linger_and_a_pause: two(3, Budget { pauses: 1, ..CALM }).lingering().first_comes_again();
    two_tabs_one_only_tries: two(3, TELLING).lingering().last_only_tries();
    two_tabs_one_only_tries_late: two(2, Budget { late: 1, ..TELLING }).lingering().last_only_tries();
    two_tabs_one_tries_and_waits:
        two(2, TELLING).lingering().calls(&[FOR_EVER], &[TRIES, FOR_EVER]).at_once(2);
    three_tabs_one_tries_a_lease_that_lingers: three(2, TELLING).lingering().last_only_tries();
    three_tabs_one_gives_up: three(3, Budget { give_ups: 1, ..TELLING });
    two_tabs_with_deadlines: two(4, Budget { late: 1, ..CALM }).calls(&[FOR_EVER], &[Waits::For(2)]);
    two_tabs_with_two_deadlines: two(3, CALM).calls(&[FOR_EVER], &[Waits::For(2), Waits::For(1)]).at_once(2);
    two_tabs_that_spin: two(4, Budget { late: 1, ..CALM }).calls(&[FOR_EVER], &[Waits::Spins(2)]);
    two_tabs_whose_callers_are_gone: two(3, CALM).slow_callers().requests(2);
    two_tabs_whose_callers_are_gone_late: two(2, Budget { late: 1, ..CALM }).slow_callers();
    two_tabs_that_run_on_and_a_stop: two(3, Budget { stops: 1, ..TELLING }).half_asleep();
    two_tabs_that_run_on_and_a_late_stop: two(2, Budget { stops: 1, late: 1, ..CALM }).half_asleep();
    two_tabs_with_two_calls:
        two(3, Budget { give_ups: 1, ..CALM }).calls(&[FOR_EVER; 2], &[FOR_EVER]).at_once(2);
    two_tabs_with_two_calls_late:
        two(2, Budget { late: 1, ..CALM }).calls(&[FOR_EVER; 2], &[FOR_EVER]).at_once(2);
    two_tabs_with_two_calls_and_a_failing_store:
        two(2, Budget { failures: 1, ..CALM }).calls(&[FOR_EVER; 2], &[FOR_EVER]).at_once(2);
    two_tabs_that_hold_back:
        two(4, CALM).lens(&[4, 4]).slow_ticks().calls(&[FOR_EVER; 2], &[FOR_EVER]).at_once(2);
    two_tabs_whose_messages_do_not_reach_all: two(3, Budget { late: 1, ..CALM }).incomplete();
    twin_locks_and_a_stop: twins(2, Budget { stops: 1, ..CALM });
    twin_locks_that_linger: twins(3, CALM).lingering();

    // Of beats.
    two_tabs_that_beat: beating(4, Budget { beats: 4, ..CALM }).lens(&[3, 3]).beacons(5);
    two_tabs_that_beat_and_a_pause: beating(3, Budget { beats: 2, pauses: 1, ..CALM });
    two_tabs_that_beat_and_a_crash: beating(3, Budget { beats: 2, crashes: 1, ..CALM });
    two_tabs_that_hear_old_beats: beating(3, Budget { beats: 4, ..CALM }).wants_stay();
    two_tabs_that_beat_and_a_failing_store: beating(2, Budget { beats: 2, failures: 1, ..CALM });
    two_tabs_that_beat_and_hide: beating(2, Budget { beats: 2, hides: 1, ..CALM }).hiding(6);
    two_tabs_that_beat_and_write: beating(3, Budget { beats: 2, writes: 1, ..CALM }).long_writes();
    three_tabs_that_beat: World {
        kinds: three(1, CALM).beacons(4).kinds,
        ..beating(2, Budget { beats: 2, ..CALM })
    };

    // Of places.
    twin_locks_with_one_place: twins(4, Budget { give_ups: 1, ..CALM }).places(1);
    twin_locks_with_one_place_late: twins(2, Budget { late: 1, ..CALM }).places(1);
    twin_locks_with_one_place_and_a_stop: twins(2, Budget { stops: 1, ..CALM }).places(1);
    twin_locks_with_one_place_and_a_crash: twins(2, Budget { crashes: 1, ..CALM }).places(1);
    twin_locks_with_one_place_and_a_failing_store: twins(2, Budget { failures: 1, ..CALM }).places(1);
    twin_locks_with_one_place_and_deadlines:
        twins(3, CALM).places(1).calls(&[FOR_EVER], &[Waits::For(2)]);
    triplet_locks_with_one_place: triplets(2, CALM).places(1);
    triplet_locks_with_two_places: triplets(2, CALM).places(2);
}

large_worlds! {
    two_tabs_in_every_order_longer: loose(5, CALM);
    two_tabs_in_every_order_and_everything:
        loose(2, Budget { crashes: 1, pauses: 1, failures: 1, give_ups: 1, ..CALM });
    two_tabs_and_everything:
        two(3, Budget { crashes: 1, pauses: 1, failures: 1, give_ups: 1, late: 1, ..CALM });
    two_tabs_that_both_come_again: two(3, Budget { late: 1, ..CALM }).requests(2);
    two_tabs_that_hear_twice_and_late: two(2, Budget { repeats: 1, late: 1, ..CALM }).requests(2);
    two_tabs_out_of_order_again:
        two(2, Budget { give_ups: 1, late: 1, ..CALM }).unordered().first_comes_again();
    two_tabs_that_write_for_long_later: two(5, Budget { writes: 2, ..CALM }).long_writes();
    two_tabs_that_write_for_long_and_pause_later:
        two(5, Budget { writes: 1, pauses: 1, ..CALM }).long_writes();
    three_tabs_that_write_for_long: three(3, Budget { writes: 1, ..CALM }).long_writes();
    two_tabs_with_shorter_leases_later: two(8, Budget { late: 1, ..CALM }).lens(&[6, 2]).first_comes_again();
    two_tabs_with_coarse_clocks_and_all: coarse(14, Budget { pauses: 1, late: 1, ..CALM });
    two_tabs_with_beacons_and_all: two(4, Budget { crashes: 1, failures: 1, late: 2, ..CALM }).beacons(2);
    two_tabs_with_idle_leases_and_all: two(4, Budget { pauses: 1, crashes: 1, late: 1, ..CALM }).beacons(6);
    three_tabs_that_hide_later: three(3, Budget { hides: 2, ..CALM }).hiding(3);
    two_tabs_that_linger_and_come_again_late:
        two(3, Budget { late: 1, ..CALM }).lingering().first_comes_again();
    two_tabs_whose_callers_are_gone_and_come_again_late:
        two(2, Budget { late: 1, ..CALM }).slow_callers().first_comes_again();
    three_tabs_and_a_later_stop: three(3, Budget { stops: 1, ..CALM }).beacons(2);
    three_tabs_with_beacons_and_a_later_crash: three(3, Budget { crashes: 1, ..CALM }).beacons(4);
    three_tabs_later: three(4, Budget { late: 1, ..CALM });
    three_tabs_and_a_late_crash: three(3, Budget { crashes: 1, late: 1, ..CALM });
    three_tabs_and_a_late_pause: three(3, Budget { pauses: 1, late: 1, ..CALM });
    three_tabs_and_everything: three(3, Budget { crashes: 1, pauses: 1, failures: 1, give_ups: 1, ..CALM });
    three_tabs_with_beacons_and_two_crashes: three(3, Budget { crashes: 2, late: 1, ..CALM }).beacons(4);
    three_tabs_one_pushes_late: three(3, Budget { wants: 2, late: 1, ..CALM }).pushy();
    twin_locks_and_a_tab_later: twins(4, Budget { late: 1, ..CALM });
}

mutations! {
    proof_not_rechecked: ProofNotRechecked breaks G1 in two(4, CALM);
    proof_without_count: ProofWithoutCount breaks G1 in two(4, Budget { late: 1, ..CALM });
    renewal_not_counted: RenewalNotCounted breaks G1 in two(4, CALM);
    retake_not_counted: RetakeNotCounted breaks G1 in two(5, Budget { late: 2, ..CALM });
    renewal_of_any_lease: RenewalOfAnyLease breaks NO_FORBIDDEN_STEP in two(4, Budget { late: 1, ..CALM });
    renewal_by_tab: RenewalByTab breaks NO_FORBIDDEN_STEP in twins(4, Budget { late: 2, ..CALM });
    same_tab_extends: SameTabExtends breaks NO_FORBIDDEN_STEP in
        two(3, Budget { failures: 1, ..CALM }).requests(2);
    token_kept: TokenKept breaks NO_FORBIDDEN_STEP in two(4, CALM);
    quit_ignored: QuitIgnored breaks G3 in two(4, CALM);
    quit_ignored_by_oneself: QuitIgnored breaks G3_OWN in two(4, CALM);
    quit_grants_nobody: QuitGrantsNobody breaks NO_FORBIDDEN_STEP in two(4, CALM);
    queue_not_popped: QueueNotPopped breaks SOUND in two(4, CALM);
    join_at_head: JoinAtHead breaks NO_FORBIDDEN_STEP in three(4, CALM);
    granted_quit_ignored: GrantedQuitIgnored breaks G3 in two(4, Budget { give_ups: 1, late: 1, ..CALM });
    quit_by_tab: QuitByTab breaks G1 in twins(3, Budget { give_ups: 1, ..CALM });
    quit_by_anybody: QuitByAnybody breaks G1 in three(3, Budget { give_ups: 1, ..CALM });
    last_forgotten: LastForgotten breaks NO_FORBIDDEN_STEP in two(4, CALM).requests(2);
    wall_clock_decides: WallClockDecides breaks G1 in two(4, Budget { wall_jumps: 1, ..CALM });
    grants_add_one: GrantsAddOne breaks NO_FORBIDDEN_STEP in
        two(2, Budget { crashes: 1, late: 2, ..CALM }).first_comes_again();
    delegation_adds_two: DelegationAddsTwo breaks NO_FORBIDDEN_STEP in
        two(2, Budget { late: 2, ..CALM }).first_comes_again();
    pass_to_anybody: PassToAnybody breaks G3 in two(3, Budget { give_ups: 1, late: 1, ..CALM });
    delegated_take_by_anybody: DelegatedTakeByAnybody breaks NO_FORBIDDEN_STEP in
        three(3, Budget { wants: 2, late: 1, ..CALM }).pushy();
    delegated_take_not_rechecked: DelegatedTakeNotRechecked breaks G1 in
        two(2, Budget { late: 2, ..CALM }).first_comes_again();
    dead_not_rechecked: DeadNotRechecked breaks G1 in
        three(2, Budget { crashes: 1, late: 1, wants: 0, ..CALM }).beacons(2);
    claim_of_any_lease: ClaimOfAnyLease breaks NO_FORBIDDEN_STEP in two(3, Budget { late: 1, ..CALM });
    passed_claim_not_counted: PassedClaimNotCounted breaks G1 in
        two(3, Budget { late: 1, ..CALM }).first_comes_again();
    fence_by_token_alone: FenceByTokenAlone breaks G2 in
        two(3, Budget { deletions: 1, writes: 1, late: 1, ..CALM });
    fence_without_epoch: FenceWithoutEpoch breaks G2 in
        two(3, Budget { deletions: 1, writes: 1, late: 2, ..CALM });
    fence_without_holder: FenceWithoutHolder breaks G2 in
        two(3, Budget { writes: 1, late: 2, ..CALM }).unordered();
    fence_without_token: FenceWithoutToken breaks G2 in
        two(1, Budget { writes: 1, late: 2, ..CALM }).unordered();
    fence_without_claim: FenceWithoutClaim breaks NO_FORBIDDEN_STEP in
        two(3, Budget { writes: 1, late: 1, ..CALM });
    open_fence_is_belief: OpenFenceIsBelief breaks G1 in
        two(4, Budget { writes: 1, pauses: 1, ..CALM }).long_writes();
    store_out_of_order: StoreOutOfOrder breaks G1 in two(5, Budget { writes: 1, ..CALM }).long_writes();
    fence_apart: FenceApart breaks G2 in two(3, Budget { writes: 2, late: 2, ..CALM });
    fence_skipped: FenceSkipped breaks G2 in two(3, Budget { writes: 2, late: 2, ..CALM });
    take_valid_from_answer: TakeValidFromAnswer breaks G1 in two(4, Budget { late: 1, ..CALM });
    renewal_valid_from_answer: RenewalValidFromAnswer breaks G1 in
        two(5, Budget { late: 1, ..CALM }).lens(&[3, 3]);
    observed_from_sending: ObservedFromSending breaks G1 in two(5, Budget { late: 1, ..CALM });
    proof_one_tick_early: ProofOneTickEarly breaks G1 in two(4, CALM);
    observed_for_own_length: ObservedForOwnLength breaks G1 in two(4, CALM).lens(&[3, 2]);
    observed_for_ever: ObservedForEver breaks G3 in two(4, Budget { crashes: 1, ..CALM });
    refusal_ignored: RefusalIgnored breaks NO_FORBIDDEN_STEP in two(3, Budget { deletions: 1, ..CALM });
    expiry_not_told: ExpiryNotTold breaks G4_TOLD in two(4, CALM);
    expiry_ignored: ExpiryIgnored breaks G1 in two(4, CALM);
    ended_still_held: EndedStillHeld breaks G1 in twins(3, CALM);
    no_margin: NoMargin breaks G1 in coarse(11, CALM);
    grant_valid_from_receipt: GrantValidFromReceipt breaks G1 in
        two(3, Budget { late: 2, ..CALM }).first_comes_again();
    grant_by_tab: GrantByTab breaks NO_FORBIDDEN_STEP in two(3, Budget { repeats: 1, ..CALM }).requests(2);
    starts_unseen: StartsUnseen breaks NO_FORBIDDEN_STEP in
        three(3, Budget { wants: 2, late: 1, ..CALM }).pushy();
    receiver_length_ignored: ReceiverLengthIgnored breaks G1 in
        two(2, Budget { late: 2, ..CALM }).lens(&[4, 1]).first_comes_again();
    own_takeover_forgotten: OwnTakeoverForgotten breaks G4_SUPERSEDED in
        two(3, Budget { crashes: 1, late: 1, ..CALM }).beacons(2);
    own_take_forgotten: OwnTakeForgotten breaks G4_SUPERSEDED in
        three(1, Budget { late: 1, wants: 0, ..CALM });
    quits_after_delegating: QuitsAfterDelegating breaks G4_SUPERSEDED in two(3, Budget { late: 1, ..CALM });
    delegator_goes_on: DelegatorGoesOn breaks G1 in two(3, Budget { late: 1, ..CALM });
    own_delegation_not_dirty: OwnDelegationNotDirty breaks NO_FORBIDDEN_STEP in
        two(2, Budget { crashes: 1, late: 2, ..CALM }).first_comes_again();
    delegates_while_writing: DelegatesWhileWriting breaks NO_FORBIDDEN_STEP in
        two(3, Budget { writes: 1, late: 1, ..CALM });
    dead_holder_is_enough: DeadHolderIsEnough breaks G1 in three(1, Budget { crashes: 1, ..CALM }).beacons(2);
    beacon_too_early: BeaconTooEarly breaks G1 in two(3, CALM).beacons(2);
    unseen_beacon_believed: UnseenBeaconBelieved breaks G1 in two(3, CALM).beacons(2).locks(Locks::Apart);
    own_hold_believed: OwnHoldBelieved breaks G1 in two(3, CALM).beacons(2).locks(Locks::Apart);
    null_lock_believed: NullLockBelieved breaks G1 in two(3, CALM).beacons(2).locks(Locks::Null);
    foreign_manager_believed: ForeignManagerBelieved breaks G1 in
        two(3, CALM).beacons(2).locks(Locks::Foreign);
    shortened_not_cut: ShortenedNotCut breaks G1 in two(4, CALM).beacons(6);
    belief_outlives_stopping: BeliefOutlivesStopping breaks G1 in two(3, Budget { stops: 1, ..CALM });
    leaves_after_delegating: LeavesAfterDelegating breaks G4_SUPERSEDED in
        two(3, Budget { stops: 1, late: 1, ..CALM });
    queued_length_shrinks: QueuedLengthShrinks breaks G1 in
        two(2, Budget { hides: 1, late: 2, wants: 0, ..CALM }).lens(&[1, 1])
            .hiding(4)
            .hidden_first()
            .first_comes_again();
    retake_shortens: RetakeShortens breaks G1 in
        two(5, Budget { hides: 1, late: 1, ..CALM }).hiding(6).unordered();
    belief_outlives_closing: BeliefOutlivesClosing breaks G1 in two(3, Budget { closings: 1, ..CALM });

    // Of the contender.
    expiry_not_first: ExpiryNotFirst breaks NO_FORBIDDEN_STEP in
        two(3, CALM).calls(&[FOR_EVER; 2], &[FOR_EVER]).at_once(2);
    released_unclaimed: ReleasedUnclaimed breaks NO_FORBIDDEN_STEP in two(3, CALM);
    pass_forgotten: PassForgotten breaks G3 in two(3, Budget { late: 1, ..CALM });
    linger_never_ends: LingerNeverEnds breaks G3 in two(3, CALM).lingering();
    takes_twice: TakesTwice breaks NO_FORBIDDEN_STEP in two(3, Budget { late: 1, ..CALM });
    late_call_shares: LateCallShares breaks NO_FORBIDDEN_STEP in
        two(3, CALM).lens(&[4, 4]).slow_ticks().calls(&[FOR_EVER; 2], &[FOR_EVER]).at_once(2);
    suspended_tab_hears: SuspendedTabHears breaks NO_FORBIDDEN_STEP in
        two(3, Budget { stops: 1, ..CALM }).half_asleep();
    loss_told_twice: LossToldTwice breaks NO_FORBIDDEN_STEP in two(3, CALM);
    loss_not_told: LossNotTold breaks NO_FORBIDDEN_STEP in two(3, CALM);
    settled_twice: SettledTwice breaks NO_FORBIDDEN_STEP in two(3, CALM);
    failed_renewal_not_heard: FailedRenewalNotHeard breaks LIVELY in two(3, Budget { failures: 1, ..CALM });
    failed_take_not_heard: FailedTakeNotHeard breaks LIVELY in two(3, Budget { failures: 1, ..CALM });
    cut_not_published: CutNotPublished breaks G1 in two(2, Budget { pauses: 1, late: 1, ..CALM }).beacons(6);
    death_not_heard: DeathNotHeard breaks G3 in two(3, Budget { crashes: 1, ..CALM }).beacons(2);
    claim_forgotten: ClaimForgotten breaks LIVELY in two(3, CALM);
    resume_not_told: ResumeNotTold breaks LIVELY in two(3, Budget { stops: 1, ..CALM });
    deadline_not_heard: DeadlineNotHeard breaks NO_FORBIDDEN_STEP in
        two(3, CALM).calls(&[FOR_EVER], &[Waits::For(2)]);
    leave_not_heard: LeaveNotHeard breaks NO_FORBIDDEN_STEP in two(3, Budget { give_ups: 1, ..CALM });
    drop_not_heard: DropNotHeard breaks G3 in two(3, CALM);

    // Of beats.
    beats_wait_less: BeatsWaitLess breaks G1 in beating(4, Budget { beats: 4, ..CALM });
    heeded_from_hearing: HeededFromHearing breaks G1 in beating(4, Budget { beats: 4, ..CALM }).wants_stay();
    beat_of_any_count: BeatOfAnyCount breaks G1 in
        beating(4, Budget { beats: 1, hides: 1, ..CALM }).hiding(6).wants_stay();
    beat_heard_by_all: BeatHeardByAll breaks G1 in World {
        kinds: three(1, CALM).beacons(4).kinds,
        ..beating(3, Budget { beats: 4, ..CALM })
    };

    // Of looks.
    change_not_heard: ChangeNotHeard breaks LIVELY in two(3, CALM);
    looks_away: LooksAway breaks G3 in two(3, Budget { late: 1, wants: 0, ..CALM });

    // Of places.
    places_unbounded: PlacesUnbounded breaks BOUNDED in triplets(1, CALM).places(1);
    place_not_told: PlaceNotTold breaks LIVELY in triplets(1, CALM).places(1);
    overtakes_in_the_tab: OvertakesInTheTab breaks NO_FORBIDDEN_STEP in triplets(2, CALM).places(1);
    place_kept: PlaceKept breaks LIVELY in twins(2, CALM).places(1);
}

#[test]
fn tries_not_answered() {
    hides(
        Mutation::TriesNotAnswered,
        SERVED,
        two(3, TELLING).lingering().last_only_tries(),
    );
}
