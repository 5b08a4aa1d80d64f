//! Whether what the generator sends is what a router and a host accept.

use std::{collections::HashMap, thread, time::Duration};

use dataplane_tests_ebpf::Mix;

use super::{
    chain::Chain,
    program::{Generator, Surroundings},
    table::Frames,
};

const PACKETS: u32 = 100_000;

/// Counters of `/proc/net/snmp` (a line of names, a line of values) and `/proc/net/snmp6` (a name and a value a line).
fn counters(namespace: &super::namespace::Namespace) -> HashMap<String, u64> {
    let mut counters = HashMap::new();
    let snmp = namespace.read("snmp").expect("snmp");
    let lines: Vec<_> = snmp.lines().collect();
    for pair in lines.chunks(2) {
        let (group, names) = pair[0].split_once(": ").expect("a group of counters");
        let (_, values) = pair[1].split_once(": ").expect("a group of counters");
        for (name, value) in names.split(' ').zip(values.split(' ')) {
            counters.insert(format!("{group}{name}"), value.parse().unwrap_or(0));
        }
    }
    for line in namespace.read("snmp6").expect("snmp6").lines() {
        let mut words = line.split_whitespace();
        let (name, value) = (words.next().expect("a name"), words.next().expect("a value"));
        counters.insert(name.to_owned(), value.parse().expect("a number"));
    }
    counters
}

/// All destinations are addresses of the sink, so its UDP checks every checksum and finds no socket.
#[test]
#[ignore = "needs root: makes network namespaces and loads programs"]
fn generated_frames_pass_a_router_and_a_host_without_an_error() {
    let rows =
        [(Mix::Ipv4, [u64::from(PACKETS), 0]), (Mix::Ipv6, [0, u64::from(PACKETS)]), (Mix::Both, [50_000, 50_000])];
    for (mix, [four, six]) in rows {
        let chain = Chain::new(2, Frames::Hot).expect("a chain");
        chain.sink.set("ipv6/conf/all/disable_ipv6", "0").expect("IPv6 at the sink");
        chain.sink.run("ip", &["route", "add", "local", "198.18.0.0/15", "dev", "lo"]).expect("a local range");
        chain.sink.run("ip", &["-6", "route", "add", "local", "2001:db8:8000::/33", "dev", "lo"]).expect("and of IPv6");
        // A reverse route, without which the sink takes the source for a martian.
        chain.sink.run("ip", &["address", "add", "203.0.113.2/24", "dev", "b1"]).expect("an address");
        chain.sink.run("ip", &["route", "add", "198.51.100.0/24", "via", "203.0.113.1"]).expect("a way back");
        let mut surroundings = Surroundings::load(&chain).expect("programs");
        let _link = surroundings.attach("pass", &chain.sink, "b1").expect("a sink");
        let mut generator = Generator::load(&chain, mix, 0).expect("a generator");
        thread::sleep(Duration::from_millis(500));
        let before = [counters(&chain.dut), counters(&chain.sink)];
        let mut sent = 0;
        // Paced, as the sink's stack with its ICMP errors is slower than the chain.
        for _ in 0..PACKETS / 2000 {
            sent += generator.run(&chain, 2000).expect("a run").sent;
        }
        thread::sleep(Duration::from_millis(200));
        let after = [counters(&chain.dut), counters(&chain.sink)];
        let [dut, sink] = [0, 1].map(|end| {
            let (before, after) = (&before[end], &after[end]);
            move |name: &str| after.get(name).copied().unwrap_or(0) - before.get(name).copied().unwrap_or(0)
        });
        assert_eq!(sent, u64::from(PACKETS), "{mix:?}");
        // The sink answers some with ICMP, which comes back through the router: at least, not exactly.
        assert!(dut("IpForwDatagrams") >= four, "{mix:?}: forwarded {} of {four}", dut("IpForwDatagrams"));
        assert!(dut("Ip6OutForwDatagrams") >= six, "{mix:?}: forwarded {} of {six}", dut("Ip6OutForwDatagrams"));
        for errors in ["IpInHdrErrors", "IpInAddrErrors", "IpInDiscards", "Ip6InHdrErrors", "Ip6InTruncatedPkts"] {
            assert_eq!((dut(errors), sink(errors)), (0, 0), "{mix:?}: {errors}");
        }
        assert_eq!((sink("UdpNoPorts"), sink("Udp6NoPorts")), (four, six), "{mix:?}");
        assert_eq!((sink("UdpInCsumErrors"), sink("Udp6InCsumErrors")), (0, 0), "{mix:?}");
    }
}
