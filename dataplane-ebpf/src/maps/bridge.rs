//! Hosts behind members of bridges. The controller writes which there are, the kernel half when the bridge saw one last.

#![expect(unsafe_code, reason = "map elements are reached through pointers")]

use core::ptr::NonNull;

use aya_ebpf::{bindings::BPF_F_NO_PREALLOC, btf_maps::HashMap, helpers::bpf_map_lookup_elem, macros::btf_map};
use dataplane_common::abi::{BRIDGED_HOSTS, BridgedHost, BridgedKey, SwitchedHost, SwitchedKey};

use crate::features;

/// Not allocated in advance: what is removed is then used again only when no program can still read it.
#[btf_map]
static BRIDGED: HashMap<BridgedKey, BridgedHost, { BRIDGED_HOSTS as usize }, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// The members that hosts are behind. Not allocated in advance, as above.
#[btf_map]
static SWITCHED: HashMap<SwitchedKey, SwitchedHost, { BRIDGED_HOSTS as usize }, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// The member of a bridge that a host is behind.
#[inline(always)]
pub fn switched_host(key: [u64; 2]) -> Option<&'static SwitchedHost> {
    // SAFETY: the key is as long as the map's, and the values are of its type, which stay until no program runs any more.
    let host = unsafe { bpf_map_lookup_elem((&raw const SWITCHED).cast_mut().cast(), (&raw const key).cast()) };
    // SAFETY: as above; the controller replaces an element as a whole.
    NonNull::new(host.cast::<SwitchedHost>()).map(|host| unsafe { host.as_ref() })
}

/// A host that the bridge knows to be behind a member.
#[inline(always)]
pub fn learned_host(key: [u64; 2]) -> Option<NonNull<BridgedHost>> {
    // SAFETY: the key is as long as the map's, and the values are of its type, which stay until no program runs any more.
    let host = unsafe { bpf_map_lookup_elem((&raw const BRIDGED).cast_mut().cast(), (&raw const key).cast()) };
    NonNull::new(host.cast())
}

/// Whether the bridge is to see a frame of this host in this tick; takes note that it does. CPUs that find out at the same moment
/// leave a frame each.
#[inline(always)]
pub fn is_refresh_due(host: NonNull<BridgedHost>, tick: u64) -> bool {
    // SAFETY: the element was found.
    let refreshed = unsafe { &raw mut (*host.as_ptr()).refreshed };
    // SAFETY: as above.
    let period = unsafe { &raw const (*host.as_ptr()).period };
    // SAFETY: one word, which the controller writes as a whole.
    let period = unsafe { period.read_volatile() };
    // SAFETY: one word, which other CPUs write as a whole.
    if !BridgedHost::is_due(unsafe { refreshed.read_volatile() }, period, tick) {
        return false;
    }
    if !features::DRY_RUN.on() {
        // SAFETY: as above.
        unsafe { refreshed.write_volatile(tick) };
    }
    true
}
