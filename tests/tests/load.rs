//! Every program loads, with every combination of features that matters.

use anyhow::Context as _;
use dataplane_common::abi::Features;
use dataplane_user::kernel::{Bpffs, Hook, Object};

fn main() -> anyhow::Result<()> {
    let root = std::env::temp_dir().join(format!("dataplane-load-{}", std::process::id()));
    let bpffs = Bpffs::open(&root)?;
    for features in [Features::empty(), Features::IPV6, Features::all()] {
        let object =
            Object::load(features, &bpffs.lasting(), &bpffs.epoch()).with_context(|| format!("{features:?}"))?;
        for hook in Hook::ALL {
            println!(
                "{features:?} {}: {:?} instructions verified",
                hook.program(),
                object.verified_instructions(hook)?
            );
        }
    }
    bpffs.forget_all();
    Ok(())
}
