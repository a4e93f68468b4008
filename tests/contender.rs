//! The contender, event by event: what a lock object does, and when. No clock, no task, no store.
#![cfg(not(target_arch = "wasm32"))]

use std::time::Duration;

use tab_lease::contender::{
    Action, Around, CallId, Contender, End, Event, LeaseId, Moment, Patience, Seen, SendId, Timer,
};
use tab_lease::message::Message;
use tab_lease::participant::{Grant, Now, Past, Want};
use tab_lease::rules::{self, Command, Fence, Outcome, Proof, Record, Requester, Take};
use tab_lease::{Config, LossReason};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A tab: its lock object, and the record that it shares with others.
struct Tab {
    contender: Contender,
    past: Past,
    now: Now,
    lit: bool,
    requests: u64,
    calls: u64,
    /// Looks that have not been answered.
    looks: Vec<SendId>,
}

const ALONE: Around = Around {
    speaks: false,
    complete: false,
    beacons: false,
    steady_leases: 4,
};
const SPEAKING: Around = Around {
    speaks: true,
    complete: true,
    beacons: false,
    steady_leases: 4,
};
const SHINING: Around = Around {
    speaks: false,
    complete: false,
    beacons: true,
    steady_leases: 4,
};

impl Tab {
    fn new(name: &'static str, around: Around) -> Self {
        Self {
            contender: Contender::new(name.to_owned(), &Config::default(), around, ms(2)),
            past: Past::default(),
            now: ms(1000),
            lit: false,
            requests: 0,
            calls: 0,
            looks: Vec::new(),
        }
    }

    fn at(&mut self) -> Moment<'static> {
        self.requests += 1;
        Moment {
            now: self.now,
            wall_ms: 0,
            fresh_epoch: 7,
            fresh_request: self.requests,
            lit: self.lit,
            would_tell: &|_| true,
            may_queue: true,
        }
    }

    fn feed(&mut self, event: Event) -> Vec<Action> {
        let (at, mut actions) = (self.at(), Vec::new());
        self.contender
            .handle(&mut self.past, at, event, &mut actions);
        for action in &actions {
            if let Action::Look { id, .. } = action {
                self.looks.push(*id);
            }
        }
        actions
    }

    fn fence(&mut self, lease: LeaseId) -> (Option<Fence>, Vec<Action>) {
        let (at, mut actions) = (self.at(), Vec::new());
        let fence = self
            .contender
            .fence(&mut self.past, at, lease, &mut actions);
        (fence, actions)
    }

    fn call(&mut self, patience: Patience) -> (CallId, Vec<Action>) {
        self.calls += 1;
        let id = CallId(self.calls);
        (id, self.feed(Event::Call { id, patience }))
    }

    fn acquire(&mut self) -> (CallId, Vec<Action>) {
        self.call(Patience::Until(None))
    }

    fn fire(&mut self, timer: Timer) -> Vec<Action> {
        self.feed(Event::Fired(timer))
    }

    /// Goes on to what is due next, which must be that timer, after so many ms.
    fn wait_for(&mut self, timer: Timer, after: u64) -> Vec<Action> {
        let due = self.contender.due().expect("something is due");
        assert_eq!((due.0 - self.now, due.1), (ms(after), timer));
        self.now = due.0;
        self.fire(timer)
    }

    fn pass_time(&mut self, time: u64) {
        self.now += ms(time);
    }

    /// The store answers by the rules. A look that shows that the take has to be applied is followed by that.
    fn answer(&mut self, record: &mut Option<Record>, sent: (SendId, Command)) -> Vec<Action> {
        let (id, command) = sent;
        if let Some(place) = self.looks.iter().position(|look| *look == id) {
            self.looks.remove(place);
            let looked = record.as_ref();
            let looked = looked.and_then(|record| rules::look(record, &command));
            let seen = match looked {
                Some(Outcome::Waiting(waiting)) => Seen::Waiting(waiting),
                _ => Seen::Change,
            };
            let Command::Take(take) = command else {
                panic!("{command:?} is no look");
            };
            let changes = seen == Seen::Change;
            let actions = self.feed(Event::Looked { id, take, seen });
            if changes && let [sent] = &sends(&actions)[..] {
                return self.answer(record, sent.clone());
            }
            return actions;
        }
        let (write, outcome) = rules::apply(record.as_ref(), &command);
        *record = write.or(record.take());
        let answer = Some(outcome);
        self.feed(Event::Answer {
            id,
            command,
            answer,
        })
    }

    fn fail(&mut self, sent: (SendId, Command)) -> Vec<Action> {
        let (id, command) = sent;
        self.feed(Event::Answer {
            id,
            command,
            answer: None,
        })
    }

    /// Takes the free lock.
    fn hold(&mut self, record: &mut Option<Record>) -> LeaseId {
        let (_, actions) = self.acquire();
        let actions = self.answer(record, only_send(&actions));
        let lease = lease_of(&actions);
        self.feed(Event::Told(lease));
        lease
    }

    /// Joins the queue.
    fn wait(&mut self, record: &mut Option<Record>) -> (CallId, Vec<Action>) {
        let (call, actions) = self.acquire();
        (call, self.answer(record, only_send(&actions)))
    }
}

/// What goes to the store: also looks, by what may have to be sent.
fn sends(actions: &[Action]) -> Vec<(SendId, Command)> {
    let sent = |action: &Action| match action {
        Action::Send { id, command } => Some((*id, command.clone())),
        Action::Look { id, take } => Some((*id, Command::Take(take.clone()))),
        _ => None,
    };
    actions.iter().filter_map(sent).collect()
}

fn only_send(actions: &[Action]) -> (SendId, Command) {
    let mut sends = sends(actions);
    assert_eq!(sends.len(), 1, "{actions:?}");
    sends.remove(0)
}

fn take(actions: &[Action]) -> Take {
    match only_send(actions).1 {
        Command::Take(take) => take,
        other => panic!("no take: {other:?}"),
    }
}

fn settled(actions: &[Action]) -> Vec<(CallId, End)> {
    let settled = |action: &Action| match action {
        Action::Settle { call, end } => Some((*call, *end)),
        _ => None,
    };
    actions.iter().filter_map(settled).collect()
}

fn posts(actions: &[Action]) -> Vec<Message> {
    let posted = |action: &Action| match action {
        Action::Post(message) => Some(message.clone()),
        _ => None,
    };
    actions.iter().filter_map(posted).collect()
}

fn lease_of(actions: &[Action]) -> LeaseId {
    let held = settled(actions).into_iter().find_map(|(_, end)| match end {
        End::Held { lease, .. } => Some(lease),
        _ => None,
    });
    held.expect("a call is given the lease")
}

fn losses(actions: &[Action]) -> Vec<LossReason> {
    let lost = |action: &Action| match action {
        Action::Lose(_, reason) => Some(*reason),
        _ => None,
    };
    actions.iter().filter_map(lost).collect()
}

fn is_quit(sent: &(SendId, Command)) -> bool {
    matches!(sent.1, Command::Quit { .. })
}

fn is_renewal(sent: &(SendId, Command)) -> bool {
    matches!(sent.1, Command::Renew { .. })
}

fn released(actions: &[Action]) -> bool {
    actions
        .iter()
        .any(|action| matches!(action, Action::Released(_)))
}

fn lingers(actions: &[Action]) -> bool {
    actions
        .iter()
        .any(|action| matches!(action, Action::Linger(_)))
}

/// A record that somebody else holds.
fn held_by_another() -> Option<Record> {
    let mut record = None;
    Tab::new("other", ALONE).hold(&mut record);
    record
}

// ---- Calls ------------------------------------------------------------------------------------

#[test]
fn calls_that_came_before_the_take_was_sent_share_its_answer() {
    let (mut tab, mut record) = (Tab::new("a", ALONE), held_by_another());
    let (_, first) = tab.acquire();
    let (_, second) = tab.acquire();
    assert!(sends(&second).is_empty(), "one take at a time");
    let third = tab.answer(&mut record, only_send(&first));
    let fourth = tab.answer(&mut record, only_send(&third));
    assert!(
        sends(&fourth).is_empty(),
        "the second one was good for both"
    );
}

#[test]
fn all_calls_that_wait_when_the_lease_begins_get_it_in_order() {
    let (mut tab, mut record) = (Tab::new("a", ALONE), None);
    let (_, actions) = tab.acquire();
    tab.acquire();
    tab.call(Patience::Try);
    let actions = tab.answer(&mut record, only_send(&actions));
    let calls: Vec<_> = settled(&actions)
        .into_iter()
        .map(|(call, _)| call)
        .collect();
    assert_eq!(calls, [CallId(1), CallId(2), CallId(3)]);
    let (call, actions) = tab.call(Patience::Try);
    assert!(matches!(settled(&actions)[..], [(of, End::Held { .. })] if of == call));
    assert!(sends(&actions).is_empty(), "shared without the store");
}

#[test]
fn a_take_that_fails_ends_the_call_that_sent_it_and_the_others_ask_for_themselves() {
    let mut tab = Tab::new("a", ALONE);
    let (first, actions) = tab.acquire();
    let (second, _) = tab.acquire();
    let sent = only_send(&actions);
    let actions = tab.fail(sent.clone());
    assert_eq!(settled(&actions), [(first, End::StoreFailed(sent.0))]);
    let actions = tab.fail(only_send(&actions));
    assert!(matches!(settled(&actions)[..], [(of, End::StoreFailed(_))] if of == second));
    assert!(is_quit(&only_send(&actions)), "it may have been applied");
}

#[test]
fn a_spin_pauses_twice_as_long_each_time_and_times_out_after_the_longest() {
    let (mut tab, mut record) = (Tab::new("a", ALONE), held_by_another());
    let (call, mut actions) = tab.call(Patience::Spin { longest_ms: 40 });
    for pause in [10, 20, 40] {
        let rests = tab.answer(&mut record, only_send(&actions));
        assert!(settled(&rests).is_empty());
        actions = tab.wait_for(Timer::Look, pause);
    }
    let actions = tab.answer(&mut record, only_send(&actions));
    assert_eq!(settled(&actions), [(call, End::TimedOut)]);
    assert!(is_quit(&only_send(&actions)));
    assert_eq!(tab.contender.due(), None, "nothing is left set");
}

#[test]
fn a_waiter_looks_at_the_lease_as_closely_as_it_takes() {
    let (mut tab, mut record) = (Tab::new("a", ALONE), held_by_another());
    tab.wait(&mut record);
    // A twentieth of the lease.
    for pause in [10, 20, 25, 25] {
        let actions = tab.wait_for(Timer::Look, pause);
        tab.answer(&mut record, only_send(&actions));
    }
}

#[test]
fn a_waiter_takes_over_when_the_lease_has_stood_still_for_its_length() {
    let (mut tab, mut record) = (Tab::new("a", ALONE), held_by_another());
    tab.wait(&mut record);
    let since = tab.now;
    loop {
        let (at, timer) = tab.contender.due().expect("it looks again");
        tab.now = at;
        let actions = tab.fire(timer);
        let proof = take(&actions).proof;
        let actions = tab.answer(&mut record, only_send(&actions));
        if matches!(proof, Proof::Unchanged(_)) {
            assert_eq!(tab.now - since, ms(500));
            assert!(matches!(
                settled(&actions)[..],
                [(_, End::Held { dirty: true, .. })]
            ));
            break;
        }
    }
}

#[test]
fn looks_of_many_calls_are_one() {
    let (mut tab, mut record) = (Tab::new("a", ALONE), held_by_another());
    tab.wait(&mut record);
    for _ in 0..100 {
        tab.pass_time(1);
        let (_, actions) = tab.acquire();
        for sent in sends(&actions) {
            tab.answer(&mut record, sent);
        }
    }
    let (end, mut takes) = (tab.now + ms(400), 0);
    while let Some((at, timer)) = tab.contender.due().filter(|(at, _)| *at < end) {
        tab.now = at;
        for sent in sends(&tab.fire(timer)) {
            takes += 1;
            tab.answer(&mut record, sent);
        }
    }
    assert!(takes <= 41, "{takes} takes in 400 ms");
}

#[test]
fn a_call_ends_at_its_deadline_and_the_request_with_the_last_of_them() {
    let (mut tab, mut record) = (Tab::new("a", SPEAKING), held_by_another());
    let deadline = Patience::Until(Some(tab.now + ms(5)));
    let (first, actions) = tab.call(deadline);
    tab.answer(&mut record, only_send(&actions));
    let (second, _) = tab.call(Patience::Until(Some(tab.now + ms(7))));
    let actions = tab.wait_for(Timer::Deadline, 5);
    assert_eq!(settled(&actions), [(first, End::TimedOut)]);
    assert!(sends(&actions).is_empty(), "another one waits");
    let actions = tab.wait_for(Timer::Deadline, 2);
    assert_eq!(settled(&actions), [(second, End::TimedOut)]);
    assert!(matches!(posts(&actions)[..], [Message::Gone(_)]));
    assert!(is_quit(&only_send(&actions)));
}

#[test]
fn a_call_that_leaves_takes_the_request_along_only_if_it_is_the_last() {
    let (mut tab, mut record) = (Tab::new("a", ALONE), held_by_another());
    let (first, _) = tab.wait(&mut record);
    let (second, _) = tab.acquire();
    assert!(sends(&tab.feed(Event::Leave(first))).is_empty());
    assert!(is_quit(&only_send(&tab.feed(Event::Leave(second)))));
}

#[test]
fn an_answer_that_is_late_twice_makes_a_pause() {
    let (mut tab, mut record) = (Tab::new("a", ALONE), None);
    let (_, mut actions) = tab.acquire();
    for _ in 0..2 {
        tab.pass_time(600);
        actions = tab.answer(&mut record, only_send(&actions));
        assert!(settled(&actions).is_empty());
    }
    assert!(sends(&actions).is_empty());
    assert!(matches!(tab.contender.due(), Some((_, Timer::Look))));
}

// ---- Tries ------------------------------------------------------------------------------------

#[test]
fn a_try_is_over_at_once_where_nobody_can_tell_more() {
    let (mut tab, mut record) = (Tab::new("a", ALONE), held_by_another());
    let (call, actions) = tab.call(Patience::Try);
    assert!(!take(&actions).join);
    let actions = tab.answer(&mut record, only_send(&actions));
    assert_eq!(settled(&actions), [(call, End::Busy)]);
    assert!(sends(&actions).is_empty(), "it left nothing behind");
}

#[test]
fn a_try_asks_the_holder_and_does_as_it_is_told() {
    for (free, timer) in [(true, false), (false, false), (false, true)] {
        let (mut tab, mut record) = (Tab::new("a", SPEAKING), held_by_another());
        let (call, actions) = tab.call(Patience::Try);
        let actions = tab.answer(&mut record, only_send(&actions));
        let [
            Message::Want(Want {
                who, queued: false, ..
            }),
        ] = &posts(&actions)[..]
        else {
            panic!("{actions:?}");
        };
        let reply = Message::Reply {
            to: who.clone(),
            free,
        };
        let actions = if timer {
            tab.wait_for(Timer::Reply, 50)
        } else {
            tab.feed(Event::Heard(reply))
        };
        if free {
            let actions = tab.answer(&mut record, only_send(&actions));
            assert_eq!(
                settled(&actions),
                [(call, End::Busy)],
                "once more, and no more"
            );
        } else {
            assert_eq!(settled(&actions), [(call, End::Busy)]);
        }
    }
}

fn try_of(tab: &Tab, record: &Option<Record>) -> Message {
    let record = record.as_ref().unwrap();
    Message::Want(Want {
        epoch: record.epoch,
        token: record.token,
        who: Requester {
            tab: "b".to_owned(),
            request: 9,
        },
        len: 500,
        at: u64::try_from(tab.now.as_micros()).unwrap(),
        queued: false,
    })
}

#[test]
fn a_holder_tells_who_tries_that_it_is_in_use_or_gives_up_what_only_lingers() {
    let (mut tab, mut record) = (Tab::new("a", SPEAKING), None);
    let lease = tab.hold(&mut record);
    let wants = try_of(&tab, &record);
    let actions = tab.feed(Event::Heard(wants.clone()));
    assert!(matches!(
        posts(&actions)[..],
        [Message::Reply { free: false, .. }]
    ));
    assert!(lingers(&tab.feed(Event::GuardDropped(lease))));
    let actions = tab.feed(Event::Heard(wants));
    assert!(posts(&actions).is_empty(), "when it is free");
    let actions = tab.answer(&mut record, only_send(&actions));
    assert!(matches!(
        posts(&actions)[..],
        [Message::Reply { free: true, .. }]
    ));
    assert!(released(&actions));
}

#[test]
fn who_tries_while_the_quit_is_on_its_way_is_answered_by_it() {
    let (mut tab, mut record) = (Tab::new("a", SPEAKING), None);
    let lease = tab.hold(&mut record);
    let wants = try_of(&tab, &record);
    tab.feed(Event::GuardDropped(lease));
    let quit = tab.wait_for(Timer::Linger, 50);
    assert!(tab.feed(Event::Heard(wants.clone())).is_empty());
    let actions = tab.answer(&mut record, only_send(&quit));
    assert!(matches!(
        posts(&actions)[..],
        [Message::Reply { free: true, .. }]
    ));
    assert!(
        tab.feed(Event::Heard(wants)).is_empty(),
        "that is not ours any more"
    );
}

// ---- Beacons ----------------------------------------------------------------------------------

#[test]
fn the_first_take_waits_for_the_beacon_but_not_for_long() {
    for settled in [true, false] {
        let mut tab = Tab::new("a", SHINING);
        assert!(tab.acquire().1.is_empty());
        let actions = if settled {
            tab.lit = true;
            tab.feed(Event::BeaconSettled)
        } else {
            tab.wait_for(Timer::Beacon, 100)
        };
        assert_eq!(take(&actions).beacon, settled);
    }
}

#[test]
fn from_the_second_look_on_the_beacon_of_who_is_before_is_watched_and_its_end_is_a_proof() {
    let mut record = None;
    let mut other = Tab::new("other", SHINING);
    other.lit = true;
    other.hold(&mut record);
    let mut tab = Tab::new("a", SHINING);
    tab.lit = true;
    let (_, actions) = tab.wait(&mut record);
    assert!(
        !actions
            .iter()
            .any(|action| matches!(action, Action::Watch(_)))
    );
    let actions = tab.wait_for(Timer::Look, 10);
    let actions = tab.answer(&mut record, only_send(&actions));
    assert_eq!(actions, [Action::Watch(Some("other".to_owned()))]);
    assert!(tab.feed(Event::Died("somebody".to_owned())).is_empty());
    let actions = tab.feed(Event::Died("other".to_owned()));
    assert!(matches!(take(&actions).proof, Proof::Dead(_)));
    let actions = tab.answer(&mut record, only_send(&actions));
    lease_of(&actions);
}

#[test]
fn a_try_asks_again_only_if_nobody_who_may_live_is_before_it() {
    for queued in [false, true] {
        let mut record = None;
        let mut other = Tab::new("other", SHINING);
        other.lit = true;
        other.hold(&mut record);
        if queued {
            let mut next = Tab::new("next", SHINING);
            next.lit = true;
            next.wait(&mut record);
        }
        let mut tab = Tab::new("a", SHINING);
        tab.lit = true;
        let (call, actions) = tab.call(Patience::Try);
        let actions = tab.answer(&mut record, only_send(&actions));
        assert_eq!(actions, [Action::Watch(Some("other".to_owned()))]);
        let actions = tab.feed(Event::Died("other".to_owned()));
        if queued {
            assert_eq!(settled(&actions), [(call, End::Busy)]);
        } else {
            let actions = tab.answer(&mut record, only_send(&actions));
            lease_of(&actions);
        }
    }
}

// ---- Keeping ----------------------------------------------------------------------------------

#[test]
fn a_lease_is_renewed_every_beat_and_one_renewal_at_a_time() {
    let (mut tab, mut record) = (Tab::new("a", ALONE), None);
    tab.hold(&mut record);
    for _ in 0..3 {
        let actions = tab.wait_for(Timer::Beat, 50);
        assert!(is_renewal(&only_send(&actions)));
        assert_eq!(tab.contender.due_at(Timer::Beat), None);
        tab.answer(&mut record, only_send(&actions));
    }
}

#[test]
fn a_renewal_that_fails_is_tried_again_a_beat_after_it_was_sent() {
    let (mut tab, mut record) = (Tab::new("a", ALONE), None);
    tab.hold(&mut record);
    let actions = tab.wait_for(Timer::Beat, 50);
    tab.pass_time(20);
    tab.fail(only_send(&actions));
    let actions = tab.wait_for(Timer::Beat, 30);
    assert!(is_renewal(&only_send(&actions)));
}

#[test]
fn beats_of_several_locks_may_go_together() {
    let (mut tab, mut record) = (Tab::new("a", ALONE), None);
    tab.hold(&mut record);
    tab.pass_time(18);
    assert!(!tab.contender.may_beat(tab.now));
    tab.pass_time(1);
    assert!(tab.contender.may_beat(tab.now));
}

#[test]
fn a_lease_that_nobody_can_be_told_of_is_given_up_with_its_last_guard() {
    let (mut tab, mut record) = (Tab::new("a", ALONE), None);
    let lease = tab.hold(&mut record);
    tab.acquire();
    assert!(
        tab.feed(Event::GuardDropped(lease)).is_empty(),
        "one is left"
    );
    let actions = tab.feed(Event::GuardDropped(lease));
    assert!(is_quit(&only_send(&actions)) && !released(&actions));
    let actions = tab.answer(&mut record, only_send(&actions));
    assert_eq!(actions, [Action::Released(lease)]);
}

#[test]
fn a_release_that_the_store_never_answers_ends_when_the_lease_would_have() {
    let (mut tab, mut record) = (Tab::new("a", ALONE), None);
    let lease = tab.hold(&mut record);
    tab.pass_time(10);
    tab.feed(Event::GuardDropped(lease));
    let actions = tab.wait_for(Timer::Expiry, 488);
    assert_eq!(actions, [Action::Released(lease)]);
}

#[test]
fn a_guard_of_an_earlier_lease_counts_for_nothing() {
    let (mut tab, mut record) = (Tab::new("a", ALONE), None);
    let first = tab.hold(&mut record);
    tab.feed(Event::Closing);
    let second = tab.hold(&mut record);
    assert!(tab.feed(Event::GuardDropped(first)).is_empty());
    assert_eq!(tab.contender.lease(), Some(second));
}

#[test]
fn a_lease_lingers_for_a_beat_and_is_taken_again_without_the_store() {
    let (mut tab, mut record) = (Tab::new("a", SPEAKING), None);
    let lease = tab.hold(&mut record);
    assert_eq!(
        tab.feed(Event::GuardDropped(lease)),
        [Action::Linger(lease)]
    );
    let (_, actions) = tab.acquire();
    assert_eq!(lease_of(&actions), lease);
    assert!(sends(&actions).is_empty());
    assert_eq!(tab.contender.due_at(Timer::Linger), None);
    tab.feed(Event::GuardDropped(lease));
    assert!(is_quit(&only_send(&tab.fire(Timer::Linger))));
}

#[test]
fn a_lock_object_that_is_gone_does_not_linger_and_is_over_when_the_store_knows() {
    let (mut tab, mut record) = (Tab::new("a", SPEAKING), None);
    let lease = tab.hold(&mut record);
    tab.feed(Event::GuardDropped(lease));
    let actions = tab.feed(Event::Abandoned);
    assert!(!tab.contender.is_over());
    tab.answer(&mut record, only_send(&actions));
    assert!(tab.contender.is_over());
}

#[test]
fn dirty_is_told_until_a_caller_has_heard_it() {
    for told in [false, true] {
        let (mut tab, mut record) = (Tab::new("a", SPEAKING), None);
        let mut other = Tab::new("other", ALONE);
        let lease = other.hold(&mut record);
        let quit = other.feed(Event::GuardDropped(lease));
        other.answer(&mut record, only_send(&quit));
        let (_, actions) = tab.acquire();
        let actions = tab.answer(&mut record, only_send(&actions));
        let lease = lease_of(&actions);
        if told {
            tab.feed(Event::Told(lease));
        }
        tab.feed(Event::GuardDropped(lease));
        let (_, actions) = tab.acquire();
        let [(_, End::Held { dirty, .. })] = settled(&actions)[..] else {
            panic!("{actions:?}");
        };
        assert_eq!(dirty, !told);
    }
}

// ---- Handing over -----------------------------------------------------------------------------

/// A holder and the head of its queue, both of which know.
fn handing_over() -> (Tab, LeaseId, Tab, CallId, Option<Record>) {
    let mut record = None;
    let (mut one, mut two) = (Tab::new("one", SPEAKING), Tab::new("two", SPEAKING));
    let lease = one.hold(&mut record);
    let (call, actions) = two.wait(&mut record);
    let [want] = &posts(&actions)[..] else {
        panic!("{actions:?}");
    };
    one.feed(Event::Heard(want.clone()));
    let actions = one.wait_for(Timer::Beat, 50);
    one.answer(&mut record, only_send(&actions));
    two.now = one.now;
    (one, lease, two, call, record)
}

fn grant(actions: &[Action]) -> Grant {
    let grant = posts(actions)
        .into_iter()
        .find_map(|message| match message {
            Message::Grant(grant) => Some(grant),
            _ => None,
        });
    grant.expect("it is handed on by a message")
}

#[test]
fn a_lease_that_is_waited_for_is_handed_on_by_a_message_before_its_release_is_told() {
    let (mut one, lease, mut two, call, _) = handing_over();
    let actions = one.feed(Event::GuardDropped(lease));
    assert!(matches!(
        actions[..],
        [Action::Post(Message::Grant(_)), Action::Released(_)]
    ));
    let actions = two.feed(Event::Heard(Message::Grant(grant(&actions))));
    let begun = lease_of(&actions);
    assert_eq!(settled(&actions)[0].0, call);
    assert_eq!(
        actions.last(),
        Some(&Action::StepAside(begun)),
        "the caller goes first"
    );
    let actions = two.feed(Event::SteppedAside(begun));
    assert!(matches!(only_send(&actions).1, Command::Claim { .. }));
}

#[test]
fn a_pass_is_written_unless_the_receiver_is_heard_of() {
    for (heard, fails) in [(false, false), (false, true), (true, false)] {
        let (mut one, lease, mut two, _, mut record) = handing_over();
        let actions = one.feed(Event::GuardDropped(lease));
        let grant = grant(&actions);
        if heard {
            // It claims, and hands on at once.
            two.feed(Event::Heard(Message::Grant(grant.clone())));
            let later = Grant {
                token: grant.token + 1,
                ..grant.clone()
            };
            one.feed(Event::Heard(Message::Grant(later)));
        }
        let actions = one.wait_for(Timer::Pass, 10);
        assert_eq!(sends(&actions).is_empty(), heard);
        if fails {
            one.fail(only_send(&actions));
            let actions = one.wait_for(Timer::Pass, 50);
            one.answer(&mut record, only_send(&actions));
        } else if !heard {
            one.answer(&mut record, only_send(&actions));
        }
        assert_eq!(one.contender.due_at(Timer::Pass), None);
    }
}

/// The one release rule: neither a linger that is over, nor a try, nor the end of the lock object lets an
/// unclaimed lease go.
#[test]
fn a_lease_is_not_given_up_before_its_claim_is_answered() {
    let (mut one, lease, mut two, _, mut record) = handing_over();
    let granted = grant(&one.feed(Event::GuardDropped(lease)));
    let begun = lease_of(&two.feed(Event::Heard(Message::Grant(granted))));
    let claim = two.feed(Event::SteppedAside(begun));
    assert!(lingers(&two.feed(Event::GuardDropped(begun))));
    assert!(two.fire(Timer::Linger).is_empty());
    assert!(two.feed(Event::Abandoned).is_empty());
    let actions = two.answer(&mut record, only_send(&claim));
    assert!(is_quit(&only_send(&actions)));
}

#[test]
fn a_new_call_is_held_back_while_another_tab_waits_but_not_a_try() {
    let (mut one, lease, ..) = handing_over();
    let (call, actions) = one.call(Patience::Try);
    assert_eq!(settled(&actions), [(call, End::Busy)]);
    let (call, actions) = one.acquire();
    assert!(actions.is_empty());
    let until = one.contender.due_at(Timer::Look).expect("for so long");
    assert_eq!(until - one.now, ms(250));
    let actions = one.feed(Event::GuardDropped(lease));
    grant(&actions);
    assert!(take(&actions).join, "and queues behind");
    let _ = call;
}

#[test]
fn a_call_that_was_held_back_for_long_enough_shares() {
    let (mut one, ..) = handing_over();
    let (call, _) = one.acquire();
    one.pass_time(250);
    let actions = one.fire(Timer::Look);
    assert!(matches!(settled(&actions)[..], [(of, End::Held { .. })] if of == call));
}

// ---- Losses -----------------------------------------------------------------------------------

#[test]
fn every_loss_has_one_reason_whoever_finds_it() {
    type Way = fn(&mut Tab, &mut Option<Record>, LeaseId) -> Vec<Action>;
    let ways: [(Way, LossReason); 9] = [
        (
            // This page was stopped.
            |tab, _, _| {
                tab.pass_time(5_000);
                tab.fire(Timer::Expiry)
            },
            LossReason::Expired,
        ),
        (
            // A fenced transaction finds it first.
            |tab, _, lease| {
                tab.pass_time(5_000);
                tab.fence(lease).1
            },
            LossReason::Expired,
        ),
        (
            // The store fails …
            |tab, _, _| {
                let actions = tab.wait_for(Timer::Beat, 50);
                tab.fail(only_send(&actions));
                tab.pass_time(5_000);
                tab.fire(Timer::Expiry)
            },
            LossReason::StoreFailed,
        ),
        (
            // … which a fenced transaction finds first …
            |tab, _, lease| {
                let actions = tab.wait_for(Timer::Beat, 50);
                tab.fail(only_send(&actions));
                tab.pass_time(5_000);
                tab.fence(lease).1
            },
            LossReason::StoreFailed,
        ),
        (
            // … or it does not answer.
            |tab, _, _| {
                tab.wait_for(Timer::Beat, 50);
                tab.wait_for(Timer::Expiry, 448)
            },
            LossReason::StoreFailed,
        ),
        (
            |tab, record, _| {
                let actions = tab.wait_for(Timer::Beat, 50);
                *record = None;
                tab.answer(record, only_send(&actions))
            },
            LossReason::Superseded,
        ),
        (
            |tab, _, lease| {
                let fence = tab.fence(lease).0.expect("it holds");
                tab.feed(Event::FenceRefused(fence))
            },
            LossReason::Superseded,
        ),
        (
            |tab, _, _| tab.feed(Event::Closing),
            LossReason::StoreClosed,
        ),
        (
            |tab, _, _| tab.feed(Event::Suspended(true)),
            LossReason::Suspended,
        ),
    ];
    for (number, (way, reason)) in ways.into_iter().enumerate() {
        let (mut tab, mut record) = (Tab::new("a", SPEAKING), None);
        let lease = tab.hold(&mut record);
        let actions = way(&mut tab, &mut record, lease);
        assert_eq!(losses(&actions), [reason], "way {number}");
        assert_eq!(tab.contender.good_until(), None, "way {number}");
        // Told once.
        for event in [Event::Closing, Event::Fired(Timer::Expiry), Event::Look] {
            assert_eq!(losses(&tab.feed(event)), [], "way {number}");
        }
        assert!(tab.fence(lease).0.is_none());
    }
}

#[test]
fn a_fence_before_the_claim_makes_the_lease_shorter_for_all_who_ask() {
    let (mut one, lease, mut two, ..) = handing_over();
    let granted = grant(&one.feed(Event::GuardDropped(lease)));
    two.feed(Event::Hidden(true));
    let begun = lease_of(&two.feed(Event::Heard(Message::Grant(granted))));
    two.feed(Event::Hidden(false));
    two.pass_time(1);
    let before = two.contender.good_until().expect("it holds");
    let fence = two.fence(begun).0.expect("it holds");
    assert!(fence.claim.is_some());
    assert!(two.contender.good_until().expect("it holds") <= before);
    assert_eq!(
        two.contender.due_at(Timer::Expiry),
        two.contender.good_until()
    );
}

#[test]
fn behind_a_fenced_transaction_renewals_are_sent_though_the_last_was_not_answered() {
    let (mut tab, mut record) = (Tab::new("a", ALONE), None);
    let lease = tab.hold(&mut record);
    let fence = tab.fence(lease).0.expect("it holds");
    let first = tab.wait_for(Timer::Beat, 50);
    assert_eq!(tab.contender.due_at(Timer::BeatBehind), None);
    tab.feed(Event::FencePassed(fence.clone()));
    for _ in 0..8 {
        let actions = tab.wait_for(Timer::BeatBehind, 125);
        assert!(is_renewal(&only_send(&actions)));
    }
    tab.feed(Event::FenceOver {
        lease: fence,
        passed: true,
    });
    assert_eq!(tab.contender.due_at(Timer::BeatBehind), None);
    assert!(losses(&tab.answer(&mut record, only_send(&first))).is_empty());
}

// ---- The page ---------------------------------------------------------------------------------

#[test]
fn a_suspended_tab_sends_nothing_and_goes_on_where_it_can() {
    let (mut tab, mut record) = (Tab::new("a", SPEAKING), held_by_another());
    let (_, actions) = tab.acquire();
    let under_way = only_send(&actions);
    let actions = tab.feed(Event::Suspended(true));
    assert!(matches!(
        actions[..],
        [Action::LeaveBlindly(_), Action::Post(Message::Gone(_))]
    ));
    let wants = try_of(&tab, &record);
    let late = tab.answer(&mut record, under_way);
    assert!(late.is_empty(), "the next take takes it back");
    let mut actions = tab.feed(Event::Heard(wants));
    actions.extend(tab.acquire().1);
    actions.extend(Timer::ALL.into_iter().flat_map(|timer| tab.fire(timer)));
    assert!(actions.is_empty(), "{actions:?}");
    let take = take(&tab.feed(Event::Suspended(false)));
    assert_eq!(take.ended.len(), 1, "by another request");
}

/// It may not be able to answer.
#[test]
fn a_suspended_tab_hears_nothing() {
    let (mut one, lease, _, _, record) = handing_over();
    let wants = try_of(&one, &record);
    one.feed(Event::GuardDropped(lease));
    one.feed(Event::Suspended(true));
    one.feed(Event::Heard(wants));
    let mut actions = one.feed(Event::Suspended(false));
    actions.extend(one.wait_for(Timer::Pass, 10));
    let mut record = record;
    actions.extend(one.answer(&mut record, only_send(&actions)));
    assert!(
        !posts(&actions)
            .iter()
            .any(|said| matches!(said, Message::Reply { .. }))
    );
}

#[test]
fn a_holder_that_is_hidden_asks_for_a_longer_lease_at_once() {
    let (mut tab, mut record) = (Tab::new("a", ALONE), None);
    tab.hold(&mut record);
    tab.feed(Event::Hidden(true));
    let actions = tab.wait_for(Timer::Beat, 0);
    assert!(matches!(
        only_send(&actions).1,
        Command::Renew { len: 10_000, .. }
    ));
}

#[test]
fn a_timer_that_fires_early_costs_no_more_than_a_turn() {
    let (mut tab, mut record) = (Tab::new("a", SPEAKING), None);
    let lease = tab.hold(&mut record);
    for timer in Timer::ALL {
        let actions = tab.fire(timer);
        assert!(losses(&actions).is_empty() && settled(&actions).is_empty());
        for sent in sends(&actions) {
            tab.answer(&mut record, sent);
        }
    }
    assert_eq!(tab.contender.lease(), Some(lease));
}

/// What nobody waits for any more costs nothing.
#[test]
fn a_lock_that_is_idle_has_nothing_due() {
    let (mut tab, mut record) = (Tab::new("a", SPEAKING), None);
    assert_eq!(tab.contender.due(), None);
    let lease = tab.hold(&mut record);
    tab.feed(Event::GuardDropped(lease));
    let actions = tab.fire(Timer::Linger);
    tab.answer(&mut record, only_send(&actions));
    assert_eq!(tab.contender.due(), None);
}

/// Keeps `Outcome` in sight of whoever reads this: a refused renewal is the store's word for "not yours".
#[test]
fn a_stale_answer_changes_nothing() {
    let (mut tab, mut record) = (Tab::new("a", ALONE), None);
    tab.hold(&mut record);
    let actions = tab.wait_for(Timer::Beat, 50);
    let (id, command) = only_send(&actions);
    tab.feed(Event::Closing);
    let lease = tab.hold(&mut record);
    let answer = Some(Outcome::Refused);
    let actions = tab.feed(Event::Answer {
        id,
        command,
        answer,
    });
    assert!(actions.is_empty());
    assert_eq!(tab.contender.lease(), Some(lease));
}

#[test]
fn what_was_answered_before_the_store_was_closed_begins_no_lease() {
    let (mut tab, mut record) = (Tab::new("a", SPEAKING), None);
    let (call, actions) = tab.acquire();
    let before = only_send(&actions);
    let actions = tab.feed(Event::Closing);
    let anew = only_send(&actions);
    assert_ne!(take(&actions).who, held_by(&before.1));
    assert!(settled(&tab.answer(&mut record, before)).is_empty());
    // The database is another one now.
    let mut record = None;
    let actions = tab.answer(&mut record, anew);
    assert!(matches!(settled(&actions)[..], [(of, End::Held { .. })] if of == call));
}

fn held_by(command: &Command) -> Requester {
    match command {
        Command::Take(take) => take.who.clone(),
        other => panic!("{other:?}"),
    }
}

// ---- Beats ------------------------------------------------------------------------------------

/// A holder and the head of the queue, of one record, whose clocks agree. A hung one does nothing.
struct Pair {
    tabs: [Tab; 2],
    record: Option<Record>,
    hung: [bool; 2],
    /// Beats and their answers get lost.
    mute: bool,
    writes: usize,
    beats: usize,
    held: Vec<(usize, Now)>,
    lost: Vec<(usize, Now)>,
}

impl Pair {
    fn new() -> Self {
        let around = Around {
            beacons: true,
            ..SPEAKING
        };
        let [mut one, mut two] = ["one", "two"].map(|name| Tab::new(name, around));
        (one.lit, two.lit) = (true, true);
        two.requests = 1000;
        let mut pair = Self {
            tabs: [one, two],
            record: None,
            hung: [false; 2],
            mute: false,
            writes: 0,
            beats: 0,
            held: Vec::new(),
            lost: Vec::new(),
        };
        for tab in 0..2 {
            let (_, actions) = pair.tabs[tab].acquire();
            pair.perform(tab, actions);
        }
        pair
    }

    fn perform(&mut self, tab: usize, actions: Vec<Action>) {
        let now = self.tabs[tab].now;
        for action in actions {
            let more = match action {
                Action::Send { id, command } => {
                    self.writes += 1;
                    self.tabs[tab].answer(&mut self.record, (id, command))
                }
                Action::Look { id, take } => {
                    let before = self.record.clone();
                    let look = (id, Command::Take(take));
                    let more = self.tabs[tab].answer(&mut self.record, look);
                    self.writes += usize::from(before != self.record);
                    more
                }
                Action::Post(message) => {
                    let beats = matches!(message, Message::Beat(_) | Message::Heed(_));
                    self.beats += usize::from(beats);
                    if !self.hung[1 - tab] && !(beats && self.mute) {
                        let more = self.tabs[1 - tab].feed(Event::Heard(message));
                        self.perform(1 - tab, more);
                    }
                    Vec::new()
                }
                Action::Settle { end, .. } => {
                    assert!(matches!(end, End::Held { .. }));
                    self.held.push((tab, now));
                    Vec::new()
                }
                Action::Lose(..) => {
                    self.lost.push((tab, now));
                    Vec::new()
                }
                _ => Vec::new(),
            };
            self.perform(tab, more);
        }
    }

    /// All that is due in so many ms, in time.
    fn pass(&mut self, time: u64) {
        let end = self.tabs[0].now + ms(time);
        loop {
            let due = (0..2).filter(|tab| !self.hung[*tab]);
            let due = due.filter_map(|tab| Some((self.tabs[tab].contender.due()?, tab)));
            let Some(((at, timer), tab)) = due.min().filter(|((at, _), _)| *at <= end) else {
                break;
            };
            for tab in &mut self.tabs {
                tab.now = tab.now.max(at);
            }
            let actions = self.tabs[tab].fire(timer);
            self.perform(tab, actions);
            // Nobody believes in what another holds.
            let believes = |tab: &&Tab| tab.contender.good_until().is_some_and(|u| tab.now < u);
            assert!(self.tabs.iter().filter(believes).count() < 2);
        }
        self.tabs.iter_mut().for_each(|tab| tab.now = end);
    }

    /// The same; how many writes and beats there were.
    fn count(&mut self, time: u64) -> (usize, usize) {
        (self.writes, self.beats) = (0, 0);
        self.pass(time);
        (self.writes, self.beats)
    }
}

#[test]
fn a_steady_lease_is_written_less_than_twice_a_second_while_the_head_goes_by_beats() {
    let mut pair = Pair::new();
    let (writes, beats) = pair.count(1000);
    assert!(writes >= 19 && beats == 0, "{writes} writes, {beats} beats");
    pair.pass(2000);
    let (writes, beats) = pair.count(10_000);
    assert!((12..=20).contains(&writes), "{writes} writes in 10 s");
    assert!((150..=240).contains(&beats), "{beats} beats in 10 s");
    assert_eq!(pair.record.as_ref().unwrap().len, 2000);
    assert!(pair.lost.is_empty() && pair.held.len() == 1);
}

#[test]
fn a_holder_that_hangs_while_it_is_steady_loses_the_lock_within_a_usual_lease() {
    for after in [4000, 4030, 4070, 4500, 4530, 4666, 4999] {
        let mut pair = Pair::new();
        pair.pass(after);
        let hangs = pair.tabs[0].now;
        pair.hung[0] = true;
        pair.pass(1000);
        let (tab, at) = pair.held[1];
        assert_eq!(tab, 1);
        assert!(at - hangs <= ms(510), "{:?}", at - hangs);
        // The holder is told of that before all else.
        pair.hung[0] = false;
        let due = pair.tabs[0].contender.due().unwrap();
        assert_eq!(due.1, Timer::Expiry);
        assert!(due.0 <= at);
    }
}

#[test]
fn a_lease_is_written_often_again_if_the_head_does_not_answer() {
    let mut pair = Pair::new();
    pair.pass(5000);
    pair.mute = true;
    let (writes, _) = pair.count(1000);
    assert!((4..=8).contains(&writes), "{writes} writes");
    assert!(pair.lost.is_empty());
    assert_eq!(
        pair.record.as_ref().unwrap().len,
        500,
        "for whoever else waits"
    );
    pair.mute = false;
    let (writes, _) = pair.count(10_000);
    assert!(writes <= 22, "{writes} writes");
    // The head hangs: the holder is none the worse.
    pair.hung[1] = true;
    pair.pass(5000);
    assert!(pair.lost.is_empty() && pair.held.len() == 1);
}
