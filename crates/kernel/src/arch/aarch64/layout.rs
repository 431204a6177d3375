//! Which memory of a machine is mapped as what: arithmetic on its description, tested on hosts for machines nobody has here.

use core::ops::Range;

use super::translation::{Kind, Map, OutOfTables};
use crate::machine::{Interrupts, Machine, Method, memory};

/// The image in memory.
#[derive(Clone, Debug)]
pub struct Parts {
    /// All of it, zeroed parts and stacks included.
    pub all: Range<usize>,
    /// Where code ends and constants begin.
    pub text_end: usize,
    /// Where constants end and what may be written begins.
    pub rodata_end: usize,
}

/// Maps `machine`'s memory and devices. What comes later goes before what came earlier.
pub fn lay_out(
    map: &mut Map,
    machine: &Machine<'_>,
    image: &Parts,
    guards: impl Iterator<Item = usize>,
) -> Result<(), OutOfTables> {
    let pages = memory::pages;
    let page = |address: usize| address / 4096 * 4096..address / 4096 * 4096 + 4096;
    for ram in &machine.ram {
        map.add(ram.clone(), Kind::Data)?;
    }
    for range in &machine.reserved {
        map.remove(pages(range))?;
    }
    for core in &machine.cores {
        if let Method::SpinTable(place) = core.method {
            map.add(page(place), Kind::Data)?;
        }
    }
    map.add(pages(&machine.tree), Kind::ReadOnly)?;
    if let Some(file) = &machine.initrd {
        map.add(pages(file), Kind::ReadOnly)?;
    }
    map.add(image.all.start..image.text_end, Kind::Code)?;
    map.add(image.text_end..image.rodata_end, Kind::ReadOnly)?;
    map.add(image.rodata_end..image.all.end.next_multiple_of(4096), Kind::Data)?;
    for guard in guards {
        map.remove(guard..guard + 4096)?;
    }
    match &machine.interrupts {
        Some(Interrupts::Gicv2 { distributor, interface }) => {
            map.add(pages(distributor), Kind::Device)?;
            map.add(pages(interface), Kind::Device)?;
        }
        Some(Interrupts::Local(registers)) => map.add(pages(registers), Kind::Device)?,
        None => {}
    }
    if let Some(soc) = &machine.soc {
        let second = soc.second.map(|second| second.uart.base);
        for address in [Some(soc.mailbox), Some(soc.power), soc.gpio, second].into_iter().flatten() {
            map.add(page(address), Kind::Device)?;
        }
    }
    map.add(page(machine.uart.base), Kind::Device)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::machine::device_tree::Tree;
    use crate::machine::fixtures::{pi4, pi5};
    use std::boxed::Box;

    const GIB: usize = 1 << 30;

    /// The map of the machine that `tree` describes, with the image at 2 MiB and a model file of 1.5 GiB at `model`.
    fn of(tree: &[u8], model: usize, check: impl FnOnce(&Machine<'_>, &Map)) {
        let tree = Tree::parse(tree).unwrap();
        let mut machine = Machine::of_tree(&tree, 0x2e00_0000).unwrap();
        machine.initrd = Some(model..model + 3 * GIB / 2);
        let image = Parts { all: 0x20_0000..0x80_0000, text_end: 0x2c_0000, rodata_end: 0x48_0000 };
        let guards = [0x50_0000, 0x58_1000];
        let mut map = Box::new(Map::new());
        lay_out(&mut map, &machine, &image, guards.into_iter()).unwrap();
        // Nothing is mapped twice, and W^X holds by kind: walk every page around what matters.
        assert_eq!(map.kind_at(0x20_0000), Some(Kind::Code));
        assert_eq!(map.kind_at(0x2b_f000), Some(Kind::Code));
        assert_eq!(map.kind_at(0x2c_0000), Some(Kind::ReadOnly));
        assert_eq!(map.kind_at(0x48_0000), Some(Kind::Data));
        for guard in guards {
            assert_eq!(map.kind_at(guard), None, "a guard page");
            assert_eq!(map.kind_at(guard - 4096), Some(Kind::Data));
            assert_eq!(map.kind_at(guard + 4096), Some(Kind::Data));
        }
        for address in [model, model + GIB, model + 3 * GIB / 2 - 4096] {
            assert_eq!(map.kind_at(address), Some(Kind::ReadOnly), "the model at {address:#x}");
        }
        let soc = machine.soc.unwrap();
        for device in [soc.mailbox, soc.power, machine.uart.base] {
            assert_eq!(map.kind_at(device), Some(Kind::Device));
        }
        check(&machine, &map);
    }

    #[test]
    fn a_raspberry_pi_4_with_8_gib_is_mapped_whole() {
        of(&pi4(), 5 * GIB, |machine, map| {
            assert_eq!(map.kind_at(0x3b40_0000), None, "the video core's memory");
            assert_eq!(map.kind_at(0xfc00_0000), None, "devices below 4 GiB that nobody drives");
            assert_eq!(map.kind_at(4 * GIB), Some(Kind::Data));
            assert_eq!(map.kind_at(8 * GIB - 4096), Some(Kind::Data));
            assert_eq!(map.kind_at(8 * GIB), None);
            assert_eq!(map.kind_at(machine.tree.start), Some(Kind::ReadOnly));
            assert_eq!(map.kind_at(0x2eff_2000), None, "reserved");
            // The last gigabyte and the one before the model need no second table.
            let largest = map.regions().map(|region| region.pieces[0]).max();
            assert_eq!(largest, Some(2), "blocks of 1 GiB behind the model");
            assert!(map.tables().0 <= 16, "{:?}", map.tables());
        });
    }

    #[test]
    fn a_raspberry_pi_5_with_16_gib_is_mapped_whole() {
        of(&pi5(16), 6 * GIB, |_, map| {
            assert_eq!(map.kind_at(0), None, "trusted firmware's");
            assert_eq!(map.kind_at(0x8_0000), Some(Kind::Data));
            for address in [4 * GIB, 9 * GIB, 16 * GIB - 4096] {
                assert_eq!(map.kind_at(address), Some(Kind::Data), "{address:#x}");
            }
            assert_eq!(map.kind_at(16 * GIB), None);
            assert_eq!(map.kind_at(0x10_7fff_9000), Some(Kind::Device), "the distributor, above 64 GiB");
            let blocks: usize = map.regions().map(|region| region.pieces[0]).sum();
            assert_eq!(blocks, 14, "of 1 GiB: all but the first and the one where the model ends");
            assert!(map.tables().0 <= 16, "{:?}", map.tables());
        });
    }
}
