//! Reports from records: who wins where, with every figure computed from the raw samples.
//!
//! 1. [`page`] is what a report says, and how it is written: one HTML file, Markdown, CSV.
//! 2. [`chart`] draws.
//! 3. [`cost`] divides prices by tokens.

pub mod chart;
pub mod cost;
pub mod page;
