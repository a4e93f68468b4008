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
use world::{Action, Budget, Kind, State, World};

const NOTHING: Budget = Budget {
    crashes: 0,
    pauses: 0,
    failures: 0,
    give_ups: 0,
    writes: 0,
    deletions: 0,
    wall_jumps: 0,
};

fn world(name: &'static str, tabs: usize, len: u32, horizon: u64, budget: Budget) -> World {
    let kind = |tab: usize| Kind {
        tab,
        len,
        offset: 5 * tab as u64,
        join: true,
        requests: 1,
    };
    World {
        name,
        kinds: (0..tabs).map(kind).collect(),
        granule: 1,
        horizon,
        budget,
        fifo: true,
        mutation: None,
    }
}

fn explore(world: World) {
    let begin = Instant::now();
    let name = world.name;
    let checker = world.clone().checker().spawn_dfs().join();
    eprintln!(
        "{name}: {} states, {} steps, depth {}, {:.1} s",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        begin.elapsed().as_secs_f64()
    );
    let found = checker.discoveries();
    if found.len() != 1 {
        eprintln!("{:?}", found.keys());
        println!("{:?}", shortest(world));
        panic!();
    }
}

fn shortest(world: World) -> Option<(&'static str, Vec<Action>)> {
    let checker = world
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let found = checker.discoveries();
    found
        .into_iter()
        .filter(|(name, _)| *name != "two tabs have held")
        .map(|(name, path): (_, Path<State, Action>)| (name, path.into_actions()))
        .min_by_key(|(_, actions)| actions.len())
}

#[test]
fn probe() {
    for horizon in [2, 3, 4, 5, 6] {
        explore(world("plain 2", 2, 2, horizon, NOTHING));
    }
    explore(world("crash 2", 2, 2, 4, Budget { crashes: 1, ..NOTHING }));
    explore(world("pause 2", 2, 2, 4, Budget { pauses: 1, ..NOTHING }));
    explore(world("failure 2", 2, 2, 4, Budget { failures: 1, ..NOTHING }));
    explore(world("give up 2", 2, 2, 4, Budget { give_ups: 1, ..NOTHING }));
    explore(world("plain 3", 3, 2, 3, NOTHING));
    explore(world("plain 3", 3, 2, 4, NOTHING));
    let _ = Mutation::NoMargin;
}
