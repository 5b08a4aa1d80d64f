//! Which proxy gets a packet: rules with `tproxy` are the kernel's to evaluate, so the programs do not say it.

use std::net::SocketAddr;

use dataplane_common::{Reason, abi::Ifindex};

use super::{
    Daemon,
    explain::Arrived,
    recipient::{Recipients, end},
    trace_row,
};
use crate::{
    config::Subject,
    control::{open_socket::RecipientRow, row::Explanation},
    model::{OpenSocket, STATE_LISTEN},
    netlink::{Error, sock_diag::SocketLookup},
    rule::{Action, ChainName, Proxy, Value as _},
};

/// `TCP_TIME_WAIT`.
const STATE_TIME_WAIT: u8 = 6;
const TCP: u8 = 6;
/// The flags of a TCP header that tell a SYN alone (RFC 9293, section 3.1).
const SYN: u8 = 2;
const SYN_ACK_RST: u8 = 0x16;

/// What of a packet decides which proxy gets it.
#[derive(Clone, Copy, Debug)]
struct Passing {
    protocol: u8,
    source: SocketAddr,
    destination: SocketAddr,
    iif: Ifindex,
    /// A new connection, which a connection in `TIME_WAIT` does not take.
    begins: bool,
}

impl Passing {
    /// None of later fragments: they follow the first one.
    fn of(arrived: &Arrived) -> Option<Self> {
        let packet = trace_row::packet(&arrived.record)?;
        let transport = packet.transport();
        let (ports, _) = transport.split_first_chunk::<4>().filter(|_| packet.fragment_offset() == 0)?;
        let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
        let protocol = packet.protocol?;
        Some(Self {
            protocol,
            source: SocketAddr::new(packet.source(), port(0)),
            destination: SocketAddr::new(packet.destination(), port(2)),
            iif: arrived.ifindex,
            begins: protocol == TCP && transport.get(13).is_some_and(|flags| flags & SYN_ACK_RST == SYN),
        })
    }

    /// The socket that a rule hands it to, as `nft_tproxy` looks for it: a connected one of the packet's own ends, or else the
    /// listener where the rule says.
    fn socket(&self, lookup: &mut SocketLookup, at: SocketAddr) -> Result<Option<OpenSocket>, Error> {
        let Self { protocol, source, destination, iif, begins } = *self;
        let own = lookup.find(protocol, source, destination, iif)?;
        let connected = |socket: &OpenSocket| {
            let waits = socket.state == STATE_TIME_WAIT && begins;
            socket.peer.is_some_and(|peer| peer.port() != 0) && socket.state != STATE_LISTEN && !waits
        };
        let found = match own {
            Some(own) if connected(&own) => Some(own),
            // No connection has port 0.
            _ => lookup.find(protocol, SocketAddr::new(source.ip(), 0), at, iif)?,
        };
        Ok(found.filter(|socket| socket.transparent))
    }
}

impl Daemon {
    /// The explanation, with the proxy that gets the packet, where a rule names one.
    pub(super) fn handed_on(
        &self,
        arrived: &Arrived,
        mut explanation: Explanation,
        recipients: &mut Recipients,
    ) -> Explanation {
        let reason = trace_row::reason(&arrived.record);
        let proxies = |rule: &crate::rule::Rule| matches!(rule.action(), Action::Proxy(_));
        let rules = self.desired.chains().rules(ChainName::Prerouting);
        let asked = matches!(reason, Reason::Netfilter | Reason::Local) && self.delivery.is_ready();
        if !asked || !rules.iter().any(|installed| proxies(&installed.rule)) {
            return explanation;
        }
        match self.proxy_of(arrived, recipients) {
            Ok(Some((said, recipient))) => {
                if let Some(stage) = explanation.stages.iter_mut().rfind(|stage| stage.name == "kernel") {
                    stage.result = said;
                }
                explanation.judgement.recipient = recipient.map(Box::new);
            }
            Ok(None) => {}
            Err(error) => tracing::debug!("no socket of a proxy can be looked up: {error}"),
        }
        explanation
    }

    /// What is said of it, and the socket; none where no rule with `tproxy` matches, or none of them has a socket.
    fn proxy_of(
        &self,
        arrived: &Arrived,
        recipients: &mut Recipients,
    ) -> Result<Option<(String, Option<RecipientRow>)>, Error> {
        let subject = Subject::of_frame(&arrived.frame, arrived.record.offset as usize);
        let (Some(subject), Some(passing)) = (subject, Passing::of(arrived)) else { return Ok(None) };
        let subject = match self.way_of(arrived.ifindex, &subject) {
            Some(way) => subject.through(way),
            None => subject,
        };
        let mut passed = None;
        for (rule, to) in self.desired.chains().config().proxies(&subject) {
            let socket = passing.socket(recipients.sockets()?, self.listener(&passing, to))?;
            if let Some(socket) = socket {
                let socket = end(&socket, |ifindex| self.name(ifindex));
                let said = format!("rule `{rule}` hands it to a socket: {}", socket.words());
                let answer = "socket".to_owned();
                return Ok(Some((
                    said,
                    Some(RecipientRow { socket: Some(socket), copies: Vec::new(), steer: None, answer }),
                )));
            }
            if to.or_drop {
                return Ok(Some((format!("rule `{rule}` has no socket for it, and drops it"), None)));
            }
            passed.get_or_insert_with(|| format!("rule `{rule}` has no socket for it, and lets it pass"));
        }
        // Who gets a packet for this machine is said already.
        Ok(passed.filter(|_| trace_row::reason(&arrived.record) != Reason::Local).map(|said| (said, None)))
    }

    /// Where a rule looks for the listener (`nf_tproxy_laddr4` and `nf_tproxy_laddr6`).
    fn listener(&self, passing: &Passing, to: Proxy) -> SocketAddr {
        let destination = passing.destination;
        let port = to.port.and_then(|port| u16::try_from(port.bits()).ok()).unwrap_or(destination.port());
        let addresses = &self.observed.model().addresses;
        let fits = |address: &std::net::IpAddr| address.is_ipv4() == destination.is_ipv4();
        let first = || addresses.iter().find(|one| one.ifindex == passing.iif && fits(&one.address));
        let address = to.address.or_else(|| first().map(|one| one.address)).unwrap_or(destination.ip());
        SocketAddr::new(address, port)
    }
}
