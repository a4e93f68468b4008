//! The bytes of records and notes.

use super::{Last, Mode, Note, Record, Requester, Waiter};
use crate::codec::{Reader, Wire, put_number, wire};

wire! {
    Requester { tab, request }
    Waiter { who, mode, len, at, beacon, since }
    Last { tab, token }
    Record { format, epoch, token, count, holder, mode, beacon, len, since, queue, last }
}

impl Wire for Mode {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Exclusive => put_number(0, out),
        }
    }

    fn take(from: &mut Reader<'_>) -> Self {
        let kind = u32::take(from);
        from.expect(kind == 0);
        Self::Exclusive
    }
}

impl Wire for Note {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Renewed {
                token,
                count,
                len,
                beacon,
            } => {
                put_number(0, out);
                token.put(out);
                count.put(out);
                len.put(out);
                beacon.put(out);
            }
            Self::Ended => put_number(1, out),
        }
    }

    fn take(from: &mut Reader<'_>) -> Self {
        let kind = u32::take(from);
        if kind == 0 {
            return Self::Renewed {
                token: Wire::take(from),
                count: Wire::take(from),
                len: Wire::take(from),
                beacon: Wire::take(from),
            };
        }
        from.expect(kind == 1);
        Self::Ended
    }
}
