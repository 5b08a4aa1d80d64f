//! What is compared. What depends on a clock or on a secret of the kernel is taken out, by the rules in this file and no
//! others.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    difference::Known,
    picture::{PORTS, Picture, SOURCES},
    tree::{DELIVERY, INWARD, Outcome, Shot},
};
use crate::fixture::{
    packet::sum,
    plan::{host_mac, port_mac},
};

/// Where a frame came out: a port, or the place of a group of equal paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// Port `pN`.
    Port(u8),
    /// Any next hop of this group.
    Group(usize),
    /// None: the router sent it to itself.
    Inward,
}

/// An outcome as it is compared: how often each frame came out, and what was delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// How often each frame came out.
    pub frames: BTreeMap<(Exit, Vec<u8>), u32>,
    /// See [`Outcome::delivered`].
    pub delivered: Vec<u64>,
}

/// Known differences that concern how a forwarded frame looks.
pub const FOLDED: [Known; 2] = [Known::EqualPaths, Known::Padding];

/// Of a batch's outcome, what must be the same; the differences in `fold` are taken out of it.
pub fn compared(picture: &Picture, outcome: &Outcome, fold: &[Known]) -> Compared {
    let mut frames = BTreeMap::new();
    for (port, frame) in &outcome.frames {
        if !is_timed(frame) {
            let place = settle(picture, *port, frame.clone(), fold);
            *frames.entry(place).or_default() += 1;
        }
    }
    Compared { frames, delivered: outcome.delivered.clone() }
}

/// What the router sends when a timer says so, not when a packet does:
/// requests for neighbours (ARP requests, neighbour solicitations), reports of multicast groups (IGMP, MLD), and the end of
/// a reassembly that nobody completed; and ICMP errors about routes to senders that may have had too many of them in this
/// second (see [`SOURCES`]).
pub fn is_timed(frame: &[u8]) -> bool {
    let byte = |offset: usize| frame.get(offset).copied().unwrap_or(0);
    match frame.get(12..14) {
        Some([0x08, 0x06]) => byte(21) == 1,
        Some([0x08, 0x00]) => {
            let payload = 14 + usize::from(byte(14) & 0x0f) * 4;
            byte(23) == 2 && is_own(frame) || byte(23) == 1 && is_timed_icmp(&frame[payload.min(frame.len())..])
        }
        Some([0x86, 0xdd]) => match byte(20) {
            58 => is_own(frame) && (matches!(byte(54), 135 | 143) || (byte(54), byte(55)) == (3, 1)),
            // A report, behind hop-by-hop options with a router alert.
            0 => byte(54) == 58 && matches!(byte(62), 131 | 132 | 143) && byte(21) == 1,
            _ => false,
        },
        _ => false,
    }
}

/// The same for an ICMP message.
fn is_timed_icmp(message: &[u8]) -> bool {
    let ([a, b, c], _) = SOURCES;
    let sender = message.get(20..24).unwrap_or(&[0; 4]);
    match message.get(..2) {
        Some([11, 1]) => true,
        Some([3, 0 | 1 | 13]) => !(sender[..2] == [a, b] && sender[2] >= c),
        _ => false,
    }
}

/// Whether the router itself sent it, by its source address.
pub fn is_own(frame: &[u8]) -> bool {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => frame.get(26..30).is_some_and(|source| {
            let port = source[..2] == [198, 18] && source[2] < PORTS && source[3] == 1;
            // Picture `special` has a local network.
            port || source[0] == 127 || source[..3] == [198, 19, 126]
        }),
        Some([0x86, 0xdd]) => frame.get(22..38).is_some_and(|source| {
            let link_local = source[0] == 0xfe && source[1] & 0xc0 == 0x80;
            let global = source[..4] == [0x20, 0x01, 0x0d, 0xb8] && source[4] == 0 && source[5] < PORTS;
            // Picture `special` has a local network and an anycast address.
            let special = source[..4] == [0x20, 0x01, 0x0d, 0xb8] && matches!(source[4..6], [0x04, 0x09 | 0x0b]);
            link_local || source[..8] == [0; 8] || special || global && source[6..15] == [0; 9] && source[15] == 1
        }),
        _ => false,
    }
}

/// Takes out what the kernel draws at random for each namespace: identifications of what the router sends itself; and what
/// is to be folded.
fn settle(picture: &Picture, port: u8, mut frame: Vec<u8>, fold: &[Known]) -> (Exit, Vec<u8>) {
    if is_own(&frame) {
        match (frame[12], frame.get(20).copied()) {
            (0x08, Some(_)) => {
                let length = usize::from(frame[14] & 0x0f) * 4;
                // A wrong checksum stays, and shows.
                if frame.get(14..14 + length).is_some_and(|header| length >= 20 && sum(header) == 0xffff) {
                    frame[18..20].fill(0);
                    frame[24..26].fill(0);
                }
            }
            // The identification of a fragment.
            (0x86, Some(44)) if frame.len() >= 62 => frame[58..62].fill(0),
            _ => {}
        }
    }
    if fold.contains(&Known::Padding)
        && let Some(length) = sound_length(&frame)
    {
        frame.truncate(length);
    }
    let member = |(out, host): &(u8, u8)| {
        *out == port && frame[..6] == host_mac(*out, *host).0 && frame[6..12] == port_mac(*out).0
    };
    let group = picture
        .equal
        .iter()
        .position(|group| fold.contains(&Known::EqualPaths) && frame.len() >= 14 && group.iter().any(member));
    match group {
        Some(group) => {
            frame[..12].fill(0);
            (Exit::Group(group), frame)
        }
        None if port == INWARD => (Exit::Inward, frame),
        None => (Exit::Port(port), frame),
    }
}

/// Takes out what a path MTU of 1280 explains: one side answers that the packet is too big, the other forwards it, and it fits
/// the way out. Only where a frame of the batch told that MTU of the path to the packet's destination. Returns how often.
///
/// What the kernel learnt so it forgets at the next tick of its clock (`mtu_expires`), and we never apply it. So mostly it is
/// the kernel that answers; but a packet that we hand over may meet such an MTU that the other side has forgotten already.
pub fn without_path_mtu(shots: &[Shot], kernel: &mut Compared, ours: &mut Compared) -> u64 {
    let told: BTreeSet<_> = shots.iter().filter_map(|shot| told_path(&shot.frame)).collect();
    let mut count = 0;
    let mut judge = |answering: &mut Compared, forwarding: &mut Compared| {
        let answers: Vec<_> = beyond(answering, forwarding).into_iter().cloned().collect();
        for answer in answers {
            let forwards = |place: &&(Exit, Vec<u8>)| {
                place.1.get(38..54).is_some_and(|target| told.contains(target)) && is_too_big(&answer.1, &place.1)
            };
            if let Some(sent) = beyond(forwarding, answering).into_iter().find(forwards).cloned() {
                take(&mut answering.frames, &answer);
                take(&mut forwarding.frames, &sent);
                count += 1;
            }
        }
    };
    judge(kernel, ours);
    judge(ours, kernel);
    count
}

/// The far end of a path whose MTU a frame tells (packet too big, of 1280 bytes: the errors of the generator).
fn told_path(frame: &[u8]) -> Option<&[u8]> {
    // Behind Ethernet and IPv6: type, code, checksum, MTU, and the packet.
    let tells = frame.get(12..14)? == [0x86, 0xdd] && frame.get(20)? == &58 && frame.get(54)? == &2;
    let small = frame.get(58..62)? == [0, 0, 5, 0];
    if tells && small { frame.get(86..102) } else { None }
}

/// Whether the router answers, with an MTU of 1280, that what the other side has sent is too big.
fn is_too_big(answer: &[u8], sent: &[u8]) -> bool {
    if !is_own(answer) || answer.get(54..56) != Some(&[2, 0]) || answer.get(58..62) != Some(&[0, 0, 5, 0]) {
        return false;
    }
    let quoted = &answer[62..];
    let sent = sent.get(14..).unwrap_or(&[]);
    // All but the hop limit, which the kernel quotes as it will.
    sent.len() > 1280 && sent.len() >= quoted.len() && sent[..7] == quoted[..7] && sent[8..quoted.len()] == quoted[8..]
}

/// Takes out the redirects (RFC 792, RFC 4861 section 4.5) that only one side has sent; to itself, too, with their delivery: the
/// kernel redirects whoever a packet says that it is from (`ip6_forward`). Returns how many.
pub fn without_redirects(kernel: &mut Compared, ours: &mut Compared) -> u64 {
    let alone = redirects_beyond(kernel, ours);
    let others = redirects_beyond(ours, kernel);
    for (side, places) in [(kernel, &alone), (ours, &others)] {
        for place in places {
            take(&mut side.frames, place);
            if place.0 == Exit::Inward {
                for (count, name) in side.delivered.iter_mut().zip(DELIVERY) {
                    if matches!(name, "Ip6InDelivers" | "Icmp6InMsgs") {
                        // One that was not delivered shows.
                        *count = count.wrapping_sub(1);
                    }
                }
            }
        }
    }
    (alone.len() + others.len()) as u64
}

/// The redirects that one side has sent and the other has not.
fn redirects_beyond(side: &Compared, other: &Compared) -> Vec<(Exit, Vec<u8>)> {
    let is_redirect = |place: &&(Exit, Vec<u8>)| {
        let frame = &place.1;
        let v4 = frame.get(12..15) == Some(&[8, 0, 0x45]) && frame.get(23) == Some(&1) && frame.get(34) == Some(&5);
        let v6 = frame.get(20..22) == Some(&[58, 255]) && frame.get(54) == Some(&137);
        is_own(frame) && (v4 || v6)
    };
    beyond(side, other).into_iter().filter(is_redirect).cloned().collect()
}

fn take(frames: &mut BTreeMap<(Exit, Vec<u8>), u32>, place: &(Exit, Vec<u8>)) {
    if let Some(count) = frames.get_mut(place) {
        *count -= 1;
        if *count == 0 {
            frames.remove(place);
        }
    }
}

/// Bytes of the frame without those beyond its IP packet.
fn sound_length(frame: &[u8]) -> Option<usize> {
    let word = |offset: usize| Some(usize::from(u16::from_be_bytes(frame.get(offset..offset + 2)?.try_into().ok()?)));
    match word(12)? {
        0x0800 => Some(14 + word(16)?),
        0x86dd => Some(14 + 40 + word(18)?),
        _ => None,
    }
}

/// What one side has and the other has not.
pub fn beyond<'a>(side: &'a Compared, other: &Compared) -> Vec<&'a (Exit, Vec<u8>)> {
    let more = |(place, count): (&'a (Exit, Vec<u8>), &u32)| {
        let also = other.frames.get(place).copied().unwrap_or(0);
        std::iter::repeat_n(place, count.saturating_sub(also) as usize)
    };
    side.frames.iter().flat_map(more).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::packet::{Packet, between};

    const NONE: [u64; DELIVERY.len()] = [0; DELIVERY.len()];
    /// One message delivered.
    const MESSAGE: [u64; DELIVERY.len()] = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0];

    fn side(frames: &[(Exit, Packet)], delivered: [u64; DELIVERY.len()]) -> Compared {
        let frames = frames.iter().map(|(exit, packet)| ((*exit, packet.frame()), 1)).collect();
        Compared { frames, delivered: delivered.to_vec() }
    }

    fn icmp(from: &str, to: &str, start: [u8; 8], rest: &[u8]) -> Packet {
        between(from, to).ttl(255).carrying(58, [start.as_slice(), rest].concat())
    }

    #[test]
    fn redirects_to_itself_are_chance_and_nothing_else_is() {
        let own = "fe80::ff:fe00:1";
        let redirect = icmp(own, "2001:db8:2::", [137, 0, 0, 0, 0, 0, 0, 0], &[]);
        let error = icmp("2001:db8:0::1", "2001:db8:2::", [1, 0, 0, 0, 0, 0, 0, 0], &[]);
        let strange = icmp("2001:db8:0::2", "2001:db8:2::", [137, 0, 0, 0, 0, 0, 0, 0], &[]);
        let rows = [
            ("sent to itself and delivered", Exit::Inward, &redirect, MESSAGE, true),
            ("not delivered", Exit::Inward, &redirect, NONE, false),
            ("out of a port, nothing delivered", Exit::Port(0), &redirect, NONE, true),
            ("out of a port, and something delivered", Exit::Port(0), &redirect, MESSAGE, false),
            ("another message to itself", Exit::Inward, &error, MESSAGE, false),
            ("a redirect that another sent", Exit::Inward, &strange, MESSAGE, false),
        ];
        for (what, exit, packet, delivered, chance) in rows {
            let one = || side(&[(exit, packet.clone())], delivered);
            for (mut kernel, mut ours) in [(one(), side(&[], NONE)), (side(&[], NONE), one())] {
                let count = without_redirects(&mut kernel, &mut ours);
                assert_eq!(kernel == ours, chance, "{what}: {count} taken out, {kernel:?}, {ours:?}");
            }
        }
        let (mut kernel, mut ours) = (side(&[], MESSAGE), side(&[], NONE));
        assert_eq!(without_redirects(&mut kernel, &mut ours), 0);
        assert_ne!(kernel, ours, "a delivery without a redirect");
    }

    #[test]
    fn a_path_mtu_explains_only_what_a_frame_has_told() {
        let tells = |target: &str, mtu: [u8; 2]| {
            let inner = between("2001:db8:1::1", target).carrying(17, vec![0; 8]).bare();
            let frame = icmp("2001:db8:1::2", "2001:db8:1::1", [2, 0, 0, 0, 0, 0, mtu[0], mtu[1]], &inner).frame();
            Shot { port: 1, frame, class: "row" }
        };
        let sent = |size| between("2001:db8:1::3", "2001:db8:100::7").udp(1, 2, size);
        let answer = |size| {
            let quoted = sent(size).bare();
            icmp("2001:db8:1::1", "2001:db8:1::3", [2, 0, 0, 0, 0, 0, 5, 0], &quoted[..1232.min(quoted.len())])
        };
        let rows = [
            ("told", vec![tells("2001:db8:100::7", [5, 0])], 1300, true),
            ("told by nobody", vec![], 1300, false),
            ("told of another path", vec![tells("2001:db8:100::8", [5, 0])], 1300, false),
            ("told another MTU", vec![tells("2001:db8:100::7", [5, 1])], 1300, false),
            ("fits", vec![tells("2001:db8:100::7", [5, 0])], 1232, false),
        ];
        for (what, shots, size, chance) in rows {
            let [answered, forwarded] = [answer(size), sent(size)].map(|packet| side(&[(Exit::Port(1), packet)], NONE));
            for (mut kernel, mut ours) in [(answered.clone(), forwarded.clone()), (forwarded, answered)] {
                let count = without_path_mtu(&shots, &mut kernel, &mut ours);
                assert_eq!((kernel == ours, count == 1), (chance, chance), "{what}");
            }
        }
    }
}
