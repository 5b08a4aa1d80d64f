//! The list of reasons, and how a link address is written.

use dataplane_common::{Reason, Verdict, wire::Mac};

#[test]
fn every_reason_has_a_meaning() {
    for reason in Reason::ALL {
        let (name, meaning, advice) = (reason.name(), reason.meaning(), reason.advice());
        let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        assert!(plain && !name.is_empty(), "{name}");
        assert!(meaning.len() > 10 && meaning.ends_with('.'), "{name}: {meaning}");
        assert!(meaning.starts_with(|first: char| first.is_uppercase()), "{name}: {meaning}");
        assert!(!meaning.contains(['\n', '`']) && !meaning.contains("  "), "{name}: {meaning}");
        assert!(!advice.is_empty() && !advice.ends_with('.'), "{name}: {advice}");
        assert!(!reason.verdict().name().is_empty(), "{name}");
    }
}

#[test]
fn packets_are_routed_bridged_or_delivered_for_one_reason_each() {
    let of = |verdict| Reason::ALL.iter().copied().filter(|reason| reason.verdict() == verdict).collect::<Vec<_>>();
    assert_eq!(of(Verdict::Forward), [Reason::Forwarded, Reason::Bridged]);
    assert_eq!(of(Verdict::Deliver), [Reason::Local]);
    // At their way out packets are withheld, all others belong to what a port received.
    for reason in Reason::ALL {
        let leaves = reason.name().ends_with("_output") || *reason == Reason::FilterEgress;
        assert_eq!(reason.verdict() == Verdict::Withhold, leaves, "{}", reason.name());
    }
}

#[test]
fn a_link_address_is_written_in_hex() {
    let mac = Mac([0x02, 0x00, 0x5e, 0xff, 0x0a, 0xb1]);
    assert_eq!(mac.to_string(), "02:00:5e:ff:0a:b1");
    assert_eq!(format!("{mac:?}"), "02:00:5e:ff:0a:b1");
    assert!(!mac.is_group() && Mac::BROADCAST.is_group() && Mac([1, 0, 0, 0, 0, 0]).is_group());
}
