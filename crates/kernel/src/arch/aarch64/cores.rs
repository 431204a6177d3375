//! The processor's cores as a [`Team`]: started once, they wait for jobs and run them together.
//!
//! A core is started by PSCI or through a spin table, as the device tree says. Each attempt has a stack and a state of
//! its own. One that does not appear in time is given up, and the others go on: should it appear after all, it finds
//! itself given up and sleeps.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use cortex_a::registers::{CNTFRQ_EL0, CNTVCT_EL0, MPIDR_EL1, Readable};
use smccc::{Hvc, Smc, psci};

use super::doze::{self, Doze, relax};
use super::entry::{_start_core, _start_spun, BOOT_STACK, CoreStart, SPUN, Stack};
use super::exit::conduit;
use super::{mmu, vectors};
use crate::llm::pool::{Board, Member, Team, Waits};
use crate::machine::{Conduit, Core, Method};

/// Cores that can be used, the boot core among them.
pub const MAX: usize = 8;

/// Affinity bits of MPIDR_EL1, as in the device tree's `reg`.
pub(super) const AFFINITY: u64 = 0xff_00ff_ffff;

static STACKS: [Stack<{ 128 * 1024 }>; MAX - 1] = [const { Stack::new() }; MAX - 1];

/// How far an attempt to start a core has come.
struct Attempt {
    state: AtomicU8,
    /// The core's number, if it appears.
    index: AtomicUsize,
}

const CALLED: u8 = 1;
const ONLINE: u8 = 2;
const GIVEN_UP: u8 = 3;

static ATTEMPTS: [Attempt; MAX - 1] =
    [const { Attempt { state: AtomicU8::new(0), index: AtomicUsize::new(0) } }; MAX - 1];

/// How cores wait, always.
const WAITS: Waits<'_> = Waits { jobs: &Doze, steps: &Doze };

/// All cores that run.
pub struct Cores {
    /// Cores that have come up beside the boot core: zero at first, so that the static takes no place in the image.
    others: AtomicUsize,
    board: Board,
}

static CORES: Cores = Cores { others: AtomicUsize::new(0), board: Board::new() };

/// Why a core of the device tree does not take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// The device tree says neither PSCI nor spin table.
    NoMethod,
    /// PSCI is to start it, and there is no firmware that could: none is named, or the image entered at EL3.
    NoFirmware,
    /// Firmware refused.
    Refused(psci::error::Error),
    /// It was started and did not appear within a second.
    Silent,
    /// There are stacks for [`MAX`] cores.
    NoStack,
}

impl core::fmt::Display for StartError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NoMethod => f.write_str("the device tree does not say how it is started"),
            Self::NoFirmware => f.write_str("there is no firmware that takes PSCI calls"),
            Self::Refused(error) => write!(f, "firmware refuses: {error}"),
            Self::Silent => f.write_str("it does not answer within a second"),
            Self::NoStack => write!(f, "this image has stacks for {MAX} cores"),
        }
    }
}

/// Starts cores until `wanted` run, the boot core among them, and says of each that fails why.
///
/// `cores` are the device tree's, the boot core among them. To be called once, on the boot core, when the final map is
/// active.
pub fn start(
    cores: impl Iterator<Item = Core>,
    wanted: usize,
    mut failed: impl FnMut(u64, StartError),
) -> &'static Cores {
    doze::enable();
    let own = MPIDR_EL1.get() & AFFINITY;
    let wanted = wanted.clamp(1, MAX);
    for (slot, core) in cores.filter(|core| core.affinity != own).enumerate() {
        let online = CORES.size();
        if online == wanted {
            break;
        }
        match start_core(core, slot, online) {
            Ok(()) => CORES.others.store(online, Ordering::Release),
            Err(error) => failed(core.affinity, error),
        }
    }
    &CORES
}

fn start_core(core: Core, slot: usize, index: usize) -> Result<(), StartError> {
    let (stack, attempt) = STACKS.get(slot).zip(ATTEMPTS.get(slot)).ok_or(StartError::NoStack)?;
    let ttbr0 = mmu::MAP.lock().ttbr0();
    let begin = stack.put_start(|stack| CoreStart { stack, ttbr0, sctlr: mmu::SCTLR_FINAL, slot });
    mmu::clean(begin);
    attempt.index.store(index, Ordering::Relaxed);
    attempt.state.store(CALLED, Ordering::Release);
    let context = &raw const *begin as u64;
    match core.method {
        Method::Psci => {
            let entry = _start_core as *const () as u64;
            match conduit() {
                Some(Conduit::Hvc) => psci::cpu_on::<Hvc>(core.affinity, entry, context),
                Some(Conduit::Smc) => psci::cpu_on::<Smc>(core.affinity, entry, context),
                None => return Err(StartError::NoFirmware),
            }
            .map_err(StartError::Refused)?;
        }
        Method::SpinTable(place) => release(core.affinity, slot, place, context),
        Method::Unknown => return Err(StartError::NoMethod),
    }
    let patience = CNTFRQ_EL0.get();
    let start = CNTVCT_EL0.get();
    while attempt.state.load(Ordering::Acquire) == CALLED {
        if CNTVCT_EL0.get() - start > patience {
            let given_up =
                attempt.state.compare_exchange(CALLED, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire);
            // Or it has appeared in this very moment.
            return if given_up.is_ok() { Err(StartError::Silent) } else { Ok(()) };
        }
        relax(0);
    }
    Ok(())
}

/// Sends the core that looks at `place` to our entry, where it finds `context` by its affinity.
fn release(affinity: u64, slot: usize, place: usize, context: u64) {
    // SAFETY: this core alone writes; the core that reads this entry is let go below, and one entry is one core's.
    unsafe { SPUN.0.get().cast::<[u64; 2]>().add(slot).write([affinity, context]) };
    mmu::clean(&SPUN);
    let place = core::ptr::with_exposed_provenance_mut::<u64>(place);
    // SAFETY: firmware's spin table, by the device tree; the boot has mapped its page as data. It may lie at any
    // address that is not 0, and holds nothing else.
    unsafe {
        place.write_volatile(_start_spun as *const () as u64);
        mmu::clean(&*place);
    }
    cortex_a::asm::sev();
}

/// Where a started core's Rust begins: it waits for jobs for ever.
pub(super) extern "C" fn core_main(slot: usize) -> ! {
    let attempt = &ATTEMPTS[slot];
    if attempt.state.compare_exchange(CALLED, ONLINE, Ordering::AcqRel, Ordering::Acquire).is_err() {
        // Too late: the others go on without.
        loop {
            cortex_a::asm::wfi();
        }
    }
    let index = attempt.index.load(Ordering::Relaxed);
    vectors::install(index);
    doze::enable();
    // Nobody ever stops it.
    static STOP: AtomicBool = AtomicBool::new(false);
    loop {
        CORES.board.serve(index, &WAITS, &STOP);
    }
}

impl Team for Cores {
    fn size(&self) -> usize {
        1 + self.others.load(Ordering::Acquire)
    }

    fn run(&self, job: &(dyn Fn(Member<'_>) + Sync)) {
        self.board.run(self.size(), &WAITS, job);
    }
}

/// Cores that run, the boot core among them.
pub fn online() -> usize {
    CORES.size()
}

/// Whether a job has begun that not all cores have finished.
pub fn in_job() -> bool {
    CORES.board.is_busy()
}

/// The first page below each stack, emergency stacks among them.
pub fn guards() -> impl Iterator<Item = usize> {
    core::iter::once(BOOT_STACK.guard.get() as usize)
        .chain(STACKS.iter().map(|stack| stack.guard.get() as usize))
        .chain(vectors::guards())
}

/// Whether `address` lies in a guard page.
pub fn is_guard(address: usize) -> bool {
    guards().any(|guard| (guard..guard + 4096).contains(&address))
}
