//! From the model to the contents of the maps.

pub mod filter;
