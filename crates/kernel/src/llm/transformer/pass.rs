//! The pass itself. Every member of the team runs [`Pass::run`], a row of steps; a step's work is claimed by whoever
//! comes, and its readers are in a later one.
//!
//! A layer: norm → q, k, v, of which k is turned and k and v are stored → q turned, attention → output, added to the
//! stream → norm → gate, up → down, added to the stream. Each step leaves the next product's input rounded to int8
//! blocks if its weights are quantized. Between arrows a step ends, except behind a norm of few rows.
//!
//! All that touches the pass's buffers is inside a step, in what begins it or in its work: a member that comes late
//! runs through steps that are finished, and must not read what has been overwritten since.

use core::ops::Range;

use super::attention::{MOST_QUERIES, Queries};
use super::batch::{Bands, Batch};
use super::engine::{Blocks, Buffers, Tally};
use super::profile::{Profile, Step};
use super::{FEW, TILES, rope};
use crate::llm::kv_cache::{KvCache, Pages};
use crate::llm::model::{Layer, Model};
use crate::llm::pool::Member;
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
    /// Each member's.
    pub tallies: &'p [Tally],
    /// Counts time, where that is wanted.
    pub profile: Option<&'p Profile>,
}

impl<'m> Pass<'_, 'm> {
    pub fn run(&self, member: &Member<'_>) {
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
            let norm = self.norm(member, &self.model.output_norm, Some(wanted), &[&self.model.head]);
            let (logits, vocab_size) = (self.buffers.logits, self.model.shape().vocab_size);
            self.product(
                member,
                &self.model.head,
                wanted.len(),
                || norm.input(),
                |position, rows, products| {
                    let at = position * vocab_size;
                    // SAFETY: these rows are claimed by this member.
                    unsafe { logits.write(at + rows.start..at + rows.end) }.copy_from_slice(products);
                },
            );
            self.lap(member, Step::Head);
        }
    }

    /// Books the time since the last lap on a step.
    fn lap(&self, member: &Member<'_>, step: Step) {
        if let Some(profile) = self.profile {
            profile.lap(member.index, step);
        }
    }

    /// Ends a step: waits until all of it is done.
    fn meet(&self, member: &Member<'_>, step: Step) {
        self.lap(member, step);
        member.meet();
        self.lap(member, Step::Wait);
    }

    /// Token embeddings into the stream, and the angles of each position.
    fn embed(&self, member: &Member<'_>) {
        let (dim, half) = (self.model.shape().dim, self.model.rope_frequencies.len());
        let embedding = &self.model.embedding;
        let rows = self.batch.rows();
        member.step(
            rows.len(),
            || (),
            |(), claimed| {
                for index in claimed {
                    let id = rows[index].id as usize;
                    // SAFETY: row `index` is claimed by this member.
                    let stream = unsafe { self.buffers.stream.write(index * dim..(index + 1) * dim) };
                    embedding.dequantize_row(self.kernels, id, stream);
                    let at = index * half..(index + 1) * half;
                    // SAFETY: as above.
                    let (cos, sin) =
                        unsafe { (self.buffers.cos.write(at.clone()), self.buffers.sin.write(at)) };
                    rope::angles(rows[index].position, &self.model.rope_frequencies, cos, sin);
                }
            },
        );
    }

    fn layer(&self, member: &Member<'_>, index: usize, layer: &Layer<'m>) {
        let shape = self.model.shape();
        let norm = self.norm(member, &layer.attn_norm, None, &[&layer.wq, &layer.wk, &layer.wv]);
        self.queries_keys_values(member, index, layer, &norm);
        self.meet(member, Step::QueryKeyValue);
        self.attention(member, index, layer);
        self.meet(member, Step::Attention);
        self.round_attended(member, layer);
        let (buffers, q_dim) = (&self.buffers, shape.q_dim());
        let attended = || self.activations(buffers.attended, buffers.input, q_dim, &layer.wo);
        self.product_to_stream(member, &layer.wo, attended);
        self.meet(member, Step::Output);
        let norm = self.norm(member, &layer.ffn_norm, None, &[&layer.gate, &layer.up]);
        self.gate_and_up(member, layer, &norm);
        self.meet(member, Step::GateUp);
        let hidden = || self.activations(buffers.hidden, buffers.hidden_input, shape.ffn_dim, &layer.down);
        self.product_to_stream(member, &layer.down, hidden);
        self.meet(member, Step::Down);
    }

    /// RMS norm of the stream's rows that `rows` names, or of all, rounded to int8 blocks if any of `users` is
    /// quantized. Of a [`FEW`] rows every member that wants them computes all for itself, when it does; else it is a
    /// step.
    fn norm<'n>(
        &'n self,
        member: &'n Member<'n>,
        weight: &'n [f32],
        rows: Option<&'n [usize]>,
        users: &[&Matrix<'_>],
    ) -> Norm<'n, 'm> {
        let count = rows.map_or(self.batch.rows().len(), <[usize]>::len);
        let quantized = users.iter().any(|matrix| matrix.ty.is_quantized());
        let norm = Norm { pass: self, member, weight, rows, count, quantized };
        if !norm.is_alone() {
            member.step(
                count,
                || (),
                |(), rows| norm.compute(self.buffers.normed, self.buffers.input, 0, rows),
            );
            self.meet(member, Step::Norm);
        }
        norm
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
        // SAFETY: asked for in a step that only reads them, and whoever wrote them did so in an earlier one.
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
    fn tiles(&self, member: &Member<'_>) -> [&'m mut [f32]; TILES] {
        let size = self.buffers.tiles.len() / self.tallies.len();
        // SAFETY: each member has its own part, and asks for it once per step.
        let all = unsafe { self.buffers.tiles.write(member.index * size..(member.index + 1) * size) };
        let (first, rest) = all.split_at_mut(size / TILES);
        let (second, third) = rest.split_at_mut(size / TILES);
        [first, second, third]
    }

    /// Rows of a product that are claimed together: at least four units a member, so that narrow matrices are shared
    /// evenly too.
    fn grain(member: &Member<'_>, matrix: &Matrix<'_>) -> usize {
        ROW_TILE.min(matrix.rows.div_ceil(4 * member.count).next_multiple_of(matrix.group().max(8)))
    }

    /// A step: a product with the `positions` that `input` gives, handed to `store` by position as (position, rows,
    /// products).
    fn product<'x>(
        &self,
        member: &Member<'_>,
        matrix: &Matrix<'_>,
        positions: usize,
        input: impl FnOnce() -> Activations<'x>,
        mut store: impl FnMut(usize, Range<usize>, &mut [f32]),
    ) {
        let grain = Self::grain(member, matrix);
        let (bands, units) = (Bands::of(positions), matrix.rows.div_ceil(grain));
        member.step(
            bands.count * units,
            || (input(), self.tiles(member)),
            |(x, [tile, ..]), claimed| {
                for (positions, units) in bands.parts(claimed, units) {
                    let rows = items(units, grain, matrix.rows);
                    self.multiply(member, matrix, rows, x, positions, tile, &mut store);
                }
            },
        );
    }

    /// Claimed rows of a product at claimed positions.
    #[allow(clippy::too_many_arguments, reason = "two callers, which have them apart")]
    fn multiply(
        &self,
        member: &Member<'_>,
        matrix: &Matrix<'_>,
        rows: Range<usize>,
        x: &Activations<'_>,
        positions: Range<usize>,
        tile: &mut [f32],
        mut store: impl FnMut(usize, Range<usize>, &mut [f32]),
    ) {
        let products = rows.len() * positions.len();
        let x = x.at(positions.clone());
        let bytes = matrix.multiply(self.kernels, rows, &x, tile, |rows, products| {
            for (position, products) in positions.clone().zip(products.chunks_exact_mut(rows.len())) {
                store(position, rows.clone(), products);
            }
        });
        self.tallies[member.index].add(bytes, products);
    }

    /// A product added to the residual stream.
    fn product_to_stream<'x>(
        &self,
        member: &Member<'_>,
        matrix: &Matrix<'_>,
        input: impl FnOnce() -> Activations<'x>,
    ) {
        let (stream, dim) = (self.buffers.stream, self.model.shape().dim);
        let positions = self.batch.rows().len();
        self.product(member, matrix, positions, input, |position, rows, products| {
            let at = position * dim;
            // SAFETY: these rows are claimed by this member.
            self.kernels.add(unsafe { stream.write(at + rows.start..at + rows.end) }, products);
        });
    }

    /// Queries into their buffer; keys, turned by their positions, and values into the cache. One step, whose units are
    /// those of the three matrices one after another.
    fn queries_keys_values(&self, member: &Member<'_>, index: usize, layer: &Layer<'_>, norm: &Norm<'_, '_>) {
        let (query, shape) = (self.buffers.query, self.model.shape());
        let (q_dim, head_dim) = (shape.q_dim(), shape.head_dim);
        let matrices = [&layer.wq, &layer.wk, &layer.wv];
        let grains = matrices.map(|matrix| Self::grain(member, matrix));
        let units = [0, 1, 2].map(|nth| matrices[nth].rows.div_ceil(grains[nth]));
        let begin = || (norm.input(), self.tiles(member));
        let (bands, in_band) = (Bands::of(self.batch.rows().len()), units.iter().sum());
        member.step(bands.count * in_band, begin, |(x, [tile, ..]), claimed| {
            for (positions, claimed) in bands.parts(claimed, in_band) {
                let mut first = 0;
                for (nth, matrix) in matrices.into_iter().enumerate() {
                    let here = claimed.start.max(first)..claimed.end.min(first + units[nth]);
                    let here = here.start - first..here.end.max(here.start) - first;
                    first += units[nth];
                    let rows = items(here, grains[nth], matrix.rows);
                    self.multiply(member, matrix, rows, x, positions.clone(), tile, |row, rows, products| {
                        let at = row * q_dim;
                        if nth == 0 {
                            // SAFETY: these rows are claimed by this member.
                            unsafe { query.write(at + rows.start..at + rows.end) }.copy_from_slice(products);
                            return;
                        }
                        let slot = self.slot(row);
                        for (head, first, part) in by_head(rows, head_dim, products) {
                            // SAFETY: these dimensions are claimed by this member; no two sequences share a page.
                            unsafe {
                                if nth == 1 {
                                    self.turn(row, first, part);
                                    self.kv.append_key(self.kernels, index, head, slot, first, part);
                                } else {
                                    self.kv.append_value(self.kernels, index, head, slot, first, part);
                                }
                            }
                        }
                    });
                }
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

    /// `silu(gate x) * (up x)`, both products for the same rows at a time, rounded to int8 blocks for `down`.
    fn gate_and_up(&self, member: &Member<'_>, layer: &Layer<'_>, norm: &Norm<'_, '_>) {
        let ffn_dim = self.model.shape().ffn_dim;
        let quantized = layer.down.ty.is_quantized();
        let begin = || (norm.input(), self.tiles(member));
        let (bands, units) = (Bands::of(self.batch.rows().len()), ffn_dim.div_ceil(ROW_TILE));
        member.step(bands.count * units, begin, |(x, [gate_tile, up_tile, tile]), claimed| {
            for (positions, units) in bands.parts(claimed, units) {
                let (x, rows) = (x.at(positions.clone()), items(units, ROW_TILE, ffn_dim));
                let products = 2 * rows.len() * x.positions;
                let mut up_bytes = 0;
                let gate_bytes = layer.gate.multiply(self.kernels, rows, &x, gate_tile, |rows, gates| {
                    up_bytes += layer.up.multiply(self.kernels, rows.clone(), &x, up_tile, |rows, ups| {
                        let hidden = &mut tile[..gates.len()];
                        self.kernels.silu_mul(gates, ups, hidden);
                        for (position, hidden) in positions.clone().zip(hidden.chunks_exact(rows.len())) {
                            let at = position * ffn_dim + rows.start;
                            // SAFETY: these rows are claimed by this member; of a quantized matrix they are whole
                            // blocks, since units and tiles are multiples of a block long and so is the row.
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
                self.tallies[member.index].add(gate_bytes + up_bytes, products);
            }
        });
    }

    /// Where a sequence's keys and values lie.
    fn pages(&self, slot: usize) -> Pages<'_> {
        Pages::new(&self.tables[slot * self.pages_each..(slot + 1) * self.pages_each])
    }

    /// Attention, whose units are some positions of a KV head, or single heads where there are few of them.
    fn attention(&self, member: &Member<'_>, index: usize, layer: &Layer<'_>) {
        let shape = self.model.shape();
        let (rows, runs) = (self.batch.rows(), self.batch.runs());
        let group = shape.n_heads / shape.n_kv_heads;
        let fair = rows.len() * shape.n_kv_heads / (4 * member.count);
        let chunk = (MOST_QUERIES / group).min(fair).max(1);
        let chunks: usize = runs.iter().map(|run| run.rows.len().div_ceil(chunk)).sum();
        let begin = || self.tiles(member);
        if shape.n_kv_heads * chunks >= 4 * member.count {
            member.step(shape.n_kv_heads * chunks, begin, |tiles, units| {
                for unit in units {
                    let (mut nth, kv_head) = (unit / shape.n_kv_heads, unit % shape.n_kv_heads);
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
                        self.attend((index, layer), first..run.rows.end.min(first + chunk), heads, tiles);
                    }
                }
            });
            return;
        }
        member.step(rows.len() * shape.n_heads, begin, |tiles, mut units| {
            while !units.is_empty() {
                let (row, head) = (units.start / shape.n_heads, units.start % shape.n_heads);
                // As far as the KV head goes.
                let end = ((head / group + 1) * group).min(head + units.len());
                for heads in in_pieces(head..end, MOST_QUERIES) {
                    self.attend((index, layer), row..row + 1, heads, tiles);
                }
                units.start += end - head;
            }
        });
    }

    /// Attention of heads that share a KV head, in some rows of one run: turns queries, attends, and rounds what they
    /// found to int8 blocks where blocks are inside heads.
    fn attend(
        &self,
        (index, layer): (usize, &Layer<'_>),
        rows: Range<usize>,
        heads: Range<usize>,
        [q, out, _]: &mut [&mut [f32]; TILES],
    ) {
        let shape = self.model.shape();
        let (head_dim, width) = (shape.head_dim, heads.len() * shape.head_dim);
        let at = |row: usize| (row * shape.n_heads + heads.start) * head_dim;
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
        // SAFETY: keys and values are stored in another step.
        unsafe { queries.attend(self.kernels, &self.kv, out) };
        for (row, out) in rows.clone().zip(out.chunks_exact(width)) {
            // SAFETY: these heads in these rows are claimed by this member.
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

    /// A step that rounds what attention found, if it is still to be done.
    fn round_attended(&self, member: &Member<'_>, layer: &Layer<'_>) {
        if !layer.wo.ty.is_quantized() || self.rounds_heads(layer) {
            return;
        }
        let (buffers, elements) = (&self.buffers, self.batch.rows().len() * self.model.shape().q_dim());
        member.step(
            elements.div_ceil(32),
            || (),
            |(), units| {
                let some = items(units, 32, elements);
                // SAFETY: attention's output is only read in this step; these blocks are claimed by this member.
                unsafe { buffers.input.round(self.kernels, some.start, buffers.attended.read(some)) };
            },
        );
        self.meet(member, Step::Attention);
    }
}

/// A norm of some rows, for the step behind it.
struct Norm<'n, 'm> {
    pass: &'n Pass<'n, 'm>,
    member: &'n Member<'n>,
    weight: &'n [f32],
    /// Rows of the stream; all if absent.
    rows: Option<&'n [usize]>,
    count: usize,
    quantized: bool,
}

impl<'m> Norm<'_, 'm> {
    /// Whether each member computes it for itself, in memory of its own.
    fn is_alone(&self) -> bool {
        self.count <= FEW
    }

    /// Computes some of the rows, the first of which is at element `first` of the results.
    fn compute(&self, values: Shared<'m, f32>, blocks: Blocks<'m>, first: usize, rows: Range<usize>) {
        let Pass { model, kernels, buffers, .. } = self.pass;
        let (dim, eps) = (model.shape().dim, model.shape().norm_eps);
        for index in rows {
            let (from, to) = (self.rows.map_or(index, |rows| rows[index]) * dim, first + index * dim);
            // SAFETY: the stream is only read in this step; row `index` of the result is claimed by this member, or in
            // its own part.
            let out = unsafe {
                let (x, out) = (buffers.stream.read(from..from + dim), values.write(to..to + dim));
                kernels.rms_norm(x, self.weight, eps, out);
                out
            };
            if self.quantized {
                // SAFETY: as above. Rows of quantized matrices are whole blocks, so no block belongs to two rows.
                unsafe { blocks.round(kernels, to, out) };
            }
        }
    }

    /// The result as the kernels want it; for what begins the step behind.
    fn input(&self) -> Activations<'m> {
        let Pass { model, buffers, .. } = self.pass;
        let dim = model.shape().dim;
        let (values, blocks, first) = if self.is_alone() {
            let first = self.member.index * (buffers.own.len() / self.pass.tallies.len());
            self.compute(buffers.own, buffers.own_input, first, 0..self.count);
            self.pass.lap(self.member, Step::Norm);
            (buffers.own, buffers.own_input, first)
        } else {
            (buffers.normed, buffers.input, 0)
        };
        let elements = first..first + self.count * dim;
        let of_blocks = if self.quantized { elements.clone() } else { 0..0 };
        // SAFETY: in the step that uses them they are only read.
        unsafe {
            Activations {
                k: dim,
                positions: self.count,
                values: values.read(elements),
                blocks: blocks.read(of_blocks),
            }
        }
    }
}

/// The items in some units of `grain` items, of `all`.
fn items(units: Range<usize>, grain: usize, all: usize) -> Range<usize> {
    (units.start * grain).min(all)..(units.end * grain).min(all)
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
