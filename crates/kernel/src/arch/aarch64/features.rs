//! What the cores have beyond the base architecture, from their identification registers.

#[cfg(feature = "simd")]
use cortex_a::registers::{ID_AA64ISAR0_EL1, ID_AA64ISAR1_EL1, Readable};

#[cfg(feature = "simd")]
use crate::llm::simd;

/// Nothing to tell: an image without vector kernels.
#[cfg(not(feature = "simd"))]
pub fn announce() {}

/// Tells the kernels which instructions they may use.
#[cfg(feature = "simd")]
pub fn announce() {
    // DP, bits 44 to 47: the dot-product instructions.
    if ID_AA64ISAR0_EL1.get() >> 44 & 0xf != 0 {
        // SAFETY: this core has them, and the cores of the machines this image starts on are of one kind.
        unsafe { simd::allow_dotprod() }
        // I8MM, bits 52 to 55: 8-bit matrix multiplication.
        if ID_AA64ISAR1_EL1.get() >> 52 & 0xf != 0 {
            // SAFETY: as above, and dot products are there too.
            unsafe { simd::allow_i8mm() }
        }
    }
}
