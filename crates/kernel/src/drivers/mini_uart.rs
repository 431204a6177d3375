//! The mini-UART of a Raspberry Pi's auxiliary block (BCM2835 ARM Peripherals, 2.2), polled.
//!
//! On boards with Bluetooth firmware gives the PL011 to the radio, and this one is what the header's pins lead to.

use super::Registers;

/// From the UART's registers back to the block's: bit 0 switches the UART on.
const ENABLES: usize = 0x04;
const DATA: usize = 0x40;
const INTERRUPTS: usize = 0x44;
const QUEUES: usize = 0x48;
const LINE: usize = 0x4c;
const MODEM: usize = 0x50;
const STATUS: usize = 0x54;
const CONTROL: usize = 0x60;
const BAUD: usize = 0x68;
const RECEIVED: u32 = 1;
const ROOM: u32 = 1 << 5;

/// A mini-UART.
#[derive(Clone, Copy, Debug)]
pub struct MiniUart(Registers);

/// The divisor for 8 samples a bit, if the clock allows it.
fn divisor(clock_hz: u32, baud: u32) -> Option<u32> {
    let divisor = (clock_hz / 8 + baud / 2) / baud;
    (1..=0x1_0000).contains(&divisor).then(|| divisor - 1)
}

impl MiniUart {
    /// The UART whose own registers begin at `base`, as in device trees.
    ///
    /// # Safety
    /// - `base` is the address of a mini-UART's registers, and the page that holds it is mapped as device memory.
    pub const unsafe fn new(base: usize) -> Self {
        // SAFETY: the caller's promise; the block's own registers are in the same page, 0x40 bytes before.
        MiniUart(unsafe { Registers::new(base - DATA) })
    }

    /// Sets speed and format (8 bits) from a clock of `clock_hz`; a clock that is too slow for `baud` changes nothing.
    pub fn set_up(&self, clock_hz: u32, baud: u32) {
        let Some(divisor) = divisor(clock_hz, baud) else { return };
        self.0.write(ENABLES, self.0.read(ENABLES) | 1);
        self.0.write(CONTROL, 0);
        self.0.write(INTERRUPTS, 0);
        self.0.write(LINE, 0b11);
        self.0.write(MODEM, 0);
        self.0.write(QUEUES, 0xc6);
        self.0.write(BAUD, divisor);
        self.0.write(CONTROL, 0b11);
    }

    /// Sends one byte, waiting for room.
    pub fn send(&self, byte: u8) {
        while self.0.read(STATUS) & ROOM == 0 {}
        self.0.write(DATA, byte.into());
    }

    /// The next byte received, if there is one.
    pub fn receive(&self) -> Option<u8> {
        (self.0.read(STATUS) & RECEIVED != 0).then(|| self.0.read(DATA) as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divisors_are_those_of_the_manual() {
        // The manual's formula: baud = clock / (8 * (divisor + 1)); 270 is what everyone uses at 250 MHz.
        assert_eq!(divisor(250_000_000, 115_200), Some(270));
        assert_eq!(divisor(500_000_000, 115_200), Some(542));
        assert_eq!(divisor(400_000, 115_200), None);
    }
}
