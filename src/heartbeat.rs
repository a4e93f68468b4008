//! When to renew, and when to give up.
//!
//! Each [`Tenure`] has one heartbeat: it starts with the tenure and ends it, so there is never a
//! second one for the same lease. It claims a lease that began by a message, renews every
//! [`Config::heartbeat_ms`](crate::Config) (less often, while the participant has a longer lease), is
//! stirred when the last guard was dropped or somebody wants the lock, and never waits for the store
//! past the end of the lease.
//!
//! Beside it [`watch`] tells of a lease that ran out unseen, where the platform has a way to be first.
//!
//! While a fenced transaction holds the store up, renewals are sent though the ones before have not been
//! answered: see [`Participant::due`](crate::participant::Participant::due).
//!
//! A lease without guards lingers for a beat, if nobody wants it. Lingering is holding: the loop is the
//! same.

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::error::LossReason;
use crate::guard::{Phase, Tenure};
use crate::lock::Shared;
use crate::participant::{Due, Release, Renewed};
use crate::platform::{Spawner, sleep_until, step_back, urgent_sleep_until};
use crate::rules::Command;
use crate::store::BackingStore;
use crate::sync::select;
use crate::wake::Message;

/// How often a lease that is longer than usual is renewed within its length.
const LONG_BEATS: u32 = 3;

/// Keeps a tenure until it ends, then tells its guards, the store and the waiting callers.
pub(crate) async fn keep<S: BackingStore>(shared: Arc<Shared<S>>, tenure: Arc<Tenure>) {
    match hold(&shared, &tenure).await {
        End::Told => {}
        End::Lost(quit) => _ = shared.quit(quit).await,
        End::Released(Some(Release::Quit(quit))) => {
            shared.quit(quit).await;
            tenure.enter(Phase::Released);
        }
        End::Released(Some(Release::Delegate(grant, pass))) => {
            shared.answer_tries(false);
            tenure.enter(Phase::Released);
            // Callers that come now need not wait for what follows the message.
            shared.wake();
            return shared.pass(&grant, &pass).await;
        }
        End::Released(None) => tenure.enter(Phase::Released),
    }
    shared.wake();
}

/// How a tenure ended.
enum End {
    /// Somebody else has told everybody.
    Told,
    /// The guards have been told; the store has not.
    Lost(Command),
    /// Of a delegation the message has been sent.
    Released(Option<Release>),
}

/// Renews until the tenure ends.
async fn hold<S: BackingStore>(shared: &Arc<Shared<S>>, tenure: &Arc<Tenure>) -> End {
    let beat = Duration::from_millis(shared.config.heartbeat_ms.into());
    let mut closing = pin!(shared.store.closing());
    let mut lingers_until = Duration::MAX;
    let mut stirred = false;
    let mut next = shared.clock.now();
    if !shared.state().participant.is_unclaimed() {
        next += beat;
    } else {
        // A lease that began by a message is claimed at once, but it is good already: whoever waited for
        // it goes on first.
        step_back().await;
    }
    loop {
        // Never past the end of the lease: from then on somebody else may hold, and the guards
        // must have been told.
        let mut look = next.min(tenure.good_until());
        if tenure.phase() == Phase::Lingering {
            look = look.min(lingers_until);
        }
        // Kept for the whole turn: a hand-over does not wait until it is cleared.
        let mut timer = pin!(sleep_until(shared.clock, look));
        if !stirred && shared.clock.now() < look {
            select! {
                () = &mut closing => return closed(shared, tenure),
                () = tenure.stirred.notified() => {},
                () = &mut timer => {},
            }
        }
        stirred = false;
        let sent = shared.clock.now();
        let renewal = {
            let mut state = shared.state();
            if !state.is_present(tenure) {
                // A caller found it expired before we did, and has told everybody.
                return End::Told;
            }
            if !tenure.is_used() {
                if tenure.phase() == Phase::Held {
                    lingers_until = sent + beat;
                }
                // A quit in place of the claim would leave the record with the delegator.
                let claimed = !state.participant.is_unclaimed();
                let over = state.is_wanted() || !shared.lingers(&state);
                if sent >= lingers_until || claimed && over {
                    let release = state.release(sent, shared.is_mute());
                    drop(state);
                    if let Some(Release::Delegate(grant, _)) = &release {
                        shared.tell(&Message::Grant(grant.clone()));
                    }
                    tracing::debug!(key = shared.key, token = tenure.token, "lock released");
                    return End::Released(release);
                }
                tenure.enter(Phase::Lingering);
            } else if state.is_tried() {
                // Somebody here was faster than those who try elsewhere.
                drop(state);
                shared.answer_tries(false);
                stirred = true;
                continue;
            }
            let cut_short = state.participant.is_too_long();
            let due = sent >= next || sent >= tenure.good_until();
            if !tenure.is_outdated() && !cut_short && !due {
                continue;
            }
            match state.due(sent, shared.is_lit()) {
                Some(Due::Renew(renewal)) => {
                    // It may have become shorter.
                    state.extend();
                    let long = state.participant.long().map(|long| long / LONG_BEATS);
                    next = sent + long.unwrap_or(beat).max(beat);
                    renewal
                }
                Some(Due::Expired(quit)) => {
                    let reason = state.loss_by_time();
                    state.lose(reason);
                    return End::Lost(quit);
                }
                None => return End::Told,
            }
        };
        let answer = {
            let mut renewed = pin!(shared.store.apply(&shared.key, renewal.clone()));
            let mut behind = sent;
            tenure.renewing.store(true, Ordering::Release);
            loop {
                // While a fenced transaction holds the store up, renewals queue behind it.
                let fenced = shared.state().participant.is_fenced();
                let pace = beat.max(Duration::from_millis(shared.config.lease_ms.into()) / 4);
                let look = if fenced { behind + pace } else { Duration::MAX };
                select! {
                    () = &mut closing => return closed(shared, tenure),
                    answer = &mut renewed => break Some(answer),
                    () = tenure.stirred.notified() => {
                        stirred = true;
                        let state = shared.state();
                        if !tenure.is_used() && state.is_wanted() && !state.participant.is_unclaimed() {
                            // Whoever waits need not wait for that as well.
                            break None;
                        }
                    },
                    () = sleep_until(shared.clock, look.min(tenure.good_until())) => {
                        let now = shared.clock.now();
                        if now >= tenure.good_until() {
                            shared.state().store_failed = true;
                            break None;
                        }
                        if now >= look {
                            behind = now;
                            renew_behind(shared, tenure, now);
                        }
                    },
                }
            }
        };
        tenure.renewing.store(false, Ordering::Release);
        let outcome = match answer {
            Some(Ok(outcome)) => outcome,
            Some(Err(error)) => {
                // There is time for another try while the lease is good.
                tracing::warn!(key = shared.key, %error, "renewal failed");
                shared.state().store_failed = true;
                renewal_failed(shared, tenure);
                next = next.min(sent + beat).max(shared.clock.now());
                continue;
            }
            None => continue,
        };
        let mut state = shared.state();
        let was_wanted = state.participant.is_wanted();
        let (participant, mut past) = state.participant();
        let renewed = participant.renewed(&mut past, &renewal, sent, shared.clock.now(), &outcome);
        drop(past);
        let (quit, reason) = match renewed {
            Renewed::Until(good_until) => {
                if was_wanted && !state.participant.is_wanted() {
                    // Calls of this tab that were held back for whoever has given up.
                    shared.wake();
                }
                state.store_failed = false;
                // A long lease that turns out to be waited for is cut short now.
                stirred |= state.participant.is_too_long();
                // It may have been let go of before it was claimed.
                stirred |= !tenure.is_used();
                tenure.extend(good_until);
                tracing::trace!(key = shared.key, token = tenure.token, "lease renewed");
                continue;
            }
            Renewed::Late(quit) => (quit, state.loss_by_time()),
            Renewed::Lost(quit) => (quit, LossReason::Superseded),
            // The request ended meanwhile; how is for the next look to find out.
            Renewed::Stale => continue,
        };
        state.lose(reason);
        return End::Lost(quit);
    }
}

/// The store is closed by somebody else: the lease is over before that is done.
fn closed<S: BackingStore>(shared: &Arc<Shared<S>>, tenure: &Arc<Tenure>) -> End {
    let mut state = shared.state();
    if !state.is_present(tenure) {
        return End::Told;
    }
    let (participant, mut past) = state.participant();
    let quit = participant.end(&mut past);
    drop(past);
    state.lose(LossReason::StoreClosed);
    quit.map_or(End::Told, End::Lost)
}

/// Tells of a lease that ran out while nothing of this page ran, before anything else of it runs again:
/// the heartbeat's own timer would wait its turn behind the page's. One for each lock object that holds.
pub(crate) async fn watch<S: BackingStore>(shared: Weak<Shared<S>>) {
    // Whoever waited goes on first; if it hangs at once, the look below still comes before the next task.
    step_back().await;
    loop {
        let Some((clock, end)) = shared.upgrade().and_then(|shared| {
            let good_until = shared.state().watched_until();
            Some((shared.clock, good_until?))
        }) else {
            return;
        };
        urgent_sleep_until(clock, end).await;
        if let Some(shared) = shared.upgrade() {
            let now = shared.clock.now();
            shared.state().expire(&shared, now);
        }
    }
}

/// Renews, though the last renewal has not been answered: a fenced transaction holds the store up. What
/// comes of it is heard in a task of its own.
fn renew_behind<S: BackingStore>(shared: &Arc<Shared<S>>, tenure: &Arc<Tenure>, sent: Duration) {
    let renewal = {
        let mut state = shared.state();
        if !state.is_present(tenure) {
            return;
        }
        let Some(Due::Renew(renewal)) = state.due(sent, shared.is_lit()) else {
            return;
        };
        state.extend();
        renewal
    };
    let (shared, tenure) = (Arc::clone(shared), Arc::clone(tenure));
    Spawner::current().spawn(async move {
        let Ok(outcome) = shared.store.apply(&shared.key, renewal.clone()).await else {
            return renewal_failed(&shared, &tenure);
        };
        let mut state = shared.state();
        let (participant, mut past) = state.participant();
        let renewed = participant.renewed(&mut past, &renewal, sent, shared.clock.now(), &outcome);
        drop(past);
        match renewed {
            Renewed::Until(_) => state.extend(),
            Renewed::Late(quit) => shared.lose(&mut state, LossReason::Expired, quit),
            Renewed::Lost(quit) => shared.lose(&mut state, LossReason::Superseded, quit),
            Renewed::Stale => {}
        }
    });
}

/// The lease is good for no longer than what was answered says.
fn renewal_failed<S: BackingStore>(shared: &Arc<Shared<S>>, tenure: &Arc<Tenure>) {
    let mut state = shared.state();
    if state.is_present(tenure) {
        state.participant.renewal_failed();
        state.extend();
        tenure.stirred.notify_one();
    }
}
