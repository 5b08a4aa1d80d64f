//! Waiting for packets that may still be led to rows that were freed, beside the thread that follows connections.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use super::flow_handle::wake;
use crate::{
    kernel::grace,
    retired::{Grace, Retired},
};

/// Rows of both families.
pub(super) type RetiredRows = [Option<Retired<Vec<u32>>>; 2];

/// The thread that waits for packets: that takes as long as the kernel likes, and the ends of connections must not wait for it.
pub(super) struct Graces {
    retired: Sender<RetiredRows>,
    released: Receiver<(Grace, [Vec<u32>; 2])>,
    waits: bool,
    /// What is waited for is of other memory.
    forgotten: bool,
}

impl Graces {
    pub(super) fn begin(waker: &Arc<OwnedFd>) -> io::Result<Self> {
        let (retired, given) = channel::<RetiredRows>();
        let (give, released) = channel();
        let waker = Arc::clone(waker);
        thread::Builder::new().name("flows-grace".to_owned()).spawn(move || {
            for rows in given {
                let passed = grace();
                let rows = rows.map(|rows| rows.map(|rows| passed.release(rows)).unwrap_or_default());
                if give.send((passed, rows)).is_err() {
                    return;
                }
                wake(&waker);
            }
        })?;
        Ok(Self { retired, released, waits: false, forgotten: false })
    }

    pub(super) fn is_free(&self) -> bool {
        !self.waits
    }

    pub(super) fn wait_for(&mut self, rows: RetiredRows) {
        self.waits = self.retired.send(rows).is_ok();
    }

    pub(super) fn forget(&mut self) {
        self.forgotten = self.waits;
    }

    /// Rows that no packet is led to any more.
    pub(super) fn passed(&mut self) -> Option<(Grace, [Vec<u32>; 2])> {
        let passed = self.released.try_recv().ok()?;
        self.waits = false;
        (!std::mem::take(&mut self.forgotten)).then_some(passed)
    }
}
