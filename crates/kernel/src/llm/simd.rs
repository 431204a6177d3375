//! The arithmetic: one table of kernels per instruction set, all with the same bits.
//!
//! - `scalar` defines every operation: plain, safe and slow; always built.
//! - `attention` is queries against keys and values, also one query at a time.
//! - `lanes`, `product` and `attention::vector` repeat them in vector registers of any kind (feature `simd`), `table` compiles
//!   them for one instruction set, and `avx2`, `avxvnni`, `avx512`, `neon`, `dotprod` and `i8mm` are such sets, chosen at run
//!   time. Some want weights `packed`.
//! - `operations` is a second kind of table, of f32 tensor operations, for [`crate::llm::operations`].
//! - [`self_test()`] compares every table with the scalar one on a small input, for a kernel that has just booted.
//!
//! A [`Kernels`] can only be had for a CPU that has its instructions, so its methods are safe; they check every
//! length once and then run one whole operation. The promise that all tables agree bit for bit rests on the rules
//! in `scalar`: integer sums are exact, and every float sum has one fixed order.

use core::ops::Range;

use crate::llm::quant::GgmlType;

#[cfg(all(feature = "simd", target_arch = "aarch64"))]
mod allowed;
mod attention;
#[cfg(all(feature = "simd", target_arch = "x86_64"))]
mod avx2;
#[cfg(all(feature = "simd", target_arch = "x86_64"))]
mod avx512;
#[cfg(all(feature = "simd", target_arch = "x86_64"))]
mod avxvnni;
#[cfg(all(feature = "simd", target_arch = "aarch64"))]
mod dotprod;
#[cfg(all(feature = "simd", target_arch = "aarch64"))]
mod i8mm;
#[cfg(any(all(feature = "neon", target_arch = "aarch64"), all(feature = "simd", target_arch = "x86_64")))]
mod lanes;
#[cfg(all(feature = "neon", target_arch = "aarch64"))]
mod neon;
#[cfg(feature = "llm-transformer")]
pub(in crate::llm) mod operations;
#[cfg(any(all(feature = "neon", target_arch = "aarch64"), all(feature = "simd", target_arch = "x86_64")))]
mod packed;
#[cfg(any(all(feature = "neon", target_arch = "aarch64"), all(feature = "simd", target_arch = "x86_64")))]
#[cfg_attr(not(feature = "simd"), allow(dead_code, reason = "only products of packed weights"))]
mod product;
mod scalar;
mod self_test;
#[cfg(all(test, feature = "llm-transformer"))]
pub(crate) mod spoiled;
#[cfg(any(all(feature = "neon", target_arch = "aarch64"), all(feature = "simd", target_arch = "x86_64")))]
mod table;

#[cfg(all(feature = "simd", target_arch = "aarch64"))]
use allowed::Allowed;
pub use attention::{Attending, BLOCK, GROUP, KvBlock};
#[cfg(all(feature = "simd", target_arch = "aarch64"))]
pub use dotprod::allow as allow_dotprod;
#[cfg(all(feature = "simd", target_arch = "aarch64"))]
pub use i8mm::allow as allow_i8mm;
pub use self_test::self_test;

/// Version of the arithmetic: changes whenever the same model, prompt and seed may give other bits.
pub const ARITHMETIC_VERSION: u32 = 1;

/// Activations quantized to 8 bits in blocks of 32 consecutive values.
#[derive(Clone, Copy, Debug)]
pub struct ActivationBlocks<'a> {
    /// `[positions × k]`, each in -127..=127.
    pub q: &'a [i8],
    /// `[positions × k / 32]`: what one step of `q` is worth.
    pub scale: &'a [f32],
    /// `[positions × k / 16]`: the sum of 16 consecutive `q`.
    pub sum16: &'a [i16],
}

/// What a matrix is multiplied with; the form that the weights' type does not use may be empty.
#[derive(Clone, Copy, Debug)]
pub struct Activations<'a> {
    /// Length of a row of weights.
    pub k: usize,
    /// How many vectors are multiplied.
    pub positions: usize,
    /// `[positions × k]`, used by F32, F16 and BF16 weights.
    pub values: &'a [f32],
    /// Used by quantized weights.
    pub blocks: ActivationBlocks<'a>,
}

impl<'a> Activations<'a> {
    /// Some of the positions.
    pub fn at(&self, positions: Range<usize>) -> Activations<'a> {
        // Of a form that is not used there is nothing to take.
        fn some<T>(all: &[T], each: usize, positions: &Range<usize>) -> Range<usize> {
            if all.is_empty() { 0..0 } else { positions.start * each..positions.end * each }
        }
        let (k, ActivationBlocks { q, scale, sum16 }) = (self.k, self.blocks);
        Activations {
            k,
            positions: positions.len(),
            values: &self.values[some(self.values, k, &positions)],
            blocks: ActivationBlocks {
                q: &q[some(q, k, &positions)],
                scale: &scale[some(scale, k / 32, &positions)],
                sum16: &sum16[some(sum16, k / 16, &positions)],
            },
        }
    }
}

/// Type of weights, their bytes, rows, activations, and products.
type Matmul = unsafe fn(GgmlType, &[u8], usize, &Activations<'_>, &mut [f32]);

/// A layout of weights of a table's own, and the product that wants it.
#[derive(Clone, Copy)]
struct Packing {
    rows: usize,
    pack: fn(GgmlType, usize, &[u8], &mut [u8], u32),
    /// Blocks of one row of a whole group, as they lay in the file: type, rows, bits that were flipped, group, row, first block.
    unpack: fn(GgmlType, usize, u32, &[u8], usize, usize, &mut [u8]),
    /// The bits of a type's words that are flipped, for other signs than the file's.
    turned: fn(GgmlType) -> u32,
    matmul: Matmul,
}

/// The kernels of one instruction set.
///
/// All tables give the same bits. Fields are private: a table can only be had from this module, which checks that
/// the CPU has what its functions were compiled with.
pub struct Kernels {
    /// `scalar`, `avx2`, `avxvnni`, `avx512`, `neon`, `dotprod` or `i8mm`.
    pub name: &'static str,
    matmul: Matmul,
    packing: Option<Packing>,
    quantize_activations: unsafe fn(&[f32], &mut [i8], &mut [f32], &mut [i16]),
    dequantize: unsafe fn(GgmlType, &[u8], &mut [f32]),
    dot: unsafe fn(&[f32], &[f32]) -> f32,
    rms_norm: unsafe fn(&[f32], &[f32], f32, &mut [f32]),
    layer_norm: unsafe fn(&[f32], &[f32], &[f32], f32, &mut [f32]),
    add: unsafe fn(&mut [f32], &[f32]),
    silu_mul: unsafe fn(&[f32], &[f32], &mut [f32]),
    rope: unsafe fn(&mut [f32], &[f32], &[f32]),
    to_f16: unsafe fn(&[f32], &mut [u16]),
    attend: unsafe fn(&KvBlock<'_>, f32, &mut Attending<'_>),
}

impl core::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Kernels").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The reference table.
pub fn scalar() -> &'static Kernels {
    &scalar::TABLE
}

/// Every table this CPU can run, the scalar one first and the fastest last.
pub fn available() -> impl Iterator<Item = &'static Kernels> {
    core::iter::once(scalar()).chain(vector().into_iter().flatten())
}

/// The fastest table this CPU can run.
pub fn best() -> &'static Kernels {
    vector().into_iter().flatten().last().unwrap_or(scalar())
}

/// The table of that name, if this build has it and this CPU can run it.
pub fn by_name(name: &str) -> Option<&'static Kernels> {
    available().find(|kernels| kernels.name == name)
}

/// The vector tables of this build that this CPU can run, the fastest last.
fn vector() -> [Option<&'static Kernels>; 3] {
    // Every AArch64 core that runs code compiled for these targets has NEON.
    #[cfg(all(feature = "simd", target_arch = "aarch64"))]
    return [
        Some(&neon::TABLE),
        dotprod::detected().then_some(&dotprod::TABLE),
        i8mm::detected().then_some(&i8mm::TABLE),
    ];
    #[cfg(all(feature = "neon", not(feature = "simd"), target_arch = "aarch64"))]
    return [Some(&neon::TABLE), None, None];
    #[cfg(all(feature = "simd", target_arch = "x86_64"))]
    return [
        avx2::detected().then_some(&avx2::TABLE),
        avxvnni::detected().then_some(&avxvnni::TABLE),
        avx512::detected().then_some(&avx512::TABLE),
    ];
    #[cfg(not(any(
        all(feature = "neon", target_arch = "aarch64"),
        all(feature = "simd", target_arch = "x86_64")
    )))]
    [None, None, None]
}

// Every call through the table below is sound for two reasons: lengths are asserted first, and a `&'static Kernels`
// comes only from `available`, which checks that this CPU has what the function was compiled with.
impl Kernels {
    /// `out[p * rows + r]` = row `r` of `weights` times activation vector `p`.
    ///
    /// `weights` is `rows` rows in the file's layout. Positions are looped inside, so give a few rows (64 or less)
    /// at a time and they stay in the first cache; the split does not change a bit of the answer.
    pub fn matmul(&self, ty: GgmlType, weights: &[u8], rows: usize, x: &Activations<'_>, out: &mut [f32]) {
        check_product(ty, weights, rows, x, out);
        // SAFETY: the CPU has this table's instructions; all sizes were just asserted.
        unsafe { (self.matmul)(ty, weights, rows, x, out) }
    }

    /// How many rows this table's own layout interleaves; `None` if it only works on the file's.
    pub fn packed_rows(&self) -> Option<usize> {
        self.packing.as_ref().map(|packing| packing.rows)
    }

    /// Writes the rows `weights` of `k` elements to `out`, of the same size, in this table's own layout.
    ///
    /// Whole groups of [`Self::packed_rows`] are interleaved; the rows that are left keep the file's layout, as do all
    /// of them if the table has none of its own.
    pub fn pack(&self, ty: GgmlType, k: usize, weights: &[u8], out: &mut [u8]) {
        let row_bytes = ty.row_bytes(k).expect("k is a multiple of the type's block length");
        assert_eq!(weights.len() % row_bytes, 0, "whole rows of {row_bytes} bytes");
        assert_eq!(weights.len(), out.len());
        match &self.packing {
            Some(packing) => (packing.pack)(ty, row_bytes, weights, out, (packing.turned)(ty)),
            None => out.copy_from_slice(weights),
        }
    }

    /// [`Self::matmul`] with the bits of `weights` in this table's own layout, from a row that starts a group.
    pub fn matmul_packed(
        &self,
        ty: GgmlType,
        weights: &[u8],
        rows: usize,
        x: &Activations<'_>,
        out: &mut [f32],
    ) {
        check_product(ty, weights, rows, x, out);
        let matmul = self.packing.as_ref().map_or(self.matmul, |packing| packing.matmul);
        // SAFETY: the CPU has this table's instructions; all sizes were just asserted.
        unsafe { matmul(ty, weights, rows, x, out) }
    }

    /// Quantizes to 8 bits by blocks of 32: `d = amax / 127`, `q = round-ties-even(x * (1 / d))`.
    ///
    /// A block is zero where `d` is 0 or `1 / d` is infinite. A block with a NaN gets a NaN scale.
    pub fn quantize_activations(&self, x: &[f32], q: &mut [i8], scale: &mut [f32], sum16: &mut [i16]) {
        assert_eq!(x.len() % 32, 0, "whole blocks");
        assert_eq!(q.len(), x.len());
        assert_eq!(scale.len(), x.len() / 32);
        assert_eq!(sum16.len(), x.len() / 16);
        // SAFETY: the CPU has this table's instructions; all sizes were just asserted.
        unsafe { (self.quantize_activations)(x, q, scale, sum16) }
    }

    /// Expands whole blocks to f32, with the bits of [`crate::llm::quant::dequantize`].
    pub fn dequantize(&self, ty: GgmlType, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(ty.row_bytes(out.len()), Some(bytes.len()), "{} values of {}", out.len(), ty.name());
        // SAFETY: the CPU has this table's instructions; the sizes were just asserted.
        unsafe { (self.dequantize)(ty, bytes, out) }
    }

    /// Expands row `row` of a whole group of [`Self::packed_rows`] in this table's own layout, with the bits of
    /// [`Self::dequantize`] of that row as it lay in the file.
    pub fn dequantize_packed(&self, ty: GgmlType, group: &[u8], row: usize, out: &mut [f32]) {
        let Some(packing) = &self.packing else { return self.dequantize(ty, group, out) };
        let row_bytes = ty.row_bytes(out.len()).expect("whole blocks of a row");
        assert_eq!(group.len(), packing.rows * row_bytes, "a group of {} rows", packing.rows);
        assert!(row < packing.rows);
        // A block is 210 bytes at most; of small ones several are taken together.
        let mut bytes = [0; 256];
        let blocks = bytes.len() / ty.block_bytes();
        for (part, out) in out.chunks_mut(blocks * ty.block_len()).enumerate() {
            let bytes = &mut bytes[..out.len() / ty.block_len() * ty.block_bytes()];
            (packing.unpack)(ty, packing.rows, (packing.turned)(ty), group, row, part * blocks, bytes);
            self.dequantize(ty, bytes, out);
        }
    }

    /// Dot product: 16 virtual lanes by fma, added up by a fixed tree.
    pub fn dot(&self, a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        // SAFETY: the CPU has this table's instructions; lengths agree.
        unsafe { (self.dot)(a, b) }
    }

    /// `out = (x * s) * weight` with `s = 1 / sqrt(dot(x, x) / n + eps)`.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert_eq!(x.len(), weight.len());
        assert_eq!(x.len(), out.len());
        // SAFETY: the CPU has this table's instructions; lengths agree.
        unsafe { (self.rms_norm)(x, weight, eps, out) }
    }

    /// `out = fma((x - mean) * s, weight, bias)` with `s = 1 / sqrt(variance + eps)`, mean and variance in one pass.
    pub fn layer_norm(&self, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
        assert_eq!(x.len(), weight.len());
        assert_eq!(x.len(), bias.len());
        assert_eq!(x.len(), out.len());
        // SAFETY: the CPU has this table's instructions; lengths agree.
        unsafe { (self.layer_norm)(x, weight, bias, eps, out) }
    }

    /// `acc += x`.
    pub fn add(&self, acc: &mut [f32], x: &[f32]) {
        assert_eq!(acc.len(), x.len());
        // SAFETY: the CPU has this table's instructions; lengths agree.
        unsafe { (self.add)(acc, x) }
    }

    /// `out = silu(gate) * up`.
    pub fn silu_mul(&self, gate: &[f32], up: &[f32], out: &mut [f32]) {
        assert_eq!(gate.len(), up.len());
        assert_eq!(gate.len(), out.len());
        // SAFETY: the CPU has this table's instructions; lengths agree.
        unsafe { (self.silu_mul)(gate, up, out) }
    }

    /// Rotates the pairs `(2i, 2i + 1)` of `x` by the angle whose cosine and sine are `cos[i]` and `sin[i]`.
    pub fn rope(&self, x: &mut [f32], cos: &[f32], sin: &[f32]) {
        assert_eq!(x.len(), 2 * cos.len());
        assert_eq!(cos.len(), sin.len());
        // SAFETY: the CPU has this table's instructions; lengths agree.
        unsafe { (self.rope)(x, cos, sin) }
    }

    /// The nearest f16 of each value, ties to even.
    pub fn to_f16(&self, src: &[f32], dst: &mut [u16]) {
        assert_eq!(src.len(), dst.len());
        // SAFETY: the CPU has this table's instructions; lengths agree.
        unsafe { (self.to_f16)(src, dst) }
    }

    /// Lets queries attend to one more block: scores are `scale * (q · key)`, by fma in the order of dimensions;
    /// weights are `exp(score - max)` with the block's maximum, their sum takes 16 virtual lanes and a fixed tree;
    /// values are added by fma in the order of positions; and what a query had so far is merged with that,
    /// `fma(new, exp(max - m), old * exp(old max - m))` where `m` is the larger maximum.
    ///
    /// A query's bits do not depend on the queries beside it.
    pub fn attend(&self, block: &KvBlock<'_>, scale: f32, x: &mut Attending<'_>) {
        block.check(x);
        // SAFETY: the CPU has this table's instructions; all sizes were just asserted.
        unsafe { (self.attend)(block, scale, x) }
    }
}

/// Asserts that the sizes of a product agree.
fn check_product(ty: GgmlType, weights: &[u8], rows: usize, x: &Activations<'_>, out: &[f32]) {
    let row_bytes = ty.row_bytes(x.k).expect("k is a multiple of the type's block length");
    assert_eq!(weights.len(), rows * row_bytes, "{rows} rows of {row_bytes} bytes");
    assert_eq!(out.len(), rows * x.positions, "{rows} rows times {} positions", x.positions);
    let elements = x.positions * x.k;
    if ty.is_quantized() {
        assert_eq!(x.blocks.q.len(), elements, "quantized activations");
        assert_eq!(x.blocks.scale.len(), elements / 32, "activation scales");
        assert_eq!(x.blocks.sum16.len(), elements / 16, "activation sums");
    } else {
        assert_eq!(x.values.len(), elements, "activation values");
    }
}
