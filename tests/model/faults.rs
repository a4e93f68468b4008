//! Steps that no rule may take. They are seen when they are taken, not in the state that follows.

use tab_lease::rules::{Command, Fence, Outcome, Proof, Record, Requester, Take};

use crate::shared::Shared;
use crate::world::{State, Tab, World, tab_name};

/// G2 is broken.
pub const STALE: &str = "a stale write was committed";

impl World {
    /// What is wrong with who waits, if anything: first in, first out.
    pub fn fault_of_queue(
        &self,
        found: Option<&Record>,
        command: &Command,
        write: &Record,
    ) -> Option<&'static str> {
        let found = found.filter(|found| found.epoch == write.epoch)?;
        let stay: Vec<_> = found
            .queue
            .iter()
            .map(|w| &w.who)
            .filter(|who| write.queue.iter().any(|w| w.who == **who))
            .collect();
        let first = write.queue.iter().map(|w| &w.who).take(stay.len());
        if first.ne(stay) {
            return Some("the order of those who wait has changed");
        }
        let ended = |who: &Requester| match command {
            Command::Take(take) => who.tab == take.who.tab && take.ended.contains(&who.request),
            _ => false,
        };
        let head = found.queue.iter().map(|w| &w.who).find(|who| !ended(who))?;
        let held_on = write.holder == found.holder || write.holder.as_ref() == Some(head);
        match command {
            Command::Quit { .. } | Command::Pass { .. } if !held_on => {
                Some("a released lock did not go to who waited longest")
            }
            // (Where its own quit overtook it, a claim takes for nobody.)
            Command::Claim { .. }
            | Command::Take(Take {
                proof: Proof::Delegated { .. },
                ..
            }) if !held_on && self.fifo => Some("a lease was delegated past who waited longest"),
            _ => None,
        }
    }

    /// A request that was handed on is spent.
    pub fn fault_of_ghosts(&self, tabs: &[Shared<Tab>], write: &Record) -> Option<&'static str> {
        let mut handed_on = tabs.iter().zip(&self.kinds).filter_map(|(tab, kind)| {
            let tab_name = tab_name(kind.tab);
            tab.handed_on.map(|request| (tab_name, request))
        });
        let waits = |(tab, request): (String, u64)| {
            let who = Requester { tab, request };
            write.queue.iter().any(|w| w.who == who)
        };
        handed_on
            .any(waits)
            .then_some("a request that was handed on waits again")
    }
}

/// What is wrong with a change of hands, if anything.
pub fn fault_of_hands(found: Option<&Record>, write: &Record) -> Option<&'static str> {
    let found = found.filter(|found| found.epoch == write.epoch)?;
    if write.token < found.token {
        Some("a token went backwards")
    } else if write.holder.is_some() && write.holder != found.holder && write.token == found.token {
        Some("a token changed hands")
    } else {
        None
    }
}

/// A write is committed: G2. Nobody with a later token has written, and the store says, at that moment, that
/// the writer holds, in this incarnation of it.
pub fn commit(state: &mut State, write: &Fence) {
    let overtaken = state.register.as_ref().is_some_and(|last| {
        last.epoch == write.epoch
            && (write.token < last.token || write.token == last.token && write.who != last.who)
    });
    let holds = state.record.as_ref().is_some_and(|record| {
        record.epoch == write.epoch
            && record.token == write.token
            && record.holder.as_ref() == Some(&write.who)
    });
    if overtaken || !holds {
        state.fault = Some(STALE);
    }
    state.register = Some(write.clone());
}

/// What is wrong with an answer, if anything: it tells an asker that it holds, and the record does not.
pub fn fault_of_answer(
    record: Option<&Record>,
    command: &Command,
    outcome: &Outcome,
) -> Option<&'static str> {
    let (Outcome::Held(held), Some(record)) = (outcome, record) else {
        return None;
    };
    let (asker, token) = match command {
        Command::Take(take) => (&take.who, record.token),
        Command::Renew { who, token, .. } | Command::Claim { who, token, .. } => (who, *token),
        Command::Quit { who } | Command::Pass { who, .. } => (who, record.token),
    };
    if record.holder.as_ref() != Some(asker) || record.token != token {
        Some("another's lease was answered to be the asker's")
    } else if (held.epoch, held.token) != (record.epoch, record.token) {
        Some("the answer names another lease than the record")
    } else {
        None
    }
}
