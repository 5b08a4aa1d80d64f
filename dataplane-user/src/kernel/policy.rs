//! What policies of `IPsec` may cover, as programs see it.

use dataplane_common::abi::{Policies, map};

use super::{Object, TableError, grace, table::Rows};

/// The selectors of both families.
pub(super) struct Shields(Rows<{ size_of::<Policies>() }>);

impl Shields {
    pub(super) fn take(object: &mut Object) -> Result<Self, TableError> {
        Rows::take(object, map::POLICIES).map(Self)
    }

    /// Writes those of IPv4 (0) or IPv6 (1). While they are being written every packet counts as covered, so that none meets
    /// half a selector.
    pub(super) fn write(&mut self, family: u32, before: &Policies, after: &Policies) -> Result<(), TableError> {
        self.0.write(family, &Policies { count: Policies::ALL, ..*before })?;
        grace();
        self.0.write(family, &Policies { count: Policies::ALL, ..*after })?;
        self.0.write(family, after)
    }
}
