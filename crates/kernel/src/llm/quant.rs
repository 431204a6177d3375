//! The block formats of weights: what each type is, and how it becomes `f32` and back.
//!
//! Read in this order:
//! 1. [`GgmlType`] names the types and gives their block sizes.
//! 2. [`dequantize`] is the scalar reference from bytes to `f32`, for every type.
//! 3. [`quantize`] goes the other way, with llama.cpp's own rounding, for the types that files are written in.
//! 4. [`check_scales`] refuses blocks whose scale is not a finite number; it runs once, when a model is loaded.
//!
//! All formats are little-endian and are described block by block in [`blocks`]. Nothing here allocates.
#![forbid(unsafe_code)]

pub mod blocks;
pub mod rounding;
mod scales;

pub use blocks::{dequantize, k_scale_min};
pub use rounding::{QuantizeError, quantize};
pub use scales::{BadScale, check_scales};

/// Type of a tensor's elements, with the numbers that GGUF files use.
///
/// Types that this runtime does not compute with (`Q2_K`, `IQ4_NL`, integers, …) have no variant, so that
/// [`GgmlType::from_id`] is the one place where they are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[allow(non_camel_case_types)] // the names every tool prints
pub enum GgmlType {
    /// IEEE single precision.
    F32 = 0,
    /// IEEE half precision.
    F16 = 1,
    /// 32 4-bit values about 8, one f16 scale.
    Q4_0 = 2,
    /// 32 4-bit values, f16 scale and f16 minimum.
    Q4_1 = 3,
    /// 32 5-bit values about 16, one f16 scale.
    Q5_0 = 6,
    /// 32 5-bit values, f16 scale and f16 minimum.
    Q5_1 = 7,
    /// 32 signed bytes, one f16 scale.
    Q8_0 = 8,
    /// 256 4-bit values in 8 groups with 6-bit scales and minima.
    Q4_K = 12,
    /// 256 5-bit values in 8 groups with 6-bit scales and minima.
    Q5_K = 13,
    /// 256 6-bit values about 32 in 16 groups with 8-bit scales.
    Q6_K = 14,
    /// The upper half of an IEEE single.
    BF16 = 30,
}

impl GgmlType {
    /// Every type, in order of its number.
    pub const ALL: [GgmlType; 11] = [
        GgmlType::F32,
        GgmlType::F16,
        GgmlType::Q4_0,
        GgmlType::Q4_1,
        GgmlType::Q5_0,
        GgmlType::Q5_1,
        GgmlType::Q8_0,
        GgmlType::Q4_K,
        GgmlType::Q5_K,
        GgmlType::Q6_K,
        GgmlType::BF16,
    ];

    /// The type with this number in a file, or `None` for one that is unknown or not supported.
    pub const fn from_id(id: u32) -> Option<Self> {
        Some(match id {
            0 => GgmlType::F32,
            1 => GgmlType::F16,
            2 => GgmlType::Q4_0,
            3 => GgmlType::Q4_1,
            6 => GgmlType::Q5_0,
            7 => GgmlType::Q5_1,
            8 => GgmlType::Q8_0,
            12 => GgmlType::Q4_K,
            13 => GgmlType::Q5_K,
            14 => GgmlType::Q6_K,
            30 => GgmlType::BF16,
            _ => return None,
        })
    }

    /// The usual name, such as `Q4_0`.
    pub const fn name(self) -> &'static str {
        match self {
            GgmlType::F32 => "F32",
            GgmlType::F16 => "F16",
            GgmlType::Q4_0 => "Q4_0",
            GgmlType::Q4_1 => "Q4_1",
            GgmlType::Q5_0 => "Q5_0",
            GgmlType::Q5_1 => "Q5_1",
            GgmlType::Q8_0 => "Q8_0",
            GgmlType::Q4_K => "Q4_K",
            GgmlType::Q5_K => "Q5_K",
            GgmlType::Q6_K => "Q6_K",
            GgmlType::BF16 => "BF16",
        }
    }

    /// Elements in one block: 1 for the float types, 32, or 256 for the K types.
    pub const fn block_len(self) -> usize {
        match self {
            GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => 1,
            GgmlType::Q4_0 | GgmlType::Q4_1 | GgmlType::Q5_0 | GgmlType::Q5_1 | GgmlType::Q8_0 => 32,
            GgmlType::Q4_K | GgmlType::Q5_K | GgmlType::Q6_K => 256,
        }
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            GgmlType::F32 => 4,
            GgmlType::F16 | GgmlType::BF16 => 2,
            GgmlType::Q4_0 => 2 + 16,
            GgmlType::Q4_1 => 2 + 2 + 16,
            GgmlType::Q5_0 => 2 + 4 + 16,
            GgmlType::Q5_1 => 2 + 2 + 4 + 16,
            GgmlType::Q8_0 => 2 + 32,
            GgmlType::Q4_K => 2 + 2 + 12 + 128,
            GgmlType::Q5_K => 2 + 2 + 12 + 32 + 128,
            GgmlType::Q6_K => 128 + 64 + 16 + 2,
        }
    }

    /// Whether elements share scales in blocks (everything but F32, F16 and BF16).
    pub const fn is_quantized(self) -> bool {
        self.block_len() > 1
    }

    /// Bytes of `elements` consecutive elements; `None` if they do not fill whole blocks or the size overflows.
    pub const fn row_bytes(self, elements: usize) -> Option<usize> {
        if !elements.is_multiple_of(self.block_len()) {
            return None;
        }
        (elements / self.block_len()).checked_mul(self.block_bytes())
    }
}

impl core::fmt::Display for GgmlType {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_found_by_its_own_number() {
        for ty in GgmlType::ALL {
            assert_eq!(GgmlType::from_id(ty as u32), Some(ty));
        }
        let known = (0..1000).filter(|&id| GgmlType::from_id(id).is_some()).count();
        assert_eq!(known, GgmlType::ALL.len());
    }

    #[test]
    fn rows_are_whole_blocks_and_never_overflow() {
        assert_eq!(GgmlType::Q4_0.row_bytes(64), Some(36));
        assert_eq!(GgmlType::Q4_0.row_bytes(63), None);
        assert_eq!(GgmlType::Q6_K.row_bytes(256), Some(210));
        assert_eq!(GgmlType::Q6_K.row_bytes(128), None);
        assert_eq!(GgmlType::F32.row_bytes(usize::MAX), None);
        assert_eq!(GgmlType::F32.row_bytes(0), Some(0));
    }
}
