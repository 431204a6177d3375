//! Kernels of [`crate::llm::operations`]: one table per instruction set, all with the same bits.
//!
//! - `scalar` defines every kernel.
//! - `product` is the packed, register-blocked f32 product in vector registers of any kind.
//!
//! Tables are apart from [`super::Kernels`], so that a kernel image that runs models only does not carry them.

use super::{Kernels, available as kernels};
use crate::llm::operations::View;

#[cfg(all(feature = "simd", any(target_arch = "aarch64", target_arch = "x86_64")))]
pub(super) mod product;
mod scalar;

/// Columns that the panels of a product's right side are multiples of: one step of every instruction set.
pub(in crate::llm) const STEP: usize = super::scalar::LANES;

/// The f32 tensor kernels of one instruction set.
///
/// All tables give the same bits. As with [`Kernels`], a table can only be had for a CPU that has its instructions; its
/// operations are methods of [`crate::llm::operations`].
pub struct Operations {
    /// `scalar`, `avx2`, `avx512` or `neon`.
    pub name: &'static str,
    pub(in crate::llm) product: Product,
}

/// How one instruction set multiplies.
pub(in crate::llm) struct Product {
    /// Rows of the left side that a tile takes; its panels are padded to them.
    pub(in crate::llm) rows: usize,
    /// Columns of the right side that a tile takes, a multiple of [`STEP`]; the last panel is padded to whole steps.
    pub(in crate::llm) columns: usize,
    /// Lays out the rows of the left side in panels: `[panel][k][rows]`.
    pub(in crate::llm) pack_left: unsafe fn(View<'_>, &mut [f32]),
    /// Lays out the columns of the right side in panels: `[panel][k][columns]`.
    pub(in crate::llm) pack_right: unsafe fn(View<'_>, &mut [f32]),
    /// The product of both.
    pub(in crate::llm) block: unsafe fn(&Block<'_>, &mut [f32]),
}

/// A block of a product whose sides are packed.
pub(in crate::llm) struct Block<'a> {
    pub(in crate::llm) left: &'a [f32],
    pub(in crate::llm) right: &'a [f32],
    /// Terms of each sum.
    pub(in crate::llm) k: usize,
    pub(in crate::llm) rows: usize,
    pub(in crate::llm) columns: usize,
    /// From one row of the result to the next.
    pub(in crate::llm) row_step: usize,
    /// Whether sums start at zero, rather than go on from what the result has.
    pub(in crate::llm) first: bool,
}

impl core::fmt::Debug for Operations {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Operations").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Operations {
    /// The reference table.
    pub fn scalar() -> &'static Self {
        &scalar::TABLE
    }

    /// Every table this CPU can run, the scalar one first and the fastest last.
    pub fn available() -> impl Iterator<Item = &'static Self> {
        kernels().filter_map(Self::beside)
    }

    /// The fastest table this CPU can run.
    pub fn best() -> &'static Self {
        Self::available().last().unwrap_or(Self::scalar())
    }

    /// The table of that name, if this build has it and this CPU can run it.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        Self::available().find(|operations| operations.name == name)
    }

    /// The table that needs what `kernels` needs; sets that only add products of integers have none of their own.
    fn beside(kernels: &'static Kernels) -> Option<&'static Self> {
        match kernels.name {
            "scalar" => Some(Self::scalar()),
            #[cfg(all(feature = "simd", target_arch = "x86_64"))]
            "avx2" => Some(&super::avx2::OPERATIONS),
            #[cfg(all(feature = "simd", target_arch = "x86_64"))]
            "avx512" => Some(&super::avx512::OPERATIONS),
            #[cfg(all(feature = "simd", target_arch = "aarch64"))]
            "neon" => Some(&super::neon::OPERATIONS),
            _ => None,
        }
    }
}

/// The table of an instruction set, whose tiles are of so many rows and steps of columns.
#[cfg(all(feature = "simd", any(target_arch = "aarch64", target_arch = "x86_64")))]
macro_rules! operations_table {
    ($name:literal, $features:literal, $set:ident, tiles of $rows:literal by $steps:literal) => {
        pub(super) static OPERATIONS: $crate::llm::simd::operations::Operations = {
            use $crate::llm::operations::View;
            use $crate::llm::simd::operations::{Block, Operations, Product, STEP, product};
            #[target_feature(enable = $features)]
            fn pack_left(x: View<'_>, out: &mut [f32]) {
                product::pack_left::<$rows>(x, out);
            }
            #[target_feature(enable = $features)]
            fn pack_right(x: View<'_>, out: &mut [f32]) {
                product::pack_right::<$steps>(x, out);
            }
            #[target_feature(enable = $features)]
            fn block(x: &Block<'_>, out: &mut [f32]) {
                product::block::<_, _, $rows, $steps>($set::here(), x, out);
            }
            Operations {
                name: $name,
                product: Product { rows: $rows, columns: $steps * STEP, pack_left, pack_right, block },
            }
        };
    };
}
#[cfg(all(feature = "simd", any(target_arch = "aarch64", target_arch = "x86_64")))]
pub(super) use operations_table;
