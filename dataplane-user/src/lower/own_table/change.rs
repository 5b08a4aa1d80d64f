//! What rules change, as steps of nftables.

use super::asked::{CT_MARK, MARK, NETWORK};
use super::list::FIRST;
use crate::{
    model::Step,
    rule::{Change, Family, MarkOf, NewMark, display::Named as _},
};

/// Where the checksum of IPv4 is.
const CHECKSUM: u32 = 10;

/// Writes one thing.
pub(super) fn steps(change: Change) -> Vec<Step> {
    match change {
        Change::Mark(of, mark) => {
            let mut steps = value_of(mark);
            steps.push(match of {
                MarkOf::Packet => Step::SetMeta(MARK, FIRST),
                MarkOf::Connection => Step::SetConnection(CT_MARK, FIRST),
            });
            steps
        }
        Change::SegmentSize(None) => vec![Step::RouteSegment(FIRST), Step::Swap(FIRST, 2), Step::SetSegment(FIRST)],
        Change::SegmentSize(Some(size)) => {
            vec![Step::Put(FIRST, size.to_be_bytes().to_vec()), Step::SetSegment(FIRST)]
        }
        // Checksums are of two bytes, so two are written.
        Change::Dscp(Family::V4, dscp) => write(0, 0xff03, u16::from(dscp.0) << 2, Some(CHECKSUM)),
        Change::Dscp(Family::V6, dscp) => write(0, 0xf03f, u16::from(dscp.0) << 6, None),
        Change::HopLimit(Family::V4, hops) => write(8, 0x00ff, u16::from(hops.0) << 8, Some(CHECKSUM)),
        Change::HopLimit(Family::V6, hops) => write(6, 0xff00, hops.0.into(), None),
        Change::Helper(helper) => vec![Step::Helper(helper.word(), helper.protocol())],
    }
}

fn value_of(mark: NewMark) -> Vec<Step> {
    let load = match mark.from() {
        None => return vec![Step::Put(FIRST, mark.flip().to_ne_bytes().to_vec())],
        Some(MarkOf::Packet) => Step::Meta(MARK, FIRST),
        Some(MarkOf::Connection) => Step::Connection(CT_MARK, None, FIRST),
    };
    let [keep, flip] = [mark.keep(), mark.flip()].map(|bits| bits.to_ne_bytes().to_vec());
    if (mark.keep(), mark.flip()) == (u32::MAX, 0) { vec![load] } else { vec![load, Step::Flip(FIRST, keep, flip)] }
}

/// Two bytes of the header, of which some bits stay.
fn write(offset: u32, keep: u16, value: u16, checksum: Option<u32>) -> Vec<Step> {
    vec![
        Step::Payload(NETWORK, offset, 2, FIRST),
        Step::Flip(FIRST, keep.to_be_bytes().to_vec(), value.to_be_bytes().to_vec()),
        Step::Write(NETWORK, offset, 2, checksum, FIRST),
    ]
}
