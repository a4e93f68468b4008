//! One tab's side, as a pure state machine: what it believes, and what it asks for.
#![cfg(not(target_arch = "wasm32"))]

use std::time::Duration;

use tab_lease::participant::{Due, Participant, Past, Renewed, Taken};
use tab_lease::rules::{self, Command, Held, Last, Outcome, Requester, Sighting, Take, Waiting};

const LEN: u32 = 500;
const MARGIN: Duration = ms(2);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A participant with its past, and a request counter.
struct Tab {
    participant: Participant,
    past: Past,
    requests: u64,
}

impl Tab {
    fn new() -> Self {
        Self {
            participant: Participant::new("me".to_owned(), LEN, MARGIN),
            past: Past::default(),
            requests: 0,
        }
    }

    fn take(&mut self, now: Duration) -> Take {
        self.ask(now, false)
    }

    fn ask(&mut self, now: Duration, join: bool) -> Take {
        self.requests += 1;
        let request = self.requests;
        self.participant
            .take(&self.past, now, request, join, 99, 1000)
    }

    fn taken(&mut self, sent: Duration, now: Duration, outcome: &Outcome) -> Taken {
        self.participant
            .taken(&mut self.past, &[], sent, now, outcome)
    }

    /// Holds token 10 of epoch 1 from `now` on.
    fn holding(now: Duration) -> Self {
        let mut tab = Self::new();
        tab.take(now);
        assert!(matches!(tab.taken(now, now, &held(10)), Taken::Held(_)));
        tab
    }

    fn renew(&mut self, now: Duration) -> Command {
        match self.participant.due(&mut self.past, now) {
            Some(Due::Renew(renewal)) => renewal,
            due => panic!("nothing to renew: {due:?}"),
        }
    }

    fn renewed(&mut self, sent: Duration, now: Duration, outcome: &Outcome) -> Renewed {
        self.participant
            .renewed(&mut self.past, 10, sent, now, outcome)
    }

    fn end(&mut self) -> Option<Command> {
        self.participant.end(&mut self.past)
    }
}

fn held(token: u64) -> Outcome {
    held_after(1, token, None)
}

fn held_after(epoch: u64, token: u64, last: Option<(&str, u64)>) -> Outcome {
    Outcome::Held(Held {
        epoch,
        token,
        last: last.map(|(tab, token)| Last {
            tab: tab.to_owned(),
            token,
        }),
        waiters: 0,
    })
}

fn sighting(count: u64) -> Sighting {
    Sighting {
        epoch: 1,
        token: 20,
        count,
    }
}

fn waiting(count: u64, len: u32) -> Outcome {
    Outcome::Waiting(Waiting {
        sighting: sighting(count),
        len,
        holder: Requester {
            tab: "other".to_owned(),
            request: 7,
        },
        ahead: 0,
    })
}

fn quit(request: u64) -> Command {
    Command::Quit {
        who: Requester {
            tab: "me".to_owned(),
            request,
        },
    }
}

// ---- What a holder may believe ----------------------------------------------------------------

#[test]
fn a_lease_is_counted_from_before_it_was_asked_for_less_the_margin() {
    let mut tab = Tab::new();
    tab.take(ms(100));
    let taken = tab.taken(ms(100), ms(300), &held(10));
    let Taken::Held(holding) = taken else {
        panic!("{taken:?}");
    };
    assert_eq!(holding.until, ms(600));
    assert_eq!(tab.participant.good_until(), Some(ms(598)));
    let last_good = ms(598) - Duration::from_nanos(1);
    assert_eq!(tab.participant.holding(last_good), Some(holding));
    assert_eq!(tab.participant.holding(ms(598)), None);
}

#[test]
fn a_renewal_is_counted_from_before_it_was_sent() {
    let mut tab = Tab::holding(ms(0));
    tab.renew(ms(50));
    let renewed = tab.renewed(ms(50), ms(450), &held(10));
    assert_eq!(renewed, Renewed::Until(ms(548)));
    assert_eq!(tab.participant.good_until(), Some(ms(548)));
}

#[test]
fn an_answer_to_an_older_renewal_takes_nothing_away() {
    let mut tab = Tab::holding(ms(0));
    assert_eq!(
        tab.renewed(ms(100), ms(110), &held(10)),
        Renewed::Until(ms(598))
    );
    assert_eq!(
        tab.renewed(ms(50), ms(120), &held(10)),
        Renewed::Until(ms(598))
    );
}

#[test]
fn a_take_answered_after_its_lease_is_late_and_holds_nothing() {
    let mut tab = Tab::new();
    let first = tab.take(ms(0));
    assert_eq!(tab.taken(ms(0), ms(498), &held(10)), Taken::Late);
    assert_eq!(tab.participant.holding(ms(498)), None);
    assert_eq!(tab.participant.due(&mut tab.past, ms(498)), None);

    // It asks again with the request that the record knows, and is not its own stranger.
    let again = tab.take(ms(498));
    assert_eq!(again.who, first.who);
    let Taken::Held(holding) = tab.taken(ms(498), ms(499), &held(10)) else {
        panic!("late twice");
    };
    assert_eq!(holding.until, ms(998));
    assert!(!holding.dirty);
}

#[test]
fn a_renewal_confirmed_after_the_lease_is_late_and_ends_it() {
    let mut tab = Tab::holding(ms(0));
    tab.renew(ms(450));
    assert_eq!(
        tab.renewed(ms(450), ms(498), &held(10)),
        Renewed::Late(quit(1))
    );
    assert_eq!(tab.participant.holding(ms(498)), None);
    assert_eq!(tab.participant.due(&mut tab.past, ms(498)), None);
}

#[test]
fn a_refused_renewal_ends_it() {
    for refusal in [
        Outcome::Refused,
        Outcome::Gone { granted: None },
        waiting(0, LEN),
    ] {
        let mut tab = Tab::holding(ms(0));
        let renewed = tab.renewed(ms(50), ms(51), &refusal);
        assert_eq!(renewed, Renewed::Lost(quit(1)), "{refusal:?}");
        assert_eq!(tab.participant.holding(ms(51)), None);
    }
}

#[test]
fn an_answer_about_another_token_is_stale() {
    let mut tab = Tab::holding(ms(0));
    let (sent, now) = (ms(50), ms(51));
    let stale = tab
        .participant
        .renewed(&mut tab.past, 8, sent, now, &Outcome::Refused);
    assert_eq!(stale, Renewed::Stale);
    assert!(tab.participant.holding(now).is_some());

    tab.end();
    assert_eq!(tab.renewed(sent, now, &Outcome::Refused), Renewed::Stale);
}

#[test]
fn a_renewal_names_the_token_and_the_request() {
    let mut tab = Tab::holding(ms(0));
    let Command::Renew { who, token, len } = tab.renew(ms(497)) else {
        panic!("not a renewal");
    };
    assert_eq!((who.tab.as_str(), who.request), ("me", 1));
    assert_eq!((token, len), (10, LEN));
}

#[test]
fn a_lease_that_ran_out_is_reported_once_and_cannot_be_renewed() {
    let mut tab = Tab::holding(ms(0));
    let due = tab.participant.due(&mut tab.past, ms(498));
    assert_eq!(due, Some(Due::Expired(quit(1))));
    assert_eq!(tab.participant.due(&mut tab.past, ms(498)), None);
    // A renewal of it that was still under way does not bring it back.
    assert_eq!(tab.renewed(ms(400), ms(499), &held(10)), Renewed::Stale);
    assert_eq!(tab.participant.holding(ms(499)), None);
}

#[test]
fn an_idle_one_has_nothing_due() {
    let mut tab = Tab::new();
    assert_eq!(tab.participant.due(&mut tab.past, ms(0)), None);
    assert_eq!(tab.participant.holding(ms(0)), None);
    assert_eq!(tab.participant.good_until(), None);
    assert_eq!(tab.participant.ripe_in(ms(0)), None);
    assert_eq!(tab.end(), None);
}

// ---- When an observer may take over -----------------------------------------------------------

#[test]
fn an_observation_runs_from_the_answer_for_the_whole_recorded_lease_and_not_a_tick_less() {
    let mut tab = Tab::new();
    tab.ask(ms(0), true);
    // The answer took 300 ms; the record's lease is longer than its own.
    assert_eq!(tab.taken(ms(0), ms(300), &waiting(4, 700)), Taken::Busy);
    assert_eq!(tab.participant.ripe_in(ms(300)), Some(ms(700)));
    assert_eq!(tab.participant.ripe_in(ms(999)), Some(ms(1)));
    let a_tick_less = ms(1000) - Duration::from_nanos(1);
    assert_eq!(tab.take(a_tick_less).unchanged, None);
    assert_eq!(tab.take(ms(1000)).unchanged, Some(sighting(4)));
    assert_eq!(tab.participant.ripe_in(ms(1100)), Some(ms(0)));
}

#[test]
fn seeing_the_same_again_does_not_restart_the_observation() {
    let mut tab = Tab::new();
    for now in [0, 100, 499] {
        tab.ask(ms(now), true);
        tab.taken(ms(now), ms(now), &waiting(4, LEN));
    }
    assert_eq!(tab.take(ms(500)).unchanged, Some(sighting(4)));
}

#[test]
fn a_sighting_that_moved_restarts_the_observation() {
    let moved = |change: fn(&mut Sighting)| {
        let Outcome::Waiting(mut waiting) = waiting(4, LEN) else {
            unreachable!("that is what it makes");
        };
        change(&mut waiting.sighting);
        waiting
    };
    for (now_seen, what) in [
        (moved(|seen| seen.count += 1), "count"),
        (moved(|seen| seen.token += 2), "token"),
        (moved(|seen| seen.epoch += 1), "epoch"),
        (moved(|seen| seen.count = 0), "count, backwards"),
    ] {
        let mut tab = Tab::new();
        tab.ask(ms(0), true);
        tab.taken(ms(0), ms(0), &waiting(4, LEN));
        tab.ask(ms(400), true);
        tab.taken(ms(400), ms(410), &Outcome::Waiting(now_seen.clone()));
        assert_eq!(tab.take(ms(909)).unchanged, None, "{what}");
        let proof = tab.take(ms(910)).unchanged;
        assert_eq!(proof, Some(now_seen.sighting), "{what}");
    }
}

#[test]
fn what_was_observed_outlives_the_caller_but_not_the_taking() {
    let mut tab = Tab::new();
    tab.take(ms(0));
    tab.taken(ms(0), ms(0), &waiting(4, LEN));
    tab.end();
    assert_eq!(tab.take(ms(500)).unchanged, Some(sighting(4)));
    tab.taken(ms(500), ms(500), &held(22));
    tab.end();
    assert_eq!(tab.take(ms(2000)).unchanged, None);
}

#[test]
fn a_living_holder_is_never_proved_dead() {
    let mut holder = Tab::new();
    let mut observer = Tab::new();
    observer.participant = Participant::new("observer".to_owned(), LEN, MARGIN);
    let mut record = None;
    let mut send = |command: &Command| {
        let (write, outcome) = rules::apply(record.as_ref(), command);
        record = write.or(record.take());
        outcome
    };
    let take = holder.take(ms(0));
    let answer = send(&Command::Take(take));
    assert!(matches!(
        holder.taken(ms(0), ms(0), &answer),
        Taken::Held(_)
    ));
    // It renews as late as it may; the observer asks every ms.
    for now in 1..5000 {
        if now % 497 == 0 {
            let renewal = holder.renew(ms(now));
            let Outcome::Held(Held { token, .. }) = send(&renewal) else {
                panic!("refused at {now}");
            };
            let (participant, past) = (&mut holder.participant, &mut holder.past);
            let renewed = participant.renewed(past, token, ms(now), ms(now), &held(token));
            assert!(matches!(renewed, Renewed::Until(_)));
        }
        let take = observer.ask(ms(now), true);
        let answer = send(&Command::Take(take));
        assert_eq!(observer.taken(ms(now), ms(now), &answer), Taken::Busy);
    }
}

// ---- Requests that ended ----------------------------------------------------------------------

#[test]
fn a_call_that_asks_again_goes_on_with_the_pending_request() {
    let mut tab = Tab::new();
    assert_eq!(tab.take(ms(0)).who.request, 1);
    assert_eq!(tab.take(ms(10)).who.request, 1);
    tab.end();
    assert_eq!(tab.take(ms(20)).who.request, 3, "never used twice");
}

#[test]
fn an_ended_request_is_named_until_the_store_has_confirmed_it() {
    let mut tab = Tab::holding(ms(0));
    assert_eq!(tab.end(), Some(quit(1)));
    assert_eq!(tab.take(ms(100)).ended, [1]);
    // Not answered: it is still named, with the one that asked meanwhile.
    assert_eq!(tab.end(), Some(quit(2)));
    let take = tab.take(ms(200));
    assert_eq!(take.ended, [1, 2]);

    tab.past.confirmed(&quit(1));
    assert_eq!(tab.take(ms(300)).ended, [2]);
    tab.past.confirmed(&quit(2));
    assert!(tab.take(ms(400)).ended.is_empty());
}

#[test]
fn a_take_that_was_answered_has_told_what_it_named() {
    for answer in [held(12), waiting(0, LEN)] {
        let mut tab = Tab::holding(ms(0));
        tab.end();
        let take = tab.take(ms(100));
        assert_eq!(take.ended, [1]);
        // One more ends after that take was sent; this one the store has not heard of.
        let mut late = Participant::new("me".to_owned(), LEN, MARGIN);
        late.take(&tab.past, ms(100), 77, false, 0, 0);
        late.end(&mut tab.past);
        let (participant, past) = (&mut tab.participant, &mut tab.past);
        participant.taken(past, &take.ended, ms(100), ms(101), &answer);
        tab.end();
        let ended = tab.take(ms(200)).ended;
        assert!(!ended.contains(&1), "{answer:?}");
        assert!(ended.contains(&77), "{answer:?}");
    }
}

#[test]
fn only_a_request_that_the_store_may_know_needs_a_quit() {
    // Refused, and had not asked to wait.
    let mut tab = Tab::new();
    tab.take(ms(0));
    tab.taken(ms(0), ms(1), &waiting(0, LEN));
    assert_eq!(tab.end(), None);
    assert!(tab.take(ms(2)).ended.is_empty());

    // Refused, and stands in the queue: also if a later call of it did not ask to wait.
    let mut tab = Tab::new();
    for join in [true, false] {
        tab.ask(ms(0), join);
        tab.taken(ms(0), ms(1), &waiting(0, LEN));
    }
    assert_eq!(tab.end(), Some(quit(1)));

    // Not answered: who knows.
    let mut tab = Tab::new();
    tab.take(ms(0));
    assert_eq!(tab.end(), Some(quit(1)));
}

#[test]
fn a_lock_object_made_anew_takes_over_where_the_earlier_one_was_cut_off() {
    let mut tab = Tab::new();
    let take = tab.take(ms(0));
    let (record, _) = rules::apply(None, &Command::Take(take));
    let token = record.as_ref().unwrap().token;
    tab.end();

    tab.participant = Participant::new("me".to_owned(), LEN, MARGIN);
    let take = tab.take(ms(1));
    let (_, outcome) = rules::apply(record.as_ref(), &Command::Take(take));
    let Outcome::Held(held) = outcome else {
        panic!("locked out of its own lease: {outcome:?}");
    };
    assert_eq!(held.token, token + 2);
}

// ---- Fresh tokens -----------------------------------------------------------------------------

#[test]
fn a_new_record_starts_above_every_token_held_and_grows_with_the_wall_clock() {
    let mut tab = Tab::new();
    tab.take(ms(0));
    assert_eq!(tab.take(ms(0)).fresh.token, 1000 * 1024);
    tab.taken(ms(0), ms(0), &held(5_000_000));
    tab.end();
    assert_eq!(tab.take(ms(0)).fresh.token, 5_000_002);
    assert_eq!(tab.take(ms(0)).fresh.epoch, 99);
}

#[test]
fn a_wall_clock_gone_wild_writes_no_record_that_is_corrupt() {
    for wall in [0, 8_900_000_000_000, 8_640_000_000_000_000, u64::MAX] {
        let mut tab = Tab::new();
        let take = tab.participant.take(&tab.past, ms(0), 1, false, 0, wall);
        let (mut record, _) = rules::apply(None, &Command::Take(take.clone()));
        for request in 2..1000 {
            let fresh = record.as_ref().unwrap();
            assert_eq!(fresh.check(), Ok(()), "wall clock {wall}");
            let mut next = take.clone();
            next.who.request = request;
            next.ended = vec![request - 1];
            record = rules::apply(Some(fresh), &Command::Take(next)).0;
        }
    }
}

// ---- Dirty ------------------------------------------------------------------------------------

#[test]
fn dirty_unless_the_last_holder_was_this_very_tenure() {
    // What this tab last held, whom the record names as the last holder, the verdict.
    let held_10 = Some((1, 10));
    let table = [
        (None, (1, 10), None, false, "a new record, and never held"),
        (
            None,
            (1, 12),
            Some(("other", 10)),
            true,
            "another was before",
        ),
        (
            held_10,
            (1, 12),
            Some(("me", 10)),
            false,
            "nobody in between",
        ),
        (
            held_10,
            (1, 14),
            Some(("other", 12)),
            true,
            "another in between",
        ),
        (
            held_10,
            (1, 12),
            Some(("other", 10)),
            true,
            "another with the same number",
        ),
        (
            held_10,
            (1, 14),
            Some(("me", 12)),
            true,
            "own lease that was never confirmed",
        ),
        (
            held_10,
            (2, 12),
            Some(("me", 10)),
            true,
            "another incarnation",
        ),
        (held_10, (2, 12), None, true, "the record was deleted"),
    ];
    for (latest, (epoch, token), last, dirty, what) in table {
        let mut tab = Tab::new();
        if let Some((epoch, token)) = latest {
            tab.take(ms(0));
            tab.taken(ms(0), ms(0), &held_after(epoch, token, None));
            tab.end();
        }
        tab.take(ms(1));
        let taken = tab.taken(ms(1), ms(1), &held_after(epoch, token, last));
        let Taken::Held(holding) = taken else {
            panic!("{what}: {taken:?}");
        };
        assert_eq!(holding.dirty, dirty, "{what}");
    }
}
