//! The rows that the kernel half finds connections by (`abi::flow`), as memory.

use std::{
    marker::PhantomData,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use dataplane_common::{
    abi::{
        FlowControl,
        flow::{self, FLOW_PROBES, RowLayout, RowState, new_ports, ports, row, twin},
    },
    decide::{Family as _, V4, V6},
    wire::Address6,
};

use super::{Protocol, Tuple};
use crate::{
    fib::Memory,
    model::Family,
    retired::{Grace, Retired},
};

/// Rows that are in use of a new table at most. Few connections in a large memory would have a page for each row, and packets
/// would wait for its translation longer than for the row.
const FIRST: u32 = 4096;

/// A family whose connections have rows.
pub trait FlowFamily: Family {
    /// Where the words of a row are.
    const LAYOUT: RowLayout;

    /// Both addresses, as the kernel half compares them.
    fn words(destination: Self, source: Self) -> [u64; 4];
    /// Destination and source out of them.
    fn addresses(words: [u64; 4]) -> (Self, Self);
}

impl FlowFamily for u32 {
    const LAYOUT: RowLayout = RowLayout::V4;

    fn words(destination: Self, source: Self) -> [u64; 4] {
        let mut words = [0; 4];
        V4::fill(&mut words, destination, source);
        words
    }

    fn addresses([both, ..]: [u64; 4]) -> (Self, Self) {
        ((both >> 32) as Self, both as Self)
    }
}

impl FlowFamily for u128 {
    const LAYOUT: RowLayout = RowLayout::V6;

    fn words(destination: Self, source: Self) -> [u64; 4] {
        let halves = |address: u128| Address6 { high: (address >> 64) as u64, low: address as u64 };
        let mut words = [0; 4];
        V6::fill(&mut words, halves(destination), halves(source));
        words
    }

    fn addresses(words: [u64; 4]) -> (Self, Self) {
        let [a, b, c, d] = words.map(Self::from);
        (a << 64 | b, c << 64 | d)
    }
}

/// Why a connection gets no rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// There is no free row near where it would be looked for.
    Full,
    /// A row of another connection has one of its tuples.
    Taken(u32),
}

/// Whether a row carries packets. `moment`: now, as leases are counted.
pub fn is_armed(state: &RowState, control: &FlowControl, moment: u32) -> bool {
    let in_epoch = state.armed != 0 && u32::from(state.armed) == control.epoch;
    in_epoch && !state.closing && moment.wrapping_sub(state.witness) <= control.lease
}

/// The rows of one family.
pub struct Table<A, M> {
    memory: M,
    mask: u32,
    /// Rows that the memory has.
    limit: u32,
    seed: u64,
    /// A bit for each row that packets may still be led to, although it is free.
    held: Vec<u64>,
    /// A bit for each row in use.
    taken: Vec<u64>,
    /// Those of them that were freed since the last [`Self::retire`].
    retired: Vec<u32>,
    /// Rows in use.
    used: u32,
    /// Packets that rows carried which are free now.
    carried: u64,
    family: PhantomData<A>,
}

impl<A: FlowFamily, M: Memory<Word = AtomicU64>> Table<A, M> {
    /// Frees what another table left in `memory`, while nothing is armed. It grows up to the largest power of two of rows that
    /// fits.
    pub fn new(memory: M, seed: u64) -> Self {
        let limit = (memory.size() / A::LAYOUT.words).max(1);
        let limit = 1_u32 << limit.ilog2().min(31);
        let (held, taken) = (vec![0; limit.div_ceil(64) as usize], vec![0; limit.div_ceil(64) as usize]);
        let (mask, retired) = (limit - 1, Vec::new());
        let mut table =
            Self { memory, mask, limit, seed, held, taken, retired, used: 0, carried: 0, family: PhantomData };
        table.clear();
        table.mask = limit.min(FIRST) - 1;
        table
    }

    /// Frees all rows, and forgets which of them were held.
    fn clear(&mut self) {
        for row in 0..=self.mask {
            if !ports::is_free(self.load(row, A::LAYOUT.ports)) {
                self.publish(row, ports::FREE);
            }
        }
        self.held.fill(0);
        self.taken.fill(0);
        self.retired.clear();
        self.used = 0;
    }

    /// Whether there is memory for more rows.
    fn may_grow(&self) -> bool {
        self.mask + 1 < self.limit
    }

    /// Whether more rows are in use than half of them, and there may be more.
    pub fn is_crowded(&self) -> bool {
        self.may_grow() && self.used > self.mask.div_ceil(2)
    }

    /// Whether what finds no room finds some in a larger table: not because one place of a nearly empty one is full.
    pub fn would_help(&self) -> bool {
        self.may_grow() && self.used > self.mask / 4
    }

    /// Makes room for so many connections: at most half of the rows are in use then, where the memory has as many. Rows are
    /// looked for elsewhere from then on, so all are freed: none of them carries a packet, and the grace period is for those
    /// that one has carried.
    pub fn grow(&mut self, _passed: &Grace, connections: u32) {
        self.clear();
        // At least twice as many as before: some connection may have found no room although there was some.
        self.mask = self.limit.min((self.mask + 1).saturating_mul(2)) - 1;
        self.reserve(connections);
    }

    /// The same of a table that has no rows yet.
    pub fn reserve(&mut self, connections: u32) {
        debug_assert_eq!(self.used, 0, "rows would be looked for where they are not");
        let rows = connections.saturating_mul(4).checked_next_power_of_two().unwrap_or(self.limit);
        self.mask = rows.clamp(self.mask + 1, self.limit) - 1;
    }

    /// The number of rows, minus one.
    pub fn mask(&self) -> u32 {
        self.mask
    }

    /// Rows in use.
    pub fn used(&self) -> u32 {
        self.used
    }

    /// Packets that rows carried which are free now.
    pub fn carried(&self) -> u64 {
        self.carried
    }

    /// Lets go of memory that is at hand.
    pub fn memory(&mut self) -> &mut M {
        &mut self.memory
    }

    fn load(&mut self, row: u32, word: usize) -> u64 {
        self.memory.word(row as usize * A::LAYOUT.words + word).load(Ordering::Relaxed)
    }

    fn store(&mut self, row: u32, word: usize, value: u64) {
        self.memory.word(row as usize * A::LAYOUT.words + word).store(value, Ordering::Relaxed);
    }

    /// Writes the word by which a row is found: all others are written before that.
    fn publish(&mut self, row: u32, word: u64) {
        let at = row as usize * A::LAYOUT.words + A::LAYOUT.ports;
        self.memory.word(at).store(word, Ordering::Release);
    }

    fn is_held(&self, row: u32) -> bool {
        self.held[row as usize / 64] & 1 << (row % 64) != 0
    }

    fn key(tuple: &Tuple<A>) -> ([u64; 4], u64) {
        let port = ports::of(tuple.source_port.into(), tuple.destination_port.into(), tuple.protocol.number().into());
        (A::words(tuple.destination, tuple.source), port)
    }

    /// Where a tuple is, or else where it may be put, other than at `not`.
    fn search(&mut self, tuple: &Tuple<A>, not: Option<u32>) -> Result<u32, NoRoom> {
        let (addresses, port) = Self::key(tuple);
        let count = A::LAYOUT.addresses;
        let home = flow::home(self.seed, &addresses, count, port);
        let mut room = None;
        for probe in 0..FLOW_PROBES.min(self.mask + 1) {
            let row = home.wrapping_add(probe) & self.mask;
            let found = self.load(row, A::LAYOUT.ports);
            let free = ports::is_free(found) || ports::protocol(found) == ports::protocol(ports::USED);
            if free && Some(row) != not && !self.is_held(row) {
                room = room.or(Some(row));
            }
            if ports::is_free(found) && Some(row) != not {
                break;
            }
            if !free && ports::agree(found, port) && (0..count).all(|word| self.load(row, word) == addresses[word]) {
                return Err(NoRoom::Taken(row));
            }
        }
        room.ok_or(NoRoom::Full)
    }

    /// Writes both rows of a connection: those of its first tuple, and of its answers.
    ///
    /// # Errors
    /// It gets none.
    pub fn insert(&mut self, original: &Tuple<A>, reply: &Tuple<A>, mark: u32) -> Result<[u32; 2], NoRoom> {
        let first = self.search(original, None)?;
        let second = self.search(reply, Some(first))?;
        let words = [
            self.write(first, original, &reply.reversed(), twin::of(second, mark), 0),
            self.write(second, reply, &original.reversed(), twin::of(first, mark), ports::REPLY),
        ];
        self.publish(first, words[0]);
        self.publish(second, words[1]);
        for row in [first, second] {
            self.taken[row as usize / 64] |= 1 << (row % 64);
        }
        self.used += 2;
        Ok([first, second])
    }

    /// Writes all of a row but the word by which it is found, which it returns.
    fn write(&mut self, row: u32, key: &Tuple<A>, new: &Tuple<A>, twin: u64, flag: u64) -> u64 {
        let layout = A::LAYOUT;
        let ((old_addresses, port), (new_addresses, new_port)) = (Self::key(key), Self::key(new));
        for word in 0..layout.addresses {
            self.store(row, word, old_addresses[word]);
            self.store(row, layout.new_addresses + word, new_addresses[word]);
        }
        let pair = |tuple: &Tuple<A>| [u64::from(tuple.source_port) << 16 | u64::from(tuple.destination_port)];
        let by_addresses = flow::change(&old_addresses[..layout.addresses], &new_addresses[..layout.addresses]);
        let by_ports = flow::change(&pair(key), &pair(new));
        let ports = new_ports::of(new.source_port, new.destination_port, by_addresses, by_ports);
        self.store(row, layout.new_ports, ports);
        self.store(row, layout.twin, twin);
        for word in [row::WAY, row::STAGE, row::LEASE] {
            self.store(row, word, 0);
        }
        let translates = (old_addresses, port) != (new_addresses, new_port);
        port | flag | if translates { ports::TRANSLATES } else { 0 }
    }

    /// Frees both rows of a connection. They are not used again before a grace period.
    pub fn free(&mut self, rows: [u32; 2]) {
        for row in rows {
            self.publish(row, ports::USED);
            self.carried += u64::from(self.state(row).packets);
            self.held[row as usize / 64] |= 1 << (row % 64);
            self.taken[row as usize / 64] &= !(1 << (row % 64));
            self.retired.push(row);
        }
        self.used -= 2;
    }

    /// Changes the mark of a connection.
    pub fn set_mark(&mut self, rows: [u32; 2], mark: u32) {
        for row in rows {
            let word = self.load(row, A::LAYOUT.twin);
            self.store(row, A::LAYOUT.twin, twin::of(twin::row(word), mark));
        }
    }

    /// Packets that a connection's rows have carried before it had these.
    pub fn set_packets(&mut self, rows: [u32; 2], packets: [u32; 2]) {
        for (row, packets) in rows.into_iter().zip(packets) {
            self.store(row, row::LEASE, u64::from(packets) << (8 * row::lease::PACKETS));
        }
    }

    /// What the kernel half has seen of a row.
    pub fn state(&mut self, row: u32) -> RowState {
        RowState::of(self.load(row, row::WAY), self.load(row, row::STAGE), self.load(row, row::LEASE))
    }

    /// How many rows are armed of those in use among these, 64 for each number, and how many packets they have carried. Rows that
    /// have been closing for a lease are opened again: had the connection ended, the kernel would have announced it, and they
    /// would be free.
    pub fn survey(&mut self, words: Range<usize>, control: &FlowControl, moment: u32) -> [u64; 2] {
        let mut sums = [0; 2];
        for word in words.start..words.end.min(self.taken.len()) {
            let mut taken = self.taken[word];
            while taken != 0 {
                let row = word as u32 * 64 + taken.trailing_zeros();
                taken &= taken - 1;
                let state = self.state(row);
                if state.closing && moment.wrapping_sub(state.witness) > control.lease {
                    self.store(row, row::STAGE, 0);
                }
                sums[0] += u64::from(is_armed(&state, control, moment));
                sums[1] += u64::from(state.packets);
            }
        }
        sums
    }

    /// The row of the other direction.
    pub fn twin(&mut self, row: u32) -> u32 {
        twin::row(self.load(row, A::LAYOUT.twin))
    }

    /// The packets that a row is for; none if it is free.
    pub fn tuple(&mut self, row: u32) -> Option<Tuple<A>> {
        let port = self.load(row, A::LAYOUT.ports);
        let protocol = Protocol::from_number(ports::protocol(port) as u8)?;
        let mut words = [0; 4];
        for (at, word) in words.iter_mut().enumerate().take(A::LAYOUT.addresses) {
            *word = self.load(row, at);
        }
        let (destination, source) = A::addresses(words);
        let [source_port, destination_port] = ports::pair(port).map(|port| port as u16);
        Some(Tuple { source, destination, source_port, destination_port, protocol })
    }

    /// The rows that were freed since this was called last, if there are any.
    pub fn retire(&mut self) -> Option<Retired<Vec<u32>>> {
        let retired = std::mem::take(&mut self.retired);
        (!retired.is_empty()).then(|| Retired::new(retired))
    }

    /// No packet is led to these any more: they can be used again, and where no search has to pass them, none does.
    pub fn release(&mut self, rows: &[u32]) {
        for row in rows {
            self.held[*row as usize / 64] &= !(1 << (row % 64));
        }
        for row in rows {
            let mut row = *row;
            let next = self.load(row.wrapping_add(1) & self.mask, A::LAYOUT.ports);
            if !ports::is_free(next) {
                continue;
            }
            for _ in 0..=self.mask {
                let word = self.load(row, A::LAYOUT.ports);
                if ports::protocol(word) != ports::protocol(ports::USED) || self.is_held(row) {
                    break;
                }
                self.publish(row, ports::FREE);
                row = row.wrapping_sub(1) & self.mask;
            }
        }
    }
}
