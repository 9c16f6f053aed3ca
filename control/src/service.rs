//! The whole service, put together: who gets what. No decisions here.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{
    self, CertificateError, CertificateFiles, Gate, Health, OwnIdentity, OwnIdentityError, Rooms, ServeError,
    Shows, Told,
};
use crate::attest::{Attestors, AttestorsError, Tokens};
use crate::audit::{
    self, CheckpointFailure, Checkpointer, Exporter, Exports, GuardError, Sink, SinkAddress, SinkError,
};
use crate::ca::{Authority, CaError};
use crate::config::Config;
use crate::crl::Lists;
use crate::duty::{Duties, DutyRecord};
use crate::federation::Federations;
use crate::inventory;
use crate::issue::Issuer;
use crate::policy::Policies;
use crate::publish::{self, Endpoints, Publisher, Watchers};
use crate::registry::Registry;
use crate::store::{DataDir, Location, Store, StoreError};
use crate::time;

/// What is still open after this is cut: the store has every change already.
const SHUTDOWN: Duration = Duration::from_secs(5);
/// Those who follow the audit at the same time.
const MAX_TAILS: usize = 16;

/// Why the service does not start, or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The signing keys.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// Control's own SVID.
    #[error(transparent)]
    Own(#[from] OwnIdentityError),
    /// The key that signs checkpoints of the audit.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointFailure),
    /// The store is older than it was, or what says how old it was cannot be read.
    #[error(transparent)]
    Older(#[from] GuardError),
    /// A copy of the audit.
    #[error("audit-sink: {0}")]
    Sink(#[from] SinkError),
    /// A way of proving who asks.
    #[error(transparent)]
    Attestors(#[from] AttestorsError),
    /// A listener.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// What the HTTPS listener is to show.
    #[error("https-certificate, https-key: {0}")]
    Certificate(#[from] CertificateError),
    /// A bound socket without an address.
    #[error("listener without an address: {0}")]
    Address(std::io::Error),
    /// A server ended without being told to.
    #[error("the server for {0} ended by itself")]
    Ended(&'static str),
}

/// A running service.
pub struct Service {
    /// Where proxies connect.
    pub grpc: SocketAddr,
    /// Metrics and health.
    pub http: SocketAddr,
    /// Where anybody reads the trust bundle over TLS, by the setting that says so.
    pub public: Vec<(&'static str, SocketAddr)>,
    admin_socket: PathBuf,
    /// An embedded store claims its directory itself.
    _claim: Option<DataDir>,
    #[cfg(test)]
    pub(crate) store: Store,
    stop: CancellationToken,
    tasks: TaskTracker,
    mesh: JoinHandle<Result<(), ServeError>>,
    operators: JoinHandle<Result<(), ServeError>>,
}

impl Service {
    /// Opens the store and the keys, then the doors.
    ///
    /// # Errors
    /// The first thing that cannot be opened.
    pub async fn start(config: Config, metrics: PrometheusHandle) -> Result<Self, ServiceError> {
        let domain = config.trust_domain;
        let claim = match config.store {
            Location::Directory(_) => None,
            Location::Server(_) => Some(DataDir::claim(&config.data_dir)?),
        };
        let replica = claim.as_ref().map(|claim| claim.name()).transpose()?;
        let store = match replica {
            None => Store::open(config.store, &domain)?,
            Some(replica) => Store::open_as(config.store, &domain, &replica)?,
        };
        let (store, started_at) = (store.with_limits(config.limits), time::now());
        // It is known to run before it has anything of its own.
        if store.is_shared() {
            store.heartbeat(started_at).await?;
        }
        let authority = Authority::open_with(
            store.clone(),
            domain.clone(),
            &config.seal_key,
            &config.ca_keys,
            config.lives,
            config.crl_url.clone(),
            config.upstream,
        )
        .await?;
        let authority = Arc::new(authority);
        let every = config.audit_checkpoint_every;
        let checkpointer =
            Checkpointer::open(&store, authority.seal(), domain.clone(), every, config.data_dir.clone())
                .await?;
        let file_sinks = config.audit_sinks.iter().filter_map(SinkAddress::file);
        let kept = audit::kept_checkpoints(&config.data_dir, file_sinks)?;
        let accept = config.accept_older_store;
        if audit::require_all_contained(&store, checkpointer.key(), kept, accept).await?
            && let Err(error) = checkpointer.run_now(&store, time::now()).await
        {
            tracing::error!(%error, "that this store was accepted is not signed yet");
        }
        let checkpointer = Arc::new(checkpointer);
        let sinks: Vec<Sink> = config.audit_sinks.into_iter().map(Sink::open).collect::<Result<_, _>>()?;
        let exports = Exports::new(sinks.into_iter().map(Exporter::new));
        // Control shows itself by it: it cannot wait for the duty.
        authority.revive(time::now()).await?;
        let token_issuer = config.issue.jwt.issuer.clone();
        let issuer = Issuer::new(Arc::clone(&authority), store.clone(), config.issue);
        let own = OwnIdentity::new(issuer.clone(), config.ttl.default).await?;
        let own = Arc::new(own);

        let grpc = api::bind("grpc-listen", config.grpc_listen).await?;
        let http = api::bind("http-listen", config.http_listen).await?;
        let (mut public, mut https_files) = (Vec::new(), None);
        if let Some(https) = config.https {
            let files = Arc::new(CertificateFiles::open(https.certificate, https.key).await?);
            let listener = api::bind("https-listen", https.listen).await?;
            https_files = Some(Arc::clone(&files));
            public.push(("https-listen", Shows::Files(files), listener));
        }
        if let Some(at) = config.federation_listen {
            let listener = api::bind("federation-listen", at).await?;
            public.push(("federation-listen", Shows::Own(Arc::clone(&own)), listener));
        }
        // Users of this machine can be given roles: wherever they reach the socket, they may try it.
        let reachable = !config.admin_socket.starts_with(&config.data_dir);
        let socket = api::bind_socket(&config.admin_socket, reachable)?;
        let grpc_at = grpc.local_addr().map_err(ServiceError::Address)?;
        let http_at = http.local_addr().map_err(ServiceError::Address)?;

        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        store.close_standings().await?;
        let endpoints = Arc::new(Endpoints::restore(store.leases().await?, Instant::now()));
        let watchers = Arc::new(Watchers::default());
        let publisher =
            Publisher::load(store.clone(), Arc::clone(&endpoints), Arc::clone(&watchers), domain.clone())
                .await?;
        let state = publisher.subscribe();
        tasks.spawn(publisher.run(stop.clone()));

        let own_uid = rustix::process::geteuid().as_raw();
        let admins: HashSet<u32> = config.admin_uids.into_iter().chain([0, own_uid]).collect();
        let advertise =
            if config.advertise.is_empty() { vec![grpc_at.to_string()] } else { config.advertise };
        tasks.spawn(publish::write_standings(store.clone(), Arc::clone(&watchers), stop.clone()));
        tasks.spawn(publish::follow_endpoints(
            store.clone(),
            Arc::clone(&endpoints),
            Arc::clone(&watchers),
            stop.clone(),
        ));
        let (cut, cut_off) = watch::channel(false);
        tasks.spawn(publish::keep_contact(
            store.clone(),
            Arc::clone(&endpoints),
            Arc::clone(&watchers),
            cut,
            stop.clone(),
        ));
        tasks.spawn(publish::end_streams(Arc::clone(&watchers), stop.clone()));
        let attestors =
            Attestors::start(store.clone(), &domain, config.attestors, authority.challenge_key())?;
        tasks.spawn(attestors.clone().run(stop.clone()));
        let record = DutyRecord::default();
        let lists = Arc::new(Lists::new(config.crl_every, config.crl_url));
        let federations = Federations::new(store.clone(), Arc::clone(&authority));
        let health = Health {
            federations: federations.clone(),
            store: store.clone(),
            authority: Arc::clone(&authority),
            own: Arc::clone(&own),
            https: https_files,
            lists: Arc::clone(&lists),
            exports: exports.clone(),
            duties: record.clone(),
            data_dir: config.data_dir.clone(),
            state: state.clone(),
        };
        let rooms = Rooms {
            health: health.clone(),
            federations: federations.clone(),
            registry: Registry::new(store.clone(), domain.clone(), config.ttl),
            policies: Policies::new(store.clone()),
            attestors,
            tokens: Tokens::new(store.clone(), Arc::clone(&authority), advertise),
            gate: Gate::new(store.clone(), state.clone(), domain.clone(), admins),
            watchers: Arc::clone(&watchers),
            endpoints: Arc::clone(&endpoints),
            started_at,
            cut_off: cut_off.clone(),
            stop: stop.clone(),
            audit_key: checkpointer.key().clone(),
            tails: Arc::new(Semaphore::new(MAX_TAILS)),
            store: store.clone(),
            authority: Arc::clone(&authority),
            issuer,
            state: state.clone(),
        };
        tasks.spawn(inventory::write_seen(store.clone(), Arc::clone(rooms.gate.seen()), stop.clone()));
        let duty_watchers = Arc::clone(&rooms.watchers);
        let gate = rooms.gate.clone();
        #[cfg(test)]
        let kept = store.clone();
        let duties = Duties {
            store,
            federations,
            authority,
            own: Arc::clone(&own),
            lists,
            endpoints,
            cut_off,
            watchers: Arc::clone(&duty_watchers),
            started_at,
            metrics: metrics.clone(),
            checkpointer,
            exports,
            gate,
            connections_kept: config.connections_kept,
            state,
            record,
            data_dir: config.data_dir,
        };
        duties.start(&tasks, &stop);
        let told = Told { health, metrics, issuer: token_issuer };
        let mut public_at = Vec::new();
        for (door, shows, listener) in public {
            let at = listener.local_addr().map_err(ServiceError::Address)?;
            public_at.push((door, at));
            tracing::info!(door, %at, "the trust bundle is told here");
            tasks.spawn(api::serve_https(door, shows, listener, api::public(told.clone()), stop.clone()));
        }
        tasks.spawn(api::serve_http(told, http, stop.clone()));
        let mesh = tasks.spawn(api::serve_mesh(rooms.clone(), grpc, own));
        let operators = tasks.spawn(api::serve_operators(rooms, socket));
        let admin_socket = config.admin_socket;
        tracing::info!(
            grpc = %grpc_at, http = %http_at, admin_socket = %admin_socket.display(), trust_domain = %domain,
            "listening"
        );
        Ok(Self {
            grpc: grpc_at,
            http: http_at,
            public: public_at,
            admin_socket,
            _claim: claim,
            #[cfg(test)]
            store: kept,
            stop,
            tasks,
            mesh,
            operators,
        })
    }

    /// Waits until a server ends by itself, which it should not.
    pub async fn failed(&mut self) -> ServiceError {
        let (name, ended) = tokio::select! {
            ended = &mut self.mesh => ("the mesh", ended),
            ended = &mut self.operators => ("operators", ended),
        };
        match ended {
            Ok(Err(error)) => error.into(),
            _ => ServiceError::Ended(name),
        }
    }

    /// Ends streams and listeners, and gives open calls a moment.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(SHUTDOWN, self.tasks.wait()).await.is_err() {
            tracing::warn!("some connections did not end in time and are cut");
        }
        let _ = std::fs::remove_file(&self.admin_socket);
    }
}
