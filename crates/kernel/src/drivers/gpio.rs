//! The pins of a BCM283x or BCM2711 (BCM2835 ARM Peripherals, 6): only what each is connected to.

use super::Registers;

/// What a pin is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Function {
    /// Alternative 0: pins 14 and 15 are the PL011's.
    Alternative0 = 4,
    /// Alternative 4: pin 4 sends for a BCM2711's UART3 (BCM2711 ARM Peripherals, 5.3).
    Alternative4 = 3,
    /// Alternative 5: pins 14 and 15 are the mini-UART's.
    Alternative5 = 2,
}

/// The pins.
#[derive(Clone, Copy, Debug)]
pub struct Gpio(Registers);

/// Register and bit of a pin's function: ten pins of three bits a register.
const fn place(pin: usize) -> (usize, usize) {
    (pin / 10 * 4, pin % 10 * 3)
}

impl Gpio {
    /// The pins with these registers.
    ///
    /// # Safety
    /// - `base` is the address of the registers, mapped as device memory.
    pub const unsafe fn new(base: usize) -> Self {
        // SAFETY: the caller's promise.
        Gpio(unsafe { Registers::new(base) })
    }

    /// Connects `pin`; the answer is whether it was something else before.
    pub fn connect(&self, pin: usize, function: Function) -> bool {
        let (register, bit) = place(pin);
        let before = self.0.read(register);
        let after = before & !(7 << bit) | (function as u32) << bit;
        if before != after {
            self.0.write(register, after);
        }
        before != after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connecting_a_pin_leaves_its_neighbors() {
        let mut block = [u32::MAX; 6];
        // SAFETY: the array has the six registers of functions.
        let gpio = unsafe { Gpio::new(block.as_mut_ptr().expose_provenance()) };
        assert!(gpio.connect(14, Function::Alternative0));
        assert!(!gpio.connect(14, Function::Alternative0), "it is that already");
        assert!(gpio.connect(4, Function::Alternative4));
        // SAFETY: volatile, as the driver's own accesses are.
        let read = |register: usize| unsafe { (&raw const block[register]).read_volatile() };
        assert_eq!([read(0), read(1), read(2)], [!(4 << 12), !(3 << 12), u32::MAX]);
    }

    #[test]
    fn pins_lie_where_the_manual_puts_them() {
        // GPFSEL1, bits 14-12 and 17-15.
        assert_eq!((place(14), place(15)), ((4, 12), (4, 15)));
        assert_eq!((place(0), place(53)), ((0, 0), (20, 9)));
    }
}
