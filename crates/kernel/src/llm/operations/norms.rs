//! Normalization and softmax of rows.

use super::elements::past_caches;
use super::{OperationError, Operations, agree, spread};
use crate::llm::pool::Team;

impl Operations {
    /// Every row `x` of as many elements as `weight` to `(x - mean) / sqrt(variance + eps) * weight + bias`.
    ///
    /// Mean and variance (of the population) come from one pass by Welford's algorithm in 64 virtual lanes, which are then
    /// merged; so a row far from zero loses nothing to cancellation. Rows without elements are fine; those with a NaN or an
    /// infinity become NaN.
    ///
    /// # Errors
    /// Where lengths differ, or `x` is not in whole rows.
    pub fn layer_norm(
        &self,
        team: &dyn Team,
        x: &[f32],
        weight: &[f32],
        bias: &[f32],
        eps: f32,
        out: &mut [f32],
    ) -> Result<(), OperationError> {
        agree("elements of the bias", weight.len(), bias.len())?;
        check(x, weight, out)?;
        if weight.is_empty() {
            return Ok(());
        }
        let past = past_caches(out.len());
        spread(team, out, weight.len(), &|share, out| {
            // SAFETY: the CPU has this table's instructions; shares are whole rows.
            unsafe { (self.layer_norm)(&x[share], weight, bias, eps, out, past) }
        });
        Ok(())
    }

    /// Every row `x` of as many elements as `weight` to `x / sqrt(mean of squares + eps) * weight`; the sum of squares takes
    /// 64 virtual lanes.
    ///
    /// # Errors
    /// Where lengths differ, or `x` is not in whole rows.
    pub fn rms_norm(
        &self,
        team: &dyn Team,
        x: &[f32],
        weight: &[f32],
        eps: f32,
        out: &mut [f32],
    ) -> Result<(), OperationError> {
        check(x, weight, out)?;
        if weight.is_empty() {
            return Ok(());
        }
        let past = past_caches(out.len());
        spread(team, out, weight.len(), &|share, out| {
            // SAFETY: the CPU has this table's instructions; shares are whole rows.
            unsafe { (self.rms_norm)(&x[share], weight, eps, out, past) }
        });
        Ok(())
    }

    /// Every row of `columns` elements of `x` to `exp(scale x)` over the row's sum of these, in place, without overflow.
    ///
    /// A row with a NaN or an infinity of the sign of `scale`, and one that is all minus infinity, becomes NaN.
    ///
    /// # Errors
    /// Where `x` is not in whole rows.
    pub fn softmax(
        &self,
        team: &dyn Team,
        x: &mut [f32],
        columns: usize,
        scale: f32,
    ) -> Result<(), OperationError> {
        agree("elements behind whole rows", 0, x.len().checked_rem(columns).unwrap_or(x.len()))?;
        if columns == 0 {
            return Ok(());
        }
        spread(team, x, columns, &|_, rows| {
            for row in rows.chunks_exact_mut(columns) {
                // SAFETY: the CPU has this table's instructions.
                unsafe { (self.softmax)(row, scale) }
            }
        });
        Ok(())
    }
}

fn check(x: &[f32], weight: &[f32], out: &[f32]) -> Result<(), OperationError> {
    agree("elements of the result", x.len(), out.len())?;
    agree("elements behind whole rows", 0, x.len().checked_rem(weight.len()).unwrap_or(x.len()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{TEAMS, floats_agree, wave};
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    const WIDTHS: [usize; 9] = [1, 5, 16, 63, 64, 65, 128, 200, 768];

    /// One operation on rows of the width of the weight.
    type Norm = fn(&Operations, &dyn Team, &[f32], &[f32], &mut [f32]);

    const NORMS: [Norm; 3] = [
        |operations, team, x, w, out| operations.layer_norm(team, x, w, w, 1e-5, out).unwrap(),
        |operations, team, x, w, out| operations.rms_norm(team, x, w, 1e-5, out).unwrap(),
        |operations, team, x, w, out| {
            out.copy_from_slice(x);
            operations.softmax(team, out, w.len(), 0.7).unwrap();
        },
    ];

    #[test]
    fn every_table_and_team_gives_the_same_bits() {
        for norm in NORMS {
            for n in WIDTHS {
                let (x, w) = (wave(7 * n, 1), wave(n, 2));
                let mut expected = vec![0.0; 7 * n];
                norm(Operations::scalar(), TEAMS[0], &x, &w, &mut expected);
                for operations in Operations::available() {
                    for &team in TEAMS {
                        let mut out = vec![f32::NAN; 7 * n];
                        norm(operations, team, &x, &w, &mut out);
                        floats_agree(&out, &expected, operations.name);
                    }
                }
            }
        }
    }

    #[test]
    fn norms_and_softmax_are_close_to_f64() {
        let operations = Operations::best();
        for n in WIDTHS.into_iter().skip(1) {
            // Far from zero: a sum of squares minus the square of the sum would have no digit left.
            let x: Vec<f32> = wave(n, 4).iter().map(|x| 3000.0 + x).collect();
            let (w, b) = (wave(n, 5), wave(n, 6));
            let wide: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
            let mean = wide.iter().sum::<f64>() / n as f64;
            let variance = wide.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n as f64;
            let square = wide.iter().map(|x| x * x).sum::<f64>() / n as f64;
            let mut out = vec![0.0; n];
            operations.layer_norm(TEAMS[0], &x, &w, &b, 1e-5, &mut out).unwrap();
            for i in 0..n {
                let truth =
                    (wide[i] - mean) / libm::sqrt(variance + 1e-5) * f64::from(w[i]) + f64::from(b[i]);
                // The mean of values near 3000 is known to about an ulp, 2^-12, and the spread is about 3.
                assert!((f64::from(out[i]) - truth).abs() < 2e-3, "{n}: {} {truth}", out[i]);
            }
            operations.rms_norm(TEAMS[0], &x, &w, 1e-5, &mut out).unwrap();
            for i in 0..n {
                let truth = wide[i] / libm::sqrt(square + 1e-5) * f64::from(w[i]);
                assert!((f64::from(out[i]) - truth).abs() <= 1e-6 * truth.abs(), "{n}: {} {truth}", out[i]);
            }
            let x = wave(n, 7);
            let exps: Vec<f64> = x.iter().map(|&x| libm::exp(f64::from(x))).collect();
            let sum: f64 = exps.iter().sum();
            out.copy_from_slice(&x);
            operations.softmax(TEAMS[0], &mut out, n, 1.0).unwrap();
            for i in 0..n {
                assert!((f64::from(out[i]) - exps[i] / sum).abs() <= 2e-6 * exps[i] / sum, "{n}");
            }
        }
    }

    #[test]
    fn rows_do_not_touch_each_other_and_non_finite_ones_are_nan() {
        for operations in Operations::available() {
            for norm in NORMS {
                for bad in [f32::NAN, f32::INFINITY] {
                    let (mut x, w) = (wave(3 * 70, 1), wave(70, 2));
                    let mut clean = vec![0.0; x.len()];
                    norm(operations, TEAMS[0], &x, &w, &mut clean);
                    x[75] = bad;
                    let mut out = vec![0.0; x.len()];
                    norm(operations, TEAMS[0], &x, &w, &mut out);
                    floats_agree(&out[..70], &clean[..70], operations.name);
                    floats_agree(&out[140..], &clean[140..], operations.name);
                    assert!(out[75].is_nan(), "{}", operations.name);
                }
            }
        }
    }

    #[test]
    fn wrong_lengths_are_refused_and_nothing_is_written() {
        let (operations, team) = (Operations::best(), TEAMS[0]);
        let mut out = vec![7.0; 6];
        let rows = Err(OperationError::Shape { what: "elements behind whole rows", expected: 0, found: 2 });
        assert_eq!(operations.rms_norm(team, &[1.0; 6], &[1.0; 4], 0.0, &mut out), rows);
        assert_eq!(operations.layer_norm(team, &[1.0; 6], &[1.0; 4], &[1.0; 4], 0.0, &mut out), rows);
        assert_eq!(operations.softmax(team, &mut out, 4, 1.0), rows);
        let bias = Err(OperationError::Shape { what: "elements of the bias", expected: 3, found: 2 });
        assert_eq!(operations.layer_norm(team, &[1.0; 6], &[1.0; 3], &[1.0; 2], 0.0, &mut out), bias);
        assert_eq!(out, [7.0; 6]);
        assert_eq!(operations.softmax(team, &mut [], 0, 1.0), Ok(()));
        assert_eq!(operations.rms_norm(team, &[], &[], 1.0, &mut []), Ok(()));
    }
}
