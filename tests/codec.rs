//! The bytes of records, notes and messages are those of postcard, by which earlier versions wrote them; what
//! postcard refuses is refused.
#![cfg(not(target_arch = "wasm32"))]

use postcard::{take_from_bytes, to_allocvec};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use tab_lease::message::Message;
use tab_lease::participant::{Grant, Want};
use tab_lease::rules::{
    Corrupt, FORMAT, Last, MAX_LEASE_MS, Mode, Note, Record, Requester, Waiter,
};

/// Numbers of every length, most of them small.
fn number() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0..64_u32).prop_map(|(number, shift)| number >> shift)
}

fn ms() -> impl Strategy<Value = u32> {
    (any::<u32>(), 0..32_u32).prop_map(|(number, shift)| number >> shift)
}

fn requester() -> impl Strategy<Value = Requester> {
    ("\\PC{0,40}", number()).prop_map(|(tab, request)| Requester { tab, request })
}

fn waiter() -> impl Strategy<Value = Waiter> {
    let numbers = (ms(), number(), number());
    (requester(), numbers, any::<bool>()).prop_map(|(who, (len, at, since), beacon)| Waiter {
        who,
        mode: Mode::Exclusive,
        len,
        at,
        beacon,
        since,
    })
}

fn record() -> impl Strategy<Value = Record> {
    let last = ("\\PC{0,20}", number()).prop_map(|(tab, token)| Last { tab, token });
    let numbers = (number(), number(), number(), ms(), number());
    let format = prop_oneof![9 => Just(FORMAT), 1 => any::<u8>()];
    let who = (
        proptest::option::of(requester()),
        vec(waiter(), 0..4),
        proptest::option::of(last),
    );
    (format, numbers, who, any::<bool>()).prop_map(
        |(format, (epoch, token, count, len, since), (holder, queue, last), beacon)| Record {
            format,
            epoch,
            token,
            count,
            holder,
            mode: Mode::Exclusive,
            beacon,
            len,
            since,
            queue,
            last,
        },
    )
}

/// One that a rule could have written, so that what reads it back does not refuse it for its numbers.
fn sound() -> impl Strategy<Value = Record> {
    record().prop_map(|mut record| {
        const MOST: u64 = 1 << 52;
        let len = |len: u32| len % MAX_LEASE_MS + 1;
        record.format = FORMAT;
        record.len = len(record.len);
        for number in [&mut record.epoch, &mut record.token, &mut record.count] {
            *number %= MOST;
        }
        if record.holder.is_none() {
            record.queue.clear();
        }
        for (place, waiter) in record.queue.iter_mut().enumerate() {
            waiter.len = len(waiter.len);
            waiter.at %= MOST;
            waiter.who.tab.push_str(&place.to_string());
        }
        record.last = record.last.filter(|last| last.token <= record.token);
        record
    })
}

fn note() -> impl Strategy<Value = Note> {
    let renewed = (number(), number(), ms(), any::<bool>());
    prop_oneof![
        Just(Note::Ended),
        renewed.prop_map(|(token, count, len, beacon)| Note::Renewed {
            token,
            count,
            len,
            beacon
        }),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    let numbers = || (number(), number(), number());
    let grant = (numbers(), requester(), requester(), any::<[bool; 2]>());
    let want = (numbers(), requester(), ms(), any::<bool>());
    let reply = (requester(), any::<bool>());
    prop_oneof![
        grant.prop_map(|((epoch, token, until), from, to, [vouched, granted])| {
            Message::Grant(Grant {
                epoch,
                from,
                to,
                token,
                until,
                vouched,
                granted,
            })
        }),
        want.prop_map(|((epoch, token, at), who, len, queued)| {
            Message::Want(Want {
                epoch,
                token,
                who,
                len,
                at,
                queued,
            })
        }),
        requester().prop_map(Message::Gone),
        reply.prop_map(|(to, free)| Message::Reply { to, free }),
    ]
}

/// [`Record::decode`] as it was when postcard read.
fn record_by_postcard(bytes: &[u8]) -> Result<Record, Corrupt> {
    match take_from_bytes::<Record>(bytes) {
        _ if bytes.first() != Some(&FORMAT) => Err(Corrupt("its format is of another version")),
        Ok((record, [])) => record.check().map(|()| record),
        Ok(_) => Err(Corrupt("something follows it")),
        Err(_) => Err(Corrupt("it has not the shape of a lease")),
    }
}

fn message_by_postcard(bytes: &[u8]) -> Option<Message> {
    let whole = |(message, rest): (Message, &[u8])| rest.is_empty().then_some(message);
    take_from_bytes(bytes).ok().and_then(whole)
}

/// The two read alike. A note's numbers are checked by what reads it, so only whether it is of that shape.
fn read_alike(bytes: &[u8]) -> Result<(), TestCaseError> {
    prop_assert_eq!(Record::decode(bytes), record_by_postcard(bytes));
    prop_assert_eq!(Message::decode(bytes), message_by_postcard(bytes));
    let key = take_from_bytes::<&str>(bytes).ok();
    prop_assert_eq!(Message::key(bytes), key);
    let by_postcard = take_from_bytes::<(u8, Note)>(bytes);
    let is_note = matches!(by_postcard, Ok(((FORMAT, _), [])));
    let misshapen = Corrupt("its note has not the shape of one");
    prop_assert_eq!(Note::decode(bytes) != Err(misshapen), is_note);
    if let (Ok(note), Ok(((_, expected), _))) = (Note::decode(bytes), by_postcard) {
        prop_assert_eq!(note, expected);
    }
    Ok(())
}

/// Bytes with some of them changed, cut out or put in.
fn damaged(bytes: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![any::<u8>(), Just(0x80), Just(0xff), 0..4_u8];
    let change = (any::<Index>(), byte, 0..3_u8);
    vec(change, 1..6).prop_map(move |changes| {
        let mut bytes = bytes.clone();
        for (place, byte, how) in changes {
            let place = place.index(bytes.len() + 1);
            match how {
                0 if place < bytes.len() => bytes[place] = byte,
                1 if place < bytes.len() => _ = bytes.remove(place),
                _ => bytes.insert(place, byte),
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_bytes_are_those_of_postcard(
        record in record(),
        note in note(),
        message in message(),
        key in "\\PC{0,40}",
    ) {
        prop_assert_eq!(record.encode(), to_allocvec(&record).unwrap());
        prop_assert_eq!(note.encode(), to_allocvec(&(FORMAT, note)).unwrap());
        prop_assert_eq!(message.encode(&key), to_allocvec(&(&*key, &message)).unwrap());
    }

    #[test]
    fn what_was_written_is_read(
        record in sound(),
        note in note(),
        message in message(),
        key in "\\PC{0,40}",
    ) {
        prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
        if let Ok(read) = Note::decode(&note.encode()) {
            prop_assert_eq!(read, note);
        }
        let bytes = message.encode(&key);
        let (of, rest) = Message::key(&bytes).unwrap();
        prop_assert_eq!(of, key);
        prop_assert_eq!(Message::decode(rest), Some(message));
    }

    #[test]
    fn damaged_bytes_are_read_alike(
        bytes in prop_oneof![
            record().prop_map(|record| record.encode()),
            sound().prop_map(|record| record.encode()),
            note().prop_map(|note| note.encode()),
            message().prop_map(|message| message.encode("")[1..].to_vec()),
        ].prop_flat_map(damaged),
    ) {
        read_alike(&bytes)?;
    }

    #[test]
    fn any_bytes_are_read_alike(bytes in vec(prop_oneof![any::<u8>(), 0..4_u8], 0..60)) {
        read_alike(&bytes)?;
        let ours = [&[FORMAT], &*bytes].concat();
        read_alike(&ours)?;
    }
}

#[test]
fn numbers_are_read_to_their_last_bit() {
    let most = [&[0xff; 9][..], &[1]].concat();
    let one_more = [&[0xff; 9][..], &[2]].concat();
    let endless = vec![0xff; 11];
    for number in [most, one_more, endless] {
        // A `Gone` of a tab without a name.
        read_alike(&[&[2, 0], &*number].concat()).unwrap();
    }
    for last in [0x0f, 0x10] {
        // A `Want` with that length.
        let len = [0xff, 0xff, 0xff, 0xff, last];
        read_alike(&[&[1, 0, 0, 0, 0], &len[..], &[0, 0]].concat()).unwrap();
    }
}

#[test]
fn a_length_that_nothing_follows_is_no_reason_to_wait() {
    // A free record, but for a queue of more than memory holds.
    let record = [
        FORMAT, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
    ];
    let shape = Corrupt("it has not the shape of a lease");
    assert_eq!(Record::decode(&record), Err(shape));
    read_alike(&record).unwrap();
}
