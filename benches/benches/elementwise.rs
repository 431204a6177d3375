//! Functions of every element, beside copying the same memory:
//! `cargo bench --bench elementwise [-- FILTER --rounds N --sample-ms N --records FILE]`.
//!
//! Memory is allocated and touched once and lies in the same buffers for all contenders. The limit is the fastest copy from the one to
//! the other, the C library's or ours. With `--features large` 50 million elements too.

use std::cell::RefCell;
use std::time::Duration;

use barelm::llm::operations::{Function, Operations};
use barelm::llm::pool::Team;
use barelm_benches::contest::{Contender, Of, Settings, Task, copy_rate, run};
use barelm_benches::{Lines, wave};
use barelm_host::team::ThreadTeam;
use rayon::prelude::*;

/// Elements that a thread of rayon takes at a time.
const PIECE: usize = 1 << 14;
/// A layer of a network: 32 sequences of 512 positions, 768 wide.
const LAYER: usize = 32 * 512 * 768;

fn main() {
    let settings = Settings::from_env();
    let sizes: &[(usize, &str)] =
        &[(1_000_000, "1M"), (10_000_000, "10M"), (LAYER, "12.5M layer"), (50_000_000, "50M")];
    let sizes = if cfg!(feature = "large") { sizes } else { &sizes[..3] };
    for &(n, label) in sizes {
        for threads in [1, 2] {
            let team = ThreadTeam::try_new(threads).expect("threads start");
            for (function, expected) in [
                (Function::Relu, "0.7 to 1.0 GElements/s with rayon, 3 to 5 with SIMD too"),
                (Function::Exp, "0.68 GElements/s with rayon, 3 to 5 with SIMD too"),
                (Function::Sigmoid, "0.65 to 0.95 GElements/s with rayon, 3 to 5 with SIMD too"),
                (Function::Tanh, ""),
                (Function::Gelu, ""),
                (Function::GeluTanh, ""),
            ] {
                let case = format!("{} {label}", function.name());
                one(&settings, &team, &case, Step::Map(function), n, expected);
            }
            one(&settings, &team, &format!("bias + gelu {label}"), Step::Biased, n / 768 * 768, "");
            one(&settings, &team, &format!("silu * up {label}"), Step::SiluMul, n, "");
        }
    }
}

#[derive(Clone, Copy)]
enum Step {
    Map(Function),
    Biased,
    SiluMul,
}

/// What one writes without a library; the platform's functions.
#[allow(clippy::disallowed_methods, reason = "what is compared with")]
fn plain(step: Step, x: f32, bias: f32, up: f32) -> f32 {
    let cubic = |x: f32| std::f32::consts::FRAC_2_PI.sqrt() * (x + 0.044715 * x * x * x);
    let normal = |x: f32| 0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2));
    match step {
        Step::Map(Function::Relu) => x.max(0.0),
        Step::Map(Function::Exp) => x.exp(),
        Step::Map(Function::Sigmoid) => 1.0 / (1.0 + (-x).exp()),
        Step::Map(Function::Tanh) => x.tanh(),
        Step::Map(Function::Gelu) => normal(x),
        Step::Map(Function::GeluTanh) => 0.5 * x * (1.0 + cubic(x).tanh()),
        Step::Biased => normal(x + bias),
        Step::SiluMul => x / (1.0 + (-x).exp()) * up,
        Step::Map(_) => x,
    }
}

fn one(settings: &Settings, team: &ThreadTeam, case: &str, step: Step, n: usize, expected: &str) {
    let operands = if matches!(step, Step::SiluMul) { 3 } else { 2 };
    let task = Task {
        name: format!("elementwise/{case}"),
        flops: 0,
        bytes: 4 * (operands * n) as u64,
        elements: n as u64,
        threads: team.size(),
        expected: expected.to_owned(),
    };
    if !settings.wants(&task.name) {
        return;
    }
    let operations = Operations::best();
    let x = Lines::of(&wave(n, 1).iter().map(|x| 8.0 * x).collect::<Vec<f32>>());
    let (up, bias) = (Lines::of(&wave(if operands == 3 { n } else { 0 }, 2)), Lines::of(&wave(768, 3)));
    let out = RefCell::new(Lines::of(&vec![0.0; n]));
    let (x, up, bias, out) = (&x[..], &up[..], &bias[..], &out);
    let value = move |i: usize| plain(step, x[i], bias[i % 768], up.get(i).copied().unwrap_or(0.0));
    let mut contenders = vec![Contender::new(&format!("BareLM ({})", operations.name), move || {
        let out = &mut out.borrow_mut()[..];
        match step {
            Step::Map(function) => operations.map(team, function, x, out),
            Step::Biased => operations.map_biased(team, Function::Gelu, x, bias, out),
            Step::SiluMul => operations.silu_mul(team, x, up, out),
        }
        .expect("lengths agree");
    })];
    if team.size() == 1 {
        contenders.push(Contender::new("a loop, std's functions", move || {
            out.borrow_mut().iter_mut().enumerate().for_each(|(i, out)| *out = value(i));
        }));
    } else {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(team.size()).build().expect("threads start");
        contenders.push(Contender::new("rayon, std's functions", move || {
            let mut out = out.borrow_mut();
            let out = &mut out[..];
            pool.install(|| {
                out.par_chunks_mut(PIECE).enumerate().for_each(|(piece, out)| {
                    out.iter_mut().enumerate().for_each(|(i, out)| *out = value(piece * PIECE + i));
                });
            });
        }));
    }
    let mut expected: Option<Vec<f32>> = None;
    for contender in &mut contenders {
        if let Ok(sampler) = &mut contender.sampler {
            sampler(Duration::ZERO).expect("contenders of this process run");
            let expected = expected.get_or_insert_with(|| out.borrow().to_vec());
            let agree =
                out.borrow().iter().zip(&*expected).all(|(a, b)| (a - b).abs() <= 2e-6 * b.abs().max(1.0));
            assert!(agree, "{} finds something else", contender.name);
        }
    }
    let mut copy = || copy_rate(operations, team, x, &mut out.borrow_mut());
    run(settings, &task, contenders, Some(("the fastest copy", Of::Bytes, &mut copy)));
}
