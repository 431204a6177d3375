//! Device trees for tests: a writer of them, and the boards' as far as the image reads them.
//!
//! Node names, addresses and cells are those of the boards' real trees (the steps of `cargo xtask test` also read
//! real ones); memory, command line and initrd are what firmware writes into them.

use alloc::vec::Vec;

/// Words in tree order.
pub fn cells32(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// Writes a tree, node by node.
#[derive(Default)]
pub struct Builder {
    reservations: Vec<u8>,
    structure: Vec<u8>,
    strings: Vec<u8>,
}

impl Builder {
    pub fn new() -> Self {
        Builder::default()
    }

    pub fn reserve(&mut self, start: u64, size: u64) -> &mut Self {
        self.reservations.extend(start.to_be_bytes());
        self.reservations.extend(size.to_be_bytes());
        self
    }

    fn pad(&mut self) -> &mut Self {
        self.structure.resize(self.structure.len().next_multiple_of(4), 0);
        self
    }

    pub fn begin(&mut self, name: &str) -> &mut Self {
        self.structure.extend(1u32.to_be_bytes());
        self.structure.extend(name.bytes().chain([0]));
        self.pad()
    }

    pub fn end(&mut self) -> &mut Self {
        self.structure.extend(2u32.to_be_bytes());
        self
    }

    pub fn bytes(&mut self, name: &str, value: &[u8]) -> &mut Self {
        let offset = self.strings.len() as u32;
        self.strings.extend(name.bytes().chain([0]));
        self.structure.extend(cells32(&[3, value.len() as u32, offset]));
        self.structure.extend(value);
        self.pad()
    }

    pub fn cells(&mut self, name: &str, value: &[u32]) -> &mut Self {
        self.bytes(name, &cells32(value))
    }

    pub fn texts(&mut self, name: &str, value: &[&str]) -> &mut Self {
        let joined: Vec<u8> = value.iter().flat_map(|text| text.bytes().chain([0])).collect();
        self.bytes(name, &joined)
    }

    pub fn text(&mut self, name: &str, value: &str) -> &mut Self {
        self.texts(name, &[value])
    }

    /// A node with `compatible`, `reg` and `status`.
    pub fn device(&mut self, name: &str, compatible: &[&str], reg: &[u32], status: &str) -> &mut Self {
        self.begin(name).texts("compatible", compatible).cells("reg", reg).text("status", status).end()
    }

    /// The tree's bytes.
    pub fn finish(&self) -> Vec<u8> {
        let structure = [&self.structure[..], &9u32.to_be_bytes()].concat();
        let reservations = [&self.reservations[..], &[0; 16]].concat();
        let (first, second) = (40 + reservations.len(), 40 + reservations.len() + structure.len());
        let size = second + self.strings.len();
        let header = [
            0xd00d_feed,
            size as u32,
            first as u32,
            second as u32,
            40,
            17,
            16,
            0,
            self.strings.len() as u32,
            structure.len() as u32,
        ];
        [cells32(&header), reservations, structure, self.strings.clone()].concat()
    }
}

/// Processors with a spin table, from 0xd8 on.
fn spin_table(tree: &mut Builder, core: &str) {
    tree.begin("cpus").cells("#address-cells", &[1]).cells("#size-cells", &[0]);
    tree.text("enable-method", "brcm,bcm2836-smp");
    for i in 0..4 {
        tree.begin(&alloc::format!("cpu@{i}")).text("device_type", "cpu").text("compatible", core);
        tree.cells("reg", &[i]).text("enable-method", "spin-table");
        tree.cells("cpu-release-addr", &[0, 0xd8 + 8 * i]).end();
    }
    tree.end();
}

/// A Raspberry Pi 3 Model B with 1 GiB, 76 MiB of it the video core's.
pub fn pi3() -> Vec<u8> {
    let mut tree = Builder::new();
    tree.reserve(0, 0x1000);
    tree.begin("").texts("compatible", &["raspberrypi,3-model-b", "brcm,bcm2837"]);
    tree.text("model", "Raspberry Pi 3 Model B");
    tree.cells("#address-cells", &[1]).cells("#size-cells", &[1]);
    tree.begin("aliases")
        .text("serial0", "/soc/serial@7e201000")
        .text("serial1", "/soc/serial@7e215040")
        .end();
    tree.begin("chosen").text("stdout-path", "serial1:115200n8");
    tree.text("bootargs", "coherent_pool=1M 8250.nr_uarts=1 -- suite=off shell=1");
    tree.cells("linux,initrd-start", &[0x0080_0000]).cells("linux,initrd-end", &[0x0600_0000]).end();
    tree.begin("reserved-memory")
        .cells("#address-cells", &[1])
        .cells("#size-cells", &[1])
        .bytes("ranges", &[]);
    tree.begin("linux,cma").text("compatible", "shared-dma-pool").cells("size", &[0x400_0000]).end().end();
    tree.begin("soc")
        .text("compatible", "simple-bus")
        .cells("#address-cells", &[1])
        .cells("#size-cells", &[1]);
    tree.cells("ranges", &[0x7e00_0000, 0x3f00_0000, 0x100_0000, 0x4000_0000, 0x4000_0000, 0x1000]);
    tree.device("mailbox@7e00b880", &["brcm,bcm2835-mbox"], &[0x7e00_b880, 0x40], "okay");
    tree.device("gpio@7e200000", &["brcm,bcm2835-gpio"], &[0x7e20_0000, 0xb4], "okay");
    tree.device("serial@7e201000", &["arm,pl011", "arm,primecell"], &[0x7e20_1000, 0x200], "okay");
    tree.device("serial@7e215040", &["brcm,bcm2835-aux-uart"], &[0x7e21_5040, 0x40], "okay");
    let power = ["brcm,bcm2835-pm", "brcm,bcm2835-pm-wdt"];
    tree.device("watchdog@7e100000", &power, &[0x7e10_0000, 0x114, 0x7e00_a000, 0x24], "okay");
    tree.device("local_intc@40000000", &["brcm,bcm2836-l1-intc"], &[0x4000_0000, 0x100], "okay");
    tree.end();
    spin_table(&mut tree, "arm,cortex-a53");
    tree.begin("memory@0").text("device_type", "memory").cells("reg", &[0, 0x3b40_0000]).end();
    tree.end();
    tree.finish()
}

/// A Raspberry Pi 4 Model B with 8 GiB.
pub fn pi4() -> Vec<u8> {
    let mut tree = Builder::new();
    tree.reserve(0, 0x1000).reserve(0x2eff_2000, 0xd000);
    tree.begin("").texts("compatible", &["raspberrypi,4-model-b", "brcm,bcm2711"]);
    tree.text("model", "Raspberry Pi 4 Model B Rev 1.4");
    tree.cells("#address-cells", &[2]).cells("#size-cells", &[1]);
    tree.begin("aliases")
        .text("serial0", "/soc/serial@7e201000")
        .text("serial1", "/soc/serial@7e215040")
        .end();
    tree.begin("chosen").text("stdout-path", "serial0:115200n8").text("bootargs", "suite=off").end();
    tree.begin("reserved-memory")
        .cells("#address-cells", &[2])
        .cells("#size-cells", &[1])
        .bytes("ranges", &[]);
    tree.begin("nvram@0").cells("reg", &[0, 0x3ef6_0000, 0x78]).bytes("no-map", &[]).text("status", "okay");
    tree.end().end();
    tree.begin("soc")
        .text("compatible", "simple-bus")
        .cells("#address-cells", &[1])
        .cells("#size-cells", &[1]);
    tree.cells(
        "ranges",
        &[0x7e00_0000, 0, 0xfe00_0000, 0x180_0000, 0x7c00_0000, 0, 0xfc00_0000, 0x200_0000, 0x4000_0000, 0]
            .into_iter()
            .chain([0xff80_0000, 0x80_0000])
            .collect::<Vec<u32>>(),
    );
    tree.device("mailbox@7e00b880", &["brcm,bcm2835-mbox"], &[0x7e00_b880, 0x40], "okay");
    tree.device("gpio@7e200000", &["brcm,bcm2711-gpio"], &[0x7e20_0000, 0xb4], "okay");
    tree.device("serial@7e201000", &["arm,pl011", "arm,primecell"], &[0x7e20_1000, 0x200], "okay");
    tree.device("serial@7e215040", &["brcm,bcm2835-aux-uart"], &[0x7e21_5040, 0x40], "disabled");
    let gic = [0x4004_1000, 0x1000, 0x4004_2000, 0x2000, 0x4004_4000, 0x2000, 0x4004_6000, 0x2000];
    tree.device("local_intc@40000000", &["brcm,bcm2836-l1-intc"], &[0x4000_0000, 0x100], "okay");
    tree.device("interrupt-controller@40041000", &["arm,gic-400"], &gic, "okay");
    let power = ["brcm,bcm2711-pm", "brcm,bcm2835-pm-wdt"];
    tree.device("watchdog@7e100000", &power, &[0x7e10_0000, 0x114, 0x7e00_a000, 0x24], "okay");
    tree.end();
    spin_table(&mut tree, "arm,cortex-a72");
    tree.begin("memory@0").text("device_type", "memory");
    tree.cells("reg", &[0, 0, 0x3b40_0000, 0, 0x4000_0000, 0xbc00_0000]);
    tree.end().begin("memory@100000000").text("device_type", "memory");
    tree.cells("reg", &[1, 0, 0x8000_0000, 1, 0x8000_0000, 0x8000_0000]).end();
    tree.end();
    tree.finish()
}

/// A Raspberry Pi 5 with so many GiB (8 and 16 are sold): devices above 64 GiB, trusted firmware at the start of memory, cores by PSCI.
pub fn pi5(gib: u32) -> Vec<u8> {
    let mut tree = Builder::new();
    tree.begin("").texts("compatible", &["raspberrypi,5-model-b", "brcm,bcm2712"]);
    tree.text("model", "Raspberry Pi 5 Model B Rev 1.0");
    tree.cells("#address-cells", &[2]).cells("#size-cells", &[2]);
    tree.begin("aliases").text("serial10", "/soc@107c000000/serial@7d001000").end();
    tree.begin("chosen").text("stdout-path", "serial10:115200n8");
    tree.text("bootargs", "reboot=w coherent_pool=1M -- tokens=16").end();
    tree.begin("reserved-memory")
        .cells("#address-cells", &[2])
        .cells("#size-cells", &[2])
        .bytes("ranges", &[]);
    tree.begin("atf@0").cells("reg", &[0, 0, 0, 0x8_0000]).bytes("no-map", &[]).end().end();
    tree.begin("psci").texts("compatible", &["arm,psci-1.0", "arm,psci-0.2"]).text("method", "smc").end();
    tree.begin("cpus").cells("#address-cells", &[1]).cells("#size-cells", &[0]);
    for i in 0..4u32 {
        tree.begin(&alloc::format!("cpu@{i}"))
            .text("device_type", "cpu")
            .text("compatible", "arm,cortex-a76");
        tree.cells("reg", &[i << 8]).text("enable-method", "psci").end();
    }
    tree.end();
    tree.begin("soc@107c000000").text("compatible", "simple-bus");
    tree.cells("#address-cells", &[1]).cells("#size-cells", &[1]);
    tree.cells("ranges", &[0, 0x10, 0, 0x8000_0000]);
    tree.device("mailbox@7c013880", &["brcm,bcm2835-mbox"], &[0x7c01_3880, 0x40], "okay");
    tree.device("serial@7d001000", &["arm,pl011", "arm,primecell"], &[0x7d00_1000, 0x200], "okay");
    let gic = [0x7fff_9000, 0x1000, 0x7fff_a000, 0x2000, 0x7fff_c000, 0x2000, 0x7fff_e000, 0x2000];
    tree.device("interrupt-controller@7fff9000", &["arm,gic-400"], &gic, "okay");
    tree.device(
        "watchdog@7d200000",
        &["brcm,bcm2712-pm", "brcm,bcm2835-pm-wdt"],
        &[0x7d20_0000, 0x604],
        "okay",
    );
    tree.end();
    tree.begin("memory@0").text("device_type", "memory");
    tree.cells("reg", &[0, 0, 0, 0x3fc0_0000, 0, 0x4000_0000, (gib - 1) >> 2, (gib - 1) << 30]).end();
    tree.end();
    tree.finish()
}
