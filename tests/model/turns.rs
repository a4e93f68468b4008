//! Turns, explored: a tab that holds, whose calls come in every order, and another that waits.
//!
//! The rule is the crate's own [`Turns`]. What is written here is the tab around it: guards that end, calls
//! that overlap, code under a guard that calls again and goes on only when it has been let in, and others
//! that give up and come anew. A tick is half of the first patience.

use std::time::Duration;

use stateright::{Checker, HasDiscoveries, Model, Property};
use tab_lease::participant::Now;
use tab_lease::rules::Requester;
use tab_lease::turns::{HeldBack, PATIENCE_MS, Turn, Turns};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// Calls share, whoever waits.
    CallsAlwaysShare,
    /// The patience is the same each time.
    PatienceStays,
    /// A call is held back until the lease is handed on.
    PatienceNeverEnds,
    /// Whoever comes to wait has calls held back anew.
    HeldBackAnew,
}

#[derive(Clone, Debug)]
pub struct World {
    /// How long a section lasts at most, in ticks, the time aside for which its own call is held back.
    pub longest: u64,
    /// Whether code under a guard calls again.
    pub nests: bool,
    /// How often who waits gives up, and another comes.
    pub others: u64,
    /// Time ends here, in ticks.
    pub horizon: u64,
    pub mutation: Option<Mutation>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Section {
    /// How long it may still last.
    left: u64,
    /// It goes on when that call has been let in.
    calls: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Call {
    id: u64,
    since: u64,
    held_back: Option<HeldBack>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    now: u64,
    turns: Turns,
    sections: Vec<Section>,
    calls: Vec<Call>,
    calls_so_far: u64,
    other: u64,
    /// The lease has drained, and the other has it.
    handed_on: bool,
    /// Who waits has done so since.
    waits_since: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Tick,
    /// A call from elsewhere in the tab.
    Call,
    /// Code in that section calls again.
    CallFrom(usize),
    /// That section ends.
    End(usize),
    OtherComes,
}

const STARVATION: &str = "no starvation: the other gets its turn";
const DEADLOCK: &str = "no deadlock: every call is let in";
const RUNS_OUT: &str = "a call shares though the other waits";

/// At once: sections and calls that are held back.
const CROWD: usize = 3;

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let section = Section {
            left: self.longest,
            calls: None,
        };
        vec![State {
            now: 0,
            turns: Turns::default(),
            sections: vec![section],
            calls: Vec::new(),
            calls_so_far: 0,
            other: 1,
            handed_on: false,
            waits_since: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.handed_on {
            return;
        }
        let crowd = state.sections.len() + state.calls.len();
        if crowd < CROWD {
            actions.push(Action::Call);
        }
        for (n, section) in state.sections.iter().enumerate() {
            if section.calls.is_none() {
                actions.push(Action::End(n));
                if self.nests && crowd < CROWD {
                    actions.push(Action::CallFrom(n));
                }
            }
        }
        if state.other <= self.others {
            actions.push(Action::OtherComes);
        }
        if state.now < self.horizon {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Tick => self.tick(&mut next),
            Action::Call => _ = self.call(&mut next),
            Action::CallFrom(n) => next.sections[n].calls = self.call(&mut next),
            Action::End(n) => _ = next.sections.remove(n),
            Action::OtherComes => {
                next.other += 1;
                next.waits_since = next.now;
            }
        }
        self.look(&mut next);
        // Alike but for their order.
        next.sections
            .sort_by_key(|section| (section.left, section.calls));
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(STARVATION, |world: &Self, state: &State| {
                // Code that calls again keeps its section open for as long as it is held back itself.
                world.nests || state.handed_on || state.now - state.waits_since <= 4 * world.longest
            }),
            Property::always(DEADLOCK, |_, state: &State| {
                // The first three patiences are 2, 4 and 8 ticks.
                state.calls.iter().all(|call| state.now - call.since <= 8)
            }),
            Property::sometimes(RUNS_OUT, |_, state: &State| state.turns != Turns::default()),
        ]
    }
}

impl World {
    fn tick(&self, state: &mut State) {
        state.now += 1;
        for section in state
            .sections
            .iter_mut()
            .filter(|section| section.calls.is_none())
        {
            section.left = section.left.saturating_sub(1);
        }
        state
            .sections
            .retain(|section| section.left > 0 || section.calls.is_some());
    }

    /// A new call: let in, or held back. Answers which, if it is held back.
    fn call(&self, state: &mut State) -> Option<u64> {
        state.calls_so_far += 1;
        let id = state.calls_so_far;
        let (since, held_back) = (state.now, None);
        state.calls.push(Call {
            id,
            since,
            held_back,
        });
        self.look(state);
        state.calls.iter().any(|call| call.id == id).then_some(id)
    }

    /// Calls that are held back look, and the lease is handed on once it has drained.
    fn look(&self, state: &mut State) {
        if state.sections.is_empty() {
            state.handed_on = true;
            return;
        }
        let now = ticks(state.now);
        let other = Requester {
            tab: "other".to_owned(),
            request: state.other,
        };
        let waits = Some(&other).filter(|_| self.mutation != Some(Mutation::CallsAlwaysShare));
        for mut call in std::mem::take(&mut state.calls) {
            match self.mutation {
                Some(Mutation::HeldBackAnew) if state.waits_since == state.now => {
                    call.held_back = None
                }
                Some(Mutation::PatienceStays) => state.turns = Turns::default(),
                _ => {}
            }
            let turn = state.turns.turn(&mut call.held_back, waits, now);
            if turn != Turn::Share || self.mutation == Some(Mutation::PatienceNeverEnds) {
                state.calls.push(call);
                continue;
            }
            for section in &mut state.sections {
                section.calls.take_if(|id| *id == call.id);
            }
            state.sections.push(Section {
                left: self.longest,
                calls: None,
            });
        }
    }
}

fn ticks(ticks: u64) -> Now {
    Duration::from_millis(ticks * u64::from(PATIENCE_MS) / 2)
}

fn explore(world: World) {
    let checker = world.checker().spawn_dfs().join();
    println!("turns: {} states", checker.unique_state_count());
    let found = checker.discoveries();
    for property in [STARVATION, DEADLOCK] {
        if let Some(path) = found.get(property) {
            panic!("not \"{property}\": {:#?}", path.clone().into_actions());
        }
    }
    assert!(found.contains_key(RUNS_OUT), "nothing ever runs out");
}

fn catches(mutation: Mutation, property: &'static str, world: World) {
    let mutation = Some(mutation);
    let checker = World { mutation, ..world }
        .checker()
        .finish_when(HasDiscoveries::AnyOf([property].into()))
        .spawn_bfs()
        .join();
    assert!(
        checker.discovery(property).is_some(),
        "{mutation:?} is not noticed"
    );
}

/// Sections that are longer than the first patience, and shorter than the second.
fn overlapping() -> World {
    World {
        longest: 3,
        nests: false,
        others: 0,
        horizon: 13,
        mutation: None,
    }
}

/// Code under the lock that calls again, while others come and go.
fn nesting() -> World {
    World {
        longest: 2,
        nests: true,
        others: 2,
        horizon: 12,
        mutation: None,
    }
}

#[test]
fn turns_of_overlapping_calls() {
    explore(overlapping());
}

#[test]
fn turns_of_calls_under_the_lock() {
    explore(nesting());
}

#[test]
fn turns_while_others_come_and_go() {
    explore(World {
        others: 2,
        horizon: 10,
        ..overlapping()
    });
}

#[test]
fn calls_always_share() {
    catches(Mutation::CallsAlwaysShare, STARVATION, overlapping());
}

#[test]
fn patience_stays() {
    catches(Mutation::PatienceStays, STARVATION, overlapping());
}

#[test]
fn patience_never_ends() {
    catches(Mutation::PatienceNeverEnds, DEADLOCK, nesting());
}

#[test]
fn held_back_anew() {
    let world = World {
        longest: 20,
        nests: true,
        others: 9,
        horizon: 10,
        mutation: None,
    };
    catches(Mutation::HeldBackAnew, DEADLOCK, world);
}
