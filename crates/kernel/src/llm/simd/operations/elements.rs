//! Functions of every element, in vector registers: [`crate::llm::math`]'s operations in the same order.
//!
//! Results larger than the caches are stored past them, where that costs no read of the lines to be overwritten.

use super::Function;
use crate::llm::math::{
    GELU_CUBIC, GELU_LINEAR, NORMAL_DENOMINATOR, NORMAL_MAX, NORMAL_NUMERATOR, TANH_DENOMINATOR, TANH_MAX,
    TANH_NUMERATOR,
};
use crate::llm::simd::lanes::{Line, Registers, exp, load, store};
use crate::llm::simd::scalar::LANES;

/// `out = f(x)`, or of what `out` has if there is no `x`.
#[inline(always)]
pub(in crate::llm::simd) fn map<S: Registers<N>, const N: usize>(
    s: S,
    function: Function,
    x: Option<&[f32]>,
    out: &mut [f32],
    past: bool,
) {
    macro_rules! of {
        ($f:ident) => {
            match x {
                Some(x) => write(s, out, past, |at, n| load::<S, N>(s, &x[at..at + n]).map(|x| $f(s, x))),
                None => {
                    for step in out.chunks_mut(LANES) {
                        let x: [S::R; N] = load(s, step);
                        store(s, step, x.map(|x| $f(s, x)));
                    }
                }
            }
        };
    }
    match function {
        Function::Relu => of!(relu),
        Function::Exp => of!(exp),
        Function::Sigmoid => of!(sigmoid),
        Function::Silu => of!(silu),
        Function::Tanh => of!(tanh),
        Function::Gelu => of!(gelu),
        Function::GeluTanh => of!(gelu_tanh),
    }
}

/// `out = f(x + bias)`, row by row.
#[inline(always)]
pub(in crate::llm::simd) fn map_biased<S: Registers<N>, const N: usize>(
    s: S,
    function: Function,
    x: &[f32],
    bias: &[f32],
    out: &mut [f32],
    past: bool,
) {
    macro_rules! of {
        ($f:ident) => {
            for (x, out) in x.chunks_exact(bias.len()).zip(out.chunks_exact_mut(bias.len())) {
                write(s, out, past, |at, n| {
                    let (mut x, b) = (load::<S, N>(s, &x[at..at + n]), load(s, &bias[at..at + n]));
                    for i in 0..N {
                        x[i] = $f(s, s.add(x[i], b[i]));
                    }
                    x
                })
            }
        };
    }
    match function {
        Function::Relu => of!(relu),
        Function::Exp => of!(exp),
        Function::Sigmoid => of!(sigmoid),
        Function::Silu => of!(silu),
        Function::Tanh => of!(tanh),
        Function::Gelu => of!(gelu),
        Function::GeluTanh => of!(gelu_tanh),
    }
}

/// `out = silu(gate) * up`.
#[inline(always)]
pub(in crate::llm::simd) fn silu_mul<S: Registers<N>, const N: usize>(
    s: S,
    gate: &[f32],
    up: &[f32],
    out: &mut [f32],
    past: bool,
) {
    write(s, out, past, |at, n| {
        let (mut x, up) = (load::<S, N>(s, &gate[at..at + n]), load(s, &up[at..at + n]));
        for i in 0..N {
            x[i] = s.mul(silu(s, x[i]), up[i]);
        }
        x
    });
}

/// Writes `value(place, count)` everywhere, 16 values or fewer at a time; `past` the caches if that is asked for.
#[inline(always)]
pub(super) fn write<S: Registers<N>, const N: usize>(
    s: S,
    out: &mut [f32],
    past: bool,
    value: impl Fn(usize, usize) -> [S::R; N],
) {
    if !past {
        let (steps, rest) = out.as_chunks_mut();
        for (i, step) in steps.iter_mut().enumerate() {
            s.store(step, value(i * LANES, LANES));
        }
        if !rest.is_empty() {
            let n = rest.len();
            store(s, rest, value(steps.len() * LANES, n));
        }
        return;
    }
    // SAFETY: a line is sixteen floats, of any bits.
    let (head, lines, tail) = unsafe { out.align_to_mut::<Line>() };
    let mut at = 0;
    for part in [Ok(head), Err(lines), Ok(tail)] {
        match part {
            Ok(few) => {
                for step in few.chunks_mut(LANES) {
                    let n = step.len();
                    store(s, step, value(at, n));
                    at += n;
                }
            }
            Err(lines) => {
                for line in lines {
                    s.stream(line, value(at, LANES));
                    at += LANES;
                }
            }
        }
    }
    s.settle();
}

#[inline(always)]
fn relu<S: Registers<N>, const N: usize>(s: S, x: S::R) -> S::R {
    s.larger(s.splat(0.0), x)
}

#[inline(always)]
fn sigmoid<S: Registers<N>, const N: usize>(s: S, x: S::R) -> S::R {
    s.div(s.splat(1.0), s.add(s.splat(1.0), exp(s, s.neg(x))))
}

#[inline(always)]
fn silu<S: Registers<N>, const N: usize>(s: S, x: S::R) -> S::R {
    s.div(x, s.add(s.splat(1.0), exp(s, s.neg(x))))
}

#[inline(always)]
fn polynomial<S: Registers<N>, const N: usize, const C: usize>(
    s: S,
    coefficients: [f32; C],
    x: S::R,
) -> S::R {
    let mut sum = s.splat(coefficients[C - 1]);
    for c in coefficients.into_iter().rev().skip(1) {
        sum = s.fma(sum, x, s.splat(c));
    }
    sum
}

/// `x` times a quotient of polynomials in its square, `x` and the result kept within bounds.
#[inline(always)]
fn quotient<S: Registers<N>, const N: usize, const C: usize>(
    s: S,
    x: S::R,
    most: f32,
    [over, under]: [[f32; C]; 2],
    limit: f32,
) -> S::R {
    let x = s.between(s.splat(-most), x, s.splat(most));
    let square = s.mul(x, x);
    let y = s.div(s.mul(x, polynomial(s, over, square)), polynomial(s, under, square));
    s.between(s.splat(-limit), y, s.splat(limit))
}

#[inline(always)]
fn tanh<S: Registers<N>, const N: usize>(s: S, x: S::R) -> S::R {
    quotient(s, x, TANH_MAX, [TANH_NUMERATOR, TANH_DENOMINATOR], 1.0)
}

#[inline(always)]
fn gelu<S: Registers<N>, const N: usize>(s: S, x: S::R) -> S::R {
    let p = quotient(s, x, NORMAL_MAX, [NORMAL_NUMERATOR, NORMAL_DENOMINATOR], 0.5);
    s.mul(x, s.add(s.splat(0.5), p))
}

#[inline(always)]
fn gelu_tanh<S: Registers<N>, const N: usize>(s: S, x: S::R) -> S::R {
    let half = s.mul(s.splat(0.5), x);
    let inner = s.mul(x, s.fma(s.mul(x, x), s.splat(GELU_CUBIC), s.splat(GELU_LINEAR)));
    s.fma(half, tanh(s, inner), half)
}
