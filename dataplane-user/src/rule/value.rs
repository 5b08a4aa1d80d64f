//! What a rule compares with: addresses and numbers, each with its width and its names.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// A value of a fixed number of bits.
pub trait Value: Copy + Ord + fmt::Display + fmt::Debug + 'static {
    /// Width.
    const BITS: u32;
    /// What an error says was expected.
    const EXPECTED: &'static str;
    /// Whether `value/length` is written for a block of values.
    const PREFIX: bool = false;

    /// As a number in the host's byte order.
    fn bits(self) -> u128;

    /// From the lowest [`Self::BITS`] bits.
    fn from_bits(bits: u128) -> Self;

    /// From its text: a number or a name.
    fn from_word(word: &str) -> Option<Self>;

    /// As the end of a range: names may hold dashes, so numbers are written.
    fn write_end(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }

    /// The highest value, as a number.
    fn last() -> u128 {
        u128::MAX >> (128 - Self::BITS)
    }
}

impl Value for Ipv4Addr {
    const BITS: u32 = 32;
    const EXPECTED: &'static str = "an IPv4 address";
    const PREFIX: bool = true;

    fn bits(self) -> u128 {
        u32::from(self).into()
    }

    fn from_bits(bits: u128) -> Self {
        Self::from(bits as u32)
    }

    fn from_word(word: &str) -> Option<Self> {
        word.parse().ok()
    }
}

impl Value for Ipv6Addr {
    const BITS: u32 = 128;
    const EXPECTED: &'static str = "an IPv6 address";
    const PREFIX: bool = true;

    fn bits(self) -> u128 {
        self.into()
    }

    fn from_bits(bits: u128) -> Self {
        Self::from(bits)
    }

    fn from_word(word: &str) -> Option<Self> {
        word.parse().ok()
    }
}

/// A link address of six bytes (EUI-48).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.map(|byte| format!("{byte:02x}"));
        f.write_str(&bytes.join(":"))
    }
}

impl Value for MacAddress {
    const BITS: u32 = 48;
    const EXPECTED: &'static str = "a link address";

    fn bits(self) -> u128 {
        self.0.iter().fold(0, |bits, byte| bits << 8 | u128::from(*byte))
    }

    fn from_bits(bits: u128) -> Self {
        let mut bytes = [0; 6];
        bytes.copy_from_slice(&bits.to_be_bytes()[10..]);
        Self(bytes)
    }

    fn from_word(word: &str) -> Option<Self> {
        let bytes: Vec<u8> = word
            .split(':')
            .map(|byte| (byte.len() <= 2).then(|| u8::from_str_radix(byte, 16).ok()).flatten())
            .collect::<Option<_>>()?;
        Some(Self(bytes.try_into().ok()?))
    }
}

/// A decimal number, or a hexadecimal one after `0x`.
pub(super) fn number(word: &str) -> Option<u64> {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match word.strip_prefix("0x") {
        Some(hex) if digits(hex) => u64::from_str_radix(hex, 16).ok(),
        None if digits(word) => word.parse().ok(),
        _ => None,
    }
}

/// Whether names are printed, or only read.
#[derive(PartialEq, Eq)]
enum Names {
    Printed,
    Read,
}

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident($native:ty), $bits:literal bits, $expected:literal, $use:ident $names:expr $(, more [$($more:tt)*])?;)+) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $native);

        impl $name {
            /// Names that nft knows, with their numbers; of several for one number the first is printed.
            const NAMES: &'static [(&'static str, $native)] = &$names;
            /// Names that are only read.
            const MORE: &'static [(&'static str, $native)] = &[$($($more)*)?];
        }

        impl Value for $name {
            const BITS: u32 = $bits;
            const EXPECTED: &'static str = $expected;

            fn bits(self) -> u128 {
                self.0.into()
            }

            fn from_bits(bits: u128) -> Self {
                Self((bits & Self::last()) as $native)
            }

            fn from_word(word: &str) -> Option<Self> {
                let mut names = Self::NAMES.iter().chain(Self::MORE);
                let named = names.find(|(name, _)| *name == word).map(|(_, number)| Self(*number));
                named.or_else(|| {
                    let bits = number(word)?.into();
                    (bits <= Self::last()).then(|| Self::from_bits(bits))
                })
            }

            fn write_end(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let named = Self::NAMES.iter().find(|(_, number)| *number == self.0);
                match named {
                    Some((name, _)) if Names::$use == Names::Printed => f.write_str(name),
                    _ => write!(f, "{}", self.0),
                }
            }
        }
    )+ };
}

numbers! {
    /// A port of TCP, UDP and their like. Names as in /etc/services; numbers are printed.
    Port(u16), 16 bits, "a port (0 to 65535, or the name of a service)", Read [
        ("ftp", 21), ("ssh", 22), ("telnet", 23), ("smtp", 25), ("domain", 53), ("bootps", 67), ("bootpc", 68),
        ("tftp", 69), ("http", 80), ("kerberos", 88), ("pop3", 110), ("sunrpc", 111), ("ntp", 123), ("imap2", 143),
        ("snmp", 161), ("bgp", 179), ("ldap", 389), ("https", 443), ("submission", 587), ("syslog", 514),
        ("ldaps", 636), ("imaps", 993), ("pop3s", 995), ("openvpn", 1194), ("mysql", 3306), ("postgresql", 5432),
    ];
    /// What an IP packet carries (IANA protocol numbers).
    Protocol(u8), 8 bits, "a protocol (0 to 255, or its name)", Printed [
        ("icmp", 1), ("igmp", 2), ("ipencap", 4), ("tcp", 6), ("udp", 17), ("dccp", 33), ("ipv6", 41), ("gre", 47),
        ("esp", 50), ("ah", 51), ("ipv6-icmp", 58), ("icmpv6", 58), ("ospf", 89), ("pim", 103), ("comp", 108),
        ("vrrp", 112), ("l2tp", 115), ("sctp", 132), ("udplite", 136),
    ], more [
        // As /etc/protocols of one distribution or another has them, which is where nft and iptables take names from.
        ("hopopt", 0), ("ggp", 3), ("ipv4", 4), ("ip-encap", 4), ("st", 5), ("egp", 8), ("igp", 9), ("pup", 12), ("hmp", 20),
        ("xns-idp", 22), ("rdp", 27), ("iso-tp4", 29), ("xtp", 36), ("ddp", 37), ("idpr-cmtp", 38), ("ipv6-route", 43),
        ("ipv6-frag", 44), ("idrp", 45), ("rsvp", 46), ("ipv6-crypt", 50), ("ipv6-auth", 51), ("skip", 57),
        ("ipv6-nonxt", 59), ("ipv6-opts", 60), ("rspf", 73), ("vmtp", 81), ("eigrp", 88), ("ospfigp", 89), ("ax.25", 93),
        ("ipip", 94), ("etherip", 97), ("encap", 98), ("ipcomp", 108), ("carp", 112), ("isis", 124), ("fc", 133),
        ("mobility-header", 135), ("mh", 135), ("ipv6-mh", 135), ("udp-lite", 136), ("mpls-in-ip", 137), ("manet", 138),
        ("hip", 139), ("shim6", 140), ("wesp", 141), ("rohc", 142), ("ethernet", 143),
    ];
    /// Type of an ICMP message (RFC 792).
    IcmpType(u8), 8 bits, "an ICMP type (0 to 255, or its name)", Printed [
        ("echo-reply", 0), ("destination-unreachable", 3), ("source-quench", 4), ("redirect", 5), ("echo-request", 8),
        ("router-advertisement", 9), ("router-solicitation", 10), ("time-exceeded", 11), ("parameter-problem", 12),
        ("timestamp-request", 13), ("timestamp-reply", 14), ("info-request", 15), ("info-reply", 16),
        ("address-mask-request", 17), ("address-mask-reply", 18),
    ];
    /// Type of an `ICMPv6` message (RFC 4443, RFC 4861).
    Icmpv6Type(u8), 8 bits, "an ICMPv6 type (0 to 255, or its name)", Printed [
        ("destination-unreachable", 1), ("packet-too-big", 2), ("time-exceeded", 3), ("parameter-problem", 4),
        ("echo-request", 128), ("echo-reply", 129), ("mld-listener-query", 130), ("mld-listener-report", 131),
        ("mld-listener-done", 132), ("mld-listener-reduction", 132), ("nd-router-solicit", 133),
        ("nd-router-advert", 134), ("nd-neighbor-solicit", 135), ("nd-neighbor-advert", 136), ("nd-redirect", 137),
        ("router-renumbering", 138), ("ind-neighbor-solicit", 141), ("ind-neighbor-advert", 142),
        ("mld2-listener-report", 143),
    ];
    /// Code of an ICMP message: what it says depends on the type (RFC 792). Names are those of type 3.
    IcmpCode(u8), 8 bits, "an ICMP code (0 to 255, or its name)", Read [
        ("net-unreachable", 0), ("host-unreachable", 1), ("prot-unreachable", 2), ("port-unreachable", 3),
        ("frag-needed", 4), ("net-prohibited", 9), ("host-prohibited", 10), ("admin-prohibited", 13),
    ];
    /// Code of an `ICMPv6` message. Names are those of type 1 (RFC 4443).
    Icmpv6Code(u8), 8 bits, "an ICMPv6 code (0 to 255, or its name)", Read [
        ("no-route", 0), ("admin-prohibited", 1), ("addr-unreachable", 3), ("port-unreachable", 4), ("policy-fail", 5),
        ("reject-route", 6),
    ];
    /// Whom the frame is for, by its link address (`PACKET_HOST` and others of `linux/if_packet.h`).
    PacketType(u8), 8 bits, "host, broadcast, multicast or other", Printed [
        ("host", 0), ("unicast", 0), ("broadcast", 1), ("multicast", 2), ("other", 3),
    ];
    /// Differentiated services code point (RFC 2474), six bits.
    Dscp(u8), 6 bits, "a DSCP (0 to 63, or its name)", Printed [
        ("cs0", 0x00), ("cs1", 0x08), ("cs2", 0x10), ("cs3", 0x18), ("cs4", 0x20), ("cs5", 0x28), ("cs6", 0x30),
        ("cs7", 0x38), ("df", 0x00), ("be", 0x00), ("lephb", 0x01), ("af11", 0x0a), ("af12", 0x0c), ("af13", 0x0e),
        ("af21", 0x12), ("af22", 0x14), ("af23", 0x16), ("af31", 0x1a), ("af32", 0x1c), ("af33", 0x1e),
        ("af41", 0x22), ("af42", 0x24), ("af43", 0x26), ("va", 0x2c), ("ef", 0x2e),
    ];
    /// TTL or hop limit.
    HopLimit(u8), 8 bits, "a number from 0 to 255", Printed [];
    /// Length of the IP packet, in bytes.
    Length(u16), 16 bits, "a length (0 to 65535)", Printed [];
    /// VLAN identifier, twelve bits.
    VlanId(u16), 12 bits, "a VLAN identifier (0 to 4095)", Printed [];
    /// IPv4 flags and fragment offset, as the header has them (RFC 791).
    FragmentWord(u16), 16 bits, "a number from 0 to 65535", Printed [];
    /// Packet mark, as in nft's set type `mark`.
    Mark(u32), 32 bits, "a mark (a number of 32 bits)", Printed [];
    /// Number of a user or a group.
    Owner(u32), 32 bits, "the number of a user or group", Printed [];
}

/// Inclusive range of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range<T> {
    low: T,
    high: T,
}

impl<T: Value> Range<T> {
    /// From `low` to `high`, both inside; none when `low` is greater.
    pub fn new(low: T, high: T) -> Option<Self> {
        (low <= high).then_some(Self { low, high })
    }

    /// One value.
    pub fn single(value: T) -> Self {
        Self { low: value, high: value }
    }

    /// The block of `address/length`; bits past the length are ignored, as nft does. None when it is longer than the address.
    pub fn prefix(address: T, length: u32) -> Option<Self> {
        let host = T::last().checked_shr(length).unwrap_or(0);
        (length <= T::BITS)
            .then(|| Self { low: T::from_bits(address.bits() & !host), high: T::from_bits(address.bits() | host) })
    }

    /// First and last value.
    pub fn ends(self) -> (T, T) {
        (self.low, self.high)
    }

    /// Whether `value` is inside.
    pub fn contains(self, value: T) -> bool {
        self.low <= value && value <= self.high
    }

    /// The length of the prefix that holds exactly these values.
    fn prefix_length(self) -> Option<u32> {
        let host = self.low.bits() ^ self.high.bits();
        let aligned = self.low.bits() & host == 0 && host & (host.wrapping_add(1)) == 0;
        aligned.then(|| T::BITS - host.count_ones())
    }
}

impl<T: Value> fmt::Display for Range<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { low, high } = self;
        match self.prefix_length() {
            _ if low == high => write!(f, "{low}"),
            Some(length) if T::PREFIX => write!(f, "{low}/{length}"),
            _ => {
                low.write_end(f)?;
                f.write_str("-")?;
                high.write_end(f)
            }
        }
    }
}
