//! An entry in words: `tcp 198.18.7.0/24 port 1-1000 to pid 812 fd 4 or drop`.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::{FromStr, SplitWhitespace},
};

use dataplane_common::steer::{self, STEER_ORIGIN, SteerEntry};
use thiserror::Error;

/// How an entry is written.
const GRAMMAR: &str =
    "tcp|udp PREFIX port A[-B] to pid PID fd N|fd N|listen [ADDR]:PORT [pid PID]|systemd NAME [or drop]";
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Why words are no entry.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}; an entry is: {GRAMMAR}")]
pub struct EntryError(String);

/// What an entry matches, and what becomes of it without a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Of UDP; else of TCP.
    pub udp: bool,
    /// The first address of the prefix.
    pub address: IpAddr,
    /// Bits of the prefix.
    pub length: u8,
    /// The first and the last port.
    pub ports: [u16; 2],
    /// Without its socket, no other gets what matches.
    pub or_drop: bool,
}

/// Where the socket of an entry comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A descriptor of another process.
    Process {
        /// Its number.
        pid: u32,
        /// The number of the descriptor there.
        fd: i32,
    },
    /// A descriptor of the process that adds the entry.
    Own(i32),
    /// A socket that is bound like this.
    Bound {
        /// Its address; none: any.
        address: Option<IpAddr>,
        /// Its port.
        port: u16,
        /// The process that has it; none: any.
        pid: Option<u32>,
    },
    /// A socket that systemd handed to the process that adds the entry, by its name (`FileDescriptorName=`).
    Systemd(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, fd } => write!(f, "pid {pid} fd {fd}"),
            Self::Own(fd) => write!(f, "fd {fd}"),
            Self::Bound { address, port, pid } => {
                match address {
                    Some(IpAddr::V6(address)) => write!(f, "listen [{address}]:{port}")?,
                    Some(address) => write!(f, "listen {address}:{port}")?,
                    None => write!(f, "listen :{port}")?,
                }
                pid.map_or(Ok(()), |pid| write!(f, " pid {pid}"))
            }
            Self::Systemd(name) => write!(f, "systemd {name}"),
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{} port {}", self.protocol_word(), self.address, self.length, self.ports[0])?;
        if self.ports[0] != self.ports[1] {
            write!(f, "-{}", self.ports[1])?;
        }
        Ok(())
    }
}

impl Entry {
    /// `tcp` or `udp`.
    pub const fn protocol_word(&self) -> &'static str {
        if self.udp { "udp" } else { "tcp" }
    }

    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub const fn protocol(&self) -> u8 {
        if self.udp { UDP } else { TCP }
    }

    /// The number of its protocol and family.
    pub fn class(&self) -> u8 {
        steer::class(self.protocol().into(), self.address.is_ipv6()).unwrap_or_default() as u8
    }

    /// The first address and the last one as numbers.
    pub fn span(&self) -> (u128, u128) {
        let (first, bits) = match self.address {
            IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
            IpAddr::V6(address) => (address.to_bits(), 128),
        };
        let host = bits - u32::from(self.length);
        (first, first | u128::MAX.checked_shr(128 - host).unwrap_or_default())
    }

    /// Whether two entries match the same.
    pub fn matches_as(&self, other: &Self) -> bool {
        (self.class(), self.span(), self.ports) == (other.class(), other.span(), other.ports)
    }

    /// As the maps have it.
    pub fn to_map(self, id: u32, origin: &str, config: bool) -> SteerEntry {
        let (first, _) = self.span();
        let mut bytes = [0; STEER_ORIGIN];
        let length = origin.floor_char_boundary(STEER_ORIGIN);
        bytes[..length].copy_from_slice(&origin.as_bytes()[..length]);
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        SteerEntry {
            address: halves(first),
            id,
            ports: self.ports,
            class: self.class(),
            length: self.length,
            flags: SteerEntry::USED | bit(self.or_drop, SteerEntry::OR_DROP) | bit(config, SteerEntry::CONFIG),
            origin_length: length as u8,
            origin: bytes,
        }
    }

    /// What a map has, with where the socket came from; none where there is no entry.
    pub fn from_map(row: &SteerEntry) -> Option<(Self, String)> {
        if row.flags & SteerEntry::USED == 0 {
            return None;
        }
        let [upper, lower] = row.address;
        let (ipv6, udp) = (row.class & 1 != 0, row.class & 2 != 0);
        let address = if ipv6 {
            IpAddr::V6(Ipv6Addr::from_bits(u128::from(upper) << 64 | u128::from(lower)))
        } else {
            IpAddr::V4(Ipv4Addr::from_bits(lower as u32))
        };
        let (bits, origin) = (if ipv6 { 128 } else { 32 }, row.origin.get(..row.origin_length.into())?);
        let or_drop = row.flags & SteerEntry::OR_DROP != 0;
        let entry = Self { udp, address, length: row.length.min(bits), ports: row.ports, or_drop };
        Some((entry, String::from_utf8_lossy(origin).into_owned()))
    }
}

/// An entry of a config file, with where its socket is to come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SteerConfig {
    /// What it matches.
    pub entry: Entry,
    /// Where its socket is to come from.
    pub origin: Origin,
}

impl fmt::Display for SteerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}{}", self.entry, self.origin, if self.entry.or_drop { " or drop" } else { "" })
    }
}

impl FromStr for SteerConfig {
    type Err = EntryError;

    fn from_str(text: &str) -> Result<Self, EntryError> {
        let (entry, origin) = parse(text)?;
        if matches!(origin, Origin::Process { .. } | Origin::Own(_)) {
            return Err(EntryError(format!(
                "`{origin}` means another socket each time: a file takes `listen` or `systemd`"
            )));
        }
        Ok(Self { entry, origin })
    }
}

/// A number in two halves, the upper one first.
pub(super) const fn halves(number: u128) -> [u64; 2] {
    [(number >> 64) as u64, number as u64]
}

/// Reads an entry.
///
/// # Errors
/// What is wrong, and how entries are written.
pub fn parse(text: &str) -> Result<(Entry, Origin), EntryError> {
    let mut words = text.split_whitespace();
    let udp = match word(&mut words, "tcp or udp")? {
        "tcp" => false,
        "udp" => true,
        other => return Err(wrong(other, "tcp or udp")),
    };
    let (address, length) = prefix(word(&mut words, "a prefix")?)?;
    expect(&mut words, "port")?;
    let ports = ports(word(&mut words, "a port")?)?;
    expect(&mut words, "to")?;
    let mut rest: Vec<_> = words.collect();
    let or_drop = rest.ends_with(&["or", "drop"]);
    rest.truncate(rest.len() - if or_drop { 2 } else { 0 });
    let origin = origin(&rest)?;
    Ok((Entry { udp, address, length, ports, or_drop }, origin))
}

fn wrong(found: &str, wanted: &str) -> EntryError {
    EntryError(format!("`{found}` stands where {wanted} is wanted"))
}

fn word<'t>(words: &mut SplitWhitespace<'t>, wanted: &str) -> Result<&'t str, EntryError> {
    words.next().ok_or_else(|| EntryError(format!("{wanted} is missing at the end")))
}

fn expect(words: &mut SplitWhitespace<'_>, wanted: &str) -> Result<(), EntryError> {
    match word(words, &format!("`{wanted}`"))? {
        found if found == wanted => Ok(()),
        found => Err(wrong(found, &format!("`{wanted}`"))),
    }
}

fn prefix(text: &str) -> Result<(IpAddr, u8), EntryError> {
    let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
    let address: IpAddr =
        address.parse().map_err(|_| wrong(text, "a prefix, such as 198.18.7.0/24 or 2001:db8:7::/64,"))?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let length = length.map_or(Ok(bits), str::parse).ok().filter(|length| *length <= bits);
    let length = length.ok_or_else(|| wrong(text, &format!("a prefix of at most {bits} bits")))?;
    let network = match address {
        IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from_bits(
            address.to_bits() & u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or_default(),
        )),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(
            address.to_bits() & u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or_default(),
        )),
    };
    if network != address {
        return Err(EntryError(format!("`{text}` has bits behind its prefix: it would be {network}/{length}")));
    }
    Ok((address, length))
}

fn ports(text: &str) -> Result<[u16; 2], EntryError> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let both = first.parse().ok().zip(last.parse().ok());
    let ports = both.filter(|(first, last)| 0 < *first && first <= last);
    ports.map(|(first, last)| [first, last]).ok_or_else(|| wrong(text, "a port or a range, such as 80 or 1-1000,"))
}

fn number<T: FromStr>(text: &str, what: &str) -> Result<T, EntryError> {
    text.parse().map_err(|_| wrong(text, what))
}

fn origin(words: &[&str]) -> Result<Origin, EntryError> {
    const PID: &str = "the number of a process";
    const FD: &str = "the number of a file descriptor";
    Ok(match words {
        ["pid", pid, "fd", fd] => Origin::Process { pid: number(pid, PID)?, fd: number(fd, FD)? },
        ["fd", fd] => Origin::Own(number(fd, FD)?),
        ["listen", bound] => {
            let (address, port) = bound_to(bound)?;
            Origin::Bound { address, port, pid: None }
        }
        ["listen", bound, "pid", pid] => {
            let (address, port) = bound_to(bound)?;
            Origin::Bound { address, port, pid: Some(number(pid, PID)?) }
        }
        ["systemd", name] => Origin::Systemd((*name).to_owned()),
        [] => return Err(EntryError("there is nothing behind `to`".to_owned())),
        words => return Err(EntryError(format!("`{}` says no socket", words.join(" ")))),
    })
}

fn bound_to(text: &str) -> Result<(Option<IpAddr>, u16), EntryError> {
    const WANTED: &str = "an address and port, such as 127.0.0.1:4000, [::]:4000 or :4000,";
    let (address, port) = text.rsplit_once(':').ok_or_else(|| wrong(text, WANTED))?;
    let port = number(port, WANTED)?;
    let bare = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address);
    let address = if bare.is_empty() || bare == "*" { None } else { Some(number(bare, WANTED)?) };
    Ok((address, port))
}
