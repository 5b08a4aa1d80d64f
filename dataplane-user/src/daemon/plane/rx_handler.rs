//! Which protocols take the frames of links before IP sees them.

use std::collections::BTreeMap;

use dataplane_common::abi::Ifindex;

use crate::{
    fib::TableSizes,
    kernel::{PinDirs, RxHandlerError, RxHandlers},
};

/// What says it, once it was wanted; none where that failed.
#[derive(Default)]
pub(super) struct RxWatch(Option<Result<RxHandlers, ()>>);

impl RxWatch {
    /// What it says. Nothing is known of any link where it fails now; none where it failed before.
    pub(super) fn read(&mut self, sizes: TableSizes, place: &PinDirs) -> Option<BTreeMap<Ifindex, String>> {
        let failed = |error: RxHandlerError| {
            tracing::warn!(
                "cannot find out which device takes the frames of a port before IP ({error}): promiscuous ports are left to the kernel"
            );
        };
        let rx_handlers = self.0.get_or_insert_with(|| RxHandlers::watch(sizes, place).map_err(failed));
        let handlers = rx_handlers.as_ref().ok()?.read().map_err(failed);
        if handlers.is_err() {
            // Its pin may have been removed: it is made anew.
            self.0 = None;
        }
        Some(handlers.unwrap_or_default())
    }

    /// Whether another program removed the pin that it is read by.
    pub(super) fn is_unpinned(&self) -> bool {
        matches!(&self.0, Some(Ok(rx_handlers)) if !rx_handlers.is_pinned())
    }

    /// Makes it anew, in place of one that lost its pin.
    pub(super) fn renew(&mut self, sizes: TableSizes, place: &PinDirs) -> Result<(), RxHandlerError> {
        self.0 = Some(Ok(RxHandlers::watch(sizes, place)?));
        Ok(())
    }
}
