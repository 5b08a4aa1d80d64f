//! Rows: what a piece of another language comes to.
