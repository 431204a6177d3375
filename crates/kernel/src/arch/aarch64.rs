//! AArch64: one mechanism per file.
//!
//! 1. `entry` is the image's header and first instructions, down to EL1 and into Rust.
//! 2. [`translation`] builds memory maps: nothing is both writable and executable, and stacks end at guard pages;
//!    [`layout`] says what of a machine is mapped as what, `mmu` lets the processor use it.
//! 3. `vectors` reports exceptions.
//! 4. `cores` starts the other cores and runs jobs on all.
//! 5. `doze` is how they wait.
//! 6. `features` says which instructions kernels may use.
//! 7. `pmu` counts events.
//! 8. `watchdog` ends the machine when a core shows no sign of life; `backtrace` tells how a failure came about;
//!    `hypervisor` stays behind at EL2 to raise a system error on request.
//! 9. `exit` ends the machine with a status.
//!
//! What touches no register is compiled on hosts too, for its tests.

pub mod layout;
pub mod translation;

#[cfg(target_os = "none")]
pub mod backtrace;
#[cfg(target_os = "none")]
pub mod cores;
#[cfg(target_os = "none")]
pub mod doze;
#[cfg(target_os = "none")]
pub(crate) mod entry;
#[cfg(target_os = "none")]
pub mod exit;
#[cfg(target_os = "none")]
pub mod features;
#[cfg(target_os = "none")]
pub mod hypervisor;
#[cfg(target_os = "none")]
pub mod mmu;
#[cfg(target_os = "none")]
pub mod pmu;
#[cfg(target_os = "none")]
pub mod vectors;
#[cfg(target_os = "none")]
pub mod watchdog;
