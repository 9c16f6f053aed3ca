//! A bound on label values that others choose. Identities are authenticated before they become labels, but
//! a mesh may have a million of them, and every label value is a time series (Linkerd CVE-2025-43915).

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

/// The value that stands for all beyond the bound.
const OTHER: &str = "other";

/// The first `bound` distinct values keep their names; later ones share one.
#[derive(Debug)]
pub(super) struct BoundedLabels {
    seen: Mutex<HashSet<Arc<str>>>,
    bound: usize,
}

impl BoundedLabels {
    pub(super) fn new(bound: usize) -> Self {
        Self { seen: Mutex::new(HashSet::new()), bound }
    }

    pub(super) fn admit(&self, value: &str) -> Arc<str> {
        let mut seen = self.seen.lock();
        if let Some(known) = seen.get(value) {
            return Arc::clone(known);
        }
        if seen.len() >= self.bound {
            return Arc::from(OTHER);
        }
        let value: Arc<str> = Arc::from(value);
        seen.insert(Arc::clone(&value));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_identities_cost_no_more_than_the_bound() {
        let labels = BoundedLabels::new(10);
        let distinct: HashSet<_> = (0..1000).map(|n| labels.admit(&format!("spiffe://td/{n}"))).collect();
        assert_eq!(distinct.len(), 11);
        assert_eq!(&*labels.admit("spiffe://td/3"), "spiffe://td/3");
        assert_eq!(&*labels.admit("spiffe://td/999"), OTHER);
    }
}
