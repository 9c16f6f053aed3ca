//! Which workload a proof gets.
//!
//! A workload matches when all its selectors are proven. A name that is registered for itself belongs to
//! that registration alone: a template that comes to the same name does not give it, whatever is proven and
//! whether or not that workload is suspended. If several names are left, one that was asked for decides,
//! then the most selectors; two that are equal give nothing, as any choice between them would be a guess.

use std::collections::{BTreeMap, BTreeSet};

use signet_proto::spiffe::SpiffeId;

use super::declaration::{Declaration, Name};
use super::selector::Selector;
use super::template::{ExpandError, Values};

/// Names that an error tells.
const NAMED: usize = 8;

/// A workload whose selectors are all proven, and whom it makes of whoever proved them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match<'w> {
    /// The identity.
    pub id: SpiffeId,
    /// DNS names that its SVIDs may carry.
    pub dns: Vec<String>,
    /// What it comes from.
    pub declaration: &'w Declaration,
}

/// What a proof comes to.
#[derive(Debug, Default)]
pub struct Matches<'w> {
    /// Each a possible outcome.
    pub found: Vec<Match<'w>>,
    /// Templates whose selectors are proven, but that give no identity; for the log.
    pub refused: Vec<(&'w Name, ExpandError)>,
}

/// Why a proof gets no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChooseError {
    /// No workload has only selectors that are proven.
    #[error("no workload's selectors are all proven")]
    Nothing,
    /// Some match, but not the one asked for.
    #[error("`{0}` was asked for, but its selectors are not all proven")]
    NotWanted(SpiffeId),
    /// Several match equally well.
    #[error(
        "the proof fits {} equally well: ask for one of them, or give one more selectors",
        .0.join(" and ")
    )]
    Ambiguous(Vec<String>),
}

/// The workloads that a proof of these facts, all of one attestor, fits. `workloads` has to include every
/// registration that names a single identity and could be one of a template: `is_registered` says whether
/// there is one, in whatever status.
pub fn matching<'w>(
    workloads: impl IntoIterator<Item = &'w Declaration>,
    proven: &BTreeSet<Selector>,
    is_registered: impl Fn(&SpiffeId) -> bool,
) -> Matches<'w> {
    let mut matches = Matches::default();
    for declaration in workloads {
        // Without selectors only join tickets give it.
        let fits = !declaration.selectors.is_empty()
            && declaration.selectors.iter().all(|selector| selector.is_proven_by(proven));
        if !fits {
            continue;
        }
        match identify(declaration, proven) {
            Ok((id, dns)) => {
                let shadowed = matches!(declaration.name, Name::Template(_)) && is_registered(&id);
                if !shadowed {
                    matches.found.push(Match { id, dns, declaration });
                }
            }
            Err(error) => matches.refused.push((&declaration.name, error)),
        }
    }
    matches
}

fn identify(
    declaration: &Declaration,
    proven: &BTreeSet<Selector>,
) -> Result<(SpiffeId, Vec<String>), ExpandError> {
    let (id, values) = match &declaration.name {
        Name::Identity(id) => (id.clone(), Values::default()),
        Name::Template(template) => {
            let values = template.values(proven)?;
            (template.fill(&values)?, values)
        }
    };
    let dns = declaration.dns.iter().map(|name| name.fill(&values)).collect::<Result<_, _>>()?;
    Ok((id, dns))
}

/// The one match that counts; `wanted` is whom the proxy says to be.
///
/// # Errors
/// When there is none, or no reason to prefer one.
pub fn choose<'w>(
    matches: impl IntoIterator<Item = Match<'w>>,
    wanted: Option<&SpiffeId>,
) -> Result<Match<'w>, ChooseError> {
    let mut best: BTreeMap<SpiffeId, Vec<Match<'w>>> = BTreeMap::new();
    let mut any = false;
    for found in matches {
        any = true;
        if wanted.is_none_or(|wanted| *wanted == found.id) {
            best.entry(found.id.clone()).or_default().push(found);
        }
    }
    match (best.is_empty(), any, wanted) {
        (true, true, Some(wanted)) => return Err(ChooseError::NotWanted(wanted.clone())),
        (true, _, _) => return Err(ChooseError::Nothing),
        _ => {}
    }
    // A registration of its own stands before templates that come to the same name.
    for found in best.values_mut() {
        if found.iter().any(Match::is_concrete) {
            found.retain(Match::is_concrete);
        }
    }
    let most = best.values().flatten().map(Match::selectors).max().unwrap_or_default();
    let mut left: Vec<Match<'w>> =
        best.into_values().flatten().filter(|found| found.selectors() == most).collect();
    match (left.pop(), left.as_slice()) {
        (Some(one), []) => Ok(one),
        (one, others) => Err(ChooseError::Ambiguous(
            others
                .iter()
                .chain(&one)
                .take(NAMED)
                .map(|found| format!("`{}`", found.declaration.name))
                .collect(),
        )),
    }
}

impl Match<'_> {
    fn is_concrete(&self) -> bool {
        matches!(self.declaration.name, Name::Identity(_))
    }

    fn selectors(&self) -> usize {
        self.declaration.selectors.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::declared;
    use super::*;

    fn proof(facts: &[&str]) -> BTreeSet<Selector> {
        facts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn workload(name: &str, selectors: &[&str]) -> Declaration {
        Declaration { selectors: proof(selectors), ..declared(name) }
    }

    fn outcome(
        workloads: &[Declaration],
        facts: &[&str],
        wanted: Option<&str>,
    ) -> Result<String, ChooseError> {
        let wanted: Option<SpiffeId> = wanted.map(|id| id.parse().unwrap());
        let registered = |id: &SpiffeId| {
            workloads.iter().any(|workload| matches!(&workload.name, Name::Identity(own) if own == id))
        };
        let matches = matching(workloads, &proof(facts), registered);
        choose(matches.found, wanted.as_ref()).map(|found| found.id.to_string())
    }

    const POD: [&str; 2] = ["prod:namespace:shop", "prod:serviceaccount:payments"];
    const CLUSTER: &str = "spiffe://td/ns/{namespace}/sa/{serviceaccount}";

    #[test]
    fn one_template_serves_a_whole_cluster() {
        let cluster = [workload(CLUSTER, &["prod"])];
        assert_eq!(outcome(&cluster, &POD, None).unwrap(), "spiffe://td/ns/shop/sa/payments");
        assert_eq!(
            outcome(&cluster, &["test:namespace:a", "test:serviceaccount:b"], None),
            Err(ChooseError::Nothing)
        );
    }

    #[test]
    fn without_selectors_no_proof_fits() {
        assert_eq!(outcome(&[workload("spiffe://td/a", &[])], &POD, None), Err(ChooseError::Nothing));
    }

    #[test]
    fn a_name_registered_for_itself_is_not_given_by_a_template() {
        let own = "spiffe://td/ns/shop/sa/payments";
        let shadowed = [workload(CLUSTER, &["prod"]), workload(own, &[])];
        assert_eq!(outcome(&shadowed, &POD, None), Err(ChooseError::Nothing));
        let stricter = [workload(CLUSTER, &["prod"]), workload(own, &["prod:node:n1"])];
        assert_eq!(outcome(&stricter, &POD, None), Err(ChooseError::Nothing));
        let proven = [POD[0], POD[1], "prod:node:n1"];
        assert_eq!(outcome(&stricter, &proven, None).unwrap(), own);
    }

    #[test]
    fn the_wanted_one_then_the_most_selectors_decide() {
        let workloads = [
            workload("spiffe://td/shop", &[POD[0]]),
            workload("spiffe://td/payments", &[POD[0], POD[1]]),
            workload("spiffe://td/other", &["prod:namespace:other"]),
        ];
        assert_eq!(outcome(&workloads, &POD, None).unwrap(), "spiffe://td/payments");
        assert_eq!(outcome(&workloads, &POD, Some("spiffe://td/shop")).unwrap(), "spiffe://td/shop");
        assert_eq!(
            outcome(&workloads, &POD, Some("spiffe://td/other")),
            Err(ChooseError::NotWanted("spiffe://td/other".parse().unwrap()))
        );
        let equal = [workload("spiffe://td/a", &[POD[0]]), workload("spiffe://td/b", &[POD[1]])];
        let error = outcome(&equal, &POD, None).unwrap_err().to_string();
        assert!(error.contains("`spiffe://td/a` and `spiffe://td/b`"), "{error}");
    }

    #[test]
    fn two_templates_with_the_same_outcome_are_ambiguous() {
        let both = [
            workload("spiffe://td/{namespace}", &["prod"]),
            workload("spiffe://td/{serviceaccount}", &["prod"]),
        ];
        let same = ["prod:namespace:shop", "prod:serviceaccount:shop"];
        assert!(matches!(outcome(&both, &same, None), Err(ChooseError::Ambiguous(_))));
        assert!(matches!(outcome(&both, &same, Some("spiffe://td/shop")), Err(ChooseError::Ambiguous(_))));
    }

    #[test]
    fn a_template_that_cannot_be_filled_is_told_and_gives_nothing() {
        let cluster = [workload(CLUSTER, &["prod"])];
        let facts = proof(&["prod:namespace:a/b", "prod:serviceaccount:x"]);
        let matches = matching(&cluster, &facts, |_| false);
        assert!(matches.found.is_empty());
        assert!(matches!(matches.refused.as_slice(), [(_, ExpandError::Segment { .. })]));
    }

    #[test]
    fn dns_names_come_with_the_match_or_not_at_all() {
        let dns = |name: &str| Declaration {
            dns: BTreeSet::from([name.parse().unwrap()]),
            ..workload(CLUSTER, &["prod"])
        };
        let service = [dns("{serviceaccount}.{namespace}.svc")];
        let matches = matching(&service, &proof(&POD), |_| false);
        assert_eq!(matches.found[0].dns, ["payments.shop.svc"]);
        let refused = matching(&service, &proof(&["prod:namespace:A", "prod:serviceaccount:b"]), |_| false);
        assert!(refused.found.is_empty() && refused.refused.len() == 1);
    }

    fn facts() -> impl Strategy<Value = BTreeSet<Selector>> {
        prop::collection::btree_set("prod:[ab]:[xy]".prop_map(|text| text.parse().unwrap()), 0..4)
    }

    proptest! {
        #[test]
        fn another_selector_never_widens_who_matches(
            selectors in facts().prop_filter("some", |set| !set.is_empty()),
            more in "prod:[ab]:[xy]|prod",
            proven in facts(),
        ) {
            let narrow = Declaration { selectors, ..declared("spiffe://td/w") };
            let mut narrower = narrow.clone();
            narrower.selectors.insert(more.parse().unwrap());
            let count = |workload| matching([workload], &proven, |_| false).found.len();
            prop_assert!(count(&narrower) <= count(&narrow));
        }

        #[test]
        fn the_order_of_workloads_does_not_matter(
            sets in prop::collection::vec(facts(), 1..5),
            proven in facts(),
        ) {
            let workloads: Vec<_> = sets
                .into_iter()
                .enumerate()
                .map(|(n, selectors)| Declaration { selectors, ..declared(&format!("spiffe://td/w{n}")) })
                .collect();
            let found = |workloads: &mut dyn Iterator<Item = &Declaration>| {
                choose(matching(workloads, &proven, |_| false).found, None).map(|found| found.id).ok()
            };
            prop_assert_eq!(found(&mut workloads.iter()), found(&mut workloads.iter().rev()));
        }
    }
}
