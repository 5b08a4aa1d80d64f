//! What speaks to the thread that follows connections.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Sender, channel},
    },
    time::Duration,
};

use crate::{
    flow::{AnySeen, Filter, FlowStats, SetKey, Settings, View},
    kernel::FlowMaps,
};

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Command {
    /// The operator's settings.
    Settings(Settings),
    /// Addresses of this machine.
    Local(BTreeSet<IpAddr>),
    /// Other maps.
    Maps(FlowMaps),
    /// Connections: these, or all that are known; those that a filter takes, up to a number of them.
    Views { which: Option<Vec<AnySeen>>, filter: Filter, limit: usize, answer: Sender<Views> },
    /// Rules of this generation of nftables, and all before them, forbid nothing; they decide by the elements of these sets.
    Judged(u32, Arc<BTreeSet<SetKey>>),
    /// No row counts until the kernel has let one of its packets through again.
    Flush,
    /// It is over.
    Stop,
}

/// An answer: some connections, and how many there are.
#[derive(Debug, Default)]
pub(super) struct Views {
    pub rows: Vec<View>,
    pub total: usize,
}

/// What speaks to the thread.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
    stats: Arc<Mutex<FlowStats>>,
}

impl Handle {
    /// It speaks through these.
    pub(super) fn new(commands: Sender<Command>, waker: OwnedFd) -> Self {
        Self { commands, wake: Arc::new(waker), stats: Arc::default() }
    }

    /// What wakes the thread.
    pub(super) fn waker(&self) -> &Arc<OwnedFd> {
        &self.wake
    }

    /// Where the thread writes what it counts.
    pub(super) fn counts(&self) -> Arc<Mutex<FlowStats>> {
        Arc::clone(&self.stats)
    }

    /// Tells the thread something. Says whether it is there.
    pub(super) fn tell(&self, command: Command) -> bool {
        let told = self.commands.send(command).is_ok();
        wake(&self.wake);
        told
    }

    /// Connections: these, or all that are known.
    pub(super) fn views(&self, which: Option<Vec<AnySeen>>, filter: &Filter, limit: usize) -> Option<Views> {
        let (answer, answered) = channel();
        self.tell(Command::Views { which, filter: filter.clone(), limit, answer });
        answered.recv_timeout(Duration::from_secs(30)).ok()
    }

    /// What was counted last.
    pub(super) fn stats(&self) -> FlowStats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes who reads it.
pub(super) fn wake(wake: &OwnedFd) {
    // It fails where it would have to wait for its reader, who is awake then.
    let _awake = rustix::io::write(wake, &1_u64.to_ne_bytes());
}
