//! The far end of one of the router's ports: frames go in as they are, and whatever comes out is read. Or its `lo`, which is
//! only read.

use std::os::fd::OwnedFd;

use anyhow::Context as _;
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType,
        addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque},
        bind,
        netdevice::name_to_index,
        recv, send, socket_with,
        sockopt::set_socket_recv_buffer_size_force,
    },
};

/// Bytes of the receive buffer: several batches, so that nothing is lost for want of room.
const ROOM: usize = 64 << 20;
/// `ETH_P_ALL` (`include/uapi/linux/if_ether.h`): whatever passes the interface.
const ALL: u16 = 3;
/// `ETH_P_IPV6`: what the interface receives of it; for all protocols only, a socket sees what is sent, too.
const IPV6: u16 = 0x86dd;
/// Bytes of the longest frame that can be read: a segment of 64 KiB, should one ever be merged.
const LONGEST: usize = 70 << 10;

/// `struct sockaddr_ll` (`include/uapi/linux/if_packet.h`): which interface, and which protocol.
#[repr(C)]
struct LinkAddress {
    family: u16,
    protocol: [u8; 2],
    ifindex: i32,
    hardware: u16,
    kind: u8,
    length: u8,
    address: [u8; 8],
}

// SAFETY: the pointer is to a whole `sockaddr_ll`, which lives until the function has returned.
#[expect(unsafe_code, reason = "rustix has no address of packet sockets")]
unsafe impl SocketAddrArg for LinkAddress {
    unsafe fn with_sockaddr<R>(&self, function: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        function((&raw const *self).cast(), size_of::<Self>() as SocketAddrLen)
    }
}

/// A packet socket. One for both directions: so it does not see what it sends itself.
pub struct Port {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Port {
    /// Of the interface of that name in the namespace of the calling thread.
    pub fn open(name: &str) -> anyhow::Result<Self> {
        Self::of(name, ALL)
    }

    /// What the namespace of the calling thread sends to itself in IPv6, each packet once. An Ethernet header of zeros and the
    /// type comes first.
    pub fn inward() -> anyhow::Result<Self> {
        Self::of("lo", IPV6)
    }

    fn of(name: &str, protocol: u16) -> anyhow::Result<Self> {
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::NONBLOCK, None)
            .context("can not open a packet socket")?;
        set_socket_recv_buffer_size_force(&socket, ROOM).context("can not enlarge a packet socket's buffer")?;
        let ifindex = name_to_index(&socket, name).with_context(|| format!("there is no interface {name}"))?;
        let address = LinkAddress {
            family: AddressFamily::PACKET.as_raw(),
            protocol: protocol.to_be_bytes(),
            ifindex: i32::try_from(ifindex)?,
            hardware: 0,
            kind: 0,
            length: 0,
            address: [0; 8],
        };
        bind(&socket, &address).with_context(|| format!("can not bind a packet socket to {name}"))?;
        Ok(Self { socket, buffer: vec![0; LONGEST] })
    }

    /// Sends a frame; `false` if the device does not take frames of its length.
    pub fn send(&self, frame: &[u8]) -> anyhow::Result<bool> {
        match send(&self.socket, frame, SendFlags::empty()) {
            // The device's queue is full, that is: the ring of the router's end. It is emptied before the call returns.
            Ok(_) | Err(Errno::NOBUFS) => Ok(true),
            Err(Errno::MSGSIZE | Errno::INVAL) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("can not send a frame of {} bytes", frame.len())),
        }
    }

    /// The next frame that came out, if there is one now.
    pub fn receive(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        loop {
            match recv(&self.socket, self.buffer.as_mut_slice(), RecvFlags::TRUNC) {
                Ok((_, length)) => return Ok(Some(self.buffer[..length.min(LONGEST)].to_vec())),
                Err(Errno::WOULDBLOCK) => return Ok(None),
                // The interface went down for a moment: said once.
                Err(Errno::NETDOWN | Errno::INTR) => {}
                Err(error) => return Err(error).context("can not read from a packet socket"),
            }
        }
    }
}
