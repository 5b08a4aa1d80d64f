//! The self-test of a generation of the filter before it is live.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{ADDRESS_WORDS, FIELD_WORDS};

/// The frame of program `self_test`: a question, and behind it the answer. In the machine's own byte order: it crosses no wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SelfTestFrame {
    /// The generation to test.
    pub generation: u32,
    /// Which of its chains.
    pub chain: u32,
    /// As [`super::Key::address`].
    pub address: [u64; ADDRESS_WORDS],
    /// As [`super::Key::mixed`].
    pub mixed: u64,
    /// As [`super::Key::fields`].
    pub fields: [u32; FIELD_WORDS],
    /// As [`super::Key::length`].
    pub length: u32,
    /// Bits of [`super::Key::flags`].
    pub flags: u32,
    /// Answer: order of the rule that decides, or something from [`super::Search::NONE`] on.
    pub order: u64,
    /// Answer: its word [`super::entry::RULE`].
    pub rule: u64,
}

const _: () = assert!(size_of::<SelfTestFrame>() == 104);
