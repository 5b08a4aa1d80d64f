//! Who asks for metrics over HTTP, so that none of them takes all connections.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

/// The peers that are connected, each as often as it is.
pub(super) type Visitors = Arc<Mutex<Vec<IpAddr>>>;

/// A connection of a peer, until this is dropped.
pub(super) struct Visitor {
    all: Visitors,
    peer: IpAddr,
}

impl Visitor {
    /// Nothing where the peer has as many as it may.
    pub(super) fn of(all: &Visitors, address: IpAddr, most: usize) -> Option<Self> {
        let peer = match address.to_canonical() {
            IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) >> 64 << 64).into(),
            v4 @ IpAddr::V4(_) => v4,
        };
        let mut known = all.lock().unwrap_or_else(PoisonError::into_inner);
        if known.iter().filter(|other| **other == peer).count() >= most {
            return None;
        }
        known.push(peer);
        Some(Self { all: Arc::clone(all), peer })
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        let mut known = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = known.iter().position(|peer| *peer == self.peer) {
            known.swap_remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_few_connections() {
        let all = Visitors::default();
        let visitor = |address: &str| Visitor::of(&all, address.parse().expect("an address"), 2);
        let held =
            [visitor("192.0.2.1"), visitor("::ffff:192.0.2.1"), visitor("2001:db8::1"), visitor("2001:db8::2:0:0:1")];
        assert!(held.iter().all(Option::is_some));
        for (address, let_in) in
            [("192.0.2.1", false), ("192.0.2.2", true), ("2001:db8::3", false), ("2001:db8:0:1::", true)]
        {
            assert_eq!(visitor(address).is_some(), let_in, "{address}");
        }
        drop(held);
        assert!(visitor("192.0.2.1").is_some() && all.lock().expect("no panic").is_empty());
    }
}
