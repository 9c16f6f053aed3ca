//! Rights with an end: when an `until` passes, or our own SVID ends, the live connections that it allowed are decided
//! again.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Mesh;

/// The longest that is slept at once, so that a jump of the wall clock is noticed within it.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// Decides again whenever a right starts or ends with time, until `stop`.
pub async fn expire_rights(mesh: Arc<Mesh>, stop: CancellationToken) {
    let mut generations = mesh.generations();
    let mut due = None;
    loop {
        let now = signet_proto::clock::now();
        if due.is_some_and(|due| due <= now) {
            mesh.decide_again();
        }
        due = mesh.current().and_then(|snapshot| {
            let ours = Some(snapshot.svid.end()).filter(|end| *end > now);
            let changes = [snapshot.policy.next_change(now), snapshot.settings.next_change(now), ours];
            changes.into_iter().flatten().min()
        });
        let wait = due.map(|due| due.duration_since(now).unwrap_or_default().min(LONGEST_SLEEP));
        tokio::select! {
            () = stop.cancelled() => return,
            changed = generations.changed() => if changed.is_err() { return },
            () = async { match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            } } => {}
        }
    }
}
