//! Assertions: packets that the chains of a config must let through, or must not.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use super::judge::{ChainVerdict, Culprit, Egress, Subject};
use super::{Config, WayIn};
use crate::frame;
use crate::rule::{ChainName, LinkPattern};

/// The port that stands in a packet for one that is not said.
const ANY_PORT: u16 = 1024;

/// `must forward tcp 198.18.0.2 > 198.18.1.2:443 iif eth0`.
#[derive(Clone, Debug)]
pub struct Assertion {
    /// As it was written, with single spaces.
    text: String,
    must: bool,
    /// Whether the packet is forwarded, else delivered here.
    forwarded: bool,
    subject: Subject,
    iif: Option<String>,
}

impl PartialEq for Assertion {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Assertion {}

/// Not an assertion.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum AssertionError {
    /// It does not begin as one.
    #[error(
        "an assertion is `must forward PACKET`, `must not forward PACKET`, `must deliver PACKET` or `must not deliver PACKET`, \
         with `iif IFACE` and `oif IFACE` behind, such as `must forward tcp 198.18.0.2 > 198.18.1.2:443 iif eth0`"
    )]
    Form,
    /// A link without a name, or with one that links cannot have.
    #[error("`{0}` needs the name of an interface behind it")]
    Link(String),
    /// What is delivered has no way out.
    #[error("what is delivered leaves by no interface: take `oif` out")]
    Delivered,
    /// The packet.
    #[error(transparent)]
    Packet(#[from] frame::ExpressionError),
}

impl FromStr for Assertion {
    type Err = AssertionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The packet may stand in quotes, as a shell needs them for `explain`.
        let spaced = text.replace(['\'', '"'], " ").replace('>', " > ");
        let words: Vec<_> = spaced.split_whitespace().collect();
        let (must, rest) = match words.as_slice() {
            ["must", "not", rest @ ..] => (false, rest),
            ["must", rest @ ..] => (true, rest),
            _ => return Err(AssertionError::Form),
        };
        let (forwarded, rest) = match rest {
            ["forward", rest @ ..] => (true, rest),
            ["deliver", rest @ ..] => (false, rest),
            _ => return Err(AssertionError::Form),
        };
        let (mut iif, mut oif, mut packet, mut rest) = (None, None, Vec::new(), rest.iter());
        while let Some(word) = rest.next() {
            let place = match *word {
                "iif" => &mut iif,
                "oif" => &mut oif,
                other => {
                    packet.push(other);
                    continue;
                }
            };
            let name =
                rest.next().copied().filter(|name| LinkPattern::new(name).is_some_and(|name| !name.is_wildcard()));
            *place = Some(name.ok_or_else(|| AssertionError::Link((*word).to_owned()))?.to_owned());
        }
        if !forwarded && oif.is_some() {
            return Err(AssertionError::Delivered);
        }
        let subject = subject(&packet)?;
        let out = match oif {
            Some(link) => Egress::Link(link),
            None if forwarded => Egress::Unknown,
            None => Egress::Nowhere,
        };
        Ok(Self { text: words.join(" "), must, forwarded, subject: subject.leaving(out), iif })
    }
}

/// The packet of the words; a source port that is not said is not known, nor are link addresses.
fn subject(words: &[&str]) -> Result<Subject, AssertionError> {
    let mut words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let mut any_port = false;
    if let ["tcp" | "udp", from, ..] = words.iter().map(String::as_str).collect::<Vec<_>>().as_slice()
        && let Ok(address) = from.trim_start_matches('[').trim_end_matches(']').parse()
    {
        words[1] = SocketAddr::new(address, ANY_PORT).to_string();
        any_port = true;
    }
    let sender = words.iter().any(|word| word == "from");
    let built = frame::build(&words.join(" "), Some([0; 6]))?;
    let offset = if words.iter().any(|word| word == "vlan") { 18 } else { 14 };
    let mut subject = Subject::of_frame(&built, offset).ok_or(AssertionError::Form)?;
    subject.ether = [subject.ether[0].filter(|_| sender), None];
    if any_port {
        subject.ports[0] = None;
    }
    Ok(subject)
}

impl fmt::Display for Assertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// An assertion that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which of the config's.
    pub index: usize,
    /// What was found.
    pub message: String,
}

impl Config {
    /// The first assertion that does not hold. `way` says what is known of a link by its name.
    pub fn broken(&self, way: impl Fn(&str) -> WayIn) -> Option<Broken> {
        self.assertions.iter().enumerate().find_map(|(index, assertion)| {
            let message = self.contradicts(assertion, &way)?;
            Some(Broken { index, message: format!("the assertion `{assertion}` does not hold: {message}") })
        })
    }

    /// What is found instead of what an assertion says.
    fn contradicts(&self, assertion: &Assertion, way: &impl Fn(&str) -> WayIn) -> Option<String> {
        let iif = assertion.iif.as_deref().map(way);
        let mut subject = Subject { iif, ..assertion.subject.clone() };
        let second = if assertion.forwarded { ChainName::Forward } else { ChainName::Input };
        let mut passed = Vec::new();
        for chain in [ChainName::Prerouting, second] {
            match self.judge(chain, &subject) {
                ChainVerdict::Drops(culprit) => {
                    return assertion.must.then(|| format!("the verdict is drop, by {culprit}"));
                }
                ChainVerdict::Unsure(culprit) => {
                    return Some(format!(
                        "it cannot be told, because {culprit} may match or not; say more of the packet (`iif`, `oif`, the source \
                         port, `from`)"
                    ));
                }
                ChainVerdict::Translates(culprit, translation) => {
                    if !subject.translate(translation) {
                        return Some(format!(
                            "it cannot be told, because {culprit} gives the packet an address of several"
                        ));
                    }
                    passed.push(culprit);
                }
                ChainVerdict::Passes(culprit) => passed.push(culprit),
            }
        }
        let by: Vec<_> = passed.iter().map(Culprit::to_string).collect();
        (!assertion.must).then(|| format!("it passes, by {}", by.join(" and by ")))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{WayIn, parse};

    /// Chains, an assertion, and what is found instead; nothing where it holds.
    const ROWS: &[(&str, &str, Option<&str>)] = &[
        ("", "must forward tcp 192.0.2.1 > 192.0.2.9:443", None),
        (
            "",
            "must not forward tcp 192.0.2.1 > 192.0.2.9:443",
            Some("it passes, by the policy of chain prerouting and by"),
        ),
        (
            "forward 'tcp dport 443 drop'",
            "must forward 'tcp 192.0.2.1 > 192.0.2.9:443'",
            Some("rule 1: `tcp dport 443 drop`"),
        ),
        ("forward 'tcp dport 443 drop'", "must not forward \"tcp 192.0.2.1:7 > 192.0.2.9:443\"", None),
        ("forward 'tcp dport 443 drop'", "must forward udp 192.0.2.1>192.0.2.9:443", None),
        ("forward 'tcp dport 443 drop'", "must deliver tcp 192.0.2.1 > 192.0.2.9:443", None),
        ("input 'tcp dport 443 drop'", "must deliver tcp 192.0.2.1 > 192.0.2.9:443", Some("chain input, rule 1")),
        (
            "prerouting 'ip saddr 192.0.2.0/24 drop'",
            "must forward icmp 192.0.2.1 > 192.0.2.9",
            Some("chain prerouting"),
        ),
        ("forward 'tcp sport 7 drop'", "must forward tcp 192.0.2.1 > 192.0.2.9:443", Some("cannot be told")),
        ("forward 'tcp sport 7 drop'", "must forward tcp 192.0.2.1:8 > 192.0.2.9:443", None),
        ("forward 'tcp sport 7 accept'", "must forward tcp 192.0.2.1 > 192.0.2.9:443", None),
        ("forward 'iif eth0 drop'", "must forward icmp 192.0.2.1 > 192.0.2.9", Some("cannot be told")),
        ("forward 'iif eth0 drop'", "must forward icmp 192.0.2.1 > 192.0.2.9 iif eth1", None),
        ("forward 'iif eth0 oif eth1 drop'", "must not forward icmp 192.0.2.1 > 192.0.2.9 iif eth0 oif eth1", None),
        ("forward 'ip6 daddr @bad drop'", "must not forward tcp 2001:db8::1 > [2001:db8::9]:22", None),
        ("forward 'ip6 daddr != @bad drop'", "must forward tcp [2001:db8::1]:5 > [2001:db8::9]:22", None),
        ("forward 'ip6 daddr @bad drop'", "must forward tcp 2001:db8::1 > [2001:db8::8]:22", None),
        ("forward 'limit rate over 5/second drop'", "must forward icmp 192.0.2.1 > 192.0.2.9", None),
        ("forward 'limit rate 5/second drop'", "must forward icmp 192.0.2.1 > 192.0.2.9", Some("limit rate")),
        ("forward 'ip ttl < 5 drop'", "must not forward icmp 192.0.2.1 > 192.0.2.9 ttl 4", None),
        ("forward 'ip ttl < 5 drop'", "must forward icmp 192.0.2.1 > 192.0.2.9", None),
        ("forward 'icmp type echo-request drop'", "must forward icmp 192.0.2.1 > 192.0.2.9 type 11", None),
        // What one rule changes, another one matches.
        ("forward 'ip ttl set 9; ip ttl 9 drop'", "must forward icmp 192.0.2.1 > 192.0.2.9", Some("cannot be told")),
        ("forward 'ip6 hoplimit set 9; ip ttl 9 drop'", "must forward icmp 192.0.2.1 > 192.0.2.9", None),
        ("forward 'vlan id 7 drop'", "must not forward icmp 192.0.2.1 > 192.0.2.9 vlan 7", None),
        ("forward 'vlan id != 7 drop'", "must forward icmp 192.0.2.1 > 192.0.2.9", None),
        (
            "forward 'ether saddr 02:00:00:00:00:01 drop'",
            "must forward icmp 192.0.2.1 > 192.0.2.9",
            Some("cannot be told"),
        ),
        (
            "forward 'ether saddr 02:00:00:00:00:01 drop'",
            "must not forward icmp 192.0.2.1 > 192.0.2.9 from 02:00:00:00:00:01",
            None,
        ),
        ("forward 'ct state new drop'", "must not forward tcp 192.0.2.1 > 192.0.2.9:443", None),
        ("forward 'ct state new drop'", "must forward tcp 192.0.2.1 > 192.0.2.9:443 flags ack", None),
        (
            "prerouting 'tcp dport 80 dnat to 192.0.2.8:8080'",
            "must not forward tcp 192.0.2.1 > 192.0.2.9:80",
            Some("it passes"),
        ),
        (
            "prerouting 'tcp dport 80 dnat to 192.0.2.8:8080' forward 'ip daddr 192.0.2.8 tcp dport 8080 drop'",
            "must not forward tcp 192.0.2.1 > 192.0.2.9:80",
            None,
        ),
    ];

    fn config(chains: &str, assertion: &str) -> String {
        let mut text =
            format!("assert = [{assertion:?}]\n[sets.bad]\ntype = 'ipv6_addr'\nelements = ['2001:db8::9']\n");
        let mut words = chains.split('\'');
        while let (Some(chain), Some(rule)) = (words.next(), words.next()) {
            let chain = chain.trim();
            text.extend(["[chains.", chain, "]\nrules = ['", &rule.replace("; ", "', '"), "']\n"]);
        }
        text
    }

    #[test]
    fn assertions_hold_or_say_what_was_found() {
        for (chains, assertion, expected) in ROWS {
            let text = config(chains, assertion);
            let config = parse(&text, "t").unwrap_or_else(|error| panic!("{text}\n{error}"));
            let way = |link: &str| WayIn { link: link.to_owned(), ..WayIn::default() };
            let found = config.broken(way).map(|broken| broken.message);
            assert_eq!(found.is_some(), expected.is_some(), "{chains}: {assertion}: {found:?}");
            assert!(found.unwrap_or_default().contains(expected.unwrap_or_default()), "{chains}: {assertion}");
            let again = parse(&config.to_toml(), "t").expect("what is written can be read");
            assert_eq!(again, config, "{assertion}");
        }
    }

    #[test]
    fn what_is_no_assertion_is_refused() {
        for (assertion, said) in [
            ("tcp 192.0.2.1 > 192.0.2.9:443", "an assertion is `must forward PACKET`"),
            ("must drop tcp 192.0.2.1 > 192.0.2.9:443", "`must not forward PACKET`"),
            ("must forward tcp 192.0.2.1 > 192.0.2.9", "with a port"),
            ("must forward tcp 192.0.2.1 > 192.0.2.9:443 iif", "`iif` needs the name"),
            ("must forward tcp 192.0.2.1 > 192.0.2.9:443 iif eth*", "`iif` needs the name"),
            ("must deliver icmp 192.0.2.1 > 192.0.2.9 oif eth0", "take `oif` out"),
            ("must forward icmp 192.0.2.1 > 2001:db8::1", "different families"),
        ] {
            let error = parse(&config("", assertion), "t").expect_err(assertion).to_string();
            assert!(error.contains("t:1:11: ") && error.contains(said), "{assertion}: {error}");
        }
    }
}
