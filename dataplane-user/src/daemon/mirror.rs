//! The comparison of the mirror with the kernel, now and then: an announcement that never came must not matter for long.

use std::time::Duration;

use super::Daemon;
use crate::{control::row::MirrorRow, model::Model, netlink::Mirror};

/// Between two comparisons. SIGHUP asks for one at once.
pub(super) const COMPARE: Duration = Duration::from_mins(5);
/// How many differences the log names.
const EXAMPLES: usize = 3;

impl Daemon {
    /// Lists everything again and goes on with that. What the announcements had missed is counted, unless there were any
    /// while the list was made: then it is not known what they would have brought.
    pub(super) fn compare(&mut self, mirror: &mut Mirror) {
        let listing = match mirror.list_all() {
            Ok(listing) => listing,
            Err(error) => {
                tracing::error!("the mirror cannot be compared with the kernel: {error}");
                mirror.resync();
                return;
            }
        };
        for event in listing.announced {
            self.model.apply(event);
        }
        let mut kernel = Model::default();
        for event in listing.listed {
            kernel.apply(event);
        }
        self.mirrored.resyncs += 1;
        if listing.calm {
            let found = self.model.differences(&kernel);
            self.mirrored.mended += found.len() as u64;
            if !found.is_empty() {
                let examples = found.iter().take(EXAMPLES).cloned().collect::<Vec<_>>().join("; ");
                tracing::warn!("the mirror had missed {} changes of the kernel, mended now: {examples}", found.len());
            }
        }
        self.model = kernel;
    }

    /// The counts of all comparisons.
    pub(super) fn mirror_row(&self) -> MirrorRow {
        self.mirrored
    }
}
