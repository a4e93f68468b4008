//! What tabs have of each other: messages and beacons, and how they are disturbed.
//!
//! A message goes to every other tab that is open and has a channel, to each with a fate of its own:
//! lost, late, twice, in any order. A frozen tab hears it when it runs again, if it is not lost; a
//! crashed one never. Some tabs have no channel, in some schedules none has one.
//!
//! A beacon is lit soon after its tab has opened (or late, or never). It goes out some time after the
//! tab has crashed, and never while it is only frozen.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde::Deserialize;
use tab_lease::participant::{Grant, Want};
use tab_lease::rules::Requester;
use tab_lease::{Beacon, Config, Lifecycle, Liveness, Wake};
use tokio::sync::oneshot;

use crate::link::{Link, Parcel, short};
use crate::world::{Lock, State, World};

/// What the locks of one tab are given.
#[derive(Clone)]
pub struct Voice {
    pub wake: Option<Wake>,
    pub liveness: Option<Liveness>,
    pub life: Lifecycle,
}

impl Voice {
    pub fn of(world: &Arc<World>, tab: usize, speaks: bool, beacon: bool) -> Self {
        let wake = speaks.then(|| {
            let world = Arc::clone(world);
            Wake::over(move |message| world.state().carry(tab, message))
        });
        let liveness = beacon.then(|| {
            let world = Arc::clone(world);
            Liveness::by(Light { world, tab })
        });
        let life = Lifecycle::new();
        Self {
            wake,
            liveness,
            life,
        }
    }

    /// A lock object of the tab. Inside the tab.
    pub fn lock(&self, world: &Arc<World>, tab: usize, config: Config) -> Lock {
        let link = Link {
            world: Arc::clone(world),
            tab,
        };
        let key = world.state().wire.key.clone();
        let lock = Lock::with_config(link, key, holder(tab), config);
        let mut lock = lock.expect("the settings are valid");
        if let Some(wake) = &self.wake {
            lock = lock.woken_by(wake);
        }
        if let Some(liveness) = &self.liveness {
            lock = lock.watching(liveness);
        }
        lock.living(&self.life)
    }
}

/// What a tab calls itself.
pub fn holder(tab: usize) -> String {
    format!("tab {tab}")
}

/// Which tab that is in a record. All tabs are one process here, so the part after the `#` is the same.
pub fn tab_of(name: &str) -> Option<usize> {
    let holder = name.split('#').next().unwrap_or_default();
    holder.strip_prefix("tab ")?.parse().ok()
}

/// What a tab hears at its next turn.
pub enum Event {
    Message {
        from: usize,
        what: &'static str,
        bytes: Arc<[u8]>,
    },
    /// A beacon that somebody here waits for went out.
    Ended(oneshot::Sender<()>),
}

/// The crate's own format, read for the log and the counts.
#[derive(Deserialize)]
enum Message {
    Grant(Grant),
    Want(Want),
    Gone(#[expect(dead_code, reason = "postcard reads fields by their order")] Requester),
    Reply {
        #[expect(dead_code, reason = "postcard reads fields by their order")]
        to: Requester,
        free: bool,
    },
}

/// The beacon of a tab.
pub struct Lamp {
    pub lit_at: u64,
    /// How long after the crash it goes out.
    pub glows: u64,
    pub out_at: Option<u64>,
}

impl Lamp {
    pub fn draw(dice: &mut fastrand::Rng, opens_at: u64) -> Self {
        Self {
            lit_at: match dice.u8(0..10) {
                0 => u64::MAX,
                1 => opens_at + dice.u64(100..3000),
                _ => opens_at + dice.u64(0..20),
            },
            glows: match dice.u8(0..5) {
                0 => dice.u64(100..2000),
                _ => dice.u64(0..30),
            },
            out_at: None,
        }
    }
}

struct Light {
    world: Arc<World>,
    tab: usize,
}

impl Beacon for Light {
    fn is_lit(&self) -> bool {
        let state = self.world.state();
        state.now >= state.tabs[self.tab].lamp.lit_at
    }

    fn ended(&self, tab: &str) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (tell, told) = oneshot::channel();
        self.world.state().watch(self.tab, tab, tell);
        Box::pin(async move {
            if told.await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}

/// Who waits for whose beacon to go out.
pub struct Watch {
    by: usize,
    of: usize,
    tell: oneshot::Sender<()>,
}

impl State {
    /// A tab says something to all others.
    fn carry(&mut self, from: usize, message: &[u8]) {
        let now = self.now;
        if self.tabs[from].crashed {
            return;
        }
        let Ok((_, read)) = postcard::from_bytes::<(&str, Message)>(message) else {
            self.fail(|| format!("tab {from} says what nobody understands"));
            return;
        };
        let what = match &read {
            Message::Grant(_) => "grant",
            Message::Want(_) => "want",
            Message::Gone(_) => "leave",
            Message::Reply { .. } => "reply",
        };
        self.note_message(from, &read);
        self.words_now = if self.words_at == now {
            self.words_now + 1
        } else {
            0
        };
        self.words_at = now;
        if self.words_now > 500 {
            self.fail(|| "they talk and talk without a pause".to_owned());
            return;
        }
        let calm = now >= self.weather.calm_from;
        let bytes: Arc<[u8]> = message.into();
        for to in 0..self.tabs.len() {
            let tab = &self.tabs[to];
            if to == from || !tab.speaks || tab.clock.is_none() {
                continue;
            }
            let weather = self.weather.clone();
            let mut roll = |of| !calm && self.dice.u32(0..1000) < of;
            let (lost, twice) = (roll(weather.word_lost), roll(weather.word_twice));
            let late = roll(weather.word_late);
            self.counts.messages += 1;
            if lost {
                self.counts.messages_lost += 1;
                self.log(|| format!("  ✗ tab {to} misses the {what}"));
                continue;
            }
            self.counts.messages_late += u64::from(late);
            self.counts.messages_repeated += u64::from(twice);
            for copy in 0..=u8::from(twice) {
                let delay = if late || copy > 0 {
                    self.dice.u64(0..=2000)
                } else if calm {
                    self.dice.u64(0..=weather.least)
                } else {
                    self.dice.u64(0..=weather.word_delay)
                };
                if !calm {
                    self.wire.trouble_until = self.wire.trouble_until.max(now + delay);
                }
                let bytes = Arc::clone(&bytes);
                let event = Event::Message { from, what, bytes };
                self.post(now + delay, Parcel::Event { to, event });
            }
        }
    }

    fn note_message(&mut self, from: usize, message: &Message) {
        match message {
            Message::Grant(grant) => {
                if grant.granted {
                    self.counts.grants_of_the_store += 1;
                } else {
                    self.counts.delegations += 1;
                    self.tabs[from].handed_on = self.now;
                    // Nobody here had a guard at the turn before.
                    let lingered = !self.had_guard(from, grant.token - 1);
                    self.counts.lingers_ended_by_message += u64::from(lingered);
                }
                self.log(|| {
                    let to = tab_of(&grant.to.tab).unwrap_or(usize::MAX);
                    let vouched = if grant.vouched { "vouched, " } else { "" };
                    let granted = if grant.granted { "granted, " } else { "" };
                    let (token, until) = (short(grant.token), grant.until / 1000);
                    format!(
                        "tab {from} says: {token} is tab {to}'s, {vouched}{granted}\
                         until {until} ms of its clock"
                    )
                });
            }
            Message::Want(want) => {
                if !want.queued {
                    let beat = u64::from(self.tabs[from].config.heartbeat_ms);
                    self.tabs[from].tries_until = self.now + beat;
                }
                let how = if want.queued {
                    "waits for"
                } else {
                    "tries to get"
                };
                self.log(|| format!("tab {from} says: I {how} {}", short(want.token)));
            }
            Message::Gone(_) => {
                self.counts.leaves += 1;
                self.log(|| format!("tab {from} says: I wait no longer"));
            }
            Message::Reply { free, .. } => {
                self.counts.tries_answered_free += u64::from(*free);
                self.counts.tries_answered_busy += u64::from(!*free);
                self.log(|| format!("tab {from} says: free is {free}"));
            }
        }
    }

    /// A tab waits for another's beacon to go out.
    fn watch(&mut self, by: usize, of: &str, tell: oneshot::Sender<()>) {
        self.counts.watches += 1;
        let Some(of) = tab_of(of) else {
            return;
        };
        if self.tabs[of].lamp.lit_at > self.now {
            self.fail(|| format!("tab {by} waits for a beacon of tab {of}, which never was lit"));
        }
        if self.tabs[of].lamp.out_at.is_some() {
            let at = self.now + self.dice.u64(0..=2);
            let event = Event::Ended(tell);
            self.post(at, Parcel::Event { to: by, event });
        } else {
            self.watches.retain(|watch| !watch.tell.is_closed());
            self.watches.push(Watch { by, of, tell });
        }
    }

    /// A beacon goes out.
    pub fn go_out(&mut self, tab: usize) {
        self.log(|| format!("the beacon of tab {tab} goes out"));
        self.tabs[tab].lamp.out_at = Some(self.now);
        let mut told = Vec::new();
        let mut at = 0;
        while at < self.watches.len() {
            if self.watches[at].of == tab {
                told.push(self.watches.remove(at));
            } else {
                at += 1;
            }
        }
        for watch in told {
            self.hear(watch.by, Event::Ended(watch.tell));
        }
    }

    /// Something has come for a tab to hear.
    pub fn hear(&mut self, to: usize, event: Event) {
        if self.tabs[to].crashed {
            return;
        }
        let calm = self.now >= self.weather.calm_from;
        let message = matches!(event, Event::Message { .. });
        if self.tabs[to].frozen && message && !calm && self.dice.u8(0..3) == 0 {
            self.counts.messages_lost += 1;
            return;
        }
        self.tabs[to].inbox.push(event);
    }
}

/// A tab hears what has come, in its turn. With `then` after what its timers have woken, else before.
pub fn listen(world: &Arc<World>, tab: usize, voice: &Voice, event: Event, then: bool) {
    let world = Arc::clone(world);
    let wake = voice.wake.clone();
    let hear = move || match event {
        Event::Message { from, what, bytes } => {
            world
                .state()
                .log(|| format!("tab {tab} hears tab {from}'s {what}"));
            if let Some(wake) = wake {
                wake.receive(&bytes);
            }
        }
        // It may wait no longer.
        Event::Ended(tell) => drop(tell.send(())),
    };
    if then {
        tokio::spawn(async move {
            tokio::task::yield_now().await;
            hear();
        });
    } else {
        hear();
    }
}
