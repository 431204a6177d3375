//! What this kernel knows of QEMU's `virt` machine: a UART, a heap, and a way out.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The PL011 UART that firmware has set up.
pub struct Uart;

impl fmt::Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let base = core::ptr::with_exposed_provenance_mut::<u32>(0x0900_0000);
        for byte in text.bytes() {
            // SAFETY: the registers of a PL011 are there on this machine: data at 0, flags at 0x18.
            unsafe {
                while base.add(0x18 / 4).read_volatile() & 1 << 5 != 0 {} // transmitter full
                base.write_volatile(byte.into());
            }
        }
        Ok(())
    }
}

/// `println!` on the UART.
#[macro_export]
macro_rules! line {
    ($($arguments:tt)*) => {{
        use core::fmt::Write;
        let _ = writeln!($crate::machine::Uart, $($arguments)*);
    }};
}

/// A heap that only grows: what is allocated, when model, session and sampler are built, stays.
struct Heap {
    memory: UnsafeCell<[u8; 16 << 20]>,
    used: AtomicUsize,
}

// SAFETY: `alloc` hands out every byte once.
unsafe impl Sync for Heap {}

#[global_allocator]
static HEAP: Heap = Heap { memory: UnsafeCell::new([0; 16 << 20]), used: AtomicUsize::new(0) };

// SAFETY: blocks lie inside `memory`, do not overlap, and begin on the boundary asked for.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let first = self.memory.get() as usize;
        let place = |used: usize| (first + used).next_multiple_of(layout.align()) - first;
        let end = |used| place(used).checked_add(layout.size()).filter(|end| *end <= 16 << 20);
        match self.used.fetch_update(Relaxed, Relaxed, end) {
            Ok(used) => self.memory.get().cast::<u8>().wrapping_add(place(used)),
            Err(_) => core::ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

/// Ends the emulator with a status, by semihosting's `SYS_EXIT`.
pub fn exit(status: u64) -> ! {
    let reason = [0x20026, status]; // the application ended by itself
    // SAFETY: the call reads `reason` and does not come back.
    unsafe { core::arch::asm!("hlt #0xf000", in("x0") 0x18, in("x1") &reason, options(noreturn)) }
}
