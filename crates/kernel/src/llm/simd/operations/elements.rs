//! Functions of every element, in vector registers: [`crate::llm::math`]'s operations in the same order.
//!
//! Results larger than the caches are stored past them, where that costs no read of the lines to be overwritten.

use core::marker::PhantomData;

use super::Function;
use crate::llm::math::{
    GELU_CUBIC, GELU_LINEAR, NORMAL_DENOMINATOR, NORMAL_MAX, NORMAL_NUMERATOR, TANH_DENOMINATOR, TANH_MAX,
    TANH_NUMERATOR,
};
use crate::llm::simd::lanes::{Line, Registers, exp, load, store};
use crate::llm::simd::scalar::LANES;

/// What is written: up to 16 values, `count` of them from `at` on.
///
/// A trait rather than a closure, since only functions can be marked to be always inlined, and what is not inlined into an
/// entry of a table has none of its instructions.
pub(super) trait Values<S: Registers<N>, const N: usize> {
    /// The values.
    fn values(&self, s: S, at: usize, count: usize) -> [S::R; N];
}

/// A function of one register.
trait Of {
    fn of<S: Registers<N>, const N: usize>(s: S, x: S::R) -> S::R;
}

/// A type for each [`Function`].
macro_rules! functions {
    ($($name:ident: $f:ident)*) => {
        $(
            struct $name;
            impl Of for $name {
                #[inline(always)]
                fn of<S: Registers<N>, const N: usize>(s: S, x: S::R) -> S::R {
                    $f(s, x)
                }
            }
        )*
    };
}
functions! {
    Identity: identity
    Relu: relu
    Exp: exp
    Sigmoid: sigmoid
    Silu: silu
    Tanh: tanh
    Gelu: gelu
    GeluTanh: gelu_tanh
}

/// Calls `run` with a function's type first.
macro_rules! with {
    ($function:expr, $run:ident($($x:expr),*)) => {
        match $function {
            Function::Identity => $run::<Identity, S, N>($($x),*),
            Function::Relu => $run::<Relu, S, N>($($x),*),
            Function::Exp => $run::<Exp, S, N>($($x),*),
            Function::Sigmoid => $run::<Sigmoid, S, N>($($x),*),
            Function::Silu => $run::<Silu, S, N>($($x),*),
            Function::Tanh => $run::<Tanh, S, N>($($x),*),
            Function::Gelu => $run::<Gelu, S, N>($($x),*),
            Function::GeluTanh => $run::<GeluTanh, S, N>($($x),*),
        }
    };
}

/// `out = f(x)`, or of what `out` has if there is no `x`.
#[inline(always)]
pub(in crate::llm::simd) fn map<S: Registers<N>, const N: usize>(
    s: S,
    function: Function,
    x: Option<&[f32]>,
    out: &mut [f32],
    past: bool,
) {
    with!(function, map_with(s, x, out, past));
    if past {
        s.settle();
    }
}

#[inline(always)]
fn map_with<F: Of, S: Registers<N>, const N: usize>(s: S, x: Option<&[f32]>, out: &mut [f32], past: bool) {
    match x {
        Some(x) => write(s, out, past, Mapped(x, PhantomData::<F>)),
        None => {
            for step in out.chunks_mut(LANES) {
                let x = apply::<F, S, N>(s, load(s, step));
                store(s, step, x);
            }
        }
    }
}

#[inline(always)]
fn apply<F: Of, S: Registers<N>, const N: usize>(s: S, mut x: [S::R; N]) -> [S::R; N] {
    for x in &mut x {
        *x = F::of(s, *x);
    }
    x
}

struct Mapped<'a, F>(&'a [f32], PhantomData<F>);

impl<F: Of, S: Registers<N>, const N: usize> Values<S, N> for Mapped<'_, F> {
    #[inline(always)]
    fn values(&self, s: S, at: usize, count: usize) -> [S::R; N] {
        s.ask(self.0.as_ptr().wrapping_add(at + AHEAD));
        apply::<F, S, N>(s, load(s, &self.0[at..at + count]))
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
    with!(function, map_biased_with(s, x, bias, out, past));
    if past {
        s.settle();
    }
}

#[inline(always)]
fn map_biased_with<F: Of, S: Registers<N>, const N: usize>(
    s: S,
    x: &[f32],
    bias: &[f32],
    out: &mut [f32],
    past: bool,
) {
    for (x, out) in x.chunks_exact(bias.len()).zip(out.chunks_exact_mut(bias.len())) {
        write(s, out, past, Biased { x, bias, function: PhantomData::<F> });
    }
}

struct Biased<'a, F> {
    x: &'a [f32],
    bias: &'a [f32],
    function: PhantomData<F>,
}

impl<F: Of, S: Registers<N>, const N: usize> Values<S, N> for Biased<'_, F> {
    #[inline(always)]
    fn values(&self, s: S, at: usize, count: usize) -> [S::R; N] {
        s.ask(self.x.as_ptr().wrapping_add(at + AHEAD));
        let (mut x, b) = (load::<S, N>(s, &self.x[at..at + count]), load(s, &self.bias[at..at + count]));
        for i in 0..N {
            x[i] = s.add(x[i], b[i]);
        }
        apply::<F, S, N>(s, x)
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
    write(s, out, past, SiluMul { gate, up });
    if past {
        s.settle();
    }
}

struct SiluMul<'a> {
    gate: &'a [f32],
    up: &'a [f32],
}

impl<S: Registers<N>, const N: usize> Values<S, N> for SiluMul<'_> {
    #[inline(always)]
    fn values(&self, s: S, at: usize, count: usize) -> [S::R; N] {
        s.ask(self.gate.as_ptr().wrapping_add(at + AHEAD));
        s.ask(self.up.as_ptr().wrapping_add(at + AHEAD));
        let (mut x, up) = (load::<S, N>(s, &self.gate[at..at + count]), load(s, &self.up[at..at + count]));
        for i in 0..N {
            x[i] = s.mul(silu(s, x[i]), up[i]);
        }
        x
    }
}

/// How far ahead operands are asked for: a page, behind which the processor does not look by itself.
const AHEAD: usize = 1024;

/// Writes values everywhere, 16 or fewer at a time; `past` the caches if that is asked for, after the last of which the caller
/// has to [settle](Registers::settle).
#[inline(always)]
pub(super) fn write<S: Registers<N>, const N: usize>(
    s: S,
    out: &mut [f32],
    past: bool,
    from: impl Values<S, N>,
) {
    if !past {
        let (steps, rest) = out.as_chunks_mut();
        for (i, step) in steps.iter_mut().enumerate() {
            s.store(step, from.values(s, i * LANES, LANES));
        }
        if !rest.is_empty() {
            let count = rest.len();
            store(s, rest, from.values(s, steps.len() * LANES, count));
        }
        return;
    }
    // SAFETY: a line is sixteen floats, of any bits.
    let (head, lines, tail) = unsafe { out.align_to_mut::<Line>() };
    let (before, after) = (head.len(), head.len() + lines.len() * LANES);
    // There is room for less than a line before and behind.
    for (at, few) in [(0, head), (after, tail)] {
        for (i, step) in few.chunks_mut(LANES).enumerate() {
            let count = step.len();
            store(s, step, from.values(s, at + i * LANES, count));
        }
    }
    for (i, line) in lines.iter_mut().enumerate() {
        s.stream(line, from.values(s, before + i * LANES, LANES));
    }
}

#[inline(always)]
fn identity<S: Registers<N>, const N: usize>(_: S, x: S::R) -> S::R {
    x
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
