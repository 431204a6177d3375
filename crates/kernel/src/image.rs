//! What the image does once the machine is up: one boot, from its command line to its exit status.
//!
//! Read in this order:
//! 1. [`options`] is the boot command line.
//! 2. `run` is the list of steps.
//! 3. `model` finds and loads the model, `suite` runs the benchmarks, `generation` lets the model answer.
//!
//! What needs no machine ([`options`]) is compiled on hosts too, for its tests.

pub mod options;

#[cfg(target_os = "none")]
mod generation;
#[cfg(target_os = "none")]
mod model;
#[cfg(target_os = "none")]
mod run;
#[cfg(target_os = "none")]
mod suite;

#[cfg(target_os = "none")]
pub use run::run;
