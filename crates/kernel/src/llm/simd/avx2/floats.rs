//! Products with packed F32, F16 and BF16 weights: several groups of eight rows in flight, since each has one chain of sums.

#![expect(clippy::needless_range_loop, reason = "rows and positions count through several arrays at once")]

use super::super::Activations;
use super::super::product::{Rows as _, type_of};
use super::packed::{Bytes, at};
use super::unpack::{self, Rows};
use core::arch::x86_64::__m256;

/// Positions that share a load of weights from a panel: with two registers of weights, as many sums as registers hold.
const TILE: usize = 6;

/// Weights of a row in a panel.
const PANEL: usize = 256;

/// From this many positions on, a panel pays.
const MANY: usize = 12;

/// `G` groups of rows times `P` positions.
#[inline(always)]
fn direct<S: Bytes, const TY: u32, const G: usize, const P: usize>(
    s: S,
    groups: [Rows<'_>; G],
    (row, rows): (usize, usize),
    x: &Activations<'_>,
    first: usize,
    out: &mut [f32],
) {
    let a = s.avx2();
    let mut acc = [[a.zeros(); P]; G];
    let mut values: [&[f32]; P] = [&[]; P];
    for (p, values) in values.iter_mut().enumerate() {
        *values = &x.values[(first + p) * x.k..][..x.k];
    }
    for k in 0..x.k {
        for g in 0..G {
            let w = unpack::float::<TY>(a, groups[g], k);
            for p in 0..P {
                acc[g][p] = a.plus(w, a.spread(values[p][k]), acc[g][p]);
            }
        }
    }
    for p in 0..P {
        let out = at::<G>(out, rows, row, first + p);
        for g in 0..G {
            a.store_to(&mut out[g], acc[g][p]);
        }
    }
}

/// `G` groups of rows times the positions from `first` on, a few at a time.
#[inline(always)]
fn few<S: Bytes, const TY: u32, const G: usize>(
    s: S,
    groups: [Rows<'_>; G],
    rows: (usize, usize),
    x: &Activations<'_>,
    mut first: usize,
    out: &mut [f32],
) {
    while first + 2 <= x.positions {
        direct::<S, TY, G, 2>(s, groups, rows, x, first, out);
        first += 2;
    }
    if first < x.positions {
        direct::<S, TY, G, 1>(s, groups, rows, x, first, out);
    }
}

/// Two groups of rows times the whole tiles among all positions.
#[inline(always)]
fn many<S: Bytes, const TY: u32>(
    s: S,
    groups: [Rows<'_>; 2],
    (row, rows): (usize, usize),
    x: &Activations<'_>,
    weights: &mut [[__m256; 2]; PANEL],
    out: &mut [f32],
) {
    let a = s.avx2();
    for from in (0..x.k).step_by(PANEL) {
        let len = PANEL.min(x.k - from);
        let weights = &mut weights[..len];
        for (k, weights) in weights.iter_mut().enumerate() {
            *weights =
                [unpack::float::<TY>(a, groups[0], from + k), unpack::float::<TY>(a, groups[1], from + k)];
        }
        for first in (0..x.positions / TILE * TILE).step_by(TILE) {
            let mut acc = [[a.zeros(); 2]; TILE];
            let mut values: [&[f32]; TILE] = [&[]; TILE];
            for (p, values) in values.iter_mut().enumerate() {
                *values = &x.values[(first + p) * x.k + from..][..len];
                if from > 0 {
                    let [low, high] = at(out, rows, row, first + p);
                    acc[p] = [a.load(low), a.load(high)];
                }
            }
            for (k, w) in weights.iter().enumerate() {
                for p in 0..TILE {
                    let x = a.spread(values[p][k]);
                    acc[p] = [a.plus(w[0], x, acc[p][0]), a.plus(w[1], x, acc[p][1])];
                }
            }
            for (p, acc) in acc.into_iter().enumerate() {
                let [low, high] = at(out, rows, row, first + p);
                a.store_to(low, acc[0]);
                a.store_to(high, acc[1]);
            }
        }
    }
}

/// All whole groups of rows, for float weights of type `TY`.
#[inline(always)]
pub(in super::super) fn floats<S: Bytes, const TY: u32>(
    s: S,
    weights: &[u8],
    rows: usize,
    x: &Activations<'_>,
    out: &mut [f32],
) {
    let row_bytes = const { type_of(TY) }.row_bytes(x.k).expect("checked by the caller");
    let group = |row: usize| Rows::group(weights, row, row_bytes);
    let whole = rows / 8 * 8;
    let mut row = 0;
    if x.positions >= MANY {
        let mut panel = [[s.avx2().zeros(); 2]; PANEL];
        while row + 16 <= whole {
            let groups = [group(row), group(row + 8)];
            many::<S, TY>(s, groups, (row, rows), x, &mut panel, out);
            few::<S, TY, 2>(s, groups, (row, rows), x, x.positions / TILE * TILE, out);
            row += 16;
        }
    }
    while row + 32 <= whole {
        let groups = [group(row), group(row + 8), group(row + 16), group(row + 24)];
        few::<S, TY, 4>(s, groups, (row, rows), x, 0, out);
        row += 32;
    }
    while row < whole {
        few::<S, TY, 1>(s, [group(row)], (row, rows), x, 0, out);
        row += 8;
    }
}
