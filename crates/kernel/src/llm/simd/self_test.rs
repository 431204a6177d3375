//! Every table against the scalar one, bit for bit: at boot on one small input, in tests at many sizes.

use super::{ActivationBlocks, Activations, Attending, BLOCK, Kernels, KvBlock, available, scalar};
use crate::llm::quant::GgmlType;
use crate::llm::random::SplitMix64;
use alloc::vec;
use alloc::vec::Vec;

/// Runs every function of every table that this CPU has on small seeded inputs and compares with the scalar table.
///
/// Sizes are such that a whole register group, a remainder, a full tile of positions and a single one occur, and
/// blocks are random as well as all-extreme.
///
/// `report` hears the table's name, the function's or the matrix type's, and whether all bits were equal; the answer
/// is whether all of them were. Allocates a few KiB and gives them back.
pub fn self_test(mut report: impl FnMut(&'static str, &'static str, bool)) -> bool {
    let mut all = true;
    for kernels in available() {
        let mut tell = |what, equal| {
            report(kernels.name, what, equal);
            all &= equal;
        };
        for ty in GgmlType::ALL {
            let k = if ty.is_quantized() { ty.block_len().max(96) } else { 37 };
            let random = [[1, k, 1], [19, k, 1], [19, k, 11]]
                .into_iter()
                .all(|size| matmul_agrees(kernels, ty, size, Fill::Random, Fill::Random));
            let extreme = EXTREME_WEIGHTS.into_iter().all(|w| {
                EXTREME_ACTIVATIONS
                    .into_iter()
                    .all(|x| matmul_agrees(kernels, ty, [16, k, 2], Fill::Bytes(w), Fill::Bytes(x)))
            });
            tell(ty.name(), random && extreme && dequantize_agrees(kernels, ty, k));
        }
        for (what, agrees) in VECTOR_CHECKS {
            tell(what, [1, 37, 64, 96].into_iter().all(|n| agrees(kernels, n)));
        }
    }
    all
}

/// Bytes that make every weight of a block the least, the largest, or the one of each in turn.
const EXTREME_WEIGHTS: [u8; 6] = [0x00, 0x0f, 0xf0, 0x7f, 0x80, 0xff];

/// The largest and the least activation.
const EXTREME_ACTIVATIONS: [u8; 2] = [127, 0x81];

/// What a buffer is filled with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fill {
    Random,
    /// The same byte everywhere, except in the scales: all-extreme blocks.
    Bytes(u8),
}

/// Inputs of the tests, the same everywhere for the same seed.
pub(super) struct Rng(SplitMix64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Rng(SplitMix64(seed))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0.next()
    }

    /// Uniform in -4..4.
    pub(super) fn value(&mut self) -> f32 {
        (self.next() >> 40) as f32 / 2_097_152.0 - 4.0
    }

    pub(super) fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }

    /// An f16 of magnitude below 4, subnormal ones and both zeros included.
    pub(super) fn half(&mut self) -> u16 {
        let exponent = (self.next() % 17) as u16;
        ((self.next() as u16) & 0x83ff) | (exponent << 10)
    }
}

/// Where a block of that type keeps its f16 scales.
pub(super) fn scale_offsets(ty: GgmlType) -> &'static [usize] {
    match ty {
        GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::Q8_0 => &[0],
        GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4_K | GgmlType::Q5_K => &[0, 2],
        GgmlType::Q6_K => &[208],
        GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => &[],
    }
}

/// `rows` rows of `k` weights with finite scales.
pub(super) fn weights(ty: GgmlType, rows: usize, k: usize, fill: Fill, rng: &mut Rng) -> Vec<u8> {
    let n = rows * k;
    match ty {
        GgmlType::F32 => rng.values(n).iter().flat_map(|v| v.to_le_bytes()).collect(),
        GgmlType::F16 => (0..n).flat_map(|_| rng.half().to_le_bytes()).collect(),
        GgmlType::BF16 => {
            rng.values(n).iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect()
        }
        _ => {
            let size = ty.row_bytes(n).expect("whole blocks");
            let mut bytes: Vec<u8> = match fill {
                Fill::Random => (0..size).map(|_| rng.next() as u8).collect(),
                Fill::Bytes(byte) => vec![byte; size],
            };
            for block in bytes.chunks_exact_mut(ty.block_bytes()) {
                for &at in scale_offsets(ty) {
                    block[at..at + 2].copy_from_slice(&rng.half().to_le_bytes());
                }
            }
            bytes
        }
    }
}

/// Activations that own their memory.
pub(super) struct OwnedActivations {
    pub k: usize,
    pub positions: usize,
    pub values: Vec<f32>,
    pub q: Vec<i8>,
    pub scale: Vec<f32>,
    pub sum16: Vec<i16>,
}

impl OwnedActivations {
    pub(super) fn new(positions: usize, k: usize, fill: Fill, rng: &mut Rng) -> Self {
        let n = positions * k;
        let values = rng.values(n);
        let whole = n / 32 * 32;
        let (mut q, mut scale, mut sum16) = (vec![0; whole], vec![0.0; whole / 32], vec![0; whole / 16]);
        scalar().quantize_activations(&values[..whole], &mut q, &mut scale, &mut sum16);
        if let Fill::Bytes(byte) = fill {
            q.fill(byte as i8);
            sum16.fill(16 * i16::from(byte as i8));
        }
        Self { k, positions, values, q, scale, sum16 }
    }

    pub(super) fn view(&self) -> Activations<'_> {
        Activations {
            k: self.k,
            positions: self.positions,
            values: &self.values,
            blocks: ActivationBlocks { q: &self.q, scale: &self.scale, sum16: &self.sum16 },
        }
    }
}

fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// Whether `kernels` multiplies `[rows, k, positions]` as the scalar table does, in the file's layout and in
/// its own.
pub(super) fn matmul_agrees(kernels: &Kernels, ty: GgmlType, size: [usize; 3], w: Fill, x: Fill) -> bool {
    let [rows, k, positions] = size;
    let mut rng = Rng::new((rows + 100 * k + 100_000 * positions) as u64);
    let weights = weights(ty, rows, k, w, &mut rng);
    let x = OwnedActivations::new(positions, k, x, &mut rng);
    let mut expected = vec![1.0; rows * positions];
    let mut ours = vec![2.0; rows * positions];
    scalar().matmul(ty, &weights, rows, &x.view(), &mut expected);
    kernels.matmul(ty, &weights, rows, &x.view(), &mut ours);
    let mut packed = vec![0; weights.len()];
    kernels.pack(ty, k, &weights, &mut packed);
    let mut of_packed = vec![3.0; rows * positions];
    kernels.matmul_packed(ty, &packed, rows, &x.view(), &mut of_packed);
    same(&expected, &ours) && same(&expected, &of_packed)
}

/// Whether `kernels` expands rows of `k` weights as the scalar table does, in the file's layout and in its own.
pub(super) fn dequantize_agrees(kernels: &Kernels, ty: GgmlType, k: usize) -> bool {
    // A whole group, and a row that is left.
    let rows = kernels.packed_rows().map_or(3, |rows| rows + 1);
    let bytes = weights(ty, rows, k, Fill::Random, &mut Rng::new(k as u64));
    let (mut expected, mut ours) = (vec![1.0; rows * k], vec![2.0; rows * k]);
    scalar().dequantize(ty, &bytes, &mut expected);
    kernels.dequantize(ty, &bytes, &mut ours);
    let mut packed = vec![0; bytes.len()];
    kernels.pack(ty, k, &bytes, &mut packed);
    let mut of_packed = vec![3.0; rows * k];
    let (grouped, row_bytes) = (kernels.packed_rows().unwrap_or(0), bytes.len() / rows);
    for (row, out) in of_packed.chunks_mut(k).enumerate() {
        match row < grouped {
            true => kernels.dequantize_packed(ty, &packed[..grouped * row_bytes], row, out),
            false => kernels.dequantize(ty, &packed[row * row_bytes..][..row_bytes], out),
        }
    }
    same(&expected, &ours) && same(&expected, &of_packed)
}

/// One function's name and whether a table agrees on it at a length.
type Check = (&'static str, fn(&Kernels, usize) -> bool);

/// Everything but matrix products.
pub(super) const VECTOR_CHECKS: [Check; 9] = [
    ("quantize_activations", |kernels, n| {
        let n = n / 32 * 32;
        let mut x = Rng::new(n as u64).values(n);
        // Blocks of zeros, of numbers too small to have an inverse scale, and of ties.
        for (i, x) in x.iter_mut().enumerate() {
            match i / 32 % 4 {
                1 => *x = 0.0,
                2 => *x *= 1e-38,
                3 => *x = if i % 32 == 0 { 127.0 } else { (i % 32) as f32 - 15.5 },
                _ => {}
            }
        }
        let run = |kernels: &Kernels| {
            let (mut q, mut scale, mut sum16) = (vec![1; n], vec![1.0; n / 32], vec![1; n / 16]);
            kernels.quantize_activations(&x, &mut q, &mut scale, &mut sum16);
            let scale: Vec<u32> = scale.iter().map(|s: &f32| s.to_bits()).collect();
            (q, scale, sum16)
        };
        run(kernels) == run(scalar())
    }),
    ("dot", |kernels, n| {
        let (a, b) = (Rng::new(1).values(n), Rng::new(2).values(n));
        kernels.dot(&a, &b).to_bits() == scalar().dot(&a, &b).to_bits()
    }),
    ("rms_norm", |kernels, n| {
        let (x, w) = (Rng::new(1).values(n), Rng::new(2).values(n));
        into(n, |out, kernels| kernels.rms_norm(&x, &w, 1e-5, out), kernels)
    }),
    ("layer_norm", |kernels, n| {
        let (x, w, b) = (Rng::new(1).values(n), Rng::new(2).values(n), Rng::new(3).values(n));
        into(n, |out, kernels| kernels.layer_norm(&x, &w, &b, 1e-5, out), kernels)
    }),
    ("add", |kernels, n| {
        let x = Rng::new(1).values(n);
        into(n, |out, kernels| kernels.add(out, &x), kernels)
    }),
    ("silu_mul", |kernels, n| {
        let (gate, up) = (Rng::new(1).values(n), Rng::new(2).values(n));
        let gate: Vec<f32> = gate.iter().map(|g| g * g * g).collect();
        into(n, |out, kernels| kernels.silu_mul(&gate, &up, out), kernels)
    }),
    ("rope", |kernels, n| {
        let (cos, sin) = (Rng::new(1).values(n), Rng::new(2).values(n));
        into(2 * n, |out, kernels| kernels.rope(out, &cos, &sin), kernels)
    }),
    ("to_f16", |kernels, n| {
        let mut rng = Rng::new(n as u64);
        // Every magnitude from below the smallest f16 to above the largest, and exact ties.
        let x: Vec<f32> = (0..n)
            .map(|i| {
                let bits = (rng.next() as u32 % 0x7f80_0000) | (rng.next() as u32 & 0x8000_0000);
                f32::from_bits(if i % 2 == 0 { bits & 0xffff_f000 } else { bits % 0x1100_0000 + 0x3300_0000 })
            })
            .collect();
        let (mut expected, mut ours) = (vec![1; n], vec![2; n]);
        scalar().to_f16(&x, &mut expected);
        kernels.to_f16(&x, &mut ours);
        expected == ours
    }),
    ("attend", |kernels, n| n == 0 || attend_agrees(kernels, n)),
];

/// Whether queries of `head_dim` elements attend as with the scalar table: as many as make every kind of tile, to a
/// first block and one behind it, whole ones and ones that end or begin inside.
fn attend_agrees(kernels: &Kernels, head_dim: usize) -> bool {
    let mut rng = Rng::new(head_dim as u64);
    let keys: Vec<u16> = (0..BLOCK * head_dim).map(|_| rng.half()).collect();
    let values: Vec<u16> = (0..BLOCK * head_dim).map(|_| rng.half()).collect();
    [1, 2, 3, 4, 6, 11].into_iter().all(|queries| {
        let q = rng.values(queries * head_dim);
        [(0, 64, 0), (0, 5, 1), (0, 64 - queries, 1), (37, 40, 2), (16, 50, 0)].into_iter().all(
            |(from, start, step)| {
                let until: Vec<usize> = (0..queries).map(|i| (start + i * step).min(BLOCK)).collect();
                let run = |kernels: &Kernels| {
                    let (mut max, mut sum) = (vec![9.0; queries], vec![9.0; queries]);
                    let mut out = vec![9.0; queries * head_dim];
                    for first in [true, false, false] {
                        // Other keys, so that the maximum moves.
                        let keys = if first { &values } else { &keys };
                        let block = KvBlock {
                            head_dim,
                            keys,
                            values: &values,
                            from,
                            first,
                            ahead: [&keys[..keys.len() / 2], &values],
                        };
                        let (max, sum, out) = (&mut max, &mut sum, &mut out);
                        kernels.attend(&block, 0.125, &mut Attending { q: &q, until: &until, max, sum, out });
                    }
                    [max, sum, out].concat()
                };
                same(&run(kernels), &run(scalar()))
            },
        )
    })
}

/// Whether `run` leaves the same bits in the same buffer with `kernels` and with the scalar table.
fn into(n: usize, run: impl Fn(&mut [f32], &Kernels), kernels: &Kernels) -> bool {
    let mut expected = Rng::new(9).values(n);
    let mut ours = expected.clone();
    run(&mut expected, scalar());
    run(&mut ours, kernels);
    same(&expected, &ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTHS: [usize; 16] = [0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 100, 128, 255];

    #[test]
    fn every_table_has_the_scalar_bits_in_vector_functions() {
        for kernels in available() {
            for (what, agrees) in VECTOR_CHECKS {
                for n in LENGTHS {
                    assert!(
                        n == 0 && what.ends_with("norm") || agrees(kernels, n),
                        "{} {what} at {n}",
                        kernels.name
                    );
                }
            }
        }
    }

    #[test]
    fn every_table_has_the_scalar_bits_in_products() {
        let rows: &[usize] = if cfg!(miri) { &[9] } else { &[1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 35] };
        for kernels in available() {
            for ty in GgmlType::ALL {
                let lengths: &[usize] = match ty.block_len() {
                    1 => &[1, 7, 8, 31, 33, 64, 515],
                    32 => &[32, 64, 96, 256, 288, 576],
                    _ => &[256, 512, 768],
                };
                let lengths = if cfg!(miri) { &lengths[..1] } else { lengths };
                for &rows in rows {
                    for &k in lengths {
                        for positions in [1, 2, 3, 4, 7, 8, 9, 17] {
                            let size = [rows, k, positions];
                            let agrees = matmul_agrees(kernels, ty, size, Fill::Random, Fill::Random);
                            assert!(agrees, "{} {} at {size:?}", kernels.name, ty.name());
                        }
                    }
                }
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "needs minutes in an interpreter")]
    fn every_table_has_the_scalar_bits_in_long_rows_and_large_batches() {
        for kernels in available() {
            for ty in GgmlType::ALL {
                let k = if ty.block_len() == 256 { 1280 } else { 1056 };
                for (rows, positions) in
                    [(51, 67), (32, 5), (16, 6), (48, 10), (33, 23), (17, 13), (32, 49), (16, 54), (33, 71)]
                {
                    let agrees = matmul_agrees(kernels, ty, [rows, k, positions], Fill::Random, Fill::Random);
                    assert!(agrees, "{} {} at {rows} x {k} x {positions}", kernels.name, ty.name());
                }
            }
        }
    }

    #[test]
    fn every_table_has_the_scalar_bits_at_extremes() {
        for kernels in available() {
            for ty in GgmlType::ALL.into_iter().filter(|ty| ty.is_quantized()) {
                for w in EXTREME_WEIGHTS.into_iter().chain([0x81]) {
                    for x in EXTREME_ACTIVATIONS.into_iter().chain([1]) {
                        let agrees = matmul_agrees(kernels, ty, [16, 512, 9], Fill::Bytes(w), Fill::Bytes(x));
                        assert!(agrees, "{} {} at w = {w:#x}, x = {x:#x}", kernels.name, ty.name());
                    }
                }
            }
        }
    }

    #[test]
    fn every_table_expands_weights_to_the_scalar_bits() {
        for kernels in available() {
            for ty in GgmlType::ALL {
                for blocks in [1, 2, 7] {
                    assert!(
                        dequantize_agrees(kernels, ty, blocks * ty.block_len()),
                        "{} {}",
                        kernels.name,
                        ty.name()
                    );
                }
            }
        }
    }

    #[cfg(all(target_arch = "x86_64", feature = "simd"))]
    #[test]
    fn vector_tables_are_there_where_std_finds_their_instructions() {
        use crate::llm::simd::by_name;
        extern crate std;
        use std::arch::is_x86_feature_detected as has;
        let avx2 = has!("avx2") && has!("fma") && has!("f16c");
        let avxvnni = avx2 && has!("avxvnni");
        let avx512 = avx2 && has!("avx512f") && has!("avx512bw") && has!("avx512vnni");
        for (name, there) in [("avx2", avx2), ("avxvnni", avxvnni), ("avx512", avx512)] {
            assert_eq!(by_name(name).is_some(), there, "{name}");
        }
    }

    #[test]
    fn the_self_test_hears_of_every_table_and_passes() {
        let mut heard = 0;
        assert!(self_test(|table, what, equal| {
            assert!(equal, "{table} {what}");
            heard += 1;
        }));
        assert_eq!(heard, available().count() * (GgmlType::ALL.len() + VECTOR_CHECKS.len()));
    }
}
