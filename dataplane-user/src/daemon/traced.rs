//! The row of a packet that was traced, or tried.

use std::time::Duration;

use dataplane_common::abi::{
    FlowControl, FlowTrace,
    flow::{MOMENT, RowState, new_ports, ports, row, twin},
};

use crate::flow::{Ends, FlowFamily, Protocol, Tuple, Way};

/// The row of a packet, and what it did with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Traced {
    /// How nft calls its protocol.
    pub protocol: &'static str,
    /// Packets of the side that began, as they come in.
    pub original: Ends,
    /// Packets of the other side, as they come in.
    pub reply: Ends,
    /// The connection's mark.
    pub mark: u32,
    /// The packet is one of the answers.
    pub is_reply: bool,
    /// The row, as the packet left it.
    pub way: Way,
    /// What the packet leaves as; none if the row does not carry it.
    pub leaves: Option<Ends>,
    /// No row may be armed: changed rules are not judged yet.
    pub held: bool,
    /// It is armed, by packets that came in through another interface.
    pub elsewhere: bool,
    /// How long a row stays armed.
    pub lease: Duration,
}

impl Traced {
    /// The row in the record of a packet that came in through `iif`; none if the packet has none.
    pub(super) fn of(trace: &FlowTrace, iif: u32) -> Option<Self> {
        match trace.family {
            4 => read::<u32>(trace, iif),
            6 => read::<u128>(trace, iif),
            _ => None,
        }
    }
}

fn read<A: FlowFamily>(trace: &FlowTrace, iif: u32) -> Option<Traced> {
    let (words, layout) = (&trace.words, A::LAYOUT);
    let protocol = Protocol::from_number(ports::protocol(words[layout.ports]) as u8)?;
    let tuple = |at: usize, [source_port, destination_port]: [u16; 2]| {
        let mut both = [0; 4];
        both[..layout.addresses].copy_from_slice(&words[at..at + layout.addresses]);
        let (destination, source) = A::addresses(both);
        Tuple { source, destination, source_port, destination_port, protocol }
    };
    let came = tuple(0, ports::pair(words[layout.ports]).map(|port| port as u16));
    let new = new_ports::pair(words[layout.new_ports]);
    let leaves = tuple(layout.new_addresses, [(new >> 16) as u16, new as u16]);
    let is_reply = words[layout.ports] & ports::REPLY != 0;
    let (original, reply) = if is_reply { (leaves.reversed(), came) } else { (came, leaves.reversed()) };
    let state = RowState::of(words[row::WAY], words[row::STAGE], words[row::LEASE]);
    let control = FlowControl { epoch: trace.epoch, lease: trace.lease, ..FlowControl::default() };
    let way = Way::of(state, control, trace.now);
    Some(Traced {
        protocol: protocol.name(),
        original: original.into(),
        reply: reply.into(),
        mark: twin::mark(words[layout.twin]),
        is_reply,
        way,
        leaves: (trace.carried != 0).then(|| leaves.into()),
        held: trace.arming == 0,
        elsewhere: way.armed && way.iif != iif,
        lease: Duration::from_nanos(u64::from(trace.lease) << MOMENT),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace() -> FlowTrace {
        let mut trace = FlowTrace { family: 4, epoch: 5, arming: 5, lease: 100, now: 150, ..FlowTrace::default() };
        trace.words[..8].copy_from_slice(&[
            0xc612_0102_c612_0002,
            ports::of(40000, 443, 6) | ports::TRANSLATES,
            0xc612_0102_c612_0101,
            new_ports::of(1024, 443, 1, 2),
            twin::of(9, 0x10),
            0x3 << 32 | 0x4,
            5,
            0x7 << 32 | 0x64,
        ]);
        trace
    }

    fn end(text: &str) -> std::net::SocketAddr {
        text.parse().expect("an address with a port")
    }

    #[test]
    fn both_tuples_are_in_a_row() {
        let (inside, outside) = (end("198.18.0.2:40000"), end("198.18.1.1:1024"));
        let server = end("198.18.1.2:443");
        let seen = Traced::of(&FlowTrace { carried: 1, ..trace() }, 3).expect("a row");
        assert_eq!((seen.protocol, seen.mark, seen.is_reply), ("tcp", 0x10, false));
        assert_eq!(seen.original, Ends { source: inside, destination: server });
        assert_eq!(seen.reply, Ends { source: server, destination: outside });
        assert_eq!(seen.leaves, Some(Ends { source: outside, destination: server }));
        assert_eq!((seen.way.state(), seen.way.packets, seen.way.iif, seen.way.oif), ("armed", 7, 3, 4));
        assert!(!seen.elsewhere && !seen.held);
        // The same words in a row of the other direction.
        let mut answers = trace();
        answers.words[1] |= ports::REPLY;
        let seen = Traced::of(&answers, 3).expect("a row");
        assert_eq!(seen.reply, Ends { source: inside, destination: server });
        assert_eq!(seen.original, Ends { source: server, destination: outside });
        assert_eq!(seen.leaves, None);
    }

    #[test]
    fn a_row_says_why_it_carries_nothing() {
        let of = |change: fn(&mut FlowTrace), iif| {
            let mut trace = trace();
            change(&mut trace);
            Traced::of(&trace, iif).map(|seen| (seen.way.state(), seen.held, seen.elsewhere))
        };
        for (change, iif, expected) in [
            ((|_| {}) as fn(&mut FlowTrace), 3, Some(("armed", false, false))),
            (|_| {}, 4, Some(("armed", false, true))),
            (|trace| trace.now = 201, 3, Some(("expired", false, false))),
            (|trace| trace.epoch = 6, 3, Some(("unarmed", false, false))),
            (|trace| (trace.epoch, trace.arming) = (6, 0), 3, Some(("unarmed", true, false))),
            (|trace| trace.words[6] |= 1 << 32, 3, Some(("closing", false, false))),
            (|trace| trace.family = 0, 3, None),
        ] {
            assert_eq!(of(change, iif), expected);
        }
    }
}
