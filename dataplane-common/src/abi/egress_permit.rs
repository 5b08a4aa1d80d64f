//! The permit that tc ingress gives a packet for tc egress: the links through which chain forward lets it leave.
//!
//! A packet that goes up may be forwarded by the kernel, through a link that is not known at ingress. So chain forward is
//! evaluated at ingress, on the packet as it came, for one link of each *class* of egress links: all rules of the chain treat
//! the links of a class alike. The result travels in `skb->tc_index`, which the kernel neither shows nor changes on the path
//! (address translation, fragments and tunnels lie in between), and tc egress looks up the class of its own link.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Ifindex;

/// Classes of ways out that have a bit of their own in a [`EgressPermit`]; all others share the last bit, and may take none of
/// their ways unless they may take all.
pub const CLASS_BITS: u32 = 8;
/// Classes for which chain forward is evaluated.
pub const MAX_CLASSES: usize = 16;
/// Links that can be looked up as ways out.
pub const EGRESS_LINKS: u32 = 65_536;

/// The 16 bits of `skb->tc_index`. From the top: owner (4 bits, never 0), epoch (2), kind (2), links (8).
///
/// | kind | means |
/// |---|---|
/// | 0 | it may leave through any link: the chain says so, we send it, or it was let out before ([`Self::flow_epoch`]) |
/// | 1 | it may leave through links whose class has its bit set |
/// | 2 | it may leave through links of this class |
/// | 3 | nothing yet |
///
/// Zero, or the number of another owner: the packet did not come in through a port of this daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EgressPermit(u32);

impl EgressPermit {
    /// It did not come in through a port.
    pub const NONE: Self = Self(0);
    const SOME: u32 = 1 << 8;
    const ONE: u32 = 2 << 8;

    /// As it stands in `tc_index`.
    #[inline(always)]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw & 0xffff)
    }

    /// See [`Self::from_raw`].
    #[inline(always)]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// It may leave through any link.
    #[inline(always)]
    pub const fn any(classes: &EgressClasses) -> Self {
        Self(classes.stamp)
    }

    /// The same, of a packet that went up in this epoch of the flow table ([`super::FlowControl::epoch`]): its lower eight bits
    /// are where the links would be. Other permits have no room for it.
    #[inline(always)]
    #[must_use]
    pub const fn with_flow_epoch(self, epoch: u32) -> Self {
        if self.is_any() { Self(self.0 | epoch & 0xff) } else { self }
    }

    /// These bits; 0: it carries none.
    #[inline(always)]
    pub const fn flow_epoch(self) -> u32 {
        if self.is_any() { self.0 & 0xff } else { 0 }
    }

    /// It may leave through links of the classes with these bits.
    #[inline(always)]
    pub const fn some(classes: &EgressClasses, bits: u32) -> Self {
        Self(classes.stamp | Self::SOME | bits & 0xff)
    }

    /// It may leave through links of one class.
    #[inline(always)]
    pub const fn one(classes: &EgressClasses, class: u32) -> Self {
        Self(classes.stamp | Self::ONE | class & 0xff)
    }

    /// Whether it was written by the daemon whose map this is.
    #[inline(always)]
    pub const fn is_of(self, classes: &EgressClasses) -> bool {
        (self.0 ^ classes.stamp) & EgressClasses::OWNER == 0
    }

    /// Whether it may leave through any link.
    #[inline(always)]
    pub const fn is_any(self) -> bool {
        self.0 & (Self::SOME | Self::ONE) == 0
    }

    /// Whether it may leave through some links, and not through others, or not through links that are not known yet.
    #[inline(always)]
    pub const fn depends(self) -> bool {
        self.0 & Self::SOME != 0
    }

    /// Whether it may leave through a link.
    #[inline(always)]
    pub const fn allows(self, link: &EgressLink) -> bool {
        if self.is_any() {
            return true;
        }
        let epoch = self.0 & EgressClasses::EPOCH;
        let class = if link.epoch[0] as u32 == epoch >> 10 {
            link.class[0]
        } else if link.epoch[1] as u32 == epoch >> 10 {
            link.class[1]
        } else {
            return false;
        };
        let class = class as u32;
        if self.0 & Self::ONE != 0 {
            return self.0 & 0xff == class;
        }
        let bit = if class < CLASS_BITS { class } else { CLASS_BITS - 1 };
        self.0 >> bit & 1 != 0
    }
}

/// The classes of ways out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EgressClasses {
    /// Whose they are and which epoch, as a [`EgressPermit`] has them.
    pub stamp: u32,
    /// How many classes there are.
    pub count: u32,
    /// Not 0: no rule of chain forward looks at the way out, so the answer for one link holds for all that may ever be.
    pub alike: u32,
    /// Zero.
    pub reserved: u32,
    /// A link of each class, as far as there is room.
    pub links: [Ifindex; MAX_CLASSES],
}

impl EgressClasses {
    /// Bits of [`Self::stamp`]: whose it is.
    pub const OWNER: u32 = 0xf000;
    /// Bits of [`Self::stamp`]: the epoch. A number of the classes means nothing in another one.
    pub const EPOCH: u32 = 0x0c00;

    /// The stamp of a daemon (any number) in an epoch.
    pub const fn stamp(daemon: u64, epoch: u32) -> u32 {
        ((daemon % 15) as u32 + 1) << 12 | (epoch & 3) << 10
    }
}

/// A link as a way out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EgressLink {
    /// Its class in this epoch and in the one before.
    pub class: [u8; 2],
    /// These epochs, 0 to 3.
    pub epoch: [u8; 2],
    /// [`EgressLinkFlags`].
    pub flags: u32,
}

bitflags::bitflags! {
    /// What a link is, beside its class.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct EgressLinkFlags: u32 {
        /// Its packets did not come in through a port of this daemon: it is a tunnel, or a link that is no port and has no port
        /// above or below it.
        const FOREIGN = 1 << 0;
        /// What leaves through it is put into another packet, which is this machine's own.
        const TUNNEL = 1 << 1;
    }
}

impl EgressLink {
    /// [`Self::flags`], typed.
    #[inline(always)]
    pub const fn flags(&self) -> EgressLinkFlags {
        EgressLinkFlags::from_bits_retain(self.flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(daemon: u64, epoch: u32) -> EgressClasses {
        EgressClasses { stamp: EgressClasses::stamp(daemon, epoch), ..EgressClasses::default() }
    }

    fn link(class: [u8; 2], epoch: [u8; 2]) -> EgressLink {
        EgressLink { class, epoch, flags: 0 }
    }

    #[test]
    fn a_passage_holds_for_its_classes_and_its_epoch() {
        let now = classes(7, 2);
        let rows = [
            ("any way", EgressPermit::any(&now), link([9, 9], [0, 1]), true),
            ("its bit is set", EgressPermit::some(&now, 0b10), link([1, 0], [2, 1]), true),
            ("its bit is not set", EgressPermit::some(&now, 0b10), link([0, 1], [2, 1]), false),
            ("its class of the epoch before", EgressPermit::some(&now, 0b10), link([0, 1], [3, 2]), true),
            ("no epoch that the link knows", EgressPermit::some(&now, 0xff), link([1, 1], [0, 3]), false),
            ("a class beyond the bits", EgressPermit::some(&now, 0x80), link([40, 0], [2, 1]), true),
            ("a class beyond the bits, not let", EgressPermit::some(&now, 0x7f), link([40, 0], [2, 1]), false),
            ("just this class", EgressPermit::one(&now, 40), link([40, 0], [2, 1]), true),
            ("another class", EgressPermit::one(&now, 41), link([40, 0], [2, 1]), false),
        ];
        for (what, passage, link, expected) in rows {
            assert!(passage.is_of(&now), "{what}");
            assert_eq!(EgressPermit::from_raw(passage.raw()).allows(&link), expected, "{what}");
        }
    }

    #[test]
    fn a_passage_is_one_daemons() {
        let ours = classes(7, 2);
        assert!(!EgressPermit::NONE.is_of(&ours));
        assert!(!EgressPermit::any(&classes(8, 2)).is_of(&ours));
        assert!(EgressPermit::any(&classes(7, 3)).is_of(&ours), "in whatever epoch");
        for daemon in 0..40 {
            assert_ne!(classes(daemon, 0).stamp & EgressClasses::OWNER, 0);
        }
    }
}
