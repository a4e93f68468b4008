//! When to renew, and when to give up.
//!
//! Each [`Tenure`] has one heartbeat: it starts with the tenure and ends it, so there is never a
//! second one for the same lease. It renews every [`Config::heartbeat_ms`](crate::Config), is woken
//! when the last guard was dropped, and never waits for the store past the end of the lease.

use std::sync::Arc;
use std::time::Duration;

use crate::error::LossReason;
use crate::guard::{Phase, Tenure};
use crate::lock::Shared;
use crate::participant::{Due, Renewed};
use crate::platform::sleep_until;
use crate::rules::Command;
use crate::store::BackingStore;

/// Keeps a tenure until it ends, then tells its guards, the store and the waiting callers.
pub(crate) async fn keep<S: BackingStore>(shared: Arc<Shared<S>>, tenure: Arc<Tenure>) {
    let (quit, phase) = hold(&shared, &tenure).await;
    if let Some(quit) = quit {
        shared.quit(quit).await;
    }
    if let Some(phase) = phase {
        tenure.finish(phase);
    }
    shared.wake();
}

/// Renews until the tenure ends. Answers with what the store is to be told, and with what the
/// guards are to be told after that. A loss they have been told already.
async fn hold<S: BackingStore>(
    shared: &Arc<Shared<S>>,
    tenure: &Arc<Tenure>,
) -> (Option<Command>, Option<Phase>) {
    let beat = Duration::from_millis(shared.config.heartbeat_ms.into());
    let mut store_failed = false;
    loop {
        // Never past the end of the lease: from then on somebody else may hold, and the guards
        // must have been told.
        let next = (shared.clock.now() + beat).min(tenure.good_until());
        tokio::select! {
            biased;
            () = tenure.unused.notified() => {}
            () = sleep_until(shared.clock, next) => {}
        }
        let sent = shared.clock.now();
        let renewal = {
            let mut state = shared.state();
            if !state.is_present(tenure) {
                // A caller found it expired before we did, and has told everybody.
                return (None, None);
            }
            if !tenure.is_used() {
                tracing::debug!(key = shared.key, token = tenure.token, "lock released");
                return (state.release(), Some(Phase::Released));
            }
            match state.due(sent) {
                Some(Due::Renew(renewal)) => renewal,
                Some(Due::Expired(quit)) => {
                    state.lose(loss_by_time(store_failed));
                    return (Some(quit), None);
                }
                None => return (None, None),
            }
        };
        let answer = tokio::select! {
            biased;
            answer = shared.store.apply(&shared.key, renewal) => Some(answer),
            () = sleep_until(shared.clock, tenure.good_until()) => None,
        };
        let outcome = match answer {
            Some(Ok(outcome)) => outcome,
            Some(Err(error)) => {
                // There is time for another try while the lease is good.
                tracing::warn!(key = shared.key, %error, "renewal failed");
                store_failed = true;
                continue;
            }
            None => {
                store_failed = true;
                continue;
            }
        };
        let mut state = shared.state();
        let (participant, mut past) = state.participant();
        let renewed =
            participant.renewed(&mut past, tenure.token, sent, shared.clock.now(), &outcome);
        drop(past);
        let (quit, reason) = match renewed {
            Renewed::Until(good_until) => {
                store_failed = false;
                tenure.extend(good_until);
                tracing::trace!(key = shared.key, token = tenure.token, "lease renewed");
                continue;
            }
            Renewed::Late(quit) => (quit, loss_by_time(store_failed)),
            Renewed::Lost(quit) => (quit, LossReason::Superseded),
            // The request ended meanwhile; how is for the next look to find out.
            Renewed::Stale => continue,
        };
        state.lose(reason);
        return (Some(quit), None);
    }
}

fn loss_by_time(store_failed: bool) -> LossReason {
    if store_failed {
        LossReason::StoreFailed
    } else {
        LossReason::Expired
    }
}
