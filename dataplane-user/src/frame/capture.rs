//! Capture files: pcap and pcapng are read, pcapng is written.

use std::{
    borrow::Cow,
    collections::HashMap,
    fs::File,
    io::{self, BufReader, Read as _, Seek as _, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use pcap_file::{
    DataLink, Endianness, PcapError,
    pcap::PcapReader,
    pcapng::{
        Block, PcapNgReader, PcapNgWriter, RawBlock,
        blocks::{
            ENHANCED_PACKET_BLOCK,
            interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption},
            section_header::{SectionHeaderBlock, SectionHeaderOption},
        },
    },
};
use thiserror::Error;

/// Why a capture file cannot be used.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// It cannot be opened, read or written.
    #[error("{}: {error}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It is no capture file, or a broken one.
    #[error("{}: not a valid pcap or pcapng file: {error}", path.display())]
    Format {
        /// Which one.
        path: PathBuf,
        /// What was wrong.
        error: PcapError,
    },
    /// Its frames begin with something else than Ethernet or IP.
    #[error("{}: frames of link type {kind:?} are not supported; use a capture of an Ethernet interface", path.display())]
    Link {
        /// Which one.
        path: PathBuf,
        /// What they begin with.
        kind: DataLink,
    },
    /// There are fewer frames.
    #[error("{}: there is no frame {wanted}, only {there}; the first frame is 1", path.display())]
    Missing {
        /// Which one.
        path: PathBuf,
        /// The frame.
        wanted: usize,
        /// How many there are.
        there: usize,
    },
}

/// First bytes of a pcapng file: the type of its first block.
const PCAPNG: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// Gives the frames of a file to `take`, all or only the one with a number, from 1; says how many it gave.
///
/// # Errors
/// What is wrong with the file; what `take` says ends the reading.
pub fn frames<E: From<CaptureError>>(
    path: &Path,
    only: Option<usize>,
    mut take: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<usize, E> {
    let failed = |error| CaptureError::File { path: path.to_owned(), error };
    let mut file = File::open(path).map_err(failed)?;
    let mut magic = [0; 4];
    file.read_exact(&mut magic).map_err(failed)?;
    file.rewind().map_err(failed)?;
    let file = BufReader::new(file);
    let (mut seen, mut given) = (0, 0);
    let mut one = |kind: DataLink, data: &[u8]| -> Result<bool, E> {
        seen += 1;
        if only.is_some_and(|wanted| wanted != seen) {
            return Ok(true);
        }
        if ![DataLink::ETHERNET, DataLink::RAW, DataLink::IPV4, DataLink::IPV6].contains(&kind) {
            return Err(CaptureError::Link { path: path.to_owned(), kind }.into());
        }
        given += 1;
        take(data)?;
        Ok(only.is_none())
    };
    let broken = |error| CaptureError::Format { path: path.to_owned(), error };
    if magic == PCAPNG {
        let mut reader = PcapNgReader::new(file).map_err(broken)?;
        let mut kinds = Vec::new();
        while let Some(block) = reader.next_block() {
            let more = match block.map_err(broken)? {
                Block::SectionHeader(_) => {
                    kinds.clear();
                    true
                }
                Block::InterfaceDescription(interface) => {
                    kinds.push(interface.linktype);
                    true
                }
                Block::EnhancedPacket(packet) => {
                    let kind = kinds.get(packet.interface_id as usize).copied().unwrap_or(DataLink::ETHERNET);
                    one(kind, &packet.data)?
                }
                Block::SimplePacket(packet) => one(kinds.first().copied().unwrap_or(DataLink::ETHERNET), &packet.data)?,
                _ => true,
            };
            if !more {
                break;
            }
        }
    } else {
        let mut reader = PcapReader::new(file).map_err(broken)?;
        let kind = reader.header().datalink;
        while let Some(packet) = reader.next_packet() {
            if !one(kind, &packet.map_err(broken)?.data)? {
                break;
            }
        }
    }
    match only {
        Some(wanted) if given == 0 => Err(CaptureError::Missing { path: path.to_owned(), wanted, there: seen }.into()),
        _ => Ok(given),
    }
}

/// A capture file that is being written (pcapng, draft-ietf-opsawg-pcapng).
pub struct Recorder<W: Write> {
    writer: PcapNgWriter<W>,
    /// Numbers of interfaces by their names.
    interfaces: HashMap<String, u32>,
}

/// One frame to be written.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The port.
    pub port: &'a str,
    /// Since 1970.
    pub time: Duration,
    /// Bytes of the whole frame.
    pub length: u32,
    /// Those that are here.
    pub bytes: &'a [u8],
    /// Whether XDP judged it; else tc.
    pub at_xdp: bool,
    /// What the program returned: `XDP_*` or `TC_ACT_*`.
    pub action: u64,
    /// What a reader should know.
    pub comment: &'a str,
}

/// Bytes around the body of a block: its type, and its length twice.
const BLOCK: u32 = 12;
/// `opt_endofopt`.
const END: u16 = 0;
/// `opt_comment`.
const COMMENT: u16 = 1;
/// `epb_flags`.
const FLAGS: u16 = 2;
/// `epb_verdict`, which the library does not know.
const VERDICT: u16 = 7;
/// Inbound.
const INBOUND: u32 = 1;
/// `if_tsresol`: nanoseconds.
const NANOSECONDS: u8 = 9;

impl<W: Write> Recorder<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// What the writer says.
    pub fn new(writer: W) -> Result<Self, PcapError> {
        let application = concat!("dataplane ", env!("CARGO_PKG_VERSION"));
        let section = SectionHeaderBlock {
            endianness: Endianness::native(),
            options: vec![SectionHeaderOption::UserApplication(Cow::Borrowed(application))],
            ..SectionHeaderBlock::default()
        };
        Ok(Self { writer: PcapNgWriter::with_section_header(writer, section)?, interfaces: HashMap::new() })
    }

    /// Writes a frame.
    ///
    /// # Errors
    /// What the writer says.
    pub fn write(&mut self, frame: &Frame<'_>) -> Result<(), PcapError> {
        let interface = self.interface(frame.port)?;
        let body = body(interface, frame);
        let length = body.len() as u32 + BLOCK;
        self.writer.write_raw_block(&RawBlock {
            type_: ENHANCED_PACKET_BLOCK,
            initial_len: length,
            body: Cow::Owned(body),
            trailer_len: length,
        })?;
        Ok(())
    }

    /// Hands what is buffered to the system.
    ///
    /// # Errors
    /// What the writer says.
    pub fn flush(&mut self) -> io::Result<()> {
        self.writer.get_mut().flush()
    }

    fn interface(&mut self, name: &str) -> Result<u32, PcapError> {
        if let Some(number) = self.interfaces.get(name) {
            return Ok(*number);
        }
        self.writer.write_pcapng_block(InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: 0,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Owned(name.to_owned())),
                InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
            ],
        })?;
        let number = self.interfaces.len() as u32;
        self.interfaces.insert(name.to_owned(), number);
        Ok(number)
    }
}

/// The body of an enhanced packet block, in the host's byte order.
fn body(interface: u32, frame: &Frame<'_>) -> Vec<u8> {
    let time = frame.time.as_nanos() as u64;
    let mut body = Vec::new();
    for word in [interface, (time >> 32) as u32, time as u32, frame.bytes.len() as u32, frame.length] {
        body.extend(word.to_ne_bytes());
    }
    body.extend(frame.bytes);
    pad(&mut body);
    // Who judged it, and what the program returned.
    let mut verdict = vec![if frame.at_xdp { 2 } else { 1 }];
    verdict.extend(frame.action.to_ne_bytes());
    let flags = INBOUND.to_ne_bytes();
    let comment = &frame.comment.as_bytes()[..frame.comment.floor_char_boundary(usize::from(u16::MAX))];
    for (code, value) in [(FLAGS, flags.as_slice()), (VERDICT, &verdict), (COMMENT, comment), (END, &[])] {
        body.extend(code.to_ne_bytes());
        body.extend((value.len() as u16).to_ne_bytes());
        body.extend(value);
        pad(&mut body);
    }
    body
}

/// Everything begins at a multiple of four bytes.
fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path, only: Option<usize>) -> Result<Vec<Vec<u8>>, CaptureError> {
        let mut all = Vec::new();
        frames(path, only, |frame| {
            all.push(frame.to_vec());
            Ok::<_, CaptureError>(())
        })?;
        Ok(all)
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x.pcapng");
        let mut recorder = Recorder::new(File::create(&path).expect("a file")).expect("a recorder");
        let packets: [(&str, &[u8]); 3] = [("eth0", &[1; 60]), ("eth1", &[2; 61]), ("eth0", &[3; 14])];
        for (port, bytes) in packets {
            let frame = Frame {
                port,
                time: Duration::from_nanos(1_763_900_000_123_456_789),
                length: 100,
                bytes,
                at_xdp: port == "eth0",
                action: 4,
                comment: "forward: forwarded",
            };
            recorder.write(&frame).expect("written");
        }
        recorder.flush().expect("flushed");
        let all: Vec<_> = packets.iter().map(|(_, bytes)| bytes.to_vec()).collect();
        assert_eq!(read(&path, None).expect("frames"), all);
        assert_eq!(read(&path, Some(2)).expect("a frame"), all[1..2]);
        assert!(matches!(read(&path, Some(4)), Err(CaptureError::Missing { there: 3, .. })));
    }

    #[test]
    fn classic_files_are_read_and_others_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x.pcap");
        let mut bytes = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0];
        bytes.extend([[1; 4], [0; 4], [14, 0, 0, 0], [14, 0, 0, 0]].concat());
        bytes.extend([9; 14]);
        std::fs::write(&path, &bytes).expect("a file");
        assert_eq!(read(&path, None).expect("frames"), [[9; 14]]);
        // Linux "cooked" frames.
        bytes[20] = 113;
        std::fs::write(&path, &bytes).expect("a file");
        assert!(matches!(read(&path, None), Err(CaptureError::Link { .. })));
        std::fs::write(&path, "no capture").expect("a file");
        assert!(matches!(read(&path, None), Err(CaptureError::Format { .. })));
        assert!(matches!(read(&dir.path().join("none"), None), Err(CaptureError::File { .. })));
    }
}
