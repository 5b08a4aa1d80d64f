//! The only place with netlink: subscribe, dump, then follow the changes.
//!
//! Announcements arrive on sockets of their own and wait there while a dump is read on another, so none is lost in between; an
//! announcement that a dump already includes changes nothing. Routes are listed in pieces, while all else goes on;
//! announcements meanwhile are given twice, at once and behind the listing. Some changes the kernel does not announce at all
//! (IPv4 routes that fall or rise with a link, an address or a next-hop object: `fib_flush` and `fib_sync_up` in `net/ipv4`):
//! their causes make the routes stale, and stale tables are dumped again.

mod address;
mod announcement;
mod attribute;
mod base_chain;
mod bridge;
mod compare;
pub mod conntrack;
mod counter;
mod delivery;
mod device;
mod dump;
mod error;
pub mod ethtool;
mod expiry;
mod expression;
mod features;
mod gate;
mod hook;
mod ipsec;
mod layer3;
mod legacy;
mod legacy_rules;
mod link;
mod listing;
mod neighbour;
mod netconf;
mod netfilter;
mod nft;
mod own_table;
pub mod qdisc;
mod quiet;
mod raw_socket;
mod route;
mod route_get;
mod rule;
mod ruleset;
mod snapshot;
pub mod sock_diag;
mod socket;
mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitflags::bitflags;
use dataplane_common::abi::Ifindex;

use crate::flow::SetKey;
use crate::model::{Event, IpVersion, Link};
use announcement::{parse, unannounced, usable};
use compare::Comparison;
use dump::{both, is_foreign};
use expiry::Expiring;
use features::Devices;
use ipsec::Policies;
use listing::Reading;
use netfilter::NetfilterMonitor;
use quiet::Quiet;
use socket::{Listener, RecvResult, Requester};

pub use counter::{LinkCounters, link_counters};
pub use delivery::deliver;
pub use error::Error;
pub use gate::{Gate, GateRule};
pub use neighbour::Prober;
pub use own_table::{OwnElement, OwnTableSocket, own_counts, own_elements};
pub use route_get::{Path, path};

/// Kernel groups that we listen to: link, neighbours, IPv4 and IPv6 addresses, routes, rules and settings, next hops, tc.
const GROUPS: [u32; 12] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_NEIGH,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV6_RULE,
    libc::RTNLGRP_IPV4_NETCONF,
    libc::RTNLGRP_IPV6_NETCONF,
    libc::RTNLGRP_NEXTHOP,
    libc::RTNLGRP_TC,
];

/// How long routes are listed in one go: no request is answered meanwhile.
const SLICE: Duration = Duration::from_millis(4);

bitflags! {
    /// Kinds whose dump is due.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Stale: u16 {
        const LINKS = 1 << 0;
        const FEATURES = 1 << 1;
        const NETCONF = 1 << 2;
        const ADDRESSES = 1 << 3;
        const NEIGHBOURS = 1 << 4;
        const RULES = 1 << 5;
        const ROUTES4 = 1 << 6;
        const ROUTES6 = 1 << 7;
        const IPSEC = 1 << 8;
        const QDISCS = 1 << 9;
        const NETFILTER = 1 << 10;
        const FDB = 1 << 11;
        const ROUTES = Self::ROUTES4.bits() | Self::ROUTES6.bits();
    }
}

/// Follows the kernel's tables in one network namespace.
pub struct Mirror {
    listener: Listener,
    requester: Requester,
    reading: Option<Reading>,
    comparison: Comparison,
    devices: Option<Devices>,
    netfilter: NetfilterMonitor,
    stale: Stale,
    /// Announcements were lost, and not all of those before them are read.
    overrun: bool,
    pending: Vec<Event>,
    /// The flags that decide about routes, of every link.
    usable: BTreeMap<Ifindex, u32>,
    quiet: Quiet,
    policies: Policies,
    expiring: Expiring,
    /// Where the kernel does not report the features of drivers: all links, from which they are assumed.
    links: BTreeMap<Ifindex, Link>,
}

impl Mirror {
    /// Opens the sockets in the caller's network namespace, within a tokio runtime, and subscribes.
    pub fn open() -> Result<Self, Error> {
        let devices = Devices::open()?;
        if devices.is_none() {
            tracing::warn!(
                "this kernel does not report which devices XDP may send to (Linux 6.3 and later do): only hardware with native XDP \
                 attached and a known driver, and a veth whose peer in this namespace has XDP, are sent to; tc serves the rest"
            );
        }
        Ok(Self {
            listener: Listener::open(libc::NETLINK_ROUTE as isize, &GROUPS)?,
            requester: Requester::open(libc::NETLINK_ROUTE as isize)?,
            reading: None,
            comparison: Comparison::default(),
            devices,
            netfilter: NetfilterMonitor::open(),
            stale: Stale::all(),
            overrun: false,
            pending: Vec::new(),
            usable: BTreeMap::new(),
            quiet: Quiet::new(),
            policies: Policies::open(),
            expiring: Expiring::default(),
            links: BTreeMap::new(),
        })
    }

    /// The events since the last call; waits for one. A snapshot of each kind comes first, and again after the kernel lost
    /// announcements. Routes are listed in pieces, so a call may give nothing yet. May be dropped while waiting; after an error
    /// it may be called again.
    pub async fn next(&mut self) -> Result<Vec<Event>, Error> {
        if self.is_settled() && !self.comparison.is_due() {
            while self.stale.is_empty() && self.pending.is_empty() && self.due() > Instant::now() {
                self.listen().await?;
            }
        } else {
            // Others may have their turn between two pieces.
            tokio::task::yield_now().await;
        }
        self.advance(SLICE)
    }

    /// What happened so far, without waiting: takes in what was announced, and lists what is stale for as long as `time`
    /// allows.
    pub fn advance(&mut self, time: Duration) -> Result<Vec<Event>, Error> {
        let end = Instant::now() + time;
        let all = self.drain(end)?;
        self.overrun &= !all;
        // Behind an overrun the announcements that are still to be read are older than any list, and those that would set
        // them right are lost: a list must not come before them.
        if !self.overrun {
            if all {
                self.begin_comparison();
            }
            self.refresh(end)?;
            self.look()?;
            self.expire()?;
        }
        if self.devices.is_none() {
            self.suppose();
        }
        Ok(mem::take(&mut self.pending))
    }

    /// Whether everything has been listed. Until then the kernel has more than was given.
    pub fn is_settled(&self) -> bool {
        self.stale.is_empty() && self.reading.is_none()
    }

    /// How many routes of the listing at hand are read, IPv4 and IPv6.
    pub fn read_so_far(&self) -> (usize, usize) {
        match &self.reading {
            Some(reading) if reading.version() == IpVersion::V4 => (reading.len(), 0),
            Some(reading) => (0, reading.len()),
            None => (0, 0),
        }
    }

    /// Our own programs came or went. Kernels that report the features of drivers announce that too; from others they must be
    /// requested.
    pub fn programs_changed(&mut self) {
        if self.devices.is_none() {
            self.mark_stale(Stale::LINKS);
        }
    }

    /// Makes the next [`Mirror::next`] list everything again.
    pub fn resync(&mut self) {
        self.mark_stale(Stale::all());
    }

    /// These have to be listed: what is known of them may be old.
    fn mark_stale(&mut self, kinds: Stale) {
        self.stale |= kinds;
        self.comparison.skip(kinds);
    }

    /// The generation of nftables' rules that was given last, and the sets by whose elements they decide.
    pub fn netfilter_surveyed(&self) -> Option<(u32, Arc<BTreeSet<SetKey>>)> {
        self.netfilter.surveyed()
    }

    /// The socket that writes the table of own rules.
    pub fn set_table_port(&mut self, own: Option<u32>) {
        self.netfilter.set_table_port(own);
    }

    /// Whether another one changed that table since this was called last.
    pub fn take_tampered(&mut self) -> bool {
        self.netfilter.take_tampered()
    }

    /// Checks whether something was hooked into netfilter that the kernel does not announce.
    pub fn look_at_netfilter(&mut self) {
        self.netfilter.look();
    }

    /// The time of the next request without an announcement.
    fn due(&self) -> Instant {
        let others = [self.expiring.due(), self.netfilter.due()];
        others.into_iter().flatten().fold(self.quiet.due(), Instant::min)
    }

    /// Waits for one datagram on any socket, or until something is due.
    async fn listen(&mut self) -> Result<(), Error> {
        let due = self.due();
        let devices = async {
            match &mut self.devices {
                Some(devices) => devices.listener.wait().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            heard = self.listener.wait() => {
                let heard = heard?;
                self.take_rtnetlink(&heard);
            }
            heard = devices => {
                let heard = heard?;
                self.take_features(&heard);
            }
            heard = self.policies.wait() => {
                let heard = heard?;
                self.take_policies(&heard);
            }
            heard = self.netfilter.wait() => heard?,
            () = tokio::time::sleep_until(due.into()) => {}
        }
        Ok(())
    }

    /// Reads what is there already, so that a burst becomes one batch. Says whether that was all.
    fn drain(&mut self, end: Instant) -> Result<bool, Error> {
        let mut all = true;
        loop {
            let heard = self.listener.poll()?;
            if matches!(heard, RecvResult::Nothing) {
                break;
            }
            self.take_rtnetlink(&heard);
            if Instant::now() >= end {
                all = false;
                break;
            }
        }
        while let Some(devices) = &mut self.devices {
            let heard = devices.listener.poll()?;
            if matches!(heard, RecvResult::Nothing) {
                break;
            }
            self.take_features(&heard);
        }
        self.drain_policies()?;
        if self.netfilter.is_due()? {
            self.mark_stale(Stale::NETFILTER);
        }
        Ok(all)
    }

    fn take_rtnetlink(&mut self, heard: &RecvResult) {
        match heard {
            RecvResult::Nothing => {}
            RecvResult::Overrun => {
                self.mark_stale(Stale::all() - Stale::FEATURES - Stale::IPSEC - Stale::NETFILTER);
                self.overrun = true;
                self.reading = None;
            }
            RecvResult::Datagram => {
                let mut doubtful = Stale::empty();
                for message in self.listener.messages() {
                    doubtful |= unannounced(&message, &mut self.usable);
                    self.expiring.note(message.kind, message.payload);
                    let Some(event) = parse(&message) else { continue };
                    self.quiet.hint(&message, &event);
                    if self.reading.as_mut().is_some_and(|reading| !reading.hold(&event)) {
                        doubtful |= self.reading.take().map_or(Stale::empty(), |reading| reading.stale());
                    }
                    self.pending.push(event);
                }
                self.mark_stale(doubtful);
            }
        }
    }

    fn take_features(&mut self, heard: &RecvResult) {
        let Some(devices) = &self.devices else { return };
        match heard {
            RecvResult::Nothing => {}
            RecvResult::Overrun => self.mark_stale(Stale::FEATURES),
            RecvResult::Datagram => {
                let ours = devices.listener.messages().filter(|message| message.kind == devices.family.id);
                self.pending.extend(ours.filter_map(|message| device::parse(message.payload)));
            }
        }
    }

    /// Lists again what is stale, routes last and until `end`. What was listed before an error stays listed.
    fn refresh(&mut self, end: Instant) -> Result<(), Error> {
        for kind in (self.stale - Stale::ROUTES).iter() {
            let snapshot = self.list(kind)?;
            self.stale -= kind;
            self.tell(kind, snapshot)?;
        }
        loop {
            let mut reading = match self.reading.take() {
                Some(reading) => reading,
                None if self.stale.contains(Stale::ROUTES4) => self.begin(IpVersion::V4)?,
                None if self.stale.contains(Stale::ROUTES6) => self.begin(IpVersion::V6)?,
                None => return Ok(()),
            };
            match reading.read(end, &mut self.expiring) {
                Ok(true) => self.tell_routes(reading)?,
                Ok(false) => self.reading = Some(reading),
                Err(error) => {
                    self.stale |= reading.stale();
                    return Err(error);
                }
            }
            if Instant::now() >= end {
                return Ok(());
            }
        }
    }

    /// Begins to list routes. They are listed without the lock under which links and addresses change, so whatever made
    /// them stale must be over first.
    fn begin(&mut self, version: IpVersion) -> Result<Reading, Error> {
        self.wait_for_changes()?;
        let reading = Reading::begin(version)?;
        // What becomes stale from here on is listed once more.
        self.stale -= reading.stale();
        Ok(reading)
    }

    /// The list of links takes the lock under which links, addresses and IPv4 routes change: what has begun is over, and
    /// announced, when it returns.
    fn wait_for_changes(&mut self) -> Result<(), Error> {
        self.requester.dump("links", libc::RTM_GETLINK, &[0; link::HEADER], |_| None::<()>).map(drop)
    }
}
