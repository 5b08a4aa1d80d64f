//! The only place that talks to the kernel's BPF side: object, programs, links, pins and map contents.

mod bpffs;
mod btf;
mod clsact;
mod event;
mod foreign;
mod grace;
mod link;
mod loss;
mod mmap;
mod object;
mod pins;
mod policy;
mod rehearsal;
mod routing;
mod switch;
mod table;
mod taker;
mod trial;

pub use bpffs::{BPFFS, Bpffs, BpffsError, Place, is_bpffs, prepare};
pub use btf::BtfError;
pub use event::Events;
pub use foreign::{is_ours, tc_programs};
pub use grace::grace;
pub use link::{Hook, LinkError, Links, is_gone};
pub use loss::{LossError, Losses};
pub use mmap::{Mapping, Word};
pub use object::{OBJECT, Object, ObjectError, program_name};
pub use pins::{Pins, PinsError};
pub use rehearsal::{Ran, Rehearsal, RehearsalError};
pub use routing::Routing;
pub use table::{TableError, Tables, earlier_slots};
pub use taker::{TakerError, Takers};
pub use trial::{TrialError, Trials};
