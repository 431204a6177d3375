//! From firmware's hand-over to the image: device tree, console, heap.
//!
//! 1. `arch::aarch64::entry` has brought us to EL1 with a stack and zeroed memory.
//! 2. [`machine`] reads the device tree.
//! 3. The heap takes the largest free memory.
//! 4. [`crate::image::run`] does the rest.

pub mod machine;

use core::sync::atomic::{AtomicUsize, Ordering};

use crate::arch::aarch64::exit;
use crate::console;

/// What the boot core is doing, for the last words of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Step {
    /// First instructions.
    Entry,
    /// Reading the device tree.
    DeviceTree,
    /// Building the heap.
    Heap,
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
}

static STEP: AtomicUsize = AtomicUsize::new(0);

/// Remembers the step that begins.
pub fn begin(step: Step) {
    STEP.store(step as usize, Ordering::Relaxed);
}

/// The name of the step begun last.
pub fn step_name() -> &'static str {
    const NAMES: [&str; 8] =
        ["entry", "device tree", "heap", "self-test", "model", "suite", "session", "generation"];
    NAMES[STEP.load(Ordering::Relaxed)]
}

#[global_allocator]
static HEAP: Heap = Heap(spin::Mutex::new(linked_list_allocator::Heap::empty()));

/// The heap, for construction only: nothing on the way of a token allocates.
struct Heap(spin::Mutex<linked_list_allocator::Heap>);

// SAFETY: the lock makes every call exclusive, and the inner heap hands out disjoint blocks of memory it was given.
unsafe impl core::alloc::GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: core::alloc::Layout) -> *mut u8 {
        self.0.lock().allocate_first_fit(layout).map_or(core::ptr::null_mut(), |block| block.as_ptr())
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

/// Where Rust begins: the boot core at EL1.
pub(crate) extern "C" fn start(tree: usize) -> ! {
    begin(Step::DeviceTree);
    let machine = match machine::Machine::read(tree) {
        Ok(machine) => machine,
        Err(error) => fail(format_args!("{error}")),
    };
    begin(Step::Heap);
    let (first, size) = machine.largest_free();
    // SAFETY: free memory: in RAM, and neither the image's, the tree's, the initrd's nor reserved.
    unsafe { HEAP.0.lock().init(core::ptr::with_exposed_provenance_mut(first), size) };
    match crate::image::run(&machine, size) {
        Ok(()) => exit::exit(0),
        Err(error) => fail(format_args!("{error}")),
    }
}

/// Says why, and ends with a failing status.
pub fn fail(reason: core::fmt::Arguments<'_>) -> ! {
    console::print_unlocked(format_args!("\nerror at boot step `{}`: {reason}\n", step_name()));
    exit::exit(1)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    console::print_unlocked(format_args!("\npanic at boot step `{}`: {info}\n", step_name()));
    exit::exit(101)
}
