//! f32 products beside the libraries a user would otherwise take:
//! `cargo bench --bench blas_comparison --features cpu-blas [-- FILTER --rounds N --sample-ms N --records FILE]`.
//!
//! All contenders multiply the same operands and are measured in turns; every library's product is compared with ours before it
//! is timed. With `--features faer` faer takes part, with `--features cuda` cuBLAS, with `--features large` products of 2048 and 4096.

use std::cell::RefCell;
use std::time::Duration;

use barelm::llm::operations::{Attention, Operations, Scratch};
use barelm::llm::pool::Team;
use barelm_benches::contest::{Contender, Of, Settings, Task, run};
use barelm_benches::{peers, wave};
use barelm_host::limits::f32_rate;
use barelm_host::team::ThreadTeam;
use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2};
use rayon::prelude::*;

#[cfg(feature = "cpu-blas")]
use barelm_benches::blas::{Blas, Openblas};

fn main() {
    #[cfg(feature = "cpu-blas")]
    Openblas::best_core_type();
    let settings = Settings::from_env();
    let sizes: &[usize] =
        if cfg!(feature = "large") { &[128, 512, 1024, 2048, 4096] } else { &[128, 512, 1024] };
    for threads in [1, 2] {
        let team = ThreadTeam::try_new(threads).expect("threads start");
        for &n in sizes {
            let expected = match n {
                128 => "ndarray 35 GFLOP/s on the document's machine; BLAS 2 to 4 times that",
                512 => "ndarray 77 GFLOP/s; BLAS 5 to 12 times that, 0.3 to 0.7 ms",
                1024 => "ndarray 77 GFLOP/s; BLAS 10 to 50 times that, 1 to 3 ms",
                _ => "",
            };
            products(&settings, &team, &format!("matmul {n}"), 1, [n; 3], expected);
        }
        let expected = "ndarray with rayon 151 GFLOP/s; BLAS 5 to 15 times that, 0.5 to 1.5 ms";
        products(&settings, &team, "matmul 32x[256x256]", 32, [256; 3], expected);
        attention(&settings, &team);
    }
}

/// Libraries' products, by name; those that are not here say why.
#[cfg(feature = "cpu-blas")]
fn libraries() -> [(&'static str, Result<Blas, String>); 2] {
    [("OpenBLAS", Blas::openblas()), ("MKL", Blas::mkl())]
}

fn products(
    settings: &Settings,
    team: &ThreadTeam,
    case: &str,
    count: usize,
    shape: [usize; 3],
    expected: &str,
) {
    let ([m, n, k], threads) = (shape, team.size());
    let task = Task {
        name: format!("blas_comparison/{case}"),
        flops: (2 * count * m * n * k) as u64,
        bytes: 0,
        elements: 0,
        threads,
        expected: expected.to_owned(),
    };
    if !settings.wants(&task.name) {
        return;
    }
    let (a, b) = (wave(count * m * k, 1), wave(count * k * n, 2));
    let (operations, mut scratch) = (Operations::best(), Scratch::new(threads));
    let mut ours = vec![0.0; count * m * n];
    operations.batched_matmul(team, count, shape, &a, &b, &mut ours, &mut scratch).expect("shapes agree");
    let out = RefCell::new(vec![0.0f32; count * m * n]);
    let scratch = RefCell::new(scratch);
    let (a, b, out, ours) = (&a[..], &b[..], &out, &ours[..]);
    let mut contenders = vec![Contender::new(&format!("BareLM ({})", operations.name), || {
        let out = &mut out.borrow_mut()[..];
        operations
            .batched_matmul(team, count, shape, a, b, out, &mut scratch.borrow_mut())
            .expect("shapes agree");
    })];
    let each = move |product: &mut dyn FnMut(&[f32], &[f32], &mut [f32])| {
        let mut out = out.borrow_mut();
        for (i, out) in out.chunks_exact_mut(m * n).enumerate() {
            product(&a[i * m * k..][..m * k], &b[i * k * n..][..k * n], out);
        }
    };
    if threads == 1 {
        contenders.push(Contender::new("ndarray (matrixmultiply)", move || {
            each(&mut |a, b, out| with_ndarray(shape, a, b, out));
        }));
        if n <= 512 {
            contenders.push(Contender::new("three loops, i j k", move || {
                each(&mut |a, b, out| ijk(shape, a, b, out))
            }));
            contenders.push(Contender::new("three loops, i k j", move || {
                each(&mut |a, b, out| ikj(shape, a, b, out))
            }));
        }
    } else if count > 1 {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
        contenders.push(Contender::new("ndarray, rayon over the products", move || {
            let mut out = out.borrow_mut();
            let out = &mut out[..];
            pool.install(|| {
                out.par_chunks_exact_mut(m * n).enumerate().for_each(|(i, out)| {
                    with_ndarray(shape, &a[i * m * k..][..m * k], &b[i * k * n..][..k * n], out);
                });
            });
        }));
    }
    contenders
        .push(Contender::new("gemm", move || each(&mut |a, b, out| with_gemm(threads, shape, a, b, out))));
    #[cfg(feature = "faer")]
    contenders
        .push(Contender::new("faer", move || each(&mut |a, b, out| with_faer(threads, shape, a, b, out))));
    #[cfg(not(feature = "faer"))]
    contenders.push(Contender::absent("faer", "build with --features faer"));
    #[cfg(feature = "cpu-blas")]
    for (name, library) in libraries() {
        contenders.push(match library {
            Ok(blas) => {
                blas.set_threads(threads);
                let name = blas.name.clone();
                Contender::new(&name, move || each(&mut |a, b, out| blas.sgemm(shape, a, b, false, out)))
            }
            Err(why) => Contender::absent(name, why),
        });
    }
    #[cfg(not(feature = "cpu-blas"))]
    contenders.push(Contender::absent("OpenBLAS, MKL", "build with --features cpu-blas"));
    // Everyone's answer is ours but for rounding.
    for contender in &mut contenders {
        if let Ok(sampler) = &mut contender.sampler {
            out.borrow_mut().fill(f32::NAN);
            sampler(Duration::ZERO).expect("contenders of this process run");
            let bound = 2e-7 * k as f32;
            for (at, (theirs, ours)) in out.borrow().iter().zip(ours).enumerate() {
                assert!((theirs - ours).abs() <= bound, "{} at {at}: {theirs}, ours {ours}", contender.name);
            }
        }
    }
    #[cfg(feature = "cuda")]
    contenders.push(barelm_benches::cublas::contender(count, shape, a, b));
    #[cfg(not(feature = "cuda"))]
    contenders.push(Contender::absent("cuBLAS", "build with --features cuda"));
    for peer in peers::PEERS {
        let params = [("batch", count), ("m", m), ("n", n), ("k", k), ("threads", threads)];
        contenders.push(peers::contender(peer, "matmul", &params));
    }
    let mut peak = || f32_rate(team, Duration::from_millis(3)).1;
    run(
        settings,
        &task,
        contenders,
        Some(("fused multiplications of f32 on registers", Of::Flops, &mut peak)),
    );
}

fn with_ndarray([m, n, k]: [usize; 3], a: &[f32], b: &[f32], out: &mut [f32]) {
    let a = ArrayView2::from_shape((m, k), a).expect("sizes agree");
    let b = ArrayView2::from_shape((k, n), b).expect("sizes agree");
    let mut out = ArrayViewMut2::from_shape((m, n), out).expect("sizes agree");
    general_mat_mul(1.0, &a, &b, 0.0, &mut out);
}

fn with_gemm(threads: usize, [m, n, k]: [usize; 3], a: &[f32], b: &[f32], out: &mut [f32]) {
    assert!(a.len() == m * k && b.len() == k * n && out.len() == m * n, "sizes agree");
    let parallelism = if threads > 1 { gemm::Parallelism::Rayon(threads) } else { gemm::Parallelism::None };
    // SAFETY: sizes and steps are those of the slices, as just asserted.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.as_ptr(),
            1,
            k as isize,
            b.as_ptr(),
            1,
            n as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(feature = "faer")]
fn with_faer(threads: usize, [m, n, k]: [usize; 3], a: &[f32], b: &[f32], out: &mut [f32]) {
    use faer::{Accum, MatMut, MatRef, Par};
    faer::linalg::matmul::matmul(
        MatMut::from_row_major_slice_mut(out, m, n),
        Accum::Replace,
        MatRef::from_row_major_slice(a, m, k),
        MatRef::from_row_major_slice(b, k, n),
        1.0,
        if threads > 1 { Par::rayon(threads) } else { Par::Seq },
    );
}

/// What one writes first.
fn ijk([m, n, k]: [usize; 3], a: &[f32], b: &[f32], out: &mut [f32]) {
    for i in 0..m {
        for j in 0..n {
            out[i * n + j] = (0..k).map(|t| a[i * k + t] * b[t * n + j]).sum();
        }
    }
}

/// The same with rows of the right side and the result passed in order.
fn ikj([m, n, k]: [usize; 3], a: &[f32], b: &[f32], out: &mut [f32]) {
    for i in 0..m {
        let row = &mut out[i * n..][..n];
        row.fill(0.0);
        for t in 0..k {
            let factor = a[i * k + t];
            for (out, b) in row.iter_mut().zip(&b[t * n..][..n]) {
                *out += factor * b;
            }
        }
    }
}

/// Eight heads of 512 positions and 64 dimensions, where every query sees every key.
fn attention(settings: &Settings, team: &ThreadTeam) {
    let (heads, n, d) = (8, 512, 64);
    let shape =
        Attention { heads, kv_heads: heads, queries: n, keys: n, head_dim: d, causal: false, scale: 0.125 };
    let task = Task {
        name: "blas_comparison/attention 8x[512x64]".to_owned(),
        flops: shape.flops(),
        bytes: 0,
        elements: 0,
        threads: team.size(),
        expected: "4.96 ms with ndarray; a fused kernel 2 to 10 times as fast".to_owned(),
    };
    if !settings.wants(&task.name) {
        return;
    }
    let [q, k, v] = [1, 2, 3].map(|seed| wave(heads * n * d, seed));
    let (q, k, v) = (&q[..], &k[..], &v[..]);
    let operations = Operations::best();
    let scratch = RefCell::new(Scratch::new(team.size()));
    let (out, scores) = (RefCell::new(vec![0.0f32; heads * n * d]), RefCell::new(vec![0.0f32; n * n]));
    let (out, scores, scratch) = (&out, &scores, &scratch);
    let softmax = move |scores: &mut [f32]| operations.softmax(team, scores, n, 0.125).expect("whole rows");
    let mut contenders = vec![
        Contender::new(&format!("BareLM, fused ({})", operations.name), move || {
            let (mut out, mut scratch) = (out.borrow_mut(), scratch.borrow_mut());
            operations.attention(team, &shape, q, k, v, &mut out, &mut scratch).expect("shapes agree");
        }),
        Contender::new("BareLM, in steps", move || {
            let (mut out, mut scores) = (out.borrow_mut(), scores.borrow_mut());
            let scratch = &mut scratch.borrow_mut();
            operations
                .attention_unfused(team, &shape, q, k, v, &mut out, &mut scores, scratch)
                .expect("shapes agree");
        }),
        Contender::new("ndarray's products, our softmax", move || {
            let (mut out, mut scores) = (out.borrow_mut(), scores.borrow_mut());
            for (h, out) in out.chunks_exact_mut(n * d).enumerate() {
                let view = |x| ArrayView2::from_shape((n, d), x).expect("sizes agree");
                let [q, k, v] = [q, k, v].map(|x| view(&x[h * n * d..][..n * d]));
                let mut s = ArrayViewMut2::from_shape((n, n), &mut scores[..]).expect("sizes agree");
                general_mat_mul(1.0, &q, &k.t(), 0.0, &mut s);
                softmax(&mut scores);
                let s = ArrayView2::from_shape((n, n), &scores[..]).expect("sizes agree");
                let mut out = ArrayViewMut2::from_shape((n, d), out).expect("sizes agree");
                general_mat_mul(1.0, &s, &v, 0.0, &mut out);
            }
        }),
    ];
    #[cfg(feature = "cpu-blas")]
    for (name, library) in libraries() {
        contenders.push(match library {
            Ok(blas) => {
                blas.set_threads(team.size());
                let name = format!("{}'s products, our softmax", blas.name);
                Contender::new(&name, move || {
                    let (mut out, mut scores) = (out.borrow_mut(), scores.borrow_mut());
                    for (h, out) in out.chunks_exact_mut(n * d).enumerate() {
                        let [q, k, v] = [q, k, v].map(|x| &x[h * n * d..][..n * d]);
                        blas.sgemm([n, n, d], q, k, true, &mut scores);
                        softmax(&mut scores);
                        blas.sgemm([n, d, n], &scores, v, false, out);
                    }
                })
            }
            Err(why) => Contender::absent(name, why),
        });
    }
    let mut expected: Option<Vec<f32>> = None;
    for contender in &mut contenders {
        if let Ok(sampler) = &mut contender.sampler {
            out.borrow_mut().fill(f32::NAN);
            sampler(Duration::ZERO).expect("contenders of this process run");
            let expected = expected.get_or_insert_with(|| out.borrow().clone());
            let agree = out.borrow().iter().zip(&*expected).all(|(a, b)| (a - b).abs() < 1e-4);
            assert!(agree, "{} attends otherwise", contender.name);
        }
    }
    let mut peak = || f32_rate(team, Duration::from_millis(3)).1;
    run(
        settings,
        &task,
        contenders,
        Some(("fused multiplications of f32 on registers", Of::Flops, &mut peak)),
    );
}
