//! The handlers that get the frames of ports before IP (`dev->rx_handler`): an iterator over the links of the machine, pinned
//! so that reading the file starts it.

use std::{collections::BTreeMap, fs, io, os::unix::fs::MetadataExt as _, path::PathBuf, sync::LazyLock};

use aya::{
    BtfError as TypesError,
    pin::PinError,
    programs::{
        ProgramError,
        links::{FdLink, LinkError},
    },
};
use caps::{CapSet, Capability};
use dataplane_common::abi::{Ifindex, KernelOffsets};
use thiserror::Error;

use super::{
    Object, ObjectError, PinDirs,
    btf::{Btf, BtfError},
    object::chain,
};
use crate::fib::TableSizes;

/// The program, and the name of its pin.
pub(super) const PROGRAM: &str = "rx_handlers";
/// What the kernel keeps even from root.
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

/// Why the handlers are not known.
#[derive(Debug, Error)]
pub enum RxHandlerError {
    /// It is not known where devices have it.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// The kernel's types cannot be read.
    #[error("cannot read the types of the kernel: {}", chain(.0))]
    Types(#[from] TypesError),
    /// The network namespace has no number.
    #[error("cannot read /proc/thread-self/ns/net: {0}; mount /proc")]
    Namespace(io::Error),
    /// The program could not be made.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The kernel refused it.
    #[error("the kernel refuses {PROGRAM}: {}; it needs root or CAP_PERFMON", chain(.0))]
    Program(#[from] ProgramError),
    /// Its link is no descriptor.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// It could not be pinned.
    #[error("cannot pin {PROGRAM}: {0}")]
    Pin(#[from] PinError),
    /// It does not answer.
    #[error("cannot read {}: {error}", .path.display())]
    Read {
        /// Its pin.
        path: PathBuf,
        /// The error of the kernel.
        error: io::Error,
    },
}

/// The pinned iterator.
#[derive(Debug)]
pub struct RxHandlers {
    path: PathBuf,
    namespace: u64,
}

impl RxHandlers {
    /// Makes it, beside the maps in `dirs`.
    pub fn watch(sizes: TableSizes, dirs: &PinDirs) -> Result<Self, RxHandlerError> {
        let btf = Btf::of_kernel()?;
        let offsets = KernelOffsets {
            kind: btf.offset("bpf_link", "type")?,
            xdp: btf.offset("bpf_xdp_link", "dev")?,
            // Before Linux 6.6 there are none, and no link is of their type.
            tcx: btf.offset("tcx_link", "dev").unwrap_or_default(),
            ifindex: btf.offset("net_device", "ifindex")?,
            net: btf.offset("net_device", "nd_net.net")?,
            number: btf.offset("net", "ns.inum")?,
            handler: btf.offset("net_device", "rx_handler")?,
            device: 0,
        };
        drop(btf);
        let namespace = fs::metadata("/proc/thread-self/ns/net").map_err(RxHandlerError::Namespace)?.ino();
        let mut object = Object::rx_handlers(offsets, sizes, dirs)?;
        let program = object.iterator(PROGRAM)?;
        program.load("bpf_link", &aya::Btf::from_sys_fs()?)?;
        let id = program.attach()?;
        let link: FdLink = program.take_link(id)?.try_into()?;
        let path = dirs.own.join(PROGRAM);
        link.pin(&path)?;
        Ok(Self { path, namespace })
    }

    /// By index: the name of the function, or nothing where there is none.
    pub fn read(&self) -> Result<BTreeMap<Ifindex, String>, RxHandlerError> {
        let text = fs::read_to_string(&self.path);
        let text = text.map_err(|error| RxHandlerError::Read { path: self.path.clone(), error })?;
        Ok(text.lines().filter_map(|line| parse(line, self.namespace)).collect())
    }

    /// Whether its pin is still there.
    pub fn is_pinned(&self) -> bool {
        self.path.exists()
    }
}

/// Where programs on the path of packets find the handler of a packet's device; all zero where they may not read it: without it
/// they leave to the controller to see handlers.
pub(super) fn on_path() -> KernelOffsets {
    static FOUND: LazyLock<KernelOffsets> = LazyLock::new(|| {
        let found = || {
            let btf = Btf::of_kernel()?;
            let (handler, device) = (btf.offset("net_device", "rx_handler")?, btf.offset("sk_buff", "dev")?);
            Ok::<_, BtfError>(KernelOffsets { handler, device, ..KernelOffsets::default() })
        };
        if may_read() { found().unwrap_or_default() } else { KernelOffsets::default() }
    });
    *FOUND
}

/// Whether the kernel lets programs of this process read its memory (`perfmon_capable`, `bpf_base_func_proto`).
fn may_read() -> bool {
    let rights = [Capability::CAP_PERFMON, Capability::CAP_SYS_ADMIN];
    let may = rights.into_iter().any(|right| caps::has_cap(None, CapSet::Effective, right).unwrap_or(false));
    let locked = fs::read_to_string(LOCKDOWN).is_ok_and(|text| text.contains("[confidentiality]"));
    may && !locked
}

/// Index, number of the network namespace, whether there is a handler, and its name, with that of a module behind it.
fn parse(line: &str, namespace: u64) -> Option<(Ifindex, String)> {
    let mut words = line.split(' ');
    let ifindex = words.next()?.parse().ok()?;
    if words.next()?.parse::<u64>().ok()? != namespace {
        return None;
    }
    let some = words.next()? != "0";
    Some((ifindex, if some { words.next()?.to_owned() } else { String::new() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let rows = [
            ("7 12 1 macvlan_handle_frame [macvlan]", Some((7, "macvlan_handle_frame"))),
            ("7 12 1 br_handle_frame", Some((7, "br_handle_frame"))),
            ("8 12 0 0x0", Some((8, ""))),
            ("8 13 1 br_handle_frame", None),
            ("", None),
        ];
        for (line, expected) in rows {
            assert_eq!(parse(line, 12), expected.map(|(index, name)| (index, name.to_owned())), "{line}");
        }
    }
}
