//! Who takes the frames of ports before IP sees them: looked at each second, and whenever something about links was said.

use super::Daemon;
use crate::{
    kernel::{TakerError, Takers},
    model::Event,
};

impl Daemon {
    /// Looks whether it is somebody else now. Where the kernel does not tell, nothing is known of any port.
    pub(super) fn look_for_takers(&mut self) -> bool {
        if self.ports.attached.is_empty() {
            return false;
        }
        let (sizes, place) = (self.sizes, &self.place);
        let told = |error: TakerError| {
            tracing::warn!(
                "who takes the frames of a port before IP sees them is not told ({error}): promiscuous ports are left to the kernel"
            );
        };
        let takers = self.takers.get_or_insert_with(|| Takers::watch(sizes, place).map_err(told));
        let handlers = match takers {
            Ok(takers) => takers.read().map_err(told),
            Err(()) => return false,
        };
        if handlers.is_err() {
            // Its pin may have been removed: it is made anew.
            self.takers = None;
        }
        let handlers = handlers.unwrap_or_default();
        if handlers == self.model.handlers {
            return false;
        }
        self.model.follow(Event::Handlers(handlers), &mut self.touched);
        true
    }
}
