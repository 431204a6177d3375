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

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written to a block whose registers hold `before`, read back as plain memory.
    fn written(before: [u32; 10], act: impl FnOnce(&Power)) -> [u32; 3] {
        let mut block = before;
        // SAFETY: the array is all that the driver touches: its last register is at 0x24.
        act(&unsafe { Power::new(block.as_mut_ptr().expose_provenance()) });
        // SAFETY: as above; volatile, as the driver's own accesses are.
        let read = |register: usize| unsafe { (&raw const block[register / 4]).read_volatile() };
        [read(CONTROL), read(STATUS), read(WATCHDOG)]
    }

    /// A block as firmware leaves it: the watchdog stopped, and booted from partition 2 (bits 0, 2, ... of it).
    fn fresh() -> [u32; 10] {
        let mut block = [0; 10];
        (block[CONTROL / 4], block[STATUS / 4]) = (0x102, 0x1004);
        block
    }

    #[test]
    fn the_watchdog_counts_ticks_of_a_65536th_of_a_second() {
        let watch = |seconds| written(fresh(), |power| power.watch(seconds));
        // A full reset (0x20) in the field that says what happens; other bits of the register stay.
        assert_eq!(watch(15), [0x5a00_0122, 0x1004, 0x5a0f_0000]);
        assert_eq!(watch(1)[2], 0x5a01_0000);
        assert_eq!(watch(0)[2], 0x5a01_0000, "never at once");
        assert_eq!(watch(16)[2], 0x5a0f_0000, "never more than 20 bits hold");
    }

    #[test]
    fn a_stopped_watchdog_has_nothing_to_do() {
        assert_eq!(written(fresh(), Power::stop)[0], 0x5a00_0102);
    }

    #[test]
    fn off_is_a_reset_into_partition_63() {
        assert_eq!(written(fresh(), Power::off), [0x5a00_0122, 0x5a00_1555, 0x5a00_000a]);
        let mut halted = fresh();
        halted[STATUS / 4] = 0x1555;
        assert_eq!(written(halted, Power::reset), [0x5a00_0122, 0x5a00_1000, 0x5a00_000a]);
    }
}
