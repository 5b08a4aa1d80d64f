//! Packets, byte by byte.

/// Where the network header begins behind a plain Ethernet header.
pub const NETWORK: usize = 14;

/// The ones'-complement sum of 16-bit words in network order (RFC 1071), word by word.
pub fn naive_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        if sum > 0xffff {
            sum -= 0xffff;
        }
    }
    sum as u16
}

/// An IPv4 header that says what its fields say, checksum included.
#[derive(Clone, Copy)]
pub struct Ipv4 {
    pub version: u8,
    pub words: u8,
    pub total: u16,
    pub fragment: u16,
    pub protocol: u8,
    /// Added to the right checksum.
    pub off_by: u16,
}

impl Ipv4 {
    /// 20 bytes of header, whole, of a packet of `total` bytes.
    pub const fn plain(protocol: u8, total: u16) -> Self {
        Self { version: 4, words: 5, total, fragment: 0, protocol, off_by: 0 }
    }

    /// The header, options zero.
    pub fn bytes(self) -> Vec<u8> {
        let mut bytes = vec![0; usize::from(self.words.max(5)) * 4];
        bytes[0] = self.version << 4 | self.words;
        bytes[1] = 46 << 2 | 1;
        bytes[2..4].copy_from_slice(&self.total.to_be_bytes());
        bytes[4..6].copy_from_slice(&0x1234_u16.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.fragment.to_be_bytes());
        bytes[8] = 64;
        bytes[9] = self.protocol;
        bytes[12..20].copy_from_slice(&[198, 18, 0, 1, 203, 0, 113, 254]);
        let checksum = (!naive_sum(&bytes)).wrapping_add(self.off_by);
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }
}

/// An IPv6 header, `payload` as its length says.
pub fn ipv6(next_header: u8, payload: u16) -> Vec<u8> {
    let mut bytes = vec![0; 40];
    bytes[..4].copy_from_slice(&[0x6b, 0x91, 0x23, 0x45]);
    bytes[4..6].copy_from_slice(&payload.to_be_bytes());
    bytes[6] = next_header;
    bytes[7] = 64;
    bytes[8..24].copy_from_slice(&0x2001_0db8_0000_0001_0000_0000_0000_0002_u128.to_be_bytes());
    bytes[24..40].copy_from_slice(&0x2001_0db8_0000_0002_ffff_0000_1234_0003_u128.to_be_bytes());
    bytes
}

/// Parts behind an empty Ethernet header.
pub fn framed(parts: &[&[u8]]) -> Vec<u8> {
    let mut frame = vec![0; NETWORK];
    frame.extend(parts.iter().flat_map(|part| part.iter()));
    frame
}

/// An IPv6 packet whose extension headers and payload are `rest`.
pub fn packet_v6(next_header: u8, rest: &[u8]) -> Vec<u8> {
    framed(&[&ipv6(next_header, u16::try_from(rest.len()).expect("16 bits")), rest])
}

/// An IPv4 packet with that payload.
pub fn packet_v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let total = u16::try_from(20 + payload.len()).expect("16 bits");
    framed(&[&Ipv4::plain(protocol, total).bytes(), payload])
}
