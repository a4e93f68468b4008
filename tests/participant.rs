//! One tab's side, as a pure state machine: what it believes, and what it asks for.
#![cfg(not(target_arch = "wasm32"))]

use std::time::Duration;

use proptest::prelude::*;
use tab_lease::participant::{
    Ask, Due, Grant, Heard, Holding, Lens, Participant, Past, Release, Renewed, Taken, Want, Wanted,
};
use tab_lease::rules::{
    self, Command, Fence, Granted, Held, Last, Mode, Outcome, Proof, Requester, Sighting, Take,
    Waiter, Waiting,
};

const LEN: u32 = 500;
const IDLE: u32 = 5000;
/// The first renewal of an idle lease asks for that.
const LONGER: u32 = LEN + LEN * 2 / 7;
const HIDDEN: u32 = 9000;
const LENS: Lens = Lens {
    usual: LEN,
    idle: IDLE,
    hidden: HIDDEN,
};
/// Two granules.
const MARGIN: Duration = ms(2);
const WALL: u64 = 1000;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn micros(ms: u64) -> u64 {
    ms * 1000
}

fn who(tab: &str, request: u64) -> Requester {
    Requester {
        tab: tab.to_owned(),
        request,
    }
}

/// Holds what [`waiting`] says.
fn other() -> Requester {
    who("other", 7)
}

/// Waits for what [`Tab::holding`] holds.
fn bob() -> Requester {
    who("bob", 3)
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
            participant: Participant::new("me".to_owned(), LENS, MARGIN),
            past: Past::default(),
            requests: 0,
        }
    }

    /// Another lock object of the same tab begins; the one before is cut off.
    fn anew(&mut self) {
        self.participant = Self::new().participant;
    }

    fn take(&mut self, now: Duration) -> Take {
        self.ask(now, false)
    }

    fn ask(&mut self, now: Duration, join: bool) -> Take {
        self.requests += 1;
        let ask = Ask {
            request: self.requests,
            join,
            beacon: false,
            fresh_epoch: 99,
            wall: WALL,
        };
        self.participant.take(&self.past, now, ask)
    }

    /// The answer to `take`, which was sent when its stamp says.
    fn answer(&mut self, take: &Take, now: Duration, outcome: &Outcome) -> Taken {
        let sent = Duration::from_micros(take.at);
        let (participant, past) = (&mut self.participant, &mut self.past);
        participant.taken(past, take, sent, now, outcome)
    }

    /// Asks to wait, and is answered at once.
    fn look(&mut self, now: Duration, outcome: &Outcome) -> Taken {
        let take = self.ask(now, true);
        self.answer(&take, now, outcome)
    }

    /// Takes, and is answered at once that it holds.
    fn begin(&mut self, now: Duration, outcome: &Outcome) -> Holding {
        let take = self.take(now);
        match self.answer(&take, now, outcome) {
            Taken::Held(holding) => holding,
            taken => panic!("{taken:?}"),
        }
    }

    /// Holds token 10 of epoch 1 from `now` on.
    fn holding(now: Duration) -> Self {
        let mut tab = Self::new();
        tab.begin(now, &held(10));
        tab
    }

    /// Holds it from 0 ms on, and has read at 10 ms that bob waits, whose stamp is of 2000 ms.
    fn wanted() -> Self {
        let mut tab = Self::holding(ms(0));
        tab.beat(ms(10), &held_with(10, bob_at(2000)));
        tab
    }

    /// Waits at the head of the queue for token 20 of epoch 1, by the request 1.
    fn waiting() -> Self {
        let mut tab = Self::new();
        assert_eq!(tab.look(ms(0), &waiting(4, LEN)), Taken::Busy);
        tab
    }

    /// Holds token 21 from 100 ms on, by a message; good until 400 ms.
    fn started() -> Self {
        let mut tab = Self::waiting();
        started(tab.granted(ms(100), &grant()));
        tab
    }

    fn granted(&mut self, now: Duration, grant: &Grant) -> Heard {
        self.participant.granted(&mut self.past, now, grant)
    }

    fn due(&mut self, now: Duration) -> Option<Due> {
        self.due_with(now, false)
    }

    fn due_with(&mut self, now: Duration, beacon: bool) -> Option<Due> {
        self.participant.due(&mut self.past, now, beacon, WALL)
    }

    fn renew(&mut self, now: Duration) -> Command {
        self.renew_with(now, false)
    }

    fn renew_with(&mut self, now: Duration, beacon: bool) -> Command {
        match self.due_with(now, beacon) {
            Some(Due::Renew(renewal)) => renewal,
            due => panic!("nothing to renew: {due:?}"),
        }
    }

    fn renewed(
        &mut self,
        renewal: &Command,
        sent: Duration,
        now: Duration,
        outcome: &Outcome,
    ) -> Renewed {
        let (participant, past) = (&mut self.participant, &mut self.past);
        participant.renewed(past, renewal, sent, now, outcome)
    }

    /// Renews, and is answered at once.
    fn beat(&mut self, now: Duration, outcome: &Outcome) -> Renewed {
        let renewal = self.renew(now);
        self.renewed(&renewal, now, now, outcome)
    }

    /// Renews with a beacon, and is answered at once.
    fn lit_beat(&mut self, now: Duration, outcome: &Outcome) -> Renewed {
        let renewal = self.renew_with(now, true);
        self.renewed(&renewal, now, now, outcome)
    }

    /// The same. Answers what it renewed with.
    fn lit_beat_at(&mut self, now: Duration) -> Command {
        let renewal = self.renew_with(now, true);
        self.renewed(&renewal, now, now, &held(10));
        renewal
    }

    fn release(&mut self, now: Duration) -> Option<Release> {
        self.participant.release(&mut self.past, now, false)
    }

    fn delegate(&mut self, now: Duration) -> (Grant, Command) {
        match self.release(now) {
            Some(Release::Delegate(grant, pass)) => (grant, pass),
            release => panic!("not delegated: {release:?}"),
        }
    }

    fn gone(
        &mut self,
        command: &Command,
        sent: Duration,
        now: Duration,
        outcome: &Outcome,
    ) -> Option<Grant> {
        self.participant
            .gone(&mut self.past, command, sent, now, outcome)
    }

    fn end(&mut self) -> Option<Command> {
        self.participant.end(&mut self.past)
    }

    fn fence(&mut self, now: Duration) -> Fence {
        let fence = self.participant.fence(now, false, WALL);
        fence.expect("it holds")
    }

    fn holds(&self, now: Duration) -> bool {
        self.participant.holding(now).is_some()
    }

    fn good_until(&self) -> Duration {
        self.participant.good_until().expect("it holds")
    }
}

fn started(heard: Heard) -> Holding {
    match heard {
        Heard::Started(holding) => holding,
        heard => panic!("{heard:?}"),
    }
}

fn held(token: u64) -> Outcome {
    held_after(1, token, None)
}

fn held_after(epoch: u64, token: u64, last: Option<(&str, u64)>) -> Outcome {
    Outcome::Held(Held {
        count: 0,
        epoch,
        token,
        last: last.map(|(tab, token)| Last {
            tab: tab.to_owned(),
            token,
        }),
        head: None,
    })
}

fn held_with(token: u64, head: Waiter) -> Outcome {
    Outcome::Held(Held {
        count: 0,
        epoch: 1,
        token,
        last: None,
        head: Some(head),
    })
}

fn waiter(who: Requester, len: u32, at: u64) -> Waiter {
    Waiter {
        who,
        mode: Mode::Exclusive,
        len,
        at: micros(at),
        beacon: false,
        since: 0,
    }
}

/// Bob in the queue, with a stamp of that many ms.
fn bob_at(at: u64) -> Waiter {
    waiter(bob(), LEN, at)
}

fn sighting(count: u64) -> Sighting {
    Sighting {
        epoch: 1,
        token: 20,
        count,
    }
}

/// At the head of the queue, behind a holder with no beacon.
fn look(count: u64, len: u32) -> Waiting {
    Waiting {
        sighting: sighting(count),
        len,
        holder: other(),
        before: vec![("other".to_owned(), false)],
        queued: true,
    }
}

fn waiting(count: u64, len: u32) -> Outcome {
    Outcome::Waiting(look(count, len))
}

/// Behind these, each with its beacon or without.
fn behind(before: &[(&str, bool)]) -> Outcome {
    let before = before.iter().map(|&(tab, lit)| (tab.to_owned(), lit));
    Outcome::Waiting(Waiting {
        before: before.collect(),
        ..look(4, LEN)
    })
}

fn under_token(token: u64) -> Outcome {
    let mut waiting = look(4, LEN);
    waiting.sighting.token = token;
    Outcome::Waiting(waiting)
}

/// To [`Tab::waiting`], who waits for token 20.
fn grant() -> Grant {
    Grant {
        epoch: 1,
        from: other(),
        to: who("me", 1),
        token: 21,
        until: micros(400),
        vouched: true,
        granted: false,
    }
}

fn not_vouched() -> Grant {
    Grant {
        vouched: false,
        ..grant()
    }
}

/// Made inside a transaction.
fn by_store() -> Grant {
    Grant {
        token: 22,
        granted: true,
        ..grant()
    }
}

/// From bob, to whoever holds token 10.
fn want() -> Want {
    Want {
        epoch: 1,
        token: 10,
        who: bob(),
        len: LEN,
        at: micros(2000),
        queued: true,
    }
}

fn quit(request: u64) -> Command {
    Command::Quit {
        who: who("me", request),
    }
}

fn len_of(renewal: &Command) -> u32 {
    match renewal {
        Command::Renew { len, .. } | Command::Claim { len, .. } => *len,
        command => panic!("not a renewal: {command:?}"),
    }
}

fn is_claim(command: &Command) -> bool {
    matches!(command, Command::Claim { .. })
}

// ---- What a holder may believe ------------------------------------------------------------------

#[test]
fn a_lease_is_counted_from_before_it_was_asked_for_less_the_margin() {
    let mut tab = Tab::new();
    let take = tab.take(ms(100));
    let taken = tab.answer(&take, ms(300), &held(10));
    let Taken::Held(holding) = taken else {
        panic!("{taken:?}");
    };
    assert_eq!(holding.until, ms(600));
    assert_eq!(tab.good_until(), ms(598));
    let last_good = ms(598) - Duration::from_nanos(1);
    assert_eq!(tab.participant.holding(last_good), Some(holding));
    assert_eq!(tab.participant.holding(ms(598)), None);
}

#[test]
fn a_renewal_is_counted_from_before_it_was_sent() {
    let mut tab = Tab::holding(ms(0));
    let renewal = tab.renew(ms(50));
    let renewed = tab.renewed(&renewal, ms(50), ms(450), &held(10));
    assert_eq!(renewed, Renewed::Until(ms(548)));
    assert_eq!(tab.good_until(), ms(548));
}

#[test]
fn an_answer_to_an_older_renewal_takes_nothing_away() {
    let mut tab = Tab::holding(ms(0));
    let older = tab.renew(ms(50));
    let newer = tab.renew(ms(100));
    let renewed = tab.renewed(&newer, ms(100), ms(110), &held(10));
    assert_eq!(renewed, Renewed::Until(ms(598)));
    let renewed = tab.renewed(&older, ms(50), ms(120), &held(10));
    assert_eq!(renewed, Renewed::Until(ms(598)));
}

#[test]
fn a_renewal_that_was_not_answered_changes_nothing() {
    let mut tab = Tab::holding(ms(0));
    tab.renew_with(ms(100), true);
    assert_eq!(tab.good_until(), ms(498));
}

#[test]
fn a_take_answered_after_its_lease_is_late_and_holds_nothing() {
    let mut tab = Tab::new();
    let take = tab.take(ms(0));
    assert_eq!(tab.answer(&take, ms(498), &held(10)), Taken::Late);
    assert!(!tab.holds(ms(498)));
    assert_eq!(tab.due(ms(498)), None);
}

#[test]
fn a_take_after_a_late_one_asks_by_the_same_request() {
    let mut tab = Tab::new();
    let first = tab.take(ms(0));
    tab.answer(&first, ms(498), &held(10));
    let again = tab.take(ms(498));
    assert_eq!(again.who, first.who);
    let Taken::Held(holding) = tab.answer(&again, ms(499), &held(10)) else {
        panic!("late twice");
    };
    assert_eq!(holding.until, ms(998));
    assert!(!holding.dirty, "it is not its own stranger");
}

#[test]
fn a_renewal_confirmed_after_the_lease_is_late_and_ends_it() {
    let mut tab = Tab::holding(ms(0));
    let renewal = tab.renew(ms(450));
    let renewed = tab.renewed(&renewal, ms(450), ms(498), &held(10));
    assert_eq!(renewed, Renewed::Late(quit(1)));
    assert!(!tab.holds(ms(498)));
    assert_eq!(tab.due(ms(498)), None);
}

#[test]
fn a_refused_renewal_ends_it() {
    for refusal in [
        Outcome::Refused,
        Outcome::Gone { granted: None },
        waiting(0, LEN),
    ] {
        let mut tab = Tab::holding(ms(0));
        let renewed = tab.beat(ms(50), &refusal);
        assert_eq!(renewed, Renewed::Lost(quit(1)), "{refusal:?}");
        assert!(!tab.holds(ms(50)));
    }
}

#[test]
fn an_answer_about_another_token_is_stale() {
    let mut tab = Tab::holding(ms(0));
    let of_another_token = Command::Renew {
        who: who("me", 1),
        token: 8,
        len: LEN,
        beacon: false,
    };
    let renewed = tab.renewed(&of_another_token, ms(50), ms(51), &Outcome::Refused);
    assert_eq!(renewed, Renewed::Stale);
    assert!(tab.holds(ms(51)));
}

#[test]
fn an_answer_about_another_request_is_stale() {
    let mut tab = Tab::holding(ms(0));
    let renewal = tab.renew(ms(50));
    tab.end();
    assert_eq!(
        tab.renewed(&renewal, ms(50), ms(51), &Outcome::Refused),
        Renewed::Stale
    );
    // The next request may well hold under that token, of a new incarnation.
    tab.begin(ms(60), &held_after(2, 10, None));
    let renewed = tab.renewed(&renewal, ms(50), ms(61), &Outcome::Refused);
    assert_eq!(renewed, Renewed::Stale);
    assert!(tab.holds(ms(61)));
}

#[test]
fn an_answer_to_anything_but_a_renewal_is_stale() {
    let mut tab = Tab::holding(ms(0));
    let renewed = tab.renewed(&quit(1), ms(50), ms(51), &Outcome::Refused);
    assert_eq!(renewed, Renewed::Stale);
}

#[test]
fn a_renewal_names_the_token_and_the_request() {
    let mut tab = Tab::holding(ms(0));
    let renewal = Command::Renew {
        who: who("me", 1),
        token: 10,
        len: LEN,
        beacon: false,
    };
    assert_eq!(tab.renew(ms(497)), renewal);
}

#[test]
fn a_renewal_says_whether_the_beacon_is_lit() {
    for lit in [true, false] {
        let mut tab = Tab::holding(ms(0));
        let renewal = tab.renew_with(ms(50), lit);
        assert!(matches!(renewal, Command::Renew { beacon, .. } if beacon == lit));
    }
}

#[test]
fn a_lease_that_ran_out_is_reported_once() {
    let mut tab = Tab::holding(ms(0));
    assert_eq!(tab.due(ms(498)), Some(Due::Expired(quit(1))));
    assert_eq!(tab.due(ms(498)), None);
}

#[test]
fn a_lease_that_ran_out_is_not_brought_back_by_a_late_answer() {
    let mut tab = Tab::holding(ms(0));
    let renewal = tab.renew(ms(400));
    tab.due(ms(498));
    let renewed = tab.renewed(&renewal, ms(400), ms(499), &held(10));
    assert_eq!(renewed, Renewed::Stale);
    assert!(!tab.holds(ms(499)));
}

#[test]
fn an_idle_one_has_nothing_due() {
    let mut tab = Tab::new();
    assert_eq!(tab.due(ms(0)), None);
    assert!(!tab.holds(ms(0)));
    assert_eq!(tab.participant.good_until(), None);
    assert_eq!(tab.participant.ripe_in(ms(0)), None);
    assert_eq!(tab.participant.look_in(ms(0), true, false), None);
    assert_eq!(tab.participant.suspect(), None);
    assert_eq!(tab.participant.want(), None);
    assert_eq!(tab.participant.request(), None);
    assert_eq!(tab.release(ms(0)), None);
    assert_eq!(tab.end(), None);
}

// ---- Idle leases --------------------------------------------------------------------------------

#[test]
fn a_lease_is_idle_only_with_a_beacon_and_nobody_waiting() {
    for (lit, waited_for, len) in [
        (true, false, LONGER),
        (true, true, LEN),
        (false, false, LEN),
        (false, true, LEN),
    ] {
        let mut tab = Tab::holding(ms(0));
        if waited_for {
            tab.participant.wanted(ms(10), &want());
        }
        assert_eq!(len_of(&tab.renew_with(ms(50), lit)), len);
        let long = (len > LEN).then(|| ms(len.into()));
        assert_eq!(tab.participant.long(), long);
    }
}

#[test]
fn an_idle_lease_is_about_as_long_as_it_was_unwanted_until_it_is_long_enough() {
    let mut tab = Tab::holding(ms(0));
    let mut now = 50;
    loop {
        let len = len_of(&tab.lit_beat_at(ms(now)));
        let idle = u32::try_from(now).unwrap();
        if len == IDLE {
            assert!(idle > 5_000 && idle < 7_000, "{idle} ms");
            break;
        }
        assert!(len <= LONGER + idle, "{len} ms after {idle} ms");
        assert!(len >= LEN + idle * 3 / 4, "{len} ms after {idle} ms");
        now += u64::from(len) / 3;
    }
    assert_eq!(len_of(&tab.lit_beat_at(ms(now + 1000))), IDLE);
}

// ---- Hidden pages -------------------------------------------------------------------------------

#[test]
fn a_hidden_holder_asks_for_a_longer_lease_whoever_waits() {
    for (lit, waited_for) in [(false, false), (false, true), (true, true)] {
        let mut tab = Tab::holding(ms(0));
        if waited_for {
            tab.participant.wanted(ms(10), &want());
        }
        tab.participant.hide(true);
        assert_eq!(len_of(&tab.renew_with(ms(20), lit)), HIDDEN);
        assert!(!tab.participant.is_too_long());
    }
}

#[test]
fn a_lease_that_is_shown_again_is_too_long_for_whoever_waits() {
    let mut tab = Tab::holding(ms(0));
    tab.participant.hide(true);
    tab.beat(ms(20), &held_with(10, bob_at(0)));
    tab.participant.hide(false);
    assert!(tab.participant.is_too_long());
    assert_eq!(len_of(&tab.renew_with(ms(100), false)), LEN);
    assert_eq!(tab.good_until(), ms(600) - MARGIN, "cut before the answer");
    assert!(!tab.participant.is_too_long());
}

#[test]
fn a_hidden_one_asks_for_the_longer_lease_from_the_start() {
    let mut tab = Tab::new();
    tab.participant.hide(true);
    let take = tab.ask(ms(0), true);
    assert_eq!(take.len, HIDDEN);
    assert!(matches!(
        tab.answer(&take, ms(1), &held(10)),
        Taken::Held(_)
    ));
    assert_eq!(tab.good_until(), ms(HIDDEN.into()) - MARGIN);
}

#[test]
fn a_waiter_says_the_length_that_the_queue_has() {
    let mut tab = Tab::new();
    let take = tab.ask(ms(0), true);
    tab.answer(&take, ms(1), &waiting(1, LEN));
    tab.participant.hide(true);
    assert_eq!(tab.participant.want().map(|want| want.len), Some(LEN));
}

#[test]
fn the_answer_to_a_take_counts_for_the_length_that_it_asked_for() {
    let mut tab = Tab::new();
    let take = tab.ask(ms(0), true);
    tab.participant.hide(true);
    tab.answer(&take, ms(1), &held(10));
    assert_eq!(tab.good_until(), ms(500) - MARGIN);
}

#[test]
fn a_claim_shorter_than_what_was_granted_cuts_it_at_once() {
    let mut tab = Tab::new();
    tab.participant.hide(true);
    let take = tab.ask(ms(0), true);
    tab.answer(&take, ms(1), &waiting(4, LEN));
    let long = Grant {
        until: micros(9000),
        ..grant()
    };
    assert!(matches!(tab.granted(ms(100), &long), Heard::Started(_)));
    tab.participant.hide(false);
    assert_eq!(len_of(&tab.renew(ms(101))), LEN);
    assert_eq!(tab.good_until(), ms(601) - MARGIN);
}

/// Observers go by the renewal's length from then on. Found by `tests/play.rs`: there were two holders.
#[test]
fn a_renewal_shorter_than_what_was_granted_cuts_it_at_once_though_there_was_no_claim() {
    let mut tab = Tab::new();
    tab.participant.hide(true);
    let take = tab.ask(ms(0), true);
    tab.answer(&take, ms(1), &waiting(4, LEN));
    tab.participant.hide(false);
    // It is the store that confirms the lease, by the answer to a look that was under way.
    let look = tab.ask(ms(50), true);
    let long = Grant {
        until: micros(9000),
        ..grant()
    };
    assert!(matches!(tab.granted(ms(100), &long), Heard::Started(_)));
    assert_eq!(tab.answer(&look, ms(101), &held(21)), Taken::Confirmed);
    assert!(matches!(
        tab.renew(ms(102)),
        Command::Renew { len: LEN, .. }
    ));
    assert_eq!(tab.good_until(), ms(602) - MARGIN);
}

#[test]
fn an_idle_lease_is_good_for_its_length_once_it_is_confirmed() {
    let mut tab = Tab::holding(ms(0));
    assert_eq!(
        tab.lit_beat(ms(100), &held(10)),
        Renewed::Until(ms(100 + u64::from(LONGER)) - MARGIN)
    );
}

#[test]
fn a_waiter_that_is_read_of_or_heard_ends_the_idling() {
    let mut read = Tab::holding(ms(0));
    read.lit_beat(ms(50), &held_with(10, bob_at(0)));
    assert_eq!(len_of(&read.renew_with(ms(60), true)), LEN);

    let mut heard = Tab::holding(ms(0));
    heard.lit_beat(ms(50), &held(10));
    heard.participant.wanted(ms(55), &want());
    assert_eq!(len_of(&heard.renew_with(ms(60), true)), LEN);
}

#[test]
fn one_who_only_tries_does_not_end_the_idling() {
    let mut tab = Tab::holding(ms(0));
    let trying = Want {
        queued: false,
        ..want()
    };
    tab.participant.wanted(ms(10), &trying);
    assert_eq!(len_of(&tab.renew_with(ms(50), true)), LONGER);
}

#[test]
fn a_shorter_renewal_cuts_the_lease_before_it_is_answered() {
    for lit in [true, false] {
        let mut tab = Tab::holding(ms(0));
        tab.lit_beat(ms(50), &held(10));
        if lit {
            tab.participant.wanted(ms(60), &want());
        }
        tab.renew_with(ms(100), lit);
        assert_eq!(tab.good_until(), ms(600) - MARGIN);
        assert_eq!(tab.participant.long(), None);
    }
}

#[test]
fn a_shorter_renewal_makes_nothing_longer() {
    let mut tab = Tab::holding(ms(0));
    tab.renew_with(ms(50), true);
    tab.renew_with(ms(400), false);
    assert_eq!(tab.good_until(), ms(500) - MARGIN);
}

#[test]
fn a_late_answer_to_a_longer_renewal_does_not_undo_a_shorter_one() {
    let mut tab = Tab::holding(ms(0));
    let long = tab.renew_with(ms(50), true);
    let short = tab.renew_with(ms(100), false);
    tab.renewed(&long, ms(50), ms(110), &held(10));
    assert_eq!(tab.good_until(), ms(550) - MARGIN);
    tab.renewed(&short, ms(100), ms(120), &held(10));
    assert_eq!(tab.good_until(), ms(600) - MARGIN);
}

#[test]
fn a_lease_may_be_idle_again_when_nobody_waits_any_more() {
    let mut tab = Tab::wanted();
    assert_eq!(len_of(&tab.renew_with(ms(20), true)), LEN);
    tab.lit_beat(ms(50), &held(10));
    assert!(len_of(&tab.renew_with(ms(60), true)) > LEN);
}

// ---- Hearing of those who wait ------------------------------------------------------------------

#[test]
fn a_message_about_another_lease_is_not_for_the_holder() {
    let other_token = Want {
        token: 12,
        ..want()
    };
    let other_epoch = Want { epoch: 2, ..want() };
    for want in [other_token, other_epoch] {
        let mut tab = Tab::holding(ms(0));
        assert_eq!(tab.participant.wanted(ms(10), &want), Wanted::NotOurs);
        assert!(!tab.participant.is_wanted());
    }
}

#[test]
fn a_message_to_one_that_holds_nothing_is_not_for_it() {
    assert_eq!(
        Tab::new().participant.wanted(ms(10), &want()),
        Wanted::NotOurs
    );
    let mut tab = Tab::holding(ms(0));
    tab.end();
    assert_eq!(tab.participant.wanted(ms(10), &want()), Wanted::NotOurs);
}

#[test]
fn the_head_of_the_queue_is_heard() {
    let mut tab = Tab::holding(ms(0));
    assert_eq!(tab.participant.wanted(ms(10), &want()), Wanted::ByHead);
    assert!(tab.participant.is_wanted());
}

#[test]
fn one_who_only_tries_is_heard_but_is_not_the_next() {
    let mut tab = Tab::holding(ms(0));
    let trying = Want {
        queued: false,
        ..want()
    };
    assert_eq!(tab.participant.wanted(ms(10), &trying), Wanted::ByTry);
    assert!(!tab.participant.is_wanted());
    assert_eq!(tab.release(ms(20)), Some(Release::Quit(quit(1))));
}

#[test]
fn a_record_with_nobody_waiting_forgets_only_what_was_heard_before_it_was_asked_for() {
    for (heard, remembered) in [(ms(40), false), (ms(50), true), (ms(60), true)] {
        let mut tab = Tab::holding(ms(0));
        if heard < ms(50) {
            tab.participant.wanted(heard, &want());
        }
        let renewal = tab.renew(ms(50));
        if heard >= ms(50) {
            tab.participant.wanted(heard, &want());
        }
        tab.renewed(&renewal, ms(50), ms(70), &held(10));
        assert_eq!(tab.participant.is_wanted(), remembered, "{heard:?}");
    }
}

#[test]
fn the_take_tells_the_holder_who_waits() {
    let mut tab = Tab::new();
    tab.begin(ms(0), &held_with(10, bob_at(0)));
    assert!(tab.participant.is_wanted());
    assert_eq!(tab.delegate(ms(10)).0.to, bob());
}

#[test]
fn nobody_waits_for_the_next_lease_before_that_is_heard() {
    let mut tab = Tab::wanted();
    tab.end();
    tab.begin(ms(30), &held(12));
    assert!(!tab.participant.is_wanted());
}

// ---- Handing over by delegation -----------------------------------------------------------------

#[test]
fn a_release_delegates_to_the_head_of_the_queue() {
    let mut tab = Tab::wanted();
    let (grant, pass) = tab.delegate(ms(100));
    let told = Grant {
        epoch: 1,
        from: who("me", 1),
        to: bob(),
        token: 11,
        // His stamp was read at 10 ms, and the lease is good until 510 ms: 500 ms later, less a
        // granule.
        until: micros(2000 + 500 - 1),
        vouched: true,
        granted: false,
    };
    assert_eq!(grant, told);
    let written = Command::Pass {
        who: who("me", 1),
        token: 10,
        to: bob(),
    };
    assert_eq!(pass, written);
}

#[test]
fn a_release_with_nobody_waiting_quits() {
    let mut tab = Tab::holding(ms(0));
    assert_eq!(tab.release(ms(10)), Some(Release::Quit(quit(1))));
    assert!(!tab.holds(ms(10)));
}

#[test]
fn a_release_of_a_lease_that_is_over_quits() {
    let mut tab = Tab::wanted();
    assert_eq!(tab.release(ms(508)), Some(Release::Quit(quit(1))));
}

#[test]
fn a_release_that_is_to_go_by_the_store_quits() {
    let mut tab = Tab::wanted();
    let release = tab.participant.release(&mut tab.past, ms(20), true);
    assert_eq!(release, Some(Release::Quit(quit(1))));
}

#[test]
fn a_release_before_the_claim_was_answered_quits() {
    let mut tab = Tab::started();
    let want = Want {
        token: 21,
        ..want()
    };
    assert_eq!(tab.participant.wanted(ms(101), &want), Wanted::ByHead);
    tab.renew(ms(102));
    assert_eq!(tab.release(ms(110)), Some(Release::Quit(quit(1))));
}

#[test]
fn a_release_after_the_claim_was_answered_delegates() {
    let mut tab = Tab::started();
    tab.beat(ms(102), &held_with(21, bob_at(0)));
    let (grant, _) = tab.delegate(ms(110));
    assert_eq!((grant.token, grant.to), (22, bob()));
}

/// The late one might queue the spent request again.
#[test]
fn a_release_while_an_own_take_is_unanswered_quits() {
    let mut tab = Tab::waiting();
    tab.ask(ms(50), true);
    started(tab.granted(ms(100), &grant()));
    tab.beat(ms(102), &held_with(21, bob_at(0)));
    assert_eq!(tab.release(ms(110)), Some(Release::Quit(quit(1))));
}

#[test]
fn a_release_after_every_take_was_answered_or_failed_delegates() {
    let mut tab = Tab::waiting();
    let (one, two) = (tab.ask(ms(50), true), tab.ask(ms(60), true));
    started(tab.granted(ms(100), &grant()));
    tab.beat(ms(102), &held_with(21, bob_at(0)));
    tab.answer(&one, ms(103), &waiting(4, LEN));
    tab.participant.failed(&two);
    tab.delegate(ms(110));
}

#[test]
fn a_release_with_less_than_half_of_the_receiver_s_lease_left_quits() {
    // Good until 510 ms.
    Tab::wanted().delegate(ms(260));
    let release = Tab::wanted().release(ms(261));
    assert_eq!(release, Some(Release::Quit(quit(1))));
}

#[test]
fn a_long_lease_of_the_receiver_needs_more_left() {
    let mut tab = Tab::holding(ms(0));
    tab.beat(ms(10), &held_with(10, waiter(bob(), 2 * LEN, 2000)));
    assert_eq!(tab.release(ms(11)), Some(Release::Quit(quit(1))));
}

#[test]
fn the_receiver_is_told_no_more_than_its_own_lease() {
    let mut tab = Tab::holding(ms(0));
    tab.beat(ms(10), &held_with(10, waiter(bob(), 100, 2000)));
    let (grant, _) = tab.delegate(ms(30));
    // 30 ms + 100 ms here; read at 10 ms.
    assert_eq!(grant.until, micros(2000 + 120 - 1));
}

#[test]
fn the_receiver_of_an_idle_lease_is_told_no_more_than_its_own() {
    let mut tab = Tab::holding(ms(0));
    tab.lit_beat(ms(10), &held(10));
    tab.participant.wanted(ms(40), &want());
    let (grant, _) = tab.delegate(ms(50));
    assert_eq!(grant.until, micros(2000 + 510 - 1));
}

#[test]
fn a_stamp_counts_from_when_it_was_first_read() {
    let mut tab = Tab::wanted();
    tab.beat(ms(200), &held_with(10, bob_at(2000)));
    // Good until 700 ms now; that stamp was read at 10 ms.
    let (grant, _) = tab.delegate(ms(200));
    assert_eq!(grant.until, micros(2000 + 690 - 1));
}

#[test]
fn a_later_stamp_counts_from_when_it_was_read() {
    let mut tab = Tab::wanted();
    tab.beat(ms(200), &held_with(10, bob_at(2150)));
    let (grant, _) = tab.delegate(ms(200));
    assert_eq!(grant.until, micros(2150 + 500 - 1));
}

#[test]
fn a_stamp_that_was_heard_is_kept_when_the_record_has_an_earlier_one() {
    let mut tab = Tab::holding(ms(0));
    tab.participant.wanted(ms(150), &want());
    tab.beat(ms(200), &held_with(10, bob_at(1900)));
    let (grant, _) = tab.delegate(ms(200));
    assert_eq!(grant.until, micros(2000 + 550 - 1));
}

#[test]
fn a_receiver_with_a_clock_far_behind_is_told_a_time_that_is_over() {
    let mut tab = Tab::holding(ms(10_000));
    tab.beat(ms(10_100), &held_with(10, bob_at(0)));
    let (grant, _) = tab.delegate(ms(10_100));
    assert_eq!(grant.until, micros(500 - 1));

    let mut late = Tab::holding(ms(10_000));
    let renewal = late.renew(ms(10_010));
    late.renewed(&renewal, ms(10_010), ms(10_400), &held_with(10, bob_at(0)));
    let release = late.release(ms(10_400));
    assert_eq!(release, Some(Release::Quit(quit(1))));
}

#[test]
fn a_head_that_was_only_heard_is_not_vouched_for() {
    let mut tab = Tab::holding(ms(0));
    tab.participant.wanted(ms(10), &want());
    assert!(!tab.delegate(ms(20)).0.vouched);
}

#[test]
fn a_head_that_was_read_in_the_record_is_vouched_for() {
    let mut tab = Tab::holding(ms(0));
    tab.participant.wanted(ms(10), &want());
    tab.beat(ms(15), &held_with(10, bob_at(2000)));
    assert!(tab.delegate(ms(20)).0.vouched);
}

#[test]
fn a_head_that_was_read_and_then_heard_is_vouched_for() {
    let mut tab = Tab::wanted();
    tab.participant.wanted(ms(20), &want());
    assert!(tab.delegate(ms(30)).0.vouched);
}

#[test]
fn another_that_was_heard_is_the_head_but_not_vouched_for() {
    let mut tab = Tab::wanted();
    let carol = Want {
        who: who("carol", 4),
        ..want()
    };
    tab.participant.wanted(ms(20), &carol);
    let (grant, _) = tab.delegate(ms(30));
    assert_eq!((grant.to, grant.vouched), (who("carol", 4), false));
}

#[test]
fn another_that_was_read_is_the_head_with_a_stamp_of_its_own() {
    let mut tab = Tab::wanted();
    let carol = waiter(who("carol", 4), LEN, 30);
    tab.beat(ms(20), &held_with(10, carol));
    let (grant, _) = tab.delegate(ms(30));
    assert_eq!((grant.to, grant.vouched), (who("carol", 4), true));
    assert_eq!(grant.until, micros(30 + 500 - 1));
}

#[test]
fn after_delegating_nothing_is_held_and_nothing_is_sent() {
    let mut tab = Tab::wanted();
    tab.delegate(ms(20));
    assert!(!tab.holds(ms(20)));
    assert_eq!(tab.participant.good_until(), None);
    assert_eq!(tab.due(ms(20)), None);
    assert_eq!(tab.due(ms(1000)), None);
    assert_eq!(tab.release(ms(20)), None);
    assert_eq!(tab.end(), None);
}

#[test]
fn after_delegating_a_late_answer_brings_nothing_back() {
    for answer in [held(10), Outcome::Refused] {
        let mut tab = Tab::wanted();
        let renewal = tab.renew(ms(15));
        tab.delegate(ms(20));
        let renewed = tab.renewed(&renewal, ms(15), ms(30), &answer);
        assert_eq!(renewed, Renewed::Stale);
        assert!(!tab.holds(ms(30)));
    }
}

#[test]
fn a_request_that_was_handed_on_is_not_named_as_ended() {
    let mut tab = Tab::wanted();
    tab.delegate(ms(20));
    let next = tab.take(ms(30));
    assert!(next.ended.is_empty());
    assert_ne!(next.who.request, 1);
}

#[test]
fn after_delegating_the_next_want_is_not_for_it() {
    let mut tab = Tab::wanted();
    tab.delegate(ms(20));
    assert_eq!(tab.participant.wanted(ms(30), &want()), Wanted::NotOurs);
}

#[test]
fn a_delegated_lease_starts_at_its_receiver() {
    let mut giver = Tab::holding(ms(0));
    giver.beat(ms(10), &held_with(10, waiter(who("me", 1), LEN, 5000)));
    let (grant, _) = giver.delegate(ms(20));
    let mut receiver = Tab::new();
    receiver.look(ms(5000), &under_token(10));
    let holding = started(receiver.granted(ms(5030), &grant));
    assert_eq!(holding.token, 11);
}

/// Whatever the offset of the clocks, and however late the answer is read.
fn remainders() -> impl Strategy<Value = (u64, u64, u64, u64, u32)> {
    (
        0..1_000_000_u64,
        0..240_u64,
        0..240_u64,
        0..240_u64,
        1..=2 * LEN,
    )
}

proptest! {
    #[test]
    fn the_receiver_never_believes_for_longer_than_the_sender_did(
        (offset, stamped, sent, late, len) in remainders(), idle in any::<bool>(),
        said_again in any::<bool>(),
    ) {
        // The sender's clock is the true one and starts at 1000 s; the receiver's is behind or ahead.
        let real = |time: u64| ms(1_000_000 + time);
        let theirs = |time: u64| 500_000 + offset + time;
        let mut tab = Tab::holding(real(0));
        let read = stamped + late;
        let sent = sent.min(read);
        let renewal = tab.renew_with(real(sent), idle);
        let head = waiter(bob(), len, theirs(stamped));
        let told = tab.renewed(&renewal, real(sent), real(read), &held_with(10, head));
        prop_assert!(matches!(told, Renewed::Until(_)));
        let mut good_until = tab.good_until() + MARGIN;
        let mut now = read;
        if said_again {
            now += late;
            let again = Want { len, at: micros(theirs(stamped)), ..want() };
            prop_assert_eq!(tab.participant.wanted(real(now), &again), Wanted::ByHead);
        }
        good_until = good_until.min(real(now) + ms(len.into()));
        if let Some(Release::Delegate(grant, _)) = tab.release(real(now)) {
            let believed = Duration::from_micros(grant.until);
            let allowed = ms(theirs(0)) + (good_until - real(0)) - MARGIN / 2;
            prop_assert!(believed <= allowed, "{believed:?} > {allowed:?}");
        }
    }

    #[test]
    fn what_the_store_grants_is_never_told_for_longer_than_the_record_has_it(
        (offset, stamped, sent, late, len) in remainders(),
    ) {
        let mut tab = Tab::holding(ms(0));
        let quit = tab.end().unwrap();
        let read = sent.max(stamped) + late;
        let granted = Granted {
            epoch: 1,
            token: 12,
            to: waiter(bob(), len, offset + stamped),
        };
        let outcome = Outcome::Gone { granted: Some(granted) };
        let grant = tab.gone(&quit, ms(sent), ms(read), &outcome).unwrap();
        let allowed = ms(offset + sent) + ms(len.into()) - MARGIN / 2;
        prop_assert!(Duration::from_micros(grant.until) <= allowed);
    }
}

// ---- Handing over by the store ------------------------------------------------------------------

fn gone_to(who: Requester, token: u64) -> Outcome {
    let granted = Granted {
        epoch: 1,
        token,
        to: waiter(who, 600, 2000),
    };
    Outcome::Gone {
        granted: Some(granted),
    }
}

#[test]
fn whoever_is_granted_the_lock_by_a_quit_is_told() {
    let mut tab = Tab::holding(ms(0));
    let quit = tab.end().unwrap();
    let told = Grant {
        epoch: 1,
        from: who("me", 1),
        to: bob(),
        token: 12,
        // Sent at 100 ms for 600 ms; the stamp was read at 130 ms.
        until: micros(2000 + 570 - 1),
        vouched: true,
        granted: true,
    };
    let grant = tab.gone(&quit, ms(100), ms(130), &gone_to(bob(), 12));
    assert_eq!(grant, Some(told));
}

#[test]
fn whoever_is_granted_the_lock_by_a_pass_is_told() {
    let mut tab = Tab::wanted();
    let (_, pass) = tab.delegate(ms(20));
    let told = Grant {
        epoch: 1,
        from: who("me", 1),
        to: who("carol", 4),
        token: 12,
        until: micros(2000 + 570 - 1),
        vouched: true,
        granted: true,
    };
    let outcome = gone_to(who("carol", 4), 12);
    assert_eq!(tab.gone(&pass, ms(100), ms(130), &outcome), Some(told));
}

#[test]
fn nobody_is_told_where_nobody_was_granted_anything() {
    let mut tab = Tab::wanted();
    let (_, pass) = tab.delegate(ms(20));
    let nobody = Outcome::Gone { granted: None };
    assert_eq!(tab.gone(&pass, ms(100), ms(130), &nobody), None);
    assert_eq!(tab.gone(&quit(1), ms(100), ms(130), &nobody), None);
    let refused = Outcome::Refused;
    assert_eq!(tab.gone(&quit(1), ms(100), ms(130), &refused), None);
}

#[test]
fn nobody_is_told_by_the_answer_to_another_command() {
    let mut tab = Tab::holding(ms(0));
    let renewal = tab.renew(ms(10));
    let grant = tab.gone(&renewal, ms(10), ms(11), &gone_to(bob(), 12));
    assert_eq!(grant, None);
}

#[test]
fn a_lease_that_the_store_granted_starts_at_its_receiver() {
    let mut giver = Tab::holding(ms(0));
    let quit = giver.end().unwrap();
    let outcome = gone_to(who("me", 1), 22);
    let grant = giver.gone(&quit, ms(10), ms(11), &outcome).unwrap();
    let mut receiver = Tab::waiting();
    assert_eq!(started(receiver.granted(ms(2000), &grant)).token, 22);
}

// ---- Whether a pass is still due ----------------------------------------------------------------

#[test]
fn a_delegation_must_be_passed_until_something_newer_is_heard() {
    let mut tab = Tab::wanted();
    let (grant, _) = tab.delegate(ms(20));
    assert!(tab.past.must_pass(&grant));
}

#[test]
fn an_answer_that_shows_the_claim_makes_the_pass_needless() {
    for (token, needless) in [(10, false), (11, true), (12, true)] {
        let mut tab = Tab::wanted();
        let (grant, _) = tab.delegate(ms(20));
        tab.look(ms(30), &under_token(token));
        assert_eq!(!tab.past.must_pass(&grant), needless, "{token}");
    }
}

#[test]
fn a_lease_of_our_own_makes_the_pass_needless() {
    let mut tab = Tab::wanted();
    let (grant, _) = tab.delegate(ms(20));
    tab.begin(ms(30), &held_after(1, 13, Some(("bob", 11))));
    assert!(!tab.past.must_pass(&grant));
}

#[test]
fn a_later_hand_over_to_anybody_makes_the_pass_needless() {
    for (later, needless) in [
        (
            Grant {
                token: 12,
                to: who("carol", 4),
                ..grant()
            },
            true,
        ),
        (
            Grant {
                token: 13,
                to: who("carol", 4),
                ..by_store()
            },
            true,
        ),
        // That one may be in the place of the lease that was delegated.
        (
            Grant {
                token: 12,
                to: who("carol", 4),
                ..by_store()
            },
            false,
        ),
        (
            Grant {
                epoch: 2,
                token: 15,
                ..grant()
            },
            false,
        ),
    ] {
        let mut tab = Tab::wanted();
        let (grant, _) = tab.delegate(ms(20));
        tab.granted(ms(30), &later);
        assert_eq!(!tab.past.must_pass(&grant), needless, "{later:?}");
    }
}

#[test]
fn a_pass_that_was_applied_makes_another_needless() {
    let mut tab = Tab::wanted();
    let (grant, pass) = tab.delegate(ms(20));
    tab.gone(&pass, ms(30), ms(31), &gone_to(bob(), 11));
    assert!(!tab.past.must_pass(&grant));
}

#[test]
fn a_new_incarnation_makes_the_pass_needless() {
    let mut tab = Tab::wanted();
    let (grant, _) = tab.delegate(ms(20));
    tab.begin(ms(30), &held_after(2, 5, None));
    assert!(!tab.past.must_pass(&grant));
}

// ---- Starting by a message ----------------------------------------------------------------------

#[test]
fn a_vouched_message_starts_the_lease_at_once() {
    let mut tab = Tab::waiting();
    let holding = started(tab.granted(ms(100), &grant()));
    assert_eq!((holding.epoch, holding.token), (1, 21));
    assert_eq!(holding.until, ms(400));
    assert_eq!(tab.participant.holding(ms(100)), Some(holding));
    assert!(tab.participant.is_unclaimed());
}

#[test]
fn a_lease_by_a_message_is_good_until_the_time_it_was_told_less_the_margin() {
    let tab = Tab::started();
    assert_eq!(tab.good_until(), ms(398));
    assert!(tab.holds(ms(397)));
    assert!(!tab.holds(ms(398)));
}

#[test]
fn a_message_of_what_the_store_has_granted_starts_at_once() {
    let unvouched = Grant {
        vouched: false,
        ..by_store()
    };
    for grant in [by_store(), unvouched] {
        let holding = started(Tab::waiting().granted(ms(100), &grant));
        assert_eq!(holding.token, 22);
    }
}

#[test]
fn a_vouched_or_granted_message_starts_whatever_was_seen_last() {
    for seen in [
        under_token(14),
        behind(&[("other", false), ("bob", false)]),
        Outcome::Waiting(Waiting {
            queued: false,
            ..look(4, LEN)
        }),
    ] {
        for grant in [grant(), by_store()] {
            let mut tab = Tab::new();
            tab.look(ms(0), &seen);
            started(tab.granted(ms(100), &grant));
        }
    }
}

#[test]
fn a_message_that_is_not_vouched_starts_at_whoever_has_seen_itself_at_the_head() {
    let holding = started(Tab::waiting().granted(ms(100), &not_vouched()));
    assert_eq!(holding.token, 21);
}

#[test]
fn a_message_that_is_not_vouched_is_asked_about_by_whoever_has_not() {
    for seen in [
        under_token(18),
        under_token(19),
        under_token(21),
        behind(&[("other", false), ("bob", false)]),
        Outcome::Waiting(Waiting {
            queued: false,
            ..look(4, LEN)
        }),
    ] {
        let mut tab = Tab::new();
        tab.look(ms(0), &seen);
        let heard = tab.granted(ms(100), &not_vouched());
        assert_eq!(heard, Heard::Ask, "{seen:?}");
        assert!(!tab.holds(ms(100)));
    }
}

#[test]
fn a_place_in_the_queue_that_an_earlier_request_had_does_not_count() {
    let mut tab = Tab::waiting();
    tab.end();
    tab.ask(ms(10), true);
    let to = who("me", 2);
    let grant = Grant {
        to,
        ..not_vouched()
    };
    assert_eq!(tab.granted(ms(100), &grant), Heard::Ask);
}

#[test]
fn a_message_is_asked_about_while_no_epoch_is_known() {
    for grant in [grant(), not_vouched(), by_store()] {
        let mut tab = Tab::new();
        tab.ask(ms(0), true);
        assert_eq!(tab.granted(ms(100), &grant), Heard::Ask);
        assert!(!tab.holds(ms(100)));
    }
}

#[test]
fn a_message_of_another_epoch_is_ignored() {
    for grant in [grant(), not_vouched(), by_store()] {
        let mut tab = Tab::waiting();
        let of_another = Grant { epoch: 2, ..grant };
        assert_eq!(tab.granted(ms(100), &of_another), Heard::Ignored);
        assert_eq!(tab.take(ms(101)).proof, Proof::None);
    }
}

#[test]
fn a_message_whose_time_is_over_is_asked_about() {
    for (now, over) in [(397, false), (398, true), (400, true), (9000, true)] {
        for grant in [grant(), not_vouched(), by_store()] {
            let heard = Tab::waiting().granted(ms(now), &grant);
            assert_eq!(heard == Heard::Ask, over, "{now}");
        }
    }
}

#[test]
fn a_message_is_asked_about_while_an_own_takeover_is_unanswered() {
    for grant in [grant(), not_vouched(), by_store()] {
        let in_time = Grant {
            until: micros(900),
            ..grant
        };
        let mut observer = Tab::waiting();
        let takeover = observer.ask(ms(500), true);
        assert!(matches!(takeover.proof, Proof::Unchanged(_)));
        assert_eq!(observer.granted(ms(510), &in_time), Heard::Ask);

        let mut heir = Tab::waiting();
        heir.participant.died("other");
        let takeover = heir.ask(ms(100), true);
        assert!(matches!(takeover.proof, Proof::Dead(_)));
        assert_eq!(heir.granted(ms(110), &in_time), Heard::Ask);
    }
}

#[test]
fn a_message_starts_while_any_other_take_is_unanswered() {
    let mut tab = Tab::waiting();
    tab.ask(ms(50), true);
    started(tab.granted(ms(100), &grant()));
}

#[test]
fn a_message_starts_once_the_takeover_was_answered() {
    let mut tab = Tab::waiting();
    tab.participant.died("other");
    let takeover = tab.ask(ms(50), true);
    tab.answer(&takeover, ms(60), &waiting(5, LEN));
    started(tab.granted(ms(100), &grant()));
}

/// It may have been applied all the same: the lease would run as one token, the record say another.
#[test]
fn a_message_is_asked_about_after_a_takeover_that_failed() {
    let mut tab = Tab::waiting();
    tab.participant.died("other");
    let takeover = tab.ask(ms(50), true);
    tab.participant.failed(&takeover);
    assert_eq!(tab.granted(ms(100), &grant()), Heard::Ask);
}

#[test]
fn a_store_that_fails_for_long_does_no_harm() {
    let mut tab = Tab::waiting();
    tab.participant.died("other");
    for _ in 0..1000 {
        let takeover = tab.ask(ms(50), true);
        tab.participant.failed(&takeover);
    }
    let take = tab.ask(ms(60), true);
    let taken = tab.answer(&take, ms(70), &held(22));
    assert!(matches!(taken, Taken::Held(_)));
}

#[test]
fn a_message_to_nobody_who_asks_here_is_ignored() {
    assert_eq!(Tab::new().granted(ms(100), &grant()), Heard::Ignored);
    for to in [who("me", 2), who("bob", 1)] {
        let misdirected = Grant { to, ..grant() };
        let heard = Tab::waiting().granted(ms(100), &misdirected);
        assert_eq!(heard, Heard::Ignored);
    }
}

#[test]
fn a_message_to_a_request_that_gave_up_is_ignored() {
    let mut tab = Tab::waiting();
    tab.end();
    assert_eq!(tab.granted(ms(100), &grant()), Heard::Ignored);
    tab.ask(ms(110), true);
    assert_eq!(tab.granted(ms(120), &grant()), Heard::Ignored);
}

#[test]
fn a_request_that_has_started_ignores_every_further_message() {
    let later = Grant {
        token: 23,
        until: micros(9000),
        ..grant()
    };
    for again in [grant(), by_store(), later] {
        let mut by_message = Tab::started();
        assert_eq!(by_message.granted(ms(110), &again), Heard::Ignored);
        assert_eq!(by_message.good_until(), ms(398));

        let mut by_answer = Tab::holding(ms(0));
        assert_eq!(by_answer.granted(ms(110), &again), Heard::Ignored);
        assert_eq!(by_answer.good_until(), ms(498));
    }
}

#[test]
fn a_request_that_has_ended_its_lease_does_not_start_again() {
    let mut lost = Tab::started();
    lost.beat(ms(110), &Outcome::Refused);
    assert_eq!(lost.granted(ms(120), &grant()), Heard::Ignored);

    let mut released = Tab::started();
    released.release(ms(110));
    assert_eq!(released.granted(ms(120), &grant()), Heard::Ignored);
}

#[test]
fn whoever_started_by_a_message_observes_nothing_any_more() {
    let tab = Tab::started();
    assert_eq!(tab.participant.ripe_in(ms(110)), None);
    assert_eq!(tab.participant.look_in(ms(110), true, false), None);
    assert_eq!(tab.participant.suspect(), None);
}

// ---- A message that could not be started on -----------------------------------------------------

/// Has seen an older holder last, and been told of a lease by a message that is not vouched.
fn undecided() -> Tab {
    let mut tab = Tab::new();
    tab.look(ms(0), &under_token(18));
    assert_eq!(tab.granted(ms(100), &not_vouched()), Heard::Ask);
    tab
}

#[test]
fn whoever_has_to_ask_about_a_message_asks_at_once_and_names_the_giver() {
    let mut tab = undecided();
    assert_eq!(tab.participant.ripe_in(ms(100)), Some(ms(0)));
    assert_eq!(tab.participant.look_in(ms(100), true, false), Some(ms(0)));
    let proof = Proof::Delegated {
        token: 20,
        from: other(),
    };
    assert_eq!(tab.take(ms(101)).proof, proof);
}

#[test]
fn a_message_that_was_asked_about_starts_by_the_answer() {
    let mut tab = undecided();
    let take = tab.ask(ms(101), true);
    let outcome = held_after(1, 21, Some(("other", 20)));
    let Taken::Held(holding) = tab.answer(&take, ms(102), &outcome) else {
        panic!("it is ours");
    };
    assert_eq!((holding.token, holding.until), (21, ms(601)));
    assert!(!tab.participant.is_unclaimed());
}

#[test]
fn a_message_starts_on_an_answer_that_shows_this_tab_at_the_head() {
    let mut tab = Tab::new();
    tab.look(ms(0), &under_token(18));
    let poll = tab.ask(ms(90), true);
    assert_eq!(tab.granted(ms(100), &not_vouched()), Heard::Ask);
    let Taken::Held(holding) = tab.answer(&poll, ms(110), &waiting(4, LEN)) else {
        panic!("it was at the head");
    };
    assert_eq!((holding.token, holding.until), (21, ms(400)));
    assert!(tab.participant.is_unclaimed());
    assert!(is_claim(&tab.renew(ms(110))));
}

#[test]
fn a_message_starts_on_the_answer_that_tells_the_epoch() {
    let mut tab = Tab::new();
    let poll = tab.ask(ms(90), true);
    assert_eq!(tab.granted(ms(100), &grant()), Heard::Ask);
    let taken = tab.answer(&poll, ms(110), &under_token(18));
    assert!(matches!(taken, Taken::Held(holding) if holding.token == 21));
}

#[test]
fn a_message_starts_on_the_answer_to_the_takeover_that_was_under_way() {
    let mut tab = Tab::waiting();
    tab.participant.died("other");
    let takeover = tab.ask(ms(50), true);
    assert_eq!(tab.granted(ms(100), &grant()), Heard::Ask);
    let taken = tab.answer(&takeover, ms(110), &waiting(5, LEN));
    assert!(matches!(taken, Taken::Held(holding) if holding.token == 21));
}

#[test]
fn a_takeover_that_was_under_way_and_succeeded_is_the_lease() {
    let mut tab = Tab::waiting();
    tab.participant.died("other");
    let takeover = tab.ask(ms(50), true);
    assert_eq!(tab.granted(ms(100), &grant()), Heard::Ask);
    let taken = tab.answer(&takeover, ms(110), &held_after(1, 22, Some(("other", 20))));
    assert!(matches!(taken, Taken::Held(holding) if holding.token == 22));
    assert!(!tab.participant.is_unclaimed());
}

#[test]
fn an_answer_that_does_not_decide_leaves_the_message_to_be_asked_about() {
    let mut tab = Tab::new();
    tab.look(ms(0), &under_token(18));
    let poll = tab.ask(ms(90), true);
    tab.granted(ms(100), &not_vouched());
    let taken = tab.answer(&poll, ms(110), &under_token(18));
    assert_eq!(taken, Taken::Busy);
    let proof = tab.take(ms(111)).proof;
    assert!(matches!(proof, Proof::Delegated { token: 20, .. }));
}

#[test]
fn an_answer_that_came_when_the_time_was_over_does_not_start_it() {
    let mut tab = Tab::new();
    tab.look(ms(0), &under_token(18));
    let poll = tab.ask(ms(90), true);
    tab.granted(ms(100), &not_vouched());
    assert_eq!(tab.answer(&poll, ms(398), &waiting(4, LEN)), Taken::Busy);
    let proof = tab.take(ms(399)).proof;
    assert!(matches!(proof, Proof::Delegated { token: 20, .. }));
}

#[test]
fn an_answer_of_another_epoch_forgets_the_message() {
    let mut tab = Tab::new();
    let poll = tab.ask(ms(90), true);
    tab.granted(ms(100), &grant());
    let mut elsewhere = look(4, LEN);
    elsewhere.sighting.epoch = 2;
    let taken = tab.answer(&poll, ms(110), &Outcome::Waiting(elsewhere));
    assert_eq!(taken, Taken::Busy);
    assert_eq!(tab.take(ms(111)).proof, Proof::None);
}

#[test]
fn an_answer_that_knew_of_the_message_and_says_wait_has_decided() {
    let mut tab = undecided();
    let take = tab.ask(ms(101), true);
    assert_eq!(tab.answer(&take, ms(102), &waiting(4, LEN)), Taken::Busy);
    assert_eq!(tab.take(ms(103)).proof, Proof::None);
}

#[test]
fn a_request_that_gives_up_forgets_the_message() {
    let mut tab = undecided();
    assert_eq!(tab.end(), Some(quit(1)));
    assert_eq!(tab.take(ms(110)).proof, Proof::None);
}

// ---- Claiming -----------------------------------------------------------------------------------

#[test]
fn a_claim_is_due_before_anything_else() {
    let mut tab = Tab::started();
    let claim = Command::Claim {
        who: who("me", 1),
        token: 21,
        from: other(),
        len: LEN,
        beacon: true,
        wall: WALL,
    };
    assert_eq!(tab.renew_with(ms(101), true), claim);
}

#[test]
fn a_claim_is_due_again_until_it_is_answered() {
    let mut tab = Tab::started();
    for now in [101, 120, 397] {
        assert!(is_claim(&tab.renew(ms(now))), "{now}");
    }
}

#[test]
fn a_claim_of_an_idle_tab_is_for_the_usual_length() {
    let mut tab = Tab::started();
    assert_eq!(len_of(&tab.renew_with(ms(101), true)), LEN);
    assert_eq!(tab.participant.long(), None);
}

#[test]
fn an_answered_claim_is_counted_from_before_it_was_sent() {
    let mut tab = Tab::started();
    let claim = tab.renew(ms(101));
    let renewed = tab.renewed(&claim, ms(101), ms(150), &held(21));
    assert_eq!(renewed, Renewed::Until(ms(599)));
    assert!(!tab.participant.is_unclaimed());
}

#[test]
fn renewals_follow_the_answered_claim() {
    let mut tab = Tab::started();
    tab.beat(ms(101), &held(21));
    let renewal = tab.renew(ms(150));
    assert!(matches!(renewal, Command::Renew { token: 21, .. }));
}

#[test]
fn a_refused_claim_is_a_loss() {
    let mut tab = Tab::started();
    let renewed = tab.beat(ms(101), &Outcome::Refused);
    assert_eq!(renewed, Renewed::Lost(quit(1)));
    assert!(!tab.holds(ms(101)));
    assert_eq!(tab.due(ms(101)), None);
}

#[test]
fn a_lease_that_ran_out_before_its_claim_was_answered_is_lost() {
    let mut tab = Tab::started();
    let claim = tab.renew(ms(101));
    assert_eq!(tab.due(ms(398)), Some(Due::Expired(quit(1))));
    let renewed = tab.renewed(&claim, ms(101), ms(399), &held(21));
    assert_eq!(renewed, Renewed::Stale);
}

#[test]
fn a_claim_answered_after_the_lease_is_late() {
    let mut tab = Tab::started();
    let claim = tab.renew(ms(101));
    let renewed = tab.renewed(&claim, ms(101), ms(398), &held(21));
    assert_eq!(renewed, Renewed::Late(quit(1)));
}

#[test]
fn a_lease_that_began_by_an_answer_needs_no_claim() {
    let mut tab = Tab::holding(ms(0));
    assert!(!tab.participant.is_unclaimed());
    assert!(!is_claim(&tab.renew(ms(10))));
}

#[test]
fn a_tab_that_once_claimed_claims_nothing_of_its_next_lease() {
    let mut tab = Tab::started();
    tab.end();
    tab.begin(ms(200), &held_after(1, 24, None));
    assert!(!is_claim(&tab.renew(ms(210))));
}

// ---- An answer to a take that comes after the start ---------------------------------------------

/// As [`Tab::started`], with a take that was sent at 50 ms and is not answered.
fn started_with_a_take_under_way() -> (Tab, Take) {
    let mut tab = Tab::waiting();
    let take = tab.ask(ms(50), true);
    started(tab.granted(ms(100), &grant()));
    (tab, take)
}

#[test]
fn a_take_that_found_the_lease_of_the_message_confirms_it() {
    let (mut tab, take) = started_with_a_take_under_way();
    assert_eq!(tab.answer(&take, ms(110), &held(21)), Taken::Confirmed);
    assert_eq!(tab.good_until(), ms(548));
    assert!(!tab.participant.is_unclaimed());
    assert!(!is_claim(&tab.renew(ms(120))));
}

#[test]
fn a_take_that_confirms_tells_who_waits() {
    let (mut tab, take) = started_with_a_take_under_way();
    tab.answer(&take, ms(110), &held_with(21, bob_at(0)));
    let (grant, _) = tab.delegate(ms(120));
    assert_eq!((grant.to, grant.vouched), (bob(), true));
}

#[test]
fn a_take_that_found_an_earlier_lease_is_stale() {
    let (mut tab, take) = started_with_a_take_under_way();
    assert_eq!(tab.answer(&take, ms(110), &held(20)), Taken::Stale);
    assert!(tab.holds(ms(110)));
    assert!(tab.participant.is_unclaimed());
}

#[test]
fn a_take_that_found_a_later_lease_is_a_loss() {
    let (mut tab, take) = started_with_a_take_under_way();
    let taken = tab.answer(&take, ms(110), &held(22));
    assert_eq!(taken, Taken::Lost(quit(1)));
    assert!(!tab.holds(ms(110)));
    assert_eq!(tab.due(ms(110)), None);
}

#[test]
fn a_take_that_was_told_to_wait_says_nothing_of_the_lease_that_has_started() {
    let (mut tab, take) = started_with_a_take_under_way();
    let taken = tab.answer(&take, ms(110), &waiting(5, LEN));
    assert_eq!(taken, Taken::Stale);
    assert!(tab.holds(ms(110)));
    assert_eq!(tab.participant.ripe_in(ms(110)), None);
}

// ---- When an observer may take over -------------------------------------------------------------

#[test]
fn an_observation_runs_from_the_answer_for_the_whole_recorded_lease_and_not_a_tick_less() {
    let mut tab = Tab::new();
    // The answer took 300 ms; the record's lease is longer than its own.
    let take = tab.ask(ms(0), true);
    assert_eq!(tab.answer(&take, ms(300), &waiting(4, 700)), Taken::Busy);
    assert_eq!(tab.participant.ripe_in(ms(300)), Some(ms(700)));
    assert_eq!(tab.participant.ripe_in(ms(999)), Some(ms(1)));
    let a_tick_less = ms(1000) - Duration::from_nanos(1);
    assert_eq!(tab.take(a_tick_less).proof, Proof::None);
    let proof = Proof::Unchanged(sighting(4));
    assert_eq!(tab.take(ms(1000)).proof, proof);
    assert_eq!(tab.participant.ripe_in(ms(1100)), Some(ms(0)));
}

#[test]
fn seeing_the_same_again_does_not_restart_the_observation() {
    let mut tab = Tab::new();
    for now in [0, 100, 499] {
        tab.look(ms(now), &waiting(4, LEN));
    }
    assert_eq!(tab.take(ms(500)).proof, Proof::Unchanged(sighting(4)));
}

#[test]
fn a_sighting_that_moved_restarts_the_observation() {
    let moved = |change: fn(&mut Sighting)| {
        let mut waiting = look(4, LEN);
        change(&mut waiting.sighting);
        waiting
    };
    for (now_seen, what) in [
        (moved(|seen| seen.count += 1), "count"),
        (moved(|seen| seen.token += 2), "token"),
        (moved(|seen| seen.epoch += 1), "epoch"),
        (moved(|seen| seen.count = 0), "count, backwards"),
    ] {
        let mut tab = Tab::waiting();
        let take = tab.ask(ms(400), true);
        tab.answer(&take, ms(410), &Outcome::Waiting(now_seen.clone()));
        assert_eq!(tab.take(ms(909)).proof, Proof::None, "{what}");
        let proof = Proof::Unchanged(now_seen.sighting);
        assert_eq!(tab.take(ms(910)).proof, proof, "{what}");
    }
}

#[test]
fn an_idle_lease_is_observed_for_its_length() {
    let mut tab = Tab::new();
    tab.look(ms(0), &waiting(4, IDLE));
    assert_eq!(tab.participant.ripe_in(ms(500)), Some(ms(4500)));
}

#[test]
fn what_was_observed_outlives_the_caller_but_not_the_taking() {
    let mut tab = Tab::waiting();
    tab.end();
    assert_eq!(tab.take(ms(500)).proof, Proof::Unchanged(sighting(4)));
    tab.end();
    tab.begin(ms(500), &held(22));
    tab.end();
    assert_eq!(tab.take(ms(2000)).proof, Proof::None);
}

#[test]
fn a_late_take_forgets_what_was_observed() {
    let mut tab = Tab::waiting();
    let take = tab.take(ms(100));
    assert_eq!(tab.answer(&take, ms(700), &held(22)), Taken::Late);
    assert_eq!(tab.take(ms(701)).proof, Proof::None);
}

#[test]
fn a_living_holder_is_never_proved_dead() {
    let mut holder = Tab::new();
    let mut observer = Tab::new();
    observer.participant = Participant::new("observer".to_owned(), LENS, MARGIN);
    let mut record = None;
    let mut send = |command: &Command| {
        let (write, outcome) = rules::apply(record.as_ref(), command);
        record = write.or(record.take());
        outcome
    };
    let answer = send(&Command::Take(holder.take(ms(0))));
    let take = holder.take(ms(0));
    assert!(matches!(
        holder.answer(&take, ms(0), &answer),
        Taken::Held(_)
    ));
    // It renews as late as it may; the observer asks every ms.
    for now in 1..5000 {
        if now % 497 == 0 {
            let renewal = holder.renew(ms(now));
            let answer = send(&renewal);
            let renewed = holder.renewed(&renewal, ms(now), ms(now), &answer);
            assert!(matches!(renewed, Renewed::Until(_)), "{now}");
        }
        let take = observer.ask(ms(now), true);
        let answer = send(&Command::Take(take.clone()));
        assert_eq!(observer.answer(&take, ms(now), &answer), Taken::Busy);
    }
}

// ---- Beacons ------------------------------------------------------------------------------------

#[test]
fn the_first_of_those_before_with_a_beacon_is_the_suspect() {
    for (before, suspect) in [
        (&[("other", true)][..], Some("other")),
        (&[("other", false)], None),
        (&[("other", true), ("bob", true)], Some("other")),
        (&[("other", true), ("bob", false)], Some("other")),
        (&[("other", false), ("bob", true)], None),
        // Another lock of this tab.
        (&[("me", true)], None),
    ] {
        let mut tab = Tab::new();
        tab.look(ms(0), &behind(before));
        assert_eq!(tab.participant.suspect(), suspect, "{before:?}");
    }
}

#[test]
fn after_the_first_has_died_the_next_is_the_suspect() {
    for (next, suspect) in [(("bob", true), Some("bob")), (("bob", false), None)] {
        let mut tab = Tab::new();
        tab.look(ms(0), &behind(&[("other", true), next]));
        tab.participant.died("other");
        assert_eq!(tab.participant.suspect(), suspect);
    }
}

#[test]
fn a_death_further_ahead_leaves_the_first_the_suspect() {
    let mut tab = Tab::new();
    tab.look(ms(0), &behind(&[("other", true), ("bob", true)]));
    tab.participant.died("bob");
    assert_eq!(tab.participant.suspect(), Some("other"));
    assert_eq!(tab.take(ms(10)).proof, Proof::None);
}

#[test]
fn the_lease_is_taken_over_when_all_before_have_died_in_whatever_order() {
    for [first, second] in [["other", "bob"], ["bob", "other"]] {
        let mut tab = Tab::new();
        tab.look(ms(0), &behind(&[("other", true), ("bob", true)]));
        tab.participant.died(first);
        assert_eq!(tab.participant.ripe_in(ms(10)), Some(ms(490)));
        assert_eq!(tab.take(ms(10)).proof, Proof::None);

        tab.participant.died(second);
        assert_eq!(tab.participant.suspect(), None);
        assert_eq!(tab.participant.ripe_in(ms(10)), Some(ms(0)));
        assert_eq!(tab.participant.look_in(ms(10), true, false), Some(ms(0)));
        let proof = Proof::Dead(vec![first.to_owned(), second.to_owned()]);
        assert_eq!(tab.take(ms(10)).proof, proof);
    }
}

#[test]
fn a_death_that_is_reported_twice_is_one() {
    let mut tab = Tab::waiting();
    tab.participant.died("other");
    tab.participant.died("other");
    assert_eq!(
        tab.take(ms(10)).proof,
        Proof::Dead(vec!["other".to_owned()])
    );
}

#[test]
fn the_death_of_somebody_else_proves_nothing() {
    let mut tab = Tab::waiting();
    tab.participant.died("bob");
    assert_eq!(tab.take(ms(10)).proof, Proof::None);
}

#[test]
fn a_living_tab_that_has_the_lease_now_is_not_taken_for_the_dead_one() {
    let mut tab = Tab::waiting();
    tab.participant.died("other");
    tab.look(ms(10), &behind(&[("bob", true)]));
    assert_eq!(tab.participant.suspect(), Some("bob"));
    assert_eq!(tab.take(ms(20)).proof, Proof::None);
}

#[test]
fn a_death_proves_nothing_before_the_record_was_seen() {
    let mut tab = Tab::new();
    tab.participant.died("other");
    assert_eq!(tab.take(ms(10)).proof, Proof::None);
}

/// A page that was only hidden comes back with its name.
#[test]
fn a_death_is_forgotten_when_a_lease_begins() {
    let mut tab = Tab::new();
    tab.look(ms(0), &behind(&[("other", true)]));
    tab.participant.died("other");
    tab.begin(ms(10), &held(22));
    tab.end();
    tab.look(ms(20), &behind(&[("other", true)]));
    assert_eq!(tab.participant.suspect(), Some("other"));
    assert_eq!(tab.take(ms(30)).proof, Proof::None);
}

#[test]
fn a_message_goes_before_a_death() {
    let mut tab = undecided();
    tab.participant.died("other");
    assert!(matches!(tab.take(ms(101)).proof, Proof::Delegated { .. }));
}

#[test]
fn a_take_says_whether_the_beacon_is_lit() {
    for beacon in [true, false] {
        let mut tab = Tab::new();
        let ask = Ask {
            request: 1,
            join: true,
            beacon,
            fresh_epoch: 99,
            wall: WALL,
        };
        let take = tab.participant.take(&tab.past, ms(0), ask);
        assert_eq!(take.beacon, beacon);
    }
}

// ---- How often a waiter looks -------------------------------------------------------------------

#[test]
fn the_first_in_the_queue_looks_twenty_times_in_a_lease_or_four_with_a_beacon() {
    for (lit, pace) in [(false, 25), (true, 125)] {
        let mut tab = Tab::new();
        tab.look(ms(0), &behind(&[("other", lit)]));
        assert_eq!(tab.participant.look_in(ms(0), lit, false), Some(ms(pace)));
        assert_eq!(
            tab.participant.look_in(ms(0), false, false),
            Some(ms(25)),
            "its end would not be told"
        );
    }
}

#[test]
fn those_behind_look_less_often() {
    for (lit, pace) in [(false, 75), (true, 375)] {
        let mut tab = Tab::new();
        tab.look(
            ms(0),
            &behind(&[("other", lit), ("bob", lit), ("eve", lit)]),
        );
        assert_eq!(tab.participant.look_in(ms(0), lit, false), Some(ms(pace)));
    }
}

#[test]
fn those_behind_look_once_a_lease_where_messages_tell_the_rest() {
    for lit in [false, true] {
        let mut tab = Tab::new();
        tab.look(ms(0), &behind(&[("other", lit), ("bob", lit)]));
        assert!(!tab.participant.is_next());
        assert_eq!(tab.participant.look_in(ms(0), lit, true), Some(ms(500)));
        assert_eq!(tab.participant.look_in(ms(480), lit, true), Some(ms(20)));
    }
    let mut tab = Tab::new();
    let long = Waiting {
        before: vec![("other".to_owned(), true), ("bob".to_owned(), true)],
        ..look(4, IDLE)
    };
    tab.look(ms(0), &Outcome::Waiting(long));
    let pace = tab.participant.look_in(ms(0), true, true);
    assert_eq!(pace, Some(ms(500)), "it may have become shorter meanwhile");
}

#[test]
fn whoever_hears_that_those_ahead_had_it_is_next() {
    let mut tab = Tab::new();
    tab.look(
        ms(0),
        &behind(&[("other", true), ("bob", true), ("eve", true)]),
    );
    for next in [false, true] {
        tab.granted(ms(10), &moving_on());
        assert_eq!(tab.participant.is_next(), next);
    }
    assert_eq!(tab.participant.look_in(ms(10), false, true), Some(ms(25)));
    tab.look(ms(20), &behind(&[("bob", true), ("eve", true)]));
    assert!(!tab.participant.is_next(), "the record says so");
}

#[test]
fn whoever_stands_in_the_queue_and_has_nothing_new_to_say_only_reads() {
    let ask = Ask {
        request: 9,
        join: true,
        beacon: false,
        fresh_epoch: 99,
        wall: WALL,
    };
    let reads = |tab: &Tab, now| tab.participant.look(&tab.past, now, ask);
    let tab = Tab::new();
    assert_eq!(reads(&tab, ms(0)), None, "it does not stand there");
    let mut tab = Tab::waiting();
    let take = reads(&tab, ms(200)).expect("nothing is new");
    assert_eq!((take.proof, take.at), (Proof::None, 200_000));
    let take = reads(&tab, ms(900)).expect("what is ripe is looked at first");
    assert!(matches!(take.proof, Proof::Unchanged(_)));
    tab.participant.hide(true);
    assert_eq!(reads(&tab, ms(200)), None, "it wants another length");
    tab.participant.hide(false);
    tab.granted(ms(210), &moving_on());
    assert_eq!(
        reads(&tab, ms(220)),
        None,
        "its stamp is for the next holder"
    );
    let mut tab = Tab::waiting();
    tab.participant.died("other");
    assert_eq!(reads(&tab, ms(220)), None, "it takes over");
}

#[test]
fn a_look_is_heard_as_the_answer_to_a_take_is() {
    let mut tab = Tab::waiting();
    let ask = Ask {
        request: 9,
        join: true,
        beacon: false,
        fresh_epoch: 99,
        wall: WALL,
    };
    let take = tab.participant.look(&tab.past, ms(300), ask).unwrap();
    let seen = look(5, LEN);
    let Tab {
        participant, past, ..
    } = &mut tab;
    let looked = participant.looked(past, &take, ms(300), ms(310), &seen);
    assert_eq!(looked, Taken::Busy);
    assert_eq!(
        participant.ripe_in(ms(310)),
        Some(ms(500)),
        "it was renewed"
    );
    participant.end(past);
    let looked = participant.looked(past, &take, ms(300), ms(320), &seen);
    assert_eq!(looked, Taken::Stale);
}

#[test]
fn a_waiter_paces_itself_by_the_lease_in_the_record() {
    let mut tab = Tab::new();
    tab.look(ms(0), &waiting(4, IDLE));
    assert_eq!(tab.participant.look_in(ms(0), false, false), Some(ms(250)));
}

#[test]
fn a_waiter_looks_no_later_than_the_observation_is_ripe() {
    let mut tab = Tab::waiting();
    assert_eq!(tab.participant.look_in(ms(480), true, false), Some(ms(20)));
    assert_eq!(tab.participant.look_in(ms(600), true, false), Some(ms(0)));
    let crowd = vec![("other", true); 100];
    tab.look(ms(600), &behind(&crowd));
    assert_eq!(tab.participant.look_in(ms(600), true, false), Some(ms(0)));
}

/// To somebody else, of the lease that [`Tab::waiting`] waits for.
fn moving_on() -> Grant {
    Grant {
        to: bob(),
        ..grant()
    }
}

#[test]
fn a_waiter_that_hears_the_lock_go_on_need_not_look() {
    let mut tab = Tab::waiting();
    assert!(!tab.participant.is_moving(ms(0), ms(100)));
    tab.granted(ms(100), &moving_on());
    assert!(tab.participant.is_moving(ms(100), ms(110)));
    assert!(!tab.participant.is_moving(ms(101), ms(110)), "heard before");
    assert!(!tab.participant.is_moving(ms(100), ms(100)), "no pause");
}

#[test]
fn a_waiter_looks_all_the_same_when_its_place_is_older_than_a_lease() {
    let mut tab = Tab::waiting();
    tab.granted(ms(490), &moving_on());
    assert!(tab.participant.is_moving(ms(0), ms(499)));
    assert!(!tab.participant.is_moving(ms(0), ms(500)));
}

#[test]
fn a_look_forgets_that_the_lock_went_on_before() {
    let mut tab = Tab::waiting();
    tab.granted(ms(100), &moving_on());
    tab.look(ms(110), &waiting(4, LEN));
    assert!(!tab.participant.is_moving(ms(0), ms(120)));
}

#[test]
fn a_waiter_goes_by_no_message_of_another_epoch_or_to_itself() {
    let elsewhere = Grant {
        epoch: 2,
        ..moving_on()
    };
    let to_itself = Grant {
        until: 0,
        ..grant()
    };
    for grant in [elsewhere, to_itself] {
        let mut tab = Tab::waiting();
        tab.granted(ms(100), &grant);
        assert!(!tab.participant.is_moving(ms(0), ms(110)), "{grant:?}");
    }
}

#[test]
fn one_that_does_not_stand_in_the_queue_goes_by_no_message() {
    let mut tab = Tab::new();
    let seen = Waiting {
        queued: false,
        ..look(4, LEN)
    };
    tab.look(ms(0), &Outcome::Waiting(seen));
    tab.granted(ms(100), &moving_on());
    assert!(!tab.participant.is_moving(ms(0), ms(110)));
}

// ---- Telling the holder -------------------------------------------------------------------------

#[test]
fn the_next_one_tells_the_holder_that_it_waits() {
    let mut tab = Tab::new();
    let take = tab.ask(ms(30), true);
    tab.answer(&take, ms(40), &waiting(4, LEN));
    let told = Want {
        epoch: 1,
        token: 20,
        who: who("me", 1),
        len: LEN,
        at: micros(30),
        queued: true,
    };
    assert_eq!(tab.participant.want(), Some(told));
}

#[test]
fn one_that_only_tries_says_so() {
    let mut tab = Tab::new();
    let seen = Waiting {
        queued: false,
        ..look(4, LEN)
    };
    tab.look(ms(0), &Outcome::Waiting(seen));
    assert!(!tab.participant.want().unwrap().queued);
}

#[test]
fn one_that_is_not_the_next_tells_nobody() {
    let mut tab = Tab::new();
    tab.look(ms(0), &behind(&[("other", true), ("bob", true)]));
    assert_eq!(tab.participant.want(), None);
}

#[test]
fn one_that_has_not_seen_the_record_tells_nobody() {
    let mut tab = Tab::new();
    tab.ask(ms(0), true);
    assert_eq!(tab.participant.want(), None);
}

#[test]
fn one_that_asks_no_more_tells_nobody() {
    let mut gave_up = Tab::waiting();
    gave_up.end();
    assert_eq!(gave_up.participant.want(), None);
    assert_eq!(Tab::started().participant.want(), None);
}

#[test]
fn the_holder_is_told_once_in_a_quarter_of_a_lease() {
    let mut tab = Tab::waiting();
    assert!(tab.participant.want().is_some());
    assert_eq!(tab.participant.want(), None);
    tab.look(ms(124), &waiting(4, LEN));
    assert_eq!(tab.participant.want(), None);
    tab.look(ms(125), &waiting(4, LEN));
    assert_eq!(tab.participant.want().unwrap().at, micros(125));
    assert_eq!(tab.participant.want(), None);
}

#[test]
fn the_next_holder_is_told_at_once() {
    let mut tab = Tab::waiting();
    assert_eq!(tab.participant.want().unwrap().token, 20);
    tab.look(ms(10), &under_token(22));
    assert_eq!(tab.participant.want().unwrap().token, 22);
}

#[test]
fn the_next_request_tells_the_holder_at_once() {
    let mut tab = Tab::waiting();
    tab.participant.want();
    tab.end();
    tab.look(ms(10), &waiting(4, LEN));
    let told = tab.participant.want().unwrap();
    assert_eq!((told.who, told.at), (who("me", 2), micros(10)));
}

#[test]
fn what_is_told_is_heard_by_the_holder() {
    let mut holder = Tab::new();
    holder.begin(ms(0), &held(20));
    let told = Tab::waiting().participant.want().unwrap();
    assert_eq!(holder.participant.wanted(ms(5), &told), Wanted::ByHead);
}

// ---- Requests -----------------------------------------------------------------------------------

#[test]
fn a_take_says_who_asks_for_how_long_and_when() {
    let mut tab = Tab::new();
    for join in [true, false] {
        let take = tab.ask(Duration::from_micros(7_654_321), join);
        assert_eq!(take.who, who("me", 1));
        assert_eq!((take.len, take.at, take.wall), (LEN, 7_654_321, WALL));
        assert_eq!(take.join, join);
    }
}

#[test]
fn a_call_that_asks_again_goes_on_with_the_pending_request() {
    let mut tab = Tab::new();
    assert_eq!(tab.take(ms(0)).who.request, 1);
    assert_eq!(tab.take(ms(10)).who.request, 1);
    assert_eq!(tab.participant.request(), Some(1));
    tab.end();
    assert_eq!(tab.take(ms(20)).who.request, 3, "never used twice");
}

#[test]
fn only_the_request_that_asks_is_asking() {
    let mut tab = Tab::new();
    assert!(!tab.participant.is_asking(&who("me", 1)));
    tab.take(ms(0));
    assert!(tab.participant.is_asking(&who("me", 1)));
    assert!(!tab.participant.is_asking(&who("me", 2)));
    assert!(!tab.participant.is_asking(&who("bob", 1)));
    tab.end();
    assert!(!tab.participant.is_asking(&who("me", 1)));
}

#[test]
fn an_ended_request_is_named_until_the_store_has_confirmed_it() {
    let gone = Outcome::Gone { granted: None };
    let mut tab = Tab::holding(ms(0));
    assert_eq!(tab.end(), Some(quit(1)));
    assert_eq!(tab.take(ms(100)).ended, [1]);
    // Not answered: it is still named, with the one that asked meanwhile.
    assert_eq!(tab.end(), Some(quit(2)));
    assert_eq!(tab.take(ms(200)).ended, [1, 2]);

    tab.gone(&quit(1), ms(200), ms(201), &gone);
    assert_eq!(tab.take(ms(300)).ended, [2]);
    tab.gone(&quit(2), ms(300), ms(301), &gone);
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
        let mut late = Tab::new();
        late.requests = 76;
        std::mem::swap(&mut late.past, &mut tab.past);
        late.take(ms(100));
        assert_eq!(late.end(), Some(quit(77)));
        std::mem::swap(&mut late.past, &mut tab.past);
        tab.answer(&take, ms(101), &answer);
        tab.end();
        let ended = tab.take(ms(200)).ended;
        assert!(!ended.contains(&1), "{answer:?}");
        assert!(ended.contains(&77), "{answer:?}");
    }
}

#[test]
fn a_take_that_failed_has_told_nothing() {
    let mut tab = Tab::holding(ms(0));
    tab.end();
    let take = tab.take(ms(100));
    tab.participant.failed(&take);
    assert_eq!(tab.take(ms(110)).ended, [1]);
}

#[test]
fn a_request_that_was_refused_and_did_not_join_needs_no_quit() {
    let mut tab = Tab::new();
    let take = tab.take(ms(0));
    tab.answer(&take, ms(1), &waiting(0, LEN));
    assert_eq!(tab.end(), None);
    assert!(tab.take(ms(2)).ended.is_empty());
}

#[test]
fn a_request_that_joined_needs_a_quit_also_if_a_later_call_of_it_did_not_ask_to_wait() {
    let mut tab = Tab::new();
    for join in [true, false] {
        let take = tab.ask(ms(0), join);
        tab.answer(&take, ms(1), &waiting(0, LEN));
    }
    assert_eq!(tab.end(), Some(quit(1)));
}

#[test]
fn a_request_that_was_not_answered_needs_a_quit() {
    let mut tab = Tab::new();
    tab.take(ms(0));
    assert_eq!(tab.end(), Some(quit(1)));
}

#[test]
fn a_request_that_started_by_a_message_needs_a_quit() {
    let mut tab = Tab::started();
    assert_eq!(tab.end(), Some(quit(1)));
    assert_eq!(tab.take(ms(110)).ended, [1]);
}

#[test]
fn an_answer_to_a_request_that_has_ended_is_stale() {
    let mut tab = Tab::new();
    let take = tab.take(ms(0));
    tab.end();
    assert_eq!(tab.answer(&take, ms(1), &held(10)), Taken::Stale);
    assert!(!tab.holds(ms(1)));
}

#[test]
fn an_answer_to_an_ended_request_is_not_for_the_present_one() {
    let mut tab = Tab::new();
    let take = tab.take(ms(0));
    tab.end();
    tab.take(ms(1));
    assert_eq!(tab.answer(&take, ms(2), &held(10)), Taken::Stale);
    assert!(!tab.holds(ms(2)));
}

#[test]
fn a_request_that_stands_in_the_record_after_its_quit_quits_again() {
    let gone = Outcome::Gone { granted: None };
    for outcome in [held(10), waiting(4, LEN)] {
        let mut tab = Tab::new();
        let take = tab.ask(ms(0), true);
        let first = tab.end().unwrap();
        tab.gone(&first, ms(1), ms(2), &gone);
        let taken = tab.answer(&take, ms(3), &outcome);
        assert_eq!(taken, Taken::Ghost(quit(1)));
        assert_eq!(tab.take(ms(4)).ended, [1]);
    }
}

#[test]
fn a_request_that_is_out_of_the_record_after_its_quit_is_stale() {
    let not_queued = Outcome::Waiting(Waiting {
        queued: false,
        ..look(4, LEN)
    });
    let gone = Outcome::Gone { granted: None };
    for outcome in [not_queued, gone.clone(), Outcome::Refused] {
        let mut tab = Tab::new();
        let take = tab.take(ms(0));
        let first = tab.end().unwrap();
        tab.gone(&first, ms(1), ms(2), &gone);
        assert_eq!(tab.answer(&take, ms(3), &outcome), Taken::Stale);
        assert!(tab.take(ms(4)).ended.is_empty());
    }
}

#[test]
fn a_lock_object_made_anew_takes_over_where_the_earlier_one_was_cut_off() {
    let mut tab = Tab::new();
    let take = tab.take(ms(0));
    let (record, _) = rules::apply(None, &Command::Take(take));
    let token = record.as_ref().unwrap().token;
    tab.end();

    tab.anew();
    let take = tab.take(ms(1));
    let (_, outcome) = rules::apply(record.as_ref(), &Command::Take(take));
    let Outcome::Held(held) = outcome else {
        panic!("locked out of its own lease: {outcome:?}");
    };
    assert_eq!(held.token, token + 2);
}

// ---- Fresh tokens -------------------------------------------------------------------------------

#[test]
fn a_new_record_starts_above_every_token_seen_and_grows_with_the_wall_clock() {
    let mut tab = Tab::new();
    assert_eq!(tab.take(ms(0)).fresh.token, WALL * 1024);
    tab.begin(ms(0), &held(5_000_000));
    tab.end();
    assert_eq!(tab.take(ms(0)).fresh.token, 5_000_002);
    assert_eq!(tab.take(ms(0)).fresh.epoch, 99);
}

#[test]
fn a_token_that_another_was_seen_with_or_given_counts_as_seen() {
    let mut tab = Tab::new();
    tab.look(ms(0), &under_token(5_000_000));
    assert_eq!(tab.take(ms(0)).fresh.token, 5_000_002);
    let to_another = Grant {
        token: 6_000_001,
        to: bob(),
        ..grant()
    };
    assert_eq!(tab.granted(ms(1), &to_another), Heard::Ignored);
    assert_eq!(tab.take(ms(2)).fresh.token, 6_000_002);
}

#[test]
fn a_wall_clock_gone_wild_writes_no_record_that_is_corrupt() {
    for wall in [0, 8_900_000_000_000, 8_640_000_000_000_000, u64::MAX] {
        let mut tab = Tab::new();
        let ask = Ask {
            request: 1,
            join: false,
            beacon: false,
            fresh_epoch: 0,
            wall,
        };
        let take = tab.participant.take(&tab.past, ms(0), ask);
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

// ---- Dirty --------------------------------------------------------------------------------------

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
            tab.begin(ms(0), &held_after(epoch, token, None));
            tab.end();
        }
        let holding = tab.begin(ms(1), &held_after(epoch, token, last));
        assert_eq!(holding.dirty, dirty, "{what}");
    }
}

#[test]
fn a_start_by_a_message_of_another_tab_is_dirty() {
    for grant in [grant(), not_vouched(), by_store()] {
        assert!(started(Tab::waiting().granted(ms(100), &grant)).dirty);
    }
}

#[test]
fn a_lease_after_an_own_delegation_to_another_tab_is_dirty() {
    let mut tab = Tab::wanted();
    tab.delegate(ms(20));
    // The receiver held it unseen, or never got it.
    let holding = tab.begin(ms(600), &held_after(1, 12, Some(("me", 10))));
    assert!(holding.dirty);
}

#[test]
fn an_own_delegation_is_forgotten_with_the_next_lease() {
    let mut tab = Tab::wanted();
    tab.delegate(ms(20));
    tab.begin(ms(600), &held_after(1, 12, Some(("me", 10))));
    tab.past.told();
    tab.end();
    let holding = tab.begin(ms(700), &held_after(1, 14, Some(("me", 12))));
    assert!(!holding.dirty);
}

/// Two lock objects of one tab, the second at the head of the queue of the first.
fn delegated_within_the_tab() -> (Tab, Grant) {
    let mut tab = Tab::holding(ms(0));
    tab.beat(ms(10), &held_with(10, waiter(who("me", 2), LEN, 5)));
    let (grant, _) = tab.delegate(ms(20));
    tab.anew();
    tab.look(ms(20), &under_token(10));
    (tab, grant)
}

#[test]
fn a_delegation_within_the_tab_is_not_dirty() {
    let (mut tab, grant) = delegated_within_the_tab();
    let holding = started(tab.granted(ms(30), &grant));
    assert_eq!(holding.token, 11);
    assert!(!holding.dirty);
}

#[test]
fn a_delegation_within_the_tab_that_starts_by_an_answer_is_not_dirty() {
    let (mut tab, _) = delegated_within_the_tab();
    let holding = tab.begin(ms(30), &held_after(1, 11, Some(("me", 10))));
    assert!(!holding.dirty);
}

#[test]
fn a_grant_by_the_store_within_the_tab_is_not_dirty() {
    let mut tab = Tab::holding(ms(0));
    let quit = tab.end().unwrap();
    let outcome = gone_to(who("me", 2), 12);
    let grant = tab.gone(&quit, ms(10), ms(11), &outcome).unwrap();
    tab.anew();
    tab.look(ms(1800), &under_token(10));
    assert!(!started(tab.granted(ms(1900), &grant)).dirty);
}

/// The receiver of the delegation may have held it and gone unseen.
#[test]
fn a_grant_by_the_pass_of_a_delegation_to_another_tab_is_dirty() {
    let mut tab = Tab::wanted();
    let (_, pass) = tab.delegate(ms(20));
    tab.ask(ms(30), true);
    let outcome = gone_to(who("me", 2), 12);
    let grant = tab.gone(&pass, ms(40), ms(41), &outcome).unwrap();
    let poll = tab.ask(ms(1800), true);
    tab.answer(&poll, ms(1800), &under_token(10));
    assert!(started(tab.granted(ms(1900), &grant)).dirty);
}

#[test]
fn a_message_of_the_tab_about_a_lease_that_is_not_its_latest_is_dirty() {
    let (mut tab, grant) = delegated_within_the_tab();
    let later = Grant { token: 13, ..grant };
    assert!(started(tab.granted(ms(30), &later)).dirty);
}

#[test]
fn a_lease_that_no_caller_was_told_of_leaves_the_next_one_dirty() {
    for told in [true, false] {
        let mut tab = Tab::new();
        assert!(
            tab.begin(ms(0), &held_after(1, 10, Some(("other", 8))))
                .dirty
        );
        if told {
            tab.past.told();
        }
        tab.end();
        let next = tab.begin(ms(10), &held_after(1, 12, Some(("me", 10))));
        assert_eq!(next.dirty, !told);
    }
}

#[test]
fn a_lease_within_the_tab_is_dirty_if_no_caller_was_told_of_the_one_before() {
    for told in [true, false] {
        let mut tab = Tab::new();
        let first = held_after(1, 10, Some(("other", 8)));
        assert!(tab.begin(ms(0), &first).dirty);
        if told {
            tab.past.told();
        }
        tab.beat(ms(10), &held_with(10, waiter(who("me", 2), LEN, 5)));
        let (grant, _) = tab.delegate(ms(20));
        tab.anew();
        tab.look(ms(20), &under_token(10));
        assert_eq!(started(tab.granted(ms(30), &grant)).dirty, !told);
    }
}

// ---- Fenced transactions ----------------------------------------------------------------------

#[test]
fn a_fence_names_the_lease_and_claims_one_that_began_by_a_message() {
    let mut tab = Tab::holding(ms(0));
    let fence = tab.fence(ms(10));
    assert_eq!(
        fence,
        Fence {
            who: who("me", 1),
            token: 10,
            epoch: 1,
            claim: None
        }
    );
    assert_eq!(tab.participant.fence(ms(498), false, WALL), None, "over");
    let fence = Tab::started().fence(ms(100));
    assert!(fence.claim.is_some_and(|claim| is_claim(&claim)));
}

#[test]
fn a_fenced_transaction_is_left_to_the_store_until_it_is_over() {
    for passed in [true, false] {
        let mut tab = Tab::wanted();
        let fence = tab.fence(ms(10));
        if passed {
            tab.participant.fence_passed(&fence);
        }
        let mut later = Tab {
            participant: tab.participant.clone(),
            past: tab.past.clone(),
            requests: 1,
        };
        assert_eq!(tab.release(ms(20)), Some(Release::Quit(quit(1))));
        later.participant.fence_over(&fence, passed);
        later.delegate(ms(20));
    }
}

#[test]
fn while_a_fence_holds_the_store_up_renewals_count_from_their_sending() {
    let mut tab = Tab::holding(ms(0));
    let fence = tab.fence(ms(0));
    tab.renew(ms(50));
    assert_eq!(tab.good_until(), ms(498), "its check may be far away");
    tab.participant.fence_passed(&fence);
    let behind = tab.renew(ms(150));
    assert_eq!(tab.good_until(), ms(648));
    tab.renew(ms(500));
    assert!(tab.holds(ms(997)));
    assert!(!tab.holds(ms(998)), "nobody renewed");
    tab.participant.fence_over(&fence, true);
    tab.renew(ms(600));
    assert_eq!(tab.good_until(), ms(998), "nothing is held up any more");
    let renewed = tab.renewed(&behind, ms(150), ms(610), &held(10));
    assert_eq!(renewed, Renewed::Until(ms(998)));
    let last = tab.renew(ms(620));
    let renewed = tab.renewed(&last, ms(620), ms(630), &held(10));
    assert_eq!(renewed, Renewed::Until(ms(1118)));
}

#[test]
fn a_renewal_that_is_sent_too_late_does_not_count_from_its_sending() {
    let mut tab = Tab::holding(ms(0));
    let fence = tab.fence(ms(0));
    tab.participant.fence_passed(&fence);
    // A takeover may be sent from 500 ms on.
    tab.renew(ms(450));
    assert_eq!(tab.good_until(), ms(498));
}

#[test]
fn a_renewal_behind_a_fence_that_fails_leaves_what_was_answered() {
    let mut tab = Tab::holding(ms(0));
    let fence = tab.fence(ms(0));
    tab.participant.fence_passed(&fence);
    tab.renew(ms(100));
    tab.renew(ms(400));
    assert!(tab.holds(ms(800)));
    tab.participant.renewal_failed();
    assert_eq!(tab.good_until(), ms(498));
    assert_eq!(tab.due(ms(800)), Some(Due::Expired(quit(1))));
}

#[test]
fn a_refused_fence_ends_the_lease_once() {
    let mut tab = Tab::holding(ms(0));
    let fence = tab.fence(ms(10));
    let again = tab.fence(ms(10));
    let refused = tab.participant.fence_refused(&mut tab.past, &fence);
    assert_eq!(refused, Some(quit(1)));
    assert!(!tab.holds(ms(20)));
    assert_eq!(tab.participant.fence_refused(&mut tab.past, &again), None);
    // Nor does what is left of it touch the next lease.
    tab.begin(ms(30), &held(14));
    tab.participant.fence_passed(&fence);
    tab.participant.fence_over(&fence, true);
    assert!(!tab.participant.is_fenced());
    assert_eq!(tab.participant.fence_refused(&mut tab.past, &fence), None);
    assert!(tab.holds(ms(40)));
}
