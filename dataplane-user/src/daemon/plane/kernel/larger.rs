//! Larger tables, and programs that read them.

use super::KernelPlane;
use crate::{
    fib::TableSizes,
    filter::Image,
    kernel::{GrowableMaps, Hook, Object, PinDirs},
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
