//! Extensions of iptables: what they mean for a packet of an established TCP or UDP connection that goes through the machine.
//!
//! Layouts are those of `include/uapi/linux/netfilter/xt_*.h`.

use super::{Extension, ObstacleKind};

/// What a match says of such a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// It matches.
    Always,
    /// It does not.
    Never,
    /// It may, and always does or never does for packets of one connection.
    Fixed,
    /// It may, and the match itself is such an obstacle.
    Obstacle(ObstacleKind),
}

/// The bit of established connections (`XT_CONNTRACK_STATE_BIT`, `NF_CT_STATE_BIT`).
pub const ESTABLISHED: u32 = 1 << 1;
/// `XT_CONNTRACK_STATE_SNAT | XT_CONNTRACK_STATE_DNAT`: these follow from the connection.
const TRANSLATED: u32 = 1 << 6 | 1 << 7;
/// Flags of TCP that are known: neither FIN, SYN nor RST, but ACK.
const KNOWN_FLAGS: u8 = 0x17;
const ACK: u8 = 0x10;

impl Extension {
    /// What the match says. `tracked`: connection tracking has seen the packet where this is met.
    pub fn matches(&self, tracked: bool) -> Judged {
        match self.name.as_str() {
            "comment" => Judged::Always,
            "conntrack" => self.conntrack(tracked),
            "state" => match self.word(0) {
                Some(mask) if tracked && mask & ESTABLISHED == 0 => Judged::Never,
                Some(_) if tracked => Judged::Always,
                _ => Judged::Fixed,
            },
            "tcp" => self.tcp(),
            "udp" | "udplite" | "multiport" | "addrtype" | "iprange" | "mark" | "connmark" | "connlabel"
            | "pkttype" | "set" | "physdev" | "policy" | "rpfilter" | "socket" | "owner" | "cgroup" | "devgroup"
            | "realm" | "helper" | "cluster" | "eui64" | "ipvs" | "geoip" => Judged::Fixed,
            // Other protocols, fragments, headers and options that only a SYN or a packet for the kernel has.
            "icmp" | "icmp6" | "sctp" | "dccp" | "esp" | "ah" | "ipcomp" | "osf" | "frag" | "rt" | "srh" | "mh" => {
                Judged::Never
            }
            "limit" | "hashlimit" => Judged::Obstacle(ObstacleKind::Limit),
            "quota" | "quota2" => Judged::Obstacle(ObstacleKind::Quota),
            "connlimit" => Judged::Obstacle(ObstacleKind::Connlimit),
            "recent" => Judged::Obstacle(ObstacleKind::Dynset),
            "statistic" => Judged::Obstacle(ObstacleKind::Random),
            "time" => Judged::Obstacle(ObstacleKind::Time),
            "nfacct" => Judged::Obstacle(ObstacleKind::Counter),
            // A row compares no source of a frame, and a sender may put MSS anywhere.
            "mac" | "tcpmss" | "connbytes" | "string" | "u32" | "bpf" | "length" | "ttl" | "hl" | "dscp" | "tos"
            | "ecn" | "cpu" | "rateest" | "ipv6header" | "hbh" | "dst" | "l2tp" => {
                Judged::Obstacle(ObstacleKind::Content)
            }
            _ => Judged::Obstacle(ObstacleKind::Extension),
        }
    }

    /// What the target does beside a verdict; none: nothing that matters.
    pub fn acts(&self) -> Option<ObstacleKind> {
        Some(match self.name.as_str() {
            "REJECT" | "TCPMSS" | "MASQUERADE" | "SNAT" | "DNAT" | "REDIRECT" | "NETMAP" | "CHECKSUM" | "SECMARK"
            | "CONNSECMARK" => return None,
            // `struct xt_ct_target_info`: flags, a zone, events, and the name of a helper.
            "CT" => match (self.half(0), self.half(2), self.info.get(12)) {
                (Some(flags), ..) if flags & 1 != 0 => ObstacleKind::Notrack,
                (Some(_), Some(0), None | Some(0)) => return None,
                (Some(_), Some(0), _) => ObstacleKind::Helper,
                _ => ObstacleKind::Ct,
            },
            "NOTRACK" => ObstacleKind::Notrack,
            "NFQUEUE" | "QUEUE" => ObstacleKind::Queue,
            "LOG" | "NFLOG" | "ULOG" | "AUDIT" => ObstacleKind::Log,
            "MARK" | "HMARK" => ObstacleKind::Mark,
            // `XT_CONNMARK_RESTORE` writes the packet, the others the connection.
            "CONNMARK" if self.info.get(if self.revision < 2 { 12 } else { 14 }) == Some(&2) => ObstacleKind::Mark,
            "CONNMARK" => ObstacleKind::Ct,
            "CLASSIFY" => ObstacleKind::Priority,
            "DSCP" | "TOS" | "ECN" | "TTL" | "HL" | "TCPOPTSTRIP" | "SNPT" | "DNPT" => ObstacleKind::Payload,
            "TEE" => ObstacleKind::Dup,
            "TPROXY" => ObstacleKind::Tproxy,
            "SYNPROXY" => ObstacleKind::Synproxy,
            "TRACE" => ObstacleKind::Trace,
            "SET" => ObstacleKind::Dynset,
            _ => ObstacleKind::Extension,
        })
    }

    /// `struct xt_conntrack_mtinfo1` to 3: addresses, the time left, ports; then what is compared.
    fn conntrack(&self, tracked: bool) -> Judged {
        const STATE: u32 = 1;
        const EXPIRES: u32 = 1 << 7;
        let (Some(compared), Some(inverted)) = (self.half(146), self.half(148)) else {
            return Judged::Obstacle(ObstacleKind::Extension);
        };
        let mask = match self.revision {
            1 => self.info.get(150).copied().map(u32::from),
            _ => self.half(150),
        };
        let Some(mask) = mask else { return Judged::Obstacle(ObstacleKind::Extension) };
        if compared & EXPIRES != 0 {
            return Judged::Obstacle(ObstacleKind::Content);
        }
        let uncertain = mask & TRANSLATED != 0 && mask & ESTABLISHED == 0;
        if !tracked || compared & STATE == 0 || uncertain {
            return Judged::Fixed;
        }
        match (mask & ESTABLISHED != 0) != (inverted & STATE != 0) {
            false => Judged::Never,
            true if compared == STATE => Judged::Always,
            true => Judged::Fixed,
        }
    }

    /// `struct xt_tcp`: ports, an option, which flags are compared with what, and what is inverted.
    fn tcp(&self) -> Judged {
        const INVERTED_FLAGS: u8 = 4;
        let Some(&[option, mask, value, inverted]) = self.info.get(8..12) else {
            return Judged::Obstacle(ObstacleKind::Extension);
        };
        if option != 0 {
            return Judged::Obstacle(ObstacleKind::Content);
        }
        if mask == 0 {
            return Judged::Fixed;
        }
        let is_inverted = inverted & INVERTED_FLAGS != 0;
        let differs = (ACK ^ value) & mask & KNOWN_FLAGS != 0;
        match (differs, mask & !KNOWN_FLAGS == 0) {
            (true, _) => {
                if is_inverted {
                    Judged::Fixed
                } else {
                    Judged::Never
                }
            }
            (false, true) => {
                if is_inverted {
                    Judged::Never
                } else {
                    Judged::Fixed
                }
            }
            (false, false) => Judged::Obstacle(ObstacleKind::Content),
        }
    }

    fn half(&self, at: usize) -> Option<u32> {
        self.info.get(at..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes).into())
    }

    fn word(&self, at: usize) -> Option<u32> {
        self.info.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conntrack(revision: u32, compared: u16, inverted: u16, mask: u16) -> Extension {
        let mut info = vec![0; 160];
        info[146..148].copy_from_slice(&compared.to_ne_bytes());
        info[148..150].copy_from_slice(&inverted.to_ne_bytes());
        info[150..152].copy_from_slice(&mask.to_ne_bytes());
        Extension { name: "conntrack".to_owned(), revision, info }
    }

    #[test]
    fn states_decide_whether_an_established_packet_matches() {
        let rows = [
            ("ESTABLISHED", conntrack(3, 1, 0, 2), true, Judged::Always),
            ("RELATED,ESTABLISHED", conntrack(2, 1, 0, 6), true, Judged::Always),
            ("NEW", conntrack(3, 1, 0, 8), true, Judged::Never),
            ("INVALID", conntrack(1, 1, 0, 1), true, Judged::Never),
            ("not NEW", conntrack(3, 1, 1, 8), true, Judged::Always),
            ("not ESTABLISHED", conntrack(3, 1, 1, 2), true, Judged::Never),
            ("DNAT", conntrack(3, 1, 0, 128), true, Judged::Fixed),
            ("ESTABLISHED of an address", conntrack(3, 1 | 4, 0, 2), true, Judged::Fixed),
            ("NEW of an address", conntrack(3, 1 | 4, 0, 8), true, Judged::Never),
            ("an address", conntrack(3, 4, 0, 0), true, Judged::Fixed),
            ("the time left", conntrack(3, 1 << 7, 0, 0), true, Judged::Obstacle(ObstacleKind::Content)),
            ("NEW in front of conntrack", conntrack(3, 1, 0, 8), false, Judged::Fixed),
        ];
        for (what, extension, tracked, wanted) in rows {
            assert_eq!(extension.matches(tracked), wanted, "{what}");
        }
        let cut = Extension { info: vec![0; 20], ..conntrack(3, 0, 0, 0) };
        assert_eq!(cut.matches(true), Judged::Obstacle(ObstacleKind::Extension), "too short to be read");
    }

    #[test]
    fn flags_of_a_carried_packet_are_known_in_part() {
        let tcp = |mask, value, inverted| {
            let info = vec![0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 0, mask, value, inverted];
            Extension { name: "tcp".to_owned(), revision: 0, info }.matches(true)
        };
        let rows = [
            ("ports alone", tcp(0, 0, 0), Judged::Fixed),
            ("--syn", tcp(0x17, 0x02, 0), Judged::Never),
            ("! --syn", tcp(0x17, 0x02, 4), Judged::Fixed),
            ("SYN,RST SYN", tcp(0x06, 0x02, 0), Judged::Never),
            ("ALL NONE", tcp(0x3f, 0, 0), Judged::Never),
            ("ALL FIN,PSH,URG", tcp(0x3f, 0x29, 0), Judged::Never),
            ("ACK ACK", tcp(0x10, 0x10, 0), Judged::Fixed),
            ("PSH PSH", tcp(0x08, 0x08, 0), Judged::Obstacle(ObstacleKind::Content)),
        ];
        for (what, judged, wanted) in rows {
            assert_eq!(judged, wanted, "{what}");
        }
    }

    #[test]
    fn targets_are_known_by_what_they_do() {
        let of = |name: &str, revision, info: &[u8]| {
            Extension { name: name.to_owned(), revision, info: info.to_vec() }.acts()
        };
        let target = |name: &str, info: &[u8]| of(name, 1, info);
        assert_eq!(of("CONNMARK", 2, &[&[0; 14][..], &[2]].concat()), Some(ObstacleKind::Mark));
        let connmark = |mode| [vec![0; 12], vec![mode]].concat();
        let rows = [
            ("REJECT", vec![], None),
            ("NFQUEUE", vec![], Some(ObstacleKind::Queue)),
            ("NFLOG", vec![], Some(ObstacleKind::Log)),
            ("CONNMARK", connmark(0), Some(ObstacleKind::Ct)),
            ("CONNMARK", connmark(2), Some(ObstacleKind::Mark)),
            ("CT", vec![1, 0, 0, 0], Some(ObstacleKind::Notrack)),
            ("CT", vec![0, 0, 0, 0], None),
            ("CT", [&[0; 12][..], b"ftp"].concat(), Some(ObstacleKind::Helper)),
            ("CT", vec![0, 0, 7, 0], Some(ObstacleKind::Ct)),
            ("IDLETIMER", vec![], Some(ObstacleKind::Extension)),
        ];
        for (name, info, wanted) in rows {
            assert_eq!(target(name, &info), wanted, "{name}");
        }
    }
}
