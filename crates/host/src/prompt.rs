//! Prompts for measuring: ids that look arbitrary, and are the same every time.

/// `count` ids of a vocabulary of this size; each seed gives others.
pub fn random_ids(seed: u64, count: usize, vocab_size: usize) -> Vec<u32> {
    let mut state = seed;
    let next = |_| {
        // Knuth's MMIX generator; its upper bits are the good ones.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % vocab_size as u64) as u32
    };
    (0..count).map(next).collect()
}
