//! Building what nftables reads: messages of a transaction, attributes, expressions (`include/uapi/linux/netfilter/nf_tables.h`).

use super::{
    attribute::put,
    netfilter::{NFTABLES, terminated},
    socket::Part,
};

pub(super) const NFT_MSG_NEWTABLE: u16 = 0;
pub(super) const NFT_MSG_DELTABLE: u16 = 2;
pub(super) const NFT_MSG_NEWCHAIN: u16 = 3;
pub(super) const NFT_MSG_NEWRULE: u16 = 6;
pub(super) const NFT_MSG_NEWSET: u16 = 9;
pub(super) const NFT_MSG_NEWSETELEM: u16 = 12;
pub(super) const NFT_MSG_DELSETELEM: u16 = 14;
pub(super) const NLM_F_CREATE: u16 = 0x400;
pub(super) const NLM_F_APPEND: u16 = 0x800;

/// Beside the type of an attribute that holds others.
pub(super) const NESTED: u16 = 0x8000;
/// `NFTA_TABLE_NAME`, and what names the table in messages about what is in it.
pub(super) const TABLE: u16 = 1;
pub(super) const RULE_CHAIN: u16 = 2;
pub(super) const RULE_EXPRESSIONS: u16 = 4;
pub(super) const SET_NAME: u16 = 2;
pub(super) const SET_KEY_TYPE: u16 = 4;
pub(super) const SET_KEY_LENGTH: u16 = 5;
pub(super) const SET_ID: u16 = 10;
pub(super) const ELEMENTS: u16 = 3;
pub(super) const LIST_ELEMENT: u16 = 1;
pub(super) const ELEMENT_KEY: u16 = 1;
pub(super) const DATA_VALUE: u16 = 1;
pub(super) const DATA_VERDICT: u16 = 2;
pub(super) const CHAIN_NAME: u16 = 3;
pub(super) const CHAIN_HOOK: u16 = 4;
pub(super) const CHAIN_POLICY: u16 = 5;
pub(super) const CHAIN_TYPE: u16 = 7;
/// Elements in one message: its attributes have 16 bits for their length.
pub(super) const CHUNK: usize = 512;
/// `NFPROTO_INET`.
pub(super) const INET: u8 = 1;
pub(super) const ACCEPT: u32 = 1;
pub(super) const DROP: u32 = 0;

pub(super) fn part(kind: u16, flags: u16, payload: Vec<u8>) -> Part {
    Part { kind: NFTABLES | kind, flags, payload }
}

pub(super) fn attributes(all: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, value) in all {
        put(&mut bytes, *kind, value);
    }
    bytes
}

pub(super) fn number(value: u32) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

pub(super) fn expression(name: &str, data: &[(u16, Vec<u8>)]) -> Vec<u8> {
    attributes(&[(1, terminated(name)), (2 | NESTED, attributes(data))])
}

pub(super) fn verdict(code: u32) -> Vec<u8> {
    let verdict = attributes(&[(1, number(code))]);
    expression("immediate", &[(1, number(0)), (2 | NESTED, attributes(&[(DATA_VERDICT | NESTED, verdict)]))])
}
