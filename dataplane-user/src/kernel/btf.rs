//! Where fields of the kernel's own structures are: BTF (`Documentation/bpf/btf.rst`), as far as that takes.
//!
//! aya reads BTF too, but keeps the fields to itself.

use std::{fs, io};

use thiserror::Error;

/// The types of the running kernel.
const FILE: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
/// Bytes of a type without what its kind adds.
const TYPE: usize = 12;
/// Bytes of a field.
const FIELD: usize = 12;

/// Why an offset is not known.
#[derive(Debug, Error)]
pub enum BtfError {
    /// There is none.
    #[error("cannot read {FILE}: {0}; boot a kernel built with CONFIG_DEBUG_INFO_BTF=y")]
    Read(#[from] io::Error),
    /// It is not what its documentation says.
    #[error("{FILE} is not understood; this kernel is newer than this program")]
    Malformed,
    /// The kernel has no such field.
    #[error("this kernel has no {structure}.{field}; it is newer than this program")]
    Absent {
        /// In which structure.
        structure: &'static str,
        /// Which field.
        field: String,
    },
}

/// The types of the kernel.
pub(super) struct Btf {
    bytes: Vec<u8>,
    /// Where each type begins; types count from 1.
    types: Vec<usize>,
    names: usize,
}

/// What a type is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Composite,
    /// Another name or quality of a type.
    Alias,
    Other,
}

impl Btf {
    /// Those of the running kernel.
    pub(super) fn of_kernel() -> Result<Self, BtfError> {
        Self::parse(fs::read(FILE)?).ok_or(BtfError::Malformed)
    }

    fn parse(bytes: Vec<u8>) -> Option<Self> {
        let word = |at| word(&bytes, at);
        let magic = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
        if magic != MAGIC {
            return None;
        }
        let header = word(4)? as usize;
        let (start, names) = (header + word(8)? as usize, header + word(16)? as usize);
        let end = start + word(12)? as usize;
        let (mut types, mut at) = (Vec::new(), start);
        while at < end {
            types.push(at);
            let info = word(at + 4)?;
            let count = (info & 0xffff) as usize;
            at += TYPE
                + match info >> 24 & 0x1f {
                    // Integer, variable, tag of a declaration.
                    1 | 14 | 17 => 4,
                    // Array.
                    3 => 12,
                    // Structure, union, data section, enumeration of 64 bits.
                    4 | 5 | 15 | 19 => 12 * count,
                    // Enumeration, signature.
                    6 | 13 => 8 * count,
                    // Pointer, forward, names and qualities, function, float, tag of a type.
                    2 | 7..=12 | 16 | 18 => 0,
                    _ => return None,
                };
        }
        Some(Self { bytes, types, names })
    }

    /// Bytes from the start of a structure to a field of it; dots lead into structures within.
    pub(super) fn offset(&self, structure: &'static str, field: &str) -> Result<u64, BtfError> {
        let absent = || BtfError::Absent { structure, field: field.to_owned() };
        let is_it = |id: &u32| self.kind(*id) == Some(Kind::Composite) && self.name(*id) == Some(structure.as_bytes());
        let mut id = (1..=self.types.len() as u32).find(is_it).ok_or_else(absent)?;
        let mut bits = 0;
        for name in field.split('.') {
            let (of, offset) = self.field(id, name.as_bytes()).ok_or_else(absent)?;
            (id, bits) = (of, bits + offset);
        }
        Ok(bits / 8)
    }

    /// The type of a field and the bits in front of it. What has no name is looked into.
    fn field(&self, id: u32, name: &[u8]) -> Option<(u32, u64)> {
        let mut id = id;
        while self.kind(id)? == Kind::Alias {
            id = word(&self.bytes, self.start(id)? + 8)?;
        }
        if self.kind(id)? != Kind::Composite {
            return None;
        }
        let start = self.start(id)?;
        let info = word(&self.bytes, start + 4)?;
        // With bit fields in it, the upper byte is how many bits a field has.
        let mask = if info >> 31 != 0 { 0x00ff_ffff } else { u32::MAX };
        (0..(info & 0xffff) as usize).find_map(|number| {
            let at = start + TYPE + number * FIELD;
            let (of, offset) = (word(&self.bytes, at + 4)?, u64::from(word(&self.bytes, at + 8)? & mask));
            match self.text(word(&self.bytes, at)?)? {
                [] => self.field(of, name).map(|(id, inner)| (id, offset + inner)),
                known if known == name => Some((of, offset)),
                _ => None,
            }
        })
    }

    fn start(&self, id: u32) -> Option<usize> {
        self.types.get((id as usize).checked_sub(1)?).copied()
    }

    fn kind(&self, id: u32) -> Option<Kind> {
        let info = word(&self.bytes, self.start(id)? + 4)?;
        Some(match info >> 24 & 0x1f {
            4 | 5 => Kind::Composite,
            8..=11 | 18 => Kind::Alias,
            _ => Kind::Other,
        })
    }

    fn name(&self, id: u32) -> Option<&[u8]> {
        self.text(word(&self.bytes, self.start(id)?)?)
    }

    fn text(&self, offset: u32) -> Option<&[u8]> {
        let text = self.bytes.get(self.names + offset as usize..)?;
        text.split(|byte| *byte == 0).next()
    }
}

/// A number in the host's order.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A type: name, kind, and the words behind them.
    fn kind(name: u32, kind: u32, count: u32, rest: &[u32]) -> Vec<u32> {
        [&[name, kind << 24 | count], rest].concat()
    }

    fn btf(types: &[Vec<u32>], names: &str) -> Vec<u8> {
        let types = types.concat();
        let length = 4 * types.len() as u32;
        let head = [u32::from(MAGIC) | 1 << 16, 24, 0, length, length, names.len() as u32];
        let words = head.iter().chain(&types).flat_map(|word| word.to_ne_bytes());
        words.chain(names.bytes()).collect()
    }

    #[test]
    fn fields_are_found_in_all_that_wraps_them() {
        //            1    5    11    17 20
        let names = "\0int\0outer\0alias\0in\0deep\0";
        let types = [
            kind(1, 1, 0, &[4, 32]),                    // 1: int
            kind(0, 5, 1, &[4, 17, 1, 0]),              // 2: union { int in; }
            kind(0, 4, 2, &[12, 20, 1, 32, 0, 2, 64]),  // 3: struct { 4 bytes; int deep; union 2; }
            kind(11, 8, 0, &[3]),                       // 4: typedef 3 alias
            kind(5, 4, 2, &[40, 11, 4, 64, 0, 3, 160]), // 5: struct outer { 8 bytes; alias alias; struct 3; }
        ];
        let btf = Btf::parse(btf(&types, names)).expect("types");
        let rows = [
            ("alias", Some(8)),
            ("alias.deep", Some(12)),
            ("alias.in", Some(16)),
            ("deep", Some(24)),
            ("in", Some(28)),
        ];
        for (field, expected) in rows {
            assert_eq!(btf.offset("outer", field).ok(), expected, "{field}");
        }
        for (structure, field) in [("outer", "nothing"), ("outer", "deep.in"), ("int", "deep"), ("alias", "deep")] {
            let error = btf.offset(structure, field).expect_err("no such field").to_string();
            assert!(error.contains(structure) && error.contains(field), "{error}");
        }
    }

    #[test]
    fn what_is_no_btf_is_refused() {
        assert!(Btf::parse(Vec::new()).is_none());
        assert!(Btf::parse(vec![0; 64]).is_none());
        let whole = btf(&[kind(0, 31, 0, &[0])], "\0");
        assert!(Btf::parse(whole).is_none(), "a kind that is not known has no length that is known");
    }

    #[test]
    fn the_btf_of_this_kernel_has_the_offsets() {
        let Ok(btf) = Btf::of_kernel() else {
            println!("SKIPPED: needs a kernel with BTF");
            return;
        };
        for (structure, field) in [("net_device", "ifindex"), ("net_device", "nd_net.net"), ("net", "ns.inum")] {
            let offset = btf.offset(structure, field).expect("a field");
            println!("{structure}.{field} is at {offset}");
            assert!(offset % 4 == 0 && offset < 1 << 16, "{structure}.{field}: {offset}");
        }
    }
}
