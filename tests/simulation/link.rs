//! A tab's connection to the store: the one place where disturbances of the store live.
//!
//! What a link may do to a command: apply it late, answer late, fail without having applied it, lose
//! the answer, never answer a renewal or a quit, and apply it long after its sender has given up,
//! was frozen or is gone. What it does not do: apply the commands of one tab in another order than
//! they were sent in, since a browser orders the transactions of one connection. In every eighth
//! schedule it does even that; safety does not need the order, only a prompt recovery does. But it does
//! nothing to what a tab sends while a fenced transaction of its own is on its way or open: that is next
//! behind it in any store that has transactions, and a lease may be good from when it was sent.
//!
//! A store that neither answers nor fails is its own contract's violation (`IndexedDbStore` gives up
//! after a while), so a take that stalls fails in the end.

use std::sync::Arc;

use async_trait::async_trait;
use tab_lease::rules::{self, Command, Outcome, Proof, Requester, Take};
use tab_lease::{BackingStore, MemoryStore};
use tokio::time::sleep;

use crate::tab::{ms, once};
use crate::voice::{Event, tab_of};
use crate::world::{State, TabState, World};

const YEAR_MS: u64 = 365 * 24 * 3600 * 1000;

/// Wall clock at the beginning of every schedule.
const WALL_MS: u64 = 1_700_000_000_000;

/// How a link fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store is unreliable")]
pub struct Unreliable;

/// How bad it is, in one schedule. Chances are per mille and per command. Each is nought in many
/// schedules, so that no disturbance hides what another would show.
#[derive(Clone, Debug)]
pub struct Weather {
    pub fail: u32,
    pub lose_answer: u32,
    pub stall: u32,
    pub late: u32,
    pub slow: u32,
    pub wall_jump: u32,
    /// What else happens to claims and passes: then a lease that was handed on by a message is in no
    /// record for long.
    pub unwritten: u32,
    /// The usual delay, each way; and the one when nothing is wrong. With none at all, what is a ms
    /// early or late is found out soonest.
    pub delay: u64,
    pub least: u64,
    pub unordered: bool,
    /// Whether fenced transactions may hold up the store for a while. Then it does nothing else wrong:
    /// what makes up for them needs a store that applies what it was sent, in the order of sending.
    pub long_fences: bool,
    /// Of messages between tabs.
    pub word_lost: u32,
    pub word_twice: u32,
    pub word_late: u32,
    pub word_delay: u64,
    /// How far a clock may be ahead of the event loop when a message comes: see
    /// [`tab`](crate::tab). The shorter, the more turns.
    pub ahead: u64,
    /// From when on stores are as good as stores are: a few ms each way, and no fault.
    pub calm_from: u64,
}

impl Weather {
    pub fn draw(dice: &mut fastrand::Rng, calm_from: u64) -> Self {
        fn share(dice: &mut fastrand::Rng, of: u32) -> u32 {
            if dice.bool() { 0 } else { dice.u32(0..of) }
        }
        Self {
            fail: share(dice, 150),
            lose_answer: share(dice, 150),
            stall: share(dice, 60),
            late: share(dice, 100),
            slow: share(dice, 300),
            wall_jump: share(dice, 500),
            unwritten: if dice.bool() { share(dice, 900) } else { 0 },
            delay: *dice.choice([0, 2, 10, 60].iter()).unwrap(),
            least: *dice.choice([0, 0, 2].iter()).unwrap(),
            unordered: dice.u8(0..8) == 0,
            word_lost: share(dice, 300),
            word_twice: share(dice, 300),
            word_late: share(dice, 300),
            word_delay: *dice.choice([0, 1, 5, 30].iter()).unwrap(),
            ahead: *dice.choice([1, 5, 10, 20, 40].iter()).unwrap(),
            long_fences: false,
            calm_from,
        }
    }

    /// The same, but for a store that is only held up by long fenced transactions.
    pub fn with_long_fences(self) -> Self {
        Self {
            fail: 0,
            lose_answer: 0,
            stall: 0,
            late: 0,
            slow: 0,
            unwritten: 0,
            delay: 0,
            unordered: false,
            long_fences: true,
            ..self
        }
    }
}

/// What becomes of one command.
struct Fate {
    name: &'static str,
    /// How long it travels; `None`: it never arrives.
    before: Option<u64>,
    /// When it is answered after that; `None`: never.
    after: Option<u64>,
    error: bool,
}

fn fate(weather: &Weather, dice: &mut fastrand::Rng, calm: bool, command: &Command) -> Fate {
    let take = matches!(command, Command::Take(_));
    let handed_on = matches!(command, Command::Claim { .. } | Command::Pass { .. });
    let mut fate = Fate {
        name: "",
        before: Some(dice.u64(0..=weather.least)),
        after: Some(dice.u64(0..=weather.least)),
        error: false,
    };
    if calm {
        return fate;
    }
    if dice.bool() {
        fate.before = Some(dice.u64(0..=weather.delay));
        fate.after = Some(dice.u64(0..=weather.delay));
    }
    let mut roll = dice.u32(0..1000);
    let mut comes = |chance: u32| {
        let comes = roll < chance;
        roll = if comes { u32::MAX } else { roll - chance };
        comes
    };
    if handed_on && comes(weather.unwritten) {
        if dice.bool() {
            (fate.name, fate.before, fate.error) = (" ✗ fails", None, true);
        } else {
            (fate.name, fate.before) = (" ✗ in transit", Some(dice.u64(50..=1500)));
        }
    } else if comes(weather.fail) {
        (fate.name, fate.before, fate.error) = (" ✗ fails", None, true);
    } else if comes(weather.lose_answer) {
        (fate.name, fate.error) = (" ✗ answer lost", true);
    } else if comes(weather.stall) {
        (fate.name, fate.error) = (" ✗ stalls", true);
        if dice.bool() {
            fate.before = None;
        }
        let for_ever = !take && dice.bool();
        fate.after = (!for_ever).then(|| dice.u64(500..=2500));
    } else if comes(weather.late) {
        (fate.name, fate.before) = (" ✗ in transit", Some(dice.u64(100..=1500)));
    } else if comes(weather.slow) {
        fate.name = " ✗ slow";
        fate.before = Some(dice.u64(0..=400));
        fate.after = Some(dice.u64(0..=400));
    }
    fate
}

/// A command on its way, or its answer.
pub struct Op {
    tab: usize,
    command: Option<Command>,
    answer: Option<Result<Option<Outcome>, Unreliable>>,
    /// It only looks: it reads, and changes nothing.
    looks: bool,
    renews: bool,
    /// It arrives even if its sender is gone by then.
    survives: bool,
}

/// A link's side of the world.
pub struct Wire {
    pub memory: MemoryStore,
    pub key: String,
    /// Until when an operation of before the calm goes on.
    pub trouble_until: u64,
    /// When somebody was last told "yours" by the store, or would have been.
    pub granted_at: u64,
    /// Since when the record has been free.
    pub free_since: Option<u64>,
    /// The longest queue since the calm.
    pub longest_queue: usize,
    /// Until when a fenced transaction holds it up.
    pub open_until: u64,
    /// Length, token and count of the record, as it stands; and the tabs of the holder and the queue, in
    /// order, with what it says of their beacons.
    pub len: u64,
    pub token: u64,
    pub count: u64,
    pub involved: Vec<(usize, bool)>,
}

#[derive(Clone)]
pub struct Link {
    pub world: Arc<World>,
    pub tab: usize,
}

/// Dropping it tells the link that its sender waits no longer.
struct InFlight<'a> {
    link: &'a Link,
    op: u64,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut state = self.link.world.state();
        if let Some(op) = state.ops.get_mut(&self.op)
            && !op.survives
        {
            op.command = None;
        }
    }
}

#[async_trait]
impl BackingStore for Link {
    type Error = Unreliable;

    async fn apply(&self, _key: &str, command: Command) -> Result<Outcome, Unreliable> {
        let answer = self.carry(command, false).await?;
        Ok(answer.expect("what is applied has an outcome"))
    }

    async fn look_all(
        &self,
        batch: Vec<(String, Command)>,
    ) -> Vec<Result<Option<Outcome>, Unreliable>> {
        let mut answers = Vec::new();
        for (_, command) in batch {
            answers.push(self.carry(command, true).await);
        }
        answers
    }

    fn leave(&self, _key: &str, who: &Requester) {
        self.world.state().leave(self.tab, who);
    }
}

impl Link {
    /// A command on its way to the store, and its answer back. Nothing, of one that only looks and has to be
    /// applied.
    async fn carry(&self, command: Command, looks: bool) -> Result<Option<Outcome>, Unreliable> {
        let (op, answer_in) = self.world.state().send(self.tab, command, looks);
        let in_flight = InFlight { link: self, op };
        match answer_in {
            None => std::future::pending().await,
            Some(0) => {}
            Some(delay) => sleep(ms(delay)).await,
        }
        while self.world.state().is_held_up(in_flight.op) {
            sleep(ms(1)).await;
        }
        let answer = self.world.state().answer(in_flight.op);
        drop(in_flight);
        answer
    }
}

impl TabState {
    /// When something lands at the store that would land at `at`: behind what was sent before.
    fn lands(&mut self, at: u64, unordered: bool) -> u64 {
        let at = if unordered {
            at
        } else {
            at.max(self.last_landing)
        };
        self.last_landing = self.last_landing.max(at);
        at
    }

    /// Somebody who asks without pausing would stop virtual time.
    fn storms(&mut self, now: u64) -> bool {
        self.sent_now = if self.sent_at == now {
            self.sent_now + 1
        } else {
            0
        };
        self.sent_at = now;
        self.sent_now > 500
    }

    /// Puts this tab's wall clock into a take.
    fn stamp(&mut self, take: &mut Take, now: u64, jumps: bool) {
        if jumps {
            self.wall = WALL_MS - YEAR_MS + self.dice.u64(0..2 * YEAR_MS);
        }
        take.wall = self.wall + now;
        // Nobody deletes records here, so this is the first one; its numbers are to be the same in every
        // run.
        take.fresh.token = take.wall * 1024;
        take.fresh.epoch = 1;
    }
}

impl State {
    fn count(&mut self, command: &Command, usual: u32) {
        let counts = &mut self.counts;
        match command {
            Command::Renew { len, .. } => counts.idle_renewals += u64::from(*len > usual),
            Command::Claim { token, .. } => {
                let by_store = (*token, 0) == (self.wire.token, self.wire.count);
                counts.started_by_word_of_the_store += u64::from(by_store);
            }
            Command::Take(take) => {
                let asks = matches!(take.proof, Proof::Delegated { .. });
                counts.grants_asked_first += u64::from(asks);
            }
            Command::Pass { .. } | Command::Quit { .. } => {}
        }
    }

    /// Accepts a command; says which operation that is, and how soon it is answered.
    fn send(&mut self, tab: usize, mut command: Command, looks: bool) -> (u64, Option<u64>) {
        let now = self.now;
        let calm = now >= self.weather.calm_from;
        let fenced = self.is_behind_a_fence(tab);
        let link = &mut self.tabs[tab];
        let fate = fate(&self.weather, &mut link.dice, calm || fenced, &command);
        let storm = link.storms(now);
        if let Command::Take(take) = &mut command {
            let jumps = !calm && link.dice.u32(0..1000) < self.weather.wall_jump;
            link.stamp(take, now, jumps);
        }
        self.check_page(tab, &command);
        let link = &mut self.tabs[tab];
        let quit = matches!(command, Command::Quit { .. });
        if matches!(command, Command::Quit { .. } | Command::Pass { .. }) && fate.before.is_none() {
            link.quit_lost = true;
        }
        let unordered = self.weather.unordered;
        let lands = fate
            .before
            .map(|before| link.lands(now + before, unordered));
        let answered = fate.after.map(|after| lands.unwrap_or(now) + after);
        let survives = quit || link.dice.bool();
        // Whoever waits for an answer that never comes stops waiting at the end of its lease.
        let lease = link.longest_lease();
        let usual = if link.ever_hidden() {
            link.config.hidden_lease_ms
        } else {
            link.config.lease_ms
        };
        if !looks {
            self.count(&command, usual);
        }
        let disturbed = lands.max(answered.or(Some(now + lease))).unwrap_or(now);
        if !calm {
            self.wire.trouble_until = self.wire.trouble_until.max(disturbed);
        }
        if matches!(command, Command::Pass { .. }) && !self.tabs[tab].speaks {
            self.fail(|| format!("tab {tab} hands a lease on by message, and has no channel"));
        }
        if storm {
            self.fail(|| format!("tab {tab} asks and asks without a pause"));
        }
        let how = if looks { "looks, to" } else { "sends" };
        self.log(|| format!("tab {tab} {how} {}{}", brief(&command), fate.name));

        let sent = Op {
            tab,
            renews: matches!(command, Command::Renew { .. } | Command::Claim { .. }),
            command: Some(command),
            answer: fate.error.then_some(Err(Unreliable)),
            looks,
            survives,
        };
        let op = self.dispatch(sent, lands);
        // Whoever asked in a loop waits for ever, instead of the test.
        let answered = answered.filter(|_| !storm);
        (op, answered.map(|at| at - now))
    }

    /// Puts it on its way.
    fn dispatch(&mut self, sent: Op, lands: Option<u64>) -> u64 {
        let op = self.next_op;
        self.next_op += 1;
        self.ops.insert(op, sent);
        match lands {
            Some(at) if at <= self.now => self.land(op),
            Some(at) => self.post(at, Parcel::Command(op)),
            None => {}
        }
        op
    }

    /// A quit that nobody waits for: its sender is about to be stopped. It may get lost.
    fn leave(&mut self, tab: usize, who: &Requester) {
        let now = self.now;
        let calm = now >= self.weather.calm_from;
        let command = Command::Quit { who: who.clone() };
        let link = &mut self.tabs[tab];
        let fate = fate(&self.weather, &mut link.dice, calm, &command);
        let unordered = self.weather.unordered;
        let lands = fate
            .before
            .map(|before| link.lands(now + before, unordered));
        let lost = lands.is_none();
        link.quit_lost |= lost;
        let suspended = link.page.suspended;
        self.counts.blind_leaves += 1;
        self.counts.blind_leaves_lost += u64::from(lost);
        self.log(|| {
            format!(
                "tab {tab} leaves blindly{}",
                if lost { " ✗ lost" } else { "" }
            )
        });
        if !suspended {
            self.fail(|| format!("tab {tab} leaves blindly, and is not suspended"));
        }
        if !calm {
            self.wire.trouble_until = self.wire.trouble_until.max(lands.unwrap_or_default());
        }
        let sent = Op {
            tab,
            renews: false,
            command: Some(command),
            answer: None,
            looks: false,
            survives: true,
        };
        self.dispatch(sent, lands);
    }

    /// Whether a tab waits for what becomes of a renewal or a claim.
    pub fn is_renewing(&self, tab: usize) -> bool {
        let renews = |op: &Op| op.tab == tab && op.renews;
        self.ops.values().any(renews)
    }

    /// Whether an operation has not been applied because of a fenced transaction.
    fn is_held_up(&self, op: u64) -> bool {
        let op = self.ops.get(&op);
        op.is_some_and(|op| op.command.is_some() && op.answer.is_none())
    }

    /// A command arrives at the store.
    pub fn land(&mut self, op: u64) {
        if self.now < self.wire.open_until {
            return self.post(self.wire.open_until, Parcel::Command(op));
        }
        let Some(found) = self.ops.get_mut(&op) else {
            return;
        };
        let (tab, Some(command)) = (found.tab, found.command.take()) else {
            return;
        };
        if found.looks {
            return self.look(op, &command);
        }
        let key = self.wire.key.clone();
        if self.now < self.weather.calm_from
            && self.dice.u32(0..1000) < self.weather.wall_jump
            && let Some(mut record) = self.wire.memory.record(&key)
        {
            // Another machine's clock wrote it.
            record.since = WALL_MS - YEAR_MS + self.dice.u64(0..2 * YEAR_MS);
            self.wire.memory.set_record(&key, Some(record));
        }
        let what = brief(&command);
        let dead = matches!(
            &command,
            Command::Take(Take {
                proof: Proof::Dead(_),
                ..
            })
        );
        let pass = matches!(command, Command::Pass { .. });
        let sighting = |memory: &MemoryStore| memory.record(&key).map(|record| record.sighting());
        let before = sighting(&self.wire.memory);
        let std::task::Poll::Ready(Ok(outcome)) = once(self.wire.memory.apply(&key, command))
        else {
            unreachable!("the memory store answers at once");
        };
        self.log(|| format!("  store: tab {tab}'s {what} → {}", told(&outcome)));
        self.counts.takeovers_by_beacon += u64::from(dead && matches!(outcome, Outcome::Held(_)));
        let granted = matches!(outcome, Outcome::Gone { granted: Some(_) });
        self.counts.passes_needed += u64::from(pass && granted);
        // A lease begins or is extended; also one that a quit, or a take that names one, grants.
        if sighting(&self.wire.memory) != before {
            self.wire.granted_at = self.now;
        }
        self.look_at_record();
        if let Some(found) = self.ops.get_mut(&op) {
            found.answer.get_or_insert(Ok(Some(outcome)));
        }
    }

    /// A look arrives at the store.
    fn look(&mut self, op: u64, command: &Command) {
        let record = self.record();
        let seen = record.and_then(|record| rules::look(&record, command));
        self.counts.looks += 1;
        self.counts.looks_enough += u64::from(seen.is_some());
        self.log(|| {
            let told = seen
                .as_ref()
                .map_or("it has to be applied".to_owned(), told);
            format!("  store: {} → {told}", brief(command))
        });
        if let Some(found) = self.ops.get_mut(&op) {
            found.answer.get_or_insert(Ok(seen));
        }
    }

    fn answer(&mut self, op: u64) -> Result<Option<Outcome>, Unreliable> {
        let op = self.ops.remove(&op);
        let answer = op.and_then(|op| op.answer);
        answer.expect("an answer comes after the arrival")
    }
}

/// What travels outside of the tabs.
pub enum Parcel {
    /// A command to the store.
    Command(u64),
    /// A write that carries a fencing token, to whatever the lock protects.
    Write { tab: usize, token: u64 },
    /// A fenced transaction.
    Fence(usize),
    /// Something for a tab to hear.
    Event { to: usize, event: Event },
    /// The beacon of a tab goes out.
    Out(usize),
}

impl Parcel {
    /// Whether a tab may hear of it.
    pub fn is_word(&self) -> bool {
        matches!(self, Self::Event { .. } | Self::Out(_))
    }
}

fn brief(command: &Command) -> String {
    match command {
        Command::Take(take) => match &take.proof {
            Proof::None => "take".to_owned(),
            Proof::Unchanged(_) => "take over".to_owned(),
            Proof::Delegated { token, .. } => format!("take what {} gave", short(*token)),
            Proof::Dead(tabs) => format!("take over from {} dead", tabs.len()),
        },
        Command::Claim { token, .. } => format!("claim {}", short(*token)),
        Command::Renew { token, len, .. } => format!("renew {} for {len} ms", short(*token)),
        Command::Pass { token, .. } => format!("pass of {}", short(*token)),
        Command::Quit { .. } => "quit".to_owned(),
    }
}

fn told(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Held(held) => format!("held {}", short(held.token)),
        Outcome::Waiting(waiting) => {
            let sighting = waiting.sighting;
            let (token, count) = (short(sighting.token), sighting.count);
            let before = waiting.before.len();
            format!("waiting, saw {token}.{count}, {before} before it")
        }
        Outcome::Refused => "refused".to_owned(),
        Outcome::Gone { granted: None } => "gone".to_owned(),
        Outcome::Gone {
            granted: Some(granted),
        } => {
            let to = tab_of(&granted.to.who.tab).unwrap_or(usize::MAX);
            format!("gone, tab {to} has {}", short(granted.token))
        }
    }
}

/// The last digits of a token.
pub fn short(token: u64) -> u64 {
    token % 100_000
}

/// Where a tab's wall clock starts.
pub fn wall(dice: &mut fastrand::Rng) -> u64 {
    if dice.bool() {
        WALL_MS
    } else {
        WALL_MS - YEAR_MS + dice.u64(0..2 * YEAR_MS)
    }
}
