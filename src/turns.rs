//! Turns between this tab's own calls and those who wait elsewhere. Pure.
//!
//! Calls of one tab share a lease. If they overlap without end the lease never drains, and another tab
//! waits for ever. So while somebody else waits, a new call is *held back*: the lease drains, is handed
//! on, and the call queues behind.
//!
//! But the new call may come from code that runs under the lock, which would never end while its own call
//! is held back; JavaScript cannot tell the two apart. So a call is held back for no longer than a
//! *patience*, then it shares. The patience begins at [`PATIENCE_MS`] and doubles each time that it ran out
//! while the same request waits, up to [`MAX_PATIENCE_MS`]:
//!
//! - **no starvation:** some patience is longer than any section (of up to `MAX_PATIENCE_MS`), and then
//!   the lease drains;
//! - **no deadlock:** no call is held back for longer than `MAX_PATIENCE_MS`.
//!
//! Calls that already waited when the lease began share it at once: they are no more than there were.

use crate::participant::Now;
use crate::rules::Requester;
use crate::time::Duration;

/// For how long a new call is held back at first, in ms: longer than most sections, and short enough for a
/// person not to mind.
pub const PATIENCE_MS: u32 = 250;

/// For how long a call is held back at most, in ms. Tabs whose overlapping sections are longer than this
/// may keep others out.
pub const MAX_PATIENCE_MS: u32 = 32_000;

/// A call that is held back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeldBack {
    /// For whom.
    other: Requester,
    patience_ms: u32,
    until: Now,
}

/// What a call may do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Share the lease.
    Share,
    /// Wait until then, or until the lease is handed on.
    Wait(Now),
}

/// For whom calls of this tab were held back in vain, and how patient the next one is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Turns {
    other: Option<Requester>,
    patience_ms: u32,
}

impl Turns {
    /// Whether a call that came while the lease was held here may share it. `held_back`: `None` when the
    /// call first asks; it is the call's own, to be given again. `waits`: who is next elsewhere.
    pub fn turn(
        &mut self,
        held_back: &mut Option<HeldBack>,
        waits: Option<&Requester>,
        now: Now,
    ) -> Turn {
        let Some(waits) = waits else {
            return Turn::Share;
        };
        let patience_ms = self.patience_for(waits);
        let held = held_back.get_or_insert_with(|| HeldBack {
            other: waits.clone(),
            patience_ms,
            until: now + Duration::from_millis(patience_ms.into()),
        });
        if now < held.until {
            return Turn::Wait(held.until);
        }
        if held.other == *waits {
            // Calls that were held back side by side have all run out of one patience: it doubles once.
            let doubled = held.patience_ms.saturating_mul(2);
            self.patience_ms = patience_ms.max(doubled).min(MAX_PATIENCE_MS);
            self.other = Some(waits.clone());
        }
        Turn::Share
    }

    fn patience_for(&self, waits: &Requester) -> u32 {
        if self.other.as_ref() == Some(waits) {
            self.patience_ms
        } else {
            PATIENCE_MS
        }
    }
}
