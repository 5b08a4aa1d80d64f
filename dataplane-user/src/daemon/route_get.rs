//! `route get`: runs the loaded programs, without their chains, on a packet that is made for the request.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use dataplane_common::{
    Reason, Verdict,
    abi::{Ifindex, Tag, TraceRecord},
};

use super::{
    Daemon,
    explain::{PreparedRun, run_tiers},
    query::longest,
    trace_row,
};
use crate::{
    control::{
        protocol::{Failure, FailureKind},
        row::{DecisionRow, Table},
    },
    frame,
    kernel::Hook,
    model::{Family, IpVersion, Link, Model, RouteSource},
};

/// How many ports are tried where the request names none.
const PORTS: usize = 16;
/// Sources where the request names none, and the ingress interface has no network with another host.
const FALLBACK: (IpAddr, IpAddr) = (
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 254)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0xffff, 0, 0, 0, 0xfffe)),
);
/// UDP ports of the packet: those of traceroute.
const UDP_PORTS: (u16, u16) = (40_000, 33_434);

/// Frames to run for a request, before [`Daemon::decision`].
#[derive(Debug)]
pub(super) struct RouteQuery {
    dst: IpAddr,
    attempts: Vec<Attempt>,
    prepared_run: PreparedRun,
}

/// The packet on one port: of one source, or of several of which the first that is accepted counts.
#[derive(Debug)]
struct Attempt {
    iif: Ifindex,
    port: Ifindex,
    hooks: &'static [Hook],
    frames: Vec<Vec<u8>>,
}

/// What the programs did.
#[derive(Debug)]
pub(super) struct RouteAnswer {
    dst: IpAddr,
    iif: Ifindex,
    record: TraceRecord,
}

impl RouteQuery {
    /// Runs the packet through the programs, without the ring. On several ports: the first that forwards or delivers it answers,
    /// else the first of all.
    pub(super) fn run(self) -> Result<RouteAnswer, Failure> {
        // The rest is loaded as it is needed.
        let hooks = self.attempts.first().map_or(&[][..], |attempt| attempt.hooks);
        let mut test_run = self.prepared_run.ready(hooks)?;
        let mut first = None;
        for attempt in &self.attempts {
            let record = attempt.run(&mut test_run)?;
            let answer = RouteAnswer { dst: self.dst, iif: attempt.iif, record };
            if matches!(trace_row::reason(&answer.record).verdict(), Verdict::Forward | Verdict::Deliver) {
                return Ok(answer);
            }
            first.get_or_insert(answer);
        }
        first.ok_or_else(no_port)
    }
}

impl Attempt {
    fn run(&self, test_run: &mut crate::kernel::TestRun) -> Result<TraceRecord, Failure> {
        let mut first = None;
        for frame in &self.frames {
            let record = run_tiers(test_run, self.hooks, self.port, frame.clone())?.into_record();
            if !matches!(trace_row::reason(&record), Reason::MartianSource | Reason::ReversePath) {
                return Ok(record);
            }
            first.get_or_insert(record);
        }
        first.ok_or_else(no_port)
    }
}

fn no_port() -> Failure {
    let said = "no port is attached, so the kernel routes all packets (`ip route get` says where to); `dataplane attach IFACE` \
                makes a port";
    Failure::new(FailureKind::NotFound, said)
}

impl Daemon {
    /// Makes the frames for a request: a packet to `dst` that comes in through `iif`, or else through a port, preferably not
    /// the one that it would leave by.
    pub(super) fn route_query(
        &mut self,
        dst: IpAddr,
        from: Option<IpAddr>,
        iif: Option<&str>,
    ) -> Result<RouteQuery, Failure> {
        if from.is_some_and(|from| from.is_ipv4() != dst.is_ipv4()) {
            return Err(Failure::new(FailureKind::Usage, "the addresses are of different families; take two of one"));
        }
        let links: Vec<&Link> = match iif {
            Some(name) => vec![self.link(name)?],
            None => self.ways_in(dst),
        };
        let attempts = links.into_iter().map(|link| self.attempt(link, dst, from));
        let attempts: Vec<Attempt> = attempts.collect::<Result<_, _>>()?;
        if attempts.is_empty() {
            return Err(no_port());
        }
        Ok(RouteQuery { dst, attempts, prepared_run: self.load_dry_run(false)? })
    }

    /// Ports that the packet may come in through; last the one that it would leave through.
    fn ways_in(&self, dst: IpAddr) -> Vec<&Link> {
        let out = self.mirrored(dst, None).and_then(|(_, hop)| hop).map(|(dev, _)| dev);
        let attached = self.plane.attached().keys().filter_map(|port| self.observed.model().links.get(port));
        let (mut links, last): (Vec<_>, Vec<_>) = attached.partition(|link| Some(link.ifindex) != out);
        links.extend(last);
        links.truncate(PORTS);
        links
    }

    fn attempt(&self, link: &Link, dst: IpAddr, from: Option<IpAddr>) -> Result<Attempt, Failure> {
        let (port, tags) = self.entrance(link).ok_or_else(|| {
            let said = format!("{0} is not a port, nor on one; `dataplane attach {0}` makes it one", link.name);
            Failure::new(FailureKind::NotFound, said)
        })?;
        let hooks = self.hooks(port).ok_or_else(no_port)?;
        let mac = link.mac.filter(|_| link.ethernet || link.loopback).map(|mac| recipient(dst, mac.0));
        let sources = from.map_or_else(|| self.sources(link, dst), |from| vec![from]);
        let frames = sources.into_iter().map(|source| {
            let (from, to) = (SocketAddr::new(source, UDP_PORTS.0), SocketAddr::new(dst, UDP_PORTS.1));
            let frame = frame::build(&format!("udp {from} > {to}"), mac);
            let mut frame = frame.map_err(|error| Failure::new(FailureKind::Failed, error.to_string()))?;
            // Behind the link addresses.
            let tags: Vec<u8> = tags.iter().filter(|tag| tag.is_some()).flat_map(|tag| tag_bytes(*tag)).collect();
            frame.splice(12..12, tags);
            Ok(frame)
        });
        Ok(Attempt { iif: link.ifindex, port, hooks, frames: frames.collect::<Result<_, Failure>>()? })
    }

    /// The port that packets of a link come in through, and the tags that they have there.
    fn entrance(&self, link: &Link) -> Option<(Ifindex, [Tag; 2])> {
        let (mut on, mut tags) = (link, [Tag::NONE; 2]);
        while !self.plane.attached().contains_key(&on.ifindex) {
            if let Some(vlan) = on.vlan {
                tags = if tags[1].is_some() { return None } else { [vlan.tag, tags[0]] };
            }
            on = self.observed.model().under(on)?;
        }
        Some((on.ifindex, tags))
    }

    /// Sources that the packet may have: first, hosts in the networks of the ingress interface.
    fn sources(&self, link: &Link, dst: IpAddr) -> Vec<IpAddr> {
        let own: Vec<_> = self.observed.model().addresses.iter().collect();
        let here = own.iter().filter(|one| one.ifindex == link.ifindex && one.address.is_ipv4() == dst.is_ipv4());
        let hosts = here.flat_map(|one| neighbours(one.address, one.length).into_iter().chain(one.peer));
        let free = |host: &IpAddr| *host != dst && !own.iter().any(|one| one.address == *host);
        let mut sources: Vec<_> = hosts.filter(free).collect();
        sources.push(if dst.is_ipv4() { FALLBACK.0 } else { FALLBACK.1 });
        sources
    }

    /// The answer.
    pub(super) fn decision(&self, answer: &RouteAnswer) -> DecisionRow {
        let RouteAnswer { dst, iif, record } = answer;
        let reason = trace_row::reason(record);
        let version = if dst.is_ipv4() { IpVersion::V4 } else { IpVersion::V6 };
        let link = self.observed.model().links.get(iif);
        let asked = link.is_some_and(|link| self.route_source(version, link) == RouteSource::Kernel);
        let adjacency = self.plane.want().adjacencies.get(&record.adjacency);
        let next = self.plane.next_hops().find(|(index, _)| *index == record.adjacency).map(|(_, who)| who);
        let out = adjacency.map(|adjacency| adjacency.ifindex);
        // Where the kernel did the lookup, the mirror's route is not the one that was used.
        let matched = if asked { None } else { self.mirrored(*dst, out) };
        let hop = matched.as_ref().and_then(|(_, hop)| *hop);
        let via = match next {
            Some((_, address)) => Some(address).filter(|address| address != dst),
            None => hop.and_then(|(_, via)| via),
        };
        let left = matches!(reason, Reason::KernelRoute | Reason::MirrorOff | Reason::Netfilter);
        let verdict = reason.verdict().name().to_owned();
        DecisionRow {
            verdict: verdict.clone(),
            decision: verdict,
            reason: reason.name().to_owned(),
            dst: *dst,
            prefix: matched.map(|(prefix, _)| prefix),
            dev: out.or(hop.map(|(dev, _)| dev)).map(|ifindex| self.name(ifindex)),
            via,
            lladdr: adjacency.and_then(|adjacency| Some(adjacency.link_address()?.to_string())),
            table: if asked || left { Table::Kernel } else { Table::Mirror },
        }
    }

    /// The prefix of the mirrored route to an address, and a next hop of it: the one through `out`, or the first.
    fn mirrored(&self, address: IpAddr, out: Option<Ifindex>) -> Option<Mirrored> {
        fn of<A: Family>(model: &Model, address: A, out: Option<Ifindex>) -> Option<Mirrored> {
            let (prefix, route) = longest(model, address)?;
            let hop = route.next_hops.iter().find(|hop| Some(hop.dev) == out).or(route.next_hops.first());
            Some((prefix.to_string(), hop.filter(|hop| hop.dev != 0).map(|hop| (hop.dev, hop.via))))
        }
        match address {
            IpAddr::V4(v4) => of(self.observed.model(), u32::from(v4), out),
            IpAddr::V6(v6) => of(self.observed.model(), u128::from(v6), out),
        }
    }
}

/// A prefix of the mirror, and a next hop of its route: the link, and the address on it.
type Mirrored = (String, Option<(Ifindex, Option<IpAddr>)>);

/// The addresses beside one, in its network.
fn neighbours(address: IpAddr, length: u8) -> Vec<IpAddr> {
    match address {
        IpAddr::V4(v4) => {
            let (bits, hosts) = (v4.to_bits(), u32::MAX.checked_shr(length.into()).unwrap_or(0));
            let beside = [bits.wrapping_add(1), bits.wrapping_sub(1)].into_iter().filter(move |one| {
                // With a network of two both are hosts.
                (one ^ bits) & !hosts == 0 && (hosts <= 1 || (one & hosts != 0 && one & hosts != hosts))
            });
            beside.map(|one| Ipv4Addr::from_bits(one).into()).collect()
        }
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Vec::new(),
        IpAddr::V6(v6) => {
            let (bits, hosts) = (v6.to_bits(), u128::MAX.checked_shr(length.into()).unwrap_or(0));
            let beside = [bits.wrapping_add(1), bits.wrapping_sub(1)].into_iter();
            // The first address is that of all routers.
            let beside = beside.filter(|one| (one ^ bits) & !hosts == 0 && (hosts <= 1 || one & hosts != 0));
            beside.map(|one| Ipv6Addr::from_bits(one).into()).collect()
        }
    }
}

/// The destination link address of a packet: that of its group, or the ingress interface's.
fn recipient(dst: IpAddr, own: [u8; 6]) -> [u8; 6] {
    match dst {
        IpAddr::V4(v4) if v4.is_broadcast() => [0xff; 6],
        IpAddr::V4(v4) if v4.is_multicast() => {
            let [_, b, c, d] = v4.octets();
            [1, 0, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V6(v6) if v6.is_multicast() => {
            let [.., a, b, c, d] = v6.octets();
            [0x33, 0x33, a, b, c, d]
        }
        _ => own,
    }
}

/// A tag as it stands in a frame.
fn tag_bytes(tag: Tag) -> [u8; 4] {
    let ([a, b], [c, d]) = (tag.ethertype().0.get().to_be_bytes(), tag.id().to_be_bytes());
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_beside_an_address_are_in_its_network() {
        for (address, length, expected) in [
            ("198.18.0.1", 24, &["198.18.0.2"][..]),
            ("198.18.0.7", 24, &["198.18.0.8", "198.18.0.6"]),
            ("198.18.0.254", 24, &["198.18.0.253"]),
            ("198.18.0.1", 31, &["198.18.0.0"]),
            ("198.18.0.1", 32, &[]),
            ("2001:db8::1", 64, &["2001:db8::2"]),
            ("2001:db8::1", 127, &["2001:db8::"]),
            ("2001:db8::1", 128, &[]),
            ("fe80::1", 64, &[]),
        ] {
            let expected: Vec<IpAddr> = expected.iter().map(|text| text.parse().expect("an address")).collect();
            assert_eq!(neighbours(address.parse().expect("an address"), length), expected, "{address}/{length}");
        }
    }

    #[test]
    fn packets_to_groups_have_their_link_address() {
        let own = [2, 0, 0, 0, 0, 1];
        for (dst, expected) in [
            ("198.18.1.2", own),
            ("255.255.255.255", [0xff; 6]),
            ("224.129.2.3", [1, 0, 0x5e, 1, 2, 3]),
            ("ff02::1:ff00:2", [0x33, 0x33, 0xff, 0, 0, 2]),
        ] {
            assert_eq!(recipient(dst.parse().expect("an address"), own), expected, "{dst}");
        }
    }
}
