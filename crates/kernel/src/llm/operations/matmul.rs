//! Products of matrices.
//!
//! Both sides are packed: the right one a block of `k` by columns at a time, by the whole team, the left one a block of
//! rows by `k`, by the member whose rows they are. Sums that go over several blocks of `k` are kept in the result between them,
//! which changes no bit. So element `(i, j)` is one sum, `fma(a[i][k], b[k][j], sum)` in the order of `k`, from zero.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use super::{OperationError, Operations, View, ViewMut, agree};
use crate::llm::pool::{Member, Team};
use crate::llm::shared::Shared;
use crate::llm::simd::operations::{Block, STEP};

/// Most terms that are packed at a time.
const TERMS: usize = 256;
/// Most rows of the left side that are packed at a time: with [`TERMS`], a quarter of a megabyte.
const ROWS: usize = 240;
/// Most columns of the right side that are packed at a time: with [`TERMS`], one and a half megabytes.
const COLUMNS: usize = 1536;
/// Most rows of a tile.
const TILE_ROWS: usize = 16;

/// Elements of the packed left side, of one member.
const LEFT: usize = TERMS * (ROWS + TILE_ROWS);
/// Elements of the packed right side.
const RIGHT: usize = TERMS * (COLUMNS + STEP);

/// A cache line, which no load of a register then crosses.
#[derive(Clone, Copy)]
#[repr(align(64))]
#[allow(dead_code, reason = "read as a slice of floats")]
struct Line([f32; 16]);

/// Memory that products are packed in.
pub struct Scratch {
    memory: Vec<Line>,
    members: usize,
}

impl core::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Scratch").field("members", &self.members).finish_non_exhaustive()
    }
}

impl Scratch {
    /// Scratch for a team of up to `members`.
    pub fn new(members: usize) -> Self {
        Scratch { memory: vec![Line([0.0; 16]); Self::bytes(members) / 64], members }
    }

    /// Bytes it takes.
    pub const fn bytes(members: usize) -> usize {
        4 * (RIGHT + members * LEFT)
    }

    /// The right side, and each member's left side.
    fn parts(&mut self) -> (&mut [f32], &mut [f32]) {
        // SAFETY: a line is sixteen floats without anything between or behind them.
        let floats = unsafe {
            core::slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast::<f32>(), self.memory.len() * 16)
        };
        floats.split_at_mut(RIGHT)
    }
}

impl Operations {
    /// `out = a b`, by the whole team. Sums that have no term are zero.
    ///
    /// # Errors
    /// Where shapes do not agree, or `scratch` is for a smaller team.
    pub fn matmul(
        &self,
        team: &dyn Team,
        a: View<'_>,
        b: View<'_>,
        out: ViewMut<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), OperationError> {
        agree("rows of the right side", a.columns(), b.rows())?;
        agree("rows of the result", a.rows(), out.rows)?;
        agree("columns of the result", b.columns(), out.columns)?;
        if scratch.members < team.size() {
            return Err(OperationError::Scratch { members: scratch.members, team: team.size() });
        }
        if out.rows == 0 || out.columns == 0 {
            return Ok(());
        }
        let (right, left) = scratch.parts();
        let (right, left) = (Shared::new(right), Shared::new(left));
        let row_step = out.row_step;
        let result = Shared::new(out.data);
        team.run(&|member| {
            // SAFETY: this member's alone, in this and every job.
            let left = unsafe { left.write(member.index * LEFT..(member.index + 1) * LEFT) };
            let rows = member.share(a.rows(), self.product.rows);
            let result = match rows.len() {
                0 => &mut [][..],
                _ => {
                    let end = (rows.end - 1) * row_step + b.columns();
                    // SAFETY: rows do not overlap, and no other member has these.
                    unsafe { result.write(rows.start * row_step..end) }
                }
            };
            self.share(member, a.part(rows, 0..a.columns()), b, (result, row_step), left, right);
        });
        Ok(())
    }

    /// A member's rows of a product.
    fn share(
        &self,
        member: Member<'_>,
        a: View<'_>,
        b: View<'_>,
        (out, row_step): (&mut [f32], usize),
        left: &mut [f32],
        right: Shared<'_, f32>,
    ) {
        if b.rows() == 0 {
            for row in out.chunks_mut(row_step.max(1)) {
                let columns = b.columns().min(row.len());
                row[..columns].fill(0.0);
            }
            return;
        }
        let product = &self.product;
        for columns in pieces(b.columns(), COLUMNS, product.columns) {
            for terms in pieces(b.rows(), TERMS, 1) {
                let k = terms.len();
                // Whole panels of it are packed by one member each.
                let packed = columns.len().next_multiple_of(STEP) * k;
                let mine = member.share(columns.len(), product.columns);
                member.barrier();
                if !mine.is_empty() {
                    let part = b.part(terms.clone(), columns.start + mine.start..columns.start + mine.end);
                    let end = mine.start * k + mine.len().next_multiple_of(STEP) * k;
                    // SAFETY: shares are whole panels and do not overlap; nobody reads before the barrier.
                    let to = unsafe { right.write(mine.start * k..end) };
                    // SAFETY: the CPU has this table's instructions.
                    unsafe { (product.pack_right)(part, to) };
                }
                member.barrier();
                // SAFETY: packed, and not written again before the barrier above.
                let right = unsafe { right.read(0..packed) };
                for rows in pieces(a.rows(), ROWS, product.rows) {
                    let left = &mut left[..rows.len().next_multiple_of(product.rows) * k];
                    let out = &mut out[rows.start * row_step + columns.start..];
                    let part = a.part(rows.clone(), terms.clone());
                    let block = Block {
                        left: {
                            // SAFETY: the CPU has this table's instructions.
                            unsafe { (product.pack_left)(part, left) };
                            left
                        },
                        right,
                        k,
                        rows: rows.len(),
                        columns: columns.len(),
                        row_step,
                        first: terms.start == 0,
                    };
                    // SAFETY: the CPU has this table's instructions.
                    unsafe { (product.block)(&block, out) };
                }
            }
        }
    }
}

/// `0..n` in pieces of about the same length, `most` at most and a multiple of `grain`, which divides `most`; the last one
/// may be shorter.
fn pieces(n: usize, most: usize, grain: usize) -> impl Iterator<Item = Range<usize>> {
    let count = n.div_ceil(most).max(1);
    let length = n.div_ceil(count).next_multiple_of(grain).max(1);
    (0..n).step_by(length).map(move |start| start..(start + length).min(n))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::math::fma;
    use crate::llm::pool::Solo;

    /// Numbers of both signs whose sums round.
    fn wave(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| (((i + seed) * 7919 % 1009) as f32 - 504.0) / 97.0).collect()
    }

    fn reference(a: View<'_>, b: View<'_>) -> Vec<f32> {
        let mut out = Vec::new();
        for i in 0..a.rows() {
            for j in 0..b.columns() {
                out.push((0..b.rows()).fold(0.0, |sum, k| fma(a.at(i, k), b.at(k, j), sum)));
            }
        }
        out
    }

    fn bits(x: &[f32]) -> Vec<u32> {
        x.iter().map(|x| x.to_bits()).collect()
    }

    #[test]
    fn every_table_gives_the_one_sum_in_order() {
        let mut scratch = Scratch::new(1);
        for [m, n, k] in [
            [1, 1, 1],
            [8, 48, 16],
            [7, 47, 5],
            [13, 33, 17],
            [16, 96, 300],
            [250, 20, 3],
            [3, 1600, 2],
            [9, 49, 513],
            [24, 64, 64],
        ] {
            let (a, b) = (wave(m * k, 1), wave(k * n, 2));
            let (a, b) = (View::new(&a, m, k).unwrap(), View::new(&b, k, n).unwrap());
            let expected = reference(a, b);
            for operations in Operations::available() {
                let mut out = vec![f32::NAN; m * n];
                let to = ViewMut::new(&mut out, m, n).unwrap();
                operations.matmul(&Solo, a, b, to, &mut scratch).unwrap();
                assert_eq!(bits(&out), bits(&expected), "{} {m}x{n}x{k}", operations.name);
            }
        }
    }
}
