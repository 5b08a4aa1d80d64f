//! Programs of others on an interface.

use aya::programs::{SchedClassifier, TcAttachType};

use super::Hook;

/// Whether a program's name is one of ours: the kernel does not show more about who loaded it.
pub fn is_ours(name: &str) -> bool {
    Hook::ALL.into_iter().any(|hook| hook.program() == name)
}

/// Whether programs of others are at tc egress (TCX) of an interface; `None` where the kernel does not list them.
pub fn has_egress_programs(iface: &str) -> Option<bool> {
    let (_, programs) = SchedClassifier::query_tcx(iface, TcAttachType::Egress).ok()?;
    Some(programs.iter().any(|program| !program.name_as_str().is_some_and(is_ours)))
}

/// Id and name of the programs at tc (TCX) of an interface, ingress first; none where the kernel does not list them.
pub fn tc_programs(iface: &str) -> Vec<(u32, String)> {
    [TcAttachType::Ingress, TcAttachType::Egress]
        .into_iter()
        .filter_map(|place| SchedClassifier::query_tcx(iface, place).ok())
        .flat_map(|(_, programs)| programs)
        .map(|program| (program.id(), program.name_as_str().unwrap_or_default().to_owned()))
        .collect()
}
