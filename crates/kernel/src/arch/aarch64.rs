//! AArch64: one mechanism per file.
//!
//! 1. `entry` is the image's header and first instructions, down to EL1 and into Rust.
//! 2. [`exit`] ends the machine with a status.

mod entry;
pub mod exit;
