//! The console: one UART, one lock; failures write past the lock.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::drivers::mini_uart::MiniUart;
use crate::drivers::pl011::Pl011;
use crate::machine::{Uart, UartKind};

/// Where the UART is, and which; zero until [`set`], and nothing is written before.
static BASE: AtomicUsize = AtomicUsize::new(0);
static KIND: AtomicUsize = AtomicUsize::new(0);
static LOCK: spin::Mutex<()> = spin::Mutex::new(());

/// Tells the console which UART it is.
///
/// # Safety
/// - There is such a UART, mapped as device memory from now on.
pub unsafe fn set(uart: Uart) {
    BASE.store(0, Ordering::Relaxed);
    KIND.store(uart.kind as usize, Ordering::Relaxed);
    BASE.store(uart.base, Ordering::Release);
}

/// The console's UART.
#[derive(Clone, Copy, Debug)]
pub enum Port {
    /// None yet.
    None,
    /// A PL011.
    Pl011(Pl011),
    /// A mini-UART.
    Mini(MiniUart),
}

/// The UART, without the lock.
pub fn uart() -> Port {
    let base = BASE.load(Ordering::Acquire);
    if base == 0 {
        return Port::None;
    }
    if KIND.load(Ordering::Relaxed) == UartKind::Mini as usize {
        // SAFETY: by `set`'s promise.
        Port::Mini(unsafe { MiniUart::new(base) })
    } else {
        // SAFETY: by `set`'s promise.
        Port::Pl011(unsafe { Pl011::new(base) })
    }
}

impl Port {
    /// Sends one byte, waiting for room.
    pub fn send(&self, byte: u8) {
        match self {
            Self::None => {}
            Self::Pl011(uart) => uart.send(byte),
            Self::Mini(uart) => uart.send(byte),
        }
    }

    /// The next byte received, if there is one.
    pub fn receive(&self) -> Option<u8> {
        match self {
            Self::None => None,
            Self::Pl011(uart) => uart.receive(),
            Self::Mini(uart) => uart.receive(),
        }
    }
}

impl fmt::Write for Port {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.send(b'\r');
            }
            self.send(byte);
        }
        Ok(())
    }
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
