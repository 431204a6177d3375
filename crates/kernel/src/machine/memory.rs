//! What is free: memory less everything that something lies in.

use core::ops::Range;

use heapless::Vec;

use super::RANGES;

/// Whether `outer` holds all of `inner`.
pub fn holds(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

/// The whole 4 KiB pages that a range touches.
pub fn pages(range: &Range<usize>) -> Range<usize> {
    range.start / 4096 * 4096..range.end.saturating_add(4095) / 4096 * 4096
}

/// The stretches of `ram` (whole pages) whose pages none of `taken` touches, the largest first. Small ones beyond
/// [`RANGES`] are left out. Memory that is listed twice is free once.
pub fn free(ram: &[Range<usize>], taken: &[Range<usize>]) -> Vec<Range<usize>, RANGES> {
    let mut free: Vec<Range<usize>, RANGES> = Vec::new();
    for (index, piece) in ram.iter().enumerate() {
        let mut start = piece.start;
        while start < piece.end {
            let blocks = taken.iter().filter(|range| !range.is_empty()).chain(&ram[..index]).map(pages);
            let next = blocks
                .filter(|block| block.end > start && block.start < piece.end)
                .min_by_key(|block| block.start);
            let end = next.as_ref().map_or(piece.end, |block| block.start);
            if start < end {
                keep(&mut free, start..end);
            }
            start = next.map_or(piece.end, |block| block.end);
        }
    }
    free
}

/// Puts a range where its size belongs; the smallest falls out.
fn keep(free: &mut Vec<Range<usize>, RANGES>, range: Range<usize>) {
    let place = free.iter().position(|other| other.len() < range.len()).unwrap_or(free.len());
    if free.is_full() {
        if place == free.len() {
            return;
        }
        free.pop();
    }
    // There is room: just made.
    let _ = free.insert(place, range);
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;

    const PAGE: usize = 4096;

    #[test]
    fn what_is_free_is_all_that_nothing_touches() {
        // A fixed sequence of small memories, judged page by page.
        let mut state = 7u32;
        let mut random = |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as usize % below as usize
        };
        for _ in 0..2_000 {
            let ram: Vec<_, 3> = (0..1 + random(3))
                .map(|_| {
                    let start = random(32) * PAGE;
                    start..start + random(24) * PAGE
                })
                .collect();
            let taken: Vec<_, 6> = (0..random(7))
                .map(|_| {
                    let start = random(56 * PAGE as u32);
                    start..start + random(6 * PAGE as u32)
                })
                .collect();
            let free = free(&ram, &taken);
            for page in (0..64 * PAGE).step_by(PAGE) {
                let inside = |range: &Range<usize>| range.contains(&page);
                let touched = taken.iter().any(|t| !t.is_empty() && t.start < page + PAGE && page < t.end);
                let wanted = usize::from(ram.iter().any(inside) && !touched);
                let found = free.iter().filter(|range| inside(range)).count();
                assert_eq!(found, wanted, "page {page:#x} of {ram:x?} less {taken:x?}: {free:x?}");
            }
            assert!(
                free.is_sorted_by(|a, b| a.len() >= b.len()) && free.iter().all(|range| !range.is_empty())
            );
        }
    }

    #[test]
    fn a_thousand_holes_leave_the_largest_pieces() {
        let ram = [0..4000 * PAGE];
        let taken: alloc::vec::Vec<_> = (1..63).map(|i| i * i * PAGE..(i * i + 1) * PAGE).collect();
        let free = free(&ram, &taken);
        assert_eq!(free.len(), RANGES);
        assert_eq!(free[0], (62 * 62 + 1) * PAGE..4000 * PAGE);
        assert_eq!(free[1].len(), (62 * 62 - 61 * 61 - 1) * PAGE);
    }
}
