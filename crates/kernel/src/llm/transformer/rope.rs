//! Rotary position embedding: a query or key is turned by angles that grow with its position.
//!
//! Su et al., "RoFormer", 2021 (arXiv 2104.09864). Pairs are neighbours (2i, 2i + 1), as GGUF stores Llama weights.

/// Cosines and sines of one position, `[rope_dim / 2]` each, computed in f64 and rounded once.
pub(super) fn angles(position: usize, frequencies: &[f64], cos: &mut [f32], sin: &mut [f32]) {
    for ((frequency, cos), sin) in frequencies.iter().zip(cos).zip(sin) {
        let angle = position as f64 * frequency;
        *cos = libm::cos(angle) as f32;
        *sin = libm::sin(angle) as f32;
    }
}
