//! What happened, copies of the record of it, and whether it is intact.

mod copy;
mod verify;

use serde_json::{Value, json};
use signet_proto::v1::{AuditEvent as Message, GetAuditKeyRequest, ListAuditRequest, TailAuditRequest};

use crate::audit::AuditEvent;
use crate::cli::args::AuditVerb;
use crate::cli::connect::Session;
use crate::cli::error::CliError;
use crate::cli::output::{self, Output, cell, clean};
use crate::{hex, time};

pub(in crate::cli) async fn run(verb: AuditVerb, session: &Session, output: Output) -> Result<(), CliError> {
    match verb {
        AuditVerb::List { limit, subject } => list(limit, subject, session, output).await,
        AuditVerb::Tail { follow, lines } => tail(follow, lines, session, output).await,
        AuditVerb::Export { after } => copy::export(after, session).await,
        AuditVerb::Verify(what) => verify::run(what, session, output).await,
        AuditVerb::Key => {
            let key = session.admin().await?.get_audit_key(GetAuditKeyRequest {}).await?.into_inner();
            let json = json!({ "pem": key.pem, "id": key.id });
            output.print(&json, || key.pem)
        }
    }
}

async fn list(
    limit: u32,
    subject: Option<String>,
    session: &Session,
    output: Output,
) -> Result<(), CliError> {
    let request = ListAuditRequest { limit, subject: subject.unwrap_or_default() };
    let events = session.admin().await?.list_audit(request).await?.into_inner().events;
    let json: Value = events.iter().map(object).collect();
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

/// A line for each: nobody knows how wide the next one is.
async fn tail(follow: bool, lines: u32, session: &Session, output: Output) -> Result<(), CliError> {
    let mut admin = session.admin().await?;
    let request = ListAuditRequest { limit: lines.max(1), subject: String::new() };
    let newest = admin.list_audit(request).await?.into_inner().events;
    let after_sequence = newest.last().map_or(0, |event| event.sequence);
    if lines > 0 {
        print(&newest, output)?;
    }
    if !follow {
        return Ok(());
    }
    let mut stream = admin.tail_audit(TailAuditRequest { after_sequence, follow }).await?.into_inner();
    while let Some(message) = stream.message().await? {
        print(&message.events, output)?;
    }
    Ok(())
}

fn print(events: &[Message], output: Output) -> Result<(), CliError> {
    for event in events {
        let line = if output.is_json() {
            format!("{}\n", object(event))
        } else {
            let at = time::rfc3339(time::from_proto(event.at.as_ref()));
            let text = [&event.actor, &event.action, &event.subject, &event.detail].map(|text| clean(text));
            format!("#{} {at} {}\n", event.sequence, text.join(" "))
        };
        output::print(&line)?;
    }
    Ok(())
}

fn object(event: &Message) -> Value {
    json!({
        "sequence": event.sequence,
        "at": output::instant(event.at.as_ref()),
        "actor": event.actor,
        "action": event.action,
        "subject": event.subject,
        "detail": serde_json::from_str::<Value>(&event.detail).unwrap_or_default(),
        "hash": event.hash,
    })
}

fn parse(message: Message) -> Result<AuditEvent, CliError> {
    let hash = hex::decode(&message.hash)
        .and_then(|hash| hash.try_into().ok())
        .ok_or_else(|| CliError::failed(format!("event {} has no readable hash", message.sequence)))?;
    Ok(AuditEvent {
        sequence: message.sequence,
        at: time::from_proto(message.at.as_ref()),
        actor: message.actor,
        action: message.action,
        subject: message.subject,
        detail: message.detail,
        hash,
    })
}
