//! Maps whose pins are removed by others: programs that are loaded later would find none, and get empty ones that the
//! controller does not write.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    maps::{MapData, MapError},
    pin::PinError,
};
use thiserror::Error;

use super::{PinDirs, object};

/// Why a pin cannot be put back.
#[derive(Debug, Error)]
pub enum PinsError {
    /// The map cannot be opened.
    #[error("cannot open pin {path}: {error}")]
    Open {
        /// Which.
        path: PathBuf,
        /// The error of the kernel.
        error: MapError,
    },
    /// The folder cannot be made.
    #[error("cannot make {path}: {error}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// How it failed.
        error: io::Error,
    },
    /// The pin cannot be made.
    #[error("cannot pin {path}: {}", object::chain(.error))]
    Pin {
        /// Which.
        path: PathBuf,
        /// The error of the kernel.
        error: PinError,
    },
}

/// Descriptors of all maps that are pinned, by their pins.
#[derive(Debug, Default)]
pub struct Pins(BTreeMap<PathBuf, MapData>);

impl Pins {
    /// Holds the maps that are pinned in a place.
    ///
    /// # Errors
    /// A map cannot be opened.
    pub fn hold(&mut self, dirs: &PinDirs) -> Result<(), PinsError> {
        for path in object::pins(dirs) {
            if !self.0.contains_key(&path) && path.exists() {
                let map = MapData::from_pin(&path).map_err(|error| PinsError::Open { path: path.clone(), error })?;
                self.0.insert(path, map);
            }
        }
        Ok(())
    }

    /// Lets go of those in a folder that is not needed any more.
    pub fn forget(&mut self, folder: &Path) {
        self.0.retain(|path, _| !path.starts_with(folder));
    }

    /// Pins again what is not pinned any more; how many that were.
    ///
    /// # Errors
    /// A pin cannot be made.
    pub fn mend(&self) -> Result<usize, PinsError> {
        let mut mended = 0;
        for (path, map) in self.0.iter().filter(|(path, _)| !path.exists()) {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).map_err(|error| PinsError::Folder { path: folder.to_owned(), error })?;
            }
            map.pin(path).map_err(|error| PinsError::Pin { path: path.clone(), error })?;
            mended += 1;
        }
        Ok(mended)
    }
}
