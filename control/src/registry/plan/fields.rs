//! Two versions of a document, field by field.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Map, Value};
use signet_proto::document::ParseError;
use signet_proto::policy::{Direction, Document, Rule};
use signet_proto::settings::{Exception, Settings, UnknownDestinations};
use signet_proto::traffic::Service;

use super::FieldChange;
use crate::duration::Span;
use crate::registry::declaration::{Approval, Declaration};
use crate::time;

/// Every field that is said, for a new workload.
pub(super) fn of_workload(declaration: &Declaration) -> Vec<FieldChange> {
    let said = texts(declaration).into_iter().filter(|(_, text)| !text.is_empty());
    said.map(|(field, after)| FieldChange { field: field.into(), before: String::new(), after }).collect()
}

/// The fields that differ.
pub(super) fn between_workloads(before: &Declaration, after: &Declaration) -> Vec<FieldChange> {
    let both = texts(before).into_iter().zip(texts(after));
    both.filter(|((_, before), (_, after))| before != after)
        .map(|((field, before), (_, after))| FieldChange { field: field.into(), before, after })
        .collect()
}

/// Every field as text, by its name; empty: not said. Two declarations of one name are equal if these are.
fn texts(declaration: &Declaration) -> [(&'static str, String); 12] {
    let Declaration { name: _, owner, purpose, environment, selectors, ttl, dns, status, until, approval } =
        declaration;
    let life = |life: Option<Duration>| life.map(|life| Span(life).to_string()).unwrap_or_default();
    let approval = if *approval == Approval::None { "" } else { approval.as_str() };
    [
        ("owner.team", owner.team.clone()),
        ("owner.contact", owner.contact.clone().unwrap_or_default()),
        ("purpose", purpose.clone()),
        ("environment", environment.clone().unwrap_or_default()),
        ("selectors", listed(selectors)),
        ("ttl.default", life(ttl.default)),
        ("ttl.min", life(ttl.min)),
        ("ttl.max", life(ttl.max)),
        ("dns", listed(dns)),
        ("status", status.to_string()),
        ("until", until.map(time::rfc3339_shortest).unwrap_or_default()),
        ("approval", approval.to_owned()),
    ]
}

/// As JSON: a value may have commas of its own.
fn listed<T: ToString>(items: &BTreeSet<T>) -> String {
    if items.is_empty() {
        return String::new();
    }
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    serde_json::to_string(&items).unwrap_or_default()
}

/// Every field, for a new policy.
pub(super) fn of_policy(document: &Document) -> Vec<FieldChange> {
    let direction = document.direction;
    let whom = changed(direction.whom_field(), String::new(), document.whom.to_string());
    let rules = document.rules.iter().filter_map(|rule| rule_change(direction, None, Some(rule)));
    whom.into_iter().chain(rules).collect()
}

/// For one that was stored by another version and cannot be compared.
pub(super) fn replacing_unreadable(after: &Document) -> Vec<FieldChange> {
    let mut changes = of_policy(after);
    changes.extend(changed("document", "cannot be read".into(), "replaced".into()));
    changes
}

/// The fields and rules that differ; none if and only if the documents are equal.
pub(super) fn between_policies(before: &Document, after: &Document) -> Vec<FieldChange> {
    if before.direction != after.direction {
        // Nothing in it means the same any more.
        let mut changes: Vec<FieldChange> =
            changed(before.direction.whom_field(), before.whom.to_string(), String::new())
                .into_iter()
                .collect();
        changes.extend(of_policy(after));
        return changes;
    }
    let direction = after.direction;
    let mut changes: Vec<FieldChange> =
        changed(direction.whom_field(), before.whom.to_string(), after.whom.to_string())
            .into_iter()
            .collect();
    let of = |rules: &[Rule], name: &str| rules.iter().position(|rule| rule.name == name);
    for rule in &before.rules {
        let now = of(&after.rules, &rule.name).and_then(|at| after.rules.get(at));
        changes.extend(rule_change(direction, Some(rule), now));
    }
    let new = after.rules.iter().filter(|rule| of(&before.rules, &rule.name).is_none());
    changes.extend(new.filter_map(|rule| rule_change(direction, None, Some(rule))));
    if changes.is_empty() && before != after {
        // The order means nothing to a decision, but a review sees it.
        let order = |document: &Document| {
            document.rules.iter().map(|rule| rule.name.as_str()).collect::<Vec<_>>().join(", ")
        };
        changes.extend(changed("rules", order(before), order(after)));
    }
    changes
}

/// The fields of the mesh's document that differ from what was there, if anything was.
pub(super) fn of_mesh(before: Option<Result<Settings, ParseError>>, after: &Settings) -> Vec<FieldChange> {
    let (before, unreadable) = match before {
        Some(Ok(before)) => (Some(before), None),
        None => (None, None),
        Some(Err(_)) => (None, changed("document", "cannot be read".into(), "replaced".into())),
    };
    let texts = |settings: &Settings| {
        let listed = |exceptions: &[Exception]| match exceptions {
            [] => String::new(),
            some => format!("[{}]", some.iter().map(Exception::to_json).collect::<Vec<_>>().join(", ")),
        };
        [
            ("mode", settings.mode.as_str().to_owned()),
            ("permissive", listed(&settings.permissive)),
            ("strict", listed(&settings.strict)),
            (
                "unknownDestinations",
                settings.unknown_destinations.map_or("", UnknownDestinations::as_str).to_owned(),
            ),
        ]
    };
    let before = before.as_ref().map(texts).unwrap_or_default();
    let both = before.into_iter().zip(texts(after));
    both.filter_map(|((_, before), (field, after))| changed(field, before, after)).chain(unreadable).collect()
}

/// The fields of a service's document that differ from what was there, if anything was.
pub(super) fn of_service(before: Option<&str>, after: &Service) -> Vec<FieldChange> {
    let read = |json: &str| serde_json::from_str::<Map<String, Value>>(json).unwrap_or_default();
    let (before, after) = (before.map(read).unwrap_or_default(), read(&after.to_json()));
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let text = |document: &Map<String, Value>, key: &str| {
        document.get(key).map(ToString::to_string).unwrap_or_default()
    };
    let said = keys.into_iter().filter(|key| !matches!(key.as_str(), "kind" | "id"));
    said.filter_map(|key| changed(key, text(&before, key), text(&after, key))).collect()
}

fn rule_change(direction: Direction, before: Option<&Rule>, after: Option<&Rule>) -> Option<FieldChange> {
    if before == after {
        return None;
    }
    let name = before.or(after).map(|rule| rule.name.as_str()).unwrap_or_default();
    let text = |rule: Option<&Rule>| rule.map(|rule| rule_text(rule, direction)).unwrap_or_default();
    Some(FieldChange { field: format!("rules.{name}"), before: text(before), after: text(after) })
}

/// The rule as it stands in its document, without its name, on one line.
fn rule_text(rule: &Rule, direction: Direction) -> String {
    let mut rule: Map<String, Value> = serde_json::from_str(&rule.to_json(direction)).unwrap_or_default();
    rule.remove("name");
    Value::Object(rule).to_string()
}

fn changed(field: &str, before: String, after: String) -> Option<FieldChange> {
    (before != after).then(|| FieldChange { field: field.into(), before, after })
}
