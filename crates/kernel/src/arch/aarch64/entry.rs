//! The Linux arm64 image header and the first instructions of every core: down to EL1, caches on, into Rust.
//!
//! The boot core also relocates the image, clears its memory and writes a first page table: the image, the device
//! tree and QEMU's UART in 2 MiB blocks, so that no Rust code ever runs without the MMU (atomics and unaligned
//! accesses need it). [`super::mmu`] builds the table that stays.

use core::arch::global_asm;

use super::mmu;

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
    /// Its number, 1 and up.
    pub index: usize,
}

unsafe extern "C" {
    /// Where firmware starts a further core, with the address of its [`CoreStart`] in x0.
    pub(super) fn _start_core();
}

global_asm!(
    r#"
    // From EL3 or EL2 down to EL1 with interrupts masked, MMU off, vectors on, FPCR zero. Overwrites x1 and x2.
    .macro to_el1
    msr     daifset, #0xf
    mrs     x1, CurrentEL
    cmp     x1, #(3 << 2)
    b.ne    2f
    mov     x1, #0x531                // EL3: below it non-secure AArch64, hvc and smc work
    msr     scr_el3, x1
    msr     cptr_el3, xzr
    msr     mdcr_el3, xzr
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
    mov     x1, #(1 << 31)            // EL2: EL1 is AArch64
    msr     hcr_el2, x1
    isb
    mov     x1, #0x33ff               // no floating-point traps
    msr     cptr_el2, x1
    mov     x1, #3                    // EL1 reads the timers
    msr     cnthctl_el2, x1
    msr     cntvoff_el2, xzr
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
    mov     x19, x0                   // the device tree
    to_el1
    adrp    x1, {stack_top}
    add     x1, x1, :lo12:{stack_top}
    ldr     x2, ={stack_offset}
    add     sp, x1, x2
    adrp    x23, __image_start
    add     x23, x23, :lo12:__image_start
    adrp    x24, __image_end
    add     x24, x24, :lo12:__image_end

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
    tst     x19, #7                   // a tree lies on an 8-byte boundary and has at most 2 MiB
    b.ne    9f
    cbz     x19, 9f
    mov     x0, x19
    bl      early_map
    add     x0, x19, #(1 << 21)
    bl      early_map
9:
    mov     x0, #{uart}
    ldr     x1, ={early_device}
    bl      early_map

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
    early_device = const mmu::EARLY_DEVICE,
    uart = const crate::console::VIRT_UART,
    stack_top = sym BOOT_STACK,
    stack_offset = const 4096 + STACK_SIZE,
    tables = sym EARLY_TABLES,
    start = sym crate::boot::start,
    core_main = sym super::cores::core_main,
);
