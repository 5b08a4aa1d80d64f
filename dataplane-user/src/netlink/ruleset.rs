//! Rules, sets and elements of a table of nftables, read as they are needed.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Error,
    attribute::{Attributes, put, text},
    expression::{expression, expressions, value, verdict},
    netfilter::{HEADER, NFTABLES, number, terminated},
    socket::Requester,
};
use crate::flow::SetKey;
use crate::model::{
    NetfilterElement, NetfilterRule, NetfilterSet, NetfilterTable, NetfilterVerdict, Obstacle, obstacles,
};

const NFT_MSG_GETRULE: u16 = 7;
const NFT_MSG_GETSET: u16 = 10;
const NFT_MSG_GETSETELEM: u16 = 13;
const GETRULE: u16 = NFTABLES | NFT_MSG_GETRULE;
const GETSET: u16 = NFTABLES | NFT_MSG_GETSET;
const GETSETELEM: u16 = NFTABLES | NFT_MSG_GETSETELEM;

const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_OBJECT: u16 = 15;
const SET_EXPRESSION: u16 = 17;
const SET_EXPRESSIONS: u16 = 18;
/// `NFT_SET_ANONYMOUS`, `NFT_SET_CONSTANT`, `NFT_SET_INTERVAL`.
const FIRM: u32 = 1 | 2;
const INTERVAL: u32 = 4;
/// The same in sets and in messages about their elements.
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_FLAGS: u16 = 3;
/// `NFT_SET_ELEM_CATCHALL`.
const CATCHALL: u32 = 2;

/// A table, and what was read of it.
pub(super) struct Ruleset<'a> {
    requester: &'a mut Requester,
    family: u8,
    table: &'a str,
    sets: BTreeMap<String, (u32, NetfilterSet)>,
    /// The rules of a chain that are about to be walked.
    listed: Option<(String, Vec<NetfilterRule>)>,
    /// Sets that may change by themselves, and by whose elements something was decided.
    watched: &'a mut BTreeSet<SetKey>,
}

impl<'a> Ruleset<'a> {
    pub(super) fn new(
        requester: &'a mut Requester,
        family: u8,
        table: &'a str,
        watched: &'a mut BTreeSet<SetKey>,
    ) -> Self {
        Self { requester, family, table, sets: BTreeMap::new(), listed: None, watched }
    }

    /// How many rules a base chain has.
    pub(super) fn count(&mut self, chain: &str) -> Result<usize, Error> {
        let rules = self.list(chain)?;
        let count = rules.len();
        self.listed = Some((chain.to_owned(), rules));
        Ok(count)
    }

    /// What an established packet can meet from a base chain on.
    pub(super) fn obstacles(&mut self, place: &str, chain: &str, tracked: bool) -> Vec<Obstacle> {
        obstacles(self, place, chain, tracked)
    }

    fn list(&mut self, chain: &str) -> Result<Vec<NetfilterRule>, Error> {
        let request = self.request(RULE_CHAIN, chain);
        let key = (self.family, self.table.to_owned(), chain.to_owned());
        self.requester.dump("netfilter rules", GETRULE, &request, |message| {
            rule(message.payload).filter(|(at, _)| *at == key).map(|(_, rule)| rule)
        })
    }

    /// A question about something in the table.
    fn request(&self, kind: u16, name: &str) -> Vec<u8> {
        let mut request = vec![self.family, 0, 0, 0];
        put(&mut request, RULE_TABLE, &terminated(self.table));
        put(&mut request, kind, &terminated(name));
        request
    }
}

impl NetfilterTable for Ruleset<'_> {
    fn rules(&mut self, chain: &str) -> Result<Vec<NetfilterRule>, String> {
        match self.listed.take_if(|(listed, _)| listed == chain) {
            Some((_, rules)) => Ok(rules),
            None => self.list(chain).map_err(|error| error.to_string()),
        }
    }

    fn set(&mut self, name: &str) -> Result<NetfilterSet, String> {
        if let Some((_, set)) = self.sets.get(name) {
            return Ok(set.clone());
        }
        let request = self.request(SET_NAME, name);
        let found = self.requester.get("netfilter set", GETSET, &request, |message| Some(set(message.payload)));
        let found = found.map_err(|error| error.to_string())?.ok_or_else(|| format!("set {name} is gone"))?;
        self.sets.insert(name.to_owned(), found.clone());
        Ok(found.1)
    }

    fn elements(&mut self, name: &str) -> Result<Vec<NetfilterElement>, String> {
        self.set(name)?;
        if self.sets.get(name).is_some_and(|(flags, _)| flags & FIRM == 0) {
            self.watched.insert((self.family, self.table.to_owned(), name.to_owned()));
        }
        let request = self.request(LIST_SET, name);
        let parts = self
            .requester
            .dump("elements of a netfilter set", GETSETELEM, &request, |message| Some(elements(message.payload)));
        Ok(parts.map_err(|error| error.to_string())?.into_iter().flatten().collect())
    }
}

/// A rule, and where it is.
fn rule(payload: &[u8]) -> Option<(SetKey, NetfilterRule)> {
    let (mut table, mut chain) = (None, None);
    let mut rule = NetfilterRule { name: String::new(), expressions: Vec::new() };
    for (kind, value) in Attributes::behind(payload, HEADER) {
        match kind {
            RULE_TABLE => table = Some(text(value)),
            RULE_CHAIN => chain = Some(text(value)),
            RULE_HANDLE => {
                rule.name = format!("handle {}", value.first_chunk().copied().map_or(0, u64::from_be_bytes));
            }
            RULE_EXPRESSIONS => rule.expressions = expressions(value),
            _ => {}
        }
    }
    Some(((payload.first().copied()?, table?, chain?), rule))
}

/// A set, with its flags.
fn set(payload: &[u8]) -> (u32, NetfilterSet) {
    let (mut flags, mut set) = (0, NetfilterSet::default());
    for (kind, value) in Attributes::behind(payload, HEADER) {
        match kind {
            SET_FLAGS => flags = number(value).unwrap_or_default(),
            SET_OBJECT => set.object = number(value),
            SET_EXPRESSION => set.expressions.push(expression(value)),
            SET_EXPRESSIONS => set.expressions.extend(expressions(value)),
            _ => {}
        }
    }
    set.interval = flags & INTERVAL != 0;
    (flags, set)
}

/// The elements in a message.
fn elements(payload: &[u8]) -> Vec<NetfilterElement> {
    let list = Attributes::behind(payload, HEADER).find(|(kind, _)| *kind == LIST_ELEMENTS);
    let Some((_, list)) = list else { return Vec::new() };
    Attributes::within(list).filter_map(|(_, nested)| element(nested)).collect()
}

fn element(nested: &[u8]) -> Option<NetfilterElement> {
    let (mut key, mut data, mut flags): (_, Option<NetfilterVerdict>, _) = (None, None, 0);
    for (kind, found) in Attributes::within(nested) {
        match kind {
            ELEMENT_KEY => key = value(found),
            ELEMENT_DATA => data = verdict(found),
            ELEMENT_FLAGS => flags = number(found).unwrap_or_default(),
            _ => {}
        }
    }
    (key.is_some() || flags & CATCHALL != 0).then_some(NetfilterElement { key, verdict: data })
}

/// The set that a message about elements is about.
pub(super) fn set_of(payload: &[u8]) -> Option<SetKey> {
    let find = |wanted| Attributes::behind(payload, HEADER).find(|(kind, _)| *kind == wanted);
    let name = |wanted| find(wanted).map(|(_, value)| text(value));
    Some((payload.first().copied()?, name(LIST_TABLE)?, name(LIST_SET)?))
}
