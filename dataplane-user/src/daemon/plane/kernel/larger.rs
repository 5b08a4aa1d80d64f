//! Larger tables, programs that read them, and what these take the place of.

use dataplane_common::abi::Features;

use super::KernelPlane;
use crate::{
    fib::TableSizes,
    filter::Image,
    kernel::{GrowableMaps, Hook, Object, ObjectError, PinDirs},
    lower::Want,
};

/// Programs of before, and tables, where these were made anew.
pub(super) struct Former {
    pub(super) object: Object,
    pub(super) tables: Option<(GrowableMaps, TableSizes, PinDirs)>,
}

impl KernelPlane {
    pub(super) fn place(&mut self, object: Object, tables: Option<(GrowableMaps, TableSizes, PinDirs)>) {
        let object = std::mem::replace(&mut self.object, object);
        let tables = tables.map(|(routing, sizes, place)| {
            let routing = std::mem::replace(&mut self.tables.routing, routing);
            (routing, std::mem::replace(&mut self.sizes, sizes), std::mem::replace(&mut self.pin_dirs, place))
        });
        self.former = Some(Former { object, tables });
    }

    /// Programs for the tables there are: those that had these features a moment ago, or others.
    pub(super) fn with_features(&mut self, features: Features) -> Result<Object, ObjectError> {
        let spare = self.spare.take_if(|spare| spare.features() == features);
        tracing::debug!(?features, again = spare.is_some(), "programs with other features");
        spare.map_or_else(|| Object::open(features, self.sizes, &self.pin_dirs), Ok)
    }

    /// Lets go of what was there before.
    pub(super) fn forget_former(&mut self) -> anyhow::Result<()> {
        let Some(Former { object, tables }) = self.former.take() else { return Ok(()) };
        let Some((routing, _, place)) = tables else {
            // Programs that watch packets, or those that do not, are wanted again after a while; others cost memory.
            let others = (object.features() ^ self.object.features()).difference(Features::TRACING);
            self.spare = Some(object).filter(|_| others.is_empty());
            return Ok(());
        };
        routing.retire()?;
        self.pins.hold(&self.pin_dirs)?;
        self.pins.forget(&place.routing);
        self.bpffs.forget_routing(&place);
        tracing::info!(sizes = ?self.sizes, "larger tables");
        Ok(())
    }

    /// Larger tables with all that is given, and programs that read them.
    pub(super) fn larger(
        &self,
        (sizes, place): (TableSizes, &PinDirs),
        hooks: &[Hook],
        want: &Want,
        image: &Image,
    ) -> anyhow::Result<(Object, GrowableMaps)> {
        let mut object = Object::open(self.object.features(), sizes, place)?;
        object.ready(hooks)?;
        let mut routing = GrowableMaps::take(&mut object, sizes)?;
        for (index, group) in &want.groups {
            routing.write_group(*index, group)?;
        }
        routing.load_fib4(&want.fib4)?;
        routing.load_fib6(&want.fib6)?;
        routing.load_filter(image)?;
        routing.continue_from(&self.tables.routing)?;
        Ok((object, routing))
    }
}
