//! The pass itself. Every member of the team runs [`Pass::run`]; barriers separate a step from its readers.
//!
//! A layer: norm → q, k, v → turn and store → attention → output, added to the stream → norm → gate, up → down, added
//! to the stream. Before each product its input is rounded to int8 blocks if the weights are quantized.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use super::attention::{MOST_QUERIES, Queries};
use super::batch::Batch;
use super::engine::Buffers;
use super::profile::{Profile, Step};
use super::rope;
use crate::llm::kv_cache::{KvCache, Pages};
use crate::llm::model::{Layer, Model};
use crate::llm::pool::Member;
use crate::llm::quant;
use crate::llm::shared::Shared;
use crate::llm::simd::{ActivationBlocks, Activations, Kernels};
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

/// Which buffer is the input of a product.
#[derive(Clone, Copy)]
struct Input<'m> {
    values: Shared<'m, f32>,
    /// Row length.
    k: usize,
    /// Rows in use: positions, of whatever sequences.
    positions: usize,
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
            let normed = self.norm(member, &self.model.output_norm, wanted.len(), |index| wanted[index]);
            self.prepare(member, normed, &[&self.model.head]);
            let logits = self.buffers.logits;
            self.product(member, &self.model.head, normed, |position, rows, products| {
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
        let shape = self.model.shape();
        let (buffers, positions) = (&self.buffers, self.batch.rows().len());
        let normed = self.norm(member, &layer.attn_norm, positions, |index| index);
        self.prepare(member, normed, &[&layer.wq, &layer.wk, &layer.wv]);
        for (matrix, out) in
            [(&layer.wq, buffers.query), (&layer.wk, buffers.key), (&layer.wv, buffers.value)]
        {
            self.product(member, matrix, normed, |position, rows, products| {
                let at = position * matrix.rows;
                // SAFETY: these rows are this member's share.
                unsafe { out.write(at + rows.start..at + rows.end) }.copy_from_slice(products);
            });
        }
        self.meet(member, Step::QueryKeyValue);
        self.store_keys_and_values(member, index);
        self.meet(member, Step::QueryKeyValue);
        self.attention(member, index);
        self.meet(member, Step::Attention);
        let attended = Input { values: buffers.attended, k: shape.q_dim(), positions };
        self.prepare(member, attended, &[&layer.wo]);
        self.product_to_stream(member, &layer.wo, attended);
        self.meet(member, Step::Output);
        let normed = self.norm(member, &layer.ffn_norm, positions, |index| index);
        self.prepare(member, normed, &[&layer.gate, &layer.up]);
        self.gate_and_up(member, layer, normed);
        self.meet(member, Step::GateUp);
        let hidden = Input { values: buffers.hidden, k: shape.ffn_dim, positions };
        self.prepare(member, hidden, &[&layer.down]);
        self.product_to_stream(member, &layer.down, hidden);
        self.meet(member, Step::Down);
    }

    /// RMS norm of `positions` rows of the stream, the ones that `row` names; meets at a barrier.
    fn norm(
        &self,
        member: Member<'_>,
        weight: &[f32],
        positions: usize,
        row: impl Fn(usize) -> usize,
    ) -> Input<'m> {
        let (dim, eps) = (self.model.shape().dim, self.model.shape().norm_eps);
        for index in member.share(positions, 1) {
            let from = row(index) * dim;
            // SAFETY: the stream is only read in this step; row `index` of the result is this member's share.
            let (x, out) = unsafe {
                (
                    self.buffers.stream.read(from..from + dim),
                    self.buffers.normed.write(index * dim..(index + 1) * dim),
                )
            };
            self.kernels.rms_norm(x, weight, eps, out);
        }
        self.meet(member, Step::Norm);
        Input { values: self.buffers.normed, k: dim, positions }
    }

    /// Rounds an input to int8 blocks if any of `users` is quantized; meets at a barrier if so.
    fn prepare(&self, member: Member<'_>, input: Input<'m>, users: &[&Matrix<'_>]) {
        if !users.iter().any(|matrix| matrix.ty.is_quantized()) {
            return;
        }
        // Quantized rows are whole blocks, so positions follow each other without gaps.
        let share = member.share(input.positions * input.k, 32);
        if !share.is_empty() {
            let (blocks, halves) = (share.start / 32..share.end / 32, share.start / 16..share.end / 16);
            // SAFETY: the input is only read in this step; these blocks are this member's share.
            let (x, q, scale, sum16) = unsafe {
                (
                    input.values.read(share.clone()),
                    self.buffers.q8.write(share),
                    self.buffers.scale.write(blocks),
                    self.buffers.sum16.write(halves),
                )
            };
            self.kernels.quantize_activations(x, q, scale, sum16);
        }
        self.meet(member, Step::Norm);
    }

    /// The input as the kernels want it.
    fn activations(&self, input: Input<'m>, matrix: &Matrix<'_>) -> Activations<'m> {
        let elements = input.positions * input.k;
        let blocks = if matrix.ty.is_quantized() { elements } else { 0 };
        // SAFETY: inputs are only read between the barrier that ends `prepare` and the next one.
        unsafe {
            Activations {
                k: input.k,
                positions: input.positions,
                values: input.values.read(0..elements),
                blocks: ActivationBlocks {
                    q: self.buffers.q8.read(0..blocks),
                    scale: self.buffers.scale.read(0..blocks / 32),
                    sum16: self.buffers.sum16.read(0..blocks / 16),
                },
            }
        }
    }

    /// This member's two scratch tiles.
    fn tiles(&self, member: Member<'_>) -> (&'m mut [f32], &'m mut [f32]) {
        let size = self.buffers.tiles.len() / self.work.len();
        // SAFETY: each member has its own part, and asks for it once per product.
        unsafe { self.buffers.tiles.write(member.index * size..(member.index + 1) * size) }
            .split_at_mut(size / 2)
    }

    /// This member's share of a product, handed to `store` by position as (position, rows, products).
    fn product(
        &self,
        member: Member<'_>,
        matrix: &Matrix<'_>,
        input: Input<'m>,
        mut store: impl FnMut(usize, Range<usize>, &[f32]),
    ) {
        // At least four units a member, so that narrow matrices are shared evenly too.
        let grain =
            ROW_TILE.min(matrix.rows.div_ceil(4 * member.count).next_multiple_of(matrix.group().max(8)));
        let share = member.share(matrix.rows, grain);
        let x = self.activations(input, matrix);
        let (tile, _) = self.tiles(member);
        self.count(member, share.len() * x.positions, || {
            matrix.multiply(self.kernels, share, &x, tile, |rows, products| {
                for (position, products) in products.chunks_exact(rows.len()).enumerate() {
                    store(position, rows.clone(), products);
                }
            })
        });
    }

    /// A product added to the residual stream.
    fn product_to_stream(&self, member: Member<'_>, matrix: &Matrix<'_>, input: Input<'m>) {
        let (stream, dim) = (self.buffers.stream, self.model.shape().dim);
        self.product(member, matrix, input, |position, rows, products| {
            let at = position * dim;
            // SAFETY: these rows are this member's share.
            self.kernels.add(unsafe { stream.write(at + rows.start..at + rows.end) }, products);
        });
    }

    /// `silu(gate x) * (up x)`, both products for the same rows at a time.
    fn gate_and_up(&self, member: Member<'_>, layer: &Layer<'_>, input: Input<'m>) {
        let ffn_dim = self.model.shape().ffn_dim;
        let share = member.share(ffn_dim, ROW_TILE);
        let (gate_x, up_x) = (self.activations(input, &layer.gate), self.activations(input, &layer.up));
        let (gate_tile, up_tile) = self.tiles(member);
        self.count(member, 2 * share.len() * input.positions, || {
            let mut up_bytes = 0;
            let gate_bytes = layer.gate.multiply(self.kernels, share, &gate_x, gate_tile, |rows, gates| {
                up_bytes += layer.up.multiply(self.kernels, rows.clone(), &up_x, up_tile, |rows, ups| {
                    for (position, (gate, up)) in
                        gates.chunks_exact(rows.len()).zip(ups.chunks_exact(rows.len())).enumerate()
                    {
                        let at = position * ffn_dim;
                        // SAFETY: these rows are this member's share.
                        let out = unsafe { self.buffers.hidden.write(at + rows.start..at + rows.end) };
                        self.kernels.silu_mul(gate, up, out);
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

    /// Turns queries and keys by their positions and stores keys and values.
    fn store_keys_and_values(&self, member: Member<'_>, layer: usize) {
        let shape = self.model.shape();
        let (head_dim, half) = (shape.head_dim, shape.rope_dim / 2);
        let turn = |position: usize, head: &mut [f32]| {
            let at = position * half..(position + 1) * half;
            // SAFETY: the angles are written only by `embed`.
            let (cos, sin) = unsafe { (self.buffers.cos.read(at.clone()), self.buffers.sin.read(at)) };
            self.kernels.rope(&mut head[..2 * half], cos, sin);
        };
        for item in member.share(self.batch.rows().len() * shape.n_heads, 1) {
            // SAFETY: this (position, head) is this member's share.
            let head = unsafe { self.buffers.query.write(item * head_dim..(item + 1) * head_dim) };
            turn(item / shape.n_heads, head);
        }
        // A group of sixteen keys shares cache lines and one slice, so one member stores all of a head's positions.
        let runs = self.batch.runs();
        for item in member.share(runs.len() * shape.n_kv_heads, 1) {
            let (run, head) = (&runs[item / shape.n_kv_heads], item % shape.n_kv_heads);
            let pages = self.pages(run.slot);
            for (index, row) in run.rows.clone().enumerate() {
                let at = (row * shape.n_kv_heads + head) * head_dim;
                // SAFETY: this head of this run is this member's share.
                let (key, value) = unsafe {
                    (self.buffers.key.write(at..at + head_dim), self.buffers.value.read(at..at + head_dim))
                };
                turn(row, key);
                // SAFETY: as above; no two sequences share a page.
                unsafe {
                    self.kv.append(self.kernels, layer, head, pages.slot(run.start + index), key, value);
                }
            }
        }
    }

    /// Attention of this member's share, whose units are some positions of a KV head, or single heads where there are
    /// few of them.
    fn attention(&self, member: Member<'_>, layer: usize) {
        let shape = self.model.shape();
        let (rows, runs) = (self.batch.rows(), self.batch.runs());
        let group = shape.n_heads / shape.n_kv_heads;
        let chunk = (MOST_QUERIES / group).max(1);
        let chunks: usize = runs.iter().map(|run| run.rows.len().div_ceil(chunk)).sum();
        if shape.n_kv_heads * chunks >= 4 * member.count {
            for unit in member.share(shape.n_kv_heads * chunks, 1) {
                let (kv_head, mut index) = (unit / chunks, unit % chunks);
                let mut of_runs = runs.iter();
                let run = of_runs.find(|run| {
                    let here = run.rows.len().div_ceil(chunk);
                    let found = index < here;
                    index -= if found { 0 } else { here };
                    found
                });
                let run = run.expect("units are counted by runs");
                let first = run.rows.start + index * chunk;
                for heads in in_pieces(kv_head * group..(kv_head + 1) * group, MOST_QUERIES) {
                    self.attend(member, layer, first..run.rows.end.min(first + chunk), heads);
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
                self.attend(member, layer, row..row + 1, heads);
            }
            share.start += end - head;
        }
    }

    /// Attention of heads that share a KV head, in some rows of one run.
    fn attend(&self, member: Member<'_>, layer: usize, rows: Range<usize>, heads: Range<usize>) {
        let shape = self.model.shape();
        let (head_dim, width) = (shape.head_dim, heads.len() * shape.head_dim);
        let at = |row: usize| {
            let at = (row * shape.n_heads + heads.start) * head_dim;
            at..at + width
        };
        let (q, out) = self.tiles(member);
        let (q, out) = (&mut q[..rows.len() * width], &mut out[..rows.len() * width]);
        for (row, q) in rows.clone().zip(q.chunks_exact_mut(width)) {
            // SAFETY: queries are only read in this step.
            q.copy_from_slice(unsafe { self.buffers.query.read(at(row)) });
        }
        let first = self.batch.rows()[rows.start];
        let queries = Queries {
            pages: self.pages(first.slot),
            layer,
            kv_head: heads.start / (shape.n_heads / shape.n_kv_heads),
            heads: heads.len(),
            position: first.position,
            window: self.window,
            scale: 1.0 / libm::sqrtf(head_dim as f32),
            q,
        };
        // SAFETY: keys and values are stored in another step, behind a barrier.
        unsafe { queries.attend(self.kernels, &self.kv, out) };
        for (row, out) in rows.clone().zip(out.chunks_exact(width)) {
            // SAFETY: these heads in these rows are this member's share.
            unsafe { self.buffers.attended.write(at(row)) }.copy_from_slice(out);
        }
    }
}

/// `range` in pieces of `most`, the last of which may be short.
fn in_pieces(range: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    range.clone().step_by(most).map(move |start| start..range.end.min(start + most))
}
