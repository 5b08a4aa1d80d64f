//! One rule to its entries.

use dataplane_common::abi::{Entry, EntryFlags, Ifindex, Ruling, Span, key};
use dataplane_common::wire::protocol;

use super::FilterFault;
use super::bits::{Box, Interval, Place, complement, merged};
use crate::rule::{
    Family, LinkField, LinkPattern, Match, Protocol, ProtocolField, Range, Rule, Side, TcpFlags, Test, Value, Values,
    Verdict,
};

/// Headers that IPv6 puts before the one that `meta l4proto` names (RFC 8200, section 4).
const EXTENSIONS: [u8; 6] = [
    protocol::HOP_BY_HOP as u8,
    protocol::ROUTING as u8,
    protocol::FRAGMENT as u8,
    protocol::AH as u8,
    protocol::DESTINATION_OPTIONS as u8,
    protocol::MOBILITY as u8,
];

/// Whether a match asks for the first header where the kernel half knows the last.
pub(super) fn asks_extension(asked: &Match) -> bool {
    let Match::Protocol(ProtocolField::Ip6, test) = asked else { return false };
    let holds = |range: &Range<Protocol>| EXTENSIONS.iter().any(|number| range.contains(Protocol(*number)));
    test.negated() || listed(test).iter().any(holds)
}

/// The boxes of a rule, at most `free`.
pub(super) fn entries(
    rule: &Rule,
    counter: u32,
    links: &dyn Fn(&LinkPattern) -> Vec<Ifindex>,
    free: usize,
) -> Result<Vec<Entry>, FilterFault> {
    let factors: Vec<Vec<Box>> = rule.matches().iter().flat_map(|asked| factors(asked, links)).collect();
    let mut boxes = vec![Box::ANY];
    for (done, factor) in factors.iter().enumerate() {
        boxes = boxes.iter().flat_map(|one| factor.iter().filter_map(|other| one.and(other))).collect();
        // Each of them is met by some packet, and further matches seldom leave fewer: stop before they fill the memory.
        if boxes.len() > GIVE_UP {
            let rest = factors[done + 1..].iter().map(Vec::len);
            return Err(FilterFault::Full { needed: rest.fold(boxes.len(), usize::saturating_mul), free });
        }
    }
    if boxes.len() > free {
        return Err(FilterFault::Full { needed: boxes.len(), free });
    }
    let ruling = match rule.verdict() {
        Verdict::Accept => Ruling::Accept,
        Verdict::Continue => Ruling::Continue,
        Verdict::Drop | Verdict::Reject(_) => Ruling::Drop,
    };
    Ok(boxes.into_iter().map(|Box(entry)| Entry { counter, ruling: ruling as u16, ..entry }).collect())
}

/// Boxes of one rule beyond which its exact number is of no interest.
const GIVE_UP: usize = 1 << 18;

/// What a match asks, each factor a union of boxes; a packet must be in one box of each.
fn factors(asked: &Match, links: &dyn Fn(&LinkPattern) -> Vec<Ifindex>) -> Vec<Vec<Box>> {
    let mut factors = Vec::new();
    if let Some(family) = asked.family() {
        factors.push(vec![Place::FAMILY.masked(version(family), Place::FAMILY.last())]);
    }
    // The protocol of `ip protocol` is the test itself.
    if !matches!(asked, Match::Protocol(..))
        && let Some(protocols) = asked.protocols()
    {
        let intervals = protocols.into_iter().map(|number| (number.into(), number.into())).collect();
        factors.push(Place::PROTOCOL.intervals(&merged(intervals)));
    }
    factors.extend(match asked {
        Match::Ipv4(side, test) => vec![field(Place::address(address_word(*side), 32), test)],
        Match::Ipv6(side, test) => vec![field(Place::address(address_word(*side), 128), test)],
        Match::Port(_, side, test) => vec![ports(*side, test)],
        Match::Protocol(_, test) => vec![field(Place::PROTOCOL, test)],
        Match::TcpFlags(flags) => tcp_flags(flags),
        Match::IcmpType(test) => vec![needing(field(Place::ICMP_TYPE, test), EntryFlags::TRANSPORT)],
        Match::Icmpv6Type(test) => vec![needing(field(Place::ICMP_TYPE, test), EntryFlags::TRANSPORT)],
        Match::Dscp(_, test) => vec![field(Place::DSCP, test)],
        Match::HopLimit(_, test) => vec![field(Place::HOP_LIMIT, test)],
        Match::Fragment(fragment) if fragment.mask() == u16::MAX => vec![field(Place::FRAGMENT, fragment.test())],
        Match::Fragment(fragment) => {
            let values: Vec<_> = listed(fragment.test()).iter().map(|range| range.ends().0.bits()).collect();
            masked(Place::FRAGMENT, fragment.mask().into(), fragment.test().negated(), &values)
        }
        Match::Length(test) => vec![spans(test, |length| Entry { length, ..Entry::ANY })],
        Match::Link(link, test) => vec![interfaces(*link, test, links)],
        Match::Vlan(test) => vec![vec![Place::TAGGED.masked(1, 1)], field(Place::VLAN, test)],
        Match::Ether(side, test) => {
            let place = if *side == Side::Source { Place::LINK_SOURCE } else { Place::LINK_DESTINATION };
            vec![needing(field(place, test), EntryFlags::ETHERNET)]
        }
        Match::Family(_) => Vec::new(),
    });
    factors
}

const fn version(family: Family) -> u128 {
    match family {
        Family::V4 => 4,
        Family::V6 => 6,
    }
}

const fn address_word(side: Side) -> usize {
    match side {
        Side::Source => key::SOURCE,
        Side::Destination => key::DESTINATION,
    }
}

fn needing(boxes: Vec<Box>, flags: EntryFlags) -> Vec<Box> {
    boxes.into_iter().map(|one| one.needing(flags)).collect()
}

/// The items of a test; sets were refused before.
fn listed<I: Ord>(test: &Test<I>) -> &[I] {
    match test.values() {
        Values::Listed(items) => items,
        Values::Set(_) => &[],
    }
}

/// The numbers for which a test holds.
fn intervals<T: Value>(test: &Test<Range<T>>) -> Vec<Interval> {
    let ends = listed(test).iter().map(|range| range.ends());
    let inside = merged(ends.map(|(low, high)| (low.bits(), high.bits())).collect());
    if test.negated() { complement(&inside, T::last()) } else { inside }
}

fn field<T: Value>(place: Place, test: &Test<Range<T>>) -> Vec<Box> {
    place.intervals(&intervals(test))
}

fn spans<T: Value>(test: &Test<Range<T>>, entry: impl Fn(Span) -> Entry) -> Vec<Box> {
    let span = |(low, high): Interval| Span { low: low as u16, high: high as u16 };
    intervals(test).into_iter().map(|interval| Box(entry(span(interval)))).collect()
}

/// A port must be readable even where any would do.
fn ports(side: Side, test: &Test<Range<crate::rule::Port>>) -> Vec<Box> {
    let boxes = match side {
        Side::Source => spans(test, |source_port| Entry { source_port, ..Entry::ANY }),
        Side::Destination => spans(test, |destination_port| Entry { destination_port, ..Entry::ANY }),
    };
    needing(boxes, EntryFlags::PORTS)
}

/// The bits of `mask` are one of `values`, or none of them: then a factor for each.
fn masked(place: Place, mask: u128, negated: bool, values: &[u128]) -> Vec<Vec<Box>> {
    if negated {
        values.iter().map(|value| place.differing(*value, mask)).collect()
    } else {
        vec![values.iter().map(|value| place.masked(*value, mask)).collect()]
    }
}

fn tcp_flags(flags: &TcpFlags) -> Vec<Vec<Box>> {
    let values: Vec<_> = flags.values().iter().map(|value| u128::from(*value)).collect();
    let factors = masked(Place::TCP_FLAGS, flags.mask().into(), flags.negated(), &values);
    factors.into_iter().map(|boxes| needing(boxes, EntryFlags::TRANSPORT)).collect()
}

fn interfaces(link: LinkField, test: &Test<LinkPattern>, links: &dyn Fn(&LinkPattern) -> Vec<Ifindex>) -> Vec<Box> {
    let place = match link {
        LinkField::Iif | LinkField::Iifname => Place::IIF,
        LinkField::Oif | LinkField::Oifname => Place::OIF,
    };
    let indices = listed(test).iter().flat_map(links).map(|index| (index.into(), index.into()));
    let inside = merged(indices.collect());
    place.intervals(&if test.negated() { complement(&inside, place.last()) } else { inside })
}
