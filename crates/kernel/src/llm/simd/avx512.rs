//! AVX-512 with VNNI: sixteen 32-bit lanes, and four products of bytes added in one instruction.
//!
//! - `registers`: what [`super::lanes`] is made of.
//! - `unpack`: packed weights of every type, ready to be multiplied.
//! - `blocks` and `floats`: products of quantized and of float weights.
//!
//! Weights as they lie in the file go through the AVX2 table's products.

use super::table::vector_table;
use super::{Activations, Packing, packed, product, scalar};
use crate::llm::quant::GgmlType;

mod blocks;
mod floats;
mod registers;
mod unpack;

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
    packed by Packing { rows: 16, pack: packed::pack::<16>, unpack: packed::unpack_row, turned: packed::unsigned_bytes, matmul: products },
    others by super::avx2::TABLE.matmul
}

#[cfg(feature = "llm-transformer")]
super::operations::operations_table! { "avx512", "avx512f,avx512bw,avx512vnni,avx2,fma,f16c", Avx512, tiles of 6 by 4, 8 by 3 a time }

/// Products of packed weights.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
fn products(ty: GgmlType, weights: &[u8], rows: usize, x: &Activations<'_>, out: &mut [f32]) {
    // A function for each type, so that one type's code cannot crowd another's registers.
    macro_rules! of_type {
        ($($groups:ident: $($ty:ident)*;)*) => {
            match ty {
                $($(GgmlType::$ty => {
                    #[inline(never)]
                    #[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
                    fn groups(weights: &[u8], rows: usize, x: &Activations<'_>, out: &mut [f32]) {
                        $groups::groups::<{ product::$ty }>(weights, rows, x, out);
                    }
                    groups(weights, rows, x, out);
                })*)*
            }
        };
    }
    of_type! {
        blocks: Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q4_K Q5_K Q6_K;
        floats: F32 F16 BF16;
    }
    // What is no whole group.
    scalar::matmul_rows(ty, weights, rows, rows / 16 * 16..rows, x, out);
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
