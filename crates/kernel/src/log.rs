//! Structured logs beside the console: `defmt` records in a file of the host's, by semihosting, or on a UART of their own.
//!
//! The image holds no text of them, only numbers; `cargo xtask logs` decodes them with the ELF file. Nothing is logged
//! until [`open`], and nothing below the level that was asked for.

use core::cell::UnsafeCell;
use core::ffi::CStr;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use cortex_a::registers::{CNTFRQ_EL0, CNTVCT_EL0, Readable};
use semihosting::fd::{AsFd, OwnedFd};
use semihosting::sys;
use semihosting::sys::arm_compat::{OpenMode, sys_open};

use crate::arch::aarch64::vectors::core_index;
use crate::console::Port;
pub use crate::image::options::Level;

/// The level from which on records are kept, as a number; one more than the highest while the file is not open.
static LEVEL: AtomicUsize = AtomicUsize::new(OFF);
const OFF: usize = Level::Error as usize + 1;

/// Whether records of this level are kept.
pub fn wants(level: Level) -> bool {
    level as usize >= LEVEL.load(Ordering::Relaxed)
}

/// Keeps a record, if its level is wanted: `log!(info, "text {=u32}", number)`, as `defmt` has it.
#[macro_export]
macro_rules! log {
    (@ $level:ident, $wanted:ident, $($argument:tt)*) => {
        if $crate::log::wants($crate::log::Level::$wanted) {
            defmt::$level!($($argument)*);
        }
    };
    (error, $($argument:tt)*) => { $crate::log!(@ error, Error, $($argument)*) };
    (warn, $($argument:tt)*) => { $crate::log!(@ warn, Warn, $($argument)*) };
    (info, $($argument:tt)*) => { $crate::log!(@ info, Info, $($argument)*) };
    (debug, $($argument:tt)*) => { $crate::log!(@ debug, Debug, $($argument)*) };
    (trace, $($argument:tt)*) => { $crate::log!(@ trace, Trace, $($argument)*) };
}

defmt::timestamp!("{=u64:us} core {=usize}", micros(), core_index());

fn micros() -> u64 {
    (u128::from(CNTVCT_EL0.get()) * 1_000_000 / u128::from(CNTFRQ_EL0.get().max(1))) as u64
}

/// Bytes of a record that go to the file at once.
const PIECE: usize = 256;

/// What the holder of [`BUSY`] writes with.
struct Writer {
    file: Option<OwnedFd>,
    uart: Option<Port>,
    encoder: defmt::Encoder,
    piece: heapless::Vec<u8, PIECE>,
}

impl Writer {
    fn flush(&mut self) {
        if let Some(file) = &self.file {
            let mut rest = &self.piece[..];
            // The call says how many bytes were not written; a full disk is nobody's emergency here.
            while let Ok(written @ 1..) = sys::write(file.as_fd(), rest) {
                rest = &rest[written..];
                if rest.is_empty() {
                    break;
                }
            }
        }
        if let Some(uart) = &self.uart {
            self.piece.iter().for_each(|&byte| uart.send(byte));
        }
        self.piece.clear();
    }

    fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if self.piece.is_full() {
                self.flush();
            }
            // There is room: just made.
            let _ = self.piece.push(byte);
        }
    }

    fn encode(&mut self, step: impl FnOnce(&mut defmt::Encoder, &mut dyn FnMut(&[u8]))) {
        let mut encoder = core::mem::replace(&mut self.encoder, defmt::Encoder::new());
        step(&mut encoder, &mut |bytes| self.push(bytes));
        self.encoder = encoder;
    }
}

struct Shared(UnsafeCell<Writer>);

// SAFETY: only the core that holds `BUSY` touches it.
unsafe impl Sync for Shared {}

static WRITER: Shared = Shared(UnsafeCell::new(Writer {
    file: None,
    uart: None,
    encoder: defmt::Encoder::new(),
    piece: heapless::Vec::new(),
}));
static BUSY: AtomicBool = AtomicBool::new(false);

/// Takes the writer for this core.
fn take() {
    while BUSY.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
        // Not `spin_loop`: emulated cores under -icount would never change over.
        // SAFETY: a hint.
        unsafe { core::arch::asm!("yield", options(nomem, nostack)) };
    }
}

/// Opens the file `path` and keeps records from `level` on. Semihosting must be there: a machine without takes an
/// exception. The answer is whether the file could be opened.
pub fn open(path: &CStr, level: Level) -> bool {
    let Ok(file) = sys_open(path, OpenMode::RDWR_TRUNC_BINARY) else { return false };
    take();
    // SAFETY: this core has just taken it.
    unsafe { (*WRITER.0.get()).file = Some(file) };
    BUSY.store(false, Ordering::Release);
    LEVEL.store(level as usize, Ordering::Relaxed);
    true
}

/// Keeps records from `level` on, and sends them to `uart` too.
pub fn open_uart(uart: Port, level: Level) {
    take();
    // SAFETY: this core has just taken it.
    unsafe { (*WRITER.0.get()).uart = Some(uart) };
    BUSY.store(false, Ordering::Release);
    LEVEL.store(level as usize, Ordering::Relaxed);
}

/// Logs no more: a failing core may hold the writer.
pub fn stop() {
    LEVEL.store(OFF, Ordering::Relaxed);
}

#[defmt::global_logger]
struct Logger;

// SAFETY: `acquire` makes all that follows one core's until `release`; a core that holds it takes no interrupt that
// logs, and does not log while it writes.
unsafe impl defmt::Logger for Logger {
    fn acquire() {
        take();
        // SAFETY: taken.
        let writer = unsafe { &mut *WRITER.0.get() };
        writer.encode(|encoder, write| encoder.start_frame(write));
    }

    unsafe fn flush() {}

    unsafe fn release() {
        // SAFETY: taken in `acquire`.
        let writer = unsafe { &mut *WRITER.0.get() };
        writer.encode(|encoder, write| encoder.end_frame(write));
        writer.flush();
        BUSY.store(false, Ordering::Release);
    }

    unsafe fn write(bytes: &[u8]) {
        // SAFETY: taken in `acquire`.
        let writer = unsafe { &mut *WRITER.0.get() };
        writer.encode(|encoder, write| encoder.write(bytes, write));
    }
}
