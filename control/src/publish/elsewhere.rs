//! Between replicas: what ours hold is written down for the others, what theirs hold is taken in.

use std::sync::Arc;
use std::time::Duration;

use signet_proto::spiffe::InstanceId;
use tokio_util::sync::CancellationToken;

use super::{Ended, Endpoints, Watchers};
use crate::store::model::Standing;
use crate::store::{Changed, Store, StoreError};

/// Standings in one commit: everybody else has their turn between.
const BATCH: usize = 500;
/// What comes within this time is written together. Others wait for it only where replicas share a store.
const SHARED: Duration = Duration::from_millis(50);
const ALONE: Duration = Duration::from_millis(100);
const RETRY: Duration = Duration::from_secs(1);

/// Writes down how streams stand, whenever that changed, until `stop`; and then once more.
pub async fn write_standings(store: Store, watchers: Arc<Watchers>, stop: CancellationToken) {
    let coalesce = if store.is_shared() { SHARED } else { ALONE };
    loop {
        let stopped = tokio::select! {
            () = stop.cancelled() => true,
            () = watchers.touched() => false,
        };
        if !stopped {
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(coalesce) => {}
            }
        }
        if let Err(error) = flush(&store, &watchers).await {
            tracing::warn!(%error, "how streams stand is not written down; it is tried again");
            tokio::time::sleep(RETRY).await;
        }
        if stopped {
            return;
        }
    }
}

async fn flush(store: &Store, watchers: &Watchers) -> Result<(), StoreError> {
    loop {
        let standings = watchers.take_unwritten(BATCH);
        if standings.is_empty() {
            return Ok(());
        }
        let opened = |standing: &Option<Standing>| standing.as_ref().is_some_and(|standing| standing.opened);
        let taken: Vec<_> =
            standings.iter().map(|(instance, standing)| (*instance, opened(standing))).collect();
        match store.put_standings(standings).await {
            Ok(superseded) => {
                superseded.iter().for_each(|instance| watchers.end(instance, Ended::Superseded));
            }
            Err(error) => {
                watchers.give_back(taken);
                return Err(error);
            }
        }
    }
}

/// Takes in the endpoints that other replicas hold, whenever they change, until `stop`.
pub async fn follow_endpoints(
    store: Store,
    endpoints: Arc<Endpoints>,
    watchers: Arc<Watchers>,
    stop: CancellationToken,
) {
    if !store.is_shared() {
        return;
    }
    loop {
        let changed = tokio::select! {
            () = stop.cancelled() => return,
            changed = store.endpoints_changed() => changed,
        };
        let taken = match changed {
            Changed::All => all(&store, &endpoints).await,
            Changed::Instances(instances) => {
                let mut taken = Ok(());
                for instance in instances {
                    if let Err(error) = one(&store, &endpoints, &watchers, instance).await {
                        taken = Err(error);
                    }
                }
                taken
            }
        };
        if let Err(error) = taken {
            tracing::warn!(%error, "endpoints of other replicas cannot be read; all are looked at again");
            tokio::time::sleep(RETRY).await;
            store.endpoints_missed();
        }
    }
}

async fn all(store: &Store, endpoints: &Endpoints) -> Result<(), StoreError> {
    let leases = store.leases().await?;
    let elsewhere: Vec<_> =
        leases.into_iter().filter_map(|(lease, elsewhere)| elsewhere.then_some(lease)).collect();
    endpoints.replace_elsewhere(elsewhere);
    Ok(())
}

/// What is said of an instance whose stream is ours can only be its goodbye, said elsewhere.
async fn one(
    store: &Store,
    endpoints: &Endpoints,
    watchers: &Watchers,
    instance: InstanceId,
) -> Result<(), StoreError> {
    if watchers.is_connected(&instance) && store.has_departed(instance).await? {
        watchers.departed(&instance);
        endpoints.remove(instance);
    }
    endpoints.put_elsewhere(instance, store.lease_elsewhere(instance).await?);
    Ok(())
}
