//! `udp 198.18.0.2:1024 > 198.18.1.2:9`: a packet in a line.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use etherparse::{IpNumber, PacketBuilder, PacketBuilderStep, VlanId, err::packet::BuildWriteError};
use thiserror::Error;

/// Why no frame comes of an expression.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ExpressionError {
    /// It does not have its form.
    #[error(
        "`{0}` is no packet: write `PROTOCOL SOURCE > DESTINATION [OPTION ...]`, such as `udp 198.18.0.2:1024 > 198.18.1.2:9` \
         or `tcp [2001:db8::2]:1024 > [2001:db8:1::2]:80 flags syn ttl 3`"
    )]
    Form(String),
    /// No such protocol.
    #[error("unknown protocol `{0}`: use tcp, udp, icmp, icmpv6, or a number from 0 to 255")]
    Protocol(String),
    /// Not an address.
    #[error("`{0}` is not an address{1}")]
    Address(String, &'static str),
    /// Of different families.
    #[error("{0} and {1} are of different families; take two of one")]
    Families(IpAddr, IpAddr),
    /// An option that there is not, or without a value that it can have.
    #[error(
        "unknown option `{0}`: options are ttl N, length BYTES, flags syn,ack,..., type N, code N, vlan ID, from MAC"
    )]
    Option(String),
    /// The packet cannot be built.
    #[error("the packet cannot be built: {0}")]
    Build(String),
}

/// What an address with a port looks like.
const WITH_PORT: &str = " with a port, such as 198.18.0.2:1024 or [2001:db8::2]:1024";

/// What may be said behind the addresses.
#[derive(Debug)]
struct Options {
    ttl: u8,
    /// Bytes of payload.
    length: usize,
    flags: Vec<String>,
    kind: Option<u8>,
    code: u8,
    vlan: Option<VlanId>,
    source: [u8; 6],
}

/// The frame of an expression, for a port with this link address; without link header where the port has none.
///
/// # Errors
/// What cannot be understood.
pub fn build(text: &str, destination: Option<[u8; 6]>) -> Result<Vec<u8>, ExpressionError> {
    let spaced = text.replace('>', " > ");
    let words: Vec<_> = spaced.split_whitespace().collect();
    let [protocol, from, ">", to, rest @ ..] = words.as_slice() else {
        return Err(ExpressionError::Form(text.to_owned()));
    };
    let with_ports = ["tcp", "udp"].contains(protocol);
    let ((source, source_port), (target, target_port)) = (address(from, with_ports)?, address(to, with_ports)?);
    if source.is_ipv4() != target.is_ipv4() {
        return Err(ExpressionError::Families(source, target));
    }
    let options = options(rest)?;
    let payload = vec![0; options.length];
    let mut frame = Vec::new();
    let link = match (destination, options.vlan) {
        (Some(mac), Some(id)) => link_with_vlan(options.source, mac, id),
        (Some(mac), None) => Link::Plain(PacketBuilder::ethernet2(options.source, mac)),
        (None, _) => Link::None,
    };
    let ip = link.ip(source, target, options.ttl);
    let written = match *protocol {
        "udp" => ip.udp(source_port, target_port).write(&mut frame, &payload),
        "tcp" => {
            let mut step = ip.tcp(source_port, target_port, 0, 65_535);
            for flag in &options.flags {
                step = match flag.as_str() {
                    "syn" => step.syn(),
                    "ack" => step.ack(0),
                    "fin" => step.fin(),
                    "rst" => step.rst(),
                    "psh" => step.psh(),
                    "urg" => step.urg(0),
                    other => return Err(ExpressionError::Option(format!("flags {other}"))),
                };
            }
            step.write(&mut frame, &payload)
        }
        "icmp" if source.is_ipv4() => {
            let kind = options.kind.unwrap_or(8);
            ip.icmpv4_raw(kind, options.code, [0; 4]).write(&mut frame, &payload)
        }
        "icmp" | "icmpv6" | "icmp6" if source.is_ipv6() => {
            let kind = options.kind.unwrap_or(128);
            ip.icmpv6_raw(kind, options.code, [0; 4]).write(&mut frame, &payload)
        }
        other => {
            let number: u8 = other.parse().map_err(|_| ExpressionError::Protocol(other.to_owned()))?;
            ip.write(&mut frame, IpNumber(number), &payload)
        }
    };
    written.map_err(|error: BuildWriteError| ExpressionError::Build(error.to_string()))?;
    Ok(frame)
}

/// What is in front of the IP header.
enum Link {
    Plain(PacketBuilderStep<etherparse::Ethernet2Header>),
    Tagged(PacketBuilderStep<etherparse::VlanHeader>),
    None,
}

fn link_with_vlan(source: [u8; 6], mac: [u8; 6], id: VlanId) -> Link {
    Link::Tagged(PacketBuilder::ethernet2(source, mac).single_vlan(id))
}

impl Link {
    fn ip(self, source: IpAddr, target: IpAddr, ttl: u8) -> PacketBuilderStep<etherparse::IpHeaders> {
        match (self, source, target) {
            (Self::Plain(link), IpAddr::V4(source), IpAddr::V4(target)) => {
                link.ipv4(source.octets(), target.octets(), ttl)
            }
            (Self::Plain(link), source, target) => link.ipv6(v6(source), v6(target), ttl),
            (Self::Tagged(link), IpAddr::V4(source), IpAddr::V4(target)) => {
                link.ipv4(source.octets(), target.octets(), ttl)
            }
            (Self::Tagged(link), source, target) => link.ipv6(v6(source), v6(target), ttl),
            (Self::None, IpAddr::V4(source), IpAddr::V4(target)) => {
                PacketBuilder::ipv4(source.octets(), target.octets(), ttl)
            }
            (Self::None, source, target) => PacketBuilder::ipv6(v6(source), v6(target), ttl),
        }
    }
}

fn v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(address) => address,
        IpAddr::V4(address) => address.to_ipv6_mapped(),
    }
    .octets()
}

/// An address, with its port where there are ports.
fn address(text: &str, with_port: bool) -> Result<(IpAddr, u16), ExpressionError> {
    let hint = if with_port { WITH_PORT } else { "" };
    let refused = || ExpressionError::Address(text.to_owned(), hint);
    if with_port {
        let socket: SocketAddr = text.parse().map_err(|_| refused())?;
        return Ok((socket.ip(), socket.port()));
    }
    let plain = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let address = match plain {
        Some(text) => text.parse::<Ipv6Addr>().map(IpAddr::V6),
        None => text.parse(),
    };
    Ok((address.map_err(|_| refused())?, 0))
}

fn options(words: &[&str]) -> Result<Options, ExpressionError> {
    let mut options = Options {
        ttl: 64,
        length: 0,
        flags: vec!["syn".to_owned()],
        kind: None,
        code: 0,
        vlan: None,
        source: [0x02, 0, 0, 0, 0, 0xfe],
    };
    for pair in words.chunks(2) {
        let refused = || ExpressionError::Option(pair.join(" "));
        let [keyword, value] = pair else { return Err(refused()) };
        let number = || value.parse::<u8>().map_err(|_| refused());
        match *keyword {
            "ttl" => options.ttl = number()?,
            "type" => options.kind = Some(number()?),
            "code" => options.code = number()?,
            "length" => {
                options.length = value.parse().ok().filter(|length| *length <= 9_000).ok_or_else(refused)?;
            }
            "flags" => options.flags = value.split(',').map(str::to_owned).collect(),
            "vlan" => {
                let id = value.parse().ok().and_then(|id| VlanId::try_new(id).ok());
                options.vlan = Some(id.ok_or_else(refused)?);
            }
            "from" => {
                let bytes = super::from_hex(value).ok().and_then(|bytes| bytes.try_into().ok());
                options.source = bytes.ok_or_else(refused)?;
            }
            _ => return Err(refused()),
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    const PORT: Option<[u8; 6]> = Some([2, 0, 0, 0, 0, 1]);

    #[test]
    fn expressions_build_their_packets() {
        for (text, port, lengths) in [
            ("udp 198.18.0.2:1024 > 198.18.1.2:9", PORT, 42),
            ("udp 198.18.0.2:1024>198.18.1.2:9 length 10", PORT, 52),
            ("tcp [2001:db8::2]:1024 > [2001:db8:1::2]:80 flags syn,ack ttl 3", PORT, 74),
            ("icmp 198.18.0.2 > 198.18.1.2", PORT, 42),
            ("icmpv6 2001:db8::2 > [2001:db8:1::2] type 135", PORT, 62),
            ("47 198.18.0.2 > 198.18.1.2 vlan 100", PORT, 38),
            ("udp 198.18.0.2:1 > 198.18.1.2:9", None, 28),
        ] {
            let frame = build(text, port).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(frame.len(), lengths, "{text}");
            let read = if port.is_some() { SlicedPacket::from_ethernet(&frame) } else { SlicedPacket::from_ip(&frame) };
            let read = read.unwrap_or_else(|error| panic!("{text}: {error}"));
            assert!(read.net.is_some(), "{text}");
        }
        let frame = build("tcp 198.18.0.2:1024 > 198.18.1.2:80 ttl 3", PORT).expect("a frame");
        let read = SlicedPacket::from_ethernet(&frame).expect("a packet");
        let Some(NetSlice::Ipv4(ip)) = read.net else { panic!("no IPv4") };
        assert_eq!(ip.header().ttl(), 3);
        let Some(TransportSlice::Tcp(tcp)) = read.transport else { panic!("no TCP") };
        assert!(tcp.syn() && !tcp.ack() && tcp.destination_port() == 80);
    }

    #[test]
    fn invalid_expressions_are_reported() {
        let form = |text: &str| ExpressionError::Form(text.to_owned());
        for (text, error) in [
            ("", form("")),
            ("udp 198.18.0.2:1024 198.18.1.2:9", form("udp 198.18.0.2:1024 198.18.1.2:9")),
            ("udp 198.18.0.2 > 198.18.1.2:9", ExpressionError::Address("198.18.0.2".to_owned(), WITH_PORT)),
            ("gre 198.18.0.2 > 198.18.1.2", ExpressionError::Protocol("gre".to_owned())),
            ("icmp 198.18.0.2 > 198.18.1.2 ttl 256", ExpressionError::Option("ttl 256".to_owned())),
            ("icmp 198.18.0.2 > 198.18.1.2 ttl", ExpressionError::Option("ttl".to_owned())),
        ] {
            assert_eq!(build(text, PORT).expect_err(text), error);
        }
        assert!(matches!(build("icmp 198.18.0.2 > 2001:db8::1", PORT), Err(ExpressionError::Families(..))));
    }
}
