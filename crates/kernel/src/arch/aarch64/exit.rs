//! The end: a status for the host through semihosting, else power off by PSCI.

use core::sync::atomic::{AtomicU8, Ordering};

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

/// Ends the machine; the host sees `status` if it listens to semihosting.
pub fn exit(status: u32) -> ! {
    use semihosting::sys::arm_compat::{ExitReason, sys_exit_extended};
    sys_exit_extended(ExitReason::ADP_Stopped_ApplicationExit, status as usize);
    power_off()
}

/// Powers off by PSCI, or waits for ever where there is none.
pub fn power_off() -> ! {
    use smccc::{Hvc, Smc, psci};
    let _ = match CONDUIT.load(Ordering::Relaxed) {
        1 => psci::system_off::<Hvc>(),
        2 => psci::system_off::<Smc>(),
        _ => Ok(()),
    };
    loop {
        cortex_a::asm::wfe();
    }
}
