//! `/policy`: what decides, word for word.

use http::StatusCode;
use serde_json::json;
use signet_proto::policy::{Direction, Document, PolicySet};

use super::identity::moment;
use super::{Admin, Ask, Refused, Reply};

pub(super) fn show(admin: &Admin, ask: &Ask) -> Result<Reply, Refused> {
    ask.nothing_else("none")?;
    let mesh = &admin.shared.mesh;
    let Some(snapshot) = mesh.current() else {
        let text = format!("no policy in force yet: {}", mesh.missing().join("; "));
        return Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, text));
    };
    let now = signet_proto::clock::now();
    let policy = &snapshot.policy;
    let about_us = |direction| {
        let concerned = |document: &&Document| {
            document.direction == direction && PolicySet::concerns(document, snapshot.svid.id())
        };
        policy.documents().iter().filter(concerned).count()
    };
    let over = policy.documents().iter().flat_map(|document| {
        let ended = document.rules.iter().filter(|rule| rule.until.is_some_and(|until| until <= now));
        ended.map(|rule| json!({ "policy": document.name, "rule": rule.name }))
    });
    Reply::json(&json!({
        "revision": snapshot.revision,
        "generation": snapshot.generation,
        "denies_everything": policy.is_empty() || policy.unreadable().is_some(),
        "unreadable": policy.unreadable(),
        "protects_us": about_us(Direction::Inbound),
        "restricts_us": about_us(Direction::Egress),
        "next_change": policy.next_change(now).and_then(moment),
        "expired_rules": over.collect::<Vec<_>>(),
        "documents": policy.documents(),
    }))
}
