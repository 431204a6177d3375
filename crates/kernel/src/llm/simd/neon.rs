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

mod matmul;
mod memory;
pub(super) mod packed;
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

vector_table! { "neon", "neon", Neon, 4 rows a group, packed by packed::PACKING }

#[cfg(feature = "llm-transformer")]
super::operations::operations_table! { "neon", "neon", Neon, tiles of 6 by 1, 4 by 1 a time }

/// Four f16 widened.
#[inline]
#[target_feature(enable = "neon")]
fn widen(halves: uint16x4_t) -> float32x4_t {
    vcvt_f32_f16(vreinterpret_f16_u16(halves))
}
