//! `RTM_NEWRULE`, `RTM_DELRULE` (`net/core/fib_rules.c`).

use super::attribute::{Attributes, ip, put, text, u8_at, u32_at, version};
use crate::model::RoutingRule;

/// `struct fib_rule_hdr`.
pub(super) const HEADER: usize = 12;

const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
pub(super) const FRA_IIFNAME: u16 = 3;
const FRA_GOTO: u16 = 4;
pub(super) const FRA_PRIORITY: u16 = 6;
pub(super) const FRA_FWMARK: u16 = 10;
const FRA_SUPPRESS_IFGROUP: u16 = 13;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
pub(super) const FRA_TABLE: u16 = 15;
pub(super) const FRA_FWMASK: u16 = 16;
const FRA_OIFNAME: u16 = 17;
const FRA_L3MDEV: u16 = 19;
pub(super) const FRA_PROTOCOL: u16 = 21;
/// `FIB_RULE_INVERT`.
const FLAG_INVERT: u32 = 2;

/// The routing rule of a message.
pub(super) fn parse(payload: &[u8]) -> Option<RoutingRule> {
    let mut rule = RoutingRule::new(version(payload)?, 0, u32::from(u8_at(payload, 4)?));
    rule.action = u8_at(payload, 7)?;
    rule.inverted = u32_at(payload, 8)? & FLAG_INVERT != 0;
    let (to, from, tos) = (u8_at(payload, 1)?, u8_at(payload, 2)?, u8_at(payload, 3)?);
    if tos != 0 {
        rule.selector.push(tos);
    }
    let (mut mark, mut compared) = (0, None);
    for (kind, value) in Attributes::behind(payload, HEADER) {
        match kind {
            FRA_PRIORITY => rule.priority = u32_at(value, 0)?,
            FRA_TABLE => rule.table = u32_at(value, 0)?,
            FRA_L3MDEV => rule.l3mdev = u8_at(value, 0)? != 0,
            FRA_PROTOCOL => {}
            FRA_GOTO => rule.target = Some(u32_at(value, 0)?),
            FRA_IIFNAME => rule.iif = Some(text(value)),
            FRA_DST => rule.to = Some((ip(value)?, to)),
            FRA_SRC => rule.from = Some((ip(value)?, from)),
            FRA_FWMARK => mark = u32_at(value, 0)?,
            FRA_FWMASK => compared = Some(u32_at(value, 0)?),
            FRA_OIFNAME => {
                rule.own = true;
                put(&mut rule.selector, kind, value);
            }
            // "None" is announced as -1.
            FRA_SUPPRESS_PREFIXLEN | FRA_SUPPRESS_IFGROUP if u32_at(value, 0)? == u32::MAX => {}
            FRA_SUPPRESS_PREFIXLEN => rule.suppresses = Some(u8::try_from(u32_at(value, 0)?).unwrap_or(u8::MAX)),
            FRA_SUPPRESS_IFGROUP => rule.suppresses_group = Some(u32_at(value, 0)?),
            _ => put(&mut rule.selector, kind, value),
        }
    }
    // A mark without a mask is compared as a whole.
    let compared = compared.unwrap_or(if mark == 0 { 0 } else { u32::MAX });
    rule.mark = Some((mark, compared)).filter(|_| compared != 0);
    Some(rule)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ACTION_GOTO, ACTION_TABLE, IpVersion, Meets};

    /// A rule of IPv4 for table 7 with priority 100.
    fn message(header: [u8; 3], action: u8, flags: u32, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let [to, from, tos] = header;
        let mut message = vec![libc::AF_INET as u8, to, from, tos, 7, 0, 0, action];
        message.extend(flags.to_ne_bytes());
        put(&mut message, FRA_PRIORITY, &100_u32.to_ne_bytes());
        for (kind, value) in attributes {
            put(&mut message, *kind, value);
        }
        message
    }

    #[test]
    fn rules_are_read_and_shown_as_ip_shows_them() {
        let number = u32::to_ne_bytes;
        let none = [0; 3];
        let (mark, compared) = (number(51820), number(0xff00));
        for (name, bytes, meets) in [
            ("100: from all lookup 7", message(none, ACTION_TABLE, 0, &[]), Meets::Always),
            (
                "100: from all fwmark 0xca6c/0xffffffff lookup 7",
                message(none, ACTION_TABLE, 0, &[(FRA_FWMARK, &mark)]),
                Meets::Never,
            ),
            (
                "100: not from all fwmark 0xca6c/0xff00 lookup 7",
                message(none, ACTION_TABLE, FLAG_INVERT, &[(FRA_FWMARK, &mark), (FRA_FWMASK, &compared)]),
                Meets::Always,
            ),
            (
                "100: from all lookup 7 suppress_prefixlength 0",
                message(
                    none,
                    ACTION_TABLE,
                    0,
                    &[(FRA_SUPPRESS_PREFIXLEN, &number(0)), (FRA_SUPPRESS_IFGROUP, &number(u32::MAX))],
                ),
                Meets::Always,
            ),
            (
                "100: from all lookup 7 suppress_ifgroup 3",
                message(none, ACTION_TABLE, 0, &[(FRA_SUPPRESS_IFGROUP, &number(3))]),
                Meets::Some,
            ),
            (
                "100: from 198.18.0.0/16 lookup 7",
                message([0, 16, 0], ACTION_TABLE, 0, &[(FRA_SRC, &[198, 18, 0, 0])]),
                Meets::Some,
            ),
            (
                "100: from all to 192.0.2.0/24 goto 200",
                message([24, 0, 0], ACTION_GOTO, 0, &[(FRA_DST, &[192, 0, 2, 0]), (FRA_GOTO, &number(200))]),
                Meets::To([192, 0, 2, 0].into(), 24),
            ),
            ("100: from all ... lookup 7", message([0, 0, 16], ACTION_TABLE, 0, &[]), Meets::Some),
            (
                "100: from all iif eth0 lookup 7",
                message(none, ACTION_TABLE, 0, &[(FRA_IIFNAME, b"eth0\0")]),
                Meets::From("eth0"),
            ),
        ] {
            let rule = parse(&bytes).expect("a rule");
            assert_eq!((rule.to_string().as_str(), rule.version, rule.meets()), (name, IpVersion::V4, meets));
        }
    }
}
