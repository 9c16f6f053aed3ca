//! One opaque stream of `signet/1` as a byte stream, so that it is relayed like any other. The protocol itself
//! is in [`signet_proto::tunnel`]; here are its bytes on a connection.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures_util::FutureExt;
use signet_proto::tunnel::{
    Event, HEADER_BYTES, Preamble, Refusal, ResetCode, SendError, Tunnel, Violation, Wants,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Sleep;

/// The longest DATA frame that we send: with its header it fills four TLS records.
pub const FRAME: usize = 4 * 16 * 1024 - HEADER_BYTES;
/// So many pieces are read at once, however short they are.
const MOST_STEPS: usize = 256;
/// What is read at once of what is not data.
const PIECE: usize = 64;
/// How long what the other end has begun to say, or has to read, may take.
const CONTROL_DEADLINE: Duration = Duration::from_secs(10);
/// How long the answer to a stream waits for the app's first bytes, to go with them.
pub const MOMENT: Duration = Duration::from_millis(1);
/// A stream that is cut is cut soon, whether the other end reads why or not.
const RESET_DEADLINE: Duration = Duration::from_millis(250);

/// A connection that carries one stream after the other. While a stream is open, this is the stream.
pub struct Tunneled<S> {
    io: S,
    tunnel: Tunnel,
    /// Frames without data, to be written before all else.
    output: BytesMut,
    /// The DATA frame that is being written.
    frame: Frame,
    /// The other end has no more bytes for this stream.
    ended: bool,
    /// Neither have we.
    finished: bool,
    broken: bool,
    /// Came right after data, and is told after it.
    failure: Option<io::Error>,
    /// Waits until the stream is answered.
    writer: Option<Waker>,
    /// Until then what is to be written waits for more.
    held: Option<Pin<Box<Sleep>>>,
}

/// A DATA frame on its way: the rest of its header, and how much data it still needs.
#[derive(Debug, Default)]
struct Frame {
    header: [u8; HEADER_BYTES],
    written: usize,
    owed: usize,
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
    /// The peer closed the connection, in form, instead of answering.
    #[error("the peer closed the connection just then")]
    Retired,
}

impl StreamError {
    /// What is behind an error of a stream, if it is one of these.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<StreamError> for io::Error {
    fn from(error: StreamError) -> Self {
        let kind = match error {
            StreamError::Violation(_) | StreamError::Send(_) => io::ErrorKind::InvalidData,
            StreamError::Refused(_) => io::ErrorKind::PermissionDenied,
            StreamError::Reset(_) | StreamError::Retired => io::ErrorKind::ConnectionReset,
        };
        Self::new(kind, error)
    }
}

/// What an initiator asks for.
pub enum Asked {
    /// A stream.
    Stream(Box<Preamble>),
    /// A stream in terms that we do not know: its preamble has this field.
    Unsupported(u8),
}

impl<S> Tunneled<S> {
    /// The connection itself, of which nothing is to be read or written past the streams.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.io
    }
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
        Self {
            io,
            tunnel,
            output: BytesMut::new(),
            frame: Frame::default(),
            ended: false,
            finished: false,
            broken: false,
            failure: None,
            writer: None,
            held: None,
        }
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
        // Who cannot write any more may have been told why.
        let sent = self.flush().await;
        let error = match self.told().await {
            Ok(Some(Event::Accepted)) => return Ok(()),
            Ok(Some(Event::Refused(refusal))) => StreamError::Refused(refusal).into(),
            Ok(Some(Event::Reset { code, .. })) => StreamError::Reset(code).into(),
            Ok(Some(_)) => io::ErrorKind::InvalidData.into(),
            Ok(None) if !self.tunnel.is_mid_frame() => StreamError::Retired.into(),
            Ok(None) => io::ErrorKind::UnexpectedEof.into(),
            Err(broken) => sent.err().unwrap_or(broken),
        };
        self.broken = true;
        Err(error)
    }

    /// The next stream that the initiator asks for; `None` when it has gone. Cancel safe.
    ///
    /// # Errors
    /// When the connection breaks or the initiator breaks the protocol.
    pub async fn asked(&mut self) -> io::Result<Option<Asked>> {
        loop {
            let asked = match self.told().await? {
                Some(Event::Opened(preamble)) => Asked::Stream(Box::new(preamble)),
                Some(Event::Unsupported(field)) => Asked::Unsupported(field),
                Some(Event::Reset { .. }) | None => return Ok(None),
                Some(_) => continue,
            };
            (self.ended, self.finished) = (false, false);
            return Ok(Some(asked));
        }
    }

    /// The next event that is not data, of which nothing is read; `None` at the end of the connection. Cancel safe:
    /// what was read has been understood.
    async fn told(&mut self) -> io::Result<Option<Event<'static>>> {
        loop {
            let Wants::Rest(rest) = self.tunnel.wants() else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            let mut piece = [0; PIECE];
            let piece = piece.get_mut(..rest.min(PIECE)).unwrap_or_default();
            let read = if self.tunnel.is_mid_frame() {
                let begun = tokio::time::timeout(CONTROL_DEADLINE, self.io.read(piece));
                begun.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??
            } else {
                self.io.read(piece).await?
            };
            if read == 0 {
                return Ok(None);
            }
            let event = self.tunnel.receive(&mut piece.get(..read).unwrap_or_default());
            match event.map_err(StreamError::from)? {
                Some(Event::Opened(preamble)) => return Ok(Some(Event::Opened(preamble))),
                Some(Event::Unsupported(field)) => return Ok(Some(Event::Unsupported(field))),
                Some(Event::Accepted) => return Ok(Some(Event::Accepted)),
                Some(Event::Refused(refusal)) => return Ok(Some(Event::Refused(refusal))),
                Some(Event::Ended) => return Ok(Some(Event::Ended)),
                Some(Event::Reset { code, unanswered }) => {
                    return Ok(Some(Event::Reset { code, unanswered }));
                }
                Some(Event::Data(_)) | None => {}
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

    /// Takes the stream that was asked for. The answer goes with the first bytes of the app if these come at once: the
    /// initiator has sent its own already, and hardly waits for the answer alone. To be read from, whatever else.
    ///
    /// # Errors
    /// When nothing was asked.
    pub fn accept_soon(&mut self) -> io::Result<()> {
        let frame = self.tunnel.accept().map_err(StreamError::from)?;
        self.output.extend_from_slice(&frame);
        self.held = Some(Box::pin(tokio::time::sleep(MOMENT)));
        Ok(())
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

    /// Gives up the stream, and the connection with it: to be dropped then.
    pub async fn reset(&mut self, code: ResetCode) {
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

    /// The same, with an ear for who asked for a stream just then: its connection must not break before it has read that.
    /// To be dropped then.
    pub async fn leave(&mut self) {
        let leave = async {
            self.io.shutdown().await?;
            while self.io.read(&mut [0; PIECE]).await? > 0 {}
            Ok::<_, io::Error>(())
        };
        let _ = tokio::time::timeout(RESET_DEADLINE, leave).await;
    }

    /// Whether the connection may carry another stream: the last one ended well on both sides.
    pub fn is_reusable(&self) -> bool {
        self.is_between_streams()
    }

    /// Whether the last stream ended well on both sides. The next one may have been asked for already.
    pub fn is_between_streams(&self) -> bool {
        !self.broken && self.failure.is_none() && self.tunnel.is_idle() && self.output.is_empty()
    }

    /// Whether the other end has said nothing since the last stream. What it could say is that it has gone.
    pub fn is_quiet(&mut self) -> bool {
        self.is_reusable() && self.io.read(&mut [0; 1]).now_or_never().is_none()
    }

    /// The stream was answered, or never will be: who waits to write looks again.
    fn wake_writer(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    /// Writes what is not held any longer, as far as that goes: who waits for an answer does not write.
    fn poll_release(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.held.as_mut().is_some_and(|held| held.as_mut().poll(cx).is_pending()) {
            return Ok(());
        }
        let written = self.poll_drain(cx)?.is_ready();
        match written.then(|| Pin::new(&mut self.io).poll_flush(cx)) {
            Some(Poll::Ready(flushed)) => flushed,
            Some(Poll::Pending) | None => Ok(()),
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.held = None;
        while !self.output.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.output))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(written);
        }
        // Frames of this kind are rare.
        self.output = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    /// Reads once: the rest of what is not data, or data as far as its frame goes, right to where it is wanted.
    /// `None` at the end of the connection.
    fn poll_step(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<Option<Step>>> {
        let mut piece = [0; PIECE];
        let (room, is_data) = match self.tunnel.wants() {
            Wants::Rest(rest) => (piece.get_mut(..rest.min(PIECE)).unwrap_or_default(), false),
            Wants::Data(left) => (buf.initialize_unfilled_to(left.min(buf.remaining())), true),
            Wants::Nothing => return Poll::Ready(Ok(None)),
        };
        let mut read = ReadBuf::new(room);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
        let bytes = read.filled();
        if bytes.is_empty() {
            return Poll::Ready(Ok(None));
        }
        let step = match self.tunnel.receive(&mut &*bytes) {
            // What is discarded brings no event.
            Ok(Some(Event::Data(data))) if is_data => Step::Data(data.len()),
            Ok(Some(Event::Ended)) => Step::Ended,
            Ok(Some(Event::Accepted)) => Step::Answered,
            Ok(Some(Event::Refused(refusal))) => Step::Failed(StreamError::Refused(refusal)),
            Ok(Some(Event::Reset { code, .. })) => Step::Failed(StreamError::Reset(code)),
            Ok(Some(Event::Opened(_) | Event::Unsupported(_) | Event::Data(_)) | None) => Step::Nothing,
            Err(violation) => Step::Failed(violation.into()),
        };
        Poll::Ready(Ok(Some(step)))
    }

    /// No more of the stream will come.
    fn fail(&mut self) {
        self.broken = true;
        self.wake_writer();
    }
}

/// What was read.
enum Step {
    Data(usize),
    Ended,
    Answered,
    Nothing,
    Failed(StreamError),
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tunneled<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        if !this.output.is_empty() {
            this.poll_release(cx)?;
        }
        if let Some(failure) = this.failure.take() {
            return Poll::Ready(Err(failure));
        }
        let mut steps = 0;
        while !this.ended && buf.remaining() > 0 {
            let has_data = buf.filled().len() > before;
            steps += 1;
            if has_data && steps > MOST_STEPS {
                break;
            }
            let failure = match this.poll_step(cx, buf) {
                // The next frame has not come, and what came before it need not wait.
                Poll::Pending if has_data => break,
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(Some(step))) => match step {
                    Step::Data(count) => {
                        buf.advance(count);
                        continue;
                    }
                    Step::Ended => {
                        this.ended = true;
                        continue;
                    }
                    Step::Answered => {
                        this.wake_writer();
                        continue;
                    }
                    Step::Nothing => continue,
                    Step::Failed(failure) => failure.into(),
                },
                Poll::Ready(Ok(None)) => io::ErrorKind::UnexpectedEof.into(),
                Poll::Ready(Err(error)) => error,
            };
            this.fail();
            if has_data {
                this.failure = Some(failure);
                break;
            }
            return Poll::Ready(Err(failure));
        }
        if this.ended && !this.output.is_empty() {
            // Nobody reads on, so nobody comes by when the moment is over.
            this.held = None;
            this.poll_release(cx)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tunneled<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if this.frame.owed == 0 {
            let room = this.tunnel.sendable().min(FRAME).min(data.len());
            if room == 0 {
                if this.broken || this.finished {
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                }
                // As much went ahead of the answer as may. It must reach the other end to be answered.
                ready!(this.poll_drain(cx))?;
                ready!(Pin::new(&mut this.io).poll_flush(cx))?;
                this.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
            // A frame is begun when it can be written, so that it is not cut by who gives up meanwhile.
            ready!(Pin::new(&mut this.io).poll_flush(cx))?;
            let header = this.tunnel.data(room).map_err(StreamError::from)?;
            this.frame = Frame { header, written: 0, owed: room };
            this.held = None;
        }
        loop {
            // What was to be said before goes along.
            let (before, frame) = (&this.output, &mut this.frame);
            let header = frame.header.get(frame.written..).unwrap_or_default();
            let part = data.get(..frame.owed.min(data.len())).unwrap_or_default();
            let slices = [IoSlice::new(before), IoSlice::new(header), IoSlice::new(part)];
            let written = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, &slices))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_before = written.min(before.len());
            let of_header = (written - of_before).min(header.len());
            let of_data = written - of_before - of_header;
            frame.written += of_header;
            frame.owed = frame.owed.saturating_sub(of_data);
            this.output.advance(of_before);
            if this.frame.owed == 0 {
                this.tunnel.data_written();
            }
            if of_data > 0 {
                return Poll::Ready(Ok(of_data));
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Ends our direction of the stream, not the connection.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.finished {
            // Refused while a frame is not whole: the connection ends with it.
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
    use tokio::net::{TcpListener, TcpStream};

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
            assert!(matches!(acceptor.asked().await, Ok(Some(Asked::Stream(asked))) if *asked == preamble()));
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

    #[tokio::test(start_paused = true)]
    async fn answer_goes_with_the_first_bytes_or_after_a_moment_without() {
        for at_once in [true, false] {
            let (mut initiator, mut acceptor) = pair();
            initiator.open(&preamble()).unwrap();
            initiator.write_all(b"question").await.unwrap();
            initiator.flush().await.unwrap();
            acceptor.asked().await.unwrap();
            let mut question = [0; 8];
            acceptor.read_exact(&mut question).await.unwrap();
            acceptor.accept_soon().unwrap();
            assert!(acceptor.read(&mut [0; 1]).now_or_never().is_none());
            assert!(initiator.answered().now_or_never().is_none(), "held");
            let answer = async {
                if at_once {
                    acceptor.write_all(b"answer").await.unwrap();
                }
                assert_eq!(acceptor.read(&mut [0; 1]).await.unwrap(), 0);
            };
            let ask = async {
                initiator.answered().await.unwrap();
                if at_once {
                    let mut answer = [0; 6];
                    initiator.read_exact(&mut answer).await.unwrap();
                    assert_eq!(&answer, b"answer");
                }
                initiator.shutdown().await.unwrap();
            };
            tokio::join!(answer, ask);
        }
    }

    #[tokio::test]
    async fn who_is_reset_after_a_held_answer_knows_that_it_was_taken() {
        let (mut initiator, mut acceptor) = pair();
        initiator.open(&preamble()).unwrap();
        initiator.flush().await.unwrap();
        acceptor.asked().await.unwrap();
        acceptor.accept_soon().unwrap();
        acceptor.reset(ResetCode::Internal).await;
        initiator.answered().await.unwrap();
        assert!(initiator.read(&mut [0; 1]).await.is_err());
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

    /// On a real connection: what is left unread there resets it.
    #[tokio::test]
    async fn who_asks_just_when_the_other_end_leaves_knows_that_nothing_was_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap());
        let (ours, theirs) = tokio::join!(ours, listener.accept());
        let (mut initiator, mut acceptor) =
            (Tunneled::initiator(ours.unwrap()), Tunneled::acceptor(theirs.unwrap().0));
        initiator.open(&preamble()).unwrap();
        initiator.write_all(b"early").await.unwrap();
        initiator.flush().await.unwrap();
        let ((), answered) = tokio::join!(acceptor.leave(), initiator.answered());
        let error = answered.unwrap_err();
        assert!(matches!(StreamError::of(&error), Some(StreamError::Retired)), "{error}");
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
