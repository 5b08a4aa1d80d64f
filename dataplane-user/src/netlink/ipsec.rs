//! Policies of `IPsec` (`net/xfrm/xfrm_user.c`): any change makes them stale, and they are listed again.

use super::attribute::{Attributes, u8_at, u16_at, u32_at};
use super::socket::{Listener, RecvResult, Requester};
use super::{Error, Mirror, Stale};
use crate::model::{Family, Ipsec, Pairs, Prefix};

/// `NETLINK_XFRM`.
const PROTOCOL: isize = libc::NETLINK_XFRM as isize;
/// `XFRMNLGRP_EXPIRE` and `XFRMNLGRP_POLICY`.
const GROUPS: [u32; 2] = [2, 4];
const XFRM_MSG_GETPOLICY: u16 = 0x15;
const XFRM_MSG_GETDEFAULT: u16 = 0x28;
/// Messages about security associations: keys come and go, policies stay.
const ASSOCIATIONS: [u16; 5] = [0x10, 0x11, 0x18, 0x1a, 0x1c];

/// `struct xfrm_userpolicy_id`.
const REQUEST: usize = 64;
/// `struct xfrm_userpolicy_info`, and what is where in it.
const HEADER: usize = 168;
const SOURCE: usize = 16;
const FAMILY: usize = 40;
const LENGTHS: usize = 42;
const DIRECTION: usize = 160;
const ACTION: usize = 161;

const XFRMA_TMPL: u16 = 5;
const XFRMA_MARK: u16 = 21;
const XFRMA_IF_ID: u16 = 31;
/// `XFRM_POLICY_OUT` and `XFRM_POLICY_FWD`.
const THROUGH: [u8; 2] = [1, 2];
/// Directions from here on are those of single sockets (`XFRM_POLICY_MAX`).
const SOCKETS: u8 = 3;
const ALLOW: u8 = 0;
/// `XFRM_USERPOLICY_BLOCK`.
const BLOCK: u8 = 1;

/// Where policies are read.
pub(super) enum Policies {
    /// The kernel.
    Told(Listener, Requester),
    /// The kernel has no policies.
    None,
    /// The kernel, but not us.
    Unknown,
}

impl Policies {
    pub(super) fn open() -> Self {
        match Listener::open(PROTOCOL, &GROUPS)
            .and_then(|listener| Ok(Self::Told(listener, Requester::open(PROTOCOL)?)))
        {
            Ok(told) => told,
            Err(Error::Open(error)) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => Self::None,
            Err(error) => {
                tracing::warn!(
                    "cannot list IPsec policies ({error}); any packet may match one, so the kernel forwards"
                );
                Self::Unknown
            }
        }
    }

    /// Waits for something to be announced.
    pub(super) async fn wait(&mut self) -> Result<RecvResult, Error> {
        match self {
            Self::Told(listener, _) => listener.wait().await,
            _ => std::future::pending().await,
        }
    }

    pub(super) fn list(&mut self) -> Result<Ipsec, Error> {
        let requester = match self {
            Self::Told(_, requester) => requester,
            Self::None => return Ok(Ipsec::default()),
            Self::Unknown => return Ok(Ipsec::unknown()),
        };
        let mut ipsec = Ipsec { all: blocks_by_default(requester)?, ..Ipsec::default() };
        let policies = requester
            .dump("IPsec policies", XFRM_MSG_GETPOLICY, &[0; REQUEST], |message| Some(message.payload.to_vec()))?;
        for policy in &policies {
            // One that cannot be read may cover anything.
            if add(&mut ipsec, policy).is_none() {
                ipsec.all = true;
            }
        }
        Ok(ipsec)
    }
}

impl Mirror {
    /// Takes what was announced. Says whether there may be more.
    pub(super) fn take_policies(&mut self, heard: &RecvResult) {
        let Policies::Told(listener, _) = &self.policies else { return };
        let news = match heard {
            RecvResult::Nothing => false,
            RecvResult::Overrun => true,
            RecvResult::Datagram => listener.messages().any(|message| !ASSOCIATIONS.contains(&message.kind)),
        };
        if news {
            self.mark_stale(Stale::IPSEC);
        }
    }

    /// Reads what was announced so far.
    pub(super) fn drain_policies(&mut self) -> Result<(), Error> {
        while let Policies::Told(listener, _) = &mut self.policies {
            let heard = listener.poll()?;
            if matches!(heard, RecvResult::Nothing) {
                break;
            }
            self.take_policies(&heard);
        }
        Ok(())
    }
}

/// Whether what no policy covers is stopped on its way through (`ip xfrm policy setdefault`). Kernels before 5.15 have no such
/// setting.
fn blocks_by_default(requester: &mut Requester) -> Result<bool, Error> {
    let blocks = |payload: &[u8]| {
        // In, through, out.
        (1..3).any(|direction| u8_at(payload, direction) == Some(BLOCK))
    };
    match requester.get("IPsec defaults", XFRM_MSG_GETDEFAULT, &[0; 4], |message| Some(blocks(message.payload))) {
        Err(Error::Refused { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        other => Ok(other?.unwrap_or_default()),
    }
}

/// Adds the policy of a message.
fn add(ipsec: &mut Ipsec, payload: &[u8]) -> Option<()> {
    let direction = u8_at(payload, DIRECTION)?;
    if direction >= SOCKETS {
        return Some(());
    }
    ipsec.present = true;
    let find = |wanted| Attributes::behind(payload, HEADER).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let lets_go = u8_at(payload, ACTION)? == ALLOW && find(XFRMA_TMPL).is_none();
    let of_interface = find(XFRMA_IF_ID).and_then(|value| u32_at(value, 0)).is_some_and(|id| id != 0);
    // A packet without a mark has 0 for it; marked ones are left to the kernel where there are policies.
    let marked =
        find(XFRMA_MARK).and_then(|mark| Some(u32_at(mark, 0)? & u32_at(mark, 4)?)).is_some_and(|mark| mark != 0);
    if THROUGH.contains(&direction) && !lets_go && !of_interface && !marked {
        match i32::from(u16_at(payload, FAMILY)?) {
            libc::AF_INET => pair(payload, &mut ipsec.v4)?,
            libc::AF_INET6 => pair(payload, &mut ipsec.v6)?,
            _ => ipsec.all = true,
        }
    }
    Some(())
}

/// Adds destination and source of a selector.
fn pair<A: Family>(payload: &[u8], pairs: &mut Pairs<A>) -> Option<()> {
    let address = |at: usize| A::from_bytes(payload.get(at..at + A::BITS as usize / 8)?);
    let destination = Prefix::new(address(0)?, u8_at(payload, LENGTHS)?);
    pairs.insert((destination, Prefix::new(address(SOURCE)?, u8_at(payload, LENGTHS + 1)?)));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::{super::attribute::put, *};

    /// From 198.18.0.0/24, or its like, to 198.18.1.0/24.
    fn policy(family: i32, direction: u8, action: u8) -> Vec<u8> {
        let mut message = vec![0; HEADER];
        message[..3].copy_from_slice(&[198, 18, 1]);
        message[SOURCE..SOURCE + 3].copy_from_slice(&[198, 18, 0]);
        message[FAMILY..FAMILY + 2].copy_from_slice(&(family.cast_unsigned() as u16).to_ne_bytes());
        message[LENGTHS..LENGTHS + 2].copy_from_slice(&[24, 23]);
        (message[DIRECTION], message[ACTION]) = (direction, action);
        message
    }

    fn with(mut message: Vec<u8>, kind: u16, words: &[u32]) -> Vec<u8> {
        put(&mut message, kind, &words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>());
        message
    }

    #[test]
    fn policies_that_forwarded_packets_may_meet_count() {
        let template = |message| with(message, XFRMA_TMPL, &[0; 16]);
        let rows = [
            ("out", template(policy(libc::AF_INET, 1, ALLOW)), (1, 0, true)),
            ("through", template(policy(libc::AF_INET6, 2, ALLOW)), (0, 1, true)),
            ("block", policy(libc::AF_INET, 2, BLOCK), (1, 0, true)),
            ("in", template(policy(libc::AF_INET, 0, ALLOW)), (0, 0, true)),
            ("lets go", policy(libc::AF_INET, 1, ALLOW), (0, 0, true)),
            ("of a socket", policy(libc::AF_INET, 4, BLOCK), (0, 0, false)),
            ("of an interface", with(template(policy(libc::AF_INET, 1, ALLOW)), XFRMA_IF_ID, &[7]), (0, 0, true)),
            ("of no interface", with(template(policy(libc::AF_INET, 1, ALLOW)), XFRMA_IF_ID, &[0]), (1, 0, true)),
            ("marked", with(template(policy(libc::AF_INET, 1, ALLOW)), XFRMA_MARK, &[7, u32::MAX]), (0, 0, true)),
            ("unmarked", with(template(policy(libc::AF_INET, 1, ALLOW)), XFRMA_MARK, &[0, u32::MAX]), (1, 0, true)),
            ("cut off", policy(libc::AF_INET, 1, BLOCK)[..100].to_vec(), (0, 0, false)),
        ];
        for (what, message, expected) in rows {
            let mut ipsec = Ipsec::default();
            add(&mut ipsec, &message);
            assert_eq!((ipsec.v4.len(), ipsec.v6.len(), ipsec.present), expected, "{what}");
            let said: Vec<_> = ipsec.v4.iter().map(|(to, from)| format!("{from} {to}")).collect();
            assert!(said.iter().all(|pair| pair == "198.18.0.0/23 198.18.1.0/24"), "{what}: {said:?}");
        }
    }
}
