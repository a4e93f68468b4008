//! The pure lease rules: row by row, and whatever the order.
#![cfg(not(target_arch = "wasm32"))]

use std::collections::{HashMap, HashSet};

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use tab_lease::rules::{
    self, Command, Corrupt, FORMAT, Fence, Fenced, Fresh, Granted, Held, Last, MAX_LEASE_MS, Mode,
    Note, Outcome, Proof, Record, Requester, Sighting, Take, Waiter, Waiting, apply,
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

fn dave() -> Requester {
    who("dave", 4)
}

fn waiter(who: Requester) -> Waiter {
    Waiter {
        who,
        mode: Mode::Exclusive,
        len: 600,
        at: 5_000_000,
        beacon: true,
        since: 1_000_001,
    }
}

fn held() -> Record {
    Record {
        format: FORMAT,
        epoch: 42,
        token: 100,
        count: 7,
        holder: Some(alice()),
        mode: Mode::Exclusive,
        beacon: false,
        len: 500,
        since: 1_000_000,
        queue: vec![waiter(bob())],
        last: by("zoe", 98),
    }
}

/// `held()`, with these in the queue.
fn queued(queue: &[Requester]) -> Record {
    Record {
        queue: queue.iter().cloned().map(waiter).collect(),
        ..held()
    }
}

/// `held()`, with nobody waiting.
fn held_alone() -> Record {
    queued(&[])
}

fn free() -> Record {
    Record {
        holder: None,
        last: by("alice", 100),
        ..held_alone()
    }
}

/// `held()`, after the head of the queue was granted the lock under that token.
fn granted(token: u64) -> Record {
    Record {
        token,
        count: 0,
        holder: Some(bob()),
        beacon: true,
        len: 600,
        queue: Vec::new(),
        last: by("alice", 100),
        ..held()
    }
}

/// `held()`, after its holder has quit.
fn handed_over() -> Record {
    granted(102)
}

/// `held()`, after its holder has passed on what it had delegated.
fn passed() -> Record {
    granted(101)
}

fn take(who: Requester) -> Take {
    Take {
        who,
        mode: Mode::Exclusive,
        len: 700,
        at: 9_000_000,
        beacon: true,
        join: false,
        proof: Proof::None,
        ended: Vec::new(),
        fresh: Fresh {
            epoch: 43,
            token: 50,
        },
        wall: 2_000_000,
    }
}

fn joining(who: Requester) -> Take {
    Take {
        join: true,
        ..take(who)
    }
}

fn proving(who: Requester, proof: Proof) -> Command {
    Command::Take(Take { proof, ..take(who) })
}

/// That the holder of `held()` has delegated it.
fn delegated() -> Proof {
    Proof::Delegated {
        token: 100,
        from: alice(),
    }
}

fn dead(tabs: &[&str]) -> Proof {
    Proof::Dead(tabs.iter().map(|&tab| tab.to_owned()).collect())
}

/// By whom the holder of `held()` gave it to.
fn claim(who: Requester) -> Command {
    claim_of(who, 101, alice())
}

fn claim_of(who: Requester, token: u64, from: Requester) -> Command {
    Command::Claim {
        who,
        token,
        from,
        len: 800,
        beacon: true,
        wall: 2_000_000,
    }
}

fn renew(who: Requester, token: u64, len: u32) -> Command {
    Command::Renew {
        who,
        token,
        len,
        beacon: true,
    }
}

/// By the holder of `held()`.
fn pass(to: Requester) -> Command {
    Command::Pass {
        who: alice(),
        token: 100,
        to,
    }
}

fn quit(who: Requester) -> Command {
    Command::Quit { who }
}

fn by(tab: &str, token: u64) -> Option<Last> {
    let tab = tab.to_owned();
    Some(Last { tab, token })
}

fn gone(granted: Option<Granted>) -> Outcome {
    Outcome::Gone { granted }
}

/// The head of the queue of `held()` was granted the lock.
fn gone_to_bob(token: u64) -> Outcome {
    gone(Some(Granted {
        epoch: 42,
        token,
        to: waiter(bob()),
    }))
}

/// What `record` is after a command that changes it.
fn after(record: &Record, command: &Command) -> Record {
    let (write, outcome) = apply(Some(record), command);
    write.unwrap_or_else(|| panic!("{command:?} changed nothing: {outcome:?}"))
}

fn told_held(record: &Record, command: &Command) -> Held {
    match apply(Some(record), command) {
        (_, Outcome::Held(held)) => held,
        (_, outcome) => panic!("{command:?}: {outcome:?}"),
    }
}

fn told_to_wait(record: &Record, command: &Command) -> Waiting {
    match apply(Some(record), command) {
        (_, Outcome::Waiting(waiting)) => waiting,
        (_, outcome) => panic!("{command:?}: {outcome:?}"),
    }
}

fn refused_without_change(record: Option<&Record>, command: &Command) {
    let answer = apply(record, command);
    assert_eq!(
        answer,
        (None, Outcome::Refused),
        "{command:?} on {record:?}"
    );
}

fn names(record: &Record) -> Vec<Requester> {
    record.queue.iter().map(|w| w.who.clone()).collect()
}

// ---- Take ---------------------------------------------------------------------------------------

#[test]
fn take_by_anybody_without_a_record() {
    let (write, outcome) = apply(None, &Command::Take(take(carol())));
    let written = Record {
        format: FORMAT,
        epoch: 43,
        token: 50,
        count: 0,
        holder: Some(carol()),
        mode: Mode::Exclusive,
        beacon: true,
        len: 700,
        since: 2_000_000,
        queue: Vec::new(),
        last: None,
    };
    assert_eq!(write, Some(written));
    let told = Held {
        epoch: 43,
        token: 50,
        count: 0,
        last: None,
        head: None,
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
        beacon: true,
        len: 700,
        since: 2_000_000,
        ..free()
    };
    assert_eq!(write, Some(written));
    let told = Held {
        epoch: 42,
        token: 102,
        count: 0,
        last: by("alice", 100),
        head: None,
    };
    assert_eq!(outcome, Outcome::Held(told));
}

#[test]
fn take_by_its_holder_goes_on_with_the_token() {
    let (write, outcome) = apply(Some(&held()), &Command::Take(take(alice())));
    let written = Record {
        count: 8,
        beacon: true,
        len: 700,
        ..held()
    };
    assert_eq!(write, Some(written));
    let told = Held {
        epoch: 42,
        token: 100,
        count: 8,
        last: by("zoe", 98),
        head: Some(waiter(bob())),
    };
    assert_eq!(outcome, Outcome::Held(told));
}

#[test]
fn take_by_another_with_the_proof_that_nothing_moved() {
    let proven = proving(carol(), Proof::Unchanged(held().sighting()));
    let (write, outcome) = apply(Some(&held()), &proven);
    let written = Record {
        token: 102,
        count: 0,
        holder: Some(carol()),
        beacon: true,
        len: 700,
        since: 2_000_000,
        last: by("alice", 100),
        ..held()
    };
    assert_eq!(write, Some(written));
    let told = Held {
        epoch: 42,
        token: 102,
        count: 0,
        last: by("alice", 100),
        head: Some(waiter(bob())),
    };
    assert_eq!(outcome, Outcome::Held(told));
}

#[test]
fn take_by_a_waiter_with_proof_takes_it_out_of_the_queue() {
    let proofs = [
        Proof::Unchanged(held().sighting()),
        delegated(),
        dead(&["alice"]),
    ];
    for proof in proofs {
        let written = after(&held(), &proving(bob(), proof.clone()));
        assert_eq!(written.holder, Some(bob()), "{proof:?}");
        assert!(written.queue.is_empty(), "{proof:?}");
    }
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
        let (write, outcome) = apply(Some(&held), &proving(carol(), Proof::Unchanged(unchanged)));
        assert_eq!(write, None, "{unchanged:?}");
        assert!(matches!(outcome, Outcome::Waiting(_)), "{unchanged:?}");
    }
}

#[test]
fn take_by_another_waits_and_is_told_who_is_before_it() {
    let told = Waiting {
        sighting: held().sighting(),
        len: 500,
        holder: alice(),
        before: vec![("alice".to_owned(), false), ("bob".to_owned(), true)],
        queued: false,
    };
    let answer = apply(Some(&held()), &Command::Take(take(carol())));
    assert_eq!(answer, (None, Outcome::Waiting(told)));
}

#[test]
fn take_by_another_joins_the_tail_of_the_queue_if_it_asked_to() {
    let joining = Command::Take(joining(carol()));
    assert!(told_to_wait(&held(), &joining).queued);
    let joined = after(&held(), &joining);
    let tail = Waiter {
        who: carol(),
        mode: Mode::Exclusive,
        len: 700,
        at: 9_000_000,
        beacon: true,
        since: 2_000_000,
    };
    assert_eq!(joined.queue, [waiter(bob()), tail]);
    assert_eq!(joined.sighting(), held().sighting(), "no sign of life");
}

#[test]
fn take_by_a_waiter_keeps_its_place() {
    for join in [true, false] {
        let again = Command::Take(Take {
            at: 5_000_000,
            join,
            len: 600,
            ..take(bob())
        });
        let record = queued(&[bob(), carol()]);
        let (write, outcome) = apply(Some(&record), &again);
        assert_eq!(write, None, "once is enough");
        let Outcome::Waiting(told) = outcome else {
            panic!("{outcome:?}");
        };
        assert!(told.queued);
        assert_eq!(told.before, [("alice".to_owned(), false)]);
    }
}

#[test]
fn take_by_a_waiter_makes_its_lease_longer_at_once_and_never_shorter() {
    for (len, queued_len) in [(700, Some(700)), (600, None), (500, None)] {
        let again = Take {
            at: 5_000_001,
            len,
            ..take(bob())
        };
        let record = queued(&[bob()]);
        let (write, _) = apply(Some(&record), &Command::Take(again));
        assert_eq!(write.map(|record| record.queue[0].len), queued_len);
    }
}

#[test]
fn take_by_the_holder_never_makes_the_lease_shorter() {
    for (len, then) in [(600, 600), (499, 500)] {
        let again = Take {
            len,
            ..take(alice())
        };
        let record = Record { len: 500, ..held() };
        let (write, _) = apply(Some(&record), &Command::Take(again));
        assert_eq!(write.unwrap().len, then);
    }
}

#[test]
fn take_by_a_waiter_renews_its_stamp_once_it_is_older_than_a_quarter_of_its_lease() {
    // The stamp is of 5 s, the lease of 600 ms.
    for (at, renewed) in [
        (4_000_000, false),
        (5_000_001, false),
        (5_149_999, false),
        (5_150_000, true),
        (9_000_000, true),
    ] {
        let again = Take {
            at,
            beacon: false,
            len: 600,
            ..take(bob())
        };
        let record = queued(&[carol(), bob()]);
        let (write, outcome) = apply(Some(&record), &Command::Take(again));
        assert!(matches!(outcome, Outcome::Waiting(_)));
        assert_eq!(write.is_some(), renewed, "{at}");
        if let Some(written) = write {
            let entry = Waiter {
                at,
                beacon: false,
                ..waiter(bob())
            };
            assert_eq!(written.queue, [waiter(carol()), entry]);
            assert_eq!(written.sighting(), record.sighting(), "no sign of life");
        }
    }
}

#[test]
fn take_by_whom_the_lease_was_delegated_to_takes_the_number_between() {
    for record in [held(), held_alone()] {
        let take = proving(bob(), delegated());
        let written = Record {
            token: 101,
            count: 1,
            holder: Some(bob()),
            beacon: true,
            len: 700,
            since: 2_000_000,
            last: by("alice", 100),
            ..held_alone()
        };
        assert_eq!(after(&record, &take), written);
        let told = Held {
            epoch: 42,
            token: 101,
            count: 1,
            last: by("alice", 100),
            head: None,
        };
        assert_eq!(told_held(&record, &take), told);
    }
}

#[test]
fn take_by_the_head_that_was_delegated_to_leaves_the_others_waiting() {
    let record = queued(&[bob(), carol(), dave()]);
    let take = proving(bob(), delegated());
    assert_eq!(names(&after(&record, &take)), [carol(), dave()]);
    assert_eq!(told_held(&record, &take).head, Some(waiter(carol())));
}

#[test]
fn take_by_delegation_is_only_for_the_head_of_the_queue() {
    for (record, asker) in [
        (queued(&[bob()]), carol()),
        (queued(&[bob(), carol()]), carol()),
    ] {
        let (write, outcome) = apply(Some(&record), &proving(asker, delegated()));
        assert!(matches!(outcome, Outcome::Waiting(_)));
        assert_eq!(
            write.unwrap_or(record.clone()).sighting(),
            record.sighting()
        );
    }
}

#[test]
fn take_by_delegation_of_another_lease_waits() {
    let delegated = |token, from| Proof::Delegated { token, from };
    for proof in [
        delegated(99, alice()),
        delegated(101, alice()),
        delegated(100, carol()),
        delegated(100, who("alice", 2)),
        delegated(100, bob()),
    ] {
        let waiting = told_to_wait(&held(), &proving(bob(), proof.clone()));
        assert_eq!(waiting.sighting, held().sighting(), "{proof:?}");
    }
}

#[test]
fn take_by_delegation_that_was_already_passed_on_finds_it() {
    let found = after(&passed(), &proving(bob(), delegated()));
    assert_eq!((found.token, found.count), (101, 1));
}

#[test]
fn take_by_the_head_with_the_holder_dead() {
    let take = proving(bob(), dead(&["alice"]));
    let written = Record {
        token: 102,
        count: 0,
        holder: Some(bob()),
        beacon: true,
        len: 700,
        since: 2_000_000,
        last: by("alice", 100),
        ..held_alone()
    };
    assert_eq!(after(&held(), &take), written);
}

#[test]
fn take_with_everybody_ahead_dead_drops_them_and_keeps_those_behind() {
    let record = queued(&[bob(), carol(), dave(), who("eve", 5)]);
    let take = proving(dave(), dead(&["carol", "alice", "bob"]));
    let taken = after(&record, &take);
    assert_eq!(taken.holder, Some(dave()));
    assert_eq!(taken.token, 102);
    assert_eq!(names(&taken), [who("eve", 5)]);
}

#[test]
fn take_by_one_that_is_not_queued_has_the_whole_queue_ahead() {
    let record = queued(&[bob(), carol()]);
    told_to_wait(&record, &proving(dave(), dead(&["alice", "bob"])));
    let taken = after(&record, &proving(dave(), dead(&["alice", "bob", "carol"])));
    assert_eq!(taken.holder, Some(dave()));
    assert!(taken.queue.is_empty());
}

#[test]
fn take_with_somebody_ahead_not_known_to_be_dead_waits_and_drops_nobody() {
    let record = queued(&[bob(), carol(), dave()]);
    for tabs in [
        &[][..],
        &["alice"],
        &["bob", "carol"],
        &["alice", "bob"],
        &["alice", "carol"],
        &["dave", "zoe"],
    ] {
        let take = Command::Take(Take {
            at: 5_000_000,
            proof: dead(tabs),
            len: 600,
            ..take(dave())
        });
        let (write, outcome) = apply(Some(&record), &take);
        assert_eq!(write, None, "{tabs:?}");
        assert!(matches!(outcome, Outcome::Waiting(_)), "{tabs:?}");
    }
}

#[test]
fn the_death_of_a_tab_ends_all_its_requests() {
    let record = queued(&[who("alice", 7), bob()]);
    let taken = after(&record, &proving(bob(), dead(&["alice"])));
    assert_eq!(taken.holder, Some(bob()));
    assert!(taken.queue.is_empty());
}

#[test]
fn the_token_of_a_free_lock_keeps_up_with_the_clock_and_no_other_does() {
    // There are 1024 tokens in a ms; they keep up in steps of 1024 ms.
    const STEP: u64 = 1024 * 1024;
    let late = |proof| Take {
        fresh: Fresh {
            epoch: 43,
            token: 3 * STEP + 17,
        },
        ..Take {
            proof,
            ..joining(carol())
        }
    };
    let token = |record: &Record, command: Command| {
        let (write, _) = apply(Some(record), &command);
        write.map_or(record.token, |write| write.token)
    };
    let held = held();
    let free = free();
    assert_eq!(token(&free, Command::Take(late(Proof::None))), 3 * STEP);
    assert_eq!(
        token(
            &held,
            Command::Take(late(Proof::Unchanged(held.sighting())))
        ),
        held.token + 2,
        "it is taken over"
    );
    assert_eq!(
        token(&held, Command::Take(late(Proof::None))),
        held.token,
        "it waits"
    );
    let mine = Take {
        who: alice(),
        ..late(Proof::None)
    };
    assert_eq!(
        token(&held, Command::Take(mine)),
        held.token,
        "it holds already"
    );
    let delegated = Proof::Delegated {
        token: held.token,
        from: alice(),
    };
    let bobs = Take {
        who: bob(),
        ..late(delegated)
    };
    assert_eq!(
        token(&held, Command::Take(bobs)),
        held.token + 1,
        "a delegation adds one"
    );
    let behind = Record {
        token: 4 * STEP,
        ..free
    };
    assert_eq!(
        token(&behind, Command::Take(late(Proof::None))),
        4 * STEP + 2,
        "it never goes back"
    );
}

#[test]
fn ended_requests_of_the_same_tab_quit_first() {
    let anew = Take {
        ended: vec![1],
        ..take(who("alice", 9))
    };
    let anew = Command::Take(anew);
    let told = Held {
        epoch: 42,
        token: 102,
        count: 0,
        last: by("alice", 100),
        head: None,
    };
    assert_eq!(told_held(&held_alone(), &anew), told);
    let taken = after(&held_alone(), &anew);
    assert_eq!(taken.holder, Some(who("alice", 9)));
}

#[test]
fn an_ended_lease_goes_to_whoever_has_waited_for_it() {
    let proofs = [
        Proof::None,
        // What was seen no longer stands.
        Proof::Unchanged(held().sighting()),
        dead(&["alice"]),
        delegated(),
    ];
    for proof in proofs {
        let anew = Command::Take(Take {
            ended: vec![1],
            proof: proof.clone(),
            ..take(who("alice", 9))
        });
        let (write, outcome) = apply(Some(&held()), &anew);
        assert_eq!(write, Some(handed_over()), "{proof:?}");
        assert!(matches!(outcome, Outcome::Waiting(_)), "{proof:?}");
    }
}

#[test]
fn a_request_of_another_tab_is_not_ended_by_its_number() {
    let stranger = Take {
        ended: vec![1, 2],
        ..take(carol())
    };
    let (write, outcome) = apply(Some(&held()), &Command::Take(stranger));
    assert_eq!(write, None);
    assert!(matches!(outcome, Outcome::Waiting(_)));
}

#[test]
fn an_ended_wait_leaves_the_queue() {
    let again = Command::Take(Take {
        ended: vec![2],
        ..take(who("bob", 9))
    });
    let (write, outcome) = apply(Some(&held()), &again);
    assert_eq!(write, Some(held_alone()));
    assert!(matches!(outcome, Outcome::Waiting(_)));
}

#[test]
fn an_ended_wait_does_not_spoil_the_proof_that_nothing_moved() {
    let again = Command::Take(Take {
        ended: vec![2],
        proof: Proof::Unchanged(held().sighting()),
        ..take(who("bob", 9))
    });
    let taken = after(&held(), &again);
    assert_eq!(taken.holder, Some(who("bob", 9)));
    assert!(taken.queue.is_empty());
}

// ---- Claim --------------------------------------------------------------------------------------

#[test]
fn claim_by_whom_the_holder_delegated_to() {
    let (write, outcome) = apply(Some(&held()), &claim(bob()));
    let written = Record {
        token: 101,
        count: 1,
        holder: Some(bob()),
        beacon: true,
        len: 800,
        since: 2_000_000,
        last: by("alice", 100),
        ..held_alone()
    };
    assert_eq!(write, Some(written));
    let told = Held {
        epoch: 42,
        token: 101,
        count: 1,
        last: by("alice", 100),
        head: None,
    };
    assert_eq!(outcome, Outcome::Held(told));
}

#[test]
fn claim_leaves_the_others_waiting_wherever_the_claimer_stood() {
    for record in [
        queued(&[bob(), carol(), dave()]),
        queued(&[carol(), bob(), dave()]),
        queued(&[carol(), dave()]),
    ] {
        assert_eq!(names(&after(&record, &claim(bob()))), [carol(), dave()]);
        let head = told_held(&record, &claim(bob())).head;
        assert_eq!(head, Some(waiter(carol())));
    }
}

#[test]
fn claim_of_what_was_already_passed_on_or_granted_is_its_first_sign_of_life() {
    for record in [passed(), handed_over()] {
        let claim = claim_of(bob(), record.token, alice());
        let written = Record {
            count: 1,
            len: 800,
            since: 2_000_000,
            ..record.clone()
        };
        assert_eq!(after(&record, &claim), written);
        assert_eq!(told_held(&record, &claim).token, record.token);
    }
}

#[test]
fn claim_again_is_one_more_sign_of_life() {
    let claimed = after(&held(), &claim(bob()));
    let again = Command::Claim {
        who: bob(),
        token: 101,
        from: alice(),
        len: 900,
        beacon: false,
        wall: 3_000_000,
    };
    let written = Record {
        count: 2,
        beacon: false,
        len: 900,
        ..claimed.clone()
    };
    assert_eq!(after(&claimed, &again), written);
}

#[test]
fn claim_after_a_take_by_the_same_delegation_goes_on_with_it() {
    let taken = after(&held(), &proving(bob(), delegated()));
    let claimed = after(&taken, &claim(bob()));
    assert_eq!((claimed.token, claimed.count), (101, 2));
    assert_eq!(claimed.holder, Some(bob()));
}

#[test]
fn claim_of_what_is_another_s_is_refused() {
    for command in [
        claim_of(carol(), 99, alice()),
        claim_of(carol(), 100, alice()),
        claim_of(carol(), 102, alice()),
        claim_of(carol(), 101, bob()),
        claim_of(carol(), 101, who("alice", 2)),
        claim_of(carol(), 101, carol()),
        // Of the holder, but under another token.
        claim_of(alice(), 101, carol()),
        claim_of(alice(), 98, carol()),
    ] {
        refused_without_change(Some(&held()), &command);
    }
}

#[test]
fn claim_never_takes_what_is_free() {
    for token in [100, 101, 102] {
        for from in [alice(), bob()] {
            refused_without_change(Some(&free()), &claim_of(bob(), token, from.clone()));
            refused_without_change(None, &claim_of(bob(), token, from));
        }
    }
}

#[test]
fn claim_never_overtakes_whoever_has_it_meanwhile() {
    let taken_over = after(
        &held(),
        &proving(carol(), Proof::Unchanged(held().sighting())),
    );
    let (write, outcome) = apply(Some(&taken_over), &claim(bob()));
    assert_eq!(outcome, Outcome::Refused);
    assert_eq!(write.unwrap().holder, Some(carol()));
}

#[test]
fn a_refused_claim_is_out_of_the_queue_and_shows_no_sign_of_life() {
    let record = queued(&[carol(), bob(), dave()]);
    let (write, outcome) = apply(Some(&record), &claim_of(bob(), 103, alice()));
    assert_eq!(outcome, Outcome::Refused);
    assert_eq!(write, Some(queued(&[carol(), dave()])));
}

#[test]
fn claim_for_no_time_gives_the_lease_up() {
    let record = queued(&[bob(), carol()]);
    let claim = Command::Claim {
        who: bob(),
        token: 101,
        from: alice(),
        len: 0,
        beacon: true,
        wall: 2_000_000,
    };
    let (write, outcome) = apply(Some(&record), &claim);
    let to = waiter(carol());
    assert_eq!(
        outcome,
        gone(Some(Granted {
            epoch: 42,
            token: 103,
            to
        }))
    );
    let written = write.unwrap();
    assert_eq!(written.check(), Ok(()));
    assert_eq!(written.last, by("bob", 101));
}

// ---- Renew --------------------------------------------------------------------------------------

#[test]
fn renew_by_its_holder_of_that_token() {
    let (write, outcome) = apply(Some(&held()), &renew(alice(), 100, 900));
    let written = Record {
        count: 8,
        beacon: true,
        len: 900,
        ..held()
    };
    assert_eq!(write, Some(written));
    let told = Held {
        epoch: 42,
        token: 100,
        count: 8,
        last: by("zoe", 98),
        head: Some(waiter(bob())),
    };
    assert_eq!(outcome, Outcome::Held(told));
}

#[test]
fn renew_by_anybody_else_is_refused_and_changes_nothing() {
    for len in [0, 500] {
        for command in [
            renew(alice(), 98, len),
            renew(alice(), 101, len),
            renew(alice(), 102, len),
            renew(who("alice", 2), 100, len),
            renew(bob(), 100, len),
            renew(bob(), 101, len),
            renew(carol(), 100, len),
        ] {
            refused_without_change(Some(&held()), &command);
        }
        refused_without_change(Some(&free()), &renew(alice(), 100, len));
        refused_without_change(None, &renew(alice(), 100, len));
    }
}

#[test]
fn renew_by_whoever_was_overtaken_is_refused() {
    for taken in [
        passed(),
        handed_over(),
        after(&held(), &claim(bob())),
        after(&held(), &proving(bob(), delegated())),
        after(&held(), &proving(bob(), dead(&["alice"]))),
    ] {
        refused_without_change(Some(&taken), &renew(alice(), 100, 500));
    }
}

// ---- Pass ---------------------------------------------------------------------------------------

#[test]
fn pass_to_the_head_of_the_queue_grants_it_under_the_number_between() {
    let answer = apply(Some(&held()), &pass(bob()));
    assert_eq!(answer, (Some(passed()), gone_to_bob(101)));
}

#[test]
fn pass_to_the_head_leaves_the_others_waiting() {
    let passed = after(&queued(&[bob(), carol(), dave()]), &pass(bob()));
    assert_eq!(names(&passed), [carol(), dave()]);
}

#[test]
fn pass_to_somebody_who_is_not_the_head_is_quitting() {
    for to in [carol(), dave(), who("bob", 1)] {
        let record = queued(&[bob(), carol()]);
        let (write, outcome) = apply(Some(&record), &pass(to));
        assert_eq!(outcome, gone_to_bob(102));
        let written = Record {
            queue: vec![waiter(carol())],
            ..handed_over()
        };
        assert_eq!(write, Some(written));
    }
}

#[test]
fn pass_with_nobody_in_the_queue_frees_it() {
    let answer = apply(Some(&held_alone()), &pass(bob()));
    assert_eq!(answer, (Some(free()), gone(None)));
}

#[test]
fn pass_by_whoever_does_not_hold_that_token_changes_nothing() {
    let pass = |who, token| Command::Pass {
        who,
        token,
        to: bob(),
    };
    for command in [
        pass(alice(), 98),
        pass(alice(), 101),
        pass(alice(), 102),
        pass(who("alice", 2), 100),
        pass(bob(), 100),
        pass(carol(), 100),
    ] {
        assert_eq!(apply(Some(&held()), &command), (None, gone(None)));
    }
    assert_eq!(
        apply(Some(&free()), &pass(alice(), 100)),
        (None, gone(None))
    );
    assert_eq!(apply(None, &pass(alice(), 100)), (None, gone(None)));
}

#[test]
fn pass_after_the_lease_went_on_changes_nothing() {
    for taken in [
        passed(),
        handed_over(),
        after(&held(), &claim(bob())),
        after(&held(), &proving(bob(), delegated())),
        after(
            &held(),
            &proving(carol(), Proof::Unchanged(held().sighting())),
        ),
    ] {
        assert_eq!(apply(Some(&taken), &pass(bob())), (None, gone(None)));
    }
}

#[test]
fn claim_and_pass_say_the_same_in_either_order() {
    let record = queued(&[bob(), carol()]);
    let claimed = after(&record, &claim(bob()));
    let passed_first = after(&after(&record, &pass(bob())), &claim(bob()));
    assert_eq!(passed_first, claimed);
    assert_eq!(apply(Some(&claimed), &pass(bob())), (None, gone(None)));
}

#[test]
fn the_head_by_delegation_may_delegate_in_its_turn() {
    let record = queued(&[bob(), carol()]);
    let claimed = after(&record, &claim(bob()));
    let next = after(&claimed, &claim_of(carol(), 102, bob()));
    assert_eq!(next.holder, Some(carol()));
    assert_eq!(next.last, by("bob", 101));
}

// ---- Quit ---------------------------------------------------------------------------------------

#[test]
fn quit_by_its_holder_frees_it_if_nobody_waits() {
    let answer = apply(Some(&held_alone()), &quit(alice()));
    assert_eq!(answer, (Some(free()), gone(None)));
}

#[test]
fn quit_by_its_holder_grants_it_to_the_head_of_the_queue() {
    let answer = apply(Some(&held()), &quit(alice()));
    assert_eq!(answer, (Some(handed_over()), gone_to_bob(102)));
}

#[test]
fn whoever_was_granted_the_lock_finds_it_when_it_asks() {
    let ask = Command::Take(take(bob()));
    assert_eq!(told_held(&handed_over(), &ask).token, 102);
    let found = after(&handed_over(), &ask);
    assert_eq!((found.count, found.since), (1, 2_000_000));
}

#[test]
fn whoever_was_granted_the_lock_and_gave_up_hands_it_on() {
    let record = after(&queued(&[bob(), carol()]), &quit(alice()));
    let (write, outcome) = apply(Some(&record), &quit(bob()));
    assert!(matches!(outcome, Outcome::Gone { granted: Some(_) }));
    assert_eq!(write.unwrap().holder, Some(carol()));
}

#[test]
fn the_queue_is_first_in_first_out() {
    let mut record = held_alone();
    for waiter in [carol(), bob(), dave()] {
        record = after(&record, &Command::Take(joining(waiter)));
    }
    for next in [carol(), bob(), dave()] {
        let holder = record.holder.clone().unwrap();
        record = after(&record, &quit(holder));
        assert_eq!(record.holder, Some(next));
    }
}

#[test]
fn a_lease_of_zero_by_its_holder_is_quitting() {
    let zero_take = Take {
        len: 0,
        ..take(alice())
    };
    for command in [Command::Take(zero_take), renew(alice(), 100, 0)] {
        let answer = apply(Some(&held_alone()), &command);
        assert_eq!(answer, (Some(free()), gone(None)), "{command:?}");
        let answer = apply(Some(&held()), &command);
        assert_eq!(answer, (Some(handed_over()), gone_to_bob(102)));
    }
}

#[test]
fn quit_by_a_waiter_leaves_the_queue() {
    let answer = apply(Some(&held()), &quit(bob()));
    assert_eq!(answer, (Some(held_alone()), gone(None)));
}

#[test]
fn quit_by_a_stranger_changes_nothing() {
    for stranger in [carol(), who("alice", 2), who("bob", 1)] {
        let quit = quit(stranger);
        assert_eq!(apply(Some(&held()), &quit), (None, gone(None)));
        assert_eq!(apply(Some(&free()), &quit), (None, gone(None)));
        assert_eq!(apply(None, &quit), (None, gone(None)));
    }
}

// ---- Beacons ------------------------------------------------------------------------------------

#[test]
fn the_holder_s_beacon_is_as_it_said_last() {
    for beacon in [true, false] {
        let record = Record {
            beacon: !beacon,
            ..held()
        };
        let taking = |who, proof| {
            Command::Take(Take {
                beacon,
                proof,
                ..take(who)
            })
        };
        for command in [
            taking(alice(), Proof::None),
            taking(bob(), Proof::Unchanged(record.sighting())),
            taking(bob(), delegated()),
            taking(bob(), dead(&["alice"])),
            Command::Renew {
                who: alice(),
                token: 100,
                len: 500,
                beacon,
            },
            Command::Claim {
                who: bob(),
                token: 101,
                from: alice(),
                len: 500,
                beacon,
                wall: 0,
            },
        ] {
            assert_eq!(after(&record, &command).beacon, beacon, "{command:?}");
        }
        let fresh = apply(None, &taking(alice(), Proof::None)).0.unwrap();
        assert_eq!(fresh.beacon, beacon);
    }
}

#[test]
fn a_waiter_s_beacon_goes_with_it_into_the_queue_and_out_of_it() {
    for beacon in [true, false] {
        let joining = Take {
            beacon,
            ..joining(carol())
        };
        let record = Record {
            beacon: !beacon,
            ..held_alone()
        };
        let record = after(&record, &Command::Take(joining));
        assert_eq!(record.queue[0].beacon, beacon);
        for command in [quit(alice()), pass(carol())] {
            assert_eq!(after(&record, &command).beacon, beacon, "{command:?}");
        }
    }
}

// ---- What no order of commands can break ------------------------------------------------------

/// A command in a small world, as proptest draws it: `Seen` and the tokens refer to the record as it
/// is when the command comes.
#[derive(Clone, Debug)]
enum Step {
    Take(Take, Seen),
    Claim {
        who: Requester,
        off: i64,
        from: Option<Requester>,
        len: u32,
    },
    Renew {
        who: Requester,
        off: i64,
        len: u32,
    },
    Pass {
        who: Requester,
        off: i64,
        to: Option<Requester>,
    },
    Quit(Requester),
}

#[derive(Clone, Debug)]
enum Seen {
    Nothing,
    Current,
    Delegated,
    This(Proof),
}

fn requesters() -> impl Strategy<Value = Requester> {
    (prop::sample::select(vec!["a", "b", "c"]), 1..4_u64).prop_map(|(tab, n)| who(tab, n))
}

fn lengths() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), Just(1), Just(500), Just(MAX_LEASE_MS)]
}

fn proofs() -> impl Strategy<Value = Seen> {
    let sighting = (0..3_u64, 0..12_u64, 0..5_u64).prop_map(|(epoch, token, count)| Sighting {
        epoch,
        token,
        count,
    });
    let tabs = prop::sample::subsequence(vec!["a", "b", "c"], 0..=3);
    prop_oneof![
        3 => Just(Seen::Nothing),
        1 => Just(Seen::Current),
        1 => Just(Seen::Delegated),
        1 => sighting.prop_map(|sighting| Seen::This(Proof::Unchanged(sighting))),
        1 => (0..12_u64, requesters())
            .prop_map(|(token, from)| Seen::This(Proof::Delegated { token, from })),
        1 => tabs.prop_map(|tabs| Seen::This(dead(&tabs))),
    ]
}

fn takes() -> impl Strategy<Value = Take> {
    let fresh = (0..3_u64, 0..6_u64, 0..3_u64).prop_map(|(epoch, token, steps)| {
        let token = token + steps * 1024 * 1024;
        Fresh { epoch, token }
    });
    let ended = vec(1..4_u64, 0..3);
    let ask = (any::<bool>(), any::<bool>(), 0..400_000_u64, any::<u64>());
    (requesters(), lengths(), ended, fresh, ask).prop_map(
        |(who, len, ended, fresh, (join, beacon, at, wall))| Take {
            len,
            at,
            beacon,
            join,
            ended,
            fresh,
            wall,
            ..take(who)
        },
    )
}

fn steps() -> impl Strategy<Value = Step> {
    // Of the holder, or the head of the queue, in half of the cases.
    let perhaps = || prop::option::of(requesters());
    prop_oneof![
        6 => (takes(), proofs()).prop_map(|(take, seen)| Step::Take(take, seen)),
        3 => (requesters(), -1..3_i64, perhaps(), lengths())
            .prop_map(|(who, off, from, len)| Step::Claim { who, off, from, len }),
        3 => (requesters(), -2..3_i64, lengths())
            .prop_map(|(who, off, len)| Step::Renew { who, off, len }),
        3 => (requesters(), -1..2_i64, perhaps())
            .prop_map(|(who, off, to)| Step::Pass { who, off, to }),
        2 => requesters().prop_map(Step::Quit),
    ]
}

/// The command that a step is, given the record that it meets.
fn command(step: Step, record: Option<&Record>) -> Command {
    let token = |off| record.map_or(0, |record| record.token.saturating_add_signed(off));
    let holder = record.and_then(|record| record.holder.clone());
    let head = record.and_then(|record| record.queue.first());
    match step {
        Step::Take(take, seen) => Command::Take(Take {
            proof: match (seen, record, holder) {
                (Seen::This(proof), ..) => proof,
                (Seen::Current, Some(record), _) => Proof::Unchanged(record.sighting()),
                (Seen::Delegated, Some(record), Some(from)) => Proof::Delegated {
                    token: record.token,
                    from,
                },
                _ => Proof::None,
            },
            ..take
        }),
        Step::Claim {
            who,
            off,
            from,
            len,
        } => Command::Claim {
            token: token(off),
            from: from.or(holder).unwrap_or_else(|| who.clone()),
            who,
            len,
            beacon: true,
            wall: 5,
        },
        Step::Renew { who, off, len } => renew(who, token(off), len),
        Step::Pass { who, off, to } => Command::Pass {
            token: token(off),
            to: to
                .or(head.map(|head| head.who.clone()))
                .unwrap_or_else(|| who.clone()),
            who,
        },
        Step::Quit(who) => quit(who),
    }
}

/// Everything that happens in a sequence of steps: what was there, the command, what is there then,
/// and the answer.
fn play(steps: Vec<Step>) -> Vec<(Option<Record>, Command, Option<Record>, Outcome)> {
    let mut record: Option<Record> = None;
    let mut story = Vec::new();
    for step in steps {
        let command = command(step, record.as_ref());
        let (write, outcome) = apply(record.as_ref(), &command);
        let next = write.or_else(|| record.clone());
        story.push((record, command, next.clone(), outcome));
        record = next;
    }
    story
}

fn asker(command: &Command) -> &Requester {
    match command {
        Command::Take(take) => &take.who,
        Command::Claim { who, .. }
        | Command::Renew { who, .. }
        | Command::Pass { who, .. }
        | Command::Quit { who } => who,
    }
}

/// Whether `command` may end the holding of `holder`: it is the holder's own word that it is over or
/// went on to somebody, or a proof that stands.
fn may_unseat(command: &Command, record: &Record, holder: &Requester) -> bool {
    match command {
        Command::Quit { who } | Command::Renew { who, len: 0, .. } => who == holder,
        Command::Renew { .. } => false,
        Command::Pass { who, token, .. } => (who, *token) == (holder, record.token),
        Command::Claim {
            who,
            token,
            from,
            len,
            ..
        } => {
            (from, *token) == (holder, record.token + 1)
                || (*len == 0 && (who, *token) == (holder, record.token))
        }
        Command::Take(take) if take.len == 0 => take.who == *holder,
        Command::Take(take) => {
            let own_word = take.who.tab == holder.tab && take.ended.contains(&holder.request);
            own_word
                || match &take.proof {
                    Proof::None => false,
                    Proof::Unchanged(sighting) => *sighting == record.sighting(),
                    Proof::Delegated { token, from } => (from, *token) == (holder, record.token),
                    Proof::Dead(tabs) => tabs.contains(&holder.tab),
                }
        }
    }
}

/// Whether `command` writes down a delegation by the holder of `record`.
fn is_of_a_delegation(command: &Command) -> bool {
    matches!(
        command,
        Command::Claim { .. }
            | Command::Pass { .. }
            | Command::Take(Take {
                proof: Proof::Delegated { .. },
                ..
            })
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_record_that_is_written_is_sound_and_survives_its_encoding(
        steps in vec(steps(), 1..60),
    ) {
        for (_, command, record, _) in play(steps) {
            if let Some(record) = record {
                prop_assert_eq!(record.check(), Ok(()), "after {:?}", command);
                prop_assert_eq!(Record::decode(&record.encode()), Ok(record.clone()));
                let text = serde_json::to_string(&record).unwrap();
                prop_assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
            }
        }
    }

    #[test]
    fn nothing_is_written_for_nothing(steps in vec(steps(), 1..60)) {
        for (before, command, _, _) in play(steps) {
            let (write, _) = apply(before.as_ref(), &command);
            prop_assert!(write.is_none() || write != before, "{:?}", command);
        }
    }

    #[test]
    fn what_is_told_is_what_the_record_says(steps in vec(steps(), 1..60)) {
        for (before, command, after, outcome) in play(steps) {
            let asker = asker(&command);
            match outcome {
                Outcome::Held(told) => {
                    let after = after.unwrap();
                    prop_assert_eq!(after.holder.as_ref(), Some(asker));
                    prop_assert_eq!((told.epoch, told.token), (after.epoch, after.token));
                    prop_assert_eq!(&told.last, &after.last);
                    prop_assert_eq!(told.head.as_ref(), after.queue.first());
                    let shown = Some(after.sighting()) != before.map(|before| before.sighting());
                    prop_assert!(shown, "a sign of life");
                }
                Outcome::Waiting(told) => {
                    let after = after.unwrap();
                    prop_assert_eq!(Some(&told.holder), after.holder.as_ref());
                    prop_assert_eq!(told.sighting, after.sighting());
                    prop_assert_eq!(told.len, after.len);
                    let place = after.queue.iter().position(|w| w.who == *asker);
                    prop_assert_eq!(told.queued, place.is_some());
                    let tabs = told.before.iter().map(|(tab, _)| tab.as_str());
                    let ahead = after.queue.iter().take_while(|w| w.who != *asker);
                    let ahead = std::iter::once(&told.holder).chain(ahead.map(|w| &w.who));
                    prop_assert!(tabs.eq(ahead.map(|who| who.tab.as_str())));
                }
                Outcome::Refused => {
                    let unchanged = before.map(|before| before.sighting())
                        == after.as_ref().map(Record::sighting);
                    prop_assert!(unchanged, "no sign of life");
                    if let (Command::Claim { .. }, Some(after)) = (&command, after) {
                        prop_assert!(after.queue.iter().all(|w| w.who != *asker));
                    }
                }
                Outcome::Gone { granted } => {
                    // A pass that comes late says nothing of what its sender holds now.
                    if let (Some(after), false) = (&after, matches!(command, Command::Pass { .. })) {
                        prop_assert!(after.holder.as_ref() != Some(asker));
                    }
                    if let Some(granted) = granted {
                        let after = after.unwrap();
                        prop_assert_eq!(Some(granted.to.who), after.holder);
                        prop_assert_eq!((granted.epoch, granted.token), (after.epoch, after.token));
                        prop_assert_eq!((granted.to.len, after.count), (after.len, 0));
                    }
                }
            }
        }
    }

    #[test]
    fn no_command_unseats_a_holder_without_its_word_or_a_proof(steps in vec(steps(), 1..60)) {
        for (before, command, after, _) in play(steps) {
            let (Some(before), Some(after)) = (before, after) else { continue };
            let Some(holder) = &before.holder else { continue };
            // The same request may be granted anew after its own `ended`.
            let unseated = after.holder.as_ref() != Some(holder) || after.token != before.token;
            prop_assert!(!unseated || may_unseat(&command, &before, holder), "{:?}", command);
            if unseated {
                // What its own `ended`, or a claim for no time, brings may be unseated at once.
                let last = after.last.as_ref().map(|last| (&last.tab, last.token));
                let twice = after.token > before.token + 2
                    || matches!(command, Command::Claim { len: 0, .. });
                prop_assert!(twice || last == Some((&holder.tab, before.token)));
            }
        }
    }

    #[test]
    fn every_change_of_hands_has_its_number(steps in vec(steps(), 1..60)) {
        for (before, command, after, outcome) in play(steps) {
            let (Some(before), Some(after)) = (before, after) else { continue };
            prop_assert_eq!(after.epoch, before.epoch);
            let grown = after.token.checked_sub(before.token);
            let keeps_up = matches!(&command, Command::Take(take)
                if take.fresh.token >= after.token && after.token % (1024 * 1024) == 0);
            if after.holder.is_some() && after.holder != before.holder {
                prop_assert!(grown >= Some(1), "{:?}", command);
            }
            match grown {
                Some(0) => prop_assert!(after.count >= before.count, "no sign of life is taken back"),
                Some(1) => prop_assert!(is_of_a_delegation(&command), "{:?}", command),
                // One more if the asker was granted what its own `ended` gave up.
                Some(2) => prop_assert!(after.count <= 1),
                // Two changes in one step.
                Some(3 | 4) => {
                    let handed_on = matches!(outcome, Outcome::Gone { granted: Some(_) });
                    let ended = matches!(&command, Command::Take(take) if !take.ended.is_empty());
                    prop_assert!(handed_on || ended || keeps_up, "{:?}", command);
                }
                Some(_) if keeps_up => {}
                _ => prop_assert!(false, "token {grown:?}"),
            }
        }
    }

    #[test]
    fn a_renewal_right_after_a_grant_succeeds_and_one_after_a_takeover_does_not(
        steps in vec(steps(), 0..30), one in requesters(), two in requesters(),
    ) {
        let mut record = play(steps).pop().and_then(|(_, _, record, _)| record);
        let mut send = |command: &dyn Fn(Option<&Record>) -> Command| {
            let (write, outcome) = apply(record.as_ref(), &command(record.as_ref()));
            let unchanged = write.is_none();
            record = write.or_else(|| record.clone());
            (unchanged, outcome)
        };
        let proven = |who: &Requester, record: Option<&Record>| {
            let seen = record.map(|record| Proof::Unchanged(record.sighting()));
            proving(who.clone(), seen.unwrap_or_default())
        };

        let (_, outcome) = send(&|record| proven(&one, record));
        let Outcome::Held(Held { token, .. }) = outcome else {
            panic!("proven, and not granted: {outcome:?}");
        };
        let (_, outcome) = send(&|_| renew(one.clone(), token, 500));
        prop_assert!(matches!(outcome, Outcome::Held(_)));

        if one != two {
            send(&|record| proven(&two, record));
            let late = send(&|_| renew(one.clone(), token, 500));
            prop_assert_eq!(late, (true, Outcome::Refused));
        }
    }
}

// ---- Numbers ------------------------------------------------------------------------------------

/// What tabs do that keep to the protocol. Indices count modulo what there is.
#[derive(Clone, Debug)]
enum Act {
    /// The present request of a tab takes, by what it has seen, or by what it was given.
    Ask {
        tab: usize,
        join: bool,
        why: Why,
    },
    Renew(usize),
    Quit(usize),
    /// Somebody who was told that it holds hands its lease to the head of the queue, or to that tab.
    Delegate {
        holder: usize,
        to: Option<usize>,
    },
    /// One whom a lease was given starts on the message.
    Start(usize),
    /// What follows a delegation, as often as it comes, and as late.
    Claim(usize),
    Pass(usize),
}

#[derive(Clone, Copy, Debug)]
enum Why {
    Plain,
    Unchanged,
    Delegated(usize),
    Dead,
}

fn acts() -> impl Strategy<Value = Act> {
    let why = prop_oneof![
        4 => Just(Why::Plain),
        1 => Just(Why::Unchanged),
        2 => any::<usize>().prop_map(Why::Delegated),
        1 => Just(Why::Dead),
    ];
    let index = any::<usize>;
    prop_oneof![
        6 => (index(), prop::bool::weighted(0.8), why)
            .prop_map(|(tab, join, why)| Act::Ask { tab, join, why }),
        2 => index().prop_map(Act::Renew),
        1 => index().prop_map(Act::Quit),
        4 => (index(), prop::option::weighted(0.2, index()))
            .prop_map(|(holder, to)| Act::Delegate { holder, to }),
        3 => index().prop_map(Act::Start),
        3 => index().prop_map(Act::Claim),
        3 => index().prop_map(Act::Pass),
    ]
}

#[derive(Clone, Debug)]
struct Delegation {
    token: u64,
    from: Requester,
    to: Requester,
}

/// A record, and the tabs that contend for it.
#[derive(Default)]
struct Numbers {
    record: Option<Record>,
    /// The present request of each tab.
    present: [u64; 3],
    /// Requests that ended unanswered, or by a quit that got lost.
    ended: HashSet<Requester>,
    /// Who was told by the store that it holds, under which token.
    holds: Vec<(Requester, u64)>,
    delegations: Vec<Delegation>,
    /// Who has had which number.
    users: HashMap<u64, Requester>,
}

impl Numbers {
    fn present(&self, tab: usize) -> Requester {
        let tab = tab % 3;
        who(["a", "b", "c"][tab], self.present[tab])
    }

    /// The request is over, and its tab goes on with another.
    fn spend(&mut self, request: &Requester) {
        self.holds.retain(|(holder, _)| holder != request);
        for tab in 0..3 {
            if self.present(tab) == *request {
                self.present[tab] += 1;
            }
        }
    }

    fn is_present(&self, request: &Requester) -> bool {
        (0..3).any(|tab| self.present(tab) == *request)
    }

    fn uses(&mut self, token: u64, user: &Requester) {
        let first = self.users.entry(token).or_insert_with(|| user.clone());
        assert_eq!(first, user, "two have had {token}");
    }

    fn send(&mut self, command: &Command) {
        let (write, outcome) = apply(self.record.as_ref(), command);
        if write.is_some() {
            self.record = write;
        }
        let who = asker(command);
        match outcome {
            Outcome::Held(held) => {
                self.uses(held.token, who);
                self.holds.retain(|(holder, _)| holder != who);
                if self.is_present(who) {
                    self.holds.push((who.clone(), held.token));
                }
            }
            Outcome::Refused => self.spend(who),
            Outcome::Gone {
                granted: Some(granted),
            } => self.uses(granted.token, &granted.to.who),
            Outcome::Gone { granted: None } | Outcome::Waiting(_) => {}
        }
        // Whoever was granted the lock inside a take's transaction.
        if let Some(Record {
            holder: Some(holder),
            token,
            ..
        }) = self.record.clone()
        {
            self.uses(token, &holder);
        }
    }

    fn act(&mut self, act: &Act) {
        let delegation = |at: usize| {
            let count = self.delegations.len();
            (count > 0).then(|| self.delegations[at % count].clone())
        };
        let holds = |at: usize| {
            let count = self.holds.len();
            (count > 0).then(|| self.holds[at % count].clone())
        };
        match *act {
            Act::Ask { tab, join, why } => {
                let who = self.present(tab);
                let ended = self.ended.iter().filter(|ended| ended.tab == who.tab);
                let ended = ended.map(|ended| ended.request).collect();
                let proof = match why {
                    Why::Plain => None,
                    Why::Unchanged => self
                        .record
                        .as_ref()
                        .map(|seen| Proof::Unchanged(seen.sighting())),
                    Why::Delegated(at) => {
                        delegation(at)
                            .filter(|it| it.to == who)
                            .map(|it| Proof::Delegated {
                                token: it.token,
                                from: it.from,
                            })
                    }
                    Why::Dead => Some(dead(&["a", "b", "c"])),
                };
                self.send(&Command::Take(Take {
                    join,
                    proof: proof.unwrap_or_default(),
                    ended,
                    ..take(who)
                }));
            }
            Act::Renew(at) => {
                if let Some((who, token)) = holds(at) {
                    self.send(&renew(who, token, 500));
                }
            }
            Act::Quit(tab) => {
                let who = self.present(tab);
                self.spend(&who);
                if tab % 2 == 0 {
                    self.send(&quit(who));
                } else {
                    self.ended.insert(who);
                }
            }
            Act::Delegate { holder, to } => {
                let head = self.record.as_ref().and_then(|seen| seen.queue.first());
                let head = head.map(|head| head.who.clone());
                let to = to.map(|tab| self.present(tab)).or(head);
                if let (Some((from, token)), Some(to)) = (holds(holder), to)
                    && from != to
                {
                    self.spend(&from);
                    self.delegations.push(Delegation { token, from, to });
                }
            }
            Act::Start(at) => {
                if let Some(it) = delegation(at)
                    && self.is_present(&it.to)
                {
                    self.uses(it.token + 1, &it.to);
                }
            }
            Act::Claim(at) => {
                if let Some(it) = delegation(at)
                    && self.is_present(&it.to)
                {
                    self.send(&claim_of(it.to, it.token + 1, it.from));
                }
            }
            Act::Pass(at) => {
                if let Some(Delegation { token, from, to }) = delegation(at) {
                    let who = from;
                    self.send(&Command::Pass { who, token, to });
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn no_number_is_used_twice_whatever_is_lost_or_late_of_a_delegation(
        acts in vec(acts(), 1..80),
    ) {
        let mut numbers = Numbers::default();
        for act in &acts {
            numbers.act(act);
        }
    }
}

// ---- Records from outside ---------------------------------------------------------------------

#[test]
fn a_record_that_no_rule_can_have_written_is_corrupt() {
    type Damage = fn(&mut Record);
    let damages: [(Damage, &str); 14] = [
        (|r| r.format = 0, "version"),
        (|r| r.format = FORMAT + 1, "version"),
        (|r| r.epoch = u64::MAX, "range"),
        (|r| r.token = 1 << 53, "range"),
        (|r| r.count = 1 << 53, "range"),
        (|r| r.queue[0].at = 1 << 53, "range"),
        (|r| r.len = MAX_LEASE_MS + 1, "longer"),
        (|r| r.queue[0].len = u32::MAX, "longer"),
        (|r| r.len = 0, "no lease"),
        (|r| r.queue[0].len = 0, "no lease"),
        (|r| r.holder = None, "free lock"),
        (|r| r.queue[0].who = alice(), "twice"),
        (|r| r.queue.push(r.queue[0].clone()), "twice"),
        (|r| r.last = by("zoe", 101), "backwards"),
    ];
    for (damage, why) in damages {
        let mut record = held();
        damage(&mut record);
        let Err(Corrupt(reason)) = record.check() else {
            panic!("taken for good: {record:?}");
        };
        assert!(reason.contains(why), "{reason}");
        let Err(Corrupt(reason)) = Record::decode(&record.encode()) else {
            panic!("taken for good: {record:?}");
        };
        assert!(reason.contains(why), "{reason}");
    }
}

#[test]
fn a_record_that_the_rules_have_written_is_good() {
    for record in [held(), held_alone(), free(), passed(), handed_over()] {
        assert_eq!(record.check(), Ok(()));
        assert_eq!(Record::decode(&record.encode()), Ok(record));
    }
}

#[test]
fn bytes_that_are_no_record_say_why() {
    let good = held().encode();
    let of_another_version = [&[FORMAT + 1], &good[1..]].concat();
    let cut_short = good[..good.len() - 1].to_vec();
    let followed = [&good[..], &[0]].concat();
    for (bytes, why) in [
        (Vec::new(), "version"),
        (of_another_version, "version"),
        (cut_short, "shape"),
        (followed, "follows"),
    ] {
        let Err(Corrupt(reason)) = Record::decode(&bytes) else {
            panic!("taken for good: {bytes:?}");
        };
        assert!(reason.contains(why), "{reason}");
    }
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

/// Of strangers, who have no proof of anything, and of those whom [`held`] names.
fn all_kinds_of_commands() -> Vec<Command> {
    let mut commands = vec![
        claim(bob()),
        claim_of(carol(), 102, bob()),
        renew(alice(), 100, 500),
        pass(bob()),
        pass(carol()),
        quit(alice()),
        quit(bob()),
    ];
    for proof in [
        Proof::None,
        Proof::Unchanged(held().sighting()),
        delegated(),
        dead(&["alice", "bob"]),
    ] {
        commands.push(proving(bob(), proof.clone()));
        commands.push(proving(carol(), proof));
    }
    commands
}

/// Bytes that were those of a held lock may be unreadable, or of a held lock.
fn is_still_held_or_unreadable(bytes: &[u8]) -> bool {
    let Ok(record) = Record::decode(bytes) else {
        return true;
    };
    for command in all_kinds_of_commands() {
        let (write, _) = apply(Some(&record), &command);
        if let Some(written) = write {
            assert_eq!(written.check(), Ok(()), "{record:?}, {command:?}");
        }
    }
    let stranger = Command::Take(take(who("stranger", 1)));
    matches!(apply(Some(&record), &stranger), (None, Outcome::Waiting(_)))
}

#[test]
fn no_change_of_one_byte_frees_a_held_lock() {
    for record in [held(), held_alone(), passed(), queued(&[bob(), carol()])] {
        let good = record.encode();
        for at in 0..good.len() {
            for byte in 0..=u8::MAX {
                let mut bytes = good.clone();
                bytes[at] = byte;
                assert!(is_still_held_or_unreadable(&bytes), "{at}: {byte}");
                bytes.insert(at, good[at]);
                assert!(is_still_held_or_unreadable(&bytes), "{byte} after {at}");
            }
        }
    }
}

#[test]
fn no_part_of_a_record_passes_for_a_record() {
    for record in [held(), free()] {
        let good = record.encode();
        for from in 0..good.len() {
            for to in from..good.len() {
                let mut cut = good.clone();
                cut.drain(from..=to);
                let decoded = Record::decode(&cut);
                let freed = decoded.is_ok_and(|found| found.holder.is_none());
                assert!(!freed || record.holder.is_none(), "without {from}..={to}");
            }
            assert!(Record::decode(&good[..from]).is_err());
        }
    }
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
const PLACES: [&str; 21] = [
    "/format",
    "/epoch",
    "/token",
    "/count",
    "/holder",
    "/holder/tab",
    "/holder/request",
    "/mode",
    "/beacon",
    "/len",
    "/since",
    "/queue",
    "/queue/0",
    "/queue/0/who",
    "/queue/0/mode",
    "/queue/0/len",
    "/queue/0/at",
    "/queue/0/beacon",
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
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..200), format in any::<bool>()) {
        let mut bytes = bytes;
        if format && let Some(first) = bytes.first_mut() {
            *first = FORMAT;
        }
        if let Ok(record) = Record::decode(&bytes) {
            prop_assert_eq!(record.check(), Ok(()));
            for command in all_kinds_of_commands() {
                let _ = apply(Some(&record), &command);
            }
        }
    }

    // Four changed bytes can spell a free record; three cannot.
    #[test]
    fn no_few_changed_bytes_free_a_held_lock(
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = held().encode();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        prop_assert!(is_still_held_or_unreadable(&bytes), "{:?}", bytes);
    }
}

// ---- Notes --------------------------------------------------------------------------------------

const RENEWED: Note = Note::Renewed {
    token: 100,
    count: 3,
    len: 900,
    beacon: true,
};

/// Held under the token that [`RENEWED`] names.
fn noted() -> Record {
    Record {
        token: 100,
        ..held()
    }
}

#[test]
fn a_note_of_the_holder_counts_as_its_renewal() {
    let seen = rules::with_note(&noted(), &RENEWED);
    assert_eq!(seen.count, noted().count + 3);
    assert_eq!((seen.len, seen.beacon), (900, true));
    assert_eq!((seen.token, &seen.holder), (100, &noted().holder));
}

#[test]
fn a_note_about_another_token_counts_for_nothing() {
    let record = Record {
        token: 102,
        ..held()
    };
    assert_eq!(rules::with_note(&record, &RENEWED), record);
}

#[test]
fn a_renewal_in_a_note_refutes_an_observation_that_did_not_see_it() {
    let record = noted();
    let stale = proving(bob(), Proof::Unchanged(record.sighting()));
    let (_, outcome) = rules::apply_noted(&record, &RENEWED, &stale);
    let Outcome::Waiting(told) = outcome else {
        panic!("taken from a holder that renews: {outcome:?}");
    };
    assert_eq!((told.sighting.count, told.len), (record.count + 3, 900));
    // And one that did see it takes over.
    let seen = proving(bob(), Proof::Unchanged(told.sighting));
    let (write, outcome) = rules::apply_noted(&record, &RENEWED, &seen);
    assert!(matches!(outcome, Outcome::Held(_)));
    assert_eq!(write.unwrap().holder, Some(bob()));
}

#[test]
fn what_a_note_says_is_not_counted_twice() {
    let join = Command::Take(joining(bob()));
    let (write, outcome) = rules::apply_noted(&noted(), &RENEWED, &join);
    let Outcome::Waiting(told) = outcome else {
        panic!("{outcome:?}");
    };
    let written = write.unwrap();
    assert_eq!(written.queue.len(), 1);
    let again = rules::with_note(&written, &RENEWED);
    assert_eq!(again.sighting(), told.sighting);
}

#[test]
fn a_note_that_the_holder_has_ended_gives_the_lock_to_the_head_of_the_queue() {
    let record = queued(&[bob(), carol()]);
    let (write, outcome) = rules::apply_noted(&record, &Note::Ended, &Command::Take(take(carol())));
    assert!(matches!(outcome, Outcome::Waiting(_)));
    let written = write.unwrap();
    assert_eq!(written.holder, Some(bob()));
    assert_eq!(written.token, record.token + 2);
    assert_eq!(written.last.unwrap().token, record.token);

    let (write, outcome) = rules::apply_noted(&record, &Note::Ended, &Command::Take(take(bob())));
    assert!(matches!(outcome, Outcome::Held(_)));
    assert_eq!(write.unwrap().holder, Some(bob()));
}

#[test]
fn a_note_that_the_holder_has_ended_frees_the_lock() {
    let (write, outcome) = rules::apply_noted(&held(), &Note::Ended, &Command::Take(take(bob())));
    assert!(matches!(outcome, Outcome::Held(_)));
    assert_eq!(write.unwrap().token, held().token + 2);
}

#[test]
fn the_holders_note_is_read_by_whoever_judges_it() {
    let record = queued(&[bob()]);
    let unchanged = proving(carol(), Proof::Unchanged(record.sighting()));
    let judging = [
        Command::Take(take(bob())),
        Command::Take(joining(bob())),
        Command::Take(take(carol())),
        unchanged,
    ];
    for command in judging {
        assert_eq!(
            rules::note_of(&record, &command),
            Some(&alice()),
            "{command:?}"
        );
    }
    let others = [
        Command::Take(joining(carol())),
        Command::Take(take(alice())),
        Command::Quit { who: alice() },
    ];
    for command in others {
        assert_eq!(rules::note_of(&record, &command), None, "{command:?}");
    }
    let free = Record {
        holder: None,
        ..held()
    };
    assert_eq!(rules::note_of(&free, &Command::Take(take(bob()))), None);
}

#[test]
fn notes_are_read_as_they_were_written() {
    for note in [RENEWED, Note::Ended] {
        assert_eq!(Note::decode(&note.encode()), Ok(note));
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_of_notes_panic(bytes in vec(any::<u8>(), 0..40)) {
        if let Ok(note) = Note::decode(&bytes) {
            let _ = rules::with_note(&noted(), &note);
            prop_assert_eq!(Note::decode(&note.encode()), Ok(note));
        }
    }

    #[test]
    fn a_damaged_note_is_an_error_or_another_note_and_frees_nothing(at in 0_usize..12, byte in any::<u8>()) {
        let mut bytes = RENEWED.encode();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(Note::Ended) = Note::decode(&bytes) {
            prop_assert!(false, "a renewal was read as an end");
        }
    }
}

fn fence_of(record: Option<&Record>, lease: &Fence) -> Fenced {
    tab_lease::rules::fence(record, lease)
}

/// Alice's lease of [`held`].
fn alices() -> Fence {
    Fence {
        who: alice(),
        token: 100,
        epoch: 42,
        claim: None,
    }
}

#[test]
fn a_fence_lets_through_what_the_record_names_in_every_part() {
    let fence = |record: &Record| fence_of(Some(record), &alices());
    assert_eq!(fence(&held()), Fenced::Current);
    let others = [
        Record {
            token: 102,
            ..held()
        },
        Record {
            token: 99,
            last: None,
            ..held()
        },
        Record {
            epoch: 43,
            ..held()
        },
        Record {
            holder: Some(who("alice", 9)),
            ..held()
        },
        Record {
            holder: Some(who("bob", 1)),
            ..held()
        },
        free(),
        handed_over(),
        passed(),
    ];
    for other in others {
        assert_eq!(fence(&other), Fenced::Refused, "{other:?}");
    }
    assert_eq!(fence_of(None, &alices()), Fenced::Refused);
    // Renewals, and those who wait, are no reason.
    assert_eq!(
        fence(&Record {
            count: 70,
            ..held_alone()
        }),
        Fenced::Current
    );
}

#[test]
fn a_fence_claims_what_was_delegated_and_nothing_else() {
    let bobs = Fence {
        who: bob(),
        token: 101,
        epoch: 42,
        claim: Some(Command::Claim {
            who: bob(),
            token: 101,
            from: alice(),
            len: 600,
            beacon: true,
            wall: 2_000_000,
        }),
    };
    let Fenced::Claimed(claimed) = fence_of(Some(&held()), &bobs) else {
        panic!("it was delegated");
    };
    assert_eq!((claimed.token, claimed.count), (101, 1));
    assert_eq!(claimed.holder, Some(bob()));
    assert!(claimed.check().is_ok());
    assert_eq!(fence_of(Some(&claimed), &bobs), Fenced::Current);
    assert_eq!(fence_of(Some(&passed()), &bobs), Fenced::Current);
    for other in [
        free(),
        handed_over(),
        Record {
            holder: Some(carol()),
            ..held()
        },
        Record {
            token: 102,
            ..held()
        },
        Record {
            epoch: 43,
            ..held()
        },
    ] {
        assert_eq!(fence_of(Some(&other), &bobs), Fenced::Refused, "{other:?}");
    }
    // A claim of another lease than that.
    let mistaken = Fence {
        who: carol(),
        ..bobs
    };
    assert_eq!(fence_of(Some(&held()), &mistaken), Fenced::Refused);
}
