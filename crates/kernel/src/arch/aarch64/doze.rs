//! Waiting that costs nobody anything: a core that has looked long enough sleeps until its timer wakes it.
//!
//! An emulated core that spins keeps a host's processor from the very core it waits for; where the host has other
//! work too, every barrier then lasts a time slice. `wfi` is the one instruction that QEMU gives the processor back
//! for (`wfe` and `yield` are nothing to its threads), and it needs an interrupt to end: the virtual timer's, through
//! a GICv2 (Arm IHI 0048) or the local controller of a Raspberry Pi 3 (BCM2836 ARM-local peripherals). Interrupts are
//! masked meanwhile; a pending one ends `wfi` all the same.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use cortex_a::registers::{MPIDR_EL1, Readable};

use super::watchdog;
use crate::llm::pool::Wait;
use crate::machine::Interrupts;

/// Looks without sleep: some tens of microseconds on an emulated core.
const PATIENCE: u32 = 4000;
/// Ticks of sleep: about 50 microseconds at QEMU's 62.5 MHz.
const TICKS: u64 = 3000;
/// The virtual timer's interrupt number on every Arm machine with a GIC (Arm BSA, private interrupt 11).
const TIMER: u32 = 27;

const GICD_CTLR: usize = 0x000;
const GICD_ISENABLER0: usize = 0x100;
const GICC_CTLR: usize = 0x00;
const GICC_PMR: usize = 0x04;
const GICC_HPPIR: usize = 0x18;

/// Of the local controller, a register for each core: which timers interrupt it, and what does now.
const LOCAL_TIMERS: usize = 0x40;
const LOCAL_SOURCE: usize = 0x60;
const LOCAL_VIRTUAL: u32 = 1 << 3;

/// Distributor and interface; the interface is zero where the first is a local controller.
static FIRST: AtomicUsize = AtomicUsize::new(0);
static SECOND: AtomicUsize = AtomicUsize::new(0);
static WAKES: AtomicBool = AtomicBool::new(false);

/// Tells where the interrupt controller is. Without one, nobody sleeps.
///
/// # Safety
/// - It is there, mapped as device memory whenever cores run.
pub unsafe fn set_controller(interrupts: &Interrupts) {
    let (first, second) = match interrupts {
        Interrupts::Gicv2 { distributor, interface } => (distributor.start, interface.start),
        Interrupts::Local(registers) => (registers.start, 0),
    };
    FIRST.store(first, Ordering::Relaxed);
    SECOND.store(second, Ordering::Relaxed);
    WAKES.store(true, Ordering::Release);
}

/// An interrupt controller, as this core sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Controller {
    /// A GICv2.
    Gic {
        /// Its distributor.
        distributor: usize,
        /// Its CPU interface.
        interface: usize,
    },
    /// A Raspberry Pi 3's local controller.
    Local {
        /// This core's register that lets timers interrupt.
        timers: usize,
        /// This core's register that says what interrupts.
        source: usize,
    },
}

/// The interrupt controller, if [`set_controller`] was told one.
pub(super) fn controller() -> Option<Controller> {
    match (FIRST.load(Ordering::Relaxed), SECOND.load(Ordering::Relaxed)) {
        (0, _) => None,
        (first, 0) => {
            let own = 4 * (MPIDR_EL1.get() as usize & 3);
            Some(Controller::Local { timers: first + LOCAL_TIMERS + own, source: first + LOCAL_SOURCE + own })
        }
        (distributor, interface) => Some(Controller::Gic { distributor, interface }),
    }
}

/// Lets this core's timer wake it. A core whose timer does not come through keeps all from sleeping.
pub fn enable() {
    if !WAKES.load(Ordering::Acquire) {
        return;
    }
    let (first, second) = (FIRST.load(Ordering::Relaxed), SECOND.load(Ordering::Relaxed));
    let write = |address: usize, value: u32| {
        // SAFETY: a register of the controller, by `set_controller`'s promise.
        unsafe { core::ptr::with_exposed_provenance_mut::<u32>(address).write_volatile(value) }
    };
    let pending = if second != 0 {
        write(first + GICD_CTLR, 1);
        write(first + GICD_ISENABLER0, 1 << TIMER);
        write(second + GICC_PMR, 0xff);
        write(second + GICC_CTLR, 1);
        (second + GICC_HPPIR, 0x3ff, TIMER)
    } else {
        let own = 4 * (MPIDR_EL1.get() as usize & 3);
        write(first + LOCAL_TIMERS + own, LOCAL_VIRTUAL);
        (first + LOCAL_SOURCE + own, LOCAL_VIRTUAL, LOCAL_VIRTUAL)
    };
    // Does it? A timer that has run out must be what the controller would hand over.
    set_timer(0);
    let (register, mask, wanted) = pending;
    let arrived = (0..10_000).any(|_| {
        let register = core::ptr::with_exposed_provenance::<u32>(register);
        // SAFETY: as above.
        unsafe { register.read_volatile() & mask == wanted }
    });
    stop_timer();
    if !arrived {
        WAKES.store(false, Ordering::Release);
    }
}

/// Gives way while waiting, `looks` fruitless looks into it. `yield` first: under `-icount` QEMU runs one core at a
/// time and changes to the next only there.
pub fn relax(looks: u32) {
    // Who looks for the first time has just done something.
    if looks == 0 {
        watchdog::works()
    } else {
        watchdog::waits()
    }
    // SAFETY: a hint.
    unsafe { asm!("yield", options(nomem, nostack)) }
    if looks >= PATIENCE && WAKES.load(Ordering::Relaxed) {
        // With interrupts masked: taken between the timer and `wfi`, this one would be missed there.
        watchdog::undisturbed(&mut || {
            set_timer(TICKS);
            // SAFETY: it waits; the timer ends it, as `enable` has tried.
            unsafe { asm!("wfi", options(nomem, nostack)) }
            stop_timer();
        });
    }
}

/// How cores wait for each other; the end of each step is a sign of life.
#[derive(Clone, Copy, Debug)]
pub struct Doze;

impl Wait for Doze {
    fn relax(&self, looks: u32, _: &dyn Fn() -> bool) {
        relax(looks);
    }

    fn wake(&self) {
        watchdog::works();
    }
}

fn set_timer(ticks: u64) {
    // SAFETY: nothing else uses the virtual timer, and its interrupt is never taken.
    unsafe {
        asm!("msr cntv_tval_el0, {}", "msr cntv_ctl_el0, {}", "isb", in(reg) ticks, in(reg) 1u64, options(nostack));
    }
}

fn stop_timer() {
    // SAFETY: as in `set_timer`.
    unsafe { asm!("msr cntv_ctl_el0, xzr", "isb", options(nostack)) }
}
