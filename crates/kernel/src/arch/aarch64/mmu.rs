//! Address translation on this processor: its registers, and the one [`Map`] that all cores use.

use core::ops::Range;

use cortex_a::asm::barrier;
use cortex_a::registers::{SCTLR_EL1, TTBR0_EL1, Writeable};

use super::translation::{ACCESSED, BLOCK, NEVER_EXECUTE, NORMAL, NOT_GLOBAL, SHAREABLE};
pub use super::translation::{Kind, Map, OutOfTables};

/// Memory types by index: 0 device (nGnRE), 1 normal, write-back.
pub(super) const MAIR: u64 = 0xff04;
/// 39-bit addresses below, none above; table walks cacheable and inner shareable. The physical size is added at boot.
pub(super) const TCR: u64 = 25 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23;
/// The bits that are one by definition; everything off.
pub(super) const SCTLR_OFF: u64 = 0x30d0_0800;
/// MMU, caches, stack alignment checks.
pub(super) const SCTLR_EARLY: u64 = SCTLR_OFF | 1 | 1 << 2 | 1 << 3 | 1 << 12;
/// Also: what can be written cannot be executed.
pub(super) const SCTLR_FINAL: u64 = SCTLR_EARLY | 1 << 19;

/// A 2 MiB block of the first page table: normal memory, everything allowed.
pub(super) const EARLY_NORMAL: u64 = BLOCK | NORMAL | SHAREABLE | ACCESSED | NOT_GLOBAL;
/// A 2 MiB block of the first page table: device registers.
pub(super) const EARLY_DEVICE: u64 = BLOCK | ACCESSED | NOT_GLOBAL | NEVER_EXECUTE;

/// The map that all cores use.
pub static MAP: spin::Mutex<Map> = spin::Mutex::new(Map::new());

/// Makes whole pages, of data until now or read-only, what `kind` says, on every core.
pub fn make(pages: Range<usize>, kind: Kind) -> Result<(), OutOfTables> {
    MAP.lock().change(pages, kind, &|| {
        // SAFETY: translations are read again from the table in use, on all cores.
        unsafe { core::arch::asm!("dsb ishst", "tlbi vmalle1is", "dsb ish", "isb", options(nostack)) }
    })
}

impl Map {
    /// TTBR0_EL1 for this map, under an address space number of its own.
    pub(super) fn ttbr0(&self) -> u64 {
        self.root() as u64 | 2 << 48
    }

    /// Switches this core from the first page table to this map.
    ///
    /// # Safety
    /// - The map holds the image with its stacks, the console, and everything that is borrowed, as what it is.
    pub unsafe fn activate(&self) {
        barrier::dsb(barrier::ISHST);
        TTBR0_EL1.set(self.ttbr0());
        barrier::isb(barrier::SY);
        flush();
        SCTLR_EL1.set(SCTLR_FINAL);
        barrier::isb(barrier::SY);
        flush();
    }
}

/// Forgets this core's cached translations.
fn flush() {
    // SAFETY: translations are read again from the table in use.
    unsafe { core::arch::asm!("tlbi vmalle1", "dsb nsh", "isb", options(nostack)) }
}

/// Writes `value`'s cache lines back to memory, for a reader whose caches are off.
pub(super) fn clean<T>(value: &T) {
    let first = core::ptr::from_ref(value) as usize / 64 * 64;
    for line in (first..core::ptr::from_ref(value) as usize + size_of::<T>()).step_by(64) {
        // SAFETY: cleaning a line of a live reference changes no value. Lines have 64 bytes on every Cortex-A;
        // larger ones are cleaned more than once.
        unsafe { core::arch::asm!("dc civac, {}", in(reg) line, options(nostack)) }
    }
    barrier::dsb(barrier::SY);
}
