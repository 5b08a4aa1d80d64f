//! Lists that may be long, a page at a time: what the ring does for one page takes no longer where the list is.

use std::{net::IpAddr, ops::Bound};

use super::Daemon;
use crate::{
    control::{
        page::{Cursor, Part},
        protocol::{Data, Failure, FailureKind, Request},
        row::{NeighbourRow, RouteRow, RuleRow},
        set_row::{DynamicRow, SetRow},
    },
    model::{Candidates, Family, Neighbour, NeighbourState, Prefix, Routes, TABLE_DEFAULT, TABLE_MAIN},
    rule::ChainName,
};

/// Rows of a page.
const ROWS: usize = 256;
/// Bytes of a page, about: those of its rows that can be of any length.
const BYTES: usize = 32 << 10;
/// Tables of which routes are listed, in this order.
const TABLES: [u32; 2] = [TABLE_MAIN, TABLE_DEFAULT];

/// The table that is named, or the usual ones.
fn tables(named: Option<u32>) -> Vec<u32> {
    named.map_or_else(|| TABLES.to_vec(), |table| vec![table])
}

/// How much is on a page.
#[derive(Default)]
struct Page {
    rows: usize,
    bytes: usize,
}

impl Page {
    /// So much more is on it; whether it is full.
    fn takes(&mut self, rows: usize, bytes: usize) -> bool {
        (self.rows, self.bytes) = (self.rows + rows, self.bytes + bytes);
        self.rows >= ROWS || self.bytes >= BYTES
    }
}

impl Daemon {
    /// The page of a list that begins somewhere.
    pub(super) fn list(&self, request: &Request, from: Option<&Cursor>) -> Result<Part, Failure> {
        let part = |(data, next): (Data, _)| Part { reply: data.into(), next };
        let rows = match request {
            Request::RouteList { prefix: Some(prefix), table } => {
                (Data::Routes(self.routes_to(prefix, &tables(*table))?), None)
            }
            Request::RouteList { prefix: None, table } => self.route_page(&tables(*table), from),
            Request::RuleList { chain } => self.rule_page(*chain, from)?,
            Request::SetList { name } => self.set_page(name.as_deref(), from)?,
            Request::NeighList => self.neighbour_page(from),
            other => {
                return Err(Failure::new(FailureKind::Failed, format!("`{}` is no list", other.verb())));
            }
        };
        Ok(part(rows))
    }

    /// The routes of a prefix in some tables, as `ip route` lists them.
    fn routes_to(&self, text: &str, tables: &[u32]) -> Result<Vec<RouteRow>, Failure> {
        fn rows<A: Family>(daemon: &Daemon, routes: &Routes<A>, text: &str, tables: &[u32]) -> Option<Vec<RouteRow>> {
            let (address, length) = text.split_once('/')?;
            let address = A::from_ip(address.parse().ok()?)?;
            let prefix = Prefix::new(address, length.parse().ok().filter(|length| u32::from(*length) <= A::BITS)?);
            // Not what only means the same.
            if prefix.to_string() != text {
                return None;
            }
            let found = tables.iter().filter_map(|table| Some((*table, routes.at(*table, prefix)?)));
            let row = |(table, candidates): (u32, _)| {
                Candidates::iter(candidates).map(move |route| daemon.route_row(table, prefix, route))
            };
            Some(found.flat_map(row).collect())
        }
        let found = rows(self, &self.observed.model().routes4, text, tables)
            .or_else(|| rows(self, &self.observed.model().routes6, text, tables));
        found.filter(|rows| !rows.is_empty()).ok_or_else(|| {
            let message = format!(
                "no route to {text} in the mirror; `dataplane route list` shows all, `route get` the way of one address"
            );
            Failure::new(FailureKind::NotFound, message)
        })
    }

    fn route_page(&self, tables: &[u32], from: Option<&Cursor>) -> (Data, Option<Cursor>) {
        let (mut rows, mut page) = (Vec::new(), Page::default());
        let six = matches!(from, Some(Cursor::Routes { address: IpAddr::V6(_), .. }));
        let mut next = None;
        if !six {
            next = self.family_page(tables, &self.observed.model().routes4, from, &mut rows, &mut page);
        }
        if next.is_none() {
            next = self.family_page(tables, &self.observed.model().routes6, from.filter(|_| six), &mut rows, &mut page);
        }
        (Data::Routes(rows), next)
    }

    fn family_page<A: Family>(
        &self,
        tables: &[u32],
        routes: &Routes<A>,
        from: Option<&Cursor>,
        rows: &mut Vec<RouteRow>,
        page: &mut Page,
    ) -> Option<Cursor> {
        let begun = from.and_then(|cursor| match cursor {
            Cursor::Routes { table, address, length } => Some((*table, Prefix::new(A::from_ip(*address)?, *length))),
            _ => None,
        });
        let first = begun.and_then(|(begun, _)| tables.iter().position(|table| *table == begun)).unwrap_or(0);
        for table in &tables[first..] {
            let behind = begun.filter(|(begun, _)| begun == table).map(|(_, prefix)| prefix);
            for (prefix, candidates) in routes.behind(*table, behind) {
                let before = rows.len();
                rows.extend(candidates.iter().map(|route| self.route_row(*table, prefix, route)));
                let ways: usize = rows[before..].iter().map(|row| row.nexthops.len()).sum();
                if page.takes(rows.len() - before + ways, 0) {
                    return Some(Cursor::Routes {
                        table: *table,
                        address: prefix.first().to_ip(),
                        length: prefix.length(),
                    });
                }
            }
        }
        None
    }

    fn rule_page(&self, only: Option<ChainName>, from: Option<&Cursor>) -> Result<(Data, Option<Cursor>), Failure> {
        let (mut rows, mut page): (Vec<RuleRow>, _) = (Vec::new(), Page::default());
        let kernel = self.kernel_counts();
        let begun = match from {
            Some(Cursor::Rules { chain, place, handle }) => Some((*chain, self.place_behind(*chain, *place, *handle))),
            _ => None,
        };
        let chains = ChainName::ALL.into_iter().filter(|chain| only.is_none_or(|only| only == *chain));
        for chain in chains.skip_while(|chain| begun.is_some_and(|(begun, _)| begun != *chain)) {
            let first = begun.filter(|(begun, _)| *begun == chain).map_or(0, |(_, place)| place);
            for (place, installed) in self.desired.chains().rules(chain).iter().enumerate().skip(first) {
                let row = self.rule_row(chain, installed, &kernel)?;
                let full = page.takes(1, row.rule.len());
                rows.push(row);
                if full {
                    let next = Cursor::Rules { chain, place, handle: installed.handle };
                    return Ok((Data::Rules(rows), Some(next)));
                }
            }
        }
        Ok((Data::Rules(rows), None))
    }

    /// The place behind a rule that was told; where it stood, if it is gone.
    fn place_behind(&self, chain: ChainName, place: usize, handle: u64) -> usize {
        let rules = self.desired.chains().rules(chain);
        let here = rules.get(place).filter(|installed| installed.handle == handle).map(|_| place);
        let found = here.or_else(|| rules.iter().position(|installed| installed.handle == handle));
        found.map_or(place, |place| place + 1)
    }

    fn set_page(&self, only: Option<&str>, from: Option<&Cursor>) -> Result<(Data, Option<Cursor>), Failure> {
        let (mut rows, mut page): (Vec<SetRow>, _) = (Vec::new(), Page::default());
        let (begun, told) = match from {
            Some(Cursor::Sets { name, element }) => (Some(name.as_str()), *element),
            _ => (None, 0),
        };
        if let (Some(name), None) = (only, begun) {
            self.set(name)?;
        }
        let sets =
            self.desired.chains().sets().iter().filter(|(name, _)| only.is_none_or(|only| only == name.as_str()));
        let mut sets = sets.skip_while(|(name, _)| begun.is_some_and(|begun| name.as_str() < begun)).peekable();
        if let Some(begun) = begun.filter(|begun| told > 0 && sets.peek().is_none_or(|set| set.0.as_str() != *begun)) {
            // It went while it was told: what was told ends there.
            let (name, kind) = (begun.to_owned(), String::new());
            rows.push(SetRow { name, kind, elements: Vec::new(), dynamic: None });
        }
        while let Some((name, set)) = sets.next() {
            let first = if begun == Some(name.as_str()) { told } else { 0 };
            let filled = set.dynamic().map(|_| self.filled(name));
            let (name, kind) = (name.as_str().to_owned(), set.kind.to_string());
            let mut full = page.takes(1, kind.len());
            let all = filled.as_deref().or(set.listed()).unwrap_or_default();
            let mut elements = Vec::new();
            for element in all.iter().skip(first) {
                let text = element.to_string();
                full = page.takes(0, text.len() + 3);
                elements.push(text);
                if full {
                    break;
                }
            }
            let element = first + elements.len();
            let dynamic = set.dynamic().map(DynamicRow::from);
            rows.push(SetRow { name: name.clone(), kind, elements, dynamic });
            if element < all.len() {
                return Ok((Data::Sets(rows), Some(Cursor::Sets { name, element })));
            }
            if let (true, Some((next, _))) = (full, sets.peek()) {
                return Ok((Data::Sets(rows), Some(Cursor::Sets { name: next.as_str().to_owned(), element: 0 })));
            }
        }
        Ok((Data::Sets(rows), None))
    }

    /// Neighbours whose link addresses are found out.
    pub(super) fn neighbours(&self) -> impl Iterator<Item = &Neighbour> {
        self.observed.model().neighbours.values().filter(|neighbour| !neighbour.state.contains(NeighbourState::NOARP))
    }

    fn neighbour_page(&self, from: Option<&Cursor>) -> (Data, Option<Cursor>) {
        let (mut rows, mut page) = (Vec::new(), Page::default());
        let from = match from {
            Some(Cursor::Neighbours { ifindex, address }) => Bound::Excluded((*ifindex, *address)),
            _ => Bound::Unbounded,
        };
        for (key, neighbour) in self.observed.model().neighbours.range((from, Bound::Unbounded)) {
            if neighbour.state.contains(NeighbourState::NOARP) {
                continue;
            }
            rows.push(NeighbourRow {
                dst: neighbour.address,
                dev: self.name(neighbour.ifindex),
                lladdr: neighbour.mac.map(|mac| mac.to_string()),
                state: neighbour.state.name().to_owned(),
            });
            if page.takes(1, 0) {
                return (Data::Neighbours(rows), Some(Cursor::Neighbours { ifindex: key.0, address: key.1 }));
            }
        }
        (Data::Neighbours(rows), None)
    }
}
