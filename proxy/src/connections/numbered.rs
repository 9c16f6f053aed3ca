//! Tables by numbers that we give ourselves: nobody else can choose them so that they collide.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A table by such numbers.
pub type Numbered<T> = HashMap<u64, T, BuildHasherDefault<Spread>>;

/// Spreads numbers that follow each other over all bits, of which the table looks at the first and the last ones.
#[derive(Debug, Default)]
pub struct Spread(u64);

/// 2^64 divided by the golden ratio.
const RATIO: u64 = 0x9e37_79b9_7f4a_7c15;

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(RATIO);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn numbers_in_a_row_are_spread() {
        let hash = |number: u64| {
            let mut spread = Spread::default();
            spread.write_u64(number);
            spread.finish()
        };
        let low: HashSet<_> = (0..1024).map(|number| hash(number) & 1023).collect();
        assert_eq!(low.len(), 1024);
        let high: HashSet<_> = (0..1024).map(|number| hash(number) >> 57).collect();
        assert!(high.len() > 100, "{}", high.len());
    }
}
