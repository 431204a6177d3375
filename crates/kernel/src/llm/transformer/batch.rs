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

/// Positions of a long batch in bands of [`BAND`] at most, alike long.
///
/// A step's units are those of the first band, then those of the second. So members that share a long batch begin in
/// bands of their own, and what a member reads in a step is mostly what it wrote in the one before: the stream's rows do
/// not wander from core to core. Weights are read once a band.
#[derive(Clone, Copy, Debug)]
pub struct Bands {
    positions: usize,
    each: usize,
    /// How many there are.
    pub count: usize,
}

/// As many positions as kernels take a piece of weights apart for.
const BAND: usize = 64;

impl Bands {
    /// The bands of so many positions, of which there is one at least.
    pub fn of(positions: usize) -> Self {
        let each = positions.div_ceil(positions.div_ceil(BAND));
        Bands { positions, each, count: positions.div_ceil(each) }
    }

    /// Claimed units of a step that has `units` a band: the positions of each band, and units of that band.
    pub fn parts(
        self,
        mut claimed: Range<usize>,
        units: usize,
    ) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        core::iter::from_fn(move || {
            let (band, first) = (claimed.start / units, claimed.start % units);
            let last = (first + claimed.len()).min(units);
            claimed.start += last - first;
            let positions = band * self.each..((band + 1) * self.each).min(self.positions);
            (first < last).then_some((positions, first..last))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_of_every_band_is_in_one_part() {
        for positions in [1, 2, 63, 64, 65, 100, 127, 128, 129, 256, 1000] {
            let bands = Bands::of(positions);
            assert!((bands.count - 1) * BAND < positions && positions <= bands.count * BAND, "{bands:?}");
            for (units, piece) in [(1, 1), (7, 3), (7, 7), (5, 12), (3, 100)] {
                let mut seen = alloc::vec![0; positions * units];
                let all = bands.count * units;
                for start in (0..all).step_by(piece) {
                    for (positions, units_here) in bands.parts(start..all.min(start + piece), units) {
                        assert!(!units_here.is_empty() && positions.len() <= BAND);
                        for position in positions {
                            units_here.clone().for_each(|unit| seen[position * units + unit] += 1);
                        }
                    }
                }
                assert!(
                    seen.iter().all(|&times| times == 1),
                    "{bands:?}, {units} units in pieces of {piece}"
                );
            }
        }
    }

    #[test]
    fn an_even_share_of_two_bands_is_a_band() {
        let bands = Bands::of(128);
        assert!(
            bands.parts(0..18, 18).eq([(0..64, 0..18)]) && bands.parts(18..36, 18).eq([(64..128, 0..18)])
        );
        assert!(bands.parts(16..20, 18).eq([(0..64, 16..18), (64..128, 0..2)]));
    }

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
