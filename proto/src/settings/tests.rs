use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::document::{Limits, from_yaml};

fn parse(text: &str) -> Result<Settings, ParseError> {
    let nodes = from_yaml("m.yaml", text, Limits { bytes: 100_000, documents: 1 })?;
    parse_node("m.yaml", &nodes[0])
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn accepts(settings: &Settings, workload: &str, port: u16, now: u64) -> bool {
    settings.accepts_plaintext(&workload.parse().unwrap(), port, at(now))
}

const MIGRATION: &str = "\
kind: Mesh
mode: strict
permissive:
  - target: spiffe://td/shop/*
    ports: [8080]
    until: 1970-01-01T00:00:20Z
  - target: spiffe://td/legacy
strict:
  - { target: spiffe://td/shop/vault }
unknownDestinations: passthrough
";

#[test]
fn a_mesh_is_strict_unless_said_otherwise() {
    for settings in [Settings::default(), Settings::closed(), parse("kind: Mesh\nmode: strict\n").unwrap()] {
        assert!(!accepts(&settings, "spiffe://td/shop/web", 8080, 0));
        assert_eq!(settings.unknown_destinations(None), UnknownDestinations::Refuse);
    }
    let own = Some(UnknownDestinations::Passthrough);
    assert_eq!(Settings::default().unknown_destinations(own), UnknownDestinations::Passthrough);
    assert_eq!(Settings::closed().unknown_destinations(own), UnknownDestinations::Refuse);
}

#[test]
fn exceptions_open_what_they_name_for_as_long_as_they_say() {
    let settings = parse(MIGRATION).unwrap();
    assert!(accepts(&settings, "spiffe://td/shop/web", 8080, 19));
    assert!(!accepts(&settings, "spiffe://td/shop/web", 8080, 20), "it has ended");
    assert!(!accepts(&settings, "spiffe://td/shop/web", 9090, 0));
    assert!(!accepts(&settings, "spiffe://td/shop", 8080, 0));
    assert!(accepts(&settings, "spiffe://td/legacy", 1, 99));
    assert!(!accepts(&settings, "spiffe://td/shop/vault", 8080, 0), "strict wins");
    assert_eq!((settings.next_change(at(0)), settings.next_change(at(20))), (Some(at(20)), None));
    let permissive = parse(&MIGRATION.replace("mode: strict", "mode: permissive")).unwrap();
    assert!(accepts(&permissive, "spiffe://td/any", 1, 99));
    assert!(!accepts(&permissive, "spiffe://td/shop/vault", 1, 99));
}

#[test]
fn a_proxy_may_be_stricter_than_the_mesh_and_not_laxer() {
    use UnknownDestinations::{Passthrough, Refuse};
    for (mesh, own, expected) in [
        (None, None, Refuse),
        (None, Some(Passthrough), Passthrough),
        (Some(Refuse), Some(Passthrough), Refuse),
        (Some(Passthrough), None, Passthrough),
        (Some(Passthrough), Some(Refuse), Refuse),
    ] {
        let settings = Settings { unknown_destinations: mesh, ..Settings::default() };
        assert_eq!(settings.unknown_destinations(own), expected, "{mesh:?} {own:?}");
    }
}

#[test]
fn mistakes_are_told_with_their_places() {
    for (text, message) in [
        ("kind: Policy\n", "m.yaml:1:7: kind: expected `Mesh`, found \"Policy\""),
        ("kind: Mesh\n", "m.yaml:1:1: expected the field `mode`, found none"),
        ("kind: Mesh\nmode: open\n", "m.yaml:2:7: mode: expected `strict` or `permissive`, found \"open\""),
        (
            "kind: Mesh\nmode: strict\nname: x\n",
            "m.yaml:3:1: unknown field `name`, expected one of `kind`, `mode`, `permissive`, `strict`, \
             `unknownDestinations`",
        ),
        (
            "kind: Mesh\nmode: strict\npermissive: []\n",
            "m.yaml:3:13: permissive: expected a list of workloads and ports, found an empty one: for any, leave out \
             `permissive`",
        ),
        (
            "kind: Mesh\nmode: strict\npermissive:\n  - { ports: [80] }\n",
            "m.yaml:4:5: permissive[0]: expected the field `target`, found none",
        ),
        (
            "kind: Mesh\nmode: strict\nunknownDestinations: allow\n",
            "m.yaml:3:22: unknownDestinations: expected `refuse` or `passthrough`, found \"allow\"",
        ),
    ] {
        assert_eq!(parse(text).unwrap_err().to_string(), message);
    }
    let wrong = "kind: Mesh\nmode: strict\npermissive:\n  - { target: spiffe://td/a, ports: [0] }\n";
    assert!(parse(wrong).unwrap_err().to_string().contains("permissive[0].ports[0]: expected a port"));
}

fn exception() -> impl Strategy<Value = Exception> {
    let target = prop_oneof!["spiffe://td(/[ab]){1,2}", "spiffe://td(/[ab]){0,2}/\\*"];
    let ports = proptest::option::of(proptest::collection::vec(1..4_u16, 1..3));
    (target, ports, proptest::option::of(1..5_u64)).prop_map(|(target, ports, until)| Exception {
        target: target.parse().unwrap(),
        ports,
        until: until.map(at),
    })
}

fn settings() -> impl Strategy<Value = Settings> {
    let mode = prop_oneof![Just(Mode::Strict), Just(Mode::Permissive)];
    let unknown = prop_oneof![Just(UnknownDestinations::Refuse), Just(UnknownDestinations::Passthrough)];
    let list = || proptest::collection::vec(exception(), 0..4);
    (mode, list(), list(), proptest::option::of(unknown)).prop_map(|(mode, permissive, strict, unknown)| {
        Settings { mode, permissive, strict, unknown_destinations: unknown }
    })
}

proptest! {
    #[test]
    fn settings_survive_the_way_through_json(settings in settings()) {
        prop_assert_eq!(parse_json(&settings.to_json()), Ok(settings));
    }

    #[test]
    fn taking_an_opening_away_opens_nothing(
        settings in settings(), workload in "spiffe://td(/[ab]){1,3}", port in 1..4_u16, now in 0..6_u64,
    ) {
        let open = accepts(&settings, &workload, port, now);
        for number in 0..settings.permissive.len() {
            let mut fewer = settings.clone();
            fewer.permissive.remove(number);
            prop_assert!(open || !accepts(&fewer, &workload, port, now));
        }
        let strict = Settings { mode: Mode::Strict, ..settings };
        prop_assert!(open || !accepts(&strict, &workload, port, now));
        let nothing = Settings { permissive: Vec::new(), ..strict };
        prop_assert!(!accepts(&nothing, &workload, port, now));
    }

    #[test]
    fn nothing_changes_before_the_next_change(
        settings in settings(), workload in "spiffe://td(/[ab]){1,3}", port in 1..4_u16, now in 0..6_u64,
    ) {
        let next = settings.next_change(at(now)).unwrap_or(at(99));
        let open = accepts(&settings, &workload, port, now);
        for later in (now..99).take_while(|later| at(*later) < next) {
            prop_assert_eq!(accepts(&settings, &workload, port, later), open);
        }
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,80}") {
        let _ = (parse(&format!("kind: Mesh\n{text}")), parse_json(&text));
    }
}
