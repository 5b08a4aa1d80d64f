//! XDR (RFC 4506): big-endian words of four bytes.

use std::net::IpAddr;

/// What is written at the end.
pub(super) trait Words {
    /// Words, one after the other.
    fn words(&mut self, words: &[u32]);
    /// A number of two words.
    fn long(&mut self, number: u64);
    /// An address behind the number of its family.
    fn address(&mut self, address: IpAddr);
    /// Bytes behind their number, filled up to whole words.
    fn opaque(&mut self, bytes: &[u8]);
}

impl Words for Vec<u8> {
    fn words(&mut self, words: &[u32]) {
        for word in words {
            self.extend_from_slice(&word.to_be_bytes());
        }
    }

    fn long(&mut self, number: u64) {
        self.extend_from_slice(&number.to_be_bytes());
    }

    fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => {
                self.words(&[1]);
                self.extend_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                self.words(&[2]);
                self.extend_from_slice(&address.octets());
            }
        }
    }

    fn opaque(&mut self, bytes: &[u8]) {
        self.words(&[bytes.len() as u32]);
        self.extend_from_slice(bytes);
        self.resize(self.len().next_multiple_of(4), 0);
    }
}
