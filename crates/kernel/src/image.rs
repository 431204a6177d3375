//! What the image does once the machine is up: one boot, from its command line to its exit status.
//!
//! Read in this order:
//! 1. [`options`] is the boot command line.
//! 2. `run` is the list of steps.
//! 3. `model` finds and loads the model, `suite` runs the benchmarks, `hash` fingerprints the arithmetic,
//!    `generation` lets the model answer, `shell` asks for more.
//! 4. `keys` is what is typed there, [`line`](mod@line) edits it, [`command`] understands it; [`cpu`] names the processor; `fault` breaks things on request.
//!
//! What needs no machine ([`options`], [`line`](mod@line), [`command`], [`cpu`]) is compiled on hosts too, for its tests.

pub mod command;
pub mod cpu;
pub mod line;
pub mod options;

#[cfg(target_os = "none")]
mod fault;
#[cfg(target_os = "none")]
mod generation;
#[cfg(target_os = "none")]
mod hash;
#[cfg(target_os = "none")]
mod keys;
#[cfg(target_os = "none")]
mod model;
#[cfg(target_os = "none")]
mod run;
#[cfg(target_os = "none")]
mod shell;
#[cfg(target_os = "none")]
mod suite;

#[cfg(target_os = "none")]
pub use run::run;
