//! Calls that wait for the ring: those of peers who may change things first, the others in turn.
//!
//! Whatever readers ask for, half of the ring's time is not theirs: as long as it answered one of them, it rests from them.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{Daemon, large::Done};
use crate::{control::server::Call, netlink::Mirror};

/// How long a call waits for what the kernel said before it.
pub(super) const ANSWER: Duration = Duration::from_millis(50);

/// Longest rest from readers.
const REST: Duration = Duration::from_secs(1);

/// The calls that were taken over from the control socket. There are no more of them than connections.
#[derive(Debug)]
pub(super) struct Queue {
    first: VecDeque<Call>,
    readers: VecDeque<Call>,
    /// Until when readers wait.
    rest: Instant,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self { first: VecDeque::new(), readers: VecDeque::new(), rest: Instant::now() }
    }

    /// Takes over a call, and all that came behind it.
    pub(super) fn fill(&mut self, call: Call, waiting: &mut mpsc::Receiver<Call>) {
        self.put(call);
        while let Ok(call) = waiting.try_recv() {
            self.put(call);
        }
    }

    fn put(&mut self, call: Call) {
        if call.peer.may_change() { &mut self.first } else { &mut self.readers }.push_back(call);
    }

    /// When the next call can be answered; none while none waits.
    pub(super) fn due(&self) -> Option<Instant> {
        match (self.first.is_empty(), self.readers.is_empty()) {
            (false, _) => Some(Instant::now()),
            (true, false) => Some(self.rest),
            (true, true) => None,
        }
    }

    /// The next call whose caller still waits for it.
    pub(super) fn take(&mut self, now: Instant) -> Option<Call> {
        loop {
            let reader = self.first.is_empty();
            if reader && now < self.rest {
                return None;
            }
            let call = if reader { self.readers.pop_front() } else { self.first.pop_front() }?;
            if call.is_wanted() {
                return Some(call);
            }
            tracing::debug!(verb = call.request.verb(), peer = ?call.peer, "a peer left before it was its turn");
        }
    }

    /// A reader's call took the ring so long.
    pub(super) fn rest(&mut self, took: Duration) {
        self.rest = Instant::now() + took.min(REST);
    }
}

impl Daemon {
    /// Answers the next call; says whether the news up to it were followed.
    pub(super) fn serve_next(
        &mut self,
        queue: &mut Queue,
        mirror: &mut Mirror,
        done: &mpsc::UnboundedSender<Done>,
    ) -> anyhow::Result<bool> {
        let begun = Instant::now();
        let Some(call) = queue.take(begun) else { return Ok(false) };
        let (reader, first) = (!call.peer.may_change(), call.from.is_none());
        if first {
            // It is answered after what came before it, unless that is a long listing.
            match mirror.advance(ANSWER) {
                Ok(events) => self.on_events(events, mirror),
                Err(error) => tracing::error!("the kernel's tables cannot be read at the moment: {error}"),
            }
            self.finish_startup(mirror)?;
            if !self.observed.is_loading() {
                self.reconcile_if_touched();
            }
        }
        if let Some(call) = self.hand_over(call, done) {
            self.take(call);
        }
        if reader {
            queue.rest(begun.elapsed());
        }
        Ok(first && !self.observed.is_loading())
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::control::{
        page::Part,
        protocol::{Failure, Request},
        server::Peer,
    };

    type Answer = oneshot::Receiver<Result<Part, Failure>>;

    fn call(uid: u32, pid: i32) -> (Call, Answer) {
        let (reply, answer) = oneshot::channel();
        let peer = Peer { uid, gid: 0, pid: Some(pid) };
        (
            Call {
                request: Request::PortList,
                peer,
                from: None,
                stream: None,
                sockets: Vec::new(),
                reply,
                connection: None,
            },
            answer,
        )
    }

    fn taken(queue: &mut Queue, now: Instant) -> Vec<i32> {
        std::iter::from_fn(|| queue.take(now).and_then(|call| call.peer.pid)).collect()
    }

    #[test]
    fn writers_go_first_and_all_readers_are_served() {
        let (sender, mut waiting) = mpsc::channel(8);
        let mut queue = Queue::new();
        let (first, _one) = call(65534, 1);
        let behind = [call(65534, 2), call(0, 3), call(65534, 4), call(0, 5)];
        let _answers: Vec<_> = behind
            .into_iter()
            .map(|(call, answer)| {
                sender.try_send(call).expect("room");
                answer
            })
            .collect();
        assert_eq!(queue.due(), None);
        queue.fill(first, &mut waiting);
        assert_eq!(taken(&mut queue, Instant::now()), [3, 5, 1, 2, 4]);
    }

    #[test]
    fn readers_have_half_of_the_time() {
        let (mut queue, (reader, _one), (root, _other)) = (Queue::new(), call(65534, 1), call(0, 2));
        queue.put(reader);
        queue.rest(Duration::from_millis(500));
        assert!(queue.due().is_some_and(|due| due > Instant::now()));
        queue.put(root);
        assert!(queue.due().is_some_and(|due| due <= Instant::now()));
        assert_eq!(taken(&mut queue, Instant::now()), [2]);
        assert_eq!(taken(&mut queue, Instant::now() + REST), [1]);
    }

    #[test]
    fn closed_connections_are_not_answered() {
        let mut queue = Queue::new();
        let (gone, answer) = call(0, 1);
        drop(answer);
        let (still, _answer) = call(0, 2);
        queue.put(gone);
        queue.put(still);
        assert_eq!(taken(&mut queue, Instant::now()), [2]);
    }
}
