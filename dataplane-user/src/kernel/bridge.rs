//! Hosts behind members of bridges, as programs see them.

use std::{collections::BTreeMap, io};

use aya::maps::{HashMap, MapData, MapError};
use dataplane_common::abi::{BridgedHost, BridgedKey, SwitchedHost, SwitchedKey, map};
use rustix::time::{ClockId, clock_getres};

use super::{Object, TableError};

/// The map of them. Programs write in it when the bridge saw a host last.
pub struct BridgedHosts {
    map: HashMap<MapData, [u8; size_of::<BridgedKey>()], [u8; size_of::<BridgedHost>()]>,
    /// Of the kernel's timer.
    ticks_per_second: u64,
}

impl BridgedHosts {
    pub(super) fn take(object: &mut Object) -> Result<Self, TableError> {
        let map = object.take_map(map::BRIDGED)?;
        let map = map.try_into().map_err(|error| TableError::Map { name: map::BRIDGED, error })?;
        Ok(Self { map, ticks_per_second: ticks_per_second() })
    }

    /// Writes a host, of which the bridge is to see a frame each time that so many hundredths of a second are over. It sees the
    /// next one.
    pub fn write(&mut self, key: BridgedKey, period: u32) -> Result<(), TableError> {
        let period = (u64::from(period) * self.ticks_per_second / 100).max(1);
        self.put(key, BridgedHost { refreshed: 0, period })
    }

    /// Writes a host as programs read it.
    pub fn put(&mut self, key: BridgedKey, host: BridgedHost) -> Result<(), TableError> {
        let (key, host): ([u8; size_of::<BridgedKey>()], [u8; size_of::<BridgedHost>()]) =
            (zerocopy::transmute!(key), zerocopy::transmute!(host));
        self.map.insert(key, host, 0).map_err(failed)
    }

    /// Takes a host out.
    pub fn remove(&mut self, key: BridgedKey) -> Result<(), TableError> {
        gone(self.map.remove(&zerocopy::transmute!(key)), map::BRIDGED)
    }

    /// Takes out all hosts but these.
    pub fn keep(&mut self, kept: &BTreeMap<BridgedKey, u32>) -> Result<(), TableError> {
        let known = self.map.keys().collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let known = known.into_iter().map(|key| zerocopy::transmute!(key));
        known.filter(|key| !kept.contains_key(key)).try_for_each(|key| self.remove(key))
    }
}

/// The map of the members that hosts are behind.
pub struct SwitchedHosts {
    map: HashMap<MapData, [u8; size_of::<SwitchedKey>()], [u8; size_of::<SwitchedHost>()]>,
}

impl SwitchedHosts {
    pub(super) fn take(object: &mut Object) -> Result<Self, TableError> {
        let map = object.take_map(map::SWITCHED)?;
        Ok(Self { map: map.try_into().map_err(|error| TableError::Map { name: map::SWITCHED, error })? })
    }

    /// Writes the way to a host.
    pub fn write(&mut self, key: SwitchedKey, host: SwitchedHost) -> Result<(), TableError> {
        let (key, host): ([u8; size_of::<SwitchedKey>()], [u8; size_of::<SwitchedHost>()]) =
            (zerocopy::transmute!(key), zerocopy::transmute!(host));
        self.map.insert(key, host, 0).map_err(|error| TableError::Map { name: map::SWITCHED, error })
    }

    /// Takes a host out.
    pub fn remove(&mut self, key: SwitchedKey) -> Result<(), TableError> {
        gone(self.map.remove(&zerocopy::transmute!(key)), map::SWITCHED)
    }

    /// Takes out all hosts but these.
    pub fn keep(&mut self, kept: &BTreeMap<SwitchedKey, SwitchedHost>) -> Result<(), TableError> {
        let known = self.map.keys().collect::<Result<Vec<_>, _>>();
        let known = known.map_err(|error| TableError::Map { name: map::SWITCHED, error })?;
        let known = known.into_iter().map(|key| zerocopy::transmute!(key));
        known.filter(|key| !kept.contains_key(key)).try_for_each(|key| self.remove(key))
    }
}

/// What was not there is gone, too.
fn gone(removed: Result<(), MapError>, name: &'static str) -> Result<(), TableError> {
    match removed {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(TableError::Map { name, error }),
    }
}

fn failed(error: MapError) -> TableError {
    TableError::Map { name: map::BRIDGED, error }
}

/// How often the kernel's timer ticks (`CONFIG_HZ`): its coarse clock says how long a tick is.
fn ticks_per_second() -> u64 {
    let tick = clock_getres(ClockId::MonotonicCoarse);
    1_000_000_000 / u64::try_from(tick.tv_nsec).unwrap_or_default().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timer_ticks_as_kernels_can_be_built_to() {
        assert!([100, 250, 300, 1000].contains(&ticks_per_second()), "{}", ticks_per_second());
    }
}
