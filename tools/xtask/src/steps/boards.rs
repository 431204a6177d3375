//! The one image on other machines: every exception level, other boards, real boards' device trees, and machines that
//! are not what their tree says.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{BOOTING, Run, Step, boots};
use crate::guest::{Boot, Console, Entry};
use crate::setup::Need;
use crate::toolchain::Toolchain;
use crate::{Failure, device_trees, process};

/// The host's test of real trees, which needs more than the other ignored ones.
pub const REAL_TREES: &str = "the_real_boards_trees_give_the_same_machines";

/// Which device tree the machine passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tree {
    /// QEMU's own, or none where it has none.
    Own,
    /// The one that QEMU would pass with `-kernel`, command line included, put into memory.
    Written,
    /// QEMU's own of a machine with so many cores.
    OfCores(usize),
    /// The real Raspberry Pi 3's.
    Pi3,
    /// The same, but core 2 is said to wait where it does not.
    Pi3Misled,
}

/// One boot.
#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    machine: &'static str,
    cpu: &'static str,
    memory: &'static str,
    tree: Tree,
    entry: Entry,
    /// Instructions before the image's first: a boot loader.
    loader: &'static [u32],
    /// The model as initrd; its logits hash must be the host's.
    hash: bool,
    words: &'static str,
    uart: usize,
    semihosting: bool,
    status: i32,
    texts: &'static [&'static str],
    /// What must not be printed.
    never: &'static [&'static str],
    /// Where the machine starts itself again, the boot ends.
    no_reboot: bool,
}

/// What the embedded model says is enough.
const WORDS: &str = "suite=off model=embedded tokens=8";
const PLAIN: Case = Case {
    name: "",
    machine: "virt",
    cpu: crate::qemu::DEFAULT_CPU,
    memory: "1G",
    tree: Tree::Own,
    entry: Entry::Kernel,
    loader: &[],
    hash: false,
    words: WORDS,
    uart: 0,
    semihosting: true,
    status: 0,
    texts: &[],
    never: &[],
    no_reboot: false,
};
/// In the second gigabyte, where QEMU puts nothing of its own.
const SECOND: Case = Case { memory: "2G", entry: Entry::At(0x8020_0000), ..PLAIN };
const PI: Case = Case { machine: "raspi3b", ..PLAIN };
/// A real Raspberry Pi 3's tree names the mini-UART; firmware puts words of its own first.
const PI_TREE: Case = Case {
    tree: Tree::Pi3,
    words: "coherent_pool=1M console=ttyS1,115200 -- suite=off model=embedded tokens=8",
    uart: 1,
    ..PI
};

const CASES: &[Case] = &[
    Case {
        name: "entered at EL2",
        machine: "virt,virtualization=on",
        texts: &["2 of 2 cores running, at EL1, entered at EL2", "8 tokens", "core 1: "],
        ..PLAIN
    },
    Case {
        name: "entered at EL2 as a host",
        machine: "virt,virtualization=on",
        cpu: "max",
        tree: Tree::Written,
        // movz x1, #0x8800, lsl #16; movk x1, #4, lsl #32: RW, TGE and E2H; msr hcr_el2, x1; isb
        loader: &[0xd2b1_0001, 0xf2c0_0081, 0xd51c_1101, 0xd503_3fdf],
        texts: &["at EL1, entered at EL2", "8 tokens"],
        ..SECOND
    },
    Case {
        name: "entered at EL3, tree where memory begins",
        machine: "virt,secure=on",
        entry: Entry::At(0x4020_0000),
        // Nobody can give it a command line, and so no model.
        status: 1,
        texts: &[
            "core 0x1 stays off: there is no firmware",
            "1 of 2 cores running, at EL1, entered at EL3",
            "self-test: ",
            "error at boot step `model`",
        ],
        ..PLAIN
    },
    Case {
        name: "entered at EL3 above EL2",
        machine: "virt,secure=on,virtualization=on",
        tree: Tree::Written,
        texts: &["at EL1, entered at EL3", "8 tokens"],
        ..SECOND
    },
    Case {
        name: "no device tree",
        status: 1,
        texts: &["error at boot step `device tree`: no device tree", "-kernel"],
        ..SECOND
    },
    Case {
        name: "fewer cores than the tree claims",
        tree: Tree::OfCores(4),
        texts: &[
            "core 0x2 stays off: firmware refuses",
            "core 0x3 stays off: firmware refuses",
            "2 of 4 cores running",
            "8 tokens",
        ],
        ..PLAIN
    },
    Case {
        name: "an interrupt controller that is not known",
        machine: "virt,gic-version=3",
        texts: &["watchdog: off, no interrupt controller of this machine is known", "8 tokens", "core 1: "],
        ..PLAIN
    },
    Case {
        name: "memory above 4 GiB",
        memory: "6G",
        texts: &["memory: 6442450944 bytes of RAM, 643", "5 x 1 GiB", "8 tokens"],
        ..PLAIN
    },
    Case {
        name: "Raspberry Pi 3, its real tree",
        texts: &[
            "board: Raspberry Pi 3 Model B",
            "board revision 0xa02082",
            "25.0 degrees Celsius",
            "4 of 4 cores running, at EL1, entered at EL2",
            "8 tokens",
            "core 3: ",
        ],
        ..PI_TREE
    },
    Case {
        name: "Raspberry Pi 3, logits hash",
        hash: true,
        words: "-- suite=off tokens=0 hash=1",
        ..PI_TREE
    },
    Case {
        name: "Raspberry Pi 3, a core that stays silent",
        tree: Tree::Pi3Misled,
        texts: &["core 0x2 stays off: it does not answer", "3 of 4 cores running", "8 tokens", "core 2: "],
        ..PI_TREE
    },
    Case {
        name: "Raspberry Pi 3, off without a debugger",
        semihosting: false,
        texts: &["8 tokens", "core 3: "],
        ..PI_TREE
    },
    Case {
        name: "Raspberry Pi 3, its own watchdog",
        // QEMU's model of it resets at once: that the registers are right is all that it shows.
        words: "-- suite=off model=embedded tokens=8 watchdog=20 board-watchdog=15",
        texts: &["board's watchdog: resets the board 15 s after the last core's last tick"],
        never: &["board's watchdog: off", "self-test: "],
        no_reboot: true,
        ..PI_TREE
    },
    Case {
        name: "Raspberry Pi 3, ticks too slow for its own watchdog",
        words: "-- suite=off model=embedded tokens=8 watchdog=100 board-watchdog=15",
        texts: &[
            "board's watchdog: off, it would run out between two ticks; watchdog=60 is the most",
            "8 tokens",
        ],
        ..PI_TREE
    },
    Case {
        name: "Raspberry Pi 3, starts again behind a fault",
        semihosting: false,
        words: "-- suite=off model=embedded tokens=0 fault=panic on-fault=reboot",
        texts: &["panic on core 0", "exit status 101", "starting again"],
        no_reboot: true,
        ..PI_TREE
    },
    Case {
        name: "Raspberry Pi 3, no tree",
        status: 1,
        texts: &[
            "board: Raspberry Pi 3",
            "memory: 1006632960 bytes of RAM",
            "4 of 4 cores running",
            "self-test: ",
            "error at boot step `model`",
        ],
        ..PI
    },
];

/// All boots, and the real trees on the host.
pub fn steps() -> Vec<Step> {
    let mut steps = vec![Step::new("real boards' device trees", &[Need::DeviceTrees], |run: &mut Run| {
        let mut cargo = Toolchain::current().cargo();
        cargo.args(["test", "-p", "barelm", "--lib", "--", "--include-ignored", REAL_TREES]);
        run.counted(&mut cargo).into()
    })];
    steps.extend(CASES.iter().map(|case| {
        let trees: &[Need] = match case.tree {
            Tree::Pi3 | Tree::Pi3Misled => &[Need::DeviceTrees],
            Tree::Own | Tree::Written | Tree::OfCores(_) => &[],
        };
        Step::new(format!("boot: {}", case.name), &[&BOOTING, trees].concat(), |run: &mut Run| {
            judge(case, run).into()
        })
    }));
    steps
}

/// Boots, and compares what came of it.
fn judge(case: &Case, run: &Run) -> Result<(), Failure> {
    let image = run.image()?.raw.clone();
    let mut boot = Boot {
        machine: case.machine.to_string(),
        kernel: if case.loader.is_empty() { image } else { behind(case.loader, &image)? },
        words: case.words.to_string(),
        cpu: case.cpu.to_string(),
        cores: 2,
        memory: case.memory.to_string(),
        entry: case.entry,
        uart: case.uart,
        semihosting: case.semihosting,
        no_reboot: case.no_reboot,
        limit: Duration::from_secs(300),
        ..Boot::default()
    };
    if case.hash {
        boot.initrd = Some(crate::root().join("crates/kernel/assets/tiny.gguf"));
    }
    if let (Entry::At(address), false) = (case.entry, case.loader.is_empty()) {
        // The image keeps its place; the loader lies in the page before.
        boot.entry = Entry::At(address - PAGE as u64);
    }
    boot.device_tree = tree_of(case, &boot)?;
    println!("{}", process::shown(&boot.command(Console::Kept)));
    let outcome = boot.run(Console::Kept)?;
    let unwanted = case.never.iter().find(|text| outcome.text.contains(**text));
    let compared = match case.texts.iter().find(|text| !outcome.text.contains(**text)) {
        _ if unwanted.is_some() => Err(format!("printed {unwanted:?}")),
        _ if outcome.status != Some(case.status) => Err(format!("wanted exit status {}", case.status)),
        Some(text) => Err(format!("`{text}` was not printed")),
        None if case.hash => boots::same_hash(&outcome, boot.initrd, run),
        None => Ok(()),
    };
    compared.map_err(|why| format!("{why}; {}\n{}", outcome.ending(), outcome.last_lines(20)))
}

const PAGE: usize = 4096;

/// A file in the build folder.
fn written(name: &str, bytes: &[u8]) -> Result<PathBuf, Failure> {
    let folder = crate::target_folder().join("boots");
    let file = folder.join(name);
    std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(&file, bytes))
        .map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(file)
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))
}

/// The image behind a page with a boot loader that falls into it.
fn behind(loader: &[u32], image: &Path) -> Result<PathBuf, Failure> {
    let mut bytes: Vec<u8> = loader.iter().flat_map(|word| word.to_le_bytes()).collect();
    // `b` counts words from itself.
    let jump = 0x1400_0000 | ((PAGE - bytes.len()) / 4) as u32;
    bytes.extend(jump.to_le_bytes());
    bytes.resize(PAGE, 0);
    bytes.extend(read(image)?);
    written("behind-a-loader.img", &bytes)
}

/// The file with the machine's device tree, if it is none of QEMU's own.
fn tree_of(case: &Case, boot: &Boot) -> Result<Option<PathBuf>, Failure> {
    let from_qemu = |cores: usize, name: &str| {
        let file = written(name, &[])?;
        Boot { cores, ..boot.clone() }.write_tree(&file).map(|()| Some(file))
    };
    let pi3 = device_trees::folder().join(device_trees::FILES[0]);
    match case.tree {
        Tree::Own => Ok(None),
        Tree::Written => from_qemu(boot.cores, "written.dtb"),
        Tree::OfCores(cores) => from_qemu(cores, "of-cores.dtb"),
        Tree::Pi3 => Ok(Some(pi3)),
        Tree::Pi3Misled => misled(&read(&pi3)?).and_then(|tree| written("misled.dtb", &tree)).map(Some),
    }
}

/// A Raspberry Pi 3's tree in which core 2 waits at 0x1e8 and not at 0xe8.
fn misled(tree: &[u8]) -> Result<Vec<u8>, Failure> {
    let (place, other) = (0xe8u64.to_be_bytes(), 0x1e8u64.to_be_bytes());
    let found: Vec<_> = (0..tree.len().saturating_sub(7)).filter(|&at| tree[at..at + 8] == place).collect();
    let [at] = found[..] else { return Err(format!("{} places 0xe8 in the tree, 1 is wanted", found.len())) };
    let mut changed = tree.to_vec();
    changed[at..at + 8].copy_from_slice(&other);
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_is_misled_only_where_there_is_one() {
        let tree = [&[7; 5][..], &0xe8u64.to_be_bytes(), &[9; 3]].concat();
        let changed = misled(&tree).unwrap();
        assert_eq!(changed[5..13], 0x1e8u64.to_be_bytes());
        assert!(misled(&tree[..10]).is_err() && misled(&[&tree[..], &tree[..]].concat()).is_err());
    }

    #[test]
    fn a_loader_falls_into_the_image() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        std::fs::write(&image, b"image").unwrap();
        let bytes = std::fs::read(behind(&[1, 2], &image).unwrap()).unwrap();
        assert_eq!(bytes[..12], [1, 0, 0, 0, 2, 0, 0, 0, 0xfe, 3, 0, 0x14]);
        assert_eq!(&bytes[PAGE..], b"image");
    }
}
