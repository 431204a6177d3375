//! From block bytes to `f32`: the scalar reference, one function per block.
//!
//! In every type the products of scale and integer are exact in `f32` (11 significant bits of an f16 scale, at most
//! 8 of a sub-scale and 6 of a value), so a fused and an unfused multiply-add give the same bits and each element
//! is rounded at most once.
//!
//! The layouts are those of the GGUF format; `d` and `m` are f16, all integers little-endian:
//!
//! | type | bytes of a block, in order | element |
//! |---|---|---|
//! | Q4_0 | d, 16 nibble bytes | `(q - 8) * d` |
//! | Q4_1 | d, m, 16 nibble bytes | `q * d + m` |
//! | Q5_0 | d, u32 of fifth bits, 16 nibble bytes | `(q - 16) * d` |
//! | Q5_1 | d, m, u32 of fifth bits, 16 nibble bytes | `q * d + m` |
//! | Q8_0 | d, 32 signed bytes | `q * d` |
//! | Q4_K | d, dmin, 12 bytes of scales, 128 nibble bytes | `d * sc * q - dmin * mn` |
//! | Q5_K | d, dmin, 12 bytes of scales, 32 bytes of fifth bits, 128 nibble bytes | `d * sc * q - dmin * mn` |
//! | Q6_K | 128 nibble bytes, 64 bytes of upper bit pairs, 16 signed scales, d | `d * sc * (q - 32)` |
//!
//! Nibble byte `j` of a 32-block holds element `j` in its low half and element `j + 16` in its high half.

use half::f16;

use super::GgmlType;

/// Writes the `f32` values of whole blocks.
///
/// `bytes` must be exactly the blocks of `out.len()` elements of type `ty`; anything else is a mistake of the caller
/// and panics. A non-finite scale gives non-finite values (see [`super::check_scales`]).
pub fn dequantize(ty: GgmlType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(
        ty.row_bytes(out.len()),
        Some(bytes.len()),
        "{ty}: {} elements of {} bytes",
        out.len(),
        bytes.len()
    );
    match ty {
        GgmlType::F32 => {
            for (&b, out) in bytes.as_chunks::<4>().0.iter().zip(out) {
                *out = f32::from_le_bytes(b);
            }
        }
        GgmlType::F16 => {
            for (&b, out) in bytes.as_chunks::<2>().0.iter().zip(out) {
                *out = f16::from_le_bytes(b).to_f32();
            }
        }
        GgmlType::BF16 => {
            for (&b, out) in bytes.as_chunks::<2>().0.iter().zip(out) {
                *out = f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16);
            }
        }
        GgmlType::Q4_0 => blocks::<18, 32>(bytes, out, q4_0),
        GgmlType::Q4_1 => blocks::<20, 32>(bytes, out, q4_1),
        GgmlType::Q5_0 => blocks::<22, 32>(bytes, out, q5_0),
        GgmlType::Q5_1 => blocks::<24, 32>(bytes, out, q5_1),
        GgmlType::Q8_0 => blocks::<34, 32>(bytes, out, q8_0),
        GgmlType::Q4_K => blocks::<144, 256>(bytes, out, q4_k),
        GgmlType::Q5_K => blocks::<176, 256>(bytes, out, q5_k),
        GgmlType::Q6_K => blocks::<210, 256>(bytes, out, q6_k),
    }
}

fn blocks<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    out: &mut [f32],
    one: fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<LEN>().0) {
        one(block, out);
    }
}

/// The f16 at byte `at`, widened.
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (j, &byte) in block[2..].iter().enumerate() {
        out[j] = (i32::from(byte & 15) - 8) as f32 * d;
        out[j + 16] = (i32::from(byte >> 4) - 8) as f32 * d;
    }
}

fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (j, &byte) in block[4..].iter().enumerate() {
        out[j] = f32::from(byte & 15) * d + m;
        out[j + 16] = f32::from(byte >> 4) * d + m;
    }
}

/// Value of element `j` of a 5-bit block: four bits from the nibbles, the fifth from `high`.
fn five_bits(nibbles: &[u8], high: u32, j: usize) -> u8 {
    let low = if j < 16 { nibbles[j] & 15 } else { nibbles[j - 16] >> 4 };
    low | (((high >> j) & 1) as u8) << 4
}

fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    for (j, out) in out.iter_mut().enumerate() {
        *out = (i32::from(five_bits(&block[6..], high, j)) - 16) as f32 * d;
    }
}

fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    let high = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    for (j, out) in out.iter_mut().enumerate() {
        *out = f32::from(five_bits(&block[8..], high, j)) * d + m;
    }
}

fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (&q, out) in block[2..].iter().zip(out) {
        *out = f32::from(q as i8) * d;
    }
}

/// Six-bit scale and minimum of 32-element group `group` (0 to 7) of a Q4_K or Q5_K block.
///
/// `packed` are the block's 12 scale bytes: groups 0 to 3 use the low six bits of bytes 0..4 (scale) and 4..8 (minimum);
/// groups 4 to 7 take four bits from bytes 8..12 (low half scale, high half minimum) and two from the tops of the others.
pub fn k_scale_min(packed: &[u8; 12], group: usize) -> (u8, u8) {
    if group < 4 {
        (packed[group] & 63, packed[group + 4] & 63)
    } else {
        let low = packed[group + 4];
        ((low & 15) | (packed[group - 4] >> 6) << 4, (low >> 4) | (packed[group] >> 6) << 4)
    }
}

/// The 12 scale bytes of a Q4_K or Q5_K block.
fn k_scales(block: &[u8]) -> &[u8; 12] {
    block[4..].first_chunk().expect("a K block is longer than its scales")
}

fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = k_scale_min(k_scales(block), group);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        // Two groups share 32 bytes: the even one has the low nibbles.
        let nibbles = &block[16 + group / 2 * 32..][..32];
        for (&byte, out) in nibbles.iter().zip(out) {
            let q = if group % 2 == 0 { byte & 15 } else { byte >> 4 };
            *out = scale * f32::from(q) - min;
        }
    }
}

fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let high = &block[16..48];
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = k_scale_min(k_scales(block), group);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        let nibbles = &block[48 + group / 2 * 32..][..32];
        // Bit `group` of byte `i` is the fifth bit of element `i` of the group.
        for ((&byte, &high), out) in nibbles.iter().zip(high).zip(out) {
            let low = if group % 2 == 0 { byte & 15 } else { byte >> 4 };
            *out = scale * f32::from(low | ((high >> group) & 1) << 4) - min;
        }
    }
}

fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let d = half_at(block, 208);
    let scales = &block[192..208];
    // Each half of the block: 128 elements in four groups of 32, from 64 nibble bytes and 32 bytes of bit pairs.
    for (n, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (half, group) = (n / 4, n % 4);
        let low = &block[half * 64 + group % 2 * 32..][..32];
        let high = &block[128 + half * 32..][..32];
        for (i, out) in out.iter_mut().enumerate() {
            let nibble = if group < 2 { low[i] & 15 } else { low[i] >> 4 };
            let q = i32::from(nibble | ((high[i] >> (2 * group)) & 3) << 4) - 32;
            let scale = scales[2 * n + i / 16] as i8;
            *out = d * f32::from(scale) * q as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nibbles_of_a_block_are_halves_sixteen_apart() {
        let mut block = [0u8; 18];
        block[..2].copy_from_slice(&f16::from_f32(2.0).to_le_bytes());
        for (j, byte) in block[2..].iter_mut().enumerate() {
            *byte = j as u8 | (15 - j as u8) << 4;
        }
        let mut out = [0.0; 32];
        dequantize(GgmlType::Q4_0, &block, &mut out);
        for j in 0..16 {
            assert_eq!(out[j], (j as f32 - 8.0) * 2.0);
            assert_eq!(out[j + 16], (7.0 - j as f32) * 2.0);
        }
    }

    #[test]
    #[should_panic = "Q8_0: 32 elements of 33 bytes"]
    fn a_wrong_length_is_a_broken_promise() {
        dequantize(GgmlType::Q8_0, &[0; 33], &mut [0.0; 32]);
    }
}
