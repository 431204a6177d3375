//! The performance monitors (Arm DDI 0487, D13): cycles, instructions, cache refills, branch misses of this core.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::llm::benchmarks::{Counter, CounterSample};

/// Architectural event numbers and bits of PMCEID0_EL0.
const L1D_CACHE_REFILL: u64 = 0x03;
pub(super) const INST_RETIRED: u64 = 0x08;
const BR_MIS_PRED: u64 = 0x10;

/// QEMU announces the event only where it can count it.
const NO_INSTRUCTIONS: &str = "this machine does not count instructions (QEMU does with -icount shift=0)";
const NO_CYCLES: &str = "an emulated cycle counter is a clock";
const NO_EVENT: &str = "this processor does not count the event";

/// Reads a system register.
macro_rules! read {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reading a counter register at EL1 has no effect.
        unsafe { asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack)) };
        value
    }};
}

/// Writes a system register of the performance monitors.
macro_rules! write {
    ($name:literal, $value:expr) => {
        // SAFETY: sets up counters, which nothing else uses.
        unsafe { asm!(concat!("msr ", $name, ", {}"), in(reg) $value, options(nomem, nostack)) }
    };
}

/// What the 32-bit event counters have lost by overflowing.
static LOST: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

/// Event counter `number` in 64 bits; exact if it is looked at at least every 2^32 events.
fn extended(number: usize, read: impl Fn() -> u64) -> u64 {
    let mut value = read();
    if read!("pmovsset_el0") >> number & 1 == 1 {
        write!("pmovsclr_el0", 1u64 << number);
        LOST[number].fetch_add(1 << 32, Ordering::Relaxed);
        value = read();
    }
    LOST[number].load(Ordering::Relaxed) + value
}

/// Instructions since the image's first one, which the entry lets counter 0 count; until [`Pmu::start`] begins anew.
/// Nothing of use where instructions are not counted.
pub fn since_entry() -> u64 {
    read!("pmevcntr0_el0")
}

/// The boot core's counters, running.
#[derive(Clone, Copy, Debug)]
pub struct Pmu {
    events: u64,
}

impl Pmu {
    /// Sets the counters up and starts them.
    pub fn start() -> Self {
        let pmu = Pmu { events: read!("pmceid0_el0") };
        // Count at EL1: no bit of the filters set.
        write!("pmevtyper0_el0", INST_RETIRED);
        write!("pmevtyper1_el0", L1D_CACHE_REFILL);
        write!("pmevtyper2_el0", BR_MIS_PRED);
        write!("pmccfiltr_el0", 0u64);
        write!("pmovsclr_el0", 0b111u64);
        write!("pmcntenset_el0", 1u64 << 31 | 0b111);
        // On, all counters zero, the cycle counter in 64 bits.
        let control = read!("pmcr_el0") | 1 | 2 | 4 | 1 << 6;
        write!("pmcr_el0", control);
        // SAFETY: a barrier.
        unsafe { asm!("isb", options(nostack)) };
        pmu
    }

    /// Whether retired instructions are counted.
    pub fn counts_instructions(&self) -> bool {
        self.has(INST_RETIRED)
    }

    fn has(&self, event: u64) -> bool {
        self.events >> event & 1 == 1
    }

    /// All counters now. The barrier keeps what comes before inside the interval.
    pub fn sample(&self) -> CounterSample {
        // SAFETY: a barrier.
        unsafe { asm!("isb", options(nostack)) };
        let counted =
            |event, value: u64, reason| -> Counter { if self.has(event) { Ok(value) } else { Err(reason) } };
        CounterSample {
            instructions: counted(INST_RETIRED, extended(0, || read!("pmevcntr0_el0")), NO_INSTRUCTIONS),
            cycles: counted(INST_RETIRED, read!("pmccntr_el0"), NO_CYCLES),
            cache_refills: counted(L1D_CACHE_REFILL, extended(1, || read!("pmevcntr1_el0")), NO_EVENT),
            branch_misses: counted(BR_MIS_PRED, extended(2, || read!("pmevcntr2_el0")), NO_EVENT),
        }
    }
}

/// Counters that [`Pmu::start`] has taken.
const TAKEN: usize = 3;
/// Counters that [`count`] uses at a time, at most.
pub const MOST: usize = 3;

/// Event counters of this core, beside the one of cycles: PMCR_EL0.N.
pub fn counters() -> usize {
    (read!("pmcr_el0") >> 11 & 0x1f) as usize
}

/// How many events [`count`] can take at a time.
pub fn room() -> usize {
    counters().saturating_sub(TAKEN).min(MOST)
}

/// What the core announces to count: PMCEID0_EL0 and PMCEID1_EL0.
pub fn announced() -> [u64; 2] {
    [read!("pmceid0_el0"), read!("pmceid1_el0")]
}

/// Counts events of this core while `body` runs: [`room`] of them, each fewer than 2^33 times. To be used behind
/// [`Pmu::start`].
pub fn count(events: &[u16], body: &mut dyn FnMut()) -> [u64; MOST] {
    assert!(events.len() <= room(), "{} events, room for {}", events.len(), room());
    let event = |index: usize| u64::from(events.get(index).copied().unwrap_or(0));
    if room() > 0 {
        write!("pmevtyper3_el0", event(0));
    }
    if room() > 1 {
        write!("pmevtyper4_el0", event(1));
    }
    if room() > 2 {
        write!("pmevtyper5_el0", event(2));
    }
    let mask = ((1u64 << events.len()) - 1) << TAKEN;
    let now = || {
        // SAFETY: a barrier.
        unsafe { asm!("isb", options(nostack)) };
        let fourth = if room() > 1 { read!("pmevcntr4_el0") } else { 0 };
        let fifth = if room() > 2 { read!("pmevcntr5_el0") } else { 0 };
        [if room() > 0 { read!("pmevcntr3_el0") } else { 0 }, fourth, fifth]
    };
    write!("pmovsclr_el0", mask);
    write!("pmcntenset_el0", mask);
    let start = now();
    body();
    let end = now();
    write!("pmcntenclr_el0", mask);
    let overflown = read!("pmovsset_el0") >> TAKEN;
    core::array::from_fn(|index| match index < events.len() {
        // The counters have 32 bits; one that has passed its end lacks 2^32.
        true => (end[index] + ((overflown >> index & 1) << 32)).wrapping_sub(start[index]),
        false => 0,
    })
}
