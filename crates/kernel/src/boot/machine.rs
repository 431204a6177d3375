//! The machine as its device tree describes it.

use core::fmt;

use dtoolkit::fdt::Fdt;
use dtoolkit::{Node, Property};

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

/// What the image needs to know.
#[derive(Debug)]
pub struct Machine {
    /// First byte and size of the largest memory.
    pub ram: (usize, usize),
    /// The model file, if one was passed as initrd.
    pub initrd: Option<&'static [u8]>,
    /// The kernel command line.
    pub bootargs: &'static str,
    /// Processors in the tree.
    pub cores: usize,
    taken: [(usize, usize); 3],
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
        for node in tree.root().children() {
            if node.name_without_address() == "pl011"
                && let Ok(Some(mut registers)) = node.reg()
                && let Some(Ok(base)) = registers.next().map(|r| r.address::<u64>())
            {
                // SAFETY: the tree says that a PL011 is there.
                unsafe { console::set_base(base as usize) };
                break;
            }
        }
        let mut ram = (0, 0);
        for node in tree.root().children().filter(|n| n.name_without_address() == "memory") {
            for r in node.reg().ok().flatten().into_iter().flatten() {
                if let (Ok(first), Ok(size)) = (r.address::<u64>(), r.size::<u64>())
                    && size as usize > ram.1
                {
                    ram = (first as usize, size as usize);
                }
            }
        }
        if ram.1 == 0 {
            return Err(TreeError::Missing("memory"));
        }
        let cores = tree
            .find_node("/cpus")
            .map_or(1, |cpus| cpus.children().filter(|n| n.name_without_address() == "cpu").count());
        let chosen = tree.find_node("/chosen").ok_or(TreeError::Missing("/chosen"))?;
        let bootargs = match chosen.property("bootargs").map(|p| p.value_as::<&str>()) {
            Some(text) => text.map_err(|_| TreeError::Damaged)?,
            None => "",
        };
        let number = |name| {
            chosen
                .property(name)
                .map(|property| property.value().iter().fold(0usize, |n, &byte| n << 8 | usize::from(byte)))
        };
        let initrd = match (number("linux,initrd-start"), number("linux,initrd-end")) {
            (Some(start), Some(end)) if start >= ram.0 && start < end && end <= ram.0 + ram.1 => {
                let first = core::ptr::with_exposed_provenance(start);
                // SAFETY: inside RAM (just checked), loaded by firmware, and never handed out by `largest_free`.
                Some(unsafe { core::slice::from_raw_parts(first, end - start) })
            }
            _ => None,
        };
        let image = (&raw const __image_start as usize, &raw const __image_end as usize);
        let file =
            initrd.map_or((0, 0), |file| (file.as_ptr() as usize, file.as_ptr() as usize + file.len()));
        let taken = [image, (address, address + tree.data().len()), file];
        Ok(Machine { ram, initrd, bootargs, cores, taken })
    }

    /// First byte and size of the largest stretch of RAM that nothing lies in, on 4 KiB boundaries.
    pub fn largest_free(&self) -> (usize, usize) {
        let (ram, end) = (self.ram.0, self.ram.0 + self.ram.1);
        let starts = core::iter::once(ram).chain(self.taken.iter().map(|t| t.1.next_multiple_of(4096)));
        starts
            .filter(|start| !self.taken.iter().any(|t| (t.0..t.1).contains(start)))
            .filter(|start| (ram..end).contains(start))
            .map(|start| {
                let stop = self.taken.iter().map(|t| t.0).filter(|&t| t >= start).fold(end, usize::min);
                (start, (stop - start) / 4096 * 4096)
            })
            .max_by_key(|free| free.1)
            .unwrap_or((ram, 0))
    }
}
