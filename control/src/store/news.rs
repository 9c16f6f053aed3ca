//! Endpoints that other replicas changed: collected where they are heard of, taken where they are looked up. Bounded:
//! whoever is far behind looks at all of them.

use std::collections::HashSet;

use parking_lot::Mutex;
use signet_proto::spiffe::InstanceId;
use tokio::sync::Notify;

const MOST: usize = 10_000;

/// What to look up again.
#[derive(Debug, PartialEq, Eq)]
pub enum Changed {
    /// Everything: nobody knows what was missed.
    All,
    /// The endpoints of these.
    Instances(HashSet<InstanceId>),
}

/// The collection.
#[derive(Debug, Default)]
pub(super) struct News {
    changed: Mutex<Option<Changed>>,
    arrived: Notify,
}

impl News {
    /// Nobody knows what changed.
    pub(super) fn missed(&self) {
        *self.changed.lock() = Some(Changed::All);
        self.arrived.notify_one();
    }

    pub(super) fn heard(&self, instance: InstanceId) {
        let mut changed = self.changed.lock();
        match &mut *changed {
            None => *changed = Some(Changed::Instances(HashSet::from([instance]))),
            Some(Changed::All) => {}
            Some(Changed::Instances(instances)) if instances.len() < MOST => {
                instances.insert(instance);
            }
            Some(Changed::Instances(_)) => *changed = Some(Changed::All),
        }
        drop(changed);
        self.arrived.notify_one();
    }

    /// Waits for some.
    pub(super) async fn next(&self) -> Changed {
        loop {
            if let Some(changed) = self.changed.lock().take() {
                return changed;
            }
            self.arrived.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn news_are_collected_until_taken_and_bounded() {
        let news = News::default();
        let (one, other) = (InstanceId::random().unwrap(), InstanceId::random().unwrap());
        for instance in [one, other, one] {
            news.heard(instance);
        }
        assert_eq!(news.next().await, Changed::Instances(HashSet::from([one, other])));
        for _ in 0..=MOST {
            news.heard(InstanceId::random().unwrap());
        }
        assert_eq!(news.next().await, Changed::All);
        news.missed();
        news.heard(one);
        assert_eq!(news.next().await, Changed::All, "what is known does not narrow what is not");
    }
}
