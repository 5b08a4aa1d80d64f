//! Matches to steps of nftables.

use super::Names;
use super::list::{FIRST, Kind, Span, compare, compared, in_set, joined, link_spans};
use crate::{
    lower::filter::FilterFault,
    model::{Place, Step},
    rule::{
        ChainName, Change, Concatenation, Connection, ConnectionBits, Direction, Family, Field, Found, ItemKind,
        LinkField, LinkPattern, Marked, Match, OwnerKind, Reachability, Rule, SetUpdate, Side, TcpFlags, Value as _,
        Values,
    },
};

/// `NFT_META_*`.
const LENGTH: u32 = 0;
pub(super) const MARK: u32 = 3;
const IIFNAME: u32 = 6;
const OIFNAME: u32 = 7;
const IIFTYPE: u32 = 8;
const NFPROTO: u32 = 15;
const SKUID: u32 = 10;
const SKGID: u32 = 11;
const L4PROTO: u32 = 16;
const PKTTYPE: u32 = 19;
/// `NFT_PAYLOAD_*`.
const LINK: u32 = 0;
pub(super) const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
/// `NFT_CT_*`.
pub(super) const CT_STATE: u32 = 0;
const CT_DIRECTION: u32 = 1;
const CT_STATUS: u32 = 2;
pub(super) const CT_MARK: u32 = 3;
const CT_PORTS: [u32; 2] = [11, 12];
const CT_IPV4: [u32; 2] = [19, 20];
const CT_IPV6: [u32; 2] = [21, 22];
/// `IPPROTO_ROUTING`.
const ROUTING: u8 = 43;
/// `ARPHRD_ETHER`.
const ETHERNET: u16 = 1;

/// Where a rule stands.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) chain: ChainName,
    pub(super) names: Names<'a>,
}

/// The matches of a rule.
pub(super) fn matches(rule: &Rule, context: Context<'_>) -> Result<Vec<Step>, FilterFault> {
    let mut steps = Vec::new();
    let updated = || rule.updates().find_map(SetUpdate::family);
    let written = || rule.changes().find_map(Change::family).or_else(updated);
    let family = rule.matches().iter().find_map(Match::family).or_else(|| action_family(rule)).or_else(written);
    if let Some(family) = family {
        let number = if family == Family::V4 { 2 } else { 10 };
        steps.extend([Step::Meta(NFPROTO, FIRST), Step::Compare(FIRST, false, vec![number])]);
    }
    let mut known: Vec<Vec<u8>> = Vec::new();
    for asked in rule.matches() {
        // The protocol of `ip protocol` is the test itself.
        if !matches!(asked, Match::Protocol(..))
            && let Some(protocols) = asked.protocols().filter(|protocols| !known.contains(protocols))
        {
            steps.push(Step::Meta(L4PROTO, FIRST));
            steps.extend(compare(Kind::of(ItemKind::Protocol), false, number_spans(&protocols)));
            known.push(protocols);
        }
        steps.extend(one(asked, context)?);
    }
    if let Some(protocol) = rule.changes().find_map(Change::protocol)
        && known.is_empty()
    {
        steps.extend([Step::Meta(L4PROTO, FIRST), Step::Compare(FIRST, false, vec![protocol])]);
    }
    for protocols in rule.updates().filter_map(SetUpdate::protocols).filter(|protocols| !known.contains(protocols)) {
        steps.push(Step::Meta(L4PROTO, FIRST));
        steps.extend(compare(Kind::of(ItemKind::Protocol), false, number_spans(&protocols)));
    }
    Ok(steps)
}

fn action_family(rule: &Rule) -> Option<Family> {
    match rule.action() {
        crate::rule::Action::Translate(to) => to.family(),
        crate::rule::Action::Proxy(to) => to.family(),
        _ => None,
    }
}

const fn same(span: Span) -> Span {
    span
}

const fn end(side: Side) -> usize {
    match side {
        Side::Source => 0,
        Side::Destination => 1,
    }
}

const fn payload(base: u32, offset: u32, length: u32) -> Step {
    Step::Payload(base, offset, length, FIRST)
}

fn ipv4(side: Side, place: Place) -> Step {
    Step::Payload(NETWORK, [12, 16][end(side)], 4, place)
}

fn ipv6(side: Side, place: Place) -> Step {
    Step::Payload(NETWORK, [8, 24][end(side)], 16, place)
}

fn port(side: Side, place: Place) -> Step {
    Step::Payload(TRANSPORT, [0, 2][end(side)], 2, place)
}

fn ether(side: Side, place: Place) -> Step {
    Step::Payload(LINK, [6, 0][end(side)], 6, place)
}

fn link_name(field: LinkField, place: Place) -> Step {
    let key = if matches!(field, LinkField::Iif | LinkField::Iifname) { IIFNAME } else { OIFNAME };
    Step::Meta(key, place)
}

/// Only on links with Ethernet addresses.
fn on_ethernet() -> [Step; 2] {
    [Step::Meta(IIFTYPE, FIRST), Step::Compare(FIRST, false, ETHERNET.to_ne_bytes().to_vec())]
}

fn one(asked: &Match, context: Context<'_>) -> Result<Vec<Step>, FilterFault> {
    let after = |load: Step, steps: Vec<Step>| Ok([vec![load], steps].concat());
    let byte = Kind::plain(1);
    match asked {
        Match::Ipv4(side, test) => after(ipv4(*side, FIRST), compared(Kind::of(ItemKind::Ipv4), test, same)),
        Match::Ipv6(side, test) => after(ipv6(*side, FIRST), compared(Kind::of(ItemKind::Ipv6), test, same)),
        Match::Port(_, side, test) => after(port(*side, FIRST), compared(Kind::of(ItemKind::Service), test, same)),
        Match::Protocol(_, test) => {
            after(Step::Meta(L4PROTO, FIRST), compared(Kind::of(ItemKind::Protocol), test, same))
        }
        Match::TcpFlags(flags) => Ok(tcp_flags(flags)),
        Match::IcmpType(test) => after(payload(TRANSPORT, 0, 1), compared(byte, test, same)),
        Match::Icmpv6Type(test) => after(payload(TRANSPORT, 0, 1), compared(byte, test, same)),
        Match::IcmpCode(test) => after(payload(TRANSPORT, 1, 1), compared(byte, test, same)),
        Match::Icmpv6Code(test) => after(payload(TRANSPORT, 1, 1), compared(byte, test, same)),
        Match::PacketType(test) => after(Step::Meta(PKTTYPE, FIRST), compared(byte, test, same)),
        Match::Dscp(family, test) => {
            let (load, mask, shift) = match family {
                Family::V4 => (payload(NETWORK, 1, 1), vec![0xfc], 2),
                Family::V6 => (payload(NETWORK, 0, 2), vec![0x0f, 0xc0], 6),
            };
            let kind = Kind::plain(mask.len());
            // Ranges are of the bits in their place: those below are 0.
            let shifted = compared(kind, test, |(low, high)| (low << shift, high << shift));
            Ok([vec![load, Step::Mask(FIRST, mask)], shifted].concat())
        }
        Match::HopLimit(family, test) => {
            let offset = if *family == Family::V4 { 8 } else { 7 };
            // The kernel has taken one off by then.
            let less = u128::from(context.chain == ChainName::Forward);
            let as_received = |(low, high): Span| (low.saturating_sub(less), high.saturating_sub(less));
            after(payload(NETWORK, offset, 1), compared(byte, test, as_received))
        }
        Match::Fragment(fragment) => {
            let mask = Step::Mask(FIRST, fragment.mask().to_be_bytes().to_vec());
            let steps = compared(Kind::plain(2), fragment.test(), same);
            Ok([vec![payload(NETWORK, 6, 2), mask], steps].concat())
        }
        Match::Length(test) => {
            let steps = compared(Kind::plain(4), test, same);
            Ok([vec![Step::Meta(LENGTH, FIRST), Step::Swap(FIRST, 4)], steps].concat())
        }
        Match::Link(field, test) => {
            let load = link_name(*field, FIRST);
            match test.values() {
                Values::Listed(patterns) => {
                    // `iif` and `oif` follow a link that gets another name.
                    let follows = matches!(field, LinkField::Iif | LinkField::Oif);
                    let meant = |pattern: &LinkPattern| if follows { pattern.followed() } else { pattern.clone() };
                    let patterns: Vec<_> = patterns.iter().map(meant).collect();
                    let spans = link_spans(&patterns, context.names);
                    after(load, compare(Kind::of(ItemKind::Link), test.negated(), spans))
                }
                Values::Set(name) => after(load, vec![in_set(test.negated(), name)]),
            }
        }
        Match::Vlan(_) => Err(FilterFault::Kernel(format!(
            "`{asked}` cannot stand beside rules with `ct` or address translation, which see packets behind their VLAN's \
             interface: name that instead, such as `iifname \"eth0.100\"`"
        ))),
        Match::Ether(side, test) => {
            let steps = compared(Kind::of(ItemKind::Ether), test, same);
            Ok([on_ethernet().to_vec(), vec![ether(*side, FIRST)], steps].concat())
        }
        Match::Family(_) => Ok(Vec::new()),
        Match::Concatenation(asked) => Ok(concatenation(asked, context)),
        Match::Connection(asked) => Ok(connection(asked)),
    }
}

/// Single numbers as spans.
fn number_spans(numbers: &[u8]) -> Vec<Span> {
    numbers.iter().map(|number| (u128::from(*number), u128::from(*number))).collect()
}

fn tcp_flags(flags: &TcpFlags) -> Vec<Step> {
    let steps = compare(Kind::plain(1), flags.negated(), number_spans(flags.values()));
    [vec![payload(TRANSPORT, 13, 1), Step::Mask(FIRST, vec![flags.mask()])], steps].concat()
}

/// Fields side by side, then whether they are in a set.
fn concatenation(asked: &Concatenation, context: Context<'_>) -> Vec<Step> {
    let (mut steps, kinds) = load(asked.fields());
    let test = asked.test();
    steps.push(match test.values() {
        Values::Listed(elements) => Step::In(FIRST, test.negated(), joined(&kinds, elements, context.names)),
        Values::Set(name) => in_set(test.negated(), name),
    });
    steps
}

/// Puts fields side by side, and says what each holds.
pub(super) fn load(fields: &[Field]) -> (Vec<Step>, Vec<Kind>) {
    let (mut steps, mut place, mut kinds) = (Vec::new(), FIRST, Vec::new());
    if fields.iter().any(|field| matches!(field, Field::Ether(_))) {
        steps.extend(on_ethernet());
    }
    for field in fields {
        let kind = Kind::of(field.kind());
        steps.push(match field {
            Field::Ipv4(side) => ipv4(*side, place),
            Field::Ipv6(side) => ipv6(*side, place),
            Field::Port(_, side) => port(*side, place),
            Field::Protocol(_) => Step::Meta(L4PROTO, place),
            Field::Link(field) => link_name(*field, place),
            Field::Ether(side) => ether(*side, place),
        });
        place += kind.places();
        kinds.push(kind);
    }
    (steps, kinds)
}

fn connection(asked: &Connection) -> Vec<Step> {
    let way = |direction: Direction| Some(u8::from(direction == Direction::Reply));
    let after = |load: Step, steps: Vec<Step>| [vec![load], steps].concat();
    match asked {
        Connection::Bits(kind, negated, bits) => {
            let key = if *kind == ConnectionBits::State { CT_STATE } else { CT_STATUS };
            let mask = Step::Mask(FIRST, bits.to_ne_bytes().to_vec());
            // Any of the bits: not none.
            vec![Step::Connection(key, None, FIRST), mask, Step::Compare(FIRST, !negated, vec![0; 4])]
        }
        Connection::Direction(direction) => {
            let number = u8::from(*direction == Direction::Reply);
            vec![Step::Connection(CT_DIRECTION, None, FIRST), Step::Compare(FIRST, false, vec![number])]
        }
        Connection::Mark(marked) => mark(Step::Connection(CT_MARK, None, FIRST), marked),
        Connection::PacketMark(marked) => mark(Step::Meta(MARK, FIRST), marked),
        Connection::Ipv4(direction, side, test) => {
            let load = Step::Connection(CT_IPV4[end(*side)], way(*direction), FIRST);
            after(load, compared(Kind::of(ItemKind::Ipv4), test, same))
        }
        Connection::Ipv6(direction, side, test) => {
            let load = Step::Connection(CT_IPV6[end(*side)], way(*direction), FIRST);
            after(load, compared(Kind::of(ItemKind::Ipv6), test, same))
        }
        Connection::Route(asked) => route(asked),
        Connection::Transparent(is) => vec![Step::Transparent(FIRST), Step::Compare(FIRST, false, vec![u8::from(*is)])],
        Connection::Owner(kind, test) => {
            let key = if *kind == OwnerKind::User { SKUID } else { SKGID };
            let load = vec![Step::Meta(key, FIRST), Step::Swap(FIRST, 4)];
            [load, compared(Kind::plain(4), test, same)].concat()
        }
        // The third byte of the header is its type.
        Connection::RoutingHeader => {
            vec![Step::Extension(ROUTING, 2, 1, FIRST), Step::Compare(FIRST, false, vec![0])]
        }
        Connection::Port(direction, side, test) => {
            let load = Step::Connection(CT_PORTS[end(*side)], way(*direction), FIRST);
            after(load, compared(Kind::of(ItemKind::Service), test, same))
        }
    }
}

fn mark(load: Step, marked: &Marked) -> Vec<Step> {
    let mut steps = vec![load];
    if marked.mask() != u32::MAX {
        steps.push(Step::Mask(FIRST, marked.mask().to_ne_bytes().to_vec()));
    }
    let test = marked.test();
    if let Values::Listed(ranges) = test.values()
        && let [range] = ranges[..]
        && range.ends().0 == range.ends().1
    {
        let value = range.ends().0.bits() as u32;
        steps.push(Step::Compare(FIRST, test.negated(), value.to_ne_bytes().to_vec()));
        return steps;
    }
    steps.push(Step::Swap(FIRST, 4));
    steps.extend(compared(Kind::plain(4), test, same));
    steps
}

/// A lookup of a route (`NFTA_FIB_*`).
fn route(asked: &Reachability) -> Vec<Step> {
    const OIF: u32 = 1;
    const ADDRESS_TYPE: u32 = 3;
    const PRESENT: u32 = 1 << 5;
    let mut flags = [1, 2][end(asked.side)];
    flags |= if asked.mark { 1 << 2 } else { 0 };
    flags |= if asked.iif { 1 << 3 } else { 0 };
    match &asked.found {
        Found::Route(exists) => {
            vec![Step::Route(OIF, flags | PRESENT, FIRST), Step::Compare(FIRST, false, vec![u8::from(*exists)])]
        }
        Found::Type(negated, types) if types.len() == 1 => {
            let number = u32::from(types[0]).to_ne_bytes().to_vec();
            vec![Step::Route(ADDRESS_TYPE, flags, FIRST), Step::Compare(FIRST, *negated, number)]
        }
        Found::Type(negated, types) => {
            let spans = types.iter().map(|one| (u128::from(*one), u128::from(*one))).collect();
            let load = vec![Step::Route(ADDRESS_TYPE, flags, FIRST), Step::Swap(FIRST, 4)];
            [load, compare(Kind::plain(4), *negated, spans)].concat()
        }
    }
}
