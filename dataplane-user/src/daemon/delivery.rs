//! What delivers the packets that rules hand to proxies: routing rules and a route of the daemon's own. While they are missing,
//! these rules do not match: the kernel would drop their packets where it forwards (`ip_forward`), and nothing would count that.

use std::collections::BTreeSet;

use super::Daemon;
use crate::{
    control::row::{Finding, Status},
    model::{Event, TABLE_DELIVERY},
    netlink,
};

const UNDELIVERED: &str = "packets cannot be delivered to proxies, so that rules with tproxy do not match";
const STAYS: &str = "the routing rules and the route that deliver to proxies (table 218) could not be removed";

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    /// The interfaces whose packets have a rule; none: it is not known, an earlier daemon may have left some.
    made: Option<BTreeSet<String>>,
    /// Why it could not be made.
    trouble: Option<String>,
}

impl Delivery {
    /// Whether marked packets are delivered.
    pub(super) fn is_ready(&self) -> bool {
        self.trouble.is_none() && self.made.as_ref().is_some_and(|made| !made.is_empty())
    }
}

impl Daemon {
    /// The interfaces whose packets may be for a proxy.
    fn wanted_delivery(&self) -> BTreeSet<String> {
        if self.desired.ports().config().is_empty() || !self.desired.chains().deliver() {
            return BTreeSet::new();
        }
        self.judged_links().into_iter().map(|ifindex| self.name(ifindex)).collect()
    }

    /// Before rules hand packets to proxies.
    pub(super) fn make_delivery(&mut self) {
        let wanted = self.wanted_delivery();
        if !wanted.is_empty() && (self.delivery.trouble.is_some() || self.delivery.made.as_ref() != Some(&wanted)) {
            self.deliver(wanted);
        }
    }

    /// After no rule does any more.
    pub(super) fn end_delivery(&mut self) {
        let made = self.delivery.made.as_ref().is_none_or(|made| !made.is_empty());
        if made && self.wanted_delivery().is_empty() {
            self.deliver(BTreeSet::new());
        }
    }

    /// Makes what is wanted, and nothing else; whether something was missing or too much.
    fn deliver(&mut self, wanted: BTreeSet<String>) -> bool {
        if !self.plane.writes_tables() {
            return false;
        }
        match netlink::deliver(&wanted) {
            Ok(changed) => {
                self.delivery = Delivery { made: Some(wanted), trouble: None };
                changed
            }
            Err(error) => {
                let trouble = error.to_string();
                if self.delivery.trouble.as_ref() != Some(&trouble) {
                    let so = if wanted.is_empty() { STAYS } else { UNDELIVERED };
                    tracing::error!("{so}: {trouble}");
                }
                self.delivery.trouble = Some(trouble);
                false
            }
        }
    }

    /// Once a second, and when the kernel announces that something of it was changed: whether it is there.
    pub(super) fn look_at_delivery(&mut self) {
        let wanted = self.wanted_delivery();
        if self.observed.is_loading() || self.leaves_ports() {
            return;
        }
        if wanted.is_empty() {
            return self.end_delivery();
        }
        let ready = self.delivery.is_ready();
        if self.deliver(wanted) && ready {
            tracing::warn!(
                "another program removed a rule or the route that delivers to proxies (table 218); it is there again"
            );
        }
        if self.delivery.is_ready() != ready
            && let Err(error) = self.refresh_chains()
        {
            tracing::error!("{error:#}");
        }
    }

    /// Why some of it is still there, though nothing needs it.
    pub(super) fn delivery_stays(&self) -> Option<String> {
        let trouble = self.delivery.trouble.as_ref().filter(|_| self.wanted_delivery().is_empty())?;
        Some(format!("{STAYS}: {trouble}"))
    }

    /// What the doctor says of it.
    pub(super) fn delivery_finding(&self) -> Option<Finding> {
        if self.wanted_delivery().is_empty() {
            return None;
        }
        let (status, found, fix) = match &self.delivery.trouble {
            None => (Status::Ok, "routing rules and route 218 deliver packets to proxies".to_owned(), ""),
            Some(trouble) => {
                let found = format!("{UNDELIVERED}: {trouble}");
                (Status::Fail, found, "ip rule list; ip link set lo up  # the daemon tries it again each second")
            }
        };
        Some(Finding { check: "tproxy".to_owned(), status, found, fix: fix.to_owned() })
    }
}

/// Whether something that delivers may be gone.
pub(super) fn may_be_gone(events: &[Event]) -> bool {
    events.iter().any(|event| match event {
        Event::RoutingRuleGone(rule) => rule.table == TABLE_DELIVERY,
        Event::Route4Gone(route) => route.table == TABLE_DELIVERY,
        Event::Route6Gone(route) => route.table == TABLE_DELIVERY,
        _ => false,
    })
}
