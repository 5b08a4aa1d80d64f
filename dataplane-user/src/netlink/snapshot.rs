//! All that the kernel has of one kind.

use super::{
    Error, Mirror, Stale, address, both, bridge, link, neighbour, netconf, qdisc, rule, socket::Message, usable,
};
use crate::model::Snapshot;

impl Mirror {
    /// Lists it; none where it is read in another way.
    pub(super) fn list(&mut self, kind: Stale) -> Result<Option<Snapshot>, Error> {
        let requester = &mut self.requester;
        Ok(Some(match kind {
            Stale::LINKS => {
                let found = requester.dump("links", libc::RTM_GETLINK, &[0; link::HEADER], |message| {
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
                Snapshot::Netconf(both(requester, "settings", netconf::GET, netconf::HEADER, parse)?)
            }
            Stale::ADDRESSES => {
                let parse = |message: &Message<'_>| address::parse(message.payload);
                Snapshot::Addresses(both(requester, "addresses", libc::RTM_GETADDR, address::HEADER, parse)?)
            }
            Stale::NEIGHBOURS => {
                let parse = |message: &Message<'_>| neighbour::parse(message.payload);
                Snapshot::Neighbours(both(requester, "neighbours", libc::RTM_GETNEIGH, neighbour::HEADER, parse)?)
            }
            Stale::FDB => Snapshot::Fdb(bridge::entries(requester)?),
            Stale::RULES => {
                let parse = |message: &Message<'_>| rule::parse(message.payload);
                Snapshot::RoutingRules(both(requester, "routing rules", libc::RTM_GETRULE, rule::HEADER, parse)?)
            }
            Stale::IPSEC => Snapshot::Ipsec(self.policies.list()?),
            Stale::QDISCS => Snapshot::Qdiscs(qdisc::shaping(requester)?),
            Stale::NETFILTER => Snapshot::Netfilter(self.netfilter.survey()),
            _ => return Ok(None),
        }))
    }
}
