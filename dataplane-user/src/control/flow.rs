//! Connections in answers.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};

/// A row of `flow list`: a connection that the kernel tracks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRow {
    /// `tcp` or `udp`.
    pub proto: String,
    /// Packets of the side that began, as they come in.
    pub original: TupleRow,
    /// Packets of the other side, as they come in: where they differ from the reverse, addresses are translated.
    pub reply: TupleRow,
    /// The kernel's table that it is in.
    pub zone: u16,
    /// Its mark.
    pub mark: u32,
    /// `seen-reply`, `assured`, `snat`, `dnat`, `helper`, `offload`.
    pub status: Vec<String>,
    /// `fast`: one direction at least is carried; `listed`: both may be, and none is; `closing`; `asked`, `young`: soon;
    /// `kernel`.
    pub state: String,
    /// Why it has no rows, in one word; none where it has.
    #[serde(default)]
    pub reason: Option<String>,
    /// The same as a sentence.
    #[serde(default)]
    pub why: Option<String>,
    /// For how long it is known here, in milliseconds; none where it is not.
    #[serde(default)]
    pub age_ms: Option<u64>,
    /// Packets that were carried, modulo 2^32 for each direction.
    pub packets: u64,
    /// How packets of the side that began are carried; none where they have no row.
    #[serde(default)]
    pub forth: Option<WayRow>,
    /// And those of the other side.
    #[serde(default)]
    pub back: Option<WayRow>,
}

/// Addresses and ports of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TupleRow {
    /// Source address.
    pub saddr: IpAddr,
    /// Source port.
    pub sport: u16,
    /// Destination address.
    pub daddr: IpAddr,
    /// Destination port.
    pub dport: u16,
}

/// How one direction is carried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayRow {
    /// `armed`, `unarmed`: the kernel has not let a packet through under the rules in force; `expired`: not since the lease;
    /// `closing`.
    pub state: String,
    /// The interface that its packets come in through; none while that is not known.
    #[serde(default)]
    pub iif: Option<String>,
    /// The interface that they leave through.
    #[serde(default)]
    pub oif: Option<String>,
    /// Since when the kernel has let no packet through, in milliseconds; none where it never has.
    #[serde(default)]
    pub lease_age_ms: Option<u64>,
    /// Packets that were carried, modulo 2^32.
    pub packets: u32,
}

/// The row of the flow table that a packet has, in `explain` and `trace`. Names are those of [`FlowRow`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketFlow {
    /// `tcp` or `udp`.
    pub proto: String,
    /// Packets of the side that began, as they come in.
    pub original: TupleRow,
    /// Packets of the other side, as they come in.
    pub reply: TupleRow,
    /// Its mark.
    pub mark: u32,
    /// Which of both the packet is: `original` or `reply`.
    pub direction: String,
    /// How packets of that direction are carried.
    #[serde(flatten)]
    pub way: WayRow,
    /// What the packet leaves with; none where the row does not carry it.
    #[serde(default)]
    pub translated: Option<TupleRow>,
    /// Why the row does not carry it.
    #[serde(default)]
    pub why: Option<String>,
}

impl fmt::Display for TupleRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (source, destination) = (SocketAddr::new(self.saddr, self.sport), SocketAddr::new(self.daddr, self.dport));
        write!(f, "{source} > {destination}")
    }
}

impl fmt::Display for WayRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.state)?;
        if self.iif.is_none() && self.oif.is_none() {
            return Ok(());
        }
        let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "?".to_owned());
        write!(f, " {}>{}", name(&self.iif), name(&self.oif))
    }
}

impl fmt::Display for PacketFlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { proto, original, reply, direction, way, .. } = self;
        write!(f, "{proto} {original}, reply {reply}; {direction} {way}")?;
        if let Some(why) = &self.why {
            write!(f, ": {why}")?;
        }
        match &self.translated {
            Some(leaves) => write!(f, ": leaves as {leaves}"),
            None => Ok(()),
        }
    }
}

/// Connections in `stats`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowCounts {
    /// Rows in use, two for each connection.
    pub rows: u64,
    /// Connections that may have rows.
    pub max: u64,
    /// Rows that carry packets.
    pub armed: u64,
    /// Connections that have not announced yet that the kernel does not mind.
    pub asked: u64,
    /// Connections that found no room.
    pub full: u64,
    /// Connections that announce nothing.
    pub silent: u64,
    /// Packets that went through the kernel since the lease was over.
    pub renewed: u64,
    /// How often all rows ceased to count: with each change of netfilter's rules.
    pub epochs: u64,
    /// How often announcements of the kernel were lost.
    pub overruns: u64,
    /// How often all connections were listed.
    pub resyncs: u64,
    /// Announcements of connections.
    pub events: u64,
    /// Packets that rows carried.
    pub carried: u64,
}

/// Own rules that the kernel decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelRulesRow {
    /// The table of nftables that holds them.
    pub table: String,
    /// Packets that its rules and policies dropped; the driver counts them as left to the kernel.
    pub dropped_packets: u64,
    /// Their bytes.
    pub dropped_bytes: u64,
}
