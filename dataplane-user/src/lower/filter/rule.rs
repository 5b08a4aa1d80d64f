//! One rule to its entries.

use dataplane_common::abi::{ActionCode, Acts, Ifindex, KeyFlags, Limit, LimitFlags, RULE_SETS, Selector, Span};

use super::bits::{BitOffset, Box, Interval, complement, merged};
use super::entry::{Entry, Membership, key};
use super::set::Sets;
use super::{FilterFault, Unsupported};
use crate::rule::{
    Action, Concatenation, Element, Family, Field, Item, ItemKind, LimitUnit, LinkField, LinkPattern, Match,
    PacketType, Range, Rule, Side, Statement, TcpFlags, Test, Value, Values,
};

/// The boxes of a rule.
pub(super) fn entries(
    rule: &Rule,
    (order, counter): (u32, u32),
    links: &dyn Fn(&LinkPattern) -> Vec<Ifindex>,
    sets: &mut Sets<'_, '_>,
) -> Result<Vec<Entry>, FilterFault> {
    let mut factors = Vec::new();
    for asked in rule.matches() {
        factors.extend(self::factors(asked, rule, links, sets)?);
    }
    let asks_set = |factor: &&Vec<Box>| factor.iter().any(|one| one.0.sets[0].is_some());
    let asked = factors.iter().filter(asks_set).count();
    if asked > RULE_SETS {
        return Err(FilterFault::Sets(asked));
    }
    let mut boxes = vec![Box::ANY];
    for (done, factor) in factors.iter().enumerate() {
        boxes = boxes.iter().flat_map(|one| factor.iter().filter_map(|other| one.and(other))).collect();
        // Each of them is met by some packet, and further matches seldom leave fewer: stop before they fill the memory.
        if boxes.len() > GIVE_UP {
            let rest = factors[done + 1..].iter().map(Vec::len);
            return Err(FilterFault::Large(rest.fold(boxes.len(), usize::saturating_mul)));
        }
    }
    let kernel = |what: &dyn std::fmt::Display| Err(Unsupported::Kernel(what.to_string()).into());
    let action_code = match rule.action() {
        Action::Accept => ActionCode::Accept,
        Action::Continue => ActionCode::Continue,
        Action::Drop | Action::Reject(_) => ActionCode::Drop,
        Action::Translate(_) | Action::Proxy(_) => return kernel(&rule.action()),
    };
    if let Some(change) = rule.changes().next() {
        return kernel(&change);
    }
    let acts = acts(rule);
    Ok(boxes.into_iter().map(|Box(entry)| Entry { order, counter, action_code, acts, ..entry }).collect())
}

/// What a rule does besides its verdict.
fn acts(rule: &Rule) -> Acts {
    let statements = rule.statements().iter().map(|statement| match statement {
        Statement::Limit(_) => Acts::LIMIT,
        Statement::Log(_) => Acts::LOG,
        Statement::Change(_) | Statement::Update(_) | Statement::Connections(_) => Acts::empty(),
    });
    let reject = matches!(rule.action(), Action::Reject(_)).then_some(Acts::REJECT);
    statements.chain(reject).collect()
}

/// Whether packets that match a rule are logged or rejected.
pub(super) fn tells(rule: &Rule) -> bool {
    acts(rule).intersects(Acts::LOG | Acts::REJECT)
}

/// The limit of a rule, if it has one. Its numbers are nft's (`nft_limit_init` in `net/netfilter/nft_limit.c`): a bucket holds
/// the burst, five packets by default, and of bytes as many as the rate in addition.
pub(super) fn limit(rule: &Rule) -> Option<Limit> {
    let limit = rule.statements().iter().find_map(|statement| match statement {
        Statement::Limit(limit) => Some(limit),
        _ => None,
    })?;
    let bytes = limit.unit == LimitUnit::Bytes;
    let bucket = match (limit.burst, bytes) {
        (Some(burst), false) if burst > 0 => burst,
        (_, false) => 5,
        (burst, true) => limit.amount.saturating_add(burst.unwrap_or(0)),
    };
    let (time, amount) = (u128::from(limit.per.seconds()) * 1_000_000_000, u128::from(limit.amount.max(1)));
    let narrow = |number: u128, most: u64| u64::try_from(number).unwrap_or(most).min(most);
    let mut flags = LimitFlags::empty();
    flags.set(LimitFlags::OVER, limit.over);
    flags.set(LimitFlags::BYTES, bytes);
    Some(Limit {
        cost: narrow((time << 8) / amount, if bytes { (1 << 43) - 1 } else { (1 << 58) - 1 }),
        // Below the age of a machine in nanoseconds, so that sums stay in 64 bits.
        depth: narrow(time * u128::from(bucket) / amount, 1 << 62),
        flags: flags.bits(),
        ..Limit::default()
    })
}

/// Boxes that one rule may have at most.
pub(super) const GIVE_UP: usize = 1 << 14;

/// Boxes of one match beyond which its values become a set, not an entry each.
const MANY: usize = 8;

/// The matches of a rule, each factor a union of boxes; a packet must be in one box of each.
fn factors(
    asked: &Match,
    rule: &Rule,
    links: &dyn Fn(&LinkPattern) -> Vec<Ifindex>,
    sets: &mut Sets<'_, '_>,
) -> Result<Vec<Vec<Box>>, Unsupported> {
    let mut factors = Vec::new();
    if let Some(family) = asked.family() {
        factors.push(vec![BitOffset::FAMILY.masked(version(family), BitOffset::FAMILY.last())]);
    }
    // The protocol of `ip protocol` is the test itself.
    if !matches!(asked, Match::Protocol(..))
        && let Some(protocols) = asked.protocols()
    {
        let intervals = protocols.into_iter().map(|number| (number.into(), number.into())).collect();
        factors.push(BitOffset::PROTOCOL.intervals(&merged(intervals)));
    }
    factors.extend(match asked {
        Match::Ipv4(side, test) => {
            vec![values(test, (ipv4_selector(*side), ItemKind::Ipv4), sets, |test| {
                field(BitOffset::address(address_word(*side), 32), test)
            })?]
        }
        Match::Ipv6(side, test) => {
            vec![values(test, (ipv6_selector(*side), ItemKind::Ipv6), sets, |test| {
                field(BitOffset::address(address_word(*side), 128), test)
            })?]
        }
        Match::Port(_, side, test) => {
            vec![needing(
                values(test, (port_selector(*side), ItemKind::Service), sets, |test| ports(*side, test))?,
                KeyFlags::PORTS,
            )]
        }
        Match::Protocol(_, test) => {
            vec![values(test, (Selector::Protocol, ItemKind::Protocol), sets, |test| field(BitOffset::PROTOCOL, test))?]
        }
        Match::TcpFlags(flags) => tcp_flags(flags),
        Match::IcmpType(test) => vec![needing(field(BitOffset::ICMP_TYPE, test), KeyFlags::TRANSPORT)],
        Match::Icmpv6Type(test) => vec![needing(field(BitOffset::ICMP_TYPE, test), KeyFlags::TRANSPORT)],
        Match::IcmpCode(test) => vec![needing(field(BitOffset::ICMP_CODE, test), KeyFlags::TRANSPORT)],
        Match::Icmpv6Code(test) => vec![needing(field(BitOffset::ICMP_CODE, test), KeyFlags::TRANSPORT)],
        Match::PacketType(test) => vec![packet_types(test, sets)],
        Match::Dscp(_, test) => vec![field(BitOffset::DSCP, test)],
        Match::HopLimit(_, test) => vec![field(BitOffset::HOP_LIMIT, test)],
        Match::Fragment(fragment) if fragment.mask() == u16::MAX => vec![field(BitOffset::FRAGMENT, fragment.test())],
        Match::Fragment(fragment) => {
            let values: Vec<_> = listed(fragment.test()).iter().map(|range| range.ends().0.bits()).collect();
            masked(BitOffset::FRAGMENT, fragment.mask().into(), fragment.test().negated(), &values)
        }
        Match::Length(test) => vec![spans(test, |length| Entry { length, ..Entry::ANY })],
        Match::Link(link, test) => vec![interfaces(*link, test, links, sets)?],
        Match::Vlan(test) => vec![vec![BitOffset::TAGGED.masked(1, 1)], field(BitOffset::VLAN, test)],
        Match::Ether(side, test) => {
            let offset = if *side == Side::Source { BitOffset::LINK_SOURCE } else { BitOffset::LINK_DESTINATION };
            let selector = if *side == Side::Source { Selector::LinkSource } else { Selector::LinkDestination };
            vec![needing(
                values(test, (selector, ItemKind::Ether), sets, |test| field(offset, test))?,
                KeyFlags::ETHERNET,
            )]
        }
        Match::Concatenation(asked) => vec![vec![concatenation(asked, rule, links, sets)?]],
        Match::Family(_) => Vec::new(),
        Match::Connection(_) => return Err(Unsupported::Kernel(asked.to_string())),
    });
    Ok(factors)
}

/// The factor of a test: a named set, an anonymous one when the values are many, or boxes.
fn values<T: Value>(
    test: &Test<Range<T>>,
    (selector, kind): (Selector, ItemKind),
    sets: &mut Sets<'_, '_>,
    boxes: impl FnOnce(&Test<Range<T>>) -> Vec<Box>,
) -> Result<Vec<Box>, Unsupported> {
    let selectors = selector as u64;
    let set = match test.values() {
        Values::Set(name) => sets.named(name, kind)?,
        Values::Listed(ranges) => {
            let boxes = boxes(test);
            if boxes.len() <= MANY {
                return Ok(boxes);
            }
            sets.listed(ranges.iter().map(|range| range.ends()).map(|(low, high)| (low.bits(), high.bits())), T::BITS)
        }
    };
    Ok(vec![Box::member(Membership { set, negated: test.negated(), selectors, portless: None })])
}

/// The factor of a concatenation: always a set. A rule that drops by it also drops packets that match the other fields of an
/// element and have no readable ports, unless no ports would match the element and the rest of the rule.
fn concatenation(
    asked: &Concatenation,
    rule: &Rule,
    links: &dyn Fn(&LinkPattern) -> Vec<Ifindex>,
    sets: &mut Sets<'_, '_>,
) -> Result<Box, Unsupported> {
    let (fields, test) = (asked.fields(), asked.test());
    let selectors = |ports: bool| {
        let kept = fields.iter().filter(|field| ports || field.kind() != ItemKind::Service);
        kept.rev().fold(0, |all, field| all << 8 | selector(*field) as u64)
    };
    let mut number = |ports: bool| match test.values() {
        Values::Set(name) => sets.joined(name, asked.set_type(), ports, links),
        Values::Listed(elements) if ports => Ok(sets.listed_joined(elements, true, links)),
        Values::Listed(elements) => {
            let possible = elements.iter().filter(|element| may_meet(element, fields, rule));
            Ok(sets.listed_joined(&possible.cloned().collect::<Vec<_>>(), false, links))
        }
    };
    let set = number(true)?;
    let drops = matches!(rule.action(), Action::Drop | Action::Reject(_));
    let rest = selectors(false);
    // With a match on ports alone, or on all but some, any packet may match.
    let portless = if drops && !test.negated() && rest != selectors(true) && rest != 0 {
        Some((number(false)?, rest))
    } else {
        None
    };
    let mut boxed = Box::member(Membership { set, negated: test.negated(), selectors: selectors(true), portless });
    for field in fields {
        boxed = match field {
            Field::Port(..) => boxed.needing(KeyFlags::PORTS),
            Field::Ether(_) => boxed.needing(KeyFlags::ETHERNET),
            _ => boxed,
        };
    }
    Ok(boxed)
}

/// Whether some ports match those of an element, and the rule's other tests of ports. The elements of a named set may change.
fn may_meet(element: &Element, fields: &[Field], rule: &Rule) -> bool {
    [Side::Source, Side::Destination].into_iter().all(|side| {
        let own = fields.iter().zip(&element.0).filter_map(|(field, item)| match (field, item) {
            (Field::Port(_, of), Item::Service(range)) if *of == side => {
                let (low, high) = range.ends();
                Some(vec![(low.bits(), high.bits())])
            }
            _ => None,
        });
        let asked = rule.matches().iter().filter_map(|asked| match asked {
            Match::Port(_, of, test) if *of == side && matches!(test.values(), Values::Listed(_)) => {
                Some(intervals(test))
            }
            _ => None,
        });
        let all = vec![(0, u16::MAX.into())];
        !own.chain(asked).fold(all, |left, right| common(&left, &right)).is_empty()
    })
}

/// The numbers that are in both.
fn common(left: &[Interval], right: &[Interval]) -> Vec<Interval> {
    let both = |one: &Interval, other: &Interval| (one.0.max(other.0), one.1.min(other.1));
    let pairs = left.iter().flat_map(|one| right.iter().map(move |other| both(one, other)));
    pairs.filter(|(low, high)| low <= high).collect()
}

const fn selector(field: Field) -> Selector {
    match field {
        Field::Ipv4(side) => ipv4_selector(side),
        Field::Ipv6(side) => ipv6_selector(side),
        Field::Port(_, side) => port_selector(side),
        Field::Protocol(_) => Selector::Protocol,
        Field::Link(LinkField::Iif | LinkField::Iifname) => Selector::Iif,
        Field::Link(LinkField::Oif | LinkField::Oifname) => Selector::Oif,
        Field::Ether(Side::Source) => Selector::LinkSource,
        Field::Ether(Side::Destination) => Selector::LinkDestination,
    }
}

const fn ipv4_selector(side: Side) -> Selector {
    match side {
        Side::Source => Selector::Source4,
        Side::Destination => Selector::Destination4,
    }
}

const fn ipv6_selector(side: Side) -> Selector {
    match side {
        Side::Source => Selector::Source6,
        Side::Destination => Selector::Destination6,
    }
}

const fn port_selector(side: Side) -> Selector {
    match side {
        Side::Source => Selector::SourcePort,
        Side::Destination => Selector::DestinationPort,
    }
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

fn needing(boxes: Vec<Box>, flags: KeyFlags) -> Vec<Box> {
    boxes.into_iter().map(|one| one.needing(flags)).collect()
}

/// The items of a test without a set.
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

fn field<T: Value>(offset: BitOffset, test: &Test<Range<T>>) -> Vec<Box> {
    offset.intervals(&intervals(test))
}

fn spans<T: Value>(test: &Test<Range<T>>, entry: impl Fn(Span) -> Entry) -> Vec<Box> {
    let span = |(low, high): Interval| Span { low: low as u16, high: high as u16 };
    intervals(test).into_iter().map(|interval| Box(entry(span(interval)))).collect()
}

fn ports(side: Side, test: &Test<Range<crate::rule::Port>>) -> Vec<Box> {
    match side {
        Side::Source => spans(test, |source_port| Entry { source_port, ..Entry::ANY }),
        Side::Destination => spans(test, |destination_port| Entry { destination_port, ..Entry::ANY }),
    }
}

/// The bits of `mask` are one of `values`, or none of them: then a factor for each.
fn masked(offset: BitOffset, mask: u128, negated: bool, values: &[u128]) -> Vec<Vec<Box>> {
    if negated {
        values.iter().map(|value| offset.differing(*value, mask)).collect()
    } else {
        vec![values.iter().map(|value| offset.masked(*value, mask)).collect()]
    }
}

fn tcp_flags(flags: &TcpFlags) -> Vec<Vec<Box>> {
    let values: Vec<_> = flags.values().iter().map(|value| u128::from(*value)).collect();
    let factors = masked(BitOffset::TCP_FLAGS, flags.mask().into(), flags.negated(), &values);
    factors.into_iter().map(|boxes| needing(boxes, KeyFlags::TRANSPORT)).collect()
}

/// The recipient of a frame, as `eth_type_trans` of the kernel finds it. Frames for another host meet no chain, and frames
/// without a link header are for this one.
fn packet_types(test: &Test<Range<PacketType>>, sets: &mut Sets<'_, '_>) -> Vec<Box> {
    let all = BitOffset::LINK_DESTINATION.last();
    let asked = |kind: u8| listed(test).iter().any(|range| range.contains(PacketType(kind))) != test.negated();
    let group = BitOffset::LINK_GROUP.masked(1, 1).needing(KeyFlags::ETHERNET);
    let to_some = match (asked(1), asked(2)) {
        (false, false) => None,
        (true, false) => Some(BitOffset::LINK_DESTINATION.masked(all, all).needing(KeyFlags::ETHERNET)),
        (true, true) => Some(group),
        (false, true) => {
            let set = sets.listed([(all, all)].into_iter(), 48);
            let selectors = Selector::LinkDestination as u64;
            group.and(&Box::member(Membership { set, negated: true, selectors, portless: None }))
        }
    };
    let to_us = asked(0).then(|| BitOffset::LINK_GROUP.masked(0, 1));
    to_us.into_iter().chain(to_some).collect()
}

fn interfaces(
    link: LinkField,
    test: &Test<LinkPattern>,
    links: &dyn Fn(&LinkPattern) -> Vec<Ifindex>,
    sets: &Sets<'_, '_>,
) -> Result<Vec<Box>, Unsupported> {
    let offset = match link {
        LinkField::Iif | LinkField::Iifname => BitOffset::IIF,
        LinkField::Oif | LinkField::Oifname => BitOffset::OIF,
    };
    let patterns = match test.values() {
        Values::Set(name) => sets.patterns(name)?,
        Values::Listed(patterns) => patterns.clone(),
    };
    let meant = |pattern: &LinkPattern| match link {
        LinkField::Iif | LinkField::Oif => links(&pattern.followed()),
        LinkField::Iifname | LinkField::Oifname => links(pattern),
    };
    let indices = patterns.iter().flat_map(meant).map(|index| (index.into(), index.into()));
    let inside = merged(indices.collect());
    Ok(offset.intervals(&if test.negated() { complement(&inside, offset.last()) } else { inside }))
}
