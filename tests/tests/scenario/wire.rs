//! Frames that a host of the picture sends as they are, and what comes out at the other one.

use std::{
    thread,
    time::{Duration, Instant},
};

use dataplane_common::wire::Mac;
use dataplane_tests::{
    fixture::packet::{Packet, between},
    lab::{CLIENT, Namespace, SERVER, traffic::Family},
    oracle::port::Port,
};

/// After so long without a frame no more are expected.
const SILENCE: Duration = Duration::from_millis(300);
/// The router's end towards the client.
pub const ROUTER: Mac = Mac([2, 0, 0, 0, 0, 1]);

/// A packet from the client to an address, in a frame for the router.
pub fn from_client(family: Family, target: &str) -> Packet {
    between(family.address(&CLIENT), target).to(ROUTER)
}

/// A packet from the client to the server.
pub fn crossing(family: Family) -> Packet {
    from_client(family, family.address(&SERVER))
}

/// The wire at an interface of a namespace.
pub fn wire(namespace: &Namespace, interface: &str) -> Port {
    namespace.inside(|| Port::open(interface)).expect("a packet socket")
}

/// How many frames that a test knows come out within a moment.
pub fn count(port: &mut Port, known: impl Fn(&[u8]) -> bool) -> usize {
    count_within(port, SILENCE, known)
}

/// The same with another moment.
pub fn count_within(port: &mut Port, silence: Duration, known: impl Fn(&[u8]) -> bool) -> usize {
    let (mut last, mut count) = (Instant::now(), 0);
    while last.elapsed() < silence {
        match port.receive().expect("frames are read") {
            Some(frame) if known(&frame) => {
                count += 1;
                last = Instant::now();
            }
            Some(_) => {}
            None => thread::sleep(Duration::from_millis(2)),
        }
    }
    count
}

/// Whether a frame holds some bytes.
pub fn holds(frame: &[u8], bytes: &[u8]) -> bool {
    frame.windows(bytes.len()).any(|window| window == bytes)
}
