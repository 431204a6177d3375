//! Loads and stores of whole registers.
//!
//! Bare-metal targets assume memory that refuses unaligned accesses, as it does while the MMU is off, and the compiler
//! takes plain vector loads and stores to pieces there: words for floats, single bytes for weights. `ld1` and `st1`
//! ask for an element's alignment only, which references guarantee, so on these targets they are written out.

use core::arch::aarch64::*;

/// A function that loads sixteen bytes' worth of elements.
macro_rules! load {
    ($name:ident, $element:ty, $register:ty, $otherwise:ident, $form:literal) => {
        #[inline]
        #[target_feature(enable = "neon")]
        pub(super) fn $name(x: &[$element; 16 / size_of::<$element>()]) -> $register {
            #[cfg(target_os = "none")]
            {
                let v;
                // SAFETY: sixteen bytes are readable behind the reference.
                unsafe {
                    core::arch::asm!(
                        concat!("ld1 {{{v:v}.", $form, "}}, [{x}]"),
                        v = lateout(vreg) v,
                        x = in(reg) x,
                        options(pure, readonly, nostack, preserves_flags)
                    );
                }
                v
            }
            #[cfg(not(target_os = "none"))]
            // SAFETY: sixteen bytes are readable behind the reference.
            unsafe {
                $otherwise(x.as_ptr())
            }
        }
    };
}

/// A function that stores sixteen bytes' worth of elements.
macro_rules! store {
    ($name:ident, $element:ty, $register:ty, $otherwise:ident, $form:literal) => {
        #[inline]
        #[target_feature(enable = "neon")]
        pub(super) fn $name(x: &mut [$element; 16 / size_of::<$element>()], v: $register) {
            #[cfg(target_os = "none")]
            // SAFETY: sixteen bytes are writable behind the reference.
            unsafe {
                core::arch::asm!(
                    concat!("st1 {{{v:v}.", $form, "}}, [{x}]"),
                    v = in(vreg) v,
                    x = in(reg) x,
                    options(nostack, preserves_flags)
                );
            }
            #[cfg(not(target_os = "none"))]
            // SAFETY: sixteen bytes are writable behind the reference.
            unsafe {
                $otherwise(x.as_mut_ptr(), v)
            }
        }
    };
}

load! { load_f32, f32, float32x4_t, vld1q_f32, "4s" }
load! { load_u16, u16, uint16x8_t, vld1q_u16, "8h" }
load! { load_u8, u8, uint8x16_t, vld1q_u8, "16b" }
load! { load_i8, i8, int8x16_t, vld1q_s8, "16b" }
load! { load_i32, i32, int32x4_t, vld1q_s32, "4s" }
store! { store_f32, f32, float32x4_t, vst1q_f32, "4s" }
store! { store_u16, u16, uint16x8_t, vst1q_u16, "8h" }
store! { store_i8, i8, int8x16_t, vst1q_s8, "16b" }

/// Sixteen floats: as four loads, of which three need no address of their own.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_step(x: &[f32; 16]) -> [float32x4_t; 4] {
    #[cfg(target_os = "none")]
    {
        let (a, b, c, d);
        // SAFETY: 64 bytes are readable behind the reference.
        unsafe {
            core::arch::asm!(
                "ld1 {{{a:v}.4s}}, [{x}], #16",
                "ld1 {{{b:v}.4s}}, [{x}], #16",
                "ld1 {{{c:v}.4s}}, [{x}], #16",
                "ld1 {{{d:v}.4s}}, [{x}]",
                a = out(vreg) a,
                b = out(vreg) b,
                c = out(vreg) c,
                d = lateout(vreg) d,
                x = inout(reg) x.as_ptr() => _,
                options(pure, readonly, nostack, preserves_flags)
            );
        }
        [a, b, c, d]
    }
    #[cfg(not(target_os = "none"))]
    {
        let (x, _) = x.as_chunks();
        [load_f32(&x[0]), load_f32(&x[1]), load_f32(&x[2]), load_f32(&x[3])]
    }
}

/// 32 bytes.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_pair(x: &[u8; 32]) -> [uint8x16_t; 2] {
    #[cfg(target_os = "none")]
    {
        let (a, b);
        // SAFETY: 32 bytes are readable behind the reference. In memory that refuses unaligned accesses they must lie
        // on a boundary of 16, as packed weights and activations do.
        unsafe {
            core::arch::asm!(
                "ldp {a:q}, {b:q}, [{x}]",
                a = lateout(vreg) a,
                b = lateout(vreg) b,
                x = in(reg) x.as_ptr(),
                options(pure, readonly, nostack, preserves_flags)
            );
        }
        [a, b]
    }
    #[cfg(not(target_os = "none"))]
    {
        let (x, _) = x.as_chunks();
        [load_u8(&x[0]), load_u8(&x[1])]
    }
}

/// 128 bytes.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_pairs(x: &[u8; 128]) -> [[uint8x16_t; 2]; 4] {
    #[cfg(target_os = "none")]
    {
        let (a, b, c, d, e, f, g, h);
        // SAFETY: 128 bytes are readable behind the reference. In memory that refuses unaligned accesses they must
        // lie on a boundary of 16, as packed weights do.
        unsafe {
            core::arch::asm!(
                "ldp {a:q}, {b:q}, [{x}]",
                "ldp {c:q}, {d:q}, [{x}, #32]",
                "ldp {e:q}, {f:q}, [{x}, #64]",
                "ldp {g:q}, {h:q}, [{x}, #96]",
                a = out(vreg) a,
                b = out(vreg) b,
                c = out(vreg) c,
                d = out(vreg) d,
                e = out(vreg) e,
                f = out(vreg) f,
                g = lateout(vreg) g,
                h = lateout(vreg) h,
                x = in(reg) x.as_ptr(),
                options(pure, readonly, nostack, preserves_flags)
            );
        }
        [[a, b], [c, d], [e, f], [g, h]]
    }
    #[cfg(not(target_os = "none"))]
    {
        let (x, _) = x.as_chunks();
        [load_pair(&x[0]), load_pair(&x[1]), load_pair(&x[2]), load_pair(&x[3])]
    }
}
