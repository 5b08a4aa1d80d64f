//! Samples of packets, as a collector of sFlow reads them.

use std::{
    collections::BTreeSet,
    fs,
    net::{SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use dataplane_tests::lab::{
    Port, ROUTER_CLIENT, ROUTER_SERVER, SERVER,
    traffic::{self, Family},
};

use crate::scene::{PORTS, PROMPT, Scene, within};

/// `interface` of the specification, for a packet that a rule dropped.
const DROPPED_BY_RULE: u32 = 0x4000_0102;

/// What a sample of a packet says.
#[derive(Debug)]
struct Sample {
    source: u32,
    rate: u32,
    output: u32,
    frame: Vec<u8>,
    /// Lengths of the prefixes of source and destination.
    prefixes: Option<[u32; 2]>,
}

/// What came in datagrams.
#[derive(Debug, Default)]
struct Collected {
    sequence: Vec<u32>,
    samples: Vec<Sample>,
    /// Interface, received and transmitted bytes.
    counters: Vec<(u32, u64, u64)>,
}

/// Reads XDR.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn word(&mut self) -> u32 {
        let (word, rest) = self.0.split_first_chunk().expect("a word");
        self.0 = rest;
        u32::from_be_bytes(*word)
    }

    fn words<const N: usize>(&mut self) -> [u32; N] {
        std::array::from_fn(|_| self.word())
    }

    fn long(&mut self) -> u64 {
        u64::from(self.word()) << 32 | u64::from(self.word())
    }

    fn opaque(&mut self) -> &'a [u8] {
        let length = self.word() as usize;
        let (bytes, rest) = self.0.split_at(length.next_multiple_of(4));
        self.0 = rest;
        &bytes[..length]
    }

    fn address(&mut self) -> usize {
        let length = match self.word() {
            1 => 4,
            2 => 16,
            other => panic!("addresses have no type {other}"),
        };
        self.0 = &self.0[length..];
        length
    }
}

impl Collected {
    fn datagram(&mut self, bytes: &[u8]) {
        let mut reader = Reader(bytes);
        assert_eq!(reader.word(), 5, "the version");
        reader.address();
        let [agent, sequence, _, count] = reader.words();
        assert_eq!(agent, 0);
        self.sequence.push(sequence);
        for _ in 0..count {
            let kind = reader.word();
            let mut sample = Reader(reader.opaque());
            match kind {
                1 => self.packet(&mut sample),
                2 => self.interface(&mut sample),
                other => panic!("no sample has type {other}"),
            }
            assert!(sample.0.is_empty(), "{} bytes are left in a sample", sample.0.len());
        }
        assert!(reader.0.is_empty(), "{} bytes are left", reader.0.len());
    }

    fn packet(&mut self, reader: &mut Reader<'_>) {
        let [_, source, rate, _, _, input, output, records] = reader.words();
        assert_eq!(source, input);
        let mut sample = Sample { source, rate, output, frame: Vec::new(), prefixes: None };
        for _ in 0..records {
            let kind = reader.word();
            let mut record = Reader(reader.opaque());
            match kind {
                1 => {
                    let [protocol, length, stripped] = record.words();
                    sample.frame = record.opaque().to_vec();
                    assert_eq!((protocol, stripped), (1, 4));
                    assert!(length as usize >= sample.frame.len() + 4, "{length}");
                }
                1002 => {
                    record.address();
                    sample.prefixes = Some(record.words());
                }
                other => panic!("no record has type {other}"),
            }
            assert!(record.0.is_empty());
        }
        self.samples.push(sample);
    }

    fn interface(&mut self, reader: &mut Reader<'_>) {
        let [_, source, records, kind] = reader.words();
        assert_eq!((records, kind), (1, 1));
        let mut record = Reader(reader.opaque());
        let [ifindex, _, _, _, _, status] = record.words();
        assert_eq!((ifindex, status), (source, 3));
        let received = record.long();
        let _: [u32; 6] = record.words();
        let sent = record.long();
        let _: [u32; 6] = record.words();
        assert!(record.0.is_empty());
        self.counters.push((ifindex, received, sent));
    }

    /// Samples of datagrams to a port.
    fn to(&self, family: Family, port: u16) -> Vec<&Sample> {
        let (header, kind) = if family == Family::V4 { (20, [8, 0]) } else { (40, [0x86, 0xdd]) };
        let fits = |frame: &[u8]| {
            frame[12..14] == kind && frame.get(14 + header + 2..14 + header + 4) == Some(&port.to_be_bytes())
        };
        self.samples.iter().filter(|sample| fits(&sample.frame)).collect()
    }
}

/// Reads what has come until now.
fn collect(collector: &UdpSocket) -> Collected {
    let (mut collected, mut bytes) = (Collected::default(), [0; 4096]);
    while let Ok(length) = collector.recv(&mut bytes) {
        assert!(length <= 1400, "a datagram of {length} bytes");
        collected.datagram(&bytes[..length]);
    }
    collected
}

/// Puts a config in force.
fn apply(scene: &Scene, text: &str) {
    let path = scene.daemon.config();
    fs::write(&path, text).expect("a config");
    scene.cli(&["config", "apply", path.to_str().expect("a path")]);
}

/// A config with ports in a mode, a rule, and more.
fn config(mode: &str, settings: &str) -> String {
    let ports = PORTS.map(|port| format!("{port} = {{ mode = \"{mode}\" }}")).join("\n");
    format!("[ports]\n{ports}\n{settings}\n[chains.forward]\nrules = ['udp dport 5302 drop']\n")
}

fn ifindex(scene: &Scene, name: &str) -> u32 {
    let rows: Vec<Port> = scene.daemon.read(&["port", "list"]).expect("ports");
    rows.iter().find(|row| row.name == name).expect("a port").ifindex
}

/// Whether all packets are sampled that were sent from now on, with what became of them.
fn all_are_sampled(scene: &Scene, collector: &UdpSocket, mode: &str) {
    let [client, server] = [ROUTER_CLIENT, ROUTER_SERVER].map(|end| ifindex(scene, end.port));
    collect(collector);
    for family in Family::BOTH {
        assert_eq!(traffic::datagrams(&scene.lab, family, 5301, 20).expect("datagrams"), 20, "{mode}");
        assert_eq!(traffic::datagrams(&scene.lab, family, 5302, 20).expect("datagrams"), 0, "{mode}");
    }
    let mut all = Collected::default();
    within(PROMPT * 4, || {
        let next = collect(collector);
        all.sequence.extend(next.sequence);
        all.samples.extend(next.samples);
        all.counters.extend(next.counters);
        let counts = Family::BOTH.map(|family| [5301, 5302].map(|port| all.to(family, port).len()));
        anyhow::ensure!(counts == [[20, 20]; 2], "{mode}: {counts:?}");
        let ports: BTreeSet<_> = all.counters.iter().map(|(ifindex, ..)| *ifindex).collect();
        anyhow::ensure!(ports == BTreeSet::from([client, server]), "{mode}: counters of {ports:?}");
        Ok(())
    });
    for family in Family::BOTH {
        for (port, output) in [(5301, server), (5302, DROPPED_BY_RULE)] {
            for sample in all.to(family, port) {
                assert_eq!((sample.source, sample.rate, sample.output), (client, 1, output), "{mode}: {sample:?}");
                let length = if family == Family::V4 { 24 } else { 64 };
                assert_eq!(sample.prefixes, (port == 5301).then_some([length; 2]), "{mode}: {sample:?}");
            }
        }
    }
    assert!(
        all.sequence.is_sorted() && all.sequence.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{:?}",
        all.sequence
    );
    assert!(all.counters.iter().all(|(_, received, sent)| *received > 0 && *sent > 0), "{mode}: {:?}", all.counters);
}

fn samples(mode: &str) {
    let collected = |address: &str, rate: u32| {
        config(mode, &format!("[sflow]\ncollector = \"{address}\"\nrate = {rate}\npolling = 1\n"))
    };
    let v4 = format!("{}:6343", SERVER.v4);
    let Some(mut scene) = Scene::configured(&[], &collected(&v4, 1)) else { return };
    let bind = || {
        let socket = UdpSocket::bind("[::]:6343".parse::<SocketAddr>()?)?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        Ok(socket)
    };
    let collector = scene.server().inside(bind).expect("a socket");
    all_are_sampled(&scene, &collector, mode);
    let doctor = scene.daemon.attempt(&["doctor", "-j"]).expect("doctor").stdout;
    assert!(doctor.contains("\"check\":\"sflow\",\"status\":\"ok\""), "{doctor}");
    assert!(scene.cli(&["metrics"]).contains("dataplane_sflow_samples_total "));

    // It goes on behind a daemon that was killed, and over IPv6.
    scene.daemon.kill9().expect("killed");
    scene.daemon.restart().expect("a daemon");
    all_are_sampled(&scene, &collector, mode);
    apply(&scene, &collected(&format!("[{}]:6343", SERVER.v6), 1));
    all_are_sampled(&scene, &collector, mode);

    // One in so many; and none without a collector.
    apply(&scene, &collected(&v4, 10));
    collect(&collector);
    for _ in 0..5 {
        assert_eq!(traffic::datagrams(&scene.lab, Family::V4, 5301, 200).expect("datagrams"), 200, "{mode}");
    }
    let mut count = 0;
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        count += collect(&collector).to(Family::V4, 5301).len();
    }
    assert!((50..170).contains(&count), "{mode}: {count} of 1000 packets, one in ten");
    apply(&scene, &config(mode, ""));
    collect(&collector);
    assert_eq!(traffic::datagrams(&scene.lab, Family::V4, 5301, 20).expect("datagrams"), 20, "{mode}");
    thread::sleep(Duration::from_millis(1200));
    assert_eq!(collect(&collector).sequence, Vec::<u32>::new(), "{mode}");
    assert!(!scene.cli(&["metrics"]).contains("dataplane_sflow"));
    scene.close();
}

#[test]
fn packets_are_sampled_in_native() {
    samples("native");
}

#[test]
fn packets_are_sampled_in_tc() {
    samples("tc");
}
