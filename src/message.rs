//! What those who contend for a key tell each other, and the bytes of it.
//!
//! A message may be lost, late or repeated; what is done on it, and whether, is for the
//! [participant](crate::participant) to say. A tab that misses a message asks the store when its pause is
//! over.
//! (Messages are trusted. Code that can write to the channel could as well delete the store.)

use serde::{Deserialize, Serialize};

use crate::codec::{self, Reader, Wire, put_number, wire};
use crate::participant::{Grant, Want};
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
}

impl Message {
    /// The bytes that go to other processes.
    #[must_use]
    pub fn encode(&self, key: &str) -> Vec<u8> {
        let mut out = Vec::new();
        codec::put_text(key, &mut out);
        self.put(&mut out);
        out
    }

    /// Which key the bytes are about, and the rest of them, for [`Message::decode`]. Nothing, if they are
    /// no message.
    #[must_use]
    pub fn key(bytes: &[u8]) -> Option<(&str, &[u8])> {
        codec::decode_text(bytes)
    }

    /// Reads what follows the key. Nothing, if it is no message of this crate's version.
    #[must_use]
    pub fn decode(rest: &[u8]) -> Option<Self> {
        match codec::decode(rest) {
            Some((message, [])) => Some(message),
            _ => None,
        }
    }

    /// The only tab that it is for. Nothing, if it is for everybody.
    pub(crate) fn to(&self) -> Option<&str> {
        match self {
            Self::Grant(grant) => Some(&grant.to.tab),
            Self::Reply { to, .. } => Some(&to.tab),
            Self::Want(_) | Self::Gone(_) => None,
        }
    }
}

wire! {
    Grant { epoch, from, to, token, until, vouched, granted }
    Want { epoch, token, who, len, at, queued }
}

impl Wire for Message {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Grant(grant) => {
                put_number(0, out);
                grant.put(out);
            }
            Self::Want(want) => {
                put_number(1, out);
                want.put(out);
            }
            Self::Gone(who) => {
                put_number(2, out);
                who.put(out);
            }
            Self::Reply { to, free } => {
                put_number(3, out);
                to.put(out);
                free.put(out);
            }
        }
    }

    fn take(from: &mut Reader<'_>) -> Self {
        match u32::take(from) {
            0 => Self::Grant(Wire::take(from)),
            1 => Self::Want(Wire::take(from)),
            3 => Self::Reply {
                to: Wire::take(from),
                free: Wire::take(from),
            },
            kind => {
                from.expect(kind == 2);
                Self::Gone(Wire::take(from))
            }
        }
    }
}
