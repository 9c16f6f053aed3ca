//! One end of a connection: what comes in becomes events, what goes out is checked first.
//!
//! The caller keeps the order of the wire: bytes that a method returns are written, whole and in the order
//! of the calls, or the connection is dropped. Events borrow from the input and not from the [`Tunnel`], so
//! the two directions may share it behind a lock that is never held while they wait.

use super::frame::{Decoder, Header, Part, Wants};
use super::preamble::Reading;
use super::state::{Illegal, Role, State, Step};
use super::{
    FrameError, FrameType, HEADER_BYTES, MAX_DATA_BYTES, Preamble, PreambleError, Refusal, RefusalError,
    ResetCode,
};

/// One end of one connection, for all the streams that it carries.
#[derive(Debug)]
pub struct Tunnel {
    role: Role,
    state: State,
    decoder: Decoder,
    /// The header of a DATA frame was given out, and its payload is not known to be written.
    owing: bool,
}

/// Something happened at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// The initiator asks for a stream. Answer with [`Tunnel::accept`] or [`Tunnel::refuse`].
    Opened(Preamble),
    /// The initiator asks for a stream in terms unknown to us: its preamble has this field. Answer with
    /// [`Tunnel::refuse`] and [`super::RefuseCode::Unsupported`].
    Unsupported(u8),
    /// The acceptor took our stream.
    Accepted,
    /// The acceptor did not take our stream, and no byte of it reached an app. Call [`Tunnel::end`] now,
    /// unless that was done already; then the connection is idle.
    Refused(Refusal),
    /// Bytes of the stream, never none. An acceptor gives them to no app before it has called
    /// [`Tunnel::accept`].
    Data(&'a [u8]),
    /// The other end has no more bytes for this stream.
    Ended,
    /// The other end gave up the stream, and the connection with it. Close it without another word.
    Reset {
        /// Why.
        code: ResetCode,
        /// Our stream had no answer, so no byte of it reached an app: it may be tried again, on another
        /// connection.
        unanswered: bool,
    },
}

/// The other end broke the protocol. Call [`Tunnel::reset`] with [`ResetCode::Protocol`], write what it
/// gives, and close the connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A frame that it may not send now.
    #[error("peer sent {frame} out of turn: expected {expected}")]
    OutOfState {
        /// The frame.
        frame: FrameType,
        /// What it may send.
        expected: &'static str,
    },
    /// More DATA before the answer than there may be.
    #[error("peer sent {length} bytes of early DATA: expected at most {room} more before ACCEPT")]
    TooEarly {
        /// Length of the frame.
        length: usize,
        /// What was left of the bound.
        room: usize,
    },
    /// Not a frame.
    #[error("peer sent {0}")]
    Frame(#[from] FrameError),
    /// An OPEN that cannot be read.
    #[error("peer sent a malformed OPEN: {0}")]
    Preamble(#[from] PreambleError),
    /// A REFUSE that cannot be read.
    #[error("peer sent a malformed REFUSE: {0}")]
    Refusal(#[from] RefusalError),
}

/// We were about to break the protocol. Nothing has changed, and nothing is to be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// A frame that we may not send now.
    #[error("cannot send {frame} now: expected {expected}")]
    OutOfState {
        /// The frame.
        frame: FrameType,
        /// What we may send.
        expected: &'static str,
    },
    /// A DATA frame of no bytes, or of more than may be sent now.
    #[error("cannot send {length} bytes of DATA now: expected at least 1 and at most {most}")]
    Length {
        /// What was to be sent.
        length: usize,
        /// What [`Tunnel::sendable`] says.
        most: usize,
    },
    /// The payload of a DATA frame is not written yet, so no other frame can begin.
    #[error("cannot send {0} within a DATA frame: write its payload and call data_written first")]
    WithinData(FrameType),
}

/// What the end of a connection means for the stream on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// No stream was open, or one that was refused: nothing is lost.
    Between,
    /// Our stream had no answer and will get none, so no byte of it reached an app: it may be tried again,
    /// on another connection. This is how a pooled connection ends that the acceptor just retired.
    Unanswered,
    /// A stream was cut: to the app, a reset.
    Cut,
}

impl Tunnel {
    /// The end that dialed the connection and opens the streams.
    #[must_use]
    pub const fn initiator() -> Self {
        Self::new(Role::Initiator)
    }

    /// The end that accepted the connection and answers.
    #[must_use]
    pub const fn acceptor() -> Self {
        Self::new(Role::Acceptor)
    }

    const fn new(role: Role) -> Self {
        Self { role, state: State::Idle, decoder: Decoder::new(), owing: false }
    }

    /// The next event, from bytes off the front of `input`; none when all of it is used up and more is
    /// needed. Once the connection is over, everything is swallowed without an event.
    ///
    /// # Errors
    /// When the other end breaks the protocol. Nothing more is read from it then.
    pub fn receive<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, Violation> {
        let event = self.next_event(input);
        if event.is_err() {
            self.decoder.lose();
        }
        if self.state == State::Closed {
            self.close();
            *input = &[];
        }
        debug_assert_eq!(self.check_invariants(), Ok(()));
        event
    }

    /// Opens a stream, as initiator of an idle connection: an OPEN frame, to which DATA may follow at once.
    ///
    /// # Errors
    /// When this is not such an end.
    pub fn open(&mut self, preamble: &Preamble) -> Result<Vec<u8>, SendError> {
        self.send(Step::Open { understood: true })?;
        Ok(control(FrameType::Open, &preamble.encode()))
    }

    /// Takes the stream: an ACCEPT frame. From here on its bytes may go to the app.
    ///
    /// # Errors
    /// When no stream waits for an answer, or it was [`Event::Unsupported`].
    pub fn accept(&mut self) -> Result<[u8; HEADER_BYTES], SendError> {
        self.send(Step::Accept)?;
        Ok(Header { frame: FrameType::Accept, length: 0 }.encode())
    }

    /// Does not take the stream: a REFUSE frame. What still comes of it is discarded; the connection is
    /// idle when [`Event::Ended`] has come, or at once if it has already.
    ///
    /// # Errors
    /// When no stream waits for an answer.
    pub fn refuse(&mut self, refusal: &Refusal) -> Result<Vec<u8>, SendError> {
        self.send(Step::Refuse)?;
        Ok(control(FrameType::Refuse, &refusal.encode()))
    }

    /// How many bytes the next DATA frame may carry. Zero if there can be none now: no stream, an ended or
    /// refused one, or one that needs an answer first.
    #[must_use]
    pub fn sendable(&self) -> usize {
        if self.must_end() {
            return 0;
        }
        self.state.room_of(self.role).min(MAX_DATA_BYTES)
    }

    /// The header of a DATA frame. Write it and then `length` bytes of payload, and call
    /// [`Tunnel::data_written`] when all of that is written.
    ///
    /// # Errors
    /// When `length` is zero or more than [`Tunnel::sendable`].
    pub fn data(&mut self, length: usize) -> Result<[u8; HEADER_BYTES], SendError> {
        let next = self.after_sending(Step::Data { length })?;
        let header = Header::new(FrameType::Data, length)
            .map_err(|_| SendError::Length { length, most: self.sendable() })?;
        self.state = next;
        self.owing = true;
        Ok(header.encode())
    }

    /// The payload of the last DATA frame is written, whole.
    pub const fn data_written(&mut self) {
        self.owing = false;
    }

    /// Ends our direction of the stream: an END frame.
    ///
    /// # Errors
    /// When our direction is not open.
    pub fn end(&mut self) -> Result<[u8; HEADER_BYTES], SendError> {
        self.send(Step::End)?;
        Ok(Header { frame: FrameType::End, length: 0 }.encode())
    }

    /// Gives up the stream, and the connection with it: a RESET frame to write, if there can be one, before
    /// the connection is closed. There can be none within a DATA frame, where it would be read as payload,
    /// nor when the connection is over.
    pub fn reset(&mut self, code: ResetCode) -> Option<[u8; HEADER_BYTES + 1]> {
        let possible = !self.owing && self.state != State::Closed;
        self.close();
        let [kind, high, middle, low] = Header { frame: FrameType::Reset, length: 1 }.encode();
        possible.then_some([kind, high, middle, low, code.into()])
    }

    /// The connection ended below us; `close_notify` tells whether TLS said so (RFC 8446, section 6.1)
    /// rather than that it broke.
    pub fn closed_by_peer(&mut self, close_notify: bool) -> Ending {
        let asking = self.role == Role::Initiator && self.state.is_unanswered();
        let ending = match self.state {
            State::Idle if !self.decoder.mid_frame() => Ending::Between,
            State::Closed => Ending::Between,
            refused if refused.is_refused() => Ending::Between,
            _ if asking && close_notify && !self.decoder.mid_frame() => Ending::Unanswered,
            _ => Ending::Cut,
        };
        self.close();
        ending
    }

    /// Whether the connection is between streams: it may carry another one.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.state == State::Idle && !self.decoder.mid_frame()
    }

    /// Whether a frame has begun to come in and is not complete: its rest has a deadline.
    #[must_use]
    pub const fn is_mid_frame(&self) -> bool {
        self.decoder.mid_frame()
    }

    /// What the next bytes of the other end are. Whoever gives [`Tunnel::receive`] no more than these gets one event,
    /// and keeps what follows for later.
    #[must_use]
    pub const fn wants(&self) -> Wants {
        self.decoder.wants()
    }

    /// How many bytes are held until their frame is complete: at most [`super::MAX_OPEN_BYTES`].
    #[must_use]
    pub const fn held(&self) -> usize {
        self.decoder.held()
    }

    /// Whether everything in here fits together. Checked after every change in debug builds.
    ///
    /// # Errors
    /// What does not.
    pub fn check_invariants(&self) -> Result<(), &'static str> {
        self.state.check_invariants()?;
        self.decoder.check_invariants()?;
        if self.owing && !self.state.is_open_for(self.role) {
            return Err("a payload is owed on a direction that is not open");
        }
        Ok(())
    }

    fn next_event<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, Violation> {
        while self.state != State::Closed {
            let Some(part) = self.decoder.decode(input)? else { return Ok(None) };
            match part {
                Part::Header(Header { frame, length }) => {
                    let next = self.judge(Step::announced(frame, length))?;
                    // Other frames count when they are complete.
                    if frame == FrameType::Data {
                        self.state = next;
                    }
                }
                Part::Chunk(chunk) if !self.is_discarding() => return Ok(Some(Event::Data(chunk))),
                Part::Chunk(_) => {}
                Part::Control(frame, payload) => return self.control(frame, &payload).map(Some),
            }
        }
        Ok(None)
    }

    /// A complete frame that is not DATA.
    fn control(&mut self, frame: FrameType, payload: &[u8]) -> Result<Event<'static>, Violation> {
        let mut step = Step::announced(frame, payload.len());
        let event = match frame {
            FrameType::Open => match Preamble::parse(payload)? {
                Reading::Understood(preamble) => Event::Opened(preamble),
                Reading::Unsupported(field) => {
                    step = Step::Open { understood: false };
                    Event::Unsupported(field)
                }
            },
            FrameType::Accept => Event::Accepted,
            FrameType::Refuse => Event::Refused(Refusal::parse(payload)?),
            FrameType::End | FrameType::Data => Event::Ended,
            FrameType::Reset => Event::Reset {
                code: payload.first().copied().unwrap_or_default().into(),
                unanswered: self.role == Role::Initiator && self.state.is_unanswered(),
            },
        };
        self.state = self.judge(step)?;
        Ok(event)
    }

    /// The state after the other end has sent this.
    fn judge(&self, step: Step) -> Result<State, Violation> {
        self.state.after(self.role.other(), step).map_err(|illegal| match illegal {
            Illegal::OutOfState(expected) => Violation::OutOfState { frame: step.frame(), expected },
            Illegal::TooEarly { length, room } => Violation::TooEarly { length, room },
        })
    }

    /// The state after we have sent this.
    fn after_sending(&self, step: Step) -> Result<State, SendError> {
        let frame = step.frame();
        if self.owing {
            return Err(SendError::WithinData(frame));
        }
        if frame == FrameType::Data && self.must_end() {
            return Err(SendError::OutOfState { frame, expected: "END or RESET, as the stream is refused" });
        }
        if frame == FrameType::Open && self.state == State::Idle && self.decoder.mid_frame() {
            return Err(SendError::OutOfState {
                frame,
                expected: "nothing but RESET, as the peer has begun a frame",
            });
        }
        self.state.after(self.role, step).map_err(|illegal| match illegal {
            Illegal::OutOfState(expected) => SendError::OutOfState { frame, expected },
            Illegal::TooEarly { length, room } => SendError::Length { length, most: room },
        })
    }

    fn send(&mut self, step: Step) -> Result<(), SendError> {
        self.state = self.after_sending(step)?;
        debug_assert_eq!(self.check_invariants(), Ok(()));
        Ok(())
    }

    fn close(&mut self) {
        self.state = State::Closed;
        self.decoder.lose();
        self.owing = false;
    }

    /// As initiator we know of the refusal: DATA would go nowhere.
    fn must_end(&self) -> bool {
        self.role == Role::Initiator && self.state.is_refused()
    }

    /// As acceptor we have refused: what is on its way has no receiver.
    fn is_discarding(&self) -> bool {
        self.role == Role::Acceptor && self.state.is_refused()
    }
}

/// A frame with a payload, which the caller has kept within the bounds of its type.
fn control(frame: FrameType, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&Header { frame, length: payload.len() }.encode());
    bytes.extend_from_slice(payload);
    bytes
}

#[cfg(test)]
mod tests;
