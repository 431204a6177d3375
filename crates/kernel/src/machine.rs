//! What machine this is: from its device tree, or from what is known of its board.
//!
//! 1. [`device_tree`] reads what firmware passes.
//! 2. [`boards`] is what is known of a board without it, a row each.
//! 3. [`Machine`] is the sum: console, memory, cores, model file, command line, and the blocks that are driven.
//! 4. [`memory`] finds what is free.
//!
//! All of it is arithmetic on bytes and runs on hosts too, where the real boards' trees are its tests.
//!
//! Decisions that are not obvious:
//!
//! - The tree goes before the table. A row of the table fills only gaps, so a new revision of a board needs no new row.
//! - The console is `stdout-path`, else the alias `serial0`, else the first known UART that is switched on, else the
//!   row's: the order in which firmware is likely to have set one up.
//! - Memory that firmware reserves is not mapped at all, but for what the image itself must touch there (spin table,
//!   tree, model file). A stray pointer then faults instead of changing firmware.
//! - A Raspberry Pi's firmware puts words of its own before the user's on the command line. Ours begin behind a
//!   word `--`, if there is one.

pub mod boards;
pub mod device_tree;
pub mod memory;

use core::fmt;
use core::ops::Range;

use boards::{Board, Soc};
use device_tree::{Node, Tree, Way};
use heapless::Vec;

/// Most cores that are looked at.
pub const CORES: usize = 16;
/// Most pieces of memory, and ranges reserved.
pub const RANGES: usize = 24;

/// How firmware is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// By `hvc`.
    Hvc,
    /// By `smc`.
    Smc,
}

/// The UARTs there is a driver for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UartKind {
    /// Arm's PL011.
    Pl011,
    /// The small one of a Raspberry Pi's auxiliary block.
    Mini,
}

/// A UART.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uart {
    /// Which driver.
    pub kind: UartKind,
    /// Its registers.
    pub base: usize,
}

/// How a core is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// By a call of firmware.
    Psci,
    /// By writing an address to this place, where the core looks.
    SpinTable(usize),
    /// The tree names neither.
    Unknown,
}

/// A processor core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Core {
    /// Affinity, as in MPIDR_EL1.
    pub affinity: u64,
    /// How it is started.
    pub method: Method,
}

/// What can end a core's sleep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interrupts {
    /// A GICv2.
    Gicv2 {
        /// Distributor registers.
        distributor: Range<usize>,
        /// Processor interface registers.
        interface: Range<usize>,
    },
    /// The local controller of a Raspberry Pi 3.
    Local(Range<usize>),
}

/// Why a machine cannot be described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineError {
    /// There is no tree, and the board is none whose memory is known without.
    NoTree {
        /// What firmware passed in x0.
        x0: usize,
    },
    /// The tree names no memory.
    NoMemory,
    /// Firmware keeps more ranges of memory than there is room for: which are free is not known.
    TooManyReserved,
}

impl fmt::Display for MachineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTree { x0 } => write!(
                f,
                "no device tree (x0 is {x0:#x}, and none lies at the start of memory); boot the raw image with \
                 -kernel, not the ELF file"
            ),
            Self::NoMemory => f.write_str("the device tree names no memory"),
            Self::TooManyReserved => {
                write!(f, "the device tree reserves more than {RANGES} ranges; raise `machine::RANGES`")
            }
        }
    }
}

impl core::error::Error for MachineError {}

/// What the image needs to know.
#[derive(Debug)]
pub struct Machine<'a> {
    /// The row of the table.
    pub board: &'static Board,
    /// The board's name for itself, or the row's.
    pub model: &'a str,
    /// The console.
    pub uart: Uart,
    /// All memory, in whole 4 KiB pages.
    pub ram: Vec<Range<usize>, RANGES>,
    /// Memory that firmware keeps.
    pub reserved: Vec<Range<usize>, RANGES>,
    /// Pieces of memory and cores that there was no room for; the rest is used without them.
    pub left_out: usize,
    /// Cores, the boot core among them.
    pub cores: Vec<Core, CORES>,
    /// The model file, if one was passed as initrd.
    pub initrd: Option<Range<usize>>,
    /// Our part of the kernel command line.
    pub bootargs: &'a str,
    /// How firmware is called, if it takes PSCI calls.
    pub firmware: Option<Conduit>,
    /// The interrupt controller, if there is one that is known.
    pub interrupts: Option<Interrupts>,
    /// Mailbox, power management and pins of a Raspberry Pi.
    pub soc: Option<Soc>,
    /// The tree itself.
    pub tree: Range<usize>,
    /// Whether this is an emulator, as far as the tree tells.
    pub emulated: bool,
}

impl<'a> Machine<'a> {
    /// The machine of a tree that lies at `address`.
    pub fn of_tree(tree: &Tree<'a>, address: usize) -> Result<Self, MachineError> {
        let root = tree.find("/").map(|way| way.node());
        let names = root.and_then(|node| node.property("compatible"));
        let known = names.and_then(|names| boards::by_compatible(names.texts()));
        let mut machine = Machine {
            board: known.unwrap_or(&boards::BOARDS[0]),
            model: tree.text_at("/", "model").or(known.map(|board| board.name)).unwrap_or("unknown board"),
            uart: console(tree).or(known.map(|board| board.uart)).unwrap_or(boards::BOARDS[0].uart),
            ram: Vec::new(),
            reserved: Vec::new(),
            left_out: 0,
            cores: Vec::new(),
            initrd: None,
            bootargs: ours(tree.text_at("/chosen", "bootargs").unwrap_or("")),
            firmware: psci(tree).or(known.and_then(|board| board.firmware)),
            interrupts: None,
            soc: known.and_then(|board| board.soc),
            tree: address..address + tree.len(),
            emulated: known.is_some_and(|board| board.compatible == "linux,dummy-virt"),
        };
        for way in tree.nodes() {
            machine.take(&way)?;
        }
        for range in tree.reservations().filter_map(whole) {
            machine.reserved.push(range).map_err(|_| MachineError::TooManyReserved)?;
        }
        if machine.ram.is_empty() {
            return Err(MachineError::NoMemory);
        }
        let number = |name| tree.find("/chosen")?.node().property(name)?.number();
        if let (Some(start), Some(end)) = (number("linux,initrd-start"), number("linux,initrd-end")) {
            machine.initrd =
                whole(start..end).filter(|file| machine.ram.iter().any(|ram| memory::holds(ram, file)));
        }
        Ok(machine)
    }

    /// The machine of a board that passes no tree: what every model of it has. `x0` is what it passed instead.
    pub fn of_board(board: &'static Board, x0: usize) -> Result<Machine<'static>, MachineError> {
        if board.ram.is_empty() {
            return Err(MachineError::NoTree { x0 });
        }
        let mut machine = Machine {
            board,
            model: board.name,
            uart: board.uart,
            ram: Vec::new(),
            reserved: Vec::new(),
            left_out: 0,
            cores: Vec::new(),
            initrd: None,
            bootargs: "",
            firmware: board.firmware,
            interrupts: None,
            soc: board.soc,
            tree: 0..0,
            emulated: false,
        };
        // Rows are short.
        let _ = machine.ram.push(board.ram.clone());
        for (affinity, &place) in (0..).zip(board.release) {
            let _ = machine.cores.push(Core { affinity, method: Method::SpinTable(place) });
        }
        if !board.release.is_empty() {
            let _ = machine.reserved.push(0..0x1000);
        }
        Ok(machine)
    }

    /// Takes what a node of the tree says.
    fn take(&mut self, way: &Way<'a>) -> Result<(), MachineError> {
        let node = way.node();
        let parent = way.parent();
        let parent_is = |name| way.depth() == 2 && parent.is_some_and(|parent| parent.is_called(name));
        // Memory of the secure world only is one that is not okay for us.
        let is_memory = node.is_called("memory") || says(&node, "device_type", "memory");
        if way.depth() == 1 && is_memory && node.is_okay() {
            for range in way.registers().filter_map(whole) {
                let pages = range.start.next_multiple_of(4096)..range.end / 4096 * 4096;
                if pages.start < pages.end {
                    self.left_out += usize::from(self.ram.push(pages).is_err());
                }
            }
        } else if parent_is("reserved-memory") && node.is_okay() {
            for range in way.registers().filter_map(whole) {
                self.reserved.push(range).map_err(|_| MachineError::TooManyReserved)?;
            }
        } else if parent_is("cpus") && (node.is_called("cpu") || says(&node, "device_type", "cpu")) {
            let Some(affinity) = way.number().filter(|_| node.is_okay()) else { return Ok(()) };
            // A method of the node itself, else the one of all.
            let method = [Some(node), parent]
                .into_iter()
                .flatten()
                .find_map(|node| node.property("enable-method")?.text());
            let place = node.property("cpu-release-addr").and_then(|property| property.number());
            let method = match (method, place) {
                (Some("psci"), _) => Method::Psci,
                (Some("spin-table"), Some(place)) => Method::SpinTable(place as usize),
                // QEMU names none where there is but one core.
                (None, _) if self.firmware.is_some() => Method::Psci,
                _ => Method::Unknown,
            };
            self.left_out += usize::from(self.cores.push(Core { affinity, method }).is_err());
        } else if node.is_compatible(&["arm,cortex-a15-gic", "arm,gic-400"]) {
            let mut parts = way.registers().filter_map(whole);
            if let (Some(distributor), Some(interface)) = (parts.next(), parts.next()) {
                self.interrupts = Some(Interrupts::Gicv2 { distributor, interface });
            }
        } else if node.is_compatible(&["brcm,bcm2836-l1-intc"]) {
            // A Raspberry Pi 4 has both.
            self.interrupts =
                self.interrupts.take().or(way.registers().find_map(whole).map(Interrupts::Local));
        } else if let Some(soc) = &mut self.soc {
            let Some(base) = way.registers().find_map(whole).map(|range| range.start) else { return Ok(()) };
            if node.is_compatible(&["brcm,bcm2835-mbox"]) {
                soc.mailbox = base;
            } else if node.is_compatible(&["brcm,bcm2835-pm-wdt"]) {
                soc.power = base;
            } else if node.is_compatible(&["brcm,bcm2835-gpio", "brcm,bcm2711-gpio"]) && soc.gpio.is_some() {
                soc.gpio = Some(base);
            }
        }
        Ok(())
    }

    /// Bytes of memory.
    pub fn ram_bytes(&self) -> usize {
        self.ram.iter().map(|r| r.len()).sum()
    }
}

/// A range that this processor can address.
fn whole(range: Range<u64>) -> Option<Range<usize>> {
    let (start, end) = (usize::try_from(range.start).ok()?, usize::try_from(range.end).ok()?);
    (start < end).then_some(start..end)
}

/// Whether a property's first text is this one.
fn says(node: &Node<'_>, property: &str, text: &str) -> bool {
    node.property(property).is_some_and(|property| property.text() == Some(text))
}

/// How the tree says that PSCI is called.
fn psci(tree: &Tree<'_>) -> Option<Conduit> {
    match tree.text_at("/psci", "method")? {
        "hvc" => Some(Conduit::Hvc),
        "smc" => Some(Conduit::Smc),
        _ => None,
    }
}

/// The console, as far as the tree names one that there is a driver for.
fn console(tree: &Tree<'_>) -> Option<Uart> {
    let named = tree.text_at("/chosen", "stdout-path").and_then(|path| tree.find(path));
    let mut uarts = [named, tree.find("serial0")].into_iter().flatten().chain(tree.nodes());
    uarts.find_map(|way| uart(&way))
}

/// The UART that a node describes.
fn uart(way: &Way<'_>) -> Option<Uart> {
    let node = way.node();
    let kind = if node.is_compatible(&["arm,pl011", "arm,pl011-axi"]) {
        UartKind::Pl011
    } else if node.is_compatible(&["brcm,bcm2835-aux-uart"]) {
        UartKind::Mini
    } else {
        return None;
    };
    if !node.is_okay() {
        return None;
    }
    Some(Uart { kind, base: way.registers().find_map(whole)?.start })
}

/// What stands behind the word `--`, or everything.
fn ours(bootargs: &str) -> &str {
    let words = bootargs.match_indices("--").filter(|(at, _)| {
        let (before, after) = (&bootargs[..*at], &bootargs[at + 2..]);
        (before.is_empty() || before.ends_with(' ')) && (after.is_empty() || after.starts_with(' '))
    });
    words.last().map_or(bootargs, |(at, _)| bootargs[at + 2..].trim_start())
}

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
pub(crate) mod tests;
