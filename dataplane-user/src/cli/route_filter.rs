//! The words of `route list`, as `ip route list` has them.

use std::net::IpAddr;

use super::iface;
use crate::{
    control::row::RouteRow,
    model::{PROTOCOLS, protocol_name},
};

/// What `route list` may be followed by.
pub(super) const GRAMMAR: &str = "[PREFIX | default | root PREFIX | match ADDR] [dev IFACE] [via ADDR] [proto PROTOCOL] [table main|default|N] [type TYPE]";

/// Names of tables (`/etc/iproute2/rt_tables`).
const TABLES: [(&str, u32); 3] = [("default", 253), ("main", 254), ("local", 255)];
/// An address and how many of its bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    bits: u128,
    length: u32,
    v4: bool,
}

impl Network {
    /// A prefix as routes have it; an address stands for itself alone.
    fn read(text: &str) -> Option<Self> {
        let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
        let address: IpAddr = address.parse().ok()?;
        let (width, bits) = match address {
            IpAddr::V4(address) => (32, u128::from(address.to_bits()) << 96),
            IpAddr::V6(address) => (128, address.to_bits()),
        };
        let length = length.map_or(Some(width), |length| length.parse().ok().filter(|length| *length <= width))?;
        Some(Self { bits, length, v4: address.is_ipv4() })
    }

    fn contains(&self, other: &Self) -> bool {
        let mask = u128::MAX.checked_shl(128 - self.length).unwrap_or(0);
        self.v4 == other.v4 && self.length <= other.length && (self.bits ^ other.bits) & mask == 0
    }
}

/// Which routes are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RouteFilter {
    /// The route to this prefix, in canonical form; `default` is that of both families.
    pub(super) exact: Option<String>,
    /// Of this table; tables main and default, where none is named.
    pub(super) table: Option<u32>,
    /// Of one family only.
    v4: Option<bool>,
    default: bool,
    root: Option<Network>,
    covers: Option<Network>,
    dev: Option<String>,
    via: Option<IpAddr>,
    protocol: Option<String>,
    kind: Option<String>,
}

impl RouteFilter {
    /// Reads the words; `prefix` reads one that stands alone.
    pub(super) fn read(
        words: &[String],
        v4: Option<bool>,
        prefix: impl Fn(&str) -> Result<String, String>,
    ) -> Result<Self, String> {
        let mut filter = Self { v4, ..Self::default() };
        let mut seen: Vec<&str> = Vec::new();
        let mut rest = words.iter().map(String::as_str);
        while let Some(word) = rest.next() {
            if seen.contains(&word) {
                return Err(format!("`{word}` is given twice"));
            }
            seen.push(word);
            let mut value =
                || rest.next().ok_or_else(|| format!("`{word}` needs a value after it; the grammar is: {GRAMMAR}"));
            let network = |text: &str| {
                Network::read(text)
                    .ok_or_else(|| format!("`{text}` after `{word}` is no address or prefix, such as 198.18.0.0/15"))
            };
            match word {
                "default" => filter.default = true,
                "exact" | "to" => filter.exact = Some(prefix(value()?)?),
                "root" => filter.root = Some(network(value()?)?),
                "match" => filter.covers = Some(network(value()?)?),
                "dev" => {
                    let name = value()?;
                    filter.dev = Some(iface(name).map_err(|error| format!("`{name}` after `dev`: {error}"))?);
                }
                "via" => {
                    let text = value()?;
                    filter.via = Some(text.parse().map_err(|_| format!("`{text}` after `via` is not an address"))?);
                }
                "proto" | "protocol" => filter.protocol = Some(protocol(value()?)?),
                "table" => filter.table = Some(table(value()?)?),
                "type" => filter.kind = Some(value()?.to_owned()),
                text if filter.exact.is_none() && !text.is_empty() => {
                    filter.exact =
                        Some(prefix(text).map_err(|error| format!("`{text}`: {error}; the grammar is: {GRAMMAR}"))?);
                }
                text => return Err(format!("`{text}` is one too many; the grammar is: {GRAMMAR}")),
            }
        }
        Ok(filter)
    }

    /// Whether a route is listed.
    pub(super) fn fits(&self, row: &RouteRow) -> bool {
        let Some(network) = Network::read(&row.dst) else { return false };
        let hops = &row.nexthops;
        self.v4.is_none_or(|v4| v4 == network.v4)
            && (!self.default || network.length == 0)
            && self.root.is_none_or(|root| root.contains(&network))
            && self.covers.is_none_or(|inner| network.contains(&inner))
            && self.dev.as_ref().is_none_or(|dev| hops.iter().any(|hop| hop.dev.as_ref() == Some(dev)))
            && self.via.is_none_or(|via| hops.iter().any(|hop| hop.via == Some(via)))
            && self.protocol.as_ref().is_none_or(|protocol| *protocol == row.protocol)
            && self.kind.as_ref().is_none_or(|kind| *kind == row.kind)
    }
}

fn protocol(text: &str) -> Result<String, String> {
    let number = text.parse::<u8>().ok().map(protocol_name);
    let name = PROTOCOLS.iter().find(|(name, _)| *name == text).map(|(name, _)| (*name).to_owned());
    number.or(name).ok_or_else(|| {
        let names: Vec<_> = PROTOCOLS.iter().map(|(name, _)| *name).collect();
        format!("`{text}` after `proto` is not known; take a number from 0 to 255, or {}", names.join(", "))
    })
}

fn table(text: &str) -> Result<u32, String> {
    let named = TABLES.iter().find(|(name, _)| *name == text).map(|(_, number)| *number);
    named
        .or_else(|| text.parse().ok().filter(|number| *number > 0))
        .ok_or_else(|| format!("`{text}` after `table` is not known; take main, default, local or a number"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::row::NextHopRow;

    fn read(words: &str) -> Result<RouteFilter, String> {
        let words: Vec<_> = words.split_whitespace().map(str::to_owned).collect();
        RouteFilter::read(&words, None, |text| {
            Network::read(text).map(|_| text.to_owned()).ok_or_else(|| "expected ADDR or ADDR/LEN".to_owned())
        })
    }

    fn row(dst: &str, via: Option<&str>, dev: &str, protocol: &str) -> RouteRow {
        let via = via.map(|via| via.parse().expect("an address"));
        RouteRow {
            dst: dst.to_owned(),
            kind: "unicast".to_owned(),
            nexthops: vec![NextHopRow { via, dev: Some(dev.to_owned()), weight: 1 }],
            mtu: None,
            packets: None,
            protocol: protocol.to_owned(),
            metric: 0,
            table: 254,
        }
    }

    #[test]
    fn words_choose_routes() {
        let rows = [
            row("0.0.0.0/0", Some("192.0.2.1"), "eth0", "static"),
            row("198.18.0.0/15", None, "eth1", "kernel"),
            row("198.18.7.0/24", Some("198.18.0.9"), "eth1", "bgp"),
            row("2001:db8::/32", Some("fe80::1"), "eth0", "bgp"),
            row("::/0", Some("fe80::1"), "eth0", "ra"),
        ];
        for (words, want) in [
            ("", &[0, 1, 2, 3, 4][..]),
            ("default", &[0, 4]),
            ("dev eth1", &[1, 2]),
            ("via fe80::1 proto bgp", &[3]),
            ("proto 186", &[2, 3]),
            ("match 198.18.7.1", &[0, 1, 2]),
            ("match 2001:db8::1", &[3, 4]),
            ("root 198.18.0.0/15", &[1, 2]),
            ("root 198.18.0.0/15 via 198.18.0.9", &[2]),
            ("type blackhole", &[]),
        ] {
            let filter = read(words).expect(words);
            let found: Vec<_> = (0..rows.len()).filter(|index| filter.fits(&rows[*index])).collect();
            assert_eq!(found, want, "{words}");
        }
        let six = RouteFilter { v4: Some(false), ..RouteFilter::default() };
        assert_eq!(rows.iter().filter(|row| six.fits(row)).count(), 2);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (words, said) in [
            ("dev", "needs a value"),
            ("dev eth0 dev eth1", "twice"),
            ("via eth0", "`eth0` after `via` is not an address"),
            ("proto ospff", "such as ospf"),
            ("table mains", "take main"),
            ("match 10", "`10` after `match` is no address or prefix"),
            ("eth0", "the grammar is"),
            ("198.18.0.0/15 192.0.2.1", "one too many"),
        ] {
            let error = read(words).expect_err(words);
            let known = if said == "such as ospf" { "ospf" } else { said };
            assert!(error.contains(known), "{words}: {error}");
        }
        assert_eq!(
            (read("table main").map(|filter| filter.table), read("table 7").map(|filter| filter.table)),
            (Ok(Some(254)), Ok(Some(7)))
        );
    }
}
