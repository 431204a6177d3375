//! What depends on the processor; AArch64 is the only one.

pub mod aarch64;
