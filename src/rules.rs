//! The lease rules: one record, one command, one pure function.
//!
//! Everything that tabs share about a lock name is one small [`Record`]. Every change of it is one
//! [`Command`], decided by [`apply`] inside one atomic read-modify-write of a
//! [`BackingStore`](crate::BackingStore). The function knows no clock, no store and no browser. Stores
//! decide nothing.
//!
//! # Who changes what
//!
//! A record is *free* (no holder) or *held* by one [`Requester`]. A requester is a tab **and** a
//! request of that tab: a rule "same tab, so extend" would revive a lease that the tab has given away.
//!
//! | command | by | on | answer |
//! |---|---|---|---|
//! | take | anybody | no record, or free | held, token grown |
//! | take | its holder | held | held, count grown |
//! | take | another, with a [`Proof`] that holds | held | held, token grown |
//! | take | another | held | waiting; joins the queue if it asked to |
//! | claim | the receiver of a delegation | held by the delegator | held, token one higher |
//! | claim | the receiver, once the record has caught up | held by itself | held, count grown |
//! | claim | anybody else | anything | refused, and out of the queue |
//! | renew | its holder, of that token | held | held, count grown |
//! | renew | anybody else | anything | refused, nothing changes |
//! | pass | its holder, to the head of the queue | held | granted to the head, token one higher |
//! | pass | its holder, to another requester | held | as quit |
//! | quit | its holder | held | free, or granted to the head of the queue, token grown |
//! | quit | anybody else | anything | leaves the queue |
//!
//! In a store that keeps leases and data in one database, a transaction of the application's can be part of a
//! lease. It asks [`fence`] first, and nothing of it is committed unless the lease is current.
//!
//! The queue is first in, first out. A waiter that is granted the lock learns of it by a message, or by
//! its next take, which is answered [`Outcome::Held`]. Until then nobody renews. So a head of the queue
//! that has ended costs the others the length of one lease; less, if a beacon tells that it has.
//!
//! # Numbers
//!
//! Every grant that is made inside a transaction adds at least two to the token. The number between belongs
//! to the holder alone: under it the holder may *delegate* the lease, by a message that no store has seen
//! yet. The claim and the pass write that down, in either order. If any of the three is lost, still no number
//! is used twice.
//!
//! Expiry is judged by **observation**. A waiter that has seen one [`Sighting`] (epoch, token, count) for the
//! record's whole lease length, on its own monotonic clock, says so. The rule checks that the record is still
//! the same. A holder adds to the count at every renewal, so the record of a holder that renews never stays
//! the same for so long. No rule reads a wall clock: `since` is for people.
//!
//! # Notes
//!
//! A page that stops in the midst of a transaction can leave it open. A store whose transactions are like
//! that may keep what a requester says *blindly* beside the record, in a [`Note`] of that requester alone.
//! Nothing has to be read first, so nothing is left half-done, and no other requester's word is overwritten.
//! [`apply_noted`] sees both as one record.

mod wire;

use serde::{Deserialize, Serialize};

use crate::codec;

/// The longest lease that a record may carry, in ms (ten minutes). A record that names a longer one is
/// corrupt: to believe it would block the lock for as long as it says.
pub const MAX_LEASE_MS: u32 = 600_000;

/// The format of [`Record`] that this code reads and writes.
pub const FORMAT: u8 = 2;

/// The greatest number that a record may carry. Numbers stay below 2⁵³, so that JavaScript reads them
/// exactly; the room above this bound is for the tokens and counts that are still to come.
const MAX_NUMBER: u64 = (1 << 53) - (1 << 32);

/// Who asks: a tab (or worker, or process), and one request of it. A tab never uses a request id twice. A
/// request starts to hold at most once, and never after it was given up.
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
    /// A stamp: the waiter's own monotonic clock, in µs, read before it sent a take. By this stamp a
    /// delegator tells it for how long the lease is good. A later take renews the stamp if it is older than a
    /// quarter of `len`, or if the take asks for a longer lease.
    pub at: u64,
    /// Whether the waiter's tab held its beacon when this stamp was written.
    pub beacon: bool,
    /// Wall clock at which it joined, ms since 1970. For people; no rule reads it.
    pub since: u64,
}

/// The holder before the present one (of a free record: the latest one).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Last {
    /// Its tab.
    pub tab: String,
    /// The token that it held under.
    pub token: u64,
}

/// Everything that is shared about one lock name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// The [`FORMAT`] of the code that wrote the record.
    pub format: u8,
    /// A random id of this incarnation of the record. After a deletion tokens and counts may repeat;
    /// epochs do not.
    pub epoch: u64,
    /// The fencing token. It grows at every change of hands, and survives a release.
    pub token: u64,
    /// A number that grows whenever the holder takes, claims or renews again. Observers watch it.
    pub count: u64,
    /// Who holds. `None` when the lock is free.
    pub holder: Option<Requester>,
    /// How the lock is held.
    pub mode: Mode,
    /// Whether the holder's tab held its beacon when the holder last took or renewed.
    pub beacon: bool,
    /// The length of the current lease, in ms.
    pub len: u32,
    /// The wall clock at the last change of hands, ms since 1970. For people; no rule reads it.
    pub since: u64,
    /// Who waits, in order of arrival. Empty when the lock is free.
    pub queue: Vec<Waiter>,
    /// The holder before the present one; of a free lock, the latest one.
    pub last: Option<Last>,
}

/// The error of a record that no rule can have written: it is another program's, or damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease record is not one of ours: {0}")]
pub struct Corrupt(pub &'static str);

impl Record {
    /// The bytes that a store keeps.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads what [`Record::encode`] wrote.
    ///
    /// # Errors
    ///
    /// [`Corrupt`], if no rule of this version can have written it.
    pub fn decode(bytes: &[u8]) -> Result<Self, Corrupt> {
        match codec::decode::<Self>(bytes) {
            _ if bytes.first() != Some(&FORMAT) => Err(Corrupt("its format is of another version")),
            Some((record, [])) => record.check().map(|()| record),
            Some(_) => Err(Corrupt("something follows it")),
            None => Err(Corrupt("it has not the shape of a lease")),
        }
    }

    /// Checks what the types alone do not say: a damaged record is an error, never a free lock. A store that
    /// keeps records in another form than [`Record::encode`]'s calls this on what it has read, before
    /// [`apply`] sees it.
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

    /// What an observer compares. If two sightings are equal, nothing was renewed in between.
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
    /// See [`Record::epoch`].
    pub epoch: u64,
    /// See [`Record::token`].
    pub token: u64,
    /// See [`Record::count`].
    pub count: u64,
}

/// What a new record starts with. The caller chooses it: the rules draw no random numbers and read no clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fresh {
    /// A random epoch, below 2⁵³ − 2³².
    pub epoch: u64,
    /// The first token. It is above every token that the caller has seen, and grows with the wall clock. So
    /// tokens grow across a deletion, too, unless the wall clock is set back.
    pub token: u64,
}

/// Why a lease that the record says is held may be taken over all the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Proof {
    /// There is no reason.
    #[default]
    None,
    /// "I have seen exactly this for its whole lease length."
    Unchanged(Sighting),
    /// "The holder gave the lease to me, by a message." This only counts for the head of the queue.
    Delegated {
        /// The token that the holder held under.
        token: u64,
        /// The holder.
        from: Requester,
    },
    /// "These tabs have ended": the holder's, and those of all that waited before. The end of the holder's
    /// alone is not enough, since it may have delegated the lease to the head of the queue.
    Dead(Vec<String>),
}

/// What a requester has written beside the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Note {
    /// A [`Command::Renew`] that needed no answer from the record. It counts if its writer still holds,
    /// under the same token.
    Renewed {
        /// The token that its writer held under.
        token: u64,
        /// A number that grows at every renewal of that requester.
        count: u64,
        /// See [`Record::len`].
        len: u32,
        /// See [`Record::beacon`].
        beacon: bool,
    },
    /// A [`Command::Quit`] of a tab that was about to be stopped.
    Ended,
}

impl Note {
    /// The bytes that a store keeps.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(&(FORMAT, *self))
    }

    /// Reads what [`Note::encode`] wrote.
    ///
    /// # Errors
    ///
    /// [`Corrupt`], if this version cannot have written it. To ignore such a note would be to steal from a
    /// holder that renews.
    pub fn decode(bytes: &[u8]) -> Result<Self, Corrupt> {
        match codec::decode::<(u8, Self)>(bytes) {
            Some(((FORMAT, note), [])) => match note {
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
    /// How it wants to hold.
    pub mode: Mode,
    /// The lease length that it asks for, in ms. A lease of 0 ms frees what `who` holds.
    pub len: u32,
    /// See [`Waiter::at`].
    pub at: u64,
    /// Whether the tab holds its beacon.
    pub beacon: bool,
    /// Whether to wait in the queue if another requester holds.
    pub join: bool,
    /// Why the lease may be taken over.
    pub proof: Proof,
    /// Earlier requests of the same tab that have ended, and whose own [`Command::Quit`] may not have reached
    /// the store. They quit first. A request that was handed on must not be named here.
    pub ended: Vec<u64>,
    /// What a new record starts with, and what the token of a free lock keeps up with.
    pub fresh: Fresh,
    /// Wall clock, ms since 1970, for `since`.
    pub wall: u64,
}

/// What a tab may ask of a record. Each is applied in one atomic step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Take the lease, or ask again for a lease that may already be this tab's.
    Take(Take),
    /// Write down a lease that was delegated or granted to this tab. A claim never queues, and never takes
    /// the lease of another.
    Claim {
        /// Who was given the lease.
        who: Requester,
        /// The token that it holds under.
        token: u64,
        /// Who gave the lease.
        from: Requester,
        /// The length of the lease from now, in ms. 0 frees it.
        len: u32,
        /// Whether the tab holds its beacon.
        beacon: bool,
        /// Wall clock, ms since 1970, for `since`.
        wall: u64,
    },
    /// Extend the lease, if it is still held under the same token. A renewal never takes the lease anew.
    Renew {
        /// Who believes to hold.
        who: Requester,
        /// The token that it holds under.
        token: u64,
        /// The length of the lease from now, in ms. 0 frees it.
        len: u32,
        /// Whether the tab holds its beacon.
        beacon: bool,
    },
    /// Write down that this tab has delegated the lease, in case that the receiver does not.
    Pass {
        /// Who delegated the lease.
        who: Requester,
        /// The token that it held under.
        token: u64,
        /// The receiver.
        to: Requester,
    },
    /// Release the lease, or stop waiting for it.
    Quit {
        /// The request that has ended.
        who: Requester,
    },
}

/// The answer to a [`Command`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The lease is the asker's. It runs from before the command was sent.
    Held(Held),
    /// Another requester holds, as far as the record says.
    Waiting(Waiting),
    /// The lease that was to be renewed or claimed is not the asker's. No lease was changed.
    Refused,
    /// The request is not in the record any more.
    Gone {
        /// The waiter that was granted the lock by that, if there was one.
        granted: Option<Granted>,
    },
}

/// The head of the queue was granted the lock in a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Granted {
    /// See [`Record::epoch`].
    pub epoch: u64,
    /// The token that it holds under.
    pub token: u64,
    /// The waiter that was granted the lock.
    pub to: Waiter,
}

/// The lease is the asker's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    /// See [`Record::epoch`].
    pub epoch: u64,
    /// See [`Record::token`].
    pub token: u64,
    /// Who held before.
    pub last: Option<Last>,
    /// Who waits at the head of the queue.
    pub head: Option<Waiter>,
}

/// Another requester holds the lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Waiting {
    /// What to watch.
    pub sighting: Sighting,
    /// How long the record must stay unchanged before the lease may be taken over, in ms.
    pub len: u32,
    /// Who holds.
    pub holder: Requester,
    /// The tabs that may have the lease before the asker: the holder's, then those that wait ahead of the
    /// asker. With each, whether its beacon tells when it ends.
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

/// The answer to a take that need not be applied, because it would change nothing but its own stamp. A store
/// can answer such a take by reading. `None` for a take that has to be applied.
#[must_use]
pub fn look(record: &Record, command: &Command) -> Option<Outcome> {
    unchanged(record, command, apply(Some(record), command))
}

/// What [`look`] answers, if `applied` is what [`apply`] has answered.
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

/// Whose [`Note`] has to be read before `command` is applied to `record`: the holder's, if the command may
/// judge the holder by what it has done lately. `None` if no note has to be read. The first take of a waiter
/// that joins the queue needs none, since the waiter looks again before anything comes of what it saw.
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

/// Does what [`apply`] does, for a record whose holder has left a note.
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
        // What was renewed by the note stays in the note.
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
    /// The token that it holds under.
    pub token: u64,
    /// The incarnation of the record that the token is of.
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
    /// The lease is current, and the record does not say so yet. The transaction may go on, and write this
    /// record.
    Claimed(Record),
    /// The lease is not current: the transaction must be aborted.
    Refused,
}

/// The check at the head of a fenced transaction, on the record as that transaction reads it. Epoch, token
/// and requester must all be the record's: a token alone may repeat after a deletion, and a tab may hold
/// again by another request.
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
    let Some(record) = record else {
        return held(record.insert(first(take)));
    };
    let seen = record.sighting();
    // Ended requests that wait go first, so that none of them is granted what an ended holder gives up.
    let ended = |who: &Requester| who.tab == take.who.tab && take.ended.contains(&who.request);
    record.queue.retain(|w| !ended(&w.who));
    let granted = record.holder.as_ref().is_some_and(ended) && leave(record, 2).is_some();
    let Some(holder) = record.holder.clone() else {
        seat(record, asker(take), 2);
        keep_up(record, take);
        record.since = take.wall;
        return held(record);
    };
    if holder == take.who {
        if record.count == 0 {
            // Perhaps the first word of a waiter that was granted the lock out of the queue.
            record.since = take.wall;
        }
        // Never shorter: if this take is late, the holder may believe in a longer lease already.
        extend(record, take.len.max(record.len), take.beacon);
        return held(record);
    }
    let place = record.queue.iter().position(|w| w.who == take.who);
    let ahead = place.unwrap_or(record.queue.len());
    // If an ended holder has just made room for the head of the queue, what was seen does not stand any more.
    let seen = Some(seen).filter(|_| !granted);
    let Some(step) = step_by_proof(record, &take.proof, &holder, seen, ahead) else {
        return wait(record, take, holder, place);
    };
    if let Proof::Dead(_) = take.proof {
        record.queue.drain(..ahead);
    }
    dismiss(record);
    record.queue.retain(|w| w.who != take.who);
    seat(record, asker(take), step);
    record.since = take.wall;
    // A delegated lease has been running for a while. Observers begin anew all the same.
    record.count = 2 - step;
    held(record)
}

fn asker(take: &Take) -> Waiter {
    Waiter {
        who: take.who.clone(),
        mode: take.mode,
        len: take.len,
        at: take.at,
        beacon: take.beacon,
        since: take.wall,
    }
}

/// The record that `take` begins, where there is none.
fn first(take: &Take) -> Record {
    Record {
        format: FORMAT,
        epoch: take.fresh.epoch,
        token: take.fresh.token,
        count: 0,
        holder: Some(take.who.clone()),
        mode: take.mode,
        beacon: take.beacon,
        len: take.len,
        since: take.wall,
        queue: Vec::new(),
        last: None,
    }
}

/// By how much the token grows, if `proof` stands against the holder and those `ahead` in the queue. `None`
/// if it does not.
fn step_by_proof(
    record: &Record,
    proof: &Proof,
    holder: &Requester,
    seen: Option<Sighting>,
    ahead: usize,
) -> Option<u64> {
    match proof {
        Proof::None => None,
        Proof::Unchanged(sighting) => (seen == Some(*sighting)).then_some(2),
        Proof::Delegated { token, from } => {
            let stands = (*token, from) == (record.token, holder) && ahead == 0;
            stands.then_some(1)
        }
        Proof::Dead(tabs) => {
            let is_dead = |who: &Requester| tabs.contains(&who.tab);
            let mut before = record.queue[..ahead].iter();
            (is_dead(holder) && before.all(|w| is_dead(&w.who))).then_some(2)
        }
    }
}

/// How old a waiter's stamp becomes before a take renews it: a quarter of its lease, in µs for each ms of
/// that. The holder counts a hand-over from the stamp, so an older one would leave less of the lease to
/// the waiter. A younger stamp is left as it is, so that the take changes nothing.
const STAMP_AGE_US: u64 = 250;

/// The asker waits. It joins the queue, if it asked to. If it stands there already, it renews its stamp.
fn wait(record: &mut Record, take: &Take, holder: Requester, place: Option<usize>) -> Outcome {
    let ahead = place.unwrap_or(record.queue.len());
    let is_old = |me: &Waiter| me.at.saturating_add(u64::from(me.len) * STAMP_AGE_US) <= take.at;
    match place.map(|place| &mut record.queue[place]) {
        Some(me) if me.len < take.len || is_old(me) => {
            me.at = take.at;
            // Never shorter: a holder that has read it may delegate for as long.
            me.len = me.len.max(take.len);
            me.beacon = take.beacon;
        }
        None if take.join => record.queue.push(asker(take)),
        _ => {}
    }
    let before = record.queue[..ahead].iter();
    let before = before.map(|w| (w.who.tab.clone(), w.beacon));
    Outcome::Waiting(Waiting {
        sighting: record.sighting(),
        len: record.len,
        before: std::iter::once((holder.tab.clone(), record.beacon))
            .chain(before)
            .collect(),
        holder,
        queued: place.is_some() || take.join,
    })
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

/// Ends the holder's time. The head of the queue is granted the lock, if there is one.
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

/// How coarsely tokens keep up with the clock: by steps of 1024 ms, at 1024 tokens in a ms. So most changes
/// of hands still add two.
const KEEP_UP_STEP: u64 = 1024 * 1024;

/// Lets the token of a lock that was free keep up with the wall clock, as a new record's does. No order
/// depends on that. But a server may compare the tokens of two devices, each with its own record. Then it
/// refuses the tokens of one of them only for a little longer than that device's clock is behind.
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

/// The holder has shown that it lives. Observers begin anew.
fn extend(record: &mut Record, len: u32, beacon: bool) {
    record.count += 1;
    record.len = len;
    record.beacon = beacon;
}

fn held(record: &Record) -> Outcome {
    Outcome::Held(Held {
        epoch: record.epoch,
        token: record.token,
        last: record.last.clone(),
        head: record.queue.first().cloned(),
    })
}
