//! What happens to the page of a tab: it is hidden and shown, suspended and resumed.
//!
//! Each is the first thing that is heard in a turn. Of being suspended a tab hears between two turns, so that
//! nothing of it runs but what the event itself calls: mostly it stands still from then on, as a page that is
//! cached or frozen. Now and then it runs on. It may send nothing, either way, before it is resumed.
//!
//! The timers of a hidden tab are late. Here whole turns of it are, which is worse: answers and messages come
//! as late as timers. Such a nap is an eighth of the lease that a hidden tab asks for at most: a second and
//! more, of [`HIDDEN_LEASE_MS`](tab_lease::HIDDEN_LEASE_MS). That may be longer than a usual lease.

use tab_lease::rules::Command;
use tab_lease::{Lifecycle, LossReason};

use crate::schedule::{HORIZON_MS, Stage};
use crate::tab::once;
use crate::world::{State, TabState};

/// How often pages are hidden and suspended in one schedule.
pub struct Weather {
    /// Mean time until a page is hidden.
    hiding: Option<u64>,
    /// Mean time until it is suspended; for how long, at most.
    suspending: Option<(u64, u64)>,
}

impl Weather {
    pub fn draw(dice: &mut fastrand::Rng) -> Self {
        let longest = if dice.bool() { 600 } else { 2500 };
        Self {
            hiding: dice.bool().then(|| dice.u64(100..2000)),
            suspending: (dice.u8(0..3) == 0).then(|| (dice.u64(200..2000), longest)),
        }
    }
}

/// What happens to the page of a tab, and when.
pub struct Plan {
    turns_at: u64,
    suspends_at: u64,
    /// It waits with being suspended until it holds.
    suspends_holding: bool,
    resumes_at: u64,
}

impl Plan {
    pub fn draw(weather: &Weather, dice: &mut fastrand::Rng, opens_at: u64) -> Self {
        let mut plan = Self {
            turns_at: opens_at + after(weather.hiding, dice),
            suspends_at: 0,
            suspends_holding: false,
            resumes_at: 0,
        };
        // One in four is opened in the background.
        if weather.hiding.is_some() && dice.u8(0..4) == 0 {
            plan.turns_at = opens_at;
        }
        plan.next_suspension(weather, dice, opens_at);
        plan
    }

    fn next_suspension(&mut self, weather: &Weather, dice: &mut fastrand::Rng, now: u64) {
        self.suspends_at = now + after(weather.suspending.map(|(mean, _)| mean), dice);
        self.suspends_holding = dice.bool();
    }
}

/// Some time, of that mean; for ever, if there is none.
fn after(mean: Option<u64>, dice: &mut fastrand::Rng) -> u64 {
    mean.map_or(u64::MAX / 2, |mean| dice.u64(0..2 * mean))
}

/// What has happened to the page of a tab, as the judge knows it.
#[derive(Default)]
pub struct Page {
    hidden: bool,
    /// When it was hidden or shown the last time.
    pub turned_at: u64,
    /// When it was shown again the last time; `None`: it never was hidden.
    shown_at: Option<u64>,
    /// It holds, has turned just now, and has not said yet for how long it holds now.
    owes_renewal: bool,
    pub suspended: bool,
    /// When it last went on, after it was suspended.
    pub resumed_at: u64,
}

impl TabState {
    /// Whether it was hidden at `time` or later.
    fn hidden_since(&self, time: u64) -> bool {
        self.page.hidden || self.page.shown_at.is_some_and(|shown| shown >= time)
    }

    /// Whether it ever was.
    pub fn ever_hidden(&self) -> bool {
        self.hidden_since(0)
    }

    /// How late each turn of it may be from `time` on.
    pub fn lateness(&self, time: u64) -> u64 {
        if self.hidden_since(time) {
            u64::from(self.config.hidden_lease_ms / 8)
        } else {
            0
        }
    }

    /// How seldom it may renew from `time` on because it is hidden: three times in a lease.
    pub fn hidden_beat(&self, time: u64) -> u32 {
        if self.hidden_since(time) {
            self.config.hidden_lease_ms / 3
        } else {
            0
        }
    }

    /// What is wrong with how long a lease is asked for: a hidden tab asks for the longer one, whatever it
    /// asks; a shown tab does not. In the moment in which it turns, one that is lost by then may be asked for
    /// again before it is heard that it does.
    fn wrong_len(&self, command: &Command) -> Option<String> {
        let (len, renews) = match command {
            Command::Take(take) => (take.len, false),
            Command::Claim { len, .. } => (*len, false),
            Command::Renew { len, .. } => (*len, true),
            Command::Pass { .. } | Command::Quit { .. } => return None,
        };
        let least = if self.page.hidden {
            self.config.hidden_lease_ms
        } else {
            self.config.lease_ms
        };
        let most = if renews && self.beacon {
            least.max(self.config.idle_lease_ms)
        } else {
            least
        };
        let hidden = self.page.hidden;
        (!(least..=most).contains(&len))
            .then(|| format!("asks for {len} ms, hidden: {hidden}, and not for {least} to {most}"))
    }
}

impl State {
    /// Whether the page of a tab may send that.
    pub fn check_page(&mut self, tab: usize, command: &Command) {
        if self.tabs[tab].page.suspended {
            self.fail(|| format!("tab {tab} is suspended, and sends"));
        }
        if matches!(command, Command::Renew { .. } | Command::Claim { .. }) {
            self.tabs[tab].page.owes_renewal = false;
        }
        let turns = self.tabs[tab].page.turned_at == self.now;
        if let Some(wrong) = self.tabs[tab].wrong_len(command).filter(|_| !turns) {
            self.fail(|| format!("tab {tab} {wrong}"));
        }
    }

    /// A holder that was hidden or shown has asked at once for the other length, unless it waits for an
    /// answer.
    pub fn check_turned(&mut self, tab: usize) {
        if std::mem::take(&mut self.tabs[tab].page.owes_renewal) {
            let hidden = self.tabs[tab].page.hidden;
            self.fail(|| format!("tab {tab} holds, and goes on as if hidden were not {hidden}"));
        }
    }

    fn hide(&mut self, tab: usize, hidden: bool) {
        let now = self.now;
        let owes_renewal = !self.believed(tab).is_empty() && !self.is_renewing(tab);
        let page = &mut self.tabs[tab].page;
        page.hidden = hidden;
        page.turned_at = now;
        page.owes_renewal = owes_renewal;
        if !hidden {
            page.shown_at = Some(now);
        }
        self.counts.hides += u64::from(hidden);
        self.counts.shows += u64::from(!hidden);
        self.log(|| format!("tab {tab} is {}", if hidden { "HIDDEN" } else { "SHOWN" }));
        self.lateness = self.lateness.max(self.tabs[tab].lateness(now));
        self.longest_lease = self.longest_lease.max(self.tabs[tab].longest_lease());
    }

    /// G4: a tab that has just been suspended has lost whatever it held, knows so, and why.
    fn check_suspended(&mut self, tab: usize, believed: &[u64]) {
        let now = self.now;
        let mut wrong = Vec::new();
        let mut lost = Vec::new();
        for held in self.held.iter_mut().filter(|held| held.tab == tab) {
            let Some(guard) = held.guard.upgrade().filter(|_| !held.told) else {
                continue;
            };
            let clock = self.tabs[tab].clock.as_mut().expect("its tab is open");
            let is_held = clock.at(now, || guard.is_held());
            let told = once(held.lost.as_mut());
            held.told = told.is_ready();
            let std::task::Poll::Ready(told) = told else {
                wrong.push(format!("is not told that {} is over", held.token));
                continue;
            };
            // One that had run out before has another reason.
            let expired = !believed.contains(&held.token);
            if is_held || !expired && told.reason != LossReason::Suspended {
                wrong.push(format!("holds: {is_held}, and is told: {told}"));
            }
            lost.push((held.object, told));
        }
        self.counts.losses += lost.len() as u64;
        for (object, lost) in lost {
            self.note_reason(tab, object, lost);
        }
        for wrong in wrong {
            self.fail(|| format!("G4: tab {tab} is suspended, and {wrong}"));
        }
        if self.believes(tab) {
            self.fail(|| format!("G4: tab {tab} is suspended, and believes"));
        }
    }
}

/// What a tab does now.
pub enum Turn {
    StandsStill,
    /// First of all it hears of that.
    Runs(Option<fn(&Lifecycle)>),
}

impl Stage {
    /// What happens to the page of a tab now: one thing at most, since what follows at once from an event of
    /// the page has been done before the next one.
    pub fn pages(&mut self, now: u64, tab: usize) -> Turn {
        let event = self.resumes(now, tab).or_else(|| self.hides(now, tab));
        if event.is_none() && (self.suspends(now, tab) || self.naps(now, tab)) {
            return Turn::StandsStill;
        }
        Turn::Runs(event)
    }

    fn hides(&mut self, now: u64, tab: usize) -> Option<fn(&Lifecycle)> {
        let plan = &mut self.tabs[tab].page;
        if now < plan.turns_at {
            return None;
        }
        let hidden = !self.world.state().tabs[tab].page.hidden;
        if hidden && now >= self.quiet_from {
            plan.turns_at = u64::MAX;
            return None;
        }
        plan.turns_at = match (hidden, self.dice.u8(0..6)) {
            (true, 0) => u64::MAX,
            (true, _) => now + self.dice.u64(1..4000),
            (false, _) => now + after(self.paging.hiding, &mut self.dice),
        };
        self.world.state().hide(tab, hidden);
        Some(if hidden {
            Lifecycle::hide
        } else {
            Lifecycle::show
        })
    }

    fn suspends(&mut self, now: u64, tab: usize) -> bool {
        let plan = &self.tabs[tab].page;
        let mut state = self.world.state();
        if now < plan.suspends_at || now >= self.quiet_from || state.tabs[tab].page.suspended {
            return false;
        }
        let believed = state.believed(tab);
        if plan.suspends_holding && believed.is_empty() {
            return false;
        }
        let longest = self.paging.suspending.map_or(1, |(_, longest)| longest);
        let until = now + self.dice.u64(1..=longest);
        let stops = self.dice.u8(0..4) > 0;
        // It may run again before it is told that it does.
        let later = if self.dice.u8(0..4) == 0 { 200 } else { 0 };
        self.tabs[tab].page.resumes_at = until + self.dice.u64(0..=later);
        state.tabs[tab].page.suspended = true;
        state.counts.suspends += 1;
        state.counts.suspends_holding += u64::from(!believed.is_empty());
        state.counts.suspends_running += u64::from(!stops);
        let asking = state.is_waited_for_in(tab);
        state.counts.suspends_asking += u64::from(asking);
        let how = if stops { "stands still" } else { "runs on" };
        state.log(|| format!("tab {tab} is SUSPENDED, and {how} until {until} ms"));
        drop(state);
        let plan = &self.tabs[tab];
        if let (Some(open), Some(voice)) = (&plan.tab, &plan.voice) {
            open.enter_at(now, || voice.life.suspend());
        }
        let mut state = self.world.state();
        state.check_suspended(tab, &believed);
        state.check_exclusion();
        if stops {
            state.tabs[tab].stands_still(now, until);
            drop(state);
            self.due(until, tab);
        }
        stops
    }

    fn resumes(&mut self, now: u64, tab: usize) -> Option<fn(&Lifecycle)> {
        let plan = &mut self.tabs[tab].page;
        let mut state = self.world.state();
        if !state.tabs[tab].page.suspended || now < plan.resumes_at {
            return None;
        }
        plan.next_suspension(&self.paging, &mut self.dice, now);
        state.tabs[tab].page.suspended = false;
        state.tabs[tab].page.resumed_at = now;
        state.counts.resumes += 1;
        state.log(|| format!("tab {tab} is RESUMED"));
        Some(Lifecycle::resume)
    }

    /// A turn of a hidden tab may be late. Never two in a row.
    fn naps(&mut self, now: u64, tab: usize) -> bool {
        let mut state = self.world.state();
        let this = &mut state.tabs[tab];
        let woke_just_now = this.freezes.last().is_some_and(|(_, to)| *to == now);
        if !this.page.hidden || woke_just_now || this.lateness(now) == 0 || self.dice.u8(0..4) > 0 {
            return false;
        }
        let until = now + self.dice.u64(1..=this.lateness(now));
        this.frozen = true;
        this.freezes.push((now, until));
        state.counts.naps += 1;
        state.log(|| format!("tab {tab} is late: {until} ms"));
        drop(state);
        self.due(until, tab);
        true
    }

    /// When the last page that is suspended goes on.
    pub fn all_resumed_by(&self) -> u64 {
        let state = self.world.state();
        let plans = self.tabs.iter().zip(&state.tabs);
        let suspended = plans.filter(|(_, tab)| tab.page.suspended && !tab.crashed);
        let resumes = suspended.map(|(plan, _)| plan.page.resumes_at + HORIZON_MS);
        resumes.max().unwrap_or_default()
    }
}
