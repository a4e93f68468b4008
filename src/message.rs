//! What those who contend for a key tell each other, and the bytes of it.
//!
//! A message may be lost, late or repeated; what is done on it, and whether, is for the
//! [participant](crate::participant) to say. Whoever misses one asks the store when its pause is over.
//! (Forged it must not be: whoever can write to the channel could as well delete the store.)

use serde::{Deserialize, Serialize};

use crate::participant::{Beat, Grant, Heed, Want};
use crate::rules::Requester;

/// A message about a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Message {
    /// The lease is yours.
    Grant(Grant),
    /// I wait for the lease.
    Want(Want),
    /// This one waits no longer, or has let go because its page is stopped.
    Gone(Requester),
    /// An answer to a [`Want`] of somebody who only tries.
    Reply {
        /// To whom.
        to: Requester,
        /// Whether the lock has just been freed for it.
        free: bool,
    },
    /// I hold, and go by you.
    Beat(Beat),
    /// I have heard that.
    Heed(Heed),
}

impl Message {
    /// The bytes that go to other processes.
    #[must_use]
    pub fn encode(&self, key: &str) -> Vec<u8> {
        // Serialising numbers and strings into memory cannot fail.
        postcard::to_allocvec(&(key, self)).unwrap_or_default()
    }

    /// Which key the bytes are about, and the rest of them, for [`Message::decode`]. Nothing, if they are
    /// no message.
    #[must_use]
    pub fn key(bytes: &[u8]) -> Option<(&str, &[u8])> {
        postcard::take_from_bytes(bytes).ok()
    }

    /// Reads what follows the key. Nothing, if it is no message of this crate's version.
    #[must_use]
    pub fn decode(rest: &[u8]) -> Option<Self> {
        match postcard::take_from_bytes(rest) {
            Ok((message, [])) => Some(message),
            _ => None,
        }
    }

    /// The only tab that it is for. Nothing, if it is for everybody.
    pub(crate) fn to(&self) -> Option<&str> {
        match self {
            Self::Grant(grant) => Some(&grant.to.tab),
            Self::Reply { to, .. } => Some(&to.tab),
            Self::Beat(beat) => Some(&beat.to.tab),
            Self::Heed(heed) => Some(&heed.to.tab),
            Self::Want(_) | Self::Gone(_) => None,
        }
    }
}
