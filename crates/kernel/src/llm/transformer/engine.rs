//! Memory, team and counters behind sessions and schedulers: what runs batches.

use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use super::batch::Batch;
use super::pass::Pass;
use super::profile::Profile;
use super::{RunError, TILES};
use crate::llm::arena::{Arena, ArenaError};
use crate::llm::kv_cache::KvCache;
use crate::llm::model::{Layer, Model};
use crate::llm::plan::{PlanError, SessionLayout, Shortfall};
use crate::llm::pool::Team;
use crate::llm::shared::Shared;
use crate::llm::simd::{ActivationBlocks, Kernels};

/// int8 blocks of rows: values, a scale for 32, sums of 16.
#[derive(Clone, Copy)]
pub(super) struct Blocks<'m> {
    q: Shared<'m, i8>,
    scale: Shared<'m, f32>,
    sum16: Shared<'m, i16>,
}

impl<'m> Blocks<'m> {
    fn take(arena: &mut Arena<'m>, elements: usize) -> Result<Self, ArenaError> {
        Ok(Blocks {
            q: Shared::new(arena.take(elements)?),
            scale: Shared::new(arena.take(elements / 32)?),
            sum16: Shared::new(arena.take(elements / 16)?),
        })
    }

    /// Whole blocks, to read.
    ///
    /// # Safety
    /// - No member writes any of them until the step has ended.
    pub unsafe fn read(&self, elements: Range<usize>) -> ActivationBlocks<'m> {
        let [scale, sum16] = [32, 16].map(|step| elements.start / step..elements.end / step);
        // SAFETY: as the caller promises.
        unsafe {
            ActivationBlocks {
                q: self.q.read(elements),
                scale: self.scale.read(scale),
                sum16: self.sum16.read(sum16),
            }
        }
    }

    /// Rounds `x` to the whole blocks from element `first` on.
    ///
    /// # Safety
    /// - No other member reads or writes any of them until the step has ended.
    pub unsafe fn round(&self, kernels: &Kernels, first: usize, x: &[f32]) {
        let elements = first..first + x.len();
        let [scale, sum16] = [32, 16].map(|step| elements.start / step..elements.end / step);
        // SAFETY: as the caller promises.
        let (q, scale, sum16) =
            unsafe { (self.q.write(elements), self.scale.write(scale), self.sum16.write(sum16)) };
        kernels.quantize_activations(x, q, scale, sum16);
    }
}

/// What a pass writes to; see [`SessionLayout`] for the shapes.
#[derive(Clone, Copy)]
pub(super) struct Buffers<'m> {
    pub stream: Shared<'m, f32>,
    pub normed: Shared<'m, f32>,
    /// `normed` or `attended`, whichever the next product takes.
    pub input: Blocks<'m>,
    /// A part for each member, which no other touches.
    pub own: Shared<'m, f32>,
    pub own_input: Blocks<'m>,
    pub query: Shared<'m, f32>,
    pub attended: Shared<'m, f32>,
    pub hidden: Shared<'m, f32>,
    pub hidden_input: Blocks<'m>,
    pub logits: Shared<'m, f32>,
    pub tiles: Shared<'m, f32>,
    pub cos: Shared<'m, f32>,
    pub sin: Shared<'m, f32>,
}

impl<'m> Buffers<'m> {
    fn take(arena: &mut Arena<'m>, layout: &SessionLayout, members: usize) -> Result<Self, ArenaError> {
        Ok(Buffers {
            stream: Shared::new(arena.take(layout.stream)?),
            normed: Shared::new(arena.take(layout.normed)?),
            input: Blocks::take(arena, layout.q8)?,
            own: Shared::new(arena.take(layout.own * members)?),
            own_input: Blocks::take(arena, layout.own * members)?,
            query: Shared::new(arena.take(layout.query)?),
            attended: Shared::new(arena.take(layout.query)?),
            hidden: Shared::new(arena.take(layout.hidden)?),
            hidden_input: Blocks::take(arena, layout.hidden_q8)?,
            logits: Shared::new(arena.take(layout.logits)?),
            tiles: Shared::new(arena.take(layout.tile * TILES * members)?),
            cos: Shared::new(arena.take(layout.angles)?),
            sin: Shared::new(arena.take(layout.angles)?),
        })
    }
}

/// What a member has done, in cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Tally {
    /// Bytes of matrix rows read.
    bytes: AtomicU64,
    /// Products, matrix rows times positions.
    products: AtomicU64,
}

impl Tally {
    /// To be called by the member alone, so nothing is lost between reading and writing.
    pub fn add(&self, bytes: u64, products: usize) {
        for (count, more) in [(&self.bytes, bytes), (&self.products, products as u64)] {
            count.store(count.load(Ordering::Relaxed) + more, Ordering::Relaxed);
        }
    }
}

/// Runs batches of rows of several sequences.
///
/// All memory is taken at construction; nothing allocates afterwards. Who uses it decides which rows to run and which
/// pages of the cache belong to which sequence.
pub(crate) struct Engine<'m> {
    /// Bytes of the memory lent that are in use: all of them from the start.
    pub memory_used: usize,
    pub model: &'m Model<'m>,
    pub kernels: &'static Kernels,
    pub team: &'m dyn Team,
    /// The rows of the next pass.
    pub batch: Batch,
    /// Pages of each sequence, `[slot][pages_each]`.
    pub tables: &'m mut [u32],
    pages_each: usize,
    window: usize,
    kv: KvCache<'m>,
    buffers: Buffers<'m>,
    embedding_bytes: u64,
    /// Elements of the layers' matrices.
    layer_elements: u64,
    tallies: Vec<Tally>,
    /// Counts time, where that is wanted.
    pub profile: Option<Profile>,
}

impl<'m> Engine<'m> {
    /// Takes all memory of `layout` out of `memory`. A position sees itself and the `window - 1` before it.
    pub fn new(
        model: &'m Model<'_>,
        layout: &SessionLayout,
        window: usize,
        kernels: &'static Kernels,
        team: &'m dyn Team,
        memory: &'m mut [u8],
    ) -> Result<Self, PlanError> {
        if model.packed_rows() != 1 && kernels.packed_rows() != Some(model.packed_rows()) {
            return Err(PlanError::BadConfig("the model is packed for other kernels"));
        }
        let members = team.size();
        let available = memory.len() as u64;
        let needed = layout
            .kv_bytes()
            .zip(layout.scratch_bytes(members))
            .and_then(|(kv, scratch)| kv.checked_add(scratch))
            .ok_or(PlanError::Overflow)?;
        if available < needed {
            return Err(PlanError::Short(Shortfall { needed, available }));
        }
        let mut arena = Arena::new(memory);
        let short = |_: ArenaError| PlanError::Short(Shortfall { needed: available + 1, available });
        let elements = layout.kv.elements().ok_or(PlanError::Overflow)?;
        let keys = arena.take(elements).map_err(short)?;
        let values = arena.take(elements).map_err(short)?;
        let buffers = Buffers::take(&mut arena, layout, members).map_err(short)?;
        let tables = arena.take(layout.sequences * layout.pages_each).map_err(short)?;
        let memory_used = available as usize - arena.size();
        Ok(Engine {
            memory_used,
            model,
            kernels,
            team,
            batch: Batch::with_capacity(layout.batch, layout.sequences),
            tables,
            pages_each: layout.pages_each,
            window,
            kv: KvCache::new(layout.kv, keys, values),
            buffers,
            embedding_bytes: 0,
            layer_elements: layer_elements(model),
            tallies: (0..members).map(|_| Tally::default()).collect(),
            profile: None,
        })
    }

    /// Bytes that [`Self::new`] allocates besides the memory it is lent.
    pub fn bookkeeping(layout: &SessionLayout, members: usize) -> u64 {
        Batch::bytes(layout.batch, layout.sequences) + (members * size_of::<Tally>()) as u64
    }

    /// Runs the batch: one pass over the weights.
    ///
    /// Its rows are right by the caller's care: ids in the vocabulary, positions in pages of their own sequence, each
    /// position once and in order.
    pub fn run(&mut self) {
        let pass = Pass {
            model: self.model,
            kernels: self.kernels,
            kv: self.kv,
            buffers: self.buffers,
            batch: &self.batch,
            tables: self.tables,
            pages_each: self.pages_each,
            window: self.window,
            tallies: &self.tallies,
            profile: self.profile.as_ref(),
        };
        self.team.run_measured(self.operations(), &|member| pass.run(&member));
        self.embedding_bytes += (self.batch.rows().len() * self.model.embedding.row_bytes()) as u64;
    }

    /// Multiplications of the pass over the batch: by weights, and by keys and values.
    fn operations(&self) -> u64 {
        let (shape, rows) = (self.model.shape(), self.batch.rows());
        let seen: usize = rows.iter().map(|row| self.window.min(row.position + 1)).sum();
        let attention = 2 * shape.n_layers * shape.q_dim() * seen;
        let layers = rows.len() as u64 * self.layer_elements;
        layers + attention as u64 + (self.batch.wanted().len() * shape.dim * shape.vocab_size) as u64
    }

    /// Logits of the rows of the last batch that wanted them, `[wanted × vocab]`.
    pub fn logits(&self) -> &[f32] {
        // SAFETY: no team runs outside `run`, which cannot start while the result borrows the engine.
        unsafe { self.buffers.logits.read(0..self.batch.wanted().len() * self.model.shape().vocab_size) }
    }

    /// Bytes of matrix rows read by all passes so far, each row once for 64 positions of a pass, embedding rows not
    /// included.
    pub fn weight_bytes_read(&self) -> u64 {
        self.tallies.iter().map(|tally| tally.bytes.load(Ordering::Relaxed)).sum()
    }

    /// Bytes of embedding rows looked up so far, one row a token.
    pub fn embedding_bytes_read(&self) -> u64 {
        self.embedding_bytes
    }

    /// Products (matrix rows times positions) that each member of the team has computed.
    pub fn work_units(&self) -> impl Iterator<Item = u64> + '_ {
        self.tallies.iter().map(|tally| tally.products.load(Ordering::Relaxed))
    }
}

fn layer_elements(model: &Model<'_>) -> u64 {
    let matrices = |layer: &Layer<'_>| {
        let all = [&layer.wq, &layer.wk, &layer.wv, &layer.wo, &layer.gate, &layer.up, &layer.down];
        all.map(|matrix| matrix.rows as u64 * matrix.k as u64).iter().sum::<u64>()
    };
    model.layers.iter().map(matrices).sum()
}

/// The logits, if the model computed numbers.
pub(crate) fn finite(logits: &[f32]) -> Result<&[f32], RunError> {
    // Pieces are looked at as a whole, which takes a quarter of the time of a look at each.
    for (piece, some) in logits.chunks(64).enumerate() {
        if some.iter().fold(false, |bad, logit| bad | !logit.is_finite()) {
            let index = some.iter().position(|logit| !logit.is_finite()).expect("one of them is not");
            return Err(RunError::NonFinite { index: 64 * piece + index });
        }
    }
    Ok(logits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_is_not_finite_is_found() {
        for len in [1, 63, 64, 65, 200] {
            let mut logits = alloc::vec![1.0f32; len];
            assert_eq!(finite(&logits), Ok(&logits[..]));
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for index in [len - 1, len / 2, 0] {
                    logits[index] = bad;
                    assert_eq!(finite(&logits), Err(RunError::NonFinite { index }), "{len}");
                }
                logits.fill(-2.0);
            }
        }
    }
}
