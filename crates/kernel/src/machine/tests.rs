//! Each board's tree gives the machine that its manual describes.

// A range in a list is meant as one.
#![allow(clippy::single_range_in_vec_init)]

extern crate std;

use alloc::vec::Vec;

use super::boards::Second;
use super::*;
use crate::machine::fixtures::{Builder, pi3, pi4, pi5};

/// For trees that are damaged in ways a reader cannot see.
pub(crate) fn describe_without_panic(tree: &Tree<'_>) {
    if let Ok(machine) = Machine::of_tree(tree, 0x1000) {
        let mut taken: Vec<_> = machine.reserved.iter().cloned().collect();
        taken.extend(machine.initrd.clone());
        for free in memory::free(&machine.ram, &taken) {
            assert!(machine.ram.iter().any(|ram| memory::holds(ram, &free)));
        }
    }
}

fn described<R>(bytes: &[u8], check: impl FnOnce(&Machine<'_>) -> R) -> R {
    let tree = Tree::parse(bytes).unwrap();
    check(&Machine::of_tree(&tree, 0x2eff_2000).unwrap())
}

#[test]
fn raspberry_pi_3() {
    described(&pi3(), |machine| {
        assert_eq!((machine.board.name, machine.model), ("Raspberry Pi 3", "Raspberry Pi 3 Model B"));
        assert_eq!(machine.uart, Uart { kind: UartKind::Mini, base: 0x3f21_5040 });
        assert_eq!(machine.ram, [0..0x3b40_0000]);
        assert_eq!(machine.reserved, [0..0x1000]);
        assert_eq!(machine.initrd, Some(0x80_0000..0x600_0000));
        assert_eq!(machine.bootargs, "suite=off shell=1");
        let places: Vec<_> = machine.cores.iter().map(|core| (core.affinity, core.method)).collect();
        let table = [0xd8, 0xe0, 0xe8, 0xf0].map(Method::SpinTable);
        assert_eq!(places, [(0, table[0]), (1, table[1]), (2, table[2]), (3, table[3])]);
        assert_eq!(machine.firmware, None);
        let second = Some(Second { uart: Uart { kind: UartKind::Pl011, base: 0x3f20_1000 }, pin: None });
        let soc = Soc { mailbox: 0x3f00_b880, power: 0x3f10_0000, gpio: Some(0x3f20_0000), second };
        assert_eq!(machine.soc, Some(soc));
        // What the tree says is what the table says of a board without one.
        assert_eq!(machine.soc, machine.board.soc);
        assert_eq!(machine.interrupts, Some(Interrupts::Local(0x4000_0000..0x4000_0100)));
        assert!(!machine.emulated && machine.left_out == 0);
    });
}

#[test]
fn raspberry_pi_4() {
    described(&pi4(), |machine| {
        assert_eq!(machine.board.name, "Raspberry Pi 4");
        assert_eq!(machine.uart, Uart { kind: UartKind::Pl011, base: 0xfe20_1000 });
        assert_eq!(
            machine.ram,
            [
                0..0x3b40_0000,
                0x4000_0000..0xfc00_0000,
                0x1_0000_0000..0x1_8000_0000,
                0x1_8000_0000..0x2_0000_0000
            ]
        );
        // Below a page, and kept all the same.
        assert_eq!(machine.reserved, [0x3ef6_0000..0x3ef6_0078, 0..0x1000, 0x2eff_2000..0x2eff_f000]);
        let interrupts =
            Interrupts::Gicv2 { distributor: 0xff84_1000..0xff84_2000, interface: 0xff84_2000..0xff84_4000 };
        assert_eq!(machine.interrupts, Some(interrupts));
        assert_eq!(machine.soc, machine.board.soc);
        assert_eq!(machine.uart, machine.board.uart);
        assert_eq!((machine.cores.len(), machine.bootargs), (4, "suite=off"));
    });
}

#[test]
fn raspberry_pi_5() {
    described(&pi5(8), |machine| {
        assert_eq!(machine.board.name, "Raspberry Pi 5");
        assert_eq!(machine.uart, Uart { kind: UartKind::Pl011, base: 0x10_7d00_1000 });
        assert_eq!(machine.uart, machine.board.uart);
        assert_eq!(machine.soc, machine.board.soc);
        assert_eq!(machine.firmware, Some(Conduit::Smc));
        assert_eq!(machine.ram, [0..0x3fc0_0000, 0x4000_0000..0x2_0000_0000]);
        assert_eq!(machine.reserved, [0..0x8_0000]);
        let cores: Vec<_> = machine.cores.iter().map(|core| (core.affinity, core.method)).collect();
        assert_eq!(cores, [0, 0x100, 0x200, 0x300].map(|affinity| (affinity, Method::Psci)));
        let interrupts = Interrupts::Gicv2 {
            distributor: 0x10_7fff_9000..0x10_7fff_a000,
            interface: 0x10_7fff_a000..0x10_7fff_c000,
        };
        assert_eq!(machine.interrupts, Some(interrupts));
        assert_eq!(machine.bootargs, "tokens=16");
    });
}

/// Where `cargo xtask setup` puts the boards' own trees.
fn real_trees() -> std::path::PathBuf {
    let cache = || {
        let home = || std::env::var_os("HOME").map(|home| std::path::PathBuf::from(home).join(".cache"));
        let shared = std::env::var_os("XDG_CACHE_HOME").map(Into::into).or_else(home).unwrap();
        std::env::var_os("BARELM_CACHE").map_or_else(|| shared.join("barelm"), Into::into)
    };
    cache().join("device-trees")
}

#[test]
#[ignore = "needs the boards' device trees: cargo xtask setup"]
fn the_real_boards_trees_give_the_same_machines() {
    for (file, name, uart) in [
        ("bcm2837-rpi-3-b.dtb", "Raspberry Pi 3", 0x3f21_5040),
        ("bcm2711-rpi-4-b.dtb", "Raspberry Pi 4", 0xfe21_5040),
    ] {
        let bytes = std::fs::read(real_trees().join(file)).unwrap();
        let tree = Tree::parse(&bytes).unwrap();
        // As distributed: firmware is to write the memory's size and its own console in.
        assert_eq!(console(&tree), Some(Uart { kind: UartKind::Mini, base: uart }), "{file}");
        match Machine::of_tree(&tree, 0) {
            Ok(machine) => {
                assert_eq!((machine.board.name, machine.cores.len(), machine.left_out), (name, 4, 0));
                assert_eq!(machine.soc, machine.board.soc);
                let places = machine.cores.iter().zip(machine.board.release);
                places.for_each(|(core, &place)| assert_eq!(core.method, Method::SpinTable(place)));
            }
            Err(error) => assert_eq!(error, MachineError::NoMemory, "{file}"),
        }
    }
}

#[test]
fn a_board_without_a_tree_has_what_its_row_says() {
    let pi3 = &boards::BOARDS[1];
    let machine = Machine::of_board(pi3, 0x100).unwrap();
    assert_eq!((machine.uart, machine.cores.len(), machine.bootargs), (pi3.uart, 4, ""));
    assert_eq!(memory::free(&machine.ram, &machine.reserved), [0x1000..0x2000_0000]);
    assert_eq!(
        Machine::of_board(&boards::BOARDS[0], 0x100).map(|_| ()),
        Err(MachineError::NoTree { x0: 0x100 })
    );
}

#[test]
fn our_words_begin_behind_the_mark() {
    for (line, ours_) in [
        ("", ""),
        ("suite=off", "suite=off"),
        ("console=ttyS0 -- suite=off", "suite=off"),
        ("-- suite=off", "suite=off"),
        ("a=1 -- b=2 -- c=3", "c=3"),
        ("console=ttyS0 --", ""),
        ("prompt=a--b tokens=3", "prompt=a--b tokens=3"),
        ("prompt=-- tokens=3", "prompt=-- tokens=3"),
    ] {
        assert_eq!(ours(line), ours_, "{line}");
    }
}

/// A tree with one memory, and whatever else.
fn with(rest: impl FnOnce(&mut Builder)) -> Vec<u8> {
    let mut tree = Builder::new();
    tree.begin("").cells("#address-cells", &[2]).cells("#size-cells", &[2]);
    tree.begin("memory@40000000").cells("reg", &[0, 0x4000_0000, 0, 0x4000_0000]).end();
    rest(&mut tree);
    tree.end();
    tree.finish()
}

#[test]
fn an_initrd_outside_memory_is_none() {
    for (start, end, found) in [
        (0x4800_0000u32, 0x4900_0000u32, true),
        (0x3fff_0000, 0x4100_0000, false),
        (0x7fff_0000, 0x8000_0001, false),
        (0x4900_0000, 0x4800_0000, false),
        (0x4800_0000, 0x4800_0000, false),
    ] {
        let bytes = with(|tree| {
            tree.begin("chosen").cells("linux,initrd-start", &[start]);
            tree.cells("linux,initrd-end", &[0, end]).end();
        });
        assert_eq!(described(&bytes, |machine| machine.initrd.is_some()), found, "{start:#x}..{end:#x}");
    }
}

#[test]
fn without_memory_there_is_no_machine() {
    let mut tree = Builder::new();
    let bytes = tree.begin("").begin("memory@0").cells("reg", &[0, 0, 0, 0]).end().end().finish();
    let tree = Tree::parse(&bytes).unwrap();
    assert_eq!(Machine::of_tree(&tree, 0).map(|_| ()), Err(MachineError::NoMemory));
}

#[test]
fn memory_of_the_secure_world_is_not_ours() {
    let bytes = with(|tree| {
        tree.begin("secram@e000000")
            .text("device_type", "memory")
            .cells("reg", &[0, 0xe00_0000, 0, 0x100_0000]);
        tree.text("status", "disabled").text("secure-status", "okay").end();
    });
    described(&bytes, |machine| assert_eq!(machine.ram, [0x4000_0000..0x8000_0000]));
}

#[test]
fn a_uart_that_is_off_is_not_the_console() {
    let bytes = with(|tree| {
        tree.begin("chosen").text("stdout-path", "/uart@1000").end();
        tree.device("uart@1000", &["arm,pl011"], &[0, 0x1000, 0, 0x1000], "disabled");
        tree.device("uart@2000", &["arm,pl011"], &[0, 0x2000, 0, 0x1000], "okay");
    });
    assert_eq!(described(&bytes, |machine| machine.uart.base), 0x2000);
}

#[test]
fn more_than_fits_is_left_out_where_that_is_safe() {
    let reserving =
        |count| with(|tree| (0..count).for_each(|i| _ = tree.reserve(0x4000_0000 + i * 0x10_0000, 0x1000)));
    described(&reserving(RANGES as u64), |machine| assert_eq!(machine.reserved.len(), RANGES));
    let bytes = reserving(RANGES as u64 + 1);
    let tree = Tree::parse(&bytes).unwrap();
    assert_eq!(Machine::of_tree(&tree, 0).map(|_| ()), Err(MachineError::TooManyReserved));
    let bytes = with(|tree| {
        tree.begin("cpus").cells("#address-cells", &[1]).cells("#size-cells", &[0]);
        (0..20).for_each(|i| _ = tree.begin("cpu").cells("reg", &[i]).end());
        tree.end();
    });
    described(&bytes, |machine| assert_eq!((machine.cores.len(), machine.left_out), (CORES, 20 - CORES)));
}
