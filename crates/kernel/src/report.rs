//! The last words of a machine that cannot go on: who, where, why, and how it came there.
//!
//! One core speaks and then ends the machine; a second failure while it does so ends it at once. Addresses are
//! printed as `image+0x…`, which `cargo xtask symbolize` turns into functions and lines.

use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::arch::aarch64::backtrace::{self, Frames};
use crate::arch::aarch64::{exit, vectors};
use crate::boot::{image, step_name};
use crate::console::print_unlocked;
use crate::log;

/// Exit status where the image refuses to go on: bad input, too little memory, a damaged model.
pub const REFUSED: u32 = 1;
/// Exit status of a panic.
pub const PANICKED: u32 = 101;
/// Exit status of an exception.
pub const EXCEPTION: u32 = 102;
/// Exit status of a core that the watchdog found stuck.
pub const STUCK: u32 = 103;

/// Bytes of the build's number.
const BUILD_BYTES: usize = 20;
/// Bytes in front of it: an ELF note's header and its owner, `GNU`.
const NOTE_BYTES: usize = 16;

unsafe extern "C" {
    static __build_id: [u8; NOTE_BYTES + BUILD_BYTES];
}

/// The number that the linker gave this build: a fingerprint of all its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Build;

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: the linker script puts the note there, read-only.
        let note = unsafe { &__build_id };
        note[NOTE_BYTES..].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Registers at the moment of a failure.
#[derive(Clone, Copy, Debug)]
pub struct Registers<'r> {
    /// The instruction.
    pub pc: u64,
    /// x0 to x30.
    pub x: &'r [u64; 31],
    /// The stack pointer.
    pub sp: u64,
}

/// The core that reports, plus one; zero when none does.
static REPORTER: AtomicUsize = AtomicUsize::new(0);

/// A report that has begun: no other core speaks any more.
#[derive(Debug)]
pub struct Report {
    status: u32,
}

impl Report {
    /// Begins the report that ends the machine with `status`.
    ///
    /// Returns on one core, once. If another core is speaking, this one waits for its end; if the report itself has
    /// failed, the machine is switched off.
    pub fn begin(status: u32) -> Self {
        let core = vectors::core_index();
        match REPORTER.compare_exchange(0, core + 1, Ordering::AcqRel, Ordering::Acquire) {
            // Semihosting's call is what failed: nobody listens.
            _ if exit::is_ending() => exit::power_off(),
            // The report itself is what failed.
            Err(reporter) if reporter == core + 1 => {
                print_unlocked(format_args!("\na second failure while the first was reported\n"));
                exit::exit(status)
            }
            // Another core is speaking, and will end the machine.
            Err(_) => loop {
                cortex_a::asm::wfe();
            },
            Ok(_) => {
                log::stop();
                Report { status }
            }
        }
    }

    /// The first line: what happened, on which core, during which step.
    pub fn headline(&self, what: &str, why: fmt::Arguments<'_>) {
        print_unlocked(format_args!(
            "\n{what} on core {} at boot step `{}`: {why}\n",
            vectors::core_index(),
            step_name()
        ));
    }

    /// A further line.
    pub fn line(&self, text: fmt::Arguments<'_>) {
        print_unlocked(format_args!("  {text}\n"));
    }

    /// All registers.
    pub fn registers(&self, registers: &Registers<'_>) {
        for (row, values) in registers.x.chunks(4).enumerate() {
            for (column, value) in values.iter().enumerate() {
                print_unlocked(format_args!("  x{:<2} {value:#018x}", 4 * row + column));
            }
            print_unlocked(format_args!("\n"));
        }
        self.line(format_args!("sp  {:#018x}", registers.sp));
    }

    /// The calls that led to an instruction.
    pub fn calls_to(&self, registers: &Registers<'_>) {
        self.calls_begin();
        let pc = registers.pc as usize;
        self.call(0, "at", pc);
        let mut number = 1;
        // Who jumped out of the image left only its return address.
        if !image().contains(&pc) {
            self.call(1, "from", registers.x[30] as usize);
            number = 2;
        }
        self.calls(number, Frames::of(registers.x[29] as usize));
    }

    /// The calls that led to `frames`.
    pub fn calls_from(&self, frames: Frames) {
        self.calls_begin();
        self.calls(0, frames);
    }

    fn calls_begin(&self) {
        print_unlocked(format_args!("calls, youngest first, of build {Build}:\n"));
    }

    /// Calls numbered from `first` on; one that repeats, as in a recursion without end, is told once.
    fn calls(&self, first: usize, frames: Frames) {
        let mut frames = frames.peekable();
        let mut number = first;
        for _ in 0..backtrace::MOST {
            let Some(address) = frames.next() else { return };
            self.call(number, "from", address);
            number += 1;
            let mut again = 0;
            while frames.next_if_eq(&address).is_some() {
                again += 1;
            }
            if again > 0 {
                self.line(format_args!("    and {again} times more"));
                number += again;
            }
        }
        if frames.peek().is_some() {
            self.line(format_args!("... and older ones"));
        }
    }

    fn call(&self, number: usize, how: &str, address: usize) {
        let range = image();
        match range.contains(&address) {
            true => self.line(format_args!("#{number:<2} {how:4} image+{:#x}", address - range.start)),
            false => self.line(format_args!("#{number:<2} {how:4} {address:#018x}, outside the image")),
        }
    }

    /// Ends the machine.
    pub fn end(self) -> ! {
        print_unlocked(format_args!("exit status {}; names: cargo xtask symbolize\n", self.status));
        exit::exit(self.status)
    }
}
