//! The link layer: the recipient of a frame, its VLAN tags, and its payload.

use core::hint::cold_path;

use crate::{
    Reason,
    wire::{Bytes, EtherType, Ethernet, Ipv4, LinkHeader, Tag, Tagged},
};

/// What a frame carries, as far as we care.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum L3Protocol {
    /// An IPv4 packet.
    Ipv4,
    /// An IPv6 packet.
    Ipv6,
    /// One more VLAN tag.
    Tag,
    /// Anything else.
    Other,
}

impl From<EtherType> for L3Protocol {
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

/// The recipient of a frame (`skb->pkt_type` of the kernel).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum PacketType {
    /// One link address.
    Host,
    /// A broadcast or multicast link address.
    Group,
    /// Another link address, unless a VLAN device has it.
    Other,
}

/// A VLAN tag, or none: a [`Tag`] in a whole word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vlan(u64);

impl Vlan {
    /// No tag.
    pub const NONE: Self = Self(Tag::NONE.raw() as u64);

    /// A tag by what stands in front of it and its control information.
    #[inline(always)]
    pub fn new(ethertype: EtherType, control: u16) -> Self {
        Self(u64::from(Tag::new(ethertype.0.raw() == EtherType::SERVICE_VLAN.0.raw(), control).raw()))
    }

    /// The identifier, 0 to 4095.
    #[inline(always)]
    pub fn id(self) -> Option<u32> {
        (self != Self::NONE).then_some(self.0 as u32 & 0x0fff)
    }

    /// The identifier and, where there is a tag, this bit: a number without a branch.
    #[inline(always)]
    pub const fn id_and_presence(self, present: u32) -> u32 {
        self.tag().id() as u32 | (present * self.tag().count())
    }

    /// [`Tag::raw`].
    #[inline(always)]
    pub const fn raw(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    const fn tag(self) -> Tag {
        Tag::from_raw(self.0 as u16)
    }
}

impl From<Tag> for Vlan {
    #[inline(always)]
    fn from(tag: Tag) -> Self {
        Self(u64::from(tag.raw()))
    }
}

/// A frame whose link header has been read.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// What is behind the tags.
    pub l3: L3Protocol,
    /// The recipient.
    pub packet_type: PacketType,
    /// The outermost VLAN tag.
    pub vlan: Vlan,
    /// The one behind it.
    pub inner: Vlan,
    /// Only the kernel can go on with it, once it has met the filter: tagged, and no VLAN device is known for it.
    pub punt: Option<Reason>,
    /// Where the network header begins, in bytes from the start of the frame.
    pub offset: usize,
}

impl Frame {
    /// How many VLAN tags it came with.
    #[inline(always)]
    pub fn tags(&self) -> u64 {
        u64::from(self.vlan != Vlan::NONE) + u64::from(self.inner != Vlan::NONE)
    }

    /// What it came with in front of IP.
    #[inline(always)]
    pub const fn link_header(&self) -> LinkHeader {
        if self.offset == 0 { LinkHeader::None } else { LinkHeader::Ethernet }
    }
}

/// A packet of a device without link header. The kernel knows its family from the device; both families have their version in
/// the same place, and no packet of either is shorter than an IPv4 header.
///
/// # Errors
///
/// [`Reason::NotIp`] for another version, or a packet too short to have one.
#[inline(always)]
pub fn bare_frame<B: Bytes + ?Sized>(packet: &B) -> Result<Frame, Reason> {
    let l3 = match packet.header::<Ipv4>(0).map(Ipv4::version) {
        Some(4) => L3Protocol::Ipv4,
        Some(6) => L3Protocol::Ipv6,
        _ => return Reason::NotIp.found(),
    };
    let (vlan, inner) = (Vlan::NONE, Vlan::NONE);
    Ok(Frame { l3, packet_type: PacketType::Host, vlan, inner, punt: None, offset: 0 })
}

/// The priority for queues that the kernel gives a forwarded IPv4 packet by its type of service (`rt_tos2priority` with
/// `ip_tos2prio`, `net/ipv4/route.c`): one of four.
#[inline(always)]
pub const fn queue_priority(service: u8) -> u32 {
    const BY_SERVICE: u32 = 0x4620;
    BY_SERVICE >> (((service as u32 >> 3) & 3) * 4) & 0xf
}

/// Reads the link header and at most two VLAN tags, counting one that the hardware took off (`stripped`). With `ours`
/// ([`crate::wire::Mac::wide`]), only of frames to that link address or to a group (`eth_type_trans` of the kernel), and of
/// tagged ones: those may be for a VLAN device with a link address of its own.
///
/// # Errors
///
/// [`Reason::NotIp`] for a frame too short to have a type, [`Reason::OtherHost`] for one to another link address,
/// [`Reason::Truncated`] for one that ends inside a tag, [`Reason::VlanDepth`] for more tags.
#[inline(always)]
pub fn frame<B: Bytes + ?Sized>(packet: &B, ours: Option<u64>, stripped: Vlan) -> Result<Frame, Reason> {
    let Some(ethernet) = packet.header::<Ethernet>(0) else { return Reason::NotIp.found() };
    let packet_type = match ours {
        Some(ours) if ethernet.recipient() == ours => PacketType::Host,
        _ => {
            cold_path();
            let others = if ours.is_some() { PacketType::Other } else { PacketType::Host };
            if ethernet.destination.is_group() { PacketType::Group } else { others }
        }
    };
    let others = packet_type == PacketType::Other;
    if !ethernet.ethertype.is_tag() && stripped == Vlan::NONE {
        let (l3, offset) = (ethernet.ethertype.into(), size_of::<Ethernet>());
        let frame = Frame { l3, packet_type, vlan: Vlan::NONE, inner: Vlan::NONE, punt: None, offset };
        return if others { Reason::OtherHost.found() } else { Ok(frame) };
    }
    match packet.tags(ethernet.ethertype, stripped.tag()).outcome() {
        Ok(Tagged { ethertype, offset, outer, inner }) => Ok(Frame {
            l3: ethertype.into(),
            packet_type,
            vlan: outer.into(),
            inner: inner.into(),
            punt: Some(Reason::Vlan),
            offset,
        }),
        // Whatever is wrong with it, it is not ours to drop.
        Err(_) if others => Err(Reason::OtherHost),
        Err(reason) => Err(reason),
    }
}
