//! Bytes both ways, with half-close: when one side has finished, that is passed on and the other may go on
//! for as long as something moves. Both directions are one future: while it waits it has no buffer, and while bytes flow
//! it reads the clock once each time that it is woken.

use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use signet_proto::record::MAX_CONTENT;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Duplex;
use super::tunnel::FRAME;
use crate::telemetry::{CloseReason, Meters};
use crate::tls::buffers::{Buffer, Size};

/// What a direction reads at once: the content of a TLS record, and the room to open one.
const CALM: usize = MAX_CONTENT + 1;
/// While it is busy: as much as fills two frames of a tunnel, and so eight records.
const BUSY: usize = 2 * FRAME;
/// It is busy when it has read so much at once.
const MUCH: usize = MAX_CONTENT / 2;
/// Nothing has moved for so long: it may take long.
pub const SOON: Duration = Duration::from_millis(500);
/// So often a direction reads before others have their turn.
const ROUNDS: usize = 16;

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
pub fn relay(
    app: impl Duplex,
    peer: impl Duplex,
    meters: &Meters,
    idle: Idle,
) -> impl Future<Output = Result<(), RelayError>> {
    let (to_peer, to_app) = (Flow::default(), Flow::default());
    let mut relay = Relay { app, peer, meters, idle, to_peer, to_app, last: Instant::now(), resting: false };
    async move {
        let mut bell = pin!(sleep_until(relay.due()));
        poll_fn(|cx| relay.poll(cx, bell.as_mut())).await
    }
}

struct Relay<'a, A, P> {
    app: A,
    peer: P,
    meters: &'a Meters,
    idle: Idle,
    to_peer: Flow,
    to_app: Flow,
    /// When something moved last.
    last: Instant,
    resting: bool,
}

impl<A: Duplex, P: Duplex> Relay<'_, A, P> {
    /// How long nothing may move.
    fn allowed(&self) -> Duration {
        let is_half_closed = self.to_peer.has_finished() || self.to_app.has_finished();
        if is_half_closed { self.idle.half_closed } else { self.idle.open }
    }

    /// When something is to be done if nothing moves until then.
    fn due(&self) -> Instant {
        let allowed = self.allowed();
        self.last + if self.resting { allowed } else { allowed.min(SOON) }
    }

    fn poll(&mut self, cx: &mut Context<'_>, mut bell: Pin<&mut Sleep>) -> Poll<Result<(), RelayError>> {
        let (app, peer) = (Pin::new(&mut self.app), Pin::new(&mut self.peer));
        let there = self.to_peer.poll(cx, app, peer, &self.meters.to_peer);
        let there = there.map_err(|broken| broken.between(RelayError::App, RelayError::Peer))?;
        let (app, peer) = (Pin::new(&mut self.app), Pin::new(&mut self.peer));
        let back = self.to_app.poll(cx, peer, app, &self.meters.to_app);
        let back = back.map_err(|broken| broken.between(RelayError::Peer, RelayError::App))?;
        if there.is_ready() && back.is_ready() {
            return Poll::Ready(Ok(()));
        }
        // One busy direction keeps both alive.
        if self.to_peer.has_moved() | self.to_app.has_moved() {
            (self.last, self.resting) = (Instant::now(), false);
        }
        // To an earlier moment it is set at once, to a later one when it has rung.
        if self.due() < bell.deadline() {
            bell.as_mut().reset(self.due());
        }
        loop {
            ready!(bell.as_mut().poll(cx));
            let (still, allowed) = (bell.deadline().saturating_duration_since(self.last), self.allowed());
            if still >= allowed {
                return Poll::Ready(Err(RelayError::Idle(allowed)));
            }
            if still >= SOON && !std::mem::replace(&mut self.resting, true) {
                self.app.rest();
                self.peer.rest();
            }
            bell.as_mut().reset(self.due());
        }
    }
}

enum Broken {
    Reading(io::Error),
    Writing(io::Error),
}

impl Broken {
    /// Whose connection it was.
    fn between(self, reader: fn(io::Error) -> RelayError, writer: fn(io::Error) -> RelayError) -> RelayError {
        match self {
            Self::Reading(error) => reader(error),
            Self::Writing(error) => writer(error),
        }
    }
}

/// One direction.
#[derive(Default)]
struct Flow {
    /// What was read and is not written.
    held: Option<(Buffer, Range<usize>)>,
    /// The last read was long: the next one may be, too.
    busy: bool,
    unflushed: bool,
    moved: bool,
    reader: Reader,
}

/// Whether more may come.
#[derive(Default, PartialEq, Eq)]
enum Reader {
    #[default]
    Open,
    Finished,
    /// And the other side was told.
    PassedOn,
}

impl Flow {
    /// Carries what there is; ready when the reader has finished and the writer was told.
    fn poll<R: AsyncRead, W: AsyncWrite>(
        &mut self,
        cx: &mut Context<'_>,
        mut reader: Pin<&mut R>,
        mut writer: Pin<&mut W>,
        moved: &AtomicU64,
    ) -> Poll<Result<(), Broken>> {
        for _ in 0..ROUNDS {
            ready!(self.poll_write(cx, writer.as_mut(), moved)).map_err(Broken::Writing)?;
            match self.reader {
                Reader::Open => {}
                Reader::Finished => {
                    match ready!(writer.poll_shutdown(cx)) {
                        // The other side has gone already: it has nothing to be told.
                        Err(error) if error.kind() != io::ErrorKind::NotConnected => {
                            return Poll::Ready(Err(Broken::Writing(error)));
                        }
                        _ => self.reader = Reader::PassedOn,
                    }
                    return Poll::Ready(Ok(()));
                }
                Reader::PassedOn => return Poll::Ready(Ok(())),
            }
            match self.poll_read(cx, reader.as_mut()) {
                Poll::Ready(read) => read.map_err(Broken::Reading)?,
                Poll::Pending => {
                    if self.unflushed {
                        ready!(writer.poll_flush(cx)).map_err(Broken::Writing)?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads once, into a buffer that is there only if there is something to read.
    fn poll_read<R: AsyncRead>(&mut self, cx: &mut Context<'_>, reader: Pin<&mut R>) -> Poll<io::Result<()>> {
        let (size, most) = if self.busy { (Size::Large, BUSY) } else { (Size::Small, CALM) };
        let mut buffer = Buffer::lend(size);
        let most = most.min(buffer.len());
        let mut chunk = ReadBuf::new(buffer.get_mut(..most).unwrap_or_default());
        ready!(reader.poll_read(cx, &mut chunk))?;
        let count = chunk.filled().len();
        self.moved = true;
        if count == 0 {
            self.reader = Reader::Finished;
        } else {
            self.busy = count >= MUCH;
            self.held = Some((buffer, 0..count));
        }
        Poll::Ready(Ok(()))
    }

    /// Writes all that is held.
    fn poll_write<W: AsyncWrite>(
        &mut self,
        cx: &mut Context<'_>,
        mut writer: Pin<&mut W>,
        moved: &AtomicU64,
    ) -> Poll<io::Result<()>> {
        while let Some((buffer, rest)) = &mut self.held {
            let bytes = buffer.get(rest.clone()).unwrap_or_default();
            let written = ready!(writer.as_mut().poll_write(cx, bytes))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            moved.fetch_add(written as u64, Ordering::Relaxed);
            (self.moved, self.unflushed) = (true, true);
            rest.start += written;
            if Range::is_empty(rest) {
                self.held = None;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Whether something has moved since this was asked last.
    fn has_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    fn has_finished(&self) -> bool {
        self.reader != Reader::Open
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::duplex::tests::RESTED;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

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
    async fn both_sides_rest_once_nothing_moves_and_again_after_something_did() {
        let (mut app, app_end) = duplex(64);
        let (_peer, peer_end) = duplex(64);
        let meters = Meters::default();
        let relayed = relay(app_end, peer_end, &meters, IDLE);
        let talk = async {
            for _ in 0..10 {
                tokio::time::sleep(SOON - Duration::from_millis(10)).await;
                app.write_all(b"x").await.unwrap();
            }
            assert_eq!(RESTED.get(), 0, "bytes moved");
            for rested in [2, 4] {
                tokio::time::sleep(20 * SOON).await;
                assert_eq!(RESTED.get(), rested, "each side, once");
                app.write_all(b"x").await.unwrap();
            }
            assert_eq!(meters.to_peer.load(Ordering::Relaxed), 11);
        };
        tokio::select! {
            result = relayed => panic!("{result:?}"),
            () = talk => {}
        }
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
