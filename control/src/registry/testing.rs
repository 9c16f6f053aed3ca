//! Declarations and strategies for the tests of this room.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::declaration::{Approval, Declaration, Owner, Ttl};
use crate::store::model::WorkloadStatus;
use crate::time;

/// The example of the documentation.
pub(super) const PAYMENTS: &str = r#"kind: Workload
id: spiffe://prod.example/payments
owner: { team: payments, contact: payments@prod.example }
purpose: charges cards
environment: production
selectors: ["prod-cluster:namespace:shop", "prod-cluster:serviceaccount:payments"]
ttl: { default: 1h, min: 5m, max: 24h }
dns: [payments.shop.svc.cluster.local]
status: active
until: 2027-01-31T00:00:00Z
approval: none
"#;

/// With as little as possible said about it.
pub(super) fn declared(name: &str) -> Declaration {
    Declaration {
        name: name.parse().unwrap(),
        owner: Owner { team: "team".into(), contact: None },
        purpose: "test".into(),
        environment: None,
        selectors: BTreeSet::new(),
        ttl: Ttl::default(),
        dns: BTreeSet::new(),
        status: WorkloadStatus::Active,
        until: None,
        approval: Approval::None,
    }
}

fn words() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{1,6}", "[ -~]{1,12}", "\\PC{1,8}"]
        .prop_map(|text| text.trim().to_owned())
        .prop_filter("a text", |text| !text.is_empty() && !text.chars().any(crate::visible::is_hidden))
}

fn lives() -> impl Strategy<Value = Ttl> {
    prop::collection::vec(prop::option::of(60u64..80_000), 3).prop_map(|mut seconds| {
        let mut known: Vec<u64> = seconds.iter().flatten().copied().collect();
        known.sort_unstable();
        let mut known = known.into_iter();
        for slot in seconds.iter_mut().filter(|slot| slot.is_some()) {
            *slot = known.next();
        }
        let life = |at: usize| seconds[at].map(Duration::from_secs);
        Ttl { min: life(0), default: life(1), max: life(2) }
    })
}

/// Acceptable declarations of a few names.
pub(super) fn declarations() -> impl Strategy<Value = Declaration> {
    let name = "spiffe://td/w[a-e]|spiffe://td/t[a-c]/\\{ns\\}";
    let selectors = prop::collection::btree_set(
        "prod:(ns|sa):([a-c]|[ -~]{1,6})".prop_map(|text| text.parse().unwrap()),
        1..4,
    );
    let dns =
        prop::collection::btree_set("[a-c]{1,3}\\.example".prop_map(|text| text.parse().unwrap()), 0..3);
    let status = prop_oneof![
        4 => Just(WorkloadStatus::Active),
        1 => Just(WorkloadStatus::Suspended),
        1 => Just(WorkloadStatus::Retired),
    ];
    let until = prop::option::of((0i64..4_000_000_000_000).prop_map(time::from_millis));
    let approval = prop_oneof![Just(Approval::None), Just(Approval::One), Just(Approval::Two)];
    let owner = (words(), prop::option::of(words())).prop_map(|(team, contact)| Owner { team, contact });
    let environment = prop::option::of("[a-z0-9-]{1,5}");
    (name, owner, words(), environment, selectors, lives(), (dns, status, until, approval)).prop_map(
        |(name, owner, purpose, environment, selectors, ttl, (dns, status, until, approval))| Declaration {
            name: name.parse().unwrap(),
            owner,
            purpose,
            environment,
            selectors,
            ttl,
            dns,
            status,
            until,
            approval,
        },
    )
}
