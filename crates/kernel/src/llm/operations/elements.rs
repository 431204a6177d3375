//! Functions of every element.

use super::{Function, OperationError, Operations, agree, spread};
use crate::llm::pool::Team;

/// Elements that a member's share is a multiple of: four kilobytes.
const GRAIN: usize = 1024;
/// Results of this many elements or more are stored past the caches, which do not keep them anyway: 16 megabytes.
const PAST: usize = 4 << 20;

/// Whether a result of `len` elements is stored past the caches.
pub(super) fn past_caches(len: usize) -> bool {
    len >= PAST
}

impl Operations {
    /// `out = f(x)` for every element.
    ///
    /// # Errors
    /// Where lengths differ.
    pub fn map(
        &self,
        team: &dyn Team,
        function: Function,
        x: &[f32],
        out: &mut [f32],
    ) -> Result<(), OperationError> {
        agree("elements of the result", x.len(), out.len())?;
        let past = past_caches(out.len());
        spread(team, out, GRAIN, &|share, out| {
            // SAFETY: the CPU has this table's instructions; lengths agree.
            unsafe { (self.map)(function, Some(&x[share]), out, past) }
        });
        Ok(())
    }

    /// `x = f(x)` for every element.
    pub fn map_in_place(&self, team: &dyn Team, function: Function, x: &mut [f32]) {
        spread(team, x, GRAIN, &|_, x| {
            // SAFETY: the CPU has this table's instructions.
            unsafe { (self.map)(function, None, x, false) }
        });
    }

    /// `out = f(x + bias)`, where `x` has rows as long as `bias`.
    ///
    /// # Errors
    /// Where lengths differ, or `x` is not in whole rows.
    pub fn map_biased(
        &self,
        team: &dyn Team,
        function: Function,
        x: &[f32],
        bias: &[f32],
        out: &mut [f32],
    ) -> Result<(), OperationError> {
        agree("elements of the result", x.len(), out.len())?;
        agree("elements behind whole rows", 0, x.len().checked_rem(bias.len()).unwrap_or(x.len()))?;
        if bias.is_empty() {
            return Ok(());
        }
        let past = past_caches(out.len());
        spread(team, out, bias.len(), &|share, out| {
            // SAFETY: the CPU has this table's instructions; shares are whole rows.
            unsafe { (self.map_biased)(function, &x[share], bias, out, past) }
        });
        Ok(())
    }

    /// `out = silu(gate) * up` for every element.
    ///
    /// # Errors
    /// Where lengths differ.
    pub fn silu_mul(
        &self,
        team: &dyn Team,
        gate: &[f32],
        up: &[f32],
        out: &mut [f32],
    ) -> Result<(), OperationError> {
        agree("elements of the second operand", gate.len(), up.len())?;
        agree("elements of the result", gate.len(), out.len())?;
        let past = past_caches(out.len());
        spread(team, out, GRAIN, &|share, out| {
            // SAFETY: the CPU has this table's instructions; lengths agree.
            unsafe { (self.silu_mul)(&gate[share.clone()], &up[share], out, past) }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{TEAMS, floats_agree, wave, with_edges};
    use super::*;
    use alloc::vec;

    #[test]
    fn every_table_and_team_gives_the_same_bits_at_odd_places() {
        let x = with_edges(3000);
        for function in Function::ALL {
            let mut expected = vec![0.0; x.len()];
            Operations::scalar().map(TEAMS[0], function, &x, &mut expected).unwrap();
            for operations in Operations::available() {
                for &team in TEAMS {
                    // Starts that no vector register is aligned to, and ends in all places of one.
                    for (from, to) in [(0, 3000), (1, 3000), (3, 2900), (5, 70), (7, 24), (2, 3), (4, 4)] {
                        let mut out = vec![f32::NAN; x.len()];
                        operations.map(team, function, &x[from..to], &mut out[from..to]).unwrap();
                        floats_agree(&out[from..to], &expected[from..to], operations.name);
                        assert!(out[..from].iter().chain(&out[to..]).all(|x| x.is_nan()), "written beside");
                        let mut here = x[from..to].to_vec();
                        operations.map_in_place(team, function, &mut here);
                        floats_agree(&here, &expected[from..to], operations.name);
                    }
                }
            }
        }
    }

    #[test]
    fn results_stored_past_the_caches_are_the_same() {
        let x = wave(2100, 3);
        for operations in Operations::available() {
            let mut expected = vec![0.0; 2100];
            operations.map(TEAMS[0], Function::Tanh, &x, &mut expected).unwrap();
            for (from, to) in [(0, 2100), (1, 2099), (17, 40), (3, 5)] {
                let mut out = vec![0.0; 2100];
                // SAFETY: the table is available.
                unsafe { (operations.map)(Function::Tanh, Some(&x[from..to]), &mut out[from..to], true) };
                floats_agree(&out[from..to], &expected[from..to], operations.name);
                assert!(out[..from].iter().chain(&out[to..]).all(|&x| x == 0.0), "written beside");
            }
        }
    }

    #[test]
    fn fused_steps_give_what_single_ones_do() {
        let (x, up) = (with_edges(37 * 41), wave(37 * 41, 5));
        let bias = wave(41, 6);
        let plain = Operations::scalar();
        let biased: Vec<f32> = x.iter().enumerate().map(|(i, x)| x + bias[i % 41]).collect();
        for operations in Operations::available() {
            for &team in TEAMS {
                for function in Function::ALL {
                    let (mut expected, mut out) = (vec![0.0; x.len()], vec![0.0; x.len()]);
                    plain.map(TEAMS[0], function, &biased, &mut expected).unwrap();
                    operations.map_biased(team, function, &x, &bias, &mut out).unwrap();
                    floats_agree(&out, &expected, operations.name);
                }
                let (mut expected, mut out) = (vec![0.0; x.len()], vec![0.0; x.len()]);
                plain.map(TEAMS[0], Function::Silu, &x, &mut expected).unwrap();
                expected.iter_mut().zip(&up).for_each(|(x, up)| *x *= up);
                operations.silu_mul(team, &x, &up, &mut out).unwrap();
                floats_agree(&out, &expected, operations.name);
            }
        }
    }

    use alloc::vec::Vec;

    #[test]
    fn lengths_that_differ_are_refused_and_nothing_is_written() {
        let operations = Operations::best();
        let mut out = vec![7.0; 4];
        let shape = |what, expected, found| Err(OperationError::Shape { what, expected, found });
        let team = TEAMS[0];
        assert_eq!(
            operations.map(team, Function::Exp, &[1.0; 5], &mut out),
            shape("elements of the result", 5, 4)
        );
        assert_eq!(
            operations.map_biased(team, Function::Gelu, &[1.0; 4], &[0.0; 3], &mut out),
            shape("elements behind whole rows", 0, 1)
        );
        assert_eq!(
            operations.map_biased(team, Function::Gelu, &[1.0; 4], &[], &mut out),
            shape("elements behind whole rows", 0, 4)
        );
        assert_eq!(
            operations.silu_mul(team, &[1.0; 4], &[1.0; 3], &mut out),
            shape("elements of the second operand", 4, 3)
        );
        assert_eq!(out, [7.0; 4]);
        assert_eq!(operations.map_biased(team, Function::Gelu, &[], &[], &mut []), Ok(()));
    }
}
