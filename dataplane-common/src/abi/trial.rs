//! What the controller asks a generation of the filter before it is live.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{ADDRESS_WORDS, REST_WORDS};

/// The frame of program `trial`: a question, and behind it the answer. In the machine's own byte order: it crosses no wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Trial {
    /// Which generation is asked.
    pub generation: u32,
    /// Which of its chains.
    pub chain: u32,
    /// As [`super::Key::address`].
    pub address: [u64; ADDRESS_WORDS],
    /// As [`super::Key::mixed`].
    pub mixed: u64,
    /// As [`super::Key::rest`].
    pub rest: [u32; REST_WORDS],
    /// As [`super::Key::length`].
    pub length: u32,
    /// Bits of [`super::Key::flags`].
    pub flags: u32,
    /// Answer: order of the rule that decides, or something from [`super::Search::NONE`] on.
    pub order: u64,
    /// Answer: its word [`super::entry::RULE`].
    pub rule: u64,
}

const _: () = assert!(size_of::<Trial>() == 104);
