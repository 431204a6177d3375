//! The f32 product in vector registers: a tile's sums stay in registers while `k` passes by.
//!
//! A lane is a column. For each `k` a tile loads a row of the right panel and takes the left panel's elements one by one
//! into all lanes; so every element of the result is one sum by fma in the order of `k`, whatever the registers' width.

use super::{Block, Left, STEP, panel};
use crate::llm::operations::View;
use crate::llm::simd::lanes::Registers;

/// Panels of `M` rows, each `[column][M]`, the last one padded with zeros.
#[inline(always)]
pub(in crate::llm::simd) fn pack_left<S: Registers<N>, const N: usize, const M: usize>(
    s: S,
    x: View<'_>,
    out: &mut [f32],
) {
    if x.columns() == 0 {
        return;
    }
    let (out, _) = out.as_chunks_mut::<M>();
    for (panel, out) in out.chunks_exact_mut(x.columns()).enumerate() {
        let first = panel * M;
        let rows = M.min(x.rows() - first);
        let lines: Option<[&[f32]; M]> = (rows == M)
            .then(|| core::array::from_fn(|i| x.line(first + i)))
            .filter(|lines: &[Option<&[f32]>; M]| lines.iter().all(Option::is_some))
            .map(|lines| lines.map(|line| line.expect("just seen")));
        if let Some(lines) = lines {
            transpose(s, lines, out);
            continue;
        }
        for (column, out) in out.iter_mut().enumerate() {
            for (i, out) in out.iter_mut().enumerate() {
                *out = if i < rows { x.at(first + i, column) } else { 0.0 };
            }
        }
    }
}

/// Whole rows of the same length, turned to columns.
#[inline(always)]
fn transpose<S: Registers<N>, const N: usize, const M: usize>(
    s: S,
    lines: [&[f32]; M],
    out: &mut [[f32; M]],
) {
    let lines = lines.map(|line| &line[..out.len()]);
    let mut done = 0;
    if M == 8 {
        let (eights, _) = out.as_flattened_mut().as_chunks_mut::<8>();
        let (steps, _) = eights.as_chunks_mut::<STEP>();
        for (step, out) in steps.iter_mut().enumerate() {
            // As many lines as eight: `M` is.
            let mut rows = [&[0.0; STEP]; 8];
            for (row, line) in rows.iter_mut().zip(lines) {
                *row = line[step * STEP..].first_chunk().expect("a whole step");
            }
            s.turn(rows, out);
        }
        done = steps.len() * STEP;
    }
    for (k, out) in out.iter_mut().enumerate().skip(done) {
        for (out, line) in out.iter_mut().zip(lines) {
            *out = line[k];
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
                match line.as_array::<{ 3 * STEP }>() {
                    Some(line) if columns == 3 * STEP => panel.copy_from_slice(line),
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

/// All tiles of a block: a panel of the right side stays in a near cache while the left side's pass by.
#[inline(always)]
pub(in crate::llm::simd) fn block<S: Registers<N>, const N: usize, const M: usize, const W: usize>(
    s: S,
    x: &Block<'_>,
    out: &mut [f32],
) {
    let mut first = 0;
    let mut right = x.right;
    while first < x.columns {
        let columns = panel(x.columns - first, W * STEP);
        let (panel, after) = right.split_at(x.k * columns.next_multiple_of(STEP));
        right = after;
        let (panel, _) = panel.as_chunks::<STEP>();
        let strip = Strip { x, panel, first, columns };
        match columns.div_ceil(STEP) {
            1 => strip.both::<S, N, M, 1>(s, out),
            2 => strip.both::<S, N, M, 2>(s, out),
            _ => strip.both::<S, N, M, W>(s, out),
        }
        first += columns;
    }
}

/// One panel of the right side.
struct Strip<'a> {
    x: &'a Block<'a>,
    panel: &'a [[f32; STEP]],
    first: usize,
    columns: usize,
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

impl Strip<'_> {
    #[inline(always)]
    fn both<S: Registers<N>, const N: usize, const M: usize, const W: usize>(self, s: S, out: &mut [f32]) {
        match self.x.left {
            Left::Packed(left) => {
                let (left, _) = left.as_chunks::<M>();
                let k = self.x.k;
                self.tiles::<S, N, M, W, _>(s, out, |row| &left[row / M * k..][..k]);
            }
            Left::Lines(view) => {
                // A row that is behind the last is that one again; nobody looks at its sums.
                let line = |row: usize| view.line(row.min(self.x.rows - 1)).expect("rows in one piece");
                let mut lines = [&[][..]; M];
                self.tiles::<S, N, M, W, _>(s, out, |row| {
                    for (i, to) in lines.iter_mut().enumerate() {
                        *to = line(row + i);
                    }
                    lines
                });
            }
        }
    }

    #[inline(always)]
    fn tiles<S: Registers<N>, const N: usize, const M: usize, const W: usize, L: Elements>(
        self,
        s: S,
        out: &mut [f32],
        mut left: impl FnMut(usize) -> L,
    ) {
        let Strip { x, panel, first, columns } = self;
        let (right, _) = panel.as_chunks::<W>();
        for row in (0..x.rows).step_by(M) {
            let left = left(row);
            let rows = M.min(x.rows - row);
            // The next tile's part of the result, which is far away when its turn comes.
            for i in 0..M {
                let line = out.as_ptr().wrapping_add((row + M + i) * x.row_step + first);
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
                sums::<S, N, M, W, L>(s, left, right, x.first, lines);
                continue;
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
