//! The chain of IPv6 extension headers (RFC 8200 section 4).

use core::hint::cold_path;

use super::{Bytes, Extension, IPV4_FRAGMENT_MASK, IPV4_MORE_FRAGMENTS, IPV6_ROUTED, Ipv6Fragment, protocol};
use crate::Reason;

/// Headers that are walked; a longer chain is dropped as [`Reason::ExtensionLimit`].
const LIMIT: usize = 8;

/// How far along the chain a reader is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chain {
    /// Where the next header begins, in bytes from the start of the frame.
    pub payload: usize,
    /// What it is.
    pub protocol: u64,
    /// Flags and offset of a fragment, in the places where IPv4 has them; and [`IPV6_ROUTED`].
    pub fragment: u64,
}

/// What a walk came to, in one word: what a function can return that the verifier looks at by itself.
///
/// From the top: reason plus one (0: none), protocol, fragment, payload; 16 bits each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Walk(u64);

impl Walk {
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

    /// The bytes could not be read.
    pub const TRUNCATED: Self = Self::dropped(Reason::Truncated);

    #[inline(always)]
    const fn end(chain: Chain) -> Self {
        Self(chain.protocol << 32 | chain.fragment << 16 | chain.payload as u64 & 0xffff)
    }

    #[inline(always)]
    const fn dropped(reason: Reason) -> Self {
        Self((reason as u64 + 1) << 48)
    }

    /// The end of the chain.
    ///
    /// # Errors
    ///
    /// Why the packet is dropped.
    #[inline(always)]
    pub fn outcome(self) -> Result<Chain, Reason> {
        match self.0 >> 48 {
            0 => Ok(Chain {
                payload: (self.0 & 0xffff) as usize,
                protocol: self.0 >> 32,
                fragment: (self.0 >> 16) & 0xffff,
            }),
            number if number == Reason::Truncated as u64 + 1 => Err(Reason::Truncated),
            number if number == Reason::ExtensionLimit as u64 + 1 => Err(Reason::ExtensionLimit),
            number if number == Reason::RoutingHeader as u64 + 1 => Err(Reason::RoutingHeader),
            _ => Err(Reason::FragmentChain),
        }
    }
}

/// Whether a next header is one that the walk steps over: those that nft's `meta l4proto` steps over (`ipv6_find_hdr` in
/// `net/ipv6/exthdrs_core.c` with `IP6_FH_F_AUTH`, and `ipv6_ext_hdr`). AH and mobility are protocols, as ESP is.
#[inline(always)]
pub const fn is_extension(next_header: u64) -> bool {
    // Four bits rule out what nearly all packets carry.
    const FOUR: u64 = 1 << protocol::HOP_BY_HOP
        | 1 << protocol::ROUTING
        | 1 << protocol::FRAGMENT
        | 1 << protocol::DESTINATION_OPTIONS;
    if FOUR >> (next_header & 63) & 1 == 0 {
        return false;
    }
    cold_path();
    next_header < 64
}

/// Walks from `chain` to the transport header of a packet that ends at `end`.
#[inline(always)]
pub fn walk<B: Bytes + ?Sized>(packet: &B, mut chain: Chain, end: usize) -> Walk {
    let mut fragmented = false;
    for _ in 0..LIMIT {
        if !is_extension(chain.protocol) {
            return Walk::end(chain);
        }
        if chain.protocol == protocol::ROUTING {
            if packet.header(chain.payload & 0x7fff).is_some_and(is_source_route) {
                return Walk::dropped(Reason::RoutingHeader);
            }
            chain.fragment |= u64::from(IPV6_ROUTED);
        }
        if chain.protocol == protocol::FRAGMENT {
            if fragmented {
                return Walk::dropped(Reason::FragmentChain);
            }
            fragmented = true;
        }
        match step(packet, chain) {
            Some(next) if next.payload <= end => chain = next,
            // The bytes are in another buffer.
            None if chain.payload + size_of::<Ipv6Fragment>() <= end => return Walk::TRUNCATED,
            // As `ipv6_find_hdr`: the protocol is known, but nothing of its header is there.
            Some(next) if !fragmented && !is_extension(next.protocol) => {
                return Walk::end(Chain { payload: end, ..next });
            }
            // The chain goes past the packet. RFC 7112 wants it whole in a first fragment; elsewhere it cannot be read.
            _ if fragmented => return Walk::dropped(Reason::FragmentChain),
            _ => return Walk::end(Chain { protocol: protocol::NO_NEXT_HEADER, ..chain }),
        }
        if chain.fragment & u64::from(IPV4_FRAGMENT_MASK) != 0 {
            // Behind another extension header the protocol of a later fragment is not known.
            let unknown = is_extension(chain.protocol) || chain.protocol == protocol::AH;
            return if unknown { Walk::dropped(Reason::FragmentChain) } else { Walk::end(chain) };
        }
    }
    if is_extension(chain.protocol) { Walk::dropped(Reason::ExtensionLimit) } else { Walk::end(chain) }
}

/// Routing header of type 0 (RFC 5095).
#[inline(always)]
fn is_source_route(header: &Extension) -> bool {
    header.kind == 0
}

/// One extension header; `None` where the bytes end before it does.
#[inline(always)]
fn step<B: Bytes + ?Sized>(packet: &B, chain: Chain) -> Option<Chain> {
    // Bounded, so that the verifier sees an offset inside the longest packet.
    let offset = chain.payload & 0x7fff;
    if chain.protocol == protocol::FRAGMENT {
        let header = packet.header::<Ipv6Fragment>(offset)?;
        let word = header.fragment.get();
        let more = if word & 1 != 0 { IPV4_MORE_FRAGMENTS } else { 0 };
        return Some(Chain {
            payload: offset + size_of::<Ipv6Fragment>(),
            protocol: u64::from(header.next_header),
            fragment: chain.fragment & u64::from(IPV6_ROUTED) | u64::from((word >> 3) | more),
        });
    }
    let header = packet.header::<Extension>(offset)?;
    let length = (usize::from(header.length) + 1) * 8;
    Some(Chain { payload: offset + length, protocol: u64::from(header.next_header), fragment: chain.fragment })
}
