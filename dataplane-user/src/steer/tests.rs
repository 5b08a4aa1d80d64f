use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

fn entry(text: &str) -> Entry {
    parse(&format!("{text} to fd 3")).unwrap_or_else(|error| panic!("{text}: {error}")).0
}

#[test]
fn entries_are_read_and_written() {
    for (text, want) in [
        ("tcp 198.18.7.0/24 port 1-1000 to pid 812 fd 4", "tcp 198.18.7.0/24 port 1-1000|pid 812 fd 4|false"),
        ("udp 198.18.7.9 port 53 to fd 3 or drop", "udp 198.18.7.9/32 port 53|fd 3|true"),
        (
            "tcp 2001:db8:7::/64 port 1-65535 to listen [::1]:4000 or drop",
            "tcp 2001:db8:7::/64 port 1-65535|listen [::1]:4000|true",
        ),
        ("tcp ::/0 port 80 to listen :4000 pid 7", "tcp ::/0 port 80|listen :4000 pid 7|false"),
        ("tcp 0.0.0.0/0 port 80 to systemd web", "tcp 0.0.0.0/0 port 80|systemd web|false"),
    ] {
        let (entry, origin) = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(format!("{entry}|{origin}|{}", entry.or_drop), want);
        let row = entry.to_map(7, &origin.to_string(), false);
        assert_eq!(Entry::from_map(&row), Some((entry, origin.to_string())), "{text}");
    }
    for (text, why) in [
        ("sctp 198.18.7.0/24 port 1 to fd 3", "`sctp` stands where tcp or udp"),
        ("tcp 198.18.7.1/24 port 1 to fd 3", "it would be 198.18.7.0/24"),
        ("tcp 198.18.7.0/33 port 1 to fd 3", "at most 32 bits"),
        ("tcp 198.18.7.0/24 port 5-1 to fd 3", "`5-1` stands where a port"),
        ("tcp 198.18.7.0/24 port 0 to fd 3", "`0` stands where a port"),
        ("tcp 198.18.7.0/24 dport 1 to fd 3", "`dport` stands where `port`"),
        ("tcp 198.18.7.0/24 port 1 to", "nothing behind `to`"),
        ("tcp 198.18.7.0/24 port 1 to pid 7", "`pid 7` says no socket"),
        ("tcp 198.18.7.0/24", "`port` is missing at the end"),
    ] {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
}

#[test]
fn entries_of_files_are_read_and_written() {
    for text in ["tcp 198.18.7.0/24 port 1-1000 to listen :4000 or drop", "udp ::/0 port 53 to systemd names"] {
        assert_eq!(text.parse::<SteerConfig>().expect(text).to_string(), text);
    }
    let error = "tcp 198.18.7.0/24 port 1 to fd 3".parse::<SteerConfig>().expect_err("no descriptors");
    assert!(error.to_string().contains("another socket each time"), "{error}");
}

#[test]
fn the_longest_prefix_decides_then_the_fewest_ports_then_age() {
    let entries = [
        "tcp 0.0.0.0/0 port 1-65535",
        "tcp 198.18.0.0/16 port 80",
        "tcp 198.18.7.0/24 port 1-1000",
        "tcp 198.18.7.0/24 port 443-500",
        "tcp 198.18.7.0/24 port 443-500",
        "udp 198.18.7.0/24 port 53",
        "tcp ::/0 port 22",
        "tcp 255.255.255.255/32 port 65535",
    ];
    let all: Vec<_> =
        (0..).zip(entries).map(|(index, text)| Indexed { index, id: index, entry: entry(text) }).collect();
    let tables = SteerTables::new(&all).expect("room");
    for (udp, address, port, want) in [
        (false, "192.0.2.1", 80, Some(0)),
        (false, "198.18.6.1", 80, Some(1)),
        (false, "198.18.6.1", 81, Some(0)),
        (false, "198.18.7.1", 80, Some(2)),
        (false, "198.18.7.1", 443, Some(3)),
        (false, "198.18.7.1", 501, Some(2)),
        (false, "198.18.7.1", 1001, Some(0)),
        (false, "198.18.8.0", 443, Some(0)),
        (false, "255.255.255.255", 65535, Some(7)),
        (true, "198.18.7.255", 53, Some(5)),
        (true, "198.18.7.255", 54, None),
        (true, "198.18.8.0", 53, None),
        (false, "2001:db8::1", 22, Some(6)),
        (false, "::ffff:198.18.7.1", 80, None),
    ] {
        let address: IpAddr = address.parse().expect("an address");
        let probe = Entry { udp, address, length: 0, ports: [port; 2], or_drop: false };
        assert_eq!(tables.find(probe.class(), probe.span().0, port), want, "{udp} {address} {port}");
    }
    assert_eq!(SteerTables::new(&[]).expect("room").find(0, 5, 5), None);
}

prop_compose! {
    /// Few addresses and ports, so that entries overlap.
    fn entries()(
        udp in any::<bool>(), ipv6 in any::<bool>(), bits in any::<u8>(), length in 0_u8..9,
        first in 1_u16..40, more in 0_u16..40, wide in any::<bool>(),
    ) -> Entry {
        let host = (u16::from(bits) & !(0xff_u16 >> length)) as u8;
        let address = if ipv6 { format!("2001:db8::{host:x}") } else { format!("198.18.0.{host}") };
        let whole = if ipv6 { 120 } else { 24 };
        let last = if wide { u16::MAX } else { first + more };
        Entry {
            udp, address: address.parse().expect("an address"), length: whole + length, ports: [first, last], or_drop: false,
        }
    }
}

proptest! {
    #[test]
    fn tables_say_what_the_entries_say(entries in proptest::collection::vec(entries(), 0..40)) {
        let all: Vec<_> = (0..).zip(&entries).map(|(index, entry)| Indexed { index, id: index, entry: *entry }).collect();
        let tables = SteerTables::new(&all).expect("room");
        for class in 0..4_u8 {
            for host in 0..=256_u128 {
                for port in [0, 1, 2, 20, 39, 40, 41, 79, 80, u16::MAX] {
                    let base: IpAddr = if class & 1 == 1 { "2001:db8::" } else { "198.18.0.0" }.parse().expect("one");
                    let at = host + Entry { udp: false, address: base, length: 0, ports: [0; 2], or_drop: false }.span().0;
                    let hits = all.iter().filter(|one| {
                        let (span, [first, last]) = (one.entry.span(), one.entry.ports);
                        one.entry.class() == class && (span.0..=span.1).contains(&at) && (first..=last).contains(&port)
                    });
                    let best = hits.min_by_key(|one| {
                        (u8::MAX - one.entry.length, one.entry.ports[1] - one.entry.ports[0], one.id)
                    });
                    prop_assert_eq!(tables.find(class, at, port), best.map(|one| one.index), "{} {:x} {}", class, at, port);
                }
            }
        }
    }
}
