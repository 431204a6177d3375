//! Random numbers that are the same everywhere: samplers, resampling, and inputs of tests and measurements.

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), which begins with the state it holds.
#[derive(Clone, Debug)]
pub struct SplitMix64(pub u64);

impl SplitMix64 {
    /// 64 bits.
    #[expect(
        clippy::should_implement_trait,
        reason = "a generator without end, whose numbers are taken one by one"
    )]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first numbers that Vigna's reference program (`splitmix64.c`) gives for 1234567.
    #[test]
    fn numbers_are_the_reference_programs() {
        let mut random = SplitMix64(1_234_567);
        let expected = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        assert_eq!(expected.map(|_| random.next()), expected);
    }
}
