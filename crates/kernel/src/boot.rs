//! From firmware's hand-over to the image: device tree, console, memory map, heap.
//!
//! 1. `arch::aarch64::entry` has brought us to EL1 with a stack and zeroed memory, and looked for the device tree.
//! 2. A guess at the board gives a console for what goes wrong first; [`crate::machine`] then reads the tree, or takes
//!    what is known of a board that passes none.
//! 3. The final memory map replaces the first one; the console is the tree's from here on, with its pins and speed.
//! 4. The heap takes all free memory.
//! 5. [`crate::image::run`] does the rest, with [`clock`] as the suite's clock and [`pi`] for what a Raspberry Pi says
//!    about itself.

pub mod clock;
pub mod pi;

use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};

use cortex_a::registers::{MIDR_EL1, Readable};
use heapless::Vec;

use crate::arch::aarch64::backtrace::Frames;
use crate::arch::aarch64::layout::{self, Parts};
use crate::arch::aarch64::mmu::{Kind, MAP, OutOfTables};
use crate::arch::aarch64::{cores, doze, entry, exit, mmu, vectors, watchdog};
use crate::console;
use crate::console_line as line;
use crate::log;
pub use crate::machine;
use crate::machine::boards::{self, Board};
use crate::machine::device_tree::{self, Tree};
use crate::machine::{Machine, memory};
use crate::report::{self, Report};

/// What the boot core is doing, for the last words of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Step {
    /// First instructions.
    Entry,
    /// Reading the device tree.
    DeviceTree,
    /// Mapping memory.
    MemoryMap,
    /// Building the heap.
    Heap,
    /// Reading the command line.
    CommandLine,
    /// Starting the other cores.
    Cores,
    /// Comparing the kernel tables.
    SelfTest,
    /// Reading the model file.
    Model,
    /// Running the benchmark suite.
    Suite,
    /// Planning memory and building a session.
    Session,
    /// Generating text.
    Generation,
    /// Waiting for a command.
    Shell,
}

static STEP: AtomicUsize = AtomicUsize::new(0);

/// Remembers the step that begins.
pub fn begin(step: Step) {
    STEP.store(step as usize, Ordering::Relaxed);
    watchdog::works();
    log!(info, "step {=str}", step_name());
}

/// The name of the step begun last.
pub fn step_name() -> &'static str {
    const NAMES: [&str; 12] = [
        "entry",
        "device tree",
        "memory map",
        "heap",
        "command line",
        "cores",
        "self-test",
        "model",
        "suite",
        "session",
        "generation",
        "shell",
    ];
    NAMES[STEP.load(Ordering::Relaxed)]
}

/// Pieces of free memory that the heap is made of; smaller ones are left unused.
const PIECES: usize = 4;

#[global_allocator]
static HEAP: Heap = Heap(spin::Mutex::new([const { linked_list_allocator::Heap::empty() }; PIECES]));

/// The heap, for construction only: nothing on the way of a token allocates. The largest piece comes first.
struct Heap(spin::Mutex<[linked_list_allocator::Heap; PIECES]>);

/// Bytes of the last request that the heap could not serve.
static REFUSED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the lock makes every call exclusive, and the inner heaps hand out disjoint blocks of memory they were given.
unsafe impl core::alloc::GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: core::alloc::Layout) -> *mut u8 {
        let mut pieces = self.0.lock();
        match pieces.iter_mut().find_map(|piece| piece.allocate_first_fit(layout).ok()) {
            Some(block) => {
                let used: usize = pieces.iter().map(|piece| piece.used()).sum();
                PEAK.fetch_max(used, Ordering::Relaxed);
                block.as_ptr()
            }
            None => {
                REFUSED.store(layout.size(), Ordering::Relaxed);
                core::ptr::null_mut()
            }
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: core::alloc::Layout) {
        let Some(block) = core::ptr::NonNull::new(block) else { return };
        let mut pieces = self.0.lock();
        let owner = pieces
            .iter_mut()
            .find(|piece| (piece.bottom()..piece.top()).contains(&block.as_ptr()))
            .expect("a block comes from one of the pieces");
        // SAFETY: the caller got `block` from `alloc` with this layout, and this piece is where it lies.
        unsafe { owner.deallocate(block, layout) }
    }
}

/// Most bytes of the heap that were in use together.
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// Bytes of the heap that are in use.
pub fn heap_used() -> usize {
    HEAP.0.lock().iter().map(|piece| piece.used()).sum()
}

/// The most that [`heap_used`] has been.
pub fn heap_peak() -> usize {
    PEAK.load(Ordering::Relaxed)
}

/// Bytes of the heap that nothing uses.
pub fn heap_free() -> usize {
    HEAP.0.lock().iter().map(|piece| piece.free()).sum()
}

unsafe extern "C" {
    static __image_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __image_end: u8;
}

/// The image in memory, zeroed parts and stacks included.
pub fn image() -> Range<usize> {
    &raw const __image_start as usize..&raw const __image_end as usize
}

/// The exception level that firmware entered the image at.
static ENTERED_AT: AtomicUsize = AtomicUsize::new(0);

/// The exception level that firmware entered the image at.
pub fn entered_at() -> usize {
    ENTERED_AT.load(Ordering::Relaxed)
}

/// Where Rust begins: the boot core at EL1, under the first page table. `tree` is where the device tree lies, or 0;
/// `x0` what firmware passed; `level` the exception level it entered at.
pub(crate) extern "C" fn start(tree: usize, x0: usize, level: usize) -> ! {
    vectors::install(0);
    ENTERED_AT.store(level, Ordering::Relaxed);
    begin(Step::DeviceTree);
    let guess = boards::guess(image().start, MIDR_EL1.get());
    // SAFETY: the first page table is in use and no other core runs; the board's console is where its row says.
    unsafe {
        entry::map_early_device(guess.uart.base);
        console::set(guess.uart);
    }
    let machine = match read(tree, x0, guess) {
        Ok(machine) => machine,
        Err(error) => fail(format_args!("{error}")),
    };
    if let Some(file) = machine.initrd.as_ref().filter(|file| overlap(file, &image())) {
        fail(format_args!(
            "the model file lies at {file:#x?}, over the image: pad the kernel file to its size in memory, as cargo \
             xtask image --board does"
        ));
    }
    begin(Step::MemoryMap);
    if let Err(error) = map(&machine) {
        fail(format_args!("{error}"));
    }
    // SAFETY: `map` has put in the image, the console, all memory, the tree and the initrd.
    unsafe { MAP.lock().activate() };
    // SAFETY: the tree or the board's row names it, and it was just mapped.
    unsafe { console::set(machine.uart) };
    // Nothing lies above who enters at EL3: a call of firmware would go nowhere, whatever the tree says.
    if let Some(conduit) = machine.firmware.filter(|_| level < 3) {
        exit::set_conduit(conduit);
    }
    if let Some(interrupts) = &machine.interrupts {
        // SAFETY: the tree says that it is there, and it was just mapped.
        unsafe { doze::set_controller(interrupts) };
    }
    if let Some(soc) = &machine.soc {
        // SAFETY: as above.
        unsafe { exit::set_power(soc.power) };
        pi::connect_console(soc, machine.uart);
    }
    begin(Step::Heap);
    let free = free(&machine);
    for (piece, range) in HEAP.0.lock().iter_mut().zip(&free) {
        // SAFETY: free memory: in RAM, and neither the image's, the tree's, the initrd's nor reserved.
        unsafe { piece.init(core::ptr::with_exposed_provenance_mut(range.start), range.len()) };
    }
    match crate::image::run(&machine, heap_free()) {
        Ok(()) => exit::exit(0),
        Err(error) => fail(format_args!("{error}")),
    }
}

/// The machine: the tree's, or the board's that was guessed.
fn read(tree: usize, x0: usize, guess: &'static Board) -> Result<Machine<'static>, Refusal> {
    if tree == 0 {
        let mut machine = Machine::of_board(guess, x0).map_err(Refusal::Machine)?;
        if let Some(soc) = &machine.soc {
            // SAFETY: as for the console.
            unsafe { entry::map_early_device(soc.mailbox) };
            if let Some(whole) = pi::memory(soc) {
                machine.ram.clear();
                // There is room: just cleared.
                let _ = machine.ram.push(whole);
            }
        }
        return Ok(machine);
    }
    let first = core::ptr::with_exposed_provenance::<u8>(tree);
    // SAFETY: the entry has seen the magic word here, aligned, and has mapped 2 MiB and more from here on.
    let header = unsafe { &*first.cast::<[u8; 8]>() };
    let size = device_tree::size_in(header).unwrap_or(0).min(device_tree::LARGEST);
    // SAFETY: mapped, as above; nobody writes to it, and it stays mapped.
    let bytes = unsafe { core::slice::from_raw_parts(first, size.max(header.len())) };
    let tree = Tree::parse(bytes).map_err(Refusal::Tree)?;
    Machine::of_tree(&tree, first.addr()).map_err(Refusal::Machine)
}

/// Why there is no machine.
enum Refusal {
    Tree(device_tree::TreeError),
    Machine(machine::MachineError),
}

impl core::fmt::Display for Refusal {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Tree(error) => error.fmt(f),
            Self::Machine(error) => error.fmt(f),
        }
    }
}

/// The model file that firmware has loaded, if it has.
pub fn model_file(machine: &Machine<'static>) -> Option<&'static [u8]> {
    let file = machine.initrd.clone()?;
    // SAFETY: inside RAM, as `Machine` has checked, loaded by firmware, mapped read-only, and no part of the heap.
    Some(unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance(file.start), file.len()) })
}

/// Whether two ranges share an address.
fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

/// Memory that nothing lies in, the largest piece first.
fn free(machine: &Machine<'_>) -> Vec<Range<usize>, { machine::RANGES }> {
    // The first page too: its address is that of no object.
    let own = [image(), machine.tree.clone(), machine.initrd.clone().unwrap_or(0..0), 0..4096];
    let mut taken: Vec<Range<usize>, { machine::RANGES + 4 }> = machine.reserved.iter().cloned().collect();
    taken.extend(own);
    // No device is memory, whatever the tree says: a Raspberry Pi 3's own tree counts the gigabyte whole.
    let mut ram = machine.ram.clone();
    if let Some(soc) = &machine.soc {
        for piece in ram.iter_mut().filter(|piece| piece.contains(&soc.mailbox)) {
            piece.end = soc.mailbox >> 24 << 24;
        }
    }
    memory::free(&ram, &taken)
}

/// Maps memory as what it is.
fn map(machine: &Machine<'_>) -> Result<(), OutOfTables> {
    let image = Parts {
        all: image(),
        text_end: &raw const __text_end as usize,
        rodata_end: &raw const __rodata_end as usize,
    };
    layout::lay_out(&mut MAP.lock(), machine, &image, cores::guards())
}

/// Zeroed memory of `bytes` and more in whole pages, for as long as the machine runs; `None` if no piece of the heap has
/// so much.
pub fn take_pages(bytes: usize) -> Option<&'static mut [u8]> {
    let layout =
        core::alloc::Layout::from_size_align(bytes.max(1).checked_next_multiple_of(4096)?, 4096).ok()?;
    // SAFETY: the layout is not empty.
    let first = unsafe { core::alloc::GlobalAlloc::alloc_zeroed(&HEAP, layout) };
    // SAFETY: a block of this layout, zeroed, nobody else's, and never given back.
    (!first.is_null()).then(|| unsafe { core::slice::from_raw_parts_mut(first, layout.size()) })
}

/// Takes the right to write from whole pages, on every core, for as long as the machine runs.
pub fn make_read_only(pages: Range<usize>) -> Result<(), OutOfTables> {
    mmu::make(pages, Kind::ReadOnly)
}

/// Gives the right to write back: for a test that damages what should not change.
pub fn make_writable(pages: Range<usize>) -> Result<(), OutOfTables> {
    mmu::make(pages, Kind::Data)
}

/// Prints what memory is mapped as.
pub fn print_map() {
    let map = MAP.lock();
    for region in map.regions() {
        log!(debug, "memory {=usize:#x}..{=usize:#x}", region.range.start, region.range.end);
        line!("  {region}");
    }
    let (used, most) = map.tables();
    line!("  in {used} of {most} translation tables; what is not listed faults");
}

/// Says why, and ends with a failing status.
pub fn fail(reason: core::fmt::Arguments<'_>) -> ! {
    log!(error, "refused at step {=str}", step_name());
    console::print_unlocked(format_args!("\nerror at boot step `{}`: {reason}\n", step_name()));
    exit::exit(report::REFUSED)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let frames = Frames::here();
    if is_allocation_failure(info) {
        // No mistake of ours, but a machine too small for what was asked.
        let report = Report::begin(report::REFUSED);
        let (refused, free) = (
            REFUSED.load(Ordering::Relaxed),
            HEAP.0.try_lock().map_or(0, |pieces| pieces.iter().map(|piece| piece.free()).sum()),
        );
        report.headline(
            "error",
            format_args!(
                "not enough memory: {refused} bytes asked for at once, {free} are free in all; give the machine more (-m)"
            ),
        );
        report.calls_from(frames);
        report.end();
    }
    let report = Report::begin(report::PANICKED);
    report.headline("panic", format_args!("{info}"));
    report.calls_from(frames);
    report.end()
}

/// Whether a panic is `alloc`'s way to say that the heap refused. There is no stable handler for that: the text is
/// all it leaves.
fn is_allocation_failure(info: &core::panic::PanicInfo<'_>) -> bool {
    struct Rest(&'static str);
    impl core::fmt::Write for Rest {
        fn write_str(&mut self, text: &str) -> core::fmt::Result {
            let common = text.len().min(self.0.len());
            if text.as_bytes()[..common] != self.0.as_bytes()[..common] {
                return Err(core::fmt::Error);
            }
            self.0 = &self.0[common..];
            Ok(())
        }
    }
    let mut rest = Rest("memory allocation of ");
    core::fmt::Write::write_fmt(&mut rest, format_args!("{}", info.message())).is_ok() && rest.0.is_empty()
}
