//! AArch64: one mechanism per file.
//!
//! 1. `entry` is the image's header and first instructions, down to EL1 and into Rust.
//! 2. [`mmu`] maps memory: nothing is both writable and executable, and stacks end at guard pages.
//! 3. [`vectors`] reports exceptions.
//! 4. [`cores`] starts the other cores and runs jobs on all.
//! 5. [`doze`] is how they wait.
//! 6. [`features`] says which instructions kernels may use.
//! 7. [`pmu`] counts events.
//! 8. [`exit`] ends the machine with a status.

pub mod cores;
pub mod doze;
mod entry;
pub mod exit;
pub mod features;
pub mod mmu;
pub mod pmu;
pub mod vectors;
