//! The machine as its device tree describes it.

use core::fmt;
use core::ops::Range;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};
use heapless::Vec;

use crate::arch::aarch64::exit::{Conduit, set_conduit};
use crate::console;

unsafe extern "C" {
    static __image_start: u8;
    static __image_end: u8;
}

/// Why the device tree does not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeError {
    /// Firmware passed no tree.
    Absent {
        /// What it passed in x0.
        x0: usize,
    },
    /// The tree is damaged.
    Damaged,
    /// A node or property is missing.
    Missing(&'static str),
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent { x0 } => {
                write!(f, "no device tree (x0 is {x0:#x}); boot the raw image with -kernel, not the ELF file")
            }
            Self::Damaged => f.write_str("the device tree is damaged"),
            Self::Missing(what) => write!(f, "the device tree has no {what}"),
        }
    }
}

/// Most cores, memories and taken ranges that are looked at.
const MOST: usize = 16;

/// What the image needs to know.
#[derive(Debug)]
pub struct Machine {
    /// All memory, 4 KiB pages.
    pub ram: Vec<Range<usize>, MOST>,
    /// The model file, if one was passed as initrd.
    pub initrd: Option<&'static [u8]>,
    /// The kernel command line.
    pub bootargs: &'static str,
    /// The processors' affinities, as firmware knows them.
    pub cores: Vec<u64, MOST>,
    /// Whether QEMU's `virt` machine is what this is.
    pub emulated: bool,
    /// Distributor and CPU interface of a GICv2, if there is one.
    pub interrupts: Option<(Range<usize>, Range<usize>)>,
    /// The device tree.
    pub tree: Range<usize>,
    /// Ranges of memory with something in them: image, tree, initrd, what firmware keeps.
    taken: Vec<Range<usize>, MOST>,
}

impl Machine {
    /// Reads the tree at `address`.
    pub fn read(address: usize) -> Result<Self, TreeError> {
        let absent = TreeError::Absent { x0: address };
        if address == 0 || !address.is_multiple_of(8) {
            return Err(absent);
        }
        let header = core::ptr::with_exposed_provenance::<u32>(address);
        // SAFETY: firmware's x0 is either the tree or, on boards that pass none, zero; aligned, as just checked.
        if u32::from_be(unsafe { header.read_volatile() }) != 0xd00d_feed {
            return Err(absent);
        }
        // SAFETY: the magic is there, so firmware put a whole tree here, and nobody writes to it.
        let tree = unsafe { Fdt::from_raw(header.cast()) }.map_err(|_| TreeError::Damaged)?;
        if let Some(method) = tree.find_node("/psci").and_then(|node| node.property("method")) {
            match method.value_as::<&str>() {
                Ok("hvc") => set_conduit(Conduit::Hvc),
                Ok("smc") => set_conduit(Conduit::Smc),
                _ => {}
            }
        }
        // `stdout-path` may carry a mode behind a colon; else the first PL011 that is not switched off.
        let chosen = tree.find_node("/chosen").ok_or(TreeError::Missing("/chosen"))?;
        let named = chosen
            .property("stdout-path")
            .and_then(|path| path.value_as::<&str>().ok())
            .and_then(|path| tree.find_node(path.split(':').next().unwrap_or(path)));
        let is_uart = |node: &FdtNode<'_>| {
            node.property("compatible").is_some_and(|names| names_one(names.value(), b"arm,pl011"))
                && node.property("status").is_none_or(|status| names_one(status.value(), b"okay"))
        };
        let uart = named.filter(is_uart).or_else(|| tree.root().children().find(is_uart));
        if let Some(registers) = uart.and_then(|node| ranges(node).next()) {
            // SAFETY: the tree says that a PL011 is there.
            unsafe { console::set_base(registers.start) };
        }
        let mut ram = Vec::new();
        for node in tree.root().children().filter(|n| n.name_without_address() == "memory") {
            for range in ranges(node) {
                // More pieces than fit are memory left unused.
                let _ = ram.push(range.start.next_multiple_of(4096)..range.end / 4096 * 4096);
            }
        }
        if ram.is_empty() {
            return Err(TreeError::Missing("memory"));
        }
        let mut cores = Vec::new();
        if let Some(cpus) = tree.find_node("/cpus") {
            for cpu in cpus.children().filter(|n| n.name_without_address() == "cpu") {
                if let Some(reg) = cpu.property("reg") {
                    let _ = cores.push(big_endian(reg.value()) as u64);
                }
            }
        }
        let bootargs = match chosen.property("bootargs").map(|p| p.value_as::<&str>()) {
            Some(text) => text.map_err(|_| TreeError::Damaged)?,
            None => "",
        };
        let number = |name| chosen.property(name).map(|property| big_endian(property.value()));
        let initrd = match (number("linux,initrd-start"), number("linux,initrd-end")) {
            (Some(start), Some(end))
                if start < end && ram.iter().any(|r: &Range<usize>| r.start <= start && end <= r.end) =>
            {
                let first = core::ptr::with_exposed_provenance(start);
                // SAFETY: inside RAM (just checked), loaded by firmware, and never handed out by `largest_free`.
                Some(unsafe { core::slice::from_raw_parts(first, end - start) })
            }
            _ => None,
        };
        let end = address + tree.data().len();
        let mut taken = Vec::new();
        let reserved = tree.find_node("/reserved-memory");
        let fixed = [image(), address..end];
        let kept = fixed
            .into_iter()
            .chain(initrd.map(|file| file.as_ptr() as usize..file.as_ptr() as usize + file.len()))
            .chain(
                tree.memory_reservations().map(|r| r.address() as usize..(r.address() + r.size()) as usize),
            )
            .chain(reserved.iter().flat_map(|node| node.children()).flat_map(ranges));
        for range in kept {
            taken.push(range).map_err(|_| TreeError::Missing("room for so many reserved ranges"))?;
        }
        let emulated = tree.root().property("compatible").is_some_and(|names| {
            names.value().split(|&byte| byte == 0).any(|name| name == b"linux,dummy-virt")
        });
        let is_gic = |node: &FdtNode<'_>| {
            node.property("compatible").is_some_and(|names| {
                let names = names.value();
                names_one(names, b"arm,cortex-a15-gic") || names_one(names, b"arm,gic-400")
            })
        };
        let interrupts = tree.root().children().find(is_gic).and_then(|node| {
            let mut parts = ranges(node);
            Some((parts.next()?, parts.next()?))
        });
        Ok(Machine { ram, initrd, bootargs, cores, emulated, interrupts, tree: address..end, taken })
    }

    /// Bytes of memory.
    pub fn ram_bytes(&self) -> usize {
        self.ram.iter().map(|r| r.len()).sum()
    }

    /// The largest stretch of RAM that nothing lies in, whole 4 KiB pages.
    pub fn largest_free(&self) -> Range<usize> {
        let starts =
            self.ram.iter().map(|r| r.start).chain(self.taken.iter().map(|t| t.end.next_multiple_of(4096)));
        starts
            .filter(|start| !self.taken.iter().any(|t| t.contains(start)))
            .filter_map(|start| {
                let ram = self.ram.iter().find(|r| r.contains(&start))?;
                let stop =
                    self.taken.iter().map(|t| t.start).filter(|&t| t >= start).fold(ram.end, usize::min);
                Some(start..start.max(stop / 4096 * 4096))
            })
            .max_by_key(|free| free.len())
            .unwrap_or(0..0)
    }
}

/// The image in memory, zeroed parts and stacks included.
pub fn image() -> Range<usize> {
    &raw const __image_start as usize..&raw const __image_end as usize
}

/// The addresses of a node's `reg`; unreadable ones are left out.
fn ranges(node: FdtNode<'_>) -> impl Iterator<Item = Range<usize>> {
    node.reg().ok().flatten().into_iter().flatten().filter_map(|r| {
        let (first, size) = (r.address::<u64>().ok()? as usize, r.size::<u64>().ok()? as usize);
        (size > 0).then_some(first..first.checked_add(size)?)
    })
}

/// Whether `name` is one of a property's strings.
fn names_one(strings: &[u8], name: &[u8]) -> bool {
    strings.split(|&byte| byte == 0).any(|string| string == name)
}

/// A number of any size in device tree order.
fn big_endian(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, &byte| number << 8 | usize::from(byte))
}
