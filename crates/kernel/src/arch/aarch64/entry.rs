//! The Linux arm64 image header and the first instructions of every core: down to EL1, caches on, into Rust.
//!
//! - Whatever level a core enters at, it goes down to EL1: QEMU's `virt` starts at EL1, EL2 or EL3 as asked, a
//!   Raspberry Pi's firmware at EL2, and a core that PSCI starts at the level that called. One level means one set of
//!   vectors, translation registers and timers to get right; EL2 would only matter to a kernel with guests. A core
//!   that enters EL2 as a host (VHE, HCR_EL2.E2H) leaves that first.
//! - The boot core finds the device tree: where x0 says, or else at the start of the gigabyte that the image lies in,
//!   where `virt` puts it if nothing loads a kernel the usual way. No other address is looked at: it could be a device.
//! - It relocates the image, clears its memory and writes a first page table: image and device tree in 2 MiB blocks,
//!   so that no Rust code ever runs without the MMU (atomics and unaligned accesses need it). Rust adds the console
//!   to it when it has a guess where that is ([`map_early_device`]). [`super::mmu`] builds the table that stays.
//! - A core from a spin table is given nothing, so it looks for its own affinity in [`SPUN`].

use core::arch::global_asm;

use super::mmu;
use crate::machine::device_tree::MAGIC;

/// Bytes of the boot core's stack.
const STACK_SIZE: usize = 512 * 1024;

/// A stack above a page that the final page table leaves out.
#[repr(C, align(4096))]
pub(super) struct Stack<const SIZE: usize> {
    pub(super) guard: core::cell::UnsafeCell<[u8; 4096]>,
    bytes: core::cell::UnsafeCell<[u8; SIZE]>,
}

impl<const SIZE: usize> Stack<SIZE> {
    pub(super) const fn new() -> Self {
        Stack { guard: core::cell::UnsafeCell::new([0; 4096]), bytes: core::cell::UnsafeCell::new([0; SIZE]) }
    }

    /// Writes what the core that owns the stack is to find into its highest bytes; the stack begins below them.
    /// To be called once, before that core runs.
    pub(super) fn put_start(&'static self, start: impl FnOnce(usize) -> CoreStart) -> &'static CoreStart {
        let first = self.bytes.get() as usize + SIZE - size_of::<CoreStart>();
        let place = core::ptr::with_exposed_provenance_mut::<CoreStart>(first);
        // SAFETY: inside the stack, aligned like it, and nobody uses the stack yet.
        unsafe {
            place.write(start(first));
            &*place
        }
    }
}

// SAFETY: only one core's stack pointer ever points into it.
unsafe impl<const SIZE: usize> Sync for Stack<SIZE> {}

/// The boot core's stack.
pub(super) static BOOT_STACK: Stack<STACK_SIZE> = Stack::new();

/// First page table: one table of 1 GiB entries and five of 2 MiB blocks (image and tree may each straddle a
/// boundary).
#[repr(C, align(4096))]
struct EarlyTables(core::cell::UnsafeCell<[[u64; 512]; 6]>);

// SAFETY: written only by the boot core's first instructions.
unsafe impl Sync for EarlyTables {}

static EARLY_TABLES: EarlyTables = EarlyTables(core::cell::UnsafeCell::new([[0; 512]; 6]));

/// Maps the device at `address` in the first page table, if it lies below 512 GiB and nothing is mapped there.
///
/// # Safety
/// - The first page table is in use, by the only core that runs.
/// - There is a device at `address`, and nothing but devices shares its 2 MiB, nor its gigabyte if neither the image
///   nor the tree lies in it.
pub(crate) unsafe fn map_early_device(address: usize) {
    let tables = EARLY_TABLES.0.get().cast::<u64>();
    let (gigabyte, block) = (address >> 30, address >> 21);
    if gigabyte >= 512 {
        return;
    }
    // SAFETY: an entry of the first table; only this core looks at it.
    let root = unsafe { tables.add(gigabyte) };
    // SAFETY: as above.
    let entry = unsafe { root.read_volatile() };
    let (place, first) = match entry & 3 {
        0 => (root, gigabyte << 30),
        3 => {
            let table = core::ptr::with_exposed_provenance_mut::<u64>(entry as usize & !0xfff);
            // SAFETY: the entry leads to one of our five other tables.
            (unsafe { table.add(block % 512) }, block << 21)
        }
        // A gigabyte of devices already.
        _ => return,
    };
    // SAFETY: an entry of our tables; going from nothing to something needs no invalidation.
    unsafe {
        if place.read_volatile() == 0 {
            place.write_volatile(first as u64 | mmu::EARLY_DEVICE);
        }
        core::arch::asm!("dsb ishst", "isb", options(nostack));
    }
}

/// For a core from a spin table: affinity, and the address of its [`CoreStart`] or 0.
#[repr(C, align(64))]
pub(super) struct Spun(pub(super) core::cell::UnsafeCell<[[u64; 2]; super::cores::MAX]>);

// SAFETY: written only by the boot core, before it lets the core that is meant go.
unsafe impl Sync for Spun {}

/// All that have been let go.
pub(super) static SPUN: Spun = Spun(core::cell::UnsafeCell::new([[0; 2]; super::cores::MAX]));

/// What a core finds at the address in its x0 when firmware starts it.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub(super) struct CoreStart {
    /// Top of its stack.
    pub stack: usize,
    /// Its page table, as in TTBR0_EL1.
    pub ttbr0: u64,
    /// SCTLR_EL1 once the table is in place.
    pub sctlr: u64,
    /// Which start this is.
    pub slot: usize,
}

unsafe extern "C" {
    /// Where firmware starts a further core, with the address of its [`CoreStart`] in x0.
    pub(super) fn _start_core();
    /// Where a spin table sends a core, with nothing.
    pub(super) fn _start_spun();
}

global_asm!(
    r#"
    // From EL3 or EL2 down to EL1 with interrupts masked, MMU off, vectors on, FPCR zero. Overwrites x1 to x3.
    .macro to_el1
    msr     daifset, #0xf
    mrs     x1, CurrentEL
    cmp     x1, #(3 << 2)
    b.ne    2f
    mov     x1, #0x531                // EL3: below it non-secure AArch64, hvc and smc work
    msr     scr_el3, x1
    msr     cptr_el3, xzr
    msr     mdcr_el3, xzr
    mrs     x1, midr_el1              // these keep their caches in step only if told to (their manuals: SMPEN)
    ubfx    x1, x1, #4, #12
    mov     x2, #0xd03                // Cortex-A53
    mov     x3, #0xd07                // Cortex-A57
    cmp     x1, x2
    ccmp    x1, x3, #4, ne
    mov     x2, #0xd08                // Cortex-A72
    ccmp    x1, x2, #4, ne
    b.ne    1f
    mrs     x1, s3_1_c15_c2_1         // CPUECTLR_EL1
    orr     x1, x1, #(1 << 6)
    msr     s3_1_c15_c2_1, x1
    isb
1:
    mov     x1, #(1 << 31)            // EL2, if there is one: EL1 is AArch64, MMU off
    msr     hcr_el2, x1
    mov     x1, #0x0830
    movk    x1, #0x30c5, lsl #16
    msr     sctlr_el2, x1
    adr     x1, 2f
    msr     elr_el3, x1
    mrs     x1, id_aa64pfr0_el1
    tst     x1, #(0xf << 8)           // is there an EL2?
    mov     x1, #0x3c9
    mov     x2, #0x3c5
    csel    x1, x1, x2, ne
    mov     x2, #{sctlr_off_low}
    movk    x2, #{sctlr_off_high}, lsl #16
    msr     sctlr_el1, x2
    msr     spsr_el3, x1
    isb
    eret
2:
    mrs     x1, CurrentEL
    cmp     x1, #(2 << 2)
    b.ne    3f
    mov     x1, #(1 << 31)            // EL2: EL1 is AArch64, EL2 is no host
    msr     hcr_el2, x1
    isb
    mov     x1, #0x33ff               // no floating-point traps
    msr     cptr_el2, x1
    mov     x1, #3                    // EL1 reads the timers
    msr     cnthctl_el2, x1
    msr     cntvoff_el2, xzr
    adrp    x1, {hypervisor}          // what stays here answers calls
    add     x1, x1, :lo12:{hypervisor}
    msr     vbar_el2, x1
    mrs     x1, pmcr_el0              // EL1 owns all event counters
    ubfx    x1, x1, #11, #5
    msr     mdcr_el2, x1
    mov     x1, #{sctlr_off_low}
    movk    x1, #{sctlr_off_high}, lsl #16
    msr     sctlr_el1, x1
    mov     x1, #0x3c5
    msr     spsr_el2, x1
    adr     x1, 3f
    msr     elr_el2, x1
    isb
    eret
3:
    msr     spsel, #1
    mov     x1, #(3 << 20)            // floating point and vectors on
    msr     cpacr_el1, x1
    isb
    msr     fpcr, xzr                 // round to nearest, subnormals kept: the arithmetic's promise
    .endm

    // Translation by the table in x1 with SCTLR_EL1 from x2. Overwrites x3 and x4.
    .macro translate
    mov     x3, #{mair}
    msr     mair_el1, x3
    ldr     x3, ={tcr}
    mrs     x4, id_aa64mmfr0_el1      // physical addresses: 40 bits, or fewer where the core has fewer
    and     x4, x4, #0xf
    cmp     x4, #2
    mov     x5, #2
    csel    x4, x4, x5, lo
    orr     x3, x3, x4, lsl #32
    msr     tcr_el1, x3
    msr     ttbr0_el1, x1
    isb
    tlbi    vmalle1
    ic      iallu
    dsb     nsh
    isb
    msr     sctlr_el1, x2
    isb
    .endm

    .section .text.boot, "ax"
    .global _start
_start:
    b       1f                        // code0: over the header
    .word   0                         // code1
    .quad   0                         // text_offset: a 2 MiB boundary
    .quad   __image_size              // bytes in memory, zeroed ones included
    .quad   0xa                       // little-endian, 4 KiB pages, anywhere in memory
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .word   0
1:
    mov     x22, x0
    mrs     x25, CurrentEL
    to_el1
    mov     x1, #{instructions}       // counter 0 counts instructions from here on
    msr     pmevtyper0_el0, x1
    mov     x1, #1
    msr     pmcntenset_el0, x1
    mov     x1, #3                    // all on, all zero
    msr     pmcr_el0, x1
    isb
    adrp    x1, {stack_top}
    add     x1, x1, :lo12:{stack_top}
    ldr     x2, ={stack_offset}
    add     sp, x1, x2
    adrp    x23, __image_start
    add     x23, x23, :lo12:__image_start
    adrp    x24, __image_end
    add     x24, x24, :lo12:__image_end

    mov     x19, x22                  // the device tree: at x0
    ldr     w2, ={magic}
    cbz     x19, 3f
    tst     x19, #7                   // it lies on an 8-byte boundary, where the first page table reaches
    b.ne    3f
    lsr     x1, x19, #39
    cbnz    x1, 3f
    ldr     w1, [x19]
    cmp     w1, w2
    b.eq    4f
3:
    and     x19, x23, #0xffffffffc0000000
    ldr     w1, [x19]                 // or where memory begins
    cmp     w1, w2
    b.eq    4f
    mov     x19, xzr                  // or nowhere
4:
    adrp    x1, __rela_start          // relocate: every entry is R_AARCH64_RELATIVE
    add     x1, x1, :lo12:__rela_start
    adrp    x2, __rela_end
    add     x2, x2, :lo12:__rela_end
4:
    cmp     x1, x2
    b.hs    5f
    ldr     x4, [x1]                  // offset of the word
    ldr     x5, [x1, #16]             // what it holds when linked at 0
    add     x5, x5, x23
    str     x5, [x23, x4]
    add     x1, x1, #24
    b       4b
5:
    adrp    x1, __relr_start          // and words that hold what they do when linked at 0, packed
    add     x1, x1, :lo12:__relr_start
    adrp    x2, __relr_end
    add     x2, x2, :lo12:__relr_end
    mov     x4, x23                   // the word behind the last one named
4:
    cmp     x1, x2
    b.hs    5f
    ldr     x5, [x1], #8
    tbnz    x5, #0, 3f
    add     x4, x5, x23               // an even entry is the offset of a word
    ldr     x6, [x4]
    add     x6, x6, x23
    str     x6, [x4], #8
    b       4b
3:
    mov     x7, x4                    // an odd one has a bit for each of 63 words from here on
    add     x4, x4, #(63 * 8)
3:
    lsr     x5, x5, #1
    cbz     x5, 4b
    tbz     x5, #0, 2f
    ldr     x6, [x7]
    add     x6, x6, x23
    str     x6, [x7]
2:
    add     x7, x7, #8
    b       3b
5:
    adrp    x1, __bss_start           // zero what the file does not hold
    add     x1, x1, :lo12:__bss_start
6:
    cmp     x1, x24
    b.hs    7f
    stp     xzr, xzr, [x1], #16
    b       6b
7:
    adrp    x20, {tables}             // the first page table
    add     x20, x20, :lo12:{tables}
    add     x21, x20, #4096
    bic     x0, x23, #0x1fffff
8:
    mov     x1, #{early_normal}
    bl      early_map
    add     x0, x0, #(1 << 21)
    cmp     x0, x24
    b.lo    8b
    cbz     x19, 9f
    mov     x0, x19                   // the tree has at most 2 MiB
    bl      early_map
    add     x0, x19, #(1 << 21)
    bl      early_map
9:
    mrs     x1, ctr_el0               // what caches hold of the image is older than what was just written
    ubfx    x1, x1, #16, #4
    mov     x2, #4
    lsl     x2, x2, x1
    mov     x1, x23
10:
    dc      ivac, x1
    add     x1, x1, x2
    cmp     x1, x24
    b.lo    10b
    dsb     sy
    mov     x1, #(1 << 48)            // ASID 1: its entries never mix with the final table's
    orr     x1, x1, x20
    mov     x2, #{sctlr_early_low}
    movk    x2, #{sctlr_off_high}, lsl #16
    translate
    mov     x0, x19
    mov     x1, x22
    ubfx    x2, x25, #2, #2
    mov     x29, xzr
    mov     x30, xzr
    bl      {start}
    b       .

    // Maps the 2 MiB block that holds x0 with the attributes x1, if it lies below 512 GiB.
early_map:
    lsr     x2, x0, #30
    cmp     x2, #512
    b.hs    12f
    ldr     x3, [x20, x2, lsl #3]
    cbnz    x3, 11f
    orr     x3, x21, #3
    str     x3, [x20, x2, lsl #3]
    add     x21, x21, #4096
11:
    bic     x3, x3, #3
    ubfx    x2, x0, #21, #9
    bic     x4, x0, #0x1fffff
    orr     x4, x4, x1
    str     x4, [x3, x2, lsl #3]
12:
    ret

    .global _start_spun
_start_spun:
    mrs     x1, mpidr_el1
    ldr     x2, ={affinity}
    and     x1, x1, x2
    adrp    x2, {spun}
    add     x2, x2, :lo12:{spun}
    mov     x3, #{most}
13:
    ldp     x4, x0, [x2], #16
    cmp     x4, x1
    b.ne    14f
    cbnz    x0, _start_core
14:
    subs    x3, x3, #1
    b.ne    13b
15:
    wfe                               // nobody has asked for this core
    b       15b

    .global _start_core
_start_core:
    mov     x19, x0
    to_el1
    ldp     x3, x1, [x19]
    ldr     x2, [x19, #16]
    mov     sp, x3
    translate
    ldr     x0, [x19, #24]
    mov     x29, xzr
    mov     x30, xzr
    bl      {core_main}
    b       .
    .ltorg
"#,
    sctlr_off_low = const mmu::SCTLR_OFF & 0xffff,
    sctlr_off_high = const mmu::SCTLR_OFF >> 16,
    sctlr_early_low = const mmu::SCTLR_EARLY & 0xffff,
    mair = const mmu::MAIR,
    tcr = const mmu::TCR,
    early_normal = const mmu::EARLY_NORMAL,
    instructions = const super::pmu::INST_RETIRED,
    magic = const u32::from_le_bytes(MAGIC),
    affinity = const super::cores::AFFINITY,
    spun = sym SPUN,
    most = const super::cores::MAX,
    stack_top = sym BOOT_STACK,
    stack_offset = const 4096 + STACK_SIZE,
    tables = sym EARLY_TABLES,
    hypervisor = sym super::hypervisor::hypervisor_vectors,
    start = sym crate::boot::start,
    core_main = sym super::cores::core_main,
);
