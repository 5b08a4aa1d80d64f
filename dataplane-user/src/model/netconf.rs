//! Per-interface settings that decide what is forwarded.

use dataplane_common::abi::Ifindex;

use super::IpVersion;

/// Settings of `net.ipv4.conf.*` or `net.ipv6.conf.*`; `None` is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Netconf {
    /// Of which family.
    pub version: IpVersion,
    /// Of what.
    pub scope: NetconfScope,
    /// `forwarding`.
    pub forwarding: Option<bool>,
    /// `rp_filter`: 0, 1 (strict) or 2 (loose). IPv4 only.
    pub rp_filter: Option<u8>,
    /// `force_forwarding` (IPv6, kernel 6.17 and later): forward although `all.forwarding` is off.
    pub force_forwarding: Option<bool>,
    /// `proxy_ndp`. IPv6 only.
    pub proxy_ndp: Option<bool>,
}

impl Netconf {
    /// Takes over what `newer` says.
    pub fn merge(&mut self, newer: &Self) {
        self.forwarding = newer.forwarding.or(self.forwarding);
        self.rp_filter = newer.rp_filter.or(self.rp_filter);
        self.proxy_ndp = newer.proxy_ndp.or(self.proxy_ndp);
        self.force_forwarding = newer.force_forwarding.or(self.force_forwarding);
    }
}

/// Which `conf` directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NetconfScope {
    /// `all`.
    All,
    /// `default`: what new interfaces begin with.
    Default,
    /// One interface.
    Interface(Ifindex),
}
