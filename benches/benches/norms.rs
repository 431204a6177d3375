//! Normalization of rows beside copying them: `cargo bench --bench norms [-- FILTER --rounds N --sample-ms N --records FILE]`.
//!
//! One pass by Welford's algorithm against the two passes of the formula, which are compiled for the same instruction set; and other
//! engines'. With `--features large` 50 million elements too.

use std::cell::RefCell;
use std::time::Duration;

use barelm::llm::operations::Operations;
use barelm::llm::pool::{Solo, Team};
use barelm::llm::shared::Shared;
use barelm_benches::contest::{Contender, Of, Settings, Task, copy_rate, run};
use barelm_benches::{Lines, peers, wave};
use barelm_host::team::ThreadTeam;

fn main() {
    let settings = Settings::from_env();
    let mut shapes = vec![(64, 768), (16_384, 768), (4096, 4096)];
    if cfg!(feature = "large") {
        shapes.push((65_536, 768));
    }
    for (rows, n) in shapes {
        for threads in [1, 2] {
            let team = ThreadTeam::try_new(threads).expect("threads start");
            for norm in [Norm::Layer, Norm::Rms, Norm::Softmax] {
                one(&settings, &team, norm, rows, n);
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Norm {
    Layer,
    Rms,
    Softmax,
}

fn one(settings: &Settings, team: &ThreadTeam, norm: Norm, rows: usize, n: usize) {
    let op = match norm {
        Norm::Layer => "layer_norm",
        Norm::Rms => "rms_norm",
        Norm::Softmax => "softmax",
    };
    let task = Task {
        name: format!("norms/{op} {rows}x{n}"),
        flops: 0,
        bytes: 8 * (rows * n) as u64,
        elements: (rows * n) as u64,
        threads: team.size(),
        expected: if norm == Norm::Layer { "one pass 2 to 4 times as fast as two" } else { "" }.to_owned(),
    };
    if !settings.wants(&task.name) {
        return;
    }
    let operations = Operations::best();
    let [x, weight, bias] = [(rows * n, 1), (n, 2), (n, 3)].map(|(len, seed)| Lines::of(&wave(len, seed)));
    let out = RefCell::new(Lines::of(&vec![0.0; rows * n]));
    let (x, weight, bias, out) = (&x[..], &weight[..], &bias[..], &out);
    let name = match norm {
        Norm::Layer => format!("BareLM, one pass ({})", operations.name),
        _ => format!("BareLM ({})", operations.name),
    };
    let mut contenders = vec![Contender::new(&name, move || {
        let out = &mut out.borrow_mut()[..];
        match norm {
            Norm::Layer => operations.layer_norm(team, x, weight, bias, 1e-5, out),
            Norm::Rms => operations.rms_norm(team, x, weight, 1e-5, out),
            Norm::Softmax => return softmax(operations, team, x, n, out),
        }
        .expect("whole rows");
    })];
    if norm == Norm::Layer {
        contenders.push(Contender::new("two passes", move || {
            let mut out = out.borrow_mut();
            let out = Shared::new(&mut out[..]);
            team.run(&|member| {
                let norm = |(): &mut (), rows: std::ops::Range<usize>| {
                    let piece = rows.start * n..rows.end * n;
                    // SAFETY: what members claim does not overlap.
                    let out = unsafe { out.write(piece.clone()) };
                    two_passes(&x[piece], weight, bias, out);
                };
                member.step(rows, || (), norm);
            });
        }));
        let mut expected: Option<Vec<f32>> = None;
        for contender in &mut contenders {
            if let Ok(sampler) = &mut contender.sampler {
                sampler(Duration::ZERO).expect("contenders of this process run");
                let expected = expected.get_or_insert_with(|| out.borrow().to_vec());
                let agree = out.borrow().iter().zip(&*expected).all(|(a, b)| (a - b).abs() < 1e-5);
                assert!(agree, "{} finds something else", contender.name);
            }
        }
    }
    for peer in peers::PEERS {
        contenders.push(peers::contender(peer, op, &[("rows", rows), ("n", n), ("threads", team.size())]));
    }
    let mut copy = || copy_rate(operations, team, x, &mut out.borrow_mut());
    run(settings, &task, contenders, Some(("the fastest copy", Of::Bytes, &mut copy)));
}

/// Softmax of the rows of `x`, of which ours works in place: each row is copied first, and is near when it is worked on.
fn softmax(operations: &Operations, team: &ThreadTeam, x: &[f32], n: usize, out: &mut [f32]) {
    let out = Shared::new(out);
    team.run(&|member| {
        let some = |(): &mut (), rows: std::ops::Range<usize>| {
            for row in rows {
                // SAFETY: what members claim does not overlap.
                let out = unsafe { out.write(row * n..(row + 1) * n) };
                out.copy_from_slice(&x[row * n..(row + 1) * n]);
                operations.softmax(&Solo, out, n, 1.0).expect("a whole row");
            }
        };
        member.step(x.len() / n, || (), some);
    });
}

/// Mean, then variance, then the result, with 64 sums side by side so that a compiler may keep them in registers.
#[inline(always)]
fn two_passes_plain(x: &[f32], weight: &[f32], bias: &[f32], out: &mut [f32]) {
    let n = weight.len();
    for (x, out) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
        let (groups, rest) = x.as_chunks::<64>();
        let mut sums = [0.0f32; 64];
        for group in groups {
            for i in 0..64 {
                sums[i] += group[i];
            }
        }
        let mean = (sums.iter().sum::<f32>() + rest.iter().sum::<f32>()) / n as f32;
        let mut squares = [0.0f32; 64];
        for group in groups {
            for i in 0..64 {
                squares[i] += (group[i] - mean) * (group[i] - mean);
            }
        }
        let rest: f32 = rest.iter().map(|x| (x - mean) * (x - mean)).sum();
        let scale = 1.0 / ((squares.iter().sum::<f32>() + rest) / n as f32 + 1e-5).sqrt();
        for (((out, x), w), b) in out.iter_mut().zip(x).zip(weight).zip(bias) {
            *out = (x - mean) * scale * w + b;
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn two_passes(x: &[f32], weight: &[f32], bias: &[f32], out: &mut [f32]) {
    #[target_feature(enable = "avx512f,fma")]
    fn wide(x: &[f32], weight: &[f32], bias: &[f32], out: &mut [f32]) {
        two_passes_plain(x, weight, bias, out);
    }
    #[target_feature(enable = "avx2,fma")]
    fn half(x: &[f32], weight: &[f32], bias: &[f32], out: &mut [f32]) {
        two_passes_plain(x, weight, bias, out);
    }
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("fma") {
        // SAFETY: just detected.
        unsafe { wide(x, weight, bias, out) }
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: just detected.
        unsafe { half(x, weight, bias, out) }
    } else {
        two_passes_plain(x, weight, bias, out);
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn two_passes(x: &[f32], weight: &[f32], bias: &[f32], out: &mut [f32]) {
    two_passes_plain(x, weight, bias, out);
}
