//! Matrices in borrowed memory.

use core::ops::Range;

use super::OperationError;

/// A matrix to read: element `(row, column)` is at `row * row_step + column * column_step`.
///
/// Steps may be anything that stays inside the memory; a step of zero repeats a row or column.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_step: usize,
    column_step: usize,
}

/// One more than the last element's place; 0 of an empty matrix, `None` where it is past any memory.
fn end(rows: usize, columns: usize, row_step: usize, column_step: usize) -> Option<usize> {
    if rows == 0 || columns == 0 {
        return Some(0);
    }
    let down = (rows - 1).checked_mul(row_step)?;
    let across = (columns - 1).checked_mul(column_step)?;
    down.checked_add(across)?.checked_add(1)
}

impl<'a> View<'a> {
    /// `rows` rows one after the other, which are all of `data`.
    ///
    /// # Errors
    /// [`OperationError::Shape`] unless `data` has `rows * columns` elements.
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> Result<Self, OperationError> {
        let expected = rows.saturating_mul(columns);
        super::agree("elements", expected, data.len())?;
        Ok(View { data, rows, columns, row_step: columns, column_step: 1 })
    }

    /// A matrix with steps of its own.
    ///
    /// # Errors
    /// [`OperationError::OutOfBounds`] if its last element is behind `data`.
    pub fn strided(
        data: &'a [f32],
        rows: usize,
        columns: usize,
        row_step: usize,
        column_step: usize,
    ) -> Result<Self, OperationError> {
        match end(rows, columns, row_step, column_step) {
            Some(end) if end <= data.len() => Ok(View { data, rows, columns, row_step, column_step }),
            _ => Err(OperationError::OutOfBounds { len: data.len() }),
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Rows as columns; nothing is moved.
    pub fn transposed(self) -> Self {
        View {
            rows: self.columns,
            columns: self.rows,
            row_step: self.column_step,
            column_step: self.row_step,
            ..self
        }
    }

    /// The rows and columns in these ranges.
    pub(in crate::llm) fn part(self, rows: Range<usize>, columns: Range<usize>) -> Self {
        assert!(rows.end <= self.rows && columns.end <= self.columns, "a part of the matrix");
        let (count, across) = (rows.len(), columns.len());
        let start = match count * across {
            0 => 0,
            _ => rows.start * self.row_step + columns.start * self.column_step,
        };
        View { data: &self.data[start..], rows: count, columns: across, ..self }
    }

    /// All memory from the first element on, and both steps.
    pub(super) fn memory(&self) -> (&'a [f32], usize, usize) {
        (self.data, self.row_step, self.column_step)
    }

    /// One element.
    pub(in crate::llm) fn at(&self, row: usize, column: usize) -> f32 {
        self.data[row * self.row_step + column * self.column_step]
    }

    /// A row whose elements lie one after the other.
    #[inline(always)]
    pub(in crate::llm) fn line(&self, row: usize) -> Option<&'a [f32]> {
        (self.column_step == 1 && self.columns > 0).then(|| &self.data[row * self.row_step..][..self.columns])
    }
}

/// A matrix to write, whose rows lie apart and whose columns lie one after the other.
#[derive(Debug)]
pub struct ViewMut<'a> {
    pub(super) data: &'a mut [f32],
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_step: usize,
}

impl<'a> ViewMut<'a> {
    /// `rows` rows one after the other, which are all of `data`.
    ///
    /// # Errors
    /// [`OperationError::Shape`] unless `data` has `rows * columns` elements.
    pub fn new(data: &'a mut [f32], rows: usize, columns: usize) -> Result<Self, OperationError> {
        super::agree("elements", rows.saturating_mul(columns), data.len())?;
        Ok(ViewMut { data, rows, columns, row_step: columns })
    }

    /// Rows that start every `row_step` elements; what is between them stays as it is.
    ///
    /// # Errors
    /// [`OperationError::Overlap`] if a step is shorter than a row, [`OperationError::OutOfBounds`] if the last element is
    /// behind `data`.
    pub fn strided(
        data: &'a mut [f32],
        rows: usize,
        columns: usize,
        row_step: usize,
    ) -> Result<Self, OperationError> {
        if row_step < columns && rows > 1 {
            return Err(OperationError::Overlap { row_step, columns });
        }
        match end(rows, columns, row_step, 1) {
            Some(end) if end <= data.len() => Ok(ViewMut { data, rows, columns, row_step }),
            _ => Err(OperationError::OutOfBounds { len: data.len() }),
        }
    }
}
