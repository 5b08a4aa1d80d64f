//! Requests that take long: they are done in threads of their own, on what was in force when they came, while the ring goes on.
//! How many readers may have at once is for the control socket to say.

use std::{sync::Arc, vec};

use tokio::{sync::mpsc, task::spawn_blocking};

use super::{
    Daemon, difference::difference, explain::Arrived, guard::answered, history, operate::parse, route_get::RouteAnswer,
};
use crate::{
    config::Config,
    control::{
        page::Part,
        protocol::{Data, Failure, Request},
        row::Explanation,
        server::Call,
        status::StatusRow,
    },
};

/// Frames that the ring explains in one turn.
const FRAMES: usize = 16;

/// What a thread has done for the ring, which goes on with it in pieces.
#[derive(Debug)]
pub(super) struct Done {
    call: Call,
    work: Work,
}

/// Frames that have arrived, and the config whose rules judge them, where that is not the one in force.
type Judged = (vec::IntoIter<Arrived>, Option<Arc<Config>>);

#[derive(Debug)]
enum Work {
    /// `explain`.
    Explain { arrived: Result<Judged, Failure>, explained: Vec<Explanation> },
    /// `route get`.
    Route(Result<Box<RouteAnswer>, Failure>),
}

impl Daemon {
    /// Has a call done elsewhere; gives it back where the ring does it.
    pub(super) fn hand_over(&mut self, call: Call, done: &mpsc::UnboundedSender<Done>) -> Option<Call> {
        match &call.request {
            request if self.refuses(request) => return Some(call),
            Request::ConfigDiff(_) => {
                let running = self.desired.running().clone();
                elsewhere(call, move |request| {
                    let Request::ConfigDiff(text) = request else { return Ok(Data::Done.into()) };
                    let wanted = parse(&text.path, &text.toml)?;
                    Ok(Data::Difference(difference(&running, &wanted)).into())
                });
            }
            Request::Status => {
                let (file, running, row) = (self.file.clone(), self.desired.running().clone(), self.status_row());
                elsewhere(call, move |_| Ok(Data::Status(StatusRow { config: file.compare(&running), ..row }).into()));
            }
            Request::ConfigShow => {
                let running = self.desired.running().clone();
                elsewhere(call, move |_| Ok(Data::Config(running.config().to_toml()).into()));
            }
            Request::ConfigHistory => {
                let (directory, history) = (self.store.path(""), self.store.history().clone());
                elsewhere(call, move |_| Ok(Data::History(history::rows(&directory, &history)).into()));
            }
            Request::Explain { iface, frames, config } => {
                let trip = match answered("explain", || self.send_off(iface, frames, config.is_none())) {
                    Ok(trip) => trip,
                    Err(failure) => {
                        reply(call, Err(failure));
                        return None;
                    }
                };
                let done = done.clone();
                spawn_blocking(move || {
                    let Request::Explain { frames, config, .. } = &call.request else { return };
                    let arrived = answered("explain", || {
                        let read = config.as_ref().map(|text| parse(&text.path, &text.toml).map(Arc::new));
                        let config = read.transpose()?;
                        Ok((trip.run(frames)?.into_iter(), config))
                    });
                    // Nobody takes it where the daemon ends.
                    let _ended = done.send(Done { call, work: Work::Explain { arrived, explained: Vec::new() } });
                });
            }
            Request::RouteGet { addr, from, iif } => {
                let run = match answered("route get", || self.route_query(*addr, *from, iif.as_deref())) {
                    Ok(run) => run,
                    Err(failure) => {
                        reply(call, Err(failure));
                        return None;
                    }
                };
                let done = done.clone();
                spawn_blocking(move || {
                    let answer = answered("route get", || run.run().map(Box::new));
                    let _ended = done.send(Done { call, work: Work::Route(answer) });
                });
            }
            Request::SocketList | Request::SteerList | Request::FlowList { .. } | Request::FlowDel { .. } => {
                self.list_elsewhere(call);
            }
            _ => return Some(call),
        }
        None
    }

    /// Has sockets, entries or connections listed elsewhere.
    fn list_elsewhere(&self, call: Call) {
        match &call.request {
            Request::SocketList => {
                let query = self.socket_query();
                elsewhere(call, move |_| query.run().map(Part::from));
            }
            Request::SteerList => {
                let query = self.steer_query(None);
                elsewhere(call, move |_| query.run().map(Part::from));
            }
            _ => {
                let query = self.flow_query();
                elsewhere(call, move |request| query.run(request).map(Part::from));
            }
        }
    }

    /// Goes on with what a thread has done: a piece of it, and the next one when nothing else is to do.
    pub(super) fn conclude(&mut self, doing: Done, done: &mpsc::UnboundedSender<Done>) {
        let Done { call, work } = doing;
        let (arrived, mut explained) = match work {
            Work::Explain { arrived, explained } => (arrived, explained),
            Work::Route(answer) => {
                return reply(call, answer.map(|answer| Data::Decision(self.decision(&answer)).into()));
            }
        };
        let (mut arrived, config) = match arrived {
            Ok(arrived) => arrived,
            Err(failure) => return reply(call, Err(failure)),
        };
        match answered("explain", || Ok(self.explain(arrived.by_ref().take(FRAMES), config.as_deref()))) {
            Ok(mut more) => explained.append(&mut more),
            Err(failure) => return reply(call, Err(failure)),
        }
        if arrived.len() == 0 {
            return reply(call, Ok(Data::Explanations(explained).into()));
        }
        if call.is_wanted() {
            let _ended = done.send(Done { call, work: Work::Explain { arrived: Ok((arrived, config)), explained } });
        }
    }
}

/// Does a call in a thread.
fn elsewhere(call: Call, work: impl FnOnce(&Request) -> Result<Part, Failure> + Send + 'static) {
    spawn_blocking(move || {
        let answer = if call.is_wanted() {
            answered(call.request.verb(), || work(&call.request))
        } else {
            return;
        };
        reply(call, answer);
    });
}

/// Answers a call.
pub(super) fn reply(call: Call, answer: Result<Part, Failure>) {
    if call.reply.send(answer).is_err() {
        tracing::debug!(verb = call.request.verb(), "a peer left before its answer came");
    }
}
