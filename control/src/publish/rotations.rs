//! Orders to renew at once, found by whom they mean.

use std::collections::HashMap;

use signet_proto::policy::Pattern;
use signet_proto::spiffe::SpiffeId;
use signet_proto::v1;

use super::policies::Concerned;
use crate::roles::Scope;
use crate::store::model::RotationOrder;
use crate::time;

/// All orders as of one commit.
#[derive(Debug, Default)]
pub struct RotationSection {
    /// Of one identity.
    exact: HashMap<SpiffeId, RotationOrder>,
    /// Of everything and of subtrees: few, as a wider order takes the place of narrower ones.
    wide: Vec<RotationOrder>,
}

impl RotationSection {
    /// The section with these orders, and whom those mean that were not there before.
    pub(super) fn next(&self, orders: Vec<RotationOrder>) -> (Self, Concerned) {
        let mut next = Self::default();
        let mut concerned = Concerned::nobody();
        for order in orders {
            if !self.has(&order) {
                concerned.add_scope(&order.scope);
            }
            match &order.scope {
                Scope::Of(Pattern::Exact(id)) => {
                    next.exact.insert(id.clone(), order);
                }
                _ => next.wide.push(order),
            }
        }
        (next, concerned)
    }

    /// The newest that means this identity.
    #[must_use]
    pub fn of(&self, id: &SpiffeId) -> Option<&RotationOrder> {
        let meant = Scope::identity(id);
        let wide = self.wide.iter().filter(|order| order.scope.covers(&meant));
        wide.chain(self.exact.get(id)).max_by_key(|order| order.issued_before)
    }

    fn has(&self, order: &RotationOrder) -> bool {
        match &order.scope {
            Scope::Of(Pattern::Exact(id)) => self.exact.get(id) == Some(order),
            _ => self.wide.contains(order),
        }
    }
}

/// As it is sent.
pub(super) fn message(order: &RotationOrder) -> v1::RenewalOrder {
    v1::RenewalOrder {
        issued_before: Some(time::to_proto(order.issued_before)),
        within: Some(time::duration_to_proto(order.within)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn order(scope: &str, at: i64) -> RotationOrder {
        let within = Duration::ZERO;
        RotationOrder { scope: scope.parse().unwrap(), issued_before: time::from_millis(at), within }
    }

    #[test]
    fn the_newest_order_counts_and_only_whom_it_means_is_told() {
        let first = vec![order("everything", 1), order("spiffe://td/a", 3), order("spiffe://td/shop/*", 2)];
        let (section, concerned) = RotationSection::default().next(first.clone());
        assert_eq!(concerned, Concerned::Everyone);
        let at = |section: &RotationSection, id: &str| {
            section.of(&id.parse().unwrap()).map(|order| time::to_millis(order.issued_before))
        };
        let found = ["spiffe://td/a", "spiffe://td/b", "spiffe://td/shop/till"].map(|id| at(&section, id));
        assert_eq!(found, [Some(3), Some(1), Some(2)]);

        let again = [first, vec![order("spiffe://td/shop/till", 4)]].concat();
        let (section, concerned) = section.next(again);
        let named = vec!["spiffe://td/shop/till".parse().unwrap()];
        assert_eq!(concerned, Concerned::Those { named, callers_of: Default::default() });
        assert_eq!(at(&section, "spiffe://td/shop/till"), Some(4));
        let (none, concerned) = section.next(Vec::new());
        assert_eq!(concerned, Concerned::nobody(), "an order that is forgotten is no news");
        assert_eq!(at(&none, "spiffe://td/a"), None);
    }
}
