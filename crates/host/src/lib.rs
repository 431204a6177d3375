//! BareLM on Linux: everything around the runtime that needs an operating system.
//!
//! Read in this order:
//! 1. [`cli`] lists the commands; [`commands`] has one file for each.
//! 2. [`model_file`] maps a GGUF file into memory, [`cache`] is where the reference model lies.
//! 3. [`team`] runs the runtime's jobs on rayon's threads.
//! 4. [`quantize`] makes a file of another type, [`synth`] one with random weights.
//! 5. [`clock`] times the benchmark suite, [`environment`] says where it ran, [`records`] compares runs.
//!    [`limits`] measures what the machine can do at most, [`prompt`] is what it is measured with.
//! 6. [`request`] answers the short form of a benchmark request, for `lm-rs-bench`; [`session`] its long form, in which
//!    every engine of a comparison speaks, and [`versus`] compares them.
//!    [`serving`] runs requests that come from other threads, many at once.
//! 7. [`doctor`] says whether machine and set-up are fit for good figures.
//! 8. [`output_file`] is what commands write to, [`failure`] how a command says what went wrong.

pub mod cache;
pub mod checkpoint;
pub mod cli;
#[cfg(feature = "llm-transformer")]
pub mod clock;
pub mod commands;
#[cfg(feature = "llm-transformer")]
pub mod compare;
#[cfg(feature = "llm-transformer")]
pub mod doctor;
#[cfg(feature = "llm-transformer")]
pub mod environment;
pub mod failure;
#[cfg(feature = "llm-transformer")]
pub mod limits;
pub mod model_file;
pub mod output_file;
#[cfg(feature = "llm-transformer")]
pub mod prompt;
pub mod quantize;
#[cfg(feature = "llm-transformer")]
pub mod records;
#[cfg(feature = "llm-transformer")]
pub mod report;
pub mod request;
#[cfg(feature = "llm-transformer")]
pub mod serving;
#[cfg(feature = "llm-transformer")]
pub mod session;
pub mod synth;
#[cfg(feature = "llm-transformer")]
pub mod team;
#[cfg(feature = "llm-transformer")]
pub mod versus;

pub use failure::Failure;
