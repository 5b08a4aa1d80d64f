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

/// Where a program asks whether a feature is on: it loads a mark that says which feature, and compares it with [`Switch::ON`].
/// A loader that knows what is on loads the answer instead; the verifier then removes the comparison, and what nobody can come
/// to. One instruction is left; of a variable that is read there would be two or three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch(Features);

impl Switch {
    /// What is loaded where a feature is on; where it is off, and where nobody has said so, something else.
    pub const ON: i32 = 1;
    /// Above the bits of the features, in a mark.
    const SIGN: i32 = 0x5a << 24;
    /// `r0 = ...`: operation, register, and an offset that is none.
    const LOAD: [u8; 4] = [0xb7, 0, 0, 0];
    /// `if r0 == ...`: operation and register.
    const COMPARE: [u8; 2] = [0x15, 0];

    /// The mark for features of which at least one shall be on.
    pub const fn mark(features: Features) -> i32 {
        Self::SIGN | features.bits().cast_signed()
    }

    /// The switch that two instructions are, if they are one.
    pub fn of(load: [u8; 8], compare: [u8; 8]) -> Option<Self> {
        let ([load @ .., a, b, c, d], [operation, register, _, _, answer @ ..]) = (load, compare);
        let mark = i32::from_le_bytes([a, b, c, d]);
        let is_one = load == Self::LOAD
            && mark >> 24 == Self::SIGN >> 24
            && [operation, register] == Self::COMPARE
            && answer == Self::ON.to_le_bytes();
        is_one.then(|| Self(Features::from_bits_retain((mark ^ Self::SIGN).cast_unsigned())))
    }

    /// The first of its instructions as it is to be.
    pub fn set(self, on: Features) -> [u8; 8] {
        let [a, b, c, d] = Self::LOAD;
        let [e, f, g, h] = if on.intersects(self.0) { Self::ON } else { 0 }.to_le_bytes();
        [a, b, c, d, e, f, g, h]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPARE: [u8; 8] = [0x15, 0, 0x34, 0x12, 1, 0, 0, 0];

    fn load(mark: i32) -> [u8; 8] {
        let [a, b, c, d] = mark.to_le_bytes();
        [0xb7, 0, 0, 0, a, b, c, d]
    }

    #[test]
    fn a_switch_says_whether_any_of_its_features_is_on() {
        let switch = Switch::of(load(Switch::mark(Features::CHAINS)), COMPARE).expect("a switch");
        assert_eq!(switch.set(Features::INPUT | Features::IPV6), load(1));
        assert_eq!(switch.set(Features::IPV6), load(0));
    }

    #[test]
    fn all_else_is_none() {
        let switch = load(Switch::mark(Features::IPV6));
        for (what, first, second) in [
            ("another number", load(Features::IPV6.bits().cast_signed()), COMPARE),
            ("another register", [0xb7, 1, 0, 0, switch[4], switch[5], switch[6], switch[7]], COMPARE),
            ("not compared", switch, switch),
            ("compared with something else", switch, [0x15, 0, 0x34, 0x12, 2, 0, 0, 0]),
            ("compared in another way", switch, [0x55, 0, 0x34, 0x12, 1, 0, 0, 0]),
        ] {
            assert_eq!(Switch::of(first, second), None, "{what}");
        }
    }

    #[test]
    fn marks_have_room_for_all_features() {
        assert_eq!(Features::all().bits() >> 24, 0);
    }
}
