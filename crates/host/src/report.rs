//! Reports from records: who wins where, with every figure computed from the raw samples.
//!
//! 1. [`contents`] reads a record's rows and says what a report holds; [`findings`] are its sentences.
//! 2. [`page`] is how that is written: one HTML file, Markdown, CSV.
//! 3. [`chart`] and [`bars`] draw.
//! 4. [`cost`] divides prices by tokens.
//! 5. [`difference`] puts two records side by side.
//! 6. [`tensors`] is the report of the benches of tensor operations.

pub mod bars;
pub mod chart;
pub mod contents;
pub mod cost;
pub mod difference;
pub mod findings;
pub mod page;
pub mod tensors;
