//! Programs of others on an interface.

#![expect(
    unsafe_code,
    reason = "aya counts programs only for a process that may open all of them; bpf(2) counts them for others, too"
)]

use aya::programs::{SchedClassifier, TcAttachType};
use dataplane_common::abi::Ifindex;

use super::Hook;
use crate::model::TcPlace;

/// `BPF_PROG_QUERY` and `BPF_TCX_EGRESS`, in `include/uapi/linux/bpf.h` of the kernel.
const PROG_QUERY: libc::c_int = 16;
const TCX_EGRESS: u32 = 47;

/// `query` in `union bpf_attr`.
#[repr(C)]
#[derive(Debug, Default)]
struct Query {
    ifindex: u32,
    attach_type: u32,
    flags: [u32; 2],
    programs: u64,
    count: u32,
    reserved: u32,
    /// Of programs, links, and links once more.
    arrays: [u64; 3],
    revision: u64,
}

/// How many programs are at tc egress (TCX) of an interface, whoever they belong to; `None` where the kernel does not say. Their
/// names are for those who may do anything.
pub fn egress_program_count(ifindex: Ifindex) -> Option<usize> {
    let mut query = Query { ifindex, attach_type: TCX_EGRESS, ..Query::default() };
    // SAFETY: the kernel reads and writes no more than the size that it is given; no array is given.
    let done = unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, &raw mut query, size_of::<Query>()) };
    (done == 0).then_some(query.count as usize)
}

/// Whether a program's name is one of ours: the kernel does not show more about who loaded it.
pub fn is_ours(name: &str) -> bool {
    Hook::ALL.into_iter().any(|hook| hook.program() == name)
}

/// Id and name of the programs of others at tc (TCX) of an interface; `None` where the kernel does not list them to this process.
pub fn foreign_programs(iface: &str, place: TcPlace) -> Option<Vec<(u32, String)>> {
    let place = match place {
        TcPlace::Ingress => TcAttachType::Ingress,
        TcPlace::Egress => TcAttachType::Egress,
    };
    let (_, programs) = SchedClassifier::query_tcx(iface, place).ok()?;
    let named = programs.iter().map(|program| (program.id(), program.name_as_str().unwrap_or_default().to_owned()));
    Some(named.filter(|(_, name)| !is_ours(name)).collect())
}
