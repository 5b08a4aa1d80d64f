//! What needs a kernel.
