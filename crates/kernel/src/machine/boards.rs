//! The boards this image knows: a row each, for what their device trees leave out or where firmware passes none.
//!
//! Addresses are those of Broadcom's and Raspberry Pi's public manuals and of the boards' device trees (BCM2835 ARM
//! Peripherals, BCM2711 ARM Peripherals), and of QEMU's `virt` machine. The device tree goes before the row: only what
//! it does not say is taken from here.

use core::ops::Range;

use super::{Conduit, Uart, UartKind};

/// What is known of a board without asking it.
#[derive(Debug)]
pub struct Board {
    /// For people.
    pub name: &'static str,
    /// A name in the root's `compatible` that only this board's trees have.
    pub compatible: &'static str,
    /// The part number of its cores (MIDR_EL1, bits 4 to 15), to tell boards apart that pass no tree.
    pub part: u64,
    /// Where its console is.
    pub uart: Uart,
    /// Memory that every model of the board has and the video core never takes; none where only the tree knows.
    pub ram: Range<usize>,
    /// Where further cores wait for an address to go to, by affinity: the firmware's spin table.
    pub release: &'static [usize],
    /// How firmware is called where it takes PSCI calls and the tree does not say so.
    pub firmware: Option<Conduit>,
    /// The video core's mailboxes, power management with the watchdog, and the pins of the console.
    pub soc: Option<Soc>,
}

/// The blocks of a BCM283x and its successors that are used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Soc {
    /// Mailbox 0: properties of the board, as the video core knows them.
    pub mailbox: usize,
    /// Power management: reset, off, watchdog.
    pub power: usize,
    /// Pins 14 and 15 are the console's; none where it has a plug of its own.
    pub gpio: Option<usize>,
    /// A UART beside the console's, for log records.
    pub second: Option<Second>,
}

/// A board's second UART. Only its sender is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Second {
    /// Where it is.
    pub uart: Uart,
    /// The pin that it sends on, as its alternative function 4; none where no pin of the header can be.
    pub pin: Option<usize>,
}

/// The firmware's spin table of Raspberry Pi 3 and 4: one address for each core.
const PI_RELEASE: [usize; 4] = [0xd8, 0xe0, 0xe8, 0xf0];

/// All rows. The first one is what an unknown machine is taken for.
pub static BOARDS: [Board; 4] = [
    Board {
        name: "QEMU virt",
        compatible: "linux,dummy-virt",
        part: 0,
        uart: Uart { kind: UartKind::Pl011, base: 0x0900_0000 },
        ram: 0..0,
        release: &[],
        firmware: None,
        soc: None,
    },
    Board {
        name: "Raspberry Pi 3",
        compatible: "brcm,bcm2837",
        part: 0xd03,
        uart: Uart { kind: UartKind::Pl011, base: 0x3f20_1000 },
        ram: 0..0x2000_0000,
        release: &PI_RELEASE,
        firmware: None,
        soc: Some(Soc {
            mailbox: 0x3f00_b880,
            power: 0x3f10_0000,
            gpio: Some(0x3f20_0000),
            // The PL011, where the tree gives the header's pins to the mini-UART. It is wired to the radio: QEMU hears it.
            second: Some(Second { uart: Uart { kind: UartKind::Pl011, base: 0x3f20_1000 }, pin: None }),
        }),
    },
    Board {
        name: "Raspberry Pi 4",
        compatible: "brcm,bcm2711",
        part: 0xd08,
        uart: Uart { kind: UartKind::Pl011, base: 0xfe20_1000 },
        ram: 0..0x2000_0000,
        release: &PI_RELEASE,
        firmware: None,
        soc: Some(Soc {
            mailbox: 0xfe00_b880,
            power: 0xfe10_0000,
            gpio: Some(0xfe20_0000),
            // UART3, on pin 4 of the GPIO.
            second: Some(Second { uart: Uart { kind: UartKind::Pl011, base: 0xfe20_1600 }, pin: Some(4) }),
        }),
    },
    Board {
        name: "Raspberry Pi 5",
        compatible: "brcm,bcm2712",
        part: 0xd0b,
        // The debug connector between the HDMI sockets; the header's UARTs are behind PCI Express.
        uart: Uart { kind: UartKind::Pl011, base: 0x10_7d00_1000 },
        // Trusted firmware keeps the first 512 KiB.
        ram: 0x8_0000..0x2000_0000,
        release: &[],
        firmware: Some(Conduit::Smc),
        soc: Some(Soc { mailbox: 0x10_7c01_3880, power: 0x10_7d20_0000, gpio: None, second: None }),
    },
];

/// The row of a tree whose root is compatible with `names`.
pub fn by_compatible<'n>(mut names: impl Iterator<Item = &'n str>) -> Option<&'static Board> {
    names.find_map(|name| BOARDS.iter().find(|board| board.compatible == name))
}

/// The row of a machine that passes no tree: a Raspberry Pi loads images low, `virt` has no memory there, and the
/// generations differ in their cores.
pub fn guess(image: usize, midr: u64) -> &'static Board {
    let [virt, boards @ ..] = &BOARDS;
    if image >= 0x4000_0000 {
        return virt;
    }
    boards.iter().find(|board| board.part == midr >> 4 & 0xfff).unwrap_or(virt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boards_are_told_apart_without_a_tree() {
        for (image, midr, name) in [
            (0x4020_0000, 0x410f_d083, "QEMU virt"),
            (0x8_0000, 0x410f_d034, "Raspberry Pi 3"),
            (0x20_0000, 0x410f_d083, "Raspberry Pi 4"),
            (0x20_0000, 0x414f_d0b1, "Raspberry Pi 5"),
            (0x20_0000, 0x610f_0000, "QEMU virt"),
        ] {
            assert_eq!(guess(image, midr).name, name);
        }
    }

    #[test]
    fn rows_are_found_by_any_of_the_names() {
        let board = by_compatible(["raspberrypi,3-model-b-plus", "brcm,bcm2837"].into_iter());
        assert_eq!(board.map(|board| board.name), Some("Raspberry Pi 3"));
        assert!(by_compatible(["qcom,sdm845"].into_iter()).is_none());
    }

    #[test]
    fn no_device_lies_in_the_memory_of_a_row() {
        for board in &BOARDS {
            let devices = board.soc.iter().flat_map(|soc| [soc.mailbox, soc.power]).chain([board.uart.base]);
            let second = board.soc.iter().filter_map(|soc| soc.second).map(|second| second.uart.base);
            for address in devices.chain(second) {
                assert!(!board.ram.contains(&address), "{}: {address:#x}", board.name);
            }
        }
    }
}
