//! A daemon without a data plane: the real server, and a ring that answers from a function.
#![allow(dead_code, clippy::allow_attributes, reason = "each test binary uses a part of it")]

use std::{
    path::PathBuf,
    process::{Command, Output},
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use dataplane_user::control::{
    page::Part,
    protocol::{Failure, Reply, Request},
    server::{Call, Limits, Server},
};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};

/// A daemon that runs until it is dropped.
pub(crate) struct Daemon {
    /// Where it listens.
    pub(crate) socket: PathBuf,
    calls: Arc<Mutex<Vec<Request>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _directory: TempDir,
}

/// A directory of the test's own.
pub(crate) fn directory() -> TempDir {
    tempfile::Builder::new().prefix("dataplane-").tempdir().expect("a temporary directory")
}

/// A runtime as the daemon has it.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

impl Daemon {
    /// Answers every request that gets through to the ring with what `answer` says.
    pub(crate) fn start(answer: impl Fn(&Request) -> Result<Reply, Failure> + Send + 'static) -> Self {
        Self::start_with(Limits::default(), move |call| {
            let answer = answer(&call.request).map(Part::from);
            let _ = call.reply.send(answer);
        })
    }

    /// The same with other limits, and with the whole call.
    pub(crate) fn start_with(limits: Limits, ring: impl Fn(Call) + Send + 'static) -> Self {
        let directory = directory();
        let socket = directory.path().join("run/dataplane.sock");
        let path = socket.clone();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&calls);
        let (stop, stopped) = oneshot::channel();
        let (ready, started) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            runtime().block_on(async {
                let server = Server::bind(&path).expect("a socket").with_limits(limits);
                ready.send(()).expect("the test waits");
                let (sender, mut receiver) = mpsc::channel(8);
                let turn = async {
                    while let Some(call) = receiver.recv().await {
                        let call: Call = call;
                        seen.lock().expect("no panic").push(call.request.clone());
                        ring(call);
                    }
                };
                tokio::select! {
                    () = server.serve(sender) => {}
                    () = turn => {}
                    _ = stopped => {}
                }
            });
        });
        started.recv().expect("the daemon starts");
        Self { socket, calls, stop: Some(stop), thread: Some(thread), _directory: directory }
    }

    /// The requests that reached the ring since the last time.
    pub(crate) fn take_calls(&self) -> Vec<Request> {
        std::mem::take(&mut *self.calls.lock().expect("no panic"))
    }

    /// Runs the binary against this daemon.
    pub(crate) fn dataplane(&self, args: &[&str]) -> Output {
        dataplane().env("DATAPLANE_SOCKET", &self.socket).args(args).output().expect("the binary runs")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The binary, or that of `DATAPLANE_BIN`, with no daemon to be found.
pub(crate) fn dataplane() -> Command {
    let built = env!("CARGO_BIN_EXE_dataplane").into();
    let mut command = Command::new(std::env::var_os("DATAPLANE_BIN").unwrap_or(built));
    command
        .env("DATAPLANE_SOCKET", "/nonexistent/dataplane.sock")
        .env_remove("RUST_LOG")
        .env_remove("SSH_CONNECTION")
        .env("COLUMNS", "120");
    command
}

/// What a process printed.
pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}
