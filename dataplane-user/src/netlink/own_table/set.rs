//! Sets of the table that rules fill: which are there, and what is in them.

use std::time::Duration;

use super::{OwnTableSocket, encode, message};
use crate::{
    model::{OWN_RULES, OwnSet},
    netlink::{
        Error,
        attribute::{Attributes, text},
        netfilter::{HEADER, NFTABLES, terminated},
        nft::{
            CHAIN_NAME, DATA_VALUE, ELEMENT_KEY, ELEMENTS, INET, NFT_MSG_DELSETELEM, NFT_MSG_NEWSETELEM, NLM_F_CREATE,
            RULE_CHAIN, SET_KEY_LENGTH, SET_KEY_TYPE, SET_NAME, TABLE, part,
        },
        socket::Part,
    },
};

const NFT_MSG_GETCHAIN: u16 = 4;
const NFT_MSG_DELCHAIN: u16 = 5;
const NFT_MSG_DELRULE: u16 = 8;
const NFT_MSG_GETSET: u16 = 10;
const NFT_MSG_DELSET: u16 = 11;
const NFT_MSG_GETSETELEM: u16 = 13;
const NFT_MSG_GETOBJ: u16 = 19;
const NFT_MSG_DELOBJ: u16 = 20;
const ELEMENT_EXPIRATION: u16 = 5;

/// A set as the kernel lists it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Listed {
    name: String,
    flags: u32,
    key: (u32, u32),
    timeout: u64,
    size: u32,
}

impl Listed {
    /// Whether it is this set, which rules fill.
    pub(super) fn is(&self, set: &OwnSet) -> bool {
        set.dynamic.is_some_and(|dynamic| {
            set.name.as_deref() == Some(&self.name)
                && (self.flags, self.key) == (encode::flags_of(set), encode::key_of(set))
                && (self.timeout, self.size) == (dynamic.timeout.unwrap_or(0), dynamic.size)
        })
    }
}

/// An element that a rule has put into a set: the bytes of its key, and how long it stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnElement {
    /// In network order; of several fields each begins at four bytes.
    pub key: Vec<u8>,
    /// None: until it is deleted.
    pub expires: Option<Duration>,
}

impl OwnTableSocket {
    /// The sets of the table.
    pub(super) fn sets(&mut self) -> Result<Vec<Listed>, Error> {
        let kind = NFTABLES | NFT_MSG_GETSET;
        self.requester.dump("netfilter sets", kind, &message(&[]), |message| listed(message.payload))
    }

    /// Takes all chains away, with their rules, and the sets that do not stay.
    pub(super) fn without_content(&mut self, stays: impl Fn(&str) -> bool) -> Result<Vec<Part>, Error> {
        let kind = NFTABLES | NFT_MSG_GETCHAIN;
        let chains = self.requester.dump("netfilter chains", kind, &message(&[]), |message| {
            of_table(message.payload)?;
            Some(text(attribute(message.payload, CHAIN_NAME)?))
        })?;
        let rules = chains.iter().map(|name| part(NFT_MSG_DELRULE, 0, message(&[(RULE_CHAIN, terminated(name))])));
        let deleted = chains.iter().map(|name| part(NFT_MSG_DELCHAIN, 0, message(&[(CHAIN_NAME, terminated(name))])));
        let kind = NFTABLES | NFT_MSG_GETOBJ;
        let helpers = self.requester.dump("netfilter objects", kind, &message(&[]), |message| {
            of_table(message.payload)?;
            Some(text(attribute(message.payload, encode::OBJECT_NAME)?))
        })?;
        let helpers = helpers.iter().map(|name| {
            let number = encode::OBJECT_HELPER.to_be_bytes().to_vec();
            let named = [(encode::OBJECT_NAME, terminated(name)), (encode::OBJECT_TYPE, number)];
            part(NFT_MSG_DELOBJ, 0, message(&named))
        });
        let sets = self.sets()?;
        let goes = |set: &&Listed| set.flags & encode::ANONYMOUS == 0 && !stays(&set.name);
        let sets = sets.iter().filter(goes);
        let sets = sets.map(|set| part(NFT_MSG_DELSET, 0, message(&[(SET_NAME, terminated(&set.name))])));
        Ok(rules.chain(deleted).chain(sets).chain(helpers).collect())
    }

    /// What is in a set that rules fill.
    ///
    /// # Errors
    /// There is no such set, or the kernel does not list it.
    pub fn elements(&mut self, set: &str) -> Result<Vec<OwnElement>, Error> {
        let asked = message(&[(SET_NAME, terminated(set))]);
        let kind = NFTABLES | NFT_MSG_GETSETELEM;
        let parts = self.requester.dump("netfilter set", kind, &asked, |message| {
            let list = attribute(message.payload, ELEMENTS)?;
            Some(Attributes::within(list).filter_map(|(_, element)| one(element)).collect::<Vec<_>>())
        })?;
        Ok(parts.into_iter().flatten().collect())
    }

    /// Puts elements into a set that rules fill, or takes them out; of each the bytes of its fields.
    ///
    /// # Errors
    /// There is no such set, it is full, or an element that is to go is not there.
    pub fn change_elements(&mut self, set: &str, puts: bool, elements: &[Vec<Vec<u8>>]) -> Result<(), Error> {
        let (kind, flags) = if puts { (NFT_MSG_NEWSETELEM, NLM_F_CREATE) } else { (NFT_MSG_DELSETELEM, 0) };
        let chunks = elements.chunks(encode::CHUNK);
        self.send(chunks.map(|chunk| part(kind, flags, message(&encode::elements(set, chunk)))).collect())
    }
}

fn attribute(payload: &[u8], wanted: u16) -> Option<&[u8]> {
    Attributes::behind(payload, HEADER).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// Whether it is of the table.
fn of_table(payload: &[u8]) -> Option<()> {
    let named = attribute(payload, TABLE).map(text)? == OWN_RULES;
    (named && payload.first() == Some(&INET)).then_some(())
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().copied().map(u32::from_be_bytes)
}

fn large(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().copied().map(u64::from_be_bytes)
}

fn listed(payload: &[u8]) -> Option<Listed> {
    of_table(payload)?;
    let numbered = |wanted| attribute(payload, wanted).and_then(number).unwrap_or(0);
    let description = attribute(payload, encode::SET_DESCRIPTION).unwrap_or_default();
    let size = Attributes::within(description).find(|(kind, _)| *kind == 1).and_then(|(_, value)| number(value));
    Some(Listed {
        name: text(attribute(payload, SET_NAME)?),
        flags: numbered(encode::SET_FLAGS),
        key: (numbered(SET_KEY_TYPE), numbered(SET_KEY_LENGTH)),
        timeout: attribute(payload, encode::SET_TIMEOUT).and_then(large).unwrap_or(0),
        size: size.unwrap_or(0),
    })
}

fn one(element: &[u8]) -> Option<OwnElement> {
    let find = |wanted| Attributes::within(element).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let key = Attributes::within(find(ELEMENT_KEY)?).find(|(kind, _)| *kind == DATA_VALUE)?.1.to_vec();
    Some(OwnElement { key, expires: find(ELEMENT_EXPIRATION).and_then(large).map(Duration::from_millis) })
}
