//! `dataplane port`, with `dataplane attach` and `dataplane detach` as short forms.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Args, Subcommand, builder::PossibleValuesParser, builder::TypedValueParser as _};

use super::{
    DEFAULT_SOCKET,
    care::CareArgs,
    iface,
    session::{Session, unexpected},
    table::{self, LEFT, RIGHT, dash},
};
use crate::{
    control::{
        client::may_listen,
        protocol::{Data, Failure, FailureKind, Request, Selection},
        row::PortRow,
    },
    kernel::{BPFFS, detach_left},
    model::ModeChoice,
    netlink::{Gate, OwnTableSocket, deliver},
};

/// Where the service pins (packaging/dataplane.service).
const SERVICE_BPFFS: &str = "/run/dataplane-bpffs";

/// Attach the programs to interfaces
///
/// An interface that is already attached changes to the given mode. The mode in use is printed; `dataplane port list` shows it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dataplane port attach eth0 eth1\n  dataplane attach eth0 --mode native")]
pub(super) struct Attach {
    /// Interface names
    #[arg(required = true, value_name = "IFACE", value_parser = iface)]
    ifaces: Vec<String>,
    /// Which programs run; `auto` chooses native XDP or tc, never generic XDP
    #[arg(long, default_value = "auto", value_parser = mode())]
    mode: ModeChoice,
    #[command(flatten)]
    care: CareArgs,
}

fn mode() -> impl clap::builder::TypedValueParser<Value = ModeChoice> {
    PossibleValuesParser::new(["auto", "native", "generic", "tc"])
        .try_map(|name| name.parse::<ModeChoice>().map_err(|error| error.to_string()))
}

impl Attach {
    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<()> {
        match session.call(&self.care.around(Request::Attach { ifaces: self.ifaces, mode: self.mode }))? {
            Data::Ports(rows) if session.json => session.print(&rows, String::new)?,
            Data::Ports(rows) => {
                for row in rows {
                    eprintln!("{}: attached, mode {}", row.name, row.mode);
                }
            }
            data => return Err(unexpected(&data)),
        }
        self.care.remind();
        Ok(())
    }
}

/// Detach the programs from interfaces
///
/// Traffic continues through the kernel, without the rules of `dataplane`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dataplane port detach eth0\n  dataplane detach eth0 --confirm 60\n  dataplane detach --all"
)]
pub(super) struct Detach {
    /// Interface names
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "IFACE", value_parser = iface)]
    ifaces: Vec<String>,
    /// All attached interfaces; also without a daemon, whose programs continue to run
    #[arg(long)]
    all: bool,
    /// Directory of pinned links, for `--all` without a daemon; default: beside the socket, or those of the usual daemons
    #[arg(long, value_name = "DIR", requires = "all")]
    bpffs: Option<PathBuf>,
    #[command(flatten)]
    care: CareArgs,
}

impl Detach {
    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<()> {
        if !self.all {
            session.change(&self.care.around(Request::Detach(Selection::Ifaces(self.ifaces))))?;
            self.care.remind();
            return Ok(());
        }
        match session.call(&self.care.around(Request::Detach(Selection::All))) {
            Ok(Data::Done) => {
                self.care.remind();
                Ok(())
            }
            Ok(data) => Err(unexpected(&data)),
            // Without a daemon nothing would attach them again.
            Err(failure)
                if failure.kind == FailureKind::Unreachable && !self.care.waits() && !may_listen(&session.socket) =>
            {
                self.without_daemon(session, &failure)
            }
            Err(failure) => Err(failure.into()),
        }
    }

    /// Removes what an ended daemon left attached.
    fn without_daemon(&self, session: &Session, failure: &Failure) -> anyhow::Result<()> {
        let places = self.bpffs.clone().map_or_else(|| places(&session.socket), |named| vec![named]);
        let mut off = 0;
        for place in &places {
            let left = detach_left(place).with_context(|| format!("{failure}; without it"))?;
            if left.steer {
                eprintln!("{}: sockets are steered no more", place.display());
                off += 1;
            }
            if !left.ports.is_empty() {
                // What waited for a daemon waits no longer. Only in its network namespace: elsewhere there is no such table.
                let _absent = Gate::of(&place.join("links")).remove();
                let removed = OwnTableSocket::open().and_then(|mut socket| socket.remove());
                deliver(&BTreeSet::new()).context("the ports are detached, but routing rules of table 218 are left")?;
                removed.context(
                    "the ports are detached, but own rules in nftables may still decide: as root, in the daemon's network \
                     namespace, `nft delete table inet dataplane` removes them",
                )?;
                let ports: BTreeSet<_> = left.ports.iter().map(|(ifindex, _)| ifindex).collect();
                eprintln!("{}: {} ports detached without a daemon", place.display(), ports.len());
                off += ports.len();
            }
        }
        if off == 0 {
            let places: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
            let text = format!(
                "{failure}. Nothing is pinned in {} either; another directory is named with --bpffs",
                places.join(" or ")
            );
            return Err(Failure::new(FailureKind::Unreachable, text).into());
        }
        eprintln!("the kernel forwards alone; the next `dataplane run` attaches what its config says");
        Ok(())
    }
}

/// Where the daemon of a socket pins, as far as that can be known without it.
pub(super) fn places(socket: &Path) -> Vec<PathBuf> {
    if socket == Path::new(DEFAULT_SOCKET) {
        return [BPFFS, SERVICE_BPFFS].map(PathBuf::from).to_vec();
    }
    // As `dataplane lab` has it.
    vec![socket.with_file_name("bpffs")]
}

#[derive(Debug, Subcommand)]
#[command(
    after_help = "Examples:\n  dataplane port list\n  dataplane port attach eth0 eth1\n  dataplane port detach eth0"
)]
pub(super) enum Port {
    /// List the ports with the mode in use and their packets
    ///
    /// On a terminal that is too narrow, columns are left out: those without numbers first.
    #[command(visible_alias = "show", aliases = ["ls", "lst"], after_help = "Examples:\n  dataplane port list\n  dataplane port list -j | jq '.[].mode'")]
    List,
    Attach(Attach),
    Detach(Detach),
}

impl Port {
    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::Attach(attach) => return attach.dispatch(session),
            Self::Detach(detach) => return detach.dispatch(session),
            Self::List => {}
        }
        match session.call(&Request::PortList)? {
            Data::Ports(rows) if session.brief => session.print(&rows, || brief(&rows)),
            Data::Ports(rows) => session.print(&rows, || text(&rows, table::width())),
            data => Err(unexpected(&data)),
        }
    }
}

/// The state of a port, and what is left to the kernel.
fn state(row: &PortRow) -> String {
    match (&row.taken, row.ipsec) {
        (Some(by), _) => format!("{}, taken by {by}", row.state),
        _ if row.layer3.is_some() => format!("{}, kernel forwards", row.state),
        (None, true) => format!("{}, some IPsec", row.state),
        (None, false) => row.state.clone(),
    }
}

/// As `ip -br link` has it.
fn brief(rows: &[PortRow]) -> String {
    let lines = rows.iter().map(|row| [row.name.clone(), state(row), row.mode.clone(), dash(row.mac.as_ref())]);
    table::plain(lines)
}

/// The table of `port list`.
fn text(rows: &[PortRow], width: Option<usize>) -> String {
    let columns = [
        ("NAME", LEFT, 0),
        ("IFINDEX", RIGHT, 9),
        ("MODE", LEFT, 1),
        ("STATE", LEFT, 1),
        ("MAC", LEFT, 8),
        ("MTU", RIGHT, 7),
        ("VLAN", RIGHT, 6),
        ("RX", RIGHT, 0),
        ("FORWARDED", RIGHT, 0),
        ("DELIVERED", RIGHT, 0),
        ("DROPPED", RIGHT, 0),
        ("KERNEL", RIGHT, 0),
    ];
    let rows = rows.iter().map(|row| {
        [
            row.name.clone(),
            row.ifindex.to_string(),
            row.mode.clone(),
            state(row),
            dash(row.mac.as_ref()),
            row.mtu.to_string(),
            dash(row.vlan),
            row.counts.rx.to_string(),
            row.counts.forwarded.to_string(),
            row.counts.delivered.to_string(),
            row.counts.dropped.to_string(),
            row.counts.passed.to_string(),
        ]
    });
    table::fitting(columns, rows, width)
}
