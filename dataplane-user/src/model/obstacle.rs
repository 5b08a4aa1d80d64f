//! What rules of netfilter do that a packet carried at the driver would escape.

use std::fmt;
use std::str::FromStr;

/// A kind of expression whose effect is lost, or differs, where packets of a connection pass netfilter by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ObstacleKind {
    /// A program in user space decides (`queue`, `NFQUEUE`).
    Queue,
    /// It cannot be read: an expression, a chain or a hook that is not known.
    Unreadable,
    /// `limit`, `hashlimit`.
    Limit,
    /// `quota`.
    Quota,
    /// `ct count`, `connlimit`.
    Connlimit,
    /// `dup`, `TEE`.
    Dup,
    /// `fwd` to another device.
    Fwd,
    /// `add @set`, `update @set`, meters, `SET`, `recent`.
    Dynset,
    /// `log`, `LOG`, `NFLOG`.
    Log,
    /// `meta mark set`, `MARK`, `CONNMARK --restore-mark`.
    Mark,
    /// `ct mark set` and whatever else is written into conntrack.
    Ct,
    /// `meta priority set`, `CLASSIFY`.
    Priority,
    /// Bytes of the packet are written: `ip dscp set`, `DSCP`, `TTL`.
    Payload,
    /// `meta nftrace set`, `TRACE`.
    Trace,
    /// `synproxy`, `SYNPROXY`.
    Synproxy,
    /// `tproxy`, `TPROXY`.
    Tproxy,
    /// `numgen`, `meta random`, `statistic`.
    Random,
    /// `meta hour`, `meta day`, `time`.
    Time,
    /// `notrack`, `NOTRACK`.
    Notrack,
    /// A match on what differs between packets of one connection: length, TTL, bytes counted so far.
    Content,
    /// An extension of iptables of which nothing is known.
    Extension,
    /// `counter`: counts fewer packets. It forbids nothing.
    Counter,
    /// `ct helper set`: such connections stay in the kernel. It forbids nothing.
    Helper,
    /// `flow add`: the kernel's own flowtable takes connections over. It forbids nothing.
    Flowtable,
}

impl ObstacleKind {
    /// All, in order.
    pub const ALL: [Self; 24] = [
        Self::Queue,
        Self::Unreadable,
        Self::Limit,
        Self::Quota,
        Self::Connlimit,
        Self::Dup,
        Self::Fwd,
        Self::Dynset,
        Self::Log,
        Self::Mark,
        Self::Ct,
        Self::Priority,
        Self::Payload,
        Self::Trace,
        Self::Synproxy,
        Self::Tproxy,
        Self::Random,
        Self::Time,
        Self::Notrack,
        Self::Content,
        Self::Extension,
        Self::Counter,
        Self::Helper,
        Self::Flowtable,
    ];

    /// The word in the config and in findings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Unreadable => "unreadable",
            Self::Limit => "limit",
            Self::Quota => "quota",
            Self::Connlimit => "connlimit",
            Self::Dup => "dup",
            Self::Fwd => "fwd",
            Self::Dynset => "dynset",
            Self::Log => "log",
            Self::Mark => "mark",
            Self::Ct => "ct",
            Self::Priority => "priority",
            Self::Payload => "payload",
            Self::Trace => "trace",
            Self::Synproxy => "synproxy",
            Self::Tproxy => "tproxy",
            Self::Random => "random",
            Self::Time => "time",
            Self::Notrack => "notrack",
            Self::Content => "content",
            Self::Extension => "extension",
            Self::Counter => "counter",
            Self::Helper => "helper",
            Self::Flowtable => "flowtable",
        }
    }

    /// Whether the operator may say that it does not matter. What a program in user space inspects, or what may be that, is
    /// never passed by.
    pub const fn can_be_ignored(self) -> bool {
        !matches!(self, Self::Queue | Self::Unreadable)
    }

    /// Whether it is only worth a note.
    pub const fn is_note(self) -> bool {
        matches!(self, Self::Counter | Self::Helper | Self::Flowtable)
    }
}

impl fmt::Display for ObstacleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ObstacleKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|kind| kind.name() == text);
        match known {
            Some(kind) if kind.can_be_ignored() => Ok(kind),
            Some(kind) => Err(format!(
                "`{kind}` cannot be ignored: what a program in user space decides, or may decide, is never passed by"
            )),
            None => {
                let words = Self::ALL.into_iter().filter(|kind| kind.can_be_ignored()).map(Self::name);
                Err(format!("unknown kind `{text}`; use {}", words.collect::<Vec<_>>().join(", ")))
            }
        }
    }
}

/// A set of kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObstacleKinds(u32);

impl ObstacleKinds {
    /// Whether this kind is in it.
    pub const fn contains(self, kind: ObstacleKind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }

    /// Those in it, in order.
    pub fn iter(self) -> impl Iterator<Item = ObstacleKind> {
        ObstacleKind::ALL.into_iter().filter(move |kind| self.contains(*kind))
    }
}

impl FromIterator<ObstacleKind> for ObstacleKinds {
    fn from_iter<T: IntoIterator<Item = ObstacleKind>>(kinds: T) -> Self {
        Self(kinds.into_iter().fold(0, |bits, kind| bits | 1 << kind as u8))
    }
}

/// A rule that keeps connections in the kernel, or is worth a note.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Obstacle {
    /// What it does.
    pub kind: ObstacleKind,
    /// Which rule: `rule inet filter forward handle 12`.
    pub place: String,
    /// By which name it does that, or why it cannot be read.
    pub what: Option<String>,
}

impl Obstacle {
    /// Whether it keeps connections in the kernel.
    pub const fn forbids(&self, ignore: ObstacleKinds) -> bool {
        !(self.kind.is_note() || self.kind.can_be_ignored() && ignore.contains(self.kind))
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = self.what.as_deref();
        match (self.kind, what) {
            (ObstacleKind::Unreadable, _) => {
                write!(f, "{} cannot be read: {}", self.place, what.unwrap_or("it is not known"))
            }
            (kind, None) => write!(f, "{} has {kind}", self.place),
            (kind, Some(what)) => write!(f, "{} has {kind} ({what})", self.place),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_back_and_some_are_refused() {
        for kind in ObstacleKind::ALL {
            let read = kind.name().parse::<ObstacleKind>();
            assert_eq!(read.ok(), kind.can_be_ignored().then_some(kind), "{kind}");
        }
        assert!("queue".parse::<ObstacleKind>().expect_err("never").contains("cannot be ignored"));
        assert!("qeue".parse::<ObstacleKind>().expect_err("unknown").contains("use limit, quota, "));
    }

    #[test]
    fn sets_hold_what_was_put_in() {
        let some: ObstacleKinds = [ObstacleKind::Flowtable, ObstacleKind::Log].into_iter().collect();
        assert_eq!(some.iter().collect::<Vec<_>>(), [ObstacleKind::Log, ObstacleKind::Flowtable]);
        assert_eq!(ObstacleKinds::default().iter().count(), 0);
    }
}
