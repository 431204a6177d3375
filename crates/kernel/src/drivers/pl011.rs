//! The PL011 UART of Arm's PrimeCells (Arm DDI 0183), as firmware left it: polled, no set-up.

use core::fmt;

const DATA: usize = 0x00;
const FLAGS: usize = 0x18;
const RECEIVE_EMPTY: u32 = 1 << 4;
const TRANSMIT_FULL: u32 = 1 << 5;

/// A PL011 at a fixed address.
#[derive(Clone, Copy, Debug)]
pub struct Pl011 {
    base: usize,
}

impl Pl011 {
    /// The UART at `base`.
    ///
    /// # Safety
    /// - `base` is the address of a PL011's registers, mapped as device memory (or the MMU is off).
    pub const unsafe fn new(base: usize) -> Self {
        Pl011 { base }
    }

    fn read(&self, offset: usize) -> u32 {
        // SAFETY: `new`'s caller promised the device; the offset is one of its registers.
        unsafe { core::ptr::with_exposed_provenance::<u32>(self.base + offset).read_volatile() }
    }

    /// Sends one byte, waiting for room.
    pub fn send(&self, byte: u8) {
        while self.read(FLAGS) & TRANSMIT_FULL != 0 {}
        // SAFETY: as in `read`.
        unsafe {
            core::ptr::with_exposed_provenance_mut::<u32>(self.base + DATA).write_volatile(byte.into());
        }
    }

    /// The next byte received, if there is one.
    pub fn receive(&self) -> Option<u8> {
        (self.read(FLAGS) & RECEIVE_EMPTY == 0).then(|| self.read(DATA) as u8)
    }
}

impl fmt::Write for Pl011 {
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
