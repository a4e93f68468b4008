//! Exhaustive exploration of small worlds: two and three tabs, one lock, and everything that may go
//! wrong, in every order, by the model checker `stateright`. The transitions are the crate's own
//! [`rules::apply`](tab_lease::rules::apply) and [`Participant`](tab_lease::participant::Participant).
//!
//! - `model/world.rs`: states, actions, bounds, and where a new command or message goes;
//! - `model/properties.rs`: G1 to G4 (progress is explained there);
//! - `model/mutation.rs`: how rules are broken, to see that the checker notices.
//!
//! `TAB_LEASE_MODEL=large` explores the larger worlds as well (some minutes, and a GB or two of memory).
//!
//! # What is bounded
//!
//! Time is discrete and ends at a horizon (of 3 to 12 ticks, leases being 2, 3 or 6), so requests are
//! few as well. Faults have a [`Budget`]. Worlds of three tabs are *brisk* (see [`Pace`](world::Pace)):
//! the order of steps within one tick is reduced to that of the store's, and how much is late is bounded.
//! States are told apart by 64-bit fingerprints, so that a state may be missed with a probability of
//! about n²/2⁶⁵: for ten million, 0.0003 %.
//!
//! # Traps of the protocol that have no mutation here
//!
//! | trap | waits for |
//! |---|---|
//! | the stamp; start only if seen at the head; V ≤ now + the receiver's length | delegation |
//! | `pass` and delegated take only for the head; only a delegation adds 1 | delegation |
//! | no start while an own takeover, no delegation while an own take is unanswered | delegation |
//! | after delegating, nothing but `pass`; no delegation with fenced writes pending | delegation |
//! | own delegations count as dirty; the receiver's claim bumps the count | delegation |
//! | beacon takeover only if everyone ahead is dead; beacon flagged only once held | beacons |
//! | cutting validity when a shorter lease is sent | hide and show |
//! | belief ends before `versionchange` closes | orderly deletion |
#![cfg(not(target_arch = "wasm32"))]

#[path = "model/mutation.rs"]
mod mutation;
#[path = "model/properties.rs"]
mod properties;
#[path = "model/world.rs"]
mod world;

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model, Path};

use mutation::Mutation;
use properties::{G1, G3, G3_OWN, G4_SUPERSEDED, G4_TOLD, NO_FORBIDDEN_STEP, SOMEBODY_ELSE, SOUND};
use world::{Action, Budget, Kind, World};

const CALM: Budget = Budget {
    crashes: 0,
    pauses: 0,
    failures: 0,
    late: 0,
    give_ups: 0,
    writes: 0,
    deletions: 0,
    wall_jumps: 0,
};

// ---- Worlds -----------------------------------------------------------------------------------

/// Two tabs with leases of two ticks. Everything may be as late as time allows.
fn two(horizon: u64, budget: Budget) -> World {
    World {
        kinds: vec![kind(0, 2), kind(1, 2)],
        granule: 1,
        horizon,
        budget,
        fifo: true,
        brisk: false,
        mutation: None,
    }
}

/// Three tabs with leases of two ticks. Lateness is in the budget.
fn three(horizon: u64, budget: Budget) -> World {
    World {
        kinds: vec![kind(0, 2), kind(1, 2), kind(2, 2)],
        brisk: true,
        ..two(horizon, budget)
    }
}

/// Two tabs whose clocks tell every second tick, not the same ones.
fn coarse(horizon: u64, budget: Budget) -> World {
    World {
        kinds: vec![kind(0, 6), kind(1, 6)],
        granule: 2,
        brisk: true,
        ..two(horizon, budget)
    }
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

fn kind(tab: usize, len: u32) -> Kind {
    Kind {
        tab,
        len,
        offset: 5 * tab as u64,
        join: true,
        requests: 1,
    }
}

impl World {
    fn lens(mut self, lens: &[u32]) -> Self {
        for (kind, len) in self.kinds.iter_mut().zip(lens) {
            kind.len = *len;
        }
        self
    }

    fn requests(mut self, requests: u64) -> Self {
        self.kinds.iter_mut().for_each(|k| k.requests = requests);
        self
    }

    /// The last tab tries only, and never waits in the queue.
    fn last_only_tries(mut self) -> Self {
        if let Some(last) = self.kinds.last_mut() {
            last.join = false;
        }
        self
    }

    fn unordered(self) -> Self {
        Self {
            fifo: false,
            ..self
        }
    }
}

// ---- Exploration ------------------------------------------------------------------------------

/// Explores a world to its end; nothing must be found.
fn explore(name: &str, world: World) {
    let begun = Instant::now();
    let checker = world.clone().checker().spawn_dfs().join();
    println!(
        "{name}: {} states, {} steps, {:.1} s",
        checker.unique_state_count(),
        checker.state_count(),
        begun.elapsed().as_secs_f64()
    );
    let found = checker.discoveries();
    for property in [
        NO_FORBIDDEN_STEP,
        G1,
        G3,
        G3_OWN,
        G4_SUPERSEDED,
        G4_TOLD,
        SOUND,
    ] {
        if found.contains_key(property) {
            panic!(
                "{name}: not \"{property}\": {:#?}",
                shortest(property, world)
            );
        }
    }
    assert!(found.contains_key(SOMEBODY_ELSE), "{name} shows nothing");
}

/// The shortest way to break a property, if there is one.
fn shortest(property: &'static str, world: World) -> Option<Vec<Action>> {
    let checker = world
        .checker()
        .finish_when(HasDiscoveries::AnyOf([property].into()))
        .spawn_bfs()
        .join();
    checker.discovery(property).map(Path::into_actions)
}

/// Explores a world in which a rule is broken: that property must be found broken. ([`explore`] finds
/// nothing in worlds of the same kind where no rule is.)
fn catches(mutation: Mutation, property: &'static str, world: World) {
    let mutated = World {
        mutation: Some(mutation),
        ..world
    };
    let begun = Instant::now();
    let Some(actions) = shortest(property, mutated) else {
        panic!("{mutation:?} is not noticed");
    };
    println!(
        "{mutation:?}: not \"{property}\" after {} steps, {:.1} s\n  {actions:?}",
        actions.len(),
        begun.elapsed().as_secs_f64()
    );
}

macro_rules! worlds {
    ($($(#[$large:ident])? $name:ident: $world:expr;)*) => {$(
        #[test]
        fn $name() {
            $(if !$large() { return; })?
            explore(stringify!($name), $world);
        }
    )*};
}

macro_rules! mutations {
    ($($name:ident: $mutation:ident breaks $property:ident in $world:expr;)*) => {$(
        #[test]
        fn $name() {
            catches(Mutation::$mutation, $property, $world);
        }
    )*};
}

/// Whether the larger worlds are asked for.
fn large() -> bool {
    std::env::var("TAB_LEASE_MODEL").is_ok_and(|size| size == "large")
}

worlds! {
    two_tabs: two(6, CALM);
    two_tabs_and_a_crash: two(4, Budget { crashes: 1, give_ups: 1, ..CALM });
    two_tabs_and_a_pause: two(5, Budget { pauses: 1, ..CALM });
    two_tabs_and_a_failing_store: two(4, Budget { failures: 1, ..CALM });
    two_tabs_that_come_again: two(4, CALM).requests(2);
    two_tabs_out_of_order: two(3, Budget { give_ups: 1, ..CALM }).unordered();
    two_tabs_with_leases_of_their_own: two(5, CALM).lens(&[3, 2]);
    two_tabs_with_longer_leases: two(6, CALM).lens(&[3, 3]);
    two_tabs_that_write: two(3, Budget { pauses: 1, writes: 2, ..CALM });
    two_tabs_and_a_deletion: two(3, Budget { deletions: 1, writes: 2, ..CALM });
    two_tabs_and_a_jumping_wall_clock: two(3, Budget { wall_jumps: 2, deletions: 1, ..CALM });
    two_tabs_with_coarse_clocks: coarse(10, Budget { pauses: 1, late: 2, ..CALM });
    three_tabs: three(5, Budget { late: 1, ..CALM });
    three_tabs_and_a_crash: three(4, Budget { crashes: 1, late: 1, ..CALM });
    three_tabs_and_a_pause: three(3, Budget { pauses: 1, late: 1, ..CALM });
    three_tabs_and_a_failing_store: three(4, Budget { failures: 1, late: 1, ..CALM });
    three_tabs_and_everything: three(4, Budget { crashes: 1, pauses: 1, failures: 1, give_ups: 1, ..CALM });
    three_tabs_one_only_tries: three(4, Budget { crashes: 1, ..CALM }).last_only_tries();
    twin_locks_and_a_tab: twins(4, Budget { give_ups: 1, late: 1, ..CALM });
    #[large] large_two_tabs_and_everything: two(4, Budget { crashes: 1, pauses: 1, failures: 1, give_ups: 1, ..CALM });
    #[large] large_two_tabs_that_come_again: two(6, CALM).requests(2);
    #[large] large_two_tabs_out_of_order: two(2, Budget { give_ups: 1, ..CALM }).requests(2).unordered();
    #[large] large_three_tabs: three(5, Budget { late: 2, ..CALM });
    #[large] large_three_tabs_and_a_pause: three(4, Budget { pauses: 1, late: 2, ..CALM });
    #[large] large_three_tabs_a_crash_and_a_pause: three(4, Budget { crashes: 1, pauses: 1, late: 1, ..CALM });
}

mutations! {
    proof_not_rechecked: ProofNotRechecked breaks G1 in two(4, CALM);
    proof_without_count: ProofWithoutCount breaks G1 in two(4, CALM);
    renewal_not_counted: RenewalNotCounted breaks G1 in two(4, CALM);
    retake_not_counted: RetakeNotCounted breaks G1 in two(5, CALM);
    renewal_of_any_lease: RenewalOfAnyLease breaks NO_FORBIDDEN_STEP in two(4, CALM);
    renewal_by_tab: RenewalByTab breaks NO_FORBIDDEN_STEP in twins(4, Budget { late: 2, ..CALM });
    same_tab_extends: SameTabExtends breaks NO_FORBIDDEN_STEP in two(3, Budget { failures: 1, ..CALM }).requests(2);
    token_kept: TokenKept breaks NO_FORBIDDEN_STEP in two(4, CALM);
    quit_ignored: QuitIgnored breaks G3 in two(4, CALM);
    quit_ignored_by_oneself: QuitIgnored breaks G3_OWN in two(4, CALM);
    quit_grants_nobody: QuitGrantsNobody breaks NO_FORBIDDEN_STEP in two(4, CALM);
    queue_not_popped: QueueNotPopped breaks SOUND in two(4, CALM);
    join_at_head: JoinAtHead breaks NO_FORBIDDEN_STEP in three(4, CALM);
    granted_quit_ignored: GrantedQuitIgnored breaks G3 in two(4, Budget { give_ups: 1, ..CALM });
    quit_by_tab: QuitByTab breaks G1 in twins(3, Budget { give_ups: 1, ..CALM });
    quit_by_anybody: QuitByAnybody breaks G1 in three(3, Budget { give_ups: 1, ..CALM });
    last_forgotten: LastForgotten breaks NO_FORBIDDEN_STEP in two(4, CALM);
    wall_clock_decides: WallClockDecides breaks G1 in two(4, Budget { wall_jumps: 1, ..CALM });
    fence_by_token_alone: FenceByTokenAlone breaks NO_FORBIDDEN_STEP in two(3, Budget { deletions: 1, writes: 1, ..CALM });
    fence_apart: FenceApart breaks NO_FORBIDDEN_STEP in two(3, Budget { writes: 2, ..CALM });
    fence_skipped: FenceSkipped breaks NO_FORBIDDEN_STEP in two(3, Budget { writes: 2, ..CALM });
    take_valid_from_answer: TakeValidFromAnswer breaks G1 in two(4, CALM);
    renewal_valid_from_answer: RenewalValidFromAnswer breaks G1 in two(5, CALM).lens(&[3, 3]);
    observed_from_sending: ObservedFromSending breaks G1 in two(5, CALM);
    proof_one_tick_early: ProofOneTickEarly breaks G1 in two(4, CALM);
    observed_for_own_length: ObservedForOwnLength breaks G1 in two(4, CALM).lens(&[3, 2]);
    observed_for_ever: ObservedForEver breaks G3 in two(4, Budget { crashes: 1, ..CALM });
    refusal_ignored: RefusalIgnored breaks NO_FORBIDDEN_STEP in two(3, Budget { deletions: 1, ..CALM });
    expiry_not_told: ExpiryNotTold breaks G4_TOLD in two(4, CALM);
    expiry_ignored: ExpiryIgnored breaks G1 in two(4, CALM);
    ended_still_held: EndedStillHeld breaks G1 in twins(3, CALM);
    no_margin: NoMargin breaks G1 in coarse(12, CALM);
}
