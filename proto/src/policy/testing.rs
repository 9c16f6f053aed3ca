//! Policies and strategies for the tests of this room.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use proptest::prelude::*;

use super::decide::{HttpRequest, Layer, Request};
use super::document::{Direction, Document, Effect, Grpc, Http, Mode, Rule};
use super::header::{HeaderCondition, HeaderTest};
use super::host::HostPattern;
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
    pub(super) direction: Direction,
    pub(super) source: Option<SpiffeId>,
    pub(super) destination: SpiffeId,
    pub(super) port: Option<u16>,
    pub(super) address: Option<IpAddr>,
    pub(super) layer: Asked,
    pub(super) now: SystemTime,
}

#[derive(Debug, Clone)]
pub(super) enum Asked {
    Connection,
    Opaque,
    Http { method: String, path: String, host: Option<String>, headers: Option<HeaderMap>, grpc: bool },
}

impl Asking {
    pub(super) fn request(&self) -> Request<'_> {
        let layer = match &self.layer {
            Asked::Connection => Layer::Connection,
            Asked::Opaque => Layer::Opaque,
            Asked::Http { method, path, host, headers, grpc } => Layer::Http(HttpRequest {
                method,
                path,
                host: host.as_deref(),
                grpc: *grpc,
                headers: headers.as_ref(),
            }),
        };
        Request {
            direction: self.direction,
            source: self.source.as_ref(),
            destination: &self.destination,
            port: self.port,
            address: self.address,
            layer,
            now: self.now,
        }
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

fn headers() -> impl Strategy<Value = HeaderCondition> {
    let values = || prop::collection::vec("[ab]{1,2}", 1..3);
    let test = prop_oneof![
        Just(HeaderTest::Present),
        values().prop_map(HeaderTest::Exact),
        values().prop_map(HeaderTest::Prefix),
    ];
    ("x-[ab]", test).prop_map(|(name, test)| HeaderCondition { name: name.parse().unwrap(), test })
}

fn hosts() -> impl Strategy<Value = HostPattern> {
    "(\\*\\.)?[ab](\\.[ab])?(:8)?".prop_map(|text| text.parse().unwrap())
}

fn https() -> impl Strategy<Value = Http> {
    (some("GET|POST"), some(path_patterns()), some(hosts()), some(headers()))
        .prop_map(|(methods, paths, hosts, headers)| Http { methods, paths, hosts, headers })
        .prop_filter("one of them", |http| !http.is_empty())
}

fn grpcs() -> impl Strategy<Value = Grpc> {
    (some("[ab]"), some("[ab]"))
        .prop_map(|(services, methods)| Grpc { services, methods })
        .prop_filter("one of the two", |grpc| *grpc != Grpc::default())
}

fn networks() -> impl Strategy<Value = IpNet> {
    prop::sample::select(vec!["10.0.0.0/8", "10.1.0.0/16", "10.1.0.1/32", "2001:db8::/32"])
        .prop_map(|text| text.parse().unwrap())
}

pub(super) fn rules() -> impl Strategy<Value = Rule> {
    let effect = prop_oneof![Just(Effect::Allow), Just(Effect::Allow), Just(Effect::Deny)];
    let until = prop::option::weighted(0.3, (0u64..4).prop_map(at));
    let mode = prop_oneof![Just(Mode::Enforce), Just(Mode::Enforce), Just(Mode::Enforce), Just(Mode::Audit)];
    let cidrs = prop::option::weighted(0.2, prop::collection::vec(networks(), 1..3));
    let grpc = prop::option::weighted(0.2, grpcs());
    (effect, some(patterns()), some(1u16..4), cidrs, prop::option::of(https()), grpc, until, mode).prop_map(
        |(effect, peers, ports, cidrs, http, grpc, until, mode)| Rule {
            name: String::new(),
            effect,
            peers,
            ports,
            cidrs,
            http,
            grpc,
            until,
            mode,
        },
    )
}

fn directions() -> impl Strategy<Value = Direction> {
    prop_oneof![Just(Direction::Inbound), Just(Direction::Inbound), Just(Direction::Egress)]
}

/// Documents with names of their own and rules with names of their own.
pub(super) fn documents() -> impl Strategy<Value = Vec<Document>> {
    let document = (directions(), patterns(), prop::collection::vec(rules(), 0..4));
    prop::collection::vec(document, 0..4).prop_map(|list| {
        let document = |(number, (direction, whom, rules)): (usize, (Direction, Pattern, Vec<Rule>))| {
            let named = |(number, rule): (usize, Rule)| Rule {
                name: format!("r{number}"),
                cidrs: rule.cidrs.filter(|_| direction == Direction::Inbound),
                ..rule
            };
            let rules = rules.into_iter().enumerate().map(named).collect();
            Document { name: format!("d{number}"), direction, whom, rules }
        };
        list.into_iter().enumerate().map(document).collect()
    })
}

fn header_maps() -> impl Strategy<Value = HeaderMap> {
    prop::collection::vec(("x[-_][ab]", "[abA]{1,2}(, b)?"), 0..3).prop_map(|fields| {
        let field = |(name, value): (String, String)| {
            (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap())
        };
        fields.into_iter().map(field).collect()
    })
}

pub(super) fn requests() -> impl Strategy<Value = Asking> {
    let host = prop::option::weighted(0.9, "[aA](\\.b)?\\.?(:8)?|a\\.\\.b|");
    let http = (
        "GET|POST|get",
        "(/[ab]){0,3}/?|/a%2Fb|/a//b|/%61|/a;b",
        host,
        prop::option::weighted(0.9, header_maps()),
        any::<bool>(),
    )
        .prop_map(|(method, path, host, headers, grpc)| Asked::Http {
            method,
            path,
            host,
            headers,
            grpc,
        });
    let layer = prop_oneof![1 => Just(Asked::Connection), 1 => Just(Asked::Opaque), 2 => http];
    let addresses = vec!["10.1.0.1", "10.2.0.1", "::ffff:10.1.0.1", "2001:db8::1", "192.0.2.1"];
    let address = prop::option::of(prop::sample::select(addresses).prop_map(|text| text.parse().unwrap()));
    let source = prop::option::weighted(0.9, ids());
    (
        directions(),
        source,
        ids(),
        prop::option::weighted(0.9, 1u16..4),
        address,
        layer,
        (0u64..4).prop_map(at),
    )
        .prop_map(|(direction, source, destination, port, address, layer, now)| Asking {
            direction,
            source,
            destination,
            port,
            address,
            layer,
            now,
        })
}
