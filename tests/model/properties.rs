//! What must hold in every state, and what must happen in some (or the model would prove nothing).

use stateright::Property;

use tab_lease::contender::Timer;
use tab_lease::rules::Command;

use crate::faults::STALE;
use crate::world::{Lease, Life, State, World, tab_name};

/// Every world must show this, or it shows nothing.
pub const SOMEBODY_ELSE: &str = "the lock goes from one tab to another";

/// Worlds in which a holder can learn who waits must show this as well.
pub const BY_MESSAGE: &str = "a lease runs that the record does not know of yet";

/// [`State::fault`]: hands and tokens in order (G1), `dirty` true when it must be, a refusal
/// told (G4). Seen at the step, not at the state.
pub const NO_FORBIDDEN_STEP: &str = "no forbidden step";
pub const G1: &str = "G1: no two tabs hold at once";
pub const G2: &str = "G2: no stale write is committed";
pub const G3: &str = "G3: whoever wants the lock gets it in time";
pub const G3_OWN: &str = "G3: nobody is locked out by itself";
pub const G4_SUPERSEDED: &str = "G4: nobody believes in a lease that was superseded";
pub const G4_TOLD: &str = "G4: whoever runs was told of every loss";
/// Every call that waits, every lease and every delegation has something coming to it.
pub const LIVELY: &str = "a tab that runs has forgotten nothing";
pub const DEADLINE: &str = "every call has its deadline set";
/// Worlds in which somebody only tries must show this, if they can.
pub const SERVED: &str = "a lease that nobody uses is given up for a try";
/// However many calls a tab has.
pub const BOUNDED: &str = "a tab has no more requests in the queue than places";
/// Worlds in which tabs beat must show this.
pub const HEEDED: &str = "a holder goes by the head of the queue";
pub const SOUND: &str = "the record is sound";

pub fn all() -> Vec<Property<World>> {
    vec![
        Property::always(G1, exclusion),
        Property::always(NO_FORBIDDEN_STEP, |_, s: &State| s.fault.is_none()),
        Property::always(G2, |_, s: &State| s.fault != Some(STALE)),
        Property::always(G3, World::recovers),
        Property::always(G3_OWN, World::own_lease_is_no_obstacle),
        Property::always(G4_SUPERSEDED, superseded),
        Property::always(G4_TOLD, told),
        Property::always(SOUND, |_, s: &State| {
            s.record.as_ref().is_none_or(|r| r.check().is_ok())
        }),
        Property::always(LIVELY, lively),
        Property::always(DEADLINE, deadline),
        Property::always(BOUNDED, bounded),
        Property::sometimes(SERVED, |_, s: &State| s.served),
        Property::sometimes(HEEDED, |world, s: &State| {
            let agreed = |i: usize| {
                let tab = &s.tabs[i];
                tab.lease.is_some() && tab.contender.participant().is_heeded(world.clock(s, i))
            };
            s.beat && (0..s.tabs.len()).any(agreed)
        }),
        Property::sometimes(SOMEBODY_ELSE, |_, s: &State| {
            s.started.is_some_and(|started| started.tab != 0)
        }),
        Property::sometimes(BY_MESSAGE, |world, s: &State| {
            let record = s.record.as_ref();
            record.is_some_and(|r| {
                beliefs(world, s).any(|l| l.epoch == r.epoch && l.token == r.token + 1)
            })
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

/// Whoever believes has the newest token. (A holder by delegation has one more than the record.)
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
        let holding = tab.contender.participant().holding(world.clock(state, i));
        tab.life != Life::Awake || tab.lease.is_some() == holding.is_some()
    })
}

/// Nothing waits that nothing will wake: neither a timer nor an answer, nor a place that becomes free.
fn lively(world: &World, state: &State) -> bool {
    (0..state.tabs.len()).all(|i| {
        let tab = &state.tabs[i];
        if tab.life != Life::Awake || tab.suspended {
            return true;
        }
        let set = |timer| tab.contender.due_at(timer).is_some();
        let takes = tab.asks();
        let looks = set(Timer::Look) || set(Timer::Reply) || set(Timer::Beacon);
        let in_the_tab =
            tab.contender.standing().waits.is_some() && world.moves_up(state, i) != Some(i);
        let renews = tab.awaits(|c| matches!(c, Command::Renew { .. } | Command::Claim { .. }));
        let passes = tab.awaits(|command| matches!(command, Command::Pass { .. }));
        let unclaimed = tab.contender.participant().is_unclaimed();
        (tab.callers.is_empty() || takes || looks || in_the_tab)
            && (tab.lease.is_none() || renews || set(Timer::Beat) || tab.aside.is_some())
            && (tab.lease.is_none() || tab.guards > 0 || set(Timer::Linger) || unclaimed)
            && (tab.passing.is_none() || passes || set(Timer::Pass))
    })
}

/// Where commands keep their order: else a take may overtake the quit of the one before.
fn bounded(world: &World, state: &State) -> bool {
    let queue = state.record.iter().flat_map(|record| &record.queue);
    !world.fifo
        || world.kinds.iter().all(|kind| {
            let tab = tab_name(kind.tab);
            queue.clone().filter(|w| w.who.tab == tab).count() <= world.places
        })
}

fn deadline(world: &World, state: &State) -> bool {
    state.tabs.iter().all(|tab| {
        let until = tab
            .callers
            .iter()
            .filter_map(|caller| world.deadline(caller));
        tab.contender.due_at(Timer::Deadline) == until.min()
    })
}
