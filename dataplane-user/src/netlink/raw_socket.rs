//! Raw sockets of this network namespace (`/proc/net/raw` and `raw6`, proc(5)): many kernels are built without
//! `CONFIG_INET_RAW_DIAG`, and then list them nowhere else.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use crate::model::OpenSocket;

/// All raw sockets.
pub(super) fn raw_sockets() -> Vec<OpenSocket> {
    let read = |name: &str| fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
    let both = [read("raw"), read("raw6")];
    both.iter().flat_map(|text| text.lines()).filter_map(raw_socket).collect()
}

/// The socket on a line; none on the heading. What stands for the port is the protocol.
fn raw_socket(line: &str) -> Option<OpenSocket> {
    let words: Vec<_> = line.split_whitespace().collect();
    let (address, protocol) = words.get(1)?.split_once(':')?;
    let number = |word: usize| words.get(word)?.parse().ok();
    Some(OpenSocket {
        protocol: u8::from_str_radix(protocol, 16).ok()?,
        raw: true,
        local: SocketAddr::new(address_of(address)?, 0),
        peer: words.get(2)?.split_once(':').and_then(|(peer, _)| address_of(peer)).and_then(connected),
        device: 0,
        state: u8::from_str_radix(words.get(3)?, 16).ok()?,
        only_ipv6: address.len() > 8,
        transparent: false,
        uid: number(7)?,
        cookie: 0,
        inode: number(9)?,
    })
}

fn connected(peer: IpAddr) -> Option<SocketAddr> {
    (!peer.is_unspecified()).then_some(SocketAddr::new(peer, 0))
}

/// Words of the address in the order of the host, as `%08X`.
fn address_of(text: &str) -> Option<IpAddr> {
    let mut bytes = Vec::new();
    for at in (0..text.len()).step_by(8) {
        bytes.extend(u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    }
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let tail = "00000000:00000000 00:00000000 00000000  1000        0 4711 2 0000000000000000 0";
        let rows = [
            (format!("   1: 00000000:0001 00000000:0000 07 {tail}"), Some(("0.0.0.0", 1, None))),
            (format!("  89: 0100007F:0059 0200007F:0000 01 {tail}"), Some(("127.0.0.1", 89, Some("127.0.0.2")))),
            (
                format!("  58: B80D0120000000000000000001000000:003A 00000000000000000000000000000000:0000 07 {tail}"),
                Some(("2001:db8::1", 58, None)),
            ),
            ("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid".to_owned(), None),
            ("   1: 00000000:0001 00000000:0000 07".to_owned(), None),
            (format!("   1: 0000:0001 00000000:0000 07 {tail}"), None),
        ];
        for (line, want) in rows {
            let found = raw_socket(&line);
            let end = |socket: &OpenSocket| (socket.local.ip(), socket.protocol, socket.peer.map(|peer| peer.ip()));
            let address = |text: &str| -> IpAddr { text.parse().expect("an address") };
            let want = want.map(|(local, protocol, peer)| (address(local), protocol, peer.map(address)));
            assert_eq!(found.as_ref().map(end), want, "{line}");
            assert!(found.is_none_or(|socket| (socket.uid, socket.inode) == (1000, 4711)), "{line}");
        }
    }
}
