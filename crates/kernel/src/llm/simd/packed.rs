//! The packed layout of weights: `R` rows interleaved, so that a register holds the same place of every row.
//!
//! A group of `R` rows is its blocks in order; a block is its f16 values (scales and minima in the file's order), each
//! for all rows, then everything else as 4-byte words, each for all rows. F16 and BF16 matrices are 2-byte values, each
//! for all rows. Weights of Q8_0 are stored plus 128, so that all integers are unsigned. Not a byte is added: rows that
//! make no whole group follow as they lie in the file.

use super::product::Rows;
use crate::llm::quant::GgmlType;

/// The same part of `R` packed rows.
#[derive(Clone, Copy)]
pub(super) struct Packed<'a, const R: usize>(pub(super) &'a [u8]);

impl<'a, const R: usize> Rows<'a, R> for Packed<'a, R> {
    #[inline(always)]
    fn group(weights: &'a [u8], first: usize, row_bytes: usize) -> Self {
        Packed(&weights[first * row_bytes..][..R * row_bytes])
    }

    #[inline(always)]
    fn part(self, at: usize, len: usize) -> Self {
        Packed(&self.0[R * at..R * (at + len)])
    }
}

impl<'a, const R: usize> Packed<'a, R> {
    /// All bytes of the part.
    #[inline(always)]
    #[cfg(target_arch = "x86_64")]
    pub(super) fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// `BYTES` bytes for all rows from `at` of the block, counted in bytes of one row.
    #[inline(always)]
    pub(super) fn column<const BYTES: usize>(self, at: usize) -> &'a [u8; BYTES] {
        const { assert!(BYTES.is_multiple_of(R), "the same number of bytes of each row") };
        self.0[R * at..].first_chunk().expect("inside the block")
    }
}

/// Bytes of a block that hold f16 values.
const fn half_bytes(ty: GgmlType) -> core::ops::Range<usize> {
    match ty {
        GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::Q8_0 => 0..2,
        GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4_K | GgmlType::Q5_K => 0..4,
        GgmlType::Q6_K => 208..210,
        GgmlType::F16 | GgmlType::BF16 => 0..2,
        GgmlType::F32 => 0..0,
    }
}

/// The bits that x86 tables turn in each word: those that make Q8_0's bytes unsigned.
#[cfg(target_arch = "x86_64")]
pub(super) fn unsigned_bytes(ty: GgmlType) -> u32 {
    if ty == GgmlType::Q8_0 { 0x8080_8080 } else { 0 }
}

/// Packs whole groups of `R` rows of `row_bytes` bytes, the bits `turned` of every word flipped, and copies the rows
/// that are left.
pub(super) fn pack<const R: usize>(
    ty: GgmlType,
    row_bytes: usize,
    weights: &[u8],
    out: &mut [u8],
    turned: u32,
) {
    let block_bytes = ty.block_bytes();
    let halves = half_bytes(ty);
    let mut groups = weights.chunks_exact(R * row_bytes);
    let mut packed = out.chunks_exact_mut(R * row_bytes);
    for (group, packed) in groups.by_ref().zip(packed.by_ref()) {
        for (b, packed) in packed.chunks_exact_mut(R * block_bytes).enumerate() {
            let (packed_halves, packed_words) = packed.split_at_mut(R * halves.len());
            for r in 0..R {
                let block = &group[r * row_bytes + b * block_bytes..][..block_bytes];
                let (values, _) = block[halves.clone()].as_chunks::<2>();
                for (value, column) in values.iter().zip(packed_halves.chunks_exact_mut(2 * R)) {
                    column[2 * r..2 * r + 2].copy_from_slice(value);
                }
                // Everything else lies on one side of the f16 values.
                let rest = if halves.start == 0 { &block[halves.end..] } else { &block[..halves.start] };
                let (words, _) = rest.as_chunks::<4>();
                for (word, column) in words.iter().zip(packed_words.chunks_exact_mut(4 * R)) {
                    let word = u32::from_le_bytes(*word) ^ turned;
                    column[4 * r..4 * r + 4].copy_from_slice(&word.to_le_bytes());
                }
            }
        }
    }
    packed.into_remainder().copy_from_slice(groups.remainder());
}

/// The blocks from `first` of row `row`, as many as fill `out`, as they lie in the file: what [`pack`] did to a whole
/// group of `rows` rows, taken back.
pub(super) fn unpack_row(
    ty: GgmlType,
    rows: usize,
    turned: u32,
    group: &[u8],
    row: usize,
    first: usize,
    out: &mut [u8],
) {
    let block_bytes = ty.block_bytes();
    let halves = half_bytes(ty);
    let packed = group.chunks_exact(rows * block_bytes).skip(first);
    for (block, packed) in out.chunks_exact_mut(block_bytes).zip(packed) {
        let (packed_halves, packed_words) = packed.split_at(rows * halves.len());
        let (values, _) = block[halves.clone()].as_chunks_mut::<2>();
        for (value, column) in values.iter_mut().zip(packed_halves.chunks_exact(2 * rows)) {
            value.copy_from_slice(&column[2 * row..2 * row + 2]);
        }
        let rest = if halves.start == 0 { &mut block[halves.end..] } else { &mut block[..halves.start] };
        let (words, _) = rest.as_chunks_mut::<4>();
        for (word, column) in words.iter_mut().zip(packed_words.chunks_exact(4 * rows)) {
            let bytes = column[4 * row..].first_chunk().expect("a word of each row");
            *word = (u32::from_le_bytes(*bytes) ^ turned).to_le_bytes();
        }
    }
}
