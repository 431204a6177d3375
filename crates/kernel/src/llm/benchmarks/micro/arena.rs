//! Allocation from the arena.

use alloc::vec;
use alloc::vec::Vec;
use core::hint::black_box;

use crate::llm::arena::Arena;
use crate::llm::benchmarks::case::{Case, Work, WrongAnswer};
/// 1 KiB from a private arena: mark, allocate, rewind.
pub struct ArenaAlloc {
    memory: Vec<u8>,
    last: (usize, usize, usize),
}

impl Default for ArenaAlloc {
    fn default() -> Self {
        Self { memory: vec![0; 4096], last: (0, 0, 0) }
    }
}

impl Case for ArenaAlloc {
    fn name(&self) -> &'static str {
        "arena_alloc"
    }

    fn work(&self) -> Work {
        Work { units: 1.0, ..Work::default() }
    }

    fn run(&mut self, calls: u64) {
        let mut arena = Arena::new(&mut self.memory);
        for _ in 0..calls {
            let mark = arena.mark();
            let slice = arena.alloc(black_box(1024), black_box(16)).expect("4 KiB hold 1 KiB");
            self.last = (black_box(slice.as_ptr() as usize), slice.len(), 0);
            arena.rewind(mark);
        }
        self.last.2 = arena.used();
    }

    fn check(&mut self) -> Result<(), WrongAnswer> {
        let (address, len, used) = self.last;
        let inside = address >= self.memory.as_ptr() as usize
            && address + len <= self.memory.as_ptr() as usize + self.memory.len();
        WrongAnswer::check("the slice is inside the arena", 1.0, f64::from(u8::from(inside)), 0.0)?;
        WrongAnswer::check("address modulo 16", 0.0, (address % 16) as f64, 0.0)?;
        WrongAnswer::check("length", 1024.0, len as f64, 0.0)?;
        WrongAnswer::check("bytes used after the rewind", 0.0, used as f64, 0.0)
    }
}
