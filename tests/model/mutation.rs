//! Ways to break a rule without a copy of it: what goes into the crate's functions, or what comes out of
//! them, is altered.

use std::time::Duration;

use tab_lease::contender::{Action as Act, Event, Seen};
use tab_lease::message::Message;
use tab_lease::participant::{Grant, Now};
use tab_lease::rules::{
    self, Command, Fence, Fenced, Granted, Mode, Outcome, Proof, Record, Requester, Waiter,
};

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
    /// A grant inside a transaction adds one to the token, as a delegation does.
    GrantsAddOne,
    /// A delegation adds two, as a grant inside a transaction does.
    DelegationAddsTwo,
    /// A pass gives the lock to whom it names, whoever waits.
    PassToAnybody,
    /// A take by delegation takes, whoever waits.
    DelegatedTakeByAnybody,
    /// A take by delegation does not look who holds.
    DelegatedTakeNotRechecked,
    /// A takeover from the dead does not look who holds.
    DeadNotRechecked,
    /// A claim does not look who holds.
    ClaimOfAnyLease,
    /// A claim of what was passed already does not bump the count.
    PassedClaimNotCounted,
    /// The fence does not look at epoch and holder.
    FenceByTokenAlone,
    /// It does not look at the epoch.
    FenceWithoutEpoch,
    /// It does not look at the holder.
    FenceWithoutHolder,
    /// It does not look at the token.
    FenceWithoutToken,
    /// It refuses a lease that began by a message, until that is written down.
    FenceWithoutClaim,
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

    // ---- Handing over ----
    /// A delegated lease is good for its remainder from when the message is heard.
    GrantValidFromReceipt,
    /// A message starts whichever request the tab has.
    GrantByTab,
    /// A message starts a lease, whether or not anybody has seen the receiver at the head.
    StartsUnseen,
    /// A delegated lease is good for the remainder, even if the receiver's own leases are shorter.
    ReceiverLengthIgnored,
    /// A takeover that was not answered is no reason not to start by a message.
    OwnTakeoverForgotten,
    /// A take that was not answered is no reason not to delegate.
    OwnTakeForgotten,
    /// A delegator quits.
    QuitsAfterDelegating,
    /// A delegator goes on as if it held: it renews, and delegates again.
    DelegatorGoesOn,
    /// A delegator does not remember that another tab may have held.
    OwnDelegationNotDirty,
    /// Fenced writes are no reason not to delegate.
    DelegatesWhileWriting,
    /// A holder goes on for as long as it thinks that its fenced transaction is open.
    OpenFenceIsBelief,
    /// What was sent behind a fenced transaction is not applied in the order of sending.
    StoreOutOfOrder,

    // ---- Beacons, idle leases, deletion ----
    /// The holder's end is taken for the end of all who wait before.
    DeadHolderIsEnough,
    /// A beacon is told of before it is held.
    BeaconTooEarly,
    /// A beacon that was never seen held is believed to have gone out.
    UnseenBeaconBelieved,
    /// A beacon's name that the watcher itself held for a moment counts as seen.
    OwnHoldBelieved,
    /// A callback without a lock is believed.
    NullLockBelieved,
    /// A polyfill is believed.
    ForeignManagerBelieved,
    /// A holder that sends a shorter renewal goes by the longer one.
    ShortenedNotCut,
    /// A holder lets the database be closed before it lets go of the lease.
    BeliefOutlivesClosing,
    /// A holder that is stopped believes in its lease when it goes on.
    BeliefOutlivesStopping,
    /// One that is stopped after it delegated ends that request in the store.
    LeavesAfterDelegating,
    /// A waiter that asks for a shorter lease than before gets one.
    QueuedLengthShrinks,
    /// A take that is late makes the lease shorter.
    RetakeShortens,

    // ---- Places ----
    /// A tab has as many requests in the queue as it has calls.
    PlacesUnbounded,
    /// Whoever waits in the tab is not told that a place is free.
    PlaceNotTold,
    /// A call takes a free place before one that has waited for it.
    OvertakesInTheTab,
    /// A lock object keeps its place for as long as it holds.
    PlaceKept,

    // ---- Beats ----
    /// The head of the queue waits less for the next beat than it was told.
    BeatsWaitLess,
    /// A beat that was heeded counts from when the holder hears that, not from when it was sent.
    HeededFromHearing,
    /// A beat that is late counts for the record as it is now.
    BeatOfAnyCount,
    /// Whoever waits goes by the beats that are for the head of the queue.
    BeatHeardByAll,

    // ---- Looks ----
    /// A look shows that something is to be done, and nobody hears it.
    ChangeNotHeard,
    /// A look shows a lease that is the asker's as another's.
    LooksAway,

    // ---- The contender, and its driver ----
    /// What has expired is told some time, not before all else.
    ExpiryNotFirst,
    /// A lease that nobody uses is given up by a quit in place of its claim.
    ReleasedUnclaimed,
    /// Whoever only tries is not answered.
    TriesNotAnswered,
    /// A delegation is never written down by its sender.
    PassForgotten,
    /// A lease that nobody uses stays until somebody asks.
    LingerNeverEnds,
    /// A take is sent twice.
    TakesTwice,
    /// A call that comes while somebody else waits shares the lease.
    LateCallShares,
    /// A suspended page goes by what it hears.
    SuspendedTabHears,
    /// A loss is told twice.
    LossToldTwice,
    /// A loss is not told.
    LossNotTold,
    /// That a renewal has failed is not heard.
    FailedRenewalNotHeard,
    /// That a take has failed is not heard.
    FailedTakeNotHeard,
    /// Guards go by when the lease was good until before that was cut.
    CutNotPublished,
    /// That a tab has ended is not heard.
    DeathNotHeard,
    /// A lease that began by a message is not claimed.
    ClaimForgotten,
    /// A page that goes on is not told.
    ResumeNotTold,
    /// A call that was settled is told so again.
    SettledTwice,
    /// A deadline passes unheard.
    DeadlineNotHeard,
    /// A caller that has gone is not reported.
    LeaveNotHeard,
    /// A guard that was dropped is not reported.
    DropNotHeard,
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
        let seen = found.map(|found| self.missee(found, &command));
        let (mut write, mut outcome) = rules::apply(seen.as_ref(), &command);
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
            (Outcome::Gone { .. }, _) if self == Self::QuitIgnored => {
                return (None, Outcome::Gone { granted: None });
            }
            (Outcome::Gone { granted }, Some(write)) => {
                *granted = granted
                    .take_if(|granted| write.holder.as_ref() == Some(&granted.to.who))
                    .map(|granted| Granted {
                        token: write.token,
                        ..granted
                    });
            }
            _ => {}
        }
        (write, outcome)
    }

    /// In place of [`rules::fence`].
    pub fn fence(self, record: &Record, lease: &Fence) -> Fenced {
        let mut seen = record.clone();
        let mut lease = lease.clone();
        match self {
            Self::FenceByTokenAlone => {
                seen.epoch = lease.epoch;
                seen.holder = Some(lease.who.clone());
            }
            Self::FenceWithoutEpoch => seen.epoch = lease.epoch,
            Self::FenceWithoutHolder => seen.holder = Some(lease.who.clone()),
            Self::FenceWithoutToken => seen.token = lease.token,
            Self::FenceWithoutClaim => lease.claim = None,
            _ => {}
        }
        rules::fence(Some(&seen), &lease)
    }

    fn misread(self, record: &Record, command: &mut Command, wall: u64) {
        let holder = record.holder.as_ref();
        let held_by = |tab: &str| holder.filter(|holder| holder.tab == tab).cloned();
        match (self, command) {
            (Self::ProofNotRechecked, Command::Take(take)) => {
                if let Proof::Unchanged(seen) = &mut take.proof {
                    *seen = record.sighting();
                }
            }
            (Self::ProofWithoutCount, Command::Take(take)) => {
                if let Proof::Unchanged(seen) = &mut take.proof {
                    seen.count = record.count;
                }
            }
            (Self::WallClockDecides, Command::Take(take)) => {
                let over = wall >= record.since + u64::from(record.len);
                take.proof = if over {
                    Proof::Unchanged(record.sighting())
                } else {
                    Proof::None
                };
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
            (Self::DelegatedTakeNotRechecked, Command::Take(take)) => {
                if let (Proof::Delegated { token, from }, Some(holder)) = (&mut take.proof, holder)
                {
                    *token = record.token;
                    from.clone_from(holder);
                }
            }
            (Self::DelegationAddsTwo, Command::Take(take)) => {
                if let Proof::Delegated { token, .. } = &mut take.proof {
                    *token -= 1;
                }
            }
            (Self::DeadNotRechecked, Command::Take(take)) => {
                if let Proof::Dead(tabs) = &mut take.proof {
                    tabs.extend(holder.map(|holder| holder.tab.clone()));
                }
            }
            (Self::ClaimOfAnyLease, Command::Claim { token, from, .. }) => {
                *token = (*token).max(record.token + 1);
                *from = holder.unwrap_or(from).clone();
            }
            (Self::DelegationAddsTwo, Command::Claim { token, from, .. })
                if holder == Some(from) && record.token + 2 == *token =>
            {
                *token -= 1;
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

    /// The record as a rule that looks away from something sees it.
    fn missee(self, found: &Record, command: &Command) -> Record {
        let mut seen = found.clone();
        if let (Self::QueuedLengthShrinks, Command::Take(take)) = (self, command) {
            let me = seen.queue.iter_mut().find(|w| w.who == take.who);
            for me in me.into_iter().filter(|me| me.len > take.len) {
                // The rule renews an old stamp.
                (me.len, me.at) = (take.len, 0);
            }
        }
        let to = match (self, command) {
            (Self::PassToAnybody, Command::Pass { to, .. }) => to,
            (Self::DelegatedTakeByAnybody, Command::Take(take)) => &take.who,
            _ => return seen,
        };
        let by_delegation = match command {
            Command::Take(take) => matches!(take.proof, Proof::Delegated { .. }),
            _ => true,
        };
        let holds = found.holder.is_none() || found.holder.as_ref() == Some(to);
        if by_delegation && !holds {
            let place = found.queue.iter().position(|w| w.who == *to);
            let waiter = place.map_or_else(|| stranger(found, to), |k| seen.queue.remove(k));
            seen.queue.insert(0, waiter);
        }
        seen
    }

    fn miswrite(self, found: &Record, command: &Command, write: &mut Record) {
        let retake = write.holder.is_some() && write.holder == found.holder;
        let by_delegation = match command {
            Command::Take(take) => matches!(take.proof, Proof::Delegated { .. }),
            Command::Claim { .. } => true,
            Command::Pass { .. } => write.token == found.token + 1,
            _ => false,
        };
        let moved = write.holder.is_some() && write.holder != found.holder;
        match (self, command) {
            (Self::GrantsAddOne, _) if moved && !by_delegation => write.token = found.token + 1,
            (Self::DelegationAddsTwo, _) if moved && by_delegation => {
                write.token = found.token + 2;
            }
            (Self::PassedClaimNotCounted, Command::Claim { .. }) if retake => {
                write.count = found.count;
            }
            (Self::RenewalNotCounted, Command::Renew { .. }) => write.count = found.count,
            (Self::RetakeNotCounted, Command::Take(_)) if retake => write.count = found.count,
            (Self::RetakeShortens, Command::Take(take)) if retake => write.len = take.len,
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

    /// Before the contender is told the answer to a command that was sent at `sent`.
    pub fn answering(
        self,
        command: &Command,
        sent: Now,
        now: &mut Now,
        answer: &mut Option<Outcome>,
        len: Duration,
    ) {
        let takes = matches!(command, Command::Take(_));
        match (self, answer) {
            (Self::ObservedFromSending, Some(Outcome::Waiting(_))) => *now = sent,
            (Self::ObservedForOwnLength, Some(Outcome::Waiting(waiting))) => {
                waiting.len = u32::try_from(len.as_millis()).unwrap_or(u32::MAX);
            }
            (Self::ProofOneTickEarly, Some(Outcome::Waiting(waiting))) => waiting.len -= 1,
            (Self::ReceiverLengthIgnored, Some(Outcome::Held(held))) => {
                mistake_length(held.head.as_mut(), len);
            }
            // It takes every look for a new lease.
            (Self::ObservedForEver, Some(Outcome::Waiting(waiting))) if takes => {
                waiting.sighting.count = u64::try_from(now.as_millis()).unwrap_or(u64::MAX) + 1000;
            }
            _ => {}
        }
    }

    /// Whether the contender is not told that answer.
    pub fn swallows(self, command: &Command, answer: &Option<Outcome>) -> bool {
        let renews = matches!(command, Command::Renew { .. } | Command::Claim { .. });
        let takes = matches!(command, Command::Take(_));
        match (self, answer) {
            (Self::RefusalIgnored, Some(Outcome::Refused)) => renews,
            (Self::FailedRenewalNotHeard, None) => renews,
            (Self::FailedTakeNotHeard, None) => takes,
            _ => false,
        }
    }

    /// Whether the contender is not told that event.
    pub fn drops_event(self, event: &Event) -> bool {
        match event {
            Event::Suspended(false) => self == Self::ResumeNotTold,
            Event::Fired(tab_lease::contender::Timer::Deadline) => self == Self::DeadlineNotHeard,
            Event::Leave(_) => self == Self::LeaveNotHeard,
            Event::GuardDropped(_) => self == Self::DropNotHeard,
            Event::Looked { seen, .. } => self == Self::ChangeNotHeard && *seen == Seen::Change,
            _ => false,
        }
    }

    /// Before what the contender has decided is performed, for a tab with so many guards.
    pub fn acted(self, out: &mut Vec<Act>, guards: u8) {
        match self {
            Self::ReleasedUnclaimed if guards == 0 => {
                for act in out {
                    if let Act::Send { command, .. } = act
                        && let Command::Claim { who, .. } = command
                    {
                        *command = Command::Quit { who: who.clone() };
                    }
                }
            }
            Self::TriesNotAnswered => {
                out.retain(|act| !matches!(act, Act::Post(Message::Reply { .. })));
            }
            Self::LossToldTwice => repeat(out, |act| matches!(act, Act::Lose(..))),
            Self::SettledTwice => repeat(out, |act| matches!(act, Act::Settle { .. })),
            Self::LossNotTold => out.retain(|act| !matches!(act, Act::Lose(..))),
            Self::ClaimForgotten => out.retain(|act| !matches!(act, Act::StepAside(_))),
            _ => {}
        }
    }

    /// Before a message is sent to a tab whose clock shows `now`.
    pub fn granting(self, grant: &mut Grant, now: Now) {
        match self {
            Self::GrantValidFromReceipt => grant.until = grant.until.saturating_sub(micros(now)),
            Self::DelegationAddsTwo if !grant.granted => grant.token += 1,
            _ => {}
        }
    }

    /// Before the participant, which asks or holds by that request, hears a message.
    pub fn hearing(self, grant: &mut Grant, now: Now, request: Option<u64>) {
        match self {
            Self::GrantValidFromReceipt => grant.until = grant.until.saturating_add(micros(now)),
            Self::StartsUnseen => grant.vouched = true,
            Self::GrantByTab => grant.to.request = request.unwrap_or(grant.to.request),
            _ => {}
        }
    }
}

/// Does some of that twice.
fn repeat(out: &mut Vec<Act>, which: fn(&Act) -> bool) {
    let again: Vec<_> = out.iter().filter(|act| which(act)).cloned().collect();
    out.extend(again);
}

/// The holder takes its own length for that of whoever waits, if it is longer.
fn mistake_length(head: Option<&mut Waiter>, len: Duration) {
    if let Some(head) = head {
        head.len = head
            .len
            .max(u32::try_from(len.as_millis()).unwrap_or(u32::MAX));
    }
}

/// Somebody who does not wait.
fn stranger(record: &Record, who: &Requester) -> Waiter {
    Waiter {
        who: who.clone(),
        mode: Mode::Exclusive,
        len: record.len,
        at: 0,
        beacon: false,
        since: 0,
    }
}

fn micros(time: Now) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
