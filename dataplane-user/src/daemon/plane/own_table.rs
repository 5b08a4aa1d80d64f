//! The table of nftables with own rules, as it was last written.

use std::sync::Arc;

use anyhow::anyhow;

use super::{DataPlane, verbs::TableStep};
use crate::{daemon::chains::Chains, model::OwnTable, rule::Rule};

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct TableState {
    /// None: there is none, or it is not known.
    written: Option<OwnTable>,
    /// Whether that is so: an earlier daemon may have left one, or others have changed it.
    known: bool,
    /// It could not be written, and is to be.
    waits: bool,
    /// The rules of the driver that it was written beside.
    driver: Vec<Arc<Rule>>,
}

impl DataPlane {
    /// Whether the table is this one, or none.
    pub(in crate::daemon) fn has_table(&self, wanted: Option<&OwnTable>) -> bool {
        let TableState { written, known, .. } = &self.table;
        *known && written.as_ref() == wanted
    }

    /// Whether tables are written at all.
    pub(in crate::daemon) fn writes_tables(&self) -> bool {
        self.live.kernel.writes_tables()
    }

    /// Whether a table could not be written, and is to be.
    pub(in crate::daemon) fn table_waits(&self) -> bool {
        self.table.waits
    }

    /// The table that could not be written is not wanted any more.
    pub(in crate::daemon) fn table_stays(&mut self) {
        self.table.waits = false;
    }

    /// Another program was at the table; whether there is one.
    pub(in crate::daemon) fn forget_table(&mut self) -> bool {
        let there = self.table.written.take().is_some();
        self.table.known &= !there;
        there
    }

    /// Whether it was deleted, as far as its number says.
    pub(in crate::daemon) fn is_table_gone(&mut self) -> bool {
        self.table.written.is_some() && self.live.kernel.is_table_gone()
    }

    /// The number of the socket that writes the table, by which the kernel announces its changes.
    pub(in crate::daemon) fn table_port(&mut self) -> Option<u32> {
        self.live.kernel.table_port()
    }

    /// Puts elements into a set that rules fill, or takes them out.
    pub(in crate::daemon) fn change_elements(
        &mut self,
        set: &str,
        puts: bool,
        elements: &[Vec<Vec<u8>>],
    ) -> Result<(), String> {
        self.live.kernel.table(TableStep::Elements(set, puts, elements))
    }

    /// Before the driver's rules change: packets must pass this table, and where the driver's rules change as well the one of
    /// before, too.
    pub(in crate::daemon) fn write_table_ahead(&mut self, wanted: &OwnTable, chains: &Chains) -> anyhow::Result<()> {
        if self.has_table(Some(wanted)) {
            return Ok(());
        }
        let early: Vec<_> = chains.early_rules().collect();
        let unchanged = early == self.table.driver && early.iter().all(|rule| rule.sets().next().is_none());
        let both = self.table.written.as_ref().filter(|_| !unchanged).map(|before| wanted.together_with(before));
        let first = both.as_ref().unwrap_or(wanted).clone();
        self.write_table(Some(first))
    }

    /// The driver's rules are live: what was only for the time between goes.
    pub(in crate::daemon) fn settle_table(&mut self, wanted: Option<&OwnTable>, chains: &Chains) -> anyhow::Result<()> {
        self.table.driver = chains.early_rules().collect();
        if self.has_table(wanted) {
            return Ok(());
        }
        self.write_table(wanted.cloned())
    }

    fn write_table(&mut self, table: Option<OwnTable>) -> anyhow::Result<()> {
        let step = table.as_ref().map_or(TableStep::Remove, TableStep::Write);
        match self.live.kernel.table(step) {
            Ok(()) => {
                (self.table.written, self.table.known, self.table.waits) = (table, true, false);
                Ok(())
            }
            // A kernel without nf_tables has nothing to take away.
            Err(error) if table.is_none() && self.table.written.is_none() => {
                tracing::debug!("{error}");
                self.table.known = true;
                Ok(())
            }
            Err(error) => {
                self.table.waits = true;
                Err(anyhow!("the rules for the kernel could not be written: {error}"))
            }
        }
    }
}
