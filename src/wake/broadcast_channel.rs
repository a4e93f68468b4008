//! The browser's side: a `BroadcastChannel`, deaf while the page is frozen.

use std::sync::Arc;

use js_sys::Array;
use wasm_bindgen::prelude::*;
use web_sys::{BroadcastChannel, MessageEvent};

use super::{Carrier, Wake};
use crate::lifecycle::Lifecycle;

struct Channel {
    channel: BroadcastChannel,
    _on_message: Closure<dyn FnMut(MessageEvent)>,
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.channel.set_onmessage(None);
        self.channel.close();
    }
}

impl Carrier for Channel {
    fn send(&self, key: &str, tab: &str) {
        let message = Array::of2(&key.into(), &tab.into());
        // Fails where the channel is closed: the message is lost, as it may be.
        let _ = self.channel.post_message(&message);
    }
}

impl Wake {
    /// Wakes waiters in all tabs and workers of the origin that use a channel of that name.
    /// Where there is no `BroadcastChannel`, only those that use this very object.
    #[must_use]
    pub fn channel(name: &str) -> Self {
        let wake = Self::local();
        let Ok(channel) = BroadcastChannel::new(name) else {
            return wake;
        };
        let hub = Arc::downgrade(&wake.0);
        let lifecycle = Lifecycle::watch();
        let on_message = Closure::new(move |event: MessageEvent| {
            // A frozen page still gets messages, but no answers from the store: a transaction
            // opened now would stay open and block everybody.
            if lifecycle.is_frozen() {
                return;
            }
            // Anybody may write to the channel.
            let (Some(hub), Ok(message)) = (hub.upgrade(), event.data().dyn_into::<Array>()) else {
                return;
            };
            let (key, tab) = (message.get(0).as_string(), message.get(1).as_string());
            if let (Some(key), Some(tab)) = (key, tab) {
                hub.ring(&key, &tab);
            }
        });
        channel.set_onmessage(Some(on_message.as_ref().unchecked_ref()));
        let carrier = Channel {
            channel,
            _on_message: on_message,
        };
        // Nobody else has this hub yet.
        let _ = wake.0.carrier.set(Box::new(carrier));
        wake
    }
}
