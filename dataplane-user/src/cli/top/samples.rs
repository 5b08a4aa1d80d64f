//! Live packets for the screen: some of those that fit a filter, watched for in a thread of their own.

use std::{
    path::Path,
    sync::mpsc::{self, Receiver},
    thread,
};

use crate::{
    cli::trace,
    control::{
        client::{Client, HangUp},
        protocol::{Data, Failure, Request},
    },
};

/// Packets that are shown.
pub(super) const ENOUGH: usize = 5;

/// What is there to tell: lines of a packet, or why there are none.
#[derive(Debug)]
pub(super) enum Said {
    Packet(String),
    Trouble(String),
}

/// A watch. Dropped, it ends.
#[derive(Debug)]
pub(super) struct Samples {
    said: Receiver<Said>,
    _connection: Option<HangUp>,
}

impl Samples {
    /// Begins to watch for packets.
    pub(super) fn begin(socket: &Path, filter: String) -> Self {
        let (sender, said) = mpsc::channel();
        let connection = match open(socket, filter) {
            Ok((mut client, connection)) => {
                // It ends with the connection.
                thread::spawn(move || {
                    for _ in 0..ENOUGH {
                        let said = match client.follow() {
                            Ok(Some(Data::Packet(row))) => Said::Packet(trace::text(&row)),
                            Ok(Some(_)) => continue,
                            Ok(None) | Err(_) => return,
                        };
                        if sender.send(said).is_err() {
                            return;
                        }
                    }
                });
                Some(connection)
            }
            Err(failure) => {
                // No other thread reads it.
                let _sent = sender.send(Said::Trouble(failure.to_string()));
                None
            }
        };
        Self { said, _connection: connection }
    }

    /// Gives what has come.
    pub(super) fn take(&self, tell: impl FnMut(Said)) {
        self.said.try_iter().for_each(tell);
    }
}

fn open(socket: &Path, filter: String) -> Result<(Client, HangUp), Failure> {
    let mut client = Client::connect(socket)?;
    client.call(&Request::Trace { filter, one_in: 1, bytes: 0 })?;
    let connection = client.hang_up()?;
    Ok((client, connection))
}
