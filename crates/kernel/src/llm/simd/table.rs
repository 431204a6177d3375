//! How an instruction set becomes a [`Kernels`](super::Kernels): the two macros that compile code with its features.
//!
//! The compiler uses an instruction set only in functions that say so. `vector_table!` makes such an entry of each
//! function that [`super::lanes`] and [`super::product`] write once, and `proven!` lets the operations they are made
//! of be called safely.

/// The table of an instruction set: entries compiled with its features, made of what this module and
/// [`super::product`] write once.
///
/// `$set::here()` gives the proof that the features are there.
macro_rules! vector_table {
    (
        $name:literal, $features:literal, $set:ident, $rows:literal rows a group
    ) => {
        vector_table! { parts $name, $features, $set, $rows, matmul: products, None }
    };
    (
        $name:literal, $features:literal, $set:ident, $rows:literal rows a group,
        packed by $packing:expr, others by $matmul:expr
    ) => {
        vector_table! { table $name, $features, $set, matmul: $matmul, Some($packing) }
    };
    (
        $name:literal, $features:literal, $set:ident, $rows:literal rows a group, packed by $packing:expr
    ) => {
        vector_table! { parts $name, $features, $set, $rows, matmul: products, Some($packing) }
    };
    (
        table $name:literal, $features:literal, $set:ident, matmul: $matmul:expr, $packing:expr
    ) => {
        pub(super) static TABLE: $crate::llm::simd::Kernels = $crate::llm::simd::Kernels {
            name: $name,
            matmul: $matmul,
            packing: $packing,
            quantize_activations,
            dequantize: $crate::llm::quant::dequantize,
            dot,
            rms_norm,
            layer_norm,
            add,
            silu_mul,
            rope,
            to_f16,
            attend,
        };
        vector_table! { entries $features, $set, lanes:
            fn quantize_activations(x: &[f32], q: &mut [i8], scale: &mut [f32], sum16: &mut [i16]);
            fn dot(a: &[f32], b: &[f32]) -> f32;
            fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]);
            fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]);
            fn add(acc: &mut [f32], x: &[f32]);
            fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]);
            fn rope(x: &mut [f32], cos: &[f32], sin: &[f32]);
            fn to_f16(src: &[f32], dst: &mut [u16]);
        }
        #[target_feature(enable = $features)]
        fn attend(
            block: &$crate::llm::simd::KvBlock<'_>,
            scale: f32,
            x: &mut $crate::llm::simd::Attending<'_>,
        ) {
            use $crate::llm::simd::attention::{BLOCK, vector};
            // A function for each number of queries, as for types below.
            #[target_feature(enable = $features)]
            fn tile<const Q: usize>(
                block: &$crate::llm::simd::KvBlock<'_>,
                scale: f32,
                x: &mut $crate::llm::simd::Attending<'_>,
                first: usize,
                weights: &mut [[f32; BLOCK]; Q],
            ) -> usize {
                vector::tile::<_, _, Q>($set::here(), block, scale, x, first, weights);
                Q
            }
            let mut first = 0;
            if cfg!(feature = "simd") && x.until.len() >= vector::MOST {
                let mut weights = [[0.0; BLOCK]; vector::MOST];
                while x.until.len() - first >= vector::MOST {
                    first += tile(block, scale, x, first, &mut weights);
                }
            }
            while first < x.until.len() {
                first += match x.until.len() - first {
                    1 => tile(block, scale, x, first, &mut [[0.0; BLOCK]; 1]),
                    // Two tiles do where bytes are scarce: they are most of a small image's kernels.
                    2 if cfg!(not(feature = "simd")) => tile(block, scale, x, first, &mut [[0.0; BLOCK]; 1]),
                    _ if cfg!(not(feature = "simd")) => tile(block, scale, x, first, &mut [[0.0; BLOCK]; 3]),
                    2 => tile(block, scale, x, first, &mut [[0.0; BLOCK]; 2]),
                    3 => tile(block, scale, x, first, &mut [[0.0; BLOCK]; 3]),
                    _ => tile(block, scale, x, first, &mut [[0.0; BLOCK]; 4]),
                };
            }
        }
    };
    (
        parts $name:literal, $features:literal, $set:ident, $rows:literal, matmul: $matmul:expr, $packing:expr
    ) => {
        vector_table! { table $name, $features, $set, matmul: $matmul, $packing }
        #[target_feature(enable = $features)]
        fn products(
            ty: $crate::llm::quant::GgmlType,
            weights: &[u8],
            rows: usize,
            x: &$crate::llm::simd::Activations<'_>,
            out: &mut [f32],
        ) {
            use $crate::llm::simd::product;
            // A function for each type, so that one type's code cannot crowd another's registers.
            #[target_feature(enable = $features)]
            fn groups<const TY: u32>(
                weights: &[u8],
                rows: usize,
                x: &$crate::llm::simd::Activations<'_>,
                out: &mut [f32],
            ) {
                product::groups::<_, $rows, TY>($set::here(), weights, rows, x, out);
            }
            product::of_type!(ty, groups, groups, (weights, rows, x, out));
            // What is no whole group.
            $crate::llm::simd::scalar::matmul_rows(ty, weights, rows, rows / $rows * $rows..rows, x, out);
        }
    };
    (entries $features:literal, $set:ident, $module:ident:
        $(fn $f:ident($($x:ident: $t:ty),*) $(-> $r:ty)?;)*
    ) => {
        $(
            #[target_feature(enable = $features)]
            fn $f($($x: $t),*) $(-> $r)? {
                $crate::llm::simd::$module::$f($set::here(), $($x),*)
            }
        )*
    };
}
pub(super) use vector_table;

/// Methods of a proof that the features are there: each body is a function compiled with them.
macro_rules! proven {
    ($features:literal: $(
        $(#[$doc:meta])*
        $vis:vis fn $name:ident$(<const $c:ident: u32>)?(self $(, $x:ident: $t:ty)* $(,)?) $(-> $r:ty)? $body:block
    )*) => {
        $(
            $(#[$doc])*
            #[inline(always)]
            $vis fn $name$(<const $c: u32>)?(self $(, $x: $t)*) $(-> $r)? {
                #[inline]
                #[target_feature(enable = $features)]
                fn compiled$(<const $c: u32>)?($($x: $t),*) $(-> $r)? $body
                // SAFETY: `self` can be had only in a function compiled with these features, so this CPU has them.
                unsafe { compiled$(::<$c>)?($($x),*) }
            }
        )*
    };
}
pub(super) use proven;
