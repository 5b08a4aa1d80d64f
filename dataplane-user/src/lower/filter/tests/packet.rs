//! A packet, and the rules that it matches, written as plainly as possible.

use std::net::{Ipv4Addr, Ipv6Addr};

use dataplane_common::abi::{Key, KeyFlags, field, mixed};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use crate::rule::arbitrary::{LINKS, bits, ipv4, ipv6};
use crate::rule::{
    Action, Dscp, Element, Family, Field, FragmentWord, HopLimit, IcmpCode, IcmpType, Icmpv6Code, Icmpv6Type, Item,
    Length, LinkField, LinkPattern, MacAddress, Match, PacketType, Port, Protocol, Range, Rule, Test, Transport, Value,
    Values, VlanId,
};

const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];

/// Whether a packet meets a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hit {
    No,
    Yes,
    /// It cannot be read, and would be dropped.
    Unreadable,
}

#[derive(Clone, Debug)]
pub(super) struct Packet {
    family: Family,
    ipv4: [Ipv4Addr; 2],
    ipv6: [Ipv6Addr; 2],
    protocol: u8,
    dscp: u8,
    hop_limit: u8,
    iif: u32,
    oif: u32,
    vlan: Option<u16>,
    fragment: u16,
    ether: Option<[MacAddress; 2]>,
    length: u16,
    /// Whether the headers behind the IP header could be read.
    readable: bool,
    ports: [u16; 2],
    flags: u8,
    kind: u8,
    code: u8,
}

pub(super) fn packets() -> impl Strategy<Value = Packet> {
    let network = (
        select(vec![Family::V4, Family::V6]),
        [ipv4(), ipv4()],
        [ipv6(), ipv6()],
        select(vec![1u8, 6, 17, 33, 50, 58, 132, 136]),
        (bits::<Dscp>(), bits::<HopLimit>(), bits::<FragmentWord>(), bits::<Length>()),
    );
    let link = (0..=4u32, 0..=4u32, option::of(bits::<VlanId>()), option::of([bits::<MacAddress>(), bits()]));
    let transport = (prop::bool::weighted(0.8), [bits::<Port>(), bits()], any::<u8>(), [bits::<IcmpType>(), bits()]);
    (network, link, transport).prop_map(|(network, (iif, oif, vlan, ether), (readable, ports, flags, [kind, code]))| {
        let (family, ipv4, ipv6, protocol, (dscp, hop_limit, fragment, length)) = network;
        Packet {
            family,
            ipv4,
            ipv6,
            protocol,
            dscp: dscp.0,
            hop_limit: hop_limit.0,
            iif,
            oif,
            vlan: vlan.map(|id| id.0),
            fragment: if family == Family::V4 { fragment.0 } else { 0 },
            ether,
            length: length.0,
            readable,
            ports: ports.map(|port| port.0),
            flags,
            kind: kind.0,
            code: code.0,
        }
    })
}

impl Packet {
    pub(super) fn v4(source: &str, destination: &str) -> Self {
        let ipv4 = [source, destination].map(|address| address.parse().expect("an address"));
        Self {
            family: Family::V4,
            ipv4,
            ipv6: [Ipv6Addr::UNSPECIFIED; 2],
            protocol: 17,
            dscp: 0,
            hop_limit: 64,
            iif: 2,
            oif: 2,
            vlan: None,
            fragment: 0,
            ether: Some([MacAddress([2, 0, 0, 0, 0, 1]), MacAddress([2, 0, 0, 0, 0, 2])]),
            length: 100,
            readable: true,
            ports: [1024, 9],
            flags: 0,
            kind: 0,
            code: 0,
        }
    }

    pub(super) fn v6(source: &str, destination: &str) -> Self {
        let ipv6 = [source, destination].map(|address| address.parse().expect("an address"));
        Self { family: Family::V6, ipv6, ..Self::v4("0.0.0.0", "0.0.0.0") }
    }

    pub(super) fn tcp(self, source: u16, destination: u16, flags: u8) -> Self {
        Self { protocol: 6, ports: [source, destination], flags, ..self }
    }

    pub(super) fn udp(self, source: u16, destination: u16) -> Self {
        Self { protocol: 17, ports: [source, destination], ..self }
    }

    pub(super) fn icmp(self, kind: u8) -> Self {
        Self { protocol: if self.family == Family::V4 { 1 } else { 58 }, kind, ..self }
    }

    pub(super) fn protocol(self, protocol: u8) -> Self {
        Self { protocol, ..self }
    }

    pub(super) fn fragment(self, fragment: u16) -> Self {
        Self { fragment, readable: false, ..self }
    }

    pub(super) fn iif(self, iif: u32) -> Self {
        Self { iif, ..self }
    }

    pub(super) fn oif(self, oif: u32) -> Self {
        Self { oif, ..self }
    }

    pub(super) fn vlan(self, id: u16) -> Self {
        Self { vlan: Some(id), ..self }
    }

    fn has_ports(&self) -> bool {
        WITH_PORTS.contains(&self.protocol)
    }

    /// As the kernel half describes it.
    pub(super) fn key(&self) -> Key {
        let mut words = [0; 8];
        let address = match self.family {
            Family::V4 => {
                let [source, destination] = self.ipv4.map(|address| u64::from(u32::from(address)));
                [destination << 32 | source, 0, 0, 0]
            }
            Family::V6 => {
                let [source, destination] = self.ipv6.map(u128::from);
                [(destination >> 64) as u64, destination as u64, (source >> 64) as u64, source as u64]
            }
        };
        let version = if self.family == Family::V4 { 4 } else { 6 };
        words[field::NETWORK] = u32::from_be_bytes([version, self.protocol, self.dscp, self.hop_limit]);
        words[field::IIF] = self.iif;
        words[field::OIF] = self.oif;
        let tag = self.vlan.map_or(0, |id| field::VLAN_PRESENT | u32::from(id));
        words[field::VLAN_FRAGMENT] = tag << 16 | u32::from(self.fragment);
        let mut flags = KeyFlags::empty();
        if let Some([MacAddress(source), MacAddress(destination)]) = self.ether {
            let bytes = [destination, source].concat();
            for (word, bytes) in (field::LINK_DESTINATION..).zip(bytes.chunks(4)) {
                words[word] = u32::from_ne_bytes(bytes.try_into().expect("four bytes"));
            }
            flags |= KeyFlags::ETHERNET;
        }
        flags.set(KeyFlags::UNREADABLE, !self.readable);
        let mut ports = [0, 0];
        if self.readable {
            let (tcp, icmp) = (self.protocol == 6, [1, 58].contains(&self.protocol));
            let [kind, code] = if icmp { [self.kind, self.code] } else { [0, 0] };
            words[field::TRANSPORT] = u32::from_be_bytes([0, if tcp { self.flags } else { 0 }, kind, code]);
            flags.set(KeyFlags::TRANSPORT, tcp || icmp);
            flags.set(KeyFlags::PORTS, self.has_ports());
            ports = if self.has_ports() { self.ports } else { ports };
        }
        let mixed = mixed::of(ports[0].into(), ports[1].into(), self.protocol.into(), self.iif, self.oif);
        Key { address, mixed, fields: words, length: self.length.into(), flags, ..Key::default() }
    }

    /// What is to be found: unreadable when some content of what could not be read would meet the rule.
    pub(super) fn meets(&self, rule: &Rule) -> Hit {
        let all = |packet: &Self| rule.matches().iter().all(|asked| packet.meets_one(asked));
        let asks_ports = rule.matches().iter().any(|asked| match asked {
            Match::Port(..) => true,
            Match::Concatenation(asked) => asked.fields().iter().any(|field| matches!(field, Field::Port(..))),
            _ => false,
        });
        let asks_header = rule
            .matches()
            .iter()
            .any(|asked| matches!(asked, Match::TcpFlags(_) | Match::IcmpType(_) | Match::Icmpv6Type(_)));
        let asks_code = rule.matches().iter().any(|asked| matches!(asked, Match::IcmpCode(_) | Match::Icmpv6Code(_)));
        if self.readable || !(asks_ports || asks_header || asks_code) {
            return if all(self) { Hit::Yes } else { Hit::No };
        }
        let ports = if asks_ports { edges(rule) } else { vec![0] };
        let bytes = |asked| if asked { 0..=255 } else { 0..=0 };
        let found = bytes(asks_header).flat_map(|header| bytes(asks_code).map(move |code| (header, code))).any(
            |(header, code)| {
                ports.iter().any(|source| {
                    ports.iter().any(|destination| {
                        let ports = [*source, *destination];
                        all(&Self { ports, flags: header, kind: header, code, ..self.clone() })
                    })
                })
            },
        );
        let drops = matches!(rule.action(), Action::Drop | Action::Reject(_));
        if found && drops { Hit::Unreadable } else { Hit::No }
    }

    fn meets_one(&self, asked: &Match) -> bool {
        let (v4, v6) = (self.family == Family::V4, self.family == Family::V6);
        match asked {
            Match::Ipv4(side, test) => v4 && holds(test, self.ipv4[*side as usize]),
            Match::Ipv6(side, test) => v6 && holds(test, self.ipv6[*side as usize]),
            Match::Port(transport, side, test) => {
                let protocol = match transport {
                    Transport::Tcp => self.protocol == 6,
                    Transport::Udp => self.protocol == 17,
                    Transport::Sctp => self.protocol == 132,
                    Transport::UdpLite => self.protocol == 136,
                    Transport::Dccp => self.protocol == 33,
                    Transport::Any => self.has_ports(),
                };
                protocol && holds(test, Port(self.ports[*side as usize]))
            }
            Match::Protocol(..) => {
                let Match::Protocol(field, test) = asked else { return false };
                let family = match field {
                    crate::rule::ProtocolField::Ip => v4,
                    crate::rule::ProtocolField::Ip6 => v6,
                    crate::rule::ProtocolField::Meta => true,
                };
                family && holds(test, Protocol(self.protocol))
            }
            Match::TcpFlags(flags) => {
                self.protocol == 6 && flags.values().contains(&(self.flags & flags.mask())) != flags.negated()
            }
            Match::IcmpType(test) => v4 && self.protocol == 1 && holds(test, IcmpType(self.kind)),
            Match::Icmpv6Type(test) => v6 && self.protocol == 58 && holds(test, Icmpv6Type(self.kind)),
            Match::IcmpCode(test) => v4 && self.protocol == 1 && holds(test, IcmpCode(self.code)),
            Match::Icmpv6Code(test) => v6 && self.protocol == 58 && holds(test, Icmpv6Code(self.code)),
            Match::PacketType(test) => {
                let kind = match self.ether {
                    Some([_, MacAddress([255, 255, 255, 255, 255, 255])]) => 1,
                    Some([_, MacAddress([first, ..])]) if first & 1 == 1 => 2,
                    _ => 0,
                };
                holds(test, PacketType(kind))
            }
            Match::Dscp(family, test) => self.family == *family && holds(test, Dscp(self.dscp)),
            Match::HopLimit(family, test) => self.family == *family && holds(test, HopLimit(self.hop_limit)),
            Match::Fragment(fragment) => v4 && holds(fragment.test(), FragmentWord(self.fragment & fragment.mask())),
            Match::Length(test) => holds(test, Length(self.length)),
            Match::Link(LinkField::Iif | LinkField::Iifname, test) => link_holds(test, self.iif),
            Match::Link(LinkField::Oif | LinkField::Oifname, test) => link_holds(test, self.oif),
            Match::Vlan(test) => self.vlan.is_some_and(|id| holds(test, VlanId(id))),
            Match::Ether(side, test) => self.ether.is_some_and(|ends| holds(test, ends[*side as usize])),
            Match::Family(family) => self.family == *family,
            Match::Connection(_) => panic!("only the kernel knows connections"),
            Match::Concatenation(asked) => {
                let Values::Listed(elements) = asked.test().values() else { panic!("a set") };
                let has = asked.fields().iter().all(|field| self.part(*field, None));
                let meets = |element: &Element| {
                    asked.fields().iter().zip(&element.0).all(|(field, item)| self.part(*field, Some(item)))
                };
                has && elements.iter().any(meets) != asked.test().negated()
            }
        }
    }

    /// Whether the packet has a field, and what is in it is in the item.
    fn part(&self, field: Field, item: Option<&Item>) -> bool {
        fn of<T: Value>(range: Option<&Range<T>>) -> Option<Test<Range<T>>> {
            let all = Range::new(T::from_bits(0), T::from_bits(T::last()));
            Test::listed(false, vec![range.copied().or(all)?])
        }
        let single = |asked: Option<Match>| asked.is_some_and(|asked| self.meets_one(&asked));
        macro_rules! range {
            ($kind:ident) => {
                of(item.map(|item| if let Item::$kind(range) = item { range } else { panic!("another kind") }))
            };
        }
        match field {
            Field::Ipv4(side) => single(range!(Ipv4).map(|test| Match::Ipv4(side, test))),
            Field::Ipv6(side) => single(range!(Ipv6).map(|test| Match::Ipv6(side, test))),
            Field::Port(transport, side) => single(range!(Service).map(|test| Match::Port(transport, side, test))),
            Field::Protocol(field) => single(range!(Protocol).map(|test| Match::Protocol(field, test))),
            Field::Ether(side) => single(range!(Ether).map(|test| Match::Ether(side, test))),
            Field::Link(link) => item.is_none_or(|item| {
                let Item::Link(pattern) = item else { panic!("another kind") };
                single(Test::listed(false, vec![pattern.clone()]).map(|test| Match::Link(link, test)))
            }),
        }
    }

    /// Makes the packet meet a match, or miss it narrowly.
    pub(super) fn steer(&mut self, asked: &Match, pick: u8) {
        if let Some(family) = asked.family() {
            self.family = family;
        }
        match asked {
            Match::Ipv4(side, test) => self.ipv4[*side as usize] = near(test, pick),
            Match::Ipv6(side, test) => self.ipv6[*side as usize] = near(test, pick),
            Match::Port(transport, side, test) => {
                self.protocol = *transport.numbers().last().expect("at least one");
                self.ports[*side as usize] = near(test, pick).0;
            }
            Match::Protocol(_, test) => self.protocol = near(test, pick).0,
            Match::TcpFlags(flags) => {
                self.protocol = 6;
                let value = flags.values()[usize::from(pick) % flags.values().len()];
                self.flags = if pick & 1 == 0 { value } else { self.flags & !flags.mask() | value };
            }
            Match::IcmpType(test) => (self.protocol, self.kind) = (1, near(test, pick).0),
            Match::Icmpv6Type(test) => (self.protocol, self.kind) = (58, near(test, pick).0),
            Match::IcmpCode(test) => (self.protocol, self.code) = (1, near(test, pick).0),
            Match::Icmpv6Code(test) => (self.protocol, self.code) = (58, near(test, pick).0),
            Match::PacketType(test) => {
                if let Some(ends) = &mut self.ether {
                    ends[1].0 = match near(test, pick).0 {
                        1 => [255; 6],
                        2 => [0x33, 0x33, 0, 0, 0, 1],
                        _ => [2, 0, 0, 0, 0, 1],
                    };
                }
            }
            Match::Dscp(_, test) => self.dscp = near(test, pick).0,
            Match::HopLimit(_, test) => self.hop_limit = near(test, pick).0,
            Match::Fragment(fragment) => self.fragment = near(fragment.test(), pick).0,
            Match::Length(test) => self.length = near(test, pick).0,
            Match::Vlan(test) => self.vlan = Some(near(test, pick).0),
            Match::Ether(side, test) => {
                if let Some(ends) = &mut self.ether {
                    ends[*side as usize] = near(test, pick);
                }
            }
            Match::Concatenation(asked) => {
                let Values::Listed(elements) = asked.test().values() else { panic!("a set") };
                let element = &elements[usize::from(pick >> 3) % elements.len()];
                for (field, item) in asked.fields().iter().zip(&element.0) {
                    self.steer_part(*field, item, pick);
                }
            }
            Match::Link(..) | Match::Family(_) | Match::Connection(_) => {}
        }
    }
}

impl Packet {
    fn steer_part(&mut self, field: Field, item: &Item, pick: u8) {
        fn of<T: Value>(range: &Range<T>) -> Test<Range<T>> {
            Test::listed(false, vec![*range]).expect("an item")
        }
        let asked = match (field, item) {
            (Field::Ipv4(side), Item::Ipv4(range)) => Match::Ipv4(side, of(range)),
            (Field::Ipv6(side), Item::Ipv6(range)) => Match::Ipv6(side, of(range)),
            (Field::Port(transport, side), Item::Service(range)) => Match::Port(transport, side, of(range)),
            (Field::Protocol(field), Item::Protocol(range)) => Match::Protocol(field, of(range)),
            (Field::Ether(side), Item::Ether(range)) => Match::Ether(side, of(range)),
            _ => return,
        };
        self.steer(&asked, pick);
    }
}

fn ranges<T: Value>(test: &Test<Range<T>>) -> &[Range<T>] {
    let Values::Listed(ranges) = test.values() else { panic!("a set") };
    ranges
}

fn holds<T: Value>(test: &Test<Range<T>>, value: T) -> bool {
    ranges(test).iter().any(|range| range.contains(value)) != test.negated()
}

fn link_holds(test: &Test<LinkPattern>, index: u32) -> bool {
    let Values::Listed(patterns) = test.values() else { panic!("a set") };
    let name = index.checked_sub(1).map(|place| LINKS[place as usize]);
    name.is_some_and(|name| patterns.iter().any(|pattern| pattern.fits(name))) != test.negated()
}

/// One end of one range, or the value beside it.
fn near<T: Value>(test: &Test<Range<T>>, pick: u8) -> T {
    let ranges = ranges(test);
    let (low, high) = ranges[usize::from(pick >> 3) % ranges.len()].ends();
    let bits = match pick % 8 {
        0..=2 => low.bits(),
        3..=5 => high.bits(),
        6 => low.bits().wrapping_sub(1),
        _ => high.bits().wrapping_add(1),
    };
    T::from_bits(bits & T::last())
}

/// The ports where some match of the rule may begin or cease to hold.
fn edges(rule: &Rule) -> Vec<u16> {
    let mut edges = vec![0];
    for asked in rule.matches() {
        if let Match::Port(_, _, test) = asked {
            edges.extend(ranges(test).iter().flat_map(|range| [range.ends().0.0, range.ends().1.0.wrapping_add(1)]));
        }
        if let Match::Concatenation(asked) = asked
            && let Values::Listed(elements) = asked.test().values()
        {
            let items = elements.iter().flat_map(|element| &element.0);
            edges.extend(items.flat_map(|item| match item {
                Item::Service(range) => vec![range.ends().0.0, range.ends().1.0.wrapping_add(1)],
                _ => Vec::new(),
            }));
        }
    }
    edges
}
