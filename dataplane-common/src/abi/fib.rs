//! The forwarding information base: elementary intervals behind an index of the first 16 bits.
//!
//! The whole address space is cut wherever the longest match changes. A lookup takes the part of the sorted cuts that its
//! first 16 bits name and finds the last cut at or before the address, so its cost does not depend on prefix lengths.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::wire::Address6;

/// Parts of the index: one for each value of the first 16 bits.
pub const FIB_CHUNKS: usize = 1 << 16;
/// Cuts that one generation has room for: about half as many routes.
pub const FIB_INTERVALS: usize = 1 << 17;
/// Steps of a binary search over all cuts.
const STEPS: u32 = FIB_INTERVALS.trailing_zeros() + 1;
/// Words of the filter over local addresses.
const LOCAL_WORDS: usize = 1024;

/// An address that a table is keyed by, in the host's byte order.
pub trait Prefixed: Copy + Ord + Mixed {
    /// Bits of an address.
    const BITS: u32;
    /// As it is stored: words, most significant first.
    type Words;
    /// To what is stored.
    fn pack(self) -> Self::Words;
    /// From what is stored.
    fn unpack(words: Self::Words) -> Self;
    /// As a number in a type that takes both families.
    fn widen(self) -> u128;
    /// The first 16 bits.
    fn chunk(self) -> u16;
}

/// Something with a well-mixed number, for filters and flow hashes.
pub trait Mixed {
    /// That number.
    fn mix(self) -> u32;

    /// Its 15 bits in the filter over local addresses, which need not be mixed as well.
    #[inline(always)]
    fn local_bit(self) -> u32
    where
        Self: Sized,
    {
        self.mix() >> 17
    }
}

impl Prefixed for u32 {
    const BITS: u32 = 32;
    type Words = [u32; 1];

    fn pack(self) -> [u32; 1] {
        [self]
    }

    #[inline(always)]
    fn unpack([word]: [u32; 1]) -> Self {
        word
    }

    fn widen(self) -> u128 {
        u128::from(self)
    }

    #[inline(always)]
    fn chunk(self) -> u16 {
        (self >> 16) as u16
    }
}

impl Mixed for u32 {
    #[inline(always)]
    fn mix(self) -> u32 {
        let hash = self.wrapping_mul(0x9e37_79b1);
        (hash ^ (hash >> 15)).wrapping_mul(0x85eb_ca77)
    }

    #[inline(always)]
    fn local_bit(self) -> u32 {
        self.wrapping_mul(0x9e37_79b1) >> 17
    }
}

impl Prefixed for u128 {
    const BITS: u32 = 128;
    type Words = [u64; 2];

    fn pack(self) -> [u64; 2] {
        [(self >> 64) as u64, self as u64]
    }

    #[inline(always)]
    fn unpack([high, low]: [u64; 2]) -> Self {
        (Self::from(high) << 64) | Self::from(low)
    }

    fn widen(self) -> u128 {
        self
    }

    #[inline(always)]
    fn chunk(self) -> u16 {
        (self >> 112) as u16
    }
}

impl Mixed for Address6 {
    #[inline(always)]
    fn mix(self) -> u32 {
        let half = self.high ^ self.low.rotate_left(23);
        ((half >> 32) as u32 ^ (half as u32).rotate_left(13)).mix()
    }
}

impl Mixed for u128 {
    #[inline(always)]
    fn mix(self) -> u32 {
        Address6::from(self).mix()
    }
}

/// What kind of route matched; the numbers are ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum RouteKind {
    /// Nothing matched, or a throw route did.
    None = 0,
    /// To the next hops of a group.
    Unicast = 1,
    /// An address of this machine, anycast addresses included.
    Local = 2,
    /// A broadcast address.
    Broadcast = 3,
    /// A multicast group.
    Multicast = 4,
    /// Dropped silently.
    Blackhole = 5,
    /// Answered with host unreachable.
    Unreachable = 6,
    /// Answered with administratively prohibited.
    Prohibit = 7,
    /// The mirror can not say: the kernel must.
    Kernel = 8,
}

/// What a lookup finds: a route kind and, for unicast, a next-hop group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Target(u32);

impl Target {
    /// Nothing matched.
    pub const NONE: Self = Self(0);

    /// A route of `kind`; `group` counts for unicast only.
    pub const fn new(kind: RouteKind, group: u32) -> Self {
        Self(((kind as u32) << 28) | (group & 0x0fff_ffff))
    }

    /// As a number, for functions that the verifier looks at by themselves.
    #[inline(always)]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// From that number.
    #[inline(always)]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// What kind of route it is.
    #[inline(always)]
    pub const fn kind(self) -> RouteKind {
        match self.0 >> 28 {
            1 => RouteKind::Unicast,
            2 => RouteKind::Local,
            3 => RouteKind::Broadcast,
            4 => RouteKind::Multicast,
            5 => RouteKind::Blackhole,
            6 => RouteKind::Unreachable,
            7 => RouteKind::Prohibit,
            8 => RouteKind::Kernel,
            _ => RouteKind::None,
        }
    }

    /// Index of the next-hop group.
    #[inline(always)]
    pub const fn group(self) -> u32 {
        self.0 & 0x0fff_ffff
    }
}

/// One generation of one family's table.
pub trait Fib {
    /// What it is keyed by.
    type Address: Prefixed;

    /// The longest match for `address`.
    fn lookup(&self, address: Self::Address) -> Target;

    /// The longest match for `address` where the first 16 bits say it all.
    fn direct(&self, address: Self::Address) -> Option<Target>;

    /// Whether `address` may be one of this machine's: `false` is certain, `true` needs a lookup.
    fn may_be_local(&self, address: Self::Address) -> bool;

    /// Enters a local address into the filter.
    fn set_local(&mut self, address: Self::Address);
}

macro_rules! fib {
    ($(#[$doc:meta])* $name:ident, $address:ty, $words:ty) => {
        $(#[$doc])*
        #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $name {
            /// For each chunk the positions of the cuts that cover its first and its last address.
            pub index: [[u32; 2]; FIB_CHUNKS],
            /// Bit filter over local addresses: a clear bit means "not local".
            pub local: [u32; LOCAL_WORDS],
            /// Where each interval begins, ascending; the first is 0.
            pub starts: [$words; FIB_INTERVALS],
            /// What each interval maps to.
            pub targets: [Target; FIB_INTERVALS],
        }

        impl Fib for $name {
            type Address = $address;

            #[inline(always)]
            fn lookup(&self, address: $address) -> Target {
                let position = search(self.index[usize::from(address.chunk())], &self.starts, address);
                self.targets[position as usize & (FIB_INTERVALS - 1)]
            }

            #[inline(always)]
            fn direct(&self, address: $address) -> Option<Target> {
                let [first, last] = self.index[usize::from(address.chunk())];
                if first == last { Some(self.targets[first as usize & (FIB_INTERVALS - 1)]) } else { None }
            }

            #[inline(always)]
            fn may_be_local(&self, address: $address) -> bool {
                let (word, bit) = local_bit(address);
                self.local[word] & bit != 0
            }

            fn set_local(&mut self, address: $address) {
                let (word, bit) = local_bit(address);
                self.local[word] |= bit;
            }
        }
    };
}

fib!(
    /// IPv4.
    Fib4, u32, [u32; 1]
);
fib!(
    /// IPv6.
    Fib6, u128, [u64; 2]
);

/// Position of the last cut at or before `address`, among those of its chunk.
#[inline(always)]
fn search<A: Prefixed<Words: Copy>>([first, last]: [u32; 2], starts: &[A::Words; FIB_INTERVALS], address: A) -> u32 {
    let (mut low, mut high) = (first, last);
    // Invariant: starts[low] <= address, and no cut after `high` is.
    for _ in 0..STEPS {
        if low >= high {
            break;
        }
        let middle = (low + high + 1) >> 1;
        if A::unpack(starts[middle as usize & (FIB_INTERVALS - 1)]) <= address {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}

/// Word and bit of the local filter for an address.
#[inline(always)]
fn local_bit<A: Prefixed>(address: A) -> (usize, u32) {
    let bit = address.local_bit();
    ((bit as usize / 32) & (LOCAL_WORDS - 1), 1 << (bit % 32))
}
