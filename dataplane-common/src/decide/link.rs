//! The link layer: to whom the frame is, its VLAN tags, and what it carries.

use crate::{
    Reason,
    wire::{Bytes, EtherType, Ethernet, Mac, VlanTag},
};

/// A frame whose link header has been read.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// What it carries, behind the tags.
    pub ethertype: EtherType,
    /// Where that begins, in bytes from the start of the frame.
    pub offset: usize,
    /// Link destination; zero on a device without link addresses.
    pub destination: Mac,
    /// Link source, likewise.
    pub source: Mac,
    /// Identifier of the outermost VLAN tag.
    pub vlan: Option<u16>,
}

/// Reads the link header and at most two VLAN tags, counting one that the hardware took off (`stripped`). With `ours`, only
/// of frames to that link address or to a group (`eth_type_trans` of the kernel).
///
/// # Errors
///
/// [`Reason::NotIp`] for a frame too short to say what it is, [`Reason::OtherHost`] for somebody else's,
/// [`Reason::VlanDepth`] for more tags.
#[inline(always)]
pub fn frame<B: Bytes + ?Sized>(packet: &B, ours: Option<Mac>, stripped: Option<u16>) -> Result<Frame, Reason> {
    let Some(ethernet) = packet.header::<Ethernet>(0) else { return Err(Reason::NotIp) };
    if ours.is_some_and(|ours| ethernet.destination != ours && !ethernet.destination.is_group()) {
        return Err(Reason::OtherHost);
    }
    let mut frame = Frame {
        ethertype: ethernet.ethertype,
        offset: size_of::<Ethernet>(),
        destination: ethernet.destination,
        source: ethernet.source,
        vlan: stripped,
    };
    if frame.ethertype.is_vlan() {
        frame = untag(packet, frame)?;
        if frame.ethertype.is_vlan() {
            if stripped.is_some() {
                return Err(Reason::VlanDepth);
            }
            frame = untag(packet, frame)?;
            if frame.ethertype.is_vlan() {
                return Err(Reason::VlanDepth);
            }
        }
    }
    Ok(frame)
}

/// Takes one tag off what is left to read.
#[inline(always)]
fn untag<B: Bytes + ?Sized>(packet: &B, outer: Frame) -> Result<Frame, Reason> {
    let Some(tag) = packet.header::<VlanTag>(outer.offset) else { return Err(Reason::Truncated) };
    Ok(Frame {
        ethertype: tag.ethertype,
        offset: outer.offset + size_of::<VlanTag>(),
        vlan: outer.vlan.or(Some(tag.id())),
        ..outer
    })
}
