//! Policies of `IPsec`: what they may cover, in as few selectors as there is room for.

use std::collections::BTreeSet;

use dataplane_common::{
    abi::{ADDRESS_WORDS, COVERS, Cover, Policies},
    decide::{Family as _, V4, V6},
    wire::Address6,
};

use crate::model::{Family, Ipsec, Pairs, Prefix};

/// Prefix lengths that many selectors are cut to, until there are few.
const CUTS: [u8; 14] = [128, 120, 112, 96, 80, 64, 56, 48, 40, 32, 28, 24, 16, 8];

/// An address in the words of a [`Cover`].
pub(super) trait Worded: Family {
    fn words(destination: Self, source: Self) -> [u64; ADDRESS_WORDS];
}

impl Worded for u32 {
    fn words(destination: Self, source: Self) -> [u64; ADDRESS_WORDS] {
        let mut words = [0; ADDRESS_WORDS];
        V4::fill(&mut words, destination, source);
        words
    }
}

impl Worded for u128 {
    fn words(destination: Self, source: Self) -> [u64; ADDRESS_WORDS] {
        let mut words = [0; ADDRESS_WORDS];
        V6::fill(&mut words, Address6::from(destination), Address6::from(source));
        words
    }
}

/// What is written, by family.
pub(super) fn policies(ipsec: &Ipsec) -> [Policies; 2] {
    let all = Policies { count: Policies::ALL, ..Policies::NONE };
    if ipsec.all { [all; 2] } else { [family(&ipsec.v4), family(&ipsec.v6)] }
}

fn family<A: Worded>(pairs: &Pairs<A>) -> Policies {
    let few = few(pairs);
    let mut policies = Policies { count: few.len() as u64, ..Policies::NONE };
    for (place, (destination, source)) in policies.covers.iter_mut().zip(few) {
        let mask = |prefix: Prefix<A>| A::host_mask(0).without(A::host_mask(prefix.length()));
        *place = Cover {
            mask: A::words(mask(destination), mask(source)),
            value: A::words(destination.first(), source.first()),
        };
    }
    policies
}

/// At most as many as there is room for, which cover at least as much.
fn few<A: Family>(pairs: &Pairs<A>) -> Vec<(Prefix<A>, Prefix<A>)> {
    let cuts = CUTS.into_iter().filter(|cut| u32::from(*cut) <= A::BITS);
    for cut in cuts {
        let shorter = |prefix: Prefix<A>| Prefix::new(prefix.first(), prefix.length().min(cut));
        let cut: BTreeSet<_> = pairs.iter().map(|(to, from)| (shorter(*to), shorter(*from))).collect();
        // A comparison of each with each, so not of very many.
        if cut.len() <= COVERS * COVERS {
            let inside = |(to, from): &(Prefix<A>, Prefix<A>)| {
                cut.iter().any(|(outer_to, outer_from)| {
                    (outer_to, outer_from) != (to, from) && outer_to.covers(*to) && outer_from.covers(*from)
                })
            };
            let outermost: Vec<_> = cut.iter().filter(|pair| !inside(pair)).copied().collect();
            if outermost.len() <= COVERS {
                return outermost;
            }
        }
    }
    vec![(Prefix::all(), Prefix::all())]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefix(last: u32, length: u8) -> Prefix<u32> {
        Prefix::new(0xc612_0000 | last, length)
    }

    #[test]
    fn many_clients_of_a_network_are_few_selectors() {
        let clients: Pairs<u32> = (0..200).map(|host| (prefix(host, 32), Prefix::all())).collect();
        let found = few(&clients);
        assert_eq!((found.len(), found[0]), (13, (prefix(0, 28), Prefix::all())));
        let clients: Pairs<u32> = (0..2000).map(|host| (prefix(host, 32), Prefix::all())).collect();
        assert_eq!(few(&clients)[7], (prefix(7 << 8, 24), Prefix::all()));
        let scattered: Pairs<u32> = (0..200).map(|net: u32| (Prefix::new(net << 24, 32), Prefix::all())).collect();
        assert_eq!(few(&scattered), [(Prefix::all(), Prefix::all())]);
        let nested: Pairs<u32> = (24..=32).map(|length| (prefix(7, length), prefix(9, 24))).collect();
        assert_eq!(few(&nested), [(prefix(0, 24), prefix(0, 24))]);
    }

    #[test]
    fn what_is_not_known_is_all() {
        let [v4, v6] = policies(&Ipsec::unknown());
        assert_eq!((v4.count, v6.count), (Policies::ALL, Policies::ALL));
        assert_eq!(policies(&Ipsec::default()), [Policies::NONE; 2]);
    }

    fn covers<A: Worded>(rows: &[(A, u8, A, u8)]) {
        let pairs: Pairs<A> =
            rows.iter().map(|(to, a, from, b)| (Prefix::new(*to, *a), Prefix::new(*from, *b))).collect();
        let policies = family(&pairs);
        assert!(policies.count <= COVERS as u64);
        for (to, _, from, _) in rows {
            assert!(policies.may_cover(A::words(*to, *from)), "{} {}", to.to_ip(), from.to_ip());
        }
        if pairs.len() <= COVERS {
            for (to, from) in rows.iter().flat_map(|row| rows.iter().map(move |other| (row.0, other.2))) {
                let expected = pairs.iter().any(|(net, source)| net.contains(to) && source.contains(from));
                assert_eq!(policies.may_cover(A::words(to, from)), expected, "{} {}", to.to_ip(), from.to_ip());
            }
        }
    }

    proptest! {
        #[test]
        fn what_a_policy_selects_is_covered_and_of_few_no_more(
            v4 in prop::collection::vec((any::<u32>(), 0..=32_u8, any::<u32>(), 0..=32_u8), 0..40),
            v6 in prop::collection::vec((any::<u128>(), 0..=128_u8, any::<u128>(), 0..=128_u8), 0..40),
        ) {
            covers(&v4);
            covers(&v6);
        }
    }
}
