//! The only place with netlink: subscribe, dump, then follow the changes.
//!
//! Announcements arrive on sockets of their own and wait there while a dump is read on another, so none is lost in between;
//! taking in again what a dump already said changes nothing. Routes are listed in pieces, while all else goes on; what is
//! announced meanwhile is said twice, at once and behind the listing. Some changes the kernel does not announce at all (IPv4 routes
//! that fall or rise with a link, an address or a next-hop object: `fib_flush` and `fib_sync_up` in `net/ipv4`): what causes them makes
//! the routes stale, and stale tables are dumped again.

mod address;
mod attribute;
mod device;
mod link;
mod listing;
mod neighbour;
mod netconf;
pub mod netfilter;
mod route;
mod rule;
mod socket;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use std::{io, mem};

use bitflags::bitflags;
use dataplane_common::abi::Ifindex;

use crate::model::{Event, Family, IpVersion, Snapshot};
use attribute::{u8_at, u32_at};
use device::GenericFamily;
use listing::Reading;
use socket::{Asker, Heard, Listener, Message};

/// Kernel groups that we listen to: link, neighbours, IPv4 and IPv6 addresses, routes, rules and settings, next hops.
const GROUPS: [u32; 11] = [
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
];

/// How long routes are listed in one go: nobody else is answered meanwhile.
const SLICE: Duration = Duration::from_millis(4);

/// A next-hop object changed (`include/uapi/linux/rtnetlink.h`).
const RTM_NEWNEXTHOP: u16 = 104;
/// A next-hop object is gone.
const RTM_DELNEXTHOP: u16 = 105;

/// Why the mirror does not know what the kernel has.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket.
    #[error("can not open a netlink socket: {0}; raise the limit of open files, or allow AF_NETLINK to this service")]
    Open(#[source] io::Error),
    /// No announcements.
    #[error("can not listen to netlink group {group}: {source}; the kernel needs it for the mirror")]
    Subscribe {
        /// The group.
        group: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// A question was not taken.
    #[error("can not ask the kernel for its {what}: {source}; try again")]
    Ask {
        /// Of what kind.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A question was refused.
    #[error("the kernel refuses to list its {what}: {source}; check that this kernel was built with it")]
    Refused {
        /// Of what kind.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A read failed.
    #[error("can not read from netlink: {0}; restart the daemon if this goes on")]
    Receive(#[source] io::Error),
    /// Something changed during each of many attempts to list it.
    #[error("the kernel's {what} changed during each of {attempts} attempts to list them; try again when it is calmer")]
    Unsettled {
        /// Of what kind.
        what: &'static str,
        /// How often it was tried.
        attempts: u32,
    },
}

impl Error {
    fn open(source: io::Error) -> Self {
        Self::Open(source)
    }
}

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
        const ROUTES = Self::ROUTES4.bits() | Self::ROUTES6.bits();
    }
}

/// Sockets for generic netlink, where the kernel has the family (6.3 and later).
struct Devices {
    family: GenericFamily,
    listener: Listener,
    asker: Asker,
}

/// Follows the kernel's tables in one network namespace.
pub struct Mirror {
    listener: Listener,
    asker: Asker,
    reading: Option<Reading>,
    devices: Option<Devices>,
    stale: Stale,
    pending: Vec<Event>,
    /// The flags that decide about routes, of every link.
    usable: BTreeMap<Ifindex, u32>,
}

impl Mirror {
    /// Opens the sockets in the caller's network namespace, within a tokio runtime, and subscribes.
    pub fn open() -> Result<Self, Error> {
        Ok(Self {
            listener: Listener::open(libc::NETLINK_ROUTE as isize, &GROUPS)?,
            asker: Asker::open(libc::NETLINK_ROUTE as isize)?,
            reading: None,
            devices: Devices::open()?,
            stale: Stale::all(),
            pending: Vec::new(),
            usable: BTreeMap::new(),
        })
    }

    /// What happened since the last call; waits for something to happen. A snapshot of each kind comes first, and again
    /// after the kernel could not tell everything. Routes are listed in pieces, so a call may give nothing yet. May be
    /// dropped while waiting; after an error it may be called again.
    pub async fn next(&mut self) -> Result<Vec<Event>, Error> {
        if self.is_settled() {
            while self.stale.is_empty() && self.pending.is_empty() {
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
        self.drain(end)?;
        self.refresh(end)?;
        Ok(mem::take(&mut self.pending))
    }

    /// Whether everything has been listed. Until then the kernel has more than was told.
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

    /// Makes the next [`Mirror::next`] list everything again, for a comparison now and then.
    pub fn resync(&mut self) {
        self.stale = Stale::all();
    }

    /// Waits for one datagram on either socket.
    async fn listen(&mut self) -> Result<(), Error> {
        let Some(devices) = &mut self.devices else {
            let heard = self.listener.wait().await?;
            self.take_rtnetlink(&heard);
            return Ok(());
        };
        tokio::select! {
            heard = self.listener.wait() => {
                let heard = heard?;
                self.take_rtnetlink(&heard);
            }
            heard = devices.listener.wait() => {
                let heard = heard?;
                self.take_features(&heard);
            }
        }
        Ok(())
    }

    /// Reads what is there already, so that a burst becomes one batch.
    fn drain(&mut self, end: Instant) -> Result<(), Error> {
        loop {
            let heard = self.listener.poll()?;
            if matches!(heard, Heard::Nothing) {
                break;
            }
            self.take_rtnetlink(&heard);
            if Instant::now() >= end {
                break;
            }
        }
        while let Some(devices) = &mut self.devices {
            let heard = devices.listener.poll()?;
            if matches!(heard, Heard::Nothing) {
                break;
            }
            self.take_features(&heard);
        }
        Ok(())
    }

    fn take_rtnetlink(&mut self, heard: &Heard) {
        match heard {
            Heard::Nothing => {}
            Heard::Overrun => {
                self.stale |= Stale::all() - Stale::FEATURES;
                self.reading = None;
            }
            Heard::Datagram => {
                for message in self.listener.messages() {
                    self.stale |= unannounced(&message, &mut self.usable);
                    let Some(event) = parse(&message) else { continue };
                    if self.reading.as_mut().is_some_and(|reading| !reading.hold(&event)) {
                        self.stale |= self.reading.take().map_or(Stale::empty(), |reading| reading.stale());
                    }
                    self.pending.push(event);
                }
            }
        }
    }

    fn take_features(&mut self, heard: &Heard) {
        let Some(devices) = &self.devices else { return };
        match heard {
            Heard::Nothing => {}
            Heard::Overrun => self.stale |= Stale::FEATURES,
            Heard::Datagram => {
                let ours = devices.listener.messages().filter(|message| message.kind == devices.family.id);
                self.pending.extend(ours.filter_map(|message| device::parse(message.payload)));
            }
        }
    }

    /// Lists again what is stale, routes last and until `end`. What was listed before an error stays listed.
    fn refresh(&mut self, end: Instant) -> Result<(), Error> {
        for kind in (self.stale - Stale::ROUTES).iter() {
            let snapshot = self.list(kind)?;
            self.pending.extend(snapshot.map(Event::Snapshot));
            self.stale -= kind;
        }
        loop {
            let mut reading = match self.reading.take() {
                Some(reading) => reading,
                None if self.stale.contains(Stale::ROUTES4) => self.begin(IpVersion::V4)?,
                None if self.stale.contains(Stale::ROUTES6) => self.begin(IpVersion::V6)?,
                None => return Ok(()),
            };
            // What becomes stale from here on is listed once more.
            self.stale -= reading.stale();
            match reading.read(end) {
                Ok(true) => self.pending.extend(reading.finish()),
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

    /// Begins to list routes. They are listed without the lock under which links and addresses change. The list of links
    /// takes that lock, so whatever made the routes stale is over when it returns.
    fn begin(&mut self, version: IpVersion) -> Result<Reading, Error> {
        self.asker.dump("links", libc::RTM_GETLINK, &[0; link::HEADER], |_| None::<()>)?;
        Reading::begin(version)
    }

    fn list(&mut self, kind: Stale) -> Result<Option<Snapshot>, Error> {
        let asker = &mut self.asker;
        Ok(Some(match kind {
            Stale::LINKS => {
                let found = asker.dump("links", libc::RTM_GETLINK, &[0; link::HEADER], |message| {
                    Some((link::parse(message.payload)?, usable(message.payload)))
                })?;
                self.usable = found.iter().map(|(link, flags)| (link.ifindex, *flags)).collect();
                Snapshot::Links(found.into_iter().map(|(link, _)| link).collect())
            }
            Stale::FEATURES => match &mut self.devices {
                Some(devices) => Snapshot::Features(devices.list()?),
                None => return Ok(None),
            },
            Stale::NETCONF => {
                let parse = |message: &Message<'_>| Some(netconf::parse(message.payload)?.0);
                Snapshot::Netconf(both(asker, "settings", netconf::GET, netconf::HEADER, parse)?)
            }
            Stale::ADDRESSES => {
                let parse = |message: &Message<'_>| address::parse(message.payload);
                Snapshot::Addresses(both(asker, "addresses", libc::RTM_GETADDR, address::HEADER, parse)?)
            }
            Stale::NEIGHBOURS => {
                let parse = |message: &Message<'_>| neighbour::parse(message.payload);
                Snapshot::Neighbours(both(asker, "neighbours", libc::RTM_GETNEIGH, neighbour::HEADER, parse)?)
            }
            Stale::RULES => {
                let parse = |message: &Message<'_>| rule::parse(message.payload);
                Snapshot::RoutingRules(both(asker, "routing rules", libc::RTM_GETRULE, rule::HEADER, parse)?)
            }
            _ => return Ok(None),
        }))
    }
}

impl Devices {
    fn open() -> Result<Option<Self>, Error> {
        let mut asker = Asker::open(libc::NETLINK_GENERIC as isize)?;
        let request = device::family_request();
        let family = asker
            .get("netlink families", device::CONTROLLER, &request, |message| device::parse_family(message.payload))?;
        let Some(family) = family else { return Ok(None) };
        let listener = Listener::open(libc::NETLINK_GENERIC as isize, &[family.group])?;
        Ok(Some(Self { family, listener, asker }))
    }

    fn list(&mut self) -> Result<Vec<(Ifindex, crate::model::XdpFeatures)>, Error> {
        self.asker.dump("device features", self.family.id, &device::dump_request(), |message| {
            device::parse_features(message.payload)
        })
    }
}

/// A dump of one family's entries. A kernel without IPv6 has none of them.
fn dump<T>(
    asker: &mut Asker,
    what: &'static str,
    kind: u16,
    header: usize,
    family: u8,
    parse: impl Fn(&Message<'_>) -> Option<T>,
) -> Result<Vec<T>, Error> {
    let mut request = vec![0; header];
    request[0] = family;
    let ours = |message: &Message<'_>| (u8_at(message.payload, 0)? == family).then(|| parse(message)).flatten();
    match asker.dump(what, kind, &request, ours) {
        Err(error) if family == u128::NUMBER && is_foreign(&error) => Ok(Vec::new()),
        other => other,
    }
}

/// The entries of both families.
fn both<T>(
    asker: &mut Asker,
    what: &'static str,
    kind: u16,
    header: usize,
    parse: impl Fn(&Message<'_>) -> Option<T>,
) -> Result<Vec<T>, Error> {
    let mut found = dump(asker, what, kind, header, u32::NUMBER, &parse)?;
    found.extend(dump(asker, what, kind, header, u128::NUMBER, &parse)?);
    Ok(found)
}

/// Whether the kernel does not know the family that it was asked for.
fn is_foreign(error: &Error) -> bool {
    let Error::Refused { source, .. } = error else { return false };
    matches!(source.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT))
}

/// What a message announces.
fn parse(message: &Message<'_>) -> Option<Event> {
    let payload = message.payload;
    let ipv6 = attribute::version(payload) == Some(IpVersion::V6);
    Some(match message.kind {
        libc::RTM_NEWLINK => Event::Link(link::parse(payload)?),
        libc::RTM_DELLINK => Event::LinkGone(link::ifindex(payload)?),
        libc::RTM_NEWADDR => Event::Address(address::parse(payload)?),
        libc::RTM_DELADDR => Event::AddressGone(address::parse(payload)?),
        libc::RTM_NEWNEIGH => Event::Neighbour(neighbour::parse(payload)?),
        libc::RTM_DELNEIGH => {
            let gone = neighbour::parse(payload)?;
            Event::NeighbourGone(gone.ifindex, gone.address)
        }
        libc::RTM_NEWRULE => Event::RoutingRule(rule::parse(payload)?),
        libc::RTM_DELRULE => Event::RoutingRuleGone(rule::parse(payload)?),
        libc::RTM_NEWROUTE if ipv6 => Event::Route6(route::parse(payload)?, route::placement(message.flags)),
        libc::RTM_DELROUTE if ipv6 => Event::Route6Gone(route::parse(payload)?),
        libc::RTM_NEWROUTE => Event::Route4(route::parse(payload)?, route::placement(message.flags)),
        libc::RTM_DELROUTE => Event::Route4Gone(route::parse(payload)?),
        netconf::NEW => Event::Netconf(netconf::parse(payload)?.0),
        netconf::DELETE => {
            let (gone, _) = netconf::parse(payload)?;
            Event::NetconfGone(gone.version, gone.scope)
        }
        _ => return None,
    })
}

/// What else changes with a message, without a word from the kernel.
fn unannounced(message: &Message<'_>, links: &mut BTreeMap<Ifindex, u32>) -> Stale {
    let payload = message.payload;
    match message.kind {
        libc::RTM_NEWLINK => match link::ifindex(payload) {
            Some(ifindex) => match links.insert(ifindex, usable(payload)) {
                // A veth is announced before it has its peer.
                None => Stale::ROUTES | Stale::LINKS,
                Some(before) if before != usable(payload) => Stale::ROUTES,
                Some(_) => Stale::empty(),
            },
            None => Stale::empty(),
        },
        libc::RTM_DELLINK => match link::ifindex(payload) {
            Some(ifindex) => {
                links.remove(&ifindex);
                Stale::ROUTES
            }
            None => Stale::empty(),
        },
        // An address revives dead next hops, and takes routes with it when it goes.
        libc::RTM_NEWADDR | libc::RTM_DELADDR if attribute::version(payload) == Some(IpVersion::V4) => Stale::ROUTES4,
        RTM_NEWNEXTHOP | RTM_DELNEXTHOP => Stale::ROUTES,
        netconf::NEW if netconf::parse(payload).is_some_and(|(_, linkdown)| linkdown) => Stale::ROUTES,
        _ => Stale::empty(),
    }
}

/// The link flags that decide which routes are alive.
fn usable(payload: &[u8]) -> u32 {
    u32_at(payload, 8).unwrap_or_default() & link::IFF_USABLE
}
