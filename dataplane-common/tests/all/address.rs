//! What addresses alone decide.

use std::net::{Ipv4Addr, Ipv6Addr};

use dataplane_common::{
    Reason,
    abi::PortFlags,
    decide::{AddressClass, Datagram, Family as _, Scope, V4, V6},
    wire::Address6,
};

const ROUTED: AddressClass = AddressClass::Routed;
const SOURCE: AddressClass = AddressClass::Martian(Reason::MartianSource);
const DESTINATION: AddressClass = AddressClass::Martian(Reason::MartianDestination);
const BROADCAST: AddressClass = AddressClass::Group(Reason::Broadcast);
const MULTICAST: AddressClass = AddressClass::Group(Reason::Multicast);
const LINK: AddressClass = AddressClass::Group(Reason::LinkScope);

fn between<A>(source: A, destination: A) -> Datagram<A> {
    Datagram { source, destination, length: 40, payload: 54, protocol: 17, ttl: 64, fragment: 0, punt: None }
}

fn v4(source: &str, destination: &str) -> Datagram<u32> {
    let address = |text: &str| text.parse::<Ipv4Addr>().expect("an IPv4 address").to_bits();
    between(address(source), address(destination))
}

fn v6(source: &str, destination: &str) -> Datagram<Address6> {
    let address = |text: &str| text.parse::<Ipv6Addr>().expect("an IPv6 address").to_bits().into();
    between(address(source), address(destination))
}

#[test]
fn ipv4_is_placed_in_the_order_of_the_kernel() {
    // Source, destination, without and with route_localnet.
    let rows = [
        ("198.18.0.1", "203.0.113.1", ROUTED, ROUTED),
        // A multicast destination comes before everything that is wrong with the source.
        ("198.18.0.1", "224.0.0.1", MULTICAST, MULTICAST),
        ("198.18.0.1", "239.255.255.255", MULTICAST, MULTICAST),
        ("224.0.0.1", "224.0.0.1", MULTICAST, MULTICAST),
        ("127.0.0.1", "224.0.0.1", MULTICAST, MULTICAST),
        ("0.0.0.0", "224.0.0.22", MULTICAST, MULTICAST),
        // Then a source that is a group, before a destination that is broadcast.
        ("224.0.0.1", "203.0.113.1", SOURCE, SOURCE),
        ("239.255.255.255", "255.255.255.255", SOURCE, SOURCE),
        ("255.255.255.255", "203.0.113.1", SOURCE, SOURCE),
        ("255.255.255.255", "255.255.255.255", SOURCE, SOURCE),
        // Then broadcast, before a source of none: DHCP.
        ("0.0.0.0", "255.255.255.255", BROADCAST, BROADCAST),
        ("0.0.0.0", "0.0.0.0", BROADCAST, BROADCAST),
        ("127.0.0.1", "255.255.255.255", BROADCAST, BROADCAST),
        // Then no address, the source first. The rest of 0.0.0.0/8 is as good as any.
        ("0.0.0.0", "203.0.113.1", SOURCE, SOURCE),
        ("0.0.0.0", "0.0.0.1", SOURCE, SOURCE),
        ("198.18.0.1", "0.0.0.0", DESTINATION, DESTINATION),
        ("0.255.255.255", "0.0.0.1", ROUTED, ROUTED),
        // Then loopback, the destination first.
        ("127.0.0.1", "127.0.0.1", DESTINATION, ROUTED),
        ("198.18.0.1", "127.255.255.255", DESTINATION, ROUTED),
        ("127.0.0.0", "203.0.113.1", SOURCE, ROUTED),
        ("127.0.0.1", "0.0.0.1", SOURCE, ROUTED),
        // Neighbours of what is special; class E is routed.
        ("1.0.0.0", "126.255.255.255", ROUTED, ROUTED),
        ("128.0.0.0", "223.255.255.255", ROUTED, ROUTED),
        ("240.0.0.0", "255.255.255.254", ROUTED, ROUTED),
        ("169.254.0.1", "169.254.255.255", ROUTED, ROUTED),
        // The same address at both ends is the table's business.
        ("198.18.0.1", "198.18.0.1", ROUTED, ROUTED),
    ];
    for (source, destination, plain, localnet) in rows {
        let packet = v4(source, destination);
        let others = PortFlags::all().difference(PortFlags::ROUTE_LOCALNET);
        assert_eq!(V4::address_class(&packet, PortFlags::empty()), plain, "{source} -> {destination}");
        assert_eq!(V4::address_class(&packet, others), plain, "{source} -> {destination}, other flags");
        assert_eq!(
            V4::address_class(&packet, PortFlags::ROUTE_LOCALNET),
            localnet,
            "{source} -> {destination}, localnet"
        );
        assert_eq!(V4::scope(&packet), Scope::Global);
    }
}

#[test]
fn ipv6_is_placed_as_the_kernel_does() {
    let rows = [
        ("2001:db8::1", "2001:db8:1::1", ROUTED),
        ("::1", "2001:db8::1", SOURCE),
        ("ff02::1", "2001:db8::1", SOURCE),
        ("ff0e::1", "ff02::1", SOURCE),
        ("::1", "::1", SOURCE),
        ("2001:db8::1", "::1", DESTINATION),
        ("2001:db8::1", "ff00::1", DESTINATION),
        ("2001:db8::1", "ff01::1", DESTINATION),
        ("2001:db8::1", "fff1::1", DESTINATION),
        ("2001:db8::1", "ff02::1", MULTICAST),
        ("2001:db8::1", "ff0e::1", MULTICAST),
        ("2001:db8::1", "ff3e::1", MULTICAST),
        ("::", "ff02::1:ff00:1", MULTICAST),
        ("fe80::1", "ff02::1", MULTICAST),
        ("fe80::1", "fe80::2", LINK),
        ("2001:db8::1", "febf:ffff::1", LINK),
        // IPv4 in IPv6 is routed (as Linux 6.18 was seen to do).
        ("::ffff:198.18.0.1", "2001:db8::1", ROUTED),
        ("2001:db8::1", "::198.18.0.1", ROUTED),
        // Neighbours of what is special.
        ("::2", "::2", ROUTED),
        ("0:0:0:1::1", "1::1", ROUTED),
        ("2001:db8::1", "fec0::1", ROUTED),
        ("2001:db8::1", "fe7f:ffff::1", ROUTED),
        ("2001:db8::1", "feff:ffff::1", ROUTED),
        ("fe80::1", "2001:db8::1", ROUTED),
        ("::", "2001:db8::1", ROUTED),
        ("fd00::1", "fc00::1", ROUTED),
    ];
    for (source, destination, wanted) in rows {
        for flags in [PortFlags::empty(), PortFlags::all()] {
            assert_eq!(V6::address_class(&v6(source, destination), flags), wanted, "{source} -> {destination}");
        }
    }
}

#[test]
fn link_local_packets_stay_on_their_link() {
    let rows = [
        ("2001:db8::1", "2001:db8:1::1", Scope::Global),
        ("fe80::1", "2001:db8::1", Scope::Link),
        ("febf:ffff::1", "2001:db8::1", Scope::Link),
        ("fec0::1", "2001:db8::1", Scope::Global),
        ("fe7f::1", "2001:db8::1", Scope::Global),
        ("::", "2001:db8::1", Scope::Link),
        ("::", "fe80::1", Scope::Link),
        ("::2", "2001:db8::1", Scope::Global),
    ];
    for (source, destination, wanted) in rows {
        assert_eq!(V6::scope(&v6(source, destination)), wanted, "{source} -> {destination}");
    }
}
