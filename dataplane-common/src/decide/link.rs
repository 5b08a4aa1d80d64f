//! The link layer: to whom the frame is, its VLAN tags, and what it carries.

use crate::{
    Reason,
    wire::{Bytes, EtherType, Ethernet, Mac, VlanTag},
};

/// What a frame carries, as far as we care.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Carried {
    /// An IPv4 packet.
    Ipv4,
    /// An IPv6 packet.
    Ipv6,
    /// One more VLAN tag.
    Tag,
    /// Anything else.
    Other,
}

impl From<EtherType> for Carried {
    #[inline(always)]
    fn from(ethertype: EtherType) -> Self {
        // As numbers: patterns of bytes would be compared byte by byte.
        const IPV4: u16 = EtherType::IPV4.0.raw();
        const IPV6: u16 = EtherType::IPV6.0.raw();
        const VLAN: u16 = EtherType::VLAN.0.raw();
        const SERVICE_VLAN: u16 = EtherType::SERVICE_VLAN.0.raw();
        match ethertype.0.raw() {
            IPV4 => Self::Ipv4,
            IPV6 => Self::Ipv6,
            VLAN | SERVICE_VLAN => Self::Tag,
            _ => Self::Other,
        }
    }
}

/// For whom a frame is (`skb->pkt_type` of the kernel).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Audience {
    /// One link address.
    Host,
    /// A broadcast or multicast link address.
    Group,
}

/// A VLAN identifier, or none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vlan(u64);

impl Vlan {
    /// No tag.
    pub const NONE: Self = Self(u64::MAX);

    /// The lower twelve bits of a tag's control information.
    #[inline(always)]
    pub const fn new(control: u16) -> Self {
        Self(control as u64 & 0x0fff)
    }

    /// The identifier, 0 to 4095.
    #[inline(always)]
    pub fn id(self) -> Option<u32> {
        (self != Self::NONE).then_some(self.0 as u32)
    }
}

/// A frame whose link header has been read.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// What is behind the tags.
    pub carried: Carried,
    /// For whom it is.
    pub audience: Audience,
    /// Identifier of the outermost VLAN tag.
    pub vlan: Vlan,
    /// Where the network header begins, in bytes from the start of the frame.
    pub offset: usize,
}

/// Reads the link header and at most two VLAN tags, counting one that the hardware took off (`stripped`). With `ours`, only
/// of frames to that link address or to a group (`eth_type_trans` of the kernel).
///
/// # Errors
///
/// [`Reason::NotIp`] for a frame too short to say what it is, [`Reason::OtherHost`] for somebody else's,
/// [`Reason::Truncated`] for one that ends inside a tag, [`Reason::VlanDepth`] for more tags.
#[inline(always)]
pub fn frame<B: Bytes + ?Sized>(packet: &B, ours: Option<Mac>, stripped: Vlan) -> Result<Frame, Reason> {
    let Some(ethernet) = packet.header::<Ethernet>(0) else { return Err(Reason::NotIp) };
    if ours.is_some_and(|ours| ethernet.destination != ours && !ethernet.destination.is_group()) {
        return Err(Reason::OtherHost);
    }
    let mut frame = Frame {
        carried: ethernet.ethertype.into(),
        audience: if ethernet.destination.is_group() { Audience::Group } else { Audience::Host },
        vlan: stripped,
        offset: size_of::<Ethernet>(),
    };
    if frame.carried == Carried::Tag {
        frame = untag(packet, frame)?;
        if frame.carried == Carried::Tag {
            if stripped != Vlan::NONE {
                return Err(Reason::VlanDepth);
            }
            frame = untag(packet, frame)?;
            if frame.carried == Carried::Tag {
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
        carried: tag.ethertype.into(),
        offset: outer.offset + size_of::<VlanTag>(),
        vlan: if outer.vlan == Vlan::NONE { Vlan::new(tag.id()) } else { outer.vlan },
        ..outer
    })
}
