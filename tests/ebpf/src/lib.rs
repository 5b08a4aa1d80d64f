//! What the generator puts into a frame, compiled for the kernel and for the host's tests alike.

#![no_std]

/// Bytes of an IPv4 frame: the shortest that Ethernet carries, without its check sequence.
pub const IPV4_LENGTH: usize = 60;
/// Bytes of an IPv6 frame: Ethernet, IPv6 and UDP without payload.
pub const IPV6_LENGTH: usize = 62;
/// Bytes of a template: what either frame fits into, in whole words.
pub const TEMPLATE_LENGTH: usize = 64;

/// Which packets a generator sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Mix {
    /// IPv4 only.
    Ipv4 = 0,
    /// IPv6 only.
    Ipv6 = 1,
    /// One of each in turn; both are as long as the longer.
    Both = 2,
    /// IPv4 with all that rules match: see [`aim_flow`].
    Flows = 3,
}

/// How far a generator has come on one CPU: `[sent, start, at start, now, at now]`.
///
/// Packets sent; then the clock (ns) and the packets sent at the first and at the latest mark of this run. Setting a run up and
/// taking it down costs tens of milliseconds of waiting, which no mark includes.
pub type Progress = [u64; 5];

/// Packets between two marks, a power of two: the clock is too dear to be read for each packet.
pub const MARK: u64 = 4096;

/// Points an IPv4 frame at a destination.
///
/// The frame is a template whose destination address and UDP source port are zero and whose checksums are right for
/// that. Both arguments are as the machine loads them from the wire.
#[inline(always)]
pub fn aim4<const N: usize>(frame: &mut [u8; N], destination: u32, port: u16) {
    let address = words(destination);
    let header = u32::from(!get(frame, 24)) + address;
    put(frame, 24, !fold(header));
    let datagram = u32::from(!get(frame, 40)) + address + u32::from(port);
    put(frame, 40, present(!fold(datagram)));
    frame[30..34].copy_from_slice(&destination.to_ne_bytes());
    put(frame, 34, port);
}

/// Points an IPv6 frame at a destination; see [`aim4`].
#[inline(always)]
pub fn aim6(frame: &mut [u8; IPV6_LENGTH], destination: [u32; 4], port: u16) {
    let [a, b, c, d] = destination;
    let datagram = u32::from(!get(frame, 60)) + words(a) + words(b) + words(c) + words(d) + u32::from(port);
    put(frame, 60, present(!fold(datagram)));
    frame[38..42].copy_from_slice(&a.to_ne_bytes());
    frame[42..46].copy_from_slice(&b.to_ne_bytes());
    frame[46..50].copy_from_slice(&c.to_ne_bytes());
    frame[50..54].copy_from_slice(&d.to_ne_bytes());
    put(frame, 54, port);
}

/// Makes an IPv4 frame one of a flow: source, destination, both ports, and protocol and header checksum, each as it lies in the
/// frame; the protocol is the first byte of its word, the checksum the last two.
#[inline(always)]
pub fn aim_flow<const N: usize>(frame: &mut [u8; N], flow: [u32; 4]) {
    let [source, destination, ports, [protocol, _, high, low]] = flow.map(u32::to_ne_bytes);
    frame[23] = protocol;
    [frame[24], frame[25]] = [high, low];
    frame[26..30].copy_from_slice(&source);
    frame[30..34].copy_from_slice(&destination);
    frame[34..38].copy_from_slice(&ports);
}

#[inline(always)]
fn get<const N: usize>(frame: &[u8; N], at: usize) -> u16 {
    u16::from_ne_bytes([frame[at], frame[at + 1]])
}

#[inline(always)]
fn put<const N: usize>(frame: &mut [u8; N], at: usize, value: u16) {
    frame[at..at + 2].copy_from_slice(&value.to_ne_bytes());
}

/// The sum of both halves.
#[inline(always)]
const fn words(raw: u32) -> u32 {
    (raw >> 16) + (raw & 0xffff)
}

/// Ends a ones'-complement sum of 16-bit words (RFC 1071).
#[inline(always)]
const fn fold(sum: u32) -> u16 {
    words(words(sum)) as u16
}

/// A UDP checksum of zero means that there is none, so zero is sent as its other form (RFC 768).
#[inline(always)]
const fn present(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// Keys that a run of the programs for route lookups looks up.
pub const LOOKUPS: u32 = 64;
