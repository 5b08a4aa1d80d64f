//! Who takes the frames of ports before IP sees them: looked at each second, and whenever something about links was said.

use super::Daemon;
use crate::{
    kernel::{RxHandlerError, RxHandlers},
    model::Event,
};

impl Daemon {
    /// Looks whether it is somebody else now. Where the kernel does not tell, nothing is known of any port.
    pub(super) fn update_rx_handlers(&mut self) -> bool {
        if self.ports.attached.is_empty() {
            return false;
        }
        let (sizes, dirs) = (self.sizes, &self.pin_dirs);
        let logged = |error: RxHandlerError| {
            tracing::warn!(
                "who takes the frames of a port before IP sees them is not told ({error}): promiscuous ports are left to the kernel"
            );
        };
        let rx_handlers = self.rx_handlers.get_or_insert_with(|| RxHandlers::watch(sizes, dirs).map_err(logged));
        let handlers = match rx_handlers {
            Ok(rx_handlers) => rx_handlers.read().map_err(logged),
            Err(()) => return false,
        };
        if handlers.is_err() {
            // Its pin may have been removed: it is made anew.
            self.rx_handlers = None;
        }
        let handlers = handlers.unwrap_or_default();
        if handlers == self.model.handlers {
            return false;
        }
        self.model.follow(Event::Handlers(handlers), &mut self.touched);
        true
    }
}
