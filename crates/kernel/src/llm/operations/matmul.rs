//! Products of matrices.
//!
//! The right side is packed, a block of `k` by columns at a time, by the whole team; the left one, where its rows are not in one
//! piece each, a block of rows by `k`, by the member that has claimed them. Sums that go over several blocks of `k` are kept in the
//! result between them, which changes no bit. So element `(i, j)` is one sum, `fma(a[i][k], b[k][j], sum)` in the order of `k`,
//! from zero.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use super::{OperationError, Operations, View, ViewMut, agree};
use crate::llm::pool::{Member, Team};
use crate::llm::shared::Shared;
use crate::llm::simd::operations::{Block, Left, STEP};

/// Most terms that are packed at a time where the left side is packed too.
const TERMS: usize = 256;
/// Most rows of the left side that are packed at a time: with [`TERMS`], a quarter of a megabyte.
const ROWS: usize = 240;
/// Most columns of the right side that are packed at a time: with [`TERMS`], one and a half megabytes. Many, so that what the left
/// side's packing takes is little beside the product.
const COLUMNS: usize = 1536;
/// Most terms that are packed at a time where the left side is taken where it lies: the result is read and written once for as many.
const LONG: usize = 1024;
/// Most elements of the right side that are packed at a time there: half a megabyte, which stays in a core's own cache while all
/// rows pass by.
const NEAR: usize = 1 << 17;
/// Most rows of a tile.
const TILE_ROWS: usize = 16;

/// Elements of the packed left side, of one member.
pub(super) const LEFT: usize = TERMS * (ROWS + TILE_ROWS);
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

    /// An error if the team is larger than it was made for.
    pub(super) fn check(&self, team: &dyn Team) -> Result<(), OperationError> {
        let (members, team) = (self.members, team.size());
        if members < team { Err(OperationError::Scratch { members, team }) } else { Ok(()) }
    }

    /// The right side, and each member's left side.
    pub(super) fn parts(&mut self) -> (&mut [f32], &mut [f32]) {
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
        scratch.check(team)?;
        if out.rows == 0 || out.columns == 0 {
            return Ok(());
        }
        let (right, left) = scratch.parts();
        let (right, left) = (Shared::new(right), Shared::new(left));
        let row_step = out.row_step;
        let result = Shared::new(out.data);
        team.run(&|member| self.share(&member, a, b, (result, row_step), left, right));
        Ok(())
    }

    /// `out[i] = a[i] b[i]` for `count` pairs of matrices of the same shape, one after the other in memory: `a` is `m × k`,
    /// `b` is `k × n`. Each product has the bits of [`Self::matmul`].
    ///
    /// The team shares each product; a call takes all of them, so that shapes are looked at once.
    ///
    /// # Errors
    /// Where shapes do not agree, or `scratch` is for a smaller team.
    #[allow(clippy::too_many_arguments, reason = "an operation's operands")]
    pub fn batched_matmul(
        &self,
        team: &dyn Team,
        count: usize,
        [m, n, k]: [usize; 3],
        a: &[f32],
        b: &[f32],
        out: &mut [f32],
        scratch: &mut Scratch,
    ) -> Result<(), OperationError> {
        let size = |rows: usize, columns: usize| count.saturating_mul(rows.saturating_mul(columns));
        agree("elements of the left sides", size(m, k), a.len())?;
        agree("elements of the right sides", size(k, n), b.len())?;
        agree("elements of the results", size(m, n), out.len())?;
        scratch.check(team)?;
        for i in 0..count {
            let (a, b) =
                (View::new(&a[i * m * k..][..m * k], m, k)?, View::new(&b[i * k * n..][..k * n], k, n)?);
            let out = ViewMut::new(&mut out[i * m * n..][..m * n], m, n)?;
            self.matmul(team, a, b, out, scratch)?;
        }
        Ok(())
    }

    /// `out = a x`: row by row, in 64 virtual lanes by fma and a fixed tree; so bits are not those of a product with a matrix
    /// of one column.
    ///
    /// # Errors
    /// Where shapes do not agree, or neighbors in a row of `a` do not lie one after the other.
    pub fn matvec(
        &self,
        team: &dyn Team,
        a: View<'_>,
        x: &[f32],
        out: &mut [f32],
    ) -> Result<(), OperationError> {
        agree("elements of the vector", a.columns(), x.len())?;
        agree("elements of the result", a.rows(), out.len())?;
        let (data, row_step, column_step) = a.memory();
        if column_step != 1 && a.columns() > 1 {
            return Err(OperationError::Apart { column_step });
        }
        if x.is_empty() {
            out.fill(0.0);
            return Ok(());
        }
        super::spread(team, out, 4, &|share, out| {
            // SAFETY: the CPU has this table's instructions; the rows are inside the view.
            unsafe { (self.matvec)(&data[share.start * row_step..], row_step, x, out) }
        });
        Ok(())
    }

    /// A member's part of a product.
    fn share(
        &self,
        member: &Member<'_>,
        a: View<'_>,
        b: View<'_>,
        (result, row_step): (Shared<'_, f32>, usize),
        left: Shared<'_, f32>,
        right: Shared<'_, f32>,
    ) {
        let product = &self.product;
        // The elements from a row's first of some columns to another row's last of them.
        let elements = |rows: &Range<usize>, columns: &Range<usize>| {
            rows.start * row_step + columns.start..(rows.end - 1) * row_step + columns.end
        };
        // Eight units of rows a member, of whole tiles.
        let grain = (a.rows() / (8 * member.count)).next_multiple_of(product.rows).max(product.rows);
        let claimed = |units: Range<usize>| units.start * grain..(units.end * grain).min(a.rows());
        let units = a.rows().div_ceil(grain);
        if b.rows() == 0 {
            let columns = b.columns();
            let zero = |(): &mut (), units| {
                for row in claimed(units) {
                    // SAFETY: the row is claimed by this member.
                    unsafe { result.write(elements(&(row..row + 1), &(0..columns))) }.fill(0.0);
                }
            };
            member.step(units, || (), zero);
            return;
        }
        let lies = a.line(0).is_some();
        let (most_terms, most_columns) = if lies {
            let columns = NEAR / b.rows().clamp(NEAR / COLUMNS, LONG);
            (LONG, columns / product.columns * product.columns)
        } else {
            (TERMS, COLUMNS)
        };
        for columns in pieces(b.columns(), most_columns, product.columns) {
            for terms in pieces(b.rows(), most_terms, 1) {
                let k = terms.len();
                // Whole panels of it are packed by one member each.
                let panels = product.panels(columns.len());
                let pack = |(): &mut (), claimed: Range<usize>| {
                    let end =
                        if claimed.end == panels { columns.len() } else { claimed.end * product.columns };
                    let mine = claimed.start * product.columns..end;
                    let part = b.part(terms.clone(), columns.start + mine.start..columns.start + mine.end);
                    let end = mine.start * k + mine.len().next_multiple_of(STEP) * k;
                    // SAFETY: panels are claimed by one member and do not overlap; nobody reads them in this step.
                    let to = unsafe { right.write(mine.start * k..end) };
                    // SAFETY: the CPU has this table's instructions.
                    unsafe { (product.pack_right)(part, to) };
                };
                member.step(panels, || (), pack);
                let packed = columns.len().next_multiple_of(STEP) * k;
                // SAFETY: this member's alone, in this and every job; packed in the step before, and only read in this.
                let begin = || unsafe {
                    (left.write(member.index * LEFT..(member.index + 1) * LEFT), right.read(0..packed))
                };
                member.step(units, begin, |(left, right), units| {
                    let claimed = claimed(units);
                    for rows in pieces(claimed.len(), ROWS, product.rows) {
                        let rows = claimed.start + rows.start..claimed.start + rows.end;
                        // SAFETY: rows do not overlap, and these are claimed by this member.
                        let out = unsafe { result.write(elements(&rows, &columns)) };
                        let part = a.part(rows.clone(), terms.clone());
                        let left = if lies {
                            Left::Lines(part)
                        } else {
                            let left = &mut left[..rows.len().next_multiple_of(product.rows) * k];
                            // SAFETY: the CPU has this table's instructions.
                            unsafe { (product.pack_left)(part, left) };
                            Left::Packed(left)
                        };
                        let block = Block {
                            left,
                            right: &right[..],
                            k,
                            rows: rows.len(),
                            columns: columns.len(),
                            row_step,
                            first: terms.start == 0,
                        };
                        // SAFETY: the CPU has this table's instructions.
                        unsafe { (product.block)(&block, out) };
                    }
                });
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
    use super::super::tests::{TEAMS, floats_agree, wave};
    use super::*;
    use crate::llm::math::fma;

    const SHAPES: [[usize; 3]; 19] = [
        [1, 1, 1],
        [8, 48, 16],
        [7, 47, 5],
        [13, 33, 17],
        [16, 96, 300],
        [250, 20, 3],
        [3, 1600, 2],
        [9, 49, 513],
        [24, 64, 64],
        [1, 100, 70],
        [100, 1, 70],
        [490, 17, 9],
        [19, 1090, 70],
        [5, 209, 33],
        // Several blocks of terms and of columns, where the left side lies; rows that end with short tiles.
        [11, 150, 1030],
        [14, 80, 6],
        [10, 200, 40],
        [6, 112, 9],
        [2, 70, 1],
    ];

    fn reference(a: View<'_>, b: View<'_>) -> Vec<f32> {
        let mut out = Vec::new();
        for i in 0..a.rows() {
            for j in 0..b.columns() {
                out.push((0..b.rows()).fold(0.0, |sum, k| fma(a.at(i, k), b.at(k, j), sum)));
            }
        }
        out
    }

    #[test]
    fn every_table_and_team_gives_the_one_sum_in_order() {
        let mut scratch = Scratch::new(3);
        for [m, n, k] in SHAPES {
            let (a, b) = (wave(m * k, 1), wave(k * n, 2));
            let (a, b) = (View::new(&a, m, k).unwrap(), View::new(&b, k, n).unwrap());
            let expected = reference(a, b);
            for operations in Operations::available() {
                for &team in TEAMS {
                    let mut out = vec![f32::NAN; m * n];
                    let to = ViewMut::new(&mut out, m, n).unwrap();
                    operations.matmul(team, a, b, to, &mut scratch).unwrap();
                    floats_agree(&out, &expected, operations.name);
                }
            }
        }
    }

    #[test]
    fn sides_may_be_turned_and_rows_may_lie_apart() {
        let mut scratch = Scratch::new(3);
        let (m, n, k) = (21, 50, 35);
        let (a, b) = (wave(m * k, 1), wave(k * n + 3 * k, 2));
        let a = View::new(&a, k, m).unwrap().transposed();
        for b in
            [View::strided(&b, k, n, n + 3, 1), View::strided(&b, k, n, 1, k), View::strided(&b, k, n, 0, 2)]
        {
            let b = b.unwrap();
            let expected = reference(a, b);
            for operations in Operations::available() {
                let mut out = vec![-1.0; m * (n + 5)];
                let to = ViewMut::strided(&mut out, m, n, n + 5).unwrap();
                operations.matmul(TEAMS[1], a, b, to, &mut scratch).unwrap();
                for (row, expected) in out.chunks(n + 5).zip(expected.chunks(n)) {
                    floats_agree(&row[..n], expected, operations.name);
                    assert_eq!(row[n..], [-1.0; 5], "between rows");
                }
            }
        }
    }

    #[test]
    fn sums_are_as_close_to_f64_as_their_number_of_terms_allows() {
        let (m, n, k) = (17, 53, 700);
        let (x, y) = (wave(m * k, 1), wave(k * n, 2));
        let (a, b) = (View::new(&x, m, k).unwrap(), View::new(&y, k, n).unwrap());
        let mut out = vec![0.0; m * n];
        let to = ViewMut::new(&mut out, m, n).unwrap();
        Operations::best().matmul(TEAMS[0], a, b, to, &mut Scratch::new(1)).unwrap();
        for i in 0..m {
            for j in 0..n {
                let products = (0..k).map(|k| f64::from(a.at(i, k)) * f64::from(b.at(k, j)));
                let (sum, size) = products.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()));
                // Each of k roundings is at most 2^-24 of a partial sum, which no sum of magnitudes is below.
                let bound = k as f64 * size / f64::from(1 << 24);
                assert!((f64::from(out[i * n + j]) - sum).abs() <= bound);
            }
        }
    }

    #[test]
    fn many_products_are_each_one_of_them() {
        let mut scratch = Scratch::new(3);
        let (m, n, k) = (10, 20, 30);
        for count in [0, 1, 2, 3, 7] {
            let (a, b) = (wave(count * m * k, 3), wave(count * k * n, 4));
            let mut expected = Vec::new();
            for i in 0..count {
                let a = View::new(&a[i * m * k..][..m * k], m, k).unwrap();
                expected.extend(reference(a, View::new(&b[i * k * n..][..k * n], k, n).unwrap()));
            }
            for operations in Operations::available() {
                for &team in TEAMS {
                    let mut out = vec![f32::NAN; count * m * n];
                    operations
                        .batched_matmul(team, count, [m, n, k], &a, &b, &mut out, &mut scratch)
                        .unwrap();
                    floats_agree(&out, &expected, operations.name);
                }
            }
        }
    }

    #[test]
    fn products_with_a_vector_are_the_same_on_every_table() {
        for [rows, n] in [[1, 1], [9, 64], [5, 63], [13, 130], [6, 1000]] {
            let (a, x) = (wave(rows * (n + 2), 5), wave(n, 6));
            let a = View::strided(&a, rows, n, n + 2, 1).unwrap();
            let mut expected = vec![0.0; rows];
            Operations::scalar().matvec(TEAMS[0], a, &x, &mut expected).unwrap();
            for (row, &found) in expected.iter().enumerate() {
                let products = (0..n).map(|k| f64::from(a.at(row, k)) * f64::from(x[k]));
                let (sum, size) = products.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()));
                assert!((f64::from(found) - sum).abs() <= n as f64 * size / f64::from(1 << 24));
            }
            for operations in Operations::available() {
                for &team in TEAMS {
                    let mut out = vec![f32::NAN; rows];
                    operations.matvec(team, a, &x, &mut out).unwrap();
                    floats_agree(&out, &expected, operations.name);
                }
            }
        }
    }

    #[test]
    fn non_finite_operands_reach_their_row_and_column_only() {
        let (m, n, k) = (20, 60, 10);
        for operations in Operations::available() {
            let (mut a, b) = (wave(m * k, 1), wave(k * n, 2));
            a[3 * k + 4] = f32::NAN;
            a[18 * k] = f32::INFINITY;
            let mut out = vec![0.0; m * n];
            let (a, b) = (View::new(&a, m, k).unwrap(), View::new(&b, k, n).unwrap());
            let to = ViewMut::new(&mut out, m, n).unwrap();
            operations.matmul(TEAMS[0], a, b, to, &mut Scratch::new(1)).unwrap();
            for (row, out) in out.chunks(n).enumerate() {
                let finite = out.iter().all(|x| x.is_finite());
                assert_eq!(finite, row != 3 && row != 18, "{} row {row}", operations.name);
            }
        }
    }

    #[test]
    fn wrong_shapes_are_refused_and_empty_ones_are_fine() {
        let (operations, mut scratch) = (Operations::best(), Scratch::new(1));
        let x = [1.0; 12];
        let mut out = [7.0; 12];
        let view = |rows, columns| View::new(&x[..rows * columns], rows, columns).unwrap();
        let shape = |what, expected, found| Err(OperationError::Shape { what, expected, found });
        let mut product = |a: View<'_>, b: View<'_>, m: usize, n: usize, out: &mut [f32]| {
            operations.matmul(TEAMS[0], a, b, ViewMut::new(&mut out[..m * n], m, n).unwrap(), &mut scratch)
        };
        assert_eq!(product(view(3, 2), view(3, 4), 3, 4, &mut out), shape("rows of the right side", 2, 3));
        assert_eq!(product(view(3, 2), view(2, 4), 2, 4, &mut out), shape("rows of the result", 3, 2));
        assert_eq!(product(view(3, 2), view(2, 4), 3, 3, &mut out), shape("columns of the result", 4, 3));
        assert_eq!(out, [7.0; 12], "written");
        assert_eq!(product(view(0, 3), view(3, 2), 0, 2, &mut out), Ok(()));
        assert_eq!(product(view(2, 3), view(3, 0), 2, 0, &mut out), Ok(()));
        assert_eq!(out, [7.0; 12], "written");
        assert_eq!(product(view(3, 0), view(0, 4), 3, 4, &mut out), Ok(()));
        assert_eq!(out, [0.0; 12], "sums without terms");

        assert!(matches!(View::new(&x, 5, 3), Err(OperationError::Shape { expected: 15, found: 12, .. })));
        assert!(matches!(View::new(&x, usize::MAX, 2), Err(OperationError::Shape { .. })));
        assert!(matches!(View::strided(&x, 3, 4, 5, 1), Err(OperationError::OutOfBounds { len: 12 })));
        assert!(matches!(View::strided(&x, 2, 2, usize::MAX, 1), Err(OperationError::OutOfBounds { .. })));
        let overlap = OperationError::Overlap { row_step: 3, columns: 4 };
        assert_eq!(ViewMut::strided(&mut out, 2, 4, 3).unwrap_err(), overlap);
        assert!(matches!(ViewMut::strided(&mut out, 4, 3, 4), Err(OperationError::OutOfBounds { .. })));
        let team = TEAMS[1];
        let small = OperationError::Scratch { members: 1, team: team.size() };
        let to = ViewMut::new(&mut out, 3, 4).unwrap();
        assert_eq!(operations.matmul(team, view(3, 2), view(2, 4), to, &mut scratch), Err(small));
        let apart = View::strided(&x, 2, 3, 1, 2).unwrap();
        let result = operations.matvec(TEAMS[0], apart, &[1.0; 3], &mut out[..2]);
        assert_eq!(result, Err(OperationError::Apart { column_step: 2 }));
        assert_eq!(operations.matvec(TEAMS[0], view(2, 0), &[], &mut out[..2]), Ok(()));
        assert_eq!(out[..2], [0.0; 2]);
    }

    #[test]
    fn bytes_are_floats_only_where_they_are_aligned() {
        let x = [1.0f32, 2.0, 3.0];
        // SAFETY: twelve bytes of floats.
        let bytes = unsafe { core::slice::from_raw_parts(x.as_ptr().cast::<u8>(), 12) };
        assert_eq!(super::super::floats(bytes), Ok(&x[..]));
        assert_eq!(super::super::floats(&bytes[1..9]), Err(OperationError::Misaligned));
        assert_eq!(super::super::floats(&bytes[..11]), Err(OperationError::Misaligned));
    }
}
