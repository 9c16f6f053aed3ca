//! Bytes both ways, with half-close: when one side has finished, that is passed on and the other may go on
//! for as long as something moves.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::Instant;

use crate::telemetry::{CloseReason, Meters};

/// What a busy direction reads at once: a TLS record.
const BUFFER: usize = 16 * 1024;
/// What one holds in which nothing moved for `REST` (ztunnel 1024).
const RESTING: usize = 512;
const REST: Duration = Duration::from_secs(2);

/// How long nothing may move.
#[derive(Debug, Clone, Copy)]
pub struct Idle {
    /// While both directions are open.
    pub open: Duration,
    /// After one side has finished.
    pub half_closed: Duration,
}

impl Idle {
    /// The same, or shorter.
    #[must_use]
    pub fn at_most(self, limit: Option<Duration>) -> Self {
        let limit = limit.unwrap_or(Duration::MAX);
        Self { open: self.open.min(limit), half_closed: self.half_closed.min(limit) }
    }
}

/// How a relay ended otherwise than by both sides finishing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// The app's side failed.
    #[error("connection of the app broke: {0}")]
    App(#[source] io::Error),
    /// The peer's side failed.
    #[error("connection of the peer broke: {0}")]
    Peer(#[source] io::Error),
    /// Nothing moved for too long.
    #[error("nothing moved for {} s", .0.as_secs())]
    Idle(Duration),
}

impl From<RelayError> for (CloseReason, Option<String>) {
    fn from(error: RelayError) -> Self {
        (error.reason(), Some(error.to_string()))
    }
}

impl RelayError {
    /// The reason in metrics and log.
    #[must_use]
    pub fn reason(&self) -> CloseReason {
        match self {
            Self::App(_) => CloseReason::AppReset,
            Self::Peer(_) => CloseReason::PeerReset,
            Self::Idle(_) => CloseReason::Idle,
        }
    }
}

/// Carries bytes between the app and the peer until both have finished.
///
/// # Errors
/// When a side breaks off or nothing moves within the idle deadline.
pub async fn relay<A, P>(app: A, peer: P, meters: &Meters, idle: Idle) -> Result<(), RelayError>
where
    A: AsyncRead + AsyncWrite,
    P: AsyncRead + AsyncWrite,
{
    let (app_reader, app_writer) = tokio::io::split(app);
    let (peer_reader, peer_writer) = tokio::io::split(peer);
    let pulse = Pulse::new(idle);
    let to_peer = async {
        flow(app_reader, peer_writer, &meters.to_peer, &pulse).await.map_err(|broken| match broken {
            Broken::Reading(error) => RelayError::App(error),
            Broken::Writing(error) => RelayError::Peer(error),
        })
    };
    let to_app = async {
        flow(peer_reader, app_writer, &meters.to_app, &pulse).await.map_err(|broken| match broken {
            Broken::Reading(error) => RelayError::Peer(error),
            Broken::Writing(error) => RelayError::App(error),
        })
    };
    tokio::select! {
        both = async { tokio::try_join!(to_peer, to_app) } => both.map(|_| ()),
        idle = pulse.stopped() => Err(RelayError::Idle(idle)),
    }
}

enum Broken {
    Reading(io::Error),
    Writing(io::Error),
}

async fn flow<R: AsyncRead, W: AsyncWrite>(
    mut reader: ReadHalf<R>,
    mut writer: WriteHalf<W>,
    moved: &AtomicU64,
    pulse: &Pulse,
) -> Result<(), Broken> {
    let mut buffer = vec![0; BUFFER].into_boxed_slice();
    loop {
        if buffer.len() < BUFFER {
            buffer = vec![0; BUFFER].into_boxed_slice();
        }
        let read = match tokio::time::timeout(REST, reader.read(&mut buffer)).await {
            Ok(read) => read,
            Err(_) => {
                buffer = vec![0; RESTING].into_boxed_slice();
                reader.read(&mut buffer).await
            }
        };
        let count = read.map_err(Broken::Reading)?;
        pulse.beat();
        let data = buffer.get(..count).unwrap_or_default();
        if data.is_empty() {
            pulse.half_close();
            return match writer.shutdown().await {
                // The other side has gone already: it has nothing to be told.
                Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(Broken::Writing(error)),
                _ => Ok(()),
            };
        }
        writer.write_all(data).await.map_err(Broken::Writing)?;
        writer.flush().await.map_err(Broken::Writing)?;
        moved.fetch_add(count as u64, Ordering::Relaxed);
        pulse.beat();
    }
}

/// When something last moved, shared by both directions: one busy direction keeps both alive.
struct Pulse {
    idle: Idle,
    started: Instant,
    last_millis: AtomicU64,
    half_closed: std::sync::atomic::AtomicBool,
}

impl Pulse {
    fn new(idle: Idle) -> Self {
        Self { idle, started: Instant::now(), last_millis: AtomicU64::new(0), half_closed: false.into() }
    }

    fn beat(&self) {
        let millis = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_millis.store(millis, Ordering::Relaxed);
    }

    fn half_close(&self) {
        self.half_closed.store(true, Ordering::Relaxed);
    }

    async fn stopped(&self) -> Duration {
        loop {
            // A half-close while asleep shortens the deadline only from the next round on, so rounds are short.
            let allowed =
                if self.half_closed.load(Ordering::Relaxed) { self.idle.half_closed } else { self.idle.open };
            let last = self.started + Duration::from_millis(self.last_millis.load(Ordering::Relaxed));
            let now = Instant::now();
            if now >= last + allowed {
                return allowed;
            }
            tokio::time::sleep_until((last + allowed).min(now + self.idle.half_closed)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;

    const IDLE: Idle = Idle { open: Duration::from_secs(60), half_closed: Duration::from_secs(10) };

    #[tokio::test(start_paused = true)]
    async fn half_close_keeps_return_traffic() {
        let (mut app, app_end) = duplex(64);
        let (mut peer, peer_end) = duplex(64);
        let meters = Meters::default();
        let relayed = relay(app_end, peer_end, &meters, IDLE);
        let talk = async {
            peer.write_all(b"question").await.unwrap();
            peer.shutdown().await.unwrap();
            let mut question = String::new();
            app.read_to_string(&mut question).await.unwrap();
            tokio::time::sleep(Duration::from_secs(5)).await;
            app.write_all(b"answer").await.unwrap();
            app.shutdown().await.unwrap();
            let mut answer = String::new();
            peer.read_to_string(&mut answer).await.unwrap();
            (question, answer)
        };
        let (result, (question, answer)) = tokio::join!(relayed, talk);
        result.unwrap();
        assert_eq!((question.as_str(), answer.as_str()), ("question", "answer"));
        assert_eq!(meters.to_app.load(Ordering::Relaxed), 8);
        assert_eq!(meters.to_peer.load(Ordering::Relaxed), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_at_the_idle_deadline_and_not_before() {
        let (mut app, app_end) = duplex(64);
        let (_peer, peer_end) = duplex(64);
        let started = Instant::now();
        let meters = Meters::default();
        let relayed = relay(app_end, peer_end, &meters, IDLE);
        let talk = async {
            tokio::time::sleep(Duration::from_secs(30)).await;
            app.write_all(b"x").await.unwrap();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            result = relayed => assert!(matches!(result, Err(RelayError::Idle(_)))),
            () = talk => {}
        }
        assert_eq!(started.elapsed().as_secs(), 90);
    }

    #[tokio::test(start_paused = true)]
    async fn half_open_connection_ends_at_its_own_deadline() {
        let (app, app_end) = duplex(64);
        let (mut peer, peer_end) = duplex(64);
        peer.shutdown().await.unwrap();
        let started = Instant::now();
        let result = relay(app_end, peer_end, &Meters::default(), IDLE).await;
        assert!(matches!(result, Err(RelayError::Idle(_))));
        assert!(started.elapsed() <= Duration::from_secs(21));
        drop((app, peer));
    }
}
