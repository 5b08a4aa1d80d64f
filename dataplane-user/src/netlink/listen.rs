//! Sockets of this network namespace that would take a packet (`/proc/net/tcp` and its like, proc(5)).

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// `TCP_LISTEN` (`include/net/tcp_states.h`).
const LISTEN: u8 = 0x0a;

/// Local addresses, and ports, of the sockets that would take a packet of this protocol (6: a new connection, 17) to an
/// address and port.
pub fn listeners(protocol: u8, address: IpAddr, port: u16) -> Vec<(IpAddr, u16)> {
    let name = match protocol {
        6 => "tcp",
        17 => "udp",
        136 => "udplite",
        _ => return Vec::new(),
    };
    let read = |name: &str| fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
    let six = read(&format!("{name}6"));
    let four = if address.is_ipv4() { read(name) } else { String::new() };
    let sockets = four.lines().chain(six.lines()).filter_map(|line| socket(line, protocol == 6));
    sockets.filter(|(local, at)| *at == port && takes(*local, address)).collect()
}

/// Whether a socket bound to an address takes packets to another. One of IPv6 that is bound to none takes IPv4, too, unless it
/// has an option that is not visible here.
fn takes(local: IpAddr, address: IpAddr) -> bool {
    let plain = match local {
        IpAddr::V6(local) => local.to_ipv4_mapped().map_or(IpAddr::V6(local), IpAddr::V4),
        local @ IpAddr::V4(_) => local,
    };
    plain == address || local.is_unspecified()
}

/// Address and port of the socket on a line; none where it is a TCP socket that does not listen.
fn socket(line: &str, listening: bool) -> Option<(IpAddr, u16)> {
    let mut words = line.split_whitespace().skip(1);
    let (address, port) = words.next()?.split_once(':')?;
    let state = u8::from_str_radix(words.nth(1)?, 16).ok()?;
    if listening && state != LISTEN {
        return None;
    }
    // Words of the address in the order of the host, as `%08X`.
    let mut bytes = Vec::new();
    for at in (0..address.len()).step_by(8) {
        bytes.extend(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    }
    let address = match bytes.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into(),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into(),
        _ => return None,
    };
    Some((address, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_read() {
        let rows = [
            ("   0: 0100007F:0016 00000000:0000 0A 00000000:00000000", true, Some(("127.0.0.1", 22))),
            ("   1: 0100007F:0016 0100007F:9C40 01 00000000:00000000", true, None),
            ("  11: 00000000:0035 00000000:0000 07 00000000:00000000", false, Some(("0.0.0.0", 53))),
            ("   0: B80D0120000000000000000001000000:01BB 0:0 0A 0", true, Some(("2001:db8::1", 443))),
            ("  sl  local_address rem_address   st tx_queue", true, None),
        ];
        for (line, listening, want) in rows {
            let want = want.map(|(address, port)| (address.parse().expect("an address"), port));
            assert_eq!(socket(line, listening), want, "{line}");
        }
    }

    #[test]
    fn what_takes_what() {
        let address = |text: &str| -> IpAddr { text.parse().expect("an address") };
        for (local, to, is) in [
            ("0.0.0.0", "192.0.2.1", true),
            ("::", "192.0.2.1", true),
            ("::", "2001:db8::1", true),
            ("192.0.2.1", "192.0.2.1", true),
            ("::ffff:192.0.2.1", "192.0.2.1", true),
            ("192.0.2.2", "192.0.2.1", false),
            ("2001:db8::2", "2001:db8::1", false),
        ] {
            assert_eq!(takes(address(local), address(to)), is, "{local} {to}");
        }
    }
}
