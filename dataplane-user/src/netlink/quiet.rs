//! Changes without an announcement: most settings (sysctls), and the handlers of a link's frames. Links are listed each second,
//! and at once where an announcement hints at such a change; unchanged links give no event.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
    time::{Duration, Instant},
};

use dataplane_common::abi::Ifindex;

use super::{Error, Mirror, Stale, is_foreign, link, neighbour, netconf, socket::Message};
use crate::model::{Event, IpVersion, Link, NetconfScope, Snapshot};

/// Between two looks.
const ROUND: Duration = Duration::from_secs(1);

/// Links as they were last given.
pub(super) struct Quiet {
    known: BTreeMap<Ifindex, Link>,
    proxies: BTreeSet<(Ifindex, Ipv6Addr)>,
    due: Instant,
}

impl Quiet {
    pub(super) fn new() -> Self {
        Self { known: BTreeMap::new(), proxies: BTreeSet::new(), due: Instant::now() + ROUND }
    }

    /// When links are looked at again.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Takes in events of links.
    fn note(&mut self, event: &Event) {
        match event {
            Event::Snapshot(Snapshot::Links(links)) | Event::Compared(Snapshot::Links(links), _) => {
                self.known = links.iter().map(|link| (link.ifindex, link.clone())).collect();
            }
            Event::Link(link) => drop(self.known.insert(link.ifindex, link.clone())),
            Event::LinkGone(ifindex) => drop(self.known.remove(ifindex)),
            _ => {}
        }
    }

    /// Looks at once if a message hints that IPv6 came or went, or another MTU of it: links are announced before that.
    pub(super) fn hint(&mut self, message: &Message<'_>, event: &Event) {
        let hints = match event {
            Event::Link(link) => link.no_ipv6 || link.ipv6_mtu != link.mtu,
            Event::AddressGone(address) => address.address.is_ipv6(),
            Event::NetconfGone(IpVersion::V6, NetconfScope::Interface(_)) => true,
            Event::Netconf(settings) => message.kind == netconf::NEW && settings.version == IpVersion::V6,
            _ => false,
        };
        if hints {
            self.due = Instant::now();
        }
    }
}

impl Mirror {
    /// Lists the links if that is due, and gives those that have changed.
    pub(super) fn look(&mut self) -> Result<(), Error> {
        self.pending.iter().for_each(|event| self.quiet.note(event));
        if self.quiet.due > Instant::now() {
            return Ok(());
        }
        self.quiet.due = Instant::now() + ROUND;
        let links = self
            .requester
            .dump("links", libc::RTM_GETLINK, &link::request(), |message| link::parse(message.payload))?;
        for link in links {
            // One that is not known is about to be announced, one whose index is new in this listing as well.
            let Some(known) = self.quiet.known.get_mut(&link.ifindex).filter(|known| **known != link) else { continue };
            if known.no_ipv6 != link.no_ipv6 {
                // Its routes come and go with it, and the kernel may be set to announce nothing (`skip_notify_on_dev_down`).
                self.stale |= Stale::ROUTES6;
            }
            *known = link.clone();
            self.pending.push(Event::Link(link));
        }
        self.look_at_proxies()
    }

    /// Gives the addresses for which the kernel is a proxy, if they have changed.
    fn look_at_proxies(&mut self) -> Result<(), Error> {
        let request = neighbour::proxies_request();
        let parse = |message: &Message<'_>| neighbour::proxy(message.payload);
        let listed = match self.requester.dump("proxied neighbours", libc::RTM_GETNEIGH, &request, parse) {
            // A kernel without IPv6.
            Err(error) if is_foreign(&error) => Vec::new(),
            other => other?,
        };
        let proxies: BTreeSet<_> = listed.into_iter().collect();
        if proxies != self.quiet.proxies {
            self.quiet.proxies.clone_from(&proxies);
            self.pending.push(Event::Snapshot(Snapshot::Proxies(proxies)));
        }
        Ok(())
    }
}
