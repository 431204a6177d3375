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
