//! AVX-512 with VNNI: sixteen 32-bit lanes, and four products of bytes added in one instruction.
//!
//! - `registers`: what [`super::lanes`] is made of.
//! - `matmul`: what [`super::product`] is made of, for packed weights of every type.
//!
//! Weights as they lie in the file go through the AVX2 table's products.

use super::table::vector_table;

mod matmul;
mod registers;

/// Proof that this CPU has AVX-512 F, BW and VNNI besides what AVX2's table needs.
#[derive(Clone, Copy)]
struct Avx512(());

impl Avx512 {
    /// The proof, for functions that are compiled with these features.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
    fn here() -> Self {
        Avx512(())
    }
}

vector_table! {
    "avx512", "avx512f,avx512bw,avx512vnni,avx2,fma,f16c", Avx512, 16 rows a group,
    packed, others by super::avx2::TABLE.matmul
}

/// Whether this CPU, and the operating system's saving of registers, have what the table needs.
#[cfg(feature = "std")]
pub(super) fn detected() -> bool {
    super::avx2::detected()
        && std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("avx512vnni")
}

/// Whether this CPU, and the operating system's saving of registers, have what the table needs.
#[cfg(not(feature = "std"))]
pub(super) fn detected() -> bool {
    if !super::avx2::detected() {
        return false;
    }
    // SAFETY: AVX2's table has seen OSXSAVE, so `xgetbv` exists and may be executed.
    let saved = unsafe { super::avx2::xgetbv() };
    let leaf = core::arch::x86_64::__cpuid_count(7, 0);
    // Mask registers and both parts of ZMM state are saved (bits 5 to 7); F is bit 16 of ebx, BW bit 30, VNNI bit 11
    // of ecx.
    let wanted = 1 << 16 | 1 << 30;
    saved & 0xe0 == 0xe0 && leaf.ebx & wanted == wanted && leaf.ecx & (1 << 11) != 0
}
