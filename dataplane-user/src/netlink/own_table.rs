//! The table of nftables with own rules: written as one transaction, and read for its counters.
//!
//! Where the kernel has it (6.9), the table has an owner, this socket, so that no flush of others takes it, and persists when
//! the daemon ends. Elsewhere changes by others are seen, and it is written again.

mod encode;
mod set;

use std::{collections::BTreeMap, io};

pub use set::OwnElement;

use super::{
    Error,
    attribute::{Attributes, text},
    netfilter::{HEADER, NFTABLES, terminated},
    nft::{INET, NFT_MSG_DELTABLE, NFT_MSG_NEWTABLE, NLM_F_CREATE, RULE_EXPRESSIONS, TABLE, attributes, number, part},
    socket::{Part, Requester},
};
use crate::model::{OWN_RULES, OwnCount, OwnSet, OwnTable};

const NFT_MSG_GETTABLE: u16 = 1;
const NFT_MSG_GETRULE: u16 = 7;
const TABLE_FLAGS: u16 = 2;
const TABLE_HANDLE: u16 = 4;
const TABLE_USERDATA: u16 = 6;
const RULE_USERDATA: u16 = 7;
const COUNTER_BYTES: u16 = 1;
const COUNTER_PACKETS: u16 = 2;
/// `NFT_TABLE_F_OWNER`, `NFT_TABLE_F_PERSIST`.
const OWNED: u32 = 2 | 4;
/// By which a table is known to be ours.
const COMMENT: &str = "written by dataplane: change its rules with `dataplane rule`";
/// What is written, for errors.
const WHAT: &str = "table inet dataplane";

/// The socket that the table belongs to.
pub struct OwnTableSocket {
    requester: Requester,
    /// Whether the kernel knows owners of tables that persist; none before it was tried.
    owned: Option<bool>,
    /// The kernel's number for the table as written.
    handle: Option<Vec<u8>>,
}

impl OwnTableSocket {
    /// A socket in the caller's network namespace.
    ///
    /// # Errors
    /// There is none.
    pub fn open() -> Result<Self, Error> {
        let requester = Requester::open(libc::NETLINK_NETFILTER as isize)?;
        Ok(Self { requester, owned: None, handle: None })
    }

    /// By which the kernel's announcements tell what this socket did.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn port(&mut self) -> Result<u32, Error> {
        self.requester.port()
    }

    /// Writes the table in the place of what there is of it. Rules that keep their handle keep their count.
    ///
    /// # Errors
    /// The kernel does not take it, or the table is another program's; what was there is there.
    pub fn write(&mut self, table: &OwnTable) -> Result<(), Error> {
        self.check_owner()?;
        let counts = self.counts()?;
        let owned = self.owned != Some(false);
        let mut done = self.transact(table, &counts, owned);
        if owned && self.owned.is_none() {
            // Kernels before 6.9 do not know the flag.
            if let Err(Error::Write { source, .. }) = &done
                && source.raw_os_error() == Some(libc::EOPNOTSUPP)
            {
                done = self.transact(table, &counts, false);
                self.owned = done.is_ok().then_some(false);
            } else if done.is_ok() {
                self.owned = Some(true);
            }
        }
        done?;
        self.handle = self.table()?.and_then(|(handle, _)| handle);
        Ok(())
    }

    /// Takes the table away, if it is there and ours.
    ///
    /// # Errors
    /// The kernel does not do it.
    pub fn remove(&mut self) -> Result<(), Error> {
        self.handle = None;
        match self.table()? {
            Some(found) if is_ours(&found) => self.send(vec![part(NFT_MSG_DELTABLE, 0, message(&[]))]),
            _ => Ok(()),
        }
    }

    /// Whether the table is not there as it was written, as far as its number says.
    pub fn is_gone(&mut self) -> bool {
        let Some(handle) = self.handle.clone() else { return false };
        match self.table() {
            Ok(found) => found.is_none_or(|(found, _)| found != Some(handle)),
            Err(error) => {
                tracing::debug!("{error}");
                false
            }
        }
    }

    /// What its rules have counted, by their chains and handles.
    ///
    /// # Errors
    /// The kernel does not list them.
    pub fn counts(&mut self) -> Result<BTreeMap<(String, u64), OwnCount>, Error> {
        if !self.is_some()? {
            return Ok(BTreeMap::new());
        }
        let kind = NFTABLES | NFT_MSG_GETRULE;
        let rows = self.requester.dump("netfilter rules", kind, &message(&[]), |message| counted(message.payload))?;
        Ok(rows.into_iter().collect())
    }

    fn transact(
        &mut self,
        table: &OwnTable,
        counts: &BTreeMap<(String, u64), OwnCount>,
        owned: bool,
    ) -> Result<(), Error> {
        let mut fresh = vec![(TABLE_USERDATA, comment(COMMENT))];
        if owned {
            fresh.push((TABLE_FLAGS, number(OWNED)));
        }
        let there = if self.is_some()? { self.sets()? } else { Vec::new() };
        let kept = |set: &OwnSet| there.iter().any(|one| one.is(set));
        let mut parts = Vec::new();
        if table.sets.iter().any(kept) {
            // What rules have put into sets would go with the table. One that an earlier daemon left gets its owner before all
            // else: the kernel takes no chains in the same transaction (`__NFT_TABLE_F_UPDATE`).
            self.send(vec![part(NFT_MSG_NEWTABLE, NLM_F_CREATE, message(&fresh))])?;
            parts.extend(
                self.without_content(|name| {
                    table.sets.iter().any(|set| kept(set) && set.name.as_deref() == Some(name))
                })?,
            );
        } else if self.is_some()? {
            parts.push(part(NFT_MSG_DELTABLE, 0, message(&[])));
        }
        parts.push(part(NFT_MSG_NEWTABLE, NLM_F_CREATE, message(&fresh)));
        parts.extend(encode::parts(table, counts, kept));
        self.send(parts)
    }

    fn send(&mut self, parts: Vec<Part>) -> Result<(), Error> {
        self.requester.transact(WHAT, (NFTABLES >> 8) as u8, parts)
    }

    fn is_some(&mut self) -> Result<bool, Error> {
        Ok(self.table()?.is_some())
    }

    /// The number and the comment of the table that is there.
    fn table(&mut self) -> Result<Option<Found>, Error> {
        let kind = NFTABLES | NFT_MSG_GETTABLE;
        let found = self.requester.get("netfilter table", kind, &message(&[]), |message| {
            let find = |wanted| {
                Attributes::behind(message.payload, HEADER)
                    .find(|(kind, _)| *kind == wanted)
                    .map(|(_, value)| value.to_vec())
            };
            Some((find(TABLE_HANDLE), find(TABLE_USERDATA)))
        });
        match found {
            Err(error) if super::netfilter::is_missing(&error) => Ok(None),
            other => other,
        }
    }

    fn check_owner(&mut self) -> Result<(), Error> {
        match self.table()? {
            Some(found) if !is_ours(&found) => {
                let said = "there is one already that dataplane has not written: give that one another name";
                Err(Error::Write { what: WHAT, source: io::Error::other(said) })
            }
            _ => Ok(()),
        }
    }
}

/// The number and the comment of a table.
type Found = (Option<Vec<u8>>, Option<Vec<u8>>);

fn is_ours((_, userdata): &Found) -> bool {
    userdata.as_deref() == Some(&comment(COMMENT))
}

/// What is in a set of the table that rules fill.
///
/// # Errors
/// There is no such set, or the kernel does not list it.
pub fn own_elements(set: &str) -> Result<Vec<OwnElement>, Error> {
    OwnTableSocket::open()?.elements(set)
}

/// What the rules of the table have counted, by their chains and handles.
///
/// # Errors
/// The kernel does not list them.
pub fn own_counts() -> Result<BTreeMap<(String, u64), OwnCount>, Error> {
    OwnTableSocket::open()?.counts()
}

/// nft's way to keep a comment: its type (0 in tables and rules), its length, the text with a zero.
fn comment(text: &str) -> Vec<u8> {
    let text = terminated(text);
    [&[0, text.len() as u8], &text[..]].concat()
}

/// A message about something of the table.
fn message(more: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut message = vec![0; HEADER];
    message[0] = INET;
    super::attribute::put(&mut message, TABLE, &terminated(OWN_RULES));
    message.extend(attributes(more));
    message
}

/// The comment of a rule that stands for an own one.
fn rule_comment(handle: u64) -> String {
    if handle == 0 { "policy".to_owned() } else { format!("handle {handle}") }
}

fn handle_of(comment: &str) -> Option<u64> {
    if comment == "policy" { Some(0) } else { comment.strip_prefix("handle ")?.parse().ok() }
}

/// The chain, the handle and the count of a rule.
fn counted(payload: &[u8]) -> Option<((String, u64), OwnCount)> {
    let find = |wanted| Attributes::behind(payload, HEADER).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    if find(TABLE).map(text).as_deref() != Some(OWN_RULES) || payload.first() != Some(&INET) {
        return None;
    }
    let chain = text(find(2)?);
    let handle = handle_of(&text(find(RULE_USERDATA)?.get(2..)?))?;
    let mut count = None;
    for (_, expression) in Attributes::within(find(RULE_EXPRESSIONS)?) {
        let field = |wanted| Attributes::within(expression).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        if field(1).map(text).as_deref() != Some("counter") {
            continue;
        }
        let data = field(2)?;
        let large = |wanted| {
            let value = Attributes::within(data).find(|(kind, _)| *kind == wanted)?.1;
            value.first_chunk().copied().map(u64::from_be_bytes)
        };
        count = Some(OwnCount { packets: large(COUNTER_PACKETS)?, bytes: large(COUNTER_BYTES)? });
    }
    Some(((chain, handle), count?))
}

/// Whether an announcement is about the table, and not of this socket.
pub(super) fn is_foreign_change(message: &super::socket::Message<'_>, own: u32) -> bool {
    let named =
        Attributes::behind(message.payload, HEADER).find(|(kind, _)| *kind == TABLE).map(|(_, value)| text(value));
    message.sender != own
        && message.kind & 0xff00 == NFTABLES
        && message.kind & 0xff != super::netfilter::NFT_MSG_NEWGEN
        && message.payload.first() == Some(&INET)
        && named.as_deref() == Some(OWN_RULES)
}
