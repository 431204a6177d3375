//! Merging neighbors, best pair first: the core that byte-level BPE and SentencePiece BPE share.
//!
//! Symbols form a linked list over the text. A binary heap holds a key for every pair that may merge: its priority
//! and its left symbol. A merge changes two pairs, so a text of `n` symbols costs at most `3n` heap entries and
//! `O(n log n)` steps whatever it holds. An entry whose pair has changed since is recognised by its priority and
//! dropped.

use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::cmp::Reverse;

/// No neighbor, no pair.
pub(super) const NONE: u32 = u32::MAX;

/// A stretch of text that is one symbol by now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol {
    previous: u32,
    next: u32,
    /// Token (or ghost) id, or whatever the rule wants to remember.
    pub(super) id: u32,
    /// Where its bytes are in the text, and how many (at least one; none once it is merged away).
    pub(super) start: u32,
    pub(super) length: u32,
    /// Priority of the pair of this symbol and the next (smaller is earlier), `NONE` if they never merge.
    priority: u32,
    /// What that pair becomes.
    merged: u32,
}

impl Symbol {
    pub(super) const fn new(id: u32, start: u32, length: u32) -> Self {
        Symbol { previous: NONE, next: NONE, id, start, length, priority: NONE, merged: NONE }
    }
}

/// What two neighbors become, and how urgent it is.
pub(super) trait Rule {
    /// Priority (smaller merges earlier, below `u32::MAX`) and id of the merged pair.
    fn pair(&self, left: &Symbol, right: &Symbol) -> Option<(u32, u32)>;
}

/// Scratch of merging, reused from word to word.
#[derive(Debug, Default)]
pub(super) struct Merger {
    pub(super) symbols: Vec<Symbol>,
    heap: BinaryHeap<Reverse<u64>>,
    /// Symbols looked at and heap entries handled since it was last set to zero.
    pub(super) steps: u64,
}

/// Up to this many symbols the list is searched for its best pair instead of keeping a heap.
const SHORT: usize = 16;

impl Merger {
    /// Room for texts of `symbols` symbols.
    pub(super) fn with_capacity(symbols: usize) -> Self {
        Merger {
            symbols: Vec::with_capacity(symbols),
            // Each merge takes one entry out and puts two in at most: never more than two a symbol.
            heap: BinaryHeap::with_capacity(if symbols > SHORT { symbols * 2 } else { 0 }),
            steps: 0,
        }
    }

    /// Merges `self.symbols` until no pair is left.
    pub(super) fn merge(&mut self, rule: &impl Rule) {
        if self.symbols.len() <= SHORT { self.merge_short(rule) } else { self.merge_long(rule) }
    }

    // Nothing moves: a bit says which symbols live, the last to die on the left of its neighbor.
    fn merge_short(&mut self, rule: &impl Rule) {
        let Merger { symbols, steps, .. } = self;
        let count = symbols.len();
        let mut living = (1u32 << count) - 1;
        // Of the pair of each symbol and the next: what `priority` and `merged` of a symbol are in `merge_long`.
        let (mut priorities, mut merged) = ([NONE; SHORT], [NONE; SHORT]);
        *steps += count as u64;
        for (left, pair) in symbols.windows(2).enumerate() {
            (priorities[left], merged[left]) = rule.pair(&pair[0], &pair[1]).unwrap_or((NONE, NONE));
        }
        loop {
            *steps += count as u64;
            let mut best = (NONE, 0);
            for (left, &priority) in priorities[..count].iter().enumerate() {
                if priority < best.0 {
                    best = (priority, left);
                }
            }
            let (priority, left) = best;
            if priority == NONE {
                break;
            }
            let after = |left: usize| left + 1 + (living >> (left + 1)).trailing_zeros() as usize;
            let right = after(left);
            let next = after(right);
            living &= !(1 << right);
            symbols[left].id = merged[left];
            symbols[left].length += symbols[right].length;
            symbols[right].length = 0;
            priorities[right] = NONE;
            let pair = symbols.get(next).and_then(|next| rule.pair(&symbols[left], next));
            (priorities[left], merged[left]) = pair.unwrap_or((NONE, NONE));
            if left > 0 {
                // The first symbol lives as long as any.
                let previous = (living & ((1 << left) - 1)).ilog2() as usize;
                let pair = rule.pair(&symbols[previous], &symbols[left]);
                (priorities[previous], merged[previous]) = pair.unwrap_or((NONE, NONE));
            }
        }
        if living.count_ones() as usize != count {
            symbols.retain(|symbol| symbol.length != 0);
        }
    }

    fn merge_long(&mut self, rule: &impl Rule) {
        let Merger { symbols, heap, steps } = self;
        heap.clear();
        let count = symbols.len();
        for left in 0..count {
            symbols[left].previous = if left == 0 { NONE } else { left as u32 - 1 };
            symbols[left].next = if left + 1 == count { NONE } else { left as u32 + 1 };
            if set_pair(symbols, left, left + 1, rule) {
                heap.push(entry(symbols, left));
            }
        }
        *steps += count as u64;
        while let Some(Reverse(key)) = heap.pop() {
            *steps += 1;
            let left = (key & u64::from(u32::MAX)) as usize;
            if symbols[left].priority != (key >> 32) as u32 {
                continue;
            }
            let right = symbols[left].next as usize;
            let next = symbols[right].next;
            symbols[left].id = symbols[left].merged;
            symbols[left].length += symbols[right].length;
            symbols[left].next = next;
            symbols[right].priority = NONE;
            symbols[right].length = 0;
            if next != NONE {
                symbols[next as usize].previous = left as u32;
            }
            if set_pair(symbols, left, next as usize, rule) {
                heap.push(entry(symbols, left));
            }
            let previous = symbols[left].previous;
            if previous != NONE && set_pair(symbols, previous as usize, left, rule) {
                heap.push(entry(symbols, previous as usize));
            }
        }
        symbols.retain(|symbol| symbol.length != 0);
    }
}

/// Priority above, left symbol below: the smallest is the best pair, the leftmost among equals.
fn entry(symbols: &[Symbol], left: usize) -> Reverse<u64> {
    Reverse(u64::from(symbols[left].priority) << 32 | left as u64)
}

/// Looks up the pair of `left` and `right` and notes it in `left`; false if they never merge.
#[inline(always)] // the rule's constants stay in registers from pair to pair
fn set_pair(symbols: &mut [Symbol], left: usize, right: usize, rule: &impl Rule) -> bool {
    let pair = symbols.get(right).and_then(|right| rule.pair(&symbols[left], right));
    let (priority, merged) = pair.unwrap_or((NONE, NONE));
    symbols[left].priority = priority;
    symbols[left].merged = merged;
    priority != NONE
}
