//! Connections as an operator sees them.

use std::{net::SocketAddr, sync::atomic::AtomicU64, time::Duration};

use dataplane_common::abi::{
    FlowControl, Ifindex,
    flow::{MOMENT, RowState},
};

use super::{
    AnySeen, Connections, Named, NotFast, Place, Seen, Status, Tuple, Zoned,
    flows::waits,
    state::{Key, Known},
    table::is_armed,
};
use crate::{fib::Memory, model::Family};

/// Now: as leases are counted, and as ages are.
pub(super) type Now = (u32, Duration);

/// A tuple of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Source address and port.
    pub source: SocketAddr,
    /// Destination address and port.
    pub destination: SocketAddr,
}

impl<A: Family> From<Tuple<A>> for Ends {
    fn from(tuple: Tuple<A>) -> Self {
        Self {
            source: SocketAddr::new(tuple.source.to_ip(), tuple.source_port),
            destination: SocketAddr::new(tuple.destination.to_ip(), tuple.destination_port),
        }
    }
}

/// One direction that has a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// It carries packets.
    pub armed: bool,
    /// It was armed, and its lease is over.
    pub expired: bool,
    /// It saw FIN, RST or SYN.
    pub closing: bool,
    /// Since when the kernel has let no packet of it through; none if it never has since it has this row.
    pub witnessed: Option<Duration>,
    /// The interface that its packets come in through; 0: not known yet.
    pub iif: Ifindex,
    /// The interface that they leave through.
    pub oif: Ifindex,
    /// Packets that were carried, modulo 2^32.
    pub packets: u32,
}

/// A connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// As the kernel finds it.
    pub named: Named,
    /// The kernel's number of it.
    pub id: u32,
    /// How nft calls its protocol.
    pub protocol: &'static str,
    /// Packets of the side that began, as they come in.
    pub original: Ends,
    /// Packets of the other side, as they come in.
    pub reply: Ends,
    /// The kernel's table that it is in.
    pub zone: u16,
    /// Its mark.
    pub mark: u32,
    /// Its status.
    pub status: Status,
    /// For how long it is known here; none if it is not.
    pub age: Option<Duration>,
    /// Why it has no rows; none if it has.
    pub not_fast: Option<NotFast>,
    /// Its rows: of its first tuple, and of the answers.
    pub ways: [Option<Way>; 2],
}

impl Way {
    /// A row, at a moment.
    pub fn of(state: RowState, control: FlowControl, moment: u32) -> Self {
        let age = moment.wrapping_sub(state.witness);
        let armed = is_armed(&state, &control, moment);
        Self {
            armed,
            expired: !armed && state.armed != 0 && u32::from(state.armed) == control.epoch && !state.closing,
            closing: state.closing,
            witnessed: (state.iif != 0).then(|| Duration::from_nanos(u64::from(age) << MOMENT)),
            iif: state.iif,
            oif: state.oif,
            packets: state.packets,
        }
    }

    /// In one word.
    pub fn state(&self) -> &'static str {
        if self.closing {
            "closing"
        } else if self.armed {
            "armed"
        } else if self.expired {
            "expired"
        } else {
            "unarmed"
        }
    }
}

impl View {
    /// One of the kernel's, where none is followed.
    pub fn unknown(seen: &AnySeen) -> Self {
        match seen {
            AnySeen::V4(seen) => unlisted(seen, None),
            AnySeen::V6(seen) => unlisted(seen, None),
        }
    }

    /// How it is called in lists: by the farthest that one of its directions is.
    pub fn state(&self) -> &'static str {
        let ways = || self.ways.iter().flatten();
        match self.not_fast {
            Some(NotFast::Asked) => "asked",
            Some(NotFast::Young) => "young",
            Some(_) => "kernel",
            None if ways().any(|way| way.closing) => "closing",
            None if ways().any(|way| way.armed) => "fast",
            None => "listed",
        }
    }

    /// Packets that were carried.
    pub fn packets(&self) -> u64 {
        self.ways.iter().flatten().map(|way| u64::from(way.packets)).sum()
    }
}

/// One that is known.
pub(super) fn known<A: Zoned, M: Memory<Word = AtomicU64>>(
    connections: &mut Connections<A, M>,
    key: Key<A>,
    control: FlowControl,
    (moment, now): Now,
) -> Option<View> {
    let known = *connections.get(&key)?;
    Some(known_view(connections, key, &known, control, (moment, now)))
}

fn known_view<A: Zoned, M: Memory<Word = AtomicU64>>(
    connections: &mut Connections<A, M>,
    key: Key<A>,
    known: &Known<A>,
    control: FlowControl,
    (moment, now): Now,
) -> View {
    let ways = match known.place {
        Place::Listed(rows) => rows.map(|row| Some(Way::of(connections.table().state(row), control, moment))),
        _ => [None; 2],
    };
    View {
        named: A::named(key),
        id: known.id,
        protocol: key.1.protocol.name(),
        original: key.1.into(),
        reply: known.reply.into(),
        zone: key.0,
        mark: known.mark,
        status: known.status,
        age: Some(now.saturating_sub(known.since)),
        not_fast: waits(known),
        ways,
    }
}

/// One that the kernel has.
pub(super) fn seen<A: Zoned, M: Memory<Word = AtomicU64>>(
    connections: &mut Connections<A, M>,
    seen: &Seen<A>,
    control: FlowControl,
    (moment, now): Now,
    room: bool,
) -> View {
    let key = (seen.zone, seen.original);
    let not_fast = connections.not_fast(seen);
    if let Some(known) = connections.get(&key).copied().filter(|known| known.id == seen.id) {
        let view = known_view(connections, key, &known, control, (moment, now));
        return View { not_fast: not_fast.or(view.not_fast), ..view };
    }
    unlisted(seen, not_fast.or(Some(if room { NotFast::Silent } else { NotFast::Full })))
}

fn unlisted<A: Zoned>(seen: &Seen<A>, not_fast: Option<NotFast>) -> View {
    View {
        named: A::named((seen.zone, seen.original)),
        id: seen.id,
        protocol: seen.original.protocol.name(),
        original: seen.original.into(),
        reply: seen.reply.into(),
        zone: seen.zone,
        mark: seen.mark.unwrap_or_default(),
        status: seen.status,
        age: None,
        not_fast: Some(not_fast.unwrap_or(NotFast::Off)),
        ways: [None; 2],
    }
}
