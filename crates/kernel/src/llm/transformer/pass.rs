//! The pass itself. Every member of the team runs [`Pass::run`]; barriers separate a step from its readers.
//!
//! A layer: norm → q, k, v, of which k is turned and k and v are stored → q turned, attention → output, added to the
//! stream → norm → gate, up → down, added to the stream. Each step leaves the next product's input rounded to int8
//! blocks if its weights are quantized. Between arrows lies a barrier, except behind a norm of few rows.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use super::attention::{MOST_QUERIES, Queries};
use super::batch::Batch;
use super::engine::{Blocks, Buffers};
use super::profile::{Profile, Step};
use super::{FEW, TILES, rope};
use crate::llm::kv_cache::{KvCache, Pages};
use crate::llm::model::{Layer, Model};
use crate::llm::pool::Member;
use crate::llm::quant;
use crate::llm::shared::Shared;
use crate::llm::simd::{Activations, Kernels};
use crate::llm::tensor::{Matrix, ROW_TILE};

/// Everything one pass needs, shared by all members.
pub(super) struct Pass<'p, 'm> {
    pub model: &'m Model<'m>,
    pub kernels: &'static Kernels,
    pub kv: KvCache<'m>,
    pub buffers: Buffers<'m>,
    pub batch: &'p Batch,
    /// Pages of each sequence, `[slot][pages_each]`.
    pub tables: &'p [u32],
    pub pages_each: usize,
    pub window: usize,
    pub weight_bytes: &'p AtomicU64,
    pub work: &'p [AtomicU64],
    /// Counts time, where that is wanted.
    pub profile: Option<&'p Profile>,
}

impl<'m> Pass<'_, 'm> {
    pub fn run(&self, member: Member<'_>) {
        let shape = self.model.shape();
        if let Some(profile) = self.profile {
            profile.start(member.index);
        }
        self.embed(member);
        self.meet(member, Step::Embed);
        for (index, layer) in self.model.layers.iter().enumerate() {
            self.layer(member, index, layer);
        }
        let wanted = self.batch.wanted();
        if !wanted.is_empty() {
            let weight = &self.model.output_norm;
            let x = self.norm(member, weight, wanted.len(), |index| wanted[index], &[&self.model.head]);
            let logits = self.buffers.logits;
            self.product(member, &self.model.head, &x, |position, rows, products| {
                let at = position * shape.vocab_size;
                // SAFETY: these rows are this member's share.
                unsafe { logits.write(at + rows.start..at + rows.end) }.copy_from_slice(products);
            });
            self.lap(member, Step::Head);
        }
    }

    /// Books the time since the last lap on a step.
    fn lap(&self, member: Member<'_>, step: Step) {
        if let Some(profile) = self.profile {
            profile.lap(member.index, step);
        }
    }

    /// Ends a step: waits for the others.
    fn meet(&self, member: Member<'_>, step: Step) {
        self.lap(member, step);
        member.barrier();
        self.lap(member, Step::Wait);
    }

    /// Token embeddings into the stream, and the angles of each position.
    fn embed(&self, member: Member<'_>) {
        let (dim, half) = (self.model.shape().dim, self.model.rope_frequencies.len());
        let embedding = &self.model.embedding;
        let rows = self.batch.rows();
        for index in member.share(rows.len(), 1) {
            let id = rows[index].id as usize;
            // SAFETY: row `index` is this member's share.
            let stream = unsafe { self.buffers.stream.write(index * dim..(index + 1) * dim) };
            quant::dequantize(embedding.ty, embedding.row_data(id..id + 1), stream);
            let at = index * half..(index + 1) * half;
            // SAFETY: as above.
            let (cos, sin) = unsafe { (self.buffers.cos.write(at.clone()), self.buffers.sin.write(at)) };
            rope::angles(rows[index].position, &self.model.rope_frequencies, cos, sin);
        }
    }

    fn layer(&self, member: Member<'_>, index: usize, layer: &Layer<'m>) {
        let rows = self.batch.rows().len();
        let x = self.norm(member, &layer.attn_norm, rows, |row| row, &[&layer.wq, &layer.wk, &layer.wv]);
        self.queries_keys_values(member, index, layer, &x);
        if self.heads_stay(member, layer) {
            self.lap(member, Step::QueryKeyValue);
        } else {
            self.meet(member, Step::QueryKeyValue);
        }
        self.attention(member, index, layer);
        self.meet(member, Step::Attention);
        let x = self.attended(member, layer);
        self.product_to_stream(member, &layer.wo, &x);
        self.meet(member, Step::Output);
        let x = self.norm(member, &layer.ffn_norm, rows, |row| row, &[&layer.gate, &layer.up]);
        self.gate_and_up(member, layer, &x);
        self.meet(member, Step::GateUp);
        let shape = self.model.shape();
        let x = self.activations(self.buffers.hidden, self.buffers.hidden_input, shape.ffn_dim, &layer.down);
        self.product_to_stream(member, &layer.down, &x);
        self.meet(member, Step::Down);
    }

    /// RMS norm of `count` rows of the stream, the ones that `row` names, rounded to int8 blocks if any of `users` is
    /// quantized. Of a [`FEW`] rows every member computes all for itself; else each does its share and meets the others
    /// at a barrier.
    fn norm(
        &self,
        member: Member<'_>,
        weight: &[f32],
        count: usize,
        row: impl Fn(usize) -> usize,
        users: &[&Matrix<'_>],
    ) -> Activations<'m> {
        let (dim, eps) = (self.model.shape().dim, self.model.shape().norm_eps);
        let quantized = users.iter().any(|matrix| matrix.ty.is_quantized());
        let alone = count <= FEW;
        let buffers = &self.buffers;
        let (values, blocks, rows, first) = if alone {
            let own = buffers.own.len() / self.work.len();
            (buffers.own, buffers.own_input, 0..count, member.index * own)
        } else {
            (buffers.normed, buffers.input, member.share(count, 1), 0)
        };
        for index in rows {
            let (from, to) = (row(index) * dim, first + index * dim);
            // SAFETY: the stream is only read in this step; row `index` of the result is this member's share, or in
            // its own part.
            let out = unsafe {
                let (x, out) = (buffers.stream.read(from..from + dim), values.write(to..to + dim));
                self.kernels.rms_norm(x, weight, eps, out);
                out
            };
            if quantized {
                // SAFETY: as above. Rows of quantized matrices are whole blocks, so no block belongs to two rows.
                unsafe { blocks.round(self.kernels, to, out) };
            }
        }
        if alone {
            self.lap(member, Step::Norm);
        } else {
            self.meet(member, Step::Norm);
        }
        let elements = first..first + count * dim;
        let of_blocks = if quantized { elements.clone() } else { 0..0 };
        // SAFETY: until the next barrier all rows are only read.
        unsafe {
            Activations {
                k: dim,
                positions: count,
                values: values.read(elements),
                blocks: blocks.read(of_blocks),
            }
        }
    }

    /// All rows of an input as the kernels want it.
    fn activations(
        &self,
        values: Shared<'m, f32>,
        blocks: Blocks<'m>,
        k: usize,
        user: &Matrix<'_>,
    ) -> Activations<'m> {
        let positions = self.batch.rows().len();
        let elements = positions * k;
        let quantized = user.ty.is_quantized();
        // SAFETY: inputs are only read between the barrier behind the step that wrote them and the next one.
        unsafe {
            Activations {
                k,
                positions,
                values: values.read(0..if quantized { 0 } else { elements }),
                blocks: blocks.read(0..if quantized { elements } else { 0 }),
            }
        }
    }

    /// This member's three scratch tiles.
    fn tiles(&self, member: Member<'_>) -> [&'m mut [f32]; TILES] {
        let size = self.buffers.tiles.len() / self.work.len();
        // SAFETY: each member has its own part, and asks for it once per step.
        let all = unsafe { self.buffers.tiles.write(member.index * size..(member.index + 1) * size) };
        let (first, rest) = all.split_at_mut(size / TILES);
        let (second, third) = rest.split_at_mut(size / TILES);
        [first, second, third]
    }

    /// Rows of a product that are shared out together: at least four units a member, so that narrow matrices are
    /// shared evenly too.
    fn grain(member: Member<'_>, matrix: &Matrix<'_>) -> usize {
        ROW_TILE.min(matrix.rows.div_ceil(4 * member.count).next_multiple_of(matrix.group().max(8)))
    }

    /// This member's share of a product, handed to `store` by position as (position, rows, products).
    fn product(
        &self,
        member: Member<'_>,
        matrix: &Matrix<'_>,
        x: &Activations<'_>,
        mut store: impl FnMut(usize, Range<usize>, &mut [f32]),
    ) {
        let share = member.share(matrix.rows, Self::grain(member, matrix));
        let [tile, ..] = self.tiles(member);
        self.count(member, share.len() * x.positions, || {
            matrix.multiply(self.kernels, share, x, tile, |rows, products| {
                for (position, products) in products.chunks_exact_mut(rows.len()).enumerate() {
                    store(position, rows.clone(), products);
                }
            })
        });
    }

    /// A product added to the residual stream.
    fn product_to_stream(&self, member: Member<'_>, matrix: &Matrix<'_>, x: &Activations<'_>) {
        let (stream, dim) = (self.buffers.stream, self.model.shape().dim);
        self.product(member, matrix, x, |position, rows, products| {
            let at = position * dim;
            // SAFETY: these rows are this member's share.
            self.kernels.add(unsafe { stream.write(at + rows.start..at + rows.end) }, products);
        });
    }

    /// Queries into their buffer; keys, turned by their positions, and values into the cache.
    fn queries_keys_values(&self, member: Member<'_>, index: usize, layer: &Layer<'_>, x: &Activations<'_>) {
        let (query, q_dim) = (self.buffers.query, self.model.shape().q_dim());
        self.product(member, &layer.wq, x, |row, rows, products| {
            let at = row * q_dim;
            // SAFETY: these rows are this member's share.
            unsafe { query.write(at + rows.start..at + rows.end) }.copy_from_slice(products);
        });
        let head_dim = self.model.shape().head_dim;
        self.product(member, &layer.wk, x, |row, rows, products| {
            let slot = self.slot(row);
            for (head, first, part) in by_head(rows, head_dim, products) {
                self.turn(row, first, part);
                // SAFETY: these dimensions are this member's share; no two sequences share a page.
                unsafe { self.kv.append_key(self.kernels, index, head, slot, first, part) };
            }
        });
        self.product(member, &layer.wv, x, |row, rows, products| {
            let slot = self.slot(row);
            for (head, first, part) in by_head(rows, head_dim, products) {
                // SAFETY: as above.
                unsafe { self.kv.append_value(self.kernels, index, head, slot, first, part) };
            }
        });
    }

    /// Turns a head's dimensions `first..`, an even number from an even one on, by the position of a row.
    fn turn(&self, row: usize, first: usize, part: &mut [f32]) {
        let rope_dim = self.model.shape().rope_dim;
        let turned = part.len().min(rope_dim.saturating_sub(first));
        let at = (row * rope_dim + first) / 2;
        let at = at..at + turned / 2;
        // SAFETY: the angles are written only by `embed`.
        let (cos, sin) = unsafe { (self.buffers.cos.read(at.clone()), self.buffers.sin.read(at)) };
        self.kernels.rope(&mut part[..turned], cos, sin);
    }

    /// Where the cache holds the position of a row.
    fn slot(&self, row: usize) -> usize {
        let row = self.batch.rows()[row];
        self.pages(row.slot).slot(row.position)
    }

    /// Whether every member attends only with queries, keys and values that it computed itself, so that nobody need be
    /// waited for in between.
    fn heads_stay(&self, member: Member<'_>, layer: &Layer<'_>) -> bool {
        let even = |matrix: &Matrix<'_>| {
            let grain = Self::grain(member, matrix);
            matrix.rows.is_multiple_of(grain * member.count)
        };
        // With one row heads are shared out in order; with a few, norms are each member's own, so that none of them
        // can overwrite the input of another that is still multiplying.
        self.batch.rows().len() == 1
            && self.model.shape().n_kv_heads.is_multiple_of(member.count)
            && [&layer.wq, &layer.wk, &layer.wv].into_iter().all(even)
    }

    /// `silu(gate x) * (up x)`, both products for the same rows at a time, rounded to int8 blocks for `down`.
    fn gate_and_up(&self, member: Member<'_>, layer: &Layer<'_>, x: &Activations<'_>) {
        let ffn_dim = self.model.shape().ffn_dim;
        let share = member.share(ffn_dim, ROW_TILE);
        let [gate_tile, up_tile, tile] = self.tiles(member);
        let quantized = layer.down.ty.is_quantized();
        self.count(member, 2 * share.len() * x.positions, || {
            let mut up_bytes = 0;
            let gate_bytes = layer.gate.multiply(self.kernels, share, x, gate_tile, |rows, gates| {
                up_bytes += layer.up.multiply(self.kernels, rows.clone(), x, up_tile, |rows, ups| {
                    let hidden = &mut tile[..gates.len()];
                    self.kernels.silu_mul(gates, ups, hidden);
                    for (position, hidden) in hidden.chunks_exact(rows.len()).enumerate() {
                        let at = position * ffn_dim + rows.start;
                        // SAFETY: these rows are this member's share; of a quantized matrix they are whole blocks,
                        // since shares and tiles are multiples of a block long and so is the row.
                        unsafe {
                            if quantized {
                                self.buffers.hidden_input.round(self.kernels, at, hidden);
                            } else {
                                self.buffers.hidden.write(at..at + hidden.len()).copy_from_slice(hidden);
                            }
                        }
                    }
                });
            });
            gate_bytes + up_bytes
        });
    }

    /// Books weight bytes and work of one product.
    fn count(&self, member: Member<'_>, products: usize, multiply: impl FnOnce() -> u64) {
        let bytes = multiply();
        self.weight_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.work[member.index].fetch_add(products as u64, Ordering::Relaxed);
    }

    /// Where a sequence's keys and values lie.
    fn pages(&self, slot: usize) -> Pages<'_> {
        Pages::new(&self.tables[slot * self.pages_each..(slot + 1) * self.pages_each])
    }

    /// Attention of this member's share, whose units are some positions of a KV head, or single heads where there are
    /// few of them.
    fn attention(&self, member: Member<'_>, index: usize, layer: &Layer<'_>) {
        let shape = self.model.shape();
        let (rows, runs) = (self.batch.rows(), self.batch.runs());
        let group = shape.n_heads / shape.n_kv_heads;
        let fair = rows.len() * shape.n_kv_heads / (4 * member.count);
        let chunk = (MOST_QUERIES / group).min(fair).max(1);
        let chunks: usize = runs.iter().map(|run| run.rows.len().div_ceil(chunk)).sum();
        if shape.n_kv_heads * chunks >= 4 * member.count {
            for unit in member.share(shape.n_kv_heads * chunks, 1) {
                let (kv_head, mut nth) = (unit / chunks, unit % chunks);
                let mut of_runs = runs.iter();
                let run = of_runs.find(|run| {
                    let here = run.rows.len().div_ceil(chunk);
                    let found = nth < here;
                    nth -= if found { 0 } else { here };
                    found
                });
                let run = run.expect("units are counted by runs");
                let first = run.rows.start + nth * chunk;
                for heads in in_pieces(kv_head * group..(kv_head + 1) * group, MOST_QUERIES) {
                    self.attend(member, (index, layer), first..run.rows.end.min(first + chunk), heads);
                }
            }
            return;
        }
        let mut share = member.share(rows.len() * shape.n_heads, 1);
        while !share.is_empty() {
            let (row, head) = (share.start / shape.n_heads, share.start % shape.n_heads);
            // As far as the KV head goes.
            let end = ((head / group + 1) * group).min(head + share.len());
            for heads in in_pieces(head..end, MOST_QUERIES) {
                self.attend(member, (index, layer), row..row + 1, heads);
            }
            share.start += end - head;
        }
    }

    /// Attention of heads that share a KV head, in some rows of one run: turns queries, attends, and rounds what they
    /// found to int8 blocks where blocks are inside heads.
    fn attend(
        &self,
        member: Member<'_>,
        (index, layer): (usize, &Layer<'_>),
        rows: Range<usize>,
        heads: Range<usize>,
    ) {
        let shape = self.model.shape();
        let (head_dim, width) = (shape.head_dim, heads.len() * shape.head_dim);
        let at = |row: usize| (row * shape.n_heads + heads.start) * head_dim;
        let [q, out, _] = self.tiles(member);
        let (q, out) = (&mut q[..rows.len() * width], &mut out[..rows.len() * width]);
        for (row, q) in rows.clone().zip(q.chunks_exact_mut(width)) {
            // SAFETY: queries are only read in this step.
            q.copy_from_slice(unsafe { self.buffers.query.read(at(row)..at(row) + width) });
            for head in q.chunks_exact_mut(head_dim) {
                self.turn(row, 0, head);
            }
        }
        let first = self.batch.rows()[rows.start];
        let queries = Queries {
            pages: self.pages(first.slot),
            layer: index,
            kv_head: heads.start / (shape.n_heads / shape.n_kv_heads),
            heads: heads.len(),
            position: first.position,
            window: self.window,
            scale: 1.0 / libm::sqrtf(head_dim as f32),
            q,
        };
        // SAFETY: keys and values are stored in another step, behind a barrier, or by this member.
        unsafe { queries.attend(self.kernels, &self.kv, out) };
        for (row, out) in rows.clone().zip(out.chunks_exact(width)) {
            // SAFETY: these heads in these rows are this member's share.
            unsafe {
                if self.rounds_heads(layer) {
                    self.buffers.input.round(self.kernels, at(row), out);
                } else {
                    self.buffers.attended.write(at(row)..at(row) + width).copy_from_slice(out);
                }
            }
        }
    }

    /// Whether attention leaves int8 blocks.
    fn rounds_heads(&self, layer: &Layer<'_>) -> bool {
        layer.wo.ty.is_quantized() && self.model.shape().head_dim.is_multiple_of(32)
    }

    /// What attention found as the kernels want it; meets at a barrier if it is still to be rounded.
    fn attended(&self, member: Member<'_>, layer: &Layer<'_>) -> Activations<'m> {
        let (buffers, q_dim) = (&self.buffers, self.model.shape().q_dim());
        if layer.wo.ty.is_quantized() && !self.rounds_heads(layer) {
            let share = member.share(self.batch.rows().len() * q_dim, 32);
            // SAFETY: attention's output is only read in this step; these blocks are this member's share.
            unsafe { buffers.input.round(self.kernels, share.start, buffers.attended.read(share.clone())) };
            self.meet(member, Step::Attention);
        }
        self.activations(buffers.attended, buffers.input, q_dim, &layer.wo)
    }
}

/// Products of `rows` of a matrix with `head_dim` rows a head, by head: (head, first dimension, products).
fn by_head(
    rows: Range<usize>,
    head_dim: usize,
    mut products: &mut [f32],
) -> impl Iterator<Item = (usize, usize, &mut [f32])> {
    let mut at = rows.start;
    core::iter::from_fn(move || {
        let (head, first) = (at / head_dim, at % head_dim);
        let part = products.split_off_mut(..(head_dim - first).min(products.len()))?;
        at += part.len();
        (!part.is_empty()).then_some((head, first, part))
    })
}

/// `range` in pieces of `most`, the last of which may be short.
fn in_pieces(range: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    range.clone().step_by(most).map(move |start| start..range.end.min(start + most))
}
