//! What keeps our programs attached: one pinned link for each port and hook, or a filter of tc on kernels without such links.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

use aya::{
    pin::PinError,
    programs::{
        LinkOrder, ProgramError, TcAttachType, XdpMode,
        links::{FdLink, LinkError as AyaLinkError, PinnedLink},
        tc::{SchedClassifierLink, TcAttachOptions},
        xdp::XdpLink,
    },
    sys::SyscallError,
};
use dataplane_common::abi::Ifindex;
use thiserror::Error;

use super::{
    Batch, Haste, Object, ObjectError,
    bpffs::is_bpffs,
    clsact::{self, Clsact},
    object::chain,
};

/// How long a link whose pin was removed may still hold its place: the kernel lets go of it after an RCU grace period
/// (`bpf_free_inode` in kernel/bpf/inode.c).
const PARTING: Duration = Duration::from_millis(100);

/// Where a program is attached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Hook {
    /// At the driver.
    Xdp,
    /// In the kernel's stand-in for drivers without XDP.
    Generic,
    /// tc ingress.
    TcIngress,
    /// tc ingress behind XDP.
    TcBehindXdp,
    /// tc egress.
    TcEgress,
}

impl Hook {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Xdp, Self::Generic, Self::TcIngress, Self::TcBehindXdp, Self::TcEgress];

    /// Name of its program in the object.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Xdp => "ingress",
            Self::Generic => "ingress_generic",
            Self::TcIngress => "tc_ingress",
            Self::TcBehindXdp => "tc_behind_xdp",
            Self::TcEgress => "tc_egress",
        }
    }

    /// Whether it is at XDP.
    pub const fn is_xdp(self) -> bool {
        matches!(self, Self::Xdp | Self::Generic)
    }

    /// Whether two hooks are one place, where one program takes the other's.
    pub fn shares_place(self, other: Self) -> bool {
        self.name() == other.name()
    }

    /// Name in pins.
    const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Generic => "generic",
            Self::TcIngress | Self::TcBehindXdp => "ingress",
            Self::TcEgress => "egress",
        }
    }

    /// The side of tc; `None`: not at tc.
    fn side(self) -> Option<TcAttachType> {
        match self {
            Self::Xdp | Self::Generic => None,
            Self::TcIngress | Self::TcBehindXdp => Some(TcAttachType::Ingress),
            Self::TcEgress => Some(TcAttachType::Egress),
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| hook.name() == name)
    }
}

/// Why a program is not attached.
#[derive(Debug, Error)]
pub enum LinkError {
    /// An XDP program of another owner is there.
    #[error("another XDP program is attached")]
    Busy,
    /// The device went away meanwhile.
    #[error("the device is gone")]
    Gone,
    /// The driver, or the device in its present state, does not take the program.
    #[error("the device refuses it: {0}")]
    Unsupported(io::Error),
    /// Any other error of the kernel.
    #[error("the kernel refuses: {}", chain(.0))]
    Program(ProgramError),
    /// The link could not be pinned.
    #[error("cannot pin the link: {0}")]
    Pin(#[from] PinError),
    /// The object lacks the program.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// A pin could not be read or removed.
    #[error("cannot use pin {path}: {error}")]
    Path {
        /// Which pin.
        path: PathBuf,
        /// How it failed.
        error: io::Error,
    },
}

impl From<ProgramError> for LinkError {
    fn from(error: ProgramError) -> Self {
        let mut source: Option<&dyn std::error::Error> = Some(&error);
        let mut errno = None;
        while let Some(cause) = source {
            // `ProgramError` is transparent: its source may be the call that failed, or directly the error of the kernel.
            let said = cause.downcast_ref::<SyscallError>().map(|call| &call.io_error).or_else(|| cause.downcast_ref());
            errno = said.and_then(io::Error::raw_os_error).or(errno);
            source = cause.source();
        }
        match errno {
            Some(libc::EBUSY | libc::EEXIST) => Self::Busy,
            Some(libc::ENODEV | libc::ENOLINK | libc::ENXIO) => Self::Gone,
            Some(errno @ (libc::EOPNOTSUPP | libc::ERANGE | libc::ENOSPC | libc::EINVAL)) => {
                Self::Unsupported(io::Error::from_raw_os_error(errno))
            }
            _ => Self::Program(error),
        }
    }
}

/// The pinned links.
#[derive(Debug)]
pub struct Links {
    directory: PathBuf,
    /// Where the kernel has no links at tc.
    clsact: Option<Clsact>,
    /// By interface and name of the hook, what keeps the program attached should its pin be removed: a link's descriptor. A
    /// filter needs none.
    kept: BTreeMap<(Ifindex, &'static str), Option<FdLink>>,
    /// How many are kept: a quarter of the descriptors that this process may have.
    most: usize,
    haste: Rc<Haste>,
}

impl Links {
    /// The links pinned in a directory.
    pub fn new(directory: PathBuf) -> Self {
        let clsact = Clsact::if_needed(&directory);
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let most = files.and_then(|files| usize::try_from(files / 4).ok()).unwrap_or(usize::MAX);
        Self { directory, clsact, kept: BTreeMap::new(), most, haste: Rc::default() }
    }

    /// The same, many of which are made in haste.
    #[must_use]
    pub fn hastened(self, haste: Haste) -> Self {
        Self { haste: Rc::new(haste), ..self }
    }

    /// Many may be made, until what this gives is dropped.
    pub fn begin_batch(&self) -> Batch {
        self.haste.begin()
    }

    /// Keeps a link, as long as other work has descriptors enough.
    fn keep(&mut self, key: (Ifindex, &'static str), link: FdLink) {
        if self.kept.len() < self.most || self.kept.contains_key(&key) {
            self.kept.insert(key, Some(link));
        }
    }

    /// What is attached, dead links of deleted devices included.
    pub fn list(&self) -> Vec<(Ifindex, Hook)> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let mut found: Vec<_> = entries
            .filter_map(|entry| {
                let name = entry.file_name();
                let (ifindex, hook) = name.to_str()?.split_once('-')?;
                Some((ifindex.parse().ok()?, Hook::from_name(hook)?))
            })
            .collect();
        found.sort_unstable();
        found
    }

    /// How a device has our programs, by the names of modes; `none` where it has none.
    pub fn mode(&self, ifindex: Ifindex) -> &'static str {
        let has = |hook| self.path(ifindex, hook).exists();
        match (has(Hook::Xdp), has(Hook::Generic), has(Hook::TcIngress)) {
            (true, ..) => "native",
            (_, true, _) => "generic",
            (.., true) => "tc",
            _ => "none",
        }
    }

    /// Whether a device that is there has a program.
    pub fn are_attached(&self) -> bool {
        self.list().iter().any(|(ifindex, _)| clsact::name_of(*ifindex).is_ok())
    }

    /// Holds what an earlier daemon attached, and leaves it as it is.
    ///
    /// # Errors
    /// A pin cannot be opened.
    pub fn hold(&mut self) -> Result<(), LinkError> {
        for (ifindex, hook) in self.list() {
            let path = self.path(ifindex, hook);
            let filter = self.clsact.is_some() && hook.side().is_some();
            let open = || PinnedLink::from_pin(&path).map(FdLink::from);
            if filter {
                self.kept.insert((ifindex, hook.name()), None);
            } else {
                self.keep((ifindex, hook.name()), open().map_err(|error| unreadable(&path, error))?);
            }
        }
        Ok(())
    }

    /// Attaches the program, or swaps it in where an earlier one of ours is attached.
    pub fn attach(&mut self, object: &mut Object, ifindex: Ifindex, name: &str, hook: Hook) -> Result<(), LinkError> {
        object.ready(&[hook])?;
        let (path, key) = (self.path(ifindex, hook), (ifindex, hook.name()));
        if let (Some(clsact), Some(side)) = (self.clsact, hook.side()) {
            // First the mark: a filter without one would be forgotten, one too many is harmless.
            fs::create_dir_all(&path).map_err(|error| LinkError::Path { path, error })?;
            self.kept.insert(key, None);
            return Ok(clsact.attach(object.classifier(hook)?, name, side)?);
        }
        // Without its pin first: a link that is given to the program, and refused, is closed.
        self.mend_one(key)?;
        if path.exists() {
            match replace(object, &path, hook) {
                // The pin is of a device that is gone, whose index has come again.
                Err(LinkError::Gone) => self.detach(ifindex, hook)?,
                done => {
                    self.keep(key, done?);
                    return Ok(());
                }
            }
        }
        if hook.side().is_some() {
            self.haste.note_link();
        }
        let begun = Instant::now();
        let link = loop {
            match create(object, ifindex, name, hook) {
                Err(LinkError::Busy) if begun.elapsed() < PARTING => thread::sleep(PARTING / 20),
                done => break done?,
            }
        };
        self.keep(key, link.pin(&path)?.into());
        Ok(())
    }

    /// Puts back pins that were removed; how many.
    ///
    /// # Errors
    /// A pin cannot be made. The link stays as it is.
    pub fn mend(&mut self) -> Result<usize, LinkError> {
        let keys: Vec<_> = self.kept.keys().copied().collect();
        keys.into_iter().map(|key| Ok(usize::from(self.mend_one(key)?))).sum()
    }

    /// Puts the pin of one link back; whether it was gone.
    fn mend_one(&mut self, key: (Ifindex, &'static str)) -> Result<bool, LinkError> {
        let path = self.directory.join(format!("{}-{}", key.0, key.1));
        if path.exists() {
            return Ok(false);
        }
        // A folder can be made where a pin can be made: a link that could not be pinned would be closed.
        let failed = |error| LinkError::Path { path: path.clone(), error };
        match self.kept.get(&key) {
            None => return Ok(false),
            Some(None) => return fs::create_dir_all(&path).map(|()| true).map_err(failed),
            Some(Some(_)) if !is_bpffs(&self.directory).unwrap_or_default() => {
                return Err(failed(io::ErrorKind::Unsupported.into()));
            }
            Some(Some(_)) => fs::create_dir(&path).and_then(|()| fs::remove_dir(&path)).map_err(failed)?,
        }
        if let Some(Some(link)) = self.kept.remove(&key) {
            self.kept.insert(key, Some(link.pin(&path)?.into()));
        }
        Ok(true)
    }

    /// Takes a program off.
    pub fn detach(&mut self, ifindex: Ifindex, hook: Hook) -> Result<(), LinkError> {
        let path = self.path(ifindex, hook);
        self.kept.remove(&(ifindex, hook.name()));
        if let (Some(clsact), Some(side)) = (self.clsact, hook.side()) {
            if path.is_dir() {
                // Without a name the device is gone, and its filters with it.
                if let Ok(name) = clsact::name_of(ifindex) {
                    clsact.detach(&name, side)?;
                }
                fs::remove_dir(&path).map_err(|error| LinkError::Path { path, error })?;
            }
            return Ok(());
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(LinkError::Path { path, error }),
            _ => Ok(()),
        }
    }

    fn path(&self, ifindex: Ifindex, hook: Hook) -> PathBuf {
        self.directory.join(format!("{ifindex}-{}", hook.name()))
    }
}

/// Whether there is no such device any more, for sure.
pub fn is_gone(ifindex: Ifindex) -> bool {
    clsact::name_of(ifindex).is_err_and(|error| matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)))
}

/// A new link.
fn create(object: &mut Object, ifindex: Ifindex, name: &str, hook: Hook) -> Result<FdLink, LinkError> {
    match hook {
        Hook::Xdp | Hook::Generic => {
            let program = object.xdp(hook)?;
            let mode = if hook == Hook::Generic { XdpMode::Skb } else { XdpMode::Driver };
            let id = program.attach_to_if_index(ifindex, mode)?;
            let link = program.take_link(id)?;
            Ok(link.try_into().map_err(not_a_link)?)
        }
        Hook::TcIngress | Hook::TcBehindXdp | Hook::TcEgress => {
            let program = object.classifier(hook)?;
            let side = if hook == Hook::TcEgress { TcAttachType::Egress } else { TcAttachType::Ingress };
            let id = program.attach_with_options(name, side, TcAttachOptions::TcxOrder(LinkOrder::default()))?;
            let link = program.take_link(id)?;
            Ok(link.try_into().map_err(not_a_link)?)
        }
    }
}

fn unreadable(path: &Path, error: AyaLinkError) -> LinkError {
    LinkError::Path { path: path.to_owned(), error: io::Error::other(error) }
}

/// Swaps the program behind a pinned link, in one step: no packet meets neither.
fn replace(object: &mut Object, path: &Path, hook: Hook) -> Result<FdLink, LinkError> {
    let unreadable = |error| unreadable(path, error);
    let link = FdLink::from(PinnedLink::from_pin(path).map_err(unreadable)?);
    match hook {
        Hook::Xdp | Hook::Generic => {
            let program = object.xdp(hook)?;
            let id = program.attach_to_link(XdpLink::try_from(link).map_err(unreadable)?)?;
            Ok(program.take_link(id)?.try_into().map_err(not_a_link)?)
        }
        Hook::TcIngress | Hook::TcBehindXdp | Hook::TcEgress => {
            let program = object.classifier(hook)?;
            let id = program.attach_to_link(SchedClassifierLink::try_from(link).map_err(unreadable)?)?;
            Ok(program.take_link(id)?.try_into().map_err(not_a_link)?)
        }
    }
}

/// The kernel made an attachment that is not a link, which cannot outlive the daemon.
fn not_a_link(error: AyaLinkError) -> LinkError {
    LinkError::Unsupported(io::Error::other(error))
}
