//! What control does by itself, each duty on its own timer; a failed one is counted, logged and tried again.
//!
//! | duty | every | does |
//! | --- | --- | --- |
//! | identity | 1 s, and with each change | takes in what authorities there are; replaces control's own SVID, when due |
//! | authorities | 1 s | makes and replaces the intermediate of this replica; leader: makes, activates and removes roots, removes intermediates, each when its time has come |
//! | lapse | 1 s | lists instances whose last SVID ended over 2 s ago without a renewal |
//! | upstream | 2 s | leader: has the CA above ours sign the next intermediate, when due |
//! | tokens | 2 s | asks tokens with keys of authorities whether they are there; leader: destroys keys there that have ended |
//! | crl | 1 s | leader: makes revocation lists, when due; takes in the newest |
//! | endpoints | 2 s | forgets endpoints that no stream has held for their grace |
//! | replicas | 5 s | says that this replica runs; leader: forgets those that were not seen for 90 s |
//! | measure | 5 s | numbers for the metrics |
//! | requests | 5 s | marks requests that nobody decided about in time |
//! | prune | 60 s | drops what is long over, in small batches |
//! | federation | 2 s | looks at federated trust domains; leader: fetches bundles that are due |
//! | audit | at start, then 1 h | verifies the chain of audit events from its beginning |
//! | checkpoint | 1 s | signs the audit, when due |
//! | export | 1 s, each sink by itself | brings copies of the audit up to date |
//!
//! Where replicas share a store, the one that leads rotates, lapses, prunes, signs and copies; what it decides is decided in the
//! commit once more.
//!
//! Lapse and restarts: that an instance lapsed is a fact about its certificates, not about who was connected.
//! A renewal needs an SVID that has not ended, and an SVID is recorded before it is given out; so an
//! instance whose newest SVID has ended can never renew, whether or not control was away meanwhile, and
//! waiting would not save it. After a start control only waits `SETTLE`, so that proxies with a good SVID
//! that come back at that moment first get the whole state, then what lapsed.
//!
//! All of this believes the clock. So after it jumped, nothing lapses until it has been steady for `STEADY`,
//! and nothing is pruned for `STEADY_LONG`; and what a wrong clock lapsed all the same comes back when its SVID
//! turns out to be good (`store::lapse`).

mod audit;
mod authorities;
mod clock;
mod crl;
mod record;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use metrics_exporter_prometheus::PrometheusHandle;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{Gate, OwnIdentity};
use crate::audit::{Checkpointer, Exports};
use crate::ca::Authority;
use crate::crl::Lists;
use crate::federation::Federations;
use crate::publish::{Endpoints, MeshState, Watchers};
use crate::registry;
use crate::store::Store;
use crate::telemetry::metrics;
use crate::time;

use clock::SteadyClock;

pub use record::DutyRecord;

const SETTLE: Duration = Duration::from_secs(5);
/// A renewal on its way when its predecessor ended must not be overtaken by our clock.
const LAPSE_GRACE: Duration = Duration::from_secs(2);
const LAPSE_BATCH: u32 = 200;
/// How long the clock must have kept pace before what it says ends anything for others ...
const STEADY: Duration = Duration::from_secs(60);
/// ... and before anything is dropped for good.
const STEADY_LONG: Duration = Duration::from_secs(3600);
/// A replica that says nothing for this long is gone: its proxies had time to come to another.
const REPLICA_GONE: Duration = Duration::from_secs(90);
/// Verifiers' clocks may be slow.
const CLOCK_SLACK: Duration = Duration::from_secs(3600);
/// Revocations stay this long after the last certificate they cover: a proxy that was cut off meanwhile still
/// has connections that were good when it was, and learns only from the list that they are not.
pub(crate) const REVOCATION_KEPT: Duration = registry::MAX_TTL.saturating_add(CLOCK_SLACK);
/// Certificates, instances and tokens are kept this long after they ended: for questions asked afterwards,
/// and so that their keys are not certified again meanwhile.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
const KEPT_REVISIONS: u32 = 10_000;
const PRUNE_BATCH: u32 = 500;

/// What the duties work on.
#[derive(Clone)]
pub struct Duties {
    /// Durable state.
    pub store: Store,
    /// Signing keys.
    pub authority: Arc<Authority>,
    /// Control's own SVID.
    pub own: Arc<OwnIdentity>,
    /// Other trust domains.
    pub federations: Federations,
    /// Revocation lists for those who are not proxies.
    pub lists: Arc<Lists>,
    /// Where instances listen.
    pub endpoints: Arc<Endpoints>,
    /// Whether streams are refused, as there is no database.
    pub cut_off: watch::Receiver<bool>,
    /// Open Watch streams.
    pub watchers: Arc<Watchers>,
    /// When this process started.
    pub started_at: SystemTime,
    /// Wants to be kept up now and then.
    pub metrics: PrometheusHandle,
    /// Signs the audit.
    pub checkpointer: Arc<Checkpointer>,
    /// Where copies of the audit go.
    pub exports: Exports,
    /// Knows what was refused.
    pub gate: Gate,
    /// How long edges are kept that are silent.
    pub connections_kept: Duration,
    /// What proxies are told.
    pub state: watch::Receiver<Arc<MeshState>>,
    /// When each duty last succeeded.
    pub record: DutyRecord,
    /// What may run full.
    pub data_dir: PathBuf,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Duties {
    /// Starts them all; they end with `stop`.
    pub fn start(self, tasks: &TaskTracker, stop: &CancellationToken) {
        let second = Duration::from_secs(1);
        let clock = Arc::new(Mutex::new(SteadyClock::new(Instant::now(), time::now())));
        let steady = move |long| clock.lock().steady_for(long, Instant::now(), time::now());
        let (lapse_now, forget_now, given_now, expire_now, prune_now, rotate_now) =
            (steady.clone(), steady.clone(), steady.clone(), steady.clone(), steady.clone(), steady);
        self.spawn(tasks, stop, "identity", second, |duties| async move { duties.identity().await });
        self.follow_authorities(tasks, stop);
        self.spawn(tasks, stop, "authorities", second, move |duties| {
            let steady = rotate_now(STEADY);
            async move { duties.authorities(steady).await }
        });
        self.spawn(tasks, stop, "upstream", 2 * second, |duties| async move { duties.upstream().await });
        self.spawn(tasks, stop, "tokens", 2 * second, |duties| async move { duties.tokens().await });
        self.spawn(tasks, stop, "lapse", second, move |duties| {
            let steady = lapse_now(STEADY);
            async move { if steady && duties.store.leads() { duties.lapse().await } else { Ok(()) } }
        });
        self.spawn(tasks, stop, "crl", second, |duties| async move { duties.lists().await });
        self.spawn(tasks, stop, "endpoints", 2 * second, |duties| async move { duties.endpoints().await });
        self.spawn(tasks, stop, "replicas", 5 * second, move |duties| {
            let steady = forget_now(STEADY);
            async move { duties.replicas(steady).await }
        });
        self.spawn(tasks, stop, "measure", 5 * second, |duties| async move { duties.measure().await });
        self.spawn(tasks, stop, "prune", 60 * second, move |duties| {
            let steady = prune_now(STEADY_LONG);
            async move { if steady && duties.store.leads() { duties.prune().await } else { Ok(()) } }
        });
        self.spawn(tasks, stop, "templates", 3600 * second, move |duties| {
            let steady = given_now(STEADY_LONG);
            async move { if steady && duties.store.leads() { duties.forget_given().await } else { Ok(()) } }
        });
        self.spawn(tasks, stop, "refusals", 600 * second, |duties| async move {
            Ok(duties.gate.summarize_refusals().await?)
        });
        self.spawn(tasks, stop, "requests", 5 * second, move |duties| {
            let steady = expire_now(STEADY);
            async move { if steady && duties.store.leads() { duties.requests().await } else { Ok(()) } }
        });
        self.spawn(tasks, stop, "federation", 2 * second, |duties| async move {
            Ok(duties.federations.look(duties.store.leads()).await?)
        });
        self.spawn(tasks, stop, "audit", 3600 * second, |duties| async move { duties.audit().await });
        self.spawn_checkpoints(tasks, stop);
        self.spawn_exports(tasks, stop);
    }

    fn spawn<F, R>(
        &self,
        tasks: &TaskTracker,
        stop: &CancellationToken,
        name: &'static str,
        every: Duration,
        work: F,
    ) where
        F: Fn(Self) -> R + Send + 'static,
        R: Future<Output = Result<(), Failure>> + Send,
    {
        let (duties, stop) = (self.clone(), stop.clone());
        self.record.begins(name, every, Instant::now());
        tasks.spawn(async move {
            let first = if name == "lapse" { SETTLE } else { Duration::ZERO };
            let mut timer = tokio::time::interval_at(tokio::time::Instant::now() + first, every);
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = timer.tick() => {}
                }
                match work(duties.clone()).await {
                    Ok(()) => duties.record.succeeded(name, Instant::now()),
                    Err(error) => {
                        tracing::error!(duty = name, %error, "duty failed; it is tried again");
                        metrics::duty_failed(name);
                    }
                }
            }
        });
    }

    async fn identity(&self) -> Result<(), Failure> {
        let now = time::now();
        self.authority.refresh().await?;
        // A leaf does not start before its issuer.
        if self.own.rotation_is_due(now) && self.authority.intermediate().certified().not_before() <= now {
            self.own.rotate().await?;
            tracing::info!(not_after = %time::rfc3339(self.own.not_after()), "own SVID replaced");
        }
        Ok(())
    }

    async fn lapse(&self) -> Result<(), Failure> {
        let ended_before = time::now() - LAPSE_GRACE;
        while self.store.any_lapsed(ended_before).await? {
            let lapsed = self.store.lapse_instances(ended_before, LAPSE_BATCH).await?;
            for instance in &lapsed {
                tracing::warn!(%instance, "instance lapsed: its last SVID ended without a renewal");
            }
            metrics::lapsed(lapsed.len());
        }
        Ok(())
    }

    async fn requests(&self) -> Result<(), Failure> {
        let now = time::now();
        while self.store.any_request_expired(now).await? {
            self.store.expire_requests(now, PRUNE_BATCH).await?;
        }
        Ok(())
    }

    async fn endpoints(&self) -> Result<(), Failure> {
        // Nobody can come here, and nobody knows who is elsewhere.
        if *self.cut_off.borrow() {
            return Ok(());
        }
        let mut due = self.endpoints.due(Instant::now());
        if self.store.is_shared() {
            // Who has only moved is there all the time.
            for instance in &due {
                if let Some(lease) = self.store.lease_elsewhere(*instance).await? {
                    self.endpoints.put_elsewhere(*instance, Some(lease));
                }
            }
        }
        due = self.endpoints.sweep(due, Instant::now());
        if !due.is_empty() {
            tracing::info!(instances = due.len(), "endpoints of instances that did not come back forgotten");
            self.store.remove_leases(due).await?;
        }
        Ok(())
    }

    async fn replicas(&self, forget: bool) -> Result<(), Failure> {
        if !self.store.is_shared() {
            return Ok(());
        }
        if !self.store.heartbeat(self.started_at).await? {
            self.watchers.write_all();
        }
        // Whoever was away from the store saw nobody there.
        if forget && self.store.has_led_for(REPLICA_GONE) {
            let gone = self.store.forget_replicas(self.store.shared_now() - REPLICA_GONE).await?;
            if gone > 0 {
                tracing::warn!(replicas = gone, "replicas that were not seen for long are forgotten");
            }
        }
        Ok(())
    }

    async fn measure(&self) -> Result<(), Failure> {
        if let Ok(room) = rustix::fs::statvfs(&self.data_dir) {
            metrics::data_directory_free(room.f_bavail * room.f_frsize);
        }
        let counts = self.store.counts(time::now()).await;
        metrics::store_reachable(counts.is_ok());
        let counts = counts?;
        let committed = self.store.committed().borrow().revision;
        let told = self.state.borrow().processed;
        metrics::published(told);
        metrics::revision_lag(committed.saturating_sub(told));
        metrics::leads(self.store.leads());
        metrics::counts(counts.live_svids, counts.workloads);
        metrics::edges(self.store.edges_kept().await?);
        metrics::authority_ends("root", self.authority.root().not_after());
        metrics::authority_ends("intermediate", self.authority.intermediate().certified().not_after());
        if let Some(ends) = self.authority.jwt_key_ends() {
            metrics::authority_ends("jwt", ends);
        }
        metrics::authority_ends("own", self.own.not_after());
        self.metrics.run_upkeep();
        Ok(())
    }

    async fn forget_given(&self) -> Result<(), Failure> {
        loop {
            let forgotten = self.store.forget_given(time::now() - KEPT, PRUNE_BATCH).await?;
            metrics::pruned("given", forgotten);
            if forgotten < u64::from(PRUNE_BATCH) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn prune(&self) -> Result<(), Failure> {
        let now = time::now();
        loop {
            let revocations =
                self.store.prune_revocations(now - REVOCATION_KEPT, now - CLOCK_SLACK, PRUNE_BATCH).await?;
            let ended = self.store.prune_ended(now - KEPT, PRUNE_BATCH).await?;
            let revisions = self.store.prune_revisions(KEPT_REVISIONS, PRUNE_BATCH).await?;
            let edges = self.store.prune_edges(now - self.connections_kept, PRUNE_BATCH).await?;
            let outsiders = self.store.prune_outsiders(now - self.connections_kept, PRUNE_BATCH).await?;
            metrics::pruned("edges", edges);
            metrics::pruned("outsiders", outsiders);
            metrics::pruned("revocations", revocations);
            metrics::pruned("ended", ended);
            metrics::pruned("revisions", revisions);
            if revocations + ended + revisions + edges + outsiders == 0 {
                return Ok(());
            }
            // Between batches everybody else has their turn.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
