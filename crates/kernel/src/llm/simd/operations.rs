//! Kernels of [`crate::llm::operations`]: one table per instruction set, all with the same bits.
//!
//! - `scalar` defines every kernel.
//! - `product` is the packed, register-blocked f32 product in vector registers of any kind, `attention` the fused attention,
//!   `elements` functions of every element, `rows` norms, softmax and the product with a vector.
//!
//! Tables are apart from [`super::Kernels`], so that a kernel image that runs models only does not carry them.

use super::{Kernels, available as kernels};
use crate::llm::operations::View;

#[cfg(any(all(feature = "neon", target_arch = "aarch64"), all(feature = "simd", target_arch = "x86_64")))]
pub(super) mod attention;
#[cfg(any(all(feature = "neon", target_arch = "aarch64"), all(feature = "simd", target_arch = "x86_64")))]
pub(super) mod elements;
#[cfg(any(all(feature = "neon", target_arch = "aarch64"), all(feature = "simd", target_arch = "x86_64")))]
pub(super) mod product;
#[cfg(any(all(feature = "neon", target_arch = "aarch64"), all(feature = "simd", target_arch = "x86_64")))]
pub(super) mod rows;
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
    /// A function of every element: of the second slice, or of the result itself; past the caches or not.
    pub(in crate::llm) map: unsafe fn(Function, Option<&[f32]>, &mut [f32], bool),
    /// A function of every element plus its column's bias.
    pub(in crate::llm) map_biased: unsafe fn(Function, &[f32], &[f32], &mut [f32], bool),
    pub(in crate::llm) silu_mul: unsafe fn(&[f32], &[f32], &mut [f32], bool),
    /// Rows, from one to the next, vector, result.
    pub(in crate::llm) matvec: unsafe fn(&[f32], usize, &[f32], &mut [f32]),
    pub(in crate::llm) rms_norm: unsafe fn(&[f32], &[f32], f32, &mut [f32], bool),
    pub(in crate::llm) layer_norm: unsafe fn(&[f32], &[f32], &[f32], f32, &mut [f32], bool),
    /// A row in place, multiplied first.
    pub(in crate::llm) softmax: unsafe fn(&mut [f32], f32),
    /// Queries of a tile.
    pub(in crate::llm) queries: usize,
    /// A tile of queries, scratch of [`Attend::scratch`] floats, result.
    pub(in crate::llm) attend: unsafe fn(&Attend<'_>, &mut [f32], &mut [f32]),
}

/// A function of one element; [`crate::llm::math`] states each one's bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Function {
    /// `x`: a copy, which is what no other can be faster than.
    Identity,
    /// The larger of `x` and 0; NaN stays.
    Relu,
    /// `e^x`.
    Exp,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// `x / (1 + e^-x)`.
    Silu,
    /// Hyperbolic tangent.
    Tanh,
    /// `x` times the integral of the normal distribution: GELU as defined by `erf`.
    Gelu,
    /// GELU's approximation by `tanh`.
    GeluTanh,
}

impl Function {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Identity,
        Self::Relu,
        Self::Exp,
        Self::Sigmoid,
        Self::Silu,
        Self::Tanh,
        Self::Gelu,
        Self::GeluTanh,
    ];

    /// `identity`, `relu`, `exp`, `sigmoid`, `silu`, `tanh`, `gelu` or `gelu_tanh`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Relu => "relu",
            Self::Exp => "exp",
            Self::Sigmoid => "sigmoid",
            Self::Silu => "silu",
            Self::Tanh => "tanh",
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu_tanh",
        }
    }
}

/// Keys whose softmax is computed in one piece; pieces start at multiples of it.
pub(in crate::llm) const KEYS: usize = 128;

/// A tile of one head's queries, and all keys and values of its group.
#[derive(Clone, Copy, Debug)]
pub(in crate::llm) struct Attend<'a> {
    pub(in crate::llm) head_dim: usize,
    /// At least one, and as many as the table's tiles have columns at most.
    pub(in crate::llm) queries: usize,
    /// `[queries × head_dim]`.
    pub(in crate::llm) q: &'a [f32],
    /// `[keys × head_dim]`.
    pub(in crate::llm) k: &'a [f32],
    /// `[keys × head_dim]`.
    pub(in crate::llm) v: &'a [f32],
    /// How many keys the first query sees, at least one.
    pub(in crate::llm) first_sees: usize,
    /// Whether each query sees one key more than the one before.
    pub(in crate::llm) causal: bool,
    pub(in crate::llm) scale: f32,
}

impl Attend<'_> {
    /// How many keys query `i` sees.
    pub(in crate::llm) fn seen(&self, i: usize) -> usize {
        self.first_sees + if self.causal { i } else { 0 }
    }

    /// Floats of scratch for tiles of `columns`.
    pub(in crate::llm) const fn scratch(head_dim: usize, columns: usize) -> usize {
        (2 * head_dim + KEYS) * columns
    }
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

impl Product {
    /// How many panels so many columns of the right side are packed in, where the last two count as one if together they are
    /// little more than one.
    pub(in crate::llm) fn panels(&self, columns: usize) -> usize {
        let (whole, rest) = (columns / self.columns, columns % self.columns);
        if whole > 0 && panel(self.columns + rest, self.columns) < self.columns {
            whole
        } else {
            columns.div_ceil(self.columns)
        }
    }
}

/// Columns of the next panel where so many are left, in tiles of `tile`. Rather than one of four steps and one of one, whose tiles
/// have too few sums to hide a multiplication's time, there are one of three and one of two.
pub(in crate::llm::simd) fn panel(columns: usize, tile: usize) -> usize {
    if tile == 4 * STEP && columns.div_ceil(STEP) == 5 { 3 * STEP } else { tile.min(columns) }
}

/// The left side of a block.
#[derive(Clone, Copy)]
pub(in crate::llm) enum Left<'a> {
    /// In panels, by [`Product::pack_left`].
    Packed(&'a [f32]),
    /// Where it lies, each row in one piece.
    Lines(View<'a>),
}

/// A block of a product whose right side is packed.
pub(in crate::llm) struct Block<'a> {
    pub(in crate::llm) left: Left<'a>,
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
            #[cfg(all(feature = "neon", target_arch = "aarch64"))]
            "neon" => Some(&super::neon::OPERATIONS),
            _ => None,
        }
    }
}

/// The table of an instruction set, whose tiles of a product are of so many rows and steps of columns, and of attention of so many
/// keys at a time by steps of queries.
#[cfg(any(all(feature = "neon", target_arch = "aarch64"), all(feature = "simd", target_arch = "x86_64")))]
macro_rules! operations_table {
    (
        $name:literal, $features:literal, $set:ident,
        tiles of $rows:literal by $steps:literal, $some:literal by $wide:literal a time
    ) => {
        pub(super) static OPERATIONS: $crate::llm::simd::operations::Operations = {
            use $crate::llm::operations::View;
            use $crate::llm::simd::operations::{
                Attend, Block, Function, Operations, Product, STEP, attention, elements, product, rows,
            };
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
            #[target_feature(enable = $features)]
            fn attend(x: &Attend<'_>, scratch: &mut [f32], out: &mut [f32]) {
                attention::attend::<_, _, $some, $wide>($set::here(), x, scratch, out);
            }
            $crate::llm::simd::operations::operations_table! { entries $features, $set:
                elements fn map(function: Function, x: Option<&[f32]>, out: &mut [f32], past: bool);
                elements fn map_biased(function: Function, x: &[f32], bias: &[f32], out: &mut [f32], past: bool);
                elements fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f32], past: bool);
                rows fn matvec(a: &[f32], row_step: usize, x: &[f32], out: &mut [f32]);
                rows fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32], past: bool);
                rows fn layer_norm(
                    x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32], past: bool
                );
                rows fn softmax(x: &mut [f32], scale: f32);
            }
            Operations {
                name: $name,
                product: Product { rows: $rows, columns: $steps * STEP, pack_left, pack_right, block },
                map,
                map_biased,
                silu_mul,
                matvec,
                rms_norm,
                layer_norm,
                softmax,
                queries: $wide * STEP,
                attend,
            }
        };
    };
    (entries $features:literal, $set:ident: $($module:ident fn $f:ident($($x:ident: $t:ty),* $(,)?);)*) => {
        $(
            #[target_feature(enable = $features)]
            fn $f($($x: $t),*) {
                $module::$f($set::here(), $($x),*)
            }
        )*
    };
}
#[cfg(any(
    all(feature = "neon", target_arch = "aarch64"),
    all(feature = "simd", target_arch = "x86_64")
))]
pub(super) use operations_table;
