//! Tensor operations in f32: what a transformer is made of, one by one, for callers that have tensors and no model file.
//!
//! - [`View`] and [`ViewMut`] are matrices in borrowed memory.
//! - `matmul`: products of matrices, one or many, and of a matrix with a vector.
//! - `attention`: heads of queries against keys and values, fused and in steps.
//! - `elements`: a [`Function`] of every element, also with a bias or a second operand.
//! - `norms`: normalization and softmax of rows.
//!
//! [`Operations`] is a table of kernels for one instruction set. All tables give the same bits, with any number of workers:
//! every sum has one order, written beside its operation. Nothing allocates but [`Scratch::new`]. Memory of operands
//! cannot overlap that of results, since Rust lends it so; what may work in place says so. Sizes that do not agree are an
//! [`OperationError`] before anything is written; empty matrices are fine; NaN and infinities go through as IEEE 754 says.

use core::fmt;
use core::ops::Range;

use super::pool::Team;
use super::shared::Shared;

mod attention;
mod elements;
mod matmul;
mod norms;
mod view;

pub use super::simd::operations::{Function, Operations};
pub use attention::{Attention, MOST_HEAD_DIM};
pub use matmul::Scratch;
pub use view::{View, ViewMut};

/// Why an operation was refused; nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationError {
    /// Two sizes that must be equal are not.
    Shape {
        /// Which.
        what: &'static str,
        /// What it must be, from the operands before.
        expected: usize,
        /// What it is.
        found: usize,
    },
    /// A view reaches behind its memory, of `len` elements.
    OutOfBounds {
        /// Elements there are.
        len: usize,
    },
    /// Rows of a result would lie over each other.
    Overlap {
        /// From one row to the next.
        row_step: usize,
        /// Elements of a row.
        columns: usize,
    },
    /// Neighbors in a row of the matrix do not lie one after the other, which this operation needs.
    Apart {
        /// From one to the next.
        column_step: usize,
    },
    /// Query heads do not divide evenly among heads of keys and values.
    Heads {
        /// Of queries.
        heads: usize,
        /// Of keys and values.
        kv_heads: usize,
    },
    /// A head is wider than scratch has room for.
    HeadTooWide {
        /// Its elements.
        head_dim: usize,
    },
    /// Bytes that are no f32: they do not start at a multiple of four, or are no multiple of four.
    Misaligned,
    /// The scratch memory was made for a smaller team.
    Scratch {
        /// Members it was made for.
        members: usize,
        /// Members the team has.
        team: usize,
    },
}

impl fmt::Display for OperationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape { what, expected, found } => write!(f, "{what}: {found}, must be {expected}"),
            Self::OutOfBounds { len } => write!(f, "the view reaches behind its {len} elements"),
            Self::Overlap { row_step, columns } => {
                write!(f, "rows of {columns} every {row_step} elements would overlap in the result")
            }
            Self::Apart { column_step } => {
                write!(
                    f,
                    "neighbors in a row are {column_step} elements apart, must be 1: copy, or use `matmul`"
                )
            }
            Self::Heads { heads, kv_heads } => {
                write!(f, "{heads} query heads do not divide evenly among {kv_heads} of keys and values")
            }
            Self::HeadTooWide { head_dim } => {
                write!(f, "heads of {head_dim} elements; {MOST_HEAD_DIM} is the most")
            }
            Self::Misaligned => f.write_str("bytes must start and end at a multiple of 4 to be f32"),
            Self::Scratch { members, team } => {
                write!(f, "scratch is for {members} members, the team has {team}: make it larger")
            }
        }
    }
}

impl core::error::Error for OperationError {}

/// An error unless `found` is `expected`.
fn agree(what: &'static str, expected: usize, found: usize) -> Result<(), OperationError> {
    if expected == found { Ok(()) } else { Err(OperationError::Shape { what, expected, found }) }
}

/// Runs `job` on pieces of `out`, in units of `grain` elements; the team shares them.
fn spread(team: &dyn Team, out: &mut [f32], grain: usize, job: &(dyn Fn(Range<usize>, &mut [f32]) + Sync)) {
    let len = out.len();
    let out = Shared::new(out);
    team.run(&|member| {
        let piece = |(): &mut (), units: Range<usize>| {
            let piece = units.start * grain..(units.end * grain).min(len);
            // SAFETY: what members claim does not overlap.
            job(piece.clone(), unsafe { out.write(piece) });
        };
        member.step(len.div_ceil(grain), || (), piece);
    });
}

/// The f32 in `bytes`, without a copy.
///
/// # Errors
/// [`OperationError::Misaligned`] unless address and length are multiples of four.
pub fn floats(bytes: &[u8]) -> Result<&[f32], OperationError> {
    // SAFETY: every four bytes are an f32.
    match unsafe { bytes.align_to::<f32>() } {
        ([], floats, []) => Ok(floats),
        _ => Err(OperationError::Misaligned),
    }
}

#[cfg(test)]
mod tests {
    //! What the tests of all operations share.

    extern crate std;

    use super::*;
    use crate::llm::pool::Solo;
    use crate::llm::pool::tests::Threads;
    use alloc::vec::Vec;

    /// One, two and three members.
    pub(super) const TEAMS: &[&dyn Team] = &[&Solo, &Threads(2), &Threads(3)];

    /// Numbers of both signs up to 5.2, whose sums round.
    pub(super) fn wave(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| (((i + 31 * seed) * 7919 % 1009) as f32 - 504.0) / 97.0).collect()
    }

    /// Numbers of all magnitudes, the edges of functions among them.
    pub(super) fn with_edges(n: usize) -> Vec<f32> {
        const EDGES: [f32; 14] = [
            0.0,
            -0.0,
            1e-40,
            -1e-40,
            f32::MIN_POSITIVE,
            f32::MAX,
            f32::MIN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            88.7,
            -87.4,
            9.02,
            -5.5,
        ];
        (0..n)
            .map(|i| match i % 3 {
                0 => EDGES[i / 3 % EDGES.len()],
                1 => (i as f32 - n as f32 / 2.0) / 50.0,
                _ => f32::from_bits((i as u32).wrapping_mul(0x9e37_79b9)),
            })
            .collect()
    }

    /// The same bits, or both NaN.
    #[track_caller]
    pub(super) fn floats_agree(found: &[f32], expected: &[f32], name: &str) {
        assert_eq!(found.len(), expected.len());
        for (i, (a, b)) in found.iter().zip(expected).enumerate() {
            assert!(
                a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()),
                "{name} at {i}: {a:e}, not {b:e}"
            );
        }
    }
}
