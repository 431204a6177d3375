//! Whole trees are read as they are; damaged ones are refused, whatever the damage.

// A range in a list is meant as one.
#![allow(clippy::single_range_in_vec_init)]

use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use super::*;
use crate::machine::fixtures::{Builder, cells32, pi3};

/// A bus behind a bus, cells of different width, and a node that no bus passes on.
fn small() -> Vec<u8> {
    let mut tree = Builder::new();
    tree.reserve(0, 0x1000).reserve(0x3000_0000, 0x10_0000);
    tree.begin("").cells("#address-cells", &[2]).cells("#size-cells", &[1]);
    tree.begin("aliases").text("serial0", "/soc/bus@1000/uart@10").end();
    tree.begin("soc").cells("#address-cells", &[1]).cells("#size-cells", &[1]);
    tree.cells("ranges", &[0x7e00_0000, 0x10, 0x3f00_0000, 0x100_0000]);
    tree.begin("bus@1000").cells("#address-cells", &[1]).cells("#size-cells", &[1]);
    tree.cells("ranges", &[0, 0x7e00_1000, 0x100]);
    tree.begin("uart@10").cells("reg", &[0x10, 0x20, 0xf8, 0x10]).texts("compatible", &["a,b", "c,d"]).end();
    tree.end();
    tree.begin("outside@0").cells("reg", &[0x1000, 4]).end();
    tree.end();
    tree.begin("island").cells("#address-cells", &[1]).cells("#size-cells", &[0]);
    tree.begin("chip@7").cells("reg", &[7]).end();
    tree.end();
    tree.end();
    tree.finish()
}

#[test]
fn names_paths_aliases_and_texts_are_found() {
    let bytes = small();
    let tree = Tree::parse(&bytes).unwrap();
    let names: Vec<_> = tree.nodes().map(|way| (way.depth(), way.node().name())).collect();
    assert_eq!(
        names,
        [
            (0, ""),
            (1, "aliases"),
            (1, "soc"),
            (2, "bus@1000"),
            (3, "uart@10"),
            (2, "outside@0"),
            (1, "island"),
            (2, "chip@7")
        ]
    );
    for path in
        ["/soc/bus@1000/uart@10", "/soc/bus/uart", "serial0", "serial0:115200n8", "/soc/bus/uart@10:x"]
    {
        assert_eq!(tree.find(path).unwrap().node().name(), "uart@10", "{path}");
    }
    for path in ["/soc/uart", "serial1", "/soc/bus@2000/uart@10", "uart@10"] {
        assert!(tree.find(path).is_none(), "{path}");
    }
    let uart = tree.find("serial0").unwrap().node();
    assert!(uart.is_compatible(&["c,d"]) && !uart.is_compatible(&["c"]) && uart.is_okay());
    assert_eq!(tree.text_at("/aliases", "serial0"), Some("/soc/bus@1000/uart@10"));
    assert_eq!(tree.reservations().collect::<Vec<_>>(), [0..0x1000, 0x3000_0000..0x3010_0000]);
}

#[test]
fn addresses_go_through_every_bus() {
    let bytes = small();
    let tree = Tree::parse(&bytes).unwrap();
    let registers =
        |path: &str| tree.find(path).map(|way| way.registers().collect::<Vec<_>>()).unwrap_or_default();
    // The second register leaves its bus.
    assert_eq!(registers("serial0"), [0x10_3f00_1010..0x10_3f00_1030]);
    assert_eq!(registers("/soc/outside"), []);
    assert_eq!(registers("/island/chip"), []);
    assert_eq!(tree.find("/island/chip").unwrap().number(), Some(7));
}

#[test]
fn every_prefix_is_refused() {
    let bytes = pi3();
    for length in 0..bytes.len() {
        assert!(Tree::parse(&bytes[..length]).is_err(), "{length}");
        // The same with a header that says so: the structure ends too early.
        let mut cut = bytes[..length].to_vec();
        if let Some(size) = cut.get_mut(4..8) {
            size.copy_from_slice(&(length as u32).to_be_bytes());
            let _ = Tree::parse(&cut).map(|tree| read_all(&tree));
        }
    }
    assert!(Tree::parse(&bytes).is_ok());
}

/// Looks at everything there is.
fn read_all(tree: &Tree<'_>) -> usize {
    let mut seen = tree.reservations().count();
    for way in tree.nodes() {
        seen += way.registers().count() + usize::from(way.number().is_some());
        for (name, property) in way.node().properties() {
            seen += name.len() + property.texts().count() + usize::from(property.number().is_some());
        }
    }
    for path in ["/", "/soc", "serial0", "/cpus/cpu@0", "stdout-path"] {
        seen += usize::from(tree.find(path).is_some());
    }
    seen
}

#[test]
fn changed_bytes_never_panic_and_never_loop() {
    let whole = pi3();
    // xorshift64*: a fixed sequence.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    };
    let (mut refused, mut read) = (0, 0);
    for _ in 0..20_000 {
        let mut bytes = whole.clone();
        for _ in 0..1 + random() % 4 {
            let at = random() as usize % bytes.len();
            // Interesting words as often as random bytes: huge lengths, other tokens, the ends of ranges.
            match random() % 4 {
                0 => bytes[at] = random() as u8,
                1 => bytes[at] ^= 1 << (random() % 8),
                _ => {
                    let words =
                        [0, 1, 2, 3, 4, 9, u32::MAX, u32::MAX - 3, i32::MAX as u32, whole.len() as u32];
                    let word = words[random() as usize % words.len()].to_be_bytes();
                    let at = at / 4 * 4;
                    let end = bytes.len().min(at + 4);
                    bytes[at..end].copy_from_slice(&word[..end - at]);
                }
            }
        }
        match Tree::parse(&bytes) {
            Ok(tree) => {
                read += 1;
                assert!(read_all(&tree) < 100 * whole.len());
                crate::machine::tests::describe_without_panic(&tree);
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 1000 && read > 1000, "{refused} refused, {read} read");
}

#[test]
fn random_bytes_behind_a_good_header_never_panic() {
    let mut state = 1u32;
    for _ in 0..5_000 {
        let mut bytes = vec![0u8; 256];
        for byte in &mut bytes[40..] {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Mostly small numbers: tokens and short lengths.
            *byte = if state >> 30 == 0 { (state >> 16) as u8 } else { (state >> 24) as u8 & 0x0b };
        }
        let header = [0xd00d_feed, 256, 40, 200, 232, 17, 16, 0, 56, 160];
        bytes[..40].copy_from_slice(&cells32(&header));
        let _ = Tree::parse(&bytes).map(|tree| read_all(&tree));
    }
}

#[test]
fn hostile_headers_are_refused_in_words() {
    let whole = pi3();
    let with = |field: usize, value: u32| {
        let mut bytes = whole.clone();
        bytes[4 * field..4 * field + 4].copy_from_slice(&value.to_be_bytes());
        Tree::parse(&bytes).map(|_| ()).unwrap_err()
    };
    assert_eq!(with(0, 0xd00d_feef), TreeError::Magic);
    assert_eq!(with(1, u32::MAX), TreeError::Size { bytes: u32::MAX as usize });
    assert_eq!(with(1, 39), TreeError::Size { bytes: 39 });
    assert_eq!(with(6, 18), TreeError::Version { needed: 18 });
    assert_eq!(with(2, u32::MAX), TreeError::Structure { at: u32::MAX as usize });
    assert!(with(2, 18).to_string().contains("breaks at byte"));
    assert_eq!(Tree::parse(&[]).map(|_| ()), Err(TreeError::Magic));
}

#[test]
fn nodes_too_deep_are_refused_and_the_deepest_allowed_is_read() {
    for (depth, good) in [(DEPTH, true), (DEPTH + 1, false)] {
        let mut tree = Builder::new();
        (0..depth).for_each(|i| _ = tree.begin(if i == 0 { "" } else { "n" }));
        (0..depth).for_each(|_| _ = tree.end());
        let bytes = tree.finish();
        match Tree::parse(&bytes) {
            Ok(tree) => assert!(good && tree.nodes().count() == DEPTH),
            Err(error) => assert!(!good && error == TreeError::Depth),
        }
    }
}
