//! Every kernel table of this CPU on every matrix shape of two models: `cargo bench --bench kernels [FILTER]`.
//!
//! `Q4_0 1536x576/avx512/1` is a matrix of 1536 rows of 576 elements times one position, in the layout of that table;
//! its rate is bytes of weights. With 32 and 512 positions, the rate is operations, two for each weight and position.
//!
//! A case is cut to what its rate needs, so that all of them take minutes: one position gets as many rows as are twice a
//! large last cache, more positions 256 rows, and the scalar table, which is there to be compared with, 8.

use std::cell::{Cell, OnceCell};
use std::hint::black_box;
use std::time::Duration;

use barelm::llm::quant::GgmlType;
use barelm::llm::simd::{self, ActivationBlocks, Activations, Kernels};
use barelm::llm::tensor::{Matrix, ROW_TILE};
use criterion::{Criterion, SamplingMode, Throughput};

/// Rows and columns of SmolLM2-135M: query and output, key and value, gate and up, down, head. Then Llama-3.2-1B's.
const SHAPES: [(usize, usize); 10] = [
    (576, 576),
    (192, 576),
    (1536, 576),
    (576, 1536),
    (49152, 576),
    (2048, 2048),
    (512, 2048),
    (8192, 2048),
    (2048, 8192),
    (128256, 2048),
];
/// Positions of a pass: one token, a short prompt or verified guesses, a long prompt.
const POSITIONS: [usize; 3] = [1, 32, 512];
/// Bytes of weights of one position: more than a last cache keeps from call to call.
const MOST_BYTES: usize = 64 << 20;

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .nresamples(2000)
        .warm_up_time(Duration::from_millis(10))
        .measurement_time(Duration::from_millis(60))
        .without_plots()
        .configure_from_args();
    for ty in GgmlType::ALL {
        for (rows, k) in SHAPES {
            if ty.row_bytes(k).is_some() {
                products(&mut criterion, ty, rows, k);
            }
        }
    }
    for len in [576, 1536, 2048, 8192] {
        steps(&mut criterion, len);
    }
    criterion.final_summary();
}

/// One matrix with all tables and numbers of positions.
fn products(criterion: &mut Criterion, ty: GgmlType, rows: usize, k: usize) {
    let row_bytes = ty.row_bytes(k).expect("checked by the caller");
    let most = rows.min(MOST_BYTES / row_bytes / 16 * 16);
    // Made when a case is not filtered out.
    let (weights, mut memory) = (OnceCell::new(), Vec::new());
    let mut group = criterion.benchmark_group(format!("{} {rows}x{k}", ty.name()));
    group.sampling_mode(SamplingMode::Flat);
    for kernels in simd::available() {
        memory.clear();
        memory.resize(most * row_bytes, 0);
        let (packed, memory) = (OnceCell::new(), Cell::new(&mut memory[..]));
        for positions in POSITIONS {
            let rows = match (kernels.name, positions) {
                ("scalar", _) => 8,
                (_, 1) => most,
                _ => most.min(256),
            };
            group.throughput(match positions {
                1 => Throughput::Bytes((rows * row_bytes) as u64),
                _ => Throughput::Elements((2 * rows * k * positions) as u64),
            });
            group.bench_function(format!("{}/{positions}", kernels.name), |bencher| {
                let weights = weights.get_or_init(|| bytes(ty, most * row_bytes));
                let matrix = Matrix::new(ty, most, k, weights).expect("whole rows");
                let matrix = packed.get_or_init(|| matrix.packed(kernels, memory.take()));
                let x = Vectors::new(kernels, k, positions);
                // As much scratch as a session with batches of 64 has.
                let mut tile = vec![0.0; ROW_TILE * positions.max(64)];
                bencher.iter(|| {
                    matrix.multiply(kernels, 0..rows, &x.activations(), &mut tile, |_, products| {
                        black_box(products);
                    })
                });
            });
        }
    }
    group.finish();
}

/// Steps between products, at the widths of both models.
fn steps(criterion: &mut Criterion, len: usize) {
    let x: Vec<f32> = (0..len).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
    let mut out = vec![0.0; len];
    let (mut q, mut scale, mut sum16) = (vec![0; len], vec![0.0; len / 32], vec![0; len / 16]);
    let mut group = criterion.benchmark_group(format!("steps {len}"));
    group.throughput(Throughput::Elements(len as u64));
    for kernels in simd::available() {
        let name = |step: &str| format!("{}/{step}", kernels.name);
        group.bench_function(name("quantize"), |bencher| {
            bencher.iter(|| kernels.quantize_activations(black_box(&x), &mut q, &mut scale, &mut sum16));
        });
        group.bench_function(name("rms_norm"), |bencher| {
            bencher.iter(|| kernels.rms_norm(black_box(&x), &x, 1e-5, &mut out));
        });
        group.bench_function(name("silu_mul"), |bencher| {
            bencher.iter(|| kernels.silu_mul(black_box(&x), &x, &mut out));
        });
        group.bench_function(name("add"), |bencher| {
            out.fill(0.0);
            bencher.iter(|| kernels.add(black_box(&mut out), &x));
        });
    }
    group.finish();
}

/// What a matrix is multiplied with, rounded too.
struct Vectors {
    k: usize,
    positions: usize,
    values: Vec<f32>,
    q: Vec<i8>,
    scale: Vec<f32>,
    sum16: Vec<i16>,
}

impl Vectors {
    fn new(kernels: &Kernels, k: usize, positions: usize) -> Self {
        let len = k * positions;
        let values: Vec<_> = (0..len).map(|i| ((i * 29) % 127) as f32 / 64.0 - 1.0).collect();
        let (mut q, mut scale, mut sum16) = (vec![0; len], vec![0.0; len / 32], vec![0; len / 16]);
        kernels.quantize_activations(&values, &mut q, &mut scale, &mut sum16);
        Vectors { k, positions, values, q, scale, sum16 }
    }

    fn activations(&self) -> Activations<'_> {
        Activations {
            k: self.k,
            positions: self.positions,
            values: &self.values,
            blocks: ActivationBlocks { q: &self.q, scale: &self.scale, sum16: &self.sum16 },
        }
    }
}

/// Weights of any numbers with scales of 2^-7, so that no product is infinite or too small to be quick.
fn bytes(ty: GgmlType, len: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut bytes: Vec<u8> = (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    // Where in a block the f16 scales are; float weights get exponents near 1, the byte above the middle of which is here.
    let scales: &[usize] = match ty {
        GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::Q8_0 => &[0],
        GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4_K | GgmlType::Q5_K => &[0, 2],
        GgmlType::Q6_K => &[208],
        GgmlType::F16 | GgmlType::BF16 | GgmlType::F32 => &[],
    };
    for block in bytes.chunks_exact_mut(ty.block_bytes()) {
        for &at in scales {
            block[at..at + 2].copy_from_slice(&0x2000u16.to_le_bytes());
        }
        if scales.is_empty() {
            let last = block.len() - 1;
            block[last] = block[last] & 0x80 | 0x3c;
        }
    }
    bytes
}
