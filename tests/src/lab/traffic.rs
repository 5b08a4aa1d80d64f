//! Traffic from the client to the server of the standard picture: datagrams, a flood of them, TCP by iperf3.

use std::{
    fs,
    net::{IpAddr, SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use serde_json::Value;

use super::{CLIENT, End, Lab, Running, SERVER};

/// After so long without a datagram no more are expected.
const SILENCE: Duration = Duration::from_millis(400);
/// Bytes of the receiver's buffer: seconds of any stream, so that a busy machine does not look like loss.
const ROOM: usize = 64 << 20;
/// What fills a datagram of the flood: 60 bytes of frame over IPv4, the smallest that Ethernet knows.
const SMALL: [u8; 18] = [0; 18];
/// How many datagrams are sent between looks at the clock.
const BATCH: u32 = 64;

/// The IP versions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// As a person says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The option of `ping` and others.
    pub fn option(self) -> &'static str {
        match self {
            Self::V4 => "-4",
            Self::V6 => "-6",
        }
    }

    /// The address of an end, as text.
    pub fn address(self, end: &End) -> &'static str {
        match self {
            Self::V4 => end.v4,
            Self::V6 => end.v6,
        }
    }

    /// A socket address of an end.
    fn socket(self, end: &End, port: u16) -> anyhow::Result<SocketAddr> {
        let address: IpAddr = self.address(end).parse().context("an address of the laboratory")?;
        Ok((address, port).into())
    }
}

/// Sends pings from the client; how many of them were answered.
pub fn ping(lab: &Lab, family: Family, count: u32) -> anyhow::Result<u32> {
    let (option, address) = (family.option(), family.address(&SERVER));
    let output = lab.namespace("client").attempt(&format!("ping {option} -n -c {count} -i 0.1 -W 2 {address}"))?;
    let answered = output.stdout.split(", ").find_map(|part| part.strip_suffix(" received")?.parse().ok());
    answered.with_context(|| format!("`{}` told no count{}", output.line, output.said()))
}

/// A socket of the server, and one of the client that sends to it.
pub(super) fn sockets(lab: &Lab, family: Family, port: u16) -> anyhow::Result<(UdpSocket, UdpSocket)> {
    let (source, sink) = (family.socket(&CLIENT, 0)?, family.socket(&SERVER, port)?);
    let bind = |address| move || UdpSocket::bind(address).with_context(|| format!("can not bind {address}"));
    let receiver = lab.namespace("server").inside(bind(sink))?;
    // A datagram takes a page of its room; a full socket must not look like loss on the way.
    set_socket_recv_buffer_size_force(&receiver, ROOM).context("can not enlarge the receiver's buffer")?;
    let sender = lab.namespace("client").inside(bind(source))?;
    sender.connect(sink).with_context(|| format!("can not send to {sink}"))?;
    Ok((sender, receiver))
}

/// Sends datagrams to a port of the server; how many of them arrived.
pub fn datagrams(lab: &Lab, family: Family, port: u16, count: u32) -> anyhow::Result<u32> {
    let (sender, receiver) = sockets(lab, family, port)?;
    receiver.set_read_timeout(Some(SILENCE))?;
    for number in 0..count {
        sender.send(&number.to_be_bytes()).with_context(|| format!("can not send a datagram to port {port}"))?;
    }
    let mut arrived = 0;
    let mut datagram = [0; 16];
    while arrived < count && receiver.recv(&mut datagram).is_ok() {
        arrived += 1;
    }
    Ok(arrived)
}

/// Sends one datagram of `length` bytes, in fragments where the link asks for that; how many arrived whole: 0 or 1.
pub fn large(lab: &Lab, family: Family, port: u16, length: usize) -> anyhow::Result<u32> {
    let (sender, receiver) = sockets(lab, family, port)?;
    receiver.set_read_timeout(Some(SILENCE))?;
    let content: Vec<u8> = (0..length).map(|at| at as u8).collect();
    sender.send(&content).with_context(|| format!("can not send {length} bytes to port {port}"))?;
    let mut datagram = vec![0; length + 1];
    Ok(receiver.recv(&mut datagram).is_ok_and(|got| datagram[..got] == content).into())
}

/// Sends the smallest datagrams as fast as one thread can; how many arrived at the server, per second.
///
/// This measures sender, path and receiver together: all of it runs on the sender's processor.
pub fn flood(lab: &Lab, family: Family, length: Duration) -> anyhow::Result<f64> {
    let (sender, receiver) = sockets(lab, family, 9000)?;
    let before = arrived(lab, family)?;
    let start = Instant::now();
    while start.elapsed() < length {
        for _ in 0..BATCH {
            // A full queue on the way is part of what is measured.
            let _ = sender.send(&SMALL);
        }
    }
    let length = start.elapsed().as_secs_f64();
    // The kernel counts a datagram as arrived when it is read, or when it finds the socket full.
    receiver.set_nonblocking(true).context("the receiver can not be emptied")?;
    while receiver.recv(&mut [0; SMALL.len()]).is_ok() {}
    let packets = arrived(lab, family)? - before;
    let packets = u32::try_from(packets).context("more packets than a demo can send")?;
    Ok(f64::from(packets) / length)
}

/// UDP datagrams that reached the server's socket layer, also those that found the socket full.
fn arrived(lab: &Lab, family: Family) -> anyhow::Result<u64> {
    let file = match family {
        Family::V4 => "/proc/thread-self/net/snmp",
        Family::V6 => "/proc/thread-self/net/snmp6",
    };
    let text =
        lab.namespace("server").inside(|| fs::read_to_string(file).with_context(|| format!("can not read {file}")))?;
    let counts = match family {
        Family::V4 => udp4(&text),
        Family::V6 => udp6(&text),
    };
    counts.with_context(|| format!("{file} has no counters of UDP"))
}

/// A line of names and a line of values, both beginning with `Udp:`. `RcvbufErrors` are among `InErrors`.
fn udp4(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let wanted = names.split(' ').zip(values.split(' ')).filter(|(name, _)| ["InDatagrams", "InErrors"].contains(name));
    wanted.map(|(_, value)| value.parse::<u64>().ok()).sum()
}

/// A name and a value in each line.
fn udp6(text: &str) -> Option<u64> {
    let pairs = text.lines().filter_map(|line| line.split_once(char::is_whitespace));
    let wanted = pairs.filter(|(name, _)| ["Udp6InDatagrams", "Udp6InErrors"].contains(name));
    wanted.map(|(_, value)| value.trim().parse::<u64>().ok()).sum()
}

/// Starts iperf3's server in the laboratory's server, and waits until it listens.
pub fn iperf_server(lab: &Lab) -> anyhow::Result<Running> {
    let server = lab.namespace("server");
    let mut running = server.spawn(server.command("iperf3").arg("-s"), &lab.dir().join("iperf3.log"))?;
    let end = Instant::now() + Duration::from_secs(5);
    while server.run("ss -Hltn sport = :5201")?.is_empty() {
        if let Some(status) = running.ended()? {
            bail!("iperf3's server ended at once ({status}):\n{}", running.said());
        }
        if Instant::now() > end {
            bail!("iperf3's server does not listen:\n{}", running.said());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(running)
}

/// TCP from the client to [`iperf_server`]: bits per second as received.
pub fn tcp(lab: &Lab, family: Family, length: Duration) -> anyhow::Result<f64> {
    let client = lab.namespace("client");
    let (option, address, seconds) = (family.option(), family.address(&SERVER), length.as_secs().max(1));
    let mut command = client.command("iperf3");
    command.args([option, "-J", "-c", address, "-t", &seconds.to_string(), "--connect-timeout", "3000"]);
    let output = client.output(&mut command, length + Duration::from_secs(15))?;
    let report: Value = serde_json::from_str(&output.stdout)
        .with_context(|| format!("`{}` printed no JSON{}", output.line, output.said()))?;
    if let Some(error) = report["error"].as_str() {
        bail!("TCP over {} does not get through: `{}`: {error}", family.name(), output.line);
    }
    let rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
    rate.with_context(|| format!("`{}` told no rate{}", output.line, output.said()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::{Need, ready};

    #[test]
    fn counters_of_the_kernel_are_read() {
        let v4 =
            "Ip: InReceives\nIp: 7\nUdp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors\nUdp: 10 20 3 40 3\n";
        assert_eq!(udp4(v4), Some(13));
        assert_eq!(udp4("Udp: InDatagrams\nUdp: x\n"), None);
        assert_eq!(udp6("Udp6InDatagrams                 \t5\nUdp6NoPorts \t9\nUdp6InErrors \t1\n"), Some(6));
    }

    #[test]
    fn traffic_crosses_the_kernels_router() {
        if !ready(&[Need::Root, Need::Tool("ip"), Need::Tool("iperf3"), Need::Tool("ss")]) {
            return;
        }
        let lab = Lab::router().expect("a laboratory");
        let _server = iperf_server(&lab).expect("iperf3");
        for family in Family::BOTH {
            assert_eq!(ping(&lab, family, 2).expect("pings"), 2);
            assert_eq!(datagrams(&lab, family, 5301, 10).expect("datagrams"), 10);
            // How fast is the machine's business; that packets come through is ours.
            assert!(flood(&lab, family, Duration::from_millis(500)).expect("a flood") > 0.0);
            assert!(tcp(&lab, family, Duration::from_secs(1)).expect("TCP") > 1e6);
        }
        lab.namespace("router").sysctl("net.ipv4.ip_forward", "0").expect("forwarding off");
        assert_eq!(datagrams(&lab, Family::V4, 5301, 10).expect("datagrams"), 0);
        assert_eq!(ping(&lab, Family::V4, 1).expect("pings"), 0);
    }
}
