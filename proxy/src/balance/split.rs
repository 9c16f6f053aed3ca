//! Whose turn it is among legs with weights: smooth weighted round robin, exact in every run of as many turns as the
//! weights sum up to, and without bursts in between.

/// The turns of some legs.
#[derive(Debug, Clone)]
pub struct Split {
    weights: Vec<i64>,
    credit: Vec<i64>,
}

impl Split {
    /// Of legs with these weights.
    #[must_use]
    pub fn new(weights: impl IntoIterator<Item = u32>) -> Self {
        let weights: Vec<i64> = weights.into_iter().map(i64::from).collect();
        Self { credit: vec![0; weights.len()], weights }
    }

    /// The leg whose turn it is, of those that can be used; `None` if none of them has a weight.
    pub fn next(&mut self, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let mut total = 0;
        let mut best: Option<(usize, i64)> = None;
        for (leg, (weight, credit)) in self.weights.iter().zip(&mut self.credit).enumerate() {
            if *weight == 0 || !usable(leg) {
                continue;
            }
            *credit += weight;
            total += weight;
            if best.is_none_or(|(_, most)| *credit > most) {
                best = Some((leg, *credit));
            }
        }
        let (leg, _) = best?;
        if let Some(credit) = self.credit.get_mut(leg) {
            *credit -= total;
        }
        Some(leg)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_round_is_exact_and_every_prefix_is_near(
            weights in proptest::collection::vec(0..50_u32, 1..6),
        ) {
            let total: u32 = weights.iter().sum();
            let mut split = Split::new(weights.iter().copied());
            let mut counts = vec![0_u32; weights.len()];
            for turn in 1..=total * 2 {
                let leg = split.next(|_| true).unwrap();
                counts[leg] += 1;
                for (count, weight) in counts.iter().zip(&weights) {
                    let fair = f64::from(*weight) * f64::from(turn) / f64::from(total);
                    prop_assert!((f64::from(*count) - fair).abs() <= weights.len() as f64);
                }
            }
            let twice: Vec<u32> = weights.iter().map(|weight| weight * 2).collect();
            prop_assert_eq!(counts, twice);
        }
    }

    #[test]
    fn what_cannot_be_used_gets_nothing_and_the_others_keep_their_proportion() {
        let mut split = Split::new([50, 30, 20]);
        let mut counts = [0; 3];
        for _ in 0..500 {
            counts[split.next(|leg| leg != 0).unwrap()] += 1;
        }
        assert_eq!(counts, [0, 300, 200]);
        assert_eq!(split.next(|_| false), None);
        assert_eq!(Split::new([0, 0]).next(|_| true), None);
    }
}
