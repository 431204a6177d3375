//! The console: one UART, one lock; failures write past the lock.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::arch::aarch64::exit;
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
    let mini = KIND.load(Ordering::Relaxed) == UartKind::Mini as usize;
    let kind = if mini { UartKind::Mini } else { UartKind::Pl011 };
    // SAFETY: by `set`'s promise.
    unsafe { Port::new(Uart { kind, base }) }
}

impl Port {
    /// This UART.
    ///
    /// # Safety
    /// - There is such a UART, mapped as device memory as long as this is used.
    pub unsafe fn new(uart: Uart) -> Self {
        match uart.kind {
            // SAFETY: the caller's promise.
            UartKind::Mini => Port::Mini(unsafe { MiniUart::new(uart.base) }),
            // SAFETY: the caller's promise.
            UartKind::Pl011 => Port::Pl011(unsafe { Pl011::new(uart.base) }),
        }
    }

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

/// Writes whole pieces under the lock. A core of a machine that was halted stops here.
pub fn print(arguments: fmt::Arguments<'_>) {
    exit::stop_if_halted();
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
