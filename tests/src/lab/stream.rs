//! A numbered stream of datagrams from the client to the server, while something is done to the router.

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};

use super::{
    Lab,
    traffic::{Family, sockets},
};

/// The most datagrams sent between two looks at the clock.
const BURST: u64 = 64;
/// What is overdue by more than so many, after the sender was held up, is not sent.
const OVERDUE: u64 = 1024;
/// The most datagrams on their way: queues on the way are longer than that (a veth's has 256 places), so a machine that is busy
/// with something else slows the stream down, and looks like no loss.
const WINDOW: u64 = 128;
/// How long the sender waits for room without sleeping: a sleep takes longer than the receiver needs.
const SPIN: Duration = Duration::from_micros(200);
/// After so long without an arrival those on their way are taken to be lost.
const LOST: Duration = Duration::from_millis(60);
/// After so long without a datagram no more are expected.
const SILENCE: Duration = Duration::from_millis(500);

/// A stream on its way.
#[derive(Debug)]
pub struct Stream {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<anyhow::Result<u64>>,
    receiver: JoinHandle<Arrivals>,
    start: Instant,
}

/// What a stream came to.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Tally {
    /// Datagrams sent.
    pub sent: u64,
    /// Those that never arrived.
    pub lost: u64,
    /// Those that arrived again.
    pub repeated: u64,
    /// Datagrams sent per second.
    pub rate: f64,
}

#[derive(Debug, Default)]
struct Arrivals {
    seen: Vec<bool>,
    repeated: u64,
}

/// Starts a stream of `rate` datagrams per second to a port of the server.
pub fn stream(lab: &Lab, family: Family, port: u16, rate: u64) -> anyhow::Result<Stream> {
    let (source, sink) = sockets(lab, family, port)?;
    sink.set_read_timeout(Some(SILENCE))?;
    let stop = Arc::new(AtomicBool::new(false));
    let next = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let sender = thread::spawn({
        let (stop, next) = (Arc::clone(&stop), Arc::clone(&next));
        move || send(&source, rate, &stop, &next)
    });
    let receiver = thread::spawn({
        let stop = Arc::clone(&stop);
        move || receive(&sink, &stop, &next)
    });
    Ok(Stream { stop, sender, receiver, start })
}

impl Stream {
    /// Ends the stream, waits for what is on its way, and counts.
    pub fn finish(self) -> anyhow::Result<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        let length = self.start.elapsed().as_secs_f64();
        let sent = self.sender.join().map_err(|_| anyhow!("the sender panicked"))??;
        let arrivals = self.receiver.join().map_err(|_| anyhow!("the receiver panicked"))?;
        let arrived = arrivals.seen.iter().filter(|seen| **seen).count() as u64;
        #[expect(clippy::cast_precision_loss, reason = "no stream has 2^52 datagrams")]
        let rate = sent as f64 / length;
        Ok(Tally { sent, lost: sent - arrived, repeated: arrivals.repeated, rate })
    }
}

/// Sends until told to stop; how many were sent. `next` is the number behind the highest that arrived.
fn send(socket: &UdpSocket, rate: u64, stop: &AtomicBool, next: &AtomicU64) -> anyhow::Result<u64> {
    let (mut sent, mut missed, mut given_up) = (0, 0, 0);
    let start = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let due = u64::try_from(start.elapsed().as_micros())? * rate / 1_000_000;
        let behind = due.saturating_sub(sent + missed);
        missed += behind.saturating_sub(OVERDUE);
        for _ in 0..behind.min(BURST) {
            let full = Instant::now();
            while sent - next.load(Ordering::Relaxed).max(given_up) >= WINDOW {
                let waited = full.elapsed();
                if waited > LOST {
                    given_up = sent;
                } else if waited > SPIN {
                    thread::sleep(Duration::from_micros(100));
                } else {
                    thread::yield_now();
                }
            }
            socket.send(&sent.to_be_bytes()).context("can not send a datagram of the stream")?;
            sent += 1;
        }
        if behind < BURST {
            thread::sleep(Duration::from_micros(200));
        }
    }
    Ok(sent)
}

fn receive(socket: &UdpSocket, stop: &AtomicBool, next: &AtomicU64) -> Arrivals {
    let mut arrivals = Arrivals::default();
    let mut datagram = [0; 8];
    loop {
        let Ok(8) = socket.recv(&mut datagram) else {
            if stop.load(Ordering::Relaxed) {
                return arrivals;
            }
            continue;
        };
        // A number too large for this machine is not one of ours.
        let Ok(number) = usize::try_from(u64::from_be_bytes(datagram)) else { continue };
        if arrivals.seen.len() <= number {
            arrivals.seen.resize(number + 1, false);
        }
        arrivals.repeated += u64::from(std::mem::replace(&mut arrivals.seen[number], true));
        next.fetch_max(number as u64 + 1, Ordering::Relaxed);
    }
}
