use super::*;

fn sample() -> PacketSample<'static> {
    PacketSample { input: 3, output: Output::Internal, length: 60, header: &[0; 60], route: None }
}

fn exporting(collector: &UdpSocket) -> SflowExporter {
    let mut exporter = SflowExporter::new(Instant::now());
    let collector = Some(collector.local_addr().expect("a bound socket"));
    assert!(exporter.want(SflowConfig { collector, rate: 10, ..SflowConfig::default() }, 5));
    exporter
}

fn collector() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
    socket
}

fn word(datagram: &[u8], index: usize) -> u32 {
    u32::from_be_bytes(datagram[index * 4..index * 4 + 4].try_into().expect("four bytes"))
}

#[test]
fn what_is_picked_is_sent_each_second_and_no_more_than_a_bound() {
    let (socket, mut bytes) = (collector(), [0; 2048]);
    let mut exporter = exporting(&socket);
    let (mut samples, mut number) = (0, 0);
    let mut read = |counts: SflowCounts| {
        for next in number + 1..=counts.datagrams {
            let length = socket.recv(&mut bytes).expect("a datagram");
            assert_eq!(u64::from(word(&bytes[..length], 4)), next);
            samples += word(&bytes, 6);
        }
        number = counts.datagrams;
    };
    for _ in 0..MOST + 7 {
        if exporter.has_room() {
            exporter.packet(&sample());
        }
        read(exporter.counts);
    }
    // Three that the ring had no room for.
    exporter.tick(8);
    read(exporter.counts);
    let counts = exporter.counts().expect("a collector");
    assert_eq!((counts.samples, counts.lost, counts.unsent), (1000, 10, 0));
    assert_eq!(samples, MOST);
    // The next one tells what was lost before it.
    exporter.packet(&sample());
    exporter.tick(8);
    socket.recv(&mut bytes).expect("a datagram");
    assert_eq!(word(&bytes, 7 + 6), 10);
    assert_eq!(exporter.finding().map(|finding| finding.status), Some(Status::Ok));
}

#[test]
fn a_collector_that_is_not_there_is_told() {
    let socket = collector();
    let mut exporter = exporting(&socket);
    drop(socket);
    for _ in 0..5 {
        exporter.packet(&sample());
        exporter.tick(5);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(exporter.counts().is_some_and(|counts| counts.unsent > 0));
    let finding = exporter.finding().expect("a collector");
    assert_eq!(finding.status, Status::Warn);
    assert!(finding.found.contains("refused"), "{}", finding.found);
}

#[test]
fn programs_that_were_refused_are_told() {
    let mut exporter = exporting(&collector());
    assert_eq!((exporter.trouble(), exporter.finding().map(|finding| finding.status)), (None, Some(Status::Ok)));
    exporter.refused = Some("out of memory".to_owned());
    assert!(exporter.trouble().is_some_and(|said| said.contains("out of memory")));
    assert_eq!(exporter.finding().map(|finding| finding.status), Some(Status::Warn));
}

#[test]
fn packets_are_picked_otherwise_only_where_the_rate_changes() {
    let socket = collector();
    let mut exporter = exporting(&socket);
    let config = exporter.wanted;
    assert_eq!(exporter.rate(), Some(10));
    assert!(!exporter.want(config, 0));
    assert!(!exporter.want(SflowConfig { polling: 3, ..config }, 0));
    assert!(exporter.want(SflowConfig { rate: 11, ..config }, 0));
    assert!(exporter.want(SflowConfig::default(), 0));
    assert_eq!((exporter.rate(), exporter.counts(), exporter.finding()), (None, None, None));
}
