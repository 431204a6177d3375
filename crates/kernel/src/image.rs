//! What the image does once the machine is up: one boot, from its command line to its exit status.
//!
//! Read in this order:
//! 1. [`options`] is the boot command line.
//! 2. `run` is the list of steps.
//! 3. `model` finds and loads the model, `suite` runs the benchmarks, `perf` counts [`events`] in them, `hash` fingerprints the arithmetic,
//!    `generation` lets the model answer, `trace` says where the time went, `shell` asks for more and `chat` remembers.
//! 4. `keys` is what is typed there, [`line`](mod@line) edits it, [`command`] understands it, [`settings`] is what `set` changes; [`cpu`] names the processor.
//! 5. [`fault`] names what `inject` breaks on request; [`syndrome`] reads the processor's account of it, [`checksum`]
//!    finds what it says nothing about.
//!
//! What needs no machine is public, and compiled on hosts too for its tests.

pub mod checksum;
pub mod command;
pub mod cpu;
pub mod events;
pub mod fault;
pub mod line;
pub mod options;
#[cfg(feature = "llm-transformer")]
pub mod settings;
pub mod syndrome;

#[cfg(target_os = "none")]
mod chat;
#[cfg(target_os = "none")]
mod generation;
#[cfg(target_os = "none")]
mod hash;
#[cfg(target_os = "none")]
mod inject;
#[cfg(target_os = "none")]
mod keys;
#[cfg(target_os = "none")]
mod model;
#[cfg(all(target_os = "none", feature = "suite"))]
mod perf;
#[cfg(target_os = "none")]
mod run;
#[cfg(target_os = "none")]
mod shell;
#[cfg(all(target_os = "none", feature = "suite"))]
mod suite;
#[cfg(target_os = "none")]
mod trace;

#[cfg(target_os = "none")]
pub use run::run;
