//! Causal attention of one query over the cache, with a softmax that is merged block by block.
//!
//! Positions are taken in blocks of [`BLOCK`] at absolute starts. Each block gives its maximum `m`, its sum `l` of
//! `exp(score - m)` and its weighted values `o`; blocks are merged in order (the online softmax of Milakov and
//! Gimelshein, arXiv 1805.02867). What a position sees depends on the position alone, never on the batch.

use crate::llm::kv_cache::{BLOCK, GROUP, KvCache, MAX_HEAD_DIM, Pages};
use crate::llm::math;
use crate::llm::simd::Kernels;

/// One query head at one position.
pub(super) struct Query<'a> {
    /// Where its sequence's keys and values lie.
    pub pages: Pages<'a>,
    pub layer: usize,
    pub kv_head: usize,
    pub position: usize,
    /// The position sees itself and the `window - 1` before it.
    pub window: usize,
    /// Rotated query, `[head_dim]`.
    pub q: &'a [f32],
    /// Multiplies every score: 1 / sqrt(head_dim).
    pub scale: f32,
}

/// Writes the softmax-weighted mean of the visible values to `out`, `[head_dim]`.
///
/// # Safety
/// - No member appends to this layer's cache until the next barrier.
pub(super) unsafe fn attend(kernels: &Kernels, kv: &KvCache<'_>, query: &Query<'_>, out: &mut [f32]) {
    let end = query.position + 1;
    let first = end.saturating_sub(query.window);
    let (mut total_max, mut total_sum) = (0.0, 0.0);
    let mut block_out = [0.0f32; MAX_HEAD_DIM];
    let block_out = &mut block_out[..out.len()];
    for block in first / BLOCK..end.div_ceil(BLOCK) {
        let visible = first.max(block * BLOCK)..end.min((block + 1) * BLOCK);
        let inside = visible.start - block * BLOCK..visible.end - block * BLOCK;
        let page = query.pages.block(block);
        let mut scores = [0.0f32; BLOCK];
        let of_groups = inside.start / GROUP * GROUP..inside.end.next_multiple_of(GROUP);
        let groups = (page + of_groups.start) / GROUP..(page + of_groups.end) / GROUP;
        // SAFETY: nobody appends meanwhile (caller).
        let keys = unsafe { kv.keys(query.layer, query.kv_head, groups) };
        kernels.scores(query.q, keys, query.scale, &mut scores[of_groups]);
        let weights = &mut scores[inside.clone()];
        let max = kernels.max(weights);
        let sum = kernels.exp_sub(weights, max);
        // SAFETY: as above.
        let values = unsafe { kv.values(query.layer, query.kv_head, page + inside.start..page + inside.end) };
        if visible.start == first {
            out.fill(0.0);
            kernels.accumulate(weights, values, out);
            (total_max, total_sum) = (max, sum);
        } else {
            block_out.fill(0.0);
            kernels.accumulate(weights, values, block_out);
            let merged_max = total_max.max(max);
            let (keep, add) = (math::exp(total_max - merged_max), math::exp(max - merged_max));
            kernels.merge(out, keep, block_out, add);
            total_sum = math::fma(sum, add, total_sum * keep);
            total_max = merged_max;
        }
    }
    let inverse = 1.0 / total_sum;
    for value in out {
        *value *= inverse;
    }
}
