//! The processor's cores as a [`Team`]: started once by firmware, they wait for jobs and run them together.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

use cortex_a::registers::{CNTFRQ_EL0, CNTVCT_EL0, MPIDR_EL1, Readable};
use smccc::{Hvc, Smc, psci};

use super::doze::{self, relax};
use super::entry::{_start_core, BOOT_STACK, CoreStart, Stack};
use super::exit::{Conduit, conduit};
use super::{mmu, vectors};
use crate::llm::pool::{Barrier, Member, Solo, Team};

/// Cores that can be used, the boot core among them.
pub const MAX: usize = 8;

/// Affinity bits of MPIDR_EL1, as in the device tree's `reg`.
const AFFINITY: u64 = 0xff_00ff_ffff;

static STACKS: [Stack<{ 128 * 1024 }>; MAX - 1] = [const { Stack::new() }; MAX - 1];

/// A job without its lifetime: [`Cores::run`] returns only when no core uses it any more.
type Job = *const (dyn Fn(Member<'_>) + Sync);

/// All cores that run.
pub struct Cores {
    /// Cores that have come up, the boot core among them.
    online: AtomicUsize,
    /// Jobs begun.
    epoch: AtomicUsize,
    /// Cores besides the boot core that have finished the present job.
    finished: AtomicUsize,
    job: UnsafeCell<Option<Job>>,
    barrier: Barrier,
}

// SAFETY: `job` is written only by `run` while every other core waits for `epoch`, which publishes it.
unsafe impl Sync for Cores {}

static CORES: Cores = Cores {
    online: AtomicUsize::new(1),
    epoch: AtomicUsize::new(0),
    finished: AtomicUsize::new(0),
    job: UnsafeCell::new(None),
    barrier: Barrier::new(),
};

/// Why a core of the device tree does not take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// The device tree names no way to call firmware.
    NoFirmware,
    /// Firmware refused.
    Refused(psci::error::Error),
    /// It was started and did not appear within a second.
    Silent,
}

impl core::fmt::Display for StartError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NoFirmware => f.write_str("the device tree has no PSCI"),
            Self::Refused(error) => write!(f, "firmware refuses: {error}"),
            Self::Silent => f.write_str("it does not answer"),
        }
    }
}

/// Starts cores by PSCI until `wanted` run, the boot core among them, and says of each that fails why.
///
/// `affinities` are the `reg` values of the device tree's cores, the boot core's among them. To be called once, on the
/// boot core, when the final map is active.
pub fn start(
    affinities: impl Iterator<Item = u64>,
    wanted: usize,
    mut failed: impl FnMut(u64, StartError),
) -> &'static Cores {
    doze::enable();
    let own = MPIDR_EL1.get() & AFFINITY;
    let wanted = wanted.clamp(1, MAX);
    for affinity in affinities.filter(|&affinity| affinity != own) {
        let online = CORES.online.load(Ordering::Acquire);
        if online == wanted {
            break;
        }
        if let Err(error) = start_core(affinity, online) {
            failed(affinity, error);
            if error == StartError::Silent {
                // It may still appear, with the next core's number: no further ones.
                break;
            }
        }
    }
    &CORES
}

fn start_core(affinity: u64, index: usize) -> Result<(), StartError> {
    let ttbr0 = mmu::MAP.lock().ttbr0();
    let begin =
        STACKS[index - 1].put_start(|stack| CoreStart { stack, ttbr0, sctlr: mmu::SCTLR_FINAL, index });
    mmu::clean(begin);
    let (entry, context) = (_start_core as *const () as u64, &raw const *begin as u64);
    match conduit() {
        Some(Conduit::Hvc) => psci::cpu_on::<Hvc>(affinity, entry, context),
        Some(Conduit::Smc) => psci::cpu_on::<Smc>(affinity, entry, context),
        None => return Err(StartError::NoFirmware),
    }
    .map_err(StartError::Refused)?;
    let patience = CNTFRQ_EL0.get();
    let start = CNTVCT_EL0.get();
    while CORES.online.load(Ordering::Acquire) == index {
        if CNTVCT_EL0.get() - start > patience {
            return Err(StartError::Silent);
        }
        relax(0);
    }
    Ok(())
}

/// Where a started core's Rust begins: it waits for jobs for ever.
pub(super) extern "C" fn core_main(index: usize) -> ! {
    vectors::install(index);
    doze::enable();
    CORES.online.fetch_add(1, Ordering::AcqRel);
    let mut done = 0;
    loop {
        let mut looks = 0u32;
        while CORES.epoch.load(Ordering::Acquire) == done {
            relax(looks);
            looks = looks.saturating_add(1);
        }
        done += 1;
        // SAFETY: `run` has published a job and does not touch it until this core has finished.
        let job = unsafe { (*CORES.job.get()).map(|job| &*job) };
        if let Some(job) = job {
            job(Member::new(index, CORES.size(), &CORES.barrier, &relax));
        }
        CORES.finished.fetch_add(1, Ordering::Release);
    }
}

impl Team for Cores {
    fn size(&self) -> usize {
        self.online.load(Ordering::Acquire)
    }

    fn run(&self, job: &(dyn Fn(Member<'_>) + Sync)) {
        let size = self.size();
        if size == 1 {
            return Solo.run(job);
        }
        self.finished.store(0, Ordering::Relaxed);
        // SAFETY: only the lifetime goes; this function outlives every use. Nobody else reads or writes `job` now:
        // the other cores wait for `epoch`.
        unsafe {
            *self.job.get() = Some(core::mem::transmute::<*const (dyn Fn(Member<'_>) + Sync + '_), Job>(job));
        }
        self.epoch.fetch_add(1, Ordering::Release);
        job(Member::new(0, size, &self.barrier, &relax));
        let mut looks = 0u32;
        while self.finished.load(Ordering::Acquire) != size - 1 {
            relax(looks);
            looks = looks.saturating_add(1);
        }
    }
}

/// The first page below each stack.
pub fn guards() -> impl Iterator<Item = usize> {
    core::iter::once(BOOT_STACK.guard.get() as usize)
        .chain(STACKS.iter().map(|stack| stack.guard.get() as usize))
}

/// Whether `address` lies in a guard page.
pub fn is_guard(address: usize) -> bool {
    guards().any(|guard| (guard..guard + 4096).contains(&address))
}
