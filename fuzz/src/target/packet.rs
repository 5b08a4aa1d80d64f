//! The part of the packet pipeline that is the same on the host: no panic, no wrap, and no place outside of the frame.

use std::path::Path;

use dataplane_common::{
    decide::{Family, Frame, L3Protocol, V4, V6, Vlan, frame, is_pending, segment_length, transport},
    wire::Mac,
};

use super::Target;

pub const TARGET: Target = Target { name: "packet", corpus, words: &[], feed };

#[expect(clippy::unnecessary_wraps, reason = "those of other targets are files")]
fn corpus(_: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut corpus = Vec::new();
    let link = |tags: &[u8], ethertype: u16| {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        frame.extend(tags);
        frame.extend(ethertype.to_be_bytes());
        frame
    };
    let tags: [&[u8]; 3] = [&[], &[0x81, 0, 0, 100], &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 100]];
    for tags in tags {
        for (protocol, payload) in [(6, 20_u8), (17, 8), (1, 8), (132, 12), (4, 20)] {
            let mut v4 = link(tags, 0x0800);
            v4.extend([0x45, 0, 0, 20 + payload + 4, 0, 1, 0, 0, 64, protocol, 0, 0, 198, 18, 0, 1, 203, 0, 113, 9]);
            let at = v4.len() - 20;
            let sum = v4[at..].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
            let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
            v4[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
            v4.extend(vec![0x50; usize::from(payload) + 4]);
            corpus.push(v4);
            for chain in
                [vec![], vec![(0, 1)], vec![(43, 2), (60, 0)], vec![(44, 0)], vec![(0, 0), (60, 0), (43, 0), (44, 0)]]
            {
                let mut v6 = link(tags, 0x86dd);
                let length: usize = chain.iter().map(|(_, units)| 8 + 8 * units).sum::<usize>() + usize::from(payload);
                let first = chain.first().map_or(protocol, |(header, _)| *header);
                v6.extend([0x60, 0, 0, 0, 0, length as u8, first, 64]);
                v6.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
                v6.extend([0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
                for (index, (_, units)) in chain.iter().enumerate() {
                    let next = chain.get(index + 1).map_or(protocol, |(header, _)| *header);
                    v6.extend([next, *units as u8, 0, 0, 0, 0, 0, 0]);
                    v6.extend(vec![0; 8 * units]);
                }
                v6.extend(vec![0x50; usize::from(payload)]);
                corpus.push(v6);
            }
        }
    }
    Ok(corpus)
}

fn feed(input: &[u8]) {
    for ours in [None, Some(Mac::wide(&[2, 0, 0, 0, 0, 1, 0, 0], 0))] {
        let Ok(frame) = frame(input, ours, Vlan::NONE) else { continue };
        assert!(frame.offset <= input.len(), "{frame:?}");
        match frame.l3 {
            L3Protocol::Ipv4 => walk::<V4>(input, &frame),
            L3Protocol::Ipv6 => walk::<V6>(input, &frame),
            _ => {}
        }
    }
}

fn walk<F: Family>(input: &[u8], frame: &Frame) {
    for segmented in [false, true] {
        let Ok(packet) = F::datagram(input, frame.offset, input.len(), segmented) else { continue };
        let end = frame.offset + packet.length;
        assert!(segmented || end <= input.len(), "a packet of {} bytes in {}", packet.length, input.len());
        assert!(packet.payload >= frame.offset + 20 && packet.payload <= end, "payload at {} of {end}", packet.payload);
        transport(input, &packet, frame.offset);
        is_pending(input, &packet, frame.offset);
        assert!(segment_length(input, &packet, frame.offset, 1400) >= 1400);
        let _ = (F::scope(&packet), F::may_fragment(&packet), F::flow(&packet));
    }
}
