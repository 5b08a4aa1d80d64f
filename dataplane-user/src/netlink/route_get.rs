//! `RTM_GETROUTE` for one packet, as `ip route get`.

use std::{io, net::IpAddr};

use dataplane_common::{Reason, abi::Ifindex};

use super::{
    Error,
    attribute::{Attributes, ip, put, u8_at, u32_at},
    route::{HEADER, RTA_DST, RTA_GATEWAY, RTA_OIF, RTA_SRC, RTA_VIA, via},
    socket::Requester,
};
use crate::model::{Family, RouteType};

/// The link that a packet comes in through.
const RTA_IIF: u16 = 3;

/// Where the kernel would send a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Of the route.
    pub kind: RouteType,
    /// The way out.
    pub dev: Ifindex,
    /// The gateway, of either family; `None` on the link.
    pub via: Option<IpAddr>,
}

/// Looks up in the kernel where a packet to `dst` goes, by all its rules and tables: one of this machine's own, or one with
/// this source that came in through a link. A route that ends a packet is returned as its reason.
///
/// # Errors
/// The request failed, or its answer could not be read.
pub fn path(dst: IpAddr, from: Option<(IpAddr, Option<Ifindex>)>) -> Result<Result<Path, Reason>, Error> {
    let mut requester = Requester::open(libc::NETLINK_ROUTE as isize)?;
    let found = match requester.get("route", libc::RTM_GETROUTE, &request(dst, from), |message| parse(message.payload))
    {
        Err(Error::Refused { source, what }) => {
            return refusal(&source).map(Err).ok_or(Error::Refused { what, source });
        }
        other => other?,
    };
    Ok(found.ok_or(Reason::NoRoute))
}

fn request(dst: IpAddr, from: Option<(IpAddr, Option<Ifindex>)>) -> Vec<u8> {
    let mut request = vec![0; HEADER];
    let bits = if dst.is_ipv4() { u32::BITS } else { u128::BITS } as u8;
    request[0] = if dst.is_ipv4() { u32::NUMBER } else { u128::NUMBER };
    request[1] = bits;
    request[2] = if from.is_some() { bits } else { 0 };
    put_address(&mut request, RTA_DST, dst);
    if let Some((source, iif)) = from {
        put_address(&mut request, RTA_SRC, source);
        if let Some(iif) = iif {
            put(&mut request, RTA_IIF, &iif.to_ne_bytes());
        }
    }
    request
}

fn put_address(request: &mut Vec<u8>, kind: u16, address: IpAddr) {
    match address {
        IpAddr::V4(address) => put(request, kind, &address.octets()),
        IpAddr::V6(address) => put(request, kind, &address.octets()),
    }
}

fn parse(payload: &[u8]) -> Option<Path> {
    let mut path = Path { kind: u8_at(payload, 7)?.into(), dev: 0, via: None };
    for (kind, value) in Attributes::behind(payload, HEADER) {
        match kind {
            RTA_OIF => path.dev = u32_at(value, 0)?,
            RTA_GATEWAY => path.via = ip(value),
            RTA_VIA => path.via = via(value),
            _ => {}
        }
    }
    Some(path)
}

/// What the kernel's refusal means: `fib_props` in `net/ipv4/fib_semantics.c`, and the actions of rules.
fn refusal(error: &io::Error) -> Option<Reason> {
    match error.raw_os_error()? {
        libc::EHOSTUNREACH => Some(Reason::Unreachable),
        libc::ENETUNREACH => Some(Reason::NoRoute),
        libc::EACCES => Some(Reason::Prohibit),
        libc::EINVAL => Some(Reason::Blackhole),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_reasons() {
        let rows = [
            (libc::EHOSTUNREACH, Some(Reason::Unreachable)),
            (libc::ENETUNREACH, Some(Reason::NoRoute)),
            (libc::EACCES, Some(Reason::Prohibit)),
            (libc::EINVAL, Some(Reason::Blackhole)),
            (libc::ENODEV, None),
        ];
        for (error, reason) in rows {
            assert_eq!(refusal(&io::Error::from_raw_os_error(error)), reason, "{error}");
        }
    }

    #[test]
    fn an_address_of_this_machine_is_local() {
        for address in ["127.0.0.1", "::1"] {
            let path = path(address.parse().expect("an address"), None).expect("the kernel answers");
            assert_eq!(path.map(|path| path.kind), Ok(RouteType::Local), "{address}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_nothing() {
        assert_eq!(parse(&[2, 0, 0]), None);
        let mut message = vec![0; HEADER];
        put(&mut message, RTA_OIF, &[1]);
        assert_eq!(parse(&message), None);
    }
}
