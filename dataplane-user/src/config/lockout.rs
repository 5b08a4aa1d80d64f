//! Whether a config would cut off the session that applies it, judged by the rules as they are written.

use super::Config;
use super::judge::{Culprit, Holds, Subject};
use super::session::{Session, WayIn};
use crate::rule::{Action, ChainName, Policy};

impl Config {
    /// What may drop the packets of a session that come in on a known way; none when they surely pass.
    pub fn locks_out(&self, session: &Session, iif: Option<&WayIn>) -> Option<Culprit> {
        if iif.is_some_and(|way| !way.ports.iter().any(|link| self.port(link).is_some())) {
            return None;
        }
        let subject = Subject::session([session.peer, session.here], iif);
        [ChainName::Prerouting, ChainName::Input].into_iter().find_map(|chain| {
            for (index, rule) in self.chain(chain).rules.iter().enumerate() {
                match (self.meets(rule, &subject), rule.action()) {
                    (Holds::Yes, Action::Accept) => return None,
                    (Holds::Yes | Holds::Maybe, Action::Drop | Action::Reject(_)) => {
                        return Some(Culprit::Rule(chain, index, rule.to_string()));
                    }
                    _ => {}
                }
            }
            (self.chain(chain).policy == Policy::Drop).then_some(Culprit::Policy(chain))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::parse, WayIn};

    /// The chain input, and what drops a session of ssh from 192.0.2.7 on eth0.
    const ROWS: &[(&str, &str, Option<&str>)] = &[
        ("nothing is asked", "policy = 'accept'", None),
        ("a policy", "policy = 'drop'", Some("the policy of chain input")),
        ("ssh is let in", "policy = 'drop'\nrules = ['tcp dport 22 accept']", None),
        ("another port is", "policy = 'drop'\nrules = ['tcp dport 2222 accept']", Some("the policy of chain input")),
        (
            "the peer is shut out",
            "rules = ['ip saddr 192.0.2.0/24 drop']",
            Some("rule 1: `ip saddr 192.0.2.0/24 drop`"),
        ),
        ("another is", "rules = ['ip saddr != 192.0.2.0/24 drop']", None),
        ("order decides", "rules = ['tcp dport 22 accept', 'drop']", None),
        ("a rule that continues decides nothing", "rules = ['tcp dport 22 continue', 'drop']", Some("rule 2: `drop`")),
        ("v6 rules never see v4", "rules = ['meta nfproto ipv6 drop']", None),
        ("segments of a session are no SYN", "rules = ['tcp flags & (syn | ack) == syn drop']", None),
        ("they are no fragments", "rules = ['ip frag-off & 0x1fff != 0 drop']", None),
        ("the link", "policy = 'drop'\nrules = ['iif eth0 accept']", None),
        ("another link", "policy = 'drop'\nrules = ['iifname \"eth1*\" accept']", Some("the policy of chain input")),
        ("the way out", "policy = 'drop'\nrules = ['oif eth0 accept']", Some("the policy of chain input")),
        ("what is not known may drop", "rules = ['ip ttl < 60 drop']", Some("rule 1: `ip ttl 0-59 drop`")),
        ("and may not save", "policy = 'drop'\nrules = ['ip ttl > 60 accept']", Some("the policy of chain input")),
        ("a concatenation", "rules = ['ip saddr . tcp dport 192.0.2.7 . 22 drop']", Some("rule 1: ")),
        ("another port in it", "rules = ['ip saddr . tcp dport 192.0.2.7 . 23 drop']", None),
        ("another protocol in it", "rules = ['ip saddr . udp dport != 192.0.2.7 . 23 drop']", None),
        ("a link in it", "rules = ['iifname . ip saddr { eth0 . 192.0.2.0/24 } drop']", Some("rule 1: ")),
        ("a set", "rules = ['ip saddr @bad drop']", Some("rule 1: `ip saddr @bad drop`")),
        ("an empty set", "rules = ['ip saddr @none drop']", None),
        ("a set in a file", "rules = ['ip saddr @filed drop']", Some("rule 1: `ip saddr @filed drop`")),
    ];

    #[test]
    fn sessions() {
        let session = "192.0.2.7 50000 192.0.2.1 22".parse().expect("a session");
        for (what, chain, expected) in ROWS {
            let text = format!(
                "[ports]\neth0 = {{}}\n[sets.bad]\ntype = 'ipv4_addr'\nelements = ['192.0.2.6-192.0.2.9']\n\
                 [sets.none]\ntype = 'ipv4_addr'\n[sets.filed]\ntype = 'ipv4_addr'\nfile = 'x'\n[chains.input]\n{chain}\n"
            );
            let config = parse(&text, "some.toml").expect(what);
            let way = |link: &str, under: &[&str]| WayIn {
                link: link.to_owned(),
                ports: [&[link], under].concat().into_iter().map(str::to_owned).collect(),
                ..WayIn::default()
            };
            let found = config.locks_out(&session, Some(&way("eth0", &[]))).map(|culprit| culprit.to_string());
            assert_eq!(found.is_some(), expected.is_some(), "{what}: {found:?}");
            assert!(found.unwrap_or_default().contains(expected.unwrap_or_default()), "{what}");
            assert_eq!(config.locks_out(&session, Some(&way("eth1", &[]))), None, "{what}: eth1 is no port");
            let tagged = config.locks_out(&session, Some(&way("eth1.7", &["eth1"])));
            assert_eq!(tagged, None, "{what}: a VLAN device on no port");
            let tagged = config.locks_out(&session, Some(&way("lan", &["eth0"])));
            assert!(
                chain.contains("eth0") || tagged.is_some() == expected.is_some(),
                "{what}: a VLAN device on a port"
            );
        }
    }

    #[test]
    fn rules_mean_a_link_by_its_names() {
        let session = "192.0.2.7 50000 192.0.2.1 22".parse().expect("a session");
        let way = WayIn {
            link: "vlan7".to_owned(),
            altnames: vec!["office".to_owned()],
            former: vec!["eth9".to_owned()],
            ports: ["vlan7", "office", "eth9", "eth0"].map(str::to_owned).to_vec(),
        };
        for (rule, drops) in [
            ("iif vlan7 drop", true),
            ("iif office drop", true),
            ("iif eth9 drop", true),
            ("iif eth0 drop", false),
            ("iifname \"vlan*\" drop", true),
            ("iifname \"off*\" drop", false),
            ("iifname \"eth9\" drop", false),
            ("iifname . ip saddr { vlan7 . 192.0.2.7 } drop", true),
        ] {
            let text = format!("[ports]\neth0 = {{}}\n[chains.input]\nrules = ['{rule}']\n");
            let config = parse(&text, "some.toml").expect(rule);
            assert_eq!(config.locks_out(&session, Some(&way)).is_some(), drops, "{rule}");
        }
    }
}
