//! AwaitApplied: who has a revision in force, and how long it took each.

use std::time::{Duration, SystemTime};

use signet_proto::v1::{AppliedBy, AwaitAppliedRequest, AwaitAppliedResponse};
use tokio::time::Instant;
use tonic::Status;

use super::super::Rooms;
use super::super::status::ToStatus;
use super::messages;
use crate::publish::{Applied, Progress};
use crate::time;

const USUAL: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(60);
/// The newest state is not announced if no proxy sees a difference; so it is also looked at now and then.
const LOOK: Duration = Duration::from_millis(20);

pub(super) async fn wait(
    rooms: &Rooms,
    request: AwaitAppliedRequest,
) -> Result<AwaitAppliedResponse, Status> {
    let AwaitAppliedRequest { revision, timeout } = request;
    let newest = rooms.store.committed().borrow().revision;
    if revision == 0 || revision > newest {
        return Err(Status::out_of_range(format!("revision: expected 1 to {newest}, found {revision}")));
    }
    let timeout = messages::duration("timeout", timeout.as_ref())?.unwrap_or(USUAL).min(LONGEST);
    let deadline = Instant::now() + timeout;
    let progress = loop {
        let changed = rooms.watchers.changed();
        let progress = look(rooms, revision);
        if progress.complete || Instant::now() >= deadline {
            break progress;
        }
        let next_look = deadline.min(Instant::now() + LOOK);
        let _ = tokio::time::timeout_at(next_look, changed).await;
    };
    let committed = rooms.store.revision_time(revision).await.map_err(|error| error.to_status())?;
    Ok(AwaitAppliedResponse {
        proxies: progress.concerned.into_iter().map(|applied| message(applied, committed)).collect(),
        complete: progress.complete,
    })
}

fn look(rooms: &Rooms, revision: u64) -> Progress {
    let state = rooms.state.borrow().clone();
    if state.processed < revision {
        return Progress::default();
    }
    // Revisions after the state's own changed nothing that a proxy sees: there is nothing to wait for.
    if revision > state.commit.revision {
        return Progress { concerned: Vec::new(), complete: true };
    }
    rooms.watchers.progress(revision)
}

fn message(applied: Applied, committed: Option<SystemTime>) -> AppliedBy {
    let after = applied
        .acknowledged_at
        .zip(committed)
        .map(|(at, committed)| at.duration_since(committed).unwrap_or_default());
    AppliedBy {
        spiffe_id: applied.id.to_string(),
        instance: applied.instance.to_string(),
        applied: applied.acknowledged_at.is_some(),
        after: after.map(time::duration_to_proto),
        closed_connections: applied.closed,
    }
}
