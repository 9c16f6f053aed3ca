//! An older reader never opens up, and never refuses what it is sent.

use std::time::SystemTime;

use proptest::prelude::*;

use super::super::testing::{documents, requests};
use super::super::{PolicySet, parse_json, parse_yaml};
use super::*;

/// A reader of the first schema, written for this test alone: strict, as that one is.
mod first {
    #![allow(dead_code, reason = "that it reads is all that counts")]

    use serde::Deserialize;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Document {
        kind: String,
        name: String,
        target: String,
        rules: Vec<Rule>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Rule {
        name: String,
        allow: Option<Conditions>,
        deny: Option<Conditions>,
        until: Option<String>,
        mode: Option<String>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Conditions {
        from: Option<Vec<String>>,
        ports: Option<Vec<u16>>,
        http: Option<Http>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Http {
        methods: Option<Vec<String>>,
        paths: Option<Vec<String>>,
    }

    pub(super) fn read(json: &str) -> Result<(), String> {
        let document: Document = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let empty = |rule: &Rule| {
            let conditions = rule.allow.as_ref().xor(rule.deny.as_ref());
            let http = conditions.and_then(|conditions| conditions.http.as_ref());
            conditions.is_none() || http.is_some_and(|http| http.methods.is_none() && http.paths.is_none())
        };
        if document.rules.iter().any(empty) { Err("a rule that says nothing".into()) } else { Ok(()) }
    }
}

fn for_the_first(document: &Document) -> Option<Document> {
    match document.narrowed(Schema::First) {
        Narrowed::Same => Some(document.clone()),
        Narrowed::Changed(narrowed) => Some(narrowed),
        Narrowed::Nothing => None,
    }
}

/// Documents of this version, and what a proxy of the one before is sent for them.
const GOLDEN: [(&str, &str); 3] = [
    (
        include_str!("../../../golden/narrowed/allow.yaml"),
        include_str!("../../../golden/narrowed/allow.json"),
    ),
    (include_str!("../../../golden/narrowed/deny.yaml"), include_str!("../../../golden/narrowed/deny.json")),
    (include_str!("../../../golden/narrowed/egress.yaml"), ""),
];

#[test]
fn an_older_proxy_is_sent_what_the_golden_files_say() {
    for (yaml, golden) in GOLDEN {
        let document = parse_yaml("golden.yaml", yaml).unwrap().remove(0);
        let narrowed = for_the_first(&document).map(|narrowed| narrowed.to_json()).unwrap_or_default();
        assert_eq!(narrowed, golden.trim_end(), "{yaml}");
        assert_eq!(document.narrowed(Schema::NEWEST), Narrowed::Same);
    }
}

/// As the version before wrote them.
const FIRST_SCHEMA: &str = include_str!("../../../golden/schema-1.jsonl");

#[test]
fn documents_of_the_older_schema_are_read_and_written_as_they_were() {
    for json in FIRST_SCHEMA.lines() {
        first::read(json).unwrap();
        let document = parse_json(json).unwrap();
        assert_eq!(document.narrowed(Schema::First), Narrowed::Same);
        assert_eq!(document.to_json(), json, "what is told again after an upgrade is the same");
    }
    assert!(FIRST_SCHEMA.lines().count() > 5);
}

#[test]
fn a_proxy_that_says_nothing_reads_the_first_schema() {
    assert_eq!(Schema::of_number(0), Schema::First);
    assert_eq!(Schema::of_number(1), Schema::First);
    assert_eq!(Schema::of_number(Schema::NEWEST.number()), Schema::NEWEST);
    assert_eq!(Schema::of_number(99), Schema::NEWEST, "one from the future is sent all that there is");
}

proptest! {
    #[test]
    fn an_older_reader_reads_all_that_it_is_sent(documents in documents()) {
        for narrowed in documents.iter().filter_map(for_the_first) {
            prop_assert_eq!(first::read(&narrowed.to_json()), Ok(()), "{}", narrowed.to_json());
            prop_assert!(parse_json(&narrowed.to_json()).is_ok());
        }
    }

    #[test]
    fn an_older_reader_never_opens_up(documents in documents(), asking in requests()) {
        let request = asking.request();
        let older: Vec<_> = documents.iter().filter_map(for_the_first).collect();
        let newer = PolicySet::compile(documents.clone()).unwrap().decide(&request);
        let older = PolicySet::compile(older).unwrap().decide(&request);
        // What no older proxy can do is to restrict its own app.
        if request.direction == Direction::Inbound && older.allowed {
            prop_assert!(newer.allowed, "{:?}", documents);
        }
    }

    #[test]
    fn an_older_reader_stops_no_connection_for_a_condition_on_requests(documents in documents(), asking in requests()) {
        let mut documents = documents;
        let requests_only = |rule: &mut Rule| {
            rule.cidrs = None;
            rule.http.is_some() || rule.grpc.is_some()
        };
        for document in &mut documents {
            document.rules.retain_mut(|rule| rule.effect == Effect::Deny && requests_only(rule));
        }
        let older: Vec<_> = documents.iter().filter_map(for_the_first).collect();
        let request = super::super::Request {
            layer: super::super::Layer::Connection,
            now: SystemTime::UNIX_EPOCH,
            ..asking.request()
        };
        let verdict = PolicySet::compile(older).unwrap().decide(&request);
        prop_assert_ne!(verdict.reason, super::super::Reason::DeniedByRule);
    }
}
