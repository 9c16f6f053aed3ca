//! Documents into the form that decides quickly.
//!
//! A decision looks only at the documents about the destination, or, for egress, about the source: one look-up
//! for the exact identity, and one for each `/` in its path. Within a rule, a caller is found by binary search. What
//! is not understood does not compile, and a set that could not be read at all denies everything.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;
use ipnet::IpNet;

use super::document::{
    Direction, Document, Effect, Grpc, Http, MAX_GRPC_NAMES, MAX_HEADERS, MAX_HOSTS, MAX_METHODS,
    MAX_NETWORKS, MAX_PATHS, MAX_PATTERNS, MAX_PORTS, MAX_RULES, Mode, Rule,
};
use super::header::{KeptHeaders, Wanted};
use super::pattern::{Pattern, ancestors};
use crate::spiffe::SpiffeId;

/// Most documents in one set.
pub const MAX_DOCUMENTS: usize = 4096;

/// All the policy that a decision is made with. Immutable; share it behind an `Arc`.
#[derive(Debug, Default)]
pub struct PolicySet {
    inbound: Side,
    egress: Side,
    /// The `until` of all rules that decide, sorted.
    changes: Vec<SystemTime>,
    headers: Wanted,
    /// As they were given, in the order of names.
    documents: Vec<Document>,
    unreadable: Option<Arc<str>>,
}

/// The documents of one direction.
#[derive(Debug, Default)]
struct Side {
    /// By the workload they are about; each list in the order of names.
    exact: HashMap<SpiffeId, Vec<Arc<CompiledDocument>>>,
    /// By the prefix of the subtree they are about; each list in the order of names.
    subtrees: HashMap<Arc<str>, Vec<Arc<CompiledDocument>>>,
    /// Whether any of them has a rule that looks at paths.
    sees_paths: bool,
}

#[derive(Debug)]
pub(super) struct CompiledDocument {
    pub(super) name: Arc<str>,
    pub(super) rules: Vec<CompiledRule>,
    /// Whether a rule looks at paths.
    pub(super) sees_paths: bool,
}

#[derive(Debug)]
pub(super) struct CompiledRule {
    pub(super) name: Arc<str>,
    pub(super) effect: Effect,
    pub(super) mode: Mode,
    pub(super) peers: Option<Identities>,
    pub(super) ports: Option<Vec<u16>>,
    pub(super) cidrs: Option<Vec<IpNet>>,
    pub(super) http: Option<Http>,
    pub(super) grpc: Option<Grpc>,
    pub(super) until: Option<SystemTime>,
}

/// Patterns, arranged for finding; both lists are sorted.
#[derive(Debug)]
pub(super) struct Identities {
    pub(super) exact: Vec<SpiffeId>,
    /// Prefixes of subtrees, each ending in a slash.
    pub(super) subtrees: Vec<Arc<str>>,
}

impl PolicySet {
    /// Compiles documents; their order does not matter.
    ///
    /// # Errors
    /// When a name is taken twice or a bound is exceeded, or a document made by a program breaks a rule
    /// of the language that the parsers enforce.
    pub fn compile(documents: Vec<Document>) -> Result<Self, CompileError> {
        if documents.len() > MAX_DOCUMENTS {
            return Err(CompileError::TooManyDocuments { count: documents.len() });
        }
        let mut documents = documents;
        documents.sort_by(|one, other| one.name.cmp(&other.name));
        if let Some([document, _]) = documents.array_windows().find(|[one, other]| one.name == other.name) {
            return Err(CompileError::DuplicateDocument { name: document.name.clone() });
        }
        let rules = || documents.iter().flat_map(|document| &document.rules);
        let https = rules().filter_map(|rule| rule.http.as_ref());
        let headers = Wanted::of(https.filter_map(|http| http.headers.as_ref()).flatten());
        let mut set = Self { documents: documents.clone(), headers, ..Self::default() };
        for document in documents {
            check(&document)?;
            set.add(document);
        }
        set.changes.sort_unstable();
        set.changes.dedup();
        Ok(set)
    }

    /// The policy without documents: denies everything, for `no_policy`.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// The policy of a reader that could not read it: denies everything, for `policy_unreadable`.
    #[must_use]
    pub fn deny_all(why: String) -> Self {
        Self { unreadable: Some(why.into()), ..Self::default() }
    }

    /// The documents, in the order of their names.
    #[must_use]
    pub fn documents(&self) -> &[Document] {
        &self.documents
    }

    /// How many documents there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.documents.len()
    }

    /// Whether there are no documents, so that everything is denied.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    /// Why everything is denied, when the policy could not be read.
    #[must_use]
    pub fn unreadable(&self) -> Option<&str> {
        self.unreadable.as_deref()
    }

    /// The next moment after `now` at which a decision may change by itself: the earliest `until` that
    /// is still to come.
    #[must_use]
    pub fn next_change(&self, now: SystemTime) -> Option<SystemTime> {
        self.changes.get(self.changes.partition_point(|&until| until <= now)).copied()
    }

    /// Whether `document` has a say in connections to or from `id`: whether a proxy beside it needs it.
    #[must_use]
    pub fn concerns(document: &Document, id: &SpiffeId) -> bool {
        document.whom.matches(id)
    }

    /// Whether `source` may call only whom its egress documents name, as there are some.
    #[must_use]
    pub fn restricts(&self, source: &SpiffeId) -> bool {
        self.unreadable.is_some() || self.about(Direction::Egress, source).next().is_some()
    }

    /// What later decisions about a request with these headers can go by, as this policy stands.
    #[must_use]
    pub fn keep(&self, headers: &HeaderMap) -> KeptHeaders {
        KeptHeaders::new(headers, &self.headers)
    }

    /// The headers of a request that was there before this policy, if all that it looks at were kept.
    #[must_use]
    pub fn known<'a>(&self, kept: &'a KeptHeaders) -> Option<&'a HeaderMap> {
        kept.known(&self.headers)
    }

    /// Whether a rule about `whom` looks at paths.
    pub(super) fn sees_paths(&self, direction: Direction, whom: &SpiffeId) -> bool {
        self.side(direction).sees_paths && self.about(direction, whom).any(|document| document.sees_paths)
    }

    /// The documents about `whom`: those for it alone, then the narrowest subtree first.
    pub(super) fn about(
        &self,
        direction: Direction,
        whom: &SpiffeId,
    ) -> impl Iterator<Item = &CompiledDocument> {
        let Side { exact, subtrees, .. } = self.side(direction);
        let around = ancestors(whom).rev().filter_map(|prefix| subtrees.get(prefix));
        exact.get(whom).into_iter().chain(around).flatten().map(Arc::as_ref)
    }

    fn side(&self, direction: Direction) -> &Side {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Egress => &self.egress,
        }
    }

    fn add(&mut self, document: Document) {
        let deciding = document.rules.iter().filter(|rule| rule.mode == Mode::Enforce);
        self.changes.extend(deciding.filter_map(|rule| rule.until));
        let sees_path =
            |rule: &Rule| rule.grpc.is_some() || rule.http.as_ref().is_some_and(|http| http.paths.is_some());
        let sees_paths = document.rules.iter().any(sees_path);
        let side = match document.direction {
            Direction::Inbound => &mut self.inbound,
            Direction::Egress => &mut self.egress,
        };
        side.sees_paths |= sees_paths;
        let compiled = Arc::new(CompiledDocument {
            name: document.name.into(),
            rules: document.rules.into_iter().map(CompiledRule::new).collect(),
            sees_paths,
        });
        match document.whom {
            Pattern::Exact(id) => side.exact.entry(id).or_default().push(compiled),
            Pattern::Subtree(subtree) => {
                side.subtrees.entry(Arc::clone(subtree.prefix())).or_default().push(compiled);
            }
        }
    }
}

impl CompiledRule {
    fn new(rule: Rule) -> Self {
        Self {
            name: rule.name.into(),
            effect: rule.effect,
            mode: rule.mode,
            peers: rule.peers.map(Identities::new),
            ports: rule.ports,
            cidrs: rule.cidrs,
            http: rule.http,
            grpc: rule.grpc,
            until: rule.until,
        }
    }
}

impl Identities {
    fn new(patterns: Vec<Pattern>) -> Self {
        let mut identities = Self { exact: Vec::new(), subtrees: Vec::new() };
        for pattern in patterns {
            match pattern {
                Pattern::Exact(id) => identities.exact.push(id),
                Pattern::Subtree(subtree) => identities.subtrees.push(Arc::clone(subtree.prefix())),
            }
        }
        identities.exact.sort_unstable();
        identities.subtrees.sort_unstable();
        identities
    }

    pub(super) fn contain(&self, id: &SpiffeId) -> bool {
        let below = |prefix: &str| self.subtrees.binary_search_by(|other| (**other).cmp(prefix)).is_ok();
        self.exact.binary_search(id).is_ok() || ancestors(id).any(below)
    }
}

/// What the parsers refuse is refused from programs too: an empty list that got here would never match,
/// and a deny rule that never matches opens something.
fn check(document: &Document) -> Result<(), CompileError> {
    let document_name = &document.name;
    let fail = |rule: &Rule, problem: &'static str| {
        let (document, rule) = (document_name.clone(), rule.name.clone());
        Err(CompileError::Rule { document, rule, problem })
    };
    if document.rules.len() > MAX_RULES {
        let (name, count) = (document_name.clone(), document.rules.len());
        return Err(CompileError::TooManyRules { name, count });
    }
    let mut names = HashSet::new();
    for rule in &document.rules {
        let (http, grpc) = (rule.http.as_ref(), rule.grpc.as_ref());
        let lists = [
            (rule.peers.as_ref().map(Vec::len), MAX_PATTERNS),
            (rule.ports.as_ref().map(Vec::len), MAX_PORTS),
            (rule.cidrs.as_ref().map(Vec::len), MAX_NETWORKS),
            (http.and_then(|http| http.methods.as_ref()).map(Vec::len), MAX_METHODS),
            (http.and_then(|http| http.paths.as_ref()).map(Vec::len), MAX_PATHS),
            (http.and_then(|http| http.hosts.as_ref()).map(Vec::len), MAX_HOSTS),
            (http.and_then(|http| http.headers.as_ref()).map(Vec::len), MAX_HEADERS),
            (grpc.and_then(|grpc| grpc.services.as_ref()).map(Vec::len), MAX_GRPC_NAMES),
            (grpc.and_then(|grpc| grpc.methods.as_ref()).map(Vec::len), MAX_GRPC_NAMES),
        ];
        if !names.insert(&rule.name) {
            return fail(rule, "has the name of an earlier rule of the document");
        }
        if lists.iter().any(|&(length, _)| length == Some(0)) {
            return fail(rule, "has an empty list of conditions: leave the condition out to mean any");
        }
        if lists.iter().any(|&(length, most)| length.is_some_and(|length| length > most)) {
            return fail(rule, "has more conditions than the policy language allows");
        }
        if document.direction == Direction::Egress && rule.cidrs.is_some() {
            return fail(rule, "has `cidrs`, which only documents with `target` have");
        }
        if http.is_some_and(Http::is_empty) || grpc.is_some_and(|grpc| *grpc == Grpc::default()) {
            return fail(rule, "has an `http` or `grpc` condition that asks for nothing");
        }
    }
    Ok(())
}

/// Why documents make no policy together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// Two documents with one name.
    #[error("two policy documents are named `{name}`: rename one of them")]
    DuplicateDocument {
        /// The name.
        name: String,
    },
    /// More than [`MAX_DOCUMENTS`].
    #[error("{count} policy documents, expected at most {MAX_DOCUMENTS}: merge some of them")]
    TooManyDocuments {
        /// Documents found.
        count: usize,
    },
    /// More than [`MAX_RULES`] in one document.
    #[error("policy `{name}` has {count} rules, expected at most {MAX_RULES}: split it")]
    TooManyRules {
        /// The document.
        name: String,
        /// Rules found.
        count: usize,
    },
    /// A rule that the language does not have.
    #[error("rule `{rule}` of policy `{document}` {problem}")]
    Rule {
        /// The document.
        document: String,
        /// The rule.
        rule: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse_yaml;
    use super::super::testing::{at, id, policy};
    use super::*;

    fn document(name: &str) -> Document {
        let text = format!(
            "{{kind: Policy, name: {name}, target: spiffe://td/a, rules: [{{name: r, allow: {{}}}}]}}"
        );
        parse_yaml("p.yaml", &text).unwrap().remove(0)
    }

    fn changed(change: impl FnOnce(&mut Rule)) -> Result<PolicySet, CompileError> {
        let mut document = document("p");
        change(&mut document.rules[0]);
        PolicySet::compile(vec![document])
    }

    #[test]
    fn names_are_unique_and_numbers_bounded() {
        assert_eq!(
            PolicySet::compile(vec![document("a"), document("b"), document("a")]).unwrap_err(),
            CompileError::DuplicateDocument { name: "a".into() }
        );
        let many = (0..=MAX_DOCUMENTS).map(|number| document(&format!("p{number}"))).collect::<Vec<_>>();
        assert_eq!(
            PolicySet::compile(many.clone()).unwrap_err(),
            CompileError::TooManyDocuments { count: MAX_DOCUMENTS + 1 }
        );
        assert_eq!(PolicySet::compile(many[1..].to_vec()).unwrap().len(), MAX_DOCUMENTS);
        let mut long = document("p");
        long.rules = vec![long.rules[0].clone(); MAX_RULES + 1];
        assert!(matches!(PolicySet::compile(vec![long]), Err(CompileError::TooManyRules { .. })));
    }

    #[test]
    fn programs_cannot_make_what_the_language_does_not_have() {
        let refused = |change: fn(&mut Rule)| {
            assert!(matches!(changed(change), Err(CompileError::Rule { .. })));
        };
        refused(|rule| rule.peers = Some(Vec::new()));
        refused(|rule| rule.ports = Some(Vec::new()));
        refused(|rule| rule.ports = Some(vec![1; MAX_PORTS + 1]));
        refused(|rule| rule.cidrs = Some(Vec::new()));
        refused(|rule| rule.http = Some(Http::default()));
        refused(|rule| rule.http = Some(Http { methods: Some(Vec::new()), ..Http::default() }));
        refused(|rule| rule.http = Some(Http { paths: Some(Vec::new()), ..Http::default() }));
        refused(|rule| rule.http = Some(Http { hosts: Some(Vec::new()), ..Http::default() }));
        refused(|rule| rule.http = Some(Http { headers: Some(Vec::new()), ..Http::default() }));
        refused(|rule| rule.grpc = Some(Grpc::default()));
        refused(|rule| rule.grpc = Some(Grpc { services: Some(Vec::new()), methods: None }));
        let mut twice = document("p");
        twice.rules.push(twice.rules[0].clone());
        assert!(matches!(PolicySet::compile(vec![twice]), Err(CompileError::Rule { .. })));
        assert!(changed(|_| ()).is_ok());
    }

    #[test]
    fn the_next_change_is_the_earliest_until_that_decides() {
        let rule = |name: &str, rest: &str| format!("{{name: {name}, {rest}}}");
        let set = policy(&format!(
            "{{kind: Policy, name: p, target: spiffe://td/a, rules: [{}, {}, {}, {}]}}",
            rule("a", "allow: {}, until: '1970-01-01T00:00:20Z'"),
            rule("b", "deny: {}, until: '1970-01-01T00:00:10Z'"),
            rule("c", "deny: {}, until: '1970-01-01T00:00:15Z', mode: audit"),
            rule("d", "allow: {}"),
        ));
        assert_eq!(set.next_change(at(0)), Some(at(10)));
        assert_eq!(set.next_change(at(10)), Some(at(20)));
        assert_eq!(set.next_change(at(20)), None);
        assert_eq!(PolicySet::empty().next_change(at(0)), None);
    }

    #[test]
    fn a_document_concerns_whom_it_protects() {
        let document = document("p");
        assert!(PolicySet::concerns(&document, &id("spiffe://td/a")));
        assert!(!PolicySet::concerns(&document, &id("spiffe://td/b")));
    }

    #[test]
    fn callers_are_found_among_many_patterns() {
        let patterns = (0..500).flat_map(|n| [format!("spiffe://td/w{n}"), format!("spiffe://td/g{n}/*")]);
        let identities = Identities::new(patterns.map(|text| text.parse().unwrap()).collect());
        for n in [0, 1, 42, 499] {
            assert!(identities.contain(&id(&format!("spiffe://td/w{n}"))));
            assert!(identities.contain(&id(&format!("spiffe://td/g{n}/a/b"))));
            assert!(!identities.contain(&id(&format!("spiffe://td/g{n}"))));
            assert!(!identities.contain(&id(&format!("spiffe://td/w{n}/a"))));
        }
        assert!(!identities.contain(&id("spiffe://td/w500")));
    }
}
