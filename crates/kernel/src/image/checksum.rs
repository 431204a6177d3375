//! A number that changes with any bit of the bytes it was made of.

/// An odd constant: multiplying by it loses nothing.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// The checksum of `bytes`.
///
/// Each word of eight bytes goes through a step that can be undone, so two inputs of equal length that differ within
/// one word never have the same checksum. It finds accidents, not attacks.
pub fn checksum(bytes: &[u8]) -> u64 {
    let step = |sum: u64, word: u64| {
        let mixed = (sum ^ word).wrapping_mul(FACTOR);
        mixed ^ mixed >> 32
    };
    let (words, rest) = bytes.as_chunks::<8>();
    let sum = words.iter().fold(bytes.len() as u64, |sum, word| step(sum, u64::from_le_bytes(*word)));
    rest.iter().fold(sum, |sum, &byte| step(sum, byte.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use alloc::vec::Vec;

    #[test]
    fn every_bit_counts() {
        let bytes: Vec<u8> = (0..77u8).map(|i| i.wrapping_mul(31)).collect();
        let mut sums = BTreeSet::from([checksum(&bytes)]);
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(sums.insert(checksum(&changed)), "bit {bit}");
        }
    }

    #[test]
    fn length_and_order_count() {
        let sums = [&[][..], &[0], &[0; 8], &[0; 9], &[0; 16], &[1, 0], &[0, 1], b"12345678", b"87654321"];
        assert_eq!(sums.map(checksum).into_iter().collect::<BTreeSet<_>>().len(), sums.len());
    }
}
