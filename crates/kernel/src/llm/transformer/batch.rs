//! What one pass computes: rows, each a position of some sequence.

use alloc::vec::Vec;
use core::ops::Range;

/// One position of one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// Which sequence.
    pub slot: usize,
    /// Its position in the sequence.
    pub position: usize,
    /// The token there.
    pub id: u32,
    /// Whether the head is computed for it.
    pub wants_logits: bool,
}

/// Consecutive positions of one sequence in consecutive rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Which sequence.
    pub slot: usize,
    /// Position of the first row.
    pub start: usize,
    /// Rows of the batch.
    pub rows: Range<usize>,
}

/// The rows of one pass over the weights: decoded tokens of several sequences and parts of prompts, in any mixture.
///
/// Every sequence appears in one run at most.
pub(crate) struct Batch {
    rows: Vec<Row>,
    runs: Vec<Run>,
    wanted: Vec<usize>,
}

impl Batch {
    /// Room for so many rows of so many sequences; allocates here and never again.
    pub fn with_capacity(rows: usize, sequences: usize) -> Self {
        Batch {
            rows: Vec::with_capacity(rows),
            runs: Vec::with_capacity(sequences),
            wanted: Vec::with_capacity(rows),
        }
    }

    /// Bytes that [`Self::with_capacity`] allocates.
    pub fn bytes(rows: usize, sequences: usize) -> u64 {
        (rows * (size_of::<Row>() + size_of::<usize>()) + sequences * size_of::<Run>()) as u64
    }

    /// Takes out all rows.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.runs.clear();
        self.wanted.clear();
    }

    /// Appends a run of sequence `slot` from position `start`; the last `logits` rows want theirs.
    pub fn push(&mut self, slot: usize, start: usize, ids: &[u32], logits: usize) {
        let first = self.rows.len();
        let rows = first..first + ids.len();
        assert!(rows.end <= self.rows.capacity() && logits <= ids.len(), "{rows:?}, {logits} logits");
        let silent = ids.len() - logits;
        self.rows.extend(ids.iter().enumerate().map(|(index, &id)| Row {
            slot,
            position: start + index,
            id,
            wants_logits: index >= silent,
        }));
        self.wanted.extend(first + silent..rows.end);
        self.runs.push(Run { slot, start, rows });
    }

    /// All rows.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The rows by sequence.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The rows that want logits, in order.
    pub fn wanted(&self) -> &[usize] {
        &self.wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_lie_one_behind_the_other() {
        let mut batch = Batch::with_capacity(8, 3);
        batch.push(2, 40, &[7], 1);
        batch.push(0, 5, &[1, 2, 3], 0);
        batch.push(1, 0, &[8, 9], 2);
        assert_eq!(batch.wanted(), [0, 4, 5]);
        assert_eq!(batch.rows()[2], Row { slot: 0, position: 6, id: 2, wants_logits: false });
        assert_eq!(batch.runs()[2], Run { slot: 1, start: 0, rows: 4..6 });
        for run in batch.runs() {
            for (index, row) in batch.rows()[run.rows.clone()].iter().enumerate() {
                assert_eq!((row.slot, row.position), (run.slot, run.start + index));
            }
        }
        batch.clear();
        assert!(batch.rows().is_empty() && batch.runs().is_empty() && batch.wanted().is_empty());
    }
}
