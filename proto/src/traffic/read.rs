//! A tree into a service: the schema of `kind: Service`.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use jiff::SignedDuration;

use super::KIND;
use super::document::{Budget, Condition, Leg, Limits, Rate, Retries, Service, Timeouts};
use crate::document::{Node, ParseError, Place};

const WHAT: &str = "a service document";
const FIELDS: [&str; 7] = ["kind", "id", "split", "retries", "timeouts", "limits", "rate"];
const MAX_LEGS: usize = 16;
const MAX_WEIGHT: u32 = 1_000_000;
const MAX_ATTEMPTS: u32 = 5;
const MAX_CONDITIONS: usize = 16;
const MAX_METHODS: usize = 16;
const MAX_COUNT: u32 = 1_000_000;
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Reads one document; `file` is for messages only.
///
/// # Errors
/// The first thing that is not a service's.
pub fn parse_node(file: &str, node: &Node) -> Result<Service, ParseError> {
    let place = Place::new(file, node);
    place.kind(WHAT, &[KIND])?;
    let fields = place.fields(WHAT, &FIELDS)?;
    fields.required("kind")?;
    let service = Service {
        id: fields.required("id")?.parsed("a SPIFFE ID")?,
        split: fields.optional("split").map(|place| split(&place)).transpose()?.unwrap_or_default(),
        retries: fields.optional("retries").map(|place| retries(&place)).transpose()?,
        timeouts: fields.optional("timeouts").map(|place| timeouts(&place)).transpose()?,
        limits: fields.optional("limits").map(|place| limits(&place)).transpose()?,
        rate: fields.optional("rate").map(|place| rate(&place)).transpose()?,
    };
    let Service { split, retries, timeouts, limits, rate, .. } = &service;
    if split.is_empty() && retries.is_none() && timeouts.is_none() && limits.is_none() && rate.is_none() {
        return Err(place.fail("expected `split`, `retries`, `timeouts`, `limits`, `rate`, or some of them"));
    }
    Ok(service)
}

fn split(place: &Place<'_>) -> Result<Vec<Leg>, ParseError> {
    const EXPECTED: &str = "a list of mappings with `to` and `weight`";
    let mut legs: Vec<Leg> = Vec::new();
    for item in place.items(EXPECTED, MAX_LEGS)? {
        let fields =
            item.fields("a mapping with `to`, `weight`, and `port` if needed", &["to", "port", "weight"])?;
        let to = fields.required("to")?;
        let port = fields.optional("port").map(|place| {
            let port = place.number().and_then(|text| text.parse().ok());
            port.ok_or_else(|| place.expected("a port, a whole number from 1 to 65535"))
        });
        let leg = Leg {
            to: to.parsed("a SPIFFE ID")?,
            port: port.transpose()?,
            weight: whole(&fields.required("weight")?, 0..=MAX_WEIGHT)?,
        };
        if legs.iter().any(|other| (&other.to, other.port) == (&leg.to, leg.port)) {
            return Err(to.fail(format!("`{}` is there twice: add up its weights", leg.to)));
        }
        legs.push(leg);
    }
    if legs.iter().all(|leg| leg.weight == 0) {
        return Err(place.fail("expected a weight above 0: without, calls go nowhere"));
    }
    Ok(legs)
}

fn retries(place: &Place<'_>) -> Result<Retries, ParseError> {
    let keys = ["attempts", "on", "methods", "budget"];
    let fields =
        place.fields("a mapping with `attempts`, `on`, `methods`, `budget`, or some of them", &keys)?;
    let usual = Retries::default();
    let attempts = fields.optional("attempts").map(|place| whole(&place, 1..=MAX_ATTEMPTS)).transpose()?;
    let on = fields.list("on", "a list of conditions", MAX_CONDITIONS, condition)?;
    let methods = fields.list("methods", "a list of methods", MAX_METHODS, method)?;
    let budget = fields.optional("budget").map(|place| budget(&place)).transpose()?;
    let retries = Retries {
        attempts: attempts.unwrap_or(usual.attempts),
        on: on.map_or(usual.on, BTreeSet::from_iter),
        methods: methods.map_or(usual.methods, BTreeSet::from_iter),
        budget: budget.unwrap_or_default(),
    };
    if retries.on.contains(&Condition::Unavailable) && !retries.allows("POST") {
        let told = |place: &Place<'_>| {
            place.fail("expected `POST` among the methods: calls of gRPC, which are `unavailable`, are that")
        };
        return Err(fields.optional("methods").map_or_else(|| told(place), |methods| told(&methods)));
    }
    Ok(retries)
}

fn condition(place: &Place<'_>) -> Result<Condition, ParseError> {
    const EXPECTED: &str = "`connect`, `reset`, `timeout`, `unavailable`, or a status: 429, or 500 to 599";
    let text = place.number().map_or_else(|| place.text(EXPECTED), Ok)?;
    text.parse().map_err(|()| place.expected(EXPECTED))
}

fn method(place: &Place<'_>) -> Result<String, ParseError> {
    const EXPECTED: &str = "a method in capitals, such as `GET`";
    let text = place.text(EXPECTED)?;
    let valid =
        (1..=32).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
    if valid { Ok(text.to_owned()) } else { Err(place.expected(EXPECTED)) }
}

fn budget(place: &Place<'_>) -> Result<Budget, ParseError> {
    let fields = place.fields("a mapping with `percent`, `perSecond`, or both", &["percent", "perSecond"])?;
    let usual = Budget::default();
    let percent = fields.optional("percent").map(|place| whole(&place, 0..=100)).transpose()?;
    let per_second = fields.optional("perSecond").map(|place| whole(&place, 0..=MAX_COUNT)).transpose()?;
    Ok(Budget {
        percent: percent.unwrap_or(usual.percent),
        per_second: per_second.unwrap_or(usual.per_second),
    })
}

fn timeouts(place: &Place<'_>) -> Result<Timeouts, ParseError> {
    let keys = ["connect", "firstByte", "idle"];
    let fields = place.fields("a mapping with `connect`, `firstByte`, `idle`, or some of them", &keys)?;
    let span = |key| fields.optional(key).map(|place| duration(&place)).transpose();
    Ok(Timeouts { connect: span("connect")?, first_byte: span("firstByte")?, idle: span("idle")? })
}

fn limits(place: &Place<'_>) -> Result<Limits, ParseError> {
    let fields = place.fields(
        "a mapping with `requests`, and `queue` and `wait` if needed",
        &["requests", "queue", "wait"],
    )?;
    let requests = whole(&fields.required("requests")?, 1..=MAX_COUNT)?;
    let queue = fields.optional("queue").map(|place| whole(&place, 0..=MAX_COUNT)).transpose()?;
    let wait = fields.optional("wait").map(|place| duration(&place)).transpose()?;
    // A short queue evens out bursts; a long one only makes everybody late.
    let queue = queue.unwrap_or_else(|| requests.div_ceil(4));
    Ok(Limits { requests, queue, wait: wait.unwrap_or(Duration::from_millis(500)) })
}

fn rate(place: &Place<'_>) -> Result<Rate, ParseError> {
    let fields = place.fields(
        "a mapping with `requests`, and `per` and `burst` if needed",
        &["requests", "per", "burst"],
    )?;
    let requests = whole(&fields.required("requests")?, 1..=MAX_COUNT)?;
    let per = fields.optional("per").map(|place| duration(&place)).transpose()?;
    let burst = fields.optional("burst").map(|place| whole(&place, 1..=MAX_COUNT)).transpose()?;
    Ok(Rate { requests, per: per.unwrap_or(Duration::from_secs(1)), burst: burst.unwrap_or(requests) })
}

fn whole(place: &Place<'_>, range: RangeInclusive<u32>) -> Result<u32, ParseError> {
    let number = place.number().and_then(|text| text.parse().ok()).filter(|number| range.contains(number));
    number.ok_or_else(|| place.expected(&format!("a whole number from {} to {}", range.start(), range.end())))
}

/// In whole milliseconds, the finest step there is.
fn duration(place: &Place<'_>) -> Result<Duration, ParseError> {
    const EXPECTED: &str = "a duration from `1ms` to `24h`, such as `500ms`, `10s` or `5m`";
    let span =
        place.text(EXPECTED)?.parse::<SignedDuration>().ok().and_then(|span| Duration::try_from(span).ok());
    let fits = |span: &Duration| {
        !span.is_zero() && *span <= LONGEST && span.subsec_nanos().is_multiple_of(1_000_000)
    };
    span.filter(fits).ok_or_else(|| place.expected(EXPECTED))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::parse_json;
    use super::*;
    use crate::document::{Limits as Bounds, from_yaml};

    const PAYMENTS: &str = "\
kind: Service
id: spiffe://prod.example/payments
split:
  - { to: spiffe://prod.example/payments, weight: 95 }
  - { to: spiffe://prod.example/payments-canary, port: 8081, weight: 5 }
retries: { attempts: 2, on: [connect, timeout, 503], methods: [GET, POST], budget: { percent: 10 } }
timeouts: { connect: 1s, firstByte: 1500ms, idle: 5m }
limits: { requests: 200, wait: 100ms }
rate: { requests: 100, burst: 300 }
";

    fn parse(text: &str) -> Result<Service, ParseError> {
        let nodes = from_yaml("s.yaml", text, Bounds { bytes: 10_000, documents: 1 })?;
        let none = || ParseError::somewhere("s.yaml", "no document");
        parse_node("s.yaml", nodes.first().ok_or_else(none)?)
    }

    fn with(line: &str) -> String {
        format!("kind: Service\nid: spiffe://td/s\n{line}\n")
    }

    #[test]
    fn the_example_reads_as_documented_and_the_same_from_its_json() {
        let service = parse(PAYMENTS).unwrap();
        assert_eq!(service.split.iter().map(|leg| leg.weight).collect::<Vec<_>>(), [95, 5]);
        assert_eq!(service.split[1].port.unwrap().get(), 8081);
        let retries = service.retries.as_ref().unwrap();
        assert!(retries.allows("POST") && !retries.allows("PUT") && !retries.on.contains(&Condition::Reset));
        assert_eq!((retries.attempts, retries.budget), (2, Budget { percent: 10, per_second: 10 }));
        let timeouts = service.timeouts.unwrap();
        assert_eq!(timeouts.first_byte, Some(Duration::from_millis(1500)));
        assert_eq!(service.limits.unwrap().queue, 50);
        let rate = Rate { requests: 100, per: Duration::from_secs(1), burst: 300 };
        assert_eq!(service.rate, Some(rate));
        assert_eq!(parse_json(&service.to_json()).unwrap(), service);
    }

    #[test]
    fn errors_name_place_key_expected_and_found() {
        for (line, message) in [
            ("", "s.yaml:1:1: expected `split`, `retries`, `timeouts`, `limits`, `rate`, or some of them"),
            ("colour: red", "s.yaml:3:1: unknown field `colour`, expected one of `kind`, `id`, `split`"),
            ("split: []", "s.yaml:3:8: split: expected a weight above 0"),
            (
                "split: [{ to: spiffe://td/a, weight: -1 }]",
                "s.yaml:3:38: split[0].weight: expected a whole number from 0 to 1000000, found the number -1",
            ),
            (
                "split: [{ to: spiffe://td/a, weight: 1 }, { to: spiffe://td/a, weight: 2 }]",
                "split[1].to: `spiffe://td/a` is there twice",
            ),
            ("retries: { attempts: 9 }", "retries.attempts: expected a whole number from 1 to 5"),
            (
                "retries: { on: [404] }",
                "retries.on[0]: expected `connect`, `reset`, `timeout`, `unavailable`, or a status",
            ),
            ("retries: { on: [unavailable] }", "s.yaml:3:10: retries: expected `POST` among the methods"),
            (
                "retries: { on: [unavailable], methods: [GET] }",
                "s.yaml:3:40: retries.methods: expected `POST` among the methods",
            ),
            ("retries: { methods: [get] }", "retries.methods[0]: expected a method in capitals"),
            ("timeouts: { connect: 0s }", "timeouts.connect: expected a duration from `1ms` to `24h`"),
            ("timeouts: { connect: 1 }", "timeouts.connect: expected a duration from `1ms` to `24h`"),
            ("limits: { queue: 1 }", "limits: expected the field `requests`, found none"),
            ("rate: { requests: 0 }", "rate.requests: expected a whole number from 1 to 1000000"),
        ] {
            let error = parse(&with(line)).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_so_that_it_reads_the_same(
            weights in proptest::collection::vec(1..100_u32, 0..4),
            attempts in 1..=5_u32, statuses in proptest::collection::btree_set(500..=599_u16, 1..4),
            millis in 1..100_000_u64, requests in 1..1000_u32,
        ) {
            let legs = weights.iter().enumerate().map(|(number, weight)| Leg {
                to: format!("spiffe://td/leg{number}").parse().unwrap(), port: None, weight: *weight,
            });
            let words = [Condition::Timeout, Condition::Unavailable];
            let on = statuses.into_iter().map(Condition::Status).chain(words).collect();
            let (span, methods) = (Duration::from_millis(millis), ["POST".to_owned()].into());
            let service = Service {
                id: "spiffe://td/s".parse().unwrap(),
                split: legs.collect(),
                retries: Some(Retries { attempts, on, methods, ..Retries::default() }),
                timeouts: Some(Timeouts { connect: Some(span), ..Timeouts::default() }),
                limits: Some(Limits { requests, queue: 0, wait: span }),
                rate: Some(Rate { requests, per: span, burst: requests }),
            };
            prop_assert_eq!(parse_json(&service.to_json()).unwrap(), service);
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,60}", pieces in "([-:{}\\[\\], a0\n]|kind: Service\n|id: spiffe://td/a\n|split: |retries: |rate: ){0,25}") {
            let _ = parse(&text).is_ok() || parse(&pieces).is_ok();
            let _ = parse_json(&text);
        }
    }
}
