//! Turns the switches in an object ([`Switch`]).

use std::ops::Range;

use dataplane_common::abi::{Features, Instruction, Switch};
use object::{File, Object as _, ObjectSection as _, ObjectSymbol as _, SymbolKind};

/// A copy of an object whose programs know what is on.
pub(super) fn specialised(object: &[u8], on: Features) -> Result<Vec<u8>, object::Error> {
    let mut copy = object.to_vec();
    let file = File::parse(object)?;
    for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() != 0) {
        let Some(index) = symbol.section_index() else { continue };
        let Some((section, _)) = file.section_by_index(index)?.file_range() else { continue };
        let start = (section + symbol.address()) as usize;
        let code = copy.get_mut(start..).and_then(|rest| rest.get_mut(..symbol.size() as usize));
        let (function, _) = code.unwrap_or_default().as_chunks_mut();
        specialise(function, on);
    }
    Ok(copy)
}

/// Turns those of a function.
fn specialise(function: &mut [Instruction], on: Features) {
    let mut pad = pad(function);
    for at in 0..function.len().saturating_sub(1) {
        let Some(switch) = Switch::of(function[at], function[at + 1]) else { continue };
        let (decided, lost) = switch.decide(on);
        let distance = pad.next().and_then(|jump| Some((jump, distance(jump, at + 2, lost)?)));
        if let Some((jump, distance)) = distance {
            function[at..at + 2].copy_from_slice(&decided);
            function[jump] = Switch::pad_jump(distance);
        } else {
            function[at] = Switch::load_constant(switch.is_on(on));
        }
    }
    function[pad].fill(Switch::NOTHING);
}

/// From behind a jump to some instructions behind another.
fn distance(jump: usize, behind: usize, lost: i16) -> Option<i16> {
    let (from, to) = (i64::try_from(jump + 1).ok()?, i64::try_from(behind).ok()? + i64::from(lost));
    (to - from).try_into().ok()
}

/// Where the pad jumps of a function are; they are never reached.
fn pad(function: &mut [Instruction]) -> Range<usize> {
    let Some(at) = function.iter().position(|load| Switch::begins_pad(*load)) else { return 0..0 };
    function[at] = Switch::load_constant(false);
    // Behind a jump to them, and one around them.
    let first = at + 3;
    let jumps = function.iter().skip(first).take_while(|jump| **jump == Switch::pad_jump(0)).count();
    first..first + jumps
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER: Instruction = [0xbf, 0x61, 0, 0, 0, 0, 0, 0];

    fn load(mark: i32) -> Instruction {
        let mut load = Switch::load_constant(false);
        load[4..].copy_from_slice(&mark.to_le_bytes());
        load
    }

    /// Two switches that lead 1 and 2 instructions on.
    fn function(pad: usize) -> Vec<Instruction> {
        let mut function = vec![OTHER, load(Switch::PAD_MARK), Switch::pad_jump(1), OTHER];
        function.extend(vec![Switch::pad_jump(0); pad]);
        function.extend([OTHER, load(Switch::mark(Features::IPV6)), Switch::pad_jump(1), OTHER]);
        function.extend([load(Switch::mark(Features::CHAINS)), Switch::pad_jump(2), OTHER, OTHER, OTHER]);
        function
    }

    #[test]
    fn switches_become_jumps_where_there_are_pads() {
        let mut code = function(3);
        specialise(&mut code, Features::IPV6);
        // To what is behind the first, and to where the second leads.
        assert_eq!(code[1..4], [Switch::load_constant(false), Switch::pad_jump(1), OTHER]);
        assert_eq!(code[4..7], [Switch::pad_jump(5), Switch::pad_jump(9), Switch::NOTHING]);
        assert_eq!(code[8..10], [Switch::NOTHING, [0x05, 0, 1, 0, 0, 0, 0, 0]]);
        assert_eq!(code[11..13], [Switch::NOTHING; 2]);
    }

    #[test]
    fn without_pads_the_constant_is_loaded() {
        let mut code = function(1);
        specialise(&mut code, Features::INPUT);
        assert_eq!(code[6..8], [Switch::NOTHING; 2]);
        assert_eq!(code[9..11], [Switch::load_constant(true), Switch::pad_jump(2)]);
        let mut code = function(0);
        specialise(&mut code, Features::INPUT);
        assert_eq!([code[5], code[8]], [Switch::load_constant(false), Switch::load_constant(true)]);
    }
}
