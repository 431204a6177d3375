//! The reference of every tensor kernel, in plain safe code.

use super::{Block, Operations, Product, STEP};
use crate::llm::math::fma;
use crate::llm::operations::View;

/// Rows of a tile.
const ROWS: usize = 4;

pub(super) static TABLE: Operations = Operations {
    name: "scalar",
    product: Product { rows: ROWS, columns: STEP, pack_left, pack_right, block },
};

fn pack_left(x: View<'_>, out: &mut [f32]) {
    pack(x, out, ROWS);
}

fn pack_right(x: View<'_>, out: &mut [f32]) {
    pack(x.transposed(), out, STEP);
}

/// Panels of `height` rows, each `[column][height]`, the last one padded with zeros.
fn pack(x: View<'_>, out: &mut [f32], height: usize) {
    for (panel, out) in out.chunks_exact_mut(height * x.columns().max(1)).enumerate() {
        for (column, out) in out.chunks_exact_mut(height).enumerate() {
            for (row, out) in out.iter_mut().enumerate() {
                let row = panel * height + row;
                *out = if row < x.rows() { x.at(row, column) } else { 0.0 };
            }
        }
    }
}

/// Each element is one sum by fma, in the order of k.
fn block(x: &Block<'_>, out: &mut [f32]) {
    for row in 0..x.rows {
        let left = &x.left[row / ROWS * ROWS * x.k + row % ROWS..];
        for column in 0..x.columns {
            let right = &x.right[column / STEP * STEP * x.k + column % STEP..];
            let out = &mut out[row * x.row_step + column];
            let start = if x.first { 0.0 } else { *out };
            *out = (0..x.k).fold(start, |sum, k| fma(left[k * ROWS], right[k * STEP], sum));
        }
    }
}
