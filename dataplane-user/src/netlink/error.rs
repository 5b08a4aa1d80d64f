//! Why a netlink request failed.

use std::io;
use std::net::IpAddr;

/// Why the mirror does not know what the kernel has.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket.
    #[error("cannot open a netlink socket: {0}; raise the limit of open files, or allow AF_NETLINK to this service")]
    Open(#[source] io::Error),
    /// No announcements.
    #[error("cannot listen to netlink group {group}: {source}; the kernel needs it for the mirror")]
    Subscribe {
        /// The group.
        group: u32,
        /// The error of the kernel.
        source: io::Error,
    },
    /// A question was not taken.
    #[error("cannot list the kernel's {what}: {source}; try again")]
    Ask {
        /// Of what kind.
        what: &'static str,
        /// The error of the kernel.
        source: io::Error,
    },
    /// A question was refused.
    #[error("the kernel refuses to list its {what}: {source}; check that this kernel was built with it")]
    Refused {
        /// Of what kind.
        what: &'static str,
        /// The error of the kernel.
        source: io::Error,
    },
    /// Something was not written.
    #[error("the kernel does not take the {what}: {source}; it takes nf_tables in the kernel, and CAP_NET_ADMIN")]
    Write {
        /// What.
        what: &'static str,
        /// The error of the kernel.
        source: io::Error,
    },
    /// A routing table that is needed whole is another program's.
    #[error("routing table {0} has routes or rules of another program: give them another table")]
    TableInUse(u32),
    /// A neighbour was not probed.
    #[error("the kernel does not probe neighbour {address}: {source}; the daemon needs CAP_NET_ADMIN for that")]
    Probe {
        /// Which one.
        address: IpAddr,
        /// The error of the kernel.
        source: io::Error,
    },
    /// A read failed.
    #[error("cannot read from netlink: {0}; restart the daemon if this goes on")]
    Receive(#[source] io::Error),
    /// Something changed during each of many attempts to list it.
    #[error("the kernel's {what} changed during each of {attempts} attempts to list them; try again when it is calmer")]
    Unsettled {
        /// Of what kind.
        what: &'static str,
        /// How often it was tried.
        attempts: u32,
    },
}

impl Error {
    pub(super) fn open(source: io::Error) -> Self {
        Self::Open(source)
    }
}
