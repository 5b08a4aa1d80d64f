//! The `rx_handler` of devices, which gets their frames before IP: only the kernel's own structures have it.

#![expect(unsafe_code, reason = "structures of the kernel are read at offsets that the loader gives")]

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{__sk_buff, seq_file},
    helpers::{bpf_probe_read_kernel, bpf_seq_printf},
};
use dataplane_common::abi::KernelOffsets;

/// Overridden by the loader.
#[unsafe(no_mangle)]
static KERNEL_OFFSETS: [u64; KernelOffsets::WORDS] = [0; KernelOffsets::WORDS];
/// Index, number of the network namespace, whether there is a handler, and its name; closed by a zero, or the helper refuses
/// it.
static LINE: [u8; 14] = *b"%u %u %u %ps\n\0";

/// `BPF_LINK_TYPE_XDP` and `BPF_LINK_TYPE_TCX`: links that know a device.
const XDP: u32 = 6;
const TCX: u32 = 11;

/// `struct bpf_iter__bpf_link`.
#[repr(C)]
struct Turn {
    meta: *const Meta,
    link: *const u8,
}

/// `struct bpf_iter_meta`.
#[repr(C)]
struct Meta {
    seq: *mut seq_file,
}

/// Called for each BPF link of the machine, when the controller reads its file.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_link")]
extern "C" fn rx_handlers(turn: *const Turn) -> i32 {
    let _written = write_line(turn);
    0
}

/// Writes a line about the device of the link at hand, if it has one.
#[inline(always)]
fn write_line(turn: *const Turn) -> Option<()> {
    // SAFETY: the kernel hands it over.
    let meta = unsafe { (*turn).meta };
    // SAFETY: as above.
    let link = unsafe { (*turn).link };
    if link.is_null() {
        return None;
    }
    let offsets = offsets();
    let device: usize = match read(link, offsets.kind)? {
        XDP => read(link, offsets.xdp)?,
        TCX => read(link, offsets.tcx)?,
        _ => return None,
    };
    let device = device as *const u8;
    let net: usize = read(device, offsets.net)?;
    let number: u32 = read(net as *const u8, offsets.number)?;
    let ifindex: u32 = read(device, offsets.ifindex)?;
    let handler: u64 = read(device, offsets.handler)?;
    let words = [u64::from(ifindex), u64::from(number), u64::from(handler != 0), handler];
    // SAFETY: the kernel hands the file over.
    let seq = unsafe { (*meta).seq };
    // SAFETY: the format has as many placeholders as there are words.
    unsafe {
        bpf_seq_printf(
            seq,
            (&raw const LINE).cast(),
            LINE.len() as u32,
            (&raw const words).cast::<c_void>(),
            size_of_val(&words) as u32,
        )
    };
    Some(())
}

/// Whether a handler gets the frames of the device that a packet came in through, as far as programs may read that: the
/// controller may not have seen it yet, or be gone. To the kernel, the context of a tc program is its `struct sk_buff`.
#[inline(always)]
pub fn takes(skb: *mut __sk_buff) -> bool {
    let offsets = offsets();
    if offsets.device == 0 {
        return false;
    }
    let device: Option<usize> = read(skb.cast(), offsets.device);
    let handler: Option<u64> = device.and_then(|device| read(device as *const u8, offsets.handler));
    handler.is_some_and(|handler| handler != 0)
}

/// What the loader gave.
#[inline(always)]
fn offsets() -> KernelOffsets {
    // SAFETY: a read of an initialised static, which the compiler must not foresee.
    KernelOffsets::from_words(unsafe { core::ptr::read_volatile(&raw const KERNEL_OFFSETS) })
}

/// A field of the kernel's.
#[inline(always)]
fn read<T>(structure: *const u8, offset: u64) -> Option<T> {
    let field = structure.wrapping_add(offset as usize).cast::<T>();
    // SAFETY: the helper reads nothing where nothing can be read.
    unsafe { bpf_probe_read_kernel(field) }.ok()
}
