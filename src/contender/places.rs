//! How many requests of one tab stand in the queue of one name: a bounded number, however many calls there
//! are.
//!
//! Each exclusive call of a tab is a lock object of its own, with a request of its own. A thousand of them in
//! the record would make each command of each tab as long as a thousand entries. So a tab has
//! [`PLACES`](crate::config::PLACES) places in the queue of a name. A lock object whose call wants to wait
//! takes one when it sends its first take; the others wait in the tab, without a request, and move up when a
//! place is free, in the order in which their calls came.
//!
//! # The state, and who changes it
//!
//! No list of places is stored. Each contender says itself whether it [has one](Contender::standing). The
//! driver of a tab's contenders
//!
//! - says before each event whether the contender that gets it [may queue](may_queue);
//! - looks, after each event by which a standing has changed, which contender [moves up](moves_up), and hands
//!   that one an [`Event::Look`](super::Event::Look).
//!
//! A place is free again when its request has ended, or holds and has told the store so. The claim that tells
//! it is sent before the next take, so the two can leave together.
//!
//! # What a call does that waits in the tab
//!
//! - **deadline, abort**: it ends like any other; it has no request that would have to be ended.
//! - **hidden**: nothing. It asks for the length that is right when it moves up.
//! - **suspended**: nothing is sent. When the page goes on, those that came first ask first.
//! - **the store is closed**: nothing, since it has told the store nothing.
//! - **a try** never waits here: it is answered by the store, and stands in no queue.
//!
//! First in, first out holds for the places: a call that waits in the tab goes behind those of other tabs
//! that are in the queue when it moves up.

use super::{CallId, Contender};

/// Whether a lock object has a place in the queue, or waits for one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Standing {
    /// It has a place.
    pub queues: bool,
    /// It has none, and this call, its first that wants to queue, waits for one.
    pub waits: Option<CallId>,
}

/// Whether a lock object may take a place, or keep the one that it has. `others`: the other lock objects of
/// the same tab and name.
pub fn may_queue(
    bound: usize,
    mine: Standing,
    others: impl Iterator<Item = Standing> + Clone,
) -> bool {
    let before_me = |other: Standing| match (other.waits, mine.waits) {
        (Some(theirs), Some(mine)) => theirs < mine,
        (theirs, None) => theirs.is_some(),
        (None, _) => false,
    };
    let taken = others.clone().filter(|other| other.queues).count();
    mine.queues || taken < bound && !others.clone().any(before_me)
}

/// Which lock object takes a place now, if one is free: its position among `all` of the tab and name.
pub fn moves_up(bound: usize, all: impl Iterator<Item = Standing> + Clone) -> Option<usize> {
    let taken = all.clone().filter(|standing| standing.queues).count();
    let waits = all.enumerate().filter_map(|(n, s)| Some((s.waits?, n)));
    waits.min().filter(|_| taken < bound).map(|(_, n)| n)
}

impl Contender {
    /// Whether this lock object has a place in the queue, or waits for one.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let claims = self.keeping.as_ref().is_some_and(|k| k.next_beat.is_none());
        let queues = claims || self.keeping.is_none() && self.participant.queues();
        let wants = !queues && self.keeping.is_none();
        let first = self.calls.iter().find(|call| call.wants_to_queue());
        Standing {
            queues,
            waits: first.filter(|_| wants).map(|call| call.id),
        }
    }

    /// Whether messages can mean anything to this lock object.
    #[must_use]
    pub fn hears(&self) -> bool {
        self.participant.request().is_some() || self.is_leaving()
    }

    /// Whether closing the store would matter to this lock object: it holds, or asks, or has something on
    /// its way.
    #[must_use]
    pub fn is_engaged(&self) -> bool {
        self.hears() || self.keeping.is_some() || !self.sent.is_empty()
    }
}
