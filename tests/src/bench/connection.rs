//! Connections for the generator's packets: rules of netfilter that need them, and both directions of each, so that conntrack has
//! them as established.

use std::{fmt, net::IpAddr};

use anyhow::{Context as _, Result, ensure};
use dataplane_tests_ebpf::{IPV4_LENGTH, IPV6_LENGTH, aim4, aim6};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketType, netlink, netlink::SocketAddrNetlink, recv, sendto, socket,
};

use super::{
    chain::Chain,
    forward::Family,
    frame::{DISCARD, template4, template6},
};
use crate::{fixture::packet::ip, oracle::port::Port};

/// What netfilter does with connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Netfilter {
    /// `ct state established accept`, and ten rules behind that.
    Stateful,
    /// The same, and what leaves is masqueraded.
    Masquerade,
}

impl Netfilter {
    /// For `nft -f`.
    pub fn ruleset(self) -> String {
        let ports: Vec<_> = (0..9).map(|port| format!("  udp dport {} drop", 10_000 + port)).collect();
        let nat = match self {
            Self::Stateful => "",
            Self::Masquerade => {
                " chain postrouting {\n  type nat hook postrouting priority srcnat;\n  oifname \"b0\" masquerade\n }\n"
            }
        };
        format!(
            "table inet bench {{\n chain forward {{\n  type filter hook forward priority filter; policy drop;\n  \
             ct state established,related accept\n{}\n  iifname \"a1\" accept\n }}\n{nat}}}\n",
            ports.join("\n")
        )
    }
}

impl fmt::Display for Netfilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stateful => "conntrack, 10 rules",
            Self::Masquerade => "conntrack, masquerade, 10 rules",
        })
    }
}

/// Forgets all connections of the device under test: those of the contestant before were translated as that wanted.
pub fn forget(chain: &Chain) -> Result<()> {
    /// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE` (`include/uapi/linux/netfilter/nfnetlink_conntrack.h`).
    const DELETE: u16 = 1 << 8 | 2;
    /// `NLM_F_REQUEST | NLM_F_ACK`.
    const FLAGS: u16 = 5;
    const LENGTH: u32 = 20;
    chain.dut.enter(|| {
        let socket = socket(AddressFamily::NETLINK, SocketType::RAW, Some(netlink::NETFILTER))?;
        let mut request = LENGTH.to_ne_bytes().to_vec();
        request.extend([DELETE, FLAGS].map(u16::to_ne_bytes).as_flattened());
        request.resize(LENGTH as usize, 0);
        sendto(&socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0)).context("asking netfilter")?;
        let mut answer = [0; 256];
        let (length, _) = recv(&socket, &mut answer, RecvFlags::empty()).context("reading netfilter's answer")?;
        let error = answer.get(16..20).filter(|_| length >= 20).and_then(|bytes| bytes.try_into().ok());
        ensure!(
            error.map(i32::from_ne_bytes) == Some(0),
            "netfilter does not forget connections: {:?}",
            &answer[..length]
        );
        Ok(())
    })
}

/// Sends each flow's packet, and an answer to it if `answered`; says how many flows that are.
pub fn establish(chain: &Chain, netfilter: Netfilter, families: &[Family], answered: bool) -> Result<usize> {
    let first = chain.source.enter(|| Port::open("a0"))?;
    let answers = chain.sink.enter(|| Port::open("b1"))?;
    let (v4, v6) = (families.iter().any(|f| *f != Family::Ipv6), families.iter().any(|f| *f != Family::Ipv4));
    let answer = |from: IpAddr, to: &str, port| -> Result<()> {
        let answer = ip(from, to.parse()?).to(chain.exit).udp(DISCARD, port, 0);
        if answered { answers.send(&answer.frame()).map(drop) } else { Ok(()) }
    };
    if v4 {
        let template = template4(&chain.path, IPV4_LENGTH);
        let outside = if netfilter == Netfilter::Masquerade { "203.0.113.1" } else { "198.51.100.2" };
        for (index, destination) in (0..).zip(&chain.table4.destinations) {
            let mut whole = template;
            let (frame, _) = whole.split_at_mut(IPV4_LENGTH);
            let frame: &mut [u8; IPV4_LENGTH] = frame.try_into()?;
            aim4(frame, u32::from_ne_bytes(destination.octets()), port(index).to_be());
            first.send(frame)?;
            answer((*destination).into(), outside, port(index))?;
        }
    }
    if v6 {
        let template = template6(&chain.path);
        let outside = if netfilter == Netfilter::Masquerade { "2001:db8:b::1" } else { "2001:db8:a::2" };
        for (index, destination) in (0..).zip(&chain.table6.destinations) {
            let mut whole = template;
            let (frame, _) = whole.split_at_mut(IPV6_LENGTH);
            let frame: &mut [u8; IPV6_LENGTH] = frame.try_into()?;
            let words = destination.octets();
            let (words, _) = words.as_chunks::<4>();
            aim6(frame, std::array::from_fn(|at| u32::from_ne_bytes(words[at])), port(index).to_be());
            first.send(frame)?;
            answer((*destination).into(), outside, port(index))?;
        }
    }
    let count = |of: bool, number: usize| if of { number } else { 0 };
    Ok(count(v4, chain.table4.destinations.len()) + count(v6, chain.table6.destinations.len()))
}

/// Source port of a flow, as the generator has it.
const fn port(index: u32) -> u16 {
    1024 + (index & 0xfff) as u16
}
