//! Grace periods that do not take long, while many links are made.
//!
//! For each link at tc the kernel waits for a grace period of RCU under the lock that all links share (`tcx_entry_sync` in
//! include/net/tcx.h): some 13 ms, one after the other, however many threads ask for them. What else it waits for under that
//! lock it expedites of its own accord (`synchronize_net`), except where the kernel is a real-time one, and so does this here:
//! `/sys/kernel/rcu_expedited` is set as long as a batch of links takes. Who forbids it (`/sys/kernel/rcu_normal`, or no right
//! to write the file) has slower batches, and nothing else.

use std::{
    cell::{Cell, OnceCell},
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    rc::Rc,
};

/// Whether the kernel expedites all grace periods.
const EXPEDITED: &str = "/sys/kernel/rcu_expedited";
/// Whether it expedites none, whatever else is said.
const NORMAL: &str = "/sys/kernel/rcu_normal";
/// There, with a 1, on kernels that promise times.
const REALTIME: &str = "/sys/kernel/realtime";

/// So many links of a batch are made as slowly as one alone.
const FEW: usize = 3;

/// The switch of the kernel, as this daemon may use it.
#[derive(Debug, Default)]
pub struct Haste {
    switch: Option<File>,
    /// A directory, there while the switch is on: a daemon that is killed meanwhile leaves it to the next one.
    mark: OnceCell<PathBuf>,
    /// How many batches are under way, one inside the other.
    batches: Cell<usize>,
    /// How many links they made so far.
    links: Cell<usize>,
    /// Whether the switch is on by us.
    on: Cell<bool>,
}

impl Haste {
    /// Opens the switch; that takes root's user.
    pub fn open() -> Self {
        if is_set(REALTIME) {
            return Self::default();
        }
        let switch = File::options().read(true).write(true).open(EXPEDITED);
        let switch = switch.inspect_err(|error| tracing::debug!("{EXPEDITED} stays as it is: {error}"));
        Self { switch: switch.ok(), ..Self::default() }
    }

    /// Says where it is noted that the switch is on, and turns it off where a daemon that is no more left it so.
    pub fn noted_in(&self, root: &Path) {
        let mark = self.mark.get_or_init(|| mark(root));
        if mark.exists() {
            self.turn(false);
        }
    }

    /// Links are to be made, until what this gives is dropped.
    pub fn begin(self: &Rc<Self>) -> Batch {
        self.batches.set(self.batches.get() + 1);
        Batch(Some(Rc::clone(self)))
    }

    /// One is made now.
    pub(super) fn note_link(&self) {
        if self.batches.get() == 0 || self.on.get() {
            return;
        }
        self.links.set(self.links.get() + 1);
        if self.links.get() > FEW && !is_set(EXPEDITED) && !is_set(NORMAL) {
            self.turn(true);
        }
    }

    fn end(&self) {
        self.batches.set(self.batches.get() - 1);
        if self.batches.get() == 0 {
            self.links.set(0);
            if self.on.get() {
                self.turn(false);
            }
        }
    }

    /// The mark is there from before the switch is on until it is off.
    fn turn(&self, on: bool) {
        let (Some(switch), Some(mark)) = (&self.switch, self.mark.get()) else { return };
        let write = |word: &[u8]| switch.write_all_at(word, 0);
        let done = if on {
            made(fs::create_dir(mark)).and_then(|()| write(b"1"))
        } else {
            write(b"0").and_then(|()| fs::remove_dir(mark))
        };
        self.on.set(on && done.is_ok());
        if let Err(error) = done {
            tracing::debug!("{EXPEDITED} cannot be written: {error}");
        }
    }
}

/// Links that are made; the haste ends with it.
#[derive(Debug, Default)]
#[must_use = "the haste ends with it"]
pub struct Batch(Option<Rc<Haste>>);

impl Drop for Batch {
    fn drop(&mut self) {
        if let Some(haste) = &self.0 {
            haste.end();
        }
    }
}

/// Where it is noted that the switch is on.
pub(super) fn mark(root: &Path) -> PathBuf {
    root.join("expedited")
}

fn is_set(switch: &str) -> bool {
    fs::read_to_string(switch).is_ok_and(|word| word.trim() != "0")
}

fn made(done: io::Result<()>) -> io::Result<()> {
    done.or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A switch that is a plain file.
    fn haste(directory: &Path) -> (Rc<Haste>, PathBuf) {
        let path = directory.join("switch");
        fs::write(&path, "0").expect("a file");
        let switch = File::options().read(true).write(true).open(&path).expect("the file");
        let haste = Rc::new(Haste { switch: Some(switch), ..Haste::default() });
        haste.noted_in(directory);
        (haste, path)
    }

    fn said(path: &Path) -> String {
        fs::read_to_string(path).expect("the switch")
    }

    #[test]
    fn many_links_are_made_in_haste_and_few_are_not() {
        if is_set(EXPEDITED) || is_set(NORMAL) {
            return;
        }
        let directory = tempfile::tempdir().expect("a directory");
        let (haste, switch) = haste(directory.path());
        let (mark, batch) = (mark(directory.path()), haste.begin());
        (0..FEW).for_each(|_| haste.note_link());
        assert_eq!((said(&switch).as_str(), mark.exists()), ("0", false));
        haste.note_link();
        assert_eq!((said(&switch).as_str(), mark.exists()), ("1", true));
        // One batch inside another does not end it.
        drop(haste.begin());
        assert_eq!(said(&switch), "1");
        drop(batch);
        assert_eq!((said(&switch).as_str(), mark.exists()), ("0", false));
        // Nor does one that came to nothing leave something to the next.
        let _batch = haste.begin();
        haste.note_link();
        assert_eq!(said(&switch), "0");
    }

    #[test]
    fn links_one_by_one_are_made_as_ever() {
        let directory = tempfile::tempdir().expect("a directory");
        let (haste, switch) = haste(directory.path());
        for _ in 0..2 * FEW {
            let _batch = haste.begin();
            haste.note_link();
        }
        (0..2 * FEW).for_each(|_| haste.note_link());
        assert_eq!(said(&switch), "0");
    }

    #[test]
    fn what_a_killed_daemon_left_on_is_turned_off() {
        let directory = tempfile::tempdir().expect("a directory");
        let (_, switch) = haste(directory.path());
        fs::write(&switch, "1").expect("the switch");
        let anew = || {
            let switch = File::options().read(true).write(true).open(&switch).expect("the file");
            Haste { switch: Some(switch), ..Haste::default() }.noted_in(directory.path());
        };
        // Another's word stays.
        anew();
        assert_eq!(said(&switch), "1");
        fs::create_dir(mark(directory.path())).expect("a mark");
        anew();
        assert_eq!((said(&switch).as_str(), mark(directory.path()).exists()), ("0", false));
    }
}
