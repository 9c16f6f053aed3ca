//! The decision by scenario, and its properties against a reading of the documents one by one.

use super::super::document::{Document, Rule};
use super::super::testing::{Asked, PAYMENTS, at, documents, id, policy, requests, rules};
use super::*;
use proptest::prelude::*;

const CHECKOUT: &str = "spiffe://prod.example/checkout";

/// 2026-01-01.
fn today() -> SystemTime {
    at(1_767_225_600)
}

fn ask<'a>(source: &'a SpiffeId, destination: &'a SpiffeId, port: u16, layer: Layer<'a>) -> Request<'a> {
    Request {
        direction: Direction::Inbound,
        source: Some(source),
        destination,
        port: Some(port),
        address: None,
        layer,
        now: today(),
    }
}

/// What the example policy says to `source` on port 8080.
fn payments(source: &str, port: u16, layer: Layer<'_>) -> Verdict {
    policy(PAYMENTS).decide(&ask(&id(source), &id("spiffe://prod.example/payments"), port, layer))
}

fn http<'a>(method: &'a str, path: &'a str) -> Layer<'a> {
    Layer::Http(HttpRequest { method, path, host: Some("app"), grpc: false, headers: None })
}

#[track_caller]
fn assert_reason(verdict: &Verdict, reason: Reason) {
    assert_eq!(verdict.reason, reason);
    assert_eq!(verdict.allowed, matches!(reason, Reason::Allowed | Reason::Unrestricted));
}

#[test]
fn the_example_lets_checkout_charge() {
    let verdict = payments(CHECKOUT, 8080, http("POST", "/charge/7"));
    assert_reason(&verdict, Reason::Allowed);
    assert_eq!(
        (verdict.policy.as_deref(), verdict.rule.as_deref()),
        (Some("payments"), Some("checkout-charges"))
    );
}

#[test]
fn each_condition_of_the_example_is_needed() {
    for (source, port, layer) in [
        ("spiffe://prod.example/shop", 8080, http("POST", "/charge/7")),
        ("spiffe://other.example/checkout", 8080, http("POST", "/charge/7")),
        ("spiffe://prod.example/checkout/v2", 8080, http("POST", "/charge/7")),
        (CHECKOUT, 8081, http("POST", "/charge/7")),
        (CHECKOUT, 8080, http("GET", "/charge/7")),
        (CHECKOUT, 8080, http("post", "/charge/7")),
        (CHECKOUT, 8080, http("POST", "/charge")),
        (CHECKOUT, 8080, http("POST", "/chargex")),
        (CHECKOUT, 8080, http("POST", "/refund")),
        (CHECKOUT, 8080, http("POST", "/charge/../refund")),
        (CHECKOUT, 8080, http("POST", "/charge/%2e%2e/refund")),
        (CHECKOUT, 8080, http("POST", "/charge//x")),
        (CHECKOUT, 8080, Layer::Opaque),
    ] {
        let verdict = payments(source, port, layer);
        assert_reason(&verdict, Reason::NoRule);
        assert_eq!((verdict.policy.as_deref(), verdict.rule), (Some("payments"), None));
    }
}

#[test]
fn a_connection_is_allowed_while_some_request_may_be() {
    assert_reason(&payments(CHECKOUT, 8080, Layer::Connection), Reason::Allowed);
    assert_reason(&payments(CHECKOUT, 8081, Layer::Connection), Reason::NoRule);
    assert_reason(&payments("spiffe://prod.example/shop", 8080, Layer::Connection), Reason::NoRule);
    assert_reason(&payments("spiffe://prod.example/batch/a", 8080, Layer::Connection), Reason::DeniedByRule);
}

#[test]
fn no_identity_is_denied_before_anything_else() {
    let everything =
        policy("{kind: Policy, name: all, target: spiffe://td/*, rules: [{name: all, allow: {}}]}");
    let destination = id("spiffe://td/a");
    for set in [everything, PolicySet::empty(), PolicySet::deny_all("broken".into())] {
        let request = Request { source: None, ..ask(&destination, &destination, 1, Layer::Connection) };
        assert_reason(&set.decide(&request), Reason::NoIdentity);
    }
}

#[test]
fn without_a_document_for_the_destination_nobody_gets_in() {
    let (source, other) = (id(CHECKOUT), id("spiffe://prod.example/ledger"));
    let request = ask(&source, &other, 8080, Layer::Connection);
    assert_reason(&policy(PAYMENTS).decide(&request), Reason::NoPolicy);
    assert_reason(&PolicySet::empty().decide(&request), Reason::NoPolicy);
    assert_reason(&PolicySet::deny_all("line 3".into()).decide(&request), Reason::PolicyUnreadable);
}

#[test]
fn deny_wins_over_allow_in_any_order_and_document() {
    let text = r"
kind: Policy
name: a-wide
target: spiffe://td/*
rules: [{ name: everyone, allow: {} }]
---
kind: Policy
name: z-narrow
target: spiffe://td/db
rules: [{ name: not-batch, deny: { from: [spiffe://td/batch/*] } }]
";
    let (batch, shop, db) = (id("spiffe://td/batch/x"), id("spiffe://td/shop"), id("spiffe://td/db"));
    let verdict = policy(text).decide(&ask(&batch, &db, 1, Layer::Connection));
    assert_reason(&verdict, Reason::DeniedByRule);
    assert_eq!(verdict.policy.as_deref(), Some("z-narrow"));
    assert_reason(&policy(text).decide(&ask(&shop, &db, 1, Layer::Connection)), Reason::Allowed);
    assert_reason(&policy(text).decide(&ask(&batch, &shop, 1, Layer::Connection)), Reason::Allowed);
}

#[test]
fn a_deny_with_http_reads_doubt_as_a_match() {
    let text = r#"
kind: Policy
name: web
target: spiffe://td/web
rules:
  - { name: all, allow: {} }
  - { name: no-admin, deny: { http: { paths: ["/admin", "/admin/*"] } } }
"#;
    let (source, web) = (id("spiffe://td/a"), id("spiffe://td/web"));
    let decide = |layer| policy(text).decide(&ask(&source, &web, 1, layer)).reason;
    assert_eq!(decide(Layer::Connection), Reason::Allowed);
    assert_eq!(decide(http("GET", "/public")), Reason::Allowed);
    assert_eq!(decide(Layer::Opaque), Reason::DeniedByRule);
    for path in
        ["/admin", "/admin/", "/admin/x", "/%61dmin", "/x/../admin", "//admin", "/admin;x", "/a%2fb", "*", ""]
    {
        assert_eq!(decide(http("GET", path)), Reason::DeniedByRule, "{path}");
    }
}

#[test]
fn a_rule_ends_at_its_until() {
    let text = "{kind: Policy, name: p, target: spiffe://td/a, rules: [\
        {name: visit, allow: {from: [spiffe://td/b]}, until: '1970-01-01T00:01:40Z'},\
        {name: ban, deny: {from: [spiffe://td/c]}, until: '1970-01-01T00:01:40Z'},\
        {name: stay, allow: {from: [spiffe://td/c]}}]}";
    let set = policy(text);
    let (a, b, c) = (id("spiffe://td/a"), id("spiffe://td/b"), id("spiffe://td/c"));
    let decide = |source, now| set.decide(&Request { now, ..ask(source, &a, 1, Layer::Connection) });
    assert_reason(&decide(&b, at(99)), Reason::Allowed);
    assert_reason(&decide(&b, at(100)), Reason::ExpiredRule);
    assert_eq!(decide(&b, at(101)).rule.as_deref(), Some("visit"));
    assert_reason(&decide(&c, at(99)), Reason::DeniedByRule);
    assert_reason(&decide(&c, at(100)), Reason::Allowed);
    assert_eq!((set.next_change(at(99)), set.next_change(at(100))), (Some(at(100)), None));
}

#[test]
fn audit_rules_are_recorded_and_decide_nothing() {
    let text = "{kind: Policy, name: p, target: spiffe://td/a, rules: [\
        {name: would-allow, allow: {from: [spiffe://td/b]}, mode: audit},\
        {name: would-deny, deny: {}, mode: audit},\
        {name: allows, allow: {from: [spiffe://td/c]}}]}";
    let (a, b, c) = (id("spiffe://td/a"), id("spiffe://td/b"), id("spiffe://td/c"));
    let verdict = policy(text).decide(&ask(&b, &a, 1, Layer::Connection));
    assert_reason(&verdict, Reason::NoRule);
    let recorded: Vec<_> = verdict.audited.iter().map(|audited| (&*audited.rule, audited.effect)).collect();
    assert_eq!(recorded, [("would-allow", Effect::Allow), ("would-deny", Effect::Deny)]);
    let verdict = policy(text).decide(&ask(&c, &a, 1, Layer::Connection));
    assert_reason(&verdict, Reason::Allowed);
    assert_eq!(verdict.audited.len(), 1);
}

#[test]
fn reasons_have_names_of_their_own() {
    let names: std::collections::HashSet<_> = Reason::ALL.map(Reason::as_str).into();
    assert_eq!(names.len(), Reason::ALL.len());
    assert_eq!(Reason::DeniedByRule.to_string(), "denied_by_rule");
}

fn compiled(documents: &[Document]) -> PolicySet {
    PolicySet::compile(documents.to_vec()).unwrap()
}

/// What a decision must be, read from the documents one by one.
fn by_the_book(documents: &[Document], request: &Request<'_>) -> bool {
    let Some(source) = request.source else { return false };
    let (whom, peer) = match request.direction {
        Direction::Inbound => (request.destination, source),
        Direction::Egress => (source, request.destination),
    };
    let about = |document: &&Document| document.direction == request.direction && document.whom.matches(whom);
    let found: Vec<_> = documents.iter().filter(about).collect();
    let matching: Vec<_> =
        found.iter().flat_map(|d| &d.rules).filter(|rule| rule_by_the_book(rule, peer, request)).collect();
    let open = request.direction == Direction::Egress && found.is_empty();
    open || matching.iter().any(|rule| rule.effect == Effect::Allow)
        && matching.iter().all(|rule| rule.effect == Effect::Allow)
}

fn rule_by_the_book(rule: &Rule, peer: &SpiffeId, request: &Request<'_>) -> bool {
    let deny = rule.effect == Effect::Deny;
    let of_http = |asks: bool, found: &dyn Fn(&HttpRequest<'_>) -> bool| match request.layer {
        _ if !asks => true,
        Layer::Connection => !deny,
        Layer::Opaque => deny,
        Layer::Http(asked) => found(&asked),
    };
    let http = of_http(rule.http.is_some(), &|asked| {
        let Http { methods, paths, hosts, headers } = rule.http.as_ref().unwrap();
        let method =
            |known: &String| known == asked.method || deny && known.eq_ignore_ascii_case(asked.method);
        let path = |paths: &Vec<super::super::PathPattern>| match rule.effect {
            Effect::Allow => !is_ambiguous(asked.path) && paths.iter().any(|p| p.allows(asked.path)),
            Effect::Deny => is_ambiguous(asked.path) || paths.iter().any(|p| p.denies(asked.path)),
        };
        let host = |host: &super::super::HostPattern| match rule.effect {
            Effect::Allow => host.allows(asked.host),
            Effect::Deny => host.denies(asked.host),
        };
        let header = |header: &super::super::HeaderCondition| match rule.effect {
            Effect::Allow => header.allows(asked.headers),
            Effect::Deny => header.denies(asked.headers),
        };
        methods.as_ref().is_none_or(|methods| methods.iter().any(method))
            && paths.as_ref().is_none_or(path)
            && hosts.as_ref().is_none_or(|hosts| hosts.iter().any(host))
            && headers.iter().flatten().all(header)
    });
    let grpc = of_http(rule.grpc.is_some(), &|asked| {
        let Grpc { services, methods } = rule.grpc.as_ref().unwrap();
        let mut parts = asked.path.split('/').skip(1).collect::<Vec<_>>();
        if deny && parts.last() == Some(&"") {
            parts.pop();
        }
        let call = match parts.as_slice() {
            [service, method] if !service.is_empty() && !method.is_empty() => {
                services.as_ref().is_none_or(|services| services.iter().any(|s| s == service))
                    && methods.as_ref().is_none_or(|methods| methods.iter().any(|m| m == method))
            }
            _ => false,
        };
        if deny { is_ambiguous(asked.path) || call } else { asked.grpc && !is_ambiguous(asked.path) && call }
    });
    let inside = |cidrs: &Vec<ipnet::IpNet>| {
        let found = |address: IpAddr| cidrs.iter().any(|net| net.contains(&address.to_canonical()));
        request.address.map_or(deny, found)
    };
    http && grpc
        && rule.mode == Mode::Enforce
        && rule.until.is_none_or(|until| request.now < until)
        && rule.ports.as_ref().is_none_or(|ports| request.port.map_or(deny, |port| ports.contains(&port)))
        && rule.cidrs.as_ref().is_none_or(inside)
        && rule.peers.as_ref().is_none_or(|peers| peers.iter().any(|pattern| pattern.matches(peer)))
}

proptest! {
    #[test]
    fn decisions_are_by_the_book(documents in documents(), asking in requests()) {
        let request = asking.request();
        let verdict = compiled(&documents).decide(&request);
        prop_assert_eq!(verdict.allowed, by_the_book(&documents, &request));
        let allows = matches!(verdict.reason, Reason::Allowed | Reason::Unrestricted);
        prop_assert_eq!(verdict.allowed, allows);
    }

    #[test]
    fn removing_an_allow_never_widens_access(documents in documents(), asking in requests(), at in any::<prop::sample::Index>()) {
        let request = asking.request();
        let before = compiled(&documents).decide(&request).allowed;
        let allows: Vec<_> = documents.iter().enumerate()
            .flat_map(|(d, document)| document.rules.iter().enumerate().map(move |(r, rule)| (d, r, rule)))
            .filter(|(_, _, rule)| rule.effect == Effect::Allow)
            .map(|(d, r, _)| (d, r))
            .collect();
        if allows.is_empty() { return Ok(()); }
        let (document, rule) = *at.get(&allows);
        let mut fewer = documents;
        fewer[document].rules.remove(rule);
        prop_assert!(before || !compiled(&fewer).decide(&request).allowed);
    }

    #[test]
    fn removing_a_document_without_deny_never_widens_access(documents in documents(), asking in requests(), at in any::<prop::sample::Index>()) {
        // Who has no egress document left is not restricted.
        let request = Request { direction: Direction::Inbound, ..asking.request() };
        if documents.is_empty() { return Ok(()); }
        let mut documents = documents;
        let removed = at.index(documents.len());
        documents[removed].rules.iter_mut().for_each(|rule| rule.effect = Effect::Allow);
        let before = compiled(&documents).decide(&request).allowed;
        documents.remove(removed);
        prop_assert!(before || !compiled(&documents).decide(&request).allowed);
    }

    #[test]
    fn adding_a_deny_never_widens_access(documents in documents(), asking in requests(), rule in rules(), at in any::<prop::sample::Index>()) {
        let request = asking.request();
        if documents.is_empty() { return Ok(()); }
        let before = compiled(&documents).decide(&request).allowed;
        let mut more = documents;
        let document = at.index(more.len());
        let cidrs = rule.cidrs.filter(|_| more[document].direction == Direction::Inbound);
        more[document].rules.push(Rule { name: "added".into(), effect: Effect::Deny, cidrs, ..rule });
        prop_assert!(before || !compiled(&more).decide(&request).allowed);
    }

    #[test]
    fn an_audit_rule_never_changes_the_outcome(documents in documents(), asking in requests(), rule in rules(), at in any::<prop::sample::Index>()) {
        let request = asking.request();
        if documents.is_empty() { return Ok(()); }
        let before = compiled(&documents).decide(&request);
        let mut more = documents;
        let document = at.index(more.len());
        let cidrs = rule.cidrs.filter(|_| more[document].direction == Direction::Inbound);
        more[document].rules.push(Rule { name: "added".into(), mode: Mode::Audit, cidrs, ..rule });
        let after = compiled(&more).decide(&request);
        prop_assert_eq!(Verdict { audited: Vec::new(), ..after }, Verdict { audited: Vec::new(), ..before });
    }

    #[test]
    fn no_connection_is_denied_that_some_request_could_use(documents in documents(), asking in requests()) {
        let set = compiled(&documents);
        let request = asking.request();
        let connection = set.decide(&Request { layer: Layer::Connection, ..request });
        if set.decide(&request).allowed {
            prop_assert!(connection.allowed);
        }
        if matches!(asking.layer, Asked::Opaque) && connection.reason == Reason::DeniedByRule {
            prop_assert_eq!(set.decide(&request).reason, Reason::DeniedByRule);
        }
    }

    #[test]
    fn without_identity_nothing_is_allowed(documents in documents(), asking in requests()) {
        let request = Request { source: None, ..asking.request() };
        prop_assert_eq!(compiled(&documents).decide(&request).reason, Reason::NoIdentity);
    }

    #[test]
    fn decisions_change_by_themselves_only_when_announced(documents in documents(), asking in requests()) {
        let set = compiled(&documents);
        let request = asking.request();
        let next = set.next_change(request.now);
        prop_assert!(next.is_none_or(|next| next > request.now));
        let just_before = next.map_or(at(1_000), |next| next - std::time::Duration::from_nanos(1));
        let later = set.decide(&Request { now: just_before, ..request });
        prop_assert_eq!(later.allowed, set.decide(&request).allowed);
    }

    #[test]
    fn the_order_of_documents_does_not_matter(documents in documents(), asking in requests()) {
        let request = asking.request();
        let mut reversed = documents.clone();
        reversed.reverse();
        prop_assert_eq!(compiled(&documents).decide(&request), compiled(&reversed).decide(&request));
    }

    #[test]
    fn only_documents_that_concern_the_deciding_side_matter(documents in documents(), asking in requests()) {
        let request = asking.request();
        let Some(whom) = request.whom() else { return Ok(()) };
        let concerned: Vec<_> = documents.iter().filter(|d| PolicySet::concerns(d, whom)).cloned().collect();
        prop_assert_eq!(compiled(&documents).decide(&request), compiled(&concerned).decide(&request));
    }
}
