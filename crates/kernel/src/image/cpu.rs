//! Names of processors, from their identification register.

use core::fmt;

/// MIDR_EL1: who made the core and which it is (Arm Architecture Reference Manual).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu(pub u64);

/// Part numbers of Arm's own cores, from their technical reference manuals.
const ARM: [(u64, &str); 17] = [
    (0xd03, "Cortex-A53"),
    (0xd04, "Cortex-A35"),
    (0xd05, "Cortex-A55"),
    (0xd07, "Cortex-A57"),
    (0xd08, "Cortex-A72"),
    (0xd09, "Cortex-A73"),
    (0xd0a, "Cortex-A75"),
    (0xd0b, "Cortex-A76"),
    (0xd0c, "Neoverse N1"),
    (0xd0d, "Cortex-A77"),
    (0xd40, "Neoverse V1"),
    (0xd41, "Cortex-A78"),
    (0xd44, "Cortex-X1"),
    (0xd46, "Cortex-A510"),
    (0xd47, "Cortex-A710"),
    (0xd49, "Neoverse N2"),
    (0xd4f, "Neoverse V2"),
];

impl Cpu {
    /// Its name, where it is a known one.
    pub fn name(self) -> Option<&'static str> {
        let (implementer, part) = (self.0 >> 24 & 0xff, self.0 >> 4 & 0xfff);
        match implementer {
            0x41 => ARM.iter().find(|(known, _)| *known == part).map(|(_, name)| *name),
            // QEMU calls itself part 0x51 of the implementer that is reserved for software.
            0x00 if part == 0x51 => Some("QEMU max"),
            _ => None,
        }
    }
}

impl fmt::Display for Cpu {
    /// `Cortex-A72 r0p3`, or the register where the core is not known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} r{}p{}", self.0 >> 20 & 0xf, self.0 & 0xf),
            None => write!(f, "processor with MIDR {:#010x}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn known_cores_have_names_and_others_their_register() {
        for (midr, text) in [
            (0x410f_d083, "Cortex-A72 r0p3"),
            (0x410f_d034, "Cortex-A53 r0p4"),
            (0x414f_d0b1, "Cortex-A76 r4p1"),
            (0x000f_0510, "QEMU max r0p0"),
            (0x610f_0000, "processor with MIDR 0x610f0000"),
            (0x410f_0000, "processor with MIDR 0x410f0000"),
        ] {
            assert_eq!(Cpu(midr).to_string(), text);
        }
    }
}
