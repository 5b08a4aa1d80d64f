//! The two address families as types: an IPv4 address is a `u32`, an IPv6 address a `u128`, both in host order.

use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane_common::abi::{Control, Prefixed};

use super::{Model, Routes, TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN};

/// IPv4 or IPv6, where a value is needed rather than a type.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpVersion {
    /// The version of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for IpVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// What differs between the families.
pub trait Family: Prefixed + Hash + Default + fmt::Debug + Send + Sync + 'static {
    /// As a value.
    const VERSION: IpVersion;
    /// Its bit in [`Control::mirror`].
    const MIRROR: u32;
    /// `AF_INET` or `AF_INET6`.
    const NUMBER: u8;
    /// Whether the kernel announces the members of a multipath route one by one (IPv6: siblings) rather than as one route.
    const SIBLINGS: bool;
    /// Whether the kernel may look into tables local and main as if they were one (IPv4 until the first `ip rule add`:
    /// `fib_unmerge` in `net/ipv4/fib_frontend.c`), so that a longer prefix in main wins over a shorter one in local.
    const MERGED_LOCAL: bool;

    /// The tables of the default rules, in order.
    const TABLES: &[u32];

    /// From network order; `None` if there are too few or too many bytes.
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
    /// From an address of this family.
    fn from_ip(address: IpAddr) -> Option<Self>;
    /// As an address.
    fn to_ip(self) -> IpAddr;
    /// The bits behind the first `length`.
    fn host_mask(length: u8) -> Self;
    /// Bitwise or.
    #[must_use]
    fn union(self, other: Self) -> Self;
    /// `self` without the bits of `mask`.
    #[must_use]
    fn without(self, mask: Self) -> Self;
    /// The next address, unless this is the last.
    fn next(self) -> Option<Self>;
    /// This family's routes.
    fn routes(model: &Model) -> &Routes<Self>;
    /// This family's routes, to change.
    fn routes_mut(model: &mut Model) -> &mut Routes<Self>;
}

macro_rules! family {
    ($native:ty, $version:ident, $address:ty, $mirror:ident, $number:expr, $siblings:literal, $merged:literal, $tables:expr, $routes:ident) => {
        impl Family for $native {
            const VERSION: IpVersion = IpVersion::$version;
            const MIRROR: u32 = Control::$mirror;
            const NUMBER: u8 = $number as u8;
            const SIBLINGS: bool = $siblings;
            const MERGED_LOCAL: bool = $merged;
            const TABLES: &[u32] = $tables;

            fn from_bytes(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self::from_be_bytes)
            }

            fn from_ip(address: IpAddr) -> Option<Self> {
                match address {
                    IpAddr::$version(address) => Some(address.to_bits()),
                    _ => None,
                }
            }

            fn to_ip(self) -> IpAddr {
                IpAddr::$version(<$address>::from_bits(self))
            }

            fn host_mask(length: u8) -> Self {
                Self::MAX.checked_shr(u32::from(length)).unwrap_or(0)
            }

            fn union(self, other: Self) -> Self {
                self | other
            }

            fn without(self, mask: Self) -> Self {
                self & !mask
            }

            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }

            fn routes(model: &Model) -> &Routes<Self> {
                &model.$routes
            }

            fn routes_mut(model: &mut Model) -> &mut Routes<Self> {
                &mut model.$routes
            }
        }
    };
}

family!(u32, V4, Ipv4Addr, MIRROR_V4, libc::AF_INET, false, true, &[TABLE_LOCAL, TABLE_MAIN, TABLE_DEFAULT], routes4);
family!(u128, V6, Ipv6Addr, MIRROR_V6, libc::AF_INET6, true, false, &[TABLE_LOCAL, TABLE_MAIN], routes6);

/// A network: an address without host bits, and how many of its bits count.
/// Packed, because there may be a million of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(Rust, packed)]
pub struct Prefix<A> {
    address: A,
    length: u8,
}

impl<A: Family> Prefix<A> {
    /// All addresses.
    pub fn all() -> Self {
        Self::default()
    }

    /// The network of `address`; host bits are cleared, a length beyond the family's is cut to it.
    pub fn new(address: A, length: u8) -> Self {
        let length = length.min(A::BITS as u8);
        Self { address: address.without(A::host_mask(length)), length }
    }

    /// The first address.
    pub fn first(self) -> A {
        self.address
    }

    /// The last address.
    pub fn last(self) -> A {
        self.address.union(A::host_mask(self.length))
    }

    /// The last one, in their order, of all prefixes inside.
    pub(super) fn last_inside(self) -> Self {
        Self { address: self.last(), length: A::BITS as u8 }
    }

    /// How many leading bits count.
    pub fn length(self) -> u8 {
        self.length
    }

    /// Whether `address` is inside.
    pub fn contains(self, address: A) -> bool {
        self.first() <= address && address <= self.last()
    }

    /// Whether all of `other` is inside.
    pub fn covers(self, other: Self) -> bool {
        self.length <= other.length && self.contains(other.address)
    }

    /// Whether it is a single address.
    pub fn is_host(self) -> bool {
        u32::from(self.length) == A::BITS
    }
}

impl<A: Family> fmt::Display for Prefix<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address.to_ip(), self.length)
    }
}
