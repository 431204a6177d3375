//! From firmware's hand-over to the image: device tree, console, heap.
//!
//! 1. `arch::aarch64::entry` has brought us to EL1 with a stack and zeroed memory.
//! 2. [`machine`] reads the device tree.
//! 3. The final memory map replaces the first one.
//! 4. The heap takes the largest free memory.
//! 5. [`crate::image::run`] does the rest, with [`clock`] as the suite's clock.

pub mod clock;
pub mod machine;

use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};

use machine::Machine;

use crate::arch::aarch64::mmu::{Kind, MAP, OutOfTables};
use crate::arch::aarch64::{cores, doze, exit, vectors};
use crate::console;

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

#[global_allocator]
static HEAP: Heap = Heap(spin::Mutex::new(linked_list_allocator::Heap::empty()));

/// The heap, for construction only: nothing on the way of a token allocates.
struct Heap(spin::Mutex<linked_list_allocator::Heap>);

/// Bytes of the last request that the heap could not serve.
static REFUSED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the lock makes every call exclusive, and the inner heap hands out disjoint blocks of memory it was given.
unsafe impl core::alloc::GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: core::alloc::Layout) -> *mut u8 {
        match self.0.lock().allocate_first_fit(layout) {
            Ok(block) => block.as_ptr(),
            Err(()) => {
                REFUSED.store(layout.size(), Ordering::Relaxed);
                core::ptr::null_mut()
            }
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: core::alloc::Layout) {
        if let Some(block) = core::ptr::NonNull::new(block) {
            // SAFETY: the caller got `block` from `alloc` with this layout.
            unsafe { self.0.lock().deallocate(block, layout) }
        }
    }
}

/// Bytes of the heap that nothing uses.
pub fn heap_free() -> usize {
    HEAP.0.lock().free()
}

unsafe extern "C" {
    static __text_end: u8;
    static __rodata_end: u8;
}

/// Where Rust begins: the boot core at EL1, under the first page table.
pub(crate) extern "C" fn start(tree: usize) -> ! {
    vectors::install(0);
    begin(Step::DeviceTree);
    let machine = match Machine::read(tree) {
        Ok(machine) => machine,
        Err(error) => fail(format_args!("{error}")),
    };
    begin(Step::MemoryMap);
    if let Err(error) = map(&machine) {
        fail(format_args!("{error}"));
    }
    // SAFETY: `map` has put in the image, the console, all memory, the tree and the initrd.
    unsafe { MAP.lock().activate() };
    begin(Step::Heap);
    let free = machine.largest_free();
    // SAFETY: free memory: in RAM, and neither the image's, the tree's, the initrd's nor reserved.
    unsafe { HEAP.0.lock().init(core::ptr::with_exposed_provenance_mut(free.start), free.len()) };
    match crate::image::run(&machine, free.len()) {
        Ok(()) => exit::exit(0),
        Err(error) => fail(format_args!("{error}")),
    }
}

/// Maps memory as what it is.
fn map(machine: &Machine) -> Result<(), OutOfTables> {
    let mut map = MAP.lock();
    let pages = |range: Range<usize>| range.start / 4096 * 4096..range.end.next_multiple_of(4096);
    for ram in &machine.ram {
        map.add(ram.clone(), Kind::Data)?;
    }
    map.add(pages(machine.tree.clone()), Kind::ReadOnly)?;
    if let Some(file) = machine.initrd {
        map.add(pages(file.as_ptr() as usize..file.as_ptr() as usize + file.len()), Kind::ReadOnly)?;
    }
    let image = machine::image();
    let (text_end, rodata_end) = (&raw const __text_end as usize, &raw const __rodata_end as usize);
    map.add(image.start..text_end, Kind::Code)?;
    map.add(text_end..rodata_end, Kind::ReadOnly)?;
    map.add(rodata_end..image.end.next_multiple_of(4096), Kind::Data)?;
    for guard in cores::guards() {
        map.remove(guard..guard + 4096)?;
    }
    if let Some((distributor, interface)) = &machine.interrupts {
        map.add(pages(distributor.clone()), Kind::Device)?;
        map.add(pages(interface.clone()), Kind::Device)?;
        // SAFETY: the tree says that a GICv2 is there, and it was just mapped.
        unsafe { doze::set_controller(distributor.start, interface.start) };
    }
    map.add(pages(console::base()..console::base() + 4096), Kind::Device)
}

/// Says why, and ends with a failing status.
pub fn fail(reason: core::fmt::Arguments<'_>) -> ! {
    console::print_unlocked(format_args!("\nerror at boot step `{}`: {reason}\n", step_name()));
    exit::exit(1)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    if is_allocation_failure(info) {
        // No mistake of ours, but a machine too small for what was asked.
        let refused = REFUSED.load(Ordering::Relaxed);
        fail(format_args!(
            "not enough memory: {refused} bytes asked for at once; give the machine more (-m)"
        ));
    }
    console::print_unlocked(format_args!("\npanic at boot step `{}`: {info}\n", step_name()));
    exit::exit(101)
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
