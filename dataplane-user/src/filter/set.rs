//! Sets: tables of elements by their masks.

use std::collections::HashSet;

use dataplane_common::abi::{ELEMENT_WORDS, Hash, MAX_CHAIN, TABLES, Tables, set_table};

use super::{
    BuildError,
    image::{Builder, Slots, slots_for, write_narrow},
};
use crate::lower::filter::{Elements, Words};

/// Writes the tables of a set.
pub(super) fn write(builder: &mut Builder, set: &Elements) -> Result<Tables, BuildError> {
    if set.tables.len() > TABLES as usize {
        return Err(BuildError::Shapes(set.tables.len()));
    }
    let lines = builder.lines(set.tables.len() as u32);
    for ((mask, values), line) in set.tables.iter().zip(lines..) {
        let slots = if set.narrow {
            write_narrow(builder, &values.iter().map(|value| value[0] as u32).collect::<Vec<_>>())
        } else {
            write_wide(builder, values)
        };
        let line = builder.line(line);
        line[..ELEMENT_WORDS].copy_from_slice(mask);
        line[set_table::SLOTS] = slots;
        line[set_table::NARROW] = set.narrow.into();
    }
    Ok(Tables { first: lines, count: set.tables.len() as u32, ..Tables::default() })
}

fn write_wide(builder: &mut Builder, values: &HashSet<Words>) -> u64 {
    let mut count = slots_for(values.len());
    let slots = loop {
        let mut slots = Slots::new(count);
        for value in values {
            let tag = value.iter().fold(Hash::START, |hash, word| hash.with(*word)).tag();
            slots.add(tag, value);
        }
        // A slot with too many elements needs more slots; equal tags are as unlikely as they can be.
        if slots.longest() <= MAX_CHAIN as usize {
            break slots;
        }
        count *= 2;
    };
    slots.write(builder, |builder, chain| {
        chain.iter().fold(0, |next, (_, value)| {
            let line = builder.lines(1);
            builder.line(line)[..ELEMENT_WORDS].copy_from_slice(*value);
            builder.line(line)[set_table::NEXT] = u64::from(next);
            line
        })
    })
}
