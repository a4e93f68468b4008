//! The pure lease rules: row by row, and whatever the order.
#![cfg(not(target_arch = "wasm32"))]

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use tab_lease::rules::{
    Command, Corrupt, FORMAT, Fresh, Held, Last, MAX_LEASE_MS, Mode, Outcome, Record, Requester,
    Sighting, Take, Waiter, Waiting, apply,
};

fn who(tab: &str, request: u64) -> Requester {
    Requester {
        tab: tab.to_owned(),
        request,
    }
}

/// The holder of [`held`].
fn alice() -> Requester {
    who("alice", 1)
}

/// Waits in [`held`].
fn bob() -> Requester {
    who("bob", 2)
}

/// Is not in [`held`].
fn carol() -> Requester {
    who("carol", 3)
}

fn held() -> Record {
    Record {
        format: FORMAT,
        epoch: 42,
        token: 100,
        count: 7,
        holder: Some(alice()),
        mode: Mode::Exclusive,
        len: 500,
        since: 1_000_000,
        queue: vec![Waiter {
            who: bob(),
            mode: Mode::Exclusive,
            len: 600,
            since: 1_000_001,
        }],
        last: Some(Last {
            tab: "zoe".to_owned(),
            token: 98,
        }),
    }
}

fn free() -> Record {
    Record {
        holder: None,
        queue: Vec::new(),
        last: Some(Last {
            tab: "alice".to_owned(),
            token: 100,
        }),
        ..held()
    }
}

fn take(who: Requester) -> Take {
    Take {
        who,
        mode: Mode::Exclusive,
        len: 700,
        join: false,
        unchanged: None,
        ended: Vec::new(),
        fresh: Fresh {
            epoch: 43,
            token: 200,
        },
        wall: 2_000_000,
    }
}

fn seen(record: &Record) -> Option<Sighting> {
    Some(record.sighting())
}

fn by(tab: &str, token: u64) -> Option<Last> {
    let tab = tab.to_owned();
    Some(Last { tab, token })
}

// ---- The table in the rules' documentation ----------------------------------------------------

#[test]
fn take_by_anybody_without_a_record() {
    let (write, outcome) = apply(None, &Command::Take(take(carol())));
    let written = Record {
        format: FORMAT,
        epoch: 43,
        token: 200,
        count: 0,
        holder: Some(carol()),
        mode: Mode::Exclusive,
        len: 700,
        since: 2_000_000,
        queue: Vec::new(),
        last: None,
    };
    assert_eq!(write, Some(written));
    let told = Held {
        epoch: 43,
        token: 200,
        last: None,
        waiters: 0,
    };
    assert_eq!(outcome, Outcome::Held(told));
}

#[test]
fn take_by_anybody_of_a_free_one() {
    let (write, outcome) = apply(Some(&free()), &Command::Take(take(carol())));
    let written = Record {
        token: 102,
        count: 0,
        holder: Some(carol()),
        len: 700,
        since: 2_000_000,
        ..free()
    };
    assert_eq!(write, Some(written));
    let told = Held {
        epoch: 42,
        token: 102,
        last: by("alice", 100),
        waiters: 0,
    };
    assert_eq!(outcome, Outcome::Held(told));
}

#[test]
fn take_by_its_holder_goes_on_with_the_token() {
    let (write, outcome) = apply(Some(&held()), &Command::Take(take(alice())));
    let written = Record {
        count: 8,
        len: 700,
        ..held()
    };
    assert_eq!(write, Some(written));
    let told = Held {
        epoch: 42,
        token: 100,
        last: by("zoe", 98),
        waiters: 1,
    };
    assert_eq!(outcome, Outcome::Held(told));
}

#[test]
fn take_by_another_with_the_proof_that_nothing_moved() {
    let proven = Take {
        unchanged: seen(&held()),
        ..take(carol())
    };
    let (write, outcome) = apply(Some(&held()), &Command::Take(proven));
    let written = Record {
        token: 102,
        count: 0,
        holder: Some(carol()),
        len: 700,
        since: 2_000_000,
        last: by("alice", 100),
        ..held()
    };
    assert_eq!(write, Some(written));
    let told = Held {
        epoch: 42,
        token: 102,
        last: by("alice", 100),
        waiters: 1,
    };
    assert_eq!(outcome, Outcome::Held(told));
}

#[test]
fn take_by_a_waiter_with_proof_takes_it_out_of_the_queue() {
    let proven = Take {
        unchanged: seen(&held()),
        ..take(bob())
    };
    let (write, _) = apply(Some(&held()), &Command::Take(proven));
    let written = write.unwrap();
    assert_eq!(written.holder, Some(bob()));
    assert!(written.queue.is_empty());
}

#[test]
fn take_by_another_with_a_proof_of_something_else_waits() {
    let held = held();
    let outdated = [
        Sighting {
            count: held.count - 1,
            ..held.sighting()
        },
        Sighting {
            count: held.count + 1,
            ..held.sighting()
        },
        Sighting {
            token: held.token - 2,
            ..held.sighting()
        },
        Sighting {
            epoch: held.epoch + 1,
            ..held.sighting()
        },
    ];
    for unchanged in outdated {
        let proven = Take {
            unchanged: Some(unchanged),
            ..take(carol())
        };
        let (write, outcome) = apply(Some(&held), &Command::Take(proven));
        assert_eq!(write, None, "{unchanged:?}");
        assert!(matches!(outcome, Outcome::Waiting(_)), "{unchanged:?}");
    }
}

#[test]
fn take_by_another_waits_and_joins_only_if_it_asked_to() {
    let told = Outcome::Waiting(Waiting {
        sighting: held().sighting(),
        len: 500,
        holder: alice(),
        ahead: 1,
    });
    let (write, outcome) = apply(Some(&held()), &Command::Take(take(carol())));
    assert_eq!((write, &outcome), (None, &told));

    let joining = Take {
        join: true,
        ..take(carol())
    };
    let (write, outcome) = apply(Some(&held()), &Command::Take(joining.clone()));
    assert_eq!(outcome, told);
    let joined = write.expect("it is in the queue now");
    let tail = Waiter {
        who: carol(),
        mode: Mode::Exclusive,
        len: 700,
        since: 2_000_000,
    };
    assert_eq!(joined.queue[1..], [tail]);
    assert_eq!(joined.sighting(), held().sighting(), "no sign of life");

    let (write, outcome) = apply(Some(&joined), &Command::Take(joining));
    assert_eq!((write, outcome), (None, told), "once is enough");
}

#[test]
fn renew_by_its_holder_of_that_token() {
    let renewal = Command::Renew {
        who: alice(),
        token: 100,
        len: 900,
    };
    let (write, outcome) = apply(Some(&held()), &renewal);
    let written = Record {
        count: 8,
        len: 900,
        ..held()
    };
    assert_eq!(write, Some(written));
    assert!(matches!(outcome, Outcome::Held(Held { token: 100, .. })));
}

#[test]
fn renew_by_anybody_else_is_refused_and_changes_nothing() {
    let renewal = |who, token, len| Command::Renew { who, token, len };
    for len in [0, 500] {
        let foreign = [
            (held(), renewal(alice(), 98, len), "an earlier token"),
            (held(), renewal(alice(), 102, len), "a later token"),
            (
                held(),
                renewal(who("alice", 2), 100, len),
                "another request",
            ),
            (held(), renewal(bob(), 100, len), "a waiter"),
            (held(), renewal(carol(), 100, len), "a stranger"),
            (free(), renewal(alice(), 100, len), "a free record"),
        ];
        for (record, command, what) in foreign {
            let answer = apply(Some(&record), &command);
            assert_eq!(answer, (None, Outcome::Refused), "{what}, {len} ms");
        }
        let answer = apply(None, &renewal(alice(), 100, len));
        assert_eq!(answer, (None, Outcome::Refused), "no record, {len} ms");
    }
}

/// `held()`, with nobody waiting.
fn held_alone() -> Record {
    Record {
        queue: Vec::new(),
        ..held()
    }
}

/// `held()`, after its holder has quit: the head of the queue has it.
fn handed_over() -> Record {
    Record {
        token: 102,
        count: 0,
        holder: Some(bob()),
        len: 600,
        queue: Vec::new(),
        last: by("alice", 100),
        ..held()
    }
}

fn gone(granted: Option<Requester>) -> Outcome {
    Outcome::Gone { granted }
}

#[test]
fn quit_by_its_holder_frees_it_if_nobody_waits() {
    let quit = Command::Quit { who: alice() };
    let answer = apply(Some(&held_alone()), &quit);
    assert_eq!(answer, (Some(free()), gone(None)));
}

#[test]
fn quit_by_its_holder_grants_it_to_the_head_of_the_queue() {
    let quit = Command::Quit { who: alice() };
    let answer = apply(Some(&held()), &quit);
    assert_eq!(answer, (Some(handed_over()), gone(Some(bob()))));

    // Whoever it was granted to finds it when it asks, and may renew and quit it.
    let (write, outcome) = apply(Some(&handed_over()), &Command::Take(take(bob())));
    assert!(matches!(outcome, Outcome::Held(Held { token: 102, .. })));
    let found = write.expect("a sign of life");
    assert_eq!((found.count, found.since), (1, 2_000_000));
    // If it gave up meanwhile, its own quit passes it on.
    let (write, _) = apply(Some(&handed_over()), &Command::Quit { who: bob() });
    assert_eq!(write.unwrap().holder, None);
}

#[test]
fn the_queue_is_first_in_first_out() {
    let mut record = held_alone();
    for waiter in [carol(), bob(), who("dave", 3)] {
        let joining = Take {
            join: true,
            ..take(waiter)
        };
        record = apply(Some(&record), &Command::Take(joining)).0.unwrap();
    }
    for next in [carol(), bob(), who("dave", 3)] {
        let holder = record.holder.clone().unwrap();
        let (write, outcome) = apply(Some(&record), &Command::Quit { who: holder });
        record = write.unwrap();
        assert_eq!(outcome, gone(Some(next.clone())));
        assert_eq!(record.holder, Some(next));
    }
}

#[test]
fn a_lease_of_zero_by_its_holder_is_quitting() {
    let zero_take = Take {
        len: 0,
        ..take(alice())
    };
    let zero_renewal = Command::Renew {
        who: alice(),
        token: 100,
        len: 0,
    };
    for command in [Command::Take(zero_take), zero_renewal] {
        let answer = apply(Some(&held_alone()), &command);
        assert_eq!(answer, (Some(free()), gone(None)), "{command:?}");
        let answer = apply(Some(&held()), &command);
        assert_eq!(answer, (Some(handed_over()), gone(Some(bob()))));
    }
}

#[test]
fn quit_by_anybody_else_leaves_the_queue() {
    let (write, outcome) = apply(Some(&held()), &Command::Quit { who: bob() });
    let written = Record {
        queue: Vec::new(),
        ..held()
    };
    assert_eq!((write, outcome), (Some(written), gone(None)));

    for stranger in [carol(), who("alice", 2), who("bob", 1)] {
        let quit = Command::Quit { who: stranger };
        assert_eq!(apply(Some(&held()), &quit), (None, gone(None)));
        assert_eq!(apply(Some(&free()), &quit), (None, gone(None)));
        assert_eq!(apply(None, &quit), (None, gone(None)));
    }
}

#[test]
fn ended_requests_of_the_same_tab_quit_first() {
    // Its own earlier lease: taken over at once, with a new token.
    let anew = Take {
        ended: vec![1],
        ..take(who("alice", 9))
    };
    let (write, outcome) = apply(Some(&held_alone()), &Command::Take(anew.clone()));
    let told = Held {
        epoch: 42,
        token: 102,
        last: by("alice", 100),
        waiters: 0,
    };
    assert_eq!(outcome, Outcome::Held(told));
    assert_eq!(write.unwrap().holder, Some(who("alice", 9)));

    // Unless somebody has waited for it.
    let (write, outcome) = apply(Some(&held()), &Command::Take(anew));
    assert_eq!(write, Some(handed_over()));
    assert!(matches!(outcome, Outcome::Waiting(_)));

    // Another tab's lease of the same request number is not its own.
    let stranger = Take {
        ended: vec![1],
        ..take(carol())
    };
    let (write, outcome) = apply(Some(&held()), &Command::Take(stranger));
    assert_eq!(write, None);
    assert!(matches!(outcome, Outcome::Waiting(_)));

    // Its own earlier wait.
    let again = Take {
        ended: vec![2],
        ..take(who("bob", 9))
    };
    let (write, outcome) = apply(Some(&held()), &Command::Take(again));
    assert!(write.unwrap().queue.is_empty());
    assert!(matches!(outcome, Outcome::Waiting(_)));
}

// ---- What no order of commands can break ------------------------------------------------------

/// A command in a small world, as proptest draws it: `Sighted` and `Current` refer to the record as
/// it is when the command comes.
#[derive(Clone, Debug)]
enum Step {
    Take {
        who: Requester,
        len: u32,
        join: bool,
        proof: Proof,
        ended: Vec<u64>,
        fresh: Fresh,
        wall: u64,
    },
    Renew {
        who: Requester,
        off: i64,
        len: u32,
    },
    Quit {
        who: Requester,
    },
}

#[derive(Clone, Copy, Debug)]
enum Proof {
    None,
    Current,
    Outdated(u64, u64, u64),
}

fn requesters() -> impl Strategy<Value = Requester> {
    (prop::sample::select(vec!["a", "b", "c"]), 1..4_u64).prop_map(|(tab, n)| who(tab, n))
}

fn lengths() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), Just(1), Just(500), Just(MAX_LEASE_MS)]
}

fn proofs() -> impl Strategy<Value = Proof> {
    prop_oneof![
        3 => Just(Proof::None),
        1 => Just(Proof::Current),
        1 => (0..3_u64, 0..12_u64, 0..5_u64).prop_map(|(e, t, c)| Proof::Outdated(e, t, c)),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    let fresh = (0..3_u64, 0..6_u64).prop_map(|(epoch, token)| Fresh { epoch, token });
    let ended = vec(1..4_u64, 0..3);
    prop_oneof![
        6 => (requesters(), lengths(), any::<bool>(), proofs(), ended, fresh, any::<u64>()).prop_map(
            |(who, len, join, proof, ended, fresh, wall)| Step::Take {
                who, len, join, proof, ended, fresh, wall,
            }
        ),
        3 => (requesters(), -2..3_i64, lengths())
            .prop_map(|(who, off, len)| Step::Renew { who, off, len }),
        2 => requesters().prop_map(|who| Step::Quit { who }),
    ]
}

/// The command that a step is, given the record that it meets.
fn command(step: Step, record: Option<&Record>) -> Command {
    match step {
        Step::Take {
            who,
            len,
            join,
            proof,
            ended,
            fresh,
            wall,
        } => Command::Take(Take {
            who,
            mode: Mode::Exclusive,
            len,
            join,
            unchanged: match proof {
                Proof::None => None,
                Proof::Current => record.map(Record::sighting),
                Proof::Outdated(epoch, token, count) => Some(Sighting {
                    epoch,
                    token,
                    count,
                }),
            },
            ended,
            fresh,
            wall,
        }),
        Step::Renew { who, off, len } => Command::Renew {
            who,
            token: record.map_or(0, |record| record.token.saturating_add_signed(off)),
            len,
        },
        Step::Quit { who } => Command::Quit { who },
    }
}

/// Whether `command` may end the holding of `holder`: it is the holder's own word that it is over,
/// or the proof that it stood still.
fn may_unseat(command: &Command, record: &Record, holder: &Requester) -> bool {
    match command {
        Command::Quit { who } | Command::Renew { who, len: 0, .. } => who == holder,
        Command::Renew { .. } => false,
        Command::Take(take) => {
            let own_word = take.who.tab == holder.tab && take.ended.contains(&holder.request);
            let zero = take.len == 0 && take.who == *holder;
            let proven = take.len > 0 && take.unchanged == seen(record);
            zero || (take.len > 0 && own_word) || proven
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_order_of_commands_breaks_the_rules(steps in vec(steps(), 1..60)) {
        let mut record: Option<Record> = None;
        for step in steps {
            let command = command(step, record.as_ref());
            let (write, outcome) = apply(record.as_ref(), &command);
            let next = write.clone().or(record.clone());

            if let Some(next) = &next {
                prop_assert_eq!(next.check(), Ok(()), "after {:?}", command);
            }
            prop_assert!(write.is_none() || write != record, "written for nothing");

            if outcome == Outcome::Refused {
                prop_assert_eq!(&write, &None, "a refused command changes nothing");
            }
            if let Outcome::Held(told) = &outcome {
                let holder = next.as_ref().and_then(|next| next.holder.as_ref());
                let asker = match &command {
                    Command::Take(take) => &take.who,
                    Command::Renew { who, .. } | Command::Quit { who } => who,
                };
                prop_assert_eq!(holder, Some(asker), "who is told so holds");
                prop_assert_eq!(Some(told.token), next.as_ref().map(|next| next.token));
                let written = write.as_ref().map(Record::sighting);
                prop_assert!(written != record.as_ref().map(Record::sighting), "it shows");
            }
            if let Outcome::Waiting(told) = &outcome {
                let next = next.as_ref().unwrap();
                prop_assert_eq!(Some(&told.holder), next.holder.as_ref());
                prop_assert_eq!(told.sighting, next.sighting());
                prop_assert_eq!(told.len, next.len);
            }

            if let (Some(before), Some(after)) = (&record, &next) {
                prop_assert_eq!(after.epoch, before.epoch);
                let grown = after.token.checked_sub(before.token);
                prop_assert!(matches!(grown, Some(0 | 2)), "token {grown:?}");
                let granted = after.holder.is_some() && after.holder != before.holder;
                // The same request may be granted anew after its own `ended`.
                prop_assert!(!granted || grown == Some(2), "a change of hands has its number");
                if grown == Some(0) {
                    prop_assert!(after.count >= before.count, "signs of life are not taken back");
                }
                if let Some(holder) = &before.holder {
                    let unseated = after.holder.as_ref() != Some(holder) || grown == Some(2);
                    prop_assert!(!unseated || may_unseat(&command, before, holder));
                    if unseated {
                        let last = after.last.as_ref().map(|last| (&last.tab, last.token));
                        prop_assert_eq!(last, Some((&holder.tab, before.token)));
                    }
                }
                if matches!(command, Command::Renew { len: 1.., .. }) {
                    prop_assert_eq!(&after.holder, &before.holder);
                }
            }
            record = next;
        }
    }

    #[test]
    fn a_renewal_right_after_a_grant_succeeds_and_one_after_a_takeover_does_not(
        steps in vec(steps(), 0..30), one in requesters(), two in requesters(),
    ) {
        let mut record: Option<Record> = None;
        for step in steps {
            let (write, _) = apply(record.as_ref(), &command(step, record.as_ref()));
            record = write.or(record);
        }
        let proven = |who: &Requester, record: Option<&Record>| Command::Take(Take {
            unchanged: record.map(Record::sighting),
            ..take(who.clone())
        });
        let renew = |who: &Requester, token| Command::Renew { who: who.clone(), token, len: 500 };

        let (write, outcome) = apply(record.as_ref(), &proven(&one, record.as_ref()));
        record = write.or(record);
        let Outcome::Held(Held { token, .. }) = outcome else {
            panic!("proven, and not granted: {outcome:?}");
        };
        let (write, outcome) = apply(record.as_ref(), &renew(&one, token));
        record = write.or(record);
        prop_assert!(matches!(outcome, Outcome::Held(_)));

        if one != two {
            let (write, _) = apply(record.as_ref(), &proven(&two, record.as_ref()));
            record = write.or(record);
            let late = apply(record.as_ref(), &renew(&one, token));
            prop_assert_eq!(late, (None, Outcome::Refused));
        }
    }
}

// ---- Records from outside ---------------------------------------------------------------------

#[test]
fn a_record_that_no_rule_can_have_written_is_corrupt() {
    type Damage = fn(&mut Record);
    let damages: [(Damage, &str); 12] = [
        (|r| r.format = 0, "format"),
        (|r| r.format = FORMAT + 1, "format"),
        (|r| r.epoch = u64::MAX, "range"),
        (|r| r.token = 1 << 53, "range"),
        (|r| r.count = 1 << 53, "range"),
        (|r| r.len = MAX_LEASE_MS + 1, "longer"),
        (|r| r.queue[0].len = u32::MAX, "longer"),
        (|r| r.len = 0, "no lease"),
        (|r| r.holder = None, "free lock"),
        (|r| r.queue[0].who = alice(), "twice"),
        (|r| r.queue.push(r.queue[0].clone()), "twice"),
        (|r| r.last = by("zoe", 101), "backwards"),
    ];
    for (damage, why) in damages {
        let mut record = held();
        assert_eq!(record.check(), Ok(()));
        damage(&mut record);
        let Err(Corrupt(reason)) = record.check() else {
            panic!("taken for good: {record:?}");
        };
        assert!(reason.contains(why), "{reason}");
    }
    assert_eq!(free().check(), Ok(()));
}

/// How every store reads: decode, check, and only then let the rules decide. What cannot be
/// decoded, or does not pass, is an error that leaves the bytes as they are.
fn apply_to_json(text: &str, command: &Command) -> Result<(Option<Record>, Outcome), String> {
    let decoded: Option<Record> = serde_json::from_str(text).map_err(|e| e.to_string())?;
    if let Some(record) = &decoded {
        record.check().map_err(|corrupt| corrupt.to_string())?;
    }
    Ok(apply(decoded.as_ref(), command))
}

/// Any JSON at all.
fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        Just(json!("exclusive")),
        Just(json!({"tab": "a", "request": 1})),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((".{0,6}", inner), 0..4).prop_map(|entries| entries.into_iter().collect()),
        ]
    })
}

/// Where a record may be damaged.
const PLACES: [&str; 17] = [
    "/format",
    "/epoch",
    "/token",
    "/count",
    "/holder",
    "/holder/tab",
    "/holder/request",
    "/mode",
    "/len",
    "/since",
    "/queue",
    "/queue/0",
    "/queue/0/who",
    "/queue/0/len",
    "/last",
    "/last/tab",
    "/last/token",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_json_panics_or_passes_for_a_free_lock(value in values()) {
        let text = value.to_string();
        let answer = apply_to_json(&text, &Command::Take(take(carol())));
        // Nothing here has the shape of a record, so only "there is none" may be answered.
        prop_assert_eq!(answer.is_ok(), value.is_null(), "{}", text);
    }

    #[test]
    fn no_damage_makes_a_held_lock_pass_for_a_free_one(
        damages in vec((prop::sample::select(PLACES.to_vec()), values()), 1..4),
    ) {
        let mut value = serde_json::to_value(held()).unwrap();
        for (place, damage) in damages {
            if let Some(field) = value.pointer_mut(place) {
                *field = damage;
            }
        }
        let text = value.to_string();
        let asker = who("asker", 1);
        match apply_to_json(&text, &Command::Take(take(asker))) {
            Ok((_, Outcome::Held(_))) => {
                // Only where the damage is itself a well-formed free record.
                prop_assert_eq!(&value["holder"], &Value::Null);
                prop_assert!(value["queue"] == json!([]));
            }
            Ok((write, outcome)) => {
                prop_assert!(matches!(outcome, Outcome::Waiting(_)));
                prop_assert_eq!(write, None);
            }
            Err(_) => {}
        }
    }

    #[test]
    fn every_record_survives_its_encoding(steps in vec(steps(), 1..30)) {
        let mut record: Option<Record> = None;
        for step in steps {
            let (write, _) = apply(record.as_ref(), &command(step, record.as_ref()));
            record = write.or(record);
        }
        let text = serde_json::to_string(&record).unwrap();
        let decoded: Option<Record> = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(decoded, record);
    }
}
