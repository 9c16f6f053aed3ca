//! The golden table, by the policy room itself.

#[path = "../../golden/table.rs"]
mod table;

use std::time::{Duration, SystemTime};

use self::table::Case;
use super::*;

#[test]
fn the_table_says_what_is_decided() {
    let (documents, cases) = table::read();
    let set = PolicySet::compile(parse_yaml("table.yaml", &documents).unwrap()).unwrap();
    let settings = table::settings();
    // 2026-01-01.
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600);
    for case in &cases {
        let direction = match case.direction.as_str() {
            "egress" => Direction::Egress,
            _ => Direction::Inbound,
        };
        let answer = Question::parse(&asked(case)).unwrap().answer(direction, &set, &settings, now);
        let Answer { allowed, reason, policy, rule, explanation, .. } = &answer;
        assert_eq!(Case::found(*allowed, reason, policy, rule, explanation), case.expected(), "{case:#?}");
    }
    assert!(cases.len() > 50);
}

fn asked(case: &Case) -> Asked<'_> {
    Asked {
        source: &case.source,
        destination: &case.destination,
        port: &case.port,
        method: &case.method,
        path: &case.path,
        host: &case.host,
        headers: case.headers.iter().map(String::as_str).collect(),
        address: &case.address,
    }
}
