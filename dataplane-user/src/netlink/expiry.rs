//! IPv6 routes that expire. The kernel uses none from that moment on, but removes it up to 30 s later (`fib6_check_expired`,
//! `fib6_run_gc`), and does not announce when a router's advertisement makes one live longer. So it is requested at that
//! moment.

use std::time::{Duration, Instant};

use super::attribute::{Attributes, put, u8_at, u32_at};
use super::{Error, Mirror, Stale, route};
use crate::model::{Event, Family, NextHop, Route};

const RTA_CACHEINFO: u16 = 12;
/// `rta_expires` of `struct rta_cacheinfo`.
const EXPIRES: usize = 8;
/// What it counts in: `USER_HZ` is 100 everywhere.
const TICK: Duration = Duration::from_millis(10);
/// More than the kernel's rounding: at 0 ticks left it would say that a route is there for ever.
const SLACK: Duration = Duration::from_millis(30);
const RTA_TABLE: u16 = 15;

/// Routes that expire, and when.
#[derive(Default)]
pub(super) struct Expiring(Vec<(Instant, Route<u128>)>);

/// How long a route of a message is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lifetime {
    /// Until it is removed.
    Endless,
    /// So long.
    Left(Duration),
    /// It is not used any more.
    Over,
}

/// What a message says of its route.
pub(super) fn lifetime(payload: &[u8]) -> Lifetime {
    let info = Attributes::behind(payload, route::HEADER).find(|(kind, _)| *kind == RTA_CACHEINFO);
    match info.and_then(|(_, info)| u32_at(info, EXPIRES)).unwrap_or_default().cast_signed() {
        0 => Lifetime::Endless,
        left @ 1.. => Lifetime::Left(TICK * left.unsigned_abs()),
        _ => Lifetime::Over,
    }
}

/// Whether both are the same route, whatever else they say.
fn same(one: &Route<u128>, other: &Route<u128>) -> bool {
    let hop = |route: &Route<u128>| route.next_hops.first().map(|NextHop { via, dev, .. }| (*via, *dev));
    (one.table, one.destination, one.priority, hop(one)) == (other.table, other.destination, other.priority, hop(other))
}

impl Expiring {
    /// When one expires.
    pub(super) fn due(&self) -> Option<Instant> {
        self.0.iter().map(|(due, _)| *due).min()
    }

    /// Takes in an announcement, or a row of a listing.
    pub(super) fn note(&mut self, kind: u16, payload: &[u8]) {
        if u8_at(payload, 0) != Some(u128::NUMBER) || !matches!(kind, libc::RTM_NEWROUTE | libc::RTM_DELROUTE) {
            return;
        }
        let lifetime = lifetime(payload);
        let new = kind == libc::RTM_NEWROUTE && lifetime != Lifetime::Endless;
        if !new && self.0.is_empty() {
            return;
        }
        let Some(route) = route::parse::<u128>(payload) else { return };
        self.0.retain(|(_, known)| !same(known, &route));
        if let Lifetime::Left(left) = lifetime
            && new
        {
            self.0.push((Instant::now() + left + SLACK, route));
        }
    }
}

impl Mirror {
    /// Requests routes that should have expired, and gives those that have.
    pub(super) fn expire(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        while let Some(place) = self.expiring.0.iter().position(|(due, _)| *due <= now) {
            let (_, route) = self.expiring.0.remove(place);
            let mut request = vec![0; route::HEADER];
            (request[0], request[5]) = (u128::NUMBER, route.protocol);
            put(&mut request, RTA_TABLE, &route.table.to_ne_bytes());
            let found = self.requester.dump("routes", libc::RTM_GETROUTE, &request, |message| {
                let found = route::parse::<u128>(message.payload).filter(|found| same(found, &route))?;
                Some((lifetime(message.payload), found))
            });
            let found = match found {
                Ok(found) => found.into_iter().next_back(),
                // The table is gone, with all its routes.
                Err(Error::Refused { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => None,
                Err(error) => {
                    self.mark_stale(Stale::ROUTES6);
                    return Err(error);
                }
            };
            match found {
                Some((Lifetime::Left(left), found)) => self.expiring.0.push((Instant::now() + left + SLACK, found)),
                Some((Lifetime::Endless, _)) => {}
                Some((Lifetime::Over, _)) | None => self.pending.push(Event::Route6Gone(route)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(expires: i32, table: u8) -> Vec<u8> {
        let mut message = vec![u128::NUMBER, 64, 0, 0, table, 3, 0, 1, 0, 0, 0, 0];
        put(&mut message, 1, &[0x20, 1, 0xd, 0xb8, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let mut info = [0; 32];
        info[EXPIRES..EXPIRES + 4].copy_from_slice(&expires.to_ne_bytes());
        put(&mut message, RTA_CACHEINFO, &info);
        message
    }

    #[test]
    fn lifetimes_are_parsed() {
        for (expires, expected) in [
            (0, Lifetime::Endless),
            (200, Lifetime::Left(Duration::from_secs(2))),
            (-1, Lifetime::Over),
            (i32::MIN, Lifetime::Over),
        ] {
            assert_eq!(lifetime(&message(expires, 254)), expected, "{expires}");
        }
        assert_eq!(lifetime(&[0; 12]), Lifetime::Endless, "nothing is said");
    }

    #[test]
    fn the_last_word_counts() {
        let mut expiring = Expiring::default();
        let mut say = |kind, expires, table| {
            let payload = message(expires, table);
            expiring.note(kind, &payload);
            expiring.0.len()
        };
        assert_eq!(say(libc::RTM_NEWROUTE, 0, 254), 0, "endless");
        assert_eq!(say(libc::RTM_NEWROUTE, 100, 254), 1);
        assert_eq!(say(libc::RTM_NEWROUTE, 300, 254), 1, "the same again");
        assert_eq!(say(libc::RTM_NEWROUTE, 300, 100), 2, "in another table");
        assert_eq!(say(libc::RTM_NEWROUTE, 0, 100), 1, "endless now");
        assert_eq!(say(libc::RTM_DELROUTE, -5, 254), 0, "gone");
    }
}
