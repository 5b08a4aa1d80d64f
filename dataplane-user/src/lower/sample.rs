//! Models for tests: a few links, gateways and routes in a small corner of each address space, so that they meet.

use std::collections::BTreeMap;

use dataplane_common::abi::Ifindex;
use dataplane_common::wire::Mac;
use proptest::prelude::*;

use crate::model::{
    Attachment, Event, Family, IpVersion, Link, Mode, Model, Neighbour, NeighbourState, NextHop, NextHopFlags,
    Placement, Prefix, Route, RouteInfo, RouteType, RoutingRule, Snapshot, TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN,
    XdpFeatures,
};

/// How many gateways there are.
pub(crate) const GATEWAYS: u8 = 4;

/// A route in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) table: u32,
    /// First and last byte of the address.
    pub(crate) address: (u8, u8),
    /// Bits from the start, or, if negative, less than all.
    pub(crate) length: i8,
    pub(crate) kind: RouteType,
    pub(crate) priority: u32,
    /// For unicast: 0 is on-link, others are gateways.
    pub(crate) gateway: u8,
    pub(crate) dead: bool,
}

/// An address of the corner.
pub(crate) fn address<A: Family>((first, last): (u8, u8)) -> A {
    let mut bytes = vec![0; A::BITS as usize / 8];
    bytes[0] = first;
    bytes[A::BITS as usize / 8 - 1] = last;
    A::from_bytes(&bytes).expect("as many bytes as the family has")
}

impl Spec {
    /// As a length: all bits.
    pub(crate) const HOST: i8 = i8::MIN;

    pub(crate) fn prefix<A: Family>(&self) -> Prefix<A> {
        let length = match self.length {
            Self::HOST => A::BITS as i16,
            negative @ ..0 => A::BITS as i16 + i16::from(negative),
            positive => i16::from(positive),
        };
        Prefix::new(address(self.address), u8::try_from(length).expect("a length"))
    }

    pub(crate) fn route<A: Family>(&self) -> Route<A> {
        let mut route = plain(self.table, self.prefix(), self.kind);
        route.priority = self.priority;
        if matches!(self.kind, RouteType::Unicast | RouteType::Local | RouteType::Broadcast) {
            let via =
                (self.kind == RouteType::Unicast && self.gateway != 0).then(|| gateway::<A>(self.gateway).to_ip());
            let flags = if self.dead { NextHopFlags::DEAD } else { NextHopFlags::empty() };
            route.next_hops = vec![NextHop { via, dev: device(self.gateway), weight: 1, flags, encap: false }];
        }
        route
    }
}

/// A route without anything special.
pub(crate) fn plain<A: Family>(table: u32, destination: Prefix<A>, kind: RouteType) -> Route<A> {
    Route {
        table,
        destination,
        info: RouteInfo {
            source: Prefix::all(),
            tos: 0,
            priority: 0,
            kind,
            scope: 0,
            protocol: if kind == RouteType::Local { 2 } else { 3 },
            preferred_source: None,
            mtu: None,
            mtu_locked: false,
            nexthop_id: None,
            next_hops: Vec::new(),
        },
    }
}

/// Gateways are in the corner too, so that on-link routes may cover them.
pub(crate) fn gateway<A: Family>(number: u8) -> A {
    address((1, number * 7))
}

/// The link of a gateway; on-link routes use the first.
pub(crate) fn device(gateway: u8) -> Ifindex {
    2 + Ifindex::from(gateway % 2)
}

/// The link address of a gateway.
pub(crate) fn mac(gateway: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, gateway])
}

pub(crate) fn spec() -> impl Strategy<Value = Spec> {
    (
        prop::sample::select(vec![TABLE_LOCAL, TABLE_MAIN, TABLE_MAIN, TABLE_DEFAULT, 7]),
        (prop::sample::select(vec![0_u8, 1, 1, 2, 255]), prop::sample::select(vec![0_u8, 1, 7, 14, 21, 28, 128, 255])),
        prop::sample::select(vec![0_i8, 1, 7, 8, -8, -7, -5, -4, -2, -1, Spec::HOST]),
        prop::sample::select(vec![
            RouteType::Unicast,
            RouteType::Unicast,
            RouteType::Unicast,
            RouteType::Local,
            RouteType::Broadcast,
            RouteType::Blackhole,
            RouteType::Unreachable,
            RouteType::Prohibit,
            RouteType::Throw,
        ]),
        0..3_u32,
        0..=GATEWAYS,
        prop::bool::weighted(0.15),
    )
        .prop_map(|(table, address, length, kind, priority, gateway, dead)| Spec {
            table,
            address,
            length,
            kind,
            priority,
            gateway,
            dead,
        })
}

/// Links 2 and 3, up, with all gateways resolved, and default rules.
pub(crate) fn model() -> Model {
    let mut model = Model::default();
    for ifindex in [2, 3] {
        model.apply(Event::Link(Link {
            ifindex,
            name: format!("port{ifindex}"),
            mac: Some(Mac([2, 1, 0, 0, 0, ifindex as u8])),
            mtu: 1500,
            enabled: true,
            up: true,
            ethernet: true,
            ..Link::default()
        }));
        model.apply(Event::Features(ifindex, XdpFeatures::BASIC | XdpFeatures::REDIRECT | XdpFeatures::NDO_XMIT));
    }
    for number in 1..=GATEWAYS {
        for address in [gateway::<u32>(number).to_ip(), gateway::<u128>(number).to_ip()] {
            model.apply(Event::Neighbour(Neighbour {
                ifindex: device(number),
                address,
                state: NeighbourState::REACHABLE,
                mac: Some(mac(number)),
                tended: false,
            }));
        }
    }
    let rules = [IpVersion::V4, IpVersion::V6].into_iter().flat_map(RoutingRule::defaults).collect();
    model.apply(Event::Snapshot(Snapshot::RoutingRules(rules)));
    model
}

/// Enters routes, one for each place.
pub(crate) fn add<A: Family>(model: &mut Model, specs: &[Spec]) {
    for spec in specs {
        A::routes_mut(model).insert(spec.route(), Placement::Last);
    }
}

/// One attachment for each link.
pub(crate) fn attached(model: &Model) -> BTreeMap<Ifindex, Attachment> {
    model
        .links
        .keys()
        .map(|ifindex| (*ifindex, Attachment { mode: Mode::Native, tc: true, follow: true, flows: None }))
        .collect()
}
