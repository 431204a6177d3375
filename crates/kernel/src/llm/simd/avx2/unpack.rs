//! Sub-blocks of packed weights, eight rows at a time, taken apart into bytes that can be multiplied.
//!
//! Word `j` of a packed sub-block is a register of weights `4j..4j + 4` of each of the eight rows.

use super::super::packed::Packed;
use super::super::product::{BF16, F32, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, has_minimum};
use super::Avx2;
use core::arch::x86_64::{__m256, __m256i};

/// Eight packed rows, or the same part of each.
pub(in super::super) type Rows<'a> = Packed<'a, 8>;

/// Eight rows' sub-block of 32 weights; a lane is a row. A type leaves zero what it does not use.
#[derive(Clone, Copy)]
pub(in super::super) struct Unpacked {
    /// Register `j`: weights `4j..4j + 4`, unsigned.
    pub(in super::super) q: [__m256i; 8],
    /// What a step of the integer sum is worth.
    pub(in super::super) scale: __m256,
    /// What the sum of activations is taken times, for types with a minimum.
    pub(in super::super) minimum: __m256,
    /// The integer sub-scale of each half of the sub-block, for K types.
    pub(in super::super) sub_scale: [__m256i; 2],
    /// The integer sub-minimum as a float, for K types with a minimum.
    pub(in super::super) sub_minimum: __m256,
}

impl Unpacked {
    /// All zero.
    #[inline(always)]
    pub(in super::super) fn zero(a: Avx2) -> Self {
        Unpacked {
            q: [a.zero(); 8],
            scale: a.zeros(),
            minimum: a.zeros(),
            sub_scale: [a.zero(); 2],
            sub_minimum: a.zeros(),
        }
    }
}

/// The float weight of each row at element `k`, widened.
#[inline(always)]
pub(in super::super) fn float<const TY: u32>(a: Avx2, weights: Rows<'_>, k: usize) -> __m256 {
    match TY {
        F32 => a.as_f32(a.word(weights.column(4 * k))),
        BF16 => a.brain_half(weights.column(2 * k)),
        _ => a.half(weights.column(2 * k)),
    }
}

/// Sub-block `sub` of one block.
#[inline(always)]
pub(in super::super) fn unpack<const TY: u32>(a: Avx2, block: Rows<'_>, sub: usize) -> Unpacked {
    let mut out = Unpacked::zero(a);
    out.scale = a.half(block.column(0));
    if has_minimum(TY) {
        let minimum = a.half(block.column(2));
        out.minimum = if TY == Q4_K || TY == Q5_K { a.turned(minimum) } else { minimum };
    }
    match TY {
        Q4_0 => out.q = nibbles(a, block, 2),
        Q4_1 => out.q = nibbles(a, block, 4),
        Q5_0 => out.q = fifth_bits(a, nibbles(a, block, 6), a.word(block.column(2))),
        Q5_1 => out.q = fifth_bits(a, nibbles(a, block, 8), a.word(block.column(4))),
        Q8_0 => out.q = words(a, block, 2),
        Q4_K | Q5_K => {
            out.q = words(a, block, if TY == Q5_K { 48 } else { 16 } + 32 * (sub / 2));
            for q in &mut out.q {
                *q = bits(a, *q, 4 * (sub % 2), 15);
            }
            if TY == Q5_K {
                for (q, high) in out.q.iter_mut().zip(words(a, block, 16)) {
                    *q = a.or(*q, moved(a, high, sub, 4, 0x10));
                }
            }
            let (scale, minimum) = k_scales(a, block, sub);
            out.sub_scale = [scale; 2];
            out.sub_minimum = a.to_f32(minimum);
        }
        Q6_K => {
            // The words come behind the scale, which is the last in the file's block.
            let (half, quarter) = (sub / 4, sub % 4);
            out.q = words(a, block, 2 + 64 * half + 32 * (quarter % 2));
            let high = words(a, block, 2 + 128 + 32 * half);
            for (q, high) in out.q.iter_mut().zip(high) {
                *q = a.or(bits(a, *q, 4 * (quarter / 2), 15), moved(a, high, 2 * quarter, 4, 0x30));
            }
            // Sixteen sub-scales of a byte, four a word; this sub-block's two are neighbors.
            let scales = a.word(block.column(2 + 192 + 4 * (sub / 2)));
            for (half, scale) in out.sub_scale.iter_mut().enumerate() {
                *scale = a.right_signed(a.left(scales, 24 - 8 * (2 * (sub % 2) + half)), 24);
            }
        }
        _ => {}
    }
    out
}

/// 32 bytes of each row.
#[inline(always)]
fn words(a: Avx2, block: Rows<'_>, at: usize) -> [__m256i; 8] {
    let mut words = [a.zero(); 8];
    for (j, w) in words.iter_mut().enumerate() {
        *w = a.word(block.column(at + 4 * j));
    }
    words
}

/// `(byte >> shift) & mask` of every byte, where `mask << shift` stays in the byte.
#[inline(always)]
fn bits(a: Avx2, v: __m256i, shift: usize, mask: i8) -> __m256i {
    a.and(a.right(v, shift), a.bytes(mask))
}

/// Of every byte the bits at `from`, which `mask` picks when they have been moved to `to`.
#[inline(always)]
fn moved(a: Avx2, v: __m256i, from: usize, to: usize, mask: i8) -> __m256i {
    let there = if from > to { a.right(v, from - to) } else { a.left(v, to - from) };
    a.and(there, a.bytes(mask))
}

// 16 bytes hold 32 nibbles: low ones are weights 0..16, high ones 16..32.
#[inline(always)]
fn nibbles(a: Avx2, block: Rows<'_>, at: usize) -> [__m256i; 8] {
    let mut q = [a.zero(); 8];
    for j in 0..4 {
        let bytes = a.word(block.column(at + 4 * j));
        q[j] = bits(a, bytes, 0, 15);
        q[j + 4] = bits(a, bytes, 4, 15);
    }
    q
}

// Bit `i` of each row's word is the fifth bit of weight `i`: copy its byte to the lane's four bytes, pick one bit in
// each, and turn a set bit into 16.
#[inline(always)]
fn fifth_bits(a: Avx2, mut q: [__m256i; 8], word: __m256i) -> [__m256i; 8] {
    for (j, q) in q.iter_mut().enumerate() {
        let bit = a.longs(if j % 2 == 0 { 0x0804_0201 } else { 0x8040_2010_u32 as i32 });
        let set = a.equal_bytes(a.and(a.spread_byte(word, j / 2), bit), bit);
        *q = a.or(*q, a.and(set, a.bytes(16)));
    }
    q
}

/// Sub-scale and sub-minimum `sub` of eight Q4_K or Q5_K blocks.
#[inline(always)]
fn k_scales(a: Avx2, block: Rows<'_>, sub: usize) -> (__m256i, __m256i) {
    // Behind both f16: four scales, four minima, and four bytes of nibbles for the other four. What is taken apart is all
    // four of a kind, the same for all four sub-blocks.
    let (scale, minimum) = (a.word(block.column(4)), a.word(block.column(8)));
    let (scale, minimum) = if sub < 4 {
        (a.and(scale, a.bytes(63)), a.and(minimum, a.bytes(63)))
    } else {
        let rest = a.word(block.column(12));
        (
            a.or(bits(a, rest, 0, 15), moved(a, scale, 6, 4, 0x30)),
            a.or(bits(a, rest, 4, 15), moved(a, minimum, 6, 4, 0x30)),
        )
    };
    (a.only_byte(scale, sub % 4), a.only_byte(minimum, sub % 4))
}
