//! `RTM_NEWRULE`, `RTM_DELRULE` (`net/core/fib_rules.c`).

use super::attribute::{Attributes, put, text, u8_at, u32_at, version};
use crate::model::RoutingRule;

/// `struct fib_rule_hdr`.
pub(super) const HEADER: usize = 12;

const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_SUPPRESS_IFGROUP: u16 = 13;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_OIFNAME: u16 = 17;
const FRA_L3MDEV: u16 = 19;
const FRA_PROTOCOL: u16 = 21;
/// `FIB_RULE_INVERT`.
const FLAG_INVERT: u32 = 2;

/// The routing rule of a message.
pub(super) fn parse(payload: &[u8]) -> Option<RoutingRule> {
    let mut rule = RoutingRule {
        version: version(payload)?,
        priority: 0,
        table: u32::from(u8_at(payload, 4)?),
        action: u8_at(payload, 7)?,
        l3mdev: false,
        iif: None,
        own: false,
        suppresses: false,
        selector: Vec::new(),
    };
    // Prefix lengths, TOS and inversion are in the header; zeros say nothing.
    let header =
        [u8_at(payload, 1)?, u8_at(payload, 2)?, u8_at(payload, 3)?, u8::from(u32_at(payload, 8)? & FLAG_INVERT != 0)];
    if header != [0; 4] {
        rule.selector.extend_from_slice(&header);
    }
    for (kind, value) in Attributes::behind(payload, HEADER) {
        match kind {
            FRA_PRIORITY => rule.priority = u32_at(value, 0)?,
            FRA_TABLE => rule.table = u32_at(value, 0)?,
            FRA_L3MDEV => rule.l3mdev = u8_at(value, 0)? != 0,
            FRA_PROTOCOL => {}
            FRA_IIFNAME => rule.iif = Some(text(value)),
            FRA_OIFNAME => {
                rule.own = true;
                put(&mut rule.selector, kind, value);
            }
            // "None" is announced as -1.
            FRA_SUPPRESS_PREFIXLEN if u32_at(value, 0)? == u32::MAX => {}
            FRA_SUPPRESS_IFGROUP | FRA_SUPPRESS_PREFIXLEN => {
                rule.suppresses = true;
                put(&mut rule.selector, kind, value);
            }
            _ => put(&mut rule.selector, kind, value),
        }
    }
    Some(rule)
}
