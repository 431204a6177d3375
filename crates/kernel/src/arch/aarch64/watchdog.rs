//! The watchdog: a core that shows no sign of life for so many seconds ends the machine, with a report.
//!
//! Every core leaves signs: where it waits, at every step, whenever it reads the clock or writes to
//! the console. Every core also has a timer of its own (the physical one; [`super::doze`] has the virtual one), whose
//! interrupt looks at the signs of all. A stuck core that still takes interrupts reports on itself, with registers
//! and calls. One that does not is reported by the others a little later. Cores that all wait for each other in a job
//! are stuck too.
//!
//! Where the board has a watchdog of its own, every tick feeds it ([`arm_board`]): when no core ticks any more, it
//! resets the board.
//!
//! It needs a GICv2, or the local controller of a Raspberry Pi 3. A machine of one core that gets stuck with interrupts masked is beyond it.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use cortex_a::registers::{CNTFRQ_EL0, Readable};

use super::doze::{Controller, Doze};
use super::vectors::{Interrupted, core_index};
use super::{cores, doze, exit};
use crate::llm::pool::{Team, run_on_all};
use crate::report::{Report, STUCK};

/// The physical timer's interrupt number on every Arm machine with a GIC (Arm BSA, private interrupt 14).
const TIMER: u32 = 30;
/// No interrupt.
const NOTHING: u32 = 1023;
/// Looks in the time that a core may be silent.
const LOOKS: u64 = 8;
/// Looks more until others report on a core that does not do so itself.
const GRACE: u64 = 3;

const GICD_ISENABLER0: usize = 0x100;
const GICC_IAR: usize = 0x0c;
const GICC_EOIR: usize = 0x10;
const GICC_HPPIR: usize = 0x18;
/// The physical timer of the non-secure world in the registers of a local controller.
const LOCAL_PHYSICAL: u32 = 1 << 1;

fn read(address: usize) -> u32 {
    // SAFETY: only called with registers of the controller, which are mapped.
    unsafe { core::ptr::with_exposed_provenance::<u32>(address).read_volatile() }
}

fn write(address: usize, value: u32) {
    // SAFETY: as above.
    unsafe { core::ptr::with_exposed_provenance_mut::<u32>(address).write_volatile(value) }
}

/// Signs of life of one core.
#[repr(align(128))]
struct Signs {
    /// Of work.
    work: AtomicU64,
    /// Of waiting.
    waits: AtomicU64,
}

static SIGNS: [Signs; cores::MAX] =
    [const { Signs { work: AtomicU64::new(0), waits: AtomicU64::new(0) } }; cores::MAX];

/// What a core's looks have found of each core: its signs, and how many looks ago they had last changed.
///
/// Looks are counted, not time: where a whole emulator was stopped for a while, no core is to blame.
struct Seen {
    work: AtomicU64,
    waits: AtomicU64,
    idle: AtomicU64,
    silent: AtomicU64,
}

impl Seen {
    const fn nothing() -> Self {
        Seen {
            work: AtomicU64::new(0),
            waits: AtomicU64::new(0),
            idle: AtomicU64::new(0),
            silent: AtomicU64::new(0),
        }
    }
}

static SEEN: [[Seen; cores::MAX]; cores::MAX] =
    [const { [const { Seen::nothing() }; cores::MAX] }; cores::MAX];

/// Ticks of the timer that a core may be silent; 0 while nobody watches.
static LIMIT: AtomicU64 = AtomicU64::new(0);

/// Whether a core's timer did not come through.
static DEAF: AtomicBool = AtomicBool::new(false);

/// One more; only the core itself counts, so nothing is lost.
fn count(sign: &AtomicU64) {
    sign.store(sign.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

/// This core does something.
pub fn works() {
    count(&SIGNS[core_index()].work);
}

/// This core waits for others, or for a person.
pub fn waits() {
    count(&SIGNS[core_index()].waits);
}

/// Why nobody watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwatched {
    /// There is no interrupt controller that we know.
    NoController,
    /// Its interrupt does not arrive.
    Deaf,
}

impl core::fmt::Display for Unwatched {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NoController => "no interrupt controller of this machine is known",
            Self::Deaf => "the timer's interrupt does not arrive",
        })
    }
}

/// Lets every core of the team watch all, each of which may be silent for `seconds`.
pub fn start(team: &dyn Team, seconds: u64) -> Result<(), Unwatched> {
    if doze::controller().is_none() {
        return Err(Unwatched::NoController);
    }
    LIMIT.store(seconds.max(1) * CNTFRQ_EL0.get(), Ordering::Relaxed);
    run_on_all(team, &Doze, &|_| enable());
    if DEAF.load(Ordering::Relaxed) {
        LIMIT.store(0, Ordering::Relaxed);
        return Err(Unwatched::Deaf);
    }
    Ok(())
}

/// Seconds that a core may be silent, if anybody watches.
pub fn limit_s() -> Option<u64> {
    let ticks = LIMIT.load(Ordering::Relaxed);
    (ticks > 0).then(|| ticks / CNTFRQ_EL0.get())
}

/// Seconds until the board resets itself; 0 where it does not.
static BOARD_S: AtomicU32 = AtomicU32::new(0);

/// Lets the board's own watchdog reset it when no core has ticked for `seconds`. Ticks must come twice in that time.
pub fn arm_board(seconds: u32) -> Result<(), Unarmed> {
    let power = exit::power().ok_or(Unarmed::None)?;
    let limit_s = limit_s().ok_or(Unarmed::NoTicks)?;
    if limit_s * 2 > u64::from(seconds) * LOOKS {
        return Err(Unarmed::SlowTicks { most: u64::from(seconds) * LOOKS / 2 });
    }
    BOARD_S.store(seconds, Ordering::Relaxed);
    power.watch(seconds);
    Ok(())
}

/// Why the board's watchdog is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unarmed {
    /// The board has none that is known.
    None,
    /// Nobody ticks.
    NoTicks,
    /// It would run out between two ticks.
    SlowTicks {
        /// The most that `watchdog=` may be for it.
        most: u64,
    },
}

impl core::fmt::Display for Unarmed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::None => f.write_str("this board has none that is known"),
            Self::NoTicks => f.write_str("nothing would feed it without watchdog="),
            Self::SlowTicks { most } => {
                write!(f, "it would run out between two ticks; watchdog={most} is the most")
            }
        }
    }
}

/// Begins the time of the board's watchdog anew.
fn feed() {
    let seconds = BOARD_S.load(Ordering::Relaxed);
    if let Some(power) = exit::power().filter(|_| seconds > 0) {
        power.watch(seconds);
    }
}

/// Runs `body` without ticks on this core. The board's watchdog stands still where no other core feeds it.
pub fn undisturbed(body: &mut dyn FnMut()) {
    if let Some(power) = exit::power().filter(|_| BOARD_S.load(Ordering::Relaxed) > 0) {
        power.stop();
    }
    let state: u64;
    // SAFETY: masks interrupts, and puts back what was.
    unsafe { core::arch::asm!("mrs {}, daif", "msr daifset, #2", out(reg) state, options(nostack)) }
    body();
    // SAFETY: as above.
    unsafe { core::arch::asm!("msr daif, {}", in(reg) state, options(nostack)) }
    feed();
}

/// Begins this core's ticks, if its timer comes through.
fn enable() {
    let Some(controller) = doze::controller() else { return };
    for seen in &SEEN[core_index()] {
        seen.idle.store(0, Ordering::Relaxed);
        seen.silent.store(0, Ordering::Relaxed);
    }
    let (register, mask, wanted) = match controller {
        Controller::Gic { distributor, interface } => {
            write(distributor + GICD_ISENABLER0, 1 << TIMER);
            (interface + GICC_HPPIR, 0x3ff, TIMER)
        }
        Controller::Local { timers, source } => {
            write(timers, read(timers) | LOCAL_PHYSICAL);
            (source, LOCAL_PHYSICAL, LOCAL_PHYSICAL)
        }
    };
    set_timer(0);
    let arrived = (0..10_000).any(|_| read(register) & mask == wanted);
    if !arrived {
        stop_timer();
        DEAF.store(true, Ordering::Relaxed);
        return;
    }
    set_timer(LIMIT.load(Ordering::Relaxed) / LOOKS);
    // SAFETY: the vectors are there, and this is the only interrupt that is enabled and not masked where it happens.
    unsafe { core::arch::asm!("msr daifclr, #2", options(nostack)) }
}

/// What one look gives: for how many looks there was no sign of work, and none at all.
fn look(seen: &Seen, signs: &Signs) -> (u64, u64) {
    let (work, waits) = (signs.work.load(Ordering::Relaxed), signs.waits.load(Ordering::Relaxed));
    let works = work != seen.work.swap(work, Ordering::Relaxed);
    let lives = works | (waits != seen.waits.swap(waits, Ordering::Relaxed));
    let looks = |count: &AtomicU64, changed: bool| {
        let looks = if changed { 0 } else { count.load(Ordering::Relaxed) + 1 };
        count.store(looks, Ordering::Relaxed);
        looks
    };
    (looks(&seen.idle, works), looks(&seen.silent, lives))
}

/// A timer's tick: looks at all cores.
pub(super) extern "C" fn interrupt(interrupted: &Interrupted) {
    exit::stop_if_halted();
    let Some(controller) = doze::controller() else { return };
    let number = match controller {
        Controller::Gic { interface, .. } => read(interface + GICC_IAR),
        Controller::Local { source, .. } => match read(source) {
            0 => NOTHING,
            bits if bits & LOCAL_PHYSICAL != 0 => TIMER,
            bits => bits.trailing_zeros(),
        },
    };
    match number & 0x3ff {
        TIMER => {}
        // None after all.
        1020.. => return,
        other => {
            let report = Report::begin(crate::report::EXCEPTION);
            report.headline("fault", format_args!("interrupt {other} that nobody asked for"));
            report.calls_to(&interrupted.registers());
            report.end()
        }
    }
    let limit = LIMIT.load(Ordering::Relaxed);
    if limit == 0 {
        stop_timer();
    } else {
        set_timer(limit / LOOKS);
        examine(limit, interrupted);
        feed();
    }
    if let Controller::Gic { interface, .. } = controller {
        write(interface + GICC_EOIR, number);
    }
}

/// Looks at all cores, and reports if one is stuck.
fn examine(limit: u64, interrupted: &Interrupted) {
    let (me, online) = (core_index(), cores::online());
    let seconds = |looks: u64| (looks * limit / LOOKS) as f64 / CNTFRQ_EL0.get() as f64;
    // Looks since any core has worked, if all of them wait.
    let mut idle = u64::MAX;
    for core in 0..online {
        let (without_work, silent) = look(&SEEN[me][core], &SIGNS[core]);
        idle = if silent <= 1 { idle.min(without_work) } else { 0 };
        let silent_s = seconds(silent);
        if core == me && silent > LOOKS {
            let report = Report::begin(STUCK);
            report.headline(
                "watchdog",
                format_args!("core {core} is stuck: no sign of life for {silent_s:.1} s"),
            );
            let registers = interrupted.registers();
            report.registers(&registers);
            report.calls_to(&registers);
            report.end();
        }
        if core != me && silent > LOOKS + GRACE {
            let report = Report::begin(STUCK);
            let why = format_args!(
                "core {core} is stuck: no sign of life for {silent_s:.1} s, and it takes no interrupts"
            );
            report.headline("watchdog", why);
            report.line(format_args!("so its registers are not known"));
            report.end();
        }
    }
    if cores::in_job() && idle > LOOKS {
        let report = Report::begin(STUCK);
        let idle_s = seconds(idle);
        report
            .headline("watchdog", format_args!("all cores wait for each other in a job, for {idle_s:.1} s"));
        report.calls_to(&interrupted.registers());
        report.end();
    }
}

fn set_timer(ticks: u64) {
    // SAFETY: nothing else uses the physical timer.
    unsafe {
        core::arch::asm!("msr cntp_tval_el0, {}", "msr cntp_ctl_el0, {}", "isb", in(reg) ticks, in(reg) 1u64, options(nostack));
    }
}

fn stop_timer() {
    // SAFETY: as in `set_timer`.
    unsafe { core::arch::asm!("msr cntp_ctl_el0, xzr", "isb", options(nostack)) }
}
