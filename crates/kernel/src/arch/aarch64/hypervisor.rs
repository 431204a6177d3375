//! What stays at EL2 after a boot there: one service, which makes a system error for the tests of its report.
//!
//! A processor raises SError when memory or a bus fails late, which no program can bring about. EL2 can: with
//! HCR_EL2.AMO set, HCR_EL2.VSE makes one pending for EL1 (Arm DDI 0487, D1.3.5).

use core::arch::{asm, global_asm};

/// What x0 holds in a call to us.
const RAISE: u64 = 0x4241_5245; // not the number of any PSCI function

unsafe extern "C" {
    /// The table for VBAR_EL2: no stack, no memory, only registers.
    pub(super) static hypervisor_vectors: u8;
}

global_asm!(
    r#"
    .section .text.vectors, "ax"
    .balign 2048
    .global hypervisor_vectors
hypervisor_vectors:
    .rept   8                         // from EL2 itself: nothing of ours runs there
    b       .
    .balign 128
    .endr
    b       hypervisor_call           // from EL1: a call, or what EL1 may not do
    .balign 128
    .rept   7
    b       .
    .balign 128
    .endr
hypervisor_call:
    mov     x1, #{raise_low}
    movk    x1, #{raise_high}, lsl #16
    cmp     x0, x1
    mov     x0, #-1                   // unknown: what PSCI would say
    b.ne    1f
    mrs     x1, hcr_el2
    orr     x1, x1, #(1 << 5)         // AMO
    orr     x1, x1, #(1 << 8)         // VSE
    msr     hcr_el2, x1
    isb
    mov     x0, #0
1:
    eret
"#,
    raise_low = const RAISE & 0xffff,
    raise_high = const RAISE >> 16,
);

/// Makes a system error pending on this core. The answer is whether EL2 was there to do it.
pub fn raise_system_error() -> bool {
    let answer: i64;
    // SAFETY: the call changes x0 and x1; elsewhere firmware answers that it knows no such function, and may change
    // what its calling convention lets it change. It faults only where neither EL2 nor firmware take calls: not on
    // a machine whose device tree names either.
    unsafe {
        asm!(
            "hvc #0",
            inout("x0") RAISE => answer,
            out("x1") _, out("x2") _, out("x3") _, out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _,
            out("x9") _, out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _, out("x15") _,
            out("x16") _, out("x17") _,
            options(nostack),
        );
    }
    answer == 0
}
