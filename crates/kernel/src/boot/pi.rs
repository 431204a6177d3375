//! What a Raspberry Pi says about itself, through its video core's mailbox.

use core::fmt;

use crate::arch::aarch64::exit;
use crate::console::Port;
use crate::console_line as line;
use crate::drivers::gpio::{Function, Gpio};
use crate::drivers::mailbox::{Mailbox, Tag};
use crate::drivers::mini_uart::MiniUart;
use crate::drivers::pl011::Pl011;
use crate::machine::boards::Soc;
use crate::machine::{Uart, UartKind};
use core::ops::Range;

/// The console's speed.
const BAUD: u32 = 115_200;
/// Clocks by their numbers in the mailbox's interface.
const UART_CLOCK: u32 = 2;
const ARM_CLOCK: u32 = 3;
const CORE_CLOCK: u32 = 4;
/// The revision that QEMU's model of firmware gives itself; real ones are dates.
const QEMU_REVISION: u32 = 346_337;

/// The mailbox, once [`connect_console`] has run on a board that has one.
static MAILBOX: spin::Mutex<Option<Mailbox>> = spin::Mutex::new(None);

/// All memory of the processors, for boards that pass no tree. The mailbox must be mapped.
pub fn memory(soc: &Soc) -> Option<Range<usize>> {
    // SAFETY: the board's row says where it is, and the boot, alone so far, has mapped it.
    let [start, bytes] = unsafe { Mailbox::new(soc.mailbox) }.ask(Tag::Memory, [0, 0])?;
    let (start, end) = (start as usize, (start as usize).checked_add(bytes as usize)?);
    let pages = start.next_multiple_of(4096)..end / 4096 * 4096;
    (!pages.is_empty()).then_some(pages)
}

/// Connects the console to pins 14 and 15 and sets its speed, unless firmware has.
pub fn connect_console(soc: &Soc, uart: Uart) {
    // SAFETY: the final map is active, and it has the mailbox as the tree or the board's row names it.
    let mut mailbox = unsafe { Mailbox::new(soc.mailbox) };
    if let Some(gpio) = soc.gpio {
        // SAFETY: as above.
        let gpio = unsafe { Gpio::new(gpio) };
        let (function, clock) = match uart.kind {
            UartKind::Pl011 => (Function::Alternative0, UART_CLOCK),
            UartKind::Mini => (Function::Alternative5, CORE_CLOCK),
        };
        let changed = [14, 15].map(|pin| gpio.connect(pin, function)).contains(&true);
        let rate = mailbox.ask(Tag::ClockRate, [clock, 0]).map(|[_, rate]| rate);
        match (uart.kind, rate.filter(|_| changed)) {
            // SAFETY: as for the console itself.
            (UartKind::Pl011, Some(rate)) => unsafe { Pl011::new(uart.base) }.set_up(rate, BAUD),
            // SAFETY: as above.
            (UartKind::Mini, Some(rate)) => unsafe { MiniUart::new(uart.base) }.set_up(rate, BAUD),
            (_, None) => {}
        }
    }
    *MAILBOX.lock() = Some(mailbox);
}

/// Connects the board's second UART and sets its speed; `None` where there is none beside the console.
pub fn second_uart(soc: &Soc, console: Uart) -> Option<Port> {
    let second = soc.second.filter(|second| second.uart != console)?;
    if let (Some(gpio), Some(pin)) = (soc.gpio, second.pin) {
        // SAFETY: the final map is active and has it.
        unsafe { Gpio::new(gpio) }.connect(pin, Function::Alternative4);
    }
    let rate = ask(Tag::ClockRate, UART_CLOCK).map(|[_, rate]| rate);
    if let (UartKind::Pl011, Some(rate)) = (second.uart.kind, rate) {
        // SAFETY: as above.
        unsafe { Pl011::new(second.uart.base) }.set_up(rate, BAUD);
    }
    // SAFETY: as above.
    Some(unsafe { Port::new(second.uart) })
}

/// What a property says now; `None` on other boards too.
fn ask(tag: Tag, number: u32) -> Option<[u32; 2]> {
    MAILBOX.lock().as_mut()?.ask(tag, [number, 0])
}

/// Whether this is QEMU's model of the board.
pub fn is_emulated() -> bool {
    ask(Tag::FirmwareRevision, 0).is_some_and(|[revision, _]| revision == QEMU_REVISION)
}

/// What of the board changes while it works. Each is `None` where nobody answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readings {
    /// Thousandths of a degree Celsius.
    pub temperature_mc: Option<u32>,
    /// The processors' clock, in Hz.
    pub clock_hz: Option<u32>,
    /// The highest they may have, in Hz.
    pub max_clock_hz: Option<u32>,
    /// What slows them down now, in the low half, and has since boot, in the high half.
    pub throttled: Option<u32>,
}

impl Readings {
    /// Asks; `None` on boards without a mailbox.
    pub fn now() -> Option<Self> {
        // The lock goes before the next line asks for it.
        let known = MAILBOX.lock().is_some();
        known.then(|| Readings {
            temperature_mc: ask(Tag::Temperature, 0).map(|[_, value]| value),
            clock_hz: ask(Tag::ClockRate, ARM_CLOCK).map(|[_, rate]| rate),
            max_clock_hz: ask(Tag::MaxClockRate, ARM_CLOCK).map(|[_, rate]| rate),
            throttled: ask(Tag::Throttled, 0).map(|[bits, _]| bits),
        })
    }
}

impl fmt::Display for Readings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.temperature_mc {
            Some(value) => write!(f, "{}.{} degrees Celsius", value / 1000, value % 1000 / 100)?,
            None => f.write_str("temperature unknown")?,
        }
        match (self.clock_hz, self.max_clock_hz) {
            (Some(now), Some(most)) => write!(f, ", {} of {} MHz", now / 1_000_000, most / 1_000_000)?,
            (Some(now), None) => write!(f, ", {} MHz", now / 1_000_000)?,
            (None, _) => f.write_str(", clock unknown")?,
        }
        match self.throttled {
            None => f.write_str(", throttling unknown"),
            Some(0) => f.write_str(", never throttled"),
            Some(bits) => {
                const REASONS: [&str; 4] =
                    ["voltage too low", "clock capped", "throttled", "soft temperature limit"];
                for (bit, reason) in REASONS.iter().enumerate() {
                    let (now, before) = (bits >> bit & 1 == 1, bits >> (bit + 16) & 1 == 1);
                    match (now, before) {
                        (true, _) => write!(f, ", {reason} now")?,
                        (false, true) => write!(f, ", {reason} before")?,
                        (false, false) => {}
                    }
                }
                Ok(())
            }
        }
    }
}

/// Prints the board's revision and [`Readings`], where there is a mailbox.
pub fn print() {
    let Some(readings) = Readings::now() else { return };
    if let Some([revision, _]) = ask(Tag::BoardRevision, 0) {
        let firmware = ask(Tag::FirmwareRevision, 0).map_or(0, |[revision, _]| revision);
        line!("board revision {revision:#x}, firmware {firmware:#x}");
    }
    let watchdog = if exit::power().is_some() { ", with a watchdog" } else { "" };
    line!("board now: {readings}{watchdog}");
}
