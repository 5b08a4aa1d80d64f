//! The table of nftables that holds own rules which only the kernel can decide, as it is to be written. Numbers are those of
//! `include/uapi/linux/netfilter/nf_tables.h`.

/// Its name, in family `inet`.
pub const OWN_RULES: &str = "dataplane";

/// The bit of the mark that has a packet delivered to this machine.
pub const DELIVERY_MARK: u32 = 1 << 27;

/// The routing table that such packets are looked up in.
pub const TABLE_DELIVERY: u32 = 218;

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnTable {
    /// Sets that rules name.
    pub sets: Vec<OwnSet>,
    /// Its base chains.
    pub chains: Vec<OwnChain>,
}

/// A set, with a name or without.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnSet {
    /// None for a list within a rule.
    pub name: Option<String>,
    /// The fields of an element: nft's number of the type, and its bytes.
    pub fields: Vec<(u32, usize)>,
    /// Whether elements are ranges.
    pub intervals: bool,
    /// Of each element, by field, the first value and the last, in network order. Of a single field: in order, none
    /// touching another.
    pub elements: Vec<Vec<(Vec<u8>, Vec<u8>)>>,
    /// Rules fill it: what is in it stays when the table is written again.
    pub dynamic: Option<OwnDynamic>,
}

/// What is said of a set that rules fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnDynamic {
    /// How long its elements stay, in milliseconds.
    pub timeout: Option<u64>,
    /// Whether elements have a time at all; the kernel counts connections only in sets whose elements have none.
    pub times_out: bool,
    /// How many there may be.
    pub size: u32,
}

/// What a rule writes into a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnUpdate {
    /// `NFT_DYNSET_OP_*`.
    pub operation: u32,
    /// The name of the set.
    pub set: String,
    /// Where the key begins.
    pub key: Place,
    /// How long the element stays, in milliseconds, when not as long as the set says.
    pub timeout: Option<u64>,
    /// What each element has of its own, and must let pass.
    pub condition: Option<Step>,
}

/// The type of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    /// `filter`.
    Filter,
    /// `nat`: sees the first packet of each connection.
    Translate,
    /// `route`: what it changes of packets that this machine sends may give them another way.
    Route,
}

impl ChainKind {
    /// As nft spells it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Translate => "nat",
            Self::Route => "route",
        }
    }
}

/// A base chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnChain {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub kind: ChainKind,
    /// `NF_INET_*`.
    pub hook: u32,
    /// Its place among the chains of the hook.
    pub priority: i32,
    /// Whether it drops what no rule decided.
    pub drops: bool,
    /// In order.
    pub rules: Vec<OwnRule>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnRule {
    /// The handle of the own rule that it stands for; it has a counter then.
    pub handle: Option<u64>,
    /// In order.
    pub steps: Vec<Step>,
}

/// Four bytes of what a rule reads, the first of sixteen that follow each other.
pub type Place = u32;

/// One step of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// `NFT_META_*` into a place.
    Meta(u32, Place),
    /// `NFT_CT_*` of a direction (`IP_CT_DIR_*`) into a place.
    Connection(u32, Option<u8>, Place),
    /// A lookup of a route into a place: `NFT_FIB_RESULT_*`, and `NFTA_FIB_F_*`.
    Route(u32, u32, Place),
    /// Bytes of the packet into a place: base (`NFT_PAYLOAD_*`), offset, length.
    Payload(u32, u32, u32, Place),
    /// Bytes of an extension header of IPv6 into a place: its number, offset, length; without the header the rule ends.
    Extension(u8, u32, u32, Place),
    /// Keeps these bits.
    Mask(Place, Vec<u8>),
    /// Keeps some bits, and turns others then.
    Flip(Place, Vec<u8>, Vec<u8>),
    /// So many bytes, two or four, in the host's order become network order.
    Swap(Place, u32),
    /// Whether the value is this one, or another one when negated.
    Compare(Place, bool, Vec<u8>),
    /// Whether the value is within these, or outside when negated.
    Within(Place, bool, Vec<u8>, Vec<u8>),
    /// Whether the values are in a list, or not in it when negated.
    In(Place, bool, OwnSet),
    /// The same of a set with a name.
    InSet(Place, bool, String),
    /// Counts.
    Count,
    /// The largest segment that the way out has room for into a place, in the host's order (`NFT_RT_TCPMSS`).
    RouteSegment(Place),
    /// `NFT_META_*` becomes the value.
    SetMeta(u32, Place),
    /// `NFT_CT_*` becomes the value.
    SetConnection(u32, Place),
    /// Bytes of the packet become the value: base, offset, length, and where the checksum of IPv4 is.
    Write(u32, u32, u32, Option<u32>, Place),
    /// The segment size that TCP offers becomes the value, if that is less.
    SetSegment(Place),
    /// Goes on within a rate, or beyond it.
    Limit {
        /// Beyond it.
        over: bool,
        /// Bytes, not packets.
        bytes: bool,
        /// How many.
        amount: u64,
        /// In so many seconds.
        seconds: u64,
        /// How many at once.
        burst: u32,
    },
    /// Goes on for no more connections than this, or for more.
    Connections(bool, u32),
    /// The connection gets a helper: its name, and the protocol that it is for.
    Helper(&'static str, u8),
    /// Writes into a set; the rule ends where the element does not let it pass.
    Update(Box<OwnUpdate>),
    /// A line in the kernel's log, or a message for a group.
    Log {
        /// What it begins with.
        prefix: Option<String>,
        /// Of the line.
        level: Option<u32>,
        /// Of nfnetlink.
        group: Option<u16>,
    },
    /// The packet passes the chain.
    Accept,
    /// The packet ends.
    Drop,
    /// The packet ends with an answer: `NFT_REJECT_*`, and a code.
    Reject(u32, u8),
    /// Whether the socket of the packet is transparent, into a place; without a socket the rule ends.
    Transparent(Place),
    /// The packet gets a socket, or the rule ends: `NFPROTO_*`, and places of an address and a port.
    Proxy(u32, Option<Place>, Option<Place>),
    /// A value into a place.
    Put(Place, Vec<u8>),
    /// `masquerade`; ports first and last in these places, and `NF_NAT_RANGE_*`.
    Masquerade(Option<(Place, Place)>, u32),
    /// `redirect`.
    Redirect(Option<(Place, Place)>, u32),
    /// `snat`, `dnat`.
    Nat {
        /// `dnat`.
        destination: bool,
        /// `NFPROTO_*`.
        family: u32,
        /// First and last address.
        addresses: (Place, Place),
        /// First and last port.
        ports: Option<(Place, Place)>,
        /// `NF_NAT_RANGE_*`.
        flags: u32,
    },
}

impl Step {
    /// Whether it changes a packet, or what is noted of it.
    const fn changes(&self) -> bool {
        matches!(
            self,
            Self::SetMeta(..)
                | Self::SetConnection(..)
                | Self::Write(..)
                | Self::SetSegment(_)
                | Self::Update(_)
                | Self::Helper(..)
        )
    }

    /// Whether it depends on what an element of a set has of its own.
    const fn is_of_element(&self) -> bool {
        matches!(self, Self::Update(update) if update.condition.is_some())
    }
}

/// What a rule of the table has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnCount {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl OwnTable {
    /// What lets a packet pass only if this table and another one do: the chains that filter of both, and what translates of
    /// this one.
    #[must_use]
    pub fn together_with(&self, before: &Self) -> Self {
        let mut both = self.clone();
        for chain in before.chains.iter().filter(|chain| chain.kind != ChainKind::Translate) {
            let mut chain = chain.clone();
            chain.name += BEFORE;
            // What an element has of its own is known to the rule that is to be.
            chain.rules.retain(|rule| !rule.steps.iter().any(Step::is_of_element));
            for step in chain.rules.iter_mut().flat_map(|rule| &mut rule.steps) {
                if let Step::InSet(_, _, name) = step
                    && !self.shares(before, name)
                {
                    *name = set_before(name);
                }
            }
            for rule in &mut chain.rules {
                rule.handle = None;
                // What both change is changed once.
                rule.steps.retain(|step| !step.changes());
            }
            both.chains.push(chain);
        }
        let of_before =
            before.sets.iter().filter(|set| !set.name.as_deref().is_some_and(|name| self.shares(before, name)));
        both.sets.extend(of_before.map(|set| OwnSet { name: set.name.as_deref().map(set_before), ..set.clone() }));
        both
    }

    /// Whether both have the same set, which rules fill.
    fn shares(&self, other: &Self, name: &str) -> bool {
        let of = |table: &Self| table.sets.iter().find(|set| set.name.as_deref() == Some(name)).cloned();
        let own = of(self);
        own.as_ref().is_some_and(|set| set.dynamic.is_some()) && own == of(other)
    }
}

/// Behind the names of what goes with the next write.
const BEFORE: &str = "_before";

/// The name of a set that goes with the next write. Those of the operator's sets begin with a letter.
fn set_before(name: &str) -> String {
    format!("_{name}{BEFORE}")
}
