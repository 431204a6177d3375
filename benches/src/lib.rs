//! Criterion benches over the cases of `barelm::llm::benchmarks`, and what those that are not criterion's share.
//!
//! - [`serialization`] are file formats for weights, for the bench of that name.
//! - [`contest`] measures contenders for the same work in turns, for the benches of tensor operations: criterion finishes one before it
//!   starts the next, and no ratio of two of its times is worth much on a machine whose speed drifts.
//! - [`peers`] are other engines' operations as contenders, `blas` are BLAS libraries, loaded when they are there, and `cublas` is a
//!   GPU's.

#[cfg(feature = "cpu-blas")]
pub mod blas;
#[cfg(feature = "llm-transformer")]
pub mod contest;
#[cfg(all(feature = "cuda", feature = "llm-transformer"))]
pub mod cublas;
#[cfg(feature = "llm-transformer")]
pub mod peers;
pub mod serialization;

/// Numbers of both signs up to 1, the same ones each time.
pub fn wave(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| (((i + 31 * seed) * 7919 % 2017) as f32 - 1008.0) / 1008.0).collect()
}

/// Floats that start at a line of the caches, so that no load of a register crosses one; all touched.
#[derive(Clone, Debug)]
pub struct Lines {
    memory: Vec<f32>,
    range: std::ops::Range<usize>,
}

impl Lines {
    /// A copy of these.
    pub fn of(values: &[f32]) -> Self {
        let mut memory = vec![0.0; values.len() + 16];
        let first = memory.as_ptr().align_offset(64).min(16);
        let range = first..first + values.len();
        memory[range.clone()].copy_from_slice(values);
        Lines { memory, range }
    }
}

impl std::ops::Deref for Lines {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.memory[self.range.clone()]
    }
}

impl std::ops::DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory[self.range.clone()]
    }
}
