//! Turns the switches in an object ([`Switch`]).

use std::ops::Range;

use dataplane_common::abi::{Features, Instruction, Switch};
use object::{File, Object as _, ObjectSection as _, ObjectSymbol as _, SymbolKind};

/// A copy of an object whose programs know what is on.
pub(super) fn turned(object: &[u8], on: Features) -> Result<Vec<u8>, object::Error> {
    let mut turned = object.to_vec();
    let file = File::parse(object)?;
    for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() != 0) {
        let Some(index) = symbol.section_index() else { continue };
        let Some((section, _)) = file.section_by_index(index)?.file_range() else { continue };
        let start = (section + symbol.address()) as usize;
        let code = turned.get_mut(start..).and_then(|rest| rest.get_mut(..symbol.size() as usize));
        let (function, _) = code.unwrap_or_default().as_chunks_mut();
        turn(function, on);
    }
    Ok(turned)
}

/// Turns those of a function.
fn turn(function: &mut [Instruction], on: Features) {
    let mut spare = spare(function);
    for at in 0..function.len().saturating_sub(1) {
        let Some(switch) = Switch::of(function[at], function[at + 1]) else { continue };
        let (decided, lost) = switch.decide(on);
        let way = spare.next().and_then(|jump| Some((jump, way(jump, at + 2, lost)?)));
        if let Some((jump, way)) = way {
            function[at..at + 2].copy_from_slice(&decided);
            function[jump] = Switch::spare(way);
        } else {
            function[at] = Switch::answer(switch.is_on(on));
        }
    }
    function[spare].fill(Switch::NOTHING);
}

/// From behind a jump to some instructions behind another.
fn way(jump: usize, behind: usize, lost: i16) -> Option<i16> {
    let (from, to) = (i64::try_from(jump + 1).ok()?, i64::try_from(behind).ok()? + i64::from(lost));
    (to - from).try_into().ok()
}

/// Where the spare jumps of a function are; nobody comes there from here on.
fn spare(function: &mut [Instruction]) -> Range<usize> {
    let Some(at) = function.iter().position(|load| Switch::begins_spare(*load)) else { return 0..0 };
    function[at] = Switch::answer(false);
    // Behind a jump to them, and one around them.
    let first = at + 3;
    let jumps = function.iter().skip(first).take_while(|jump| **jump == Switch::spare(0)).count();
    first..first + jumps
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER: Instruction = [0xbf, 0x61, 0, 0, 0, 0, 0, 0];

    fn load(mark: i32) -> Instruction {
        let mut load = Switch::answer(false);
        load[4..].copy_from_slice(&mark.to_le_bytes());
        load
    }

    /// Two switches that lead 1 and 2 instructions on.
    fn function(spare: usize) -> Vec<Instruction> {
        let mut function = vec![OTHER, load(Switch::SPARE_MARK), Switch::spare(1), OTHER];
        function.extend(vec![Switch::spare(0); spare]);
        function.extend([OTHER, load(Switch::mark(Features::IPV6)), Switch::spare(1), OTHER]);
        function.extend([load(Switch::mark(Features::CHAINS)), Switch::spare(2), OTHER, OTHER, OTHER]);
        function
    }

    #[test]
    fn switches_are_decided_where_there_are_spare_jumps() {
        let mut code = function(3);
        turn(&mut code, Features::IPV6);
        // To what is behind the first, and to where the second leads.
        assert_eq!(code[1..4], [Switch::answer(false), Switch::spare(1), OTHER]);
        assert_eq!(code[4..7], [Switch::spare(5), Switch::spare(9), Switch::NOTHING]);
        assert_eq!(code[8..10], [Switch::NOTHING, [0x05, 0, 1, 0, 0, 0, 0, 0]]);
        assert_eq!(code[11..13], [Switch::NOTHING; 2]);
    }

    #[test]
    fn where_they_are_too_few_the_answer_is_loaded() {
        let mut code = function(1);
        turn(&mut code, Features::INPUT);
        assert_eq!(code[6..8], [Switch::NOTHING; 2]);
        assert_eq!(code[9..11], [Switch::answer(true), Switch::spare(2)]);
        let mut code = function(0);
        turn(&mut code, Features::INPUT);
        assert_eq!([code[5], code[8]], [Switch::answer(false), Switch::answer(true)]);
    }
}
