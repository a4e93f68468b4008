//! The browser's side: a `BroadcastChannel`.

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use js_sys::Uint8Array;
use wasm_bindgen::prelude::*;
use web_sys::{BroadcastChannel, MessageEvent};

use super::{Carrier, Hub, Wake};
use crate::lifecycle::{Lifecycle, Live};

struct Channel {
    name: String,
    /// Closed while the page is suspended: a message for a page in the back/forward cache would end
    /// that page.
    open: RefCell<Option<BroadcastChannel>>,
    on_message: Closure<dyn FnMut(MessageEvent)>,
}

impl Channel {
    fn open(&self) -> bool {
        let channel = BroadcastChannel::new(&self.name).ok();
        if let Some(channel) = &channel {
            channel.set_onmessage(Some(self.on_message.as_ref().unchecked_ref()));
        }
        self.open.replace(channel);
        self.open.borrow().is_some()
    }

    fn close(&self) {
        if let Some(channel) = self.open.take() {
            channel.set_onmessage(None);
            channel.close();
        }
    }
}

impl Live for Channel {
    fn hidden(&self, _: bool) {}

    fn suspended(&self, suspended: bool) {
        if suspended {
            self.close();
        } else {
            self.open();
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.close();
    }
}

impl Carrier for Arc<Channel> {
    fn send(&self, message: &[u8]) {
        if let Some(channel) = &*self.open.borrow() {
            // Fails where the channel is closed: the message is lost, as it may be.
            let _ = channel.post_message(&Uint8Array::from(message));
        }
    }
}

impl Wake {
    /// Connects all tabs and workers of the origin that use a channel of that name. Where there is no
    /// `BroadcastChannel`, only those that use this very object.
    #[must_use]
    pub fn channel(name: &str) -> Self {
        Self(Arc::new_cyclic(|hub: &Weak<Hub>| {
            let hub = hub.clone();
            let on_message = Closure::new(move |event: MessageEvent| {
                if let (Some(hub), Ok(message)) =
                    (hub.upgrade(), event.data().dyn_into::<Uint8Array>())
                {
                    hub.receive(&message.to_vec());
                }
            });
            #[allow(clippy::arc_with_non_send_sync, reason = "there are no threads")]
            let channel = Arc::new(Channel {
                name: name.to_owned(),
                open: RefCell::default(),
                on_message,
            });
            let complete = channel.open();
            let watcher = Arc::downgrade(&channel);
            Lifecycle::page().watch(watcher);
            Hub {
                listeners: Default::default(),
                carrier: Some(Box::new(channel)),
                complete,
            }
        }))
    }
}
