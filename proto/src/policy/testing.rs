//! Policies and strategies for the tests of this room.

use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::decide::{Layer, Request};
use super::document::{Document, Effect, Http, Mode, Rule};
use super::parse::parse_yaml;
use super::{PathPattern, Pattern, PolicySet};
use crate::spiffe::SpiffeId;

pub(super) fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

pub(super) fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

pub(super) fn policy(yaml: &str) -> PolicySet {
    PolicySet::compile(parse_yaml("policy.yaml", yaml).unwrap()).unwrap()
}

/// The example of the documentation.
pub(super) const PAYMENTS: &str = r#"
kind: Policy
name: payments
target: spiffe://prod.example/payments
rules:
  - name: checkout-charges
    allow:
      from: [spiffe://prod.example/checkout]
      ports: [8080]
      http: { methods: [POST], paths: ["/charge/*"] }
    until: 2027-01-31T00:00:00Z
    mode: enforce
  - name: no-batch
    deny: { from: ["spiffe://prod.example/batch/*"] }
"#;

/// A request that owns its parts.
#[derive(Debug, Clone)]
pub(super) struct Asking {
    pub(super) source: Option<SpiffeId>,
    pub(super) destination: SpiffeId,
    pub(super) port: u16,
    pub(super) layer: Asked,
    pub(super) now: SystemTime,
}

#[derive(Debug, Clone)]
pub(super) enum Asked {
    Connection,
    Opaque,
    Http(String, String),
}

impl Asking {
    pub(super) fn request(&self) -> Request<'_> {
        let layer = match &self.layer {
            Asked::Connection => Layer::Connection,
            Asked::Opaque => Layer::Opaque,
            Asked::Http(method, path) => Layer::Http { method, path },
        };
        let (source, destination) = (self.source.as_ref(), &self.destination);
        Request { source, destination, port: self.port, layer, now: self.now }
    }
}

/// Few enough names, ports and times that rules and requests meet often.
fn ids() -> impl Strategy<Value = SpiffeId> {
    "spiffe://(td|t)(/[ab]){1,3}".prop_map(|text| id(&text))
}

fn patterns() -> impl Strategy<Value = Pattern> {
    prop_oneof!["spiffe://(td|t)(/[ab]){1,2}", "spiffe://(td|t)(/[ab]){0,2}/\\*"]
        .prop_map(|text: String| text.parse().unwrap())
}

fn some<T: std::fmt::Debug>(items: impl Strategy<Value = T>) -> impl Strategy<Value = Option<Vec<T>>> {
    prop::option::of(prop::collection::vec(items, 1..3))
}

fn path_patterns() -> impl Strategy<Value = PathPattern> {
    "/([ab]/){0,2}[ab*]".prop_map(|text| text.parse().unwrap())
}

fn https() -> impl Strategy<Value = Http> {
    (some("GET|PUT"), some(path_patterns()))
        .prop_map(|(methods, paths)| Http { methods, paths })
        .prop_filter("one of the two", |http| http.methods.is_some() || http.paths.is_some())
}

pub(super) fn rules() -> impl Strategy<Value = Rule> {
    let effect = prop_oneof![Just(Effect::Allow), Just(Effect::Allow), Just(Effect::Deny)];
    let until = prop::option::weighted(0.3, (0u64..4).prop_map(at));
    let mode = prop_oneof![Just(Mode::Enforce), Just(Mode::Enforce), Just(Mode::Enforce), Just(Mode::Audit)];
    (effect, some(patterns()), some(1u16..4), prop::option::of(https()), until, mode).prop_map(
        |(effect, from, ports, http, until, mode)| Rule {
            name: String::new(),
            effect,
            from,
            ports,
            http,
            until,
            mode,
        },
    )
}

/// Documents with names of their own and rules with names of their own.
pub(super) fn documents() -> impl Strategy<Value = Vec<Document>> {
    let document = (patterns(), prop::collection::vec(rules(), 0..4));
    prop::collection::vec(document, 0..4).prop_map(|list| {
        let document = |(number, (target, rules)): (usize, (Pattern, Vec<Rule>))| {
            let named = |(number, rule)| Rule { name: format!("r{number}"), ..rule };
            Document {
                name: format!("d{number}"),
                target,
                rules: rules.into_iter().enumerate().map(named).collect(),
            }
        };
        list.into_iter().enumerate().map(document).collect()
    })
}

pub(super) fn requests() -> impl Strategy<Value = Asking> {
    let http = ("GET|PUT|get", "(/[ab]){0,3}/?|/a%2Fb|/a//b|/%61|/a;b").prop_map(|(m, p)| Asked::Http(m, p));
    let layer = prop_oneof![Just(Asked::Connection), Just(Asked::Opaque), http.clone(), http];
    (prop::option::weighted(0.9, ids()), ids(), 1u16..4, layer, (0u64..4).prop_map(at))
        .prop_map(|(source, destination, port, layer, now)| Asking { source, destination, port, layer, now })
}
