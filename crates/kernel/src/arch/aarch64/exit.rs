//! The end: a status for the host through semihosting, else power off or start again, by PSCI or by the board.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use crate::drivers::power::Power;
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

/// Ends the machine; the host sees `status` if it listens to semihosting.
pub fn exit(status: u32) -> ! {
    use semihosting::sys::arm_compat::{ExitReason, sys_exit_extended};
    ENDING.store(true, Ordering::Relaxed);
    sys_exit_extended(ExitReason::ADP_Stopped_ApplicationExit, status as usize);
    power_off()
}

/// Powers off by PSCI or the board's power management, or waits for ever where there is neither.
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
    }
    wait()
}

/// Starts the machine again by PSCI or the board's power management, or waits for ever where there is neither.
pub fn reset() -> ! {
    use smccc::{Hvc, Smc, psci};
    // It returns only if firmware cannot do it.
    let _ = match conduit() {
        Some(Conduit::Hvc) => psci::system_reset::<Hvc>(),
        Some(Conduit::Smc) => psci::system_reset::<Smc>(),
        None => Ok(()),
    };
    if let Some(power) = power() {
        power.reset();
    }
    wait()
}

fn wait() -> ! {
    loop {
        cortex_a::asm::wfe();
    }
}
