//! Address translation: an identity map in which no byte is both writable and executable.
//!
//! 39-bit addresses, 4 KiB granule: a table of 1 GiB entries, below it tables of 2 MiB blocks and of 4 KiB pages, and
//! always the largest piece that fits. Formats: Arm Architecture Reference Manual (DDI 0487), D8.3.

use core::fmt;
use core::ops::Range;

use cortex_a::asm::barrier;
use cortex_a::registers::{SCTLR_EL1, TTBR0_EL1, Writeable};

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

const ACCESSED: u64 = 1 << 10;
const NOT_GLOBAL: u64 = 1 << 11;
const SHAREABLE: u64 = 3 << 8;
const READ_ONLY: u64 = 1 << 7;
const NEVER_EXECUTE: u64 = 3 << 53;
const USER_NEVER_EXECUTES: u64 = 1 << 54;
const NORMAL: u64 = 1 << 2;
const BLOCK: u64 = 1;
const TABLE_OR_PAGE: u64 = 3;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// A 2 MiB block of the first page table: normal memory, everything allowed.
pub(super) const EARLY_NORMAL: u64 = BLOCK | NORMAL | SHAREABLE | ACCESSED | NOT_GLOBAL;
/// A 2 MiB block of the first page table: device registers.
pub(super) const EARLY_DEVICE: u64 = BLOCK | ACCESSED | NOT_GLOBAL | NEVER_EXECUTE;

/// What a range of addresses may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Read and executed.
    Code,
    /// Read.
    ReadOnly,
    /// Read and written.
    Data,
    /// Device registers, read and written in order.
    Device,
}

impl Kind {
    const fn attributes(self) -> u64 {
        ACCESSED
            | NOT_GLOBAL
            | match self {
                Self::Code => NORMAL | SHAREABLE | READ_ONLY | USER_NEVER_EXECUTES,
                Self::ReadOnly => NORMAL | SHAREABLE | READ_ONLY | NEVER_EXECUTE,
                Self::Data => NORMAL | SHAREABLE | NEVER_EXECUTE,
                Self::Device => NEVER_EXECUTE,
            }
    }
}

/// The machine's memory is in more pieces than there are tables for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfTables;

impl fmt::Display for OutOfTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the memory map needs more than {TABLES} page tables; raise `mmu::TABLES`")
    }
}

/// Page tables there is room for; QEMU's `virt` machine takes eight.
const TABLES: usize = 32;

#[repr(C, align(4096))]
#[derive(Clone, Copy)]
struct Table([u64; 512]);

/// A memory map under construction; its first table is the root.
pub struct Map {
    tables: [Table; TABLES],
    used: usize,
}

/// The map that all cores use.
pub static MAP: spin::Mutex<Map> = spin::Mutex::new(Map { tables: [Table([0; 512]); TABLES], used: 1 });

/// log2 of the bytes that an entry of a table of `level` spans.
const fn shift(level: usize) -> usize {
    39 - 9 * level
}

impl Map {
    /// Lets `range` (whole 4 KiB pages) be used as `kind`, whatever it was before.
    pub fn add(&mut self, range: Range<usize>, kind: Kind) -> Result<(), OutOfTables> {
        self.set(range, Some(kind))
    }

    /// Takes `range` (whole 4 KiB pages) out: every access faults.
    pub fn remove(&mut self, range: Range<usize>) -> Result<(), OutOfTables> {
        self.set(range, None)
    }

    fn set(&mut self, range: Range<usize>, kind: Option<Kind>) -> Result<(), OutOfTables> {
        assert!(
            range.start.is_multiple_of(4096) && range.end.is_multiple_of(4096),
            "{range:x?}: not whole pages"
        );
        assert!(range.end <= 1 << 39, "{range:x?}: beyond 512 GiB");
        let mut at = range.start;
        while at < range.end {
            let (mut table, mut level) = (0, 1);
            loop {
                let (index, size) = (at >> shift(level) & 511, 1 << shift(level));
                let entry = &mut self.tables[table].0[index];
                let is_table = level < 3 && *entry & TABLE_OR_PAGE == TABLE_OR_PAGE;
                if at.is_multiple_of(size) && range.end - at >= size && !is_table {
                    let valid = if level == 3 { TABLE_OR_PAGE } else { BLOCK };
                    *entry = kind.map_or(0, |kind| at as u64 | kind.attributes() | valid);
                    at += size;
                    break;
                }
                table = self.below(table, index, level)?;
                level += 1;
            }
        }
        Ok(())
    }

    /// The table under an entry; a block is split into the pieces it stood for.
    fn below(&mut self, table: usize, index: usize, level: usize) -> Result<usize, OutOfTables> {
        let entry = self.tables[table].0[index];
        let first = self.tables.as_ptr() as usize;
        if entry & TABLE_OR_PAGE == TABLE_OR_PAGE {
            return Ok(((entry & ADDRESS) as usize - first) / size_of::<Table>());
        }
        let new = self.used;
        let pieces = &mut self.tables.get_mut(new).ok_or(OutOfTables)?.0;
        self.used += 1;
        if entry & BLOCK != 0 {
            let valid = if level + 1 == 3 { TABLE_OR_PAGE } else { BLOCK };
            for (i, piece) in pieces.iter_mut().enumerate() {
                *piece = ((entry & !TABLE_OR_PAGE) + ((i as u64) << shift(level + 1))) | valid;
            }
        }
        self.tables[table].0[index] = (first + new * size_of::<Table>()) as u64 | TABLE_OR_PAGE;
        Ok(new)
    }

    /// TTBR0_EL1 for this map, under an address space number of its own.
    pub(super) fn ttbr0(&self) -> u64 {
        self.tables.as_ptr() as u64 | 2 << 48
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
