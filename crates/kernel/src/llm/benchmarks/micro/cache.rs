//! Writing to the KV cache, and reading all of it.

use alloc::vec;
use alloc::vec::Vec;
use core::hint::black_box;

use super::noise;
use crate::llm::benchmarks::case::{Case, Work, WrongAnswer};
use crate::llm::kv_cache::{BLOCK, GROUP, KvCache, KvShape};
use crate::llm::simd::{Attending, Kernels, KvBlock};

/// One layer of the documents' model, with grouped heads: keys and values are `kv_heads x head_dim` wide.
const SHAPE: KvShape = KvShape { n_layers: 1, n_kv_heads: 2, head_dim: 64, capacity: 256 };

/// Elements of one position's keys.
const WIDTH: usize = SHAPE.n_kv_heads * SHAPE.head_dim;

/// What both cases have: memory of a cache, and what goes into it.
struct Store {
    kernels: &'static Kernels,
    keys: Vec<u16>,
    values: Vec<u16>,
    /// `[position][WIDTH]`.
    key: Vec<f32>,
    value: Vec<f32>,
}

impl Store {
    fn new(kernels: &'static Kernels) -> Self {
        let elements = SHAPE.elements().expect("a small shape");
        Self {
            kernels,
            keys: vec![0; elements],
            values: vec![0; elements],
            key: noise(SHAPE.capacity * WIDTH, 10),
            value: noise(SHAPE.capacity * WIDTH, 11),
        }
    }

    fn append(&mut self, positions: impl Iterator<Item = usize>) {
        let cache = KvCache::new(SHAPE, &mut self.keys, &mut self.values);
        for position in positions {
            let slot = position % SHAPE.capacity;
            let at = slot * WIDTH;
            let (key, value) = (black_box(&self.key[at..]), black_box(&self.value[at..]));
            for head in 0..SHAPE.n_kv_heads {
                let part = head * SHAPE.head_dim..(head + 1) * SHAPE.head_dim;
                // SAFETY: this thread alone holds the cache, by the exclusive borrow of its memory.
                unsafe {
                    cache.append(self.kernels, 0, head, slot, &key[part.clone()], &value[part]);
                }
            }
        }
    }
}

/// Appends one position after another, round the ring when it is full. A unit is one position of one layer.
pub struct Append {
    store: Store,
    position: usize,
}

impl Append {
    /// Sets it up.
    pub fn new(kernels: &'static Kernels) -> Self {
        Self { store: Store::new(kernels), position: 0 }
    }
}

impl Case for Append {
    fn name(&self) -> &'static str {
        "kv_append"
    }

    fn work(&self) -> Work {
        // Keys and values, read as f32 and written as f16.
        Work { units: 1.0, bytes: 2 * 6 * WIDTH as u64, flops: 0, tokens: 1 }
    }

    fn run(&mut self, calls: u64) {
        let start = self.position;
        self.position += calls as usize;
        self.store.append(start..self.position);
        black_box(&self.store.keys);
    }

    fn check(&mut self) -> Result<(), WrongAnswer> {
        let held = self.position.min(SHAPE.capacity);
        WrongAnswer::check("positions appended, at least one", 1.0, held.min(1) as f64, 0.0)?;
        let f16 = |x: f32| half::f16::from_f32(x).to_f64();
        for (position, head) in (0..held).flat_map(|p| (0..SHAPE.n_kv_heads).map(move |h| (p, h))) {
            for d in 0..SHAPE.head_dim {
                let from = position * WIDTH + head * SHAPE.head_dim + d;
                let group = head * SHAPE.capacity + position / GROUP * GROUP;
                let key = group * SHAPE.head_dim + d * GROUP + position % GROUP;
                let value = (head * SHAPE.capacity + position) * SHAPE.head_dim + d;
                let found = |bits: u16| half::f16::from_bits(bits).to_f64();
                let (k, v) = (self.store.key[from], self.store.value[from]);
                WrongAnswer::check("a cached key", f16(k), found(self.store.keys[key]), 0.0)?;
                WrongAnswer::check("a cached value", f16(v), found(self.store.values[value]), 0.0)?;
            }
        }
        Ok(())
    }
}

/// Reads all 256 positions as attention does: a query of each head against every key and value. A unit is one position
/// of one layer.
pub struct ReadAll {
    store: Store,
    /// A query for each head, `[WIDTH]`.
    query: Vec<f32>,
    max: [f32; SHAPE.n_kv_heads],
    sum: [f32; SHAPE.n_kv_heads],
    /// Weighted values, still to be divided by `sum`.
    out: Vec<f32>,
}

/// What scores are multiplied with.
const SCALE: f32 = 0.125;

impl ReadAll {
    /// Sets it up.
    pub fn new(kernels: &'static Kernels) -> Self {
        let mut store = Store::new(kernels);
        store.append(0..SHAPE.capacity);
        Self {
            store,
            query: noise(WIDTH, 12),
            max: [0.0; SHAPE.n_kv_heads],
            sum: [1.0; SHAPE.n_kv_heads],
            out: vec![0.0; WIDTH],
        }
    }
}

impl Case for ReadAll {
    fn name(&self) -> &'static str {
        "kv_read"
    }

    fn work(&self) -> Work {
        let elements = (SHAPE.capacity * WIDTH) as u64;
        Work { units: SHAPE.capacity as f64, bytes: 2 * 2 * elements, flops: 2 * 2 * elements, tokens: 0 }
    }

    fn run(&mut self, calls: u64) {
        let (kernels, head_dim) = (self.store.kernels, SHAPE.head_dim);
        for _ in 0..calls {
            let (keys, values) = (black_box(&mut self.store.keys), black_box(&mut self.store.values));
            let cache = KvCache::new(SHAPE, keys, values);
            for head in 0..SHAPE.n_kv_heads {
                let of_head = head * head_dim..(head + 1) * head_dim;
                let mut x = Attending {
                    q: &self.query[of_head.clone()],
                    until: &[BLOCK],
                    max: &mut self.max[head..head + 1],
                    sum: &mut self.sum[head..head + 1],
                    out: &mut self.out[of_head],
                };
                for block in 0..SHAPE.capacity / BLOCK {
                    let groups = block * BLOCK / GROUP..(block + 1) * BLOCK / GROUP;
                    let positions = block * BLOCK..(block + 1) * BLOCK;
                    // SAFETY: nobody appends: this thread alone holds the cache.
                    let (keys, values) =
                        unsafe { (cache.keys(0, head, groups), cache.values(0, head, positions)) };
                    let block =
                        KvBlock { head_dim, keys, values, from: 0, first: block == 0, ahead: [&[]; 2] };
                    kernels.attend(&block, SCALE, &mut x);
                }
            }
            black_box(&self.out);
        }
    }

    fn check(&mut self) -> Result<(), WrongAnswer> {
        let f16 = |x: f32| half::f16::from_f32(x).to_f64();
        for (head, out) in self.out.chunks(SHAPE.head_dim).enumerate() {
            let mut expected = vec![0.0; SHAPE.head_dim];
            let mut magnitude = vec![0.0; SHAPE.head_dim];
            let (mut all, mut largest) = (0.0, 0.0f64);
            for position in 0..SHAPE.capacity {
                let at = position * WIDTH + head * SHAPE.head_dim;
                let query = &self.query[head * SHAPE.head_dim..][..SHAPE.head_dim];
                let products = query.iter().zip(&self.store.key[at..]).map(|(&q, &k)| f64::from(q) * f16(k));
                let (score, size) = products.fold((0.0, 0.0), |(s, m), x| (s + x, m + f64::abs(x)));
                let weight = libm::exp(f64::from(SCALE) * score);
                all += weight;
                largest = largest.max(f64::from(SCALE) * size);
                for (d, &v) in self.store.value[at..at + SHAPE.head_dim].iter().enumerate() {
                    expected[d] += weight * f16(v);
                    magnitude[d] += weight * f16(v).abs();
                }
            }
            // A chain of head_dim roundings moves every score, and so every weight and their sum; an exponential is
            // within 2 ulp, and a chain of all positions lies behind it.
            let steps = 2.0 * largest * SHAPE.head_dim as f64 + 16.0 + SHAPE.capacity as f64;
            for ((&expected, &found), magnitude) in expected.iter().zip(out).zip(magnitude) {
                let found = f64::from(found) / f64::from(self.sum[head]);
                let bound = steps * f64::from(f32::EPSILON) * magnitude / all;
                WrongAnswer::check("a weighted mean", expected / all, found, bound)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::simd::available;

    #[test]
    fn every_table_caches_and_reads_right() {
        for kernels in available() {
            let (mut append, mut read) = (Append::new(kernels), ReadAll::new(kernels));
            assert!(append.check().is_err() && read.check().is_err(), "nothing has run yet");
            append.run(300); // past the end of the ring
            read.run(2);
            assert_eq!((append.check(), read.check()), (Ok(()), Ok(())), "{}", kernels.name);
            append.store.keys[700] ^= 1;
            read.store.values[900] ^= 0x4000;
            assert!(append.check().is_err());
            read.run(1);
            assert!(read.check().is_err());
        }
    }
}
