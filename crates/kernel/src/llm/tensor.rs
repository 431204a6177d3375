//! Weight matrices, as they lie in the file or packed for a table of kernels, and the product every step is made of.

use core::ops::Range;

use super::quant::GgmlType;
use super::simd::{Activations, Kernels};

/// Rows of the smallest pieces that members share matrices in.
pub const ROW_TILE: usize = 32;

/// Rows a kernel call computes at least, where a share has them: scratch for products has room for so many at every
/// position of a full batch.
///
/// Kernels keep activations in panels of their own, laid out once a call; so many rows make up for that.
pub const CALL_ROWS: usize = 64;

/// A borrowed weight matrix of `rows` rows with `k` elements each.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// Storage format.
    pub ty: GgmlType,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub k: usize,
    row_bytes: usize,
    data: &'a [u8],
    /// Rows that are interleaved in groups; 1 is the file's layout.
    group: usize,
}

impl<'a> Matrix<'a> {
    /// Views `data` as `rows × k`; `None` if the sizes do not agree.
    pub fn new(ty: GgmlType, rows: usize, k: usize, data: &'a [u8]) -> Option<Self> {
        let row_bytes = ty.row_bytes(k)?;
        (row_bytes.checked_mul(rows)? == data.len()).then_some(Matrix {
            ty,
            rows,
            k,
            row_bytes,
            data,
            group: 1,
        })
    }

    /// The same matrix in the layout of `kernels`, written to `out`, which has as many bytes.
    pub fn packed<'b>(&self, kernels: &Kernels, out: &'b mut [u8]) -> Matrix<'b> {
        assert_eq!(self.group, 1, "packed from the file's layout");
        kernels.pack(self.ty, self.k, self.data, out);
        Matrix { data: out, group: kernels.packed_rows().unwrap_or(1), ..*self }
    }

    /// The same matrix in a layout with `group` rows a group, whose bytes are `data`.
    pub(crate) fn with_packed<'b>(&self, group: usize, data: &'b [u8]) -> Matrix<'b> {
        assert_eq!((self.group, self.data.len()), (1, data.len()), "packed from the file's layout");
        Matrix { data, group, ..*self }
    }

    /// Rows that are interleaved in groups, so that shares of rows must start at a multiple; 1 is the file's layout.
    pub fn group(&self) -> usize {
        self.group
    }

    /// The bytes of some rows, which in a packed matrix start and end with a group or the matrix.
    pub fn row_data(&self, rows: Range<usize>) -> &'a [u8] {
        &self.data[rows.start * self.row_bytes..rows.end * self.row_bytes]
    }

    /// All bytes.
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Expands row `row` to f32, `[k]`; `kernels` are those that the matrix is packed for, if it is.
    pub fn dequantize_row(&self, kernels: &Kernels, row: usize, out: &mut [f32]) {
        let first = row / self.group * self.group;
        let group = first..first + self.group;
        if self.group == 1 || group.end > self.rows {
            return kernels.dequantize(self.ty, self.row_data(row..row + 1), out);
        }
        kernels.dequantize_packed(self.ty, self.row_data(group), row - first, out);
    }

    /// Multiplies the rows `share` with every position of `x`, a tile of rows at a time.
    ///
    /// `store(rows, products)` receives each finished tile as `[positions × rows]`. `tile` is scratch of at least
    /// `positions × ROW_TILE`; with room for more, as where a batch is not full, calls get more rows, since each has a
    /// cost of its own. A share of a packed matrix starts with a group. Returns the weight bytes read: each row's once, however many positions there are.
    pub fn multiply(
        &self,
        kernels: &Kernels,
        share: Range<usize>,
        x: &Activations<'_>,
        tile: &mut [f32],
        mut store: impl FnMut(Range<usize>, &mut [f32]),
    ) -> u64 {
        assert_eq!(share.start % self.group, 0, "a share starts with a group of rows");
        let most = tile.len() / x.positions.max(1) / ROW_TILE * ROW_TILE;
        let mut bytes = 0;
        let mut first = share.start;
        while first < share.end {
            let rows = first..(first + most).min(share.end);
            let out = &mut tile[..rows.len() * x.positions];
            let weights = self.row_data(rows.clone());
            if self.group == 1 {
                kernels.matmul(self.ty, weights, rows.len(), x, out);
            } else {
                kernels.matmul_packed(self.ty, weights, rows.len(), x, out);
            }
            bytes += weights.len() as u64;
            first = rows.end;
            store(rows, out);
        }
        bytes
    }
}
