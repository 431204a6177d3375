//! Tensor operations in f32: what a transformer is made of, one by one, for callers that have tensors and no model file.
//!
//! - [`View`] and [`ViewMut`] are matrices in borrowed memory.
//! - `matmul`: products of matrices, one or many, and of a matrix with a vector.
//!
//! [`Operations`] is a table of kernels for one instruction set. All tables give the same bits, with any number of workers:
//! every sum has one order, written beside its operation. Nothing allocates but [`Scratch::new`]. Sizes that do not agree are an
//! [`OperationError`] before anything is written; empty matrices are fine; NaN and infinities go through as IEEE 754 says.

use core::fmt;

mod matmul;
mod view;

pub use super::simd::operations::Operations;
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
