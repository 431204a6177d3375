//! Device drivers; each is told its base address.
//!
//! 1. [`pl011`] and [`mini_uart`] are consoles.
//! 2. [`gpio`] connects their pins on a Raspberry Pi.
//! 3. [`mailbox`] asks its video core about the board.
//! 4. [`power`] resets it, turns it off, and watches over it.

pub mod gpio;
pub mod mailbox;
pub mod mini_uart;
pub mod pl011;
pub mod power;

/// The 32-bit registers of a device.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    base: usize,
}

impl Registers {
    /// The registers at `base`.
    ///
    /// # Safety
    /// - `base` is where a device has its registers, mapped as device memory as long as this is used.
    pub const unsafe fn new(base: usize) -> Self {
        Registers { base }
    }

    /// Reads the register at `offset`, one of the device's.
    fn read(&self, offset: usize) -> u32 {
        // SAFETY: `new`'s caller promised the device; the offset is one of its registers.
        unsafe { core::ptr::with_exposed_provenance::<u32>(self.base + offset).read_volatile() }
    }

    /// Writes the register at `offset`, one of the device's.
    fn write(&self, offset: usize, value: u32) {
        // SAFETY: as in `read`.
        unsafe { core::ptr::with_exposed_provenance_mut::<u32>(self.base + offset).write_volatile(value) }
    }
}
