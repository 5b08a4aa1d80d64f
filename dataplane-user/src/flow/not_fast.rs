//! Why connections are left to the kernel.

/// Why a connection is the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotFast {
    /// A helper reads its packets.
    Helper,
    /// Its sequence numbers are shifted.
    SequenceNumbers,
    /// The kernel answered its SYN.
    SynProxy,
    /// The kernel's own flow table carries it.
    Offloaded,
    /// Its tuples are not its own.
    Clash,
    /// One of its ends is this machine.
    Local,
    /// It has not begun, or it ends.
    NotEstablished,
    /// Packets went one way only.
    OneWay,
    /// It has not lived long enough.
    Young,
    /// The kernel has not announced yet that it is indifferent.
    Asked,
    /// It announces nothing.
    Silent,
    /// Another zone has one of its tuples.
    TwoZones,
    /// The table is about to grow.
    Crowded,
    /// There are as many as there may be.
    Full,
    /// None is carried.
    Off,
}

impl NotFast {
    /// In lists and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Helper => "helper",
            Self::SequenceNumbers => "seq-adjust",
            Self::SynProxy => "synproxy",
            Self::Offloaded => "offload",
            Self::Clash => "clash",
            Self::Local => "local",
            Self::NotEstablished => "not-established",
            Self::OneWay => "one-way",
            Self::Young => "young",
            Self::Asked => "asked",
            Self::Silent => "silent",
            Self::TwoZones => "two-zones",
            Self::Crowded => "crowded",
            Self::Full => "full",
            Self::Off => "off",
        }
    }

    /// What that means, and what to do about it where something can be done.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Helper => "a conntrack helper reads its packets",
            Self::SequenceNumbers => "the kernel shifts its sequence numbers",
            Self::SynProxy => "the kernel answered its SYN (synproxy)",
            Self::Offloaded => "the kernel's own flow table carries it",
            Self::Clash => "its tuples are not its own",
            Self::Local => "one of its ends is this machine",
            Self::NotEstablished => "it is not established, or it ends",
            Self::OneWay => "packets went one way only",
            Self::Young => "it was established just now",
            Self::Asked => "the kernel has not announced yet that it does not mind",
            Self::Silent => {
                "the kernel announces nothing of it: it is older than the daemon (sysctl -w net.netfilter.nf_conntrack_events=1)"
            }
            Self::TwoZones => "another conntrack zone has one of its tuples",
            Self::Crowded => "the table grows just now, and has room for it then",
            Self::Off => "no connection is carried",
            Self::Full => "there is no room for it; raise `max` of [flows]",
        }
    }
}
