//! NEON as every AArch64 has it: four 32-bit lanes, no dot-product instructions.
//!
//! - `registers`: what [`super::lanes`] is made of.
//! - `matmul`: what [`super::product`] is made of, for weights of every type.
//! - `packed`: products with weights in this table's own layout, which is also that of [`super::dotprod`].
//! - `panels`: products of many positions in larger tiles, for tables that multiply integers several at a time.
//! - `memory`: loads and stores that stay whole on bare metal.
//!
//! Among instructions that do the same on a real core, `matmul` takes those that an emulator runs inline: shifts, masks and
//! 16-bit multiply-adds rather than widening multiplications and pairwise sums. `packed` takes the fewest.

use super::table::vector_table;
use core::arch::aarch64::*;

/// Functions that become part of whatever calls them, however large: what they give lies in registers, which a call
/// would have to put down. A build for size calls them otherwise, and takes twice the instructions for a token.
///
/// The compiler refuses that to functions that are compiled with instructions of their own. These are not: NEON is in
/// everything that is compiled for AArch64.
macro_rules! inlined {
    ($(
        $(#[$doc:meta])*
        $vis:vis fn $name:ident$(<$(const $c:ident: $t:ty),*>)?($($x:tt)*) $(-> $r:ty)? $body:block
    )*) => {
        $(
            $(#[$doc])*
            #[inline(always)]
            $vis fn $name$(<$(const $c: $t),*>)?($($x)*) $(-> $r)? {
                // SAFETY: only NEON's functions are called, and every CPU that this code runs on has it.
                unsafe { $body }
            }
        )*
    };
}

const _: () = assert!(cfg!(target_feature = "neon"), "built for an AArch64 without NEON");

#[cfg(feature = "simd")]
mod matmul;
#[cfg_attr(not(feature = "simd"), allow(dead_code, reason = "only products of packed weights"))]
mod memory;
#[cfg_attr(
    not(feature = "simd"),
    allow(dead_code, unused_imports, reason = "no other table takes its parts")
)]
pub(super) mod packed;
#[cfg(feature = "simd")]
pub(super) mod panels;
mod registers;

/// Proof that this CPU has NEON.
#[derive(Clone, Copy)]
struct Neon(());

impl Neon {
    /// The proof, for functions that are compiled with NEON.
    #[inline]
    #[target_feature(enable = "neon")]
    fn here() -> Self {
        Neon(())
    }
}

#[cfg(feature = "simd")]
vector_table! { "neon", "neon", Neon, 4 rows a group, packed by packed::PACKING }
// Weights that a caller leaves as they lie in the file are rare: those get the reference.
#[cfg(not(feature = "simd"))]
vector_table! { "neon", "neon", Neon, 4 rows a group, packed by packed::PACKING, others by super::scalar::matmul }

#[cfg(feature = "llm-transformer")]
super::operations::operations_table! { "neon", "neon", Neon, tiles of 6 by 1, 4 by 1 a time }

/// Four f16 widened.
#[inline]
#[target_feature(enable = "neon")]
fn widen(halves: uint16x4_t) -> float32x4_t {
    vcvt_f32_f16(vreinterpret_f16_u16(halves))
}
