//! BareLM on Linux: everything around the runtime that needs an operating system.
//!
//! Read in this order:
//! 1. [`team`] runs the runtime's jobs on rayon's threads.
//! 2. [`failure`] is how a command says what went wrong.

pub mod failure;
#[cfg(feature = "llm-transformer")]
pub mod team;

pub use failure::Failure;
