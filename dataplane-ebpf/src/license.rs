//! The licence, as the kernel requires it for its helpers.

#![expect(unsafe_code, reason = "the kernel looks for this section by its name")]

/// Some helpers that the programs call are for GPL-compatible ones only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
