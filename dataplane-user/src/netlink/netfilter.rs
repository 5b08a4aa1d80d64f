//! Rules of netfilter that forwarded packets would meet: of nftables, of iptables-legacy, and whatever else is hooked there.
//!
//! All of it needs `CAP_NET_ADMIN` alone. A request that the kernel does not answer counts as a rule: there may be one.

use std::{
    collections::BTreeSet,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Error,
    attribute::{Attributes, text, u8_at},
    base_chain::base,
    bridge, hook, legacy,
    ruleset::{Ruleset, set_of},
    socket::{Listener, RecvResult, Requester},
};
use crate::flow::SetKey;
use crate::model::{IpVersion, Netfilter, NetfilterChain, NetfilterHook, Obstacle, ObstacleKind};

/// `NFNL_SUBSYS_NFTABLES << 8`.
pub(super) const NFTABLES: u16 = 10 << 8;
/// `NFNLGRP_NFTABLES`.
pub(super) const GROUP: u32 = 7;
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_GETTABLE: u16 = 1;
const NFT_MSG_GETCHAIN: u16 = 4;
pub(super) const NFT_MSG_DELRULE: u16 = 8;
pub(super) const NFT_MSG_NEWSETELEM: u16 = 12;
pub(super) const NFT_MSG_DELSETELEM: u16 = 14;
pub(super) const NFT_MSG_NEWGEN: u16 = 15;
pub(super) const NFT_MSG_GETGEN: u16 = 16;
/// `struct nfgenmsg`.
pub(super) const HEADER: usize = 4;

const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
/// `NFT_TABLE_F_DORMANT`.
const DORMANT: u32 = 1;
pub(super) const GENERATION: u16 = 1;

const BOTH: [IpVersion; 2] = [IpVersion::V4, IpVersion::V6];

/// How the names of the tables begin that [`super::gate`] writes: they are ours, and forwarded packets do not meet them.
pub(super) const OWN_TABLE: &str = "dataplane_until_ready";

/// How long rules may go on to change before they are listed.
const GATHER: Duration = Duration::from_millis(20);

/// The known state of netfilter, and the socket for its announcements.
pub(super) struct NetfilterMonitor {
    /// None where the kernel has no nftables, or does not let this user listen: then it is listed each time.
    listener: Option<Listener>,
    /// When to list it.
    due: Option<Instant>,
    /// The generation of nftables' rules, and what is in them.
    known: Option<(Vec<u8>, Netfilter)>,
    /// Sets whose elements lead to chains.
    watched: Arc<BTreeSet<SetKey>>,
    /// The socket that writes the table of own rules, and whether another one did.
    own: Option<u32>,
    tampered: bool,
}

impl NetfilterMonitor {
    pub(super) fn open() -> Self {
        let listener = Listener::open(libc::NETLINK_NETFILTER as isize, &[GROUP]);
        let listener = listener.inspect_err(|error| tracing::debug!("{error}; netfilter is listed each second")).ok();
        Self { listener, due: None, known: None, watched: Arc::default(), own: None, tampered: false }
    }

    /// It is listed next time, changed or not.
    pub(super) fn look(&mut self) {
        self.due.get_or_insert_with(Instant::now);
    }

    /// When it is to be listed; none while it need not be.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The socket that writes the table of own rules.
    pub(super) fn set_table_port(&mut self, own: Option<u32>) {
        self.own = own;
    }

    /// Whether another one changed that table since this was called last.
    pub(super) fn take_tampered(&mut self) -> bool {
        std::mem::take(&mut self.tampered)
    }

    /// Notes what a datagram says. Without delay where it is about the table of own rules.
    fn note(&mut self, concerns: bool, tampered: bool) {
        self.tampered |= tampered;
        let now = Instant::now();
        if tampered {
            self.due = Some(now);
        } else if concerns {
            self.due.get_or_insert(now + GATHER);
        }
    }

    /// Waits until it is to be listed. May be dropped while waiting.
    pub(super) async fn wait(&mut self) -> Result<(), Error> {
        loop {
            let due = self.due;
            let heard = async {
                match &mut self.listener {
                    Some(listener) => listener
                        .wait()
                        .await
                        .map(|heard| (concerns(listener, &heard, &self.watched), tampers(listener, &heard, self.own))),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = heard => {
                    let (concerns, tampered) = changed?;
                    self.note(concerns, tampered);
                }
                () = until(due) => return Ok(()),
            }
        }
    }

    /// Reads the announcements that are there. Returns whether to list it now.
    pub(super) fn is_due(&mut self) -> Result<bool, Error> {
        while let Some(listener) = &mut self.listener {
            let heard = listener.poll()?;
            if matches!(heard, RecvResult::Nothing) {
                break;
            }
            let (concerns, tampered) = (concerns(listener, &heard, &self.watched), tampers(listener, &heard, self.own));
            self.note(concerns, tampered);
        }
        Ok(self.due.take_if(|due| *due <= Instant::now()).is_some())
    }

    /// All that forwarded packets would meet.
    pub(super) fn survey(&mut self) -> Netfilter {
        let seen = self.nftables();
        let Netfilter { mut chains, own, .. } =
            seen.unwrap_or_else(|error| Netfilter { chains: unknown("nftables", &error), ..Netfilter::default() });
        let hooks = hook::list();
        match &hooks {
            Ok(Some(hooks)) => chains.extend(hooks.iter().filter_map(hook::Hooked::foreign)),
            Ok(None) => {}
            Err(error) => chains.extend(unknown("hooks of netfilter", error)),
        }
        // Packets that are routed into a bridge go through it if anything is hooked there.
        match (&hooks, hook::in_bridges()) {
            (Ok(Some(_)), Ok(hooked)) => chains.extend(hooked),
            (Ok(None), _) => chains.extend(legacy::in_bridges()),
            _ => chains.push(unnamed_in_bridges("hooks of bridges that cannot be seen")),
        }
        chains.extend(legacy::chains(hooks.ok().flatten().as_deref()));
        chains.sort();
        Netfilter { chains, own, calls: bridge::calls() }
    }

    /// The generation of nftables' rules that was listed last, and the sets by whose elements something was decided; none where
    /// that did not work, or there are none.
    pub(super) fn surveyed(&self) -> Option<(u32, Arc<BTreeSet<SetKey>>)> {
        Some((number(&self.known.as_ref()?.0)?, Arc::clone(&self.watched)))
    }

    /// The chains of nftables, from the last time if no rule has changed since.
    fn nftables(&mut self) -> Result<Netfilter, Error> {
        let mut requester = Requester::open(libc::NETLINK_NETFILTER as isize)?;
        let generation = match requester.get("rules' generation", NFTABLES | NFT_MSG_GETGEN, &[0; HEADER], |message| {
            let is = message.kind & 0xff == NFT_MSG_NEWGEN;
            Attributes::behind(message.payload, HEADER).find(|(kind, _)| is && *kind == GENERATION)?.1.to_vec().into()
        }) {
            Err(error) if is_missing(&error) => return Ok(Netfilter::default()),
            other => other?.unwrap_or_default(),
        };
        if let Some((known, seen)) = &self.known
            && *known == generation
        {
            return Ok(seen.clone());
        }
        self.known = None;
        let (seen, watched) = nftables(&mut requester)?;
        self.watched = Arc::new(watched);
        self.known = Some((generation, seen.clone()));
        Ok(seen)
    }
}

/// Waits until an instant; for ever when there is none.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// Whether another socket than `own` changed the table of own rules, or may have.
fn tampers(listener: &Listener, heard: &RecvResult, own: Option<u32>) -> bool {
    match (heard, own) {
        (RecvResult::Datagram, Some(own)) => {
            listener.messages().any(|message| super::own_table::is_foreign_change(&message, own))
        }
        (RecvResult::Overrun, own) => own.is_some(),
        _ => false,
    }
}

/// Whether a datagram says more than that elements came or went, other than those of watched sets.
fn concerns(listener: &Listener, heard: &RecvResult, watched: &BTreeSet<SetKey>) -> bool {
    let rules = NFTABLES | NFT_MSG_NEWTABLE..=NFTABLES | NFT_MSG_DELRULE;
    match heard {
        RecvResult::Nothing => false,
        RecvResult::Overrun => true,
        RecvResult::Datagram => listener.messages().any(|message| match message.kind & 0xff {
            NFT_MSG_NEWSETELEM | NFT_MSG_DELSETELEM => {
                !watched.is_empty() && set_of(message.payload).is_some_and(|set| watched.contains(&set))
            }
            _ => rules.contains(&message.kind),
        }),
    }
}

/// A stand-in for chains that the kernel did not list.
fn unknown(what: &str, error: &Error) -> Vec<NetfilterChain> {
    vec![unnamed(format!("{what} that cannot be seen: {error}"), &BOTH)]
}

/// Something that is hooked, of which nothing is known.
pub(super) fn unnamed(name: String, versions: &[IpVersion]) -> NetfilterChain {
    NetfilterChain {
        obstacles: vec![unreadable(&name)],
        name,
        hook: NetfilterHook::Forward,
        versions: versions.to_vec(),
        devices: Vec::new(),
        rules: None,
        drops: false,
        translates: false,
    }
}

/// Something in bridges, of which nothing is known.
pub(super) fn unnamed_in_bridges(name: &str) -> NetfilterChain {
    NetfilterChain { hook: NetfilterHook::Bridge, ..unnamed(name.to_owned(), &[]) }
}

/// Whatever is hooked there may be a program that inspects.
pub(super) fn unreadable(name: &str) -> Obstacle {
    let what = Some("its rules are not known".to_owned());
    Obstacle { kind: ObstacleKind::Unreadable, place: name.to_owned(), what }
}

/// Whether the kernel, or this namespace, has nothing to list.
pub(super) fn is_missing(error: &Error) -> bool {
    let missing = |error: &io::Error| {
        let known = [libc::EINVAL, libc::EOPNOTSUPP, libc::EPROTONOSUPPORT, libc::EAFNOSUPPORT, libc::ENOPROTOOPT];
        error.raw_os_error().is_some_and(|number| known.contains(&number))
    };
    match error {
        Error::Refused { source, .. } | Error::Ask { source, .. } | Error::Open(source) => missing(source),
        _ => false,
    }
}

/// The chains of nftables that have rules or a dropping policy, the tables that are ours, and the sets by whose elements
/// something was decided.
fn nftables(requester: &mut Requester) -> Result<(Netfilter, BTreeSet<SetKey>), Error> {
    let all = [0; HEADER];
    let tables =
        requester.dump("netfilter tables", NFTABLES | NFT_MSG_GETTABLE, &all, |message| table(message.payload))?;
    let bases =
        requester.dump("netfilter chains", NFTABLES | NFT_MSG_GETCHAIN, &all, |message| base(message.payload))?;
    let (mut chains, mut watched) = (Vec::new(), BTreeSet::new());
    for (key, chain) in bases {
        let asleep =
            |(family, name, asleep): &(u8, String, bool)| (*family, name) == (key.family, &key.table) && *asleep;
        if key.table.starts_with(OWN_TABLE) || tables.iter().any(asleep) {
            continue;
        }
        let mut table = Ruleset::new(requester, key.family, &key.table, &mut watched);
        let rules = table.count(&key.chain)?;
        // Packets of connections that are translated already do not come by chains that translate.
        let obstacles = if chain.translates || rules == 0 {
            Vec::new()
        } else {
            let place = chain.name.strip_suffix(&key.chain).unwrap_or_default().trim_end();
            table.obstacles(place, &key.chain, key.tracked)
        };
        let chain = NetfilterChain { rules: Some(rules), obstacles, ..chain };
        chains.extend((chain.drops || chain.rules != Some(0)).then_some(chain));
    }
    let own = tables.into_iter().map(|(_, name, _)| name).filter(|name| name.starts_with(OWN_TABLE));
    Ok((Netfilter { chains, own: Some(own.collect()), calls: None }, watched))
}

/// A name as the kernel takes it.
pub(super) fn terminated(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

/// A table, and whether it is not hooked in at the moment.
fn table(payload: &[u8]) -> Option<(u8, String, bool)> {
    let (mut name, mut flags) = (String::new(), 0);
    for (kind, value) in Attributes::behind(payload, HEADER) {
        match kind {
            TABLE_NAME => name = text(value),
            TABLE_FLAGS => flags = number(value).unwrap_or_default(),
            _ => {}
        }
    }
    Some((u8_at(payload, 0)?, name, flags & DORMANT != 0))
}

/// Netfilter's attributes are in network order.
pub(super) fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().copied().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attribute::put;

    #[test]
    fn a_table_may_be_asleep() {
        for (flags, asleep) in [(0_u32, false), (1, true), (2, false), (3, true)] {
            let mut message = vec![2, 0, 0, 0];
            put(&mut message, TABLE_NAME, b"filter\0");
            put(&mut message, TABLE_FLAGS, &flags.to_be_bytes());
            assert_eq!(table(&message), Some((2, "filter".to_owned(), asleep)), "{flags}");
        }
    }
}
