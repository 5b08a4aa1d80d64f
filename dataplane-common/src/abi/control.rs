//! What a program reads once per packet, and what it was loaded with.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Which generation of each table is live. Written as a whole; read once per packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Control {
    /// Block of `FIB4` at which the live generation begins.
    pub fib4: u32,
    /// Line of `FIB6` at which the live generation begins.
    pub fib6: u32,
    /// Generation of `FILTERS` and `RULES`, 0 or 1.
    pub filter: u32,
    /// Families whose mirror decides: bit 0 IPv4, bit 1 IPv6. Else forwarded packets are left to the kernel.
    pub mirror: u32,
}

impl Control {
    /// Bit of [`Control::mirror`] for IPv4.
    pub const MIRROR_V4: u32 = 1;
    /// Bit of [`Control::mirror`] for IPv6.
    pub const MIRROR_V6: u32 = 2;
}

/// What was last found out about the controller: asked once in each tick of the kernel's timer, not for each packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Pulse {
    /// In which tick (`jiffies64`).
    pub tick: u64,
    /// Whether it was gone: 0 or 1.
    pub gone: u64,
}

bitflags! {
    /// Switches a program is loaded with; the verifier removes what is off.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Features: u32 {
        /// Chain prerouting has rules or does not accept.
        const PREROUTING = 1 << 0;
        /// Chain input has rules or does not accept.
        const INPUT = 1 << 1;
        /// Chain forward has rules or does not accept.
        const FORWARD = 1 << 2;
        /// Chain output has rules or does not accept.
        const OUTPUT = 1 << 3;
        /// IPv6 is there.
        const IPV6 = 1 << 4;
        /// Some port has rp_filter on.
        const RP_FILTER = 1 << 5;
        /// Some port may see checksums still to be filled in.
        const PARTIAL_CHECKSUMS = 1 << 6;
        /// Some port has no Ethernet header.
        const NO_ETHERNET = 1 << 7;
        /// Some route has more than one next hop.
        const MULTIPATH = 1 << 8;
        /// The first level of `FIB4` takes 24 bits.
        const WIDE_FIB4 = 1 << 9;
        /// `FIB6` has an index of 2000::/3.
        const WIDE_FIB6 = 1 << 10;
        /// Some link is a VLAN device.
        const VLANS = 1 << 11;
        /// There are IPv4 routes of type local that the kernel did not make by itself.
        const CUSTOM_LOCAL = 1 << 12;
        /// Some rule logs or rejects.
        const TELLING = 1 << 13;
        /// Some rule has a limit.
        const LIMITS = 1 << 14;
        /// Somebody watches packets.
        const TRACING = 1 << 15;
        /// Some port asks the kernel for routes.
        const INQUIRIES = 1 << 16;
        /// All chains.
        const CHAINS = Self::PREROUTING.bits() | Self::INPUT.bits() | Self::FORWARD.bits() | Self::OUTPUT.bits();
        /// What rules ask for.
        const RULES = Self::CHAINS.bits() | Self::TELLING.bits() | Self::LIMITS.bits();
    }
}

/// [`Features`] as programs read them: a byte for each, because to pick a bit is an instruction more, which stays where the
/// verifier removes what is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Switches(pub [u8; 32]);

impl Switches {
    /// All off.
    pub const NONE: Self = Self([0; 32]);
    /// Where it stands whether any chain is in use: behind all features.
    pub const FILTERING: usize = 31;

    /// Where the byte of a feature is.
    #[inline(always)]
    pub const fn place(feature: Features) -> usize {
        feature.bits().trailing_zeros() as usize % 32
    }
}

impl From<Features> for Switches {
    fn from(features: Features) -> Self {
        let mut switches = Self::NONE;
        for feature in features {
            switches.0[Self::place(feature)] = 1;
        }
        switches.0[Self::FILTERING] = u8::from(features.intersects(Features::CHAINS));
        switches
    }
}
