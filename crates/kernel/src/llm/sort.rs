//! One sort for everything that is sorted at construction.
//!
//! `core`'s sorts are compiled once for each type and order, several kilobytes a time: in a kernel image they would be
//! more bytes than the transformer. A sampler's candidates and the samples of a measurement are sorted by them nevertheless.

/// Sorts numbers, which usually stand for something else, so that `before` holds for no two of them in turn; equal ones
/// come in any order. Takes time proportional to `n log n` whatever the order was, and no memory.
pub(crate) fn by(numbers: &mut [u32], before: &dyn Fn(u32, u32) -> bool) {
    // A heap whose top comes last of all.
    for root in (0..numbers.len() / 2).rev() {
        sink(numbers, root, before);
    }
    for end in (1..numbers.len()).rev() {
        numbers.swap(0, end);
        sink(&mut numbers[..end], 0, before);
    }
}

/// Moves a number down a heap until none of its children comes behind it.
fn sink(heap: &mut [u32], mut root: usize, before: &dyn Fn(u32, u32) -> bool) {
    loop {
        let mut child = 2 * root + 1;
        if child >= heap.len() {
            return;
        }
        if child + 1 < heap.len() && before(heap[child], heap[child + 1]) {
            child += 1;
        }
        if !before(heap[root], heap[child]) {
            return;
        }
        heap.swap(root, child);
        root = child;
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    #[test]
    fn numbers_come_in_the_order_that_core_gives_them() {
        let mut state = 1u64;
        for len in (0..70).chain([1000]) {
            for below in [1, 2, 10, u32::MAX] {
                let random = |_| {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 32) as u32 % below
                };
                let mut ours: Vec<u32> = (0..len).map(random).collect();
                let mut theirs = ours.clone();
                by(&mut ours, &|a, b| a < b);
                theirs.sort_unstable();
                assert_eq!(ours, theirs);
                // Sorted already, and the other way round.
                by(&mut ours, &|a, b| a < b);
                assert_eq!(ours, theirs);
                by(&mut ours, &|a, b| a > b);
                theirs.reverse();
                assert_eq!(ours, theirs);
            }
        }
    }
}
