//! Exceptions: nothing here recovers from one, so each is reported and ends the machine.
//!
//! A vector leaves the stack it came from (it may be the cause) for the core's emergency stack, saves the registers
//! there and calls `report`.

use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

use cortex_a::asm;
use cortex_a::registers::{ELR_EL1, ESR_EL1, FAR_EL1, Readable, SPSR_EL1, TPIDR_EL1, VBAR_EL1, Writeable};

use super::{cores, exit};
use crate::{boot, console};

/// Bytes of a core's emergency stack: whole pages with the number above it.
const EMERGENCY_SIZE: usize = 16 * 1024 - 16;

/// What TPIDR_EL1 leads to: the core's number, right above its emergency stack. Below that lies a page that the final
/// map leaves out.
#[repr(C, align(4096))]
struct Local {
    guard: UnsafeCell<[u8; 4096]>,
    emergency: UnsafeCell<[u8; EMERGENCY_SIZE]>,
    index: usize,
}

// SAFETY: each core uses its own, by index; the index is never written.
unsafe impl Sync for Local {}

static LOCALS: [Local; cores::MAX] = {
    let mut locals = [const {
        Local { guard: UnsafeCell::new([0; 4096]), emergency: UnsafeCell::new([0; EMERGENCY_SIZE]), index: 0 }
    }; cores::MAX];
    let mut index = 0;
    while index < cores::MAX {
        locals[index].index = index;
        index += 1;
    }
    locals
};

/// The page below each emergency stack.
pub(super) fn guards() -> impl Iterator<Item = usize> {
    LOCALS.iter().map(|local| local.guard.get() as usize)
}

/// Exit status of a machine that took an exception.
pub const STATUS: u32 = 102;

unsafe extern "C" {
    static exception_vectors: u8;
}

/// Lets this core, number `index`, take exceptions.
pub fn install(index: usize) {
    TPIDR_EL1.set(&raw const LOCALS[index].index as u64);
    VBAR_EL1.set(&raw const exception_vectors as u64);
    asm::barrier::isb(asm::barrier::SY);
}

/// This core's number, once [`install`] has run on it.
pub fn core_index() -> usize {
    match TPIDR_EL1.get() as usize {
        0 => 0,
        // SAFETY: `install` stored the address of a static.
        address => unsafe { *core::ptr::with_exposed_provenance(address) },
    }
}

/// What a vector saves.
#[repr(C)]
struct Frame {
    x: [u64; 31],
    sp: u64,
}

global_asm!(
    r#"
    .macro vector kind
    .balign 128
    msr     tpidr_el0, x0
    mov     x0, #\kind
    b       vector_common
    .endm

    .section .text.vectors, "ax"
    .balign 2048
    .global exception_vectors
exception_vectors:
    .irp    kind, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vector  \kind
    .endr

    .balign 128
vector_common:
    msr     tpidrro_el0, x1
    mrs     x1, tpidr_el1
    sub     x1, x1, #256
    stp     x2, x3, [x1, #16]
    stp     x4, x5, [x1, #32]
    stp     x6, x7, [x1, #48]
    stp     x8, x9, [x1, #64]
    stp     x10, x11, [x1, #80]
    stp     x12, x13, [x1, #96]
    stp     x14, x15, [x1, #112]
    stp     x16, x17, [x1, #128]
    stp     x18, x19, [x1, #144]
    stp     x20, x21, [x1, #160]
    stp     x22, x23, [x1, #176]
    stp     x24, x25, [x1, #192]
    stp     x26, x27, [x1, #208]
    stp     x28, x29, [x1, #224]
    mov     x2, sp
    stp     x30, x2, [x1, #240]
    mrs     x2, tpidr_el0
    mrs     x3, tpidrro_el0
    stp     x2, x3, [x1]
    mov     sp, x1
    mov     x29, xzr
    mov     x30, xzr
    bl      {report}
    b       .
"#,
    report = sym report,
);

/// The core that reports, plus one; zero when none does.
static REPORTER: AtomicUsize = AtomicUsize::new(0);

/// Says what happened and ends the machine with [`STATUS`].
extern "C" fn report(vector: usize, frame: &Frame) -> ! {
    let core = core_index();
    match REPORTER.compare_exchange(0, core + 1, Ordering::AcqRel, Ordering::Acquire) {
        // The report itself, or semihosting's call, is what failed.
        Err(reporter) if reporter == core + 1 => exit::power_off(),
        // Another core is speaking, and will end the machine.
        Err(_) => loop {
            asm::wfe();
        },
        Ok(_) if exit::is_ending() => exit::power_off(),
        Ok(_) => {}
    }
    const KINDS: [&str; 4] = ["synchronous exception", "IRQ", "FIQ", "SError"];
    let (esr, far) = (ESR_EL1.get(), FAR_EL1.get());
    let class = esr >> 26 & 0x3f;
    console::print_unlocked(format_args!(
        "\nfault on core {core} at boot step `{}`: {} ({})\n  ESR {esr:#010x}  ELR {:#018x}  FAR {far:#018x}  SPSR {:#x}\n",
        boot::step_name(),
        KINDS[vector % 4],
        class_name(class),
        ELR_EL1.get(),
        SPSR_EL1.get(),
    ));
    if matches!(class, 0x24 | 0x25) && cores::is_guard(far as usize) {
        console::print_unlocked(format_args!("  the address is a guard page: a stack overflow\n"));
    }
    for (row, values) in frame.x.chunks(4).enumerate() {
        for (column, value) in values.iter().enumerate() {
            console::print_unlocked(format_args!("  x{:<2} {value:#018x}", 4 * row + column));
        }
        console::print_unlocked(format_args!("\n"));
    }
    console::print_unlocked(format_args!("  sp  {:#018x}\n", frame.sp));
    exit::exit(STATUS)
}

/// The exception classes (ESR_EL1.EC) that can happen here.
fn class_name(class: u64) -> &'static str {
    match class {
        0x00 => "unknown instruction",
        0x07 => "floating-point or vector access",
        0x0e => "illegal execution state",
        0x15 => "system call",
        0x18 => "system register access",
        0x20 | 0x21 => "instruction abort",
        0x22 => "misaligned program counter",
        0x24 | 0x25 => "data abort",
        0x26 => "misaligned stack pointer",
        0x2c => "floating-point exception",
        0x2f => "SError",
        0x3c => "breakpoint",
        _ => "other class",
    }
}
