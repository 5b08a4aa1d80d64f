//! Which connections have rows, and that the table grows with them.

use std::sync::atomic::AtomicU64;

use super::{
    NoRoom,
    state::{Connections, Key, Known, Place, Zoned},
    table::Table,
};
use crate::{fib::Memory, retired::Grace};

impl<A: Zoned, M: Memory<Word = AtomicU64>> Connections<A, M> {
    /// Writes the rows of a connection.
    pub(super) fn list(&mut self, key: Key<A>) {
        let Some(known) = self.known.get(&key).copied() else { return };
        let below = self.table.used() / 2 < self.max;
        let outcome = if below { self.table.insert(&key.1, &known.reply, known.mark) } else { Err(NoRoom::Full) };
        match outcome {
            Ok(rows) => self.put(&key, Place::Listed(rows)),
            Err(NoRoom::Full) if below && self.table.would_help() => {
                self.crowded = true;
                self.put(&key, Place::Crowded);
            }
            // It is not kept: how many the kernel has is not for us to remember.
            Err(NoRoom::Full) => {
                self.counts.full += 1;
                self.remove(&key);
            }
            Err(NoRoom::Taken(row)) => match self.owner(row) {
                // The kernel has at most one with a tuple in a zone: the end of the other one is about to be announced.
                Some(owner) if owner.0 == key.0 => {
                    self.remove(&owner);
                    self.list(key);
                }
                Some(owner) => {
                    self.unlist(&owner);
                    self.put(&owner, Place::TwoZones);
                    self.put(&key, Place::TwoZones);
                }
                None => self.remove(&key),
            },
        }
    }

    /// The connection that a row is of.
    fn owner(&mut self, row: u32) -> Option<Key<A>> {
        let other = self.table.twin(row);
        let pair = [[row, other], [other, row]];
        let tuples = [self.table.tuple(row), self.table.tuple(other)];
        tuples.into_iter().flatten().find_map(|tuple| {
            let keys = self.zones.keys().map(|zone| (*zone, tuple));
            keys.into_iter().find(|key| match self.known.get(key).map(|known| known.place) {
                Some(Place::Listed(rows)) => pair.contains(&rows),
                _ => false,
            })
        })
    }

    /// Frees the rows of a connection.
    pub(super) fn unlist(&mut self, key: &Key<A>) {
        if let Some(Known { place: Place::Listed(rows), .. }) = self.known.get(key) {
            self.table.free(*rows);
        }
    }

    /// Whether the table is to grow.
    pub fn is_crowded(&self) -> bool {
        self.crowded || self.table.is_crowded()
    }

    /// Goes on in a larger part of the memory, while no row carries packets. What rows have counted stays.
    pub fn grow(&mut self, passed: &Grace) {
        let listed = self.listed();
        self.table.grow(passed, listed.len() as u32);
        self.list_all(&listed);
    }

    /// Goes on with another table, in which nothing is yet.
    pub fn replace(&mut self, table: Table<A, M>) {
        let listed = self.listed();
        self.table = table;
        self.table.reserve(listed.len() as u32);
        self.list_all(&listed);
    }

    /// All that have rows or are to have them, and what these have carried.
    fn listed(&mut self) -> Vec<(Key<A>, [u32; 2])> {
        let table = &mut self.table;
        let listed = self.known.iter().filter_map(|(key, known)| match known.place {
            Place::Listed(rows) => Some((*key, rows.map(|row| table.state(row).packets))),
            Place::Crowded => Some((*key, [0; 2])),
            _ => None,
        });
        listed.collect()
    }

    /// Lists all of them in a table that has no rows.
    fn list_all(&mut self, listed: &[(Key<A>, [u32; 2])]) {
        self.crowded = false;
        // The rows of before are not theirs any more.
        for (key, _) in listed {
            self.put(key, Place::Asked);
        }
        for (key, packets) in listed {
            self.list(*key);
            if let Some(Known { place: Place::Listed(rows), .. }) = self.known.get(key) {
                self.table.set_packets(*rows, *packets);
            }
        }
    }
}
