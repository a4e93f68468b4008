//! The lease rules: one record, one command, one pure function.
//!
//! Everything that tabs share about a lock name is one small [`Record`]. Every change of it is one
//! [`Command`], decided by [`apply`] inside one atomic read-modify-write of a
//! [`BackingStore`](crate::BackingStore). The function knows no clock, no store and no browser; no
//! store decides anything.
//!
//! # Who changes what
//!
//! A record is *free* (no holder) or *held* by one [`Requester`]. A requester is a tab **and** a
//! request of that tab: "same tab, so extend" would revive a lease that the tab has given away.
//!
//! | command | by | on | answer |
//! |---|---|---|---|
//! | take | anybody | no record, or free | held, token grown |
//! | take | its holder | held | held, count grown |
//! | take | another, with a [`Proof`] that holds | held | held, token grown |
//! | take | another | held | waiting; joins the queue if it asked to |
//! | claim | whoever the holder delegated the lease to, by message | held by the delegator | held, token one higher |
//! | claim | the same, once the record has caught up | held by itself | held, count grown |
//! | claim | anybody else | anything | refused, and out of the queue |
//! | renew | its holder, of that token | held | held, count grown |
//! | renew | anybody else | anything | refused, nothing changes |
//! | pass | its holder, to the head of the queue | held | granted to the head, token one higher |
//! | pass | its holder, to somebody else | held | as quit |
//! | quit | its holder | held | free, or granted to the head of the queue, token grown |
//! | quit | anybody else | anything | leaves the queue |
//!
//! A transaction of the application's that is to be part of a lease asks [`fence`] first, in a store
//! that keeps leases and data in one database: nothing of it is committed unless the lease is current.
//!
//! The queue is first in, first out. Whoever is granted the lock there learns of it by a message
//! or by its next take, which the record answers "yours"; until then nobody renews, so a head of the
//! queue that is gone costs the others the length of one lease, or its beacon's word.
//!
//! # Numbers
//!
//! Every grant that is made inside a transaction adds at least two to the token. The number between belongs to
//! the holder alone: it may *delegate* the lease under it, by a message that no store has seen yet.
//! The claim and the pass write that down, in either order, and whatever is lost of the three, no
//! number is used twice.
//!
//! Expiry is judged by **observation**: a waiter that has seen one [`Sighting`] (epoch, token,
//! count) for the record's whole lease length on its own monotonic clock says so, and the rule checks
//! that the record is still that one. A holder bumps the count at every renewal, so a holder that
//! renews is never seen standing still. No rule reads a wall clock: `since` is for people.
//!
//! # Notes
//!
//! A store whose transactions a stopped page can leave open may keep what a requester says *blindly*
//! beside the record, in a [`Note`] of that requester alone: nothing has to be read first, so nothing
//! is left half-done, and nobody else's word is overwritten. [`apply_noted`] sees both as one record.

use serde::{Deserialize, Serialize};

/// The longest lease that a record may carry, in ms (ten minutes). A record that claims more is
/// corrupt: believing it would wedge the lock for as long as it says.
pub const MAX_LEASE_MS: u32 = 600_000;

/// The format of [`Record`] that this code reads and writes.
pub const FORMAT: u8 = 2;

/// Numbers in a record stay below 2⁵³, so that JavaScript reads them exactly; the room above this
/// bound is for the tokens and counts that are still to come.
const MAX_NUMBER: u64 = (1 << 53) - (1 << 32);

/// Who asks: a tab (or worker, or process), and one request of it. A request id is never used
/// twice by a tab, starts at most once, and is spent when it starts or is given up.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Requester {
    /// The tab: the holder's name and a random part drawn anew in every tab.
    pub tab: String,
    /// The request, unique within the tab.
    pub request: u64,
}

/// How a lease may be shared. Only exclusive leases exist so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mode {
    /// One holder at a time.
    #[default]
    Exclusive,
}

/// A request that was refused and asked to wait.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Waiter {
    /// Who waits.
    pub who: Requester,
    /// How it wants to hold.
    pub mode: Mode,
    /// The lease length that it will hold with, in ms.
    pub len: u32,
    /// Its own monotonic clock, in µs, read before it sent a take. A delegator tells it by this stamp
    /// for how long the lease is good. Renewed by a take when it is older than a quarter of `len`, or
    /// asks for a longer one.
    pub at: u64,
    /// Whether its tab held its beacon when it said so.
    pub beacon: bool,
    /// Wall clock at which it joined, ms since 1970. For people; no rule reads it.
    pub since: u64,
}

/// The holder before the present one (of a free record: the latest one).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Last {
    /// Its tab.
    pub tab: String,
    /// The token that it held.
    pub token: u64,
}

/// Everything that is shared about one lock name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// [`FORMAT`] of the code that wrote it.
    pub format: u8,
    /// Random id of this incarnation of the record. After a deletion tokens and counts may repeat;
    /// epochs do not.
    pub epoch: u64,
    /// The fencing token: grows at every change of hands, survives release.
    pub token: u64,
    /// Grows at every command that was answered "yours": what observers watch.
    pub count: u64,
    /// Who holds; nobody when free.
    pub holder: Option<Requester>,
    /// How it is held.
    pub mode: Mode,
    /// Whether the holder's tab held its beacon when it said so.
    pub beacon: bool,
    /// Length of the current lease in ms.
    pub len: u32,
    /// Wall clock of the last change of hands, ms since 1970. For people; no rule reads it.
    pub since: u64,
    /// Who waits, in order of arrival. Empty when free.
    pub queue: Vec<Waiter>,
    /// Who held before.
    pub last: Option<Last>,
}

/// A record that no rule can have written: another program's, or damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease record is not one of ours: {0}")]
pub struct Corrupt(pub &'static str);

impl Record {
    /// The bytes that a store keeps.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Serialising numbers, strings and vectors into memory cannot fail.
        postcard::to_allocvec(self).unwrap_or_default()
    }

    /// Reads what [`Record::encode`] wrote.
    ///
    /// # Errors
    ///
    /// [`Corrupt`], if no rule of this version can have written it.
    pub fn decode(bytes: &[u8]) -> Result<Self, Corrupt> {
        match postcard::take_from_bytes::<Self>(bytes) {
            _ if bytes.first() != Some(&FORMAT) => Err(Corrupt("its format is of another version")),
            Ok((record, [])) => record.check().map(|()| record),
            Ok(_) => Err(Corrupt("something follows it")),
            Err(_) => Err(Corrupt("it has not the shape of a lease")),
        }
    }

    /// Checks what the types alone do not say. A store calls it on what it read, if it keeps records
    /// in another form than [`Record::encode`]'s, before [`apply`] sees them: a damaged record is an
    /// error, never a free lock.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] says which rule the record breaks.
    pub fn check(&self) -> Result<(), Corrupt> {
        let queued = |who: &Requester| self.queue.iter().filter(|w| w.who == *who).count();
        if self.format != FORMAT {
            Err(Corrupt("its format is of another version"))
        } else if self.epoch.max(self.token).max(self.count) > MAX_NUMBER
            || self.queue.iter().any(|w| w.at > MAX_NUMBER)
        {
            Err(Corrupt("a number is out of range"))
        } else if self.len > MAX_LEASE_MS || self.queue.iter().any(|w| w.len > MAX_LEASE_MS) {
            Err(Corrupt("a lease is longer than any may be"))
        } else if self.holder.is_some() && self.len == 0 || self.queue.iter().any(|w| w.len == 0) {
            Err(Corrupt("it is held with no lease"))
        } else if self.holder.is_none() && !self.queue.is_empty() {
            Err(Corrupt("somebody waits for a free lock"))
        } else if self.holder.as_ref().is_some_and(|h| queued(h) > 0)
            || self.queue.iter().any(|w| queued(&w.who) > 1)
        {
            Err(Corrupt("a request stands in it twice"))
        } else if self
            .last
            .as_ref()
            .is_some_and(|last| last.token > self.token)
        {
            Err(Corrupt("its token went backwards"))
        } else {
            Ok(())
        }
    }

    /// What an observer compares: equal sightings mean that nothing was renewed in between.
    #[must_use]
    pub fn sighting(&self) -> Sighting {
        Sighting {
            epoch: self.epoch,
            token: self.token,
            count: self.count,
        }
    }
}

/// One look at a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sighting {
    /// [`Record::epoch`]
    pub epoch: u64,
    /// [`Record::token`]
    pub token: u64,
    /// [`Record::count`]
    pub count: u64,
}

/// What a record starts with where there is none. Chosen by the caller: the rules draw no random
/// numbers and read no clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fresh {
    /// A random epoch, below 2⁵³ − 2³².
    pub epoch: u64,
    /// The first token: above every token that the caller has seen, and growing with the wall clock,
    /// so that tokens keep growing across a deletion as far as the wall clock does.
    pub token: u64,
}

/// Why a lease that the record says is held may be taken over all the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Proof {
    /// No reason.
    #[default]
    None,
    /// "I have seen exactly this for its whole lease length."
    Unchanged(Sighting),
    /// "The holder gave it to me, by a message", which only counts for the head of the queue.
    Delegated {
        /// The token that it held.
        token: u64,
        /// The holder.
        from: Requester,
    },
    /// "These tabs have ended": the holder's, and those of everybody who waited before. The holder's
    /// alone is not enough, since it may have delegated the lease to the head of the queue.
    Dead(Vec<String>),
}

/// What a requester has written beside the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Note {
    /// A [`Command::Renew`] that needed no answer from the record. It counts if its writer still holds,
    /// under that token.
    Renewed {
        /// Under which token.
        token: u64,
        /// Grows at every renewal of that requester.
        count: u64,
        /// See [`Record::len`].
        len: u32,
        /// See [`Record::beacon`].
        beacon: bool,
    },
    /// A [`Command::Quit`] of somebody who was about to be stopped.
    Ended,
}

impl Note {
    /// The bytes that a store keeps.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Serialising numbers into memory cannot fail.
        postcard::to_allocvec(&(FORMAT, self)).unwrap_or_default()
    }

    /// Reads what [`Note::encode`] wrote.
    ///
    /// # Errors
    ///
    /// [`Corrupt`], if this version cannot have written it. To take it for none would be to steal from a
    /// holder that renews.
    pub fn decode(bytes: &[u8]) -> Result<Self, Corrupt> {
        match postcard::take_from_bytes::<(u8, Self)>(bytes) {
            Ok(((FORMAT, note), [])) => match note {
                Self::Renewed {
                    token, count, len, ..
                } if token.max(count) > MAX_NUMBER || len == 0 || len > MAX_LEASE_MS => {
                    Err(Corrupt("a number in its note is out of range"))
                }
                note => Ok(note),
            },
            _ => Err(Corrupt("its note has not the shape of one")),
        }
    }
}

/// A request for the lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Take {
    /// Who wants it.
    pub who: Requester,
    /// How.
    pub mode: Mode,
    /// For how long, in ms. A lease of 0 ms frees what `who` holds.
    pub len: u32,
    /// See [`Waiter::at`].
    pub at: u64,
    /// Whether the tab holds its beacon.
    pub beacon: bool,
    /// Whether to wait in the queue if somebody else has it.
    pub join: bool,
    /// Why it may be taken over.
    pub proof: Proof,
    /// Earlier requests of the same tab that have ended, whose own [`Command::Quit`] may not have
    /// reached the store (yet, or ever). They quit first. Only a request that was never handed on
    /// may be named here.
    pub ended: Vec<u64>,
    /// What a new record starts with, and what the token of a free lock keeps up with.
    pub fresh: Fresh,
    /// Wall clock, ms since 1970, for `since`.
    pub wall: u64,
}

/// What a tab may ask of a record. Each is applied in one atomic step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Take the lease, or ask again for one that may already be ours.
    Take(Take),
    /// Write down a lease that was delegated to us, or granted. Never queues, and never takes what is
    /// another's.
    Claim {
        /// Who was given the lease.
        who: Requester,
        /// Under which token.
        token: u64,
        /// By whom.
        from: Requester,
        /// For how long from now, in ms.
        len: u32,
        /// Whether the tab holds its beacon.
        beacon: bool,
        /// Wall clock, ms since 1970, for `since`.
        wall: u64,
    },
    /// Extend the lease of this very token. Never re-acquires.
    Renew {
        /// Who believes to hold.
        who: Requester,
        /// Which token.
        token: u64,
        /// For how long from now, in ms. 0 frees it.
        len: u32,
        /// Whether the tab holds its beacon.
        beacon: bool,
    },
    /// Write down that we have delegated the lease, in case that the receiver does not.
    Pass {
        /// Who delegated.
        who: Requester,
        /// The token that it held.
        token: u64,
        /// To whom.
        to: Requester,
    },
    /// Release the lease, or stop waiting for it.
    Quit {
        /// Which request has ended.
        who: Requester,
    },
}

/// The answer to a [`Command`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Yours. The lease runs from before the command was sent.
    Held(Held),
    /// Somebody else's, as far as the record says.
    Waiting(Waiting),
    /// The renewed lease is not (any longer) yours. Nothing was changed.
    Refused,
    /// The request is out of the record, wherever it was.
    Gone {
        /// Who was granted the lock by that, if anybody.
        granted: Option<Granted>,
    },
}

/// The head of the queue was granted the lock in a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Granted {
    /// [`Record::epoch`]
    pub epoch: u64,
    /// The token that it holds with.
    pub token: u64,
    /// Who waited.
    pub to: Waiter,
}

/// The lease is the asker's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    /// [`Record::epoch`]
    pub epoch: u64,
    /// [`Record::token`]
    pub token: u64,
    /// [`Record::count`]
    pub count: u64,
    /// Who held before.
    pub last: Option<Last>,
    /// Who waits at the head of the queue.
    pub head: Option<Waiter>,
}

/// The lease is somebody else's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Waiting {
    /// What to watch.
    pub sighting: Sighting,
    /// How long it must stand still before it may be taken over, in ms.
    pub len: u32,
    /// Who holds.
    pub holder: Requester,
    /// The tabs that may have the lease before the asker: the holder's, then those of everybody who
    /// waits ahead of it; with each, whether its beacon tells when it ends.
    pub before: Vec<(String, bool)>,
    /// Whether the asker stands in the queue.
    pub queued: bool,
}

/// Applies one command to one record (`None`: there is none yet). Answers with the record to
/// write, `None` where nothing changes, and with what to tell the asker.
#[must_use]
pub fn apply(record: Option<&Record>, command: &Command) -> (Option<Record>, Outcome) {
    let mut next = record.cloned();
    let outcome = match command {
        Command::Take(Take { who, len: 0, .. }) => quit(next.as_mut(), who),
        Command::Take(take) => self::take(&mut next, take),
        Command::Claim { .. } => claim(next.as_mut(), command),
        Command::Renew { .. } => renew(next.as_mut(), command),
        Command::Pass { who, token, to } => pass(next.as_mut(), who, *token, to),
        Command::Quit { who } => quit(next.as_mut(), who),
    };
    (next.filter(|next| record != Some(next)), outcome)
}

/// What a take is answered that need not be applied: it would change nothing but its own stamp. So a store can
/// answer it by a look. Nothing, if it has to be applied.
#[must_use]
pub fn look(record: &Record, command: &Command) -> Option<Outcome> {
    unchanged(record, command, apply(Some(record), command))
}

/// [`look`], for a take that was applied to that record, to no effect.
#[must_use]
pub fn unchanged(
    record: &Record,
    command: &Command,
    applied: (Option<Record>, Outcome),
) -> Option<Outcome> {
    let (write, outcome) = applied;
    let (Command::Take(take), Outcome::Waiting(_)) = (command, &outcome) else {
        return None;
    };
    if let Some(mut write) = write {
        let of = |record: &Record| record.queue.iter().position(|w| w.who == take.who);
        let (mine, at) = (of(&write)?, record.queue[of(record)?].at);
        write.queue[mine].at = at;
        if write != *record {
            return None;
        }
    }
    Some(outcome)
}

/// Whose [`Note`], if anybody's, has to be read before that command is applied to that record: the
/// holder's, if the command may judge it by what it has done lately. The first look of somebody who
/// joins the queue does not; whatever it saw is looked at again before anything comes of it.
#[must_use]
pub fn note_of<'r>(record: &'r Record, command: &Command) -> Option<&'r Requester> {
    let holder = record.holder.as_ref()?;
    let Command::Take(take) = command else {
        return None;
    };
    let waits = record.queue.iter().any(|w| w.who == take.who);
    let judges = take.proof != Proof::None || waits || !take.join;
    (take.who != *holder && judges).then_some(holder)
}

/// [`apply`], for a record whose holder has left a note.
#[must_use]
pub fn apply_noted(record: &Record, note: &Note, command: &Command) -> (Option<Record>, Outcome) {
    let mut seen = with_note(record, note);
    let renewed = match note {
        Note::Renewed { .. } => seen.count - record.count,
        Note::Ended => 0,
    };
    let (write, outcome) = apply(Some(&seen), command);
    seen = write.unwrap_or(seen);
    if (seen.token, &seen.holder) == (record.token, &record.holder) {
        // That much stays in the note.
        seen.count -= renewed;
    }
    (Some(seen).filter(|seen| seen != record), outcome)
}

/// What a record says together with its holder's note.
#[must_use]
pub fn with_note(record: &Record, note: &Note) -> Record {
    let mut seen = record.clone();
    match *note {
        Note::Renewed {
            token,
            count,
            len,
            beacon,
        } if token == seen.token => {
            seen.count += count;
            seen.len = len;
            seen.beacon = beacon;
        }
        Note::Renewed { .. } => {}
        Note::Ended => _ = leave(&mut seen, 2),
    }
    seen
}

/// A lease, as a fenced transaction names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fence {
    /// Who believes to hold.
    pub who: Requester,
    /// Under which token …
    pub token: u64,
    /// … of which incarnation of the record.
    pub epoch: u64,
    /// The [`Command::Claim`] of a lease that began by a message, in case that the record does not say
    /// so yet.
    pub claim: Option<Command>,
}

/// What [`fence`] answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Fenced {
    /// The lease is current: the transaction may go on.
    Current,
    /// It is, and the same transaction may write down that it began.
    Claimed(Record),
    /// It is not: the transaction must be aborted.
    Refused,
}

/// The check at the head of a fenced transaction, on the record as that transaction reads it. All of
/// the lease must be the record's: a token alone may repeat after a deletion, and a tab may hold again
/// by another request.
///
/// # Example
///
/// ```
/// use tab_lease::rules::{Fence, Fenced, Requester, fence};
///
/// let who = Requester { tab: "a".to_owned(), request: 1 };
/// let lease = Fence { who, token: 7, epoch: 1, claim: None };
/// assert_eq!(fence(None, &lease), Fenced::Refused, "there is no such lease");
/// ```
#[must_use]
pub fn fence(record: Option<&Record>, lease: &Fence) -> Fenced {
    let Some(record) = record.filter(|record| record.epoch == lease.epoch) else {
        return Fenced::Refused;
    };
    if record.token == lease.token && record.holder.as_ref() == Some(&lease.who) {
        return Fenced::Current;
    }
    let claimed = lease.claim.as_ref().map(|claim| apply(Some(record), claim));
    match claimed {
        Some((Some(next), Outcome::Held(held)))
            if held.token == lease.token && next.holder.as_ref() == Some(&lease.who) =>
        {
            Fenced::Claimed(next)
        }
        _ => Fenced::Refused,
    }
}

fn take(record: &mut Option<Record>, take: &Take) -> Outcome {
    let asker = Waiter {
        who: take.who.clone(),
        mode: take.mode,
        len: take.len,
        at: take.at,
        beacon: take.beacon,
        since: take.wall,
    };
    let Some(record) = record else {
        let fresh = record.insert(Record {
            format: FORMAT,
            epoch: take.fresh.epoch,
            token: take.fresh.token,
            count: 0,
            holder: Some(asker.who),
            mode: asker.mode,
            beacon: asker.beacon,
            len: asker.len,
            since: take.wall,
            queue: Vec::new(),
            last: None,
        });
        return held(fresh);
    };
    let seen = record.sighting();
    // Those who wait go first, so that none of them is granted what the holder gives up.
    let ended = |who: &Requester| who.tab == take.who.tab && take.ended.contains(&who.request);
    record.queue.retain(|w| !ended(&w.who));
    let granted = record.holder.as_ref().is_some_and(ended) && leave(record, 2).is_some();
    let Some(holder) = record.holder.clone() else {
        seat(record, asker, 2);
        keep_up(record, take);
        record.since = take.wall;
        return held(record);
    };
    if holder == take.who {
        if record.count == 0 {
            // Perhaps the first word of somebody who was granted the lock out of the queue.
            record.since = take.wall;
        }
        // Never shorter: it may believe in a longer lease already, if this take is late.
        extend(record, take.len.max(record.len), take.beacon);
        return held(record);
    }
    let place = record.queue.iter().position(|w| w.who == take.who);
    let ahead = place.unwrap_or(record.queue.len());
    let step = match &take.proof {
        // What was seen must still stand, now that the ended ones are out.
        Proof::Unchanged(sighting) if *sighting == seen && !granted => 2,
        Proof::Delegated { token, from }
            if (*token, from) == (record.token, &holder) && ahead == 0 =>
        {
            1
        }
        Proof::Dead(tabs)
            if tabs.contains(&holder.tab)
                && record.queue[..ahead]
                    .iter()
                    .all(|w| tabs.contains(&w.who.tab)) =>
        {
            record.queue.drain(..ahead);
            2
        }
        _ => {
            match place.map(|place| &mut record.queue[place]) {
                Some(me)
                    if me.len < take.len
                        || me.at.saturating_add(u64::from(me.len) * 250) <= take.at =>
                {
                    me.at = take.at;
                    // Never shorter: a holder that has read it may delegate for as long.
                    me.len = me.len.max(take.len);
                    me.beacon = take.beacon;
                }
                None if take.join => record.queue.push(asker),
                _ => {}
            }
            let before = record.queue[..ahead].iter();
            let before = before.map(|w| (w.who.tab.clone(), w.beacon));
            return Outcome::Waiting(Waiting {
                sighting: record.sighting(),
                len: record.len,
                before: std::iter::once((holder.tab.clone(), record.beacon))
                    .chain(before)
                    .collect(),
                holder,
                queued: place.is_some() || take.join,
            });
        }
    };
    dismiss(record);
    record.queue.retain(|w| w.who != take.who);
    seat(record, asker, step);
    record.since = take.wall;
    // A delegated lease has been running since before: observers begin anew all the same.
    record.count = 2 - step;
    held(record)
}

fn claim(record: Option<&mut Record>, command: &Command) -> Outcome {
    let (
        Some(record),
        Command::Claim {
            who,
            token,
            from,
            len,
            beacon,
            wall,
        },
    ) = (record, command)
    else {
        return Outcome::Refused;
    };
    record.queue.retain(|w| w.who != *who);
    let holder = record.holder.as_ref();
    if record.token + 1 == *token && holder == Some(from) {
        dismiss(record);
        record.token = *token;
        record.count = 0;
        record.holder = Some(who.clone());
    } else if record.token != *token || holder != Some(who) {
        return Outcome::Refused;
    }
    if *len == 0 {
        return quit(Some(record), who);
    }
    if record.count == 0 {
        record.since = *wall;
    }
    extend(record, *len, *beacon);
    held(record)
}

fn renew(record: Option<&mut Record>, command: &Command) -> Outcome {
    match (record, command) {
        (
            Some(record),
            Command::Renew {
                who,
                token,
                len,
                beacon,
            },
        ) if record.token == *token && record.holder.as_ref() == Some(who) => {
            if *len == 0 {
                return quit(Some(record), who);
            }
            extend(record, *len, *beacon);
            held(record)
        }
        _ => Outcome::Refused,
    }
}

fn pass(record: Option<&mut Record>, who: &Requester, token: u64, to: &Requester) -> Outcome {
    let granted = match record {
        Some(record) if record.token == token && record.holder.as_ref() == Some(who) => {
            let is_head = record.queue.first().is_some_and(|head| head.who == *to);
            leave(record, if is_head { 1 } else { 2 })
        }
        _ => None,
    };
    Outcome::Gone { granted }
}

fn quit(record: Option<&mut Record>, who: &Requester) -> Outcome {
    let granted = match record {
        Some(record) if record.holder.as_ref() == Some(who) => leave(record, 2),
        Some(record) => {
            record.queue.retain(|w| w.who != *who);
            None
        }
        None => None,
    };
    Outcome::Gone { granted }
}

/// The holder is out: the head of the queue is granted the lock, if there is one.
fn leave(record: &mut Record, step: u64) -> Option<Granted> {
    dismiss(record);
    if record.queue.is_empty() {
        return None;
    }
    let head = record.queue.remove(0);
    seat(record, head.clone(), step);
    Some(Granted {
        epoch: record.epoch,
        token: record.token,
        to: head,
    })
}

/// Begins a new holder's time, under a token that is higher by `step`: one for a lease that was
/// delegated, two for any other, so that the number between is the holder's to delegate under.
fn seat(record: &mut Record, who: Waiter, step: u64) {
    record.token += step;
    record.count = 0;
    record.holder = Some(who.who);
    record.mode = who.mode;
    record.beacon = who.beacon;
    record.len = who.len;
}

/// How coarsely tokens keep up with the clock: by steps of 1024 ms (there are 1024 tokens in a ms). So most
/// changes of hands still add two.
const KEEP_UP_STEP: u64 = 1024 * 1024;

/// The token of a lock that was free keeps up with the wall clock, as a new record's does. It orders nothing: but
/// a server that compares the tokens of two devices, each with its own record, then refuses one of them
/// for little longer than that one's clock is behind.
fn keep_up(record: &mut Record, take: &Take) {
    let clock = take.fresh.token - take.fresh.token % KEEP_UP_STEP;
    record.token = record.token.max(clock);
}

/// Ends the present holder's time and remembers it.
fn dismiss(record: &mut Record) {
    if let Some(holder) = record.holder.take() {
        record.last = Some(Last {
            tab: holder.tab,
            token: record.token,
        });
    }
}

/// The holder has shown that it lives: whoever observes it begins anew.
fn extend(record: &mut Record, len: u32, beacon: bool) {
    record.count += 1;
    record.len = len;
    record.beacon = beacon;
}

fn held(record: &Record) -> Outcome {
    Outcome::Held(Held {
        epoch: record.epoch,
        token: record.token,
        count: record.count,
        last: record.last.clone(),
        head: record.queue.first().cloned(),
    })
}
