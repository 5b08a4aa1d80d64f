//! The only place that talks to the kernel's BPF side: object, programs, links, pins and map contents.

mod bpffs;
mod btf;
mod clsact;
mod event;
mod flows;
mod foreign;
mod grace;
mod growable;
mod link;
mod loss;
mod mmap;
mod object;
mod pins;
mod policy;
mod rx_handler;
mod self_test;
mod switch;
mod table;
mod test_run;

pub use bpffs::{BPFFS, Bpffs, BpffsError, PinDirs, is_bpffs, prepare};
pub use btf::BtfError;
pub use event::Events;
pub use flows::{FlowMaps, FlowSwitch};
pub use foreign::{is_ours, tc_programs};
pub use grace::grace;
pub use growable::{GrowableMaps, Staged, Verified};
pub use link::{Hook, LinkError, Links, is_gone};
pub use loss::{TxErrorMonitor, TxErrorMonitorError};
pub use mmap::{Mapping, Word};
pub use object::{OBJECT, Object, ObjectError, program_name};
pub use pins::{Pins, PinsError};
pub use rx_handler::{RxHandlerError, RxHandlers};
pub use self_test::{SelfTestError, SelfTester};
pub use table::{Rings, TableError, Tables, earlier_slots};
pub use test_run::{Ran, TestRun, TestRunError};
