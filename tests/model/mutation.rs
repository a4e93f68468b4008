//! Ways to break a rule without a copy of it: what goes into the crate's functions, or what comes out of
//! them, is altered.

use std::time::Duration;

use tab_lease::participant::Now;
use tab_lease::rules::{self, Command, Outcome, Record};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    // ---- The store ----
    /// The takeover does not look whether the record is still the one that stood still.
    ProofNotRechecked,
    /// It looks at epoch and token only.
    ProofWithoutCount,
    /// A renewal does not bump the count.
    RenewalNotCounted,
    /// A take by the holder does not bump the count.
    RetakeNotCounted,
    /// A renewal extends whatever lease there is.
    RenewalOfAnyLease,
    /// A renewal extends any lease of its tab.
    RenewalByTab,
    /// "Same tab, so extend."
    SameTabExtends,
    /// A change of hands keeps the token.
    TokenKept,
    /// A release of a lease changes nothing.
    QuitIgnored,
    /// A release frees the lock and forgets who waits.
    QuitGrantsNobody,
    /// Whoever is granted the lock still stands in the queue.
    QueueNotPopped,
    /// Whoever joins the queue joins at its head.
    JoinAtHead,
    /// A request that gives up after it was granted the lock keeps it.
    GrantedQuitIgnored,
    /// Any quit of a tab frees what the tab holds.
    QuitByTab,
    /// Whoever quits, the record is free.
    QuitByAnybody,
    /// The previous holder is not told.
    LastForgotten,
    /// A lease is over when the wall clock says so.
    WallClockDecides,
    /// The fence does not look at epoch and holder.
    FenceByTokenAlone,
    /// The fence is another transaction than the write.
    FenceApart,
    /// There is no fence.
    FenceSkipped,

    // ---- The tab ----
    /// A lease counts from the answer to the take.
    TakeValidFromAnswer,
    /// A lease counts from the answer to the renewal.
    RenewalValidFromAnswer,
    /// An observation counts from before the take was sent.
    ObservedFromSending,
    /// An observation lasts a tick less than the lease.
    ProofOneTickEarly,
    /// An observation lasts as long as the observer's own lease.
    ObservedForOwnLength,
    /// An observation never ends.
    ObservedForEver,
    /// A holder whose renewal is refused goes on.
    RefusalIgnored,
    /// The application is not told that its lease ran out.
    ExpiryNotTold,
    /// And it does not look, either.
    ExpiryIgnored,
    /// A request that another lock object of the tab holds by is named as ended.
    EndedStillHeld,
    /// Clocks are taken for exact.
    NoMargin,
}

impl Mutation {
    /// In place of [`rules::apply`].
    pub fn apply(
        self,
        found: Option<&Record>,
        command: &Command,
        wall: u64,
    ) -> (Option<Record>, Outcome) {
        let mut command = command.clone();
        if let Some(record) = found {
            self.misread(record, &mut command, wall);
        }
        let (mut write, mut outcome) = rules::apply(found, &command);
        if let (Some(found), Some(write)) = (found, &mut write) {
            self.miswrite(found, &command, write);
        }
        match (&mut outcome, &mut write) {
            (Outcome::Held(held), Some(write)) => {
                held.token = write.token;
                match self {
                    Self::LastForgotten => held.last = None,
                    Self::WallClockDecides => write.since = wall,
                    _ => {}
                }
            }
            (Outcome::Gone { .. }, _) if self == Self::QuitIgnored => write = None,
            _ => {}
        }
        (write, outcome)
    }

    fn misread(self, record: &Record, command: &mut Command, wall: u64) {
        let holder = record.holder.as_ref();
        let held_by = |tab: &str| holder.filter(|holder| holder.tab == tab).cloned();
        match (self, command) {
            (Self::ProofNotRechecked, Command::Take(take)) => {
                take.unchanged = take.unchanged.map(|_| record.sighting());
            }
            (Self::ProofWithoutCount, Command::Take(take)) => {
                if let Some(seen) = &mut take.unchanged {
                    seen.count = record.count;
                }
            }
            (Self::WallClockDecides, Command::Take(take)) => {
                let over = wall >= record.since + u64::from(record.len);
                take.unchanged = over.then(|| record.sighting());
            }
            (Self::SameTabExtends, Command::Take(take)) => {
                take.ended.clear();
                take.who = held_by(&take.who.tab).unwrap_or_else(|| take.who.clone());
            }
            (Self::RenewalOfAnyLease, Command::Renew { who, token, .. }) => {
                *who = holder.unwrap_or(who).clone();
                *token = record.token;
            }
            (Self::RenewalByTab, Command::Renew { who, token, .. }) => {
                *who = held_by(&who.tab).unwrap_or_else(|| who.clone());
                *token = record.token;
            }
            (Self::QuitByTab, Command::Quit { who }) => {
                *who = held_by(&who.tab).unwrap_or_else(|| who.clone());
            }
            (Self::QuitByAnybody, Command::Quit { who }) => {
                *who = holder.unwrap_or(who).clone();
            }
            _ => {}
        }
    }

    fn miswrite(self, found: &Record, command: &Command, write: &mut Record) {
        let retake = write.holder.is_some() && write.holder == found.holder;
        match (self, command) {
            (Self::RenewalNotCounted, Command::Renew { .. }) => write.count = found.count,
            (Self::RetakeNotCounted, Command::Take(_)) if retake => write.count = found.count,
            (Self::TokenKept, _) => write.token = found.token,
            (Self::QuitGrantsNobody, Command::Quit { .. }) if write.holder != found.holder => {
                write.holder = None;
                write.token = found.token;
                write.queue.clear();
            }
            (Self::QueueNotPopped, Command::Quit { .. }) if write.holder != found.holder => {
                write.queue.clone_from(&found.queue);
            }
            (Self::JoinAtHead, Command::Take(_)) if write.queue.len() > found.queue.len() => {
                write.queue.rotate_right(1);
            }
            (Self::GrantedQuitIgnored, Command::Quit { who })
                if found.count == 0 && found.holder.as_ref() == Some(who) =>
            {
                write.clone_from(found);
            }
            _ => {}
        }
    }

    /// Before the participant is told the answer to a take.
    pub fn taken(self, sent: &mut Now, now: &mut Now, answer: &mut Outcome, len: Duration) {
        match (self, answer) {
            (Self::TakeValidFromAnswer, Outcome::Held(_)) => *sent = *now,
            (Self::ObservedFromSending, Outcome::Waiting(_)) => *now = *sent,
            (Self::ObservedForOwnLength, Outcome::Waiting(waiting)) => {
                waiting.len = u32::try_from(len.as_millis()).unwrap_or(u32::MAX);
            }
            // It takes every look for a new lease.
            (Self::ObservedForEver, Outcome::Waiting(waiting)) => {
                waiting.sighting.count = u64::try_from(now.as_millis()).unwrap_or(u64::MAX) + 1000;
            }
            _ => {}
        }
    }

    /// Before the participant is told the answer to a renewal.
    pub fn renewed(self, sent: &mut Now, now: Now) {
        if self == Self::RenewalValidFromAnswer {
            *sent = now;
        }
    }
}
