//! Reading the tables of settings: single values, within limits.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use toml_edit::{Item, TableLike};

use super::{
    super::{ConfigError, FibConfig, FlowsConfig, HeartbeatConfig, MetricsConfig, SflowConfig},
    File, entries,
};

/// No machine has more routes than this; the tables do not grow beyond what they need for them.
const ROUTES: u32 = 4_000_000;
/// Seconds without a daemon: below, its own pauses would count; above, a year, it may as well be for ever.
const ALONE: RangeInclusive<u32> = 3..=31_536_000;
/// Connections that may be carried at the driver: of the largest number the rows take 1 GB for IPv4 and 2 GB for IPv6.
const CONNECTIONS: RangeInclusive<u32> = 1..=4_000_000;
/// Seconds between two packets of a connection that pass the kernel.
const LEASE: RangeInclusive<u32> = 1..=3600;
/// One packet in so many is sampled: from each one to one in 2^24.
const SAMPLING: RangeInclusive<u32> = 1..=16_777_215;
/// Seconds between counters of ports: a day at most; 0 is never.
const POLLING: RangeInclusive<u32> = 0..=86_400;

impl File<'_> {
    pub(super) fn fib(&self, table: &dyn TableLike) -> Result<FibConfig, ConfigError> {
        let mut fib = FibConfig::default();
        for (key, item) in entries(table) {
            let place = match key.get() {
                "ipv4_routes" => &mut fib.ipv4_routes,
                "ipv6_routes" => &mut fib.ipv6_routes,
                _ => return Err(self.unknown(key, "ipv4_routes or ipv6_routes")),
            };
            *place = self.number(key, item, 0..=ROUTES)?;
        }
        Ok(fib)
    }

    pub(super) fn heartbeat(&self, table: &dyn TableLike) -> Result<HeartbeatConfig, ConfigError> {
        let mut heartbeat = HeartbeatConfig::default();
        for (key, item) in entries(table) {
            if key.get() != "after" {
                return Err(self.unknown(key, "after"));
            }
            let seconds = item.as_integer().and_then(|number| u32::try_from(number).ok());
            heartbeat.after = seconds.filter(|seconds| *seconds == 0 || ALONE.contains(seconds)).ok_or_else(|| {
                let message = format!(
                    "`after` must be a number of seconds from {} to {}, or 0 for never",
                    ALONE.start(),
                    ALONE.end()
                );
                self.error(item.span(), &message)
            })?;
        }
        Ok(heartbeat)
    }

    pub(super) fn metrics(&self, table: &dyn TableLike) -> Result<MetricsConfig, ConfigError> {
        let mut metrics = MetricsConfig::default();
        for (key, item) in entries(table) {
            if key.get() != "listen" {
                return Err(self.unknown(key, "listen"));
            }
            let address = item.as_str().and_then(|text| text.parse::<SocketAddr>().ok());
            metrics.listen = Some(address.filter(|address| address.port() != 0).ok_or_else(|| {
                let message =
                    "`listen` must be an address and a port in quotes, such as \"127.0.0.1:9464\" or \"[::1]:9464\"";
                self.error(item.span(), message)
            })?);
        }
        Ok(metrics)
    }

    pub(super) fn sflow(&self, table: &dyn TableLike) -> Result<SflowConfig, ConfigError> {
        let mut sflow = SflowConfig::default();
        for (key, item) in entries(table) {
            match key.get() {
                "collector" => sflow.collector = Some(self.collector(item)?),
                "agent" => sflow.agent = Some(self.agent(item)?),
                "rate" => sflow.rate = self.number(key, item, SAMPLING)?,
                "polling" => sflow.polling = self.number(key, item, POLLING)?,
                _ => return Err(self.unknown(key, "collector, agent, rate or polling")),
            }
        }
        if sflow.collector.is_none() && sflow != SflowConfig::default() {
            let said = "`[sflow]` needs `collector`, an address and a port in quotes, such as \"192.0.2.1:6343\"";
            let first = entries(table).next().and_then(|(key, _)| key.span());
            return Err(self.error(first, said));
        }
        Ok(sflow)
    }

    fn agent(&self, item: &Item) -> Result<IpAddr, ConfigError> {
        let address = item.as_str().and_then(|text| text.parse::<IpAddr>().ok());
        address.filter(|address| !address.is_unspecified()).ok_or_else(|| {
            let said = "`agent` must be an address of this machine in quotes, such as \"192.0.2.1\"";
            self.error(item.span(), said)
        })
    }

    fn collector(&self, item: &Item) -> Result<SocketAddr, ConfigError> {
        let address = item.as_str().and_then(|text| text.parse::<SocketAddr>().ok());
        address.filter(|address| address.port() != 0 && !address.ip().is_unspecified()).ok_or_else(|| {
            let said = "`collector` must be an address and a port in quotes, such as \"192.0.2.1:6343\" or \"[2001:db8::1]:6343\"";
            self.error(item.span(), said)
        })
    }

    pub(super) fn flows(&self, table: &dyn TableLike) -> Result<FlowsConfig, ConfigError> {
        let mut flows = FlowsConfig::default();
        for (key, item) in entries(table) {
            match key.get() {
                "netfilter" => flows.netfilter = self.word(key, item)?,
                "max" => flows.max = self.number(key, item, CONNECTIONS)?,
                "lease" => flows.lease = self.number(key, item, LEASE)?,
                "ignore" => flows.ignore = self.words(key, item)?.into_iter().collect(),
                _ => return Err(self.unknown(key, "netfilter, max, lease or ignore")),
            }
        }
        Ok(flows)
    }
}
