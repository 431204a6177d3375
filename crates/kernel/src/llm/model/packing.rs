//! A model's matrices in the layout of a table of kernels: checked and packed by a whole team in one read of the file.

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::{Layer, Model, ModelError, TensorName};
use crate::llm::plan::Shortfall;
use crate::llm::pool::{Solo, Team};
use crate::llm::quant;
use crate::llm::shared::Shared;
use crate::llm::simd::Kernels;
use crate::llm::tensor::Matrix;

/// Packed matrices start on such boundaries.
const ALIGNMENT: u64 = 64;

/// Bytes that a member takes at a time: few enough to share evenly, enough that what is done once for each costs nothing.
const PIECE: usize = 1 << 20;

/// Bytes from the start of a packed matrix to the next one's.
fn packed_size(bytes: u64) -> u64 {
    bytes.div_ceil(ALIGNMENT).saturating_mul(ALIGNMENT)
}

/// Memory for packed matrices of these sizes, the gap before the first included.
pub(crate) fn packed_bytes(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(ALIGNMENT, |sum, size| sum.saturating_add(packed_size(size)))
}

/// Why a model could not be packed.
#[derive(Clone, Debug, PartialEq)]
pub enum PackError {
    /// The memory for the copy is too small.
    Short(Shortfall),
    /// A matrix holds a scale that is infinite or not a number.
    Model(ModelError),
}

impl fmt::Display for PackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short(shortfall) => shortfall.fmt(f),
            Self::Model(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for PackError {}

/// A matrix to read once: its name, itself, and where its copy goes.
struct Job<'a> {
    name: TensorName,
    matrix: Matrix<'a>,
    to: Option<usize>,
}

impl Job<'_> {
    /// Its rows in pieces that start at groups of `group` rows.
    fn pieces(&self, group: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let (rows, row_bytes) = (self.matrix.rows, self.matrix.row_bytes());
        let step = (PIECE / row_bytes / group).max(1) * group;
        (0..rows).step_by(step).map(move |first| first..rows.min(first + step))
    }
}

const LAYER_PARTS: [&str; 7] = [
    "attn_q.weight",
    "attn_k.weight",
    "attn_v.weight",
    "attn_output.weight",
    "ffn_gate.weight",
    "ffn_up.weight",
    "ffn_down.weight",
];

impl<'a> Model<'a> {
    /// Bytes of memory that [`Self::packed`] asks for: every matrix of a product once, none if `kernels` work on the
    /// file's layout.
    pub fn packed_bytes(&self, kernels: &Kernels) -> u64 {
        if kernels.packed_rows().is_none() {
            return 0;
        }
        let matrices = self.layers.iter().flat_map(Layer::matrices).chain([&self.head]);
        packed_bytes(matrices.map(|matrix| matrix.data().len() as u64))
    }

    /// The same model with its matrices in the layout of `kernels`, written to `memory` of
    /// [`Self::packed_bytes`] bytes; rows of an embedding that is not the head are still read from the file.
    ///
    /// If `kernels` work on the file's layout, nothing is copied but norms, and `memory` may be empty.
    ///
    /// # Errors
    /// By how much `memory` is too small.
    pub fn packed<'b>(&self, kernels: &Kernels, memory: &'b mut [u8]) -> Result<Model<'b>, Shortfall>
    where
        'a: 'b,
    {
        let jobs = self.jobs(kernels, memory)?;
        self.pack(kernels, memory, &jobs, &Solo, |_, _| Ok(()), &|_| {}).map_err(|error| match error {
            PackError::Short(shortfall) => shortfall,
            PackError::Model(_) => unreachable!("nothing was checked"),
        })
    }

    /// [`Self::packed`] by all members of `team`, with every matrix checked for scales that are not finite as
    /// [`LoadConfig::check_weights`](super::LoadConfig::check_weights) does: both in one read of the file.
    ///
    /// `done` hears of bytes of the file that have been packed. Nothing reads them again, so that it may give their
    /// memory back.
    ///
    /// # Errors
    /// By how much `memory` is too small, or the first matrix of the file's order that is damaged.
    pub fn packed_by<'b>(
        &self,
        kernels: &Kernels,
        memory: &'b mut [u8],
        team: &dyn Team,
        done: &(dyn Fn(&[u8]) + Sync),
    ) -> Result<Model<'b>, PackError>
    where
        'a: 'b,
    {
        let mut jobs = self.jobs(kernels, memory).map_err(PackError::Short)?;
        if !self.tied {
            let name = TensorName { layer: None, part: "token_embd.weight" };
            jobs.push(Job { name, matrix: self.embedding, to: None });
        }
        let check = |job: &Job<'_>, rows: Range<usize>| {
            let (ty, first) =
                (job.matrix.ty, rows.start * job.matrix.row_bytes() / job.matrix.ty.block_bytes());
            quant::check_scales(ty, job.matrix.row_data(rows)).map_err(|bad| (first + bad.block) as u64)
        };
        self.pack(kernels, memory, &jobs, team, check, done)
    }

    /// All matrices of products, and where their copies go if `kernels` have a layout of their own.
    fn jobs(&self, kernels: &Kernels, memory: &[u8]) -> Result<Vec<Job<'a>>, Shortfall> {
        let (needed, available) = (self.packed_bytes(kernels), memory.len() as u64);
        if available < needed {
            return Err(Shortfall { needed, available });
        }
        let mut at = memory.as_ptr().align_offset(ALIGNMENT as usize).min(memory.len());
        let mut job = |layer, part, matrix: &Matrix<'a>| {
            let to = kernels.packed_rows().map(|_| at);
            at += packed_size(matrix.data().len() as u64) as usize;
            Job { name: TensorName { layer, part }, matrix: *matrix, to }
        };
        let mut jobs = Vec::with_capacity(self.layers.len() * LAYER_PARTS.len() + 2);
        for (index, layer) in self.layers.iter().enumerate() {
            for (part, matrix) in LAYER_PARTS.into_iter().zip(layer.matrices()) {
                jobs.push(job(Some(index), part, matrix));
            }
        }
        jobs.push(job(None, if self.tied { "token_embd.weight" } else { "output.weight" }, &self.head));
        Ok(jobs)
    }

    fn pack<'b>(
        &self,
        kernels: &Kernels,
        memory: &'b mut [u8],
        jobs: &[Job<'a>],
        team: &dyn Team,
        check: impl Fn(&Job<'_>, Range<usize>) -> Result<(), u64> + Sync,
        done: &(dyn Fn(&[u8]) + Sync),
    ) -> Result<Model<'b>, PackError>
    where
        'a: 'b,
    {
        let group = kernels.packed_rows().unwrap_or(1);
        let memory = Shared::new(memory);
        // The next piece that nobody has taken, and the first damage: job and block.
        let (next, damage) = (AtomicUsize::new(0), AtomicU64::new(u64::MAX));
        team.run(&|_| {
            let mut mine = next.fetch_add(1, Ordering::Relaxed);
            let mut piece = 0;
            for (index, job) in jobs.iter().enumerate() {
                for rows in job.pieces(group) {
                    piece += 1;
                    if piece - 1 != mine {
                        continue;
                    }
                    mine = next.fetch_add(1, Ordering::Relaxed);
                    if let Err(block) = check(job, rows.clone()) {
                        damage.fetch_min((index as u64) << 40 | block, Ordering::Relaxed);
                    }
                    let Some(to) = job.to else { continue };
                    let bytes = job.matrix.row_data(rows.clone());
                    let to = to + rows.start * job.matrix.row_bytes();
                    // SAFETY: a piece is taken once, and pieces do not overlap.
                    let out = unsafe { memory.write(to..to + bytes.len()) };
                    kernels.pack(job.matrix.ty, job.matrix.k, bytes, out);
                    done(bytes);
                }
            }
        });
        let damage = damage.into_inner();
        if damage != u64::MAX {
            let (job, block) = (&jobs[(damage >> 40) as usize], (damage & ((1 << 40) - 1)) as usize);
            return Err(PackError::Model(ModelError::NonFinite { tensor: job.name, block }));
        }
        let mut packed = jobs.iter().map(|job| -> Matrix<'b> {
            let Some(to) = job.to else { return job.matrix };
            // SAFETY: the team has finished, and nobody writes to the copy any more.
            let copy = unsafe { memory.read(to..to + job.matrix.data().len()) };
            job.matrix.with_packed(group, copy)
        });
        let mut next = || packed.next().expect("as many matrices as jobs");
        let layers = self.layers.iter().map(|layer| Layer {
            attn_norm: layer.attn_norm.clone(),
            wq: next(),
            wk: next(),
            wv: next(),
            wo: next(),
            ffn_norm: layer.ffn_norm.clone(),
            gate: next(),
            up: next(),
            down: next(),
        });
        let layers = layers.collect();
        let head = next();
        Ok(Model {
            shape: self.shape,
            layers,
            embedding: if self.tied { head } else { self.embedding },
            head,
            output_norm: self.output_norm.clone(),
            rope_frequencies: self.rope_frequencies.clone(),
            ..*self
        })
    }
}
