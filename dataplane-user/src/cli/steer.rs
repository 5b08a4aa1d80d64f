//! `dataplane steer`.

use std::{
    env,
    os::fd::{AsFd as _, OwnedFd},
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use super::{
    process::{Processes, descriptor},
    session::{Session, unexpected},
    table::{LEFT, RIGHT, dash, table},
};
use crate::{
    control::{
        open_socket::SocketEnd,
        protocol::{Data, Failure, FailureKind, Request},
        steer::SteerRow,
    },
    steer::{Entry, Origin, parse},
};

#[derive(Debug, Subcommand)]
#[command(
    after_help = "Examples:\n  dataplane steer list\n  dataplane steer add tcp 198.18.7.0/24 port 1-1000 to listen :4000\n  dataplane steer del 1"
)]
pub(super) enum Steer {
    /// List the entries with their sockets and how often they matched
    #[command(visible_alias = "show", aliases = ["ls", "lst"], after_help = "Examples:\n  dataplane steer list\n  dataplane steer list -j | jq '.[] | select(.socket == null)'")]
    List,
    Add(Add),
    Replace(Replace),
    /// Give sockets to entries that have none, from where their sockets came
    ///
    /// Entries of the config have no socket until this runs: after the server has started, in its unit's `ExecStartPost`.
    #[command(after_help = "Example:\n  dataplane steer renew")]
    Renew,
    /// Steer no more what an entry matches
    #[command(aliases = ["delete", "rm"], after_help = "Example:\n  dataplane steer del 1")]
    Del {
        /// Number of the entry, as `steer list` shows it
        id: u32,
    },
}

/// Give new connections and datagrams to a socket that is bound to another address
///
/// ENTRY is `tcp|udp PREFIX port A[-B] to SOCKET [or drop]`. SOCKET is `listen [ADDR]:PORT [pid PID]`, a socket of a process by
/// its address; `pid PID fd N`, by its descriptor; `fd N`, a descriptor that this command was given; `systemd NAME`, a socket
/// that systemd handed to the unit that runs this command. Of entries that overlap the longest prefix decides, then the narrowest
/// range of ports. When the socket is closed, packets go where they would go without the entry; with `or drop` they go to no
/// socket.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dataplane steer add tcp 198.18.7.0/24 port 1-1000 to listen :4000\n  dataplane steer add udp 2001:db8:7::/64 port 53 to pid 812 fd 4 or drop"
)]
pub(super) struct Add {
    /// What is steered, and to which socket
    #[arg(value_name = "ENTRY", required = true)]
    entry: Vec<String>,
}

/// Give an entry another socket, or add it
///
/// No connection is refused meanwhile. See `dataplane steer add --help`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dataplane steer replace tcp 198.18.7.0/24 port 80 to listen :4001")]
pub(super) struct Replace {
    /// What is steered, and to which socket
    #[arg(value_name = "ENTRY", required = true)]
    entry: Vec<String>,
}

impl Steer {
    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::List => show(session, session.call(&Request::SteerList)?),
            Self::Add(Add { entry }) => add(session, &entry.join(" "), false),
            Self::Replace(Replace { entry }) => add(session, &entry.join(" "), true),
            Self::Renew => renew(session),
            Self::Del { id } => session.change(&Request::SteerDel { id }),
        }
    }
}

fn add(session: &Session, text: &str, replace: bool) -> anyhow::Result<()> {
    let (entry, origin) = parse(text).map_err(|error| Failure::new(FailureKind::Usage, error.to_string()))?;
    let socket = socket(session, &entry, &origin)?;
    let request = Request::SteerAdd { entry: text.to_owned(), replace };
    let data = session.call_with(&request, &[socket.as_fd()])?;
    if session.json {
        return show(session, data);
    }
    match data {
        Data::Steer(_) => Ok(()),
        data => Err(unexpected(&data)),
    }
}

/// Looks for the sockets of entries that have none.
fn renew(session: &Session) -> anyhow::Result<()> {
    let Data::Steer(rows) = session.call(&Request::SteerList)? else { anyhow::bail!("no entries are listed") };
    for row in rows.iter().filter(|row| row.socket.is_none()) {
        let or_drop = if row.or_drop { " or drop" } else { "" };
        let text = format!("{} to {}{or_drop}", row.matches, row.to);
        add(session, &text, true).with_context(|| format!("entry {}", row.id))?;
    }
    Ok(())
}

/// The socket for the daemon.
fn socket(session: &Session, entry: &Entry, origin: &Origin) -> anyhow::Result<OwnedFd> {
    match origin {
        Origin::Process { pid, fd } => taken(*pid, *fd),
        Origin::Own(fd) => own(*fd),
        Origin::Bound { .. } => {
            let (pid, fd) = holder(session, entry, origin)?;
            taken(pid, fd)
        }
        Origin::Systemd(name) => own(handed_over(name)?),
    }
}

/// A copy of a descriptor that this command was given.
fn own(fd: i32) -> anyhow::Result<OwnedFd> {
    let own = pidfd_open(getpid(), PidfdFlags::empty()).context("cannot open this process")?;
    let socket = pidfd_getfd(own, fd, PidfdGetfdFlags::empty());
    socket.with_context(|| format!("this command was given no descriptor {fd}"))
}

/// The descriptor that systemd handed over under a name (`sd_listen_fds_with_names(3)`).
fn handed_over(name: &str) -> anyhow::Result<i32> {
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let place = names.split(':').position(|own| own == name);
    place.and_then(|place| Some(3 + i32::try_from(place).ok()?)).ok_or_else(|| {
        let message = format!("systemd handed over no socket named {name}: LISTEN_FDNAMES is `{names}`");
        Failure::new(FailureKind::NotFound, message).into()
    })
}

/// A copy of a descriptor of another process.
fn taken(pid: u32, fd: i32) -> anyhow::Result<OwnedFd> {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let process = number.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let process = process.ok_or_else(|| {
        Failure::new(FailureKind::NotFound, format!("there is no process {pid}; `ss -ltunp` lists them"))
    })?;
    pidfd_getfd(process, fd, PidfdGetfdFlags::empty())
        .with_context(|| format!("cannot take descriptor {fd} of process {pid}; it takes root"))
}

/// The process that has a socket bound to an address, and its descriptor.
fn holder(session: &Session, entry: &Entry, origin: &Origin) -> anyhow::Result<(u32, i32)> {
    let Origin::Bound { address, port, pid } = *origin else { anyhow::bail!("`{origin}` names no address") };
    let Data::Sockets(mut rows) = session.call(&Request::SocketList)? else { anyhow::bail!("no sockets are listed") };
    rows.retain(|row| {
        row.proto == entry.protocol_word()
            && row.port == Some(port)
            && address.is_none_or(|address| row.address == address)
    });
    let mut processes = Processes::default();
    for row in &mut rows {
        processes.complete_row(row);
        let owners = row.processes.iter().map(|process| process.pid).filter(|own| pid.is_none_or(|pid| pid == *own));
        let mut found =
            owners.flat_map(|pid| row.inodes.iter().filter_map(move |inode| Some((pid, descriptor(pid, *inode)?))));
        if let Some(found) = found.next() {
            return Ok(found);
        }
    }
    let what = if rows.is_empty() {
        format!("no socket of {} is bound like this", entry.protocol_word())
    } else {
        "no process that is visible here has it open; it takes root".to_owned()
    };
    let message = format!("{origin}: {what}; `dataplane socket list` shows sockets and processes");
    Err(Failure::new(FailureKind::NotFound, message).into())
}

fn show(session: &Session, data: Data) -> anyhow::Result<()> {
    let Data::Steer(mut rows) = data else { return Err(unexpected(&data)) };
    let mut processes = Processes::default();
    for row in &mut rows {
        let Some(socket) = &mut row.socket else { continue };
        processes.complete_end(socket);
        row.process = socket.processes.first().map(|process| format!("{} {}", process.name, process.pid));
    }
    session.print(&rows, || text(&rows))
}

fn text(rows: &[SteerRow]) -> String {
    let columns = [
        ("ID", RIGHT),
        ("MATCHES", LEFT),
        ("SOCKET", LEFT),
        ("PROCESS", LEFT),
        ("WITHOUT", LEFT),
        ("STEERED", RIGHT),
        ("PASSED", RIGHT),
        ("DROPPED", RIGHT),
    ];
    table(columns, rows.iter().map(cells))
}

fn cells(row: &SteerRow) -> [String; 8] {
    [
        row.id.to_string(),
        row.matches.clone(),
        row.socket.as_ref().map_or_else(|| format!("closed ({})", row.to), SocketEnd::at),
        dash(row.process.as_deref()),
        if row.or_drop { "drop" } else { "pass" }.to_owned(),
        row.steered.to_string(),
        row.passed.to_string(),
        row.dropped.to_string(),
    ]
}
