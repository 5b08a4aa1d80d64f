use dataplane_common::traffic::{TIME_BUCKETS, time_bucket};

use super::*;

fn passed(rate: f64, sent: u64, received: Option<u64>, time: u32) -> Passed {
    let mut times = vec![0; TIME_BUCKETS];
    times[time_bucket(time) as usize] = 1000;
    Passed { sent, bytes: sent * 60, received, rate, times }
}

fn report() -> Report {
    let mut fast = Row::named("dataplane, native".to_owned());
    for rate in [8e6, 10e6, 9e6] {
        fast.add(
            &passed(rate, 1000, Some(1000), 50_000),
            Some([1003, 1002, 1000]),
            Some(&passed(1.0, 9, Some(9), 1000)),
        );
    }
    let mut slow = Row::named("kernel, nft, 1000 rules".to_owned());
    slow.add(&passed(100_000.0, 1000, Some(900), 15_000), None, None);
    Report {
        version: "1.2.3",
        kernel: "6.18.5".to_owned(),
        cpu: "A CPU <x>".to_owned(),
        generator: "BPF",
        pktgen: false,
        traffic: "IPv4, frames of 60 bytes, 4096 flows over 256 prefixes".to_owned(),
        cpus: 1,
        rate: None,
        seconds: 0.5,
        paths: vec![fast, slow],
        absent: vec![Absent { path: "kernel, nft".to_owned(), why: "nft is not there".to_owned() }],
    }
}

#[test]
fn text() {
    let want = "\
IPv4, frames of 60 bytes, 4096 flows over 256 prefixes, as fast as it goes, 1 CPU sends; medians of 3 x 0.5 s
A CPU <x>, Linux 6.18.5; frames from BPF; this kernel has no pktgen

PATH                     PACKETS/s      BIT/s  ns/PACKET     LOST  us p50   p99  p99.9   MAX
dataplane, native        9,000,000  4.32 Gbit      111.1        0     1.0   1.0    1.0   1.0
kernel, nft, 1000 rules     90,000  43.2 Mbit    11111.1  10.00 %    15.1  15.1   15.1  15.1

Packets a second

dataplane, native        ##################################################  9.00 M
kernel, nft, 1000 rules  #                                                   90.0 k

kernel, nft: not measured: nft is not there
";
    assert_eq!(report().text(), want);
}

#[test]
fn json() {
    let line = crate::control::json::line(&report()).expect("JSON");
    let want = "\"path\":\"dataplane, native\",\"packets_per_second\":9000000,\"bits_per_second\":4320000000,\
                \"nanoseconds\":111.1,\"sent\":3000,\"received\":3000,\"lost\":0,\"latency\":{\"samples\":3000,";
    assert!(line.contains(want), "{line}");
    assert!(line.contains("\"port_rx\":1003,\"port_tx\":1002,\"forwarded\":1000"), "{line}");
    assert!(line.contains("\"lost\":100,") && !line.contains("times"), "{line}");
}

#[test]
fn pictures_begin_at_zero_and_escape() {
    let svg = report().svg();
    assert!(svg.contains("width=\"420.0\" height=\"18\" fill=\"#2a7\""), "{svg}");
    assert!(svg.contains("width=\"4.2\" height=\"18\" fill=\"#888\""), "{svg}");
    assert!(svg.contains("A CPU &lt;x&gt;") && svg.ends_with("</svg>\n"), "{svg}");
}

#[test]
fn without_a_sink_nothing_is_lost_or_timed() {
    let mut row = Row::named("out of eth0".to_owned());
    row.add(&Passed { sent: 10, bytes: 600, rate: 5.0, ..Passed::default() }, None, None);
    assert_eq!((row.received, row.lost, row.packets_per_second), (None, None, 5));
    assert!(row.latency.is_none());
}
