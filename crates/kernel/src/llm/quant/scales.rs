//! Refuses weights whose scales are not finite numbers.

use core::fmt;

use half::f16;

use super::GgmlType;

/// A block whose scale or minimum (or, in a float type, whose value) is infinite or not a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadScale {
    /// Index of the first such block; in F32, F16 and BF16 a block is one element.
    pub block: usize,
}

impl fmt::Display for BadScale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "block {} holds an infinity or NaN: the file is damaged, fetch or convert it again",
            self.block
        )
    }
}

impl core::error::Error for BadScale {}

/// Checks that every scale, minimum and plain float value in whole blocks of type `ty` is finite.
///
/// Costs one read of the weights; done once when a model is loaded. `bytes` must be whole blocks.
pub fn check_scales(ty: GgmlType, bytes: &[u8]) -> Result<(), BadScale> {
    assert!(bytes.len().is_multiple_of(ty.block_bytes()), "{ty}: {} bytes are not whole blocks", bytes.len());
    let finite_f16 = |block: &[u8], at: usize| f16::from_le_bytes([block[at], block[at + 1]]).is_finite();
    let finite = |block: &[u8]| match ty {
        GgmlType::F32 => block.first_chunk().is_some_and(|&b: &[u8; 4]| f32::from_le_bytes(b).is_finite()),
        GgmlType::BF16 => u16::from_le_bytes([block[0], block[1]]) & 0x7f80 != 0x7f80,
        GgmlType::F16 | GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::Q8_0 => finite_f16(block, 0),
        GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4_K | GgmlType::Q5_K => {
            finite_f16(block, 0) && finite_f16(block, 2)
        }
        GgmlType::Q6_K => finite_f16(block, 208),
    };
    match bytes.chunks_exact(ty.block_bytes()).position(|block| !finite(block)) {
        Some(block) => Err(BadScale { block }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn a_scale_that_is_not_finite_is_refused_in_every_type() {
        for ty in GgmlType::ALL {
            let size = ty.block_bytes();
            // Byte offsets of the scales, and the exponent bytes that make each infinite.
            let (places, exponent): (&[usize], &[u8]) = match ty {
                GgmlType::F32 => (&[0], &[0, 0, 0x80, 0x7f]),
                GgmlType::BF16 => (&[0], &[0x80, 0x7f]),
                GgmlType::Q6_K => (&[208], &[0, 0x7c]),
                GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4_K | GgmlType::Q5_K => (&[0, 2], &[0, 0x7c]),
                _ => (&[0], &[0, 0x7c]),
            };
            let mut bytes = vec![0u8; size * 3];
            assert_eq!(check_scales(ty, &bytes), Ok(()));
            for place in places {
                for (sign, mantissa) in [(0, 0), (0x80, 0), (0, 1), (0x80, 1)] {
                    bytes.fill(0);
                    let scale = &mut bytes[2 * size + place..][..exponent.len()];
                    scale.copy_from_slice(exponent);
                    scale[0] |= mantissa;
                    scale[exponent.len() - 1] |= sign;
                    assert_eq!(check_scales(ty, &bytes), Err(BadScale { block: 2 }), "{ty}");
                }
            }
        }
    }
}
