//! BareLM: a language model runtime that needs no operating system.
//!
//! - [`llm`] is the runtime: text in, text out, on borrowed memory, for any platform.
//! - `boot` and its neighbours (bare metal with feature `boot` only) bring up an AArch64 machine and run it; what of
//!   them is plain arithmetic (`machine`, translation tables, the boot command line) hosts compile for its tests.
#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

#[cfg(any(feature = "boot", test))]
pub mod arch;
#[cfg(all(target_os = "none", feature = "boot"))]
pub mod boot;
#[cfg(all(target_os = "none", feature = "boot"))]
pub mod console;
#[cfg(any(feature = "boot", test))]
pub mod drivers;
#[cfg(any(feature = "boot", test))]
pub mod image;
pub mod llm;
#[cfg(all(target_os = "none", feature = "boot"))]
pub mod log;
#[cfg(any(feature = "boot", test))]
pub mod machine;
#[cfg(all(target_os = "none", feature = "boot"))]
pub mod report;

/// The code in the guide for other kernels, as tests.
#[cfg(all(doctest, feature = "llm-transformer"))]
#[doc = include_str!("../../../docs/llm/EMBEDDING.md")]
struct Embedding;
