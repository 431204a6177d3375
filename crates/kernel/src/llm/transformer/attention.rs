//! Causal attention of queries over the cache, with a softmax that is merged block by block.
//!
//! Positions are taken in blocks of [`BLOCK`] at absolute starts. Each block gives its maximum `m`, its sum `l` of
//! `exp(score - m)` and its weighted values `o`; blocks are merged in order (the online softmax of Milakov and
//! Gimelshein, arXiv 1805.02867). What a position sees depends on the position alone, never on the batch.
//!
//! All query heads of a KV head and several positions go through a block together, while it is in the first cache.

use core::ops::Range;

use crate::llm::kv_cache::{BLOCK, GROUP, KvCache, Pages};
use crate::llm::simd::{Attending, Kernels, KvBlock};

/// Most queries that attend together: of 64 elements, they, their sums and a block's keys and values are 40 KiB.
pub(crate) const MOST_QUERIES: usize = 48;

/// As many queries as ask for the next block's keys and values while they attend to one.
const ASKING: usize = 6;

/// Queries of one KV head at consecutive positions: `heads` of them at each.
pub(super) struct Queries<'a> {
    /// Where their sequence's keys and values lie.
    pub pages: Pages<'a>,
    pub layer: usize,
    pub kv_head: usize,
    /// Query heads at each position.
    pub heads: usize,
    /// Position of the first query.
    pub position: usize,
    /// A position sees itself and the `window - 1` before it.
    pub window: usize,
    /// Multiplies every score: 1 / sqrt(head_dim).
    pub scale: f32,
    /// Rotated queries, `[positions][heads][head_dim]`, at most [`MOST_QUERIES`].
    pub q: &'a [f32],
}

impl Queries<'_> {
    /// Writes the softmax-weighted mean of the visible values to `out`, `[positions][heads][head_dim]`.
    ///
    /// # Safety
    /// - No member appends to this layer's cache until the step has ended.
    pub(super) unsafe fn attend(&self, kernels: &Kernels, kv: &KvCache<'_>, out: &mut [f32]) {
        let head_dim = kv.shape().head_dim;
        let queries = self.q.len() / head_dim;
        let (mut max, mut sum) = ([0.0; MOST_QUERIES], [0.0; MOST_QUERIES]);
        let first = |position: usize| (position + 1).saturating_sub(self.window);
        let last = self.position + queries / self.heads - 1;
        // A tile of queries or less waits for memory; with more, blocks are worked on for longer than they take to come.
        let asks = queries <= ASKING;
        for block in first(self.position) / BLOCK..last / BLOCK + 1 {
            let (start, page) = (block * BLOCK, self.pages.block(block));
            // Later positions see this block; with a window, earlier ones may see it only from some position on.
            let mut position = self.position.max(start);
            while position <= last && first(position) < start + BLOCK {
                // As many positions as begin at the same place go together.
                let from = first(position).max(start);
                let begins = first(position) >= start;
                let alike = |&p: &usize| first(p).max(start) == from && (first(p) >= start) == begins;
                let together = (position..=last).take_while(alike).count();
                let some = (position - self.position) * self.heads
                    ..(position - self.position + together) * self.heads;
                let mut until = [0; MOST_QUERIES];
                for (i, until) in until[..some.len()].iter_mut().enumerate() {
                    *until = (position + i / self.heads + 1 - start).min(BLOCK);
                }
                let end = (position + together - start).min(BLOCK);
                let groups = page / GROUP..page / GROUP + end.div_ceil(GROUP);
                // SAFETY: nobody appends meanwhile (caller).
                let (keys, values) = unsafe {
                    (
                        kv.keys(self.layer, self.kv_head, groups),
                        kv.values(self.layer, self.kv_head, page..page + end),
                    )
                };
                let ahead = if asks && block < last / BLOCK {
                    let next = self.pages.block(block + 1);
                    let groups = next / GROUP..next / GROUP + BLOCK / GROUP;
                    // SAFETY: as above; what lies behind the last position is memory of the cache too.
                    unsafe {
                        [
                            kv.keys(self.layer, self.kv_head, groups),
                            kv.values(self.layer, self.kv_head, next..next + BLOCK),
                        ]
                    }
                } else {
                    [&[][..]; 2]
                };
                let seen = KvBlock { head_dim, keys, values, from: from - start, first: begins, ahead };
                let elements = elements(&some, head_dim);
                let mut attending = Attending {
                    q: &self.q[elements.clone()],
                    until: &until[..some.len()],
                    max: &mut max[some.clone()],
                    sum: &mut sum[some],
                    out: &mut out[elements],
                };
                kernels.attend(&seen, self.scale, &mut attending);
                position += together;
            }
        }
        for (out, sum) in out.chunks_exact_mut(head_dim).zip(sum) {
            let inverse = 1.0 / sum;
            for value in out {
                *value *= inverse;
            }
        }
    }
}

fn elements(queries: &Range<usize>, head_dim: usize) -> Range<usize> {
    queries.start * head_dim..queries.end * head_dim
}
