//! The Linux arm64 image header and the first instructions: down to EL1, relocate, clear memory, call Rust.

use core::arch::global_asm;

/// Bytes of the boot core's stack.
const STACK_SIZE: usize = 512 * 1024;

#[repr(C, align(4096))]
struct Stack(core::cell::UnsafeCell<[u8; STACK_SIZE]>);

// SAFETY: only the boot core's stack pointer ever points into it.
unsafe impl Sync for Stack {}

static STACK: Stack = Stack(core::cell::UnsafeCell::new([0; STACK_SIZE]));

global_asm!(
    r#"
    .section .text.boot, "ax"
    .global _start
_start:
    b 1f                              // code0: over the header
    .word 0                           // code1
    .quad 0                           // text_offset: a 2 MiB boundary
    .quad __image_size                // bytes in memory, zeroed ones included
    .quad 0xa                         // little-endian, 4 KiB pages, anywhere in memory
    .quad 0, 0, 0
    .ascii "ARM\x64"
    .word 0
1:
    msr     daifset, #0xf             // no interrupts: nothing here uses them
    mov     x19, x0                   // the device tree
    mrs     x1, CurrentEL
    lsr     x1, x1, #2
    cmp     x1, #2
    b.ne    2f
    mov     x2, #(1 << 31)            // EL1 is AArch64
    msr     hcr_el2, x2
    mov     x2, #0x33ff               // no floating-point traps
    msr     cptr_el2, x2
    mov     x2, #3                    // EL1 reads the physical timer
    msr     cnthctl_el2, x2
    msr     cntvoff_el2, xzr
    mrs     x2, pmcr_el0              // EL1 owns all event counters
    ubfx    x2, x2, #11, #5
    msr     mdcr_el2, x2
    mov     x2, #0x3c5                // EL1 with its own stack, interrupts masked
    msr     spsr_el2, x2
    adr     x2, 2f
    msr     elr_el2, x2
    eret
2:
    mov     x2, #(3 << 20)            // floating point and vectors on
    msr     cpacr_el1, x2
    isb
    msr     fpcr, xzr                 // round to nearest, subnormals kept: the arithmetic's promise
    adrp    x1, {stack}
    add     x1, x1, :lo12:{stack}
    mov     x2, #{stack_size}
    add     sp, x1, x2
    adrp    x1, __rela_start          // relocate: every entry is R_AARCH64_RELATIVE
    add     x1, x1, :lo12:__rela_start
    adrp    x2, __rela_end
    add     x2, x2, :lo12:__rela_end
    adrp    x3, __image_start
    add     x3, x3, :lo12:__image_start
3:
    cmp     x1, x2
    b.hs    4f
    ldr     x4, [x1]                  // offset of the word
    ldr     x5, [x1, #16]             // what it holds when linked at 0
    add     x5, x5, x3
    str     x5, [x3, x4]
    add     x1, x1, #24
    b       3b
4:
    adrp    x1, __bss_start           // zero what the file does not hold
    add     x1, x1, :lo12:__bss_start
    adrp    x2, __bss_end
    add     x2, x2, :lo12:__bss_end
5:
    cmp     x1, x2
    b.hs    6f
    stp     xzr, xzr, [x1], #16
    b       5b
6:
    mov     x0, x19
    mov     x29, xzr
    bl      {start}
    b       .
"#,
    stack = sym STACK,
    stack_size = const STACK_SIZE,
    start = sym crate::boot::start,
);
