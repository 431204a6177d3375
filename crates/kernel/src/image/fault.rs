//! Faults on request, so that their reports can be seen and tested.

use core::hint::black_box;

use super::options::Fault;

/// An address in neither half of the address space: bit 55 asks for the upper half, the bits above it do not.
const NOWHERE: usize = 0x0080_0000_0000_0000;

/// Raises `fault`. If the machine goes on regardless, says which protection is missing.
pub fn raise(fault: Fault) -> &'static str {
    match fault {
        Fault::Undefined => {
            // SAFETY: `udf` never completes: it takes the undefined-instruction exception, which ends the machine.
            unsafe { core::arch::asm!("udf #0") };
            "the undefined instruction was executed"
        }
        Fault::Abort => {
            // SAFETY: nothing is there: the read takes a data abort, which ends the machine.
            black_box(unsafe { core::ptr::without_provenance::<u8>(NOWHERE).read_volatile() });
            "memory that does not exist was read"
        }
        Fault::Stack => {
            black_box(descend(black_box(1)));
            "the stack has no end"
        }
        Fault::WriteText => {
            let code = raise as fn(Fault) -> &'static str as *mut u32;
            // SAFETY: code is mapped read-only: the write takes a permission fault, which ends the machine. Without
            // that protection the word keeps its value.
            unsafe { code.write_volatile(code.read_volatile()) };
            "code can be written"
        }
        Fault::Panic => panic!("asked for by fault=panic"),
    }
}

/// Uses up the stack.
#[expect(unconditional_recursion, reason = "that is what runs into the guard page")]
fn descend(depth: usize) -> usize {
    let page = black_box([depth; 64]);
    descend(depth + 1) + page[depth % 64]
}
