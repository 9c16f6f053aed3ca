//! What operators do, over the local socket, many calls at a time.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use signet_proto::spiffe::SpiffeId;
use signet_proto::ticket::JoinTicket;
use signet_proto::v1;
use signet_proto::v1::admin_client::AdminClient;

use super::connection::{Connection, origin};

/// Nobody waits for a ticket longer than a run lasts.
const TICKET_LIFE: Duration = Duration::from_secs(3600);
/// `AwaitApplied` names every proxy.
const LARGEST_ANSWER: usize = 64 * 1024 * 1024;
const AWAIT: Duration = Duration::from_secs(60);

/// An operator's connection. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Operator(AdminClient<Connection>);

/// A committed change of policy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    /// When control made it, shortly before it was on disk.
    pub(crate) committed_at: SystemTime,
}

impl Operator {
    /// Connects and asks something at once: control closes the connections of those who do not.
    pub(crate) async fn connect(socket: &Path) -> Result<Self> {
        let connection = Connection::unix(socket).await.context("control's admin socket")?;
        let client = AdminClient::with_origin(connection, origin());
        let operator = Self(client.max_decoding_message_size(LARGEST_ANSWER));
        operator.status().await?;
        Ok(operator)
    }

    /// Registers a workload.
    pub(crate) async fn register(&self, id: &SpiffeId) -> Result<()> {
        let workload = v1::CreateWorkloadRequest {
            spiffe_id: id.to_string(),
            owner: "benchmark".to_owned(),
            purpose: "to be measured".to_owned(),
            ..v1::CreateWorkloadRequest::default()
        };
        self.0.clone().create_workload(workload).await?;
        Ok(())
    }

    /// Makes a ticket for a workload, good for one proxy.
    pub(crate) async fn invite(&self, id: &SpiffeId) -> Result<JoinTicket> {
        let ttl = prost_types::Duration::try_from(TICKET_LIFE).ok();
        let token = v1::CreateTokenRequest { spiffe_id: id.to_string(), ttl };
        Ok(self.0.clone().create_token(token).await?.into_inner().ticket.parse()?)
    }

    /// Applies documents of which each is new or differs from what is in force.
    pub(crate) async fn apply(&self, yaml: String, documents: usize) -> Result<Change> {
        let request = v1::ApplyPolicyRequest { yaml, file: "bench.yaml".to_owned() };
        let applied = self.0.clone().apply_policy(request).await?.into_inner();
        ensure!(applied.changes.len() == documents, "{} documents applied", applied.changes.len());
        let news = applied.changes.iter().all(|change| change.change != "unchanged");
        ensure!(news, "a document was in force already: {:?}", applied.changes);
        let committed_at = applied.committed_at.context("a commit without its time")?;
        Ok(Change { revision: applied.revision, committed_at: committed_at.try_into()? })
    }

    /// Waits as `signet` does until every connected proxy has the revision in force; says how many it concerned.
    pub(crate) async fn await_applied(&self, revision: u64) -> Result<usize> {
        let timeout = prost_types::Duration::try_from(AWAIT).ok();
        let request = v1::AwaitAppliedRequest { revision, timeout };
        let applied = self.0.clone().await_applied(request).await?.into_inner();
        let late = applied.proxies.iter().filter(|proxy| !proxy.applied).count();
        ensure!(applied.complete, "revision {revision}: {late} of {} are late", applied.proxies.len());
        Ok(applied.proxies.len())
    }

    pub(crate) async fn status(&self) -> Result<v1::StatusResponse> {
        Ok(self.0.clone().status(v1::StatusRequest {}).await?.into_inner())
    }
}
