//! What happened, and whether the record of it is intact.

use serde_json::{Value, json};
use signet_proto::v1::{AuditEvent as Message, ListAuditRequest};

use crate::audit::{AuditEvent, ChainVerifier};
use crate::cli::args::AuditQuery;
use crate::cli::connect::Session;
use crate::cli::error::CliError;
use crate::cli::output::{self, Output, cell};
use crate::{hex, time};

pub(in crate::cli) async fn run(
    query: AuditQuery,
    session: &Session,
    output: Output,
) -> Result<(), CliError> {
    let AuditQuery { limit, subject, verify } = query;
    let request = ListAuditRequest {
        limit: if verify { u32::MAX } else { limit },
        subject: subject.unwrap_or_default(),
    };
    let events = session.admin().await?.list_audit(request).await?.into_inner().events;
    if verify { check(&events, output) } else { list(&events, output) }
}

fn list(events: &[Message], output: Output) -> Result<(), CliError> {
    let json: Value = events
        .iter()
        .map(|event| {
            json!({
                "sequence": event.sequence,
                "at": output::instant(event.at.as_ref()),
                "actor": event.actor,
                "action": event.action,
                "subject": event.subject,
                "detail": serde_json::from_str::<Value>(&event.detail).unwrap_or_default(),
                "hash": event.hash,
            })
        })
        .collect();
    output.print(&json, || {
        let rows = events.iter().map(|event| {
            vec![
                cell(event.sequence.to_string()),
                cell(time::rfc3339(time::from_proto(event.at.as_ref()))),
                cell(&event.actor),
                cell(&event.action),
                cell(&event.subject),
                cell(&event.detail),
            ]
        });
        output::table(&["#", "at", "actor", "action", "subject", "detail"], rows)
    })
}

/// Recomputed here, from what control hands out: control's own word is not taken for it.
fn check(events: &[Message], output: Output) -> Result<(), CliError> {
    let whole = events.first().is_none_or(|event| event.sequence == 1);
    let mut verifier = if whole { ChainVerifier::from_genesis() } else { ChainVerifier::from_middle() };
    for event in events {
        verifier
            .take(&parse(event)?)
            .map_err(|broken| CliError::failed(format!("the audit was tampered with: {broken}")))?;
    }
    let first = events.first().map_or(0, |event| event.sequence);
    let last = verifier.position();
    let head = events.last().map(|event| event.hash.clone()).unwrap_or_default();
    let json = json!({
        "intact": true,
        "verified": verifier.verified(),
        "from": first,
        "to": last,
        "whole": whole,
        "head": head,
    });
    output.print(&json, || {
        let reach = if whole { "from the first on" } else { "the newest ones" };
        format!(
            "audit intact: {} events verified, {reach} (#{first} to #{last})\nhead {head}\n",
            verifier.verified()
        )
    })
}

fn parse(message: &Message) -> Result<AuditEvent, CliError> {
    let hash = hex::decode(&message.hash)
        .and_then(|hash| hash.try_into().ok())
        .ok_or_else(|| CliError::failed(format!("event {} has no readable hash", message.sequence)))?;
    Ok(AuditEvent {
        sequence: message.sequence,
        at: time::from_proto(message.at.as_ref()),
        actor: message.actor.clone(),
        action: message.action.clone(),
        subject: message.subject.clone(),
        detail: message.detail.clone(),
        hash,
    })
}
