//! Veth pairs with the other end in another namespace, as containers have.

use super::{Link, Model, XdpFeatures};

impl Model {
    /// Why tc may not hand what is for a link to its other end in another namespace; `None`: it may, and only its speed
    /// shows that.
    ///
    /// A veth takes XDP frames if there is an XDP program at its other end, which would be passed by, or if segments are put
    /// together there (`veth_enable_xdp` and `veth_set_features`, `drivers/net/veth.c`). A kernel before 6.3 does not say.
    pub fn why_not_to_peer(&self, link: &Link) -> Option<&'static str> {
        let plain = |features: &XdpFeatures| !features.contains(XdpFeatures::NDO_XMIT);
        if !link.ethernet || !link.reaches_another_namespace() {
            Some("its other end is not in another namespace")
        } else if !self.leaves_plainly(link) {
            Some("a queueing discipline, a classifier or program at tc egress, or netfilter is in the way")
        } else if !self.features.get(&link.ifindex).is_some_and(plain) {
            Some("its other end has XDP or GRO, or the kernel does not say")
        } else if !self.peers.contains(&link.ifindex) {
            Some(
                "it is switched off, or a capture or a chain at tc egress sees what leaves, or the kernel does not count programs there",
            )
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Event, Snapshot};

    #[test]
    fn whatever_would_miss_packets_keeps_them_on_the_link() {
        type Change = fn(&mut Model, &mut Link);
        let rows: &[(&str, Option<&str>, Change)] = &[
            ("a container", None, |_, _| {}),
            ("this namespace", Some("another namespace"), |_, link| link.parent_netns = None),
            ("no veth", Some("another namespace"), |_, link| link.kind = Some("vlan".to_owned())),
            ("a shaper", Some("discipline"), |model, _| {
                model.apply(Event::Snapshot(Snapshot::Qdiscs([(7, vec!["tbf".to_owned()])].into())));
            }),
            ("a program", Some("program"), |model, _| {
                model.egress_programs.insert(7, vec!["program meter".to_owned()]);
            }),
            ("XDP there", Some("XDP or GRO"), |model, _| {
                model.apply(Event::Features(7, XdpFeatures::BASIC | XdpFeatures::NDO_XMIT));
            }),
            ("an old kernel", Some("does not say"), |model, _| model.apply(Event::FeaturesGone(7))),
            ("a capture", Some("a capture"), |model, _| model.peers.clear()),
        ];
        for (name, expected, change) in rows {
            let mut link = Link {
                ifindex: 7,
                ethernet: true,
                kind: Some("veth".to_owned()),
                parent_netns: Some(0),
                ..Link::default()
            };
            let mut model = Model { peers: [7].into(), ..Model::default() };
            model.apply(Event::Features(7, XdpFeatures::BASIC));
            change(&mut model, &mut link);
            let found = model.why_not_to_peer(&link);
            assert_eq!(found.is_some(), expected.is_some(), "{name}: {found:?}");
            assert!(found.zip(*expected).is_none_or(|(found, expected)| found.contains(expected)), "{name}: {found:?}");
        }
    }
}
