//! Constant load: HTTP clients that keep their connection, new connections, and one long-lived TCP stream.
//!
//! A request that fails is counted and not tried again: what the summary calls zero failures is zero.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::http::Client;

/// Clients that keep their connection.
pub(crate) const KEPT_CLIENTS: u64 = 4;
/// Clients that connect for every request.
pub(crate) const NEW_CLIENTS: u64 = 2;
const KEPT_PACE: Duration = Duration::from_millis(10);
const NEW_PACE: Duration = Duration::from_millis(100);
const STREAM_PACE: Duration = Duration::from_millis(20);
/// Messages of failures kept to show.
const SHOWN_FAILURES: usize = 3;

/// What has been counted so far.
#[derive(Default)]
pub(crate) struct Counts {
    requests: AtomicU64,
    failed: AtomicU64,
    kept_connects: AtomicU64,
    new_connects: AtomicU64,
    took_micros: Mutex<Vec<u32>>,
    failures: Mutex<Vec<String>>,
}

impl Counts {
    /// Requests answered with 200 or failed.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Requests that got anything but a 200.
    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Connections made by the clients that keep theirs: one each, if none was closed on them.
    pub(crate) fn kept_connects(&self) -> u64 {
        self.kept_connects.load(Ordering::Relaxed)
    }

    /// Connections made by the others.
    pub(crate) fn new_connects(&self) -> u64 {
        self.new_connects.load(Ordering::Relaxed)
    }

    /// The first few failures.
    pub(crate) fn failures(&self) -> Vec<String> {
        self.failures.lock().clone()
    }

    /// The time within which this part of the requests was answered, `0.5` being half of them.
    pub(crate) fn quantile(&self, part: f64) -> Duration {
        let mut took = self.took_micros.lock().clone();
        took.sort_unstable();
        quantile_of(&took, part)
    }

    fn record(&self, outcome: Result<()>, took: Duration) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        match outcome {
            Ok(()) => self.took_micros.lock().push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX)),
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                let mut failures = self.failures.lock();
                if failures.len() < SHOWN_FAILURES {
                    failures.push(format!("{error:#}"));
                }
            }
        }
    }
}

fn quantile_of(sorted: &[u32], part: f64) -> Duration {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "an index into a small vector, from a part between 0 and 1"
    )]
    let place = (sorted.len().saturating_sub(1) as f64 * part).round() as usize;
    Duration::from_micros(sorted.get(place).copied().map_or(0, u64::from))
}

/// HTTP load that runs until it is stopped.
pub(crate) struct HttpLoad {
    /// What it has counted.
    pub(crate) counts: Arc<Counts>,
    stop: watch::Sender<bool>,
    clients: JoinSet<()>,
}

impl HttpLoad {
    /// Starts asking for `path` at `address`.
    pub(crate) fn start(address: SocketAddr, path: &'static str) -> Self {
        let counts = Arc::new(Counts::default());
        let (stop, stopped) = watch::channel(false);
        let mut clients = JoinSet::new();
        for _ in 0..KEPT_CLIENTS {
            clients.spawn(keep_asking(address, path, Arc::clone(&counts), stopped.clone()));
        }
        for _ in 0..NEW_CLIENTS {
            clients.spawn(ask_anew(address, path, Arc::clone(&counts), stopped.clone()));
        }
        Self { counts, stop, clients }
    }

    /// Lets every client finish its request, and ends.
    pub(crate) async fn stop(mut self) -> Arc<Counts> {
        self.stop.send_replace(true);
        while self.clients.join_next().await.is_some() {}
        self.counts
    }
}

async fn keep_asking(
    address: SocketAddr,
    path: &'static str,
    counts: Arc<Counts>,
    stopped: watch::Receiver<bool>,
) {
    let mut client = Client::new(address);
    let mut pace = pace(KEPT_PACE);
    let mut connects = 0;
    while !*stopped.borrow() {
        pace.tick().await;
        let started = Instant::now();
        let outcome = ask(&mut client, path).await;
        counts.record(outcome, started.elapsed());
        counts.kept_connects.fetch_add(client.connects() - connects, Ordering::Relaxed);
        connects = client.connects();
    }
}

async fn ask_anew(
    address: SocketAddr,
    path: &'static str,
    counts: Arc<Counts>,
    stopped: watch::Receiver<bool>,
) {
    let mut pace = pace(NEW_PACE);
    while !*stopped.borrow() {
        pace.tick().await;
        let started = Instant::now();
        let outcome = ask(&mut Client::new(address), path).await;
        counts.record(outcome, started.elapsed());
        counts.new_connects.fetch_add(1, Ordering::Relaxed);
    }
}

async fn ask(client: &mut Client, path: &str) -> Result<()> {
    let answer = client.get(path).await?;
    ensure!(answer.status == 200, "{path} answered {} {}", answer.status, answer.body.trim_end());
    Ok(())
}

fn pace(every: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(every);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// A TCP connection that says something all the time and expects the same back.
pub(crate) struct Stream {
    state: watch::Receiver<StreamState>,
    task: tokio::task::JoinHandle<()>,
}

/// How far a stream is.
#[derive(Clone, Debug, Default)]
pub(crate) struct StreamState {
    /// Messages that came back as they were sent.
    pub(crate) echoed: u64,
    /// When and how it ended, if it did.
    pub(crate) ended: Option<(Timestamp, String)>,
}

impl Stream {
    /// Connects to `address` and waits for the first message to come back.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let connection = TcpStream::connect(address).await.context("cannot connect")?;
        connection.set_nodelay(true)?;
        let (state, mut seen) = watch::channel(StreamState::default());
        let task = tokio::spawn(talk(connection, state));
        let first = seen.wait_for(|state| state.echoed > 0 || state.ended.is_some());
        let first =
            tokio::time::timeout(Duration::from_secs(5), first).await.context("nothing came back")??.clone();
        if let Some((_, why)) = first.ended {
            anyhow::bail!("the stream ended at once: {why}");
        }
        Ok(Self { state: seen, task })
    }

    /// How far it is now.
    pub(crate) fn state(&self) -> StreamState {
        self.state.borrow().clone()
    }

    /// Waits until it ends; none if it does not within `deadline`.
    pub(crate) async fn end_within(&mut self, deadline: Duration) -> Option<(Timestamp, String)> {
        let end = self.state.wait_for(|state| state.ended.is_some());
        tokio::time::timeout(deadline, end).await.ok()?.ok()?.ended.clone()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn talk(mut connection: TcpStream, state: watch::Sender<StreamState>) {
    let mut pace = pace(STREAM_PACE);
    let mut echoed = 0_u64;
    let why = loop {
        // Waiting to speak is listening too: a connection that is cut is seen at once.
        let mut early = [0; 1];
        tokio::select! {
            _ = pace.tick() => {}
            got = connection.read(&mut early) => match got {
                Ok(0) => break "closed by the proxy".to_owned(),
                Ok(_) => break "a byte came that nobody sent".to_owned(),
                Err(error) => break error.to_string(),
            }
        }
        match say(&mut connection, echoed).await {
            Ok(()) => {}
            Err(error) if was_closed(&error) => break "closed by the proxy".to_owned(),
            Err(error) => break format!("{error:#}"),
        }
        echoed += 1;
        state.send_modify(|state| state.echoed = echoed);
    };
    state.send_modify(|state| state.ended = Some((Timestamp::now(), why)));
}

fn was_closed(error: &anyhow::Error) -> bool {
    error
        .downcast_ref()
        .is_some_and(|error: &std::io::Error| error.kind() == std::io::ErrorKind::UnexpectedEof)
}

async fn say(connection: &mut TcpStream, number: u64) -> Result<()> {
    let sent = number.to_be_bytes();
    connection.write_all(&sent).await?;
    let mut back = [0; 8];
    connection.read_exact(&mut back).await?;
    ensure!(back == sent, "sent {sent:?}, got {back:?} back");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_nothing_and_of_a_hundred() {
        assert_eq!(quantile_of(&[], 0.99), Duration::ZERO);
        let hundred: Vec<u32> = (0..=100).collect();
        assert_eq!(quantile_of(&hundred, 0.5), Duration::from_micros(50));
        assert_eq!(quantile_of(&hundred, 0.99), Duration::from_micros(99));
        assert_eq!(quantile_of(&hundred, 1.0), Duration::from_micros(100));
    }

    #[tokio::test]
    async fn a_stream_that_is_cut_knows_when_and_how() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, wait) = tokio::sync::oneshot::channel::<()>();
        tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            let (mut read, mut write) = connection.split();
            tokio::select! { _ = tokio::io::copy(&mut read, &mut write) => {}, _ = wait => {} }
        });
        let mut stream = Stream::open(address).await.unwrap();
        assert!(stream.state().ended.is_none());
        cut.send(()).unwrap();
        let (_, why) = stream.end_within(Duration::from_secs(5)).await.unwrap();
        assert!(!why.is_empty());
        assert!(stream.state().echoed > 0);
    }

    #[tokio::test]
    async fn every_request_that_fails_is_counted() {
        let nobody = { tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap() };
        let load = HttpLoad::start(nobody, "/");
        while load.counts.requests() < 10 {
            tokio::task::yield_now().await;
        }
        let counts = load.stop().await;
        assert_eq!(counts.failed(), counts.requests());
        assert!(!counts.failures().is_empty());
    }
}
