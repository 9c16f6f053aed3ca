//! Random numbers that can be repeated: the choice between endpoints is a pure function of its seed and of what
//! happened. SplitMix64 (Steele, Lea, Flood 2014); never for secrets.

use std::hash::{BuildHasher, RandomState};

/// A sequence of random numbers.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The sequence of this seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// One that no other proxy has.
    #[must_use]
    pub fn unpredicted() -> Self {
        Self(RandomState::new().hash_one(0_u8))
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 up to but not including `count`; 0 if that is 0.
    pub fn below(&mut self, count: usize) -> usize {
        // Lemire's reduction: the bias is below 2^-32 for any number of endpoints there is.
        let product = u128::from(self.bits()) * (count as u128);
        usize::try_from(product >> 64).unwrap_or_default()
    }

    /// In [0, 1).
    pub fn fraction(&mut self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit an f64 exactly")]
        let fraction = (self.bits() >> 11) as f64 / (1_u64 << 53) as f64;
        fraction
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers_all_over_the_range() {
        let drawn = |seed| {
            let mut random = Random::seeded(seed);
            (0..1000).map(|_| random.below(10)).collect::<Vec<_>>()
        };
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
        assert!((0..10).all(|number| drawn(7).iter().filter(|drawn| **drawn == number).count() > 50));
        let mut random = Random::seeded(1);
        assert!((0..1000).map(|_| random.fraction()).all(|fraction| (0.0..1.0).contains(&fraction)));
        assert_eq!(random.below(0), 0);
    }
}
