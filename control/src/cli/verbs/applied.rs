//! Waiting until a change is in force, and saying where.

use std::time::SystemTime;

use serde_json::{Value, json};
use signet_proto::v1::admin_client::AdminClient;
use signet_proto::v1::{AppliedBy, AwaitAppliedRequest, AwaitAppliedResponse, MutationResponse};
use tonic::transport::Channel;

use crate::cli::args::Wait;
use crate::cli::error::CliError;
use crate::cli::output::{self, Output, cell};
use crate::count::many;
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

/// Who has to say that a change is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    /// Those that are connected. Who is not is named, but is no failure: there is nothing to wait for, and it gets the
    /// change first when it is back.
    Connected,
    /// All whom it concerns, as it takes something away: what could not be reached may still let it in.
    Everyone,
}

/// Prints the change; unless told not to, waits until every connected proxy that it concerns has it in
/// force. Not everyone of those in time is a failure: whoever revokes wants to know.
pub(super) async fn report(
    change: Change,
    wait: Option<Wait>,
    expect: Expect,
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
    output.print(&json, || people(&change, expect, applied.as_ref()))?;
    applied.map_or(Ok(()), |applied| outcome(change.revision, expect, &applied))
}

fn outcome(revision: u64, expect: Expect, applied: &AwaitAppliedResponse) -> Result<(), CliError> {
    let unreached = count(applied, |proxy| !proxy.applied);
    if expect == Expect::Everyone && unreached > 0 {
        return Err(CliError::unconfirmed(format!(
            "revision {revision} is committed, but {} not said that it is in force",
            many(unreached, "proxy has", "proxies have")
        ))
        .with_hint(
            "control refuses it everything from now on; what is open at those that were not reached ends when they are \
             back, or with the SVIDs",
        ));
    }
    let late = count(applied, |proxy| proxy.connected && !proxy.applied);
    if applied.complete || (late == 0 && absent(applied) > 0) {
        return Ok(());
    }
    let late = many(late, "connected proxy has", "connected proxies have");
    Err(CliError::failed(format!(
        "revision {revision} is committed, but {late} not said in time that it is in force"
    ))
    .with_hint("they get it as soon as they can take it; `signet identities` shows who is connected"))
}

fn absent(applied: &AwaitAppliedResponse) -> u64 {
    count(applied, |proxy| !proxy.connected)
}

fn count(applied: &AwaitAppliedResponse, which: impl Fn(&AppliedBy) -> bool) -> u64 {
    applied.proxies.iter().filter(|proxy| which(proxy)).count() as u64
}

fn people(change: &Change, expect: Expect, applied: Option<&AwaitAppliedResponse>) -> String {
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
    let reached = count(applied, |proxy| proxy.applied);
    let rows = applied.proxies.iter().map(|proxy| {
        vec![
            cell(named(&proxy.spiffe_id)),
            cell(&proxy.instance),
            cell(match millis(proxy) {
                Some(millis) => format!("{millis} ms"),
                None if proxy.connected => "not yet".to_owned(),
                None => "not connected".to_owned(),
            }),
            cell(proxy.closed_connections.to_string()),
        ]
    });
    let table = output::table(&["applied by", "instance", "after", "closed"], rows);
    let absent = match absent(applied) {
        0 => String::new(),
        absent => format!(
            "{}: what was in force there before may be still, until it is back or its SVID ends\n",
            many(absent, "proxy is not connected", "proxies are not connected")
        ),
    };
    if expect == Expect::Everyone {
        let cutting = count(applied, |proxy| proxy.closed_connections > 0);
        let unreachable = applied.proxies.len() as u64 - reached;
        return format!(
            "{table}{committed}; cut {} on {cutting} of {} that acknowledged it within {slowest} ms, {unreachable} \
             unreachable\n{absent}",
            many(closed, "connection", "connections"),
            many(reached, "proxy", "proxies"),
        );
    }
    let (proxies, closed) = (many(reached, "proxy", "proxies"), many(closed, "connection", "connections"));
    format!("{table}{committed}; in force at {proxies} after {slowest} ms, {closed} closed\n{absent}")
}

/// Whom the caller's roles do not reach counts, but is not named.
pub(super) fn named(id: &str) -> &str {
    if id.is_empty() { "(beyond your roles)" } else { id }
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
            let reached = count(applied, |proxy| proxy.applied);
            let cut: u64 = applied.proxies.iter().map(|proxy| proxy.closed_connections).sum();
            object.insert("complete".into(), applied.complete.into());
            object.insert("connections_cut".into(), cut.into());
            object.insert("acknowledged".into(), reached.into());
            object.insert("unreachable".into(), (applied.proxies.len() as u64 - reached).into());
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
        "connected": proxy.connected,
        "after_ms": millis(proxy),
        "closed_connections": proxy.closed_connections,
    })
}

fn millis(proxy: &AppliedBy) -> Option<u64> {
    let after = time::duration_from_proto(proxy.after.as_ref())?;
    u64::try_from(after.as_millis()).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn proxy(name: &str, after: Option<u64>, connected: bool) -> AppliedBy {
        AppliedBy {
            spiffe_id: format!("spiffe://mesh.local/{name}"),
            instance: "i".into(),
            applied: after.is_some(),
            after: after.map(|millis| time::duration_to_proto(Duration::from_millis(millis))),
            closed_connections: u64::from(after.is_some()),
            connected,
        }
    }

    fn told(proxies: Vec<AppliedBy>) -> (String, bool) {
        let complete = proxies.iter().all(|proxy| proxy.applied);
        let applied = AwaitAppliedResponse { proxies, complete };
        let change = Change { revision: 7, committed_at: None, effects: vec![], more: vec![] };
        let expect = Expect::Connected;
        (people(&change, expect, Some(&applied)), outcome(7, expect, &applied).is_ok())
    }

    #[test]
    fn whoever_takes_away_is_told_who_may_still_let_in() {
        let proxies = vec![proxy("a", Some(3), true), proxy("b", Some(5), true), proxy("c", None, false)];
        let complete = AwaitAppliedResponse { proxies: proxies[..2].to_vec(), complete: true };
        let applied = AwaitAppliedResponse { proxies, complete: false };
        let change = Change { revision: 7, committed_at: None, effects: vec![], more: vec![] };
        let text = people(&change, Expect::Everyone, Some(&applied));
        assert!(
            text.contains(
                "revision 7; cut 2 connections on 2 of 2 proxies that acknowledged it within 5 ms, 1 unreachable\n"
            ),
            "{text}"
        );
        assert!(text.contains("spiffe://mesh.local/c") && text.contains("not connected"), "{text}");
        let told = json(&change, Some(&applied));
        assert_eq!([&told["connections_cut"], &told["acknowledged"], &told["unreachable"]], [2, 2, 1]);
        assert!(
            outcome(7, Expect::Everyone, &applied).unwrap_err().to_string().contains("1 proxy has not said")
        );
        assert!(outcome(7, Expect::Everyone, &complete).is_ok());
        let nobody = AwaitAppliedResponse { proxies: vec![], complete: true };
        assert!(outcome(7, Expect::Everyone, &nobody).is_ok());
    }

    #[test]
    fn one_is_one_and_two_are_two() {
        let (text, good) = told(vec![proxy("a", Some(3), true)]);
        assert!(
            text.ends_with("revision 7; in force at 1 proxy after 3 ms, 1 connection closed\n"),
            "{text}"
        );
        assert!(good);
        let (text, _) = told(vec![proxy("a", Some(3), true), proxy("b", Some(5), true)]);
        assert!(text.ends_with("in force at 2 proxies after 5 ms, 2 connections closed\n"), "{text}");
    }

    #[test]
    fn who_is_not_connected_is_named_and_is_no_failure() {
        let (text, good) = told(vec![proxy("a", Some(3), true), proxy("b", None, false)]);
        assert!(text.contains("not connected") && text.contains("\n1 proxy is not connected: "), "{text}");
        assert!(good);
    }

    #[test]
    fn who_is_connected_and_does_not_answer_is_a_failure() {
        let (text, good) = told(vec![proxy("a", None, true), proxy("b", None, false)]);
        assert!(text.contains("not yet"), "{text}");
        assert!(!good);
    }
}
