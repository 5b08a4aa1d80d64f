//! What a program reads once per packet, and what it was loaded with.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Which generation of each table is live. Written as a whole; read once per packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Control {
    /// Block of `FIB4` at which the live generation begins, and whether it is the second ([`super::SECOND`]).
    pub fib4: u32,
    /// Line of `FIB6`, in the same way.
    pub fib6: u32,
    /// Which generation of `FILTERS` and `FILTER` is live: 0 or 1 in the lowest bit, and above it how many changes there were,
    /// so that it is another number after each ([`Self::after`]).
    pub filter: u32,
    /// What holds of the mirror: bit 0, that it decides for IPv4, bit 1, for IPv6, else forwarded packets are left to the
    /// kernel; bit 2, [`Self::DIRECT`].
    pub mirror: u32,
}

impl Control {
    /// Bit of [`Control::mirror`] for IPv4.
    pub const MIRROR_V4: u32 = 1;
    /// Bit of [`Control::mirror`] for IPv6.
    pub const MIRROR_V6: u32 = 2;
    /// Bit of [`Control::mirror`]: each next-hop group has exactly the one adjacency of its own number
    /// ([`super::NextHopGroup::is_adjacency`]), so programs skip the lookup of the group.
    pub const DIRECT: u32 = 4;

    /// [`Self::filter`] after a change, with this bank live.
    pub const fn after(filter: u32, bank: u32) -> u32 {
        (filter | 1).wrapping_add(1) | bank & 1
    }
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
        /// Some port, or some way out, has no Ethernet header.
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
        const LOGGING = 1 << 13;
        /// Some rule has a limit.
        const LIMITS = 1 << 14;
        /// There are subscribers of traced packets.
        const TRACING = 1 << 15;
        /// Some port looks up routes in the kernel.
        const KERNEL_LOOKUP = 1 << 16;
        /// Packets are the controller's own and are not sent: next hops are not marked as used.
        const DRY_RUN = 1 << 17;
        /// The kernel has policies of `IPsec`.
        const IPSEC = 1 << 18;
        /// Some port has an `rx_handler` that takes its frames before IP sees them.
        const RX_HANDLER = 1 << 19;
        /// The kernel is an NDP proxy: it answers for IPv6 neighbours on other links.
        const PROXY_NDP = 1 << 20;
        /// Some routing rule is for packets with a mark.
        const MARKS = 1 << 21;
        /// Addresses may be local by tables that only the kernel follows.
        const ELSEWHERE = 1 << 31;
        /// Some port may have a DHCP client.
        const CLIENTS = 1 << 23;
        /// Some port has macvlan devices, whose link addresses are this machine's, too.
        const VIRTUAL = 1 << 24;
        /// Rules of netfilter decide on what would be forwarded from some port.
        const FOLLOW = 1 << 25;
        /// Packets of connections that netfilter has let through are carried past it.
        const FLOWS = 1 << 26;
        /// The kernel looks at every IPv4 source, because of routing rules.
        const SOURCES = 1 << 27;
        /// Some port is a member of a bridge that is a port, too.
        const BRIDGES = 1 << 28;
        /// Frames between members of some bridge are sent by the programs.
        const SWITCH = 1 << 29;
        /// What chains have found is remembered for the next packets of a flow.
        const VERDICTS = 1 << 30;
        /// Some way out leads to another namespace, and packets are handed to its other end.
        const PEERS = 1 << 22;
        /// All chains.
        const CHAINS = Self::PREROUTING.bits() | Self::INPUT.bits() | Self::FORWARD.bits() | Self::OUTPUT.bits();
        /// Features that rules may need.
        const RULES = Self::CHAINS.bits() | Self::LOGGING.bits() | Self::LIMITS.bits() | Self::VERDICTS.bits();
    }
}

/// An instruction, as it is loaded.
pub type Instruction = [u8; 8];

/// A place in a program that tests whether a feature is on: it loads a number that names the feature, and compares it with
/// [`Switch::ON`]. The loader knows which features are on, and patches the place. In the best case it writes a jump, or no
/// operation ([`Switch::decide`]); otherwise it writes a constant ([`Switch::load_constant`]), and the verifier removes the
/// comparison. In both cases the verifier removes the code that cannot be reached. A variable would leave two or three
/// instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch {
    features: Features,
    /// From behind the comparison to where it leads when a feature is on, in instructions.
    offset: [u8; 2],
}

impl Switch {
    /// The constant for a feature that is on. An unpatched program and a feature that is off have another one.
    pub const ON: i32 = 1;
    /// How many [`Self::pad_jump`] jumps are at the beginning of a function that has them.
    pub const PAD_JUMPS: usize = 160;
    /// What is loaded in front of them.
    pub const PAD_MARK: i32 = 0x5b << 24;
    /// Above the bits of the features, in a mark.
    const SIGN: i32 = 0x5a << 24;
    /// The same for the features from the 24th on, of which a mark has the bits further down.
    const SIGN_HIGH: i32 = 0x5c << 24;
    /// How many bits of features fit into a mark.
    const BITS: u32 = 24;
    /// `r0 = ...`: operation, register, and an offset that is none.
    const LOAD: [u8; 4] = [0xb7, 0, 0, 0];
    /// `if r0 == ... goto ...`: operation and register.
    const COMPARE: [u8; 2] = [0x15, 0];
    /// `goto ...`: operation and register.
    const JUMP: [u8; 2] = [0x05, 0];
    /// Goes on: the verifier removes it.
    pub const NOTHING: Instruction = Self::jump([0, 0]);

    /// The mark for features of which at least one shall be on: all of them below the 24th bit, or none.
    pub const fn mark(features: Features) -> i32 {
        let (low, high) = (features.bits() & ((1 << Self::BITS) - 1), features.bits() >> Self::BITS);
        assert!(low == 0 || high == 0, "a mark has no room for features of both halves");
        if high == 0 { Self::SIGN | low.cast_signed() } else { Self::SIGN_HIGH | high.cast_signed() }
    }

    /// The switch that two instructions are, if they are one.
    pub fn of(load: Instruction, compare: Instruction) -> Option<Self> {
        let mark = Self::loaded(load)?;
        let bits = (mark & ((1 << Self::BITS) - 1)).cast_unsigned();
        let features = Features::from_bits_retain(match mark - bits.cast_signed() {
            Self::SIGN => bits,
            Self::SIGN_HIGH => bits << Self::BITS,
            _ => return None,
        });
        let offset = [compare[2], compare[3]];
        (compare == Self::compare(offset)).then_some(Self { features, offset })
    }

    /// Whether a load begins the pad jumps of a function, which stand behind a jump to them and a jump around them. The
    /// verifier refuses instructions that no jump leads to before it finds out that they are dead, and would remove them. A pad
    /// jump, which is never taken, leads to the code that a decided switch cuts off.
    pub fn begins_pad(load: Instruction) -> bool {
        Self::loaded(load) == Some(Self::PAD_MARK)
    }

    /// A pad jump over so many instructions.
    pub fn pad_jump(offset: i16) -> Instruction {
        Self::compare(offset.to_le_bytes())
    }

    /// `r0 = 0` or [`Self::ON`].
    pub fn load_constant(yes: bool) -> Instruction {
        let mut load = Self::NOTHING;
        load[..4].copy_from_slice(&Self::LOAD);
        load[4..].copy_from_slice(&if yes { Self::ON } else { 0 }.to_le_bytes());
        load
    }

    /// The answer, when these features are on.
    pub fn is_on(self, on: Features) -> bool {
        on.intersects(self.features)
    }

    /// Both instructions for a switch that is on or off; and how many instructions behind them begins what they leave without a
    /// way there.
    pub fn decide(self, on: Features) -> ([Instruction; 2], i16) {
        if self.is_on(on) {
            ([Self::NOTHING, Self::jump(self.offset)], 0)
        } else {
            ([Self::NOTHING; 2], i16::from_le_bytes(self.offset))
        }
    }

    const fn jump([low, high]: [u8; 2]) -> Instruction {
        let [operation, register] = Self::JUMP;
        [operation, register, low, high, 0, 0, 0, 0]
    }

    fn loaded(load: Instruction) -> Option<i32> {
        let [load @ .., a, b, c, d] = load;
        (load == Self::LOAD).then(|| i32::from_le_bytes([a, b, c, d]))
    }

    fn compare([low, high]: [u8; 2]) -> Instruction {
        let [operation, register] = Self::COMPARE;
        let [a, b, c, d] = Self::ON.to_le_bytes();
        [operation, register, low, high, a, b, c, d]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Over 0x1234 instructions.
    const COMPARE: Instruction = [0x15, 0, 0x34, 0x12, 1, 0, 0, 0];

    fn load(mark: i32) -> Instruction {
        let [a, b, c, d] = mark.to_le_bytes();
        [0xb7, 0, 0, 0, a, b, c, d]
    }

    #[test]
    fn a_switch_is_on_if_any_of_its_features_is() {
        let switch = Switch::of(load(Switch::mark(Features::CHAINS)), COMPARE).expect("a switch");
        assert!(switch.is_on(Features::INPUT | Features::IPV6));
        assert!(!switch.is_on(Features::IPV6));
        assert_eq!([Switch::load_constant(true), Switch::load_constant(false)], [load(1), load(0)]);
    }

    #[test]
    fn a_decided_switch_is_a_jump_or_nothing() {
        let switch = Switch::of(load(Switch::mark(Features::IPV6)), COMPARE).expect("a switch");
        assert_eq!(switch.decide(Features::IPV6), ([Switch::NOTHING, [0x05, 0, 0x34, 0x12, 0, 0, 0, 0]], 0));
        assert_eq!(switch.decide(Features::VLANS), ([Switch::NOTHING; 2], 0x1234));
        assert_eq!(Switch::pad_jump(0x1234), COMPARE);
        assert_eq!(Switch::NOTHING, [0x05, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn all_else_is_none() {
        let switch = load(Switch::mark(Features::IPV6));
        for (what, first, second) in [
            ("another number", load(Features::IPV6.bits().cast_signed()), COMPARE),
            ("spare jumps", load(Switch::PAD_MARK), COMPARE),
            ("another register", [0xb7, 1, 0, 0, switch[4], switch[5], switch[6], switch[7]], COMPARE),
            ("not compared", switch, switch),
            ("compared with something else", switch, [0x15, 0, 0x34, 0x12, 2, 0, 0, 0]),
            ("compared in another way", switch, [0x55, 0, 0x34, 0x12, 1, 0, 0, 0]),
        ] {
            assert_eq!(Switch::of(first, second), None, "{what}");
        }
        assert!(Switch::begins_pad(load(Switch::PAD_MARK)));
        assert!(!Switch::begins_pad(switch));
    }

    #[test]
    fn each_feature_has_a_switch_of_its_own() {
        for feature in Features::all().iter() {
            let switch = Switch::of(load(Switch::mark(feature)), COMPARE).expect("a switch");
            assert!(switch.is_on(feature), "{feature:?}");
            assert!(!switch.is_on(Features::all() - feature), "{feature:?}");
        }
    }
}
