//! Pins that somebody removes, and a BPF file system that somebody unmounts, while the daemon runs. It holds all that they
//! hold, so nothing is detached, and puts them back. Where it cannot, since it may not mount, that is said.

use std::path::Path;

use super::Daemon;
use crate::control::row::{Finding, Status};

/// What the daemon knows of its pins.
#[derive(Debug, Default)]
pub(super) struct PinHealth {
    /// Why they cannot be put back.
    trouble: Option<String>,
    /// How many were put back.
    mended: usize,
}

impl PinHealth {
    /// Pins were looked at: so many were put back, or that could not be done.
    pub(super) fn note(&mut self, done: Result<usize, String>, root: &Path) {
        let (trouble, mended) = match done {
            Ok(mended) => (None, mended),
            Err(error) => (Some(error), 0),
        };
        if mended > 0 {
            tracing::error!(
                "{mended} pins in {} were removed by another program, and are there again; nothing was detached",
                root.display()
            );
            self.mended += mended;
        }
        if let Some(trouble) = &trouble
            && self.trouble.is_none()
        {
            tracing::error!("{trouble}; {}", without_pins(root));
        }
        self.trouble = trouble;
    }

    /// Why they cannot be put back, and how many were.
    pub(super) fn state(&self) -> (Option<&str>, usize) {
        (self.trouble.as_deref(), self.mended)
    }
}

fn without_pins(root: &Path) -> String {
    format!(
        "packets are forwarded and filtered as before, but only while this daemon runs: mount a BPF file system at {} \
         before it ends, and all is pinned there within a second",
        root.display()
    )
}

impl Daemon {
    /// For the doctor: where the daemon has its pins, and whether they are there.
    pub(super) fn pin_finding(&self) -> Finding {
        let root = self.plane.root().display();
        let (status, found, fix) = match self.plane.pins() {
            (Some(trouble), _) => (
                Status::Fail,
                format!("{trouble}; {}", without_pins(self.plane.root())),
                format!("mount -t bpf bpf {root}  # and give it to the daemon's user; do not stop the daemon before"),
            ),
            (None, 0) => (Status::Ok, format!("{root} is on a BPF file system, and has all pins"), String::new()),
            (None, mended) => (
                Status::Warn,
                format!("{mended} pins in {root} were removed by another program, and were pinned again"),
                "find out who does that; nothing is detached as long as the daemon runs".to_owned(),
            ),
        };
        Finding { check: "bpffs".to_owned(), status, found, fix }
    }
}
