//! Which kernels are supported, and what each version added. `docs/kernels.md` has the same table; a test compares them.

use crate::control::row::Status;

/// Major and minor number of a kernel's version.
pub type Version = (u32, u32);

/// What a version of the kernel added that is in use here.
#[derive(Clone, Copy, Debug)]
pub struct Addition {
    /// The first version that has it.
    pub since: Version,
    /// What `doctor` says of a kernel without it.
    pub without: Status,
    /// What it is.
    pub what: &'static str,
    /// What happens without it.
    pub before: &'static str,
}

/// The oldest kernel on which the tests run (`cargo xtask test vm`).
pub const OLDEST: Version = (6, 1);

/// Newest first.
pub const ADDITIONS: [Addition; 4] = [
    Addition {
        since: (6, 6),
        without: Status::Warn,
        what: "TCX links",
        before: "tc programs are filters of the qdisc clsact, which outlive their pins",
    },
    Addition {
        since: (6, 3),
        without: Status::Warn,
        what: "drivers that report whether they transmit XDP frames",
        before: "XDP transmits only through known drivers",
    },
    Addition { since: OLDEST, without: Status::Warn, what: "the oldest tested version", before: "nothing is tested" },
    Addition {
        since: (5, 18),
        without: Status::Fail,
        what: "XDP on frames in several buffers",
        before: "the programs cannot be loaded",
    },
];

/// Major and minor number of a release as `uname -r` prints it.
pub fn version(release: &str) -> Option<Version> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// What this version lacks.
pub fn missing(version: Version) -> impl Iterator<Item = &'static Addition> {
    ADDITIONS.iter().filter(move |addition| version < addition.since)
}
