//! The end: a status for the host through semihosting, else power off by PSCI.

use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// How firmware is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// By `hvc`.
    Hvc,
    /// By `smc`.
    Smc,
}

static CONDUIT: AtomicU8 = AtomicU8::new(0);

/// Tells how PSCI is called.
pub fn set_conduit(conduit: Conduit) {
    CONDUIT.store(conduit as u8 + 1, Ordering::Relaxed);
}

/// How firmware is called, if the device tree says so.
pub fn conduit() -> Option<Conduit> {
    match CONDUIT.load(Ordering::Relaxed) {
        1 => Some(Conduit::Hvc),
        2 => Some(Conduit::Smc),
        _ => None,
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

/// Powers off by PSCI, or waits for ever where there is none.
pub fn power_off() -> ! {
    use smccc::{Hvc, Smc, psci};
    // It returns only if firmware cannot do it.
    let _ = match conduit() {
        Some(Conduit::Hvc) => psci::system_off::<Hvc>(),
        Some(Conduit::Smc) => psci::system_off::<Smc>(),
        None => Ok(()),
    };
    loop {
        cortex_a::asm::wfe();
    }
}
