//! The only door to floating-point functions: the same operations, in the same order, on every platform.
//!
//! Each function names its operations one by one, so that a vector file can repeat them and get the same bits.
//! Nothing here asks the platform's mathematics library, whose last bits differ from one system to the next.

/// Adding and subtracting this rounds an f32 of magnitude up to 2^22 to the nearest integer, ties to even.
pub const ROUND_MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23
/// Above this `exp` is infinite whatever the rounding, so arguments are clamped to it.
pub const EXP_MAX: f32 = 89.0;
/// Below this `exp` is under 2^-126, so arguments are clamped to it.
pub const EXP_MIN: f32 = -104.0;
/// ln 2 rounded to f32.
pub const LN2_HIGH: f32 = core::f32::consts::LN_2;
/// What f32 leaves of ln 2.
pub const LN2_LOW: f32 = (core::f64::consts::LN_2 - core::f32::consts::LN_2 as f64) as f32;
/// Coefficients of `(exp(r) - 1 - r) / r^2` on `|r| <= ln 2 / 2`, lowest power first: the interpolant through the
/// Chebyshev nodes. `exp(r)` so approximated is within 1.02e-8 of the truth, a sixth of an ulp, before rounding.
pub const EXP_COEFFICIENTS: [f32; 5] = [0.5, 0.166_665_77, 0.041_666_556, 0.008_363_233, 0.001_392_625_1];

/// `a * b + c`, rounded once.
#[inline(always)]
pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    libm::fmaf(a, b, c)
}

/// Square root, correctly rounded.
#[inline(always)]
pub fn sqrt(x: f32) -> f32 {
    libm::sqrtf(x)
}

/// Nearest integer, ties to even, for `|x| <= 2^22`.
#[inline(always)]
pub fn round_ties_even(x: f32) -> f32 {
    (x + ROUND_MAGIC) - ROUND_MAGIC
}

/// `e^x` within 2 ulp: `exp(0)` is exactly 1, results below 2^-126 are 0, too large ones infinite, NaN stays NaN.
///
/// With `n = round(x / ln 2)` and `r = x - n ln 2`: `2^n (1 + r + r^2 q(r))`. The power of two is multiplied in two
/// halves, because 2^128 is not an f32 while results with `n = 128` may be.
#[inline]
pub fn exp(x: f32) -> f32 {
    let x = if x > EXP_MAX { EXP_MAX } else { x };
    let x = if x < EXP_MIN { EXP_MIN } else { x };
    let shifted = fma(x, core::f32::consts::LOG2_E, ROUND_MAGIC);
    let n = shifted - ROUND_MAGIC;
    let r = fma(n, -LN2_HIGH, x);
    let r = fma(n, -LN2_LOW, r);
    let [c0, c1, c2, c3, c4] = EXP_COEFFICIENTS;
    let q = fma(c4, r, c3);
    let q = fma(q, r, c2);
    let q = fma(q, r, c1);
    let q = fma(q, r, c0);
    let p = fma(q, r, 1.0);
    let p = fma(p, r, 1.0);
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND_MAGIC.to_bits() as i32);
    let half = n >> 1;
    let rest = n.wrapping_sub(half);
    let y = (p * power_of_two(half)) * power_of_two(rest);
    if y < f32::MIN_POSITIVE { 0.0 } else { y }
}

/// `2^n` for `-127 < n < 128`; any other `n` gives bits without meaning, the same on every platform.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// `x / (1 + e^-x)`, the gate of the feed-forward part.
#[inline]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// The square of what `tanh` rounds to 1 above, 9.02: squares are no larger in the quotient, which grows with `x` from there on and is
/// cut off at 1.
pub const TANH_MAX_SQUARE: f32 = 81.3604;
/// `tanh(x) / x` as a quotient of polynomials in `x^2`, lowest power first, up to [`TANH_MAX_SQUARE`]: within 2.1e-8 of the truth
/// before rounding (a minimax fit by reweighted least squares).
pub const TANH_NUMERATOR: [f32; 5] = [1.0, 0.133_797_18, 0.003_494_034_5, 2.058_348e-5, 1.331_907_1e-8];
/// The denominator of [`TANH_NUMERATOR`].
pub const TANH_DENOMINATOR: [f32; 5] = [1.0, 0.467_130_33, 0.025_871_072, 0.000_328_309_28, 7.762_019e-7];

/// The square of 5.5, beyond which the normal distribution's integral rounds to 0 or 1.
pub const NORMAL_MAX_SQUARE: f32 = 30.25;
/// `(P(x) - 1/2) / x`, where `P` is the integral of the standard normal distribution up to `x`, as a quotient of polynomials in
/// `x^2`, lowest power first, up to [`NORMAL_MAX_SQUARE`]: within 1.7e-8 of itself before rounding (fitted as [`TANH_NUMERATOR`]).
pub const NORMAL_NUMERATOR: [f32; 6] =
    [0.398_942_26, 0.033_458_896, 0.004_651_482_7, 0.000_164_573_81, 6.301_591_4e-6, 2.293_115_4e-8];
/// The denominator of [`NORMAL_NUMERATOR`].
pub const NORMAL_DENOMINATOR: [f32; 6] =
    [1.0, 0.250_535_43, 0.028_416_133, 0.001_860_646_2, 7.216_706e-5, 1.199_028_4e-6];

/// The square of 5.2, beyond which the factor of `x` in [`gelu_tanh`] rounds to 0 or 1.
pub const GELU_TANH_MAX_SQUARE: f32 = 27.04;
/// `tanh(sqrt(2 / pi) (x + 0.044715 x^3)) / 2x` as a quotient of polynomials in `x^2`, lowest power first, up to
/// [`GELU_TANH_MAX_SQUARE`]: within 1.7e-8 of itself before rounding (fitted as [`TANH_NUMERATOR`]).
pub const GELU_TANH_NUMERATOR: [f32; 6] =
    [0.398_942_3, 0.030_716_548, 0.003_643_417, 0.000_135_615_41, 6.986_505_5e-6, 2.331_588_6e-8];
/// The denominator of [`GELU_TANH_NUMERATOR`].
pub const GELU_TANH_DENOMINATOR: [f32; 6] =
    [1.0, 0.244_486_87, 0.024_509_747, 0.001_310_125_1, 7.604_218e-5, 1.289_458_2e-6];

/// `x`, but `high` where it is larger and `low` where it is smaller. A NaN stays.
#[inline(always)]
fn between(low: f32, x: f32, high: f32) -> f32 {
    let x = if high < x { high } else { x };
    if low > x { low } else { x }
}

/// A polynomial, lowest power first, by Horner's rule.
#[inline(always)]
fn polynomial<const C: usize>(coefficients: [f32; C], x: f32) -> f32 {
    let (&last, others) = coefficients.split_last().expect("a coefficient");
    others.iter().rev().fold(last, |sum, &c| fma(sum, x, c))
}

/// The larger of `x` and 0; NaN stays, and so does -0.
#[inline]
pub fn relu(x: f32) -> f32 {
    if 0.0 > x { 0.0 } else { x }
}

/// `1 / (1 + e^-x)`.
#[inline]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `x` times a quotient of polynomials in its square, which is `most` at most; the result within `limit` of zero.
#[inline(always)]
fn quotient<const C: usize>(x: f32, most: f32, [over, under]: [[f32; C]; 2], limit: f32) -> f32 {
    let square = x * x;
    let square = if most < square { most } else { square };
    between(-limit, (x * polynomial(over, square)) / polynomial(under, square), limit)
}

/// Hyperbolic tangent within 7 ulp, never beyond 1; odd, so -0 stays.
#[inline]
pub fn tanh(x: f32) -> f32 {
    quotient(x, TANH_MAX_SQUARE, [TANH_NUMERATOR, TANH_DENOMINATOR], 1.0)
}

/// `x P(x)` with `P` the integral of the standard normal distribution, which is GELU as defined by `erf`. Within 2^-22 `|x|`;
/// NaN at minus infinity, as the product says.
#[inline]
pub fn gelu(x: f32) -> f32 {
    x * (0.5 + quotient(x, NORMAL_MAX_SQUARE, [NORMAL_NUMERATOR, NORMAL_DENOMINATOR], 0.5))
}

/// `x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`, the usual approximation of GELU, within 2^-22 `|x|` of that formula;
/// NaN at minus infinity.
#[inline]
pub fn gelu_tanh(x: f32) -> f32 {
    x * (0.5 + quotient(x, GELU_TANH_MAX_SQUARE, [GELU_TANH_NUMERATOR, GELU_TANH_DENOMINATOR], 0.5))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Distance of `y` from `truth` in units of the last place of an f32 at `truth`.
    fn ulps(y: f32, truth: f64) -> f64 {
        let magnitude = truth.abs().max(f64::from(f32::MIN_POSITIVE));
        let exponent = ((magnitude.to_bits() >> 52) as i32) - 1023;
        let ulp = f64::from_bits(((exponent - 23 + 1023) as u64) << 52);
        (f64::from(y) - truth).abs() / ulp
    }

    fn check_exp(bits: u32) {
        let x = f32::from_bits(bits);
        let y = exp(x);
        if x.is_nan() {
            assert!(y.is_nan());
            return;
        }
        let truth = libm::exp(f64::from(x));
        if truth < f64::from(f32::MIN_POSITIVE) * (1.0 - 1e-6) {
            assert_eq!(y.to_bits(), 0, "exp({x:e})");
        } else if truth > f64::from(f32::MAX) * (1.0 + 1e-6) {
            assert_eq!(y, f32::INFINITY, "exp({x:e})");
        } else if y != 0.0 && y.is_finite() {
            assert!(ulps(y, truth) <= 2.0, "exp({x:e}) = {y:e}, {} ulp", ulps(y, truth));
        } else {
            // At the very edge rounding may fall to either side.
            assert!(
                truth < 1.000_001 * f64::from(f32::MIN_POSITIVE) || truth > 0.999_999 * f64::from(f32::MAX)
            );
        }
    }

    fn check_silu(bits: u32) {
        let x = f32::from_bits(bits);
        // Beyond 87 the exponential leaves f32 and the quotient goes to x or to 0.
        if x.is_nan() || x.abs() > 87.0 {
            return;
        }
        let truth = f64::from(x) / (1.0 + libm::exp(-f64::from(x)));
        // exp 2 ulp (one more where 1 + e crosses a binade), the sum and the quotient half an ulp each, doubled
        // because the ulp of the quotient may be half that of its parts.
        if truth.abs() >= f64::from(f32::MIN_POSITIVE) {
            assert!(ulps(silu(x), truth) <= 6.0, "silu({x:e}) is {} ulp off", ulps(silu(x), truth));
        }
    }

    fn check_others(bits: u32) {
        let x = f32::from_bits(bits);
        if x.is_nan() {
            assert!([relu(x), sigmoid(x), tanh(x), gelu(x), gelu_tanh(x)].iter().all(|y| y.is_nan()));
            return;
        }
        assert_eq!(relu(x).to_bits(), if x < 0.0 { 0 } else { bits });
        let wide = f64::from(x);
        let truth = libm::tanh(wide);
        let y = tanh(x);
        assert!(y.abs() <= 1.0 && ulps(y, truth) <= 7.0, "tanh({x:e}) is {} ulp off", ulps(y, truth));
        let truth = 1.0 / (1.0 + libm::exp(-wide));
        if truth >= f64::from(f32::MIN_POSITIVE) {
            // exp 2 ulp (one more where 1 + e crosses a binade), the sum and the quotient half an ulp each, doubled.
            assert!(ulps(sigmoid(x), truth) <= 6.0, "sigmoid({x:e}) is {} ulp off", ulps(sigmoid(x), truth));
        } else {
            assert!(sigmoid(x) <= 2.0 * f32::MIN_POSITIVE);
        }
        if x.is_infinite() {
            return;
        }
        // Half an ulp of the product where it is subnormal.
        let bound = wide.abs() * (1.0 / 4_194_304.0) + 1e-45;
        let truth = wide * 0.5 * libm::erfc(-wide * core::f64::consts::FRAC_1_SQRT_2);
        assert!((f64::from(gelu(x)) - truth).abs() <= bound, "gelu({x:e}) = {:e}, not {truth:e}", gelu(x));
        let inner = (2.0 / core::f64::consts::PI).sqrt() * (wide + 0.044715 * wide * wide * wide);
        let truth = wide * 0.5 * (1.0 + libm::tanh(inner));
        let y = gelu_tanh(x);
        assert!((f64::from(y) - truth).abs() <= bound, "gelu_tanh({x:e}) = {y:e}, not {truth:e}");
    }

    #[test]
    fn functions_of_special_values() {
        for (f, at) in
            [(relu as fn(f32) -> f32, [0.0, f32::INFINITY]), (sigmoid, [0.0, 1.0]), (tanh, [-1.0, 1.0])]
        {
            assert_eq!([f(f32::NEG_INFINITY), f(f32::INFINITY)], at);
        }
        assert_eq!(tanh(-0.0).to_bits(), (-0.0f32).to_bits());
        assert_eq!(sigmoid(0.0), 0.5);
        for f in [gelu, gelu_tanh] {
            assert_eq!([f(0.0), f(f32::INFINITY), f(1e30), f(-1e30)], [0.0, f32::INFINITY, 1e30, 0.0]);
            assert!(f(f32::NEG_INFINITY).is_nan());
        }
    }

    #[test]
    fn exp_of_special_values() {
        assert_eq!(exp(0.0).to_bits(), 1.0f32.to_bits());
        assert_eq!(exp(-0.0).to_bits(), 1.0f32.to_bits());
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(f32::NEG_INFINITY).to_bits(), 0);
        assert_eq!(exp(-87.4).to_bits(), 0);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(88.7).is_finite());
    }

    #[test]
    fn functions_are_close_to_f64() {
        let stride = if cfg!(miri) { 40_000_003 } else { 1009 };
        for bits in (0..=u32::MAX).step_by(stride) {
            check_exp(bits);
            check_silu(bits);
            check_others(bits);
        }
    }

    #[test]
    #[ignore = "needs minutes: every f32"]
    fn functions_are_close_to_f64_everywhere() {
        extern crate std;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for first in 0..threads {
                scope.spawn(move || {
                    for bits in (0..=u32::MAX).skip(first).step_by(threads) {
                        check_exp(bits);
                        check_silu(bits);
                        check_others(bits);
                    }
                });
            }
        });
    }

    #[test]
    fn rounding_breaks_ties_to_even() {
        for (x, rounded) in [(0.5, 0.0), (1.5, 2.0), (2.5, 2.0), (-0.5, 0.0), (-1.5, -2.0), (126.5, 126.0)] {
            assert_eq!(round_ties_even(x), rounded);
        }
    }
}
