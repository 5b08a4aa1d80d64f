//! Pins that somebody removes, and a BPF file system that somebody unmounts, while the daemon runs. It holds all that they
//! hold, so nothing is detached, and puts them back. Where it cannot, since it may not mount, that is said.

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

impl Daemon {
    /// Puts back what is not pinned any more. Each second, and before programs are loaded: these find their maps by the pins.
    pub(super) fn mend_pins(&mut self) {
        let (trouble, mended) = match self.try_to_mend() {
            Ok(mended) => (None, mended),
            Err(error) => (Some(error.to_string()), 0),
        };
        if mended > 0 {
            tracing::error!(
                "{mended} pins in {} were removed by somebody, and are there again; nothing was detached",
                self.bpffs.root().display()
            );
            self.pin_health.mended += mended;
        }
        if let Some(trouble) = &trouble
            && self.pin_health.trouble.is_none()
        {
            tracing::error!("{trouble}; {}", self.without_pins());
        }
        self.pin_health.trouble = trouble;
    }

    fn try_to_mend(&mut self) -> anyhow::Result<usize> {
        self.bpffs.mend()?;
        let mut mended = self.pins.mend()? + self.links.mend()?;
        if matches!(self.tx_error_status, Some(Ok(()))) && !self.tx_errors.are_observed() {
            // Made anew with the next port, or now.
            self.tx_error_status = None;
            mended += 1;
            self.observe_losses();
        }
        Ok(mended)
    }

    fn without_pins(&self) -> String {
        format!(
            "packets are forwarded and filtered as before, but only while this daemon runs: mount a BPF file system at {} \
             before it ends, and all is pinned there within a second",
            self.bpffs.root().display()
        )
    }

    /// For the doctor: where the daemon has its pins, and whether they are there.
    pub(super) fn pin_finding(&self) -> Finding {
        let root = self.bpffs.root().display();
        let (status, found, fix) = match (&self.pin_health.trouble, self.pin_health.mended) {
            (Some(trouble), _) => (
                Status::Fail,
                format!("{trouble}; {}", self.without_pins()),
                format!("mount -t bpf bpf {root}  # and give it to the daemon's user; do not stop the daemon before"),
            ),
            (None, 0) => (Status::Ok, format!("{root} is on a BPF file system, and has all pins"), String::new()),
            (None, mended) => (
                Status::Warn,
                format!("{mended} pins in {root} were removed by somebody, and were put back"),
                "find out who does that; nothing is detached as long as the daemon runs".to_owned(),
            ),
        };
        Finding { check: "bpffs".to_owned(), status, found, fix }
    }
}
