//! The browser's side: a `BroadcastChannel`.

use std::sync::{Arc, Weak};

use js_sys::Uint8Array;
use wasm_bindgen::prelude::*;
use web_sys::{BroadcastChannel, MessageEvent};

use super::{Carrier, Hub, Wake};

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
    fn send(&self, message: &[u8]) {
        // Fails where the channel is closed: the message is lost, as it may be.
        let _ = self.channel.post_message(&Uint8Array::from(message));
    }
}

impl Wake {
    /// Connects all tabs and workers of the origin that use a channel of that name. Where there is no
    /// `BroadcastChannel`, only those that use this very object.
    #[must_use]
    pub fn channel(name: &str) -> Self {
        let Ok(channel) = BroadcastChannel::new(name) else {
            return Self::with(None, false);
        };
        Self(Arc::new_cyclic(|hub: &Weak<Hub>| {
            let hub = hub.clone();
            let on_message = Closure::new(move |event: MessageEvent| {
                if let (Some(hub), Ok(message)) =
                    (hub.upgrade(), event.data().dyn_into::<Uint8Array>())
                {
                    hub.receive(&message.to_vec());
                }
            });
            channel.set_onmessage(Some(on_message.as_ref().unchecked_ref()));
            Hub {
                listeners: Default::default(),
                carrier: Some(Box::new(Channel {
                    channel,
                    _on_message: on_message,
                })),
                complete: true,
            }
        }))
    }
}
