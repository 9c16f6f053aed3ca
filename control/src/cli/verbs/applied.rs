//! Waiting until a change is in force, and saying where.

use std::time::SystemTime;

use serde_json::{Value, json};
use signet_proto::v1::admin_client::AdminClient;
use signet_proto::v1::{AppliedBy, AwaitAppliedRequest, AwaitAppliedResponse, MutationResponse};
use tonic::transport::Channel;

use crate::cli::args::Wait;
use crate::cli::error::CliError;
use crate::cli::output::{self, Output, cell};
use crate::time;

/// A committed change, and what became of it.
pub(super) struct Change {
    pub(super) revision: u64,
    pub(super) committed_at: Option<prost_types::Timestamp>,
    /// What it did, one line each.
    pub(super) effects: Vec<String>,
    /// More for the JSON object.
    pub(super) more: Vec<(&'static str, Value)>,
}

impl From<MutationResponse> for Change {
    fn from(mutation: MutationResponse) -> Self {
        Self {
            revision: mutation.revision,
            committed_at: mutation.committed_at,
            effects: mutation.effects,
            more: Vec::new(),
        }
    }
}

/// Prints the change; unless told not to, waits until every connected proxy that it concerns has it in
/// force. Not everyone in time is a failure: whoever revokes wants to know.
pub(super) async fn report(
    change: Change,
    wait: Option<Wait>,
    client: &mut AdminClient<Channel>,
    output: Output,
) -> Result<(), CliError> {
    if !output.is_json() {
        for effect in &change.effects {
            output::print(&format!("{}\n", output::clean(effect)))?;
        }
    }
    let applied = match wait {
        Some(wait) if !wait.no_wait && change.revision > 0 => {
            let timeout = Some(time::duration_to_proto(wait.timeout.0));
            let request = AwaitAppliedRequest { revision: change.revision, timeout };
            Some(client.await_applied(request).await?.into_inner())
        }
        _ => None,
    };
    let json = json(&change, applied.as_ref());
    output.print(&json, || people(&change, applied.as_ref()))?;
    match applied {
        Some(AwaitAppliedResponse { complete: false, proxies }) => {
            let waiting = proxies.iter().filter(|proxy| !proxy.applied).count();
            Err(CliError::failed(format!(
                "revision {} is committed, but {waiting} connected proxies have not said in time that it is \
                 in force",
                change.revision
            ))
            .with_hint("they get it as soon as they can take it; `signet identities` shows who is connected"))
        }
        _ => Ok(()),
    }
}

fn people(change: &Change, applied: Option<&AwaitAppliedResponse>) -> String {
    let at = time::from_proto(change.committed_at.as_ref());
    let committed = match at {
        SystemTime::UNIX_EPOCH => format!("revision {}", change.revision),
        at => format!("revision {}, committed {}", change.revision, time::rfc3339(at)),
    };
    let Some(applied) = applied else { return format!("{committed}\n") };
    if applied.proxies.is_empty() {
        return format!("{committed}; it concerns no connected proxy\n");
    }
    let slowest = applied.proxies.iter().filter_map(millis).max().unwrap_or_default();
    let closed: u64 = applied.proxies.iter().map(|proxy| proxy.closed_connections).sum();
    let count = applied.proxies.iter().filter(|proxy| proxy.applied).count();
    let rows = applied.proxies.iter().map(|proxy| {
        vec![
            cell(&proxy.spiffe_id),
            cell(&proxy.instance),
            cell(millis(proxy).map_or_else(|| "not yet".to_owned(), |millis| format!("{millis} ms"))),
            cell(proxy.closed_connections.to_string()),
        ]
    });
    let table = output::table(&["applied by", "instance", "after", "closed"], rows);
    format!(
        "{table}{committed}; in force at {count} proxies after {slowest} ms, {closed} connections closed\n"
    )
}

fn json(change: &Change, applied: Option<&AwaitAppliedResponse>) -> Value {
    let mut object = json!({
        "revision": change.revision,
        "committed_at": output::instant(change.committed_at.as_ref()),
        "effects": change.effects,
    });
    if let Some(object) = object.as_object_mut() {
        object.extend(change.more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        if let Some(applied) = applied {
            object.insert("complete".into(), applied.complete.into());
            object.insert("proxies".into(), applied.proxies.iter().map(proxy).collect());
        }
    }
    object
}

fn proxy(proxy: &AppliedBy) -> Value {
    json!({
        "spiffe_id": proxy.spiffe_id,
        "instance": proxy.instance,
        "applied": proxy.applied,
        "after_ms": millis(proxy),
        "closed_connections": proxy.closed_connections,
    })
}

fn millis(proxy: &AppliedBy) -> Option<u64> {
    let after = time::duration_from_proto(proxy.after.as_ref())?;
    u64::try_from(after.as_millis()).ok()
}
