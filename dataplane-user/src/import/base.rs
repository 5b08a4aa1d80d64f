//! What a base chain of nft says of itself: type, hook and priority.

use super::chain::Hook;
use crate::rule::{ChainName, Policy};

/// `type filter hook input priority filter`.
pub(super) struct Base<'a> {
    pub(super) kind: &'a str,
    pub(super) hook: &'a str,
    pub(super) rest: Vec<&'a str>,
}

impl Base<'_> {
    pub(super) fn is_known(&self) -> bool {
        let chain = self.hook.parse::<ChainName>();
        match self.kind {
            "filter" => chain.is_ok(),
            "route" => chain == Ok(ChainName::Output),
            "nat" => chain.is_ok_and(ChainName::can_translate),
            _ => false,
        }
    }

    pub(super) fn hook(&self, policy: Policy) -> Result<Hook, String> {
        let Base { kind, hook, rest } = self;
        let translates = *kind == "nat";
        match *kind {
            "filter" | "nat" => {}
            // What changes packets of this machine is one of these here, too.
            "route" if *hook == "output" => {}
            _ => return Err(format!("there is no chain of type {kind} on hook {hook}: take the chain out")),
        }
        let chain: ChainName = hook.parse().map_err(|_| {
            format!("there is no hook {hook} here; there are prerouting, input, forward, output and postrouting")
        })?;
        if translates && !chain.can_translate() {
            return Err(format!(
                "nothing is translated on hook {hook} here: take the chain out, or translate on prerouting, output or \
                 postrouting"
            ));
        }
        let words = rest;
        let priority = match words.as_slice() {
            ["priority", number] => number_of(number),
            ["priority", name, "+", more] => {
                number_of(name).zip(more.parse::<i64>().ok()).map(|(one, more)| one + more)
            }
            ["priority", name, "-", less] => {
                number_of(name).zip(less.parse::<i64>().ok()).map(|(one, less)| one - less)
            }
            _ => None,
        };
        let priority = priority.ok_or_else(|| format!("`{}` is not a priority", words.join(" ")))?;
        Ok(Hook { chain, priority, policy, translates })
    }
}

/// Priorities by name (nft(8), "Standard priority names").
fn number_of(word: &str) -> Option<i64> {
    Some(match word {
        "raw" => -300,
        "mangle" => -150,
        "dstnat" => -100,
        "filter" => 0,
        "security" => 50,
        "srcnat" => 100,
        _ => return word.parse().ok(),
    })
}
