//! All policy documents: read once when they change, found by whom they are about, and narrowed for proxies that read
//! an older schema.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use signet_proto::digest::{self, Digest};
use signet_proto::policy::{
    Document, MAX_DOCUMENTS, Narrowed, Pattern, PolicySet, Schema, ancestors, parse_json,
};
use signet_proto::spiffe::SpiffeId;

use crate::roles::Scope;
use crate::store::model::Policy;
use crate::telemetry::metrics;

/// The documents as of one commit.
#[derive(Debug, Default)]
pub struct PolicySection {
    /// In the order of names.
    documents: Vec<Arc<Stored>>,
    about: Found,
    subsets: Mutex<HashMap<SubsetKey, Arc<PolicySubset>>>,
    unreadable: Option<String>,
    compiled: OnceLock<PolicySet>,
}

/// For whom documents are, and which.
type SubsetKey = (Schema, Box<[usize]>);

/// The documents that concern one proxy.
#[derive(Debug)]
pub struct PolicySubset {
    pub(super) documents: Vec<Arc<str>>,
    pub(super) digest: Digest,
}

/// Whom a change is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Concerned {
    /// Everybody.
    Everyone,
    /// Those that one of `named` means, and whoever calls one of `callers_of`.
    Those {
        /// Whose own it is.
        named: Vec<Pattern>,
        /// Identities of which it says something to their callers.
        callers_of: BTreeSet<SpiffeId>,
    },
}

#[derive(Debug)]
struct Stored {
    name: String,
    text: Arc<str>,
    /// Whom it is about. If that cannot be read, a document is everyone's.
    whom: Option<Pattern>,
    parsed: Result<Document, String>,
}

/// Numbers of documents, by identity, by prefix of a subtree, and of everybody.
#[derive(Debug, Default)]
struct Found {
    exact: HashMap<SpiffeId, Vec<usize>>,
    subtrees: HashMap<Arc<str>, Vec<usize>>,
    everyone: Vec<usize>,
}

impl PolicySection {
    /// The section with these documents, of which only what changed is read; and whom the difference is about.
    #[must_use]
    pub fn next(&self, policies: Vec<Policy>) -> (Self, Concerned) {
        let mut known: BTreeMap<&str, &Arc<Stored>> =
            self.documents.iter().map(|stored| (stored.name.as_str(), stored)).collect();
        let mut documents = Vec::with_capacity(policies.len());
        let mut concerned = Concerned::nobody();
        for policy in policies {
            let before = known.remove(policy.name.as_str());
            if let Some(same) = before.filter(|stored| *stored.text == *policy.document) {
                documents.push(Arc::clone(same));
                continue;
            }
            let stored = Stored::read(policy);
            for changed in before.map(Arc::as_ref).into_iter().chain([&stored]) {
                concerned.add(changed.whom.clone());
            }
            documents.push(Arc::new(stored));
        }
        for removed in known.into_values() {
            concerned.add(removed.whom.clone());
        }
        (Self::of(documents), concerned)
    }

    fn of(mut documents: Vec<Arc<Stored>>) -> Self {
        documents.sort_by(|one, other| one.name.cmp(&other.name));
        let mut about = Found::default();
        for (number, stored) in documents.iter().enumerate() {
            about.add(stored.whom.as_ref(), number);
        }
        let unreadable = documents.iter().find_map(|stored| {
            stored.parsed.as_ref().err().map(|error| format!("policy `{}`: {error}", stored.name))
        });
        let too_many = documents.len() > MAX_DOCUMENTS;
        let unreadable = unreadable.or_else(|| {
            too_many
                .then(|| format!("{} policy documents, expected at most {MAX_DOCUMENTS}", documents.len()))
        });
        metrics::policy_readable(unreadable.is_none());
        if let Some(why) = &unreadable {
            tracing::error!(
                why,
                "stored policy cannot be read: whom it concerns denies; apply it anew or delete it"
            );
        }
        Self { documents, about, unreadable, ..Self::default() }
    }

    /// Those that can be read, by name.
    pub fn documents(&self) -> impl Iterator<Item = &Document> {
        self.documents.iter().filter_map(|stored| stored.parsed.as_ref().ok())
    }

    /// What the proxies of `id` are told that read `schema`: equal sets are one.
    #[must_use]
    pub fn subset(&self, id: &SpiffeId, schema: Schema) -> Arc<PolicySubset> {
        let key = (schema, self.about.of(id).into_boxed_slice());
        let mut subsets = self.subsets.lock();
        if let Some(known) = subsets.get(&key) {
            return Arc::clone(known);
        }
        let stored = key.1.iter().filter_map(|number| self.documents.get(*number));
        let documents: Vec<_> = stored.filter_map(|stored| stored.in_schema(schema)).collect();
        let digest = digest::policies(documents.iter().map(AsRef::as_ref));
        let subset = Arc::new(PolicySubset { documents, digest });
        subsets.insert(key, Arc::clone(&subset));
        subset
    }

    /// Compiled, as a proxy that all of it concerns would have it; for explanations.
    #[must_use]
    pub fn compiled(&self) -> &PolicySet {
        self.compiled.get_or_init(|| {
            if let Some(why) = &self.unreadable {
                return PolicySet::deny_all(why.clone());
            }
            let documents = self.documents.iter().filter_map(|stored| stored.parsed.clone().ok());
            PolicySet::compile(documents.collect())
                .unwrap_or_else(|error| PolicySet::deny_all(error.to_string()))
        })
    }
}

impl Concerned {
    /// Nobody.
    #[must_use]
    pub fn nobody() -> Self {
        Self::Those { named: Vec::new(), callers_of: BTreeSet::new() }
    }

    /// And the proxies of `id`, and whoever calls it.
    pub(super) fn add_service(&mut self, id: &SpiffeId) {
        self.add(Some(Pattern::Exact(id.clone())));
        if let Self::Those { callers_of, .. } = self {
            callers_of.insert(id.clone());
        }
    }

    /// And the proxies of a scope.
    pub(super) fn add_scope(&mut self, scope: &Scope) {
        self.add(match scope {
            Scope::Everything => None,
            Scope::Of(pattern) => Some(pattern.clone()),
        });
    }

    /// And whom that concerns.
    pub(super) fn join(&mut self, other: Self) {
        match other {
            Self::Everyone => *self = Self::Everyone,
            Self::Those { named, callers_of: also } => {
                named.into_iter().for_each(|pattern| self.add(Some(pattern)));
                if let Self::Those { callers_of, .. } = self {
                    callers_of.extend(also);
                }
            }
        }
    }

    /// `None`: everybody.
    fn add(&mut self, who: Option<Pattern>) {
        match (&mut *self, who) {
            (Self::Everyone, _) => {}
            (_, None) => *self = Self::Everyone,
            (Self::Those { named, .. }, Some(pattern)) => {
                if !named.contains(&pattern) {
                    named.push(pattern);
                }
            }
        }
    }
}

impl Stored {
    /// A document that cannot be read is sent as it is to those it is for: they deny (invariant 1).
    fn read(policy: Policy) -> Self {
        let parsed = parse_json(&policy.document).map_err(|error| error.to_string());
        let whom = match &parsed {
            Ok(document) => Some(document.whom.clone()),
            Err(_) => policy.target.parse().ok(),
        };
        Self { name: policy.name, text: policy.document.into(), whom, parsed }
    }

    /// As readers of `schema` get it, if it says anything to them.
    fn in_schema(&self, schema: Schema) -> Option<Arc<str>> {
        match self.parsed.as_ref().map(|document| document.narrowed(schema)) {
            Ok(Narrowed::Changed(document)) => Some(document.to_json().into()),
            Ok(Narrowed::Nothing) => None,
            Ok(Narrowed::Same) | Err(_) => Some(Arc::clone(&self.text)),
        }
    }
}

impl Found {
    fn add(&mut self, pattern: Option<&Pattern>, number: usize) {
        let numbers = match pattern {
            None => &mut self.everyone,
            Some(Pattern::Exact(id)) => self.exact.entry(id.clone()).or_default(),
            Some(Pattern::Subtree(subtree)) => self.subtrees.entry(Arc::clone(subtree.prefix())).or_default(),
        };
        if numbers.last() != Some(&number) {
            numbers.push(number);
        }
    }

    /// Of everything that is about `id`, in order.
    fn of(&self, id: &SpiffeId) -> Vec<usize> {
        let around = ancestors(id).filter_map(|prefix| self.subtrees.get(prefix));
        let all = self.exact.get(id).into_iter().chain(around).chain([&self.everyone]);
        let mut numbers: Vec<_> = all.flatten().copied().collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::time;

    pub(crate) fn document(name: &str, target: &str, rule: &str) -> Policy {
        let document = format!(
            r#"{{"kind":"Policy","name":"{name}","target":"{target}","rules":[{{"name":"r",{rule}}}]}}"#
        );
        Policy {
            name: name.into(),
            target: target.into(),
            document,
            applied_at: time::from_millis(0),
            applied_by: "test".into(),
        }
    }

    fn section(policies: Vec<Policy>) -> PolicySection {
        PolicySection::default().next(policies).0
    }

    fn id(text: &str) -> SpiffeId {
        text.parse().unwrap()
    }

    const PATTERN: &str = "spiffe://td(/[ab]){0,2}/\\*|spiffe://td(/[ab]){1,3}";

    proptest! {
        #[test]
        fn documents_are_found_by_whom_they_protect_like_one_by_one(
            patterns in proptest::collection::vec((PATTERN, PATTERN, any::<bool>()), 0..12),
            who in "spiffe://td(/[ab]){1,4}",
        ) {
            let who = id(&who);
            let documents: Vec<_> = patterns.iter().enumerate().map(|(number, (target, from, anyone))| {
                let rule = if *anyone {
                    r#""allow":{}"#.to_owned()
                } else {
                    format!(r#""allow":{{"from":["{from}"]}}"#)
                };
                document(&format!("p{number}"), target, &rule)
            }).collect();
            let section = section(documents.clone());
            let matches = |pattern: &str| pattern.parse::<Pattern>().unwrap().matches(&who);
            let mut protecting: Vec<_> = documents.iter().zip(&patterns)
                .filter(|(_, (target, _, _))| matches(target))
                .map(|(policy, _)| policy.document.clone()).collect();
            protecting.sort();
            let mut found: Vec<_> = section.subset(&who, Schema::NEWEST).documents.iter().map(ToString::to_string).collect();
            found.sort();
            prop_assert_eq!(found, protecting);
        }

        #[test]
        fn who_is_not_concerned_has_the_same_as_before(
            before in proptest::collection::btree_map("[a-d]", (PATTERN, PATTERN), 0..4),
            after in proptest::collection::btree_map("[a-d]", (PATTERN, PATTERN), 0..4),
            who in proptest::collection::vec("spiffe://td(/[ab]){1,4}", 1..8),
        ) {
            let documents = |set: &BTreeMap<String, (String, String)>| set.iter().map(|(name, (target, from))| {
                document(name, target, &format!(r#""allow":{{"from":["{from}"]}}"#))
            }).collect::<Vec<_>>();
            let one = section(documents(&before));
            let (other, change) = one.next(documents(&after));
            let concerned = |concerned: &Concerned, id: &SpiffeId| match concerned {
                Concerned::Everyone => true,
                Concerned::Those { named, .. } => named.iter().any(|pattern| pattern.matches(id)),
            };
            for who in who.iter().map(|who| id(who)) {
                if !concerned(&change, &who) {
                    prop_assert_eq!(one.subset(&who, Schema::NEWEST).digest, other.subset(&who, Schema::NEWEST).digest);
                }
            }
            let fresh = section(documents(&after));
            for who in who.iter().map(|who| id(who)) {
                prop_assert_eq!(fresh.subset(&who, Schema::NEWEST).digest, other.subset(&who, Schema::NEWEST).digest);
            }
        }
    }

    #[test]
    fn what_is_unchanged_is_not_read_again_and_concerns_nobody() {
        let one = document("one", "spiffe://td/a", r#""allow":{}"#);
        let other = document("other", "spiffe://td/b", r#""deny":{}"#);
        let before = section(vec![one.clone()]);
        let (after, change) = before.next(vec![one, other]);
        assert!(Arc::ptr_eq(&before.documents[0], &after.documents[0]));
        let named = vec!["spiffe://td/b".parse().unwrap()];
        assert_eq!(change, Concerned::Those { named, callers_of: BTreeSet::new() });
        let subset = after.subset(&id("spiffe://td/a"), Schema::NEWEST);
        assert!(Arc::ptr_eq(&subset, &after.subset(&id("spiffe://td/a"), Schema::NEWEST)));
    }

    #[test]
    fn document_without_a_target_is_everyones_and_denies() {
        let broken = Policy { document: "{".into(), ..document("p", "?", "") };
        let section = section(vec![broken]);
        assert_eq!(section.subset(&id("spiffe://td/a"), Schema::NEWEST).documents.len(), 1);
        assert!(section.compiled().unreadable().is_some());
        let (_, change) = section.next(Vec::new());
        assert_eq!(change, Concerned::Everyone);
    }

    #[test]
    fn an_older_reader_gets_what_it_can_read_and_knows_by_its_own_digest() {
        let plain = document("plain", "spiffe://td/a", r#""allow":{"ports":[1]}"#);
        let newer = document("newer", "spiffe://td/a", r#""allow":{"cidrs":["10.0.0.0/8"]}"#);
        let egress = Policy {
            document: r#"{"kind":"Policy","name":"out","source":"spiffe://td/a","rules":[]}"#.into(),
            ..document("out", "spiffe://td/a", r#""allow":{}"#)
        };
        let section = section(vec![plain.clone(), newer, egress]);
        let subset = |schema| section.subset(&id("spiffe://td/a"), schema);
        let (older, newest) = (subset(Schema::First), subset(Schema::NEWEST));
        let narrowed = r#"{"kind":"Policy","name":"newer","target":"spiffe://td/a","rules":[]}"#;
        let texts: Vec<_> = older.documents.iter().map(|text| &**text).collect();
        assert_eq!(texts, [narrowed, &*plain.document]);
        assert_eq!(older.digest, digest::policies(texts));
        assert_eq!(newest.documents.len(), 3);
        assert_ne!(older.digest, newest.digest);
    }
}
