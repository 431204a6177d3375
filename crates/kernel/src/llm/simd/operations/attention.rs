//! Fused attention in vector registers: a lane is a query.
//!
//! Keys and values are taken as they lie, element by element into all lanes; scores and weights of a block of keys never
//! leave the near cache; the softmax needs no sum across lanes. Only queries are turned, once a tile, and results, once.

use super::{Attend, KEYS, STEP};
use crate::llm::simd::lanes::{Registers, exp};

/// A tile of up to `W` steps of queries; `M` keys, or dimensions, at a time.
#[inline(always)]
pub(in crate::llm::simd) fn attend<S: Registers<N>, const N: usize, const M: usize, const W: usize>(
    s: S,
    x: &Attend<'_>,
    scratch: &mut [f32],
    out: &mut [f32],
) {
    match x.queries.div_ceil(STEP) {
        1 => tile::<S, N, M, 1>(s, x, scratch, out),
        2 if W > 1 => tile::<S, N, M, 2>(s, x, scratch, out),
        _ => tile::<S, N, M, W>(s, x, scratch, out),
    }
}

/// Values of all lanes.
type Lanes<const W: usize> = [[f32; STEP]; W];

#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "registers are counted, not walked")]
fn tile<S: Registers<N>, const N: usize, const M: usize, const W: usize>(
    s: S,
    x: &Attend<'_>,
    scratch: &mut [f32],
    out: &mut [f32],
) {
    let (d, lanes) = (x.head_dim, W * STEP);
    let (q, rest) = scratch.split_at_mut(d * lanes);
    let (values, weights) = rest.split_at_mut(d * lanes);
    for (d, q) in q.chunks_exact_mut(lanes).enumerate() {
        for (i, q) in q.iter_mut().enumerate() {
            *q = if i < x.queries { x.q[i * x.head_dim + d] } else { 0.0 };
        }
    }
    let (q, _) = q.as_chunks::<STEP>();
    let (q, _): (&[Lanes<W>], _) = q.as_chunks();
    values.fill(0.0);
    let (values, _) = values.as_chunks_mut::<STEP>();
    let (values, _): (&mut [Lanes<W>], _) = values.as_chunks_mut();
    let (weights, _) = weights.as_chunks_mut::<STEP>();
    let (weights, _): (&mut [Lanes<W>], _) = weights.as_chunks_mut();
    let weights = &mut weights[..KEYS];
    // How many keys each lane sees; lanes without a query see what the last one does.
    let mut seen: Lanes<W> = [[0.0; STEP]; W];
    for (i, seen) in seen.as_flattened_mut().iter_mut().enumerate() {
        *seen = x.seen(i.min(x.queries - 1)) as f32;
    }
    let seen = seen.map(|seen| s.load(&seen));
    let mut max = [[s.splat(f32::NEG_INFINITY); N]; W];
    let mut sum = [[s.splat(0.0); N]; W];
    let (common, last) = (x.seen(0), x.seen(x.queries - 1));
    for from in (0..last).step_by(KEYS) {
        let keys = KEYS.min(last - from);
        // Keys of this block that all lanes see.
        let whole = common.saturating_sub(from).min(keys);
        let rows = &x.k[from * d..][..keys * d];
        let mut key = 0;
        while key < keys {
            key += if keys - key >= M {
                scores::<S, N, M, W>(s, q, &rows[key * d..], x.scale, &mut weights[key..])
            } else {
                scores::<S, N, 1, W>(s, q, &rows[key * d..], x.scale, &mut weights[key..])
            };
        }
        // The largest score so far; a lane that does not see a key takes it for minus infinity.
        let before = max;
        for (j, weights) in weights[..keys].iter_mut().enumerate() {
            for w in 0..W {
                let mut score = s.load(&weights[w]);
                if j >= whole {
                    let j = s.splat((from + j) as f32);
                    for n in 0..N {
                        score[n] = s.where_less(j, seen[w][n], score[n], s.splat(f32::NEG_INFINITY));
                    }
                    s.store(&mut weights[w], score);
                }
                for n in 0..N {
                    max[w][n] = s.larger(score[n], max[w][n]);
                }
            }
        }
        let mut keep = before;
        for w in 0..W {
            for n in 0..N {
                keep[w][n] = exp(s, s.sub(before[w][n], max[w][n]));
                sum[w][n] = s.mul(sum[w][n], keep[w][n]);
            }
        }
        for weights in &mut weights[..keys] {
            for w in 0..W {
                let mut weight = s.load(&weights[w]);
                for n in 0..N {
                    weight[n] = exp(s, s.sub(weight[n], max[w][n]));
                    sum[w][n] = s.add(sum[w][n], weight[n]);
                }
                s.store(&mut weights[w], weight);
            }
        }
        let rows = &x.v[from * d..][..keys * d];
        let mut at = 0;
        while at < d {
            let block = Values { rows, d, at, whole, from };
            at += if d - at >= M {
                block.add::<S, N, M, W>(s, &weights[..keys], &keep, &seen, &mut values[at..])
            } else {
                block.add::<S, N, 1, W>(s, &weights[..keys], &keep, &seen, &mut values[at..])
            };
        }
    }
    for w in 0..W {
        for n in 0..N {
            sum[w][n] = s.div(s.splat(1.0), sum[w][n]);
        }
    }
    for (d, values) in values[..d].iter_mut().enumerate() {
        for w in 0..W {
            let mut value = s.load(&values[w]);
            for n in 0..N {
                value[n] = s.mul(value[n], sum[w][n]);
            }
            s.store(&mut values[w], value);
        }
        for (i, value) in values.as_flattened()[..x.queries].iter().enumerate() {
            out[i * x.head_dim + d] = *value;
        }
    }
}

/// Scores of `M` keys. Returns `M`.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "registers are counted, not walked")]
fn scores<S: Registers<N>, const N: usize, const M: usize, const W: usize>(
    s: S,
    q: &[Lanes<W>],
    keys: &[f32],
    scale: f32,
    out: &mut [Lanes<W>],
) -> usize {
    let keys: [&[f32]; M] = core::array::from_fn(|i| &keys[i * q.len()..][..q.len()]);
    let mut sums = [[[s.splat(0.0); N]; W]; M];
    for (d, q) in q.iter().enumerate() {
        let mut lanes = [[s.splat(0.0); N]; W];
        for w in 0..W {
            lanes[w] = s.load(&q[w]);
        }
        for i in 0..M {
            let key = s.splat(keys[i][d]);
            for w in 0..W {
                for n in 0..N {
                    sums[i][w][n] = s.fma(lanes[w][n], key, sums[i][w][n]);
                }
            }
        }
    }
    let scale = s.splat(scale);
    for (out, mut sums) in out.iter_mut().zip(sums) {
        for w in 0..W {
            for n in 0..N {
                sums[w][n] = s.mul(sums[w][n], scale);
            }
            s.store(&mut out[w], sums[w]);
        }
    }
    M
}

/// Values of a block of keys.
struct Values<'a> {
    rows: &'a [f32],
    d: usize,
    /// The first dimension.
    at: usize,
    /// Keys that all lanes see.
    whole: usize,
    /// The block's first key.
    from: usize,
}

impl Values<'_> {
    /// Adds `M` dimensions of the values, each times its lane's weight, to what is kept. Returns `M`.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "registers are counted, not walked")]
    fn add<S: Registers<N>, const N: usize, const M: usize, const W: usize>(
        self,
        s: S,
        weights: &[Lanes<W>],
        keep: &[[S::R; N]; W],
        seen: &[[S::R; N]; W],
        out: &mut [Lanes<W>],
    ) -> usize {
        let out: &mut [Lanes<W>; M] = out.first_chunk_mut().expect("as many dimensions");
        let mut sums = [[[s.splat(0.0); N]; W]; M];
        for i in 0..M {
            for w in 0..W {
                sums[i][w] = s.load(&out[i][w]);
                for n in 0..N {
                    sums[i][w][n] = s.mul(sums[i][w][n], keep[w][n]);
                }
            }
        }
        let (whole, others) = weights.split_at(self.whole);
        for (row, weights) in self.rows.chunks_exact(self.d).zip(whole) {
            let row: &[f32; M] = row[self.at..].first_chunk().expect("as many dimensions");
            let mut lanes = [[s.splat(0.0); N]; W];
            for w in 0..W {
                lanes[w] = s.load(&weights[w]);
            }
            for i in 0..M {
                let value = s.splat(row[i]);
                for w in 0..W {
                    for n in 0..N {
                        sums[i][w][n] = s.fma(lanes[w][n], value, sums[i][w][n]);
                    }
                }
            }
        }
        for (j, (row, weights)) in
            self.rows.chunks_exact(self.d).zip(weights).enumerate().skip(self.whole).take(others.len())
        {
            let row: &[f32; M] = row[self.at..].first_chunk().expect("as many dimensions");
            let j = s.splat((self.from + j) as f32);
            for w in 0..W {
                let lanes = s.load(&weights[w]);
                for i in 0..M {
                    let value = s.splat(row[i]);
                    for n in 0..N {
                        let sum = s.fma(lanes[n], value, sums[i][w][n]);
                        sums[i][w][n] = s.where_less(j, seen[w][n], sum, sums[i][w][n]);
                    }
                }
            }
        }
        for (out, sums) in out.iter_mut().zip(sums) {
            for w in 0..W {
                s.store(&mut out[w], sums[w]);
            }
        }
        M
    }
}
