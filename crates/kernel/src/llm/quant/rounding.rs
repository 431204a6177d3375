//! From `f32` to block bytes, with the rounding of llama.cpp's reference code, so that files come out the same.
//!
//! | type | scale | value |
//! |---|---|---|
//! | Q4_0 | `d = v / -8`, `v` the value of largest magnitude (the first of equals) | `min(15, trunc(x / d + 8.5))` |
//! | Q5_0 | `d = v / -16` | `min(31, trunc(x / d + 16.5))` |
//! | Q4_1 | `d = (max - min) / 15`, `m = min` | `min(15, trunc((x - m) / d + 0.5))` |
//! | Q5_1 | `d = (max - min) / 31`, `m = min` | `trunc((x - m) / d + 0.5)` |
//! | Q8_0 | `d = amax / 127` | `x / d` rounded to nearest, halves away from zero |
//! | F16, BF16 | | nearest, halves to even |
//!
//! The division is a multiplication by `1 / d`, taken from the `f32` scale before it is rounded to f16.

use core::fmt;

use half::{bf16, f16};

use super::GgmlType;

/// Why values could not be quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantizeError {
    /// Files of this type are read, but not made.
    Type {
        /// The type asked for.
        ty: GgmlType,
    },
    /// An infinity or NaN among the values.
    NotFinite {
        /// Index of the value.
        index: usize,
    },
    /// A value, or the scale of its block, is too large for the type.
    OutOfRange {
        /// Index of the value, or of the first value of the block.
        index: usize,
    },
}

impl fmt::Display for QuantizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QuantizeError::Type { ty } => {
                write!(f, "{ty} cannot be written; choose F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0")
            }
            QuantizeError::NotFinite { index } => {
                write!(
                    f,
                    "value {index} is infinite or not a number: the model is damaged, fetch or convert it again"
                )
            }
            QuantizeError::OutOfRange { index } => {
                write!(f, "value {index} is too large for this type; choose F32 or BF16")
            }
        }
    }
}

impl core::error::Error for QuantizeError {}

/// Writes `src` as whole blocks of type `ty`.
///
/// `out` must be exactly the bytes of `src.len()` elements; anything else is a mistake of the caller and panics.
/// After an error `out` holds an unspecified part of the result.
pub fn quantize(ty: GgmlType, src: &[f32], out: &mut [u8]) -> Result<(), QuantizeError> {
    assert_eq!(
        ty.row_bytes(src.len()),
        Some(out.len()),
        "{ty}: {} elements in {} bytes",
        src.len(),
        out.len()
    );
    if let Some(index) = src.iter().position(|x| !x.is_finite()) {
        return Err(QuantizeError::NotFinite { index });
    }
    match ty {
        GgmlType::F32 => {
            for (x, out) in src.iter().zip(out.as_chunks_mut::<4>().0) {
                *out = x.to_le_bytes();
            }
            Ok(())
        }
        GgmlType::F16 => {
            for (index, (&x, out)) in src.iter().zip(out.as_chunks_mut::<2>().0).enumerate() {
                *out = finite_f16(x).ok_or(QuantizeError::OutOfRange { index })?;
            }
            Ok(())
        }
        GgmlType::BF16 => {
            for (index, (&x, out)) in src.iter().zip(out.as_chunks_mut::<2>().0).enumerate() {
                let x = bf16::from_f32(x);
                if !x.is_finite() {
                    return Err(QuantizeError::OutOfRange { index });
                }
                *out = x.to_le_bytes();
            }
            Ok(())
        }
        GgmlType::Q4_0 => blocks(src, out, q4_0),
        GgmlType::Q4_1 => blocks(src, out, q4_1),
        GgmlType::Q5_0 => blocks(src, out, q5_0),
        GgmlType::Q5_1 => blocks(src, out, q5_1),
        GgmlType::Q8_0 => blocks(src, out, q8_0),
        GgmlType::Q4_K | GgmlType::Q5_K | GgmlType::Q6_K => Err(QuantizeError::Type { ty }),
    }
}

/// Quantizes each block; `one` gives `None` where a scale is out of range.
fn blocks<const BYTES: usize>(
    src: &[f32],
    out: &mut [u8],
    one: fn(&[f32; 32], &mut [u8; BYTES]) -> Option<()>,
) -> Result<(), QuantizeError> {
    let (src, out) = (src.as_chunks::<32>().0, out.as_chunks_mut::<BYTES>().0);
    for (i, (src, out)) in src.iter().zip(out).enumerate() {
        one(src, out).ok_or(QuantizeError::OutOfRange { index: i * 32 })?;
    }
    Ok(())
}

/// The bytes of `x` rounded to f16, unless that is infinite.
fn finite_f16(x: f32) -> Option<[u8; 2]> {
    let x = f16::from_f32(x);
    x.is_finite().then(|| x.to_le_bytes())
}

/// `1 / d`, or 0 for a block of zeros.
fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// The value of largest magnitude with its sign; the first of equals.
fn extreme(src: &[f32; 32]) -> f32 {
    src.iter().fold(0.0, |max: f32, &x| if x.abs() > max.abs() { x } else { max })
}

fn min_max(src: &[f32; 32]) -> (f32, f32) {
    src.iter().fold((f32::MAX, f32::MIN), |(min, max), &x| {
        (if x < min { x } else { min }, if x > max { x } else { max })
    })
}

/// Packs 32 values into 16 nibble bytes and returns their fifth bits.
fn pack(q: &[u8; 32], nibbles: &mut [u8]) -> u32 {
    for (j, out) in nibbles.iter_mut().enumerate() {
        *out = q[j] & 15 | q[j + 16] << 4;
    }
    q.iter().enumerate().fold(0, |high, (j, &q)| high | u32::from(q >> 4 & 1) << j)
}

fn q4_0(src: &[f32; 32], out: &mut [u8; 18]) -> Option<()> {
    let d = extreme(src) / -8.0;
    let id = inverse(d);
    out[..2].copy_from_slice(&finite_f16(d)?);
    pack(&src.map(|x| ((x * id + 8.5) as u8).min(15)), &mut out[2..]);
    Some(())
}

fn q4_1(src: &[f32; 32], out: &mut [u8; 20]) -> Option<()> {
    let (min, max) = min_max(src);
    let d = (max - min) / 15.0;
    let id = inverse(d);
    out[..2].copy_from_slice(&finite_f16(d)?);
    out[2..4].copy_from_slice(&finite_f16(min)?);
    pack(&src.map(|x| (((x - min) * id + 0.5) as u8).min(15)), &mut out[4..]);
    Some(())
}

fn q5_0(src: &[f32; 32], out: &mut [u8; 22]) -> Option<()> {
    let d = extreme(src) / -16.0;
    let id = inverse(d);
    out[..2].copy_from_slice(&finite_f16(d)?);
    let high = pack(&src.map(|x| ((x * id + 16.5) as u8).min(31)), &mut out[6..]);
    out[2..6].copy_from_slice(&high.to_le_bytes());
    Some(())
}

fn q5_1(src: &[f32; 32], out: &mut [u8; 24]) -> Option<()> {
    let (min, max) = min_max(src);
    let d = (max - min) / 31.0;
    let id = inverse(d);
    out[..2].copy_from_slice(&finite_f16(d)?);
    out[2..4].copy_from_slice(&finite_f16(min)?);
    let high = pack(&src.map(|x| ((x - min) * id + 0.5) as u8), &mut out[8..]);
    out[4..8].copy_from_slice(&high.to_le_bytes());
    Some(())
}

fn q8_0(src: &[f32; 32], out: &mut [u8; 34]) -> Option<()> {
    let amax = src.iter().fold(0.0, |max: f32, x| if x.abs() > max { x.abs() } else { max });
    let d = amax / 127.0;
    let id = inverse(d);
    out[..2].copy_from_slice(&finite_f16(d)?);
    for (&x, out) in src.iter().zip(&mut out[2..]) {
        *out = libm::roundf(x * id) as i8 as u8;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::quant::dequantize;
    use alloc::vec;

    #[test]
    fn values_on_the_grid_survive_a_round_trip() {
        // With these extremes every scale is a power of two, so each block's own grid is met exactly.
        for (ty, from, step) in [
            (GgmlType::Q4_0, -8.0, 0.5),
            (GgmlType::Q4_1, 3.0, 0.5),
            (GgmlType::Q5_0, -16.0, 1.0),
            (GgmlType::Q5_1, -3.0, 0.25),
            (GgmlType::Q8_0, -127.0, 8.0),
        ] {
            let levels = match ty {
                GgmlType::Q4_0 | GgmlType::Q4_1 => 16,
                _ => 32,
            };
            let step = if ty == GgmlType::Q4_0 { 1.0 } else { step };
            let src: [f32; 32] = core::array::from_fn(|i| from + step * (i % levels) as f32);
            let mut bytes = vec![0; ty.block_bytes()];
            quantize(ty, &src, &mut bytes).unwrap();
            let mut back = [0.0; 32];
            dequantize(ty, &bytes, &mut back);
            assert_eq!(back, src, "{ty}");
        }
    }

    #[test]
    fn halves_round_as_llama_cpp_rounds_them() {
        let mut src = [0.0; 32];
        (src[0], src[1], src[2]) = (127.0, 0.5, -2.5);
        let mut bytes = [0; 34];
        quantize(GgmlType::Q8_0, &src, &mut bytes).unwrap();
        assert_eq!(bytes[2..5], [127, 1, -3i8 as u8], "away from zero");
        (src[0], src[1], src[2]) = (8.0, 0.5, -8.0);
        let mut bytes = [0; 18];
        quantize(GgmlType::Q4_0, &src, &mut bytes).unwrap();
        assert_eq!(bytes[..2], f16::from_f32(-1.0).to_le_bytes(), "the first of two extremes gives the sign");
        assert_eq!([bytes[2] & 15, bytes[3] & 15, bytes[4] & 15], [0, 8, 15]);
    }

    #[test]
    fn values_that_do_not_fit_are_refused() {
        let mut src = [1.0; 32];
        for ty in GgmlType::ALL.into_iter().filter(|ty| ty.block_len() <= 32) {
            let mut bytes = vec![0; ty.row_bytes(32).unwrap()];
            src[5] = f32::NAN;
            assert_eq!(quantize(ty, &src, &mut bytes), Err(QuantizeError::NotFinite { index: 5 }));
            src[5] = f32::MAX;
            let index = if ty.is_quantized() { 0 } else { 5 };
            let expected =
                if ty == GgmlType::F32 { Ok(()) } else { Err(QuantizeError::OutOfRange { index }) };
            assert_eq!(quantize(ty, &src, &mut bytes), expected, "{ty}");
        }
        let ty = GgmlType::Q6_K;
        assert_eq!(quantize(ty, &[0.0; 256], &mut [0; 210]), Err(QuantizeError::Type { ty }));
    }

    #[test]
    fn a_block_of_zeros_decodes_to_zeros() {
        for ty in GgmlType::ALL.into_iter().filter(|ty| ty.block_len() <= 32) {
            let mut bytes = vec![0xff; ty.row_bytes(32).unwrap()];
            quantize(ty, &[0.0; 32], &mut bytes).unwrap();
            let mut out = [1.0; 32];
            dequantize(ty, &bytes, &mut out);
            assert!(out.iter().all(|&x| x == 0.0), "{ty}");
        }
    }
}
