//! AVX2 with FMA and F16C: eight 32-bit lanes.
//!
//! - `registers`: what [`super::lanes`] is made of.
//! - `matmul`: what [`super::product`] is made of, for weights as they lie in the file.
//! - `packed` and `floats`: the walk over packed weights, which [`super::avxvnni`] shares; `unpack` takes them apart,
//!   `bytes` multiplies them, and `operations` is what they are made of.

use super::table::vector_table;
use core::arch::x86_64::*;
use packed::packed_products;

mod bytes;
pub(super) mod floats;
mod matmul;
mod operations;
pub(super) mod packed;
mod registers;
pub(super) mod unpack;

/// Proof that this CPU has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    /// The proof, for functions that are compiled with these features.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn here() -> Self {
        Avx2(())
    }
}

vector_table! { "avx2", "avx2,fma,f16c", Avx2, 8 rows a group, packed by PACKING }

packed_products! { "avx2,fma,f16c", Avx2 }

#[cfg(feature = "llm-transformer")]
super::operations::operations_table! { "avx2", "avx2,fma,f16c", Avx2, tiles of 6 by 1, 4 by 1 a time }

/// Whether this CPU, and the operating system's saving of registers, have what the table needs.
#[cfg(feature = "std")]
pub(super) fn detected() -> bool {
    std::arch::is_x86_feature_detected!("avx2")
        && std::arch::is_x86_feature_detected!("fma")
        && std::arch::is_x86_feature_detected!("f16c")
}

/// Whether this CPU, and the operating system's saving of registers, have what the table needs.
#[cfg(not(feature = "std"))]
pub(super) fn detected() -> bool {
    if __cpuid(0).eax < 7 {
        return false;
    }
    let basic = __cpuid(1).ecx;
    // Bits of leaf 1: FMA 12, OSXSAVE 27, AVX 28, F16C 29.
    let wanted = 1 << 12 | 1 << 27 | 1 << 28 | 1 << 29;
    if basic & wanted != wanted {
        return false;
    }
    // SAFETY: OSXSAVE was just seen, so `xgetbv` exists and may be executed.
    let saved = unsafe { xgetbv() };
    // XMM and YMM state are saved (bits 1 and 2); AVX2 is bit 5 of leaf 7.
    saved & 6 == 6 && __cpuid_count(7, 0).ebx & (1 << 5) != 0
}

/// Extended control register 0: which register state the operating system saves.
#[cfg(not(feature = "std"))]
#[target_feature(enable = "xsave")]
pub(super) fn xgetbv() -> u64 {
    // SAFETY: register 0 exists wherever the instruction does.
    unsafe { _xgetbv(0) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load(x: &[f32; 8]) -> __m256 {
    // SAFETY: eight floats are readable behind the reference; the load needs no alignment.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store(x: &mut [f32; 8], v: __m256) {
    // SAFETY: eight floats are writable behind the reference; the store needs no alignment.
    unsafe { _mm256_storeu_ps(x.as_mut_ptr(), v) }
}
