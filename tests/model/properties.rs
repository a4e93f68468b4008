//! What must hold in every state, and what must happen in some (or the model would prove nothing).

use stateright::Property;

use crate::world::{Lease, Life, State, World};

pub fn all() -> Vec<Property<World>> {
    vec![
        Property::always("G1 exclusion", exclusion),
        Property::always("G1, G2, tokens: no step that no rule may take", |_, s: &State| {
            s.fault.is_none()
        }),
        Property::always("G3 progress", World::recovers),
        Property::always("G3 no obstacle to oneself", World::own_lease_is_no_obstacle),
        Property::always("G4 a superseded lease is not believed in", superseded),
        Property::always("G4 a loss is told", told),
        Property::always("the record is sound", |_, s: &State| {
            s.record.as_ref().is_none_or(|r| r.check().is_ok())
        }),
        Property::sometimes("two tabs have held", |_, s: &State| {
            s.started.is_some_and(|started| started.tab != 0)
        }),
    ]
}

fn beliefs(world: &World, state: &State) -> impl Iterator<Item = Lease> {
    (0..state.tabs.len()).filter_map(|i| world.believes(state, i))
}

/// No two tabs believe at the same instant; after a deletion by force, no two of one epoch.
fn exclusion(world: &World, state: &State) -> bool {
    let deleted = state.left.deletions < world.budget.deletions;
    let mut seen: Option<Lease> = None;
    beliefs(world, state).all(|lease| {
        let before = seen.replace(lease);
        before.is_none_or(|before| deleted && before.epoch != lease.epoch)
    })
}

/// Whoever believes has the newest token. (The holder by delegation will have one more than the
/// record.)
fn superseded(world: &World, state: &State) -> bool {
    let Some(record) = &state.record else {
        return true;
    };
    beliefs(world, state).all(|l| l.epoch != record.epoch || l.token >= record.token)
}

/// An application whose tab runs knows of every loss that has come by now.
fn told(world: &World, state: &State) -> bool {
    (0..state.tabs.len()).all(|i| {
        let tab = &state.tabs[i];
        let good = tab.participant.holding(world.clock(state, i)).is_some();
        tab.life != Life::Awake || tab.lease.is_some() == good
    })
}
