//! The console: one UART, one lock; failures write past the lock.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::drivers::pl011::Pl011;

/// Where QEMU's `virt` machine has its UART; used until the device tree has been read.
pub const VIRT_UART: usize = 0x0900_0000;

static BASE: AtomicUsize = AtomicUsize::new(VIRT_UART);
static LOCK: spin::Mutex<()> = spin::Mutex::new(());

/// Tells the console where its PL011 is.
///
/// # Safety
/// - `base` is the address of a PL011's registers.
pub unsafe fn set_base(base: usize) {
    BASE.store(base, Ordering::Relaxed);
}

/// Where the PL011 is.
pub fn base() -> usize {
    BASE.load(Ordering::Relaxed)
}

/// The UART, without the lock.
pub fn uart() -> Pl011 {
    // SAFETY: the base is the device tree's UART or, before that, the one of the only board without a tree.
    unsafe { Pl011::new(base()) }
}

/// Writes whole pieces under the lock.
pub fn print(arguments: fmt::Arguments<'_>) {
    let _lock = LOCK.lock();
    let _ = uart().write_fmt(arguments);
}

/// Writes at once, whoever holds the lock: for the last words of a failing core.
pub fn print_unlocked(arguments: fmt::Arguments<'_>) {
    let _ = uart().write_fmt(arguments);
}

/// Writes a line.
#[macro_export]
macro_rules! console_line {
    ($($argument:tt)*) => {
        $crate::console::print(format_args!("{}\n", format_args!($($argument)*)))
    };
}
