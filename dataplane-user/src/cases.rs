//! How often properties are tried.

/// Cases of a property: as many as `DATAPLANE_CASES` says, or `otherwise`.
pub(crate) fn cases(otherwise: u32) -> u32 {
    std::env::var("DATAPLANE_CASES").map_or(otherwise, |number| number.parse().expect("a number of cases"))
}
