//! The bytes of records, notes and messages: those of the [postcard] format, by which all tabs and versions
//! so far have written them. Numbers take seven bits a byte, lowest first; texts and lists begin with their
//! length; what may be missing, and what is one of several, begins with its number.
//!
//! Written by hand because a general one weighs 1.4 kB more in a visitor's download. `tests/codec.rs` compares
//! the two, byte for byte and error for error.
//!
//! [postcard]: https://postcard.jamesmunns.com

use crate::message::Message;
use crate::participant::{Grant, Want};
use crate::rules::{Last, Mode, Note, Record, Requester, Waiter};

/// Reads on after a mistake, and says in the end that there was one: until then it gives zeros and nothing.
#[derive(Default)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    broken: bool,
}

impl<'a> Reader<'a> {
    fn byte(&mut self) -> u8 {
        match self.bytes {
            [byte, rest @ ..] => {
                self.bytes = rest;
                *byte
            }
            [] => {
                self.broken = true;
                0
            }
        }
    }

    fn number(&mut self, bits: u32) -> u64 {
        let mut number = 0;
        for shift in (0..bits).step_by(7) {
            let byte = self.byte();
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                self.broken |= bits - shift < 7 && byte >> (bits - shift) > 0;
                return number;
            }
        }
        self.broken = true;
        0
    }

    fn length(&mut self) -> usize {
        self.number(usize::BITS) as usize
    }

    fn text(&mut self) -> &'a str {
        let length = self.length();
        let text = self.bytes.split_at_checked(length);
        let text = text.and_then(|(text, rest)| Some((str::from_utf8(text).ok()?, rest)));
        let Some((text, rest)) = text else {
            self.broken = true;
            return "";
        };
        self.bytes = rest;
        text
    }
}

/// Has a form in bytes.
pub(crate) trait Wire: Sized {
    fn put(&self, out: &mut Vec<u8>);
    /// Something of its kind, whatever there is: the reader knows whether it was that.
    fn take(from: &mut Reader<'_>) -> Self;
}

pub(crate) fn encode(value: &impl Wire) -> Vec<u8> {
    let mut out = Vec::new();
    value.put(&mut out);
    out
}

/// What the bytes begin with, and the rest of them. Nothing, if it is not of that form.
pub(crate) fn decode<T: Wire>(bytes: &[u8]) -> Option<(T, &[u8])> {
    decoded(bytes, T::take)
}

/// The text that the bytes begin with, and the rest of them.
pub(crate) fn decode_text(bytes: &[u8]) -> Option<(&str, &[u8])> {
    decoded(bytes, Reader::text)
}

fn decoded<'a, T>(
    bytes: &'a [u8],
    take: impl FnOnce(&mut Reader<'a>) -> T,
) -> Option<(T, &'a [u8])> {
    let broken = false;
    let mut from = Reader { bytes, broken };
    let value = take(&mut from);
    (!from.broken).then_some((value, from.bytes))
}

#[inline(never)]
fn put_number(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(crate) fn put_text(text: &str, out: &mut Vec<u8>) {
    put_number(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

impl Wire for u8 {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(*self);
    }

    fn take(from: &mut Reader<'_>) -> Self {
        from.byte()
    }
}

impl Wire for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push((*self).into());
    }

    fn take(from: &mut Reader<'_>) -> Self {
        let byte = from.byte();
        from.broken |= byte > 1;
        byte == 1
    }
}

impl Wire for u32 {
    fn put(&self, out: &mut Vec<u8>) {
        put_number((*self).into(), out);
    }

    fn take(from: &mut Reader<'_>) -> Self {
        from.number(Self::BITS) as Self
    }
}

impl Wire for u64 {
    fn put(&self, out: &mut Vec<u8>) {
        put_number(*self, out);
    }

    fn take(from: &mut Reader<'_>) -> Self {
        from.number(Self::BITS)
    }
}

impl Wire for String {
    fn put(&self, out: &mut Vec<u8>) {
        put_text(self, out);
    }

    fn take(from: &mut Reader<'_>) -> Self {
        from.text().to_owned()
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }

    fn take(from: &mut Reader<'_>) -> Self {
        bool::take(from).then(|| T::take(from))
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        put_number(self.len() as u64, out);
        self.iter().for_each(|value| value.put(out));
    }

    fn take(from: &mut Reader<'_>) -> Self {
        let mut values = Self::new();
        // The length is believed as far as something comes: each takes a byte, at least.
        for _ in 0..from.length() {
            if from.broken {
                break;
            }
            values.push(T::take(from));
        }
        values
    }
}

/// Of a structure: the fields, all of them, in the order in which they are declared.
macro_rules! wire {
    ($($of:ident { $($field:ident),* $(,)? })*) => {$(
        impl Wire for $of {
            fn put(&self, out: &mut Vec<u8>) {
                let Self { $($field),* } = self;
                $($field.put(out);)*
            }

            fn take(from: &mut Reader<'_>) -> Self {
                Self { $($field: Wire::take(from)),* }
            }
        }
    )*};
}

wire! {
    Requester { tab, request }
    Waiter { who, mode, len, at, beacon, since }
    Last { tab, token }
    Record { format, epoch, token, count, holder, mode, beacon, len, since, queue, last }
    Grant { epoch, from, to, token, until, vouched, granted }
    Want { epoch, token, who, len, at, queued }
}

impl Wire for Mode {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Exclusive => put_number(0, out),
        }
    }

    fn take(from: &mut Reader<'_>) -> Self {
        from.broken |= u32::take(from) != 0;
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
        from.broken |= kind != 1;
        Self::Ended
    }
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
                from.broken |= kind != 2;
                Self::Gone(Wire::take(from))
            }
        }
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }

    fn take(from: &mut Reader<'_>) -> Self {
        (A::take(from), B::take(from))
    }
}
