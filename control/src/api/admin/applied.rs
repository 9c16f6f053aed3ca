//! AwaitApplied: who has a revision in force, and how long it took each.
//!
//! Whom the caller's roles do not reach is counted, but not named. Only those that are connected are waited for. Who holds an SVID but is not connected may still go by what
//! was before, and is named; nobody knows when, or whether, it comes back.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use signet_proto::spiffe::{InstanceId, SpiffeId};
use signet_proto::v1::{AppliedBy, AwaitAppliedRequest, AwaitAppliedResponse};
use tokio::time::Instant;
use tonic::Status;

use super::super::Rooms;
use super::super::status::ToStatus;
use super::messages;
use crate::publish::Applied;
use crate::roles::Sight;
use crate::store::Concern;
use crate::time;

const USUAL: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(60);
/// Replicas hear of each other within milliseconds, and look every other second in any case.
const HEARD: Duration = Duration::from_secs(3);
const LOOK_ELSEWHERE: Duration = Duration::from_millis(50);

/// How far all are whom a revision concerns.
struct Progress {
    concerned: Vec<Applied>,
    complete: bool,
}

pub(super) async fn wait(
    rooms: &Rooms,
    request: AwaitAppliedRequest,
    sight: &Sight,
) -> Result<AwaitAppliedResponse, Status> {
    let AwaitAppliedRequest { revision, timeout } = request;
    let mut committed = rooms.store.committed();
    // Made at another replica, perhaps, and not heard of yet.
    let heard = committed.wait_for(|commit| commit.revision >= revision);
    let _ = tokio::time::timeout(HEARD, heard).await;
    let newest = rooms.store.committed().borrow().revision;
    if revision == 0 || revision > newest {
        return Err(Status::out_of_range(format!("revision: expected 1 to {newest}, found {revision}")));
    }
    let timeout = messages::duration("timeout", timeout.as_ref())?.unwrap_or(USUAL).min(LONGEST);
    let deadline = Instant::now() + timeout;
    let concern = rooms.store.concern(revision).await.map_err(|error| error.to_status())?;
    let here = here(rooms, revision, deadline).await;
    let progress = loop {
        let mut progress = Progress { concerned: rooms.watchers.progress(revision), complete: here };
        elsewhere(rooms, revision, &concern, &mut progress).await?;
        if progress.complete || Instant::now() >= deadline {
            break progress;
        }
        // Other replicas write down what they hear several times a second.
        tokio::time::sleep_until(deadline.min(Instant::now() + LOOK_ELSEWHERE)).await;
    };
    let committed = rooms.store.revision_time(revision).await.map_err(|error| error.to_status())?;
    let absent = absent(rooms, &concern, &progress).await?;
    let complete = progress.complete && absent.is_empty();
    let connected =
        progress.concerned.iter().map(|applied| (applied.id.clone(), message(applied, committed)));
    let proxies = connected.chain(absent).map(|(id, proxy)| shown(&id, proxy, sight)).collect();
    Ok(AwaitAppliedResponse { proxies, complete })
}

/// Everybody counts; the names are for those who may see them.
fn shown(id: &SpiffeId, proxy: AppliedBy, sight: &Sight) -> AppliedBy {
    if sight.sees_identity(id) {
        proxy
    } else {
        AppliedBy { spiffe_id: String::new(), instance: String::new(), ..proxy }
    }
}

/// Those that the revision concerns and that cannot be told.
async fn absent(
    rooms: &Rooms,
    concern: &Concern,
    progress: &Progress,
) -> Result<Vec<(SpiffeId, AppliedBy)>, Status> {
    let proxies = rooms.store.proxies(time::now()).await.map_err(|error| error.to_status())?;
    let mut connected: HashSet<_> = rooms.watchers.connected().into_keys().collect();
    let elsewhere = rooms.store.standings_elsewhere().await.map_err(|error| error.to_status())?;
    connected.extend(elsewhere.into_iter().map(|standing| standing.instance));
    let known: HashSet<_> = progress.concerned.iter().map(|applied| applied.instance).collect();
    let absent = proxies.into_iter().filter(|(id, instance)| {
        concern.includes(id) && !connected.contains(instance) && !known.contains(instance)
    });
    let message = |(id, instance): (SpiffeId, InstanceId)| {
        let (spiffe_id, instance) = (id.to_string(), instance.to_string());
        (id, AppliedBy { spiffe_id, instance, ..AppliedBy::default() })
    };
    Ok(absent.map(message).collect())
}

/// Adds the proxies that other replicas hold.
async fn elsewhere(
    rooms: &Rooms,
    revision: u64,
    concern: &Concern,
    progress: &mut Progress,
) -> Result<(), Status> {
    let standings = rooms.store.standings_elsewhere().await.map_err(|error| error.to_status())?;
    for standing in standings.into_iter().filter(|standing| concern.includes(&standing.spiffe_id)) {
        let applied = standing.in_force >= revision;
        progress.complete &= applied;
        progress.concerned.push(Applied {
            id: standing.spiffe_id,
            instance: standing.instance,
            acknowledged_at: applied.then_some(standing.in_force_at),
            closed: if standing.in_force == revision { standing.closed } else { 0 },
        });
    }
    Ok(())
}

/// Waits until all streams of this replica that the revision concerns have it in force. False: not in time.
async fn here(rooms: &Rooms, revision: u64, deadline: Instant) -> bool {
    loop {
        let changed = rooms.watchers.changed();
        tokio::pin!(changed);
        // Before the look, or what happens meanwhile is missed.
        changed.as_mut().enable();
        if rooms.state.borrow().processed >= revision && rooms.watchers.is_applied(revision) {
            return true;
        }
        if tokio::time::timeout_at(deadline, changed).await.is_err() {
            return false;
        }
    }
}

fn message(applied: &Applied, committed: Option<SystemTime>) -> AppliedBy {
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
        connected: true,
    }
}
