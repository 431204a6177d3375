//! The end: a status for the host through semihosting, else power off or start again, by PSCI or by the board.
//!
//! What comes behind a failure is asked for once, by [`set_after_failure`]; before that it is the host's status and
//! power-off.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use crate::console::print_unlocked;
use crate::drivers::power::Power;
use crate::image::options::AfterFailure;
use crate::machine::Conduit;

static CONDUIT: AtomicU8 = AtomicU8::new(0);
/// The board's power management, zero where it has none that is known.
static POWER: AtomicUsize = AtomicUsize::new(0);

/// Tells how PSCI is called.
pub fn set_conduit(conduit: Conduit) {
    CONDUIT.store(conduit as u8 + 1, Ordering::Relaxed);
}

/// How firmware is called, if that is known.
pub fn conduit() -> Option<Conduit> {
    match CONDUIT.load(Ordering::Relaxed) {
        1 => Some(Conduit::Hvc),
        2 => Some(Conduit::Smc),
        _ => None,
    }
}

/// Tells where a Raspberry Pi's power management is.
///
/// # Safety
/// - `base` is the address of its registers, mapped as device memory from now on.
pub unsafe fn set_power(base: usize) {
    POWER.store(base, Ordering::Relaxed);
}

/// The board's power management with its watchdog, where it has one that is known.
pub fn power() -> Option<Power> {
    match POWER.load(Ordering::Relaxed) {
        0 => None,
        // SAFETY: by `set_power`'s promise.
        base => Some(unsafe { Power::new(base) }),
    }
}

static ENDING: AtomicBool = AtomicBool::new(false);

/// Whether [`exit`] has begun: where nobody listens to semihosting, its call is an exception.
pub fn is_ending() -> bool {
    ENDING.load(Ordering::Relaxed)
}

static AFTER_FAILURE: AtomicU8 = AtomicU8::new(AfterFailure::Exit as u8);
static HALTED: AtomicBool = AtomicBool::new(false);

/// Says what comes behind a failing status.
pub fn set_after_failure(after: AfterFailure) {
    AFTER_FAILURE.store(after as u8, Ordering::Relaxed);
}

/// Stops this core if the machine was halted; called where every core comes by.
pub fn stop_if_halted() {
    if HALTED.load(Ordering::Relaxed) {
        wait()
    }
}

/// Ends the machine; the host sees `status` if it listens to semihosting, unless a failure should end otherwise.
pub fn exit(status: u32) -> ! {
    use semihosting::sys::arm_compat::{ExitReason, sys_exit_extended};
    let after = AFTER_FAILURE.load(Ordering::Relaxed);
    if status != 0 && after == AfterFailure::Reboot as u8 {
        print_unlocked(format_args!("starting again\n"));
        try_reset();
        print_unlocked(format_args!("this machine has no known way to start again\n"));
    }
    if status != 0 && after == AfterFailure::Halt as u8 {
        print_unlocked(format_args!("halted\n"));
        HALTED.store(true, Ordering::Relaxed);
        if let Some(power) = power() {
            power.stop();
        }
        wait()
    }
    ENDING.store(true, Ordering::Relaxed);
    sys_exit_extended(ExitReason::ADP_Stopped_ApplicationExit, status as usize);
    power_off()
}

/// Powers off by PSCI or the board's power management, or says that there is neither and waits for ever.
pub fn power_off() -> ! {
    use smccc::{Hvc, Smc, psci};
    // It returns only if firmware cannot do it.
    let _ = match conduit() {
        Some(Conduit::Hvc) => psci::system_off::<Hvc>(),
        Some(Conduit::Smc) => psci::system_off::<Smc>(),
        None => Ok(()),
    };
    if let Some(power) = power() {
        power.off();
        // Within a millisecond.
        wait()
    }
    print_unlocked(format_args!("this machine has no known way to switch itself off; it waits\n"));
    wait()
}

/// Starts the machine again by PSCI or the board's power management, or says that there is neither and waits for ever.
pub fn reset() -> ! {
    try_reset();
    print_unlocked(format_args!("this machine has no known way to start again; it waits\n"));
    wait()
}

/// Returns where there is no way to reset.
fn try_reset() {
    use smccc::{Hvc, Smc, psci};
    // It returns only if firmware cannot do it.
    let _ = match conduit() {
        Some(Conduit::Hvc) => psci::system_reset::<Hvc>(),
        Some(Conduit::Smc) => psci::system_reset::<Smc>(),
        None => Ok(()),
    };
    if let Some(power) = power() {
        power.reset();
        // Within a millisecond.
        wait()
    }
}

/// For ever, without interrupts.
fn wait() -> ! {
    // SAFETY: this core does nothing any more.
    unsafe { core::arch::asm!("msr daifset, #0xf", options(nostack)) }
    loop {
        cortex_a::asm::wfe();
    }
}
