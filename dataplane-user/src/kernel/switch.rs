//! Turns the switches in an object ([`Switch`]).

use dataplane_common::abi::{Features, Switch};
use object::{File, Object as _, ObjectSection as _, SectionKind};

/// A copy of an object whose programs know what is on.
pub(super) fn turned(object: &[u8], on: Features) -> Result<Vec<u8>, object::Error> {
    let mut turned = object.to_vec();
    for section in File::parse(object)?.sections().filter(|section| section.kind() == SectionKind::Text) {
        let Some((start, length)) = section.file_range() else { continue };
        let code = turned.get_mut(start as usize..).and_then(|rest| rest.get_mut(..length as usize));
        turn(code.unwrap_or_default(), on);
    }
    Ok(turned)
}

fn turn(code: &mut [u8], on: Features) {
    let (instructions, _) = code.as_chunks_mut();
    for at in 1..instructions.len() {
        let [load, compare] = &mut instructions[at - 1..=at] else { continue };
        if let Some(switch) = Switch::of(*load, *compare) {
            *load = switch.set(on);
        }
    }
}
