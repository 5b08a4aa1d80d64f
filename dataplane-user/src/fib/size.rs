//! How large the forwarding tables are made.

use dataplane_common::abi::{BRANCH, Features, GROUPS, Layout4, Layout6, VERDICT_SETS};

use crate::lower::Want;

/// Up to so many routes the small tables are tried.
const FEW: usize = 4096;
/// Routes longer than /24 are few: for so many routes there is a second-level group.
const ROUTES_PER_GROUP: u32 = 64;
/// A route is up to two words of the eight of a line, and lines have slack.
const ROUTES_PER_LINE: u32 = 2;
/// The most lines that roots can name, with two generations and all that comes before the trees.
const LINES: u32 = 1 << 20;

/// Sizes that maps are made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSizes {
    /// Of `FIB4`.
    pub ipv4: Layout4,
    /// Of `FIB6`.
    pub ipv6: Layout6,
    /// Elements of `GROUPS`.
    pub groups: u32,
    /// Lines of one generation of `FILTER`.
    pub filter: u32,
    /// Rows of `FLOWS4`, and of `FLOWS6`; a power of two.
    pub flows: u32,
    /// Whether there is a verdict cache.
    pub verdicts: bool,
}

impl TableSizes {
    /// For a machine with few routes and rules: 4.1 MB in all.
    pub const SMALL: Self = Self {
        ipv4: Layout4 { wide: false, groups: 1024 },
        ipv6: Layout6 { wide: false, escapes: 2048, lines: 8192 },
        groups: 4096,
        filter: 4096,
        flows: 1,
        verdicts: false,
    };
    /// For all of the Internet: 84 MB for IPv4, 26 MB for IPv6, 4.5 MB for groups.
    pub const FULL: Self = Self {
        ipv4: Layout4 { wide: true, groups: 1 << 14 },
        ipv6: Layout6 { wide: true, escapes: BRANCH as u32, lines: 1 << 17 },
        groups: GROUPS,
        filter: 4096,
        flows: 1,
        verdicts: false,
    };

    /// From these, what `want` needs: not less, and no more than it will use soon.
    #[must_use]
    pub fn fitting(self, want: &Want) -> Self {
        let groups = want.groups.last_key_value().map_or(0, |(index, _)| index + 1);
        let room = Self::for_routes(want.fib4.len(), want.fib6.len());
        self.joined(Self { groups: groups.next_power_of_two().min(GROUPS), ..room })
    }

    /// Large enough for both.
    #[must_use]
    pub fn joined(self, other: Self) -> Self {
        Self {
            ipv4: Layout4 { wide: self.ipv4.wide || other.ipv4.wide, groups: self.ipv4.groups.max(other.ipv4.groups) },
            ipv6: Layout6 {
                wide: self.ipv6.wide || other.ipv6.wide,
                escapes: self.ipv6.escapes.max(other.ipv6.escapes),
                lines: self.ipv6.lines.max(other.ipv6.lines),
            },
            groups: self.groups.max(other.groups),
            filter: self.filter.max(other.filter),
            flows: self.flows.max(other.flows),
            verdicts: self.verdicts || other.verdicts,
        }
    }

    /// Room for so many routes, if they are no more scattered than those of the Internet.
    pub fn for_routes(routes4: usize, routes6: usize) -> Self {
        let mut sizes = Self::SMALL;
        if routes4 > FEW {
            let groups = (routes4 as u32 / ROUTES_PER_GROUP).next_power_of_two();
            sizes.ipv4 = Layout4 { wide: true, groups: groups.clamp(sizes.ipv4.groups, Self::FULL.ipv4.groups) };
        }
        if routes6 > FEW {
            let lines = (routes6 as u32 / ROUTES_PER_LINE).next_power_of_two();
            let lines = lines.clamp(sizes.ipv6.lines, LINES);
            sizes.ipv6 = Layout6 { wide: true, escapes: Self::FULL.ipv6.escapes, lines };
        }
        sizes
    }

    /// From these, the next larger ones for the families that have found no place for some routes; the same when there are
    /// no larger ones.
    #[must_use]
    pub fn enlarged_for(self, [overflowed4, overflowed6]: [usize; 2]) -> Self {
        let mut sizes = self;
        if overflowed4 != 0 {
            let groups = if self.ipv4.wide { self.ipv4.groups * 2 } else { self.ipv4.groups };
            sizes.ipv4 = Layout4 { wide: true, groups: groups.min(BRANCH.into()) };
        }
        if overflowed6 != 0 {
            let lines = if self.ipv6.wide { self.ipv6.lines * 2 } else { self.ipv6.lines };
            sizes.ipv6 = Layout6 { wide: true, escapes: BRANCH.into(), lines: lines.min(LINES) };
        }
        sizes
    }

    /// From these, with room for a filter of so many lines, and for some to come.
    #[must_use]
    pub fn with_filter(self, lines: u32) -> Self {
        if lines <= self.filter {
            return self;
        }
        Self { filter: (lines + lines / 4).next_multiple_of(4096), ..self }
    }

    /// From these, with room for so many connections, and rows to spare: each has two, and a table that is at most half full
    /// finds room within a few rows. None: there is no flow table.
    #[must_use]
    pub fn with_flows(self, connections: Option<u32>) -> Self {
        let flows = connections.map_or(1, |connections| (4 * u64::from(connections)).next_power_of_two());
        Self { flows: u32::try_from(flows).unwrap_or(1 << 31), ..self }
    }

    /// From these, with a verdict cache if the filter wants one. One that is there stays.
    #[must_use]
    pub fn with_verdicts(self, wanted: bool) -> Self {
        Self { verdicts: self.verdicts || wanted, ..self }
    }

    /// Sets of the verdict cache for each of so many CPUs, a power of two: 131,072 rows of 68 bytes, and 256 MB in all.
    pub fn verdict_sets(self, cpus: u32) -> u32 {
        const SET: u32 = 8 * 64 + 32;
        let most = (256 << 20) / SET / cpus.max(1);
        if self.verdicts { VERDICT_SETS.min((most / 2 + 1).next_power_of_two()) } else { 1 }
    }

    /// What the program must know of them.
    pub fn features(self) -> Features {
        let mut features = Features::empty();
        features.set(Features::WIDE_FIB4, self.ipv4.wide);
        features.set(Features::WIDE_FIB6, self.ipv6.wide);
        features
    }
}

impl Default for TableSizes {
    fn default() -> Self {
        Self::SMALL
    }
}
