//! The messages of conntrack (`net/netfilter/nf_conntrack_netlink.c`). Numbers are in network order.

use crate::{
    flow::{Announcement, AnySeen, LIBERAL, Protocol, Seen, Status, Tcp, Tuple},
    model::Family,
    netlink::{
        attribute::{Attributes, put, u8_at},
        netfilter::{HEADER, number},
        socket::Message,
    },
};

/// `NFNL_SUBSYS_CTNETLINK << 8`.
const CONNTRACK: u16 = 1 << 8;
/// `IPCTNL_MSG_CT_NEW`.
pub(super) const NEW: u16 = CONNTRACK;
/// `IPCTNL_MSG_CT_GET`.
pub(super) const GET: u16 = CONNTRACK | 1;
/// `IPCTNL_MSG_CT_DELETE`.
pub(super) const DELETE: u16 = CONNTRACK | 2;

/// Beside the type of an attribute that holds others.
const NESTED: u16 = 0x8000;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOINFO: u16 = 4;
const HELP: u16 = 5;
const TIMEOUT: u16 = 7;
const MARK: u16 = 8;
const ID: u16 = 12;
const SEQ_ADJUST_ORIGINAL: u16 = 15;
const SEQ_ADJUST_REPLY: u16 = 16;
const ZONE: u16 = 18;
const SYNPROXY: u16 = 24;

const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const TUPLE_ZONE: u16 = 3;
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
const PROTOINFO_TCP: u16 = 1;
const TCP_STATE: u16 = 1;
const TCP_FLAGS_ORIGINAL: u16 = 4;
const TCP_FLAGS_REPLY: u16 = 5;

/// `IP_CT_TCP_FLAG_MAXACK_SET`: the highest acknowledgement that conntrack saw is no longer the highest there was.
const MAXACK_SET: u8 = 0x20;

/// What a message says of a connection; none of other protocols, and none where it is not as it should be.
pub(super) fn announcement(message: &Message<'_>) -> Option<Announcement> {
    match message.kind {
        NEW => seen(message.payload).map(Announcement::Update),
        DELETE => seen(message.payload).map(Announcement::Destroy),
        _ => None,
    }
}

/// What is behind the header of a message.
pub(super) fn seen(payload: &[u8]) -> Option<AnySeen> {
    match u8_at(payload, 0)? {
        u32::NUMBER => of_family(payload).map(AnySeen::V4),
        u128::NUMBER => of_family(payload).map(AnySeen::V6),
        _ => None,
    }
}

fn of_family<A: Addresses>(payload: &[u8]) -> Option<Seen<A>> {
    let (mut original, mut reply, mut id) = (None, None, None);
    let (mut zone, mut status, mut mark, mut timeout, mut tcp, mut synproxy) =
        (None, Status::empty(), None, None, None, false);
    let mut zones = [None; 2];
    for (kind, value) in Attributes::behind(payload, HEADER) {
        match kind {
            TUPLE_ORIGINAL => (original, zones[0]) = tuple(value)?,
            TUPLE_REPLY => (reply, zones[1]) = tuple(value)?,
            STATUS => status |= Status::from_bits_retain(number(value)?),
            PROTOINFO => tcp = Attributes::within(value).find(|(kind, _)| *kind == PROTOINFO_TCP).map(tcp_of),
            HELP => status |= Status::HELPER,
            SEQ_ADJUST_ORIGINAL | SEQ_ADJUST_REPLY => status |= Status::SEQ_ADJUST,
            SYNPROXY => synproxy = true,
            TIMEOUT => timeout = Some(number(value)?),
            MARK => mark = Some(number(value)?),
            ID => id = Some(number(value)?),
            ZONE => zone = Some(half(value)?),
            _ => {}
        }
    }
    let (original, reply): (Tuple<A>, Tuple<A>) = (original?, reply?);
    if original.protocol != reply.protocol {
        return None;
    }
    // A zone of one direction only is a zone, too: it is not the table of everybody.
    let zone = zone.or(zones[0]).or(zones[1]).unwrap_or_default();
    Some(Seen { id: id?, zone, status, mark, timeout, tcp: tcp.flatten(), synproxy, original, reply })
}

/// A tuple, and the zone that it alone is in.
fn tuple<A: Addresses>(value: &[u8]) -> Option<(Option<Tuple<A>>, Option<u16>)> {
    let (mut source, mut destination, mut zone) = (None, None, None);
    let (mut protocol, mut source_port, mut destination_port) = (None, None, None);
    for (kind, value) in Attributes::within(value) {
        match kind {
            TUPLE_IP => {
                for (kind, value) in Attributes::within(value) {
                    if kind == A::SOURCE {
                        source = Some(A::from_bytes(value)?);
                    } else if kind == A::DESTINATION {
                        destination = Some(A::from_bytes(value)?);
                    }
                }
            }
            TUPLE_PROTOCOL => {
                for (kind, value) in Attributes::within(value) {
                    match kind {
                        PROTOCOL_NUMBER => protocol = Some(Protocol::from_number(u8_at(value, 0)?)?),
                        SOURCE_PORT => source_port = Some(half(value)?),
                        DESTINATION_PORT => destination_port = Some(half(value)?),
                        _ => {}
                    }
                }
            }
            TUPLE_ZONE => zone = Some(half(value)?),
            _ => {}
        }
    }
    let tuple = Tuple {
        source: source?,
        destination: destination?,
        source_port: source_port?,
        destination_port: destination_port?,
        protocol: protocol?,
    };
    Some((Some(tuple), zone))
}

fn tcp_of((_, value): (u16, &[u8])) -> Option<Tcp> {
    let (mut state, mut flags) = (None, [None; 2]);
    for (kind, value) in Attributes::within(value) {
        match kind {
            TCP_STATE => state = u8_at(value, 0),
            TCP_FLAGS_ORIGINAL => flags[0] = u8_at(value, 0),
            TCP_FLAGS_REPLY => flags[1] = u8_at(value, 0),
            _ => {}
        }
    }
    let flags = flags[0].zip(flags[1]).map(|(original, reply)| [original, reply]);
    Some(Tcp { state: state?, flags })
}

fn half(value: &[u8]) -> Option<u16> {
    value.first_chunk().copied().map(u16::from_be_bytes)
}

/// The attributes of a family's addresses, and how they are written.
pub(super) trait Addresses: Family {
    /// Its source.
    const SOURCE: u16;
    /// Its destination.
    const DESTINATION: u16;

    /// In network order.
    fn bytes(self) -> Vec<u8>;
}

impl Addresses for u32 {
    const SOURCE: u16 = 1;
    const DESTINATION: u16 = 2;

    fn bytes(self) -> Vec<u8> {
        self.to_be_bytes().to_vec()
    }
}

impl Addresses for u128 {
    const SOURCE: u16 = 3;
    const DESTINATION: u16 = 4;

    fn bytes(self) -> Vec<u8> {
        self.to_be_bytes().to_vec()
    }
}

/// Names a connection: its family, zone and first tuple.
fn named<A: Addresses>(zone: u16, original: &Tuple<A>) -> Vec<u8> {
    let mut message = vec![A::NUMBER, 0, 0, 0];
    put(&mut message, TUPLE_ORIGINAL | NESTED, &written(original));
    if zone != 0 {
        put(&mut message, ZONE, &zone.to_be_bytes());
    }
    message
}

fn written<A: Addresses>(tuple: &Tuple<A>) -> Vec<u8> {
    let (mut addresses, mut ports, mut all) = (Vec::new(), Vec::new(), Vec::new());
    put(&mut addresses, A::SOURCE, &tuple.source.bytes());
    put(&mut addresses, A::DESTINATION, &tuple.destination.bytes());
    put(&mut ports, PROTOCOL_NUMBER, &[tuple.protocol.number()]);
    put(&mut ports, SOURCE_PORT, &tuple.source_port.to_be_bytes());
    put(&mut ports, DESTINATION_PORT, &tuple.destination_port.to_be_bytes());
    put(&mut all, TUPLE_IP | NESTED, &addresses);
    put(&mut all, TUPLE_PROTOCOL | NESTED, &ports);
    all
}

/// Makes conntrack indifferent to what passes it by, in both directions: without `MAXACK_SET` a RST would not end a
/// connection whose last acknowledgement was not seen.
pub(super) fn liberal<A: Addresses>(zone: u16, original: &Tuple<A>) -> Vec<u8> {
    let (mut tcp, mut info) = (Vec::new(), Vec::new());
    // `struct nf_ct_tcp_flags`: value and mask.
    let flags = [LIBERAL, LIBERAL | MAXACK_SET];
    put(&mut tcp, TCP_FLAGS_ORIGINAL, &flags);
    put(&mut tcp, TCP_FLAGS_REPLY, &flags);
    put(&mut info, PROTOINFO_TCP | NESTED, &tcp);
    let mut message = named(zone, original);
    put(&mut message, PROTOINFO | NESTED, &info);
    message
}

/// Sets the seconds until it is forgotten.
pub(super) fn timeout<A: Addresses>(zone: u16, original: &Tuple<A>, seconds: u32) -> Vec<u8> {
    let mut message = named(zone, original);
    put(&mut message, TIMEOUT, &seconds.to_be_bytes());
    message
}

/// Names a connection, and none that has the same tuple later.
pub(super) fn exactly<A: Addresses>(zone: u16, original: &Tuple<A>, id: u32) -> Vec<u8> {
    let mut message = named(zone, original);
    put(&mut message, ID, &id.to_be_bytes());
    message
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn example<A: Addresses>(a: A, b: A, protocol: Protocol) -> Vec<u8> {
        let original = Tuple { source: a, destination: b, source_port: 54866, destination_port: 7000, protocol };
        let mut message = named(7, &original);
        put(&mut message, TUPLE_REPLY | NESTED, &written(&original.reversed()));
        put(&mut message, STATUS, &0x19e_u32.to_be_bytes());
        put(&mut message, MARK, &0x100_u32.to_be_bytes());
        put(&mut message, TIMEOUT, &432_000_u32.to_be_bytes());
        put(&mut message, ID, &0xdead_beef_u32.to_be_bytes());
        let (mut tcp, mut info) = (Vec::new(), Vec::new());
        put(&mut tcp, TCP_STATE, &[3]);
        put(&mut tcp, TCP_FLAGS_ORIGINAL, &[0x0b, 0]);
        put(&mut tcp, TCP_FLAGS_REPLY, &[0x2b, 0]);
        put(&mut info, PROTOINFO_TCP | NESTED, &tcp);
        put(&mut message, PROTOINFO | NESTED, &info);
        message
    }

    #[test]
    fn both_families_are_read() {
        let v4 = example(0xc612_0002_u32, 0xc612_0102, Protocol::Tcp);
        let Some(AnySeen::V4(seen)) = seen(&v4) else { panic!("IPv4 is read") };
        assert_eq!((seen.id, seen.zone, seen.mark, seen.timeout), (0xdead_beef, 7, Some(0x100), Some(432_000)));
        assert_eq!(seen.original.to_string(), "tcp 198.18.0.2:54866 > 198.18.1.2:7000");
        assert_eq!(seen.reply, seen.original.reversed());
        assert!(seen.tcp.is_some_and(|tcp| tcp.is_liberal() && tcp.state == 3), "{:?}", seen.tcp);
        assert_eq!(seen.status.words().collect::<Vec<_>>(), ["seen-reply", "assured", "snat"]);
        let v6 = example(1_u128 << 120, 2_u128 << 120, Protocol::Udp);
        assert!(matches!(super::seen(&v6), Some(AnySeen::V6(seen)) if seen.original.source == 1 << 120));
    }

    type Holds = fn(&Seen<u32>) -> bool;

    #[test]
    fn what_is_added_is_seen() {
        let base = example(1_u32, 2, Protocol::Tcp);
        let rows: [(u16, &[u8], Holds); 5] = [
            (HELP, &[], |seen| seen.status.contains(Status::HELPER)),
            (SEQ_ADJUST_REPLY, &[], |seen| seen.status.contains(Status::SEQ_ADJUST)),
            (SYNPROXY, &[], |seen| seen.synproxy),
            (STATUS, &0x4000_u32.to_be_bytes(), |seen| seen.status.contains(Status::OFFLOAD)),
            (MARK, &9_u32.to_be_bytes(), |seen| seen.mark == Some(9)),
        ];
        for (kind, value, holds) in rows {
            let mut message = base.clone();
            put(&mut message, kind, value);
            let Some(AnySeen::V4(seen)) = seen(&message) else { panic!("attribute {kind}") };
            assert!(holds(&seen), "attribute {kind}: {seen:?}");
        }
    }

    #[test]
    fn other_protocols_and_halves_are_none() {
        let whole = example(1_u32, 2, Protocol::Udp);
        for cut in 0..whole.len() {
            // A message that ends early has what it has: never a connection without tuples and number.
            if let Some(AnySeen::V4(seen)) = seen(&whole[..cut]) {
                assert_eq!((seen.original.source, seen.reply.source, seen.id), (1, 2, 0xdead_beef), "cut at {cut}");
            }
        }
        let mut icmp = whole.clone();
        let at = icmp.windows(5).position(|bytes| bytes == [5, 0, 1, 0, 17]).expect("the protocol");
        icmp[at + 4] = 1;
        assert_eq!(seen(&icmp), None);
        let mut family = whole;
        family[0] = 7;
        assert_eq!(seen(&family), None);
    }

    #[test]
    fn mutations_never_panic() {
        let mut random = fastrand::Rng::with_seed(21);
        let corpus = [example(1_u32, 2, Protocol::Tcp), example(1_u128, 2, Protocol::Udp)];
        for round in 0..200_000 {
            let mut message = corpus[round % 2].clone();
            for _ in 0..random.usize(1..8) {
                let at = random.usize(..message.len());
                match random.u8(..4) {
                    0 => message[at] = random.u8(..),
                    1 => message[at] ^= 1 << random.u8(..8),
                    2 => message.truncate(at.max(1)),
                    _ => message.insert(at, random.u8(..)),
                }
            }
            let _ = seen(&message);
        }
    }
}
