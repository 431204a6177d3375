//! The f32 product in vector registers: a tile's sums stay in registers while `k` passes by.
//!
//! A lane is a column. For each `k` a tile loads a row of the right panel and takes the left panel's elements one by one
//! into all lanes; so every element of the result is one sum by fma in the order of `k`, whatever the registers' width.

use super::{Block, Left, STEP, panel};
use crate::llm::operations::View;
use crate::llm::simd::lanes::Registers;

/// Panels of `M` rows, each `[column][M]`, the last one padded with zeros.
#[inline(always)]
pub(in crate::llm::simd) fn pack_left<const M: usize>(x: View<'_>, out: &mut [f32]) {
    let (out, _) = out.as_chunks_mut::<M>();
    for (panel, out) in out.chunks_exact_mut(x.columns().max(1)).enumerate() {
        let first = panel * M;
        let rows = M.min(x.rows() - first);
        for (column, out) in out.iter_mut().enumerate() {
            for (i, out) in out.iter_mut().enumerate() {
                *out = if i < rows { x.at(first + i, column) } else { 0.0 };
            }
        }
    }
}

/// Panels of `W` steps of columns, each `[row][W steps]`; the last one is of as many steps as it needs, padded with zeros.
#[inline(always)]
pub(in crate::llm::simd) fn pack_right<const W: usize>(x: View<'_>, out: &mut [f32]) {
    let k = x.rows();
    let mut rest = out;
    let mut first = 0;
    while first < x.columns() && k > 0 {
        let columns = panel(x.columns() - first, W * STEP);
        let width = columns.next_multiple_of(STEP);
        let (panel, after) = rest.split_at_mut(k * width);
        rest = after;
        for (row, panel) in panel.chunks_exact_mut(width).enumerate() {
            if let Some(line) = x.line(row) {
                let line = &line[first..][..columns];
                match line.as_array::<{ 4 * STEP }>() {
                    Some(line) if columns == 4 * STEP => panel.copy_from_slice(line),
                    _ => panel[..columns].copy_from_slice(line),
                }
            } else {
                for (column, out) in panel[..columns].iter_mut().enumerate() {
                    *out = x.at(row, first + column);
                }
            }
            panel[columns..].fill(0.0);
        }
        first += columns;
    }
}

/// All tiles of a block.
///
/// Where the left side is packed, a panel of the right side stays in a near cache while the left side's pass by; where it lies, a
/// tile's rows do while panels pass by, since they lie apart.
#[inline(always)]
pub(in crate::llm::simd) fn block<S: Registers<N>, const N: usize, const M: usize, const W: usize>(
    s: S,
    x: &Block<'_>,
    out: &mut [f32],
) {
    match x.left {
        Left::Packed(left) => {
            let (left, _) = left.as_chunks::<M>();
            for panel in panels(x, W * STEP) {
                for row in (0..x.rows).step_by(M) {
                    panel.tile::<S, N, M, W, _>(s, x, row, &left[row / M * x.k..][..x.k], out);
                }
            }
        }
        Left::Lines(view) => {
            let mut row = 0;
            while row < x.rows {
                let rest = x.rows - row;
                if rest <= SHORT || (rest > M && rest <= 2 * SHORT) {
                    lines::<S, N, SHORT, W>(s, x, view, row, out);
                    row += SHORT;
                } else {
                    lines::<S, N, M, W>(s, x, view, row, out);
                    row += M;
                }
            }
        }
    }
}

/// Rows of a tile where a whole one would be for the most part padding. Two of them take what is one or two rows more than a whole.
const SHORT: usize = 4;

/// The tiles of some rows where they lie.
#[inline(always)]
fn lines<S: Registers<N>, const N: usize, const M: usize, const W: usize>(
    s: S,
    x: &Block<'_>,
    view: View<'_>,
    row: usize,
    out: &mut [f32],
) {
    // A row that is behind the last is that one again; nobody looks at its sums.
    let lines: [&[f32]; M] =
        core::array::from_fn(|i| view.line((row + i).min(x.rows - 1)).expect("rows in one piece"));
    for panel in panels(x, W * STEP) {
        panel.tile::<S, N, M, W, _>(s, x, row, lines, out);
    }
}

/// One panel of the right side.
#[derive(Clone, Copy)]
struct Panel<'a> {
    right: &'a [[f32; STEP]],
    first: usize,
    columns: usize,
}

/// A block's panels.
#[inline(always)]
fn panels<'a>(x: &Block<'a>, tile: usize) -> impl Iterator<Item = Panel<'a>> {
    let (mut first, mut right, all, k) = (0, x.right, x.columns, x.k);
    core::iter::from_fn(move || {
        (first < all).then(|| {
            let columns = panel(all - first, tile);
            let (mine, after) = right.split_at(k * columns.next_multiple_of(STEP));
            right = after;
            first += columns;
            Panel { right: mine.as_chunks().0, first: first - columns, columns }
        })
    })
}

/// The left side of a tile: its rows' elements, one `k` after the other.
trait Elements: Copy {
    /// Row `i`'s.
    fn at(self, k: usize, i: usize) -> f32;
    /// As many `k` as this, and no more.
    fn terms(self, k: usize) -> Self;
}

/// A packed panel.
impl<const M: usize> Elements for &[[f32; M]] {
    #[inline(always)]
    fn at(self, k: usize, i: usize) -> f32 {
        self[k][i]
    }

    #[inline(always)]
    fn terms(self, k: usize) -> Self {
        &self[..k]
    }
}

/// Rows where they lie.
impl<const M: usize> Elements for [&[f32]; M] {
    #[inline(always)]
    fn at(self, k: usize, i: usize) -> f32 {
        self[i][k]
    }

    #[inline(always)]
    fn terms(mut self, k: usize) -> Self {
        for line in &mut self {
            *line = &line[..k];
        }
        self
    }
}

impl Panel<'_> {
    /// The tile of this panel and some rows, as wide as it needs to be.
    #[inline(always)]
    fn tile<S: Registers<N>, const N: usize, const M: usize, const W: usize, L: Elements>(
        self,
        s: S,
        x: &Block<'_>,
        row: usize,
        left: L,
        out: &mut [f32],
    ) {
        match self.columns.div_ceil(STEP) {
            1 => self.steps::<S, N, M, 1, L>(s, x, row, left, out),
            2 => self.steps::<S, N, M, 2, L>(s, x, row, left, out),
            3 => self.steps::<S, N, M, 3, L>(s, x, row, left, out),
            _ => self.steps::<S, N, M, W, L>(s, x, row, left, out),
        }
    }

    #[inline(always)]
    fn steps<S: Registers<N>, const N: usize, const M: usize, const W: usize, L: Elements>(
        self,
        s: S,
        x: &Block<'_>,
        row: usize,
        left: L,
        out: &mut [f32],
    ) {
        let Panel { right, first, columns } = self;
        let (right, _) = right.as_chunks::<W>();
        let rows = M.min(x.rows - row);
        // The next tile's part of the result, which is far away when its turn comes.
        let (next_row, next) =
            if first + columns < x.columns { (row, first + columns) } else { (row + M, 0) };
        for i in 0..M {
            let line = out.as_ptr().wrapping_add((next_row + i) * x.row_step + next);
            for w in 0..W {
                s.ask(line.wrapping_add(w * STEP));
            }
        }
        let mut rest = &mut out[row * x.row_step + first..];
        if rows == M && columns == W * STEP {
            let lines: [&mut [[f32; STEP]; W]; M] = core::array::from_fn(|i| {
                let step = if i + 1 < M { x.row_step } else { W * STEP };
                let (line, after) = core::mem::take(&mut rest).split_at_mut(step);
                rest = after;
                line.as_chunks_mut().0.first_chunk_mut().expect("a whole tile")
            });
            return sums::<S, N, M, W, L>(s, left, right, x.first, lines);
        }
        // What is no whole tile is computed in one beside.
        let mut whole = [[[0.0; STEP]; W]; M];
        if !x.first {
            for (i, whole) in whole[..rows].iter_mut().enumerate() {
                whole.as_flattened_mut()[..columns].copy_from_slice(&rest[i * x.row_step..][..columns]);
            }
        }
        sums::<S, N, M, W, L>(s, left, right, x.first, whole.each_mut());
        for (i, whole) in whole[..rows].iter().enumerate() {
            rest[i * x.row_step..][..columns].copy_from_slice(&whole.as_flattened()[..columns]);
        }
    }
}

/// One tile.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "registers are counted, not walked")]
fn sums<S: Registers<N>, const N: usize, const M: usize, const W: usize, L: Elements>(
    s: S,
    left: L,
    right: &[[[f32; STEP]; W]],
    first: bool,
    out: [&mut [[f32; STEP]; W]; M],
) {
    let mut sums = [[[s.splat(0.0); N]; W]; M];
    if !first {
        for i in 0..M {
            for w in 0..W {
                sums[i][w] = s.load(&out[i][w]);
            }
        }
    }
    let left = left.terms(right.len());
    for (k, right) in right.iter().enumerate() {
        let mut b = [[s.splat(0.0); N]; W];
        for w in 0..W {
            b[w] = s.load(&right[w]);
        }
        for i in 0..M {
            let a = s.splat(left.at(k, i));
            for w in 0..W {
                for n in 0..N {
                    sums[i][w][n] = s.fma(a, b[w][n], sums[i][w][n]);
                }
            }
        }
    }
    for (out, sums) in out.into_iter().zip(sums) {
        for w in 0..W {
            s.store(&mut out[w], sums[w]);
        }
    }
}
