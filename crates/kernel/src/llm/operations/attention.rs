//! Heads of queries against keys and values.

use super::matmul::LEFT;
use super::{OperationError, Operations, Scratch, View, ViewMut, agree};
use crate::llm::pool::Team;
use crate::llm::shared::Shared;
use crate::llm::simd::operations::Attend;

/// The widest head that [`Operations::attention`] takes: what [`Scratch`] has room for.
pub const MOST_HEAD_DIM: usize = 512;

/// Shapes of an attention: queries are `[heads][queries][head_dim]`, keys and values `[kv_heads][keys][head_dim]`, the result
/// has the shape of the queries.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Heads of queries, a multiple of `kv_heads`.
    pub heads: usize,
    /// Heads of keys and values; each serves `heads / kv_heads` neighboring heads of queries.
    pub kv_heads: usize,
    /// Queries of a head.
    pub queries: usize,
    /// Keys and values of a head.
    pub keys: usize,
    /// Elements of a query.
    pub head_dim: usize,
    /// Whether the last query sees all keys and each one before sees one less; otherwise all see all. A query that sees no
    /// key has zeros for its result.
    pub causal: bool,
    /// What scores are multiplied with, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
}

impl Attention {
    /// Multiplications and additions of both products, where every query sees all of its keys' upper triangle or square.
    pub fn flops(&self) -> u64 {
        let seen: u64 = (0..self.queries).map(|i| self.sees(i) as u64).sum();
        4 * seen * (self.heads * self.head_dim) as u64
    }

    /// How many keys query `i` sees.
    fn sees(&self, i: usize) -> usize {
        if self.causal { (self.keys + i + 1).saturating_sub(self.queries) } else { self.keys }
    }

    /// Queries before the first that sees a key.
    fn blind(&self) -> usize {
        match (self.keys, self.causal) {
            (0, _) => self.queries,
            (_, true) => self.queries.saturating_sub(self.keys),
            (_, false) => 0,
        }
    }

    fn check(&self, [q, k, v, out]: [usize; 4]) -> Result<(), OperationError> {
        let (heads, kv_heads) = (self.heads, self.kv_heads);
        if heads.checked_rem(kv_heads).unwrap_or(heads) != 0 {
            return Err(OperationError::Heads { heads, kv_heads });
        }
        if self.head_dim > MOST_HEAD_DIM {
            return Err(OperationError::HeadTooWide { head_dim: self.head_dim });
        }
        let queries = heads.saturating_mul(self.queries).saturating_mul(self.head_dim);
        let keys = kv_heads.saturating_mul(self.keys).saturating_mul(self.head_dim);
        agree("elements of the queries", queries, q)?;
        agree("elements of the keys", keys, k)?;
        agree("elements of the values", keys, v)?;
        agree("elements of the result", queries, out)
    }

    /// The memory of head `head`'s keys or values.
    fn group<'a>(&self, head: usize, kv: &'a [f32]) -> &'a [f32] {
        let len = self.keys * self.head_dim;
        &kv[head / (self.heads / self.kv_heads) * len..][..len]
    }
}

impl Operations {
    /// Softmax of `scale * q k` over the keys a query sees, times `v`, without ever holding all scores.
    ///
    /// Keys go by in blocks of 128: scores are sums by fma in the order of dimensions, the largest so far is taken from them,
    /// and what was summed before is multiplied with `exp(old - new)`; sums of weights and of values go in the order of keys.
    ///
    /// # Errors
    /// Where shapes do not agree, or `scratch` is for a smaller team.
    #[allow(clippy::too_many_arguments, reason = "an operation's operands")]
    pub fn attention(
        &self,
        team: &dyn Team,
        shape: &Attention,
        q: &[f32],
        k: &[f32],
        v: &[f32],
        out: &mut [f32],
        scratch: &mut Scratch,
    ) -> Result<(), OperationError> {
        shape.check([q.len(), k.len(), v.len(), out.len()])?;
        scratch.check(team)?;
        let (d, tile) = (shape.head_dim, self.queries);
        if shape.heads == 0 || shape.queries == 0 || d == 0 {
            return Ok(());
        }
        let blind = shape.blind();
        for head in out.chunks_exact_mut(shape.queries * d) {
            head[..blind * d].fill(0.0);
        }
        let tiles = (shape.queries - blind).div_ceil(tile);
        let (_, memory) = scratch.parts();
        let (memory, result) = (Shared::new(memory), Shared::new(out));
        let attend = |memory: &mut [f32], unit: usize| {
            let (head, first) = (unit % shape.heads, blind + unit / shape.heads * tile);
            let queries = tile.min(shape.queries - first);
            let at = (head * shape.queries + first) * d..(head * shape.queries + first + queries) * d;
            let part = Attend {
                head_dim: d,
                queries,
                q: &q[at.clone()],
                k: shape.group(head, k),
                v: shape.group(head, v),
                first_sees: shape.sees(first),
                causal: shape.causal,
                scale: shape.scale,
            };
            // SAFETY: a tile is claimed by one member.
            let out = unsafe { result.write(at) };
            // SAFETY: the CPU has this table's instructions; sizes agree, and every query of the tile sees a key.
            unsafe { (self.attend)(&part, memory, out) }
        };
        team.run(&|member| {
            // SAFETY: this member's alone.
            let begin = || unsafe { memory.write(member.index * LEFT..(member.index + 1) * LEFT) };
            // Tiles see more and more keys: who has the first ones helps with the last ones.
            member.step(tiles * shape.heads, begin, |memory, units| {
                units.for_each(|unit| attend(&mut memory[..Attend::scratch(d, tile)], unit));
            });
        });
        Ok(())
    }

    /// [`Self::attention`] in steps that each go through memory: all scores of a head, their softmax, and the product with the
    /// values. `scores` holds `queries * keys` elements.
    ///
    /// Sums are in another order than fused, so bits differ. Keys that a query does not see weigh zero; a value there that is
    /// not finite shows.
    ///
    /// # Errors
    /// Where shapes do not agree, or `scratch` is for a smaller team.
    #[allow(clippy::too_many_arguments, reason = "an operation's operands")]
    pub fn attention_unfused(
        &self,
        team: &dyn Team,
        shape: &Attention,
        q: &[f32],
        k: &[f32],
        v: &[f32],
        out: &mut [f32],
        scores: &mut [f32],
        scratch: &mut Scratch,
    ) -> Result<(), OperationError> {
        shape.check([q.len(), k.len(), v.len(), out.len()])?;
        agree("elements for scores", shape.queries.saturating_mul(shape.keys), scores.len())?;
        let (queries, keys, d) = (shape.queries, shape.keys, shape.head_dim);
        if shape.heads == 0 || queries == 0 || d == 0 {
            return Ok(());
        }
        let heads = q.chunks_exact(queries * d).zip(out.chunks_exact_mut(queries * d));
        for (head, (q, out)) in heads.enumerate() {
            let k = View::new(shape.group(head, k), keys, d)?;
            let v = View::new(shape.group(head, v), keys, d)?;
            let q = View::new(q, queries, d)?;
            let to = ViewMut::new(scores, queries, keys)?;
            self.matmul(team, q, k.transposed(), to, scratch)?;
            if keys > 0 {
                super::spread(team, scores, keys, &|share, rows| {
                    for (i, row) in rows.chunks_exact_mut(keys).enumerate() {
                        let (seen, hidden) = row.split_at_mut(shape.sees(share.start / keys + i));
                        hidden.fill(0.0);
                        // SAFETY: the CPU has this table's instructions.
                        unsafe { (self.softmax)(seen, shape.scale) }
                    }
                });
            }
            let scores = View::new(scores, queries, keys)?;
            self.matmul(team, scores, v, ViewMut::new(out, queries, d)?, scratch)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{TEAMS, floats_agree, wave};
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    fn shape(heads: [usize; 2], queries: usize, keys: usize, head_dim: usize, causal: bool) -> Attention {
        let [heads, kv_heads] = heads;
        Attention { heads, kv_heads, queries, keys, head_dim, causal, scale: 0.3 }
    }

    fn shapes() -> Vec<Attention> {
        let mut shapes = Vec::new();
        for causal in [false, true] {
            for [queries, keys, d] in [
                [1, 1, 1],
                [1, 300, 64],
                [50, 50, 16],
                [48, 130, 8],
                [97, 200, 20],
                [140, 140, 33],
                [5, 3, 4],
                [60, 20, 7],
            ] {
                shapes.push(shape([2, 1], queries, keys, d, causal));
            }
            shapes.push(shape([6, 2], 33, 40, 12, causal));
        }
        shapes
    }

    fn operands(shape: &Attention) -> [Vec<f32>; 3] {
        let kv = shape.kv_heads * shape.keys * shape.head_dim;
        let shrink = |x: Vec<f32>| x.iter().map(|x| x / 4.0).collect();
        [shrink(wave(shape.heads * shape.queries * shape.head_dim, 1)), shrink(wave(kv, 2)), wave(kv, 3)]
    }

    /// One result in f64.
    fn truth(shape: &Attention, [q, k, v]: &[Vec<f32>; 3], head: usize, i: usize, d: usize) -> f64 {
        let dim = shape.head_dim;
        let q = &q[(head * shape.queries + i) * dim..][..dim];
        let (k, v) = (shape.group(head, k), shape.group(head, v));
        let dot =
            |key: &[f32]| -> f64 { q.iter().zip(key).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum() };
        let weights: Vec<f64> = (0..shape.sees(i))
            .map(|j| libm::exp(f64::from(shape.scale) * dot(&k[j * dim..][..dim])))
            .collect();
        let sum: f64 = weights.iter().sum();
        let values = weights.iter().enumerate().map(|(j, w)| w * f64::from(v[j * dim + d]));
        if sum == 0.0 { 0.0 } else { values.sum::<f64>() / sum }
    }

    #[test]
    fn every_table_and_team_gives_the_same_bits() {
        let mut scratch = Scratch::new(3);
        for shape in shapes() {
            let [q, k, v] = &operands(&shape);
            let mut expected = vec![f32::NAN; q.len()];
            let scalar = Operations::scalar();
            scalar.attention(TEAMS[0], &shape, q, k, v, &mut expected, &mut scratch).unwrap();
            for operations in Operations::available() {
                for &team in TEAMS {
                    let mut out = vec![f32::NAN; q.len()];
                    operations.attention(team, &shape, q, k, v, &mut out, &mut scratch).unwrap();
                    floats_agree(&out, &expected, operations.name);
                }
            }
        }
    }

    #[test]
    fn both_ways_are_close_to_f64() {
        let (operations, mut scratch) = (Operations::best(), Scratch::new(1));
        for shape in shapes() {
            let operands = operands(&shape);
            let [q, k, v] = &operands;
            let (mut fused, mut steps) = (vec![f32::NAN; q.len()], vec![f32::NAN; q.len()]);
            let mut scores = vec![0.0; shape.queries * shape.keys];
            operations.attention(TEAMS[0], &shape, q, k, v, &mut fused, &mut scratch).unwrap();
            operations
                .attention_unfused(TEAMS[0], &shape, q, k, v, &mut steps, &mut scores, &mut scratch)
                .unwrap();
            for (at, (fused, steps)) in fused.iter().zip(&steps).enumerate() {
                let (d, row) = (at % shape.head_dim, at / shape.head_dim);
                let truth = truth(&shape, &operands, row / shape.queries, row % shape.queries, d);
                // Values are below 6; scores below 64 round to 2^-19, and weights with them.
                for out in [fused, steps] {
                    assert!((f64::from(*out) - truth).abs() < 3e-5, "{shape:?} at {at}: {out} {truth}");
                }
            }
        }
    }

    #[test]
    fn what_a_query_does_not_see_cannot_change_it() {
        let mut scratch = Scratch::new(1);
        let shape = shape([1, 1], 70, 150, 16, true);
        let [q, k, v] = operands(&shape);
        for operations in Operations::available() {
            let mut clean = vec![0.0; q.len()];
            operations.attention(TEAMS[0], &shape, &q, &k, &v, &mut clean, &mut scratch).unwrap();
            let (mut k, mut v) = (k.clone(), v.clone());
            // The last keys: only the last three queries see them.
            for at in 147 * 16..150 * 16 {
                (k[at], v[at]) = (f32::NAN, f32::INFINITY);
            }
            let mut out = vec![0.0; q.len()];
            operations.attention(TEAMS[0], &shape, &q, &k, &v, &mut out, &mut scratch).unwrap();
            floats_agree(&out[..67 * 16], &clean[..67 * 16], operations.name);
            assert!(out[67 * 16..].iter().all(|x| x.is_nan()), "{}", operations.name);
        }
    }

    #[test]
    fn wrong_shapes_are_refused_and_empty_ones_are_fine() {
        let (operations, mut scratch) = (Operations::best(), Scratch::new(1));
        let mut attend = |shape: Attention, q: usize, kv: usize| {
            let mut out = vec![7.0; q];
            let (x, y) = (vec![0.0; q], vec![0.0; kv]);
            let result = operations.attention(TEAMS[0], &shape, &x, &y, &y, &mut out, &mut scratch);
            assert!(result.is_ok() || out.iter().all(|&x| x == 7.0), "written");
            result.map(|()| out)
        };
        assert_eq!(
            attend(shape([3, 2], 1, 1, 1, false), 3, 2),
            Err(OperationError::Heads { heads: 3, kv_heads: 2 })
        );
        assert_eq!(
            attend(shape([3, 0], 1, 1, 1, false), 3, 0),
            Err(OperationError::Heads { heads: 3, kv_heads: 0 })
        );
        assert_eq!(
            attend(shape([1, 1], 1, 1, 513, false), 513, 513),
            Err(OperationError::HeadTooWide { head_dim: 513 })
        );
        let keys = OperationError::Shape { what: "elements of the keys", expected: 8, found: 7 };
        assert_eq!(attend(shape([2, 1], 3, 2, 4, false), 24, 7), Err(keys));
        // No keys: nothing is seen.
        assert_eq!(attend(shape([1, 1], 2, 0, 3, false), 6, 0), Ok(vec![0.0; 6]));
        assert_eq!(attend(shape([1, 1], 2, 0, 3, true), 6, 0), Ok(vec![0.0; 6]));
        for empty in
            [shape([0, 0], 2, 2, 2, true), shape([1, 1], 0, 0, 2, true), shape([1, 1], 2, 2, 0, true)]
        {
            assert_eq!(attend(empty, 0, 0), Ok(vec![]));
        }
    }
}
