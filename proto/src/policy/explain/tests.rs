//! What people read.

use super::super::decide::HttpRequest;
use super::super::testing::{PAYMENTS, at, documents, id, policy, requests};
use super::*;
use proptest::prelude::*;

const POST: Layer<'_> = http("POST", "/charge/7");

const fn http<'a>(method: &'a str, path: &'a str) -> Layer<'a> {
    Layer::Http(HttpRequest { method, path, host: Some("app"), grpc: false, headers: None })
}

fn ask<'a>(
    source: Option<&'a SpiffeId>,
    destination: &'a SpiffeId,
    port: u16,
    layer: Layer<'a>,
) -> Request<'a> {
    let (direction, port) = (Direction::Inbound, Some(port));
    Request { direction, source, destination, port, address: None, layer, now: at(0) }
}

fn explain(set: &PolicySet, source: Option<&str>, port: u16, layer: Layer<'_>, now: SystemTime) -> String {
    let (source, destination) = (source.map(id), id("spiffe://prod.example/payments"));
    let request = Request { now, ..ask(source.as_ref(), &destination, port, layer) };
    set.explain(&request).to_string()
}

#[test]
fn each_reason_has_its_sentence() {
    let set = policy(PAYMENTS);
    let now = at(1_767_225_600);
    let checkout = Some("spiffe://prod.example/checkout");
    let cases = [
        (
            explain(&set, checkout, 8080, POST, now),
            "Allowed: rule `checkout-charges` of policy `payments` lets spiffe://prod.example/checkout reach \
             spiffe://prod.example/payments on port 8080 with POST \"/charge/7\".",
        ),
        (
            explain(&set, Some("spiffe://prod.example/batch/a"), 8080, Layer::Connection, now),
            "Denied: rule `no-batch` of policy `payments` does not let spiffe://prod.example/batch/a reach \
             spiffe://prod.example/payments on port 8080.",
        ),
        (
            explain(&set, None, 8080, Layer::Connection, now),
            "Denied: the peer presented no identity; spiffe://prod.example/payments is reached with one only.",
        ),
        (
            explain(&set, checkout, 8081, POST, now),
            "Denied: no rule lets spiffe://prod.example/checkout reach spiffe://prod.example/payments on port 8081 \
             with POST \"/charge/7\"; the nearest, rule `checkout-charges` of policy `payments`, wants port 8080, \
             not 8081.",
        ),
        (
            explain(&set, checkout, 8080, POST, at(1_900_000_000)),
            "Denied: rule `checkout-charges` of policy `payments` let spiffe://prod.example/checkout reach \
             spiffe://prod.example/payments on port 8080 with POST \"/charge/7\", but it ended at \
             2027-01-31T00:00:00Z.",
        ),
        (
            explain(&PolicySet::empty(), checkout, 8080, POST, now),
            "Denied: no policy document has the target spiffe://prod.example/payments or a subtree around it, so \
             nobody may reach it.",
        ),
        (
            explain(&PolicySet::deny_all("p.yaml:1:2: no\nsense".into()), checkout, 8080, POST, now),
            "Denied: the policy could not be read: p.yaml:1:2: no\\nsense.",
        ),
    ];
    for (found, expected) in cases {
        assert_eq!(found, expected);
    }
}

#[test]
fn the_nearest_miss_says_everything_it_wants() {
    let set = policy(PAYMENTS);
    let now = at(1_767_225_600);
    let miss = |source, port, layer| {
        let text = explain(&set, Some(source), port, layer, now);
        text.split_once(", wants ").unwrap().1.to_owned()
    };
    let checkout = "spiffe://prod.example/checkout";
    assert_eq!(miss("spiffe://prod.example/shop", 8080, POST), "the caller spiffe://prod.example/checkout.");
    assert_eq!(miss(checkout, 8080, Layer::Opaque), "HTTP, not other bytes.");
    assert_eq!(miss(checkout, 8080, http("GET", "/charge/7")), "method POST, not GET.");
    assert_eq!(miss(checkout, 8080, http("POST", "/a")), "path /charge/*, not \"/a\".");
    assert_eq!(
        miss(checkout, 8080, http("POST", "/charge/a;b")),
        "a path that every app reads alike, not \"/charge/a;b\"."
    );
    assert_eq!(
        miss("spiffe://prod.example/shop", 80, Layer::Opaque),
        "port 8080, not 80, and HTTP, not other bytes, and the caller spiffe://prod.example/checkout."
    );
}

#[test]
fn the_nearest_rule_is_the_one_that_knows_the_caller() {
    let set = policy(
        "{kind: Policy, name: p, target: spiffe://td/a, rules: [\
         {name: others, allow: {from: [spiffe://td/x], ports: [1]}},\
         {name: mine, allow: {from: [spiffe://td/b], ports: [2, 3, 4, 5, 6, 7]}}]}",
    );
    let (source, destination) = (id("spiffe://td/b"), id("spiffe://td/a"));
    let request = ask(Some(&source), &destination, 1, Layer::Opaque);
    let text = set.explain(&request).to_string();
    assert!(text.ends_with("rule `mine` of policy `p`, wants port 2, 3, 4, 5 or 2 more, not 1."), "{text}");
}

#[test]
fn a_nearest_miss_in_another_document_still_names_the_one_in_the_verdict() {
    let set = policy(
        "{kind: Policy, name: narrow, target: spiffe://td/b/*, rules: []}\n---\n\
         {kind: Policy, name: wide, target: spiffe://td/*, rules: [{name: r, allow: {ports: [1]}}]}",
    );
    let (source, destination) = (id("spiffe://td/a"), id("spiffe://td/b/a"));
    let layer = Layer::Connection;
    let request = ask(Some(&source), &destination, 2, layer);
    let explanation = set.explain(&request);
    assert_eq!(explanation.verdict.policy.as_deref(), Some("narrow"));
    assert_eq!(
        explanation.to_string(),
        "Denied: no rule lets spiffe://td/a reach spiffe://td/b/a on port 2; the nearest, rule `r` of policy \
         `wide`, wants port 1, not 2; policy `narrow` protects it too."
    );
}

#[test]
fn doubt_and_audit_are_told() {
    let set = policy(
        "{kind: Policy, name: p, target: spiffe://td/a, rules: [{name: all, allow: {}, mode: audit},\
         {name: no-admin, deny: {http: {paths: [/admin]}}}]}",
    );
    let (source, destination) = (id("spiffe://td/b"), id("spiffe://td/a"));
    let explain = |layer| {
        let request = ask(Some(&source), &destination, 1, layer);
        set.explain(&request).to_string()
    };
    let text = explain(Layer::Opaque);
    assert!(
        text.contains("bytes that are not HTTP may be anything. Rule `all` of policy `p` is in audit mode")
    );
    let text = explain(http("GET", "/x;\r\n"));
    assert!(
        text.contains("\"/x;\\r\\n\": it has paths, and an app may read this path as another one."),
        "{text}"
    );
    let text = explain(http("GET", "/x"));
    assert!(text.contains("policy `p` has no rule that could."), "{text}");
}

proptest! {
    #[test]
    fn decide_and_explain_agree(documents in documents(), asking in requests()) {
        let set = PolicySet::compile(documents).unwrap();
        let request = asking.request();
        let explanation = set.explain(&request);
        prop_assert_eq!(&explanation.verdict, &set.decide(&request));
        let text = explanation.to_string();
        prop_assert_eq!(text.starts_with("Allowed: "), explanation.verdict.allowed);
        prop_assert!(text.ends_with('.') && !text.contains("wants .") && !text.contains("  "), "{}", text);
        for name in [&explanation.verdict.policy, &explanation.verdict.rule].into_iter().flatten() {
            prop_assert!(text.contains(&format!("`{name}`")), "{}", text);
        }
    }
}
