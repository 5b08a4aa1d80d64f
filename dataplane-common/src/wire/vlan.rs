//! VLAN tags (802.1Q, 802.1ad): what they say, and reading them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Be16, Bytes, EtherType, Ethernet, VlanTag};
use crate::Reason;

/// A VLAN tag without its priority, or none: a bit that says that there is one, one for 802.1ad, and the identifier.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct Tag(u16);

impl Tag {
    /// No tag.
    pub const NONE: Self = Self(0);
    /// Set in every tag.
    const PRESENT: u16 = 0x8000;
    /// 802.1ad rather than 802.1Q.
    const SERVICE: u16 = 0x1000;

    /// A tag with the lower twelve bits of `control`; `service`: of 802.1ad.
    #[inline(always)]
    pub const fn new(service: bool, control: u16) -> Self {
        Self(Self::PRESENT | if service { Self::SERVICE } else { 0 } | control & 0x0fff)
    }

    /// From what [`Tag::raw`] gave.
    #[inline(always)]
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }

    /// As a number; 0 is none.
    #[inline(always)]
    pub const fn raw(self) -> u16 {
        self.0
    }

    /// Whether there is one.
    #[inline(always)]
    pub const fn is_some(self) -> bool {
        self.0 != 0
    }

    /// Bytes that it takes in a frame, 0 for none: a number without a branch, whose bounds the verifier sees.
    #[inline(always)]
    pub const fn length(self) -> usize {
        self.count() as usize * size_of::<VlanTag>()
    }

    /// 1, or 0 for none, in the same way.
    #[inline(always)]
    pub const fn count(self) -> u32 {
        (self.0 >> 15) as u32
    }

    /// The identifier, 0 to 4095.
    #[inline(always)]
    pub const fn id(self) -> u16 {
        self.0 & 0x0fff
    }

    /// What stands in front of it on the wire.
    #[inline(always)]
    pub const fn ethertype(self) -> EtherType {
        if self.0 & Self::SERVICE != 0 { EtherType::SERVICE_VLAN } else { EtherType::VLAN }
    }

    /// Its control information with priority 0, as on the wire.
    #[inline(always)]
    pub const fn control(self) -> Be16 {
        Be16::new(self.id())
    }
}

/// What the tags of a frame say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tagged {
    /// What stands behind them.
    pub ethertype: EtherType,
    /// Where that begins, in bytes from the start of the frame.
    pub offset: usize,
    /// The outermost.
    pub outer: Tag,
    /// The one behind it, or none.
    pub inner: Tag,
}

/// The tags of a frame, in one word: what a function can return that the verifier looks at by itself.
///
/// From the top: inner and outer tag, `EtherType` behind them, offset; 16 bits each. Offset 0: a reason for an `EtherType`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Tags(u64);

impl Tags {
    /// As a number.
    #[inline(always)]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// From that number.
    #[inline(always)]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    #[inline(always)]
    const fn refused(reason: Reason) -> Self {
        Self((reason as u64) << 16)
    }

    /// What they say.
    ///
    /// # Errors
    ///
    /// Why the frame is dropped.
    #[inline(always)]
    pub fn outcome(self) -> Result<Tagged, Reason> {
        let word = (self.0 >> 16) as u16;
        match self.0 & 0x1f {
            0 if word == Reason::Truncated as u16 => Err(Reason::Truncated),
            0 => Err(Reason::VlanDepth),
            offset => Ok(Tagged {
                ethertype: EtherType(Be16::from_bytes(word.to_ne_bytes())),
                offset: offset as usize,
                outer: Tag((self.0 >> 32) as u16),
                inner: Tag((self.0 >> 48) as u16),
            }),
        }
    }
}

/// Reads at most two tags of a frame with `first` in its link header, counting one that the hardware took off (`stripped`).
#[inline(always)]
pub fn tags<B: Bytes + ?Sized>(packet: &B, first: EtherType, stripped: Tag) -> Tags {
    let (mut ethertype, mut offset) = (first, size_of::<Ethernet>());
    let (mut outer, mut inner) = (stripped, Tag::NONE);
    for _ in 0..2 {
        if !ethertype.is_tag() {
            break;
        }
        if inner.is_some() {
            return Tags::refused(Reason::VlanDepth);
        }
        let Some(tag) = packet.header::<VlanTag>(offset) else { return Tags::refused(Reason::Truncated) };
        let this = Tag::new(ethertype.0.raw() == EtherType::SERVICE_VLAN.0.raw(), tag.id());
        if outer.is_some() {
            inner = this;
        } else {
            outer = this;
        }
        (ethertype, offset) = (tag.ethertype, offset + size_of::<VlanTag>());
    }
    if ethertype.is_tag() {
        return Tags::refused(Reason::VlanDepth);
    }
    let (word, outer, inner) = (u64::from(ethertype.0.raw()), u64::from(outer.raw()), u64::from(inner.raw()));
    Tags(inner << 48 | outer << 32 | word << 16 | offset as u64)
}
