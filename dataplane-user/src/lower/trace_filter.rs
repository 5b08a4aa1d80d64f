//! What is watched for, as the boxes that the kernel half compares packets with.

use dataplane_common::abi::{Ifindex, TRACE_FILTERS, TraceFilter, skips};
use thiserror::Error;

use super::filter::{Entry, FilterFault, boxes, key};
use crate::rule::{LinkPattern, Watched};

/// Why packets cannot be watched for.
#[derive(Debug, Error)]
pub enum TraceFilterError {
    /// The matches cannot be lowered.
    #[error(transparent)]
    Rule(#[from] FilterFault),
    /// It matches a set.
    #[error("sets, and lists of more than 8 values, cannot be watched for: name fewer values, or a prefix or range")]
    Set,
    /// Too many boxes.
    #[error("this needs {0} comparisons, and all subscribers together have {TRACE_FILTERS}: trace less at a time")]
    Large(usize),
}

/// The boxes of what is watched for; `links` gives the indices of the links that fit a pattern.
///
/// # Errors
/// What cannot be compared with a few boxes.
pub fn trace_filters(
    watched: &Watched,
    one_in: u32,
    links: &dyn Fn(&LinkPattern) -> Vec<Ifindex>,
) -> Result<Vec<TraceFilter>, TraceFilterError> {
    let entries = boxes(&watched.rule, links)?;
    if entries.iter().any(|entry| entry.sets.iter().any(Option::is_some)) {
        return Err(TraceFilterError::Set);
    }
    if entries.len() > TRACE_FILTERS {
        return Err(TraceFilterError::Large(entries.len()));
    }
    Ok(entries.iter().map(|entry| trace_filter(entry, watched.reasons, one_in)).collect())
}

fn trace_filter(entry: &Entry, reasons: u64, one_in: u32) -> TraceFilter {
    let mut trace_filter = TraceFilter {
        reasons,
        source_port: entry.source_port.into(),
        destination_port: entry.destination_port.into(),
        length: entry.length.into(),
        needs: entry.needs.bits() as u16,
        skips: skips(one_in),
        ..TraceFilter::default()
    };
    trace_filter.field_mask = key::fields_of(&entry.mask);
    trace_filter.fields = key::fields_of(&entry.value);
    trace_filter.address_mask = addresses(&entry.mask, entry.is_for(6) && !entry.is_for(4));
    trace_filter.address = addresses(&entry.value, entry.is_for(6) && !entry.is_for(4));
    trace_filter
}

/// The words of both addresses as a key has them.
fn addresses(words: &[u32], is_ipv6: bool) -> [u64; 4] {
    let both = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
    if !is_ipv6 {
        return [both(words[key::DESTINATION], words[key::SOURCE]), 0, 0, 0];
    }
    std::array::from_fn(|at| both(words[2 * at], words[2 * at + 1]))
}

#[cfg(test)]
mod tests {
    use dataplane_common::abi::{Key, KeyFlags, field, mixed};

    use super::*;
    use crate::rule::parse_watched;

    fn shown(text: &str, key: &Key, reason: u32) -> bool {
        let watched = parse_watched(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let links = |pattern: &LinkPattern| if pattern.fits("eth0") { vec![7] } else { Vec::new() };
        let trace_filters = trace_filters(&watched, 0, &links).unwrap_or_else(|error| panic!("{text}: {error}"));
        trace_filters.iter().any(|trace_filter| trace_filter.matches(key, reason))
    }

    /// TCP from 192.0.2.1:1024 to 198.51.100.2:443, or the same in IPv6, through interface 7.
    fn key(family: u32) -> Key {
        let mut key = Key::default();
        key.blank(7);
        key.address = if family == 4 {
            [0xc633_6402_c000_0201, 0, 0, 0]
        } else {
            [0x2001_0db8_0000_0000, 2, 0x2001_0db8_0000_0001, 1]
        };
        key.mixed = mixed::of(1024, 443, 6, 7, 0);
        key.fields[field::NETWORK] = family << 24 | 6 << 16 | 64;
        key.flags = KeyFlags::TRANSPORT | KeyFlags::PORTS;
        key.length = 60;
        key
    }

    #[test]
    fn packets_are_shown_as_rules_would_match_them() {
        for (text, family, is) in [
            ("", 4, true),
            ("", 6, true),
            ("tcp dport 443", 4, true),
            ("tcp dport 443", 6, true),
            ("tcp dport 444", 4, false),
            ("tcp dport != 443", 4, false),
            ("udp dport 443", 4, false),
            ("ip saddr 192.0.2.0/24", 4, true),
            ("ip saddr 192.0.2.0/24", 6, false),
            ("ip daddr 198.51.100.2 iif eth0", 4, true),
            ("iif eth1", 4, false),
            ("ip6 saddr 2001:db8:0:1::/64", 6, true),
            ("ip6 daddr 2001:db8:0:1::/64", 6, false),
            ("meta length 61-100", 4, false),
            ("ip ttl 64", 4, true),
            ("reason local", 4, true),
            ("reason no_route", 4, false),
        ] {
            assert_eq!(shown(text, &key(family), dataplane_common::Reason::Local as u32), is, "{text} IPv{family}");
        }
    }

    #[test]
    fn unreadable_packets_match_only_filters_without_transport_fields() {
        let mut blank = Key::default();
        blank.blank(7);
        for (text, is) in [("", true), ("iif eth0", true), ("iif eth1", false), ("ip saddr 0.0.0.0/8", false)] {
            assert_eq!(shown(text, &blank, dataplane_common::Reason::NotIp as u32), is, "{text}");
        }
        assert!(!shown("meta l4proto tcp", &blank, 0));
    }

    #[test]
    fn sets_are_refused() {
        let text = "tcp dport { 1, 3, 5, 7, 9, 11, 13, 15, 17, 19 }";
        let watched = parse_watched(text).expect("a list");
        assert!(matches!(
            trace_filters(&watched, 0, &|_| Vec::new()),
            Err(TraceFilterError::Set | TraceFilterError::Large(_))
        ));
    }
}
