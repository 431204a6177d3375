//! Criterion benches over the cases of `barelm::llm::benchmarks`.
