//! Power management of a Raspberry Pi: reset, off, watchdog.
//!
//! No manual describes it; registers and bits are those that the Linux driver `bcm2835_wdt` names. Its clock counts 65536 ticks
//! a second in 20 bits, so the watchdog waits 15 seconds at most. QEMU's model of it does not count: what starts the
//! watchdog there resets the machine at once.

use super::Registers;

const CONTROL: usize = 0x1c;
const STATUS: usize = 0x20;
const WATCHDOG: usize = 0x24;
const PASSWORD: u32 = 0x5a00_0000;
const CONFIGURATION: u32 = 0x30;
const FULL_RESET: u32 = 0x20;
const STOPPED: u32 = 0x102;
/// Boot partition 63, which firmware takes as the wish to stay off; its bits are every other one.
const HALT: u32 = 0x555;
const TICKS_PER_SECOND: u32 = 1 << 16;

/// Seconds that the watchdog can wait at most.
pub const MOST_SECONDS: u32 = 15;
const _: () = assert!(MOST_SECONDS * TICKS_PER_SECOND <= 0xf_ffff, "the watchdog's counter has 20 bits");

/// The power management.
#[derive(Clone, Copy, Debug)]
pub struct Power(Registers);

impl Power {
    /// The block with these registers.
    ///
    /// # Safety
    /// - `base` is the address of the registers, mapped as device memory.
    pub const unsafe fn new(base: usize) -> Self {
        // SAFETY: the caller's promise.
        Power(unsafe { Registers::new(base) })
    }

    /// Starts the watchdog, or begins its time anew: without another call the board is reset in `seconds`
    /// ([`MOST_SECONDS`] at most).
    pub fn watch(&self, seconds: u32) {
        self.start(seconds.clamp(1, MOST_SECONDS) * TICKS_PER_SECOND);
    }

    /// Stops the watchdog.
    pub fn stop(&self) {
        self.0.write(CONTROL, PASSWORD | STOPPED);
    }

    /// Resets the board within a millisecond; firmware boots it again.
    pub fn reset(&self) {
        self.0.write(STATUS, PASSWORD | self.0.read(STATUS) & !HALT & 0xffff);
        self.start(10);
    }

    /// Resets the board within a millisecond, and firmware leaves it off.
    pub fn off(&self) {
        self.0.write(STATUS, PASSWORD | self.0.read(STATUS) & 0xffff | HALT);
        self.start(10);
    }

    fn start(&self, ticks: u32) {
        self.0.write(WATCHDOG, PASSWORD | ticks);
        self.0.write(CONTROL, PASSWORD | self.0.read(CONTROL) & 0xffff & !CONFIGURATION | FULL_RESET);
    }
}
