//! What links were called before: a link that is renamed stays the port that it was, and rules that name it by `iif` or `oif`
//! go on, as those of nft do, which keep its index.

use std::collections::{BTreeMap, BTreeSet};

use dataplane_common::abi::Ifindex;

use crate::model::Link;

/// Names by index.
#[derive(Debug, Default)]
pub(super) struct Names {
    last: BTreeMap<Ifindex, String>,
    /// The latest first. A name that another link takes is that link's.
    former: BTreeMap<Ifindex, Vec<String>>,
}

impl Names {
    /// Follows the links that there are now; gives those that were renamed, with the name before.
    pub(super) fn follow(&mut self, links: &BTreeMap<Ifindex, Link>) -> Vec<(Ifindex, String)> {
        let same = |(ifindex, link): (&Ifindex, &Link)| self.last.get(ifindex) == Some(&link.name);
        if self.former.is_empty() && self.last.len() == links.len() && links.iter().all(same) {
            return Vec::new();
        }
        let mut renamed = Vec::new();
        for (ifindex, link) in links {
            let before = self.last.insert(*ifindex, link.name.clone());
            renamed.extend(before.filter(|before| *before != link.name).map(|before| (*ifindex, before)));
        }
        for (ifindex, before) in &renamed {
            self.former.entry(*ifindex).or_default().insert(0, before.clone());
        }
        self.last.retain(|ifindex, _| links.contains_key(ifindex));
        if !self.former.is_empty() {
            let taken: BTreeSet<&str> = links.values().flat_map(Link::names).collect();
            self.former.retain(|ifindex, names| {
                names.retain(|name| !taken.contains(name.as_str()));
                links.contains_key(ifindex) && !names.is_empty()
            });
        }
        renamed
    }

    /// What a link was called, the latest first.
    pub(super) fn former(&self, ifindex: Ifindex) -> &[String] {
        self.former.get(&ifindex).map(Vec::as_slice).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_until_another_link_takes_them() {
        let links = |names: &[(u32, &str, &[&str])]| {
            let link = |(ifindex, name, altnames): &(u32, &str, &[&str])| {
                let altnames = altnames.iter().map(ToString::to_string).collect();
                (*ifindex, Link { ifindex: *ifindex, name: (*name).to_owned(), altnames, ..Link::default() })
            };
            names.iter().map(link).collect::<BTreeMap<_, _>>()
        };
        let mut names = Names::default();
        assert_eq!(names.follow(&links(&[(2, "a", &[]), (3, "b", &[])])), []);
        assert_eq!(names.follow(&links(&[(2, "c", &[]), (3, "b", &[])])), [(2, "a".to_owned())]);
        assert_eq!(names.follow(&links(&[(2, "d", &[]), (3, "b", &[])])), [(2, "c".to_owned())]);
        assert_eq!(names.former(2), ["c", "a"]);
        // An altname is a name.
        names.follow(&links(&[(2, "d", &[]), (3, "b", &["a"])]));
        assert_eq!(names.former(2), ["c"]);
        // Two that change names with each other have no former ones.
        names.follow(&links(&[(2, "b", &[]), (3, "d", &[])]));
        assert_eq!((names.former(2), names.former(3)), (["c".to_owned()].as_slice(), [].as_slice()));
        names.follow(&links(&[(2, "c", &[])]));
        assert_eq!(names.former(2), ["b"]);
        names.follow(&links(&[]));
        assert_eq!(names.former(2), [] as [String; 0]);
    }
}
