//! Rules of netfilter, as far as they matter for a packet of an established connection. Numbers are those of
//! `include/uapi/linux/netfilter/nf_tables.h`.

use super::ObstacleKind;

/// Where an expression keeps what it read, in steps of four bytes.
pub type Register = u8;

/// A rule with its expressions in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetfilterRule {
    /// Its name within the chain, as findings show it: `handle 12`.
    pub name: String,
    /// What it matches and does.
    pub expressions: Vec<Expression>,
}

/// One step of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// Something is read into a register.
    Load(Register, Source),
    /// A register becomes `(value & mask) ^ xor`.
    Bitwise {
        /// From here.
        from: Register,
        /// To here.
        to: Register,
        /// Bits that stay; none: another operation, of which the result is not known.
        mask: Option<(Vec<u8>, Vec<u8>)>,
    },
    /// A comparison.
    Compare(Register, Comparison, Vec<u8>),
    /// A comparison with something that is not evaluated, such as a range.
    Uncertain(Register),
    /// A set or map.
    Lookup {
        /// The key.
        key: Register,
        /// Its name.
        set: String,
        /// Whether what is not in it matches.
        inverted: bool,
        /// Where a map's value goes, unless it is a verdict.
        to: Option<Register>,
        /// Whether its values are verdicts.
        verdicts: bool,
    },
    /// A named object, of the type with this number.
    Object(u32),
    /// A named object that a map names.
    ObjectOf(Register, String),
    /// What becomes of the packet.
    Verdict(NetfilterVerdict),
    /// Something that packets at the driver would escape, and what it is called where that is not the kind's own name.
    Effect(ObstacleKind, Option<String>),
    /// An extension of iptables that matches.
    Match(Extension),
    /// An extension of iptables that acts.
    Target(Extension),
    /// Something without effect on packets of established connections.
    Nothing,
    /// Something that is not known.
    Unknown(String),
}

/// An extension of iptables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extension {
    /// As the kernel calls it.
    pub name: String,
    /// Of the layout of `info`.
    pub revision: u32,
    /// Its settings.
    pub info: Vec<u8>,
}

/// What is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// `NFT_META_*`.
    Meta(u32),
    /// `NFT_CT_*`.
    Ct(u32),
    /// Bytes of the packet: base (`NFT_PAYLOAD_*`), offset, length.
    Payload(u32, u32, u32),
    /// A header or option: `NFT_EXTHDR_OP_*`, its type, and whether only its presence.
    Exthdr(u32, u8, bool),
    /// A number at random or in turn.
    Random,
    /// The same for all packets of a connection.
    Fixed,
    /// Of no interest where it does not come from the packet; otherwise like the register it is made from.
    Derived(Register),
}

/// `NFT_CMP_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `==`
    Equal,
    /// `!=`
    Unequal,
    /// An order, which is not evaluated.
    Order,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NetfilterVerdict {
    /// It passes this base chain.
    Accept,
    /// It ends here.
    Drop,
    /// It goes on behind the chain.
    Return,
    /// It goes on with the next rule.
    Continue,
    /// Through another chain, and back.
    Jump(String),
    /// Through another chain.
    Goto(String),
    /// To a program.
    Queue,
}

/// What is known of a set without its elements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetfilterSet {
    /// Whether its elements are ranges, which are not evaluated.
    pub interval: bool,
    /// `NFT_OBJECT_*`, of a map of objects.
    pub object: Option<u32>,
    /// What is evaluated for each element that matches.
    pub expressions: Vec<Expression>,
}

/// An element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetfilterElement {
    /// None: whatever no other element has.
    pub key: Option<Vec<u8>>,
    /// Of a map of verdicts.
    pub verdict: Option<NetfilterVerdict>,
}

/// A table, of which as much is read as is needed.
pub trait NetfilterTable {
    /// The rules of a chain, in order; or why they cannot be read.
    fn rules(&mut self, chain: &str) -> Result<Vec<NetfilterRule>, String>;
    /// What findings call a chain.
    fn title(&self, chain: &str) -> String {
        chain.to_owned()
    }
    /// A set.
    fn set(&mut self, name: &str) -> Result<NetfilterSet, String>;
    /// Its elements.
    fn elements(&mut self, name: &str) -> Result<Vec<NetfilterElement>, String>;
}
