//! What an exception was, from its syndrome register.

use core::fmt;

/// The four kinds of every vector table.
pub const KINDS: [&str; 4] = ["synchronous exception", "IRQ", "FIQ", "SError"];

/// The exception classes that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// An instruction could not be read.
    InstructionAbort,
    /// Data could not be read or written.
    DataAbort,
    /// Any other, by its number.
    Other(u64),
}

/// ESR_EL1 of a synchronous exception or system error (Arm DDI 0487, D23.2.41).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syndrome(pub u64);

impl Syndrome {
    /// Its class, EC.
    pub const fn class(self) -> Class {
        match self.0 >> 26 & 0x3f {
            0x20 | 0x21 => Class::InstructionAbort,
            0x24 | 0x25 => Class::DataAbort,
            other => Class::Other(other),
        }
    }

    /// What was done to the address in FAR_EL1, where the class has one.
    pub const fn access(self) -> Option<&'static str> {
        match self.class() {
            Class::InstructionAbort => Some("executing at"),
            Class::DataAbort if self.0 >> 6 & 1 == 1 => Some("writing to"),
            Class::DataAbort => Some("reading from"),
            Class::Other(0x22) => Some("executing at"),
            Class::Other(_) => None,
        }
    }

    /// Why an abort's address could not be used: its fault status code.
    pub fn cause(self) -> Cause {
        match self.class() {
            Class::Other(_) => Cause(None),
            _ => Cause(Some(self.0 & 0x3f)),
        }
    }

    /// What a system error says about itself, in words.
    pub const fn error(self) -> &'static str {
        match (self.0 >> 24 & 1, self.0 & 0x3f) {
            (1, _) => "of a kind of this processor's own",
            (_, 0x11) => "asynchronous",
            _ => "uncategorized",
        }
    }
}

impl fmt::Display for Syndrome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.class() {
            Class::InstructionAbort => "instruction abort",
            Class::DataAbort if self.0 & 0x3f == 0x21 => "alignment fault",
            Class::DataAbort => "data abort",
            Class::Other(0x00) => "undefined instruction",
            Class::Other(0x07) => "floating-point or vector access",
            Class::Other(0x0e) => "illegal execution state",
            Class::Other(0x15) => "system call",
            Class::Other(0x18) => "system register access",
            Class::Other(0x22) => "misaligned program counter",
            Class::Other(0x26) => "misaligned stack pointer",
            Class::Other(0x2c) => "floating-point exception",
            Class::Other(0x2f) => "SError",
            Class::Other(0x3c) => "breakpoint",
            Class::Other(class) => return write!(f, "exception of class {class:#x}"),
        };
        f.write_str(name)
    }
}

/// A fault status code in words; nothing for classes without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cause(Option<u64>);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(code) = self.0 else { return f.write_str("misaligned") };
        let level = code & 3;
        match code {
            0x00..=0x03 => write!(f, "the address is too large for the page tables"),
            0x04..=0x07 => write!(f, "nothing is mapped there (page table level {level})"),
            0x08..=0x0b => write!(f, "never accessed before (page table level {level})"),
            0x0c..=0x0f => write!(f, "not allowed there (page table level {level})"),
            0x10 => f.write_str("the bus refuses: no memory and no device there"),
            0x11 => f.write_str("memory tag"),
            0x14..=0x17 => write!(f, "the bus refuses a page table (level {level})"),
            0x18 => f.write_str("memory has lost the data (parity or ECC)"),
            0x21 => f.write_str("misaligned"),
            0x30 => f.write_str("two translations for one address"),
            _ => write!(f, "fault status {code:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn syndromes_of_injected_faults_read_as_what_they_are() {
        for (esr, name, access, cause) in [
            (0x9600_0004, "data abort", Some("reading from"), "nothing is mapped there (page table level 0)"),
            (0x9600_0047, "data abort", Some("writing to"), "nothing is mapped there (page table level 3)"),
            (0x9600_004f, "data abort", Some("writing to"), "not allowed there (page table level 3)"),
            (0x9600_0021, "alignment fault", Some("reading from"), "misaligned"),
            (
                0x9600_0010,
                "data abort",
                Some("reading from"),
                "the bus refuses: no memory and no device there",
            ),
            (
                0x8600_000f,
                "instruction abort",
                Some("executing at"),
                "not allowed there (page table level 3)",
            ),
            (0x0200_0000, "undefined instruction", None, "misaligned"),
            (0x8a00_0000, "misaligned program counter", Some("executing at"), "misaligned"),
            (0xd600_0000, "exception of class 0x35", None, "misaligned"),
        ] {
            let syndrome = Syndrome(esr);
            assert_eq!(format!("{syndrome}"), name, "{esr:#x}");
            assert_eq!(syndrome.access(), access, "{esr:#x}");
            assert_eq!(format!("{}", syndrome.cause()), cause, "{esr:#x}");
        }
    }

    #[test]
    fn every_value_has_words() {
        for esr in (0..1u64 << 32).step_by(65_537) {
            let syndrome = Syndrome(esr);
            assert!(!format!("{syndrome} {} {}", syndrome.cause(), syndrome.error()).is_empty());
        }
    }

    #[test]
    fn a_system_error_says_what_it_knows() {
        assert_eq!(Syndrome(0xbe00_0000).error(), "uncategorized");
        assert_eq!(Syndrome(0xbe00_0011).error(), "asynchronous");
        assert_eq!(Syndrome(0xbf00_0000).error(), "of a kind of this processor's own");
    }
}
