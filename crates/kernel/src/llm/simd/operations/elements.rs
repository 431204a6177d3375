//! Functions of every element, in vector registers: [`crate::llm::math`]'s operations in the same order.
//!
//! Results larger than the caches are stored past them, where that costs no read of the lines to be overwritten.

use super::Function;
use crate::llm::math::{
    GELU_TANH_DENOMINATOR, GELU_TANH_MAX_SQUARE, GELU_TANH_NUMERATOR, NORMAL_DENOMINATOR, NORMAL_MAX_SQUARE,
    NORMAL_NUMERATOR, TANH_DENOMINATOR, TANH_MAX_SQUARE, TANH_NUMERATOR,
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
    /// Work of another kind, of which some is done for every [`FEW`] steps, so that each hides what the other waits for.
    #[inline(always)]
    fn beside(&mut self, _s: S) {}
}

/// Steps that are written in one go.
const FEW: usize = 4;

/// A function of one register.
trait Of<S: Registers<N>, const N: usize> {
    /// With its constants in registers, where they stay for the whole call: a constant that each step loads anew costs as much as
    /// an element does.
    fn new(s: S) -> Self;
    fn of(&self, s: S, x: S::R) -> S::R;
}

/// A type for each [`Function`] without such constants.
macro_rules! functions {
    ($($name:ident: $f:ident)*) => {
        $(
            struct $name;
            impl<S: Registers<N>, const N: usize> Of<S, N> for $name {
                #[inline(always)]
                fn new(_: S) -> Self {
                    $name
                }

                #[inline(always)]
                fn of(&self, s: S, x: S::R) -> S::R {
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
}

/// A type for each [`Function`] that is a quotient: of so many coefficients, and what becomes of the quotient.
macro_rules! quotients {
    ($($name:ident: $count:literal $over:ident / $under:ident up to $most:ident within $limit:literal, $f:ident)*) => {
        $(
            struct $name<R>(Quotient<R, $count>);
            impl<S: Registers<N>, const N: usize> Of<S, N> for $name<S::R> {
                #[inline(always)]
                fn new(s: S) -> Self {
                    $name(Quotient::new(s, $most, [$over, $under], $limit))
                }

                #[inline(always)]
                fn of(&self, s: S, x: S::R) -> S::R {
                    $f(s, &self.0, x)
                }
            }
        )*
    };
}
quotients! {
    Tanh: 5 TANH_NUMERATOR / TANH_DENOMINATOR up to TANH_MAX_SQUARE within 1.0, itself
    Gelu: 6 NORMAL_NUMERATOR / NORMAL_DENOMINATOR up to NORMAL_MAX_SQUARE within 0.5, gate
    GeluTanh: 6 GELU_TANH_NUMERATOR / GELU_TANH_DENOMINATOR up to GELU_TANH_MAX_SQUARE within 0.5, gate
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
            Function::Tanh => $run::<Tanh<S::R>, S, N>($($x),*),
            Function::Gelu => $run::<Gelu<S::R>, S, N>($($x),*),
            Function::GeluTanh => $run::<GeluTanh<S::R>, S, N>($($x),*),
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
fn map_with<F: Of<S, N>, S: Registers<N>, const N: usize>(
    s: S,
    x: Option<&[f32]>,
    out: &mut [f32],
    past: bool,
) {
    let function = F::new(s);
    match x {
        Some(x) => write(s, out, past, &mut Mapped { x, function: &function }),
        None => {
            for step in out.chunks_mut(LANES) {
                let x = apply(s, &function, load(s, step));
                store(s, step, x);
            }
        }
    }
}

#[inline(always)]
fn apply<F: Of<S, N>, S: Registers<N>, const N: usize>(s: S, function: &F, mut x: [S::R; N]) -> [S::R; N] {
    for x in &mut x {
        *x = function.of(s, *x);
    }
    x
}

struct Mapped<'a, F> {
    x: &'a [f32],
    function: &'a F,
}

impl<F: Of<S, N>, S: Registers<N>, const N: usize> Values<S, N> for Mapped<'_, F> {
    #[inline(always)]
    fn values(&self, s: S, at: usize, count: usize) -> [S::R; N] {
        s.ask(self.x.as_ptr().wrapping_add(at + AHEAD));
        apply(s, self.function, load(s, &self.x[at..at + count]))
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
fn map_biased_with<F: Of<S, N>, S: Registers<N>, const N: usize>(
    s: S,
    x: &[f32],
    bias: &[f32],
    out: &mut [f32],
    past: bool,
) {
    let function = F::new(s);
    for (x, out) in x.chunks_exact(bias.len()).zip(out.chunks_exact_mut(bias.len())) {
        write(s, out, past, &mut Biased { x, bias, function: &function });
    }
}

struct Biased<'a, F> {
    x: &'a [f32],
    bias: &'a [f32],
    function: &'a F,
}

impl<F: Of<S, N>, S: Registers<N>, const N: usize> Values<S, N> for Biased<'_, F> {
    #[inline(always)]
    fn values(&self, s: S, at: usize, count: usize) -> [S::R; N] {
        s.ask(self.x.as_ptr().wrapping_add(at + AHEAD));
        let (mut x, b) = (load::<S, N>(s, &self.x[at..at + count]), load(s, &self.bias[at..at + count]));
        for i in 0..N {
            x[i] = s.add(x[i], b[i]);
        }
        apply(s, self.function, x)
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
    write(s, out, past, &mut SiluMul { gate, up });
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
pub(super) const AHEAD: usize = 1024;

/// Writes values everywhere, 16 or fewer at a time; `past` the caches if that is asked for, after the last of which the caller
/// has to [settle](Registers::settle).
#[inline(always)]
pub(super) fn write<S: Registers<N>, const N: usize>(
    s: S,
    out: &mut [f32],
    past: bool,
    from: &mut impl Values<S, N>,
) {
    if !past {
        let (steps, rest) = out.as_chunks_mut();
        let mut at = 0;
        let (fews, others) = steps.as_chunks_mut::<FEW>();
        for few in fews {
            from.beside(s);
            for step in few {
                s.store(step, from.values(s, at, LANES));
                at += LANES;
            }
        }
        for step in others {
            s.store(step, from.values(s, at, LANES));
            at += LANES;
        }
        if !rest.is_empty() {
            let count = rest.len();
            store(s, rest, from.values(s, at, count));
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
    let mut at = before;
    let (fews, others) = lines.as_chunks_mut::<FEW>();
    for few in fews {
        from.beside(s);
        for line in few {
            s.stream(line, from.values(s, at, LANES));
            at += LANES;
        }
    }
    for line in others {
        s.stream(line, from.values(s, at, LANES));
        at += LANES;
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

/// `x` times a quotient of polynomials in its square, whose constants are in registers.
struct Quotient<R, const C: usize> {
    over: [R; C],
    under: [R; C],
    most: R,
    limits: [R; 2],
}

impl<R: Copy, const C: usize> Quotient<R, C> {
    #[inline(always)]
    fn new<S: Registers<N, R = R>, const N: usize>(
        s: S,
        most: f32,
        [over, under]: [[f32; C]; 2],
        limit: f32,
    ) -> Self {
        let mut quotient = Quotient {
            over: [s.splat(0.0); C],
            under: [s.splat(0.0); C],
            most: s.hold(s.splat(most)),
            limits: [s.hold(s.splat(-limit)), s.hold(s.splat(limit))],
        };
        for i in 0..C {
            quotient.over[i] = s.hold(s.splat(over[i]));
            quotient.under[i] = s.hold(s.splat(under[i]));
        }
        quotient
    }

    #[inline(always)]
    fn of<S: Registers<N, R = R>, const N: usize>(&self, s: S, x: R) -> R {
        let square = s.smaller(self.most, s.mul(x, x));
        let (mut over, mut under) = (self.over[C - 1], self.under[C - 1]);
        for i in (0..C - 1).rev() {
            over = s.fma(over, square, self.over[i]);
            under = s.fma(under, square, self.under[i]);
        }
        s.between(self.limits[0], s.div(s.mul(x, over), under), self.limits[1])
    }
}

#[inline(always)]
fn itself<S: Registers<N>, const N: usize, const C: usize>(s: S, q: &Quotient<S::R, C>, x: S::R) -> S::R {
    q.of(s, x)
}

/// `x` times a half and the quotient.
#[inline(always)]
fn gate<S: Registers<N>, const N: usize, const C: usize>(s: S, q: &Quotient<S::R, C>, x: S::R) -> S::R {
    // A half is one of the limits.
    s.mul(x, s.add(q.limits[1], q.of(s, x)))
}
