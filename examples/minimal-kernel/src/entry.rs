//! From reset at EL1 to `main`: exceptions, vector registers, cleared memory, address translation.

use core::arch::global_asm;

/// Page table of one level, an entry for each GiB: devices in the first, RAM in the second. Its entries are known when
/// it is compiled, because addresses stay what they are.
#[repr(C, align(4096))]
struct Table([u64; 512]);

static TABLE: Table = {
    let mut entries = [0; 512];
    entries[0] = 3 << 53 | 1 << 10 | 1; // device, never executed
    entries[1] = 0x4000_0000 | 1 << 10 | 3 << 8 | 1 << 2 | 1; // normal memory, shareable, write-back
    Table(entries)
};

global_asm!(
    r#"
    .section .text.entry, "ax"
    .global _start
_start:
    msr     daifset, #0xf
    adr     x0, vectors
    msr     vbar_el1, x0
    mov     x0, #(3 << 20)            // floating point and vectors: the kernels use them
    msr     cpacr_el1, x0
    isb
    msr     fpcr, xzr                 // round to nearest, subnormals kept: barelm's arithmetic

    ldr     x0, =__bss_start
    ldr     x1, =__bss_end
1:  cmp     x0, x1
    b.hs    2f
    stp     xzr, xzr, [x0], #16
    b       1b

2:  mov     x0, #0xff04               // memory types: 0 device, 1 normal write-back
    msr     mair_el1, x0
    ldr     x0, =(25 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23 | 2 << 32) // 39-bit addresses below, none above
    msr     tcr_el1, x0
    ldr     x0, ={table}
    msr     ttbr0_el1, x0
    tlbi    vmalle1
    dsb     nsh
    isb
    ldr     x0, =0x30d01805           // translation and caches on, unaligned accesses allowed
    msr     sctlr_el1, x0
    isb

    ldr     x0, =__stack_top
    mov     sp, x0
    bl      {main}
    b       .

    .balign 2048
vectors:
    .rept   16                        // any exception ends in a report
    mrs     x0, esr_el1
    mrs     x1, elr_el1
    mrs     x2, far_el1
    b       {exception}
    .balign 128
    .endr
"#,
    table = sym TABLE,
    main = sym crate::main,
    exception = sym crate::exception,
);
