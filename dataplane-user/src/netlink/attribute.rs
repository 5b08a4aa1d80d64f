//! Reading netlink messages: fixed headers, then attributes of type, length and value (`Documentation/userspace-api/netlink`).
//!
//! A message is taken apart here rather than by a crate that knows every attribute: such a crate refuses the whole message
//! when a newer kernel changes one attribute that we do not even read.

use std::net::IpAddr;

use dataplane_common::wire::Mac;

use crate::model::{Family, IpVersion};

/// `NLA_TYPE_MASK`: the type without the "nested" and "network order" bits.
const TYPE_MASK: u16 = 0x3fff;
/// Length of an attribute's own header.
const HEADER: usize = 4;

/// Attributes that follow each other; ends at the first broken one.
#[derive(Clone)]
pub(super) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// Those behind a fixed header of `header` bytes.
    pub(super) fn behind(payload: &'a [u8], header: usize) -> Self {
        Self(payload.get(header..).unwrap_or_default())
    }

    /// Those within an attribute.
    pub(super) fn within(value: &'a [u8]) -> Self {
        Self(value)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & TYPE_MASK;
        let value = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// Builds what [`Attributes`] reads.
pub(super) fn put(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend_from_slice(&((HEADER + value.len()) as u16).to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// A byte.
pub(super) fn u8_at(bytes: &[u8], offset: usize) -> Option<u8> {
    bytes.get(offset).copied()
}

/// A number in the host's order.
pub(super) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

/// A number in the host's order.
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

/// A number in the host's order.
pub(super) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes.get(offset..)?.first_chunk().copied().map(u64::from_ne_bytes)
}

/// A name, with or without its closing zero.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// A 48-bit link address; others are none.
pub(super) fn mac(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok().map(Mac)
}

/// An address; its family follows from its length.
pub(super) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    u32::from_bytes(bytes).map(Family::to_ip).or_else(|| u128::from_bytes(bytes).map(Family::to_ip))
}

/// The family of a header's first byte; others than IP are none.
pub(super) fn version(payload: &[u8]) -> Option<IpVersion> {
    match u8_at(payload, 0)? {
        u32::NUMBER => Some(IpVersion::V4),
        u128::NUMBER => Some(IpVersion::V6),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_end_where_they_break() {
        let mut message = Vec::new();
        put(&mut message, 1, b"eth0\0");
        put(&mut message, 2 | 0x8000, &7_u32.to_ne_bytes());
        let whole: Vec<_> = Attributes::within(&message).collect();
        assert_eq!(whole, [(1, &b"eth0\0"[..]), (2, &7_u32.to_ne_bytes()[..])]);
        assert_eq!(text(whole[0].1), "eth0");
        for cut in 0..message.len() {
            let expected = usize::from(cut >= 9);
            assert_eq!(Attributes::within(&message[..cut]).count(), expected, "cut at {cut}");
        }
        // A length of zero must not loop.
        assert_eq!(Attributes::within(&[0; 64]).count(), 0);
    }
}
