//! Exceptions: all but the watchdog's interrupt are reported and end the machine.
//!
//! A vector leaves the stack it came from (it may be the cause) for the core's emergency stack, saves the registers
//! there and calls `report`. An interrupt stays on its stack, saves every register there and comes back.

use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

use cortex_a::asm;
use cortex_a::registers::{ELR_EL1, ESR_EL1, FAR_EL1, Readable, SPSR_EL1, TPIDR_EL1, VBAR_EL1, Writeable};

use super::{cores, watchdog};
use crate::image::syndrome::{Class, KINDS, Syndrome};
use crate::report::{EXCEPTION, Registers, Report};

/// Bytes of a core's emergency stack: whole pages with the number above it.
const EMERGENCY_SIZE: usize = 16 * 1024 - 16;

/// What TPIDR_EL1 leads to: the core's number, right above its emergency stack. Below that lies a page that the final
/// map leaves out. All zero in the image's file.
#[repr(C, align(4096))]
struct Local {
    guard: UnsafeCell<[u8; 4096]>,
    emergency: UnsafeCell<[u8; EMERGENCY_SIZE]>,
    index: AtomicUsize,
}

// SAFETY: each core uses its own, by index.
unsafe impl Sync for Local {}

static LOCALS: [Local; cores::MAX] = [const {
    Local {
        guard: UnsafeCell::new([0; 4096]),
        emergency: UnsafeCell::new([0; EMERGENCY_SIZE]),
        index: AtomicUsize::new(0),
    }
}; cores::MAX];

/// The page below each emergency stack.
pub(super) fn guards() -> impl Iterator<Item = usize> {
    LOCALS.iter().map(|local| local.guard.get() as usize)
}

unsafe extern "C" {
    static exception_vectors: u8;
}

/// Lets this core, number `index`, take exceptions.
pub fn install(index: usize) {
    LOCALS[index].index.store(index, Ordering::Relaxed);
    TPIDR_EL1.set(&raw const LOCALS[index].index as u64);
    VBAR_EL1.set(&raw const exception_vectors as u64);
    asm::barrier::isb(asm::barrier::SY);
}

/// This core's number, once [`install`] has run on it.
pub fn core_index() -> usize {
    match TPIDR_EL1.get() as usize {
        0 => 0,
        address => {
            // SAFETY: `install` stored the address of a static.
            let index = unsafe { &*core::ptr::with_exposed_provenance::<AtomicUsize>(address) };
            index.load(Ordering::Relaxed)
        }
    }
}

/// What a vector saves.
#[repr(C)]
struct Frame {
    x: [u64; 31],
    sp: u64,
}

/// What an interrupt saves, besides vector registers: those a call may change are the compiler's to use.
#[repr(C)]
pub(super) struct Interrupted {
    x: [u64; 31],
    pc: u64,
    state: u64,
    pad: u64,
}

impl Interrupted {
    /// The registers of what was interrupted.
    pub(super) fn registers(&self) -> Registers<'_> {
        let sp = core::ptr::from_ref(self) as u64 + INTERRUPTED_BYTES as u64;
        Registers { pc: self.pc, x: &self.x, sp }
    }
}

/// Bytes that an interrupt takes from the stack: [`Interrupted`], 32 vector registers, FPCR and FPSR.
const INTERRUPTED_BYTES: usize = size_of::<Interrupted>() + 32 * 16 + 16;

global_asm!(
    r#"
    .macro vector kind
    .balign 128
    .if     \kind == 5
    b       interrupted
    .else
    msr     tpidr_el0, x0
    mov     x0, #\kind
    b       vector_common
    .endif
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

    // The watchdog's tick: saves what the handler may change, and what its report shows.
interrupted:
    sub     sp, sp, #{bytes}
    stp     x0, x1, [sp]
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    mrs     x1, elr_el1
    stp     x30, x1, [sp, #240]
    mrs     x1, spsr_el1
    str     x1, [sp, #256]
    add     x0, sp, #{vectors_at}
    stp     q0, q1, [x0]
    stp     q2, q3, [x0, #32]
    stp     q4, q5, [x0, #64]
    stp     q6, q7, [x0, #96]
    stp     q8, q9, [x0, #128]
    stp     q10, q11, [x0, #160]
    stp     q12, q13, [x0, #192]
    stp     q14, q15, [x0, #224]
    stp     q16, q17, [x0, #256]
    stp     q18, q19, [x0, #288]
    stp     q20, q21, [x0, #320]
    stp     q22, q23, [x0, #352]
    stp     q24, q25, [x0, #384]
    stp     q26, q27, [x0, #416]
    stp     q28, q29, [x0, #448]
    stp     q30, q31, [x0, #480]
    mrs     x1, fpcr
    mrs     x2, fpsr
    add     x0, x0, #512
    stp     x1, x2, [x0]
    mov     x0, sp
    bl      {interrupt}
    add     x0, sp, #{vectors_at} + 512
    ldp     x1, x2, [x0], #-512
    msr     fpcr, x1
    msr     fpsr, x2
    ldp     q0, q1, [x0]
    ldp     q2, q3, [x0, #32]
    ldp     q4, q5, [x0, #64]
    ldp     q6, q7, [x0, #96]
    ldp     q8, q9, [x0, #128]
    ldp     q10, q11, [x0, #160]
    ldp     q12, q13, [x0, #192]
    ldp     q14, q15, [x0, #224]
    ldp     q16, q17, [x0, #256]
    ldp     q18, q19, [x0, #288]
    ldp     q20, q21, [x0, #320]
    ldp     q22, q23, [x0, #352]
    ldp     q24, q25, [x0, #384]
    ldp     q26, q27, [x0, #416]
    ldp     q28, q29, [x0, #448]
    ldp     q30, q31, [x0, #480]
    ldr     x1, [sp, #256]
    msr     spsr_el1, x1
    ldp     x30, x1, [sp, #240]
    msr     elr_el1, x1
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x19, [sp, #144]
    ldp     x20, x21, [sp, #160]
    ldp     x22, x23, [sp, #176]
    ldp     x24, x25, [sp, #192]
    ldp     x26, x27, [sp, #208]
    ldp     x28, x29, [sp, #224]
    ldp     x0, x1, [sp]
    add     sp, sp, #{bytes}
    eret
"#,
    report = sym report,
    interrupt = sym watchdog::interrupt,
    bytes = const INTERRUPTED_BYTES,
    vectors_at = const size_of::<Interrupted>(),
);

/// Takes system errors from now on: until this, they wait.
pub fn unmask_errors() {
    // SAFETY: `install` has put handlers in place.
    unsafe { core::arch::asm!("msr daifclr, #4", options(nostack)) }
}

/// Says what happened and ends the machine.
extern "C" fn report(vector: usize, frame: &Frame) -> ! {
    let report = Report::begin(EXCEPTION);
    let (esr, far) = (ESR_EL1.get(), FAR_EL1.get());
    let syndrome = Syndrome(esr);
    let synchronous = vector.is_multiple_of(4);
    // Of interrupts, ESR holds what an earlier exception left.
    match vector % 4 {
        0 => report.headline("fault", format_args!("{syndrome}")),
        3 => report.headline("fault", format_args!("SError, {}", syndrome.error())),
        kind => report.headline("fault", format_args!("an {} that nobody asked for", KINDS[kind])),
    }
    if let Some(access) = syndrome.access().filter(|_| synchronous) {
        report.line(format_args!("{access} {far:#x}: {}", syndrome.cause()));
        if syndrome.class() == Class::DataAbort && cores::is_guard(far as usize) {
            report.line(format_args!("the address is a guard page: a stack overflow"));
        }
    }
    report.line(format_args!(
        "ESR {esr:#010x}  ELR {:#018x}  FAR {far:#018x}  SPSR {:#x}",
        ELR_EL1.get(),
        SPSR_EL1.get()
    ));
    let registers = Registers { pc: ELR_EL1.get(), x: &frame.x, sp: frame.sp };
    report.registers(&registers);
    report.calls_to(&registers);
    report.end()
}
