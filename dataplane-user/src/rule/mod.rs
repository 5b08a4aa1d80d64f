//! The language of rules: nft's expression grammar.
//!
//! [`parse`] reads a rule, `Display` writes its canonical form, and reading that gives the same rule again. A rule that was
//! read is one that some packet can meet.

mod ast;
mod chain;
mod change;
mod concatenation;
mod connection;
mod consistency;
pub(crate) mod display;
mod error;
pub(crate) mod foreign;
mod hint;
mod name;
pub(crate) mod parse;
mod place;
mod proxy;
mod reachability;
mod resolve;
mod set;
mod statement;
mod text;
mod translation;
mod update;
mod value;
mod watch;

pub use ast::{Family, Fragment, LinkField, Match, ProtocolField, Rule, Side, TcpFlags, Test, Transport, Values};
pub use chain::{ChainName, Fragments, Policy, RULE_CHAINS, UnknownChain, UnknownFragments, UnknownPolicy};
pub use change::{Change, Helper, MarkOf, NewMark};
pub use concatenation::{Concatenation, Field};
pub use connection::{Connection, ConnectionBits, Direction, ESTABLISHED, Marked, NEW, OwnerKind};
pub use consistency::Contradiction;
pub use error::{RuleError, RuleFault, position, render};
pub use name::{LinkPattern, SetName};
pub use parse::{Parsed, parse, parse_spanned};
pub(crate) use parse::{parse_element, parse_set_type};
pub use proxy::Proxy;
pub use reachability::{Found, Reachability};
pub use set::{Element, Item, ItemKind, SetType};
pub use statement::{
    Action, Limit, LimitTime, LimitUnit, Log, LogLevel, LogTarget, RejectWith, Statement, Unreachable4, Unreachable6,
    UnreachableAny,
};
pub use text::{TEXT_LENGTH, Text};
pub use translation::{Addresses, Choice, Translation, TranslationKind};
pub use update::{ConnectionCount, ElementCondition, KeyField, SetUpdate, SetVerb, Timeout};
pub use value::{
    Dscp, FragmentWord, HopLimit, IcmpCode, IcmpType, Icmpv6Code, Icmpv6Type, Length, MacAddress, Mark, Owner,
    PacketType, Port, Protocol, Range, Value, VlanId,
};
pub use watch::{Watched, parse_watched};

#[cfg(test)]
pub(crate) mod arbitrary;
#[cfg(test)]
mod tests;
