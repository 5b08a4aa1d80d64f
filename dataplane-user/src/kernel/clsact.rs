//! tc programs on kernels before 6.6, which have no links for them: a filter of the `clsact` qdisc.
//!
//! A filter needs no holder, so it outlives the daemon. It is found again by its priority and a handle that follows from the
//! directory of pins; a directory in the place of the link's pin marks that there is one. The qdisc stays when the last filter
//! goes: the kernel does not show whether another program needs it.

use std::{io, mem, path::Path};

use aya::programs::{
    ProgramError, SchedClassifier, TcAttachType, TcError,
    links::Link as _,
    tc::{NlOptions, SchedClassifierLink, TcAttachOptions, qdisc_add_clsact},
};

use super::LinkError;

/// Behind what is added without a priority, which begins at 49,152 and counts down: the last in turn, as links are.
const PRIORITY: u16 = 53_000;

/// The filters of one daemon.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clsact {
    handle: u32,
}

impl Clsact {
    /// Those of a daemon with this directory of pins, where the kernel has no links at tc.
    pub(super) fn if_needed(directory: &Path) -> Option<Self> {
        // A kernel that does not know the place refuses the question with EINVAL, whatever its number says.
        let asked = SchedClassifier::query_tcx("lo", TcAttachType::Ingress).map_err(LinkError::from);
        matches!(asked, Err(LinkError::Unsupported(_))).then(|| Self { handle: handle(directory) })
    }

    /// Attaches a program, in the place of ours if there is one: in one step, no packet meets neither.
    pub(super) fn attach(
        self,
        program: &mut SchedClassifier,
        name: &str,
        side: TcAttachType,
    ) -> Result<(), ProgramError> {
        match qdisc_add_clsact(name) {
            Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
            other => other?,
        }
        let replaced = program.attach_to_link(self.link(name, side)?);
        let id = match replaced {
            Err(ProgramError::TcError(TcError::NetlinkError(error))) if is_missing(error.raw_os_error()) => {
                let options = NlOptions { priority: PRIORITY, handle: self.handle.into(), classid: None };
                program.attach_with_options(name, side, TcAttachOptions::Netlink(options))?
            }
            other => other?,
        };
        // Dropped, it would take the filter off.
        mem::forget(program.take_link(id)?);
        Ok(())
    }

    /// Takes our program off; that there is none is as good.
    pub(super) fn detach(self, name: &str, side: TcAttachType) -> Result<(), ProgramError> {
        match self.link(name, side)?.detach() {
            Err(ProgramError::NetlinkError(error)) if is_missing(error.raw_os_error()) => Ok(()),
            other => other,
        }
    }

    fn link(self, name: &str, side: TcAttachType) -> Result<SchedClassifierLink, TcError> {
        SchedClassifierLink::attached(name, side, PRIORITY, self.handle.into(), None).map_err(TcError::IoError)
    }
}

/// No such filter, no such chain of filters, no qdisc, no device.
fn is_missing(errno: Option<i32>) -> bool {
    matches!(errno, Some(libc::ENOENT | libc::EINVAL | libc::ENODEV))
}

/// A number for a directory (FNV-1a), never the one with which the kernel would choose.
fn handle(directory: &Path) -> u32 {
    let mixed = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    directory.as_os_str().as_encoded_bytes().iter().fold(0x811c_9dc5, mixed).max(1)
}

/// The name that an interface has now.
pub(super) fn name_of(ifindex: u32) -> io::Result<String> {
    use rustix::net::{AddressFamily, SocketType, netdevice::index_to_name, socket};
    let query = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    Ok(index_to_name(&query, ifindex)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daemons_have_handles_of_their_own() {
        let [one, same, other] = ["/sys/fs/bpf/dataplane/links", "/sys/fs/bpf/dataplane/links", "/tmp/b/links"]
            .map(|path| handle(Path::new(path)));
        assert_eq!(one, same);
        assert_ne!(one, other);
        assert_ne!(handle(Path::new("")), 0);
    }
}
