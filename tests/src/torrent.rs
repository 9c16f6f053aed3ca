//! Apps and clients of 100 MiB streams that can be left unread for as long as a test likes, over bytes,
//! HTTP/1.1 and HTTP/2. What was handed over is counted at its source, so that a stream that has come to a
//! halt is seen to.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};

use crate::{PATIENCE, eventually};

/// Bytes of each stream.
pub const SIZE: u64 = 100 << 20;
/// The byte that asks the app of bytes for a download, or announces an upload.
pub const DOWNLOAD: u8 = b'd';
/// See [`DOWNLOAD`].
pub const UPLOAD: u8 = b'u';

/// The path of an upload that is read without being let.
pub const AT_ONCE: &str = "/at-once";

const MANY: usize = 10_000;

static CHUNK: [u8; 64 * 1024] = [0xa5; 64 * 1024];

/// Bytes that were taken from their source.
pub type Taken = Arc<AtomicU64>;

/// Sends [`SIZE`] bytes to whoever asks, and reads an upload only when it is let.
#[derive(Debug)]
pub struct Torrent {
    /// Bytes alone.
    pub tcp: SocketAddr,
    /// HTTP/1.1 and HTTP/2 with prior knowledge: GET is a download, POST an upload that is answered with its
    /// length.
    pub http: SocketAddr,
    state: Arc<State>,
    tasks: [AbortHandle; 2],
}

#[derive(Debug)]
struct State {
    sent: Taken,
    may_read: Semaphore,
}

/// A body of [`SIZE`] bytes.
#[derive(Debug)]
pub struct Source {
    left: u64,
    taken: Taken,
}

impl Torrent {
    /// Starts both.
    pub async fn start() -> Self {
        let state = Arc::new(State { sent: Taken::default(), may_read: Semaphore::new(0) });
        let (tcp, first) = serve(Arc::clone(&state), bytes).await;
        let (http, second) = serve(Arc::clone(&state), requests).await;
        Self { tcp, http, state, tasks: [first, second] }
    }

    /// What all downloads take from now on.
    #[must_use]
    pub fn sent(&self) -> Taken {
        self.state.sent.store(0, Ordering::Relaxed);
        Arc::clone(&self.state.sent)
    }

    /// Reads one upload to its end.
    pub fn read_one(&self) {
        self.state.may_read.add_permits(1);
    }

    /// Reads whatever is left of all uploads, until [`Torrent::stop_reading`].
    pub fn read_all(&self) {
        self.state.may_read.add_permits(MANY);
    }

    /// Lets new uploads wait again.
    pub fn stop_reading(&self) {
        self.state.may_read.forget_permits(MANY);
    }
}

impl Drop for Torrent {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Source {
    /// A whole one.
    #[must_use]
    pub fn new(taken: &Taken) -> Self {
        Self { left: SIZE, taken: Arc::clone(taken) }
    }

    fn next(&mut self) -> Option<Bytes> {
        let count = CHUNK.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= count as u64;
        self.taken.fetch_add(count as u64, Ordering::Relaxed);
        (count > 0).then(|| Bytes::from_static(&CHUNK[..count]))
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// When the reader goes away.
    pub async fn write_to(mut self, writer: &mut (impl AsyncWriteExt + Unpin)) -> io::Result<()> {
        while let Some(chunk) = self.next() {
            writer.write_all(&chunk).await?;
        }
        Ok(())
    }
}

impl Body for Source {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.next().map(|chunk| Ok(Frame::data(chunk))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Waits until nothing more is taken: whoever sends has filled all there is to fill.
///
/// # Panics
/// When nothing moves at all, or it does not come to a halt.
pub async fn halted(taken: &Taken) -> u64 {
    const STILL: u32 = 20;
    let (mut last, mut same) = (0, 0);
    eventually("the streams come to a halt", PATIENCE, async || {
        let now = taken.load(Ordering::Relaxed);
        same = if now == last && now > 0 { same + 1 } else { 0 };
        last = now;
        if same == STILL { Ok(now) } else { Err(format!("{now} bytes were taken")) }
    })
    .await
}

async fn serve<F>(state: Arc<State>, session: fn(Arc<State>, TcpStream) -> F) -> (SocketAddr, AbortHandle)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    let task = tokio::spawn(async move {
        let mut sessions = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            sessions.spawn(session(Arc::clone(&state), stream));
        }
    });
    (address, task.abort_handle())
}

async fn bytes(state: Arc<State>, mut stream: TcpStream) {
    match stream.read_u8().await {
        // Ends with the connection, however that ends.
        Ok(DOWNLOAD) => drop(Source::new(&state.sent).write_to(&mut stream).await),
        Ok(UPLOAD) => {
            let Ok(permit) = state.may_read.acquire().await else { return };
            permit.forget();
            let received = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.unwrap_or_default();
            let _ = stream.write_u64(received).await;
        }
        _ => {}
    }
}

async fn requests(state: Arc<State>, stream: TcpStream) {
    let mut start = [0; 3];
    // A caller sends its head at once, so three bytes of it come together.
    let http2 = stream.peek(&mut start).await.is_ok_and(|count| &start[..count] == b"PRI");
    let service = service_fn(move |request| answer(Arc::clone(&state), request));
    let io = TokioIo::new(stream);
    // Ends with the connection, however that ends.
    if http2 {
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(io, service)
            .await;
    } else {
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
    }
}

async fn answer(
    state: Arc<State>,
    request: Request<Incoming>,
) -> Result<Response<Either<Source, Full<Bytes>>>, Infallible> {
    if request.method() == hyper::Method::GET {
        return Ok(Response::new(Either::Left(Source::new(&state.sent))));
    }
    if request.uri().path() != AT_ONCE
        && let Ok(permit) = state.may_read.acquire().await
    {
        permit.forget();
    }
    let received = length(request.into_body()).await.unwrap_or_default();
    Ok(Response::new(Either::Right(Full::from(received.to_string()))))
}

/// Reads a body to its end.
///
/// # Errors
/// When it breaks off.
pub async fn length(mut body: Incoming) -> Result<u64, hyper::Error> {
    let mut received = 0;
    while let Some(frame) = body.frame().await {
        received += frame?.data_ref().map_or(0, |data| data.len() as u64);
    }
    Ok(received)
}
