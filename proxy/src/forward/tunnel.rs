//! One opaque stream of `signet/1` as a byte stream, so that it is relayed like any other. The protocol itself
//! is in [`signet_proto::tunnel`]; here are its bytes on a connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures_util::FutureExt;
use signet_proto::tunnel::{Event, Preamble, Refusal, ResetCode, SendError, Tunnel, Violation};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

/// What is read and written at once: a TLS record.
const CHUNK: usize = 16 * 1024;
/// How long what the other end has begun to say, or has to read, may take.
const CONTROL_DEADLINE: Duration = Duration::from_secs(10);
/// A stream that is cut is cut soon, whether the other end reads why or not.
const RESET_DEADLINE: Duration = Duration::from_millis(250);

/// A connection that carries one stream after the other. While a stream is open, this is the stream.
pub struct Tunneled<S> {
    io: S,
    tunnel: Tunnel,
    input: BytesMut,
    output: BytesMut,
    /// The other end has no more bytes for this stream.
    ended: bool,
    /// Neither have we.
    finished: bool,
    broken: bool,
    /// Waits until the stream is answered.
    writer: Option<Waker>,
}

/// Why a stream did not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The other end broke the protocol.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// We would have broken it.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The peer did not take the stream.
    #[error("the peer refused: {0}")]
    Refused(Refusal),
    /// The peer gave up the stream.
    #[error("the peer gave up the stream ({})", .0.as_str())]
    Reset(ResetCode),
}

impl From<StreamError> for io::Error {
    fn from(error: StreamError) -> Self {
        let kind = match error {
            StreamError::Violation(_) | StreamError::Send(_) => io::ErrorKind::InvalidData,
            StreamError::Refused(_) => io::ErrorKind::PermissionDenied,
            StreamError::Reset(_) => io::ErrorKind::ConnectionReset,
        };
        Self::new(kind, error)
    }
}

/// What an initiator asks for.
pub enum Asked {
    /// A stream.
    Stream(Preamble),
    /// A stream in terms that we do not know: its preamble has this field.
    Unsupported(u8),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Tunneled<S> {
    /// The end that opens streams.
    pub fn initiator(io: S) -> Self {
        Self::new(io, Tunnel::initiator())
    }

    /// The end that takes them.
    pub fn acceptor(io: S) -> Self {
        Self::new(io, Tunnel::acceptor())
    }

    fn new(io: S, tunnel: Tunnel) -> Self {
        let (input, output) = (BytesMut::new(), BytesMut::new());
        Self { io, tunnel, input, output, ended: false, finished: false, broken: false, writer: None }
    }

    /// Opens a stream; its first bytes may follow before the answer.
    ///
    /// # Errors
    /// When the connection carries a stream already.
    pub fn open(&mut self, preamble: &Preamble) -> Result<(), StreamError> {
        let frame = self.tunnel.open(preamble)?;
        self.output.extend_from_slice(&frame);
        (self.ended, self.finished) = (false, false);
        Ok(())
    }

    /// Waits for the answer to [`Tunneled::open`]. On a connection that waited this tells whether it is still
    /// one: its end may cross our request, and nothing but the request is lost then.
    ///
    /// # Errors
    /// When the stream is refused, or the connection is of no use any more.
    pub async fn answered(&mut self) -> io::Result<()> {
        self.flush().await?;
        loop {
            while !self.input.is_empty() {
                // Byte by byte, so as not to run into what follows the answer.
                let mut next = self.input.get(..1).unwrap_or_default();
                let event = self.tunnel.receive(&mut next);
                let error = match event {
                    Ok(Some(Event::Accepted)) => None,
                    Ok(Some(Event::Refused(refusal))) => Some(StreamError::Refused(refusal)),
                    Ok(Some(Event::Reset { code, .. })) => Some(StreamError::Reset(code)),
                    Ok(_) => {
                        self.input.advance(1);
                        continue;
                    }
                    Err(violation) => Some(violation.into()),
                };
                self.input.advance(1);
                self.broken = error.is_some();
                return error.map_or(Ok(()), |error| Err(error.into()));
            }
            self.input.reserve(CHUNK);
            if self.io.read_buf(&mut self.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// The next stream that the initiator asks for; `None` when it has gone. Cancel safe.
    ///
    /// # Errors
    /// When the connection breaks or the initiator breaks the protocol.
    pub async fn asked(&mut self) -> io::Result<Option<Asked>> {
        loop {
            let mut rest = &self.input[..];
            let asked = match self.tunnel.receive(&mut rest) {
                Ok(Some(Event::Opened(preamble))) => Some(Asked::Stream(preamble)),
                Ok(Some(Event::Unsupported(field))) => Some(Asked::Unsupported(field)),
                Ok(_) => None,
                Err(violation) => return Err(StreamError::from(violation).into()),
            };
            let used = self.input.len() - rest.len();
            self.input.advance(used);
            if asked.is_some() {
                (self.ended, self.finished) = (false, false);
                return Ok(asked);
            }
            if used == 0 || self.input.is_empty() {
                self.input.reserve(CHUNK);
                let read = if self.tunnel.is_mid_frame() {
                    let begun = tokio::time::timeout(CONTROL_DEADLINE, self.io.read_buf(&mut self.input));
                    begun.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??
                } else {
                    self.io.read_buf(&mut self.input).await?
                };
                if read == 0 {
                    return Ok(None);
                }
            }
        }
    }

    /// Takes the stream that was asked for.
    ///
    /// # Errors
    /// When nothing was asked, or the connection breaks.
    pub async fn accept(&mut self) -> io::Result<()> {
        let frame = self.tunnel.accept().map_err(StreamError::from)?;
        self.output.extend_from_slice(&frame);
        self.flush_in_time(CONTROL_DEADLINE).await
    }

    /// Does not take it, and waits until the initiator has ended it, too.
    ///
    /// # Errors
    /// When nothing was asked, or the initiator does not end it in time.
    pub async fn refuse(&mut self, refusal: &Refusal) -> io::Result<()> {
        let frame = self.tunnel.refuse(refusal).map_err(StreamError::from)?;
        self.output.extend_from_slice(&frame);
        self.flush_in_time(CONTROL_DEADLINE).await?;
        let ended = async {
            while !self.tunnel.is_idle() {
                if self.read(&mut [0; 1024]).await? == 0 && !self.tunnel.is_idle() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Ok(())
        };
        match tokio::time::timeout(CONTROL_DEADLINE, ended).await {
            Ok(ended) => ended,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Gives up the stream, and the connection with it.
    pub async fn reset(mut self, code: ResetCode) {
        if let Some(frame) = self.tunnel.reset(code) {
            self.output.extend_from_slice(&frame);
            let _ = self.flush_in_time(RESET_DEADLINE).await;
        }
    }

    async fn flush_in_time(&mut self, deadline: Duration) -> io::Result<()> {
        match tokio::time::timeout(deadline, self.flush()).await {
            Ok(flushed) => flushed,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Says that no more streams will come, so that the other end need not wonder.
    pub async fn close(mut self) {
        let _ = tokio::time::timeout(CONTROL_DEADLINE, self.io.shutdown()).await;
    }

    /// Whether the connection may carry another stream: the last one ended well on both sides.
    pub fn is_reusable(&self) -> bool {
        self.is_between_streams() && self.input.is_empty()
    }

    /// Whether the last stream ended well on both sides. The next one may have been asked for already.
    pub fn is_between_streams(&self) -> bool {
        !self.broken && self.tunnel.is_idle() && self.output.is_empty()
    }

    /// Whether the other end has said nothing since the last stream. What it could say is that it has gone.
    pub fn is_quiet(&mut self) -> bool {
        self.is_reusable() && self.io.read_buf(&mut self.input).now_or_never().is_none()
    }

    /// The stream was answered, or never will be: who waits to write looks again.
    fn wake_writer(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.output))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads up to `buf`'s room of the stream from what has come in; `None` while more has to come in.
    fn take(&mut self, buf: &mut ReadBuf<'_>) -> Option<Result<(), StreamError>> {
        while !self.input.is_empty() {
            let window = self.input.get(..self.input.len().min(buf.remaining())).unwrap_or_default();
            let mut rest = window;
            let event = self.tunnel.receive(&mut rest);
            let used = window.len() - rest.len();
            let taken = match event {
                Ok(Some(Event::Data(data))) => {
                    buf.put_slice(data);
                    Some(Ok(()))
                }
                Ok(Some(Event::Ended)) => {
                    self.ended = true;
                    Some(Ok(()))
                }
                Ok(Some(Event::Accepted)) => {
                    self.wake_writer();
                    None
                }
                Ok(Some(Event::Refused(refusal))) => Some(Err(StreamError::Refused(refusal))),
                Ok(Some(Event::Reset { code, .. })) => Some(Err(StreamError::Reset(code))),
                Ok(Some(Event::Opened(_) | Event::Unsupported(_)) | None) => None,
                Err(violation) => Some(Err(violation.into())),
            };
            self.input.advance(used);
            if let Some(Err(_)) = &taken {
                self.broken = true;
                self.wake_writer();
            }
            if taken.is_some() {
                return taken;
            }
        }
        None
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tunneled<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.ended || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if let Some(taken) = this.take(buf) {
                return Poll::Ready(taken.map_err(io::Error::from));
            }
            this.input.reserve(CHUNK);
            let read = {
                let reading = this.io.read_buf(&mut this.input);
                tokio::pin!(reading);
                ready!(reading.poll(cx))?
            };
            if read == 0 {
                this.broken = true;
                this.wake_writer();
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tunneled<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.output.len() >= CHUNK {
            ready!(this.poll_drain(cx))?;
        }
        let room = this.tunnel.sendable().min(CHUNK).min(data.len());
        if room == 0 {
            if this.broken || this.finished || data.is_empty() {
                return Poll::Ready(if data.is_empty() {
                    Ok(0)
                } else {
                    Err(io::ErrorKind::BrokenPipe.into())
                });
            }
            // As much went ahead of the answer as may. It must reach the other end to be answered.
            ready!(this.poll_drain(cx))?;
            ready!(Pin::new(&mut this.io).poll_flush(cx))?;
            this.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let header = this.tunnel.data(room).map_err(StreamError::from)?;
        this.output.extend_from_slice(&header);
        this.output.extend_from_slice(data.get(..room).unwrap_or_default());
        // The frame is whole in our buffer, which is written in order or not at all.
        this.tunnel.data_written();
        if let Poll::Ready(Err(error)) = this.poll_drain(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(room))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Ends our direction of the stream, not the connection.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.finished {
            let frame = self.tunnel.end().map_err(StreamError::from)?;
            self.output.extend_from_slice(&frame);
            self.finished = true;
        }
        self.poll_flush(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use signet_proto::tunnel::RefuseCode;
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    fn pair() -> (Tunneled<DuplexStream>, Tunneled<DuplexStream>) {
        let (ours, theirs) = duplex(4096);
        (Tunneled::initiator(ours), Tunneled::acceptor(theirs))
    }

    fn preamble() -> Preamble {
        Preamble::to_port(NonZeroU16::new(5432).unwrap())
    }

    async fn exchange(
        initiator: &mut Tunneled<DuplexStream>,
        acceptor: &mut Tunneled<DuplexStream>,
        length: usize,
    ) {
        let question: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
        initiator.open(&preamble()).unwrap();
        let ask = async {
            let (mut reader, mut writer) = tokio::io::split(&mut *initiator);
            let mut answer = Vec::new();
            let send = async {
                writer.write_all(&question).await.unwrap();
                writer.shutdown().await.unwrap();
            };
            tokio::join!(send, async { reader.read_to_end(&mut answer).await.unwrap() });
            answer
        };
        let echo = async {
            assert!(matches!(acceptor.asked().await, Ok(Some(Asked::Stream(asked))) if asked == preamble()));
            acceptor.accept().await.unwrap();
            let (mut reader, mut writer) = tokio::io::split(&mut *acceptor);
            tokio::io::copy(&mut reader, &mut writer).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let (answer, ()) = tokio::join!(ask, echo);
        assert!(answer == question, "{} bytes of {length} came back", answer.len());
        assert!(initiator.is_reusable() && acceptor.is_reusable());
    }

    #[tokio::test]
    async fn one_connection_carries_one_stream_after_the_other() {
        let (mut initiator, mut acceptor) = pair();
        for length in [0, 1, 100, 65_536, 300_000, 7] {
            exchange(&mut initiator, &mut acceptor, length).await;
            assert!(initiator.is_quiet());
        }
    }

    #[tokio::test]
    async fn refused_stream_tells_why_and_sends_nothing_on() {
        let (mut initiator, mut acceptor) = pair();
        initiator.open(&preamble()).unwrap();
        initiator.write_all(b"early").await.unwrap();
        initiator.flush().await.unwrap();
        let refuse = async {
            acceptor.asked().await.unwrap();
            acceptor.refuse(&Refusal::new(RefuseCode::Denied, "no rule")).await
        };
        let told = async {
            let error = initiator.read(&mut [0; 16]).await.unwrap_err();
            drop(initiator);
            error.to_string()
        };
        let (refused, told) = tokio::join!(refuse, told);
        assert!(told.contains("no rule"), "{told}");
        assert!(refused.is_err(), "an initiator that goes away leaves nothing to use again");
    }

    #[tokio::test]
    async fn connection_that_ended_while_it_waited_is_found_out_before_anything_is_lost() {
        let (mut initiator, mut acceptor) = pair();
        exchange(&mut initiator, &mut acceptor, 10).await;
        initiator.open(&preamble()).unwrap();
        let gone = async {
            acceptor.asked().await.unwrap();
            acceptor.reset(ResetCode::Internal).await;
        };
        let (answered, ()) = tokio::join!(initiator.answered(), gone);
        assert_eq!(answered.unwrap_err().kind(), io::ErrorKind::ConnectionReset);

        let (mut initiator, mut acceptor) = pair();
        initiator.open(&preamble()).unwrap();
        let accept = async {
            acceptor.asked().await.unwrap();
            acceptor.accept().await.unwrap();
            acceptor.write_all(b"at once").await.unwrap();
            acceptor.flush().await.unwrap();
        };
        let (answered, ()) = tokio::join!(initiator.answered(), accept);
        answered.unwrap();
        let mut first = [0; 7];
        initiator.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"at once");
    }

    #[tokio::test]
    async fn connection_that_breaks_amid_a_stream_is_no_clean_end() {
        let (mut initiator, acceptor) = pair();
        initiator.open(&preamble()).unwrap();
        initiator.flush().await.unwrap();
        drop(acceptor);
        let error = initiator.read(&mut [0; 16]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(!initiator.is_reusable());
    }

    #[tokio::test]
    async fn peer_that_has_gone_is_not_quiet() {
        let (mut initiator, mut acceptor) = pair();
        exchange(&mut initiator, &mut acceptor, 10).await;
        drop(acceptor);
        assert!(!initiator.is_quiet());
    }

    #[tokio::test]
    async fn garbage_is_a_violation() {
        let (mut raw, theirs) = duplex(64);
        raw.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert!(Tunneled::acceptor(theirs).asked().await.is_err());
    }
}
