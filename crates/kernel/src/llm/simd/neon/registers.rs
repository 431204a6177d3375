//! Four registers of four lanes hold a step of 16.

use super::super::lanes::Registers;
use super::super::table::proven;
use super::memory::{load_f32, load_step, load_u16, store_f32, store_i8, store_u16};
use super::{Neon, widen};
use crate::llm::math::ROUND_MAGIC;
use core::arch::aarch64::*;

impl Registers<4> for Neon {
    type R = float32x4_t;
    const SUMS: usize = 24;

    proven! { "neon":
        fn splat(self, x: f32) -> float32x4_t { vdupq_n_f32(x) }
        fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t { vaddq_f32(a, b) }
        fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t { vsubq_f32(a, b) }
        fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t { vmulq_f32(a, b) }
        fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t { vdivq_f32(a, b) }
        fn fma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t { vfmaq_f32(c, a, b) }
        fn neg(self, a: float32x4_t) -> float32x4_t { vnegq_f32(a) }

        // `fmax` and `fmin` would take one zero over the other and keep a NaN.
        fn larger(self, v: float32x4_t, m: float32x4_t) -> float32x4_t { vbslq_f32(vcgtq_f32(v, m), v, m) }
        fn smaller(self, v: float32x4_t, m: float32x4_t) -> float32x4_t { vbslq_f32(vcltq_f32(v, m), v, m) }

        fn where_less(self, a: float32x4_t, b: float32x4_t, x: float32x4_t, y: float32x4_t) -> float32x4_t {
            vbslq_f32(vcltq_f32(a, b), x, y)
        }

        // Neither bound is a zero, and a NaN stays: the instructions are comparison and choice.
        fn between(self, low: float32x4_t, x: float32x4_t, high: float32x4_t) -> float32x4_t {
            vmaxq_f32(vminq_f32(x, high), low)
        }

        // `shifted` is the magic number's bits plus `n`. Of those only the low nine survive a shift to the exponent, and
        // the magic number has none there, nor has its half.
        fn times_power_of_two(self, p: float32x4_t, shifted: float32x4_t) -> float32x4_t {
            let n = vreinterpretq_s32_f32(shifted);
            let half = vshrq_n_s32::<1>(n);
            let rest = vsubq_s32(n, half);
            let y = vmulq_f32(vmulq_f32(p, power_of_two(half)), power_of_two(rest));
            let small = vcltq_f32(y, vdupq_n_f32(f32::MIN_POSITIVE));
            vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(y), small))
        }

        fn load(self, x: &[f32; 16]) -> [float32x4_t; 4] {
            load_step(x)
        }

        fn store(self, x: &mut [f32; 16], v: [float32x4_t; 4]) {
            for (x, v) in x.as_chunks_mut().0.iter_mut().zip(v) {
                store_f32(x, v);
            }
        }

        fn widen(self, x: &[u16; 16]) -> [float32x4_t; 4] {
            let (x, _) = x.as_chunks();
            let (a, b) = (load_u16(&x[0]), load_u16(&x[1]));
            [widen(vget_low_u16(a)), widen(vget_high_u16(a)), widen(vget_low_u16(b)), widen(vget_high_u16(b))]
        }

        fn narrow(self, x: &mut [u16; 16], v: [float32x4_t; 4]) {
            let half = |v| vreinterpret_u16_f16(vcvt_f16_f32(v));
            let (x, _) = x.as_chunks_mut();
            store_u16(&mut x[0], vcombine_u16(half(v[0]), half(v[1])));
            store_u16(&mut x[1], vcombine_u16(half(v[2]), half(v[3])));
        }

        fn rotate(self, x: [float32x4_t; 4], cos: &[f32; 8], sin: &[f32; 8]) -> [float32x4_t; 4] {
            let ((cos, _), (sin, _)) = (cos.as_chunks(), sin.as_chunks());
            let turn = |a: float32x4_t, b: float32x4_t, c: float32x4_t, s: float32x4_t| {
                let (x0, x1) = (vuzp1q_f32(a, b), vuzp2q_f32(a, b));
                let y0 = vfmaq_f32(vnegq_f32(vmulq_f32(x1, s)), x0, c);
                let y1 = vfmaq_f32(vmulq_f32(x1, c), x0, s);
                [vzip1q_f32(y0, y1), vzip2q_f32(y0, y1)]
            };
            let [a, b] = turn(x[0], x[1], load_f32(&cos[0]), load_f32(&sin[0]));
            let [c, d] = turn(x[2], x[3], load_f32(&cos[1]), load_f32(&sin[1]));
            [a, b, c, d]
        }

        fn largest_magnitude(self, v: [[float32x4_t; 4]; 2]) -> u32 {
            // Written out, so that all values stay in registers.
            let bits = |v: float32x4_t| vreinterpretq_u32_f32(vabsq_f32(v));
            let four = |v: [float32x4_t; 4]| {
                vmaxq_u32(vmaxq_u32(bits(v[0]), bits(v[1])), vmaxq_u32(bits(v[2]), bits(v[3])))
            };
            vmaxvq_u32(vmaxq_u32(four(v[0]), four(v[1])))
        }

        fn quantize(self, v: [float32x4_t; 4], id: f32, q: &mut [i8; 16]) -> i16 {
            let (id, magic) = (vdupq_n_f32(id), vdupq_n_f32(ROUND_MAGIC));
            // Below the magic number's bits lies the rounded value.
            let n = |v: float32x4_t| {
                let shifted = vreinterpretq_s32_f32(vaddq_f32(vmulq_f32(v, id), magic));
                vmovn_s32(vsubq_s32(shifted, vreinterpretq_s32_f32(magic)))
            };
            let (low, high) = (vcombine_s16(n(v[0]), n(v[1])), vcombine_s16(n(v[2]), n(v[3])));
            store_i8(q, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
            vaddvq_s16(vaddq_s16(low, high))
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn power_of_two(n: int32x4_t) -> float32x4_t {
    vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(n, vdupq_n_s32(127))))
}
