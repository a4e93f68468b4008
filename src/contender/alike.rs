//! Which contenders behave alike, for model checkers: a hash that is coarser than equality.
//!
//! A timer is set or not; when it is due is left out, since a timer may fire at any time. Commands are
//! numbered by their place among those that have not been answered.

use std::hash::{Hash, Hasher};

use super::calls::{Beacon, Call, Step};
use super::keeping::{Keeping, Linger, Parting, Passing};
use super::{Contender, Patience, SendId, Sent};

/// The place of a command among those on their way.
struct Places<'a>(&'a [Sent]);

impl Places<'_> {
    fn of(&self, id: Option<SendId>) -> Option<usize> {
        self.0.iter().position(|sent| Some(sent.id) == id)
    }

    /// How many were sent before `id`.
    fn before(&self, id: SendId) -> usize {
        self.0.iter().filter(|sent| sent.id < id).count()
    }
}

impl Hash for Contender {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self {
            // Settings: the same for as long as it lives.
            lease_ms: _,
            heartbeat_ms: _,
            first_pause_ms: _,
            longest_pause_ms: _,
            around: _,
            participant,
            turns,
            calls,
            take,
            changed,
            beacon,
            watched,
            keeping,
            partings,
            passing,
            tries,
            sent,
            next_send: _,
            suspended,
            abandoned,
        } = self;
        let places = Places(sent);
        participant.hash(state);
        turns.hash(state);
        calls.len().hash(state);
        calls.iter().for_each(|call| call.alike(&places, state));
        take.map(|(id, of)| (places.of(Some(id)), of)).hash(state);
        matches!(beacon, Beacon::Unknown).hash(state);
        matches!(beacon, Beacon::Settled).hash(state);
        watched.hash(state);
        keeping.is_some().hash(state);
        keeping
            .iter()
            .for_each(|keeping| keeping.alike(&places, state));
        partings.len().hash(state);
        for Parting {
            lease,
            quit,
            until: _,
        } in partings
        {
            (lease, places.of(Some(*quit))).hash(state);
        }
        passing.is_some().hash(state);
        // After `until` a pass that failed is given up, which is no timer.
        if let Some(Passing {
            grant,
            pass,
            sent,
            next: _,
            until,
        }) = passing
        {
            (grant, pass, places.of(*sent), until).hash(state);
        }
        tries.hash(state);
        for Sent { id: _, at, leaves } in sent {
            (at, leaves).hash(state);
        }
        (changed, suspended, abandoned).hash(state);
    }
}

impl Call {
    fn alike<H: Hasher>(&self, places: &Places<'_>, state: &mut H) {
        let Self {
            id,
            patience,
            step,
            refusals,
            late,
            sent,
            held_back,
        } = self;
        id.hash(state);
        std::mem::discriminant(patience).hash(state);
        let refusals = match patience {
            Patience::Spin { .. } => *refusals,
            Patience::Try | Patience::Until(_) => (*refusals).min(2),
        };
        std::mem::discriminant(step).hash(state);
        match step {
            Step::Asks(from) => places.before(*from).hash(state),
            Step::Rests { pause, .. } => pause.is_zero().hash(state),
            Step::Comes | Step::HeldBackUntil(_) | Step::AwaitsReply { .. } => {}
        }
        (refusals, late, places.of(*sent), held_back).hash(state);
    }
}

impl Keeping {
    fn alike<H: Hasher>(&self, places: &Places<'_>, state: &mut H) {
        let Self {
            lease,
            epoch,
            token,
            guards,
            dirty,
            told,
            next_beat,
            renewal,
            last_sent: _,
            store_failed,
            linger,
        } = self;
        (lease, epoch, token, guards, dirty, told).hash(state);
        // A renewal that is not on its way any more is one that will never be answered.
        (next_beat.is_some(), renewal.is_some(), places.of(*renewal)).hash(state);
        (store_failed, std::mem::discriminant::<Linger>(linger)).hash(state);
    }
}
