//! Merging neighbors, best pair first: the core that byte-level BPE and SentencePiece BPE share.
//!
//! Symbols form a linked list over the text. A binary heap holds a key for every pair that may merge: its priority
//! and its left symbol. A merge changes two pairs, so a text of `n` symbols costs at most `3n` heap entries and
//! `O(n log n)` steps whatever it holds. An entry whose pair has changed since is recognised by its priority and
//! dropped.
//!
//! A heap over a long text jumps about in memory, and the longer the text the slower each byte. So [`Merger::merge_text`]
//! goes through it window by window, and is linear wherever windows can be joined. What makes that exact, for any rule:
//! merging of a stretch that no merge crosses is merging of the stretch alone, in the same order. So if the texts A and B
//! have been merged, and merging the last symbol of A with the first of B, both taken apart again, crosses the place where
//! they meet as little, then A's symbols and B's are those of AB: the first merge across would have happened there too.

use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::ops::Range;

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
    /// Ids and lengths of what a long text became.
    done: Vec<(u32, u32)>,
    /// Symbols looked at and heap entries handled since it was last set to zero.
    pub(super) steps: u64,
}

/// Up to this many symbols the list is searched for its best pair instead of keeping a heap.
const SHORT: usize = 16;

/// Texts of more symbols are merged in windows of so many.
const LONG: usize = 512;
/// Symbols that a window takes up again at first, and at most before the text is merged as a whole.
const OVERLAP: [usize; 2] = [4, 64];

impl Merger {
    /// Room for texts of `symbols` symbols.
    pub(super) fn with_capacity(symbols: usize) -> Self {
        Merger {
            symbols: Vec::with_capacity(symbols),
            // Each merge takes one entry out and puts two in at most: never more than two a symbol.
            heap: BinaryHeap::with_capacity(if symbols > SHORT { symbols * 2 } else { 0 }),
            done: Vec::with_capacity(if symbols > LONG { symbols + OVERLAP[1] } else { 0 }),
            steps: 0,
        }
    }

    /// Merges `self.symbols` until no pair is left.
    pub(super) fn merge(&mut self, rule: &impl Rule) {
        if self.symbols.len() <= SHORT { self.merge_short(rule) } else { self.merge_long(rule) }
    }

    /// Merges a text of `count` symbols, which `fill` makes of any stretch of it, and hands out the ids. Ids alone must
    /// decide what the rule does.
    pub(super) fn merge_text(
        &mut self,
        rule: &impl Rule,
        count: usize,
        fill: impl Fn(&mut Vec<Symbol>, Range<usize>),
        mut give: impl FnMut(u32),
    ) {
        let whole = |merger: &mut Self, range| {
            merger.symbols.clear();
            fill(&mut merger.symbols, range);
            merger.merge(rule);
        };
        if count <= LONG + LONG / 2 || !self.merge_windows(count, whole) {
            whole(self, 0..count);
            self.symbols.iter().for_each(|symbol| give(symbol.id));
            return;
        }
        self.done.iter().for_each(|&(id, _)| give(id));
    }

    /// Merges a long text into `done`; false if two windows could not be joined.
    fn merge_windows(&mut self, count: usize, whole: impl Fn(&mut Self, Range<usize>)) -> bool {
        self.done.clear();
        let mut end = 0;
        while end < count {
            let next = if count - end <= LONG + LONG / 2 { count } else { end + LONG };
            let mut overlap = OVERLAP[0];
            loop {
                // The last symbols are taken apart again, since they were merged without what follows them.
                let kept = self.done.len().saturating_sub(overlap);
                let taken: u32 = self.done[kept..].iter().map(|&(_, length)| length).sum();
                let start = end - taken as usize;
                whole(self, start..next);
                let left = kept.checked_sub(1).map(|last| self.done[last].1);
                let right = self.symbols[0].length;
                // Put at the end as long as it is not known whether they stay.
                let before = self.done.len();
                self.done.extend(self.symbols.iter().map(|symbol| (symbol.id, symbol.length)));
                let joins = left.is_none_or(|left| {
                    whole(self, start - left as usize..start + right as usize);
                    let mut at = 0;
                    self.symbols.iter().any(|symbol| {
                        at += symbol.length;
                        at == left
                    })
                });
                if joins {
                    self.done.drain(kept..before);
                    break;
                }
                self.done.truncate(before);
                if overlap >= OVERLAP[1] {
                    return false;
                }
                overlap *= 4;
            }
            end = next;
        }
        true
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
        let Merger { symbols, heap, steps, .. } = self;
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
