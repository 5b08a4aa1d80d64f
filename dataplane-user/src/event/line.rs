//! A line of log in the look of the kernel's own (`net/netfilter/nf_log_syslog.c`), so that what reads those reads ours.

use std::fmt::{self, Display, Write as _};

use dataplane_common::wire::{
    Be16, Bytes as _, EtherType, Ethernet, IPV4_DONT_FRAGMENT, IPV4_MORE_FRAGMENTS, Icmp, Tcp, Udp, VlanTag, protocol,
};

use super::packet::{Network, Packet};

/// Names of the interfaces that a packet came and goes by; empty where there is none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Interfaces<'a> {
    /// The way in.
    pub iif: &'a str,
    /// The way out.
    pub oif: &'a str,
}

/// The line of a packet, without a prefix.
pub fn line(packet: &Packet<'_>, interfaces: Interfaces<'_>) -> String {
    let mut text = format!("IN={} OUT={}", interfaces.iif, interfaces.oif);
    // Nothing fails that writes into a text.
    let _ = link(&mut text, packet.link).and_then(|()| network(&mut text, packet));
    text
}

/// Destination, source and type of the frame, and its tags.
fn link(text: &mut String, bytes: &[u8]) -> fmt::Result {
    let Some(header) = bytes.header::<Ethernet>(0) else { return Ok(()) };
    text.write_str(" MAC=")?;
    for (number, byte) in bytes[..size_of::<Ethernet>()].iter().enumerate() {
        write!(text, "{}{byte:02x}", if number == 0 { "" } else { ":" })?;
    }
    let (mut kind, mut at) = (header.ethertype, size_of::<Ethernet>());
    while kind.is_tag()
        && let Some(tag) = bytes.header::<VlanTag>(at)
    {
        write!(text, " VLAN={}", tag.id())?;
        (kind, at) = (EtherType(tag.ethertype.0), at + size_of::<VlanTag>());
    }
    Ok(())
}

fn network(text: &mut String, packet: &Packet<'_>) -> fmt::Result {
    write!(text, " SRC={} DST={} LEN={}", packet.source(), packet.destination(), packet.length)?;
    match packet.network {
        Network::V4(header) => {
            write!(text, " TOS=0x{:02x} PREC=0x{:02x}", header.service & 0x1e, header.service & 0xe0)?;
            write!(text, " TTL={} ID={}", header.ttl, header.identification.get())?;
            flag(text, " DF", header.fragment.get() & IPV4_DONT_FRAGMENT != 0)?;
        }
        Network::V6(header) => {
            let word = header.version_class_flow.get();
            write!(text, " TC={} HOPLIMIT={} FLOWLBL={}", word >> 20 & 0xff, header.hop_limit, word & 0xf_ffff)?;
        }
    }
    flag(text, " MF", packet.fragment & IPV4_MORE_FRAGMENTS != 0)?;
    if packet.fragment_offset() != 0 {
        write!(text, " FRAG:{}", packet.fragment_offset())?;
    }
    transport(text, packet)
}

fn transport(text: &mut String, packet: &Packet<'_>) -> fmt::Result {
    let bytes = packet.transport();
    let name = packet.protocol.map(|number| (u64::from(number), number));
    let (name, number): (&dyn Display, _) = match &name {
        Some((protocol::TCP, _)) => (&"TCP", protocol::TCP),
        Some((protocol::UDP, _)) => (&"UDP", protocol::UDP),
        Some((protocol::UDP_LITE, _)) => (&"UDPLITE", protocol::UDP_LITE),
        Some((protocol::ICMP, _)) => (&"ICMP", protocol::ICMP),
        Some((protocol::ICMPV6, _)) => (&"ICMPv6", protocol::ICMPV6),
        Some((number, shown)) => (shown, *number),
        // The chain of extension headers could not be read to its end.
        None => return text.write_str(" PROTO=?"),
    };
    write!(text, " PROTO={name}")?;
    if packet.fragment_offset() != 0 {
        return Ok(());
    }
    let written = match number {
        protocol::TCP => bytes.header(0).map(|header| tcp(text, header)),
        protocol::UDP | protocol::UDP_LITE => bytes.header(0).map(|header| udp(text, *header)),
        protocol::ICMP | protocol::ICMPV6 => bytes.header(0).map(|header| icmp(text, *header, bytes, number)),
        _ => return Ok(()),
    };
    written.unwrap_or_else(|| write!(text, " INCOMPLETE [{} bytes]", bytes.len()))
}

fn tcp(text: &mut String, header: &Tcp) -> fmt::Result {
    let (source, destination) = (header.source.get(), header.destination.get());
    write!(text, " SPT={source} DPT={destination} WINDOW={}", header.window.get())?;
    write!(text, " RES=0x{:02x}", (header.offset & 0x0f) << 2)?;
    // In the kernel's order.
    for (bit, name) in [
        (0x80, " CWR"),
        (0x40, " ECE"),
        (0x20, " URG"),
        (0x10, " ACK"),
        (0x08, " PSH"),
        (0x04, " RST"),
        (0x02, " SYN"),
        (0x01, " FIN"),
    ] {
        flag(text, name, header.flags & bit != 0)?;
    }
    write!(text, " URGP={}", header.urgent.get())
}

fn udp(text: &mut String, header: Udp) -> fmt::Result {
    let (source, destination) = (header.source.get(), header.destination.get());
    write!(text, " SPT={source} DPT={destination} LEN={}", header.length.get())
}

fn icmp(text: &mut String, header: Icmp, bytes: &[u8], number: u64) -> fmt::Result {
    write!(text, " TYPE={} CODE={}", header.kind, header.code)?;
    let echo = if number == protocol::ICMP { [0, 8] } else { [128, 129] };
    match bytes.header::<[Be16; 4]>(0) {
        Some([_, _, id, sequence]) if echo.contains(&header.kind) => {
            write!(text, " ID={} SEQ={}", id.get(), sequence.get())
        }
        _ => Ok(()),
    }
}

fn flag(text: &mut String, name: &str, set: bool) -> fmt::Result {
    if set { text.write_str(name) } else { Ok(()) }
}
