//! Rules for property tests.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::display::Named;
use super::value::{Range, Value};
use super::{
    Action, Change, Concatenation, ConnectionCount, Element, ElementCondition, Family, Field, Fragment, FragmentWord,
    Item, KeyField, Limit, LimitUnit, LinkField, LinkPattern, Log, LogTarget, MacAddress, MarkOf, Match, NewMark,
    PacketType, Port, Protocol, ProtocolField, RejectWith, Rule, SetName, SetUpdate, SetVerb, Side, Statement,
    TcpFlags, Test, Text, Timeout,
};

/// Links of the tests' world, by index less one.
pub(crate) const LINKS: [&str; 4] = ["eth0", "eth1", "br-lan", "wg0.5"];

pub(crate) fn named<N: Named + std::fmt::Debug>() -> impl Strategy<Value = N> {
    select(N::NAMES).prop_map(|(_, thing)| thing)
}

fn family() -> impl Strategy<Value = Family> {
    select(vec![Family::V4, Family::V6])
}

/// Few values, so that matches and packets meet.
pub(crate) fn bits<T: Value>() -> impl Strategy<Value = T> {
    let few = select(vec![0, 1, 2, 6, 17, 58, 80, 128, u128::MAX]).prop_map(|bits| T::from_bits(bits & T::last()));
    prop_oneof![4 => few, 1 => any::<u128>().prop_map(|bits| T::from_bits(bits & T::last()))]
}

/// Addresses that share beginnings.
pub(crate) fn ipv4() -> impl Strategy<Value = Ipv4Addr> {
    (select(vec![10u8, 198]), select(vec![0u8, 18, 255]), select(vec![0u8, 1, 128]), select(vec![0u8, 1, 7, 255]))
        .prop_map(|(a, b, c, d)| Ipv4Addr::new(a, b, c, d))
}

/// Addresses that share beginnings.
pub(crate) fn ipv6() -> impl Strategy<Value = Ipv6Addr> {
    (select(vec![0x2001_0db8u128, 0xfe80_0000]), select(vec![0u128, 1, 0x8000_0000]), select(vec![0u128, 1, 0xff00]))
        .prop_map(|(high, middle, low)| Ipv6Addr::from_bits(high << 96 | middle << 48 | low))
}

fn range_of<T: Value>(value: impl Strategy<Value = T> + Clone) -> impl Strategy<Value = Range<T>> {
    let ends = (value.clone(), value.clone()).prop_filter_map("ordered", |(a, b)| Range::new(a.min(b), a.max(b)));
    let prefix = (value.clone(), 0..=T::BITS).prop_filter_map("short", |(low, length)| Range::prefix(low, length));
    prop_oneof![3 => value.prop_map(Range::single), 1 => ends, 1 => prefix]
}

/// One value, or a prefix.
fn block_of<T: Value>(value: impl Strategy<Value = T> + Clone) -> impl Strategy<Value = Range<T>> {
    let prefix = (value.clone(), 0..=T::BITS).prop_filter_map("short", |(low, length)| Range::prefix(low, length));
    prop_oneof![3 => value.prop_map(Range::single), 1 => prefix]
}

fn range<T: Value>() -> BoxedStrategy<Range<T>> {
    let ends = (bits::<T>(), bits::<T>()).prop_filter_map("ordered", |(a, b)| Range::new(a.min(b), a.max(b)));
    prop_oneof![3 => bits::<T>().prop_map(Range::single), 1 => ends].boxed()
}

pub(crate) fn set_name() -> impl Strategy<Value = SetName> {
    "[a-zA-Z][a-z0-9_.-]{0,8}".prop_filter_map("a name", |name| SetName::new(&name))
}

fn items<I: Ord + Clone + std::fmt::Debug + 'static>(
    item: impl Strategy<Value = I> + 'static,
) -> BoxedStrategy<Test<I>> {
    let listed = (any::<bool>(), vec(item, 1..4)).prop_filter_map("items", |(not, items)| Test::listed(not, items));
    listed.boxed()
}

fn test<T: Value>() -> BoxedStrategy<Test<Range<T>>> {
    items(range())
}

pub(crate) fn pattern() -> impl Strategy<Value = LinkPattern> {
    select(vec!["eth0", "eth1", "br-lan", "wg0.5", "absent", "eth*", "w*", "zz*", "*"])
        .prop_filter_map("a pattern", LinkPattern::new)
}

fn link() -> impl Strategy<Value = Match> {
    (named::<LinkField>(), items(pattern()))
        .prop_filter("iif takes names", |(field, test)| {
            let super::Values::Listed(patterns) = test.values() else { return true };
            matches!(field, LinkField::Iifname | LinkField::Oifname) || !patterns.iter().any(LinkPattern::is_wildcard)
        })
        .prop_map(|(field, test)| Match::Link(field, test))
}

fn tcp_flags() -> impl Strategy<Value = TcpFlags> {
    let mask = prop_oneof![select(vec![0xffu8, 0x17, 0x12, 0x02]), any::<u8>()];
    (mask, any::<bool>(), vec(any::<u8>(), 1..3)).prop_filter_map("flags", |(mask, negated, values)| {
        TcpFlags::new(mask, negated, values.into_iter().map(|value| value & mask).collect())
    })
}

fn field() -> impl Strategy<Value = Field> {
    let protocol = select(vec![ProtocolField::Ip, ProtocolField::Meta]);
    prop_oneof![
        3 => named().prop_map(Field::Ipv4),
        2 => named().prop_map(Field::Ipv6),
        3 => (named(), named()).prop_map(|(transport, side)| Field::Port(transport, side)),
        1 => protocol.prop_map(Field::Protocol),
        1 => named().prop_map(Field::Link),
        1 => named().prop_map(Field::Ether),
    ]
}

/// What may stand where a field is asked. Ranges are short: they multiply. Nor are ports ever all ports: that a rule then asks
/// for none is not seen.
fn part(field: Field) -> BoxedStrategy<Item> {
    match field {
        Field::Ipv4(_) => block_of(ipv4().boxed()).prop_map(Item::Ipv4).boxed(),
        Field::Ipv6(_) => block_of(ipv6().boxed()).prop_map(Item::Ipv6).boxed(),
        Field::Port(..) => {
            let few = (0..5u16).prop_filter_map("ordered", |length| Range::new(Port(80), Port(80 + length)));
            let one = bits::<Port>().prop_map(Range::single);
            prop_oneof![3 => one, 1 => few].prop_map(Item::Service).boxed()
        }
        Field::Protocol(_) => bits::<Protocol>().prop_map(Range::single).prop_map(Item::Protocol).boxed(),
        Field::Link(_) => pattern().prop_map(Item::Link).boxed(),
        Field::Ether(_) => bits::<MacAddress>().prop_map(Range::single).prop_map(Item::Ether).boxed(),
    }
}

/// Whether the ports of neither end are asked twice. A rule that contradicts itself so drops what can not be read all the same.
fn ports_once(fields: &[Field]) -> bool {
    let asked = |end| fields.iter().filter(|field| matches!(field, Field::Port(_, side) if *side == end)).count();
    [Side::Source, Side::Destination].into_iter().all(|end| asked(end) <= 1)
}

fn concatenation() -> BoxedStrategy<Concatenation> {
    let fields = vec(field(), 2..4).prop_filter("a contradiction", |fields| ports_once(fields));
    let asked = fields.prop_flat_map(|fields| {
        let element = fields.iter().map(|field| part(*field)).collect::<Vec<_>>().prop_map(Element);
        (Just(fields), any::<bool>(), vec(element, 1..4))
    });
    let whole = |(fields, not, elements)| Concatenation::new(fields, Test::listed(not, elements)?);
    asked.prop_filter_map("one family", whole).boxed()
}

fn fragment() -> impl Strategy<Value = Fragment> {
    let masked =
        (select(vec![0x1fffu16, 0x2000, 0x4000, 0x3fff]), any::<bool>(), vec(select(vec![0u16, 0x2000, 1]), 1..3))
            .prop_filter_map("inside", |(mask, negated, values)| {
                let ranges = values.into_iter().map(|value| Range::single(FragmentWord(value & mask))).collect();
                Fragment::new(mask, Test::listed(negated, ranges)?)
            });
    prop_oneof![masked, test().prop_filter_map("whole", |test| Fragment::new(u16::MAX, test))]
}

/// Any match that can be lowered.
pub(crate) fn asked() -> BoxedStrategy<Match> {
    let protocol_field = select(vec![ProtocolField::Ip, ProtocolField::Ip6, ProtocolField::Meta]);
    prop_oneof![
        2 => (named::<Side>(), items(range_of(ipv4().boxed()))).prop_map(|(side, test)| Match::Ipv4(side, test)),
        2 => (named::<Side>(), items(range_of(ipv6().boxed()))).prop_map(|(side, test)| Match::Ipv6(side, test)),
        3 => (named(), named::<Side>(), test()).prop_map(|(transport, side, test)| Match::Port(transport, side, test)),
        1 => (protocol_field, test()).prop_map(|(field, test)| Match::Protocol(field, test)),
        1 => tcp_flags().prop_map(Match::TcpFlags),
        1 => test().prop_map(Match::IcmpType),
        1 => test().prop_map(Match::Icmpv6Type),
        1 => test().prop_map(Match::IcmpCode),
        1 => test().prop_map(Match::Icmpv6Code),
        1 => items(range_of((0..4u8).prop_map(PacketType).boxed())).prop_map(Match::PacketType),
        1 => (family(), test()).prop_map(|(family, test)| Match::Dscp(family, test)),
        1 => (family(), test()).prop_map(|(family, test)| Match::HopLimit(family, test)),
        1 => fragment().prop_map(Match::Fragment),
        1 => test().prop_map(Match::Length),
        1 => link(),
        1 => test().prop_map(Match::Vlan),
        1 => (named::<Side>(), test()).prop_map(|(side, test)| Match::Ether(side, test)),
        1 => family().prop_map(Match::Family),
        2 => concatenation().prop_map(Match::Concatenation),
    ]
    .boxed()
}

fn set_match() -> impl Strategy<Value = Match> {
    // Each sort of set has names of its own, or a config would have to be two things under one.
    let name = |(not, name, which): (bool, SetName, i32)| {
        Some((not, SetName::new(&format!("s{which}{}", name.as_str()))?, which))
    };
    (any::<bool>(), set_name(), 0..5).prop_filter_map("a name", name).prop_map(|(not, name, which)| match which {
        0 => Match::Ipv4(Side::Source, Test::set(not, name)),
        1 => Match::Ipv6(Side::Destination, Test::set(not, name)),
        2 => Match::Port(super::Transport::Any, Side::Source, Test::set(not, name)),
        3 => Match::Link(LinkField::Iifname, Test::set(not, name)),
        _ => {
            let fields = vec![Field::Ipv4(Side::Source), Field::Port(super::Transport::Tcp, Side::Destination)];
            Match::Concatenation(Concatenation::new(fields, Test::set(not, name)).expect("fields of one family"))
        }
    })
}

pub(crate) fn text() -> impl Strategy<Value = Text> {
    "[ -!#-~äß中]{0,20}".prop_filter_map("a text", |text| Text::new(&text))
}

fn statement() -> impl Strategy<Value = Statement> {
    let unit = select(vec![LimitUnit::Packets, LimitUnit::Bytes]);
    let amount = || prop_oneof![1..100u64, select(vec![1024u64, 1 << 20, 1500, 3 << 20])];
    let limit = (any::<bool>(), unit, amount(), named(), option::of(amount()))
        .prop_map(|(over, unit, amount, per, burst)| Statement::Limit(Limit { over, unit, amount, per, burst }));
    let target = prop_oneof![named().prop_map(LogTarget::Level), any::<u16>().prop_map(LogTarget::Group)];
    let log =
        (option::of(text()), option::of(target)).prop_map(|(prefix, target)| Statement::Log(Log { prefix, target }));
    prop_oneof![limit, log]
}

/// What only the kernel does beside changes.
fn counting() -> impl Strategy<Value = Statement> {
    let count = || (any::<bool>(), any::<u32>()).prop_map(|(over, count)| ConnectionCount { over, count });
    let limit = statement().prop_filter_map("a limit", |statement| match statement {
        Statement::Limit(limit) => Some(ElementCondition::Limit(limit)),
        _ => None,
    });
    let condition = prop_oneof![limit, count().prop_map(ElementCondition::Connections)];
    let source = prop_oneof![
        option::of(any::<u32>()).prop_map(|mask| (Field::Ipv4(Side::Source), mask.map(u128::from))),
        option::of(any::<u128>()).prop_map(|mask| (Field::Ipv6(Side::Destination), mask)),
    ];
    let port = option::of(Just((Field::Port(super::Transport::Tcp, Side::Destination), None)));
    let key = (source, port).prop_filter_map("a key", |(source, port)| {
        [Some(source), port].into_iter().flatten().map(|(field, mask)| KeyField::new(field, mask)).collect()
    });
    let timeout = (1..1_000_000_u64).prop_map(|millis| Timeout::from_millis(millis).expect("less than a year"));
    let verb = select(vec![SetVerb::Add, SetVerb::Update, SetVerb::Delete]);
    let update = (verb, key, option::of(timeout), option::of(condition)).prop_filter_map(
        "an update",
        |(verb, key, timeout, condition)| {
            let name = SetName::new("seen").expect("a name");
            SetUpdate::new((verb, name), key, (timeout, condition)).map(|update| Statement::Update(Box::new(update)))
        },
    );
    prop_oneof![update, count().prop_map(Statement::Connections)]
}

fn change() -> impl Strategy<Value = Change> {
    let of = || select(vec![MarkOf::Packet, MarkOf::Connection]);
    let mark = || prop_oneof![select(vec![0_u32, 1, 0xff, 0xffff_0000, u32::MAX]), any::<u32>()];
    prop_oneof![
        (of(), of(), mark(), mark()).prop_map(|(of, from, keep, flip)| Change::Mark(of, NewMark::of(from, keep, flip))),
        option::of(1..=u16::MAX).prop_map(Change::SegmentSize),
        (family(), bits()).prop_map(|(family, value)| Change::Dscp(family, value)),
        (family(), bits()).prop_map(|(family, value)| Change::HopLimit(family, value)),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let with = prop_oneof![
        Just(RejectWith::Default),
        Just(RejectWith::TcpReset),
        named().prop_map(RejectWith::Icmp),
        named().prop_map(RejectWith::Icmpv6),
        named().prop_map(RejectWith::Icmpx),
    ];
    prop_oneof![plain_action(), with.prop_map(Action::Reject)]
}

fn plain_action() -> impl Strategy<Value = Action> {
    select(vec![Action::Accept, Action::Drop, Action::Continue])
}

/// Any rule.
pub(crate) fn rule() -> impl Strategy<Value = Rule> {
    let asked = prop_oneof![5 => asked(), 1 => set_match()];
    (vec(asked, 0..4), vec(statement(), 0..3), action(), option::of(text()))
        .prop_filter_map("no contradiction", |(matches, statements, action, comment)| {
            Rule::new(matches, statements, action, comment).ok()
        })
}

/// A rule that changes something, which the kernel does.
pub(crate) fn changing_rule() -> impl Strategy<Value = Rule> {
    let does = prop_oneof![1 => statement(), 2 => counting(), 3 => change().prop_map(Statement::Change)];
    (vec(asked(), 0..3), vec(does, 1..4), action())
        .prop_filter_map("no contradiction", |(matches, statements, action)| {
            Rule::new(matches, statements, action, None).ok()
        })
}

/// A rule that can be lowered.
pub(crate) fn plain_rule() -> impl Strategy<Value = Rule> {
    (vec(asked(), 0..4), plain_action())
        .prop_filter_map("no contradiction", |(matches, action)| Rule::new(matches, Vec::new(), action, None).ok())
}
