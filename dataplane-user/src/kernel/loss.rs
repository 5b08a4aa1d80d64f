//! The observers of frames that are lost behind a redirect: programs at tracepoints of the kernel, pinned like the links of
//! ports, so that they go on counting without the daemon.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use aya::{
    pin::PinError,
    programs::{ProgramError, links::FdLink},
};
use dataplane_common::abi::Observer;
use thiserror::Error;

use super::{
    Object, ObjectError, PinDirs, TableError,
    btf::{Btf, BtfError},
    object::chain,
};
use crate::fib::TableSizes;

/// Programs, and the tracepoints that they are for.
const OBSERVERS: [(&str, &str); 2] =
    [("lost_in_transmit", "xdp_devmap_xmit"), ("lost_in_redirect", "xdp_redirect_err")];
/// What the names of pins begin with.
const PIN: &str = "lost_";

/// Why losses are not counted.
#[derive(Debug, Error)]
pub enum TxErrorMonitorError {
    /// It is not known where devices have their index.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// The network namespace has no number.
    #[error("cannot read /proc/thread-self/ns/net: {0}; mount /proc")]
    Namespace(io::Error),
    /// The programs could not be made.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The kernel refused a program or its tracepoint.
    #[error("the kernel refuses {name}: {}; it needs root or CAP_PERFMON", chain(.error))]
    Program {
        /// Which one.
        name: &'static str,
        /// The error.
        error: ProgramError,
    },
    /// A link could not be pinned.
    #[error("cannot pin an observer: {0}")]
    Pin(#[from] PinError),
    /// The watch could not be taken over.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// The pinned observers.
#[derive(Debug)]
pub struct TxErrorMonitor {
    directory: PathBuf,
}

impl TxErrorMonitor {
    /// Those pinned in a directory.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Observes the ports of the maps in `dirs` from now on, instead of any earlier observer: no frame is missed or counted
    /// twice.
    pub fn observe(&self, sizes: TableSizes, dirs: &PinDirs) -> Result<(), TxErrorMonitorError> {
        let btf = Btf::of_kernel()?;
        let namespace = fs::metadata("/proc/thread-self/ns/net").map_err(TxErrorMonitorError::Namespace)?.ino();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let observer = Observer {
            id: now.as_nanos() as u64,
            namespace,
            ifindex: btf.offset("net_device", "ifindex")?,
            net: btf.offset("net_device", "nd_net.net")?,
            number: btf.offset("net", "ns.inum")?,
        };
        let suffix = format!("-{:x}", observer.id);
        let mut object = Object::observers(observer, sizes, dirs)?;
        for (name, tracepoint) in OBSERVERS {
            let link = attach(&mut object, name, tracepoint);
            let pinned = link.and_then(|link| Ok(link.pin(self.directory.join(format!("{name}{suffix}")))?));
            if let Err(error) = pinned {
                self.remove(|pin| pin.ends_with(&suffix));
                return Err(error);
            }
        }
        object.take_watch(observer)?;
        self.remove(|pin| !pin.ends_with(&suffix));
        Ok(())
    }

    /// Whether the pins of observers are there.
    pub fn are_observed(&self) -> bool {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let ours = entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(PIN)));
        ours.count() >= OBSERVERS.len()
    }

    /// Observes nothing any more.
    pub fn end(&self) {
        self.remove(|_| true);
    }

    fn remove(&self, which: impl Fn(&str) -> bool) {
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PIN) && which(name));
            if ours {
                remove(&entry.path());
            }
        }
    }
}

fn attach(object: &mut Object, name: &'static str, tracepoint: &str) -> Result<FdLink, TxErrorMonitorError> {
    let program = object.observer(name)?;
    let mut attach = || {
        program.load()?;
        let id = program.attach(tracepoint)?;
        program.take_link(id)
    };
    attach().map(FdLink::from).map_err(|error| TxErrorMonitorError::Program { name, error })
}

/// Removes a pin. One that stays belongs to an observer that is off watch.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::debug!(path = %path.display(), %error, "a pin stays");
    }
}
