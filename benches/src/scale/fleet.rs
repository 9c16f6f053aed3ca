//! The simulated proxies. Each follows control as the real one does: a connection with its own SVID, one stream,
//! a report for everything it was told and another every 30 s, and the real backoff when it lost control. It keeps
//! nothing of what it is told but numbers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use parking_lot::Mutex;
use rustls::ClientConfig;
use signet_proto::handshake::{ALPN_H2, client_config};
use signet_proto::v1::mesh_client::MeshClient;
use signet_proto::v1::report_client::ReportClient;
use signet_proto::v1::{Listener, ReportRequest, WatchRequest};
use signet_proxy::backoff::Backoff;
use signet_proxy::control::control_id;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::board::Slot;
use super::members::{Member, Roll};
use crate::control::connection::{Broken, Connection, origin};

/// `signet_proxy::mesh`: the steps of the backoff, and how often a proxy says that all is well.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
const REPORT_EVERY: Duration = Duration::from_secs(30);
const LARGEST_MESSAGE: usize = 64 * 1024 * 1024;
/// Streams opened at a time, at first; a herd asks nobody.
const OPENING: usize = 128;
const INBOUND: Listener = Listener { port: 15443, app_port: 8080 };

/// Everybody's streams.
pub(super) struct Fleet {
    slots: Arc<[Slot]>,
    failures: Failures,
    tasks: JoinSet<()>,
}

/// Why streams ended or did not open, counted.
type Failures = Arc<Mutex<BTreeMap<String, u64>>>;

/// One proxy.
struct Proxy {
    number: usize,
    member: Member,
    tls: Arc<ClientConfig>,
    control: SocketAddr,
    upstreams: Vec<String>,
    slots: Arc<[Slot]>,
    failures: Failures,
}

impl Fleet {
    /// Starts everybody; each follows the endpoints of the `upstreams` next ones.
    pub(super) fn start(roll: Roll, control: SocketAddr, upstreams: usize) -> Result<Self> {
        let Roll { members, trust, domain } = roll;
        let count = members.len();
        let slots: Arc<[Slot]> = (0..count).map(|_| Slot::default()).collect();
        let failures = Failures::default();
        let opening = Arc::new(Semaphore::new(OPENING));
        let mut tasks = JoinSet::new();
        for (number, member) in members.into_iter().enumerate() {
            let next = (1..=upstreams).map(|step| super::id_of(&domain, (number + step) % count));
            let upstreams = next.map(|id| Ok(id?.to_string())).collect::<Result<_>>()?;
            let tls =
                client_config(Some(&member.svid), Arc::clone(&trust), control_id(&domain)?, &[ALPN_H2])?;
            let (slots, failures) = (Arc::clone(&slots), Arc::clone(&failures));
            let proxy = Proxy { number, member, tls, control, upstreams, slots, failures };
            tasks.spawn(proxy.live(Arc::clone(&opening)));
        }
        Ok(Self { slots, failures, tasks })
    }

    pub(super) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    pub(super) fn slot(&self, number: usize) -> Result<&Slot> {
        self.slots.get(number).context("no such proxy")
    }

    /// All messages so far.
    pub(super) fn messages(&self) -> u64 {
        self.slots.iter().map(Slot::messages).sum()
    }

    /// Waits until all slots are as `wanted`; `seen` is told how many are.
    pub(super) async fn until_all(
        &self,
        what: &str,
        within: Duration,
        wanted: impl Fn(usize, &Slot) -> bool,
        seen: impl Fn(usize),
    ) -> Result<()> {
        let deadline = Instant::now() + within;
        loop {
            let ready = self.slots.iter().enumerate().filter(|(number, slot)| wanted(*number, slot)).count();
            seen(ready);
            self.require_sound()?;
            if ready == self.slots.len() {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{what}: {ready} of {} within {within:?}; failures: {:?}",
                self.slots.len(),
                self.failures()
            );
            // When something arrived was noted by whom it reached: a poll makes no figure worse.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until nobody was told anything for `quiet`.
    pub(super) async fn until_quiet(&self, quiet: Duration, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        let mut before = self.messages();
        loop {
            tokio::time::sleep(quiet).await;
            let now = self.messages();
            if now == before {
                return self.require_sound();
            }
            ensure!(Instant::now() < deadline, "still told something after {within:?}");
            before = now;
        }
    }

    /// Streams that failed since this was asked last, by reason.
    pub(super) fn failures(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut *self.failures.lock())
    }

    /// Fails when somebody was told what control must not say.
    fn require_sound(&self) -> Result<()> {
        let fault = self.slots.iter().enumerate().find_map(|(number, slot)| Some((number, slot.fault()?)));
        match fault {
            None => Ok(()),
            Some((number, fault)) => anyhow::bail!("proxy {number}: {fault}"),
        }
    }

    /// Closes everything.
    pub(super) async fn end(mut self) {
        self.tasks.shutdown().await;
    }
}

impl Proxy {
    /// Follows control for ever.
    async fn live(self, opening: Arc<Semaphore>) {
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        let mut turn = opening.acquire_owned().await.ok();
        loop {
            let told = || drop(turn.take());
            if let Err(broken) = self.follow(&mut backoff, told).await {
                *self.failures.lock().entry(broken.reason()).or_default() += 1;
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    async fn follow(&self, backoff: &mut Backoff, mut told: impl FnMut()) -> Result<(), Broken> {
        let connection = Connection::tls(self.member.source, self.control, &self.tls).await?;
        let mut client =
            MeshClient::with_origin(connection.clone(), origin()).max_decoding_message_size(LARGEST_MESSAGE);
        let request = WatchRequest {
            listeners: vec![INBOUND],
            upstreams: self.upstreams.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..WatchRequest::default()
        };
        let mut messages = Box::pin(client.watch(request)).await?.into_inner();
        let (applied, news) = watch::channel((0, 0));
        let receive = async {
            let mut first = true;
            while let Some(message) = messages.message().await? {
                if let Some(slot) = self.slots.get(self.number) {
                    slot.told(&message, first, signet_proto::clock::now());
                }
                first = false;
                told();
                backoff.reset();
                applied.send_replace((message.revision, message.position));
            }
            Err(Broken::Ended)
        };
        tokio::select! {
            ended = receive => ended,
            () = self.report(connection, news) => Ok(()),
        }
    }

    /// Acknowledges what came, and repeats the newest now and then.
    async fn report(&self, connection: Connection, mut news: watch::Receiver<(u64, u64)>) {
        let mut client = ReportClient::with_origin(connection, origin());
        loop {
            tokio::select! {
                changed = news.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(REPORT_EVERY) => {}
            }
            let (applied_revision, position) = *news.borrow_and_update();
            let report = ReportRequest { applied_revision, position, ..ReportRequest::default() };
            if Box::pin(client.report(report)).await.is_err() {
                *self.failures.lock().entry("report".to_owned()).or_default() += 1;
            }
        }
    }
}
