//! The XDP features of drivers: from the kernel where it reports them, assumed where it does not.

use dataplane_common::abi::Ifindex;

use super::device::{self, GenericFamily};
use super::socket::{Listener, Requester};
use super::{Error, Mirror};
use crate::model::{Event, Snapshot, XdpFeatures};

/// Sockets for generic netlink, where the kernel has the family (6.3 and later); without it see [`device::supposed`].
pub(super) struct Devices {
    pub(super) family: GenericFamily,
    pub(super) listener: Listener,
    requester: Requester,
}

impl Devices {
    pub(super) fn open() -> Result<Option<Self>, Error> {
        let mut requester = Requester::open(libc::NETLINK_GENERIC as isize)?;
        let request = device::family_request("netdev");
        let family = requester
            .get("netlink families", device::CONTROLLER, &request, |message| device::parse_family(message.payload))?;
        let Some(family) = family else { return Ok(None) };
        let listener = Listener::open(libc::NETLINK_GENERIC as isize, &[family.group])?;
        Ok(Some(Self { family, listener, requester }))
    }

    pub(super) fn list(&mut self) -> Result<Vec<(Ifindex, XdpFeatures)>, Error> {
        self.requester.dump("device features", self.family.id, &device::dump_request(), |message| {
            device::parse_features(message.payload)
        })
    }
}

impl Mirror {
    /// Gives the assumed features of drivers, where the kernel does not report them and a link has changed.
    pub(super) fn suppose(&mut self) {
        let mut changed = false;
        for event in &self.pending {
            match event {
                Event::Snapshot(Snapshot::Links(links)) | Event::Compared(Snapshot::Links(links), _) => {
                    self.links = links.iter().map(|link| (link.ifindex, link.clone())).collect();
                }
                Event::Link(link) => drop(self.links.insert(link.ifindex, link.clone())),
                Event::LinkGone(ifindex) => drop(self.links.remove(ifindex)),
                _ => continue,
            }
            changed = true;
        }
        if changed {
            let all = self.links.iter().map(|(ifindex, link)| (*ifindex, device::supposed(link, &self.links)));
            self.pending.push(Event::Snapshot(Snapshot::Features(all.collect())));
        }
    }
}
