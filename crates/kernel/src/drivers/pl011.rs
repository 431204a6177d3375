//! The PL011 UART of Arm's PrimeCells (Arm DDI 0183), polled. QEMU and firmware hand it over ready for use.

use super::Registers;

const DATA: usize = 0x00;
const FLAGS: usize = 0x18;
const RECEIVE_EMPTY: u32 = 1 << 4;
const TRANSMIT_FULL: u32 = 1 << 5;
const BUSY: u32 = 1 << 3;
const BAUD_WHOLE: usize = 0x24;
const BAUD_FRACTION: usize = 0x28;
const LINE: usize = 0x2c;
const CONTROL: usize = 0x30;
const INTERRUPTS: usize = 0x38;

/// A PL011.
#[derive(Clone, Copy, Debug)]
pub struct Pl011(Registers);

/// The divisor for 16 samples a bit, in 64ths, if the clock allows it.
fn divisor(clock_hz: u32, baud: u32) -> Option<(u32, u32)> {
    // clock / (16 * baud), times 64, rounded.
    let steps = (u64::from(clock_hz) * 8 / u64::from(baud)).div_ceil(2);
    let (whole, fraction) = (steps / 64, steps % 64);
    (1..=0xffff).contains(&whole).then_some((whole as u32, fraction as u32))
}

impl Pl011 {
    /// The UART with these registers.
    ///
    /// # Safety
    /// - `base` is the address of a PL011's registers, mapped as device memory.
    pub const unsafe fn new(base: usize) -> Self {
        // SAFETY: the caller's promise.
        Pl011(unsafe { Registers::new(base) })
    }

    /// Sets speed and format (8 bits, no parity, queues on) from a clock of `clock_hz`; a clock that is too slow for
    /// `baud` changes nothing.
    pub fn set_up(&self, clock_hz: u32, baud: u32) {
        let Some((whole, fraction)) = divisor(clock_hz, baud) else { return };
        while self.0.read(FLAGS) & BUSY != 0 {}
        self.0.write(CONTROL, 0);
        self.0.write(INTERRUPTS, 0);
        self.0.write(BAUD_WHOLE, whole);
        self.0.write(BAUD_FRACTION, fraction);
        self.0.write(LINE, 0b11 << 5 | 1 << 4);
        self.0.write(CONTROL, 1 | 1 << 8 | 1 << 9);
    }

    /// Sends one byte, waiting for room.
    pub fn send(&self, byte: u8) {
        while self.0.read(FLAGS) & TRANSMIT_FULL != 0 {}
        self.0.write(DATA, byte.into());
    }

    /// The next byte received, if there is one.
    pub fn receive(&self) -> Option<u8> {
        (self.0.read(FLAGS) & RECEIVE_EMPTY == 0).then(|| self.0.read(DATA) as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divisors_are_those_of_the_manual() {
        // DDI 0183 gives 230400 baud from 4 MHz: 1 and 5/64. A Raspberry Pi's 48 MHz: 26 and 3/64 for 115200.
        assert_eq!(divisor(4_000_000, 230_400), Some((1, 5)));
        assert_eq!(divisor(48_000_000, 115_200), Some((26, 3)));
        assert_eq!(divisor(3_000_000, 115_200), Some((1, 40)));
        assert_eq!(divisor(1_000_000, 115_200), None);
        assert_eq!(divisor(0, 115_200), None);
    }
}
