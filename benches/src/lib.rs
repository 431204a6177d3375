//! Criterion benches over the cases of `barelm::llm::benchmarks`, and what those that are not criterion's share.
//!
//! - [`serialization`] are file formats for weights, for the bench of that name.

pub mod serialization;
